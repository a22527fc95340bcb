/* tests/native/quads.h: what every layout over kernels/quads.h is tested for: bit for bit its definition in reference.c, over sizes of every
 * remainder and in both ways of the dot; bytes come back unchanged; and the definition itself is near the product in double.
 *
 * A test names its layout (LAYOUT), the scalar twin of its kernel with the split dot that relaxed modules use (TWIN, made by including the
 * kernel's text: see test_matmul_q8.c), the definition (DEFINITION), and gives row_bytes_of(cols), fill_rows(file, rows, cols) with random
 * bytes of every kind, and values_of(values, file, rows, cols), the float32 they stand for. */
#ifndef HD_TESTS_QUADS_H
#define HD_TESTS_QUADS_H

#include "kernels/reference.h"

static const size_t input_counts[] = {0, 1, 2, 3, 4, 5, 8, 11};
static const struct { size_t rows, cols; } sizes[] = {SIZES {1, 32}, {3, 64}, {4, 32}, {5, 96}, {8, 576}, {17, 160}, {70, 64}, {0, 32}, {4, 0}};
enum { N_COUNTS = sizeof input_counts / sizeof *input_counts, N_SIZES = sizeof sizes / sizeof *sizes };

typedef struct example {
  hd_matrix w;
  unsigned char *file; /* row-major bytes of the dtype */
  size_t file_bytes, n_x;
  float *x, *y, *should;
  void *scratch;
} example;

static example example_of(size_t rows, size_t cols, size_t n_x) {
  example e = {.n_x = n_x, .file_bytes = rows * row_bytes_of(cols)};
  size_t bytes = 0;
  e.w = (hd_matrix){&LAYOUT, rows, cols, NULL};
  CHECK(e.w.layout->bytes(rows, cols, &bytes));
  e.w.data = aligned_alloc(64, (bytes + 64) / 64 * 64);
  e.file = malloc(e.file_bytes);
  fill_rows(e.file, rows, cols);
  e.w.layout->pack(&e.w, 0, rows, e.file);
  e.x = test_random_floats(n_x * cols);
  e.y = malloc(n_x * rows * sizeof *e.y);
  e.should = malloc(n_x * rows * sizeof *e.should);
  e.scratch = malloc(e.w.layout->scratch_bytes(&e.w, n_x));
  return e;
}

static void free_example(example *e) {
  free(e->w.data);
  free(e->file);
  free(e->x);
  free(e->y);
  free(e->should);
  free(e->scratch);
}

/* The kernel under test, the split one, and the definition. */
static void check_bits(example *e) {
  size_t bytes = e->n_x * e->w.rows * sizeof *e->y;
  DEFINITION(e->should, e->x, e->n_x, &e->w);
  TWIN.matmul(e->y, e->x, e->n_x, &e->w, e->scratch);
  CHECK_EQ_BITS(e->y, e->should, bytes);
  e->w.layout->matmul(e->y, e->x, e->n_x, &e->w, e->scratch);
#ifdef HD_RELAXED
  for (size_t i = 0; i < e->n_x * e->w.rows; i++) CHECK_NEAR(e->y[i], e->should[i], 1e-4, 1e-5);
#else
  CHECK_EQ_BITS(e->y, e->should, bytes);
#endif
}

TEST(the_kernel_is_its_definition_bit_for_bit) {
  for (size_t s = 0; s < N_SIZES; s++)
    for (size_t t = 0; t < N_COUNTS; t++) {
      example e = example_of(sizes[s].rows, sizes[s].cols, input_counts[t]);
      check_bits(&e);
      free_example(&e);
    }
}

TEST(odd_activations_quantise_as_defined) {
  example e = example_of(6, 64, 1);
  const float cases[] = {0.0f, 1e-45f, 180 * 0x1p-149f, 1e-38f, 3e38f, -127.0f, 0.5f};
  for (size_t c = 0; c < 7; c++) {
    for (size_t i = 0; i < 64; i++) e.x[i] = cases[c] * (i % 3 == 0 ? 1.0f : i % 3 == 1 ? -0.5f : 0.25f);
    check_bits(&e);
  }
  for (size_t i = 0; i < 64; i++) e.x[i] = (float)((int)i - 32) * 0.5f; /* halves: to the even one */
  e.x[63] = 127.0f;
  e.x[0] = -127.0f;
  check_bits(&e);
  free_example(&e);
}

