/* format/bundle.c: Loom's bundles, in both forms of their weights.
 *
 *   {"type": "modelhost/bundle", "version": 1, "models": [MODEL, …]}
 *   MODEL    {"id": TEXT, "cfg": OBJECT, "weights": {"fmt": "jsonModelB64", "data": TEXT}}
 *   data     Base64 of a second JSON text
 *   form 1   {"type": "float32", "dtype": "", "layers": [LAYER, …]},
 *            LAYER {FIELD: [NUMBER, …], …, "branch_weights": [LAYER, …]}
 *   form 2   {"dtype": ENCODING, "scale": NUMBER, "layers": [LAYER, …]},
 *            LAYER {"dtype": ENCODING, FIELD: TEXT, …, "branch_weights": [LAYER, …]}; TEXT is Base64 of codes (precision.h)
 *
 *   - "type" is exactly that; "version" is not checked. Keys match whatever their case, each at most once; null is as good as a missing
 *     key. Keys of the bundle and of the model that are not named here are kept, letter for letter.
 *   - "fmt" is "multiPrecisionB64" for form 2; anything else, or nothing, is form 1.
 *   - The first model with the id counts.
 *   - Form 1: "layers" of the weights has as many entries as "layers" of cfg. Form 2: the shorter list rules.
 *   - Form 2: the top "dtype" rules, an unknown one is float32; a scale of 0 or none is 1; what is not Base64 is no tensor.
 *   - Every list of numbers is a tensor, numbers are decimal float32, an empty list is no tensor. "cluster_centers" may be a
 *     list of rows, too. A list of anything else is an error; what else a layer object holds is skipped.
 *
 * The outer text is stepped over once, without copying, to find the model; then its cfg becomes a tree and its weights are
 * pulled into float arrays. */
#include "format/bundle.h"

#include "base/base64.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/precision.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Branches nest as deep as cfg's own JSON may nest them. A name then has a kilobyte, so names are limited in all, too. */
enum { MAX_BRANCH_DEPTH = HD_JSON_MAX_DEPTH / 2, PATH_ROOM = 2048, MAX_NAME_BYTES = 4 << 20 };

static const char bundle_type[] = "modelhost/bundle";

/* What Loom's layers hold: found whatever the case of their keys. The last two need not be plain lists. Any other list of
 * numbers is a tensor too, under its key as written: the standard dialect's fields, and those of layers we do not know. */
static const char *const layer_fields[] = {
    "kernel",        "biases",       "conv_bias",  "gamma",        "beta",       "embedding_weights",                /* dense, conv, norms */
    "q_weights",     "k_weights",    "v_weights",  "output_weight",                                                  /* attention */
    "q_bias",        "k_bias",       "v_bias",     "output_bias",
    "weight_ih",     "weight_hh",    "bias_h",                                                                       /* rnn */
    "weight_ii",     "weight_if",    "weight_ig",  "weight_io",                                                      /* lstm */
    "weight_hi",     "weight_hf",    "weight_hg",  "weight_ho",
    "bias_i",        "bias_f",       "bias_g",     "bias_o",
    "gate_weights",  "up_weights",   "down_weights", "gate_bias",  "up_bias",    "down_bias",                        /* swiglu */
    "conv3d_kernel", "conv3d_bias",
    "cluster_centers", "branch_weights"};
enum { N_FIELDS = sizeof layer_fields / sizeof *layer_fields, CLUSTER_CENTERS = N_FIELDS - 2, BRANCH_WEIGHTS = N_FIELDS - 1 };

/* ---- Keys ---- */

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

static bool same_key(const char *a, const char *b) {
  while (*a && lower(*a) == *b) {
    a++;
    b++;
  }
  return *a == *b;
}

static void fail_with(hd_json_reader *r, hd_status code, const char *problem) {
  if (r->status == HD_OK) r->status = hd_fail(r->err, code, "%s: byte %zu: %s", r->what, r->at, problem);
}

/* A member nobody here knows, kept as it was written: "<indent>"key": value,". */
static void keep_member(hd_json_reader *r, const char *key, hd_text *extra, const char *indent) {
  const char *value;
  size_t n;
  if (!hd_json_skip(r, &value, &n) || !extra) return;
  hd_text_print(extra, "%s", indent);
  hd_text_quoted(extra, key);
  hd_text_print(extra, ": %.*s,", (int)n, value);
}

