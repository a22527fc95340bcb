/* Loom bundles: golden files read and are written again as they were, broken ones are refused with code and message,
 * numbers are the shortest, and nothing leaks without memory. */
#define _DEFAULT_SOURCE
#include "base/base64.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/bundle.h"
#include "test.h"

#include <dirent.h>
#include <float.h>
#include <time.h>

/* A file of the source tree as a tree of JSON. */
static cJSON *read_tree(const char *path) {
  size_t n = 0;
  char *text = test_read_file(path, &n);
  cJSON *tree = text ? cJSON_ParseWithLength(text, n) : NULL;
  free(text);
  return tree;
}

static const char *text_of(const cJSON *node, const char *key) { return cJSON_GetStringValue(cJSON_GetObjectItem(node, key)); }

/* The Base64 of a model's weights, decoded; the caller frees it with hd_free. */
static char *inner_text(const cJSON *model, size_t *n) {
  const char *data = text_of(cJSON_GetObjectItem(model, "weights"), "data");
  char *text = hd_alloc(hd_base64_decoded_max(strlen(data)) + 1);
  CHECK(hd_base64_decode(data, strlen(data), (uint8_t *)text, n, NULL) == HD_OK);
  text[*n] = '\0';
  return text;
}

/* ---- Reading ---- */

TEST(bundle_becomes_a_cfg_and_named_tensors) {
  size_t n = 0;
  char *text = test_read_file("tests/golden/loom/dense_relu.bundle.json", &n);
  hd_bundle *b;
  hd_error err = {0};
  if (!CHECK(hd_bundle_read(&b, text, n, "dense_relu", &err) == HD_OK)) {
    printf("# %s\n", err.message);
    return;
  }
  CHECK(b->n_layers == 1 && b->n_tensors == 2);
  const hd_bundle_tensor *kernel = hd_bundle_find(b, "layers.0.kernel"), *biases = hd_bundle_find(b, "layers.0.biases");
  CHECK(kernel && kernel->n == 35 && kernel->values[0] == -0.36803f && kernel->values[34] == 0.4581f);
  CHECK(biases && biases->n == 5 && biases->values[4] == 0.00683f);
  CHECK(!hd_bundle_find(b, "layers.0") && !hd_bundle_find(b, "layers.1.kernel") && !hd_bundle_find(b, ""));
  CHECK_EQ_TEXT(text_of(b->cfg, "id"), "dense_relu");
  hd_bundle_free(b);
  hd_bundle_free(NULL);
  free(text);
}

/* A bundle around an inner text; one layer of cfg for each of n_layers. */
static char *make_bundle_form(hd_bundle_form form, const char *inner, size_t n_layers, size_t *n) {
  cJSON *cfg = cJSON_CreateObject(), *layers = cJSON_AddArrayToObject(cfg, "layers");
  for (size_t i = 0; i < n_layers; i++) cJSON_AddItemToArray(layers, cJSON_CreateObject());
  char *text;
  CHECK(hd_bundle_write(&text, n, &(hd_bundle_parts){.id = "m", .cfg = cfg, .weights = inner, .n_weights = strlen(inner), .form = form}, NULL) == HD_OK);
  cJSON_Delete(cfg);
  return text;
}

static char *make_bundle(const char *inner, size_t n_layers, size_t *n) { return make_bundle_form(HD_FORM_DECIMAL, inner, n_layers, n); }

static hd_bundle *read_inner(const char *inner, size_t n_layers) {
  size_t n;
  char *text = make_bundle(inner, n_layers, &n);
  hd_bundle *b;
  hd_error err = {0};
  if (!CHECK(hd_bundle_read(&b, text, n, "m", &err) == HD_OK)) printf("# %s\n", err.message);
  hd_free(text);
  return b;
}

