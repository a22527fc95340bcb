/* layers/activation.c: an activation as a layer of its own, and PReLU, whose slope is a weight. Which functions there are stands in
 * kernels/activation.c. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

/* PyTorch's GELU(approximate="tanh") is a function of its own here. */
static const hd_activation *find(hd_parse *p, const char *name) {
  const hd_activation *activation = hd_activation_find(name);
  bool is_gelu = activation && strcmp(activation->name, "gelu") == 0;
  return is_gelu && strcmp(hd_json_get_text(&p->json, "approximate", "none"), "tanh") == 0 ? hd_activation_find("gelu_tanh") : activation;
}

static void parse(void *config, hd_parse *p) {
  hd_activation_config *c = config;
  const char *type = hd_json_get_text(&p->json, "type", "");
  const char *name = strcmp(type, "activation") == 0 ? hd_json_get_text(&p->json, "activation", "") : type;
  c->activation = find(p, name);
  char room[HD_NAME_ROOM];
  if (!c->activation) {
    hd_json_refuse(&p->json, "activation", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
    return;
  }
  for (int k = 0; k < 2 && c->activation->keys[k]; k++) {
    c->parameters[k] = (float)hd_json_get_number(&p->json, c->activation->keys[k], (double)c->activation->defaults[k]);
    c->has_parameters |= c->parameters[k] != c->activation->defaults[k];
  }
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_activation_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no activation layer");
  cJSON_AddStringToObject(json, "activation", c->activation->name);
  for (int k = 0; c->has_parameters && k < 2 && c->activation->keys[k]; k++)
    hd_json_add_float(json, c->activation->keys[k], c->parameters[k]);
  return HD_OK;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_activation_config *c = call->config;
  size_t n = hd_shape_size(call->out[0].shape);
  if (c->has_parameters) c->activation->forward_with(call->out[0].data, call->in[0].data, n, c->parameters);
  else c->activation->forward(call->out[0].data, call->in[0].data, n);
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_activation_config *c = call->config;
  size_t n = hd_shape_size(call->out[0].shape);
  if (!call->d_in[0]) return HD_OK;
  if (c->has_parameters) c->activation->backward_with(call->d_in[0], call->d_out[0], call->in[0].data, n, c->parameters);
  else c->activation->backward(call->d_in[0], call->d_out[0], call->in[0].data, n);
  return HD_OK;
}

/* Every activation's name, ours and PyTorch's. */
static const char *const aliases[] = {
  "relu", "relu6", "relu_squared", "leaky_relu", "hardsigmoid", "hardswish", "softsign", "sigmoid", "tanh",
  "soft_cap", "softplus", "logsigmoid",
  "elu", "selu", "silu", "mish", "gelu", "gelu_tanh", "quick_gelu",
  "Identity", "ReLU", "ReLU6", "LeakyReLU", "Hardsigmoid", "Hardswish", "Softsign", "Sigmoid", "Tanh", "Softplus", "LogSigmoid",
  "ELU", "SELU", "SiLU", "Mish", "GELU", NULL,
};

const hd_layer hd_layer_activation = {
  .name = "activation",
  .example = "{\"type\":\"activation\",\"activation\":\"softplus\",\"beta\":2,\"input_shape\":[3,7]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_activation_config),
  .parse = parse,
  .write = write,
  .infer = hd_infer_same,
  .many_sequences = true,
  .in_place = true,
  .forward = forward,
  .backward = backward,
};

/* ---- prelu: max(0, x) + weight · min(0, x), one weight for all or one for each channel (dimension 1); He et al., 2015 ---- */

typedef struct prelu_config {
  size_t n;
} prelu_config;

static void parse_prelu(void *config, hd_parse *p) {
  prelu_config *c = config;
  c->n = hd_json_get_size(&p->json, "num_parameters", 1);
  if (c->n == 0) hd_json_refuse_size(&p->json, (const char *const[]){"num_parameters", NULL}, SIZE_MAX);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no 'prelu'");
}

static hd_status write_prelu(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no prelu layer");
  cJSON_AddNumberToObject(json, "num_parameters", (double)((const prelu_config *)config)->n);
  return HD_OK;
}

static hd_status infer_prelu(hd_infer *i, hd_error *err) {
  const prelu_config *c = i->config;
  const hd_shape *in = i->in[0];
  if (c->n > 1 && (in->n_dims < 2 || in->dim[1] != c->n)) return hd_infer_fail(i, err, "expected %zu channels in dimension 1", c->n);
  i->out[0] = *in;
  return HD_OK;
}

static size_t slots_prelu(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  slot[0] = (hd_slot){.role = "weight", .n_dims = 1, .shape = {((const prelu_config *)config)->n}, .init = HD_INIT_ONE};
  return 1;
}

/* Elements with the same weight that follow each other. */
static size_t run_of(const prelu_config *c, const hd_shape *in) {
  size_t all = hd_shape_size(in);
  return c->n > 1 && all ? all / (in->dim[0] * c->n) : all;
}

static hd_status forward_prelu(const hd_call *call, hd_error *err) {
  (void)err;
  const prelu_config *c = call->config;
  const float *weight = call->weight[0]->data;
  size_t n = hd_shape_size(call->in[0].shape), run = run_of(c, call->in[0].shape);
  const hd_activation *leaky = hd_activation_find("leaky_relu");
  for (size_t at = 0; at < n; at += run) leaky->forward_with(call->out[0].data + at, call->in[0].data + at, run, &weight[at / run % c->n]);
  return HD_OK;
}

static hd_status backward_prelu(const hd_call *call, hd_error *err) {
  (void)err;
  const prelu_config *c = call->config;
  const float *weight = call->weight[0]->data, *x = call->in[0].data;
  size_t n = hd_shape_size(call->in[0].shape), run = run_of(c, call->in[0].shape);
  const hd_activation *leaky = hd_activation_find("leaky_relu");
  for (size_t at = 0; at < n; at += run) {
    size_t channel = at / run % c->n;
    if (call->d_in[0]) leaky->backward_with(call->d_in[0] + at, call->d_out[0] + at, x + at, run, &weight[channel]);
    for (size_t i = at; call->d_weight[0] && i < at + run; i++) call->d_weight[0][channel] += x[i] < 0 ? call->d_out[0][i] * x[i] : 0;
  }
  return HD_OK;
}

static const char *const prelu_aliases[] = {"PReLU", NULL};

const hd_layer hd_layer_prelu = {
  .name = "prelu",
  .example = "{\"type\":\"prelu\",\"num_parameters\":3,\"input_shape\":[2,3,4]}",
  .aliases = prelu_aliases,
  .config_bytes = sizeof(prelu_config),
  .parse = parse_prelu,
  .write = write_prelu,
  .infer = infer_prelu,
  .slots = slots_prelu,
  .forward = forward_prelu,
  .backward = backward_prelu,
};
