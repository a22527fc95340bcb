/* kernels/matmul_int8.c: the layout int8.x4: int8 with one scale a row, symmetric, for the integer dot of quads.h. Row-major, a row
 * of INT8 is its float32 scale and its int8.
 *
 * Four rows' codes of the same 32 columns lie together with their sums (136 bytes), the last columns padded with zeros; the four scales
 * follow a quad's blocks. 1.0625 bytes a weight for wide rows, of any width. */
#include "kernels/quads.h"

enum { TAIL = ROWS * sizeof(float) };

_Static_assert(sizeof(signed_codes) == 136, "no padding");

INLINE void dot_int8(v_i32 *sums, const void *const *w, size_t n_q, const input_block *const *in, size_t n_t) {
  const signed_codes *codes[MOST_QUADS];
  for (size_t q = 0; q < n_q; q++) codes[q] = w[q];
  dot_signed(sums, codes, n_q, in, n_t);
}

QUAD_FORM(form_int8, dot_int8, NULL, sizeof(signed_codes), TAIL, false)

static bool bytes_int8(size_t rows, size_t cols, size_t *bytes) { return bytes_of(&form_int8, rows, cols, bytes); }

static signed_codes *block_at(const hd_matrix *w, size_t row, size_t block) {
  return (signed_codes *)(void *)quad_at(w, &form_int8, row) + block;
}

static float *scale_at(const hd_matrix *w, size_t row) { return (float *)(void *)block_at(w, row, blocks_of(w->cols)) + row % ROWS; }

/* ---- To and from rows ---- */

static void put_row(const hd_matrix *w, size_t row, const int8_t *codes, float scale) {
  for (size_t b = 0; b < blocks_of(w->cols); b++) {
    int8_t padded[BLOCK] = {0};
    size_t left = w->cols - b * BLOCK;
    if (codes) memcpy(padded, codes + b * BLOCK, left < BLOCK ? left : BLOCK);
    put_codes(block_at(w, row, b), row % ROWS, padded);
  }
  *scale_at(w, row) = scale;
}

static void pack_int8(const hd_matrix *w, size_t first, size_t n, const void *from) {
  const char *rows = from;
  size_t row_bytes = sizeof(float) + w->cols;
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++) {
    const char *at = rows + (row - first) * row_bytes;
    float scale = 0;
    if (row < first + n) memcpy(&scale, at, sizeof scale);
    put_row(w, row, row < first + n ? (const int8_t *)at + sizeof scale : NULL, scale);
  }
}

static void unpack_int8(const hd_matrix *w, size_t first, size_t n, void *to) {
  char *out = to;
  for (size_t row = first; row < first + n; row++) {
    memcpy(out, scale_at(w, row), sizeof(float));
    out += sizeof(float);
    for (size_t c = 0; c < w->cols; c++) *out++ = block_at(w, row, c / BLOCK)->at[c % BLOCK / COLUMNS][row % ROWS][c % COLUMNS];
  }
}

/* The scale of a row: its largest magnitude becomes 127. NaN counts for nothing. */
static float scale_of(const float *x, size_t n) {
  float most = 0;
  for (size_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
  return most / 127.0f;
}

/* Nearest, halves to even. What the scale cannot say, values that are not finite among them, is 0. */
static int8_t code_of(float x, float scale) {
  float ratio = scale > 0 ? rintf(x / scale) : 0;
  return (int8_t)(ratio >= 127 ? 127 : ratio <= -127 ? -127 : ratio == ratio ? ratio : 0);
}

static void from_f32_int8(const hd_matrix *w, size_t first, size_t n, const float *from) {
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++) {
    const float *x = row < first + n ? from + (row - first) * w->cols : NULL;
    float scale = x ? scale_of(x, w->cols) : 0;
    for (size_t b = 0; b < blocks_of(w->cols); b++) {
      int8_t codes[BLOCK] = {0};
      for (size_t i = 0; x && i < BLOCK && b * BLOCK + i < w->cols; i++) codes[i] = code_of(x[b * BLOCK + i], scale);
      put_codes(block_at(w, row, b), row % ROWS, codes);
    }
    *scale_at(w, row) = scale;
  }
}

static void row_int8(const hd_matrix *w, size_t index, float *to) {
  float scale = *scale_at(w, index);
  for (size_t c = 0; c < w->cols; c++)
    to[c] = (float)block_at(w, index, c / BLOCK)->at[c % BLOCK / COLUMNS][index % ROWS][c % COLUMNS] * scale;
}

/* ---- Products ---- */

static void matmul_int8(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) {
  matmul_of(&form_int8, y, x, n_x, w, scratch);
}

/* Columns past the last are zeros of padding. */
static void pack_columns_int8(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const hd_matrix *w = b;
  for (size_t k = 0; k < n_k; k++, panel += K_PANEL_COLUMNS) {
    size_t row = first_k + k;
    store_scaled(panel, block_at(w, row, first_c / BLOCK)->at + first_c % BLOCK / COLUMNS, row % ROWS, n_c, *scale_at(w, row));
  }
}

static void matmul_grad_int8(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w) {
  matmul_grad_of(d_x, d_y, n_x, w, pack_columns_int8);
}

const hd_layout hd_layout_int8_x4 = {
    .name = "int8.x4", .dtype = HD_INT8, .row_block = ROWS, .bytes = bytes_int8, .pack = pack_int8, .unpack = unpack_int8,
    .from_f32 = from_f32_int8, .row = row_int8, .matmul = matmul_int8, .scratch_bytes = scratch_bytes_of, .matmul_grad = matmul_grad_int8};
