/* attention.c: scaled dot-product attention ("Attention Is All You Need", Vaswani et al., 2017) with grouped key/value heads (Ainslie et
 * al., 2023), and the multi-head layer that declares its projections.
 *
 * The primitive keeps its keys and values in the session when `cache` is set: state = keys [kv_heads, positions, head_dim], then values.
 * Where it has a window, the positions are only those that a row may still look at. */
#include "base/status.h"
#include "kernels/attention.h"
#include "layers/rows.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- The primitive: context = softmax(q·kᵀ·scale)·v. Inputs q [.., n, heads·head_dim], k and v [.., n, kv_heads·head_dim] ---- */

/* What attends to itself and to nothing else: a sequence of the call, or one item of a batch in
 * three dimensions, whose items all begin at 0. */
typedef struct part {
  size_t n, past;
  size_t capacity;        /* positions in the block of its keys and values */
  bool remembers;         /* which is its state; else scratch */
} part;

/* Parts of q [.., n, heads·head_dim]. */
static size_t n_parts(const hd_run *run, const hd_shape *q) {
  size_t n = q->n_dims >= 2 ? q->dim[q->n_dims - 2] : 1;
  return run->n_sequences > 1 ? run->n_sequences : n ? hd_shape_rows(q) / n : 0;
}

static part part_of(const hd_attention_config *c, const hd_run *run, const hd_shape *q, size_t index) {
  const hd_sequence *s = &run->sequences[run->n_sequences > 1 ? index : 0];
  size_t n = hd_rows_of(run, index, q->n_dims >= 2 ? q->dim[q->n_dims - 2] : 1);
  if (!c->cache || !s->context) return (part){.n = n, .capacity = n};
  const bool cut = c->window && s->window; /* of its past, only what comes from s->begin on is there */
  return (part){.n = n, .past = s->past - (cut ? s->begin : 0), .capacity = cut ? s->window : s->context, .remembers = true};
}

/* Keys and values of so many positions. SIZE_MAX: too many. */
static size_t cache_bytes(const hd_attention_config *c, size_t positions) {
  return hd_times(hd_times(hd_times(c->kv_heads, c->head_dim), positions), 2 * sizeof(float));
}

/* Of its keys alone, where the cache is there. */
static size_t cache_floats(const hd_attention_config *c, size_t positions) { return c->kv_heads * positions * c->head_dim; }

static hd_attention_shape kernel_shape(const hd_attention_config *c, const part *p) {
  return (hd_attention_shape){.n = p->n, .past = p->past, .capacity = p->capacity, .heads = c->heads, .kv_heads = c->kv_heads,
                              .head_dim = c->head_dim, .scale = c->scale, .causal = c->causal, .window = c->window, .cap = c->cap};
}

/* Of one part, when its sequence is as long as it may get: the scores of its rows, and where it has no state, its keys and values. */
static size_t scratch_bytes(const hd_attention_config *c, const part *p) {
  size_t most = p->capacity > p->n ? p->capacity : p->n;
  hd_attention_shape shape = kernel_shape(c, &(part){.n = p->n, .past = most - p->n, .capacity = most});
  size_t bytes = k_attention_scratch_bytes(&shape);
  return p->remembers ? bytes : hd_plus(bytes, hd_plus(cache_bytes(c, p->n), 64));
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_attention_config *c = i->config;
  const hd_shape *q = i->in[0];
  size_t parts = n_parts(i->run, q), n = 0, total = 0;
  if (c->cache && i->run->n_sequences == 1 && parts > 1)
    return hd_infer_fail(i, err, "a key/value cache holds one sequence, found a batch of %zu", parts);
  for (size_t k = 0; k < parts; k++) {
    part p = part_of(c, i->run, q, k);
    size_t bytes = scratch_bytes(c, &p);
    if (bytes > i->scratch_bytes) i->scratch_bytes = bytes;
    if (p.n > n) n = p.n;
    if (p.past + p.n > total) total = p.past + p.n;
    if (i->run->n_sequences == 1) break; /* a batch's are alike */
  }
  i->out[0] = *q;
  i->out[1] = (hd_shape){.dtype = HD_F32, .n_dims = 4, .dim = {parts, c->heads, n, total}};
  return HD_OK;
}

static size_t state_bytes(const void *config, size_t positions) {
  const hd_attention_config *c = config;
  return c->cache ? cache_bytes(c, positions) : 0;
}

static size_t window(const void *config) { return ((const hd_attention_config *)config)->window; }

