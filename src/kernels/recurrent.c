/* kernels/recurrent.c: see recurrent.h. */
#include "kernels/recurrent.h"

#include "kernels/elementwise.h"

#include <string.h>

static void sigmoid(float *y, const float *x, size_t n) { hd_activation_find("sigmoid")->forward(y, x, n); }
static void tanh_(float *y, const float *x, size_t n) { hd_activation_find("tanh")->forward(y, x, n); }

/* ---- rnn; kept: h ---- */

static void rnn_tanh_step(float *h, float *c, float *kept, const float *a, const float *u, size_t hidden) {
  (void)c;
  k_add_f32(kept, a, u, hidden);
  tanh_(kept, kept, hidden);
  memcpy(h, kept, hidden * sizeof *h);
}

static void rnn_tanh_step_grad(float *d_h, float *d_c, float *d_a, float *d_u, const float *kept, const float *kept_before,
                               const float *h_before, size_t hidden) {
  (void)d_c;
  (void)kept_before;
  (void)h_before;
  for (size_t i = 0; i < hidden; i++) {
    d_a[i] = d_u[i] = d_h[i] * (1 - kept[i] * kept[i]);
    d_h[i] = 0;
  }
}

static void rnn_relu_step(float *h, float *c, float *kept, const float *a, const float *u, size_t hidden) {
  (void)c;
  k_add_f32(kept, a, u, hidden);
  for (size_t i = 0; i < hidden; i++) h[i] = kept[i] = kept[i] < 0 ? 0 : kept[i];
}

static void rnn_relu_step_grad(float *d_h, float *d_c, float *d_a, float *d_u, const float *kept, const float *kept_before,
                               const float *h_before, size_t hidden) {
  (void)d_c;
  (void)kept_before;
  (void)h_before;
  for (size_t i = 0; i < hidden; i++) {
    d_a[i] = d_u[i] = kept[i] > 0 ? d_h[i] : 0;
    d_h[i] = 0;
  }
}

/* ---- lstm; kept: i, f, g, o, c, tanh(c), h ---- */

static void lstm_step(float *h, float *c, float *kept, const float *a, const float *u, size_t hidden) {
  float *i = kept, *f = i + hidden, *g = f + hidden, *o = g + hidden, *c_after = o + hidden, *tanh_c = c_after + hidden;
  k_add_f32(kept, a, u, 4 * hidden);
  sigmoid(i, i, 2 * hidden);
  tanh_(g, g, hidden);
  sigmoid(o, o, hidden);
  for (size_t k = 0; k < hidden; k++) c[k] = c_after[k] = f[k] * c[k] + i[k] * g[k];
  tanh_(tanh_c, c_after, hidden);
  k_multiply_f32(h, o, tanh_c, hidden);
  memcpy(tanh_c + hidden, h, hidden * sizeof *h);
}

static void lstm_step_grad(float *d_h, float *d_c, float *d_a, float *d_u, const float *kept, const float *kept_before,
                           const float *h_before, size_t hidden) {
  (void)h_before;
  const float *i = kept, *f = i + hidden, *g = f + hidden, *o = g + hidden, *tanh_c = o + 2 * hidden;
  const float *c_before = kept_before ? kept_before + 4 * hidden : NULL;
  for (size_t k = 0; k < hidden; k++) {
    float d = d_c[k] + d_h[k] * o[k] * (1 - tanh_c[k] * tanh_c[k]);
    d_a[k] = d * g[k] * i[k] * (1 - i[k]);
    d_a[hidden + k] = (c_before ? d * c_before[k] : 0) * f[k] * (1 - f[k]);
    d_a[2 * hidden + k] = d * i[k] * (1 - g[k] * g[k]);
    d_a[3 * hidden + k] = d_h[k] * tanh_c[k] * o[k] * (1 - o[k]);
    d_c[k] = d * f[k];
    d_h[k] = 0;
  }
  memcpy(d_u, d_a, 4 * hidden * sizeof *d_u);
}

/* ---- gru; kept: r, z, n, u_n, h ---- */

static void gru_step(float *h, float *c, float *kept, const float *a, const float *u, size_t hidden) {
  (void)c;
  float *r = kept, *z = r + hidden, *n = z + hidden, *u_n = n + hidden;
  k_add_f32(r, a, u, 2 * hidden);
  sigmoid(r, r, 2 * hidden);
  memcpy(u_n, u + 2 * hidden, hidden * sizeof *u_n);
  for (size_t k = 0; k < hidden; k++) n[k] = a[2 * hidden + k] + r[k] * u_n[k];
  tanh_(n, n, hidden);
  for (size_t k = 0; k < hidden; k++) h[k] = (1 - z[k]) * n[k] + z[k] * h[k];
  memcpy(u_n + hidden, h, hidden * sizeof *h);
}

static void gru_step_grad(float *d_h, float *d_c, float *d_a, float *d_u, const float *kept, const float *kept_before,
                          const float *h_before, size_t hidden) {
  (void)d_c;
  (void)kept_before;
  const float *r = kept, *z = r + hidden, *n = z + hidden, *u_n = n + hidden;
  for (size_t k = 0; k < hidden; k++) {
    float d_n = d_h[k] * (1 - z[k]) * (1 - n[k] * n[k]);
    d_a[k] = d_u[k] = d_n * u_n[k] * r[k] * (1 - r[k]);
    d_a[hidden + k] = d_u[hidden + k] = d_h[k] * ((h_before ? h_before[k] : 0) - n[k]) * z[k] * (1 - z[k]);
    d_a[2 * hidden + k] = d_n;
    d_u[2 * hidden + k] = d_n * r[k];
    d_h[k] *= z[k];
  }
}

const k_cell k_cell_rnn_tanh = {"rnn_tanh", 1, 1, false, rnn_tanh_step, rnn_tanh_step_grad};
const k_cell k_cell_rnn_relu = {"rnn_relu", 1, 1, false, rnn_relu_step, rnn_relu_step_grad};
const k_cell k_cell_lstm = {"lstm", 4, 7, true, lstm_step, lstm_step_grad};
const k_cell k_cell_gru = {"gru", 3, 5, false, gru_step, gru_step_grad};
