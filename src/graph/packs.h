/* graph/packs.h: parameters whose values a file has in several tensors (format/packed.h), gathered while directories are added. */
#ifndef HD_GRAPH_PACKS_H
#define HD_GRAPH_PACKS_H

#include "format/packed.h"
#include "graph/graph.h"

/* One parameter's tensors, by their numbers in the loader. */
typedef struct hd_pack {
  int parameter;
  const hd_entry *entry[HD_N_PARTS]; /* NULL: no file has it */
  size_t tensor[HD_N_PARTS];
  bool open;                         /* all parts are there and fit */
  hd_packed packed;
} hd_pack;

typedef struct hd_packs {
  cJSON *quantization;               /* config.json's; NULL: it has none */
  hd_pack *items;
  size_t n;
} hd_packs;

/* Keeps what a description says of quantisation: its "quantization" or "quantization_config". */
hd_status hd_packs_describe(hd_packs *packs, const cJSON *description, hd_error *err);
/* Puts the tensor into the parameter's pack: number *pack, where that has parts already, else
 * (SIZE_MAX) a new one, whose number *pack becomes. */
hd_status hd_packs_add(size_t *pack, hd_packs *packs, int parameter, hd_part part, const hd_entry *entry, size_t tensor, hd_error *err);
/* Checks the pack's parts against each other and the parameter. One without scales, or without codes, stays closed: it is no pack. */
hd_status hd_packs_open(hd_packs *packs, hd_pack *pack, const hd_parameter *p, hd_error *err);
void hd_packs_free(hd_packs *packs);

#endif
