/* session.c: one timeline over a model. Everything is planned and allocated when the session is made; a forward walks the list of calls. */
#include "run/session.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

static hd_status no_memory(hd_error *err, const char *what, size_t bytes) {
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the session's %s (%zu bytes)", what, bytes);
}

/* ---- Making ---- */

static hd_shape input_shape(const hd_model *model, const hd_tensor *wanted) {
  if (wanted->n_dims == 0) return model->input;
  hd_shape shape = {.dtype = wanted->dtype, .n_dims = wanted->n_dims};
  for (int d = 0; d < wanted->n_dims && d < HD_MAX_DIMS; d++) shape.dim[d] = wanted->shape[d];
  return shape;
}

static hd_status check_input(const hd_model *model, const hd_shape *shape, hd_error *err) {
  if (shape->n_dims < 1 || shape->n_dims > HD_MAX_DIMS)
    return hd_fail(err, HD_BAD_ARGUMENT, "the input's shape has to be given: this network does not say it");
  if (shape->dtype != HD_F32 && shape->dtype != HD_I32)
    return hd_fail(err, HD_BAD_ARGUMENT, "inputs are F32 or I32, not %s", hd_dtype_name(shape->dtype));
  if (model->input.n_dims && shape->dtype != model->input.dtype)
    return hd_fail(err, HD_BAD_ARGUMENT, "this model's input is %s, not %s", hd_dtype_name(model->input.dtype), hd_dtype_name(shape->dtype));
  for (int d = 0; d < shape->n_dims; d++)
    if (shape->dim[d] == 0) return hd_fail(err, HD_BAD_ARGUMENT, "dimension %d of the input's shape is 0", d);
  return HD_OK;
}

/* Where a step's operands lie. Shapes are read through the plan, so they follow each call's size. */
static void fill_call(hd_session *s, size_t n, hd_view *in) {
  const hd_node *node = &s->model->nodes[n];
  hd_call *c = &s->calls[n];
  *c = (hd_call){.config = node->config, .name = node->name, .run = &s->run, .in = in, .n_in = node->n_in, .scratch = s->scratch};
  for (size_t k = 0; k < node->n_in; k++) in[k] = (hd_view){&s->plan.shapes[node->in[k]], hd_session_data(s, node->in[k])};
  for (size_t o = 0; o < node->n_out; o++) {
    hd_value v = node->out[o];
    c->out[o] = (hd_view){&s->plan.shapes[v], s->plan.present[v] ? hd_session_data(s, v) : NULL};
  }
  for (size_t w = 0; w < node->n_weights; w++) {
    const hd_matrix *m = &s->model->parameters[node->weight[w]].value;
    c->weight[w] = m->data ? m : NULL;
  }
}

static bool has_state(const hd_model *model) {
  for (size_t n = 0; n < model->n_nodes; n++)
    if (hd_state_bytes(&model->nodes[n], 1)) return true;
  return false;
}

static void find_state(hd_session *s) {
  s->has_state = has_state(s->model);
  s->can_rewind = true;
  for (size_t n = 0; n < s->model->n_nodes; n++) {
    const hd_node *node = &s->model->nodes[n];
    if (hd_state_bytes(node, 1)) s->can_rewind = s->can_rewind && node->layer->can_rewind;
  }
}

static hd_status allocate(hd_session *s, hd_error *err) {
  const hd_model *m = s->model;
  s->arena = hd_alloc_zero(s->plan.arena_bytes);
  if (!s->arena) return no_memory(err, "arena", s->plan.arena_bytes);
  s->scratch = hd_alloc(s->plan.scratch_bytes);
  if (!s->scratch) return no_memory(err, "scratch", s->plan.scratch_bytes);
  s->state = hd_alloc_zero(m->n_nodes * sizeof *s->state);
  s->calls = hd_alloc_zero(m->n_nodes * sizeof *s->calls);
  s->inputs = hd_alloc_zero(hd_session_input_count(s) * sizeof *s->inputs);
  if (!s->state || !s->calls || !s->inputs) return no_memory(err, "steps", m->n_nodes * sizeof *s->calls);
  hd_view *in = s->inputs;
  for (size_t n = 0; n < m->n_nodes; in += m->nodes[n++].n_in) fill_call(s, n, in);
  return HD_OK;
}

static hd_status take_model(hd_session *s, hd_model *model, hd_mode mode, hd_error *err) {
  if (model->exclusive) return hd_fail(err, HD_BAD_STATE, "an open training session holds the model; use that session, or free it first");
  if (mode == HD_TRAIN && model->n_sessions)
    return hd_fail(err, HD_BAD_STATE, "training takes the model alone; %zu sessions are open", model->n_sessions);
  model->n_sessions++;
  model->exclusive = mode == HD_TRAIN;
  s->model = model;
  return HD_OK;
}

