/* parallel.c: branches that all get the same input, and the node that joins what they give.
 *
 *   concat                 one after another
 *   add, avg (average)     element by element
 *   filter                 Σ w_i · branch_i, shorter branches filled up with zeros; w = softmax(gate(x)), equal without a gate
 *                          ("Adaptive Mixtures of Local Experts", Jacobs et al., 1991)
 *   grid_scatter           each branch in its cell of a grid, cells in order
 *
 * All of them work on rows. In the standard dialect a row is a sample (the last dimension), and the gate weighs each
 * sample alone. In the loom dialect the whole vector is one row, so that concat joins whole batches, except for
 * grid_scatter, whose rows are the batch's samples.
 *
 * Where Loom finds an error (sizes that do not add up, a place outside the grid, an unknown mode, …) it prints a line and the outermost
 * layer passes its input through (loom.md, section c). Here a join that cannot be made has an empty value, which makes the join around it
 * one that cannot be made either; the outermost copies its input. Sizes decide, so it is settled when the plan is made. */
#include "base/status.h"
#include "layers/rows.h"

#include <stdio.h>
#include <string.h>

typedef struct position {
  size_t branch;         /* that lies there; Loom: always the position's own index, whatever is declared */
  size_t declared_branch, row, col, layer, cell;
  bool covered;          /* Loom: a later branch has the same cell, and its width */
} position;

typedef struct parallel_config {
  const struct mode *mode;
  const char *mode_name; /* as declared */
  bool loom;
  size_t batch;
  size_t n_branches;
  const position *positions; /* one for each branch */
  size_t n_positions, grid[3]; /* rows, cols, layers */
  hd_softmax_config filter;
  float equal_weight;    /* filter without a gate */
  bool fails;            /* Loom: what is declared cannot be joined */
  /* of the node: inputs are x, the weights of a gate, the branches */
  bool outermost, weighted;
} parallel_config;

/* ---- Shapes ---- */

#define PROBLEM_ROOM 200

typedef struct rows {
  size_t n, width;
} rows;

typedef const hd_shape *const *shapes;

/* What a mode is. Widths are those of rows; `at` is where branch i begins in a row of the output. */
typedef struct mode {
  const char *names[2];
  bool adds; /* to what other branches have put there */
  bool (*width)(const parallel_config *c, shapes branch, size_t *width, char problem[PROBLEM_ROOM]);
  size_t (*at)(const parallel_config *c, shapes branch, size_t i);
  bool by_sample; /* in the loom dialect too */
} mode;

static rows rows_of(const parallel_config *c, const hd_shape *s) {
  if (!c->loom) return (rows){hd_shape_rows(s), hd_shape_last(s)};
  size_t n = c->mode->by_sample ? c->batch : 1;
  return (rows){n, hd_shape_size(s) / n};
}

static size_t width_of(const parallel_config *c, shapes branch, size_t i) { return rows_of(c, branch[i]).width; }

static bool concat_width(const parallel_config *c, shapes branch, size_t *width, char problem[PROBLEM_ROOM]) {
  *width = 0;
  for (size_t i = 0; i < c->n_branches; i++) {
    if (hd_add_size(*width, width_of(c, branch, i), width)) continue;
    snprintf(problem, PROBLEM_ROOM, "the branches are too large together");
    return false;
  }
  return true;
}

static size_t concat_at(const parallel_config *c, shapes branch, size_t i) {
  size_t at = 0;
  while (i-- > 0) at += width_of(c, branch, i);
  return at;
}

static bool equal_width(const parallel_config *c, shapes branch, size_t *width, char problem[PROBLEM_ROOM]) {
  *width = width_of(c, branch, 0);
  for (size_t i = 1; i < c->n_branches; i++) {
    if (width_of(c, branch, i) == *width) continue;
    snprintf(problem, PROBLEM_ROOM, "%s needs branches of one size, found %zu and, from branch %zu, %zu values",
             c->mode->names[0], *width, i, width_of(c, branch, i));
    return false;
  }
  return true;
}

