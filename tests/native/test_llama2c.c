/* llama2.c's checkpoints: both versions' headers and orders of weights, every refusal, and that nothing else is taken for one. The published ones:
 * tests/node/llama2c.test.mjs. */
#include "base/dtype.h"
#include "base/memory.h"
#include "format/format.h"
#include "test.h"

enum { DIM = 8, HIDDEN = 6, LAYERS = 2, HEADS = 4, KV_HEADS = 2, VOCABULARY = 5, CONTEXT = 10, MOST = 1 << 14 };

static uint8_t file[MOST];

static void put(size_t at, int32_t value) {
  for (int i = 0; i < 4; i++) file[at + (size_t)i] = (uint8_t)((uint32_t)value >> (8 * i));
}

static void put_numbers(size_t at, int32_t vocabulary) {
  const int32_t numbers[] = {DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, vocabulary, CONTEXT};
  for (size_t i = 0; i < 7; i++) put(at + 4 * i, numbers[i]);
}

/* Floats of the weights without a head of its own: embedding, three norms, attention, feed-forward. */
enum { WEIGHTS = VOCABULARY * DIM + LAYERS * (2 * DIM) + DIM + LAYERS * (2 * DIM * DIM + 2 * (DIM / 2) * DIM) + LAYERS * 3 * DIM * HIDDEN, TABLES = CONTEXT * (DIM / HEADS) };

static size_t version_0(int32_t vocabulary) {
  memset(file, 0, sizeof file);
  put_numbers(0, vocabulary);
  return 28 + 4 * (size_t)(WEIGHTS + TABLES + (vocabulary < 0 ? VOCABULARY * DIM : 0));
}

static size_t version_1(int32_t version, uint8_t shared) {
  memset(file, 0, sizeof file);
  memcpy(file, "24ka", 4);
  put(4, version);
  put_numbers(8, VOCABULARY);
  file[36] = shared;
  return 256 + 4 * (size_t)(WEIGHTS + (shared ? 0 : VOCABULARY * DIM));
}

static void check_tensor(const hd_directory *d, const char *name, size_t rows, size_t cols, uint64_t begin) {
  const hd_entry *e = hd_directory_find(d, name);
  if (!CHECK(e != NULL)) printf("# %s\n", name);
  if (!e) return;
  bool shaped = e->dtype == HD_F32 && e->n_dims == (rows ? 2 : 1) && e->shape[0] == (rows ? rows : cols) && (!rows || e->shape[1] == cols);
  bool same = shaped && e->begin == begin && e->end == begin + 4 * (rows ? rows : 1) * cols;
  if (!CHECK(same)) printf("# %s at %" PRIu64 ", expected %" PRIu64 "\n", name, e->begin, begin);
}

TEST(version_0_has_its_weights_in_order_with_tables_before_a_head_of_its_own) {
  hd_directory *d = NULL;
  for (int own = 0; own < 2; own++) {
    size_t n = version_0(own ? -VOCABULARY : VOCABULARY);
    CHECK(hd_directory_read(&d, file, n, n, NULL) == HD_OK);
    CHECK_EQ_TEXT(hd_directory_format(d), "llama2.c");
    CHECK(hd_directory_count(d) == 9 * LAYERS + 2 + (size_t)own);
    check_tensor(d, "token_embd.weight", VOCABULARY, DIM, 28);
    check_tensor(d, "blk.0.attn_norm.weight", 0, DIM, 28 + 160);
    check_tensor(d, "blk.1.attn_norm.weight", 0, DIM, 28 + 192);
    check_tensor(d, "blk.0.attn_q.weight", DIM, DIM, 28 + 224);
    check_tensor(d, "blk.1.attn_k.weight", DIM / 2, DIM, 28 + 224 + 512 + 128);
    check_tensor(d, "blk.0.ffn_norm.weight", 0, DIM, 28 + 224 + 512 + 256 + 256 + 512);
    check_tensor(d, "blk.0.ffn_gate.weight", HIDDEN, DIM, 28 + 1824);
    check_tensor(d, "blk.0.ffn_down.weight", DIM, HIDDEN, 28 + 1824 + 384);
    check_tensor(d, "blk.1.ffn_up.weight", HIDDEN, DIM, 28 + 1824 + 768 + 192);
    check_tensor(d, "output_norm.weight", 0, DIM, 28 + 1824 + 1152);
    if (own) check_tensor(d, "output.weight", VOCABULARY, DIM, 28 + 1824 + 1152 + 32 + 4 * TABLES);
    else CHECK(!hd_directory_find(d, "output.weight"));
    hd_directory_free(d);
  }
}

