/* format/pickle_machine.h: the state of the pickle machine, and what its opcodes are made of. pickle.c
 * runs it, pickle_opcodes.c has the opcodes. */
#ifndef HD_FORMAT_PICKLE_MACHINE_H
#define HD_FORMAT_PICKLE_MACHINE_H

#include "format/pickle.h"

enum {
  BLOCK_VALUES = 4096,  /* values are allocated in blocks, which never move */
  SMALL_INTS = 256,     /* the first values: what needs no value of its own */
  NONE_REF = SMALL_INTS,
  FALSE_REF,
  TRUE_REF,
  EMPTY_TUPLE_REF,
  N_SHARED,
  SPARE_VALUES = 1024,  /* for short pickles */
  MAX_LINE = 4096,
  LAST_PROTOCOL = 5
};

typedef struct refs {
  hd_pickle_ref *items;
  size_t n, room;
} refs;

struct hd_pickle {
  const uint8_t *bytes;
  size_t n, at, opcode_at;
  uint64_t place;
  const hd_pickle_global *globals;
  size_t n_globals;
  hd_pickle_value **blocks;
  size_t n_values, max_values;
  refs stack, marks, memo;
  hd_arena arena;
  bool stopped, short_of_bytes;
  hd_pickle_ref root;
  hd_error *err;
};

#define NOWHERE UINT32_MAX /* a memo place without a value */

/* What each opcode does; NULL: it is refused. */
extern hd_status (*const hd_machine_opcodes[256])(hd_pickle *p);

/* "pickle: byte 17: problem", the byte being that of the opcode that runs. */
hd_status hd_machine_fail(hd_pickle *p, const char *problem);

/* Arguments: n bytes; a little-endian number; a line without its end. All fail, and set short_of_bytes, when the bytes end before. */
hd_status hd_machine_need(hd_pickle *p, uint64_t n);
hd_status hd_machine_take(hd_pickle *p, uint64_t n, const uint8_t **bytes);
hd_status hd_machine_take_number(hd_pickle *p, int n_bytes, uint64_t *number);
hd_status hd_machine_take_line(hd_pickle *p, const uint8_t **line, size_t *n);

/* A new value, and one that goes on the stack at once. */
hd_status hd_machine_new_value(hd_pickle *p, hd_pickle_kind kind, hd_pickle_ref *ref, hd_pickle_value **value);
hd_status hd_machine_push_new(hd_pickle *p, hd_pickle_kind kind, hd_pickle_value **value);
/* On the stack, or on any pile of references. */
hd_status hd_machine_push(hd_pickle *p, hd_pickle_ref ref);
hd_status hd_machine_push_ref(hd_pickle *p, refs *to, hd_pickle_ref ref);
hd_status hd_machine_push_int(hd_pickle *p, int64_t integer);
hd_status hd_machine_push_bytes(hd_pickle *p, hd_pickle_kind kind, const uint8_t *bytes, size_t n);
hd_status hd_machine_push_tuple(hd_pickle *p, const hd_pickle_ref *items, size_t n);

/* Off the stack, whose floor is the last mark. What pop_mark gives stays readable until the next push. */
size_t hd_machine_floor(const hd_pickle *p);
hd_status hd_machine_pop(hd_pickle *p, hd_pickle_ref *ref);
hd_status hd_machine_top(hd_pickle *p, hd_pickle_value **value);
hd_status hd_machine_pop_mark(hd_pickle *p, const hd_pickle_ref **items, size_t *n);

/* To a list or a dictionary. */
hd_status hd_machine_append(hd_pickle *p, hd_pickle_value *to, const hd_pickle_ref *items, size_t n);

#endif
