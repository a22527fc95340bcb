/* blocks.c: files that hold parts of a network, attention layers, feed-forward layers, norms, linear layers, several of them one after
 * another, put together by their names and shapes.
 *
 *   q_proj, k_proj, v_proj, o_proj      multi_head_attention     in_proj_weight, out_proj      torch_attention
 *   gate_proj, up_proj, down_proj       swiglu                   up_proj, down_proj            linear, activation, linear
 *   self_attn.in_proj_weight, linear1, linear2, norm1, norm2    transformer_encoder_layer
 *   any other NAME.weight: a vector is a norm, a matrix a linear layer or, where its name says so, the embedding
 *
 * "Block" is what the last whole number in a name numbers: "model.layers.3.". Blocks run in the order of their numbers; in a block
 * x + attention(norm(x)) comes before x + mlp(norm(x)). Where a block has neither a norm nor both halves, nothing says that x is
 * added, and it is not. Before the blocks comes the embedding, behind them the norm outside of all blocks and the head. What no
 * name says, causal attention, rotary positions, an activation, is config.json's or assumed and then said in a warning; what
 * cannot be placed is refused with its tensor. */
#include "base/memory.h"
#include "base/status.h"
#include "graph/assemble.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum part { EMBEDDING, NORM, LINEAR, ENCODER, FUSED, ATTENTION, MLP } part_kind;

enum { N_ENDINGS = 12 };

/* Layers of several tensors: the one that stands for it, the others it needs, those it may have. */
static const struct composite {
  part_kind part;
  size_t n_needed;
  const char *ending[N_ENDINGS];
} composites[] = {
  {ENCODER, 6, {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "linear1.weight", "linear2.weight", "norm1.weight", "norm2.weight",
                "self_attn.in_proj_bias", "self_attn.out_proj.bias", "linear1.bias", "linear2.bias", "norm1.bias", "norm2.bias"}},
  {FUSED, 2, {"in_proj_weight", "out_proj.weight", "in_proj_bias", "out_proj.bias"}},
  {ATTENTION, 4, {"q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight",
                  "q_proj.bias", "k_proj.bias", "v_proj.bias", "o_proj.bias"}},
  {MLP, 2, {"up_proj.weight", "down_proj.weight", "gate_proj.weight", "up_proj.bias", "down_proj.bias", "gate_proj.bias"}},
};
enum { N_COMPOSITES = sizeof composites / sizeof composites[0] };

/* In the order they run. */
typedef enum place { FIRST, IN_BLOCKS, FINAL_NORM, HEAD } place;
typedef enum rank { ATTENTION_NORM, ATTENTION_ITSELF, MLP_NORM, MLP_ITSELF } rank;

/* What a block has, among all units. */
typedef struct contents {
  size_t norms, attentions, mlps;
} contents;

typedef struct unit {
  part_kind part;
  const char *stem;  /* "model.layers.0.mlp." */
  size_t n_block;    /* of it, what names the block: "model.layers.0." */
  const hd_entry *entry;
  place place;
  rank rank;
  contents *block;   /* shared by all units of it */
} unit;

typedef struct work {
  const hd_directory *directory;
  const cJSON *config;
  hd_assembly *out;
  hd_arena arena;
  unit *units;
  size_t n;
  size_t n_of[MLP + 1];
  size_t last_linear;  /* of all units in order */
  bool failed;         /* the assembly says why, or memory is out */
  bool assumed_norm, assumed_linear, assumed_attention, assumed_encoder, assumed_mlp;
} work;

/* ---- What is said ---- */

__attribute__((format(printf, 3, 4))) static void refuse(work *w, hd_status code, const char *format, ...) {
  if (w->failed) return;
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(w->out->refusal, sizeof w->out->refusal, format, arguments);
  va_end(arguments);
  w->out->code = code;
  w->failed = true;
}

static void refuse_tensor(work *w, const char *name) {
  refuse(w, HD_UNSUPPORTED, "tensor %.160s: nothing says where it goes: give the model's config.json", name);
}

