/* graph/loader.c: what weights become on their way in. Every dtype a file may have, streamed in pieces into every dtype a weight may become;
 * what gives way to what, and that the description says so. Directories are made here: block dtypes come from other formats than SafeTensors. */
#include "golden.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/graph.h"

/* A linear before another, so that it is not the head. */
static const char two_linears[] =
    "{\"dialect\":\"standard\",\"input_shape\":[1,%zu],\"layers\":[{\"type\":\"linear\",\"name\":\"l\",\"in_features\":%zu,\"out_features\":%zu,\"bias\":false},"
    "{\"type\":\"linear\",\"name\":\"head\",\"in_features\":%zu,\"out_features\":32,\"bias\":false}]}";

typedef struct stored {
  const char *name;
  hd_dtype dtype;
  size_t rows, cols;
  const unsigned char *bytes;
  size_t n;
} stored;

static hd_directory *directory_of(const stored *tensors, size_t n) {
  uint64_t at = 10;
  hd_error err;
  hd_directory *d = hd_directory_new("SafeTensors", UINT64_MAX);
  CHECK(d != NULL);
  for (size_t i = 0; i < n; i++) {
    hd_entry e = {.name = tensors[i].name, .dtype = tensors[i].dtype, .n_dims = 2, .shape = {tensors[i].rows, tensors[i].cols}, .begin = at, .end = at + tensors[i].n};
    at = e.end;
    CHECK(hd_directory_append(d, &e, &err) == HD_OK);
  }
  CHECK(hd_directory_seal(d, &err) == HD_OK);
  return d;
}

static hd_status stream(hd_loader *loader, const stored *tensors, size_t piece, hd_error *err) {
  for (size_t i = 0; i < hd_loader_count(loader); i++) {
    HD_TRY(hd_tensor_begin(loader, i, err));
    for (size_t at = 0; at < tensors[i].n; at += piece)
      HD_TRY(hd_tensor_write(loader, tensors[i].bytes + at, tensors[i].n - at < piece ? tensors[i].n - at : piece, err));
    HD_TRY(hd_tensor_end(loader, err));
  }
  return HD_OK;
}

/* NULL after a failure, whose message is printed. */
static hd_model *load(const char *config, const stored *tensors, size_t n, hd_dtype become, size_t piece) {
  hd_error err = {0};
  hd_loader *loader = NULL;
  hd_model *model = NULL;
  hd_directory *d = directory_of(tensors, n);
  hd_status status = hd_loader_new(&loader, become, &err);
  if (status == HD_OK) status = hd_loader_describe(loader, config, strlen(config), &err);
  uint64_t bytes = 0;
  if (status == HD_OK) status = hd_loader_estimate(&bytes, loader, d, &err);
  CHECK(status != HD_OK || bytes > 0);
  if (status == HD_OK) status = hd_loader_add(loader, d, &err);
  if (status == HD_OK) status = stream(loader, tensors, piece, &err);
  if (status == HD_OK) status = hd_loader_finish(&model, loader, &err);
  if (!CHECK(status == HD_OK)) printf("# %s\n", err.message);
  hd_loader_free(loader);
  hd_directory_free(d);
  return model;
}

static const hd_parameter *weight(const hd_model *model, const char *name) {
  int index = model ? hd_parameter_find(model, name) : -1;
  return CHECK(index >= 0) ? &model->parameters[index] : NULL;
}

static void check_values(const hd_model *model, const char *name, const float *values, size_t n, const char *what) {
  hd_error err;
  float *is = malloc(n * sizeof *is);
  if (CHECK(model && hd_model_read_weight(model, name, is, n, &err) == HD_OK) && !CHECK_EQ_BITS(is, values, n * sizeof *is)) printf("# in %s\n", what);
  free(is);
}

