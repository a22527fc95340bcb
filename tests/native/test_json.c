/* The JSON door: what it refuses and says, how it rounds, and that trees, getters and failures leak nothing.
 * json-test-suite (nst/JSONTestSuite): y_ must be read, n_ must be refused, i_ may be either. */
#define _DEFAULT_SOURCE
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "hostile.h"

#include <dirent.h>
#include <float.h>

/* The whole text through the pull reader. */
static hd_status read_all(const char *text, size_t n, hd_error *err) {
  hd_json_reader r = hd_json_open(text, n, "text", err);
  hd_json_skip(&r, NULL, NULL);
  hd_json_finish(&r);
  return r.status;
}

static hd_status parse_and_free(const char *text, size_t n, hd_error *err) {
  cJSON *tree;
  hd_status status = hd_json_parse(&tree, text, n, err);
  CHECK((tree != NULL) == (status == HD_OK));
  cJSON_Delete(tree);
  return status;
}

/* A copy of exactly n bytes, so that AddressSanitizer sees a step past the end. */
static char *exact(const char *text, size_t n) {
  char *copy = malloc(n ? n : 1);
  memcpy(copy, text, n);
  return copy;
}

static void check_message(const char *text, const char *message) {
  size_t n = strlen(text);
  char *copy = exact(text, n);
  hd_error err = {0};
  CHECK(read_all(copy, n, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, message);
  CHECK(parse_and_free(copy, n, NULL) == HD_BAD_FILE);
  free(copy);
}

TEST(json_says_where_what_was_expected_and_what_was_found) {
  check_message("", "text: byte 0: expected a value, found the end of the text");
  check_message("[1, 2 x]", "text: byte 6: expected a comma or ']', found 'x'");
  check_message("[1,]", "text: byte 3: expected a value after the comma, found ']'");
  check_message("[,1]", "text: byte 1: expected a value, found ','");
  check_message("[1", "text: byte 2: expected a comma or ']', found the end of the text");
  check_message("{\"a\":1,}", "text: byte 7: expected a key in quotes, found '}'");
  check_message("{a:1}", "text: byte 1: expected a key in quotes or '}', found 'a'");
  check_message("{\"a\" 1}", "text: byte 5: expected a colon after the key, found '1'");
  check_message("{\"a\":1 \"b\":2}", "text: byte 7: expected a comma or '}', found '\"'");
  check_message("1 2", "text: byte 2: expected the end of the text, found '2'");
  check_message("NaN", "text: byte 0: expected a value, found 'NaN'");
  check_message("nul", "text: byte 0: expected true, false, null or another value, found 'nul'");
  check_message("\xEF\xBB\xBF{}", "text: byte 0: expected a value, found '\xEF\xBB\xBF'");
  check_message("[\x01]", "text: byte 1: expected a value, found byte 0x01");
}

TEST(json_refuses_numbers_that_are_not_json) {
  check_message("012", "text: byte 1: expected the end of the text, found '12'");
  check_message("-", "text: byte 1: expected a digit, found the end of the text");
  check_message("-a", "text: byte 1: expected a digit, found 'a'");
  check_message("1.", "text: byte 2: expected a digit, found the end of the text");
  check_message("1.e3", "text: byte 2: expected a digit, found 'e3'");
  check_message("1e", "text: byte 2: expected a digit, found the end of the text");
  check_message("1e+", "text: byte 3: expected a digit, found the end of the text");
  check_message(".5", "text: byte 0: expected a value, found '.'");
  check_message("+1", "text: byte 0: expected a value, found '+'");
  check_message("0x10", "text: byte 1: expected the end of the text, found 'x10'");
}

TEST(json_refuses_strings_that_are_not_json) {
  check_message("\"a", "text: byte 2: expected the string's closing '\"', found the end of the text");
  check_message("\"\t\"", "text: byte 1: expected no raw control character in a string, found byte 0x09");
  check_message("\"\\x\"", "text: byte 1: expected one of the escapes \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX, found '\\'");
  check_message("\"\\", "text: byte 1: expected one of the escapes \\\" \\\\ \\/ \\b \\f \\n \\r \\t \\uXXXX, found '\\'");
  check_message("\"\\u12G4\"", "text: byte 1: expected four hex digits after \\u, found '\\'");
  check_message("\"\\ud800\"", "text: byte 7: expected the second half of a surrogate pair, found '\"'");
  check_message("\"\\ud800\\u0041\"", "text: byte 7: expected the second half of a surrogate pair, found '\\'");
  check_message("\"\\udc00\"", "text: byte 1: expected no second half of a surrogate pair without the first, found '\\'");
  check_message("{\"\\ud800\":1}", "text: byte 8: expected the second half of a surrogate pair, found '\"'");
  check_message("\"\xC0\x80\"", "text: byte 1: expected UTF-8, found byte 0xC0");
  check_message("\"\xED\xA0\x80\"", "text: byte 1: expected UTF-8, found byte 0xED");
  check_message("\"\xF4\x90\x80\x80\"", "text: byte 1: expected UTF-8, found byte 0xF4");
  check_message("\"\xE2\x82\"", "text: byte 1: expected UTF-8, found byte 0xE2");
}

TEST(json_unescapes_strings) {
  static const char text[] = "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\ud83d\\ude00\\u0000z\"";
  static const char expected[] = "\"\\/\b\f\n\r\tAé€😀\0z";
  hd_json_reader r = hd_json_open(text, sizeof text - 1, "text", NULL);
  char *got;
  size_t n;
  CHECK(hd_json_string(&r, &got, &n) && hd_json_finish(&r));
  CHECK(n == sizeof expected - 1);
  CHECK_EQ_BITS(got, expected, sizeof expected);
  hd_free(got);
  const char *raw;
  r = hd_json_open("\"a\\/b\"", 6, "text", NULL);
  CHECK(!hd_json_raw_string(&r, &raw, &n) && r.status == HD_BAD_FILE && raw == NULL);
  r = hd_json_open(" \"aGk=\"", 7, "text", NULL);
  CHECK(hd_json_raw_string(&r, &raw, &n) && n == 4 && memcmp(raw, "aGk=", 4) == 0);
}

TEST(json_reader_walks_objects_and_arrays) {
  static const char text[] = " { \"a\" : [ 1 , [ ] , 2.5 ] , \"b\" : { } , \"c\" : null } ";
  hd_json_reader r = hd_json_open(text, sizeof text - 1, "text", NULL);
  char *key, seen[16] = "";
  size_t n_key, n_items = 0, n_span;
  const char *span;
  CHECK(hd_json_peek(&r) == HD_JSON_OBJECT && hd_json_enter_object(&r));
  while (hd_json_next_key(&r, &key, &n_key)) {
    strcat(seen, key);
    if (*key == 'a') {
      hd_json_enter_array(&r);
      while (hd_json_next_item(&r)) n_items += hd_json_skip(&r, NULL, NULL);
    } else {
      CHECK(hd_json_skip(&r, &span, &n_span));
      CHECK(*key == 'b' ? n_span == 3 && memcmp(span, "{ }", 3) == 0 : n_span == 4 && memcmp(span, "null", 4) == 0);
    }
    hd_free(key);
  }
  CHECK(hd_json_finish(&r) && r.depth == 0);
  CHECK_EQ_TEXT(seen, "abc");
  CHECK(n_items == 3);
}

TEST(json_reader_does_nothing_after_the_first_failure) {
  hd_error err = {0};
  hd_json_reader r = hd_json_open("[true, 5]", 9, "text", &err);
  double number;
  float single;
  uint64_t whole;
  char *text;
  const char *raw;
  size_t n;
  hd_json_enter_array(&r);
  hd_json_next_item(&r);
  CHECK(!hd_json_number(&r, &number));
  CHECK_EQ_TEXT(err.message, "text: byte 1: expected a number, found 'true'");
  size_t at = r.at;
  CHECK(!hd_json_number(&r, &number) && !hd_json_float(&r, &single) && !hd_json_u64(&r, &whole) && !hd_json_string(&r, &text, &n));
  CHECK(!hd_json_raw_string(&r, &raw, &n) && !hd_json_skip(&r, &raw, &n) && !hd_json_next_item(&r) && !hd_json_next_key(&r, &text, &n));
  CHECK(!hd_json_enter_array(&r) && !hd_json_enter_object(&r) && !hd_json_finish(&r) && hd_json_peek(&r) == HD_JSON_END);
  CHECK(hd_json_fail(&r, "anything") == HD_BAD_FILE && r.at == at);
  CHECK_EQ_TEXT(err.message, "text: byte 1: expected a number, found 'true'");
}

/* ---- Numbers ---- */

static bool read_float(const char *text, float *value, hd_error *err) {
  hd_json_reader r = hd_json_open(text, strlen(text), "text", err);
  return hd_json_float(&r, value) && hd_json_finish(&r);
}

static void check_float(const char *text, float expected) {
  float value;
  if (!CHECK(read_float(text, &value, NULL))) printf("# %s\n", text);
  if (!CHECK_EQ_BITS(&value, &expected, sizeof value)) printf("# %s\n", text);
}

TEST(json_floats_are_rounded_once) {
  check_float("0.1", 0.1f);
  check_float("-0", -0.0f);
  check_float("0e5", 0.0f);
  check_float("16777217", 16777216.0f);  /* half-way: to even */
  check_float("16777217.0000000001", 16777218.0f); /* just above half-way, which a double does not see */
  check_float("16777219", 16777220.0f);
  check_float("16777218.9999999999", 16777218.0f);
  check_float("1.00000017881393432617187500000000000000000000000000000001", 0x1.000004p0f);
  check_float("1.00000017881393432617187500", 0x1.000004p0f);
  check_float("1.00000017881393432617187499", 0x1.000002p0f);
  check_float("3.4028234663852886e38", FLT_MAX);
  check_float("3.4028235677973362e38", FLT_MAX); /* still nearer to FLT_MAX */
  check_float("1e-45", 0x1p-149f);
  check_float("7e-46", 0.0f);
  check_float("1.1754942e-38", 0x1.fffffcp-127f);
  check_float("123456789012345678901234567890", 123456789012345678901234567890.0f);
  check_float("1E+2", 100.0f);
  check_float("0.000000000000000000000000000000000000000000000001e48", 1.0f);
}

/* The fast way must give what strtof gives, on numbers as files have them and on numbers near ties. */
TEST(json_floats_agree_with_strtof) {
  for (int i = 0; i < 300000; i++) {
    char text[64];
    uint32_t bits = (uint32_t)test_random();
    float expected;
    memcpy(&expected, &bits, sizeof expected);
    if (!isfinite(expected)) continue;
    double near_tie = (double)expected * (1 + 0x1p-25) + (double)((int)(test_random() % 5) - 2) * 0x1p-52 * (double)expected;
    if (i % 3 == 0) snprintf(text, sizeof text, "%.*g", 1 + (int)(test_random() % 12), (double)expected);
    else if (i % 3 == 1) snprintf(text, sizeof text, "%.*f", (int)(test_random() % 9), (double)test_random_float() * 1e5);
    else snprintf(text, sizeof text, "%.17g", near_tie);
    expected = strtof(text, NULL);
    if (!isfinite(expected)) continue;
    check_float(text, expected);
  }
}

TEST(json_doubles_agree_with_strtod) {
  for (int i = 0; i < 100000; i++) {
    char text[64];
    uint64_t bits = test_random();
    double value, expected;
    memcpy(&expected, &bits, sizeof expected);
    if (!isfinite(expected)) continue;
    if (i % 2) snprintf(text, sizeof text, "%.17g", expected);
    else snprintf(text, sizeof text, "%.*f", (int)(test_random() % 9), (double)test_random_float() * 1e9);
    expected = strtod(text, NULL);
    hd_json_reader r = hd_json_open(text, strlen(text), "text", NULL);
    CHECK(hd_json_number(&r, &value) && hd_json_finish(&r));
    CHECK_EQ_BITS(&value, &expected, sizeof value);
  }
}

TEST(json_refuses_numbers_that_overflow_and_names_them) {
  hd_error err = {0};
  float value;
  CHECK(!read_float("1e39", &value, &err));
  CHECK_EQ_TEXT(err.message, "text: byte 0: expected a number that fits a float32, found 1e39");
  CHECK(!read_float("-3.4028235677973367e38", &value, &err));
  CHECK_EQ_TEXT(err.message, "text: byte 0: expected a number that fits a float32, found -3.4028235677973367e38");
  CHECK(!read_float("1e99999999999999999999", &value, &err));
  char digits[1001];
  memset(digits, '9', 1000);
  digits[1000] = '\0';
  CHECK(!read_float(digits, &value, &err) && strlen(err.message) < 200);
  CHECK(parse_and_free("[1e400]", 7, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "JSON: byte 1: expected a number that fits a float64, found 1e400");
  CHECK(read_float("1e-99999999999999999999", &value, &err) && value == 0);
}

TEST(json_whole_numbers_are_exact) {
  static const struct {
    const char *text;
    uint64_t value;
  } right[] = {{"0", 0}, {"7", 7}, {"9007199254740993", 9007199254740993u}, {"18446744073709551615", UINT64_MAX}};
  static const char *const wrong[] = {"-1", "-0", "1.0", "1e3", "18446744073709551616", "99999999999999999999999", "01", "\"1\"", "", "x"};
  for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
    uint64_t value;
    hd_json_reader r = hd_json_open(right[i].text, strlen(right[i].text), "text", NULL);
    CHECK(hd_json_u64(&r, &value) && hd_json_finish(&r) && value == right[i].value);
  }
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    uint64_t value;
    hd_json_reader r = hd_json_open(wrong[i], strlen(wrong[i]), "text", NULL);
    CHECK(!(hd_json_u64(&r, &value) && hd_json_finish(&r)));
  }
}