static bool out_of_memory(work *w) {
  w->out->network.failed = w->failed = true;
  return false;
}

__attribute__((format(printf, 2, 3))) static void warn(work *w, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(text, sizeof text, format, arguments);
  va_end(arguments);
  if (w->out->warnings.n) hd_text_add(&w->out->warnings, ",", 1);
  hd_text_quoted(&w->out->warnings, text);
}

/* Says it the first time. */
static bool once(bool *said) {
  bool first = !*said;
  *said = true;
  return first;
}

/* ---- config.json: the first key that is there ---- */

static double config_number(const work *w, const char *const *keys, double missing) {
  for (; w->config && *keys; keys++) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(w->config, *keys);
    if (cJSON_IsNumber(node) && node->valuedouble >= 0 && node->valuedouble < 0x1p31) return node->valuedouble;
  }
  return missing;
}

static const char *config_activation(const work *w) {
  static const char *const keys[] = {"hidden_act", "activation", "activation_function"};
  for (size_t k = 0; w->config && k < sizeof keys / sizeof keys[0]; k++) {
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(w->config, keys[k]);
    if (cJSON_IsString(node)) return node->valuestring;
  }
  return NULL;
}

static size_t config_heads(const work *w) {
  static const char *const keys[] = {"num_attention_heads", "num_heads", "n_head", "nhead", NULL};
  return (size_t)config_number(w, keys, 0);
}

/* Of version 4 and of version 5 of transformers. 0: not said. */
static double config_rope_theta(work *w) {
  static const char *const theta[] = {"rope_theta", NULL}, *const boxes[] = {"rope_parameters", "rope_scaling"};
  double base = config_number(w, theta, 0);
  for (int i = 0; i < 2; i++) {
    const cJSON *box = w->config ? cJSON_GetObjectItemCaseSensitive(w->config, boxes[i]) : NULL;
    if (!cJSON_IsObject(box)) continue;
    const cJSON *type = cJSON_GetObjectItemCaseSensitive(box, "rope_type"), *inner = cJSON_GetObjectItemCaseSensitive(box, "rope_theta");
    if (!type) type = cJSON_GetObjectItemCaseSensitive(box, "type");
    if (cJSON_IsString(type) && strcmp(type->valuestring, "default") != 0)
      refuse(w, HD_UNSUPPORTED, "config.json.%s: rope type '%.40s' needs the whole model, not parts of it", boxes[i], type->valuestring);
    if (cJSON_IsNumber(inner)) base = inner->valuedouble;
  }
  return base > 0 ? base : 0;
}

/* ---- Names ---- */

/* The length before `ending`, where the name is it or has it behind a dot; SIZE_MAX: it does not end so. */
static size_t stem_before(const char *name, const char *ending) {
  size_t n = strlen(name), n_ending = strlen(ending);
  if (n < n_ending || strcmp(name + n - n_ending, ending) != 0) return SIZE_MAX;
  return n == n_ending || name[n - n_ending - 1] == '.' ? n - n_ending : SIZE_MAX;
}

static const hd_entry *find(const work *w, const char *stem, size_t n_stem, const char *ending) {
  char room[512];
  int n = snprintf(room, sizeof room, "%.*s%s", (int)n_stem, stem, ending);
  return n > 0 && (size_t)n < sizeof room ? hd_directory_find(w->directory, room) : NULL;
}

static const hd_entry *part_of(const work *w, const unit *u, const char *ending) { return find(w, u->stem, strlen(u->stem), ending); }

static bool has_word(const char *name, const char *const *words) {
  for (; *words; words++)
    if (strstr(name, *words)) return true;
  return false;
}

/* Numbers by their value where neither begins with a zero, else digit by digit. */
static int compare_digits(const char *a, size_t n_a, const char *b, size_t n_b) {
  if (n_a != n_b && *a != '0' && *b != '0') return n_a < n_b ? -1 : 1;
  int order = memcmp(a, b, n_a < n_b ? n_a : n_b);
  return order ? order : (n_a > n_b) - (n_a < n_b);
}

