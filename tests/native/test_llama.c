/* A small Llama made by transformers (tests/golden/transformers/llama-mild): every value of a forward against PyTorch's trace, the same from
 * a cache token by token, and what happens to it when memory runs out or its files are wrong. */
#include "networks.h"

#define DIR "tests/golden/transformers/"

typedef struct files {
  char *config;
  uint8_t *weights, *trace;
  size_t n_config, n_weights, n_trace;
} files;

static files read_files(void) {
  files f = {0};
  f.config = test_read_file(DIR "llama-mild/config.json", &f.n_config);
  f.weights = test_read_file(DIR "llama-mild/model.safetensors", &f.n_weights);
  f.trace = test_read_file(DIR "trace-llama-mild/trace.safetensors", &f.n_trace);
  CHECK(f.config && f.weights && f.trace);
  return f;
}

static void free_files(files f) {
  free(f.config);
  free(f.weights);
  free(f.trace);
}

static hd_model *load(const files *f, size_t piece) {
  hd_error err;
  hd_model *model = test_load(f->config, f->n_config, f->weights, f->n_weights, HD_DTYPE_COUNT, piece, &err);
  if (!CHECK(model != NULL)) printf("# %s\n", err.message);
  return model;
}

/* The trace's ids as int32. */
static size_t read_ids(const files *f, const hd_directory *trace, int32_t ids[64]) {
  const hd_entry *e = hd_directory_find(trace, "input_ids");
  size_t n = e->shape[1];
  for (size_t i = 0; i < n; i++) {
    int64_t id;
    memcpy(&id, f->trace + e->begin + 8 * i, 8);
    ids[i] = (int32_t)id;
  }
  return n;
}

/* PyTorch keeps rotated queries and keys as [1, heads, T, head_dim]; ours lie as [T, heads, head_dim]. */
static size_t place(const hd_entry *e, bool by_head, size_t i) {
  if (!by_head) return i;
  size_t heads = e->shape[1], n = e->shape[2], dim = e->shape[3];
  return (i / dim % n * heads + i / (dim * n)) * dim + i % dim;
}

/* A layer's input is the value before it, under the name the trace gives it. */
static void our_name(char name[96], const char *traced) {
  unsigned layer;
  snprintf(name, 96, "%s", traced);
  if (sscanf(traced, "layers.%u.", &layer) != 1 || strcmp(strrchr(traced, '.'), ".input") != 0) return;
  if (layer == 0) snprintf(name, 96, "embedding");
  else snprintf(name, 96, "layers.%u.output", layer - 1);
}

static void check_value(hd_session *s, const files *f, const hd_entry *e) {
  char name[96];
  our_name(name, e->name);
  hd_tensor value;
  hd_error err;
  if (!CHECK_EQ(hd_session_value(s, name, &value, &err), HD_OK)) {
    printf("# %s: %s\n", e->name, err.message);
    return;
  }
  size_t n = (size_t)(e->end - e->begin) / sizeof(float), ours = 1;
  for (int d = 0; d < value.n_dims; d++) ours *= value.shape[d];
  bool by_head = strstr(e->name, "q_rope") || strstr(e->name, "k_rope");
  if (!CHECK_EQ(ours, n)) printf("# %s\n", e->name);
  for (size_t i = 0; i < n && ours == n; i++) {
    float want;
    memcpy(&want, f->trace + e->begin + i * sizeof want, sizeof want);
    if (!CHECK_NEAR((double)((const float *)value.data)[place(e, by_head, i)], (double)want, 1e-5, 0)) printf("# %s[%zu]\n", e->name, i);
  }
}

TEST(every_value_of_a_forward_is_pytorchs_within_1e_5) {
  files f = read_files();
  hd_model *model = load(&f, 1000);
  hd_directory *trace = NULL;
  CHECK_EQ(hd_directory_read(&trace, f.trace, f.n_trace, f.n_trace, NULL), HD_OK);
  hd_session *s = model ? test_session(model, HD_TRACE) : NULL;
  int32_t ids[64];
  if (s && trace) {
    CHECK_EQ(hd_decode(s, ids, read_ids(&f, trace, ids), NULL), HD_OK);
    for (size_t i = 0; i < hd_directory_count(trace); i++)
      if (hd_directory_entry(trace, i)->dtype == HD_F32) check_value(s, &f, hd_directory_entry(trace, i));
    CHECK_EQ(hd_directory_count(trace), 60u);
  }
  hd_session_free(s);
  hd_directory_free(trace);
  hd_model_free(model, NULL);
  free_files(f);
}

