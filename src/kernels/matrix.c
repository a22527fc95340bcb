/* kernels/matrix.c: the table of layouts, the row-major ones, and the gradient with respect to weights.
 *
 * One to three inputs are dot products, eight rows at a time: the weights come from memory once and nothing is stored. More
 * inputs go through panels.c, which pays for turning the rows into columns with many uses of each. */
#include "kernels/matrix.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/pool.h"
#include "kernels/panels.h"
#include "kernels/simd.h"

#define INLINE static inline __attribute__((always_inline))

enum { DOT_ROWS = 8 };   /* as many independent sums as hide the latency of one */
enum { DOT_INPUTS = 3 }; /* up to which dots are used */

static bool rows_bytes(hd_dtype dtype, size_t rows, size_t cols, size_t *bytes) {
  size_t n;
  return hd_mul_size(rows, cols, &n) && hd_dtype_bytes(dtype, n, bytes);
}

static char *row_at(const hd_matrix *w, size_t row) {
  return (char *)w->data + row * w->cols * hd_dtype_get(w->layout->dtype)->block_bytes;
}

static void rows_pack(const hd_matrix *w, size_t first, size_t n, const void *from) {
  memcpy(row_at(w, first), from, (size_t)(row_at(w, first + n) - row_at(w, first)));
}

static void rows_unpack(const hd_matrix *w, size_t first, size_t n, void *to) {
  memcpy(to, row_at(w, first), (size_t)(row_at(w, first + n) - row_at(w, first)));
}

static void rows_from_f32(const hd_matrix *w, size_t first, size_t n, const float *from) {
  hd_dtype_get(w->layout->dtype)->from_f32(from, row_at(w, first), n * w->cols);
}

static void rows_row(const hd_matrix *w, size_t index, float *to) {
  hd_dtype_get(w->layout->dtype)->to_f32(row_at(w, index), to, w->cols);
}

static size_t rows_scratch_bytes(const hd_matrix *w, size_t n_x) {
  (void)w;
  (void)n_x;
  return 0;
}

/* ---- Element types: what the generic texts below are compiled for ---- */

typedef struct element {
  size_t bytes;
  v_f32 (*load)(const void *from);               /* four of them; inlined */
} element;

INLINE v_f32 load_f32(const void *from) { return v_load(from); }
INLINE v_f32 load_f16(const void *from) { return v_load_f16(from); }
INLINE v_f32 load_f16_finite(const void *from) { return v_load_f16_finite(from); }
INLINE v_f32 load_bf16(const void *from) { return v_load_bf16(from); }

/* The first n (1 to 3) of four; the others are 0, whose bits are zeros in every type. */
INLINE v_f32 load_part(element e, const char *from, size_t n) {
  _Alignas(16) char copy[V_LANES * sizeof(float)] = {0};
  memcpy(copy, from, n * e.bytes);
  return e.load(copy);
}

/* ---- Few inputs: dot products ---- */

typedef struct product {
  float *y;         /* [n_x, rows] */
  const float *x;   /* [n_x, cols] */
  size_t n_x;
  const hd_matrix *w;
} product;

/* y[0 … 8) = x[cols] · row[0 … 8)[cols] */
INLINE void dot_rows(element e, v_f32 y[2], const float *x, const char *const row[DOT_ROWS], size_t cols) {
  v_f32 sum[DOT_ROWS];
  for (size_t r = 0; r < DOT_ROWS; r++) sum[r] = v_zero();
  size_t c = 0;
  for (; c + 2 * V_LANES <= cols; c += 2 * V_LANES) {
    v_f32 values[2] = {v_load(x + c), v_load(x + c + V_LANES)};
    for (size_t r = 0; r < DOT_ROWS; r++) {
      const char *weights = row[r] + c * e.bytes;
      sum[r] = v_madd(e.load(weights + V_LANES * e.bytes), values[1], v_madd(e.load(weights), values[0], sum[r]));
    }
  }
  for (; c + V_LANES <= cols; c += V_LANES) {
    v_f32 value = v_load(x + c);
    for (size_t r = 0; r < DOT_ROWS; r++) sum[r] = v_madd(e.load(row[r] + c * e.bytes), value, sum[r]);
  }
  if (c < cols) {
    v_f32 value = v_load_part(x + c, cols - c);
    for (size_t r = 0; r < DOT_ROWS; r++) sum[r] = v_madd(load_part(e, row[r] + c * e.bytes, cols - c), value, sum[r]);
  }
  y[0] = v_sum4(sum[0], sum[1], sum[2], sum[3]);
  y[1] = v_sum4(sum[4], sum[5], sum[6], sum[7]);
}

