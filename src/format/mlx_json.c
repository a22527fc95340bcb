/* format/mlx_json.c: MLX-Node's weights.mlx, one JSON object with weights as decimals:
 *
 *   {"version": "1.0", "config": {…}, "weights": {NAME: {"shape": [2, 3], "dtype": "float32", "data": [row-major, flat]}, …}, "note": "…"}
 *
 * and its other variant, whose records have no data and a number for their dtype: a description of the weights.safetensors beside it. Both
 * become and are made of SafeTensors files, so that whatever reads those reads these. Errors about single records are MLX-Node's own texts.
 *
 * The text is read by the pull reader, twice: numbers never become nodes, and what is needed besides the text is the file made of it. Names
 * and sizes are checked before the file is allocated: it has at most twice the bytes of the text. */
#include "base/decimal.h"
#include "base/dtype.h"
#include "base/json.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/format.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Dtypes ---- */

static const struct {
  const char *label;
  double number; /* of the variant without data */
  hd_dtype dtype;
  bool values;   /* a weight may be of it; the others are only listed */
} labels[] = {{"float32", 0, HD_F32, true}, {"int32", 1, HD_I32, false}, {"float16", 2, HD_F16, true},
              {"bfloat16", 3, HD_BF16, true}, {"uint32", 4, HD_U32, false}};
enum { N_LABELS = sizeof labels / sizeof labels[0] };

static hd_dtype dtype_of_label(const char *label) {
  for (size_t i = 0; i < N_LABELS; i++)
    if (labels[i].values && strcmp(labels[i].label, label) == 0) return labels[i].dtype;
  return HD_DTYPE_COUNT;
}

static const char *label_of(hd_dtype dtype) {
  for (size_t i = 0; i < N_LABELS; i++)
    if (labels[i].values && labels[i].dtype == dtype) return labels[i].label;
  return NULL;
}

static hd_status unsupported(const char *name, const char *label, hd_error *err) {
  char room[HD_NAME_ROOM], other[HD_NAME_ROOM];
  return hd_fail(err, HD_UNSUPPORTED, "Unsupported dtype for %s: %s. Supported: float32, float16, bfloat16",
                 hd_short_name(room, name), hd_short_name(other, label));
}

/* ---- One record ---- */

typedef struct record {
  char *name, *label;     /* label: of a dtype given as text; NULL: none */
  bool has_shape, has_number, has_data;
  double number;
  int n_dims;
  size_t shape[HD_MAX_DIMS];
  const char *data;       /* its array in the text, to be read again */
  size_t n_data, n_values;
} record;

typedef struct records {
  record *items;
  size_t n, room;
  bool has_weights, has_version;
  const char *config, *note; /* spans of the text; NULL: none */
  size_t n_config, n_note;
  char *version;
} records;

static void free_records(records *all) {
  for (size_t i = 0; i < all->n; i++) {
    hd_free(all->items[i].name);
    hd_free(all->items[i].label);
  }
  hd_free(all->items);
  hd_free(all->version);
}

/* What is no whole number is passed over, as MLX-Node does. */
static void read_shape(hd_json_reader *r, record *t) {
  if (hd_json_peek(r) != HD_JSON_ARRAY) {
    hd_json_skip(r, NULL, NULL);
    return;
  }
  t->has_shape = true;
  hd_json_enter_array(r);
  while (hd_json_next_item(r)) {
    double size = -1;
    if (hd_json_peek(r) == HD_JSON_NUMBER) hd_json_number(r, &size);
    else hd_json_skip(r, NULL, NULL);
    if (!(size >= 0 && size < 4294967296.0 && size == floor(size))) continue;
    if (t->n_dims == HD_MAX_DIMS) hd_json_fail(r, "a shape of at most 8 dimensions");
    else t->shape[t->n_dims++] = (size_t)size;
  }
}

