/* What a file of these tensors seems to be: the first line is a config.json (or empty: none), every other one a tensor, "NAME SIZE SIZE …". The answer is
 * JSON, and a network that is in it is one that the loader takes or refuses with a message. */
#include "base/dtype.h"
#include "loading.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A line without its end; a tensor's dtype is F32. False: the directory takes no such tensor. */
static bool add_tensor(hd_directory *directory, char *line, uint64_t *end) {
  char *at = strchr(line, ' ');
  hd_entry e = {.name = line, .dtype = HD_F32, .begin = *end};
  size_t n, bytes;
  if (at) *at++ = '\0';
  while (at && *at && e.n_dims < HD_MAX_DIMS) {
    char *after;
    unsigned long long value = strtoull(at, &after, 10);
    if (after == at || value > SIZE_MAX) return false;
    e.shape[e.n_dims++] = (size_t)value;
    at = *after == ' ' ? after + 1 : NULL;
  }
  if (!*line || !hd_shape_count(e.n_dims, e.shape, &n) || !hd_dtype_bytes(e.dtype, n, &bytes) || bytes > (UINT64_C(1) << 50)) return false;
  *end = e.end = e.begin + bytes;
  return hd_directory_append(directory, &e, NULL) == HD_OK;
}

static hd_directory *make_directory(char *text) {
  uint64_t end = 0;
  hd_directory *directory = hd_directory_new("SafeTensors", UINT64_C(1) << 60);
  bool ok = directory != NULL;
  for (char *line = text; ok && *line;) {
    size_t n = strcspn(line, "\n");
    char *next = line + n + (line[n] == '\n');
    line[n] = '\0';
    ok = add_tensor(directory, line, &end);
    line = next;
  }
  if (ok && hd_directory_seal(directory, NULL) == HD_OK) return directory;
  hd_directory_free(directory);
  return NULL;
}

static void check_network(const char *answer, const hd_directory *directory) {
  cJSON *json;
  require(hd_json_parse(&json, answer, strlen(answer), NULL) == HD_OK);
  const cJSON *network = cJSON_GetObjectItemCaseSensitive(json, "network"), *refusal = cJSON_GetObjectItemCaseSensitive(json, "refusal");
  require(cJSON_IsObject(network) != cJSON_IsObject(refusal));
  char *text = cJSON_IsObject(network) ? cJSON_PrintUnformatted(network) : NULL;
  if (text) fuzz_load(text, strlen(text), HD_DTYPE_COUNT, &(fuzz_file){.directory = directory});
  cJSON_free(text);
  cJSON_Delete(json);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live();
  char *text = calloc(1, size + 1), *answer;
  memcpy(text, data, size);
  for (size_t i = 0; i < size; i++)
    if (text[i] == '\0' || (unsigned char)text[i] > 127) text[i] = ' '; /* names are UTF-8: the readers refuse others */
  size_t n_config = strcspn(text, "\n");
  hd_directory *directory = make_directory(text + n_config + (text[n_config] == '\n'));
  if (directory) {
    text[n_config] = '\0';
    require(hd_directory_detect(&answer, directory, n_config ? text : NULL, n_config, NULL) == HD_OK);
    check_network(answer, directory);
    hd_text_free(answer);
  }
  hd_directory_free(directory);
  free(text);
  require(hd_memory_live() == before);
  return 0;
}
