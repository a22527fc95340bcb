/* format/gguf_write.c: GGUF files made in memory, version 3 (gguf.c says what the format is), and metadata from JSON to GGUF's types.
 *
 * JSON does not say how wide a number is, so the value does: a whole number is the first of u32, i32, u64, i64 that holds it (in
 * arrays i32 comes first, as vocabularies have it), anything with a point or an exponent an f32, or an f64 where that would lose
 * digits. {"type": "f64", "value": 1} says it outright, for the elements where the value is an array. Where llama.cpp wants an
 * f32 by the key's name, whole numbers become one, too: hosts forget the point of 10000.0. What gguf_value.c writes comes back as
 * it was, up to the width of whole numbers. */
#include "format/gguf.h"

#include "base/decimal.h"
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { DEFAULT_ALIGNMENT = 32, MAX_DEPTH = 8, NO_KIND = HD_GGUF_N_KINDS, EXACT_DIGITS = 9 };

static void put_u32(hd_text *t, uint32_t value) {
  uint8_t bytes[4];
  for (int i = 0; i < 4; i++) bytes[i] = (uint8_t)(value >> 8 * i);
  hd_text_add(t, (const char *)bytes, sizeof bytes);
}

static void put_u64(hd_text *t, uint64_t value) {
  put_u32(t, (uint32_t)value);
  put_u32(t, (uint32_t)(value >> 32));
}

static void put_string(hd_text *t, const char *text, size_t n) {
  put_u64(t, n);
  hd_text_add(t, text, n);
}

/* ---- Which type a number gets ---- */

/* A number of the JSON, as it is written there. */
typedef struct written {
  bool real, negative, fits; /* has a point or an exponent; a whole one within 64 bits */
  size_t n_digits;
  uint64_t magnitude;
  double value;
} written;

static written read_number(const char *text, size_t n) {
  written w = {.negative = n > 0 && text[0] == '-'};
  for (size_t i = 0; i < n; i++) {
    bool exponent = text[i] == 'e' || text[i] == 'E';
    w.real |= text[i] == '.' || exponent;
    if (exponent) break;
    w.n_digits += text[i] >= '0' && text[i] <= '9';
  }
  w.value = hd_decimal_read(text, n, NULL, hd_binary_f64);
  errno = 0;
  if (!w.real) w.magnitude = strtoull(text + w.negative, NULL, 10);
  w.fits = !w.real && errno == 0 && (!w.negative || w.magnitude <= UINT64_C(1) << 63);
  return w;
}

/* An f32 that is exact, or as near as its few digits ask for. */
static uint32_t kind_of_real(const written *w) {
  double size = fabs(w->value);
  bool exact = isinf(size) || (double)(float)w->value == w->value, normal = size >= 0x1p-126 && size <= 0x1.fffffep127;
  return exact || (normal && w->n_digits <= EXACT_DIGITS) ? HD_GGUF_F32 : HD_GGUF_F64;
}

static uint32_t kind_of_number(const written *w) {
  if (w->real || !w->fits) return kind_of_real(w);
  if (!w->negative) return w->magnitude <= UINT32_MAX ? HD_GGUF_U32 : HD_GGUF_U64;
  return w->magnitude <= UINT64_C(1) << 31 ? HD_GGUF_I32 : HD_GGUF_I64;
}

/* Numbers of an array: one type has to hold them all. */
typedef struct spread {
  bool real, wide;            /* some are f32, some f64 */
  uint64_t highest, lowest;   /* of the whole ones; the lowest without its sign */
} spread;

static void widen(spread *s, const written *w) {
  if (w->real || !w->fits) *(kind_of_real(w) == HD_GGUF_F64 ? &s->wide : &s->real) = true;
  else if (w->negative && w->magnitude > s->lowest) s->lowest = w->magnitude;
  else if (!w->negative && w->magnitude > s->highest) s->highest = w->magnitude;
}

static uint32_t kind_of_spread(const spread *s) {
  if (s->real || s->wide) return s->wide ? HD_GGUF_F64 : HD_GGUF_F32;
  if (s->highest <= INT32_MAX && s->lowest <= UINT64_C(1) << 31) return HD_GGUF_I32;
  if (s->lowest) return HD_GGUF_I64;
  return s->highest <= UINT32_MAX ? HD_GGUF_U32 : HD_GGUF_U64;
}

/* ---- Values ---- */

typedef struct writing {
  hd_text *out;
  hd_json_reader *r;
} writing;

static bool refuse(hd_json_reader *r, const char *expected) {
  hd_json_fail(r, expected);
  return false;
}

static bool take_number(hd_json_reader *r, written *w) {
  const char *text;
  size_t n;
  if (!hd_json_skip(r, &text, &n)) return false;
  *w = read_number(text, n);
  return true;
}

