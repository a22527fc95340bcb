/* model.c: whole models: from a bundle, from a spec with fresh weights, back into a bundle, and what may be asked of one. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/bundle.h"
#include "graph/graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- From a bundle ---- */

static hd_status fill_from_bundle(hd_parameter *p, const hd_bundle *bundle, hd_dialect dialect, hd_error *err) {
  bool in_out;
  char name[2048], room[HD_NAME_ROOM];
  snprintf(name, sizeof name, "%s%s", p->owner->bundle, hd_parameter_field(p, dialect, &in_out));
  const hd_bundle_tensor *tensor = hd_bundle_find(bundle, name);
  size_t want = hd_parameter_count(p), have = tensor ? tensor->n : 0;
  HD_TRY(hd_parameter_allocate(p, HD_F32, err));
  if (have == want) return hd_parameter_set(p, tensor->values, in_out, err);
  /* Loom pads a short or missing kernel with zeros at run time; to a reader that is a file with holes. */
  if (dialect == HD_LOOM && have == 0) {
    p->filled = true;
    return HD_OK;
  }
  char shape[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_FILE, "weights.%s: expected %zu numbers for shape %s, found %zu", hd_short_name(room, name), want,
                 hd_shape_text(shape, p->slot.n_dims, p->slot.shape), have);
}

static hd_status build_from_bundle(hd_model *model, hd_bundle *bundle, hd_error *err) {
  cJSON *cfg = bundle->cfg;
  bundle->cfg = NULL;
  HD_TRY(hd_network_parse(model, cfg, "cfg", err));
  HD_TRY(hd_graph_expand(model, err));
  for (size_t i = 0; i < model->n_parameters; i++) HD_TRY(fill_from_bundle(&model->parameters[i], bundle, model->dialect, err));
  return HD_OK;
}

hd_status hd_model_load_bundle(hd_model **out, const char *text, size_t n, const char *id, hd_error *err) {
  *out = NULL;
  hd_bundle *bundle = NULL;
  HD_TRY(hd_bundle_read(&bundle, text, n, id, err));
  hd_model *model = hd_model_new();
  hd_status status = model ? build_from_bundle(model, bundle, err) : hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the model");
  hd_bundle_free(bundle);
  if (status == HD_OK) *out = model;
  else hd_model_discard(model);
  return status;
}

/* ---- From a spec, with fresh weights ---- */

