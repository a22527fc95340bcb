/* graph.c: from declared layers to a flat graph. Composite layers expand into primitive ones until only nodes are left; parameters are made
 * as nodes ask for them, and shared where two ask for the same name. */
#include "graph/graph.h"

#include "base/status.h"
#include "layers/rows.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the graph"); }

/* ---- Models ---- */

hd_model *hd_model_new(void) {
  hd_model *model = hd_alloc_zero(sizeof *model);
  if (model) model->family = "network";
  return model;
}

void hd_model_discard(hd_model *model) {
  if (!model) return;
  for (size_t i = 0; i < model->n_parameters; i++) hd_free(model->parameters[i].value.data);
  hd_free(model->parameters);
  hd_free(model->parameter_table);
  hd_free(model->values);
  hd_free(model->nodes);
  hd_free(model->specs);
  cJSON_Delete(model->cfg);
  hd_arena_free(&model->arena);
  hd_free(model);
}

hd_spec *hd_spec_new(hd_model *model, const hd_layer *layer, const char *name, const char *weights,
                     const char *bundle, const void *config) {
  if (!name || !weights || !bundle) return NULL;
  hd_spec *spec = hd_arena_alloc(&model->arena, sizeof *spec);
  if (!spec) return NULL;
  *spec = (hd_spec){.layer = layer, .name = name, .weights = weights, .bundle = bundle};
  spec->config = hd_arena_alloc(&model->arena, layer->config_bytes);
  if (!spec->config) return NULL;
  if (config && layer->config_bytes) memcpy(spec->config, config, layer->config_bytes);
  return spec;
}

hd_status hd_model_add_spec(hd_model *model, hd_spec *spec, hd_error *err) {
  if (!spec || !hd_grow((void **)&model->specs, model->n_specs, sizeof *model->specs)) return no_memory(err);
  model->specs[model->n_specs++] = spec;
  return HD_OK;
}

hd_status hd_model_warn(hd_model *model, hd_error *err, const char *format, ...) {
  char text[512];
  va_list arguments;
  if (model->n_warnings == HD_MAX_WARNINGS) return HD_OK;
  va_start(arguments, format);
  hd_print_part(text, sizeof text, format, arguments);
  va_end(arguments);
  const char *kept = hd_arena_text(&model->arena, text);
  if (!kept) return no_memory(err);
  model->warnings[model->n_warnings++] = kept;
  return HD_OK;
}

/* ---- The builder ---- */

/* A node that all layers share which ask for the same. */
typedef struct hd_shared {
  const hd_layer *layer;
  size_t hash; /* of its config */
  size_t node;
} hd_shared;

struct hd_builder {
  hd_model *model;
  const hd_spec *spec; /* being expanded */
  int depth;
  int chain_depth;     /* of the chain that is being built; its layers are one deeper */
  hd_value carried;    /* that chain's hidden residual */
  hd_shared *shared;
  size_t n_shared;
  hd_status status;
  hd_error *err;
};

void hd_build_fail(hd_builder *b, hd_status code, const char *format, ...) {
  if (b->status != HD_OK) return;
  char text[512], room[HD_NAME_ROOM];
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(text, sizeof text, format, arguments);
  va_end(arguments);
  b->status = hd_fail(b->err, code, "layer %s: %s", b->spec ? hd_short_name(room, b->spec->name) : "?", text);
}

static hd_value fail_memory(hd_builder *b) {
  if (b->status == HD_OK) b->status = no_memory(b->err);
  return HD_NO_VALUE;
}

static hd_value add_value(hd_builder *b, const char *name, int node, size_t output) {
  hd_model *m = b->model;
  if (!name || !hd_grow((void **)&m->values, m->n_values, sizeof *m->values)) return fail_memory(b);
  m->values[m->n_values] = (hd_value_info){name, node, (int)output};
  return (hd_value)m->n_values++;
}

/* ---- Parameters by name: an open table, since files of a megabyte name tens of thousands ---- */

/* FNV-1a. */
static size_t hash_of(const void *bytes, size_t n) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < n; i++) hash = (hash ^ ((const uint8_t *)bytes)[i]) * 16777619u;
  return hash;
}

/* The parameter's place in the table, or the empty one where it belongs. */
static int *table_place(const hd_model *m, const char *name) {
  size_t at = hash_of(name, strlen(name)) & (m->n_table - 1);
  while (m->parameter_table[at] && strcmp(m->parameters[m->parameter_table[at] - 1].name, name) != 0) at = (at + 1) & (m->n_table - 1);
  return &m->parameter_table[at];
}

