/* base/decimal.c: both ways by exact whole numbers. Digits are found after Steele and White, "How to print floating-point numbers
 * accurately" (1990), with the bounds of Burger and Dybvig, "Printing floating-point numbers quickly and accurately" (1996).
 *
 * A number reads back from whatever lies between it and the middles to its two neighbours. With the number, the distances and the place of
 * the next digit as whole numbers (`rest`, `below`, `unit`), a digit is rest / unit; the first one after which what is left out is less
 * than a distance is the last. float32 needs numbers of 160 bits at most, float64 of some 1120.
 *
 * To read one, its digits times or over a power of ten are divided to 55 bits, of which the format keeps the first. Decimals of more than
 * 800 digits are as near to whatever they are near to as their first 800 and something. */
#include "base/decimal.h"

#include <math.h>
#include <string.h>

const hd_binary hd_binary_f64 = {53, -1074}, hd_binary_f32 = {24, -149}, hd_binary_f16 = {11, -24}, hd_binary_bf16 = {8, -133};

/* ---- Whole numbers ---- */

enum { MOST_WORDS = 132 };

/* n words, the least first, the last not 0. */
typedef struct whole {
  int n;
  uint32_t word[MOST_WORDS];
} whole;

static void multiply(whole *a, uint32_t factor) {
  uint64_t carry = 0;
  for (int i = 0; i < a->n; i++) {
    carry += (uint64_t)a->word[i] * factor;
    a->word[i] = (uint32_t)carry;
    carry >>= 32;
  }
  if (carry) a->word[a->n++] = (uint32_t)carry;
}

static void add_small(whole *a, uint32_t value) {
  uint64_t carry = value;
  for (int i = 0; i < a->n && carry; i++) {
    carry += a->word[i];
    a->word[i] = (uint32_t)carry;
    carry >>= 32;
  }
  if (carry) a->word[a->n++] = (uint32_t)carry;
}

static void multiply_by_power_of_ten(whole *a, int exponent) {
  for (; exponent >= 9; exponent -= 9) multiply(a, 1000000000u);
  for (; exponent > 0; exponent--) multiply(a, 10);
}

/* value · 2^shift */
static void set_shifted(whole *a, uint64_t value, int shift) {
  for (a->n = 0; a->n < shift / 32; a->n++) a->word[a->n] = 0;
  for (; value > 0; value >>= 32) a->word[a->n++] = (uint32_t)value;
  multiply(a, UINT32_C(1) << shift % 32);
}

/* The sign of a − b. */
static int compare(const whole *a, const whole *b) {
  if (a->n != b->n) return a->n < b->n ? -1 : 1;
  for (int i = a->n; i-- > 0;)
    if (a->word[i] != b->word[i]) return a->word[i] < b->word[i] ? -1 : 1;
  return 0;
}

/* The sign of a + times · b − c. */
static int compare_sum(const whole *a, const whole *b, uint32_t times, const whole *c) {
  whole sum;
  uint64_t carry = 0;
  sum.n = a->n > b->n ? a->n : b->n;
  for (int i = 0; i < sum.n; i++) {
    carry += (i < a->n ? a->word[i] : 0) + (uint64_t)times * (i < b->n ? b->word[i] : 0);
    sum.word[i] = (uint32_t)carry;
    carry >>= 32;
  }
  if (carry) sum.word[sum.n++] = (uint32_t)carry;
  return compare(&sum, c);
}

/* a − times · b, which is not negative. */
static void subtract(whole *a, const whole *b, uint32_t times) {
  uint64_t product = 0;
  int64_t carry = 0;
  for (int i = 0; i < a->n; i++) {
    if (i < b->n) product += (uint64_t)b->word[i] * times;
    carry += (int64_t)a->word[i] - (int64_t)(uint32_t)product;
    a->word[i] = (uint32_t)carry;
    carry = carry < 0 ? -1 : 0;
    product >>= 32;
  }
  while (a->n > 0 && a->word[a->n - 1] == 0) a->n--;
}

/* a / b, less than 2^32, by their first words: right to 15 digits. */
static double divide(const whole *a, const whole *b) {
  double x = 0, y = 0;
  for (int i = b->n; i >= 0 && i >= b->n - 3; i--) {
    x = x * 0x1p32 + (i < a->n ? a->word[i] : 0);
    y = y * 0x1p32 + (i < b->n ? b->word[i] : 0);
  }
  return x / y;
}

/* a becomes the rest of a / b, which is less than 2^28. */
static uint32_t take_quotient(whole *a, const whole *b) {
  const uint32_t quotient = (uint32_t)(divide(a, b) * (1 - 1e-12)); /* or one more */
  subtract(a, b, quotient);
  if (compare(a, b) < 0) return quotient;
  subtract(a, b, 1);
  return quotient + 1;
}

/* ---- Digits ---- */

/* digits[0].digits[1]… · 10^exponent */
typedef struct decimal {
  char digits[20];
  int n, exponent;
} decimal;

