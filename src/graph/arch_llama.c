/* arch_llama.c: Llama ("LLaMA: Open and Efficient Foundation Language Models", Touvron et al., 2023) and the families that differ from it
 * by switches. See arch_decoder.h for what they are built to; here is how their config.json says it, with transformers' defaults.
 *
 *   llama     1, 2, 3, 3.1 and whoever took it over: SmolLM2, TinyLlama
 *   smollm3   some layers know no positions
 *   mistral   attention to the nearest positions
 *   qwen2     biases on queries, keys and values; the upper layers may have a window
 *   qwen3     norms on every head's queries and keys
 *   phi3      q, k and v in one matrix, gate and up in another
 *   mixtral, qwen3_moe   mistral and qwen3 with experts */
#include "graph/arch_decoder.h"

#include <string.h>

typedef struct family {
  const char *model_type;
  hd_decoder missing;      /* what is not in config.json; window: where "sliding_window" is not there (null means none) */
  double theta;
  bool bias_keys;          /* attention_bias and mlp_bias are read */
  bool window_is_switched; /* use_sliding_window turns it on, for layers from max_window_layers on */
} family;

static const family families[] = {
  {"llama", {.context = 2048, .rms_norm_eps = 1e-6f}, 1e4, true, false},
  {"qwen2", {.context = 32768, .rms_norm_eps = 1e-6f, .window = 4096, .qkv_bias = true}, 1e4, false, true},
  {"qwen3", {.head_dim = 128, .context = 32768, .rms_norm_eps = 1e-6f, .window = 4096, .head_norm = true}, 1e4, true, true},
  {"mistral", {.kv_heads = 8, .context = 131072, .rms_norm_eps = 1e-6f, .window = 4096}, 1e4, false, false},
  {"smollm3", {.kv_heads = 4, .context = 32768, .rms_norm_eps = 1e-6f, .tied = true}, 2e6, true, true},
  {"phi3", {.context = 4096, .rms_norm_eps = 1e-5f, .fused = true}, 1e4, false, false},
  {"mixtral", {.kv_heads = 8, .context = 131072, .rms_norm_eps = 1e-5f, .experts_weights = "model.layers.%zu.block_sparse_moe.",
               .experts = {.n_experts = 8, .n_chosen = 2, .renormalise = true, .mixtral_names = true}}, 1e6, false, false},
  {"qwen3_moe", {.kv_heads = 4, .context = 32768, .rms_norm_eps = 1e-6f, .window = 4096, .head_norm = true,
                 .experts_weights = "model.layers.%zu.mlp.", .experts = {.hidden = 768, .n_experts = 128, .n_chosen = 8}}, 1e4, true, true},
};

enum { N_FAMILIES = sizeof families / sizeof families[0] };

static const char *model_type(size_t i) { return i < N_FAMILIES ? families[i].model_type : NULL; }

/* ---- Windows ---- */

/* 0: none. null says so where leaving the key out would not. */
static size_t read_window(const hd_json *j, size_t missing, bool is_switched) {
  const cJSON *window = cJSON_GetObjectItem(j->node, "sliding_window");
  if (is_switched && !hd_json_get_bool(j, "use_sliding_window", false)) return 0;
  if (window && cJSON_IsNull(window)) return 0;
  return window || missing ? hd_config_size(j, "sliding_window", missing, HD_MAX_CONTEXT) : 0;
}

static void read_blocks(hd_model *m, hd_decoder *c, const hd_json *j, const family *f) {
  c->window = read_window(j, f->missing.window, f->window_is_switched);
  uint8_t *blocks = hd_decoder_layer_types(m, j, c->n_layers);
  bool given = blocks != NULL;
  if (!given) blocks = hd_decoder_blocks(m, j, c->n_layers);
  size_t first = f->window_is_switched ? hd_json_get_size(j, "max_window_layers", 28) : 0;
  for (size_t i = 0; blocks && i < c->n_layers; i++) {
    if (!given && c->window && i >= first) blocks[i] = HD_BLOCK_WINDOW;
    if (c->window == 0) blocks[i] = 0;
  }
  c->blocks = blocks;
}

