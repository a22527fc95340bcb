/* base/text.c: a text that grows, and what bundles are written with: numbers, strings and trees as Go's JSON writer (and,
 * for numbers, JavaScript's) spells them. */
#include "base/text.h"

#include "base/base64.h"
#include "base/decimal.h"
#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
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

static void add_number(hd_text *t, double value, hd_binary format) {
  char room[HD_DECIMAL_ROOM];
  hd_text_add(t, room, hd_decimal(room, value, format));
}

void hd_text_float(hd_text *t, float value) { add_number(t, (double)value, hd_binary_f32); }
void hd_text_double(hd_text *t, double value) { add_number(t, value, hd_binary_f64); }

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

static void add_line(hd_text *t, int level) {
  if (level != HD_TEXT_ONE_LINE) hd_text_print(t, "\n%*s", level * 2, "");
}

static void add_items(hd_text *t, const cJSON *node, int level) {
  const bool object = cJSON_IsObject(node);
  const int inner = level == HD_TEXT_ONE_LINE ? level : level + 1;
  hd_text_add(t, object ? "{" : "[", 1);
  for (const cJSON *item = node->child; item; item = item->next) {
    add_line(t, inner);
    if (object) {
      hd_text_quoted(t, item->string);
      hd_text_add(t, ": ", inner == HD_TEXT_ONE_LINE ? 1 : 2);
    }
    hd_text_json(t, item, inner);
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
