/* format/safetensors.c: SafeTensors, as huggingface/safetensors describes it.
 *
 *   8 bytes   N, the header's length: an unsigned little-endian number, at most 100 000 000
 *   N bytes   the header, JSON: {"NAME": {"dtype": "F32", "shape": [2, 3], "data_offsets": [BEGIN, END]}, …}
 *   the rest  the data. A tensor is the bytes [BEGIN, END) of it, row-major, little-endian.
 *
 *   - "__metadata__" is no tensor: it maps strings to strings.
 *   - A shape [] is a scalar; a 0 in a shape makes an empty tensor, with BEGIN = END.
 *   - END − BEGIN is exactly the product of the shape times the dtype's size. Tensors of F6 are whole bytes; one of F4 may end in half a
 *     byte: Loom writes such files, though the reference reader refuses them.
 *   - The tensors cover all of the data: the first begins at 0, no holes, no overlap, nothing after the last.
 *   - Names are unique. White space may follow the header's JSON, as padding, and is accepted before it too: the format's
 *     text wants '{' first, its reference reader does not insist.
 *   - Members of a tensor's record that we do not know are skipped. A name holds no NUL character.
 *
 * Nothing is believed before it is checked, and every number is checked in 64 bits before it becomes a size_t. */
#include "format/format.h"

#include "base/dtype.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LENGTH_BYTES = 8, MAX_HEADER_BYTES = 100000000 };

static uint64_t header_length(const uint8_t *first) {
  uint64_t length = 0;
  for (int i = LENGTH_BYTES - 1; i >= 0; i--) length = length << 8 | first[i];
  return length;
}

/* Any small number may be a header's length: this format is asked last. */
static bool safetensors_detect(const uint8_t *first, size_t n, uint64_t file_bytes) {
  (void)file_bytes;
  if (n < LENGTH_BYTES) return false;
  return header_length(first) <= MAX_HEADER_BYTES || (n > LENGTH_BYTES && first[LENGTH_BYTES] == '{');
}

/* Where the header ends. */
static hd_status find_header_end(uint64_t *out, const hd_reader *reader, hd_error *err) {
  uint64_t length = header_length(reader->window); /* detect has seen that it is there */
  if (length > MAX_HEADER_BYTES)
    return hd_fail(err, HD_BAD_FILE, "SafeTensors: byte 0: expected a header of at most %d bytes, found a length of %" PRIu64,
                   MAX_HEADER_BYTES, length);
  if (length > reader->file_bytes - LENGTH_BYTES)
    return hd_fail(err, HD_BAD_FILE,
                   "SafeTensors: byte 0: expected a header within the file's %" PRIu64 " bytes, found a length of %" PRIu64,
                   reader->file_bytes, length);
  *out = LENGTH_BYTES + length;
  return HD_OK;
}

/* ---- One tensor ---- */

/* A tensor's record as the header writes it, in the header's own numbers. */
typedef struct record {
  bool has_dtype, has_shape, has_offsets;
  hd_dtype dtype;
  int n_dims;
  uint64_t shape[HD_MAX_DIMS];
  uint64_t begin, end; /* within the data */
} record;

static void fail_with(hd_json_reader *r, hd_status code, const char *problem) {
  if (r->status == HD_OK) r->status = hd_fail(r->err, code, "%s: byte %zu: %s", r->what, r->at, problem);
}

static void read_dtype(hd_json_reader *r, record *t) {
  char *name, room[HD_NAME_ROOM], problem[HD_NAME_ROOM + 64];
  size_t n;
  if (!hd_json_string(r, &name, &n)) return;
  t->dtype = hd_dtype_find(name, n);
  if (t->dtype == HD_DTYPE_COUNT || !hd_dtype_get(t->dtype)->safetensors) {
    snprintf(problem, sizeof problem, "expected a dtype that we read, found \"%s\"", hd_short_name(room, name));
    fail_with(r, HD_UNSUPPORTED, problem);
  }
  hd_free(name);
}

static void read_shape(hd_json_reader *r, record *t) {
  hd_json_enter_array(r);
  while (hd_json_next_item(r)) {
    if (t->n_dims == HD_MAX_DIMS) fail_with(r, HD_UNSUPPORTED, "expected a shape of at most 8 dimensions, found more");
    else hd_json_u64(r, &t->shape[t->n_dims++]);
  }
}

