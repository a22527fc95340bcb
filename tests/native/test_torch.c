/* PyTorch's files: every fixture has the tensors of its mirror, every real file the values its expected.json names by their hash, every hostile
 * pickle is refused with the reason; and what a hostile file may cost. */
#define _DEFAULT_SOURCE
#include "base/dtype.h"
#include "base/memory.h"
#include "format/format.h"
#include "format/torch_write.h"
#include "sha256.h"
#include "test.h"

#include <cJSON.h>
#include <time.h>

#ifndef HEDDLE_SHARED_DIR
#define HEDDLE_SHARED_DIR HEDDLE_SOURCE_DIR "/../shared"
#endif
#define FIXTURES HEDDLE_SHARED_DIR "/fixtures/"

typedef struct file {
  uint8_t *bytes;
  size_t n;
  hd_directory *directory;
  hd_error err;
} file;

static uint8_t *read_path(const char *path, size_t *n) {
  FILE *f = fopen(path, "rb");
  if (!f) return NULL;
  fseek(f, 0, SEEK_END);
  *n = (size_t)ftell(f);
  rewind(f);
  uint8_t *bytes = malloc(*n + 1);
  *n = fread(bytes, 1, *n, f);
  bytes[*n] = '\0';
  fclose(f);
  return bytes;
}

/* Reads the directory as a host does: what the reader wants and not a byte more, in chunks of at most `most`. */
static hd_status read_parts(file *f, size_t most) {
  hd_reader *reader;
  uint64_t begin, end;
  f->directory = NULL;
  hd_status status = hd_reader_new(&reader, f->n, &f->err);
  while (status == HD_OK && hd_reader_wants(reader, &begin, &end)) {
    CHECK(begin <= end && end <= f->n);
    size_t bytes = end - begin < most ? (size_t)(end - begin) : most;
    uint8_t *chunk = malloc(bytes ? bytes : 1);
    memcpy(chunk, f->bytes + begin, bytes);
    status = hd_reader_give(reader, chunk, bytes, &f->err);
    free(chunk);
  }
  if (status == HD_OK) status = hd_reader_finish(&f->directory, reader, &f->err);
  hd_reader_free(reader);
  return status;
}

/* By parts, and from memory: the same either way. */
static hd_status open_file(file *f, const char *folder, const char *name) {
  char path[1024];
  hd_directory *whole;
  *f = (file){0};
  snprintf(path, sizeof path, "%s/%s", folder, name);
  f->bytes = read_path(path, &f->n);
  if (!CHECK(f->bytes != NULL)) return HD_BAD_ARGUMENT;
  hd_status status = read_parts(f, 4096), again = hd_directory_read(&whole, f->bytes, f->n, f->n, NULL);
  if (!CHECK(status == again)) printf("# %s: by parts %d, from memory %d\n", name, status, again);
  if (status == HD_OK && again == HD_OK) CHECK(hd_directory_count(whole) == hd_directory_count(f->directory));
  hd_directory_free(whole);
  return status;
}

static void close_file(file *f) {
  hd_directory_free(f->directory);
  free(f->bytes);
}

/* A tensor's bytes in row-major order. The caller frees them. */
static uint8_t *tensor_bytes(const file *f, const hd_entry *e, size_t *n) {
  size_t count;
  CHECK(hd_shape_count(e->n_dims, e->shape, &count) && hd_dtype_bytes(e->dtype, count, n));
  uint8_t *bytes = malloc(*n ? *n : 1);
  if (e->strided) hd_entry_gather(e, f->bytes + e->begin, bytes);
  else if (CHECK(e->end - e->begin == *n)) memcpy(bytes, f->bytes + e->begin, *n);
  return bytes;
}

static cJSON *read_json(const char *path) {
  size_t n;
  uint8_t *text = read_path(path, &n);
  cJSON *json = text ? cJSON_Parse((char *)text) : NULL;
  free(text);
  return json;
}

/* ---- Our own fixtures ---- */

