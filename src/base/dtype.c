/* base/dtype.c: the table of dtypes and the exact conversions to and from float32. Values are read and written byte-wise:
 * a tensor in a file may start anywhere. Nothing here is fast; kernels have their own loads for the dtypes they multiply. */
#include "base/dtype.h"

#include "base/memory.h"

#include <math.h>
#include <string.h>

/* ---- Halves ---- */

float hd_f16_to_f32(uint16_t bits) {
  uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
  uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
  if (exponent == 0x1f) return hd_f32_of_bits(sign | 0x7f800000u | mantissa << 13);
  if (exponent != 0) return hd_f32_of_bits(sign | (exponent + 112) << 23 | mantissa << 13);
  float magnitude = (float)mantissa * 0x1p-24f; /* subnormals are multiples of 2^-24 */
  return sign ? -magnitude : magnitude;
}

/* The top bits of `magnitude` after a shift to the right, rounded to nearest even. */
static uint32_t shift_right_even(uint32_t magnitude, unsigned shift) {
  uint32_t kept = magnitude >> shift, dropped = magnitude & ((1u << shift) - 1u), half = 1u << (shift - 1);
  return kept + (dropped > half || (dropped == half && (kept & 1u)));
}

uint16_t hd_f32_to_f16(float value) {
  uint32_t bits = hd_bits_of_f32(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7f800000u) { /* NaN: keeps the payload's head, and never becomes infinity */
    uint32_t payload = magnitude >> 13 & 0x3ffu;
    return (uint16_t)(sign | 0x7c00u | (payload ? payload : 0x200u));
  }
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);    /* from 65520: infinity */
  if (magnitude >= 0x38800000u)                                       /* normal: a carry runs into the exponent */
    return (uint16_t)(sign | shift_right_even(magnitude - (112u << 23), 13));
  uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return (uint16_t)sign;                          /* below half the smallest subnormal */
  return (uint16_t)(sign | shift_right_even((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent));
}

float hd_bf16_to_f32(uint16_t bits) { return hd_f32_of_bits((uint32_t)bits << 16); }

uint16_t hd_f32_to_bf16(float value) {
  uint32_t bits = hd_bits_of_f32(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) { /* NaN, as above */
    uint32_t head = bits >> 16;
    return (uint16_t)(head & 0x7fu ? head : head | 0x40u);
  }
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* ---- One pair of functions per dtype ---- */

static void f32_to_f32(const void *from, float *to, size_t n) { memmove(to, from, n * sizeof *to); }
static void f32_from_f32(const float *from, void *to, size_t n) { memmove(to, from, n * sizeof *from); }

/* A pair over single values: `down` and `up` are expressions of `value`. */
#define CONVERSIONS(name, type, up, down)                              \
  static void name##_to_f32(const void *from, float *to, size_t n) {   \
    for (size_t i = 0; i < n; i++) {                                   \
      type value;                                                      \
      memcpy(&value, (const char *)from + i * sizeof value, sizeof value); \
      to[i] = (up);                                                    \
    }                                                                  \
  }                                                                    \
  static void name##_from_f32(const float *from, void *to, size_t n) { \
    for (size_t i = 0; i < n; i++) {                                   \
      float value = from[i];                                           \
      type result = (down);                                            \
      memcpy((char *)to + i * sizeof result, &result, sizeof result);  \
    }                                                                  \
  }

/* Nearest even, saturated; NaN is 0. The limits are compared as floats: the upper one is the first value out of range. */
#define TO_INTEGER(type, low, first_above, max) \
  (value != value ? (type)0 : value < (low) ? (type)(low) : value >= (first_above) ? (type)(max) : (type)rintf(value))

