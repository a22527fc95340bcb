/* base/json_reader.c: the pull reader. It is RFC 8259 read strictly: no leading zeros, no raw control characters, escapes
 * and surrogate pairs complete, UTF-8 well formed, a limited depth. Where the standard leaves it open we refuse: lone
 * surrogates, a byte order mark, numbers that overflow. Nothing is copied but keys and strings that are asked for. */
#include "base/json.h"

#include "base/memory.h"
#include "base/status.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The characters between a string's quotes, [start, end) of the text. */
typedef struct string_span {
  size_t start, end;
  bool escaped;
} string_span;

hd_json_reader hd_json_open(const char *text, size_t n, const char *what, hd_error *err) {
  return (hd_json_reader){.text = text, .n = n, .what = what, .err = err};
}

/* ---- Failures ---- */

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_word(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

/* What stands at the reader's place: a character, a whole word ('NaN'), or the number of a byte that cannot be shown. */
static void show_found(const hd_json_reader *r, char room[HD_NAME_ROOM]) {
  if (r->at >= r->n) {
    strcpy(room, "the end of the text");
    return;
  }
  const char *s = r->text + r->at;
  size_t n = 1, most = r->n - r->at < 24 ? r->n - r->at : 24;
  if (is_word(*s))
    while (n < most && is_word(s[n])) n++;
  else if ((n = hd_utf8_length(s, r->n - r->at)) == 0 || (n == 1 && (*s < 0x20 || *s == 0x7F)))
    n = 0;
  if (n == 0) snprintf(room, HD_NAME_ROOM, "byte 0x%02X", (unsigned)(unsigned char)*s);
  else snprintf(room, HD_NAME_ROOM, "'%.*s'", (int)n, s);
}

hd_status hd_json_fail(hd_json_reader *r, const char *expected) {
  if (r->status != HD_OK) return r->status;
  char found[HD_NAME_ROOM];
  show_found(r, found);
  r->status = hd_fail(r->err, HD_BAD_FILE, "%s: byte %zu: expected %s, found %s", r->what, r->at, expected, found);
  return r->status;
}

static bool fail(hd_json_reader *r, const char *expected) {
  hd_json_fail(r, expected);
  return false;
}

static bool fail_memory(hd_json_reader *r, size_t bytes) {
  r->status = hd_fail(r->err, HD_OUT_OF_MEMORY, "%s: byte %zu: no memory for a text of %zu bytes", r->what, r->at, bytes);
  return false;
}

/* ---- Characters ---- */

static void skip_space(hd_json_reader *r) {
  while (r->at < r->n) {
    char c = r->text[r->at];
    if (c != ' ' && c != '\t' && c != '\n' && c != '\r') return;
    r->at++;
  }
}

static bool at_char(const hd_json_reader *r, char c) { return r->at < r->n && r->text[r->at] == c; }

static bool take_char(hd_json_reader *r, char c, const char *expected) {
  if (!at_char(r, c)) return fail(r, expected);
  r->at++;
  return true;
}

/* Four hex digits; -1 when they are not. */
static int hex4(const char *s) {
  int code = 0;
  for (int i = 0; i < 4; i++) {
    char c = s[i];
    int digit = is_digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    code = code * 16 + digit;
  }
  return code;
}

/* The code of a \uXXXX at the reader's place, or -1 when there is none. */
static int escaped_code(const hd_json_reader *r) {
  const char *s = r->text + r->at;
  return r->n - r->at >= 6 && s[0] == '\\' && s[1] == 'u' ? hex4(s + 2) : -1;
}

static bool is_high_surrogate(int code) { return code >= 0xD800 && code <= 0xDBFF; }
static bool is_low_surrogate(int code) { return code >= 0xDC00 && code <= 0xDFFF; }

static bool scan_escape(hd_json_reader *r) {
  char c = r->n - r->at >= 2 ? r->text[r->at + 1] : '\0';
  if (c != 'u') {
    if (c == '\0' || !strchr("\"\\/bfnrt", c)) return fail(r, "one of the escapes \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX");
    r->at += 2;
    return true;
  }
  int code = escaped_code(r);
  if (code < 0) return fail(r, "four hex digits after \\u");
  if (is_low_surrogate(code)) return fail(r, "no second half of a surrogate pair without the first");
  r->at += 6;
  if (!is_high_surrogate(code)) return true;
  if (!is_low_surrogate(escaped_code(r))) return fail(r, "the second half of a surrogate pair");
  r->at += 6;
  return true;
}

/* Steps over a string and checks all of it. */
static bool scan_string(hd_json_reader *r, string_span *span, const char *expected) {
  if (!take_char(r, '"', expected)) return false;
  *span = (string_span){.start = r->at};
  while (r->at < r->n) {
    unsigned char c = (unsigned char)r->text[r->at];
    if (c == '"') {
      span->end = r->at++;
      return true;
    }
    if (c == '\\') {
      span->escaped = true;
      if (!scan_escape(r)) return false;
    } else if (c >= 0x80) {
      size_t length = hd_utf8_length(r->text + r->at, r->n - r->at);
      if (length == 0) return fail(r, "UTF-8");
      r->at += length;
    } else {
      if (c < 0x20) return fail(r, "no raw control character in a string");
      r->at++;
    }
  }
  return fail(r, "the string's closing '\"'");
}

static size_t utf8_encode(unsigned code, char *to) {
  if (code < 0x80) {
    to[0] = (char)code;
    return 1;
  }
  size_t length = code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
  for (size_t i = length - 1; i > 0; i--, code >>= 6) to[i] = (char)(0x80 | (code & 0x3F));
  to[0] = (char)((0xF00u >> length & 0xF0u) | code);
  return length;
}

/* The text of a checked span; it is never longer than the span. */
static size_t unescape(const char *from, size_t n, char *to) {
  size_t out = 0;
  for (size_t i = 0; i < n;) {
    if (from[i] != '\\') {
      to[out++] = from[i++];
      continue;
    }
    char c = from[i + 1];
    if (c != 'u') {
      static const char codes[] = "bfnrt", values[] = "\b\f\n\r\t";
      const char *found = strchr(codes, c);
      to[out++] = found ? values[found - codes] : c;
      i += 2;
      continue;
    }
    unsigned code = (unsigned)hex4(from + i + 2);
    i += 6;
    if (is_high_surrogate((int)code)) {
      code = 0x10000 + ((code & 0x3FF) << 10) + ((unsigned)hex4(from + i + 2) & 0x3FF);
      i += 6;
    }
    out += utf8_encode(code, to + out);
  }
  return out;
}

static bool copy_string(hd_json_reader *r, const string_span *span, char **text, size_t *n) {
  size_t bytes = span->end - span->start;
  char *copy = hd_alloc(bytes + 1);
  if (!copy) return fail_memory(r, bytes + 1);
  *n = bytes;
  if (span->escaped) *n = unescape(r->text + span->start, bytes, copy);
  else memcpy(copy, r->text + span->start, bytes);
  copy[*n] = '\0';
  *text = copy;
  return true;
}

/* ---- Objects and arrays ---- */

hd_json_type hd_json_peek(hd_json_reader *r) {
  if (r->status != HD_OK) return HD_JSON_END;
  skip_space(r);
  char c = r->at < r->n ? r->text[r->at] : '\0';
  if (c == '{') return HD_JSON_OBJECT;
  if (c == '[') return HD_JSON_ARRAY;
  if (c == '"') return HD_JSON_STRING;
  if (c == '-' || is_digit(c)) return HD_JSON_NUMBER;
  if (c == 't' || c == 'f') return HD_JSON_BOOL;
  if (c == 'n') return HD_JSON_NULL;
  hd_json_fail(r, "a value");
  return HD_JSON_END;
}

static bool enter(hd_json_reader *r, char open, const char *expected) {
  if (r->status != HD_OK) return false;
  skip_space(r);
  if (!at_char(r, open)) return fail(r, expected);
  if (r->depth >= HD_JSON_MAX_DEPTH) {
    r->status = hd_fail(r->err, HD_BAD_FILE, "%s: byte %zu: expected at most %d levels of nesting, found one more", r->what,
                        r->at, HD_JSON_MAX_DEPTH);
    return false;
  }
  r->at++;
  r->depth++;
  r->fresh = true;
  return true;
}

bool hd_json_enter_object(hd_json_reader *r) { return enter(r, '{', "an object ('{')"); }
bool hd_json_enter_array(hd_json_reader *r) { return enter(r, '[', "an array ('[')"); }

/* Steps to the next item of the innermost object or array, or over its end. */
static bool next_in(hd_json_reader *r, char close, const char *expected) {
  if (r->status != HD_OK) return false;
  skip_space(r);
  if (at_char(r, close)) {
    r->at++;
    r->depth--;
    r->fresh = false;
    return false;
  }
  if (!r->fresh) {
    if (!take_char(r, ',', expected)) return false;
    skip_space(r);
  }
  r->fresh = false;
  return true;
}

static bool next_key_span(hd_json_reader *r, string_span *key) {
  bool fresh = r->fresh;
  if (!next_in(r, '}', "a comma or '}'")) return false;
  if (!scan_string(r, key, fresh ? "a key in quotes or '}'" : "a key in quotes")) return false;
  skip_space(r);
  return take_char(r, ':', "a colon after the key");
}

bool hd_json_next_key(hd_json_reader *r, char **key, size_t *key_bytes) {
  string_span span;
  *key = NULL;
  *key_bytes = 0;
  return next_key_span(r, &span) && copy_string(r, &span, key, key_bytes);
}

bool hd_json_next_item(hd_json_reader *r) {
  if (!next_in(r, ']', "a comma or ']'")) return false;
  if (at_char(r, ']')) return fail(r, "a value after the comma");
  return true;
}

bool hd_json_string(hd_json_reader *r, char **text, size_t *n) {
  string_span span;
  *text = NULL;
  *n = 0;
  if (r->status != HD_OK) return false;
  skip_space(r);
  return scan_string(r, &span, "a string") && copy_string(r, &span, text, n);
}

bool hd_json_raw_string(hd_json_reader *r, const char **text, size_t *n) {
  string_span span;
  *text = NULL;
  *n = 0;
  if (r->status != HD_OK) return false;
  skip_space(r);
  size_t start = r->at;
  if (!scan_string(r, &span, "a string")) return false;
  if (span.escaped) {
    r->at = start;
    return fail(r, "a string without escapes");
  }
  *text = r->text + span.start;
  *n = span.end - span.start;
  return true;
}

/* ---- Numbers ---- */

static size_t skip_digits(const hd_json_reader *r, size_t at) {
  while (at < r->n && is_digit(r->text[at])) at++;
  return at;
}

/* Steps over at least one digit. */
static bool scan_digits(hd_json_reader *r) {
  size_t start = r->at;
  r->at = skip_digits(r, r->at);
  return r->at > start || fail(r, "a digit");
}

/* Steps over a number; *start is where it began. */
static bool scan_number(hd_json_reader *r, size_t *start) {
  skip_space(r);
  *start = r->at;
  if (!at_char(r, '-') && !(r->at < r->n && is_digit(r->text[r->at]))) return fail(r, "a number");
  if (at_char(r, '-')) r->at++;
  if (at_char(r, '0')) r->at++;
  else if (!scan_digits(r)) return false;
  if (at_char(r, '.')) {
    r->at++;
    if (!scan_digits(r)) return false;
  }
  if (at_char(r, 'e') || at_char(r, 'E')) {
    r->at++;
    if (at_char(r, '+') || at_char(r, '-')) r->at++;
    if (!scan_digits(r)) return false;
  }
  return true;
}

/* A number as digits · 10^exponent. false when it has too many digits or a far exponent for the fast way. */
typedef struct decimal {
  bool negative;
  uint64_t digits;
  int exponent;
} decimal;

static bool short_decimal(const char *s, size_t n, decimal *d) {
  *d = (decimal){0};
  size_t at = 0;
  int exponent = 0;
  bool fraction = false;
  if (s[0] == '-') {
    d->negative = true;
    at++;
  }
  for (; at < n && (is_digit(s[at]) || s[at] == '.'); at++) {
    if (s[at] == '.') {
      fraction = true;
      continue;
    }
    if (d->digits >= UINT64_C(100000000000000000)) return false;
    d->digits = d->digits * 10 + (uint64_t)(s[at] - '0');
    d->exponent -= fraction;
    if (d->exponent < -400) return false;
  }
  if (at == n) return true;
  bool down = s[++at] == '-';
  if (down || s[at] == '+') at++;
  for (; at < n; at++) {
    exponent = exponent * 10 + (s[at] - '0');
    if (exponent > 400) return false;
  }
  d->exponent += down ? -exponent : exponent;
  return true;
}

/* Clinger's fast way: both factors are exact doubles, so one operation rounds once. */
bool hd_decimal_double(uint64_t digits, int exponent, double *value) {
  static const double powers[] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
  if (FLT_EVAL_METHOD != 0 || digits > UINT64_C(1) << 53 || exponent < -22 || exponent > 22) return false;
  *value = exponent < 0 ? (double)digits / powers[-exponent] : (double)digits * powers[exponent];
  return true;
}

static bool fast_double(const char *s, size_t n, double *value) {
  decimal d;
  if (!short_decimal(s, n, &d) || !hd_decimal_double(d.digits, d.exponent, value)) return false;
  if (d.negative) *value = -*value;
  return true;
}

/* The double is the decimal rounded once. Rounding it again to float32 could only go wrong where it lies exactly half-way
 * between two floats (its 29 last bits say so): the decimal may have been on either side. Subnormal floats: the slow way. */
bool hd_double_float(double wide, float *value) {
  uint64_t bits;
  memcpy(&bits, &wide, sizeof bits);
  if ((bits & 0x1FFFFFFFu) == 0x10000000u) return false;
  if (wide != 0 && (fabs(wide) < (double)FLT_MIN || fabs(wide) > (double)FLT_MAX)) return false;
  *value = (float)wide;
  return true;
}

static bool fast_float(const char *s, size_t n, float *value) {
  double wide;
  return fast_double(s, n, &wide) && hd_double_float(wide, value);
}

/* The number as a NUL-terminated text: in `room`, or allocated when it is longer. */
static char *number_text(hd_json_reader *r, size_t start, char *room, size_t room_bytes) {
  size_t n = r->at - start;
  char *text = n < room_bytes ? room : hd_alloc(n + 1);
  if (!text) {
    fail_memory(r, n + 1);
    return NULL;
  }
  memcpy(text, r->text + start, n);
  text[n] = '\0';
  return text;
}

static bool fail_overflow(hd_json_reader *r, size_t start, const char *type) {
  size_t n = r->at - start;
  bool cut = n > 60;
  r->status = hd_fail(r->err, HD_BAD_FILE, "%s: byte %zu: expected a number that fits a %s, found %.*s%s", r->what, start,
                      type, (int)(cut ? 60 : n), r->text + start, cut ? "…" : "");
  return false;
}

/* JSON's grammar is a part of strtod's, so after scan_number these take the whole text. */
bool hd_json_number(hd_json_reader *r, double *value) {
  size_t start;
  *value = 0;
  if (r->status != HD_OK || !scan_number(r, &start)) return false;
  if (fast_double(r->text + start, r->at - start, value)) return true;
  char room[128], *text = number_text(r, start, room, sizeof room);
  if (!text) return false;
  *value = strtod(text, NULL);
  if (text != room) hd_free(text);
  return isfinite(*value) || fail_overflow(r, start, "float64");
}

bool hd_json_float(hd_json_reader *r, float *value) {
  size_t start;
  *value = 0;
  if (r->status != HD_OK || !scan_number(r, &start)) return false;
  if (fast_float(r->text + start, r->at - start, value)) return true;
  char room[128], *text = number_text(r, start, room, sizeof room);
  if (!text) return false;
  *value = strtof(text, NULL);
  if (text != room) hd_free(text);
  return isfinite(*value) || fail_overflow(r, start, "float32");
}

bool hd_json_u64(hd_json_reader *r, uint64_t *value) {
  *value = 0;
  if (r->status != HD_OK) return false;
  skip_space(r);
  size_t start = r->at, end = at_char(r, '0') ? r->at + 1 : skip_digits(r, r->at);
  bool fraction = end < r->n && (r->text[end] == '.' || r->text[end] == 'e' || r->text[end] == 'E');
  if (end == start || fraction) return fail(r, "a whole number");
  uint64_t sum = 0;
  for (r->at = start; r->at < end; r->at++) {
    uint64_t digit = (uint64_t)(r->text[r->at] - '0');
    if (sum > (UINT64_MAX - digit) / 10) {
      r->at = end;
      return fail_overflow(r, start, "64-bit whole number");
    }
    sum = sum * 10 + digit;
  }
  *value = sum;
  return true;
}

/* ---- Any value ---- */

static bool take_word(hd_json_reader *r, const char *word) {
  size_t n = strlen(word);
  if (r->n - r->at < n || memcmp(r->text + r->at, word, n) != 0) return fail(r, "true, false, null or another value");
  r->at += n;
  return true;
}

/* Recursive; enter() limits how deep. */
static bool skip_value(hd_json_reader *r) {
  string_span span;
  size_t start;
  switch (hd_json_peek(r)) {
    case HD_JSON_NULL: return take_word(r, "null");
    case HD_JSON_BOOL: return take_word(r, at_char(r, 't') ? "true" : "false");
    case HD_JSON_NUMBER: return scan_number(r, &start);
    case HD_JSON_STRING: return scan_string(r, &span, "a string");
    case HD_JSON_ARRAY:
      hd_json_enter_array(r);
      while (hd_json_next_item(r)) skip_value(r);
      break;
    case HD_JSON_OBJECT:
      hd_json_enter_object(r);
      while (next_key_span(r, &span)) skip_value(r);
      break;
    case HD_JSON_END: break;
  }
  return r->status == HD_OK;
}

bool hd_json_skip(hd_json_reader *r, const char **start, size_t *n) {
  if (start) *start = NULL;
  if (n) *n = 0;
  if (r->status != HD_OK) return false;
  skip_space(r);
  size_t first = r->at;
  if (!skip_value(r)) return false;
  if (start) *start = r->text + first;
  if (n) *n = r->at - first;
  return true;
}

bool hd_json_finish(hd_json_reader *r) {
  if (r->status != HD_OK) return false;
  skip_space(r);
  return r->at == r->n || fail(r, "the end of the text");
}