/* The dtype's name; a number is kept beside it. */
static void read_dtype(hd_json_reader *r, record *t) {
  size_t n;
  hd_json_type type = hd_json_peek(r);
  if (type == HD_JSON_STRING) {
    hd_free(t->label);
    hd_json_string(r, &t->label, &n);
  } else if (type == HD_JSON_NUMBER) {
    t->has_number = hd_json_number(r, &t->number);
  } else {
    hd_json_skip(r, NULL, NULL);
  }
}

/* Checks and counts the numbers; their values come with the second reading. */
static void count_data(hd_json_reader *r, record *t) {
  if (hd_json_peek(r) != HD_JSON_ARRAY) {
    hd_json_skip(r, NULL, NULL);
    return;
  }
  t->has_data = true;
  t->data = r->text + r->at;
  hd_json_enter_array(r);
  for (t->n_values = 0; hd_json_next_item(r);) {
    t->n_values += hd_json_peek(r) == HD_JSON_NUMBER;
    hd_json_skip(r, NULL, NULL);
  }
  t->n_data = (size_t)(r->text + r->at - t->data);
}

static void read_record(hd_json_reader *r, record *t) {
  char *key;
  size_t n;
  if (hd_json_peek(r) != HD_JSON_OBJECT) {
    hd_json_skip(r, NULL, NULL); /* it has no shape then */
    return;
  }
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &key, &n)) {
    if (strcmp(key, "shape") == 0 && !t->has_shape) read_shape(r, t);
    else if (strcmp(key, "dtype") == 0) read_dtype(r, t);
    else if (strcmp(key, "data") == 0) count_data(r, t);
    else hd_json_skip(r, NULL, NULL);
    hd_free(key);
  }
}

/* ---- The whole text ---- */

static record *add_record(records *all) {
  if (all->n == all->room) {
    size_t room = all->room ? 2 * all->room : 64, bytes;
    record *items = hd_mul_size(room, sizeof *items, &bytes) ? hd_realloc(all->items, bytes) : NULL;
    if (!items) return NULL;
    all->items = items;
    all->room = room;
  }
  all->items[all->n] = (record){0};
  return &all->items[all->n++];
}

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the weights of an MLX file"); }

/* Such a file is refused, so that nothing behind that record is kept: a megabyte has 200,000 of them. */
static bool lacks_shape(const records *all) { return all->n > 0 && !all->items[all->n - 1].has_shape; }

static void read_weights(hd_json_reader *r, records *all) {
  char *name;
  size_t n;
  if (hd_json_peek(r) != HD_JSON_OBJECT || all->has_weights) {
    hd_json_skip(r, NULL, NULL);
    return;
  }
  all->has_weights = true;
  hd_json_enter_object(r);
  while (hd_json_next_key(r, &name, &n)) {
    if (lacks_shape(all)) {
      hd_free(name);
      hd_json_skip(r, NULL, NULL);
      continue;
    }
    record *t = strlen(name) == n ? add_record(all) : NULL;
    if (t) t->name = name;
    if (t) read_record(r, t);
    else if (strlen(name) != n) hd_json_fail(r, "a name without NUL characters");
    else r->status = no_memory(r->err);
    if (!t) hd_free(name);
  }
}

static void read_top(hd_json_reader *r, records *all, const char *key) {
  size_t n;
  hd_json_type type = hd_json_peek(r);
  if (strcmp(key, "weights") == 0) {
    read_weights(r, all);
  } else if (strcmp(key, "version") == 0 && type == HD_JSON_STRING && !all->version) {
    all->has_version = hd_json_string(r, &all->version, &n);
  } else if (strcmp(key, "config") == 0 && type == HD_JSON_OBJECT) {
    hd_json_skip(r, &all->config, &all->n_config);
  } else if (strcmp(key, "note") == 0 && type == HD_JSON_STRING) {
    hd_json_skip(r, &all->note, &all->n_note);
  } else {
    hd_json_skip(r, NULL, NULL);
  }
}