TEST(bundle_names_tensors_by_their_path) {
  hd_bundle *b = read_inner("{\"layers\":[null,{\"gamma\":[]},{\"branch_weights\":[{\"kernel\":[1]},{\"branch_weights\":[{},{\"biases\":[2,3]}]}]},"
                            "{\"cluster_centers\":[[1,2],[3,4],[5,6]],\"branch_weights\":[]}]}", 4);
  if (!b) return;
  CHECK(b->n_layers == 4 && b->n_tensors == 3);
  const hd_bundle_tensor *deep = hd_bundle_find(b, "layers.2.branch_weights.1.branch_weights.1.biases");
  const hd_bundle_tensor *centers = hd_bundle_find(b, "layers.3.cluster_centers");
  CHECK(deep && deep->n == 2 && deep->values[1] == 3);
  CHECK(centers && centers->n == 6 && centers->values[5] == 6);
  CHECK(hd_bundle_find(b, "layers.2.branch_weights.0.kernel") && !hd_bundle_find(b, "layers.1.gamma"));
  hd_bundle_free(b);
}

TEST(bundle_cluster_centers_may_be_one_list_or_rows){
  hd_bundle *b = read_inner("{\"layers\":[{\"cluster_centers\":[1,2,3,4]},{\"cluster_centers\":[[1,2],[3,4]]},{\"cluster_centers\":[[]]}]}", 3);
  if (!b) return;
  const hd_bundle_tensor *flat = hd_bundle_find(b, "layers.0.cluster_centers"), *rows = hd_bundle_find(b, "layers.1.cluster_centers");
  CHECK(b->n_tensors == 2 && flat && rows && flat->n == 4 && rows->n == 4 && memcmp(flat->values, rows->values, 16) == 0);
  hd_bundle_free(b);
}

TEST(bundle_keys_match_whatever_their_case_and_others_are_skipped) {
  hd_bundle *b = read_inner("{\"TYPE\":\"float32\",\"Layers\":[{\"Kernel\":[1],\"name\":\"first\",\"own\":[4],\"n\":3,\"b\":true,"
                            "\"o\":{\"kernel\":[\"y\"]},\"biases\":null}]}", 1);
  if (!b) return;
  CHECK(b->n_tensors == 2 && hd_bundle_find(b, "layers.0.kernel") && hd_bundle_find(b, "layers.0.own"));
  hd_bundle_free(b);
  static const char outer[] = "{\"Type\":\"modelhost/bundle\",\"MODELS\":[{\"Weights\":{\"DATA\":\"eyJsYXllcnMiOltdfQ==\"},\"CFG\":{\"Layers\":[]},\"ID\":\"m\"}]}";
  CHECK(hd_bundle_read(&b, outer, sizeof outer - 1, "m", NULL) == HD_OK);
  hd_bundle_free(b);
}

TEST(F7_bundle_takes_the_first_of_several_models_with_the_id) {
  static const char text[] = "{\"models\":[{\"id\":\"a\",\"cfg\":{\"k\":1},\"weights\":{\"data\":\"e30=\"}},"
                             "{\"id\":\"b\",\"cfg\":{\"k\":2},\"weights\":{\"data\":\"e30=\"}},"
                             "{\"id\":\"b\",\"cfg\":{\"k\":3},\"weights\":{\"data\":\"\"}}],\"type\":\"modelhost/bundle\"}";
  hd_bundle *b;
  CHECK(hd_bundle_read(&b, text, sizeof text - 1, "b", NULL) == HD_OK);
  if (b) CHECK(cJSON_GetNumberValue(cJSON_GetObjectItem(b->cfg, "k")) == 2);
  hd_bundle_free(b);
  hd_error err;
  CHECK(hd_bundle_read(&b, text, sizeof text - 1, "c", &err) == HD_BAD_ARGUMENT);
  CHECK_EQ_TEXT(err.message, "bundle: expected a model \"c\", found 3 models: \"a\", \"b\", \"b\"");
}

TEST(bundle_reads_base64_whose_slashes_are_escaped) {
  static const char text[] = "{\"type\":\"modelhost/bundle\",\"models\":[{\"id\":\"m\",\"cfg\":{},\"weights\":{\"data\":\"eyI/Pz8iOjF9\"}}]}";
  static const char escaped[] = "{\"type\":\"modelhost\\/bundle\",\"models\":[{\"id\":\"m\",\"cfg\":{},\"weights\":{\"data\":\"eyI\\/Pz8iOjF9\"}}]}";
  hd_bundle *b;
  CHECK(hd_bundle_read(&b, text, sizeof text - 1, "m", NULL) == HD_OK);
  hd_bundle_free(b);
  CHECK(hd_bundle_read(&b, escaped, sizeof escaped - 1, "m", NULL) == HD_OK);
  hd_bundle_free(b);
}

