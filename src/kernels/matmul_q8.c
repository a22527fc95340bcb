/* kernels/matmul_q8.c: the layout q8_0.x4, Q8_0 blocks repacked for the integer dot of quads.h.
 *
 * Four rows' blocks of the same 32 columns lie together (152 bytes, 1.1875 a weight): codes and their sums, and the four scales as float32:
 * the file's F16, which comes back from it bit for bit. Converting four F16 a block costs as much as half of the block's products. */
#include "kernels/quads.h"

enum { FILE_BLOCK_BYTES = 34 };

typedef struct quad_block {
  signed_codes codes;
  float scales[ROWS];
} quad_block;

_Static_assert(sizeof(quad_block) == 152, "no padding");

INLINE void dot_q8(v_i32 *sums, const void *const *w, size_t n_q, const input_block *const *in, size_t n_t) {
  const signed_codes *codes[MOST_QUADS];
  for (size_t q = 0; q < n_q; q++) codes[q] = &((const quad_block *)w[q])->codes;
  dot_signed(sums, codes, n_q, in, n_t);
}

INLINE v_f32 scales_q8(const void *block) { return v_load(((const quad_block *)block)->scales); }

QUAD_FORM(form_q8, dot_q8, scales_q8, sizeof(quad_block), 0, false)

static bool bytes_q8(size_t rows, size_t cols, size_t *bytes) { return cols % BLOCK == 0 && bytes_of(&form_q8, rows, cols, bytes); }

static quad_block *block_at(const hd_matrix *w, size_t row, size_t block) { return (quad_block *)(void *)quad_at(w, &form_q8, row) + block; }

/* ---- To and from the file's blocks ---- */

static void pack_block(quad_block *to, size_t r, const unsigned char *from) {
  int8_t codes[BLOCK];
  memcpy(codes, from + 2, BLOCK);
  put_codes(&to->codes, r, codes);
  to->scales[r] = hd_f16_to_f32((uint16_t)(from[0] | from[1] << 8));
}

static void pack_q8(const hd_matrix *w, size_t first, size_t n, const void *from) {
  static const unsigned char zero[FILE_BLOCK_BYTES];
  const unsigned char *blocks = from;
  size_t n_blocks = w->cols / BLOCK;
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++)
    for (size_t b = 0; b < n_blocks; b++)
      pack_block(block_at(w, row, b), row % ROWS, row < first + n ? blocks + ((row - first) * n_blocks + b) * FILE_BLOCK_BYTES : zero);
}

static void from_f32_q8(const hd_matrix *w, size_t first, size_t n, const float *from) {
  unsigned char block[FILE_BLOCK_BYTES] = {0};
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++)
    for (size_t b = 0; b < w->cols / BLOCK; b++) {
      if (row < first + n) hd_dtype_get(HD_Q8_0)->from_f32(from + (row - first) * w->cols + b * BLOCK, block, BLOCK);
      else memset(block, 0, sizeof block);
      pack_block(block_at(w, row, b), row % ROWS, block);
    }
}

static void unpack_q8(const hd_matrix *w, size_t first, size_t n, void *to) {
  unsigned char *out = to;
  for (size_t row = first; row < first + n; row++)
    for (size_t b = 0; b < w->cols / BLOCK; b++, out += FILE_BLOCK_BYTES) {
      const quad_block *block = block_at(w, row, b);
      uint16_t scale = hd_f32_to_f16(block->scales[row % ROWS]);
      out[0] = (unsigned char)(scale & 0xffu);
      out[1] = (unsigned char)(scale >> 8);
      for (size_t i = 0; i < BLOCK; i++) out[2 + i] = (unsigned char)block->codes.at[i / COLUMNS][row % ROWS][i % COLUMNS];
    }
}

static void row_q8(const hd_matrix *w, size_t index, float *to) {
  for (size_t b = 0; b < w->cols / BLOCK; b++) {
    const quad_block *block = block_at(w, index, b);
    float scale = block->scales[index % ROWS];
    for (size_t i = 0; i < BLOCK; i++) to[b * BLOCK + i] = (float)block->codes.at[i / COLUMNS][index % ROWS][i % COLUMNS] * scale;
  }
}

/* ---- Products ---- */

static void matmul_q8(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) { matmul_of(&form_q8, y, x, n_x, w, scratch); }

static void pack_columns_q8(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const hd_matrix *w = b;
  for (size_t k = 0; k < n_k; k++, panel += K_PANEL_COLUMNS) {
    const quad_block *block = block_at(w, first_k + k, first_c / BLOCK);
    size_t r = (first_k + k) % ROWS;
    store_scaled(panel, block->codes.at + first_c % BLOCK / COLUMNS, r, n_c, block->scales[r]);
  }
}

static void matmul_grad_q8(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w) { matmul_grad_of(d_x, d_y, n_x, w, pack_columns_q8); }

const hd_layout hd_layout_q8_0_x4 = {
    .name = "q8_0.x4", .dtype = HD_Q8_0, .row_block = ROWS, .bytes = bytes_q8, .pack = pack_q8, .unpack = unpack_q8, .from_f32 = from_f32_q8,
    .row = row_q8, .matmul = matmul_q8, .scratch_bytes = scratch_bytes_of, .matmul_grad = matmul_grad_q8};
