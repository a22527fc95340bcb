/* Parameters in parts: a mixture's experts, which files have one by one: their names, values, gradients, and every way into a file and back. */
#include "format/format.h"
#include "networks.h"

static const char mixture[] = "{\"type\":\"mixture_of_experts\",\"name\":\"m\",\"d_model\":4,\"hidden_size\":3,\"num_experts\":3,\"num_experts_per_tok\":2}";

static void check_equal(const hd_model *a, const hd_model *b, const char *name, float tolerance) {
  float x[36], y[36];
  CHECK_EQ(hd_model_read_weight(a, name, x, 36, NULL), HD_OK);
  CHECK_EQ(hd_model_read_weight(b, name, y, 36, NULL), HD_OK);
  for (size_t i = 0; i < 36; i++) CHECK_NEAR(y[i], x[i], tolerance, 0);
}

static hd_model *zeros(void) {
  static const float none[36];
  hd_model *model = test_network(mixture, "[2,4]");
  CHECK_EQ(hd_model_write_weight(model, "m.experts.*.up_proj.weight", none, 36, NULL), HD_OK);
  return model;
}

TEST(experts_have_names_of_their_own_and_are_rows_of_one_matrix) {
  hd_model *model = test_network(mixture, "[2,4]");
  float all[36], one[12];
  hd_error err;
  CHECK_EQ(hd_model_read_weight(model, "m.experts.*.up_proj.weight", all, 36, NULL), HD_OK);
  CHECK_EQ(hd_model_read_weight(model, "m.experts.2.up_proj.weight", one, 12, NULL), HD_OK);
  CHECK_EQ_BITS(one, all + 24, sizeof one);
  for (size_t i = 0; i < 12; i++) one[i] = (float)i;
  CHECK_EQ(hd_model_write_weight(model, "m.experts.1.up_proj.weight", one, 12, NULL), HD_OK);
  CHECK_EQ(hd_model_read_weight(model, "m.experts.*.up_proj.weight", all, 36, NULL), HD_OK);
  CHECK_EQ_BITS(one, all + 12, sizeof one);
  CHECK_EQ(hd_model_read_weight(model, "m.experts.3.up_proj.weight", one, 12, &err), HD_BAD_ARGUMENT);
  CHECK_EQ_TEXT(err.message, "there is no weight m.experts.3.up_proj.weight");
  CHECK_EQ(hd_model_read_weight(model, "m.experts.01.up_proj.weight", one, 12, &err), HD_BAD_ARGUMENT);
  CHECK_EQ(hd_model_read_weight(model, "m.experts.1.up_proj.weight", all, 36, &err), HD_BAD_ARGUMENT);
  CHECK_EQ_TEXT(err.message, "weight m.experts.1.up_proj.weight: expected 12 values, found 36");
  hd_model_free(model, NULL);
}

TEST(F22_F23_experts_are_saved_one_by_one_and_loaded_again_in_every_dtype) {
  static const struct { hd_dtype dtype; float error; } cases[] = {{HD_F32, 0}, {HD_F16, 5e-4f}, {HD_I8, 5e-3f}, {HD_U8, 5e-3f}}; /* the last two have scales */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_model *from = test_network(mixture, "[2,4]"), *to = zeros();
    uint8_t *file;
    size_t n, n_set;
    hd_directory *directory;
    hd_error err = {0};
    CHECK_EQ(hd_model_save_weights(&file, &n, from, cases[i].dtype, &err), HD_OK);
    CHECK_EQ(hd_directory_read(&directory, file, n, n, NULL), HD_OK);
    const hd_entry *e = hd_directory_find(directory, "m.experts.1.down_proj.weight");
    CHECK(e && e->n_dims == 2 && e->shape[0] == 4 && e->shape[1] == 3 && e->dtype == cases[i].dtype);
    CHECK(!hd_directory_find(directory, "m.experts.*.down_proj.weight"));
    if (!CHECK_EQ(hd_model_load_state(to, file, n, NULL, i < 2, &n_set, &err), HD_OK)) printf("# %s\n", err.message);
    CHECK_EQ(n_set, 10);
    check_equal(from, to, "m.experts.*.up_proj.weight", cases[i].error);
    hd_directory_free(directory);
    hd_bytes_free(file);
    hd_model_free(from, NULL);
    hd_model_free(to, NULL);
  }
}

