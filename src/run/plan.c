/* plan.c: shapes in graph order, lifetimes, then offsets in one arena. */
#include "run/plan.h"

#include "base/memory.h"
#include "base/status.h"

#include <stdlib.h>
#include <string.h>

/* ---- Shapes ---- */

static hd_status infer_node(hd_plan *plan, const hd_node *node, const hd_run *run, hd_error *err) {
  hd_infer i;
  HD_TRY(hd_node_infer(&i, plan->model, node, plan->shapes, plan->inputs, run, err));
  for (size_t o = 0; o < node->n_out; o++) {
    size_t v = (size_t)node->out[o];
    plan->shapes[v] = i.out[o];
    if (!plan->present[v]) continue;
    HD_TRY(hd_shape_check(node->name, &i.out[o], err));
    if (plan->planned_bytes[v] && hd_plan_value_bytes(plan, v) > plan->planned_bytes[v])
      return hd_infer_fail(&i, err, "its value would outgrow the plan");
  }
  if (i.scratch_bytes > plan->scratch_bytes) plan->scratch_bytes = i.scratch_bytes;
  return HD_OK;
}

hd_status hd_plan_infer(hd_plan *plan, const hd_shape *input, const hd_run *run, hd_error *err) {
  plan->shapes[0] = *input;
  plan->scratch_bytes = 0;
  HD_TRY(hd_shape_check("input", input, err));
  for (size_t n = 0; n < plan->model->n_nodes; n++)
    if (plan->needed[n]) HD_TRY(infer_node(plan, &plan->model->nodes[n], run, err));
  return HD_OK;
}

hd_status hd_plan_scratch(size_t *bytes, const hd_plan *plan, const hd_shape *input, const hd_run *run, hd_error *err) {
  hd_plan probe = *plan;
  const size_t shape_bytes = plan->model->n_values * sizeof *probe.shapes;
  probe.shapes = hd_alloc(shape_bytes);
  if (!probe.shapes) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to plan");
  memcpy(probe.shapes, plan->shapes, shape_bytes);
  hd_status status = hd_plan_infer(&probe, input, run, err);
  *bytes = probe.scratch_bytes;
  hd_free(probe.shapes);
  return status;
}

size_t hd_plan_value_bytes(const hd_plan *plan, size_t value) {
  return plan->present[value] ? hd_align(hd_shape_size(&plan->shapes[value]) * sizeof(float), 64) : 0;
}

/* ---- Lifetimes: node indices, the input before them all, the output after ---- */

typedef struct lifetime {
  int first, last;
  int root;          /* the value whose place this one shares; itself if none */
} lifetime;

static void find_lifetimes(const hd_plan *plan, lifetime *life) {
  const hd_model *m = plan->model;
  for (size_t v = 0; v < m->n_values; v++) life[v] = (lifetime){.first = m->values[v].node, .last = m->values[v].node, .root = (int)v};
  for (size_t n = 0; n < m->n_nodes; n++)
    for (size_t k = 0; plan->needed[n] && k < m->nodes[n].n_in; k++) life[m->nodes[n].in[k]].last = (int)n;
  life[0].last = (int)m->n_nodes; /* the caller may write the next input at any time */
  life[plan->output].last = (int)m->n_nodes;
}

/* An elementwise node may write over its first input when nobody reads that later. */
static void share_in_place(const hd_plan *plan, lifetime *life) {
  const hd_model *m = plan->model;
  for (size_t n = 0; n < m->n_nodes; n++) {
    const hd_node *node = &m->nodes[n];
    if (!node->layer->in_place || !plan->needed[n]) continue;
    int in = life[node->in[0]].root, out = node->out[0];
    if (in == 0 || life[in].last != (int)n) continue;
    if (hd_plan_value_bytes(plan, (size_t)in) != hd_plan_value_bytes(plan, (size_t)out)) continue;
    life[out].root = in;
    if (life[out].last > life[in].last) life[in].last = life[out].last;
  }
}

/* ---- Offsets ---- */

typedef struct place {
  int value;
  size_t bytes;
} place;

static int bigger_first(const void *a, const void *b) {
  const place *x = a, *y = b;
  if (x->bytes != y->bytes) return x->bytes < y->bytes ? 1 : -1;
  return x->value - y->value;
}

static bool overlap(const lifetime *a, const lifetime *b) { return a->first <= b->last && b->first <= a->last; }

/* The lowest offset where `bytes` are free during the value's life; placed values are in order of offset. */
static size_t lowest_gap(const hd_plan *plan, const lifetime *life, const place *placed, size_t n_placed, const place *p) {
  size_t offset = 0;
  for (size_t i = 0; i < n_placed; i++) {
    const place *other = &placed[i];
    if (!overlap(&life[other->value], &life[p->value])) continue;
    if (plan->offsets[other->value] >= offset + p->bytes) break;
    size_t end = plan->offsets[other->value] + other->bytes;
    if (end > offset) offset = end;
  }
  return offset;
}

/* Keeps `placed` ordered by offset. */
static void insert(const hd_plan *plan, place *placed, size_t n_placed, place p) {
  size_t i = n_placed;
  for (; i > 0 && plan->offsets[placed[i - 1].value] > plan->offsets[p.value]; i--) placed[i] = placed[i - 1];
  placed[i] = p;
}

