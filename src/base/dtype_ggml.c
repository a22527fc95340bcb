/* base/dtype_ggml.c: GGML's blocks, as GGUF files hold them. d and m are F16, a nibble is half a byte, the low one first.
 *
 *   Q4_0    d, 16 bytes of nibbles q: values 0…15 in the low ones, 16…31 in the high ones          d · (q − 8)
 *   Q4_1    d, m, nibbles                                                                           d · q + m
 *   Q5_0    d, 32 fifth bits, nibbles                                                               d · (q − 16)
 *   Q5_1    d, m, 32 fifth bits, nibbles                                                            d · q + m
 *   Q8_0    d, 32 int8                                                                              d · q
 *   MXFP4   a byte e, nibbles that are codes of E2M1                                                2^(e − 128) · (twice E2M1's values)
 *   IQ4_NL  d, nibbles that look up 16 unevenly spaced codes                                        d · code
 *
 * and super-blocks of 256 values, whose parts of 16 or 32 have scales s of 4 to 8 bits (and minima m, scaled by dmin):
 *
 *   Q2_K    16 bytes (s low, m high nibble), 64 bytes of 2 bits, d, dmin                            d · s · q − dmin · m
 *   Q3_K    32 bytes of third bits (0 takes 4 off), 64 bytes of 2 bits, 16 s of 6 bits, d           d · (s − 32) · q
 *   Q4_K    d, dmin, 8 s and 8 m of 6 bits, 128 bytes of nibbles                                    d · s · q − dmin · m
 *   Q5_K    as Q4_K, with 32 bytes of fifth bits before the nibbles
 *   Q6_K    128 bytes of low nibbles, 64 of upper 2 bits, 16 int8 s, d                              d · s · (q − 32)
 *   IQ4_XS  d, 8 s of 6 bits (16 bits of upper parts, 4 bytes of lower ones), nibbles as IQ4_NL's   d · (s − 32) · code
 *
 * Every product is exact in float32 and every value rounded once, so all orders of multiplication give the same bits. The encoders are
 * GGML's reference ones, operation by operation; what they leave undefined, values that are not finite, becomes the code 0. */
#include "base/dtype.h"
#include "base/dtype_families.h"

#include <math.h>

typedef unsigned char byte;

enum { BLOCK = 32, HALF = BLOCK / 2, SUPER = 256 };

static inline uint16_t u16_at(const byte *from) { return (uint16_t)(from[0] | from[1] << 8); }

static inline float half_at(const byte *from) { return hd_f16_to_f32(u16_at(from)); }

static void put_half(byte *to, float value) {
  uint16_t bits = hd_f32_to_f16(value);
  to[0] = (byte)(bits & 0xffu);
  to[1] = (byte)(bits >> 8);
}

static inline uint32_t u32_at(const byte *from) { return u16_at(from) | (uint32_t)u16_at(from + 2) << 16; }

/* The public pair, over functions of one block. */
#define DECODES(name, values, bytes)                                     \
  void hd_##name##_to_f32(const void *from, float *to, size_t n) {       \
    for (size_t i = 0; i < n / (values); i++) name##_decode((const byte *)from + i * (bytes), to + i * (values)); \
  }
#define CONVERTS(name, values, bytes)                                    \
  DECODES(name, values, bytes)                                           \
  void hd_##name##_from_f32(const float *from, void *to, size_t n) {     \
    for (size_t i = 0; i < n / (values); i++) name##_encode(from + i * (values), (byte *)to + i * (bytes)); \
  }

/* ---- What encoders share ---- */

/* The largest magnitude, in four lanes that compilers turn into one vector. NaN counts for nothing. */
static float largest_magnitude(const float *x) {
  float lane[4] = {0};
  for (size_t i = 0; i < BLOCK; i += 4)
    for (size_t l = 0; l < 4; l++) {
      float size = fabsf(x[i + l]);
      lane[l] = lane[l] < size ? size : lane[l];
    }
  float a = lane[0] > lane[1] ? lane[0] : lane[1], b = lane[2] > lane[3] ? lane[2] : lane[3];
  return a > b ? a : b;
}

