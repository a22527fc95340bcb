/* Detection's rules at their edges, and without memory. Loom's own lists are compared in tests/node/generic.test.mjs. */
#include "networks.h"

/* A file of F32 tensors with these names and shapes, all zero. */
static hd_directory *directory_of(const char *json, size_t n_values) {
  uint8_t *file = NULL;
  size_t n = 0;
  hd_error err = {0};
  hd_directory *directory = NULL;
  float *values = calloc(n_values, sizeof *values);
  hd_status status = hd_safetensors_serialize(&file, &n, json, strlen(json), values, n_values, &err);
  if (status == HD_OK) status = hd_directory_read(&directory, file, n, n, &err);
  if (!CHECK(status == HD_OK)) printf("# %s\n", err.message);
  hd_bytes_free(file);
  free(values);
  return directory;
}

/* The type the only tensor is taken for. */
static void check_type(const char *name, const char *shape, size_t n_values, const char *config, const char *type) {
  char json[256], wanted[64];
  snprintf(json, sizeof json, "[{\"name\":\"%s\",\"shape\":%s}]", name, shape);
  snprintf(wanted, sizeof wanted, "\"LoomTypeName\":\"%s\"", type);
  hd_directory *directory = directory_of(json, n_values);
  char *text = NULL;
  CHECK_EQ(hd_directory_detect(&text, directory, config, config ? strlen(config) : 0, NULL), HD_OK);
  if (!CHECK(text && strstr(text, wanted))) printf("# %s %s: %s\n", name, shape, text);
  hd_text_free(text);
  hd_directory_free(directory);
}

TEST(detect_follows_loom_s_rules_in_their_order) {
  static const char config[] = "{\"hidden_size\":4,\"intermediate_size\":6,\"num_attention_heads\":2,\"num_key_value_heads\":1}";
  check_type("a.LN.rms", "[4]", 4, NULL, "RMSNorm");
  check_type("a.LN.bias", "[4]", 4, NULL, "LayerNorm"); /* ln is asked for before bias */
  check_type("a.bias", "[4]", 4, NULL, "bias");
  check_type("x", "[8,2]", 16, NULL, "Dense");
  check_type("x", "[9,2]", 18, NULL, "Embedding"); /* more than four times as many rows */
  check_type("q_proj", "[9,2]", 18, NULL, "Embedding");
  check_type("x", "[6,4]", 24, config, "SwiGLU");
  check_type("q_proj", "[4,6]", 24, config, "SwiGLU");
  check_type("KEY", "[4,4]", 16, config, "MultiHeadAttention");
  check_type("KEY", "[4,4]", 16, NULL, "Dense");
  check_type("x", "[2,4]", 8, config, "MultiHeadAttention");
  check_type("gate", "[3,4]", 12, config, "SwiGLU");
  check_type("LSTM.w_ih", "[3,4]", 12, NULL, "LSTM");
  check_type("w_hh", "[3,4]", 12, "{", "RNN"); /* a broken config is none */
  check_type("w", "[2,2,2]", 8, NULL, "Conv1D");
  check_type("w", "[2,2,2,1]", 8, NULL, "Conv2D");
  check_type("w", "[]", 1, NULL, "unknown");
}

TEST(detect_gives_no_network_where_names_do_not_say_how) {
  hd_directory *directory = directory_of("[{\"name\":\"fc.weight\",\"shape\":[2,3]},{\"name\":\"fc.bias\",\"shape\":[2]},{\"name\":\"q_proj.weight\",\"shape\":[3,2]}]", 14);
  char *text;
  CHECK_EQ(hd_directory_detect(&text, directory, NULL, 0, NULL), HD_OK);
  CHECK(strstr(text, "\"network\":null") && strstr(text, "\"parameters\":14"));
  hd_text_free(text);
  hd_directory_free(directory);
}

static const char llama[] =
  "[{\"name\":\"model.embed_tokens.weight\",\"shape\":[5,8]},{\"name\":\"model.layers.0.self_attn.q_proj.weight\",\"shape\":[12,8]},"
  "{\"name\":\"model.layers.0.self_attn.k_proj.weight\",\"shape\":[4,8]},{\"name\":\"model.layers.0.mlp.gate_proj.weight\",\"shape\":[6,8]},"
  "{\"name\":\"model.layers.1.self_attn.q_proj.weight\",\"shape\":[12,8]},{\"name\":\"model.layers.0.self_attn.q_proj.bias\",\"shape\":[12]}]";
enum { LLAMA_VALUES = 40 + 96 + 32 + 48 + 96 + 12 };