/* In an object: steps to its next member that is one of `names` and not null, over all others. Its index, or −1 at the
 * end. `seen` has a bit for each name that was there. Other members go to `extra`, unless it is NULL. */
static int next_member_keeping(hd_json_reader *r, const char *const *names, int n_names, uint64_t *seen, hd_text *extra,
                               const char *indent) {
  char *key;
  size_t n;
  while (hd_json_next_key(r, &key, &n)) {
    int found = 0;
    while (found < n_names && !(same_key(key, names[found]) && strlen(key) == n)) found++;
    if (found == n_names) keep_member(r, key, extra, indent);
    hd_free(key);
    if (found == n_names) continue;
    if (*seen >> found & 1) {
      char problem[64];
      snprintf(problem, sizeof problem, "expected \"%s\" once, found it twice", names[found]);
      fail_with(r, HD_BAD_FILE, problem);
      return -1;
    }
    *seen |= UINT64_C(1) << found;
    if (hd_json_peek(r) != HD_JSON_NULL) return found;
    hd_json_skip(r, NULL, NULL);
  }
  return -1;
}

static int next_member(hd_json_reader *r, const char *const *names, int n_names, uint64_t *seen) {
  return next_member_keeping(r, names, n_names, seen, NULL, "");
}

/* ---- The outer text ---- */

/* Where a model's parts lie in the text; NULL: missing. `data` with its quotes. */
typedef struct model_place {
  const char *cfg, *data;
  size_t n_cfg, n_data;
  bool multi_precision;
  hd_text extra; /* the model's members besides these */
} model_place;

typedef struct search {
  hd_json_reader r;
  const char *id;
  bool is_bundle, found;
  char wrong_type[HD_NAME_ROOM];
  model_place place;
  size_t n_models;
  char ids[512]; /* "a", "b": the first of those that are there */
  size_t n_ids;
  double version;
  hd_text extra; /* the bundle's members besides these */
} search;

static void note_id(search *s, const char *id) {
  char room[HD_NAME_ROOM];
  size_t left = sizeof s->ids - s->n_ids;
  int n = snprintf(s->ids + s->n_ids, left, "%s\"%s\"", s->n_ids ? ", " : "", hd_short_name(room, id));
  if (n < 0 || (size_t)n >= left) s->ids[s->n_ids] = '\0'; /* as many as fit */
  else s->n_ids += (size_t)n;
}

static void read_weights_place(hd_json_reader *r, model_place *place) {
  static const char *const names[] = {"fmt", "data"};
  uint64_t seen = 0;
  int member;
  hd_json_enter_object(r);
  while ((member = next_member(r, names, 2, &seen)) >= 0) {
    char *format;
    size_t n;
    if (member == 0 && hd_json_string(r, &format, &n)) {
      place->multi_precision = strcmp(format, "multiPrecisionB64") == 0;
      hd_free(format);
    } else if (member == 1 && hd_json_peek(r) != HD_JSON_STRING) {
      hd_json_fail(r, "a string of Base64");
    } else if (member == 1) {
      hd_json_skip(r, &place->data, &place->n_data);
    }
  }
}

static void read_model_place(search *s) {
  static const char *const names[] = {"id", "cfg", "weights"};
  hd_json_reader *r = &s->r;
  model_place place = {0};
  bool matches = *s->id == '\0'; /* a model without an id has the empty one */
  uint64_t seen = 0;
  int member;
  hd_json_enter_object(r);
  while ((member = next_member_keeping(r, names, 3, &seen, &place.extra, "\n      ")) >= 0) {
    char *id;
    size_t n;
    if (member == 0 && hd_json_string(r, &id, &n)) {
      matches = n == strlen(s->id) && memcmp(id, s->id, n) == 0;
      note_id(s, id);
      hd_free(id);
    } else if (member == 1 && hd_json_peek(r) != HD_JSON_OBJECT) {
      hd_json_fail(r, "cfg to be an object ('{')");
    } else if (member == 1) {
      hd_json_skip(r, &place.cfg, &place.n_cfg);
    } else if (member == 2) {
      read_weights_place(r, &place);
    }
  }
  s->n_models++;
  if (!matches || s->found) {
    hd_free(place.extra.data);
    return;
  }
  s->found = true;
  s->place = place;
}

