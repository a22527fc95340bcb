/* recurrent.c: rnn, lstm and gru, as PyTorch's RNN, LSTM and GRU with a first state of 0, and as Loom's. What the input gives to the gates
 * is one linear over all positions; the node `recurrent` walks the positions of one layer in one direction. kernels/recurrent.h has the
 * cells' formulas. x: [positions, input], [positions, batch, input], or with batch_first [batch, positions, input]. */
#include "kernels/recurrent.h"

#include "base/status.h"
#include "layers/axes.h"
#include "layers/rows.h"

#include <stdio.h>
#include <string.h>

/* ---- One layer in one direction. Input: what x gives to the gates, [.., gates · hidden]; or, by gate, one value for each ---- */

typedef struct recurrent_config {
  const k_cell *cell;
  size_t hidden;
  size_t projected;     /* LSTM's proj_size; 0: none */
  bool reverse, batch_first;
  bool by_gate;         /* Loom's lstm: each gate has an input and a weight [hidden, hidden] of its own */
  size_t batch, steps;  /* Loom: always these; 0: the input's */
  const char *weight_hh[4], *bias_hh, *weight_hr; /* NULL: absent */
} recurrent_config;

enum { SLOT_HH, SLOT_BIAS, SLOT_HR }; /* by gate: one slot for each instead */

static size_t state_width(const recurrent_config *c) { return c->projected ? c->projected : c->hidden; }

typedef struct extent {
  size_t batch, steps;
} extent;

static extent extent_of(const recurrent_config *c, const hd_shape *in) {
  if (c->batch) return (extent){c->batch, c->steps};
  if (in->n_dims == 2) return (extent){1, in->dim[0]};
  return c->batch_first ? (extent){in->dim[0], in->dim[1]} : (extent){in->dim[1], in->dim[0]};
}

/* The row of sample b at the walk's step s. */
static size_t row_at(const recurrent_config *c, extent e, size_t s, size_t b) {
  size_t t = c->reverse ? e.steps - 1 - s : s;
  return c->batch_first ? b * e.steps + t : t * e.batch + b;
}

/* Buffers of one step over the whole batch, laid into scratch. */
typedef struct buffers {
  float *h, *raw;      /* state [batch, state width]; before the projection [batch, hidden]: the same without one */
  float *c;            /* [batch, hidden] */
  float *a, *u;        /* [batch, gates · hidden] */
  float *part;         /* [batch, hidden] */
  float *kept;         /* [kept · hidden] */
  void *kernel;        /* the matrix kernels' own */
} buffers;

/* Where they begin, in floats; kernel: where they end. */
typedef struct places {
  size_t h, raw, c, a, u, part, kept, kernel;
} places;

/* Room for rows · n floats, 64-aligned. */
static size_t take(size_t *at, size_t rows, size_t n) {
  size_t offset = *at, all = hd_times(rows, n);
  *at = hd_plus(offset, hd_times(all / 16 + (all % 16 != 0), 16));
  return offset;
}

static places places_of(const recurrent_config *c, size_t batch) {
  size_t at = 0, all = hd_times(c->cell->gates, c->hidden);
  places p;
  p.h = p.raw = take(&at, batch, state_width(c));
  if (c->projected) p.raw = take(&at, batch, c->hidden);
  p.c = take(&at, batch, c->hidden);
  p.a = take(&at, batch, all);
  p.u = take(&at, batch, all);
  p.part = take(&at, batch, c->hidden);
  p.kept = take(&at, c->cell->kept, c->hidden);
  p.kernel = at;
  return p;
}