static void check_became(const hd_model *model, const char *name, hd_dtype file, hd_dtype is, bool lossy, const char *reason) {
  const hd_parameter *p = weight(model, name);
  if (!p) return;
  CHECK_EQ_TEXT(hd_dtype_name(p->file_dtype), hd_dtype_name(file));
  CHECK_EQ_TEXT(hd_dtype_name(p->value.layout->dtype), hd_dtype_name(is));
  CHECK(p->lossy == lossy);
  CHECK_EQ_TEXT(p->reason, reason);
}

static char config[600];

static const char *config_of(size_t rows, size_t cols) {
  snprintf(config, sizeof config, two_linears, cols, cols, rows, rows);
  return config;
}

/* The golden blocks of a type as the weight "l.weight", and a head of Q8_0 that plays no part. */
typedef struct example {
  golden_file file;
  unsigned char *blocks, *head;
  float *values;
  size_t rows, cols, n;
  stored tensors[2];
} example;

static bool open_example(example *e, const char *type) {
  char path[100];
  size_t n_blocks, n_values, head_bytes;
  hd_dtype dtype = hd_dtype_find(type, strlen(type));
  snprintf(path, sizeof path, "tests/golden/quant/deq_%s.safetensors", type);
  if (!golden_open(&e->file, path)) return false;
  e->blocks = golden_tensor(&e->file, "blocks", &n_blocks);
  e->values = golden_tensor(&e->file, "values", &n_values);
  e->n = n_values / sizeof *e->values;
  e->rows = 6;
  e->cols = e->n / e->rows;
  head_bytes = 32 * e->rows * sizeof(float);
  e->head = calloc(1, head_bytes);
  e->tensors[0] = (stored){"l.weight", dtype, e->rows, e->cols, e->blocks, n_blocks};
  e->tensors[1] = (stored){"head.weight", HD_F32, 32, e->rows, e->head, head_bytes};
  return true;
}

static void close_example(example *e) {
  free(e->blocks);
  free(e->values);
  free(e->head);
  golden_close(&e->file);
}

static void discard(hd_model *model) {
  hd_error err;
  CHECK(hd_model_free(model, &err) == HD_OK);
}

/* 'keep': Q8_0 and Q4_0 as they are, all others Q8_0 of their exact values; f32: their exact values. */
static void check_blocks(const char *type) {
  example e = {0};
  if (!open_example(&e, type)) return;
  hd_dtype dtype = e.tensors[0].dtype;
  bool stays = dtype == HD_Q8_0 || dtype == HD_Q4_0;
  char reason[100];
  snprintf(reason, sizeof reason, "no kernel multiplies %s: became Q8_0", type);
  for (size_t piece = 1; piece < 5000; piece = piece * 7 + 6) {
    hd_model *kept = load(config_of(e.rows, e.cols), e.tensors, 2, HD_DTYPE_COUNT, piece);
    check_became(kept, "l.weight", dtype, stays ? dtype : HD_Q8_0, !stays, stays ? NULL : reason);
    unsigned char *blocks = malloc(e.n / 32 * 34);
    float *should = malloc(e.n * sizeof *should);
    hd_dtype_get(HD_Q8_0)->from_f32(e.values, blocks, e.n);
    hd_dtype_get(HD_Q8_0)->to_f32(blocks, should, e.n);
    check_values(kept, "l.weight", stays ? e.values : should, e.n, type);
    discard(kept);
    hd_model *wide = load(config_of(e.rows, e.cols), e.tensors, 2, HD_F32, piece);
    check_became(wide, "l.weight", dtype, HD_F32, false, NULL);
    check_values(wide, "l.weight", e.values, e.n, type);
    discard(wide);
    free(blocks);
    free(should);
  }
  close_example(&e);
}

TEST(ggml_blocks_stream_in_and_become_what_multiplies) {
  static const char *const types[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"};
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) check_blocks(types[i]);
}

/* An F32 tensor of random values. */
static stored random_tensor(const char *name, size_t rows, size_t cols) {
  return (stored){name, HD_F32, rows, cols, (unsigned char *)test_random_floats(rows * cols), rows * cols * sizeof(float)};
}

