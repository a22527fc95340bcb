/* format/torch.c: PyTorch's files, as torch.save, torch.jit.save and C++ torch::save write them. Nothing in them is executed: see pickle.c.
 *
 * Zip (since 1.6), all members in one folder, stored, their bytes at multiples of 64:
 *   data.pkl    the object, protocol 2; tensors name storages by key (torch_tree.c)
 *   data/KEY    a storage's raw bytes
 *   byteorder   "little" or "big"; older files lack it and are little-endian
 *   version, .data/serialization_id, …; constants.pkl and code/ make it TorchScript, whose data.pkl is an object of a class of its own
 *
 * Legacy stream (before 1.6), pickles one after the other:
 *   the number 0x1950a86a20f9469cfc6c · 1001 · {"protocol_version", "little_endian", "type_sizes"} · the object · [keys of its storages]
 *   then for every key, in that order: the count of elements (8 bytes) and the raw data
 *
 * Tar archives (before 0.1.10) are refused as such. A pickle by itself is read too: it has no tensors, but what it says is metadata. */
#include "format/torch_tree.h"
#include "format/zip.h"

#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LEGACY_PROTOCOL = 1001, MAGIC_BYTES = 10, COUNT_BYTES = 8, BYTEORDER_BYTES = 16, ROOT_ROOM = 256 };

typedef struct torch_state {
  /* zip */
  hd_zip zip;
  hd_zip_member *pickle_member;
  char root[ROOT_ROOM]; /* "archive/" */
  uint8_t *pickle_bytes; /* a copy: the window goes on to other members */
  bool order_seen;
  size_t n_located;
  /* both */
  hd_pickle *pickle;
  hd_torch_tree tree;
} torch_state;

static void torch_free(void *state) {
  torch_state *s = state;
  if (!s) return;
  hd_zip_free(&s->zip);
  hd_torch_tree_free(&s->tree);
  hd_pickle_free(s->pickle);
  hd_free(s->pickle_bytes);
  hd_free(s);
}

/* ---- Zip ---- */

/* "archive/data.pkl" gives "archive/": the folder that everything else is in. */
static bool is_root(const hd_zip_member *member, size_t *n_root) {
  static const char file[] = "data.pkl";
  size_t n = strlen(member->name), n_file = sizeof file - 1;
  if (n < n_file || strcmp(member->name + n - n_file, file) != 0) return false;
  *n_root = n - n_file;
  return *n_root == 0 || strchr(member->name, '/') == member->name + *n_root - 1;
}

static hd_status find_pickle(torch_state *s, hd_error *err) {
  size_t n_root = 0;
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < s->zip.n_members && !s->pickle_member; i++)
    if (is_root(&s->zip.members[i], &n_root)) s->pickle_member = &s->zip.members[i];
  if (!s->pickle_member)
    return hd_fail(err, HD_BAD_FILE, "zip: expected a PyTorch file, with a member data.pkl, found %zu members, first \"%s\"",
                   s->zip.n_members, s->zip.n_members ? hd_short_name(room, s->zip.members[0].name) : "");
  if (n_root >= ROOT_ROOM) return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected a folder name below %d bytes in the zip", ROOT_ROOM);
  memcpy(s->root, s->pickle_member->name, n_root);
  return HD_OK;
}

/* A member by its name in the folder; *member is NULL when there is none. */
static hd_status find_member(const torch_state *s, const char *folder, const char *name, hd_arena *arena,
                             hd_zip_member **member, hd_error *err) {
  char *full = hd_arena_format(arena, "%s%s%s", s->root, folder, name);
  if (!full) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the names of a zip's members");
  *member = hd_zip_find(&s->zip, full);
  return HD_OK;
}

/* The member's bytes, or NULL when it has asked for them. */
static hd_status member_bytes(torch_state *s, hd_zip_member *member, hd_reader *reader, const uint8_t **bytes, hd_error *err) {
  bool located;
  *bytes = NULL;
  HD_TRY(hd_zip_locate(&s->zip, member, reader, false, &located, err));
  if (!located) return HD_OK;
  *bytes = hd_reader_bytes(reader, member->begin, member->begin + member->bytes);
  return *bytes ? HD_OK : hd_reader_want(reader, member->begin, member->begin + member->bytes, err);
}

