/* base/json.c: trees of JSON. cJSON, which forgives too much when it reads, only keeps them: the pull reader reads, with a budget of nodes,
 * and duplicate keys are refused. Below that, getters that know their path. */
#include "base/json.h"

#include "base/decimal.h"
#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Before anything makes a node, so that no tree mixes allocators. It holds for the whole process: loom.h says so to programs. */
__attribute__((constructor)) static void use_our_allocator(void) {
  cJSON_Hooks hooks = {hd_alloc, hd_free};
  cJSON_InitHooks(&hooks);
}

/* ---- Reading ---- */

typedef struct tree_key {
  const char *text; /* the member's */
  size_t at; /* where it ends in the text, for the message */
} tree_key;

/* Keys of all objects that are open, innermost last. */
typedef struct tree_reader {
  size_t n_nodes;
  tree_key *keys;
  size_t n_keys, room;
} tree_reader;

static bool refuse(hd_json_reader *r, hd_status code, const char *problem) {
  if (r->status == HD_OK) r->status = hd_fail(r->err, code, "%s: byte %zu: %s", r->what, r->at, problem);
  return false;
}

static bool push_key(hd_json_reader *r, tree_reader *tree, const char *text) {
  if (tree->n_keys == tree->room) {
    size_t room = tree->room ? tree->room * 2 : 64;
    tree_key *keys = hd_realloc(tree->keys, room * sizeof *keys);
    if (!keys) return refuse(r, HD_OUT_OF_MEMORY, "no memory for keys");
    tree->keys = keys;
    tree->room = room;
  }
  tree->keys[tree->n_keys++] = (tree_key){text, r->at};
  return true;
}

static int compare_keys(const void *a, const void *b) {
  const tree_key *x = a, *y = b;
  int order = strcmp(x->text, y->text);
  return order ? order : (x->at > y->at) - (x->at < y->at);
}

/* Keys are compared as cJSON sees them: up to their first NUL. */
static bool refuse_duplicates(hd_json_reader *r, const tree_reader *tree, size_t first) {
  size_t n = tree->n_keys - first;
  if (n < 2) return true; /* there may be no keys at all, not even NULL + 0 */
  tree_key *keys = tree->keys + first;
  qsort(keys, n, sizeof *keys, compare_keys);
  for (size_t i = 1; i < n; i++) {
    if (strcmp(keys[i - 1].text, keys[i].text) != 0) continue;
    char room[HD_NAME_ROOM];
    r->status = hd_fail(r->err, HD_BAD_FILE, "%s: byte %zu: expected every key once in an object, found \"%s\" again", r->what,
                        keys[i].at, hd_short_name(room, keys[i].text));
    return false;
  }
  return true;
}

/* A node of no value yet; NULL is recorded. */
static cJSON *new_node(hd_json_reader *r, tree_reader *tree) {
  if (tree->n_nodes++ == HD_JSON_MAX_NODES) {
    char problem[80];
    snprintf(problem, sizeof problem, "expected at most %d values, found more", HD_JSON_MAX_NODES);
    refuse(r, HD_UNSUPPORTED, problem);
    return NULL;
  }
  cJSON *node = cJSON_CreateNull();
  if (!node) refuse(r, HD_OUT_OF_MEMORY, "no memory for a tree of values");
  return node;
}

static void read_into(cJSON *node, hd_json_reader *r, tree_reader *tree);

/* Appends a node of that key, which it owns from here on (NULL: an array's), and reads it. */
static void read_child(cJSON *parent, char *key, hd_json_reader *r, tree_reader *tree) {
  cJSON *child = new_node(r, tree);
  if (!child) {
    hd_free(key);
    return;
  }
  child->string = key;
  cJSON_AddItemToArray(parent, child);
  if (!key || push_key(r, tree, key)) read_into(child, r, tree);
}

