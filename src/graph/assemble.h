/* graph/assemble.h: descriptions of networks whose tensors say by name and shape how they belong together. */
#ifndef HD_GRAPH_ASSEMBLE_H
#define HD_GRAPH_ASSEMBLE_H

#include "base/json.h"
#include "format/bundle.h"
#include "heddle.h"

/* Whether the directory has Llama's tensors. `config` (an object) is completed by what they show; *ok is false when memory ran out. */
bool hd_assemble_llama(cJSON *config, const hd_directory *directory, bool *ok);

/* Whether the directory has the weights of one recurrent layer (of any depth, one way or both) and nothing else; writes the network's spec then. */
bool hd_assemble_recurrent(hd_text *t, const hd_directory *directory);

#endif
