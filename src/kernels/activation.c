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

/* The same with parameters. */
typedef v_f32 (*lanes_function_with)(v_f32 x, const float *p);

static inline __attribute__((always_inline)) void map_with(float *y, const float *x, size_t n, const float *p, lanes_function_with f) {
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) v_store(y + i, f(v_load(x + i), p));
  if (i < n) v_store_part(y + i, f(v_load_part(x + i, n - i), p), n - i);
}

static inline __attribute__((always_inline)) void map_add_with(float *d_x, const float *d_y, const float *x, size_t n,
                                                               const float *p, lanes_function_with f) {
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) v_store(d_x + i, v_madd(v_load(d_y + i), f(v_load(x + i), p), v_load(d_x + i)));
  if (i == n) return;
  size_t left = n - i;
  v_f32 d = v_madd(v_load_part(d_y + i, left), f(v_load_part(x + i, left), p), v_load_part(d_x + i, left));
  v_store_part(d_x + i, d, left);
}

#define EACH_WAY_WITH(name)                                                                                                           \
  static void name##_forward_with(float *y, const float *x, size_t n, const float *p) { map_with(y, x, n, p, name##_with); }           \
  static void name##_backward_with(float *d_x, const float *d_y, const float *x, size_t n, const float *p) {                          \
    map_add_with(d_x, d_y, x, n, p, name##_slope_with);                                                                               \
  }

/* ---- linear and its kinks ---- */

static inline v_f32 linear(v_f32 x) { return x; }
static inline v_f32 linear_slope(v_f32 x) { (void)x; return v_splat(1.0f); }

static inline v_f32 relu(v_f32 x) { return v_max(x, v_zero()); }
static inline v_f32 relu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_zero()); }

static inline v_f32 leaky_relu(v_f32 x) { return v_select(v_lt(x, v_zero()), v_mul(x, v_splat(0.01f)), x); }
static inline v_f32 leaky_relu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_splat(0.01f)); }

static inline v_f32 leaky_relu_with(v_f32 x, const float *p) { return v_select(v_lt(x, v_zero()), v_mul(x, v_splat(p[0])), x); }
static inline v_f32 leaky_relu_slope_with(v_f32 x, const float *p) { return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_splat(p[0])); }

static inline v_f32 relu6(v_f32 x) { return v_min(relu(x), v_splat(6.0f)); }
static inline v_f32 relu6_slope(v_f32 x) { return v_select(v_lt(x, v_splat(6.0f)), relu_slope(x), v_zero()); }

static inline v_f32 relu_squared(v_f32 x) { return v_mul(relu(x), relu(x)); }
static inline v_f32 relu_squared_slope(v_f32 x) { return v_add(relu(x), relu(x)); }

/* 6 · (1/6) is 1 in float32. */
static inline v_f32 hardsigmoid(v_f32 x) { return v_mul(relu6(v_add(x, v_splat(3.0f))), v_splat(1.0f / 6)); }
static inline v_f32 hardsigmoid_slope(v_f32 x) { return v_mul(relu6_slope(v_add(x, v_splat(3.0f))), v_splat(1.0f / 6)); }

static inline v_f32 hardswish(v_f32 x) { return v_mul(v_max(x, v_splat(-3.0f)), hardsigmoid(x)); }
static inline v_f32 hardswish_slope(v_f32 x) {
  v_f32 within = v_madd(x, v_splat(1.0f / 3), v_splat(0.5f));
  return v_select(v_lt(x, v_splat(3.0f)), v_select(v_lt(v_splat(-3.0f), x), within, v_zero()), v_splat(1.0f));
}

static inline v_f32 softsign(v_f32 x) { return v_div(x, v_add(v_splat(1.0f), v_abs(x))); }
static inline v_f32 softsign_slope(v_f32 x) {
  v_f32 root = v_div(v_splat(1.0f), v_add(v_splat(1.0f), v_abs(x)));
  return v_mul(root, root);
}

/* ---- exp's family ---- */