/* Room for one more. */
static bool grow_table(hd_model *m) {
  if (2 * (m->n_parameters + 1) <= m->n_table) return true;
  size_t n = m->n_table ? 2 * m->n_table : 16;
  int *table = hd_alloc_zero(n * sizeof *table);
  if (!table) return false;
  hd_free(m->parameter_table);
  m->parameter_table = table;
  m->n_table = n;
  for (size_t i = 0; i < m->n_parameters; i++) *table_place(m, m->parameters[i].name) = (int)i + 1;
  return true;
}

int hd_parameter_find(const hd_model *model, const char *name) { return model->n_table ? *table_place(model, name) - 1 : -1; }

hd_status hd_value_find(hd_value *out, const hd_model *model, const char *name, hd_error *err) {
  char room[HD_NAME_ROOM];
  for (*out = 0; (size_t)*out < model->n_values; ++*out)
    if (strcmp(model->values[*out].name, name) == 0) return HD_OK;
  return hd_fail(err, HD_BAD_ARGUMENT, "there is no value %s", hd_short_name(room, name));
}

static bool same_shape(const hd_slot *a, const hd_slot *b) {
  if (a->n_dims != b->n_dims) return false;
  for (int d = 0; d < a->n_dims; d++)
    if (a->shape[d] != b->shape[d]) return false;
  return true;
}

/* The spec that somebody declared: what owns weights, whatever composites lie between. */
static const hd_spec *declared(const hd_builder *b) { return b->spec->maker ? b->spec->maker : b->spec; }

/* Sizes come from files: their product has to be a size. */
static bool countable(const hd_slot *slot) {
  size_t n = sizeof(float);
  for (int d = 0; d < slot->n_dims; d++)
    if (!hd_mul_size(n, slot->shape[d], &n)) return false;
  return true;
}

/* The parameter of that name, made if it is new. */
static int parameter(hd_builder *b, const char *weights, const hd_slot *slot) {
  hd_model *m = b->model;
  const hd_spec *owner = declared(b);
  char *name = hd_arena_format(&m->arena, "%s%s%s", b->spec->weights, weights, slot->role);
  if (!name) return fail_memory(b);
  const char *local = name + strlen(owner->weights);
  char room[HD_NAME_ROOM], room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
  if (!countable(slot)) {
    hd_build_fail(b, HD_BAD_FILE, "weight %s of shape %s is too large",
                  hd_short_name(room, name), hd_shape_text(room_a, slot->n_dims, slot->shape));
    return -1;
  }
  int index = hd_parameter_find(m, name);
  if (index >= 0) {
    if (same_shape(&m->parameters[index].slot, slot)) return index;
    const hd_slot *other = &m->parameters[index].slot;
    hd_build_fail(b, HD_BAD_ARGUMENT, "weight %s is wanted with shape %s, another layer has it with %s", hd_short_name(room, name),
                  hd_shape_text(room_a, slot->n_dims, slot->shape), hd_shape_text(room_b, other->n_dims, other->shape));
    return -1;
  }
  if (m->n_parameters == HD_MAX_PARAMETERS) {
    hd_build_fail(b, HD_UNSUPPORTED, "expected a network of at most %d weights, found more", HD_MAX_PARAMETERS);
    return -1;
  }
  if (!hd_grow((void **)&m->parameters, m->n_parameters, sizeof *m->parameters) || !grow_table(m)) return fail_memory(b);
  *table_place(m, name) = (int)m->n_parameters + 1;
  m->parameters[m->n_parameters] =
      (hd_parameter){.name = name, .local = local, .owner = owner, .slot = *slot, .file_dtype = HD_DTYPE_COUNT};
  return (int)m->n_parameters++;
}

static void add_weights(hd_builder *b, hd_node *node, const char *weights) {
  if (!node->layer->slots) return;
  hd_slot slots[HD_MAX_WEIGHTS] = {0};
  node->n_weights = (uint8_t)node->layer->slots(node->config, slots);
  for (size_t i = 0; i < node->n_weights && b->status == HD_OK; i++) node->weight[i] = parameter(b, weights, &slots[i]);
}

static const char *value_name(hd_builder *b, const hd_node *node, size_t output) {
  const char *const *names = node->layer->output_names;
  return names && *names[output] ? hd_arena_format(&b->model->arena, "%s.%s", node->name, names[output]) : node->name;
}

