/* format/gguf.c: GGUF versions 2 and 3, as ggml's docs/gguf.md describes them. Everything is little-endian; a string is
 * a u64 length and that many bytes of UTF-8.
 *
 *   "GGUF"  u32 version  u64 n_tensors  u64 n_pairs
 *   n_pairs of     string key, u32 value type, value
 *   n_tensors of   string name, u32 n_dims, u64 sizes[n_dims], u32 GGML type, u64 offset
 *   padding, then the data
 *
 *   - Value types: 0 u8, 1 i8, 2 u16, 3 i16, 4 u32, 5 i32, 6 f32, 7 bool, 8 string, 9 array, 10 u64, 11 i64, 12 f64. An array is a u32
 *     type, a u64 count and the values; arrays of arrays are read down to MAX_DEPTH.
 *   - Sizes are innermost first, the reverse of ours. A row (sizes[0]) is a whole number of the type's blocks.
 *   - Offsets count from the start of the data. They, and that start, are multiples of general.alignment, 32 where the file does not say.
 *
 * What the format leaves open: keys and tensor names are unique, and tensors do not overlap; there may be holes between them. A file that
 * ends with its header is listed though its tensors have no data (hd_directory_check_data refuses to read them).
 *
 * The header's length is nowhere: a first pass steps over the items, resuming behind the last whole one each time the window has grown; the
 * second reads them, once, into a directory of just the right size. Values become JSON text: gguf_value.c. */
#include "format/gguf.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"

#include <inttypes.h>
#include <string.h>

enum { MAGIC_BYTES = 4, PREAMBLE_BYTES = 24, VERSION_AT = 4, TENSORS_AT = 8, PAIRS_AT = 16 };
enum { SMALLEST_PAIR = 13, SMALLEST_TENSOR = 24, DEFAULT_ALIGNMENT = 32, FIRST_GROWTH = 16384 };

/* The first pass's place between two items. */
typedef struct progress {
  uint64_t at, n_pairs, n_tensors; /* items there are */
  uint64_t pairs, tensors;         /* items passed */
} progress;

/* GGML's numbers for its types; HD_DTYPE_COUNT: a type we cannot read. */
static const struct { uint32_t number; const char *name; hd_dtype dtype; } types[] = {
    {0, "F32", HD_F32},         {1, "F16", HD_F16},         {2, "Q4_0", HD_Q4_0},     {3, "Q4_1", HD_Q4_1},
    {6, "Q5_0", HD_Q5_0},       {7, "Q5_1", HD_Q5_1},       {8, "Q8_0", HD_Q8_0},     {10, "Q2_K", HD_Q2_K},
    {11, "Q3_K", HD_Q3_K},      {12, "Q4_K", HD_Q4_K},      {13, "Q5_K", HD_Q5_K},    {14, "Q6_K", HD_Q6_K},
    {20, "IQ4_NL", HD_IQ4_NL},  {23, "IQ4_XS", HD_IQ4_XS},  {24, "I8", HD_I8},        {25, "I16", HD_I16},
    {26, "I32", HD_I32},        {27, "I64", HD_I64},        {28, "F64", HD_F64},      {30, "BF16", HD_BF16},
    {39, "MXFP4", HD_MXFP4},
    {4, "Q4_2", HD_DTYPE_COUNT},      {5, "Q4_3", HD_DTYPE_COUNT},      {9, "Q8_1", HD_DTYPE_COUNT},      {15, "Q8_K", HD_DTYPE_COUNT},
    {16, "IQ2_XXS", HD_DTYPE_COUNT},  {17, "IQ2_XS", HD_DTYPE_COUNT},   {18, "IQ3_XXS", HD_DTYPE_COUNT},  {19, "IQ1_S", HD_DTYPE_COUNT},
    {21, "IQ3_S", HD_DTYPE_COUNT},    {22, "IQ2_S", HD_DTYPE_COUNT},    {29, "IQ1_M", HD_DTYPE_COUNT},    {31, "Q4_0_4_4", HD_DTYPE_COUNT},
    {32, "Q4_0_4_8", HD_DTYPE_COUNT}, {33, "Q4_0_8_8", HD_DTYPE_COUNT}, {34, "TQ1_0", HD_DTYPE_COUNT},    {35, "TQ2_0", HD_DTYPE_COUNT},
    {40, "NVFP4", HD_DTYPE_COUNT},    {41, "Q1_0", HD_DTYPE_COUNT},
};
enum { N_TYPES = sizeof types / sizeof *types };

bool hd_gguf_type(hd_dtype dtype, uint32_t *number) {
  for (size_t i = 0; i < N_TYPES; i++) {
    if (types[i].dtype != dtype || dtype == HD_DTYPE_COUNT) continue;
    *number = types[i].number;
    return true;
  }
  return false;
}

