/* batch.c: several sequences in one call. The rows of all pass the layers together; those that look from row to row ask the run which rows
 * are one sequence's (hd_run, layers/layer.h). */
#include "base/memory.h"
#include "base/status.h"
#include "run/session.h"

struct hd_batch {
  hd_model *model;
  hd_steps steps;
  hd_sequence *sequences; /* of the present call, and as many again: of the largest, while scratch is planned */
  size_t max_sequences, max_context;
  size_t context;         /* positions that scratch is for */
  const hd_adapter *adapter; /* of the last call */
  bool has_output;
};

/* ---- Making ---- */

static hd_status find_output(hd_value *out, const hd_model *model, const char *name, hd_error *err) {
  char room[HD_NAME_ROOM];
  *out = model->output;
  if (!name) return HD_OK;
  HD_TRY(hd_value_find(out, model, name, err));
  const hd_value_info *info = &model->values[*out];
  if (info->node >= 0 && !(info->output > 0 && model->nodes[info->node].layer->extra_outputs_optional)) return HD_OK;
  return hd_fail(err, HD_BAD_ARGUMENT, "value %s is computed in sessions made for tracing alone", hd_short_name(room, name));
}

/* Rows shared out evenly, so much context behind each: no other call has more rows of output. */
static void share_evenly(hd_sequence *to, size_t n, size_t rows, size_t context) {
  for (size_t i = 0; i < n; i++) {
    size_t own = rows / n + (i < rows % n), room = context > own ? context : own;
    to[i] = (hd_sequence){.rows = own, .past = room - own, .context = room};
  }
}

/* Sequences that are forgotten, as long as they may be: no other call has more rows whose keys and values scratch must hold. Returns
 * how many. */
static size_t share_longest(hd_sequence *to, size_t rows, size_t context) {
  size_t n = 0;
  for (; rows; rows -= to[n++].rows) to[n] = (hd_sequence){.rows = rows < context ? rows : context};
  return n;
}

/* Scratch for sessions with that much room. */
static hd_status reserve_context(hd_batch *b, size_t context, hd_error *err) {
  hd_sequence *spare = b->sequences + b->max_sequences;
  if (context <= b->context) return HD_OK;
  share_evenly(spare, b->max_sequences, b->steps.planned_input.dim[0], context);
  const hd_run run = {.sequences = spare, .n_sequences = b->max_sequences, .output_rows = b->steps.run.output_rows};
  HD_TRY(hd_steps_reserve(&b->steps, &run, err));
  b->context = context;
  return HD_OK;
}

static hd_status check_options(const hd_batch *b, const hd_batch_options *o, size_t rows, hd_error *err) {
  if (o->sequences > 1 && b->model->dialect == HD_LOOM)
    return hd_fail(err, HD_UNSUPPORTED, "networks of the loom dialect read one sequence at a time");
  if (o->sequences == 0 || o->sequences > rows)
    return hd_fail(err, HD_BAD_ARGUMENT, "a batch of %zu rows takes 1 to %zu sequences, not %zu", rows, rows, o->sequences);
  if ((rows - 1) / b->max_context >= o->sequences)
    return hd_fail(err, HD_BAD_ARGUMENT, "%zu sequences of %zu positions at most have no %zu rows", o->sequences, b->max_context, rows);
  return HD_OK;
}

static hd_status prepare(hd_batch *b, const hd_batch_options *o, hd_error *err) {
  hd_shape input;
  hd_value output;
  HD_TRY(hd_input_shape(&input, b->model, &o->input, err));
  const size_t rows = input.dim[0], n = o->sequences;
  b->max_sequences = n;
  b->max_context = o->context ? o->context : b->model->max_context ? b->model->max_context : rows;
  HD_TRY(check_options(b, o, rows, err));
  HD_TRY(find_output(&output, b->model, o->output, err));
  b->sequences = hd_alloc_zero(hd_times(n, 2 * sizeof *b->sequences));
  if (!b->sequences) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a batch of %zu sequences", n);
  share_evenly(b->sequences, n, rows, 0);
  hd_run largest = {.sequences = b->sequences, .n_sequences = n, .output_rows = o->output_rows};
  HD_TRY(hd_steps_make(&b->steps, b->model, &input, output, &largest, err));
  largest.n_sequences = share_longest(b->sequences, rows, b->max_context);
  HD_TRY(hd_steps_reserve(&b->steps, &largest, err));
  return reserve_context(b, 1, err);
}

hd_status hd_batch_new(hd_batch **out, hd_model *model, const hd_batch_options *options, hd_error *err) {
  *out = NULL;
  HD_TRY(hd_model_open(model, false, err));
  hd_batch *b = hd_alloc_zero(sizeof *b);
  if (!b) {
    hd_model_close(model);
    return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a batch");
  }
  b->model = model;
  hd_status status = prepare(b, options, err);
  if (status == HD_OK) *out = b;
  else hd_batch_free(b);
  return status;
}

void hd_batch_free(hd_batch *b) {
  if (!b) return;
  hd_steps_free(&b->steps);
  hd_free(b->sequences);
  hd_model_close(b->model);
  hd_free(b);
}

