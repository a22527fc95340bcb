/* outline.c: weight files that are written tensor by tensor, so that no file is ever whole in memory. A format says what its file is
 * besides the tensors' values: what it begins with, what lies between two tensors, how it ends. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/format.h"
#include "format/torch_write.h"

#include <string.h>

typedef struct hd_outline_format hd_outline_format;

struct hd_outline {
  const hd_outline_format *format;
  hd_stored_list list; /* in the order of the file; `from` points to the number each had in the JSON */
  size_t *numbers;
  size_t n_file;
  hd_text header;        /* SafeTensors, GGUF */
  hd_torch_writer torch; /* PyTorch */
  uint8_t *piece;
};

struct hd_outline_format {
  const char *name;
  hd_has_dtype *has;
  hd_status (*lay_out)(hd_outline *o, const char *metadata, size_t n_metadata, hd_error *err);
  void (*put)(hd_outline *o, size_t i, uint32_t checksum, size_t n); /* n bytes into o->piece, which is zero */
};

/* ---- Formats ---- */

static bool safetensors_has(hd_dtype dtype) { return hd_dtype_get(dtype)->safetensors; }

static hd_status safetensors_lay_out(hd_outline *o, const char *metadata, size_t n_metadata, hd_error *err) {
  (void)n_metadata; /* ends with a NUL */
  return hd_safetensors_header(&o->header, &o->n_file, o->list.tensors, o->list.n, metadata, err);
}

static hd_status gguf_lay_out(hd_outline *o, const char *metadata, size_t n_metadata, hd_error *err) {
  return hd_gguf_header(&o->header, &o->n_file, o->list.tensors, o->list.n, metadata, n_metadata, err);
}

static void put_header(hd_outline *o, size_t i, uint32_t checksum, size_t n) {
  (void)checksum;
  if (i == 0) memcpy(o->piece, o->header.data, o->header.n < n ? o->header.n : n);
}

/* A state dict: names to tensors. */
static hd_status torch_lay_out(hd_outline *o, const char *metadata, size_t n_metadata, hd_error *err) {
  (void)metadata, (void)n_metadata; /* a state dict has none */
  hd_torch_writer_start(&o->torch);
  hd_torch_begin_dict(&o->torch);
  for (size_t i = 0; i < o->list.n; i++) {
    size_t count, bytes;
    const hd_stored *t = &o->list.tensors[i];
    if (!hd_shape_count(t->n_dims, t->shape, &count) || !hd_dtype_bytes(t->dtype, count, &bytes)) return hd_stored_too_large(err, t);
    hd_torch_write_text(&o->torch, t->name);
    hd_torch_write_tensor(&o->torch, t);
  }
  hd_torch_end_dict(&o->torch);
  HD_TRY(hd_torch_lay_out(&o->torch, &o->n_file, err));
  for (size_t i = 0; i < o->list.n; i++) o->list.tensors[i].begin = o->torch.tensors[i].begin;
  return HD_OK;
}

static void torch_put(hd_outline *o, size_t i, uint32_t checksum, size_t n) {
  (void)n;
  hd_torch_put_piece(&o->torch, i, checksum, o->piece);
}

static const hd_outline_format formats[] = {
    {"SafeTensors", safetensors_has, safetensors_lay_out, put_header},
    {"GGUF", hd_gguf_can_write, gguf_lay_out, put_header},
    {"PyTorch", hd_torch_can_write, torch_lay_out, torch_put},
};
enum { N_FORMATS = sizeof formats / sizeof *formats };

static const hd_outline_format *find_format(const char *name) {
  for (size_t i = 0; i < N_FORMATS; i++)
    if (strcmp(formats[i].name, name) == 0) return &formats[i];
  return NULL;
}

/* ---- Outlines ---- */

void hd_outline_free(hd_outline *o) {
  if (!o) return;
  hd_stored_free(&o->list);
  hd_torch_writer_free(&o->torch);
  hd_free(o->numbers);
  hd_free(o->header.data);
  hd_free(o->piece);
  hd_free(o);
}

static hd_status refuse_twice(const hd_stored_list *list, hd_error *err) {
  hd_directory *names = hd_directory_new("", 0);
  hd_status status = names ? hd_stored_refuse_twice(names, list->tensors, list->n, err)
                           : hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the names of %zu tensors", list->n);
  hd_directory_free(names);
  return status;
}

static hd_status number(hd_outline *o, hd_error *err) {
  o->numbers = hd_alloc((o->list.n + 1) * sizeof *o->numbers);
  if (!o->numbers) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for %zu tensors", o->list.n);
  for (size_t i = 0; i < o->list.n; i++) {
    o->numbers[i] = i;
    o->list.tensors[i].from = &o->numbers[i];
  }
  return HD_OK;
}

static hd_status fill(hd_outline *o, const char *json, size_t n_json, const char *metadata, size_t n_metadata, hd_error *err) {
  HD_TRY(hd_stored_declare(&o->list, json, n_json, o->format->name, o->format->has, err));
  HD_TRY(number(o, err));
  HD_TRY(refuse_twice(&o->list, err));
  return o->format->lay_out(o, metadata, n_metadata, err);
}

hd_status hd_outline_new(hd_outline **out, const char *format, const char *json, size_t n_json,
                         const char *metadata, size_t n_metadata, hd_error *err) {
  char room[HD_NAME_ROOM];
  *out = NULL;
  const hd_outline_format *row = find_format(format);
  if (!row) return hd_fail(err, HD_UNSUPPORTED, "files of '%s' are not written", hd_short_name(room, format));
  hd_outline *o = hd_alloc_zero(sizeof *o);
  if (!o) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a %s file", format);
  o->format = row;
  hd_status status = fill(o, json, n_json, metadata, n_metadata, err);
  if (status == HD_OK) *out = o;
  else hd_outline_free(o);
  return status;
}

size_t hd_outline_count(const hd_outline *o) { return o->list.n; }

static size_t bytes_of(const hd_stored *t) {
  size_t count = 0, bytes = 0;
  (void)(hd_shape_count(t->n_dims, t->shape, &count) && hd_dtype_bytes(t->dtype, count, &bytes)); /* lay_out has checked */
  return bytes;
}

size_t hd_outline_tensor(const hd_outline *o, size_t i, size_t *n_bytes) {
  *n_bytes = bytes_of(&o->list.tensors[i]);
  return *(const size_t *)o->list.tensors[i].from;
}

hd_status hd_outline_piece(hd_outline *o, size_t i, uint32_t checksum, const void **bytes, size_t *n, hd_error *err) {
  if (i > o->list.n) return hd_fail(err, HD_BAD_ARGUMENT, "piece %zu of %zu", i, o->list.n + 1);
  size_t begin = i ? o->list.tensors[i - 1].begin + bytes_of(&o->list.tensors[i - 1]) : 0;
  *n = (i < o->list.n ? o->list.tensors[i].begin : o->n_file) - begin;
  hd_free(o->piece);
  o->piece = hd_alloc_zero(*n + 1);
  if (!o->piece) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a header of %zu bytes", *n);
  o->format->put(o, i, checksum, *n);
  *bytes = o->piece;
  return HD_OK;
}
