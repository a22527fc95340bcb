/* kernels/conv.c: see conv.h. For one sample and group, with taps k = (channel, ky, kx) and places n = (oy, ox), the patches are a matrix
 * p[k, n] and all three functions are products with it: y = w · p, d_w = d_y · pᵀ, d_p = wᵀ · d_y. */
#include "kernels/conv.h"

#include "base/memory.h"
#include "kernels/panels.h"

#include <string.h>

enum { COLUMNS = K_PANEL_COLUMNS };

/* One sample's channels of one group. */
typedef struct patches {
  const k_conv *c;
  const float *x;
} patches;

typedef struct tap {
  size_t channel, ky, kx;
} tap;

typedef struct place {
  size_t y, x;
} place;

static size_t n_taps(const k_conv *c) { return c->in_channels / c->groups * c->kernel[0] * c->kernel[1]; }
static size_t n_places(const k_conv *c) { return c->out[0] * c->out[1]; }

static tap tap_at(const k_conv *c, size_t k) {
  size_t row = k / c->kernel[1];
  return (tap){row / c->kernel[0], row % c->kernel[0], k % c->kernel[1]};
}

static tap next_tap(const k_conv *c, tap t) {
  if (++t.kx < c->kernel[1]) return t;
  t.kx = 0;
  if (++t.ky < c->kernel[0]) return t;
  t.ky = 0;
  t.channel++;
  return t;
}

static place place_at(const k_conv *c, size_t n) { return (place){n / c->out[1], n % c->out[1]}; }

/* Where in an axis of n a place outside it is taken from; −1: it is zero. */
static ptrdiff_t from_inside(k_padding mode, ptrdiff_t at, ptrdiff_t n) {
  switch (mode) {
    case K_PAD_REFLECT: return at < 0 ? -at : 2 * (n - 1) - at;
    case K_PAD_REPLICATE: return at < 0 ? 0 : n - 1;
    case K_PAD_CIRCULAR: return at < 0 ? at + n : at - n;
    case K_PAD_ZEROS: break;
  }
  return -1;
}

static inline ptrdiff_t source(const k_conv *c, int axis, size_t out, size_t k) {
  ptrdiff_t at = (ptrdiff_t)(out * c->stride[axis] + k * c->dilation[axis]) - (ptrdiff_t)c->padding[axis];
  return at >= 0 && at < (ptrdiff_t)c->in[axis] ? at : from_inside(c->mode, at, (ptrdiff_t)c->in[axis]);
}

/* The element of the group's channels that tap t reads at place p; −1: none. */
static inline ptrdiff_t element(const k_conv *c, tap t, place p) {
  ptrdiff_t y = source(c, 0, p.y, t.ky), x = source(c, 1, p.x, t.kx);
  return y < 0 || x < 0 ? -1 : ((ptrdiff_t)(t.channel * c->in[0]) + y) * (ptrdiff_t)c->in[1] + x;
}

static inline float value(const patches *p, tap t, place at) {
  ptrdiff_t i = element(p->c, t, at);
  return i < 0 ? 0.0f : p->x[i];
}

/* b(k, c): taps down, places across. */
static void pack_patches(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const patches *p = b;
  place at[COLUMNS];
  for (size_t j = 0; j < COLUMNS; j++) at[j] = place_at(p->c, first_c + (j < n_c ? j : 0));
  tap t = tap_at(p->c, first_k);
  for (size_t k = 0; k < n_k; k++, t = next_tap(p->c, t))
    for (size_t j = 0; j < COLUMNS; j++) panel[k * COLUMNS + j] = value(p, t, at[j]);
}

/* b(k, c): places down, taps across. */
static void pack_patches_turned(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const patches *p = b;
  tap t[COLUMNS];
  for (size_t j = 0; j < COLUMNS; j++) t[j] = tap_at(p->c, first_c + (j < n_c ? j : 0));
  for (size_t k = 0; k < n_k; k++) {
    place at = place_at(p->c, first_k + k);
    for (size_t j = 0; j < COLUMNS; j++) panel[k * COLUMNS + j] = value(p, t[j], at);
  }
}

