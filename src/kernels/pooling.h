/* kernels/pooling.h: the largest value or the mean of windows over two axes; one axis is two with a first of size 1. Places outside the
 * input count as −∞ for the largest, and as 0 for the mean, where they may count among its elements. */
#ifndef HD_KERNELS_POOLING_H
#define HD_KERNELS_POOLING_H

#include "heddle.h"

typedef struct k_pool {
  size_t planes; /* batch · channels */
  size_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2];
  bool adaptive;          /* windows split the input into `out` parts, kernel and the rest are not read */
  bool count_include_pad; /* the mean's divisor counts padding */
} k_pool;

void k_max_pool_f32(float *y, const float *x, const k_pool *p);
/* d_x += …; the first of equal values takes the gradient. */
void k_max_pool_grad_f32(float *d_x, const float *d_y, const float *x, const k_pool *p);
void k_avg_pool_f32(float *y, const float *x, const k_pool *p);
void k_avg_pool_grad_f32(float *d_x, const float *d_y, const k_pool *p);

#endif