/* ---- Golden files ---- */

/* Copies a text with every number in it read as float32 and written again. */
static void rewrite_numbers(hd_text *out, const char *text, size_t n) {
  for (size_t at = 0; at < n;) {
    if (text[at] != '-' && (text[at] < '0' || text[at] > '9')) {
      size_t start = at++;
      if (text[start] == '"') { /* over strings: field names have digits */
        while (text[at] != '"') at++;
        at++;
      }
      hd_text_add(out, text + start, at - start);
      continue;
    }
    hd_json_reader r = hd_json_open(text, n, "inner", NULL);
    r.at = at;
    float value;
    CHECK(hd_json_float(&r, &value));
    hd_text_float(out, value);
    at = r.at;
  }
}

static bool is_form_2(const cJSON *model) {
  const char *format = text_of(cJSON_GetObjectItem(model, "weights"), "fmt");
  return format && strcmp(format, "multiPrecisionB64") == 0;
}

/* One model of a golden bundle: reads, its numbers are written as they were. Returns whether it is of form 1. */
static bool check_model(const char *text, size_t n, const cJSON *model) {
  hd_error err = {0};
  hd_bundle *b;
  hd_status status = hd_bundle_read(&b, text, n, text_of(model, "id"), &err);
  if (!CHECK(status == HD_OK)) printf("# %s\n", err.message);
  if (b) CHECK(b->form == (is_form_2(model) ? HD_FORM_CODED : HD_FORM_DECIMAL) && (b->precision != NULL) == is_form_2(model));
  hd_bundle_free(b);
  if (is_form_2(model)) return false;
  size_t n_inner;
  char *inner = inner_text(model, &n_inner);
  hd_text again = {0};
  rewrite_numbers(&again, inner, n_inner);
  CHECK_EQ_TEXT(again.data, inner);
  hd_free(again.data);
  hd_free(inner);
  return true;
}

/* A bundle of one model, written again, is the same text. */
static void check_written(const char *text, const cJSON *tree) {
  const cJSON *models = cJSON_GetObjectItem(tree, "models"), *model = cJSON_GetArrayItem(models, 0);
  size_t n_inner, n_again;
  char *inner = inner_text(model, &n_inner), *again;
  hd_bundle_parts parts = {.id = text_of(model, "id"), .cfg = cJSON_GetObjectItem(model, "cfg"), .weights = inner, .n_weights = n_inner,
                           .form = is_form_2(model) ? HD_FORM_CODED : HD_FORM_DECIMAL};
  CHECK(hd_bundle_write(&again, &n_again, &parts, NULL) == HD_OK);
  CHECK(n_again == strlen(again));
  CHECK_EQ_TEXT(again, text);
  hd_free(again);
  hd_free(inner);
}

static unsigned check_bundle_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!CHECK(file != NULL)) return 0;
  fseek(file, 0, SEEK_END);
  size_t n = (size_t)ftell(file);
  rewind(file);
  char *text = malloc(n + 1);
  CHECK(fread(text, 1, n, file) == n);
  if (n > 0 && text[n - 1] == '\n') n--; /* the fixtures' own, Loom writes none */
  text[n] = '\0';
  fclose(file);
  unsigned failures = test_failures, n_form_1 = 0;
  cJSON *tree = cJSON_ParseWithLength(text, n);
  const cJSON *models = cJSON_GetObjectItem(tree, "models"), *model;
  cJSON_ArrayForEach(model, models) n_form_1 += check_model(text, n, model);
  if (cJSON_GetArraySize(models) == 1) check_written(text, tree);
  if (test_failures > failures) printf("# in %s\n", path);
  cJSON_Delete(tree);
  free(text);
  return n_form_1;
}

static unsigned check_bundles_in(const char *folder, unsigned *n_files) {
  DIR *directory = opendir(folder);
  unsigned n_form_1 = 0;
  if (!directory) return 0;
  for (struct dirent *entry; (entry = readdir(directory));) {
    char path[1024];
    if (!strstr(entry->d_name, ".bundle.json")) continue;
    snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
    n_form_1 += check_bundle_file(path);
    ++*n_files;
  }
  closedir(directory);
  return n_form_1;
}