static void compare_tensor(const file *f, const file *mirror, const hd_entry *want, const char *file_name) {
  const hd_entry *is = hd_directory_find(f->directory, want->name);
  size_t n_is, n_want;
  if (!CHECK(is != NULL)) {
    printf("# %s lacks %s\n", file_name, want->name);
    return;
  }
  CHECK(is->dtype == want->dtype && is->n_dims == want->n_dims && memcmp(is->shape, want->shape, sizeof *is->shape * (size_t)is->n_dims) == 0);
  uint8_t *a = tensor_bytes(f, is, &n_is), *b = tensor_bytes(mirror, want, &n_want);
  if (CHECK(n_is == n_want) && n_is > 0 && !CHECK_EQ_BITS(a, b, n_is)) printf("# %s: %s\n", file_name, want->name);
  free(a);
  free(b);
}

/* "$in.x" and "$out.y" of the mirrors are for readers that run TorchScript. */
static void compare_mirror(const file *f, const char *folder, const char *mirror_name, const char *name) {
  file mirror;
  size_t n = 0;
  if (!CHECK(open_file(&mirror, folder, mirror_name) == HD_OK)) printf("# %s\n", mirror.err.message);
  for (size_t i = 0; mirror.directory && i < hd_directory_count(mirror.directory); i++) {
    const hd_entry *want = hd_directory_entry(mirror.directory, i);
    if (want->name[0] == '$') continue;
    compare_tensor(f, &mirror, want, name);
    n++;
  }
  CHECK(hd_directory_count(f->directory) == n);
  close_file(&mirror);
}

/* Refused with a reason that names the tensor, or the class or function. */
static const struct {
  const char *name, *names;
} refused[] = {{"complex64", "tensor \"z\": expected a dtype that we read, found complex64"},
               {"conj_neg_metadata", "tensor \"x\""},
               {"sparse_coo", "tensor \"s\": expected a dense one, found what torch._utils._rebuild_sparse_tensor makes"},
               {"quantized_qint8", "tensor \"q\": expected a dense one, found what torch._utils._rebuild_qtensor makes"},
               {"module_whole", "mynet.Net"},
               {"module_whole_linear", "torch.nn.modules.linear.Linear"},
               {"calls_print", "the global __builtin__.print, which is not on the list of what a weight file may name; nothing was called"},
               {"numpy_array", "numpy._core.multiarray._reconstruct"},
               {"newer_dtypes", "tensor \"e4m3\": expected a dtype that we read, found F8_E4M3"}}; /* until there is an F8_E4M3 */

static const char *expected_refusal(const char *name) {
  for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
    if (strcmp(refused[i].name, name) == 0) return refused[i].names;
  return NULL;
}

static bool is_refused(const cJSON *c) {
  const char *name = cJSON_GetObjectItem(c, "name")->valuestring;
  if (strcmp(cJSON_GetObjectItem(c, "expect")->valuestring, "tensors") == 0)
    return strcmp(name, "newer_dtypes") == 0 && hd_dtype_find("F8_E4M3", 7) == HD_DTYPE_COUNT;
  return expected_refusal(name) != NULL;
}

static void check_case(const cJSON *c) {
  const char *folder = FIXTURES "torch/pt", *name = cJSON_GetObjectItem(c, "name")->valuestring;
  const cJSON *files = cJSON_GetObjectItem(c, "files");
  size_t before = hd_memory_live();
  file f;
  hd_status status = open_file(&f, folder, cJSON_GetArrayItem(files, 0)->valuestring);
  if (is_refused(c)) {
    CHECK(status != HD_OK);
    if (!CHECK(strstr(f.err.message, expected_refusal(name)) != NULL)) printf("# %s: %s\n", name, f.err.message);
  } else if (!CHECK(status == HD_OK)) {
    printf("# %s: %s\n", name, f.err.message);
  } else if (cJSON_GetArraySize(files) > 1) {
    compare_mirror(&f, folder, cJSON_GetArrayItem(files, 1)->valuestring, name);
  }
  close_file(&f);
  CHECK(hd_memory_live() == before);
}