static void read_outer(search *s) {
  static const char *const names[] = {"type", "models", "version"};
  hd_json_reader *r = &s->r;
  uint64_t seen = 0;
  int member;
  hd_json_enter_object(r);
  while ((member = next_member_keeping(r, names, 3, &seen, &s->extra, "\n  ")) >= 0) {
    char *type;
    size_t n;
    if (member == 0 && hd_json_string(r, &type, &n)) {
      s->is_bundle = n == sizeof bundle_type - 1 && memcmp(type, bundle_type, n) == 0;
      hd_short_name(s->wrong_type, type);
      hd_free(type);
    } else if (member == 1) {
      hd_json_enter_array(r);
      while (hd_json_next_item(r)) read_model_place(s);
    } else if (member == 2 && hd_json_peek(r) == HD_JSON_NUMBER) {
      hd_json_number(r, &s->version);
    } else if (member == 2) {
      hd_json_skip(r, NULL, NULL);
    }
  }
  hd_json_finish(r);
}

static hd_status find_model(search *s, hd_error *err) {
  hd_json_reader probe = s->r;
  probe.err = NULL;
  if (hd_json_peek(&probe) != HD_JSON_OBJECT) {
    s->r.at = probe.at;
    return hd_json_fail(&s->r, "a Loom bundle (a JSON object, '{')");
  }
  read_outer(s);
  if (s->r.status != HD_OK) return s->r.status;
  if (!s->is_bundle && !*s->wrong_type)
    return hd_fail(err, HD_BAD_FILE, "bundle: expected \"type\": \"%s\", found no type", bundle_type);
  if (!s->is_bundle)
    return hd_fail(err, HD_BAD_FILE, "bundle: expected \"type\": \"%s\", found \"%s\"", bundle_type, s->wrong_type);
  if (s->found) return HD_OK;
  char room[HD_NAME_ROOM];
  return hd_fail(err, HD_BAD_ARGUMENT, "bundle: expected a model \"%s\", found %zu models: %s", hd_short_name(room, s->id),
                 s->n_models, s->n_models ? s->ids : "the list is empty");
}

/* ---- The weights ---- */

/* Reads the inner text; `path` is where it is, "layers.2.branch_weights.1". */
typedef struct weights_reader {
  hd_json_reader r;
  const hd_precision *precision; /* form 2; NULL: form 1 */
  double scale;
  hd_bundle *bundle;
  size_t tensors_room;
  char path[PATH_ROOM];
  size_t n_path, name_bytes;
  bool path_told; /* the error's message has the path already */
} weights_reader;

/* Appends ".name" or ".3"; returns the length before, to go back to. */
static size_t push_path(weights_reader *w, const char *name, size_t index) {
  size_t before = w->n_path, left = PATH_ROOM - w->n_path;
  int n = name ? snprintf(w->path + before, left, "%s%s", before ? "." : "", name)
               : snprintf(w->path + before, left, ".%zu", index);
  if (n > 0 && (size_t)n < left) w->n_path += (size_t)n;
  else fail_with(&w->r, HD_UNSUPPORTED, "expected a shorter field name");
  return before;
}

static void pop_path(weights_reader *w, size_t before) {
  if (w->r.status != HD_OK && !w->path_told) {
    char room[HD_NAME_ROOM];
    hd_fail_in(w->r.err, hd_short_name(room, w->path));
    w->path_told = true;
  }
  w->n_path = before;
  w->path[before] = '\0';
}

static bool fail_memory(weights_reader *w, size_t bytes) {
  if (w->r.status == HD_OK) w->r.status = hd_fail(w->r.err, HD_OUT_OF_MEMORY, "no memory for %zu bytes of weights", bytes);
  return false;
}

/* How many numbers the list ahead can have at most: its commas and one. Strange characters end the count; they will be
 * found to be an error when the list is read. */