/* Names in order, numbers in them by their value. */
static int natural(const char *a, size_t n_a, const char *b, size_t n_b) {
  size_t i = 0, k = 0;
  while (i < n_a && k < n_b) {
    size_t d = strspn(a + i, "0123456789"), e = strspn(b + k, "0123456789");
    if (d > n_a - i) d = n_a - i;
    if (e > n_b - k) e = n_b - k;
    if (d && e) {
      int order = compare_digits(a + i, d, b + k, e);
      if (order) return order;
    } else if (a[i] != b[k]) {
      return (unsigned char)a[i] < (unsigned char)b[k] ? -1 : 1;
    }
    i += d && e ? d : 1;
    k += d && e ? e : 1;
  }
  return (i < n_a) - (k < n_b);
}

/* How much of a stem names its block: up to the last part that is a whole number. */
static size_t block_length(const char *stem) {
  size_t n = 0;
  for (const char *part = stem; *part;) {
    size_t length = strcspn(part, ".");
    if (length && strspn(part, "0123456789") == length && part[length] == '.') n = (size_t)(part + length + 1 - stem);
    part += length + (part[length] == '.');
  }
  return n;
}

static bool same_block(const unit *a, const unit *b) {
  return a->place == b->place && a->n_block == b->n_block && memcmp(a->stem, b->stem, a->n_block) == 0;
}

/* ---- Which layer a tensor is of ---- */

static void add_unit(work *w, part_kind part, const hd_entry *e, size_t n_stem) {
  unit *u = &w->units[w->n];
  *u = (unit){.part = part, .stem = hd_arena_format(&w->arena, "%.*s", (int)n_stem, e->name), .entry = e, .place = IN_BLOCKS};
  if (!u->stem) {
    out_of_memory(w);
    return;
  }
  u->n_block = block_length(u->stem);
  w->n_of[part]++;
  w->n++;
}

static bool is_complete(const work *w, const struct composite *c, const char *name, size_t n_stem) {
  for (size_t i = 0; i < c->n_needed; i++) {
    const hd_entry *e = find(w, name, n_stem, c->ending[i]);
    if (!e || e->n_dims != (strncmp(c->ending[i], "norm", 4) == 0 ? 1 : 2)) return false;
  }
  return true;
}

/* Whether it belongs to a layer of several tensors; the tensor that stands for the layer adds it. One that belongs to nothing
 * else, of a layer that lacks some, is refused. */
static bool take_composite(work *w, const hd_entry *e) {
  const char *incomplete = NULL;
  for (size_t c = 0; c < N_COMPOSITES; c++) {
    for (size_t i = 0; i < N_ENDINGS && composites[c].ending[i]; i++) {
      size_t n_stem = stem_before(e->name, composites[c].ending[i]);
      if (n_stem == SIZE_MAX) continue;
      if (is_complete(w, &composites[c], e->name, n_stem)) {
        if (i == 0) add_unit(w, composites[c].part, e, n_stem);
        return true;
      }
      if (composites[c].part != ENCODER) incomplete = composites[c].ending[0];
    }
  }
  if (incomplete)
    refuse(w, HD_UNSUPPORTED, "tensor %.160s: its layer lacks others: nothing says how to run it without: give the model's config.json",
           e->name);
  return incomplete != NULL;
}

