/* gguf.c: what GGUF files call a decoder's parts, in the words of Hugging Face, so that one description per family serves both: metadata become
 * a config.json, "blk.3.attn_q.weight" is found as "model.layers.3.self_attn.q_proj.weight".
 *
 * Values that lie otherwise, by what llama.cpp's converters do:
 *   - Rotary positions of Llama turn neighbouring rows of a head in GGUF, its two halves in Hugging Face: row 2i + p of a head there is row
 *     p·head_dim/2 + i here. The loader puts the rows of q and k back. Qwen, Phi and Gemma are stored in the order of the halves.
 *   - Gemma's norms multiply by 1 + w; GGUF has the 1 added already, and the loader takes it away.
 *   - Llama 3.1 slows its rotary frequencies by factors that config.json gives by rule; GGUF has them as a tensor, rope_freqs.weight, which
 *     becomes the explicit list of a longrope. */
#include "graph/gguf.h"

#include "base/decimal.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct hd_gguf_architecture {
  const char *name;       /* general.architecture */
  const char *model_type; /* config.json's */
  bool interleaved, plus_one;
  const char *members;    /* more of config.json, which no metadata say */
};

static const hd_gguf_architecture architectures[] = {
    {"llama", "llama", true, false, ""},
    {"smollm3", "smollm3", true, false, ""},
    {"qwen2", "qwen2", false, false, ""},
    {"qwen3", "qwen3", false, false, ""},
    {"phi3", "phi3", false, false, ""},
    {"gemma", "gemma", false, true, ",\"hidden_activation\":\"gelu_pytorch_tanh\""},
    {"gemma2", "gemma2", false, true, ",\"hidden_activation\":\"gelu_pytorch_tanh\""},
    {"gemma3", "gemma3_text", false, true, ",\"hidden_activation\":\"gelu_pytorch_tanh\""},
    {"llama", "mistral", true, false, ""}, /* for writing: reading finds the first */
};
enum { N_ARCHITECTURES = sizeof architectures / sizeof *architectures };

/* ---- Names ---- */

/* A tensor's name in GGUF and in Hugging Face; where one has two meanings, the first of which the model has a parameter is meant. */
static const struct { const char *gguf, *hugging_face; } parts[] = {
    {"token_embd", "model.embed_tokens"}, {"output_norm", "model.norm"}, {"output", "lm_head"},
}, block_parts[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},        {"attn_k", "self_attn.k_proj"},    {"attn_v", "self_attn.v_proj"},
    {"attn_qkv", "self_attn.qkv_proj"},    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},   {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_gate", "mlp.gate_proj"},         {"ffn_up", "mlp.up_proj"},         {"ffn_up", "mlp.gate_up_proj"}, {"ffn_down", "mlp.down_proj"},
    {"ffn_norm", "pre_feedforward_layernorm"}, {"ffn_norm", "post_attention_layernorm"},
    {"post_attention_norm", "post_attention_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"},
};
enum { N_PARTS = sizeof parts / sizeof *parts, N_BLOCK_PARTS = sizeof block_parts / sizeof *block_parts, NAME_ROOM = HD_GGUF_NAME_ROOM };

/* The whole-number value of "<architecture>.<key>"; `missing` where there is none. */
static hd_status get_size(size_t *out, const hd_directory *d, const hd_gguf_architecture *a, const char *key, size_t missing, hd_error *err) {
  char full[NAME_ROOM], *end, room[HD_NAME_ROOM];
  snprintf(full, sizeof full, "%s.%s", a->name, key);
  const char *text = hd_directory_value(d, full);
  unsigned long value = text ? strtoul(text, &end, 10) : missing;
  *out = value;
  if (!text || (*text != '-' && end != text && *end == '\0' && value > 0 && value < 1u << 31)) return HD_OK;
  return hd_fail(err, HD_UNSUPPORTED, "GGUF: %s: expected a whole number, found %s", full, hd_short_name(room, text));
}

static const hd_gguf_architecture *find_architecture(const hd_directory *d) {
  const char *text = strcmp(hd_directory_format(d), "GGUF") == 0 ? hd_directory_value(d, "general.architecture") : NULL;
  size_t n = text ? strlen(text) : 0;
  for (size_t i = 0; i < N_ARCHITECTURES && n > 2; i++)
    if (strlen(architectures[i].name) == n - 2 && strncmp(architectures[i].name, text + 1, n - 2) == 0) return &architectures[i];
  return NULL;
}

