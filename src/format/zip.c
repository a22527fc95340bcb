/* format/zip.c: zip archives, as PKWARE's APPNOTE describes them, as far as a reader by ranges needs them.
 *
 *   members   local header (30 bytes, name, extra field), bytes, perhaps a data descriptor (CRC and
 *             sizes, when the writer learned them late)
 *   list      the central directory: a record of 46 bytes, name, extra field and comment for every member
 *   end       zip64 only: a record of 56 bytes and its locator of 20; then the end record of 22 bytes and a comment of at most 65535
 *
 * The list is the truth; a local header says only how long it is itself. A field of all ones means: see the zip64 record or extra field. */
#include "format/zip.h"

#include "base/status.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum {
  LOCAL_BYTES = 30,
  RECORD_BYTES = 46,
  END_BYTES = 22,
  LOCATOR_BYTES = 20,
  END_64_BYTES = 56,
  MAX_COMMENT = 65535,
  TAIL_BYTES = END_BYTES + LOCATOR_BYTES + MAX_COMMENT,
  EXTRA_64 = 1,
  FLAG_ENCRYPTED = 1,
  FLAG_DESCRIPTOR = 8,
  FLAG_PATCHED = 0x20,
  FLAG_STRONG = 0x40,
  FLAG_MASKED = 0x2000,
  TORCH_ALIGNMENT = 64
};

#define LOCAL_SIGNATURE 0x04034b50u
#define RECORD_SIGNATURE 0x02014b50u
#define END_SIGNATURE 0x06054b50u
#define LOCATOR_SIGNATURE 0x07064b50u
#define END_64_SIGNATURE 0x06064b50u

static uint16_t u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }
static uint32_t u32(const uint8_t *at) { return (uint32_t)u16(at) | (uint32_t)u16(at + 2) << 16; }
static uint64_t u64(const uint8_t *at) { return (uint64_t)u32(at) | (uint64_t)u32(at + 4) << 32; }

/* CRC-32 (polynomial 0xedb88320, least bit first), four bits at a time: the table is 16 words. */
uint32_t hd_crc32(uint32_t crc, const void *bytes, size_t n) {
  static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                     0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
  const uint8_t *at = bytes;
  crc = ~crc;
  for (size_t i = 0; i < n; i++) {
    crc ^= at[i];
    crc = crc >> 4 ^ table[crc & 15];
    crc = crc >> 4 ^ table[crc & 15];
  }
  return ~crc;
}

/* ---- The end ---- */

/* The end record in the tail: the last one whose comment ends with the file. */
static const uint8_t *find_end(const uint8_t *tail, size_t n) {
  for (size_t at = n < END_BYTES ? 0 : n - END_BYTES + 1; at-- > 0;)
    if (u32(tail + at) == END_SIGNATURE && at + END_BYTES + u16(tail + at + 20) == n) return tail + at;
  return NULL;
}

/* Where the list is, checked against the file and the record after it. */
static hd_status set_list(hd_zip *zip, uint64_t begin, uint64_t bytes, uint64_t n, uint64_t end_record, hd_error *err) {
  if (bytes > end_record || begin > end_record - bytes)
    return hd_fail(err, HD_BAD_FILE, "zip: expected the list of members before its end at %" PRIu64 ", found %" PRIu64 " bytes at %" PRIu64,
                   end_record, bytes, begin);
  if (n > bytes / RECORD_BYTES)
    return hd_fail(err, HD_BAD_FILE, "zip: expected room for %" PRIu64 " members, found a list of %" PRIu64 " bytes", n, bytes);
  zip->list_begin = begin;
  zip->list_end = begin + bytes;
  zip->n_declared = n;
  return HD_OK;
}

static hd_status refuse_split(hd_error *err) {
  return hd_fail(err, HD_UNSUPPORTED, "zip: expected one file, found a part of a split archive");
}

static hd_status read_tail(hd_zip *zip, const hd_reader *reader, hd_error *err) {
  const uint8_t *end = find_end(reader->window, reader->held);
  if (!end)
    return hd_fail(err, HD_BAD_FILE, "zip: expected an end record in the last %zu bytes, found none: the file is cut off", reader->held);
  uint64_t at = reader->begin + (uint64_t)(end - reader->window);
  zip->tail_seen = true;
  const uint8_t *locator = at - reader->begin >= LOCATOR_BYTES ? end - LOCATOR_BYTES : NULL;
  if (locator && u32(locator) == LOCATOR_SIGNATURE) {
    zip->is_64 = true;
    zip->end_64 = u64(locator + 8);
    if (u32(locator + 16) > 1) return refuse_split(err);
    if (at < LOCATOR_BYTES + END_64_BYTES || zip->end_64 > at - LOCATOR_BYTES - END_64_BYTES)
      return hd_fail(err, HD_BAD_FILE, "zip: expected a zip64 end record before byte %" PRIu64 ", found %" PRIu64, at, zip->end_64);
    return HD_OK;
  }
  if (u16(end + 4) != 0 || u16(end + 6) != 0 || u16(end + 8) != u16(end + 10)) return refuse_split(err);
  return set_list(zip, u32(end + 16), u32(end + 12), u16(end + 10), at, err);
}