/* ---- The preamble ---- */

static bool gguf_detect(const uint8_t *first, size_t n, uint64_t file_bytes) {
  (void)file_bytes;
  return n >= MAGIC_BYTES && memcmp(first, "GGUF", MAGIC_BYTES) == 0;
}

static hd_status check_version(const uint8_t *first, hd_error *err) {
  uint32_t version = hd_u32_at(first + VERSION_AT);
  bool turned = version != 0 && (version & 0xffff) == 0;
  if (turned)
    return hd_fail(err, HD_UNSUPPORTED,
                   "GGUF: byte 4: version %" PRIu32 " the other way around: the file is big-endian, expected a little-endian one",
                   version >> 24 | (version >> 8 & 0xff00));
  if (version < 2 || version > 3) return hd_fail(err, HD_UNSUPPORTED, "GGUF: byte 4: expected version 2 or 3, found %" PRIu32, version);
  return HD_OK;
}

static hd_status check_count(uint64_t count, uint64_t smallest, const char *what, const hd_reader *reader, hd_error *err) {
  uint64_t most = (reader->file_bytes - PREAMBLE_BYTES) / smallest;
  if (count <= most) return HD_OK;
  return hd_fail(err, HD_BAD_FILE, "GGUF: %" PRIu64 " %s do not fit the file's %" PRIu64 " bytes", count, what, reader->file_bytes);
}

/* Makes the first pass's state from the file's first bytes. */
static hd_status begin(hd_reader *reader, hd_error *err) {
  if (reader->file_bytes < PREAMBLE_BYTES)
    return hd_fail(err, HD_BAD_FILE, "GGUF: expected at least %d bytes, found %" PRIu64, PREAMBLE_BYTES, reader->file_bytes);
  if (reader->held < PREAMBLE_BYTES) return hd_reader_want(reader, 0, PREAMBLE_BYTES, err);
  uint64_t n_tensors = hd_u64_at(reader->window + TENSORS_AT), n_pairs = hd_u64_at(reader->window + PAIRS_AT);
  HD_TRY(check_version(reader->window, err));
  HD_TRY(check_count(n_tensors, SMALLEST_TENSOR, "tensors", reader, err));
  HD_TRY(check_count(n_pairs, SMALLEST_PAIR, "metadata pairs", reader, err));
  progress *p = hd_alloc(sizeof *p);
  if (!p) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for reading a GGUF file");
  *p = (progress){.at = PREAMBLE_BYTES, .n_pairs = n_pairs, .n_tensors = n_tensors};
  reader->state = p;
  return HD_OK;
}

/* ---- First pass: where the header ends ---- */

static bool pass_pair(hd_gguf_cursor *c) {
  const char *key;
  uint64_t n;
  uint32_t type;
  return hd_gguf_string(c, &key, &n) && hd_gguf_u32(c, &type) && hd_gguf_pass_value(c, type, 0);
}

static bool pass_tensor(hd_gguf_cursor *c) {
  const char *name;
  uint64_t n;
  uint32_t n_dims, type;
  if (!hd_gguf_string(c, &name, &n) || !hd_gguf_u32(c, &n_dims)) return false;
  if (n_dims > HD_MAX_DIMS) return hd_gguf_fail(c, HD_UNSUPPORTED, "expected at most %d dimensions, found %" PRIu32, HD_MAX_DIMS, n_dims);
  return hd_gguf_pass(c, n_dims * sizeof(uint64_t)) && hd_gguf_u32(c, &type) && hd_gguf_pass(c, sizeof(uint64_t));
}

/* Steps over whole items. False where the window ends or something is wrong; then the place stays before the item. */
static bool pass_items(progress *p, hd_gguf_cursor *c) {
  while (p->pairs < p->n_pairs || p->tensors < p->n_tensors) {
    bool pair = p->pairs < p->n_pairs;
    hd_gguf_item(c, pair ? "metadata pair" : "tensor", pair ? p->pairs : p->tensors);
    if (!(pair ? pass_pair(c) : pass_tensor(c))) return false;
    if (pair) p->pairs++;
    else p->tensors++;
    p->at = c->at;
  }
  return true;
}

/* A window of twice the size, or as large as is known to be needed, within the file. */
static hd_status grow(hd_reader *reader, uint64_t needed, hd_error *err) {
  uint64_t end = reader->end * 2;
  if (end < FIRST_GROWTH) end = FIRST_GROWTH;
  if (end > HD_MAX_WINDOW) end = HD_MAX_WINDOW;
  if (end < needed) end = needed;
  if (end > reader->file_bytes) end = reader->file_bytes;
  return hd_reader_want(reader, 0, reader->memory && end > reader->n_memory && needed <= reader->n_memory ? reader->n_memory : end, err);
}

/* ---- Second pass: the pairs ---- */

