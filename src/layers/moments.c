/* moments.c: layer_norm ("Layer Normalization", Ba et al., 2016), group_norm (Wu and He, 2018), instance_norm (Ulyanov et al., 2016) and
 * batch_norm (Ioffe and Szegedy, 2015): y = (x − mean) / √(variance + ε) · weight + bias, as PyTorch's modules. They differ in which
 * elements share a mean: a row, a group of a sample's channels, one channel of a sample, one channel of the whole batch.
 *
 * batch_norm uses its running statistics, as PyTorch does in eval; with track_running_stats false, the batch's own. */
#include "kernels/moments.h"

#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

enum { SLOT_WEIGHT, SLOT_BIAS };

/* ---- JSON ---- */

static void parse_epsilon(hd_moments_config *c, hd_parse *p) {
  c->epsilon = (float)hd_json_get_number(&p->json, hd_json_has(&p->json, "epsilon") ? "epsilon" : "eps", 1e-5);
  if (p->dialect == HD_LOOM && c->epsilon == 0) c->epsilon = 1e-5f;
}

static void add_row_size(hd_moments_config *c, hd_parse *p, const char *key, const cJSON *node) {
  size_t size;
  if (c->n_dims == HD_MAX_DIMS || !hd_json_is_size(node, 1, 1 << 24, &size) || !hd_mul_size(c->size, size, &c->size))
    hd_json_refuse(&p->json, key, HD_BAD_FILE, "expected at most %d whole sizes of at least 1", HD_MAX_DIMS);
  else c->shape[c->n_dims++] = size;
}

static void parse_row(hd_moments_config *c, hd_parse *p) {
  const char *key = hd_json_has(&p->json, "normalized_shape") ? "normalized_shape" : "norm_size";
  hd_json shape = hd_json_member(&p->json, key);
  c->size = 1;
  if (!shape.node || !cJSON_IsArray(shape.node)) {
    size_t size = hd_json_get_size(&p->json, key, 0);
    if (size) add_row_size(c, p, key, shape.node);
    else hd_json_refuse_size(&p->json, (const char *const[]){key, "normalized_shape", "norm_size", NULL}, SIZE_MAX);
    return;
  }
  for (size_t d = 0; d < hd_json_count(&p->json, key) && *p->json.status == HD_OK; d++)
    add_row_size(c, p, key, hd_json_item(&shape, d).node);
  if (c->n_dims == 0) hd_json_refuse(&p->json, key, HD_BAD_FILE, "expected at least one size");
}

static void parse_layer(void *config, hd_parse *p) {
  hd_moments_config *c = config;
  c->over = HD_OVER_ROWS;
  parse_row(c, p);
  parse_epsilon(c, p);
  c->weight = p->dialect == HD_LOOM || hd_json_get_bool(&p->json, "elementwise_affine", true);
  c->bias = p->dialect == HD_LOOM || (c->weight && hd_json_get_bool(&p->json, "bias", true));
  c->rows = p->dialect == HD_LOOM ? p->batch : 0;
}

static void parse_channels(hd_moments_config *c, hd_parse *p, hd_moments_over over, const char *key, bool affine) {
  c->over = over;
  c->size = hd_json_need_size(&p->json, key, SIZE_MAX);
  c->n_dims = 1;
  c->shape[0] = c->size;
  parse_epsilon(c, p);
  c->weight = c->bias = hd_json_get_bool(&p->json, "affine", affine);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse_group(void *config, hd_parse *p) {
  hd_moments_config *c = config;
  parse_channels(c, p, HD_OVER_CHANNELS, "num_channels", true);
  c->n_groups = hd_json_need_size(&p->json, "num_groups", SIZE_MAX);
  if (c->n_groups == 0 || c->size % c->n_groups)
    hd_json_refuse(&p->json, "num_groups", HD_BAD_FILE, "expected a divisor of %zu channels, found %zu", c->size, c->n_groups);
}

static void parse_instance(void *config, hd_parse *p) {
  parse_channels(config, p, HD_OVER_CHANNELS, "num_features", false);
  if (hd_json_get_bool(&p->json, "track_running_stats", false))
    hd_json_refuse(&p->json, "track_running_stats", HD_UNSUPPORTED, "an instance norm with running statistics is not built");
}

static void parse_batch(void *config, hd_parse *p) {
  hd_moments_config *c = config;
  parse_channels(c, p, HD_OVER_BATCH, "num_features", true);
  c->running = hd_json_get_bool(&p->json, "track_running_stats", true);
}

static hd_status write_layer(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)err;
  const hd_moments_config *c = config;
  if (dialect == HD_LOOM) {
    cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes it for every layer and ignores it here */
    cJSON_AddNumberToObject(json, "norm_size", (double)c->size);
    hd_json_add_float(json, "epsilon", c->epsilon);
    return HD_OK;
  }
  cJSON *shape = cJSON_AddArrayToObject(json, "normalized_shape");
  for (int d = 0; d < c->n_dims; d++) cJSON_AddItemToArray(shape, cJSON_CreateNumber((double)c->shape[d]));
  hd_json_add_float(json, "eps", c->epsilon);
  cJSON_AddBoolToObject(json, "elementwise_affine", c->weight);
  cJSON_AddBoolToObject(json, "bias", c->bias);
  return HD_OK;
}

