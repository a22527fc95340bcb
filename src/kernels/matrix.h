/* kernels/matrix.h: a weight matrix is rows × cols in a layout; a layout is one row in the table of matrix.c. Everything that
 * multiplies by a weight goes through here, whatever its dtype: a new quantisation is a dtype, a layout row and its kernel.
 *
 *   rows.f32, rows.f16, rows.bf16   row-major, the file's own bytes
 *   rows.f16.finite                 the same of F16 where no value is infinite or NaN: quicker to widen
 *   q8_0.x4, q4_0.x4                Q8_0 and Q4_0 blocks repacked for the integer dot: four rows interleaved by four columns
 *   int8.x4                         int8 with one scale a row, likewise; rows of any width
 *
 * Kernels are named k_<op>_<dtype>[_<tile>]; arguments come in the order out, in, weights, sizes, parameters. */
#ifndef HD_KERNELS_MATRIX_H
#define HD_KERNELS_MATRIX_H

#include "heddle.h"

typedef struct hd_layout hd_layout;

typedef struct hd_matrix {
  const hd_layout *layout;
  size_t rows, cols; /* out_features, in_features */
  void *data;        /* layout->bytes(rows, cols) bytes, 64-byte aligned; not owned */
} hd_matrix;

struct hd_layout {
  const char *name;
  hd_dtype dtype;      /* what its values are, bit for bit */
  size_t row_block;    /* rows that are packed together: 1 or 4 */
  bool plain;          /* the data are the file's own row-major bytes of `dtype` */

  /* Bytes for a matrix; false on overflow or when cols does not fit the dtype's block. */
  bool (*bytes)(size_t rows, size_t cols, size_t *bytes);

  /* Rows [first, first + n) from and to row-major bytes of `dtype` (of INT8: each row its F32 scale and its int8). `first` is a multiple of
   * row_block; n too, or the rows are the last. unpack(pack(x)) is x bit for bit. */
  void (*pack)(const hd_matrix *w, size_t first, size_t n, const void *from);
  void (*unpack)(const hd_matrix *w, size_t first, size_t n, void *to);

  /* The same rows from float32, rounded as base/dtype.h says; of INT8: scale = max|w| / 127 of the row, codes to the nearest even. */
  void (*from_f32)(const hd_matrix *w, size_t first, size_t n, const float *from);

  /* One row as float32 (embedding lookup). */
  void (*row)(const hd_matrix *w, size_t index, float *to);

  /* y[n_x, rows] = x[n_x, cols] · wᵀ. y ≠ x. Splits rows over the pool. scratch: scratch_bytes(w, n_x) bytes, 16-aligned;
   * the rows.* layouts need none and take NULL. */
  void (*matmul)(float *y, const float *x, size_t n_x, const hd_matrix *w, void *scratch);
  size_t (*scratch_bytes)(const hd_matrix *w, size_t n_x); /* SIZE_MAX: too large */

  /* d_x[n_x, cols] += d_y[n_x, rows] · w: the gradient with respect to the input. */
  void (*matmul_grad)(float *d_x, const float *d_y, size_t n_x, const hd_matrix *w);
};

extern const hd_layout hd_layout_rows_f32, hd_layout_rows_f16, hd_layout_rows_f16_finite, hd_layout_rows_bf16;
extern const hd_layout hd_layout_q8_0_x4, hd_layout_q4_0_x4, hd_layout_int8_x4;

/* The layout for weights of a dtype; NULL when none multiplies it. */
const hd_layout *hd_layout_for(hd_dtype dtype);

/* Once all of the matrix is there: takes the layout of the same bytes that is quickest for what they are. Bytes that change afterwards
 * need it again. */
void hd_matrix_settle(hd_matrix *w);

/* d_w[rows, cols] += d_yᵀ[rows, n_x] · x[n_x, cols], row-major float32: the gradient with respect to the weights. */
void k_matmul_weight_grad(float *d_w, const float *d_y, const float *x, size_t n_x, size_t rows, size_t cols);

/* The exact definition of the q8_0.x4 product, in plain scalar code: per block of 32 columns the activations become
 * a = round(x / d), nearest even, at most ±127, d = max|x| / 127 (d = 0 or not finite: all a are 0, and the latter makes y NaN);
 * y = Σ_blocks (Σ a·q) · d_a · d_w in block order, float32. The kernels equal it bit for bit on every module but `relaxed`,
 * where only the float32 sums may differ in the last bits. Lives in reference.c. */
void k_reference_matmul_q8_0(float *y, const float *x, size_t n_x, const hd_matrix *w);
/* The same of q4_0.x4, whose q are the codes less 8. */
void k_reference_matmul_q4_0(float *y, const float *x, size_t n_x, const hd_matrix *w);
/* The same of int8.x4: the last columns' block is padded with zeros, and y = (Σ_blocks (Σ a·q) · d_a) · d_row. */
void k_reference_matmul_int8(float *y, const float *x, size_t n_x, const hd_matrix *w);

#endif