/* A node called `name` (in the arena). */
static hd_value add_node(hd_builder *b, const hd_layer *layer, const char *name, const char *weights, const void *config,
                         const hd_value *inputs, size_t n_inputs) {
  hd_model *m = b->model;
  if (m->n_nodes == HD_MAX_NODES) hd_build_fail(b, HD_UNSUPPORTED, "expected a network of at most %d operations, found more", HD_MAX_NODES);
  if (b->status != HD_OK) return HD_NO_VALUE;
  hd_node node = {.layer = layer, .name = name, .path = declared(b)->path, .n_in = (uint32_t)n_inputs};
  node.n_out = layer->n_outputs ? (uint8_t)layer->n_outputs : 1;
  const bool declared_as_it_is = config == b->spec->config; /* nothing writes to either from here on */
  node.config = declared_as_it_is ? b->spec->config : hd_arena_alloc(&m->arena, layer->config_bytes);
  node.in = hd_arena_alloc(&m->arena, n_inputs * sizeof *node.in + 1);
  if (!name || !node.config || !node.in || !hd_grow((void **)&m->nodes, m->n_nodes, sizeof *m->nodes)) return fail_memory(b);
  if (config && !declared_as_it_is) memcpy(node.config, config, layer->config_bytes);
  for (size_t i = 0; i < n_inputs; i++) node.in[i] = inputs[i];
  add_weights(b, &node, weights);
  for (size_t o = 0; o < node.n_out && b->status == HD_OK; o++) node.out[o] = add_value(b, value_name(b, &node, o), (int)m->n_nodes, o);
  if (b->status != HD_OK) return HD_NO_VALUE;
  m->nodes[m->n_nodes++] = node;
  return node.out[0];
}

/* A composite type inside another: a spec of its own, with names below the outer one's. */
static hd_value build_composite(hd_builder *b, const hd_layer *layer, const char *name, const char *weights,
                                const void *config, hd_value input) {
  hd_model *m = b->model;
  const char *full = *name ? hd_arena_format(&m->arena, "%s.%s", b->spec->name, name) : b->spec->name;
  const char *full_weights = *weights ? hd_arena_format(&m->arena, "%s%s", b->spec->weights, weights) : b->spec->weights;
  hd_spec *spec = hd_spec_new(m, layer, full, full_weights, b->spec->bundle, config);
  if (!spec) return fail_memory(b);
  spec->maker = declared(b);
  return hd_build_spec(b, spec, input);
}

hd_value hd_build(hd_builder *b, const hd_layer *layer, const char *name, const char *weights, const void *config,
                  const hd_value *inputs, size_t n_inputs) {
  if (b->status != HD_OK) return HD_NO_VALUE;
  if (!layer->infer) return build_composite(b, layer, name, weights, config, inputs[0]);
  const char *full = *name ? hd_arena_format(&b->model->arena, "%s.%s", b->spec->name, name) : b->spec->name;
  return add_node(b, layer, full, weights, config, inputs, n_inputs);
}

hd_value hd_build_output(hd_builder *b, hd_value v, size_t index) {
  if (b->status != HD_OK) return HD_NO_VALUE;
  return b->model->nodes[b->model->values[v].node].out[index];
}

hd_value hd_build_spec(hd_builder *b, const hd_spec *spec, hd_value input) {
  if (b->status != HD_OK) return HD_NO_VALUE;
  const hd_spec *outer = b->spec;
  b->spec = spec;
  if (++b->depth > HD_JSON_MAX_DEPTH) hd_build_fail(b, HD_UNSUPPORTED, "layers are nested more than %d deep", HD_JSON_MAX_DEPTH);
  hd_value out = HD_NO_VALUE;
  if (b->status == HD_OK)
    out = spec->layer->expand ? spec->layer->expand(b, spec, input) : hd_build(b, spec->layer, "", "", spec->config, &input, 1);
  b->depth--;
  b->spec = outer;
  return out;
}

hd_value hd_build_chain(hd_builder *b, hd_spec *const *specs, size_t n, hd_value input) {
  const int outer_depth = b->chain_depth;
  const hd_value outer_carried = b->carried;
  b->chain_depth = b->depth;
  b->carried = HD_NO_VALUE;
  for (size_t i = 0; i < n; i++) input = hd_build_spec(b, specs[i], input);
  b->chain_depth = outer_depth;
  b->carried = outer_carried;
  return input;
}

void hd_build_weights(hd_builder *b, const hd_spec *spec, hd_value input) {
  hd_model *m = b->model;
  const size_t n_nodes = m->n_nodes, n_values = m->n_values, n_shared = b->n_shared;
  hd_build_spec(b, spec, input);
  m->n_nodes = n_nodes;
  m->n_values = n_values;
  b->n_shared = n_shared;
}

