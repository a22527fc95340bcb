/* The encodings of Loom's form 2 at their edges (whole networks' worth of codes from Loom itself are compared in tests/node): ends,
 * NaN, halves of bytes, and bundles of form 2 as hd_bundle_read takes them. */
#define _DEFAULT_SOURCE
#include "base/memory.h"
#include "format/bundle.h"
#include "test.h"

static uint64_t encode(const char *name, float value) {
  const hd_precision *p = hd_precision_find(name);
  uint8_t bytes[8] = {0};
  uint64_t code = 0;
  hd_precision_encode(p, &value, 1, bytes);
  for (size_t b = 0; b < hd_precision_bytes(p, 1); b++) code |= (uint64_t)bytes[b] << 8 * b;
  return code;
}

TEST(precision_table_has_loom_s_fifteen_names_once) {
  size_t n = 0;
  for (; hd_precision_at(n); n++) CHECK(hd_precision_find(hd_precision_at(n)->name) == hd_precision_at(n));
  CHECK(n == 15);
  CHECK(!hd_precision_find("") && !hd_precision_find("Float32") && !hd_precision_find("uint4"));
}

TEST(precision_integers_end_at_their_ends_and_nan_is_zero) {
  CHECK(encode("int8", 2) == 127 && encode("int8", -INFINITY) == 0x81);
  CHECK(encode("int16", 1e30f) == 32767 && encode("int16", -2) == 0x8001);
  CHECK(encode("int32", 1.5f) == INT32_MAX && encode("int32", -100) == 0x80000000u);
  CHECK(encode("int64", 1e30f) == INT64_MAX && encode("int64", -INFINITY) == (uint64_t)INT64_MIN);
  CHECK(encode("uint8", 3) == 255 && encode("uint8", -3) == 0);
  CHECK(encode("uint16", 3) == 65535 && encode("uint32", 3) == UINT32_MAX);
  CHECK(encode("uint64", 3) == UINT64_MAX && encode("uint64", -3) == 0);
  const char *const names[] = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"};
  for (size_t i = 0; i < 8; i++) CHECK(encode(names[i], NAN) == 0);
  CHECK(encode("int4", NAN) == 0x88 && encode("int4", 1e9f) == 0xf8 && encode("int4", -1e9f) == 0x08);
}

TEST(precision_halves_of_bytes_come_first_value_first_and_odd_counts_read_back_longer) {
  const float values[] = {-1, 1, 0.25f};
  uint8_t bytes[2];
  float back[4];
  const hd_precision *p = hd_precision_find("float4");
  CHECK(hd_precision_bytes(p, 3) == 2 && hd_precision_count(p, 2) == 4 && hd_precision_bytes(p, 0) == 0);
  hd_precision_encode(p, values, 3, bytes);
  CHECK(bytes[0] == 0x0f && bytes[1] == 0x90);
  hd_precision_decode(p, bytes, 4, 1, back);
  CHECK(back[0] == -1 && back[1] == 1 && back[3] == -1);
  const float large[] = {8, -64, 56};
  p = hd_precision_find("int4");
  hd_precision_encode(p, large, 3, bytes);
  CHECK(bytes[0] == 0x90 && bytes[1] == 0xf8);
  hd_precision_decode(p, bytes, 4, 0, back);
  CHECK(back[0] == 8 && back[1] == -64 && back[2] == 56 && back[3] == 0);
}

TEST(precision_all_codes_of_a_byte_read_and_all_but_the_odd_ones_write_back) {
  const hd_precision *p = hd_precision_find("float8");
  for (unsigned code = 0; code < 256; code++) {
    uint8_t byte = (uint8_t)code;
    float value;
    hd_precision_decode(p, &byte, 1, 1, &value);
    bool zero = (code & 0x7f) == 0, low = (code & 0x78) == 0, high = (code & 0x78) == 0x78;
    if (zero) CHECK(value == 0 && !signbit(value));
    else if (!low && !high) CHECK(encode("float8", value) == code);
  }
  uint8_t top = 0x7e;
  float value;
  hd_precision_decode(p, &top, 1, 1, &value);
  CHECK(value == 448);
}

/* ---- Bundles ---- */

