/* base/json.h: JSON comes in through this one door. Text is checked strictly first (RFC 8259, UTF-8, depth, size); only
 * then does cJSON see it. Large arrays of numbers (weights) are pulled through hd_json_reader and never become nodes. */
#ifndef HD_BASE_JSON_H
#define HD_BASE_JSON_H

#include "heddle.h"

#include <cJSON.h>

#define HD_JSON_MAX_DEPTH 128
/* Values in one tree. A node and its key can need 200 bytes, a hostile text has one every two: this keeps 1 MB of it below
 * 16 MB. Configurations have some thousands; lists of weights never become nodes. */
#define HD_JSON_MAX_NODES 65536

/* Checks the whole text (one value, nothing after it) and builds it. Duplicate keys are refused. The error has the byte
 * offset, what was expected and what was found. cJSON_Delete frees the result. cJSON's texts end at their first NUL:
 * "a\u0000b" is read as "a" (the pull reader has the whole of it). */
hd_status hd_json_parse(cJSON **out, const char *text, size_t n, hd_error *err);
/* The same of a text whose file the messages name: "config.json: byte 8: …". */
hd_status hd_json_parse_file(cJSON **out, const char *text, size_t n, const char *name, hd_error *err);

/* ---- Pull reader ---- */

typedef enum hd_json_type {
  HD_JSON_NULL, HD_JSON_BOOL, HD_JSON_NUMBER, HD_JSON_STRING, HD_JSON_ARRAY, HD_JSON_OBJECT, HD_JSON_END
} hd_json_type;

/* Reads a text from front to back, validating as it goes. After the first failure every call does nothing and fails;
 * check `status` once at the end of a loop. */
typedef struct hd_json_reader {
  const char *text;
  size_t n, at;
  int depth;
  bool fresh; /* an object or array was entered and nothing of it read yet: no comma comes before its first item */
  hd_status status;
  hd_error *err;
  const char *what; /* "safetensors header", "bundle": begins every message */
} hd_json_reader;

hd_json_reader hd_json_open(const char *text, size_t n, const char *what, hd_error *err);
hd_json_type hd_json_peek(hd_json_reader *r);                 /* type of the value that comes next; HD_JSON_END on failure */
bool hd_json_enter_object(hd_json_reader *r);
bool hd_json_enter_array(hd_json_reader *r);
/* In an object: the next key, unescaped and NUL-terminated into *key (the caller frees it with hd_free), or false at the
 * closing brace (which is consumed) or on failure; *key is NULL then. */
bool hd_json_next_key(hd_json_reader *r, char **key, size_t *key_bytes);
/* In an array: true when another value comes, false at the closing bracket (consumed) or on failure. */
bool hd_json_next_item(hd_json_reader *r);
bool hd_json_number(hd_json_reader *r, double *value);
bool hd_json_float(hd_json_reader *r, float *value);          /* decimal text rounded once, to float32 */
bool hd_json_u64(hd_json_reader *r, uint64_t *value);         /* a whole number without sign, fraction or exponent, exact */
bool hd_json_string(hd_json_reader *r, char **text, size_t *n); /* unescaped, NUL-terminated, hd_free by the caller */
/* A string's raw characters between its quotes, without unescaping; fails when it holds an escape. For Base64. */
bool hd_json_raw_string(hd_json_reader *r, const char **text, size_t *n);
bool hd_json_skip(hd_json_reader *r, const char **start, size_t *n); /* checks and steps over any value; its span may be asked for */
bool hd_json_finish(hd_json_reader *r);                       /* nothing but white space is left */
hd_status hd_json_fail(hd_json_reader *r, const char *expected); /* "<what>: byte 17: expected …, found …" */

/* ---- Typed getters over cJSON ---- */

/* An object in a tree with the path that led there ("layers[3].branches[0]"), for messages. Getters record the first error and
 * return the default from then on: read all fields, then check `status`. A missing key gives the default; a present key
 * of the wrong kind is an error; null counts as missing. Whole numbers may be written 3 or 3.0, not 3.5. A key matches
 * exactly, or else whatever its (ASCII) case, as Loom's does. */
enum { HD_JSON_PATH_ROOM = 256 };
typedef struct hd_json {
  const cJSON *node;
  char path[HD_JSON_PATH_ROOM]; /* of a longer one the end, behind "…" */
  hd_status *status;
  hd_error *err;
  const cJSON *item;      /* the last that hd_json_item gave, number item_index: a list of cJSON is walked, not indexed */
  size_t item_index;
} hd_json;

hd_json hd_json_root(const cJSON *node, const char *path, hd_status *status, hd_error *err);
bool hd_json_has(const hd_json *j, const char *key);
hd_json hd_json_member(const hd_json *j, const char *key);          /* node NULL when missing */
hd_json hd_json_item(hd_json *j, size_t index);
size_t hd_json_count(const hd_json *j, const char *key);            /* items of an array member; 0 when missing */
size_t hd_json_get_size(const hd_json *j, const char *key, size_t missing);
double hd_json_get_number(const hd_json *j, const char *key, double missing);
bool hd_json_get_bool(const hd_json *j, const char *key, bool missing);
const char *hd_json_get_text(const hd_json *j, const char *key, const char *missing);
/* A size from 1 to `most` (SIZE_MAX: any) that has to be there. Else refused as hd_json_refuse_size does, and 0. */
size_t hd_json_need_size(const hd_json *j, const char *key, size_t most);
/* Says of a size with one or several spellings (NULL-terminated; the first is the one the message names) that it
 * should be from 1 to `most`, and what was found: the value, or a key that no spelling is but that is one or two slips
 * of the hand away ("did you mean …?"), or none. */
void hd_json_refuse_size(const hd_json *j, const char *const *spellings, size_t most);
/* Whether the node, which may be NULL, is a whole number from `least` to `most`; nothing is refused: who asks has the words. */
bool hd_json_is_size(const cJSON *node, size_t least, size_t most, size_t *size);
/* Records "<path>.<key>: <message>" as the error unless there is one already. */
void hd_json_refuse(const hd_json *j, const char *key, hd_status code, const char *format, ...) __attribute__((format(printf, 4, 5)));

/* ---- Writing ---- */

/* Adds a float32 as the shortest decimal that hd_json_get_number's value, made float32, is again: 0.00001, not 0.000009999999747378752. */
void hd_json_add_float(cJSON *object, const char *key, float value);

#endif
