/* linear.c: y = W·x + b, and the helper through which every layer multiplies by a weight. LoRA lives here and nowhere else: no layer
 * knows whether its weights carry an adapter. */
#include "base/status.h"
#include "kernels/elementwise.h"
#include "layers/rows.h"

#include <string.h>

/* y[n_rows, out] += scale · (x[n_rows, in] · aᵀ) · bᵀ */
static void add_lora(const hd_lora *lora, const hd_matrix *w, const float *x, size_t n_rows, float *y, float *low) {
  const hd_matrix a = {&hd_layout_rows_f32, lora->rank, w->cols, (void *)(uintptr_t)lora->a};
  a.layout->matmul(low, x, n_rows, &a, NULL);
  for (size_t t = 0; t < n_rows; t++) {
    const float *restrict l = low + t * lora->rank;
    float *restrict row = y + t * w->rows;
    for (size_t o = 0; o < w->rows; o++) {
      float sum = 0;
      for (size_t r = 0; r < lora->rank; r++) sum += l[r] * lora->b[o * lora->rank + r];
      row[o] += lora->scale * sum;
    }
  }
}

void hd_linear(const hd_call *call, int slot, const float *x, size_t n_rows, float *y) {
  const hd_matrix *w = call->weight[slot];
  w->layout->matmul(y, x, n_rows, w, call->scratch);
  if (call->lora[slot]) add_lora(call->lora[slot], w, x, n_rows, y, call->lora_scratch);
}

static void parse(void *config, hd_parse *p) {
  hd_linear_config *c = config;
  c->in_features = hd_json_need_size(&p->json, "in_features", SIZE_MAX);
  c->out_features = hd_json_need_size(&p->json, "out_features", SIZE_MAX);
  c->bias = hd_json_get_bool(&p->json, "bias", true);
  c->in_out = hd_json_get_bool(&p->json, "in_out", false);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_linear_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no linear layer without activation");
  cJSON_AddNumberToObject(json, "in_features", (double)c->in_features);
  cJSON_AddNumberToObject(json, "out_features", (double)c->out_features);
  cJSON_AddBoolToObject(json, "bias", c->bias);
  if (c->in_out) cJSON_AddBoolToObject(json, "in_out", true);
  return HD_OK;
}

/* Rows of the input: Loom fixes them, else all dimensions before the last; a flat list may hold several rows. */
static size_t n_rows(const hd_linear_config *c, const hd_shape *in) {
  if (c->fixed_rows) return c->fixed_rows;
  return hd_shape_size(in) / c->in_features;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_linear_config *c = i->config;
  const hd_shape *in = i->in[0];
  hd_shape *out = &i->out[0];
  size_t rows = n_rows(c, in);
  bool fits = in->n_dims == 1 ? hd_shape_size(in) % c->in_features == 0 : hd_shape_last(in) == c->in_features;
  if (!c->fixed_rows && !(fits && rows > 0)) {
    char room[HD_SHAPE_ROOM];
    return hd_infer_fail(i, err, "expected %zu input features, found shape %s", c->in_features, hd_shape_text(room, in->n_dims, in->dim));
  }
  *out = *in;
  out->dtype = HD_F32;
  if (c->fixed_rows || (in->n_dims == 1 && rows > 1)) {
    out->n_dims = 2;
    out->dim[0] = rows;
  }
  if (out->n_dims == 0) out->n_dims = 1;
  out->dim[out->n_dims - 1] = c->out_features;
  size_t padded;
  if (!hd_mul_size(rows, c->in_features, &padded) || padded > SIZE_MAX / 8)
    return hd_infer_fail(i, err, "%zu rows of %zu values are too large", rows, c->in_features);
  i->scratch_bytes = i->weight[0] ? i->weight[0]->layout->scratch_bytes(i->weight[0], rows) : 0;
  if (c->fixed_rows && hd_shape_size(in) < padded) i->scratch_bytes = hd_plus(i->scratch_bytes, padded * sizeof(float) + 64);
  return HD_OK;
}

static size_t out_features(const void *config) { return ((const hd_linear_config *)config)->out_features; }

/* Only Loom's dense layers, whose rows are fixed, do with a kernel that is too short. */
static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_linear_config *c = config;
  hd_lack lack = c->fixed_rows ? HD_LACK_PADDED : HD_LACK_REFUSED;
  slot[0] = (hd_slot){.role = c->weight_role ? c->weight_role : "weight", .n_dims = 2, .shape = {c->out_features, c->in_features},
                      .matrix = true, .in_out = c->in_out, .lack = lack, .init = HD_INIT_UNIFORM_FAN_IN, .init_scale = 1};
  if (!c->bias) return 1;
  slot[1] = (hd_slot){.role = c->bias_role ? c->bias_role : "bias", .n_dims = 1, .shape = {c->out_features},
                      .lack = lack, .init = HD_INIT_ZERO};
  return 2;
}

/* The input with zeros after its end, for Loom's short inputs; behind it the kernel's own scratch begins. */
static const float *padded_input(const hd_call *call, size_t rows, void **kernel_scratch) {
  const hd_linear_config *c = call->config;
  size_t want = rows * c->in_features, have = hd_shape_size(call->in[0].shape);
  *kernel_scratch = call->scratch;
  if (!c->fixed_rows || have >= want) return call->in[0].data;
  float *padded = call->scratch;
  memcpy(padded, call->in[0].data, have * sizeof *padded);
  memset(padded + have, 0, (want - have) * sizeof *padded);
  *kernel_scratch = (char *)call->scratch + hd_align(want * sizeof *padded, 64);
  return padded;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_linear_config *c = call->config;
  size_t rows = n_rows(c, call->in[0].shape);
  hd_call inner = *call;
  const float *x = padded_input(call, rows, &inner.scratch);
  hd_linear(&inner, 0, x, rows, call->out[0].data);
  if (call->weight[1]) k_add_rows_f32(call->out[0].data, call->weight[1]->data, rows, c->out_features);
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  const hd_linear_config *c = call->config;
  size_t rows = n_rows(c, call->in[0].shape);
  if (c->fixed_rows && hd_shape_size(call->in[0].shape) != rows * c->in_features)
    return hd_fail(err, HD_UNSUPPORTED, "layer %s: training needs an input of exactly %zu values", call->name, rows * c->in_features);
  const hd_matrix *w = call->weight[0];
  if (call->d_in[0]) w->layout->matmul_grad(call->d_in[0], call->d_out[0], rows, w);
  if (call->d_weight[0]) k_matmul_weight_grad(call->d_weight[0], call->d_out[0], call->in[0].data, rows, w->rows, w->cols);
  if (call->weight[1] && call->d_weight[1]) k_sum_rows_f32(call->d_weight[1], call->d_out[0], rows, c->out_features);
  return HD_OK;
}

static const char *const aliases[] = {"Linear", NULL};

const hd_layer hd_layer_linear = {
  .name = "linear",
  .example = "{\"type\":\"linear\",\"in_features\":5,\"out_features\":3,\"input_shape\":[4,5]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_linear_config),
  .parse = parse,
  .write = write,
  .out_features = out_features,
  .infer = infer,
  .many_sequences = true,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