CONVERSIONS(f64, double, (float)value, (double)value)
CONVERSIONS(f16, uint16_t, hd_f16_to_f32(value), hd_f32_to_f16(value))
CONVERSIONS(bf16, uint16_t, hd_bf16_to_f32(value), hd_f32_to_bf16(value))
CONVERSIONS(i64, int64_t, (float)value, TO_INTEGER(int64_t, -0x1p63f, 0x1p63f, INT64_MAX))
CONVERSIONS(i32, int32_t, (float)value, TO_INTEGER(int32_t, -0x1p31f, 0x1p31f, INT32_MAX))
CONVERSIONS(i16, int16_t, (float)value, TO_INTEGER(int16_t, -0x1p15f, 32767.0f, INT16_MAX))
CONVERSIONS(i8, int8_t, (float)value, TO_INTEGER(int8_t, -0x1p7f, 127.0f, INT8_MAX))
CONVERSIONS(u64, uint64_t, (float)value, TO_INTEGER(uint64_t, 0.0f, 0x1p64f, UINT64_MAX))
CONVERSIONS(u32, uint32_t, (float)value, TO_INTEGER(uint32_t, 0.0f, 0x1p32f, UINT32_MAX))
CONVERSIONS(u16, uint16_t, (float)value, TO_INTEGER(uint16_t, 0.0f, 65535.0f, UINT16_MAX))
CONVERSIONS(u8, uint8_t, (float)value, TO_INTEGER(uint8_t, 0.0f, 255.0f, UINT8_MAX))
CONVERSIONS(bool, uint8_t, value ? 1.0f : 0.0f, value != 0.0f)

/* ---- Q8_0: per 32 values an F16 scale d, then 32 int8 q; the value is q · d ---- */

enum { Q8_0_VALUES = 32, Q8_0_BYTES = 34 };

static void q8_0_to_f32(const void *from, float *to, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const unsigned char *block = (const unsigned char *)from + i / Q8_0_VALUES * Q8_0_BYTES;
    float scale = hd_f16_to_f32((uint16_t)(block[0] | block[1] << 8));
    to[i] = (float)(int8_t)block[2 + i % Q8_0_VALUES] * scale;
  }
}

/* The largest magnitude, in four lanes that compilers turn into one vector. NaN counts for nothing. */
static float largest(const float *x) {
  float lane[4] = {0};
  for (size_t i = 0; i < Q8_0_VALUES; i += 4)
    for (size_t l = 0; l < 4; l++) {
      float size = fabsf(x[i + l]);
      lane[l] = lane[l] < size ? size : lane[l];
    }
  float a = lane[0] > lane[1] ? lane[0] : lane[1], b = lane[2] > lane[3] ? lane[2] : lane[3];
  return a > b ? a : b;
}

/* roundf, halves away from zero, without a call: the part cut off decides. */
static inline float round_away(float x) {
  float whole = truncf(x), rest = x - whole;
  return whole + (rest >= 0.5f ? 1.0f : 0.0f) - (rest <= -0.5f ? 1.0f : 0.0f);
}

/* GGML's reference quantiser, operation by operation: its rounding is away from zero, and by the reciprocal of the scale
 * before that became an F16. Its result for values that are not finite is undefined; here those codes are 0. */
static void q8_0_block_from_f32(const float *from, unsigned char *block) {
  float d = largest(from) / 127.0f, id = d != 0.0f ? 1.0f / d : 0.0f;
  uint16_t scale = hd_f32_to_f16(d);
  block[0] = (unsigned char)(scale & 0xffu);
  block[1] = (unsigned char)(scale >> 8);
  for (size_t i = 0; i < Q8_0_VALUES; i++) {
    float q = round_away(from[i] * id);
    block[2 + i] = (unsigned char)(int8_t)(q >= -127.0f && q <= 127.0f ? q : 0.0f);
  }
}

static void q8_0_from_f32(const float *from, void *to, size_t n) {
  for (size_t i = 0; i < n / Q8_0_VALUES; i++) q8_0_block_from_f32(from + i * Q8_0_VALUES, (unsigned char *)to + i * Q8_0_BYTES);
}

/* ---- F4: sign, two bits of exponent, one of mantissa. Nearest, ties to the even code; saturates; NaN is 0 ---- */

static const float f4_values[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};