hd_status hd_gguf_recognise(hd_gguf_names *names, const hd_directory *d, hd_error *err) {
  *names = (hd_gguf_names){.architecture = find_architecture(d)};
  if (!names->architecture) return HD_OK;
  HD_TRY(get_size(&names->heads, d, names->architecture, "attention.head_count", 1, err));
  return get_size(&names->kv_heads, d, names->architecture, "attention.head_count_kv", names->heads, err);
}

/* Splits "attn_q.weight" into the part's length and ".weight"; false where there is nothing to split. */
static bool split_part(const char *name, size_t *n, const char **ending) {
  *ending = strrchr(name, '.');
  *n = *ending ? (size_t)(*ending - name) : 0;
  return *ending != NULL;
}

static bool is_part(const char *part, const char *name, size_t n) { return strlen(part) == n && strncmp(part, name, n) == 0; }

static int find_in_block(const hd_model *model, const char *tensor, size_t *part) {
  char *rest, room[NAME_ROOM];
  unsigned long block = strtoul(tensor + strlen("blk."), &rest, 10);
  const char *ending;
  size_t n;
  if (*rest++ != '.' || !split_part(rest, &n, &ending)) return -1;
  for (size_t i = 0; i < N_BLOCK_PARTS; i++) {
    if (!is_part(block_parts[i].gguf, rest, n)) continue;
    snprintf(room, sizeof room, "model.layers.%lu.%s%s", block, block_parts[i].hugging_face, ending);
    int index = hd_parameter_find(model, room);
    *part = i;
    if (index >= 0) return index;
  }
  return -1;
}

static int find_outside(const hd_model *model, const char *tensor) {
  char room[NAME_ROOM];
  const char *ending;
  size_t n;
  if (!split_part(tensor, &n, &ending)) return -1;
  for (size_t i = 0; i < N_PARTS; i++) {
    if (!is_part(parts[i].gguf, tensor, n)) continue;
    snprintf(room, sizeof room, "%s%s", parts[i].hugging_face, ending);
    return hd_parameter_find(model, room);
  }
  return -1;
}

static bool ends_with(const char *text, const char *ending) {
  size_t n = strlen(text), m = strlen(ending);
  return n >= m && strcmp(text + n - m, ending) == 0;
}

static hd_gguf_order order_of(const hd_gguf_names *names, const char *role, const char *tensor) {
  hd_gguf_order order = {.plus_one = names->architecture->plus_one && ends_with(tensor, "norm.weight")};
  if (names->architecture->interleaved) order.heads = strcmp(role, "attn_q") == 0 ? names->heads : strcmp(role, "attn_k") == 0 ? names->kv_heads : 0;
  return order;
}

int hd_gguf_find(hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, const char *tensor) {
  *order = (hd_gguf_order){0};
  int index = hd_parameter_find(model, tensor);
  if (index >= 0 || !names->architecture) return index;
  size_t part = N_BLOCK_PARTS;
  index = strncmp(tensor, "blk.", 4) == 0 ? find_in_block(model, tensor, &part) : find_outside(model, tensor);
  if (index < 0) return index;
  *order = order_of(names, part < N_BLOCK_PARTS ? block_parts[part].gguf : "", tensor);
  return index;
}

/* The part among those called so in Hugging Face that comes back as this parameter. */
static bool name_in_block(char room[NAME_ROOM], size_t *part, const hd_model *model, size_t parameter, unsigned long block, const char *rest) {
  const char *ending;
  size_t n, found;
  if (!split_part(rest, &n, &ending)) return false;
  for (*part = 0; *part < N_BLOCK_PARTS; ++*part) {
    if (!is_part(block_parts[*part].hugging_face, rest, n)) continue;
    snprintf(room, NAME_ROOM, "blk.%lu.%s%s", block, block_parts[*part].gguf, ending);
    if (find_in_block(model, room, &found) == (int)parameter) return true;
  }
  return false;
}

