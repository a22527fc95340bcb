/* C4: Loom's C functions on Loom's own bundles (tests/golden/loom), as a native program calls them. */
#include "loom.h"

#include "base/memory.h"
#include "test.h"

#include <cJSON.h>

/* A golden's text, NUL-terminated; the caller frees it. */
static char *read_text(const char *name) {
  char path[256];
  size_t n = 0;
  snprintf(path, sizeof path, "tests/golden/loom/%s", name);
  char *bytes = test_read_file(path, &n), *text = calloc(n + 1, 1);
  if (bytes) memcpy(text, bytes, n);
  free(bytes);
  return text;
}

static cJSON *read_tree(const char *name) {
  char *text = read_text(name);
  cJSON *tree = cJSON_Parse(text);
  free(text);
  return tree;
}

static const char *text_in(const cJSON *node, const char *key) { return cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(node, key)); }
static double number_in(const cJSON *node, const char *key) { return cJSON_GetNumberValue(cJSON_GetObjectItemCaseSensitive(node, key)); }

/* Fails unless the call's text, which it gives back, is the wanted one. */
static void check_text(char *is, const char *want) {
  CHECK_EQ_TEXT(is, want);
  FreeLoomString(is);
}

/* Fails unless the call says an error that has the words in it. */
static void check_error(char *is, const char *words) {
  if (!CHECK(is && strncmp(is, "{\"error\":", 9) == 0 && strstr(is, words))) printf("# %s\n", is);
  FreeLoomString(is);
}

/* One forward: the JSON array that comes is the golden's output. */
static void check_forward(const cJSON *pair, const cJSON *tolerance, const char *what) {
  const cJSON *given = cJSON_GetObjectItem(pair, "input"), *want = cJSON_GetObjectItem(pair, "output"), *item;
  int n = cJSON_GetArraySize(given), i = 0;
  float *input = malloc((size_t)n * sizeof *input);
  cJSON_ArrayForEach(item, given) input[i++] = (float)item->valuedouble;
  char *text = LoomForward(input, n);
  cJSON *output = cJSON_Parse(text);
  if (!CHECK(cJSON_IsArray(output) && cJSON_GetArraySize(output) == cJSON_GetArraySize(want))) printf("# %s: %.200s\n", what, text);
  const cJSON *got = output ? output->child : NULL;
  cJSON_ArrayForEach(item, want) {
    if (!got || !CHECK_NEAR(got->valuedouble, item->valuedouble, number_in(tolerance, "abs"), number_in(tolerance, "rel"))) {
      printf("# %s\n", what);
      break;
    }
    got = got->next;
  }
  cJSON_Delete(output);
  FreeLoomString(text);
  free(input);
}

static void check_case(const cJSON *entry) {
  const cJSON *files = cJSON_GetObjectItem(entry, "files"), *tolerance = cJSON_GetObjectItem(entry, "tolerance"), *pair;
  const char *id = text_in(entry, "model_id");
  char *bundle = read_text(cJSON_GetArrayItem(files, 0)->valuestring);
  cJSON *io = read_tree(cJSON_GetArrayItem(files, 1)->valuestring);
  check_text(LoomLoadModel(bundle, id), "{\"success\":true}");
  check_forward(io, tolerance, id);
  cJSON_ArrayForEach(pair, cJSON_GetObjectItem(io, "more")) check_forward(pair, tolerance, id);
  cJSON_Delete(io);
  free(bundle);
}

TEST(C4_LoomLoadModel_and_LoomForward_give_Looms_outputs_on_every_bundle) {
  size_t before = hd_memory_live();
  cJSON *cases = read_tree("cases.json"), *entry;
  size_t with_cases = hd_memory_live();
  int n = 0;
  cJSON_ArrayForEach(entry, cases) {
    const char *kind = text_in(entry, "kind");
    if (strcmp(kind, "bundle") != 0 && strcmp(kind, "multi_precision") != 0) continue;
    check_case(entry);
    n++;
  }
  CHECK(n >= 132);
  FreeLoomNetwork();
  CHECK(hd_memory_live() == with_cases);
  cJSON_Delete(cases);
  CHECK(hd_memory_live() == before);
}

TEST(C4_a_saved_network_loads_again_in_every_encoding) {
  static const float input[] = {0.5f, -0.25f, 1, 0, -1, 0.125f, 2};
  char *bundle = read_text("dense_tanh.bundle.json");
  check_text(LoomLoadModel(bundle, "dense_tanh"), "{\"success\":true}");
  char *want = LoomForward(input, 7), *plain = LoomSaveModel("again"), *half = LoomSaveModelWithDType("again", "float16"), *double_ = LoomSaveModelWithDType("again", "float64");
  CHECK(want[0] == '[');
  FreeLoomNetwork();
  check_text(LoomLoadModelWithDType(plain, "again", NULL), "{\"success\":true,\"stored_dtype\":\"float32\"}");
  check_text(LoomForward(input, 7), want);
  check_text(LoomLoadModelWithDType(half, "again", "int8"), "{\"success\":true,\"stored_dtype\":\"float16\"}");
  check_text(LoomLoadModelWithDType(double_, "again", "float32"), "{\"success\":true,\"stored_dtype\":\"float64\"}");
  check_text(LoomForward(input, 7), want);
  FreeLoomString(want);
  FreeLoomString(plain);
  FreeLoomString(half);
  FreeLoomString(double_);
  FreeLoomNetwork();
  free(bundle);
}