static hd_status read_byteorder(torch_state *s, hd_reader *reader, hd_error *err) {
  const uint8_t *bytes;
  hd_zip_member *member = NULL;
  HD_TRY(find_member(s, "", "byteorder", &s->zip.strings, &member, err));
  s->order_seen = !member;
  if (!member) return HD_OK;
  if (member->bytes > BYTEORDER_BYTES) return hd_fail(err, HD_BAD_FILE, "PyTorch: expected a byteorder of \"little\" or \"big\"");
  HD_TRY(member_bytes(s, member, reader, &bytes, err));
  if (!bytes) return HD_OK;
  s->order_seen = true;
  if (member->bytes == 6 && memcmp(bytes, "little", 6) == 0) return HD_OK;
  if (member->bytes == 3 && memcmp(bytes, "big", 3) == 0)
    return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected little-endian data, found a file of a big-endian machine");
  return hd_fail(err, HD_BAD_FILE, "PyTorch: expected a byteorder of \"little\" or \"big\"");
}

static hd_status read_zip_pickle(torch_state *s, hd_reader *reader, hd_error *err) {
  const uint8_t *bytes;
  bool short_of_bytes;
  hd_zip_member *member = s->pickle_member;
  HD_TRY(member_bytes(s, member, reader, &bytes, err));
  if (!bytes) return HD_OK;
  size_t n = (size_t)member->bytes; /* it fit a window */
  uint32_t crc = hd_crc32(0, bytes, n); /* 0 in the member: the writer left it out, and there is nothing to compare */
  if (member->crc != 0 && crc != member->crc)
    return hd_fail(err, HD_BAD_FILE, "zip: member \"%s\": expected the checksum %08" PRIx32 ", found %08" PRIx32,
                   "data.pkl", member->crc, crc);
  s->pickle_bytes = hd_alloc(n);
  if (!s->pickle_bytes) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file's pickle");
  memcpy(s->pickle_bytes, bytes, n);
  HD_TRY(hd_pickle_read(&s->pickle, s->pickle_bytes, n, member->begin, hd_torch_globals, hd_torch_n_globals, &short_of_bytes, err));
  return hd_torch_tree_open(&s->tree, s->pickle, err);
}

/* The next storage's place; `*waits` when its header must be read first. */
static hd_status locate_storage(torch_state *s, hd_torch_storage *storage, hd_reader *reader, bool *waits, hd_error *err) {
  bool located;
  char room[HD_NAME_ROOM];
  hd_zip_member *member = NULL;
  HD_TRY(find_member(s, "data/", storage->key, &s->tree.strings, &member, err));
  if (!member)
    return hd_fail(err, HD_BAD_FILE, "zip: expected a member \"data/%s\" for a storage, found none", hd_short_name(room, storage->key));
  if (member->bytes < storage->bytes)
    return hd_fail(err, HD_BAD_FILE, "zip: member \"data/%s\": expected %" PRIu64 " bytes for a %s, found %" PRIu64,
                   hd_short_name(room, storage->key), storage->bytes, storage->type, member->bytes);
  HD_TRY(hd_zip_locate(&s->zip, member, reader, true, &located, err));
  storage->begin = member->begin;
  *waits = !located;
  return HD_OK;
}

static hd_status locate_storages(torch_state *s, hd_reader *reader, hd_error *err) {
  for (bool waits = false; s->n_located < s->tree.n_storages; s->n_located++) {
    HD_TRY(locate_storage(s, &s->tree.storages[s->n_located], reader, &waits, err));
    if (waits) return HD_OK;
  }
  HD_TRY(hd_torch_tree_list(&s->tree, reader->directory, err));
  reader->done = true;
  return HD_OK;
}

/* Each part either goes on or has asked for a window. */
static hd_status step_zip(torch_state *s, hd_reader *reader, hd_error *err) {
  if (!s->zip.listed) HD_TRY(hd_zip_list(&s->zip, reader, err));
  if (!s->zip.listed) return HD_OK;
  if (!s->pickle_member) HD_TRY(find_pickle(s, err));
  if (!s->order_seen) HD_TRY(read_byteorder(s, reader, err));
  if (!s->order_seen) return HD_OK;
  if (!s->pickle) HD_TRY(read_zip_pickle(s, reader, err));
  return s->pickle ? locate_storages(s, reader, err) : HD_OK;
}

