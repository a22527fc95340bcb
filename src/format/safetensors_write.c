/* format/safetensors_write.c: SafeTensors files made in memory (safetensors.c says what the format is), and Loom's way to its dtypes.
 *
 * Tensors are sorted by name and lie one behind the other, as Loom writes them. The header is filled up with spaces to a multiple of 8,
 * which the format allows, so that data of every dtype start aligned. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/format.h"
#include "format/precision.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Files ---- */

static int compare_names(const void *a, const void *b) { return strcmp(((const hd_stored *)a)->name, ((const hd_stored *)b)->name); }

static hd_status ends_inside_a_byte(hd_error *err, const hd_stored *t) {
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_ARGUMENT, "tensor %s: shape %s of %s does not end where a byte does", hd_short_name(room, t->name),
                 hd_shape_text(shape, t->n_dims, t->shape), hd_dtype_name(t->dtype));
}

/* One tensor's line; its place counts from the start of the data until the header's length is known. */
static hd_status add_record(hd_text *header, hd_stored *t, size_t *end, hd_error *err) {
  size_t count, bytes;
  if (!hd_shape_count(t->n_dims, t->shape, &count)) return hd_stored_too_large(err, t);
  if (!hd_dtype_get(t->dtype)->ragged && count % hd_dtype_get(t->dtype)->block_values) return ends_inside_a_byte(err, t);
  if (!hd_dtype_bytes(t->dtype, count, &bytes)) return hd_stored_too_large(err, t);
  t->begin = *end;
  if (!hd_add_size(*end, bytes, end)) return hd_stored_too_large(err, t);
  hd_text_quoted(header, t->name);
  hd_text_print(header, ":{\"dtype\":\"%s\",\"shape\":[", hd_dtype_name(t->dtype));
  for (int d = 0; d < t->n_dims; d++) hd_text_print(header, "%s%zu", d ? "," : "", t->shape[d]);
  hd_text_print(header, "],\"data_offsets\":[%zu,%zu]}", t->begin, *end);
  return HD_OK;
}

static hd_status write_json(hd_text *header, hd_stored *tensors, size_t n, const char *metadata, size_t *data_bytes, hd_error *err) {
  hd_text_add(header, "12345678{", 9); /* the length's room */
  if (metadata) hd_text_print(header, "\"__metadata__\":%s%s", metadata, n ? "," : "");
  for (size_t i = 0; i < n; i++) {
    char room[HD_NAME_ROOM];
    if (i && strcmp(tensors[i - 1].name, tensors[i].name) == 0)
      return hd_fail(err, HD_BAD_ARGUMENT, "tensor %s: expected every name once, found it twice", hd_short_name(room, tensors[i].name));
    if (i) hd_text_add(header, ",", 1);
    HD_TRY(add_record(header, &tensors[i], data_bytes, err));
  }
  hd_text_add(header, "}", 1);
  while (!header->failed && header->n % 8) hd_text_add(header, " ", 1);
  return header->failed ? hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the header of %zu tensors", n) : HD_OK;
}

hd_status hd_safetensors_header(hd_text *header, size_t *n_file, hd_stored *tensors, size_t n, const char *metadata, hd_error *err) {
  size_t data_bytes = 0;
  if (n) qsort(tensors, n, sizeof *tensors, compare_names);
  HD_TRY(write_json(header, tensors, n, metadata, &data_bytes, err));
  for (int i = 0; i < 8; i++) header->data[i] = (char)(uint8_t)((uint64_t)(header->n - 8) >> 8 * i);
  for (size_t i = 0; i < n; i++) tensors[i].begin += header->n;
  if (hd_add_size(data_bytes, header->n, n_file)) return HD_OK;
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a file of %zu tensors and %zu bytes", n, data_bytes);
}

hd_status hd_safetensors_start(uint8_t **file, size_t *n_file, hd_stored *tensors, size_t n, const char *metadata, hd_error *err) {
  hd_text header = {0};
  hd_status status = hd_safetensors_header(&header, n_file, tensors, n, metadata, err);
  return hd_stored_open(file, n_file, &header, status, err);
}

/* ---- Loom's dtypes ---- */

static const float loom_f4[8] = {0.0f, 0.75f, 1.0f, 1.5f, 2.0f, 3.0f, INFINITY, NAN};

static unsigned loom_f4_code(float value) {
  float magnitude = fabsf(value);
  unsigned sign = signbit(value) ? 8u : 0u;
  if (value == 0) return 0;
  if (magnitude < 0.125f) return sign;
  if (magnitude < 1) return sign | 1u;
  if (magnitude < 1.5f) return sign | 2u;
  if (magnitude < 2) return sign | 3u;
  if (magnitude < 3) return sign | 4u;
  return magnitude < 4 ? sign | 5u : sign | 7u;
}

static bool is_integer(hd_dtype dtype) { return dtype >= HD_I64 && dtype <= HD_U8; }

void hd_loom_encode(hd_dtype dtype, const float *values, void *to, size_t n) {
  uint8_t *bytes = to;
  if (dtype == HD_F4) {
    for (size_t i = 0; i < n; i += 2)
      bytes[i / 2] = (uint8_t)(loom_f4_code(values[i]) | (i + 1 < n ? loom_f4_code(values[i + 1]) << 4 : 0));
  } else if (dtype == HD_F16 || dtype == HD_BF16) {
    hd_precision_encode(hd_precision_find(dtype == HD_F16 ? "float16" : "bfloat16"), values, n, bytes);
  } else if (is_integer(dtype)) {
    size_t width = hd_dtype_get(dtype)->block_bytes;
    for (size_t i = 0; i < n; i++) {
      float whole = truncf(values[i]);
      hd_dtype_get(dtype)->from_f32(&whole, bytes + i * width, 1);
    }
  } else {
    hd_dtype_get(dtype)->from_f32(values, to, n);
  }
}

void hd_loom_decode(hd_dtype dtype, const void *from, float *values, size_t n) {
  if (dtype != HD_F4) {
    hd_dtype_get(dtype)->to_f32(from, values, n);
    return;
  }
  for (size_t i = 0; i < n; i++) {
    int code = ((const uint8_t *)from)[i / 2] >> (i % 2 ? 4 : 0) & 15;
    values[i] = code & 8 ? -loom_f4[code & 7] : loom_f4[code & 7];
  }
}

/* ---- Tensors without a network ---- */

static bool has_dtype(hd_dtype dtype) { return hd_dtype_get(dtype)->safetensors; }

hd_status hd_safetensors_serialize(uint8_t **bytes, size_t *n, const char *text, size_t n_text, const float *values, size_t n_values,
                                   hd_error *err) {
  hd_stored_list list;
  *bytes = NULL;
  *n = 0;
  HD_TRY(hd_stored_read(&list, text, n_text, values, n_values, "SafeTensors", has_dtype, err));
  hd_status status = hd_safetensors_start(bytes, n, list.tensors, list.n, NULL, err);
  for (size_t i = 0; status == HD_OK && i < list.n; i++) {
    size_t count;
    hd_shape_count(list.tensors[i].n_dims, list.tensors[i].shape, &count);
    hd_loom_encode(list.tensors[i].dtype, list.tensors[i].from, *bytes + list.tensors[i].begin, count);
  }
  hd_stored_free(&list);
  return status;
}
