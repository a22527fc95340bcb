/* A GGUF file's metadata as a config.json: every member, every refusal; and the order of heads' rows, there and back. */
#include "base/memory.h"
#include "format/format.h"
#include "graph/gguf.h"
#include "test.h"

static const char tensors[] = "[{\"name\":\"token_embd.weight\",\"shape\":[5,8]}]";
static const float zeros[64];

/* A file of that metadata and tensors (values all zero but the `factors`, which come last). */
static hd_directory *make(const char *metadata, const char *list, size_t n_values, uint8_t **file, size_t *n_file) {
  hd_error err = {0};
  hd_directory *directory = NULL;
  bool made = hd_gguf_serialize(file, n_file, list, strlen(list), zeros, n_values, metadata, strlen(metadata), &err) == HD_OK &&
              hd_directory_read(&directory, *file, *n_file, *n_file, &err) == HD_OK;
  if (!CHECK(made)) printf("# %s\n", err.message);
  return directory;
}

static void check_config(const char *metadata, const char *list, size_t n_values, hd_status code, const char *want) {
  uint8_t *file;
  size_t n, before = hd_memory_live();
  hd_error err = {0};
  char *json;
  hd_directory *d = make(metadata, list, n_values, &file, &n);
  if (d) {
    CHECK(hd_directory_config(&json, d, NULL, 0, &err) == code);
    CHECK((json != NULL) == (code == HD_OK));
    CHECK_EQ_TEXT(json ? json : err.message, want);
    hd_text_free(json);
  }
  hd_directory_free(d);
  hd_bytes_free(file);
  CHECK(hd_memory_live() == before);
}

#define BASE(arch) "\"general.architecture\":\"" arch "\",\"" arch ".embedding_length\":8,\"" arch ".block_count\":2,\"" arch \
  ".feed_forward_length\":16,\"" arch ".attention.head_count\":4"
#define SIZES "\"hidden_size\":8,\"intermediate_size\":16,\"num_hidden_layers\":2,\"num_attention_heads\":4"

TEST(metadata_become_a_config_json) {
  check_config("{" BASE("llama") ",\"llama.attention.head_count_kv\":2,\"llama.context_length\":64,\"llama.rope.freq_base\":500000.0,"
               "\"llama.attention.layer_norm_rms_epsilon\":1e-5,\"llama.rope.dimension_count\":2,\"tokenizer.ggml.bos_token_id\":1,"
               "\"tokenizer.ggml.eos_token_id\":2,\"tokenizer.ggml.eot_token_id\":3}", tensors, 40, HD_OK,
               "{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":2,\"max_position_embeddings\":64,\"rms_norm_eps\":9.9999997473787516e-06,"
               "\"rope_theta\":500000.0,\"vocab_size\":5,\"tie_word_embeddings\":true,\"bos_token_id\":1,\"eos_token_id\":[2,3]}");
  check_config("{" BASE("qwen3") ",\"qwen3.attention.key_length\":4,\"qwen3.attention.value_length\":4,\"tokenizer.ggml.eos_token_id\":2,"
               "\"tokenizer.ggml.eot_token_id\":2}",
               "[{\"name\":\"token_embd.weight\",\"shape\":[5,8]},{\"name\":\"output.weight\",\"shape\":[1,8]}]", 48, HD_OK,
               "{\"model_type\":\"qwen3\"," SIZES ",\"head_dim\":4,\"num_key_value_heads\":4,\"vocab_size\":5,\"tie_word_embeddings\":false,\"eos_token_id\":2}");
}

TEST(biases_and_vocabulary_are_read_off_the_tensors) {
  check_config("{" BASE("llama") ",\"llama.vocab_size\":7}", "[{\"name\":\"blk.0.attn_output.bias\",\"shape\":[8]},{\"name\":\"blk.0.ffn_down.bias\",\"shape\":[8]}]", 16, HD_OK,
               "{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":4,\"vocab_size\":7,\"tie_word_embeddings\":true,\"attention_bias\":true,\"mlp_bias\":true}");
}

