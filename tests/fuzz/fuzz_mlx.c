/* Any bytes as MLX-Node's weights.mlx. What it becomes is a SafeTensors file that keeps every promise of one; and a text made of that file becomes the
 * same values again. */
#include "base/memory.h"
#include "format/format.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

static void check_list(const char *text, size_t n) {
  char *list;
  hd_error err = {0};
  hd_status status = hd_mlx_list(&list, text, n, &err);
  require((list != NULL) == (status == HD_OK));
  require(status == HD_OK || err.message[0] != '\0');
  if (!list) return;
  hd_json_reader r = hd_json_open(list, strlen(list), "list", NULL);
  require(hd_json_skip(&r, NULL, NULL) && hd_json_finish(&r));
  hd_text_free(list);
}

/* The way back: refused where a value overflowed to infinity, and where the config has two keys of one name. */
static void check_again(const uint8_t *file, size_t n_file, bool pretty) {
  char *text;
  uint8_t *again;
  size_t n, n_again;
  if (hd_mlx_from_safetensors(&text, &n, file, n_file, NULL, 0, pretty, NULL) != HD_OK) return;
  require(hd_mlx_to_safetensors(&again, &n_again, text, n, NULL) == HD_OK);
  require(n_again == n_file && memcmp(again, file, n_file) == 0);
  hd_bytes_free(again);
  hd_text_free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live(), n_file;
  hd_error err = {0};
  uint8_t *file;
  hd_directory *directory;
  check_list((const char *)data, size);
  hd_status status = hd_mlx_to_safetensors(&file, &n_file, (const char *)data, size, &err);
  require((file != NULL) == (status == HD_OK));
  require(status == HD_OK || err.message[0] != '\0');
  if (file) {
    require(hd_directory_read(&directory, file, n_file, n_file, NULL) == HD_OK);
    hd_directory_free(directory);
    for (int pretty = 0; pretty < 2; pretty++) check_again(file, n_file, pretty);
  }
  hd_bytes_free(file);
  require(hd_memory_live() == before);
  return 0;
}
