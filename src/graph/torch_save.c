/* torch_save.c: a model as a PyTorch file: its state dict, alone or where a checkpoint's JSON says. */
#include "base/base64.h"
#include "base/dtype.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/torch_write.h"
#include "graph/graph.h"

#include <string.h>

/* A tensor of the file: a weight, or values that the JSON has. */
typedef struct source {
  hd_piece weight;     /* parameter NULL: values */
  const cJSON *values;
} source;

typedef struct saving {
  const hd_model *model;
  hd_dtype dtype;
  hd_torch_writer writer;
  hd_arena arena;
  bool has_weights;
  cJSON *json; /* of the checkpoint, whose values are written last */
  hd_error *err;
} saving;

static hd_status add_tensor(saving *s, hd_stored *tensor, source from) {
  source *kept = hd_arena_alloc(&s->arena, sizeof *kept);
  if (!kept) return hd_fail(s->err, HD_OUT_OF_MEMORY, "no memory to save a PyTorch file");
  *kept = from;
  tensor->from = kept;
  hd_torch_write_tensor(&s->writer, tensor);
  return HD_OK;
}

static hd_status add_piece(saving *s, const hd_piece *piece) {
  const hd_parameter *p = piece->parameter;
  hd_stored tensor = {.dtype = s->dtype, .n_dims = p->slot.n_dims};
  const char *name = hd_piece_name(&s->arena, piece);
  if (!name) return hd_fail(s->err, HD_OUT_OF_MEMORY, "no memory for the names of weights");
  hd_piece_file_shape(piece, tensor.shape);
  hd_torch_write_text(&s->writer, name);
  return add_tensor(s, &tensor, (source){.weight = *piece});
}

static hd_status add_state_dict(saving *s) {
  hd_torch_begin_dict(&s->writer);
  for (size_t i = 0; i < s->model->n_parameters; i++) {
    const hd_parameter *p = &s->model->parameters[i];
    for (size_t k = 0; k < hd_piece_number(p) && p->value.data; k++) {
      const hd_piece piece = hd_piece_at(p, k);
      HD_TRY(add_piece(s, &piece));
    }
  }
  hd_torch_end_dict(&s->writer);
  s->has_weights = true;
  return HD_OK;
}

/* ---- What a checkpoint has besides ---- */

/* {"$tensor": "F32", "shape": [2, 3], "values": Base64 of the bytes} */
static hd_status add_values(saving *s, const hd_json *j) {
  const char *name = hd_json_get_text(j, "$tensor", ""), *values = hd_json_get_text(j, "values", "");
  hd_stored tensor = {.dtype = hd_dtype_find(name, strlen(name))};
  size_t count = 0, bytes = 0, n = hd_json_count(j, "shape");
  if (*j->status != HD_OK) return *j->status;
  if (!hd_torch_can_write(tensor.dtype))
    hd_json_refuse(j, "$tensor", HD_BAD_ARGUMENT, "expected a dtype that PyTorch has a storage of, found \"%.40s\"", name);
  if (n > HD_MAX_DIMS) hd_json_refuse(j, "shape", HD_BAD_ARGUMENT, "expected at most %d dimensions", HD_MAX_DIMS);
  if (*j->status != HD_OK) return *j->status;
  hd_json shape = hd_json_member(j, "shape");
  for (; tensor.n_dims < (int)n; tensor.n_dims++) {
    const cJSON *size = hd_json_item(&shape, (size_t)tensor.n_dims).node;
    if (!hd_json_is_size(size, 0, UINT32_MAX, &tensor.shape[tensor.n_dims]))
      hd_json_refuse(j, "shape", HD_BAD_ARGUMENT, "expected whole sizes");
  }
  if (*j->status == HD_OK && (!hd_shape_count(tensor.n_dims, tensor.shape, &count) || !hd_dtype_bytes(tensor.dtype, count, &bytes)
                              || hd_base64_encoded_size(bytes) != strlen(values)))
    hd_json_refuse(j, "values", HD_BAD_ARGUMENT, "expected the Base64 of as many bytes as the shape says");
  if (*j->status != HD_OK) return *j->status;
  return add_tensor(s, &tensor, (source){.values = hd_json_member(j, "values").node});
}

static hd_status add_node(saving *s, const hd_json *j);

/* PyTorch's optimizer states are kept by number: a key of digits is one. */
static void add_key(saving *s, const char *key) {
  size_t n = strlen(key);
  int64_t number = 0;
  bool digits = n > 0 && n < 10 && strspn(key, "0123456789") == n && (key[0] != '0' || n == 1);
  for (size_t i = 0; digits && i < n; i++) number = number * 10 + (key[i] - '0');
  if (digits) hd_torch_write_int(&s->writer, number);
  else hd_torch_write_text(&s->writer, key);
}

static hd_status add_object(saving *s, const hd_json *j) {
  if (hd_json_has(j, "$weights")) return add_state_dict(s);
  if (hd_json_has(j, "$tensor")) return add_values(s, j);
  hd_torch_begin_dict(&s->writer);
  for (const cJSON *item = j->node->child; item; item = item->next) {
    const hd_json member = hd_json_member(j, item->string);
    add_key(s, item->string);
    HD_TRY(add_node(s, &member));
  }
  hd_torch_end_dict(&s->writer);
  return HD_OK;
}