static size_t count_numbers(const hd_json_reader *r) {
  size_t n = 1;
  int depth = 0;
  for (size_t at = r->at; at < r->n; at++) {
    char c = r->text[at];
    if (c == ',') n++;
    else if (c == '[') depth++;
    else if (c == ']') {
      if (--depth == 0) break;
    } else if (c == '"' || c == '{' || c == '}') break;
  }
  return n;
}

typedef struct numbers {
  float *values;
  size_t n, room;
} numbers;

static void read_number(hd_json_reader *r, numbers *list) {
  if (list->n == list->room) fail_with(r, HD_BAD_FILE, "expected fewer numbers"); /* count_numbers makes it impossible */
  else hd_json_float(r, &list->values[list->n++]);
}

static void read_list(hd_json_reader *r, numbers *list) {
  hd_json_enter_array(r);
  while (hd_json_next_item(r)) read_number(r, list);
}

/* Rows of equal length, one after the other; or all in one list, as Loom itself writes them. */
static void read_rows(hd_json_reader *r, numbers *list) {
  size_t n_rows = 0, width = 0;
  hd_json_enter_array(r);
  while (hd_json_next_item(r)) {
    if (n_rows == 0 && hd_json_peek(r) != HD_JSON_ARRAY) {
      read_number(r, list);
      continue;
    }
    size_t before = list->n;
    read_list(r, list);
    if (n_rows++ == 0) width = list->n;
    if (list->n - before == width || r->status != HD_OK) continue;
    char problem[128];
    snprintf(problem, sizeof problem, "expected rows of %zu numbers, found %zu in row %zu", width, list->n - before, n_rows - 1);
    fail_with(r, HD_BAD_FILE, problem);
  }
}

static bool append_tensor(weights_reader *w, const numbers *list) {
  hd_bundle *b = w->bundle;
  if (b->n_tensors == w->tensors_room) {
    size_t room = w->tensors_room ? w->tensors_room * 2 : 16;
    hd_bundle_tensor *tensors = hd_realloc(b->tensors, room * sizeof *tensors);
    if (!tensors) return fail_memory(w, room * sizeof *tensors);
    b->tensors = tensors;
    w->tensors_room = room;
  }
  w->name_bytes += w->n_path;
  if (w->name_bytes > MAX_NAME_BYTES) {
    fail_with(&w->r, HD_UNSUPPORTED, "expected shorter names of weights, or fewer");
    return false;
  }
  char *name = hd_arena_text(&b->arena, w->path);
  if (!name) return fail_memory(w, w->n_path);
  b->tensors[b->n_tensors++] = (hd_bundle_tensor){name, list->values, list->n};
  return true;
}

static void read_tensor(weights_reader *w, bool rows) {
  if (hd_json_peek(&w->r) != HD_JSON_ARRAY) {
    hd_json_fail(&w->r, "a list of numbers ('[')");
    return;
  }
  numbers list = {.room = count_numbers(&w->r)};
  size_t bytes;
  if (hd_mul_size(list.room, sizeof(float), &bytes)) list.values = hd_arena_alloc(&w->bundle->arena, bytes);
  if (!list.values) {
    fail_memory(w, bytes);
    return;
  }
  if (rows) read_rows(&w->r, &list);
  else read_list(&w->r, &list);
  if (w->r.status == HD_OK && list.n > 0) append_tensor(w, &list);
}

/* Form 2: text that is not Base64 is no tensor. `text` is a string's inside, unescaped. */
static void read_coded(weights_reader *w, const char *text, size_t n) {
  size_t n_bytes = 0;
  uint8_t *bytes = hd_alloc(hd_base64_decoded_max(n));
  if (!bytes) {
    fail_memory(w, hd_base64_decoded_max(n));
    return;
  }
  numbers list = {0};
  if (hd_base64_decode(text, n, bytes, &n_bytes, NULL) == HD_OK) list.n = hd_precision_count(w->precision, n_bytes);
  size_t room;
  if (list.n > 0 && hd_mul_size(list.n, sizeof(float), &room)) list.values = hd_arena_alloc(&w->bundle->arena, room);
  if (list.values) {
    hd_precision_decode(w->precision, bytes, list.n, w->scale, list.values);
    append_tensor(w, &list);
  } else if (list.n > 0) {
    fail_memory(w, list.n * sizeof(float));
  }
  hd_free(bytes);
}