/* The first value of the largest magnitude, with its sign. */
static float farthest(const float *x) {
  float far = 0;
  for (size_t i = 0; i < BLOCK; i++)
    if (fabsf(x[i]) > fabsf(far)) far = x[i];
  return far;
}

static void extremes(const float *x, float *low, float *high) {
  *low = *high = x[0];
  for (size_t i = 1; i < BLOCK; i++) {
    *low = x[i] < *low ? x[i] : *low;
    *high = x[i] > *high ? x[i] : *high;
  }
}

static float reciprocal(float d) { return d != 0 ? 1 / d : 0; }

/* The whole part of q, held in 0 … most; NaN is 0. */
static unsigned code_of(float q, unsigned most) { return q >= (float)most ? most : q >= 0 ? (unsigned)q : 0; }

/* Codes of 4 or 5 bits become nibbles, and 32 fifth bits where `fifths` is not NULL. */
static void put_codes(const unsigned *codes, byte *nibbles, byte *fifths) {
  for (size_t i = 0; i < HALF; i++) nibbles[i] = (byte)((codes[i] & 15u) | (codes[i + HALF] & 15u) << 4);
  for (size_t i = 0; fifths && i < BLOCK; i += 8) {
    fifths[i / 8] = 0;
    for (size_t bit = 0; bit < 8; bit++) fifths[i / 8] |= (byte)((codes[i + bit] >> 4 & 1u) << bit);
  }
}

/* Q4_0 and Q5_0: the farthest value becomes code 0. The sum is GGML's reference in Python's, where
 * its C depends on fused multiplication. */
static float symmetric_codes(const float *x, unsigned *codes, unsigned middle) {
  float d = farthest(x) / -(float)middle;
  double id = (double)reciprocal(d);
  for (size_t i = 0; i < BLOCK; i++) codes[i] = code_of((float)trunc((double)x[i] * id + (double)middle + 0.5), 2 * middle - 1);
  return d;
}

/* Q4_1 and Q5_1: from the lowest value to the highest. */
static float spread_codes(const float *x, unsigned *codes, unsigned most, float *low) {
  float high;
  extremes(x, low, &high);
  float d = (high - *low) / (float)most, id = reciprocal(d);
  for (size_t i = 0; i < BLOCK; i++) codes[i] = code_of((x[i] - *low) * id + 0.5f, most);
  return d;
}

/* ---- Blocks of 32 ---- */

static inline unsigned fifth_bit(uint32_t bits, size_t i) { return (bits >> i & 1u) << 4; }

/* to[i] = d · (q − middle) + m, with q of nibbles and fifth bits. An m of −0 changes nothing, not even −0. */
static inline void spread_nibbles(float *to, const byte *nibbles, uint32_t fifths, float d, int middle, float m) {
  for (size_t i = 0; i < HALF; i++) {
    int low = (int)((nibbles[i] & 15u) | fifth_bit(fifths, i)), high = (int)((unsigned)nibbles[i] >> 4 | fifth_bit(fifths, i + HALF));
    to[i] = (float)(low - middle) * d + m;
    to[i + HALF] = (float)(high - middle) * d + m;
  }
}

static void q4_0_decode(const byte *b, float *to) { spread_nibbles(to, b + 2, 0, half_at(b), 8, -0.0f); }
static void q4_1_decode(const byte *b, float *to) { spread_nibbles(to, b + 4, 0, half_at(b), 0, half_at(b + 2)); }
static void q5_0_decode(const byte *b, float *to) { spread_nibbles(to, b + 6, u32_at(b + 2), half_at(b), 16, -0.0f); }
static void q5_1_decode(const byte *b, float *to) { spread_nibbles(to, b + 8, u32_at(b + 4), half_at(b), 0, half_at(b + 2)); }

static void q4_0_encode(const float *x, byte *b) {
  unsigned codes[BLOCK];
  put_half(b, symmetric_codes(x, codes, 8));
  put_codes(codes, b + 2, NULL);
}

static void q5_0_encode(const float *x, byte *b) {
  unsigned codes[BLOCK];
  put_half(b, symmetric_codes(x, codes, 16));
  put_codes(codes, b + 6, b + 2);
}