static hd_status read_text(records *all, const char *text, size_t n_text, hd_error *err) {
  hd_json_reader r = hd_json_open(text, n_text, "MLX JSON", err);
  char *key;
  size_t n;
  if (hd_json_peek(&r) != HD_JSON_OBJECT && r.status == HD_OK) return hd_fail(err, HD_BAD_FILE, "Invalid MLX weight file format");
  hd_json_enter_object(&r);
  while (hd_json_next_key(&r, &key, &n)) {
    read_top(&r, all, key);
    hd_free(key);
  }
  hd_json_finish(&r);
  if (r.status != HD_OK) return r.status;
  return all->has_version && all->has_weights ? HD_OK : hd_fail(err, HD_BAD_FILE, "Invalid MLX weight file format");
}

static bool is_metadata_only(const records *all) {
  for (size_t i = 0; i < all->n; i++)
    if (!all->items[i].has_shape || !all->items[i].has_number || all->items[i].has_data) return false;
  return all->n > 0;
}

/* ---- To SafeTensors ---- */

static hd_status refuse_shapeless(const record *t, hd_error *err) {
  char room[HD_NAME_ROOM];
  return hd_fail(err, HD_BAD_FILE, "Missing shape for %s", hd_short_name(room, t->name));
}

/* MLX-Node's checks, in its order. Of a dtype that is a number it says that there is none. */
static hd_status check_record(const record *t, hd_error *err) {
  char room[HD_NAME_ROOM];
  const char *name = hd_short_name(room, t->name);
  size_t count;
  if (!t->has_shape) return refuse_shapeless(t, err);
  if (!t->label && !(t->has_number && t->has_data)) return hd_fail(err, HD_BAD_FILE, "Missing dtype for %s", name);
  if (!t->has_data) return hd_fail(err, HD_BAD_FILE, "Missing data for %s", name);
  if (!hd_shape_count(t->n_dims, t->shape, &count))
    return hd_fail(err, HD_BAD_FILE, "Data size mismatch for %s: expected more than memory can address, got %zu", name, t->n_values);
  if (count != t->n_values) return hd_fail(err, HD_BAD_FILE, "Data size mismatch for %s: expected %zu, got %zu", name, count, t->n_values);
  return HD_OK;
}

static hd_status dtype_of(hd_dtype *dtype, const record *t, hd_error *err) {
  char number[32];
  *dtype = t->label ? dtype_of_label(t->label) : HD_DTYPE_COUNT;
  for (size_t i = 0; i < N_LABELS && !t->label; i++)
    if (labels[i].number == t->number && labels[i].values) *dtype = labels[i].dtype;
  snprintf(number, sizeof number, "%g", t->number);
  return *dtype == HD_DTYPE_COUNT ? unsupported(t->name, t->label ? t->label : number, err) : HD_OK;
}

/* "format": "mlx", and what the text says besides, so that it can be written again. */
static hd_status write_metadata(hd_text *metadata, const records *all, hd_error *err) {
  hd_text_print(metadata, "{\"format\":\"mlx\",\"version\":");
  hd_text_quoted(metadata, all->version);
  char *config = all->config ? hd_alloc(all->n_config + 1) : NULL;
  if (all->config && !config) return no_memory(err);
  if (config) {
    memcpy(config, all->config, all->n_config);
    config[all->n_config] = '\0';
    hd_text_print(metadata, ",\"config\":");
    hd_text_quoted(metadata, config);
  }
  hd_free(config);
  hd_text_print(metadata, "}");
  return metadata->failed ? no_memory(err) : HD_OK;
}

/* The second reading: decimals become float32, rounded once, and then the dtype. */
static hd_status fill(uint8_t *to, const record *t, hd_dtype dtype, hd_error *err) {
  hd_json_reader r = hd_json_open(t->data, t->n_data, "MLX JSON: data", err);
  const hd_dtype_info *info = hd_dtype_get(dtype);
  hd_json_enter_array(&r);
  while (hd_json_next_item(&r)) {
    float value;
    if (hd_json_peek(&r) != HD_JSON_NUMBER) {
      hd_json_skip(&r, NULL, NULL);
      continue;
    }
    if (!hd_json_float(&r, &value)) break;
    info->from_f32(&value, to, 1);
    to += info->block_bytes;
  }
  if (r.status != HD_OK) hd_fail_in(err, t->name);
  return r.status;
}