/* ---- Trees ---- */

TEST(json_parse_refuses_duplicate_keys) {
  static const struct {
    const char *text;
    bool right;
  } cases[] = {{"{\"a\":1,\"b\":2,\"a\":3}", false},
               {"{\"a\":1,\"\\u0061\":3}", false},
               {"{\"x\":{\"a\":1},\"y\":{\"a\":1},\"a\":[{\"a\":1},{\"a\":2}]}", true},
               {"{\"x\":{\"k\":1,\"k\":2}}", false},
               {"{\"a\":1,\"A\":2}", true},
               {"{\"\":1,\"\":2}", false},
               {"{\"a\\u0000b\":1,\"a\\u0000c\":2}", false}}; /* the tree could not tell them apart */
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_status status = parse_and_free(cases[i].text, strlen(cases[i].text), NULL);
    CHECK(status == (cases[i].right ? HD_OK : HD_BAD_FILE));
  }
  hd_error err;
  CHECK(parse_and_free(cases[0].text, strlen(cases[0].text), &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "JSON: byte 17: expected every key once in an object, found \"a\" again");
}

TEST(json_parse_does_not_need_a_final_nul) {
  char *text = exact("{\"a\":12}", 8), *number = exact("12", 2);
  cJSON *tree;
  CHECK(hd_json_parse(&tree, text, 8, NULL) == HD_OK);
  cJSON_Delete(tree);
  CHECK(hd_json_parse(&tree, number, 2, NULL) == HD_OK && cJSON_GetNumberValue(tree) == 12);
  cJSON_Delete(tree);
  free(text);
  free(number);
}

