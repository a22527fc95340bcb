/* loader.c: joins a description with weight files. First the description makes the graph; then directories say which tensors there are
 * and each parameter gets its memory; then the tensors' bytes stream in, in any order of tensors, each in order of bytes, and are turned
 * row block by row block into the layout their kernel reads. Peak memory is the model plus one row block. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/arch.h"
#include "graph/graph.h"
#include "graph/packs.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A directory's tensor and the parameter it fills (−1: none). */
typedef struct hd_wanted {
  const hd_entry *entry;
  int parameter;
  hd_part part;          /* of a pack; HD_N_PARTS: it is all of the parameter */
  size_t pack;
} hd_wanted;

/* The tensor being written. `buffer` gathers `unit` file bytes; each full one becomes rows (matrices) or values (vectors): decoded to float32,
 * then rounded to what the layout holds. */
typedef struct hd_writer {
  hd_parameter *parameter;
  const hd_entry *entry;
  hd_packed *packed;     /* that it is a part of; NULL: of none */
  hd_part part;
  uint8_t *buffer;       /* unit bytes of the file */
  float *wide;           /* the same as float32; NULL when the layout takes the file's bytes */
  size_t unit, held;     /* bytes */
  size_t unit_values;
  uint64_t seen;         /* bytes written so far */
  size_t done;           /* values finished */
} hd_writer;

struct hd_loader {
  hd_dtype weight_dtype;
  hd_model *model;
  int head;              /* the parameter of the graph's last matrix; −1: none */
  hd_directory **directories;
  size_t n_directories;
  hd_wanted *tensors;
  size_t n_tensors;
  hd_packs packs;
  bool settled;          /* no directory may come any more */
  hd_writer writer;
  bool writing;
};

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the loader"); }

hd_status hd_loader_new(hd_loader **out, hd_dtype weight_dtype, hd_error *err) {
  *out = NULL;
  if (weight_dtype != HD_DTYPE_COUNT && !hd_layout_for(weight_dtype))
    return hd_fail(err, HD_UNSUPPORTED, "weights cannot be converted to %s: nothing multiplies it", hd_dtype_name(weight_dtype));
  hd_loader *loader = hd_alloc_zero(sizeof *loader);
  if (!loader) return no_memory(err);
  loader->weight_dtype = weight_dtype;
  *out = loader;
  return HD_OK;
}

static void writer_free(hd_writer *w) {
  hd_free(w->buffer);
  hd_free(w->wide);
  *w = (hd_writer){0};
}

void hd_loader_free(hd_loader *loader) {
  if (!loader) return;
  writer_free(&loader->writer);
  hd_model_discard(loader->model);
  for (size_t i = 0; i < loader->n_directories; i++) hd_directory_free(loader->directories[i]);
  hd_packs_free(&loader->packs);
  hd_free(loader->directories);
  hd_free(loader->tensors);
  hd_free(loader);
}

/* ---- Description ---- */

static hd_status describe_family(hd_model *model, const cJSON *json, hd_error *err) {
  hd_status status = HD_OK;
  const hd_arch *arch = NULL;
  hd_json config = hd_json_root(json, "config.json", &status, err);
  HD_TRY(hd_arch_choose(&arch, &config, err));
  model->family = arch->name;
  return arch->build(model, &config, err);
}

static int last_matrix(const hd_model *model) {
  for (size_t n = model->n_nodes; n-- > 0;)
    for (size_t i = 0; i < model->nodes[n].n_weights; i++) {
      int index = model->nodes[n].weight[i];
      if (index >= 0 && model->parameters[index].slot.matrix) return index;
    }
  return -1;
}

hd_status hd_loader_describe(hd_loader *loader, const char *text, size_t n, hd_error *err) {
  if (loader->model) return hd_fail(err, HD_BAD_STATE, "the loader has its description already");
  cJSON *json = NULL;
  HD_TRY(hd_json_parse(&json, text, n, err));
  hd_model *model = hd_model_new();
  hd_status status = model ? hd_packs_describe(&loader->packs, json, err) : no_memory(err);
  if (status == HD_OK && cJSON_GetObjectItemCaseSensitive(json, "layers")) {
    status = hd_network_parse(model, json, "network", err);
    json = NULL; /* the model's now */
  } else if (status == HD_OK) {
    status = describe_family(model, json, err);
  }
  cJSON_Delete(json);
  if (status == HD_OK) status = hd_graph_expand(model, err);
  if (status == HD_OK) loader->head = last_matrix(model);
  if (status == HD_OK) loader->model = model;
  else hd_model_discard(model);
  return status;
}

