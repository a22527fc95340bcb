/* Shortest decimals, against printf and strtod: each reads back, none with a digit less does, and of those as long it is the nearest. */
#include "base/decimal.h"
#include "base/dtype.h"
#include "test.h"

#include <float.h>
#include <math.h>

static double read_f64(const char *text) { return strtod(text, NULL); }
static double read_f32(const char *text) { return (double)strtof(text, NULL); }

/* By way of float32, as the reader of weights.mlx. */
static double read_f16(const char *text) { return (double)hd_f16_to_f32(hd_f32_to_f16(strtof(text, NULL))); }
static double read_bf16(const char *text) { return (double)hd_bf16_to_f32(hd_f32_to_bf16(strtof(text, NULL))); }

typedef struct kind {
  hd_binary format;
  double (*read)(const char *text);
} kind;

static kind f64(void) { return (kind){hd_binary_f64, read_f64}; }
static kind f32(void) { return (kind){hd_binary_f32, read_f32}; }
static kind f16(void) { return (kind){hd_binary_f16, read_f16}; }
static kind bf16(void) { return (kind){hd_binary_bf16, read_bf16}; }

/* The digits of a text without zeros before and behind them; their number. */
static int digits_of(char digits[32], const char *text) {
  int n = 0;
  for (; *text && *text != 'e'; text++)
    if (*text >= '0' && *text <= '9' && (n || *text != '0')) digits[n++] = *text;
  while (n > 1 && digits[n - 1] == '0') n--;
  digits[n] = '\0';
  return n;
}

/* The decimals of p digits on both sides of the value, from what printf gives with 25 more. */
static void beside(char below[64], char above[64], double value, int p) {
  char exact[1200];
  unsigned long long whole = 0;
  snprintf(exact, sizeof exact, "%.*e", p + 25, value);
  for (int i = 0, taken = 0; taken < p; i++)
    if (exact[i] != '.') whole = whole * 10 + (unsigned)(exact[i] - '0'), taken++;
  int exponent = atoi(strchr(exact, 'e') + 1) - (p - 1);
  snprintf(below, 64, "%llue%d", whole, exponent);
  snprintf(above, 64, "%llue%d", whole + 1, exponent);
}

static void check_shortest(kind k, double value) {
  char text[HD_DECIMAL_ROOM], digits[32], other[32], below[64], above[64], nearest[64];
  CHECK(hd_decimal(text, value, k.format) == strlen(text));
  if (!CHECK(k.read(text) == value)) printf("# %.17g: %s\n", value, text);
  const int p = digits_of(digits, text);
  value = fabs(value);
  if (p > 1) {
    beside(below, above, value, p - 1);
    if (!CHECK(k.read(below) != value && k.read(above) != value)) printf("# %.17g: %s, but %s or %s\n", value, text, below, above);
  }
  snprintf(nearest, sizeof nearest, "%.*e", p - 1, value);
  digits_of(other, nearest);
  if (k.read(nearest) == value) CHECK_EQ_TEXT(digits, other);
}

/* At each exponent the power of two with its neighbours, and some between. */
TEST(decimals_of_float32_are_the_shortest_at_every_exponent) {
  for (uint32_t exponent = 0; exponent < 255; exponent++)
    for (uint32_t i = 0; i < 160; i++) {
      const uint32_t bits = (exponent << 23) + (i < 4 ? i : i < 8 ? 0x7FFFF8 + i : (uint32_t)test_random() & 0x7FFFFF);
      if (bits) check_shortest(f32(), (double)hd_f32_of_bits(bits));
    }
}

TEST(decimals_of_float64_are_the_shortest_at_every_exponent) {
  for (uint64_t exponent = 0; exponent < 2047; exponent++)
    for (uint64_t i = 0; i < 6; i++) {
      const uint64_t bits = (exponent << 52) + (i < 2 ? i : i < 3 ? UINT64_C(0xFFFFFFFFFFFFF) : test_random() >> 12);
      double value;
      memcpy(&value, &bits, sizeof value);
      if (bits) check_shortest(f64(), value);
    }
}

TEST(decimals_of_the_smallest_numbers_are_the_shortest) {
  for (uint32_t bits = 1; bits < 2000; bits++) {
    check_shortest(f32(), (double)hd_f32_of_bits(bits));
    check_shortest(f64(), (double)bits * 0x1p-1074);
  }
}

/* What people write: few digits, which come back as they were. */
TEST(decimals_of_few_digits_come_back_as_they_were) {
  char text[HD_DECIMAL_ROOM], wanted[HD_DECIMAL_ROOM];
  for (int i = 0; i < 20000; i++) {
    int places = (int)(test_random() % 6) + 1, whole = (int)(test_random() % 999999);
    while (whole % 10 == 0) whole++;
    snprintf(wanted, sizeof wanted, "%.*f", places, whole / pow(10, places));
    hd_decimal(text, (double)strtof(wanted, NULL), hd_binary_f32);
    CHECK_EQ_TEXT(text, wanted);
    hd_decimal(text, strtod(wanted, NULL), hd_binary_f64);
    CHECK_EQ_TEXT(text, wanted);
  }
}

/* A decimal half-way between two others: the even one, as printf has it. Multiples of 2^7 from 2^30 on have ten digits, of which eight tell them apart. */
TEST(decimals_as_near_as_another_are_the_even_ones) {
  for (uint32_t i = 0; i < 20000; i++) check_shortest(f32(), 0x1p30 + 128 * (double)(test_random() % 8000000));
}

TEST(decimals_of_all_numbers_of_two_bytes_are_the_shortest) {
  for (uint16_t bits = 0; bits < 0x7C00; bits++) check_shortest(f16(), (double)hd_f16_to_f32(bits));
  for (uint16_t bits = 0; bits < 0x7F80; bits++) check_shortest(bf16(), (double)hd_bf16_to_f32(bits));
}

TEST(decimals_have_signs_points_and_exponents_as_go_and_javascript_write_them) {
  static const struct {
    double value;
    const char *text;
  } cases[] = {{0, "0"}, {-0.0, "-0"}, {-1.5, "-1.5"}, {1e-6, "0.000001"}, {-9.999999e-7, "-9.999999e-7"}, {1e20, "100000000000000000000"},
               {1e21, "1e+21"}, {-DBL_MAX, "-1.7976931348623157e+308"}, {-5e-324, "-5e-324"}, {-0.0000011234567890123457, "-0.0000011234567890123457"}};
  char text[HD_DECIMAL_ROOM];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_decimal(text, cases[i].value, hd_binary_f64);
    CHECK_EQ_TEXT(text, cases[i].text);
  }
}
