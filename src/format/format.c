/* format/format.c: the directory that all readers fill. It owns copies of all its strings, in an arena. While a reader appends, entries are
 * in the reader's order; sealing sorts them by place in the file and makes an index by name beside them. */
#include "format/format.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

typedef struct metadata_pair {
  const char *key, *value;
  bool json;
} metadata_pair;

struct hd_directory {
  const char *format;
  uint64_t file_bytes;
  hd_entry *entries;
  size_t n_entries, entries_room;
  const hd_entry **by_name; /* NULL until sealed */
  metadata_pair *pairs;
  size_t n_pairs, pairs_room;
  hd_arena strings;
};

/* ---- Filling ---- */

/* Room for one item more; the larger array, or NULL. */
static void *grow(void *items, size_t n, size_t *room, size_t item_bytes) {
  size_t larger = *room ? *room : 16, bytes;
  if (n < *room) return items;
  if (n == larger && !hd_mul_size(larger, 2, &larger)) return NULL;
  if (!hd_mul_size(larger, item_bytes, &bytes)) return NULL;
  void *grown = hd_realloc(items, bytes);
  if (grown) *room = larger;
  return grown;
}

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a directory of tensors"); }

hd_status hd_directory_append(hd_directory *directory, const hd_entry *entry, hd_error *err) {
  hd_entry *entries = grow(directory->entries, directory->n_entries, &directory->entries_room, sizeof *entries);
  if (!entries) return no_memory(err);
  directory->entries = entries;
  char *name = hd_arena_text(&directory->strings, entry->name);
  if (!name) return no_memory(err);
  entries[directory->n_entries] = *entry;
  entries[directory->n_entries++].name = name;
  return HD_OK;
}

static hd_status append_pair(hd_directory *directory, const char *key, const char *value, bool json, hd_error *err) {
  metadata_pair *pairs = grow(directory->pairs, directory->n_pairs, &directory->pairs_room, sizeof *pairs);
  if (!pairs) return no_memory(err);
  directory->pairs = pairs;
  metadata_pair pair = {hd_arena_text(&directory->strings, key), hd_arena_text(&directory->strings, value), json};
  if (!pair.key || !pair.value) return no_memory(err);
  pairs[directory->n_pairs++] = pair;
  return HD_OK;
}

hd_status hd_directory_append_metadata(hd_directory *directory, const char *key, const char *value, hd_error *err) {
  return append_pair(directory, key, value, false, err);
}

hd_status hd_directory_append_json(hd_directory *directory, const char *key, const char *json, hd_error *err) {
  return append_pair(directory, key, json, true, err);
}

hd_status hd_directory_reserve(hd_directory *directory, size_t n_entries, size_t n_pairs, hd_error *err) {
  size_t entry_bytes, pair_bytes;
  if (!hd_mul_size(n_entries, sizeof *directory->entries, &entry_bytes) || !hd_mul_size(n_pairs, sizeof *directory->pairs, &pair_bytes))
    return no_memory(err);
  directory->entries = hd_alloc(entry_bytes);
  directory->pairs = hd_alloc(pair_bytes);
  if (!directory->entries || !directory->pairs) return no_memory(err);
  directory->entries_room = n_entries;
  directory->pairs_room = n_pairs;
  return HD_OK;
}

static int compare_places(const void *a, const void *b) {
  const hd_entry *x = a, *y = b;
  if (x->begin != y->begin) return x->begin < y->begin ? -1 : 1;
  if (x->end != y->end) return x->end < y->end ? -1 : 1;
  return strcmp(x->name, y->name);
}

static int compare_names(const void *a, const void *b) {
  const hd_entry *const *x = a, *const *y = b;
  return strcmp((*x)->name, (*y)->name);
}

static int compare_name(const void *key, const void *item) {
  const hd_entry *const *entry = item;
  return strcmp(key, (*entry)->name);
}

static int compare_keys(const void *a, const void *b) { return strcmp(((const metadata_pair *)a)->key, ((const metadata_pair *)b)->key); }

/* Sorted aside: the pairs stay in file order. */
static hd_status refuse_repeated_keys(const hd_directory *directory, hd_error *err) {
  size_t n = directory->n_pairs;
  if (n < 2) return HD_OK;
  metadata_pair *sorted = hd_alloc(n * sizeof *sorted);
  if (!sorted) return no_memory(err);
  memcpy(sorted, directory->pairs, n * sizeof *sorted);
  qsort(sorted, n, sizeof *sorted, compare_keys);
  size_t i = 1;
  while (i < n && strcmp(sorted[i - 1].key, sorted[i].key) != 0) i++;
  char room[HD_NAME_ROOM];
  hd_status status = i == n ? HD_OK
                            : hd_fail(err, HD_BAD_FILE, "metadata \"%s\": expected every key once, found it twice",
                                      hd_short_name(room, sorted[i].key));
  hd_free(sorted);
  return status;
}

