/* kernels/elementwise.c: sums and products of whole arrays. Memory sets their speed; they do not split over the pool. */
#include "kernels/elementwise.h"

#include "kernels/simd.h"

/* One loop text: `vector` is the result of four lanes of a, b and y, `scalar` the same of one. */
#define EACH(n, vector_statement, scalar_statement)           \
  size_t i = 0;                                               \
  for (; i + V_LANES <= (n); i += V_LANES) vector_statement;  \
  for (; i < (n); i++) scalar_statement

void k_add_f32(float *y, const float *a, const float *b, size_t n) {
  EACH(n, v_store(y + i, v_add(v_load(a + i), v_load(b + i))), y[i] = a[i] + b[i]);
}

void k_multiply_f32(float *y, const float *a, const float *b, size_t n) {
  EACH(n, v_store(y + i, v_mul(v_load(a + i), v_load(b + i))), y[i] = a[i] * b[i]);
}

void k_axpy_f32(float *y, float alpha, const float *x, size_t n) {
  v_f32 alphas = v_splat(alpha);
  EACH(n, v_store(y + i, v_madd(alphas, v_load(x + i), v_load(y + i))), y[i] = alpha * x[i] + y[i]);
}

void k_multiply_add_f32(float *y, const float *a, const float *b, size_t n) {
  EACH(n, v_store(y + i, v_madd(v_load(a + i), v_load(b + i), v_load(y + i))), y[i] = a[i] * b[i] + y[i]);
}

void k_add_rows_f32(float *y, const float *row, size_t n_rows, size_t n) {
  for (size_t r = 0; r < n_rows; r++) k_add_f32(y + r * n, y + r * n, row, n);
}

void k_sum_rows_f32(float *sum, const float *x, size_t n_rows, size_t n) {
  for (size_t r = 0; r < n_rows; r++) k_add_f32(sum, sum, x + r * n, n);
}
