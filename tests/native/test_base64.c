/* Base64 against RFC 4648's own examples, and all ways to be wrong. */
#include "base/base64.h"
#include "test.h"

static const char *const examples[][2] = {{"", ""},         {"f", "Zg=="},       {"fo", "Zm8="},        {"foo", "Zm9v"},
                                          {"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"}};

TEST(base64_encodes_the_rfc_examples) {
  for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
    char text[32] = {0};
    size_t n = strlen(examples[i][0]);
    hd_base64_encode((const uint8_t *)examples[i][0], n, text);
    CHECK_EQ_TEXT(text, examples[i][1]);
    CHECK(hd_base64_encoded_size(n) == strlen(examples[i][1]));
  }
}

TEST(base64_decodes_the_rfc_examples) {
  for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
    uint8_t bytes[32];
    size_t n, n_text = strlen(examples[i][1]);
    CHECK(hd_base64_decode(examples[i][1], n_text, bytes, &n, NULL) == HD_OK);
    CHECK(n == strlen(examples[i][0]) && memcmp(bytes, examples[i][0], n) == 0);
    CHECK(hd_base64_decoded_max(n_text) >= n);
  }
}

TEST(F6_base64_takes_random_bytes_there_and_back) {
  for (size_t n = 0; n < 200; n++) {
    uint8_t *bytes = malloc(n + 1);
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)test_random();
    size_t n_text = hd_base64_encoded_size(n), n_back;
    char *text = malloc(n_text + 1);
    hd_base64_encode(bytes, n, text);
    uint8_t *back = malloc(hd_base64_decoded_max(n_text) + 1);
    CHECK(hd_base64_decode(text, n_text, back, &n_back, NULL) == HD_OK);
    CHECK(n_back == n);
    CHECK_EQ_BITS(back, bytes, n);
    free(bytes);
    free(text);
    free(back);
  }
}

static void check_refused(const char *text, const char *message) {
  hd_error err = {0};
  uint8_t *bytes = malloc(hd_base64_decoded_max(strlen(text)) + 1);
  size_t n;
  CHECK(hd_base64_decode(text, strlen(text), bytes, &n, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, message);
  free(bytes);
}

TEST(F6_base64_refuses_what_is_wrong_and_says_where) {
  check_refused("Zm9v*mFy", "Base64: character 4: expected A-Z, a-z, 0-9, + or /, found '*'");
  check_refused("Zm9vYmF-", "Base64: character 7: expected A-Z, a-z, 0-9, + or /, found '-'");
  check_refused("Zm9v\nmFy", "Base64: character 4: expected A-Z, a-z, 0-9, + or /, found byte 0x0A");
  check_refused("Zm9v\xC3\xA4" "Fy=", "Base64: character 4: expected A-Z, a-z, 0-9, + or /, found byte 0xC3");
  check_refused("Zm9vY", "Base64: expected a multiple of 4 characters, found 5");
  check_refused("Zm9vYmE", "Base64: expected a multiple of 4 characters, found 7");
  check_refused("=", "Base64: expected a multiple of 4 characters, found 1");
  check_refused("Zg=", "Base64: expected a multiple of 4 characters, found 3");
  check_refused("Zg==Zg==", "Base64: character 2: expected padding only at the end, found '='");
  check_refused("====", "Base64: character 0: expected padding only at the end, found '='");
  check_refused("Z===", "Base64: character 1: expected padding only at the end, found '='");
  check_refused("Zg=A", "Base64: character 2: expected padding only at the end, found '='");
  check_refused("Zh==", "Base64: character 1: expected zero bits after the last byte, found 'h'");
  check_refused("Zm9=", "Base64: character 2: expected zero bits after the last byte, found '9'");
}

TEST(base64_sizes_do_not_overflow) {
  CHECK(hd_base64_encoded_size(SIZE_MAX) == SIZE_MAX);
  CHECK(hd_base64_decoded_max(SIZE_MAX) < SIZE_MAX);
}
