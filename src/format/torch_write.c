/* format/torch_write.c: torch.save's zip. The same object gives the same bytes; nothing in them tells the time or the machine.
 *
 * Each member's local header ends with an extra field "FB" whose filling makes the member's bytes begin at a multiple of 64, as torch's own
 * writer does, so that the file can be mapped. Members are stored: torch maps compressed ones into wrong values without an error. */
#include "format/torch_write.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/zip.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* ---- The pickle ---- */

static void put(hd_torch_writer *w, const void *bytes, size_t n) {
  if (w->no_memory) return;
  if (w->pickle_room - w->n_pickle < n) {
    size_t room = (w->n_pickle + n) * 2 + 1024;
    uint8_t *larger = hd_realloc(w->pickle, room);
    w->no_memory = !larger;
    if (!larger) return;
    w->pickle = larger;
    w->pickle_room = room;
  }
  memcpy(w->pickle + w->n_pickle, bytes, n);
  w->n_pickle += n;
}

static void put_text(hd_torch_writer *w, const char *text) { put(w, text, strlen(text)); }

void hd_torch_writer_start(hd_torch_writer *w) {
  *w = (hd_torch_writer){0};
  put_text(w, "\x80\x02"); /* protocol 2 */
}

void hd_torch_writer_free(hd_torch_writer *w) {
  hd_free(w->pickle);
  hd_free(w->tensors);
  hd_free(w->members);
  *w = (hd_torch_writer){0};
}

/* An opcode and its argument's n bytes, least first. */
static void put_number(hd_torch_writer *w, char opcode, uint64_t number, size_t n) {
  uint8_t bytes[9] = {(uint8_t)opcode};
  for (size_t i = 0; i < n; i++) bytes[1 + i] = (uint8_t)(number >> (8 * i));
  put(w, bytes, 1 + n);
}

void hd_torch_write_none(hd_torch_writer *w) { put_text(w, "N"); }
void hd_torch_write_bool(hd_torch_writer *w, bool value) { put_text(w, value ? "\x88" : "\x89"); }

/* The shortest of BININT1, BININT2, BININT and LONG1, as Python's pickler chooses. */
void hd_torch_write_int(hd_torch_writer *w, int64_t value) {
  if (value >= 0 && value < 256) return put_number(w, 'K', (uint64_t)value, 1);
  if (value >= 0 && value < 65536) return put_number(w, 'M', (uint64_t)value, 2);
  if (value >= INT32_MIN && value <= INT32_MAX) return put_number(w, 'J', (uint64_t)value, 4);
  put_text(w, "\x8a");
  put_number(w, 8, (uint64_t)value, 8);
}

void hd_torch_write_real(hd_torch_writer *w, double value) {
  uint64_t bits;
  uint8_t bytes[9] = {'G'};
  memcpy(&bits, &value, sizeof bits);
  for (int i = 0; i < 8; i++) bytes[1 + i] = (uint8_t)(bits >> (56 - 8 * i)); /* greatest first */
  put(w, bytes, sizeof bytes);
}

void hd_torch_write_text(hd_torch_writer *w, const char *text) {
  put_number(w, 'X', strlen(text), 4);
  put_text(w, text);
}

void hd_torch_begin_list(hd_torch_writer *w) { put_text(w, "]("); }
void hd_torch_end_list(hd_torch_writer *w) { put_text(w, "e"); }
void hd_torch_begin_dict(hd_torch_writer *w) { put_text(w, "}("); }
void hd_torch_end_dict(hd_torch_writer *w) { put_text(w, "u"); }

/* ---- Tensors ---- */