TEST(a_cache_filled_token_by_token_gives_the_logits_of_one_call) {
  files f = read_files();
  hd_model *model = load(&f, 1 << 20);
  if (!model) return;
  const int32_t ids[] = {5, 77, 301, 12, 9, 250, 33, 148};
  enum { N = 8 };
  hd_session *whole = test_session(model, HD_INFER), *steps = test_session(model, HD_INFER);
  hd_tensor a, b;
  CHECK_EQ(hd_decode(whole, ids, N, NULL), HD_OK);
  for (size_t i = 0; i < N; i++) CHECK_EQ(hd_decode(steps, ids + i, 1, NULL), HD_OK);
  hd_session_output(whole, &a, NULL);
  hd_session_output(steps, &b, NULL);
  CHECK_EQ(b.shape[0], 1u);
  const float *last = (const float *)a.data + (N - 1) * a.shape[1];
  for (size_t i = 0; i < a.shape[1]; i++) CHECK_NEAR((double)((const float *)b.data)[i], (double)last[i], 2e-6, 2e-6);

  /* Rewound and gone on another way, then back: the same again. */
  CHECK_EQ(hd_session_rewind(steps, 4, NULL), HD_OK);
  CHECK_EQ(hd_decode(steps, ids, 2, NULL), HD_OK);
  CHECK_EQ(hd_session_rewind(steps, 4, NULL), HD_OK);
  for (size_t i = 4; i < N; i++) CHECK_EQ(hd_decode(steps, ids + i, 1, NULL), HD_OK);
  hd_session_output(steps, &b, NULL);
  for (size_t i = 0; i < a.shape[1]; i++) CHECK_NEAR((double)((const float *)b.data)[i], (double)last[i], 2e-6, 2e-6);
  hd_session_free(whole);
  hd_session_free(steps);
  hd_model_free(model, NULL);
  free_files(f);
}

/* The state grows in pages of 256 positions; the context here is 256, so force growth with a longer one. */
TEST(state_grows_between_calls_and_keeps_what_it_held) {
  files f = read_files();
  hd_model *model = load(&f, 1 << 20);
  if (!model) return;
  const hd_session_options options = {.mode = HD_INFER, .context = 600, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {200}}};
  hd_session *paged = NULL, *roomy = NULL;
  CHECK_EQ(hd_session_new(&paged, model, &options, NULL), HD_OK);
  CHECK_EQ(hd_session_new(&roomy, model, &options, NULL), HD_OK);
  CHECK_EQ(hd_session_reserve(roomy, 600, NULL), HD_OK);
  int32_t ids[200];
  for (int i = 0; i < 200; i++) ids[i] = i * 37 % 380;
  hd_error err = {0};
  for (size_t call = 0; call < 3; call++) {
    if (call) CHECK_EQ(hd_decode(paged, ids, 200, &err), call == 1 || call == 2 ? HD_BAD_STATE : HD_OK);
    CHECK_EQ(hd_session_reserve(paged, (call + 1) * 200, NULL), HD_OK);
    CHECK_EQ(hd_decode(paged, ids, 200, NULL), HD_OK);
    CHECK_EQ(hd_decode(roomy, ids, 200, NULL), HD_OK);
  }
  hd_tensor a, b;
  hd_session_output(paged, &a, NULL);
  hd_session_output(roomy, &b, NULL);
  CHECK_EQ_BITS(a.data, b.data, a.shape[0] * a.shape[1] * sizeof(float));
  CHECK_EQ(hd_decode(paged, ids, 1, &err), HD_BAD_STATE);
  CHECK(strstr(err.message, "do not fit the context of 600") != NULL);
  hd_session_free(paged);
  hd_session_free(roomy);
  hd_model_free(model, NULL);
  free_files(f);
}

TEST(a_forward_and_a_decode_allocate_nothing) {
  files f = read_files();
  hd_model *model = load(&f, 1 << 20);
  hd_session *s = model ? test_session(model, HD_INFER) : NULL;
  const int32_t ids[] = {1, 2, 3};
  if (s) {
    hd_memory_fail_after(0);
    CHECK_EQ(hd_decode(s, ids, 3, NULL), HD_OK);
    CHECK_EQ(hd_decode(s, ids, 1, NULL), HD_OK);
    hd_memory_fail_after(SIZE_MAX);
  }
  hd_session_free(s);
  hd_model_free(model, NULL);
  free_files(f);
}

TEST(running_out_of_memory_anywhere_is_an_error_and_leaks_nothing) {
  files f = read_files();
  size_t before = hd_memory_live();
  bool done = false;
  for (size_t n = 0; !done; n += 1 + n / 16) {
    hd_error err = {0};
    hd_memory_fail_after(n);
    hd_model *model = test_load(f.config, f.n_config, f.weights, f.n_weights, HD_DTYPE_COUNT, 1 << 20, &err);
    const hd_session_options options = {.mode = HD_TRAIN};
    hd_session *s = NULL;
    hd_status status = model ? hd_session_new(&s, model, &options, &err) : err.code;
    hd_memory_fail_after(SIZE_MAX);
    done = status == HD_OK;
    if (!done && !CHECK_EQ(status, HD_OUT_OF_MEMORY)) printf("# after %zu allocations: %s\n", n, err.message);
    hd_session_free(s);
    hd_model_free(model, NULL);
    if (!CHECK_EQ(hd_memory_live(), before)) break;
  }
  free_files(f);
}

