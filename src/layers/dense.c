/* dense.c: Loom's dense layer, y = activation(W·x + b): a linear and an activation.
 *
 * The loom dialect's names for activations mean Loom's own functions (its relu is max(0, 1.1·x)), and every name it does not know is that
 * relu, as Loom reads it (shared/formats/loom.md, section b). The standard dialect means the textbook's. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

static const struct { const char *loom, *ours; } loom_names[] = {
  {"relu", "loom_relu"}, {"sigmoid", "sigmoid"}, {"tanh", "tanh"}, {"softplus", "loom_softplus"}, {"leaky_relu", "loom_leaky_relu"},
};
enum { N_LOOM_NAMES = sizeof loom_names / sizeof loom_names[0] };

const hd_activation *hd_loom_activation(const char *name) {
  for (size_t i = 0; i < N_LOOM_NAMES; i++)
    if (strcmp(loom_names[i].loom, name) == 0) return hd_activation_find(loom_names[i].ours);
  return hd_activation_find("loom_relu");
}

const char *hd_loom_activation_name(const hd_activation *activation) {
  for (size_t i = 0; activation && i < N_LOOM_NAMES; i++)
    if (strcmp(loom_names[i].ours, activation->name) == 0) return loom_names[i].loom;
  return NULL;
}

const hd_activation *hd_parse_activation(hd_parse *p) {
  if (p->dialect == HD_LOOM) return hd_loom_activation(hd_json_get_text(&p->json, "activation", ""));
  const char *name = hd_json_get_text(&p->json, "activation", "linear");
  if (strcmp(name, "linear") == 0) return NULL;
  const hd_activation *activation = hd_activation_find(name);
  char room[HD_NAME_ROOM];
  if (!activation) hd_json_refuse(&p->json, "activation", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
  return activation;
}

/* Sizes have PyTorch's names, or Loom's: a bundle has input_height and output_height (beside width = height = 1, which are filler), a
 * network in JSON may use any of its three pairs, the first that is there (loom.md, section d). */
enum { TORCH, LOOM_WIDE, LOOM_JSON, LOOM_BUNDLE, N_SPELLINGS };

static size_t get_size(hd_parse *p, const char *const of[N_SPELLINGS]) {
  const hd_json *j = &p->json;
  const bool filler = hd_json_get_size(j, "width", 0) == 1 && hd_json_get_size(j, "height", 0) == 1 && hd_json_has(j, of[LOOM_BUNDLE]);
  size_t size = hd_json_get_size(j, of[TORCH], 0);
  for (int i = filler ? LOOM_JSON : LOOM_WIDE; i < N_SPELLINGS && size == 0; i++) size = hd_json_get_size(j, of[i], 0);
  const char *const named = of[p->dialect == HD_LOOM ? LOOM_BUNDLE : TORCH];
  if (size == 0) hd_json_refuse_size(j, (const char *const[]){named, of[TORCH], of[LOOM_JSON], of[LOOM_BUNDLE], NULL}, SIZE_MAX);
  return size;
}

static void parse(void *config, hd_parse *p) {
  hd_dense_config *c = config;
  static const char *const in[] = {"in_features", "width", "input_size", "input_height"},
                    *const out[] = {"out_features", "height", "output_size", "output_height"};
  c->linear.in_features = get_size(p, in);
  c->linear.out_features = get_size(p, out);
  c->linear.bias = p->dialect == HD_LOOM || hd_json_get_bool(&p->json, "bias", true);
  if (p->dialect == HD_LOOM) c->linear.fixed_rows = p->batch;
  c->activation = hd_parse_activation(p);
}

hd_status hd_write_activation(const hd_activation *activation, cJSON *json, hd_dialect dialect, hd_error *err) {
  const char *standard = activation ? activation->name : "linear";
  const char *name = dialect == HD_LOOM ? hd_loom_activation_name(activation) : standard;
  if (!name) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no activation '%s'", standard);
  cJSON_AddStringToObject(json, "activation", name);
  return HD_OK;
}

static hd_status write_loom(const hd_dense_config *c, cJSON *json, hd_error *err) {
  HD_TRY(hd_write_activation(c->activation, json, HD_LOOM, err));
  cJSON_AddNumberToObject(json, "width", 1);
  cJSON_AddNumberToObject(json, "height", 1);
  cJSON_AddNumberToObject(json, "input_height", (double)c->linear.in_features);
  cJSON_AddNumberToObject(json, "output_height", (double)c->linear.out_features);
  return HD_OK;
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_dense_config *c = config;
  if (dialect == HD_LOOM) return write_loom(c, json, err);
  cJSON_AddNumberToObject(json, "in_features", (double)c->linear.in_features);
  cJSON_AddNumberToObject(json, "out_features", (double)c->linear.out_features);
  cJSON_AddBoolToObject(json, "bias", c->linear.bias);
  return hd_write_activation(c->activation, json, dialect, err);
}

static size_t out_features(const void *config) { return ((const hd_dense_config *)config)->linear.out_features; }

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value input) {
  const hd_dense_config *c = spec->config;
  if (!c->activation) return hd_build(b, &hd_layer_linear, "", "", &c->linear, &input, 1);
  hd_value x = hd_build(b, &hd_layer_linear, "linear", "", &c->linear, &input, 1);
  return hd_build(b, &hd_layer_activation, "", "", &(hd_activation_config){.activation = c->activation}, &x, 1);
}

static const hd_bundle_name bundle_names[] = {{"weight", "kernel", true}, {"bias", "biases", false}, {NULL, NULL, false}};

const hd_layer hd_layer_dense = {
  .name = "dense",
  .example = "{\"type\":\"dense\",\"in_features\":5,\"out_features\":3,\"activation\":\"tanh\",\"input_shape\":[4,5]}",
  .config_bytes = sizeof(hd_dense_config),
  .parse = parse,
  .write = write,
  .bundle_names = bundle_names,
  .out_features = out_features,
  .expand = expand,
};
