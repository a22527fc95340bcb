/* gguf_save.c: a model as a GGUF file: gguf.c the other way around. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/gguf.h"

#include <string.h>

typedef struct saving {
  const hd_model *model;
  hd_dtype dtype;
  hd_gguf_names names;
  hd_directory *given; /* the keys of the caller's metadata */
  hd_text metadata;
  hd_arena arena;
  hd_stored *tensors; /* `from`: the parameter; NULL: rotary factors, which come last */
  hd_gguf_factors factors[HD_GGUF_MOST_FACTORS];
  size_t n_factors;
  hd_gguf_order *orders;
  size_t n;
} saving;

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save the model as GGUF"); }

/* ---- Metadata ---- */

static hd_status read_keys(hd_directory *given, const char *metadata, size_t n_metadata, hd_error *err) {
  hd_json_reader r = hd_json_open(metadata, n_metadata, "metadata", err);
  char *key;
  size_t n;
  hd_json_enter_object(&r);
  while (hd_json_next_key(&r, &key, &n)) {
    if (hd_json_skip(&r, NULL, NULL)) r.status = hd_directory_append_metadata(given, key, "", err);
    hd_free(key);
  }
  hd_json_finish(&r);
  return r.status;
}

/* llama.cpp's number for what most of a file is. */
static int file_type(hd_dtype dtype) {
  static const struct { hd_dtype dtype; int number; } types[] = {{HD_F32, 0}, {HD_F16, 1}, {HD_Q4_0, 2}, {HD_Q8_0, 7}, {HD_BF16, 32}};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++)
    if (types[i].dtype == dtype) return types[i].number;
  return -1;
}

/* The caller's object with the config's pairs behind its own. */
static hd_status write_metadata(saving *s, const hd_json *config, const char *metadata, size_t n_metadata, hd_error *err) {
  if (metadata) HD_TRY(read_keys(s->given, metadata, n_metadata, err));
  size_t end = n_metadata;
  while (metadata && end > 0 && metadata[end - 1] != '}') end--;
  hd_text pairs = {0};
  hd_status status = hd_gguf_write_config(&pairs, &s->names, config, s->given, err);
  if (!hd_directory_value(s->given, "general.file_type")) hd_text_print(&pairs, ",\"general.file_type\":%d", file_type(s->dtype));
  if (hd_dtype_get(s->dtype)->block_values > 1 && !hd_directory_value(s->given, "general.quantization_version"))
    hd_text_print(&pairs, ",\"general.quantization_version\":2");
  const char *key, *value;
  size_t comma = hd_directory_metadata(s->given, 0, &key, &value) ? 0 : 1; /* of the first pair: nothing comes before it */
  if (metadata) hd_text_add(&s->metadata, metadata, end - 1);
  else hd_text_add(&s->metadata, "{", 1);
  if (pairs.data) hd_text_add(&s->metadata, pairs.data + comma, pairs.n - comma);
  hd_text_add(&s->metadata, "}", 1);
  if (pairs.failed || s->metadata.failed) status = status == HD_OK ? no_memory(err) : status;
  hd_free(pairs.data);
  return status;
}

/* ---- Tensors ---- */

static hd_dtype dtype_of(const saving *s, const hd_parameter *p, const char *name, const hd_gguf_order *order) {
  if (!p->slot.matrix || order->exact) return HD_F32;
  bool eight = s->dtype == HD_Q4_0 && (strcmp(name, "token_embd.weight") == 0 || strcmp(name, "output.weight") == 0);
  hd_dtype dtype = eight ? HD_Q8_0 : s->dtype;
  return p->slot.shape[1] % hd_dtype_get(dtype)->block_values ? HD_F16 : dtype;
}

static hd_status add_tensor(saving *s, size_t parameter, hd_error *err) {
  const hd_parameter *p = &s->model->parameters[parameter];
  char room[HD_GGUF_NAME_ROOM], shown[HD_NAME_ROOM];
  if (!p->value.data) return HD_OK; /* an optional one that is not there */
  if (!hd_gguf_name(room, &s->orders[s->n], &s->names, s->model, parameter))
    return hd_fail(err, HD_UNSUPPORTED, "weight %s has no name in GGUF", hd_short_name(shown, p->name));
  if (!*room) return HD_OK; /* left out */
  size_t heads = s->orders[s->n].heads;
  if (heads && p->slot.shape[0] % (2 * heads))
    return hd_fail(err, HD_BAD_ARGUMENT, "config.json: %zu heads of an even size do not make the %zu rows of %s",
                   heads, p->slot.shape[0], hd_short_name(shown, p->name));
  hd_stored t = {.name = hd_arena_text(&s->arena, room), .dtype = dtype_of(s, p, room, &s->orders[s->n]), .from = p};
  if (p->slot.n_parts) t.shape[t.n_dims++] = p->slot.n_parts;
  for (int d = 0; d < p->slot.n_dims; d++)
    t.shape[t.n_dims++] = d || !p->slot.n_parts ? p->slot.shape[d] : p->slot.shape[0] / p->slot.n_parts;
  s->tensors[s->n++] = t;
  return t.name ? HD_OK : no_memory(err);
}

