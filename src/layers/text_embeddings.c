/* text_embeddings.c: what encoders of text have around their blocks ("BERT", Devlin et al., 2019).
 *
 * text_embeddings: tokens + token types + positions. Ids are one list: id + vocab_size · type, so that a pair's second
 * text (type 1) needs no input of its own.
 *
 * pooler: tanh(W·x₀ + b) of the first row, in the value's place or beside it. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

/* ---- text_embeddings ---- */

static void parse(void *config, hd_parse *p) {
  hd_text_embeddings_config *c = config;
  hd_json *j = &p->json;
  c->vocab_size = hd_json_need_size(j, "vocab_size", 1 << 24);
  c->width = hd_json_need_size(j, "embedding_dim", 1 << 24);
  c->n_types = hd_json_get_size(j, "type_vocab_size", 2);
  c->most = hd_json_need_size(j, "max_len", 1 << 24);
  if (c->n_types == 0 || c->n_types > INT32_MAX / (c->vocab_size + 1))
    hd_json_refuse(j, "type_vocab_size", HD_BAD_FILE, "expected a few types, found %zu of %zu ids", c->n_types, c->vocab_size);
  if (p->dialect == HD_LOOM) hd_json_refuse(j, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_text_embeddings_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no text_embeddings");
  cJSON_AddNumberToObject(json, "vocab_size", (double)c->vocab_size);
  cJSON_AddNumberToObject(json, "embedding_dim", (double)c->width);
  cJSON_AddNumberToObject(json, "type_vocab_size", (double)c->n_types);
  cJSON_AddNumberToObject(json, "max_len", (double)c->most);
  return HD_OK;
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value ids) {
  const hd_text_embeddings_config *c = spec->config;
  const hd_embedding_config words = {.vocab_size = c->vocab_size, .embedding_dim = c->width, .n_types = c->n_types};
  const hd_positions_config positions = {.width = c->width, .most = c->most};
  hd_value x = hd_build(b, &hd_layer_embedding, "words", "word_embeddings.", &words, &ids, 1);
  x = hd_build(b, &hd_layer_token_types, "types", "token_type_embeddings.", c, (hd_value[]){x, ids}, 2);
  return hd_build(b, &hd_layer_learned_positions, "", "position_embeddings.", &positions, &x, 1);
}

const hd_layer hd_layer_text_embeddings = {
  .name = "text_embeddings",
  .example = "{\"type\":\"text_embeddings\",\"vocab_size\":5,\"embedding_dim\":4,\"type_vocab_size\":2,\"max_len\":7,\"input_shape\":[6]}",
  .config_bytes = sizeof(hd_text_embeddings_config),
  .parse = parse,
  .write = write,
  .expand = expand,
};

/* ---- token_types: inputs x [.., width] and ids ---- */

static hd_status infer_types(hd_infer *i, hd_error *err) {
  if (hd_shape_rows(i->in[0]) != hd_shape_size(i->in[1]))
    return hd_infer_fail(i, err, "expected %zu ids, found %zu", hd_shape_rows(i->in[0]), hd_shape_size(i->in[1]));
  i->out[0] = *i->in[0];
  return HD_OK;
}

static size_t slots_types(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_text_embeddings_config *c = config;
  slot[0] = (hd_slot){.role = "weight", .n_dims = 2, .shape = {c->n_types, c->width}, .init = HD_INIT_NORMAL, .init_scale = 1};
  return 1;
}

/* The words' node went before and has refused ids without a row. */
static size_t type_at(const hd_call *call, size_t index) {
  const hd_text_embeddings_config *c = call->config;
  int64_t id = hd_id_at(&call->in[1], index, c->vocab_size * c->n_types);
  return id < 0 ? 0 : (size_t)id / c->vocab_size;
}

static hd_status forward_types(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = hd_shape_last(call->in[0].shape), rows = hd_shape_rows(call->in[0].shape);
  const float *weight = call->weight[0]->data;
  for (size_t r = 0; r < rows; r++)
    k_add_f32(call->out[0].data + r * width, call->in[0].data + r * width, weight + type_at(call, r) * width, width);
  return HD_OK;
}

static hd_status backward_types(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = hd_shape_last(call->in[0].shape), rows = hd_shape_rows(call->in[0].shape);
  for (size_t r = 0; call->d_weight[0] && r < rows; r++)
    k_axpy_f32(call->d_weight[0] + type_at(call, r) * width, 1, call->d_out[0] + r * width, width);
  if (call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], rows * width);
  return HD_OK;
}

