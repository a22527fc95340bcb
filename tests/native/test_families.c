/* Every model family against transformers (tests/golden/transformers): the logits and hidden states of all positions from both spellings of its
 * config.json, and the greedy tokens over the key/value cache. The fixtures' README gives the budget: 1e-5 · max(1, the reference's largest). */
#include "families.h"

static void check_value(hd_session *s, const golden *g, const char *theirs, const char *ours) {
  const hd_entry *e = hd_directory_find(g->directory, theirs);
  hd_tensor value;
  hd_error err = {0};
  if (!CHECK(e != NULL) || !CHECK_EQ(hd_session_value(s, ours, &value, &err), HD_OK)) {
    printf("# %s: %s\n", theirs, err.message);
    return;
  }
  size_t n = (size_t)(e->end - e->begin) / sizeof(float), ours_n = 1;
  for (int d = 0; d < value.n_dims; d++) ours_n *= value.shape[d];
  if (!CHECK_EQ(ours_n, n)) return;
  double most = 1, off = 0;
  for (size_t i = 0; i < n; i++) {
    float want;
    memcpy(&want, g->expected + e->begin + i * sizeof want, sizeof want);
    double error = fabs((double)((const float *)value.data)[i] - (double)want);
    most = fmax(most, fabs((double)want));
    off = error > off || isnan(error) ? error : off;
  }
  if (!CHECK(off <= 1e-5 * most)) printf("# %s: off by %g, allowed %g\n", theirs, off, 1e-5 * most);
}

static void check_states(hd_session *s, const golden *g) {
  char theirs[64], ours[64], next[64];
  for (size_t i = 0;; i++) {
    snprintf(theirs, sizeof theirs, "hidden_states.%zu", i);
    snprintf(next, sizeof next, "hidden_states.%zu", i + 1);
    if (!hd_directory_find(g->directory, theirs)) break;
    bool last = !hd_directory_find(g->directory, next);
    snprintf(ours, sizeof ours, i == 0 ? "embedding" : last ? "final_norm" : "layers.%zu.output", i - 1);
    check_value(s, g, theirs, ours);
  }
  check_value(s, g, "logits", "logits");
}

static void check_greedy(hd_model *model, const golden *g, const int32_t *ids, size_t n) {
  cJSON *json = cJSON_ParseWithLength(g->expected_json, g->n_expected_json);
  const cJSON *want = cJSON_GetObjectItem(json, "greedy_ids_ignore_eos"), *each;
  const hd_session_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {n}}, .context = n + 24, .output_rows = 1};
  hd_session *s = NULL;
  hd_error err = {0};
  CHECK(cJSON_GetArraySize(want) == 24);
  if (!CHECK_EQ(hd_session_new(&s, model, &options, &err), HD_OK)) printf("# %s\n", err.message);
  if (s && hd_decode(s, ids, n, &err) == HD_OK) cJSON_ArrayForEach(each, want) {
    hd_tensor out;
    int32_t id = hd_session_output(s, &out, &err) == HD_OK ? argmax(&out) : -1;
    if (!CHECK_EQ(id, (int32_t)each->valuedouble)) break;
    if (!CHECK_EQ(hd_decode(s, &id, 1, &err), HD_OK)) break;
  }
  if (err.code) printf("# %s\n", err.message);
  hd_session_free(s);
  cJSON_Delete(json);
}

static void check_case(const char *name, const char *config) {
  golden g;
  int32_t ids[MOST_IDS];
  printf("# %s %s\n", name, config);
  hd_model *model = read_golden(&g, name, config) ? load(&g) : NULL;
  if (model) {
    size_t n = read_ids(&g, ids);
    const hd_session_options options = {.mode = HD_TRACE, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {n}}};
    hd_session *s = NULL;
    hd_error err = {0};
    if (CHECK_EQ(hd_session_new(&s, model, &options, &err), HD_OK) && CHECK_EQ(hd_decode(s, ids, n, &err), HD_OK)) check_states(s, &g);
    if (err.code) printf("# %s\n", err.message);
    hd_session_free(s);
    check_greedy(model, &g, ids, n);
  }
  hd_model_free(model, NULL);
  free_golden(&g);
}

TEST(logits_hidden_states_and_greedy_tokens_are_transformers_from_both_spellings) {
  for (size_t i = 0; i < N_CASES; i++) {
    check_case(test_cases[i], "config.json");
    check_case(test_cases[i], "config.v4.json");
  }
}

