/* kernels/simd.h: the vector vocabulary that every kernel is written in. A vector has four lanes, of float32 (v_f32) or int32
 * (v_i32), on every machine: so the order of sums is part of the kernel, and scalar, native and wasm128 give the same bits.
 * Only `relaxed` may differ, in the last bits of v_madd.
 *
 * Chosen here and nowhere else: -DHD_SIMD_SCALAR, -DHD_RELAXED (with -mrelaxed-simd), wasm128 (with -msimd128), else vector.
 * The wasm headers are chosen by the compiler's own flag; a wasm build without SIMD falls to scalar.
 *
 *   v_load v_store       four floats at any address
 *   v_splat V_GET        one value to all lanes; one lane's value
 *   v_add … v_sqrt       IEEE, lane by lane
 *   v_madd(a, b, c)      a · b + c
 *   v_min v_max          the first operand unless the second is smaller (larger): a NaN in the first stays
 *   v_lt v_eq v_select   masks of all ones or zeros; select(mask, a, b) takes a where ones are
 *   v_as_i32 v_as_f32    the same bits
 *   v_from_i32           conversion, nearest even
 *   v_zip_low/high       a0 b0 a1 b1, a2 b2 a3 b3
 *   vi_…                 the same on int32, wrapping; vi_shift_right keeps the sign
 *   vi_load_u16/i16/i8   four small integers, widened
 *   v8_load v8_splat4    16 int8; four int8 repeated four times.  v16_splat4, v16_splat2: four int16 repeated twice, two four times
 *   v8_low/high_nibbles  the lower (upper) four bits of each byte, 0…15
 *   v16_nibbles(x, n)    bits 4n … 4n + 3 of each 16, as eight int16; n is a constant
 *   v_dot_i8(acc, a, b)  lane += sum of its four products; a is signed, b must be 0…127
 *   v_dot_i16(acc, a, b) lane += sum of two products of int16
 *   v_dot_i16_low/high(acc, a, b)  lane += sum of two products of a's low (high) eight int8 and b's int16: no such limit
 *   vi_add_pairs(a, b)   a0+a1 a2+a3 b0+b1 b2+b3
 *   V_DOT_I8_IS_FAST     whether v_dot_i8 is one instruction, so that two of them beat the int16 dots */
#ifndef HD_KERNELS_SIMD_H
#define HD_KERNELS_SIMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(HD_SIMD_SCALAR) || (defined(__wasm__) && !defined(__wasm_simd128__))
#include "kernels/simd_scalar.h"
#elif defined(HD_RELAXED)
#include "kernels/simd_relaxed.h"
#elif defined(__wasm_simd128__)
#include "kernels/simd_wasm128.h"
#else
#include "kernels/simd_vector.h"
#endif

/* ---- What follows is written in the words above, the same for all ---- */

#define V_LANES 4

static inline v_f32 v_zero(void) { return v_splat(0.0f); }
static inline v_f32 v_abs(v_f32 x) { return v_as_f32(vi_and(v_as_i32(x), vi_splat(0x7fffffff))); }
static inline v_f32 v_neg(v_f32 x) { return v_sub(v_splat(-0.0f), x); }

/* The first n (1 to 3) lanes; the others are 0. */
static inline v_f32 v_load_part(const float *from, size_t n) {
  float lanes[V_LANES] = {0};
  for (size_t i = 0; i < n; i++) lanes[i] = from[i];
  return v_load(lanes);
}
static inline void v_store_part(float *to, v_f32 x, size_t n) {
  float lanes[V_LANES];
  v_store(lanes, x);
  for (size_t i = 0; i < n; i++) to[i] = lanes[i];
}

/* Nearest even, for |x| ≤ 2^22: the sum with 1.5 · 2^23 has no bits left for a fraction. */
#define V_ROUNDER 12582912.0f
static inline v_f32 v_round(v_f32 x) { return v_sub(v_add(x, v_splat(V_ROUNDER)), v_splat(V_ROUNDER)); }
static inline v_i32 v_round_i32(v_f32 x) { return vi_sub(v_as_i32(v_add(x, v_splat(V_ROUNDER))), v_as_i32(v_splat(V_ROUNDER))); }

/* 2^n for −127 < n < 128. */
static inline v_f32 v_power_of_two(v_i32 n) { return v_as_f32(vi_shift_left(vi_add(n, vi_splat(127)), 23)); }

/* (l0 + l1) + (l2 + l3), and the same of four vectors at once, one a lane. */
static inline float v_sum(v_f32 x) { return (V_GET(x, 0) + V_GET(x, 1)) + (V_GET(x, 2) + V_GET(x, 3)); }
static inline v_f32 v_sum4(v_f32 a, v_f32 b, v_f32 c, v_f32 d) {
  v_f32 ac = v_zip_low(a, c), bd = v_zip_low(b, d), ac_high = v_zip_high(a, c), bd_high = v_zip_high(b, d);
  v_f32 first = v_add(v_zip_low(ac, bd), v_zip_high(ac, bd));
  v_f32 second = v_add(v_zip_low(ac_high, bd_high), v_zip_high(ac_high, bd_high));
  return v_add(first, second);
}
static inline float v_max_lane(v_f32 x) {
  float a = V_GET(x, 0) < V_GET(x, 1) ? V_GET(x, 1) : V_GET(x, 0), b = V_GET(x, 2) < V_GET(x, 3) ? V_GET(x, 3) : V_GET(x, 2);
  return a < b ? b : a;
}

/* Four F16 values, exactly. Moving the exponent's bias by adding works for normal numbers; infinity and NaN need it twice; a
 * subnormal gets the smallest normal's exponent, and that number taken off again. */
static inline v_f32 v_load_f16(const uint16_t *from) {
  v_i32 bits = vi_load_u16(from);
  v_i32 magnitude = vi_shift_left(vi_and(bits, vi_splat(0x7fff)), 13);
  v_i32 sign = vi_shift_left(vi_and(bits, vi_splat(0x8000)), 16);
  v_i32 bias = vi_splat(112 << 23), moved = vi_add(magnitude, bias);
  v_i32 special = vi_gt(magnitude, vi_splat((31 << 23) - 1)), subnormal = vi_gt(vi_splat(1 << 23), magnitude);
  moved = vi_add(moved, vi_and(special, bias));
  v_f32 small = v_sub(v_as_f32(vi_add(moved, vi_splat(1 << 23))), v_splat(0x1p-14f));
  return v_as_f32(vi_or(v_as_i32(v_select(subnormal, small, v_as_f32(moved))), sign));
}

/* Four F16 values of which none is infinite or NaN, exactly: the product moves the exponent's bias, and makes subnormals normal. */
static inline v_f32 v_load_f16_finite(const uint16_t *from) {
  v_i32 signs_extended = vi_load_i16((const int16_t *)from);
  return v_mul(v_as_f32(vi_and(vi_shift_left(signs_extended, 13), vi_splat((int32_t)0x8fffe000u))), v_splat(0x1p112f));
}

/* Four BF16 values, exactly. */
static inline v_f32 v_load_bf16(const uint16_t *from) { return v_as_f32(vi_shift_left(vi_load_u16(from), 16)); }

#endif