/* The buffers in the call's scratch, all 0. */
static buffers lay_out(const hd_call *call, size_t batch) {
  const places p = places_of(call->config, batch);
  float *at = call->scratch;
  memset(at, 0, p.kernel * sizeof *at);
  return (buffers){.h = at + p.h, .raw = at + p.raw, .c = at + p.c, .a = at + p.a, .u = at + p.u,
                   .part = at + p.part, .kept = at + p.kept, .kernel = at + p.kernel};
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const recurrent_config *c = i->config;
  const hd_shape *in = i->in[0];
  if (!c->batch && in->n_dims != 2 && in->n_dims != 3) return hd_infer_fail(i, err, "expected 2 or 3 dimensions, found %d", in->n_dims);
  extent e = extent_of(c, in);
  i->out[0] = *in;
  if (c->batch) i->out[0] = (hd_shape){HD_F32, 3, {e.batch, e.steps}};
  i->out[0].dim[i->out[0].n_dims - 1] = state_width(c);
  i->out[1] = (hd_shape){HD_F32, 2, {e.batch * e.steps, c->cell->kept * c->hidden}};
  size_t kernel_bytes = 0;
  for (int w = 0; w < HD_MAX_WEIGHTS; w++) {
    size_t bytes = i->weight[w] && i->weight[w]->rows > 1 ? i->weight[w]->layout->scratch_bytes(i->weight[w], e.batch) : 0;
    if (bytes > kernel_bytes) kernel_bytes = bytes;
  }
  i->scratch_bytes = hd_plus(hd_times(places_of(c, e.batch).kernel, sizeof(float)), kernel_bytes);
  return HD_OK;
}

static hd_slot hidden_slot(const char *role, size_t rows, size_t cols) {
  return (hd_slot){.role = role, .n_dims = 2, .shape = {rows, cols}, .matrix = true, .init = HD_INIT_UNIFORM_FAN_IN, .init_scale = 1};
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const recurrent_config *c = config;
  size_t all = c->cell->gates * c->hidden;
  if (c->by_gate) {
    for (size_t g = 0; g < c->cell->gates; g++) slot[g] = hidden_slot(c->weight_hh[g], c->hidden, c->hidden);
    return c->cell->gates;
  }
  slot[SLOT_HH] = hidden_slot(c->weight_hh[0], all, state_width(c));
  size_t n = 1;
  if (c->bias_hh) slot[n++] = (hd_slot){.role = c->bias_hh, .n_dims = 1, .shape = {all}, .init = HD_INIT_ZERO};
  if (c->weight_hr) slot[n++] = hidden_slot(c->weight_hr, c->projected, c->hidden);
  return n;
}

static int projection_slot(const recurrent_config *c) { return c->bias_hh ? SLOT_HR : SLOT_BIAS; }

/* columns [first, first + hidden) of rows of `width` */
static void copy_columns(float *to, size_t to_width, size_t to_first, const float *from, size_t from_width, size_t from_first,
                         size_t n_rows, size_t n) {
  for (size_t r = 0; r < n_rows; r++) memcpy(to + r * to_width + to_first, from + r * from_width + from_first, n * sizeof *to);
}

/* u = W_hh·h + b_hh for the whole batch */
static void from_state(const hd_call *call, const buffers *b, size_t batch) {
  const recurrent_config *c = call->config;
  size_t all = c->cell->gates * c->hidden;
  hd_call inner = *call;
  inner.scratch = b->kernel;
  for (size_t g = 0; c->by_gate && g < c->cell->gates; g++) {
    hd_linear(&inner, (int)g, b->h, batch, b->part);
    copy_columns(b->u, all, g * c->hidden, b->part, c->hidden, 0, batch, c->hidden);
  }
  if (!c->by_gate) hd_linear(&inner, SLOT_HH, b->h, batch, b->u);
  if (c->bias_hh) k_add_rows_f32(b->u, call->weight[SLOT_BIAS]->data, batch, all);
}

/* a: the input's part of one row */
static const float *from_input(const hd_call *call, float *room, size_t row) {
  const recurrent_config *c = call->config;
  if (!c->by_gate) return call->in[0].data + row * c->cell->gates * c->hidden;
  for (size_t g = 0; g < c->cell->gates; g++) memcpy(room + g * c->hidden, call->in[g].data + row * c->hidden, c->hidden * sizeof *room);
  return room;
}