static void take_single(work *w, const hd_entry *e) {
  static const char *const embedding[] = {"embed", "wte", NULL},
                    *const others[] = {"attn", "attention", "gate", "expert", "router", "query", "key", "value", "qkv", "conv", "rnn",
                                       "lstm", "gru", "lora", "position", "wpe", "token_type", NULL},
                    *const head_norms[] = {"q_norm", "k_norm", NULL};
  size_t n_stem = stem_before(e->name, "weight"), n_bias = stem_before(e->name, "bias");
  const hd_entry *weight = n_bias == SIZE_MAX ? NULL : find(w, e->name, n_bias, "weight");
  if (weight && e->n_dims == 1 && weight->n_dims <= 2 && weight->n_dims >= 1) return;
  if (e->n_dims >= 2 && (n_stem == SIZE_MAX || e->n_dims > 2 || has_word(e->name, others))) refuse_tensor(w, e->name);
  else if (has_word(e->name, head_norms)) refuse_tensor(w, e->name);
  else if (n_stem == SIZE_MAX || e->n_dims == 0) warn(w, "left out: %.160s", e->name);
  else add_unit(w, e->n_dims == 1 ? NORM : has_word(e->name, embedding) ? EMBEDDING : LINEAR, e, n_stem);
}

/* ---- Where it goes ---- */

static int by_block(const void *x, const void *y) {
  const unit *a = *(unit *const *)x, *b = *(unit *const *)y;
  if (a->place != b->place) return a->place < b->place ? -1 : 1;
  if (a->n_block != b->n_block) return a->n_block < b->n_block ? -1 : 1;
  return memcmp(a->stem, b->stem, a->n_block);
}

/* Once all units have their places. */
static void count_contents(work *w) {
  unit **sorted = hd_arena_alloc(&w->arena, (w->n + 1) * sizeof *sorted);
  contents *blocks = hd_arena_alloc(&w->arena, (w->n + 1) * sizeof *blocks);
  if (!sorted || !blocks) {
    out_of_memory(w);
    return;
  }
  for (size_t i = 0; i < w->n; i++) sorted[i] = &w->units[i];
  qsort(sorted, w->n, sizeof *sorted, by_block);
  for (size_t i = 0; i < w->n; i++) {
    unit *u = sorted[i];
    u->block = i > 0 && same_block(u, sorted[i - 1]) ? sorted[i - 1]->block : &blocks[i];
    u->block->norms += u->part == NORM;
    u->block->attentions += u->part == ATTENTION || u->part == FUSED;
    u->block->mlps += u->part == MLP;
  }
}

static bool is_composite(part_kind p) { return p >= ENCODER; }

static bool is_head(const unit *u) {
  static const char *const names[] = {"lm_head.", "head.", "classifier.", "score.", "fc_out.", "output."};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
    if (stem_before(u->stem, names[i]) != SIZE_MAX) return true;
  return false;
}

static void rank_norm(work *w, unit *u) {
  static const char *const of_attention[] = {"input_layernorm", "attn_norm", "attention_norm", "ln_1", "ln1", "norm1", NULL},
                    *const of_mlp[] = {"post_attention_layernorm", "ffn_norm", "mlp_norm", "ln_2", "ln2", "norm2",
                                       "pre_feedforward_layernorm", NULL};
  const contents block = *u->block;
  const char *local = u->stem + u->n_block;
  if (block.norms > 2 || (block.norms == 2 && !(block.attentions && block.mlps))) refuse_tensor(w, u->entry->name);
  else if (!block.attentions || !block.mlps) u->rank = block.attentions ? ATTENTION_NORM : MLP_NORM;
  else if (has_word(local, of_mlp)) u->rank = MLP_NORM;
  else if (has_word(local, of_attention)) u->rank = ATTENTION_NORM;
  else refuse_tensor(w, u->entry->name);
}

static void place_unit(work *w, unit *u, bool numbered) {
  if (u->part == NORM && numbered && u->n_block == 0) u->place = FINAL_NORM;
  if (u->part == LINEAR && is_head(u)) u->place = HEAD;
  else if (u->part == LINEAR) refuse_tensor(w, u->entry->name);
}