static char *repeat(const char *piece, size_t times, size_t *n) {
  size_t length = strlen(piece);
  *n = length * times;
  char *text = malloc(*n + 1);
  for (size_t i = 0; i < times; i++) memcpy(text + i * length, piece, length);
  text[*n] = '\0';
  return text;
}

TEST(json_limits_depth_and_nodes) {
  hd_error err;
  char text[2 * HD_JSON_MAX_DEPTH + 3] = "";
  for (int depth = HD_JSON_MAX_DEPTH; depth <= HD_JSON_MAX_DEPTH + 1; depth++) {
    memset(text, '[', (size_t)depth);
    memset(text + depth, ']', (size_t)depth);
    hd_status expected = depth <= HD_JSON_MAX_DEPTH ? HD_OK : HD_BAD_FILE;
    CHECK(read_all(text, (size_t)depth * 2, &err) == expected);
    CHECK(parse_and_free(text, (size_t)depth * 2, &err) == expected);
  }
  CHECK_EQ_TEXT(err.message, "JSON: byte 128: expected at most 128 levels of nesting, found one more");
  size_t n;
  char *many = repeat("0,", HD_JSON_MAX_NODES, &n); /* with the brackets: one value too many */
  char *list = malloc(n + 1);
  snprintf(list, n + 1, "[%.*s", (int)n - 1, many);
  list[n] = ']';
  CHECK(parse_and_free(list, n + 1, &err) == HD_UNSUPPORTED);
  CHECK(strstr(err.message, "expected at most 65536 values") != NULL);
  CHECK(read_all(list, n + 1, NULL) == HD_OK);
  free(many);
  free(list);
}

