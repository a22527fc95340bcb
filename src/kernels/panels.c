/* kernels/panels.c: see panels.h. The tile is 6 rows by 8 columns: twelve sums, two vectors of b and one of a fill the sixteen
 * registers that WebAssembly engines have. */
#include "kernels/panels.h"

#include "base/pool.h"
#include "kernels/simd.h"

#define INLINE static inline __attribute__((always_inline))

enum { TILE_ROWS = 6, COLUMNS = K_PANEL_COLUMNS, DEPTH = K_PANEL_DEPTH };

/* out[n_i][COLUMNS] += a[n_i][n_k] · panel[n_k][COLUMNS]. One of a's strides is a constant 1 wherever this is inlined: then only the
 * other takes instructions. */
INLINE void tile(float *out, size_t out_stride, const float *a, size_t a_i, size_t a_k, size_t n_i, const float *panel, size_t n_k) {
  v_f32 sum[TILE_ROWS][2];
  for (size_t i = 0; i < n_i; i++) {
    sum[i][0] = v_load(out + i * out_stride);
    sum[i][1] = v_load(out + i * out_stride + V_LANES);
  }
  for (size_t k = 0; k < n_k; k++) {
    v_f32 b0 = v_load(panel + k * COLUMNS), b1 = v_load(panel + k * COLUMNS + V_LANES);
    for (size_t i = 0; i < n_i; i++) {
      v_f32 value = v_splat(a[i * a_i + k * a_k]);
      sum[i][0] = v_madd(value, b0, sum[i][0]);
      sum[i][1] = v_madd(value, b1, sum[i][1]);
    }
  }
  for (size_t i = 0; i < n_i; i++) {
    v_store(out + i * out_stride, sum[i][0]);
    v_store(out + i * out_stride + V_LANES, sum[i][1]);
  }
}

typedef void (*tile_function)(float *out, size_t out_stride, const float *a, size_t a_stride, const float *panel, size_t n_k);

#define TILES(n)                                                                                                               \
  static void along_##n(float *out, size_t out_stride, const float *a, size_t a_i, const float *panel, size_t n_k) {           \
    tile(out, out_stride, a, a_i, 1, n, panel, n_k);                                                                           \
  }                                                                                                                            \
  static void across_##n(float *out, size_t out_stride, const float *a, size_t a_k, const float *panel, size_t n_k) {          \
    tile(out, out_stride, a, 1, a_k, n, panel, n_k);                                                                           \
  }
TILES(6)
TILES(2)
TILES(1)

/* Six, two and one row, where a's rows lie along k, and where they lie across it. */
static const tile_function along[] = {along_6, along_2, along_1}, across[] = {across_6, across_2, across_1};

/* All rows over one panel whose columns are all there. */
static void rows_over_panel(float *out, const k_panels *p, const float *a, const float *panel, size_t n_k) {
  const tile_function *tiles = p->a_k == 1 ? along : across;
  size_t stride = p->a_k == 1 ? p->a_i : p->a_k, i = 0;
  for (; i + 6 <= p->n_i; i += 6) tiles[0](out + i * p->out_stride, p->out_stride, a + i * p->a_i, stride, panel, n_k);
  for (; i + 2 <= p->n_i; i += 2) tiles[1](out + i * p->out_stride, p->out_stride, a + i * p->a_i, stride, panel, n_k);
  if (i < p->n_i) tiles[2](out + i * p->out_stride, p->out_stride, a + i * p->a_i, stride, panel, n_k);
}

/* The last panel may be narrower than a tile: its rows go through a copy, one by one. */
static void rows_over_narrow_panel(float *out, const k_panels *p, const float *a, const float *panel, size_t n_k, size_t n_c) {
  for (size_t i = 0; i < p->n_i; i++) {
    float copy[COLUMNS] = {0};
    memcpy(copy, out + i * p->out_stride, n_c * sizeof *copy);
    if (p->a_k == 1) along_1(copy, COLUMNS, a + i * p->a_i, p->a_i, panel, n_k);
    else across_1(copy, COLUMNS, a + i * p->a_i, p->a_k, panel, n_k);
    memcpy(out + i * p->out_stride, copy, n_c * sizeof *copy);
  }
}

static void add_columns(void *context, size_t begin, size_t end, size_t thread) {
  (void)thread;
  const k_panels *p = context;
  _Alignas(64) float panel[DEPTH * COLUMNS];
  for (size_t c = begin; c < end; c += COLUMNS) {
    size_t n_c = end - c < COLUMNS ? end - c : COLUMNS;
    for (size_t k = 0; k < p->n_k; k += DEPTH) {
      size_t n_k = p->n_k - k < DEPTH ? p->n_k - k : DEPTH;
      p->pack(panel, p->b, k, n_k, c, n_c);
      if (n_c == COLUMNS) rows_over_panel(p->out + c, p, p->a + k * p->a_k, panel, n_k);
      else rows_over_narrow_panel(p->out + c, p, p->a + k * p->a_k, panel, n_k, n_c);
    }
  }
}

void k_panels_add(const k_panels *p) {
  if (p->n_i == 0 || p->n_k == 0) return;
  size_t panel_work = p->n_i * p->n_k * COLUMNS;
  hd_pool_run(add_columns, (void *)(uintptr_t)p, p->n_c, COLUMNS * (65536 / (panel_work + 1) + 1));
}