static void move_state(const void *config, void *to, size_t to_positions, const void *from, size_t from_positions, size_t first, size_t n) {
  const hd_attention_config *c = config;
  for (size_t h = 0; h < 2 * c->kv_heads; h++)
    memmove((float *)to + h * to_positions * c->head_dim, (const float *)from + (h * from_positions + first) * c->head_dim,
            n * c->head_dim * sizeof(float));
}

/* rows [n, kv_heads, head_dim] → heads' own places [kv_heads, capacity, head_dim], from position `past` on */
static void store(const hd_attention_config *c, float *to, size_t capacity, size_t past, const float *rows, size_t n) {
  size_t width = c->kv_heads * c->head_dim;
  for (size_t h = 0; h < c->kv_heads; h++)
    for (size_t t = 0; t < n; t++)
      memcpy(to + (h * capacity + past + t) * c->head_dim, rows + t * width + h * c->head_dim, c->head_dim * sizeof *to);
}

/* Row `row` of an input. */
static float *row_of(const hd_view *view, size_t row) { return view->data + row * hd_shape_last(view->shape); }

/* The part whose rows begin at `row`; state: of its sequence. */
static void attend(const hd_call *call, const part *p, void *state, size_t row, float *probs) {
  const hd_attention_config *c = call->config;
  hd_attention_shape shape = kernel_shape(c, p);
  float *keys = state, *scratch = call->scratch;
  if (!p->remembers) {
    keys = scratch;
    scratch = (float *)(void *)((char *)call->scratch + hd_align(cache_bytes(c, p->n), 64));
  }
  float *values = keys + cache_floats(c, p->capacity);
  store(c, keys, p->capacity, p->past, row_of(&call->in[1], row), p->n);
  store(c, values, p->capacity, p->past, row_of(&call->in[2], row), p->n);
  k_attention_f32(row_of(&call->out[0], row), probs, row_of(&call->in[0], row), keys, values, &shape, scratch);
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_attention_config *c = call->config;
  const hd_shape *q = call->in[0].shape;
  float *probs = call->out[1].data;
  size_t parts = n_parts(call->run, q);
  for (size_t k = 0, row = 0; k < parts; k++) {
    part p = part_of(c, call->run, q, k);
    attend(call, &p, p.remembers ? hd_call_state(call, call->run->n_sequences > 1 ? k : 0) : NULL, row, probs);
    row += p.n;
    if (probs) probs += c->heads * p.n * (p.past + p.n);
  }
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  const hd_attention_config *c = call->config;
  const hd_shape *q = call->in[0].shape;
  if (c->cache && call->run->sequences[0].past > 0)
    return hd_fail(err, HD_BAD_STATE, "layer %s: training starts at position 0, the session is at %zu",
                   call->name, call->run->sequences[0].past);
  part p = part_of(c, call->run, q, 0);
  hd_attention_shape shape = kernel_shape(c, &p);
  size_t q_size = p.n * c->heads * c->head_dim, kv_size = p.n * c->kv_heads * c->head_dim, batch = n_parts(call->run, q);
  for (size_t b = 0; b < batch; b++)
    k_attention_grad_f32(call->d_in[0] + b * q_size, call->d_in[1] + b * kv_size, call->d_in[2] + b * kv_size,
                         call->d_out[0] + b * q_size, call->out[1].data + b * c->heads * p.n * p.n, call->in[0].data + b * q_size,
                         call->in[1].data + b * kv_size, call->in[2].data + b * kv_size, &shape);
  return HD_OK;
}

static const char *const outputs[] = {"attn_context", "attn_probs"};

const hd_layer hd_layer_attention = {
  .name = "attention",
  .config_bytes = sizeof(hd_attention_config),
  .infer = infer,
  .n_outputs = 2,
  .output_names = outputs,
  .extra_outputs_optional = true,
  .state_bytes = state_bytes,
  .window = window,
  .move_state = move_state,
  .many_sequences = true,
  .forward = forward,
  .backward = backward,
};

/* ---- multi_head_attention: q, k, v and output projections around it ---- */

#define LOOM_ROPE_THETA 10000.0

/* "projections": the weights' names of q, k, v and out, or of the matrix that holds the first three and out. */
static void parse_projections(hd_multi_head_attention_config *c, const hd_json *j, hd_arena *arena) {
  hd_json list = hd_json_member(j, "projections");
  size_t n = hd_json_count(j, "projections");
  if (!list.node || cJSON_IsNull(list.node)) return;
  if (n != 2 && n != HD_PROJECTIONS) hd_json_refuse(j, "projections", HD_BAD_FILE, "expected 2 or 4 names, found %zu", n);
  for (size_t i = 0; i < n && i < HD_PROJECTIONS && *j->status == HD_OK; i++) {
    hd_json item = hd_json_item(&list, i);
    c->projections[i] = item.node && cJSON_IsString(item.node) ? hd_arena_text(arena, item.node->valuestring) : NULL;
    if (!c->projections[i]) hd_json_refuse(j, "projections", HD_BAD_FILE, "expected names");
  }
}