TEST(json_getters_read_and_give_defaults) {
  static const char text[] = "{\"n\":3,\"m\":3.0,\"x\":-1.5,\"t\":\"relu\",\"b\":true,\"z\":null,\"list\":[{\"k\":7},5],\"Case\":4,\"o\":{\"p\":1}}";
  cJSON *tree;
  hd_status status = HD_OK;
  hd_error err;
  CHECK(hd_json_parse(&tree, text, sizeof text - 1, &err) == HD_OK);
  hd_json j = hd_json_root(tree, "cfg", &status, &err);
  CHECK(hd_json_get_size(&j, "n", 9) == 3 && hd_json_get_size(&j, "m", 9) == 3 && hd_json_get_size(&j, "none", 9) == 9);
  CHECK(hd_json_get_number(&j, "x", 0) == -1.5 && hd_json_get_number(&j, "z", 2) == 2);
  CHECK_EQ_TEXT(hd_json_get_text(&j, "t", "?"), "relu");
  CHECK_EQ_TEXT(hd_json_get_text(&j, "z", "?"), "?");
  CHECK(hd_json_get_bool(&j, "b", false) && hd_json_get_bool(&j, "none", true));
  CHECK(hd_json_has(&j, "n") && !hd_json_has(&j, "z") && !hd_json_has(&j, "none"));
  CHECK(hd_json_get_size(&j, "case", 0) == 4);
  CHECK(hd_json_count(&j, "list") == 2 && hd_json_count(&j, "none") == 0);
  hd_json list = hd_json_member(&j, "list"), first = hd_json_item(&list, 0), third = hd_json_item(&list, 2);
  CHECK_EQ_TEXT(first.path, "cfg.list[0]");
  CHECK(hd_json_get_size(&first, "k", 0) == 7 && third.node == NULL && hd_json_get_size(&third, "k", 1) == 1);
  hd_json none = hd_json_member(&j, "none"), deeper = hd_json_member(&none, "p");
  CHECK(none.node == NULL && deeper.node == NULL);
  CHECK(status == HD_OK);
  cJSON_Delete(tree);
}

