/* loader.c: joins a description with weight files. First the description makes the graph; then directories say which tensors there are
 * and each parameter gets its memory; then the tensors' bytes stream in, in any order of tensors, each in order of bytes, and are turned
 * row block by row block into the layout their kernel reads. Peak memory is the model plus one row block. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/arch.h"
#include "graph/gguf.h"
#include "graph/graph.h"
#include "graph/packs.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PART_BEFORE "experts."

/* A directory's tensor and the parameter it fills (−1: none). */
typedef struct hd_wanted {
  const hd_entry *entry;
  int parameter;
  hd_gguf_order order;
  int part;              /* of a parameter that files have in parts; −1: all of it */
  bool filled;
  hd_part role;          /* in a pack; HD_N_PARTS: it is in none */
  size_t pack;
  size_t earlier;        /* the one before it that fills the same parameter, its index + 1; 0: none */
} hd_wanted;

/* A parameter by its name without what families' files may leave out. */
typedef struct hd_bare {
  const char *name;
  int parameter;
} hd_bare;

/* The number that stands in a tensor's name for the '*' in a parameter's, with `plain` the name that has the star again; −1: none does. */
static int part_number(const char *tensor, const char *before, char plain[512]) {
  const char *at = strstr(tensor, before);
  char *end;
  if (!at || strlen(tensor) >= 500) return -1;
  at += strlen(before);
  if (*at < '0' || *at > '9') return -1;
  unsigned long number = strtoul(at, &end, 10);
  if (*end != '.' || number > 65535) return -1;
  snprintf(plain, 512, "%.*s*%s", (int)(at - tensor), tensor, end);
  return (int)number;
}

/* The tensor being written. `buffer` gathers `unit` file bytes; each full one becomes rows (matrices) or values (vectors): decoded to float32,
 * then rounded to what the layout holds. */
typedef struct hd_writer {
  hd_parameter *parameter;
  const hd_entry *entry;
  hd_wanted *wanted;
  hd_packed *packed;     /* that it belongs to; NULL: to none */
  hd_gguf_order order;
  uint8_t *buffer;       /* unit bytes of the file */
  uint8_t *turned;       /* where they get the parameter's order; NULL when they have it */
  float *wide;           /* the same as float32; NULL when the layout takes the file's bytes */
  size_t unit, held;     /* bytes */
  size_t unit_values;
  size_t all, first_row; /* values of the tensor; where it begins in the parameter */
  uint64_t seen;         /* bytes written so far */
  /* A strided tensor comes whole, and then goes the others' way as `straight`, in row-major order. */
  const hd_entry *view;  /* NULL for others */
  hd_entry straight;
  uint8_t *span;         /* the view's bytes of the file */
  size_t span_held;
  size_t done;           /* values finished */
} hd_writer;

struct hd_loader {
  hd_dtype weight_dtype;
  hd_model *model;
  cJSON *unknown;        /* a config.json of no known type, which the first directory's names have to explain */
  bool is_guess;         /* they did */
  const hd_arch *arch;   /* of a config.json; NULL: a network's spec */
  int head;              /* the parameter of the graph's last matrix; −1: none */
  hd_gguf_names names;
  hd_directory **directories;
  size_t n_directories;
  hd_wanted *tensors;
  size_t n_tensors;
  size_t *latest;        /* for each parameter the last tensor that fills it, its index + 1; 0: none */
  hd_bare *bare;         /* all parameters of a family's, sorted; NULL for networks */
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
  hd_free(w->span);
  hd_free(w->turned);
  hd_free(w->wide);
  *w = (hd_writer){0};
}

void hd_loader_free(hd_loader *loader) {
  if (!loader) return;
  writer_free(&loader->writer);
  hd_model_discard(loader->model);
  cJSON_Delete(loader->unknown);
  for (size_t i = 0; i < loader->n_directories; i++) hd_directory_free(loader->directories[i]);
  hd_packs_free(&loader->packs);
  hd_free(loader->directories);
  hd_free(loader->tensors);
  hd_free(loader->latest);
  hd_free(loader->bare);
  hd_free(loader);
}

/* ---- Description ---- */

