/* graph/adapters.h: LoRA adapters ("LoRA: Low-Rank Adaptation of Large Language Models", Hu et al., 2021) as pairs on parameters. */
#ifndef HD_GRAPH_ADAPTERS_H
#define HD_GRAPH_ADAPTERS_H

#include "graph/graph.h"

struct hd_adapter {
  hd_model *model;
  hd_lora *pairs;        /* one per parameter of the model; rank 0: none */
  float **data;          /* what the pairs point to: a and b of each */
  size_t *merged;        /* one per parameter: its n_sets + 1 when the pair was added to it; 0: the pair is not in it */
  size_t max_rank;
  size_t n_users;        /* sessions that have it active */
};

/* Whether a weight has the adapter in it. One that was set since has not. */
bool hd_adapter_is_merged(const hd_adapter *adapter);

#endif
