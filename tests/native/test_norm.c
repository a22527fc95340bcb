/* kernels/norm.c: RMS norm and softmax against double, their gradients against finite differences, scalar twins with ==. */
#include "test.h"

#define HD_SIMD_SCALAR
#define k_softmax_f32 twin_softmax
#define k_softmax_grad_f32 twin_softmax_grad
#define k_rms_norm_f32 twin_rms_norm
#define k_rms_norm_grad_f32 twin_rms_norm_grad
#include "kernels/norm.c"
#undef k_softmax_f32
#undef k_softmax_grad_f32
#undef k_rms_norm_f32
#undef k_rms_norm_grad_f32
void k_softmax_f32(float *y, const float *x, size_t n, float scale);
void k_softmax_grad_f32(float *d_x, const float *d_y, const float *y, size_t n, float scale);
void k_rms_norm_f32(float *y, const float *x, const float *gamma, size_t n_rows, size_t n, float epsilon);
void k_rms_norm_grad_f32(float *d_x, float *d_gamma, const float *d_y, const float *x, const float *gamma, size_t n_rows,
                         size_t n, float epsilon);

#include "kernels/reference.h"

static const size_t sizes[] = {1, 3, 4, 5, 17, 64, 65, 4096, 50001};
enum { N_SIZES = sizeof sizes / sizeof *sizes };

TEST(rms_norm_is_exact_to_a_millionth_on_long_rows) {
  for (size_t s = 0; s < N_SIZES; s++) {
    size_t n = sizes[s], rows = 2;
    float *x = test_random_floats(rows * n), *gamma = test_random_floats(n), *y = malloc(rows * n * sizeof *y);
    double *should = malloc(rows * n * sizeof *should);
    for (int with_gamma = 0; with_gamma < 2; with_gamma++) {
      const float *g = with_gamma ? gamma : NULL;
      k_rms_norm_f32(y, x, g, rows, n, 1e-5f);
      k_reference_rms_norm(should, x, g, rows, n, (double)1e-5f);
      for (size_t i = 0; i < rows * n; i++) CHECK_NEAR(y[i], should[i], 0, 3e-7);
    }
    memcpy(y, x, rows * n * sizeof *y);
    k_rms_norm_f32(y, y, gamma, rows, n, 1e-5f); /* in place */
    for (size_t i = 0; i < rows * n; i++) CHECK_NEAR(y[i], should[i], 0, 3e-7);
    free(x);
    free(gamma);
    free(y);
    free(should);
  }
}

/* Σ weights · rms_norm(x), whose gradient is that of d_y = weights. */
static double norm_loss(const float *weights, const float *x, const float *gamma, size_t rows, size_t n) {
  double *y = malloc(rows * n * sizeof *y), sum = 0;
  k_reference_rms_norm(y, x, gamma, rows, n, (double)1e-5f);
  for (size_t i = 0; i < rows * n; i++) sum += y[i] * (double)weights[i];
  free(y);
  return sum;
}

/* d loss / d *at, by moving it. */
static double moved(float *at, double (*loss)(const float *, const float *, const float *, size_t, size_t), const float *weights,
                    const float *x, const float *gamma, size_t rows, size_t n) {
  float was = *at, up = was + 1e-3f, down = was - 1e-3f;
  *at = up;
  double above = loss(weights, x, gamma, rows, n);
  *at = down;
  double below = loss(weights, x, gamma, rows, n);
  *at = was;
  return (above - below) / ((double)up - (double)down);
}

TEST(rms_norm_gradients_are_finite_differences) {
  size_t rows = 3, n = 13;
  float *x = test_random_floats(rows * n), *gamma = test_random_floats(n), *d_y = test_random_floats(rows * n);
  float *d_x = malloc(rows * n * sizeof *d_x), *d_gamma = malloc(n * sizeof *d_gamma);
  for (int with_gamma = 0; with_gamma < 2; with_gamma++) {
    float *g = with_gamma ? gamma : NULL;
    for (size_t i = 0; i < rows * n; i++) d_x[i] = 0.5f;
    for (size_t i = 0; i < n; i++) d_gamma[i] = 0.5f;
    k_rms_norm_grad_f32(d_x, g ? d_gamma : NULL, d_y, x, g, rows, n, 1e-5f);
    for (size_t i = 0; i < rows * n; i++) CHECK_NEAR(d_x[i], 0.5 + moved(x + i, norm_loss, d_y, x, g, rows, n), 2e-5, 2e-5);
    for (size_t i = 0; g && i < n; i++) CHECK_NEAR(d_gamma[i], 0.5 + moved(gamma + i, norm_loss, d_y, x, g, rows, n), 2e-5, 2e-5);
  }
  free(x);
  free(gamma);
  free(d_y);
  free(d_x);
  free(d_gamma);
}