bool hd_gguf_name(char room[NAME_ROOM], hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, size_t parameter) {
  static const char layers[] = "model.layers.";
  const char *name = model->parameters[parameter].name, *ending;
  char *rest;
  size_t n, part;
  *order = (hd_gguf_order){0};
  if (strncmp(name, layers, sizeof layers - 1) == 0) {
    unsigned long block = strtoul(name + sizeof layers - 1, &rest, 10);
    if (*rest != '.' || !name_in_block(room, &part, model, parameter, block, rest + 1)) return false;
    *order = order_of(names, block_parts[part].gguf, room);
    return true;
  }
  for (size_t i = 0; split_part(name, &n, &ending) && i < N_PARTS; i++) {
    if (!is_part(parts[i].hugging_face, name, n)) continue;
    snprintf(room, NAME_ROOM, "%s%s", parts[i].gguf, ending);
    *order = order_of(names, "", room);
    return true;
  }
  return false;
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

/* ---- config.json ---- */

static const struct { const char *gguf, *config; bool needed, real; } members[] = {
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
};
enum { N_MEMBERS = sizeof members / sizeof *members };

typedef struct configuring {
  const hd_directory *directory;
  const hd_gguf_architecture *architecture;
  hd_text text;
  hd_error *err;
} configuring;

/* The JSON of "<architecture>.<key>"; NULL when there is none. */
static const char *value(const configuring *c, const char *key) {
  char full[NAME_ROOM];
  snprintf(full, sizeof full, "%s.%s", c->architecture->name, key);
  return hd_directory_value(c->directory, full);
}

static double number(const configuring *c, const char *key, double missing) {
  const char *text = value(c, key);
  return text ? hd_decimal_read(text, strlen(text), NULL, hd_binary_f64) : missing;
}

static hd_status write_members(configuring *c) {
  for (size_t i = 0; i < N_MEMBERS; i++) {
    char room[HD_NAME_ROOM];
    const char *text = value(c, members[i].gguf);
    size_t n = text ? strlen(text) : 0, n_number = 0;
    if (!text && !members[i].needed) continue;
    bool finite = n && isfinite(hd_decimal_read(text, n, &n_number, hd_binary_f64)) && n_number == n;
    if (!finite)
      return hd_fail(c->err, text ? HD_UNSUPPORTED : HD_BAD_FILE, "GGUF: %s.%s: expected one number, found %s", c->architecture->name, members[i].gguf,
                     text ? hd_short_name(room, text) : "none");
    hd_text_print(&c->text, ",\"%s\":%s", members[i].config, text);
  }
  const char *heads = value(c, "attention.head_count");
  if (!value(c, "attention.head_count_kv")) hd_text_print(&c->text, ",\"num_key_value_heads\":%s", heads);
  return HD_OK;
}

/* What only the tensors show. */
static void write_shown(configuring *c) {
  const hd_directory *d = c->directory;
  const hd_entry *embedding = hd_directory_find(d, "token_embd.weight");
  const char *vocabulary = value(c, "vocab_size");
  if (embedding && embedding->n_dims == 2) hd_text_print(&c->text, ",\"vocab_size\":%zu", embedding->shape[0]);
  else if (vocabulary) hd_text_print(&c->text, ",\"vocab_size\":%s", vocabulary);
  hd_text_print(&c->text, ",\"tie_word_embeddings\":%s", hd_directory_find(d, "output.weight") ? "false" : "true");
  if (hd_directory_find(d, "blk.0.attn_output.bias")) hd_text_print(&c->text, ",\"attention_bias\":true");
  if (hd_directory_find(d, "blk.0.ffn_down.bias")) hd_text_print(&c->text, ",\"mlp_bias\":true");
}

/* Gemma 2 and 3 scale queries by this: their largest models by the width of a head, the others by key_length (llama.cpp, too, knows it by depth).
 * 0: another architecture. */
static double query_scale(const hd_gguf_architecture *a, double blocks, double width, double key_length) {
  bool gemma2 = strcmp(a->name, "gemma2") == 0, gemma3 = strcmp(a->name, "gemma3") == 0;
  return !gemma2 && !gemma3 ? 0 : blocks == (gemma2 ? 46 : 62) ? width : key_length;
}

static void write_query_scale(configuring *c) {
  double width = number(c, "embedding_length", 0) / number(c, "attention.head_count", 1);
  double scale = query_scale(c->architecture, number(c, "block_count", 0), width, number(c, "attention.key_length", 256));
  if (scale > 0) hd_text_print(&c->text, ",\"query_pre_attn_scalar\":%.17g", scale);
}

static void write_tokens(configuring *c) {
  const char *begin = hd_directory_value(c->directory, "tokenizer.ggml.bos_token_id"), *end = hd_directory_value(c->directory, "tokenizer.ggml.eos_token_id"),
             *turn = hd_directory_value(c->directory, "tokenizer.ggml.eot_token_id");
  if (begin) hd_text_print(&c->text, ",\"bos_token_id\":%s", begin);
  if (end && turn && strcmp(end, turn) != 0) hd_text_print(&c->text, ",\"eos_token_id\":[%s,%s]", end, turn);
  else if (end) hd_text_print(&c->text, ",\"eos_token_id\":%s", end);
}

/* ---- Rotary positions ---- */

enum { MOST_FREQUENCIES = 1 << 16 };

const hd_entry *hd_directory_config_tensor(const hd_directory *directory) {
  return find_architecture(directory) ? hd_directory_find(directory, "rope_freqs.weight") : NULL;
}

static hd_status write_factors(configuring *c, const hd_entry *e, const uint8_t *bytes, size_t n) {
  if (e->dtype != HD_F32 || e->n_dims != 1 || e->shape[0] > MOST_FREQUENCIES || n != e->shape[0] * sizeof(float))
    return hd_fail(c->err, HD_BAD_FILE, "GGUF: tensor \"rope_freqs.weight\": expected a vector of F32 and its bytes, found %zu bytes", n);
  hd_text list = {0};
  for (size_t i = 0; i < e->shape[0]; i++) {
    float factor;
    memcpy(&factor, bytes + i * sizeof factor, sizeof factor);
    if (!(factor > 0 && isfinite(factor))) {
      hd_free(list.data);
      return hd_fail(c->err, HD_BAD_FILE, "GGUF: tensor \"rope_freqs.weight\": expected factors above 0, found %g at %zu", (double)factor, i);
    }
    hd_text_print(&list, "%s%.9g", i ? "," : "", (double)factor);
  }
  if (list.failed) c->text.failed = true;
  hd_text_print(&c->text, ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":1,\"attention_factor\":1,\"short_factor\":[%s],\"long_factor\":[%s]}",
                list.data ? list.data : "", list.data ? list.data : "");
  hd_free(list.data);
  return HD_OK;
}

static bool is_text(const char *json, const char *text) {
  return json && strlen(json) == strlen(text) + 2 && strncmp(json + 1, text, strlen(text)) == 0;
}

static hd_status write_scaling(configuring *c) {
  const char *type = value(c, "rope.scaling.type");
  double factor = number(c, "rope.scaling.factor", number(c, "rope.scale_linear", 1));
  bool linear = is_text(type, "linear") || (!type && factor != 1), yarn = is_text(type, "yarn");
  char room[HD_NAME_ROOM];
  if (!type || is_text(type, "none") || linear || yarn) {
    if (!(linear || yarn) || factor == 1) return HD_OK;
    hd_text_print(&c->text, ",\"rope_scaling\":{\"rope_type\":\"%s\",\"factor\":%.17g", linear ? "linear" : "yarn", factor);
    const char *original = value(c, "rope.scaling.original_context_length");
    if (original) hd_text_print(&c->text, ",\"original_max_position_embeddings\":%s", original);
    if (yarn && value(c, "rope.scaling.attn_factor"))
      hd_text_print(&c->text, ",\"attention_factor\":%.17g", number(c, "rope.scaling.attn_factor", 1) * (1 + 0.1 * log(factor)));
    hd_text_print(&c->text, "}");
    return HD_OK;
  }
  return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: %s.rope.scaling.type: expected none, linear or yarn, found %s", c->architecture->name, hd_short_name(room, type));
}

static hd_status write_rope(configuring *c, const void *tensor, size_t n) {
  double width = number(c, "attention.key_length", number(c, "embedding_length", 0) / number(c, "attention.head_count", 1));
  double turned = number(c, "rope.dimension_count", width);
  if (turned > 0 && turned < width) hd_text_print(&c->text, ",\"partial_rotary_factor\":%.17g", turned / width);
  const hd_entry *factors = hd_directory_config_tensor(c->directory);
  return factors ? write_factors(c, factors, tensor, n) : write_scaling(c);
}

/* ---- The whole ---- */

static hd_status refuse_unread(const configuring *c) {
  static const char *const tensors[] = {"rope_factors_long.weight", "blk.0.ffn_gate_exps.weight", "blk.0.ffn_gate_inp.weight"};
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
    if (hd_directory_find(c->directory, tensors[i]))
      return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: tensor \"%s\": %s are not read from GGUF files", tensors[i],
                     i ? "mixtures of experts" : "rotary factors for long texts");
  double keys = number(c, "attention.key_length", 0), values = number(c, "attention.value_length", keys);
  return keys == values ? HD_OK : hd_fail(c->err, HD_UNSUPPORTED, "GGUF: values of %g a head beside keys of %g are not built", values, keys);
}

