/* format/pickle_opcodes.c: what each opcode of a pickle does, and the table of those that are allowed. Protocols
 * 0 to 5 as Python's pickletools describes them. */
#include "format/pickle_machine.h"

#include "base/decimal.h"
#include "base/status.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Opcodes: stack and memo ---- */

static hd_status op_mark(hd_pickle *p) { return hd_machine_push_ref(p, &p->marks, (hd_pickle_ref)p->stack.n); }

static hd_status op_pop(hd_pickle *p) {
  hd_pickle_ref ref;
  if (p->marks.n && p->stack.n == hd_machine_floor(p)) { /* as Python's: it may take a mark away */
    p->marks.n--;
    return HD_OK;
  }
  return hd_machine_pop(p, &ref);
}

static hd_status op_pop_mark(hd_pickle *p) {
  const hd_pickle_ref *items;
  size_t n;
  return hd_machine_pop_mark(p, &items, &n);
}

static hd_status op_dup(hd_pickle *p) {
  hd_pickle_value *value;
  HD_TRY(hd_machine_top(p, &value));
  return hd_machine_push(p, p->stack.items[p->stack.n - 1]);
}

static hd_status op_stop(hd_pickle *p) {
  p->stopped = true;
  if (p->marks.n || p->stack.n != 1) return hd_machine_fail(p, "expected one value at the pickle's end, found another number of them");
  return hd_machine_pop(p, &p->root);
}

static hd_status op_proto(hd_pickle *p) {
  uint64_t protocol;
  HD_TRY(hd_machine_take_number(p, 1, &protocol));
  return protocol <= LAST_PROTOCOL ? HD_OK : hd_machine_fail(p, "expected a pickle protocol up to 5");
}

static hd_status op_frame(hd_pickle *p) {
  uint64_t bytes;
  HD_TRY(hd_machine_take_number(p, 8, &bytes));
  return hd_machine_need(p, bytes);
}

static hd_status memoize(hd_pickle *p, uint64_t index) {
  hd_pickle_value *value;
  HD_TRY(hd_machine_top(p, &value));
  if (index > p->n) return hd_machine_fail(p, "expected a memo number below the pickle's length");
  while (p->memo.n <= index) HD_TRY(hd_machine_push_ref(p, &p->memo, NOWHERE));
  p->memo.items[index] = p->stack.items[p->stack.n - 1];
  return HD_OK;
}

static hd_status recall(hd_pickle *p, uint64_t index) {
  if (index >= p->memo.n || p->memo.items[index] == NOWHERE)
    return hd_machine_fail(p, "expected a memo number that was set, found another");
  return hd_machine_push(p, p->memo.items[index]);
}

static hd_status parse_int(hd_pickle *p, const uint8_t *line, size_t n, bool *fits, int64_t *integer);

static hd_status take_line_number(hd_pickle *p, uint64_t *number) {
  const uint8_t *line;
  size_t n;
  int64_t integer;
  bool fits;
  HD_TRY(hd_machine_take_line(p, &line, &n));
  HD_TRY(parse_int(p, line, n, &fits, &integer));
  if (!fits || integer < 0) return hd_machine_fail(p, "expected a memo number");
  *number = (uint64_t)integer;
  return HD_OK;
}

static hd_status op_memoize(hd_pickle *p) { return memoize(p, p->memo.n); }

#define MEMO_OPCODE(name, takes, does) \
  static hd_status name(hd_pickle *p) { \
    uint64_t index;                     \
    HD_TRY(takes);                      \
    return does(p, index);              \
  }
MEMO_OPCODE(op_put, take_line_number(p, &index), memoize)
MEMO_OPCODE(op_binput, hd_machine_take_number(p, 1, &index), memoize)
MEMO_OPCODE(op_long_binput, hd_machine_take_number(p, 4, &index), memoize)
MEMO_OPCODE(op_get, take_line_number(p, &index), recall)
MEMO_OPCODE(op_binget, hd_machine_take_number(p, 1, &index), recall)
MEMO_OPCODE(op_long_binget, hd_machine_take_number(p, 4, &index), recall)

/* ---- Opcodes: plain values ---- */

