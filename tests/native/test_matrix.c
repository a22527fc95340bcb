/* kernels/matrix.c and panels.c: every row-major layout against double, over sizes of every remainder; gradients; scalar twins
 * and thread counts with ==. Weights and inputs are allocated exactly. */
#include "test.h"

#define HD_SIMD_SCALAR
#define hd_layout_rows_f32 twin_rows_f32
#define hd_layout_rows_f16 twin_rows_f16
#define hd_layout_rows_f16_finite twin_rows_f16_finite
#define hd_layout_rows_bf16 twin_rows_bf16
#define hd_matrix_settle twin_settle
#define hd_layout_for twin_layout_for
#define k_matmul_weight_grad twin_weight_grad
#define k_panels_add twin_panels_add
#include "kernels/panels.c"
#undef INLINE
#include "kernels/matrix.c"
#undef hd_layout_rows_f32
#undef hd_layout_rows_f16
#undef hd_layout_rows_f16_finite
#undef hd_layout_rows_bf16
#undef hd_matrix_settle
#undef hd_layout_for
#undef k_matmul_weight_grad
#undef k_panels_add
extern const hd_layout hd_layout_rows_f32, hd_layout_rows_f16, hd_layout_rows_f16_finite, hd_layout_rows_bf16;
const hd_layout *hd_layout_for(hd_dtype dtype);
void hd_matrix_settle(hd_matrix *w);
void k_matmul_weight_grad(float *d_w, const float *d_y, const float *x, size_t n_x, size_t rows, size_t cols);

#include "kernels/reference.h"

static const struct { const hd_layout *layout, *twin; } pairs[] = {{&hd_layout_rows_f32, &twin_rows_f32},
                                                                  {&hd_layout_rows_f16, &twin_rows_f16},
                                                                  {&hd_layout_rows_f16_finite, &twin_rows_f16_finite},
                                                                  {&hd_layout_rows_bf16, &twin_rows_bf16}};
static const size_t inputs[] = {0, 1, 2, 3, 4, 6, 7, 13};
static const struct { size_t rows, cols; } sizes[] = {{1, 1}, {3, 5}, {4, 4}, {8, 3}, {9, 17}, {16, 64}, {23, 259}, {7, 600}, {0, 4}, {40, 520}};
enum { N_INPUTS = sizeof inputs / sizeof *inputs, N_SIZES = sizeof sizes / sizeof *sizes, N_LAYOUTS = sizeof pairs / sizeof *pairs };

typedef struct example {
  hd_matrix w;
  float *values;  /* of w, as float32 */
  float *x, *y;   /* [n_x, cols], [n_x, rows] */
  double *should; /* max(n_x · rows, n_x · cols) */
  size_t n_x, n_y, n_in;
} example;

static example example_of(const hd_layout *layout, size_t rows, size_t cols, size_t n_x) {
  example e = {.n_x = n_x, .n_y = n_x * rows, .n_in = n_x * cols};
  size_t bytes = 0;
  e.w = (hd_matrix){layout, rows, cols, NULL};
  CHECK(e.w.layout->bytes(rows, cols, &bytes) && bytes == rows * cols * hd_dtype_get(layout->dtype)->block_bytes);
  e.w.data = malloc(bytes);
  e.values = test_random_floats(rows * cols);
  layout->from_f32(&e.w, 0, rows, e.values);
  hd_dtype_get(layout->dtype)->to_f32(e.w.data, e.values, rows * cols);
  e.x = test_random_floats(e.n_in);
  e.y = test_random_floats(e.n_y);
  e.should = calloc(e.n_y + e.n_in + rows * cols, sizeof *e.should);
  return e;
}

static void free_example(example *e) {
  free(e->w.data);
  free(e->values);
  free(e->x);
  free(e->y);
  free(e->should);
}