TEST(rotary_positions_are_scaled_as_the_metadata_say) {
  static const char head[] = "{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":4,\"vocab_size\":5,\"tie_word_embeddings\":true,";
  char want[600];
  snprintf(want, sizeof want, "%s%s", head, "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4}}");
  check_config("{" BASE("llama") ",\"llama.rope.scaling.type\":\"linear\",\"llama.rope.scaling.factor\":4.0}", tensors, 40, HD_OK, want);
  check_config("{" BASE("llama") ",\"llama.rope.scale_linear\":4.0}", tensors, 40, HD_OK, want);
  snprintf(want, sizeof want, "%s%s", head, "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":8,\"original_max_position_embeddings\":4096}}");
  check_config("{" BASE("llama") ",\"llama.rope.scaling.type\":\"yarn\",\"llama.rope.scaling.factor\":8.0,\"llama.rope.scaling.original_context_length\":4096}",
               tensors, 40, HD_OK, want);
  snprintf(want, sizeof want, "%s%s", head, "\"partial_rotary_factor\":0.5}");
  check_config("{" BASE("llama") ",\"llama.rope.dimension_count\":1,\"llama.rope.scaling.type\":\"none\"}", tensors, 40, HD_OK, want);
  check_config("{" BASE("llama") ",\"llama.rope.scaling.type\":\"longrope\"}", tensors, 40, HD_BAD_FILE,
               "GGUF: llama.rope.scaling.type: longrope wants tensor \"rope_factors_long.weight\", found none");
}

TEST(gemma_says_what_scales_its_queries) {
  check_config("{" BASE("gemma2") ",\"gemma2.attention.key_length\":16,\"gemma2.attn_logit_softcapping\":50.0,\"gemma2.attention.sliding_window\":4}", tensors, 40, HD_OK,
               "{\"model_type\":\"gemma2\"," SIZES ",\"head_dim\":16,\"sliding_window\":4,\"attn_logit_softcapping\":50.0,\"num_key_value_heads\":4,\"vocab_size\":5,"
               "\"tie_word_embeddings\":true,\"query_pre_attn_scalar\":16,\"hidden_activation\":\"gelu_pytorch_tanh\"}");
}

TEST(rope_factors_are_a_tensor_of_the_description) {
  static const char list[] = "[{\"name\":\"rope_freqs.weight\",\"shape\":[3]}]";
  static const float factors[3] = {1, 4.5f, 8};
  uint8_t *file;
  size_t n;
  hd_error err = {0};
  char *json;
  hd_directory *d = make("{" BASE("llama") ",\"llama.vocab_size\":7}", list, 3, &file, &n);
  if (!d) return;
  const hd_entry *e = hd_directory_config_tensor(d, 0);
  CHECK(e && strcmp(e->name, "rope_freqs.weight") == 0 && !hd_directory_config_tensor(d, 1));
  CHECK(hd_directory_config(&json, d, factors, sizeof factors, &err) == HD_OK);
  CHECK_EQ_TEXT(json, "{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":4,\"vocab_size\":7,\"tie_word_embeddings\":true,"
                      "\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":1,\"attention_factor\":1,\"long_factor\":[1,4.5,8],\"short_factor\":[1,4.5,8]}}");
  hd_text_free(json);
  CHECK(hd_directory_config(&json, d, NULL, 0, &err) == HD_BAD_FILE && !json);
  CHECK(hd_directory_config(&json, d, zeros, sizeof factors, &err) == HD_BAD_FILE && !json);
  CHECK_EQ_TEXT(err.message, "GGUF: tensor \"rope_freqs.weight\": expected factors above 0, found 0 at 0");
  hd_directory_free(d);
  hd_bytes_free(file);
}

TEST(a_longrope_has_two_tensors) {
  static const char both[] = "[{\"name\":\"rope_factors_short.weight\",\"shape\":[2]},{\"name\":\"rope_factors_long.weight\",\"shape\":[2]}]";
  static const float factors[4] = {2, 8, 1, 1.5f}; /* the long ones first, as hd_directory_config_tensor gives them */
  uint8_t *file;
  size_t n;
  hd_error err = {0};
  char *json;
  hd_directory *d = make("{" BASE("phi3") ",\"phi3.context_length\":128,\"phi3.vocab_size\":7,\"phi3.rope.scaling.attn_factor\":1.25,\"phi3.rope.scaling.original_context_length\":32}", both, 4, &file, &n);
  if (!d) return;
  const hd_entry *first = hd_directory_config_tensor(d, 0), *second = hd_directory_config_tensor(d, 1);
  CHECK(first && second && strcmp(first->name, "rope_factors_long.weight") == 0 && strcmp(second->name, "rope_factors_short.weight") == 0);
  CHECK(hd_directory_config_tensor(d, 2) == NULL && hd_directory_config_tensor(d, SIZE_MAX) == NULL);
  CHECK(hd_directory_config(&json, d, factors, sizeof factors, &err) == HD_OK);
  CHECK_EQ_TEXT(json, "{\"model_type\":\"phi3\"," SIZES ",\"max_position_embeddings\":128,\"num_key_value_heads\":4,\"vocab_size\":7,\"tie_word_embeddings\":true,\"rope_scaling\":"
                      "{\"rope_type\":\"longrope\",\"attention_factor\":1.25,\"original_max_position_embeddings\":32,\"long_factor\":[2,8],\"short_factor\":[1,1.5]}}");
  hd_text_free(json);
  CHECK(hd_directory_config(&json, d, factors, 3 * sizeof *factors, &err) == HD_BAD_FILE && !json);
  CHECK_EQ_TEXT(err.message, "GGUF: tensor \"rope_factors_short.weight\": expected a vector of F32 and its bytes, found 4 bytes");
  hd_directory_free(d);
  hd_bytes_free(file);
  d = make("{" BASE("phi3") "}", "[{\"name\":\"rope_factors_long.weight\",\"shape\":[2]}]", 2, &file, &n);
  CHECK(hd_directory_config(&json, d, factors, 2 * sizeof *factors, &err) == HD_BAD_FILE && !json);
  CHECK_EQ_TEXT(err.message, "GGUF: tensor \"rope_factors_short.weight\": expected it beside \"rope_factors_long.weight\", found none");
  hd_directory_free(d);
  hd_bytes_free(file);
}