TEST(F4_bundle_golden_files_read_and_are_written_as_loom_wrote_them) {
  unsigned n_files = 0;
  CHECK(check_bundles_in(HEDDLE_SOURCE_DIR "/tests/golden/loom", &n_files) >= 13);
}

TEST(bundle_shared_golden_files_read_and_are_written_as_loom_wrote_them) {
  unsigned n_files = 0, n_form_1 = check_bundles_in(HEDDLE_SHARED_DIR "/fixtures/loom", &n_files);
  if (n_files == 0) SKIP("shared/fixtures/loom is not here");
  printf("# fixtures/loom: %u files, %u models of form 1\n", n_files, n_form_1);
  CHECK(n_form_1 >= 140);
}

/* ---- Broken files ---- */

TEST(F11_bundle_broken_files_are_refused_with_their_code_and_message) {
  cJSON *cases = read_tree("tests/golden/broken-bundles/cases.json");
  const cJSON *item;
  int n_cases = 0;
  cJSON_ArrayForEach(item, cases) {
    char path[256];
    size_t n = 0, before = hd_memory_live();
    snprintf(path, sizeof path, "tests/golden/broken-bundles/%s", text_of(item, "file"));
    char *text = test_read_file(path, &n);
    hd_error err = {0};
    hd_bundle *b;
    hd_status status = hd_bundle_read(&b, text, n, text_of(item, "id"), &err);
    CHECK(b == NULL);
    if (!CHECK(strcmp(hd_status_name(status), text_of(item, "code")) == 0) || !CHECK(strstr(err.message, text_of(item, "message"))))
      printf("# %s: %s: %s\n", text_of(item, "name"), hd_status_name(status), err.message);
    CHECK(hd_bundle_read(&b, text, n, text_of(item, "id"), NULL) == status);
    CHECK(hd_memory_live() == before);
    free(text);
    n_cases++;
  }
  CHECK(n_cases >= 20);
  cJSON_Delete(cases);
}

TEST(bundle_cut_anywhere_is_refused) {
  size_t n = 0, before = hd_memory_live();
  char *text = test_read_file("tests/golden/loom/dense_relu.bundle.json", &n);
  while (n > 0 && text[n - 1] == '\n') n--;
  for (size_t cut = 0; cut < n; cut++) {
    char *part = malloc(cut ? cut : 1);
    memcpy(part, text, cut);
    hd_bundle *b;
    hd_error err = {0};
    CHECK(hd_bundle_read(&b, part, cut, "dense_relu", &err) == HD_BAD_FILE && *err.message && !b);
    free(part);
  }
  CHECK(hd_memory_live() == before);
  free(text);
}

TEST(bundle_without_memory_leaks_nothing) {
  size_t n_text, before = hd_memory_live(), n = 0;
  char *text = make_bundle("{\"layers\":[{\"kernel\":[1,2],\"branch_weights\":[{\"gamma\":[1]}]},{\"cluster_centers\":[[1]]}]}", 2, &n_text);
  size_t with_text = hd_memory_live();
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 1000; n++) {
    hd_bundle *b;
    hd_error err = {0};
    hd_memory_fail_after(n);
    status = hd_bundle_read(&b, text, n_text, "m", &err);
    hd_memory_fail_after(SIZE_MAX);
    if (!CHECK(status == HD_OK || (status == HD_OUT_OF_MEMORY && !b && *err.message))) printf("# %zu: %s\n", n, err.message);
    hd_bundle_free(b);
    CHECK(hd_memory_live() == with_text);
  }
  CHECK(status == HD_OK && n > 10);
  hd_free(text);
  CHECK(hd_memory_live() == before);
}

