/* kernels/reference.c: plain loops in double, and the exact definitions of the quantised products. For tests. */
#include "kernels/reference.h"

#include "base/dtype.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void k_reference_matmul(double *y, const float *x, const float *w, size_t n_x, size_t rows, size_t cols) {
  for (size_t t = 0; t < n_x; t++)
    for (size_t r = 0; r < rows; r++) {
      double sum = 0.0;
      for (size_t c = 0; c < cols; c++) sum += (double)x[t * cols + c] * (double)w[r * cols + c];
      y[t * rows + r] = sum;
    }
}

void k_reference_matmul_grad(double *d_x, const float *d_y, const float *w, size_t n_x, size_t rows, size_t cols) {
  for (size_t t = 0; t < n_x; t++)
    for (size_t r = 0; r < rows; r++)
      for (size_t c = 0; c < cols; c++) d_x[t * cols + c] += (double)d_y[t * rows + r] * (double)w[r * cols + c];
}

void k_reference_matmul_weight_grad(double *d_w, const float *d_y, const float *x, size_t n_x, size_t rows, size_t cols) {
  for (size_t t = 0; t < n_x; t++)
    for (size_t r = 0; r < rows; r++)
      for (size_t c = 0; c < cols; c++) d_w[r * cols + c] += (double)d_y[t * rows + r] * (double)x[t * cols + c];
}

void k_reference_rms_norm(double *y, const float *x, const float *gamma, size_t n_rows, size_t n, double epsilon) {
  for (size_t r = 0; r < n_rows; r++) {
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += (double)x[r * n + i] * (double)x[r * n + i];
    double inverse = 1.0 / sqrt(sum / (double)n + epsilon);
    for (size_t i = 0; i < n; i++) y[r * n + i] = (double)x[r * n + i] * inverse * (gamma ? (double)gamma[i] : 1.0);
  }
}

void k_reference_softmax(double *y, const float *x, size_t n, double scale) {
  double max = -INFINITY, sum = 0.0;
  for (size_t i = 0; i < n; i++) max = fmax(max, (double)x[i] * scale);
  for (size_t i = 0; i < n; i++) sum += y[i] = exp((double)x[i] * scale - max);
  for (size_t i = 0; i < n; i++) y[i] /= sum;
}

/* ---- Activations ---- */

static double sigmoid(double x) { return x < 0 ? exp(x) / (1 + exp(x)) : 1 / (1 + exp(-x)); }

static double softplus(double x) { return fmax(x, 0) + log1p(exp(-fabs(x))); }

/* x · e^x and its kin have the limit 0, which −∞ · 0 does not give. */
static double times(double x, double factor) { return factor == 0 ? 0 : x * factor; }

