/* network_json.c: a network's JSON (a bundle's cfg, or a spec of the caller's own) ↔ declared layers.
 *
 *   { "dialect": "standard" | "loom",  "batch_size": n,  "grid_rows": r, "grid_cols": c, "layers_per_cell": l,
 *     "input_shape": [..], "input_dtype": "F32" | "I32", "context": n,
 *     "layers": [ { "type": .., "name"?: .., "weights"?: .., "branches"?: [..], … } ] }
 *
 * The grid only numbers layers: the network is one chain. Without "dialect" a bundle means Loom's arithmetic. "name" and "weights" are
 * ours: what the layer's values are called, and what its weights' names begin with. */
#include "base/status.h"
#include "graph/graph.h"

#include <stdio.h>
#include <string.h>

typedef struct reader {
  hd_model *model;
  size_t n_layers; /* so far, those inside others too */
  hd_status *status;
  hd_error *err;
} reader;

/* Recursion is as deep as the JSON, which base/json.h bounds. */
typedef struct spot {
  const char *name, *bundle; /* what the layer is called there, and where a bundle has its weights */
  hd_place place;
  size_t batch;
} spot;

static hd_spec *read_layer(reader *r, hd_json json, spot at);

/* The children are the "branches" and, behind them, the "filter_gate" of a layer that has one. */
static void read_children(reader *r, hd_spec *spec, const hd_json *json, size_t batch) {
  hd_arena *arena = &r->model->arena;
  const hd_layer *layer = spec->layer;
  const bool attached = layer->child_place == HD_IN_CHAIN && !hd_json_has(json, "branches") && hd_json_has(json, "attached_layer");
  const size_t n_branches = attached ? 1 : hd_json_count(json, "branches");
  spec->has_gate = layer->has_gate && hd_json_has(json, "filter_gate");
  const size_t n = n_branches + spec->has_gate;
  hd_json list = hd_json_member(json, "branches");
  spec->children = n ? hd_arena_alloc(arena, n * sizeof *spec->children) : NULL;
  for (size_t i = 0; spec->children && i < n && *r->status == HD_OK; i++) {
    const bool gate = i == n_branches;
    const spot at = {
      .name = gate ? hd_arena_format(arena, "%s.filter_gate", spec->name) : hd_arena_format(arena, "%s.branches.%zu", spec->name, i),
      .bundle = hd_arena_format(arena, "%sbranch_weights.%zu.", spec->bundle, i),
      .place = layer->child_place,
      .batch = layer->child_place == HD_IN_CHAIN ? 1 : batch,
    };
    hd_json child = gate ? hd_json_member(json, "filter_gate") : attached ? hd_json_member(json, "attached_layer") : hd_json_item(&list, i);
    spec->children[i] = read_layer(r, child, at);
    spec->n_children = i + 1;
  }
}

static hd_spec *out_of_memory(reader *r) {
  if (*r->status == HD_OK) *r->status = hd_fail(r->err, HD_OUT_OF_MEMORY, "no memory for the network's layers");
  return NULL;
}

/* The layer's name with a dot, which in a chain is what a bundle says, too. */
static const char *usual_weights(hd_arena *arena, const char *name, const char *bundle) {
  const size_t n = strlen(name);
  return strncmp(bundle, name, n) == 0 && strcmp(bundle + n, ".") == 0 ? bundle : hd_arena_format(arena, "%s.", name);
}

static hd_spec *new_spec(reader *r, const hd_layer *layer, const hd_json *json, const spot *at) {
  hd_arena *arena = &r->model->arena;
  const char *name = hd_json_get_text(json, "name", NULL), *weights = hd_json_get_text(json, "weights", NULL);
  if (r->n_layers++ == HD_MAX_SPECS) hd_json_refuse(json, NULL, HD_UNSUPPORTED, "expected at most %d layers, found more", HD_MAX_SPECS);
  if (*r->status != HD_OK) return NULL;
  name = name ? hd_arena_text(arena, name) : at->name;
  weights = weights ? hd_arena_text(arena, weights) : name ? usual_weights(arena, name, at->bundle) : NULL;
  hd_spec *spec = hd_spec_new(r->model, layer, name, weights, at->bundle, NULL);
  if (spec) spec->path = hd_arena_text(arena, json->path);
  return spec && spec->path ? spec : out_of_memory(r);
}

