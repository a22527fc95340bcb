/* glu.c: the gated feed-forward block, y = down(silu(gate(x)) · up(x)) ("GLU Variants Improve Transformer", Shazeer, 2020). */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

static void parse(void *config, hd_parse *p) {
  hd_swiglu_config *c = config;
  static const char *const in[] = {"input_height", "input_size", NULL}, *const out[] = {"output_height", "output_size", NULL};
  c->d_model = hd_json_get_size(&p->json, in[0], 0);
  c->hidden = hd_json_get_size(&p->json, out[0], 0);
  c->bias = hd_json_get_bool(&p->json, "bias", true);
  c->fused = p->dialect == HD_STANDARD && hd_json_get_bool(&p->json, "fused", false);
  const char *name = hd_json_get_text(&p->json, "activation", "silu");
  c->activation = hd_activation_find(p->dialect == HD_LOOM ? "silu" : name);
  char room[HD_NAME_ROOM];
  if (!c->activation) hd_json_refuse(&p->json, "activation", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
  if (c->d_model == 0) hd_json_refuse_size(&p->json, in, SIZE_MAX);
  if (c->hidden == 0) hd_json_refuse_size(&p->json, out, SIZE_MAX);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)err;
  const hd_swiglu_config *c = config;
  cJSON_AddNumberToObject(json, "input_height", (double)c->d_model);
  cJSON_AddNumberToObject(json, "output_height", (double)c->hidden);
  if (dialect == HD_LOOM) {
    cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
    return HD_OK;
  }
  cJSON_AddBoolToObject(json, "bias", c->bias);
  if (c->fused) cJSON_AddBoolToObject(json, "fused", true);
  cJSON_AddStringToObject(json, "activation", c->activation->name);
  return HD_OK;
}

/* gate, then up: two matrices, or the first and the second half of one. */
static void build_gate_and_up(hd_builder *b, const hd_swiglu_config *c, hd_value x, hd_value out[2]) {
  static const char *const names[] = {"gate", "up"}, *const weights[] = {"gate_proj.", "up_proj."};
  const hd_linear_config one = {.in_features = c->d_model, .out_features = c->hidden, .bias = c->bias};
  const hd_linear_config both = {.in_features = c->d_model, .out_features = 2 * c->hidden, .bias = c->bias};
  if (c->fused) x = hd_build(b, &hd_layer_linear, "gate_up", "gate_up_proj.", &both, &x, 1);
  for (size_t i = 0; i < 2; i++) {
    if (c->fused) out[i] = hd_build(b, &hd_layer_columns, names[i], "", &(hd_columns_config){i * c->hidden, c->hidden}, &x, 1);
    else out[i] = hd_build(b, &hd_layer_linear, names[i], weights[i], &one, &x, 1);
  }
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  const hd_swiglu_config *c = spec->config;
  const bool loom = hd_build_dialect(b) == HD_LOOM;
  if (loom) x = hd_build(b, &hd_layer_as_rows, "rows", "", &(hd_as_rows_config){c->d_model}, &x, 1);
  const hd_linear_config out = {.in_features = c->hidden, .out_features = c->d_model, .bias = c->bias};
  hd_value in[2];
  build_gate_and_up(b, c, x, in);
  hd_value act = hd_build(b, &hd_layer_activation, "act", "", &(hd_activation_config){.activation = c->activation}, in, 1);
  hd_value product = hd_build(b, &hd_layer_multiply, "act_mul_up", "", NULL, (hd_value[]){act, in[1]}, 2);
  const bool last = loom && hd_build_carried(b) == HD_NO_VALUE; /* in the loom dialect a layer's last value has the layer's own name */
  hd_value down = hd_build(b, &hd_layer_linear, last ? "" : "down", "down_proj.", &out, &product, 1);
  down = hd_build_add_carried(b, "", down);
  hd_build_carry(b, down);
  return down;
}

static const hd_bundle_name bundle_names[] = {
  {"gate_proj.weight", "gate_weights", true}, {"up_proj.weight", "up_weights", true}, {"down_proj.weight", "down_weights", true},
  {"gate_proj.bias", "gate_bias", false},     {"up_proj.bias", "up_bias", false},     {"down_proj.bias", "down_bias", false},
  {NULL, NULL, false},
};

const hd_layer hd_layer_swiglu = {
  .name = "swiglu",
  .example = "{\"type\":\"swiglu\",\"input_height\":6,\"output_height\":9,\"input_shape\":[4,6]}",
  .config_bytes = sizeof(hd_swiglu_config),
  .parse = parse,
  .write = write,
  .bundle_names = bundle_names,
  .expand = expand,
};