/* ---- Calls ---- */

static hd_status check_session(const hd_batch *b, const hd_batch_part *parts, size_t index, hd_error *err) {
  const hd_session *s = parts[index].session;
  if (s->model != b->model || s->mode != HD_INFER)
    return hd_fail(err, HD_BAD_ARGUMENT, "part %zu: expected a session for inference over the batch's model", index);
  if (s->sequence.context > b->max_context)
    return hd_fail(err, HD_BAD_STATE, "part %zu: the session has room for %zu positions, the batch was made for %zu",
                   index, s->sequence.context, b->max_context);
  for (size_t i = 0; i < index; i++)
    if (parts[i].session == s) return hd_fail(err, HD_BAD_ARGUMENT, "part %zu: its session is part %zu's already", index, i);
  return hd_session_make_room(parts[index].session, parts[index].rows, err);
}

/* The parts as sequences; their rows in all. */
static hd_status take_parts(hd_batch *b, const hd_batch_part *parts, size_t n, size_t *rows, hd_error *err) {
  if (n == 0 || n > b->max_sequences)
    return hd_fail(err, HD_BAD_ARGUMENT, "the batch takes 1 to %zu sequences, found %zu", b->max_sequences, n);
  *rows = 0;
  for (size_t i = 0; i < n; i++) {
    const hd_session *s = parts[i].session;
    if (parts[i].rows == 0) return hd_fail(err, HD_BAD_ARGUMENT, "part %zu has no rows", i);
    if (s) HD_TRY(check_session(b, parts, i, err));
    if (s) HD_TRY(reserve_context(b, s->sequence.context, err));
    b->sequences[i] = s ? s->sequence : (hd_sequence){0};
    b->sequences[i].rows = parts[i].rows;
    if (s && !s->has_state) b->sequences[i].context = 0;
    *rows = hd_plus(*rows, parts[i].rows);
  }
  return HD_OK;
}

/* Sessions may have an adapter, the same for all: it works on every row. */
static hd_status take_adapter(hd_batch *b, const hd_batch_part *parts, size_t n, hd_error *err) {
  const hd_adapter *adapter = parts[0].session ? parts[0].session->adapter : NULL;
  for (size_t i = 1; i < n; i++)
    if ((parts[i].session ? parts[i].session->adapter : NULL) != adapter)
      return hd_fail(err, HD_BAD_ARGUMENT, "part %zu has another adapter than part 0", i);
  if (!adapter && !b->adapter) return HD_OK;
  b->adapter = adapter; /* its pairs are set at every call: it may have gone, and another come to its place */
  return hd_steps_use(&b->steps, adapter, err);
}

/* Rows of the output that a part has. */
static size_t output_rows(const hd_batch *b, const hd_batch_part *part, size_t n_parts) {
  size_t kept = b->steps.run.output_rows, rows = hd_shape_rows(&b->steps.plan.shapes[b->steps.plan.output]);
  if (n_parts == 1 || rows == n_parts) return rows / n_parts;
  return kept && kept < part->rows ? kept : part->rows;
}

static void advance(hd_batch *b, const hd_batch_part *parts, size_t n) {
  const hd_value output = b->steps.plan.output;
  const size_t width = hd_shape_last(&b->steps.plan.shapes[output]);
  const float *end = hd_steps_data(&b->steps, output);
  for (size_t i = 0; i < n; i++) {
    hd_session *s = parts[i].session;
    end += output_rows(b, &parts[i], n) * width;
    if (!s) continue;
    if (s->has_state) s->sequence.past += parts[i].rows;
    s->has_output = output == b->model->output;
    if (s->has_output) hd_steps_set_output(&s->steps, end - width);
  }
}

hd_status hd_batch_forward(hd_batch *b, const hd_tensor *input, const hd_batch_part *parts, size_t n_parts, hd_error *err) {
  hd_shape shape;
  size_t rows = 0;
  b->has_output = false;
  HD_TRY(hd_steps_call_shape(&b->steps, input, &shape, err));
  HD_TRY(take_parts(b, parts, n_parts, &rows, err));
  if (rows != shape.dim[0]) return hd_fail(err, HD_BAD_ARGUMENT, "the parts have %zu rows, the input %zu", rows, shape.dim[0]);
  HD_TRY(take_adapter(b, parts, n_parts, err));
  HD_TRY(hd_steps_run(&b->steps, input, &shape, b->sequences, n_parts, err));
  advance(b, parts, n_parts);
  b->has_output = true;
  return HD_OK;
}

hd_status hd_batch_input(const hd_batch *b, hd_tensor *out, hd_error *err) {
  (void)err;
  hd_steps_input(&b->steps, out);
  return HD_OK;
}

hd_status hd_batch_output(const hd_batch *b, hd_tensor *out, hd_error *err) {
  if (!b->has_output) return hd_fail(err, HD_BAD_STATE, "there is no output before a forward");
  hd_steps_view(&b->steps, b->steps.plan.output, out);
  return HD_OK;
}
