/* base/dtype_small.c: floats of a byte and less. A code is a sign, some bits of exponent, some of mantissa, and the five families differ in
 * how many, in the bias, and in what the last codes mean. Codes of less than a byte are one stream of bits, lowest first: F4 two to a byte,
 * the first in the low half; F6 four to three bytes. On the way down values round to nearest even.
 *
 *   F8_E4M3, F8_E5M2           OCP's (torch's float8_e4m3fn and float8_e5m2). E4M3 has no infinity: what is too large, infinity with it,
 *                              becomes 448, as torch does since 2.14; E5M2 is an F16 cut short and goes to infinity.
 *   F8_E4M3FNUZ, F8_E5M2FNUZ   no infinity and no −0: 0x80 is the one NaN; saturate
 *   F6_E2M3, F6_E3M2, F4       every code is a number; saturate; NaN is 0. F4 is E2M1.
 *   F8_E8M0                    2^(code − 127), 255 is NaN; no sign and no 0 */
#include "base/dtype.h"
#include "base/dtype_families.h"

#include <math.h>

typedef struct small_float {
  unsigned bits, mantissa_bits;
  int bias;
  uint32_t largest;    /* code of the largest finite magnitude */
  uint32_t overflow;   /* code of what is above it */
  uint32_t nan;        /* its code; above `largest` all others but infinity's are NaN too */
  bool has_infinity;   /* at largest + 1 */
  bool unsigned_zero;  /* the code of −0 is the NaN */
} small_float;

static const small_float f8_e4m3 = {.bits = 8, .mantissa_bits = 3, .bias = 7, .largest = 0x7e, .overflow = 0x7e, .nan = 0x7f};
static const small_float f8_e5m2 = {
    .bits = 8, .mantissa_bits = 2, .bias = 15, .largest = 0x7b, .overflow = 0x7c, .nan = 0x7f, .has_infinity = true};
static const small_float f8_e4m3fnuz = {
    .bits = 8, .mantissa_bits = 3, .bias = 8, .largest = 0x7f, .overflow = 0x7f, .nan = 0x80, .unsigned_zero = true};
static const small_float f8_e5m2fnuz = {
    .bits = 8, .mantissa_bits = 2, .bias = 16, .largest = 0x7f, .overflow = 0x7f, .nan = 0x80, .unsigned_zero = true};
static const small_float f6_e2m3 = {.bits = 6, .mantissa_bits = 3, .bias = 1, .largest = 0x1f, .overflow = 0x1f};
static const small_float f6_e3m2 = {.bits = 6, .mantissa_bits = 2, .bias = 3, .largest = 0x1f, .overflow = 0x1f};
static const small_float f4 = {.bits = 4, .mantissa_bits = 1, .bias = 1, .largest = 0x7, .overflow = 0x7};

static inline float decode(const small_float *f, uint32_t code) {
  uint32_t sign_bit = 1u << (f->bits - 1), magnitude = code & (sign_bit - 1), exponent = magnitude >> f->mantissa_bits;
  uint32_t sign = code & sign_bit ? 0x80000000u : 0, mantissa = magnitude & ((1u << f->mantissa_bits) - 1);
  if (f->unsigned_zero && code == f->nan) return hd_f32_of_bits(0x7fc00000u);
  if (magnitude > f->largest) return hd_f32_of_bits(sign | (f->has_infinity && mantissa == 0 ? 0x7f800000u : 0x7fc00000u | mantissa));
  if (exponent) return hd_f32_of_bits(sign | (exponent + 127 - (uint32_t)f->bias) << 23 | mantissa << (23 - f->mantissa_bits));
  float value = (float)mantissa * hd_f32_of_bits((128 - (uint32_t)f->bias - f->mantissa_bits) << 23); /* of the smallest subnormal */
  return sign ? -value : value;
}

