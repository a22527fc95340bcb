/* format/torch_tree.c: PyTorch's objects in a pickle.
 *
 *   tensor     torch._utils._rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks[, metadata]), v3 with a dtype after
 *              hooks; offset and strides count elements
 *   storage    a persistent id ('storage', torch.<X>Storage, key, location, count[, view]); an UntypedStorage counts bytes
 *   parameter  torch._utils._rebuild_parameter(tensor, …)
 *   module     TorchScript and C++ torch::save: an object of a class __torch__…, its parameters, buffers and parts in its state
 *
 * All other objects are dictionaries, lists, tuples and plain values. */
#include "format/torch_tree.h"

#include "base/dtype.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ---- What may be named ---- */

/* What a global means: one of the element types, or one of these. */
enum { TENSOR_V2 = 100, TENSOR_V3, STRANGE_TENSOR, UNTYPED, OTHER };

typedef enum element {
  F32, F64, F16, BF16, I64, I32, I16, I8, U8, BOOLEAN, U16, U32, U64, E4M3, E5M2, E4M3Z, E5M2Z, C64, C128, QI8, QU8, QI32
} element;

static const struct {
  const char *dtype; /* as SafeTensors writes it; one that base/dtype.c does not know is refused */
  size_t bytes;
} elements[] = {[F32] = {"F32", 4},           [F64] = {"F64", 8},       [F16] = {"F16", 2},          [BF16] = {"BF16", 2},
                [I64] = {"I64", 8},           [I32] = {"I32", 4},       [I16] = {"I16", 2},          [I8] = {"I8", 1},
                [U8] = {"U8", 1},             [BOOLEAN] = {"BOOL", 1},  [U16] = {"U16", 2},          [U32] = {"U32", 4},
                [U64] = {"U64", 8},           [E4M3] = {"F8_E4M3", 1},  [E5M2] = {"F8_E5M2", 1},     [E4M3Z] = {"F8_E4M3FNUZ", 1},
                [E5M2Z] = {"F8_E5M2FNUZ", 1}, [C64] = {"complex64", 8}, [C128] = {"complex128", 16}, [QI8] = {"qint8", 1},
                [QU8] = {"quint8", 1},        [QI32] = {"qint32", 4}};

#define STORAGE(name, type) {"torch", name "Storage", HD_PICKLE_NAME, type}, {"torch.storage", name "Storage", HD_PICKLE_NAME, type}
#define DTYPE(name, type) {"torch", name, HD_PICKLE_NAME, type}

