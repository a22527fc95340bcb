/* softmax.c: y = softmax(x / temperature) over the last dimension (standard), or over each of `batch` equal parts of the whole input, as
 * Loom cuts it; what the division leaves over stays 0 there. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

typedef struct softmax_config {
  float temperature;
  size_t parts; /* Loom's batch; 0: rows */
} softmax_config;

/* standard and temperature are one function in Loom; so is any name it does not know. The others come with a later issue. */
static bool is_standard_variant(const char *name) {
  static const char *const others[] = {"grid", "hierarchical", "masked", "gumbel", "sparse", "entmax", "adaptive", "mixture"};
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    if (strcmp(name, others[i]) == 0) return false;
  return true;
}

static void parse(void *config, hd_parse *p) {
  softmax_config *c = config;
  double temperature = hd_json_get_number(&p->json, "temperature", 0);
  c->temperature = temperature == 0 ? 1.0f : (float)temperature;
  c->parts = p->dialect == HD_LOOM ? p->batch : 0;
  const char *variant = hd_json_get_text(&p->json, "softmax_variant", "standard");
  char room[HD_NAME_ROOM];
  if (!is_standard_variant(variant))
    hd_json_refuse(&p->json, "softmax_variant", HD_UNSUPPORTED, "softmax variant '%s' is not built yet", hd_short_name(room, variant));
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)err;
  const softmax_config *c = config;
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes it for every layer and ignores it here */
  cJSON_AddStringToObject(json, "softmax_variant", "standard");
  if (c->temperature != 1.0f) cJSON_AddNumberToObject(json, "temperature", (double)c->temperature);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  (void)err;
  i->out[0] = *i->in[0];
  return HD_OK;
}

typedef struct parts {
  size_t n_rows, n;
} parts;

static parts cut(const softmax_config *c, const hd_shape *shape) {
  if (c->parts) return (parts){c->parts, hd_shape_size(shape) / c->parts};
  return (parts){hd_shape_rows(shape), hd_shape_last(shape)};
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const softmax_config *c = call->config;
  const parts p = cut(c, call->in[0].shape);
  for (size_t r = 0; r < p.n_rows; r++) k_softmax_f32(call->out[0].data + r * p.n, call->in[0].data + r * p.n, p.n, 1.0f / c->temperature);
  size_t done = p.n_rows * p.n, all = hd_shape_size(call->out[0].shape);
  memset(call->out[0].data + done, 0, (all - done) * sizeof(float));
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const softmax_config *c = call->config;
  const parts p = cut(c, call->in[0].shape);
  for (size_t r = 0; call->d_in[0] && r < p.n_rows; r++)
    k_softmax_grad_f32(call->d_in[0] + r * p.n, call->d_out[0] + r * p.n, call->out[0].data + r * p.n, p.n, 1.0f / c->temperature);
  return HD_OK;
}

static const char *const aliases[] = {"Softmax", NULL};

const hd_layer hd_layer_softmax = {
  .name = "softmax",
  .example = "{\"type\":\"softmax\",\"temperature\":0.5,\"input_shape\":[3,6]}",
  .aliases = aliases,
  .config_bytes = sizeof(softmax_config),
  .parse = parse,
  .write = write,
  .infer = infer,
  .in_place = true,
  .forward = forward,
  .backward = backward,
};
