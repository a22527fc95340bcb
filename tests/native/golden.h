/* tests/native/golden.h: the tensors of a SafeTensors file of golden data, by name. */
#ifndef HD_TESTS_GOLDEN_H
#define HD_TESTS_GOLDEN_H

#include "test.h"

#include "heddle.h"

typedef struct golden_file {
  unsigned char *bytes;
  hd_directory *directory;
} golden_file;

/* False, as a failed check, when there is no such file or it cannot be read. */
static inline bool golden_open(golden_file *out, const char *path) {
  size_t n = 0;
  hd_error err;
  *out = (golden_file){.bytes = test_read_file(path, &n)};
  if (!CHECK(out->bytes != NULL)) return false;
  return CHECK(hd_directory_read(&out->directory, out->bytes, n, n, &err) == HD_OK);
}

static inline void golden_close(golden_file *file) {
  hd_directory_free(file->directory);
  free(file->bytes);
}

/* A copy of the tensor's bytes, aligned for anything; NULL, as a failed check, when there is none. The caller frees it. */
static inline void *golden_tensor(const golden_file *file, const char *name, size_t *n_bytes) {
  const hd_entry *e = hd_directory_find(file->directory, name);
  *n_bytes = e ? (size_t)(e->end - e->begin) : 0;
  if (!CHECK(e != NULL)) return NULL;
  void *copy = malloc(*n_bytes + (*n_bytes == 0));
  memcpy(copy, file->bytes + e->begin, *n_bytes);
  return copy;
}

#endif