#define EACH_EXAMPLE(e)                                                               \
  for (size_t d = 0; d < N_LAYOUTS; d++)                                              \
    for (size_t s = 0; s < N_SIZES; s++)                                              \
      for (size_t t = 0; t < N_INPUTS; t++)                                           \
        for (example e = example_of(pairs[d].layout, sizes[s].rows, sizes[s].cols, inputs[t]), *once = &e; once; free_example(&e), once = NULL)

/* Half an ulp a step in one chain of n sums of products below 1 (far below the worst case, which is n times that). */
static double tolerance(size_t n) { return 0x1p-24 * (8 + (double)n); }

TEST(matmul_is_the_textbooks_for_every_dtype_and_size) {
  EACH_EXAMPLE(e) {
    e.w.layout->matmul(e.y, e.x, e.n_x, &e.w, NULL);
    k_reference_matmul(e.should, e.x, e.values, e.n_x, e.w.rows, e.w.cols);
    for (size_t i = 0; i < e.n_y; i++) CHECK_NEAR(e.y[i], e.should[i], tolerance(e.w.cols), 1e-6);
  }
}

TEST(input_gradients_are_added) {
  EACH_EXAMPLE(e) {
    for (size_t i = 0; i < e.n_in; i++) e.should[i] = (double)e.x[i];
    k_reference_matmul_grad(e.should, e.y, e.values, e.n_x, e.w.rows, e.w.cols);
    e.w.layout->matmul_grad(e.x, e.y, e.n_x, &e.w);
    for (size_t i = 0; i < e.n_in; i++) CHECK_NEAR(e.x[i], e.should[i], tolerance(e.w.rows), 1e-6);
  }
}

TEST(weight_gradients_are_added) {
  EACH_EXAMPLE(e) {
    size_t n_w = e.w.rows * e.w.cols;
    for (size_t i = 0; i < n_w; i++) e.should[i] = (double)e.values[i];
    k_reference_matmul_weight_grad(e.should, e.y, e.x, e.n_x, e.w.rows, e.w.cols);
    k_matmul_weight_grad(e.values, e.y, e.x, e.n_x, e.w.rows, e.w.cols);
    for (size_t i = 0; i < n_w; i++) CHECK_NEAR(e.values[i], e.should[i], tolerance(e.n_x), 1e-6);
  }
}

TEST(rows_come_back_bit_for_bit) {
  EACH_EXAMPLE(e) {
    size_t bytes;
    e.w.layout->bytes(e.w.rows, e.w.cols, &bytes);
    void *copy = malloc(bytes);
    float *row = malloc(e.w.cols * sizeof *row);
    e.w.layout->unpack(&e.w, 0, e.w.rows, copy);
    CHECK_EQ_BITS(copy, e.w.data, bytes);
    memset(e.w.data, 1, bytes);
    for (size_t r = 0; r < e.w.rows; r++) e.w.layout->pack(&e.w, r, 1, (char *)copy + r * (bytes / e.w.rows));
    CHECK_EQ_BITS(copy, e.w.data, bytes);
    for (size_t r = 0; r < e.w.rows; r++) {
      e.w.layout->row(&e.w, r, row);
      CHECK_EQ_BITS(row, e.values + r * e.w.cols, e.w.cols * sizeof *row);
    }
    free(copy);
    free(row);
  }
}

TEST(scalar_twins_give_the_same_bits) {
#ifdef HD_RELAXED
  SKIP("relaxed multiply-add may round differently");
#endif
  EACH_EXAMPLE(e) {
    float *twin = malloc((e.n_y + e.n_in + e.w.rows * e.w.cols) * sizeof *twin);
    const hd_layout *layout = pairs[d].twin;
    layout->matmul(twin, e.x, e.n_x, &(hd_matrix){layout, e.w.rows, e.w.cols, e.w.data}, NULL);
    e.w.layout->matmul(e.y, e.x, e.n_x, &e.w, NULL);
    CHECK_EQ_BITS(e.y, twin, e.n_y * sizeof *twin);
    memcpy(twin, e.x, e.n_in * sizeof *twin);
    layout->matmul_grad(twin, e.y, e.n_x, &(hd_matrix){layout, e.w.rows, e.w.cols, e.w.data});
    e.w.layout->matmul_grad(e.x, e.y, e.n_x, &e.w);
    CHECK_EQ_BITS(e.x, twin, e.n_in * sizeof *twin);
    memcpy(twin, e.values, e.w.rows * e.w.cols * sizeof *twin);
    twin_weight_grad(twin, e.y, e.x, e.n_x, e.w.rows, e.w.cols);
    k_matmul_weight_grad(e.values, e.y, e.x, e.n_x, e.w.rows, e.w.cols);
    CHECK_EQ_BITS(e.values, twin, e.w.rows * e.w.cols * sizeof *twin);
    free(twin);
  }
}