/* A session is planned for its largest call: all of the context behind it. */
static hd_status plan_largest(hd_plan *plan, hd_shape *input, hd_run *largest, const hd_model *model, const hd_session_options *o, hd_error *err) {
  *input = input_shape(model, &o->input);
  HD_TRY(check_input(model, input, err));
  size_t rows = input->dim[0];
  bool keep = o->mode != HD_INFER, remembers = has_state(model);
  size_t context = o->context ? o->context : !keep && model->max_context ? model->max_context : rows;
  if (remembers && context < rows) return hd_fail(err, HD_BAD_ARGUMENT, "a context of %zu positions is less than a call's %zu", context, rows);
  *largest = (hd_run){.past = remembers ? context - rows : 0, .context = context, .output_rows = o->output_rows, .keep = keep};
  return hd_plan_make(plan, model, input, largest, err);
}

static hd_status prepare(hd_session *s, const hd_session_options *o, hd_error *err) {
  s->mode = o->mode;
  find_state(s);
  HD_TRY(plan_largest(&s->plan, &s->planned_input, &s->run, s->model, o, err));
  s->max_context = s->run.context;
  s->run.past = 0;
  s->run.context = 0;
  HD_TRY(allocate(s, err));
  HD_TRY(hd_session_reserve(s, s->max_context < HD_STATE_PAGE ? s->max_context : HD_STATE_PAGE, err));
  return s->mode == HD_TRAIN ? hd_train_prepare(s, err) : HD_OK;
}

hd_status hd_session_new(hd_session **out, hd_model *model, const hd_session_options *options, hd_error *err) {
  *out = NULL;
  hd_session *s = hd_alloc_zero(sizeof *s);
  if (!s) return no_memory(err, "handle", sizeof *s);
  hd_status status = take_model(s, model, options->mode, err);
  if (status == HD_OK) status = prepare(s, options, err);
  if (status == HD_OK) *out = s;
  else hd_session_free(s);
  return status;
}

void hd_session_free(hd_session *s) {
  if (!s) return;
  hd_train_free(s);
  if (s->adapter) s->adapter->n_users--;
  for (size_t n = 0; s->state && n < s->model->n_nodes; n++) hd_free(s->state[n]);
  hd_free(s->state);
  hd_free(s->calls);
  hd_free(s->inputs);
  hd_free(s->lora_scratch);
  hd_free(s->scratch);
  hd_free(s->arena);
  hd_plan_free(&s->plan);
  if (s->model) {
    s->model->n_sessions--;
    s->model->exclusive = false;
  }
  hd_free(s);
}

/* ---- Forward ---- */