/* A config.json of an unknown type is kept until a directory's names say what it is. */
static hd_status describe_family(hd_loader *loader, hd_model *model, cJSON *json, hd_error *err) {
  hd_status status = HD_OK;
  hd_json config = hd_json_root(json, "config.json", &status, err);
  if (!loader->arch) HD_TRY(hd_arch_choose(&loader->arch, &config, err));
  if (!loader->arch) return HD_OK;
  model->family = loader->arch->name;
  return loader->arch->build(model, &config, err);
}

static int last_matrix(const hd_model *model) {
  for (size_t n = model->n_nodes; n-- > 0;)
    for (size_t i = 0; i < model->nodes[n].n_weights; i++) {
      int index = model->nodes[n].weight[i];
      if (index >= 0 && model->parameters[index].slot.matrix) return index;
    }
  return -1;
}

static int compare_bare(const void *a, const void *b) {
  const hd_bare *x = a, *y = b;
  int order = strcmp(x->name, y->name);
  return order ? order : x->parameter - y->parameter;
}

/* What finding parameters needs. */
static hd_status list_parameters(hd_loader *loader, const hd_model *model, hd_error *err) {
  size_t n = model->n_parameters;
  loader->latest = hd_alloc_zero((n + 1) * sizeof *loader->latest);
  if (loader->arch) loader->bare = hd_alloc((n + 1) * sizeof *loader->bare);
  if (!loader->latest || (loader->arch && !loader->bare)) return no_memory(err);
  for (size_t i = 0; loader->bare && i < n; i++) loader->bare[i] = (hd_bare){hd_arch_bare_name(model->parameters[i].name), (int)i};
  if (loader->bare) qsort(loader->bare, n, sizeof *loader->bare, compare_bare);
  return HD_OK;
}

/* Expands what was described and takes it; what failed is discarded. */
static hd_status take_model(hd_loader *loader, hd_model *model, hd_status status, hd_error *err) {
  if (status == HD_OK) status = hd_graph_expand(model, err);
  if (status == HD_OK) status = list_parameters(loader, model, err);
  if (status == HD_OK) loader->head = last_matrix(model);
  if (status == HD_OK) loader->model = model;
  else hd_model_discard(model);
  return status;
}

hd_status hd_loader_describe(hd_loader *loader, const char *text, size_t n, hd_error *err) {
  if (loader->model || loader->unknown) return hd_fail(err, HD_BAD_STATE, "the loader has its description already");
  cJSON *json = NULL;
  HD_TRY(hd_json_parse(&json, text, n, err));
  hd_model *model = hd_model_new();
  hd_status status = model ? hd_packs_describe(&loader->packs, json, err) : no_memory(err);
  const bool is_network = cJSON_GetObjectItemCaseSensitive(json, "layers") != NULL;
  if (status == HD_OK && is_network) {
    status = hd_network_parse(model, json, "network", err);
    json = NULL; /* the model's now */
  } else if (status == HD_OK) {
    status = describe_family(loader, model, json, err);
  }
  if (status == HD_OK && !is_network && !loader->arch) {
    loader->unknown = json;
    hd_model_discard(model);
    return HD_OK;
  }
  cJSON_Delete(json);
  return take_model(loader, model, status, err);
}

/* The first directory's names say what a config.json of an unknown type is. */
static hd_status describe_unknown(hd_loader *loader, const hd_directory *directory, hd_error *err) {
  hd_model *model = hd_model_new();
  hd_status status = model ? hd_arch_guess(&loader->arch, model, loader->unknown, directory, err) : no_memory(err);
  if (status == HD_OK) status = describe_family(loader, model, loader->unknown, err);
  loader->is_guess = true;
  return take_model(loader, model, status, err);
}

/* ---- Directories ---- */

/* A parameter in parts that a file has whole is stacked there: [parts, rows, columns]. */
static bool is_stacked(const hd_parameter *p, const hd_entry *e) {
  return p->slot.n_parts && e->n_dims == 3 && e->shape[0] == p->slot.n_parts && e->shape[1] == p->slot.shape[0] / p->slot.n_parts && e->shape[2] == p->slot.shape[1];
}