/* SplitMix64 (Steele, Lea and Flood, 2014): small, seedable with anything, the same everywhere. */
static uint64_t next_random(uint64_t *state) {
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static double uniform(uint64_t *state) { return ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53; }

static double initial_value(const hd_slot *slot, uint64_t *state) {
  switch (slot->init) {
    case HD_INIT_ONE: return 1;
    case HD_INIT_UNIFORM_FAN_IN: return (2 * uniform(state) - 1) * (double)slot->init_scale / sqrt((double)slot->shape[slot->n_dims - 1]);
    case HD_INIT_NORMAL: return (double)slot->init_scale * sqrt(-2 * log(uniform(state))) * cos(6.283185307179586 * uniform(state));
    case HD_INIT_ZERO: break;
  }
  return 0;
}

static hd_status initialise(hd_parameter *p, uint64_t *state, hd_error *err) {
  HD_TRY(hd_parameter_allocate(p, HD_F32, err));
  float *values = p->value.data;
  for (size_t i = 0, n = hd_parameter_count(p); i < n; i++) values[i] = (float)initial_value(&p->slot, state);
  p->filled = true;
  return HD_OK;
}

hd_status hd_model_build(hd_model **out, const char *text, size_t n, uint64_t seed, hd_error *err) {
  *out = NULL;
  cJSON *json = NULL;
  HD_TRY(hd_json_parse(&json, text, n, err));
  hd_model *model = hd_model_new();
  if (!model) {
    cJSON_Delete(json);
    return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the model");
  }
  hd_status status = hd_network_parse(model, json, "network", err);
  if (status == HD_OK) status = hd_graph_expand(model, err);
  for (size_t i = 0; i < model->n_parameters && status == HD_OK; i++) status = initialise(&model->parameters[i], &seed, err);
  if (status == HD_OK) *out = model;
  else hd_model_discard(model);
  return status;
}

/* ---- Into a bundle ---- */

static hd_status write_numbers(hd_text *t, const hd_parameter *p, bool in_out, hd_error *err) {
  size_t n = hd_parameter_count(p);
  float *values = hd_alloc(n * sizeof *values);
  if (!values) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save weight %s", p->name);
  hd_status status = hd_parameter_get(p, values, in_out, err);
  char room[HD_NAME_ROOM];
  hd_text_add(t, "[", 1);
  for (size_t i = 0; i < n && status == HD_OK; i++) {
    if (!isfinite(values[i]))
      status = hd_fail(err, HD_UNSUPPORTED, "weight %s: value %zu is not finite, JSON cannot hold it", hd_short_name(room, p->name), i);
    if (i) hd_text_add(t, ",", 1);
    hd_text_float(t, values[i]);
  }
  hd_text_add(t, "]", 1);
  hd_free(values);
  return status;
}

/* Fields in alphabetical order, as Loom's JSON writer leaves them: NULL when there is none after `previous`. */
static const hd_parameter *next_field(const hd_model *m, const hd_spec *spec, const char *previous) {
  const hd_parameter *best = NULL;
  const char *best_field = NULL;
  for (size_t i = 0; i < m->n_parameters; i++) {
    const hd_parameter *p = &m->parameters[i];
    bool in_out;
    if (p->owner != spec || !p->value.data) continue;
    const char *field = hd_parameter_field(p, m->dialect, &in_out);
    if (previous && strcmp(field, previous) <= 0) continue;
    if (!best || strcmp(field, best_field) < 0) {
      best = p;
      best_field = field;
    }
  }
  return best;
}

static hd_status write_layer_weights(hd_text *t, const hd_model *m, const hd_spec *spec, hd_error *err) {
  hd_text_add(t, "{", 1);
  const char *previous = NULL;
  if (spec->n_children) {
    hd_text_print(t, "\"branch_weights\":[");
    for (size_t i = 0; i < spec->n_children; i++) {
      if (i) hd_text_add(t, ",", 1);
      HD_TRY(write_layer_weights(t, m, spec->children[i], err));
    }
    hd_text_add(t, "]", 1);
  }
  for (const hd_parameter *p; (p = next_field(m, spec, previous)) != NULL;) {
    bool in_out;
    const char *field = hd_parameter_field(p, m->dialect, &in_out);
    hd_text_print(t, "%s\"%s\":", previous || spec->n_children ? "," : "", field);
    HD_TRY(write_numbers(t, p, in_out, err));
    previous = field;
  }
  hd_text_add(t, "}", 1);
  return HD_OK;
}

static hd_status write_weights(hd_text *t, const hd_model *m, hd_error *err) {
  hd_text_print(t, "{\"type\":\"float32\",\"dtype\":\"\",\"layers\":[");
  for (size_t i = 0; i < m->n_specs; i++) {
    if (i) hd_text_add(t, ",", 1);
    HD_TRY(write_layer_weights(t, m, m->specs[i], err));
  }
  hd_text_print(t, "]}");
  return t->failed ? hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save the weights") : HD_OK;
}

hd_status hd_model_save_bundle(char **text, size_t *n, const hd_model *model, const char *id, hd_error *err) {
  *text = NULL;
  *n = 0;
  cJSON *cfg = NULL;
  hd_text weights = {0};
  hd_status status = hd_network_write(&cfg, model, id, err);
  if (status == HD_OK) status = write_weights(&weights, model, err);
  if (status == HD_OK) status = hd_bundle_write(text, n, id, cfg, weights.data, weights.n, err);
  hd_free(weights.data);
  cJSON_Delete(cfg);
  return status;
}

void hd_text_free(char *text) { hd_free(text); }

/* ---- What may be asked ---- */

hd_status hd_model_free(hd_model *model, hd_error *err) {
  if (model && model->n_sessions)
    return hd_fail(err, HD_BAD_STATE, "the model has %zu open sessions; free them first", model->n_sessions);
  hd_model_discard(model);
  return HD_OK;
}

static cJSON *shape_json(int n_dims, const size_t *shape) {
  cJSON *list = cJSON_CreateArray();
  for (int d = 0; d < n_dims; d++) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)shape[d]));
  return list;
}

