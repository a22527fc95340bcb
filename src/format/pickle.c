/* format/pickle.c: the pickle machine. A pickle is a program for a stack machine that builds Python objects:
 *
 *   one byte of opcode, then its argument: nothing, 1, 2, 4 or 8 bytes (little-endian), a line of text, or a counted string
 *   the stack holds values; '(' remembers its height, and a collecting opcode takes what lies above the last mark
 *   the memo holds values by number, so that a value may occur twice
 *
 * Python's machine can import any global and call it. This one has a list of globals that may be named and calls none:
 * REDUCE makes a value that says what would have been called. What is not in the table of opcodes (pickle_opcodes.c), or
 * not on the list, is refused with its byte.
 *
 * Memory is bounded by the pickle's own length: values are 16 bytes and at most a third as many as bytes, numbers of values are 4 bytes. */
#include "format/pickle_machine.h"

#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Failing ---- */

static hd_status no_memory(hd_pickle *p) { return hd_fail(p->err, HD_OUT_OF_MEMORY, "no memory for a pickle"); }

static hd_status fail_at(hd_pickle *p, size_t at, const char *problem) {
  return hd_fail(p->err, HD_BAD_FILE, "pickle: byte %" PRIu64 ": %s", p->place + at, problem);
}

hd_status hd_machine_fail(hd_pickle *p, const char *problem) { return fail_at(p, p->opcode_at, problem); }

/* ---- Arguments ---- */

hd_status hd_machine_need(hd_pickle *p, uint64_t n) {
  if (n <= p->n - p->at) return HD_OK;
  p->short_of_bytes = true;
  return fail_at(p, p->at, "expected the rest of a pickle, found the end");
}

hd_status hd_machine_take(hd_pickle *p, uint64_t n, const uint8_t **bytes) {
  HD_TRY(hd_machine_need(p, n));
  *bytes = p->bytes + p->at;
  p->at += (size_t)n;
  return HD_OK;
}

hd_status hd_machine_take_number(hd_pickle *p, int n_bytes, uint64_t *number) {
  const uint8_t *bytes;
  HD_TRY(hd_machine_take(p, (uint64_t)n_bytes, &bytes));
  *number = 0;
  for (int i = n_bytes - 1; i >= 0; i--) *number = *number << 8 | bytes[i];
  return HD_OK;
}

/* A line without its end. */
hd_status hd_machine_take_line(hd_pickle *p, const uint8_t **line, size_t *n) {
  size_t left = p->n - p->at, longest = left < MAX_LINE ? left : MAX_LINE;
  const uint8_t *start = p->bytes + p->at, *end = longest ? memchr(start, '\n', longest) : NULL;
  if (!end && longest == MAX_LINE) return hd_machine_fail(p, "expected a line of at most 4096 bytes, found a longer one");
  if (!end) return hd_machine_need(p, (uint64_t)left + 1);
  *line = start;
  *n = (size_t)(end - start);
  if (*n > 0 && start[*n - 1] == '\r') --*n;
  p->at += (size_t)(end - start) + 1;
  return HD_OK;
}

/* ---- Values ---- */

hd_pickle_value *hd_pickle_value_of(const hd_pickle *p, hd_pickle_ref ref) { return &p->blocks[ref / BLOCK_VALUES][ref % BLOCK_VALUES]; }

static hd_status new_block(hd_pickle *p) {
  size_t n_blocks = p->n_values / BLOCK_VALUES;
  hd_pickle_value **blocks = hd_realloc(p->blocks, (n_blocks + 1) * sizeof *blocks);
  if (!blocks) return no_memory(p);
  p->blocks = blocks;
  size_t left = p->max_values - p->n_values;
  blocks[n_blocks] = hd_alloc_zero((left < BLOCK_VALUES ? left : BLOCK_VALUES) * sizeof **blocks);
  return blocks[n_blocks] ? HD_OK : no_memory(p);
}

hd_status hd_machine_new_value(hd_pickle *p, hd_pickle_kind kind, hd_pickle_ref *ref, hd_pickle_value **value) {
  if (p->n_values == p->max_values) return hd_machine_fail(p, "expected fewer values for a pickle of this length");
  if (p->n_values % BLOCK_VALUES == 0) HD_TRY(new_block(p));
  *ref = (hd_pickle_ref)p->n_values++;
  *value = hd_pickle_value_of(p, *ref);
  (*value)->kind = (uint8_t)kind;
  return HD_OK;
}