static hd_status check_shape(const hd_parameter *p, const hd_entry *e, bool in_parts, hd_error *err) {
  size_t want[HD_MAX_DIMS];
  hd_parameter_file_shape(p, want);
  if (in_parts) want[0] /= p->slot.n_parts;
  bool same = p->slot.n_dims == e->n_dims;
  for (int d = 0; same && d < e->n_dims; d++) same = want[d] == e->shape[d];
  if (same || (!in_parts && is_stacked(p, e))) return HD_OK;
  char room[HD_NAME_ROOM], room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_FILE, "tensor %s: the model wants shape %s, the file has %s", hd_short_name(room, e->name),
                 hd_shape_text(room_a, p->slot.n_dims, want), hd_shape_text(room_b, e->n_dims, e->shape));
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
  bool spans_parts = p->slot.n_parts && p->slot.shape[0] / p->slot.n_parts % hd_layout_for(c.dtype)->row_block != 0;
  if (spans_parts) give_way(&c, HD_F16, "blocks of %zu rows would span experts: %s F16", hd_layout_for(c.dtype)->row_block, file == HD_F16 ? "kept" : "became");
  else if (cols % block) give_way(&c, HD_F16, "row of %zu is no multiple of %zu: %s F16", cols, block, file == HD_F16 ? "kept" : "became");
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

/* The first of that bare name; −1: none. */
static int find_bare(const hd_loader *loader, const char *name) {
  size_t low = 0, high = loader->model->n_parameters;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (strcmp(loader->bare[middle].name, name) < 0) low = middle + 1;
    else high = middle;
  }
  return low < loader->model->n_parameters && strcmp(loader->bare[low].name, name) == 0 ? loader->bare[low].parameter : -1;
}

/* The parameter a tensor fills: of its name, or in a family's files of that name but for what is written before it, or of an older spelling. */
static int find_parameter(const hd_loader *loader, const char *name) {
  char newer[512];
  int index = hd_parameter_find(loader->model, name);
  if (index >= 0 || !loader->bare) return index;
  index = find_bare(loader, hd_arch_bare_name(name));
  return index < 0 && hd_arch_newer_name(newer, name) ? find_bare(loader, hd_arch_bare_name(newer)) : index;
}

/* The same by MLX-Node's names for the two weights that it calls differently. */
static int find_named(const hd_loader *loader, const char *name) {
  static const char *const theirs[][2] = {{"embedding.", "embed_tokens."}, {"final_norm.", "norm."}};
  char room[512];
  int index = find_parameter(loader, name);
  for (int i = 0; i < 2 && index < 0; i++) {
    size_t n = strlen(theirs[i][0]);
    if (strncmp(name, theirs[i][0], n) != 0 || strlen(name) + 8 > sizeof room) continue;
    snprintf(room, sizeof room, "%s%s", theirs[i][1], name + n);
    index = find_parameter(loader, room);
  }
  return index;
}

static hd_wanted wanted(const hd_loader *loader, const hd_entry *entry) {
  char plain[512];
  hd_wanted w = {.entry = entry, .parameter = find_named(loader, entry->name), .part = -1, .role = HD_N_PARTS};
  if (w.parameter < 0) w.parameter = hd_gguf_find(&w.order, &loader->names, loader->model, entry->name);
  if (w.parameter >= 0) return w;
  w.part = part_number(entry->name, PART_BEFORE, plain);
  if (w.part >= 0) w.parameter = find_parameter(loader, plain);
  return w;
}

/* Whether another tensor fills the same, all of it or in part. */
static bool is_taken(const hd_loader *loader, const hd_wanted *w) {
  for (size_t i = loader->latest[w->parameter]; i > 0; i = loader->tensors[i - 1].earlier) {
    const hd_wanted *other = &loader->tensors[i - 1];
    if (other->part == w->part || other->part < 0 || w->part < 0) return true;
  }
  return false;
}

/* The tensor is the last so far that fills its parameter. */
static void note_latest(hd_loader *loader, size_t number) {
  hd_wanted *w = &loader->tensors[number];
  w->earlier = loader->latest[w->parameter];
  loader->latest[w->parameter] = number + 1;
}

