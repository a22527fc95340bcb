/* gguf.c: what GGUF files call a model's parts, in the words of Hugging Face, so that one description per family serves both:
 * "blk.3.attn_q.weight" is found as "model.layers.3.self_attn.q_proj.weight". The tables are here; gguf_config.c turns
 * metadata into a config.json by them, and back.
 *
 * Values that lie otherwise, by what llama.cpp's converters do:
 *   - Rotary positions of Llama turn neighbouring rows of a head in GGUF, its two halves in Hugging Face: row 2i + p of a head there is row
 *     p·head_dim/2 + i here. The loader puts the rows of q and k back. Qwen, Phi and Gemma are stored in the order of the halves.
 *   - Gemma's norms multiply by 1 + w; GGUF has the 1 added already, and the loader takes it away.
 *   - GPT-2's matrices are [in, out] in Hugging Face, and [out, in] as all others in GGUF.
 *   - The experts of a block are one tensor, [experts, rows, columns]; old files have them one by one ("ffn_gate.3"). */
#include "graph/gguf.h"

#include "base/decimal.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = HD_GGUF_NAME_ROOM, MOST_EXPERTS = 65536 };

/* ---- Words ---- */

/* Where a name has two meanings, the first of which the model has a parameter is meant. */
static const hd_gguf_part decoder_parts[] = {
    {"token_embd", "model.embed_tokens", false}, {"output_norm", "model.norm", false}, {"output", "lm_head", false}, {NULL, NULL, false},
}, decoder_block[] = {
    {"attn_norm", "input_layernorm", false},
    {"attn_q", "self_attn.q_proj", false},        {"attn_k", "self_attn.k_proj", false},    {"attn_v", "self_attn.v_proj", false},
    {"attn_qkv", "self_attn.qkv_proj", false},    {"attn_output", "self_attn.o_proj", false},
    {"attn_q_norm", "self_attn.q_norm", false},   {"attn_k_norm", "self_attn.k_norm", false},
    {"ffn_gate", "mlp.gate_proj", false},         {"ffn_up", "mlp.up_proj", false},
    {"ffn_up", "mlp.gate_up_proj", false},        {"ffn_down", "mlp.down_proj", false},
    {"ffn_norm", "pre_feedforward_layernorm", false}, {"ffn_norm", "post_attention_layernorm", false},
    {"post_attention_norm", "post_attention_layernorm", false}, {"post_ffw_norm", "post_feedforward_layernorm", false},
    {"ffn_gate_inp", "mlp.gate", true},                         {"ffn_gate_inp", "block_sparse_moe.gate", true},
    {"ffn_gate_exps", "mlp.experts.*.gate_proj", false},        {"ffn_gate_exps", "block_sparse_moe.experts.*.w1", false},
    {"ffn_up_exps", "mlp.experts.*.up_proj", false},            {"ffn_up_exps", "block_sparse_moe.experts.*.w3", false},
    {"ffn_down_exps", "mlp.experts.*.down_proj", false},        {"ffn_down_exps", "block_sparse_moe.experts.*.w2", false},
    {"ffn_gate.*", "mlp.experts.*.gate_proj", false},           {"ffn_gate.*", "block_sparse_moe.experts.*.w1", false},
    {"ffn_up.*", "mlp.experts.*.up_proj", false},               {"ffn_up.*", "block_sparse_moe.experts.*.w3", false},
    {"ffn_down.*", "mlp.experts.*.down_proj", false},           {"ffn_down.*", "block_sparse_moe.experts.*.w2", false},
    {NULL, NULL, false},
}, gpt2_parts[] = {
    {"token_embd", "transformer.wte", false}, {"position_embd", "transformer.wpe", true}, {"output_norm", "transformer.ln_f", false},
    {"output", "lm_head", false}, {NULL, NULL, false},
}, gpt2_block[] = {
    {"attn_norm", "ln_1", false}, {"attn_qkv", "attn.c_attn", false}, {"attn_output", "attn.c_proj", false},
    {"ffn_norm", "ln_2", false},  {"ffn_up", "mlp.c_fc", false},      {"ffn_down", "mlp.c_proj", false}, {NULL, NULL, false},
}, bert_parts[] = {
    {"token_embd", "embeddings.word_embeddings", false}, {"token_types", "embeddings.token_type_embeddings", true},
    {"position_embd", "embeddings.position_embeddings", true}, {"token_embd_norm", "embeddings.LayerNorm", false},
    {"", "pooler.dense", false}, /* llama.cpp's encoders have none */ {NULL, NULL, false},
}, bert_block[] = {
    {"attn_q", "attention.self.query", false},   {"attn_k", "attention.self.key", false}, {"attn_v", "attention.self.value", false},
    {"attn_output", "attention.output.dense", false}, {"attn_output_norm", "attention.output.LayerNorm", false},
    {"ffn_up", "intermediate.dense", false},     {"ffn_down", "output.dense", false},
    {"layer_output_norm", "output.LayerNorm", false}, {NULL, NULL, false},
};