static hd_status read_end_64(hd_zip *zip, const uint8_t *end, hd_error *err) {
  zip->is_64 = false; /* seen */
  if (u32(end) != END_64_SIGNATURE)
    return hd_fail(err, HD_BAD_FILE, "zip: byte %" PRIu64 ": expected a zip64 end record, found something else", zip->end_64);
  if (u32(end + 16) != 0 || u32(end + 20) != 0 || u64(end + 24) != u64(end + 32)) return refuse_split(err);
  return set_list(zip, u64(end + 48), u64(end + 40), u64(end + 32), zip->end_64, err);
}

/* ---- The list ---- */

/* Zip64's extra field has, in this order, those of the three that are all ones. */
static bool read_extra_64(hd_zip_member *m, const uint8_t *extra, size_t n) {
  uint64_t *fields[3] = {&m->bytes, &m->stored_bytes, &m->header};
  for (size_t at = 0; n - at >= 4;) {
    size_t size = u16(extra + at + 2), from = at + 4;
    if (size > n - from) return false;
    at = from + size;
    if (u16(extra + from - 4) != EXTRA_64) continue;
    for (int i = 0; i < 3; i++) {
      if (*fields[i] != UINT32_MAX) continue;
      if (at - from < 8) return false;
      *fields[i] = u64(extra + from);
      from += 8;
    }
  }
  return true;
}

static hd_status refuse_member(const hd_zip_member *m, hd_status code, const char *problem, hd_error *err) {
  char room[HD_NAME_ROOM];
  return hd_fail(err, code, "zip: member \"%s\": %s", hd_short_name(room, m->name), problem);
}

/* One record at *at; moves it past. */
static hd_status read_record(hd_zip *zip, const uint8_t *list, size_t n, size_t *at, hd_error *err) {
  const uint8_t *record = list + *at;
  if (n - *at < RECORD_BYTES || u32(record) != RECORD_SIGNATURE)
    return hd_fail(err, HD_BAD_FILE, "zip: byte %" PRIu64 ": expected a record of the list of members", zip->list_begin + *at);
  size_t name_bytes = u16(record + 28), extra_bytes = u16(record + 30), all = RECORD_BYTES + name_bytes + extra_bytes + u16(record + 32);
  if (n - *at < all)
    return hd_fail(err, HD_BAD_FILE, "zip: byte %" PRIu64 ": a member's record goes past the list's end", zip->list_begin + *at);
  char *name = hd_arena_alloc(&zip->strings, name_bytes + 1);
  if (!name) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a zip's list");
  memcpy(name, record + RECORD_BYTES, name_bytes);
  hd_zip_member *m = &zip->members[zip->n_members++];
  *m = (hd_zip_member){.name = name, .header = u32(record + 42), .bytes = u32(record + 24), .stored_bytes = u32(record + 20),
                       .crc = u32(record + 16), .flags = u16(record + 8), .method = u16(record + 10)};
  if (strlen(name) != name_bytes) return refuse_member(m, HD_BAD_FILE, "expected a name without NUL characters", err);
  if (!read_extra_64(m, record + RECORD_BYTES + name_bytes, extra_bytes))
    return refuse_member(m, HD_BAD_FILE, "its extra field is cut off", err);
  if (m->header >= zip->list_begin || zip->list_begin - m->header < LOCAL_BYTES)
    return refuse_member(m, HD_BAD_FILE, "expected it before the list of members", err);
  *at += all;
  return HD_OK;
}

static int compare_headers(const void *a, const void *b) {
  const hd_zip_member *x = a, *y = b;
  return x->header < y->header ? -1 : x->header > y->header;
}

static int compare_names(const void *a, const void *b) {
  return strcmp(((const hd_zip_member *)a)->name, ((const hd_zip_member *)b)->name);
}

/* Each member ends where the next begins at the latest. */
static hd_status sort_members(hd_zip *zip, hd_error *err) {
  if (zip->n_members > 0) qsort(zip->members, zip->n_members, sizeof *zip->members, compare_headers);
  for (size_t i = 0; i < zip->n_members; i++) zip->members[i].limit = i + 1 < zip->n_members ? zip->members[i + 1].header : zip->list_begin;
  if (zip->n_members > 0) qsort(zip->members, zip->n_members, sizeof *zip->members, compare_names);
  for (size_t i = 1; i < zip->n_members; i++)
    if (compare_names(&zip->members[i - 1], &zip->members[i]) == 0)
      return refuse_member(&zip->members[i], HD_BAD_FILE, "expected every name once, found it twice", err);
  return HD_OK;
}

static hd_status read_list(hd_zip *zip, const uint8_t *list, hd_error *err) {
  size_t n = (size_t)(zip->list_end - zip->list_begin), at = 0; /* it fit a window */
  zip->members = hd_alloc((size_t)zip->n_declared * sizeof *zip->members);
  if (!zip->members) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a zip's list");
  while (zip->n_members < zip->n_declared) HD_TRY(read_record(zip, list, n, &at, err));
  HD_TRY(sort_members(zip, err));
  zip->listed = true;
  return HD_OK;
}

