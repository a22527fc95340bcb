/* graph/arch.h: model families. A family is one arch_*.c file that turns a Hugging Face config.json into the same specs a network's JSON
 * gives, under the weights' names in its checkpoints, and one line in the table of arch.c. */
#ifndef HD_GRAPH_ARCH_H
#define HD_GRAPH_ARCH_H

#include "graph/graph.h"

typedef struct hd_arch {
  const char *name;
  const char *const *model_types; /* NULL-terminated: config.json's model_type */
  hd_status (*build)(hd_model *model, const hd_json *config, hd_error *err);
} hd_arch;

extern const hd_arch hd_arch_llama, hd_arch_gemma, hd_arch_gpt2, hd_arch_bert;

const hd_arch *hd_arch_find(const char *model_type);
/* The family of a config.json, or NULL where its model_type is not known; a refusal says what the model is instead, where its names tell. */
hd_status hd_arch_choose(const hd_arch **out, const hd_json *config, hd_error *err);
/* "llama, qwen2, …": for messages. */
const char *hd_arch_list(char *room, size_t n);
/* arch_unknown.c: the family of a config whose type is not known, by the tensors' names; the config is completed, the model warned. */
hd_status hd_arch_guess(const hd_arch **out, hd_model *model, cJSON *config, const hd_directory *directory, hd_error *err);
/* A tensor of such a file that fills no weight: refused, but for what is no weight. */
hd_status hd_arch_refuse_unplaced(const char *tensor, hd_error *err);
/* A name without what says only where in a larger model, or under which class, it was saved. */
const char *hd_arch_bare_name(const char *name);
/* The spelling of today of a name that ends in "gamma" or "beta"; false: it ends in neither, or is too long. */
bool hd_arch_newer_name(char room[512], const char *name);

#endif