TEST(version_1_has_norms_first_and_no_tables) {
  hd_directory *d = NULL;
  for (uint8_t shared = 0; shared < 2; shared++) {
    size_t n = version_1(1, shared);
    CHECK(hd_directory_read(&d, file, n, n, NULL) == HD_OK);
    check_tensor(d, "blk.1.ffn_norm.weight", 0, DIM, 256 + 96);
    check_tensor(d, "output_norm.weight", 0, DIM, 256 + 128);
    check_tensor(d, "token_embd.weight", VOCABULARY, DIM, 256 + 160);
    check_tensor(d, "blk.1.attn_q.weight", DIM, DIM, 256 + 320 + 256);
    check_tensor(d, "blk.1.ffn_up.weight", HIDDEN, DIM, 256 + 320 + 1536 + 768 + 192);
    if (!shared) check_tensor(d, "output.weight", VOCABULARY, DIM, 256 + 320 + 1536 + 1152);
    else CHECK(!hd_directory_find(d, "output.weight"));
    hd_directory_free(d);
  }
}

/* Codes, a float for each group of two behind them. */
TEST(version_2_has_codes_and_scales) {
  hd_directory *d = NULL;
  version_1(2, 0);
  put(37, 2);
  size_t n = 256 + 160 + 3 * ((size_t)WEIGHTS + VOCABULARY * DIM - 40); /* 40 of the weights are in norms */
  CHECK(hd_directory_read(&d, file, n, n, NULL) == HD_OK);
  check_tensor(d, "output_norm.weight", 0, DIM, 256 + 128);
  const hd_entry *codes = hd_directory_find(d, "blk.1.attn_k.weight");
  CHECK(codes && codes->dtype == HD_I8 && codes->n_dims == 2 && codes->shape[0] == 4 && codes->shape[1] == 8 && codes->end == codes->begin + 32 && codes->begin == 256 + 160 + 120 + 384 + 96);
  check_tensor(d, "blk.1.attn_k.scales", 4, 4, 256 + 160 + 120 + 384 + 96 + 32);
  check_tensor(d, "output.scales", VOCABULARY, 4, n - 80);
  hd_directory_free(d);
}

/* Of a model with as many heads for keys, from the file: a scale for each `group` codes. */
static hd_model *load_version_2(size_t n, hd_dtype become, size_t piece) {
  hd_directory *d = NULL;
  hd_loader *loader = NULL;
  hd_model *model = NULL;
  hd_error err = {0};
  char *json = NULL;
  hd_status status = hd_directory_read(&d, file, n, n, &err);
  if (status == HD_OK) status = hd_directory_config(&json, d, NULL, 0, &err);
  if (status == HD_OK) status = hd_loader_new(&loader, become, &err);
  if (status == HD_OK) status = hd_loader_describe(loader, json, strlen(json), &err);
  if (status == HD_OK) status = hd_loader_add(loader, d, &err);
  for (int scales = 1; scales >= 0; scales--)
    for (size_t i = 0; status == HD_OK && i < hd_loader_count(loader); i++) {
      bool wanted;
      const hd_entry *e = hd_loader_tensor(loader, i, &wanted);
      if ((strstr(e->name, ".scales") != NULL) != (scales == 1)) continue;
      status = hd_tensor_begin(loader, i, &err);
      for (uint64_t at = e->begin; status == HD_OK && at < e->end; at += piece)
        status = hd_tensor_write(loader, file + at, e->end - at < piece ? (size_t)(e->end - at) : piece, &err);
      if (status == HD_OK) status = hd_tensor_end(loader, &err);
    }
  if (status == HD_OK) status = hd_loader_finish(&model, loader, &err);
  if (!CHECK(status == HD_OK)) printf("# %s\n", err.message);
  hd_text_free(json);
  hd_loader_free(loader);
  hd_directory_free(d);
  return model;
}

enum { WIDE = 8, DEEP = 16 }; /* widths that groups of a row's length make */