static void read_object(cJSON *node, hd_json_reader *r, tree_reader *tree) {
  size_t first = tree->n_keys, n;
  char *key;
  node->type = cJSON_Object;
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &key, &n)) read_child(node, key, r, tree);
  if (r->status == HD_OK) refuse_duplicates(r, tree, first);
  tree->n_keys = first;
}

static void read_array(cJSON *node, hd_json_reader *r, tree_reader *tree) {
  node->type = cJSON_Array;
  hd_json_enter_array(r);
  while (hd_json_next_item(r)) read_child(node, NULL, r, tree);
}

static void read_text(cJSON *node, hd_json_reader *r) {
  char *text;
  size_t n;
  if (!hd_json_string(r, &text, &n)) return;
  node->type = cJSON_String;
  node->valuestring = text;
}

static void read_number(cJSON *node, hd_json_reader *r) {
  double value;
  if (!hd_json_number(r, &value)) return;
  node->type = cJSON_Number;
  cJSON_SetNumberValue(node, value); /* the whole number beside it, too */
}

static void read_word(cJSON *node, hd_json_reader *r) {
  const char *start;
  size_t n;
  if (hd_json_skip(r, &start, &n)) node->type = *start == 't' ? cJSON_True : *start == 'f' ? cJSON_False : cJSON_NULL;
}

/* Recursive; entering limits how deep. */
static void read_into(cJSON *node, hd_json_reader *r, tree_reader *tree) {
  switch (hd_json_peek(r)) {
    case HD_JSON_OBJECT: read_object(node, r, tree); break;
    case HD_JSON_ARRAY: read_array(node, r, tree); break;
    case HD_JSON_STRING: read_text(node, r); break;
    case HD_JSON_NUMBER: read_number(node, r); break;
    case HD_JSON_BOOL:
    case HD_JSON_NULL: read_word(node, r); break;
    case HD_JSON_END: break;
  }
}

hd_status hd_json_parse(cJSON **out, const char *text, size_t n, hd_error *err) { return hd_json_parse_file(out, text, n, "JSON", err); }

hd_status hd_json_parse_file(cJSON **out, const char *text, size_t n, const char *name, hd_error *err) {
  hd_json_reader r = hd_json_open(text, n, name, err);
  tree_reader tree = {0};
  cJSON *root = new_node(&r, &tree);
  if (root) read_into(root, &r, &tree);
  hd_json_finish(&r);
  hd_free(tree.keys);
  if (r.status != HD_OK) cJSON_Delete(root);
  *out = r.status == HD_OK ? root : NULL;
  return r.status;
}

/* ---- Getters ---- */

/* A path of three parts, put together from its end, which is kept where it is too long. */
static void set_path(char path[HD_JSON_PATH_ROOM], const char *const parts[3]) {
  static const char dots[] = "…";
  size_t at = HD_JSON_PATH_ROOM - 1, n = 0, fits = 0;
  path[at] = '\0';
  for (int i = 2; i >= 0 && fits == n; i--) {
    n = strlen(parts[i]);
    fits = n < at ? n : at;
    at -= fits;
    memcpy(path + at, parts[i] + n - fits, fits);
  }
  if (fits < n) {
    at = sizeof dots - 1;
    while (((unsigned char)path[at] & 0xC0) == 0x80) at++;
    at -= sizeof dots - 1;
    memcpy(path + at, dots, sizeof dots - 1);
  }
  memmove(path, path + at, HD_JSON_PATH_ROOM - at);
}

hd_json hd_json_root(const cJSON *node, const char *path, hd_status *status, hd_error *err) {
  hd_json j = {.node = node, .status = status, .err = err};
  set_path(j.path, (const char *const[]){"", "", path});
  return j;
}

void hd_json_refuse(const hd_json *j, const char *key, hd_status code, const char *format, ...) {
  if (*j->status != HD_OK) return;
  char message[768];
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(message, sizeof message, format, arguments);
  va_end(arguments);
  bool dot = key && *j->path;
  *j->status = hd_fail(j->err, code, "%s%s%s: %s", j->path, dot ? "." : "", key ? key : "", message);
}

