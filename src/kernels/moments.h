/* kernels/moments.h: normalisation by mean and variance, for every norm that does it: layer, group, instance and batch norm differ in which
 * elements share a mean, and in which weight belongs to which element. */
#ifndef HD_KERNELS_MOMENTS_H
#define HD_KERNELS_MOMENTS_H

#include "heddle.h"

/* The elements with one mean and variance: group i is n_blocks runs of `block` floats, `stride` apart, the first at i · block. */
typedef struct k_groups {
  size_t n_groups, n_blocks, block, stride;
} k_groups;

/* Element e of a tensor has weight (e / repeat) mod count. */
typedef struct k_affine {
  size_t repeat, count;
} k_affine;

/* y = (x − mean) / √(variance + epsilon), with the biased variance of each group, or with given ones (NULL: its own). y may be x. */
void k_normalise_f32(float *y, const float *x, const float *means, const float *variances, const k_groups *g, float epsilon);
/* d_x += the gradient through that. x_hat: its result. */
void k_normalise_grad_f32(float *d_x, const float *d_y, const float *x_hat, const float *x, const float *variances,
                          const k_groups *g, float epsilon);

/* y = y · gamma + beta; NULL: 1, 0. */
void k_affine_f32(float *y, const float *gamma, const float *beta, const k_affine *a, size_t n);
/* d_gamma += Σ d_y · x, d_beta += Σ d_y; NULL: not wanted. */
void k_affine_grad_f32(float *d_gamma, float *d_beta, const float *d_y, const float *x, const k_affine *a, size_t n);

#endif
