/* format/reader.c: reads a weight file's directory from the parts of the file that its format asks for. Which format it is, its first bytes
 * say: one row of the table each. */
#include "format/format.h"

#include "base/memory.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* In the order they are asked; SafeTensors, which nearly any bytes may be, last. */
static const hd_format *const formats[] = {&hd_format_gguf, &hd_format_torch, &hd_format_numpy, &hd_format_llama2c, &hd_format_safetensors};

enum { N_FORMATS = sizeof formats / sizeof *formats };

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for reading a weight file"); }

static void release(hd_reader *reader) {
  if (reader->format && reader->format->free_state) reader->format->free_state(reader->state);
  hd_directory_free(reader->directory);
  hd_free(reader->gathered);
}

void hd_reader_free(hd_reader *reader) {
  if (!reader) return;
  release(reader);
  hd_free(reader);
}

hd_status hd_reader_new(hd_reader **out, uint64_t file_bytes, hd_error *err) {
  *out = NULL;
  hd_reader *reader = hd_alloc_zero(sizeof *reader);
  if (!reader) return no_memory(err);
  reader->file_bytes = file_bytes;
  hd_status status = hd_reader_want(reader, 0, file_bytes < HD_FIRST_BYTES ? file_bytes : HD_FIRST_BYTES, err);
  if (status == HD_OK) *out = reader;
  else hd_reader_free(reader);
  return status;
}

/* ---- Detection ---- */

enum { SHOWN_BYTES = 8 };

/* "47 47 55 46": what the file starts with, for the message. */
static void show_bytes(char room[SHOWN_BYTES * 3 + 1], const uint8_t *first, size_t n) {
  room[0] = '\0';
  for (size_t i = 0; i < n && i < SHOWN_BYTES; i++) snprintf(room + i * 3, 4, "%02x ", first[i]);
  if (n > 0) room[(n < SHOWN_BYTES ? n : SHOWN_BYTES) * 3 - 1] = '\0';
}

/* "SafeTensors, GGUF": all there are. */
static void list_formats(char room[128]) {
  int at = 0;
  for (size_t i = 0; i < N_FORMATS && at < 128; i++) at += snprintf(room + at, (size_t)(128 - at), "%s%s", i ? ", " : "", formats[i]->name);
}

static hd_status find_format(hd_reader *reader, hd_error *err) {
  for (size_t i = 0; i < N_FORMATS && !reader->format; i++)
    if (formats[i]->detect(reader->window, reader->held, reader->file_bytes)) reader->format = formats[i];
  if (reader->format) return HD_OK;
  char shown[SHOWN_BYTES * 3 + 1], known[128];
  show_bytes(shown, reader->window, reader->held);
  list_formats(known);
  return hd_fail(err, HD_BAD_FILE, "expected a weight file (%s), found %" PRIu64 " bytes that start with %s", known, reader->file_bytes,
                 reader->held ? shown : "nothing");
}

/* ---- Windows ---- */

/* Moves the window within the file's bytes in memory. */
static hd_status point(hd_reader *reader, uint64_t begin, uint64_t end, hd_error *err) {
  if (end > reader->n_memory)
    return hd_fail(err, HD_BAD_ARGUMENT, "%s: expected the file up to byte %" PRIu64 ", found its first %zu",
                   reader->format->name, end, reader->n_memory);
  reader->window = reader->memory + begin;
  reader->held = (size_t)(end - begin);
  return HD_OK;
}

/* Room for the window's bytes to come. */
static hd_status make_room(hd_reader *reader, uint64_t begin, uint64_t end, hd_error *err) {
  bool grows = begin == reader->begin && end > reader->end;
  uint8_t *room = grows ? hd_realloc(reader->gathered, (size_t)(end - begin)) : hd_alloc((size_t)(end - begin));
  if (!room) return no_memory(err);
  if (!grows) hd_free(reader->gathered);
  if (!grows) reader->held = 0;
  reader->window = reader->gathered = room;
  return HD_OK;
}