/* ---- Directories ---- */

static hd_status check_shape(const hd_parameter *p, const hd_entry *e, hd_error *err) {
  bool same = p->slot.n_dims == e->n_dims;
  for (int d = 0; same && d < e->n_dims; d++) same = p->slot.shape[d] == e->shape[d];
  if (same) return HD_OK;
  char room[HD_NAME_ROOM], room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_FILE, "tensor %s: the model wants shape %s, the file has %s", hd_short_name(room, e->name),
                 hd_shape_text(room_a, p->slot.n_dims, p->slot.shape), hd_shape_text(room_b, e->n_dims, e->shape));
}

/* ---- What a weight becomes: see hd_loader_new in heddle.h ---- */

/* A dtype, and why it is not the one before it; `reason` is empty where nothing gave way. */
typedef struct hd_choice {
  hd_dtype dtype;
  char reason[160];
} hd_choice;

__attribute__((format(printf, 3, 4))) static void give_way(hd_choice *c, hd_dtype to, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(c->reason, sizeof c->reason, format, arguments);
  va_end(arguments);
  c->dtype = to;
}

/* The dtype asked for, or the file's own as far as something multiplies it. */
static void choose(hd_choice *c, hd_dtype asked, hd_dtype file) {
  const char *name = hd_dtype_name(file);
  c->dtype = asked == HD_DTYPE_COUNT ? file : asked;
  if (hd_layout_for(c->dtype)) return;
  if (hd_dtype_get(file)->ggml) give_way(c, HD_Q8_0, "no kernel multiplies %s: became Q8_0", name);
  else if (hd_dtype_holds(HD_F16, file)) give_way(c, HD_F16, "no kernel multiplies %s: became F16, which holds it exactly", name);
  else give_way(c, HD_F32, "no kernel multiplies %s: became F32", name);
}

/* The same for a matrix in several tensors. */
static void choose_packed(hd_choice *c, hd_dtype asked, const hd_packed *packed) {
  char room[HD_PACKED_ROOM];
  hd_dtype kept = hd_packed_kept(packed);
  c->dtype = asked == HD_DTYPE_COUNT ? kept : asked;
  if (asked == HD_DTYPE_COUNT && !hd_packed_fits(packed, kept))
    give_way(c, kept, "no kernel multiplies %s: became %s", hd_packed_text(room, packed), hd_dtype_name(kept));
}

static hd_choice target(const hd_loader *loader, const hd_parameter *p, hd_dtype file, const hd_packed *packed) {
  hd_choice c = {.dtype = HD_F32};
  if (!p->slot.matrix) return c;
  if (packed) choose_packed(&c, loader->weight_dtype, packed);
  else choose(&c, loader->weight_dtype, file);
  bool head = loader->head >= 0 && p == &loader->model->parameters[loader->head];
  if (c.dtype == HD_Q4_0 && file != HD_Q4_0 && (head || p->slot.lookup))
    give_way(&c, HD_Q8_0, "%s: 8 bits at least, became Q8_0", p->slot.lookup ? "an embedding" : "the head");
  size_t cols = p->slot.shape[1], block = hd_dtype_get(c.dtype)->block_values;
  if (cols % block) give_way(&c, HD_F16, "row of %zu is no multiple of %zu: %s F16", cols, block, file == HD_F16 ? "kept" : "became");
  return c;
}

/* `packed` NULL: the entry is all of it. */
static hd_status prepare_parameter(hd_loader *loader, hd_parameter *p, const hd_entry *entry, const hd_packed *packed, hd_error *err) {
  hd_choice c = target(loader, p, entry->dtype, packed);
  hd_arena *arena = &loader->model->arena;
  char room[HD_PACKED_ROOM];
  p->file_dtype = entry->dtype;
  p->packing = packed ? hd_arena_text(arena, hd_packed_text(room, packed)) : NULL;
  p->lossy = packed ? !hd_packed_fits(packed, c.dtype) : !hd_dtype_holds(c.dtype, entry->dtype);
  p->reason = c.reason[0] ? hd_arena_text(arena, c.reason) : NULL;
  if ((c.reason[0] && !p->reason) || (packed && !p->packing)) return no_memory(err);
  return hd_parameter_allocate(p, c.dtype, err);
}

