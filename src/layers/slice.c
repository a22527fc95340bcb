/* slice.c: a part of one dimension, and zeros around one: the two halves of a shortcut without weights ("Deep Residual Learning for Image
 * Recognition", He et al., 2015, option A), where the smaller image's channels are filled up with zeros.
 *
 *   slice  y[…, i, …] = x[…, start + i · step, …] for all that lie before end
 *   pad    y[…, before + i, …] = x[…, i, …], zeros elsewhere
 *
 * Either way an index i of the shorter side lies at `first + i · step` of the longer one: one loop copies both. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

typedef struct part_config {
  int dim;           /* negative: from the end */
  size_t start, end; /* slice; end 0: the dimension's size */
  size_t step;
  size_t before, after; /* pad */
} part_config;

static void parse_dim(part_config *c, hd_parse *p) {
  double dim = hd_json_get_number(&p->json, "dim", -1);
  c->dim = dim >= -HD_MAX_DIMS && dim < HD_MAX_DIMS && dim == (double)(int)dim ? (int)dim : HD_MAX_DIMS;
  if (c->dim == HD_MAX_DIMS)
    hd_json_refuse(&p->json, "dim", HD_BAD_FILE, "expected a dimension of %d to %d", -HD_MAX_DIMS, HD_MAX_DIMS - 1);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse_slice(void *config, hd_parse *p) {
  part_config *c = config;
  parse_dim(c, p);
  c->start = hd_json_get_size(&p->json, "start", 0);
  c->end = hd_json_get_size(&p->json, "end", 0);
  c->step = hd_json_get_size(&p->json, "step", 1);
  if (c->step == 0) hd_json_refuse(&p->json, "step", HD_BAD_FILE, "expected at least 1");
  if (c->end && c->end <= c->start) hd_json_refuse(&p->json, "end", HD_BAD_FILE, "expected more than the start, %zu", c->start);
}

static void parse_pad(void *config, hd_parse *p) {
  part_config *c = config;
  parse_dim(c, p);
  c->before = hd_json_get_size(&p->json, "before", 0);
  c->after = hd_json_get_size(&p->json, "after", 0);
  c->step = 1;
}

static hd_status write_part(const part_config *c, cJSON *json, hd_dialect dialect, const char *name, hd_error *err) {
  cJSON_AddNumberToObject(json, "dim", c->dim);
  return dialect == HD_LOOM ? hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no '%s'", name) : HD_OK;
}

static hd_status write_slice(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const part_config *c = config;
  cJSON_AddNumberToObject(json, "start", (double)c->start);
  if (c->end) cJSON_AddNumberToObject(json, "end", (double)c->end);
  cJSON_AddNumberToObject(json, "step", (double)c->step);
  return write_part(c, json, dialect, "slice", err);
}

static hd_status write_pad(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const part_config *c = config;
  cJSON_AddNumberToObject(json, "before", (double)c->before);
  cJSON_AddNumberToObject(json, "after", (double)c->after);
  return write_part(c, json, dialect, "pad", err);
}

/* Which of the shape's dimensions is meant; −1: it has none such. */
static int dim_of(const part_config *c, const hd_shape *shape) {
  int dim = c->dim < 0 ? c->dim + shape->n_dims : c->dim;
  return dim >= 0 && dim < shape->n_dims ? dim : -1;
}

static hd_status infer_dim(hd_infer *i, int *dim, hd_error *err) {
  const part_config *c = i->config;
  *dim = dim_of(c, i->in[0]);
  i->out[0] = *i->in[0];
  return *dim < 0 ? hd_infer_fail(i, err, "it has no dimension %d among its input's %d", c->dim, i->in[0]->n_dims) : HD_OK;
}

static hd_status infer_slice(hd_infer *i, hd_error *err) {
  const part_config *c = i->config;
  int dim;
  HD_TRY(infer_dim(i, &dim, err));
  size_t size = i->in[0]->dim[dim], end = c->end && c->end < size ? c->end : size;
  if (c->start >= end) return hd_infer_fail(i, err, "a slice from %zu on leaves nothing of a dimension of %zu", c->start, size);
  i->out[0].dim[dim] = (end - c->start - 1) / c->step + 1;
  return HD_OK;
}

static hd_status infer_pad(hd_infer *i, hd_error *err) {
  const part_config *c = i->config;
  const size_t most = (size_t)1 << 24; /* of zeros: more is a mistake, and sums stay small */
  int dim;
  HD_TRY(infer_dim(i, &dim, err));
  if (c->before > most || c->after > most) return hd_infer_fail(i, err, "expected at most %zu zeros on a side", most);
  i->out[0].dim[dim] += c->before + c->after;
  return HD_OK;
}

/* Values within one index of dimension `dim`, and indices outside it. */
static void extent(const hd_shape *shape, int dim, size_t *outer, size_t *inner) {
  *outer = *inner = 1;
  for (int d = 0; d < dim; d++) *outer *= shape->dim[d];
  for (int d = dim + 1; d < shape->n_dims; d++) *inner *= shape->dim[d];
}

typedef enum direction { FROM_LONG, TO_LONG } direction;

/* Where the short side lies in the long one. */
typedef struct part {
  size_t outer, inner, n_short, n_long, first, step;
} part;

static part part_of(const part_config *c, const hd_shape *shorter, const hd_shape *longer, size_t first) {
  part p = {.first = first, .step = c->step};
  int dim = dim_of(c, longer);
  extent(longer, dim, &p.outer, &p.inner);
  p.n_short = shorter->dim[dim];
  p.n_long = longer->dim[dim];
  return p;
}

/* Copies, or adds, one side's values to the other's. One after another they are one run. */
static void move(const part *p, direction way, float *to, const float *from, bool adds) {
  const size_t n_runs = p->step == 1 ? 1 : p->n_short, run = p->n_short / n_runs * p->inner;
  for (size_t o = 0; o < p->outer; o++)
    for (size_t i = 0; i < n_runs; i++) {
      size_t in_short = o * p->n_short * p->inner + i * run, in_long = (o * p->n_long + p->first + i * p->step) * p->inner;
      float *y = to + (way == FROM_LONG ? in_short : in_long);
      const float *x = from + (way == FROM_LONG ? in_long : in_short);
      if (adds) k_axpy_f32(y, 1, x, run);
      else memcpy(y, x, run * sizeof *y);
    }
}

static hd_status forward_slice(const hd_call *call, hd_error *err) {
  (void)err;
  const part_config *c = call->config;
  const part p = part_of(c, call->out[0].shape, call->in[0].shape, c->start);
  move(&p, FROM_LONG, call->out[0].data, call->in[0].data, false);
  return HD_OK;
}

static hd_status backward_slice(const hd_call *call, hd_error *err) {
  (void)err;
  const part_config *c = call->config;
  const part p = part_of(c, call->out[0].shape, call->in[0].shape, c->start);
  if (call->d_in[0]) move(&p, TO_LONG, call->d_in[0], call->d_out[0], true);
  return HD_OK;
}

static hd_status forward_pad(const hd_call *call, hd_error *err) {
  (void)err;
  const part_config *c = call->config;
  const part p = part_of(c, call->in[0].shape, call->out[0].shape, c->before);
  memset(call->out[0].data, 0, hd_shape_size(call->out[0].shape) * sizeof(float));
  move(&p, TO_LONG, call->out[0].data, call->in[0].data, false);
  return HD_OK;
}

static hd_status backward_pad(const hd_call *call, hd_error *err) {
  (void)err;
  const part_config *c = call->config;
  const part p = part_of(c, call->in[0].shape, call->out[0].shape, c->before);
  if (call->d_in[0]) move(&p, FROM_LONG, call->d_in[0], call->d_out[0], true);
  return HD_OK;
}

const hd_layer hd_layer_slice = {
  .name = "slice",
  .example = "{\"type\":\"slice\",\"dim\":1,\"start\":1,\"step\":2,\"input_shape\":[2,4,3]}",
  .config_bytes = sizeof(part_config),
  .parse = parse_slice, .write = write_slice, .infer = infer_slice, .forward = forward_slice, .backward = backward_slice,
};

const hd_layer hd_layer_pad = {
  .name = "pad",
  .example = "{\"type\":\"pad\",\"dim\":1,\"before\":1,\"after\":2,\"input_shape\":[2,4,3]}",
  .config_bytes = sizeof(part_config),
  .parse = parse_pad, .write = write_pad, .infer = infer_pad, .forward = forward_pad, .backward = backward_pad,
};
