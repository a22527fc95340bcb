/* graph/arch.h: model families. A family is one arch_*.c file that turns a Hugging Face config.json into the same specs a network's JSON
 * gives, under the weights' names in its checkpoints, and one line in the table of arch.c. */
#ifndef HD_GRAPH_ARCH_H
#define HD_GRAPH_ARCH_H

#include "graph/graph.h"

typedef struct hd_arch {
  const char *name;
  const char *(*model_type)(size_t index); /* what config.json's model_type says for it; NULL past the last */
  hd_status (*build)(hd_model *model, size_t type, const hd_json *config, hd_error *err); /* type: which of them it says */
} hd_arch;

extern const hd_arch hd_arch_llama, hd_arch_gemma, hd_arch_gpt2, hd_arch_bert;

const hd_arch *hd_arch_find(const char *model_type);
/* Adds the specs of a config.json of the family. */
hd_status hd_arch_build(const hd_arch *arch, hd_model *model, const hd_json *config, hd_error *err);
/* The family of a config.json, or NULL where its model_type is not known; a refusal says what the
 * model is instead, where its names tell. */
hd_status hd_arch_choose(const hd_arch **out, const hd_json *config, hd_error *err);
/* "llama, qwen2, …": for messages. */
const char *hd_arch_list(char *room, size_t n);
/* arch_unknown.c: the family of a config whose type is not known, by the tensors' names; the config is completed, the model warned. */
hd_status hd_arch_guess(const hd_arch **out, hd_model *model, cJSON *config, const hd_directory *directory, hd_error *err);
/* A tensor of such a file that fills no weight: refused, but for what is no weight. */
hd_status hd_arch_refuse_unplaced(const char *tensor, hd_error *err);
/* A weight's name without what is written before it ("model.", "transformer."), which a checkpoint may have or not. */
const char *hd_arch_bare_name(const char *name);
/* What a layer norm's weight of an older name (…gamma, …beta) is called today, in `room`; NULL: it is no such name. */
const char *hd_arch_newer_name(char *room, size_t n, const char *name);

#endif
