/* base/status.c: error messages. All text that leaves here is whole UTF-8 characters, whatever a file called its tensors. */
#include "base/status.h"

#include <stdio.h>
#include <string.h>

const char *hd_status_name(hd_status status) {
  static const char *const names[] = {"ok", "bad_file", "bad_argument", "unsupported", "out_of_memory", "bad_state"};
  size_t index = (size_t)status;
  return index < sizeof names / sizeof *names ? names[index] : "unknown";
}

size_t hd_utf8_length(const char *text, size_t n) {
  const unsigned char *s = (const unsigned char *)text;
  if (n == 0) return 0;
  if (s[0] < 0x80) return 1;
  size_t length = s[0] >= 0xF0 ? 4 : s[0] >= 0xE0 ? 3 : 2;
  /* 80..C1 start nothing (continuations, overlong), F5..FF would be past 10FFFF. */
  if (s[0] < 0xC2 || s[0] > 0xF4 || n < length) return 0;
  for (size_t i = 1; i < length; i++)
    if ((s[i] & 0xC0) != 0x80) return 0;
  if (s[0] == 0xE0 && s[1] < 0xA0) return 0; /* overlong */
  if (s[0] == 0xED && s[1] > 0x9F) return 0; /* surrogates D800..DFFF */
  if (s[0] == 0xF0 && s[1] < 0x90) return 0; /* overlong */
  if (s[0] == 0xF4 && s[1] > 0x8F) return 0; /* past 10FFFF */
  return length;
}

/* Takes a character that was cut in two off the end of a text that was cut at n bytes. */
static void trim_cut_character(char *text, size_t n) {
  size_t start = n;
  while (start > 0 && n - start < 3 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) start--;
  if (start == 0 || (unsigned char)text[start - 1] < 0xC0) return;
  if (hd_utf8_length(text + start - 1, n - (start - 1)) == 0) text[start - 1] = '\0';
}

void hd_print_part(char *to, size_t room, const char *format, va_list arguments) {
  int n = vsnprintf(to, room, format, arguments);
  if (n < 0) to[0] = '\0';
  else if ((size_t)n >= room) trim_cut_character(to, room - 1);
}

hd_status hd_fail(hd_error *err, hd_status code, const char *format, ...) {
  if (!err) return code;
  char message[sizeof err->message]; /* an argument may be err->message itself */
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(message, sizeof message, format, arguments);
  va_end(arguments);
  err->code = code;
  memcpy(err->message, message, sizeof message);
  return code;
}

hd_status hd_fail_in(hd_error *err, const char *path) {
  if (!err) return HD_BAD_FILE;
  return hd_fail(err, err->code, "%s: %s", path, err->message);
}

/* The first n bytes of a name, with what a message cannot show as '?'. Stops before a character that n would cut.
 * Returns the bytes written. */
static size_t copy_shown(char *to, const char *from, size_t n, size_t n_from) {
  size_t at = 0;
  while (at < n) {
    size_t length = hd_utf8_length(from + at, n_from - at);
    if (length > n - at) break;
    bool shown = length > 1 || (length == 1 && (unsigned char)from[at] >= 0x20 && from[at] != 0x7F);
    if (shown) memcpy(to + at, from + at, length);
    else to[at] = '?';
    at += shown ? length : 1;
  }
  return at;
}

const char *hd_short_name(char room[HD_NAME_ROOM], const char *name) {
  enum { LONGEST = 160, HEAD = 80, TAIL = 76 };
  static const char dots[] = "…";
  size_t n = strlen(name);
  if (n <= LONGEST) {
    room[copy_shown(room, name, n, n)] = '\0';
    return room;
  }
  size_t at = copy_shown(room, name, HEAD, n);
  memcpy(room + at, dots, sizeof dots - 1);
  at += sizeof dots - 1;
  const char *tail = name + n - TAIL;
  for (int i = 0; i < 3 && ((unsigned char)*tail & 0xC0) == 0x80; i++) tail++;
  size_t n_tail = (size_t)(name + n - tail);
  at += copy_shown(room + at, tail, n_tail, n_tail);
  room[at] = '\0';
  return room;
}

const char *hd_shape_text(char room[HD_SHAPE_ROOM], int n_dims, const size_t *shape) {
  size_t at = 0;
  room[at++] = '[';
  for (int i = 0; i < n_dims; i++) {
    int n = snprintf(room + at, HD_SHAPE_ROOM - at, "%s%zu", i ? ", " : "", shape[i]);
    if (n < 0 || (size_t)n >= HD_SHAPE_ROOM - at - 1) break; /* only past HD_MAX_DIMS */
    at += (size_t)n;
  }
  room[at++] = ']';
  room[at] = '\0';
  return room;
}
