/* kernels/attention.c: rotary embedding and attention over a key/value cache, with its gradients.
 *
 * The query rows of all heads that share a key/value head (a group's heads × n queries) are one list, taken four at a time:
 * so each key and value is read once for four rows, in prefill (four queries) as in decoding (four heads). Scores of a block are
 * kept whole, in per-thread scratch; softmax is the two-pass one. Every output has one chain of sums, whatever its block. */
#include "kernels/attention.h"

#include "base/memory.h"
#include "base/pool.h"
#include "kernels/elementwise.h"
#include "kernels/vmath.h"

#define INLINE static inline __attribute__((always_inline))

enum { ROWS = 4 };          /* query rows a block has at most */
enum { POSITIONS = 128 };   /* values that stay in the first-level cache while all columns pass over them */

void k_rope_f32(float *y, const float *x, const float *cos, const float *sin, size_t n, size_t heads, size_t head_dim,
                size_t turned, float sign) {
  size_t half = turned / 2;
  v_f32 signs = v_splat(sign);
  for (size_t row = 0; row < n * heads; row++, x += head_dim, y += head_dim) {
    const float *c = cos + row / heads * turned, *s = sin + row / heads * turned;
    size_t d = 0;
    for (; d + V_LANES <= half; d += V_LANES) {
      v_f32 low = v_load(x + d), high = v_load(x + d + half);
      v_store(y + d, v_sub(v_mul(low, v_load(c + d)), v_mul(signs, v_mul(high, v_load(s + d)))));
      v_store(y + d + half, v_add(v_mul(high, v_load(c + d + half)), v_mul(signs, v_mul(low, v_load(s + d + half)))));
    }
    for (; d < half; d++) {
      float low = x[d], high = x[d + half];
      y[d] = low * c[d] - sign * (high * s[d]);
      y[d + half] = high * c[d + half] + sign * (low * s[d + half]);
    }
    if (y != x) memcpy(y + turned, x + turned, (head_dim - turned) * sizeof *y);
  }
}

/* ---- Scores ---- */

/* scores[r][0…3] = q[r] · key[0…3] for n_q (1 or 2) rows. */
INLINE void score_tile(v_f32 *scores, const float *const *q, size_t n_q, const float *const key[4], size_t head_dim) {
  v_f32 sum[2][4];
  for (size_t r = 0; r < n_q; r++)
    for (size_t k = 0; k < 4; k++) sum[r][k] = v_zero();
  size_t d = 0;
  for (; d + V_LANES <= head_dim; d += V_LANES)
    for (size_t k = 0; k < 4; k++) {
      v_f32 keys = v_load(key[k] + d);
      for (size_t r = 0; r < n_q; r++) sum[r][k] = v_madd(v_load(q[r] + d), keys, sum[r][k]);
    }
  for (size_t k = 0; d < head_dim && k < 4; k++)
    for (size_t r = 0; r < n_q; r++)
      sum[r][k] = v_madd(v_load_part(q[r] + d, head_dim - d), v_load_part(key[k] + d, head_dim - d), sum[r][k]);
  for (size_t r = 0; r < n_q; r++) scores[r] = v_sum4(sum[r][0], sum[r][1], sum[r][2], sum[r][3]);
}

/* scores[r·stride + j] = q[r] · keys[j], j < n. */
INLINE void score_rows(float *scores, size_t stride, const float *const *q, size_t n_q, const float *keys, size_t n, size_t head_dim) {
  for (size_t j = 0; j < n; j += 4) {
    size_t left = n - j < 4 ? n - j : 4;
    const float *key[4];
    for (size_t k = 0; k < 4; k++) key[k] = keys + (j + (k < left ? k : 0)) * head_dim; /* spare lanes repeat the first */
    v_f32 four[2];
    score_tile(four, q, n_q, key, head_dim);
    for (size_t r = 0; r < n_q; r++) {
      if (left == 4) v_store(scores + r * stride + j, four[r]);
      else v_store_part(scores + r * stride + j, four[r], left);
    }
  }
}

static void score_two(float *scores, size_t stride, const float *const *q, const float *keys, size_t n, size_t head_dim) {
  score_rows(scores, stride, q, 2, keys, n, head_dim);
}

static void score_one(float *scores, const float *const *q, const float *keys, size_t n, size_t head_dim) {
  score_rows(scores, 0, q, 1, keys, n, head_dim);
}

/* ---- The mean of the values ---- */

/* context[r][d … d + 4·width) += Σ_j probs[r·stride + j] · values[j][d …], n_q · width = 8 sums in registers. */
INLINE void value_columns(float *const *context, size_t n_q, size_t width, const float *probs, size_t stride, const float *values,
                          size_t n, size_t head_dim, size_t d) {
  v_f32 sum[8];
  for (size_t r = 0; r < n_q; r++)
    for (size_t c = 0; c < width; c++) sum[r * width + c] = v_load(context[r] + d + c * V_LANES);
  for (size_t j = 0; j < n; j++)
    for (size_t r = 0; r < n_q; r++) {
      v_f32 p = v_splat(probs[r * stride + j]);
      for (size_t c = 0; c < width; c++)
        sum[r * width + c] = v_madd(p, v_load(values + j * head_dim + d + c * V_LANES), sum[r * width + c]);
    }
  for (size_t r = 0; r < n_q; r++)
    for (size_t c = 0; c < width; c++) v_store(context[r] + d + c * V_LANES, sum[r * width + c]);
}