TEST(any_number_of_threads_gives_the_same_bits) {
#ifdef __wasm__
  SKIP("WebAssembly's workers are made by JavaScript");
#else
  for (size_t n_x = 1; n_x < 12; n_x += 5) {
    example e = example_of(&hd_layout_rows_bf16, 1003, 515, n_x);
    float *alone = malloc(e.n_y * sizeof *alone), *d_alone = malloc(e.n_in * sizeof *d_alone);
    e.w.layout->matmul(alone, e.x, n_x, &e.w, NULL);
    memcpy(d_alone, e.x, e.n_in * sizeof *d_alone);
    e.w.layout->matmul_grad(d_alone, alone, n_x, &e.w);
    CHECK(hd_pool_start(3, NULL) == HD_OK);
    e.w.layout->matmul(e.y, e.x, n_x, &e.w, NULL);
    e.w.layout->matmul_grad(e.x, e.y, n_x, &e.w);
    hd_pool_stop();
    CHECK_EQ_BITS(e.y, alone, e.n_y * sizeof *alone);
    CHECK_EQ_BITS(e.x, d_alone, e.n_in * sizeof *d_alone);
    free(alone);
    free(d_alone);
    free_example(&e);
  }
#endif
}

TEST(f16_rows_settle_on_the_quicker_layout_unless_a_value_is_not_finite) {
  uint16_t values[3 * 5];
  hd_matrix w = {&hd_layout_rows_f16, 3, 5, values};
  for (size_t i = 0; i < 15; i++) values[i] = (uint16_t)(i * 0x7bfu % 0x7c00u);
  values[3] = 0xfbff;
  hd_matrix_settle(&w);
  CHECK(w.layout == &hd_layout_rows_f16_finite);
  static const uint16_t special[] = {0x7c00, 0xfc00, 0x7c01, 0xffff};
  for (size_t i = 0; i < 4; i++) {
    values[14] = special[i];
    hd_matrix_settle(&w);
    CHECK(w.layout == &hd_layout_rows_f16);
  }
  float y[3], x[5] = {1, 1, 1, 1, 1};
  w.layout->matmul(y, x, 1, &w, NULL);
  CHECK(isfinite(y[1]) && isnan(y[2]));
  values[14] = 0;
  hd_matrix_settle(&w);
  CHECK(w.layout == &hd_layout_rows_f16_finite);
}

TEST(layouts_are_found_by_dtype_and_refuse_overflow) {
  size_t bytes;
  CHECK(hd_layout_for(HD_F64) == NULL && hd_layout_for(HD_DTYPE_COUNT) == NULL);
  CHECK(hd_layout_for(HD_Q8_0) && !hd_layout_for(HD_Q8_0)->bytes(4, 33, &bytes));
  for (size_t d = 0; d < N_LAYOUTS; d++) {
    hd_dtype dtype = pairs[d].layout->dtype;
    CHECK(hd_layout_for(dtype)->dtype == dtype);
    CHECK(!pairs[d].layout->bytes(SIZE_MAX / 2, 3, &bytes));
    CHECK(!pairs[d].layout->bytes(SIZE_MAX / 2 + 1, 1, &bytes) || dtype != HD_F32);
  }
}