TEST(json_getters_record_the_first_error_with_its_path) {
  static const char text[] = "{\"layers\":[{\"stride\":3.5,\"name\":5,\"deep\":[1]}],\"neg\":-1,\"big\":1e300,\"s\":\"4\"}";
  cJSON *tree;
  CHECK(hd_json_parse(&tree, text, sizeof text - 1, NULL) == HD_OK);
  static const struct {
    const char *key, *message;
  } sizes[] = {{"neg", "neg: expected a whole number, found -1"},
               {"big", "big: expected a whole number, found 1.0000000000000001e+300"},
               {"s", "s: expected a whole number, found \"4\""},
               {"layers", "layers: expected a whole number, found an array"}};
  for (size_t i = 0; i < 4; i++) {
    hd_status status = HD_OK;
    hd_error err;
    hd_json j = hd_json_root(tree, "", &status, &err);
    CHECK(hd_json_get_size(&j, sizes[i].key, 11) == 11 && status == HD_BAD_FILE);
    CHECK_EQ_TEXT(err.message, sizes[i].message);
  }
  hd_status status = HD_OK;
  hd_error err;
  hd_json j = hd_json_root(tree, "", &status, &err), layers = hd_json_member(&j, "layers"), layer = hd_json_item(&layers, 0);
  CHECK(hd_json_get_size(&layer, "stride", 1) == 1);
  hd_json_get_text(&layer, "name", "");
  hd_json_refuse(&layer, "stride", HD_UNSUPPORTED, "too late");
  CHECK(status == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "layers[0].stride: expected a whole number, found 3.5");
  status = HD_OK;
  hd_json deep = hd_json_member(&layer, "deep"), item = hd_json_item(&deep, 0);
  CHECK(hd_json_get_size(&item, "k", 2) == 2);
  CHECK_EQ_TEXT(err.message, "layers[0].deep[0]: expected an object, found 1");
  status = HD_OK;
  hd_json_refuse(&layer, "type", HD_UNSUPPORTED, "unknown type '%s'", "conv9d");
  CHECK(status == HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "layers[0].type: unknown type 'conv9d'");
  cJSON_Delete(tree);
}

