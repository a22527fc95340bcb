/* model.c: whole models: from a bundle, from a spec with fresh weights, and what may be asked of one. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/bundle.h"
#include "graph/graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- Fresh weights ---- */

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

/* What Loom's BuildNetworkFromJSON and InitializeWeights draw (shared/formats/loom.md, section d), by how a field's name begins; the first
 * row that fits counts. Values are scale / fan_in^power times a number from −1 … 1, from 0 … 1, or normal. Loom leaves a sequential's
 * layers and a gate at zero; here they are drawn like all others. */
typedef struct draw {
  const char *layer; /* NULL: any */
  const char *field;
  enum { DRAW_EVEN, DRAW_POSITIVE, DRAW_NORMAL, DRAW_ZERO } kind;
  double scale, power;
} draw;

static const draw draws[] = {
    {"conv1d", "kernel", DRAW_NORMAL, 1.4142135623730951, 0.5},
    {"conv1d", "conv_bias", DRAW_ZERO, 0, 0},
    {NULL, "kernel", DRAW_EVEN, 1, 1},
    {NULL, "biases", DRAW_POSITIVE, 0.01, 0},
    {NULL, "conv_bias", DRAW_POSITIVE, 0.01, 0},
    {NULL, "embedding_weights", DRAW_EVEN, 1, 0.5},
    {NULL, "q_weights", DRAW_EVEN, 0.1, 0}, {NULL, "k_weights", DRAW_EVEN, 0.1, 0}, {NULL, "v_weights", DRAW_EVEN, 0.1, 0},
    {NULL, "output_weight", DRAW_EVEN, 0.1, 0},
    {NULL, "weight_", DRAW_EVEN, 0.1, 0}, /* rnn, lstm */
    {NULL, "gate_weights", DRAW_EVEN, 0.1, 0}, {NULL, "up_weights", DRAW_EVEN, 0.1, 0}, {NULL, "down_weights", DRAW_EVEN, 0.1, 0},
};

static const draw *loom_draw(const hd_parameter *p) {
  bool in_out;
  const char *field = hd_parameter_field(p, HD_LOOM, &in_out);
  for (size_t i = 0; i < sizeof draws / sizeof *draws; i++) {
    if (draws[i].layer && strcmp(draws[i].layer, p->owner->layer->name) != 0) continue;
    if (strncmp(draws[i].field, field, strlen(draws[i].field)) == 0) return &draws[i];
  }
  return NULL;
}

static double normal(uint64_t *state) { return sqrt(-2 * log(uniform(state))) * cos(6.283185307179586 * uniform(state)); }

static hd_status initialise_as(hd_parameter *p, const draw *d, uint64_t *state, hd_error *err) {
  HD_TRY(hd_parameter_allocate(p, HD_F32, err));
  float *values = p->value.data;
  double scale = d->scale / pow((double)p->slot.shape[p->slot.n_dims - 1], d->power);
  for (size_t i = 0, n = hd_parameter_count(p); i < n; i++) {
    double x = d->kind == DRAW_ZERO ? 0 : d->kind == DRAW_NORMAL ? normal(state) : uniform(state);
    values[i] = (float)(scale * (d->kind == DRAW_EVEN ? 2 * x - 1 : x));
  }
  p->filled = true;
  return HD_OK;
}

/* ---- From a bundle ---- */

/* The weight with zeros where the file's numbers end; what it has too many of is not read. */
static hd_status set_padded(hd_parameter *p, const float *values, size_t have, bool in_out, hd_error *err) {
  size_t want = hd_parameter_count(p);
  float *padded = hd_alloc_zero(want * sizeof *padded);
  if (!padded) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for weight %s", p->name);
  if (have) memcpy(padded, values, (have < want ? have : want) * sizeof *padded);
  hd_status status = hd_parameter_set(p, padded, in_out, err);
  hd_free(padded);
  return status;
}

/* A form that has no place for a field of Loom's may still have it: it is read from where the other form keeps it. */
static const char *bundle_field(const hd_parameter *p, const hd_bundle *bundle, hd_dialect dialect, bool *in_out) {
  const char *field = hd_parameter_field(p, dialect, in_out);
  const char *here = hd_bundle_field(field, bundle->form);
  return here ? here : field;
}

/* An odd number of 4-bit codes fills its last byte and reads back as one more. */
static size_t without_filler(const hd_bundle *bundle, size_t have, size_t want) {
  bool halves = bundle->precision && bundle->precision->bits == 4;
  return halves && want % 2 == 1 && have == want + 1 ? want : have;
}