static void check_cases(bool scripts) {
  cJSON *json = read_json(FIXTURES "torch/pt/cases.json");
  if (!json) SKIP("../shared/fixtures is not here");
  const cJSON *c;
  int n = 0;
  cJSON_ArrayForEach(c, cJSON_GetObjectItem(json, "cases")) {
    const char *name = cJSON_GetObjectItem(c, "name")->valuestring;
    if ((strncmp(name, "torchscript", 11) == 0) != scripts) continue;
    check_case(c);
    n++;
  }
  CHECK(n == (scripts ? 6 : 29));
  cJSON_Delete(json);
}

/* Titles carry the checklist's ids. */
TEST(F54_every_torch_save_fixture_reads_as_its_mirror_or_is_refused_as_it_should) { check_cases(false); }
TEST(F55_torchscript_and_libtorch_archives_give_their_state_under_flattened_names) { check_cases(true); }

static const char *metadata_of(const file *f, const char *wanted) {
  const char *key, *value;
  for (size_t i = 0; hd_directory_metadata(f->directory, i, &key, &value); i++)
    if (strcmp(key, wanted) == 0) return value;
  return NULL;
}

TEST(torch_data_besides_tensors_is_metadata) {
  file f;
  FILE *there = fopen(FIXTURES "torch/pt/cases.json", "rb");
  if (!there) SKIP("../shared/fixtures is not here");
  fclose(there);
  if (CHECK(open_file(&f, FIXTURES "torch/pt", "checkpoint.pt") == HD_OK)) {
    CHECK_EQ_TEXT(metadata_of(&f, "epoch"), "3");
    CHECK_EQ_TEXT(metadata_of(&f, "loss"), "0.15090730786323547");
    CHECK_EQ_TEXT(metadata_of(&f, "config"), "{\"hidden\":5,\"name\":\"net\",\"lr\":0.01,\"flags\":[true,null]}");
    CHECK_EQ_TEXT(metadata_of(&f, "optimizer.param_groups"),
                  "[{\"lr\":0.005,\"betas\":[0.9,0.999],\"eps\":1e-08,\"weight_decay\":0.02,\"amsgrad\":false,\"maximize\":false,\"foreach\":null,"
                  "\"capturable\":false,\"differentiable\":false,\"fused\":null,\"decoupled_weight_decay\":true,\"initial_lr\":0.01,\"params\":[0,1,2,3,4,5]}]");
  }
  close_file(&f);
  if (CHECK(open_file(&f, FIXTURES "torch/pt", "mixture.pt") == HD_OK)) {
    CHECK_EQ_TEXT(metadata_of(&f, "b"),
                  "{\"c\":[1,-5,255,256,65535,65536,2147483648,-2147483648,1099511627776,-1180591620717411303424,0],\"d\":\"text\","
                  "\"uni\":\"héé 漢字 🙂\",\"f\":[1.5,-0,1e+300,\"Infinity\",\"NaN\"]}");
    CHECK_EQ_TEXT(metadata_of(&f, "3"), "\"int key\"");
    CHECK_EQ_TEXT(metadata_of(&f, "dtype"), "\"torch.float16\"");
    CHECK_EQ_TEXT(metadata_of(&f, "a.1.1"), "null");
  }
  close_file(&f);
}

/* ---- Real files ---- */

static const char *dtype_of(const char *fixture) {
  static const char *const names[][2] = {{"f32", "F32"}, {"f64", "F64"}, {"f16", "F16"}, {"bf16", "BF16"}, {"i64", "I64"}, {"i32", "I32"},
                                         {"i16", "I16"}, {"i8", "I8"},   {"u8", "U8"},   {"bool", "BOOL"}};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (strcmp(names[i][0], fixture) == 0) return names[i][1];
  return "?";
}

