/* adapters.c: PEFT's LoRA files: adapter_config.json and adapter_model.safetensors with tensors
 *   base_model.model.<module>.lora_A.weight [r, in]   and   base_model.model.<module>.lora_B.weight [out, r]
 * where <module>.weight is a weight of the model. y += scale · B·A·x, scale = lora_alpha / r (/ √r with use_rslora). */
#include "graph/adapters.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "kernels/elementwise.h"

#include <math.h>
#include <string.h>

typedef struct peft_config {
  double alpha;
  size_t rank;
  bool rslora;
} peft_config;

static hd_status read_config(peft_config *c, const char *text, size_t n, hd_error *err) {
  cJSON *json = NULL;
  HD_TRY(hd_json_parse_file(&json, text, n, "adapter_config.json", err));
  hd_status status = HD_OK;
  hd_json j = hd_json_root(json, "adapter_config.json", &status, err);
  c->rank = hd_json_get_size(&j, "r", 0);
  c->alpha = hd_json_get_number(&j, "lora_alpha", 8);
  c->rslora = hd_json_get_bool(&j, "use_rslora", false);
  const char *type = hd_json_get_text(&j, "peft_type", "LORA");
  char room[HD_NAME_ROOM];
  if (strcmp(type, "LORA") != 0) hd_json_refuse(&j, "peft_type", HD_UNSUPPORTED, "expected LORA, found '%s'", hd_short_name(room, type));
  if (c->rank == 0) hd_json_refuse(&j, "r", HD_BAD_FILE, "expected a rank of at least 1");
  if (hd_json_get_bool(&j, "use_dora", false)) hd_json_refuse(&j, "use_dora", HD_UNSUPPORTED, "DoRA is not built yet");
  static const char *const patterns[] = {"rank_pattern", "alpha_pattern"};
  for (int i = 0; i < 2; i++) {
    hd_json pattern = hd_json_member(&j, patterns[i]);
    if (pattern.node && pattern.node->child) hd_json_refuse(&j, patterns[i], HD_UNSUPPORTED, "is not built yet");
  }
  cJSON_Delete(json);
  return status;
}

/* Where "….lora_A.weight" ends with `half`; NULL: it does not. */
static const char *find_half(const char *name, const char *half) {
  size_t n = strlen(name), n_half = strlen(half);
  return n >= n_half && strcmp(name + n - n_half, half) == 0 ? name + n - n_half : NULL;
}

/* The parameter that "base_model.model.<module>.lora_A.weight" is about, −1: none of the model's; and which half it is. */
static hd_status find_target(int *index, bool *is_a, const hd_model *model, const char *name, hd_error *err) {
  static const char prefix[] = "base_model.model.", weight[] = ".weight";
  if (strncmp(name, prefix, sizeof prefix - 1) == 0) name += sizeof prefix - 1;
  const char *a = find_half(name, ".lora_A.weight"), *half = a ? a : find_half(name, ".lora_B.weight");
  *index = -1;
  *is_a = a != NULL;
  if (!half) return HD_OK;
  size_t n = (size_t)(half - name);
  char *full = hd_alloc(n + sizeof weight);
  if (!full) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a name");
  memcpy(full, name, n);
  memcpy(full + n, weight, sizeof weight);
  *index = hd_parameter_find(model, full);
  hd_free(full);
  return HD_OK;
}

/* Layers that look rows up (embeddings) or take some of them (experts) know of no adapter: it would not show before it is merged. */
static hd_status check_target(const hd_parameter *p, const char *name, hd_error *err) {
  char room[HD_NAME_ROOM], of[HD_NAME_ROOM];
  if (!p || !p->slot.matrix)
    return hd_fail(err, HD_BAD_FILE, "adapter tensor %s fits no linear of the model", hd_short_name(room, name));
  if (!p->slot.lookup && !p->slot.n_parts) return HD_OK;
  return hd_fail(err, HD_UNSUPPORTED, "adapter tensor %s: adapters on %s are not built, found one on %s", hd_short_name(room, name),
                 p->slot.lookup ? "embeddings" : "experts", hd_short_name(of, p->name));
}