static void project(const hd_call *call, const buffers *b, size_t batch) {
  const recurrent_config *c = call->config;
  hd_call inner = *call;
  inner.scratch = b->kernel;
  if (c->projected) hd_linear(&inner, projection_slot(c), b->raw, batch, b->h);
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const recurrent_config *c = call->config;
  const extent e = extent_of(c, call->in[0].shape);
  size_t hidden = c->hidden, width = state_width(c), n_kept = c->cell->kept * hidden;
  const buffers b = lay_out(call, e.batch);
  for (size_t s = 0; s < e.steps; s++) {
    from_state(call, &b, e.batch);
    for (size_t i = 0; i < e.batch; i++) {
      size_t row = row_at(c, e, s, i);
      float *kept = call->out[1].data ? call->out[1].data + row * n_kept : b.kept;
      c->cell->step(b.raw + i * hidden, b.c + i * hidden, kept, from_input(call, b.a, row), b.u + i * c->cell->gates * hidden, hidden);
    }
    project(call, &b, e.batch);
    for (size_t i = 0; i < e.batch; i++) memcpy(call->out[0].data + row_at(c, e, s, i) * width, b.h + i * width, width * sizeof(float));
  }
  return HD_OK;
}

/* ---- Gradient: the walk backwards. In the buffers, h, raw, c, a and u hold gradients of what they are called after ---- */

/* What step s − 1 left in the rows of a value, gathered over the batch. */
static void gather(float *to, const recurrent_config *c, extent e, size_t s, const float *rows, size_t width) {
  for (size_t i = 0; i < e.batch; i++) memcpy(to + i * width, rows + row_at(c, e, s, i) * width, width * sizeof *to);
}

static void project_grad(const hd_call *call, const buffers *b, extent e, size_t s) {
  const recurrent_config *c = call->config;
  int slot = projection_slot(c);
  const hd_matrix *w = call->weight[slot];
  size_t n_kept = c->cell->kept * c->hidden;
  memset(b->raw, 0, e.batch * c->hidden * sizeof(float));
  w->layout->matmul_grad(b->raw, b->h, e.batch, w);
  for (size_t i = 0; i < e.batch; i++)
    memcpy(b->part + i * c->hidden, call->out[1].data + row_at(c, e, s, i) * n_kept + n_kept - c->hidden, c->hidden * sizeof(float));
  if (call->d_weight[slot]) k_matmul_weight_grad(call->d_weight[slot], b->h, b->part, e.batch, w->rows, w->cols);
  memset(b->h, 0, e.batch * c->projected * sizeof(float));
}

/* One weight's share: d_h += d_u · W, d_W += d_uᵀ · h_before. */
static void weight_grad(const hd_call *call, int slot, float *d_h, const float *d_u, const float *h_before, size_t batch) {
  const hd_matrix *w = call->weight[slot];
  w->layout->matmul_grad(d_h, d_u, batch, w);
  if (call->d_weight[slot] && h_before) k_matmul_weight_grad(call->d_weight[slot], d_u, h_before, batch, w->rows, w->cols);
}

static void state_grad(const hd_call *call, const buffers *b, const float *h_before, size_t batch) {
  const recurrent_config *c = call->config;
  size_t all = c->cell->gates * c->hidden;
  for (size_t g = 0; c->by_gate && g < c->cell->gates; g++) {
    copy_columns(b->part, c->hidden, 0, b->u, all, g * c->hidden, batch, c->hidden);
    weight_grad(call, (int)g, b->h, b->part, h_before, batch);
  }
  if (!c->by_gate) weight_grad(call, SLOT_HH, b->h, b->u, h_before, batch);
  if (c->bias_hh && call->d_weight[SLOT_BIAS]) k_sum_rows_f32(call->d_weight[SLOT_BIAS], b->u, batch, all);
}

