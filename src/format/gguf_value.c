/* format/gguf_value.c: a GGUF file's bytes one after the other, and its metadata values as JSON text.
 *
 * Whole numbers are written whole, 64 bits exactly; floats with a point or an exponent, so that writing them again makes floats of them,
 * and with the digits that give back their value exactly, as float64. Infinity is 1e999, which readers of JSON take for it; NaN is null.
 * A string's broken UTF-8 becomes U+FFFD: some vocabularies hold such pieces. */
#include "format/gguf.h"

#include "base/memory.h"
#include "base/status.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { MAX_DEPTH = 8 };

static const struct { const char *name; size_t bytes; } kinds[HD_GGUF_N_KINDS] = {
    [HD_GGUF_U8] = {"u8", 1},   [HD_GGUF_I8] = {"i8", 1},   [HD_GGUF_U16] = {"u16", 2},      [HD_GGUF_I16] = {"i16", 2},
    [HD_GGUF_U32] = {"u32", 4}, [HD_GGUF_I32] = {"i32", 4}, [HD_GGUF_F32] = {"f32", 4},      [HD_GGUF_BOOL] = {"bool", 1},
    [HD_GGUF_U64] = {"u64", 8}, [HD_GGUF_I64] = {"i64", 8}, [HD_GGUF_F64] = {"f64", 8},      [HD_GGUF_STRING] = {"string", 0},
    [HD_GGUF_ARRAY] = {"array", 0},
};

const char *hd_gguf_type_name(uint32_t kind) { return kind < HD_GGUF_N_KINDS ? kinds[kind].name : "an unknown type"; }
size_t hd_gguf_value_bytes(uint32_t kind) { return kind < HD_GGUF_N_KINDS ? kinds[kind].bytes : 0; }

/* ---- Bytes ---- */

hd_gguf_cursor hd_gguf_open(const hd_reader *reader, uint64_t at, hd_error *err) {
  return (hd_gguf_cursor){.bytes = reader->window, .at = at, .held = reader->held, .file_bytes = reader->file_bytes,
                          .item = "header", .status = HD_OK, .err = err};
}

void hd_gguf_item(hd_gguf_cursor *c, const char *item, uint64_t index) {
  c->item = item;
  c->index = index;
  c->name = NULL;
}

bool hd_gguf_fail(hd_gguf_cursor *c, hd_status code, const char *format, ...) {
  char problem[512];
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(problem, sizeof problem, format, arguments);
  va_end(arguments);
  if (c->name) c->status = hd_fail(c->err, code, "GGUF: byte %" PRIu64 ": %s \"%s\": %s", c->at, c->item, c->name, problem);
  else c->status = hd_fail(c->err, code, "GGUF: byte %" PRIu64 ": %s %" PRIu64 ": %s", c->at, c->item, c->index, problem);
  return false;
}

/* Whether n bytes more are in the window. */
static bool have(hd_gguf_cursor *c, uint64_t n) {
  if (n <= c->held - c->at) return true;
  if (n > c->file_bytes - c->at)
    return hd_gguf_fail(c, HD_BAD_FILE, "expected %" PRIu64 " bytes more, found %" PRIu64 " to the file's end", n, c->file_bytes - c->at);
  c->needed = c->at + n;
  return false;
}

bool hd_gguf_pass(hd_gguf_cursor *c, uint64_t n) {
  if (!have(c, n)) return false;
  c->at += n;
  return true;
}

bool hd_gguf_u32(hd_gguf_cursor *c, uint32_t *value) {
  if (!have(c, sizeof *value)) return false;
  *value = hd_u32_at(c->bytes + c->at);
  return hd_gguf_pass(c, sizeof *value);
}

bool hd_gguf_u64(hd_gguf_cursor *c, uint64_t *value) {
  if (!have(c, sizeof *value)) return false;
  *value = hd_u64_at(c->bytes + c->at);
  return hd_gguf_pass(c, sizeof *value);
}

bool hd_gguf_string(hd_gguf_cursor *c, const char **bytes, uint64_t *n) {
  if (!hd_gguf_u64(c, n) || !have(c, *n)) return false;
  *bytes = (const char *)c->bytes + c->at;
  return hd_gguf_pass(c, *n);
}