static bool longest_width(const parallel_config *c, shapes branch, size_t *width, char problem[PROBLEM_ROOM]) {
  (void)problem;
  *width = 0;
  for (size_t i = 0; i < c->n_branches; i++)
    if (width_of(c, branch, i) > *width) *width = width_of(c, branch, i);
  return true;
}

static size_t at_start(const parallel_config *c, shapes branch, size_t i) {
  (void)c;
  (void)branch;
  (void)i;
  return 0;
}

static size_t cells_before(const parallel_config *c, shapes branch, size_t cell) {
  size_t at = 0;
  for (size_t i = 0; i < c->n_positions; i++)
    if (!c->positions[i].covered && c->positions[i].cell < cell) at += width_of(c, branch, c->positions[i].branch);
  return at;
}

static const position *position_of(const parallel_config *c, size_t branch) {
  const position *p = c->positions;
  while (p->branch != branch) p++;
  return p;
}

static size_t grid_at(const parallel_config *c, shapes branch, size_t i) { return cells_before(c, branch, position_of(c, i)->cell); }

static bool grid_width(const parallel_config *c, shapes branch, size_t *width, char problem[PROBLEM_ROOM]) {
  (void)problem;
  *width = cells_before(c, branch, SIZE_MAX);
  return true;
}

static const mode modes[] = {
  {{"concat", ""}, false, concat_width, concat_at, false},
  {{"add", "add"}, true, equal_width, at_start, false},
  {{"avg", "average"}, true, equal_width, at_start, false},
  {{"filter", "filter"}, true, longest_width, at_start, false},
  {{"grid_scatter", "grid_scatter"}, false, grid_width, grid_at, true},
};
enum { CONCAT, ADD, AVERAGE, FILTER, GRID_SCATTER, N_MODES };

static const mode *find_mode(const char *name) {
  for (size_t m = 0; m < N_MODES; m++)
    if (strcmp(modes[m].names[0], name) == 0 || strcmp(modes[m].names[1], name) == 0) return &modes[m];
  return NULL;
}

/* Rows of all branches, and of the gate's weights, are as many as the first's; none of them is the empty value of a failed join. */
static bool rows_agree(const parallel_config *c, shapes in, char problem[PROBLEM_ROOM]) {
  shapes branch = in + 1 + c->weighted;
  const size_t n = rows_of(c, branch[0]).n;
  for (size_t i = 0; i < c->n_branches; i++) {
    const rows r = rows_of(c, branch[i]);
    if (r.n == n && r.width > 0 && hd_shape_size(branch[i]) == r.n * r.width) continue;
    snprintf(problem, PROBLEM_ROOM, "branch %zu gives %zu rows of %zu values, the first %zu rows", i, r.n, r.width, n);
    return false;
  }
  if (!c->weighted || (hd_shape_last(in[1]) == c->n_branches && (c->loom || hd_shape_rows(in[1]) == n))) return true;
  snprintf(problem, PROBLEM_ROOM, "expected %zu rows of %zu weights from the gate, found %zu rows of %zu",
           n, c->n_branches, hd_shape_rows(in[1]), hd_shape_last(in[1]));
  return false;
}

/* The output's shape, or false with the reason why there is none. */
static bool join_shape(const parallel_config *c, shapes in, hd_shape *out, char problem[PROBLEM_ROOM]) {
  snprintf(problem, PROBLEM_ROOM, "it cannot be joined as it is declared");
  if (c->fails || !rows_agree(c, in, problem)) return false;
  shapes branch = in + 1 + c->weighted;
  size_t width;
  if (!c->mode->width(c, branch, &width, problem)) return false;
  *out = *branch[0];
  if (c->loom) *out = (hd_shape){.dtype = HD_F32, .n_dims = 1, .dim = {rows_of(c, branch[0]).n * width}};
  else if (out->n_dims) out->dim[out->n_dims - 1] = width;
  return true;
}