hd_status hd_machine_push_ref(hd_pickle *p, refs *to, hd_pickle_ref ref) {
  if (to->n == to->room) {
    size_t room = to->room ? to->room * 2 : 64;
    hd_pickle_ref *items = hd_realloc(to->items, room * sizeof *items);
    if (!items) return no_memory(p);
    to->items = items;
    to->room = room;
  }
  to->items[to->n++] = ref;
  return HD_OK;
}

hd_status hd_machine_push(hd_pickle *p, hd_pickle_ref ref) { return hd_machine_push_ref(p, &p->stack, ref); }

/* A new value on the stack. */
hd_status hd_machine_push_new(hd_pickle *p, hd_pickle_kind kind, hd_pickle_value **value) {
  hd_pickle_ref ref;
  HD_TRY(hd_machine_new_value(p, kind, &ref, value));
  return hd_machine_push(p, ref);
}

hd_status hd_machine_push_int(hd_pickle *p, int64_t integer) {
  hd_pickle_value *value;
  if (integer >= 0 && integer < SMALL_INTS) return hd_machine_push(p, (hd_pickle_ref)integer);
  HD_TRY(hd_machine_push_new(p, HD_PICKLE_INT, &value));
  value->as.integer = integer;
  return HD_OK;
}

hd_status hd_machine_push_bytes(hd_pickle *p, hd_pickle_kind kind, const uint8_t *bytes, size_t n) {
  hd_pickle_value *value;
  if (n > UINT32_MAX) return hd_machine_fail(p, "expected a string below 4 GB");
  HD_TRY(hd_machine_push_new(p, kind, &value));
  value->n = (uint32_t)n;
  value->as.bytes = bytes;
  return HD_OK;
}

size_t hd_machine_floor(const hd_pickle *p) { return p->marks.n ? p->marks.items[p->marks.n - 1] : 0; }

hd_status hd_machine_pop(hd_pickle *p, hd_pickle_ref *ref) {
  if (p->stack.n <= hd_machine_floor(p)) return hd_machine_fail(p, "expected a value on the stack, found none");
  *ref = p->stack.items[--p->stack.n];
  return HD_OK;
}

hd_status hd_machine_top(hd_pickle *p, hd_pickle_value **value) {
  if (p->stack.n <= hd_machine_floor(p)) return hd_machine_fail(p, "expected a value on the stack, found none");
  *value = hd_pickle_value_of(p, p->stack.items[p->stack.n - 1]);
  return HD_OK;
}

/* What lies above the last mark, which is taken away. It stays readable until the next push. */
hd_status hd_machine_pop_mark(hd_pickle *p, const hd_pickle_ref **items, size_t *n) {
  if (p->marks.n == 0) return hd_machine_fail(p, "expected a mark, found none");
  size_t floor = p->marks.items[--p->marks.n];
  *items = p->stack.items ? p->stack.items + floor : NULL; /* nothing was ever pushed */
  *n = p->stack.n - floor;
  p->stack.n = floor;
  return HD_OK;
}

/* ---- Collections ---- */

static bool is_small(const hd_pickle_value *value) {
  return value->n <= 2 && (value->kind == HD_PICKLE_TUPLE || value->kind == HD_PICKLE_RESULT || value->kind == HD_PICKLE_PERSISTENT);
}

const hd_pickle_ref *hd_pickle_items(const hd_pickle_value *value) { return is_small(value) ? value->as.few : value->as.items; }

/* Room of a growing collection with n items: a power of two, so that no field is needed for it. */
static size_t room_of(size_t n) {
  size_t room = n ? 4 : 0;
  while (room < n) room *= 2;
  return room;
}

hd_status hd_machine_append(hd_pickle *p, hd_pickle_value *to, const hd_pickle_ref *items, size_t n) {
  size_t all = to->n + n; /* at most the pickle's length */
  if (room_of(all) > room_of(to->n)) {
    hd_pickle_ref *larger = hd_arena_alloc(&p->arena, room_of(all) * sizeof *larger);
    if (!larger) return no_memory(p);
    if (to->n > 0) memcpy(larger, to->as.items, to->n * sizeof *larger);
    to->as.items = larger;
  }
  if (n > 0) memcpy(to->as.items + to->n, items, n * sizeof *items);
  to->n = (uint32_t)all;
  return HD_OK;
}