static hd_status op_none(hd_pickle *p) { return hd_machine_push(p, NONE_REF); }
static hd_status op_true(hd_pickle *p) { return hd_machine_push(p, TRUE_REF); }
static hd_status op_false(hd_pickle *p) { return hd_machine_push(p, FALSE_REF); }

static hd_status op_binint(hd_pickle *p) {
  uint64_t number;
  HD_TRY(hd_machine_take_number(p, 4, &number));
  return hd_machine_push_int(p, (int32_t)(uint32_t)number);
}

static hd_status op_binint1(hd_pickle *p) {
  uint64_t number;
  HD_TRY(hd_machine_take_number(p, 1, &number));
  return hd_machine_push_int(p, (int64_t)number);
}

static hd_status op_binint2(hd_pickle *p) {
  uint64_t number;
  HD_TRY(hd_machine_take_number(p, 2, &number));
  return hd_machine_push_int(p, (int64_t)number);
}

/* Decimal digits with a sign and, in LONG, an L at the end. */
static hd_status parse_int(hd_pickle *p, const uint8_t *line, size_t n, bool *fits, int64_t *integer) {
  char text[24] = "";
  size_t digits = n > 0 && line[0] == '-' ? 1 : 0;
  for (size_t i = digits; i < n; i++)
    if (line[i] < '0' || line[i] > '9') return hd_machine_fail(p, "expected a whole number");
  if (n == digits) return hd_machine_fail(p, "expected a whole number, found none");
  *fits = n < sizeof text;
  if (!*fits) return line[digits] == '0' ? hd_machine_fail(p, "expected a whole number without leading zeros") : HD_OK;
  memcpy(text, line, n);
  errno = 0;
  *integer = strtoll(text, NULL, 10);
  *fits = errno == 0;
  return HD_OK;
}

static hd_status push_text_int(hd_pickle *p, const uint8_t *line, size_t n) {
  bool fits;
  int64_t integer = 0;
  HD_TRY(parse_int(p, line, n, &fits, &integer));
  return fits ? hd_machine_push_int(p, integer) : hd_machine_push_bytes(p, HD_PICKLE_BIG, line, n);
}

static hd_status op_int(hd_pickle *p) {
  const uint8_t *line;
  size_t n;
  HD_TRY(hd_machine_take_line(p, &line, &n));
  if (n == 2 && line[0] == '0' && line[1] <= '1')
    return hd_machine_push(p, line[1] == '1' ? TRUE_REF : FALSE_REF); /* how protocol 0 writes them */
  return push_text_int(p, line, n);
}

static hd_status op_long(hd_pickle *p) {
  const uint8_t *line;
  size_t n;
  HD_TRY(hd_machine_take_line(p, &line, &n));
  return push_text_int(p, line, n > 0 && line[n - 1] == 'L' ? n - 1 : n);
}

/* Two's complement of any length, least byte first. */
static hd_status push_long(hd_pickle *p, uint64_t n) {
  const uint8_t *bytes;
  HD_TRY(hd_machine_take(p, n, &bytes));
  if (n > 8) {
    HD_TRY(hd_machine_push_bytes(p, HD_PICKLE_BIG, bytes, (size_t)n));
    hd_pickle_value_of(p, p->stack.items[p->stack.n - 1])->binary = 1;
    return HD_OK;
  }
  uint64_t number = n > 0 && bytes[n - 1] & 0x80 ? UINT64_MAX : 0;
  for (size_t i = (size_t)n; i-- > 0;) number = number << 8 | bytes[i];
  return hd_machine_push_int(p, (int64_t)number);
}

static hd_status op_long1(hd_pickle *p) {
  uint64_t n;
  HD_TRY(hd_machine_take_number(p, 1, &n));
  return push_long(p, n);
}

static hd_status op_long4(hd_pickle *p) {
  uint64_t n;
  HD_TRY(hd_machine_take_number(p, 4, &n));
  return push_long(p, n);
}

static hd_status push_real(hd_pickle *p, double real) {
  hd_pickle_value *value;
  HD_TRY(hd_machine_push_new(p, HD_PICKLE_REAL, &value));
  value->as.real = real;
  return HD_OK;
}