/* Room for the parameter that a tensor fills, all of it or in part. */
static hd_status match_whole(hd_loader *loader, const hd_wanted *w, hd_error *err) {
  const hd_entry *entry = w->entry;
  hd_parameter *p = &loader->model->parameters[w->parameter];
  char room[HD_NAME_ROOM];
  if (w->part >= 0 && (size_t)w->part >= p->slot.n_parts)
    return hd_fail(err, HD_BAD_FILE, "tensor %s: the model has %zu of them", hd_short_name(room, entry->name), p->slot.n_parts);
  HD_TRY(check_shape(p, entry, w->part >= 0, err));
  if (w->order.heads && entry->shape[0] % (2 * w->order.heads) != 0)
    return hd_fail(err, HD_BAD_FILE, "tensor %s: expected %zu heads of an even size, found %zu rows", hd_short_name(room, entry->name), w->order.heads, entry->shape[0]);
  HD_TRY(hd_dtype_decodes(entry->dtype, entry->name, err));
  return p->value.data ? HD_OK : prepare_parameter(loader, p, entry, NULL, err);
}

/* The matrix that a tensor may be a part of, in a pack; −1: of none. */
static int find_packed(const hd_loader *loader, const hd_entry *entry, hd_part *role) {
  char weight[512];
  size_t n;
  *role = hd_part_of(entry->name, &n);
  if (*role == HD_N_PARTS || (*role == HD_PART_WEIGHT && !hd_packed_dtype(entry->dtype)) || n + 8 > sizeof weight) return -1;
  snprintf(weight, sizeof weight, "%.*s%s", (int)n, entry->name, hd_part_suffix(HD_PART_WEIGHT));
  int index = find_named(loader, weight);
  const hd_slot *slot = index >= 0 ? &loader->model->parameters[index].slot : NULL;
  return slot && slot->matrix && !slot->in_out && slot->n_parts == 0 ? index : -1;
}

/* The pack that has parts of the parameter already; SIZE_MAX: none. */
static size_t pack_of(const hd_loader *loader, int parameter) {
  for (size_t i = loader->latest[parameter]; i > 0; i = loader->tensors[i - 1].earlier)
    if (loader->tensors[i - 1].role != HD_N_PARTS) return loader->tensors[i - 1].pack;
  return SIZE_MAX;
}

static hd_status match(hd_loader *loader, const hd_entry *entry, hd_error *err) {
  hd_wanted w = wanted(loader, entry);
  hd_part role;
  char room[HD_NAME_ROOM];
  int packed = find_packed(loader, entry, &role);
  bool taken = w.parameter >= 0 && is_taken(loader, &w);
  size_t number = loader->n_tensors++;
  if (packed >= 0 && (w.parameter < 0 || role == HD_PART_WEIGHT)) {
    loader->tensors[number] = (hd_wanted){.entry = entry, .parameter = packed, .part = -1, .role = role};
    loader->tensors[number].pack = pack_of(loader, packed);
    note_latest(loader, number);
    return hd_packs_add(&loader->tensors[number].pack, &loader->packs, packed, role, entry, number, err);
  }
  loader->tensors[number] = w;
  if (w.parameter >= 0) note_latest(loader, number);
  if (w.parameter < 0) return loader->is_guess ? hd_arch_refuse_unplaced(entry->name, err) : HD_OK;
  if (taken) return hd_fail(err, HD_BAD_FILE, "tensor %s is in two of the files", hd_short_name(room, entry->name));
  return match_whole(loader, &w, err);
}

static bool room_for(hd_loader *loader, size_t n_more) {
  hd_directory **directories = hd_realloc(loader->directories, (loader->n_directories + 1) * sizeof *directories);
  if (directories) loader->directories = directories;
  hd_wanted *tensors = hd_realloc(loader->tensors, (loader->n_tensors + n_more) * sizeof *tensors);
  if (tensors) loader->tensors = tensors;
  return directories && tensors;
}

