/* kernels/conv.c against the sum it is defined by, in double, at sizes that cross the panels' edges (8 columns, 256 deep) on every side. */
#include "test.h"

#include "kernels/conv.h"

/* An index outside the axis, as PyTorch pads; −1: zero. */
static long inside(k_padding mode, long at, long n) {
  if (at >= 0 && at < n) return at;
  if (mode == K_PAD_REFLECT) return at < 0 ? -at : 2 * (n - 1) - at;
  if (mode == K_PAD_REPLICATE) return at < 0 ? 0 : n - 1;
  if (mode == K_PAD_CIRCULAR) return (at + n) % n;
  return -1;
}

/* Calls visit(y index, x index, w index) for every product of the definition. */
static void each_product(const k_conv *c, void (*visit)(void *, size_t, size_t, size_t), void *context) {
  size_t per = c->in_channels / c->groups, filters = c->out_channels / c->groups;
  for (size_t b = 0; b < c->batch; b++)
    for (size_t f = 0; f < c->out_channels; f++)
      for (size_t oy = 0; oy < c->out[0]; oy++)
        for (size_t ox = 0; ox < c->out[1]; ox++)
          for (size_t k = 0; k < per * c->kernel[0] * c->kernel[1]; k++) {
            size_t channel = k / (c->kernel[0] * c->kernel[1]), ky = k / c->kernel[1] % c->kernel[0], kx = k % c->kernel[1];
            long y = inside(c->mode, (long)(oy * c->stride[0] + ky * c->dilation[0]) - (long)c->padding[0], (long)c->in[0]);
            long x = inside(c->mode, (long)(ox * c->stride[1] + kx * c->dilation[1]) - (long)c->padding[1], (long)c->in[1]);
            if (y < 0 || x < 0) continue;
            size_t plane = b * c->in_channels + f / filters * per + channel;
            visit(context, ((b * c->out_channels + f) * c->out[0] + oy) * c->out[1] + ox, (plane * c->in[0] + (size_t)y) * c->in[1] + (size_t)x,
                  f * per * c->kernel[0] * c->kernel[1] + k);
          }
}

typedef struct arrays {
  const float *x, *w, *d_y;
  double *y, *d_x, *d_w;
} arrays;

static void add_product(void *context, size_t y, size_t x, size_t w) {
  arrays *a = context;
  a->y[y] += (double)a->x[x] * (double)a->w[w];
  a->d_x[x] += (double)a->d_y[y] * (double)a->w[w];
  a->d_w[w] += (double)a->d_y[y] * (double)a->x[x];
}

static void check_near(const float *got, const double *want, size_t n, double tolerance, const char *what) {
  for (size_t i = 0; i < n; i++)
    if (!CHECK_NEAR((double)got[i], want[i], tolerance, 1e-5)) printf("# %s[%zu]\n", what, i);
}

static void check_conv(const k_conv *c) {
  size_t n_x = c->batch * c->in_channels * c->in[0] * c->in[1], n_y = c->batch * c->out_channels * c->out[0] * c->out[1];
  size_t n_w = c->out_channels * (c->in_channels / c->groups) * c->kernel[0] * c->kernel[1], bytes;
  float *x = test_random_floats(n_x), *w = test_random_floats(n_w), *d_y = test_random_floats(n_y);
  float *y = calloc(n_y, sizeof *y), *d_x = calloc(n_x, sizeof *d_x), *d_w = calloc(n_w, sizeof *d_w);
  double *ref = calloc(n_y + n_x + n_w, sizeof *ref);
  arrays a = {x, w, d_y, ref, ref + n_y, ref + n_y + n_x};
  each_product(c, add_product, &a);
  CHECK(k_conv_scratch_bytes(c, &bytes));
  void *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
  k_conv_f32(y, x, w, c);
  k_conv_input_grad_f32(d_x, d_y, w, c, scratch);
  k_conv_weight_grad_f32(d_w, d_y, x, c);
  check_near(y, a.y, n_y, 1e-4, "y");
  check_near(d_x, a.d_x, n_x, 1e-4, "d_x");
  check_near(d_w, a.d_w, n_w, 1e-3, "d_w");
  free(x);
  free(w);
  free(d_y);
  free(y);
  free(d_x);
  free(d_w);
  free(ref);
  free(scratch);
}

static k_conv conv(size_t in, size_t out, size_t groups, size_t height, size_t width, size_t kernel, size_t stride, size_t padding, size_t dilation, k_padding mode) {
  k_conv c = {.batch = 2, .in_channels = in, .out_channels = out, .groups = groups, .in = {height, width}, .kernel = {kernel, kernel},
              .stride = {stride, stride}, .padding = {padding, padding}, .dilation = {dilation, dilation}, .mode = mode};
  for (int i = 0; i < 2; i++) c.out[i] = (c.in[i] + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1;
  return c;
}

TEST(a_convolution_and_its_gradients_are_the_sums_they_are_defined_by) {
  const k_conv all[] = {
    conv(1, 1, 1, 1, 1, 1, 1, 0, 1, K_PAD_ZEROS),      conv(31, 13, 1, 5, 7, 3, 1, 1, 1, K_PAD_ZEROS),   conv(64, 6, 1, 6, 6, 2, 2, 0, 1, K_PAD_ZEROS),
    conv(3, 7, 1, 23, 19, 3, 1, 0, 1, K_PAD_ZEROS),    conv(6, 4, 2, 9, 8, 3, 2, 2, 2, K_PAD_ZEROS),     conv(5, 5, 5, 8, 9, 3, 1, 1, 1, K_PAD_ZEROS),
    conv(4, 3, 1, 7, 6, 3, 1, 2, 1, K_PAD_REFLECT),    conv(4, 3, 1, 7, 6, 3, 2, 3, 1, K_PAD_REPLICATE), conv(4, 3, 1, 7, 6, 3, 1, 3, 2, K_PAD_CIRCULAR),
  };
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) check_conv(&all[i]);
}

TEST(the_gradients_patches_that_do_not_fit_memory_are_told) {
  k_conv c = conv(2, 2, 1, 4, 4, 3, 1, 1, 1, K_PAD_ZEROS);
  c.out[0] = c.out[1] = SIZE_MAX / 2;
  size_t bytes;
  CHECK(!k_conv_scratch_bytes(&c, &bytes));
}
