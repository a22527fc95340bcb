/* run/steps.h: a plan with its memory: what walks a graph. Whose sequences its rows belong to is told at each call: a session
 * brings its own, a batch those of several. */
#ifndef HD_RUN_STEPS_H
#define HD_RUN_STEPS_H

#include "graph/adapters.h"
#include "run/plan.h"

typedef struct hd_steps {
  const hd_model *model;
  hd_shape planned_input;
  hd_plan plan;
  hd_run run;             /* of the present call */
  size_t rows;            /* the plan's shapes are those of one sequence of so many rows; 0: of other calls */
  char *arena;
  void *scratch;
  size_t scratch_bytes;
  hd_call *calls;         /* per node: the plan's steps, pointers filled in */
  hd_view *inputs;        /* the steps' inputs, one node's after another's */
  float *lora_scratch;
  size_t lora_bytes;
} hd_steps;

/* Plans for the largest input, whose rows are shared by sequences like that, and allocates all that a call needs but scratch.
 * When it fails, hd_steps_free is still to be called. */
hd_status hd_steps_make(hd_steps *steps, const hd_model *model, const hd_shape *input, hd_value output, const hd_run *largest,
                        hd_error *err);
void hd_steps_free(hd_steps *steps);

/* Scratch for calls whose rows are shared like that: it grows with the pasts that sequences have. Nothing has changed when it
 * fails. */
hd_status hd_steps_reserve(hd_steps *steps, const hd_run *run, hd_error *err);

/* Inputs of all nodes together. */
size_t hd_steps_input_count(const hd_model *model);

/* Bytes beside the arena. */
size_t hd_steps_other_bytes(const hd_model *model, size_t scratch_bytes);

/* The shape of a call whose input is this tensor; bad_argument when it does not fit the plan. */
hd_status hd_steps_call_shape(const hd_steps *steps, const hd_tensor *input, hd_shape *shape, hd_error *err);

/* One call. The sequences have to stay where they are until the next one. */
hd_status hd_steps_run(hd_steps *steps, const hd_tensor *input, const hd_shape *shape,
                       const hd_sequence *sequences, size_t n_sequences, hd_error *err);

/* Makes a row that was computed elsewhere the only one of the output. */
void hd_steps_set_output(hd_steps *steps, const float *row);

/* Makes the pairs of an adapter those of the steps; NULL: none. */
hd_status hd_steps_use(hd_steps *steps, const hd_adapter *adapter, hd_error *err);

/* Where the next input may be written, with room for the planned one. */
void hd_steps_input(const hd_steps *steps, hd_tensor *out);

/* A value of the last call. */
void hd_steps_view(const hd_steps *steps, hd_value v, hd_tensor *out);

/* Where a value lies. */
static inline float *hd_steps_data(const hd_steps *s, hd_value v) { return (float *)(void *)(s->arena + s->plan.offsets[v]); }

#endif
