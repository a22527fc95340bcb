/* names.c: which parameter a weight file's tensor fills, by its name. Parameters are found in a list that is sorted once; beside their own
 * names come those that files have for them: with or without what a family's checkpoints write before them, a layer norm's older ones,
 * MLX-Node's, a GGUF's (gguf.c), a part's among experts and a pack's. No name is too long. */
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/loader.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The list ---- */

static int by_name(const void *a, const void *b) {
  const hd_known_name *x = a, *y = b;
  int order = strcmp(x->bare, y->bare);
  return order ? order : x->parameter - y->parameter;
}

hd_status hd_names_sort(hd_loader *loader, const hd_model *model, hd_error *err) {
  loader->known = hd_alloc(hd_times(model->n_parameters, sizeof *loader->known));
  if (!loader->known) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the names of %zu weights", model->n_parameters);
  for (size_t i = 0; i < model->n_parameters; i++) loader->known[i] = (hd_known_name){hd_arch_bare_name(model->parameters[i].name), (int)i};
  qsort(loader->known, model->n_parameters, sizeof *loader->known, by_name);
  return HD_OK;
}

/* The first that is not before `bare`. */
static size_t first_at(const hd_loader *loader, const char *bare) {
  size_t low = 0, high = loader->model->n_parameters;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (strcmp(loader->known[middle].bare, bare) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

/* ---- Rooms for names that are made of a tensor's ---- */

enum { OF_PART, OF_MLX, OF_NORM };
enum { LONGER = 32 }; /* more than any of them is than the tensor's, with its NUL */

hd_status hd_names_make_room(hd_loader *loader, const hd_directory *directory, hd_error *err) {
  size_t n = loader->name_room;
  for (size_t i = 0; i < hd_directory_count(directory); i++) {
    size_t needed = strlen(hd_directory_entry(directory, i)->name) + LONGER;
    if (needed > n) n = needed;
  }
  for (int i = 0; i < HD_NAME_ROOMS && n > loader->name_room; i++) {
    char *room = hd_realloc(loader->made[i], n);
    if (!room) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for names of %zu bytes", n);
    loader->made[i] = room;
  }
  loader->name_room = n;
  return HD_OK;
}

void hd_names_free(hd_loader *loader) {
  for (int i = 0; i < HD_NAME_ROOMS; i++) hd_free(loader->made[i]);
}

/* ---- Finding ---- */

/* Of its name, or in a family's files of that name but for what is written before it. */
static int find_known(const hd_loader *loader, const char *name) {
  const char *bare = hd_arch_bare_name(name);
  const hd_model *m = loader->model;
  int alike = -1;
  for (size_t i = first_at(loader, bare); i < m->n_parameters && strcmp(loader->known[i].bare, bare) == 0; i++) {
    int parameter = loader->known[i].parameter;
    if (strcmp(m->parameters[parameter].name, name) == 0) return parameter;
    if (alike < 0) alike = parameter;
  }
  return loader->arch ? alike : -1;
}

static int find(const hd_loader *loader, const char *name) {
  int index = find_known(loader, name);
  if (index >= 0 || !loader->arch) return index;
  const char *newer = hd_arch_newer_name(loader->made[OF_NORM], loader->name_room, name);
  return newer ? find_known(loader, newer) : -1;
}

/* The same by MLX-Node's names for the two weights that it calls differently. */
static int find_named(const hd_loader *loader, const char *name) {
  static const char *const theirs[][2] = {{"embedding.", "embed_tokens."}, {"final_norm.", "norm."}};
  int index = find(loader, name);
  for (int i = 0; i < 2 && index < 0; i++) {
    size_t n = strlen(theirs[i][0]);
    if (strncmp(name, theirs[i][0], n) != 0) continue;
    snprintf(loader->made[OF_MLX], loader->name_room, "%s%s", theirs[i][1], name + n);
    index = find(loader, loader->made[OF_MLX]);
  }
  return index;
}

/* A mixture's stacked experts by MLX's names: "…mlp.switch_mlp.up_proj.weight" is
 * "…mlp.experts.*.up_proj.weight", Mixtral's "…experts.*.w3.weight". */
static int find_switched(const hd_loader *loader, const char *name) {
  static const char before[] = "switch_mlp.";
  static const char *const roles[][2] = {{"gate_proj.", "w1."}, {"up_proj.", "w3."}, {"down_proj.", "w2."}};
  const char *at = strstr(name, before), *rest = at ? at + sizeof before - 1 : NULL;
  if (!at) return -1;
  snprintf(loader->made[OF_MLX], loader->name_room, "%.*sexperts.*.%s", (int)(at - name), name, rest);
  int index = find(loader, loader->made[OF_MLX]);
  for (int i = 0; i < 3 && index < 0; i++) {
    size_t n = strlen(roles[i][0]);
    if (strncmp(rest, roles[i][0], n) != 0) continue;
    snprintf(loader->made[OF_MLX], loader->name_room, "%.*sexperts.*.%s%s", (int)(at - name), name, roles[i][1], rest + n);
    index = find(loader, loader->made[OF_MLX]);
  }
  return index;
}

/* Of any name that all of a parameter has. */
static int find_whole(const hd_loader *loader, const char *name) {
  int index = find_named(loader, name);
  return index >= 0 ? index : find_switched(loader, name);
}

hd_wanted hd_names_wanted(const hd_loader *loader, const hd_entry *entry) {
  hd_wanted w = {.entry = entry, .parameter = find_whole(loader, entry->name), .part = -1, .role = HD_N_PARTS};
  if (w.parameter >= 0) return w;
  if (loader->names.architecture) w.parameter = hd_gguf_find(&w.order, &loader->names, loader->model, entry->name);
  if (w.parameter >= 0) w.part = w.order.part;
  if (w.parameter >= 0) return w;
  w.part = hd_piece_part(loader->made[OF_PART], loader->name_room, entry->name);
  if (w.part >= 0) w.parameter = find(loader, loader->made[OF_PART]);
  return w;
}

hd_wanted hd_names_packed(const hd_loader *loader, const hd_entry *entry) {
  size_t n;
  hd_wanted w = {.entry = entry, .parameter = -1, .order = {.part = -1}, .part = -1, .role = hd_part_of(entry->name, &n)};
  if (w.role == HD_N_PARTS || (w.role == HD_PART_WEIGHT && !hd_packed_dtype(entry->dtype))) return w;
  snprintf(loader->made[OF_PART], loader->name_room, "%.*s%s", (int)n, entry->name, hd_part_suffix(HD_PART_WEIGHT));
  int index = find_whole(loader, loader->made[OF_PART]);
  if (index < 0 && loader->names.architecture) index = hd_gguf_find(&w.order, &loader->names, loader->model, loader->made[OF_PART]);
  const hd_slot *slot = index >= 0 ? &loader->model->parameters[index].slot : NULL;
  if (slot && slot->matrix && !slot->in_out && w.order.part < 0) w.parameter = index;
  return w;
}
