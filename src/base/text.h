/* base/text.h: a text that grows, for whoever writes: bytes, numbers as Go and JavaScript spell them, JSON as Go's writer indents it. */
#ifndef HD_BASE_TEXT_H
#define HD_BASE_TEXT_H

#include "base/json.h"
#include "heddle.h"

/* `failed` once memory ran out; nothing is appended then. Freed by hd_free(data). */
typedef struct hd_text {
  char *data;
  size_t n, room;
  bool failed;
  bool counting; /* nothing is kept: n is what it would have */
} hd_text;

/* Room for n bytes in all, so that they are not copied while the text grows. */
void hd_text_reserve(hd_text *t, size_t n);

void hd_text_add(hd_text *t, const char *bytes, size_t n);
void hd_text_print(hd_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* What a float32 and the comma behind it take at most, but for small ones without an exponent: for texts of many. */
enum { HD_TEXT_FLOAT_BYTES = 16 };
/* The shortest decimal that gives back the float32, as Go and JavaScript write it. NaN and infinity are the caller's to refuse. */
void hd_text_float(hd_text *t, float value);
void hd_text_double(hd_text *t, double value); /* likewise, for float64 */
/* A tree as Go's MarshalIndent writes it: two spaces a level, `level` for the first line's; no line feed at the end. HD_TEXT_ONE_LINE:
 * as its Marshal does, without white space. */
enum { HD_TEXT_ONE_LINE = -1 };
void hd_text_json(hd_text *t, const cJSON *node, int level);
void hd_text_quoted(hd_text *t, const char *text); /* a JSON string, escaped as Go escapes it */
void hd_text_base64(hd_text *t, const void *bytes, size_t n);

#endif
