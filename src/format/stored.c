/* format/stored.c: tensors to be written that the caller gives as a JSON list and values one after the other. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/format.h"

#include <string.h>

hd_status hd_stored_too_large(hd_error *err, const hd_stored *t) {
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_ARGUMENT, "tensor %s: shape %s of %s is too large for a file in memory", hd_short_name(room, t->name),
                 hd_shape_text(shape, t->n_dims, t->shape), hd_dtype_name(t->dtype));
}

hd_status hd_stored_open(uint8_t **file, size_t *n_file, hd_text *header, hd_status status, hd_error *err) {
  *file = status == HD_OK ? hd_alloc_zero(*n_file) : NULL;
  if (status == HD_OK && !*file) status = hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a file of %zu bytes", *n_file);
  if (*file) memcpy(*file, header->data, header->n);
  else *n_file = 0;
  hd_free(header->data);
  return status;
}

/* A directory refuses what comes twice. */
hd_status hd_stored_refuse_twice(hd_directory *names, const hd_stored *tensors, size_t n, hd_error *err) {
  for (size_t i = 0; i < n; i++) HD_TRY(hd_directory_append(names, &(hd_entry){.name = tensors[i].name}, err));
  hd_status status = hd_directory_seal(names, err);
  if (status == HD_BAD_FILE && err) err->code = HD_BAD_ARGUMENT; /* the caller's, not a file's */
  return status == HD_BAD_FILE ? HD_BAD_ARGUMENT : status;
}

/* `from_floats`: the values will be float32, which not every dtype can be made of. */
static void read_tensors(hd_json *list, hd_stored *tensors, size_t n, bool from_floats, const char *format, hd_has_dtype *has) {
  for (size_t i = 0; i < n && *list->status == HD_OK; i++) {
    hd_stored *t = &tensors[i];
    hd_json item = hd_json_item(list, i);
    hd_json shape = hd_json_member(&item, "shape");
    char room[HD_NAME_ROOM];
    const char *dtype = hd_json_get_text(&item, "dtype", "F32");
    size_t n_dims = hd_json_count(&item, "shape");
    t->name = hd_json_get_text(&item, "name", "");
    t->dtype = hd_dtype_find(dtype, strlen(dtype));
    if (t->dtype == HD_DTYPE_COUNT || !has(t->dtype))
      hd_json_refuse(&item, "dtype", HD_BAD_ARGUMENT, "%s has no dtype '%s'", format, hd_short_name(room, dtype));
    else if (from_floats && !hd_dtype_get(t->dtype)->from_f32)
      hd_json_refuse(&item, "dtype", HD_UNSUPPORTED, "values cannot be written as '%s'", dtype);
    if (n_dims > HD_MAX_DIMS)
      hd_json_refuse(&item, "shape", HD_UNSUPPORTED, "expected at most %d dimensions, found %zu", HD_MAX_DIMS, n_dims);
    t->n_dims = n_dims > HD_MAX_DIMS ? 0 : (int)n_dims;
    for (int d = 0; d < t->n_dims; d++) {
      const cJSON *size = cJSON_GetArrayItem(shape.node, d);
      if (!hd_json_is_size(size, 0, UINT32_MAX, &t->shape[d])) hd_json_refuse(&item, "shape", HD_BAD_ARGUMENT, "expected whole numbers");
    }
  }
}

/* Gives each tensor its values, in the order of the list. */
static hd_status share_values(hd_stored *tensors, size_t n, const float *values, size_t n_values, hd_error *err) {
  size_t at = 0, count;
  for (size_t i = 0; i < n; i++) {
    if (!hd_shape_count(tensors[i].n_dims, tensors[i].shape, &count)) return hd_stored_too_large(err, &tensors[i]);
    tensors[i].from = values + at;
    if (count > n_values - at) return hd_fail(err, HD_BAD_ARGUMENT, "the tensors' shapes need more than the %zu values given", n_values);
    at += count;
  }
  if (at == n_values) return HD_OK;
  return hd_fail(err, HD_BAD_ARGUMENT, "the tensors' shapes need %zu values, found %zu", at, n_values);
}

void hd_stored_free(hd_stored_list *list) {
  hd_free(list->tensors);
  cJSON_Delete(list->json);
  *list = (hd_stored_list){0};
}

static hd_status read_list(hd_stored_list *out, bool from_floats, const char *format, hd_has_dtype *has, hd_error *err) {
  hd_status status = HD_OK;
  hd_json list = hd_json_root(out->json, "tensors", &status, err);
  if (!cJSON_IsArray(out->json)) return hd_fail(err, HD_BAD_ARGUMENT, "tensors: expected an array of {name, dtype, shape}");
  out->n = (size_t)cJSON_GetArraySize(out->json);
  out->tensors = hd_alloc_zero(out->n * sizeof *out->tensors);
  if (!out->tensors) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for %zu tensors", out->n);
  read_tensors(&list, out->tensors, out->n, from_floats, format, has);
  return status;
}

hd_status hd_stored_read(hd_stored_list *out, const char *text, size_t n_text, const float *values, size_t n_values, const char *format,
                         hd_has_dtype *has, hd_error *err) {
  *out = (hd_stored_list){0};
  HD_TRY(hd_json_parse(&out->json, text, n_text, err));
  hd_status status = read_list(out, true, format, has, err);
  if (status == HD_OK) status = share_values(out->tensors, out->n, values, n_values, err);
  if (status != HD_OK) hd_stored_free(out);
  return status;
}

hd_status hd_stored_declare(hd_stored_list *out, const char *text, size_t n_text, const char *format, hd_has_dtype *has, hd_error *err) {
  *out = (hd_stored_list){0};
  HD_TRY(hd_json_parse(&out->json, text, n_text, err));
  hd_status status = read_list(out, false, format, has, err);
  if (status != HD_OK) hd_stored_free(out);
  return status;
}
