/* builder_json.c: Loom's BuildNetworkFromJSON has spellings and defaults that its bundles have not (shared/formats/loom.md, section d). A
 * description in the loom dialect is brought to the bundle's spelling here, before network_json.c reads it; everything else is read there.
 *
 *   - A size is the first positive one of several keys, or else a default.
 *   - A grid has exactly as many places as there are layers; surplus layers are an error, as they are not in a bundle. Loom wants
 *     one; here a list without a grid is a chain.
 *   - kmeans has an "attached_layer" where the bundle has "branches".
 *   - Loom makes a dense layer with a leaky ReLU of "swiglu". Here it is a SwiGLU. */
#include "base/status.h"
#include "graph/graph.h"

#include <string.h>

/* `key` becomes the first positive of the sources' numbers, or `missing` (0: it is left out, for whoever reads it to refuse). */
typedef struct rule {
  const char *types[3];
  const char *key;
  const char *sources[4];
  double missing;
} rule;

static const rule rules[] = {
    {{"swiglu"}, "input_height", {"input_size", "input_height"}, 0},
    {{"swiglu"}, "output_height", {"output_size", "output_height"}, 0},
    {{"conv1d"}, "input_length", {"input_length", "input_height"}, 0},
    {{"conv1d"}, "input_channels", {"input_channels"}, 1},
    {{"conv1d"}, "stride", {"stride"}, 1},
    {{"multi_head_attention", "mha"}, "num_heads", {"num_heads"}, 8},
    {{"multi_head_attention", "mha"}, "seq_length", {"seq_length"}, 1},
    {{"multi_head_attention", "mha"}, "rope_freq_base", {"rope_freq_base"}, 10000},
    {{"rnn", "lstm"}, "seq_length", {"seq_length"}, 1},
    {{"layer_norm", "layernorm"}, "epsilon", {"epsilon"}, 1e-5},
    {{"rms_norm", "rmsnorm"}, "epsilon", {"epsilon"}, 1e-5},
};
enum { N_RULES = sizeof rules / sizeof *rules };

static bool is_one_of(const char *type, const char *const types[3]) {
  for (int i = 0; i < 3 && types[i]; i++)
    if (strcmp(type, types[i]) == 0) return true;
  return false;
}

static void no_memory(const hd_json *j) { hd_json_refuse(j, "type", HD_OUT_OF_MEMORY, "no memory for the layer's defaults"); }

static void set_number(const hd_json *j, const char *key, double value) {
  cJSON *node = (cJSON *)(uintptr_t)j->node; /* the tree is the caller's to change; hd_json only reads */
  cJSON_DeleteItemFromObject(node, key);
  if (!cJSON_AddNumberToObject(node, key, value)) no_memory(j);
}

static void apply(const hd_json *j, const rule *r) {
  double value = 0;
  for (int i = 0; i < 4 && r->sources[i] && !(value > 0); i++) value = hd_json_get_number(j, r->sources[i], 0);
  if (!(value > 0)) value = r->missing;
  if (value > 0 && *j->status == HD_OK) set_number(j, r->key, value);
}

/* A mode without a name has one. */
static void name_mode(const hd_json *j, const char *key, const char *missing) {
  if (*hd_json_get_text(j, key, "") || *j->status != HD_OK) return;
  cJSON *node = (cJSON *)(uintptr_t)j->node;
  cJSON_DeleteItemFromObject(node, key);
  if (!cJSON_AddStringToObject(node, key, missing)) no_memory(j);
}

