/* kernels/quads.h: the integer product that the quantised layouts share: one text, compiled for each layout's own block.
 *
 * A quad is four rows. Its weights lie in blocks of 32 columns; within a block, 16 bytes hold four rows by four columns: the dot leaves
 * four rows' sums in four lanes, and the activations are a 4-value splat. Rows are padded to four with zeros, columns (where a layout
 * allows it) to 32. Activations are quantised per 32 columns, once a call, into scratch.
 *
 * Where v_dot_i8 is fast its second operand has to be 0…127. Codes that are may stand there, and the activations are the
 * signed operand. Where codes are signed, the activation's a + 127 (0…254) is split into two such halves, and 127 · (sum of
 * codes) taken off: exact integers both ways. */
#ifndef HD_KERNELS_QUADS_H
#define HD_KERNELS_QUADS_H

#include "kernels/matrix.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/pool.h"
#include "kernels/panels.h"
#include "kernels/simd.h"

#include <math.h>

#define INLINE static inline __attribute__((always_inline))

enum { BLOCK = 32, ROWS = 4, COLUMNS = 4, VECTORS = BLOCK / COLUMNS };
/* Tiles, in quads by inputs. Each vector of weights is used for all inputs, each splat of activations for all quads. */
enum { QUADS = 4 };                      /* with one input */
enum { TILE_QUADS = 2, TILE_INPUTS = 4 }; /* with many */
enum { TILE = 8, MOST_QUADS = 4, MOST_INPUTS = 4 };
enum { QUADS_IN_CACHE = 8 }; /* that stay in the first-level cache while all inputs pass over them */

/* 32 activations, as the dot wants them. */
typedef struct input_block {
  union {
    struct { int8_t high[BLOCK], low[BLOCK]; } halves; /* high + low = a + 127, both 0…127 */
    int8_t codes[BLOCK];                               /* a, where it is the signed operand */
    int16_t values[BLOCK];                             /* a, where v_dot_i8 is not fast: columns 0 2 1 3 of four for unsigned codes,
                                                        * else 0 1 2 3 */
  } as;
  float scale;
  int32_t sum;
} input_block;

typedef void (*dot_function)(v_f32 *y, const char *w, const input_block *in, size_t n_blocks);

/* A layout's block, and the text below compiled for it. */
typedef struct quad_form {
  size_t block_bytes;
  size_t tail_bytes;     /* behind a quad's blocks */
  bool unsigned_codes;   /* the activations are the fast dot's signed operand */
  dot_function tile, inputs, rows, one;
} quad_form;

typedef struct product {
  float *y;       /* [n_x, rows] */
  const float *x; /* [n_x, cols] */
  size_t n_x;
  const hd_matrix *w;
  const quad_form *form;
  input_block *in; /* [n_x, blocks] */
} product;

static inline size_t quads_of(size_t rows) { return (rows + ROWS - 1) / ROWS; }
static inline size_t blocks_of(size_t cols) { return cols / BLOCK + (cols % BLOCK != 0); }

static inline size_t quad_bytes(const quad_form *form, size_t cols) { return blocks_of(cols) * form->block_bytes + form->tail_bytes; }

static inline char *quad_at(const hd_matrix *w, const quad_form *form, size_t row) {
  return (char *)w->data + row / ROWS * quad_bytes(form, w->cols);
}

static inline bool bytes_of(const quad_form *form, size_t rows, size_t cols, size_t *bytes) {
  size_t quad;
  if (rows > SIZE_MAX - ROWS || !hd_mul_size(blocks_of(cols), form->block_bytes, &quad) || !hd_add_size(quad, form->tail_bytes, &quad))
    return false;
  return hd_mul_size(quads_of(rows), quad, bytes);
}

static size_t scratch_bytes_of(const hd_matrix *w, size_t n_x) { return hd_times(hd_times(n_x, blocks_of(w->cols)), sizeof(input_block)); }

/* ---- Activations ---- */

