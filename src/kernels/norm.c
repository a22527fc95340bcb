/* kernels/norm.c: RMS norm and softmax, row by row. Sums over a row are taken in double, in four chains of a fixed order: rows of
 * thousands of values stay exact to a float32's last bits, and the bits are the same everywhere. */
#include "kernels/elementwise.h"

#include "kernels/vmath.h"

#include <math.h>

/* Σ a·b, in double. */
static double dot_double(const float *a, const float *b, size_t n) {
  double sums[4] = {0};
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (size_t j = 0; j < 4; j++) sums[j] += (double)a[i + j] * (double)b[i + j];
  for (; i < n; i++) sums[0] += (double)a[i] * (double)b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* Σ a·b·c, in double. */
static double dot3_double(const float *a, const float *b, const float *c, size_t n) {
  double sums[4] = {0};
  size_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (size_t j = 0; j < 4; j++) sums[j] += (double)a[i + j] * (double)b[i + j] * (double)c[i + j];
  for (; i < n; i++) sums[0] += (double)a[i] * (double)b[i] * (double)c[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

/* y = x · factor */
static void scale_row(float *y, const float *x, float factor, size_t n) {
  v_f32 factors = v_splat(factor);
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) v_store(y + i, v_mul(v_load(x + i), factors));
  for (; i < n; i++) y[i] = x[i] * factor;
}

/* ---- RMS norm ---- */

static double inverse_rms(const float *x, size_t n, float epsilon) {
  return 1.0 / sqrt(dot_double(x, x, n) / (double)n + (double)epsilon);
}

void k_rms_norm_f32(float *y, const float *x, const float *gamma, size_t n_rows, size_t n, float epsilon) {
  if (n == 0) return;
  for (size_t r = 0; r < n_rows; r++, x += n, y += n) {
    scale_row(y, x, (float)inverse_rms(x, n, epsilon), n);
    if (gamma) k_multiply_f32(y, y, gamma, n);
  }
}

/* d_x += inv · g − x · (Σ g·x) · inv³ / n, with g = d_y · gamma. */
static void rms_norm_grad_row(float *d_x, const float *d_y, const float *x, const float *gamma, size_t n, double inv) {
  double along = gamma ? dot3_double(d_y, gamma, x, n) : dot_double(d_y, x, n);
  float direct = (float)inv, back = (float)(-along * inv * inv * inv / (double)n);
  for (size_t i = 0; i < n; i++) d_x[i] += (gamma ? d_y[i] * gamma[i] : d_y[i]) * direct + x[i] * back;
}

void k_rms_norm_grad_f32(float *d_x, float *d_gamma, const float *d_y, const float *x, const float *gamma, size_t n_rows,
                         size_t n, float epsilon) {
  if (n == 0) return;
  for (size_t r = 0; r < n_rows; r++, d_x += n, d_y += n, x += n) {
    double inv = inverse_rms(x, n, epsilon);
    rms_norm_grad_row(d_x, d_y, x, gamma, n, inv);
    if (!d_gamma) continue;
    for (size_t i = 0; i < n; i++) d_gamma[i] += d_y[i] * (x[i] * (float)inv);
  }
}

/* ---- Softmax ---- */

/* The largest x · scale; NaN does not count. */
static float max_scaled(const float *x, size_t n, float scale) {
  v_f32 lanes = v_splat(-INFINITY), scales = v_splat(scale);
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) lanes = v_max(lanes, v_mul(v_load(x + i), scales));
  float max = v_max_lane(lanes);
  for (; i < n; i++) max = max < x[i] * scale ? x[i] * scale : max;
  return max;
}

/* y = e^(x·scale − max), and the sum of y. Lanes are summed in float32 over runs of 64, runs in double. */
static double exp_and_sum(float *y, const float *x, size_t n, float scale, float max) {
  v_f32 scales = v_splat(scale), maxima = v_splat(max);
  double total = 0.0;
  size_t i = 0;
  while (i + V_LANES <= n) {
    size_t run_end = n - i < 64 ? n : i + 64;
    v_f32 sum = v_zero();
    for (; i + V_LANES <= run_end; i += V_LANES) {
      v_f32 e = v_exp(v_sub(v_mul(v_load(x + i), scales), maxima));
      v_store(y + i, e);
      sum = v_add(sum, e);
    }
    total += (double)v_sum(sum);
  }
  for (; i < n; i++) total += (double)(y[i] = k_exp(x[i] * scale - max));
  return total;
}

void k_softmax_f32(float *y, const float *x, size_t n, float scale) {
  if (n == 0) return;
  double sum = exp_and_sum(y, x, n, scale, max_scaled(x, n, scale));
  scale_row(y, y, (float)(1.0 / sum), n);
}

void k_softmax_grad_f32(float *d_x, const float *d_y, const float *y, size_t n, float scale) {
  float mean = (float)dot_double(d_y, y, n);
  for (size_t i = 0; i < n; i++) d_x[i] += y[i] * (d_y[i] - mean) * scale;
}