static hd_status add_half(hd_adapter *adapter, const hd_entry *e, const uint8_t *file, size_t rank, hd_error *err) {
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  bool is_a;
  int index;
  HD_TRY(find_target(&index, &is_a, adapter->model, e->name, err));
  const hd_parameter *p = index < 0 ? NULL : &adapter->model->parameters[index];
  HD_TRY(check_target(p, e->name, err));
  size_t rows = is_a ? rank : p->slot.shape[0], cols = is_a ? p->slot.shape[1] : rank;
  if (e->n_dims != 2 || e->shape[0] != rows || e->shape[1] != cols)
    return hd_fail(err, HD_BAD_FILE, "adapter tensor %s: rank %zu on this weight wants [%zu, %zu], found %s",
                   hd_short_name(room, e->name), rank, rows, cols, hd_shape_text(shape, e->n_dims, e->shape));
  HD_TRY(hd_dtype_decodes(e->dtype, e->name, err));
  if (e->strided)
    return hd_fail(err, HD_UNSUPPORTED, "adapter tensor %s: expected its values in row-major order, found a view",
                   hd_short_name(room, e->name));
  float **slot = &adapter->data[2 * index + (is_a ? 0 : 1)];
  hd_free(*slot);
  *slot = hd_alloc(hd_times(hd_times(rows, cols), sizeof(float)));
  if (!*slot) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for adapter tensor %s", hd_short_name(room, e->name));
  hd_dtype_get(e->dtype)->to_f32(file + e->begin, *slot, rows * cols);
  return HD_OK;
}

static hd_status join_halves(hd_adapter *adapter, const peft_config *c, hd_error *err) {
  char room[HD_NAME_ROOM];
  size_t n_pairs = 0;
  for (size_t i = 0; i < adapter->model->n_parameters; i++) {
    const float *a = adapter->data[2 * i], *b = adapter->data[2 * i + 1];
    if (!a && !b) continue;
    if (!a || !b)
      return hd_fail(err, HD_BAD_FILE, "adapter: %s has only lora_%c",
                     hd_short_name(room, adapter->model->parameters[i].name), a ? 'A' : 'B');
    double scale = c->alpha / (c->rslora ? sqrt((double)c->rank) : (double)c->rank);
    adapter->pairs[i] = (hd_lora){.a = a, .b = b, .rank = c->rank, .scale = (float)scale};
    n_pairs++;
  }
  if (n_pairs == 0) return hd_fail(err, HD_BAD_FILE, "adapter: the file has no LoRA pairs");
  adapter->max_rank = c->rank;
  return HD_OK;
}

static void discard(hd_adapter *adapter) {
  if (!adapter) return;
  for (size_t i = 0; adapter->data && i < 2 * adapter->model->n_parameters; i++) hd_free(adapter->data[i]);
  hd_free(adapter->data);
  hd_free(adapter->pairs);
  hd_free(adapter->merged);
  hd_free(adapter);
}

static hd_adapter *new_adapter(hd_model *model) {
  hd_adapter *adapter = hd_alloc_zero(sizeof *adapter);
  if (!adapter) return NULL;
  adapter->model = model;
  adapter->pairs = hd_alloc_zero(model->n_parameters * sizeof *adapter->pairs);
  adapter->data = hd_alloc_zero(2 * model->n_parameters * sizeof *adapter->data);
  adapter->merged = hd_alloc_zero(model->n_parameters * sizeof *adapter->merged);
  if (adapter->pairs && adapter->data && adapter->merged) return adapter;
  discard(adapter);
  return NULL;
}

static hd_status fill(hd_adapter *adapter, const char *config, size_t n_config, const hd_directory *directory, const void *weights,
                      hd_error *err) {
  peft_config c = {0};
  HD_TRY(read_config(&c, config, n_config, err));
  for (size_t i = 0; i < hd_directory_count(directory); i++)
    HD_TRY(add_half(adapter, hd_directory_entry(directory, i), weights, c.rank, err));
  return join_halves(adapter, &c, err);
}