static hd_status fill_from_bundle(hd_parameter *p, const hd_bundle *bundle, hd_dialect dialect, hd_error *err) {
  bool in_out;
  char name[2048], room[HD_NAME_ROOM];
  snprintf(name, sizeof name, "%s%s", p->owner->bundle, bundle_field(p, bundle, dialect, &in_out));
  const hd_bundle_tensor *tensor = hd_bundle_find(bundle, name);
  size_t want = hd_parameter_count(p), have = without_filler(bundle, tensor ? tensor->n : 0, want);
  uint64_t seed = 1; /* of what Loom draws when it is not there: every load draws the same */
  if (dialect == HD_LOOM && have == 0 && p->slot.lack == HD_LACK_INIT) return initialise(p, &seed, err);
  if (dialect == HD_LOOM && have == 0 && p->slot.optional) return HD_OK;
  HD_TRY(hd_parameter_allocate(p, HD_F32, err));
  if (have == want) return hd_parameter_set(p, tensor->values, in_out, err);
  if (dialect == HD_LOOM && p->slot.lack == HD_LACK_PADDED) return set_padded(p, tensor ? tensor->values : NULL, have, in_out, err);
  char shape[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_FILE, "weights.%s: expected %zu numbers for shape %s, found %zu", hd_short_name(room, name), want,
                 hd_shape_text(shape, p->slot.n_dims, p->slot.shape), have);
}

static hd_status keep_origin(hd_model *model, const hd_bundle *bundle, hd_error *err) {
  model->stored_dtype = bundle->precision ? bundle->precision->name : bundle->affine ? bundle->affine->name : "float32";
  model->bundle_version = bundle->version;
  model->bundle_extra = hd_arena_text(&model->arena, bundle->extra);
  model->bundle_model_extra = hd_arena_text(&model->arena, bundle->model_extra);
  if (model->bundle_extra && model->bundle_model_extra) return HD_OK;
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the bundle's metadata");
}

