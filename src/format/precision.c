/* format/precision.c: what a weight becomes in each encoding of Loom's form 2, and what is read from it.
 *
 * Scales are constants of the encoding and never fitted: the integers cover −1 … 1 (the unsigned ones over an offset of 1) and clip the
 * rest; int64 is as coarse as int8, int4 keeps what is 8 and more. Everything truncates toward zero: half precision too, which has no
 * subnormals here and no NaN. What Loom leaves to the machine (int32, int64 and uint64 past their ends, NaN in any integer) saturates
 * here, and NaN is 0. Sums are in double but for the 4-bit encodings, as in Loom: the last bits depend on it. */
#include "format/precision.h"

#include "base/dtype.h"

#include <math.h>
#include <string.h>

/* ---- Floats ---- */

static uint64_t encode_float32(float value, double scale) { return (void)scale, hd_bits_of_f32(value); }
static float decode_float32(uint64_t code, double scale) { return (void)scale, hd_f32_of_bits((uint32_t)code); }

static uint64_t encode_float64(float value, double scale) {
  double wide = value;
  uint64_t code;
  (void)scale;
  memcpy(&code, &wide, sizeof code);
  return code;
}

static float decode_float64(uint64_t code, double scale) {
  double wide;
  (void)scale;
  memcpy(&wide, &code, sizeof wide);
  return (float)wide;
}

static uint64_t encode_float16(float value, double scale) {
  uint32_t bits = hd_bits_of_f32(value), sign = bits >> 16 & 0x8000u;
  int exponent = (int)(bits >> 23 & 0xffu) - 127;
  (void)scale;
  if (exponent > 15) return sign | 0x7c00u;
  if (exponent < -14) return sign;
  return sign | (uint32_t)(exponent + 15) << 10 | (bits >> 13 & 0x3ffu);
}

static float decode_float16(uint64_t code, double scale) { return (void)scale, hd_f16_to_f32((uint16_t)code); }