/* What both need before they look at a file's tensors. */
static hd_status look_at(hd_loader *loader, const hd_directory *directory, hd_error *err) {
  if (!loader->model && loader->unknown) HD_TRY(describe_unknown(loader, directory, err));
  if (!loader->model) return hd_fail(err, HD_BAD_STATE, "the loader needs its description before weight files");
  if (loader->settled) return hd_fail(err, HD_BAD_STATE, "the loader has begun with its tensors; weight files come before");
  HD_TRY(hd_directory_check_data(directory, err));
  return loader->names.architecture ? HD_OK : hd_gguf_recognise(&loader->names, directory, err); /* of several files the first says it */
}

/* Bytes of the weight that a tensor fills, or begins; where no size holds them, more than any memory has. */
static uint64_t weight_bytes(const hd_loader *loader, const hd_entry *entry) {
  const hd_wanted w = wanted(loader, entry);
  if (w.parameter < 0 || w.part > 0) return 0;
  const hd_parameter *p = &loader->model->parameters[w.parameter];
  hd_dtype file = entry->dtype == HD_U32 && p->slot.matrix ? HD_Q8_0 : entry->dtype; /* packed codes: what most of them become */
  const hd_layout *layout = p->slot.matrix ? hd_layout_for(target(loader, p, file, NULL).dtype) : NULL;
  size_t bytes;
  if (!layout) return (uint64_t)hd_parameter_count(p) * sizeof(float);
  return layout->bytes(p->slot.shape[0], p->slot.shape[1], &bytes) ? bytes : SIZE_MAX;
}

hd_status hd_loader_estimate(uint64_t *bytes, hd_loader *loader, const hd_directory *directory, hd_error *err) {
  *bytes = 0;
  HD_TRY(look_at(loader, directory, err));
  for (size_t i = 0; i < hd_directory_count(directory); i++) {
    uint64_t more = weight_bytes(loader, hd_directory_entry(directory, i));
    *bytes = *bytes > UINT64_MAX - more ? UINT64_MAX : *bytes + more;
  }
  return HD_OK;
}

hd_status hd_loader_add(hd_loader *loader, const hd_directory *directory, hd_error *err) {
  HD_TRY(look_at(loader, directory, err));
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
    if (pack->entry[part]) loader->tensors[pack->tensor[part]].parameter = -1; /* its place among the parameter's stays */
  const hd_entry *weight = pack->entry[HD_PART_WEIGHT];
  if (!weight) return HD_OK;
  hd_wanted *w = &loader->tensors[pack->tensor[HD_PART_WEIGHT]];
  *w = (hd_wanted){.entry = weight, .parameter = pack->parameter, .part = -1, .role = HD_N_PARTS, .earlier = w->earlier};
  return match_whole(loader, w, err);
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
  if (!t || t->parameter < 0 || t->role != HD_PART_WEIGHT) return 0;
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
  return layout->plain && layout->dtype == w->entry->dtype && !w->order.heads && !w->order.plus_one && !w->parameter->slot.in_out;
}

/* A matrix of the file's own dtype, packed from its bytes. */
static bool is_packed(const hd_writer *w) {
  return w->parameter->slot.matrix && w->entry->dtype == w->parameter->value.layout->dtype && !w->parameter->slot.in_out;
}

/* Interleaved heads come one or more at a time, in whole row blocks (4 at most). */
static size_t unit_rows(const hd_writer *w) {
  const hd_matrix *m = &w->parameter->value;
  size_t head_dim = w->order.heads ? m->rows / w->order.heads : 1, n = head_dim;
  while (n % m->layout->row_block) n += head_dim;
  return n;
}

/* Rows that end inside a block of the file's dtype share it with the next, and a matrix that lies [in][out] has no rows: such a tensor is taken whole. */
static size_t unit_values(const hd_writer *w) {
  const hd_matrix *m = &w->parameter->value;
  size_t n = w->parameter->slot.matrix ? unit_rows(w) * m->cols : w->order.heads ? w->all : VECTOR_UNIT;
  return n > w->all || n % hd_dtype_get(w->entry->dtype)->block_values || w->parameter->slot.in_out ? w->all : n;
}

