/* session.c: one timeline over a model: steps, and the state they go on from. */
#include "run/session.h"

#include "base/memory.h"
#include "base/status.h"

/* ---- Making ---- */

static hd_status check_input(const hd_model *model, const hd_shape *shape, hd_error *err) {
  if (shape->n_dims < 1 || shape->n_dims > HD_MAX_DIMS)
    return hd_fail(err, HD_BAD_ARGUMENT, "the input's shape has to be given: this network does not say it");
  if (shape->dtype != HD_F32 && shape->dtype != HD_I32)
    return hd_fail(err, HD_BAD_ARGUMENT, "inputs are F32 or I32, not %s", hd_dtype_name(shape->dtype));
  if (model->input.n_dims && shape->dtype != model->input.dtype)
    return hd_fail(err, HD_BAD_ARGUMENT, "this model's input is %s, not %s",
                   hd_dtype_name(model->input.dtype), hd_dtype_name(shape->dtype));
  for (int d = 0; d < shape->n_dims; d++)
    if (shape->dim[d] == 0) return hd_fail(err, HD_BAD_ARGUMENT, "dimension %d of the input's shape is 0", d);
  return HD_OK;
}

hd_status hd_input_shape(hd_shape *shape, const hd_model *model, const hd_tensor *wanted, hd_error *err) {
  *shape = model->input;
  if (wanted->n_dims) *shape = (hd_shape){.dtype = wanted->dtype, .n_dims = wanted->n_dims};
  for (int d = 0; d < wanted->n_dims && d < HD_MAX_DIMS; d++) shape->dim[d] = wanted->shape[d];
  return check_input(model, shape, err);
}

hd_status hd_model_open(hd_model *model, bool exclusive, hd_error *err) {
  if (model->exclusive) return hd_fail(err, HD_BAD_STATE, "an open training session holds the model; use that session, or free it first");
  if (exclusive && model->n_sessions)
    return hd_fail(err, HD_BAD_STATE, "training takes the model alone; %zu sessions are open", model->n_sessions);
  model->n_sessions++;
  model->exclusive = exclusive;
  return HD_OK;
}

void hd_model_close(hd_model *model) {
  model->n_sessions--;
  model->exclusive = false;
}

/* What a session's layers with a window keep of the past: where every value is kept, all of it. */
static size_t kept_of(const hd_model *model, const hd_session_options *o) { return o->mode == HD_INFER ? hd_model_kept(model) : SIZE_MAX; }

/* A session is planned for its largest call: all of the context behind it. */
static hd_status largest_call(hd_shape *input, hd_sequence *sequence, const hd_model *model, const hd_session_options *o, hd_error *err) {
  HD_TRY(hd_input_shape(input, model, &o->input, err));
  size_t rows = input->dim[0];
  bool remembers = hd_model_remembers(model);
  size_t context = o->context ? o->context : o->mode == HD_INFER && model->max_context ? model->max_context : rows;
  if (remembers && context < rows)
    return hd_fail(err, HD_BAD_ARGUMENT, "a context of %zu positions is less than a call's %zu", context, rows);
  const hd_room room = hd_room_for(kept_of(model, o), rows, context);
  *sequence = (hd_sequence){.rows = rows, .past = remembers ? context - rows : 0, .begin = remembers ? context - room.window : 0,
                            .context = context, .window = room.window};
  return HD_OK;
}

static hd_run run_of(const hd_session_options *o, const hd_sequence *sequence) {
  return (hd_run){.sequences = sequence, .n_sequences = 1, .output_rows = o->output_rows, .keep = o->mode != HD_INFER};
}

static hd_status prepare(hd_session *s, const hd_session_options *o, hd_error *err) {
  hd_shape input;
  hd_sequence largest;
  s->has_state = hd_model_remembers(s->model);
  HD_TRY(largest_call(&input, &largest, s->model, o, err));
  s->max_context = largest.context;
  s->kept = kept_of(s->model, o);
  /* Without kept values a call's are no larger for what lies behind it; scratch, which is, comes with the positions that are reserved. */
  const size_t rows = largest.rows;
  if (o->mode == HD_INFER) largest = (hd_sequence){.rows = rows, .context = rows, .window = rows};
  const hd_run run = run_of(o, &largest);
  HD_TRY(hd_steps_make(&s->steps, s->model, &input, s->model->output, &run, err));
  s->sequence.state = hd_alloc_zero(s->model->n_nodes * sizeof *s->sequence.state);
  if (!s->sequence.state) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a session's state");
  if (s->has_state) HD_TRY(hd_session_reserve(s, s->max_context < HD_STATE_PAGE ? s->max_context : HD_STATE_PAGE, err));
  else HD_TRY(hd_steps_reserve(&s->steps, &run, err));
  return s->mode == HD_TRAIN ? hd_train_prepare(s, err) : HD_OK;
}

