/* Any bytes as a GGUF file. What is read must keep the promises of the directory: sizes as the shapes say, within the file (or all behind a
 * header that is the whole file), none inside another, and metadata that are JSON. Where they describe a model, it loads, or is refused in words. */
#include "base/dtype.h"
#include "base/json.h"
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensors(const hd_directory *d, uint64_t file_bytes) {
  uint64_t covered = 0;
  bool has_data = hd_directory_check_data(d, NULL) == HD_OK;
  for (size_t i = 0; i < hd_directory_count(d); i++) {
    const hd_entry *entry = hd_directory_entry(d, i);
    size_t n, bytes = 0;
    require(hd_shape_count(entry->n_dims, entry->shape, &n) && hd_dtype_bytes(entry->dtype, n, &bytes));
    require(entry->end - entry->begin == bytes && (!has_data || entry->end <= file_bytes));
    require(bytes == 0 || entry->begin >= covered);
    require(hd_directory_find(d, entry->name) == entry);
    if (bytes) covered = entry->end;
  }
}

static void check_metadata(const hd_directory *d) {
  const char *key, *value;
  for (size_t i = 0; hd_directory_metadata(d, i, &key, &value); i++) {
    hd_json_reader r = hd_json_open(value, strlen(value), "value", NULL);
    require(hd_json_skip(&r, NULL, NULL) && hd_json_finish(&r));
  }
}

/* The bytes of the tensors that are part of the description; NULL: they are none, or too many to be one. */
static uint8_t *config_tensors(const hd_directory *d, const uint8_t *file, size_t *n) {
  uint8_t *bytes = NULL;
  const hd_entry *e;
  *n = 0;
  for (size_t i = 0; (e = hd_directory_config_tensor(d, i)) != NULL; i++) {
    size_t more = (size_t)(e->end - e->begin);
    bytes = realloc(bytes, *n + more + 1);
    memcpy(bytes + *n, file + e->begin, more);
    *n += more;
  }
  return bytes;
}

static void load(const hd_directory *d, const uint8_t *bytes, size_t size) {
  char *json = NULL;
  size_t n;
  hd_error err = {0};
  const fuzz_file file = {.bytes = bytes, .n_bytes = size, .chunk = 7, .directory = d};
  if (hd_directory_check_data(d, NULL) != HD_OK) return;
  uint8_t *tensors = config_tensors(d, bytes, &n);
  hd_status status = hd_directory_config(&json, d, tensors, n, &err);
  require((json != NULL) == (status == HD_OK) && (json || err.message[0] != '\0'));
  if (json) fuzz_load(json, strlen(json), HD_DTYPE_COUNT, &file);
  hd_text_free(json);
  free(tensors);
}

/* As a host reads it: the parts the reader wants, each of its own block. */
static hd_status read_parts(hd_directory **out, const uint8_t *data, size_t size, hd_error *err) {
  hd_reader *reader;
  uint64_t begin, end;
  *out = NULL;
  hd_status status = hd_reader_new(&reader, size, err);
  while (status == HD_OK && hd_reader_wants(reader, &begin, &end)) {
    require(begin <= end && end <= size);
    status = hd_reader_give(reader, data + begin, (size_t)(end - begin), err);
  }
  if (status == HD_OK) status = hd_reader_finish(out, reader, err);
  hd_reader_free(reader);
  return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live();
  hd_error err = {0};
  hd_directory *directory, *again;
  uint8_t *file = malloc(size ? size : 1);
  memcpy(file, data, size);
  if (size >= 4) memcpy(file, "GGUF", 4);
  hd_status status = read_parts(&directory, file, size, &err);
  require((directory != NULL) == (status == HD_OK));
  require(status == HD_OK || err.message[0] != '\0');
  hd_status at_once = hd_directory_read(&again, file, size, size, NULL);
  require(at_once == status || (at_once == HD_BAD_FILE && hd_directory_check_data(directory, NULL) != HD_OK));
  if (directory) check_tensors(directory, size);
  if (directory) check_metadata(directory);
  if (directory) load(directory, file, size);
  hd_directory_free(again);
  hd_directory_free(directory);
  free(file);
  require(hd_memory_live() == before);
  return 0;
}
