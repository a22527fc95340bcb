/* Any bytes as the head of a SafeTensors file. What is read must keep the promises of the directory: in order, without holes,
 * of the sizes its shapes say, within the file. */
#include "base/dtype.h"
#include "base/memory.h"
#include "format/format.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

static void check_directory(const hd_directory *d, uint64_t data_begin, uint64_t file_bytes) {
  uint64_t covered = data_begin;
  for (size_t i = 0; i < hd_directory_count(d); i++) {
    const hd_entry *entry = hd_directory_entry(d, i);
    size_t n, bytes;
    require(hd_shape_count(entry->n_dims, entry->shape, &n) && hd_dtype_bytes(entry->dtype, n, &bytes));
    require(entry->begin == covered && entry->end - entry->begin == bytes);
    require(hd_directory_find(d, entry->name) == entry);
    covered = entry->end;
  }
  require(covered == file_bytes);
}

/* Behind the header, whose length the first eight bytes say. */
static uint64_t data_begin(const uint8_t *head) {
  uint64_t length = 0;
  for (int i = 7; i >= 0; i--) length = length << 8 | head[i];
  return 8 + length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live();
  hd_error err = {0};
  /* As a whole file, and as the head of one whose data is not here: its size is in the first two bytes of the length's upper half. */
  uint64_t sizes[2] = {size, size + (size > 7 ? (uint64_t)data[6] << 8 | data[7] : 0)};
  uint8_t *head = malloc(size ? size : 1);
  for (size_t i = 0; i < size; i++) head[i] = i == 6 || i == 7 ? 0 : data[i];
  for (int i = 0; i < 2; i++) {
    hd_directory *directory;
    hd_status status = hd_directory_read(&directory, head, size, sizes[i], &err);
    require((directory != NULL) == (status == HD_OK));
    require(status == HD_OK || err.message[0] != '\0');
    if (directory) check_directory(directory, data_begin(head), sizes[i]);
    hd_directory_free(directory);
  }
  free(head);
  require(hd_memory_live() == before);
  return 0;
}