/* A part of a pack: scales are taken whole, codes by rows. */
static hd_status prepare_part(hd_writer *w, hd_error *err) {
  const hd_packed *packed = w->packed;
  const hd_matrix *m = &w->parameter->value;
  size_t rows = m->layout->row_block < packed->rows ? m->layout->row_block : packed->rows, wide;
  bool codes = w->wanted->role == HD_PART_WEIGHT;
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
  if (w->order.heads && !(w->turned = hd_alloc(w->unit))) return no_memory(err);
  if (!is_packed(w)) w->wide = hd_alloc(w->unit_values * sizeof(float));
  return w->buffer && (w->wide || is_packed(w)) ? HD_OK : no_memory(err);
}

static hd_status begin_view(hd_writer *w, hd_error *err) {
  size_t count, bytes;
  if (!w->entry->strided) return HD_OK;
  if (!hd_shape_count(w->entry->n_dims, w->entry->shape, &count) || !hd_dtype_bytes(w->entry->dtype, count, &bytes) || w->entry->end - w->entry->begin > SIZE_MAX)
    return no_memory(err);
  w->view = w->entry;
  w->straight = *w->view;
  w->straight.strided = false;
  w->straight.end = w->straight.begin + bytes;
  w->entry = &w->straight;
  w->span = hd_alloc((size_t)(w->view->end - w->view->begin));
  return w->span ? HD_OK : no_memory(err);
}

/* What the writer is to do with a pack's part; the scales of one go when its codes have gone by. */
static hd_status begin_part(hd_writer *w, hd_pack *pack, hd_error *err) {
  char room[HD_NAME_ROOM], other[HD_NAME_ROOM];
  w->packed = &pack->packed;
  hd_part lacks = w->wanted->role == HD_PART_WEIGHT ? hd_packed_lacks(w->packed) : HD_N_PARTS;
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
  hd_wanted *wanted = &loader->tensors[index];
  w->wanted = wanted;
  w->entry = wanted->entry;
  w->order = wanted->order;
  w->parameter = &loader->model->parameters[wanted->parameter];
  if (wanted->role != HD_N_PARTS) HD_TRY(begin_part(w, &loader->packs.items[wanted->pack], err));
  w->parameter->filled = wanted->filled = false;
  size_t rows = w->parameter->value.rows / (wanted->part >= 0 ? w->parameter->slot.n_parts : 1);
  w->all = rows * w->parameter->value.cols;
  w->first_row = wanted->part >= 0 ? (size_t)wanted->part * rows : 0;
  HD_TRY(begin_view(w, err));
  HD_TRY(prepare(w, err));
  loader->writing = true;
  return HD_OK;
}