const hd_pickle_global hd_torch_globals[] = {
    {"torch._utils", "_rebuild_tensor_v2", HD_PICKLE_CALL, TENSOR_V2},
    {"torch._utils", "_rebuild_tensor", HD_PICKLE_CALL, TENSOR_V2},
    {"torch._utils", "_rebuild_tensor_v3", HD_PICKLE_CALL, TENSOR_V3},
    {"torch._utils", "_rebuild_parameter", HD_PICKLE_FIRST, OTHER},
    {"torch._utils", "_rebuild_parameter_with_state", HD_PICKLE_FIRST, OTHER},
    {"torch._utils", "_rebuild_qtensor", HD_PICKLE_CALL, STRANGE_TENSOR},
    {"torch._utils", "_rebuild_sparse_tensor", HD_PICKLE_CALL, STRANGE_TENSOR},
    {"torch._utils", "_rebuild_sparse_csr_tensor", HD_PICKLE_CALL, STRANGE_TENSOR},
    {"torch._utils", "_rebuild_nested_tensor", HD_PICKLE_CALL, STRANGE_TENSOR},
    {"torch._utils", "_rebuild_meta_tensor_no_storage", HD_PICKLE_CALL, STRANGE_TENSOR},
    STORAGE("Float", F32),
    STORAGE("Double", F64),
    STORAGE("Half", F16),
    STORAGE("BFloat16", BF16),
    STORAGE("Long", I64),
    STORAGE("Int", I32),
    STORAGE("Short", I16),
    STORAGE("Char", I8),
    STORAGE("Byte", U8),
    STORAGE("Bool", BOOLEAN),
    STORAGE("ComplexFloat", C64),
    STORAGE("ComplexDouble", C128),
    STORAGE("QInt8", QI8),
    STORAGE("QUInt8", QU8),
    STORAGE("QInt32", QI32),
    STORAGE("Untyped", UNTYPED),
    DTYPE("float32", F32),
    DTYPE("float64", F64),
    DTYPE("float16", F16),
    DTYPE("bfloat16", BF16),
    DTYPE("int64", I64),
    DTYPE("int32", I32),
    DTYPE("int16", I16),
    DTYPE("int8", I8),
    DTYPE("uint8", U8),
    DTYPE("bool", BOOLEAN),
    DTYPE("uint16", U16),
    DTYPE("uint32", U32),
    DTYPE("uint64", U64),
    DTYPE("float8_e4m3fn", E4M3),
    DTYPE("float8_e5m2", E5M2),
    DTYPE("float8_e4m3fnuz", E4M3Z),
    DTYPE("float8_e5m2fnuz", E5M2Z),
    DTYPE("complex64", C64),
    DTYPE("complex128", C128),
    DTYPE("qint8", QI8),
    DTYPE("quint8", QU8),
    DTYPE("qint32", QI32),
    {"collections", "OrderedDict", HD_PICKLE_DICT, OTHER},
    {"torch", "Size", HD_PICKLE_FIRST, OTHER},
    {"__builtin__", "set", HD_PICKLE_FIRST, OTHER},
    {"builtins", "set", HD_PICKLE_FIRST, OTHER},
    {"torch.jit._pickle", "build_intlist", HD_PICKLE_FIRST, OTHER},
    {"torch.jit._pickle", "build_doublelist", HD_PICKLE_FIRST, OTHER},
    {"torch.jit._pickle", "build_boollist", HD_PICKLE_FIRST, OTHER},
    {"torch.jit._pickle", "build_tensorlist", HD_PICKLE_FIRST, OTHER},
    {"torch.jit._pickle", "restore_type_tag", HD_PICKLE_FIRST, OTHER},
    {"torch", "device", HD_PICKLE_CALL, OTHER},
    {"torch.serialization", "_get_layout", HD_PICKLE_CALL, OTHER},
    {"torch", "per_tensor_affine", HD_PICKLE_NAME, OTHER},
    {"torch", "per_channel_affine", HD_PICKLE_NAME, OTHER},
    {"__builtin__", "complex", HD_PICKLE_CALL, OTHER},
    {"builtins", "complex", HD_PICKLE_CALL, OTHER},
    {"_codecs", "encode", HD_PICKLE_CALL, OTHER},
    {"numpy", "dtype", HD_PICKLE_CALL, OTHER},
    {"numpy.core.multiarray", "scalar", HD_PICKLE_CALL, OTHER},
    {"numpy._core.multiarray", "scalar", HD_PICKLE_CALL, OTHER},
    {"__torch__", NULL, HD_PICKLE_CLASS, OTHER},
};
const size_t hd_torch_n_globals = sizeof hd_torch_globals / sizeof *hd_torch_globals;

static int meaning_of(const hd_pickle_value *value) { return hd_torch_globals[value->global].meaning; }

/* ---- Storages ---- */

static hd_status refuse_id(hd_error *err, const char *problem) {
  return hd_fail(err, HD_BAD_FILE, "PyTorch: a storage's persistent id: %s", problem);
}

static bool is_storage_type(const hd_pickle_value *value) {
  return value->kind == HD_PICKLE_GLOBAL
         && strstr(hd_torch_globals[value->global].name ? hd_torch_globals[value->global].name : "", "Storage");
}

