/* arch_decoder.c: see arch_decoder.h. */
#include "graph/arch_decoder.h"

#include "base/status.h"

#include <math.h>
#include <string.h>

/* ---- config.json ---- */

hd_decoder hd_decoder_read(const hd_json *j, const hd_decoder *missing) {
  hd_decoder c = *missing;
  c.hidden_size = hd_config_size(j, "hidden_size", 0, HD_MAX_WIDTH);
  c.intermediate_size = hd_config_size(j, "intermediate_size", 0, HD_MAX_WIDTH);
  c.n_layers = hd_config_size(j, "num_hidden_layers", 0, HD_MAX_LAYERS);
  c.heads = hd_config_size(j, "num_attention_heads", 0, HD_MAX_WIDTH);
  c.kv_heads = hd_config_size(j, "num_key_value_heads", c.kv_heads ? c.kv_heads : c.heads, HD_MAX_WIDTH);
  c.head_dim = hd_config_size(j, "head_dim", c.head_dim ? c.head_dim : c.heads ? c.hidden_size / c.heads : 0, HD_MAX_WIDTH);
  c.vocab_size = hd_config_size(j, "vocab_size", 0, HD_MAX_VOCABULARY);
  c.context = hd_config_size(j, "max_position_embeddings", c.context, HD_MAX_CONTEXT);
  c.rms_norm_eps = (float)hd_json_get_number(j, "rms_norm_eps", (double)c.rms_norm_eps);
  c.tied = hd_json_get_bool(j, "tie_word_embeddings", c.tied);
  if (hd_config_is_for(j, "ForSequenceClassification")) c.n_labels = hd_config_labels(j);
  hd_config_check_heads(j, c.heads, c.kv_heads, c.head_dim);
  return c;
}

uint8_t *hd_decoder_blocks(hd_model *m, const hd_json *j, size_t n_layers) {
  if (*j->status != HD_OK) return NULL;
  uint8_t *blocks = hd_arena_alloc(&m->arena, n_layers);
  if (blocks) memset(blocks, 0, n_layers);
  else hd_json_refuse(j, "num_hidden_layers", HD_OUT_OF_MEMORY, "no memory for %zu layers", n_layers);
  return blocks;
}

uint8_t *hd_decoder_layer_types(hd_model *m, const hd_json *j, size_t n_layers) {
  hd_json list = hd_json_member(j, "layer_types");
  if (!list.node || cJSON_IsNull(list.node)) return NULL;
  size_t n = hd_json_count(j, "layer_types"), i = 0;
  if (n != n_layers) hd_json_refuse(j, "layer_types", HD_BAD_FILE, "expected one for each of %zu layers, found %zu", n_layers, n);
  uint8_t *blocks = hd_decoder_blocks(m, j, n_layers);
  const cJSON *each;
  if (!blocks) return NULL;
  cJSON_ArrayForEach(each, list.node) {
    const char *type = cJSON_IsString(each) ? each->valuestring : "";
    char room[HD_NAME_ROOM];
    if (strcmp(type, "sliding_attention") == 0) blocks[i] = HD_BLOCK_WINDOW;
    else if (strcmp(type, "full_attention") != 0)
      hd_json_refuse(j, "layer_types", HD_UNSUPPORTED, "expected full_attention or sliding_attention, found '%s'",
                     hd_short_name(room, type));
    i++;
  }
  return blocks;
}

/* ---- Blocks ---- */

static hd_norm_config norm_of(const hd_decoder *c) {
  return (hd_norm_config){.size = c->hidden_size, .epsilon = c->rms_norm_eps, .plus_one = c->norm_plus_one};
}

static hd_spec *norm(hd_model *m, const hd_decoder *c, const char *name, const char *weights, size_t i) {
  const hd_norm_config config = norm_of(c);
  return hd_arch_spec(m, &hd_layer_rms_norm, name, weights, i, &config);
}

