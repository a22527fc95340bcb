/* arch.c: the table of model families, by config.json's model_type. */
#include "graph/arch.h"

#include <stdio.h>
#include <string.h>

static const hd_arch *const families[] = {
  &hd_arch_llama,
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

const hd_arch *hd_arch_find(const char *model_type) {
  for (size_t f = 0; f < N_FAMILIES; f++)
    for (const char *const *type = families[f]->model_types; *type; type++)
      if (strcmp(*type, model_type) == 0) return families[f];
  return NULL;
}

const char *hd_arch_list(char *room, size_t n) {
  size_t at = 0;
  room[0] = 0;
  for (size_t f = 0; f < N_FAMILIES; f++)
    for (const char *const *type = families[f]->model_types; *type && at < n; type++)
      at += (size_t)snprintf(room + at, n - at, "%s%s", at ? ", " : "", *type);
  return room;
}
