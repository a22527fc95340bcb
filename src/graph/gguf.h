/* graph/gguf.h: how a GGUF file names and lays out what a model's family calls otherwise. */
#ifndef HD_GRAPH_GGUF_H
#define HD_GRAPH_GGUF_H

#include "graph/graph.h"

typedef struct hd_gguf_architecture hd_gguf_architecture;

/* What a GGUF file's metadata say about its tensors; architecture NULL: nothing, they are taken as they are. */
typedef struct hd_gguf_names {
  const hd_gguf_architecture *architecture;
  size_t heads, kv_heads;
} hd_gguf_names;

/* How a tensor's values differ from the parameter's. `heads`: the two halves of each head's rows lie interleaved, 0: they do not.
 * `plus_one`: a norm's weights have 1 added. */
typedef struct hd_gguf_order {
  size_t heads;
  bool plus_one;
} hd_gguf_order;

/* Fails where the head counts are not numbers. */
hd_status hd_gguf_recognise(hd_gguf_names *names, const hd_directory *directory, hd_error *err);
/* The parameter that a file's tensor is, and how it lies there; −1: none. */
int hd_gguf_find(hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, const char *tensor);

/* Rows of interleaved heads in the order of the halves: file rows of `row_bytes` each, a whole number of heads of head_dim rows. to ≠ from. */
void hd_gguf_part_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes);
/* The same back. */
void hd_gguf_interleave_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes);

#endif