/* rope_freq_base 0: no positions. */
static void parse_rope(hd_multi_head_attention_config *c, const hd_json *j, hd_arena *arena) {
  c->rope.theta = hd_json_get_number(j, "rope_freq_base", 0);
  c->rope.head_dim = hd_json_get_size(j, "rotary_dim", c->attention.head_dim);
  hd_json scaling = hd_json_member(j, "rope_scaling");
  if (c->rope.theta > 0 && scaling.node && cJSON_IsObject(scaling.node)) hd_rope_parse(&c->rope, &scaling, 0, arena);
  if (c->rope.head_dim > c->attention.head_dim || (c->rope.theta > 0 && c->rope.head_dim == 0))
    hd_json_refuse(j, "rotary_dim", HD_BAD_FILE, "expected a size from 1 to head_dim %zu, found %zu",
                   c->attention.head_dim, c->rope.head_dim);
}

static void parse_standard(hd_multi_head_attention_config *c, const hd_json *j, hd_arena *arena) {
  hd_attention_config *a = &c->attention;
  a->kv_heads = hd_json_get_size(j, "num_kv_heads", a->heads);
  a->head_dim = hd_json_get_size(j, "head_dim", a->heads ? c->d_model / a->heads : 0);
  a->causal = hd_json_get_bool(j, "causal", true);
  a->cache = hd_json_get_bool(j, "cache", false);
  c->qkv_bias = hd_json_get_bool(j, "qkv_bias", true);
  c->out_bias = hd_json_get_bool(j, "out_bias", true);
  c->in_out = hd_json_get_bool(j, "in_out", false);
  a->window = hd_json_get_size(j, "sliding_window", 0);
  a->cap = (float)hd_json_get_number(j, "score_cap", 0);
  a->scale = (float)hd_json_get_number(j, "scale", 1 / sqrt((double)a->head_dim));
  c->norm_epsilon = (float)hd_json_get_number(j, "head_norm_epsilon", 0);
  c->head_norm = hd_json_has(j, "head_norm_epsilon");
  c->norm_plus_one = hd_json_get_bool(j, "head_norm_plus_one", false);
  parse_projections(c, j, arena);
  parse_rope(c, j, arena);
  if (a->window && !a->causal) hd_json_refuse(j, "sliding_window", HD_UNSUPPORTED, "a window is built for causal attention only");
}

/* Loom's has one key/value head for each head, every bias and rotary positions, and it is causal. */
static void parse_loom(hd_multi_head_attention_config *c, const hd_json *j) {
  hd_attention_config *a = &c->attention;
  if (a->heads == 0) a->heads = 8;
  a->kv_heads = a->heads;
  a->head_dim = c->d_model / a->heads;
  a->causal = c->qkv_bias = c->out_bias = true;
  a->scale = 1.0f / sqrtf((float)a->head_dim);
  c->seq_length = hd_json_get_size(j, "seq_length", 0);
  c->rope.theta = hd_json_get_number(j, "rope_freq_base", 0);
  if (!(c->rope.theta > 0)) c->rope.theta = LOOM_ROPE_THETA;
  c->rope.head_dim = a->head_dim;
  c->rope.exact = true;
}

static void parse(void *config, hd_parse *p) {
  hd_multi_head_attention_config *c = config;
  hd_json *j = &p->json;
  c->d_model = hd_json_need_size(j, "d_model", SIZE_MAX);
  c->place = p->place;
  hd_attention_config *a = &c->attention;
  a->heads = p->dialect == HD_LOOM ? hd_json_get_size(j, "num_heads", 0) : hd_json_need_size(j, "num_heads", SIZE_MAX);
  if (p->dialect == HD_LOOM) parse_loom(c, j);
  else parse_standard(c, j, p->arena);
  if (a->heads > 65536 || a->head_dim > 65536 / (a->heads + 1))
    hd_json_refuse(j, "head_dim", HD_BAD_FILE, "%zu heads of %zu are too wide", a->heads, a->head_dim);
  else if (a->heads == 0 || a->kv_heads == 0 || a->heads % a->kv_heads != 0)
    hd_json_refuse(j, "num_heads", HD_BAD_FILE, "expected a multiple of %zu key/value heads, found %zu", a->kv_heads, a->heads);
  else if (a->head_dim == 0 || (c->rope.theta > 0 && c->rope.head_dim % 2 != 0 && p->dialect == HD_STANDARD))
    /* Loom's are read, and refused when they run */
    hd_json_refuse(j, "head_dim", HD_BAD_FILE, "expected an even size for rotary positions, found %zu", a->head_dim);
  else if (p->dialect == HD_LOOM && a->heads * a->head_dim != c->d_model)
    hd_json_refuse(j, "num_heads", HD_BAD_FILE, "expected a divisor of d_model %zu, found %zu", c->d_model, a->heads);
}

