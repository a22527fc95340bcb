/* tests/fuzz/loading.h: the loader as a host drives it, for the targets that load: scales before their codes, bytes in chunks, and a forward of what
 * came out. */
#ifndef HD_FUZZ_LOADING_H
#define HD_FUZZ_LOADING_H

#include "base/memory.h"
#include "format/format.h"

#include <stdlib.h>
#include <string.h>

static inline void require(bool holds) {
  if (!holds) abort();
}

/* A file in memory. Directories made by hand have none: their tensors' bytes are `pattern` over and over. */
typedef struct fuzz_file {
  const uint8_t *bytes;
  size_t n_bytes, chunk;
  const hd_directory *directory;
  uint8_t pattern[256];
} fuzz_file;

static inline hd_status fuzz_send(hd_loader *loader, size_t index, const fuzz_file *file, hd_error *err) {
  bool wanted;
  const hd_entry *e = hd_loader_tensor(loader, index, &wanted);
  hd_status status = hd_tensor_begin(loader, index, err);
  for (uint64_t at = e->begin; status == HD_OK && at < e->end;) {
    size_t most = file->bytes ? file->chunk : sizeof file->pattern, n = e->end - at < most ? (size_t)(e->end - at) : most;
    require(!file->bytes || e->end <= file->n_bytes);
    status = hd_tensor_write(loader, file->bytes ? file->bytes + at : file->pattern, n, err);
    at += n;
  }
  return status == HD_OK ? hd_tensor_end(loader, err) : status;
}

/* Every wanted tensor once; those that others need before them, first. */
static inline hd_status fuzz_send_all(hd_loader *loader, const fuzz_file *file, hd_error *err) {
  size_t before[HD_MAX_BEFORE], n = hd_loader_count(loader);
  bool wanted, *sent = calloc(n + 1, sizeof *sent);
  hd_status status = hd_loader_settle(loader, err);
  for (size_t i = 0; status == HD_OK && i < n; i++) {
    for (size_t b = 0, n_before = hd_loader_before(loader, i, before); b < n_before && status == HD_OK; b++) {
      require(before[b] < n);
      if (!sent[before[b]]) status = fuzz_send(loader, before[b], file, err);
      sent[before[b]] = true;
    }
    hd_loader_tensor(loader, i, &wanted);
    if (wanted && !sent[i] && status == HD_OK) status = fuzz_send(loader, i, file, err);
    sent[i] = true;
  }
  free(sent);
  return status;
}

/* One forward on zeros, and the description: a model that was loaded is whole. */
static inline void fuzz_use(hd_model *model) {
  hd_session *session;
  char *json;
  require(hd_model_describe(&json, model, NULL) == HD_OK);
  hd_text_free(json);
  if (hd_session_new(&session, model, &(hd_session_options){.mode = HD_INFER}, NULL) != HD_OK) return;
  hd_tensor input;
  require(hd_session_input(session, &input, NULL) == HD_OK);
  size_t n = sizeof(float);
  for (int d = 0; d < input.n_dims; d++) n *= input.shape[d];
  memset(input.data, 0, n);
  (void)hd_forward(session, &input, NULL);
  hd_session_free(session);
}

/* What a directory of hostile numbers may take here, so that what is found is a bug and not a large model. */
enum { FUZZ_MOST_BYTES = 1 << 22 };

static inline void fuzz_load(const char *json, size_t n_json, hd_dtype become, const fuzz_file *file) {
  hd_loader *loader;
  hd_model *model = NULL;
  hd_error err = {0};
  uint64_t bytes = 0;
  if (hd_loader_new(&loader, become, NULL) != HD_OK) return;
  hd_status status = hd_loader_describe(loader, json, n_json, &err);
  if (status == HD_OK) status = hd_loader_estimate(&bytes, loader, file->directory, &err);
  if (status == HD_OK && bytes <= FUZZ_MOST_BYTES) {
    status = hd_loader_add(loader, file->directory, &err);
    if (status == HD_OK) status = fuzz_send_all(loader, file, &err);
    if (status == HD_OK) status = hd_loader_finish(&model, loader, &err);
  }
  require(status == HD_OK || err.message[0] != '\0');
  hd_loader_free(loader);
  if (model) fuzz_use(model);
  if (model) require(hd_model_free(model, NULL) == HD_OK);
}

#endif