/* The largest |x| of 32; compared as integers, so that infinity and NaN are larger than all. */
static float largest(const float *x) {
  v_i32 largest_bits = vi_splat(0);
  for (size_t i = 0; i < BLOCK; i += V_LANES) largest_bits = vi_max(largest_bits, v_as_i32(v_abs(v_load(x + i))));
  int32_t lane[V_LANES], bits = 0;
  vi_store(lane, largest_bits);
  for (size_t i = 0; i < V_LANES; i++) bits = lane[i] > bits ? lane[i] : bits;
  return hd_f32_of_bits((uint32_t)bits);
}

static inline void put_input(input_block *to, size_t i, int32_t a, bool as_codes) {
#if V_DOT_I8_IS_FAST
  int32_t high = (a + 127) >> 1;
  if (as_codes) to->as.codes[i] = (int8_t)a;
  else to->as.halves.high[i] = (int8_t)high, to->as.halves.low[i] = (int8_t)(a + 127 - high);
#else
  size_t among_four = as_codes ? i % 2 * 2 + i / 2 % 2 : i % 4;
  to->as.values[i / 4 * 4 + among_four] = (int16_t)a;
#endif
}

/* Stores a = round(x / d), all 0 where d is 0 or not finite. */
static void quantise(input_block *to, const float *x, bool as_codes) {
  float d = largest(x) / 127.0f;
  bool usable = d > 0.0f && d < INFINITY;
  v_f32 divisor = v_splat(d), limit = v_splat(127.0f);
  to->scale = d;
  to->sum = 0;
  for (size_t i = 0; i < BLOCK; i += V_LANES) {
    v_f32 ratio = usable ? v_div(v_load(x + i), divisor) : v_zero();
    int32_t a[V_LANES];
    vi_store(a, v_round_i32(v_max(v_min(ratio, limit), v_neg(limit))));
    for (size_t j = 0; j < V_LANES; j++) {
      put_input(to, i + j, a[j], as_codes);
      to->sum += a[j];
    }
  }
}

static void quantise_inputs(void *context, size_t begin, size_t end, size_t thread) {
  (void)thread;
  const product *p = context;
  size_t cols = p->w->cols, n_blocks = blocks_of(cols), rest = cols % BLOCK;
  for (size_t t = begin; t < end; t++) {
    const float *x = p->x + t * cols;
    input_block *in = p->in + t * n_blocks;
    for (size_t b = 0; b < cols / BLOCK; b++) quantise(in + b, x + b * BLOCK, p->form->unsigned_codes);
    if (!rest) continue;
    float padded[BLOCK] = {0};
    memcpy(padded, x + cols - rest, rest * sizeof *padded);
    quantise(in + n_blocks - 1, padded, p->form->unsigned_codes);
  }
}

/* ---- The product ---- */

/* What a block does: exact sums of it, sums[q][t] = four rows of block w[q] · input in[t]; and its rows' scales, NULL where they wait at
 * the quad's end. */
typedef void (*block_dot)(v_i32 *sums, const void *const *w, size_t n_q, const input_block *const *in, size_t n_t);
typedef v_f32 (*block_scales)(const void *block);

