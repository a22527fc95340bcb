/* A network's weights as SafeTensors: every dtype and back, without memory, and files that do not fit. Loom's own files: tests/node. */
#include "base/dtype.h"
#include "format/format.h"
#include "format/torch_write.h"
#include "hostile.h"
#include "networks.h"

static const char mlp[] = "{\"type\":\"dense\",\"in_features\":5,\"out_features\":3,\"activation\":\"tanh\"},{\"type\":\"dense\",\"in_features\":3,\"out_features\":2}";

static void read_all(const hd_model *model, float values[15]) { CHECK_EQ(hd_model_read_weight(model, "layers.0.weight", values, 15, NULL), HD_OK); }

static float worst(const float *a, const float *b, size_t n) {
  float most = 0;
  for (size_t i = 0; i < n; i++) most = fmaxf(most, fabsf(a[i] - b[i]));
  return most;
}

TEST(F12_F13_weights_survive_every_dtype_within_its_step) {
  static const struct { hd_dtype dtype; float error; size_t width; } cases[] = {
      {HD_F64, 0, 8}, {HD_F32, 0, 4}, {HD_F16, 5e-4f, 2}, {HD_BF16, 4e-3f, 2}, {HD_I64, 1e-7f, 8}, {HD_I32, 1e-7f, 4}, {HD_I16, 2e-5f, 2},
      {HD_I8, 5e-3f, 1}, {HD_U64, 3e-7f, 8}, {HD_U32, 3e-7f, 4}, {HD_U16, 2e-5f, 2}, {HD_U8, 5e-3f, 1}, {HD_F4, 0, 4}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_model *from = test_network(mlp, "[4,5]"), *to = test_network(mlp, "[4,5]");
    float before[15], after[15], zeros[15] = {0};
    uint8_t *file;
    size_t n, n_set;
    hd_error err;
    read_all(from, before);
    CHECK_EQ(hd_model_write_weight(to, "layers.0.weight", zeros, 15, NULL), HD_OK);
    if (!CHECK_EQ(hd_model_save_weights(&file, &n, from, cases[i].dtype, &err), HD_OK)) printf("# %s\n", err.message);
    if (!CHECK_EQ(hd_model_load_weights(to, file, n, &n_set, &err), HD_OK)) printf("# %s\n", err.message);
    read_all(to, after);
    CHECK_EQ(n_set, 4);
    if (!CHECK(worst(before, after, 15) <= cases[i].error)) printf("# %s: %g\n", hd_dtype_name(cases[i].dtype), (double)worst(before, after, 15));
    hd_directory *directory;
    CHECK_EQ(hd_directory_read(&directory, file, n, n, NULL), HD_OK);
    const hd_entry *e = hd_directory_find(directory, "layers.0.weight");
    if (CHECK(e && e->dtype == (cases[i].dtype == HD_F4 ? HD_F32 : cases[i].dtype))) CHECK_EQ(e->end - e->begin, 15 * cases[i].width);
    hd_directory_free(directory);
    hd_bytes_free(file);
    hd_model_free(from, NULL);
    hd_model_free(to, NULL);
  }
}

TEST(strictly_read_a_file_may_have_the_scales_of_its_weights) {
  hd_model *model = test_network(mlp, "[4,5]");
  uint8_t *file;
  size_t n, n_set;
  hd_error err;
  CHECK_EQ(hd_model_save_weights(&file, &n, model, HD_U8, &err), HD_OK);
  if (!CHECK_EQ(hd_model_load_state(model, file, n, NULL, true, &n_set, &err), HD_OK)) printf("# %s\n", err.message);
  CHECK_EQ(n_set, 4);
  hd_bytes_free(file);
  hd_model_free(model, NULL);
}