/* ---- Stepping over ---- */

/* The least bytes that a value takes in a file. */
static uint64_t smallest(uint32_t kind) { return kind == HD_GGUF_STRING ? 8 : kind == HD_GGUF_ARRAY ? 12 : kinds[kind].bytes; }

static bool pass_array(hd_gguf_cursor *c, int depth) {
  uint32_t kind;
  uint64_t n;
  if (depth == MAX_DEPTH) return hd_gguf_fail(c, HD_UNSUPPORTED, "expected arrays at most %d deep, found more", MAX_DEPTH);
  if (!hd_gguf_u32(c, &kind) || !hd_gguf_u64(c, &n)) return false;
  if (kind >= HD_GGUF_N_KINDS)
    return hd_gguf_fail(c, HD_BAD_FILE, "expected an array of a value type from 0 to %d, found %" PRIu32, HD_GGUF_N_KINDS - 1, kind);
  if (n > (c->file_bytes - c->at) / smallest(kind))
    return hd_gguf_fail(c, HD_BAD_FILE, "an array of %" PRIu64 " %s does not fit the file's other %" PRIu64 " bytes",
                        n, kinds[kind].name, c->file_bytes - c->at);
  if (kinds[kind].bytes) return hd_gguf_pass(c, n * kinds[kind].bytes);
  for (uint64_t i = 0; i < n; i++)
    if (!hd_gguf_pass_value(c, kind, depth + 1)) return false;
  return true;
}

bool hd_gguf_pass_value(hd_gguf_cursor *c, uint32_t kind, int depth) {
  const char *bytes;
  uint64_t n;
  if (kind >= HD_GGUF_N_KINDS)
    return hd_gguf_fail(c, HD_BAD_FILE, "expected a value type from 0 to %d, found %" PRIu32, HD_GGUF_N_KINDS - 1, kind);
  if (kind == HD_GGUF_ARRAY) return pass_array(c, depth);
  return kind == HD_GGUF_STRING ? hd_gguf_string(c, &bytes, &n) : hd_gguf_pass(c, kinds[kind].bytes);
}

/* ---- As JSON ---- */

static void write_whole(hd_text *t, uint64_t magnitude, bool negative) {
  char digits[24];
  size_t at = sizeof digits;
  do digits[--at] = (char)('0' + magnitude % 10);
  while (magnitude /= 10);
  if (negative) digits[--at] = '-';
  hd_text_add(t, digits + at, sizeof digits - at);
}

static void write_signed(hd_text *t, int64_t value) { write_whole(t, value < 0 ? 0 - (uint64_t)value : (uint64_t)value, value < 0); }

static void write_double(hd_text *t, double value) {
  char room[40];
  if (isnan(value)) {
    hd_text_add(t, "null", 4);
  } else if (isinf(value)) {
    hd_text_add(t, value < 0 ? "-1e999" : "1e999", value < 0 ? 6 : 5);
  } else if (fabs(value) < 1e15 && value == floor(value)) { /* most scores are: this is much faster */
    write_whole(t, (uint64_t)fabs(value), signbit(value));
    hd_text_add(t, ".0", 2);
  } else {
    int n = snprintf(room, sizeof room, "%.17g", value);
    hd_text_add(t, room, (size_t)n);
    if (!strpbrk(room, ".e")) hd_text_add(t, ".0", 2);
  }
}

static const char *escape(char room[8], unsigned char byte) {
  if (byte == '"') return "\\\"";
  if (byte == '\\') return "\\\\";
  if (byte == '\n') return "\\n";
  snprintf(room, 8, "\\u%04x", (unsigned)byte);
  return room;
}

/* In runs of what needs no escape. */
static void write_string(hd_text *t, const char *bytes, size_t n) {
  size_t from = 0, i = 0;
  hd_text_add(t, "\"", 1);
  while (i < n) {
    unsigned char byte = (unsigned char)bytes[i];
    bool plain = byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
    size_t length = plain ? 1 : byte < 0x80 ? 0 : hd_utf8_length(bytes + i, n - i);
    if (length) {
      i += length;
      continue;
    }
    char room[8];
    const char *instead = byte < 0x80 ? escape(room, byte) : "\xEF\xBF\xBD";
    hd_text_add(t, bytes + from, i - from);
    hd_text_add(t, instead, strlen(instead));
    from = ++i;
  }
  hd_text_add(t, bytes + from, n - from);
  hd_text_add(t, "\"", 1);
}

