/* columns.c: the last dimension put together and taken apart. join: values of equal rows beside each other; columns: some of a value's. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

/* ---- join ---- */

static hd_status infer_join(hd_infer *i, hd_error *err) {
  size_t rows = hd_shape_rows(i->in[0]), width = 0;
  for (size_t k = 0; k < i->n_in; k++) {
    if (hd_shape_rows(i->in[k]) != rows) return hd_infer_fail(i, err, "cannot join %zu rows and %zu", rows, hd_shape_rows(i->in[k]));
    width += hd_shape_last(i->in[k]);
  }
  i->out[0] = *i->in[0];
  i->out[0].dim[i->out[0].n_dims - 1] = width;
  return HD_OK;
}

static hd_status forward_join(const hd_call *call, hd_error *err) {
  (void)err;
  size_t rows = hd_shape_rows(call->out[0].shape), width = hd_shape_last(call->out[0].shape), at = 0;
  for (size_t k = 0; k < call->n_in; k++) {
    size_t n = hd_shape_last(call->in[k].shape);
    for (size_t r = 0; r < rows; r++) memcpy(call->out[0].data + r * width + at, call->in[k].data + r * n, n * sizeof(float));
    at += n;
  }
  return HD_OK;
}

static hd_status backward_join(const hd_call *call, hd_error *err) {
  (void)err;
  size_t rows = hd_shape_rows(call->out[0].shape), width = hd_shape_last(call->out[0].shape), at = 0;
  for (size_t k = 0; k < call->n_in; k++) {
    size_t n = hd_shape_last(call->in[k].shape);
    for (size_t r = 0; call->d_in[k] && r < rows; r++) k_axpy_f32(call->d_in[k] + r * n, 1, call->d_out[0] + r * width + at, n);
    at += n;
  }
  return HD_OK;
}

const hd_layer hd_layer_join = {.name = "join", .infer = infer_join, .many_sequences = true,
                                .forward = forward_join, .backward = backward_join};

/* ---- columns ---- */

static hd_status infer_columns(hd_infer *i, hd_error *err) {
  const hd_columns_config *c = i->config;
  if (hd_shape_last(i->in[0]) < c->first + c->n)
    return hd_infer_fail(i, err, "expected rows of %zu, found %zu", c->first + c->n, hd_shape_last(i->in[0]));
  i->out[0] = *i->in[0];
  i->out[0].dim[i->out[0].n_dims - 1] = c->n;
  return HD_OK;
}

static hd_status forward_columns(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_columns_config *c = call->config;
  size_t rows = hd_shape_rows(call->out[0].shape), width = hd_shape_last(call->in[0].shape);
  for (size_t r = 0; r < rows; r++) memcpy(call->out[0].data + r * c->n, call->in[0].data + r * width + c->first, c->n * sizeof(float));
  return HD_OK;
}

static hd_status backward_columns(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_columns_config *c = call->config;
  size_t rows = hd_shape_rows(call->out[0].shape), width = hd_shape_last(call->in[0].shape);
  for (size_t r = 0; call->d_in[0] && r < rows; r++) k_axpy_f32(call->d_in[0] + r * width + c->first, 1, call->d_out[0] + r * c->n, c->n);
  return HD_OK;
}

const hd_layer hd_layer_columns = {
  .name = "columns", .config_bytes = sizeof(hd_columns_config), .infer = infer_columns, .many_sequences = true,
  .forward = forward_columns, .backward = backward_columns,
};