hd_status hd_machine_push_tuple(hd_pickle *p, const hd_pickle_ref *items, size_t n) {
  hd_pickle_ref few[3] = {0}, ref, *kept = NULL;
  hd_pickle_value *value;
  if (n == 0) return hd_machine_push(p, EMPTY_TUPLE_REF);
  if (n > 2 && !(kept = hd_arena_alloc(&p->arena, n * sizeof *kept))) return no_memory(p);
  memcpy(n > 2 ? kept : few, items, n * sizeof *items);
  HD_TRY(hd_machine_new_value(p, HD_PICKLE_TUPLE, &ref, &value));
  value->n = (uint32_t)n;
  if (n > 2) value->as.items = kept;
  else memcpy(value->as.few, few, sizeof value->as.few);
  return hd_machine_push(p, ref);
}

/* ---- Running ---- */

static hd_status run_opcode(hd_pickle *p) {
  uint64_t opcode;
  char problem[64];
  p->opcode_at = p->at;
  HD_TRY(hd_machine_take_number(p, 1, &opcode));
  if (hd_machine_opcodes[opcode]) return hd_machine_opcodes[opcode](p);
  snprintf(problem, sizeof problem, "expected an opcode that data needs, found 0x%02x", (unsigned)opcode);
  return hd_machine_fail(p, problem);
}

/* The values that every pickle shares: numbers below 256, None, False, True, (). */
static hd_status share_values(hd_pickle *p) {
  static const uint8_t kinds[N_SHARED - SMALL_INTS] = {HD_PICKLE_NONE, HD_PICKLE_BOOL, HD_PICKLE_BOOL, HD_PICKLE_TUPLE};
  hd_pickle_ref ref;
  hd_pickle_value *value;
  for (int i = 0; i < N_SHARED; i++) {
    HD_TRY(hd_machine_new_value(p, i < SMALL_INTS ? HD_PICKLE_INT : (hd_pickle_kind)kinds[i - SMALL_INTS], &ref, &value));
    if (i < SMALL_INTS) value->as.integer = i;
    if (i == TRUE_REF) value->as.integer = 1;
  }
  return HD_OK;
}

static hd_status run(hd_pickle *p) {
  HD_TRY(share_values(p));
  while (!p->stopped) HD_TRY(run_opcode(p));
  return HD_OK;
}

/* What only running takes. */
static void free_machine(hd_pickle *p) {
  hd_free(p->stack.items);
  hd_free(p->marks.items);
  hd_free(p->memo.items);
  p->stack = p->marks = p->memo = (refs){0};
}

hd_status hd_pickle_read(hd_pickle **out, const uint8_t *bytes, size_t n, uint64_t place, const hd_pickle_global *globals, size_t n_globals,
                         bool *short_of_bytes, hd_error *err) {
  *out = NULL;
  *short_of_bytes = false;
  if (n > HD_PICKLE_MAX_BYTES) return hd_fail(err, HD_UNSUPPORTED, "pickle: expected at most %d bytes, found %zu", HD_PICKLE_MAX_BYTES, n);
  hd_pickle *p = hd_alloc_zero(sizeof *p);
  if (!p) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a pickle");
  *p = (hd_pickle){.bytes = bytes, .n = n, .place = place, .globals = globals, .n_globals = n_globals,
                   .max_values = n / 3 + SPARE_VALUES, .err = err};
  hd_status status = run(p);
  *short_of_bytes = p->short_of_bytes;
  p->err = NULL;
  free_machine(p);
  if (status == HD_OK) *out = p;
  else hd_pickle_free(p);
  return status;
}

void hd_pickle_free(hd_pickle *p) {
  if (!p) return;
  for (size_t i = 0; i * BLOCK_VALUES < p->n_values; i++) hd_free(p->blocks[i]);
  hd_free(p->blocks);
  hd_arena_free(&p->arena);
  hd_free(p);
}

hd_pickle_ref hd_pickle_root(const hd_pickle *p) { return p->root; }
size_t hd_pickle_count(const hd_pickle *p) { return p->n_values; }
size_t hd_pickle_bytes(const hd_pickle *p) { return p->at; }
