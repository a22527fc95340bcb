/* format/torch_text.c: what a PyTorch file holds besides tensors, as JSON text. */
#include "format/torch_tree.h"

#include "base/decimal.h"
#include "base/status.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BIG_BYTES = 64 }; /* of a whole number; Python's have no end */

hd_status hd_torch_put(hd_torch_text *to, const char *text, size_t n, hd_error *err) {
  if (n > to->left)
    return hd_fail(err, HD_UNSUPPORTED, "PyTorch: names and data besides tensors are larger than a file of this size should need");
  if (to->room - to->n <= n) {
    size_t room = to->n + to->n / 4 + n + 64;
    char *grown = hd_realloc(to->text, room);
    if (!grown) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file's data");
    to->text = grown;
    to->room = room;
  }
  memcpy(to->text + to->n, text, n);
  to->n += n;
  to->text[to->n] = '\0';
  to->left -= n;
  return HD_OK;
}

static hd_status put_text(hd_torch_text *to, const char *text, hd_error *err) { return hd_torch_put(to, text, strlen(text), err); }

/* One character of a JSON string: what is not UTF-8 becomes U+FFFD. */
static hd_status put_character(hd_torch_text *to, const uint8_t *at, size_t left, size_t *length, hd_error *err) {
  char escape[8];
  *length = hd_utf8_length((const char *)at, left);
  if (*length == 0) {
    *length = 1;
    return put_text(to, "\\ufffd", err);
  }
  if (*at >= 0x20 && *at != '"' && *at != '\\') return hd_torch_put(to, (const char *)at, *length, err);
  snprintf(escape, sizeof escape, *at < 0x20 ? "\\u%04x" : "\\%c", *at);
  return put_text(to, escape, err);
}

static hd_status put_string(hd_torch_text *to, const uint8_t *bytes, size_t n, hd_error *err) {
  size_t length;
  HD_TRY(put_text(to, "\"", err));
  for (size_t at = 0; at < n; at += length) HD_TRY(put_character(to, bytes + at, n - at, &length, err));
  return put_text(to, "\"", err);
}

static hd_status put_bytes(hd_torch_text *to, const uint8_t *bytes, size_t n, hd_error *err) {
  char pair[3];
  HD_TRY(put_text(to, "{\"$bytes\":\"", err));
  for (size_t i = 0; i < n; i++) {
    snprintf(pair, sizeof pair, "%02x", bytes[i]);
    HD_TRY(hd_torch_put(to, pair, 2, err));
  }
  return put_text(to, "\"}", err);
}

static hd_status put_integer(hd_torch_text *to, int64_t integer, hd_error *err) {
  char text[24];
  snprintf(text, sizeof text, "%" PRId64, integer);
  return put_text(to, text, err);
}

/* The shortest decimal that reads back as the same number. */
static hd_status put_real(hd_torch_text *to, double real, hd_error *err) {
  char room[HD_DECIMAL_ROOM];
  if (isnan(real)) return put_text(to, "\"NaN\"", err);
  if (isinf(real)) return put_text(to, real > 0 ? "\"Infinity\"" : "\"-Infinity\"", err);
  hd_decimal(room, real, hd_binary_f64);
  return put_text(to, room, err);
}

/* Two's complement, least byte first, as decimal digits: the magnitude divided by ten until nothing is left. */
static hd_status put_big(hd_torch_text *to, const uint8_t *bytes, size_t n, hd_error *err) {
  uint8_t magnitude[MAX_BIG_BYTES];
  char digits[MAX_BIG_BYTES * 3 + 2];
  size_t at = sizeof digits;
  if (n > MAX_BIG_BYTES)
    return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected whole numbers of at most %d bytes, found %zu", MAX_BIG_BYTES, n);
  bool negative = bytes[n - 1] & 0x80;
  unsigned carry = 1;
  for (size_t i = 0; i < n; i++) {
    unsigned byte = negative ? (unsigned)(uint8_t)~bytes[i] + carry : bytes[i];
    magnitude[i] = (uint8_t)byte;
    carry = byte >> 8;
  }
  for (bool left = true; left;) {
    unsigned rest = 0;
    left = false;
    for (size_t i = n; i-- > 0;) {
      unsigned all = rest << 8 | magnitude[i];
      magnitude[i] = (uint8_t)(all / 10);
      rest = all % 10;
      left |= magnitude[i] != 0;
    }
    digits[--at] = (char)('0' + rest);
  }
  if (negative) digits[--at] = '-';
  return hd_torch_put(to, digits + at, sizeof digits - at, err);
}

