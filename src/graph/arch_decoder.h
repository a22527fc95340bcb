/* graph/arch_decoder.h: the decoder that Llama's relatives have in common. A family reads its
 * config.json into hd_decoder; what comes out is
 *
 *   embedding → n × [ x + attention(norm(x)) → x + feed_forward(norm(x)) ] → norm → head (tied to the embedding, or its own)
 *
 * with the weights' names of Hugging Face's checkpoints and values called as in PyTorch traces ("layers.0.q_rope"). */
#ifndef HD_GRAPH_ARCH_DECODER_H
#define HD_GRAPH_ARCH_DECODER_H

#include "graph/arch_config.h"

/* What a block has that others have not. */
enum { HD_BLOCK_WINDOW = 1, HD_BLOCK_NO_ROPE = 2, HD_BLOCK_EXPERTS = 4 };

typedef struct hd_decoder {
  size_t hidden_size, intermediate_size, n_layers, heads, kv_heads, head_dim, vocab_size, context;
  size_t window;          /* of the blocks with HD_BLOCK_WINDOW */
  float rms_norm_eps;
  float score_scale;      /* 0: 1/√head_dim */
  float score_cap, logit_cap, embedding_scale; /* 0: none */
  bool qkv_bias, out_bias, mlp_bias, tied;
  bool fused;             /* qkv_proj and gate_up_proj */
  bool head_norm;         /* q_norm and k_norm */
  bool norm_plus_one;     /* norms multiply by 1 + weight */
  bool outer_norms;       /* what attention and feed-forward give is normed too, before it is added (Gemma 2) */
  hd_experts_config experts; /* of the blocks with HD_BLOCK_EXPERTS, whose weights are `experts_weights`.experts.N.… */
  const char *experts_weights; /* "model.layers.%zu.mlp." */
  const hd_activation *activation;
  hd_rope_table_config rope, window_rope; /* window_rope: of the blocks with HD_BLOCK_WINDOW; theta 0: the same */
  uint8_t *blocks;        /* [n_layers]; NULL: all plain */
  size_t n_labels;        /* a classifier's; 0: a language model */
} hd_decoder;

/* The keys that all have: sizes, epsilon, context, tie. `missing` holds the family's defaults: kv_heads (0: one for each head), head_dim
 * (0: its share of the width), context, tied. */
hd_decoder hd_decoder_read(const hd_json *j, const hd_decoder *missing);
/* The blocks' bits from layer_types, or NULL where config.json has none (or memory is out, which is recorded). */
uint8_t *hd_decoder_layer_types(hd_model *m, const hd_json *j, size_t n_layers);
/* n_layers zeros. */
uint8_t *hd_decoder_blocks(hd_model *m, const hd_json *j, size_t n_layers);
hd_status hd_decoder_build(hd_model *m, const hd_decoder *c, hd_error *err);

#endif