hd_status hd_zip_list(hd_zip *zip, hd_reader *reader, hd_error *err) {
  uint64_t size = reader->file_bytes, tail = size < TAIL_BYTES ? 0 : size - TAIL_BYTES;
  if (!zip->tail_seen && (reader->end != size || reader->begin > tail)) return hd_reader_want(reader, tail, size, err);
  if (!zip->tail_seen) HD_TRY(read_tail(zip, reader, err));
  if (zip->is_64) {
    const uint8_t *end = hd_reader_bytes(reader, zip->end_64, zip->end_64 + END_64_BYTES);
    if (!end) return hd_reader_want(reader, zip->end_64, zip->end_64 + END_64_BYTES, err);
    HD_TRY(read_end_64(zip, end, err));
  }
  const uint8_t *list = hd_reader_bytes(reader, zip->list_begin, zip->list_end);
  return list ? read_list(zip, list, err) : hd_reader_want(reader, zip->list_begin, zip->list_end, err);
}

void hd_zip_free(hd_zip *zip) {
  hd_free(zip->members);
  hd_arena_free(&zip->strings);
}

hd_zip_member *hd_zip_find(const hd_zip *zip, const char *name) {
  const hd_zip_member wanted = {.name = name};
  return zip->n_members ? bsearch(&wanted, zip->members, zip->n_members, sizeof *zip->members, compare_names) : NULL;
}

/* ---- One member ---- */

static hd_status check_plain(const hd_zip_member *m, hd_error *err) {
  if (m->flags & (FLAG_ENCRYPTED | FLAG_STRONG | FLAG_MASKED))
    return refuse_member(m, HD_UNSUPPORTED, "expected plain bytes, found it encrypted", err);
  if (m->flags & FLAG_PATCHED) return refuse_member(m, HD_UNSUPPORTED, "expected plain bytes, found patch data", err);
  if (m->method != 0)
    return refuse_member(m, HD_UNSUPPORTED, m->method == 8 ? "expected it stored, found it compressed (deflated); torch.save stores"
                                                           : "expected it stored, found it compressed", err);
  if (m->bytes != m->stored_bytes) return refuse_member(m, HD_BAD_FILE, "expected a stored member's two sizes to be equal", err);
  return HD_OK;
}

static uint64_t end_of_name(const hd_zip_member *m) { return m->header + LOCAL_BYTES + strlen(m->name); }

/* The one place for its bytes that torch's alignment and the next member's begin both allow; 0 when they do not agree. */
static uint64_t predicted(const hd_zip_member *m) {
  uint64_t aligned = (end_of_name(m) + 4 + TORCH_ALIGNMENT - 1) / TORCH_ALIGNMENT * TORCH_ALIGNMENT;
  if (m->bytes > m->limit || aligned > m->limit - m->bytes) return 0;
  uint64_t left = m->limit - m->bytes - aligned;
  bool fits = m->flags & FLAG_DESCRIPTOR ? left == 16 || left == 24 : left == 0;
  return fits ? aligned : 0;
}

static hd_status check_local(const hd_zip_member *m, const uint8_t *local, hd_error *err) {
  size_t name_bytes = strlen(m->name);
  if (u32(local) != LOCAL_SIGNATURE)
    return refuse_member(m, HD_BAD_FILE, "expected its header where the list says, found something else", err);
  if (u16(local + 26) != name_bytes || memcmp(local + LOCAL_BYTES, m->name, name_bytes) != 0)
    return refuse_member(m, HD_BAD_FILE, "its own header has another name than the list", err);
  if (u16(local + 8) != m->method || ((u16(local + 6) ^ m->flags) & (FLAG_ENCRYPTED | FLAG_STRONG | FLAG_PATCHED)))
    return refuse_member(m, HD_BAD_FILE, "its own header says another way of storing than the list", err);
  return HD_OK;
}

hd_status hd_zip_locate(const hd_zip *zip, hd_zip_member *m, hd_reader *reader, bool predict, bool *located, hd_error *err) {
  *located = true;
  if (m->begin) return HD_OK;
  HD_TRY(check_plain(m, err));
  uint64_t name_end = end_of_name(m);
  if (name_end > zip->list_begin) return refuse_member(m, HD_BAD_FILE, "its header goes into the list of members", err);
  const uint8_t *local = hd_reader_bytes(reader, m->header, name_end);
  if (!local && predict && predicted(m)) {
    m->begin = predicted(m);
    return HD_OK;
  }
  *located = local != NULL;
  if (!local) return hd_reader_want(reader, m->header, name_end, err);
  HD_TRY(check_local(m, local, err));
  uint64_t begin = name_end + u16(local + 28);
  if (m->bytes > m->limit || begin > m->limit - m->bytes) return refuse_member(m, HD_BAD_FILE, "its bytes go into the next member", err);
  m->begin = begin;
  return HD_OK;
}
