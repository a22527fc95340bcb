/* infer.c: shapes, node by node in graph order. The plan asks for them for the largest call and for each call; a network that says what
 * goes in is asked when it is made, so that layers which do not fit each other are refused there and not at the first session. */
#include "base/memory.h"
#include "base/status.h"
#include "graph/graph.h"

hd_status hd_shape_check(const char *name, const hd_shape *shape, hd_error *err) {
  size_t n = sizeof(float);
  bool fits = true;
  for (int d = 0; d < shape->n_dims; d++) fits = fits && hd_mul_size(n, shape->dim[d], &n);
  char room[HD_NAME_ROOM], text[HD_SHAPE_ROOM];
  if (fits && n <= SIZE_MAX / 4) return HD_OK;
  return hd_fail(err, HD_BAD_ARGUMENT, "value %s of shape %s is too large",
                 hd_short_name(room, name), hd_shape_text(text, shape->n_dims, shape->dim));
}

/* Whether the layer can tell the call's sequences apart, and do without a state where one has none. */
static hd_status check_sequences(const hd_node *node, const hd_run *run, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (node->layer->many_sequences) return HD_OK;
  if (run->n_sequences > 1)
    return hd_fail(err, HD_UNSUPPORTED, "layer %s: type '%s' takes one sequence at a time",
                   hd_short_name(room, node->name), node->layer->name);
  const bool keeps = node->layer->state_bytes && node->layer->state_bytes(node->config, 1) > 0;
  if (keeps && run->sequences[0].context == 0)
    return hd_fail(err, HD_UNSUPPORTED, "layer %s: type '%s' needs a session that keeps its state",
                   hd_short_name(room, node->name), node->layer->name);
  return HD_OK;
}

hd_status hd_node_infer(hd_infer *i, const hd_model *model, const hd_node *node, const hd_shape *shapes, const hd_shape **inputs,
                        const hd_run *run, hd_error *err) {
  *i = (hd_infer){.config = node->config, .name = node->name, .in = inputs, .n_in = node->n_in, .run = run};
  for (size_t k = 0; k < node->n_in; k++) inputs[k] = &shapes[node->in[k]];
  for (size_t k = 0; k < node->n_weights; k++) {
    const hd_parameter *p = &model->parameters[node->weight[k]];
    i->weight[k] = p->value.layout ? &p->value : NULL;
  }
  for (size_t o = 0; o < node->n_out; o++) i->out[o].dtype = HD_F32;
  hd_status status = check_sequences(node, run, err);
  if (status == HD_OK) status = node->layer->infer(i, err);
  if (status == HD_OK && i->scratch_bytes > SIZE_MAX / 2)
    status = hd_infer_fail(i, err, "its intermediate values are too large: more than %zu bytes", SIZE_MAX / 2);
  if (status != HD_OK && node->path) hd_fail_in(err, node->path);
  return status;
}

size_t hd_graph_most_inputs(const hd_model *model) {
  size_t most = 1;
  for (size_t n = 0; n < model->n_nodes; n++)
    if (model->nodes[n].n_in > most) most = model->nodes[n].n_in;
  return most;
}

static hd_status check_nodes(const hd_model *model, hd_shape *shapes, const hd_shape **inputs, hd_error *err) {
  const hd_sequence sequence = {.rows = model->input.dim[0], .context = model->input.dim[0]};
  const hd_run run = {.sequences = &sequence, .n_sequences = 1};
  shapes[0] = model->input;
  HD_TRY(hd_shape_check("input", &shapes[0], err));
  for (size_t n = 0; n < model->n_nodes; n++) {
    const hd_node *node = &model->nodes[n];
    hd_infer i;
    HD_TRY(hd_node_infer(&i, model, node, shapes, inputs, &run, err));
    for (size_t o = 0; o < node->n_out; o++) {
      const bool optional = o > 0 && node->layer->extra_outputs_optional; /* only made where every value is kept */
      if (!optional) HD_TRY(hd_shape_check(node->name, &i.out[o], err));
      shapes[node->out[o]] = i.out[o];
    }
  }
  return HD_OK;
}

hd_status hd_graph_check_shapes(const hd_model *model, hd_error *err) {
  if (model->input.n_dims == 0) return HD_OK;
  hd_shape *shapes = hd_alloc_zero(model->n_values * sizeof *shapes);
  const hd_shape **inputs = hd_alloc_zero(hd_graph_most_inputs(model) * sizeof *inputs);
  hd_status status =
      shapes && inputs ? check_nodes(model, shapes, inputs, err) : hd_fail(err, HD_OUT_OF_MEMORY, "no memory to check the layers' shapes");
  hd_free(shapes);
  hd_free(inputs);
  return status;
}
