/* experts.c: a mixture of experts ("Outrageously Large Neural Networks", Shazeer et al., 2017; Mixtral: Jiang et al., 2024).
 * A router scores the experts for each row; the best few compute it, each a gated feed-forward of its own, and their answers are
 * summed by their shares:
 *
 *   y = Σ_chosen share_e · down_e(act(gate_e(x)) · up_e(x)),  share = softmax(router(x)), renormalised over the chosen ones or not
 *
 * An expert's matrices are rows of three that hold all experts', one below the other; files have them one by one. Rows that chose the same
 * expert go through it together; experts that nobody chose are not touched. */
#include "base/status.h"
#include "layers/rows.h"

#include <string.h>

enum { GATE, UP, DOWN, N_MATRICES };

/* ---- mixture_of_experts: the router and the experts ---- */

static void parse(void *config, hd_parse *p) {
  hd_experts_config *c = config;
  hd_json *j = &p->json;
  c->d_model = hd_json_need_size(j, "d_model", 1 << 24);
  c->hidden = hd_json_need_size(j, "hidden_size", 1 << 24);
  c->n_experts = hd_json_need_size(j, "num_experts", 65536);
  c->n_chosen = hd_json_get_size(j, "num_experts_per_tok", 2);
  c->renormalise = hd_json_get_bool(j, "norm_topk_prob", true);
  c->mixtral_names = hd_json_get_bool(j, "mixtral_names", false);
  const char *name = hd_json_get_text(j, "activation", "silu");
  char room[HD_NAME_ROOM];
  c->activation = hd_activation_find(name);
  if (!c->activation) hd_json_refuse(j, "activation", HD_UNSUPPORTED, "unknown activation '%s'", hd_short_name(room, name));
  if (c->n_chosen == 0 || c->n_chosen > c->n_experts)
    hd_json_refuse(j, "num_experts_per_tok", HD_BAD_FILE, "expected a number from 1 to %zu, found %zu", c->n_experts, c->n_chosen);
  if (p->dialect == HD_LOOM) hd_json_refuse(j, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_experts_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no mixture of experts");
  cJSON_AddNumberToObject(json, "d_model", (double)c->d_model);
  cJSON_AddNumberToObject(json, "hidden_size", (double)c->hidden);
  cJSON_AddNumberToObject(json, "num_experts", (double)c->n_experts);
  cJSON_AddNumberToObject(json, "num_experts_per_tok", (double)c->n_chosen);
  cJSON_AddBoolToObject(json, "norm_topk_prob", c->renormalise);
  if (c->mixtral_names) cJSON_AddBoolToObject(json, "mixtral_names", true);
  cJSON_AddStringToObject(json, "activation", c->activation->name);
  return HD_OK;
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  const hd_experts_config *c = spec->config;
  const hd_linear_config router = {.in_features = c->d_model, .out_features = c->n_experts};
  hd_value scores = hd_build(b, &hd_layer_linear, "router", "gate.", &router, &x, 1);
  return hd_build(b, &hd_layer_experts, "experts", "experts.", c, (hd_value[]){x, scores}, 2);
}

/* ---- experts ---- */

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  static const char *const usual[] = {"*.gate_proj.weight", "*.up_proj.weight", "*.down_proj.weight"},
                    *const mixtral[] = {"*.w1.weight", "*.w3.weight", "*.w2.weight"};
  const hd_experts_config *c = config;
  for (size_t i = 0; i < N_MATRICES; i++) {
    size_t rows = i == DOWN ? c->d_model : c->hidden, cols = i == DOWN ? c->hidden : c->d_model;
    slot[i] = (hd_slot){.role = c->mixtral_names ? mixtral[i] : usual[i], .n_dims = 2, .shape = {c->n_experts * rows, cols},
                        .matrix = true, .n_parts = c->n_experts, .init = HD_INIT_UNIFORM_FAN_IN, .init_scale = 1};
  }
  return N_MATRICES;
}