const hd_layer hd_layer_token_types = {
  .name = "token_types", .config_bytes = sizeof(hd_text_embeddings_config), .infer = infer_types, .slots = slots_types,
  .many_sequences = true, .in_place = true, .forward = forward_types, .backward = backward_types,
};

/* ---- first_row: [n, width] → [1, width], or a row for each sequence ---- */

static hd_status infer_first(hd_infer *i, hd_error *err) {
  if (i->in[0]->n_dims != 2 || i->in[0]->dim[0] == 0)
    return hd_infer_fail(i, err, "expected rows × features, found %d dimensions", i->in[0]->n_dims);
  i->out[0] = *i->in[0];
  i->out[0].dim[0] = i->run->n_sequences;
  return HD_OK;
}

/* Where each sequence's first row lies in the input; `from` is the last one's. */
static size_t next_first(const hd_call *call, size_t sequence, size_t from) {
  return sequence == 0 ? 0 : from + call->run->sequences[sequence - 1].rows * hd_shape_last(call->in[0].shape);
}

static hd_status forward_first(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = hd_shape_last(call->in[0].shape), from = 0;
  for (size_t s = 0; s < call->run->n_sequences; s++) {
    from = next_first(call, s, from);
    memcpy(call->out[0].data + s * width, call->in[0].data + from, width * sizeof(float));
  }
  return HD_OK;
}

static hd_status backward_first(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = hd_shape_last(call->in[0].shape), from = 0;
  for (size_t s = 0; call->d_in[0] && s < call->run->n_sequences; s++) {
    from = next_first(call, s, from);
    k_axpy_f32(call->d_in[0] + from, 1, call->d_out[0] + s * width, width);
  }
  return HD_OK;
}

const hd_layer hd_layer_first_row = {
  .name = "first_row", .infer = infer_first, .many_sequences = true, .forward = forward_first, .backward = backward_first,
};

/* ---- pooler ---- */

static void parse_pooler(void *config, hd_parse *p) {
  hd_pooler_config *c = config;
  c->width = hd_json_need_size(&p->json, "width", 1 << 24);
  c->aside = hd_json_get_bool(&p->json, "aside", false);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static hd_status write_pooler(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_pooler_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no pooler");
  cJSON_AddNumberToObject(json, "width", (double)c->width);
  if (c->aside) cJSON_AddBoolToObject(json, "aside", true);
  return HD_OK;
}

static hd_value expand_pooler(hd_builder *b, const hd_spec *spec, hd_value x) {
  const hd_pooler_config *c = spec->config;
  const hd_linear_config dense = {.in_features = c->width, .out_features = c->width, .bias = true};
  const hd_activation_config tanh = {.activation = hd_activation_find("tanh")};
  hd_value first = hd_build(b, &hd_layer_first_row, "first", "", NULL, &x, 1);
  hd_value y = hd_build(b, &hd_layer_linear, "dense", "dense.", &dense, &first, 1);
  y = hd_build(b, &hd_layer_activation, "", "", &tanh, &y, 1);
  return c->aside ? x : y;
}

const hd_layer hd_layer_pooler = {
  .name = "pooler",
  .example = "{\"type\":\"pooler\",\"width\":4,\"input_shape\":[3,4]}",
  .config_bytes = sizeof(hd_pooler_config),
  .parse = parse_pooler,
  .write = write_pooler,
  .expand = expand_pooler,
};