static void f4_to_f32(const void *from, float *to, size_t n) {
  for (size_t i = 0; i < n; i++) {
    int code = ((const unsigned char *)from)[i / 2] >> (i % 2 ? 4 : 0) & 15;
    to[i] = code & 8 ? -f4_values[code & 7] : f4_values[code & 7];
  }
}

static unsigned f4_code(float value) {
  float magnitude = fabsf(value);
  unsigned code = 0;
  while (code < 7) {
    float middle = (f4_values[code] + f4_values[code + 1]) / 2;
    if (!(magnitude > middle || (magnitude == middle && code % 2 == 1))) break;
    code++;
  }
  return signbit(value) && code ? code | 8u : code;
}

static void f4_from_f32(const float *from, void *to, size_t n) {
  for (size_t i = 0; i < n; i += 2)
    ((unsigned char *)to)[i / 2] = (unsigned char)(f4_code(from[i]) | (i + 1 < n ? f4_code(from[i + 1]) << 4 : 0));
}

/* ---- The table ---- */

static const hd_dtype_info dtypes[HD_DTYPE_COUNT] = {
    [HD_F32] = {"F32", 1, 4, false, f32_to_f32, f32_from_f32},
    [HD_F64] = {"F64", 1, 8, false, f64_to_f32, f64_from_f32},
    [HD_F16] = {"F16", 1, 2, false, f16_to_f32, f16_from_f32},
    [HD_BF16] = {"BF16", 1, 2, false, bf16_to_f32, bf16_from_f32},
    [HD_I64] = {"I64", 1, 8, false, i64_to_f32, i64_from_f32},
    [HD_I32] = {"I32", 1, 4, false, i32_to_f32, i32_from_f32},
    [HD_I16] = {"I16", 1, 2, false, i16_to_f32, i16_from_f32},
    [HD_I8] = {"I8", 1, 1, false, i8_to_f32, i8_from_f32},
    [HD_U64] = {"U64", 1, 8, false, u64_to_f32, u64_from_f32},
    [HD_U32] = {"U32", 1, 4, false, u32_to_f32, u32_from_f32},
    [HD_U16] = {"U16", 1, 2, false, u16_to_f32, u16_from_f32},
    [HD_U8] = {"U8", 1, 1, false, u8_to_f32, u8_from_f32},
    [HD_BOOL] = {"BOOL", 1, 1, false, bool_to_f32, bool_from_f32},
    [HD_Q8_0] = {"Q8_0", Q8_0_VALUES, Q8_0_BYTES, false, q8_0_to_f32, q8_0_from_f32},
    [HD_F4] = {"F4", 2, 1, true, f4_to_f32, f4_from_f32},
};

const hd_dtype_info *hd_dtype_get(hd_dtype dtype) { return (unsigned)dtype < HD_DTYPE_COUNT ? &dtypes[dtype] : NULL; }

const char *hd_dtype_name(hd_dtype dtype) { return (unsigned)dtype < HD_DTYPE_COUNT ? dtypes[dtype].name : "none"; }

hd_dtype hd_dtype_find(const char *name, size_t n) {
  for (int i = 0; i < HD_DTYPE_COUNT; i++)
    if (strlen(dtypes[i].name) == n && memcmp(dtypes[i].name, name, n) == 0) return (hd_dtype)i;
  return HD_DTYPE_COUNT;
}

bool hd_dtype_bytes(hd_dtype dtype, size_t n, size_t *bytes) {
  const hd_dtype_info *info = hd_dtype_get(dtype);
  if (!info || (n % info->block_values != 0 && !info->ragged)) return false;
  return hd_mul_size(n / info->block_values + (n % info->block_values != 0), info->block_bytes, bytes);
}

bool hd_shape_count(int n_dims, const size_t *shape, size_t *count) {
  bool empty = false;
  for (int i = 0; i < n_dims; i++) empty |= shape[i] == 0;
  *count = empty ? 0 : 1; /* no overflow where a 0 makes the product 0 */
  for (int i = 0; i < n_dims && !empty; i++)
    if (!hd_mul_size(*count, shape[i], count)) return false;
  return true;
}