/* Loom crashes where a branch runs past the end of the row: only a branch that a narrower one covers can. */
static hd_status check_cells(hd_infer *i, hd_error *err) {
  const parallel_config *c = i->config;
  shapes branch = i->in + 1;
  for (size_t k = 0; c->mode == &modes[GRID_SCATTER] && k < c->n_branches; k++) {
    const size_t end = grid_at(c, branch, k) + width_of(c, branch, k), all = cells_before(c, branch, SIZE_MAX);
    if (end > all) return hd_infer_fail(i, err, "branch %zu ends %zu values past the grid", k, end - all);
  }
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const parallel_config *c = i->config;
  char problem[PROBLEM_ROOM];
  i->scratch_bytes = hd_times(i->n_in, sizeof(hd_shape *));
  if (join_shape(c, i->in, &i->out[0], problem)) return check_cells(i, err);
  if (!c->loom) return hd_infer_fail(i, err, "%s", problem);
  i->out[0] = c->outermost ? *i->in[0] : (hd_shape){.dtype = HD_F32, .n_dims = 1, .dim = {0}};
  return HD_OK;
}

/* ---- Running ---- */

/* The branches' shapes; NULL where there is nothing to join. */
static shapes branches_of(const hd_call *call) {
  const parallel_config *c = call->config;
  const hd_shape **in = call->scratch;
  for (size_t k = 0; k < call->n_in; k++) in[k] = call->in[k].shape;
  hd_shape out;
  char problem[PROBLEM_ROOM];
  return join_shape(c, in, &out, problem) ? in + 1 + c->weighted : NULL;
}

/* What branch i counts in row r. */
static float weight_of(const hd_call *call, size_t i, size_t r) {
  const parallel_config *c = call->config;
  if (c->weighted) return call->in[1].data[(c->loom ? 0 : r) * c->n_branches + i];
  if (c->mode == &modes[FILTER]) return c->equal_weight;
  return c->mode == &modes[AVERAGE] ? 1.0f / (float)c->n_branches : 1.0f;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const parallel_config *c = call->config;
  const shapes branch = branches_of(call);
  const size_t size = hd_shape_size(call->out[0].shape);
  float *y = call->out[0].data;
  if (!branch) {
    memcpy(y, call->in[0].data, size * sizeof *y);
    return HD_OK;
  }
  memset(y, 0, size * sizeof *y);
  const size_t n = rows_of(c, branch[0]).n, width = size / n;
  for (size_t i = 0; i < c->n_branches; i++) {
    const size_t own = width_of(c, branch, i), at = c->mode->at(c, branch, i);
    const float *x = call->in[1 + c->weighted + i].data;
    for (size_t r = 0; r < n; r++) {
      if (c->mode->adds) k_axpy_f32(y + r * width + at, weight_of(call, i, r), x + r * own, own);
      else memcpy(y + r * width + at, x + r * own, own * sizeof *y);
    }
  }
  return HD_OK;
}

static float dot(const float *a, const float *b, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)a[i] * (double)b[i];
  return (float)sum;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  const parallel_config *c = call->config;
  const shapes branch = branches_of(call);
  const size_t size = hd_shape_size(call->out[0].shape);
  if (!branch) {
    if (size && call->d_in[0]) k_axpy_f32(call->d_in[0], 1, call->d_out[0], size);
    return HD_OK;
  }
  for (size_t k = 0; k < c->n_positions; k++)
    if (c->positions[k].covered) return hd_fail(err, HD_UNSUPPORTED, "layer %s: training needs a cell for each branch", call->name);
  const size_t n = rows_of(c, branch[0]).n, width = size / n;
  for (size_t i = 0; i < c->n_branches; i++) {
    const size_t own = width_of(c, branch, i), at = c->mode->at(c, branch, i), k = 1 + c->weighted + i;
    for (size_t r = 0; r < n; r++) {
      const float *d_y = call->d_out[0] + r * width + at;
      if (call->d_in[k]) k_axpy_f32(call->d_in[k] + r * own, weight_of(call, i, r), d_y, own);
      if (c->weighted && call->d_in[1]) call->d_in[1][(c->loom ? 0 : r) * c->n_branches + i] += dot(call->in[k].data + r * own, d_y, own);
    }
  }
  return HD_OK;
}