/* Checkpoints of one family differ in what their names begin with: a family's weight is found with "model." and without, and behind "transformer.".
 * A network's own names are what they are. −1: no weight of the model. */
static int find_parameter(const hd_model *model, const char *name) {
  static const char *const prefixes[] = {"", "transformer.", "model."};
  int index = hd_parameter_find(model, name);
  if (index >= 0 || strcmp(model->family, "network") == 0) return index;
  for (size_t p = 0; p < sizeof prefixes / sizeof prefixes[0]; p++) {
    size_t n = strlen(prefixes[p]);
    if (strncmp(name, prefixes[p], n) != 0) continue;
    char with[512];
    int length = snprintf(with, sizeof with, "model.%s", name + n);
    if (n && (index = hd_parameter_find(model, name + n)) >= 0) return index;
    if (length > 0 && (size_t)length < sizeof with && (index = hd_parameter_find(model, with)) >= 0) return index;
  }
  return -1;
}

/* A tensor that is all of its parameter. */
static hd_status match_whole(hd_loader *loader, const hd_entry *entry, int index, hd_error *err) {
  char room[HD_NAME_ROOM];
  hd_parameter *p = &loader->model->parameters[index];
  if (p->value.data) return hd_fail(err, HD_BAD_FILE, "tensor %s is in two of the files", hd_short_name(room, entry->name));
  HD_TRY(check_shape(p, entry, err));
  HD_TRY(hd_dtype_decodes(entry->dtype, entry->name, err));
  return prepare_parameter(loader, p, entry, NULL, err);
}

/* The parameter of a name, also by MLX-Node's names for the two weights that it calls differently. */
static int find_named(const hd_loader *loader, const char *name) {
  static const char *const theirs[][2] = {{"embedding.", "embed_tokens."}, {"final_norm.", "norm."}};
  char room[512];
  int index = find_parameter(loader->model, name);
  for (int i = 0; i < 2 && index < 0; i++) {
    size_t n = strlen(theirs[i][0]);
    if (strncmp(name, theirs[i][0], n) != 0 || strlen(name) + 8 > sizeof room) continue;
    snprintf(room, sizeof room, "%s%s", theirs[i][1], name + n);
    index = find_parameter(loader->model, room);
  }
  return index;
}

/* The matrix that a tensor may be a part of; −1: of none. */
static int find_packed(const hd_loader *loader, const hd_entry *entry, hd_part *part) {
  char weight[512];
  size_t n;
  *part = hd_part_of(entry->name, &n);
  if (*part == HD_N_PARTS || (*part == HD_PART_WEIGHT && !hd_packed_dtype(entry->dtype)) || n + 8 > sizeof weight) return -1;
  snprintf(weight, sizeof weight, "%.*s%s", (int)n, entry->name, hd_part_suffix(HD_PART_WEIGHT));
  int index = find_named(loader, weight);
  return index >= 0 && loader->model->parameters[index].slot.matrix ? index : -1;
}

static hd_status match(hd_loader *loader, const hd_entry *entry, hd_error *err) {
  size_t number = loader->n_tensors++;
  hd_wanted *t = &loader->tensors[number];
  *t = (hd_wanted){.entry = entry, .parameter = find_named(loader, entry->name), .part = HD_N_PARTS};
  hd_part part;
  int packed = find_packed(loader, entry, &part);
  bool may_be_packed = packed >= 0 && (t->parameter < 0 || part == HD_PART_WEIGHT);
  if (!may_be_packed) return t->parameter < 0 ? HD_OK : match_whole(loader, entry, t->parameter, err);
  t->parameter = packed;
  t->part = part;
  return hd_packs_add(&t->pack, &loader->packs, packed, part, entry, number, err);
}

static bool room_for(hd_loader *loader, size_t n_more) {
  hd_directory **directories = hd_realloc(loader->directories, (loader->n_directories + 1) * sizeof *directories);
  if (directories) loader->directories = directories;
  hd_wanted *tensors = hd_realloc(loader->tensors, (loader->n_tensors + n_more) * sizeof *tensors);
  if (tensors) loader->tensors = tensors;
  return directories && tensors;
}

