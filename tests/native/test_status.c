/* Error values: messages are whole characters whatever goes into them. */
#include "base/status.h"
#include "test.h"

static bool is_utf8(const char *text) {
  size_t n = strlen(text);
  for (size_t at = 0; at < n;) {
    size_t length = hd_utf8_length(text + at, n - at);
    if (length == 0) return false;
    at += length;
  }
  return true;
}

TEST(status_names_every_code) {
  CHECK_EQ_TEXT(hd_status_name(HD_OK), "ok");
  CHECK_EQ_TEXT(hd_status_name(HD_BAD_FILE), "bad_file");
  CHECK_EQ_TEXT(hd_status_name(HD_BAD_ARGUMENT), "bad_argument");
  CHECK_EQ_TEXT(hd_status_name(HD_UNSUPPORTED), "unsupported");
  CHECK_EQ_TEXT(hd_status_name(HD_OUT_OF_MEMORY), "out_of_memory");
  CHECK_EQ_TEXT(hd_status_name(HD_BAD_STATE), "bad_state");
  CHECK_EQ_TEXT(hd_status_name((hd_status)99), "unknown");
}

TEST(fail_fills_code_and_message) {
  hd_error err;
  CHECK(hd_fail(&err, HD_UNSUPPORTED, "%s: %d", "stride", 3) == HD_UNSUPPORTED);
  CHECK(err.code == HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "stride: 3");
  CHECK(hd_fail(NULL, HD_BAD_STATE, "nobody listens") == HD_BAD_STATE);
}

TEST(fail_in_puts_the_path_before_the_message) {
  hd_error err;
  hd_fail(&err, HD_BAD_FILE, "too short");
  CHECK(hd_fail_in(&err, "layers[3]") == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "layers[3]: too short");
  hd_fail_in(NULL, "nowhere");
}

TEST(a_message_that_does_not_fit_is_cut_between_characters) {
  for (int lead = 0; lead < 8; lead++) {
    char text[3000];
    hd_error err;
    memset(text, 'x', sizeof text);
    for (size_t i = (size_t)lead; i + 4 < sizeof text; i += 4) memcpy(text + i, "\xF0\x9F\x98\x80", 4);
    text[sizeof text - 4] = '\0';
    hd_fail(&err, HD_BAD_FILE, "%s", text);
    CHECK(is_utf8(err.message));
    CHECK(strlen(err.message) > sizeof err.message - 5);
  }
}

TEST(short_names_stay_as_they_are) {
  char room[HD_NAME_ROOM], longest[161];
  CHECK_EQ_TEXT(hd_short_name(room, "model.layers.0.mlp.up_proj.weight"), "model.layers.0.mlp.up_proj.weight");
  CHECK_EQ_TEXT(hd_short_name(room, ""), "");
  CHECK_EQ_TEXT(hd_short_name(room, "gewöhnlich"), "gewöhnlich");
  memset(longest, 'n', 160);
  longest[160] = '\0';
  CHECK_EQ_TEXT(hd_short_name(room, longest), longest);
}

TEST(long_names_are_shortened_in_the_middle_never_inside_a_character) {
  static const char *const characters[] = {"x", "é", "€", "😀"};
  for (size_t c = 0; c < 4; c++) {
    for (size_t lead = 0; lead < 4; lead++) {
      char name[2048] = "aaa", room[HD_NAME_ROOM];
      name[lead] = '\0';
      while (strlen(name) < 1000) strcat(name, characters[c]);
      strcat(name, ".end");
      const char *shown = hd_short_name(room, name);
      CHECK(is_utf8(shown) && strlen(shown) <= 170 && strlen(shown) >= 140);
      CHECK(strstr(shown, "…") != NULL && strchr(shown, '?') == NULL);
      CHECK_EQ_TEXT(shown + strlen(shown) - 4, ".end");
    }
  }
}

TEST(names_show_control_characters_and_broken_utf8_as_question_marks) {
  char room[HD_NAME_ROOM], broken[400];
  CHECK_EQ_TEXT(hd_short_name(room, "a\nb\x1b[0m\x7f"), "a?b?[0m?");
  CHECK_EQ_TEXT(hd_short_name(room, "\xC3(\xFF\xE2\x82"), "?(???");
  memset(broken, 0x80, sizeof broken);
  broken[sizeof broken - 1] = '\0';
  CHECK(is_utf8(hd_short_name(room, broken)));
  memset(broken, 0xF0, sizeof broken - 1);
  CHECK(is_utf8(hd_short_name(room, broken)));
}

TEST(utf8_length_refuses_what_is_no_character) {
  static const char *const wrong[] = {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xF0\x8F\xBF\xBF",
                                      "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82", "\xC3", "\xE2\x28\xA1"};
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECK(hd_utf8_length(wrong[i], strlen(wrong[i])) == 0);
  CHECK(hd_utf8_length("", 0) == 0);
  CHECK(hd_utf8_length("\0", 1) == 1);
  CHECK(hd_utf8_length("\xED\x9F\xBF", 3) == 3);
  CHECK(hd_utf8_length("\xEF\xBF\xBF", 3) == 3);
  CHECK(hd_utf8_length("\xF4\x8F\xBF\xBF", 4) == 4);
}

TEST(shapes_are_written_as_lists) {
  char room[HD_SHAPE_ROOM];
  size_t shape[HD_MAX_DIMS] = {2, 3, 4}, largest[HD_MAX_DIMS];
  CHECK_EQ_TEXT(hd_shape_text(room, 3, shape), "[2, 3, 4]");
  CHECK_EQ_TEXT(hd_shape_text(room, 0, shape), "[]");
  for (int i = 0; i < HD_MAX_DIMS; i++) largest[i] = SIZE_MAX;
  hd_shape_text(room, HD_MAX_DIMS, largest);
  CHECK(room[strlen(room) - 1] == ']');
}