static hd_status write_config(configuring *c, const void *tensor, size_t n) {
  HD_TRY(refuse_unread(c));
  hd_text_print(&c->text, "{\"model_type\":\"%s\"", c->architecture->model_type);
  HD_TRY(write_members(c));
  write_shown(c);
  write_query_scale(c);
  HD_TRY(write_rope(c, tensor, n));
  write_tokens(c);
  hd_text_print(&c->text, "%s}", c->architecture->members);
  return c->text.failed ? hd_fail(c->err, HD_OUT_OF_MEMORY, "no memory for a config") : HD_OK;
}

static hd_status refuse_architecture(const hd_directory *directory, hd_error *err) {
  const char *name = hd_directory_value(directory, "general.architecture");
  char room[HD_NAME_ROOM], list[256];
  size_t at = 0;
  if (!name) return hd_fail(err, HD_BAD_FILE, "GGUF: general.architecture: expected a text, found none: nothing says what the tensors are");
  for (size_t i = 0; i < N_ARCHITECTURES; i++)
    if (i == 0 || strcmp(architectures[i].name, "llama") != 0) at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? ", " : "", architectures[i].name);
  return hd_fail(err, HD_UNSUPPORTED, "GGUF: general.architecture %s is not known; known: %s", hd_short_name(room, name), list);
}

