/* A LoRA adapter: its adapter_config.json up to the first NUL, the rest its SafeTensors file (from the header's '{' on: the length before it is put there).
 * What is read is made active, and merged and taken away again. */
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char network[] =
  "{\"dialect\":\"standard\",\"input_shape\":[1,3],\"layers\":[{\"type\":\"linear\",\"name\":\"a\",\"in_features\":3,\"out_features\":2},"
  "{\"type\":\"linear\",\"name\":\"b\",\"in_features\":2,\"out_features\":4,\"bias\":false}]}";

static void use(hd_model *model, hd_adapter *adapter) {
  hd_session *session;
  static float values[3] = {1, 2, 3};
  require(hd_session_new(&session, model, &(hd_session_options){.mode = HD_INFER}, NULL) == HD_OK);
  require(hd_session_use(session, adapter, NULL) == HD_OK);
  require(hd_forward(session, &(hd_tensor){.dtype = HD_F32, .n_dims = 2, .shape = {1, 3}, .data = values}, NULL) == HD_OK);
  hd_session_free(session);
  require(hd_adapter_merge(model, adapter, 1, false, NULL) == HD_OK);
  require(hd_adapter_merge(model, adapter, -1, false, NULL) == HD_OK);
}

/* The file, of exactly its size. */
static uint8_t *make_file(const uint8_t *data, size_t size, size_t *n) {
  const uint8_t *end = memchr(data, '\n', size);
  size_t n_header = end ? (size_t)(end - data) + 1 : size;
  *n = 8 + size;
  uint8_t *file = calloc(1, *n);
  for (int i = 0; i < 4; i++) file[i] = (uint8_t)(n_header >> 8 * i);
  memcpy(file + 8, data, size);
  return file;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const uint8_t *split = size ? memchr(data, 0, size) : NULL;
  if (!split) return 0;
  size_t before = hd_memory_live(), n_config = (size_t)(split - data), n_file;
  hd_model *model;
  hd_adapter *adapter;
  hd_error err = {0};
  require(hd_model_build(&model, network, sizeof network - 1, 1, NULL) == HD_OK);
  uint8_t *file = make_file(split + 1, size - n_config - 1, &n_file);
  hd_status status = hd_adapter_load(&adapter, model, (const char *)data, n_config, file, n_file, &err);
  require((adapter != NULL) == (status == HD_OK));
  require(status == HD_OK || err.message[0] != '\0');
  if (adapter) use(model, adapter);
  require(hd_adapter_free(adapter, NULL) == HD_OK);
  free(file);
  require(hd_model_free(model, NULL) == HD_OK);
  require(hd_memory_live() == before);
  return 0;
}
