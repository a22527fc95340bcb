/* arch_llama.c: Llama ("LLaMA: Open and Efficient Foundation Language Models", Touvron et al., 2023) and Qwen2, which differs in its biases (on
 * queries, keys and values, always) and its context, from a Hugging Face config.json.
 *
 *   embedding → n × [ x + attention(rms_norm(x)) → x + swiglu(rms_norm(x)) ] → rms_norm → head (tied to the embedding, or its own)
 *
 * Weights carry the names of Hugging Face checkpoints; values those of PyTorch traces ("layers.0.q_rope"). */
#include "base/status.h"
#include "graph/arch.h"
#include "layers/rows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct llama {
  size_t hidden_size, intermediate_size, n_layers, heads, kv_heads, head_dim, vocab_size, context;
  float rms_norm_eps;
  double rope_theta;
  bool qkv_bias, out_bias, mlp_bias, tied;
  const hd_activation *activation;
} llama;

/* No model is near these; they keep products of two sizes inside 32 bits where a file asks for nonsense. */
enum { MAX_WIDTH = 1 << 20, MAX_LAYERS = 4096, MAX_VOCABULARY = 1 << 24, MAX_CONTEXT = 1 << 24 };

static size_t need(const hd_json *j, const char *key, size_t missing, size_t most) {
  size_t value = hd_json_get_size(j, key, missing);
  if (missing == 0 && !hd_json_has(j, key)) hd_json_refuse(j, key, HD_BAD_FILE, "this key is needed: expected a size from 1 to %zu, found none", most);
  if (value == 0 || value > most) hd_json_refuse(j, key, HD_BAD_FILE, "expected a size from 1 to %zu, found %zu", most, value);
  return value;
}

/* Attention to the nearest positions only: a key that does not turn it on is not looked at. */
static void refuse_window(const hd_json *j) {
  if (hd_json_get_bool(j, "use_sliding_window", false)) hd_json_refuse(j, "use_sliding_window", HD_UNSUPPORTED, "sliding-window attention is not built yet");
}

/* Both spellings: rope_theta and rope_scaling of version 4, rope_parameters of version 5. Only unscaled positions so far. */
static double read_rope(const hd_json *j) {
  double theta = hd_json_get_number(j, "rope_theta", 10000);
  static const char *const keys[] = {"rope_parameters", "rope_scaling"};
  for (int i = 0; i < 2; i++) {
    hd_json rope = hd_json_member(j, keys[i]);
    if (!rope.node || cJSON_IsNull(rope.node)) continue;
    theta = hd_json_get_number(&rope, "rope_theta", theta);
    const char *type = hd_json_get_text(&rope, "rope_type", hd_json_get_text(&rope, "type", "default"));
    if (strcmp(type, "default") != 0) hd_json_refuse(j, keys[i], HD_UNSUPPORTED, "rope type '%s' is not built yet", type);
  }
  if (!(theta > 0)) hd_json_refuse(j, "rope_theta", HD_BAD_FILE, "expected a positive number");
  return theta;
}

static llama read_config(const hd_json *j) {
  llama c = {0};
  c.hidden_size = need(j, "hidden_size", 0, MAX_WIDTH);
  c.intermediate_size = need(j, "intermediate_size", 0, MAX_WIDTH);
  c.n_layers = need(j, "num_hidden_layers", 0, MAX_LAYERS);
  c.heads = need(j, "num_attention_heads", 0, MAX_WIDTH);
  c.kv_heads = need(j, "num_key_value_heads", c.heads, MAX_WIDTH);
  c.head_dim = need(j, "head_dim", c.heads ? c.hidden_size / c.heads : 0, MAX_WIDTH);
  c.vocab_size = need(j, "vocab_size", 0, MAX_VOCABULARY);
  bool qwen2 = strcmp(hd_json_get_text(j, "model_type", ""), "qwen2") == 0;
  c.context = need(j, "max_position_embeddings", qwen2 ? 32768 : 2048, MAX_CONTEXT);
  c.rms_norm_eps = (float)hd_json_get_number(j, "rms_norm_eps", 1e-6);
  c.rope_theta = read_rope(j);
  c.out_bias = !qwen2 && hd_json_get_bool(j, "attention_bias", false);
  c.qkv_bias = qwen2 || c.out_bias;
  if (qwen2) refuse_window(j);
  c.mlp_bias = hd_json_get_bool(j, "mlp_bias", false);
  c.tied = hd_json_get_bool(j, "tie_word_embeddings", false);
  const char *act = hd_json_get_text(j, "hidden_act", "silu");
  c.activation = hd_activation_find(act);
  char room[HD_NAME_ROOM];
  if (!c.activation) hd_json_refuse(j, "hidden_act", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, act));
  if (c.kv_heads && c.heads % c.kv_heads != 0)
    hd_json_refuse(j, "num_attention_heads", HD_BAD_FILE, "expected a multiple of the %zu key/value heads, found %zu", c.kv_heads, c.heads);
  if (c.head_dim > MAX_WIDTH / (c.heads ? c.heads : 1))
    hd_json_refuse(j, "head_dim", HD_BAD_FILE, "%zu heads of %zu are wider than %d", c.heads, c.head_dim, MAX_WIDTH);
  if (c.head_dim % 2 != 0) hd_json_refuse(j, "head_dim", HD_BAD_FILE, "expected an even size, found %zu", c.head_dim);
  return c;
}

