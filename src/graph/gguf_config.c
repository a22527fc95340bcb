/* gguf_config.c: a GGUF file's metadata as the config.json of its family, and back.
 *
 * Rotary positions that are scaled by a list GGUF has as tensors: Llama 3.1's factors, which config.json gives by rule, as
 * rope_freqs.weight, here a longrope of one list; a longrope's two lists as rope_factors_long.weight and rope_factors_short.weight. */
#include "base/decimal.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/gguf.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_ROOM = HD_GGUF_NAME_ROOM, MOST_FREQUENCIES = 1 << 16 };

/* ---- config.json ---- */

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

/* ,"key":number. What is none (a factor of 1e999, or what comes of a negative one) is no JSON either: whoever reads it refuses it. */
static void add_number(hd_text *t, const char *key, double number) {
  hd_text_print(t, ",\"%s\":", key);
  if (isfinite(number)) hd_text_double(t, number);
  else hd_text_print(t, "%g", number);
}

static hd_status write_member(configuring *c, const hd_gguf_member *m) {
  char room[HD_NAME_ROOM];
  const char *text = value(c, m->gguf);
  size_t n = text ? strlen(text) : 0, n_number = 0;
  if (!text && !m->needed) return HD_OK;
  bool finite = n && isfinite(hd_decimal_read(text, n, &n_number, hd_binary_f64)) && n_number == n;
  if (!finite)
    return hd_fail(c->err, text ? HD_UNSUPPORTED : HD_BAD_FILE, "GGUF: %s.%s: expected one number, found %s",
                   c->architecture->name, m->gguf, text ? hd_short_name(room, text) : "none");
  hd_text_print(&c->text, ",\"%s\":%s", m->config, text);
  return HD_OK;
}

static hd_status write_members(configuring *c) {
  const hd_gguf_architecture *a = c->architecture;
  for (const hd_gguf_member *m = a->words->members; m->gguf; m++) HD_TRY(write_member(c, m));
  for (const hd_gguf_member *m = hd_gguf_expert_members; a->experts && m->gguf; m++) HD_TRY(write_member(c, m));
  const char *heads = value(c, "attention.head_count");
  if (a->words->rotary && !value(c, "attention.head_count_kv")) hd_text_print(&c->text, ",\"num_key_value_heads\":%s", heads);
  return HD_OK;
}

/* What only the tensors show. */
static void write_shown(configuring *c) {
  const hd_directory *d = c->directory;
  const hd_entry *embedding = hd_directory_find(d, "token_embd.weight");
  const char *vocabulary = value(c, "vocab_size");
  const hd_entry *types = hd_directory_find(d, "token_types.weight");
  if (embedding && embedding->n_dims == 2) hd_text_print(&c->text, ",\"vocab_size\":%zu", embedding->shape[0]);
  else if (vocabulary) hd_text_print(&c->text, ",\"vocab_size\":%s", vocabulary);
  if (types && types->n_dims == 2) hd_text_print(&c->text, ",\"type_vocab_size\":%zu", types->shape[0]);
  hd_text_print(&c->text, ",\"tie_word_embeddings\":%s", hd_directory_find(d, "output.weight") ? "false" : "true");
  if (!c->architecture->words->rotary) return;
  if (hd_directory_find(d, "blk.0.attn_output.bias")) hd_text_print(&c->text, ",\"attention_bias\":true");
  if (hd_directory_find(d, "blk.0.ffn_down.bias")) hd_text_print(&c->text, ",\"mlp_bias\":true");
}

/* Gemma 2 and 3 scale queries by this: their largest models by the width of a head, the others by key_length (llama.cpp, too,
 * knows it by depth). 0: another architecture. */
static double query_scale(const hd_gguf_architecture *a, double blocks, double width, double key_length) {
  bool gemma2 = strcmp(a->name, "gemma2") == 0, gemma3 = strcmp(a->name, "gemma3") == 0;
  return !gemma2 && !gemma3 ? 0 : blocks == (gemma2 ? 46 : 62) ? width : key_length;
}

static void write_query_scale(configuring *c) {
  double width = number(c, "embedding_length", 0) / number(c, "attention.head_count", 1);
  double scale = query_scale(c->architecture, number(c, "block_count", 0), width, number(c, "attention.key_length", 256));
  if (scale > 0) add_number(&c->text, "query_pre_attn_scalar", scale);
}