/* A key or name fit for our strings: the n bytes as a NUL-terminated copy. */
static char *take_name(hd_gguf_cursor *c, hd_arena *names, const char *what) {
  const char *bytes;
  uint64_t n;
  if (!hd_gguf_string(c, &bytes, &n)) return NULL;
  for (size_t i = 0, step; i < n; i += step) {
    step = hd_utf8_length(bytes + i, (size_t)n - i);
    if (step && bytes[i]) continue;
    hd_gguf_fail(c, HD_BAD_FILE, step ? "expected a %s without NUL characters, found one" : "expected a %s in UTF-8, found byte 0x%02X",
                 what, (unsigned)(uint8_t)bytes[i]);
    return NULL;
  }
  char *copy = hd_arena_alloc(names, (size_t)n + 1);
  if (!copy) hd_gguf_fail(c, HD_OUT_OF_MEMORY, "no memory for its %s", what);
  return copy && n ? memcpy(copy, bytes, (size_t)n) : copy;
}

typedef struct reading {
  hd_reader *reader;
  hd_gguf_cursor c;
  hd_arena names;
  hd_text text; /* of the value that is read */
  uint64_t alignment, header_end;
} reading;

static bool take_alignment(reading *r, uint32_t type) {
  uint64_t value = type == HD_GGUF_U32 ? hd_u32_at(r->c.bytes + r->c.at) : 0;
  if (value == 0 || (value & (value - 1)) != 0)
    return hd_gguf_fail(&r->c, HD_BAD_FILE, "expected a power of two as u32, found %s %" PRIu64, hd_gguf_type_name(type), value);
  r->alignment = value;
  return true;
}

static bool read_pair(reading *r) {
  hd_gguf_cursor *c = &r->c;
  uint32_t type;
  char shown[HD_NAME_ROOM];
  char *key = take_name(c, &r->names, "key");
  if (!key || !hd_gguf_u32(c, &type)) return false;
  c->name = hd_short_name(shown, key);
  if (strcmp(key, "general.alignment") == 0 && !take_alignment(r, type)) return false;
  bool read = hd_gguf_write_value(&r->text, c, type);
  c->name = NULL;
  if (read) c->status = hd_directory_append_json(r->reader->directory, key, r->text.data, c->err);
  return c->status == HD_OK;
}

/* ---- Second pass: the tensors ---- */

/* A tensor as the header writes it, in its own numbers but our order of sizes. */
typedef struct record {
  hd_dtype dtype;
  int n_dims;
  uint64_t shape[HD_MAX_DIMS];
  uint64_t offset;
} record;

static bool take_type(hd_gguf_cursor *c, hd_dtype *dtype) {
  uint32_t number;
  if (!hd_gguf_u32(c, &number)) return false;
  for (size_t i = 0; i < N_TYPES; i++) {
    if (types[i].number != number) continue;
    *dtype = types[i].dtype;
    return *dtype != HD_DTYPE_COUNT || hd_gguf_fail(c, HD_UNSUPPORTED, "its type is %s, which is not read", types[i].name);
  }
  return hd_gguf_fail(c, HD_UNSUPPORTED, "expected a GGML type that we know, found %" PRIu32, number);
}

static bool take_record(hd_gguf_cursor *c, record *t) {
  uint32_t n_dims;
  if (!hd_gguf_u32(c, &n_dims)) return false;
  t->n_dims = (int)n_dims; /* the first pass has seen that it fits */
  for (uint32_t d = n_dims; d-- > 0;)
    if (!hd_gguf_u64(c, &t->shape[d])) return false;
  return take_type(c, &t->dtype) && hd_gguf_u64(c, &t->offset);
}

/* Bytes that the shape needs; every step is checked in 64 bits. */
static bool measure(hd_gguf_cursor *c, const record *t, uint64_t *bytes) {
  const hd_dtype_info *info = hd_dtype_get(t->dtype);
  uint64_t n_values = 1, row = t->n_dims ? t->shape[t->n_dims - 1] : 1;
  if (row % info->block_values != 0)
    return hd_gguf_fail(c, HD_BAD_FILE, "expected rows of a multiple of %zu values for %s, found %" PRIu64,
                        info->block_values, info->name, row);
  for (int d = 0; d < t->n_dims; d++)
    if (!hd_mul_u64(n_values, t->shape[d], &n_values)) return hd_gguf_fail(c, HD_BAD_FILE, "its sizes' product passes 64 bits");
  if (!hd_mul_u64(n_values / info->block_values, info->block_bytes, bytes)) return hd_gguf_fail(c, HD_BAD_FILE, "its bytes pass 64 bits");
  for (int d = 0; d < t->n_dims; d++)
    if (t->shape[d] > SIZE_MAX) return hd_gguf_fail(c, HD_UNSUPPORTED, "it is more than this memory can address");
  return *bytes <= SIZE_MAX || hd_gguf_fail(c, HD_UNSUPPORTED, "it is more than this memory can address");
}

