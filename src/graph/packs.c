/* graph/packs.c: see packs.h. */
#include "graph/packs.h"

#include "base/memory.h"
#include "base/status.h"

#include <string.h>

hd_status hd_packs_describe(hd_packs *packs, const cJSON *description, hd_error *err) {
  static const char *const keys[] = {"quantization", "quantization_config"};
  const cJSON *found = NULL;
  for (size_t i = 0; i < 2 && !cJSON_IsObject(found); i++) found = cJSON_GetObjectItemCaseSensitive(description, keys[i]);
  if (!cJSON_IsObject(found)) return HD_OK;
  packs->quantization = cJSON_Duplicate(found, true);
  return packs->quantization ? HD_OK : hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a description");
}

void hd_packs_free(hd_packs *packs) {
  for (size_t i = 0; i < packs->n; i++) hd_packed_close(&packs->items[i].packed);
  hd_free(packs->items);
  cJSON_Delete(packs->quantization);
  *packs = (hd_packs){0};
}

static hd_pack *add(hd_packs *packs, int parameter) {
  if (!hd_grow((void **)&packs->items, packs->n, sizeof *packs->items)) return NULL;
  packs->items[packs->n] = (hd_pack){.parameter = parameter};
  return &packs->items[packs->n++];
}

hd_status hd_packs_add(size_t *number, hd_packs *packs, int parameter, hd_part part, const hd_entry *entry, size_t tensor, hd_error *err) {
  hd_pack *pack = *number < packs->n ? &packs->items[*number] : add(packs, parameter);
  if (!pack) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the loader");
  char room[HD_NAME_ROOM];
  if (pack->entry[part]) return hd_fail(err, HD_BAD_FILE, "tensor %s is in two of the files", hd_short_name(room, entry->name));
  pack->entry[part] = entry;
  pack->tensor[part] = tensor;
  *number = (size_t)(pack - packs->items);
  return HD_OK;
}

/* What config.json says under the name that the weight has in the file. */
static hd_status find_packing(hd_packing *said, const hd_packs *packs, const char *weight, hd_error *err) {
  size_t n;
  hd_status status = HD_OK;
  hd_part_of(weight, &n);
  char *base = hd_alloc(n + 1);
  if (!base) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for a name");
  memcpy(base, weight, n);
  base[n] = '\0';
  hd_json quantization = hd_json_root(packs->quantization, "quantization", &status, err);
  status = hd_packing_find(said, &quantization, base, err);
  hd_free(base);
  return status;
}

hd_status hd_packs_open(hd_packs *packs, hd_pack *pack, const hd_parameter *p, hd_error *err) {
  const hd_entry *weight = pack->entry[HD_PART_WEIGHT];
  hd_packing said;
  if (!weight || !pack->entry[HD_PART_SCALES]) return HD_OK;
  HD_TRY(find_packing(&said, packs, weight->name, err));
  HD_TRY(hd_packed_open(&pack->packed, pack->entry, &said, p->slot.shape[1], err));
  char room[HD_NAME_ROOM], wanted[HD_SHAPE_ROOM];
  bool other_parts = p->slot.n_parts && (weight->n_dims != 3 || weight->shape[0] != p->slot.n_parts);
  if (pack->packed.rows != p->slot.shape[0] || other_parts)
    return hd_fail(err, HD_BAD_FILE, "tensor %s: the model wants shape %s, the file has %zu packed rows", hd_short_name(room, weight->name),
                   hd_shape_text(wanted, p->slot.n_dims, p->slot.shape), pack->packed.rows);
  pack->open = true;
  return HD_OK;
}
