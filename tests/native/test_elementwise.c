/* kernels/elementwise.c and activation.c: against libm in double, at the ends of the range, and their scalar twins with ==. */
#include "test.h"

/* The same texts over simd_scalar.h, under other names. The real functions are declared again below. */
#define HD_SIMD_SCALAR
#define k_add_f32 twin_add
#define k_multiply_f32 twin_multiply
#define k_axpy_f32 twin_axpy
#define k_multiply_add_f32 twin_multiply_add
#define k_add_rows_f32 twin_add_rows
#define k_sum_rows_f32 twin_sum_rows
#define k_exp twin_exp
#define hd_activation_at twin_activation_at
#define hd_activation_find twin_activation_find
#include "kernels/activation.c"
#include "kernels/elementwise.c"
#undef k_add_f32
#undef k_multiply_f32
#undef k_axpy_f32
#undef k_multiply_add_f32
#undef k_add_rows_f32
#undef k_sum_rows_f32
#undef k_exp
#undef hd_activation_at
#undef hd_activation_find
void k_add_f32(float *y, const float *a, const float *b, size_t n);
void k_multiply_f32(float *y, const float *a, const float *b, size_t n);
void k_axpy_f32(float *y, float alpha, const float *x, size_t n);
void k_multiply_add_f32(float *y, const float *a, const float *b, size_t n);
void k_add_rows_f32(float *y, const float *row, size_t n_rows, size_t n);
void k_sum_rows_f32(float *sum, const float *x, size_t n_rows, size_t n);
float k_exp(float x);
const hd_activation *hd_activation_at(size_t index);
const hd_activation *hd_activation_find(const char *name);

#include "kernels/reference.h"

static const size_t sizes[] = {0, 1, 3, 4, 5, 17, 1003};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

TEST(sums_and_products_are_right_at_every_size) {
  for (size_t s = 0; s < N_SIZES; s++) {
    size_t n = sizes[s];
    float *a = test_random_floats(n), *b = test_random_floats(n), *y = test_random_floats(n), *z = test_random_floats(n);
    k_add_f32(y, a, b, n);
    for (size_t i = 0; i < n; i++) CHECK(y[i] == a[i] + b[i]);
    k_multiply_f32(z, a, b, n);
    for (size_t i = 0; i < n; i++) CHECK(z[i] == a[i] * b[i]);
    k_axpy_f32(z, 0.7f, a, n);
    for (size_t i = 0; i < n; i++) CHECK_NEAR(z[i], (double)a[i] * (double)b[i] + (double)0.7f * (double)a[i], 2e-7, 0);
    memcpy(z, y, n * sizeof *z);
    k_multiply_add_f32(z, a, b, n);
    for (size_t i = 0; i < n; i++) CHECK_NEAR(z[i], (double)y[i] + (double)a[i] * (double)b[i], 3e-7, 0);
    k_add_f32(y, y, y, n); /* y may be x */
    for (size_t i = 0; i < n; i++) CHECK(y[i] == 2 * (a[i] + b[i]));
    free(a);
    free(b);
    free(y);
    free(z);
  }
}

TEST(rows_are_added_and_summed) {
  for (size_t s = 1; s < N_SIZES; s++) {
    size_t n = sizes[s], rows = 3;
    float *x = test_random_floats(rows * n), *row = test_random_floats(n), *y = malloc(rows * n * sizeof *y), *sum = calloc(n, sizeof *sum);
    memcpy(y, x, rows * n * sizeof *y);
    k_add_rows_f32(y, row, rows, n);
    k_sum_rows_f32(sum, x, rows, n);
    for (size_t i = 0; i < rows * n; i++) CHECK(y[i] == x[i] + row[i % n]);
    for (size_t i = 0; i < n; i++) CHECK(sum[i] == x[i] + x[n + i] + x[2 * n + i]);
    free(x);
    free(row);
    free(y);
    free(sum);
  }
}

/* Values over the whole range: dense near 0, then to the overflow of everything. */
static float sample(size_t i) {
  float sign = i & 1 ? -1.0f : 1.0f;
  size_t k = i / 2;
  if (k < 4000) return sign * (float)k * 0.005f;
  return sign * expf(((float)k - 4000.0f) * 0.01f) * 0.001f;
}
enum { N_SAMPLES = 2 * (4000 + 1300) };

TEST(exp_is_within_two_ulps_of_libm) {
  for (float x = -104.5f; x < 89.5f; x += 0.00713f) {
    double should = exp((double)x);
    float rounded = (float)should;
    CHECK_NEAR(k_exp(x), rounded, 1.5e-45, 2.4e-7);
  }
  CHECK(k_exp(INFINITY) == INFINITY && k_exp(89.0f) == INFINITY && k_exp(3e38f) == INFINITY);
  CHECK(k_exp(-INFINITY) == 0 && k_exp(-3e38f) == 0 && k_exp(0) == 1 && isnan(k_exp(NAN)));
}