TEST(json_says_which_size_is_needed_and_what_is_there_instead) {
  static const struct {
    const char *text, *message;
  } cases[] = {
    {"{}", "at.input_size: expected a size from 1 to 100, found none"},
    {"{\"input_size\":null}", "at.input_size: expected a size from 1 to 100, found none"},
    {"{\"input_size\":0}", "at.input_size: expected a size from 1 to 100, found 0"},
    {"{\"input_size\":101}", "at.input_size: expected a size from 1 to 100, found 101"},
    {"{\"input_size\":2.5}", "at.input_size: expected a whole number, found 2.5"},
    {"{\"type\":\"x\",\"input_sise\":3}", "at.input_size: expected a size from 1 to 100, found 'input_sise'; did you mean 'input_size'?"},
    {"{\"inptu_siz\":3}", "at.input_size: expected a size from 1 to 100, found 'inptu_siz'; did you mean 'input_size'?"},
    {"{\"output_size\":3,\"hidden_size\":4,\"inputs\":1}", "at.input_size: expected a size from 1 to 100, found none"},
    {"{\"inpu_siz\":1,\"input_siz\":3}", "at.input_size: expected a size from 1 to 100, found 'input_siz'; did you mean 'input_size'?"},
    {"{\"a_key_of_more_than_48_letters_that_is_not_compared_at_all\":1}", "at.input_size: expected a size from 1 to 100, found none"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    hd_status status = HD_OK;
    hd_error err;
    cJSON *tree;
    CHECK(hd_json_parse(&tree, cases[i].text, strlen(cases[i].text), NULL) == HD_OK);
    hd_json j = hd_json_root(tree, "at", &status, &err);
    CHECK(hd_json_need_size(&j, "input_size", 100) == 0 && status == HD_BAD_FILE);
    CHECK_EQ_TEXT(err.message, cases[i].message);
    cJSON_Delete(tree);
  }
}

TEST(json_long_paths_keep_their_end) {
  hd_status status = HD_OK;
  hd_json j = hd_json_root(NULL, "", &status, NULL);
  for (int i = 0; i < 60; i++) {
    hd_json branches = hd_json_member(&j, "branches");
    j = hd_json_item(&branches, (size_t)i);
  }
  CHECK(strlen(j.path) < sizeof j.path);
  CHECK_EQ_TEXT(j.path + strlen(j.path) - 12, "branches[59]");
}

static bool is_utf8(const char *text) {
  const size_t n = strlen(text);
  size_t at = 0, length = 1;
  for (; at < n && length; at += length) length = hd_utf8_length(text + at, n - at);
  return at == n;
}

/* Keys of 802 bytes in characters of one to four, from one letter to four before them. */
TEST(json_paths_of_long_keys_keep_their_end_and_whole_characters) {
  static const char *const characters[] = {"x", "é", "€", "😀"};
  for (size_t c = 0; c < 4; c++)
    for (size_t lead = 0; lead < 4; lead++) {
      char key[820] = "aaa";
      hd_status status = HD_OK;
      hd_error err;
      key[lead] = '\0';
      while (strlen(key) < 796) strcat(key, characters[c]);
      strcat(key, "END");
      hd_json root = hd_json_root(NULL, "q", &status, &err), j = hd_json_member(&root, key), item = hd_json_item(&j, 12345);
      CHECK(is_utf8(j.path) && strlen(j.path) < sizeof j.path && strlen(j.path) > sizeof j.path - 6);
      CHECK_EQ_TEXT(j.path + strlen(j.path) - 3, "END");
      CHECK(strncmp(j.path, "…", 3) == 0 && is_utf8(item.path));
      CHECK_EQ_TEXT(item.path + strlen(item.path) - 10, "END[12345]");
      hd_json_refuse(&root, "k", HD_BAD_FILE, "%s", key);
      CHECK(is_utf8(err.message) && strlen(err.message) > 760);
    }
}

TEST(json_paths_that_just_fit_stay_whole) {
  char key[300];
  hd_status status = HD_OK;
  memset(key, 'k', sizeof key);
  key[253] = '\0';
  hd_json root = hd_json_root(NULL, "q", &status, NULL), j = hd_json_member(&root, key);
  CHECK(strlen(j.path) == 255 && strncmp(j.path, "q.k", 3) == 0);
  key[253] = 'k';
  key[254] = '\0';
  j = hd_json_member(&root, key);
  CHECK(strlen(j.path) == 255 && strncmp(j.path, "…k", 4) == 0);
}

/* ---- Memory, time ---- */

TEST(json_parse_without_memory_leaks_nothing) {
  static const char text[] = "{\"a\":[1,2,{\"b\":\"\\u0041\",\"c\":[true,null]}],\"d\":123456789012345678901234567890.5,\"long\":\"text\"}";
  size_t before = hd_memory_live(), n = 0;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 1000; n++) {
    cJSON *tree;
    hd_error err = {0};
    hd_memory_fail_after(n);
    status = hd_json_parse(&tree, text, sizeof text - 1, &err);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(status == HD_OK ? tree != NULL : status == HD_OUT_OF_MEMORY && tree == NULL && *err.message);
    cJSON_Delete(tree);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 10);
}

