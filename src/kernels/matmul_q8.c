/* kernels/matmul_q8.c: the layout q8_0.x4, Q8_0 blocks repacked for the integer dot.
 *
 * Four rows' blocks of the same 32 columns lie together (152 bytes, 1.1875 a weight):
 *
 *   int8   quants[8][4 rows][4 columns]   one 16-byte vector holds four rows by four columns: the dot leaves
 *                                         four rows' sums in four lanes, and the activations are a 4-value splat
 *   float  scales[4]                      the file's F16, which comes back from it bit for bit: converting four
 *                                         F16 a block costs as much as half of the block's products
 *   int16  sums[4]                        of each row's 32 quants, for activations that are not signed (see below)
 *
 * Rows are padded to four with zeros. Activations are quantised per 32 columns, once a call, into scratch. Where v_dot_i8 is fast its
 * second operand has to be 0…127: a + 127 (0…254) is split into two such halves, and 127 · sum taken off: exact integers both ways. */
#include "kernels/matrix.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/pool.h"
#include "kernels/panels.h"
#include "kernels/simd.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = 32, FILE_BLOCK_BYTES = 34, ROWS = 4, COLUMNS = 4, VECTORS = BLOCK / COLUMNS };
/* Tiles, in quads (of four rows) by inputs. Each vector of weights is used for all inputs, each splat of activations for all quads. */
enum { QUADS = 4 };                      /* with one input */
enum { TILE_QUADS = 2, TILE_INPUTS = 4 }; /* with many */
enum { TILE = 8, MOST_QUADS = 4, MOST_INPUTS = 4 };
enum { QUADS_IN_CACHE = 8 }; /* that stay in the first-level cache while all inputs pass over them */

typedef struct quad_block {
  int8_t quants[VECTORS][ROWS][COLUMNS];
  float scales[ROWS];
  int16_t sums[ROWS];
} quad_block;

_Static_assert(sizeof(quad_block) == 152, "no padding");

static size_t quads_of(size_t rows) { return (rows + ROWS - 1) / ROWS; }

static bool bytes_q8(size_t rows, size_t cols, size_t *bytes) {
  size_t blocks;
  if (cols % BLOCK != 0 || rows > SIZE_MAX - ROWS) return false;
  return hd_mul_size(quads_of(rows), cols / BLOCK, &blocks) && hd_mul_size(blocks, sizeof(quad_block), bytes);
}

/* ---- To and from the file's blocks ---- */

static quad_block *block_at(const hd_matrix *w, size_t row, size_t block) {
  return (quad_block *)w->data + row / ROWS * (w->cols / BLOCK) + block;
}

static void pack_block(quad_block *to, size_t r, const unsigned char *from) {
  int sum = 0;
  for (size_t i = 0; i < BLOCK; i++) {
    int8_t quant = (int8_t)from[2 + i];
    to->quants[i / COLUMNS][r][i % COLUMNS] = quant;
    sum += quant;
  }
  to->scales[r] = hd_f16_to_f32((uint16_t)(from[0] | from[1] << 8));
  to->sums[r] = (int16_t)sum;
}

static void pack_q8(const hd_matrix *w, size_t first, size_t n, const void *from) {
  static const unsigned char zero[FILE_BLOCK_BYTES];
  const unsigned char *blocks = from;
  size_t n_blocks = w->cols / BLOCK;
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++)
    for (size_t b = 0; b < n_blocks; b++)
      pack_block(block_at(w, row, b), row % ROWS, row < first + n ? blocks + ((row - first) * n_blocks + b) * FILE_BLOCK_BYTES : zero);
}

static void unpack_q8(const hd_matrix *w, size_t first, size_t n, void *to) {
  unsigned char *out = to;
  for (size_t row = first; row < first + n; row++)
    for (size_t b = 0; b < w->cols / BLOCK; b++, out += FILE_BLOCK_BYTES) {
      const quad_block *block = block_at(w, row, b);
      uint16_t scale = hd_f32_to_f16(block->scales[row % ROWS]);
      out[0] = (unsigned char)(scale & 0xffu);
      out[1] = (unsigned char)(scale >> 8);
      for (size_t i = 0; i < BLOCK; i++) out[2 + i] = (unsigned char)block->quants[i / COLUMNS][row % ROWS][i % COLUMNS];
    }
}