/* Which half of its block a unit is. */
static void rank_unit(work *w, unit *u) {
  const contents block = *u->block;
  if (u->part == ENCODER || u->part == ATTENTION || u->part == FUSED) u->rank = ATTENTION_ITSELF;
  if (u->part == MLP) u->rank = MLP_ITSELF;
  const bool many = block.attentions > 1 || block.mlps > 1;
  if (is_composite(u->part) && many && (block.norms || (block.attentions && block.mlps))) refuse_tensor(w, u->entry->name);
  if (u->part == NORM) rank_norm(w, u);
}

/* Blocks of one tower: "encoder.layers.0." and "decoder.layers.0." are not one chain. */
static size_t tower_length(const unit *u) {
  size_t n = u->n_block ? u->n_block - 1 : 0;
  while (n > 0 && u->stem[n - 1] != '.') n--;
  return n;
}

static void place_all(work *w) {
  const unit *numbered = NULL;
  const bool blocks = w->n_of[ENCODER] + w->n_of[FUSED] + w->n_of[ATTENTION] + w->n_of[MLP] > 0;
  for (size_t i = 0; i < w->n; i++) {
    unit *u = &w->units[i];
    if (u->part == EMBEDDING) u->place = FIRST;
    if (!blocks) u->n_block = 0; /* names alone give the order */
    if (!blocks && u->part == LINEAR && is_head(u)) u->place = HEAD;
    if (!is_composite(u->part) || u->n_block == 0) continue;
    if (!numbered) numbered = u;
    size_t n = tower_length(numbered);
    if (tower_length(u) != n || memcmp(u->stem, numbered->stem, n) != 0 || strstr(u->stem, "expert")) refuse_tensor(w, u->entry->name);
  }
  size_t n_at[HEAD + 1] = {0};
  for (size_t i = 0; i < w->n && !w->failed; i++) {
    unit *u = &w->units[i];
    if (blocks && u->place == IN_BLOCKS) place_unit(w, u, numbered != NULL);
    if (++n_at[u->place] > 1 && u->place != IN_BLOCKS) refuse_tensor(w, u->entry->name);
  }
  if (!w->failed) count_contents(w);
  for (size_t i = 0; blocks && i < w->n && !w->failed; i++)
    if (w->units[i].place == IN_BLOCKS) rank_unit(w, &w->units[i]);
}

static int in_order(const void *x, const void *y) {
  const unit *a = x, *b = y;
  if (a->place != b->place) return a->place < b->place ? -1 : 1;
  int order = natural(a->stem, a->n_block, b->stem, b->n_block);
  if (order) return order;
  if (a->rank != b->rank) return a->rank < b->rank ? -1 : 1;
  return natural(a->stem, strlen(a->stem), b->stem, strlen(b->stem));
}

/* ---- Writing ---- */

static const char *yes_no(const void *there) { return there ? "true" : "false"; }

static void begin_layer(work *w, const char *type, const char *stem, const char *behind) {
  hd_text *t = &w->out->network;
  hd_text_print(t, "{\"type\":\"%s\",\"weights\":", type);
  char *weights = hd_arena_format(&w->arena, "%s%s", stem, behind);
  if (weights) hd_text_quoted(t, weights);
  else out_of_memory(w);
}

static void write_norm(work *w, const unit *u) {
  static const char *const rms[] = {"rms", NULL}, *const named[] = {"layernorm", "layer_norm", "LayerNorm", "ln", NULL};
  static const char *const rms_eps[] = {"rms_norm_eps", NULL}, *const layer_eps[] = {"layer_norm_eps", "layer_norm_epsilon", NULL};
  const hd_entry *bias = part_of(w, u, "bias");
  const bool layer = bias || (!w->n_of[ATTENTION] && !w->n_of[MLP] && !has_word(u->stem, rms) && has_word(u->stem, named));
  const double eps = config_number(w, layer ? layer_eps : rms_eps, 0);
  begin_layer(w, layer ? "layer_norm" : "rms_norm", u->stem, "");
  hd_text_print(&w->out->network, ",\"norm_size\":%zu,\"epsilon\":", u->entry->shape[0]);
  hd_text_double(&w->out->network, eps > 0 ? eps : layer ? 1e-5 : 1e-6);
  hd_text_print(&w->out->network, "%s}", layer && !bias ? ",\"bias\":false" : "");
  if (!(eps > 0) && once(&w->assumed_norm))
    warn(w, "assumed: %s",
         layer ? "layer norms with an epsilon of 1e-5 (layer_norm_eps)" : "RMS norms with an epsilon of 1e-6 (rms_norm_eps)");
}