TEST(detect_completes_a_llama_s_config_by_its_tensors) {
  static const struct {
    const char *config, *says;
  } cases[] = {
    {"{\"num_attention_heads\":3}", "\"num_attention_heads\":3,\"model_type\":\"qwen2\",\"vocab_size\":5,\"hidden_size\":8,\"intermediate_size\":6,\"num_hidden_layers\":2,"
                                    "\"attention_bias\":false,\"mlp_bias\":false,\"tie_word_embeddings\":true,\"head_dim\":4,\"num_key_value_heads\":1}"},
    {"{\"model_type\":\"llama\",\"vocab_size\":null,\"num_attention_heads\":5}", "\"num_attention_heads\":5,\"vocab_size\":5"}, /* 12 is not 5 heads */
    {NULL, "\"tie_word_embeddings\":true}"},
    {"{", "\"network\":null"}, /* broken: the loader says how */
    {"[]", "\"network\":null"},
  };
  hd_directory *directory = directory_of(llama, LLAMA_VALUES);
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    char *text = NULL, *to;
    CHECK_EQ(hd_directory_detect(&text, directory, cases[i].config, cases[i].config ? strlen(cases[i].config) : 0, NULL), HD_OK);
    to = text;
    for (char *c = text; *c; c++) /* as one line */
      if (*c != ' ' && *c != '\n') *to++ = *c;
    *to = 0;
    if (!CHECK(strstr(text, cases[i].says))) printf("# %s\n", text);
    hd_text_free(text);
  }
  hd_directory_free(directory);
}

/* The network that a recurrent layer's weights become. */
static void check_recurrent(const char *json, size_t n_values, const char *says) {
  hd_directory *directory = directory_of(json, n_values);
  char *text = NULL;
  CHECK_EQ(hd_directory_detect(&text, directory, NULL, 0, NULL), HD_OK);
  if (!CHECK(strstr(text, says))) printf("# %s\n", text);
  hd_text_free(text);
  hd_directory_free(directory);
}

static const char gru[] = "[{\"name\":\"g.weight_ih_l0\",\"shape\":[6,3]},{\"name\":\"g.weight_hh_l0\",\"shape\":[6,2]}]";

TEST(detect_makes_recurrent_layers_of_pytorch_s_names) {
  check_recurrent(gru, 30, "[{\"type\":\"gru\",\"weights\":\"g.\",\"input_size\":3,\"hidden_size\":2,\"num_layers\":1,\"bias\":false,\"bidirectional\":false,\"proj_size\":0}]");
  check_recurrent("[{\"name\":\"weight_ih_l0\",\"shape\":[12,2]},{\"name\":\"weight_hh_l0\",\"shape\":[12,1]},{\"name\":\"weight_hr_l0\",\"shape\":[1,3]}]", 39,
                  "[{\"type\":\"lstm\",\"weights\":\"\",\"input_size\":2,\"hidden_size\":3,\"num_layers\":1,\"bias\":false,\"bidirectional\":false,\"proj_size\":1}]");
  /* two gates, no whole number of gates, something else beside it */
  check_recurrent("[{\"name\":\"weight_ih_l0\",\"shape\":[4,3]},{\"name\":\"weight_hh_l0\",\"shape\":[4,2]}]", 20, "\"network\":null");
  check_recurrent("[{\"name\":\"weight_ih_l0\",\"shape\":[5,3]},{\"name\":\"weight_hh_l0\",\"shape\":[5,2]}]", 25, "\"network\":null");
  check_recurrent("[{\"name\":\"weight_ih_l0\",\"shape\":[2,3]},{\"name\":\"weight_hh_l0\",\"shape\":[2,2]},{\"name\":\"fc.weight\",\"shape\":[1,2]}]", 12, "\"network\":null");
}

static void check_without_memory(const char *json, size_t n_values, const char *config) {
  hd_directory *directory = directory_of(json, n_values);
  size_t before = hd_memory_live(), n = 0;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 200; n++) {
    char *text;
    hd_memory_fail_after(n);
    status = hd_directory_detect(&text, directory, config, config ? strlen(config) : 0, NULL);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(status == HD_OK ? text != NULL : status == HD_OUT_OF_MEMORY && !text);
    hd_text_free(text);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 2);
  hd_directory_free(directory);
}

TEST(detect_without_memory_leaks_nothing) {
  check_without_memory("[{\"name\":\"fc.weight\",\"shape\":[2,3]},{\"name\":\"fc.bias\",\"shape\":[2]},{\"name\":\"n.weight\",\"shape\":[2]}]", 10, NULL);
  check_without_memory(gru, 30, NULL);
  check_without_memory(llama, LLAMA_VALUES, NULL);
  check_without_memory(llama, LLAMA_VALUES, "{\"num_attention_heads\":3}");
  check_without_memory("[{\"name\":\"0.n1.weight\",\"shape\":[4]},{\"name\":\"0.a.q_proj.weight\",\"shape\":[4,4]},{\"name\":\"0.a.k_proj.weight\",\"shape\":[2,4]},"
                       "{\"name\":\"0.a.v_proj.weight\",\"shape\":[2,4]},{\"name\":\"0.a.o_proj.weight\",\"shape\":[4,4]},{\"name\":\"odd\",\"shape\":[1]}]",
                       53, "{\"num_attention_heads\":2}");
}
