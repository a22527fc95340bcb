/* assemble.c: what Loom's generic loader leaves out: tensors that belong together, told by their names and shapes.
 *
 * A file with Llama's names becomes a config.json for the family (arch_llama.c): the one that came with it, completed by what the tensors
 * show, sizes, biases, whether the head is the embedding. Only the number of heads is in no shape; where config.json does not say it, the
 * family refuses what comes out here by that key.
 *
 * A file of nothing but PyTorch's recurrent weights (weight_ih_l0, …) becomes the one layer they are: an rnn, gru or lstm by how many gates
 * its matrices hold. An rnn's nonlinearity is in no tensor; it is tanh, as in PyTorch where nothing else is said. */
#include "graph/assemble.h"

#include <stdio.h>
#include <string.h>

/* Adds a key where the config has none (or null). */
static void complete(cJSON *config, const char *key, cJSON *value, bool *ok) {
  const cJSON *there = cJSON_GetObjectItem(config, key);
  if (there && !cJSON_IsNull(there)) {
    cJSON_Delete(value);
    return;
  }
  if (there) cJSON_DeleteItemFromObject(config, key);
  if (value && cJSON_AddItemToObject(config, key, value)) return;
  cJSON_Delete(value);
  *ok = false;
}

static void complete_size(cJSON *config, const char *key, size_t value, bool *ok) {
  complete(config, key, cJSON_CreateNumber((double)value), ok);
}

/* A tensor of block 0. */
static const hd_entry *in_block(const hd_directory *directory, const char *name) {
  char room[96];
  snprintf(room, sizeof room, "model.layers.0.%s", name);
  return hd_directory_find(directory, room);
}

static bool is_matrix(const hd_entry *e) { return e && e->n_dims == 2; }

static size_t count_blocks(const hd_directory *directory) {
  char room[96];
  size_t n = 0;
  do snprintf(room, sizeof room, "model.layers.%zu.self_attn.q_proj.weight", n);
  while (hd_directory_find(directory, room) && ++n);
  return n;
}

bool hd_assemble_llama(cJSON *config, const hd_directory *directory, bool *ok) {
  const hd_entry *embedding = hd_directory_find(directory, "model.embed_tokens.weight"),
                 *q = in_block(directory, "self_attn.q_proj.weight"), *k = in_block(directory, "self_attn.k_proj.weight"),
                 *gate = in_block(directory, "mlp.gate_proj.weight");
  if (!is_matrix(embedding) || !is_matrix(q) || !is_matrix(k) || !is_matrix(gate)) return false;
  bool qkv_bias = in_block(directory, "self_attn.q_proj.bias") != NULL, out_bias = in_block(directory, "self_attn.o_proj.bias") != NULL;
  *ok = true;
  complete(config, "model_type", cJSON_CreateString(qkv_bias && !out_bias ? "qwen2" : "llama"), ok);
  complete_size(config, "vocab_size", embedding->shape[0], ok);
  complete_size(config, "hidden_size", embedding->shape[1], ok);
  complete_size(config, "intermediate_size", gate->shape[0], ok);
  complete_size(config, "num_hidden_layers", count_blocks(directory), ok);
  complete(config, "attention_bias", cJSON_CreateBool(out_bias), ok);
  complete(config, "mlp_bias", cJSON_CreateBool(in_block(directory, "mlp.gate_proj.bias") != NULL), ok);
  complete(config, "tie_word_embeddings", cJSON_CreateBool(!hd_directory_find(directory, "lm_head.weight")), ok);
  const cJSON *heads = cJSON_GetObjectItem(config, "num_attention_heads");
  if (!cJSON_IsNumber(heads) || heads->valuedouble < 1 || heads->valuedouble > (double)q->shape[0]) return true;
  size_t n_heads = (size_t)heads->valuedouble;
  if (q->shape[0] % n_heads != 0) return true;
  size_t head_dim = q->shape[0] / n_heads;
  complete_size(config, "head_dim", head_dim, ok);
  if (k->shape[0] % head_dim == 0) complete_size(config, "num_key_value_heads", k->shape[0] / head_dim, ok);
  return true;
}

