/* encoder.c: PyTorch's MultiheadAttention of a sequence to itself, TransformerEncoderLayer and TransformerEncoder ("Attention Is All
 * You Need", Vaswani et al., 2017). Weights have PyTorch's names: the three projections of q, k and v lie in one matrix. Dropout is
 * as in eval: none.
 * x: [positions, width], [positions, batch, width], or with batch_first [batch, positions, width]. */
#include "base/status.h"
#include "layers/axes.h"
#include "layers/rows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct self_attention_config {
  size_t width, heads;
  bool bias, batch_first;
  bool causal; /* position i sees those up to i */
} self_attention_config;

/* ---- swap: [a, b, c] → [b, a, c]; two dimensions stay ---- */

static hd_status infer_swap(hd_infer *i, hd_error *err) {
  if (i->in[0]->n_dims != 2 && i->in[0]->n_dims != 3)
    return hd_infer_fail(i, err, "expected 2 or 3 dimensions, found %d", i->in[0]->n_dims);
  i->out[0] = *i->in[0];
  if (i->in[0]->n_dims == 2) return HD_OK;
  i->out[0].dim[0] = i->in[0]->dim[1];
  i->out[0].dim[1] = i->in[0]->dim[0];
  return HD_OK;
}

/* Where row r of the input goes. */
static size_t swapped(const hd_shape *in, size_t r) { return in->n_dims == 2 ? r : r % in->dim[1] * in->dim[0] + r / in->dim[1]; }

static hd_status forward_swap(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_shape *in = call->in[0].shape;
  size_t width = hd_shape_last(in), rows = hd_shape_rows(in);
  for (size_t r = 0; r < rows; r++) memcpy(call->out[0].data + swapped(in, r) * width, call->in[0].data + r * width, width * sizeof(float));
  return HD_OK;
}

static hd_status backward_swap(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_shape *in = call->in[0].shape;
  size_t width = hd_shape_last(in), rows = hd_shape_rows(in);
  for (size_t r = 0; call->d_in[0] && r < rows; r++)
    k_axpy_f32(call->d_in[0] + r * width, 1, call->d_out[0] + swapped(in, r) * width, width);
  return HD_OK;
}

const hd_layer hd_layer_swap = {.name = "swap", .infer = infer_swap, .forward = forward_swap, .backward = backward_swap};

/* ---- torch_attention ---- */

enum { MOST_WIDTH = 1 << 20, MOST_LAYERS = 1024 };