/* ('storage', type, key, location, count) and, in legacy files, a view that is None. */
static hd_status read_storage(hd_torch_tree *tree, const hd_pickle_value *id, hd_torch_storage *storage, hd_error *err) {
  if (id->n != 5 && id->n != 6) return refuse_id(err, "expected five or six parts");
  const hd_pickle_value *tag = hd_pickle_item(tree->pickle, id, 0), *type = hd_pickle_item(tree->pickle, id, 1);
  const hd_pickle_value *key = hd_pickle_item(tree->pickle, id, 2), *count = hd_pickle_item(tree->pickle, id, 4);
  if (tag->kind != HD_PICKLE_TEXT || tag->n != 7 || memcmp(tag->as.bytes, "storage", 7) != 0)
    return refuse_id(err, "expected 'storage' first");
  if (!is_storage_type(type)) return refuse_id(err, "expected a storage type of torch");
  if (key->kind != HD_PICKLE_TEXT || memchr(key->as.bytes, 0, key->n)) return refuse_id(err, "expected a string as key");
  if (count->kind != HD_PICKLE_INT || count->as.integer < 0) return refuse_id(err, "expected a number of elements");
  if (id->n == 6 && hd_pickle_item(tree->pickle, id, 5)->kind != HD_PICKLE_NONE)
    return hd_fail(err, HD_UNSUPPORTED, "PyTorch: expected whole storages, found a view of one (from before PyTorch 0.4)");
  int meaning = meaning_of(type);
  *storage = (hd_torch_storage){.type = hd_torch_globals[type->global].name,
                                .value_bytes = meaning == UNTYPED ? 1 : elements[meaning].bytes};
  if ((uint64_t)count->as.integer > INT64_MAX / storage->value_bytes)
    return refuse_id(err, "it has more elements than bytes can be counted");
  storage->bytes = (uint64_t)count->as.integer * storage->value_bytes;
  char *copy = hd_arena_alloc(&tree->strings, (size_t)key->n + 1);
  if (!copy) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file's storages");
  storage->key = memcpy(copy, key->as.bytes, key->n);
  return HD_OK;
}

/* A persistent id becomes the number of its storage, and the global its type. */
static hd_status number_storage(hd_torch_tree *tree, hd_pickle_value *id, hd_error *err) {
  size_t most = hd_pickle_bytes(tree->pickle) / 24 + 64; /* what an id takes at least */
  if (tree->n_storages == most) return hd_fail(err, HD_BAD_FILE, "PyTorch: expected fewer storages for a pickle of this length");
  if (tree->n_storages == tree->storages_room) {
    size_t room = tree->storages_room ? tree->storages_room * 2 : 64;
    hd_torch_storage *larger = hd_realloc(tree->storages, room * sizeof *larger);
    if (!larger) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a PyTorch file's storages");
    tree->storages = larger;
    tree->storages_room = room;
  }
  HD_TRY(read_storage(tree, id, &tree->storages[tree->n_storages], err));
  id->global = hd_pickle_item(tree->pickle, id, 1)->global;
  id->as.integer = (int64_t)tree->n_storages++;
  id->n = 0;
  return HD_OK;
}

hd_status hd_torch_tree_open(hd_torch_tree *tree, const hd_pickle *pickle, hd_error *err) {
  tree->pickle = pickle;
  for (size_t i = 0; i < hd_pickle_count(pickle); i++) {
    hd_pickle_value *value = hd_pickle_value_of(pickle, (hd_pickle_ref)i);
    if (value->kind == HD_PICKLE_PERSISTENT) HD_TRY(number_storage(tree, value, err));
  }
  return HD_OK;
}

void hd_torch_tree_free(hd_torch_tree *tree) {
  hd_free(tree->storages);
  hd_arena_free(&tree->strings);
}

/* ---- One tensor ---- */

static hd_status refuse(const char *name, hd_status code, const char *problem, hd_error *err) {
  char room[HD_NAME_ROOM];
  return hd_fail(err, code, "tensor \"%s\": %s", hd_short_name(room, name), problem);
}

static bool read_sizes(const hd_pickle *pickle, const hd_pickle_value *tuple, size_t sizes[HD_MAX_DIMS]) {
  for (size_t i = 0; i < tuple->n; i++) {
    const hd_pickle_value *size = hd_pickle_item(pickle, tuple, i);
    if (size->kind != HD_PICKLE_INT || size->as.integer < 0 || (uint64_t)size->as.integer > SIZE_MAX) return false;
    sizes[i] = (size_t)size->as.integer;
  }
  return true;
}