/* Loom derives a convolution's output size when either half of it is missing. */
static void derive_output(const hd_json *j) {
  size_t kernel = hd_json_get_size(j, "kernel_size", 0), stride = hd_json_get_size(j, "stride", 0),
         padding = hd_json_get_size(j, "padding", 0);
  size_t height = hd_json_get_size(j, "input_height", 0), width = hd_json_get_size(j, "input_width", 0);
  if (hd_json_get_size(j, "output_height", 0) && hd_json_get_size(j, "output_width", 0)) return;
  if (stride == 0) stride = 1;
  if (*j->status != HD_OK || kernel == 0 || padding > SIZE_MAX / 4 || height > SIZE_MAX / 4 || width > SIZE_MAX / 4) return;
  if (height + 2 * padding < kernel || width + 2 * padding < kernel) {
    hd_json_refuse(j, "kernel_size", HD_BAD_FILE, "expected at most the padded input of %zu × %zu, found %zu", height + 2 * padding,
                   width + 2 * padding, kernel);
    return;
  }
  set_number(j, "output_height", (double)((height + 2 * padding - kernel) / stride + 1));
  set_number(j, "output_width", (double)((width + 2 * padding - kernel) / stride + 1));
}

static void translate_layer(hd_json j);

static void translate_list(const hd_json *j, const char *key) {
  hd_json list = hd_json_member(j, key);
  for (size_t i = 0, n = hd_json_count(j, key); i < n && *j->status == HD_OK; i++) translate_layer(hd_json_item(&list, i));
}

/* A sub-network is one layer; without one, a dense from 1 to 1. */
static void attach(const hd_json *j) {
  cJSON *node = (cJSON *)(uintptr_t)j->node;
  if (hd_json_has(j, "branches")) return;
  if (!hd_json_has(j, "attached_layer")) {
    cJSON *dense = cJSON_AddObjectToObject(node, "attached_layer");
    if (!dense || !cJSON_AddStringToObject(dense, "type", "dense") || !cJSON_AddNumberToObject(dense, "input_height", 1)
        || !cJSON_AddNumberToObject(dense, "output_height", 1))
      no_memory(j);
  }
}

static void translate_layer(hd_json j) {
  if (!cJSON_IsObject(j.node)) return; /* network_json.c says so */
  const char *type = hd_json_get_text(&j, "type", "");
  for (int i = 0; i < N_RULES && *j.status == HD_OK; i++)
    if (is_one_of(type, rules[i].types)) apply(&j, &rules[i]);
  if (strcmp(type, "conv2d") == 0) derive_output(&j);
  if (strcmp(type, "parallel") == 0) name_mode(&j, "combine_mode", "concat");
  if (strcmp(type, "kmeans") == 0) name_mode(&j, "kmeans_output_mode", "probabilities");
  if (strcmp(type, "kmeans") == 0) attach(&j);
  translate_list(&j, "branches");
  if (hd_json_has(&j, "attached_layer")) translate_layer(hd_json_member(&j, "attached_layer"));
  if (hd_json_has(&j, "filter_gate")) translate_layer(hd_json_member(&j, "filter_gate"));
}

/* No grid at all numbers whatever is listed; of one that is given, what is left out counts 1. */
static void check_grid(const hd_json *j) {
  if (!hd_json_has(j, "grid_rows") && !hd_json_has(j, "grid_cols") && !hd_json_has(j, "layers_per_cell")) return;
  size_t listed = hd_json_count(j, "layers"), cells, places;
  if (!hd_mul_size(hd_json_get_size(j, "grid_rows", 1), hd_json_get_size(j, "grid_cols", 1), &cells)
      || !hd_mul_size(cells, hd_json_get_size(j, "layers_per_cell", 1), &places))
    places = SIZE_MAX;
  if (places != listed) hd_json_refuse(j, "layers", HD_BAD_FILE, "the grid has %zu places, found %zu layers", places, listed);
}

hd_status hd_builder_translate(cJSON *network, const char *path, hd_error *err) {
  hd_status status = HD_OK;
  hd_json j = hd_json_root(network, path, &status, err);
  if (!cJSON_IsObject(network) || strcmp(hd_json_get_text(&j, "dialect", "loom"), "loom") != 0 || status != HD_OK) return status;
  check_grid(&j);
  translate_list(&j, "layers");
  return status;
}
