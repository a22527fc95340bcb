/* format/packed.c and graph/packs.c: matrices that MLX keeps in several tensors, from files of its formulas: every mode bit for bit, what they become,
 * and what does not fit together. */
#include "golden.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/graph.h"

#define GOLDEN "tests/golden/quant/"

typedef struct packed_case {
  const char *file, *base, *values, *quantization; /* quantization: what config.json says; "" nothing */
  const char *packing;
  hd_dtype kept;
} packed_case;

#define AFFINE(bits, group, dtype)                                                                                                        \
  {"mlx_affine_" #bits "bit_g" #group "_" dtype, "l", "values", "{\"group_size\":" #group ",\"bits\":" #bits ",\"mode\":\"affine\"}",     \
   "affine, " #bits " bits, groups of " #group, HD_Q8_0}
#define FLOATS(file, mode, bits, group, dtype) \
  {file, "l", "values", "{\"group_size\":" #group ",\"bits\":" #bits ",\"mode\":\"" mode "\"}", mode ", " #bits " bits, groups of " #group, dtype}

static const packed_case cases[] = {
    AFFINE(2, 64, "f32"), AFFINE(3, 64, "f32"), AFFINE(4, 128, "f16"), AFFINE(4, 32, "f16"), AFFINE(4, 64, "bf16"),
    AFFINE(4, 64, "f32"), AFFINE(5, 32, "f16"), AFFINE(6, 64, "bf16"), AFFINE(8, 32, "f32"), AFFINE(8, 64, "bf16"),
    FLOATS("mxfp4_mlx", "mxfp4", 4, 32, HD_Q8_0), FLOATS("mxfp4_ocp", "mxfp4", 4, 32, HD_Q8_0), FLOATS("mxfp8_mlx", "mxfp8", 8, 32, HD_F16),
    FLOATS("mxfp8_ocp", "mxfp8", 8, 32, HD_F16), FLOATS("nvfp4_mlx", "nvfp4", 4, 16, HD_Q8_0), FLOATS("nvfp4_global", "nvfp4", 4, 16, HD_Q8_0),
    {"row_scaled", "sym8", "sym8.values", "{\"bits\":8,\"group_size\":null,\"mode\":\"sym8\"}", "sym8, a scale for each row", HD_INT8},
    {"row_scaled", "fp8", "fp8.values", "{\"bits\":8,\"group_size\":null,\"mode\":\"fp8_e4m3\"}", "fp8_e4m3, a scale for each row", HD_F16},
};
enum { N_CASES = sizeof cases / sizeof cases[0] };

static const char linear[] =
    "{\"dialect\":\"standard\",\"input_shape\":[1,%zu],%s%s%s\"layers\":[{\"type\":\"linear\",\"name\":\"%s\",\"in_features\":%zu,\"out_features\":%zu,\"bias\":false}]}";

static hd_status send(hd_loader *loader, size_t index, const golden_file *file, size_t piece, hd_error *err) {
  bool wanted;
  const hd_entry *e = hd_loader_tensor(loader, index, &wanted);
  HD_TRY(hd_tensor_begin(loader, index, err));
  for (uint64_t at = e->begin; at < e->end; at += piece) HD_TRY(hd_tensor_write(loader, file->bytes + at, e->end - at < piece ? (size_t)(e->end - at) : piece, err));
  return hd_tensor_end(loader, err);
}

/* Every wanted tensor, behind those it needs before it. */
static hd_status send_all(hd_loader *loader, const golden_file *file, size_t piece, hd_error *err) {
  size_t before[HD_MAX_BEFORE];
  HD_TRY(hd_loader_settle(loader, err));
  for (size_t i = 0; i < hd_loader_count(loader); i++) {
    size_t n = hd_loader_before(loader, i, before);
    for (size_t b = 0; b < n; b++) HD_TRY(send(loader, before[b], file, piece, err));
    if (n > 0) HD_TRY(send(loader, i, file, piece, err));
  }
  return HD_OK;
}

static hd_status load(hd_model **model, const golden_file *file, const char *spec, hd_dtype become, size_t piece, hd_error *err) {
  hd_loader *loader = NULL;
  *model = NULL;
  hd_status status = hd_loader_new(&loader, become, err);
  if (status == HD_OK) status = hd_loader_describe(loader, spec, strlen(spec), err);
  if (status == HD_OK) status = hd_loader_add(loader, file->directory, err);
  if (status == HD_OK) status = send_all(loader, file, piece, err);
  if (status == HD_OK) status = hd_loader_finish(model, loader, err);
  hd_loader_free(loader);
  return status;
}

static void spec_of(char room[1024], const golden_file *file, const packed_case *c, bool said) {
  const hd_entry *values = hd_directory_find(file->directory, c->values);
  if (!CHECK(values != NULL)) return;
  snprintf(room, 1024, linear, values->shape[1], said ? "\"quantization\":" : "", said ? c->quantization : "", said ? "," : "", c->base, values->shape[1], values->shape[0]);
}

static const hd_parameter *the_weight(const hd_model *model) { return &model->parameters[0]; }

static void check_case(const packed_case *c, bool said, hd_dtype become, size_t piece) {
  char path[512], spec[1024];
  golden_file file;
  hd_error err = {0};
  hd_model *model;
  size_t n;
  snprintf(path, sizeof path, GOLDEN "%s.safetensors", c->file);
  if (!golden_open(&file, path)) return;
  spec_of(spec, &file, c, said);
  if (!CHECK(load(&model, &file, spec, become, piece, &err) == HD_OK)) printf("# %s: %s\n", c->file, err.message);
  float *values = golden_tensor(&file, c->values, &n);
  if (model && values) {
    const hd_parameter *p = the_weight(model);
    float *is = malloc(n);
    CHECK_EQ_TEXT(p->packing, c->packing);
    CHECK(p->value.layout->dtype == (become == HD_DTYPE_COUNT && p->slot.shape[1] % hd_dtype_get(c->kept)->block_values == 0 ? c->kept : become == HD_DTYPE_COUNT ? HD_F16 : become));
    CHECK(p->lossy == (p->value.layout->dtype != HD_F32 && p->value.layout->dtype != HD_INT8));
    bool exact = !p->lossy;
    CHECK(hd_model_read_weight(model, p->name, is, n / sizeof *is, &err) == HD_OK);
    if (exact && !CHECK_EQ_BITS(is, values, n)) printf("# %s\n", c->file);
    free(is);
    CHECK(hd_model_free(model, &err) == HD_OK);
  }
  free(values);
  golden_close(&file);
}

TEST(F34_packed_matrices_are_their_formulas_bit_for_bit) {
  for (size_t i = 0; i < N_CASES; i++) {
    check_case(&cases[i], true, HD_F32, 7);
    check_case(&cases[i], false, HD_F32, 1 << 20); /* shapes say it all where the model knows its columns */
    check_case(&cases[i], true, HD_DTYPE_COUNT, 64);
  }
}

/* ---- What does not fit ---- */

static void refuses(const char *file_name, const char *base, size_t rows, size_t cols, const char *quantization, const char *expected) {
  char path[512], spec[1024];
  golden_file file;
  hd_error err = {0};
  hd_model *model;
  snprintf(path, sizeof path, GOLDEN "%s.safetensors", file_name);
  if (!golden_open(&file, path)) return;
  snprintf(spec, sizeof spec, linear, cols, *quantization ? "\"quantization\":" : "", quantization, *quantization ? "," : "", base, cols, rows);
  CHECK(load(&model, &file, spec, HD_F32, 1 << 20, &err) != HD_OK && model == NULL);
  CHECK_EQ_TEXT(err.message, expected);
  golden_close(&file);
}

TEST(what_does_not_fit_is_refused_with_what_was_said_and_found) {
  const char *f = "mlx_affine_4bit_g64_f32";
  refuses(f, "l", 3, 128, "{\"group_size\":64,\"bits\":8}",
          "tensor l.weight: rows of 128 values in 8 bits and groups of 64 (affine) do not fit codes of [3, 16] and scales of [3, 2]");
  refuses(f, "l", 3, 128, "{\"group_size\":32,\"bits\":4}",
          "tensor l.weight: rows of 128 values in 4 bits and groups of 32 (affine) do not fit codes of [3, 16] and scales of [3, 2]");
  refuses(f, "l", 3, 96, "", "tensor l.weight: rows of 96 values in 5 bits and groups of 48 (affine) do not fit codes of [3, 16] and scales of [3, 2]");
  refuses(f, "l", 4, 128, "", "tensor l.weight: the model wants shape [4, 128], the file has 3 packed rows");
  refuses(f, "l", 3, 128, "{\"group_size\":32,\"bits\":4,\"mode\":\"mxfp4\"}", "tensor l.scales: expected U8 for the scales of mxfp4, found F32 of [3, 2]");
  refuses(f, "l", 3, 128, "{\"group_size\":64,\"bits\":4,\"mode\":\"q4k\"}",
          "quantization.mode: 'q4k' is not built; known: affine, mxfp4, mxfp8, nvfp4, fp8_e4m3, sym8, sym8_groups");
  refuses(f, "l", 3, 128, "{\"group_size\":64,\"bits\":4,\"l\":{\"group_size\":64,\"bits\":2}}",
          "tensor l.weight: rows of 128 values in 2 bits and groups of 64 (affine) do not fit codes of [3, 16] and scales of [3, 2]");
  refuses("mxfp4_mlx", "l", 3, 64, "{\"mode\":\"mxfp8\"}",
          "tensor l.weight: rows of 64 values in 8 bits and groups of 32 (mxfp8) do not fit codes of [3, 8] and scales of [3, 2]");
}

static hd_directory *directory_of(const hd_entry *entries, size_t n) {
  hd_error err;
  hd_directory *d = hd_directory_new("SafeTensors", UINT64_MAX);
  for (size_t i = 0; i < n; i++) CHECK(hd_directory_append(d, &entries[i], &err) == HD_OK);
  CHECK(hd_directory_seal(d, &err) == HD_OK);
  return d;
}

/* 4503599627370497 · 4096 is 4096 where sizes have 64 bits, 1048577 · 4096 where they have 32. */
TEST(a_group_size_whose_product_wraps_is_refused) {
  static const char *const said[] = {"{\"group_size\":1048577,\"bits\":8}", "{\"group_size\":4503599627370497,\"bits\":8}"};
  const hd_entry entries[] = {{.name = "l.biases", .dtype = HD_F16, .n_dims = 2, .shape = {1, 4096}, .end = 8192},
                              {.name = "l.scales", .dtype = HD_F16, .n_dims = 2, .shape = {1, 4096}, .begin = 8192, .end = 16384},
                              {.name = "l.weight", .dtype = HD_U32, .n_dims = 2, .shape = {1, 1024}, .begin = 16384, .end = 20480}};
  for (size_t i = 0; i < (SIZE_MAX > UINT32_MAX ? 2 : 1); i++) {
    char spec[1024];
    hd_error err = {0};
    hd_loader *loader;
    hd_directory *d = directory_of(entries, 3);
    snprintf(spec, sizeof spec, linear, (size_t)4096, "\"quantization\":", said[i], ",", "l", (size_t)4096, (size_t)1);
    CHECK(hd_loader_new(&loader, HD_F32, &err) == HD_OK && hd_loader_describe(loader, spec, strlen(spec), &err) == HD_OK);
    CHECK(hd_loader_add(loader, d, &err) == HD_OK && hd_loader_settle(loader, &err) == HD_BAD_FILE);
    if (!CHECK(strstr(err.message, "do not fit codes of [1, 1024] and scales of [1, 4096]"))) printf("# %s\n", err.message);
    hd_loader_free(loader);
    hd_directory_free(d);
  }
}

/* An exception under the weight's own name counts, not the rule. */
TEST(an_exception_for_one_weight_counts) {
  packed_case c = cases[5];
  c.quantization = "{\"group_size\":32,\"bits\":8,\"mode\":\"mxfp8\",\"l\":{\"group_size\":64,\"bits\":4}}";
  check_case(&c, true, HD_F32, 100);
}

static hd_loader *loader_with(const hd_entry *entries, size_t n, const char *quantization) {
  char spec[1024];
  hd_error err = {0};
  hd_loader *loader;
  hd_directory *d = directory_of(entries, n);
  snprintf(spec, sizeof spec, linear, (size_t)32, "\"quantization\":", quantization, ",", "l", (size_t)32, (size_t)2);
  CHECK(hd_loader_new(&loader, HD_F32, &err) == HD_OK && hd_loader_describe(loader, spec, strlen(spec), &err) == HD_OK);
  if (!CHECK(hd_loader_add(loader, d, &err) == HD_OK)) printf("# %s\n", err.message);
  hd_directory_free(d);
  return loader;
}

/* Codes before their scales, scales without codes, a missing part, biases by a zero point. */
TEST(scales_come_before_codes_and_what_is_no_pack_is_none) {
  const hd_entry weight = {.name = "l.weight", .dtype = HD_U32, .n_dims = 2, .shape = {2, 4}, .begin = 10, .end = 42};
  const hd_entry scales = {.name = "l.scales", .dtype = HD_F32, .n_dims = 2, .shape = {2, 1}, .begin = 42, .end = 50};
  const hd_entry both[] = {weight, scales};
  const uint32_t codes[8] = {0x76543210u, 0xfedcba98u, 0, 0, 0xffffffffu, 0, 0, 0};
  const float two_scales[2] = {0.5f, -1};
  float values[64];
  hd_error err = {0};
  hd_model *model;

  hd_loader *loader = loader_with(both, 2, "{\"group_size\":32,\"bits\":4}");
  CHECK(hd_tensor_begin(loader, 0, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "tensor l.weight: expected .biases beside it, found U32 of [2, 4]");
  hd_loader_free(loader);

  loader = loader_with(both, 2, "{\"group_size\":32,\"bits\":4,\"symmetric_zero_point\":8}");
  CHECK(hd_tensor_begin(loader, 0, &err) == HD_BAD_STATE);
  CHECK_EQ_TEXT(err.message, "tensor l.weight: l.scales has to come before it");
  CHECK(hd_tensor_begin(loader, 1, &err) == HD_OK && hd_tensor_write(loader, two_scales, 8, &err) == HD_OK && hd_tensor_end(loader, &err) == HD_OK);
  CHECK(hd_tensor_begin(loader, 0, &err) == HD_OK && hd_tensor_write(loader, codes, 32, &err) == HD_OK && hd_tensor_end(loader, &err) == HD_OK);
  CHECK(hd_loader_finish(&model, loader, &err) == HD_OK);
  CHECK(model && hd_model_read_weight(model, "l.weight", values, 64, &err) == HD_OK);
  CHECK(values[0] == -4 && values[1] == -3.5f && values[15] == 3.5f && values[16] == -4 && values[32] == -7 && values[40] == 8);
  CHECK(hd_model_free(model, &err) == HD_OK);
  hd_loader_free(loader);

  loader = loader_with(&scales, 1, "{}");
  CHECK(hd_loader_settle(loader, &err) == HD_OK);
  bool wanted = true;
  hd_loader_tensor(loader, 0, &wanted);
  CHECK(!wanted);
  CHECK(hd_loader_finish(&model, loader, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "the files lack 1 of the model's 1 weights, first l.weight of shape [2, 32]");
  hd_loader_free(loader);

  loader = loader_with(&weight, 1, "{}");
  CHECK(hd_loader_settle(loader, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "tensor l.weight: the model wants shape [2, 32], the file has [2, 4]");
  hd_loader_free(loader);
}

/* Each allocation fails once: an error, nothing half built, nothing leaked. */
TEST(every_allocation_may_fail) {
  golden_file file;
  char spec[1024];
  hd_error err = {0};
  hd_model *model = NULL;
  if (!golden_open(&file, GOLDEN "nvfp4_global.safetensors")) return;
  spec_of(spec, &file, &cases[15], true);
  hd_status status = HD_OUT_OF_MEMORY;
  size_t live = hd_memory_live();
  for (size_t n = 0; n < 500 && status != HD_OK; n++) {
    hd_memory_fail_after(n);
    status = load(&model, &file, spec, HD_F32, 1 << 20, &err);
    hd_memory_fail_after(SIZE_MAX);
    if (status != HD_OK) CHECK(model == NULL && hd_memory_live() == live);
  }
  CHECK(status == HD_OK && hd_model_free(model, &err) == HD_OK);
  golden_close(&file);
}
