/* kernels/elementwise.h: kernels that treat every element, or every row, alone. n is a count of float32 values; y may be x. */
#ifndef HD_KERNELS_ELEMENTWISE_H
#define HD_KERNELS_ELEMENTWISE_H

#include "heddle.h"

void k_add_f32(float *y, const float *a, const float *b, size_t n);
void k_multiply_f32(float *y, const float *a, const float *b, size_t n);
void k_axpy_f32(float *y, float alpha, const float *x, size_t n);            /* y += alpha · x */
void k_multiply_add_f32(float *y, const float *a, const float *b, size_t n); /* y += a · b */
void k_add_rows_f32(float *y, const float *row, size_t n_rows, size_t n);    /* every row of y += row */
void k_sum_rows_f32(float *sum, const float *x, size_t n_rows, size_t n);    /* sum[n] += Σ_rows x */

/* Activations, one row each in the table of activation.c: value and derivative at the pre-activation x. */
typedef struct hd_activation {
  const char *name;
  void (*forward)(float *y, const float *x, size_t n);
  void (*backward)(float *d_x, const float *d_y, const float *x, size_t n); /* d_x += d_y · f'(x) */
  const char *torch;      /* PyTorch's module; NULL: it has none */
  /* Of those with parameters: PyTorch's names for them, the values that `forward` has, and the functions that take others. */
  const char *keys[2];
  float defaults[2];
  void (*forward_with)(float *y, const float *x, size_t n, const float *parameters);
  void (*backward_with)(float *d_x, const float *d_y, const float *x, size_t n, const float *parameters);
} hd_activation;

/* By our name or PyTorch's. Loom's own are loom_relu (max(0, 1.1·x)), loom_leaky_relu (slope 0.1), loom_softplus (ln(1 + e^x) without
 * guard). leaky_relu has PyTorch's slope 0.01; softplus is stable. NULL: unknown name. */
const hd_activation *hd_activation_find(const char *name);
const hd_activation *hd_activation_at(size_t index); /* NULL past the last */

/* y = softmax(x · scale) over one row, with the maximum taken off first. */
void k_softmax_f32(float *y, const float *x, size_t n, float scale);
/* d_x += the gradient through that row, given y. */
void k_softmax_grad_f32(float *d_x, const float *d_y, const float *y, size_t n, float scale);

/* y = x / √(mean(x²) + epsilon) · gamma, row by row; gamma NULL: 1. */
void k_rms_norm_f32(float *y, const float *x, const float *gamma, size_t n_rows, size_t n, float epsilon);
/* d_x += …; d_gamma += … (NULL: not wanted). */
void k_rms_norm_grad_f32(float *d_x, float *d_gamma, const float *d_y, const float *x, const float *gamma, size_t n_rows,
                         size_t n, float epsilon);

/* Scalars with the vector kernels' own polynomials. */
float k_exp(float x);

#endif