TEST(softmax_is_near_double_at_every_size) {
  for (size_t s = 0; s < N_SIZES; s++) {
    size_t n = sizes[s];
    float *x = test_random_floats(n), *y = malloc(n * sizeof *y);
    double *should = malloc(n * sizeof *should), sum = 0;
    for (size_t i = 0; i < n; i++) x[i] *= 30;
    k_softmax_f32(y, x, n, 0.5f);
    k_reference_softmax(should, x, n, 0.5);
    for (size_t i = 0; i < n; i++) sum += (double)y[i];
    for (size_t i = 0; i < n; i++) CHECK_NEAR(y[i], should[i], 1e-38, 2e-6);
    CHECK_NEAR(sum, 1, 1e-6, 0);
    k_softmax_f32(x, x, n, 0.5f); /* in place */
    CHECK_EQ_BITS(x, y, n * sizeof *x);
    free(x);
    free(y);
    free(should);
  }
}

TEST(softmax_takes_huge_and_hidden_scores) {
  float y[6];
  k_softmax_f32(y, (float[]){3e38f, 3e38f, -INFINITY, 0, -3e38f, 3e38f}, 6, 1.0f);
  for (size_t i = 0; i < 6; i++) CHECK_NEAR(y[i], i == 0 || i == 1 || i == 5 ? 1.0 / 3 : 0, 0, 1e-6);
  k_softmax_f32(y, (float[]){-3e38f}, 1, 1.0f);
  CHECK(y[0] == 1);
  k_softmax_f32(y, (float[]){1, 2, NAN, 3, 1}, 5, 1.0f);
  CHECK(isnan(y[0]) && isnan(y[2]) && isnan(y[4]));
  k_softmax_f32(NULL, NULL, 0, 1.0f);
}

static double softmax_loss(const float *weights, const float *x, const float *unused, size_t rows, size_t n) {
  (void)unused;
  (void)rows;
  double *y = malloc(n * sizeof *y), sum = 0;
  k_reference_softmax(y, x, n, (double)0.7f);
  for (size_t i = 0; i < n; i++) sum += y[i] * (double)weights[i];
  free(y);
  return sum;
}

TEST(softmax_gradient_is_finite_differences) {
  size_t n = 11;
  float *x = test_random_floats(n), *d_y = test_random_floats(n), *y = malloc(n * sizeof *y), *d_x = malloc(n * sizeof *d_x);
  k_softmax_f32(y, x, n, 0.7f);
  for (size_t i = 0; i < n; i++) d_x[i] = -1;
  k_softmax_grad_f32(d_x, d_y, y, n, 0.7f);
  for (size_t i = 0; i < n; i++) CHECK_NEAR(d_x[i], -1 + moved(x + i, softmax_loss, d_y, x, NULL, 1, n), 1e-6, 1e-5);
  free(x);
  free(d_y);
  free(y);
  free(d_x);
}

TEST(scalar_twins_give_the_same_bits) {
#ifdef HD_RELAXED
  SKIP("relaxed multiply-add may round differently");
#endif
  for (size_t s = 0; s < N_SIZES; s++) {
    size_t n = sizes[s];
    float *x = test_random_floats(n), *y = malloc(n * sizeof *y), *z = malloc(n * sizeof *z);
    k_softmax_f32(y, x, n, 3.0f);
    twin_softmax(z, x, n, 3.0f);
    CHECK_EQ_BITS(y, z, n * sizeof *y);
    k_rms_norm_f32(y, x, x, 1, n, 1e-6f);
    twin_rms_norm(z, x, x, 1, n, 1e-6f);
    CHECK_EQ_BITS(y, z, n * sizeof *y);
    free(x);
    free(y);
    free(z);
  }
}