static cJSON *weight_json(const hd_parameter *p) {
  cJSON *w = cJSON_CreateObject();
  size_t bytes = 0;
  if (!p->value.layout->bytes(p->value.rows, p->value.cols, &bytes)) bytes = 0;
  cJSON_AddStringToObject(w, "name", p->name);
  cJSON_AddItemToObject(w, "shape", shape_json(p->slot.n_dims, p->slot.shape));
  cJSON_AddStringToObject(w, "dtype", hd_dtype_name(p->value.layout->dtype));
  cJSON_AddStringToObject(w, "layout", p->value.layout->name);
  cJSON_AddNumberToObject(w, "bytes", (double)bytes);
  return w;
}

hd_status hd_model_describe(char **out, const hd_model *model, hd_error *err) {
  *out = NULL;
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "family", model->family);
  cJSON_AddStringToObject(json, "dialect", model->dialect == HD_LOOM ? "loom" : "standard");
  cJSON_AddNumberToObject(json, "batchSize", (double)model->batch);
  cJSON_AddNumberToObject(json, "maxContext", (double)model->max_context);
  cJSON_AddStringToObject(json, "inputDtype", hd_dtype_name(model->input.dtype));
  cJSON_AddItemToObject(json, "inputShape", shape_json(model->input.n_dims, model->input.dim));
  cJSON *layers = cJSON_AddArrayToObject(json, "layers");
  for (size_t i = 0; i < model->n_nodes; i++) {
    cJSON *layer = cJSON_CreateObject();
    cJSON_AddStringToObject(layer, "name", model->nodes[i].name);
    cJSON_AddStringToObject(layer, "type", model->nodes[i].layer->name);
    cJSON_AddItemToArray(layers, layer);
  }
  cJSON *weights = cJSON_AddArrayToObject(json, "weights");
  for (size_t i = 0; i < model->n_parameters; i++)
    if (model->parameters[i].value.data) cJSON_AddItemToArray(weights, weight_json(&model->parameters[i]));
  char *text = cJSON_PrintUnformatted(json);
  cJSON_Delete(json);
  if (!text) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to describe the model");
  *out = text;
  return HD_OK;
}

/* The parameter of that name and its element count, checked against n. */
static hd_status find(const hd_model *model, const char *name, size_t n, hd_parameter **out, hd_error *err) {
  char room[HD_NAME_ROOM];
  int index = hd_parameter_find(model, name);
  if (index < 0 || !model->parameters[index].value.data) return hd_fail(err, HD_BAD_ARGUMENT, "there is no weight %s", hd_short_name(room, name));
  hd_parameter *p = &model->parameters[index];
  size_t count = hd_parameter_count(p);
  if (n != count) return hd_fail(err, HD_BAD_ARGUMENT, "weight %s: expected %zu values, found %zu", hd_short_name(room, name), count, n);
  *out = p;
  return HD_OK;
}

hd_status hd_model_read_weight(const hd_model *model, const char *name, float *values, size_t n, hd_error *err) {
  hd_parameter *p;
  HD_TRY(find(model, name, n, &p, err));
  return hd_parameter_get(p, values, false, err);
}

hd_status hd_model_write_weight(hd_model *model, const char *name, const float *values, size_t n, hd_error *err) {
  hd_parameter *p;
  if (model->n_sessions) return hd_fail(err, HD_BAD_STATE, "weights are fixed while sessions are open");
  HD_TRY(find(model, name, n, &p, err));
  return hd_parameter_set(p, values, false, err);
}