hd_status hd_loader_add(hd_loader *loader, const hd_directory *directory, hd_error *err) {
  if (!loader->model) return hd_fail(err, HD_BAD_STATE, "the loader needs its description before weight files");
  if (loader->settled) return hd_fail(err, HD_BAD_STATE, "the loader has begun with its tensors; weight files come before");
  hd_directory *copy = room_for(loader, hd_directory_count(directory)) ? hd_directory_copy(directory) : NULL;
  if (!copy) return no_memory(err);
  loader->directories[loader->n_directories++] = copy;
  hd_status status = HD_OK;
  for (size_t i = 0; i < hd_directory_count(copy) && status == HD_OK; i++) status = match(loader, hd_directory_entry(copy, i), err);
  return status;
}

/* A pack that turned out to be none: codes without scales are values by themselves, and scales without codes are nobody's. */
static hd_status unpack(hd_loader *loader, const hd_pack *pack, hd_error *err) {
  for (int part = 0; part < HD_N_PARTS; part++)
    if (pack->entry[part]) loader->tensors[pack->tensor[part]].parameter = -1;
  const hd_entry *weight = pack->entry[HD_PART_WEIGHT];
  if (!weight) return HD_OK;
  loader->tensors[pack->tensor[HD_PART_WEIGHT]] = (hd_wanted){.entry = weight, .parameter = pack->parameter, .part = HD_N_PARTS};
  return match_whole(loader, weight, pack->parameter, err);
}

static hd_status settle_pack(hd_loader *loader, hd_pack *pack, hd_error *err) {
  hd_parameter *p = &loader->model->parameters[pack->parameter];
  char room[HD_NAME_ROOM];
  HD_TRY(hd_packs_open(&loader->packs, pack, p, err));
  if (!pack->open) return unpack(loader, pack, err);
  const hd_entry *weight = pack->entry[HD_PART_WEIGHT];
  if (p->value.data) return hd_fail(err, HD_BAD_FILE, "tensor %s is in two of the files", hd_short_name(room, weight->name));
  return prepare_parameter(loader, p, weight, &pack->packed, err);
}

hd_status hd_loader_settle(hd_loader *loader, hd_error *err) {
  if (!loader->model) return hd_fail(err, HD_BAD_STATE, "the loader has no description");
  if (loader->settled) return HD_OK;
  for (size_t i = 0; i < loader->packs.n; i++) HD_TRY(settle_pack(loader, &loader->packs.items[i], err));
  loader->settled = true;
  return HD_OK;
}

size_t hd_loader_before(const hd_loader *loader, size_t index, size_t before[HD_MAX_BEFORE]) {
  const hd_wanted *t = index < loader->n_tensors ? &loader->tensors[index] : NULL;
  size_t n = 0;
  if (!t || t->parameter < 0 || t->part != HD_PART_WEIGHT) return 0;
  const hd_pack *pack = &loader->packs.items[t->pack];
  for (int part = HD_PART_SCALES; part < HD_N_PARTS; part++)
    if (pack->entry[part]) before[n++] = pack->tensor[part];
  return n;
}

size_t hd_loader_count(const hd_loader *loader) { return loader->n_tensors; }

const hd_entry *hd_loader_tensor(const hd_loader *loader, size_t index, bool *wanted) {
  *wanted = loader->tensors[index].parameter >= 0;
  return loader->tensors[index].entry;
}

/* ---- Streaming ---- */

enum { VECTOR_UNIT = 4096 }; /* values of a vector that are converted at a time */

static bool is_copy(const hd_writer *w) {
  const hd_layout *layout = w->parameter->value.layout;
  return layout->plain && layout->dtype == w->entry->dtype;
}

/* A matrix of the file's own dtype, packed from its bytes. */
static bool is_packed(const hd_writer *w) { return w->parameter->slot.matrix && w->entry->dtype == w->parameter->value.layout->dtype; }

/* Rows that end inside a block of the file's dtype share it with the next: such a tensor is taken whole. */
static size_t unit_values(const hd_writer *w) {
  const hd_matrix *m = &w->parameter->value;
  size_t all = m->rows * m->cols, n = w->parameter->slot.matrix ? m->layout->row_block * m->cols : VECTOR_UNIT;
  return n > all || n % hd_dtype_get(w->entry->dtype)->block_values ? all : n;
}