/* What a model is written to a bundle and read back gives the same bits. */
TEST(every_family_is_saved_as_a_bundle_and_runs_the_same_from_it) {
  for (size_t i = 0; i < N_CASES; i++) {
    golden g;
    int32_t ids[MOST_IDS];
    hd_error err = {0};
    printf("# %s\n", test_cases[i]);
    hd_model *model = read_golden(&g, test_cases[i], "config.json") ? load(&g) : NULL, *again = NULL;
    char *text = NULL;
    size_t n = 0;
    if (model && CHECK_EQ(hd_model_save_bundle(&text, &n, model, "one", NULL, &err), HD_OK)) hd_model_load_bundle(&again, text, n, "one", &err);
    if (!CHECK(again != NULL)) printf("# %s\n", err.message);
    if (again) {
      const hd_session_options options = {.mode = HD_TRACE, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {48}}, .context = 64};
      hd_session *s = NULL;
      if (CHECK_EQ(hd_session_new(&s, again, &options, &err), HD_OK) && CHECK_EQ(hd_decode(s, ids, read_ids(&g, ids), &err), HD_OK)) check_states(s, &g);
      if (err.code) printf("# %s\n", err.message);
      hd_session_free(s);
    }
    hd_text_free(text);
    hd_model_free(again, NULL);
    hd_model_free(model, NULL);
    free_golden(&g);
  }
}

/* ---- Encoders: rows alone, without padding ---- */

static const float *expected_row(const golden *g, const char *name, size_t row, size_t *n) {
  const hd_entry *e = hd_directory_find(g->directory, name);
  if (!CHECK(e != NULL)) return NULL;
  *n = (size_t)(e->end - e->begin) / sizeof(float) / e->shape[0];
  float *copy = malloc(*n * sizeof *copy + 1);
  memcpy(copy, g->expected + e->begin + row * *n * sizeof *copy, *n * sizeof *copy);
  return copy;
}

/* The first rows of a value against those of a padded batch's member. */
static void check_row(hd_session *s, const golden *g, const char *theirs, size_t row, const char *ours) {
  hd_tensor value;
  size_t n = 0;
  double most = 1, off = 0;
  const float *want = expected_row(g, theirs, row, &n);
  if (!want || !CHECK_EQ(hd_session_value(s, ours, &value, NULL), HD_OK)) return;
  size_t ours_n = value.shape[0] * value.shape[1];
  CHECK(ours_n <= n);
  for (size_t i = 0; i < ours_n && i < n; i++) {
    most = fmax(most, fabs((double)want[i]));
    off = fmax(off, fabs((double)((const float *)value.data)[i] - (double)want[i]));
  }
  if (!CHECK(off <= 1e-5 * most)) printf("# %s of row %zu: off by %g\n", theirs, row, off);
  free((void *)(uintptr_t)want);
}

static void check_encoder(const char *name, const char *config, size_t n_layers, size_t vocab_size) {
  golden g;
  int32_t ids[MOST_IDS];
  printf("# %s %s\n", name, config);
  hd_model *model = read_golden(&g, name, config) ? load(&g) : NULL;
  for (size_t row = 0; model && row < 3; row++) {
    size_t n = encoder_ids(&g, row, vocab_size, ids);
    char theirs[64], ours[64];
    const hd_session_options options = {.mode = HD_TRACE, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {n}}};
    hd_session *s = NULL;
    hd_error err = {0};
    if (CHECK_EQ(hd_session_new(&s, model, &options, &err), HD_OK) && CHECK_EQ(hd_decode(s, ids, n, &err), HD_OK)) {
      for (size_t i = 0; i <= n_layers; i++) {
        snprintf(theirs, sizeof theirs, "hidden_states.%zu", i);
        snprintf(ours, sizeof ours, i ? "layers.%zu.output" : "embedding", i - 1);
        check_row(s, &g, theirs, row, ours);
      }
      check_row(s, &g, "pooler_output", row, "pooler_output");
      hd_tensor out;
      CHECK(hd_session_output(s, &out, &err) == HD_OK && out.shape[0] == n);
    }
    if (err.code) printf("# %s\n", err.message);
    hd_session_free(s);
  }
  hd_model_free(model, NULL);
  free_golden(&g);
}

TEST(encoders_give_each_row_of_a_padded_batch_from_both_spellings) {
  for (int v4 = 0; v4 < 2; v4++) {
    check_encoder("bert", v4 ? "config.v4.json" : "config.json", 3, 300);
    check_encoder("minilm-like", v4 ? "config.v4.json" : "config.json", 2, 512);
  }
}