/* ---- Legacy stream ---- */

typedef struct stream {
  hd_reader *reader;
  size_t at;           /* of the window, which begins with the file */
  bool short_of_bytes; /* and more can be asked for */
  hd_error *err;
} stream;

/* The next pickle of the stream; NULL, and short_of_bytes, when the window is too small. */
static hd_status next_pickle(stream *in, hd_pickle **pickle) {
  bool short_of_bytes;
  const hd_reader *reader = in->reader;
  hd_status status = hd_pickle_read(pickle, reader->window + in->at, reader->held - in->at, in->at, hd_torch_globals, hd_torch_n_globals,
                                    &short_of_bytes, in->err);
  if (status == HD_BAD_FILE && short_of_bytes && reader->end < reader->file_bytes) {
    in->short_of_bytes = true;
    return HD_OK;
  }
  if (*pickle) in->at += hd_pickle_bytes(*pickle);
  return status;
}

static const hd_pickle_value *root_of(const hd_pickle *pickle) { return hd_pickle_value_of(pickle, hd_pickle_root(pickle)); }

static bool is_magic(const hd_pickle *pickle) {
  static const uint8_t binary[MAGIC_BYTES] = {0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19};
  static const char decimal[] = "119547037146038801333356";
  const hd_pickle_value *value = root_of(pickle);
  if (value->kind != HD_PICKLE_BIG) return false;
  return value->binary ? value->n == MAGIC_BYTES && memcmp(value->as.bytes, binary, MAGIC_BYTES) == 0
                       : value->n == sizeof decimal - 1 && memcmp(value->as.bytes, decimal, value->n) == 0;
}

static bool is_protocol(const hd_pickle *pickle) {
  const hd_pickle_value *value = root_of(pickle);
  return value->kind == HD_PICKLE_INT && value->as.integer == LEGACY_PROTOCOL;
}

static const hd_pickle_value *find_item(const hd_pickle *pickle, const hd_pickle_value *dict, const char *key) {
  for (size_t i = 0; dict->kind == HD_PICKLE_DICTIONARY && i + 1 < dict->n; i += 2) {
    const hd_pickle_value *at = hd_pickle_item(pickle, dict, i);
    if (at->kind == HD_PICKLE_TEXT && at->n == strlen(key) && memcmp(at->as.bytes, key, at->n) == 0)
      return hd_pickle_item(pickle, dict, i + 1);
  }
  return NULL;
}

static hd_status check_head(hd_pickle *const pickles[3], hd_error *err) {
  if (!is_protocol(pickles[1])) return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected the legacy protocol %d", LEGACY_PROTOCOL);
  const hd_pickle_value *little = find_item(pickles[2], root_of(pickles[2]), "little_endian");
  if (!little || little->kind != HD_PICKLE_BOOL)
    return hd_fail(err, HD_BAD_FILE, "PyTorch: expected \"little_endian\" in the third pickle");
  if (!little->as.integer)
    return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected little-endian data, found a file of a big-endian machine");
  return HD_OK;
}

static int compare_keys(const void *a, const void *b) {
  const hd_torch_storage *const *x = a, *const *y = b;
  return strcmp((*x)->key, (*y)->key);
}

/* The storage's data at *place, after its count; moves *place past it. All persistent ids of one key get the same place. */
static hd_status place_storage(hd_torch_storage **sorted, size_t n, const char *key, const hd_reader *reader,
                               uint64_t *place, hd_error *err) {
  const hd_torch_storage wanted = {.key = key}, *pointer = &wanted;
  char room[HD_NAME_ROOM];
  hd_torch_storage **found = bsearch(&pointer, sorted, n, sizeof *sorted, compare_keys);
  if (!found) return hd_fail(err, HD_BAD_FILE, "PyTorch: storage \"%s\" is in the list but no tensor's", hd_short_name(room, key));
  while (found > sorted && strcmp(found[-1]->key, key) == 0) found--;
  const hd_torch_storage *first = *found;
  if (reader->file_bytes - *place < COUNT_BYTES || reader->file_bytes - *place - COUNT_BYTES < first->bytes)
    return hd_fail(err, HD_BAD_FILE,
                   "PyTorch: storage \"%s\": expected %" PRIu64 " bytes from byte %" PRIu64 " on, found a file of %" PRIu64,
                   hd_short_name(room, key), first->bytes, *place + COUNT_BYTES, reader->file_bytes);
  for (; found < sorted + n && strcmp((*found)->key, key) == 0; found++) {
    if ((*found)->bytes != first->bytes || (*found)->begin)
      return hd_fail(err, HD_BAD_FILE, "PyTorch: storage \"%s\" is declared in two ways", hd_short_name(room, key));
    (*found)->begin = *place + COUNT_BYTES;
  }
  *place += COUNT_BYTES + first->bytes;
  return HD_OK;
}