static hd_status write_channels(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_moments_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no group, instance or batch norm");
  cJSON_AddNumberToObject(json, c->n_groups ? "num_channels" : "num_features", (double)c->size);
  if (c->n_groups) cJSON_AddNumberToObject(json, "num_groups", (double)c->n_groups);
  hd_json_add_float(json, "eps", c->epsilon);
  cJSON_AddBoolToObject(json, "affine", c->weight);
  if (c->over == HD_OVER_BATCH) cJSON_AddBoolToObject(json, "track_running_stats", c->running);
  return HD_OK;
}

/* ---- Running ---- */

/* Loom joins its hidden residual to what it normalises (shared/formats/loom.md, section c); elsewhere there is none. */
static hd_value expand_layer(hd_builder *b, const hd_spec *spec, hd_value x) {
  x = hd_build_add_carried(b, "carried", x);
  hd_value y = hd_build(b, &hd_layer_layer_norm, "", "", spec->config, &x, 1);
  if (hd_build_carried(b) != HD_NO_VALUE) hd_build_carry(b, y);
  return y;
}

static size_t add_slot(hd_slot slot[HD_MAX_WEIGHTS], size_t n, const hd_moments_config *c, const char *role, hd_init init) {
  slot[n] = (hd_slot){.role = role, .n_dims = c->n_dims, .lack = HD_LACK_INIT, .init = init};
  memcpy(slot[n].shape, c->shape, (size_t)c->n_dims * sizeof *c->shape);
  return n + 1;
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_moments_config *c = config;
  size_t n = 0;
  if (c->weight) n = add_slot(slot, n, c, "weight", HD_INIT_ONE);
  if (c->bias) n = add_slot(slot, n, c, "bias", HD_INIT_ZERO);
  if (c->running) n = add_slot(slot, n, c, "running_mean", HD_INIT_ZERO);
  if (c->running) n = add_slot(slot, n, c, "running_var", HD_INIT_ONE);
  return n;
}

/* Whether the row's dimensions are the last of the shape. */
static bool row_fits(const hd_moments_config *c, const hd_shape *in) {
  if (in->n_dims < c->n_dims) return false;
  for (int d = 0; d < c->n_dims; d++)
    if (in->dim[in->n_dims - c->n_dims + d] != c->shape[d]) return false;
  return true;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_moments_config *c = i->config;
  const hd_shape *in = i->in[0];
  char room[HD_SHAPE_ROOM], room_row[HD_SHAPE_ROOM];
  if (c->rows && hd_shape_size(in) / c->rows < c->size)
    return hd_infer_fail(i, err, "expected %zu rows of %zu, found %zu values", c->rows, c->size, hd_shape_size(in));
  if (!c->rows && c->over == HD_OVER_ROWS && !row_fits(c, in))
    return hd_infer_fail(i, err, "expected rows of shape %s, found shape %s",
                         hd_shape_text(room_row, c->n_dims, c->shape), hd_shape_text(room, in->n_dims, in->dim));
  if (i->run->n_sequences > 1 && c->n_dims > 1)
    return hd_infer_fail(i, err, "rows of shape %s are of one sequence alone, found %zu sequences",
                         hd_shape_text(room_row, c->n_dims, c->shape), i->run->n_sequences);
  if (c->over != HD_OVER_ROWS && (in->n_dims < 2 || in->dim[1] != c->size))
    return hd_infer_fail(i, err, "expected a batch of %zu channels, found shape %s", c->size, hd_shape_text(room, in->n_dims, in->dim));
  i->out[0] = *in;
  i->scratch_bytes = i->run->keep ? hd_times(hd_shape_size(in), 2 * sizeof(float)) : 0;
  return HD_OK;
}

/* How the elements of a shape are grouped. n: those that are normalised. */
typedef struct cut {
  k_groups groups;
  k_affine affine;
  size_t n;
} cut;

static cut cut_of(const hd_moments_config *c, const hd_shape *in) {
  size_t all = hd_shape_size(in);
  if (c->over == HD_OVER_ROWS) {
    size_t rows = c->rows ? c->rows : all / c->size;
    return (cut){{rows, 1, c->size, 0}, {1, c->size}, rows * c->size};
  }
  size_t batch = in->dim[0], places = batch ? all / (batch * c->size) : 0, groups = c->n_groups ? c->n_groups : c->size;
  const k_affine affine = {places, c->size};
  if (c->over == HD_OVER_BATCH) return (cut){{c->size, batch, places, c->size * places}, affine, all};
  return (cut){{batch * groups, 1, c->size / groups * places, 0}, affine, all};
}

static const float *weight_at(const hd_call *call, size_t slot) { return call->weight[slot] ? call->weight[slot]->data : NULL; }

