/* merge.c: values that meet. add and multiply join two values; sequential and residual are the containers that declare them. In the loom
 * dialect they do what Loom's do: a sequential runs its dense and softmax layers and skips the rest, a residual is an activation. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

static hd_status infer_same(hd_infer *i, hd_error *err) {
  const hd_shape *a = i->in[0], *b = i->in[1];
  bool same = a->n_dims == b->n_dims;
  for (int d = 0; same && d < a->n_dims; d++) same = a->dim[d] == b->dim[d];
  if (!same) {
    char room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
    return hd_infer_fail(i, err, "cannot join shapes %s and %s",
                         hd_shape_text(room_a, a->n_dims, a->dim), hd_shape_text(room_b, b->n_dims, b->dim));
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

/* ---- output ---- */

static hd_status forward_output(const hd_call *call, hd_error *err) {
  (void)err;
  if (call->out[0].data != call->in[0].data)
    memmove(call->out[0].data, call->in[0].data, hd_shape_size(call->out[0].shape) * sizeof(float));
  return HD_OK;
}

static hd_status backward_output(const hd_call *call, hd_error *err) {
  (void)err;
  if (call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], hd_shape_size(call->out[0].shape));
  return HD_OK;
}

const hd_layer hd_layer_output = {
  .name = "output", .infer = hd_infer_same, .many_sequences = true, .in_place = true,
  .forward = forward_output, .backward = backward_output,
};

/* ---- Containers ---- */

typedef struct container_config {
  bool loom, fails;                /* a softmax without its settings stops Loom's sequential */
  const hd_activation *activation; /* Loom's residual */
} container_config;

static hd_value chain(hd_builder *b, const hd_spec *spec, hd_value x) {
  for (size_t i = 0; i < spec->n_children; i++) x = hd_build_spec(b, spec->children[i], x);
  return x;
}

/* All that does anything in a sequential of Loom's. */
static bool runs_in_loom(const hd_spec *child) { return child->layer == &hd_layer_dense || child->layer == &hd_layer_softmax; }

static bool cannot_run(const hd_spec *child) {
  return child->layer == &hd_layer_softmax && ((const hd_softmax_config *)child->config)->cannot_run;
}

static void parse_sequential(void *config, hd_parse *p) {
  container_config *c = config;
  c->loom = p->dialect == HD_LOOM;
  if (p->spec->n_children == 0 && !c->loom) hd_json_refuse(&p->json, "branches", HD_BAD_FILE, "expected at least one layer");
  for (size_t i = 0; c->loom && i < p->spec->n_children; i++) c->fails = c->fails || cannot_run(p->spec->children[i]);
}

static hd_value expand_sequential(hd_builder *b, const hd_spec *spec, hd_value x) {
  const container_config *c = spec->config;
  const hd_value input = x;
  for (size_t i = 0; i < spec->n_children; i++) {
    const hd_spec *child = spec->children[i];
    if (c->loom && (c->fails || !runs_in_loom(child))) hd_build_weights(b, child, x);
    else x = hd_build_spec(b, child, x);
  }
  return c->fails ? hd_build_failure(b, input) : hd_build(b, &hd_layer_output, "", "", NULL, &x, 1);
}

/* A residual of Loom's has nothing to add and is its activation (loom.md, section j, 15). */
static void parse_residual(void *config, hd_parse *p) {
  container_config *c = config;
  c->loom = p->dialect == HD_LOOM;
  if (c->loom) c->activation = hd_parse_activation(p);
  if (c->loom && p->spec->n_children)
    hd_json_refuse(&p->json, "branches", HD_UNSUPPORTED, "a residual of the loom dialect has no layers of its own");
  if (!c->loom && p->spec->n_children == 0) hd_json_refuse(&p->json, "branches", HD_BAD_FILE, "expected at least one layer");
}

static hd_value expand_residual(hd_builder *b, const hd_spec *spec, hd_value input) {
  const container_config *c = spec->config;
  if (c->loom) return hd_build(b, &hd_layer_activation, "", "", &(hd_activation_config){.activation = c->activation}, &input, 1);
  hd_value y = chain(b, spec, input);
  return hd_build(b, &hd_layer_add, "", "", NULL, (hd_value[]){input, y}, 2);
}

static hd_status write_sequential(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)config;
  (void)err;
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
  return HD_OK;
}

static hd_status write_residual(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const container_config *c = config;
  return dialect == HD_LOOM ? hd_write_activation(c->activation, json, dialect, err) : HD_OK;
}

const hd_layer hd_layer_add = {
  .name = "add", .infer = infer_same, .many_sequences = true, .in_place = true, .forward = forward_add, .backward = backward_add,
};

/* Loom adds its hidden residual only where the lengths agree. */
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
  .name = "add_carried", .infer = hd_infer_same, .in_place = true, .forward = forward_carried, .backward = backward_carried,
};

const hd_layer hd_layer_multiply = {
  .name = "multiply", .infer = infer_same, .many_sequences = true, .in_place = true,
  .forward = forward_multiply, .backward = backward_multiply,
};

const hd_layer hd_layer_sequential = {
  .name = "sequential",
  .example = "{\"type\":\"sequential\",\"input_shape\":[2,4],\"branches\":["
             "{\"type\":\"dense\",\"in_features\":4,\"out_features\":5,\"activation\":\"tanh\"},"
             "{\"type\":\"linear\",\"in_features\":5,\"out_features\":4}]}",
  .config_bytes = sizeof(container_config),
  .has_children = true, .child_place = HD_IN_SEQUENTIAL, .parse = parse_sequential, .write = write_sequential, .expand = expand_sequential,
};

const hd_layer hd_layer_residual = {
  .name = "residual",
  .example = "{\"type\":\"residual\",\"input_shape\":[2,4],\"branches\":["
             "{\"type\":\"dense\",\"in_features\":4,\"out_features\":5,\"activation\":\"tanh\"},"
             "{\"type\":\"linear\",\"in_features\":5,\"out_features\":4}]}",
  .config_bytes = sizeof(container_config),
  .has_children = true, .child_place = HD_IN_SEQUENTIAL, .parse = parse_residual, .write = write_residual, .expand = expand_residual,
};