bool hd_assemble_lacks_norm(const hd_directory *directory) {
  size_t n = count_blocks(directory);
  bool all = hd_directory_find(directory, "model.norm.weight") != NULL;
  for (size_t i = 0; all && i < n; i++) {
    char before[96], between[96];
    snprintf(before, sizeof before, "model.layers.%zu.input_layernorm.weight", i);
    snprintf(between, sizeof between, "model.layers.%zu.post_attention_layernorm.weight", i);
    all = hd_directory_find(directory, before) && hd_directory_find(directory, between);
  }
  return !all;
}

/* ---- Recurrent layers ---- */

/* PyTorch's name of a weight: "lstm." "weight_ih" "_l0" "_reverse". */
static const hd_entry *recurrent_weight(const hd_directory *directory, const char *stem, int n_stem, const char *role,
                                        size_t layer, bool reverse) {
  char room[512];
  int n = snprintf(room, sizeof room, "%.*s%s_l%zu%s", n_stem, stem, role, layer, reverse ? "_reverse" : "");
  return n > 0 && (size_t)n < sizeof room ? hd_directory_find(directory, room) : NULL;
}

/* The length of what comes before "weight_ih_l0" in the first name that ends so; −1: none does. */
static int find_stem(const hd_directory *directory, const char **stem) {
  static const char ending[] = "weight_ih_l0";
  for (size_t i = 0; i < hd_directory_count(directory); i++) {
    const char *name = hd_directory_entry(directory, i)->name;
    size_t n = strlen(name), n_ending = sizeof ending - 1;
    if (n < n_ending || n > 400 || strcmp(name + n - n_ending, ending) != 0) continue;
    *stem = name;
    return (int)(n - n_ending);
  }
  return -1;
}

static const char *cell_of(size_t gates) { return gates == 1 ? "rnn" : gates == 3 ? "gru" : gates == 4 ? "lstm" : NULL; }

bool hd_assemble_recurrent(hd_text *t, const hd_directory *directory) {
  const char *stem = NULL;
  int n_stem = find_stem(directory, &stem);
  if (n_stem < 0) return false;
  const hd_entry *ih = recurrent_weight(directory, stem, n_stem, "weight_ih", 0, false),
                 *hh = recurrent_weight(directory, stem, n_stem, "weight_hh", 0, false),
                 *hr = recurrent_weight(directory, stem, n_stem, "weight_hr", 0, false);
  if (!is_matrix(ih) || !is_matrix(hh) || (hr && !is_matrix(hr))) return false;
  size_t hidden = hr ? hr->shape[1] : hh->shape[1], n_layers = 0;
  const char *cell = hidden && hh->shape[0] % hidden == 0 ? cell_of(hh->shape[0] / hidden) : NULL;
  if (!cell) return false;
  bool bias = recurrent_weight(directory, stem, n_stem, "bias_ih", 0, false),
       both_ways = recurrent_weight(directory, stem, n_stem, "weight_ih", 0, true);
  while (recurrent_weight(directory, stem, n_stem, "weight_ih", n_layers, false)) n_layers++;
  /* Anything else in the file would go before or behind it, and nothing says where. */
  if (hd_directory_count(directory) != n_layers * (both_ways ? 2 : 1) * (size_t)(2 + 2 * bias + (hr != NULL))) return false;
  char prefix[512];
  snprintf(prefix, sizeof prefix, "%.*s", n_stem, stem);
  hd_text_print(t, "{\"dialect\":\"standard\",\"input_shape\":[1,%zu],\"layers\":[{\"type\":\"%s\",\"weights\":", ih->shape[1], cell);
  hd_text_quoted(t, prefix);
  hd_text_print(t, ",\"input_size\":%zu,\"hidden_size\":%zu,\"num_layers\":%zu,\"bias\":%s,\"bidirectional\":%s,\"proj_size\":%zu}]}",
                ih->shape[1], hidden, n_layers, bias ? "true" : "false", both_ways ? "true" : "false", hr ? hr->shape[0] : 0);
  return true;
}