static void write_tokens(configuring *c) {
  const char *begin = hd_directory_value(c->directory, "tokenizer.ggml.bos_token_id"),
             *end = hd_directory_value(c->directory, "tokenizer.ggml.eos_token_id"),
             *turn = hd_directory_value(c->directory, "tokenizer.ggml.eot_token_id");
  if (begin) hd_text_print(&c->text, ",\"bos_token_id\":%s", begin);
  if (end && turn && strcmp(end, turn) != 0) hd_text_print(&c->text, ",\"eos_token_id\":[%s,%s]", end, turn);
  else if (end) hd_text_print(&c->text, ",\"eos_token_id\":%s", end);
}

/* ---- Rotary positions ---- */

static const char *const long_lists[] = {"rope_factors_long.weight", "rope_factors_short.weight"},
                  *const long_keys[] = {"long_factor", "short_factor"};

const hd_entry *hd_directory_config_tensor(const hd_directory *directory, size_t index) {
  const hd_entry *all = hd_gguf_architecture_of(directory) ? hd_directory_find(directory, "rope_freqs.weight") : NULL;
  if (all || index >= HD_GGUF_MOST_FACTORS || !hd_gguf_architecture_of(directory)) return index == 0 ? all : NULL;
  return hd_directory_find(directory, long_lists[0]) ? hd_directory_find(directory, long_lists[index]) : NULL;
}

/* The numbers of a tensor as a JSON array, from the first of *n bytes, which are then behind. */
static hd_status read_factors(hd_text *list, const hd_entry *e, const uint8_t **bytes, size_t *n, hd_error *err) {
  size_t bytes_of_all = e->n_dims == 1 && e->shape[0] <= MOST_FREQUENCIES ? e->shape[0] * sizeof(float) : SIZE_MAX;
  if (e->dtype != HD_F32 || *n < bytes_of_all)
    return hd_fail(err, HD_BAD_FILE, "GGUF: tensor \"%s\": expected a vector of F32 and its bytes, found %zu bytes", e->name, *n);
  for (size_t i = 0; i < e->shape[0]; i++) {
    float factor;
    memcpy(&factor, *bytes + i * sizeof factor, sizeof factor);
    if (!(factor > 0 && isfinite(factor)))
      return hd_fail(err, HD_BAD_FILE, "GGUF: tensor \"%s\": expected factors above 0, found %g at %zu", e->name, (double)factor, i);
    hd_text_print(list, "%s%.9g", i ? "," : "", (double)factor);
  }
  *bytes += bytes_of_all;
  *n -= bytes_of_all;
  return HD_OK;
}

static hd_status add_list(configuring *c, const hd_entry *e, const char *const *keys, size_t n_keys, const uint8_t **bytes, size_t *n) {
  hd_text list = {0};
  hd_status status = read_factors(&list, e, bytes, n, c->err);
  if (list.failed) c->text.failed = true;
  for (size_t i = 0; i < n_keys && status == HD_OK; i++) hd_text_print(&c->text, ",\"%s\":[%s]", keys[i], list.data ? list.data : "");
  hd_free(list.data);
  return status;
}

/* Of one list, which is all there is to say. */
static hd_status write_factors(configuring *c, const hd_entry *e, const uint8_t *bytes, size_t n) {
  hd_text_print(&c->text, ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":1,\"attention_factor\":1");
  HD_TRY(add_list(c, e, long_keys, 2, &bytes, &n));
  hd_text_print(&c->text, "}");
  return HD_OK;
}

static bool is_text(const char *json, const char *text) {
  return json && strlen(json) == strlen(text) + 2 && strncmp(json + 1, text, strlen(text)) == 0;
}

/* Of two, one for texts of the original length and one for longer ones. */
static hd_status write_longrope(configuring *c, const uint8_t *bytes, size_t n) {
  const char *type = value(c, "rope.scaling.type");
  char room[HD_NAME_ROOM];
  if (type && !is_text(type, "longrope") && !is_text(type, "none"))
    return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: %s.rope.scaling.type: expected longrope for %s, found %s",
                   c->architecture->name, long_lists[0], hd_short_name(room, type));
  double original = number(c, "rope.scaling.original_context_length", number(c, "context_length", 0));
  hd_text_print(&c->text, ",\"rope_scaling\":{\"rope_type\":\"longrope\"");
  add_number(&c->text, "attention_factor", number(c, "rope.scaling.attn_factor", 1));
  add_number(&c->text, "original_max_position_embeddings", original);
  for (size_t i = 0; i < HD_GGUF_MOST_FACTORS; i++) {
    const hd_entry *e = hd_directory_config_tensor(c->directory, i);
    if (!e) return hd_fail(c->err, HD_BAD_FILE, "GGUF: tensor \"%s\": expected it beside \"%s\", found none", long_lists[i], long_lists[0]);
    HD_TRY(add_list(c, e, &long_keys[i], 1, &bytes, &n));
  }
  hd_text_print(&c->text, "}");
  return HD_OK;
}