/* y[q][t] = four rows of quad q · input t, over all blocks in order. Inputs are n_blocks apart. */
INLINE void dot_quads(block_dot dot, block_scales scales, size_t block_bytes, size_t tail_bytes, v_f32 *y, const char *w, size_t n_q,
                      const input_block *in, size_t n_t, size_t n_blocks) {
  size_t stride = n_blocks * block_bytes + tail_bytes;
  for (size_t i = 0; i < n_q * n_t; i++) y[i] = v_zero();
  for (size_t b = 0; b < n_blocks; b++) {
    const void *blocks[MOST_QUADS];
    const input_block *inputs[MOST_INPUTS];
    v_i32 sums[TILE];
    for (size_t q = 0; q < n_q; q++) blocks[q] = w + q * stride + b * block_bytes;
    for (size_t t = 0; t < n_t; t++) inputs[t] = in + t * n_blocks + b;
    dot(sums, blocks, n_q, inputs, n_t);
    for (size_t q = 0; q < n_q; q++) {
      v_f32 row_scales = scales ? scales(blocks[q]) : v_zero();
      for (size_t t = 0; t < n_t; t++) {
        v_f32 scaled = v_mul(v_from_i32(sums[q * n_t + t]), v_splat(inputs[t]->scale));
        y[q * n_t + t] = scales ? v_madd(scaled, row_scales, y[q * n_t + t]) : v_add(scaled, y[q * n_t + t]);
      }
    }
  }
  for (size_t q = 0; tail_bytes && q < n_q; q++) {
    v_f32 row_scales = v_load((const float *)(const void *)(w + (q + 1) * stride - tail_bytes));
    for (size_t t = 0; t < n_t; t++) y[q * n_t + t] = v_mul(y[q * n_t + t], row_scales);
  }
}