static void check_hash(const file *f, const char *file_name, const cJSON *want) {
  const char *name = want->string[0] ? want->string : "tensor"; /* a file that is one tensor */
  const hd_entry *e = hd_directory_find(f->directory, name);
  const cJSON *shape = cJSON_GetObjectItem(want, "shape"), *stride = cJSON_GetObjectItem(want, "stride");
  size_t n;
  char hash[65];
  if (!CHECK(e != NULL)) {
    printf("# %s lacks %s\n", file_name, name);
    return;
  }
  CHECK_EQ_TEXT(hd_dtype_name(e->dtype), dtype_of(cJSON_GetObjectItem(want, "dtype")->valuestring));
  CHECK(e->n_dims == cJSON_GetArraySize(shape));
  for (int d = 0; d < e->n_dims; d++) {
    CHECK(e->shape[d] == (size_t)cJSON_GetArrayItem(shape, d)->valuedouble);
    if (e->strided) CHECK(e->strides[d] == (size_t)cJSON_GetArrayItem(stride, d)->valuedouble);
  }
  uint8_t *bytes = tensor_bytes(f, e, &n);
  sha256_text(bytes, n, hash);
  free(bytes);
  CHECK_EQ_TEXT(hash, cJSON_GetObjectItem(want, "sha256_le_contiguous")->valuestring);
}

static int check_real(const char *folder) {
  char path[512];
  snprintf(path, sizeof path, FIXTURES "real/%s", folder);
  char expected[600];
  snprintf(expected, sizeof expected, "%s/expected.json", path);
  cJSON *json = read_json(expected);
  if (!json) return -1;
  int n = 0;
  const cJSON *want, *tensor;
  cJSON_ArrayForEach(want, cJSON_GetObjectItem(json, "files")) {
    file f;
    if (!CHECK(open_file(&f, path, want->string) == HD_OK)) printf("# %s: %s\n", want->string, f.err.message);
    const cJSON *tensors = cJSON_GetObjectItem(want, "tensors");
    if (f.directory) {
      CHECK(hd_directory_count(f.directory) == (size_t)cJSON_GetArraySize(tensors));
      cJSON_ArrayForEach(tensor, tensors) check_hash(&f, want->string, tensor);
    }
    close_file(&f);
    n++;
  }
  cJSON_Delete(json);
  return n;
}

#define REAL_TEST(title, folder, n_files)                        \
  TEST(title) {                                                  \
    int n = check_real(folder);                                  \
    if (n < 0) SKIP("../shared/fixtures/real is not here");      \
    CHECK(n == (n_files));                                       \
  }
REAL_TEST(F54_F56_files_of_burns_tests_have_their_expected_values, "pytorch-burn", 29)
REAL_TEST(F54_F56_files_of_candles_tests_have_their_expected_values, "pytorch-candle", 3)
REAL_TEST(F54_F56_files_of_gopickles_tests_have_their_expected_values, "pytorch-gopickle", 54)
REAL_TEST(F54_the_trained_mnist_network_has_its_expected_values, "mnist-cnn", 1)
REAL_TEST(F54_F56_the_trained_cifar_network_of_2018_has_its_expected_values, "cifar-resnet", 1)

TEST(F54_three_ways_to_save_one_llama_give_the_same_tensors) {
  const char *folder = FIXTURES "transformers/llama-gqa-tied-bin";
  FILE *there = fopen(FIXTURES "transformers/llama-gqa-tied-bin/pytorch_model.bin", "rb");
  if (!there) SKIP("../shared/fixtures is not here");
  fclose(there);
  file zip, legacy;
  if (CHECK(open_file(&zip, folder, "pytorch_model.bin") == HD_OK) && CHECK(open_file(&legacy, folder, "pytorch_model.legacy.bin") == HD_OK))
    for (size_t i = 0; i < hd_directory_count(zip.directory); i++) compare_tensor(&legacy, &zip, hd_directory_entry(zip.directory, i), "legacy");
  close_file(&zip);
  close_file(&legacy);
  CHECK(open_file(&zip, folder, "pytorch_model.bf16.bin") == HD_OK && hd_directory_count(zip.directory) == 30);
  close_file(&zip);
}

