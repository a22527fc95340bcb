/* kernels/activation.c: the table of activations, value and derivative. Each is a function of four lanes; EACH_WAY makes the two array
 * functions of it. An array's last lanes go through the same vector text, so a value does not depend on its place.
 * Limits at ±∞ are the functions' own: silu(−∞) and gelu(−∞) are 0, not −∞ · 0. */
#include "kernels/elementwise.h"

#include "kernels/vmath.h"

#include <math.h>

typedef v_f32 (*lanes_function)(v_f32 x);

/* y = f(x). Inlined into each row's function, so f is a direct call there. */
static inline __attribute__((always_inline)) void map(float *y, const float *x, size_t n, lanes_function f) {
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) v_store(y + i, f(v_load(x + i)));
  if (i < n) v_store_part(y + i, f(v_load_part(x + i, n - i)), n - i);
}

/* d_x += d_y · f(x). */
static inline __attribute__((always_inline)) void map_add(float *d_x, const float *d_y, const float *x, size_t n, lanes_function f) {
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) v_store(d_x + i, v_madd(v_load(d_y + i), f(v_load(x + i)), v_load(d_x + i)));
  if (i == n) return;
  size_t left = n - i;
  v_f32 d = v_madd(v_load_part(d_y + i, left), f(v_load_part(x + i, left)), v_load_part(d_x + i, left));
  v_store_part(d_x + i, d, left);
}

#define EACH_WAY(name)                                                                                              \
  static void name##_forward(float *y, const float *x, size_t n) { map(y, x, n, name); }                            \
  static void name##_backward(float *d_x, const float *d_y, const float *x, size_t n) { map_add(d_x, d_y, x, n, name##_slope); }

/* ---- linear and its kinks ---- */

static inline v_f32 linear(v_f32 x) { return x; }
static inline v_f32 linear_slope(v_f32 x) { (void)x; return v_splat(1.0f); }

static inline v_f32 relu(v_f32 x) { return v_max(x, v_zero()); }
static inline v_f32 relu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_zero()); }

static inline v_f32 leaky_relu(v_f32 x) { return v_select(v_lt(x, v_zero()), v_mul(x, v_splat(0.01f)), x); }
static inline v_f32 leaky_relu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_splat(0.01f)); }

/* ---- exp's family ---- */

static inline v_f32 sigmoid(v_f32 x) { return v_sigmoid(x); }
/* s · (1 − s) = e / (1 + e)² with e = e^−|x|: nothing cancels. */
static inline v_f32 sigmoid_slope(v_f32 x) {
  v_f32 e = v_exp(v_neg(v_abs(x))), sum = v_add(v_splat(1.0f), e);
  return v_div(e, v_mul(sum, sum));
}

static inline v_f32 tanh_(v_f32 x) { return v_tanh(x); }
static inline v_f32 tanh__slope(v_f32 x) { return v_mul(v_splat(4.0f), sigmoid_slope(v_add(x, x))); }

static inline v_f32 softplus(v_f32 x) { return v_add(v_max(x, v_zero()), v_log1p_unit(v_exp(v_neg(v_abs(x))))); }
static inline v_f32 softplus_slope(v_f32 x) { return v_sigmoid(x); }

/* Below this e^x is 0 in float32, and so is x · e^x. */
static inline v_f32 not_below(v_f32 x) { return v_max(x, v_splat(-200.0f)); }

static inline v_f32 silu(v_f32 x) { return v_mul(not_below(x), v_sigmoid(x)); }
static inline v_f32 silu_slope(v_f32 x) {
  x = v_min(not_below(x), v_splat(200.0f));
  return v_add(v_sigmoid(x), v_mul(x, sigmoid_slope(x)));
}

/* ---- gelu: x · Φ(x), and its approximation with tanh ---- */

static inline v_f32 normal_below(v_f32 x, v_f32 bell) {
  v_f32 tail = v_normal_tail(x, bell);
  return v_select(v_lt(v_zero(), x), v_sub(v_splat(1.0f), tail), tail);
}

static inline v_f32 gelu(v_f32 x) { return v_mul(not_below(x), normal_below(x, v_bell(x))); }
static inline v_f32 gelu_slope(v_f32 x) {
  v_f32 bell = v_bell(x), density = v_mul(bell, v_splat(0.398942280f));
  return v_madd(v_min(not_below(x), v_splat(200.0f)), density, normal_below(x, bell));
}