INLINE void value_rows(float *const *context, size_t n_q, const float *probs, size_t stride,
                       const float *values, size_t n, size_t head_dim) {
  size_t width = 8 / n_q, d = 0;
  for (; d + width * V_LANES <= head_dim; d += width * V_LANES)
    value_columns(context, n_q, width, probs, stride, values, n, head_dim, d);
  for (; d + V_LANES <= head_dim; d += V_LANES) value_columns(context, n_q, 1, probs, stride, values, n, head_dim, d);
  for (; d < head_dim; d++)
    for (size_t r = 0; r < n_q; r++)
      for (size_t j = 0; j < n; j++) context[r][d] = probs[r * stride + j] * values[j * head_dim + d] + context[r][d];
}

static void value_four(float *const *context, const float *probs, size_t stride, const float *values, size_t n, size_t head_dim) {
  value_rows(context, 4, probs, stride, values, n, head_dim);
}

static void value_one(float *const *context, const float *probs, const float *values, size_t n, size_t head_dim) {
  value_rows(context, 1, probs, 0, values, n, head_dim);
}

/* ---- A block of rows ---- */

typedef struct job {
  const hd_attention_shape *shape;
  float *context, *probs;   /* [n, heads, head_dim]; NULL or [heads, n, total] */
  const float *q, *keys, *values;
  float *scratch;           /* [HD_POOL_MAX, ROWS, total] */
  size_t group, blocks;     /* heads a key/value head has; blocks of its rows */
} job;

typedef struct block {
  size_t n, begin, limit;   /* rows; the positions from begin to limit are those that any of them sees */
  size_t first[ROWS], seen[ROWS], place[ROWS]; /* it sees the positions from first to seen; its row among [heads, n] */
  const float *q[ROWS];
  float *context[ROWS];
} block;

/* The first position that the query behind `seen` of them sees. */
static size_t first_seen(const hd_attention_shape *s, size_t seen) { return s->window && seen > s->window ? seen - s->window : 0; }

static block block_of(const job *j, size_t kv_head, size_t first) {
  const hd_attention_shape *s = j->shape;
  block b = {.begin = SIZE_MAX};
  for (size_t row = first; row < j->group * s->n && b.n < ROWS; row++, b.n++) {
    size_t head = kv_head * j->group + row / s->n, i = row % s->n, at = (i * s->heads + head) * s->head_dim;
    b.q[b.n] = j->q + at;
    b.context[b.n] = j->context + at;
    b.place[b.n] = head * s->n + i;
    b.seen[b.n] = s->causal ? s->past + i + 1 : s->past + s->n;
    b.first[b.n] = first_seen(s, b.seen[b.n]);
    b.begin = b.first[b.n] < b.begin ? b.first[b.n] : b.begin;
    b.limit = b.seen[b.n] > b.limit ? b.seen[b.n] : b.limit;
  }
  return b;
}

/* row = cap · tanh(row · scale / cap) */
static void cap_scores(float *row, size_t n, float scale, float cap) {
  v_f32 inward = v_splat(scale / cap), outward = v_splat(cap);
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) v_store(row + i, v_mul(outward, v_tanh(v_mul(v_load(row + i), inward))));
  if (i < n) v_store_part(row + i, v_mul(outward, v_tanh(v_mul(v_load_part(row + i, n - i), inward))), n - i);
}

static void softmax_rows(const job *j, const block *b, float *scores, size_t total) {
  const hd_attention_shape *s = j->shape;
  for (size_t r = 0; r < b->n; r++) {
    float *row = scores + r * total, *seen = row + b->first[r];
    size_t n = b->seen[r] - b->first[r];
    if (s->cap > 0) cap_scores(seen, n, s->scale, s->cap);
    k_softmax_f32(seen, seen, n, s->cap > 0 ? 1 : s->scale);
    memset(row, 0, b->first[r] * sizeof *row);
    memset(row + b->seen[r], 0, (total - b->seen[r]) * sizeof *row);
    if (j->probs) memcpy(j->probs + b->place[r] * total, row, total * sizeof *row);
  }
}

static void weigh_values(const block *b, const float *scores, size_t total, const float *values, size_t head_dim) {
  for (size_t r = 0; r < b->n; r++) memset(b->context[r], 0, head_dim * sizeof(float));
  for (size_t j = b->begin; j < b->limit; j += POSITIONS) {
    size_t n = b->limit - j < POSITIONS ? b->limit - j : POSITIONS;
    if (b->n == ROWS) value_four(b->context, scores + j, total, values + j * head_dim, n, head_dim);
    else
      for (size_t r = 0; r < b->n; r++) value_one(b->context + r, scores + r * total + j, values + j * head_dim, n, head_dim);
  }
}