/* Kinds of JSON values, each of one GGUF type but for numbers, whose NO_KIND the numbers decide; a null among them is a NaN. */
static uint32_t kind_of_type(hd_json_type type) {
  return type == HD_JSON_BOOL ? HD_GGUF_BOOL : type == HD_JSON_STRING ? HD_GGUF_STRING : type == HD_JSON_ARRAY ? HD_GGUF_ARRAY : NO_KIND;
}

static bool look_at(hd_json_reader *r, spread *numbers) {
  hd_json_type type = hd_json_peek(r);
  written w;
  if (type == HD_JSON_NULL) numbers->real = true;
  if (type != HD_JSON_NUMBER) return hd_json_skip(r, NULL, NULL);
  if (!take_number(r, &w)) return false;
  widen(numbers, &w);
  return true;
}

/* Looks through the array without taking it: its elements' type, unless that is told, and their number. */
static bool survey(hd_json_reader *r, uint32_t *kind, uint64_t *n) {
  hd_json_reader ahead = *r;
  spread numbers = {0};
  uint32_t first = NO_KIND;
  *n = 0;
  hd_json_enter_array(&ahead);
  while (hd_json_next_item(&ahead)) {
    uint32_t each = kind_of_type(hd_json_peek(&ahead));
    if (*n == 0) first = each;
    if (each != first) return refuse(r, "values of one type in the array");
    look_at(&ahead, &numbers);
    ++*n;
  }
  r->status = ahead.status;
  if (*kind == NO_KIND) *kind = first == NO_KIND ? kind_of_spread(&numbers) : first;
  return r->status == HD_OK;
}

static bool put_whole(hd_text *out, hd_json_reader *r, uint32_t kind, const written *w) {
  static const struct { uint64_t most, least; } ranges[HD_GGUF_N_KINDS] = {
      [HD_GGUF_U8] = {UINT8_MAX, 0},           [HD_GGUF_U16] = {UINT16_MAX, 0},
      [HD_GGUF_U32] = {UINT32_MAX, 0},         [HD_GGUF_U64] = {UINT64_MAX, 0},
      [HD_GGUF_I8] = {INT8_MAX, 128},          [HD_GGUF_I16] = {INT16_MAX, 32768},
      [HD_GGUF_I32] = {INT32_MAX, 2147483648}, [HD_GGUF_I64] = {INT64_MAX, UINT64_C(1) << 63}};
  if (!w->fits || w->magnitude > (w->negative ? ranges[kind].least : ranges[kind].most))
    return refuse(r, "a whole number that its type holds");
  uint64_t value = w->negative ? 0 - w->magnitude : w->magnitude;
  for (size_t i = 0; i < hd_gguf_value_bytes(kind); i++) hd_text_add(out, (char[1]){(char)(uint8_t)(value >> 8 * i)}, 1);
  return true;
}

static void put_real(hd_text *out, uint32_t kind, double value) {
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (kind == HD_GGUF_F32) put_u32(out, hd_bits_of_f32((float)value));
  else put_u64(out, bits);
}

static bool put_number(hd_text *out, hd_json_reader *r, uint32_t kind) {
  bool real = kind == HD_GGUF_F32 || kind == HD_GGUF_F64;
  written w = {.value = NAN};
  if (hd_json_peek(r) == HD_JSON_NULL && real) hd_json_skip(r, NULL, NULL);
  else if (hd_json_peek(r) != HD_JSON_NUMBER) return refuse(r, "a number");
  else if (!take_number(r, &w)) return false;
  if (!real) return put_whole(out, r, kind, &w);
  put_real(out, kind, w.value);
  return true;
}

static bool put_bool(hd_text *out, hd_json_reader *r) {
  const char *text;
  size_t n;
  if (hd_json_peek(r) != HD_JSON_BOOL) return refuse(r, "true or false");
  if (!hd_json_skip(r, &text, &n)) return false;
  hd_text_add(out, text[0] == 't' ? "\1" : "", 1);
  return true;
}

static bool put_value(hd_text *out, hd_json_reader *r, uint32_t kind, int depth);

/* u32 type, u64 count, the values. `kind`: the elements', or NO_KIND. */
static bool put_array(hd_text *out, hd_json_reader *r, uint32_t kind, int depth) {
  uint64_t n;
  if (depth == MAX_DEPTH) return refuse(r, "arrays at most 8 deep");
  if (!survey(r, &kind, &n)) return false;
  put_u32(out, kind);
  put_u64(out, n);
  hd_json_enter_array(r);
  while (hd_json_next_item(r))
    if (!put_value(out, r, kind, depth + 1)) return false;
  return r->status == HD_OK;
}