static const char *kind_text(char room[HD_NAME_ROOM], const cJSON *node) {
  if (cJSON_IsNull(node)) return "null";
  if (cJSON_IsBool(node)) return cJSON_IsTrue(node) ? "true" : "false";
  if (cJSON_IsArray(node)) return "an array";
  if (cJSON_IsObject(node)) return "an object";
  if (cJSON_IsNumber(node)) snprintf(room, HD_NAME_ROOM, "%.17g", node->valuedouble);
  else hd_short_name(room, node->valuestring ? node->valuestring : "");
  return room;
}

static void refuse_kind(const hd_json *j, const char *key, const char *expected, const cJSON *node) {
  char room[HD_NAME_ROOM];
  const char *found = kind_text(room, node);
  if (cJSON_IsString(node)) hd_json_refuse(j, key, HD_BAD_FILE, "expected %s, found \"%s\"", expected, found);
  else hd_json_refuse(j, key, HD_BAD_FILE, "expected %s, found %s", expected, found);
}

/* The member's node; NULL when it is missing or null, when j itself is, and after an error. */
static const cJSON *find(const hd_json *j, const char *key) {
  if (*j->status != HD_OK || !j->node || cJSON_IsNull(j->node)) return NULL;
  if (!cJSON_IsObject(j->node)) {
    refuse_kind(j, NULL, "an object", j->node);
    return NULL;
  }
  const cJSON *node = cJSON_GetObjectItemCaseSensitive(j->node, key);
  if (!node) node = cJSON_GetObjectItem(j->node, key);
  return node && !cJSON_IsNull(node) ? node : NULL;
}

bool hd_json_has(const hd_json *j, const char *key) { return find(j, key) != NULL; }

hd_json hd_json_member(const hd_json *j, const char *key) {
  hd_json member = {.node = find(j, key), .status = j->status, .err = j->err};
  set_path(member.path, (const char *const[]){j->path, *j->path ? "." : "", key});
  return member;
}

/* One after another costs a step each. */
static const cJSON *walk_to(hd_json *j, size_t index) {
  if (index > INT32_MAX) return NULL;
  j->item = j->item && index == j->item_index + 1 ? j->item->next : cJSON_GetArrayItem(j->node, (int)index);
  j->item_index = index;
  return j->item;
}

hd_json hd_json_item(hd_json *j, size_t index) {
  hd_json item = {.status = j->status, .err = j->err};
  if (*j->status == HD_OK && cJSON_IsArray(j->node)) item.node = walk_to(j, index);
  char place[24];
  snprintf(place, sizeof place, "[%zu]", index);
  set_path(item.path, (const char *const[]){j->path, "", place});
  return item;
}

size_t hd_json_count(const hd_json *j, const char *key) {
  const cJSON *node = find(j, key);
  if (node && !cJSON_IsArray(node)) {
    refuse_kind(j, key, "an array", node);
    return 0;
  }
  return node ? (size_t)cJSON_GetArraySize(node) : 0;
}

/* Up to 2^53 a double says exactly which number the text meant. */
bool hd_json_is_size(const cJSON *node, size_t least, size_t most, size_t *size) {
  const double value = cJSON_IsNumber(node) ? node->valuedouble : -1;
  if (!(value >= (double)least && value <= fmin((double)most, 0x1p53) && value == floor(value))) return false;
  *size = (size_t)value;
  return true;
}

size_t hd_json_get_size(const hd_json *j, const char *key, size_t missing) {
  const cJSON *node = find(j, key);
  size_t size = missing;
  if (node && !hd_json_is_size(node, 0, SIZE_MAX, &size)) refuse_kind(j, key, "a whole number", node);
  return size;
}

/* ---- Sizes that have to be there ---- */

