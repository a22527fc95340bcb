/* embedding.c: ids → rows of a table. Ids come as I32 (language models) or as F32 numbers, truncated, the way Loom's networks pass them. */
#include "base/status.h"
#include "kernels/elementwise.h"
#include "layers/rows.h"

#include <math.h>
#include <string.h>

static void parse(void *config, hd_parse *p) {
  hd_embedding_config *c = config;
  static const char *const rows[] = {"vocab_size", "num_embeddings", NULL};
  c->vocab_size = hd_json_get_size(&p->json, hd_json_has(&p->json, rows[1]) ? rows[1] : rows[0], 0);
  if (c->vocab_size == 0) hd_json_refuse_size(&p->json, rows, SIZE_MAX);
  c->embedding_dim = hd_json_need_size(&p->json, "embedding_dim", SIZE_MAX);
  c->scale = (float)hd_json_get_number(&p->json, "scale", 0);
  c->unknown_is_zero = p->dialect == HD_LOOM;
  c->has_padding = hd_json_has(&p->json, "padding_idx");
  double padding = hd_json_get_number(&p->json, "padding_idx", 0);
  if (padding < 0) padding += (double)c->vocab_size; /* as PyTorch counts */
  c->padding = padding >= 0 && padding < (double)c->vocab_size ? (size_t)padding : c->vocab_size;
  if (c->has_padding && c->padding == c->vocab_size) hd_json_refuse(&p->json, "padding_idx", HD_BAD_FILE, "expected a row of the table");
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_embedding_config *c = config;
  (void)dialect;
  (void)err;
  cJSON_AddNumberToObject(json, "vocab_size", (double)c->vocab_size);
  cJSON_AddNumberToObject(json, "embedding_dim", (double)c->embedding_dim);
  if (c->has_padding) cJSON_AddNumberToObject(json, "padding_idx", (double)c->padding);
  if (c->scale != 0) hd_json_add_float(json, "scale", c->scale);
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
  slot[0] = (hd_slot){.role = "weight", .n_dims = 2, .shape = {c->vocab_size, c->embedding_dim}, .matrix = true, .lookup = true,
                      .init = HD_INIT_NORMAL, .init_scale = 1};
  return 1;
}

int64_t hd_id_at(const hd_view *ids, size_t index, size_t n) {
  if (ids->shape->dtype == HD_I32) {
    int32_t id = ((const int32_t *)ids->data)[index];
    return id >= 0 && (size_t)id < n ? id : -1;
  }
  double id = trunc((double)ids->data[index]);
  return id >= 0 && id < (double)n ? (int64_t)id : -1;
}

/* The row that the id at `index` means, or −1 where there is none. */
static int64_t id_at(const hd_call *call, size_t index) {
  const hd_embedding_config *c = call->config;
  int64_t id = hd_id_at(&call->in[0], index, c->vocab_size * (c->n_types ? c->n_types : 1));
  return id < 0 ? -1 : id % (int64_t)c->vocab_size;
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
    for (size_t i = 0; c->scale != 0 && i < c->embedding_dim; i++) row[i] *= c->scale;
  }
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_embedding_config *c = call->config;
  size_t n = hd_shape_size(call->in[0].shape);
  for (size_t t = 0; call->d_weight[0] && t < n; t++) {
    int64_t id = id_at(call, t);
    bool is_padding = c->has_padding && id == (int64_t)c->padding;
    if (id >= 0 && !is_padding)
      k_axpy_f32(call->d_weight[0] + (size_t)id * c->embedding_dim, c->scale != 0 ? c->scale : 1,
                 call->d_out[0] + t * c->embedding_dim, c->embedding_dim);
  }
  return HD_OK;
}

/* ---- embedding_bag: the mean or the sum of the rows that the last dimension's ids name, as PyTorch's EmbeddingBag ---- */

typedef struct bag_config {
  hd_embedding_config embedding;
  bool mean;
} bag_config;

static void parse_bag(void *config, hd_parse *p) {
  bag_config *c = config;
  const char *mode = hd_json_get_text(&p->json, "mode", "mean");
  char room[HD_NAME_ROOM];
  parse(&c->embedding, p);
  c->mean = strcmp(mode, "mean") == 0;
  if (!c->mean && strcmp(mode, "sum") != 0)
    hd_json_refuse(&p->json, "mode", HD_UNSUPPORTED, "expected mean or sum, found '%s'", hd_short_name(room, mode));
  if (c->embedding.has_padding) hd_json_refuse(&p->json, "padding_idx", HD_UNSUPPORTED, "bags with padding are not built");
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no 'embedding_bag'");
}

static hd_status write_bag(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const bag_config *c = config;
  HD_TRY(write(&c->embedding, json, dialect, err));
  cJSON_AddStringToObject(json, "mode", c->mean ? "mean" : "sum");
  return HD_OK;
}

static hd_value expand_bag(hd_builder *b, const hd_spec *spec, hd_value ids) {
  const bag_config *c = spec->config;
  hd_value rows = hd_build(b, &hd_layer_embedding, "rows", "", &c->embedding, &ids, 1);
  return hd_build(b, &hd_layer_sum_rows, "", "", &(hd_sum_rows_config){c->mean}, &rows, 1);
}

static hd_status infer_sum(hd_infer *i, hd_error *err) {
  const hd_shape *in = i->in[0];
  if (in->n_dims < 2 || in->dim[in->n_dims - 2] == 0) return hd_infer_fail(i, err, "expected rows to sum, found %d dimensions", in->n_dims);
  i->out[0] = *in;
  i->out[0].n_dims--;
  i->out[0].dim[in->n_dims - 2] = in->dim[in->n_dims - 1];
  return HD_OK;
}

/* Rows that come together, and what each counts. */
static size_t n_summed(const hd_call *call) { return call->in[0].shape->dim[call->in[0].shape->n_dims - 2]; }
static float share(const hd_call *call) { return ((const hd_sum_rows_config *)call->config)->mean ? 1.0f / (float)n_summed(call) : 1.0f; }

static hd_status forward_sum(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = hd_shape_last(call->in[0].shape), rows = hd_shape_rows(call->in[0].shape);
  memset(call->out[0].data, 0, hd_shape_size(call->out[0].shape) * sizeof(float));
  for (size_t r = 0; r < rows; r++)
    k_axpy_f32(call->out[0].data + r / n_summed(call) * width, share(call), call->in[0].data + r * width, width);
  return HD_OK;
}

static hd_status backward_sum(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = hd_shape_last(call->in[0].shape), rows = hd_shape_rows(call->in[0].shape);
  for (size_t r = 0; call->d_in[0] && r < rows; r++)
    k_axpy_f32(call->d_in[0] + r * width, share(call), call->d_out[0] + r / n_summed(call) * width, width);
  return HD_OK;
}

const hd_layer hd_layer_sum_rows = {
  .name = "sum_rows", .config_bytes = sizeof(hd_sum_rows_config), .infer = infer_sum, .forward = forward_sum, .backward = backward_sum,
};

static const char *const bag_aliases[] = {"EmbeddingBag", NULL};

const hd_layer hd_layer_embedding_bag = {
  .name = "embedding_bag",
  .example = "{\"type\":\"embedding_bag\",\"num_embeddings\":9,\"embedding_dim\":4,\"input_shape\":[2,3]}",
  .aliases = bag_aliases,
  .config_bytes = sizeof(bag_config),
  .parse = parse_bag,
  .write = write_bag,
  .expand = expand_bag,
};

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
  .many_sequences = true,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