static void free_tensor(stored t) { free((void *)(uintptr_t)t.bytes); }

TEST(rows_that_fit_no_block_become_f16_and_say_why) {
  stored tensors[] = {random_tensor("l.weight", 5, 100), random_tensor("head.weight", 32, 5)};
  static const hd_dtype asked[] = {HD_Q8_0, HD_Q4_0};
  for (size_t i = 0; i < 2; i++) {
    hd_model *m = load(config_of(5, 100), tensors, 2, asked[i], 77);
    check_became(m, "l.weight", HD_F32, HD_F16, true, "row of 100 is no multiple of 32: became F16");
    check_became(m, "head.weight", HD_F32, HD_F16, true, "row of 5 is no multiple of 32: became F16");
    discard(m);
  }
  hd_model *m = load(config_of(5, 100), tensors, 2, HD_INT8, 77);
  check_became(m, "l.weight", HD_F32, HD_INT8, true, NULL);
  discard(m);
  free_tensor(tensors[0]);
  free_tensor(tensors[1]);
}

TEST(the_head_and_embeddings_keep_8_bits) {
  stored linears[] = {random_tensor("l.weight", 64, 32), random_tensor("head.weight", 32, 64)};
  hd_model *m = load(config_of(64, 32), linears, 2, HD_Q4_0, 1000);
  check_became(m, "l.weight", HD_F32, HD_Q4_0, true, NULL);
  check_became(m, "head.weight", HD_F32, HD_Q8_0, true, "the head: 8 bits at least, became Q8_0");
  discard(m);
  static const char embedded[] = "{\"dialect\":\"standard\",\"input_shape\":[3],\"input_dtype\":\"I32\",\"layers\":["
                                 "{\"type\":\"embedding\",\"name\":\"e\",\"vocab_size\":64,\"embedding_dim\":32},"
                                 "{\"type\":\"linear\",\"name\":\"head\",\"in_features\":32,\"out_features\":8,\"bias\":false}]}";
  stored tensors[] = {{"e.weight", HD_F32, 64, 32, linears[0].bytes, linears[0].n}, {"head.weight", HD_F32, 8, 32, linears[1].bytes, 8 * 32 * 4}};
  m = load(embedded, tensors, 2, HD_Q4_0, 1000);
  check_became(m, "e.weight", HD_F32, HD_Q8_0, true, "an embedding: 8 bits at least, became Q8_0");
  check_became(m, "head.weight", HD_F32, HD_Q8_0, true, "the head: 8 bits at least, became Q8_0");
  discard(m);
  free_tensor(linears[0]);
  free_tensor(linears[1]);
}

/* Every code of the small floats, through the loader as through the table, in a dtype that holds them. */
TEST(small_floats_become_f16_without_loss) {
  static const hd_dtype dtypes[] = {HD_F8_E4M3, HD_F8_E5M2, HD_F8_E4M3FNUZ, HD_F8_E5M2FNUZ, HD_F6_E2M3, HD_F6_E3M2, HD_F4, HD_I8, HD_U8};
  float head[32 * 16] = {0}, values[256];
  unsigned char codes[256];
  char reason[100];
  for (unsigned i = 0; i < 256; i++) codes[i] = (unsigned char)i;
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
    const hd_dtype_info *info = hd_dtype_get(dtypes[i]);
    stored tensors[] = {{"l.weight", dtypes[i], 16, 16, codes, 256 / info->block_values * info->block_bytes},
                        {"head.weight", HD_F32, 32, 16, (unsigned char *)head, sizeof head}};
    snprintf(reason, sizeof reason, "no kernel multiplies %s: became F16, which holds it exactly", info->name);
    info->to_f32(codes, values, 256);
    hd_model *m = load(config_of(16, 16), tensors, 2, HD_DTYPE_COUNT, 5);
    check_became(m, "l.weight", dtypes[i], HD_F16, false, reason);
    hd_error err;
    float is[256];
    if (CHECK(hd_model_read_weight(m, "l.weight", is, 256, &err) == HD_OK))
      for (size_t c = 0; c < 256; c++) CHECK(isnan(values[c]) ? isnan(is[c]) : memcmp(&is[c], &values[c], sizeof *is) == 0);
    discard(m);
  }
}