static hd_spec *attention(hd_model *m, const hd_decoder *c, size_t i) {
  const uint8_t bits = c->blocks ? c->blocks[i] : 0;
  hd_multi_head_attention_config a = {
    .d_model = c->hidden_size,
    .attention = {.heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .causal = true, .cache = true, .cap = c->score_cap,
                  .scale = c->score_scale > 0 ? c->score_scale : 1.0f / sqrtf((float)c->head_dim)},
    .qkv_bias = c->qkv_bias,
    .out_bias = c->out_bias,
    .head_norm = c->head_norm,
    .norm_plus_one = c->norm_plus_one,
    .norm_epsilon = c->rms_norm_eps,
    .rope = c->rope,
  };
  if (bits & HD_BLOCK_WINDOW) a.attention.window = c->window;
  if (bits & HD_BLOCK_WINDOW && c->window_rope.theta > 0) a.rope = c->window_rope;
  if (bits & HD_BLOCK_NO_ROPE) a.rope.theta = 0;
  if (c->fused) a.projections[0] = "qkv_proj", a.projections[1] = "o_proj";
  return hd_arch_spec(m, &hd_layer_multi_head_attention, "layers.%zu", "model.layers.%zu.self_attn.", i, &a);
}

static hd_spec *feed_forward(hd_model *m, const hd_decoder *c, size_t i) {
  const hd_swiglu_config mlp = {.d_model = c->hidden_size, .hidden = c->intermediate_size, .bias = c->mlp_bias, .fused = c->fused,
                               .activation = c->activation};
  if (c->blocks && c->blocks[i] & HD_BLOCK_EXPERTS)
    return hd_arch_spec(m, &hd_layer_mixture_of_experts, "layers.%zu", c->experts_weights, i, &c->experts);
  return hd_arch_spec(m, &hd_layer_swiglu, "layers.%zu", "model.layers.%zu.mlp.", i, &mlp);
}

static hd_status add_block(hd_model *m, const hd_decoder *c, size_t i, hd_error *err) {
  hd_spec *first[] = {
    norm(m, c, "layers.%zu.input_norm", "model.layers.%zu.input_layernorm.", i),
    attention(m, c, i),
    c->outer_norms ? norm(m, c, "layers.%zu.attn_out_norm", "model.layers.%zu.post_attention_layernorm.", i) : NULL,
  };
  hd_spec *second[] = {
    norm(m, c, "layers.%zu.post_norm",
         c->outer_norms ? "model.layers.%zu.pre_feedforward_layernorm." : "model.layers.%zu.post_attention_layernorm.", i),
    feed_forward(m, c, i),
    c->outer_norms ? norm(m, c, "layers.%zu.down_norm", "model.layers.%zu.post_feedforward_layernorm.", i) : NULL,
  };
  const size_t n = c->outer_norms ? 3 : 2;
  HD_TRY(hd_model_add_spec(m, hd_arch_residual(m, "layers.%zu.residual_attn", i, first, n), err));
  return hd_model_add_spec(m, hd_arch_residual(m, "layers.%zu.output", i, second, n), err);
}

/* ---- The whole ---- */

static hd_status add_head(hd_model *m, const hd_decoder *c, hd_error *err) {
  const bool capped = c->logit_cap > 0 && !c->n_labels;
  const hd_linear_config head = {.in_features = c->hidden_size, .out_features = c->n_labels ? c->n_labels : c->vocab_size};
  const char *weights = c->n_labels ? "score." : c->tied ? "model.embed_tokens." : "lm_head.";
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_linear, capped ? "head" : "logits", weights, 0, &head), err));
  const hd_activation_config cap = {.activation = hd_activation_find("soft_cap"), .has_parameters = true, .parameters = {c->logit_cap}};
  return capped ? hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_activation, "logits", "", 0, &cap), err) : HD_OK;
}

hd_status hd_decoder_build(hd_model *m, const hd_decoder *c, hd_error *err) {
  /* Dynamic scaling has no end of its own; its answers get worse slowly. */
  hd_config_tokens(m, c->rope.kind == HD_ROPE_DYNAMIC ? 4 * c->context : c->context);
  const hd_embedding_config embedding = {.vocab_size = c->vocab_size, .embedding_dim = c->hidden_size, .scale = c->embedding_scale};
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_embedding, "embedding", "model.embed_tokens.", 0, &embedding), err));
  for (size_t i = 0; i < c->n_layers; i++) HD_TRY(add_block(m, c, i, err));
  HD_TRY(hd_model_add_spec(m, hd_arch_spec(m, &hd_layer_last_rows, "last_rows", "", 0, NULL), err));
  HD_TRY(hd_model_add_spec(m, norm(m, c, "final_norm", "model.norm.", 0), err));
  return add_head(m, c, err);
}
