/* norm.c: normalisation over the last dimension. RMSNorm: "Root Mean Square Layer Normalization" (Zhang and Sennrich, 2019). */
#include "base/status.h"
#include "kernels/elementwise.h"
#include "layers/rows.h"

#include <float.h>

#include <string.h>

/* PyTorch's RMSNorm: its shape may be a list of one size, its epsilon null for the machine's. */
static void parse_torch(hd_norm_config *c, hd_parse *p) {
  hd_json shape = hd_json_member(&p->json, "normalized_shape");
  bool is_list = shape.node && cJSON_IsArray(shape.node);
  size_t n = hd_json_count(&p->json, "normalized_shape");
  if (is_list && n == 1) shape = hd_json_item(&shape, 0);
  if (!hd_json_is_size(shape.node, 1, 1 << 24, &c->size))
    hd_json_refuse(&p->json, "normalized_shape", HD_UNSUPPORTED, "expected one whole size of at least 1");
  c->epsilon = (float)hd_json_get_number(&p->json, "eps", (double)FLT_EPSILON);
  c->no_weight = !hd_json_get_bool(&p->json, "elementwise_affine", true);
}

static void parse(void *config, hd_parse *p) {
  hd_norm_config *c = config;
  if (hd_json_has(&p->json, "normalized_shape")) {
    parse_torch(c, p);
    return;
  }
  c->size = hd_json_get_size(&p->json, "norm_size", 0);
  if (c->size == 0) hd_json_refuse_size(&p->json, (const char *const[]){"norm_size", "normalized_shape", NULL}, SIZE_MAX);
  c->no_weight = p->dialect == HD_STANDARD && !hd_json_get_bool(&p->json, "elementwise_affine", true);
  c->plus_one = p->dialect == HD_STANDARD && hd_json_get_bool(&p->json, "plus_one", false);
  c->epsilon = (float)hd_json_get_number(&p->json, "epsilon", 0);
  if (c->epsilon == 0) c->epsilon = 1e-6f;
  c->flat = p->dialect == HD_LOOM;
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)err;
  const hd_norm_config *c = config;
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
  cJSON_AddNumberToObject(json, "norm_size", (double)c->size);
  hd_json_add_float(json, "epsilon", c->epsilon);
  if (c->no_weight) cJSON_AddBoolToObject(json, "elementwise_affine", false);
  if (c->plus_one) cJSON_AddBoolToObject(json, "plus_one", true);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_norm_config *c = i->config;
  if (!c->flat && hd_shape_last(i->in[0]) != c->size) {
    char room[HD_SHAPE_ROOM];
    return hd_infer_fail(i, err, "expected rows of %zu, found shape %s", c->size, hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  }
  i->out[0] = *i->in[0];
  i->scratch_bytes = c->plus_one ? hd_times(c->size, sizeof(float)) : 0;
  return HD_OK;
}

static size_t n_rows(const hd_norm_config *c, const hd_shape *in) { return hd_shape_size(in) / c->size; }

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_norm_config *c = config;
  if (c->no_weight) return 0;
  slot[0] = (hd_slot){.role = "weight", .n_dims = 1, .shape = {c->size}, .lack = HD_LACK_INIT,
                      .init = c->plus_one ? HD_INIT_ZERO : HD_INIT_ONE};
  return 1;
}

/* What rows are multiplied by; NULL: nothing. */
static const float *gamma_of(const hd_call *call) {
  const hd_norm_config *c = call->config;
  const float *weight = call->weight[0] ? call->weight[0]->data : NULL;
  if (!weight || !c->plus_one) return weight;
  float *gamma = call->scratch;
  for (size_t i = 0; i < c->size; i++) gamma[i] = 1.0f + weight[i];
  return gamma;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_norm_config *c = call->config;
  size_t rows = n_rows(c, call->in[0].shape), done = rows * c->size;
  k_rms_norm_f32(call->out[0].data, call->in[0].data, gamma_of(call), rows, c->size, c->epsilon);
  memset(call->out[0].data + done, 0, (hd_shape_size(call->in[0].shape) - done) * sizeof(float));
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_norm_config *c = call->config;
  k_rms_norm_grad_f32(call->d_in[0], call->d_weight[0], call->d_out[0], call->in[0].data, gamma_of(call),
                      n_rows(c, call->in[0].shape), c->size, c->epsilon);
  return HD_OK;
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  hd_build_carry(b, x);
  return hd_build(b, &hd_layer_rms_norm, "", "", spec->config, &x, 1);
}

static const char *const aliases[] = {"rmsnorm", "RMSNorm", NULL};
static const hd_bundle_name bundle_names[] = {{"weight", "gamma", false}, {NULL, NULL, false}};

const hd_layer hd_layer_rms_norm = {
  .name = "rms_norm",
  .example = "{\"type\":\"rms_norm\",\"norm_size\":6,\"epsilon\":1e-5,\"input_shape\":[3,6]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_norm_config),
  .parse = parse,
  .write = write,
  .bundle_names = bundle_names,
  .expand = expand,
  .infer = infer,
  .many_sequences = true,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
