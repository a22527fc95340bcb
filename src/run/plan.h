/* run/plan.h: where every value of a graph lies, decided once. A plan is data: for each node the shapes and places of its operands. */
#ifndef HD_RUN_PLAN_H
#define HD_RUN_PLAN_H

#include "graph/graph.h"

typedef struct hd_plan {
  const hd_model *model;
  hd_value output;        /* what is computed: the model's output, or another value */
  bool *needed;           /* per node: whether the output needs it */
  hd_shape *shapes;       /* per value: at the planned maximum, later at the current call's size */
  size_t *offsets;        /* per value: bytes into the arena */
  size_t *planned_bytes;  /* per value: what its place holds */
  const hd_shape **inputs; /* room for one node's, while shapes are inferred */
  bool *present;          /* per value: false for optional outputs nobody keeps, and for what no node computes */
  size_t arena_bytes;
  size_t scratch_bytes;   /* the most any node needs at these shapes */
  size_t most_rows;       /* of any node that has weights, at the maximum */
} hd_plan;

/* Plans for the largest input. run->keep: every value gets a place of its own; else places are shared as soon as a value has
 * had its last use (biggest first, lowest free offset), and elementwise nodes work in place. */
hd_status hd_plan_make(hd_plan *plan, const hd_model *model, const hd_shape *input, hd_value output, const hd_run *run, hd_error *err);
void hd_plan_free(hd_plan *plan);

/* Shapes again for a call's input, no larger than planned. Allocates nothing. */
hd_status hd_plan_infer(hd_plan *plan, const hd_shape *input, const hd_run *run, hd_error *err);

/* The scratch of a call whose rows are shared like that; the plan stays as it is. */
hd_status hd_plan_scratch(size_t *bytes, const hd_plan *plan, const hd_shape *input, const hd_run *run, hd_error *err);

/* Bytes of a value at its current shape, rounded up to 64. */
size_t hd_plan_value_bytes(const hd_plan *plan, size_t value);

#endif