/* The error allowed to each: what the rounding of its argument alone may cost is in the relative part. */
static double relative_tolerance(const char *name, double x) {
  if (strcmp(name, "gelu_tanh") == 0 && x < -1) return 1e-6 + 2.4e-7 * fabs(x * x * x * 0.0714); /* the exponent's own rounding */
  if (strcmp(name, "quick_gelu") == 0 && x < -1) return 1e-6 + 2.4e-7 * fabs(x);
  return strcmp(name, "linear") == 0 ? 0 : 1e-6;
}

TEST(activations_are_near_libm_over_the_whole_range) {
  float *x = malloc(N_SAMPLES * sizeof *x), *y = malloc(N_SAMPLES * sizeof *y);
  for (size_t i = 0; i < N_SAMPLES; i++) x[i] = sample(i);
  for (size_t a = 0; hd_activation_at(a); a++) {
    const hd_activation *f = hd_activation_at(a);
    f->forward(y, x, N_SAMPLES);
    for (size_t i = 0; i < N_SAMPLES; i++) {
      double should = k_reference_activation(f->name, (double)x[i]), abs_tol = 1e-37;
      if (strcmp(f->name, "loom_softplus") == 0) abs_tol = 2e-16; /* 1 + e^x has rounded by then */
      if (!CHECK_NEAR(y[i], (float)should, abs_tol, relative_tolerance(f->name, (double)x[i]))) printf("# %s(%.9g)\n", f->name, (double)x[i]);
    }
  }
  free(x);
  free(y);
}

TEST(activations_have_their_limits_at_infinity_and_keep_nan) {
  const float x[] = {INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 0.0f};
  float y[6];
  for (size_t a = 0; hd_activation_at(a); a++) {
    const hd_activation *f = hd_activation_at(a);
    f->forward(y, x, 6);
    for (size_t i = 0; i < 6; i++)
      if (!CHECK_NEAR(y[i], (float)k_reference_activation(f->name, (double)x[i]), 0, 1e-6)) printf("# %s(%g)\n", f->name, (double)x[i]);
  }
}

static double slope(const char *name, double x) {
  double h = 1e-5 * fmax(1, fabs(x));
  return (k_reference_activation(name, x + h) - k_reference_activation(name, x - h)) / (2 * h);
}

TEST(derivatives_are_the_slopes_of_the_functions) {
  for (size_t a = 0; hd_activation_at(a); a++) {
    const hd_activation *f = hd_activation_at(a);
    for (float x = -20.0f; x < 20; x += 0.037f) {
      float d_x = 0.25f, d_y = 2.0f;
      f->backward(&d_x, &d_y, &x, 1);
      if (!CHECK_NEAR(d_x, 0.25 + 2 * slope(f->name, (double)x), 1e-6, 1e-6)) printf("# %s'(%g)\n", f->name, (double)x);
    }
    if (strcmp(f->name, "relu_squared") == 0 || strcmp(f->name, "softsign") == 0) continue; /* their slopes go on changing */
    const float far[] = {1e4f, -1e4f, 3e38f, -3e38f, INFINITY, -INFINITY}, ones[] = {1, 1, 1, 1, 1, 1};
    float d_far[6] = {0};
    f->backward(d_far, ones, far, 6);
    for (size_t i = 0; i < 6; i++) CHECK_NEAR(d_far[i], slope(f->name, i & 1 ? -1e3 : 1e2), 1e-9, 1e-6);
  }
}

TEST(relu_slopes_at_zero_are_pytorchs_and_looms) {
  const float zero = 0, one = 1;
  const struct { const char *name; float slope; } cases[] = {{"relu", 0}, {"leaky_relu", 0.01f}, {"loom_relu", 0}, {"loom_leaky_relu", 1}};
  for (size_t i = 0; i < 4; i++) {
    float d_x = 0;
    hd_activation_find(cases[i].name)->backward(&d_x, &one, &zero, 1);
    CHECK(d_x == cases[i].slope);
  }
  CHECK(hd_activation_find("swish") == NULL && hd_activation_find("") == NULL);
}

TEST(every_place_in_an_array_gives_the_scalar_twins_bits) {
#ifdef HD_RELAXED
  SKIP("relaxed multiply-add may round differently");
#endif
  for (size_t a = 0; hd_activation_at(a); a++)
    for (size_t s = 0; s < N_SIZES; s++) {
      size_t n = sizes[s];
      float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y), *z = malloc(n * sizeof *z);
      for (size_t i = 0; i < n; i++) x[i] = sample(i * 7 % N_SAMPLES);
      hd_activation_at(a)->forward(y, x, n);
      twin_activation_at(a)->forward(z, x, n);
      CHECK_EQ_BITS(y, z, n * sizeof *y);
      hd_activation_at(a)->backward(y, x, x, n);
      twin_activation_at(a)->backward(z, x, x, n);
      for (size_t i = 0; i < n; i++) CHECK(memcmp(y + i, z + i, sizeof *y) == 0 || (isnan(y[i]) && isnan(z[i])));
      twin_add(z, x, x, n);
      k_add_f32(y, x, x, n);
      CHECK_EQ_BITS(y, z, n * sizeof *y);
      free(x);
      free(y);
      free(z);
    }
}
