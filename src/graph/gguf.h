/* graph/gguf.h: how a GGUF file names and lays out what a model's family calls otherwise. */
#ifndef HD_GRAPH_GGUF_H
#define HD_GRAPH_GGUF_H

#include "base/text.h"
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

/* The same back: the name in `room`, false where GGUF has none for the parameter. */
#define HD_GGUF_NAME_ROOM 128
bool hd_gguf_name(char room[HD_GGUF_NAME_ROOM], hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, size_t parameter);
/* What a config.json says, as names has it from metadata; unsupported where GGUF has no architecture for its model_type. */
hd_status hd_gguf_names_of_config(hd_gguf_names *names, const hd_json *config, hd_error *err);
/* What rope_freqs.weight holds for the config: *factors NULL where there is no such tensor. */
hd_status hd_gguf_rope_factors(float **factors, size_t *n, hd_arena *arena, const hd_gguf_names *names, const hd_json *config, hd_error *err);
/* The metadata of a config.json, as members of a JSON object: ,"llama.block_count":5 …; those whose keys are in `given` are left out. */
hd_status hd_gguf_write_config(hd_text *t, const hd_gguf_names *names, const hd_json *config, const hd_directory *given, hd_error *err);

/* Rows of interleaved heads in the order of the halves: file rows of `row_bytes` each, a whole number of heads of head_dim rows. to ≠ from. */
void hd_gguf_part_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes);
/* The same back. */
void hd_gguf_interleave_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes);

#endif