/* Every code of a matrix is its row's number, from 1, and every scale a half. */
static size_t put_rows(size_t at, size_t rows, size_t cols, size_t group) {
  for (size_t i = 0; i < rows * cols; i++) file[at + i] = (uint8_t)(1 + i / cols);
  at += rows * cols;
  for (size_t i = 0; i < rows * cols / group; i++, at += 4) put(at, 0x3F000000);
  return at;
}

static size_t version_2(int32_t group) {
  const int32_t numbers[] = {WIDE, DEEP, 1, 2, 2, VOCABULARY, CONTEXT};
  const size_t shapes[][2] = {{VOCABULARY, WIDE}, {WIDE, WIDE}, {WIDE, WIDE}, {WIDE, WIDE}, {WIDE, WIDE}, {DEEP, WIDE}, {WIDE, DEEP}, {DEEP, WIDE}};
  size_t at = 256 + 3 * WIDE * sizeof(float);
  version_1(2, 1);
  for (size_t i = 0; i < 7; i++) put(8 + 4 * i, numbers[i]);
  put(37, group);
  for (size_t i = 0; i < 8; i++) at = put_rows(at, shapes[i][0], shapes[i][1], (size_t)group);
  return at;
}

/* Heads of four rows: rotary positions turn neighbouring rows in the file, and a row and the second behind it in the model. What the rows are kept as
 * (a scale for each row: INT8) must not matter. */
TEST(version_2_has_the_rows_of_heads_in_order_whatever_its_groups_are) {
  static const float turned[WIDE] = {0.5f, 1.5f, 1, 2, 2.5f, 3.5f, 3, 4}, straight[WIDE] = {0.5f, 1, 1.5f, 2, 2.5f, 3, 3.5f, 4};
  static const struct { const char *name; const float *rows; } weights[] = {{"q", turned}, {"k", turned}, {"v", straight}, {"o", straight}};
  static const struct { int32_t group; hd_dtype become; } ways[] = {{2, HD_F32}, {4, HD_F32}, {WIDE, HD_F32}, {WIDE, HD_DTYPE_COUNT}, {WIDE, HD_INT8}};
  for (size_t i = 0; i < 2 * sizeof ways / sizeof *ways; i++) {
    size_t n = version_2(ways[i / 2].group);
    hd_model *model = load_version_2(n, ways[i / 2].become, i % 2 ? 5 : n);
    for (size_t w = 0; model && w < 4; w++) {
      char name[64];
      float values[WIDE * WIDE] = {0};
      snprintf(name, sizeof name, "model.layers.0.self_attn.%s_proj.weight", weights[w].name);
      CHECK(hd_model_read_weight(model, name, values, WIDE * WIDE, NULL) == HD_OK);
      for (size_t v = 0; v < WIDE * WIDE; v++)
        if (!CHECK(values[v] == weights[w].rows[v / WIDE])) printf("# groups of %d as %s, %s, row %zu: %g\n", ways[i / 2].group, hd_dtype_name(ways[i / 2].become), name, v / WIDE, (double)values[v]);
    }
    hd_model_free(model, NULL);
  }
}

TEST(it_describes_itself_as_a_llama) {
  hd_directory *d;
  hd_error err = {0};
  char *json;
  size_t n = version_1(1, 0);
  CHECK(hd_directory_read(&d, file, n, n, NULL) == HD_OK);
  CHECK(hd_directory_config(&json, d, NULL, 0, &err) == HD_OK);
  CHECK_EQ_TEXT(json ? json : err.message,
                "{\"model_type\":\"llama\",\"hidden_size\":8,\"intermediate_size\":6,\"num_hidden_layers\":2,\"num_attention_heads\":4,\"num_key_value_heads\":2,\"max_position_embeddings\":10,"
                "\"rms_norm_eps\":1e-05,\"rope_theta\":10000.0,\"vocab_size\":5,\"tie_word_embeddings\":false,\"bos_token_id\":1,\"eos_token_id\":[2,1]}");
  hd_text_free(json);
  hd_directory_free(d);
}

static void check_refused(size_t n, size_t held, hd_status code, const char *message) {
  hd_directory *d;
  hd_error err = {0};
  size_t before = hd_memory_live();
  CHECK(hd_directory_read(&d, file, held, n, &err) == code && !d);
  CHECK_EQ_TEXT(err.message, message);
  CHECK(hd_memory_live() == before);
}

