/* kernels/vmath.h: exp and its relatives on four lanes, our own polynomials, so that every module and the native build give
 * the same bits. Errors are a few units in the last place; infinities, NaN and subnormal results are what libm gives. */
#ifndef HD_KERNELS_VMATH_H
#define HD_KERNELS_VMATH_H

#include "kernels/simd.h"

/* e^(x + low), where low is a small correction (|low| ≤ ulp(x)): the rest after n · ln 2 is at most ln 2 / 2, where a polynomial of
 * degree 7 is exact enough; 2^n goes on in two factors, since n runs from −150 to 128. */
static inline v_f32 v_exp2part(v_f32 x, v_f32 low) {
  x = v_min(v_max(x, v_splat(-104.0f)), v_splat(89.0f));
  v_f32 turns = v_round(v_mul(x, v_splat(1.44269504f)));
  v_i32 n = v_round_i32(turns), half = vi_shift_right(n, 1);
  v_f32 r = v_sub(x, v_mul(turns, v_splat(0.693359375f))); /* ln 2 in two parts: the first product is exact */
  r = v_add(v_sub(r, v_mul(turns, v_splat(-2.12194440e-4f))), low);
  v_f32 p = v_splat(1.9875691500e-4f);
  p = v_madd(p, r, v_splat(1.3981999507e-3f));
  p = v_madd(p, r, v_splat(8.3334519073e-3f));
  p = v_madd(p, r, v_splat(4.1665795894e-2f));
  p = v_madd(p, r, v_splat(1.6666665459e-1f));
  p = v_madd(p, r, v_splat(5.0000001201e-1f));
  p = v_add(v_madd(p, v_mul(r, r), r), v_splat(1.0f));
  return v_mul(v_mul(p, v_power_of_two(half)), v_power_of_two(vi_sub(n, half)));
}

static inline v_f32 v_exp(v_f32 x) { return v_exp2part(x, v_zero()); }

/* e^x − 1: near 0 what e's polynomial has before the 1 is added, so that nothing cancels. */
static inline v_f32 v_expm1(v_f32 x) {
  v_f32 p = v_splat(1.9875691500e-4f);
  p = v_madd(p, x, v_splat(1.3981999507e-3f));
  p = v_madd(p, x, v_splat(8.3334519073e-3f));
  p = v_madd(p, x, v_splat(4.1665795894e-2f));
  p = v_madd(p, x, v_splat(1.6666665459e-1f));
  p = v_madd(p, x, v_splat(5.0000001201e-1f));
  v_f32 near = v_madd(p, v_mul(x, x), x), far = v_sub(v_exp(x), v_splat(1.0f));
  return v_select(v_lt(v_abs(x), v_splat(0.34f)), near, far);
}

/* ln(1 + u) for 0 ≤ u ≤ 1: 2 · atanh(s) with s = u / (2 + u) ≤ 1/3, by its series. */
static inline v_f32 v_log1p_unit(v_f32 u) {
  v_f32 s = v_div(u, v_add(v_splat(2.0f), u)), z = v_mul(s, s);
  v_f32 p = v_splat(1.0f / 15);
  p = v_madd(p, z, v_splat(1.0f / 13));
  p = v_madd(p, z, v_splat(1.0f / 11));
  p = v_madd(p, z, v_splat(1.0f / 9));
  p = v_madd(p, z, v_splat(1.0f / 7));
  p = v_madd(p, z, v_splat(1.0f / 5));
  p = v_madd(p, z, v_splat(1.0f / 3));
  v_f32 twice = v_add(s, s);
  return v_madd(v_mul(p, z), twice, twice);
}

/* 1 / (1 + e^−x), exact to a few units at both ends. */
static inline v_f32 v_sigmoid(v_f32 x) {
  v_f32 e = v_exp(v_neg(v_abs(x))), upper = v_div(v_splat(1.0f), v_add(v_splat(1.0f), e));
  return v_select(v_lt(x, v_zero()), v_mul(e, upper), upper);
}

/* An odd polynomial near 0, 1 − 2 / (e^2|x| + 1) with x's sign elsewhere. */
static inline v_f32 v_tanh(v_f32 x) {
  v_f32 a = v_abs(x), z = v_mul(x, x);
  v_f32 p = v_splat(-5.70498872745e-3f);
  p = v_madd(p, z, v_splat(2.06390887954e-2f));
  p = v_madd(p, z, v_splat(-5.37397155531e-2f));
  p = v_madd(p, z, v_splat(1.33314422036e-1f));
  p = v_madd(p, z, v_splat(-3.33332819422e-1f));
  v_f32 near = v_madd(v_mul(p, z), x, x);
  v_f32 far = v_sub(v_splat(1.0f), v_div(v_splat(2.0f), v_add(v_exp(v_add(a, a)), v_splat(1.0f))));
  v_i32 sign = vi_and(v_as_i32(x), v_as_i32(v_splat(-0.0f)));
  return v_select(v_lt(a, v_splat(0.625f)), near, v_as_f32(vi_or(v_as_i32(far), sign)));
}

/* e^(−x²/2), with the part of x² that rounding loses put back: without it the tail would be off by x² units. */
static inline v_f32 v_bell(v_f32 x) {
  x = v_min(v_abs(x), v_splat(16.0f));
  v_f32 head = v_as_f32(vi_and(v_as_i32(x), vi_splat(~0xfff))), tail = v_sub(x, head);
  v_f32 square = v_mul(x, x), cross = v_mul(head, tail);
  v_f32 lost = v_add(v_add(v_sub(v_mul(head, head), square), v_add(cross, cross)), v_mul(tail, tail));
  return v_exp2part(v_mul(square, v_splat(-0.5f)), v_mul(lost, v_splat(-0.5f)));
}

/* The normal distribution below −|x|, given bell = e^(−x²/2): bell · t · P(t) with t = 1 / (1 + |x| / 4). P interpolates
 * Mills' ratio / (√(2π) · t) at Chebyshev's points for |x| ≤ 15 (relative error 1.4e-8). */
static inline v_f32 v_normal_tail(v_f32 x, v_f32 bell) {
  v_f32 a = v_min(v_abs(x), v_splat(16.0f));
  v_f32 t = v_div(v_splat(1.0f), v_madd(a, v_splat(0.25f), v_splat(1.0f)));
  v_f32 p = v_splat(0.0160714734f);
  p = v_madd(p, t, v_splat(-0.0602258529f));
  p = v_madd(p, t, v_splat(0.0461199372f));
  p = v_madd(p, t, v_splat(0.0350751543f));
  p = v_madd(p, t, v_splat(0.00786620334f));
  p = v_madd(p, t, v_splat(0.0888593596f));
  p = v_madd(p, t, v_splat(0.0713885712f));
  p = v_madd(p, t, v_splat(0.0956115754f));
  p = v_madd(p, t, v_splat(0.0994855684f));
  p = v_madd(p, t, v_splat(0.0997480127f));
  return v_mul(bell, v_mul(t, p));
}

#endif
