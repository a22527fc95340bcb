/* train.c: losses, the backward walk, and plain SGD. Gradients of values lie in an arena like the values' own; gradients of weights are
 * float32, row-major, in the weight's shape, and add up until a step. A model with weights that are not float32 is refused. */
#include "base/memory.h"
#include "base/status.h"
#include "kernels/elementwise.h"
#include "run/session.h"

#include <math.h>
#include <string.h>

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for gradients"); }

/* Which values have a gradient: float32 ones that are kept. */
static float *value_gradient(const hd_session *s, hd_value v) {
  return s->steps.plan.present[v] && s->steps.plan.shapes[v].dtype == HD_F32 ? hd_session_grad(s, v) : NULL;
}

static void fill_backward(hd_session *s, size_t n, float **d_in) {
  const hd_node *node = &s->model->nodes[n];
  hd_call *c = &s->steps.calls[n];
  for (size_t k = 0; k < node->n_in; k++) d_in[k] = value_gradient(s, node->in[k]);
  c->d_in = d_in;
  for (size_t o = 0; o < node->n_out; o++) c->d_out[o] = value_gradient(s, node->out[o]);
  for (size_t w = 0; w < node->n_weights; w++) c->d_weight[w] = s->d_weights[node->weight[w]];
}

hd_status hd_train_prepare(hd_session *s, hd_error *err) {
  const hd_model *m = s->model;
  char room[HD_NAME_ROOM];
  for (size_t n = 0; n < m->n_nodes; n++)
    if (!m->nodes[n].layer->backward)
      return hd_fail(err, HD_UNSUPPORTED, "layer %s: type '%s' cannot be trained",
                     hd_short_name(room, m->nodes[n].name), m->nodes[n].layer->name);
  for (size_t i = 0; i < m->n_parameters; i++) {
    const hd_parameter *p = &m->parameters[i];
    if (p->value.data && p->value.layout->dtype != HD_F32)
      return hd_fail(err, HD_UNSUPPORTED, "weight %s is %s: only F32 weights are trained; load the model with dtype f32",
                     hd_short_name(room, p->name), hd_dtype_name(p->value.layout->dtype));
  }
  s->gradients = hd_alloc_zero(s->steps.plan.arena_bytes);
  s->d_weights = hd_alloc_zero(m->n_parameters * sizeof *s->d_weights);
  s->d_inputs = hd_alloc_zero(hd_steps_input_count(m) * sizeof *s->d_inputs);
  if (!s->gradients || !s->d_weights || !s->d_inputs) return no_memory(err);
  for (size_t i = 0; i < m->n_parameters; i++) {
    const hd_parameter *p = &m->parameters[i];
    if (!p->value.data) continue;
    s->d_weights[i] = hd_alloc_zero(hd_times(hd_parameter_count(p), sizeof(float)));
    if (!s->d_weights[i]) return no_memory(err);
  }
  float **d_in = s->d_inputs;
  for (size_t n = 0; n < m->n_nodes; d_in += m->nodes[n++].n_in) fill_backward(s, n, d_in);
  return HD_OK;
}

void hd_train_free(hd_session *s) {
  for (size_t i = 0; s->d_weights && i < s->model->n_parameters; i++) hd_free(s->d_weights[i]);
  hd_free(s->d_weights);
  hd_free(s->d_inputs);
  hd_free(s->gradients);
}

/* ---- Losses ---- */

/* Each returns the loss and writes d_o, its gradient with respect to the output. */

/* mean((o − t)²); d_o = 2(o − t)/n */
static float mse(float *d_o, const float *o, const float *t, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    float difference = o[i] - t[i];
    sum += (double)difference * (double)difference;
    d_o[i] = 2 * difference / (float)n;
  }
  return (float)(sum / (double)n);
}

/* mean over rows of −ln softmax(o)[t]; d_o = (softmax(o) − onehot(t)) / rows */
static float cross_entropy(float *d_o, const float *o, const int32_t *t, size_t n_rows, size_t n) {
  double sum = 0;
  for (size_t r = 0; r < n_rows; r++) {
    const float *row = o + r * n;
    float *d_row = d_o + r * n;
    float most = row[0];
    for (size_t i = 1; i < n; i++) most = row[i] > most ? row[i] : most;
    double total = 0;
    for (size_t i = 0; i < n; i++) total += exp((double)(row[i] - most));
    sum += log(total) - (double)(row[t[r]] - most);
    for (size_t i = 0; i < n; i++) d_row[i] = (float)(exp((double)(row[i] - most)) / total / (double)n_rows);
    d_row[t[r]] -= 1.0f / (float)n_rows;
  }
  return (float)(sum / (double)n_rows);
}