TEST(the_description_tells_what_a_file_had) {
  stored tensors[] = {random_tensor("l.weight", 5, 100), random_tensor("head.weight", 32, 5)};
  hd_model *m = load(config_of(5, 100), tensors, 2, HD_Q8_0, 4096);
  char *json = NULL;
  hd_error err;
  if (CHECK(hd_model_describe(&json, m, &err) == HD_OK))
    CHECK(strstr(json, "{\"name\":\"l.weight\",\"shape\":[5,100],\"dtype\":\"F16\",\"layout\":\"rows.f16.finite\",\"bytes\":1000,\"fileDtype\":\"F32\","
                       "\"lossy\":true,\"reason\":\"row of 100 is no multiple of 32: became F16\"}"));
  hd_text_free(json);
  discard(m);
  free_tensor(tensors[0]);
  free_tensor(tensors[1]);
}

TEST(c64_is_refused_by_name_where_a_weight_would_need_it) {
  unsigned char bytes[32 * 8] = {0};
  stored tensor = {"l.weight", HD_C64, 1, 32, bytes, sizeof bytes};
  const char *description = config_of(1, 32);
  hd_directory *d = directory_of(&tensor, 1);
  hd_loader *loader;
  hd_error err;
  CHECK(hd_loader_new(&loader, HD_DTYPE_COUNT, &err) == HD_OK);
  CHECK(hd_loader_describe(loader, description, strlen(description), &err) == HD_OK);
  CHECK(hd_loader_add(loader, d, &err) == HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "tensor l.weight: values of C64 cannot become float32");
  hd_loader_free(loader);
  hd_directory_free(d);
}

TEST(what_no_kernel_multiplies_is_no_target) {
  static const hd_dtype dtypes[] = {HD_F64, HD_I8, HD_Q4_K, HD_F8_E4M3, HD_C64, HD_MXFP4};
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
    hd_loader *loader;
    hd_error err;
    CHECK(hd_loader_new(&loader, dtypes[i], &err) == HD_UNSUPPORTED && loader == NULL);
  }
}

/* A layer's name is as long as somebody makes it; two experts' matrices lie in the file one by one. */
TEST(weights_of_long_names_are_found_in_parts_too) {
  enum { LONG = 3000, N = 7, VALUES = 4 };
  static const char *const endings[N] = {"gate.weight", "experts.0.gate_proj.weight", "experts.1.gate_proj.weight", "experts.0.up_proj.weight",
                                         "experts.1.up_proj.weight", "experts.0.down_proj.weight", "experts.1.down_proj.weight"};
  static char names[N][LONG + 40], all[LONG + 40], text[LONG + 400], layer[LONG + 1];
  static float values[N][VALUES];
  stored tensors[N];
  memset(layer, 'x', LONG);
  for (size_t i = 0; i < N; i++) {
    snprintf(names[i], sizeof names[i], "%s.%s", layer, endings[i]);
    for (size_t k = 0; k < VALUES; k++) values[i][k] = test_random_float();
    tensors[i] = (stored){names[i], HD_F32, 2, 2, (const unsigned char *)values[i], sizeof values[i]};
  }
  snprintf(text, sizeof text, "{\"dialect\":\"standard\",\"input_shape\":[1,2],\"layers\":[{\"type\":\"mixture_of_experts\",\"name\":\"%s\",\"d_model\":2,\"hidden_size\":2,"
           "\"num_experts\":2,\"num_experts_per_tok\":1}]}", layer);
  hd_model *model = load(text, tensors, N, HD_DTYPE_COUNT, 5);
  snprintf(all, sizeof all, "%s.experts.*.up_proj.weight", layer);
  check_values(model, all, values[3], 2 * VALUES, "both experts");
  discard(model);
}