static hd_status build_from_bundle(hd_model *model, hd_bundle *bundle, hd_error *err) {
  cJSON *cfg = bundle->cfg;
  HD_TRY(keep_origin(model, bundle, err));
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

/* ---- From a spec ---- */

hd_status hd_model_build(hd_model **out, const char *text, size_t n, uint64_t seed, hd_error *err) {
  *out = NULL;
  cJSON *json = NULL;
  HD_TRY(hd_json_parse(&json, text, n, err));
  hd_model *model = hd_model_new();
  if (!model) {
    cJSON_Delete(json);
    return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the model");
  }
  hd_status status = hd_builder_translate(json, "network", err);
  if (status == HD_OK) status = hd_network_parse(model, json, "network", err);
  else cJSON_Delete(json);
  if (status == HD_OK) status = hd_graph_expand(model, err);
  for (size_t i = 0; i < model->n_parameters && status == HD_OK; i++) {
    hd_parameter *p = &model->parameters[i];
    const draw *loom = model->dialect == HD_LOOM ? loom_draw(p) : NULL;
    status = loom ? initialise_as(p, loom, &seed, err) : initialise(p, &seed, err);
  }
  if (status == HD_OK) *out = model;
  else hd_model_discard(model);
  return status;
}

/* ---- What may be asked ---- */

hd_status hd_model_free(hd_model *model, hd_error *err) {
  if (model && model->n_sessions)
    return hd_fail(err, HD_BAD_STATE, "the model has %zu open sessions; free them first", model->n_sessions);
  hd_model_discard(model);
  return HD_OK;
}

static void add_shape(cJSON *json, const char *key, int n_dims, const size_t *shape) {
  double sizes[HD_MAX_DIMS];
  for (int d = 0; d < n_dims; d++) sizes[d] = (double)shape[d];
  cJSON *list = cJSON_CreateDoubleArray(sizes, n_dims);
  if (!cJSON_AddItemToObject(json, key, list)) cJSON_Delete(list);
}

/* Appends an object that is the list's; NULL when out of memory. */
static cJSON *add_object(cJSON *list) {
  cJSON *object = cJSON_CreateObject();
  if (object && list && cJSON_AddItemToArray(list, object)) return object;
  cJSON_Delete(object);
  return NULL;
}

static bool add_weight(cJSON *list, const hd_piece *piece, hd_arena *names) {
  const hd_parameter *p = piece->parameter;
  const char *name = hd_piece_name(names, piece);
  cJSON *w = name ? add_object(list) : NULL;
  size_t bytes = 0, shape[HD_MAX_DIMS];
  if (!w) return false;
  if (!p->value.layout->bytes(p->slot.matrix ? piece->rows : 1, p->value.cols, &bytes)) bytes = 0;
  hd_piece_shape(piece, shape);
  cJSON_AddStringToObject(w, "name", name);
  add_shape(w, "shape", p->slot.n_dims, shape);
  if (p->slot.in_out) cJSON_AddBoolToObject(w, "inOut", true);
  cJSON_AddStringToObject(w, "dtype", hd_dtype_name(p->value.layout->dtype));
  cJSON_AddStringToObject(w, "layout", p->value.layout->name);
  cJSON_AddNumberToObject(w, "bytes", (double)bytes);
  if (p->file_dtype == HD_DTYPE_COUNT) return true;
  cJSON_AddStringToObject(w, "fileDtype", hd_dtype_name(p->file_dtype));
  if (p->packing) cJSON_AddStringToObject(w, "packing", p->packing);
  cJSON_AddBoolToObject(w, "lossy", p->lossy);
  if (p->reason) cJSON_AddStringToObject(w, "reason", p->reason);
  return true;
}

/* The weights as files have them; false when out of memory. */
static bool add_weights(cJSON *json, const hd_model *model) {
  cJSON *weights = cJSON_AddArrayToObject(json, "weights");
  hd_arena names = {0};
  bool all = weights != NULL;
  for (size_t i = 0; i < model->n_parameters && all; i++) {
    const hd_parameter *p = &model->parameters[i];
    for (size_t k = 0; k < hd_piece_number(p) && p->value.data && all; k++) {
      const hd_piece piece = hd_piece_at(p, k);
      all = add_weight(weights, &piece, &names);
    }
  }
  hd_arena_free(&names);
  return all;
}

size_t hd_model_max_context(const hd_model *model) { return model->max_context; }

hd_status hd_model_describe(char **out, const hd_model *model, hd_error *err) {
  *out = NULL;
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "family", model->family);
  cJSON_AddStringToObject(json, "dialect", model->dialect == HD_LOOM ? "loom" : "standard");
  if (model->stored_dtype) cJSON_AddStringToObject(json, "storedDtype", model->stored_dtype);
  cJSON_AddNumberToObject(json, "batchSize", (double)model->batch);
  cJSON_AddNumberToObject(json, "maxContext", (double)model->max_context);
  cJSON_AddStringToObject(json, "inputDtype", hd_dtype_name(model->input.dtype));
  add_shape(json, "inputShape", model->input.n_dims, model->input.dim);
  cJSON *warnings = cJSON_AddArrayToObject(json, "warnings");
  for (size_t i = 0; i < model->n_warnings; i++) {
    cJSON *warning = cJSON_CreateString(model->warnings[i]);
    if (!cJSON_AddItemToArray(warnings, warning)) cJSON_Delete(warning);
  }
  cJSON *layers = cJSON_AddArrayToObject(json, "layers");
  for (size_t i = 0; i < model->n_nodes; i++) {
    cJSON *layer = add_object(layers);
    cJSON_AddStringToObject(layer, "name", model->nodes[i].name);
    cJSON_AddStringToObject(layer, "type", model->nodes[i].layer->name);
  }
  hd_text text = {0};
  text.failed = !add_weights(json, model);
  hd_text_json(&text, json, HD_TEXT_ONE_LINE);
  cJSON_Delete(json);
  if (!text.failed) *out = text.data;
  else hd_free(text.data);
  return text.failed ? hd_fail(err, HD_OUT_OF_MEMORY, "no memory to describe the model") : HD_OK;
}

/* The weight of that name and its element count, checked against n. */
static hd_status find(hd_piece *out, const hd_model *model, const char *name, size_t n, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (!hd_piece_find(out, model, name) || !out->parameter->value.data)
    return hd_fail(err, HD_BAD_ARGUMENT, "there is no weight %s", hd_short_name(room, name));
  size_t count = hd_piece_count(out);
  if (n != count) return hd_fail(err, HD_BAD_ARGUMENT, "weight %s: expected %zu values, found %zu", hd_short_name(room, name), count, n);
  return HD_OK;
}

hd_status hd_model_read_weight(const hd_model *model, const char *name, float *values, size_t n, hd_error *err) {
  hd_piece piece;
  HD_TRY(find(&piece, model, name, n, err));
  return hd_piece_get(&piece, values, false, err);
}

hd_status hd_model_write_weight(hd_model *model, const char *name, const float *values, size_t n, hd_error *err) {
  hd_piece piece;
  if (model->n_sessions) return hd_fail(err, HD_BAD_STATE, "weights are fixed while sessions are open");
  HD_TRY(find(&piece, model, name, n, err));
  HD_TRY(hd_piece_set(&piece, values, false, err));
  hd_parameter *p = &model->parameters[piece.parameter - model->parameters];
  hd_matrix_settle(&p->value);
  p->n_sets++;
  return HD_OK;
}