static void read_coded_tensor(weights_reader *w) {
  char *text;
  size_t n;
  if (hd_json_peek(&w->r) != HD_JSON_STRING) {
    hd_json_fail(&w->r, "a string of Base64");
  } else if (hd_json_string(&w->r, &text, &n)) {
    read_coded(w, text, n);
    hd_free(text);
  }
}

static size_t read_layers(weights_reader *w, int depth);

/* The known field a key names, whatever its case; −1: none. */
static int known_field(const char *key, size_t n) {
  for (int i = 0; i < N_FIELDS; i++)
    if (same_key(key, layer_fields[i]) && strlen(key) == n) return i;
  return -1;
}

/* Whether a member under a key we do not know looks like a tensor. A layer's own dtype does, in form 2, and is none. */
static bool may_be_tensor(const weights_reader *w, const char *key, hd_json_type type) {
  if (!w->precision) return type == HD_JSON_ARRAY;
  return type == HD_JSON_STRING && !same_key(key, "dtype");
}

/* One member of a layer object: its key was read and is freed here. */
static void read_member(weights_reader *w, char *key, size_t n, uint64_t *seen, int depth) {
  int field = known_field(key, n);
  hd_json_type type = hd_json_peek(&w->r);
  if (type == HD_JSON_NULL || (field < 0 && !may_be_tensor(w, key, type))) {
    hd_free(key);
    hd_json_skip(&w->r, NULL, NULL);
    return;
  }
  if (field >= 0 && *seen >> field & 1) fail_with(&w->r, HD_BAD_FILE, "expected every field once, found it twice");
  if (field >= 0) *seen |= UINT64_C(1) << field;
  size_t before = push_path(w, field >= 0 ? layer_fields[field] : key, 0);
  hd_free(key);
  if (field == BRANCH_WEIGHTS) read_layers(w, depth + 1);
  else if (w->precision) read_coded_tensor(w);
  else read_tensor(w, field == CLUSTER_CENTERS);
  pop_path(w, before);
}

static void read_layer(weights_reader *w, int depth) {
  uint64_t seen = 0;
  char *key;
  size_t n;
  if (hd_json_peek(&w->r) == HD_JSON_NULL) {
    hd_json_skip(&w->r, NULL, NULL);
    return;
  }
  hd_json_enter_object(&w->r);
  while (hd_json_next_key(&w->r, &key, &n)) read_member(w, key, n, &seen, depth);
}

/* Returns how many there are. */
static size_t read_layers(weights_reader *w, int depth) {
  size_t n = 0;
  if (depth > MAX_BRANCH_DEPTH) fail_with(&w->r, HD_UNSUPPORTED, "expected branch_weights nested less deep");
  hd_json_enter_array(&w->r);
  while (hd_json_next_item(&w->r)) {
    size_t before = push_path(w, NULL, n++);
    read_layer(w, depth);
    pop_path(w, before);
  }
  return n;
}

static void read_layer_list(weights_reader *w) {
  size_t before = push_path(w, "layers", 0);
  w->bundle->n_layers = read_layers(w, 0);
  pop_path(w, before);
}

/* What form 2 says of itself. An encoding without a name, or of an unknown one, is float32, as Loom takes it. */
static void read_precision(weights_reader *w, int member) {
  char *name;
  size_t n;
  if (member == 1) {
    hd_json_number(&w->r, &w->scale);
  } else if (hd_json_string(&w->r, &name, &n)) {
    const hd_precision *named = hd_precision_find(name);
    if (named) w->precision = named;
    hd_free(name);
  }
}

/* Form 2: how numbers are coded may stand behind the layers, so these are read in a second pass. */
static void read_form_2(weights_reader *w) {
  static const char *const names[] = {"dtype", "scale", "layers"};
  uint64_t seen = 0;
  int member;
  bool found = false;
  hd_json_reader at_layers = w->r;
  w->precision = hd_precision_find("float32");
  hd_json_enter_object(&w->r);
  while ((member = next_member(&w->r, names, 3, &seen)) >= 0) {
    if (member < 2) {
      read_precision(w, member);
      continue;
    }
    found = true;
    at_layers = w->r;
    hd_json_skip(&w->r, NULL, NULL);
  }
  hd_json_finish(&w->r);
  w->bundle->precision = w->precision;
  if (w->r.status != HD_OK || !found) return;
  w->r = at_layers;
  read_layer_list(w);
}