/* Between linear layers an activation, which no tensor names: config.json's, none behind the last; else Loom's, which
 * its generic loader puts behind every one. */
static void write_linear(work *w, const unit *u, bool last) {
  const bool blocks = w->n_of[ATTENTION] + w->n_of[FUSED] + w->n_of[MLP] + w->n_of[ENCODER] > 0;
  const char *activation = blocks ? "linear" : config_activation(w);
  if (!activation && once(&w->assumed_linear))
    warn(w, "assumed: Loom's relu behind every linear layer (hidden_act in config.json is put between them)");
  begin_layer(w, "dense", u->stem, "");
  hd_text_print(&w->out->network, ",\"in_features\":%zu,\"out_features\":%zu,\"bias\":%s,\"activation\":",
                u->entry->shape[1], u->entry->shape[0], yes_no(part_of(w, u, "bias")));
  hd_text_quoted(&w->out->network, !activation ? "loom_relu" : last ? "linear" : activation);
  hd_text_add(&w->out->network, "}", 1);
}

static void write_embedding(work *w, const unit *u) {
  begin_layer(w, "embedding", u->stem, "");
  hd_text_print(&w->out->network, ",\"vocab_size\":%zu,\"embedding_dim\":%zu}", u->entry->shape[0], u->entry->shape[1]);
}

/* The heads of `rows` of queries; 0: refused. */
static size_t heads_of(work *w, const unit *u, size_t rows) {
  static const char *const dims[] = {"head_dim", NULL};
  size_t heads = config_heads(w), head_dim = (size_t)config_number(w, dims, 0);
  if (heads == 0 && head_dim > 0 && rows % head_dim == 0) heads = rows / head_dim;
  if (heads == 0)
    refuse(w, HD_BAD_FILE, "config.json.num_attention_heads: this key is needed: how many heads %.160s has is in no shape", u->entry->name);
  else if (rows % heads != 0)
    refuse(w, HD_BAD_FILE, "config.json.num_attention_heads: expected a divisor of the %zu rows of %.160s, found %zu",
           rows, u->entry->name, heads);
  return w->failed ? 0 : heads;
}

static void write_attention(work *w, const unit *u) {
  size_t rows = u->entry->shape[0], heads = heads_of(w, u, rows), k_rows = part_of(w, u, "k_proj.weight")->shape[0];
  if (!heads) return;
  size_t head_dim = rows / heads;
  if (head_dim == 0 || k_rows % head_dim != 0) {
    refuse(w, HD_BAD_FILE, "tensor %.160sk_proj.weight: expected whole heads of %zu rows, found %zu", u->stem, head_dim, k_rows);
    return;
  }
  double theta = config_rope_theta(w);
  const bool assumed = theta == 0, model = w->n_of[EMBEDDING] > 0;
  if (assumed && model) theta = 10000;
  begin_layer(w, "multi_head_attention", u->stem, "");
  hd_text_print(&w->out->network,
                ",\"d_model\":%zu,\"num_heads\":%zu,\"num_kv_heads\":%zu,\"head_dim\":%zu"
                ",\"qkv_bias\":%s,\"out_bias\":%s,\"rope_freq_base\":",
                u->entry->shape[1], heads, k_rows / head_dim, head_dim,
                yes_no(part_of(w, u, "q_proj.bias")), yes_no(part_of(w, u, "o_proj.bias")));
  hd_text_double(&w->out->network, theta);
  hd_text_add(&w->out->network, "}", 1);
  if (!once(&w->assumed_attention)) return;
  warn(w, "assumed: causal attention");
  if (assumed) warn(w, model ? "assumed: rotary positions of base 10000 (rope_theta)" : "assumed: no rotary positions (rope_theta)");
}

