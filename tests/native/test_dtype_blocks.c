/* base/dtype_small.c and base/dtype_ggml.c: every code of the small floats both ways, their rounding as torch's, and GGML's blocks as its
 * reference decodes and encodes them. */
#include "golden.h"

#include "base/dtype.h"

/* ---- Small floats ---- */

/* An independent reading: sign, exponent, mantissa; NaN where `special` says. */
static double small_value(unsigned code, unsigned bits, unsigned mantissa_bits, int bias) {
  unsigned sign = code >> (bits - 1), magnitude = code & ((1u << (bits - 1)) - 1), mantissa = magnitude & ((1u << mantissa_bits) - 1);
  int exponent = (int)(magnitude >> mantissa_bits), scale = -bias - (int)mantissa_bits;
  double value = exponent ? ldexp(mantissa + (1u << mantissa_bits), exponent + scale) : ldexp(mantissa, 1 + scale);
  return sign ? -value : value;
}

typedef struct small_case {
  hd_dtype dtype;
  unsigned bits, mantissa_bits;
  int bias;
  unsigned finite; /* codes of magnitude below this are numbers */
  bool infinity;
} small_case;

static const small_case small_cases[] = {
    {HD_F8_E4M3, 8, 3, 7, 0x7f, false},      {HD_F8_E5M2, 8, 2, 15, 0x7c, true},      {HD_F8_E4M3FNUZ, 8, 3, 8, 0x80, false},
    {HD_F8_E5M2FNUZ, 8, 2, 16, 0x80, false}, {HD_F6_E2M3, 6, 3, 1, 0x20, false},      {HD_F6_E3M2, 6, 2, 3, 0x20, false},
    {HD_F4, 4, 1, 1, 0x8, false},
};

/* All codes of a dtype, as its files pack them: in order, lowest bits first. */
static size_t all_codes(unsigned char bytes[256], unsigned bits) {
  size_t n = (size_t)1 << bits;
  memset(bytes, 0, 256);
  for (size_t i = 0; i < n; i++)
    for (size_t b = 0; b < bits; b++) bytes[(i * bits + b) / 8] |= (unsigned char)((i >> b & 1) << (i * bits + b) % 8);
  return n;
}

static void check_small(const small_case *c) {
  unsigned char codes[256], back[256];
  float values[256];
  size_t n = all_codes(codes, c->bits), n_bytes = n * c->bits / 8, half = n / 2;
  const hd_dtype_info *info = hd_dtype_get(c->dtype);
  info->to_f32(codes, values, n);
  for (unsigned code = 0; code < n; code++) {
    unsigned magnitude = code & (unsigned)(half - 1);
    bool no_negative_zero = (c->dtype == HD_F8_E4M3FNUZ || c->dtype == HD_F8_E5M2FNUZ) && code == 0x80;
    if (no_negative_zero || (magnitude >= c->finite && !(c->infinity && magnitude == c->finite))) CHECK(isnan(values[code]));
    else if (magnitude == c->finite) CHECK(isinf(values[code]) && (values[code] < 0) == (code >= half));
    else CHECK((double)values[code] == small_value(code, c->bits, c->mantissa_bits, c->bias) && !signbit(values[code]) == (code < half));
  }
  info->from_f32(values, back, n);
  CHECK_EQ_BITS(back, codes, n_bytes);
}

TEST(small_float_codes_all_decode_exactly_and_come_back) {
  for (size_t i = 0; i < sizeof small_cases / sizeof *small_cases; i++) check_small(&small_cases[i]);
}

static unsigned encode_one(hd_dtype dtype, float value) {
  const float four[4] = {value, 0, 0, 0};
  unsigned char bytes[4] = {0};
  hd_dtype_get(dtype)->from_f32(four, bytes, 4);
  return bytes[0] & (dtype == HD_F4 ? 15u : dtype == HD_F6_E2M3 || dtype == HD_F6_E3M2 ? 63u : 255u);
}