static void input_grad(const hd_call *call, size_t row, const float *d_a) {
  const recurrent_config *c = call->config;
  size_t n_values = c->by_gate ? c->cell->gates : 1, width = c->cell->gates * c->hidden / n_values;
  for (size_t v = 0; v < n_values; v++)
    if (call->d_in[v]) k_axpy_f32(call->d_in[v] + row * width, 1, d_a + v * width, width);
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const recurrent_config *c = call->config;
  const extent e = extent_of(c, call->in[0].shape);
  size_t hidden = c->hidden, width = state_width(c), n_kept = c->cell->kept * hidden, all = c->cell->gates * hidden;
  const buffers b = lay_out(call, e.batch);
  for (size_t s = e.steps; s-- > 0;) {
    for (size_t i = 0; i < e.batch; i++) k_axpy_f32(b.h + i * width, 1, call->d_out[0] + row_at(c, e, s, i) * width, width);
    if (c->projected) project_grad(call, &b, e, s);
    for (size_t i = 0; i < e.batch; i++) {
      size_t row = row_at(c, e, s, i), before = s ? row_at(c, e, s - 1, i) : 0;
      const float *kept = call->out[1].data;
      c->cell->step_grad(b.raw + i * hidden, b.c + i * hidden, b.a + i * all, b.u + i * all, kept + row * n_kept,
                         s ? kept + before * n_kept : NULL, s ? call->out[0].data + before * width : NULL, hidden);
      input_grad(call, row, b.a + i * all);
    }
    if (s) gather(b.a, c, e, s - 1, call->out[0].data, width); /* a is free again, and as wide at least */
    state_grad(call, &b, s ? b.a : NULL, e.batch);
  }
  return HD_OK;
}

static const char *const outputs[] = {"", "kept"};

const hd_layer hd_layer_recurrent = {
  .name = "recurrent",
  .config_bytes = sizeof(recurrent_config),
  .infer = infer,
  .slots = slots,
  .n_outputs = 2,
  .output_names = outputs,
  .extra_outputs_optional = true,
  .forward = forward,
  .backward = backward,
};

/* ---- What is declared: layers over each other, each in one or two directions ---- */

typedef struct direction {
  const char *weight_ih, *weight_hh, *bias_ih, *bias_hh, *weight_hr; /* PyTorch's names */
} direction;

typedef struct network_config {
  const k_cell *cell;
  size_t input, hidden, n_layers, projected;
  bool bias, batch_first, bidirectional;
  size_t batch, steps;   /* Loom */
  direction *directions; /* [n_layers, 1 or 2] */
} network_config;

static size_t n_directions(const network_config *c) { return c->bidirectional ? 2 : 1; }

static void name_weights(network_config *c, hd_parse *p) {
  size_t n = c->n_layers * n_directions(c);
  c->directions = hd_arena_alloc(p->arena, n * sizeof *c->directions);
  for (size_t i = 0; c->directions && i < n; i++) {
    size_t layer = i / n_directions(c);
    const char *suffix = i % n_directions(c) ? "_reverse" : "";
    direction *d = &c->directions[i];
    d->weight_ih = hd_arena_format(p->arena, "weight_ih_l%zu%s", layer, suffix);
    d->weight_hh = hd_arena_format(p->arena, "weight_hh_l%zu%s", layer, suffix);
    d->bias_ih = c->bias ? hd_arena_format(p->arena, "bias_ih_l%zu%s", layer, suffix) : NULL;
    d->bias_hh = c->bias ? hd_arena_format(p->arena, "bias_hh_l%zu%s", layer, suffix) : NULL;
    d->weight_hr = c->projected ? hd_arena_format(p->arena, "weight_hr_l%zu%s", layer, suffix) : NULL;
  }
  if (!c->directions) hd_json_refuse(&p->json, "num_layers", HD_OUT_OF_MEMORY, "no memory for %zu layers", c->n_layers);
}

static void check_sizes(const network_config *c, hd_parse *p) {
  enum { MOST_LAYERS = 256 };
  if (c->n_layers == 0 || c->n_layers > MOST_LAYERS) hd_json_refuse(&p->json, "num_layers", HD_BAD_FILE, "expected 1 to %d", MOST_LAYERS);
  else if (c->projected && (c->cell != &k_cell_lstm || c->projected >= c->hidden))
    hd_json_refuse(&p->json, "proj_size", HD_BAD_FILE, "only an lstm projects, and to less than its hidden_size");
}