static float f32_at(const uint8_t *p) {
  uint32_t bits = hd_u32_at(p);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static double f64_at(const uint8_t *p) {
  uint64_t bits = hd_u64_at(p);
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static bool write_bool(hd_text *t, hd_gguf_cursor *c, uint8_t byte) {
  if (byte > 1) return hd_gguf_fail(c, HD_BAD_FILE, "expected a bool of 0 or 1, found %u", (unsigned)byte);
  hd_text_add(t, byte ? "true" : "false", byte ? 4 : 5);
  return true;
}

static bool write_value(hd_text *t, hd_gguf_cursor *c, uint32_t kind);

static bool write_scalar(hd_text *t, hd_gguf_cursor *c, uint32_t kind) {
  const uint8_t *p = c->bytes + c->at;
  if (!hd_gguf_pass(c, kinds[kind].bytes)) return false;
  switch (kind) {
  case HD_GGUF_U8: write_whole(t, p[0], false); break;
  case HD_GGUF_I8: write_signed(t, (int8_t)p[0]); break;
  case HD_GGUF_U16: write_whole(t, (uint64_t)(p[0] | p[1] << 8), false); break;
  case HD_GGUF_I16: write_signed(t, (int16_t)(p[0] | p[1] << 8)); break;
  case HD_GGUF_U32: write_whole(t, hd_u32_at(p), false); break;
  case HD_GGUF_I32: write_signed(t, (int32_t)hd_u32_at(p)); break;
  case HD_GGUF_U64: write_whole(t, hd_u64_at(p), false); break;
  case HD_GGUF_I64: write_signed(t, (int64_t)hd_u64_at(p)); break;
  case HD_GGUF_F32: write_double(t, (double)f32_at(p)); break;
  case HD_GGUF_F64: write_double(t, f64_at(p)); break;
  default: return write_bool(t, c, p[0]);
  }
  return true;
}

static bool write_array(hd_text *t, hd_gguf_cursor *c) {
  uint32_t kind;
  uint64_t n;
  if (!hd_gguf_u32(c, &kind) || !hd_gguf_u64(c, &n)) return false;
  hd_text_add(t, "[", 1);
  for (uint64_t i = 0; i < n; i++) {
    if (i) hd_text_add(t, ",", 1);
    if (!write_value(t, c, kind)) return false;
  }
  hd_text_add(t, "]", 1);
  return true;
}

static bool write_value(hd_text *t, hd_gguf_cursor *c, uint32_t kind) {
  const char *bytes;
  uint64_t n;
  if (kind == HD_GGUF_ARRAY) return write_array(t, c);
  if (kind != HD_GGUF_STRING) return write_scalar(t, c, kind);
  if (!hd_gguf_string(c, &bytes, &n)) return false;
  write_string(t, bytes, (size_t)n);
  return true;
}

/* No value's JSON is longer than six times its bytes ("\u0001", "false,") and a little: with the
 * room made at once, memory stays in bounds. */
static bool make_room(hd_text *t, uint64_t n) {
  size_t room;
  t->n = 0;
  if (!hd_mul_size((size_t)n, 6, &room) || !hd_add_size(room, 64, &room)) return false;
  if (room <= t->room) return true;
  hd_free(t->data);
  *t = (hd_text){.data = hd_alloc(room), .room = room};
  return t->data != NULL;
}

bool hd_gguf_write_value(hd_text *text, hd_gguf_cursor *c, uint32_t kind) {
  hd_gguf_cursor end = *c;
  if (!hd_gguf_pass_value(&end, kind, 0)) {
    c->status = end.status;
    return false;
  }
  if (!make_room(text, end.at - c->at)) return hd_gguf_fail(c, HD_OUT_OF_MEMORY, "no memory for its value");
  if (!write_value(text, c, kind)) return false;
  return !text->failed || hd_gguf_fail(c, HD_OUT_OF_MEMORY, "no memory for its value");
}
