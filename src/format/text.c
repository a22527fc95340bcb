/* format/text.c: a text that grows, and what bundles are written with: numbers, strings and trees as Go's JSON writer (and,
 * for numbers, JavaScript's) spells them. */
#include "format/text.h"

#include "base/base64.h"
#include "base/json.h"
#include "base/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void make_room(hd_text *t, size_t room) {
  char *data = hd_realloc(t->data, room);
  t->failed = !data;
  if (!data) return;
  t->data = data;
  t->room = room;
}

void hd_text_reserve(hd_text *t, size_t n) {
  if (!t->failed && n < SIZE_MAX && n + 1 > t->room) make_room(t, n + 1);
}

/* n bytes more at the end, for the caller to fill; NULL once memory ran out. A NUL stands behind them always. */
static char *extend(hd_text *t, size_t n) {
  size_t needed;
  if (t->failed) return NULL;
  if (!hd_add_size(t->n, n, &needed) || needed == SIZE_MAX) {
    t->failed = true;
    return NULL;
  }
  size_t doubled = t->room < SIZE_MAX / 2 ? t->room * 2 : SIZE_MAX, least = needed < 63 ? 64 : needed + 1;
  if (needed + 1 > t->room && !t->counting) make_room(t, doubled > least ? doubled : least);
  if (t->failed) return NULL;
  char *end = t->counting ? NULL : t->data + t->n;
  t->n = needed;
  if (end) t->data[needed] = '\0';
  return end;
}

void hd_text_add(hd_text *t, const char *bytes, size_t n) {
  char *end = extend(t, n);
  if (end && n) memcpy(end, bytes, n);
}

void hd_text_print(hd_text *t, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int n = vsnprintf(NULL, 0, format, arguments);
  if (n < 0) t->failed = true;
  char *end = n < 0 ? NULL : extend(t, (size_t)n);
  if (end) vsnprintf(end, (size_t)n + 1, format, again);
  va_end(again);
  va_end(arguments);
}

void hd_text_base64(hd_text *t, const void *bytes, size_t n) {
  char *end = extend(t, hd_base64_encoded_size(n));
  if (end) hd_base64_encode(bytes, n, end);
}

/* ---- Numbers ---- */

/* digits[0].digits[1]… · 10^exponent */
typedef struct shortest {
  char digits[24];
  int n, exponent;
} shortest;

static bool reads_back(const char *text, double value, bool as_float) {
  return as_float ? (double)strtof(text, NULL) == value : strtod(text, NULL) == value;
}

/* "1.234e-05" or "1234e-8", NUL-terminated, to digits without zeros at the end. */
static void take_digits(shortest *s, const char *text) {
  int n_before = 0, n = 0;
  bool fraction = false;
  for (; *text != 'e'; text++) {
    if (*text == '.') fraction = true;
    else s->digits[n++] = *text;
    if (!fraction) n_before = n;
  }
  s->exponent = (int)strtol(text + 1, NULL, 10) + n_before - 1;
  while (n > 1 && s->digits[n - 1] == '0') n--;
  s->n = n;
}

/* At a power of two the numbers below lie closer than those above, and so the decimal of p digits next to the nearest, on
 * its other side, may still read back where the nearest does not. */
static bool try_other_side(shortest *s, const char *nearest, int p, double value, bool as_float) {
  int two;
  if (frexp(value, &two) != 0.5) return false;
  char text[48];
  shortest d;
  take_digits(&d, nearest);
  unsigned long long whole = 0;
  for (int i = 0; i < p; i++) whole = whole * 10 + (unsigned)(i < d.n ? d.digits[i] - '0' : 0);
  whole = strtod(nearest, NULL) < value ? whole + 1 : whole - 1;
  snprintf(text, sizeof text, "%llue%d", whole, d.exponent - (p - 1));
  if (!reads_back(text, value, as_float)) return false;
  take_digits(s, text);
  return true;
}

/* The fewest digits that read back as the positive value, the nearest of those. Up to 6 digits (15 for float64) every decimal is a
 * normal number of its own: one that reads back with fewer shows as zeros at the end of that many. */
static void find_shortest(shortest *s, double value, bool as_float) {
  int most = as_float ? 9 : 17, p = as_float ? 6 : 15;
  if (value < (as_float ? 0x1p-126 : 0x1p-1022)) p = 1;
  for (; p <= most; p++) {
    char text[48];
    snprintf(text, sizeof text, "%.*e", p - 1, value);
    if (reads_back(text, value, as_float)) {
      take_digits(s, text);
      return;
    }
    if (try_other_side(s, text, p, value, as_float)) return;
  }
}

static void take_whole(shortest *s, uint32_t whole, int exponent) {
  s->n = snprintf(s->digits, sizeof s->digits, "%" PRIu32, whole);
  s->exponent = exponent + s->n - 1;
  while (s->n > 1 && s->digits[s->n - 1] == '0') s->n--;
}

/* The same of a float32 with a few operations on doubles, false where they do not tell: the decimal of p digits next to it is its product with a power of
 * ten, rounded, unless that product (which is off by 2^-53 of itself, so by less than 1e-6) lies about half-way between two. */