/* The one big-endian number of the format. */
static hd_status op_binfloat(hd_pickle *p) {
  const uint8_t *bytes;
  uint64_t bits = 0;
  double real;
  HD_TRY(hd_machine_take(p, 8, &bytes));
  for (int i = 0; i < 8; i++) bits = bits << 8 | bytes[i];
  memcpy(&real, &bits, sizeof real);
  return push_real(p, real);
}

/* As Python's repr writes it. */
static bool read_real(const char *text, size_t n, double *real) {
  static const struct {
    const char *name;
    double real;
  } named[] = {{"inf", INFINITY}, {"-inf", -INFINITY}, {"nan", NAN}};
  size_t n_read;
  *real = hd_decimal_read(text, n, &n_read, hd_binary_f64);
  for (size_t i = 0; n_read == 0 && i < sizeof named / sizeof named[0]; i++) {
    if (n != strlen(named[i].name) || memcmp(text, named[i].name, n) != 0) continue;
    *real = named[i].real;
    return true;
  }
  return n_read > 0 && n_read == n;
}

static hd_status op_float(hd_pickle *p) {
  const uint8_t *line;
  size_t n;
  double real;
  HD_TRY(hd_machine_take_line(p, &line, &n));
  return read_real((const char *)line, n, &real) ? push_real(p, real) : hd_machine_fail(p, "expected a number");
}

/* ---- Opcodes: strings ---- */

static hd_status push_counted(hd_pickle *p, int count_bytes, hd_pickle_kind kind) {
  uint64_t n;
  const uint8_t *bytes;
  HD_TRY(hd_machine_take_number(p, count_bytes, &n));
  HD_TRY(hd_machine_take(p, n, &bytes));
  return hd_machine_push_bytes(p, kind, bytes, (size_t)n);
}

#define STRING_OPCODE(name, count_bytes, kind) \
  static hd_status name(hd_pickle *p) { return push_counted(p, count_bytes, kind); }
STRING_OPCODE(op_short_text, 1, HD_PICKLE_TEXT)
STRING_OPCODE(op_text, 4, HD_PICKLE_TEXT)
STRING_OPCODE(op_long_text, 8, HD_PICKLE_TEXT)
STRING_OPCODE(op_short_bytes, 1, HD_PICKLE_BYTES)
STRING_OPCODE(op_bytes, 4, HD_PICKLE_BYTES)
STRING_OPCODE(op_long_bytes, 8, HD_PICKLE_BYTES)

/* Protocol 0's strings are lines; their escapes are left as they are, and the quotes of the older kind are taken off. */
static hd_status op_unicode(hd_pickle *p) {
  const uint8_t *line;
  size_t n;
  HD_TRY(hd_machine_take_line(p, &line, &n));
  return hd_machine_push_bytes(p, HD_PICKLE_TEXT, line, n);
}

static hd_status op_string(hd_pickle *p) {
  const uint8_t *line;
  size_t n;
  HD_TRY(hd_machine_take_line(p, &line, &n));
  if (n < 2 || line[0] != line[n - 1] || (line[0] != '\'' && line[0] != '"')) return hd_machine_fail(p, "expected a string in quotes");
  return hd_machine_push_bytes(p, HD_PICKLE_TEXT, line + 1, n - 2);
}

/* ---- Opcodes: collections ---- */

static hd_status op_empty_tuple(hd_pickle *p) { return hd_machine_push(p, EMPTY_TUPLE_REF); }

static hd_status push_last(hd_pickle *p, size_t n) {
  if (p->stack.n - hd_machine_floor(p) < n) return hd_machine_fail(p, "expected more values on the stack for a tuple");
  p->stack.n -= n;
  return hd_machine_push_tuple(p, p->stack.items + p->stack.n, n);
}

static hd_status op_tuple1(hd_pickle *p) { return push_last(p, 1); }
static hd_status op_tuple2(hd_pickle *p) { return push_last(p, 2); }
static hd_status op_tuple3(hd_pickle *p) { return push_last(p, 3); }

