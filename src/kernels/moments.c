/* kernels/moments.c: see moments.h. Sums over a group are taken in double, in a fixed order. */
#include "kernels/moments.h"

#include "kernels/elementwise.h"

#include <math.h>

static double mean_of(const float *x, const k_groups *g) {
  double sum = 0;
  for (size_t b = 0; b < g->n_blocks; b++)
    for (size_t i = 0; i < g->block; i++) sum += (double)x[b * g->stride + i];
  return sum / (double)(g->n_blocks * g->block);
}

static double variance_of(const float *x, double mean, const k_groups *g) {
  double sum = 0;
  for (size_t b = 0; b < g->n_blocks; b++) {
    for (size_t i = 0; i < g->block; i++) {
      double d = (double)x[b * g->stride + i] - mean;
      sum += d * d;
    }
  }
  return sum / (double)(g->n_blocks * g->block);
}

void k_normalise_f32(float *y, const float *x, const float *means, const float *variances, const k_groups *g, float epsilon) {
  for (size_t i = 0; i < g->n_groups; i++) {
    const float *from = x + i * g->block;
    double mean = means ? (double)means[i] : mean_of(from, g);
    double variance = variances ? (double)variances[i] : variance_of(from, mean, g);
    double inverse = 1 / sqrt(variance + (double)epsilon);
    for (size_t b = 0; b < g->n_blocks; b++)
      for (size_t k = b * g->stride; k < b * g->stride + g->block; k++) y[i * g->block + k] = (float)(((double)from[k] - mean) * inverse);
  }
}

/* d_x += inv · (d_y − mean(d_y) − x̂ · mean(d_y · x̂)); with given moments inv · d_y. */
static void group_grad(float *d_x, const float *d_y, const float *x_hat, bool given, double inverse, const k_groups *g) {
  double mean = 0, along = 0, n = (double)(g->n_blocks * g->block);
  for (size_t b = 0; !given && b < g->n_blocks; b++) {
    for (size_t k = b * g->stride; k < b * g->stride + g->block; k++) {
      mean += (double)d_y[k] / n;
      along += (double)d_y[k] * (double)x_hat[k] / n;
    }
  }
  for (size_t b = 0; b < g->n_blocks; b++)
    for (size_t k = b * g->stride; k < b * g->stride + g->block; k++)
      d_x[k] += (float)(inverse * ((double)d_y[k] - mean - (double)x_hat[k] * along));
}

void k_normalise_grad_f32(float *d_x, const float *d_y, const float *x_hat, const float *x, const float *variances,
                          const k_groups *g, float epsilon) {
  for (size_t i = 0; i < g->n_groups; i++) {
    const float *from = x + i * g->block;
    double variance = variances ? (double)variances[i] : variance_of(from, mean_of(from, g), g);
    group_grad(d_x + i * g->block, d_y + i * g->block, x_hat + i * g->block, variances != NULL, 1 / sqrt(variance + (double)epsilon), g);
  }
}

void k_affine_f32(float *y, const float *gamma, const float *beta, const k_affine *a, size_t n) {
  if (a->repeat == 1) {
    for (size_t at = 0; at < n; at += a->count) {
      if (gamma) k_multiply_f32(y + at, y + at, gamma, a->count);
      if (beta) k_add_f32(y + at, y + at, beta, a->count);
    }
    return;
  }
  for (size_t run = 0; run * a->repeat < n; run++) {
    float scale = gamma ? gamma[run % a->count] : 1, shift = beta ? beta[run % a->count] : 0;
    for (size_t i = run * a->repeat; i < (run + 1) * a->repeat; i++) y[i] = y[i] * scale + shift;
  }
}

void k_affine_grad_f32(float *d_gamma, float *d_beta, const float *d_y, const float *x, const k_affine *a, size_t n) {
  for (size_t run = 0; run * a->repeat < n; run++) {
    double along = 0, sum = 0;
    for (size_t i = run * a->repeat; i < (run + 1) * a->repeat; i++) {
      along += (double)d_y[i] * (double)x[i];
      sum += (double)d_y[i];
    }
    if (d_gamma) d_gamma[run % a->count] += (float)along;
    if (d_beta) d_beta[run % a->count] += (float)sum;
  }
}