TEST(a_tensor_that_is_not_there_is_none) {
  const stored tensor = {"l.weight", HD_F32, 6, 4, NULL, 96};
  hd_directory *d = directory_of(&tensor, 1);
  hd_loader *loader = NULL;
  hd_error err;
  bool wanted = true;
  CHECK(hd_loader_new(&loader, HD_DTYPE_COUNT, &err) == HD_OK && hd_loader_tensor(loader, 0, &wanted) == NULL && !wanted);
  const char *text = config_of(6, 4);
  CHECK(hd_loader_describe(loader, text, strlen(text), &err) == HD_OK && hd_loader_add(loader, d, &err) == HD_OK);
  CHECK(hd_loader_tensor(loader, 0, &wanted) != NULL && wanted && hd_loader_tensor(loader, 1, &wanted) == NULL && !wanted);
  hd_loader_free(loader);
  hd_directory_free(d);
}

/* ---- In which order ---- */

static hd_loader *new_loader(void) {
  hd_loader *loader = NULL;
  CHECK(hd_loader_new(&loader, HD_DTYPE_COUNT, NULL) == HD_OK);
  return loader;
}

static const char small_gpt2[] = "{\"model_type\":\"gpt2\",\"n_embd\":8,\"n_layer\":1,\"n_head\":2,\"vocab_size\":4,\"n_positions\":8}";

/* Another family's description, or one with packed weights, is not what the next one is read by. */
TEST(a_description_that_failed_leaves_nothing) {
  static const char *const broken[] = {"{\"model_type\":\"llama\",\"hidden_size\":\"x\"}", "{\"model_type\":\"llama\"",
                                       "{\"model_type\":\"llama\",\"quantization\":{\"group_size\":64,\"bits\":4}}", "{\"quantization\":{\"bits\":4},\"layers\":[{}]}"};
  hd_error err = {0};
  size_t before = hd_memory_live();
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    hd_loader *loader = new_loader();
    for (int again = 0; again < 2; again++) CHECK(hd_loader_describe(loader, broken[i], strlen(broken[i]), &err) != HD_OK);
    if (!CHECK(hd_loader_describe(loader, small_gpt2, strlen(small_gpt2), &err) == HD_OK)) printf("# %s\n", err.message);
    CHECK(hd_loader_describe(loader, small_gpt2, strlen(small_gpt2), &err) == HD_BAD_STATE);
    hd_loader_free(loader);
    CHECK(hd_memory_live() == before);
  }
}

TEST(a_description_without_memory_may_be_given_again) {
  hd_status status = HD_OUT_OF_MEMORY;
  size_t before = hd_memory_live();
  for (size_t n = 0; n < 1000 && status != HD_OK; n++) {
    hd_loader *loader = new_loader();
    hd_memory_fail_after(n);
    status = hd_loader_describe(loader, small_gpt2, strlen(small_gpt2), NULL);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(hd_loader_describe(loader, small_gpt2, strlen(small_gpt2), NULL) == (status == HD_OK ? HD_BAD_STATE : HD_OK));
    hd_loader_free(loader);
    if (!CHECK(hd_memory_live() == before)) printf("# after %zu allocations\n", n);
  }
  CHECK(status == HD_OK);
}

