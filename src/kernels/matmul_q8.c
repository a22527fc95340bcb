/* kernels/matmul_q8.c: the layout q8_0.x4, Q8_0 blocks repacked for the integer dot of quads.h.
 *
 * Four rows' blocks of the same 32 columns lie together (152 bytes, 1.1875 a weight): codes and their sums, and the four scales as float32:
 * the file's F16, which comes back from it bit for bit. Converting four F16 a block costs as much as half of the block's products. */
#include "kernels/file_blocks.h"

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

/* ---- To and from the file's blocks ---- */

static void put_q8(void *quad, size_t r, const unsigned char *from) {
  quad_block *to = quad;
  int8_t codes[BLOCK];
  memcpy(codes, from + 2, BLOCK);
  put_codes(&to->codes, r, codes);
  to->scales[r] = scale_of_file(from);
}

static void get_q8(const void *quad, size_t r, unsigned char *to) {
  const quad_block *from = quad;
  scale_to_file(to, from->scales[r]);
  for (size_t i = 0; i < BLOCK; i++) to[2 + i] = (unsigned char)from->codes.at[i / COLUMNS][r][i % COLUMNS];
}

static const file_blocks file_q8 = {&form_q8, HD_Q8_0, FILE_BLOCK_BYTES, put_q8, get_q8};

static void pack_q8(const hd_matrix *w, size_t first, size_t n, const void *from) { pack_file_blocks(&file_q8, w, first, n, from); }
static void unpack_q8(const hd_matrix *w, size_t first, size_t n, void *to) { unpack_file_blocks(&file_q8, w, first, n, to); }
static void from_f32_q8(const hd_matrix *w, size_t first, size_t n, const float *from) { round_file_blocks(&file_q8, w, first, n, from); }
static void row_q8(const hd_matrix *w, size_t index, float *to) { row_of_file_blocks(&file_q8, w, index, to); }

/* ---- Products ---- */

static void matmul_q8(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) {
  matmul_of(&form_q8, y, x, n_x, w, scratch);
}

static void pack_columns_q8(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const hd_matrix *w = b;
  for (size_t k = 0; k < n_k; k++, panel += K_PANEL_COLUMNS) {
    const quad_block *block = file_block_at(&file_q8, w, first_k + k, first_c / BLOCK);
    size_t r = (first_k + k) % ROWS;
    store_scaled(panel, block->codes.at + first_c % BLOCK / COLUMNS, r, n_c, block->scales[r]);
  }
}

static void matmul_grad_q8(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w) {
  matmul_grad_of(d_x, d_y, n_x, w, pack_columns_q8);
}

const hd_layout hd_layout_q8_0_x4 = {
    .name = "q8_0.x4", .dtype = HD_Q8_0, .row_block = ROWS, .bytes = bytes_q8, .pack = pack_q8, .unpack = unpack_q8,
    .from_f32 = from_f32_q8, .row = row_q8, .matmul = matmul_q8, .scratch_bytes = scratch_bytes_of, .matmul_grad = matmul_grad_q8};