/* The first n of eight values. */
static void store_rows(float *y, const v_f32 values[2], size_t n) {
  if (n >= V_LANES) v_store(y, values[0]);
  else v_store_part(y, values[0], n);
  if (n == DOT_ROWS) v_store(y + V_LANES, values[1]);
  else if (n > V_LANES) v_store_part(y + V_LANES, values[1], n - V_LANES);
}

INLINE void dot_range(element e, const product *p, size_t begin, size_t end) {
  size_t cols = p->w->cols;
  for (size_t first = begin; first < end; first += DOT_ROWS) {
    size_t n = end - first < DOT_ROWS ? end - first : DOT_ROWS;
    const char *row[DOT_ROWS];
    for (size_t r = 0; r < DOT_ROWS; r++) /* spare ones repeat the first */
      row[r] = (const char *)p->w->data + (first + (r < n ? r : 0)) * cols * e.bytes;
    for (size_t t = 0; t < p->n_x; t++) {
      v_f32 y[2];
      dot_rows(e, y, p->x + t * cols, row, cols);
      store_rows(p->y + t * p->w->rows + first, y, n);
    }
  }
}

/* ---- Many inputs: panels ---- */

/* Four rows become four columns, K_PANEL_COLUMNS apart. */
INLINE void store_turned(float *to, v_f32 a, v_f32 b, v_f32 c, v_f32 d) {
  v_f32 ac = v_zip_low(a, c), bd = v_zip_low(b, d), ac_high = v_zip_high(a, c), bd_high = v_zip_high(b, d);
  v_store(to, v_zip_low(ac, bd));
  v_store(to + K_PANEL_COLUMNS, v_zip_high(ac, bd));
  v_store(to + 2 * K_PANEL_COLUMNS, v_zip_low(ac_high, bd_high));
  v_store(to + 3 * K_PANEL_COLUMNS, v_zip_high(ac_high, bd_high));
}

/* A panel whose columns are rows of w, for y = x · wᵀ. */
INLINE void pack_turned(element e, float *panel, const hd_matrix *w, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const char *row[K_PANEL_COLUMNS];
  for (size_t c = 0; c < K_PANEL_COLUMNS; c++) /* spare ones repeat the first */
    row[c] = (const char *)w->data + ((first_c + (c < n_c ? c : 0)) * w->cols + first_k) * e.bytes;
  size_t k = 0;
  for (; k + V_LANES <= n_k; k += V_LANES)
    for (size_t c = 0; c < K_PANEL_COLUMNS; c += 4)
      store_turned(panel + k * K_PANEL_COLUMNS + c, e.load(row[c] + k * e.bytes), e.load(row[c + 1] + k * e.bytes),
                   e.load(row[c + 2] + k * e.bytes), e.load(row[c + 3] + k * e.bytes));
  for (size_t c = 0; k < n_k && c < K_PANEL_COLUMNS; c++) {
    float tail[V_LANES];
    v_store(tail, load_part(e, row[c] + k * e.bytes, n_k - k));
    for (size_t i = 0; i < n_k - k; i++) panel[(k + i) * K_PANEL_COLUMNS + c] = tail[i];
  }
}

/* A panel whose columns are columns of w, for gradients. */
INLINE void pack_straight(element e, float *panel, const hd_matrix *w, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  for (size_t k = 0; k < n_k; k++, panel += K_PANEL_COLUMNS) {
    const char *row = (const char *)w->data + ((first_k + k) * w->cols + first_c) * e.bytes;
    _Alignas(16) char copy[K_PANEL_COLUMNS * sizeof(float)] = {0};
    if (n_c < K_PANEL_COLUMNS) row = memcpy(copy, row, n_c * e.bytes);
    v_store(panel, e.load(row));
    v_store(panel + V_LANES, e.load(row + V_LANES * e.bytes));
  }
}

typedef void (*pack_panel)(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c);