/* SmolLM3: no_rope_layers has a 0 where a layer knows no positions; without it every no_rope_layer_interval-th does not. */
static void read_no_rope(hd_decoder *c, const hd_json *j) {
  const cJSON *list = cJSON_GetObjectItem(j->node, "no_rope_layers"), *each;
  size_t interval = hd_config_size(j, "no_rope_layer_interval", 4, HD_MAX_LAYERS), n = hd_json_count(j, "no_rope_layers"), i = 0;
  bool given = list && !cJSON_IsNull(list);
  if (given && n != c->n_layers)
    hd_json_refuse(j, "no_rope_layers", HD_BAD_FILE, "expected one for each of %zu layers, found %zu", c->n_layers, n);
  if (*j->status != HD_OK) return;
  for (; !given && i < c->n_layers; i++)
    if ((i + 1) % interval == 0) c->blocks[i] |= HD_BLOCK_NO_ROPE;
  if (!given) return;
  cJSON_ArrayForEach(each, list) {
    bool turned = cJSON_IsTrue(each) || (cJSON_IsNumber(each) && each->valuedouble != 0);
    if (!turned) c->blocks[i] |= HD_BLOCK_NO_ROPE;
    i++;
  }
}

/* ---- Experts ---- */

static bool has_number(const hd_json *j, const char *key, size_t number) {
  const cJSON *each, *list = cJSON_GetObjectItem(j->node, key);
  cJSON_ArrayForEach(each, list)
    if (cJSON_IsNumber(each) && each->valuedouble == (double)number) return true;
  return false;
}

/* Every layer has them, but those in mlp_only_layers and those that decoder_sparse_step leaves out. */
static void read_experts(hd_decoder *c, const hd_json *j) {
  hd_experts_config *e = &c->experts;
  if (e->n_experts == 0) return;
  e->d_model = c->hidden_size;
  e->activation = c->activation;
  e->hidden = e->mixtral_names ? c->intermediate_size : hd_config_size(j, "moe_intermediate_size", e->hidden, HD_MAX_WIDTH);
  e->n_experts = hd_config_size(j, hd_json_has(j, "num_experts") ? "num_experts" : "num_local_experts", e->n_experts, 65536);
  e->n_chosen = hd_config_size(j, "num_experts_per_tok", e->n_chosen, e->n_experts ? e->n_experts : 1);
  e->renormalise = hd_json_get_bool(j, "norm_topk_prob", e->renormalise);
  if (e->hidden && e->n_experts > SIZE_MAX / 64 / e->hidden)
    hd_json_refuse(j, "num_experts_per_tok", HD_BAD_FILE, "%zu experts of %zu are too many", e->n_experts, e->hidden);
  size_t step = hd_config_size(j, "decoder_sparse_step", 1, HD_MAX_LAYERS);
  for (size_t i = 0; c->blocks && step && i < c->n_layers; i++)
    if ((i + 1) % step == 0 && !has_number(j, "mlp_only_layers", i)) c->blocks[i] |= HD_BLOCK_EXPERTS;
}

static hd_status build(hd_model *m, size_t type, const hd_json *j, hd_error *err) {
  const family *f = &families[type];
  hd_decoder c = hd_decoder_read(j, &f->missing);
  c.activation = hd_config_activation(j, "hidden_act", "silu");
  if (f->bias_keys) {
    c.qkv_bias = c.out_bias = hd_json_get_bool(j, "attention_bias", false);
    c.mlp_bias = hd_json_get_bool(j, "mlp_bias", false);
  }
  c.rope = hd_config_rope(j, c.head_dim, f->theta, c.context, "full_attention", &m->arena);
  read_blocks(m, &c, j, f);
  read_experts(&c, j);
  if (*j->status == HD_OK && strcmp(f->model_type, "smollm3") == 0) read_no_rope(&c, j);
  if (*j->status != HD_OK) return *j->status;
  return hd_decoder_build(m, &c, err);
}

const hd_arch hd_arch_llama = {.name = "llama", .model_type = model_type, .build = build};
