/* format/llama2c.c: the checkpoints of llama2.c (karpathy/llama2.c, export.py), a Llama's weights behind seven
 * numbers. All little-endian, floats of 32 bits:
 *
 *   version 0   7 × int32, then the weights                       there is no magic: the numbers have to make exactly the file's size
 *   version 1   "24ka", int32 1, 7 × int32, a byte, zeros to byte 256, then the weights
 *   version 2   the same with an int32 behind the byte, g: of each matrix its int8 codes, then a float32 for every g of them;
 *               value = scale · code
 *
 * The numbers are dim, hidden_dim, layers, heads, kv heads, vocabulary and context. Whether the head is the embedding the byte says, or
 * in version 0 the vocabulary's sign: below 0 it is not. Weights have no names: their order is below, each layer's of one kind behind
 * the other. Rotary positions turn neighbouring rows, as in GGUF, and the file says no more of its model than a GGUF does; so its
 * directory has GGUF's names and metadata. */
#include "format/format.h"

#include "base/dtype.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* More than any model has. They keep products of three sizes, four bytes each, inside 64 bits. */
enum { MOST_WIDTH = 1 << 20, MOST_LAYERS = 4096, MOST_TOKENS = 1 << 24 };
enum { N_NUMBERS = 7, HEADER_0 = 4 * N_NUMBERS, HEADER_1 = 256, SHARED_AT = 36, GROUP_AT = 37 };

typedef enum size_of { ONE, DIM, KV, HIDDEN, VOCABULARY, CONTEXT, HALF, N_SIZES } size_of;

typedef struct model {
  int version;
  uint64_t sizes[N_SIZES], n_layers, heads, kv_heads, group; /* group 0: floats */
  bool own_head;
} model;

/* rows ONE: a vector. */
typedef struct row {
  const char *name; /* NULL: a table that we compute ourselves */
  bool in_layers;
  size_of rows, cols;
} row;

static const row version_0[] = {
    {"token_embd", false, VOCABULARY, DIM}, {"attn_norm", true, ONE, DIM},      {"attn_q", true, DIM, DIM},
    {"attn_k", true, KV, DIM},              {"attn_v", true, KV, DIM},          {"attn_output", true, DIM, DIM},
    {"ffn_norm", true, ONE, DIM},           {"ffn_gate", true, HIDDEN, DIM},    {"ffn_down", true, DIM, HIDDEN},
    {"ffn_up", true, HIDDEN, DIM},          {"output_norm", false, ONE, DIM},   {NULL, false, CONTEXT, HALF},
    {NULL, false, CONTEXT, HALF},           {"output", false, VOCABULARY, DIM},
};
static const row version_1[] = {
    {"attn_norm", true, ONE, DIM},          {"ffn_norm", true, ONE, DIM},     {"output_norm", false, ONE, DIM},
    {"token_embd", false, VOCABULARY, DIM}, {"attn_q", true, DIM, DIM},       {"attn_k", true, KV, DIM},
    {"attn_v", true, KV, DIM},              {"attn_output", true, DIM, DIM},  {"ffn_gate", true, HIDDEN, DIM},
    {"ffn_down", true, DIM, HIDDEN},        {"ffn_up", true, HIDDEN, DIM},    {"output", false, VOCABULARY, DIM},
};

static const row *rows_of(const model *m, size_t *n) {
  *n = m->version ? sizeof version_1 / sizeof *version_1 : sizeof version_0 / sizeof *version_0;
  return m->version ? version_1 : version_0;
}

/* A head of its own is the last row. */
static size_t n_rows(const model *m) {
  size_t n;
  rows_of(m, &n);
  return m->own_head ? n : n - 1;
}

/* ---- The header ---- */

