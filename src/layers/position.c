/* position.c: rotary position embedding ("RoFormer", Su et al., 2021). rope_table computes the cosines and sines of a call's positions
 * once; every layer's rope nodes read them. */
#include "base/status.h"
#include "kernels/attention.h"
#include "layers/rows.h"

#include <math.h>
#include <string.h>

/* Positions are the second last dimension of what they are made for. */
static size_t n_positions(const hd_shape *shape) { return shape->n_dims >= 2 ? shape->dim[shape->n_dims - 2] : 1; }

static hd_status infer_table(hd_infer *i, hd_error *err) {
  (void)err;
  const hd_rope_table_config *c = i->config;
  for (int o = 0; o < 2; o++) {
    i->out[o].dtype = HD_F32;
    i->out[o].n_dims = 2;
    i->out[o].dim[0] = n_positions(i->in[0]);
    i->out[o].dim[1] = c->head_dim;
  }
  return HD_OK;
}

/* The rows of a sequence, from its position `past` on. cos and sin are those of a double, rounded to float32. Angles are rounded too, as
 * PyTorch's are, so that far positions agree with it; the product of two floats is exact in double. */
static void fill_table(const hd_rope_table_config *c, float *cosines, float *sines, size_t past, size_t n) {
  size_t half = c->head_dim / 2;
  float magnitude = c->magnitude > 0 ? (float)c->magnitude : 1;
  for (size_t d = 0; d < half; d++) {
    double frequency = hd_rope_frequency(c, d, past + n);
    for (size_t t = 0; t < n; t++) {
      double angle = (double)(past + t) * frequency;
      if (!c->exact) angle = (double)(float)angle;
      float *cos_row = cosines + t * c->head_dim, *sin_row = sines + t * c->head_dim;
      cos_row[d] = cos_row[d + half] = (float)cos(angle) * magnitude;
      sin_row[d] = sin_row[d + half] = (float)sin(angle) * magnitude;
    }
  }
}

static hd_status forward_table(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_rope_table_config *c = call->config;
  const hd_run *run = call->run;
  for (size_t k = 0, row = 0; k < run->n_sequences; k++) {
    size_t n = hd_rows_of(run, k, call->out[0].shape->dim[0]);
    fill_table(c, call->out[0].data + row * c->head_dim, call->out[1].data + row * c->head_dim, run->sequences[k].past, n);
    row += n;
  }
  return HD_OK;
}

static hd_status backward_table(const hd_call *call, hd_error *err) {
  (void)call;
  (void)err;
  return HD_OK; /* positions have no gradient */
}

static size_t turned(const hd_rope_config *c) { return c->turned ? c->turned : c->head_dim; }

static hd_status infer_rope(hd_infer *i, hd_error *err) {
  const hd_rope_config *c = i->config;
  if (i->in[0]->n_dims < 2 || hd_shape_last(i->in[0]) % c->head_dim != 0)
    return hd_infer_fail(i, err, "expected positions × heads of %zu, found rows of %zu", c->head_dim, hd_shape_last(i->in[0]));
  if (turned(c) % 2 != 0) return hd_infer_fail(i, err, "expected heads of an even size for rotary positions, found %zu", turned(c));
  if (i->in[1]->dim[0] < n_positions(i->in[0]))
    return hd_infer_fail(i, err, "the rotary table has %zu positions, found %zu", i->in[1]->dim[0], n_positions(i->in[0]));
  i->out[0] = *i->in[0];
  return HD_OK;
}

static void rotate(const hd_call *call, float *y, const float *x, float sign) {
  const hd_rope_config *c = call->config;
  const hd_shape *shape = call->in[0].shape;
  size_t n = n_positions(shape), width = hd_shape_last(shape), batch = hd_shape_rows(shape) / n;
  for (size_t b = 0; b < batch; b++)
    k_rope_f32(y + b * n * width, x + b * n * width, call->in[1].data, call->in[2].data,
               n, width / c->head_dim, c->head_dim, turned(c), sign);
}

static hd_status forward_rope(const hd_call *call, hd_error *err) {
  (void)err;
  rotate(call, call->out[0].data, call->in[0].data, 1);
  return HD_OK;
}

/* A rotation's gradient is the rotation back. scratch holds it before it is added. */
static hd_status backward_rope(const hd_call *call, hd_error *err) {
  (void)err;
  if (!call->d_in[0]) return HD_OK;
  rotate(call, call->scratch, call->d_out[0], -1);
  k_axpy_f32(call->d_in[0], 1, call->scratch, hd_shape_size(call->in[0].shape));
  return HD_OK;
}

static hd_status infer_rope_with_scratch(hd_infer *i, hd_error *err) {
  HD_TRY(infer_rope(i, err));
  i->scratch_bytes = i->run->keep ? hd_times(hd_shape_size(i->in[0]), sizeof(float)) : 0;
  return HD_OK;
}

hd_value hd_build_rope_table(hd_builder *b, const hd_rope_table_config *c, hd_value x) {
  /* Loom's layers take whatever rows they are given, so that a table may not fit the next layer; the others share one. */
  if (c->exact) return hd_build(b, &hd_layer_rope_table, "rope", "", c, &x, 1);
  hd_rope_table_config bare;
  memset(&bare, 0, sizeof bare); /* shared nodes are found by their configs' bytes */
  bare.head_dim = c->head_dim;
  bare.theta = c->theta;
  bare.kind = c->kind;
  bare.factor = c->factor;
  bare.original = c->original;
  bare.low = c->low;
  bare.high = c->high;
  bare.magnitude = c->magnitude;
  bare.short_factors = c->short_factors;
  bare.long_factors = c->long_factors;
  return hd_build_shared(b, &hd_layer_rope_table, "rope", &bare, x);
}

static const char *const table_outputs[] = {"cos", "sin"};

const hd_layer hd_layer_rope_table = {
  .name = "rope_table",
  .config_bytes = sizeof(hd_rope_table_config),
  .infer = infer_table,
  .n_outputs = 2,
  .output_names = table_outputs,
  .many_sequences = true,
  .forward = forward_table,
  .backward = backward_table,
};

const hd_layer hd_layer_rope = {
  .name = "rope",
  .config_bytes = sizeof(hd_rope_config),
  .infer = infer_rope_with_scratch,
  .many_sequences = true,
  .in_place = true,
  .forward = forward_rope,
  .backward = backward_rope,
};