TEST(what_is_broken_is_refused_with_what_was_expected) {
  size_t n = version_1(1, 1);
  check_refused(n + 1, n, HD_BAD_FILE, "llama2.c: expected 3264 bytes by the sizes in its header, found 3265");
  check_refused(n - 1, n - 1, HD_BAD_FILE, "llama2.c: expected 3264 bytes by the sizes in its header, found 3263");
  check_refused(200, 200, HD_BAD_FILE, "llama2.c: expected a header of 256 bytes, found a file of 200");
  version_1(3, 1);
  check_refused(n, n, HD_UNSUPPORTED, "llama2.c: byte 4: expected version 1 or 2, found 3");
  version_1(-7, 1);
  check_refused(n, n, HD_UNSUPPORTED, "llama2.c: byte 4: expected version 1 or 2, found -7");
  version_1(2, 1);
  check_refused(n, n, HD_BAD_FILE, "llama2.c: byte 37: expected groups that rows of 8 and 6 are made of, found 0");
  put(37, 4);
  check_refused(n, n, HD_UNSUPPORTED, "llama2.c: byte 37: expected groups that rows of 8 and 6 are made of, found 4");
  put(37, -2);
  check_refused(n, n, HD_BAD_FILE, "llama2.c: byte 37: expected groups that rows of 8 and 6 are made of, found -2");
  static const struct { size_t number; int32_t value; } broken[] = {
      {0, 0}, {0, -8}, {0, 1 << 21}, {0, 9}, {1, 0}, {1, INT32_MAX}, {2, 0}, {2, 4097}, {3, 3}, {3, 0}, {3, 8}, {4, 0}, {4, 3}, {4, 8}, {5, -5}, {5, INT32_MIN}, {6, 0}, {6, INT32_MAX}};
  for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
    char want[200];
    int32_t numbers[] = {DIM, HIDDEN, LAYERS, HEADS, KV_HEADS, VOCABULARY, CONTEXT};
    numbers[broken[i].number] = broken[i].value;
    version_1(1, 1);
    put(8 + 4 * broken[i].number, broken[i].value);
    snprintf(want, sizeof want, "llama2.c: byte 8: expected a Llama's sizes, found %d wide, %d hidden, %d layers, %d heads, %d of them for keys, %d tokens, %d positions",
             numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]);
    check_refused(n, n, HD_BAD_FILE, want);
  }
}

/* The largest sizes that are read at all: nothing overflows, and no such file is here. 256 + 4 · (4096 · 7 · 2^40 + 2 · 2^44 + 4096 · 2 · 2^20 + 2^20). */
TEST(sizes_as_large_as_may_be_are_counted) {
  size_t n = version_1(1, 0);
  const int32_t numbers[] = {1 << 20, 1 << 20, 4096, 1, 1, 1 << 24, 1 << 24};
  for (size_t i = 0; i < 7; i++) put(8 + 4 * i, numbers[i]);
  check_refused(n, n, HD_BAD_FILE, "llama2.c: expected 126241561418662144 bytes by the sizes in its header, found 3424");
}

TEST(version_0_is_told_by_its_size_alone) {
  hd_directory *d;
  hd_error err;
  size_t n = version_0(VOCABULARY);
  CHECK(hd_directory_read(&d, file, n - 1, n - 1, &err) != HD_OK && !d && !strstr(err.message, "llama2.c:"));
  CHECK(hd_directory_read(&d, file, n, n + 1, &err) != HD_OK && !d && !strstr(err.message, "llama2.c:"));
  put(8, -2);
  CHECK(hd_directory_read(&d, file, n, n, &err) != HD_OK && !d && !strstr(err.message, "llama2.c:"));
}

TEST(without_memory_it_leaks_nothing) {
  size_t n = version_0(-VOCABULARY), before = hd_memory_live(), k = 0;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && k < 1000; k++) {
    hd_directory *d;
    hd_memory_fail_after(k);
    status = hd_directory_read(&d, file, n, n, NULL);
    hd_memory_fail_after(SIZE_MAX);
    CHECK((d != NULL) == (status == HD_OK));
    hd_directory_free(d);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && k > 5);
}
