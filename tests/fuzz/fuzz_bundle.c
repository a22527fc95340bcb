/* Any bytes as a bundle, and as the JSON inside a bundle's Base64 (which a fuzzer would hardly get to through the Base64).
 * The model to load is "m". */
#include "base/memory.h"
#include "format/bundle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

static void read_bundle(const char *text, size_t n) {
  hd_bundle *b;
  hd_error err = {0};
  hd_status status = hd_bundle_read(&b, text, n, "m", &err);
  require((b != NULL) == (status == HD_OK));
  require(status == HD_OK || err.message[0] != '\0');
  for (size_t i = 0; b && i < b->n_tensors; i++) {
    const hd_bundle_tensor *tensor = &b->tensors[i];
    for (size_t k = 0; k < tensor->n; k++) require(b->form != HD_FORM_DECIMAL || isfinite(tensor->values[k]));
    require(hd_bundle_find(b, tensor->name) == tensor);
  }
  hd_bundle_free(b);
}

/* The bytes as the weights of a bundle of that form. */
static void read_inside(const uint8_t *data, size_t size, hd_bundle_form form) {
  char *text;
  size_t n;
  cJSON *cfg = cJSON_CreateObject(), *layers = cJSON_AddArrayToObject(cfg, "layers");
  cJSON_AddItemToArray(layers, cJSON_CreateObject());
  require(hd_bundle_write(&text, &n, &(hd_bundle_parts){.id = "m", .cfg = cfg, .weights = (const char *)data, .n_weights = size, .form = form}, NULL) == HD_OK);
  cJSON_Delete(cfg);
  char *exact = malloc(n); /* without the NUL */
  memcpy(exact, text, n);
  hd_free(text);
  read_bundle(exact, n);
  free(exact);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  size_t before = hd_memory_live();
  read_bundle((const char *)data, size);
  for (int form = HD_FORM_DECIMAL; form <= HD_FORM_AFFINE; form++) read_inside(data, size, (hd_bundle_form)form);
  require(hd_memory_live() == before);
  return 0;
}
