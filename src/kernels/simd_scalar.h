/* kernels/simd_scalar.h: the vocabulary of simd.h in plain C, lane by lane. It says what each word means; the other
 * headers have to give the same bits. */
#ifndef HD_KERNELS_SIMD_SCALAR_H
#define HD_KERNELS_SIMD_SCALAR_H

#define V_DOT_I8_IS_FAST 0

typedef struct { float at[4]; } v_f32;
typedef struct { int32_t at[4]; } v_i32;
typedef struct { int16_t at[8]; } v_i16;
typedef struct { int8_t at[16]; } v_i8;

#define V_EACH_LANE for (int i = 0; i < 4; i++)
#define V_GET(v, lane) ((v).at[lane])

static inline v_f32 v_load(const float *from) { v_f32 r; memcpy(&r, from, sizeof r); return r; }
static inline void v_store(float *to, v_f32 x) { memcpy(to, &x, sizeof x); }
static inline v_f32 v_splat(float x) { return (v_f32){{x, x, x, x}}; }

static inline v_f32 v_add(v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] += b.at[i]; return a; }
static inline v_f32 v_sub(v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] -= b.at[i]; return a; }
static inline v_f32 v_mul(v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] *= b.at[i]; return a; }
static inline v_f32 v_div(v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] /= b.at[i]; return a; }
static inline v_f32 v_madd(v_f32 a, v_f32 b, v_f32 c) { return v_add(v_mul(a, b), c); }
static inline v_f32 v_sqrt(v_f32 a) { V_EACH_LANE a.at[i] = __builtin_sqrtf(a.at[i]); return a; }
static inline v_f32 v_min(v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] = b.at[i] < a.at[i] ? b.at[i] : a.at[i]; return a; }
static inline v_f32 v_max(v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] = a.at[i] < b.at[i] ? b.at[i] : a.at[i]; return a; }

static inline v_i32 v_lt(v_f32 a, v_f32 b) { v_i32 r; V_EACH_LANE r.at[i] = -(a.at[i] < b.at[i]); return r; }
static inline v_i32 v_eq(v_f32 a, v_f32 b) { v_i32 r; V_EACH_LANE r.at[i] = -(a.at[i] == b.at[i]); return r; }
static inline v_f32 v_select(v_i32 mask, v_f32 a, v_f32 b) { V_EACH_LANE a.at[i] = mask.at[i] ? a.at[i] : b.at[i]; return a; }

static inline v_i32 v_as_i32(v_f32 x) { v_i32 r; memcpy(&r, &x, sizeof r); return r; }
static inline v_f32 v_as_f32(v_i32 x) { v_f32 r; memcpy(&r, &x, sizeof r); return r; }
static inline v_f32 v_from_i32(v_i32 x) { v_f32 r; V_EACH_LANE r.at[i] = (float)x.at[i]; return r; }

static inline v_f32 v_zip_low(v_f32 a, v_f32 b) { return (v_f32){{a.at[0], b.at[0], a.at[1], b.at[1]}}; }
static inline v_f32 v_zip_high(v_f32 a, v_f32 b) { return (v_f32){{a.at[2], b.at[2], a.at[3], b.at[3]}}; }