/* The rows of an expert. The loader keeps layouts whose row blocks would cross from one to the next away from here. */
static hd_matrix matrix_of(const hd_experts_config *c, const hd_matrix *all, size_t expert) {
  hd_matrix m = {.layout = all->layout, .rows = all->rows / c->n_experts, .cols = all->cols};
  size_t bytes = 0;
  if (m.layout->bytes(m.rows, m.cols, &bytes)) m.data = (char *)all->data + expert * bytes;
  return m;
}

/* Offsets into the call's scratch, for n rows. */
typedef struct places {
  size_t probs;          /* [n, n_experts] softmax of the router */
  size_t chosen, shares; /* [n, n_chosen] experts, int32, best first; what each counts */
  size_t d_shares;       /* [n, n_chosen] */
  size_t rows, shares_of; /* [n] rows that chose one expert, int32, and their places among n · n_chosen */
  size_t x, y, d_y, d_x; /* [n, d_model] */
  size_t gate, up, product, d_gate, d_up, d_product; /* [n, hidden]; after the activation `product` is act(gate) · up */
  size_t d_probs;        /* [n_experts] */
  size_t kernel, end;
} places;

/* Room for n numbers of four bytes, 64-aligned. */
static size_t take(size_t *at, size_t n) {
  size_t offset = *at;
  *at = hd_plus(offset, hd_times(n / 16 + (n % 16 != 0), 16 * sizeof(float)));
  return offset;
}

