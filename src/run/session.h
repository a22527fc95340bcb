/* run/session.h: a session's inside, for session.c, train.c. */
#ifndef HD_RUN_SESSION_H
#define HD_RUN_SESSION_H

#include "graph/adapters.h"
#include "run/plan.h"

struct hd_session {
  hd_model *model;
  hd_mode mode;
  hd_shape planned_input;
  hd_plan plan;
  hd_run run;             /* run.past is the position; run.context the state's present room */
  size_t max_context;
  char *arena;
  void *scratch;
  void **state;           /* per node; NULL: stateless */
  hd_call *calls;         /* per node: the plan's steps, pointers filled in */
  hd_view *inputs;        /* the steps' inputs, one node's after another's */
  bool has_state, can_rewind;
  bool has_output;        /* a forward has run */

  hd_adapter *adapter;
  float *lora_scratch;

  char *gradients;        /* HD_TRAIN: as the arena */
  float **d_inputs;       /* as `inputs` */
  float **d_weights;      /* per parameter; NULL: not trained */
  bool has_loss;          /* hd_loss has seeded the output's gradient */
};

/* Where a value, and its gradient, lie. */
static inline float *hd_session_data(const hd_session *s, hd_value v) { return (float *)(void *)(s->arena + s->plan.offsets[v]); }
static inline float *hd_session_grad(const hd_session *s, hd_value v) { return (float *)(void *)(s->gradients + s->plan.offsets[v]); }

/* All nodes' inputs. */
static inline size_t hd_session_input_count(const hd_session *s) {
  size_t count = 0;
  for (size_t n = 0; n < s->model->n_nodes; n++) count += s->model->nodes[n].n_in;
  return count;
}

enum { HD_STATE_PAGE = 256 }; /* positions that a state grows by */

/* state.c: bytes of a node's state for so many positions; 0: it has none. */
size_t hd_state_bytes(const hd_node *node, size_t context);

/* train.c */
hd_status hd_train_prepare(hd_session *s, hd_error *err);
void hd_train_free(hd_session *s);

#endif