static hd_status write_scaling(configuring *c) {
  const char *type = value(c, "rope.scaling.type");
  double factor = number(c, "rope.scaling.factor", number(c, "rope.scale_linear", 1));
  bool linear = is_text(type, "linear") || (!type && factor != 1), yarn = is_text(type, "yarn");
  char room[HD_NAME_ROOM];
  if (!type || is_text(type, "none") || linear || yarn) {
    if (!(linear || yarn) || factor == 1) return HD_OK;
    hd_text_print(&c->text, ",\"rope_scaling\":{\"rope_type\":\"%s\"", linear ? "linear" : "yarn");
    add_number(&c->text, "factor", factor);
    const char *original = value(c, "rope.scaling.original_context_length");
    if (original) hd_text_print(&c->text, ",\"original_max_position_embeddings\":%s", original);
    if (yarn && value(c, "rope.scaling.attn_factor"))
      add_number(&c->text, "attention_factor", number(c, "rope.scaling.attn_factor", 1) * (1 + 0.1 * log(factor)));
    hd_text_print(&c->text, "}");
    return HD_OK;
  }
  if (is_text(type, "longrope"))
    return hd_fail(c->err, HD_BAD_FILE, "GGUF: %s.rope.scaling.type: longrope wants tensor \"%s\", found none",
                   c->architecture->name, long_lists[0]);
  return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: %s.rope.scaling.type: expected none, linear, yarn or longrope, found %s",
                 c->architecture->name, hd_short_name(room, type));
}

static hd_status write_rope(configuring *c, const void *tensor, size_t n) {
  double width = number(c, "attention.key_length", number(c, "embedding_length", 0) / number(c, "attention.head_count", 1));
  double turned = number(c, "rope.dimension_count", width);
  if (turned > 0 && turned < width) add_number(&c->text, "partial_rotary_factor", turned / width);
  const hd_entry *factors = hd_directory_config_tensor(c->directory, 0);
  if (!factors) return write_scaling(c);
  return strcmp(factors->name, long_lists[0]) == 0 ? write_longrope(c, tensor, n) : write_factors(c, factors, tensor, n);
}

/* ---- The whole ---- */

/* What would be left out without a word. */
static hd_status refuse_unread(const configuring *c) {
  static const char shared[] = "experts that all rows share are not built", classifier[] = "classifiers are not read from GGUF files";
  static const char *const parts[][2] = {{"blk.0.ffn_gate_inp_shexp.weight", shared}, {"blk.0.ffn_gate_shexp.weight", shared},
                                         {"cls.weight", classifier}, {"cls.output.weight", classifier}};
  for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
    if (hd_directory_find(c->directory, parts[i][0]))
      return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: tensor \"%s\": %s", parts[i][0], parts[i][1]);
  double keys = number(c, "attention.key_length", 0), values = number(c, "attention.value_length", keys);
  return keys == values ? HD_OK
                        : hd_fail(c->err, HD_UNSUPPORTED, "GGUF: values of %g a head beside keys of %g are not built", values, keys);
}

/* Experts where the architecture has none, or nothing says how many there are; scores that are not a softmax. */
static hd_status check_experts(const configuring *c) {
  const hd_gguf_architecture *a = c->architecture;
  bool says = hd_gguf_says_experts(c->directory, a->name);
  double gating = number(c, "expert_gating_func", 1);
  if (a->experts && gating != 1)
    return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: %s.expert_gating_func: expected 1 (softmax), found %g", a->name, gating);
  if (a->experts) return HD_OK;
  if (says) return hd_fail(c->err, HD_UNSUPPORTED, "GGUF: %s.expert_count: experts of %s are not built", a->name, a->name);
  if (!hd_directory_find(c->directory, "blk.0.ffn_gate_inp.weight") && !hd_directory_find(c->directory, "blk.0.ffn_gate_exps.weight"))
    return HD_OK;
  return hd_fail(c->err, HD_BAD_FILE, "GGUF: %s.expert_count: expected the number of experts that the tensors are of, found none", a->name);
}