static inline v_i32 vi_splat(int32_t x) { return (v_i32){{x, x, x, x}}; }
static inline void vi_store(int32_t *to, v_i32 x) { memcpy(to, &x, sizeof x); }
static inline int32_t vi_wrap(uint32_t x) { int32_t r; memcpy(&r, &x, sizeof r); return r; }
static inline v_i32 vi_add(v_i32 a, v_i32 b) { V_EACH_LANE a.at[i] = vi_wrap((uint32_t)a.at[i] + (uint32_t)b.at[i]); return a; }
static inline v_i32 vi_sub(v_i32 a, v_i32 b) { V_EACH_LANE a.at[i] = vi_wrap((uint32_t)a.at[i] - (uint32_t)b.at[i]); return a; }
static inline v_i32 vi_and(v_i32 a, v_i32 b) { V_EACH_LANE a.at[i] &= b.at[i]; return a; }
static inline v_i32 vi_or(v_i32 a, v_i32 b) { V_EACH_LANE a.at[i] |= b.at[i]; return a; }
static inline v_i32 vi_gt(v_i32 a, v_i32 b) { V_EACH_LANE a.at[i] = -(a.at[i] > b.at[i]); return a; }
static inline v_i32 vi_max(v_i32 a, v_i32 b) { V_EACH_LANE a.at[i] = a.at[i] > b.at[i] ? a.at[i] : b.at[i]; return a; }
static inline v_i32 vi_shift_left(v_i32 a, int n) { V_EACH_LANE a.at[i] = vi_wrap((uint32_t)a.at[i] << n); return a; }
static inline v_i32 vi_shift_right(v_i32 a, int n) { V_EACH_LANE a.at[i] >>= n; return a; }

static inline v_i32 vi_load_u16(const uint16_t *from) {
  uint16_t h[4];
  memcpy(h, from, sizeof h);
  return (v_i32){{h[0], h[1], h[2], h[3]}};
}
static inline v_i32 vi_load_i16(const int16_t *from) {
  int16_t h[4];
  memcpy(h, from, sizeof h);
  return (v_i32){{h[0], h[1], h[2], h[3]}};
}
static inline v_i32 vi_load_i8(const int8_t *from) { return (v_i32){{from[0], from[1], from[2], from[3]}}; }

static inline v_i8 v8_load(const int8_t *from) { v_i8 r; memcpy(&r, from, sizeof r); return r; }
static inline v_i8 v8_splat4(const int8_t *from) {
  v_i8 r;
  for (int i = 0; i < 16; i++) r.at[i] = from[i % 4];
  return r;
}
static inline v_i8 v8_low_nibbles(v_i8 x) {
  for (int i = 0; i < 16; i++) x.at[i] = (int8_t)(x.at[i] & 15);
  return x;
}
static inline v_i8 v8_high_nibbles(v_i8 x) {
  for (int i = 0; i < 16; i++) x.at[i] = (int8_t)((uint8_t)x.at[i] >> 4);
  return x;
}
static inline v_i16 v16_nibbles(v_i8 x, int n) {
  v_i16 r;
  for (int i = 0; i < 8; i++) r.at[i] = (int16_t)(((uint8_t)x.at[2 * i] | (uint8_t)x.at[2 * i + 1] << 8) >> 4 * n & 15);
  return r;
}
static inline v_i16 v16_splat2(const int16_t *from) {
  v_i16 r;
  for (int i = 0; i < 8; i++) r.at[i] = from[i % 2];
  return r;
}
static inline v_i16 v16_splat4(const int16_t *from) {
  v_i16 r;
  for (int i = 0; i < 8; i++) r.at[i] = from[i % 4];
  return r;
}

static inline v_i32 v_dot_i8(v_i32 acc, v_i8 a, v_i8 b) {
  for (int i = 0; i < 16; i++) acc.at[i / 4] += a.at[i] * b.at[i];
  return acc;
}
static inline v_i32 v_dot_i16(v_i32 acc, v_i16 a, v_i16 b) {
  for (int i = 0; i < 8; i++) acc.at[i / 2] += a.at[i] * b.at[i];
  return acc;
}
static inline v_i32 v_dot_i16_low(v_i32 acc, v_i8 a, v_i16 b) {
  for (int i = 0; i < 8; i++) acc.at[i / 2] += a.at[i] * b.at[i];
  return acc;
}
static inline v_i32 v_dot_i16_high(v_i32 acc, v_i8 a, v_i16 b) {
  for (int i = 0; i < 8; i++) acc.at[i / 2] += a.at[8 + i] * b.at[i];
  return acc;
}
static inline v_i32 vi_add_pairs(v_i32 a, v_i32 b) {
  return (v_i32){{a.at[0] + a.at[1], a.at[2] + a.at[3], b.at[0] + b.at[1], b.at[2] + b.at[3]}};
}

#endif