static hd_status add_array(saving *s, const hd_json *j) {
  hd_json list = *j;
  size_t i = 0;
  hd_torch_begin_list(&s->writer);
  for (const cJSON *item = j->node->child; item; item = item->next) {
    const hd_json each = hd_json_item(&list, i++);
    HD_TRY(add_node(s, &each));
  }
  hd_torch_end_list(&s->writer);
  return HD_OK;
}

/* Whole numbers are integers, as JavaScript writes them. */
static void add_number(saving *s, double number) {
  bool whole = number >= -0x1p53 && number <= 0x1p53 && number == (double)(int64_t)number;
  if (whole) hd_torch_write_int(&s->writer, (int64_t)number);
  else hd_torch_write_real(&s->writer, number);
}

static hd_status add_node(saving *s, const hd_json *j) {
  const cJSON *node = j->node;
  if (cJSON_IsObject(node)) return add_object(s, j);
  if (cJSON_IsArray(node)) return add_array(s, j);
  if (cJSON_IsString(node)) hd_torch_write_text(&s->writer, node->valuestring);
  else if (cJSON_IsNumber(node)) add_number(s, node->valuedouble);
  else if (cJSON_IsBool(node)) hd_torch_write_bool(&s->writer, cJSON_IsTrue(node));
  else hd_torch_write_none(&s->writer);
  return HD_OK;
}

static hd_status add_checkpoint(saving *s, const char *text, size_t n) {
  cJSON *json = NULL;
  hd_status status = HD_OK;
  HD_TRY(hd_json_parse(&json, text, n, s->err));
  hd_json root = hd_json_root(json, "checkpoint", &status, s->err);
  hd_status added = add_node(s, &root);
  if (status == HD_OK) status = added;
  if (status == HD_OK && !s->has_weights)
    status = hd_fail(s->err, HD_BAD_ARGUMENT, "checkpoint: expected {\"$weights\": true} where the model's weights go");
  if (status != HD_OK) cJSON_Delete(json);
  else s->json = json;
  return status;
}

/* ---- Bytes ---- */

static hd_status write_weight(const hd_piece *piece, hd_dtype dtype, uint8_t *to, hd_error *err) {
  size_t n = hd_piece_count(piece);
  float *values = hd_alloc(n * sizeof *values);
  if (!values) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save weight %s", piece->parameter->name);
  hd_status status = hd_piece_get(piece, values, piece->parameter->slot.in_out, err);
  if (status == HD_OK) hd_dtype_get(dtype)->from_f32(values, to, n);
  hd_free(values);
  return status;
}

static hd_status write_values(const cJSON *values, uint8_t *to, hd_error *err) {
  size_t n = strlen(values->valuestring), n_bytes;
  uint8_t *bytes = hd_alloc(hd_base64_decoded_max(n));
  if (!bytes) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save a tensor");
  hd_status status = hd_base64_decode(values->valuestring, n, bytes, &n_bytes, err);
  if (status == HD_OK) memcpy(to, bytes, n_bytes);
  hd_free(bytes);
  return status;
}

static hd_status write_file(saving *s, uint8_t **bytes, size_t *n) {
  uint8_t *file;
  HD_TRY(hd_torch_start(&file, n, &s->writer, s->err));
  hd_status status = HD_OK;
  for (size_t i = 0; i < s->writer.n_tensors && status == HD_OK; i++) {
    const hd_stored *t = &s->writer.tensors[i];
    const source *from = t->from;
    status = from->weight.parameter ? write_weight(&from->weight, t->dtype, file + t->begin, s->err)
                                    : write_values(from->values, file + t->begin, s->err);
  }
  if (status == HD_OK) hd_torch_seal(&s->writer, file);
  if (status == HD_OK) *bytes = file;
  else hd_free(file);
  return status;
}

hd_status hd_model_save_torch(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype,
                              const char *checkpoint, size_t n_checkpoint, hd_error *err) {
  *bytes = NULL;
  *n = 0;
  if (dtype != HD_F32 && dtype != HD_F64 && dtype != HD_F16 && dtype != HD_BF16)
    return hd_fail(err, HD_BAD_ARGUMENT, "PyTorch files have weights as F32, F64, F16 or BF16, not as %s", hd_dtype_name(dtype));
  if (model->dialect == HD_LOOM)
    return hd_fail(err, HD_UNSUPPORTED, "networks of the loom dialect have no PyTorch names: save SafeTensors");
  saving s = {.model = model, .dtype = dtype, .err = err};
  hd_torch_writer_start(&s.writer);
  hd_status status = checkpoint ? add_checkpoint(&s, checkpoint, n_checkpoint) : add_state_dict(&s);
  if (status == HD_OK) status = write_file(&s, bytes, n);
  if (status != HD_OK) *n = 0;
  cJSON_Delete(s.json);
  hd_torch_writer_free(&s.writer);
  hd_arena_free(&s.arena);
  return status;
}
