/* steps.c: everything is planned and allocated when the steps are made, scratch when its size is known; a call walks the list. */
#include "run/steps.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

static hd_status no_memory(hd_error *err, const char *what, size_t bytes) {
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the session's %s (%zu bytes)", what, bytes);
}

size_t hd_steps_input_count(const hd_model *model) {
  size_t count = 0;
  for (size_t n = 0; n < model->n_nodes; n++) count += model->nodes[n].n_in;
  return count;
}

/* ---- Making ---- */

/* Where a step's operands lie. Shapes are read through the plan, so they follow each call's size. */
static void fill_call(hd_steps *s, size_t n, hd_view *in) {
  const hd_node *node = &s->model->nodes[n];
  hd_call *c = &s->calls[n];
  *c = (hd_call){.config = node->config, .name = node->name, .node = n, .run = &s->run, .in = in, .n_in = node->n_in};
  for (size_t k = 0; k < node->n_in; k++) in[k] = (hd_view){&s->plan.shapes[node->in[k]], hd_steps_data(s, node->in[k])};
  for (size_t o = 0; o < node->n_out; o++) {
    hd_value v = node->out[o];
    c->out[o] = (hd_view){&s->plan.shapes[v], s->plan.present[v] ? hd_steps_data(s, v) : NULL};
  }
  for (size_t w = 0; w < node->n_weights; w++) {
    const hd_matrix *m = &s->model->parameters[node->weight[w]].value;
    c->weight[w] = m->data ? m : NULL;
  }
}

hd_status hd_steps_make(hd_steps *s, const hd_model *model, const hd_shape *input, hd_value output, const hd_run *largest,
                        hd_error *err) {
  *s = (hd_steps){.model = model, .planned_input = *input, .run = {.output_rows = largest->output_rows, .keep = largest->keep}};
  HD_TRY(hd_plan_make(&s->plan, model, input, output, largest, err));
  s->arena = hd_alloc_zero(s->plan.arena_bytes);
  if (!s->arena) return no_memory(err, "arena", s->plan.arena_bytes);
  s->calls = hd_alloc_zero(model->n_nodes * sizeof *s->calls);
  s->inputs = hd_alloc_zero(hd_steps_input_count(model) * sizeof *s->inputs);
  if (!s->calls || !s->inputs) return no_memory(err, "steps", model->n_nodes * sizeof *s->calls);
  hd_view *in = s->inputs;
  for (size_t n = 0; n < model->n_nodes; in += model->nodes[n++].n_in) fill_call(s, n, in);
  return HD_OK;
}

hd_status hd_steps_reserve(hd_steps *s, const hd_run *run, hd_error *err) {
  hd_shape input = s->planned_input;
  size_t bytes;
  input.dim[0] = 0;
  for (size_t i = 0; i < run->n_sequences; i++) input.dim[0] += run->sequences[i].rows;
  HD_TRY(hd_plan_scratch(&bytes, &s->plan, &input, run, err));
  if (s->scratch && bytes <= s->scratch_bytes) return HD_OK;
  void *scratch = hd_alloc(bytes);
  if (!scratch) return no_memory(err, "scratch", bytes);
  hd_free(s->scratch);
  s->scratch = scratch;
  s->scratch_bytes = bytes;
  for (size_t n = 0; n < s->model->n_nodes; n++) s->calls[n].scratch = scratch;
  return HD_OK;
}

void hd_steps_free(hd_steps *s) {
  hd_free(s->calls);
  hd_free(s->inputs);
  hd_free(s->lora_scratch);
  hd_free(s->scratch);
  hd_free(s->arena);
  hd_plan_free(&s->plan);
}

size_t hd_steps_other_bytes(const hd_model *model, size_t scratch_bytes) {
  return hd_plus(scratch_bytes, model->n_nodes * sizeof(hd_call));
}

/* ---- Calls ---- */