TEST(F23_weights_that_do_not_fit_change_nothing_and_are_named) {
  hd_model *model = test_network(mlp, "[4,5]"), *other = test_network("{\"type\":\"dense\",\"in_features\":3,\"out_features\":5}", "[4,3]");
  float before[15], after[15];
  uint8_t *file;
  size_t n;
  hd_error err;
  read_all(model, before);
  CHECK_EQ(hd_model_save_weights(&file, &n, other, HD_F32, NULL), HD_OK);
  CHECK_EQ(hd_model_load_weights(model, file, n, NULL, &err), HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "tensor layers.0.weight: the network wants shape [3, 5], the file has [5, 3]");
  hd_session *s = test_session(other, HD_INFER);
  CHECK_EQ(hd_model_load_weights(other, file, n, NULL, &err), HD_BAD_STATE);
  hd_session_free(s);
  hd_bytes_free(file);
  static const char json[] = "[{\"name\":\"other\",\"shape\":[2]}]";
  CHECK_EQ(hd_safetensors_serialize(&file, &n, json, sizeof json - 1, (const float[]){1, 2}, 2, NULL), HD_OK);
  CHECK_EQ(hd_model_load_weights(model, file, n, NULL, &err), HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "none of the file's 1 tensors is one of the network's 4 weights, the first of which is layers.0.weight");
  hd_bytes_free(file);
  read_all(model, after);
  CHECK(worst(before, after, 15) == 0);
  CHECK_EQ(hd_model_save_weights(&file, &n, model, HD_Q8_0, &err), HD_BAD_ARGUMENT);
  hd_model_free(model, NULL);
  hd_model_free(other, NULL);
}

TEST(weights_without_memory_leak_nothing) {
  hd_model *model = test_network(mlp, "[4,5]");
  uint8_t *file = NULL;
  size_t n = 0, before = hd_memory_live(), k = 0;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && k < 1000; k++) {
    hd_memory_fail_after(k);
    status = hd_model_save_weights(&file, &n, model, HD_U8, NULL);
    hd_memory_fail_after(SIZE_MAX);
    if (status != HD_OK) CHECK(status == HD_OUT_OF_MEMORY && !file && hd_memory_live() == before);
  }
  CHECK(status == HD_OK && k > 5);
  size_t with_file = hd_memory_live();
  status = HD_OUT_OF_MEMORY;
  for (k = 0; status != HD_OK && k < 1000; k++) {
    hd_memory_fail_after(k);
    status = hd_model_load_weights(model, file, n, NULL, NULL);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(hd_memory_live() == with_file);
  }
  CHECK(status == HD_OK && k > 5);
  hd_bytes_free(file);
  hd_model_free(model, NULL);
}

/* A SafeTensors file of zeros with that header. The caller frees it. */
static uint8_t *file_of(const char *header, size_t n_data, size_t *n) {
  const size_t n_header = strlen(header);
  *n = 8 + n_header + n_data;
  uint8_t *file = calloc(1, *n);
  for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)n_header >> (8 * i));
  memcpy(file + 8, header, n_header);
  return file;
}

static void check_changes_nothing(const char *header, size_t n_data, hd_status status, const char *message) {
  hd_model *model = test_network(mlp, "[4,5]");
  float before[15], after[15];
  size_t n, n_set = 1;
  hd_error err;
  uint8_t *file = file_of(header, n_data, &n);
  read_all(model, before);
  CHECK_EQ(hd_model_load_weights(model, file, n, &n_set, &err), status);
  CHECK_EQ_TEXT(err.message, message);
  read_all(model, after);
  CHECK(worst(before, after, 15) == 0 && n_set == 0);
  free(file);
  hd_model_free(model, NULL);
}

TEST(F23_what_the_last_tensor_breaks_leaves_the_first_weight_as_it_was) {
  check_changes_nothing("{\"layers.0.weight\":{\"dtype\":\"F32\",\"shape\":[3,5],\"data_offsets\":[0,60]},"
                        "\"layers.1.bias\":{\"dtype\":\"C64\",\"shape\":[2],\"data_offsets\":[60,76]}}",
                        76, HD_UNSUPPORTED, "tensor layers.1.bias: values of C64 cannot become float32");
  check_changes_nothing("{\"layers.0.weight\":{\"dtype\":\"F32\",\"shape\":[3,5],\"data_offsets\":[0,60]},"
                        "\"layers.1.bias\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[60,62]},"
                        "\"layers.1.bias.scale\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[62,74]}}",
                        74, HD_BAD_FILE, "tensor layers.1.bias.scale: expected F32 of shape [1], found F32 of [3]");
}