/* The running mean's slot; the variance's comes after it. */
static size_t running_slot(const hd_moments_config *c) { return (size_t)c->weight + (size_t)c->bias; }

static void normalise(const hd_call *call, float *y, const cut *t) {
  const hd_moments_config *c = call->config;
  size_t slot = running_slot(c);
  const float *means = c->running ? weight_at(call, slot) : NULL, *variances = c->running ? weight_at(call, slot + 1) : NULL;
  k_normalise_f32(y, call->in[0].data, means, variances, &t->groups, c->epsilon);
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_moments_config *c = call->config;
  const cut t = cut_of(c, call->in[0].shape);
  float *y = call->out[0].data;
  if (t.n) {
    normalise(call, y, &t);
    k_affine_f32(y, c->weight ? weight_at(call, SLOT_WEIGHT) : NULL,
                 c->bias ? weight_at(call, c->weight ? SLOT_BIAS : SLOT_WEIGHT) : NULL, &t.affine, t.n);
  }
  memset(y + t.n, 0, (hd_shape_size(call->out[0].shape) - t.n) * sizeof *y);
  return HD_OK;
}

/* scratch: x̂, then d_y · weight. */
static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_moments_config *c = call->config;
  const cut t = cut_of(c, call->in[0].shape);
  float *x_hat = call->scratch, *d_x_hat = x_hat + hd_shape_size(call->in[0].shape);
  if (t.n == 0) return HD_OK;
  normalise(call, x_hat, &t);
  k_affine_grad_f32(c->weight ? call->d_weight[SLOT_WEIGHT] : NULL, c->bias ? call->d_weight[SLOT_BIAS] : NULL,
                    call->d_out[0], x_hat, &t.affine, t.n);
  memcpy(d_x_hat, call->d_out[0], t.n * sizeof *d_x_hat);
  k_affine_f32(d_x_hat, c->weight ? weight_at(call, SLOT_WEIGHT) : NULL, NULL, &t.affine, t.n);
  const float *variances = c->running ? weight_at(call, running_slot(c) + 1) : NULL;
  if (call->d_in[0]) k_normalise_grad_f32(call->d_in[0], d_x_hat, x_hat, call->in[0].data, variances, &t.groups, c->epsilon);
  return HD_OK;
}

hd_moments_config hd_layer_norm_of(size_t size, float epsilon, bool bias) {
  return (hd_moments_config){.over = HD_OVER_ROWS, .n_dims = 1, .shape = {size}, .size = size,
                             .epsilon = epsilon, .weight = true, .bias = bias};
}

hd_value hd_build_layer_norm(hd_builder *b, const char *name, const char *weights, size_t size, float epsilon, bool bias, hd_value x) {
  const hd_moments_config c = hd_layer_norm_of(size, epsilon, bias);
  return hd_build(b, &hd_layer_layer_norm, name, weights, &c, &x, 1);
}

/* ---- Rows ---- */

static const char *const layer_aliases[] = {"layernorm", "LayerNorm", NULL}, *const group_aliases[] = {"GroupNorm", NULL};
static const char *const instance_aliases[] = {"InstanceNorm1d", "InstanceNorm2d", NULL},
                  *const batch_aliases[] = {"BatchNorm1d", "BatchNorm2d", NULL};
static const hd_bundle_name layer_bundle_names[] = {{"weight", "gamma", false}, {"bias", "beta", false}, {NULL, NULL, false}};

const hd_layer hd_layer_layer_norm = {
  .name = "layer_norm",
  .example = "{\"type\":\"layer_norm\",\"normalized_shape\":[2,3],\"input_shape\":[3,2,3]}",
  .aliases = layer_aliases,
  .config_bytes = sizeof(hd_moments_config),
  .parse = parse_layer,
  .write = write_layer,
  .bundle_names = layer_bundle_names,
  .expand = expand_layer,
  .infer = infer,
  .many_sequences = true,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};

const hd_layer hd_layer_group_norm = {
  .name = "group_norm",
  .example = "{\"type\":\"group_norm\",\"num_groups\":2,\"num_channels\":4,\"input_shape\":[2,4,3]}",
  .aliases = group_aliases,
  .config_bytes = sizeof(hd_moments_config),
  .parse = parse_group,
  .write = write_channels,
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};

const hd_layer hd_layer_instance_norm = {
  .name = "instance_norm",
  .example = "{\"type\":\"instance_norm\",\"num_features\":3,\"affine\":true,\"input_shape\":[2,3,4]}",
  .aliases = instance_aliases,
  .config_bytes = sizeof(hd_moments_config),
  .parse = parse_instance,
  .write = write_channels,
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};

const hd_layer hd_layer_batch_norm = {
  .name = "batch_norm",
  .example = "{\"type\":\"batch_norm\",\"num_features\":3,\"track_running_stats\":false,\"input_shape\":[4,3,2]}",
  .aliases = batch_aliases,
  .config_bytes = sizeof(hd_moments_config),
  .parse = parse_batch,
  .write = write_channels,
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
