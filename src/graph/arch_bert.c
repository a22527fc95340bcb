/* arch_bert.c: BERT ("BERT: Pre-training of Deep Bidirectional Transformers", Devlin et al., 2019) and the sentence
 * encoders of its form (MiniLM, BGE, E5, GTE).
 *
 *   norm(words + types + positions) → n × [ norm(x + attention(x)) → norm(x + W₂·gelu(W₁·x)) ] → pooler beside it, or a classifier
 *
 * A call is one text: its rows see each other and nothing else. A text without padding needs no mask, and a batch is a call for each. The
 * output is last_hidden_state; "pooler_output" is a value of its own. */
#include "base/status.h"
#include "graph/arch_config.h"

#include <math.h>
#include <string.h>

typedef struct bert {
  size_t width, hidden, n_layers, heads, vocab_size, n_types, context;
  float epsilon;
  const hd_activation *activation;
} bert;

static bert read_config(const hd_json *j) {
  bert c = {
    .width = hd_config_size(j, "hidden_size", 0, HD_MAX_WIDTH),
    .hidden = hd_config_size(j, "intermediate_size", 0, HD_MAX_WIDTH),
    .n_layers = hd_config_size(j, "num_hidden_layers", 0, HD_MAX_LAYERS),
    .vocab_size = hd_config_size(j, "vocab_size", 30522, HD_MAX_VOCABULARY),
    .n_types = hd_config_size(j, "type_vocab_size", 2, 64),
    .context = hd_config_size(j, "max_position_embeddings", 512, HD_MAX_CONTEXT),
    .epsilon = (float)hd_json_get_number(j, "layer_norm_eps", 1e-12),
    .activation = hd_config_activation(j, "hidden_act", "gelu"),
  };
  char room[HD_NAME_ROOM];
  const char *kind = hd_json_get_text(j, "position_embedding_type", "absolute");
  c.heads = hd_config_heads(j, "num_attention_heads", 0, c.width);
  if (strcmp(kind, "absolute") != 0)
    hd_json_refuse(j, "position_embedding_type", HD_UNSUPPORTED, "expected absolute, found '%s'", hd_short_name(room, kind));
  if (hd_json_get_bool(j, "is_decoder", false)) hd_json_refuse(j, "is_decoder", HD_UNSUPPORTED, "BERT as a decoder is not built");
  return c;
}

static hd_spec *norm(hd_model *m, const bert *c, const char *name, const char *weights, size_t i) {
  return hd_arch_layer_norm(m, name, weights, i, c->width, c->epsilon);
}

static hd_spec *linear(hd_model *m, const char *name, const char *weights, size_t i, size_t in, size_t out) {
  const hd_linear_config config = {.in_features = in, .out_features = out, .bias = true};
  return hd_arch_spec(m, &hd_layer_linear, name, weights, i, &config);
}

static hd_status add_block(hd_model *m, const bert *c, size_t i, hd_error *err) {
  const size_t head_dim = c->width / c->heads;
  const hd_multi_head_attention_config attention = {
    .d_model = c->width,
    .attention = {.heads = c->heads, .kv_heads = c->heads, .head_dim = head_dim, .scale = 1.0f / sqrtf((float)head_dim)},
    .qkv_bias = true, .out_bias = true,
    .projections = {"self.query", "self.key", "self.value", "output.dense"},
  };
  const hd_activation_config act = {.activation = c->activation};
  hd_spec *first[] = {hd_arch_spec(m, &hd_layer_multi_head_attention, "layers.%zu", "encoder.layer.%zu.attention.", i, &attention)};
  hd_spec *second[] = {
    linear(m, "layers.%zu.up", "encoder.layer.%zu.intermediate.dense.", i, c->width, c->hidden),
    hd_arch_spec(m, &hd_layer_activation, "layers.%zu.act", "", i, &act),
    linear(m, "layers.%zu.down", "encoder.layer.%zu.output.dense.", i, c->hidden, c->width),
  };
  HD_TRY(hd_model_add_spec(m, hd_arch_residual(m, "layers.%zu.residual_attn", i, first, 1), err));
  HD_TRY(hd_model_add_spec(m, norm(m, c, "layers.%zu.attn_norm", "encoder.layer.%zu.attention.output.LayerNorm.", i), err));
  HD_TRY(hd_model_add_spec(m, hd_arch_residual(m, "layers.%zu.residual_mlp", i, second, 3), err));
  return hd_model_add_spec(m, norm(m, c, "layers.%zu.output", "encoder.layer.%zu.output.LayerNorm.", i), err);
}

/* Models saved for masked words or for labels of tokens have no pooler. */
static hd_status add_end(hd_model *m, const bert *c, const hd_json *j, size_t n_labels, hd_error *err) {
  bool of_text = hd_config_is_for(j, "ForSequenceClassification"), of_tokens = hd_config_is_for(j, "ForTokenClassification");
  bool named = hd_json_count(j, "architectures") > 0, pooled = of_text || !named || hd_config_is_for(j, "BertModel");
  const hd_pooler_config pooler = {.width = c->width, .aside = !of_text};
  if (pooled) HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_pooler, "pooler_output", "pooler.", 0, &pooler), err));
  return of_text || of_tokens ? hd_model_add_spec(m, linear(m, "logits", "classifier.", 0, c->width, n_labels), err) : HD_OK;
}

static hd_status build(hd_model *m, size_t type, const hd_json *j, hd_error *err) {
  (void)type;
  const bert c = read_config(j);
  const size_t n_labels = hd_config_labels(j);
  if (*j->status != HD_OK) return *j->status;
  hd_config_tokens(m, c.context);
  const hd_text_embeddings_config embeddings = {.vocab_size = c.vocab_size, .width = c.width, .n_types = c.n_types, .most = c.context};
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_text_embeddings, "embeddings", "embeddings.", 0, &embeddings), err));
  HD_TRY(hd_model_add_spec(m, norm(m, &c, "embedding", "embeddings.LayerNorm.", 0), err));
  for (size_t i = 0; i < c.n_layers; i++) HD_TRY(add_block(m, &c, i, err));
  return add_end(m, &c, j, n_labels, err);
}

static const char *model_type(size_t i) { return i == 0 ? "bert" : NULL; }

const hd_arch hd_arch_bert = {.name = "bert", .model_type = model_type, .build = build};
