/* kernels/attention.c: against the reference in double over shapes of every remainder, gradients against finite differences,
 * scalar twins with ==. Caches are allocated exactly. */
#include "test.h"

#define HD_SIMD_SCALAR
#define k_rope_f32 twin_rope
#define k_attention_f32 twin_attention
#define k_attention_scratch_bytes twin_scratch_bytes
#define k_attention_grad_f32 twin_attention_grad
#include "kernels/attention.c"
#undef k_rope_f32
#undef k_attention_f32
#undef k_attention_scratch_bytes
#undef k_attention_grad_f32
void k_rope_f32(float *y, const float *x, const float *cos, const float *sin, size_t n, size_t heads, size_t head_dim, size_t turned, float sign);
void k_attention_f32(float *context, float *probs, const float *q, const float *keys, const float *values,
                     const hd_attention_shape *shape, void *scratch);
size_t k_attention_scratch_bytes(const hd_attention_shape *shape);
void k_attention_grad_f32(float *d_q, float *d_k, float *d_v, const float *d_context, const float *probs, const float *q,
                          const float *k, const float *v, const hd_attention_shape *shape);

#include "kernels/reference.h"

static const hd_attention_shape shapes[] = {
    /* n, past, capacity, heads, kv_heads, head_dim */
    {1, 0, 1, 1, 1, 1, 1.0f, true, 0, 0},
    {1, 5, 6, 9, 3, 64, 0.125f, true, 0, 0},
    {1, 300, 512, 4, 4, 32, 0.2f, true, 0, 0},
    {2, 3, 8, 4, 2, 12, 0.3f, true, 0, 0},
    {7, 0, 7, 3, 1, 10, 0.3f, true, 0, 0},
    {7, 0, 9, 2, 2, 33, 0.2f, false, 0, 0},
    {130, 0, 130, 2, 1, 16, 0.25f, true, 0, 0},
    {5, 140, 150, 6, 3, 5, 0.4f, true, 0, 0},
    {4, 0, 4, 8, 8, 8, 0.35f, false, 0, 0},
    {.n = 1, .past = 300, .capacity = 301, .heads = 4, .kv_heads = 2, .head_dim = 12, .scale = 0.3f, .causal = true, .window = 8},
    {.n = 40, .past = 3, .capacity = 50, .heads = 4, .kv_heads = 2, .head_dim = 12, .scale = 0.3f, .causal = true, .window = 8},
    {.n = 150, .past = 0, .capacity = 150, .heads = 3, .kv_heads = 1, .head_dim = 7, .scale = 0.4f, .causal = true, .window = 131},
    {.n = 9, .past = 2, .capacity = 11, .heads = 2, .kv_heads = 2, .head_dim = 16, .scale = 2, .causal = true, .window = 1},
    {.n = 13, .past = 4, .capacity = 17, .heads = 4, .kv_heads = 2, .head_dim = 16, .scale = 1.5f, .causal = true, .window = 6, .cap = 0.8f},
    {.n = 6, .past = 0, .capacity = 6, .heads = 2, .kv_heads = 1, .head_dim = 9, .scale = 0.7f, .cap = 5},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

typedef struct example {
  float *q, *keys, *values, *context, *probs;
  void *scratch;
  size_t n_context, n_probs;
} example;

static example example_of(const hd_attention_shape *s) {
  example e;
  e.n_context = s->n * s->heads * s->head_dim;
  e.n_probs = s->heads * s->n * (s->past + s->n);
  e.q = test_random_floats(e.n_context);
  e.keys = test_random_floats(s->kv_heads * s->capacity * s->head_dim);
  e.values = test_random_floats(s->kv_heads * s->capacity * s->head_dim);
  e.context = test_random_floats(e.n_context);
  e.probs = test_random_floats(e.n_probs);
  e.scratch = malloc(k_attention_scratch_bytes(s));
  return e;
}

static void free_example(example *e) {
  free(e->q);
  free(e->keys);
  free(e->values);
  free(e->context);
  free(e->probs);
  free(e->scratch);
}

static void check_shape(const hd_attention_shape *s) {
  example e = example_of(s);
  double *context = malloc(e.n_context * sizeof *context), *probs = malloc(e.n_probs * sizeof *probs);
  k_reference_attention(context, probs, e.q, e.keys, e.values, s);
  k_attention_f32(e.context, e.probs, e.q, e.keys, e.values, s, e.scratch);
  for (size_t i = 0; i < e.n_context; i++) CHECK_NEAR(e.context[i], context[i], 2e-6, 2e-6);
  for (size_t i = 0; i < e.n_probs; i++) CHECK_NEAR(e.probs[i], probs[i], 1e-7, 5e-6);
  float *without = malloc(e.n_context * sizeof *without);
  k_attention_f32(without, NULL, e.q, e.keys, e.values, s, e.scratch);
  CHECK_EQ_BITS(without, e.context, e.n_context * sizeof *without); /* asking for probs changes nothing */
#ifndef HD_RELAXED
  twin_attention(without, NULL, e.q, e.keys, e.values, s, e.scratch);
  CHECK_EQ_BITS(without, e.context, e.n_context * sizeof *without);
#endif
  free(without);
  free(context);
  free(probs);
  free_example(&e);
}

TEST(attention_is_the_textbooks_for_every_shape) {
  for (size_t i = 0; i < N_SHAPES; i++) check_shape(&shapes[i]);
}

TEST(attention_has_the_same_bits_for_any_number_of_threads) {
#ifdef __wasm__
  SKIP("WebAssembly's workers are made by JavaScript");
#else
  for (size_t i = 0; i < N_SHAPES; i++) {
    example e = example_of(&shapes[i]);
    float *alone = malloc(e.n_context * sizeof *alone);
    k_attention_f32(alone, NULL, e.q, e.keys, e.values, &shapes[i], e.scratch);
    CHECK(hd_pool_start(3, NULL) == HD_OK);
    k_attention_f32(e.context, NULL, e.q, e.keys, e.values, &shapes[i], e.scratch);
    hd_pool_stop();
    CHECK_EQ_BITS(e.context, alone, e.n_context * sizeof *alone);
    free(alone);
    free_example(&e);
  }
#endif
}

/* Decoding position by position is the same attention. */
TEST(one_query_at_a_time_gives_the_bits_of_all_at_once) {
  hd_attention_shape all = {.n = 9, .capacity = 9, .heads = 6, .kv_heads = 2, .head_dim = 20, .scale = 0.25f, .causal = true, .window = 5};
  example e = example_of(&all);
  k_attention_f32(e.context, NULL, e.q, e.keys, e.values, &all, e.scratch);
  for (size_t i = 0; i < all.n; i++) {
    hd_attention_shape one = all;
    one.n = 1;
    one.past = i;
    float context[6 * 20];
    k_attention_f32(context, NULL, e.q + i * 120, e.keys, e.values, &one, e.scratch);
    CHECK_EQ_BITS(context, e.context + i * 120, sizeof context);
  }
  free_example(&e);
}

TEST(no_queries_do_nothing) {
  hd_attention_shape none = {0, 3, 4, 2, 1, 4, 0.5f, true, 0, 0};
  k_attention_f32(NULL, NULL, NULL, NULL, NULL, &none, NULL);
}

/* ---- Gradients ---- */

/* Σ weights · context. */
static double attention_loss(const float *weights, const float *q, const float *keys, const float *values, const hd_attention_shape *s) {
  size_t n = s->n * s->heads * s->head_dim;
  double *context = malloc(n * sizeof *context), sum = 0;
  k_reference_attention(context, NULL, q, keys, values, s);
  for (size_t i = 0; i < n; i++) sum += context[i] * (double)weights[i];
  free(context);
  return sum;
}

static double moved(float *at, const float *weights, const float *q, const float *keys, const float *values, const hd_attention_shape *s) {
  float was = *at, up = was + 1e-3f, down = was - 1e-3f;
  *at = up;
  double above = attention_loss(weights, q, keys, values, s);
  *at = down;
  double below = attention_loss(weights, q, keys, values, s);
  *at = was;
  return (above - below) / ((double)up - (double)down);
}

/* The kernel takes [n, kv_heads, head_dim], the cache is [kv_heads, n, head_dim]. */
static float *by_position(const float *cache, const hd_attention_shape *s) {
  float *rows = malloc(s->n * s->kv_heads * s->head_dim * sizeof *rows);
  for (size_t h = 0; h < s->kv_heads; h++)
    for (size_t i = 0; i < s->n; i++)
      memcpy(rows + (i * s->kv_heads + h) * s->head_dim, cache + (h * s->n + i) * s->head_dim, s->head_dim * sizeof *rows);
  return rows;
}

static void check_gradients(const hd_attention_shape *s) {
  example e = example_of(s);
  size_t n_kv = s->n * s->kv_heads * s->head_dim;
  float *k = by_position(e.keys, s), *v = by_position(e.values, s), *d_context = test_random_floats(e.n_context);
  float *d_q = calloc(e.n_context, sizeof *d_q), *d_k = calloc(n_kv, sizeof *d_k), *d_v = calloc(n_kv, sizeof *d_v);
  d_q[0] = d_k[0] = d_v[0] = 1;
  k_attention_f32(e.context, e.probs, e.q, e.keys, e.values, s, e.scratch);
  k_attention_grad_f32(d_q, d_k, d_v, d_context, e.probs, e.q, k, v, s);
  for (size_t i = 0; i < e.n_context; i++)
    CHECK_NEAR(d_q[i], (i == 0) + moved(e.q + i, d_context, e.q, e.keys, e.values, s), 3e-6, 1e-5);
  for (size_t h = 0; h < s->kv_heads; h++)
    for (size_t i = 0; i < s->n * s->head_dim; i++) {
      size_t cache = h * s->n * s->head_dim + i, row = (i / s->head_dim * s->kv_heads + h) * s->head_dim + i % s->head_dim;
      CHECK_NEAR(d_k[row], (row == 0) + moved(e.keys + cache, d_context, e.q, e.keys, e.values, s), 3e-6, 1e-5);
      CHECK_NEAR(d_v[row], (row == 0) + moved(e.values + cache, d_context, e.q, e.keys, e.values, s), 3e-6, 1e-5);
    }
  free(k);
  free(v);
  free(d_context);
  free(d_q);
  free(d_k);
  free(d_v);
  free_example(&e);
}

TEST(attention_gradients_are_finite_differences) {
  check_gradients(&(hd_attention_shape){1, 0, 1, 1, 1, 3, 0.5f, true, 0, 0});
  check_gradients(&(hd_attention_shape){5, 0, 5, 4, 2, 6, 0.7f, true, 0, 0});
  check_gradients(&(hd_attention_shape){4, 0, 4, 3, 3, 5, 0.9f, false, 0, 0});
  check_gradients(&(hd_attention_shape){.n = 6, .capacity = 6, .heads = 4, .kv_heads = 2, .head_dim = 5, .scale = 0.7f, .causal = true, .window = 3});
  check_gradients(&(hd_attention_shape){.n = 5, .capacity = 5, .heads = 2, .kv_heads = 1, .head_dim = 6, .scale = 1.1f, .causal = true, .window = 4, .cap = 0.6f});
}

/* ---- Rotary embedding ---- */

/* All of a head is turned, or its first `turned` values. */
static void check_rope(size_t dim, size_t turned) {
  size_t n = 3, heads = 2, size = n * heads * dim;
  if (size == 0) return;
  float *x = test_random_floats(size), *y = malloc(size * sizeof *y), *twin = malloc(size * sizeof *twin);
  float *cosine = calloc(n * turned, sizeof *cosine), *sine = calloc(n * turned, sizeof *sine);
  double *should = malloc(size * sizeof *should);
  for (size_t k = 0; k < n * turned; k++) {
    float angle = (float)(k / turned) * 0.3f * (float)(k % (turned / 2) + 1);
    cosine[k] = cosf(angle);
    sine[k] = sinf(angle);
  }
  k_rope_f32(y, x, cosine, sine, n, heads, dim, turned, 1.0f);
  k_reference_rope(should, x, cosine, sine, n, heads, dim, turned, 1);
  for (size_t k = 0; k < size; k++) CHECK_NEAR(y[k], should[k], 2e-7, 1e-6);
  twin_rope(twin, x, cosine, sine, n, heads, dim, turned, 1.0f);
  CHECK_EQ_BITS(y, twin, size * sizeof *y);
  k_rope_f32(y, y, cosine, sine, n, heads, dim, turned, -1.0f); /* in place, and back */
  for (size_t k = 0; k < size; k++) CHECK_NEAR(y[k], x[k], 5e-7, 0);
  free(x);
  free(y);
  free(twin);
  free(cosine);
  free(sine);
  free(should);
}

TEST(rope_turns_pairs_and_back) {
  const size_t dims[] = {2, 6, 8, 10, 64};
  for (size_t i = 0; i < 5; i++) check_rope(dims[i], dims[i]);
  check_rope(10, 6);
  check_rope(96, 72);
}