/* Of two rows with one key the first that is there counts. */
static const hd_gguf_member decoder_members[] = {
    {"embedding_length", "hidden_size", true, false},
    {"feed_forward_length", "intermediate_size", true, false},
    {"block_count", "num_hidden_layers", true, false},
    {"attention.head_count", "num_attention_heads", true, false},
    {"attention.head_count_kv", "num_key_value_heads", false, false},
    {"attention.key_length", "head_dim", false, false},
    {"context_length", "max_position_embeddings", false, false},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", false, true},
    {"rope.freq_base", "rope_theta", false, true},
    {"attention.sliding_window", "sliding_window", false, false},
    {"attn_logit_softcapping", "attn_logit_softcapping", false, true},
    {"final_logit_softcapping", "final_logit_softcapping", false, true},
    {NULL, NULL, false, false},
}, gpt2_members[] = {
    {"embedding_length", "n_embd", true, false},
    {"feed_forward_length", "n_inner", true, false},
    {"block_count", "n_layer", true, false},
    {"attention.head_count", "n_head", true, false},
    {"context_length", "n_positions", true, false},
    {"attention.layer_norm_epsilon", "layer_norm_epsilon", false, true},
    {NULL, NULL, false, false},
}, bert_members[] = {
    {"embedding_length", "hidden_size", true, false},
    {"feed_forward_length", "intermediate_size", true, false},
    {"block_count", "num_hidden_layers", true, false},
    {"attention.head_count", "num_attention_heads", true, false},
    {"context_length", "max_position_embeddings", true, false},
    {"attention.layer_norm_epsilon", "layer_norm_eps", false, true},
    {NULL, NULL, false, false},
};

const hd_gguf_member hd_gguf_expert_members[] = {
    {"expert_count", "num_local_experts", true, false},
    {"expert_count", "num_experts", true, false},
    {"expert_used_count", "num_experts_per_tok", true, false},
    {"expert_feed_forward_length", "moe_intermediate_size", false, false},
    {NULL, NULL, false, false},
};

static const hd_gguf_words decoder = {"model.layers.", decoder_parts, decoder_block, decoder_members, .rotary = true},
                           gpt2 = {"transformer.h.", gpt2_parts, gpt2_block, gpt2_members, .out_in = true},
                           bert = {"encoder.layer.", bert_parts, bert_block, bert_members, .rotary = false};