hd_status hd_adapter_load(hd_adapter **out, hd_model *model, const char *config, size_t n_config, const void *weights, size_t n_weights,
                          hd_error *err) {
  *out = NULL;
  hd_directory *directory = NULL;
  HD_TRY(hd_directory_read(&directory, weights, n_weights, n_weights, err));
  hd_adapter *adapter = new_adapter(model);
  hd_status status =
      adapter ? fill(adapter, config, n_config, directory, weights, err) : hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the adapter");
  hd_directory_free(directory);
  if (status == HD_OK) *out = adapter;
  else discard(adapter);
  return status;
}

hd_status hd_adapter_free(hd_adapter *adapter, hd_error *err) {
  if (adapter && adapter->n_users) return hd_fail(err, HD_BAD_STATE, "the adapter is active on %zu sessions", adapter->n_users);
  discard(adapter);
  return HD_OK;
}

/* ---- Merging ---- */

static hd_status make_f32(hd_parameter *p, hd_error *err) {
  hd_parameter wide = *p;
  wide.value.data = NULL;
  HD_TRY(hd_parameter_allocate(&wide, HD_F32, err));
  hd_status status = hd_parameter_get(p, wide.value.data, false, err);
  hd_free(status == HD_OK ? p->value.data : wide.value.data);
  if (status == HD_OK) p->value = wide.value;
  return status;
}

static bool is_in(const hd_adapter *adapter, size_t i) {
  return adapter->merged[i] == adapter->model->parameters[i].n_sets + 1;
}

bool hd_adapter_is_merged(const hd_adapter *adapter) {
  for (size_t i = 0; i < adapter->model->n_parameters; i++)
    if (is_in(adapter, i)) return true;
  return false;
}

/* Whether the pair of parameter i is to be added, or taken away: added twice it is there once. */
static bool is_due(const hd_adapter *adapter, size_t i, int sign) {
  return adapter->pairs[i].rank && is_in(adapter, i) == (sign < 0);
}

static hd_status check_mergeable(const hd_model *model, const hd_adapter *adapter, int sign, bool dequantize, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (adapter->model != model) return hd_fail(err, HD_BAD_ARGUMENT, "the adapter was loaded for another model");
  if (model->n_sessions) return hd_fail(err, HD_BAD_STATE, "weights are fixed while sessions are open; free them before merging");
  if (sign < 0 && !hd_adapter_is_merged(adapter))
    return hd_fail(err, HD_BAD_STATE, "the adapter is not merged into the weights, or they were set since");
  for (size_t i = 0; i < model->n_parameters && !dequantize; i++) {
    const hd_parameter *p = &model->parameters[i];
    if (is_due(adapter, i, sign) && p->value.layout->dtype != HD_F32)
      return hd_fail(err, HD_UNSUPPORTED, "weight %s is %s: merging into it needs dequantize", hd_short_name(room, p->name),
                     hd_dtype_name(p->value.layout->dtype));
  }
  return HD_OK;
}

/* W [rows, cols] += factor · B [rows, rank] · A [rank, cols], in float32. */
static void add_product(const hd_matrix *m, const hd_lora *pair, float factor) {
  for (size_t o = 0; o < m->rows; o++)
    for (size_t r = 0; r < pair->rank; r++)
      k_axpy_f32((float *)m->data + o * m->cols, factor * pair->b[o * pair->rank + r], pair->a + r * m->cols, m->cols);
}

hd_status hd_adapter_merge(hd_model *model, hd_adapter *adapter, int sign, bool dequantize, hd_error *err) {
  HD_TRY(check_mergeable(model, adapter, sign, dequantize, err));
  for (size_t i = 0; i < model->n_parameters; i++)
    if (is_due(adapter, i, sign) && model->parameters[i].value.layout->dtype != HD_F32) HD_TRY(make_f32(&model->parameters[i], err));
  for (size_t i = 0; i < model->n_parameters; i++) {
    if (!is_due(adapter, i, sign)) continue;
    const hd_parameter *p = &model->parameters[i];
    add_product(&p->value, &adapter->pairs[i], (sign < 0 ? -1.0f : 1.0f) * adapter->pairs[i].scale);
    adapter->merged[i] = sign < 0 ? 0 : p->n_sets + 1;
  }
  return HD_OK;
}
