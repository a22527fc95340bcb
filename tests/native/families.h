/* families.h: the small models that transformers made, with what it computed (tests/golden/transformers). */
#ifndef HD_TEST_FAMILIES_H
#define HD_TEST_FAMILIES_H

#include "networks.h"

#define DIR "tests/golden/transformers/"

static const char *const test_cases[] = {
  "llama-mha", "llama-gqa-tied", "llama-bias", "llama-gqa-tied-bf16", "llama-gqa-tied-f16", "llama-rope-linear", "llama-rope-dynamic", "llama-rope-yarn",
  "llama3-rope", "llama-mild", "smollm3", "mistral-swa", "qwen2", "qwen2-mild", "qwen2-swa", "qwen3", "phi3", "phi3-longrope",
  "gemma", "gemma2", "gemma3", "gpt2", "mixtral", "qwen3-moe",
};
enum { N_CASES = sizeof test_cases / sizeof test_cases[0], MOST_IDS = 64 };

typedef struct golden {
  char *config, *expected_json;
  uint8_t *weights, *expected;
  size_t n_config, n_expected_json, n_weights, n_expected;
  hd_directory *directory;
} golden;

static inline void *read_part(const char *name, const char *file, size_t *n) {
  char path[256];
  snprintf(path, sizeof path, DIR "%s/%s", name, file);
  return test_read_file(path, n);
}

static inline bool read_golden(golden *g, const char *name, const char *config) {
  *g = (golden){0};
  g->config = read_part(name, config, &g->n_config);
  g->expected_json = read_part(name, "expected.json", &g->n_expected_json);
  g->weights = read_part(name, "model.safetensors", &g->n_weights);
  g->expected = read_part(name, "expected.safetensors", &g->n_expected);
  return CHECK(g->config && g->expected_json && g->weights && g->expected) &&
         CHECK(hd_directory_read(&g->directory, g->expected, g->n_expected, g->n_expected, NULL) == HD_OK);
}

static inline void free_golden(golden *g) {
  free(g->config);
  free(g->expected_json);
  free(g->weights);
  free(g->expected);
  hd_directory_free(g->directory);
}

static inline hd_model *load(const golden *g) {
  hd_error err = {0};
  hd_model *model = test_load(g->config, g->n_config, g->weights, g->n_weights, HD_DTYPE_COUNT, 1000, &err);
  if (!CHECK(model != NULL)) printf("# %s\n", err.message);
  return model;
}

static inline size_t read_ids(const golden *g, int32_t ids[MOST_IDS]) {
  const hd_entry *e = hd_directory_find(g->directory, "input_ids");
  size_t n = e->shape[e->n_dims - 1];
  for (size_t i = 0; i < n; i++) {
    int64_t id;
    memcpy(&id, g->expected + e->begin + 8 * i, 8);
    ids[i] = (int32_t)id;
  }
  return n;
}

/* Of the last row. */
static inline int32_t argmax(const hd_tensor *logits) {
  const float *row = (const float *)logits->data + (logits->shape[0] - 1) * logits->shape[1];
  size_t best = 0;
  for (size_t i = 1; i < logits->shape[1]; i++)
    if (row[i] > row[best]) best = i;
  return (int32_t)best;
}

/* The row's ids up to its padding, with the token types above the vocabulary. */
static inline size_t encoder_ids(const golden *g, size_t row, size_t vocab_size, int32_t ids[MOST_IDS]) {
  const char *const names[] = {"input_ids", "attention_mask", "token_type_ids"};
  size_t n = 0;
  const hd_entry *e[3];
  for (int k = 0; k < 3; k++) e[k] = hd_directory_find(g->directory, names[k]);
  for (size_t i = 0; i < e[0]->shape[1]; i++) {
    int64_t v[3];
    for (int k = 0; k < 3; k++) memcpy(&v[k], g->expected + e[k]->begin + 8 * (row * e[0]->shape[1] + i), 8);
    if (v[1]) ids[n++] = (int32_t)(v[0] + v[2] * (int64_t)vocab_size);
  }
  return n;
}

#endif