TEST(bundle_write_without_memory_leaks_nothing) {
  cJSON *cfg = cJSON_Parse("{\"layers\":[{\"type\":\"dense\",\"epsilon\":0.00001}]}");
  size_t before = hd_memory_live(), n = 0, n_text;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 100; n++) {
    char *text;
    hd_memory_fail_after(n);
    status = hd_bundle_write(&text, &n_text, &(hd_bundle_parts){.id = "m", .cfg = cfg, .weights = "{}", .n_weights = 2}, NULL);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(status == HD_OK ? text != NULL : status == HD_OUT_OF_MEMORY && !text && n_text == 0);
    hd_free(text);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 1);
  cJSON_Delete(cfg);
}

/* ---- Numbers ---- */

static void check_number(float value, const char *expected) {
  hd_text t = {0};
  hd_text_float(&t, value);
  CHECK_EQ_TEXT(t.data, expected);
  hd_free(t.data);
}

TEST(text_floats_are_written_as_go_and_javascript_write_them) {
  check_number(0.0f, "0");
  check_number(-0.0f, "-0");
  check_number(1.0f, "1");
  check_number(-1.5f, "-1.5");
  check_number(0.1f, "0.1");
  check_number(100.0f, "100");
  check_number(123456.0f, "123456");
  check_number(16777216.0f, "16777216");
  check_number(33554432.0f, "33554432");
  check_number(1e-6f, "0.000001");
  check_number(1.25e-6f, "0.00000125");
  check_number(9.999999e-7f, "9.999999e-7");
  check_number(1e-7f, "1e-7");
  check_number(1.5e-10f, "1.5e-10");
  check_number(1e20f, "100000000000000000000");
  check_number(9.999999e20f, "999999900000000000000");
  check_number(1e21f, "1e+21");
  check_number(-1.234e30f, "-1.234e+30");
  check_number(FLT_MAX, "3.4028235e+38");
  check_number(FLT_MIN, "1.1754944e-38");
  check_number(0x1p-149f, "1e-45");
  check_number(0x1p-148f, "3e-45");
  check_number(0.3f, "0.3");
  check_number(1.0f / 3.0f, "0.33333334");
  check_number(8589973504.0f, "8589974000"); /* seven digits do */
}

/* Below a power of two the neighbours are closer: no decimal with a digit less, on either side, may read back. */
TEST(text_floats_are_shortest_at_powers_of_two) {
  for (int e = -149; e < 128; e++) {
    hd_text t = {0};
    float value = ldexpf(1, e);
    hd_text_float(&t, value);
    CHECK(strtof(t.data, NULL) == value);
    char exact_text[256], digits[32];
    int n_digits = 0, n_trailing = 0;
    for (const char *s = t.data; *s && *s != 'e'; s++) {
      if (*s < '0' || *s > '9' || (n_digits == 0 && *s == '0')) continue;
      n_digits++;
      n_trailing = *s == '0' ? n_trailing + 1 : 0;
    }
    if (!strchr(t.data, '.')) n_digits -= n_trailing;
    snprintf(exact_text, sizeof exact_text, "%.160e", (double)value); /* all its digits */
    unsigned long long below = 0;
    for (int i = 0, taken = 0; taken < n_digits - 1; i++) {
      if (exact_text[i] == '.') continue;
      below = below * 10 + (unsigned)(exact_text[i] - '0');
      taken++;
    }
    int exponent = atoi(strchr(exact_text, 'e') + 1) - (n_digits - 2);
    for (unsigned side = 0; n_digits > 1 && side < 2; side++) {
      snprintf(digits, sizeof digits, "%llue%d", below + side, exponent);
      if (!CHECK(strtof(digits, NULL) != value)) printf("# 2^%d: %s, but %s would do\n", e, t.data, digits);
    }
    hd_free(t.data);
  }
}

TEST(text_floats_read_back_and_are_no_longer_than_nine_digits) {
  for (int i = 0; i < 200000; i++) {
    uint32_t bits = (uint32_t)test_random();
    float value, back;
    memcpy(&value, &bits, sizeof value);
    if (!isfinite(value)) continue;
    char shortest[48];
    hd_text t = {0};
    hd_text_float(&t, value);
    back = strtof(t.data, NULL);
    CHECK_EQ_BITS(&back, &value, sizeof value);
    /* One digit less never reads back. */
    size_t n_digits = 0, n_zeros = 0;
    for (const char *s = t.data; *s && *s != 'e'; s++) {
      if (*s < '0' || *s > '9' || (*s == '0' && n_digits == 0)) continue;
      n_digits++;
      n_zeros = *s == '0' ? n_zeros + 1 : 0;
    }
    if (!strchr(t.data, '.')) n_digits -= n_zeros; /* 1200 has two digits */
    CHECK(n_digits <= 9);
    if (n_digits > 1) {
      snprintf(shortest, sizeof shortest, "%.*e", (int)n_digits - 2, (double)value);
      CHECK(strtof(shortest, NULL) != value);
    }
    hd_free(t.data);
  }
}

