/* graph/assemble.h: descriptions of networks whose tensors say by name and shape how they belong together. */
#ifndef HD_GRAPH_ASSEMBLE_H
#define HD_GRAPH_ASSEMBLE_H

#include "base/json.h"
#include "base/text.h"
#include "heddle.h"

/* Whether the directory has Llama's tensors. `config` (an object) is completed by what they show; *ok is false when memory ran out. */
bool hd_assemble_llama(cJSON *config, const hd_directory *directory, bool *ok);

/* Whether such a file lacks a norm: then hd_assemble_blocks may do with the rest. */
bool hd_assemble_lacks_norm(const hd_directory *directory);

/* Whether the directory has the weights of one recurrent layer (of any depth, one way or both) and
 * nothing else; writes the network's spec then. */
bool hd_assemble_recurrent(hd_text *t, const hd_directory *directory);

/* A network of a file's parts, or why there is none. */
typedef struct hd_assembly {
  hd_text network;     /* a network's spec */
  hd_text warnings;    /* JSON texts with commas between them: what was assumed, is missing, was left out */
  hd_status code;
  char refusal[512];   /* why there is none */
} hd_assembly;

/* blocks.c: attention, feed-forward and linear layers, norms and embeddings, one after another. `config` may be NULL. False: refused, or
 * network.failed. The caller frees both texts. */
bool hd_assemble_blocks(hd_assembly *out, const hd_directory *directory, const cJSON *config);

#endif
