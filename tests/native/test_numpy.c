/* NumPy's .npy from bytes made here: one limit for its header, whichever version says how long it is. Real files: tests/node. */
#include "heddle.h"
#include "test.h"

enum { LONGEST = 1023 };

/* An array of two float32 whose header takes n bytes. The caller frees it. */
static uint8_t *make_file(int version, uint32_t n, size_t *n_file) {
  static const char text[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }";
  const size_t n_length = version >= 2 ? 4 : 2;
  const float values[] = {1, 2};
  *n_file = 8 + n_length + n + sizeof values;
  uint8_t *file = malloc(*n_file);
  memcpy(file, "\x93NUMPY", 6);
  file[6] = (uint8_t)version;
  file[7] = 0;
  for (size_t i = 0; i < n_length; i++) file[8 + i] = (uint8_t)(n >> (8 * i));
  memset(file + 8 + n_length, ' ', n);
  memcpy(file + 8 + n_length, text, sizeof text - 1);
  memcpy(file + 8 + n_length + n, values, sizeof values);
  return file;
}

/* What the reader says once it has the file's first 512 bytes, before it asks for more. */
static hd_status first_step(const uint8_t *file, size_t n_file, hd_error *err) {
  hd_reader *reader;
  uint64_t begin = 0, end = 0;
  CHECK(hd_reader_new(&reader, n_file, err) == HD_OK && hd_reader_wants(reader, &begin, &end));
  hd_status status = hd_reader_give(reader, file, (size_t)(end - begin), err);
  hd_reader_free(reader);
  return status;
}

TEST(the_longest_header_is_read_and_a_longer_one_refused_before_its_bytes_are_wanted) {
  for (int version = 1; version <= 3; version++) {
    size_t n;
    hd_error err;
    hd_directory *directory;
    uint8_t *file = make_file(version, LONGEST, &n);
    if (CHECK(hd_directory_read(&directory, file, n, n, &err) == HD_OK)) {
      const hd_entry *e = hd_directory_find(directory, "array");
      CHECK(e && e->dtype == HD_F32 && e->n_dims == 1 && e->shape[0] == 2 && e->end == n && e->end - e->begin == 8);
    }
    hd_directory_free(directory);
    free(file);
    file = make_file(version, LONGEST + 1, &n);
    CHECK(first_step(file, n, &err) == HD_UNSUPPORTED);
    CHECK_EQ_TEXT(err.message, "NumPy: expected a header of at most 1023 bytes, found 1024");
    free(file);
  }
}