static void read_form_1(weights_reader *w) {
  static const char *const names[] = {"layers"};
  uint64_t seen = 0;
  hd_json_enter_object(&w->r);
  while (next_member(&w->r, names, 1, &seen) >= 0) read_layer_list(w);
  hd_json_finish(&w->r);
}

static hd_status read_weights(hd_bundle *bundle, const char *text, size_t n, hd_error *err) {
  weights_reader w = {.r = hd_json_open(text, n, "weights", err), .bundle = bundle};
  if (bundle->multi_precision) read_form_2(&w);
  else read_form_1(&w);
  return w.r.status;
}

/* ---- One model ---- */

static hd_status decode_weights(hd_bundle *bundle, const char *text, size_t n, hd_error *err) {
  size_t n_bytes;
  if (n == 0) return hd_fail(err, HD_BAD_FILE, "weights.data: expected Base64 of JSON, found an empty text");
  uint8_t *bytes = hd_alloc(hd_base64_decoded_max(n));
  if (!bytes) return hd_fail(err, HD_OUT_OF_MEMORY, "weights.data: no memory for %zu bytes", hd_base64_decoded_max(n));
  hd_status status = hd_base64_decode(text, n, bytes, &n_bytes, err);
  if (status != HD_OK) hd_fail_in(err, "weights.data");
  else status = read_weights(bundle, (const char *)bytes, n_bytes, err);
  hd_free(bytes);
  return status;
}

/* `data` with its quotes. Base64 needs no escapes, but some writers put '/' as "\/". */
static hd_status read_data(hd_bundle *bundle, const char *data, size_t n, hd_error *err) {
  if (!memchr(data, '\\', n)) return decode_weights(bundle, data + 1, n - 2, err);
  hd_json_reader r = hd_json_open(data, n, "weights.data", err);
  char *text;
  size_t n_text;
  if (!hd_json_string(&r, &text, &n_text)) return r.status;
  hd_status status = decode_weights(bundle, text, n_text, err);
  hd_free(text);
  return status;
}

static hd_status count_layers(const hd_bundle *bundle, hd_error *err) {
  hd_status status = HD_OK;
  hd_json cfg = hd_json_root(bundle->cfg, "cfg", &status, err);
  size_t n = hd_json_count(&cfg, "layers");
  if (status == HD_OK && n != bundle->n_layers && !bundle->multi_precision)
    return hd_fail(err, HD_BAD_FILE, "expected weights for the %zu layers of cfg, found %zu layers", n, bundle->n_layers);
  return status;
}

static int compare_tensors(const void *a, const void *b) {
  const hd_bundle_tensor *x = a, *y = b;
  return strcmp(x->name, y->name);
}

/* Also finds the fields that came twice under a key that only we would not know. */
static hd_status sort_tensors(hd_bundle *bundle, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (bundle->n_tensors > 0) qsort(bundle->tensors, bundle->n_tensors, sizeof *bundle->tensors, compare_tensors);
  for (size_t i = 1; i < bundle->n_tensors; i++)
    if (compare_tensors(&bundle->tensors[i - 1], &bundle->tensors[i]) == 0)
      return hd_fail(err, HD_BAD_FILE, "%s: expected every field once, found it twice", hd_short_name(room, bundle->tensors[i].name));
  return HD_OK;
}

static hd_status read_model(hd_bundle *bundle, const model_place *place, hd_error *err) {
  if (!place->cfg) return hd_fail(err, HD_BAD_FILE, "expected a cfg, found none");
  if (!place->data) return hd_fail(err, HD_BAD_FILE, "expected weights.data, found none");
  bundle->multi_precision = place->multi_precision;
  HD_TRY(read_data(bundle, place->data, place->n_data, err));
  hd_status status = hd_json_parse(&bundle->cfg, place->cfg, place->n_cfg, err);
  if (status != HD_OK) {
    hd_fail_in(err, "cfg");
    return status;
  }
  HD_TRY(count_layers(bundle, err));
  return sort_tensors(bundle, err);
}

