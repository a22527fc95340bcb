/* format/bundle_weights.c: the text inside a bundle's weights, in its three forms.
 *
 *   form 1   {"type": "float32", "dtype": "", "layers": [LAYER, …]},
 *            LAYER {FIELD: [NUMBER, …], …, "branch_weights": [LAYER, …]}
 *   form 2   {"dtype": ENCODING, "scale": NUMBER, "layers": [LAYER, …]},
 *            LAYER {"dtype": ENCODING, FIELD: TEXT, …, "branch_weights": [LAYER, …]}; TEXT is Base64 of codes (precision.h)
 *   form 3   {"dtype": DTYPE, "affine_layers": [LAYER, …]},
 *            LAYER {FIELD: TENSOR, …, "branch_weights": [LAYER, …]}; DTYPE one of affine.h's
 *            TENSOR {"codes": TEXT, "scale": [NUMBER, …], "zero_point": [NUMBER, …], "axis": 0} or {"values": TEXT}
 *
 *   - Form 2: the top "dtype" rules, an unknown one is float32; a scale of 0 or none is 1; what is not Base64 is no tensor.
 *   - Form 3: w = scale · (code − zero point). One scale for all, or one for each of a tensor's channels: "axis" 0 (also when missing)
 *     means that each channel's values lie together, -1 that channels are the last dimension. As many zero points as scales, or none, which
 *     means 0. "values" is Base64 of float32. Nothing is guessed: what is missing or unknown is an error.
 *   - Every list of numbers is a tensor, numbers are decimal float32, an empty list is no tensor. "cluster_centers" may be a
 *     list of rows, too. A list of anything else is an error; what else a layer object holds is skipped. */
#include "format/bundle_weights.h"

#include "base/base64.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/precision.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Branches nest as deep as cfg's own JSON may nest them. A name then has a kilobyte, so names are limited in all, too. */
enum { MAX_BRANCH_DEPTH = HD_JSON_MAX_DEPTH / 2, PATH_ROOM = 2048, MAX_NAME_BYTES = 4 << 20 };

/* What Loom's layers hold: found whatever the case of their keys. The last two need not be plain lists. Any other list of
 * numbers is a tensor too, under its key as written: the standard dialect's fields, and those of layers we do not know. */
static const char *const layer_fields[] = {
    "kernel",        "biases",       "conv_bias",  "gamma",        "beta",       "embedding_weights",  /* dense, conv, norms */
    "q_weights",     "k_weights",    "v_weights",  "output_weight",                                    /* attention */
    "q_bias",        "k_bias",       "v_bias",     "output_bias",
    "weight_ih",     "weight_hh",    "bias_h",                                                         /* rnn */
    "weight_ii",     "weight_if",    "weight_ig",  "weight_io",                                        /* lstm */
    "weight_hi",     "weight_hf",    "weight_hg",  "weight_ho",
    "bias_i",        "bias_f",       "bias_g",     "bias_o",
    "gate_weights",  "up_weights",   "down_weights", "gate_bias",  "up_bias",    "down_bias",          /* swiglu */
    "conv3d_kernel", "conv3d_bias",
    "cluster_centers", "branch_weights"};
enum { N_FIELDS = sizeof layer_fields / sizeof *layer_fields, CLUSTER_CENTERS = N_FIELDS - 2, BRANCH_WEIGHTS = N_FIELDS - 1 };

/* ---- The weights ---- */

