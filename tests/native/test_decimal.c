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

/* ---- Reading ---- */

static void check_read(const char *text) {
  size_t n_read, n = strlen(text);
  const double wide = hd_decimal_read(text, n, &n_read, hd_binary_f64), should = strtod(text, NULL);
  const float narrow = (float)hd_decimal_read(text, n, NULL, hd_binary_f32), should_narrow = strtof(text, NULL);
  if (!CHECK(n_read == n && memcmp(&wide, &should, sizeof wide) == 0)) printf("# %.60s: %a, not %a\n", text, wide, should);
  if (!CHECK(memcmp(&narrow, &should_narrow, sizeof narrow) == 0)) printf("# %.60s: %a, not %a\n", text, (double)narrow, (double)should_narrow);
}

TEST(decimals_of_any_digits_and_exponent_are_read_as_the_nearest) {
  char text[64];
  for (int i = 0; i < 60000; i++) {
    const int exponent = (int)(test_random() % 700) - 350;
    const uint64_t digits = test_random() >> (test_random() % 60);
    if (i % 3 == 0) snprintf(text, sizeof text, "%" PRIu64 "e%d", digits, exponent);
    else if (i % 3 == 1) snprintf(text, sizeof text, "-%" PRIu64 ".%" PRIu64 "e%d", test_random() % 10, digits, exponent / 8);
    else snprintf(text, sizeof text, "0.%0*d%" PRIu64, (int)(test_random() % 30), 0, digits);
    check_read(text);
  }
}

/* Between two float32 lies a float64, all of whose digits are written: the even one; with a digit more, whatever its place, the upper one; a little
 * less, the lower one. */
TEST(decimals_half_way_between_two_numbers_are_read_as_the_even_one) {
  char text[400], less[400];
  for (uint32_t i = 0; i < 4000; i++) {
    const uint32_t bits = i < 400 ? i : (uint32_t)test_random() % 0x7F7FFFFF;
    const double middle = ((double)hd_f32_of_bits(bits) + (double)hd_f32_of_bits(bits + 1)) / 2;
    const int n = snprintf(text, sizeof text, "%.160f", middle);
    const float even = hd_f32_of_bits(bits + bits % 2);
    CHECK((float)hd_decimal_read(text, (size_t)n, NULL, hd_binary_f32) == even);
    check_read(text);
    memset(text + n, '0', 100);
    memcpy(text + n + 100, "1", 2);
    CHECK((float)hd_decimal_read(text, strlen(text), NULL, hd_binary_f32) == hd_f32_of_bits(bits + 1));
    snprintf(less, sizeof less, "%.160f", nextafter(middle, 0));
    CHECK((float)hd_decimal_read(less, strlen(less), NULL, hd_binary_f32) == hd_f32_of_bits(bits));
  }
}

/* 2^-1075 is half of the smallest float64: 0 by itself, and that with anything behind it, be it the thousandth digit. */
TEST(decimals_of_a_thousand_digits_are_read_to_the_last) {
  char text[4000];
  const int n = snprintf(text, sizeof text, "%.1074f", 0x1p-1074); /* its half ends one digit later, in …5/2 */
  uint32_t carry = 0;
  for (int i = 2; i < n; i++) {
    const uint32_t digit = carry * 10 + (uint32_t)(text[i] - '0');
    text[i] = (char)('0' + digit / 2);
    carry = digit % 2;
  }
  text[n] = '5';
  text[n + 1] = '\0';
  CHECK(hd_decimal_read(text, (size_t)n + 1, NULL, hd_binary_f64) == 0);
  memset(text + n + 1, '0', 1000);
  memcpy(text + n + 1001, "1", 2);
  CHECK(hd_decimal_read(text, strlen(text), NULL, hd_binary_f64) == 0x1p-1074);
  text[n] = '4';
  CHECK(hd_decimal_read(text, strlen(text), NULL, hd_binary_f64) == 0);
}

TEST(decimals_are_read_as_far_as_they_go) {
  static const struct {
    const char *text;
    size_t n;
    double value;
  } cases[] = {{"1.5,2", 3, 1.5}, {"", 0, 0}, {"-", 0, 0}, {".", 0, 0}, {".5", 2, 0.5}, {"5.", 2, 5}, {"1e", 1, 1}, {"1e+", 1, 1}, {"1e5x", 3, 1e5}, {"+2", 2, 2},
               {"1.2.3", 3, 1.2}, {"e5", 0, 0}, {"0e99999999999999999999", 22, 0}, {"1e99999999999999999999", 22, INFINITY}, {"-1e-99999999999999999999", 24, 0},
               {"nan", 0, 0}, {"0x10", 1, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    size_t n_read;
    const double value = hd_decimal_read(cases[i].text, strlen(cases[i].text), &n_read, hd_binary_f64);
    if (!CHECK(n_read == cases[i].n && value == cases[i].value)) printf("# \"%s\": %zu, %g\n", cases[i].text, n_read, value);
  }
}