/* The magnitude's code, before the range is looked at: a carry out of the mantissa runs into the exponent. */
static inline uint32_t round_magnitude(const small_float *f, uint32_t magnitude) {
  uint32_t rebias = 127 - (uint32_t)f->bias, exponent = magnitude >> 23, shift = 23 - f->mantissa_bits;
  if (exponent > rebias) return hd_shift_right_even(magnitude - (rebias << 23), shift);
  if (exponent + 25 - shift <= rebias) return 0; /* below half the smallest subnormal */
  return hd_shift_right_even((magnitude & 0x7fffffu) | 0x800000u, shift + rebias + 1 - exponent);
}

static inline uint32_t encode(const small_float *f, float value) {
  uint32_t bits = hd_bits_of_f32(value), magnitude = bits & 0x7fffffffu, sign = bits >> 31 << (f->bits - 1);
  if (magnitude > 0x7f800000u) { /* NaN: keeps as much of its payload as there are codes for it */
    uint32_t payload = bits & ((1u << f->mantissa_bits) - 1);
    return !f->nan ? 0 : f->unsigned_zero ? f->nan : f->has_infinity && payload ? sign | f->overflow | payload : sign | f->nan;
  }
  uint32_t code = round_magnitude(f, magnitude);
  if (code > f->largest) code = f->overflow;
  return f->unsigned_zero && code == 0 ? 0 : sign | code;
}

/* ---- Codes in a stream of bits, lowest first ---- */

static inline uint32_t code_at(const unsigned char *bytes, size_t i, unsigned bits) {
  size_t at = i * bits / 8, shift = i * bits % 8;
  uint32_t two = bytes[at] | (shift + bits > 8 ? (uint32_t)bytes[at + 1] << 8 : 0);
  return two >> shift & ((1u << bits) - 1);
}

/* In the order of i: a byte's first code clears the rest of it. */
static inline void put_code(unsigned char *bytes, size_t i, unsigned bits, uint32_t code) {
  size_t at = i * bits / 8, shift = i * bits % 8;
  uint32_t two = code << shift | (shift ? bytes[at] : 0);
  bytes[at] = (unsigned char)(two & 0xffu);
  if (shift + bits > 8) bytes[at + 1] = (unsigned char)(two >> 8);
}

#define SMALL_FLOAT(name)                                                                    \
  void hd_##name##_to_f32(const void *from, float *to, size_t n) {                           \
    for (size_t i = 0; i < n; i++) to[i] = decode(&name, code_at(from, i, name.bits));       \
  }                                                                                          \
  void hd_##name##_from_f32(const float *from, void *to, size_t n) {                         \
    for (size_t i = 0; i < n; i++) put_code(to, i, name.bits, encode(&name, from[i]));       \
  }

SMALL_FLOAT(f8_e4m3)
SMALL_FLOAT(f8_e5m2)
SMALL_FLOAT(f8_e4m3fnuz)
SMALL_FLOAT(f8_e5m2fnuz)
SMALL_FLOAT(f6_e2m3)
SMALL_FLOAT(f6_e3m2)
SMALL_FLOAT(f4)

/* ---- F8_E8M0 ---- */

void hd_f8_e8m0_to_f32(const void *from, float *to, size_t n) {
  for (size_t i = 0; i < n; i++) {
    uint32_t code = ((const unsigned char *)from)[i];
    to[i] = hd_f32_of_bits(code == 255 ? 0x7fc00000u : code == 0 ? 0x400000u : code << 23); /* 2^-127 is subnormal */
  }
}

/* The nearest power of two, of two equally near the larger: the last bit kept is the leading 1 of the mantissa, which is odd. 0 becomes the
 * smallest; what is negative or not finite has no code and becomes NaN. */
static unsigned e8m0_code(float value) {
  uint32_t bits = hd_bits_of_f32(value);
  if (bits == 0x80000000u) bits = 0;
  if (bits >= 0x7f800000u) return 255;
  uint32_t code = bits >> 23, mantissa = bits & 0x7fffffu;
  code += mantissa >= (code ? 0x400000u : 0x600000u);
  return code < 255 ? code : 254;
}

void hd_f8_e8m0_from_f32(const float *from, void *to, size_t n) {
  for (size_t i = 0; i < n; i++) ((unsigned char *)to)[i] = (unsigned char)e8m0_code(from[i]);
}