/* ---- Declared form ---- */

static void read_position(position *at, const hd_json *json, size_t index, bool loom) {
  at->declared_branch = hd_json_get_size(json, "branch_index", loom ? 0 : index);
  at->branch = loom ? index : at->declared_branch;
  at->row = hd_json_get_size(json, "target_row", 0);
  at->col = hd_json_get_size(json, "target_col", 0);
  at->layer = hd_json_get_size(json, "target_layer", 0);
}

/* What is wrong with the grid; NULL: nothing. Gives every position its cell. */
static const char *check_grid(parallel_config *c, position *at) {
  size_t cells;
  if (!hd_mul_size(c->grid[0], c->grid[1], &cells) || !hd_mul_size(cells, c->grid[2], &cells) || cells == 0)
    return "expected a grid of at least one cell";
  if (c->n_positions != c->n_branches) return "expected as many positions as there are branches";
  for (size_t i = 0; i < c->n_positions; i++) {
    if (at[i].row >= c->grid[0] || at[i].col >= c->grid[1] || at[i].layer >= c->grid[2]) return "a position lies outside the grid";
    if (at[i].branch >= c->n_branches) return "a position is for a branch that is not there";
    at[i].cell = (at[i].row * c->grid[1] + at[i].col) * c->grid[2] + at[i].layer;
    for (size_t k = 0; k < i; k++) {
      if (at[k].branch == at[i].branch) return "two positions are for one branch";
      if (at[k].cell == at[i].cell && !c->loom) return "two branches have one cell";
      if (at[k].cell == at[i].cell) at[k].covered = true;
    }
  }
  return NULL;
}

static const char *read_grid(parallel_config *c, hd_parse *p) {
  static const char *const keys[] = {"grid_output_rows", "grid_output_cols", "grid_output_layers"};
  for (int d = 0; d < 3; d++) c->grid[d] = hd_json_get_size(&p->json, keys[d], c->loom ? 0 : 1);
  c->n_positions = hd_json_count(&p->json, "grid_positions");
  position *at = hd_arena_alloc(p->arena, c->n_positions * sizeof *at + 1);
  hd_json list = hd_json_member(&p->json, "grid_positions");
  if (!at) c->n_positions = 0;
  for (size_t i = 0; i < c->n_positions; i++) {
    hd_json item = hd_json_item(&list, i);
    read_position(&at[i], &item, i, c->loom);
  }
  c->positions = at;
  return c->mode == &modes[GRID_SCATTER] ? check_grid(c, at) : NULL;
}

/* Loom's gate: logits from the first numbers of the whole batch, without activation. Its kernel lies
 * the other way round than a dense layer's. */
static hd_value expand_gate(hd_builder *b, const hd_spec *spec, hd_value x) {
  hd_linear_config linear = ((const hd_dense_config *)spec->config)->linear;
  linear.fixed_rows = 1;
  return hd_build(b, &hd_layer_linear, "", "", &linear, &x, 1);
}

static const hd_bundle_name gate_names[] = {{"weight", "kernel", false}, {"bias", "biases", false}, {NULL, NULL, false}};

const hd_layer hd_layer_loom_gate = {
  .name = "loom_gate", .config_bytes = sizeof(hd_dense_config), .bundle_names = gate_names, .expand = expand_gate,
};

