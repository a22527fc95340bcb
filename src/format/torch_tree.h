/* format/torch_tree.h: what a PyTorch pickle says: its storages, and the tensors and plain data of its object tree. */
#ifndef HD_FORMAT_TORCH_TREE_H
#define HD_FORMAT_TORCH_TREE_H

#include "format/format.h"
#include "format/pickle.h"

/* The globals a PyTorch file may name. */
extern const hd_pickle_global hd_torch_globals[];
extern const size_t hd_torch_n_globals;

/* A storage as a persistent id names it. The container sets `begin`. */
typedef struct hd_torch_storage {
  const char *key;
  const char *type;   /* "FloatStorage", for messages */
  uint64_t bytes;
  uint64_t begin;     /* in the file */
  size_t value_bytes; /* of one element; 1 when the storage is untyped */
} hd_torch_storage;

typedef struct hd_torch_tree {
  const hd_pickle *pickle;
  hd_torch_storage *storages; /* one for each persistent id; several may have one key */
  size_t n_storages, storages_room;
  hd_arena strings;
} hd_torch_tree;

/* Finds the storages of a pickle, which must outlive the tree. Zero-initialise the tree to start; free it whatever happens. */
hd_status hd_torch_tree_open(hd_torch_tree *tree, const hd_pickle *pickle, hd_error *err);
void hd_torch_tree_free(hd_torch_tree *tree);

/* Fills the directory, once every storage has its place: tensors under their keys joined by dots
 * ("optimizer.state.0.exp_avg"; list items by their numbers; a file that is one tensor has it as "tensor"), and what is not a
 * tensor as metadata, JSON under the same kind of name. */
hd_status hd_torch_tree_list(const hd_torch_tree *tree, hd_directory *directory, hd_error *err);

/* ---- Values as text (torch_text.c) ---- */

/* Text that grows, within a budget. */
typedef struct hd_torch_text {
  char *text; /* NUL-terminated once anything was put */
  size_t n, room;
  size_t left; /* of the budget */
} hd_torch_text;

hd_status hd_torch_put(hd_torch_text *to, const char *text, size_t n, hd_error *err);
/* A value without tensors as JSON. What JSON lacks: not-a-number and infinities are strings, bytes are {"$bytes": hexadecimal}, globals are
 * their dotted names, calls {"$call": name, "arguments": […]}. Dictionaries are objects whatever their keys' types. */
hd_status hd_torch_put_json(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *value, hd_error *err);
/* A dictionary's key as part of a name. */
hd_status hd_torch_put_key(hd_torch_text *to, const hd_pickle *pickle, const hd_pickle_value *key, hd_error *err);

enum { HD_TORCH_MAX_DEPTH = 100 };

#endif