/* A positive number being written, all in one unit of measure. */
typedef struct writing {
  whole rest;     /* of the number, behind the digits that are written */
  whole below;    /* from the number to the middle between it and the one below */
  uint32_t above; /* to the middle above it, in times of that */
  whole unit;     /* what the next digit counts */
  bool even;      /* the middles themselves read back as the number: its last bit is 0, and ties go there */
  int exponent;   /* of the next digit */
} writing;

static bool reaches_up(const writing *w) {
  int sign = compare_sum(&w->rest, &w->below, w->above, &w->unit);
  return sign > 0 || (sign == 0 && w->even);
}

static bool reaches_down(const writing *w) {
  int sign = compare(&w->rest, &w->below);
  return sign < 0 || (sign == 0 && w->even);
}

static void next_place(writing *w) {
  multiply(&w->rest, 10);
  multiply(&w->below, 10);
  w->exponent--;
}

/* Measured in halves of the step to the next number; below a power of two the numbers lie twice as close, unless they are subnormal: in
 * quarters. */
static void set_distances(writing *w, double value, int two, hd_binary format) {
  const int step = two - format.bits > format.smallest ? two - format.bits : format.smallest;
  const uint64_t steps = (uint64_t)ldexp(value, -step);
  const bool closer_below = steps == UINT64_C(1) << (format.bits - 1) && step > format.smallest;
  const int part = step - (closer_below ? 2 : 1); /* 2^part is what all is measured in */
  set_shifted(&w->rest, steps, step - part + (part > 0 ? part : 0));
  set_shifted(&w->below, 1, part > 0 ? part : 0);
  set_shifted(&w->unit, 1, part < 0 ? -part : 0);
  w->above = closer_below ? 2 : 1;
  w->even = steps % 2 == 0;
}

static void begin(writing *w, double value, hd_binary format) {
  int two;
  frexp(value, &two); /* value < 2^two */
  set_distances(w, value, two, format);
  /* The first digit's place, or the one behind it. */
  w->exponent = (int)ceil((two - 1) * 0.30102999566398120 - 1e-10); /* log10 of 2 */
  multiply_by_power_of_ten(&w->unit, w->exponent);
  multiply_by_power_of_ten(&w->rest, -w->exponent);
  multiply_by_power_of_ten(&w->below, -w->exponent);
  if (compare(&w->rest, &w->unit) < 0) next_place(w);
}

/* Whether the last digit is better one up: nearer, or as near and even then. */
static bool rounds_up(const writing *w, int digit, bool down, bool up) {
  if (!down || !up) return up;
  int sign = compare_sum(&w->rest, &w->rest, 1, &w->unit);
  return sign > 0 || (sign == 0 && digit % 2 != 0);
}

static decimal find_digits(double value, hd_binary format) {
  writing w;
  begin(&w, value, format);
  decimal d = {.exponent = w.exponent};
  for (;; next_place(&w)) {
    int digit = (int)take_quotient(&w.rest, &w.unit);
    bool down = reaches_down(&w), up = reaches_up(&w);
    if (down || up) digit += rounds_up(&w, digit, down, up);
    /* Of the first digit: others never come to that. */
    if (digit == 10) return (decimal){.digits = "1", .n = 1, .exponent = w.exponent + 1};
    d.digits[d.n++] = (char)('0' + digit);
    if (down || up) return d;
  }
}

/* ---- The text ---- */

static char *put(char *to, const char *from, int n) {
  memcpy(to, from, (size_t)n);
  return to + n;
}

static char *put_zeros(char *to, int n) {
  memset(to, '0', (size_t)n);
  return to + n;
}

/* "e-7", "e+21", "e-324" */
static char *put_exponent(char *to, int exponent) {
  *to++ = 'e';
  *to++ = exponent < 0 ? '-' : '+';
  int size = exponent < 0 ? -exponent : exponent;
  if (size >= 100) *to++ = (char)('0' + size / 100);
  if (size >= 10) *to++ = (char)('0' + size / 10 % 10);
  *to++ = (char)('0' + size % 10);
  return to;
}

static char *put_decimal(char *to, const decimal *d) {
  const int n_whole = d->exponent + 1; /* digits before the point */
  if (d->exponent < -6 || d->exponent >= 21) {
    to = put(to, d->digits, 1);
    if (d->n > 1) *to++ = '.';
    to = put(to, d->digits + 1, d->n - 1);
    return put_exponent(to, d->exponent);
  }
  if (n_whole <= 0) {
    to = put_zeros(put(to, "0.", 2), -n_whole);
    return put(to, d->digits, d->n);
  }
  if (d->n <= n_whole) return put_zeros(put(to, d->digits, d->n), n_whole - d->n);
  to = put(to, d->digits, n_whole);
  *to++ = '.';
  return put(to, d->digits + n_whole, d->n - n_whole);
}

