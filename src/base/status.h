/* base/status.h: error values. One function makes every failure, so that every failure has a message. */
#ifndef HD_BASE_STATUS_H
#define HD_BASE_STATUS_H

#include "heddle.h"

#include <stdarg.h>

/* Fills *err (unless NULL) with the code and a printf-style message, and returns the code: `return hd_fail(err, …)`.
 * A message that does not fit is cut at a character's boundary. */
hd_status hd_fail(hd_error *err, hd_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Prints into `room` bytes; what does not fit is cut at a character's boundary. For what becomes part of a message. */
void hd_print_part(char *to, size_t room, const char *format, va_list arguments) __attribute__((format(printf, 3, 0)));

/* Puts "path: " before the message of an error that happened deeper down, and returns its code. Without an err nobody
 * remembers the code: keep the status you have, rather than this result, when err may be NULL. */
hd_status hd_fail_in(hd_error *err, const char *path);

/* Bytes of the UTF-8 character that starts at text (1 to 4), or 0 when the n bytes there start none: a stray byte, an
 * overlong form, a surrogate, past 10FFFF, or cut off. */
size_t hd_utf8_length(const char *text, size_t n);

/* A name for a message: `name` itself, or its head and tail around "…" when longer than 160 bytes; control characters and
 * broken UTF-8 become '?'. `room` holds the result. */
#define HD_NAME_ROOM 200
const char *hd_short_name(char room[HD_NAME_ROOM], const char *name);

/* "[2, 3, 4]" for a message. */
#define HD_SHAPE_ROOM 192
const char *hd_shape_text(char room[HD_SHAPE_ROOM], int n_dims, const size_t *shape);

#define HD_TRY(call)                       \
  do {                                     \
    hd_status try_status = (call);         \
    if (try_status != HD_OK) return try_status; \
  } while (0)

#endif