/* Only a branch's rotary base is read again by Loom (loom.md, section j, 3). */
static hd_status write_loom(const hd_multi_head_attention_config *c, cJSON *json, hd_error *err) {
  const bool usual = c->rope.theta == LOOM_ROPE_THETA;
  if (!usual && c->place == HD_IN_CHAIN)
    return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no rotary base but %g here", LOOM_ROPE_THETA);
  cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
  cJSON_AddNumberToObject(json, "d_model", (double)c->d_model);
  cJSON_AddNumberToObject(json, "num_heads", (double)c->attention.heads);
  if (c->seq_length) cJSON_AddNumberToObject(json, "seq_length", (double)c->seq_length);
  if (!usual) cJSON_AddNumberToObject(json, "rope_freq_base", c->rope.theta);
  return HD_OK;
}

/* What most layers lack. */
static void write_rest(const hd_multi_head_attention_config *c, cJSON *json) {
  const hd_attention_config *a = &c->attention;
  if (c->in_out) cJSON_AddBoolToObject(json, "in_out", true);
  if (a->window) cJSON_AddNumberToObject(json, "sliding_window", (double)a->window);
  if (a->cap > 0) hd_json_add_float(json, "score_cap", a->cap);
  if (a->scale != 1.0f / sqrtf((float)a->head_dim)) hd_json_add_float(json, "scale", a->scale);
  if (c->head_norm) hd_json_add_float(json, "head_norm_epsilon", c->norm_epsilon);
  if (c->norm_plus_one) cJSON_AddBoolToObject(json, "head_norm_plus_one", true);
  if (c->projections[0]) {
    cJSON *names = cJSON_AddArrayToObject(json, "projections");
    for (size_t i = 0; i < HD_PROJECTIONS && c->projections[i]; i++) cJSON_AddItemToArray(names, cJSON_CreateString(c->projections[i]));
  }
  if (!(c->rope.theta > 0)) return;
  cJSON_AddNumberToObject(json, "rope_freq_base", c->rope.theta);
  if (c->rope.head_dim != a->head_dim) cJSON_AddNumberToObject(json, "rotary_dim", (double)c->rope.head_dim);
  hd_rope_write(&c->rope, json);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_multi_head_attention_config *c = config;
  if (dialect == HD_LOOM) return write_loom(c, json, err);
  cJSON_AddNumberToObject(json, "d_model", (double)c->d_model);
  cJSON_AddNumberToObject(json, "num_heads", (double)c->attention.heads);
  cJSON_AddNumberToObject(json, "num_kv_heads", (double)c->attention.kv_heads);
  cJSON_AddNumberToObject(json, "head_dim", (double)c->attention.head_dim);
  cJSON_AddBoolToObject(json, "causal", c->attention.causal);
  cJSON_AddBoolToObject(json, "cache", c->attention.cache);
  cJSON_AddBoolToObject(json, "qkv_bias", c->qkv_bias);
  cJSON_AddBoolToObject(json, "out_bias", c->out_bias);
  write_rest(c, json);
  return HD_OK;
}

enum { Q, K, V, OUT };

/* A projection's weights: "q_proj.", unless a model calls them otherwise. */
static const char *weights_of(hd_builder *b, const hd_multi_head_attention_config *c, size_t which, char room[HD_NAME_ROOM]) {
  static const char *const usual[HD_PROJECTIONS] = {"q_proj.", "k_proj.", "v_proj.", "o_proj."};
  if (!c->projections[0]) return usual[which];
  int n = snprintf(room, HD_NAME_ROOM, "%s.", c->projections[which]);
  if (n < 0 || n >= HD_NAME_ROOM) hd_build_fail(b, HD_UNSUPPORTED, "a projection's name is longer than %d", HD_NAME_ROOM - 2);
  return room;
}