TEST(activations_that_are_not_finite_make_nan) {
  example e = example_of(6, 64, 2);
  e.x[40] = NAN;
  e.x[64 + 3] = -INFINITY;
  e.w.layout->matmul(e.y, e.x, 2, &e.w, e.scratch);
  for (size_t i = 0; i < 12; i++) CHECK(isnan(e.y[i]));
  free_example(&e);
}

TEST(the_definition_is_near_the_product_in_double) {
  example e = example_of(16, 576, 3);
  float *values = malloc(16 * 576 * sizeof *values);
  double *exact = malloc(3 * 16 * sizeof *exact);
  values_of(values, e.file, 16, 576);
  k_reference_matmul(exact, e.x, values, 3, 16, 576);
  DEFINITION(e.should, e.x, 3, &e.w);
  for (size_t i = 0; i < 48; i++) CHECK_NEAR(e.should[i], exact[i], 0.3, 0); /* |w| up to 2.5: 576 errors of up to d/2 each */
  free(values);
  free(exact);
  free_example(&e);
}

TEST(rows_come_back_bit_for_bit) {
  for (size_t s = 0; s < N_SIZES; s++) {
    size_t rows = sizes[s].rows, row_bytes = row_bytes_of(sizes[s].cols);
    example e = example_of(rows, sizes[s].cols, 0);
    if (e.file_bytes > 1) e.file[0] = 0x01, e.file[1] = 0xfc; /* an F16 scale: NaN with a payload */
    unsigned char *back = malloc(e.file_bytes);
    for (size_t first = 0; first < rows; first += 4) /* in pieces, as they stream in */
      e.w.layout->pack(&e.w, first, rows - first < 4 ? rows - first : 4, e.file + first * row_bytes);
    e.w.layout->unpack(&e.w, 0, rows, back);
    CHECK_EQ_BITS(back, e.file, e.file_bytes);
    if (rows > 4) {
      e.w.layout->unpack(&e.w, 4, 1, back);
      CHECK_EQ_BITS(back, e.file + 4 * row_bytes, row_bytes);
    }
    free(back);
    free_example(&e);
  }
}

TEST(rows_and_gradients_use_the_files_values) {
  for (size_t s = 0; s < N_SIZES; s++) {
    size_t rows = sizes[s].rows, cols = sizes[s].cols, n_x = 3;
    example e = example_of(rows, cols, n_x);
    float *values = malloc(rows * cols * sizeof *values), *row = malloc(cols * sizeof *row), *d_y = test_random_floats(n_x * rows);
    double *should = malloc(n_x * cols * sizeof *should);
    values_of(values, e.file, rows, cols);
    for (size_t r = 0; r < rows; r++) {
      e.w.layout->row(&e.w, r, row);
      CHECK_EQ_BITS(row, values + r * cols, cols * sizeof *row);
    }
    for (size_t i = 0; i < n_x * cols; i++) should[i] = (double)e.x[i];
    k_reference_matmul_grad(should, d_y, values, n_x, rows, cols);
    e.w.layout->matmul_grad(e.x, d_y, n_x, &e.w);
    for (size_t i = 0; i < n_x * cols; i++) CHECK_NEAR(e.x[i], should[i], 2e-5, 1e-6);
    free(values);
    free(row);
    free(d_y);
    free(should);
    free_example(&e);
  }
}

TEST(any_number_of_threads_gives_the_same_bits) {
#ifdef __wasm__
  SKIP("WebAssembly's workers are made by JavaScript");
#else
  for (size_t n_x = 1; n_x < 8; n_x += 3) {
    example e = example_of(1030, 512, n_x);
    CHECK(hd_pool_start(3, NULL) == HD_OK);
    check_bits(&e);
    hd_pool_stop();
    free_example(&e);
  }
#endif
}

#endif