#define GELU_A 0.797884561f /* √(2/π) */
#define GELU_B 0.044715f

/* ½ (1 + tanh u) is sigmoid(2u); this is 2u. */
static inline v_f32 gelu_tanh_inner(v_f32 x) {
  v_f32 square = v_mul(x, x);
  return v_mul(v_mul(v_splat(2 * GELU_A), x), v_madd(v_splat(GELU_B), square, v_splat(1.0f)));
}

static inline v_f32 gelu_tanh(v_f32 x) { return v_mul(not_below(x), v_sigmoid(gelu_tanh_inner(x))); }
static inline v_f32 gelu_tanh_slope(v_f32 x) {
  x = v_min(not_below(x), v_splat(200.0f));
  v_f32 inner = gelu_tanh_inner(x), square = v_mul(x, x);
  v_f32 d_inner = v_mul(v_splat(2 * GELU_A), v_madd(v_splat(3 * GELU_B), square, v_splat(1.0f)));
  return v_add(v_sigmoid(inner), v_mul(v_mul(x, d_inner), sigmoid_slope(inner)));
}

/* ---- Loom's own: computed in double there and rounded once, so here too ---- */

static void loom_relu_forward(float *y, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = x[i] < 0.0f ? 0.0f : (float)(1.1 * (double)x[i]);
}
static inline v_f32 loom_relu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(1.1f), v_zero()); }
static void loom_relu_backward(float *d_x, const float *d_y, const float *x, size_t n) { map_add(d_x, d_y, x, n, loom_relu_slope); }

static void loom_leaky_relu_forward(float *y, const float *x, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = x[i] < 0.0f ? (float)(0.1 * (double)x[i]) : x[i];
}
static inline v_f32 loom_leaky_relu_slope(v_f32 x) { return v_select(v_lt(x, v_zero()), v_splat(0.1f), v_splat(1.0f)); }
static void loom_leaky_relu_backward(float *d_x, const float *d_y, const float *x, size_t n) {
  map_add(d_x, d_y, x, n, loom_leaky_relu_slope);
}

/* In double, e^x overflows from 709.78 on, and 1 + e^x is 1 up to −36.74. */
static inline v_f32 loom_softplus(v_f32 x) {
  v_f32 y = v_select(v_lt(v_splat(709.782654f), x), v_splat(INFINITY), softplus(x));
  return v_select(v_lt(x, v_splat(-36.7368011f)), v_zero(), y);
}
static inline v_f32 loom_softplus_slope(v_f32 x) { return v_sigmoid(x); }

EACH_WAY(linear)
EACH_WAY(relu)
EACH_WAY(leaky_relu)
EACH_WAY(sigmoid)
EACH_WAY(tanh_)
EACH_WAY(softplus)
EACH_WAY(silu)
EACH_WAY(gelu)
EACH_WAY(gelu_tanh)
EACH_WAY(loom_softplus)

static const hd_activation activations[] = {
    {"linear", linear_forward, linear_backward},
    {"relu", relu_forward, relu_backward},
    {"leaky_relu", leaky_relu_forward, leaky_relu_backward},
    {"sigmoid", sigmoid_forward, sigmoid_backward},
    {"tanh", tanh__forward, tanh__backward},
    {"softplus", softplus_forward, softplus_backward},
    {"silu", silu_forward, silu_backward},
    {"gelu", gelu_forward, gelu_backward},
    {"gelu_tanh", gelu_tanh_forward, gelu_tanh_backward},
    {"loom_relu", loom_relu_forward, loom_relu_backward},
    {"loom_leaky_relu", loom_leaky_relu_forward, loom_leaky_relu_backward},
    {"loom_softplus", loom_softplus_forward, loom_softplus_backward},
};

const hd_activation *hd_activation_at(size_t index) {
  return index < sizeof activations / sizeof *activations ? &activations[index] : NULL;
}

const hd_activation *hd_activation_find(const char *name) {
  for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
    if (strcmp(activations[i].name, name) == 0) return &activations[i];
  return NULL;
}

float k_exp(float x) { return V_GET(v_exp(v_splat(x)), 0); }