static void write_fused(work *w, const unit *u) {
  size_t width = u->entry->shape[1], heads = heads_of(w, u, width);
  if (!heads) return;
  begin_layer(w, "torch_attention", u->stem, "");
  hd_text_print(&w->out->network, ",\"embed_dim\":%zu,\"num_heads\":%zu,\"bias\":%s}", width, heads, yes_no(part_of(w, u, "in_proj_bias")));
  if (once(&w->assumed_attention)) warn(w, "assumed: attention to all positions, not only those before");
}

static void write_encoder(work *w, const unit *u) {
  static const char *const eps[] = {"layer_norm_eps", NULL};
  size_t width = u->entry->shape[1], heads = heads_of(w, u, width);
  const char *activation = config_activation(w);
  if (!heads) return;
  const bool first = w->config && cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(w->config, "norm_first"));
  begin_layer(w, "transformer_encoder_layer", u->stem, "");
  hd_text_print(&w->out->network, ",\"d_model\":%zu,\"nhead\":%zu,\"dim_feedforward\":%zu,\"bias\":%s,\"norm_first\":%s,\"activation\":",
                width, heads, part_of(w, u, "linear1.weight")->shape[0], yes_no(part_of(w, u, "linear1.bias")), first ? "true" : "false");
  hd_text_quoted(&w->out->network, activation ? activation : "relu");
  hd_text_print(&w->out->network, ",\"layer_norm_eps\":");
  hd_text_double(&w->out->network, config_number(w, eps, 1e-5));
  hd_text_add(&w->out->network, "}", 1);
  if (!once(&w->assumed_encoder)) return;
  if (!activation) warn(w, "assumed: relu in the encoder's layers (activation)");
  if (!first) warn(w, "assumed: norms behind the encoder's residuals, as PyTorch's default is (norm_first)");
}

static void write_mlp(work *w, const unit *u) {
  hd_text *t = &w->out->network;
  const char *activation = config_activation(w);
  size_t hidden = u->entry->shape[0], width = u->entry->shape[1];
  const char *bias = yes_no(part_of(w, u, "up_proj.bias"));
  if (part_of(w, u, "gate_proj.weight")) {
    begin_layer(w, "swiglu", u->stem, "");
    hd_text_print(t, ",\"input_height\":%zu,\"output_height\":%zu,\"bias\":%s,\"activation\":", width, hidden, bias);
    hd_text_quoted(t, activation ? activation : "silu");
    hd_text_add(t, "}", 1);
    return;
  }
  if (!activation && once(&w->assumed_mlp)) warn(w, "assumed: gelu in feed-forward layers without a gate (hidden_act)");
  hd_text_print(t, "{\"type\":\"sequential\",\"branches\":[");
  begin_layer(w, "dense", u->stem, "up_proj.");
  hd_text_print(t, ",\"in_features\":%zu,\"out_features\":%zu,\"bias\":%s,\"activation\":", width, hidden, bias);
  hd_text_quoted(t, activation ? activation : "gelu");
  hd_text_add(t, "},", 2);
  begin_layer(w, "linear", u->stem, "down_proj.");
  hd_text_print(t, ",\"in_features\":%zu,\"out_features\":%zu,\"bias\":%s}]}",
                hidden, part_of(w, u, "down_proj.weight")->shape[0], yes_no(part_of(w, u, "down_proj.bias")));
}

static void write_unit(work *w, const unit *u, bool last_linear) {
  switch (u->part) {
    case EMBEDDING: write_embedding(w, u); break;
    case NORM: write_norm(w, u); break;
    case LINEAR: write_linear(w, u, last_linear); break;
    case ENCODER: write_encoder(w, u); break;
    case FUSED: write_fused(w, u); break;
    case ATTENTION: write_attention(w, u); break;
    case MLP: write_mlp(w, u); break;
  }
}