static hd_status call_shape(const hd_session *s, const hd_tensor *input, hd_shape *shape, hd_error *err) {
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

static hd_status check_room(const hd_session *s, size_t rows, hd_error *err) {
  size_t want = s->run.past + rows;
  if (!s->has_state || want <= s->run.context) return HD_OK;
  if (want > s->max_context)
    return hd_fail(err, HD_BAD_STATE, "%zu more positions after %zu do not fit the context of %zu", rows, s->run.past, s->max_context);
  return hd_fail(err, HD_BAD_STATE, "%zu positions are not reserved; call hd_session_reserve between decodes", want);
}

hd_status hd_forward(hd_session *s, const hd_tensor *input, hd_error *err) {
  hd_shape shape;
  HD_TRY(call_shape(s, input, &shape, err));
  size_t rows = shape.dim[0];
  HD_TRY(check_room(s, rows, err));
  bool same = s->has_output && !s->run.keep && s->plan.shapes[0].dim[0] == rows;
  s->has_output = s->has_loss = false;
  if (!same) HD_TRY(hd_plan_infer(&s->plan, &shape, &s->run, err));
  float *place = hd_session_data(s, 0);
  if (input->data != (void *)place) memcpy(place, input->data, hd_shape_size(&shape) * sizeof *place);
  for (size_t n = 0; n < s->model->n_nodes; n++) HD_TRY(s->model->nodes[n].layer->forward(&s->calls[n], err));
  if (s->has_state && s->mode != HD_TRAIN) s->run.past += rows; /* training always starts at position 0 */
  s->has_output = true;
  return HD_OK;
}

hd_status hd_decode(hd_session *s, const int32_t *tokens, size_t n, hd_error *err) {
  const hd_tensor input = {.dtype = HD_I32, .n_dims = 1, .shape = {n}, .data = (void *)(uintptr_t)tokens};
  return hd_forward(s, &input, err);
}

/* ---- Reading ---- */

static void view(const hd_session *s, hd_value v, hd_tensor *out) {
  const hd_shape *shape = &s->plan.shapes[v];
  *out = (hd_tensor){.dtype = shape->dtype, .n_dims = shape->n_dims, .data = hd_session_data(s, v)};
  memcpy(out->shape, shape->dim, sizeof out->shape);
}

hd_status hd_session_input(const hd_session *s, hd_tensor *out, hd_error *err) {
  (void)err;
  *out = (hd_tensor){.dtype = s->planned_input.dtype, .n_dims = s->planned_input.n_dims, .data = hd_session_data(s, 0)};
  memcpy(out->shape, s->planned_input.dim, sizeof out->shape);
  return HD_OK;
}

hd_status hd_session_output(const hd_session *s, hd_tensor *out, hd_error *err) {
  if (!s->has_output) return hd_fail(err, HD_BAD_STATE, "there is no output before a forward");
  view(s, s->model->output, out);
  return HD_OK;
}

hd_status hd_session_value(const hd_session *s, const char *name, hd_tensor *out, hd_error *err) {
  char room[HD_NAME_ROOM];
  if (!s->run.keep) return hd_fail(err, HD_BAD_STATE, "values are kept only in sessions made for tracing or training");
  if (!s->has_output) return hd_fail(err, HD_BAD_STATE, "there are no values before a forward");
  for (size_t v = 0; v < s->model->n_values; v++) {
    if (strcmp(s->model->values[v].name, name) != 0) continue;
    view(s, (hd_value)v, out);
    return HD_OK;
  }
  return hd_fail(err, HD_BAD_ARGUMENT, "there is no value %s", hd_short_name(room, name));
}

const char *hd_session_value_name(const hd_session *s, size_t index) {
  return index < s->model->n_values ? s->model->values[index].name : NULL;
}

hd_memory_report hd_session_memory(const hd_session *s) {
  hd_memory_report r = {.arena = s->plan.arena_bytes, .other = s->plan.scratch_bytes + s->model->n_nodes * sizeof *s->calls};
  for (size_t i = 0; i < s->model->n_parameters; i++) {
    const hd_matrix *m = &s->model->parameters[i].value;
    size_t bytes;
    if (m->data && m->layout->bytes(m->rows, m->cols, &bytes)) r.weights += bytes;
  }
  for (size_t n = 0; n < s->model->n_nodes; n++)
    if (s->state[n]) r.state += hd_state_bytes(&s->model->nodes[n], s->run.context);
  return r;
}

/* States are linear in positions: two sizes tell the rest, for any number of positions, be it more than a size_t holds the bytes of. */
hd_status hd_session_estimate(hd_session_size *out, const hd_model *model, const hd_session_options *options, hd_error *err) {
  hd_plan planned;
  hd_shape input;
  hd_run largest;
  *out = (hd_session_size){0};
  HD_TRY(plan_largest(&planned, &input, &largest, model, options, err));
  out->arena = planned.arena_bytes;
  out->other = planned.scratch_bytes + model->n_nodes * sizeof(hd_call);
  hd_plan_free(&planned);
  for (size_t n = 0; n < model->n_nodes; n++) {
    size_t page = hd_state_bytes(&model->nodes[n], HD_STATE_PAGE), two = hd_state_bytes(&model->nodes[n], 2 * HD_STATE_PAGE);
    out->per_position += (two - page) / HD_STATE_PAGE;
    out->state += page - (two - page);
  }
  return HD_OK;
}

/* ---- Adapters ---- */

static void set_pairs(hd_session *s) {
  for (size_t n = 0; n < s->model->n_nodes; n++)
    for (size_t w = 0; w < s->model->nodes[n].n_weights; w++) {
      const hd_lora *pair = s->adapter ? &s->adapter->pairs[s->model->nodes[n].weight[w]] : NULL;
      s->calls[n].lora[w] = pair && pair->rank ? pair : NULL;
      s->calls[n].lora_scratch = s->lora_scratch;
    }
}

hd_status hd_session_use(hd_session *s, hd_adapter *adapter, hd_error *err) {
  if (adapter && adapter->model != s->model) return hd_fail(err, HD_BAD_ARGUMENT, "the adapter was loaded for another model");
  if (adapter && hd_adapter_is_merged(adapter)) return hd_fail(err, HD_BAD_STATE, "the adapter is merged into the weights already: unmerge it, or leave it out");
  if (adapter && s->mode == HD_TRAIN) return hd_fail(err, HD_UNSUPPORTED, "training with an adapter is not built yet");
  float *scratch = NULL;
  if (adapter) {
    size_t bytes = hd_times(hd_times(s->plan.most_rows, adapter->max_rank), sizeof *scratch);
    scratch = hd_alloc(bytes);
    if (!scratch) return no_memory(err, "adapter", bytes);
    adapter->n_users++;
  }
  if (s->adapter) s->adapter->n_users--;
  hd_free(s->lora_scratch);
  s->lora_scratch = scratch;
  s->adapter = adapter;
  set_pairs(s);
  return HD_OK;
}
