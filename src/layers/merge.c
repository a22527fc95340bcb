/* merge.c: values that meet. add and multiply join two values; sequential and residual are the containers that declare them. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

static hd_status infer_same(hd_infer *i, hd_error *err) {
  const hd_shape *a = i->in[0], *b = i->in[1];
  bool same = a->n_dims == b->n_dims;
  for (int d = 0; same && d < a->n_dims; d++) same = a->dim[d] == b->dim[d];
  if (!same) {
    char room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
    return hd_infer_fail(i, err, "cannot join shapes %s and %s", hd_shape_text(room_a, a->n_dims, a->dim), hd_shape_text(room_b, b->n_dims, b->dim));
  }
  i->out[0] = *a;
  return HD_OK;
}

static hd_status forward_add(const hd_call *call, hd_error *err) {
  (void)err;
  k_add_f32(call->out[0].data, call->in[0].data, call->in[1].data, hd_shape_size(call->out[0].shape));
  return HD_OK;
}

static hd_status backward_add(const hd_call *call, hd_error *err) {
  (void)err;
  size_t n = hd_shape_size(call->out[0].shape);
  for (int i = 0; i < 2; i++)
    if (call->d_in[i]) k_axpy_f32(call->d_in[i], 1, call->d_out[0], n);
  return HD_OK;
}

static hd_status forward_multiply(const hd_call *call, hd_error *err) {
  (void)err;
  k_multiply_f32(call->out[0].data, call->in[0].data, call->in[1].data, hd_shape_size(call->out[0].shape));
  return HD_OK;
}

static hd_status backward_multiply(const hd_call *call, hd_error *err) {
  (void)err;
  size_t n = hd_shape_size(call->out[0].shape);
  for (int i = 0; i < 2; i++)
    if (call->d_in[i]) k_multiply_add_f32(call->d_in[i], call->d_out[0], call->in[1 - i].data, n);
  return HD_OK;
}

static hd_value chain(hd_builder *b, const hd_spec *spec, hd_value x) {
  for (size_t i = 0; i < spec->n_children; i++) x = hd_build_spec(b, spec->children[i], x);
  return x;
}

static hd_value expand_residual(hd_builder *b, const hd_spec *spec, hd_value input) {
  hd_value y = chain(b, spec, input);
  return hd_build(b, &hd_layer_add, "", "", NULL, (hd_value[]){input, y}, 2);
}

static void parse_container(void *config, hd_parse *p) {
  (void)config;
  if (p->spec->n_children == 0) hd_json_refuse(&p->json, "branches", HD_BAD_FILE, "expected at least one layer");
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "'%s' in the loom dialect is not built yet", p->spec->layer->name);
}

static hd_status write_container(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)config;
  (void)json;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect cannot hold this container");
  return HD_OK;
}

const hd_layer hd_layer_add = {
  .name = "add", .infer = infer_same, .in_place = true, .forward = forward_add, .backward = backward_add,
};

/* Loom adds its hidden residual only where the lengths agree. */
static hd_status infer_carried(hd_infer *i, hd_error *err) {
  (void)err;
  i->out[0] = *i->in[0];
  return HD_OK;
}

static bool carried_fits(const hd_call *call) { return hd_shape_size(call->in[0].shape) == hd_shape_size(call->in[1].shape); }

static hd_status forward_carried(const hd_call *call, hd_error *err) {
  if (carried_fits(call)) return forward_add(call, err);
  memmove(call->out[0].data, call->in[0].data, hd_shape_size(call->out[0].shape) * sizeof(float));
  return HD_OK;
}

static hd_status backward_carried(const hd_call *call, hd_error *err) {
  if (carried_fits(call)) return backward_add(call, err);
  if (call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], hd_shape_size(call->out[0].shape));
  return HD_OK;
}

const hd_layer hd_layer_add_carried = {
  .name = "add_carried", .infer = infer_carried, .in_place = true, .forward = forward_carried, .backward = backward_carried,
};

const hd_layer hd_layer_multiply = {
  .name = "multiply", .infer = infer_same, .in_place = true, .forward = forward_multiply, .backward = backward_multiply,
};

const hd_layer hd_layer_sequential = {
  .name = "sequential",
  .example = "{\"type\":\"sequential\",\"input_shape\":[2,4],\"branches\":[{\"type\":\"dense\",\"in_features\":4,\"out_features\":5,\"activation\":\"tanh\"},{\"type\":\"linear\",\"in_features\":5,\"out_features\":4}]}",
  .has_children = true, .parse = parse_container, .write = write_container, .expand = chain,
};

const hd_layer hd_layer_residual = {
  .name = "residual",
  .example = "{\"type\":\"residual\",\"input_shape\":[2,4],\"branches\":[{\"type\":\"dense\",\"in_features\":4,\"out_features\":5,\"activation\":\"tanh\"},{\"type\":\"linear\",\"in_features\":5,\"out_features\":4}]}",
  .has_children = true, .parse = parse_container, .write = write_container, .expand = expand_residual,
};