static hd_status op_tuple(hd_pickle *p) {
  const hd_pickle_ref *items;
  size_t n;
  HD_TRY(hd_machine_pop_mark(p, &items, &n));
  return hd_machine_push_tuple(p, items, n);
}

static hd_status op_empty_list(hd_pickle *p) {
  hd_pickle_value *value;
  return hd_machine_push_new(p, HD_PICKLE_LIST, &value);
}

static hd_status op_empty_dict(hd_pickle *p) {
  hd_pickle_value *value;
  return hd_machine_push_new(p, HD_PICKLE_DICTIONARY, &value);
}

/* LIST and DICT: a collection of what lies above the mark. The items are copied before the push could overwrite them. */
static hd_status push_collected(hd_pickle *p, hd_pickle_kind kind) {
  const hd_pickle_ref *items;
  size_t n;
  hd_pickle_ref ref;
  hd_pickle_value *value;
  HD_TRY(hd_machine_pop_mark(p, &items, &n));
  if (kind == HD_PICKLE_DICTIONARY && n % 2) return hd_machine_fail(p, "expected a value for every key");
  HD_TRY(hd_machine_new_value(p, kind, &ref, &value));
  HD_TRY(hd_machine_append(p, value, items, n));
  return hd_machine_push(p, ref);
}

static hd_status op_list(hd_pickle *p) { return push_collected(p, HD_PICKLE_LIST); }
static hd_status op_dict(hd_pickle *p) { return push_collected(p, HD_PICKLE_DICTIONARY); }

static hd_status append_to(hd_pickle *p, hd_pickle_kind kind, const hd_pickle_ref *items, size_t n) {
  hd_pickle_value *to;
  HD_TRY(hd_machine_top(p, &to));
  if (to->kind != kind)
    return hd_machine_fail(p, kind == HD_PICKLE_LIST ? "expected a list to append to" : "expected a dictionary to set items of");
  if (kind == HD_PICKLE_DICTIONARY && n % 2) return hd_machine_fail(p, "expected a value for every key");
  return hd_machine_append(p, to, items, n);
}

static hd_status op_append(hd_pickle *p) {
  hd_pickle_ref item;
  HD_TRY(hd_machine_pop(p, &item));
  return append_to(p, HD_PICKLE_LIST, &item, 1);
}

static hd_status op_setitem(hd_pickle *p) {
  hd_pickle_ref pair[2];
  HD_TRY(hd_machine_pop(p, &pair[1]));
  HD_TRY(hd_machine_pop(p, &pair[0]));
  return append_to(p, HD_PICKLE_DICTIONARY, pair, 2);
}

static hd_status op_appends(hd_pickle *p) {
  const hd_pickle_ref *items;
  size_t n;
  HD_TRY(hd_machine_pop_mark(p, &items, &n));
  return append_to(p, HD_PICKLE_LIST, items, n);
}

static hd_status op_setitems(hd_pickle *p) {
  const hd_pickle_ref *items;
  size_t n;
  HD_TRY(hd_machine_pop_mark(p, &items, &n));
  return append_to(p, HD_PICKLE_DICTIONARY, items, n);
}

/* ---- Opcodes: globals, objects, persistent ids ---- */

static bool same(const char *text, const uint8_t *bytes, size_t n) { return strlen(text) == n && memcmp(text, bytes, n) == 0; }

static bool allows(const hd_pickle_global *row, const uint8_t *module, size_t n_module, const uint8_t *name, size_t n_name) {
  if (row->name) return same(row->module, module, n_module) && same(row->name, name, n_name);
  size_t n = strlen(row->module);
  return n_module >= n && memcmp(row->module, module, n) == 0 && (n_module == n || module[n] == '.');
}

static hd_status refuse_global(hd_pickle *p, const uint8_t *module, size_t n_module, const uint8_t *name, size_t n_name) {
  char text[256], room[HD_NAME_ROOM];
  snprintf(text, sizeof text, "%.*s.%.*s", (int)(n_module < 120 ? n_module : 120), (const char *)module, (int)(n_name < 120 ? n_name : 120),
           (const char *)name);
  return hd_fail(p->err, HD_BAD_FILE,
                 "pickle: byte %" PRIu64 ": expected tensors and plain data, found the global %s, which is not on the list of what "
                 "a weight file may name; nothing was called",
                 p->place + p->opcode_at, hd_short_name(room, text));
}

