/* softmax_over.c: softmax over any dimension, and its logarithm, as PyTorch's Softmax(dim) and LogSoftmax(dim). */
#include "base/status.h"
#include "layers/rows.h"

#include <math.h>

typedef struct over_config {
  int dim; /* negative: from the end */
  bool log;
} over_config;

static void parse(over_config *c, hd_parse *p, bool log) {
  double dim = hd_json_get_number(&p->json, "dim", -1);
  c->log = log;
  c->dim = dim >= -HD_MAX_DIMS && dim < HD_MAX_DIMS ? (int)dim : HD_MAX_DIMS;
  if (dim != (double)c->dim)
    hd_json_refuse(&p->json, "dim", HD_BAD_FILE, "expected a dimension of %d to %d", -HD_MAX_DIMS, HD_MAX_DIMS - 1);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse_softmax(void *config, hd_parse *p) { parse(config, p, false); }
static void parse_log(void *config, hd_parse *p) { parse(config, p, true); }

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no softmax over a dimension");
  cJSON_AddNumberToObject(json, "dim", ((const over_config *)config)->dim);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const over_config *c = i->config;
  int dim = c->dim < 0 ? c->dim + i->in[0]->n_dims : c->dim;
  if (dim < 0 || dim >= i->in[0]->n_dims)
    return hd_infer_fail(i, err, "expected more than %d dimensions, found %d", c->dim, i->in[0]->n_dims);
  i->out[0] = *i->in[0];
  i->scratch_bytes = hd_times(i->in[0]->dim[dim], 3 * sizeof(float));
  return HD_OK;
}

/* Lines along the dimension: n elements, `apart` floats from each other. */
typedef struct lines {
  size_t n_lines, n, apart;
} lines;

static lines lines_of(const hd_call *call) {
  const over_config *c = call->config;
  const hd_shape *shape = call->in[0].shape;
  int dim = c->dim < 0 ? c->dim + shape->n_dims : c->dim;
  lines l = {0, shape->dim[dim], 1};
  for (int d = dim + 1; d < shape->n_dims; d++) l.apart *= shape->dim[d];
  l.n_lines = l.n ? hd_shape_size(shape) / l.n : 0;
  return l;
}

static size_t first_of(const lines *l, size_t line) { return line / l->apart * l->n * l->apart + line % l->apart; }

static void gather(float *to, const float *from, const lines *l) {
  for (size_t k = 0; k < l->n; k++) to[k] = from[k * l->apart];
}

/* x − max − ln Σ e^(x − max) */
static void log_softmax(float *y, const float *x, size_t n) {
  float most = -INFINITY;
  double sum = 0;
  for (size_t k = 0; k < n; k++) most = x[k] > most ? x[k] : most;
  for (size_t k = 0; k < n; k++) sum += (double)k_exp(x[k] - most);
  float log_sum = (float)log(sum);
  for (size_t k = 0; k < n; k++) y[k] = x[k] - most - log_sum;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const over_config *c = call->config;
  const lines l = lines_of(call);
  float *x = call->scratch, *y = x + l.n;
  for (size_t line = 0; line < l.n_lines; line++) {
    size_t first = first_of(&l, line);
    gather(x, call->in[0].data + first, &l);
    if (c->log) log_softmax(y, x, l.n);
    else k_softmax_f32(y, x, l.n, 1);
    for (size_t k = 0; k < l.n; k++) call->out[0].data[first + k * l.apart] = y[k];
  }
  return HD_OK;
}

/* Of the logarithm: d_x = d_y − e^y · Σ d_y. */
static void log_softmax_grad(float *d_x, const float *d_y, const float *y, size_t n) {
  double sum = 0;
  for (size_t k = 0; k < n; k++) sum += (double)d_y[k];
  for (size_t k = 0; k < n; k++) d_x[k] += d_y[k] - (float)((double)k_exp(y[k]) * sum);
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const over_config *c = call->config;
  const lines l = lines_of(call);
  float *y = call->scratch, *d_y = y + l.n, *d_x = d_y + l.n;
  for (size_t line = 0; call->d_in[0] && line < l.n_lines; line++) {
    size_t first = first_of(&l, line);
    gather(y, call->out[0].data + first, &l);
    gather(d_y, call->d_out[0] + first, &l);
    gather(d_x, call->d_in[0] + first, &l);
    if (c->log) log_softmax_grad(d_x, d_y, y, l.n);
    else k_softmax_grad_f32(d_x, d_y, y, l.n, 1);
    for (size_t k = 0; k < l.n; k++) call->d_in[0][first + k * l.apart] = d_x[k];
  }
  return HD_OK;
}

static const char *const log_aliases[] = {"LogSoftmax", NULL};

const hd_layer hd_layer_softmax_over = {
  .name = "softmax_over",
  .example = "{\"type\":\"softmax_over\",\"dim\":1,\"input_shape\":[2,3,4]}",
  .config_bytes = sizeof(over_config),
  .parse = parse_softmax,
  .write = write,
  .infer = infer,
  .in_place = true,
  .forward = forward,
  .backward = backward,
};

const hd_layer hd_layer_log_softmax = {
  .name = "log_softmax",
  .example = "{\"type\":\"log_softmax\",\"input_shape\":[3,4]}",
  .aliases = log_aliases,
  .config_bytes = sizeof(over_config),
  .parse = parse_log,
  .write = write,
  .infer = infer,
  .in_place = true,
  .forward = forward,
  .backward = backward,
};