typedef struct rows {
  const float *data;
  size_t stride;
} rows;

static void pack_rows(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const rows *r = b;
  for (size_t k = 0; k < n_k; k++) {
    const float *row = r->data + (first_k + k) * r->stride + first_c;
    for (size_t j = 0; j < COLUMNS; j++) panel[k * COLUMNS + j] = j < n_c ? row[j] : 0.0f;
  }
}

/* What one sample's group occupies, in floats. */
typedef struct strides {
  size_t x, y, w;
} strides;

static strides strides_of(const k_conv *c) {
  size_t filters = c->out_channels / c->groups;
  return (strides){c->in_channels / c->groups * c->in[0] * c->in[1], filters * n_places(c), filters * n_taps(c)};
}

void k_conv_f32(float *y, const float *x, const float *w, const k_conv *c) {
  const strides s = strides_of(c);
  for (size_t i = 0; i < c->batch * c->groups; i++) {
    const patches p = {c, x + i * s.x};
    const k_panels product = {.out = y + i * s.y, .out_stride = n_places(c), .n_i = c->out_channels / c->groups, .n_c = n_places(c),
                              .n_k = n_taps(c), .a = w + i % c->groups * s.w, .a_i = n_taps(c), .a_k = 1, .pack = pack_patches, .b = &p};
    k_panels_add(&product);
  }
}

void k_conv_weight_grad_f32(float *d_w, const float *d_y, const float *x, const k_conv *c) {
  const strides s = strides_of(c);
  for (size_t i = 0; i < c->batch * c->groups; i++) {
    const patches p = {c, x + i * s.x};
    const k_panels product = {.out = d_w + i % c->groups * s.w, .out_stride = n_taps(c), .n_i = c->out_channels / c->groups,
                              .n_c = n_taps(c), .n_k = n_places(c),
                              .a = d_y + i * s.y, .a_i = n_places(c), .a_k = 1, .pack = pack_patches_turned, .b = &p};
    k_panels_add(&product);
  }
}

bool k_conv_scratch_bytes(const k_conv *c, size_t *bytes) {
  size_t channels, taps, n, places;
  return hd_mul_size(c->in_channels / c->groups, c->kernel[0], &channels) && hd_mul_size(channels, c->kernel[1], &taps)
         && hd_mul_size(c->out[0], c->out[1], &places) && hd_mul_size(taps, places, &n) && hd_mul_size(n, sizeof(float), bytes);
}

/* Every patch's gradient goes back to where the patch was read. */
static void scatter(float *d_x, const float *d_patches, const k_conv *c) {
  tap t = tap_at(c, 0);
  for (size_t k = 0; k < n_taps(c); k++, t = next_tap(c, t)) {
    for (size_t y = 0; y < c->out[0]; y++) {
      for (size_t x = 0; x < c->out[1]; x++, d_patches++) {
        ptrdiff_t i = element(c, t, (place){y, x});
        if (i >= 0) d_x[i] += *d_patches;
      }
    }
  }
}

void k_conv_input_grad_f32(float *d_x, const float *d_y, const float *w, const k_conv *c, void *scratch) {
  const strides s = strides_of(c);
  for (size_t i = 0; i < c->batch * c->groups; i++) {
    const rows r = {d_y + i * s.y, n_places(c)};
    const k_panels product = {.out = scratch, .out_stride = n_places(c), .n_i = n_taps(c), .n_c = n_places(c),
                              .n_k = c->out_channels / c->groups, .a = w + i % c->groups * s.w, .a_i = 1, .a_k = n_taps(c),
                              .pack = pack_rows, .b = &r};
    memset(scratch, 0, n_taps(c) * n_places(c) * sizeof(float));
    k_panels_add(&product);
    scatter(d_x + i * s.x, scratch, c);
  }
}