bool hd_build_in_chain(const hd_builder *b) { return b->depth == b->chain_depth + 1; }

hd_dialect hd_build_dialect(const hd_builder *b) { return b->model->dialect; }

hd_value hd_build_carried(const hd_builder *b) { return hd_build_in_chain(b) ? b->carried : HD_NO_VALUE; }

hd_value hd_build_add_carried(hd_builder *b, const char *name, hd_value v) {
  const hd_value carried = hd_build_carried(b);
  return carried == HD_NO_VALUE ? v : hd_build(b, &hd_layer_add_carried, name, "", NULL, (hd_value[]){v, carried}, 2);
}

void hd_build_carry(hd_builder *b, hd_value v) {
  if (b->model->dialect == HD_LOOM && hd_build_in_chain(b)) b->carried = v;
}

hd_value hd_build_shared(hd_builder *b, const hd_layer *layer, const char *name, const void *config, hd_value input) {
  hd_model *m = b->model;
  const size_t hash = hash_of(config, layer->config_bytes);
  size_t n_same = 0;
  if (b->status != HD_OK) return HD_NO_VALUE;
  for (size_t i = 0; i < b->n_shared; i++) {
    const hd_shared *s = &b->shared[i];
    if (s->layer != layer) continue;
    if (s->hash == hash && memcmp(m->nodes[s->node].config, config, layer->config_bytes) == 0) return m->nodes[s->node].out[0];
    n_same++;
  }
  if (!hd_grow((void **)&b->shared, b->n_shared, sizeof *b->shared)) return fail_memory(b);
  b->shared[b->n_shared++] = (hd_shared){layer, hash, m->n_nodes};
  const char *full = n_same ? hd_arena_format(&m->arena, "%s.%zu", name, n_same) : name;
  return add_node(b, layer, full, "", config, &input, 1);
}

hd_status hd_graph_expand(hd_model *model, hd_error *err) {
  hd_builder b = {.model = model, .err = err};
  hd_value x = hd_build_chain(&b, model->specs, model->n_specs, add_value(&b, "input", -1, 0));
  hd_free(b.shared);
  if (b.status == HD_OK && model->n_specs == 0) return hd_fail(err, HD_BAD_FILE, "a network needs at least one layer");
  model->output = x;
  return b.status == HD_OK ? hd_graph_check_shapes(model, err) : b.status;
}

/* ---- Parameters ---- */

size_t hd_parameter_count(const hd_parameter *p) {
  size_t n = 1;
  for (int d = 0; d < p->slot.n_dims; d++) n *= p->slot.shape[d];
  return n;
}

void hd_parameter_file_shape(const hd_parameter *p, size_t shape[HD_MAX_DIMS]) {
  for (int d = 0; d < p->slot.n_dims; d++) shape[d] = p->slot.shape[p->slot.in_out ? p->slot.n_dims - 1 - d : d];
}

hd_matrix hd_parameter_matrix(const hd_parameter *p, hd_dtype dtype) {
  if (p->slot.matrix) return (hd_matrix){.layout = hd_layout_for(dtype), .rows = p->slot.shape[0], .cols = p->slot.shape[1]};
  return (hd_matrix){.layout = &hd_layout_rows_f32, .rows = 1, .cols = hd_parameter_count(p)};
}

hd_status hd_parameter_allocate(hd_parameter *p, hd_dtype dtype, hd_error *err) {
  char room[HD_NAME_ROOM];
  hd_matrix m = hd_parameter_matrix(p, dtype);
  if (!m.layout)
    return hd_fail(err, HD_UNSUPPORTED, "weight %s: nothing multiplies %s", hd_short_name(room, p->name), hd_dtype_name(dtype));
  size_t bytes;
  bool fits = m.layout->bytes(m.rows, m.cols, &bytes);
  m.data = fits ? hd_alloc_zero(bytes) : NULL;
  if (!m.data)
    return hd_fail(err, HD_OUT_OF_MEMORY, "weight %s: no memory for %zu × %zu as %s",
                   hd_short_name(room, p->name), m.rows, m.cols, m.layout->name);
  hd_free(p->value.data);
  p->value = m;
  return HD_OK;
}

const char *hd_parameter_field(const hd_parameter *p, hd_dialect dialect, bool *in_out) {
  *in_out = false;
  const hd_bundle_name *names = dialect == HD_LOOM ? p->owner->layer->bundle_names : NULL;
  for (; names && names->weight; names++) {
    if (strcmp(names->weight, p->local) != 0) continue;
    *in_out = names->in_out;
    return names->field;
  }
  return p->local;
}