/* A part of a pack: scales are taken whole, codes by rows. */
static hd_status prepare_part(hd_writer *w, hd_error *err) {
  const hd_packed *packed = w->packed;
  const hd_matrix *m = &w->parameter->value;
  size_t rows = m->layout->row_block < packed->rows ? m->layout->row_block : packed->rows, wide;
  bool codes = w->part == HD_PART_WEIGHT;
  w->unit_values = rows * packed->cols;
  w->unit = codes ? rows * packed->row_bytes : (size_t)(w->entry->end - w->entry->begin);
  if (!hd_mul_size(rows, packed->cols + 1, &wide) || !hd_mul_size(wide, sizeof(float), &wide)) return no_memory(err);
  w->buffer = hd_alloc(w->unit);
  if (codes) w->wide = hd_alloc(wide); /* values, or an INT8 row's scale and codes */
  return w->buffer && (w->wide || !codes) ? HD_OK : no_memory(err);
}

static hd_status prepare(hd_writer *w, hd_error *err) {
  if (w->packed) return prepare_part(w, err);
  if (is_copy(w)) return HD_OK;
  w->unit_values = unit_values(w);
  if (!hd_dtype_bytes(w->entry->dtype, w->unit_values, &w->unit))
    return hd_fail(err, HD_BAD_FILE, "tensor %s: %zu values are no whole blocks of %s", w->entry->name, w->unit_values, hd_dtype_name(w->entry->dtype));
  w->buffer = hd_alloc(w->unit);
  if (!is_packed(w)) w->wide = hd_alloc(w->unit_values * sizeof(float));
  return w->buffer && (w->wide || is_packed(w)) ? HD_OK : no_memory(err);
}

/* What the writer is to do with a pack's part; the scales of one go when its codes have gone by. */
static hd_status begin_part(hd_writer *w, hd_pack *pack, hd_part part, hd_error *err) {
  char room[HD_NAME_ROOM], other[HD_NAME_ROOM];
  w->packed = &pack->packed;
  w->part = part;
  hd_part lacks = part == HD_PART_WEIGHT ? hd_packed_lacks(w->packed) : HD_N_PARTS;
  if (lacks == HD_N_PARTS) return HD_OK;
  return hd_fail(err, HD_BAD_STATE, "tensor %s: %s has to come before it", hd_short_name(room, w->entry->name), hd_short_name(other, pack->entry[lacks]->name));
}

hd_status hd_tensor_begin(hd_loader *loader, size_t index, hd_error *err) {
  HD_TRY(hd_loader_settle(loader, err));
  if (index >= loader->n_tensors || loader->tensors[index].parameter < 0)
    return hd_fail(err, HD_BAD_ARGUMENT, "tensor %zu of %zu is not wanted", index, loader->n_tensors);
  writer_free(&loader->writer); /* a tensor that was not ended stays unfilled */
  loader->writing = false;
  hd_writer *w = &loader->writer;
  w->entry = loader->tensors[index].entry;
  w->parameter = &loader->model->parameters[loader->tensors[index].parameter];
  const hd_wanted *t = &loader->tensors[index];
  if (t->part != HD_N_PARTS) HD_TRY(begin_part(w, &loader->packs.items[t->pack], t->part, err));
  w->parameter->filled = false;
  HD_TRY(prepare(w, err));
  loader->writing = true;
  return HD_OK;
}

/* n values of codes. */
static void flush_packed(hd_writer *w, size_t n) {
  const hd_matrix *m = &w->parameter->value;
  size_t first = w->done / m->cols, rows = n / m->cols;
  if (m->layout->dtype == HD_INT8 && hd_packed_fits(w->packed, HD_INT8)) {
    hd_packed_int8_rows(w->packed, first, rows, w->buffer, (uint8_t *)w->wide);
    m->layout->pack(m, first, rows, w->wide);
  } else {
    hd_packed_rows(w->packed, first, rows, w->buffer, w->wide);
    m->layout->from_f32(m, first, rows, w->wide);
  }
}