TEST(C4_CreateLoomNetwork_builds_the_same_network_every_time) {
  static const char json[] = "{\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":2,\"layers\":[{\"type\":\"dense\",\"input_height\":3,\"output_height\":4,"
                             "\"activation\":\"tanh\"},{\"type\":\"softmax\"}]}";
  static const float input[] = {1, 2, 3};
  check_text(CreateLoomNetwork(json), "{\"status\":\"success\",\"message\":\"network created\"}");
  char *first = LoomForward(input, 3), *info = LoomGetNetworkInfo();
  CHECK(strstr(info, "\"dialect\":\"loom\"") && strstr(info, "\"layers.0.weight\""));
  check_text(CreateLoomNetwork(json), "{\"status\":\"success\",\"message\":\"network created\"}");
  check_text(LoomForward(input, 3), first);
  cJSON *output = cJSON_Parse(first);
  CHECK(cJSON_GetArraySize(output) == 4);
  cJSON_Delete(output);
  FreeLoomString(first);
  FreeLoomString(info);
  FreeLoomNetwork();
}

TEST(C4_rows_of_a_network_with_an_input_shape) {
  static const char json[] = "{\"dialect\":\"standard\",\"input_shape\":[4],\"input_dtype\":\"I32\",\"layers\":[{\"type\":\"embedding\",\"vocab_size\":3,\"embedding_dim\":2}]}";
  static const float ids[] = {2, 0, 2};
  FreeLoomString(CreateLoomNetwork(json));
  char *text = LoomForward(ids, 3);
  cJSON *rows = cJSON_Parse(text);
  if (CHECK(cJSON_GetArraySize(rows) == 6))
    for (int i = 0; i < 2; i++) CHECK(cJSON_GetArrayItem(rows, i)->valuedouble == cJSON_GetArrayItem(rows, 4 + i)->valuedouble);
  cJSON_Delete(rows);
  FreeLoomString(text);
  FreeLoomNetwork();
}

TEST(C4_failures_are_texts_and_leave_the_network) {
  static const float input[] = {1, 2, 3};
  check_error(LoomForward(input, 3), "there is no network");
  check_error(LoomSaveModel("m"), "there is no network");
  check_error(LoomGetNetworkInfo(), "there is no network");
  check_error(CreateLoomNetwork("{}"), "expected at least one layer");
  check_error(CreateLoomNetwork(NULL), "found NULL");
  check_error(LoomLoadModel("[1]", "m"), "expected a Loom bundle");
  FreeLoomString(CreateLoomNetwork("{\"layers_per_cell\":1,\"layers\":[{\"type\":\"softmax\"}]}"));
  check_error(LoomLoadModelWithDType("[1]", "m", "int8"), "expected a Loom bundle");
  check_error(LoomLoadModel(NULL, "m"), "found NULL");
  check_error(LoomSaveModelWithDType("m", "int7"), "'int7'");
  check_error(LoomForward(input, 0), "at least one number");
  check_error(LoomForward(NULL, 3), "at least one number");
  check_error(LoomForward(&(const float){NAN}, 1), "not finite");
  check_text(LoomForward(&(const float){5}, 1), "[1]");
  FreeLoomNetwork();
  FreeLoomNetwork();
  check_error(LoomForward(input, 3), "there is no network");
}

TEST(C4_schedulers_give_Looms_rates) {
  cJSON *io = read_tree("x_schedulers.io.json"), *each, *value;
  int n = 0;
  cJSON_ArrayForEach(each, cJSON_GetObjectItem(io, "schedulers")) {
    const char *kind = text_in(each, "kind");
    const cJSON *args = cJSON_GetObjectItem(each, "args");
    const float initial = (float)number_in(args, "initial");
    long long handle = strcmp(kind, "constant") == 0 ? LoomCreateConstantScheduler((float)number_in(args, "lr"))
                     : strcmp(kind, "linear") == 0   ? LoomCreateLinearDecayScheduler(initial, (float)number_in(args, "final"), (int)number_in(args, "total"))
                     : strcmp(kind, "cosine") == 0   ? LoomCreateCosineScheduler(initial, (float)number_in(args, "min"), (int)number_in(args, "total"))
                                                     : 0;
    if (!handle) continue;
    int step = 0;
    cJSON_ArrayForEach(value, cJSON_GetObjectItem(each, "values")) CHECK_NEAR((double)LoomSchedulerGetLR(handle, step++), value->valuedouble, 1e-5, 1e-5);
    check_text(LoomSchedulerName(handle), text_in(each, "name"));
    LoomFreeScheduler(handle);
    CHECK(LoomSchedulerGetLR(handle, 0) == 0 && !LoomSchedulerName(handle));
    n++;
  }
  CHECK(n == 3);
  CHECK(LoomSchedulerGetLR(0, 1) == 0 && LoomSchedulerGetLR(-1, 1) == 0 && LoomSchedulerGetLR(1LL << 40, 1) == 0);
  LoomFreeScheduler(-1);
  cJSON_Delete(io);
}
