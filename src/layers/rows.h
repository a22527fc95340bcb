/* layers/rows.h: every layer type's row, and the configs of those that other layers and families are built from. */
#ifndef HD_LAYERS_ROWS_H
#define HD_LAYERS_ROWS_H

#include "kernels/elementwise.h"
#include "layers/layer.h"

extern const hd_layer hd_layer_dense, hd_layer_linear, hd_layer_activation, hd_layer_softmax, hd_layer_embedding,
  hd_layer_rms_norm, hd_layer_multi_head_attention, hd_layer_swiglu, hd_layer_sequential, hd_layer_residual,
  hd_layer_parallel, hd_layer_loom_gate, hd_layer_kmeans, hd_layer_last_rows, hd_layer_as_rows, hd_layer_output, hd_layer_add,
  hd_layer_add_carried, hd_layer_multiply, hd_layer_rope_table, hd_layer_rope, hd_layer_attention;

extern const hd_layer hd_layer_conv1d, hd_layer_conv2d, hd_layer_conv_transpose1d, hd_layer_conv_transpose2d, hd_layer_convolution,
  hd_layer_rnn, hd_layer_lstm, hd_layer_gru, hd_layer_recurrent, hd_layer_layer_norm, hd_layer_group_norm, hd_layer_instance_norm,
  hd_layer_batch_norm, hd_layer_join, hd_layer_columns, hd_layer_prelu,
  hd_layer_max_pool1d, hd_layer_max_pool2d, hd_layer_avg_pool1d, hd_layer_avg_pool2d,
  hd_layer_adaptive_avg_pool1d, hd_layer_adaptive_avg_pool2d,
  hd_layer_flatten, hd_layer_slice, hd_layer_pad, hd_layer_dropout, hd_layer_glu, hd_layer_embedding_bag, hd_layer_sum_rows, hd_layer_swap,
  hd_layer_sinusoidal_positions, hd_layer_learned_positions, hd_layer_rotary_positions, hd_layer_torch_attention,
  hd_layer_transformer_encoder_layer, hd_layer_transformer_encoder, hd_layer_softmax_over, hd_layer_log_softmax,
  hd_layer_mixture_of_experts, hd_layer_experts, hd_layer_text_embeddings, hd_layer_token_types, hd_layer_pooler, hd_layer_first_row;

/* Which elements share a mean. moments.c */
typedef enum hd_moments_over { HD_OVER_ROWS, HD_OVER_CHANNELS, HD_OVER_BATCH } hd_moments_over;

typedef struct hd_moments_config {
  hd_moments_over over;
  int n_dims;              /* of a row (layer norm) or 1 */
  size_t shape[HD_MAX_DIMS];
  size_t size;             /* elements of a row; channels of the others */
  size_t n_groups;         /* HD_OVER_CHANNELS; 0: as many as channels */
  float epsilon;
  bool weight, bias, running;
  size_t rows;             /* Loom's layer_norm: so many rows, and zeros behind them */
} hd_moments_config;

/* A layer_norm over rows of `size`: its config, and inside another layer. */
hd_moments_config hd_layer_norm_of(size_t size, float epsilon, bool bias);
hd_value hd_build_layer_norm(hd_builder *b, const char *name, const char *weights, size_t size, float epsilon, bool bias, hd_value x);

typedef struct hd_linear_config {
  size_t in_features, out_features;
  bool bias;
  bool in_out;         /* a weight file has the matrix as [in_features, out_features] (GPT-2's Conv1D) */
  size_t fixed_rows;   /* Loom: always this many rows; a short input is padded with zeros, the rest of a long one is not read.
                        * 0: the input's */
  const char *weight_role, *bias_role; /* where a file has other names than "weight" and "bias"; they outlive the graph */
} hd_linear_config;

typedef struct hd_activation_config {
  const hd_activation *activation;
  bool has_parameters;  /* other ones than its defaults */
  float parameters[2];
} hd_activation_config;

/* Loom's answer to a layer that cannot run: the outermost layer around the spec being expanded passes its input through. parallel.c */
hd_value hd_build_failure(hd_builder *b, hd_value input);

/* Loom's activations, by the names its files have; every name it does not know is its relu. And back: NULL for one that Loom lacks. */
const hd_activation *hd_loom_activation(const char *name);
const char *hd_loom_activation_name(const hd_activation *activation);
/* A layer's "activation" in its dialect, NULL for linear; and back. */
const hd_activation *hd_parse_activation(hd_parse *p);
hd_status hd_write_activation(const hd_activation *activation, cJSON *json, hd_dialect dialect, hd_error *err);

typedef struct hd_dense_config {
  hd_linear_config linear;
  const hd_activation *activation; /* NULL: linear */
} hd_dense_config;

typedef struct hd_embedding_config {
  size_t vocab_size, embedding_dim;
  float scale;          /* of the rows; 0: none */
  size_t n_types;       /* ids go on beyond the vocabulary: id + vocab_size · type; 0: they do not */
  bool unknown_is_zero; /* Loom: ids out of range give zeros; else they are an error */
  bool has_padding;     /* the row `padding` gets no gradient */
  size_t padding;
} hd_embedding_config;

/* The id at `index` of a value of I32 or of F32, or −1 where it is not below n. embedding.c */
int64_t hd_id_at(const hd_view *ids, size_t index, size_t n);

typedef struct hd_positions_config {
  size_t width;
  size_t most;          /* learned: rows of the weight; sinusoidal: 0 is no limit */
  bool positions_first;
} hd_positions_config;

typedef struct hd_sum_rows_config {
  bool mean;
} hd_sum_rows_config;