/* Where the window has a storage's count, it must be the declared one. */
static hd_status check_count(const hd_torch_storage *storage, const hd_reader *reader, hd_error *err) {
  const uint8_t *at = hd_reader_bytes(reader, storage->begin - COUNT_BYTES, storage->begin);
  char room[HD_NAME_ROOM];
  uint64_t count = 0;
  for (int i = COUNT_BYTES - 1; at && i >= 0; i--) count = count << 8 | at[i];
  if (!at || count == storage->bytes / storage->value_bytes) return HD_OK;
  return hd_fail(err, HD_BAD_FILE, "PyTorch: storage \"%s\": expected a count of %" PRIu64 ", found %" PRIu64,
                 hd_short_name(room, storage->key), storage->bytes / storage->value_bytes, count);
}

static hd_status place_all(hd_torch_tree *tree, hd_torch_storage **sorted, const hd_pickle *keys, const hd_reader *reader,
                           uint64_t place, hd_error *err) {
  const hd_pickle_value *list = root_of(keys);
  if (list->kind != HD_PICKLE_LIST) return hd_fail(err, HD_BAD_FILE, "PyTorch: expected a list of storages' keys");
  for (size_t i = 0; i < tree->n_storages; i++) sorted[i] = &tree->storages[i];
  if (tree->n_storages > 0) qsort(sorted, tree->n_storages, sizeof *sorted, compare_keys);
  for (size_t i = 0; i < list->n; i++) {
    const hd_pickle_value *key = hd_pickle_item(keys, list, i);
    if (key->kind != HD_PICKLE_TEXT) return hd_fail(err, HD_BAD_FILE, "PyTorch: expected strings as storages' keys");
    char *name = hd_arena_format(&tree->strings, "%.*s", (int)key->n, (const char *)key->as.bytes);
    if (!name) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file's storages");
    HD_TRY(place_storage(sorted, tree->n_storages, name, reader, &place, err));
  }
  for (size_t i = 0; i < tree->n_storages; i++) {
    char room[HD_NAME_ROOM];
    if (!tree->storages[i].begin)
      return hd_fail(err, HD_BAD_FILE, "PyTorch: storage \"%s\" is not in the list of keys", hd_short_name(room, tree->storages[i].key));
    HD_TRY(check_count(&tree->storages[i], reader, err));
  }
  if (place == reader->file_bytes) return HD_OK;
  return hd_fail(err, HD_BAD_FILE, "PyTorch: expected a file of %" PRIu64 " bytes, found %" PRIu64, place, reader->file_bytes);
}