hd_status hd_steps_call_shape(const hd_steps *s, const hd_tensor *input, hd_shape *shape, hd_error *err) {
  const hd_shape *p = &s->planned_input;
  *shape = *p;
  bool fits = input->dtype == p->dtype && input->n_dims == p->n_dims && input->shape[0] >= 1 && input->shape[0] <= p->dim[0];
  for (int d = 1; fits && d < p->n_dims; d++) fits = input->shape[d] == p->dim[d];
  shape->dim[0] = input->shape[0];
  char room_a[HD_SHAPE_ROOM], room_b[HD_SHAPE_ROOM];
  if (fits) return HD_OK;
  return hd_fail(err, HD_BAD_ARGUMENT, "the session was planned for inputs of %s %s at most, found %s %s", hd_dtype_name(p->dtype),
                 hd_shape_text(room_a, p->n_dims, p->dim), hd_dtype_name(input->dtype), hd_shape_text(room_b, input->n_dims, input->shape));
}

/* Shapes depend on the rows alone, but for those that are kept: attention's probabilities grow. */
static hd_status shape_call(hd_steps *s, const hd_shape *shape, hd_error *err) {
  size_t rows = s->run.n_sequences == 1 && !s->run.keep ? shape->dim[0] : 0;
  if (rows && rows == s->rows) return HD_OK;
  s->rows = 0;
  HD_TRY(hd_plan_infer(&s->plan, shape, &s->run, err));
  if (s->plan.scratch_bytes > s->scratch_bytes)
    return hd_fail(err, HD_BAD_ARGUMENT, "the call's intermediate values would outgrow the plan");
  s->rows = rows;
  return HD_OK;
}

hd_status hd_steps_run(hd_steps *s, const hd_tensor *input, const hd_shape *shape,
                       const hd_sequence *sequences, size_t n_sequences, hd_error *err) {
  s->run.sequences = sequences;
  s->run.n_sequences = n_sequences;
  HD_TRY(shape_call(s, shape, err));
  float *place = hd_steps_data(s, 0);
  if (input->data != (void *)place) memcpy(place, input->data, hd_shape_size(shape) * sizeof *place);
  for (size_t n = 0; n < s->model->n_nodes; n++)
    if (s->plan.needed[n]) HD_TRY(s->model->nodes[n].layer->forward(&s->calls[n], err));
  return HD_OK;
}

void hd_steps_set_output(hd_steps *s, const float *row) {
  hd_shape *shape = &s->plan.shapes[s->plan.output];
  for (int d = 0; d + 1 < shape->n_dims; d++) shape->dim[d] = 1;
  memcpy(hd_steps_data(s, s->plan.output), row, hd_shape_last(shape) * sizeof *row);
  s->rows = 0;
}

void hd_steps_input(const hd_steps *s, hd_tensor *out) {
  const hd_shape *planned = &s->planned_input;
  *out = (hd_tensor){.dtype = planned->dtype, .n_dims = planned->n_dims, .data = hd_steps_data(s, 0)};
  memcpy(out->shape, planned->dim, sizeof out->shape);
}

void hd_steps_view(const hd_steps *s, hd_value v, hd_tensor *out) {
  const hd_shape *shape = &s->plan.shapes[v];
  *out = (hd_tensor){.dtype = shape->dtype, .n_dims = shape->n_dims, .data = hd_steps_data(s, v)};
  memcpy(out->shape, shape->dim, sizeof out->shape);
}

/* ---- Adapters ---- */

static hd_status reserve_pairs(hd_steps *s, const hd_adapter *adapter, hd_error *err) {
  size_t bytes = hd_times(hd_times(s->plan.most_rows, adapter->max_rank), sizeof(float));
  if (bytes <= s->lora_bytes) return HD_OK;
  float *scratch = hd_alloc(bytes);
  if (!scratch) return no_memory(err, "adapter", bytes);
  hd_free(s->lora_scratch);
  s->lora_scratch = scratch;
  s->lora_bytes = bytes;
  return HD_OK;
}

hd_status hd_steps_use(hd_steps *s, const hd_adapter *adapter, hd_error *err) {
  if (adapter) HD_TRY(reserve_pairs(s, adapter, err));
  for (size_t n = 0; n < s->model->n_nodes; n++)
    for (size_t w = 0; w < s->model->nodes[n].n_weights; w++) {
      const hd_lora *pair = adapter ? &adapter->pairs[s->model->nodes[n].weight[w]] : NULL;
      s->calls[n].lora[w] = pair && pair->rank ? pair : NULL;
      s->calls[n].lora_scratch = s->lora_scratch;
    }
  return HD_OK;
}