hd_status hd_reader_want(hd_reader *reader, uint64_t begin, uint64_t end, hd_error *err) {
  const char *name = reader->format ? reader->format->name : "file";
  if (begin > end || end > reader->file_bytes)
    return hd_fail(err, HD_BAD_FILE, "%s: it should go on to byte %" PRIu64 ", found %" PRIu64 " bytes", name, end, reader->file_bytes);
  if (end - begin > HD_MAX_WINDOW)
    return hd_fail(err, HD_UNSUPPORTED, "%s: its directory would take %" PRIu64 " bytes at once, expected at most %" PRIu64,
                   name, end - begin, HD_MAX_WINDOW);
  HD_TRY(reader->memory ? point(reader, begin, end, err) : make_room(reader, begin, end, err));
  reader->begin = begin;
  reader->end = end;
  return HD_OK;
}

const uint8_t *hd_reader_bytes(const hd_reader *reader, uint64_t begin, uint64_t end) {
  bool inside = begin >= reader->begin && begin <= end && end <= reader->begin + reader->held;
  return inside ? reader->window + (begin - reader->begin) : NULL;
}

static bool is_full(const hd_reader *reader) { return reader->begin + reader->held == reader->end; }

/* Steps until bytes are missing or the directory is there. */
static hd_status run(hd_reader *reader, hd_error *err) {
  if (!reader->format) HD_TRY(find_format(reader, err));
  if (!reader->directory && !(reader->directory = hd_directory_new(reader->format->name, reader->file_bytes))) return no_memory(err);
  while (!reader->done && is_full(reader)) HD_TRY(reader->format->step(reader, err));
  return HD_OK;
}

bool hd_reader_wants(const hd_reader *reader, uint64_t *begin, uint64_t *end) {
  *begin = reader->begin + reader->held;
  *end = reader->end;
  return !reader->done && !reader->failed;
}

static hd_status already_failed(hd_error *err) { return hd_fail(err, HD_BAD_STATE, "the reader has refused the file already"); }

hd_status hd_reader_give(hd_reader *reader, const void *bytes, size_t n, hd_error *err) {
  if (reader->failed) return already_failed(err);
  if (reader->done || n > reader->end - reader->begin - reader->held)
    return hd_fail(err, HD_BAD_ARGUMENT, "%zu bytes of the file that were not asked for", n);
  if (n > 0) memcpy(reader->gathered + reader->held, bytes, n);
  reader->held += n;
  hd_status status = is_full(reader) ? run(reader, err) : HD_OK;
  reader->failed = status != HD_OK; /* a step that failed is not taken again */
  return status;
}

hd_status hd_reader_finish(hd_directory **out, hd_reader *reader, hd_error *err) {
  *out = NULL;
  if (reader->failed) return already_failed(err);
  if (!reader->done) return hd_fail(err, HD_BAD_STATE, "the reader wants more of the file before it has a directory");
  *out = reader->directory;
  reader->directory = NULL;
  return HD_OK;
}

/* ---- From memory ---- */

hd_status hd_directory_read(hd_directory **out, const void *head, size_t n, uint64_t file_bytes, hd_error *err) {
  *out = NULL;
  if (n > file_bytes) return hd_fail(err, HD_BAD_ARGUMENT, "expected at most the file's %" PRIu64 " bytes, found %zu", file_bytes, n);
  hd_reader reader = {.file_bytes = file_bytes, .memory = n ? head : (const void *)"", .n_memory = n};
  hd_status status = hd_reader_want(&reader, 0, n < HD_FIRST_BYTES ? n : HD_FIRST_BYTES, err);
  if (status == HD_OK) status = run(&reader, err);
  if (status == HD_OK) status = hd_directory_check_data(reader.directory, err);
  if (status == HD_OK) status = hd_reader_finish(out, &reader, err);
  release(&reader);
  return status;
}