/* Defines the form `name` of blocks whose dot and scales are inlined. */
#define QUAD_FORM(form_name, dot, scales, block, tail, codes_are_unsigned)                                                       \
  static void tile_##form_name(v_f32 *y, const char *w, const input_block *in, size_t n_blocks) {                                \
    dot_quads(dot, scales, block, tail, y, w, TILE_QUADS, in, TILE_INPUTS, n_blocks);                                            \
  }                                                                                                                              \
  static void inputs_##form_name(v_f32 *y, const char *w, const input_block *in, size_t n_blocks) {                              \
    dot_quads(dot, scales, block, tail, y, w, 1, in, TILE_INPUTS, n_blocks);                                                     \
  }                                                                                                                              \
  static void rows_##form_name(v_f32 *y, const char *w, const input_block *in, size_t n_blocks) {                                \
    dot_quads(dot, scales, block, tail, y, w, QUADS, in, 1, n_blocks);                                                           \
  }                                                                                                                              \
  static void one_##form_name(v_f32 *y, const char *w, const input_block *in, size_t n_blocks) {                                 \
    dot_quads(dot, scales, block, tail, y, w, 1, in, 1, n_blocks);                                                               \
  }                                                                                                                              \
  static const quad_form form_name = {block, tail, codes_are_unsigned, tile_##form_name, inputs_##form_name, rows_##form_name,   \
                                      one_##form_name};

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

/* n_t inputs from t on, over the quads [begin, end): n_q at a time by `wide`, what is left one by one by `narrow`. */
static void strip(const product *p, size_t t, size_t n_t, size_t begin, size_t end, size_t n_q, dot_function wide, dot_function narrow) {
  size_t n_blocks = blocks_of(p->w->cols), quad = begin;
  const input_block *in = p->in + t * n_blocks;
  v_f32 y[TILE];
  for (; quad + n_q <= end; quad += n_q) {
    wide(y, quad_at(p->w, p->form, quad * ROWS), in, n_blocks);
    store_tile(p, y, quad, n_q, t, n_t);
  }
  for (; quad < end; quad++) {
    narrow(y, quad_at(p->w, p->form, quad * ROWS), in, n_blocks);
    store_tile(p, y, quad, 1, t, n_t);
  }
}

static void multiply_quads(void *context, size_t begin, size_t end, size_t thread) {
  (void)thread;
  const product *p = context;
  const quad_form *f = p->form;
  for (size_t first = begin; first < end; first += QUADS_IN_CACHE) {
    size_t last = end - first < QUADS_IN_CACHE ? end : first + QUADS_IN_CACHE, t = 0;
    for (; t + TILE_INPUTS <= p->n_x; t += TILE_INPUTS) strip(p, t, TILE_INPUTS, first, last, TILE_QUADS, f->tile, f->inputs);
    for (; t < p->n_x; t++) strip(p, t, 1, first, last, QUADS, f->rows, f->one);
  }
}

static void matmul_of(const quad_form *form, float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch) {
  product p = {y, x, n_x, w, form, scratch};
  hd_pool_run(quantise_inputs, &p, n_x, 16384 / (w->cols + 1) + 1);
  hd_pool_run(multiply_quads, &p, quads_of(w->rows), QUADS * (16384 / (QUADS * ROWS * w->cols * n_x + 1) + 1));
}

/* ---- The gradient with respect to the input ---- */

static void matmul_grad_of(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w,
                           void (*pack)(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c)) {
  k_panels p = {.out = d_x, .out_stride = w->cols, .n_i = n_x, .n_c = w->cols, .n_k = w->rows,
                .a = d_y, .a_i = w->rows, .a_k = 1, .pack = pack, .b = w};
  k_panels_add(&p);
}

/* ---- Exact sums of signed codes, which q8_0.x4 and int8.x4 have ---- */

/* One 16-byte vector is four rows by four columns; row_sums: of each row's 32 codes, for activations in halves. */
typedef struct signed_codes {
  int8_t at[VECTORS][ROWS][COLUMNS];
  int16_t row_sums[ROWS];
} signed_codes;

INLINE void dot_signed(v_i32 *sums, const signed_codes *const *w, size_t n_q, const input_block *const *in, size_t n_t) {
#if V_DOT_I8_IS_FAST
  for (size_t q = 0; q < n_q; q++) {
    v_i32 row_sums = vi_load_i16(w[q]->row_sums), start = vi_sub(row_sums, vi_shift_left(row_sums, 7));
    for (size_t t = 0; t < n_t; t++) sums[q * n_t + t] = start;
  }
  for (size_t j = 0; j < VECTORS; j++)
    for (size_t q = 0; q < n_q; q++) {
      v_i8 codes = v8_load(w[q]->at[j][0]);
      for (size_t t = 0; t < n_t; t++) {
        sums[q * n_t + t] = v_dot_i8(sums[q * n_t + t], codes, v8_splat4(in[t]->as.halves.high + j * COLUMNS));
        sums[q * n_t + t] = v_dot_i8(sums[q * n_t + t], codes, v8_splat4(in[t]->as.halves.low + j * COLUMNS));
      }
    }
#else
  v_i32 low[TILE], high[TILE];
  for (size_t i = 0; i < n_q * n_t; i++) low[i] = high[i] = vi_splat(0);
  for (size_t j = 0; j < VECTORS; j++)
    for (size_t q = 0; q < n_q; q++) {
      v_i8 codes = v8_load(w[q]->at[j][0]);
      for (size_t t = 0; t < n_t; t++) {
        v_i16 values = v16_splat4(in[t]->as.values + j * COLUMNS);
        low[q * n_t + t] = v_dot_i16_low(low[q * n_t + t], codes, values);
        high[q * n_t + t] = v_dot_i16_high(high[q * n_t + t], codes, values);
      }
    }
  for (size_t i = 0; i < n_q * n_t; i++) sums[i] = vi_add_pairs(low[i], high[i]);
#endif
}

/* Row r's 32 codes, in their place and in their sum. */
static inline void put_codes(signed_codes *to, size_t r, const int8_t *codes) {
  int sum = 0;
  for (size_t i = 0; i < BLOCK; i++) {
    to->at[i / COLUMNS][r][i % COLUMNS] = codes[i];
    sum += codes[i];
  }
  to->row_sums[r] = (int16_t)sum;
}

/* Eight columns of a row times its scale. `from` is the codes' first vector. */
INLINE void store_scaled(float *panel, const int8_t (*from)[ROWS][COLUMNS], size_t r, size_t n_c, float scale) {
  for (size_t c = 0; c < n_c; c += COLUMNS) v_store(panel + c, v_mul(v_from_i32(vi_load_i8(from[c / COLUMNS][r])), v_splat(scale)));
}

#endif
