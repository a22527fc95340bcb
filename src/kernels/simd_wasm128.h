/* kernels/simd_wasm128.h: the vocabulary of simd.h over WebAssembly's 128-bit SIMD. simd_relaxed.h replaces two words. */
#ifndef HD_KERNELS_SIMD_WASM128_H
#define HD_KERNELS_SIMD_WASM128_H

#include <wasm_simd128.h>

typedef struct { v128_t v; } v_f32;
typedef struct { v128_t v; } v_i32;
typedef struct { v128_t v; } v_i16;
typedef struct { v128_t v; } v_i8;

#define V_F32(x) ((v_f32){x})
#define V_I32(x) ((v_i32){x})
#define V_GET(x, lane) wasm_f32x4_extract_lane((x).v, lane)

static inline v_f32 v_load(const float *from) { return V_F32(wasm_v128_load(from)); }
static inline void v_store(float *to, v_f32 x) { wasm_v128_store(to, x.v); }
static inline v_f32 v_splat(float x) { return V_F32(wasm_f32x4_splat(x)); }

static inline v_f32 v_add(v_f32 a, v_f32 b) { return V_F32(wasm_f32x4_add(a.v, b.v)); }
static inline v_f32 v_sub(v_f32 a, v_f32 b) { return V_F32(wasm_f32x4_sub(a.v, b.v)); }
static inline v_f32 v_mul(v_f32 a, v_f32 b) { return V_F32(wasm_f32x4_mul(a.v, b.v)); }
static inline v_f32 v_div(v_f32 a, v_f32 b) { return V_F32(wasm_f32x4_div(a.v, b.v)); }
static inline v_f32 v_sqrt(v_f32 a) { return V_F32(wasm_f32x4_sqrt(a.v)); }
static inline v_f32 v_min(v_f32 a, v_f32 b) { return V_F32(wasm_f32x4_pmin(a.v, b.v)); }
static inline v_f32 v_max(v_f32 a, v_f32 b) { return V_F32(wasm_f32x4_pmax(a.v, b.v)); }

static inline v_i32 v_lt(v_f32 a, v_f32 b) { return V_I32(wasm_f32x4_lt(a.v, b.v)); }
static inline v_i32 v_eq(v_f32 a, v_f32 b) { return V_I32(wasm_f32x4_eq(a.v, b.v)); }
static inline v_f32 v_select(v_i32 mask, v_f32 a, v_f32 b) { return V_F32(wasm_v128_bitselect(a.v, b.v, mask.v)); }

static inline v_i32 v_as_i32(v_f32 x) { return V_I32(x.v); }
static inline v_f32 v_as_f32(v_i32 x) { return V_F32(x.v); }
static inline v_f32 v_from_i32(v_i32 x) { return V_F32(wasm_f32x4_convert_i32x4(x.v)); }

static inline v_f32 v_zip_low(v_f32 a, v_f32 b) { return V_F32(wasm_i32x4_shuffle(a.v, b.v, 0, 4, 1, 5)); }
static inline v_f32 v_zip_high(v_f32 a, v_f32 b) { return V_F32(wasm_i32x4_shuffle(a.v, b.v, 2, 6, 3, 7)); }

static inline v_i32 vi_splat(int32_t x) { return V_I32(wasm_i32x4_splat(x)); }
static inline void vi_store(int32_t *to, v_i32 x) { wasm_v128_store(to, x.v); }
static inline v_i32 vi_add(v_i32 a, v_i32 b) { return V_I32(wasm_i32x4_add(a.v, b.v)); }
static inline v_i32 vi_sub(v_i32 a, v_i32 b) { return V_I32(wasm_i32x4_sub(a.v, b.v)); }
static inline v_i32 vi_and(v_i32 a, v_i32 b) { return V_I32(wasm_v128_and(a.v, b.v)); }
static inline v_i32 vi_or(v_i32 a, v_i32 b) { return V_I32(wasm_v128_or(a.v, b.v)); }
static inline v_i32 vi_gt(v_i32 a, v_i32 b) { return V_I32(wasm_i32x4_gt(a.v, b.v)); }
static inline v_i32 vi_max(v_i32 a, v_i32 b) { return V_I32(wasm_i32x4_max(a.v, b.v)); }
static inline v_i32 vi_shift_left(v_i32 a, int n) { return V_I32(wasm_i32x4_shl(a.v, (uint32_t)n)); }
static inline v_i32 vi_shift_right(v_i32 a, int n) { return V_I32(wasm_i32x4_shr(a.v, (uint32_t)n)); }

