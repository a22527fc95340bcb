/* graph/arch_config.h: what the config.json of every family says alike, and specs as families make them. */
#ifndef HD_GRAPH_ARCH_CONFIG_H
#define HD_GRAPH_ARCH_CONFIG_H

#include "graph/arch.h"
#include "layers/rows.h"

/* No model is near these; they keep products of two sizes inside 32 bits where a file asks for nonsense. */
enum { HD_MAX_WIDTH = 1 << 20, HD_MAX_LAYERS = 1024, HD_MAX_VOCABULARY = 1 << 24, HD_MAX_CONTEXT = 1 << 24 };

/* A size from 1 to `most`; `missing` 0: the key is needed. */
size_t hd_config_size(const hd_json *j, const char *key, size_t missing, size_t most);
/* The activation of that key, by transformers' names. */
const hd_activation *hd_config_activation(const hd_json *j, const char *key, const char *missing);
/* Heads that share the width among them; `missing` 0: the key is needed. */
size_t hd_config_heads(const hd_json *j, const char *key, size_t missing, size_t width);
/* Refuses heads that do not fit their key/value heads, the width or each other. */
void hd_config_check_heads(const hd_json *j, size_t heads, size_t kv_heads, size_t head_dim);
/* Rotary positions in both spellings: rope_theta and rope_scaling of version 4, rope_parameters of version 5, there below
 * `layer_type` where it says it for each (Gemma 3). */
hd_rope_table_config hd_config_rope(const hd_json *j, size_t head_dim, double theta, size_t positions,
                                    const char *layer_type, hd_arena *arena);
/* Whether one of "architectures" ends so: "ForSequenceClassification". */
bool hd_config_is_for(const hd_json *j, const char *ending);
/* Labels of a classifier: those of id2label, or num_labels, or 2. */
size_t hd_config_labels(const hd_json *j);
/* Tokens in, as all language models take them. */
void hd_config_tokens(hd_model *m, size_t context);

/* A spec under a value's and a weight's name, each a format of one index; NULL when out of memory. */
hd_spec *hd_arch_spec(hd_model *m, const hd_layer *layer, const char *name, const char *weights, size_t index, const void *config);
/* A layer norm with weight and bias. */
hd_spec *hd_arch_layer_norm(hd_model *m, const char *name, const char *weights, size_t index, size_t width, float epsilon);
/* x + children(x), of n specs; NULL sticks. */
hd_spec *hd_arch_residual(hd_model *m, const char *name, size_t index, hd_spec *const *children, size_t n);

#endif