static double gelu_tanh(double x) {
  return times(x, sigmoid(2 * sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}

double k_reference_activation(const char *name, double x) {
  if (isnan(x)) return x;
  if (strcmp(name, "linear") == 0) return x;
  if (strcmp(name, "relu") == 0) return x > 0 ? x : 0;
  if (strcmp(name, "leaky_relu") == 0) return x > 0 ? x : 0.01 * x;
  if (strcmp(name, "sigmoid") == 0) return sigmoid(x);
  if (strcmp(name, "tanh") == 0 || strcmp(name, "soft_cap") == 0) return tanh(x);
  if (strcmp(name, "softplus") == 0) return softplus(x);
  if (strcmp(name, "silu") == 0) return times(x, sigmoid(x));
  if (strcmp(name, "gelu") == 0) return times(x, erfc(-x / sqrt(2.0)) / 2);
  if (strcmp(name, "gelu_tanh") == 0) return gelu_tanh(x);
  if (strcmp(name, "quick_gelu") == 0) return times(x, sigmoid((double)1.702f * x));
  if (strcmp(name, "relu6") == 0) return fmin(fmax(x, 0), 6);
  if (strcmp(name, "relu_squared") == 0) return x > 0 ? x * x : 0;
  if (strcmp(name, "hardsigmoid") == 0) return fmin(fmax(x + 3, 0), 6) / 6;
  if (strcmp(name, "hardswish") == 0) return times(x, fmin(fmax(x + 3, 0), 6) / 6);
  if (strcmp(name, "softsign") == 0) return x / (1 + fabs(x));
  if (strcmp(name, "logsigmoid") == 0) return -softplus(-x);
  if (strcmp(name, "elu") == 0) return x > 0 ? x : expm1(x);
  if (strcmp(name, "selu") == 0) return x > 0 ? 1.0507009873554805 * x : 1.0507009873554805 * 1.6732632423543772 * expm1(x);
  if (strcmp(name, "mish") == 0) return times(x, tanh(softplus(x)));
  if (strcmp(name, "loom_relu") == 0) return x > 0 ? 1.1 * x : 0;
  if (strcmp(name, "loom_leaky_relu") == 0) return x >= 0 ? x : 0.1 * x;
  if (strcmp(name, "loom_softplus") == 0) return log(1 + exp(x));
  return NAN;
}

/* ---- Attention ---- */

void k_reference_rope(double *y, const float *x, const float *cos, const float *sin, size_t n, size_t heads, size_t head_dim,
                      size_t turned, double sign) {
  size_t half = turned / 2;
  for (size_t i = 0; i < n * heads; i++) {
    for (size_t d = turned; d < head_dim; d++) y[i * head_dim + d] = (double)x[i * head_dim + d];
    for (size_t d = 0; d < half; d++) {
      const float *row = x + i * head_dim, *c = cos + i / heads * turned, *s = sin + i / heads * turned;
      double low = (double)row[d], high = (double)row[d + half];
      y[i * head_dim + d] = low * (double)c[d] - sign * high * (double)s[d];
      y[i * head_dim + d + half] = high * (double)c[d + half] + sign * low * (double)s[d + half];
    }
  }
}

/* One query's scores over the positions from `first` to `seen`, then the mean of the values. */
static void attend(double *context, double *scores, const float *q, const float *keys, const float *values, size_t first, size_t seen,
                   const hd_attention_shape *shape) {
  double max = -INFINITY, sum = 0.0;
  for (size_t j = 0; j < first; j++) scores[j] = 0.0;
  for (size_t j = first; j < seen; j++) {
    scores[j] = 0.0;
    for (size_t d = 0; d < shape->head_dim; d++) scores[j] += (double)q[d] * (double)keys[j * shape->head_dim + d];
    scores[j] *= (double)shape->scale;
    if (shape->cap > 0) scores[j] = (double)shape->cap * tanh(scores[j] / (double)shape->cap);
    max = fmax(max, scores[j]);
  }
  for (size_t j = first; j < seen; j++) sum += scores[j] = exp(scores[j] - max);
  for (size_t j = first; j < seen; j++) scores[j] /= sum;
  for (size_t d = 0; d < shape->head_dim; d++) {
    context[d] = 0.0;
    for (size_t j = first; j < seen; j++) context[d] += scores[j] * (double)values[j * shape->head_dim + d];
  }
}

void k_reference_attention(double *context, double *probs, const float *q, const float *keys, const float *values,
                           const hd_attention_shape *shape) {
  size_t n = shape->n, total = shape->past + n, head_dim = shape->head_dim;
  double *scores = calloc(total + 1, sizeof *scores);
  for (size_t h = 0; h < shape->heads; h++)
    for (size_t i = 0; i < n; i++) {
      size_t cache = h / (shape->heads / shape->kv_heads) * shape->capacity * head_dim, at = (i * shape->heads + h) * head_dim;
      size_t seen = shape->causal ? shape->past + i + 1 : total;
      size_t first = shape->window && seen > shape->window ? seen - shape->window : 0;
      attend(context + at, scores, q + at, keys + cache, values + cache, first, seen, shape);
      for (size_t j = 0; probs && j < total; j++) probs[(h * n + i) * total + j] = j < seen ? scores[j] : 0.0;
    }
  free(scores);
}

/* ---- Quantised products ---- */

enum { BLOCK = 32 };

/* a = round(x / d), nearest even, d = max|x| / 127. Values that are not finite make d so, and all a are 0 then: the product
 * becomes NaN. (A d that is itself rounded far, being subnormal, may give more than 127: held there.) */
static float quantise(int8_t *a, const float *x) {
  uint32_t max_bits = 0;
  for (size_t i = 0; i < BLOCK; i++) {
    uint32_t bits;
    memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffffu;
    max_bits = bits > max_bits ? bits : max_bits;
  }
  float max;
  memcpy(&max, &max_bits, sizeof max);
  float d = max / 127.0f;
  bool usable = d > 0.0f && d < INFINITY;
  for (size_t i = 0; i < BLOCK; i++) a[i] = (int8_t)(usable ? fmaxf(-127.0f, fminf(127.0f, rintf(x[i] / d))) : 0.0f);
  return d;
}

/* One row's dot with a block of quantised activations. `codes` are the row's 32, as int8. */
static float dot_block(const int8_t *a, float d_a, const int8_t *codes) {
  int32_t sum = 0;
  for (size_t i = 0; i < BLOCK; i++) sum += a[i] * codes[i];
  return (float)sum * d_a;
}

/* A block's codes and scale, from the file's bytes. */
typedef float (*open_block)(int8_t *codes, const unsigned char *block);

static float open_q8_0(int8_t *codes, const unsigned char *block) {
  memcpy(codes, block + 2, BLOCK);
  return hd_f16_to_f32((uint16_t)(block[0] | block[1] << 8));
}

static float open_q4_0(int8_t *codes, const unsigned char *block) {
  for (size_t i = 0; i < BLOCK / 2; i++) {
    codes[i] = (int8_t)((block[2 + i] & 15) - 8);
    codes[i + BLOCK / 2] = (int8_t)((block[2 + i] >> 4) - 8);
  }
  return hd_f16_to_f32((uint16_t)(block[0] | block[1] << 8));
}

static void matmul_blocks(float *y, const float *x, size_t n_x, const hd_matrix *w, size_t block_bytes, open_block open) {
  size_t n_blocks = w->cols / BLOCK;
  unsigned char *blocks = malloc(w->rows * n_blocks * block_bytes + 1);
  w->layout->unpack(w, 0, w->rows, blocks);
  for (size_t t = 0; t < n_x; t++) {
    for (size_t r = 0; r < w->rows; r++) y[t * w->rows + r] = 0.0f;
    for (size_t b = 0; b < n_blocks; b++) {
      int8_t a[BLOCK], codes[BLOCK];
      float d = quantise(a, x + t * w->cols + b * BLOCK);
      for (size_t r = 0; r < w->rows; r++) {
        float scale = open(codes, blocks + (r * n_blocks + b) * block_bytes);
        y[t * w->rows + r] += dot_block(a, d, codes) * scale;
      }
    }
  }
  free(blocks);
}

void k_reference_matmul_q8_0(float *y, const float *x, size_t n_x, const hd_matrix *w) { matmul_blocks(y, x, n_x, w, 34, open_q8_0); }

void k_reference_matmul_q4_0(float *y, const float *x, size_t n_x, const hd_matrix *w) { matmul_blocks(y, x, n_x, w, 18, open_q4_0); }

/* One output: the row's bytes are its scale and its codes. */
static float dot_int8_row(const float *x, const unsigned char *row, size_t cols) {
  float y = 0.0f, scale;
  memcpy(&scale, row, sizeof scale);
  for (size_t first = 0; first < cols; first += BLOCK) {
    size_t n = cols - first < BLOCK ? cols - first : BLOCK;
    float padded[BLOCK] = {0};
    int8_t a[BLOCK], codes[BLOCK] = {0};
    memcpy(padded, x + first, n * sizeof *padded);
    memcpy(codes, row + sizeof scale + first, n);
    float d = quantise(a, padded);
    y += dot_block(a, d, codes);
  }
  return y * scale;
}

void k_reference_matmul_int8(float *y, const float *x, size_t n_x, const hd_matrix *w) {
  size_t row_bytes = sizeof(float) + w->cols;
  unsigned char *rows = malloc(w->rows * row_bytes + 1);
  w->layout->unpack(w, 0, w->rows, rows);
  for (size_t t = 0; t < n_x; t++)
    for (size_t r = 0; r < w->rows; r++) y[t * w->rows + r] = dot_int8_row(x + t * w->cols, rows + r * row_bytes, w->cols);
  free(rows);
}
