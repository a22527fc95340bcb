/* networks.h: what the tests of layers and models share: seeded inputs, and networks from JSON. */
#ifndef HD_TEST_NETWORKS_H
#define HD_TEST_NETWORKS_H

#include "run/session.h"
#include "test.h"

#define CHECK_EQ(is, should) CHECK((is) == (should))

/* Values in −1 … 1 that differ from seed to seed but not from run to run. */
static inline void test_fill(float *values, size_t n, uint64_t seed) {
  test_random_state = seed;
  for (size_t i = 0; i < n; i++) values[i] = test_random_float();
}

/* {"dialect":"standard","input_shape":…,"layers":[layer]} built with a seed; NULL with the message printed. */
static inline hd_model *test_network(const char *layers, const char *input_shape) {
  char text[4096];
  hd_error err;
  hd_model *model = NULL;
  int n = snprintf(text, sizeof text, "{\"dialect\":\"standard\",\"input_shape\":%s,\"layers\":[%s]}", input_shape, layers);
  if (hd_model_build(&model, text, (size_t)n, 7, &err) != HD_OK) printf("# %s\n", err.message);
  return model;
}

/* A session over the model's own input shape. */
static inline hd_session *test_session(hd_model *model, hd_mode mode) {
  hd_error err;
  hd_session *s = NULL;
  const hd_session_options options = {.mode = mode};
  if (hd_session_new(&s, model, &options, &err) != HD_OK) printf("# %s\n", err.message);
  return s;
}

/* Runs the session on what lies in its input buffer. */
static inline bool test_forward(hd_session *s) {
  hd_error err;
  hd_tensor input;
  bool ok = hd_session_input(s, &input, &err) == HD_OK && hd_forward(s, &input, &err) == HD_OK;
  if (!ok) printf("# %s\n", err.message);
  return ok;
}

/* A model from a description and one SafeTensors file, streamed in pieces of `piece` bytes; NULL with the message in err. */
static inline hd_model *test_load(const char *description, size_t n_description, const uint8_t *file, size_t n_file, hd_dtype dtype,
                                  size_t piece, hd_error *err) {
  hd_directory *directory = NULL;
  hd_loader *loader = NULL;
  hd_model *model = NULL;
  hd_status status = hd_directory_read(&directory, file, n_file, n_file, err);
  if (status == HD_OK) status = hd_loader_new(&loader, dtype, err);
  if (status == HD_OK) status = hd_loader_describe(loader, description, n_description, err);
  if (status == HD_OK) status = hd_loader_add(loader, directory, err);
  for (size_t i = 0; status == HD_OK && i < hd_loader_count(loader); i++) {
    bool wanted;
    const hd_entry *e = hd_loader_tensor(loader, i, &wanted);
    if (!wanted) continue;
    status = hd_tensor_begin(loader, i, err);
    for (uint64_t at = e->begin; status == HD_OK && at < e->end; at += piece)
      status = hd_tensor_write(loader, file + at, e->end - at < piece ? (size_t)(e->end - at) : piece, err);
    if (status == HD_OK) status = hd_tensor_end(loader, err);
  }
  if (status == HD_OK) status = hd_loader_finish(&model, loader, err);
  hd_loader_free(loader);
  hd_directory_free(directory);
  return model;
}

#endif