/* x + layer(norm(x)), or the layer alone. How many units it takes. */
static size_t write_half(work *w, size_t i) {
  const unit *u = &w->units[i];
  const contents block = is_composite(u->part) ? *u->block : (contents){0};
  const bool half = u->place == IN_BLOCKS && u->part != ENCODER && (is_composite(u->part) || u->part == NORM);
  const bool pair = half && u->part == NORM && i + 1 < w->n && same_block(u, u + 1) && is_composite(u[1].part) && u[1].part != ENCODER;
  const bool residual = pair || (half && u->part != NORM && (block.norms || (block.attentions && block.mlps)));
  if (residual) hd_text_print(&w->out->network, "{\"type\":\"residual\",\"branches\":[");
  write_unit(w, u, i == w->last_linear);
  if (pair) hd_text_add(&w->out->network, ",", 1);
  if (pair) write_unit(w, u + 1, false);
  if (residual) hd_text_print(&w->out->network, "]}");
  if (residual && !pair && block.norms) warn(w, "missing: a norm before %.160s; none is applied", u->stem);
  return pair ? 2 : 1;
}

/* A model that ends in its final norm, without a head: the embedding's matrix is it, unless config.json says no. */
static void write_tied_head(work *w) {
  const unit *first = &w->units[0], *last = &w->units[w->n - 1];
  const cJSON *tied = w->config ? cJSON_GetObjectItemCaseSensitive(w->config, "tie_word_embeddings") : NULL;
  if (first->part != EMBEDDING || last->place != FINAL_NORM || cJSON_IsFalse(tied)) return;
  hd_text_add(&w->out->network, ",", 1);
  begin_layer(w, "linear", first->stem, "");
  hd_text_print(&w->out->network, ",\"in_features\":%zu,\"out_features\":%zu,\"bias\":false}",
                first->entry->shape[1], first->entry->shape[0]);
  if (!tied) warn(w, "assumed: the embedding's matrix for the head, which is missing (tie_word_embeddings)");
}

static void write_network(work *w) {
  hd_text *t = &w->out->network;
  const unit *first = &w->units[0];
  for (size_t i = 0; i < w->n; i++)
    if (w->units[i].part == LINEAR) w->last_linear = i;
  hd_text_print(t, "{\"dialect\":\"standard\",");
  if (first->part == EMBEDDING) hd_text_print(t, "\"input_dtype\":\"I32\",\"input_shape\":[64],\"layers\":[");
  else hd_text_print(t, "\"input_shape\":[1,%zu],\"layers\":[", first->entry->shape[first->entry->n_dims - 1]);
  for (size_t i = 0; i < w->n && !w->failed;) {
    if (i) hd_text_add(t, ",", 1);
    i += write_half(w, i);
  }
  write_tied_head(w);
  hd_text_print(t, "]}");
}

bool hd_assemble_blocks(hd_assembly *out, const hd_directory *directory, const cJSON *config) {
  work w = {.directory = directory, .config = config, .out = out};
  size_t n = hd_directory_count(directory);
  w.units = hd_arena_alloc(&w.arena, (n + 1) * sizeof *w.units);
  if (!w.units) out_of_memory(&w);
  for (size_t i = 0; i < n && !w.failed; i++) {
    const hd_entry *e = hd_directory_entry(directory, i);
    if (!take_composite(&w, e)) take_single(&w, e);
  }
  if (w.n == 0)
    refuse(&w, HD_UNSUPPORTED, "the tensors' names and shapes do not say how they belong together: give the model's config.json");
  if (!w.failed) place_all(&w);
  if (!w.failed) qsort(w.units, w.n, sizeof *w.units, in_order);
  if (!w.failed) write_network(&w);
  hd_arena_free(&w.arena);
  return !w.failed;
}