static places places_of(const hd_experts_config *c, size_t n, bool backward) {
  places p = {0};
  size_t at = 0, *const wide[] = {&p.x, &p.y, &p.d_y, &p.d_x},
         *const hidden[] = {&p.gate, &p.up, &p.product, &p.d_gate, &p.d_up, &p.d_product};
  p.probs = take(&at, hd_times(n, c->n_experts));
  p.chosen = take(&at, hd_times(n, c->n_chosen));
  p.shares = take(&at, hd_times(n, c->n_chosen));
  p.d_shares = take(&at, hd_times(n, c->n_chosen));
  p.rows = take(&at, n);
  p.shares_of = take(&at, n);
  for (int i = 0; i < (backward ? 4 : 2); i++) *wide[i] = take(&at, hd_times(n, c->d_model));
  for (int i = 0; i < (backward ? 6 : 3); i++) *hidden[i] = take(&at, hd_times(n, c->hidden));
  p.d_probs = take(&at, backward ? c->n_experts : 0);
  p.kernel = p.end = at;
  return p;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_experts_config *c = i->config;
  size_t n = hd_shape_rows(i->in[0]), most = 0;
  char room[HD_SHAPE_ROOM];
  if (hd_shape_last(i->in[0]) != c->d_model || hd_shape_last(i->in[1]) != c->n_experts || hd_shape_rows(i->in[1]) != n)
    return hd_infer_fail(i, err, "expected rows of %zu and scores of %zu experts, found shape %s",
                         c->d_model, c->n_experts, hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  i->out[0] = *i->in[0];
  for (size_t w = 0; w < N_MATRICES && i->weight[w]; w++) {
    const hd_matrix m = matrix_of(c, i->weight[w], 0);
    size_t bytes = m.layout->scratch_bytes(&m, n);
    most = bytes > most ? bytes : most;
  }
  i->scratch_bytes = hd_plus(places_of(c, n, i->run->keep).end, most);
  return HD_OK;
}

static float *floats(const hd_call *call, size_t offset) { return (float *)(void *)((char *)call->scratch + offset); }
static int32_t *numbers(const hd_call *call, size_t offset) { return (int32_t *)(void *)((char *)call->scratch + offset); }

/* The best n_chosen of a row's experts by insertion, and their shares. */
static void choose(const hd_experts_config *c, const float *probs, int32_t *chosen, float *shares) {
  size_t n = 0;
  for (size_t e = 0; e < c->n_experts; e++) {
    size_t at = n;
    while (at > 0 && probs[e] > shares[at - 1]) at--;
    if (at == c->n_chosen) continue;
    if (n < c->n_chosen) n++;
    for (size_t i = n - 1; i > at; i--) {
      shares[i] = shares[i - 1];
      chosen[i] = chosen[i - 1];
    }
    shares[at] = probs[e];
    chosen[at] = (int32_t)e;
  }
  float sum = 0;
  for (size_t i = 0; i < n; i++) sum += shares[i];
  for (size_t i = 0; i < n && c->renormalise; i++) shares[i] /= sum;
}

static void route(const hd_call *call, const places *p, size_t n) {
  const hd_experts_config *c = call->config;
  for (size_t r = 0; r < n; r++) {
    float *probs = floats(call, p->probs) + r * c->n_experts;
    k_softmax_f32(probs, call->in[1].data + r * c->n_experts, c->n_experts, 1);
    choose(c, probs, numbers(call, p->chosen) + r * c->n_chosen, floats(call, p->shares) + r * c->n_chosen);
  }
}

/* Gathers the rows that chose the expert; how many. */
static size_t gather(const hd_call *call, const places *p, size_t n, size_t expert) {
  const hd_experts_config *c = call->config;
  const int32_t *chosen = numbers(call, p->chosen);
  size_t found = 0;
  for (size_t i = 0; i < n * c->n_chosen; i++) {
    if (chosen[i] != (int32_t)expert) continue;
    size_t row = i / c->n_chosen;
    numbers(call, p->rows)[found] = (int32_t)row;
    numbers(call, p->shares_of)[found] = (int32_t)i;
    memcpy(floats(call, p->x) + found++ * c->d_model, call->in[0].data + row * c->d_model, c->d_model * sizeof(float));
  }
  return found;
}

static void multiply(const hd_call *call, const places *p, size_t slot, size_t expert, float *y, const float *x, size_t n) {
  const hd_matrix m = matrix_of(call->config, call->weight[slot], expert);
  m.layout->matmul(y, x, n, &m, (char *)call->scratch + p->kernel);
}

/* y of the n gathered rows. gate keeps what the activation was given. */
static void compute(const hd_call *call, const places *p, size_t expert, size_t n) {
  const hd_experts_config *c = call->config;
  float *x = floats(call, p->x), *gate = floats(call, p->gate), *up = floats(call, p->up), *product = floats(call, p->product);
  multiply(call, p, GATE, expert, gate, x, n);
  multiply(call, p, UP, expert, up, x, n);
  c->activation->forward(product, gate, n * c->hidden);
  k_multiply_f32(product, product, up, n * c->hidden);
  multiply(call, p, DOWN, expert, floats(call, p->y), product, n);
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_experts_config *c = call->config;
  const size_t n = hd_shape_rows(call->in[0].shape);
  const places p = places_of(c, n, false);
  route(call, &p, n);
  memset(call->out[0].data, 0, n * c->d_model * sizeof(float));
  for (size_t e = 0; e < c->n_experts; e++) {
    size_t found = gather(call, &p, n, e);
    if (found) compute(call, &p, e, found);
    for (size_t i = 0; i < found; i++)
      k_axpy_f32(call->out[0].data + (size_t)numbers(call, p.rows)[i] * c->d_model, floats(call, p.shares)[numbers(call, p.shares_of)[i]],
                 floats(call, p.y) + i * c->d_model, c->d_model);
  }
  return HD_OK;
}

/* ---- Gradients: which experts are chosen is taken as given ---- */

/* d_y of the gathered rows, and what their shares' gradients are. */
static void share_grad(const hd_call *call, const places *p, size_t n) {
  const hd_experts_config *c = call->config;
  for (size_t i = 0; i < n; i++) {
    size_t row = (size_t)numbers(call, p->rows)[i], share = (size_t)numbers(call, p->shares_of)[i];
    const float *d_out = call->d_out[0] + row * c->d_model, *y = floats(call, p->y) + i * c->d_model;
    float *d_y = floats(call, p->d_y) + i * c->d_model;
    double along = 0;
    for (size_t k = 0; k < c->d_model; k++) {
      along += (double)d_out[k] * (double)y[k];
      d_y[k] = floats(call, p->shares)[share] * d_out[k];
    }
    floats(call, p->d_shares)[share] = (float)along;
  }
}

/* One matrix of an expert: d_x += d_y · W, d_W += d_yᵀ · x. */
static void matrix_grad(const hd_call *call, size_t slot, size_t expert, float *d_x, const float *d_y, const float *x, size_t n) {
  const hd_matrix m = matrix_of(call->config, call->weight[slot], expert);
  m.layout->matmul_grad(d_x, d_y, n, &m);
  if (call->d_weight[slot]) k_matmul_weight_grad(call->d_weight[slot] + expert * m.rows * m.cols, d_y, x, n, m.rows, m.cols);
}

static void expert_grad(const hd_call *call, const places *p, size_t expert, size_t n) {
  const hd_experts_config *c = call->config;
  const size_t hidden = n * c->hidden;
  float *x = floats(call, p->x), *d_x = floats(call, p->d_x), *gate = floats(call, p->gate), *up = floats(call, p->up),
        *product = floats(call, p->product);
  float *d_gate = floats(call, p->d_gate), *d_up = floats(call, p->d_up), *d_product = floats(call, p->d_product);
  memset(d_product, 0, hidden * sizeof *d_product);
  memset(d_gate, 0, hidden * sizeof *d_gate);
  memset(d_x, 0, n * c->d_model * sizeof *d_x);
  matrix_grad(call, DOWN, expert, d_product, floats(call, p->d_y), product, n);
  c->activation->forward(product, gate, hidden);
  k_multiply_f32(d_up, d_product, product, hidden);
  k_multiply_f32(d_product, d_product, up, hidden);
  c->activation->backward(d_gate, d_product, gate, hidden);
  matrix_grad(call, GATE, expert, d_x, d_gate, x, n);
  matrix_grad(call, UP, expert, d_x, d_up, x, n);
  for (size_t i = 0; i < n && call->d_in[0]; i++)
    k_axpy_f32(call->d_in[0] + (size_t)numbers(call, p->rows)[i] * c->d_model, 1, d_x + i * c->d_model, c->d_model);
}

/* From shares to the router's scores: share = p / Σ_chosen p where they are renormalised. d_probs: room for n_experts. */
static void router_grad(const hd_call *call, const places *p, size_t row, float *d_probs) {
  const hd_experts_config *c = call->config;
  const float *probs = floats(call, p->probs) + row * c->n_experts, *shares = floats(call, p->shares) + row * c->n_chosen;
  const float *d_shares = floats(call, p->d_shares) + row * c->n_chosen;
  const int32_t *chosen = numbers(call, p->chosen) + row * c->n_chosen;
  float sum = 0, along = 0;
  for (size_t i = 0; i < c->n_chosen; i++) {
    sum += probs[chosen[i]];
    along += d_shares[i] * shares[i];
  }
  memset(d_probs, 0, c->n_experts * sizeof *d_probs);
  for (size_t i = 0; i < c->n_chosen; i++) d_probs[chosen[i]] = c->renormalise ? (d_shares[i] - along) / sum : d_shares[i];
  k_softmax_grad_f32(call->d_in[1] + row * c->n_experts, d_probs, probs, c->n_experts, 1);
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_experts_config *c = call->config;
  const size_t n = hd_shape_rows(call->in[0].shape);
  const places p = places_of(c, n, true);
  route(call, &p, n);
  for (size_t e = 0; e < c->n_experts; e++) {
    size_t found = gather(call, &p, n, e);
    if (found == 0) continue;
    compute(call, &p, e, found);
    share_grad(call, &p, found);
    expert_grad(call, &p, e, found);
  }
  float *d_probs = floats(call, p.d_probs);
  for (size_t r = 0; r < n && call->d_in[1]; r++) router_grad(call, &p, r, d_probs);
  return HD_OK;
}

const hd_layer hd_layer_mixture_of_experts = {
  .name = "mixture_of_experts",
  .example = "{\"type\":\"mixture_of_experts\",\"d_model\":6,\"hidden_size\":5,\"num_experts\":3,\"num_experts_per_tok\":3,"
             "\"input_shape\":[4,6]}",
  .config_bytes = sizeof(hd_experts_config),
  .parse = parse,
  .write = write,
  .expand = expand,
};

const hd_layer hd_layer_experts = {
  .name = "experts",
  .config_bytes = sizeof(hd_experts_config),
  .infer = infer,
  .many_sequences = true,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
