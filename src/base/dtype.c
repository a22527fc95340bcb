/* base/dtype.c: the table of dtypes and the exact conversions to and from float32 of those that are one number after the other
 * (dtype_small.c has the floats of a byte and less, dtype_ggml.c GGML's blocks). Values are read and written byte-wise: a tensor in a file
 * may start anywhere. Nothing here is fast; kernels have their own loads for the dtypes they multiply. */
#include "base/dtype.h"

#include "base/dtype_families.h"
#include "base/memory.h"
#include "base/status.h"

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

uint16_t hd_f32_to_f16(float value) {
  uint32_t bits = hd_bits_of_f32(value), magnitude = bits & 0x7fffffffu, sign = bits >> 16 & 0x8000u;
  if (magnitude > 0x7f800000u) { /* NaN: keeps the payload's head, and never becomes infinity */
    uint32_t payload = magnitude >> 13 & 0x3ffu;
    return (uint16_t)(sign | 0x7c00u | (payload ? payload : 0x200u));
  }
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);    /* from 65520: infinity */
  if (magnitude >= 0x38800000u)                                       /* normal: a carry runs into the exponent */
    return (uint16_t)(sign | hd_shift_right_even(magnitude - (112u << 23), 13));
  uint32_t exponent = magnitude >> 23;
  if (exponent < 102) return (uint16_t)sign;                          /* below half the smallest subnormal */
  return (uint16_t)(sign | hd_shift_right_even((magnitude & 0x7fffffu) | 0x800000u, 126 - exponent));
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

/* ---- The table ---- */

#define PLAIN(title, bytes, pair) \
  {.name = title, .block_values = 1, .block_bytes = bytes, .safetensors = true, .to_f32 = pair##_to_f32, .from_f32 = pair##_from_f32}
#define SMALL(title, values, bytes, pair) \
  {.name = title, .block_values = values, .block_bytes = bytes, .safetensors = true, \
   .to_f32 = hd_##pair##_to_f32, .from_f32 = hd_##pair##_from_f32}
#define GGML(title, values, bytes, pair) \
  {.name = title, .block_values = values, .block_bytes = bytes, .ggml = true, \
   .to_f32 = hd_##pair##_to_f32, .from_f32 = hd_##pair##_from_f32}
#define GGML_READ(title, values, bytes, pair) \
  {.name = title, .block_values = values, .block_bytes = bytes, .ggml = true, .to_f32 = hd_##pair##_to_f32}

static const hd_dtype_info dtypes[HD_DTYPE_COUNT] = {
    [HD_F32] = PLAIN("F32", 4, f32),
    [HD_F64] = PLAIN("F64", 8, f64),
    [HD_F16] = PLAIN("F16", 2, f16),
    [HD_BF16] = PLAIN("BF16", 2, bf16),
    [HD_I64] = PLAIN("I64", 8, i64),
    [HD_I32] = PLAIN("I32", 4, i32),
    [HD_I16] = PLAIN("I16", 2, i16),
    [HD_I8] = PLAIN("I8", 1, i8),
    [HD_U64] = PLAIN("U64", 8, u64),
    [HD_U32] = PLAIN("U32", 4, u32),
    [HD_U16] = PLAIN("U16", 2, u16),
    [HD_U8] = PLAIN("U8", 1, u8),
    [HD_BOOL] = PLAIN("BOOL", 1, bool),
    [HD_C64] = {.name = "C64", .block_values = 1, .block_bytes = 8, .safetensors = true}, /* two F32: no real number */
    [HD_F8_E4M3] = SMALL("F8_E4M3", 1, 1, f8_e4m3),
    [HD_F8_E5M2] = SMALL("F8_E5M2", 1, 1, f8_e5m2),
    [HD_F8_E4M3FNUZ] = SMALL("F8_E4M3FNUZ", 1, 1, f8_e4m3fnuz),
    [HD_F8_E5M2FNUZ] = SMALL("F8_E5M2FNUZ", 1, 1, f8_e5m2fnuz),
    [HD_F8_E8M0] = SMALL("F8_E8M0", 1, 1, f8_e8m0),
    [HD_F6_E2M3] = SMALL("F6_E2M3", 4, 3, f6_e2m3),
    [HD_F6_E3M2] = SMALL("F6_E3M2", 4, 3, f6_e3m2),
    [HD_F4] = {.name = "F4", .block_values = 2, .block_bytes = 1, .ragged = true, .safetensors = true,
               .to_f32 = hd_f4_to_f32, .from_f32 = hd_f4_from_f32},
    [HD_Q4_0] = GGML("Q4_0", 32, 18, q4_0),
    [HD_Q4_1] = GGML("Q4_1", 32, 20, q4_1),
    [HD_Q5_0] = GGML("Q5_0", 32, 22, q5_0),
    [HD_Q5_1] = GGML("Q5_1", 32, 24, q5_1),
    [HD_Q8_0] = GGML("Q8_0", 32, 34, q8_0),
    [HD_MXFP4] = GGML("MXFP4", 32, 17, mxfp4),
    [HD_Q2_K] = GGML_READ("Q2_K", 256, 84, q2_k),
    [HD_Q3_K] = GGML_READ("Q3_K", 256, 110, q3_k),
    [HD_Q4_K] = GGML_READ("Q4_K", 256, 144, q4_k),
    [HD_Q5_K] = GGML_READ("Q5_K", 256, 176, q5_k),
    [HD_Q6_K] = GGML_READ("Q6_K", 256, 210, q6_k),
    [HD_IQ4_NL] = GGML_READ("IQ4_NL", 32, 18, iq4_nl),
    [HD_IQ4_XS] = GGML_READ("IQ4_XS", 256, 136, iq4_xs),
    [HD_INT8] = {.name = "INT8", .block_values = 1, .block_bytes = 1},
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

/* By significant bits and range: an integer of b bits needs b (one less with a sign), 11 fit F16, 8 fit BF16, 24 fit F32. */
bool hd_dtype_holds(hd_dtype to, hd_dtype from) {
  static const hd_dtype into_both[] = {HD_I8, HD_U8, HD_BOOL, HD_F8_E4M3, HD_F8_E5M2, HD_F8_E4M3FNUZ, HD_F8_E5M2FNUZ,
                                       HD_F6_E2M3, HD_F6_E3M2, HD_F4};
  static const hd_dtype not_into_f32[] = {HD_F64, HD_I64, HD_I32, HD_U64, HD_U32, HD_C64};
  if (to == from) return true;
  if (to == HD_F32) {
    for (size_t i = 0; i < sizeof not_into_f32 / sizeof *not_into_f32; i++)
      if (not_into_f32[i] == from) return false;
    return true;
  }
  for (size_t i = 0; (to == HD_F16 || to == HD_BF16) && i < sizeof into_both / sizeof *into_both; i++)
    if (into_both[i] == from) return true;
  return false;
}

hd_status hd_dtype_decodes(hd_dtype dtype, const char *tensor, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (hd_dtype_get(dtype) && hd_dtype_get(dtype)->to_f32) return HD_OK;
  return hd_fail(err, HD_UNSUPPORTED, "tensor %s: values of %s cannot become float32", hd_short_name(room, tensor), hd_dtype_name(dtype));
}

bool hd_shape_count(int n_dims, const size_t *shape, size_t *count) {
  bool empty = false;
  for (int i = 0; i < n_dims; i++) empty |= shape[i] == 0;
  *count = empty ? 0 : 1; /* no overflow where a 0 makes the product 0 */
  for (int i = 0; i < n_dims && !empty; i++)
    if (!hd_mul_size(*count, shape[i], count)) return false;
  return true;
}