static bool put_value(hd_text *out, hd_json_reader *r, uint32_t kind, int depth) {
  char *text;
  size_t n;
  if (kind == HD_GGUF_ARRAY) return put_array(out, r, NO_KIND, depth);
  if (kind == HD_GGUF_BOOL) return put_bool(out, r);
  if (kind != HD_GGUF_STRING) return put_number(out, r, kind);
  if (!hd_json_string(r, &text, &n)) return false;
  put_string(out, text, n);
  hd_free(text);
  return true;
}

/* ---- Pairs ---- */

static uint32_t find_kind(const char *name) {
  for (uint32_t kind = 0; kind < HD_GGUF_N_KINDS; kind++)
    if (kind != HD_GGUF_ARRAY && strcmp(hd_gguf_type_name(kind), name) == 0) return kind;
  return NO_KIND;
}

/* {"type": "f32", "value": …}: the type's number, and the reader at the value. */
static bool open_typed(hd_json_reader *r, uint32_t *kind, hd_json_reader *value) {
  char *key, *name = NULL;
  size_t n;
  bool found = false;
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &key, &n)) {
    if (strcmp(key, "value") == 0) *value = *r;
    found |= strcmp(key, "value") == 0;
    if (strcmp(key, "type") == 0 && !name) hd_json_string(r, &name, &n);
    else hd_json_skip(r, NULL, NULL);
    hd_free(key);
  }
  *kind = name ? find_kind(name) : NO_KIND;
  hd_free(name);
  if (r->status == HD_OK && (*kind == NO_KIND || !found)) return refuse(r, "\"type\" (u8, …, f64, bool, string) and \"value\" in it");
  return r->status == HD_OK;
}

static bool put_any(hd_text *out, hd_json_reader *r, uint32_t kind) {
  hd_json_type type = hd_json_peek(r);
  hd_json_reader ahead = *r;
  if (type == HD_JSON_ARRAY) {
    put_u32(out, HD_GGUF_ARRAY);
    return put_array(out, r, kind, 0);
  }
  if (type == HD_JSON_OBJECT || (type == HD_JSON_NULL && kind == NO_KIND))
    return refuse(r, "a number, a text, true, false, an array, or {\"type\", \"value\"}");
  written w;
  if (kind == NO_KIND) kind = kind_of_type(type);
  if (kind == NO_KIND && take_number(&ahead, &w)) kind = kind_of_number(&w);
  put_u32(out, kind);
  return put_value(out, r, kind, 0);
}

static bool is_real(const char *key) {
  static const char *const endings[] = {"tokenizer.ggml.scores", ".rope.freq_base", "_epsilon",
                                        ".rope.scaling.factor", ".rope.scaling.attn_factor", "_softcapping",
                                        "_scale", ".attention.scale", ".clamp_kqv", ".max_alibi_bias"};
  for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
    size_t n = strlen(key), m = strlen(endings[i]);
    if (n >= m && strcmp(key + n - m, endings[i]) == 0) return true;
  }
  return false;
}

static bool put_pair(hd_text *out, hd_json_reader *r, const char *key, size_t n) {
  hd_json_reader value;
  uint32_t kind;
  put_string(out, key, n);
  hd_json_type type = hd_json_peek(r);
  if (type != HD_JSON_OBJECT)
    return put_any(out, r, is_real(key) && (type == HD_JSON_NUMBER || type == HD_JSON_ARRAY) ? HD_GGUF_F32 : NO_KIND);
  if (!open_typed(r, &kind, &value)) return false;
  bool put = put_any(out, &value, kind);
  r->status = value.status;
  return put;
}

/* All pairs of the object, their keys to `names`; their number. A general.alignment of the caller's would say
 * where the data are, which is ours to say. */
static hd_status put_pairs(hd_text *out, uint64_t *n_pairs, hd_directory *names, const char *metadata, size_t n_metadata, hd_error *err) {
  hd_json_reader r = hd_json_open(metadata, n_metadata, "metadata", err);
  char *key;
  size_t n;
  hd_json_enter_object(&r);
  while (hd_json_next_key(&r, &key, &n)) {
    bool alignment = strcmp(key, "general.alignment") == 0;
    if (alignment) hd_json_skip(&r, NULL, NULL);
    else if (put_pair(out, &r, key, n)) r.status = hd_directory_append_metadata(names, key, "", err);
    *n_pairs += !alignment;
    hd_free(key);
  }
  hd_json_finish(&r);
  return r.status;
}

/* ---- The file ---- */