/* What the writer put beside the model, for whoever saves it again. */
static hd_status keep_metadata(hd_bundle *bundle, const search *s, hd_error *err) {
  bundle->version = s->version;
  bundle->extra = hd_arena_text(&bundle->arena, s->extra.data ? s->extra.data : "");
  bundle->model_extra = hd_arena_text(&bundle->arena, s->place.extra.data ? s->place.extra.data : "");
  if (bundle->extra && bundle->model_extra && !s->extra.failed && !s->place.extra.failed) return HD_OK;
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a bundle's metadata");
}

static hd_status read_found(hd_bundle **out, const search *s, hd_error *err) {
  hd_bundle *bundle = hd_alloc_zero(sizeof *bundle);
  if (!bundle) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a bundle");
  hd_status status = read_model(bundle, &s->place, err);
  if (status == HD_OK) status = keep_metadata(bundle, s, err);
  if (status == HD_OK) {
    *out = bundle;
    return HD_OK;
  }
  char shown[HD_NAME_ROOM], path[HD_NAME_ROOM + 16];
  snprintf(path, sizeof path, "model \"%s\"", hd_short_name(shown, s->id));
  hd_fail_in(err, path);
  hd_bundle_free(bundle);
  return status;
}

hd_status hd_bundle_read(hd_bundle **out, const char *text, size_t n, const char *id, hd_error *err) {
  *out = NULL;
  search s = {.r = hd_json_open(text, n, "bundle", err), .id = id};
  hd_status status = find_model(&s, err);
  if (status == HD_OK) status = read_found(out, &s, err);
  hd_free(s.extra.data);
  hd_free(s.place.extra.data);
  return status;
}

void hd_bundle_free(hd_bundle *bundle) {
  if (!bundle) return;
  cJSON_Delete(bundle->cfg);
  hd_free(bundle->tensors);
  hd_arena_free(&bundle->arena);
  hd_free(bundle);
}

const hd_bundle_tensor *hd_bundle_find(const hd_bundle *bundle, const char *name) {
  size_t low = 0, high = bundle->n_tensors;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    int order = strcmp(name, bundle->tensors[middle].name);
    if (order == 0) return &bundle->tensors[middle];
    if (order < 0) high = middle;
    else low = middle + 1;
  }
  return NULL;
}

/* ---- Fields by form ---- */

const char *hd_bundle_field(const char *field, bool multi_precision) {
  if (multi_precision && strcmp(field, "conv_bias") == 0) return "biases";
  if (multi_precision && strcmp(field, "cluster_centers") == 0) return NULL;
  if (!multi_precision && strcmp(field, "embedding_weights") == 0) return NULL;
  return field;
}

/* ---- Writing ---- */

/* Loom's own numbers say which form it is; another is the user's, and stays. */
static double version_of(const hd_bundle_parts *parts) { return parts->version > 2 ? parts->version : parts->multi_precision ? 2 : 1; }

hd_status hd_bundle_write(char **text, size_t *n, const hd_bundle_parts *parts, hd_error *err) {
  hd_text t = {0};
  hd_text_print(&t, "{\n  \"type\": \"%s\",\n  \"version\": ", bundle_type);
  hd_text_double(&t, version_of(parts));
  hd_text_print(&t, ",%s\n  \"models\": [\n    {\n      \"id\": ", parts->extra ? parts->extra : "");
  hd_text_quoted(&t, parts->id);
  hd_text_print(&t, ",%s\n      \"cfg\": ", parts->model_extra ? parts->model_extra : "");
  hd_text_json(&t, parts->cfg, 3);
  hd_text_print(&t, ",\n      \"weights\": {\n        \"fmt\": \"%s\",\n        \"data\": \"",
                parts->multi_precision ? "multiPrecisionB64" : "jsonModelB64");
  hd_text_base64(&t, parts->weights, parts->n_weights);
  hd_text_print(&t, "\"\n      }\n    }\n  ]\n}");
  *text = NULL;
  *n = 0;
  if (t.failed) {
    hd_free(t.data);
    return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a bundle of %zu bytes of weights", parts->n_weights);
  }
  *text = t.data;
  *n = t.n;
  return HD_OK;
}