TEST(experts_and_other_kinds_are_described_by_their_own_words) {
  check_config("{" BASE("llama") ",\"llama.expert_count\":4,\"llama.expert_used_count\":2}", tensors, 40, HD_OK,
               "{\"model_type\":\"mixtral\"," SIZES ",\"num_local_experts\":4,\"num_experts\":4,\"num_experts_per_tok\":2,\"num_key_value_heads\":4,\"vocab_size\":5,\"tie_word_embeddings\":true}");
  check_config("{" BASE("llama") ",\"llama.expert_count\":0}", tensors, 40, HD_OK,
               "{\"model_type\":\"llama\"," SIZES ",\"num_key_value_heads\":4,\"vocab_size\":5,\"tie_word_embeddings\":true}");
  check_config("{" BASE("qwen3moe") ",\"qwen3moe.expert_count\":4,\"qwen3moe.expert_used_count\":2,\"qwen3moe.expert_feed_forward_length\":6}", tensors, 40, HD_OK,
               "{\"model_type\":\"qwen3_moe\"," SIZES ",\"num_local_experts\":4,\"num_experts\":4,\"num_experts_per_tok\":2,\"moe_intermediate_size\":6,\"num_key_value_heads\":4,\"vocab_size\":5,"
               "\"tie_word_embeddings\":true,\"norm_topk_prob\":true}");
  check_config("{" BASE("gpt2") ",\"gpt2.context_length\":64,\"gpt2.attention.layer_norm_epsilon\":0.5}", tensors, 40, HD_OK,
               "{\"model_type\":\"gpt2\",\"n_embd\":8,\"n_inner\":16,\"n_layer\":2,\"n_head\":4,\"n_positions\":64,\"layer_norm_epsilon\":0.5,\"vocab_size\":5,\"tie_word_embeddings\":true}");
  check_config("{" BASE("bert") ",\"bert.context_length\":64}", "[{\"name\":\"token_embd.weight\",\"shape\":[5,8]},{\"name\":\"token_types.weight\",\"shape\":[3,8]}]", 64, HD_OK,
               "{\"model_type\":\"bert\"," SIZES ",\"max_position_embeddings\":64,\"vocab_size\":5,\"type_vocab_size\":3,\"tie_word_embeddings\":true,\"architectures\":[\"BertForMaskedLM\"]}");
}