/* A spec under a formatted name and weight prefix; NULL sticks. */
static hd_spec *spec(hd_model *m, const hd_layer *layer, const char *name, const char *weights, size_t index, const void *config) {
  char value_name[96], weight_name[96];
  snprintf(value_name, sizeof value_name, name, index);
  snprintf(weight_name, sizeof weight_name, weights, index);
  return hd_spec_new(m, layer, value_name, weight_name, "", config);
}

static hd_spec *residual(hd_model *m, const char *name, size_t index, hd_spec *norm, hd_spec *block) {
  hd_spec *s = spec(m, &hd_layer_residual, name, "", index, NULL);
  if (!s || !norm || !block) return NULL;
  s->children = hd_arena_alloc(&m->arena, 2 * sizeof *s->children);
  if (!s->children) return NULL;
  s->children[0] = norm;
  s->children[1] = block;
  s->n_children = 2;
  return s;
}

static hd_status add_block(hd_model *m, const llama *c, size_t i, hd_error *err) {
  const hd_norm_config norm = {.size = c->hidden_size, .epsilon = c->rms_norm_eps};
  const hd_multi_head_attention_config attention = {
    .d_model = c->hidden_size,
    .attention = {.heads = c->heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim, .scale = 1.0f / sqrtf((float)c->head_dim),
                  .causal = true, .cache = true},
    .qkv_bias = c->qkv_bias,
    .out_bias = c->out_bias,
    .rope_theta = c->rope_theta,
  };
  const hd_swiglu_config mlp = {.d_model = c->hidden_size, .hidden = c->intermediate_size, .bias = c->mlp_bias, .activation = c->activation};
  HD_TRY(hd_model_add_spec(m, residual(m, "layers.%zu.residual_attn", i,
    spec(m, &hd_layer_rms_norm, "layers.%zu.input_norm", "model.layers.%zu.input_layernorm.", i, &norm),
    spec(m, &hd_layer_multi_head_attention, "layers.%zu", "model.layers.%zu.self_attn.", i, &attention)), err));
  return hd_model_add_spec(m, residual(m, "layers.%zu.output", i,
    spec(m, &hd_layer_rms_norm, "layers.%zu.post_norm", "model.layers.%zu.post_attention_layernorm.", i, &norm),
    spec(m, &hd_layer_swiglu, "layers.%zu", "model.layers.%zu.mlp.", i, &mlp)), err);
}

static hd_status build(hd_model *m, const hd_json *config, hd_error *err) {
  const llama c = read_config(config);
  if (*config->status != HD_OK) return *config->status;
  m->dialect = HD_STANDARD;
  m->batch = 1;
  m->max_context = c.context;
  m->input = (hd_shape){.dtype = HD_I32, .n_dims = 1, .dim = {c.context < 64 ? c.context : 64}};

  const hd_embedding_config embedding = {.vocab_size = c.vocab_size, .embedding_dim = c.hidden_size};
  const hd_norm_config norm = {.size = c.hidden_size, .epsilon = c.rms_norm_eps};
  const hd_linear_config head = {.in_features = c.hidden_size, .out_features = c.vocab_size};
  HD_TRY(hd_model_add_spec(m, spec(m, &hd_layer_embedding, "embedding", "model.embed_tokens.", 0, &embedding), err));
  for (size_t i = 0; i < c.n_layers; i++) HD_TRY(add_block(m, &c, i, err));
  HD_TRY(hd_model_add_spec(m, spec(m, &hd_layer_last_rows, "last_rows", "", 0, NULL), err));
  HD_TRY(hd_model_add_spec(m, spec(m, &hd_layer_rms_norm, "final_norm", "model.norm.", 0, &norm), err));
  return hd_model_add_spec(m, spec(m, &hd_layer_linear, "logits", c.tied ? "model.embed_tokens." : "lm_head.", 0, &head), err);
}

static const char *const model_types[] = {"llama", "qwen2", NULL};

const hd_arch hd_arch_llama = {.name = "llama", .model_types = model_types, .build = build};