static void rows_matmul(float *y, const float *x, size_t n_x, const hd_matrix *w, hd_work dots, pack_panel pack) {
  if (n_x <= DOT_INPUTS) {
    product p = {y, x, n_x, w};
    hd_pool_run(dots, &p, w->rows, DOT_ROWS * (8192 / (DOT_ROWS * w->cols + 1) + 1));
    return;
  }
  memset(y, 0, n_x * w->rows * sizeof *y);
  k_panels p = {.out = y, .out_stride = w->rows, .n_i = n_x, .n_c = w->rows, .n_k = w->cols,
                .a = x, .a_i = w->cols, .a_k = 1, .pack = pack, .b = w};
  k_panels_add(&p);
}

static void rows_matmul_grad(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w, pack_panel pack) {
  k_panels p = {.out = d_x, .out_stride = w->cols, .n_i = n_x, .n_c = w->cols, .n_k = w->rows,
                .a = d_y, .a_i = w->rows, .a_k = 1, .pack = pack, .b = w};
  k_panels_add(&p);
}

/* ---- The layouts ---- */

#define ROWS_OF(type, DTYPE, element_bytes, title)                                                                       \
  static const element type = {element_bytes, load_##type};                                                             \
  static void dots_##type(void *context, size_t begin, size_t end, size_t thread) {                                      \
    (void)thread;                                                                                                        \
    dot_range(type, context, begin, end);                                                                                \
  }                                                                                                                      \
  static void turned_##type(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {       \
    pack_turned(type, panel, b, first_k, n_k, first_c, n_c);                                                             \
  }                                                                                                                      \
  static void straight_##type(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {     \
    pack_straight(type, panel, b, first_k, n_k, first_c, n_c);                                                           \
  }                                                                                                                      \
  static void matmul_##type(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) {                   \
    (void)scratch;                                                                                                       \
    rows_matmul(y, x, n_x, w, dots_##type, turned_##type);                                                               \
  }                                                                                                                      \
  static void matmul_grad_##type(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w) {                         \
    rows_matmul_grad(d_x, d_y, n_x, w, straight_##type);                                                                 \
  }                                                                                                                      \
  static bool bytes_##type(size_t rows, size_t cols, size_t *bytes) { return rows_bytes(DTYPE, rows, cols, bytes); }     \
  const hd_layout hd_layout_rows_##type = {                                                                              \
      .name = "rows." title, .dtype = DTYPE, .row_block = 1, .plain = true, .bytes = bytes_##type, .pack = rows_pack,    \
      .unpack = rows_unpack, .from_f32 = rows_from_f32, .row = rows_row, .matmul = matmul_##type,                        \
      .scratch_bytes = rows_scratch_bytes, .matmul_grad = matmul_grad_##type};

ROWS_OF(f32, HD_F32, 4, "f32")
ROWS_OF(f16, HD_F16, 2, "f16")
ROWS_OF(f16_finite, HD_F16, 2, "f16.finite")
ROWS_OF(bf16, HD_BF16, 2, "bf16")

static const hd_layout *const layouts[] = {&hd_layout_rows_f32, &hd_layout_rows_f16, &hd_layout_rows_bf16,
                                         &hd_layout_q8_0_x4, &hd_layout_q4_0_x4,   &hd_layout_int8_x4};

const hd_layout *hd_layout_for(hd_dtype dtype) {
  for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++)
    if (layouts[i]->dtype == dtype) return layouts[i];
  return NULL;
}

/* An F16's exponent of 31 is infinity's and NaN's. */
void hd_matrix_settle(hd_matrix *w) {
  if (w->layout != &hd_layout_rows_f16 && w->layout != &hd_layout_rows_f16_finite) return;
  const uint16_t *values = w->data;
  uint32_t special = 0;
  for (size_t i = 0; i < w->rows * w->cols; i++) special |= ((uint32_t)values[i] & 0x7c00u) + 0x400u;
  w->layout = special & 0x8000u ? &hd_layout_rows_f16 : &hd_layout_rows_f16_finite;
}

void k_matmul_weight_grad(float *d_w, const float *d_y, const float *x, size_t n_x, size_t rows, size_t cols) {
  const hd_matrix b = {&hd_layout_rows_f32, n_x, cols, (void *)(uintptr_t)x};
  k_panels p = {.out = d_w, .out_stride = cols, .n_i = rows, .n_c = cols, .n_k = n_x,
                .a = d_y, .a_i = 1, .a_k = rows, .pack = straight_f32, .b = &b};
  k_panels_add(&p);
}