static hd_status read_shape(const hd_pickle *pickle, const hd_pickle_value *call, hd_entry *entry, hd_error *err) {
  const hd_pickle_value *shape = hd_pickle_item(pickle, call, 2), *strides = hd_pickle_item(pickle, call, 3);
  if (shape->kind != HD_PICKLE_TUPLE || strides->kind != HD_PICKLE_TUPLE || shape->n != strides->n)
    return refuse(entry->name, HD_BAD_FILE, "expected a shape and as many strides", err);
  if (shape->n > HD_MAX_DIMS) return refuse(entry->name, HD_UNSUPPORTED, "expected at most 8 dimensions", err);
  entry->n_dims = (int)shape->n;
  if (!read_sizes(pickle, shape, entry->shape) || !read_sizes(pickle, strides, entry->strides))
    return refuse(entry->name, HD_BAD_FILE, "expected whole sizes and strides", err);
  return HD_OK;
}

/* The element types: v3 says it itself, else the storage's. */
static hd_status read_dtype(const hd_torch_tree *tree, const hd_pickle_value *call, const hd_pickle_value *storage,
                            hd_entry *entry, hd_error *err) {
  int meaning = meaning_of(storage);
  if (meaning_of(call) == TENSOR_V3) {
    const hd_pickle_value *dtype = call->n > 6 ? hd_pickle_item(tree->pickle, call, 6) : NULL;
    if (!dtype || dtype->kind != HD_PICKLE_GLOBAL) return refuse(entry->name, HD_BAD_FILE, "expected a dtype of torch", err);
    meaning = meaning_of(dtype);
  }
  if (meaning >= TENSOR_V2) return refuse(entry->name, HD_BAD_FILE, "expected a dtype of torch", err);
  entry->dtype = hd_dtype_find(elements[meaning].dtype, strlen(elements[meaning].dtype));
  char room[HD_NAME_ROOM];
  if (entry->dtype == HD_DTYPE_COUNT)
    return hd_fail(err, HD_UNSUPPORTED, "tensor \"%s\": expected a dtype that we read, found %s",
                   hd_short_name(room, entry->name), elements[meaning].dtype);
  return HD_OK;
}

static bool is_contiguous(const hd_entry *entry) {
  size_t expected = 1;
  for (int d = entry->n_dims; d-- > 0;) {
    if (entry->shape[d] != 1 && entry->strides[d] != expected) return false;
    expected *= entry->shape[d]; /* below the element count, which fits */
  }
  return true;
}

/* Elements from the first to the last, both included; false when that is past all counting. */
static bool find_span(const hd_entry *entry, uint64_t *span) {
  *span = 1;
  for (int d = 0; d < entry->n_dims; d++) {
    uint64_t steps = entry->shape[d] - 1, stride = entry->strides[d];
    if (stride > 0 && steps > (INT64_MAX - *span) / stride) return false;
    *span += steps * stride;
  }
  return true;
}

/* Its bytes within its storage. */
static hd_status place(hd_entry *entry, const hd_torch_storage *storage, uint64_t offset, hd_error *err) {
  uint64_t value_bytes = hd_dtype_get(entry->dtype)->block_bytes, values = storage->bytes / value_bytes, span = 0;
  size_t count, bytes;
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  if (!hd_shape_count(entry->n_dims, entry->shape, &count) || !hd_dtype_bytes(entry->dtype, count, &bytes))
    return refuse(entry->name, HD_BAD_FILE, "its shape has more elements than can be counted", err);
  if (count > 0 && (!find_span(entry, &span) || span > values || offset > values - span))
    return hd_fail(err, HD_BAD_FILE, "tensor \"%s\": shape %s from element %" PRIu64 " on goes past its storage's %" PRIu64 " elements",
                   hd_short_name(room, entry->name), hd_shape_text(shape, entry->n_dims, entry->shape), offset, values);
  entry->begin = storage->begin + (count > 0 ? offset * value_bytes : 0);
  entry->end = entry->begin + span * value_bytes;
  entry->strided = count > 0 && !is_contiguous(entry);
  return HD_OK;
}