/* Go adds to the bits as they are: unlike hd_f32_to_bf16 it does not look for NaN, whose payload may carry over into −0. */
static uint64_t encode_bfloat16(float value, double scale) {
  uint32_t bits = hd_bits_of_f32(value);
  (void)scale;
  return (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16 & 0xffffu;
}

static float decode_bfloat16(uint64_t code, double scale) { return (void)scale, hd_f32_of_bits((uint32_t)code << 16); }

/* E4M3 without the format's own rules for its ends: 0x7e is what overflows, and every exponent is an ordinary one. */
static uint64_t encode_float8(float value, double scale) {
  uint32_t bits = hd_bits_of_f32(value), sign = bits >> 24 & 0x80u;
  int exponent = (int)(bits >> 23 & 0xffu) - 127 + 7;
  (void)scale;
  if (value == 0) return 0;
  if (exponent >= 15) return sign | 0x7eu;
  if (exponent <= 0) return sign;
  return sign | (uint32_t)exponent << 3 | (bits >> 20 & 7u);
}

static float decode_float8(uint64_t code, double scale) {
  (void)scale;
  if ((code & 0x7fu) == 0) return 0;
  double magnitude = ldexp(1 + (double)(code & 7u) / 8, (int)(code >> 3 & 15u) - 7);
  return (float)(code & 0x80u ? -magnitude : magnitude);
}

/* Sixteen even steps from −1 to 1: there is no zero. */
static uint64_t encode_float4(float value, double scale) {
  float n = value / (float)scale;
  n = n < -1 ? -1 : n > 1 ? 1 : n;
  return n != n ? 0 : (uint64_t)((n + 1) * 7.5f);
}

static float decode_float4(uint64_t code, double scale) { return ((float)code / 7.5f - 1) * (float)scale; }

/* ---- Integers ---- */

/* Toward zero into [low, high]. `above` is the first double past high: not every high is a double. */
static uint64_t truncated(double value, double low, int64_t low_code, double above, uint64_t high_code) {
  if (value != value) return 0;
  if (value <= low) return (uint64_t)low_code;
  if (value >= above) return high_code;
  return value < 0 ? (uint64_t)(int64_t)value : (uint64_t)value;
}

static uint64_t encode_int4(float value, double scale) {
  float q = value * (float)scale / 8;
  return truncated(q, -8, -8, 7, 7) + 8;
}

static float decode_int4(uint64_t code, double scale) { return (float)((int)code - 8) * 8 / (float)scale; }

static uint64_t encode_int8(float v, double scale) { return truncated(v * scale, -127, -127, 127, 127); }
static uint64_t encode_int16(float v, double scale) { return truncated(v * scale, -32767, -32767, 32767, 32767); }
static uint64_t encode_int32(float v, double scale) { return truncated(v * scale, -0x1p31, INT32_MIN, 0x1p31, INT32_MAX); }
static uint64_t encode_int64(float v, double scale) { return truncated(v * scale, -0x1p63, INT64_MIN, 0x1p63, INT64_MAX); }

static float decode_int8(uint64_t code, double scale) { return (float)((int8_t)code / scale); }
static float decode_int16(uint64_t code, double scale) { return (float)((int16_t)code / scale); }
static float decode_int32(uint64_t code, double scale) { return (float)((int32_t)code / scale); }
static float decode_int64(uint64_t code, double scale) { return (float)((double)(int64_t)code / scale); }

/* The unsigned ones have their steps built in; the scale beside them is not used. */
#define UNSIGNED(name, half, above, high)                                                                                            \
  static uint64_t encode_##name(float v, double scale) { return (void)scale, truncated(((double)v + 1) * (half), 0, 0, above, high); } \
  static float decode_##name(uint64_t code, double scale) { return (void)scale, (float)((double)code / (half) - 1); }

UNSIGNED(uint8, 127.5, 255, UINT8_MAX)
UNSIGNED(uint16, 32767.5, 65535, UINT16_MAX)
UNSIGNED(uint32, 2147483647.5, 4294967295, UINT32_MAX)
UNSIGNED(uint64, 9.223372e18, 0x1p64, UINT64_MAX)

/* ---- The table ---- */

static const hd_precision precisions[] = {
    {"float32", 32, 0, 1, encode_float32, decode_float32},
    {"float64", 64, 0, 1, encode_float64, decode_float64},
    {"float16", 16, 0, 1, encode_float16, decode_float16},
    {"bfloat16", 16, 0, 1, encode_bfloat16, decode_bfloat16},
    {"float8", 8, 0, 1, encode_float8, decode_float8},
    {"float4", 4, 0, 1, encode_float4, decode_float4},
    {"int4", 4, 8, 1, encode_int4, decode_int4},
    {"int8", 8, 0, 127, encode_int8, decode_int8},
    {"int16", 16, 0, 32767, encode_int16, decode_int16},
    {"int32", 32, 0, 2147483647, encode_int32, decode_int32},
    {"int64", 64, 0, 127, encode_int64, decode_int64},
    {"uint8", 8, 0, 255, encode_uint8, decode_uint8},
    {"uint16", 16, 0, 65535, encode_uint16, decode_uint16},
    {"uint32", 32, 0, 4294967295, encode_uint32, decode_uint32},
    {"uint64", 64, 0, 1, encode_uint64, decode_uint64},
};
enum { N_PRECISIONS = sizeof precisions / sizeof *precisions };

const hd_precision *hd_precision_at(size_t index) { return index < N_PRECISIONS ? &precisions[index] : NULL; }

const hd_precision *hd_precision_find(const char *name) {
  for (size_t i = 0; i < N_PRECISIONS; i++)
    if (strcmp(precisions[i].name, name) == 0) return &precisions[i];
  return NULL;
}

/* ---- Packing ---- */

size_t hd_precision_bytes(const hd_precision *p, size_t n) { return p->bits == 4 ? n / 2 + n % 2 : n * (p->bits / 8); }
size_t hd_precision_count(const hd_precision *p, size_t n_bytes) { return p->bits == 4 ? n_bytes * 2 : n_bytes / (p->bits / 8); }

void hd_precision_encode(const hd_precision *p, const float *values, size_t n, uint8_t *bytes) {
  size_t width = p->bits / 8;
  for (size_t i = 0; width && i < n; i++) {
    uint64_t code = p->encode(values[i], p->scale);
    for (size_t b = 0; b < width; b++) bytes[i * width + b] = (uint8_t)(code >> 8 * b);
  }
  for (size_t i = 0; !width && i < n; i += 2) {
    uint64_t low = i + 1 < n ? p->encode(values[i + 1], p->scale) : p->filler;
    bytes[i / 2] = (uint8_t)(p->encode(values[i], p->scale) << 4 | low);
  }
}

static uint64_t code_at(const hd_precision *p, const uint8_t *bytes, size_t i) {
  if (p->bits == 4) return i % 2 ? bytes[i / 2] & 15u : bytes[i / 2] >> 4;
  uint64_t code = 0;
  size_t width = p->bits / 8;
  for (size_t b = 0; b < width; b++) code |= (uint64_t)bytes[i * width + b] << 8 * b;
  return code;
}

void hd_precision_decode(const hd_precision *p, const uint8_t *bytes, size_t n, double scale, float *values) {
  if (scale == 0) scale = 1;
  for (size_t i = 0; i < n; i++) values[i] = p->decode(code_at(p, bytes, i), scale);
}