static void attend_blocks(void *context, size_t begin, size_t end, size_t thread) {
  const job *j = context;
  const hd_attention_shape *s = j->shape;
  size_t total = s->past + s->n;
  float *scores = j->scratch + thread * ROWS * total;
  for (size_t item = begin; item < end; item++) {
    size_t kv_head = item / j->blocks;
    size_t cache = kv_head * s->capacity * s->head_dim;
    block b = block_of(j, kv_head, item % j->blocks * ROWS);
    const float *keys = j->keys + cache + b.begin * s->head_dim;
    size_t r = 0, n = b.limit - b.begin;
    for (; r + 2 <= b.n; r += 2) score_two(scores + r * total + b.begin, total, b.q + r, keys, n, s->head_dim);
    if (r < b.n) score_one(scores + r * total + b.begin, b.q + r, keys, n, s->head_dim);
    softmax_rows(j, &b, scores, total);
    weigh_values(&b, scores, total, j->values + cache, s->head_dim);
  }
}

void k_attention_f32(float *context, float *probs, const float *q, const float *keys, const float *values,
                     const hd_attention_shape *shape, void *scratch) {
  if (shape->n == 0) return;
  size_t group = shape->heads / shape->kv_heads, blocks = (group * shape->n + ROWS - 1) / ROWS;
  job j = {shape, context, probs, q, keys, values, scratch, group, blocks};
  size_t block_work = ROWS * (shape->past + shape->n) * shape->head_dim, grain = 16384 / (block_work + 1) + 1;
  hd_pool_run(attend_blocks, &j, shape->kv_heads * blocks, grain);
}

size_t k_attention_scratch_bytes(const hd_attention_shape *shape) {
  return hd_times(hd_plus(shape->past, shape->n), HD_POOL_MAX * ROWS * sizeof(float));
}

/* ---- Gradients ---- */

static float dot(const float *a, const float *b, size_t n) {
  v_f32 sum = v_zero();
  size_t i = 0;
  for (; i + V_LANES <= n; i += V_LANES) sum = v_madd(v_load(a + i), v_load(b + i), sum);
  if (i < n) sum = v_madd(v_load_part(a + i, n - i), v_load_part(b + i, n - i), sum);
  return v_sum(sum);
}

typedef struct grad_job {
  const hd_attention_shape *shape;
  float *d_q, *d_k, *d_v;
  const float *d_context, *probs, *q, *k, *v;
} grad_job;

/* tanh's slope at x */
static float cap_slope(float x) {
  float t = V_GET(v_tanh(v_splat(x)), 0);
  return 1 - t * t;
}

/* One query of one head. d_p[j] = d_context · v[j]; d_score = p · (d_p − Σ p·d_p) · scale. d_p is computed twice rather than kept. */
static void query_grad(const grad_job *g, size_t head, size_t i) {
  const hd_attention_shape *s = g->shape;
  size_t kv_head = head / (s->heads / s->kv_heads), head_dim = s->head_dim, stride = s->kv_heads * head_dim;
  size_t at = (i * s->heads + head) * head_dim, cache = kv_head * head_dim, seen = s->causal ? i + 1 : s->n, first = first_seen(s, seen);
  const float *probs = g->probs + (head * s->n + i) * s->n;
  double along = 0.0;
  for (size_t j = first; j < seen; j++) along += (double)probs[j] * (double)dot(g->d_context + at, g->v + cache + j * stride, head_dim);
  for (size_t j = first; j < seen; j++) {
    size_t position = cache + j * stride;
    float d_p = dot(g->d_context + at, g->v + position, head_dim);
    float d_score = probs[j] * (d_p - (float)along) * s->scale;
    if (s->cap > 0) d_score *= cap_slope(dot(g->q + at, g->k + position, head_dim) * s->scale / s->cap);
    k_axpy_f32(g->d_q + at, d_score, g->k + position, head_dim);
    k_axpy_f32(g->d_k + position, d_score, g->q + at, head_dim);
    k_axpy_f32(g->d_v + position, probs[j], g->d_context + at, head_dim);
  }
}

/* Heads that share a key/value head add to the same d_k and d_v: one thread takes them all. */
static void kv_heads_grad(void *context, size_t begin, size_t end, size_t thread) {
  (void)thread;
  const grad_job *g = context;
  size_t group = g->shape->heads / g->shape->kv_heads;
  for (size_t head = begin * group; head < end * group; head++)
    for (size_t i = 0; i < g->shape->n; i++) query_grad(g, head, i);
}

void k_attention_grad_f32(float *d_q, float *d_k, float *d_v, const float *d_context, const float *probs, const float *q,
                          const float *k, const float *v, const hd_attention_shape *shape) {
  grad_job g = {shape, d_q, d_k, d_v, d_context, probs, q, k, v};
  hd_pool_run(kv_heads_grad, &g, shape->kv_heads, 1);
}