/* Gives a value its place; refuses what no memory could hold. */
static hd_status put(hd_plan *plan, size_t value, size_t offset, size_t bytes, hd_error *err) {
  size_t end;
  if (!hd_add_size(offset, bytes, &end) || end > SIZE_MAX / 2)
    return hd_fail(err, HD_BAD_ARGUMENT, "the values of one call are too large together: more than %zu bytes", SIZE_MAX / 2);
  plan->offsets[value] = offset;
  if (end > plan->arena_bytes) plan->arena_bytes = end;
  return HD_OK;
}

static hd_status place_values(hd_plan *plan, const lifetime *life, place *order, place *placed, hd_error *err) {
  size_t n = 0;
  for (size_t v = 0; v < plan->model->n_values; v++)
    if (life[v].root == (int)v) order[n++] = (place){(int)v, hd_plan_value_bytes(plan, v)};
  qsort(order, n, sizeof *order, bigger_first);
  for (size_t i = 0; i < n; i++) {
    size_t offset = lowest_gap(plan, life, placed, i, &order[i]);
    HD_TRY(put(plan, (size_t)order[i].value, offset, order[i].bytes, err));
    insert(plan, placed, i, order[i]);
  }
  for (size_t v = 0; v < plan->model->n_values; v++) plan->offsets[v] = plan->offsets[life[v].root];
  return HD_OK;
}

static hd_status place_apart(hd_plan *plan, hd_error *err) {
  for (size_t v = 0; v < plan->model->n_values; v++) HD_TRY(put(plan, v, plan->arena_bytes, hd_plan_value_bytes(plan, v), err));
  return HD_OK;
}

static hd_status place_shared(hd_plan *plan, hd_error *err) {
  size_t n = plan->model->n_values;
  lifetime *life = hd_alloc(n * sizeof *life);
  place *order = hd_alloc(2 * n * sizeof *order);
  hd_status status = life && order ? HD_OK : hd_fail(err, HD_OUT_OF_MEMORY, "no memory to plan");
  if (status == HD_OK) {
    find_lifetimes(plan, life);
    share_in_place(plan, life);
    status = place_values(plan, life, order, order + n, err);
  }
  hd_free(life);
  hd_free(order);
  return status;
}

/* ---- The plan ---- */

/* The nodes that the output comes from: where every value is kept, all of them. */
static void mark_needed(hd_plan *plan, bool keep) {
  const hd_model *m = plan->model;
  int last = m->values[plan->output].node;
  if (last >= 0) plan->needed[last] = true;
  for (size_t n = m->n_nodes; n-- > 0;) {
    plan->needed[n] |= keep;
    for (size_t k = 0; plan->needed[n] && k < m->nodes[n].n_in; k++) {
      int before = m->values[m->nodes[n].in[k]].node;
      if (before >= 0) plan->needed[before] = true;
    }
  }
}

static void mark_present(hd_plan *plan, bool keep) {
  const hd_model *m = plan->model;
  for (size_t v = 0; v < m->n_values; v++) {
    const hd_value_info *info = &m->values[v];
    bool optional = info->node >= 0 && info->output > 0 && m->nodes[info->node].layer->extra_outputs_optional;
    plan->present[v] = info->node < 0 || (plan->needed[info->node] && (keep || !optional));
  }
}

static void note_maximum(hd_plan *plan) {
  for (size_t v = 0; v < plan->model->n_values; v++) {
    const hd_value_info *info = &plan->model->values[v];
    plan->planned_bytes[v] = hd_plan_value_bytes(plan, v);
    size_t rows = hd_shape_rows(&plan->shapes[v]);
    if (info->node >= 0 && plan->model->nodes[info->node].n_weights && rows > plan->most_rows) plan->most_rows = rows;
  }
}

hd_status hd_plan_make(hd_plan *plan, const hd_model *model, const hd_shape *input, hd_value output, const hd_run *run, hd_error *err) {
  size_t n = model->n_values;
  *plan = (hd_plan){.model = model, .output = output};
  plan->shapes = hd_alloc_zero(n * sizeof *plan->shapes);
  plan->offsets = hd_alloc_zero(n * sizeof *plan->offsets);
  plan->planned_bytes = hd_alloc_zero(n * sizeof *plan->planned_bytes);
  plan->present = hd_alloc_zero(n * sizeof *plan->present);
  plan->inputs = hd_alloc_zero(hd_graph_most_inputs(model) * sizeof *plan->inputs);
  plan->needed = hd_alloc_zero(model->n_nodes * sizeof *plan->needed);
  hd_status status = HD_OK;
  if (!plan->needed || !plan->shapes || !plan->offsets || !plan->planned_bytes || !plan->present || !plan->inputs)
    status = hd_fail(err, HD_OUT_OF_MEMORY, "no memory to plan");
  if (status == HD_OK) {
    mark_needed(plan, run->keep);
    mark_present(plan, run->keep);
  }
  if (status == HD_OK) status = hd_plan_infer(plan, input, run, err);
  if (status == HD_OK) {
    note_maximum(plan);
    status = run->keep ? place_apart(plan, err) : place_shared(plan, err);
  }
  if (status != HD_OK) hd_plan_free(plan);
  return status;
}

void hd_plan_free(hd_plan *plan) {
  hd_free(plan->needed);
  hd_free(plan->shapes);
  hd_free(plan->offsets);
  hd_free(plan->planned_bytes);
  hd_free(plan->present);
  hd_free(plan->inputs);
  *plan = (hd_plan){0};
}
