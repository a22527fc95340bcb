/* kernels/simd_vector.h: the vocabulary of simd.h over the vector types of gcc and clang, for native builds. */
#ifndef HD_KERNELS_SIMD_VECTOR_H
#define HD_KERNELS_SIMD_VECTOR_H

#define V_DOT_I8_IS_FAST 0

typedef float v_f32 __attribute__((vector_size(16)));
typedef int32_t v_i32 __attribute__((vector_size(16)));
typedef uint32_t v_u32 __attribute__((vector_size(16)));
typedef int16_t v_i16 __attribute__((vector_size(16)));
typedef int8_t v_i8 __attribute__((vector_size(16)));

#define V_GET(v, lane) ((v)[lane])

static inline v_f32 v_load(const float *from) { v_f32 r; memcpy(&r, from, sizeof r); return r; }
static inline void v_store(float *to, v_f32 x) { memcpy(to, &x, sizeof x); }
static inline v_f32 v_splat(float x) { return (v_f32){x, x, x, x}; }

static inline v_f32 v_as_f32(v_i32 x) { return (v_f32)x; }
static inline v_i32 v_as_i32(v_f32 x) { return (v_i32)x; }

static inline v_f32 v_add(v_f32 a, v_f32 b) { return a + b; }
static inline v_f32 v_sub(v_f32 a, v_f32 b) { return a - b; }
static inline v_f32 v_mul(v_f32 a, v_f32 b) { return a * b; }
static inline v_f32 v_div(v_f32 a, v_f32 b) { return a / b; }
static inline v_f32 v_madd(v_f32 a, v_f32 b, v_f32 c) { return a * b + c; }
static inline v_f32 v_sqrt(v_f32 a) {
  return (v_f32){__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
}

static inline v_i32 v_lt(v_f32 a, v_f32 b) { return (v_i32)(a < b); }
static inline v_i32 v_eq(v_f32 a, v_f32 b) { return (v_i32)(a == b); }
static inline v_f32 v_select(v_i32 mask, v_f32 a, v_f32 b) { return (v_f32)((mask & (v_i32)a) | (~mask & (v_i32)b)); }
static inline v_f32 v_min(v_f32 a, v_f32 b) { return v_select(v_lt(b, a), b, a); }
static inline v_f32 v_max(v_f32 a, v_f32 b) { return v_select(v_lt(a, b), b, a); }
static inline v_f32 v_from_i32(v_i32 x) { return __builtin_convertvector(x, v_f32); }

static inline v_f32 v_zip_low(v_f32 a, v_f32 b) { return (v_f32){a[0], b[0], a[1], b[1]}; }
static inline v_f32 v_zip_high(v_f32 a, v_f32 b) { return (v_f32){a[2], b[2], a[3], b[3]}; }

static inline v_i32 vi_splat(int32_t x) { return (v_i32){x, x, x, x}; }
static inline void vi_store(int32_t *to, v_i32 x) { memcpy(to, &x, sizeof x); }
static inline v_i32 vi_add(v_i32 a, v_i32 b) { return (v_i32)((v_u32)a + (v_u32)b); }
static inline v_i32 vi_sub(v_i32 a, v_i32 b) { return (v_i32)((v_u32)a - (v_u32)b); }
static inline v_i32 vi_and(v_i32 a, v_i32 b) { return a & b; }
static inline v_i32 vi_or(v_i32 a, v_i32 b) { return a | b; }
static inline v_i32 vi_gt(v_i32 a, v_i32 b) { return (v_i32)(a > b); }
static inline v_i32 vi_max(v_i32 a, v_i32 b) { v_i32 m = vi_gt(a, b); return (m & a) | (~m & b); }
static inline v_i32 vi_shift_left(v_i32 a, int n) { return (v_i32)((v_u32)a << n); }
static inline v_i32 vi_shift_right(v_i32 a, int n) { return a >> n; }

static inline v_i32 vi_load_u16(const uint16_t *from) {
  uint16_t h[4];
  memcpy(h, from, sizeof h);
  return (v_i32){h[0], h[1], h[2], h[3]};
}
static inline v_i32 vi_load_i16(const int16_t *from) {
  int16_t h[4];
  memcpy(h, from, sizeof h);
  return (v_i32){h[0], h[1], h[2], h[3]};
}
static inline v_i32 vi_load_i8(const int8_t *from) { return (v_i32){from[0], from[1], from[2], from[3]}; }

static inline v_i8 v8_load(const int8_t *from) { v_i8 r; memcpy(&r, from, sizeof r); return r; }
static inline v_i8 v8_splat4(const int8_t *from) {
  int32_t four;
  memcpy(&four, from, sizeof four);
  return (v_i8)vi_splat(four);
}
static inline v_i8 v8_low_nibbles(v_i8 x) { return (v_i8)vi_and((v_i32)x, vi_splat(0x0f0f0f0f)); }
static inline v_i8 v8_high_nibbles(v_i8 x) { return v8_low_nibbles((v_i8)vi_shift_right((v_i32)x, 4)); }
static inline v_i16 v16_nibbles(v_i8 x, int n) { return (v_i16)vi_and(vi_shift_right((v_i32)x, 4 * n), vi_splat(0x000f000f)); }
static inline v_i16 v16_splat2(const int16_t *from) {
  int32_t two;
  memcpy(&two, from, sizeof two);
  return (v_i16)vi_splat(two);
}
static inline v_i16 v16_splat4(const int16_t *from) {
  int16_t h[4];
  memcpy(h, from, sizeof h);
  return (v_i16){h[0], h[1], h[2], h[3], h[0], h[1], h[2], h[3]};
}

/* Lane i: what the four bytes of lane i give when byte j is moved to the top and shifted back with its sign. */
static inline v_i32 v8_byte(v_i8 x, int j) { return vi_shift_right(vi_shift_left((v_i32)x, 24 - 8 * j), 24); }
static inline v_i32 v_dot_i8(v_i32 acc, v_i8 a, v_i8 b) {
  for (int j = 0; j < 4; j++) acc += v8_byte(a, j) * v8_byte(b, j);
  return acc;
}
static inline v_i32 v_dot_i16(v_i32 acc, v_i16 a, v_i16 b) {
  v_i32 a_even = vi_shift_right(vi_shift_left((v_i32)a, 16), 16), b_even = vi_shift_right(vi_shift_left((v_i32)b, 16), 16);
  v_i32 a_odd = vi_shift_right((v_i32)a, 16), b_odd = vi_shift_right((v_i32)b, 16);
  return acc + a_even * b_even + a_odd * b_odd;
}
static inline v_i32 v_dot_i16_low(v_i32 acc, v_i8 a, v_i16 b) {
  return v_dot_i16(acc, (v_i16){a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]}, b);
}
static inline v_i32 v_dot_i16_high(v_i32 acc, v_i8 a, v_i16 b) {
  return v_dot_i16(acc, (v_i16){a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]}, b);
}
static inline v_i32 vi_add_pairs(v_i32 a, v_i32 b) {
  return (v_i32){a[0] + a[1], a[2] + a[3], b[0] + b[1], b[2] + b[3]};
}

#endif
