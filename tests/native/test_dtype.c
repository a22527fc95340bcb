/* base/dtype.c: every code of the halves both ways, and saturation of integers. */
#include "test.h"

#include "base/dtype.h"

static float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* An independent reading of the formats: sign, exponent, mantissa. */
static double half_value(uint16_t bits) {
  int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double magnitude = exponent == 31 ? (mantissa ? (double)NAN : (double)INFINITY)
                     : exponent     ? ldexp(1024 + mantissa, exponent - 25)
                                    : ldexp(mantissa, -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

TEST(f16_codes_all_decode_exactly_and_come_back) {
  for (uint32_t code = 0; code < 65536; code++) {
    float value = hd_f16_to_f32((uint16_t)code);
    double should = half_value((uint16_t)code);
    CHECK(isnan(should) ? isnan(value) : (double)value == should);
    CHECK(hd_f32_to_f16(value) == code);
  }
}

TEST(bf16_codes_all_decode_exactly_and_come_back) {
  for (uint32_t code = 0; code < 65536; code++) {
    float value = hd_bf16_to_f32((uint16_t)code), should = float_of(code << 16);
    CHECK_EQ_BITS(&value, &should, sizeof value);
    CHECK(hd_f32_to_bf16(value) == code);
  }
}

/* Between each two neighbours: just below the middle, the middle (to the even one), just above it. */
TEST(f32_to_f16_rounds_to_nearest_even) {
  for (uint32_t code = 0; code < 0x7bff; code++) {
    double low = half_value((uint16_t)code), high = half_value((uint16_t)(code + 1));
    float middle = (float)((low + high) / 2);
    CHECK(hd_f32_to_f16(middle) == (code & 1 ? code + 1 : code));
    CHECK(hd_f32_to_f16(nextafterf(middle, 0)) == code);
    CHECK(hd_f32_to_f16(nextafterf(middle, INFINITY)) == code + 1);
    CHECK(hd_f32_to_f16(-middle) == (0x8000u | (code & 1 ? code + 1 : code)));
  }
  CHECK(hd_f32_to_f16(65519.996f) == 0x7bff);
  CHECK(hd_f32_to_f16(65520.0f) == 0x7c00);
  CHECK(hd_f32_to_f16(1e30f) == 0x7c00);
  CHECK(hd_f32_to_f16(-INFINITY) == 0xfc00);
  CHECK(hd_f32_to_f16(1e-40f) == 0 && hd_f32_to_f16(-1e-40f) == 0x8000);
}

TEST(f32_to_bf16_rounds_to_nearest_even) {
  for (uint32_t code = 0; code < 0x7f7f; code++) {
    CHECK(hd_f32_to_bf16(float_of(code << 16 | 0x8000)) == (code & 1 ? code + 1 : code));
    CHECK(hd_f32_to_bf16(float_of(code << 16 | 0x7fff)) == code);
    CHECK(hd_f32_to_bf16(float_of(code << 16 | 0x8001)) == code + 1);
  }
  CHECK(hd_f32_to_bf16(float_of(0x7f7fffff)) == 0x7f80);
}

TEST(nan_stays_nan_when_its_payload_does_not_fit) {
  CHECK(isnan(hd_f16_to_f32(hd_f32_to_f16(float_of(0x7f800001)))));
  CHECK(isnan(hd_bf16_to_f32(hd_f32_to_bf16(float_of(0xff800001)))));
}

TEST(dtype_names_find_their_rows) {
  for (int d = 0; d < HD_DTYPE_COUNT; d++) {
    const char *name = hd_dtype_name((hd_dtype)d);
    CHECK(hd_dtype_find(name, strlen(name)) == (hd_dtype)d);
  }
  CHECK(hd_dtype_find("f32", 3) == HD_DTYPE_COUNT);
  CHECK(hd_dtype_find("F3", 2) == HD_DTYPE_COUNT);
  CHECK(hd_dtype_find("F32 ", 4) == HD_DTYPE_COUNT);
  CHECK(hd_dtype_find("", 0) == HD_DTYPE_COUNT);
  CHECK(hd_dtype_get(HD_DTYPE_COUNT) == NULL);
}

TEST(dtype_bytes_refuse_broken_blocks_and_overflow) {
  size_t bytes;
  CHECK(hd_dtype_bytes(HD_Q8_0, 64, &bytes) && bytes == 68);
  CHECK(!hd_dtype_bytes(HD_Q8_0, 33, &bytes));
  CHECK(hd_dtype_bytes(HD_F64, SIZE_MAX / 8, &bytes) && bytes == SIZE_MAX / 8 * 8);
  CHECK(!hd_dtype_bytes(HD_F64, SIZE_MAX / 8 + 1, &bytes));
  CHECK(!hd_dtype_bytes(HD_DTYPE_COUNT, 1, &bytes));
}

TEST(shape_counts_refuse_overflow_but_not_zero) {
  size_t count;
  CHECK(hd_shape_count(0, NULL, &count) && count == 1);
  CHECK(hd_shape_count(3, (size_t[]){2, 3, 4}, &count) && count == 24);
  CHECK(!hd_shape_count(3, (size_t[]){SIZE_MAX, 2, 2}, &count));
  CHECK(hd_shape_count(4, (size_t[]){SIZE_MAX, 2, 2, 0}, &count) && count == 0);
}

TEST(integers_saturate_and_round_to_even) {
  const float from[] = {0.5f, 1.5f, -2.5f, 1e30f, -1e30f, NAN, INFINITY, -0.4f};
  int8_t i8[8];
  uint8_t u8[8], boolean[8];
  int64_t i64[8];
  uint64_t u64[8];
  hd_dtype_get(HD_I8)->from_f32(from, i8, 8);
  hd_dtype_get(HD_U8)->from_f32(from, u8, 8);
  hd_dtype_get(HD_I64)->from_f32(from, i64, 8);
  hd_dtype_get(HD_U64)->from_f32(from, u64, 8);
  hd_dtype_get(HD_BOOL)->from_f32(from, boolean, 8);
  CHECK_EQ_BITS(i8, ((int8_t[]){0, 2, -2, 127, -128, 0, 127, 0}), sizeof i8);
  CHECK_EQ_BITS(u8, ((uint8_t[]){0, 2, 0, 255, 0, 0, 255, 0}), sizeof u8);
  CHECK_EQ_BITS(i64, ((int64_t[]){0, 2, -2, INT64_MAX, INT64_MIN, 0, INT64_MAX, 0}), sizeof i64);
  CHECK_EQ_BITS(u64, ((uint64_t[]){0, 2, 0, UINT64_MAX, 0, 0, UINT64_MAX, 0}), sizeof u64);
  CHECK_EQ_BITS(boolean, ((uint8_t[]){1, 1, 1, 1, 1, 1, 1, 1}), sizeof boolean);
}

TEST(values_survive_float32_and_any_address) {
  for (int d = 0; d < HD_DTYPE_COUNT; d++) {
    const hd_dtype_info *info = hd_dtype_get((hd_dtype)d);
    if (info->block_values != 1 || !info->from_f32 || d == HD_F8_E8M0) continue; /* E8M0 has no 0 and no 3 */
    const float from[] = {0, 1, 3, 100};
    float back[4];
    unsigned char bytes[1 + 4 * 8];
    info->from_f32(from, bytes + 1, 4);
    info->to_f32(bytes + 1, back, 4);
    CHECK(back[0] == 0 && back[1] == 1);
    CHECK(d == HD_BOOL ? back[3] == 1 : back[2] == 3 && (back[3] == 100 || (info->block_bytes == 1 && back[3] == 96)));
  }
}

TEST(widen_takes_whole_blocks_and_the_bytes_they_have) {
  const uint16_t halves[3] = {0x3c00, 0xc000, 0x0001};
  float values[32];
  hd_error err;
  CHECK(hd_widen(HD_F16, halves, sizeof halves, values, 3, &err) == HD_OK);
  CHECK(values[0] == 1.0f && values[1] == -2.0f && values[2] == 0x1p-24f);
  CHECK(hd_widen(HD_F16, halves, 5, values, 3, &err) == HD_BAD_ARGUMENT && strstr(err.message, "3 values of F16 take 6 bytes, found 5"));
  CHECK(hd_widen(HD_Q8_0, halves, 6, values, 3, &err) == HD_BAD_ARGUMENT && strstr(err.message, "whole blocks of Q8_0, which have 32"));
  CHECK(hd_widen(HD_DTYPE_COUNT, halves, 6, values, 3, &err) == HD_BAD_ARGUMENT);
  CHECK(hd_widen((hd_dtype)-1, halves, 6, values, 3, &err) == HD_BAD_ARGUMENT);
  CHECK(hd_widen(HD_F32, halves, 0, values, 0, &err) == HD_OK);
}