static hd_status put_global_name(hd_torch_text *to, const hd_pickle_value *value, hd_error *err) {
  const hd_pickle_global *row = &hd_torch_globals[value->global];
  HD_TRY(put_text(to, "\"", err));
  HD_TRY(put_text(to, row->module, err));
  if (row->name) HD_TRY(put_text(to, ".", err));
  if (row->name) HD_TRY(put_text(to, row->name, err));
  return put_text(to, "\"", err);
}

static hd_status put_value(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, int depth, hd_error *err);

static hd_status put_array(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, int depth, hd_error *err) {
  HD_TRY(put_text(to, "[", err));
  for (size_t i = 0; i < value->n; i++) {
    if (i > 0) HD_TRY(put_text(to, ",", err));
    HD_TRY(put_value(to, pickle, hd_pickle_item(pickle, value, i), depth + 1, err));
  }
  return put_text(to, "]", err);
}

/* A key that is no string is the string of its JSON. */
static hd_status put_json_key(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *key, hd_error *err) {
  if (key->kind == HD_PICKLE_TEXT) return put_string(to, key->as.bytes, key->n, err);
  hd_torch_text text = {.left = to->left};
  hd_status status = put_value(&text, pickle, key, HD_TORCH_MAX_DEPTH, err);
  if (status == HD_OK) status = put_string(to, (const uint8_t *)text.text, text.n, err);
  hd_free(text.text);
  return status;
}

static hd_status put_object(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, int depth, hd_error *err) {
  HD_TRY(put_text(to, "{", err));
  for (size_t i = 0; i + 1 < value->n; i += 2) {
    if (i > 0) HD_TRY(put_text(to, ",", err));
    HD_TRY(put_json_key(to, pickle, hd_pickle_item(pickle, value, i), err));
    HD_TRY(put_text(to, ":", err));
    HD_TRY(put_value(to, pickle, hd_pickle_item(pickle, value, i + 1), depth + 1, err));
  }
  return put_text(to, "}", err);
}

static hd_status put_call(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, int depth, hd_error *err) {
  HD_TRY(put_text(to, "{\"$call\":", err));
  HD_TRY(put_global_name(to, value, err));
  HD_TRY(put_text(to, ",\"arguments\":", err));
  HD_TRY(put_array(to, pickle, value, depth, err));
  return put_text(to, "}", err);
}

/* Keys are put at the last depth: one level only. */
static hd_status put_value(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, int depth, hd_error *err) {
  if (depth > HD_TORCH_MAX_DEPTH) return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected data nested at most %d deep", HD_TORCH_MAX_DEPTH);
  switch ((hd_pickle_kind)value->kind) {
    case HD_PICKLE_NONE: return put_text(to, "null", err);
    case HD_PICKLE_BOOL: return put_text(to, value->as.integer ? "true" : "false", err);
    case HD_PICKLE_INT: return put_integer(to, value->as.integer, err);
    case HD_PICKLE_BIG:
      return value->binary ? put_big(to, value->as.bytes, value->n, err) : hd_torch_put(to, (const char *)value->as.bytes, value->n, err);
    case HD_PICKLE_REAL: return put_real(to, value->as.real, err);
    case HD_PICKLE_TEXT: return put_string(to, value->as.bytes, value->n, err);
    case HD_PICKLE_BYTES: return put_bytes(to, value->as.bytes, value->n, err);
    case HD_PICKLE_TUPLE:
    case HD_PICKLE_LIST: return put_array(to, pickle, value, depth, err);
    case HD_PICKLE_DICTIONARY:
    case HD_PICKLE_OBJECT: return put_object(to, pickle, value, depth, err);
    case HD_PICKLE_GLOBAL: return put_global_name(to, value, err);
    case HD_PICKLE_RESULT: return put_call(to, pickle, value, depth, err);
    case HD_PICKLE_PERSISTENT: break;
  }
  return put_text(to, "null", err); /* a storage by itself */
}

hd_status hd_torch_put_json(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, hd_error *err) {
  return put_value(to, pickle, value, 0, err);
}

hd_status hd_torch_put_key(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *key, hd_error *err) {
  if (key->kind != HD_PICKLE_TEXT) return put_value(to, pickle, key, HD_TORCH_MAX_DEPTH, err);
  if (key->n > 0 && memchr(key->as.bytes, 0, key->n))
    return hd_fail(err, HD_BAD_FILE, "PyTorch: expected keys without NUL characters, found one");
  return hd_torch_put(to, (const char *)key->as.bytes, key->n, err);
}
