/* format/pickle.h: Python's pickles, protocols 0 to 5, read as data. The machine imports nothing and calls nothing: a global must be on the
 * reader's list, and "calling" one makes a value that says so. */
#ifndef HD_FORMAT_PICKLE_H
#define HD_FORMAT_PICKLE_H

#include "base/memory.h"

/* What becomes of a global when the pickle calls it (REDUCE, NEWOBJ). */
typedef enum hd_pickle_effect {
  HD_PICKLE_NAME,  /* it may be named, not called: a dtype, a storage type */
  HD_PICKLE_DICT,  /* collections.OrderedDict: a dictionary of the pairs it is given, if any */
  HD_PICKLE_FIRST, /* it is its first argument: torch.Size, nn.Parameter, set */
  HD_PICKLE_CALL,  /* kept as a call with its arguments, for the reader to understand */
  HD_PICKLE_CLASS  /* an object whose state is a dictionary */
} hd_pickle_effect;

/* A row of a reader's list. A `name` of NULL allows every name in `module` and in what is below it ("__torch__", "__torch__.a.b"). */
typedef struct hd_pickle_global {
  const char *module, *name;
  hd_pickle_effect effect;
  int meaning; /* the reader's own */
} hd_pickle_global;

typedef enum hd_pickle_kind {
  HD_PICKLE_NONE,
  HD_PICKLE_BOOL,       /* integer */
  HD_PICKLE_INT,        /* integer */
  HD_PICKLE_BIG,        /* bytes: decimal digits in text, or else two's complement, least byte first (`binary`) */
  HD_PICKLE_REAL,
  HD_PICKLE_TEXT,       /* bytes; not checked for UTF-8 */
  HD_PICKLE_BYTES,
  HD_PICKLE_TUPLE,
  HD_PICKLE_LIST,       /* also sets */
  HD_PICKLE_DICTIONARY, /* items: key, value, key, value; n counts both */
  HD_PICKLE_OBJECT,     /* the same: an object's state */
  HD_PICKLE_GLOBAL,     /* global */
  HD_PICKLE_RESULT,     /* global, and the call's arguments as items */
  HD_PICKLE_PERSISTENT  /* a persistent id: the tuple's items */
} hd_pickle_kind;

/* Values are numbered: a number is a quarter of a pointer's place, and a hostile file makes many. */
typedef uint32_t hd_pickle_ref;

typedef struct hd_pickle_value {
  uint8_t kind;    /* hd_pickle_kind */
  uint8_t mark;    /* the reader's own; 0 */
  uint8_t binary;  /* HD_PICKLE_BIG */
  uint8_t global;  /* row of the list */
  uint32_t n;      /* bytes or items */
  union {
    int64_t integer;
    double real;
    const uint8_t *bytes;     /* in the pickle */
    hd_pickle_ref *items;     /* more than two, or any of a list or dictionary */
    hd_pickle_ref few[2];     /* of a tuple, call or persistent id with at most two */
  } as;
} hd_pickle_value;

typedef struct hd_pickle hd_pickle;

/* More than any checkpoint's: a tensor takes about 100 bytes of pickle. */
#define HD_PICKLE_MAX_BYTES 110000000

/* Reads one pickle from the n bytes, which lie at `place` of the file (messages count from the file's begin) and
 * must stay until hd_pickle_free. *short_of_bytes says that it failed because they ended inside the pickle.
 * `globals` stays too; it has fewer than 256 rows. */
hd_status hd_pickle_read(hd_pickle **out, const uint8_t *bytes, size_t n, uint64_t place, const hd_pickle_global *globals, size_t n_globals,
                         bool *short_of_bytes, hd_error *err);
void hd_pickle_free(hd_pickle *pickle);

hd_pickle_ref hd_pickle_root(const hd_pickle *pickle);
size_t hd_pickle_bytes(const hd_pickle *pickle); /* the pickle's length */
size_t hd_pickle_count(const hd_pickle *pickle); /* its values, 0 … count − 1 */
hd_pickle_value *hd_pickle_value_of(const hd_pickle *pickle, hd_pickle_ref ref);
/* The items of a tuple, list, dictionary, object, call or persistent id. */
const hd_pickle_ref *hd_pickle_items(const hd_pickle_value *value);

static inline hd_pickle_value *hd_pickle_item(const hd_pickle *pickle, const hd_pickle_value *value, size_t index) {
  return hd_pickle_value_of(pickle, hd_pickle_items(value)[index]);
}

#endif