enum { LONGEST_KEY = 48 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* How many letters are to be put in, left out, changed or swapped with their neighbour to make b of a (Damerau, 1964). Keys as long as
 * LONGEST_KEY and longer are far from all. */
static size_t slips(const char *a, const char *b) {
  size_t n = strlen(a), m = strlen(b), d[LONGEST_KEY][LONGEST_KEY];
  if (n >= LONGEST_KEY || m >= LONGEST_KEY) return SIZE_MAX;
  for (size_t i = 0; i <= n; i++) d[i][0] = i;
  for (size_t k = 0; k <= m; k++) d[0][k] = k;
  for (size_t i = 1; i <= n; i++)
    for (size_t k = 1; k <= m; k++) {
      d[i][k] = least(least(d[i - 1][k], d[i][k - 1]) + 1, d[i - 1][k - 1] + (a[i - 1] != b[k - 1]));
      if (i > 1 && k > 1 && a[i - 1] == b[k - 2] && a[i - 2] == b[k - 1]) d[i][k] = least(d[i][k], d[i - 2][k - 2] + 1);
    }
  return d[n][m];
}

/* The object's key nearest to a spelling; NULL: none is within two slips (one, where the word is short). */
static const char *nearest_key(const hd_json *j, const char *const *spellings, const char **meant) {
  const char *nearest = NULL;
  size_t fewest = 3;
  for (; *spellings; spellings++) {
    const size_t most = strlen(*spellings) < 6 ? 1 : 2;
    const cJSON *member;
    cJSON_ArrayForEach(member, j->node) {
      size_t n = member->string ? slips(member->string, *spellings) : 0;
      if (n == 0 || n > most || n >= fewest) continue;
      fewest = n;
      nearest = member->string;
      *meant = *spellings;
    }
  }
  return nearest;
}

void hd_json_refuse_size(const hd_json *j, const char *const *spellings, size_t most) {
  char expected[64] = "a size of at least 1", room[HD_NAME_ROOM];
  const char *key = spellings[0], *meant = NULL, *nearest = NULL;
  const cJSON *node = find(j, key);
  if (most != SIZE_MAX) snprintf(expected, sizeof expected, "a size from 1 to %zu", most);
  for (const char *const *other = spellings; !node && *other; other++) node = find(j, *other);
  if (!node && cJSON_IsObject(j->node)) nearest = nearest_key(j, spellings, &meant);
  if (node) refuse_kind(j, key, expected, node);
  else if (nearest)
    hd_json_refuse(j, key, HD_BAD_FILE, "expected %s, found '%s'; did you mean '%s'?", expected, hd_short_name(room, nearest), meant);
  else hd_json_refuse(j, key, HD_BAD_FILE, "expected %s, found none", expected);
}

size_t hd_json_need_size(const hd_json *j, const char *key, size_t most) {
  size_t size = hd_json_get_size(j, key, 0);
  if (size >= 1 && size <= most) return size;
  hd_json_refuse_size(j, (const char *const[]){key, NULL}, most);
  return 0;
}

double hd_json_get_number(const hd_json *j, const char *key, double missing) {
  const cJSON *node = find(j, key);
  if (!node) return missing;
  if (cJSON_IsNumber(node)) return node->valuedouble;
  refuse_kind(j, key, "a number", node);
  return missing;
}

bool hd_json_get_bool(const hd_json *j, const char *key, bool missing) {
  const cJSON *node = find(j, key);
  if (!node) return missing;
  if (cJSON_IsBool(node)) return cJSON_IsTrue(node);
  refuse_kind(j, key, "true or false", node);
  return missing;
}

const char *hd_json_get_text(const hd_json *j, const char *key, const char *missing) {
  const cJSON *node = find(j, key);
  if (!node) return missing;
  if (cJSON_IsString(node)) return node->valuestring;
  refuse_kind(j, key, "a text", node);
  return missing;
}

/* ---- Writing ---- */

void hd_json_add_float(cJSON *object, const char *key, float value) {
  char room[HD_DECIMAL_ROOM];
  const size_t n = hd_decimal(room, (double)value, hd_binary_f32);
  cJSON_AddNumberToObject(object, key, hd_decimal_read(room, n, NULL, hd_binary_f64));
}
