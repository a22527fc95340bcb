/* positions.c: what tells a network where in a sequence its rows stand. sinusoidal_positions adds the table of "Attention Is All You Need"
 * (Vaswani et al., 2017), learned_positions a weight's rows; rotary_positions turns x, as position.c does inside attention layers.
 * x: [positions, width], or [batch, positions, width]; with batch_first false [positions, batch, width]. */
#include "base/status.h"
#include "layers/rows.h"

#include <math.h>

static void parse(hd_positions_config *c, hd_parse *p, const char *key) {
  c->width = hd_json_need_size(&p->json, key, 1 << 24);
  c->positions_first = !hd_json_get_bool(&p->json, "batch_first", true);
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse_sinusoidal(void *config, hd_parse *p) {
  parse(config, p, "d_model");
  ((hd_positions_config *)config)->most = hd_json_get_size(&p->json, "max_len", 0);
}

static void parse_learned(void *config, hd_parse *p) {
  hd_positions_config *c = config;
  parse(c, p, "dim");
  c->most = hd_json_need_size(&p->json, "max_len", SIZE_MAX);
}

static hd_status write(const hd_positions_config *c, cJSON *json, const char *key, hd_dialect dialect, hd_error *err) {
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no positions");
  cJSON_AddNumberToObject(json, key, (double)c->width);
  if (c->most) cJSON_AddNumberToObject(json, "max_len", (double)c->most);
  cJSON_AddBoolToObject(json, "batch_first", !c->positions_first);
  return HD_OK;
}

static hd_status write_sinusoidal(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  return write(config, json, "d_model", dialect, err);
}

static hd_status write_learned(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  return write(config, json, "dim", dialect, err);
}

/* Positions that a call adds to a sequence. */
static size_t positions_of(const hd_positions_config *c, const hd_run *run, const hd_shape *in, size_t sequence) {
  return hd_rows_of(run, sequence, c->positions_first ? in->dim[0] : in->dim[in->n_dims - 2]);
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_positions_config *c = i->config;
  const hd_shape *in = i->in[0];
  char room[HD_SHAPE_ROOM];
  if (in->n_dims < 2 || hd_shape_last(in) != c->width)
    return hd_infer_fail(i, err, "expected positions of width %zu, found shape %s", c->width, hd_shape_text(room, in->n_dims, in->dim));
  for (size_t k = 0; k < i->run->n_sequences; k++) {
    size_t end = i->run->sequences[k].past + positions_of(c, i->run, in, k);
    if (c->most && end > c->most) return hd_infer_fail(i, err, "expected at most %zu positions, found %zu", c->most, end);
  }
  i->out[0] = *in;
  i->scratch_bytes = hd_times(c->width, sizeof(float));
  return HD_OK;
}

/* The positions of the input's rows, asked one after the other. */
typedef struct walk {
  size_t sequence, row; /* the next row's */
} walk;

static size_t next_position(const hd_call *call, walk *w) {
  const hd_positions_config *c = call->config;
  const hd_shape *in = call->in[0].shape;
  const hd_run *run = call->run;
  if (run->n_sequences > 1 && w->row == run->sequences[w->sequence].rows) *w = (walk){.sequence = w->sequence + 1};
  size_t n = positions_of(c, run, in, w->sequence), rows_apart = c->positions_first && run->n_sequences == 1 ? hd_shape_rows(in) / n : 1;
  return run->sequences[w->sequence].past + w->row++ / rows_apart % n;
}

/* p[2i] = sin(position / 10000^(2i / width)), p[2i + 1] = cos of the same */
static void sinusoid(float *to, size_t position, size_t width) {
  for (size_t d = 0; d < width; d++) {
    double angle = (double)position * exp(-(double)(d & ~(size_t)1) * log(10000.0) / (double)width);
    to[d] = (float)(d & 1 ? cos(angle) : sin(angle));
  }
}

static hd_status forward_sinusoidal(const hd_call *call, hd_error *err) {
  (void)err;
  size_t width = ((const hd_positions_config *)call->config)->width, rows = hd_shape_rows(call->in[0].shape);
  walk w = {0};
  for (size_t r = 0; r < rows; r++) {
    sinusoid(call->scratch, next_position(call, &w), width);
    k_add_f32(call->out[0].data + r * width, call->in[0].data + r * width, call->scratch, width);
  }
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  if (call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], hd_shape_size(call->out[0].shape));
  return HD_OK;
}