/* Between each two neighbours: just below the middle, the middle (to the even code), just above it. */
TEST(small_floats_round_to_nearest_even) {
  for (size_t i = 0; i < sizeof small_cases / sizeof *small_cases; i++) {
    const small_case *c = &small_cases[i];
    for (unsigned code = 0; code + 1 < c->finite; code++) {
      double low = small_value(code, c->bits, c->mantissa_bits, c->bias), high = small_value(code + 1, c->bits, c->mantissa_bits, c->bias);
      float middle = (float)((low + high) / 2);
      CHECK(encode_one(c->dtype, middle) == (code & 1 ? code + 1 : code));
      CHECK(encode_one(c->dtype, nextafterf(middle, 0)) == code);
      CHECK(encode_one(c->dtype, nextafterf(middle, INFINITY)) == code + 1);
    }
  }
}

TEST(small_floats_at_the_end_of_their_range) {
  CHECK(encode_one(HD_F8_E4M3, 1e9f) == 0x7e && encode_one(HD_F8_E4M3, -INFINITY) == 0xfe && encode_one(HD_F8_E4M3, NAN) % 128 == 0x7f);
  CHECK(encode_one(HD_F8_E5M2, 61439) == 0x7b && encode_one(HD_F8_E5M2, 61440) == 0x7c && encode_one(HD_F8_E5M2, -INFINITY) == 0xfc);
  CHECK(encode_one(HD_F8_E4M3FNUZ, INFINITY) == 0x7f && encode_one(HD_F8_E4M3FNUZ, NAN) == 0x80 && encode_one(HD_F8_E5M2FNUZ, -0.0f) == 0);
  CHECK(encode_one(HD_F6_E2M3, 100) == 0x1f && encode_one(HD_F6_E3M2, -100) == 0x3f && encode_one(HD_F6_E2M3, NAN) == 0);
  CHECK(encode_one(HD_F4, 7) == 7 && encode_one(HD_F4, -INFINITY) == 15 && encode_one(HD_F4, NAN) == 0);
}

static void check_rounding(const golden_file *file, const char *name, hd_dtype dtype) {
  size_t n_x, n_codes;
  float *x = golden_tensor(file, "x", &n_x);
  unsigned char *codes = golden_tensor(file, name, &n_codes), *is = malloc(n_codes + 1);
  size_t n = n_x / sizeof *x, width = n_codes / (n ? n : 1);
  hd_dtype_get(dtype)->from_f32(x, is, n);
  for (size_t i = 0; i < n; i++)
    if (!isnan(x[i])) CHECK_EQ_BITS(is + i * width, codes + i * width, width);
  free(x);
  free(codes);
  free(is);
}

TEST(halves_and_f8_round_as_torch_does) {
  golden_file file;
  if (golden_open(&file, "tests/golden/torch/rounding.safetensors")) {
    check_rounding(&file, "f16", HD_F16);
    check_rounding(&file, "bf16", HD_BF16);
    check_rounding(&file, "f8_e4m3", HD_F8_E4M3);
    check_rounding(&file, "f8_e5m2", HD_F8_E5M2);
  }
  golden_close(&file);
}

static void check_table(const golden_file *file, const char *name, hd_dtype dtype, unsigned bits) {
  unsigned char codes[256];
  float is[256];
  size_t n = all_codes(codes, bits), n_bytes;
  float *should = golden_tensor(file, name, &n_bytes);
  hd_dtype_get(dtype)->to_f32(codes, is, n);
  if (!should || !CHECK(n_bytes == n * sizeof *should)) return;
  for (size_t i = 0; i < n; i++)
    if (isnan(should[i])) CHECK(isnan(is[i]));
    else CHECK_EQ_BITS(&is[i], &should[i], sizeof *should);
  free(should);
}

TEST(e2m1_e4m3_and_e8m0_are_the_published_tables) {
  golden_file file;
  if (golden_open(&file, "tests/golden/quant/tables.safetensors")) {
    check_table(&file, "e2m1", HD_F4, 4);
    check_table(&file, "e4m3", HD_F8_E4M3, 8);
    check_table(&file, "e8m0", HD_F8_E8M0, 8);
  }
  golden_close(&file);
}