/* Reads the inner text; `path` is where it is, "layers.2.branch_weights.1". */
typedef struct weights_reader {
  hd_json_reader r;
  const hd_precision *precision; /* form 2; NULL in others */
  const hd_affine_dtype *affine; /* form 3; NULL in others */
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
  else hd_bundle_fail(&w->r, HD_UNSUPPORTED, "expected a shorter field name");
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
  if (list->n == list->room) hd_bundle_fail(r, HD_BAD_FILE, "expected fewer numbers"); /* count_numbers makes it impossible */
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
    hd_bundle_fail(r, HD_BAD_FILE, problem);
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
    hd_bundle_fail(&w->r, HD_UNSUPPORTED, "expected shorter names of weights, or fewer");
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

/* ---- Form 3 ---- */

/* What a tensor of form 3 says of itself; lists and codes as they were read. */
typedef struct affine_tensor {
  numbers scale, zero_point;
  uint8_t *codes, *values;
  size_t n_codes, n_values; /* bytes */
  bool interleaved;
} affine_tensor;

static void read_bytes(weights_reader *w, uint8_t **bytes, size_t *n_bytes) {
  char *text;
  size_t n;
  if (hd_json_peek(&w->r) != HD_JSON_STRING) {
    hd_json_fail(&w->r, "a string of Base64");
    return;
  }
  if (!hd_json_string(&w->r, &text, &n)) return;
  *bytes = hd_arena_alloc(&w->bundle->arena, hd_base64_decoded_max(n));
  if (!*bytes) fail_memory(w, hd_base64_decoded_max(n));
  else if (hd_base64_decode(text, n, *bytes, n_bytes, w->r.err) != HD_OK) w->r.status = HD_BAD_FILE;
  hd_free(text);
}

static void read_number_list(weights_reader *w, numbers *list) {
  size_t bytes;
  if (hd_json_peek(&w->r) != HD_JSON_ARRAY) {
    hd_json_fail(&w->r, "a list of numbers ('[')");
    return;
  }
  *list = (numbers){.room = count_numbers(&w->r)};
  if (hd_mul_size(list->room, sizeof(float), &bytes)) list->values = hd_arena_alloc(&w->bundle->arena, bytes);
  if (list->values) read_list(&w->r, list);
  else fail_memory(w, bytes);
}

static void read_axis(weights_reader *w, affine_tensor *t) {
  double axis = 0;
  if (!hd_json_number(&w->r, &axis)) return;
  t->interleaved = axis == -1;
  if (axis != 0 && axis != -1) hd_bundle_fail(&w->r, HD_UNSUPPORTED, "expected an axis of 0 or -1");
}

static void read_affine_members(weights_reader *w, affine_tensor *t) {
  static const char *const names[] = {"codes", "scale", "zero_point", "axis", "values"};
  uint64_t seen = 0;
  int member;
  if (hd_json_peek(&w->r) != HD_JSON_OBJECT) hd_json_fail(&w->r, "an object with codes and scale, or with values ('{')");
  hd_json_enter_object(&w->r);
  while ((member = hd_next_member(&w->r, names, 5, &seen)) >= 0) {
    if (member == 0) read_bytes(w, &t->codes, &t->n_codes);
    else if (member == 1) read_number_list(w, &t->scale);
    else if (member == 2) read_number_list(w, &t->zero_point);
    else if (member == 3) read_axis(w, t);
    else read_bytes(w, &t->values, &t->n_values);
  }
}

/* The scales with their zero points, checked; NULL on failure. */
static hd_affine *affines_of(weights_reader *w, const affine_tensor *t) {
  char problem[128];
  size_t n = t->scale.n, n_values = t->n_codes / w->affine->width;
  snprintf(problem, sizeof problem, "expected %s codes of as many channels as scales, found %zu bytes, %zu scales, %zu zero points",
           w->affine->name, t->n_codes, n, t->zero_point.n);
  bool fits = n > 0 && t->n_codes % w->affine->width == 0 && n_values % n == 0 && (t->zero_point.n == 0 || t->zero_point.n == n);
  if (!fits) hd_bundle_fail(&w->r, HD_BAD_FILE, problem);
  hd_affine *affines = fits ? hd_arena_alloc(&w->bundle->arena, n * sizeof *affines) : NULL;
  if (fits && !affines) fail_memory(w, n * sizeof *affines);
  for (size_t i = 0; affines && i < n; i++) {
    float zero_point = t->zero_point.n ? t->zero_point.values[i] : 0;
    bool is_code = zero_point == rintf(zero_point) && zero_point >= (float)w->affine->low && zero_point <= (float)w->affine->high;
    if (!is_code || !(t->scale.values[i] > 0)) hd_bundle_fail(&w->r, HD_BAD_FILE, "expected scales above 0 and zero points that are codes");
    affines[i] = (hd_affine){t->scale.values[i], is_code ? (int32_t)zero_point : 0};
  }
  return w->r.status == HD_OK ? affines : NULL;
}

static bool make_room(weights_reader *w, numbers *list) {
  size_t bytes = 0;
  if (hd_mul_size(list->n, sizeof(float), &bytes)) list->values = hd_arena_alloc(&w->bundle->arena, bytes);
  return list->values ? true : fail_memory(w, bytes);
}

static void read_affine_tensor(weights_reader *w) {
  affine_tensor t = {0};
  read_affine_members(w, &t);
  if (w->r.status != HD_OK) return;
  numbers list = {.n = t.codes ? t.n_codes / w->affine->width : t.n_values / sizeof(float)};
  if (t.codes && !t.values) {
    const hd_affine *affines = affines_of(w, &t);
    const hd_channels channels = {list.n, t.scale.n, t.interleaved};
    if (!affines || list.n == 0 || !make_room(w, &list)) return;
    hd_affine_decode(w->affine, t.codes, &channels, affines, list.values);
  } else if (t.values && !t.codes && t.n_values % sizeof(float) == 0) {
    if (list.n == 0 || !make_room(w, &list)) return;
    hd_precision_decode(hd_precision_find("float32"), t.values, list.n, 1, list.values);
  } else {
    hd_bundle_fail(&w->r, HD_BAD_FILE, "expected codes and their scale, or values of 4 bytes each");
    return;
  }
  append_tensor(w, &list);
}

static size_t read_layers(weights_reader *w, int depth);

/* ---- Layers ---- */

/* The known field a key names, whatever its case; −1: none. */
static int known_field(const char *key, size_t n) {
  for (int i = 0; i < N_FIELDS; i++)
    if (hd_same_key(key, layer_fields[i]) && strlen(key) == n) return i;
  return -1;
}

/* Whether a member under a key we do not know looks like a tensor. A layer's own dtype does, in form 2, and is none. */
static bool may_be_tensor(const weights_reader *w, const char *key, hd_json_type type) {
  if (w->affine) return type == HD_JSON_OBJECT;
  if (!w->precision) return type == HD_JSON_ARRAY;
  return type == HD_JSON_STRING && !hd_same_key(key, "dtype");
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
  if (field >= 0 && *seen >> field & 1) hd_bundle_fail(&w->r, HD_BAD_FILE, "expected every field once, found it twice");
  if (field >= 0) *seen |= UINT64_C(1) << field;
  size_t before = push_path(w, field >= 0 ? layer_fields[field] : key, 0);
  hd_free(key);
  if (field == BRANCH_WEIGHTS) read_layers(w, depth + 1);
  else if (w->affine) read_affine_tensor(w);
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
  if (depth > MAX_BRANCH_DEPTH) hd_bundle_fail(&w->r, HD_UNSUPPORTED, "expected branch_weights nested less deep");
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
  while ((member = hd_next_member(&w->r, names, 3, &seen)) >= 0) {
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
  while (hd_next_member(&w->r, names, 1, &seen) >= 0) read_layer_list(w);
  hd_json_finish(&w->r);
}

static void read_affine_dtype(weights_reader *w) {
  char *name, problem[160], room[HD_NAME_ROOM];
  size_t n;
  if (!hd_json_string(&w->r, &name, &n)) return;
  w->affine = hd_affine_find(name);
  snprintf(problem, sizeof problem, "expected int8, int16, uint8 or uint16 codes, found '%s'", hd_short_name(room, name));
  if (!w->affine) hd_bundle_fail(&w->r, HD_UNSUPPORTED, problem);
  hd_free(name);
}

/* The dtype stands before the layers in what we write; a text that has it behind them is read as well. */
static void read_form_3(weights_reader *w) {
  static const char *const names[] = {"dtype", "affine_layers"};
  uint64_t seen = 0;
  int member;
  hd_json_reader at_layers = w->r;
  hd_json_enter_object(&w->r);
  while ((member = hd_next_member(&w->r, names, 2, &seen)) >= 0) {
    if (member == 0) {
      read_affine_dtype(w);
      continue;
    }
    at_layers = w->r;
    hd_json_skip(&w->r, NULL, NULL);
  }
  hd_json_finish(&w->r);
  if (w->r.status == HD_OK && seen != 3) hd_bundle_fail(&w->r, HD_BAD_FILE, "expected a dtype and affine_layers");
  if (w->r.status != HD_OK) return;
  w->bundle->affine = w->affine;
  w->r = at_layers;
  read_layer_list(w);
}

hd_status hd_bundle_read_weights(hd_bundle *bundle, const char *text, size_t n, hd_error *err) {
  static void (*const read[])(weights_reader *) = {
      [HD_FORM_DECIMAL] = read_form_1, [HD_FORM_CODED] = read_form_2, [HD_FORM_AFFINE] = read_form_3};
  weights_reader w = {.r = hd_json_open(text, n, "weights", err), .bundle = bundle};
  read[bundle->form](&w);
  return w.r.status;
}
