/* run/session.h: a session's inside, for session.c, state.c, batch.c and train.c. */
#ifndef HD_RUN_SESSION_H
#define HD_RUN_SESSION_H

#include "run/steps.h"

struct hd_session {
  hd_model *model;
  hd_mode mode;
  hd_steps steps;
  hd_sequence sequence;   /* past is the position; context and window the state's present room; state: per node, NULL: stateless */
  size_t max_context;
  size_t kept;            /* positions that layers with a window need of the past; SIZE_MAX: nothing is taken from their states */
  bool has_state;
  bool has_output;        /* a forward has run */
  hd_adapter *adapter;

  char *gradients;        /* HD_TRAIN: as the arena */
  float **d_inputs;       /* as the steps' inputs */
  float **d_weights;      /* per parameter; NULL: not trained */
  bool has_loss;          /* hd_loss has seeded the output's gradient */
};

/* Where a value's gradient lies. */
static inline float *hd_session_grad(const hd_session *s, hd_value v) { return (float *)(void *)(s->gradients + s->steps.plan.offsets[v]); }

/* session.c: planning, for sessions and batches alike. Opens the model for one more user: `exclusive` shuts out all others. */
hd_status hd_model_open(hd_model *model, bool exclusive, hd_error *err);
void hd_model_close(hd_model *model);
/* The input that options mean, checked. */
hd_status hd_input_shape(hd_shape *shape, const hd_model *model, const hd_tensor *wanted, hd_error *err);

enum { HD_STATE_PAGE = 256 }; /* positions that a state grows by */

/* ---- state.c ---- */

/* Positions that states have room for; those of layers with a window for fewer. */
typedef struct hd_room {
  size_t context, window;
} hd_room;

/* Bytes of a node's state; 0: it has none. */
size_t hd_state_bytes(const hd_node *node, hd_room room);
/* How many positions before a row the layers with a window look at; SIZE_MAX: one looks at all, or there is none. */
size_t hd_model_kept(const hd_model *model);
/* The room of sessions for calls of so many rows, when so many positions are reserved. kept: as in hd_session. */
hd_room hd_room_for(size_t kept, size_t rows, size_t context);
/* What states take in that room, in `state` and `per_position`. */
void hd_state_estimate(hd_session_size *out, const hd_model *model, hd_room room);
/* Makes room for a call's rows: bad_state where positions must be reserved first or do not fit the context. */
hd_status hd_session_make_room(hd_session *s, size_t rows, hd_error *err);
/* Whether any layer has a state. */
bool hd_model_remembers(const hd_model *model);

/* train.c */
hd_status hd_train_prepare(hd_session *s, hd_error *err);
void hd_train_free(hd_session *s);

#endif