/* The forms of weights that a file of one's own may have: rows of one matrix, or [experts, rows, columns]. */
TEST(stacked_experts_are_loaded_and_others_refused) {
  static const struct { const char *json, *message; } cases[] = {
      {"[{\"name\":\"m.experts.*.up_proj.weight\",\"shape\":[9,4]}]", ""},
      {"[{\"name\":\"m.experts.*.up_proj.weight\",\"shape\":[3,3,4]}]", ""},
      {"[{\"name\":\"m.experts.*.up_proj.weight\",\"shape\":[4,3,3]}]", "tensor m.experts.*.up_proj.weight: the network wants shape [9, 4], the file has [4, 3, 3]"},
      {"[{\"name\":\"m.experts.2.up_proj.weight\",\"shape\":[9,4]}]", "tensor m.experts.2.up_proj.weight: the network wants shape [3, 4], the file has [9, 4]"},
  };
  float values[36];
  test_fill(values, 36, 3);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_model *to = zeros();
    float got[36];
    uint8_t *file;
    size_t n, n_set;
    hd_error err = {0};
    CHECK_EQ(hd_safetensors_serialize(&file, &n, cases[i].json, strlen(cases[i].json), values, 36, NULL), HD_OK);
    CHECK_EQ(hd_model_load_weights(to, file, n, &n_set, &err), cases[i].message[0] ? HD_BAD_FILE : HD_OK);
    if (cases[i].message[0]) CHECK_EQ_TEXT(err.message, cases[i].message);
    CHECK_EQ(hd_model_read_weight(to, "m.experts.*.up_proj.weight", got, 36, NULL), HD_OK);
    if (!cases[i].message[0]) CHECK_EQ_BITS(got, values, sizeof values);
    else CHECK(got[0] == 0);
    hd_bytes_free(file);
    hd_model_free(to, NULL);
  }
}

TEST(a_state_dict_that_lacks_one_expert_is_refused_by_its_name) {
  hd_model *model = test_network(mixture, "[2,4]");
  uint8_t *file;
  size_t n;
  hd_error err;
  CHECK_EQ(hd_model_save_weights(&file, &n, model, HD_F32, NULL), HD_OK);
  for (size_t i = 0; i + 15 < n; i++) /* in the header */
    if (memcmp(file + i, "2.up_proj.weight", 16) == 0) file[i] = '7';
  CHECK_EQ(hd_model_load_state(model, file, n, NULL, true, NULL, &err), HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "strict: the file lacks m.experts.2.up_proj.weight, of shape [3, 4]");
  hd_bytes_free(file);
  hd_model_free(model, NULL);
}

TEST(gradients_of_one_expert_are_rows_of_all) {
  hd_model *model = test_network(mixture, "[2,4]");
  hd_session *s = test_session(model, HD_TRAIN);
  hd_tensor input, one, all;
  float loss, target[8] = {0};
  hd_error err;
  CHECK_EQ(hd_session_input(s, &input, &err), HD_OK);
  test_fill(input.data, 8, 5);
  CHECK(test_forward(s));
  const hd_tensor want = {.dtype = HD_F32, .n_dims = 2, .shape = {2, 4}, .data = target};
  if (!CHECK(hd_loss(s, HD_MSE, &want, &loss, &err) == HD_OK && hd_backward(s, &err) == HD_OK)) printf("# %s\n", err.message);
  CHECK_EQ(hd_session_gradient(s, "m.experts.*.down_proj.weight", &all, &err), HD_OK);
  CHECK_EQ(hd_session_gradient(s, "m.experts.2.down_proj.weight", &one, &err), HD_OK);
  CHECK(all.shape[0] == 12 && one.shape[0] == 4 && one.shape[1] == 3 && (float *)one.data == (float *)all.data + 24);
  hd_session_free(s);
  hd_model_free(model, NULL);
}

TEST(experts_without_memory_leak_nothing) {
  hd_model *model = test_network(mixture, "[2,4]");
  const size_t before = hd_memory_live();
  for (int what = 0; what < 3; what++) {
    hd_status status = HD_OUT_OF_MEMORY;
    size_t k = 0;
    for (; status != HD_OK && k < 3000; k++) {
      uint8_t *file = NULL;
      char *text = NULL;
      size_t n = 0;
      hd_memory_fail_after(k);
      if (what == 0) status = hd_model_save_weights(&file, &n, model, HD_U8, NULL);
      else if (what == 1) status = hd_model_save_torch(&file, &n, model, HD_F32, NULL, 0, NULL);
      else status = hd_model_describe(&text, model, NULL);
      hd_memory_fail_after(SIZE_MAX);
      hd_bytes_free(file);
      hd_text_free(text);
      CHECK(hd_memory_live() == before);
    }
    CHECK(status == HD_OK && k > 5);
  }
  hd_model_free(model, NULL);
}