static void parse_loom(network_config *c, hd_parse *p) {
  c->n_layers = 1;
  c->bias = c->batch_first = true;
  c->batch = p->batch;
  c->steps = hd_json_need_size(&p->json, "seq_length", SIZE_MAX);
  check_sizes(c, p);
  if (c->cell == &k_cell_gru) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no 'gru'");
}

static void parse(network_config *c, hd_parse *p) {
  hd_json *j = &p->json;
  enum { MOST = 1 << 24 };
  c->input = hd_json_need_size(j, "input_size", MOST);
  c->hidden = hd_json_need_size(j, "hidden_size", MOST);
  if (p->dialect == HD_LOOM) {
    parse_loom(c, p);
    return;
  }
  c->n_layers = hd_json_get_size(j, "num_layers", 1);
  c->projected = hd_json_get_size(j, "proj_size", 0);
  c->bias = hd_json_get_bool(j, "bias", true);
  c->batch_first = hd_json_get_bool(j, "batch_first", false);
  c->bidirectional = hd_json_get_bool(j, "bidirectional", false);
  check_sizes(c, p);
  hd_refuse_inputs(p, (const char *const[]){"h0", "c0", NULL});
  if (*j->status == HD_OK) name_weights(c, p);
}

static void parse_rnn(void *config, hd_parse *p) {
  network_config *c = config;
  const char *name = p->dialect == HD_LOOM ? "tanh" : hd_json_get_text(&p->json, "nonlinearity", "tanh");
  char room[HD_NAME_ROOM];
  c->cell = strcmp(name, "relu") == 0 ? &k_cell_rnn_relu : &k_cell_rnn_tanh;
  if (strcmp(name, "relu") != 0 && strcmp(name, "tanh") != 0)
    hd_json_refuse(&p->json, "nonlinearity", HD_BAD_FILE, "expected tanh or relu, found '%s'", hd_short_name(room, name));
  parse(c, p);
}

static void parse_lstm(void *config, hd_parse *p) {
  ((network_config *)config)->cell = &k_cell_lstm;
  parse(config, p);
}

static void parse_gru(void *config, hd_parse *p) {
  ((network_config *)config)->cell = &k_cell_gru;
  parse(config, p);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)err;
  const network_config *c = config;
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes it for every layer and ignores it here */
  cJSON_AddNumberToObject(json, "input_size", (double)c->input);
  cJSON_AddNumberToObject(json, "hidden_size", (double)c->hidden);
  if (dialect == HD_LOOM) {
    cJSON_AddNumberToObject(json, "seq_length", (double)c->steps);
    return HD_OK;
  }
  cJSON_AddNumberToObject(json, "num_layers", (double)c->n_layers);
  cJSON_AddBoolToObject(json, "bias", c->bias);
  cJSON_AddBoolToObject(json, "batch_first", c->batch_first);
  cJSON_AddBoolToObject(json, "bidirectional", c->bidirectional);
  if (c->cell == &k_cell_lstm) cJSON_AddNumberToObject(json, "proj_size", (double)c->projected);
  if (c->cell == &k_cell_rnn_relu) cJSON_AddStringToObject(json, "nonlinearity", "relu");
  return HD_OK;
}

static recurrent_config recurrent_of(const network_config *c) {
  return (recurrent_config){.cell = c->cell, .hidden = c->hidden, .projected = c->projected,
                            .batch_first = c->batch_first, .batch = c->batch, .steps = c->steps};
}

/* Loom's rnn has one bias; its lstm has weights and a bias for each gate. */
static hd_value expand_loom(hd_builder *b, const network_config *c, hd_value x) {
  static const char *const gates[4][4] = {
    {"i", "weight_ii", "weight_hi", "bias_i"}, {"f", "weight_if", "weight_hf", "bias_f"},
    {"g", "weight_ig", "weight_hg", "bias_g"}, {"o", "weight_io", "weight_ho", "bias_o"},
  };
  static const char *const one[1][4] = {{"gates", "weight_ih", "weight_hh", "bias_h"}};
  size_t n = c->cell->gates;
  const char *const(*names)[4] = n == 1 ? one : gates;
  recurrent_config recurrent = recurrent_of(c);
  hd_value values[4];
  recurrent.by_gate = true;
  for (size_t g = 0; g < n; g++) {
    const hd_linear_config linear = {.in_features = c->input, .out_features = c->hidden, .bias = true,
                                     .fixed_rows = hd_times(c->batch, c->steps), .weight_role = names[g][1], .bias_role = names[g][3]};
    recurrent.weight_hh[g] = names[g][2];
    values[g] = hd_build(b, &hd_layer_linear, names[g][0], "", &linear, &x, 1);
  }
  return hd_build(b, &hd_layer_recurrent, "", "", &recurrent, values, n);
}