static hd_spec *read_layer(reader *r, hd_json json, spot at) {
  if (!at.name || !at.bundle) return out_of_memory(r);
  char room[HD_NAME_ROOM], list[2048];
  const char *type = hd_json_get_text(&json, "type", "");
  const hd_layer *layer = hd_layer_find(type);
  if (!layer || !layer->parse) {
    if (!*type) hd_json_refuse(&json, "type", HD_BAD_FILE, "expected a layer type, found none");
    else
      hd_json_refuse(&json, "type", HD_UNSUPPORTED, "unknown layer type '%s'; known: %s",
                     hd_short_name(room, type), hd_layer_list(list, sizeof list));
    return NULL;
  }
  hd_spec *spec = new_spec(r, layer, &json, &at);
  if (!spec) return NULL;
  if (layer->has_children) read_children(r, spec, &json, at.batch);
  hd_parse p = {.json = json, .dialect = r->model->dialect, .batch = at.batch, .place = at.place, .arena = &r->model->arena, .spec = spec};
  if (*r->status == HD_OK) layer->parse(spec->config, &p);
  return spec;
}

/* Loom's grid says how many layers there are, where it is given; later entries are dropped. */
static size_t count_layers(const hd_json *j) {
  size_t listed = hd_json_count(j, "layers"), cells, n;
  if (!hd_json_has(j, "grid_rows") && !hd_json_has(j, "grid_cols") && !hd_json_has(j, "layers_per_cell")) return listed;
  if (!hd_mul_size(hd_json_get_size(j, "grid_rows", 1), hd_json_get_size(j, "grid_cols", 1), &cells)
      || !hd_mul_size(cells, hd_json_get_size(j, "layers_per_cell", 1), &n))
    n = SIZE_MAX;
  if (n == 0) hd_json_refuse(j, "layers_per_cell", HD_BAD_FILE, "the grid has no place for a layer");
  else if (n > listed) hd_json_refuse(j, "layers", HD_BAD_FILE, "the grid has %zu places, found %zu layers", n, listed);
  return n;
}

static void read_head(hd_model *model, const hd_json *j) {
  char room[HD_NAME_ROOM];
  const char *dialect = hd_json_get_text(j, "dialect", "loom");
  if (strcmp(dialect, "standard") == 0) model->dialect = HD_STANDARD;
  else if (strcmp(dialect, "loom") == 0) model->dialect = HD_LOOM;
  else hd_json_refuse(j, "dialect", HD_BAD_FILE, "expected 'standard' or 'loom', found '%s'", hd_short_name(room, dialect));
  model->batch = hd_json_get_size(j, "batch_size", 1);
  if (model->batch == 0) model->batch = 1;
  model->max_context = hd_json_get_size(j, "context", 0);
  const char *dtype = hd_json_get_text(j, "input_dtype", "F32");
  model->input.dtype = hd_dtype_find(dtype, strlen(dtype));
  if (model->input.dtype != HD_F32 && model->input.dtype != HD_I32)
    hd_json_refuse(j, "input_dtype", HD_BAD_FILE, "expected F32 or I32, found '%s'", hd_short_name(room, dtype));
  hd_json shape = hd_json_member(j, "input_shape");
  size_t n = hd_json_count(j, "input_shape");
  if (n > HD_MAX_DIMS) hd_json_refuse(j, "input_shape", HD_BAD_FILE, "expected at most %d dimensions, found %zu", HD_MAX_DIMS, n);
  for (size_t d = 0; d < n && n <= HD_MAX_DIMS; d++) {
    hd_json item = hd_json_item(&shape, d);
    if (hd_json_is_size(item.node, 1, UINT32_MAX, &model->input.dim[d])) model->input.n_dims++;
    else hd_json_refuse(j, "input_shape", HD_BAD_FILE, "expected whole sizes of at least 1");
  }
}

hd_status hd_network_parse(hd_model *model, cJSON *cfg, const char *path, hd_error *err) {
  model->cfg = cfg;
  hd_status status = HD_OK;
  hd_json j = hd_json_root(cfg, path, &status, err);
  if (!cJSON_IsObject(cfg)) return hd_fail(err, HD_BAD_FILE, "%s: expected an object", path);
  read_head(model, &j);
  reader r = {.model = model, .status = &status, .err = err};
  size_t n = status == HD_OK ? count_layers(&j) : 0;
  hd_json layers = hd_json_member(&j, "layers");
  if (status == HD_OK && n == 0) hd_json_refuse(&j, "layers", HD_BAD_FILE, "expected at least one layer, found none");
  for (size_t i = 0; i < n && status == HD_OK; i++) {
    const spot at = {.name = hd_arena_format(&model->arena, "layers.%zu", i), .bundle = hd_arena_format(&model->arena, "layers.%zu.", i),
                     .place = HD_IN_CHAIN, .batch = model->batch};
    hd_spec *spec = read_layer(&r, hd_json_item(&layers, i), at);
    if (status == HD_OK) status = hd_model_add_spec(model, spec, err);
  }
  cJSON_DeleteItemFromObjectCaseSensitive(cfg, "layers"); /* the specs hold them now */
  cJSON_DeleteItemFromObjectCaseSensitive(cfg, "dialect"); /* and the model its dialect: a bundle without one is Loom's */
  return status;
}