static void check_refused(const files *f, const char *config, const char *says) {
  hd_error err = {0};
  hd_model *model = test_load(config, strlen(config), f->weights, f->n_weights, HD_DTYPE_COUNT, 1 << 20, &err);
  CHECK(model == NULL);
  if (!CHECK(strstr(err.message, says) != NULL)) printf("# found: %s\n", err.message);
  hd_model_free(model, NULL);
}

TEST(configs_that_do_not_fit_are_refused_by_name) {
  files f = read_files();
  check_refused(&f, "{\"model_type\":\"t5\"}", "model_type 't5' is an encoder-decoder");
  check_refused(&f, "{\"model_type\":\"vit\"}", "model_type 'vit' is a vision model, which is not built; known: llama, qwen2");
  check_refused(&f, "{\"model_type\":\"llama\",\"architectures\":[\"LlavaForConditionalGeneration\"]}", "config.json: architectures: 'LlavaForConditionalGeneration' has parts beside its text model, which are not built");
  check_refused(&f, "{\"model_type\":\"deberta\"}", "model_type 'deberta' is an encoder that differs from BERT, which is not built; known: llama, qwen2, qwen3, mistral, smollm3, phi3, mixtral, "
                    "qwen3_moe, gemma, gemma2, gemma3_text, gpt2, bert");
  check_refused(&f, "{\"model_type\":\"llama\"}", "config.json.hidden_size");
  check_refused(&f, "{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":112,\"num_hidden_layers\":3,\"num_attention_heads\":6,"
                    "\"num_key_value_heads\":4,\"vocab_size\":384}", "config.json.num_attention_heads");
  check_refused(&f, "{\"model_type\":\"llama\",\"hidden_size\":64,\"intermediate_size\":112,\"num_hidden_layers\":3,\"num_attention_heads\":6,"
                    "\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":384,\"tie_word_embeddings\":true}",
                "tensor model.embed_tokens.weight: the model wants shape [384, 64], the file has [384, 48]");
  check_refused(&f, "{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":112,\"num_hidden_layers\":4,\"num_attention_heads\":6,"
                    "\"num_key_value_heads\":2,\"head_dim\":8,\"vocab_size\":384,\"tie_word_embeddings\":true}",
                "the files lack 9 of the model's 38 weights, first model.layers.3.input_layernorm.weight of shape [48]");
  check_refused(&f, "{\"model_type\":\"llama\",\"hidden_size\":48,\"intermediate_size\":112,\"num_hidden_layers\":1000000000,\"num_attention_heads\":6,"
                    "\"vocab_size\":384}", "num_hidden_layers");
  free_files(f);
}

TEST(ids_outside_the_vocabulary_are_refused_and_the_session_goes_on) {
  files f = read_files();
  hd_model *model = load(&f, 1 << 20);
  hd_session *s = model ? test_session(model, HD_INFER) : NULL;
  hd_error err = {0};
  const int32_t good[] = {1, 2}, high[] = {1, 384}, low[] = {-1};
  if (s) {
    CHECK_EQ(hd_decode(s, high, 2, &err), HD_BAD_ARGUMENT);
    CHECK(strstr(err.message, "id 384 at position 1 is outside the vocabulary of 384") != NULL);
    CHECK_EQ(hd_decode(s, low, 1, &err), HD_BAD_ARGUMENT);
    CHECK_EQ(hd_session_position(s), 0u);
    CHECK_EQ(hd_decode(s, good, 2, &err), HD_OK);
    CHECK_EQ(hd_session_position(s), 2u);
    CHECK_EQ(hd_model_free(model, &err), HD_BAD_STATE);
  }
  hd_session_free(s);
  hd_model_free(model, NULL);
  free_files(f);
}

TEST(a_transformer_is_saved_as_a_bundle_and_runs_the_same_from_it) {
  files f = read_files();
  hd_model *model = load(&f, 1 << 20), *again = NULL;
  char *text = NULL;
  size_t n = 0;
  hd_error err = {0};
  if (!model) return;
  CHECK_EQ(hd_model_save_bundle(&text, &n, model, "llama", NULL, &err), HD_OK);
  if (!CHECK_EQ(hd_model_load_bundle(&again, text, n, "llama", &err), HD_OK)) printf("# %s\n", err.message);
  const hd_session_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {5}}};
  hd_session *a = NULL, *b = NULL;
  CHECK_EQ(hd_session_new(&a, model, &options, &err), HD_OK);
  if (again) CHECK_EQ(hd_session_new(&b, again, &options, &err), HD_OK);
  const int32_t ids[] = {5, 77, 301, 12, 9};
  if (a && b) {
    hd_tensor x, y;
    CHECK_EQ(hd_decode(a, ids, 5, NULL), HD_OK);
    CHECK_EQ(hd_decode(b, ids, 5, NULL), HD_OK);
    hd_session_output(a, &x, NULL);
    hd_session_output(b, &y, NULL);
    CHECK_EQ_BITS(x.data, y.data, x.shape[0] * x.shape[1] * sizeof(float));
  }
  hd_session_free(a);
  hd_session_free(b);
  hd_text_free(text);
  hd_model_free(model, NULL);
  hd_model_free(again, NULL);
  free_files(f);
}
