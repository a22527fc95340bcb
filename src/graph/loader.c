/* loader.c: joins a description with weight files. First the description makes the graph; then directories say which tensors
 * there are and each parameter gets its memory (target.c says in which dtype); then the tensors' bytes stream in (writer.c),
 * in any order of tensors, each in order of bytes, and are turned row block by row block into the layout their kernel reads.
 * Peak memory is the model plus one row block. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/loader.h"

#include <string.h>

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

/* What a description that failed has left. */
static void forget_model(hd_loader *loader) {
  hd_free(loader->known);
  hd_free(loader->latest);
  loader->known = NULL;
  loader->latest = NULL;
  loader->arch = NULL;
  loader->is_guess = false;
}

/* The loader is as it was when it was new. */
static void empty(hd_loader *loader) {
  hd_writer_free(&loader->writer);
  hd_model_discard(loader->model);
  cJSON_Delete(loader->unknown);
  for (size_t i = 0; i < loader->n_directories; i++) hd_directory_free(loader->directories[i]);
  hd_packs_free(&loader->packs);
  hd_names_free(loader);
  forget_model(loader);
  hd_free(loader->directories);
  hd_free(loader->tensors);
  *loader = (hd_loader){.weight_dtype = loader->weight_dtype};
}

void hd_loader_free(hd_loader *loader) {
  if (!loader) return;
  empty(loader);
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
  return hd_arch_build(loader->arch, model, &config, err);
}

static int last_matrix(const hd_model *model) {
  for (size_t n = model->n_nodes; n-- > 0;)
    for (size_t i = 0; i < model->nodes[n].n_weights; i++) {
      int index = model->nodes[n].weight[i];
      if (index >= 0 && model->parameters[index].slot.matrix) return index;
    }
  return -1;
}

static hd_status note_none(hd_loader *loader, const hd_model *model, hd_error *err) {
  loader->latest = hd_alloc_zero(hd_times(model->n_parameters, sizeof *loader->latest));
  return loader->latest ? HD_OK : no_memory(err);
}

/* Expands what was described and takes it; what failed is discarded. */
static hd_status take_model(hd_loader *loader, hd_model *model, hd_status status, hd_error *err) {
  if (status == HD_OK) status = hd_graph_expand(model, err);
  if (status == HD_OK) status = hd_names_sort(loader, model, err);
  if (status == HD_OK) status = note_none(loader, model, err);
  if (status == HD_OK) loader->head = last_matrix(model);
  if (status == HD_OK) {
    loader->model = model;
  } else {
    hd_model_discard(model);
    forget_model(loader);
  }
  return status;
}

