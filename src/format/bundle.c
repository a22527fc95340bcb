/* format/bundle.c: Loom's bundles: the outer text. What is inside the weights is bundle_weights.c's.
 *
 *   {"type": "modelhost/bundle", "version": 1, "models": [MODEL, …]}
 *   MODEL    {"id": TEXT, "cfg": OBJECT, "weights": {"fmt": FORM, "data": TEXT}}
 *   FORM     "jsonModelB64" (form 1), "multiPrecisionB64" (form 2), and our own "affineB64" (form 3)
 *   data     Base64 of a second JSON text
 *
 *   - "type" is exactly that; "version" is not checked. Keys match whatever their case, each at most once; null is as good as a missing
 *     key. Keys of the bundle and of the model that are not named here are kept, letter for letter.
 *   - A "fmt" that is neither form 2's nor form 3's, or none, is form 1's.
 *   - The first model with the id counts.
 *   - Forms 1 and 3: the weights have as many layers as "layers" of cfg. Form 2: the shorter list rules.
 *
 * Loom does not know form 3. It takes any fmt it does not know for form 1 and then finds no "layers", where cfg has some: it refuses, as
 * older Heddles do. That is why form 3's list has another name.
 *
 * The outer text is stepped over once, without copying, to find the model; then its cfg becomes a tree and its weights are
 * pulled into float arrays. */
#include "base/text.h"
#include "format/bundle_weights.h"

#include "base/base64.h"
#include "base/memory.h"
#include "base/status.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char bundle_type[] = "modelhost/bundle";

/* What "fmt" calls each form. */
static const char *const form_names[] = {
    [HD_FORM_DECIMAL] = "jsonModelB64", [HD_FORM_CODED] = "multiPrecisionB64", [HD_FORM_AFFINE] = "affineB64"};

static hd_bundle_form form_called(const char *name) {
  for (int form = HD_FORM_CODED; form <= HD_FORM_AFFINE; form++)
    if (strcmp(name, form_names[form]) == 0) return (hd_bundle_form)form;
  return HD_FORM_DECIMAL;
}

/* ---- Keys ---- */

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

bool hd_same_key(const char *a, const char *b) {
  while (*a && lower(*a) == *b) {
    a++;
    b++;
  }
  return *a == *b;
}