/* One direction of one layer. `prefix`: "l0", "l0_reverse"; `name`: of its output. */
static hd_value expand_direction(hd_builder *b, const network_config *c, size_t index, const char *prefix, const char *name, hd_value x) {
  const direction *d = &c->directions[index];
  size_t state = c->projected ? c->projected : c->hidden;
  char gates_name[64];
  const hd_linear_config linear = {.in_features = index < n_directions(c) ? c->input : n_directions(c) * state,
                                   .out_features = c->cell->gates * c->hidden, .bias = c->bias,
                                   .weight_role = d->weight_ih, .bias_role = d->bias_ih};
  recurrent_config recurrent = recurrent_of(c);
  recurrent.reverse = index % n_directions(c) == 1;
  recurrent.weight_hh[0] = d->weight_hh;
  recurrent.bias_hh = d->bias_hh;
  recurrent.weight_hr = d->weight_hr;
  snprintf(gates_name, sizeof gates_name, "%s.gates", prefix);
  hd_value gates = hd_build(b, &hd_layer_linear, gates_name, "", &linear, &x, 1);
  return hd_build(b, &hd_layer_recurrent, name, "", &recurrent, &gates, 1);
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  const network_config *c = spec->config;
  if (c->batch) return expand_loom(b, c, x);
  for (size_t l = 0; l < c->n_layers; l++) {
    char prefix[32], reverse[32], joined[32];
    snprintf(prefix, sizeof prefix, "l%zu", l);
    snprintf(reverse, sizeof reverse, "l%zu_reverse", l);
    snprintf(joined, sizeof joined, "l%zu.joined", l);
    bool is_last = l + 1 == c->n_layers;
    if (!c->bidirectional) {
      x = expand_direction(b, c, l, prefix, is_last ? "" : prefix, x);
      continue;
    }
    hd_value ways[2] = {expand_direction(b, c, 2 * l, prefix, prefix, x), expand_direction(b, c, 2 * l + 1, reverse, reverse, x)};
    x = hd_build(b, &hd_layer_join, is_last ? "" : joined, "", NULL, ways, 2);
  }
  return x;
}

static const char *const rnn_aliases[] = {"RNN", NULL}, *const lstm_aliases[] = {"LSTM", NULL}, *const gru_aliases[] = {"GRU", NULL};

const hd_layer hd_layer_rnn = {
  .name = "rnn",
  .example = "{\"type\":\"rnn\",\"input_size\":3,\"hidden_size\":4,\"bidirectional\":true,\"input_shape\":[5,2,3]}",
  .aliases = rnn_aliases,
  .config_bytes = sizeof(network_config),
  .parse = parse_rnn,
  .write = write,
  .expand = expand,
};

const hd_layer hd_layer_lstm = {
  .name = "lstm",
  .example = "{\"type\":\"lstm\",\"input_size\":3,\"hidden_size\":4,\"num_layers\":2,\"proj_size\":2,"
             "\"batch_first\":true,\"input_shape\":[2,4,3]}",
  .aliases = lstm_aliases,
  .config_bytes = sizeof(network_config),
  .parse = parse_lstm,
  .write = write,
  .expand = expand,
};

const hd_layer hd_layer_gru = {
  .name = "gru",
  .example = "{\"type\":\"gru\",\"input_size\":3,\"hidden_size\":4,\"bidirectional\":true,\"input_shape\":[5,3]}",
  .aliases = gru_aliases,
  .config_bytes = sizeof(network_config),
  .parse = parse_gru,
  .write = write,
  .expand = expand,
};