static size_t slots_learned(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const hd_positions_config *c = config;
  slot[0] = (hd_slot){.role = "weight", .n_dims = 2, .shape = {c->most, c->width}, .init = HD_INIT_NORMAL, .init_scale = 1};
  return 1;
}

static hd_status forward_learned(const hd_call *call, hd_error *err) {
  (void)err;
  const float *weight = call->weight[0]->data;
  size_t width = ((const hd_positions_config *)call->config)->width, rows = hd_shape_rows(call->in[0].shape);
  walk w = {0};
  for (size_t r = 0; r < rows; r++)
    k_add_f32(call->out[0].data + r * width, call->in[0].data + r * width, weight + next_position(call, &w) * width, width);
  return HD_OK;
}

static hd_status backward_learned(const hd_call *call, hd_error *err) {
  size_t width = ((const hd_positions_config *)call->config)->width, rows = hd_shape_rows(call->in[0].shape);
  walk w = {0};
  for (size_t r = 0; call->d_weight[0] && r < rows; r++)
    k_axpy_f32(call->d_weight[0] + next_position(call, &w) * width, 1, call->d_out[0] + r * width, width);
  return backward(call, err);
}

/* ---- rotary_positions ---- */

static void parse_rotary(void *config, hd_parse *p) {
  hd_rope_table_config *c = config;
  c->head_dim = hd_json_need_size(&p->json, "dim", SIZE_MAX);
  c->theta = hd_json_get_number(&p->json, "base", 10000);
  if (c->head_dim % 2) hd_json_refuse(&p->json, "dim", HD_BAD_FILE, "expected an even size, found %zu", c->head_dim);
  if (!(c->theta > 0)) hd_json_refuse(&p->json, "base", HD_BAD_FILE, "expected a number above 0");
  if (hd_json_get_bool(&p->json, "interleaved", false))
    hd_json_refuse(&p->json, "interleaved", HD_UNSUPPORTED, "rotating neighbouring pairs is not built, only halves are");
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static hd_status write_rotary(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_rope_table_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no positions");
  cJSON_AddNumberToObject(json, "dim", (double)c->head_dim);
  cJSON_AddNumberToObject(json, "base", c->theta);
  return HD_OK;
}

static hd_value expand_rotary(hd_builder *b, const hd_spec *spec, hd_value x) {
  const hd_rope_table_config *c = spec->config;
  hd_value cosine = hd_build(b, &hd_layer_rope_table, "rope", "", c, &x, 1);
  hd_value inputs[] = {x, cosine, hd_build_output(b, cosine, 1)};
  return hd_build(b, &hd_layer_rope, "", "", &(hd_rope_config){.head_dim = c->head_dim}, inputs, 3);
}

static const char *const sinusoidal_aliases[] = {"PositionalEncoding", NULL};

const hd_layer hd_layer_sinusoidal_positions = {
  .name = "sinusoidal_positions",
  .example = "{\"type\":\"sinusoidal_positions\",\"d_model\":5,\"batch_first\":false,\"max_len\":9,\"input_shape\":[4,2,5]}",
  .aliases = sinusoidal_aliases,
  .config_bytes = sizeof(hd_positions_config),
  .parse = parse_sinusoidal,
  .write = write_sinusoidal,
  .infer = infer,
  .many_sequences = true,
  .in_place = true,
  .forward = forward_sinusoidal,
  .backward = backward,
};

const hd_layer hd_layer_learned_positions = {
  .name = "learned_positions",
  .example = "{\"type\":\"learned_positions\",\"dim\":4,\"max_len\":7,\"input_shape\":[2,5,4]}",
  .config_bytes = sizeof(hd_positions_config),
  .parse = parse_learned,
  .write = write_learned,
  .infer = infer,
  .slots = slots_learned,
  .many_sequences = true,
  .in_place = true,
  .forward = forward_learned,
  .backward = backward_learned,
};

const hd_layer hd_layer_rotary_positions = {
  .name = "rotary_positions",
  .example = "{\"type\":\"rotary_positions\",\"dim\":6,\"input_shape\":[2,5,6]}",
  .config_bytes = sizeof(hd_rope_table_config),
  .parse = parse_rotary,
  .write = write_rotary,
  .expand = expand_rotary,
};