/* A megabyte that is meant to be slow or large. */
static void check_hostile(const char *piece, const char *first, const char *last) {
  size_t n;
  char *text = repeat_to_a_megabyte(first, piece, last, &n);
  hd_error err = {0};
  cost c = begin_cost();
  read_all(text, n, NULL);
  hd_status status = parse_and_free(text, n, &err);
  end_cost(c, piece, n, status, &err);
  free(text);
}

TEST(json_takes_a_hostile_megabyte_quickly_and_in_little_memory) {
  check_hostile("0,", "[", "]");
  check_hostile("[],", "[", "]");
  check_hostile("[", "", "");
  check_hostile("{\"a\":", "", "");
  check_hostile("\"%x\":0,", "{", "}");
  check_hostile("\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa%x\":0,", "{", "}");
  check_hostile("\"\":\"\",", "{", "}");
  check_hostile("9", "", "");
  check_hostile("9", "0.", "e99");
  check_hostile("0", "1e", "");
  check_hostile("\\u0041", "\"", "\"");
  check_hostile(" ", "", "1");
}

/* ---- The test suite ---- */

TEST(json_test_suite_is_read_and_refused_as_its_names_say) {
  static const char folder[] = HEDDLE_SHARED_DIR "/fixtures/real/json-test-suite";
  DIR *directory = opendir(folder);
  if (!directory) SKIP("shared/fixtures/real/json-test-suite is not here");
  unsigned n_read[3] = {0};
  for (struct dirent *entry; (entry = readdir(directory));) {
    const char *name = entry->d_name, *end = strstr(name, ".json");
    if (!end || end[5] || name[1] != '_') continue;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "rb");
    char *whole = malloc(200000);
    size_t n = fread(whole, 1, 200000, file);
    fclose(file);
    char *text = exact(whole, n);
    hd_error err = {0};
    bool pulled = read_all(text, n, &err) == HD_OK, parsed = parse_and_free(text, n, NULL) == HD_OK;
    bool right = *name == 'y' ? pulled && parsed : *name == 'n' ? !pulled && !parsed : true;
    if (!CHECK(right)) printf("# %s: %s\n", name, err.message);
    if (*name == 'i' && parsed != pulled && !CHECK(parsed == pulled)) printf("# %s\n", name);
    n_read[*name == 'y' ? 0 : *name == 'n' ? 1 : 2]++;
    free(whole);
    free(text);
  }
  closedir(directory);
  printf("# json-test-suite: %u y_, %u n_, %u i_\n", n_read[0], n_read[1], n_read[2]);
  CHECK(n_read[0] >= 40 && n_read[1] >= 80 && n_read[2] >= 16);
}
