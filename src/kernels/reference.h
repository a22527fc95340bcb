/* kernels/reference.h: what a textbook says, in double, as an oracle for the kernels' tests. No shipped module links it. The
 * functions take the kernels' own arguments; those of the quantised products are declared in matrix.h, whose contract they are. */
#ifndef HD_KERNELS_REFERENCE_H
#define HD_KERNELS_REFERENCE_H

#include "kernels/attention.h"
#include "kernels/matrix.h"

/* y[n_x, rows] = x[n_x, cols] · w[rows, cols]ᵀ */
void k_reference_matmul(double *y, const float *x, const float *w, size_t n_x, size_t rows, size_t cols);
/* d_x[n_x, cols] += d_y[n_x, rows] · w[rows, cols] */
void k_reference_matmul_grad(double *d_x, const float *d_y, const float *w, size_t n_x, size_t rows, size_t cols);
/* d_w[rows, cols] += d_yᵀ · x */
void k_reference_matmul_weight_grad(double *d_w, const float *d_y, const float *x, size_t n_x, size_t rows, size_t cols);
void k_reference_rms_norm(double *y, const float *x, const float *gamma, size_t n_rows, size_t n, double epsilon);
void k_reference_softmax(double *y, const float *x, size_t n, double scale);
/* The activation called `name` at x; NaN for an unknown name. */
double k_reference_activation(const char *name, double x);
void k_reference_rope(double *y, const float *x, const float *cos, const float *sin, size_t n, size_t heads, size_t head_dim,
                      size_t turned, double sign);
/* probs may be NULL. */
void k_reference_attention(double *context, double *probs, const float *q, const float *keys, const float *values,
                           const hd_attention_shape *shape);

#endif