static void q4_1_encode(const float *x, byte *b) {
  unsigned codes[BLOCK];
  float low;
  put_half(b, spread_codes(x, codes, 15, &low));
  put_half(b + 2, low);
  put_codes(codes, b + 4, NULL);
}

static void q5_1_encode(const float *x, byte *b) {
  unsigned codes[BLOCK];
  float low;
  put_half(b, spread_codes(x, codes, 31, &low));
  put_half(b + 2, low);
  put_codes(codes, b + 8, b + 4);
}

static void q8_0_decode(const byte *b, float *to) {
  float d = half_at(b);
  for (size_t i = 0; i < BLOCK; i++) to[i] = (float)(int8_t)b[2 + i] * d;
}

/* roundf, halves away from zero, without a call: the part cut off decides. */
static inline float round_away(float x) {
  float whole = truncf(x), rest = x - whole;
  return whole + (rest >= 0.5f ? 1.0f : 0.0f) - (rest <= -0.5f ? 1.0f : 0.0f);
}

/* Rounds away from zero, and by the reciprocal of the scale before that became an F16. */
static void q8_0_encode(const float *x, byte *b) {
  float d = largest_magnitude(x) / 127.0f, id = reciprocal(d);
  put_half(b, d);
  for (size_t i = 0; i < BLOCK; i++) {
    float q = round_away(x[i] * id);
    b[2 + i] = (byte)(int8_t)(q >= -127.0f && q <= 127.0f ? q : 0.0f);
  }
}

/* Sixteen codes by nibble. */
static inline void look_up(float *to, const byte *nibbles, const int8_t *codes, float d) {
  for (size_t i = 0; i < HALF; i++) {
    to[i] = (float)codes[nibbles[i] & 15] * d;
    to[i + HALF] = (float)codes[nibbles[i] >> 4] * d;
  }
}

static const int8_t e2m1_twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2^(e − 128): subnormal for 0 and 1. */
static float half_scale(unsigned e) { return hd_f32_of_bits(e < 2 ? 0x200000u << e : (e - 1) << 23); }

static void mxfp4_decode(const byte *b, float *to) { look_up(to, b + 1, e2m1_twice, half_scale(b[0])); }

/* The nearest of the sixteen, the first of two that are equally near. */
static unsigned nearest_e2m1(float x, float d) {
  unsigned best = 0;
  float least = fabsf(x);
  for (unsigned code = 1; code < 16; code++) {
    float off = fabsf(d * (float)e2m1_twice[code] - x);
    if (off < least) {
      least = off;
      best = code;
    }
  }
  return best;
}

/* e = floor(log2(largest)) − 2 + 127, exactly; not below 0. */
static void mxfp4_encode(const float *x, byte *b) {
  unsigned exponent = hd_bits_of_f32(largest_magnitude(x)) >> 23, e = exponent > 2 ? exponent - 2 : 0, codes[BLOCK];
  for (size_t i = 0; i < BLOCK; i++) codes[i] = nearest_e2m1(x[i], half_scale(e));
  b[0] = (byte)e;
  put_codes(codes, b + 1, NULL);
}