TEST(a_description_that_cannot_be_made_is_refused) {
  check_config("{}", tensors, 40, HD_BAD_FILE, "GGUF: general.architecture: expected a text, found none: nothing says what the tensors are");
  check_config("{\"general.architecture\":\"t5\"}", tensors, 40, HD_UNSUPPORTED,
               "GGUF: general.architecture \"t5\" is not known; known: llama, smollm3, qwen2, qwen3, qwen3moe, phi3, gemma, gemma2, gemma3, gpt2, bert");
  check_config("{\"general.architecture\":\"llama\"}", tensors, 40, HD_BAD_FILE, "GGUF: llama.embedding_length: expected one number, found none");
  check_config("{\"general.architecture\":\"llama\",\"llama.embedding_length\":[8,9]}", tensors, 40, HD_UNSUPPORTED,
               "GGUF: llama.embedding_length: expected one number, found [8,9]");
  check_config("{\"general.architecture\":\"llama\",\"llama.embedding_length\":1e999}", tensors, 40, HD_UNSUPPORTED,
               "GGUF: llama.embedding_length: expected one number, found 1e999");
  check_config("{" BASE("llama") "}", "[{\"name\":\"blk.0.ffn_gate_exps.weight\",\"shape\":[2,2,2]}]", 8, HD_BAD_FILE,
               "GGUF: llama.expert_count: expected the number of experts that the tensors are of, found none");
  check_config("{" BASE("qwen3") ",\"qwen3.expert_count\":4}", tensors, 40, HD_UNSUPPORTED, "GGUF: qwen3.expert_count: experts of qwen3 are not built");
  check_config("{" BASE("llama") ",\"llama.expert_count\":4}", tensors, 40, HD_BAD_FILE, "GGUF: llama.expert_used_count: expected one number, found none");
  check_config("{" BASE("qwen3moe") "}", tensors, 40, HD_BAD_FILE, "GGUF: qwen3moe.expert_count: expected one number, found none");
  check_config("{" BASE("qwen3moe") ",\"qwen3moe.expert_count\":4,\"qwen3moe.expert_gating_func\":2}", tensors, 40, HD_UNSUPPORTED,
               "GGUF: qwen3moe.expert_gating_func: expected 1 (softmax), found 2");
  check_config("{" BASE("qwen3moe") ",\"qwen3moe.expert_count\":4}", "[{\"name\":\"blk.0.ffn_gate_shexp.weight\",\"shape\":[2,2]}]", 4, HD_UNSUPPORTED,
               "GGUF: tensor \"blk.0.ffn_gate_shexp.weight\": experts that all rows share are not built");
  check_config("{" BASE("phi3") ",\"phi3.rope.scaling.type\":\"yarn\"}", "[{\"name\":\"rope_factors_long.weight\",\"shape\":[2]}]", 2, HD_UNSUPPORTED,
               "GGUF: phi3.rope.scaling.type: expected longrope for rope_factors_long.weight, found \"yarn\"");
  check_config("{" BASE("bert") ",\"bert.context_length\":64}", "[{\"name\":\"cls.output.weight\",\"shape\":[2]}]", 2, HD_UNSUPPORTED,
               "GGUF: tensor \"cls.output.weight\": classifiers are not read from GGUF files");
  check_config("{" BASE("llama") ",\"llama.attention.key_length\":4,\"llama.attention.value_length\":2}", tensors, 40, HD_UNSUPPORTED,
               "GGUF: values of 2 a head beside keys of 4 are not built");
}

TEST(safetensors_describe_nothing) {
  char *json = (char *)1;
  hd_directory *d;
  CHECK(hd_directory_read(&d, "\x02\0\0\0\0\0\0\0{}", 10, 10, NULL) == HD_OK);
  CHECK(hd_directory_config(&json, d, NULL, 0, NULL) == HD_OK && json == NULL);
  CHECK(hd_directory_config_tensor(d, 0) == NULL);
  hd_directory_free(d);
}

/* Two heads of six rows: row 2i + p of a head is row p · 3 + i. */
TEST(halves_are_parted_and_interleaved) {
  static const uint8_t file[12] = {0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 15}, halves[12] = {0, 2, 4, 1, 3, 5, 10, 12, 14, 11, 13, 15};
  uint8_t to[12], back[12];
  hd_gguf_part_halves(to, file, 12, 6, 1);
  CHECK_EQ_BITS(to, halves, 12);
  hd_gguf_interleave_halves(back, to, 12, 6, 1);
  CHECK_EQ_BITS(back, file, 12);
  static const uint8_t wide[8] = {1, 2, 3, 4, 5, 6, 7, 8}, parted[8] = {1, 2, 5, 6, 3, 4, 7, 8};
  hd_gguf_part_halves(to, wide, 4, 4, 2);
  CHECK_EQ_BITS(to, parted, 8);
}

TEST(gguf_written_without_memory_leaks_nothing) {
  static const char metadata[] = "{\"a\":[1,2],\"b\":\"text\",\"c\":{\"type\":\"f32\",\"value\":[1]}}";
  size_t n = 0, n_file, before = hd_memory_live();
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 200; n++) {
    uint8_t *file;
    hd_error err = {0};
    hd_memory_fail_after(n);
    status = hd_gguf_serialize(&file, &n_file, tensors, strlen(tensors), zeros, 40, metadata, strlen(metadata), &err);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(status == HD_OK || (status == HD_OUT_OF_MEMORY && *err.message && !file));
    hd_bytes_free(file);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 8);
}

