/* Any bytes as a llama2.c checkpoint: 8 bytes of its size, then how it begins (zeros go on). What is read must lie within that size, tensor behind tensor,
 * and describe a model that loads, or is refused in words. */
#include "base/dtype.h"
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MOST_WINDOW = 1 << 16 };

/* The directory, from what the reader asks for; NULL: refused, or no such checkpoint. */
static hd_directory *read_head(const uint8_t *head, size_t n_head, uint64_t file_bytes) {
  hd_reader *reader;
  hd_directory *directory = NULL;
  uint64_t begin, end;
  hd_error err = {0};
  static uint8_t window[MOST_WINDOW];
  hd_status status = hd_reader_new(&reader, file_bytes, &err);
  while (status == HD_OK && hd_reader_wants(reader, &begin, &end) && end - begin <= MOST_WINDOW) {
    require(begin <= end && end <= file_bytes);
    memset(window, 0, sizeof window);
    if (begin < n_head) memcpy(window, head + begin, n_head - begin < end - begin ? (size_t)(n_head - begin) : (size_t)(end - begin));
    status = hd_reader_give(reader, window, (size_t)(end - begin), &err);
  }
  if (status == HD_OK) (void)hd_reader_finish(&directory, reader, &err);
  require(directory || err.message[0] != '\0');
  hd_reader_free(reader);
  return directory;
}

static void check_tensors(const hd_directory *d, uint64_t file_bytes) {
  uint64_t covered = 0;
  for (size_t i = 0; i < hd_directory_count(d); i++) {
    const hd_entry *e = hd_directory_entry(d, i);
    size_t n, bytes = 0;
    require(hd_shape_count(e->n_dims, e->shape, &n) && hd_dtype_bytes(e->dtype, n, &bytes));
    require(e->end - e->begin == bytes && e->begin >= covered && e->end <= file_bytes);
    require(hd_directory_find(d, e->name) == e);
    covered = e->end;
  }
}

static void load(const hd_directory *d, uint8_t pattern) {
  char *json = NULL;
  hd_error err = {0};
  fuzz_file file = {.directory = d};
  memset(file.pattern, pattern, sizeof file.pattern);
  hd_status status = hd_directory_config(&json, d, NULL, 0, &err);
  require((json != NULL) == (status == HD_OK) && (json || err.message[0] != '\0'));
  if (json) fuzz_load(json, strlen(json), HD_DTYPE_COUNT, &file);
  hd_text_free(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 9) return 0;
  size_t before = hd_memory_live();
  uint64_t file_bytes = 0;
  for (size_t i = 0; i < 8; i++) file_bytes |= (uint64_t)data[i] << (8 * i);
  hd_directory *d = read_head(data + 8, size - 8, file_bytes);
  if (d && strcmp(hd_directory_format(d), "llama2.c") == 0) {
    check_tensors(d, file_bytes);
    load(d, data[size - 1]);
  }
  hd_directory_free(d);
  require(hd_memory_live() == before);
  return 0;
}
