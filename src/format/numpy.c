/* format/numpy.c: NumPy's .npy, one array, as numpy.lib.format describes it.
 *
 *   8 bytes   "\x93NUMPY", major and minor version
 *   2 or 4    N, the header's length (4 bytes from version 2 on), little-endian
 *   N bytes   a Python dictionary's text: {'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }, padded with spaces,
 *             a line's end last
 *   the rest  the values; fortran_order means the first dimension is the innermost
 *
 * 'descr' '|O' means that a pickle of objects follows: refused. The array is a tensor called "array". */
#include "format/format.h"

#include "base/dtype.h"
#include "base/status.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { MAGIC_BYTES = 8, MAX_HEADER = 1023 /* one array's takes some 100 */ };

static bool numpy_detect(const uint8_t *first, size_t n, uint64_t file_bytes) {
  (void)file_bytes;
  return n >= MAGIC_BYTES + 4 && memcmp(first, "\x93NUMPY", 6) == 0;
}

static const struct {
  const char *descr;
  hd_dtype dtype;
} types[] = {{"<f4", HD_F32}, {"<f8", HD_F64}, {"<f2", HD_F16}, {"<i8", HD_I64}, {"<i4", HD_I32}, {"<i2", HD_I16}, {"|i1", HD_I8},
             {"<u8", HD_U64}, {"<u4", HD_U32}, {"<u2", HD_U16}, {"|u1", HD_U8},  {"|b1", HD_BOOL}};

/* What follows a key of the header's dictionary, or NULL. */
static const char *after(const char *header, const char *key) {
  const char *at = strstr(header, key);
  if (!at) return NULL;
  at += strlen(key);
  while (*at == ' ' || *at == ':') at++;
  return at;
}

static hd_status refuse(hd_error *err, const char *problem) { return hd_fail(err, HD_BAD_FILE, "NumPy header: %s", problem); }

static hd_status read_dtype(const char *header, hd_entry *entry, hd_error *err) {
  const char *descr = after(header, "'descr'");
  if (!descr || *descr != '\'') return refuse(err, "expected a 'descr'");
  for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
    size_t n = strlen(types[i].descr);
    entry->dtype = types[i].dtype;
    if (strncmp(descr + 1, types[i].descr, n) == 0 && descr[1 + n] == '\'') return HD_OK;
  }
  return hd_fail(err, HD_UNSUPPORTED, "NumPy header: expected little-endian numbers, found the type %.8s%s", descr,
                 strncmp(descr, "'|O'", 4) == 0 ? ": Python objects, a pickle that would have to be executed" : "");
}

static hd_status read_shape(const char *header, hd_entry *entry, hd_error *err) {
  const char *at = after(header, "'shape'");
  if (!at || *at++ != '(') return refuse(err, "expected a 'shape'");
  for (;;) {
    uint64_t size = 0;
    while (*at == ' ' || *at == ',') at++;
    if (*at == ')') return HD_OK;
    if (*at < '0' || *at > '9') return refuse(err, "expected whole numbers in 'shape'");
    for (; *at >= '0' && *at <= '9'; at++) {
      if (size > (UINT32_MAX - 9) / 10) return refuse(err, "expected sizes below 2^32 in 'shape'");
      size = size * 10 + (uint64_t)(*at - '0');
    }
    if (entry->n_dims == HD_MAX_DIMS) return refuse(err, "expected at most 8 dimensions in 'shape'");
    entry->shape[entry->n_dims++] = (size_t)size;
  }
}

/* The innermost dimension first. */
static void set_fortran_strides(hd_entry *entry) {
  size_t stride = 1;
  entry->strided = entry->n_dims > 1 && entry->end > entry->begin;
  for (int d = 0; d < entry->n_dims; d++) {
    entry->strides[d] = stride;
    stride *= entry->shape[d];
  }
}

static hd_status read_header(const char *header, hd_entry *entry, uint64_t file_bytes, hd_error *err) {
  size_t count, bytes;
  const char *order = after(header, "'fortran_order'");
  HD_TRY(read_dtype(header, entry, err));
  HD_TRY(read_shape(header, entry, err));
  if (!order || (*order != 'T' && *order != 'F')) return refuse(err, "expected a 'fortran_order'");
  if (!hd_shape_count(entry->n_dims, entry->shape, &count) || !hd_dtype_bytes(entry->dtype, count, &bytes))
    return refuse(err, "the shape has more values than can be counted");
  if (bytes != file_bytes - entry->begin)
    return hd_fail(err, HD_BAD_FILE, "NumPy: expected %zu bytes of values, found %" PRIu64, bytes, file_bytes - entry->begin);
  entry->end = entry->begin + bytes;
  if (*order == 'T') set_fortran_strides(entry);
  return HD_OK;
}

static hd_status numpy_step(hd_reader *reader, hd_error *err) {
  const uint8_t *first = reader->window;
  size_t length_bytes = first[6] >= 2 ? 4 : 2, at = MAGIC_BYTES + length_bytes;
  uint64_t n = (uint64_t)first[8] | (uint64_t)first[9] << 8;
  if (length_bytes == 4) n |= (uint64_t)first[10] << 16 | (uint64_t)first[11] << 24;
  if (n > MAX_HEADER) return hd_fail(err, HD_UNSUPPORTED, "NumPy: expected a header of at most %d bytes, found %" PRIu64, MAX_HEADER, n);
  if (at + n > reader->end) return hd_reader_want(reader, 0, at + n, err);
  char header[MAX_HEADER + 1];
  memcpy(header, first + at, (size_t)n);
  header[n] = '\0';
  hd_entry entry = {.name = "array", .begin = at + n};
  HD_TRY(read_header(header, &entry, reader->file_bytes, err));
  HD_TRY(hd_directory_append(reader->directory, &entry, err));
  HD_TRY(hd_directory_seal(reader->directory, err));
  reader->done = true;
  return HD_OK;
}

const hd_format hd_format_numpy = {"NumPy", numpy_detect, numpy_step, NULL};