static hd_status put_tensor(hd_text *out, hd_stored *t, size_t *end, hd_error *err) {
  size_t count, bytes;
  uint32_t type;
  char room[HD_NAME_ROOM];
  if (!hd_gguf_type(t->dtype, &type))
    return hd_fail(err, HD_BAD_ARGUMENT, "tensor %s: GGUF has no type for %s", hd_short_name(room, t->name), hd_dtype_name(t->dtype));
  size_t row = t->n_dims ? t->shape[t->n_dims - 1] : 1, block = hd_dtype_get(t->dtype)->block_values;
  if (row % block)
    return hd_fail(err, HD_BAD_ARGUMENT, "tensor %s: expected rows of a multiple of %zu values for %s, found %zu",
                   hd_short_name(room, t->name), block, hd_dtype_name(t->dtype), row);
  if (!hd_shape_count(t->n_dims, t->shape, &count) || !hd_dtype_bytes(t->dtype, count, &bytes)) return hd_stored_too_large(err, t);
  t->begin = *end;
  if (!hd_add_size(*end, bytes, end) || !hd_add_size(*end, DEFAULT_ALIGNMENT, &count)) return hd_stored_too_large(err, t);
  *end = hd_align(*end, DEFAULT_ALIGNMENT);
  put_string(out, t->name, strlen(t->name));
  put_u32(out, (uint32_t)t->n_dims);
  for (int d = t->n_dims; d-- > 0;) put_u64(out, t->shape[d]);
  put_u32(out, type);
  put_u64(out, t->begin);
  return HD_OK;
}

static hd_status put_header(hd_text *out, hd_stored *tensors, size_t n, const char *metadata, size_t n_metadata,
                            size_t *data_bytes, hd_error *err) {
  hd_text pairs = {0};
  uint64_t n_pairs = 0;
  hd_directory *names = hd_directory_new("GGUF", 0);
  hd_status status = names ? HD_OK : hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the names of %zu tensors", n);
  if (status == HD_OK && metadata) status = put_pairs(&pairs, &n_pairs, names, metadata, n_metadata, err);
  if (status == HD_OK) status = hd_stored_refuse_twice(names, tensors, n, err);
  hd_directory_free(names);
  hd_text_add(out, "GGUF", 4);
  put_u32(out, 3);
  put_u64(out, n);
  put_u64(out, n_pairs);
  hd_text_add(out, pairs.data ? pairs.data : "", pairs.n);
  if (pairs.failed) out->failed = true;
  hd_free(pairs.data);
  for (size_t i = 0; i < n && status == HD_OK; i++) status = put_tensor(out, &tensors[i], data_bytes, err);
  while (n && !out->failed && out->n % DEFAULT_ALIGNMENT) hd_text_add(out, "", 1);
  if (status == HD_OK && out->failed) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the header of %zu tensors", n);
  return status;
}

hd_status hd_gguf_header(hd_text *header, size_t *n_file, hd_stored *tensors, size_t n,
                         const char *metadata, size_t n_metadata, hd_error *err) {
  size_t data_bytes = 0;
  HD_TRY(put_header(header, tensors, n, metadata, n_metadata, &data_bytes, err));
  for (size_t i = 0; i < n; i++) tensors[i].begin += header->n;
  if (hd_add_size(data_bytes, header->n, n_file)) return HD_OK;
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a file of %zu tensors and %zu bytes", n, data_bytes);
}

hd_status hd_gguf_start(uint8_t **file, size_t *n_file, hd_stored *tensors, size_t n,
                        const char *metadata, size_t n_metadata, hd_error *err) {
  hd_text header = {0};
  hd_status status = hd_gguf_header(&header, n_file, tensors, n, metadata, n_metadata, err);
  return hd_stored_open(file, n_file, &header, status, err);
}

bool hd_gguf_can_write(hd_dtype dtype) {
  uint32_t number;
  return hd_gguf_type(dtype, &number);
}

hd_status hd_gguf_serialize(uint8_t **bytes, size_t *n, const char *text, size_t n_text, const float *values, size_t n_values,
                            const char *metadata, size_t n_metadata, hd_error *err) {
  hd_stored_list list;
  *bytes = NULL;
  *n = 0;
  HD_TRY(hd_stored_read(&list, text, n_text, values, n_values, "GGUF", hd_gguf_can_write, err));
  hd_status status = hd_gguf_start(bytes, n, list.tensors, list.n, metadata, n_metadata, err);
  for (size_t i = 0; status == HD_OK && i < list.n; i++) {
    size_t count;
    hd_shape_count(list.tensors[i].n_dims, list.tensors[i].shape, &count);
    hd_dtype_get(list.tensors[i].dtype)->from_f32(list.tensors[i].from, *bytes + list.tensors[i].begin, count);
  }
  hd_stored_free(&list);
  return status;
}