/* {"layers":[{"kernel":"AACAPwAAAEA="},{"biases":"AABAQA==","branch_weights":[{"dtype":"int8","gamma":"*"}]}],"scale":1,"dtype":"float32"} */
static const char form_2[] =
    "{\"type\":\"modelhost/bundle\",\"version\":2,\"created\":{ \"at\": [1, 2] },\"models\":[{\"note\":\"kept\",\"id\":\"m\",\"cfg\":{\"layers\":[{}]},"
    "\"weights\":{\"fmt\":\"multiPrecisionB64\",\"data\":\"eyJsYXllcnMiOlt7Imtlcm5lbCI6IkFBQ0FQd0FBQUVBPSJ9LHsiYmlhc2VzIjoiQUFCQVFBPT0iLCJicmFuY2hfd2VpZ2h0cyI6"
    "W3siZHR5cGUiOiJpbnQ4IiwiZ2FtbWEiOiIqIn1dfV0sInNjYWxlIjoxLCJkdHlwZSI6ImZsb2F0MzIifQ==\"}}]}";

TEST(bundle_form_2_reads_dtype_behind_layers_and_forgives_bad_base64_and_spare_layers) {
  hd_bundle *b;
  hd_error err = {0};
  if (!CHECK(hd_bundle_read(&b, form_2, sizeof form_2 - 1, "m", &err) == HD_OK)) {
    printf("# %s\n", err.message);
    return;
  }
  const hd_bundle_tensor *kernel = hd_bundle_find(b, "layers.0.kernel"), *biases = hd_bundle_find(b, "layers.1.biases");
  CHECK(kernel && kernel->n == 2 && kernel->values[0] == 1 && kernel->values[1] == 2);
  CHECK(biases && biases->n == 1 && biases->values[0] == 3);
  CHECK(b->n_tensors == 2 && b->form == HD_FORM_CODED && b->precision == hd_precision_find("float32") && b->version == 2);
  CHECK(strcmp(b->extra, "\n  \"created\": { \"at\": [1, 2] },") == 0);
  CHECK(strcmp(b->model_extra, "\n      \"note\": \"kept\",") == 0);
  hd_bundle_free(b);
}

TEST(bundle_metadata_is_written_where_it_was_read) {
  hd_bundle *b;
  char *text, *again;
  size_t n, n_again;
  if (!CHECK(hd_bundle_read(&b, form_2, sizeof form_2 - 1, "m", NULL) == HD_OK)) return;
  hd_bundle_parts parts = {.id = "m", .cfg = b->cfg, .weights = "{\"layers\":[{}]}", .n_weights = 15, .version = 7, .extra = b->extra, .model_extra = b->model_extra};
  CHECK(hd_bundle_write(&text, &n, &parts, NULL) == HD_OK);
  CHECK(strstr(text, "\n  \"version\": 7,\n  \"created\": { \"at\": [1, 2] },\n  \"models\""));
  CHECK(strstr(text, "\n      \"id\": \"m\",\n      \"note\": \"kept\",\n      \"cfg\""));
  hd_bundle_free(b);
  if (!CHECK(hd_bundle_read(&b, text, n, "m", NULL) == HD_OK)) return;
  parts.cfg = b->cfg, parts.extra = b->extra, parts.model_extra = b->model_extra, parts.version = b->version;
  CHECK(hd_bundle_write(&again, &n_again, &parts, NULL) == HD_OK && n == n_again && memcmp(text, again, n) == 0);
  hd_free(text);
  hd_free(again);
  hd_bundle_free(b);
}

TEST(bundle_form_2_without_memory_leaks_nothing) {
  size_t before = hd_memory_live(), n = 0;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 1000; n++) {
    hd_bundle *b;
    hd_error err = {0};
    hd_memory_fail_after(n);
    status = hd_bundle_read(&b, form_2, sizeof form_2 - 1, "m", &err);
    hd_memory_fail_after(SIZE_MAX);
    if (!CHECK(status == HD_OK || (status == HD_OUT_OF_MEMORY && !b && *err.message))) printf("# %zu: %s\n", n, err.message);
    hd_bundle_free(b);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 10);
}
