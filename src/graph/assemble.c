/* assemble.c: what Loom's generic loader leaves out: tensors that belong together, told by their names and shapes.
 *
 * A file with Llama's names becomes a config.json for the family (arch_llama.c): the one that came with it, completed by what the tensors show,
 * sizes, biases, whether the head is the embedding. Only the number of heads is in no shape; where config.json does not say it, the family refuses
 * what comes out here by that key. */
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

static void complete_size(cJSON *config, const char *key, size_t value, bool *ok) { complete(config, key, cJSON_CreateNumber((double)value), ok); }

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
  const hd_entry *embedding = hd_directory_find(directory, "model.embed_tokens.weight"), *q = in_block(directory, "self_attn.q_proj.weight"),
                 *k = in_block(directory, "self_attn.k_proj.weight"), *gate = in_block(directory, "mlp.gate_proj.weight");
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
