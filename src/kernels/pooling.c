/* kernels/pooling.c: see pooling.h. */
#include "kernels/pooling.h"

#include <math.h>

/* The places inside the input that one output sees along an axis, and how many count for a mean. */
typedef struct window {
  size_t first, n, step, count;
} window;

static window adaptive_window(const k_pool *p, int axis, size_t out) {
  size_t in = p->in[axis], parts = p->out[axis];
  size_t first = (size_t)((uint64_t)out * in / parts), end = (size_t)(((uint64_t)(out + 1) * in + parts - 1) / parts);
  return (window){first, end - first, 1, end - first};
}

static window window_at(const k_pool *p, int axis, size_t out) {
  if (p->adaptive) return adaptive_window(p, axis, out);
  size_t step = p->dilation[axis], padding = p->padding[axis], begin = out * p->stride[axis]; /* counted from the padding's start */
  size_t skipped = begin < padding ? (padding - begin + step - 1) / step : 0, end = p->in[axis] + padding;
  window w = {begin + skipped * step - padding, 0, step, 0};
  for (size_t k = skipped; k < p->kernel[axis] && begin + k * step < end; k++) w.n++;
  size_t last = begin + p->kernel[axis];
  w.count = p->count_include_pad ? (last < end + padding ? last : end + padding) - begin : w.n;
  return w;
}

/* What is done for one output whose windows are known. `plane` points into the input. */
typedef struct place {
  const k_pool *p;
  window rows, columns;
} place;

static size_t largest(const place *at, const float *plane) {
  size_t best = at->rows.first * at->p->in[1] + at->columns.first;
  float most = -INFINITY;
  bool found = false;
  for (size_t r = 0; r < at->rows.n; r++) {
    for (size_t c = 0; c < at->columns.n; c++) {
      size_t i = (at->rows.first + r * at->rows.step) * at->p->in[1] + at->columns.first + c * at->columns.step;
      if (found && !(plane[i] > most) && !isnan(plane[i])) continue;
      best = i;
      most = plane[i];
      found = true;
    }
  }
  return best;
}

static float mean(const place *at, const float *plane) {
  float sum = 0;
  for (size_t r = 0; r < at->rows.n; r++)
    for (size_t c = 0; c < at->columns.n; c++) sum += plane[(at->rows.first + r) * at->p->in[1] + at->columns.first + c];
  return sum / (float)(at->rows.count * at->columns.count);
}

static void spread(const place *at, float *plane, float d_y) {
  float share = d_y / (float)(at->rows.count * at->columns.count);
  for (size_t r = 0; r < at->rows.n; r++)
    for (size_t c = 0; c < at->columns.n; c++) plane[(at->rows.first + r) * at->p->in[1] + at->columns.first + c] += share;
}

/* Runs `statement` for every output `o` with its windows in `at`, its plane's first element `plane` further. */
#define EACH_PLACE(p, statement)                                                                       \
  size_t o = 0;                                                                                        \
  for (size_t n = 0; n < (p)->planes; n++) {                                                           \
    size_t plane = n * (p)->in[0] * (p)->in[1];                                                        \
    for (size_t oy = 0; oy < (p)->out[0]; oy++) {                                                      \
      for (size_t ox = 0; ox < (p)->out[1]; ox++, o++) {                                               \
        const place at = {(p), window_at((p), 0, oy), window_at((p), 1, ox)};                          \
        statement;                                                                                     \
      }                                                                                                \
    }                                                                                                  \
  }

void k_max_pool_f32(float *y, const float *x, const k_pool *p) {
  EACH_PLACE(p, y[o] = at.rows.n && at.columns.n ? x[plane + largest(&at, x + plane)] : -INFINITY)
}

void k_max_pool_grad_f32(float *d_x, const float *d_y, const float *x, const k_pool *p) {
  EACH_PLACE(p, if (at.rows.n && at.columns.n) d_x[plane + largest(&at, x + plane)] += d_y[o])
}

void k_avg_pool_f32(float *y, const float *x, const k_pool *p) { EACH_PLACE(p, y[o] = mean(&at, x + plane)) }

void k_avg_pool_grad_f32(float *d_x, const float *d_y, const k_pool *p) { EACH_PLACE(p, spread(&at, d_x + plane, d_y[o])) }