static void check_heads(const self_attention_config *c, hd_parse *p, const char *heads_key) {
  if (c->heads && c->width % c->heads)
    hd_json_refuse(&p->json, heads_key, HD_BAD_FILE, "expected a divisor of %zu, found %zu", c->width, c->heads);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse_attention(void *config, hd_parse *p) {
  self_attention_config *c = config;
  hd_json *j = &p->json;
  c->width = hd_json_need_size(j, "embed_dim", MOST_WIDTH);
  c->heads = hd_json_need_size(j, "num_heads", MOST_WIDTH);
  c->bias = hd_json_get_bool(j, "bias", true);
  c->batch_first = hd_json_get_bool(j, "batch_first", false);
  c->causal = hd_json_get_bool(j, "is_causal", false);
  check_heads(c, p, "num_heads");
  hd_refuse_inputs(p, (const char *const[]){"key", "value", "attn_mask", "key_padding_mask", NULL});
  static const char *const widths[] = {"kdim", "vdim"}, *const extras[] = {"add_bias_kv", "add_zero_attn"};
  for (int i = 0; i < 2; i++) {
    if (hd_json_get_size(j, widths[i], c->width) != c->width)
      hd_json_refuse(j, widths[i], HD_UNSUPPORTED, "keys and values are the input itself, of width %zu: a graph has one input", c->width);
    if (hd_json_get_bool(j, extras[i], false)) hd_json_refuse(j, extras[i], HD_UNSUPPORTED, "keys beyond those of the input are not built");
  }
}

static hd_status write_attention(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const self_attention_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no torch_attention");
  cJSON_AddNumberToObject(json, "embed_dim", (double)c->width);
  cJSON_AddNumberToObject(json, "num_heads", (double)c->heads);
  cJSON_AddBoolToObject(json, "bias", c->bias);
  cJSON_AddBoolToObject(json, "batch_first", c->batch_first);
  cJSON_AddBoolToObject(json, "is_causal", c->causal);
  return HD_OK;
}

static hd_value expand_attention(hd_builder *b, const hd_spec *spec, hd_value x) {
  const self_attention_config *c = spec->config;
  const hd_linear_config in = {.in_features = c->width, .out_features = 3 * c->width, .bias = c->bias,
                               .weight_role = "in_proj_weight", .bias_role = "in_proj_bias"};
  const hd_linear_config out = {.in_features = c->width, .out_features = c->width, .bias = c->bias};
  const hd_attention_config attention = {.heads = c->heads, .kv_heads = c->heads, .head_dim = c->width / c->heads, .causal = c->causal,
                                         .scale = 1.0f / sqrtf((float)(c->width / c->heads))};
  static const char *const names[] = {"q", "k", "v"};
  hd_value qkv[3];
  if (!c->batch_first) x = hd_build(b, &hd_layer_swap, "batch_first", "", NULL, &x, 1);
  x = hd_build(b, &hd_layer_linear, "in_proj", "", &in, &x, 1);
  for (size_t i = 0; i < 3; i++) qkv[i] = hd_build(b, &hd_layer_columns, names[i], "", &(hd_columns_config){i * c->width, c->width}, &x, 1);
  x = hd_build(b, &hd_layer_attention, "attention", "", &attention, qkv, 3);
  if (c->batch_first) return hd_build(b, &hd_layer_linear, "", "out_proj.", &out, &x, 1);
  x = hd_build(b, &hd_layer_linear, "out_proj", "out_proj.", &out, &x, 1);
  return hd_build(b, &hd_layer_swap, "", "", NULL, &x, 1);
}

/* ---- transformer_encoder_layer: pre-norm x + f(norm(x)), or post-norm norm(x + f(x)), of attention and of two linears ---- */

typedef struct encoder_config {
  self_attention_config attention;
  size_t hidden;
  const hd_activation *activation;
  float epsilon;
  bool norm_first;
  size_t n_layers; /* of an encoder */
  bool final_norm;
} encoder_config;

static void parse_layer(void *config, hd_parse *p) {
  encoder_config *c = config;
  hd_json *j = &p->json;
  c->attention.width = hd_json_need_size(j, "d_model", MOST_WIDTH);
  c->attention.heads = hd_json_need_size(j, "nhead", MOST_WIDTH);
  c->attention.bias = hd_json_get_bool(j, "bias", true);
  c->attention.batch_first = hd_json_get_bool(j, "batch_first", false);
  c->attention.causal = hd_json_get_bool(j, "is_causal", false);
  c->hidden = hd_json_get_size(j, "dim_feedforward", 2048);
  c->epsilon = (float)hd_json_get_number(j, "layer_norm_eps", 1e-5);
  c->norm_first = hd_json_get_bool(j, "norm_first", false);
  const char *name = hd_json_get_text(j, "activation", "relu");
  char room[HD_NAME_ROOM];
  c->activation = hd_activation_find(name);
  if (!c->activation) hd_json_refuse(j, "activation", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
  if (c->hidden == 0) hd_json_refuse_size(j, (const char *const[]){"dim_feedforward", NULL}, SIZE_MAX);
  check_heads(&c->attention, p, "nhead");
  hd_refuse_inputs(p, (const char *const[]){"src_mask", "src_key_padding_mask", NULL});
}

static void parse_encoder(void *config, hd_parse *p) {
  encoder_config *c = config;
  parse_layer(c, p);
  c->n_layers = hd_json_need_size(&p->json, "num_layers", MOST_LAYERS);
  c->final_norm = hd_json_get_bool(&p->json, "norm", false);
}

static hd_status write_layer(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const encoder_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no transformer encoder");
  cJSON_AddNumberToObject(json, "d_model", (double)c->attention.width);
  cJSON_AddNumberToObject(json, "nhead", (double)c->attention.heads);
  cJSON_AddNumberToObject(json, "dim_feedforward", (double)c->hidden);
  cJSON_AddStringToObject(json, "activation", c->activation->name);
  hd_json_add_float(json, "layer_norm_eps", c->epsilon);
  cJSON_AddBoolToObject(json, "bias", c->attention.bias);
  cJSON_AddBoolToObject(json, "batch_first", c->attention.batch_first);
  cJSON_AddBoolToObject(json, "norm_first", c->norm_first);
  cJSON_AddBoolToObject(json, "is_causal", c->attention.causal);
  return HD_OK;
}

static hd_status write_encoder(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const encoder_config *c = config;
  HD_TRY(write_layer(c, json, dialect, err));
  cJSON_AddNumberToObject(json, "num_layers", (double)c->n_layers);
  cJSON_AddBoolToObject(json, "norm", c->final_norm);
  return HD_OK;
}

static hd_value norm(hd_builder *b, const encoder_config *c, const char *name, const char *weights, hd_value x) {
  return hd_build_layer_norm(b, name, weights, c->attention.width, c->epsilon, c->attention.bias, x);
}

static hd_value feed_forward(hd_builder *b, const encoder_config *c, hd_value x) {
  const hd_linear_config in = {.in_features = c->attention.width, .out_features = c->hidden, .bias = c->attention.bias};
  const hd_linear_config out = {.in_features = c->hidden, .out_features = c->attention.width, .bias = c->attention.bias};
  x = hd_build(b, &hd_layer_linear, "linear1", "linear1.", &in, &x, 1);
  x = hd_build(b, &hd_layer_activation, "activation", "", &(hd_activation_config){.activation = c->activation}, &x, 1);
  return hd_build(b, &hd_layer_linear, "linear2", "linear2.", &out, &x, 1);
}

static hd_value add(hd_builder *b, const char *name, hd_value x, hd_value y) {
  return hd_build(b, &hd_layer_add, name, "", NULL, (hd_value[]){x, y}, 2);
}

static hd_value expand_layer(hd_builder *b, const hd_spec *spec, hd_value x) {
  const encoder_config *c = spec->config;
  hd_value y = c->norm_first ? norm(b, c, "norm1", "norm1.", x) : x;
  y = hd_build(b, &hd_layer_torch_attention, "self_attn", "self_attn.", &c->attention, &y, 1);
  x = add(b, "attended", x, y);
  if (c->norm_first) return add(b, "", x, feed_forward(b, c, norm(b, c, "norm2", "norm2.", x)));
  x = norm(b, c, "norm1", "norm1.", x);
  return norm(b, c, "", "norm2.", add(b, "fed_forward", x, feed_forward(b, c, x)));
}

static hd_value expand_encoder(hd_builder *b, const hd_spec *spec, hd_value x) {
  const encoder_config *c = spec->config;
  for (size_t l = 0; l < c->n_layers; l++) {
    char name[32], weights[32];
    snprintf(name, sizeof name, "layers.%zu", l);
    snprintf(weights, sizeof weights, "layers.%zu.", l);
    x = hd_build(b, &hd_layer_transformer_encoder_layer, name, weights, c, &x, 1);
  }
  return c->final_norm ? norm(b, c, "", "norm.", x) : x;
}

static const char *const attention_aliases[] = {"MultiheadAttention", NULL}, *const layer_aliases[] = {"TransformerEncoderLayer", NULL},
  *const encoder_aliases[] = {"TransformerEncoder", NULL};

const hd_layer hd_layer_torch_attention = {
  .name = "torch_attention",
  .example = "{\"type\":\"torch_attention\",\"embed_dim\":6,\"num_heads\":2,\"is_causal\":true,\"input_shape\":[4,2,6]}",
  .aliases = attention_aliases,
  .config_bytes = sizeof(self_attention_config),
  .parse = parse_attention,
  .write = write_attention,
  .expand = expand_attention,
};

const hd_layer hd_layer_transformer_encoder_layer = {
  .name = "transformer_encoder_layer",
  .example = "{\"type\":\"transformer_encoder_layer\",\"d_model\":8,\"nhead\":2,\"dim_feedforward\":5,"
             "\"activation\":\"gelu\",\"batch_first\":true,\"input_shape\":[2,3,8]}",
  .aliases = layer_aliases,
  .config_bytes = sizeof(encoder_config),
  .parse = parse_layer,
  .write = write_layer,
  .expand = expand_layer,
};

const hd_layer hd_layer_transformer_encoder = {
  .name = "transformer_encoder",
  .example = "{\"type\":\"transformer_encoder\",\"num_layers\":2,\"norm\":true,\"d_model\":8,\"nhead\":2,"
             "\"dim_feedforward\":5,\"activation\":\"tanh\",\"norm_first\":true,\"batch_first\":true,\"input_shape\":[1,3,8]}",
  .aliases = encoder_aliases,
  .config_bytes = sizeof(encoder_config),
  .parse = parse_encoder,
  .write = write_encoder,
  .expand = expand_encoder,
};