hd_status hd_directory_seal(hd_directory *directory, hd_error *err) {
  size_t n = directory->n_entries;
  if (n > 0) qsort(directory->entries, n, sizeof *directory->entries, compare_places);
  hd_free(directory->by_name);
  directory->by_name = hd_alloc(n * sizeof *directory->by_name);
  if (!directory->by_name) return no_memory(err);
  for (size_t i = 0; i < n; i++) directory->by_name[i] = &directory->entries[i];
  if (n > 0) qsort(directory->by_name, n, sizeof *directory->by_name, compare_names);
  for (size_t i = 1; i < n; i++) {
    char room[HD_NAME_ROOM];
    const char *name = directory->by_name[i]->name;
    if (strcmp(directory->by_name[i - 1]->name, name) == 0)
      return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": expected every name once, found it twice", hd_short_name(room, name));
  }
  return refuse_repeated_keys(directory, err);
}

hd_directory *hd_directory_new(const char *format, uint64_t file_bytes) {
  hd_directory *directory = hd_alloc_zero(sizeof *directory);
  if (directory) directory->format = format;
  if (directory) directory->file_bytes = file_bytes;
  return directory;
}

hd_directory *hd_directory_copy(const hd_directory *directory) {
  hd_directory *copy = hd_directory_new(directory->format, directory->file_bytes);
  hd_status status = copy ? HD_OK : HD_OUT_OF_MEMORY;
  for (size_t i = 0; status == HD_OK && i < directory->n_entries; i++)
    status = hd_directory_append(copy, &directory->entries[i], NULL);
  if (status == HD_OK) status = hd_directory_seal(copy, NULL);
  if (status == HD_OK) return copy;
  hd_directory_free(copy);
  return NULL;
}

/* ---- Reading a directory ---- */

void hd_directory_free(hd_directory *directory) {
  if (!directory) return;
  hd_free(directory->entries);
  hd_free(directory->by_name);
  hd_free(directory->pairs);
  hd_arena_free(&directory->strings);
  hd_free(directory);
}

const char *hd_directory_format(const hd_directory *directory) { return directory->format; }

hd_status hd_directory_check_data(const hd_directory *directory, hd_error *err) {
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < directory->n_entries; i++) {
    const hd_entry *entry = &directory->entries[i];
    if (entry->end > directory->file_bytes)
      return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": its data would end at byte %llu, the file ends at %llu",
                     hd_short_name(room, entry->name), (unsigned long long)entry->end, (unsigned long long)directory->file_bytes);
  }
  return HD_OK;
}

size_t hd_directory_count(const hd_directory *directory) { return directory->n_entries; }

const hd_entry *hd_directory_entry(const hd_directory *directory, size_t index) {
  return index < directory->n_entries ? &directory->entries[index] : NULL;
}

const hd_entry *hd_directory_find(const hd_directory *directory, const char *name) {
  if (directory->n_entries == 0) return NULL;
  const hd_entry **found =
      bsearch(name, directory->by_name, directory->n_entries, sizeof *directory->by_name, compare_name);
  return found ? *found : NULL;
}

bool hd_directory_metadata(const hd_directory *directory, size_t index, const char **key, const char **value) {
  if (index >= directory->n_pairs) return false;
  *key = directory->pairs[index].key;
  *value = directory->pairs[index].value;
  return true;
}

bool hd_directory_metadata_is_json(const hd_directory *directory, size_t index) {
  return index < directory->n_pairs && directory->pairs[index].json;
}

const char *hd_directory_value(const hd_directory *directory, const char *key) {
  for (size_t i = 0; i < directory->n_pairs; i++)
    if (strcmp(directory->pairs[i].key, key) == 0) return directory->pairs[i].value;
  return NULL;
}

/* ---- Views ---- */

/* Dimension d of it, from `from` on; gives where the next value goes. */
static uint8_t *gather(const hd_entry *entry, int d, size_t value_bytes, const uint8_t *from, uint8_t *to) {
  if (d == entry->n_dims) {
    memcpy(to, from, value_bytes);
    return to + value_bytes;
  }
  for (size_t i = 0; i < entry->shape[d]; i++) to = gather(entry, d + 1, value_bytes, from + i * entry->strides[d] * value_bytes, to);
  return to;
}

void hd_entry_gather(const hd_entry *entry, const uint8_t *from, uint8_t *to) {
  gather(entry, 0, hd_dtype_get(entry->dtype)->block_bytes, from, to);
}