/* Where the data begin. A file that ends with its header, padded or not, has none. */
static uint64_t data_begin(const reading *r) { return (r->header_end + r->alignment - 1) / r->alignment * r->alignment; }

static bool place(reading *r, const record *t, hd_entry *entry) {
  hd_gguf_cursor *c = &r->c;
  uint64_t bytes = 0, begins = data_begin(r), file = r->reader->file_bytes;
  if (!measure(c, t, &bytes)) return false;
  if (t->offset % r->alignment != 0)
    return hd_gguf_fail(c, HD_BAD_FILE, "expected an offset that is a multiple of %" PRIu64 ", found %" PRIu64, r->alignment, t->offset);
  uint64_t n_data = file > begins ? file - begins : 0;
  bool within = t->offset <= n_data && bytes <= n_data - t->offset;
  bool countable = t->offset <= INT64_MAX / 2 && bytes <= INT64_MAX / 2 - begins;
  if (!countable || (!within && n_data > 0))
    return hd_gguf_fail(c, HD_BAD_FILE, "its %" PRIu64 " bytes at %" PRIu64 " of the data do not lie within the %" PRIu64 " there are",
                        bytes, t->offset, n_data);
  entry->begin = begins + t->offset;
  entry->end = entry->begin + bytes;
  return true;
}

static bool read_tensor(reading *r) {
  hd_gguf_cursor *c = &r->c;
  record t = {0};
  char shown[HD_NAME_ROOM];
  char *name = take_name(c, &r->names, "name");
  if (!name) return false;
  c->name = hd_short_name(shown, name);
  hd_entry entry = {.name = name};
  bool read = take_record(c, &t) && place(r, &t, &entry);
  c->name = NULL;
  if (!read) return false;
  entry.dtype = t.dtype;
  entry.n_dims = t.n_dims;
  for (int d = 0; d < t.n_dims; d++) entry.shape[d] = (size_t)t.shape[d];
  c->status = hd_directory_append(r->reader->directory, &entry, c->err);
  return c->status == HD_OK;
}

/* Entries are in the order of their places now. */
static hd_status check_overlap(const hd_directory *directory, hd_error *err) {
  char name[HD_NAME_ROOM], other[HD_NAME_ROOM];
  const hd_entry *before = NULL;
  for (size_t i = 0; i < hd_directory_count(directory); i++) {
    const hd_entry *entry = hd_directory_entry(directory, i);
    if (entry->begin == entry->end) continue;
    if (before && entry->begin < before->end)
      return hd_fail(err, HD_BAD_FILE, "GGUF: tensor \"%s\" begins at byte %" PRIu64 ", inside \"%s\", which ends at %" PRIu64,
                     hd_short_name(name, entry->name), entry->begin, hd_short_name(other, before->name), before->end);
    before = entry;
  }
  return HD_OK;
}

/* ---- The whole ---- */

static hd_status read_items(reading *r, const progress *p) {
  hd_gguf_cursor *c = &r->c;
  HD_TRY(hd_directory_reserve(r->reader->directory, (size_t)p->n_tensors, (size_t)p->n_pairs, c->err));
  for (uint64_t i = 0; i < p->n_pairs; i++) {
    hd_gguf_item(c, "metadata pair", i);
    if (!read_pair(r)) return c->status;
  }
  for (uint64_t i = 0; i < p->n_tensors; i++) {
    hd_gguf_item(c, "tensor", i);
    if (!read_tensor(r)) return c->status;
    hd_arena_free(&r->names);
  }
  return HD_OK;
}

static hd_status read_header(hd_reader *reader, const progress *p, hd_error *err) {
  reading r = {.reader = reader, .c = hd_gguf_open(reader, PREAMBLE_BYTES, err), .alignment = DEFAULT_ALIGNMENT, .header_end = p->at};
  hd_status status = read_items(&r, p);
  hd_arena_free(&r.names);
  hd_free(r.text.data);
  HD_TRY(status);
  HD_TRY(hd_directory_seal(reader->directory, err));
  HD_TRY(check_overlap(reader->directory, err));
  reader->done = true;
  return HD_OK;
}

static hd_status gguf_step(hd_reader *reader, hd_error *err) {
  if (!reader->state) {
    HD_TRY(begin(reader, err));
    if (!reader->state) return HD_OK;
  }
  progress *p = reader->state;
  hd_gguf_cursor c = hd_gguf_open(reader, p->at, err);
  if (pass_items(p, &c)) return read_header(reader, p, err);
  return c.status == HD_OK ? grow(reader, c.needed, err) : c.status;
}

const hd_format hd_format_gguf = {"GGUF", gguf_detect, gguf_step, hd_free};
