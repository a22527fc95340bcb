/* embedding.c: ids → rows of a table. Ids come as I32 (language models) or as F32 numbers, truncated, the way Loom's networks pass them. */
#include "base/status.h"
#include "kernels/elementwise.h"
#include "layers/rows.h"

#include <math.h>
#include <string.h>

static void parse(void *config, hd_parse *p) {
  hd_embedding_config *c = config;
  c->vocab_size = hd_json_get_size(&p->json, hd_json_has(&p->json, "num_embeddings") ? "num_embeddings" : "vocab_size", 0);
  c->embedding_dim = hd_json_get_size(&p->json, "embedding_dim", 0);
  c->unknown_is_zero = p->dialect == HD_LOOM;
  if (c->vocab_size == 0) hd_json_refuse(&p->json, "vocab_size", HD_BAD_FILE, "expected a size of at least 1");
  if (c->embedding_dim == 0) hd_json_refuse(&p->json, "embedding_dim", HD_BAD_FILE, "expected a size of at least 1");
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_embedding_config *c = config;
  (void)dialect;
  (void)err;
  cJSON_AddNumberToObject(json, "vocab_size", (double)c->vocab_size);
  cJSON_AddNumberToObject(json, "embedding_dim", (double)c->embedding_dim);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_embedding_config *c = i->config;
  if (i->in[0]->n_dims == HD_MAX_DIMS) return hd_infer_fail(i, err, "too many dimensions of ids: %d", i->in[0]->n_dims);
  i->out[0] = *i->in[0];
  i->out[0].dtype = HD_F32;
  i->out[0].dim[i->out[0].n_dims++] = c->embedding_dim;
  return HD_OK;
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_embedding_config *c = config;
  slot[0] = (hd_slot){.role = "weight", .n_dims = 2, .shape = {c->vocab_size, c->embedding_dim}, .matrix = true,
                      .init = HD_INIT_NORMAL, .init_scale = 1};
  return 1;
}

/* The id at `index`, or −1 where it is no row of the table. */
static int64_t id_at(const hd_call *call, size_t index) {
  const hd_embedding_config *c = call->config;
  if (call->in[0].shape->dtype == HD_I32) {
    int32_t id = ((const int32_t *)call->in[0].data)[index];
    return id >= 0 && (size_t)id < c->vocab_size ? id : -1;
  }
  double id = trunc((double)call->in[0].data[index]);
  return id >= 0 && id < (double)c->vocab_size ? (int64_t)id : -1;
}

static hd_status refuse_id(const hd_call *call, size_t index, hd_error *err) {
  const hd_embedding_config *c = call->config;
  double id = call->in[0].shape->dtype == HD_I32 ? ((const int32_t *)call->in[0].data)[index] : (double)call->in[0].data[index];
  return hd_fail(err, HD_BAD_ARGUMENT, "layer %s: id %.0f at position %zu is outside the vocabulary of %zu", call->name, id, index,
                 c->vocab_size);
}

static hd_status forward(const hd_call *call, hd_error *err) {
  const hd_embedding_config *c = call->config;
  const hd_matrix *table = call->weight[0];
  size_t n = hd_shape_size(call->in[0].shape);
  for (size_t t = 0; t < n; t++) {
    int64_t id = id_at(call, t);
    float *row = call->out[0].data + t * c->embedding_dim;
    if (id >= 0) table->layout->row(table, (size_t)id, row);
    else if (c->unknown_is_zero) memset(row, 0, c->embedding_dim * sizeof *row);
    else return refuse_id(call, t, err);
  }
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_embedding_config *c = call->config;
  size_t n = hd_shape_size(call->in[0].shape);
  for (size_t t = 0; call->d_weight[0] && t < n; t++) {
    int64_t id = id_at(call, t);
    if (id >= 0) k_axpy_f32(call->d_weight[0] + (size_t)id * c->embedding_dim, 1, call->d_out[0] + t * c->embedding_dim, c->embedding_dim);
  }
  return HD_OK;
}

static const char *const aliases[] = {"Embedding", NULL};
static const hd_bundle_name bundle_names[] = {{"weight", "embedding_weights", false}, {NULL, NULL, false}};

const hd_layer hd_layer_embedding = {
  .name = "embedding",
  .example = "{\"type\":\"embedding\",\"vocab_size\":9,\"embedding_dim\":4,\"input_shape\":[6]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_embedding_config),
  .parse = parse,
  .write = write,
  .bundle_names = bundle_names,
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
