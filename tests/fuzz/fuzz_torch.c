/* Any bytes as a PyTorch file: zip, legacy stream or a pickle by itself. Nothing leaks, and every tensor that is listed lies in the file. A zip's
 * checksum would keep the fuzzer out of the pickle: data that begins with anything else goes to the machine itself as well. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/torch_tree.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

static void check_text(const char *text) {
  for (size_t n = strlen(text), step; n > 0; n -= step, text += step) require((step = hd_utf8_length(text, n)) > 0);
}

/* The last value a tensor's shape and strides reach is inside its bytes, which are inside the file. */
static void check_entry(const hd_entry *entry, uint64_t file_bytes) {
  size_t n, bytes = 0;
  uint64_t last = 0;
  check_text(entry->name);
  require(hd_shape_count(entry->n_dims, entry->shape, &n) && hd_dtype_bytes(entry->dtype, n, &bytes));
  require(entry->begin <= entry->end && entry->end <= file_bytes);
  for (int d = 0; n > 0 && d < entry->n_dims; d++) last += (entry->shape[d] - 1) * (uint64_t)entry->strides[d];
  if (entry->strided) require(entry->end - entry->begin == (last + 1) * hd_dtype_get(entry->dtype)->block_bytes);
  else require(entry->end - entry->begin == bytes);
}

static void read_file(const uint8_t *data, size_t size) {
  hd_error err = {0};
  hd_directory *directory;
  hd_status status = hd_directory_read(&directory, data, size, size, &err);
  require((directory != NULL) == (status == HD_OK));
  require(status == HD_OK || err.message[0] != '\0');
  for (size_t i = 0; directory && i < hd_directory_count(directory); i++) check_entry(hd_directory_entry(directory, i), size);
  hd_directory_free(directory);
}

static void read_pickle(const uint8_t *data, size_t size) {
  bool short_of_bytes;
  hd_pickle *pickle;
  hd_torch_tree tree = {0};
  hd_directory *directory = hd_directory_new("PyTorch", size);
  hd_status status = hd_pickle_read(&pickle, data, size, 0, hd_torch_globals, hd_torch_n_globals, &short_of_bytes, NULL);
  if (status == HD_OK) status = hd_torch_tree_open(&tree, pickle, NULL);
  if (status == HD_OK) (void)hd_torch_tree_list(&tree, directory, NULL);
  hd_torch_tree_free(&tree);
  hd_pickle_free(pickle);
  hd_directory_free(directory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live();
  read_file(data, size);
  read_pickle(data, size);
  require(hd_memory_live() == before);
  return 0;
}