static bool find_fast(shortest *s, double value) {
  int two;
  if (value < 1e-12 || value >= 1e15 || frexp(value, &two) == 0.5) return false;
  int tens = (int)floor(log10(value)); /* off by one at most: a digit less, or more */
  double most = 1e6; /* 10^p */
  for (int p = 6; p <= 9; p++, most *= 10) {
    double power, wide;
    float back;
    int exponent = tens - (p - 1);
    if (!hd_decimal_double(1, exponent < 0 ? -exponent : exponent, &power)) return false;
    double product = exponent < 0 ? value * power : value / power, whole = floor(product + 0.5);
    if (fabs(product - floor(product) - 0.5) < 1e-6 || whole < most / 10 || whole > most) return false;
    if (!hd_decimal_double((uint64_t)whole, exponent, &wide) || !hd_double_float(wide, &back)) return false;
    if ((double)back != value) continue;
    take_whole(s, (uint32_t)whole, exponent);
    return true;
  }
  return false;
}

/* Go's and JavaScript's way: an exponent below 1e-6 and from 1e21 on. */
static void add_number(hd_text *t, double value, bool as_float) {
  shortest s = {.digits = "0", .n = 1};
  if (signbit(value)) hd_text_add(t, "-", 1);
  if (value != 0 && !(as_float && find_fast(&s, fabs(value)))) find_shortest(&s, fabs(value), as_float);
  int n_whole = s.exponent + 1; /* digits before the point */
  if (s.exponent < -6 || s.exponent >= 21) {
    hd_text_add(t, s.digits, 1);
    if (s.n > 1) hd_text_print(t, ".%.*s", s.n - 1, s.digits + 1);
    hd_text_print(t, "e%+d", s.exponent);
  } else if (n_whole <= 0) {
    hd_text_print(t, "0.%.*s%.*s", -n_whole, "000000", s.n, s.digits);
  } else if (s.n <= n_whole) {
    hd_text_print(t, "%.*s%.*s", s.n, s.digits, n_whole - s.n, "00000000000000000000");
  } else {
    hd_text_print(t, "%.*s.%.*s", n_whole, s.digits, s.n - n_whole, s.digits + n_whole);
  }
}

void hd_text_float(hd_text *t, float value) { add_number(t, (double)value, true); }
void hd_text_double(hd_text *t, double value) { add_number(t, value, false); }

/* ---- Trees ---- */

/* Go escapes what HTML or JavaScript could trip over, too. */
static void add_escaped(hd_text *t, const char *s, size_t n) {
  unsigned char c = (unsigned char)*s;
  if (n == 3 && memcmp(s, "\xE2\x80\xA8", 3) == 0) hd_text_add(t, "\\u2028", 6);
  else if (n == 3 && memcmp(s, "\xE2\x80\xA9", 3) == 0) hd_text_add(t, "\\u2029", 6);
  else if (c == '"' || c == '\\') hd_text_print(t, "\\%c", c);
  else if (c == '\n') hd_text_add(t, "\\n", 2);
  else if (c == '\r') hd_text_add(t, "\\r", 2);
  else if (c == '\t') hd_text_add(t, "\\t", 2);
  else if (c < 0x20 || c == '<' || c == '>' || c == '&') hd_text_print(t, "\\u%04x", c);
  else hd_text_add(t, s, n);
}

void hd_text_quoted(hd_text *t, const char *text) {
  hd_text_add(t, "\"", 1);
  for (const char *s = text; *s;) {
    size_t n = 1;
    while (n < 4 && ((unsigned char)s[n] & 0xC0) == 0x80) n++;
    add_escaped(t, s, n);
    s += n;
  }
  hd_text_add(t, "\"", 1);
}

static void add_line(hd_text *t, int level) { hd_text_print(t, "\n%*s", level * 2, ""); }

static void add_items(hd_text *t, const cJSON *node, int level) {
  bool object = cJSON_IsObject(node);
  hd_text_add(t, object ? "{" : "[", 1);
  for (const cJSON *item = node->child; item; item = item->next) {
    add_line(t, level + 1);
    if (object) {
      hd_text_quoted(t, item->string);
      hd_text_add(t, ": ", 2);
    }
    hd_text_json(t, item, level + 1);
    if (item->next) hd_text_add(t, ",", 1);
  }
  if (node->child) add_line(t, level);
  hd_text_add(t, object ? "}" : "]", 1);
}

void hd_text_json(hd_text *t, const cJSON *node, int level) {
  if (cJSON_IsObject(node) || cJSON_IsArray(node)) add_items(t, node, level);
  else if (cJSON_IsString(node)) hd_text_quoted(t, node->valuestring);
  else if (cJSON_IsNumber(node) && isfinite(node->valuedouble)) hd_text_double(t, node->valuedouble);
  else hd_text_print(t, "%s", cJSON_IsTrue(node) ? "true" : cJSON_IsFalse(node) ? "false" : "null");
}