static hd_status check_ids(const int32_t *ids, size_t n, size_t n_classes, hd_error *err) {
  for (size_t i = 0; i < n; i++)
    if (ids[i] < 0 || (size_t)ids[i] >= n_classes)
      return hd_fail(err, HD_BAD_ARGUMENT, "target %zu is class %d of %zu", i, (int)ids[i], n_classes);
  return HD_OK;
}

hd_status hd_loss(hd_session *s, hd_loss_kind kind, const hd_tensor *targets, float *loss, hd_error *err) {
  if (s->mode != HD_TRAIN) return hd_fail(err, HD_BAD_STATE, "a loss needs a session made for training");
  if (!s->has_output) return hd_fail(err, HD_BAD_STATE, "there is no output before a forward");
  const hd_shape *shape = &s->steps.plan.shapes[s->model->output];
  size_t n = hd_shape_size(shape), rows = hd_shape_rows(shape), n_targets = 1;
  for (int d = 0; d < targets->n_dims; d++) n_targets *= targets->shape[d];
  bool classes = kind == HD_CROSS_ENTROPY;
  if (targets->dtype != (classes ? HD_I32 : HD_F32) || n_targets != (classes ? rows : n))
    return hd_fail(err, HD_BAD_ARGUMENT, "%s wants %zu targets of %s, found %zu of %s",
                   classes ? "cross entropy" : "mse", classes ? rows : n, classes ? "I32" : "F32",
                   n_targets, hd_dtype_name(targets->dtype));
  if (classes) HD_TRY(check_ids(targets->data, rows, hd_shape_last(shape), err));
  memset(s->gradients, 0, s->steps.plan.arena_bytes);
  const float *o = hd_steps_data(&s->steps, s->model->output);
  float *d_o = hd_session_grad(s, s->model->output);
  *loss = classes ? cross_entropy(d_o, o, targets->data, rows, hd_shape_last(shape)) : mse(d_o, o, targets->data, n);
  s->has_loss = true;
  return HD_OK;
}

/* ---- Backward and step ---- */

hd_status hd_backward(hd_session *s, hd_error *err) {
  if (!s->has_loss) return hd_fail(err, HD_BAD_STATE, "backward needs a forward and a loss before it");
  s->has_loss = false;
  for (size_t n = s->model->n_nodes; n-- > 0;) HD_TRY(s->model->nodes[n].layer->backward(&s->steps.calls[n], err));
  return HD_OK;
}

hd_status hd_step_sgd(hd_session *s, float lr, hd_error *err) {
  if (s->mode != HD_TRAIN) return hd_fail(err, HD_BAD_STATE, "a step needs a session made for training");
  for (size_t i = 0; i < s->model->n_parameters; i++) {
    const hd_parameter *p = &s->model->parameters[i];
    if (!s->d_weights[i]) continue;
    size_t n = hd_parameter_count(p);
    k_axpy_f32(p->value.data, -lr, s->d_weights[i], n);
    memset(s->d_weights[i], 0, n * sizeof(float));
  }
  return HD_OK;
}

hd_status hd_session_gradient(const hd_session *s, const char *weight, hd_tensor *out, hd_error *err) {
  char room[HD_NAME_ROOM];
  hd_piece piece;
  if (s->mode != HD_TRAIN) return hd_fail(err, HD_BAD_STATE, "gradients need a session made for training");
  float *all = hd_piece_find(&piece, s->model, weight) ? s->d_weights[piece.parameter - s->model->parameters] : NULL;
  if (!all) return hd_fail(err, HD_BAD_ARGUMENT, "there is no weight %s", hd_short_name(room, weight));
  *out = (hd_tensor){.dtype = HD_F32, .n_dims = piece.parameter->slot.n_dims, .data = all + piece.first * piece.parameter->value.cols};
  hd_piece_shape(&piece, out->shape);
  return HD_OK;
}