/* The model is somebody else's: nothing reaches into it any more, and no smaller one is taken for it. */
TEST(a_finished_loader_takes_nothing_more) {
  static const char smaller[] = "{\"layers\":[{\"type\":\"linear\",\"in_features\":1,\"out_features\":1,\"bias\":false}]}";
  stored tensors[] = {random_tensor("l.weight", 6, 4), random_tensor("head.weight", 32, 6)};
  hd_directory *d = directory_of(tensors, 2);
  const char *text = config_of(6, 4);
  hd_loader *loader = new_loader();
  hd_model *model = NULL, *again;
  hd_error err;
  uint64_t bytes;
  CHECK(hd_loader_describe(loader, text, strlen(text), &err) == HD_OK && hd_loader_add(loader, d, &err) == HD_OK);
  CHECK(stream(loader, tensors, 1000, &err) == HD_OK && hd_loader_finish(&model, loader, &err) == HD_OK);
  CHECK(hd_loader_describe(loader, smaller, strlen(smaller), &err) == HD_BAD_STATE);
  CHECK_EQ_TEXT(err.message, "the loader's model is finished; another needs another loader");
  CHECK(hd_loader_estimate(&bytes, loader, d, &err) == HD_BAD_STATE && hd_loader_add(loader, d, &err) == HD_BAD_STATE);
  CHECK(hd_tensor_begin(loader, 1, &err) == HD_BAD_STATE && hd_tensor_write(loader, "", 1, &err) == HD_BAD_STATE);
  CHECK(hd_loader_finish(&again, loader, &err) == HD_BAD_STATE && !again);
  CHECK(hd_loader_count(loader) == 0 && hd_loader_model(loader) == NULL);
  hd_loader_free(loader);
  hd_directory_free(d);
  check_values(model, "l.weight", (const float *)(const void *)tensors[0].bytes, 24, "the model");
  discard(model);
  for (size_t i = 0; i < 2; i++) free_tensor(tensors[i]);
}

/* The same for a config.json of an unknown type, which the loader keeps longer. */
TEST(a_finished_loader_of_a_guess_takes_nothing_more) {
  static const char unknown[] = "{\"model_type\":\"novel\",\"hidden_size\":4,\"intermediate_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":1,\"vocab_size\":4}";
  static const char *const names[] = {"embed_tokens", "norm", "layers.0.input_layernorm", "layers.0.post_attention_layernorm", "layers.0.self_attn.q_proj",
                                      "layers.0.self_attn.k_proj", "layers.0.self_attn.v_proj", "layers.0.self_attn.o_proj", "layers.0.mlp.gate_proj",
                                      "layers.0.mlp.up_proj", "layers.0.mlp.down_proj"};
  enum { N = sizeof names / sizeof *names };
  char full[N][80];
  float zeros[16] = {0};
  hd_error err = {0};
  size_t before = hd_memory_live();
  hd_directory *d = hd_directory_new("SafeTensors", UINT64_MAX);
  for (uint64_t i = 0; i < N; i++) {
    snprintf(full[i], sizeof full[i], "model.%s.weight", names[i]);
    bool vector = strstr(names[i], "norm") != NULL;
    const hd_entry e = {.name = full[i], .dtype = HD_F32, .n_dims = vector ? 1 : 2, .shape = {4, 4}, .begin = 64 * i, .end = 64 * i + (vector ? 16 : 64)};
    CHECK(hd_directory_append(d, &e, &err) == HD_OK);
  }
  CHECK(hd_directory_seal(d, &err) == HD_OK);
  hd_loader *loader = new_loader();
  hd_model *model = NULL;
  CHECK(hd_loader_describe(loader, unknown, strlen(unknown), &err) == HD_OK && hd_loader_add(loader, d, &err) == HD_OK);
  for (size_t i = 0; i < hd_loader_count(loader); i++) {
    size_t n = i < hd_directory_count(d) ? (size_t)(hd_directory_entry(d, i)->end - hd_directory_entry(d, i)->begin) : 0;
    CHECK(hd_tensor_begin(loader, i, &err) == HD_OK && hd_tensor_write(loader, zeros, n, &err) == HD_OK && hd_tensor_end(loader, &err) == HD_OK);
  }
  if (!CHECK(hd_loader_finish(&model, loader, &err) == HD_OK)) printf("# %s\n", err.message);
  CHECK(hd_loader_add(loader, d, &err) == HD_BAD_STATE && hd_loader_describe(loader, unknown, strlen(unknown), &err) == HD_BAD_STATE);
  hd_loader_free(loader);
  hd_directory_free(d);
  CHECK(hd_model_free(model, NULL) == HD_OK);
  CHECK(hd_memory_live() == before);
}