static void read_filter(parallel_config *c, hd_parse *p) {
  hd_softmax_config *f = &c->filter;
  const char *name = hd_arena_text(p->arena, hd_json_get_text(&p->json, "filter_softmax", "standard"));
  double temperature = hd_json_get_number(&p->json, "filter_temperature", 0);
  char room[HD_NAME_ROOM];
  f->loom = c->loom;
  f->alpha = c->loom ? 0 : hd_json_get_number(&p->json, "entmax_alpha", 1.5);
  f->parts = f->loom ? 1 : 0;
  f->fit = f->loom ? c->n_branches : 0;
  if (!name) return;
  if (!hd_softmax_set_variant(f, *name ? name : "standard", temperature > 0 ? temperature : 1))
    hd_json_refuse(&p->json, "filter_softmax", HD_UNSUPPORTED, "unknown softmax variant '%s'", hd_short_name(room, name));
  else if (!c->loom && (!hd_softmax_can_run(f, p->place) || f->alpha < 1))
    hd_json_refuse(&p->json, "filter_softmax", HD_UNSUPPORTED, "softmax variant '%s' cannot weigh branches", hd_short_name(room, name));
  /* Loom's sparse of equal logits that add up to 1 is zero everywhere. */
  c->equal_weight = c->loom && strcmp(name, "sparse") == 0 ? 0 : 1.0f / (float)(c->n_branches ? c->n_branches : 1);
}

/* In the loom dialect only a dense layer is a gate, and only a variant that needs no settings uses it. */
static void read_gate(parallel_config *c, hd_parse *p) {
  c->weighted = p->spec->has_gate && c->mode == &modes[FILTER];
  if (!c->loom || !p->spec->has_gate) return;
  hd_spec *gate = p->spec->children[c->n_branches];
  const bool dense = gate->layer == &hd_layer_dense;
  if (dense) gate->layer = &hd_layer_loom_gate;
  c->weighted = c->weighted && dense && hd_softmax_can_run(&c->filter, HD_IN_PARALLEL);
}

/* Types that Loom's parallel has no forward for. */
static void check_branches(hd_parse *p, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const hd_layer *layer = p->spec->children[i]->layer;
    if (layer == &hd_layer_embedding || layer == &hd_layer_residual)
      hd_json_refuse(&p->json, "branches", HD_UNSUPPORTED, "branch %zu: Loom has no '%s' in a branch", i, layer->name);
  }
}

static void parse(void *config, hd_parse *p) {
  parallel_config *c = config;
  char room[HD_NAME_ROOM];
  c->loom = p->dialect == HD_LOOM;
  c->batch = p->batch;
  c->n_branches = p->spec->n_children - p->spec->has_gate;
  c->mode_name = hd_arena_text(p->arena, hd_json_get_text(&p->json, "combine_mode", ""));
  c->mode = c->mode_name ? find_mode(c->mode_name) : NULL;
  c->fails = !c->mode || c->n_branches == 0;
  if (c->loom) check_branches(p, c->n_branches);
  if (!c->loom && c->n_branches == 0) hd_json_refuse(&p->json, "branches", HD_BAD_FILE, "expected at least one layer");
  if (!c->loom && !c->mode && c->mode_name)
    hd_json_refuse(&p->json, "combine_mode", HD_UNSUPPORTED, "unknown mode '%s'", hd_short_name(room, c->mode_name));
  if (!c->mode) c->mode = &modes[CONCAT];
  const char *wrong = read_grid(c, p);
  if (wrong && !c->loom) hd_json_refuse(&p->json, "grid_positions", HD_BAD_FILE, "%s", wrong);
  if (wrong) c->fails = true;
  read_filter(c, p);
  read_gate(c, p);
}