static const char *storage_name(hd_dtype dtype) {
  static const struct {
    hd_dtype dtype;
    const char *storage;
  } names[] = {{HD_F32, "Float"}, {HD_F64, "Double"}, {HD_F16, "Half"}, {HD_BF16, "BFloat16"}, {HD_I64, "Long"}, {HD_I32, "Int"},
               {HD_I16, "Short"}, {HD_I8, "Char"},    {HD_U8, "Byte"},  {HD_BOOL, "Bool"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (names[i].dtype == dtype) return names[i].storage;
  return NULL;
}

bool hd_torch_can_write(hd_dtype dtype) { return storage_name(dtype) != NULL; }

static size_t count_of(const hd_stored *t) {
  size_t count = 0;
  (void)hd_shape_count(t->n_dims, t->shape, &count); /* its values are in memory */
  return count;
}

/* ('storage', torch.<X>Storage, key, 'cpu', count), as a persistent id. */
static void put_storage(hd_torch_writer *w, const hd_stored *t) {
  char text[32];
  put_text(w, "(");
  hd_torch_write_text(w, "storage");
  put_text(w, "ctorch\n");
  put_text(w, storage_name(t->dtype));
  put_text(w, "Storage\n");
  snprintf(text, sizeof text, "%zu", w->n_tensors);
  hd_torch_write_text(w, text);
  hd_torch_write_text(w, "cpu");
  hd_torch_write_int(w, (int64_t)count_of(t));
  put_text(w, "tQ");
}

static void put_shape(hd_torch_writer *w, const hd_stored *t) {
  put_text(w, "(");
  for (int d = 0; d < t->n_dims; d++) hd_torch_write_int(w, (int64_t)t->shape[d]);
  put_text(w, "t");
}

/* Of a contiguous tensor; as PyTorch has them, a dimension of 0 counts as 1. */
static void put_strides(hd_torch_writer *w, const hd_stored *t) {
  put_text(w, "(");
  for (int d = 0; d < t->n_dims; d++) {
    int64_t stride = 1;
    for (int k = d + 1; k < t->n_dims; k++) stride *= t->shape[k] ? (int64_t)t->shape[k] : 1;
    hd_torch_write_int(w, stride);
  }
  put_text(w, "t");
}

static void keep(hd_torch_writer *w, const hd_stored *t) {
  if (w->no_memory) return;
  if (w->n_tensors == w->tensors_room) {
    size_t room = w->tensors_room ? w->tensors_room * 2 : 32;
    hd_stored *larger = hd_realloc(w->tensors, room * sizeof *larger);
    w->no_memory = !larger;
    if (!larger) return;
    w->tensors = larger;
    w->tensors_room = room;
  }
  w->tensors[w->n_tensors++] = *t;
}

void hd_torch_write_tensor(hd_torch_writer *w, const hd_stored *t) {
  put_text(w, "ctorch._utils\n_rebuild_tensor_v2\n(");
  put_storage(w, t);
  hd_torch_write_int(w, 0);
  put_shape(w, t);
  put_strides(w, t);
  hd_torch_write_bool(w, false); /* requires_grad */
  put_text(w, "ccollections\nOrderedDict\n)RtR");
  keep(w, t);
}

/* ---- The zip ---- */

enum { ALIGNMENT = 64, LOCAL_BYTES = 30, RECORD_BYTES = 46, END_BYTES = 22, N_BEFORE = 4, N_FIXED = 6 };

static const char format_version[] = "1", alignment[] = "64", byteorder[] = "little", version[] = "3\n",
                  serialization_id[] = "0000000000000000000000000000000000000000";

static void add_member(hd_torch_writer *w, size_t *at, const char *name, size_t bytes) {
  hd_torch_member *m = &w->members[w->n_members++];
  snprintf(m->name, sizeof m->name, "archive/%s", name);
  m->header = *at;
  m->begin = hd_align(*at + LOCAL_BYTES + strlen(m->name) + 4, ALIGNMENT);
  m->bytes = bytes;
  *at = m->begin + bytes;
}

hd_status hd_torch_lay_out(hd_torch_writer *w, size_t *n_file, hd_error *err) {
  size_t at = 0, bytes;
  char name[40];
  put_text(w, ".");
  if (w->no_memory) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to write a PyTorch file");
  w->members = hd_alloc_zero((N_FIXED + w->n_tensors) * sizeof *w->members);
  if (!w->members) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to write a PyTorch file");
  add_member(w, &at, "data.pkl", w->n_pickle);
  add_member(w, &at, ".format_version", sizeof format_version - 1);
  add_member(w, &at, ".storage_alignment", sizeof alignment - 1);
  add_member(w, &at, "byteorder", sizeof byteorder - 1);
  for (size_t i = 0; i < w->n_tensors; i++) {
    hd_stored *t = &w->tensors[i];
    snprintf(name, sizeof name, "data/%zu", i);
    if (!hd_dtype_bytes(t->dtype, count_of(t), &bytes) || bytes > UINT32_MAX - 4096 || at > UINT32_MAX - 4096 - bytes)
      return hd_fail(err, HD_UNSUPPORTED, "a PyTorch file of 4 GB or more cannot be written yet");
    add_member(w, &at, name, bytes);
    t->begin = w->members[w->n_members - 1].begin;
  }
  add_member(w, &at, "version", sizeof version - 1);
  add_member(w, &at, ".data/serialization_id", sizeof serialization_id - 1);
  w->list_begin = at;
  for (size_t i = 0; i < w->n_members; i++) at += RECORD_BYTES + strlen(w->members[i].name);
  *n_file = w->n_file = at + END_BYTES;
  if (w->n_members > UINT16_MAX - 1 || *n_file > UINT32_MAX - 1)
    return hd_fail(err, HD_UNSUPPORTED, "a PyTorch file of 65535 tensors or 4 GB cannot be written yet");
  return HD_OK;
}

static uint8_t *put_fields(uint8_t *to, uint64_t value, int n) {
  for (int i = 0; i < n; i++) *to++ = (uint8_t)(value >> (8 * i));
  return to;
}

/* From "version needed" to the name's length, which local headers and records have alike. */
static uint8_t *put_common(uint8_t *to, const hd_torch_member *m) {
  to = put_fields(to, 20, 2);
  to = put_fields(to, 0, 2 + 2);    /* flags, method: stored */
  to = put_fields(to, 0, 2);        /* midnight */
  to = put_fields(to, 1 << 5 | 1, 2); /* of 1 January 1980 */
  to = put_fields(to, m->crc, 4);
  to = put_fields(to, m->bytes, 4);
  to = put_fields(to, m->bytes, 4);
  return put_fields(to, strlen(m->name), 2);
}

static uint8_t *put_local(uint8_t *to, const hd_torch_member *m) {
  to = put_common(put_fields(to, 0x04034b50, 4), m);
  size_t extra = m->begin - (m->header + LOCAL_BYTES + strlen(m->name));
  to = put_fields(to, extra, 2);
  memcpy(to, m->name, strlen(m->name));
  to += strlen(m->name);
  memcpy(to, "FB", 2);
  to = put_fields(to + 2, extra - 4, 2);
  memset(to, 'Z', extra - 4);
  return to + extra - 4;
}

static uint8_t *put_record(uint8_t *to, const hd_torch_member *m) {
  to = put_fields(to, 0x02014b50, 4);
  to = put_common(put_fields(to, 20, 2), m);
  to = put_fields(to, 0, 2 + 2 + 2);  /* extra field, comment, disk */
  to = put_fields(to, 0, 2 + 4);      /* attributes */
  to = put_fields(to, m->header, 4);
  memcpy(to, m->name, strlen(m->name));
  return to + strlen(m->name);
}

static uint8_t *put_end(uint8_t *to, const hd_torch_writer *w, size_t list_bytes) {
  to = put_fields(to, 0x06054b50, 4);
  to = put_fields(to, 0, 2 + 2);
  to = put_fields(to, w->n_members, 2);
  to = put_fields(to, w->n_members, 2);
  to = put_fields(to, list_bytes, 4);
  to = put_fields(to, w->list_begin, 4);
  return put_fields(to, 0, 2);
}

static uint8_t *put_list(uint8_t *to, const hd_torch_writer *w) {
  uint8_t *begin = to;
  for (size_t i = 0; i < w->n_members; i++) to = put_record(to, &w->members[i]);
  return put_end(to, w, (size_t)(to - begin));
}

/* The bytes of a member that is no tensor's. */
static const void *fixed_content(const hd_torch_writer *w, size_t member) {
  const void *const before[N_BEFORE] = {w->pickle, format_version, alignment, byteorder};
  if (member < N_BEFORE) return before[member];
  return member == w->n_members - 1 ? serialization_id : version;
}

static uint8_t *put_fixed(uint8_t *to, hd_torch_writer *w, size_t member) {
  hd_torch_member *m = &w->members[member];
  const void *content = fixed_content(w, member);
  m->crc = hd_crc32(0, content, m->bytes);
  to = put_local(to, m);
  memcpy(to, content, m->bytes);
  return to + m->bytes;
}

size_t hd_torch_piece_bytes(const hd_torch_writer *w, size_t i) {
  size_t from = i ? w->tensors[i - 1].begin + w->members[N_BEFORE + i - 1].bytes : 0;
  return (i < w->n_tensors ? w->tensors[i].begin : w->n_file) - from;
}

void hd_torch_put_piece(hd_torch_writer *w, size_t i, uint32_t crc, uint8_t *to) {
  for (size_t member = 0; i == 0 && member < N_BEFORE; member++) to = put_fixed(to, w, member);
  if (i < w->n_tensors) {
    w->members[N_BEFORE + i].crc = crc;
    put_local(to, &w->members[N_BEFORE + i]);
    return;
  }
  for (size_t member = w->n_members - 2; member < w->n_members; member++) to = put_fixed(to, w, member);
  put_list(to, w);
}

hd_status hd_torch_start(uint8_t **file, size_t *n_file, hd_torch_writer *w, hd_error *err) {
  *file = NULL;
  HD_TRY(hd_torch_lay_out(w, n_file, err));
  *file = hd_alloc_zero(*n_file);
  return *file ? HD_OK : hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file of %zu bytes", *n_file);
}

void hd_torch_seal(hd_torch_writer *w, uint8_t *file) {
  for (size_t i = 0; i <= w->n_tensors; i++) {
    const hd_torch_member *tensor = i < w->n_tensors ? &w->members[N_BEFORE + i] : NULL;
    uint32_t crc = tensor ? hd_crc32(0, file + tensor->begin, tensor->bytes) : 0;
    size_t end = tensor ? tensor->begin : w->n_file;
    hd_torch_put_piece(w, i, crc, file + end - hd_torch_piece_bytes(w, i));
  }
}