TEST(torch_refuses_the_tar_archives_of_2016_as_what_they_are) {
  file f;
  FILE *there = fopen(FIXTURES "real/pytorch-burn/reader__test_data__tar_float32.tar", "rb");
  if (!there) SKIP("../shared/fixtures/real is not here");
  fclose(there);
  CHECK(open_file(&f, FIXTURES "real/pytorch-burn", "reader__test_data__tar_float32.tar") == HD_UNSUPPORTED);
  CHECK(strstr(f.err.message, "found a tar archive") != NULL);
  close_file(&f);
}

/* ---- Hostile files ---- */

/* A row of the README: | `name` | … | what a correct reader should do | hash |. */
static void check_hostile(char *row, int *n_refused, int *n_read) {
  char *name = strchr(row, '`'), *end = name ? strchr(name + 1, '`') : NULL;
  if (!end || row[0] != '|') return;
  *end = '\0';
  bool harmless = strstr(end + 1, "harmless content") != NULL;
  size_t before = hd_memory_live();
  file f;
  hd_status status = open_file(&f, FIXTURES "real/pickle-hostile", name + 1);
  if (!CHECK((status == HD_OK) == harmless)) printf("# %s: %s\n", name + 1, f.err.message);
  CHECK(harmless || f.err.message[0] != '\0');
  ++*(harmless ? n_read : n_refused);
  close_file(&f);
  CHECK(hd_memory_live() == before);
}

TEST(every_hostile_pickle_is_refused_and_the_two_harmless_ones_are_read) {
  size_t n;
  int n_refused = 0, n_read = 0;
  char *text = (char *)read_path(FIXTURES "real/pickle-hostile/README.md", &n), *next;
  if (!text) SKIP("../shared/fixtures/real is not here");
  for (char *row = text; row; row = next) {
    next = strchr(row, '\n');
    if (next) *next++ = '\0';
    check_hostile(row, &n_refused, &n_read);
  }
  free(text);
  CHECK(n_refused == 55 && n_read == 2);
}

static void check_message(const uint8_t *bytes, size_t n, const char *message) {
  hd_error err = {0};
  hd_directory *directory;
  CHECK(hd_directory_read(&directory, bytes, n, n, &err) != HD_OK && !directory);
  CHECK_EQ_TEXT(err.message, message);
}
#define CHECK_MESSAGE(pickle, message) check_message((const uint8_t *)(pickle), sizeof(pickle) - 1, message)

TEST(pickle_refuses_what_it_does_not_need_and_says_where) {
  CHECK_MESSAGE("\x80\x04\x95!\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94\x8c\x06ls -la\x94\x85\x94R\x94.",
                "pickle: byte 28: expected tensors and plain data, found the global posix.system, which is not on the list of what a weight file may name; nothing was called");
  CHECK_MESSAGE("\x80\x02]q\x05h\x06.", "pickle: byte 5: expected a memo number that was set, found another");
  CHECK_MESSAGE("\x80\x02}K\x01s.", "pickle: byte 5: expected a value on the stack, found none");
  CHECK_MESSAGE("\x80\x02(K\x01.", "pickle: byte 5: expected one value at the pickle's end, found another number of them");
  CHECK_MESSAGE("\x80\x02K\x01K\x02.", "pickle: byte 6: expected one value at the pickle's end, found another number of them");
  CHECK_MESSAGE("\x80\x02t.", "pickle: byte 2: expected a mark, found none");
  CHECK_MESSAGE("\x80\x07t.", "expected a weight file (GGUF, PyTorch, NumPy, llama2.c, SafeTensors), found 4 bytes that start with 80 07 74 2e");
  CHECK_MESSAGE("\x80\x02(ios\nsystem\n.", "pickle: byte 3: expected an opcode that data needs, found 0x69");
  CHECK_MESSAGE("\x80\x02\x82\x01.", "pickle: byte 2: expected an opcode that data needs, found 0x82");
  CHECK_MESSAGE("\x80\x02X\xff\xff\xff\xff" "a.", "pickle: byte 7: expected the rest of a pickle, found the end");
  CHECK_MESSAGE("\x80\x02K\x01)R.", "pickle: byte 5: expected a call of a global, found one of a value");
  CHECK_MESSAGE("\x80\x02" "ctorch\nfloat32\n)R.", "pickle: byte 18: expected a global that is only named, found a call of it");
  CHECK_MESSAGE("\x80\x02]q\x00h\x00" "a.", "PyTorch: expected data nested at most 100 deep");
}