static void write_grid(const parallel_config *c, cJSON *json) {
  if (c->n_positions == 0) return;
  cJSON *list = cJSON_AddArrayToObject(json, "grid_positions");
  for (size_t i = 0; i < c->n_positions; i++) {
    const position *p = &c->positions[i];
    cJSON *item = cJSON_CreateObject();
    cJSON_AddNumberToObject(item, "branch_index", (double)p->declared_branch);
    cJSON_AddNumberToObject(item, "target_row", (double)p->row);
    cJSON_AddNumberToObject(item, "target_col", (double)p->col);
    cJSON_AddNumberToObject(item, "target_layer", (double)p->layer);
    cJSON_AddItemToArray(list, item);
  }
  cJSON_AddNumberToObject(json, "grid_output_rows", (double)c->grid[0]);
  cJSON_AddNumberToObject(json, "grid_output_cols", (double)c->grid[1]);
  cJSON_AddNumberToObject(json, "grid_output_layers", (double)c->grid[2]);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const parallel_config *c = config;
  const bool filter = c->mode == &modes[FILTER];
  if (dialect == HD_LOOM && (c->weighted || (filter && c->equal_weight == 0)))
    return hd_fail(err, HD_UNSUPPORTED, "the loom dialect's bundles do not hold the gate of a filter");
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
  if (*c->mode_name) cJSON_AddStringToObject(json, "combine_mode", c->mode_name);
  write_grid(c, json);
  if (dialect == HD_LOOM || !filter) return HD_OK;
  cJSON_AddStringToObject(json, "filter_softmax", c->filter.name);
  cJSON_AddNumberToObject(json, "filter_temperature", c->filter.temperature);
  if (c->filter.alpha != 1.5) cJSON_AddNumberToObject(json, "entmax_alpha", c->filter.alpha);
  return HD_OK;
}

/* ---- Expanding ---- */

/* x, the gate's weights, the branches. */
static size_t build_inputs(hd_builder *b, const hd_spec *spec, const parallel_config *c, hd_value x, hd_value *in) {
  size_t n = 0;
  in[n++] = x;
  const hd_spec *gate = spec->has_gate ? spec->children[c->n_branches] : NULL;
  if (c->weighted) {
    hd_value logits = hd_build_spec(b, gate, x);
    in[n++] = hd_build(b, &hd_layer_softmax, "weights", "", &c->filter, &logits, 1);
  } else if (gate) {
    hd_build_weights(b, gate, x);
  }
  for (size_t i = 0; i < c->n_branches; i++) in[n++] = hd_build_spec(b, spec->children[i], x);
  return n;
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  parallel_config c = *(const parallel_config *)spec->config;
  c.outermost = hd_build_in_chain(b);
  if (c.fails) {
    for (size_t i = 0; i < spec->n_children; i++) hd_build_weights(b, spec->children[i], x);
    return hd_build_failure(b, x);
  }
  hd_value *in = hd_alloc((2 + c.n_branches) * sizeof *in);
  if (!in) {
    hd_build_fail(b, HD_OUT_OF_MEMORY, "no memory for %zu branches", c.n_branches);
    return HD_NO_VALUE;
  }
  const size_t n = build_inputs(b, spec, &c, x, in);
  hd_value y = hd_build(b, &hd_layer_parallel, "", "", &c, in, n);
  hd_free(in);
  return y;
}

hd_value hd_build_failure(hd_builder *b, hd_value x) {
  const parallel_config c = {.mode = &modes[CONCAT], .loom = true, .fails = true, .outermost = hd_build_in_chain(b)};
  return hd_build(b, &hd_layer_parallel, "", "", &c, &x, 1);
}

const hd_layer hd_layer_parallel = {
  .name = "parallel",
  .example = "{\"type\":\"parallel\",\"combine_mode\":\"filter\",\"filter_softmax\":\"standard\",\"filter_temperature\":0.7,"
             "\"filter_gate\":{\"type\":\"dense\",\"in_features\":4,\"out_features\":3},\"input_shape\":[2,4],"
             "\"branches\":[{\"type\":\"dense\",\"in_features\":4,\"out_features\":5,\"activation\":\"tanh\"},"
             "{\"type\":\"linear\",\"in_features\":4,\"out_features\":3},"
             "{\"type\":\"parallel\",\"combine_mode\":\"concat\",\"branches\":[{\"type\":\"linear\",\"in_features\":4,\"out_features\":2},"
             "{\"type\":\"softmax\"}]}]}",
  .config_bytes = sizeof(parallel_config),
  .parse = parse,
  .write = write,
  .has_children = true,
  .has_gate = true,
  .child_place = HD_IN_PARALLEL,
  .expand = expand,
  .infer = infer,
  .forward = forward,
  .backward = backward,
};