static hd_status add_factors(saving *s, const hd_json *config, hd_error *err) {
  HD_TRY(hd_gguf_rope_factors(s->factors, &s->n_factors, &s->arena, &s->names, config, err));
  for (size_t i = 0; i < s->n_factors; i++)
    s->tensors[s->n++] = (hd_stored){.name = s->factors[i].tensor, .dtype = HD_F32, .n_dims = 1, .shape = {s->factors[i].n}};
  return HD_OK;
}

/* The parameter's values as the file's dtype, in the parameter's own order of rows. */
static hd_status encode(const hd_stored *t, const hd_gguf_order *order, uint8_t *to, hd_error *err) {
  const hd_parameter *p = t->from;
  const hd_matrix *m = &p->value;
  if (p->slot.matrix && m->layout->dtype == t->dtype) {
    m->layout->unpack(m, 0, m->rows, to);
    return HD_OK;
  }
  size_t n = hd_parameter_count(p);
  float *values = hd_alloc(n * sizeof *values);
  if (!values) return no_memory(err);
  hd_status status = hd_parameter_get(p, values, false, err);
  for (size_t i = 0; order->plus_one && i < n; i++) values[i] += 1;
  if (status == HD_OK) hd_dtype_get(t->dtype)->from_f32(values, to, n);
  hd_free(values);
  return status;
}

static hd_status write_tensor(const saving *s, size_t index, uint8_t *to, hd_error *err) {
  const hd_stored *t = &s->tensors[index];
  const hd_gguf_order *order = &s->orders[index];
  size_t count, bytes = 0;
  if (!t->from) {
    hd_dtype_get(HD_F32)->from_f32(s->factors[index + s->n_factors - s->n].values, to, t->shape[0]);
    return HD_OK;
  }
  if (!order->heads) return encode(t, order, to, err);
  hd_shape_count(t->n_dims, t->shape, &count); /* hd_gguf_start has seen that it fits */
  hd_dtype_bytes(t->dtype, count, &bytes);
  uint8_t *halves = hd_alloc(bytes);
  hd_status status = halves ? encode(t, order, halves, err) : no_memory(err);
  if (status == HD_OK) hd_gguf_interleave_halves(to, halves, t->shape[0], t->shape[0] / order->heads, bytes / t->shape[0]);
  hd_free(halves);
  return status;
}

/* ---- The whole ---- */

static hd_status save(uint8_t **bytes, size_t *n, saving *s, const hd_json *config,
                      const char *metadata, size_t n_metadata, hd_error *err) {
  if (!s->given || !s->tensors || !s->orders) return no_memory(err);
  HD_TRY(hd_gguf_names_of_config(&s->names, config, err));
  HD_TRY(write_metadata(s, config, metadata, n_metadata, err));
  for (size_t i = 0; i < s->model->n_parameters; i++) HD_TRY(add_tensor(s, i, err));
  HD_TRY(add_factors(s, config, err));
  HD_TRY(hd_gguf_start(bytes, n, s->tensors, s->n, s->metadata.data, s->metadata.n, err));
  hd_status status = HD_OK;
  for (size_t i = 0; i < s->n && status == HD_OK; i++) status = write_tensor(s, i, *bytes + s->tensors[i].begin, err);
  if (status == HD_OK) return HD_OK;
  hd_free(*bytes);
  *bytes = NULL;
  *n = 0;
  return status;
}

static hd_status save_described(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype, const cJSON *json, const char *metadata,
                                size_t n_metadata, hd_error *err) {
  hd_status status = HD_OK;
  hd_json config = hd_json_root(json, "config.json", &status, err);
  saving s = {.model = model, .dtype = dtype, .given = hd_directory_new("GGUF", 0),
              .tensors = hd_alloc((model->n_parameters + HD_GGUF_MOST_FACTORS) * sizeof *s.tensors),
              .orders = hd_alloc_zero((model->n_parameters + HD_GGUF_MOST_FACTORS) * sizeof *s.orders)};
  status = save(bytes, n, &s, &config, metadata, n_metadata, err);
  hd_directory_free(s.given);
  hd_arena_free(&s.arena);
  hd_free(s.metadata.data);
  hd_free(s.orders);
  hd_free(s.tensors);
  return status;
}

hd_status hd_model_save_gguf(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype, const char *config, size_t n_config,
                             const char *metadata, size_t n_metadata, hd_error *err) {
  cJSON *json = NULL;
  *bytes = NULL;
  *n = 0;
  if (!hd_dtype_get(dtype) || file_type(dtype) < 0)
    return hd_fail(err, HD_BAD_ARGUMENT, "expected F32, F16, BF16, Q8_0 or Q4_0 for a GGUF file, found %s", hd_dtype_name(dtype));
  HD_TRY(hd_json_parse(&json, config, n_config, err));
  hd_status status = save_described(bytes, n, model, dtype, json, metadata, n_metadata, err);
  cJSON_Delete(json);
  return status;
}