/* What the buffer holds becomes values of the parameter. */
static void flush(hd_writer *w) {
  const hd_matrix *m = &w->parameter->value;
  size_t n = w->unit_values;
  if (w->done + n > m->rows * m->cols) n = m->rows * m->cols - w->done;
  w->held = 0;
  if (w->packed) {
    flush_packed(w, n);
  } else if (is_packed(w)) {
    m->layout->pack(m, w->done / m->cols, n / m->cols, w->buffer);
  } else {
    hd_dtype_get(w->entry->dtype)->to_f32(w->buffer, w->wide, n);
    if (w->parameter->slot.matrix) m->layout->from_f32(m, w->done / m->cols, n / m->cols, w->wide);
    else memcpy((float *)m->data + w->done, w->wide, n * sizeof(float));
  }
  w->done += n;
}

static void gather(hd_writer *w, const uint8_t *bytes, size_t n) {
  uint64_t all = w->entry->end - w->entry->begin;
  while (n > 0) {
    size_t take = w->unit - w->held < n ? w->unit - w->held : n;
    memcpy(w->buffer + w->held, bytes, take);
    w->held += take;
    w->seen += take;
    bytes += take;
    n -= take;
    bool scales = w->packed && w->part != HD_PART_WEIGHT; /* hd_tensor_end takes them */
    if (!scales && (w->held == w->unit || w->seen == all)) flush(w);
  }
}

hd_status hd_tensor_write(hd_loader *loader, const void *bytes, size_t n, hd_error *err) {
  hd_writer *w = &loader->writer;
  if (!loader->writing) return hd_fail(err, HD_BAD_STATE, "bytes without a tensor begun");
  uint64_t all = w->entry->end - w->entry->begin;
  char room[HD_NAME_ROOM];
  if (n > all - w->seen)
    return hd_fail(err, HD_BAD_FILE, "tensor %s: more bytes than the %llu its directory declares", hd_short_name(room, w->entry->name), (unsigned long long)all);
  if (w->packed || !is_copy(w)) {
    gather(w, bytes, n);
  } else {
    memcpy((uint8_t *)w->parameter->value.data + w->seen, bytes, n);
    w->seen += n;
  }
  return HD_OK;
}

/* All bytes of the tensor have come. */
static hd_status complete(hd_writer *w, hd_error *err) {
  if (w->packed && w->part != HD_PART_WEIGHT) return hd_packed_take(w->packed, w->part, w->buffer, err);
  if (w->packed) hd_packed_close(w->packed);
  w->parameter->filled = true;
  hd_matrix_settle(&w->parameter->value);
  return HD_OK;
}

hd_status hd_tensor_end(hd_loader *loader, hd_error *err) {
  hd_writer *w = &loader->writer;
  if (!loader->writing) return hd_fail(err, HD_BAD_STATE, "no tensor was begun");
  uint64_t all = w->entry->end - w->entry->begin, seen = w->seen;
  const char *name = w->entry->name;
  hd_status status = seen == all ? complete(w, err) : HD_OK;
  writer_free(w);
  loader->writing = false;
  char room[HD_NAME_ROOM];
  if (seen == all) return status;
  return hd_fail(err, HD_BAD_FILE, "tensor %s: expected %llu bytes, the stream ended after %llu", hd_short_name(room, name), (unsigned long long)all,
                 (unsigned long long)seen);
}

hd_status hd_loader_finish(hd_model **out, hd_loader *loader, hd_error *err) {
  *out = NULL;
  hd_model *model = loader->model;
  if (!model) return hd_fail(err, HD_BAD_STATE, "the loader has no description");
  HD_TRY(hd_loader_settle(loader, err));
  size_t n_missing = 0;
  const hd_parameter *first = NULL;
  for (size_t i = 0; i < model->n_parameters; i++) {
    const hd_parameter *p = &model->parameters[i];
    if (p->filled || p->slot.optional) continue;
    if (!first) first = p;
    n_missing++;
  }
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  if (first)
    return hd_fail(err, HD_BAD_FILE, "the files lack %zu of the model's %zu weights, first %s of shape %s", n_missing, model->n_parameters,
                   hd_short_name(room, first->name), hd_shape_text(shape, first->slot.n_dims, first->slot.shape));
  loader->model = NULL;
  *out = model;
  return HD_OK;
}