hd_status hd_directory_config(char **json, const hd_directory *directory, const void *tensor, size_t n, hd_error *err) {
  configuring c = {.directory = directory, .architecture = find_architecture(directory), .err = err};
  *json = NULL;
  if (strcmp(hd_directory_format(directory), "GGUF") != 0) return HD_OK;
  if (!c.architecture) return refuse_architecture(directory, err);
  hd_status status = write_config(&c, tensor, n);
  if (status == HD_OK) *json = c.text.data;
  else hd_free(c.text.data);
  return status;
}

/* ---- And back ---- */

hd_status hd_gguf_names_of_config(hd_gguf_names *names, const hd_json *config, hd_error *err) {
  const char *type = hd_json_get_text(config, "model_type", "");
  char room[HD_NAME_ROOM];
  *names = (hd_gguf_names){.heads = hd_json_get_size(config, "num_attention_heads", 1)};
  names->kv_heads = hd_json_get_size(config, "num_key_value_heads", names->heads);
  for (size_t i = 0; i < N_ARCHITECTURES && !names->architecture; i++)
    if (strcmp(architectures[i].model_type, type) == 0) names->architecture = &architectures[i];
  if (*config->status != HD_OK) return *config->status;
  return names->architecture ? HD_OK : hd_fail(err, HD_UNSUPPORTED, "config.json: model_type '%s' is not written as GGUF", hd_short_name(room, type));
}

typedef struct writing {
  hd_text *text;
  const hd_gguf_names *names;
  const hd_json *config;
  const hd_directory *given;
} writing;

/* ,"llama.KEY":VALUE unless the caller gave it. */
static void write_pair(const writing *w, const char *key, const char *kind, double number) {
  char full[NAME_ROOM];
  snprintf(full, sizeof full, "%s.%s", w->names->architecture->name, key);
  if (!hd_directory_value(w->given, full)) hd_text_print(w->text, ",\"%s\":{\"type\":\"%s\",\"value\":%.17g}", full, kind, number);
}

static void write_kind(const writing *w, const char *key, const char *kind) {
  char full[NAME_ROOM];
  snprintf(full, sizeof full, "%s.%s", w->names->architecture->name, key);
  if (!hd_directory_value(w->given, full)) hd_text_print(w->text, ",\"%s\":\"%s\"", full, kind);
}

