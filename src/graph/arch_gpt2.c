/* arch_gpt2.c: GPT-2 ("Language Models are Unsupervised Multitask Learners", Radford et al., 2019) and its kin of that layout.
 *
 *   tokens + learned positions → n × [ x + attention(layer_norm(x)) → x + c_proj(gelu(c_fc(layer_norm(x)))) ] → layer_norm → head
 *
 * Its files hold matrices as [in, out] (Conv1D); q, k and v are one of them, c_attn. */
#include "base/status.h"
#include "graph/arch_config.h"

#include <math.h>

typedef struct gpt2 {
  size_t width, hidden, n_layers, heads, vocab_size, context;
  float epsilon;
  bool tied, scaled, scaled_by_layer;
  const hd_activation *activation;
} gpt2;

static gpt2 read_config(const hd_json *j) {
  gpt2 c = {
    .width = hd_config_size(j, "n_embd", 768, HD_MAX_WIDTH),
    .n_layers = hd_config_size(j, "n_layer", 12, HD_MAX_LAYERS),
    .vocab_size = hd_config_size(j, "vocab_size", 50257, HD_MAX_VOCABULARY),
    .context = hd_config_size(j, "n_positions", 1024, HD_MAX_CONTEXT),
    .epsilon = (float)hd_json_get_number(j, "layer_norm_epsilon", 1e-5),
    .tied = hd_json_get_bool(j, "tie_word_embeddings", true),
    .scaled = hd_json_get_bool(j, "scale_attn_weights", true),
    .scaled_by_layer = hd_json_get_bool(j, "scale_attn_by_inverse_layer_idx", false),
    .activation = hd_config_activation(j, "activation_function", "gelu_new"),
  };
  c.hidden = hd_config_size(j, "n_inner", 4 * c.width, 4 * HD_MAX_WIDTH);
  c.heads = hd_config_heads(j, "n_head", 12, c.width);
  if (hd_json_get_bool(j, "add_cross_attention", false))
    hd_json_refuse(j, "add_cross_attention", HD_UNSUPPORTED, "attention to another model's values is not built");
  return c;
}

static hd_spec *norm(hd_model *m, const gpt2 *c, const char *name, const char *weights, size_t i) {
  return hd_arch_layer_norm(m, name, weights, i, c->width, c->epsilon);
}

static hd_spec *linear(hd_model *m, const char *name, const char *weights, size_t i, size_t in, size_t out) {
  const hd_linear_config config = {.in_features = in, .out_features = out, .bias = true, .in_out = true};
  return hd_arch_spec(m, &hd_layer_linear, name, weights, i, &config);
}

static hd_spec *attention(hd_model *m, const gpt2 *c, size_t i) {
  const size_t head_dim = c->width / c->heads;
  float scale = c->scaled ? 1.0f / sqrtf((float)head_dim) : 1;
  if (c->scaled_by_layer) scale /= (float)(i + 1);
  const hd_multi_head_attention_config config = {
    .d_model = c->width,
    .attention = {.heads = c->heads, .kv_heads = c->heads, .head_dim = head_dim, .scale = scale, .causal = true, .cache = true},
    .qkv_bias = true, .out_bias = true, .in_out = true,
    .projections = {"c_attn", "c_proj"},
  };
  return hd_arch_spec(m, &hd_layer_multi_head_attention, "layers.%zu", "transformer.h.%zu.attn.", i, &config);
}

static hd_status add_block(hd_model *m, const gpt2 *c, size_t i, hd_error *err) {
  const hd_activation_config act = {.activation = c->activation};
  hd_spec *first[] = {norm(m, c, "layers.%zu.input_norm", "transformer.h.%zu.ln_1.", i), attention(m, c, i)};
  hd_spec *second[] = {
    norm(m, c, "layers.%zu.post_norm", "transformer.h.%zu.ln_2.", i),
    linear(m, "layers.%zu.up", "transformer.h.%zu.mlp.c_fc.", i, c->width, c->hidden),
    hd_arch_spec(m, &hd_layer_activation, "layers.%zu.act", "", i, &act),
    linear(m, "layers.%zu.down", "transformer.h.%zu.mlp.c_proj.", i, c->hidden, c->width),
  };
  HD_TRY(hd_model_add_spec(m, hd_arch_residual(m, "layers.%zu.residual_attn", i, first, 2), err));
  return hd_model_add_spec(m, hd_arch_residual(m, "layers.%zu.output", i, second, 4), err);
}

static hd_status build(hd_model *m, size_t type, const hd_json *j, hd_error *err) {
  (void)type;
  const gpt2 c = read_config(j);
  if (*j->status != HD_OK) return *j->status;
  hd_config_tokens(m, c.context);
  const size_t n_labels = hd_config_is_for(j, "ForSequenceClassification") ? hd_config_labels(j) : 0;
  if (*j->status != HD_OK) return *j->status;
  const hd_embedding_config tokens = {.vocab_size = c.vocab_size, .embedding_dim = c.width};
  const hd_positions_config positions = {.width = c.width, .most = c.context};
  const hd_linear_config head = {.in_features = c.width, .out_features = n_labels ? n_labels : c.vocab_size};
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_embedding, "tokens", "transformer.wte.", 0, &tokens), err));
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_learned_positions, "embedding", "transformer.wpe.", 0, &positions), err));
  for (size_t i = 0; i < c.n_layers; i++) HD_TRY(add_block(m, &c, i, err));
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_last_rows, "last_rows", "", 0, NULL), err));
  HD_TRY(hd_model_add_spec(m, norm(m, &c, "final_norm", "transformer.ln_f.", 0), err));
  const char *weights = n_labels ? "score." : c.tied ? "transformer.wte." : "lm_head.";
  return hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_linear, "logits", weights, 0, &head), err);
}

static const char *model_type(size_t i) { return i == 0 ? "gpt2" : NULL; }

const hd_arch hd_arch_gpt2 = {.name = "gpt2", .model_type = model_type, .build = build};
