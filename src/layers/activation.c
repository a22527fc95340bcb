/* layers/activation.c: an activation as a layer of its own. Which functions there are stands in kernels/elementwise.h. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

static void parse(void *config, hd_parse *p) {
  hd_activation_config *c = config;
  const char *type = hd_json_get_text(&p->json, "type", "");
  const char *name = strcmp(type, "activation") == 0 ? hd_json_get_text(&p->json, "activation", "") : type;
  c->activation = hd_activation_find(name);
  if (!c->activation) {
    char room[HD_NAME_ROOM];
    hd_json_refuse(&p->json, "activation", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
  }
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_activation_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no activation layer");
  cJSON_AddStringToObject(json, "activation", c->activation->name);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  (void)err;
  i->out[0] = *i->in[0];
  return HD_OK;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_activation_config *c = call->config;
  c->activation->forward(call->out[0].data, call->in[0].data, hd_shape_size(call->out[0].shape));
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_activation_config *c = call->config;
  if (call->d_in[0]) c->activation->backward(call->d_in[0], call->d_out[0], call->in[0].data, hd_shape_size(call->out[0].shape));
  return HD_OK;
}

static const char *const aliases[] = {"relu", "leaky_relu", "sigmoid", "tanh", "softplus", "silu", "gelu", "gelu_tanh", NULL};

const hd_layer hd_layer_activation = {
  .name = "activation",
  .example = "{\"type\":\"activation\",\"activation\":\"silu\",\"input_shape\":[3,7]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_activation_config),
  .parse = parse,
  .write = write,
  .infer = infer,
  .in_place = true,
  .forward = forward,
  .backward = backward,
};
