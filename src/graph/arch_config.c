/* arch_config.c: the parts of config.json that families share. */
#include "graph/arch_config.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

size_t hd_config_size(const hd_json *j, const char *key, size_t missing, size_t most) {
  size_t value = hd_json_get_size(j, key, missing);
  if (missing == 0 && !hd_json_has(j, key))
    hd_json_refuse(j, key, HD_BAD_FILE, "this key is needed: expected a size from 1 to %zu, found none", most);
  if (value == 0 || value > most) hd_json_refuse(j, key, HD_BAD_FILE, "expected a size from 1 to %zu, found %zu", most, value);
  return value;
}

const hd_activation *hd_config_activation(const hd_json *j, const char *key, const char *missing) {
  static const char *const others[][2] = {{"gelu_new", "gelu_tanh"}, {"gelu_pytorch_tanh", "gelu_tanh"}, {"gelu_fast", "gelu_tanh"},
                                          {"gelu_python", "gelu"},   {"swish", "silu"},                  {"relu2", "relu_squared"}};
  const char *name = hd_json_get_text(j, key, missing);
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    if (strcmp(others[i][0], name) == 0) return hd_activation_find(others[i][1]);
  const hd_activation *found = hd_activation_find(name);
  if (!found) hd_json_refuse(j, key, HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
  return found;
}

size_t hd_config_heads(const hd_json *j, const char *key, size_t missing, size_t width) {
  const size_t heads = hd_config_size(j, key, missing, HD_MAX_WIDTH);
  if (heads && width % heads != 0) hd_json_refuse(j, key, HD_BAD_FILE, "expected a divisor of the width %zu, found %zu", width, heads);
  return heads;
}

void hd_config_check_heads(const hd_json *j, size_t heads, size_t kv_heads, size_t head_dim) {
  if (kv_heads && heads % kv_heads != 0)
    hd_json_refuse(j, "num_attention_heads", HD_BAD_FILE, "expected a multiple of the %zu key/value heads, found %zu", kv_heads, heads);
  if (head_dim > HD_MAX_WIDTH / (heads ? heads : 1))
    hd_json_refuse(j, "head_dim", HD_BAD_FILE, "%zu heads of %zu are wider than %d", heads, head_dim, HD_MAX_WIDTH);
}

/* A share of each head is turned; the rest has no position (Phi-4-mini: 0.75). */
static size_t turned_part(const hd_json *j, const hd_json *rope, size_t head_dim) {
  double part = hd_json_get_number(j, "partial_rotary_factor", 1);
  if (rope->node) part = hd_json_get_number(rope, "partial_rotary_factor", part);
  size_t turned = part > 0 && part <= 1 ? (size_t)((double)head_dim * part) : 0;
  if (turned == 0 || turned % 2 != 0)
    hd_json_refuse(j, "head_dim", HD_BAD_FILE, "expected an even size, found %zu of which %g are turned", head_dim, part);
  return turned;
}

hd_rope_table_config hd_config_rope(const hd_json *j, size_t head_dim, double theta, size_t positions,
                                    const char *layer_type, hd_arena *arena) {
  hd_rope_table_config c = {.theta = hd_json_get_number(j, "rope_theta", theta),
                            .original = hd_json_get_number(j, "original_max_position_embeddings", 0)};
  hd_json rope = hd_json_member(j, hd_json_has(j, "rope_parameters") ? "rope_parameters" : "rope_scaling");
  if (rope.node && cJSON_IsObject(rope.node) && cJSON_GetObjectItemCaseSensitive(rope.node, layer_type))
    rope = hd_json_member(&rope, layer_type);
  if (rope.node && cJSON_IsNull(rope.node)) rope.node = NULL;
  c.head_dim = turned_part(j, &rope, head_dim);
  if (rope.node) hd_rope_parse(&c, &rope, positions, arena);
  if (!(c.theta > 0)) hd_json_refuse(j, "rope_theta", HD_BAD_FILE, "expected a positive number");
  return c;
}

bool hd_config_is_for(const hd_json *j, const char *ending) {
  const cJSON *each, *list = cJSON_GetObjectItem(j->node, "architectures");
  size_t n = strlen(ending);
  cJSON_ArrayForEach(each, list) {
    size_t length = cJSON_IsString(each) ? strlen(each->valuestring) : 0;
    if (length >= n && strcmp(each->valuestring + length - n, ending) == 0) return true;
  }
  return false;
}

size_t hd_config_labels(const hd_json *j) {
  const cJSON *labels = cJSON_GetObjectItem(j->node, "id2label");
  size_t named = cJSON_IsObject(labels) ? (size_t)cJSON_GetArraySize(labels) : 0;
  return named ? named : hd_config_size(j, "num_labels", 2, HD_MAX_WIDTH);
}

void hd_config_tokens(hd_model *m, size_t context) {
  m->dialect = HD_STANDARD;
  m->batch = 1;
  m->max_context = context;
  m->input = (hd_shape){.dtype = HD_I32, .n_dims = 1, .dim = {context < 64 ? context : 64}};
}

hd_spec *hd_arch_spec(hd_model *m, const hd_layer *layer, const char *name, const char *weights, size_t index, const void *config) {
  return hd_spec_new(m, layer, hd_arena_format(&m->arena, name, index), hd_arena_format(&m->arena, weights, index), "", config);
}

hd_spec *hd_arch_layer_norm(hd_model *m, const char *name, const char *weights, size_t index, size_t width, float epsilon) {
  const hd_moments_config config = hd_layer_norm_of(width, epsilon, true);
  return hd_arch_spec(m, &hd_layer_layer_norm, name, weights, index, &config);
}

hd_spec *hd_arch_residual(hd_model *m, const char *name, size_t index, hd_spec *const *children, size_t n) {
  hd_spec *s = hd_arch_spec(m, &hd_layer_residual, name, "", index, NULL);
  if (!s) return NULL;
  s->children = hd_arena_alloc(&m->arena, n * sizeof *s->children);
  for (size_t i = 0; i < n && s->children; i++) {
    if (!children[i]) return NULL;
    s->children[i] = children[i];
  }
  s->n_children = n;
  return s->children ? s : NULL;
}
