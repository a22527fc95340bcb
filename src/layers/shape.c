/* shape.c: layers that pass their input on: flatten under another shape, dropout as it is in eval; and glu, one half gated by the other. */
#include "base/status.h"
#include "layers/axes.h"
#include "layers/rows.h"

#include <string.h>

static void refuse_loom(hd_parse *p) {
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static hd_status only_standard(hd_dialect dialect, const char *name, hd_error *err) {
  return dialect == HD_LOOM ? hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no '%s'", name) : HD_OK;
}

static hd_status forward_same(const hd_call *call, hd_error *err) {
  (void)err;
  memmove(call->out[0].data, call->in[0].data, hd_shape_size(call->out[0].shape) * sizeof(float));
  return HD_OK;
}

static hd_status backward_same(const hd_call *call, hd_error *err) {
  (void)err;
  if (call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], hd_shape_size(call->out[0].shape));
  return HD_OK;
}

/* ---- flatten: dimensions start_dim … end_dim become one; negative ones count from the end ---- */

typedef struct flatten_config {
  int first, last;
} flatten_config;

static int get_dim(hd_parse *p, const char *key, int missing) {
  double dim = hd_json_get_number(&p->json, key, missing);
  if (dim >= -HD_MAX_DIMS && dim < HD_MAX_DIMS && dim == (double)(int)dim) return (int)dim;
  hd_json_refuse(&p->json, key, HD_BAD_FILE, "expected a dimension of %d to %d", -HD_MAX_DIMS, HD_MAX_DIMS - 1);
  return missing;
}

static void parse_flatten(void *config, hd_parse *p) {
  flatten_config *c = config;
  c->first = get_dim(p, "start_dim", 1);
  c->last = get_dim(p, "end_dim", -1);
  refuse_loom(p);
}

static hd_status write_flatten(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const flatten_config *c = config;
  cJSON_AddNumberToObject(json, "start_dim", c->first);
  cJSON_AddNumberToObject(json, "end_dim", c->last);
  return only_standard(dialect, "flatten", err);
}

static hd_status infer_flatten(hd_infer *i, hd_error *err) {
  const flatten_config *c = i->config;
  const hd_shape *in = i->in[0];
  int first = c->first < 0 ? c->first + in->n_dims : c->first, last = c->last < 0 ? c->last + in->n_dims : c->last;
  if (first < 0 || last >= in->n_dims || first > last)
    return hd_infer_fail(i, err, "cannot flatten dimensions %d to %d of %d", c->first, c->last, in->n_dims);
  hd_shape *out = &i->out[0];
  out->n_dims = in->n_dims - (last - first);
  for (int d = 0; d < out->n_dims; d++) out->dim[d] = in->dim[d <= first ? d : d + (last - first)];
  for (int d = first + 1; d <= last; d++) out->dim[first] *= in->dim[d];
  return HD_OK;
}

/* ---- dropout ---- */

typedef struct dropout_config {
  double p;
} dropout_config;

static void parse_dropout(void *config, hd_parse *p) {
  dropout_config *c = config;
  c->p = hd_json_get_number(&p->json, "p", 0.5);
  if (!(c->p >= 0 && c->p <= 1)) hd_json_refuse(&p->json, "p", HD_BAD_FILE, "expected a probability");
  hd_refuse_inputs(p, (const char *const[]){"mask", NULL});
  refuse_loom(p);
}

static hd_status write_dropout(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  cJSON_AddNumberToObject(json, "p", ((const dropout_config *)config)->p);
  return only_standard(dialect, "dropout", err);
}

/* ---- glu: a · σ(b), a and b the halves of the last dimension ---- */

/* "Language Modeling with Gated Convolutional Networks", Dauphin et al., 2017. */
static void parse_glu(void *config, hd_parse *p) {
  (void)config;
  if (get_dim(p, "dim", -1) != -1) hd_json_refuse(&p->json, "dim", HD_UNSUPPORTED, "glu splits the last dimension only");
  refuse_loom(p);
}

static hd_status write_glu(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)config;
  (void)json;
  return only_standard(dialect, "glu", err);
}

static hd_status infer_glu(hd_infer *i, hd_error *err) {
  size_t width = hd_shape_last(i->in[0]);
  if (i->in[0]->n_dims == 0 || width % 2) return hd_infer_fail(i, err, "expected rows of an even size, found %zu", width);
  i->out[0] = *i->in[0];
  i->out[0].dim[i->out[0].n_dims - 1] = width / 2;
  i->scratch_bytes = hd_times(width, sizeof(float));
  return HD_OK;
}

static hd_status forward_glu(const hd_call *call, hd_error *err) {
  (void)err;
  size_t n = hd_shape_last(call->out[0].shape), rows = hd_shape_rows(call->out[0].shape);
  const hd_activation *sigmoid = hd_activation_find("sigmoid");
  for (size_t r = 0; r < rows; r++) {
    const float *a = call->in[0].data + r * 2 * n;
    sigmoid->forward(call->out[0].data + r * n, a + n, n);
    k_multiply_f32(call->out[0].data + r * n, call->out[0].data + r * n, a, n);
  }
  return HD_OK;
}

/* scratch: σ(b), then d_y · a */
static hd_status backward_glu(const hd_call *call, hd_error *err) {
  (void)err;
  size_t n = hd_shape_last(call->out[0].shape), rows = hd_shape_rows(call->out[0].shape);
  const hd_activation *sigmoid = hd_activation_find("sigmoid");
  float *gate = call->scratch, *d_gate = gate + n;
  for (size_t r = 0; call->d_in[0] && r < rows; r++) {
    const float *a = call->in[0].data + r * 2 * n, *d_y = call->d_out[0] + r * n;
    float *d_a = call->d_in[0] + r * 2 * n;
    sigmoid->forward(gate, a + n, n);
    k_multiply_add_f32(d_a, d_y, gate, n);
    k_multiply_f32(d_gate, d_y, a, n);
    sigmoid->backward(d_a + n, d_gate, a + n, n);
  }
  return HD_OK;
}

/* ---- Rows ---- */

static const char *const flatten_aliases[] = {"Flatten", NULL}, *const dropout_aliases[] = {"Dropout", NULL},
                  *const glu_aliases[] = {"GLU", NULL};

const hd_layer hd_layer_flatten = {
  .name = "flatten",
  .example = "{\"type\":\"flatten\",\"input_shape\":[2,3,4]}",
  .aliases = flatten_aliases,
  .config_bytes = sizeof(flatten_config),
  .parse = parse_flatten,
  .write = write_flatten,
  .infer = infer_flatten,
  .in_place = true,
  .forward = forward_same,
  .backward = backward_same,
};

const hd_layer hd_layer_dropout = {
  .name = "dropout",
  .example = "{\"type\":\"dropout\",\"p\":0.1,\"input_shape\":[2,3]}",
  .aliases = dropout_aliases,
  .config_bytes = sizeof(dropout_config),
  .parse = parse_dropout,
  .write = write_dropout,
  .infer = hd_infer_same,
  .many_sequences = true,
  .in_place = true,
  .forward = forward_same,
  .backward = backward_same,
};

const hd_layer hd_layer_glu = {
  .name = "glu",
  .example = "{\"type\":\"glu\",\"input_shape\":[3,8]}",
  .aliases = glu_aliases,
  .parse = parse_glu,
  .write = write_glu,
  .infer = infer_glu,
  .forward = forward_glu,
  .backward = backward_glu,
};
