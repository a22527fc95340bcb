/* LoRA adapters in C: PEFT's logits while one is active, and what happens when memory runs out or files do not fit. */
#include "networks.h"

#define BASE "tests/golden/transformers/llama-gqa-tied/"
#define ADAPTER "tests/golden/transformers/lora/llama-qv-r4/"

typedef struct files {
  char *base_config, *config;
  uint8_t *base, *weights;
  size_t n_base_config, n_config, n_base, n_weights;
} files;

static files read_files(void) {
  files f = {0};
  f.base_config = test_read_file(BASE "config.json", &f.n_base_config);
  f.base = test_read_file(BASE "model.safetensors", &f.n_base);
  f.config = test_read_file(ADAPTER "adapter_config.json", &f.n_config);
  f.weights = test_read_file(ADAPTER "adapter_model.safetensors", &f.n_weights);
  CHECK(f.base_config && f.base && f.config && f.weights);
  return f;
}

static void free_files(files f) {
  free(f.base_config);
  free(f.base);
  free(f.config);
  free(f.weights);
}

static hd_model *load(const files *f) {
  hd_error err;
  hd_model *model = test_load(f->base_config, f->n_base_config, f->base, f->n_base, HD_DTYPE_COUNT, 1 << 20, &err);
  if (!CHECK(model != NULL)) printf("# %s\n", err.message);
  return model;
}

TEST(an_adapter_changes_a_sessions_output_and_taking_it_off_restores_every_bit) {
  files f = read_files();
  hd_model *model = load(&f);
  hd_adapter *adapter = NULL;
  hd_error err = {0};
  const int32_t ids[] = {5, 77, 301, 12};
  float before[4 * 384];
  if (!model) return;
  if (!CHECK_EQ(hd_adapter_load(&adapter, model, f.config, f.n_config, f.weights, f.n_weights, &err), HD_OK)) printf("# %s\n", err.message);
  hd_session *s = test_session(model, HD_INFER);
  hd_tensor out;
  CHECK_EQ(hd_decode(s, ids, 4, NULL), HD_OK);
  hd_session_output(s, &out, NULL);
  memcpy(before, out.data, sizeof before);
  CHECK_EQ(hd_session_use(s, adapter, NULL), HD_OK);
  CHECK_EQ(hd_adapter_free(adapter, NULL), HD_BAD_STATE);
  hd_memory_fail_after(0); /* a decode with an adapter allocates no more than one without */
  CHECK_EQ(hd_session_rewind(s, 0, NULL), HD_OK);
  CHECK_EQ(hd_decode(s, ids, 4, NULL), HD_OK);
  hd_memory_fail_after(SIZE_MAX);
  CHECK(memcmp(before, out.data, sizeof before) != 0);
  CHECK_EQ(hd_session_use(s, NULL, NULL), HD_OK);
  CHECK_EQ(hd_session_rewind(s, 0, NULL), HD_OK);
  CHECK_EQ(hd_decode(s, ids, 4, NULL), HD_OK);
  CHECK_EQ_BITS(out.data, before, sizeof before);
  CHECK_EQ(hd_adapter_merge(model, adapter, 1, false, &err), HD_BAD_STATE);
  hd_session_free(s);
  CHECK_EQ(hd_adapter_merge(model, adapter, 1, false, &err), HD_OK);
  CHECK_EQ(hd_adapter_free(adapter, NULL), HD_OK);
  CHECK_EQ(hd_model_free(model, NULL), HD_OK);
  free_files(f);
}

#define Q_PROJ "model.layers.0.self_attn.q_proj.weight"

TEST(merging_an_adapter_twice_is_merging_it_once) {
  files f = read_files();
  hd_model *model = load(&f);
  hd_adapter *adapter = NULL;
  hd_error err = {0};
  size_t n = hd_parameter_count(&model->parameters[hd_parameter_find(model, Q_PROJ)]);
  float *base = malloc(n * sizeof *base), *once = malloc(n * sizeof *once), *now = malloc(n * sizeof *now);
  CHECK_EQ(hd_adapter_load(&adapter, model, f.config, f.n_config, f.weights, f.n_weights, &err), HD_OK);
  CHECK_EQ(hd_model_read_weight(model, Q_PROJ, base, n, NULL), HD_OK);
  CHECK_EQ(hd_adapter_merge(model, adapter, -1, false, &err), HD_BAD_STATE); /* it is not there yet */
  CHECK_EQ(hd_adapter_merge(model, adapter, 1, false, &err), HD_OK);
  CHECK_EQ(hd_model_read_weight(model, Q_PROJ, once, n, NULL), HD_OK);
  CHECK(memcmp(base, once, n * sizeof *base) != 0);
  CHECK_EQ(hd_adapter_merge(model, adapter, 1, false, &err), HD_OK);
  CHECK_EQ(hd_model_read_weight(model, Q_PROJ, now, n, NULL), HD_OK);
  CHECK_EQ_BITS(now, once, n * sizeof *now);
  hd_session *s = test_session(model, HD_INFER);
  CHECK_EQ(hd_session_use(s, adapter, &err), HD_BAD_STATE);
  hd_session_free(s);
  /* A weight that was set since is without it, and gets it again; the others keep theirs. */
  CHECK_EQ(hd_model_write_weight(model, Q_PROJ, base, n, NULL), HD_OK);
  CHECK_EQ(hd_adapter_merge(model, adapter, 1, false, &err), HD_OK);
  CHECK_EQ(hd_model_read_weight(model, Q_PROJ, now, n, NULL), HD_OK);
  CHECK_EQ_BITS(now, once, n * sizeof *now);
  CHECK_EQ(hd_adapter_merge(model, adapter, -1, false, &err), HD_OK);
  CHECK_EQ(hd_adapter_merge(model, adapter, -1, false, &err), HD_BAD_STATE);
  free(base), free(once), free(now);
  CHECK_EQ(hd_adapter_free(adapter, NULL), HD_OK);
  CHECK_EQ(hd_model_free(model, NULL), HD_OK);
  free_files(f);
}