static hd_status list_stream(torch_state *s, stream *in, hd_pickle *object, const hd_pickle *keys) {
  HD_TRY(hd_torch_tree_open(&s->tree, object, in->err));
  hd_torch_storage **sorted = hd_alloc(s->tree.n_storages * sizeof *sorted);
  if (!sorted) return hd_fail(in->err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file's storages");
  hd_status status = place_all(&s->tree, sorted, keys, in->reader, in->at, in->err);
  hd_free(sorted);
  if (status == HD_OK) status = hd_torch_tree_list(&s->tree, in->reader->directory, in->err);
  in->reader->done = status == HD_OK;
  return status;
}

/* A pickle that is no torch.save stream: plain data, and nothing after it. */
static hd_status list_alone(torch_state *s, stream *in, hd_pickle *pickle) {
  char room[HD_NAME_ROOM];
  HD_TRY(hd_torch_tree_open(&s->tree, pickle, in->err));
  if (in->at != in->reader->file_bytes)
    return hd_fail(in->err, HD_BAD_FILE, "pickle: expected it to end with the file, found %" PRIu64 " bytes after it",
                   in->reader->file_bytes - in->at);
  if (s->tree.n_storages > 0)
    return hd_fail(in->err, HD_BAD_FILE, "pickle: storage \"%s\" has no data: the pickle is by itself",
                   hd_short_name(room, s->tree.storages[0].key));
  HD_TRY(hd_torch_tree_list(&s->tree, in->reader->directory, in->err));
  in->reader->done = true;
  return HD_OK;
}

enum { N_PICKLES = 5 }; /* of a stream: magic, protocol, machine, the object, the storages' keys */

/* As far as the window goes: where it ends too early nothing is kept, and step_stream asks for a larger one. */
static hd_status read_pickles(torch_state *s, stream *in, hd_pickle *pickles[N_PICKLES]) {
  HD_TRY(next_pickle(in, &pickles[0]));
  if (in->short_of_bytes) return HD_OK;
  if (!is_magic(pickles[0])) return list_alone(s, in, pickles[0]);
  for (int i = 1; i < N_PICKLES; i++) {
    HD_TRY(next_pickle(in, &pickles[i]));
    if (in->short_of_bytes) return HD_OK;
  }
  HD_TRY(check_head(pickles, in->err));
  return list_stream(s, in, pickles[3], pickles[4]);
}

static hd_status read_stream(torch_state *s, stream *in) {
  hd_pickle *pickles[N_PICKLES] = {NULL};
  hd_status status = read_pickles(s, in, pickles);
  for (int i = 0; i < N_PICKLES; i++) hd_pickle_free(pickles[i]);
  return status;
}

static hd_status step_stream(torch_state *s, hd_reader *reader, hd_error *err) {
  stream in = {.reader = reader, .err = err};
  HD_TRY(read_stream(s, &in));
  if (reader->done) return HD_OK;
  uint64_t larger = reader->end * 4 < reader->file_bytes ? reader->end * 4 : reader->file_bytes;
  return hd_reader_want(reader, 0, larger, err);
}

/* ---- The row ---- */

static bool is_zip(const uint8_t *first, size_t n) {
  return n >= 4 && first[0] == 'P' && first[1] == 'K' && ((first[2] == 3 && first[3] == 4) || (first[2] == 5 && first[3] == 6));
}

/* Eight bytes that SafeTensors could begin with: a header's length up to 100 MB. */
static bool may_be_safetensors(const uint8_t *first, size_t n) {
  return n >= 8 && !(first[4] | first[5] | first[6] | first[7]) && first[3] < 6;
}

/* Protocols 2 to 5 begin with their number; 0 and 1 with an opcode that a first line follows. */
static bool is_pickle(const uint8_t *first, size_t n) {
  if (n < 2 || may_be_safetensors(first, n)) return false;
  if (first[0] == 0x80) return first[1] <= 5;
  return strchr("(]}cLIVS", first[0]) && first[0] && memchr(first, '\n', n);
}

static bool is_tar(const uint8_t *first, size_t n) {
  enum { TAR_MAGIC = 257 };
  return n >= TAR_MAGIC + 5 && memcmp(first + TAR_MAGIC, "ustar", 5) == 0;
}

static bool torch_detect(const uint8_t *first, size_t n, uint64_t file_bytes) {
  (void)file_bytes;
  return is_zip(first, n) || is_pickle(first, n) || is_tar(first, n);
}

static hd_status torch_step(hd_reader *reader, hd_error *err) {
  if (reader->state) return step_zip(reader->state, reader, err);
  if (is_tar(reader->window, reader->held))
    return hd_fail(err, HD_UNSUPPORTED,
                   "PyTorch: expected a zip or a legacy stream, found a tar archive, as torch.save wrote them before 0.1.10: "
                   "load it with PyTorch and save it again");
  torch_state *state = hd_alloc_zero(sizeof *state);
  if (!state) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for reading a PyTorch file");
  if (is_zip(reader->window, reader->held)) {
    reader->state = state; /* the reader's now */
    return step_zip(state, reader, err);
  }
  hd_status status = step_stream(state, reader, err);
  torch_free(state); /* a stream is read at once or again */
  return status;
}

const hd_format hd_format_torch = {"PyTorch", torch_detect, torch_step, torch_free};