/* ---- What a hostile file may cost ---- */

enum { HOSTILE_BYTES = 1000000 };

/* A pickle of `unit` over and over between a begin and an end: within a second and 16 times its size, whatever becomes of it. */
static void check_cost(const char *begin, size_t n_begin, const char *unit, size_t n_unit, const char *end) {
  size_t n_end = strlen(end), n = n_begin, before = hd_memory_live();
  uint8_t *bytes = malloc(HOSTILE_BYTES + 64);
  hd_directory *directory;
  hd_error err = {0};
  memcpy(bytes, begin, n_begin);
  for (; n + n_unit + n_end <= HOSTILE_BYTES; n += n_unit) memcpy(bytes + n, unit, n_unit);
  memcpy(bytes + n, end, n_end);
  clock_t start = clock();
  size_t peak_before = hd_memory_peak();
  hd_status status = hd_directory_read(&directory, bytes, n + n_end, n + n_end, &err);
  double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
  (void)peak_before;
  if (!CHECK(hd_memory_peak() < (size_t)16 * HOSTILE_BYTES)) printf("# peak %zu for \"%.8s\": %s\n", hd_memory_peak(), unit, status ? err.message : "read");
  if (!CHECK(seconds < 1)) printf("# %.2f s for \"%.8s\"\n", seconds, unit);
  hd_directory_free(directory);
  free(bytes);
  CHECK(hd_memory_live() == before);
}
#define CHECK_COST(begin, unit, end) check_cost(begin, sizeof(begin) - 1, unit, sizeof(unit) - 1, end)

TEST(F54_a_megabyte_of_hostile_pickle_costs_less_than_a_second_and_16_times_its_size) {
  CHECK_COST("\x80\x02(", "N", "l.");
  CHECK_COST("\x80\x02(", "]", "l.");
  CHECK_COST("\x80\x02(", "(", ".");
  CHECK_COST("\x80\x02", "]", ".");
  CHECK_COST("\x80\x02]", "Na", ".");
  CHECK_COST("\x80\x02N", "\x85", ".");
  CHECK_COST("\x80\x02(", "N\x85", "l.");
  CHECK_COST("\x80\x02(", "NNN\x87", "l.");
  CHECK_COST("\x80\x02(", "K\x01", "l.");
  CHECK_COST("\x80\x02(", "M\x01\x01", "l.");
  CHECK_COST("\x80\x02(", "U\x03\x01\x02\x03", "l.");
  CHECK_COST("\x80\x02N", "2", ".");
  CHECK_COST("\x80\x04N", "\x94", ".");
  CHECK_COST("\x80\x02}", "NNs", ".");
  CHECK_COST("\x80\x02](K\x01K\x02tq\x01", "h\x01" "a", ".");
  CHECK_COST("\x80\x02(", "N(", ".");
  CHECK_COST("\x80\x02]q\x00", "h\x00\x85h\x00\x86]q\x00" "a", ".");
  /* A tensor by its number, over and over; a storage likewise; lists of two times the list before. */
  CHECK_COST("\x80\x02(ctorch._utils\n_rebuild_tensor_v2\n(NK\x00))tRq\x01", "h\x01", "l.");
  CHECK_COST("\x80\x02((U\x07storagectorch\nFloatStorage\nU\x01" "0U\x03" "cpuK\x00tq\x01", "h\x01Q", "l.");
  CHECK_COST("\x80\x02]q\x00", "(h\x00h\x00lq\x00", ".");
}