TEST(running_out_of_memory_while_an_adapter_loads_is_an_error_and_leaks_nothing) {
  files f = read_files();
  hd_model *model = load(&f);
  size_t before = hd_memory_live();
  bool done = model == NULL;
  for (size_t n = 0; !done; n++) {
    hd_error err = {0};
    hd_adapter *adapter = NULL;
    hd_memory_fail_after(n);
    hd_status status = hd_adapter_load(&adapter, model, f.config, f.n_config, f.weights, f.n_weights, &err);
    hd_memory_fail_after(SIZE_MAX);
    done = status == HD_OK;
    if (!done && !CHECK_EQ(status, HD_OUT_OF_MEMORY)) printf("# after %zu allocations: %s\n", n, err.message);
    hd_adapter_free(adapter, NULL);
    if (!CHECK_EQ(hd_memory_live(), before)) break;
  }
  hd_model_free(model, NULL);
  free_files(f);
}

/* The file cut at every length is an error, never a trap. */
TEST(a_cut_adapter_file_is_refused) {
  files f = read_files();
  hd_model *model = load(&f);
  for (size_t n = 0; model && n < f.n_weights; n += 1 + n / 64) {
    hd_adapter *adapter = NULL;
    uint8_t *cut = malloc(n ? n : 1); /* exactly so long, for the address sanitizer */
    memcpy(cut, f.weights, n);
    CHECK_EQ(hd_adapter_load(&adapter, model, f.config, f.n_config, cut, n, NULL), HD_BAD_FILE);
    CHECK(adapter == NULL);
    free(cut);
  }
  hd_model_free(model, NULL);
  free_files(f);
}

/* A pair of rank 1 for a weight [rows, cols] of a model. */
static hd_status load_pair(const hd_model *model, const char *module, size_t rows, size_t cols, hd_error *err) {
  static const char config[] = "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1}";
  static const float ones[512] = {1, 1};
  size_t n, room = 2 * strlen(module) + 300;
  char *json = malloc(room);
  uint8_t *file;
  hd_adapter *adapter = NULL;
  snprintf(json, room, "[{\"name\":\"base_model.model.%s.lora_A.weight\",\"dtype\":\"F32\",\"shape\":[1,%zu]},"
           "{\"name\":\"base_model.model.%s.lora_B.weight\",\"dtype\":\"F32\",\"shape\":[%zu,1]}]", module, cols, module, rows);
  CHECK_EQ(hd_safetensors_serialize(&file, &n, json, strlen(json), ones, rows + cols, NULL), HD_OK);
  hd_status status = hd_adapter_load(&adapter, (hd_model *)(uintptr_t)model, config, strlen(config), file, n, err);
  CHECK((adapter != NULL) == (status == HD_OK));
  hd_adapter_free(adapter, NULL);
  hd_bytes_free(file);
  free(json);
  return status;
}

TEST(an_adapter_finds_linears_of_any_name) {
  static char name[3000], layer[3200];
  hd_error err = {0};
  memset(name, 'x', sizeof name - 1);
  snprintf(layer, sizeof layer, "{\"type\":\"linear\",\"name\":\"%s\",\"in_features\":3,\"out_features\":2}", name);
  hd_model *model = test_network(layer, "[1,3]");
  if (!CHECK_EQ(load_pair(model, name, 2, 3, &err), HD_OK)) printf("# %s\n", err.message);
  CHECK_EQ(load_pair(model, "other", 2, 3, &err), HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "adapter tensor base_model.model.other.lora_A.weight fits no linear of the model");
  hd_model_free(model, NULL);
}

/* Their layers would take no notice of a pair until it is merged: one network, two answers. */
TEST(adapters_on_embeddings_and_experts_are_refused_by_name) {
  hd_error err = {0};
  files f = read_files();
  hd_model *model = load(&f);
  CHECK_EQ(load_pair(model, "model.embed_tokens", 384, 64, &err), HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "adapter tensor base_model.model.model.embed_tokens.lora_A.weight: adapters on embeddings are not built, "
                             "found one on model.embed_tokens.weight");
  hd_model_free(model, NULL);
  model = test_network("{\"type\":\"mixture_of_experts\",\"name\":\"m\",\"d_model\":2,\"hidden_size\":2,\"num_experts\":2,\"num_experts_per_tok\":1}", "[1,2]");
  CHECK_EQ(load_pair(model, "m.gate", 2, 2, &err), HD_OK);
  CHECK_EQ(load_pair(model, "m.experts.*.up_proj", 4, 2, &err), HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "adapter tensor base_model.model.m.experts.*.up_proj.lora_A.weight: adapters on experts are not built, "
                             "found one on m.experts.*.up_proj.weight");
  hd_model_free(model, NULL);
  free_files(f);
}
