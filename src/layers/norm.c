/* norm.c: normalisation over the last dimension. RMSNorm: "Root Mean Square Layer Normalization" (Zhang and Sennrich, 2019). */
#include "base/status.h"
#include "kernels/elementwise.h"
#include "layers/rows.h"

static void parse(void *config, hd_parse *p) {
  hd_norm_config *c = config;
  c->size = hd_json_get_size(&p->json, "norm_size", 0);
  c->epsilon = (float)hd_json_get_number(&p->json, "epsilon", 0);
  if (c->epsilon == 0) c->epsilon = 1e-6f;
  if (c->size == 0) hd_json_refuse(&p->json, "norm_size", HD_BAD_FILE, "expected a size of at least 1");
  if (p->dialect == HD_LOOM)
    hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "rms_norm in the loom dialect (with its hidden residual) is not built yet");
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)dialect;
  (void)err;
  const hd_norm_config *c = config;
  cJSON_AddNumberToObject(json, "norm_size", (double)c->size);
  cJSON_AddNumberToObject(json, "epsilon", (double)c->epsilon);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_norm_config *c = i->config;
  if (hd_shape_last(i->in[0]) != c->size) {
    char room[HD_SHAPE_ROOM];
    return hd_infer_fail(i, err, "expected rows of %zu, found shape %s", c->size, hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  }
  i->out[0] = *i->in[0];
  return HD_OK;
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_norm_config *c = config;
  slot[0] = (hd_slot){.role = "weight", .n_dims = 1, .shape = {c->size}, .init = HD_INIT_ONE};
  return 1;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_norm_config *c = call->config;
  k_rms_norm_f32(call->out[0].data, call->in[0].data, call->weight[0]->data, hd_shape_rows(call->in[0].shape), c->size, c->epsilon);
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_norm_config *c = call->config;
  k_rms_norm_grad_f32(call->d_in[0], call->d_weight[0], call->d_out[0], call->in[0].data, call->weight[0]->data,
                      hd_shape_rows(call->in[0].shape), c->size, c->epsilon);
  return HD_OK;
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
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