static hd_status push_global(hd_pickle *p, const uint8_t *module, size_t n_module, const uint8_t *name, size_t n_name) {
  hd_pickle_value *value;
  for (size_t i = 0; i < p->n_globals; i++) {
    if (!allows(&p->globals[i], module, n_module, name, n_name)) continue;
    HD_TRY(hd_machine_push_new(p, HD_PICKLE_GLOBAL, &value));
    value->global = (uint8_t)i;
    return HD_OK;
  }
  return refuse_global(p, module, n_module, name, n_name);
}

static hd_status op_global(hd_pickle *p) {
  const uint8_t *module, *name;
  size_t n_module, n_name;
  HD_TRY(hd_machine_take_line(p, &module, &n_module));
  HD_TRY(hd_machine_take_line(p, &name, &n_name));
  return push_global(p, module, n_module, name, n_name);
}

static hd_status op_stack_global(hd_pickle *p) {
  hd_pickle_ref module, name;
  HD_TRY(hd_machine_pop(p, &name));
  HD_TRY(hd_machine_pop(p, &module));
  const hd_pickle_value *m = hd_pickle_value_of(p, module), *n = hd_pickle_value_of(p, name);
  if (m->kind != HD_PICKLE_TEXT || n->kind != HD_PICKLE_TEXT) return hd_machine_fail(p, "expected a global's module and name as strings");
  return push_global(p, m->as.bytes, m->n, n->as.bytes, n->n);
}

/* OrderedDict() or OrderedDict([(key, value), …]). */
static hd_status push_pairs(hd_pickle *p, const hd_pickle_value *arguments) {
  hd_pickle_ref ref;
  hd_pickle_value *dict;
  HD_TRY(hd_machine_new_value(p, HD_PICKLE_DICTIONARY, &ref, &dict));
  const hd_pickle_value *list = arguments->n ? hd_pickle_item(p, arguments, 0) : NULL;
  if (list && list->kind != HD_PICKLE_LIST) return hd_machine_fail(p, "expected a list of pairs for a dictionary");
  for (size_t i = 0; list && i < list->n; i++) {
    const hd_pickle_value *pair = hd_pickle_item(p, list, i);
    if ((pair->kind != HD_PICKLE_TUPLE && pair->kind != HD_PICKLE_LIST) || pair->n != 2)
      return hd_machine_fail(p, "expected a list of pairs for a dictionary");
    HD_TRY(hd_machine_append(p, dict, hd_pickle_items(pair), 2));
  }
  return hd_machine_push(p, ref);
}

/* The same items under another kind. */
static hd_status push_as(hd_pickle *p, hd_pickle_kind kind, uint8_t global, hd_pickle_ref tuple) {
  hd_pickle_value *value;
  HD_TRY(hd_machine_push_new(p, kind, &value));
  const hd_pickle_value *from = hd_pickle_value_of(p, tuple);
  value->global = global;
  value->n = from->n;
  value->as = from->as;
  return HD_OK;
}

static hd_status push_called(hd_pickle *p, const hd_pickle_value *global, hd_pickle_ref tuple) {
  const hd_pickle_global *row = &p->globals[global->global];
  const hd_pickle_value *arguments = hd_pickle_value_of(p, tuple);
  hd_pickle_value *object;
  switch (row->effect) {
    case HD_PICKLE_DICT: return push_pairs(p, arguments);
    case HD_PICKLE_FIRST: return arguments->n ? hd_machine_push(p, hd_pickle_items(arguments)[0]) : hd_machine_push(p, EMPTY_TUPLE_REF);
    case HD_PICKLE_CALL: return push_as(p, HD_PICKLE_RESULT, global->global, tuple);
    case HD_PICKLE_CLASS: return hd_machine_push_new(p, HD_PICKLE_OBJECT, &object);
    case HD_PICKLE_NAME: break;
  }
  return hd_machine_fail(p, "expected a global that is only named, found a call of it");
}