hd_status hd_session_new(hd_session **out, hd_model *model, const hd_session_options *options, hd_error *err) {
  *out = NULL;
  HD_TRY(hd_model_open(model, options->mode == HD_TRAIN, err));
  hd_session *s = hd_alloc_zero(sizeof *s);
  if (!s) {
    hd_model_close(model);
    return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a session");
  }
  s->model = model;
  s->mode = options->mode;
  hd_status status = prepare(s, options, err);
  if (status == HD_OK) *out = s;
  else hd_session_free(s);
  return status;
}

void hd_session_free(hd_session *s) {
  if (!s) return;
  hd_train_free(s);
  if (s->adapter) s->adapter->n_users--;
  for (size_t n = 0; s->sequence.state && n < s->model->n_nodes; n++) hd_free(s->sequence.state[n]);
  hd_free(s->sequence.state);
  hd_steps_free(&s->steps);
  hd_model_close(s->model);
  hd_free(s);
}

/* ---- Forward ---- */

hd_status hd_forward(hd_session *s, const hd_tensor *input, hd_error *err) {
  hd_shape shape;
  HD_TRY(hd_steps_call_shape(&s->steps, input, &shape, err));
  size_t rows = shape.dim[0];
  HD_TRY(hd_session_make_room(s, rows, err));
  s->has_output = s->has_loss = false;
  s->sequence.rows = rows;
  HD_TRY(hd_steps_run(&s->steps, input, &shape, &s->sequence, 1, err));
  if (s->has_state && s->mode != HD_TRAIN) s->sequence.past += rows; /* training always starts at position 0 */
  s->has_output = true;
  return HD_OK;
}

hd_status hd_decode(hd_session *s, const int32_t *tokens, size_t n, hd_error *err) {
  const hd_tensor input = {.dtype = HD_I32, .n_dims = 1, .shape = {n}, .data = (void *)(uintptr_t)tokens};
  return hd_forward(s, &input, err);
}

/* ---- Reading ---- */

hd_status hd_session_input(const hd_session *s, hd_tensor *out, hd_error *err) {
  (void)err;
  hd_steps_input(&s->steps, out);
  return HD_OK;
}

hd_status hd_session_output(const hd_session *s, hd_tensor *out, hd_error *err) {
  if (!s->has_output) return hd_fail(err, HD_BAD_STATE, "there is no output before a forward");
  hd_steps_view(&s->steps, s->model->output, out);
  return HD_OK;
}

hd_status hd_session_value(const hd_session *s, const char *name, hd_tensor *out, hd_error *err) {
  hd_value v;
  if (s->mode == HD_INFER) return hd_fail(err, HD_BAD_STATE, "values are kept only in sessions made for tracing or training");
  if (!s->has_output) return hd_fail(err, HD_BAD_STATE, "there are no values before a forward");
  HD_TRY(hd_value_find(&v, s->model, name, err));
  hd_steps_view(&s->steps, v, out);
  return HD_OK;
}

const char *hd_session_value_name(const hd_session *s, size_t index) {
  return index < s->model->n_values ? s->model->values[index].name : NULL;
}

hd_memory_report hd_session_memory(const hd_session *s) {
  hd_memory_report r = {.arena = s->steps.plan.arena_bytes, .other = hd_steps_other_bytes(s->model, s->steps.scratch_bytes)};
  for (size_t i = 0; i < s->model->n_parameters; i++) {
    const hd_matrix *m = &s->model->parameters[i].value;
    size_t bytes;
    if (m->data && m->layout->bytes(m->rows, m->cols, &bytes)) r.weights += bytes;
  }
  for (size_t n = 0; n < s->model->n_nodes; n++)
    if (s->sequence.state[n]) r.state += hd_state_bytes(&s->model->nodes[n], (hd_room){s->sequence.context, s->sequence.window});
  return r;
}

hd_status hd_session_estimate(hd_session_size *out, const hd_model *model, const hd_session_options *options, hd_error *err) {
  hd_plan planned;
  hd_shape input;
  hd_sequence largest;
  *out = (hd_session_size){0};
  HD_TRY(largest_call(&input, &largest, model, options, err));
  const hd_run run = run_of(options, &largest);
  HD_TRY(hd_plan_make(&planned, model, &input, model->output, &run, err));
  out->arena = planned.arena_bytes;
  out->other = hd_steps_other_bytes(model, planned.scratch_bytes);
  hd_plan_free(&planned);
  hd_state_estimate(out, model, (hd_room){largest.context, largest.window});
  return HD_OK;
}

/* ---- Adapters ---- */

hd_status hd_session_use(hd_session *s, hd_adapter *adapter, hd_error *err) {
  if (adapter && adapter->model != s->model) return hd_fail(err, HD_BAD_ARGUMENT, "the adapter was loaded for another model");
  if (adapter && hd_adapter_is_merged(adapter))
    return hd_fail(err, HD_BAD_STATE, "the adapter is merged into the weights already: unmerge it, or leave it out");
  if (adapter && s->mode == HD_TRAIN) return hd_fail(err, HD_UNSUPPORTED, "training with an adapter is not built yet");
  HD_TRY(hd_steps_use(&s->steps, adapter, err));
  if (adapter) adapter->n_users++;
  if (s->adapter) s->adapter->n_users--;
  s->adapter = adapter;
  return HD_OK;
}