/* Of the parsed text, which is the loader's or gone afterwards. */
static hd_status describe(hd_loader *loader, cJSON *json, hd_error *err) {
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

hd_status hd_loader_describe(hd_loader *loader, const char *text, size_t n, hd_error *err) {
  cJSON *json = NULL;
  if (loader->model || loader->unknown) return hd_fail(err, HD_BAD_STATE, "the loader has its description already");
  if (loader->finished) return hd_fail(err, HD_BAD_STATE, "the loader's model is finished; another needs another loader");
  HD_TRY(hd_json_parse_file(&json, text, n, "config.json", err));
  hd_status status = describe(loader, json, err);
  if (status != HD_OK) empty(loader);
  return status;
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

static hd_status check_shape(const hd_parameter *p, const hd_wanted *w, hd_error *err) {
  const hd_entry *e = w->entry;
  const bool in_parts = w->part >= 0;
  size_t want[HD_MAX_DIMS];
  hd_parameter_file_shape(p, want);
  if (w->order.out_in) memcpy(want, p->slot.shape, sizeof want);
  if (in_parts) want[0] /= p->slot.n_parts;
  bool same = p->slot.n_dims == e->n_dims;
  for (int d = 0; same && d < e->n_dims; d++) same = want[d] == e->shape[d];
  if (same || (!in_parts && hd_entry_is_stacked(p, e))) return HD_OK;
  char room[HD_NAME_ROOM], room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_FILE, "tensor %s: the model wants shape %s, the file has %s", hd_short_name(room, e->name),
                 hd_shape_text(room_a, p->slot.n_dims, want), hd_shape_text(room_b, e->n_dims, e->shape));
}

/* `packed` NULL: the entry is all of it. */
static hd_status prepare_parameter(hd_loader *loader, hd_parameter *p, const hd_entry *entry, const hd_packed *packed, hd_error *err) {
  hd_choice c = hd_loader_target(loader, p, entry->dtype, packed);
  hd_arena *arena = &loader->model->arena;
  char room[HD_PACKED_ROOM];
  p->file_dtype = entry->dtype;
  p->packing = packed ? hd_arena_text(arena, hd_packed_text(room, packed)) : NULL;
  p->lossy = packed ? !hd_packed_fits(packed, c.dtype) : !hd_dtype_holds(c.dtype, entry->dtype);
  p->reason = c.reason[0] ? hd_arena_text(arena, c.reason) : NULL;
  if ((c.reason[0] && !p->reason) || (packed && !p->packing)) return no_memory(err);
  return hd_parameter_allocate(p, c.dtype, err);
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

/* The pack that has parts of the parameter already; SIZE_MAX: none. */
static size_t pack_of(const hd_loader *loader, int parameter) {
  for (size_t i = loader->latest[parameter]; i > 0; i = loader->tensors[i - 1].earlier)
    if (loader->tensors[i - 1].role != HD_N_PARTS) return loader->tensors[i - 1].pack;
  return SIZE_MAX;
}

/* Rows that get another order are whole heads, whose halves are as long. */
static hd_status check_heads(const hd_wanted *w, hd_error *err) {
  char room[HD_NAME_ROOM];
  size_t rows = w->entry->shape[0];
  if (w->order.heads == 0 || rows % (2 * w->order.heads) == 0) return HD_OK;
  return hd_fail(err, HD_BAD_FILE, "tensor %s: expected %zu heads of an even size, found %zu rows",
                 hd_short_name(room, w->entry->name), w->order.heads, rows);
}

/* Room for the parameter that a tensor fills, all of it or in part. */
static hd_status match_whole(hd_loader *loader, const hd_wanted *w, hd_error *err) {
  const hd_entry *entry = w->entry;
  hd_parameter *p = &loader->model->parameters[w->parameter];
  char room[HD_NAME_ROOM];
  if (w->part >= 0 && (size_t)w->part >= p->slot.n_parts)
    return hd_fail(err, HD_BAD_FILE, "tensor %s: the model has %zu of them", hd_short_name(room, entry->name), p->slot.n_parts);
  HD_TRY(check_shape(p, w, err));
  HD_TRY(check_heads(w, err));
  HD_TRY(hd_dtype_decodes(entry->dtype, entry->name, err));
  return p->value.data ? HD_OK : prepare_parameter(loader, p, entry, NULL, err);
}

static hd_status match(hd_loader *loader, const hd_entry *entry, hd_error *err) {
  hd_wanted w = hd_names_wanted(loader, entry);
  hd_wanted packed = hd_names_packed(loader, entry);
  char room[HD_NAME_ROOM];
  bool taken = w.parameter >= 0 && is_taken(loader, &w);
  size_t number = loader->n_tensors++;
  if (packed.parameter >= 0 && (w.parameter < 0 || packed.role == HD_PART_WEIGHT)) {
    packed.pack = pack_of(loader, packed.parameter);
    loader->tensors[number] = packed;
    note_latest(loader, number);
    return hd_packs_add(&loader->tensors[number].pack, &loader->packs, packed.parameter, packed.role, entry, number, err);
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
  HD_TRY(hd_names_make_room(loader, directory, err));
  return loader->names.architecture ? HD_OK : hd_gguf_recognise(&loader->names, directory, err); /* of several files the first says it */
}

/* Bytes of the weight that a tensor fills, or begins; where no size holds them, more than any memory has. The weight gets its layout, so
 * that hd_session_estimate knows what its products need, and no memory. */
static uint64_t weight_bytes(const hd_loader *loader, const hd_entry *entry) {
  const hd_wanted w = hd_names_wanted(loader, entry);
  if (w.parameter < 0 || w.part > 0) return 0;
  hd_parameter *p = &loader->model->parameters[w.parameter];
  hd_dtype file = entry->dtype == HD_U32 && p->slot.matrix ? HD_Q8_0 : entry->dtype; /* packed codes: what most of them become */
  size_t bytes;
  if (!p->value.data) p->value = hd_parameter_matrix(p, hd_loader_target(loader, p, file, NULL).dtype);
  return p->value.layout->bytes(p->value.rows, p->value.cols, &bytes) ? bytes : SIZE_MAX;
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
  *w = (hd_wanted){.entry = weight, .parameter = pack->parameter, .order = w->order, .part = -1, .role = HD_N_PARTS, .earlier = w->earlier};
  return match_whole(loader, w, err);
}

static hd_status settle_pack(hd_loader *loader, hd_pack *pack, hd_error *err) {
  hd_parameter *p = &loader->model->parameters[pack->parameter];
  char room[HD_NAME_ROOM];
  HD_TRY(hd_packs_open(&loader->packs, pack, p, err));
  if (!pack->open) return unpack(loader, pack, err);
  HD_TRY(check_heads(&loader->tensors[pack->tensor[HD_PART_WEIGHT]], err));
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

const hd_model *hd_loader_model(const hd_loader *loader) { return loader->model; }
size_t hd_loader_count(const hd_loader *loader) { return loader->n_tensors; }

const hd_entry *hd_loader_tensor(const hd_loader *loader, size_t index, bool *wanted) {
  const hd_wanted *t = index < loader->n_tensors ? &loader->tensors[index] : NULL;
  *wanted = t && t->parameter >= 0;
  return t ? t->entry : NULL;
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
    if (p->filled || (p->slot.optional && !p->value.data)) continue; /* what the files have has to come */
    if (!first) first = p;
    n_missing++;
  }
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  if (first)
    return hd_fail(err, HD_BAD_FILE, "the files lack %zu of the model's %zu weights, first %s of shape %s", n_missing, model->n_parameters,
                   hd_short_name(room, first->name), hd_shape_text(shape, first->slot.n_dims, first->slot.shape));
  loader->model = NULL;
  empty(loader);
  loader->finished = true;
  *out = model;
  return HD_OK;
}