static const hd_gguf_architecture architectures[] = {
    {"llama", "llama", &decoder, .interleaved = true, .members = ""},
    {"smollm3", "smollm3", &decoder, .interleaved = true, .members = ""},
    {"qwen2", "qwen2", &decoder, .members = ""},
    {"qwen3", "qwen3", &decoder, .members = ""},
    {"qwen3moe", "qwen3_moe", &decoder, .experts = true, .members = ",\"norm_topk_prob\":true"},
    {"phi3", "phi3", &decoder, .members = ""},
    {"gemma", "gemma", &decoder, .plus_one = true, .members = ",\"hidden_activation\":\"gelu_pytorch_tanh\""},
    {"gemma2", "gemma2", &decoder, .plus_one = true, .members = ",\"hidden_activation\":\"gelu_pytorch_tanh\""},
    {"gemma3", "gemma3_text", &decoder, .plus_one = true, .members = ",\"hidden_activation\":\"gelu_pytorch_tanh\""},
    {"gpt2", "gpt2", &gpt2, .members = ""},
    {"bert", "bert", &bert, .members = ",\"architectures\":[\"BertForMaskedLM\"]"}, /* what has no pooler */
    {"llama", "mixtral", &decoder, .interleaved = true, .experts = true, .members = ""},
    {"llama", "mistral", &decoder, .interleaved = true, .members = ""}, /* for writing: reading finds the first */
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* ---- Which it is ---- */

bool hd_gguf_says_experts(const hd_directory *d, const char *architecture) {
  char full[NAME_ROOM];
  snprintf(full, sizeof full, "%s.expert_count", architecture);
  const char *count = hd_directory_value(d, full);
  return count && hd_decimal_read(count, strlen(count), NULL, hd_binary_f64) > 0;
}

bool hd_gguf_is_spoken(const hd_directory *d) {
  const char *format = hd_directory_format(d);
  return strcmp(format, "GGUF") == 0 || strcmp(format, "llama2.c") == 0;
}

/* Of the rows with one name, the one that has experts or has none as the file. */
const hd_gguf_architecture *hd_gguf_architecture_of(const hd_directory *d) {
  const char *text = hd_gguf_is_spoken(d) ? hd_directory_value(d, "general.architecture") : NULL;
  const hd_gguf_architecture *found = NULL;
  size_t n = text ? strlen(text) : 0;
  for (size_t i = 0; i < N_ARCHITECTURES && n > 2; i++) {
    const hd_gguf_architecture *a = &architectures[i];
    if (strlen(a->name) != n - 2 || strncmp(a->name, text + 1, n - 2) != 0) continue;
    if (!found || (found->experts != a->experts && a->experts == hd_gguf_says_experts(d, a->name))) found = a;
  }
  return found;
}

const hd_gguf_architecture *hd_gguf_architecture_for(const char *model_type) {
  for (size_t i = 0; i < N_ARCHITECTURES; i++)
    if (strcmp(architectures[i].model_type, model_type) == 0) return &architectures[i];
  return NULL;
}

const char *hd_gguf_list(char *room, size_t n) {
  size_t at = 0;
  for (size_t i = 0; i < N_ARCHITECTURES && at < n; i++)
    if (i == 0 || strcmp(architectures[i].name, "llama") != 0)
      at += (size_t)snprintf(room + at, n - at, "%s%s", i ? ", " : "", architectures[i].name);
  return room;
}

/* ---- Names ---- */

/* The whole-number value of "<architecture>.<key>"; `missing` where there is none. */
static hd_status get_size(size_t *out, const hd_directory *d, const hd_gguf_architecture *a, const char *key,
                          size_t missing, hd_error *err) {
  char full[NAME_ROOM], *end, room[HD_NAME_ROOM];
  snprintf(full, sizeof full, "%s.%s", a->name, key);
  const char *text = hd_directory_value(d, full);
  unsigned long value = text ? strtoul(text, &end, 10) : missing;
  *out = value;
  if (!text || (*text != '-' && end != text && *end == '\0' && value > 0 && value < 1u << 31)) return HD_OK;
  return hd_fail(err, HD_UNSUPPORTED, "GGUF: %s: expected a whole number, found %s", full, hd_short_name(room, text));
}

hd_status hd_gguf_recognise(hd_gguf_names *names, const hd_directory *d, hd_error *err) {
  hd_gguf_names found = {.architecture = hd_gguf_architecture_of(d)};
  *names = (hd_gguf_names){0};
  if (!found.architecture) return HD_OK;
  HD_TRY(get_size(&found.heads, d, found.architecture, "attention.head_count", 1, err));
  HD_TRY(get_size(&found.kv_heads, d, found.architecture, "attention.head_count_kv", found.heads, err));
  *names = found;
  return HD_OK;
}

/* Splits "attn_q.weight" into the part's length and ".weight"; false where there is nothing to split. */
static bool split_part(const char *name, size_t *n, const char **ending) {
  *ending = strrchr(name, '.');
  *n = *ending ? (size_t)(*ending - name) : 0;
  return *ending != NULL;
}

static bool is_part(const char *part, const char *name, size_t n) { return strlen(part) == n && strncmp(part, name, n) == 0; }

/* The same of a part that has a number where the row has a '*', at its end; the number, or −1. */
static int part_number(const char *part, const char *name, size_t n) {
  size_t before = strlen(part) - 1;
  if (part[before] != '*' || n <= before || strncmp(part, name, before) != 0 || name[before] < '0' || name[before] > '9') return -1;
  char *end;
  unsigned long number = strtoul(name + before, &end, 10);
  bool plain = end == name + n && number < MOST_EXPERTS && (name[before] != '0' || n == before + 1);
  return plain ? (int)number : -1;
}

/* The parameter of a block's tensor by one of the rows; −1: that is not its name, or the model has none. */
static int find_by(const hd_gguf_part *row, const hd_gguf_words *words, const hd_model *model, unsigned long block,
                   const char *rest, int *part) {
  char room[NAME_ROOM];
  const char *ending;
  size_t n;
  *part = -1;
  if (!*row->gguf || !split_part(rest, &n, &ending)) return -1;
  if (!is_part(row->gguf, rest, n) && (*part = part_number(row->gguf, rest, n)) < 0) return -1;
  snprintf(room, sizeof room, "%s%lu.%s%s", words->blocks, block, row->hugging_face, ending);
  return hd_parameter_find(model, room);
}

static int find_in_block(const hd_gguf_words *words, const hd_model *model, const char *tensor, const hd_gguf_part **row, int *part) {
  char *rest;
  unsigned long block = strtoul(tensor + strlen("blk."), &rest, 10);
  if (*rest++ != '.') return -1;
  for (*row = words->inside; (*row)->gguf; ++*row) {
    int index = find_by(*row, words, model, block, rest, part);
    if (index >= 0) return index;
  }
  return -1;
}

static int find_outside(const hd_gguf_words *words, const hd_model *model, const char *tensor, const hd_gguf_part **row) {
  char room[NAME_ROOM];
  const char *ending;
  size_t n;
  if (!split_part(tensor, &n, &ending)) return -1;
  for (*row = words->outside; (*row)->gguf; ++*row) {
    if (!is_part((*row)->gguf, tensor, n)) continue;
    snprintf(room, sizeof room, "%s%s", (*row)->hugging_face, ending);
    return hd_parameter_find(model, room);
  }
  return -1;
}

static bool ends_with(const char *text, const char *ending) {
  size_t n = strlen(text), m = strlen(ending);
  return n >= m && strcmp(text + n - m, ending) == 0;
}

static hd_gguf_order order_of(const hd_gguf_names *names, const hd_gguf_part *row, const char *tensor) {
  const hd_gguf_architecture *a = names->architecture;
  hd_gguf_order order = {.plus_one = a->plus_one && ends_with(tensor, "norm.weight"),
                         .out_in = a->words->out_in, .exact = row->exact, .part = -1};
  if (a->interleaved)
    order.heads = strcmp(row->gguf, "attn_q") == 0 ? names->heads : strcmp(row->gguf, "attn_k") == 0 ? names->kv_heads : 0;
  return order;
}

int hd_gguf_find(hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, const char *tensor) {
  *order = (hd_gguf_order){.part = -1};
  int index = hd_parameter_find(model, tensor), part = -1;
  if (index >= 0 || !names->architecture) return index;
  const hd_gguf_words *words = names->architecture->words;
  const hd_gguf_part *row = NULL;
  index = strncmp(tensor, "blk.", 4) == 0 ? find_in_block(words, model, tensor, &row, &part) : find_outside(words, model, tensor, &row);
  if (index < 0) return index;
  *order = order_of(names, row, tensor);
  order->part = part;
  return index;
}

/* The row among those called so in Hugging Face whose tensor comes back as this parameter. */
static const hd_gguf_part *name_in_block(char room[NAME_ROOM], const hd_gguf_words *words, const hd_model *model, size_t parameter,
                                         unsigned long block, const char *rest) {
  const char *ending;
  const hd_gguf_part *found;
  size_t n;
  int part;
  if (!split_part(rest, &n, &ending)) return NULL;
  for (const hd_gguf_part *row = words->inside; row->gguf; row++) {
    if (!is_part(row->hugging_face, rest, n)) continue;
    snprintf(room, NAME_ROOM, "blk.%lu.%s%s", block, row->gguf, ending);
    if (find_in_block(words, model, room, &found, &part) == (int)parameter && part < 0) return row;
  }
  return NULL;
}

static const hd_gguf_part *name_outside(char room[NAME_ROOM], const hd_gguf_words *words, const char *name) {
  const char *ending;
  size_t n;
  for (const hd_gguf_part *row = words->outside; split_part(name, &n, &ending) && row->gguf; row++) {
    if (!is_part(row->hugging_face, name, n)) continue;
    if (*row->gguf) snprintf(room, NAME_ROOM, "%s%s", row->gguf, ending);
    else *room = '\0';
    return row;
  }
  return NULL;
}

bool hd_gguf_name(char room[HD_GGUF_NAME_ROOM], hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, size_t parameter) {
  const hd_gguf_words *words = names->architecture->words;
  const char *name = model->parameters[parameter].name;
  const hd_gguf_part *row;
  size_t n = strlen(words->blocks);
  *order = (hd_gguf_order){.part = -1};
  if (strncmp(name, words->blocks, n) == 0) {
    char *rest;
    unsigned long block = strtoul(name + n, &rest, 10);
    row = *rest == '.' ? name_in_block(room, words, model, parameter, block, rest + 1) : NULL;
  } else {
    row = name_outside(room, words, name);
  }
  if (row) *order = order_of(names, row, room);
  return row != NULL;
}

/* ---- Rows ---- */

void hd_gguf_part_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes) {
  for (size_t r = 0; r < n_rows; r++) {
    size_t head = r / head_dim * head_dim, within = r % head_dim;
    memcpy(to + (head + within % 2 * (head_dim / 2) + within / 2) * row_bytes, from + r * row_bytes, row_bytes);
  }
}

void hd_gguf_interleave_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes) {
  for (size_t r = 0; r < n_rows; r++) {
    size_t head = r / head_dim * head_dim, within = r % head_dim;
    memcpy(to + r * row_bytes, from + (head + within % 2 * (head_dim / 2) + within / 2) * row_bytes, row_bytes);
  }
}