/* Wherever memory ends; in the loom dialect, too, whose matrices are turned around. */
static void check_short_of_memory(const char *network) {
  hd_model *model = NULL, *other = NULL;
  float ones[15], before[15], after[15];
  uint8_t *file;
  size_t n, k = 0;
  hd_error err;
  for (size_t i = 0; i < 15; i++) ones[i] = 1;
  CHECK_EQ(hd_model_build(&model, network, strlen(network), 7, &err), HD_OK);
  CHECK_EQ(hd_model_build(&other, network, strlen(network), 7, &err), HD_OK);
  CHECK_EQ(hd_model_write_weight(other, "layers.0.weight", ones, 15, &err), HD_OK);
  CHECK_EQ(hd_model_save_weights(&file, &n, other, HD_U8, &err), HD_OK);
  read_all(model, before);
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && k < 1000; k++) {
    hd_memory_fail_after(k);
    status = hd_model_load_weights(model, file, n, NULL, NULL);
    hd_memory_fail_after(SIZE_MAX);
    read_all(model, after);
    if (!CHECK(worst(status == HD_OK ? ones : before, after, 15) < 1e-6f)) printf("# out of memory at %zu: status %d\n", k, status);
  }
  CHECK(status == HD_OK && k > 10);
  hd_bytes_free(file);
  hd_model_free(model, NULL);
  hd_model_free(other, NULL);
}

TEST(F23_weights_without_memory_change_nothing) {
  static const char layers[] = "\"input_shape\":[4,5],\"layers\":[{\"type\":\"dense\",\"in_features\":5,\"out_features\":3},"
                               "{\"type\":\"dense\",\"in_features\":3,\"out_features\":2}]}";
  char network[512];
  snprintf(network, sizeof network, "{\"dialect\":\"standard\",%s", layers);
  check_short_of_memory(network);
  snprintf(network, sizeof network, "{\"dialect\":\"loom\",%s", layers);
  check_short_of_memory(network);
}

/* The tensor's three numbers are one of its storage, which is all there is. */
static void make_view_of_one(hd_torch_writer *w) {
  static const char whole[] = "(K\x01t(K\x01t";
  for (size_t i = w->n_pickle - sizeof whole; i > 0; i--)
    if (memcmp(w->pickle + i, whole, sizeof whole - 1) == 0) {
      w->pickle[i + 2] = 3;
      w->pickle[i + 6] = 0; /* the step from one to the next */
      return;
    }
  CHECK(false);
}

TEST(a_scale_that_is_a_view_is_read_as_one) {
  hd_model *model = test_network("{\"type\":\"linear\",\"in_features\":1,\"out_features\":3,\"bias\":false}", "[1,1]");
  const hd_stored weight = {.name = "layers.0.weight", .dtype = HD_F32, .n_dims = 2, .shape = {3, 1}};
  const hd_stored scale = {.name = "layers.0.weight.scale", .dtype = HD_F32, .n_dims = 1, .shape = {1}};
  const float codes[] = {1, 2, 3}, two = 2;
  float values[3];
  hd_torch_writer w;
  uint8_t *file;
  size_t n;
  hd_error err;
  hd_torch_writer_start(&w);
  hd_torch_begin_dict(&w);
  hd_torch_write_text(&w, weight.name);
  hd_torch_write_tensor(&w, &weight);
  hd_torch_write_text(&w, scale.name);
  hd_torch_write_tensor(&w, &scale);
  hd_torch_end_dict(&w);
  make_view_of_one(&w);
  CHECK_EQ(hd_torch_start(&file, &n, &w, &err), HD_OK);
  memcpy(file + w.tensors[0].begin, codes, sizeof codes);
  memcpy(file + w.tensors[1].begin, &two, sizeof two);
  hd_torch_seal(&w, file);
  if (!CHECK_EQ(hd_model_load_weights(model, file, n, NULL, &err), HD_OK)) printf("# %s\n", err.message);
  CHECK_EQ(hd_model_read_weight(model, "layers.0.weight", values, 3, &err), HD_OK);
  for (size_t i = 0; i < 3; i++) CHECK(values[i] == 2 * codes[i]);
  hd_bytes_free(file);
  hd_torch_writer_free(&w);
  hd_model_free(model, NULL);
}