static int32_t number_at(const uint8_t *bytes, size_t at) {
  const uint8_t *b = bytes + at;
  return (int32_t)((uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24);
}

static bool within(int32_t number, int32_t most) { return number > 0 && number <= most; }

/* False where the numbers are no Llama's. */
static bool read_numbers(model *m, const uint8_t *at) {
  int32_t n[N_NUMBERS];
  for (size_t i = 0; i < N_NUMBERS; i++) n[i] = number_at(at, 4 * i);
  if (m->version == 0 && n[5] < 0 && n[5] >= -MOST_TOKENS) {
    m->own_head = true;
    n[5] = -n[5];
  }
  bool sized = within(n[0], MOST_WIDTH) && within(n[1], MOST_WIDTH) && within(n[2], MOST_LAYERS) && within(n[3], n[0]) && within(n[4], n[3])
               && within(n[5], MOST_TOKENS) && within(n[6], MOST_TOKENS);
  if (!sized || n[0] % (2 * n[3]) != 0 || n[3] % n[4] != 0) return false;
  const uint64_t dim = (uint64_t)n[0], head = dim / (uint64_t)n[3];
  const uint64_t sizes[N_SIZES] = {1, dim, head * (uint64_t)n[4], (uint64_t)n[1], (uint64_t)n[5], (uint64_t)n[6], head / 2};
  memcpy(m->sizes, sizes, sizeof sizes);
  m->n_layers = (uint64_t)n[2];
  m->heads = (uint64_t)n[3];
  m->kv_heads = (uint64_t)n[4];
  return true;
}

static bool has_codes(const model *m, const row *r) { return m->group && r->rows != ONE; }

static uint64_t bytes_of(const model *m, const row *r) {
  uint64_t n = m->sizes[r->rows] * m->sizes[r->cols];
  return has_codes(m, r) ? n + n / m->group * sizeof(float) : n * sizeof(float);
}

static uint64_t file_bytes_of(const model *m) {
  size_t n;
  const row *rows = rows_of(m, &n);
  uint64_t bytes = m->version ? HEADER_1 : HEADER_0;
  for (size_t i = 0; i < n_rows(m); i++) bytes += bytes_of(m, &rows[i]) * (rows[i].in_layers ? m->n_layers : 1);
  return bytes;
}

static bool has_magic(const uint8_t *first, size_t n) { return n >= 8 && memcmp(first, "24ka", 4) == 0; }

static bool detect(const uint8_t *first, size_t n, uint64_t file_bytes) {
  model m = {0};
  return has_magic(first, n) || (n >= HEADER_0 && read_numbers(&m, first) && file_bytes_of(&m) == file_bytes);
}

/* Groups that go on from one row into the next are not read. */
static hd_status read_group(model *m, const uint8_t *first, hd_error *err) {
  int32_t group = number_at(first, GROUP_AT);
  if (group > 0 && m->sizes[DIM] % (uint64_t)group == 0 && m->sizes[HIDDEN] % (uint64_t)group == 0) {
    m->group = (uint64_t)group;
    return HD_OK;
  }
  return hd_fail(err, group > 0 ? HD_UNSUPPORTED : HD_BAD_FILE,
                 "llama2.c: byte %d: expected groups that rows of %" PRIu64 " and %" PRIu64 " are made of, found %d",
                 GROUP_AT, m->sizes[DIM], m->sizes[HIDDEN], group);
}

static hd_status refuse_numbers(const uint8_t *at, hd_error *err) {
  return hd_fail(err, HD_BAD_FILE,
                 "llama2.c: byte 8: expected a Llama's sizes, found %d wide, %d hidden, %d layers, %d heads, %d of them for keys, "
                 "%d tokens, %d positions",
                 number_at(at, 0), number_at(at, 4), number_at(at, 8), number_at(at, 12), number_at(at, 16), number_at(at, 20),
                 number_at(at, 24));
}

static hd_status read_header(model *m, const hd_reader *reader, hd_error *err) {
  const uint8_t *first = reader->window;
  *m = (model){.version = has_magic(first, reader->held) ? number_at(first, 4) : 0};
  if (!has_magic(first, reader->held))
    return read_numbers(m, first) ? HD_OK : hd_fail(err, HD_BAD_FILE, "llama2.c: its seven numbers are no Llama's");
  if (m->version != 1 && m->version != 2)
    return hd_fail(err, HD_UNSUPPORTED, "llama2.c: byte 4: expected version 1 or 2, found %d", m->version);
  if (reader->held < HEADER_1)
    return hd_fail(err, HD_BAD_FILE, "llama2.c: expected a header of %d bytes, found a file of %zu", HEADER_1, reader->held);
  if (!read_numbers(m, first + 8)) return refuse_numbers(first + 8, err);
  m->own_head = first[SHARED_AT] == 0;
  return m->version == 2 ? read_group(m, first, err) : HD_OK;
}

/* ---- The directory ---- */

/* One tensor, or codes and their scales. */
static hd_status append(hd_directory *d, const model *m, const row *r, const char *base, uint64_t *at, hd_error *err) {
  char name[80];
  uint64_t rows = m->sizes[r->rows], cols = m->sizes[r->cols];
  bool codes = has_codes(m, r);
  hd_entry e = {.name = name, .dtype = codes ? HD_I8 : HD_F32, .begin = *at, .end = *at + rows * cols * (codes ? 1 : sizeof(float))};
  if (r->rows != ONE) e.shape[e.n_dims++] = (size_t)rows;
  e.shape[e.n_dims++] = (size_t)cols;
  snprintf(name, sizeof name, "%s.weight", base);
  HD_TRY(hd_directory_append(d, &e, err));
  *at += bytes_of(m, r);
  if (!codes) return HD_OK;
  hd_entry scales = {.name = name, .dtype = HD_F32, .n_dims = 2, .shape = {(size_t)rows, (size_t)(cols / m->group)},
                     .begin = e.end, .end = *at};
  snprintf(name, sizeof name, "%s.scales", base);
  return hd_directory_append(d, &scales, err);
}

static hd_status append_row(hd_directory *d, const model *m, const row *r, uint64_t *at, hd_error *err) {
  char name[64];
  for (uint64_t i = 0; r->in_layers && i < m->n_layers; i++) {
    snprintf(name, sizeof name, "blk.%" PRIu64 ".%s", i, r->name);
    HD_TRY(append(d, m, r, name, at, err));
  }
  if (r->in_layers) return HD_OK;
  if (r->name) return append(d, m, r, r->name, at, err);
  *at += bytes_of(m, r);
  return HD_OK;
}

/* What llama2.c's own program takes for granted is said too: a text ends where another begins, at token 1. */
static hd_status append_metadata(hd_directory *d, const model *m, hd_error *err) {
  const struct { const char *key; uint64_t value; } numbers[] = {
      {"llama.embedding_length", m->sizes[DIM]},       {"llama.feed_forward_length", m->sizes[HIDDEN]},
      {"llama.block_count", m->n_layers},              {"llama.attention.head_count", m->heads},
      {"llama.attention.head_count_kv", m->kv_heads},  {"llama.context_length", m->sizes[CONTEXT]},
      {"tokenizer.ggml.bos_token_id", 1},              {"tokenizer.ggml.eos_token_id", 2},
      {"tokenizer.ggml.eot_token_id", 1},
  };
  char room[24];
  HD_TRY(hd_directory_append_json(d, "general.architecture", "\"llama\"", err));
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
    snprintf(room, sizeof room, "%" PRIu64, numbers[i].value);
    HD_TRY(hd_directory_append_json(d, numbers[i].key, room, err));
  }
  HD_TRY(hd_directory_append_json(d, "llama.rope.freq_base", "10000.0", err));
  return hd_directory_append_json(d, "llama.attention.layer_norm_rms_epsilon", "1e-05", err);
}

static hd_status step(hd_reader *reader, hd_error *err) {
  model m;
  size_t n;
  HD_TRY(read_header(&m, reader, err));
  const row *rows = rows_of(&m, &n);
  uint64_t at = m.version ? HEADER_1 : HEADER_0, all = file_bytes_of(&m);
  if (all != reader->file_bytes)
    return hd_fail(err, HD_BAD_FILE, "llama2.c: expected %" PRIu64 " bytes by the sizes in its header, found %" PRIu64,
                   all, reader->file_bytes);
  HD_TRY(append_metadata(reader->directory, &m, err));
  for (size_t i = 0; i < n_rows(&m); i++) HD_TRY(append_row(reader->directory, &m, &rows[i], &at, err));
  HD_TRY(hd_directory_seal(reader->directory, err));
  reader->done = true;
  return HD_OK;
}

const hd_format hd_format_llama2c = {"llama2.c", detect, step, NULL};