/* Of the decimals of that many digits it is the nearest; of sizes that weights have, neighbours of round numbers among them. */
TEST(text_floats_are_the_nearest_of_their_length) {
  for (int i = 0; i < 300000; i++) {
    float value = (float)ldexp((double)(uint32_t)test_random() / 4294967296.0, (int)(test_random() % 60) - 40);
    if (i % 3 == 0) value = (float)(pow(10, (int)(test_random() % 24) - 10) * (double)(1 + test_random() % 999));
    if (i % 6 == 0) value = nextafterf(value, i % 12 ? 0 : INFINITY);
    int two;
    if (!(value > 0) || frexpf(value, &two) == 0.5f) continue;
    hd_text t = {0};
    hd_text_float(&t, value);
    char expected[48];
    for (int p = 0; p < 9; p++) {
      snprintf(expected, sizeof expected, "%.*e", p, (double)value);
      if (strtof(expected, NULL) == value) break;
    }
    if (!CHECK(strtod(t.data, NULL) == strtod(expected, NULL))) printf("# %s, expected %s\n", t.data, expected);
    hd_free(t.data);
  }
}

TEST(text_doubles_are_the_shortest_too) {
  static const struct {
    double value;
    const char *text;
  } cases[] = {{0.1, "0.1"}, {1e-5, "0.00001"}, {1e-7, "1e-7"}, {9007199254740993.0, "9007199254740992"}, {5e-324, "5e-324"},
               {1.7976931348623157e308, "1.7976931348623157e+308"}, {0x1p-44, "5.684341886080802e-14"}, {10000, "10000"}, {-2.5, "-2.5"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_text t = {0};
    hd_text_double(&t, cases[i].value);
    CHECK_EQ_TEXT(t.data, cases[i].text);
    hd_free(t.data);
  }
}

TEST(text_strings_and_trees_are_written_as_go_writes_them) {
  hd_text t = {0};
  hd_text_quoted(&t, "a\"b\\c\n\t\x01<&>é😀\xE2\x80\xA8/");
  CHECK_EQ_TEXT(t.data, "\"a\\\"b\\\\c\\n\\t\\u0001\\u003c\\u0026\\u003eé😀\\u2028/\"");
  hd_free(t.data);
  cJSON *tree = cJSON_Parse("{\"a\":[],\"b\":{},\"c\":[1,{\"d\":null}],\"e\":true}");
  t = (hd_text){0};
  hd_text_json(&t, tree, 0);
  CHECK_EQ_TEXT(t.data, "{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": null\n    }\n  ],\n  \"e\": true\n}");
  hd_free(t.data);
  cJSON_Delete(tree);
}

TEST(text_without_memory_fails_and_stays_as_it_is) {
  hd_text t = {0};
  hd_text_add(&t, "abc", 3);
  hd_memory_fail_after(0);
  for (int i = 0; i < 100; i++) hd_text_add(&t, "0123456789", 10);
  hd_memory_fail_after(SIZE_MAX);
  CHECK(t.failed);
  size_t n = t.n;
  hd_text_print(&t, "more");
  CHECK(t.n == n && strncmp(t.data, "abc0123456789", 13) == 0);
  hd_free(t.data);
}

/* ---- Time ---- */