TEST(saving_thousands_of_weights_with_scales_takes_no_square_of_their_number) {
  size_t n_text, n;
  char *text = repeat_times(8000, "{\"dialect\":\"standard\",\"input_shape\":[1,1],\"layers\":[",
                            "{\"type\":\"linear\",\"in_features\":1,\"out_features\":1},", "]}", &n_text);
  hd_model *model = NULL;
  uint8_t *file;
  hd_error err;
  if (!CHECK_EQ(hd_model_build(&model, text, n_text, 7, &err), HD_OK)) printf("# %s\n", err.message);
  free(text);
  const clock_t start = clock();
  CHECK_EQ(hd_model_save_weights(&file, &n, model, HD_U8, &err), HD_OK);
  const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
  if (!CHECK(seconds < 1)) printf("# %.2f s\n", seconds);
  hd_bytes_free(file);
  hd_model_free(model, NULL);
}

static void check_refused(const char *json, size_t n_values, const char *message) {
  uint8_t *file;
  size_t n;
  hd_error err;
  const float values[8] = {0};
  CHECK(hd_safetensors_serialize(&file, &n, json, strlen(json), values, n_values, &err) != HD_OK && !file && n == 0);
  CHECK_EQ_TEXT(err.message, message);
}

TEST(serializing_refuses_what_is_no_list_of_tensors) {
  check_refused("{}", 0, "tensors: expected an array of {name, dtype, shape}");
  check_refused("[{\"name\":\"a\",\"dtype\":\"F5\",\"shape\":[]}]", 1, "tensors[0].dtype: SafeTensors has no dtype 'F5'");
  check_refused("[{\"name\":\"a\",\"shape\":[1.5]}]", 1, "tensors[0].shape: expected whole numbers");
  check_refused("[{\"name\":\"a\",\"shape\":[2]},{\"name\":\"b\",\"shape\":[2]}]", 3, "the tensors' shapes need more than the 3 values given");
  check_refused("[{\"name\":\"a\",\"shape\":[2]}]", 3, "the tensors' shapes need 2 values, found 3");
  check_refused("[{\"name\":\"a\",\"shape\":[]},{\"name\":\"a\",\"shape\":[]}]", 2, "tensor a: expected every name once, found it twice");
}

TEST(F16_f4_is_rounded_to_the_nearest_of_its_sixteen_codes) {
  const float from[] = {0, -0.0f, 0.24f, 0.25f, 0.26f, -0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5, 100, -INFINITY, NAN, 6};
  const float want[] = {0, 0, 0, 0, 0.5f, -1, 1, 2, 2, 4, 4, 6, -6, 0, 6};
  uint8_t codes[8];
  float back[15];
  hd_dtype_get(HD_F4)->from_f32(from, codes, 15);
  hd_dtype_get(HD_F4)->to_f32(codes, back, 15);
  for (size_t i = 0; i < 15; i++)
    if (!CHECK(back[i] == want[i])) printf("# %zu: %g\n", i, (double)back[i]);
  size_t bytes;
  CHECK(hd_dtype_bytes(HD_F4, 15, &bytes) && bytes == 8 && hd_dtype_bytes(HD_F4, 0, &bytes) && bytes == 0);
}