static hd_status write_config(configuring *c, const void *tensor, size_t n) {
  HD_TRY(refuse_unread(c));
  HD_TRY(check_experts(c));
  hd_text_print(&c->text, "{\"model_type\":\"%s\"", c->architecture->model_type);
  HD_TRY(write_members(c));
  write_shown(c);
  write_query_scale(c);
  if (c->architecture->words->rotary) HD_TRY(write_rope(c, tensor, n));
  write_tokens(c);
  hd_text_print(&c->text, "%s}", c->architecture->members);
  return c->text.failed ? hd_fail(c->err, HD_OUT_OF_MEMORY, "no memory for a config") : HD_OK;
}

static hd_status refuse_architecture(const hd_directory *directory, hd_error *err) {
  const char *name = hd_directory_value(directory, "general.architecture");
  char room[HD_NAME_ROOM], list[256];
  if (!name) return hd_fail(err, HD_BAD_FILE, "GGUF: general.architecture: expected a text, found none: nothing says what the tensors are");
  return hd_fail(err, HD_UNSUPPORTED, "GGUF: general.architecture %s is not known; known: %s",
                 hd_short_name(room, name), hd_gguf_list(list, sizeof list));
}

hd_status hd_directory_config(char **json, const hd_directory *directory, const void *tensor, size_t n, hd_error *err) {
  configuring c = {.directory = directory, .architecture = hd_gguf_architecture_of(directory), .err = err};
  *json = NULL;
  if (!hd_gguf_is_spoken(directory)) return HD_OK;
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
  names->architecture = hd_gguf_architecture_for(type);
  if (*config->status != HD_OK) return *config->status;
  return names->architecture ? HD_OK
                             : hd_fail(err, HD_UNSUPPORTED, "config.json: model_type '%s' is not written as GGUF",
                                       hd_short_name(room, type));
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
  if (hd_directory_value(w->given, full)) return;
  hd_text_print(w->text, ",\"%s\":{\"type\":\"%s\"", full, kind);
  add_number(w->text, "value", number);
  hd_text_add(w->text, "}", 1);
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

static const char *type_of(const hd_json *rope) {
  return rope->node ? hd_json_get_text(rope, "rope_type", hd_json_get_text(rope, "type", "default")) : "default";
}

static bool is_long(const char *type) { return strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0; }

/* Of these GGUF has the factors, as tensors. */
static bool rope_is_tensor(const char *type) { return strcmp(type, "llama3") == 0 || is_long(type); }

/* What is turned of a head, and the base of its frequencies. */
typedef struct rotation {
  double width, theta;
} rotation;

static double head_width(const hd_gguf_names *names, const hd_json *config) {
  return hd_json_get_number(config, "head_dim", hd_json_get_number(config, "hidden_size", 0) / (double)names->heads);
}

/* Llama 3.1's rule: slow pairs by the factor, fast ones not at all, in between by how far the wavelength has come. */
static double llama3_factor(const hd_json *rope, double frequency) {
  double factor = hd_json_get_number(rope, "factor", 1), low = hd_json_get_number(rope, "low_freq_factor", 1),
         high = hd_json_get_number(rope, "high_freq_factor", 4),
         length = hd_json_get_number(rope, "original_max_position_embeddings", 8192), turns = length * frequency / 6.283185307179586;
  if (turns > high) return 1;
  if (turns < low) return factor;
  double smooth = (turns - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}

/* A longrope's two lists are one, and nothing else is scaled. */
static bool one_list(const hd_json *rope) {
  const cJSON *a = hd_json_member(rope, "short_factor").node, *b = hd_json_member(rope, "long_factor").node;
  return cJSON_IsArray(a) && cJSON_Compare(a, b, true) && hd_json_get_number(rope, "attention_factor", 0) == 1;
}

/* The list of that key, or without one Llama 3.1's factors. */
static hd_status add_factors(hd_gguf_factors *out, const char *tensor, size_t n, hd_arena *arena, const hd_json *rope, const char *key,
                             const rotation *r, hd_error *err) {
  const cJSON *list = key ? hd_json_member(rope, key).node : NULL, *item = list ? list->child : NULL;
  if (key && (!cJSON_IsArray(list) || (size_t)cJSON_GetArraySize(list) != n))
    return hd_fail(err, HD_BAD_FILE, "config.json: %s: expected %zu factors, one for each pair of a head", key, n);
  *out = (hd_gguf_factors){tensor, hd_arena_alloc(arena, n * sizeof *out->values), n};
  if (!out->values) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for %zu rotary factors", n);
  for (size_t d = 0; d < n; d++, item = item ? item->next : NULL)
    out->values[d] = (float)(item ? item->valuedouble : llama3_factor(rope, pow(r->theta, -2 * (double)d / r->width)));
  return HD_OK;
}

hd_status hd_gguf_rope_factors(hd_gguf_factors out[HD_GGUF_MOST_FACTORS], size_t *n, hd_arena *arena, const hd_gguf_names *names,
                               const hd_json *config, hd_error *err) {
  *n = 0;
  if (!names->architecture->words->rotary) return HD_OK;
  hd_json rope = rope_of(config);
  const char *type = type_of(&rope);
  const rotation r = {floor(head_width(names, config) * hd_json_get_number(config, "partial_rotary_factor", 1)),
                      hd_json_get_number(config, "rope_theta", rope.node ? hd_json_get_number(&rope, "rope_theta", 10000) : 10000)};
  size_t pairs = r.width > 0 && r.width < 2 * MOST_FREQUENCIES ? (size_t)r.width / 2 : 0;
  if (*config->status != HD_OK || !rope_is_tensor(type)) return *config->status;
  bool listed = is_long(type), one = !listed || one_list(&rope);
  *n = one ? 1 : HD_GGUF_MOST_FACTORS;
  for (size_t i = 0; i < *n; i++)
    HD_TRY(add_factors(&out[i], one ? "rope_freqs.weight" : long_lists[i], pairs, arena, &rope, listed ? long_keys[i] : NULL, &r, err));
  return *config->status;
}

/* What GGUF says of a longrope besides its lists. */
static void write_long(const writing *w, const hd_json *rope) {
  double context = hd_json_get_number(w->config, "max_position_embeddings", 0);
  double original = hd_json_get_number(rope, "original_max_position_embeddings",
                                       hd_json_get_number(w->config, "original_max_position_embeddings", context));
  double factor = hd_json_get_number(rope, "factor", original > 0 ? context / original : 1);
  write_kind(w, "rope.scaling.type", "longrope");
  write_pair(w, "rope.scaling.original_context_length", "u32", original);
  write_pair(w, "rope.scaling.attn_factor", "f32",
             hd_json_get_number(rope, "attention_factor", factor > 1 ? sqrt(1 + log(factor) / log(original)) : 1));
}

static hd_status write_rope_pairs(const writing *w, double head_dim, hd_error *err) {
  hd_json rope = rope_of(w->config);
  double part = hd_json_get_number(w->config, "partial_rotary_factor", 1);
  const char *type = type_of(&rope);
  bool plain = strcmp(type, "default") == 0 || rope_is_tensor(type), known = strcmp(type, "linear") == 0 || strcmp(type, "yarn") == 0;
  char room[HD_NAME_ROOM];
  write_pair(w, "rope.dimension_count", "u32", floor(head_dim * part));
  if (rope.node && hd_json_has(&rope, "rope_theta") && !hd_json_has(w->config, "rope_theta"))
    write_pair(w, "rope.freq_base", "f32", hd_json_get_number(&rope, "rope_theta", 10000));
  if (*w->config->status != HD_OK) return *w->config->status;
  if (is_long(type) && !one_list(&rope)) write_long(w, &rope);
  if (plain) return *w->config->status;
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

/* A key whose value GGUF's readers take for granted. */
static hd_status refuse_other(const hd_json *config, const char *key, const char *missing, const char *usual, hd_error *err) {
  char room[HD_NAME_ROOM];
  const char *found = hd_json_get_text(config, key, missing);
  if (*config->status != HD_OK || strcmp(found, usual) == 0) return *config->status;
  return hd_fail(err, HD_UNSUPPORTED, "config.json: %s: GGUF cannot say it; expected %s, found '%s'",
                 key, usual, hd_short_name(room, found));
}

static hd_status refuse_unsaid_of_others(const hd_gguf_names *names, const hd_json *config, hd_error *err) {
  if (strcmp(names->architecture->name, "bert") == 0) return refuse_other(config, "hidden_act", "gelu", "gelu", err);
  if (hd_json_get_bool(config, "scale_attn_by_inverse_layer_idx", false) || !hd_json_get_bool(config, "scale_attn_weights", true))
    return hd_fail(err, HD_UNSUPPORTED, "config.json: scale_attn_weights: GGUF cannot say how scores are scaled");
  return refuse_other(config, "activation_function", "gelu_new", "gelu_new", err);
}

/* Every block has experts there, and what is chosen of them adds up to 1. */
static hd_status refuse_unsaid_of_experts(const hd_gguf_names *names, const hd_json *config, hd_error *err) {
  bool qwen = strcmp(names->architecture->name, "qwen3moe") == 0;
  if (!names->architecture->experts || !qwen) return HD_OK;
  if (!hd_json_get_bool(config, "norm_topk_prob", false))
    return hd_fail(err, HD_UNSUPPORTED, "config.json: norm_topk_prob: GGUF cannot say it; expected true, found false");
  if (hd_json_get_size(config, "decoder_sparse_step", 1) != 1 || hd_json_count(config, "mlp_only_layers") > 0)
    return hd_fail(err, HD_UNSUPPORTED, "config.json: decoder_sparse_step, mlp_only_layers: GGUF cannot say which blocks have experts");
  return *config->status;
}

/* What has no place in GGUF has to be what its readers take for granted: a file that says less than it
 * means would run, and say something else. */
static hd_status refuse_unsaid(const hd_gguf_names *names, const hd_json *config, hd_error *err) {
  static const char *const lists[] = {"layer_types", "no_rope_layers"};
  if (!names->architecture->words->rotary) return refuse_unsaid_of_others(names, config, err);
  HD_TRY(refuse_unsaid_of_experts(names, config, err));
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
    return hd_fail(err, HD_UNSUPPORTED, "config.json: query_pre_attn_scalar: GGUF cannot say it; expected %g, found %g",
                   scale, hd_json_get_number(config, "query_pre_attn_scalar", 0));
  if (hd_json_get_number(config, "rope_local_base_freq", 10000) != 10000)
    return hd_fail(err, HD_UNSUPPORTED, "config.json: rope_local_base_freq: GGUF cannot say it; expected 10000");
  if (hd_json_get_bool(config, "use_sliding_window", false))
    return hd_fail(err, HD_UNSUPPORTED, "config.json: use_sliding_window: windows of some layers are not written as GGUF");
  return *config->status;
}

/* One pair for each key of GGUF. */
static void write_member_pairs(const writing *w, const hd_gguf_member *m, bool no_head_width) {
  const char *before = "";
  for (; m->gguf; m++) {
    const cJSON *node = hd_json_member(w->config, m->config).node;
    if (!node || cJSON_IsNull(node) || strcmp(before, m->gguf) == 0 || (no_head_width && strcmp(m->config, "head_dim") == 0)) continue;
    write_pair(w, m->gguf, m->real ? "f32" : "u32", hd_json_get_number(w->config, m->config, 0));
    before = m->gguf;
  }
}

/* GPT-2 leaves out how wide its feed-forward is; an encoder sees what comes behind. */
static void write_pairs_of_others(const writing *w) {
  const cJSON *inner = hd_json_member(w->config, "n_inner").node;
  char room[NAME_ROOM];
  if (strcmp(w->names->architecture->name, "gpt2") == 0) {
    if (!inner || cJSON_IsNull(inner)) write_pair(w, "feed_forward_length", "u32", 4 * hd_json_get_number(w->config, "n_embd", 768));
    return;
  }
  snprintf(room, sizeof room, "%s.attention.causal", w->names->architecture->name);
  if (!hd_directory_value(w->given, room)) hd_text_print(w->text, ",\"%s\":false", room);
  if (!hd_directory_value(w->given, "tokenizer.ggml.token_type_count"))
    hd_text_print(w->text, ",\"tokenizer.ggml.token_type_count\":%zu", hd_json_get_size(w->config, "type_vocab_size", 2));
}

hd_status hd_gguf_write_config(hd_text *t, const hd_gguf_names *names, const hd_json *config, const hd_directory *given, hd_error *err) {
  const writing w = {t, names, config, given};
  const hd_gguf_architecture *a = names->architecture;
  if (!hd_directory_value(given, "general.architecture")) hd_text_print(t, ",\"general.architecture\":\"%s\"", a->name);
  double head_dim = head_width(names, config);
  bool usual = head_dim * (double)names->heads == hd_json_get_number(config, "hidden_size", 0);
  HD_TRY(refuse_unsaid(names, config, err));
  write_member_pairs(&w, a->words->members, usual);
  if (a->experts) write_member_pairs(&w, hd_gguf_expert_members, false);
  if (!a->words->rotary) write_pairs_of_others(&w);
  if (!a->words->rotary) return *config->status;
  if (!usual) write_pair(&w, "attention.value_length", "u32", head_dim);
  return write_rope_pairs(&w, head_dim, err);
}