/* rope_parameters (version 5 of transformers; below full_attention where layers differ) or rope_scaling; node NULL where there is none. */
static hd_json rope_of(const hd_json *config) {
  hd_json rope = hd_json_member(config, hd_json_has(config, "rope_parameters") ? "rope_parameters" : "rope_scaling");
  if (rope.node && cJSON_IsObject(rope.node) && hd_json_has(&rope, "full_attention")) rope = hd_json_member(&rope, "full_attention");
  if (rope.node && !cJSON_IsObject(rope.node)) rope.node = NULL;
  return rope;
}

/* Of these GGUF has the factors, as a tensor. */
static bool rope_is_tensor(const char *type) { return strcmp(type, "llama3") == 0 || strcmp(type, "longrope") == 0; }

static double head_width(const hd_gguf_names *names, const hd_json *config) {
  return hd_json_get_number(config, "head_dim", hd_json_get_number(config, "hidden_size", 0) / (double)names->heads);
}

/* Llama 3.1's rule: slow pairs by the factor, fast ones not at all, in between by how far the wavelength has come. */
static double llama3_factor(const hd_json *rope, double frequency) {
  double factor = hd_json_get_number(rope, "factor", 1), low = hd_json_get_number(rope, "low_freq_factor", 1), high = hd_json_get_number(rope, "high_freq_factor", 4),
         length = hd_json_get_number(rope, "original_max_position_embeddings", 8192), turns = length * frequency / 6.283185307179586;
  if (turns > high) return 1;
  if (turns < low) return factor;
  double smooth = (turns - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}

/* A longrope is a tensor of GGUF when its two lists are one and nothing else is scaled. */
static bool one_list(const hd_json *rope, size_t n) {
  const cJSON *a = hd_json_member(rope, "short_factor").node, *b = hd_json_member(rope, "long_factor").node;
  return cJSON_IsArray(a) && (size_t)cJSON_GetArraySize(a) == n && cJSON_Compare(a, b, true) && hd_json_get_number(rope, "attention_factor", 0) == 1;
}

hd_status hd_gguf_rope_factors(float **factors, size_t *n, hd_arena *arena, const hd_gguf_names *names, const hd_json *config, hd_error *err) {
  hd_json rope = rope_of(config);
  const char *type = rope.node ? hd_json_get_text(&rope, "rope_type", hd_json_get_text(&rope, "type", "default")) : "default";
  double width = floor(head_width(names, config) * hd_json_get_number(config, "partial_rotary_factor", 1));
  double theta = hd_json_get_number(config, "rope_theta", rope.node ? hd_json_get_number(&rope, "rope_theta", 10000) : 10000);
  *factors = NULL;
  *n = width > 0 && width < 2 * MOST_FREQUENCIES ? (size_t)width / 2 : 0;
  if (*config->status != HD_OK || !rope_is_tensor(type)) return *config->status;
  bool listed = strcmp(type, "longrope") == 0;
  if (listed && !one_list(&rope, *n)) return hd_fail(err, HD_UNSUPPORTED, "config.json: a longrope of two lists is not written as GGUF");
  *factors = hd_arena_alloc(arena, *n * sizeof **factors);
  if (!*factors) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for %zu rotary factors", *n);
  const cJSON *item = listed ? hd_json_member(&rope, "short_factor").node->child : NULL;
  for (size_t d = 0; d < *n; d++, item = item ? item->next : NULL)
    (*factors)[d] = (float)(item ? item->valuedouble : llama3_factor(&rope, pow(theta, -2 * (double)d / width)));
  return *config->status;
}

static hd_status write_rope_pairs(const writing *w, double head_dim, hd_error *err) {
  hd_json rope = rope_of(w->config);
  double part = hd_json_get_number(w->config, "partial_rotary_factor", 1);
  const char *type = rope.node ? hd_json_get_text(&rope, "rope_type", hd_json_get_text(&rope, "type", "default")) : "default";
  bool plain = strcmp(type, "default") == 0 || rope_is_tensor(type), known = strcmp(type, "linear") == 0 || strcmp(type, "yarn") == 0;
  char room[HD_NAME_ROOM];
  write_pair(w, "rope.dimension_count", "u32", floor(head_dim * part));
  if (rope.node && hd_json_has(&rope, "rope_theta") && !hd_json_has(w->config, "rope_theta"))
    write_pair(w, "rope.freq_base", "f32", hd_json_get_number(&rope, "rope_theta", 10000));
  if (*w->config->status != HD_OK) return *w->config->status;
  if (plain) return HD_OK;
  if (!known) return hd_fail(err, HD_UNSUPPORTED, "config.json: rope type '%s' is not written as GGUF", hd_short_name(room, type));
  write_kind(w, "rope.scaling.type", type);
  write_pair(w, "rope.scaling.factor", "f32", hd_json_get_number(&rope, "factor", 1));
  if (hd_json_has(&rope, "original_max_position_embeddings"))
    write_pair(w, "rope.scaling.original_context_length", "u32", (double)hd_json_get_size(&rope, "original_max_position_embeddings", 0));
  return *w->config->status;
}

/* Whether layer i of a list is as GGUF's readers take it: Gemma has every so many layers without a window, SmolLM3 without positions. */
static bool is_usual(const hd_gguf_names *names, const char *list, const cJSON *item, const cJSON *first, size_t i) {
  const char *name = names->architecture->name;
  size_t every = strcmp(name, "gemma2") == 0 ? 2 : strcmp(name, "gemma3") == 0 ? 6 : strcmp(name, "smollm3") == 0 ? 4 : 0;
  bool exception = every && (i + 1) % every == 0;
  if (strcmp(list, "no_rope_layers") == 0) return (cJSON_IsTrue(item) || (cJSON_IsNumber(item) && item->valuedouble != 0)) == !exception;
  if (!every || every == 4) return cJSON_Compare(item, first, true);
  return cJSON_IsString(item) && strcmp(item->valuestring, exception ? "full_attention" : "sliding_attention") == 0;
}

/* What has no place in GGUF has to be what its readers take for granted: a file that says less than it means would run, and say something else. */
static hd_status refuse_unsaid(const hd_gguf_names *names, const hd_json *config, hd_error *err) {
  static const char *const lists[] = {"layer_types", "no_rope_layers"};
  for (size_t l = 0; l < 2; l++) {
    const cJSON *item, *list = hd_json_member(config, lists[l]).node;
    size_t i = 0;
    cJSON_ArrayForEach(item, list)
      if (!is_usual(names, lists[l], item, list->child, i++))
        return hd_fail(err, HD_UNSUPPORTED, "config.json: %s: GGUF cannot say what layer %zu is", lists[l], i - 1);
  }
  double head_dim = head_width(names, config), width = hd_json_get_number(config, "hidden_size", 0) / (double)names->heads;
  double scale = query_scale(names->architecture, hd_json_get_number(config, "num_hidden_layers", 0), width, head_dim);
  if (scale > 0 && hd_json_get_number(config, "query_pre_attn_scalar", scale) != scale)
    return hd_fail(err, HD_UNSUPPORTED, "config.json: query_pre_attn_scalar: GGUF cannot say it; expected %g, found %g", scale, hd_json_get_number(config, "query_pre_attn_scalar", 0));
  if (hd_json_get_number(config, "rope_local_base_freq", 10000) != 10000) return hd_fail(err, HD_UNSUPPORTED, "config.json: rope_local_base_freq: GGUF cannot say it; expected 10000");
  if (hd_json_get_bool(config, "use_sliding_window", false))
    return hd_fail(err, HD_UNSUPPORTED, "config.json: use_sliding_window: windows of some layers are not written as GGUF");
  return *config->status;
}

hd_status hd_gguf_write_config(hd_text *t, const hd_gguf_names *names, const hd_json *config, const hd_directory *given, hd_error *err) {
  const writing w = {t, names, config, given};
  if (!hd_directory_value(given, "general.architecture")) hd_text_print(t, ",\"general.architecture\":\"%s\"", names->architecture->name);
  double head_dim = head_width(names, config);
  bool usual = head_dim * (double)names->heads == hd_json_get_number(config, "hidden_size", 0);
  HD_TRY(refuse_unsaid(names, config, err));
  for (size_t i = 0; i < N_MEMBERS; i++) {
    const cJSON *node = hd_json_member(config, members[i].config).node;
    if (node && !cJSON_IsNull(node) && !(usual && strcmp(members[i].config, "head_dim") == 0))
      write_pair(&w, members[i].gguf, members[i].real ? "f32" : "u32", hd_json_get_number(config, members[i].config, 0));
  }
  if (!usual) write_pair(&w, "attention.value_length", "u32", head_dim);
  return write_rope_pairs(&w, head_dim, err);
}
