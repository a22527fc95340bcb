/* arch_unknown.c: a config.json whose model_type no family has. Many are Llama under another name: where a file's tensors have Llama's
 * names the model is run as that, with a warning, and every tensor must have its place. Anything else is refused by what was found. */
#include "graph/arch.h"
#include "graph/assemble.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

/* The first tensors' names, for a refusal. */
static const char *some_names(char *room, size_t n, const hd_directory *directory) {
  size_t at = 0, count = hd_directory_count(directory);
  char name[HD_NAME_ROOM];
  room[0] = 0;
  for (size_t i = 0; i < count && i < 4 && at < n; i++)
    at += (size_t)snprintf(room + at, n - at, "%s%.80s", i ? ", " : "", hd_short_name(name, hd_directory_entry(directory, i)->name));
  if (count > 4 && at < n) snprintf(room + at, n - at, ", … (%zu)", count);
  return room;
}

/* Llama's or, with norms on queries and keys, Qwen3's. */
static bool assemble(cJSON *config, const hd_directory *directory, bool *ok) {
  cJSON_DeleteItemFromObjectCaseSensitive(config, "model_type");
  if (hd_directory_find(directory, "model.layers.0.self_attn.q_norm.weight"))
    *ok = cJSON_AddStringToObject(config, "model_type", "qwen3") != NULL;
  return *ok && hd_assemble_llama(config, directory, ok);
}

hd_status hd_arch_guess(const hd_arch **out, hd_model *model, cJSON *config, const hd_directory *directory, hd_error *err) {
  const cJSON *given = cJSON_GetObjectItemCaseSensitive(config, "model_type");
  char type[HD_NAME_ROOM], list[256], names[512];
  bool ok = true;
  hd_short_name(type, cJSON_IsString(given) ? given->valuestring : "");
  bool is_llama = assemble(config, directory, &ok);
  if (!ok) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to describe the model");
  if (!is_llama)
    return hd_fail(err, HD_UNSUPPORTED,
                   "config.json: model_type '%s' is not known; known: %s. The file's tensors are not called as Llama's are either: %s",
                   type, hd_arch_list(list, sizeof list), some_names(names, sizeof names, directory));
  const char *as = cJSON_GetObjectItemCaseSensitive(config, "model_type")->valuestring;
  *out = hd_arch_find(as);
  return hd_model_warn(model, err, "model_type '%s' is not known; its tensors have Llama's names, so it is run as %s", type, as);
}

hd_status hd_arch_refuse_unplaced(const char *tensor, hd_error *err) {
  const char *ending = strrchr(tensor, '.');
  char room[HD_NAME_ROOM];
  if (ending && strcmp(ending, ".inv_freq") == 0) return HD_OK; /* rotary frequencies that old files carry */
  return hd_fail(err, HD_UNSUPPORTED, "tensor %s: its model_type is not known, and as Llama it has no place for this",
                 hd_short_name(room, tensor));
}