void hd_bundle_fail(hd_json_reader *r, hd_status code, const char *problem) {
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
int hd_next_member_keeping(hd_json_reader *r, const char *const *names, int n_names, uint64_t *seen, hd_text *extra,
                               const char *indent) {
  char *key;
  size_t n;
  while (hd_json_next_key(r, &key, &n)) {
    int found = 0;
    while (found < n_names && !(hd_same_key(key, names[found]) && strlen(key) == n)) found++;
    if (found == n_names) keep_member(r, key, extra, indent);
    hd_free(key);
    if (found == n_names) continue;
    if (*seen >> found & 1) {
      char problem[64];
      snprintf(problem, sizeof problem, "expected \"%s\" once, found it twice", names[found]);
      hd_bundle_fail(r, HD_BAD_FILE, problem);
      return -1;
    }
    *seen |= UINT64_C(1) << found;
    if (hd_json_peek(r) != HD_JSON_NULL) return found;
    hd_json_skip(r, NULL, NULL);
  }
  return -1;
}

int hd_next_member(hd_json_reader *r, const char *const *names, int n_names, uint64_t *seen) {
  return hd_next_member_keeping(r, names, n_names, seen, NULL, "");
}

/* ---- The outer text ---- */

/* Where a model's parts lie in the text; NULL: missing. `data` with its quotes. */
typedef struct model_place {
  const char *cfg, *data;
  size_t n_cfg, n_data;
  hd_bundle_form form;
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
  while ((member = hd_next_member(r, names, 2, &seen)) >= 0) {
    char *format;
    size_t n;
    if (member == 0 && hd_json_string(r, &format, &n)) {
      place->form = form_called(format);
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
  model_place place = {.form = HD_FORM_DECIMAL};
  bool matches = *s->id == '\0'; /* a model without an id has the empty one */
  uint64_t seen = 0;
  int member;
  hd_json_enter_object(r);
  while ((member = hd_next_member_keeping(r, names, 3, &seen, &place.extra, "\n      ")) >= 0) {
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
  while ((member = hd_next_member_keeping(r, names, 3, &seen, &s->extra, "\n  ")) >= 0) {
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

/* ---- One model ---- */

static hd_status decode_weights(hd_bundle *bundle, const char *text, size_t n, hd_error *err) {
  size_t n_bytes;
  if (n == 0) return hd_fail(err, HD_BAD_FILE, "weights.data: expected Base64 of JSON, found an empty text");
  uint8_t *bytes = hd_alloc(hd_base64_decoded_max(n));
  if (!bytes) return hd_fail(err, HD_OUT_OF_MEMORY, "weights.data: no memory for %zu bytes", hd_base64_decoded_max(n));
  hd_status status = hd_base64_decode(text, n, bytes, &n_bytes, err);
  if (status != HD_OK) hd_fail_in(err, "weights.data");
  else status = hd_bundle_read_weights(bundle, (const char *)bytes, n_bytes, err);
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
  if (status == HD_OK && n != bundle->n_layers && bundle->form != HD_FORM_CODED)
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
  bundle->form = place->form;
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

const char *hd_bundle_field(const char *field, hd_bundle_form form) {
  if (form == HD_FORM_CODED && strcmp(field, "conv_bias") == 0) return "biases";
  if (form == HD_FORM_CODED && strcmp(field, "cluster_centers") == 0) return NULL;
  if (form == HD_FORM_DECIMAL && strcmp(field, "embedding_weights") == 0) return NULL;
  return field;
}

const char *hd_bundle_lost(const cJSON *layer, hd_bundle_form form) {
  const char *type = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(layer, "type"));
  const bool is_residual = type && strcmp(type, "residual") == 0,
             has_positions = cJSON_GetObjectItemCaseSensitive(layer, "grid_positions") != NULL;
  if (form == HD_FORM_DECIMAL && is_residual) return "residual";
  return form == HD_FORM_CODED && has_positions ? "grid_positions" : NULL;
}

/* ---- Writing ---- */

/* Loom's own numbers say which form it is (2 for ours, too); another is the user's, and stays. */
static double version_of(const hd_bundle_parts *parts) {
  return parts->version > 2 ? parts->version : parts->form > HD_FORM_DECIMAL ? 2 : 1;
}

static void write_parts(hd_text *t, const hd_bundle_parts *parts) {
  hd_text_print(t, "{\n  \"type\": \"%s\",\n  \"version\": ", bundle_type);
  hd_text_double(t, version_of(parts));
  hd_text_print(t, ",%s\n  \"models\": [\n    {\n      \"id\": ", parts->extra ? parts->extra : "");
  hd_text_quoted(t, parts->id);
  hd_text_print(t, ",%s\n      \"cfg\": ", parts->model_extra ? parts->model_extra : "");
  hd_text_json(t, parts->cfg, 3);
  hd_text_print(t, ",\n      \"weights\": {\n        \"fmt\": \"%s\",\n        \"data\": \"",
                form_names[parts->form ? parts->form : HD_FORM_DECIMAL]);
  hd_text_base64(t, parts->weights, parts->n_weights);
  hd_text_print(t, "\"\n      }\n    }\n  ]\n}");
}

/* Counted first: it is large, and the weights' text is there still. */
hd_status hd_bundle_write(char **text, size_t *n, const hd_bundle_parts *parts, hd_error *err) {
  hd_text counted = {.counting = true}, t = {0};
  write_parts(&counted, parts);
  hd_text_reserve(&t, counted.n);
  write_parts(&t, parts);
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