/* A lazily conjugated or negated tensor says so in its last argument. */
static bool is_lazy(const hd_pickle *pickle, const hd_pickle_value *call) {
  const hd_pickle_value *last = hd_pickle_item(pickle, call, call->n - 1);
  size_t from = meaning_of(call) == TENSOR_V3 ? 8 : 7;
  return call->n >= from && last->kind == HD_PICKLE_DICTIONARY && last->n > 0;
}

static hd_status read_tensor(const hd_torch_tree *tree, const hd_pickle_value *call, hd_entry *entry, hd_error *err) {
  const hd_pickle *pickle = tree->pickle;
  if (call->n < 4) return refuse(entry->name, HD_BAD_FILE, "expected a storage, an offset, a shape and strides", err);
  const hd_pickle_value *storage = hd_pickle_item(pickle, call, 0), *offset = hd_pickle_item(pickle, call, 1);
  if (storage->kind != HD_PICKLE_PERSISTENT) return refuse(entry->name, HD_BAD_FILE, "expected a storage", err);
  if (offset->kind != HD_PICKLE_INT || offset->as.integer < 0) return refuse(entry->name, HD_BAD_FILE, "expected an offset", err);
  if (is_lazy(pickle, call))
    return refuse(entry->name, HD_UNSUPPORTED, "it is to be conjugated or negated when read, which is not supported", err);
  const hd_torch_storage *from = &tree->storages[storage->as.integer];
  HD_TRY(read_dtype(tree, call, storage, entry, err));
  HD_TRY(read_shape(pickle, call, entry, err));
  return place(entry, from, (uint64_t)offset->as.integer, err);
}

/* ---- The tree ---- */

enum { UNKNOWN, WITHOUT_TENSORS, WITH_TENSORS };

typedef struct walk {
  const hd_torch_tree *tree;
  hd_directory *directory;
  hd_torch_text name; /* of the value being listed */
  size_t text_left, entries_left;
  hd_error *err;
} walk;

static bool is_tensor(const hd_pickle_value *value) {
  return value->kind == HD_PICKLE_RESULT && meaning_of(value) >= TENSOR_V2 && meaning_of(value) <= STRANGE_TENSOR;
}

static bool is_container(const hd_pickle_value *value) { return value->kind >= HD_PICKLE_TUPLE && value->kind <= HD_PICKLE_OBJECT; }

/* Marks every value of the tree once. A value that holds itself is seen as without tensors while it is being looked at; writing
 * it as JSON then meets the limit of depth. */
static hd_status mark(const walk *w, hd_pickle_value *value, int depth) {
  if (depth > HD_TORCH_MAX_DEPTH)
    return hd_fail(w->err, HD_UNSUPPORTED, "PyTorch: expected data nested at most %d deep", HD_TORCH_MAX_DEPTH);
  if (value->mark != UNKNOWN) return HD_OK;
  value->mark = is_tensor(value) ? WITH_TENSORS : WITHOUT_TENSORS;
  for (size_t i = 0; is_container(value) && i < value->n; i++) {
    hd_pickle_value *item = hd_pickle_item(w->tree->pickle, value, i);
    HD_TRY(mark(w, item, depth + 1));
    if (item->mark == WITH_TENSORS) value->mark = WITH_TENSORS;
  }
  return HD_OK;
}

static hd_status list_tensor(walk *w, const hd_pickle_value *call, const char *name) {
  hd_entry entry = {.name = name};
  char room[HD_NAME_ROOM];
  if (w->entries_left-- == 0) return hd_fail(w->err, HD_BAD_FILE, "PyTorch: expected fewer tensors for a pickle of this length");
  if (meaning_of(call) == STRANGE_TENSOR)
    return hd_fail(w->err, HD_UNSUPPORTED, "tensor \"%s\": expected a dense one, found what %s.%s makes", hd_short_name(room, name),
                   hd_torch_globals[call->global].module, hd_torch_globals[call->global].name);
  HD_TRY(read_tensor(w->tree, call, &entry, w->err));
  return hd_directory_append(w->directory, &entry, w->err);
}

