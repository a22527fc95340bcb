/* select.c: a value, or a part of it, seen otherwise: as_rows and last_rows.
 *
 * as_rows: a value of any shape as rows of `width`, the way Loom reads the vector that it passes
 * along; a tail shorter than a row is left out.
 *
 * last_rows: the last rows of a value, of each sequence in it. Before a language model's head it keeps prefill from computing logits that
 * nobody reads: how many rows are wanted is the session's choice (hd_session_options.output_rows), not the graph's. */
#include "layers/rows.h"

#include <string.h>

#include "kernels/elementwise.h"

static size_t wanted(const hd_run *run, size_t rows) { return run->output_rows && run->output_rows < rows ? run->output_rows : rows; }

static hd_status infer(hd_infer *i, hd_error *err) {
  const size_t rows = i->in[0]->dim[0];
  if (i->in[0]->n_dims != 2) return hd_infer_fail(i, err, "expected rows × features, found %d dimensions", i->in[0]->n_dims);
  i->out[0] = *i->in[0];
  i->out[0].dim[0] = 0;
  for (size_t k = 0; k < i->run->n_sequences; k++) i->out[0].dim[0] += wanted(i->run, hd_rows_of(i->run, k, rows));
  return HD_OK;
}

/* The values of a sequence that are kept: n of them, where they lie in the input and in the output. */
typedef struct kept {
  size_t from, to, n;
} kept;

static kept keep_next(const hd_call *call, size_t sequence, kept last) {
  size_t width = hd_shape_last(call->in[0].shape), rows = hd_rows_of(call->run, sequence, call->in[0].shape->dim[0]),
         want = wanted(call->run, rows);
  return (kept){.from = last.from + last.n + (rows - want) * width, .to = last.to + last.n, .n = want * width};
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  kept k = {0};
  for (size_t s = 0; s < call->run->n_sequences; s++) {
    k = keep_next(call, s, k);
    memmove(call->out[0].data + k.to, call->in[0].data + k.from, k.n * sizeof(float));
  }
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  kept k = {0};
  for (size_t s = 0; call->d_in[0] && s < call->run->n_sequences; s++) {
    k = keep_next(call, s, k);
    k_axpy_f32(call->d_in[0] + k.from, 1, call->d_out[0] + k.to, k.n);
  }
  return HD_OK;
}

static hd_status infer_rows(hd_infer *i, hd_error *err) {
  const hd_as_rows_config *c = i->config;
  size_t n = hd_shape_size(i->in[0]) / c->width;
  if (n == 0) return hd_infer_fail(i, err, "expected rows of %zu values, found %zu values in all", c->width, hd_shape_size(i->in[0]));
  i->out[0] = (hd_shape){.dtype = HD_F32, .n_dims = 2, .dim = {n, c->width}};
  return HD_OK;
}

static hd_status forward_rows(const hd_call *call, hd_error *err) {
  (void)err;
  if (call->out[0].data != call->in[0].data)
    memmove(call->out[0].data, call->in[0].data, hd_shape_size(call->out[0].shape) * sizeof(float));
  return HD_OK;
}

static hd_status backward_rows(const hd_call *call, hd_error *err) {
  (void)err;
  if (call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], hd_shape_size(call->out[0].shape));
  return HD_OK;
}

const hd_layer hd_layer_as_rows = {
  .name = "as_rows", .config_bytes = sizeof(hd_as_rows_config), .infer = infer_rows, .in_place = true,
  .forward = forward_rows, .backward = backward_rows,
};

static void parse(void *config, hd_parse *p) {
  (void)config;
  (void)p;
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)config;
  (void)json;
  (void)dialect;
  (void)err;
  return HD_OK;
}

const hd_layer hd_layer_last_rows = {
  .name = "last_rows",
  .example = "{\"type\":\"last_rows\",\"input_shape\":[4,3]}",
  .parse = parse, .write = write, .infer = infer, .many_sequences = true, .forward = forward, .backward = backward,
};