/* ---- Writing ---- */

static cJSON *write_layer(const hd_model *model, const hd_spec *spec, const char *default_name, hd_status *status, hd_error *err) {
  char room[HD_NAME_ROOM];
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "type", spec->layer->name);
  if (model->dialect == HD_STANDARD) {
    char weights[512];
    snprintf(weights, sizeof weights, "%s.", spec->name);
    if (strcmp(spec->name, default_name) != 0) cJSON_AddStringToObject(json, "name", spec->name);
    if (strcmp(spec->weights, weights) != 0) cJSON_AddStringToObject(json, "weights", spec->weights);
  }
  *status = spec->layer->write ? spec->layer->write(spec->config, json, model->dialect, err)
                               : hd_fail(err, HD_UNSUPPORTED, "layer type '%s' cannot be saved", spec->layer->name);
  if (*status != HD_OK) hd_fail_in(err, hd_short_name(room, spec->name));
  const size_t n_branches = spec->n_children - spec->has_gate;
  cJSON *branches = n_branches ? cJSON_AddArrayToObject(json, "branches") : NULL;
  char name[512];
  for (size_t i = 0; i < n_branches && *status == HD_OK; i++) {
    snprintf(name, sizeof name, "%s.branches.%zu", spec->name, i);
    cJSON_AddItemToArray(branches, write_layer(model, spec->children[i], name, status, err));
  }
  if (spec->has_gate && *status == HD_OK) {
    snprintf(name, sizeof name, "%s.filter_gate", spec->name);
    cJSON_AddItemToObject(json, "filter_gate", write_layer(model, spec->children[n_branches], name, status, err));
  }
  return json;
}

static void write_head(cJSON *cfg, const hd_model *model, const char *id) {
  cJSON_AddStringToObject(cfg, "id", id);
  cJSON_AddNumberToObject(cfg, "batch_size", (double)model->batch);
  const cJSON *grid = model->cfg ? cJSON_GetObjectItemCaseSensitive(model->cfg, "grid_rows") : NULL;
  static const char *const keys[] = {"grid_rows", "grid_cols", "layers_per_cell"};
  const double chain[] = {1, 1, (double)model->n_specs};
  for (int i = 0; i < 3; i++) {
    const cJSON *kept = grid ? cJSON_GetObjectItemCaseSensitive(model->cfg, keys[i]) : NULL;
    cJSON_AddNumberToObject(cfg, keys[i], kept ? kept->valuedouble : chain[i]);
  }
  if (model->dialect == HD_STANDARD) cJSON_AddStringToObject(cfg, "dialect", "standard");
  if (model->max_context) cJSON_AddNumberToObject(cfg, "context", (double)model->max_context);
  if (model->input.n_dims == 0) return;
  if (model->input.dtype != HD_F32) cJSON_AddStringToObject(cfg, "input_dtype", hd_dtype_name(model->input.dtype));
  cJSON *shape = cJSON_AddArrayToObject(cfg, "input_shape");
  for (int d = 0; d < model->input.n_dims; d++) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)model->input.dim[d]));
}

/* Keys we do not know are the user's, and are kept. */
static void write_rest(cJSON *cfg, const hd_model *model) {
  const cJSON *item;
  cJSON_ArrayForEach(item, model->cfg) {
    if (!cJSON_GetObjectItemCaseSensitive(cfg, item->string)) cJSON_AddItemToObject(cfg, item->string, cJSON_Duplicate(item, true));
  }
}

hd_status hd_network_write(cJSON **out, const hd_model *model, const char *id, hd_error *err) {
  hd_status status = HD_OK;
  cJSON *cfg = cJSON_CreateObject();
  write_head(cfg, model, id);
  cJSON *layers = cJSON_AddArrayToObject(cfg, "layers");
  for (size_t i = 0; i < model->n_specs && status == HD_OK; i++) {
    char name[64];
    snprintf(name, sizeof name, "layers.%zu", i);
    cJSON_AddItemToArray(layers, write_layer(model, model->specs[i], name, &status, err));
  }
  write_rest(cfg, model);
  if (status == HD_OK && (!cfg || !layers)) status = hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save the network");
  if (status != HD_OK) {
    cJSON_Delete(cfg);
    cfg = NULL;
  }
  *out = cfg;
  return status;
}