static void read_offsets(hd_json_reader *r, record *t) {
  uint64_t offsets[2];
  size_t n = 0;
  hd_json_enter_array(r);
  while (hd_json_next_item(r)) {
    if (n == 2) fail_with(r, HD_BAD_FILE, "expected two data_offsets, found a third");
    else hd_json_u64(r, &offsets[n++]);
  }
  if (r->status == HD_OK && n < 2) fail_with(r, HD_BAD_FILE, "expected two data_offsets, found less");
  if (r->status != HD_OK) return;
  t->begin = offsets[0];
  t->end = offsets[1];
}

static void read_member(hd_json_reader *r, record *t, const char *key) {
  static const struct {
    const char *key;
    size_t seen; /* offset of a bool in record */
    void (*read)(hd_json_reader *r, record *t);
  } members[] = {{"dtype", offsetof(record, has_dtype), read_dtype},
                 {"shape", offsetof(record, has_shape), read_shape},
                 {"data_offsets", offsetof(record, has_offsets), read_offsets}};
  for (size_t i = 0; i < sizeof members / sizeof *members; i++) {
    if (strcmp(key, members[i].key) != 0) continue;
    bool *seen = (bool *)((char *)t + members[i].seen);
    char problem[64];
    snprintf(problem, sizeof problem, "expected %s once, found it twice", key);
    if (*seen) fail_with(r, HD_BAD_FILE, problem);
    *seen = true;
    members[i].read(r, t);
    return;
  }
  hd_json_skip(r, NULL, NULL);
}

static void read_record(hd_json_reader *r, record *t) {
  char *key;
  size_t n;
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &key, &n)) {
    read_member(r, t, key);
    hd_free(key);
  }
  const char *missing = !t->has_dtype ? "dtype" : !t->has_shape ? "shape" : !t->has_offsets ? "data_offsets" : NULL;
  char problem[64];
  snprintf(problem, sizeof problem, "expected %s in the record, found none", missing ? missing : "");
  if (missing) fail_with(r, HD_BAD_FILE, problem);
}

/* "[2816, 1024]", the way hd_shape_text does, of the header's 64-bit numbers. */
static const char *record_shape(char room[HD_SHAPE_ROOM], const record *t) {
  size_t at = (size_t)snprintf(room, HD_SHAPE_ROOM, "[");
  for (int i = 0; i < t->n_dims; i++)
    at += (size_t)snprintf(room + at, HD_SHAPE_ROOM - at, "%s%" PRIu64, i ? ", " : "", t->shape[i]);
  snprintf(room + at, HD_SHAPE_ROOM - at, "]");
  return room;
}

/* Bytes that the shape needs; false when they pass 64 bits. */
static bool record_bytes(const record *t, uint64_t *bytes) {
  const hd_dtype_info *info = hd_dtype_get(t->dtype);
  uint64_t count = 1;
  for (int i = 0; i < t->n_dims; i++)
    if (!hd_mul_u64(count, t->shape[i], &count)) return false;
  return hd_mul_u64(count / info->block_values + (count % info->block_values != 0), info->block_bytes, bytes);
}

/* Values of less than a byte end where a byte does, as far as their dtype asks for it. */
static bool ends_in_a_byte(const record *t) {
  const hd_dtype_info *info = hd_dtype_get(t->dtype);
  uint64_t rest = 1; /* of the count, by the block */
  for (int i = 0; i < t->n_dims; i++) rest = rest * (t->shape[i] % info->block_values) % info->block_values;
  return info->ragged || info->block_values == 1 || rest == 0;
}

/* The record against itself and against the data's size; `name` is fit for messages. */
static hd_status check_record(const record *t, const char *name, uint64_t data_bytes, hd_error *err) {
  char shape[HD_SHAPE_ROOM];
  const char *dtype = hd_dtype_name(t->dtype);
  uint64_t bytes;
  if (!record_bytes(t, &bytes))
    return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": shape %s of %s needs more bytes than 64 bits can count", name,
                   record_shape(shape, t), dtype);
  if (!ends_in_a_byte(t))
    return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": shape %s of %s does not end where a byte does", name, record_shape(shape, t), dtype);
  if (t->begin > t->end)
    return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": expected data_offsets in order, found [%" PRIu64 ", %" PRIu64 "]", name,
                   t->begin, t->end);
  if (t->end - t->begin != bytes)
    return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": shape %s of %s needs %" PRIu64 " bytes, data_offsets span %" PRIu64, name,
                   record_shape(shape, t), dtype, bytes, t->end - t->begin);
  if (t->end > data_bytes)
    return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": data_offsets end at %" PRIu64 ", the file has %" PRIu64 " bytes of data",
                   name, t->end, data_bytes);
  for (int i = 0; i < t->n_dims; i++)
    if (t->shape[i] > SIZE_MAX) bytes = UINT64_MAX;
  if (bytes > SIZE_MAX)
    return hd_fail(err, HD_UNSUPPORTED, "tensor \"%s\": shape %s of %s is more than this memory can address", name,
                   record_shape(shape, t), dtype);
  return HD_OK;
}