static void row_q8(const hd_matrix *w, size_t index, float *to) {
  for (size_t b = 0; b < w->cols / BLOCK; b++) {
    const quad_block *block = block_at(w, index, b);
    float scale = block->scales[index % ROWS];
    for (size_t i = 0; i < BLOCK; i++) to[b * BLOCK + i] = (float)block->quants[i / COLUMNS][index % ROWS][i % COLUMNS] * scale;
  }
}

/* ---- Activations ---- */

/* 32 of them, as the dot wants them. */
typedef union input_block {
  struct { int8_t high[BLOCK], low[BLOCK]; } halves; /* high + low = a + 127, both 0…127 */
  int16_t values[BLOCK];                             /* a */
} input_block;

typedef struct inputs {
  input_block *blocks; /* [n_x, cols / 32] */
  float *scales;       /* [n_x, cols / 32] */
} inputs;

static inputs inputs_in(void *scratch, size_t n_x, size_t cols) {
  input_block *blocks = scratch;
  return (inputs){blocks, (float *)(void *)(blocks + n_x * (cols / BLOCK))};
}

static size_t scratch_bytes_q8(const hd_matrix *w, size_t n_x) {
  return n_x * (w->cols / BLOCK) * (sizeof(input_block) + sizeof(float));
}

/* The largest |x| of 32; compared as integers, so that infinity and NaN are larger than all. */
static float largest(const float *x) {
  v_i32 largest_bits = vi_splat(0);
  for (size_t i = 0; i < BLOCK; i += V_LANES) largest_bits = vi_max(largest_bits, v_as_i32(v_abs(v_load(x + i))));
  int32_t lane[V_LANES], bits = 0;
  vi_store(lane, largest_bits);
  for (size_t i = 0; i < V_LANES; i++) bits = lane[i] > bits ? lane[i] : bits;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Stores a = round(x / d), all 0 where d is 0 or not finite, and returns d. */
static float quantise(input_block *to, const float *x) {
  float d = largest(x) / 127.0f;
  bool usable = d > 0.0f && d < INFINITY;
  v_f32 divisor = v_splat(d), limit = v_splat(127.0f);
  for (size_t i = 0; i < BLOCK; i += V_LANES) {
    v_f32 ratio = usable ? v_div(v_load(x + i), divisor) : v_zero();
    int32_t a[V_LANES];
    vi_store(a, v_round_i32(v_max(v_min(ratio, limit), v_neg(limit))));
    for (size_t j = 0; j < V_LANES; j++) {
#if V_DOT_I8_IS_FAST
      int32_t high = (a[j] + 127) >> 1;
      to->halves.high[i + j] = (int8_t)high;
      to->halves.low[i + j] = (int8_t)(a[j] + 127 - high);
#else
      to->values[i + j] = (int16_t)a[j];
#endif
    }
  }
  return d;
}

typedef struct product {
  float *y;       /* [n_x, rows] */
  const float *x; /* [n_x, cols] */
  size_t n_x;
  const hd_matrix *w;
  inputs in;
} product;

static void quantise_inputs(void *context, size_t begin, size_t end, size_t thread) {
  (void)thread;
  const product *p = context;
  size_t n_blocks = p->w->cols / BLOCK;
  for (size_t b = begin * n_blocks; b < end * n_blocks; b++) p->in.scales[b] = quantise(p->in.blocks + b, p->x + b * BLOCK);
}

/* ---- The product ---- */

/* Exact sums of one block: sums[q][t] = four rows of block w[q] · input in[t]. */
INLINE void dot_block(v_i32 *sums, const quad_block *const *w, size_t n_q, const input_block *const *in, size_t n_t) {
#if V_DOT_I8_IS_FAST
  for (size_t q = 0; q < n_q; q++) {
    v_i32 row_sums = vi_load_i16(w[q]->sums), start = vi_sub(row_sums, vi_shift_left(row_sums, 7));
    for (size_t t = 0; t < n_t; t++) sums[q * n_t + t] = start;
  }
  for (size_t j = 0; j < VECTORS; j++)
    for (size_t q = 0; q < n_q; q++) {
      v_i8 quants = v8_load(w[q]->quants[j][0]);
      for (size_t t = 0; t < n_t; t++) {
        sums[q * n_t + t] = v_dot_i8(sums[q * n_t + t], quants, v8_splat4(in[t]->halves.high + j * COLUMNS));
        sums[q * n_t + t] = v_dot_i8(sums[q * n_t + t], quants, v8_splat4(in[t]->halves.low + j * COLUMNS));
      }
    }
#else
  v_i32 low[TILE], high[TILE];
  for (size_t i = 0; i < n_q * n_t; i++) low[i] = high[i] = vi_splat(0);
  for (size_t j = 0; j < VECTORS; j++)
    for (size_t q = 0; q < n_q; q++) {
      v_i8 quants = v8_load(w[q]->quants[j][0]);
      for (size_t t = 0; t < n_t; t++) {
        v_i16 values = v16_splat4(in[t]->values + j * COLUMNS);
        low[q * n_t + t] = v_dot_i16_low(low[q * n_t + t], quants, values);
        high[q * n_t + t] = v_dot_i16_high(high[q * n_t + t], quants, values);
      }
    }
  for (size_t i = 0; i < n_q * n_t; i++) sums[i] = vi_add_pairs(low[i], high[i]);
#endif
}

/* y[q][t] = four rows of quad q · input t, over all blocks in order. in and scales step by n_blocks from input to input. */
INLINE void dot_quads(v_f32 *y, const quad_block *w, size_t n_q, const input_block *in, const float *scales, size_t n_t, size_t n_blocks) {
  for (size_t i = 0; i < n_q * n_t; i++) y[i] = v_zero();
  for (size_t b = 0; b < n_blocks; b++) {
    const quad_block *blocks[MOST_QUADS];
    const input_block *block_inputs[MOST_INPUTS];
    v_i32 sums[TILE];
    for (size_t q = 0; q < n_q; q++) blocks[q] = w + q * n_blocks + b;
    for (size_t t = 0; t < n_t; t++) block_inputs[t] = in + t * n_blocks + b;
    dot_block(sums, blocks, n_q, block_inputs, n_t);
    for (size_t q = 0; q < n_q; q++) {
      v_f32 row_scales = v_load(blocks[q]->scales);
      for (size_t t = 0; t < n_t; t++) {
        v_f32 scaled = v_mul(v_from_i32(sums[q * n_t + t]), v_splat(scales[t * n_blocks + b]));
        y[q * n_t + t] = v_madd(scaled, row_scales, y[q * n_t + t]);
      }
    }
  }
}

static void dot_tile(v_f32 *y, const quad_block *w, const input_block *in, const float *scales, size_t n_blocks) {
  dot_quads(y, w, TILE_QUADS, in, scales, TILE_INPUTS, n_blocks);
}

static void dot_inputs(v_f32 *y, const quad_block *w, const input_block *in, const float *scales, size_t n_blocks) {
  dot_quads(y, w, 1, in, scales, TILE_INPUTS, n_blocks);
}

static void dot_rows(v_f32 *y, const quad_block *w, const input_block *in, const float *scales, size_t n_blocks) {
  dot_quads(y, w, QUADS, in, scales, 1, n_blocks);
}

static void dot_one(v_f32 *y, const quad_block *w, const input_block *in, const float *scales, size_t n_blocks) {
  dot_quads(y, w, 1, in, scales, 1, n_blocks);
}

/* The tile's rows and inputs from quad and t on; rows of padding are left out. */
static void store_tile(const product *p, const v_f32 *y, size_t quad, size_t n_q, size_t t, size_t n_t) {
  for (size_t q = 0; q < n_q; q++)
    for (size_t i = 0; i < n_t; i++) {
      size_t row = (quad + q) * ROWS, left = p->w->rows - row;
      float *to = p->y + (t + i) * p->w->rows + row;
      if (left >= ROWS) v_store(to, y[q * n_t + i]);
      else v_store_part(to, y[q * n_t + i], left);
    }
}

typedef void (*dot_function)(v_f32 *y, const quad_block *w, const input_block *in, const float *scales, size_t n_blocks);

/* n_t inputs from t on, over the quads [begin, end): n_q at a time by `wide`, what is left one by one by `narrow`. */
static void strip(const product *p, size_t t, size_t n_t, size_t begin, size_t end, size_t n_q, dot_function wide, dot_function narrow) {
  size_t n_blocks = p->w->cols / BLOCK, quad = begin;
  const input_block *in = p->in.blocks + t * n_blocks;
  const float *scales = p->in.scales + t * n_blocks;
  v_f32 y[TILE];
  for (; quad + n_q <= end; quad += n_q) {
    wide(y, block_at(p->w, quad * ROWS, 0), in, scales, n_blocks);
    store_tile(p, y, quad, n_q, t, n_t);
  }
  for (; quad < end; quad++) {
    narrow(y, block_at(p->w, quad * ROWS, 0), in, scales, n_blocks);
    store_tile(p, y, quad, 1, t, n_t);
  }
}

static void multiply_quads(void *context, size_t begin, size_t end, size_t thread) {
  (void)thread;
  const product *p = context;
  for (size_t first = begin; first < end; first += QUADS_IN_CACHE) {
    size_t last = end - first < QUADS_IN_CACHE ? end : first + QUADS_IN_CACHE, t = 0;
    for (; t + TILE_INPUTS <= p->n_x; t += TILE_INPUTS) strip(p, t, TILE_INPUTS, first, last, TILE_QUADS, dot_tile, dot_inputs);
    for (; t < p->n_x; t++) strip(p, t, 1, first, last, QUADS, dot_rows, dot_one);
  }
}

static void matmul_q8(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) {
  product p = {y, x, n_x, w, inputs_in(scratch, n_x, w->cols)};
  hd_pool_run(quantise_inputs, &p, n_x, 16384 / (w->cols + 1) + 1);
  hd_pool_run(multiply_quads, &p, quads_of(w->rows), QUADS * (16384 / (QUADS * ROWS * w->cols * n_x + 1) + 1));
}

/* ---- The gradient with respect to the input ---- */

static void pack_columns_q8(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c) {
  const hd_matrix *w = b;
  size_t vector = first_c % BLOCK / COLUMNS;
  for (size_t k = 0; k < n_k; k++, panel += K_PANEL_COLUMNS) {
    const quad_block *block = block_at(w, first_k + k, first_c / BLOCK);
    size_t r = (first_k + k) % ROWS;
    v_f32 scale = v_splat(block->scales[r]);
    for (size_t c = 0; c < n_c; c += COLUMNS)
      v_store(panel + c, v_mul(v_from_i32(vi_load_i8(block->quants[vector + c / COLUMNS][r])), scale));
  }
}

static void matmul_grad_q8(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w) {
  k_panels p = {.out = d_x, .out_stride = w->cols, .n_i = n_x, .n_c = w->cols, .n_k = w->rows,
                .a = d_y, .a_i = w->rows, .a_k = 1, .pack = pack_columns_q8, .b = w};
  k_panels_add(&p);
}

const hd_layout hd_layout_q8_0_x4 = {
    .name = "q8_0.x4", .dtype = HD_Q8_0, .row_block = ROWS, .bytes = bytes_q8, .pack = pack_q8, .unpack = unpack_q8, .row = row_q8,
    .matmul = matmul_q8, .scratch_bytes = scratch_bytes_q8, .matmul_grad = matmul_grad_q8};