static inline v_i32 vi_load_u16(const uint16_t *from) { return V_I32(wasm_u32x4_load16x4(from)); }
static inline v_i32 vi_load_i16(const int16_t *from) { return V_I32(wasm_i32x4_load16x4(from)); }
static inline v_i32 vi_load_i8(const int8_t *from) {
  return V_I32(wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(wasm_v128_load32_zero(from))));
}

static inline v_i8 v8_load(const int8_t *from) { return (v_i8){wasm_v128_load(from)}; }
static inline v_i8 v8_splat4(const int8_t *from) { return (v_i8){wasm_v128_load32_splat(from)}; }
static inline v_i8 v8_low_nibbles(v_i8 x) { return (v_i8){wasm_v128_and(x.v, wasm_i8x16_splat(15))}; }
static inline v_i8 v8_high_nibbles(v_i8 x) { return (v_i8){wasm_v128_and(wasm_u16x8_shr(x.v, 4), wasm_i8x16_splat(15))}; }
static inline v_i16 v16_nibbles(v_i8 x, uint32_t n) {
  v128_t moved = n ? wasm_u16x8_shr(x.v, 4 * n) : x.v;
  return (v_i16){n == 3 ? moved : wasm_v128_and(moved, wasm_i16x8_splat(15))};
}
static inline v_i16 v16_splat2(const int16_t *from) { return (v_i16){wasm_v128_load32_splat(from)}; }
static inline v_i16 v16_splat4(const int16_t *from) { return (v_i16){wasm_v128_load64_splat(from)}; }

static inline v_i32 v_dot_i16(v_i32 acc, v_i16 a, v_i16 b) { return V_I32(wasm_i32x4_add(acc.v, wasm_i32x4_dot_i16x8(a.v, b.v))); }
static inline v_i32 v_dot_i16_low(v_i32 acc, v_i8 a, v_i16 b) {
  return V_I32(wasm_i32x4_add(acc.v, wasm_i32x4_dot_i16x8(wasm_i16x8_extend_low_i8x16(a.v), b.v)));
}
static inline v_i32 v_dot_i16_high(v_i32 acc, v_i8 a, v_i16 b) {
  return V_I32(wasm_i32x4_add(acc.v, wasm_i32x4_dot_i16x8(wasm_i16x8_extend_high_i8x16(a.v), b.v)));
}
static inline v_i32 vi_add_pairs(v_i32 a, v_i32 b) {
  return V_I32(wasm_i32x4_add(wasm_i32x4_shuffle(a.v, b.v, 0, 2, 4, 6), wasm_i32x4_shuffle(a.v, b.v, 1, 3, 5, 7)));
}

#ifndef HD_RELAXED

#define V_DOT_I8_IS_FAST 0

static inline v_f32 v_madd(v_f32 a, v_f32 b, v_f32 c) { return v_add(v_mul(a, b), c); }
static inline v_i32 v_dot_i8(v_i32 acc, v_i8 a, v_i8 b) {
  v128_t low = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_low_i8x16(a.v, b.v));
  v128_t high = wasm_i32x4_extadd_pairwise_i16x8(wasm_i16x8_extmul_high_i8x16(a.v, b.v));
  return vi_add(acc, vi_add_pairs(V_I32(low), V_I32(high)));
}

#endif
#endif