/* n values in the buffer change their rows' order; a vector's values are rows of one. */
static void part_halves(hd_writer *w, size_t n) {
  size_t n_rows = w->entry->shape[0], all = w->parameter->value.rows * w->parameter->value.cols, cols = all / n_rows, row_bytes = w->unit / (w->unit_values / cols);
  hd_gguf_part_halves(w->turned, w->buffer, n / cols, n_rows / w->order.heads, row_bytes);
  uint8_t *turned = w->turned;
  w->turned = w->buffer;
  w->buffer = turned;
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
static hd_status flush(hd_writer *w, hd_error *err) {
  const hd_matrix *m = &w->parameter->value;
  size_t n = w->unit_values, row = w->first_row + w->done / m->cols;
  if (w->done + n > w->all) n = w->all - w->done;
  w->held = 0;
  if (w->order.heads) part_halves(w, n);
  if (w->packed) {
    flush_packed(w, n);
  } else if (is_packed(w)) {
    m->layout->pack(m, row, n / m->cols, w->buffer);
  } else {
    hd_dtype_get(w->entry->dtype)->to_f32(w->buffer, w->wide, n);
    for (size_t i = 0; w->order.plus_one && i < n; i++) w->wide[i] -= 1;
    if (w->parameter->slot.in_out) HD_TRY(hd_parameter_set(w->parameter, w->wide, true, err));
    else if (w->parameter->slot.matrix) m->layout->from_f32(m, row, n / m->cols, w->wide);
    else memcpy((float *)m->data + w->done, w->wide, n * sizeof(float));
  }
  w->done += n;
  return HD_OK;
}

static hd_status gather(hd_writer *w, const uint8_t *bytes, size_t n, hd_error *err) {
  uint64_t all = w->entry->end - w->entry->begin;
  while (n > 0) {
    size_t take = w->unit - w->held < n ? w->unit - w->held : n;
    memcpy(w->buffer + w->held, bytes, take);
    w->held += take;
    w->seen += take;
    bytes += take;
    n -= take;
    bool scales = w->packed && w->wanted->role != HD_PART_WEIGHT; /* hd_tensor_end takes them */
    if (!scales && (w->held == w->unit || w->seen == all)) HD_TRY(flush(w, err));
  }
  return HD_OK;
}

/* Where a tensor that is copied as it is begins. */
static size_t copy_offset(const hd_writer *w) {
  size_t bytes = 0;
  if (!hd_dtype_bytes(w->entry->dtype, w->first_row * w->parameter->value.cols, &bytes)) bytes = 0; /* less than the parameter's, which was allocated */
  return bytes;
}

static hd_status refuse_more(const hd_writer *w, uint64_t all, hd_error *err) {
  char room[HD_NAME_ROOM];
  return hd_fail(err, HD_BAD_FILE, "tensor %s: more bytes than the %llu its directory declares", hd_short_name(room, w->entry->name), (unsigned long long)all);
}

static hd_status write_bytes(hd_writer *w, const uint8_t *bytes, size_t n, hd_error *err) {
  if (w->packed || !is_copy(w)) return gather(w, bytes, n, err);
  memcpy((uint8_t *)w->parameter->value.data + copy_offset(w) + w->seen, bytes, n);
  w->seen += n;
  return HD_OK;
}

/* Once the view's bytes are all there, its values are written. */
static hd_status write_view(hd_writer *w, const uint8_t *bytes, size_t n, hd_error *err) {
  size_t all = (size_t)(w->view->end - w->view->begin), straight_bytes = (size_t)(w->straight.end - w->straight.begin);
  if (n > all - w->span_held) return refuse_more(w, all, err);
  if (n > 0) memcpy(w->span + w->span_held, bytes, n);
  w->span_held += n;
  if (w->span_held < all || n == 0) return HD_OK;
  uint8_t *straight = hd_alloc(straight_bytes);
  if (!straight) return no_memory(err);
  hd_entry_gather(w->view, w->span, straight);
  hd_status status = write_bytes(w, straight, straight_bytes, err);
  hd_free(straight);
  return status;
}

hd_status hd_tensor_write(hd_loader *loader, const void *bytes, size_t n, hd_error *err) {
  hd_writer *w = &loader->writer;
  if (!loader->writing) return hd_fail(err, HD_BAD_STATE, "bytes without a tensor begun");
  if (w->view) return write_view(w, bytes, n, err);
  uint64_t all = w->entry->end - w->entry->begin;
  if (n > all - w->seen) return refuse_more(w, all, err);
  return write_bytes(w, bytes, n, err);
}

/* Whether all parts of the parameter are there. */
static bool is_complete(const hd_loader *loader, const hd_wanted *w) {
  if (w->part < 0) return w->filled;
  size_t n = 0;
  for (size_t i = loader->latest[w->parameter]; i > 0; i = loader->tensors[i - 1].earlier) n += loader->tensors[i - 1].filled;
  return n == loader->model->parameters[w->parameter].slot.n_parts;
}

/* All bytes of the tensor have come. */
static hd_status complete(hd_loader *loader, hd_writer *w, hd_error *err) {
  if (w->packed && w->wanted->role != HD_PART_WEIGHT) return hd_packed_take(w->packed, w->wanted->role, w->buffer, err);
  if (w->packed) hd_packed_close(w->packed);
  w->wanted->filled = true;
  w->parameter->filled = is_complete(loader, w->wanted);
  if (w->parameter->filled) hd_matrix_settle(&w->parameter->value);
  return HD_OK;
}

hd_status hd_tensor_end(hd_loader *loader, hd_error *err) {
  hd_writer *w = &loader->writer;
  if (!loader->writing) return hd_fail(err, HD_BAD_STATE, "no tensor was begun");
  uint64_t all = w->entry->end - w->entry->begin, seen = w->seen;
  const char *name = w->entry->name;
  hd_status status = seen == all ? complete(loader, w, err) : HD_OK;
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