static void check_hostile_form(hd_bundle_form form, const char *piece, const char *first, const char *last) {
  enum { INNER = 780000 }; /* a megabyte of Base64 */
  char *inner = malloc(INNER + 2000);
  size_t n = (size_t)sprintf(inner, "%s", first), n_text;
  while (n + strlen(piece) < INNER) n += (size_t)sprintf(inner + n, "%s", piece);
  strcpy(inner + (inner[n - 1] == ',' ? n - 1 : n), last);
  char *text = make_bundle_form(form, inner, 1, &n_text), *copy = malloc(n_text);
  memcpy(copy, text, n_text); /* the text does not count */
  hd_free(text);
  free(inner);
  hd_bundle *b;
  clock_t start = clock();
  hd_bundle_read(&b, copy, n_text, "m", NULL);
  double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
  if (!CHECK(seconds < 1)) printf("# %s: %.2f s\n", piece, seconds);
  if (!CHECK(hd_memory_peak() < 16 << 20)) printf("# %s: %zu bytes\n", piece, hd_memory_peak());
  hd_bundle_free(b);
  free(copy);
}

static void check_hostile(const char *piece, const char *first, const char *last) { check_hostile_form(HD_FORM_DECIMAL, piece, first, last); }

TEST(the_other_forms_of_bundles_take_a_hostile_megabyte_quickly_and_in_little_memory) {
  check_hostile_form(HD_FORM_CODED, "{\"kernel\":\"gICAgA==\"},", "{\"dtype\":\"int8\",\"scale\":1,\"layers\":[", "]}");
  check_hostile_form(HD_FORM_CODED, "{},", "{\"dtype\":\"int4\",\"scale\":1,\"layers\":[", "]}");
  check_hostile_form(HD_FORM_CODED, "\"a\":\"gICAgA==\",", "{\"dtype\":\"float64\",\"scale\":1,\"layers\":[{", "}]}");
  check_hostile_form(HD_FORM_CODED, "gICA", "{\"dtype\":\"int8\",\"scale\":1,\"layers\":[{\"kernel\":\"", "\"}]}");
  check_hostile_form(HD_FORM_CODED, "{\"branch_weights\":[", "{\"dtype\":\"int4\",\"layers\":[", "");
  check_hostile_form(HD_FORM_AFFINE, "{\"kernel\":{\"codes\":\"AQ==\",\"scale\":[1]}},", "{\"dtype\":\"int8\",\"affine_layers\":[", "]}");
  check_hostile_form(HD_FORM_AFFINE, "1,", "{\"dtype\":\"int8\",\"affine_layers\":[{\"kernel\":{\"codes\":\"AQ==\",\"scale\":[", "]}}]}");
  check_hostile_form(HD_FORM_AFFINE, "AQEB", "{\"dtype\":\"int8\",\"affine_layers\":[{\"kernel\":{\"scale\":[1],\"codes\":\"", "\"}}]}");
  check_hostile_form(HD_FORM_AFFINE, "{},", "{\"dtype\":\"uint8\",\"affine_layers\":[", "]}");
}

TEST(bundle_takes_a_hostile_megabyte_quickly_and_in_little_memory) {
  char deep[2048] = "{\"layers\":[", deep_end[256] = "]}"; /* 60 branches deep, so that each name has a kilobyte */
  for (int i = 0; i < 60; i++) {
    strcat(deep, "{\"branch_weights\":[");
    memmove(deep_end + 2, deep_end, strlen(deep_end) + 1);
    memcpy(deep_end, "]}", 2);
  }
  check_hostile("0,", "{\"layers\":[{\"kernel\":[", "]}]}");
  check_hostile("{\"beta\":[0],\"gamma\":[0]},", "{\"layers\":[", "]}");
  check_hostile("{\"beta\":[0],\"gamma\":[0],\"kernel\":[0]},", deep, deep_end);
  check_hostile("{\"beta\":[0]},", deep, deep_end);
  check_hostile("\"a\":[0],", "{\"layers\":[{", "}]}");
  check_hostile("{},", "{\"layers\":[", "]}");
  check_hostile("[0],", "{\"layers\":[{\"cluster_centers\":[", "]}]}");
  check_hostile("{\"branch_weights\":[", "{\"layers\":[", "");
  check_hostile("[", "{\"layers\":[{\"kernel\":", "");
  check_hostile("1.17549429e-38,", "{\"layers\":[{\"kernel\":[", "]}]}");
  check_hostile("\"kernel\":[],", "{\"layers\":[{", "}]}");
}