TEST(torch_reader_frees_everything_when_memory_runs_out) {
  static const char *const names[] = {"checkpoint.pt", "checkpoint_legacy.pt", "torchscript_mlp.pt"};
  for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
    file f = {0};
    char path[512];
    snprintf(path, sizeof path, FIXTURES "torch/pt/%s", names[k]);
    f.bytes = read_path(path, &f.n);
    if (!f.bytes) SKIP("../shared/fixtures is not here");
    size_t before = hd_memory_live();
    hd_status status = HD_OUT_OF_MEMORY;
    for (size_t i = 0; status == HD_OUT_OF_MEMORY && i < 100000; i++) {
      hd_memory_fail_after(i);
      status = hd_directory_read(&f.directory, f.bytes, f.n, f.n, &f.err);
      hd_memory_fail_after(SIZE_MAX);
      CHECK((f.directory != NULL) == (status == HD_OK));
      hd_directory_free(f.directory);
      if (!CHECK(hd_memory_live() == before)) break;
    }
    CHECK(status == HD_OK);
    free(f.bytes);
  }
}

/* ---- Writing ---- */

/* minimal_handmade.pt, which torch.load(weights_only=True) accepts, byte by byte but for the forty digits of its serialization_id. */
TEST(F45_the_writer_makes_the_bytes_of_the_file_that_torch_accepted) {
  size_t n, n_want;
  uint8_t *bytes, *want = read_path(FIXTURES "torch/pt/minimal_handmade.pt", &n_want);
  if (!want) SKIP("../shared/fixtures is not here");
  enum { W_BEGIN = 640, ID_BEGIN = 960, ID_BYTES = 40 };
  hd_torch_writer w;
  hd_error err;
  hd_torch_writer_start(&w);
  hd_torch_begin_dict(&w);
  hd_torch_write_text(&w, "w");
  hd_torch_write_tensor(&w, &(hd_stored){.dtype = HD_F32, .n_dims = 2, .shape = {2, 3}});
  hd_torch_write_text(&w, "e");
  hd_torch_write_tensor(&w, &(hd_stored){.dtype = HD_F32, .n_dims = 1, .shape = {0}});
  hd_torch_end_dict(&w);
  if (CHECK(hd_torch_start(&bytes, &n, &w, &err) == HD_OK) && CHECK(n == n_want)) {
    CHECK(w.tensors[0].begin == W_BEGIN);
    memcpy(bytes + W_BEGIN, want + W_BEGIN, 24);
    memcpy(bytes + ID_BEGIN, want + ID_BEGIN, ID_BYTES);
    hd_torch_seal(&w, bytes);
    CHECK_EQ_BITS(bytes, want, n);
  }
  hd_free(bytes);
  hd_torch_writer_free(&w);
  free(want);
}

TEST(torch_writer_writes_every_kind_of_value_as_the_reader_reads_it) {
  size_t n;
  uint8_t *bytes;
  file f = {0};
  hd_torch_writer w;
  hd_torch_writer_start(&w);
  hd_torch_begin_dict(&w);
  hd_torch_write_text(&w, "a");
  hd_torch_begin_list(&w);
  const int64_t numbers[] = {0, 255, 256, 65535, 65536, -1, INT32_MAX, INT32_MIN, (int64_t)INT32_MAX + 1, INT64_MIN};
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) hd_torch_write_int(&w, numbers[i]);
  hd_torch_write_real(&w, 0.1);
  hd_torch_write_bool(&w, true);
  hd_torch_write_bool(&w, false);
  hd_torch_write_none(&w);
  hd_torch_write_text(&w, "h\xc3\xa9\n\"");
  hd_torch_end_list(&w);
  hd_torch_end_dict(&w);
  CHECK(hd_torch_start(&bytes, &n, &w, NULL) == HD_OK);
  hd_torch_seal(&w, bytes);
  CHECK(hd_directory_read(&f.directory, bytes, n, n, &f.err) == HD_OK);
  CHECK_EQ_TEXT(metadata_of(&f, "a"), "[0,255,256,65535,65536,-1,2147483647,-2147483648,2147483648,-9223372036854775808,0.1,true,false,null,\"h\xc3\xa9\\u000a\\\"\"]");
  hd_directory_free(f.directory);
  hd_free(bytes);
  hd_torch_writer_free(&w);
}