/* Loom's kernels may be missing from a file. One that is there is read, whole. */
TEST(a_weight_that_may_be_missing_is_whole_where_it_is_there) {
  static const char conv[] = "{\"dialect\":\"loom\",\"batch_size\":1,\"layers\":[{\"type\":\"conv1d\",\"name\":\"c\",\"activation\":\"linear\",\"input_channels\":1,\"filters\":1,"
                             "\"kernel_size\":2,\"stride\":1,\"input_length\":4}]}";
  static const float values[3] = {1, 2, 3};
  hd_error err = {0};
  for (int given = 0; given < 3; given++) { /* not at all, half, whole */
    hd_loader *loader = new_loader();
    hd_model *model = NULL;
    hd_directory *d = hd_directory_new("SafeTensors", UINT64_MAX);
    const hd_entry bias = {.name = "c.bias", .dtype = HD_F32, .n_dims = 1, .shape = {1}, .begin = 10, .end = 14},
                   kernel = {.name = "c.weight", .dtype = HD_F32, .n_dims = 3, .shape = {1, 1, 2}, .begin = 14, .end = 22};
    CHECK(hd_directory_append(d, &bias, &err) == HD_OK && (!given || hd_directory_append(d, &kernel, &err) == HD_OK) && hd_directory_seal(d, &err) == HD_OK);
    if (!CHECK(hd_loader_describe(loader, conv, strlen(conv), &err) == HD_OK && hd_loader_add(loader, d, &err) == HD_OK)) printf("# %s\n", err.message);
    CHECK(hd_tensor_begin(loader, 0, &err) == HD_OK && hd_tensor_write(loader, values, 4, &err) == HD_OK && hd_tensor_end(loader, &err) == HD_OK);
    if (given) CHECK(hd_tensor_begin(loader, 1, &err) == HD_OK && hd_tensor_write(loader, values + 1, 4 * (size_t)given, &err) == HD_OK);
    if (given == 2) CHECK(hd_tensor_end(loader, &err) == HD_OK);
    CHECK(hd_loader_finish(&model, loader, &err) == (given == 1 ? HD_BAD_FILE : HD_OK));
    if (given == 1) CHECK_EQ_TEXT(err.message, "the files lack 1 of the model's 2 weights, first c.weight of shape [1, 1, 2]");
    hd_loader_free(loader);
    hd_directory_free(d);
    CHECK(hd_model_free(model, NULL) == HD_OK);
  }
}

TEST(nothing_may_be_written_from_nowhere) {
  stored tensors[] = {random_tensor("l.weight", 6, 4), random_tensor("head.weight", 32, 6)};
  static const hd_dtype become[] = {HD_F32, HD_F16};
  const char *text = config_of(6, 4);
  hd_directory *d = directory_of(tensors, 2);
  for (size_t i = 0; i < 2; i++) {
    hd_loader *loader = NULL;
    hd_error err;
    CHECK(hd_loader_new(&loader, become[i], &err) == HD_OK && hd_loader_describe(loader, text, strlen(text), &err) == HD_OK);
    CHECK(hd_loader_add(loader, d, &err) == HD_OK && hd_tensor_begin(loader, 0, &err) == HD_OK);
    CHECK(hd_tensor_write(loader, NULL, 0, &err) == HD_OK && hd_tensor_write(loader, tensors[0].bytes, tensors[0].n, &err) == HD_OK);
    CHECK(hd_tensor_write(loader, NULL, 0, &err) == HD_OK && hd_tensor_end(loader, &err) == HD_OK);
    hd_loader_free(loader);
  }
  hd_directory_free(d);
  for (size_t i = 0; i < 2; i++) free_tensor(tensors[i]);
}