static inline v_f32 sigmoid(v_f32 x) { return v_sigmoid(x); }
/* s · (1 − s) = e / (1 + e)² with e = e^−|x|: nothing cancels. */
static inline v_f32 sigmoid_slope(v_f32 x) {
  v_f32 e = v_exp(v_neg(v_abs(x))), sum = v_add(v_splat(1.0f), e);
  return v_div(e, v_mul(sum, sum));
}

static inline v_f32 tanh_(v_f32 x) { return v_tanh(x); }
static inline v_f32 tanh__slope(v_f32 x) { return v_mul(v_splat(4.0f), sigmoid_slope(v_add(x, x))); }

/* Parameter: cap; cap · tanh(x / cap). */
static inline v_f32 soft_cap(v_f32 x) { return v_tanh(x); }
static inline v_f32 soft_cap_slope(v_f32 x) { return tanh__slope(x); }
static inline v_f32 soft_cap_with(v_f32 x, const float *p) { return v_mul(v_splat(p[0]), v_tanh(v_div(x, v_splat(p[0])))); }
static inline v_f32 soft_cap_slope_with(v_f32 x, const float *p) { return tanh__slope(v_div(x, v_splat(p[0]))); }

static inline v_f32 softplus(v_f32 x) { return v_add(v_max(x, v_zero()), v_log1p_unit(v_exp(v_neg(v_abs(x))))); }
static inline v_f32 softplus_slope(v_f32 x) { return v_sigmoid(x); }

/* Parameters: beta, threshold; from beta · x = threshold on it is x. */
static inline v_f32 softplus_with(v_f32 x, const float *p) {
  v_f32 z = v_mul(x, v_splat(p[0]));
  return v_select(v_lt(v_splat(p[1]), z), x, v_div(softplus(z), v_splat(p[0])));
}
static inline v_f32 softplus_slope_with(v_f32 x, const float *p) {
  v_f32 z = v_mul(x, v_splat(p[0]));
  return v_select(v_lt(v_splat(p[1]), z), v_splat(1.0f), v_sigmoid(z));
}

static inline v_f32 logsigmoid(v_f32 x) { return v_neg(softplus(v_neg(x))); }
static inline v_f32 logsigmoid_slope(v_f32 x) { return v_sigmoid(v_neg(x)); }

static inline v_f32 elu_with(v_f32 x, const float *p) { return v_select(v_lt(v_zero(), x), x, v_mul(v_splat(p[0]), v_expm1(x))); }
static inline v_f32 elu_slope_with(v_f32 x, const float *p) {
  return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_mul(v_splat(p[0]), v_exp(x)));
}
static inline v_f32 elu(v_f32 x) { return v_select(v_lt(v_zero(), x), x, v_expm1(x)); }
static inline v_f32 elu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(1.0f), v_exp(x)); }

/* "Self-Normalizing Neural Networks" (Klambauer et al., 2017). */
#define SELU_SCALE 1.05070099f
#define SELU_LOW 1.75809932f /* scale · alpha */
static inline v_f32 selu(v_f32 x) {
  return v_select(v_lt(v_zero(), x), v_mul(v_splat(SELU_SCALE), x), v_mul(v_splat(SELU_LOW), v_expm1(x)));
}
static inline v_f32 selu_slope(v_f32 x) { return v_select(v_lt(v_zero(), x), v_splat(SELU_SCALE), v_mul(v_splat(SELU_LOW), v_exp(x))); }

/* Below this e^x is 0 in float32, and so is x · e^x. */
static inline v_f32 not_below(v_f32 x) { return v_max(x, v_splat(-200.0f)); }

static inline v_f32 silu(v_f32 x) { return v_mul(not_below(x), v_sigmoid(x)); }
static inline v_f32 silu_slope(v_f32 x) {
  x = v_min(not_below(x), v_splat(200.0f));
  return v_add(v_sigmoid(x), v_mul(x, sigmoid_slope(x)));
}

#define QUICK_GELU 1.702f
static inline v_f32 quick_gelu(v_f32 x) { return v_mul(not_below(x), v_sigmoid(v_mul(v_splat(QUICK_GELU), x))); }
static inline v_f32 quick_gelu_slope(v_f32 x) {
  x = v_min(not_below(x), v_splat(200.0f));
  v_f32 inner = v_mul(v_splat(QUICK_GELU), x);
  return v_add(v_sigmoid(inner), v_mul(inner, sigmoid_slope(inner)));
}

