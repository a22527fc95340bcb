/* Any bytes as a config.json: a family's graph, or a refusal. No weights are made. */
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live();
  hd_loader *loader;
  hd_error err = {0};
  require(hd_loader_new(&loader, HD_DTYPE_COUNT, NULL) == HD_OK);
  hd_status status = hd_loader_describe(loader, (const char *)data, size, &err);
  require(status == HD_OK || err.message[0] != '\0');
  hd_loader_free(loader);
  require(hd_memory_live() == before);
  return 0;
}