typedef struct hd_columns_config {
  size_t first, n;
} hd_columns_config;

enum { HD_SOFTMAX_UNUSED = 3 };

typedef struct hd_softmax_config {
  const char *name;         /* the variant as declared */
  const struct hd_softmax_variant *variant;
  double temperature;       /* as declared; `applied` is what counts */
  float applied;
  bool loom, cannot_run;    /* Loom: settings are missing, so that it is plain softmax */
  size_t parts;             /* Loom: of the whole value; 0: rows */
  size_t fit;               /* Loom's gates: so many values, cut or filled up with zeros. 0: the input's */
  double alpha;
  size_t rows, cols;
  const bool *mask;         /* true: kept */
  size_t n_mask;
  const size_t *levels;
  size_t n_levels;
  uint64_t seed;
  const char *unused[HD_SOFTMAX_UNUSED]; /* JSON that is only kept */
} hd_softmax_config;

/* Sets `variant` and `applied` for c->loom; false: no such variant. */
bool hd_softmax_set_variant(hd_softmax_config *c, const char *name, double temperature);
/* Whether the variant has the settings it needs. */
bool hd_softmax_can_run(const hd_softmax_config *c, hd_place place);


typedef struct hd_as_rows_config {
  size_t width;
} hd_as_rows_config;

typedef struct hd_norm_config {
  size_t size;
  float epsilon;
  bool no_weight;
  bool plus_one;       /* the weight holds what is added to 1 (Gemma) */
  bool flat;           /* rows of `size` whatever the shape (Loom's; heads); a tail shorter than a row becomes 0 */
} hd_norm_config;

/* How frequencies are changed for contexts longer than those of training. rope_scaling.c */
typedef enum hd_rope_kind { HD_ROPE_PLAIN, HD_ROPE_LINEAR, HD_ROPE_DYNAMIC, HD_ROPE_YARN, HD_ROPE_LLAMA3, HD_ROPE_LONG } hd_rope_kind;

typedef struct hd_rope_table_config {
  size_t head_dim;     /* values of a head that are turned */
  double theta;
  bool exact;          /* Loom: angles in double; else rounded to float32 as PyTorch's are */
  hd_rope_kind kind;
  double factor;       /* all but HD_ROPE_PLAIN */
  double original;     /* positions of the training; all but HD_ROPE_PLAIN and HD_ROPE_LINEAR */
  double low, high;    /* llama3: low_freq_factor, high_freq_factor; yarn: beta_slow, beta_fast */
  double magnitude;    /* of cosines and sines; 0: 1 */
  const float *short_factors, *long_factors; /* HD_ROPE_LONG: [head_dim / 2], up to `original` positions and beyond */
} hd_rope_table_config;

/* What Hugging Face's rope_scaling or rope_parameters says, over what c has: head_dim, theta,
 * original. `positions`: the model's context. */
void hd_rope_parse(hd_rope_table_config *c, const hd_json *rope, size_t positions, hd_arena *arena);
/* The same back, as a member "rope_scaling" where there is any. */
void hd_rope_write(const hd_rope_table_config *c, cJSON *json);
/* The angle that one position turns the pair d in a call that ends after `length` positions. */
double hd_rope_frequency(const hd_rope_table_config *c, size_t d, size_t length);
/* A node of its own for each config, or the one that layers share. */
hd_value hd_build_rope_table(hd_builder *b, const hd_rope_table_config *c, hd_value x);

typedef struct hd_rope_config {
  size_t head_dim;
  size_t turned;       /* the first values of a head; 0: all */
} hd_rope_config;

typedef struct hd_attention_config {
  size_t heads, kv_heads, head_dim;
  float scale;
  bool causal;
  bool cache; /* keys and values stay in the session, so that the next call continues */
  size_t window; /* a query sees so many positions, itself the last; 0: all */
  float cap;  /* of the scores: cap · tanh(score / cap); 0: none */
} hd_attention_config;

enum { HD_PROJECTIONS = 4 };

typedef struct hd_multi_head_attention_config {
  size_t d_model;
  hd_attention_config attention;
  bool qkv_bias, out_bias;
  bool in_out;       /* a weight file has the matrices as [in, out] */
  bool head_norm;    /* an RMS norm over each head's queries, and keys, before they are turned */
  bool norm_plus_one;
  float norm_epsilon;
  hd_rope_table_config rope; /* theta 0: no positions */
  const char *projections[HD_PROJECTIONS]; /* weights' names: of q, k, v and out; two: q, k and v in one matrix, and out; none: q_proj, … */
  hd_place place;
  size_t seq_length; /* Loom's: kept, never used */
} hd_multi_head_attention_config;

typedef struct hd_swiglu_config {
  size_t d_model, hidden;
  bool bias;
  bool fused; /* gate and up lie in one matrix, gate_up_proj */
  const hd_activation *activation;
} hd_swiglu_config;

typedef struct hd_text_embeddings_config {
  size_t vocab_size, width, n_types, most; /* most: positions */
} hd_text_embeddings_config;

typedef struct hd_pooler_config {
  size_t width;
  bool aside; /* the value goes on as it was; "pooler_output" is beside it */
} hd_pooler_config;

typedef struct hd_experts_config {
  size_t d_model, hidden; /* of an expert */
  size_t n_experts, n_chosen;
  bool renormalise;       /* the chosen ones' shares sum to 1 */
  bool mixtral_names;     /* w1, w3, w2 instead of gate_proj, up_proj, down_proj */
  const hd_activation *activation;
} hd_experts_config;

#endif