static void read_tensor(hd_json_reader *r, hd_directory *directory, const char *name, uint64_t header_end, uint64_t file_bytes) {
  record t = {0};
  char shown[HD_NAME_ROOM], path[HD_NAME_ROOM + 16];
  hd_short_name(shown, name);
  read_record(r, &t);
  if (r->status != HD_OK) {
    snprintf(path, sizeof path, "tensor \"%s\"", shown);
    hd_fail_in(r->err, path);
    return;
  }
  r->status = check_record(&t, shown, file_bytes - header_end, r->err);
  if (r->status != HD_OK) return;
  hd_entry entry = {.name = name, .dtype = t.dtype, .n_dims = t.n_dims};
  for (int i = 0; i < t.n_dims; i++) entry.shape[i] = (size_t)t.shape[i];
  entry.begin = header_end + t.begin;
  entry.end = header_end + t.end;
  r->status = hd_directory_append(directory, &entry, r->err);
}

/* ---- The header ---- */

static void read_metadata(hd_json_reader *r, hd_directory *directory) {
  char *key, *value;
  size_t n_key, n_value;
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &key, &n_key)) {
    if (hd_json_string(r, &value, &n_value)) r->status = hd_directory_append_metadata(directory, key, value, r->err);
    hd_free(key);
    hd_free(value);
  }
  if (r->status != HD_OK) hd_fail_in(r->err, "__metadata__");
}

static void read_header(hd_json_reader *r, hd_directory *directory, uint64_t file_bytes) {
  uint64_t header_end = r->n;
  bool has_metadata = false;
  char *name;
  size_t n;
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &name, &n)) {
    bool metadata = strcmp(name, "__metadata__") == 0;
    if (strlen(name) != n) fail_with(r, HD_BAD_FILE, "expected a name without NUL characters, found one");
    else if (metadata && has_metadata) fail_with(r, HD_BAD_FILE, "expected __metadata__ once, found it twice");
    else if (metadata) read_metadata(r, directory);
    else read_tensor(r, directory, name, header_end, file_bytes);
    has_metadata |= metadata;
    hd_free(name);
  }
  hd_json_finish(r);
}

/* Entries are in the order of their places now: each must begin where the one before ended. */
static hd_status check_coverage(const hd_directory *directory, uint64_t header_end, uint64_t file_bytes, hd_error *err) {
  uint64_t covered = header_end;
  const char *before = NULL;
  char name[HD_NAME_ROOM], other[HD_NAME_ROOM];
  for (size_t i = 0; i < hd_directory_count(directory); i++) {
    const hd_entry *entry = hd_directory_entry(directory, i);
    if (entry->begin < covered)
      return hd_fail(err, HD_BAD_FILE,
                     "tensor \"%s\": begins at %" PRIu64 " of the data, inside \"%s\", which ends at %" PRIu64,
                     hd_short_name(name, entry->name), entry->begin - header_end, hd_short_name(other, before),
                     covered - header_end);
    if (entry->begin > covered)
      return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": expected to begin at %" PRIu64 " of the data, found %" PRIu64 " (a hole)",
                     hd_short_name(name, entry->name), covered - header_end, entry->begin - header_end);
    covered = entry->end;
    before = entry->name;
  }
  if (covered != file_bytes)
    return hd_fail(err, HD_BAD_FILE, "SafeTensors: expected a file of %" PRIu64 " bytes, found %" PRIu64 ": no tensor has the rest",
                   covered, file_bytes);
  return HD_OK;
}

static hd_status safetensors_step(hd_reader *reader, hd_error *err) {
  uint64_t header_end = 0;
  HD_TRY(find_header_end(&header_end, reader, err));
  if (header_end > reader->end) return hd_reader_want(reader, 0, header_end, err);
  hd_json_reader r = hd_json_open((const char *)reader->window, (size_t)header_end, "SafeTensors header", err);
  r.at = LENGTH_BYTES; /* byte offsets in messages are the file's */
  read_header(&r, reader->directory, reader->file_bytes);
  if (r.status != HD_OK) return r.status;
  HD_TRY(hd_directory_seal(reader->directory, err));
  HD_TRY(check_coverage(reader->directory, header_end, reader->file_bytes, err));
  reader->done = true;
  return HD_OK;
}

const hd_format hd_format_safetensors = {"SafeTensors", safetensors_detect, safetensors_step, NULL};