static hd_status store(uint8_t **file, size_t *n_file, hd_stored *tensors, const records *all, hd_error *err) {
  hd_text metadata = {0};
  hd_status status = HD_OK;
  for (size_t i = 0; i < all->n && status == HD_OK; i++) {
    const record *t = &all->items[i];
    tensors[i] = (hd_stored){.name = t->name, .n_dims = t->n_dims, .from = t};
    memcpy(tensors[i].shape, t->shape, sizeof t->shape);
    status = check_record(t, err);
    if (status == HD_OK) status = dtype_of(&tensors[i].dtype, t, err);
  }
  if (status == HD_OK) status = write_metadata(&metadata, all, err);
  if (status == HD_OK) status = hd_safetensors_start(file, n_file, tensors, all->n, metadata.data, err);
  for (size_t i = 0; i < all->n && status == HD_OK; i++) status = fill(*file + tensors[i].begin, tensors[i].from, tensors[i].dtype, err);
  hd_free(metadata.data);
  return status;
}

static int compare_records(const void *a, const void *b) { return strcmp(((const record *)a)->name, ((const record *)b)->name); }

static hd_status refuse_repeated(records *all, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (all->n) qsort(all->items, all->n, sizeof *all->items, compare_records);
  for (size_t i = 1; i < all->n; i++)
    if (strcmp(all->items[i - 1].name, all->items[i].name) == 0)
      return hd_fail(err, HD_BAD_FILE, "MLX JSON: weight %s: expected every name once, found it twice",
                     hd_short_name(room, all->items[i].name));
  return HD_OK;
}

hd_status hd_mlx_to_safetensors(uint8_t **file, size_t *n_file, const char *text, size_t n_text, hd_error *err) {
  records all = {0};
  *file = NULL;
  *n_file = 0;
  hd_status status = read_text(&all, text, n_text, err);
  if (status == HD_OK && is_metadata_only(&all))
    status = hd_fail(err, HD_UNSUPPORTED, "MLX JSON: it only describes %zu weights, first %s: \"Full weights are in weights.safetensors\"",
                     all.n, all.items[0].name);
  if (status == HD_OK) status = refuse_repeated(&all, err);
  hd_stored *tensors = status == HD_OK ? hd_alloc((all.n + 1) * sizeof *tensors) : NULL;
  if (status == HD_OK) status = tensors ? store(file, n_file, tensors, &all, err) : no_memory(err);
  if (status != HD_OK) {
    hd_free(*file);
    *file = NULL;
    *n_file = 0;
  }
  hd_free(tensors);
  free_records(&all);
  return status;
}

/* ---- What is in it ---- */

static void list_record(hd_text *json, const record *t) {
  const char *label = t->label ? t->label : "unknown";
  for (size_t i = 0; i < N_LABELS && !t->label; i++)
    if (t->has_number && labels[i].number == t->number) label = labels[i].label;
  hd_text_print(json, "{\"name\":");
  hd_text_quoted(json, t->name);
  hd_text_print(json, ",\"dtype\":");
  hd_text_quoted(json, label);
  hd_text_print(json, ",\"shape\":[");
  for (int d = 0; d < t->n_dims; d++) hd_text_print(json, "%s%zu", d ? "," : "", t->shape[d]);
  hd_text_print(json, "]}");
}