static const int8_t iq4_codes[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void iq4_nl_decode(const byte *b, float *to) { look_up(to, b + 2, iq4_codes, half_at(b)); }

CONVERTS(q4_0, BLOCK, 18)
CONVERTS(q4_1, BLOCK, 20)
CONVERTS(q5_0, BLOCK, 22)
CONVERTS(q5_1, BLOCK, 24)
CONVERTS(q8_0, BLOCK, 34)
CONVERTS(mxfp4, BLOCK, 17)
DECODES(iq4_nl, BLOCK, 18)

/* ---- Super-blocks of 256 ---- */

/* Two bits of value i: 128 values share 32 bytes, 32 after 32 in higher bits. */
static inline unsigned two_bits(const byte *from, size_t i) { return (unsigned)from[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3u; }

/* Nibble of value i: 64 values share 32 bytes. */
static inline unsigned nibble(const byte *from, size_t i) { return (unsigned)from[i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 15u; }

static void q2_k_decode(const byte *b, float *to) {
  float d = half_at(b + 80), dmin = half_at(b + 82);
  for (size_t part = 0; part < 16; part++) {
    float scale = d * (float)(b[part] & 15), low = dmin * (float)(b[part] >> 4);
    for (size_t i = part * 16; i < part * 16 + 16; i++) to[i] = scale * (float)two_bits(b + 16, i) - low;
  }
}

/* Scale `part` of 16: eight bytes of low nibbles, then four that hold the upper two bits of four each. */
static int q3_k_scale(const byte *s, size_t part) {
  unsigned low = part < 8 ? s[part] & 15u : (unsigned)s[part - 8] >> 4, high = (unsigned)s[8 + part % 4] >> part / 4 * 2 & 3u;
  return (int)(low | high << 4) - 32;
}

static void q3_k_decode(const byte *b, float *to) {
  float d = half_at(b + 108);
  for (size_t part = 0; part < 16; part++) {
    float scale = d * (float)q3_k_scale(b + 96, part);
    for (size_t i = part * 16; i < part * 16 + 16; i++) {
      int third = b[i % 32] >> i / 32 & 1;
      to[i] = scale * (float)((int)two_bits(b + 32, i) - (third ? 0 : 4));
    }
  }
}

/* Scale and minimum `part` of 8: 6 bits each of the first four, then the lower four bits of the last four, whose upper two fill up the
 * first bytes. */
static void q4_k_scale(const byte *s, size_t part, unsigned *scale, unsigned *low) {
  *scale = part < 4 ? s[part] & 63u : (s[part + 4] & 15u) | (unsigned)s[part - 4] >> 6 << 4;
  *low = part < 4 ? s[part + 4] & 63u : (unsigned)s[part + 4] >> 4 | (unsigned)s[part] >> 6 << 4;
}

/* `fifths` is NULL for Q4_K. */
static inline void spread_k(const byte *b, float *to, const byte *fifths, const byte *nibbles) {
  float d = half_at(b), dmin = half_at(b + 2);
  for (size_t part = 0; part < 8; part++) {
    unsigned scale, low;
    q4_k_scale(b + 4, part, &scale, &low);
    float scaled = d * (float)scale, low_scaled = dmin * (float)low;
    for (size_t i = 0; i < 32; i++) {
      unsigned fifth = fifths ? (fifths[i] >> part & 1u) << 4 : 0;
      to[part * 32 + i] = scaled * (float)(nibble(nibbles, part * 32 + i) | fifth) - low_scaled;
    }
  }
}

static void q4_k_decode(const byte *b, float *to) { spread_k(b, to, NULL, b + 16); }
static void q5_k_decode(const byte *b, float *to) { spread_k(b, to, b + 16, b + 48); }

static void q6_k_decode(const byte *b, float *to) {
  float d = half_at(b + 208);
  for (size_t part = 0; part < 16; part++) {
    float scale = d * (float)(int8_t)b[192 + part];
    for (size_t i = part * 16; i < part * 16 + 16; i++) {
      unsigned low = (unsigned)b[i / 128 * 64 + i % 64] >> i % 128 / 64 * 4 & 15u;
      to[i] = scale * (float)((int)(low | two_bits(b + 128, i) << 4) - 32);
    }
  }
}

static void iq4_xs_decode(const byte *b, float *to) {
  float d = half_at(b);
  unsigned high = u16_at(b + 2);
  for (size_t part = 0; part < 8; part++) {
    unsigned scale = ((unsigned)b[4 + part / 2] >> part % 2 * 4 & 15u) | (high >> 2 * part & 3u) << 4;
    look_up(to + part * BLOCK, b + 8 + part * HALF, iq4_codes, d * (float)((int)scale - 32));
  }
}

DECODES(q2_k, SUPER, 84)
DECODES(q3_k, SUPER, 110)
DECODES(q4_k, SUPER, 144)
DECODES(q5_k, SUPER, 176)
DECODES(q6_k, SUPER, 210)
DECODES(iq4_xs, SUPER, 136)