TEST(e8m0_codes_come_back_and_round_to_the_nearest_power) {
  unsigned char codes[256], back[256];
  float values[256];
  size_t n = all_codes(codes, 8);
  hd_dtype_get(HD_F8_E8M0)->to_f32(codes, values, n);
  hd_dtype_get(HD_F8_E8M0)->from_f32(values, back, n);
  CHECK_EQ_BITS(back, codes, n);
  CHECK(encode_one(HD_F8_E8M0, 1.4999999f) == 127 && encode_one(HD_F8_E8M0, 1.5f) == 128);
  CHECK(encode_one(HD_F8_E8M0, 0) == 0 && encode_one(HD_F8_E8M0, -0.0f) == 0 && encode_one(HD_F8_E8M0, 0x1.7p-127f) == 0);
  CHECK(encode_one(HD_F8_E8M0, 0x1.8p-127f) == 1 && encode_one(HD_F8_E8M0, 3e38f) == 254);
  CHECK(encode_one(HD_F8_E8M0, -1) == 255 && encode_one(HD_F8_E8M0, INFINITY) == 255 && encode_one(HD_F8_E8M0, NAN) == 255);
}

/* ---- GGML's blocks ---- */

static void check_decoding(const char *type) {
  char path[100];
  golden_file file;
  snprintf(path, sizeof path, "tests/golden/quant/deq_%s.safetensors", type);
  if (golden_open(&file, path)) {
    size_t n_blocks, n_values, bytes;
    unsigned char *blocks = golden_tensor(&file, "blocks", &n_blocks);
    float *values = golden_tensor(&file, "values", &n_values), *is = malloc(n_values);
    hd_dtype dtype = hd_dtype_find(type, strlen(type));
    size_t n = n_values / sizeof *values;
    if (CHECK(dtype != HD_DTYPE_COUNT && hd_dtype_bytes(dtype, n, &bytes) && bytes == n_blocks)) {
      hd_dtype_get(dtype)->to_f32(blocks, is, n);
      if (!CHECK_EQ_BITS(is, values, n_values)) printf("# in %s\n", type);
    }
    free(blocks);
    free(values);
    free(is);
  }
  golden_close(&file);
}

TEST(ggml_blocks_decode_as_the_reference_does_bit_for_bit) {
  static const char *const types[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) check_decoding(types[i]);
}

static void check_encoding(const char *type) {
  char path[100];
  golden_file file;
  snprintf(path, sizeof path, "tests/golden/quant/quant_%s.safetensors", type);
  if (golden_open(&file, path)) {
    size_t n_blocks, n_source, n_values;
    unsigned char *blocks = golden_tensor(&file, "blocks", &n_blocks), *is = malloc(n_blocks + 1);
    float *source = golden_tensor(&file, "source", &n_source), *values = golden_tensor(&file, "values", &n_values), *back = malloc(n_values + 1);
    hd_dtype dtype = hd_dtype_find(type, strlen(type));
    size_t n = n_source / sizeof *source;
    hd_dtype_get(dtype)->from_f32(source, is, n);
    hd_dtype_get(dtype)->to_f32(is, back, n);
    if (!CHECK_EQ_BITS(is, blocks, n_blocks) || !CHECK_EQ_BITS(back, values, n_values)) printf("# in %s\n", type);
    free(blocks);
    free(is);
    free(source);
    free(values);
    free(back);
  }
  golden_close(&file);
}

TEST(ggml_blocks_encode_as_the_reference_does_byte_for_byte) {
  static const char *const types[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4"};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) check_encoding(types[i]);
}

TEST(ggml_encoders_survive_what_is_not_finite) {
  static const hd_dtype types[] = {HD_Q4_0, HD_Q4_1, HD_Q5_0, HD_Q5_1, HD_Q8_0, HD_MXFP4};
  float x[4][32] = {{0}};
  for (size_t i = 0; i < 32; i++) {
    x[0][i] = NAN;
    x[1][i] = i % 3 ? 1 : INFINITY;
    x[2][i] = i % 3 ? 1e-45f : -1e-44f;
    x[3][i] = i % 3 ? 3e38f : -3e38f;
  }
  for (size_t t = 0; t < sizeof types / sizeof *types; t++)
    for (size_t i = 0; i < 4; i++) {
      unsigned char block[34];
      hd_dtype_get(types[t])->from_f32(x[i], block, 32);
    }
}
