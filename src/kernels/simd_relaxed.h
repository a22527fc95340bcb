/* kernels/simd_relaxed.h: WebAssembly's relaxed SIMD. Only two of its instructions are used: the multiply-add, which may or
 * may not round in between, and the dot of signed bytes with 0…127, which is the same integer on every machine. */
#ifndef HD_KERNELS_SIMD_RELAXED_H
#define HD_KERNELS_SIMD_RELAXED_H

#include "kernels/simd_wasm128.h"

#define V_DOT_I8_IS_FAST 1

static inline v_f32 v_madd(v_f32 a, v_f32 b, v_f32 c) { return V_F32(wasm_f32x4_relaxed_madd(a.v, b.v, c.v)); }
static inline v_i32 v_dot_i8(v_i32 acc, v_i8 a, v_i8 b) {
  return V_I32(wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a.v, b.v, acc.v));
}

#endif