size_t hd_decimal(char room[HD_DECIMAL_ROOM], double value, hd_binary format) {
  const decimal d = value == 0 ? (decimal){.digits = "0", .n = 1} : find_digits(fabs(value), format);
  char *end = room;
  if (signbit(value)) *end++ = '-';
  end = put_decimal(end, &d);
  *end = '\0';
  return (size_t)(end - room);
}

/* ---- Reading ---- */

enum { MOST_DIGITS = 800 };

/* A positive decimal: digits · 10^exponent. */
typedef struct reading {
  whole digits;
  int n_digits;     /* from the first that is not 0 */
  int64_t exponent;
  bool more;        /* digits that are not 0 were left out */
} reading;

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

static void take_digit(reading *r, char digit, bool behind_point) {
  const bool leads = r->n_digits == 0 && digit == '0', fits = r->n_digits < MOST_DIGITS;
  if (!leads && fits) {
    multiply(&r->digits, 10);
    add_small(&r->digits, (uint32_t)(digit - '0'));
    r->n_digits++;
  } else if (!leads && digit != '0') {
    r->more = true;
  }
  r->exponent += (!fits && !leads) - behind_point;
}

/* Digits with at most one point; 0: there is none. */
static size_t take_digits(reading *r, const char *text, size_t n) {
  size_t i = 0, n_taken = 0;
  bool behind_point = false;
  for (; i < n && (is_digit(text[i]) || (text[i] == '.' && !behind_point)); i++) {
    if (text[i] == '.') {
      behind_point = true;
      continue;
    }
    take_digit(r, text[i], behind_point);
    n_taken++;
  }
  return n_taken ? i : 0;
}

/* "e-7"; 0: there is none. */
static size_t take_exponent(reading *r, const char *text, size_t n) {
  size_t i = 1;
  int64_t exponent = 0;
  if (n < 2 || (text[0] != 'e' && text[0] != 'E')) return 0;
  const bool down = text[i] == '-';
  if (down || text[i] == '+') i++;
  if (i == n || !is_digit(text[i])) return 0;
  for (; i < n && is_digit(text[i]); i++)
    if (exponent < INT64_MAX / 16) exponent = exponent * 10 + (text[i] - '0');
  r->exponent += down ? -exponent : exponent;
  return i;
}

static int bits_of(const whole *a) {
  int bits = 32 * (a->n - 1);
  for (uint32_t top = a->word[a->n - 1]; top; top >>= 1) bits++;
  return bits;
}

static void shift_left(whole *a, int bits) {
  for (; bits > 0; bits -= 31) multiply(a, UINT32_C(1) << (bits < 31 ? bits : 31));
}

/* (quotient + a part, which is 0 unless `more`) · 2^exponent, to the bits that the format has there. */
static double round_to(hd_binary format, uint64_t quotient, int exponent, bool more) {
  int bits = 0;
  while (quotient >> bits) bits++;
  const int usual = exponent + bits - format.bits, last = usual > format.smallest ? usual : format.smallest, dropped = last - exponent;
  if (dropped > 63) return 0;
  const uint64_t rest = quotient & ((UINT64_C(1) << dropped) - 1), half = UINT64_C(1) << (dropped - 1);
  uint64_t kept = quotient >> dropped;
  kept += rest > half || (rest == half && (more || kept % 2 != 0));
  return ldexp((double)kept, last);
}

static double nearest(reading *r, hd_binary format) {
  if (r->n_digits == 0 || r->exponent + r->n_digits < -400) return 0;
  if (r->exponent + r->n_digits > 400) return INFINITY;
  whole unit;
  set_shifted(&unit, 1, 0);
  multiply_by_power_of_ten(&r->digits, (int)r->exponent);
  multiply_by_power_of_ten(&unit, (int)-r->exponent);
  const int shift = 27 - (bits_of(&r->digits) - bits_of(&unit)); /* the quotient has 27 or 28 bits then, and 28 more */
  shift_left(&r->digits, shift);
  shift_left(&unit, -shift);
  const uint64_t first = take_quotient(&r->digits, &unit);
  shift_left(&r->digits, 28);
  const uint64_t second = take_quotient(&r->digits, &unit);
  return round_to(format, first << 28 | second, -shift - 28, r->more || r->digits.n > 0);
}

double hd_decimal_read(const char *text, size_t n, size_t *n_read, hd_binary format) {
  reading r;
  r.digits.n = r.n_digits = 0;
  r.exponent = 0;
  r.more = false;
  const bool negative = n > 0 && text[0] == '-', sign = negative || (n > 0 && text[0] == '+');
  const size_t n_digits = take_digits(&r, text + sign, n - sign), n_all = sign + n_digits;
  const size_t n_exponent = n_digits ? take_exponent(&r, text + n_all, n - n_all) : 0;
  if (n_read) *n_read = n_digits ? n_all + n_exponent : 0;
  const double value = nearest(&r, format);
  return negative ? -value : value;
}
