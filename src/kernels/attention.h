/* kernels/attention.h: rotary position embedding and scaled dot-product attention over a key/value cache. */
#ifndef HD_KERNELS_ATTENTION_H
#define HD_KERNELS_ATTENTION_H

#include "heddle.h"

/* y[n, heads, head_dim]: the half-split rotation of "RoFormer" as Llama uses it, over each head's first
 * `turned` values: for d < half = turned/2
 *   y[d] = x[d]·cos[d] − x[d+half]·sin[d],  y[d+half] = x[d+half]·cos[d+half] + x[d]·sin[d+half].
 * The rest is copied. cos, sin: [n, turned]. sign −1 turns the other way (the gradient). y may be x. */
void k_rope_f32(float *y, const float *x, const float *cos, const float *sin, size_t n, size_t heads, size_t head_dim,
                size_t turned, float sign);

typedef struct hd_attention_shape {
  size_t n;          /* queries */
  size_t past;       /* positions in the cache before them; keys are positions 0 … past + n − 1 */
  size_t capacity;   /* positions a head's cache has room for */
  size_t heads, kv_heads, head_dim; /* query head h uses key/value head h / (heads / kv_heads) */
  float scale;       /* of the scores, usually 1/√head_dim */
  bool causal;       /* query i sees positions up to past + i */
  size_t window;     /* and of those only the nearest so many, itself included; 0: all. Causal only */
  float cap;         /* scores become cap · tanh(score / cap) before the softmax; 0: they stay */
} hd_attention_shape;

/* context[n, heads, head_dim] = softmax(capped(q·kᵀ·scale)) · v.  q: [n, heads, head_dim]; keys, values: [kv_heads, capacity, head_dim].
 * probs: NULL, or [heads, n, past + n], filled (hidden positions 0). scratch: attention_scratch_bytes. Splits heads over the pool. */
void k_attention_f32(float *context, float *probs, const float *q, const float *keys, const float *values,
                     const hd_attention_shape *shape, void *scratch);
size_t k_attention_scratch_bytes(const hd_attention_shape *shape); /* covers any smaller n and past too; SIZE_MAX: too large */

/* Gradients with past = 0 and the probs of the forward: d_q [n, heads, head_dim], d_k, d_v [n, kv_heads, head_dim], all +=.
 * k, v: [n, kv_heads, head_dim]. Splits the key/value heads over the pool. */
void k_attention_grad_f32(float *d_q, float *d_k, float *d_v, const float *d_context, const float *probs, const float *q,
                          const float *k, const float *v, const hd_attention_shape *shape);

#endif