/* mish (Misra, 2019): x · tanh(softplus(x)), and tanh(softplus(x)) = m / (m + 2) with m = e^2x + 2·e^x. */
static inline v_f32 mish_m(v_f32 x) {
  v_f32 e = v_exp(v_min(x, v_splat(20.0f)));
  return v_mul(e, v_add(e, v_splat(2.0f)));
}
static inline v_f32 mish(v_f32 x) {
  v_f32 m = mish_m(x);
  return v_mul(not_below(x), v_div(m, v_add(m, v_splat(2.0f))));
}
static inline v_f32 mish_slope(v_f32 x) {
  x = v_min(not_below(x), v_splat(200.0f));
  v_f32 m = mish_m(x), below = v_div(v_splat(2.0f), v_add(m, v_splat(2.0f))), t = v_mul(m, v_mul(below, v_splat(0.5f)));
  return v_madd(v_mul(x, v_mul(below, v_add(v_splat(1.0f), t))), v_sigmoid(x), t);
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
EACH_WAY(relu6)
EACH_WAY(relu_squared)
EACH_WAY(leaky_relu)
EACH_WAY(hardsigmoid)
EACH_WAY(hardswish)
EACH_WAY(softsign)
EACH_WAY(sigmoid)
EACH_WAY(tanh_)
EACH_WAY(soft_cap)
EACH_WAY(softplus)
EACH_WAY(logsigmoid)
EACH_WAY(elu)
EACH_WAY(selu)
EACH_WAY(silu)
EACH_WAY(mish)
EACH_WAY(gelu)
EACH_WAY(gelu_tanh)
EACH_WAY(quick_gelu)
EACH_WAY(loom_softplus)

EACH_WAY_WITH(leaky_relu)
EACH_WAY_WITH(soft_cap)
EACH_WAY_WITH(softplus)
EACH_WAY_WITH(elu)

#define ROW(name, torch) {#name, name##_forward, name##_backward, torch, {NULL, NULL}, {0, 0}, NULL, NULL}
#define ROW_WITH(name, torch, key, value, key2, value2) \
  {#name, name##_forward, name##_backward, torch, {key, key2}, {value, value2}, name##_forward_with, name##_backward_with}

static const hd_activation activations[] = {
    ROW(linear, "Identity"),
    ROW(relu, "ReLU"),
    ROW(relu6, "ReLU6"),
    ROW(relu_squared, NULL),
    ROW_WITH(leaky_relu, "LeakyReLU", "negative_slope", 0.01f, NULL, 0),
    ROW(hardsigmoid, "Hardsigmoid"),
    ROW(hardswish, "Hardswish"),
    ROW(softsign, "Softsign"),
    ROW(sigmoid, "Sigmoid"),
    {"tanh", tanh__forward, tanh__backward, "Tanh", {NULL, NULL}, {0, 0}, NULL, NULL},
    ROW_WITH(soft_cap, NULL, "cap", 1, NULL, 0),
    ROW_WITH(softplus, "Softplus", "beta", 1, "threshold", 20),
    ROW(logsigmoid, "LogSigmoid"),
    ROW_WITH(elu, "ELU", "alpha", 1, NULL, 0),
    ROW(selu, "SELU"),
    ROW(silu, "SiLU"),
    ROW(mish, "Mish"),
    ROW(gelu, "GELU"),
    ROW(gelu_tanh, NULL),
    ROW(quick_gelu, NULL),
    ROW(loom_relu, NULL),
    ROW(loom_leaky_relu, NULL),
    ROW(loom_softplus, NULL),
};

const hd_activation *hd_activation_at(size_t index) {
  return index < sizeof activations / sizeof *activations ? &activations[index] : NULL;
}

const hd_activation *hd_activation_find(const char *name) {
  for (size_t i = 0; i < sizeof activations / sizeof *activations; i++)
    if (strcmp(activations[i].name, name) == 0 || (activations[i].torch && strcmp(activations[i].torch, name) == 0)) return &activations[i];
  return NULL;
}

float k_exp(float x) { return V_GET(v_exp(v_splat(x)), 0); }