/* x → q, k and v: three matrices, or the columns of one. */
static void project(hd_builder *b, const hd_multi_head_attention_config *c, hd_value x, hd_value qkv[3]) {
  static const char *const names[] = {"q", "k", "v"};
  char room[HD_NAME_ROOM];
  const size_t kv = c->attention.kv_heads * c->attention.head_dim, widths[] = {c->attention.heads * c->attention.head_dim, kv, kv};
  const bool fused = c->projections[0] && !c->projections[2];
  hd_linear_config to = {.in_features = c->d_model, .out_features = widths[Q] + 2 * kv, .bias = c->qkv_bias, .in_out = c->in_out};
  if (fused) x = hd_build(b, &hd_layer_linear, "qkv", weights_of(b, c, 0, room), &to, &x, 1);
  for (size_t i = 0, first = 0; i < 3; first += widths[i++]) {
    to.out_features = widths[i];
    if (fused) qkv[i] = hd_build(b, &hd_layer_columns, names[i], "", &(hd_columns_config){first, widths[i]}, &x, 1);
    else qkv[i] = hd_build(b, &hd_layer_linear, names[i], weights_of(b, c, i, room), &to, &x, 1);
  }
}

/* Queries and keys head by head: normed, then turned by their positions. */
static void place_heads(hd_builder *b, const hd_multi_head_attention_config *c, hd_value x, hd_value qk[2]) {
  static const char *const normed[] = {"q_normed", "k_normed"}, *const norms[] = {"q_norm.", "k_norm."},
                    *const turned[] = {"q_rope", "k_rope"};
  const hd_norm_config norm = {.size = c->attention.head_dim, .epsilon = c->norm_epsilon, .plus_one = c->norm_plus_one, .flat = true};
  const hd_rope_config rope = {.head_dim = c->attention.head_dim, .turned = c->rope.head_dim};
  for (size_t i = 0; i < 2 && c->head_norm; i++) qk[i] = hd_build(b, &hd_layer_rms_norm, normed[i], norms[i], &norm, &qk[i], 1);
  if (!(c->rope.theta > 0)) return;
  hd_value cosine = hd_build_rope_table(b, &c->rope, x), sine = hd_build_output(b, cosine, 1);
  for (size_t i = 0; i < 2; i++) qk[i] = hd_build(b, &hd_layer_rope, turned[i], "", &rope, (hd_value[]){qk[i], cosine, sine}, 3);
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  const hd_multi_head_attention_config *c = spec->config;
  const bool loom = hd_build_dialect(b) == HD_LOOM;
  char room[HD_NAME_ROOM];
  if (loom) x = hd_build(b, &hd_layer_as_rows, "rows", "", &(hd_as_rows_config){c->d_model}, &x, 1);
  const hd_linear_config to_out = {.in_features = c->attention.heads * c->attention.head_dim, .out_features = c->d_model,
                                   .bias = c->out_bias, .in_out = c->in_out};
  hd_value qkv[3];
  project(b, c, x, qkv);
  place_heads(b, c, x, qkv);
  hd_value context = hd_build(b, &hd_layer_attention, "", "", &c->attention, qkv, 3);
  const bool last = loom && hd_build_carried(b) == HD_NO_VALUE; /* in the loom dialect a layer's last value has the layer's own name */
  const size_t which = c->projections[0] && !c->projections[2] ? 1 : OUT;
  hd_value out = hd_build(b, &hd_layer_linear, last ? "" : "attn_out", weights_of(b, c, which, room), &to_out, &context, 1);
  out = hd_build_add_carried(b, "", out);
  hd_build_carry(b, out);
  return out;
}

static const char *const aliases[] = {"mha", NULL};
static const hd_bundle_name bundle_names[] = {
  {"q_proj.weight", "q_weights", true},     {"k_proj.weight", "k_weights", true}, {"v_proj.weight", "v_weights", true},
  {"o_proj.weight", "output_weight", true}, {"q_proj.bias", "q_bias", false},     {"k_proj.bias", "k_bias", false},
  {"v_proj.bias", "v_bias", false},         {"o_proj.bias", "output_bias", false}, {NULL, NULL, false},
};

const hd_layer hd_layer_multi_head_attention = {
  .name = "multi_head_attention",
  .example = "{\"type\":\"multi_head_attention\",\"d_model\":12,\"num_heads\":4,\"num_kv_heads\":2,\"head_dim\":4,"
             "\"rope_freq_base\":10000,\"input_shape\":[2,5,12]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_multi_head_attention_config),
  .parse = parse,
  .write = write,
  .bundle_names = bundle_names,
  .expand = expand,
};