hd_status hd_mlx_list(char **json, const char *text, size_t n_text, hd_error *err) {
  records all = {0};
  hd_text list = {0};
  *json = NULL;
  hd_status status = read_text(&all, text, n_text, err);
  if (status == HD_OK && lacks_shape(&all)) status = refuse_shapeless(&all.items[all.n - 1], err);
  hd_text_print(&list, "{\"metadataOnly\":%s,\"weights\":[", is_metadata_only(&all) ? "true" : "false");
  for (size_t i = 0; i < all.n && status == HD_OK; i++) {
    if (i) hd_text_print(&list, ",");
    list_record(&list, &all.items[i]);
  }
  hd_text_print(&list, "]");
  if (all.note && status == HD_OK) hd_text_print(&list, ",\"note\":");
  if (all.note && status == HD_OK) hd_text_add(&list, all.note, all.n_note);
  hd_text_print(&list, "}");
  if (status == HD_OK && list.failed) status = no_memory(err);
  if (status == HD_OK) *json = list.data;
  else hd_free(list.data);
  free_records(&all);
  return status;
}

/* ---- From SafeTensors ---- */

typedef struct hd_mlx_writing {
  hd_text text;
  const uint8_t *file;
  bool pretty;
} hd_mlx_writing;

/* As few digits as tell the value from its neighbours of the dtype. */
static void write_value(hd_text *text, hd_dtype dtype, const uint8_t *bytes) {
  const hd_binary format = dtype == HD_F16 ? hd_binary_f16 : dtype == HD_BF16 ? hd_binary_bf16 : hd_binary_f32;
  char room[HD_DECIMAL_ROOM];
  float value;
  hd_dtype_get(dtype)->to_f32(bytes, &value, 1);
  hd_text_add(text, room, hd_decimal(room, (double)value, format));
}

/* A line for each row of the last dimension when it is for people. */
static void write_data(hd_mlx_writing *w, const hd_entry *e, size_t count) {
  size_t width = hd_dtype_get(e->dtype)->block_bytes, row = e->n_dims ? e->shape[e->n_dims - 1] : 1;
  for (size_t i = 0; i < count; i++) {
    if (i) hd_text_add(&w->text, ",", 1);
    if (w->pretty && i % row == 0) hd_text_print(&w->text, "\n        ");
    else if (w->pretty) hd_text_add(&w->text, " ", 1);
    write_value(&w->text, e->dtype, w->file + e->begin + i * width);
  }
  if (w->pretty && count) hd_text_print(&w->text, "\n      ");
}

static hd_status refuse_not_finite(const hd_mlx_writing *w, const hd_entry *e, size_t count, hd_error *err) {
  const hd_dtype_info *info = hd_dtype_get(e->dtype);
  size_t n = 0;
  float value;
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < count; i++) {
    info->to_f32(w->file + e->begin + i * info->block_bytes, &value, 1);
    if (!isfinite(value)) n++;
  }
  if (n == 0) return HD_OK;
  return hd_fail(err, HD_BAD_ARGUMENT,
                 "Cannot save model: parameter '%s' contains %zu NaN/Inf values. Model weights are corrupted, likely due to training "
                 "instability. Consider reducing learning rate or using an earlier checkpoint.",
                 hd_short_name(room, e->name), n);
}

static hd_status write_weight(hd_mlx_writing *w, const hd_entry *e, bool first, hd_error *err) {
  const char *label = label_of(e->dtype), *line = w->pretty ? "\n      " : "", *space = w->pretty ? " " : "";
  size_t count;
  if (!label) return unsupported(e->name, hd_dtype_name(e->dtype), err);
  if (!hd_shape_count(e->n_dims, e->shape, &count)) return no_memory(err); /* the directory has refused it before */
  HD_TRY(refuse_not_finite(w, e, count, err));
  hd_text_print(&w->text, "%s%s", first ? "" : ",", w->pretty ? "\n    " : "");
  hd_text_quoted(&w->text, e->name);
  hd_text_print(&w->text, ":%s{%s\"shape\":%s[", space, line, space);
  for (int d = 0; d < e->n_dims; d++) hd_text_print(&w->text, "%s%s%zu", d ? "," : "", d ? space : "", e->shape[d]);
  hd_text_print(&w->text, "],%s\"dtype\":%s\"%s\",%s\"data\":%s[", line, space, label, line, space);
  write_data(w, e, count);
  hd_text_print(&w->text, "]%s}", w->pretty ? "\n    " : "");
  return w->text.failed ? no_memory(err) : HD_OK;
}

