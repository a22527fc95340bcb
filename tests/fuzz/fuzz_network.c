/* A network's JSON up to its plan: layers parsed, expanded, their shapes inferred and placed. No weights are made, so that a size of
 * nonsense costs nothing and what is found is a bug. The first byte chooses the input's shape. */
#include "base/memory.h"
#include "run/plan.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Inputs that most of the layers' examples take. */
static hd_shape input_for(uint8_t choice) {
  hd_shape shape = {.dtype = choice & 64 ? HD_I32 : HD_F32, .n_dims = 1 + choice % 4};
  for (int d = 0; d < shape.n_dims; d++) shape.dim[d] = 1 + (size_t)(choice >> (d + 1)) % 8;
  return shape;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  size_t before = hd_memory_live();
  cJSON *json = NULL;
  hd_error err;
  hd_model *model = hd_model_new();
  if (model && hd_json_parse(&json, (const char *)data + 1, size - 1, &err) == HD_OK && hd_network_parse(model, json, "network", &err) == HD_OK &&
      hd_graph_expand(model, &err) == HD_OK) {
    hd_plan plan;
    hd_shape input = model->input.n_dims ? model->input : input_for(data[0]);
    const hd_sequence sequences[] = {{.rows = input.dim[0] - input.dim[0] / 2, .context = 8}, {.rows = input.dim[0] / 2}};
    const hd_run run = {.sequences = sequences, .n_sequences = data[0] & 64 && input.dim[0] > 1 ? 2 : 1, .keep = data[0] & 128};
    if (hd_plan_make(&plan, model, &input, model->output, &run, &err) == HD_OK) hd_plan_free(&plan);
  }
  hd_model_discard(model);
  if (hd_memory_live() != before) __builtin_trap(); /* a leak */
  return 0;
}
