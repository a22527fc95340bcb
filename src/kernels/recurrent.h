/* kernels/recurrent.h: one step of the recurrent cells, as PyTorch defines them (torch.nn.RNN, LSTM, GRU; LSTM: Hochreiter and Schmidhuber,
 * 1997; GRU: Cho et al., 2014). A step takes, for each sample, what the input and what the last state give each gate:
 *
 *   a = W_ih·x + b_ih,  u = W_hh·h' + b_hh      both [gates · hidden], gate after gate
 *
 *   rnn    h = tanh(a + u), or relu
 *   lstm   i, f, g, o = σ, σ, tanh, σ (a + u);  c = f·c' + i·g;  h = o·tanh(c)
 *   gru    r, z = σ(a + u);  n = tanh(a_n + r·u_n);  h = (1 − z)·n + z·h' */
#ifndef HD_KERNELS_RECURRENT_H
#define HD_KERNELS_RECURRENT_H

#include "heddle.h"

typedef struct k_cell {
  const char *name;
  size_t gates; /* of a and u */
  size_t kept;  /* times hidden: what a step leaves for its gradient; the last of it is h */
  bool has_c;   /* state beside h */

  /* h, c [hidden]: the state before, then after. kept [kept · hidden]: written. */
  void (*step)(float *h, float *c, float *kept, const float *a, const float *u, size_t hidden);

  /* d_h, d_c [hidden]: the gradient of the state after, then of the state before as far as it does not pass through u.
   * d_a, d_u [gates · hidden]: set. kept_before, h_before: of the step before; NULL: there is none, its state was 0. */
  void (*step_grad)(float *d_h, float *d_c, float *d_a, float *d_u, const float *kept, const float *kept_before, const float *h_before,
                    size_t hidden);
} k_cell;

extern const k_cell k_cell_rnn_tanh, k_cell_rnn_relu, k_cell_lstm, k_cell_gru;

#endif