static hd_status op_reduce(hd_pickle *p) {
  hd_pickle_ref function, arguments;
  HD_TRY(hd_machine_pop(p, &arguments));
  HD_TRY(hd_machine_pop(p, &function));
  if (hd_pickle_value_of(p, arguments)->kind != HD_PICKLE_TUPLE) return hd_machine_fail(p, "expected a tuple of arguments");
  if (hd_pickle_value_of(p, function)->kind != HD_PICKLE_GLOBAL)
    return hd_machine_fail(p, "expected a call of a global, found one of a value");
  return push_called(p, hd_pickle_value_of(p, function), arguments);
}

/* BUILD gives an object its state. A dictionary's own attributes (a state dict's _metadata) say nothing about tensors. */
static hd_status op_build(hd_pickle *p) {
  hd_pickle_ref state;
  hd_pickle_value *object;
  HD_TRY(hd_machine_pop(p, &state));
  HD_TRY(hd_machine_top(p, &object));
  if (object->kind == HD_PICKLE_DICTIONARY || object->kind == HD_PICKLE_RESULT) return HD_OK;
  const hd_pickle_value *items = hd_pickle_value_of(p, state);
  if (object->kind != HD_PICKLE_OBJECT) return hd_machine_fail(p, "expected an object to give a state to");
  if (items->kind != HD_PICKLE_DICTIONARY) return hd_machine_fail(p, "expected a dictionary for an object's state");
  return hd_machine_append(p, object, items->as.items, items->n);
}

static hd_status op_persistent(hd_pickle *p) {
  hd_pickle_ref id;
  HD_TRY(hd_machine_pop(p, &id));
  if (hd_pickle_value_of(p, id)->kind != HD_PICKLE_TUPLE) return hd_machine_fail(p, "expected a persistent id that is a tuple");
  return push_as(p, HD_PICKLE_PERSISTENT, 0, id);
}

/* ---- The table ---- */

/* All that a data-only pickle of protocols 0 to 5 needs. Not here: INST, OBJ, NEWOBJ_EX (other ways to call), EXT1 to EXT4 (a registry of
 * globals), PERSID, and the out-of-band buffers of protocol 5. */
hd_status (*const hd_machine_opcodes[256])(hd_pickle *p) = {
    ['('] = op_mark,        ['.'] = op_stop,         ['0'] = op_pop,          ['1'] = op_pop_mark,      ['2'] = op_dup,
    ['F'] = op_float,       ['I'] = op_int,          ['J'] = op_binint,       ['K'] = op_binint1,       ['L'] = op_long,
    ['M'] = op_binint2,     ['N'] = op_none,         ['Q'] = op_persistent,   ['R'] = op_reduce,        ['S'] = op_string,
    ['T'] = op_text,        ['U'] = op_short_text,   ['V'] = op_unicode,      ['X'] = op_text,          ['a'] = op_append,
    ['b'] = op_build,       ['c'] = op_global,       ['d'] = op_dict,         ['}'] = op_empty_dict,    ['e'] = op_appends,
    ['g'] = op_get,         ['h'] = op_binget,       ['j'] = op_long_binget,  ['l'] = op_list,          [']'] = op_empty_list,
    ['p'] = op_put,         ['q'] = op_binput,       ['r'] = op_long_binput,  ['s'] = op_setitem,       ['t'] = op_tuple,
    [')'] = op_empty_tuple, ['u'] = op_setitems,     ['G'] = op_binfloat,     ['B'] = op_bytes,         ['C'] = op_short_bytes,
    [0x80] = op_proto,      [0x81] = op_reduce,      [0x85] = op_tuple1,      [0x86] = op_tuple2,       [0x87] = op_tuple3,
    [0x88] = op_true,       [0x89] = op_false,       [0x8a] = op_long1,       [0x8b] = op_long4,        [0x8c] = op_short_text,
    [0x8d] = op_long_text,  [0x8e] = op_long_bytes,  [0x8f] = op_empty_list,  [0x90] = op_appends,      [0x91] = op_list,
    [0x93] = op_stack_global, [0x94] = op_memoize,   [0x95] = op_frame,       [0x96] = op_long_bytes};