static const char *metadata_of(const hd_directory *directory, const char *wanted) {
  const char *key, *value;
  for (size_t i = 0; hd_directory_metadata(directory, i, &key, &value); i++)
    if (strcmp(key, wanted) == 0) return value;
  return NULL;
}

/* What the file's metadata keep of a text that it was made of. A config that is no JSON is refused. */
static hd_status write_top(hd_mlx_writing *w, const hd_directory *directory, const char *config, size_t n_config, hd_error *err) {
  const char *version = metadata_of(directory, "version"), *kept = metadata_of(directory, "config"),
             *line = w->pretty ? "\n  " : "", *space = w->pretty ? " " : "";
  if (!config && kept) n_config = strlen(config = kept);
  hd_text_print(&w->text, "{%s\"version\":%s", line, space);
  hd_text_quoted(&w->text, version ? version : "1.0");
  if (config) {
    hd_json_reader r = hd_json_open(config, n_config, "config", err);
    if (!hd_json_skip(&r, NULL, NULL) || !hd_json_finish(&r)) return r.status;
    hd_text_print(&w->text, ",%s\"config\":%s", line, space);
    hd_text_add(&w->text, config, n_config);
  }
  hd_text_print(&w->text, ",%s\"weights\":%s{", line, space);
  return HD_OK;
}

static int compare_entries(const void *a, const void *b) {
  return strcmp((*(const hd_entry *const *)a)->name, (*(const hd_entry *const *)b)->name);
}

/* Room for what is to come, so that the text is not copied while it grows. */
static void reserve(hd_mlx_writing *w, const hd_entry **entries, size_t n) {
  enum { AROUND = 128 }; /* the words around the values */
  size_t bytes = w->text.n, count;
  for (size_t i = 0; i < n; i++)
    if (hd_shape_count(entries[i]->n_dims, entries[i]->shape, &count))
      bytes = hd_plus(bytes, hd_plus(hd_times(count, HD_TEXT_FLOAT_BYTES + w->pretty), strlen(entries[i]->name) + AROUND));
  hd_text_reserve(&w->text, bytes);
}

/* By name, as MLX-Node's own files have them. */
static hd_status write_weights(hd_mlx_writing *w, const hd_directory *directory, hd_error *err) {
  size_t n = hd_directory_count(directory);
  const hd_entry **sorted = hd_alloc((n + 1) * sizeof *sorted);
  if (!sorted) return no_memory(err);
  for (size_t i = 0; i < n; i++) sorted[i] = hd_directory_entry(directory, i);
  reserve(w, sorted, n);
  if (n) qsort(sorted, n, sizeof *sorted, compare_entries);
  hd_status status = HD_OK;
  for (size_t i = 0; i < n && status == HD_OK; i++) status = write_weight(w, sorted[i], i == 0, err);
  hd_free(sorted);
  return status;
}

hd_status hd_mlx_from_safetensors(char **text, size_t *n, const void *file, size_t n_file, const char *config, size_t n_config,
                                  bool pretty, hd_error *err) {
  hd_mlx_writing w = {.file = file, .pretty = pretty};
  hd_directory *directory = NULL;
  *text = NULL;
  *n = 0;
  hd_status status = hd_directory_read(&directory, file, n_file, n_file, err);
  if (status == HD_OK) status = write_top(&w, directory, config, n_config, err);
  if (status == HD_OK) status = write_weights(&w, directory, err);
  hd_text_print(&w.text, pretty ? "\n  }\n}\n" : "}}");
  if (status == HD_OK && w.text.failed) status = no_memory(err);
  hd_directory_free(directory);
  if (status != HD_OK) {
    hd_free(w.text.data);
    return status;
  }
  *text = w.text.data;
  *n = w.text.n;
  return HD_OK;
}