static hd_status list_data(walk *w, const hd_pickle_value *value, const char *name) {
  enum { PAIR_COST = 32 };
  hd_torch_text json = {.left = w->text_left > PAIR_COST ? w->text_left - PAIR_COST : 0};
  hd_status status = hd_torch_put_json(&json, w->tree->pickle, value, w->err);
  if (status == HD_OK) status = hd_directory_append_json(w->directory, name, json.text, w->err);
  w->text_left = json.left;
  hd_free(json.text);
  return status;
}

static hd_status list(walk *w, hd_pickle_value *value, int depth);

/* A value under its key: the name grows by it, and shrinks again. */
static hd_status list_item(walk *w, hd_pickle_value *value, const hd_pickle_value *key, int depth) {
  size_t before = w->name.n;
  w->name.left = w->text_left;
  if (before > 0) HD_TRY(hd_torch_put(&w->name, ".", 1, w->err));
  HD_TRY(hd_torch_put_key(&w->name, w->tree->pickle, key, w->err));
  if (w->name.n >= w->text_left) return hd_fail(w->err, HD_UNSUPPORTED, "PyTorch: names are longer than a file of this size should need");
  w->text_left -= w->name.n;
  HD_TRY(list(w, value, depth + 1));
  w->name.n = before;
  w->name.text[before] = '\0';
  return HD_OK;
}

/* An object's own flags (training, _is_full_backward_hook) are no data. */
static bool is_flag(const hd_pickle_value *of, const hd_pickle_value *value) {
  return of->kind == HD_PICKLE_OBJECT && (value->kind == HD_PICKLE_BOOL || value->kind == HD_PICKLE_NONE);
}

static hd_status list_items(walk *w, const hd_pickle_value *value, int depth) {
  const hd_pickle *pickle = w->tree->pickle;
  bool keyed = value->kind == HD_PICKLE_DICTIONARY || value->kind == HD_PICKLE_OBJECT;
  for (size_t i = 0; i < value->n; i += keyed ? 2 : 1) {
    const hd_pickle_value number = {.kind = HD_PICKLE_INT, .as.integer = (int64_t)i};
    hd_pickle_value *item = hd_pickle_item(pickle, value, keyed ? i + 1 : i);
    if (!is_flag(value, item)) HD_TRY(list_item(w, item, keyed ? hd_pickle_item(pickle, value, i) : &number, depth));
  }
  return HD_OK;
}

static hd_status list(walk *w, hd_pickle_value *value, int depth) {
  if (depth > HD_TORCH_MAX_DEPTH)
    return hd_fail(w->err, HD_UNSUPPORTED, "PyTorch: expected data nested at most %d deep", HD_TORCH_MAX_DEPTH);
  const char *name = w->name.n > 0 ? w->name.text : NULL;
  if (is_tensor(value)) return list_tensor(w, value, name ? name : "tensor");
  if (value->mark == WITH_TENSORS || (depth == 0 && value->kind == HD_PICKLE_DICTIONARY)) return list_items(w, value, depth);
  return list_data(w, value, name ? name : "value");
}

hd_status hd_torch_tree_list(const hd_torch_tree *tree, hd_directory *directory, hd_error *err) {
  size_t bytes = hd_pickle_bytes(tree->pickle);
  /* What a pickle of this length can honestly say; a hostile one could say the same thing over and over by its number. */
  walk w = {.tree = tree, .directory = directory, .text_left = bytes * 3 + 65536, .entries_left = bytes / 32 + 64, .err = err};
  hd_pickle_value *root = hd_pickle_value_of(tree->pickle, hd_pickle_root(tree->pickle));
  hd_status status = mark(&w, root, 0);
  if (status == HD_OK) status = list(&w, root, 0);
  hd_free(w.name.text);
  return status == HD_OK ? hd_directory_seal(directory, err) : status;
}