TEST(gguf_refuses_to_write_what_comes_twice) {
  uint8_t *file;
  size_t n;
  hd_error err = {0};
  static const char two[] = "[{\"name\":\"a\",\"shape\":[1]},{\"name\":\"a\",\"shape\":[1]}]";
  CHECK(hd_gguf_serialize(&file, &n, two, strlen(two), zeros, 2, NULL, 0, &err) == HD_BAD_ARGUMENT && !file);
  CHECK_EQ_TEXT(err.message, "tensor \"a\": expected every name once, found it twice");
  static const char keys[] = "{\"k\":1,\"k\":2}";
  CHECK(hd_gguf_serialize(&file, &n, tensors, strlen(tensors), zeros, 40, keys, strlen(keys), &err) == HD_BAD_ARGUMENT && !file);
}

/* Llama 3.1's factors for heads of 8, as transformers' rule gives them: 8192/8 positions make the wavelengths of the middle. */
TEST(llama3_rotary_factors_are_a_tensor) {
  static const char text[] = "{\"model_type\":\"llama\",\"hidden_size\":16,\"num_attention_heads\":2,\"rope_theta\":500000,\"rope_scaling\":{\"rope_type\":\"llama3\","
                             "\"factor\":8,\"low_freq_factor\":1,\"high_freq_factor\":4,\"original_max_position_embeddings\":8192}}";
  cJSON *node = NULL;
  hd_status status = HD_OK;
  hd_error err = {0};
  hd_gguf_names names;
  hd_arena arena = {0};
  hd_gguf_factors factors[HD_GGUF_MOST_FACTORS];
  size_t n;
  CHECK(hd_json_parse(&node, text, strlen(text), &err) == HD_OK);
  hd_json config = hd_json_root(node, "config.json", &status, &err);
  CHECK(hd_gguf_names_of_config(&names, &config, &err) == HD_OK);
  CHECK(hd_gguf_rope_factors(factors, &n, &arena, &names, &config, &err) == HD_OK && n == 1 && factors[0].n == 4 && strcmp(factors[0].tensor, "rope_freqs.weight") == 0);
  /* Wavelengths 2π·500000^(d/4): 6.3, 167, 4443, 118143; 8192 / 4443 = 1.844 is (1.844 − 1) / 3 = 0.2813 of the way. */
  static const double want[4] = {1, 1, 1 / ((1 - 0.28131) / 8 + 0.28131), 8};
  for (size_t d = 0; d < 4; d++) CHECK_NEAR(factors[0].values[d], want[d], 0, 1e-4);
  hd_arena_free(&arena);
  cJSON_Delete(node);
}

/* A file that says no head count its rows could be turned by is refused by every call that reads it, not by the first alone. */
TEST(head_counts_that_are_none_are_refused_again_and_again) {
  static const char metadata[] = "{\"general.architecture\":\"llama\",\"llama.attention.head_count\":\"two\"}", list[] = "[{\"name\":\"blk.0.attn_q.weight\",\"shape\":[8,8]}]",
                    config[] = "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"vocab_size\":4}";
  uint8_t *file;
  size_t n;
  uint64_t bytes;
  hd_error err = {0};
  hd_loader *loader;
  hd_directory *d = make(metadata, list, 64, &file, &n);
  CHECK(hd_loader_new(&loader, HD_F32, &err) == HD_OK && hd_loader_describe(loader, config, strlen(config), &err) == HD_OK);
  for (int i = 0; i < 4; i++) {
    CHECK((i % 2 ? hd_loader_add(loader, d, &err) : hd_loader_estimate(&bytes, loader, d, &err)) == HD_UNSUPPORTED);
    CHECK_EQ_TEXT(err.message, "GGUF: llama.attention.head_count: expected a whole number, found \"two\"");
  }
  hd_loader_free(loader);
  hd_directory_free(d);
  hd_bytes_free(file);
}

/* However small the room is, nothing is written behind it. */
TEST(the_list_of_architectures_ends_where_its_room_does) {
  char whole[256], room[256];
  hd_gguf_list(whole, sizeof whole);
  for (size_t n = 1; n < sizeof room; n++) {
    memset(room, '!', sizeof room);
    hd_gguf_list(room, n);
    CHECK(strlen(room) == (strlen(whole) < n ? strlen(whole) : n - 1) && strncmp(room, whole, strlen(room)) == 0);
    for (size_t i = n; i < sizeof room; i++) CHECK(room[i] == '!');
  }
}
