/* arch_gemma.c: Gemma ("Gemma: Open Models Based on Gemini Research and Technology", 2024), Gemma 2 and the text model of Gemma 3. What
 * they have that Llama has not: embeddings times √width, norms that multiply by 1 + weight, gelu in the feed-forward.
 *
 *   gemma2        norms behind attention and feed-forward too, capped scores and logits, a window in every second layer
 *   gemma3_text   no caps but norms on queries and keys; five layers with a window, turned by a base of their own, for one without */
#include "graph/arch_decoder.h"

#include <math.h>

typedef struct family {
  const char *model_type;
  hd_decoder missing;
  double theta, local_theta;  /* 0: windowed layers turn as all do */
  double scalar;              /* query_pre_attn_scalar; 0: scores are scaled by the size of a head */
  size_t pattern;             /* every so many layers one has no window; 0: none has one */
} family;

static const family families[] = {
  {"gemma", {.kv_heads = 16, .head_dim = 256, .context = 8192, .rms_norm_eps = 1e-6f, .tied = true}, 1e4, 0, 0, 0},
  {"gemma2", {.kv_heads = 4, .head_dim = 256, .context = 8192, .rms_norm_eps = 1e-6f, .tied = true, .outer_norms = true,
              .window = 4096, .score_cap = 50, .logit_cap = 30}, 1e4, 0, 256, 2},
  {"gemma3_text", {.kv_heads = 4, .head_dim = 256, .context = 131072, .rms_norm_eps = 1e-6f, .tied = true, .outer_norms = true,
                   .head_norm = true, .window = 4096}, 1e6, 1e4, 256, 6},
};

enum { N_FAMILIES = sizeof families / sizeof families[0] };

static const char *model_type(size_t i) { return i < N_FAMILIES ? families[i].model_type : NULL; }

/* null turns a cap off, leaving it out does not. */
static float read_cap(const hd_json *j, const char *key, float missing) {
  const cJSON *cap = cJSON_GetObjectItem(j->node, key);
  if (cap && cJSON_IsNull(cap)) return 0;
  double value = hd_json_get_number(j, key, (double)missing);
  if (!(value >= 0)) hd_json_refuse(j, key, HD_BAD_FILE, "expected a number above 0");
  return (float)value;
}

/* Gemma 2's files say nothing, Gemma 3's the pattern, newer ones the type of each layer. */
static void read_blocks(hd_model *m, hd_decoder *c, const hd_json *j, const family *f) {
  if (f->pattern == 0) return;
  c->window = hd_config_size(j, "sliding_window", f->missing.window, HD_MAX_CONTEXT);
  c->blocks = hd_decoder_layer_types(m, j, c->n_layers);
  if (c->blocks) return;
  c->blocks = hd_decoder_blocks(m, j, c->n_layers);
  size_t pattern = hd_config_size(j, hd_json_has(j, "sliding_window_pattern") ? "sliding_window_pattern" : "_sliding_window_pattern",
                                  f->pattern, HD_MAX_LAYERS);
  for (size_t i = 0; c->blocks && i < c->n_layers; i++) c->blocks[i] = (i + 1) % pattern ? HD_BLOCK_WINDOW : 0;
}

static void read_rope(hd_model *m, hd_decoder *c, const hd_json *j, const family *f) {
  c->rope = hd_config_rope(j, c->head_dim, f->theta, c->context, "full_attention", &m->arena);
  if (f->local_theta == 0) return;
  hd_json both = hd_json_member(j, "rope_parameters"), local = hd_json_member(&both, "sliding_attention");
  c->window_rope = (hd_rope_table_config){.head_dim = c->rope.head_dim,
                                          .theta = hd_json_get_number(j, "rope_local_base_freq", f->local_theta)};
  if (local.node && cJSON_IsObject(local.node)) hd_rope_parse(&c->window_rope, &local, c->context, &m->arena);
  if (!(c->window_rope.theta > 0)) hd_json_refuse(j, "rope_local_base_freq", HD_BAD_FILE, "expected a positive number");
}

static hd_status build(hd_model *m, size_t type, const hd_json *j, hd_error *err) {
  const family *f = &families[type];
  hd_decoder c = hd_decoder_read(j, &f->missing);
  c.embedding_scale = sqrtf((float)c.hidden_size);
  c.norm_plus_one = true;
  /* Gemma's first files say hidden_act: gelu, and mean its approximation. */
  c.activation = hd_config_activation(j, "hidden_activation", "gelu_pytorch_tanh");
  c.qkv_bias = c.out_bias = hd_json_get_bool(j, "attention_bias", false);
  c.score_cap = read_cap(j, "attn_logit_softcapping", f->missing.score_cap);
  c.logit_cap = read_cap(j, "final_logit_softcapping", f->missing.logit_cap);
  double scalar = hd_json_get_number(j, "query_pre_attn_scalar", f->scalar);
  if (f->scalar > 0) c.score_scale = (float)(1 / sqrt(scalar));
  if (!(scalar >= 0) || !isfinite(c.score_scale)) hd_json_refuse(j, "query_pre_attn_scalar", HD_BAD_FILE, "expected a number above 0");
  if (hd_json_get_bool(j, "use_bidirectional_attention", false))
    hd_json_refuse(j, "use_bidirectional_attention", HD_UNSUPPORTED, "attention to later positions is not built for decoders");
  read_rope(m, &c, j, f);
  read_blocks(m, &c, j, f);
  return *j->status == HD_OK ? hd_decoder_build(m, &c, err) : *j->status;
}

const hd_arch hd_arch_gemma = {.name = "gemma", .model_type = model_type, .build = build};
