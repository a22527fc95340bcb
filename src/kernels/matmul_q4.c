/* kernels/matmul_q4.c: the layout q4_0.x4, Q4_0 blocks repacked for the integer dot of quads.h.
 *
 * Four rows' blocks of the same 32 columns lie together (80 bytes, 0.625 a weight): the file's 16 bytes of nibbles of each row, four bytes
 * of every row after the other, so that the low nibbles of one vector are four rows by columns 4j … 4j + 3, the high ones by the columns 16
 * further; and the four scales as float32. Codes stay 0…15, which is what the fast dot wants; 8 · (sum of activations) is taken off. */
#include "kernels/file_blocks.h"

enum { FILE_BLOCK_BYTES = 18, NIBBLE_BYTES = BLOCK / 2, PAIRS = VECTORS / 2, MIDDLE = 8 };

typedef struct quad_block {
  int8_t nibbles[PAIRS][ROWS][COLUMNS];
  float scales[ROWS];
} quad_block;

_Static_assert(sizeof(quad_block) == 80, "no padding");

/* Without the fast dot, nibbles become int16 where they lie: those of even columns and of odd ones, in a lane for each row. */
INLINE void dot_q4(v_i32 *sums, const void *const *w, size_t n_q, const input_block *const *in, size_t n_t) {
  for (size_t i = 0; i < n_q * n_t; i++) sums[i] = vi_splat(-MIDDLE * in[i % n_t]->sum);
#if V_DOT_I8_IS_FAST
  for (size_t j = 0; j < PAIRS; j++)
    for (size_t q = 0; q < n_q; q++) {
      v_i8 pair = v8_load(((const quad_block *)w[q])->nibbles[j][0]), first = v8_low_nibbles(pair), second = v8_high_nibbles(pair);
      for (size_t t = 0; t < n_t; t++) {
        sums[q * n_t + t] = v_dot_i8(sums[q * n_t + t], v8_splat4(in[t]->as.codes + j * COLUMNS), first);
        sums[q * n_t + t] = v_dot_i8(sums[q * n_t + t], v8_splat4(in[t]->as.codes + NIBBLE_BYTES + j * COLUMNS), second);
      }
    }
#else
  for (size_t j = 0; j < PAIRS; j++)
    for (size_t q = 0; q < n_q; q++) {
      v_i8 pair = v8_load(((const quad_block *)w[q])->nibbles[j][0]);
      v_i16 even = v16_nibbles(pair, 0), odd = v16_nibbles(pair, 2), even_high = v16_nibbles(pair, 1), odd_high = v16_nibbles(pair, 3);
      for (size_t t = 0; t < n_t; t++) {
        const int16_t *low = in[t]->as.values + j * COLUMNS, *high = low + NIBBLE_BYTES;
        v_i32 sum = v_dot_i16(v_dot_i16(sums[q * n_t + t], even, v16_splat2(low)), odd, v16_splat2(low + 2));
        sums[q * n_t + t] = v_dot_i16(v_dot_i16(sum, even_high, v16_splat2(high)), odd_high, v16_splat2(high + 2));
      }
    }
#endif
}

INLINE v_f32 scales_q4(const void *block) { return v_load(((const quad_block *)block)->scales); }

QUAD_FORM(form_q4, dot_q4, scales_q4, sizeof(quad_block), 0, true)

static bool bytes_q4(size_t rows, size_t cols, size_t *bytes) { return cols % BLOCK == 0 && bytes_of(&form_q4, rows, cols, bytes); }

/* ---- To and from the file's blocks ---- */

static void put_q4(void *quad, size_t r, const unsigned char *from) {
  quad_block *to = quad;
  for (size_t i = 0; i < NIBBLE_BYTES; i++) to->nibbles[i / COLUMNS][r][i % COLUMNS] = (int8_t)from[2 + i];
  to->scales[r] = scale_of_file(from);
}

static void get_q4(const void *quad, size_t r, unsigned char *to) {
  const quad_block *from = quad;
  scale_to_file(to, from->scales[r]);
  for (size_t i = 0; i < NIBBLE_BYTES; i++) to[2 + i] = (unsigned char)from->nibbles[i / COLUMNS][r][i % COLUMNS];
}

static const file_blocks file_q4 = {&form_q4, HD_Q4_0, FILE_BLOCK_BYTES, put_q4, get_q4};

static void pack_q4(const hd_matrix *w, size_t first, size_t n, const void *from) { pack_file_blocks(&file_q4, w, first, n, from); }
static void unpack_q4(const hd_matrix *w, size_t first, size_t n, void *to) { unpack_file_blocks(&file_q4, w, first, n, to); }
static void from_f32_q4(const hd_matrix *w, size_t first, size_t n, const float *from) { round_file_blocks(&file_q4, w, first, n, from); }
static void row_q4(const hd_matrix *w, size_t index, float *to) { row_of_file_blocks(&file_q4, w, index, to); }

/* ---- Products ---- */

static void matmul_q4(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) {
  matmul_of(&form_q4, y, x, n_x, w, scratch);
}

static void pack_columns_q4(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const hd_matrix *w = b;
  size_t column = first_c % BLOCK, vector = column % NIBBLE_BYTES / COLUMNS;
  unsigned shift = column >= NIBBLE_BYTES ? 4 : 0;
  for (size_t k = 0; k < n_k; k++, panel += K_PANEL_COLUMNS) {
    const quad_block *block = file_block_at(&file_q4, w, first_k + k, first_c / BLOCK);
    size_t r = (first_k + k) % ROWS;
    for (size_t c = 0; c < n_c; c++) {
      int code = (uint8_t)block->nibbles[vector + c / COLUMNS][r][c % COLUMNS] >> shift & 15;
      panel[c] = (float)(code - MIDDLE) * block->scales[r];
    }
  }
}

static void matmul_grad_q4(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w) {
  matmul_grad_of(d_x, d_y, n_x, w, pack_columns_q4);
}

const hd_layout hd_layout_q4_0_x4 = {
    .name = "q4_0.x4", .dtype = HD_Q4_0, .row_block = ROWS, .bytes = bytes_q4, .pack = pack_q4, .unpack = unpack_q4,
    .from_f32 = from_f32_q4, .row = row_q4, .matmul = matmul_q4, .scratch_bytes = scratch_bytes_of, .matmul_grad = matmul_grad_q4};
