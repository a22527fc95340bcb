/* axes.c: see axes.h. */
#include "layers/axes.h"

enum { LAST = HD_AXES - 1, MOST = 1 << 24 }; /* products of a few sizes stay far from overflow */

static size_t size_of(const cJSON *node) {
  size_t size;
  return hd_json_is_size(node, 0, MOST, &size) ? size : SIZE_MAX;
}

void hd_refuse_inputs(hd_parse *p, const char *const *names) {
  for (; *names; names++)
    if (hd_json_has(&p->json, *names)) hd_json_refuse(&p->json, *names, HD_UNSUPPORTED, "a graph has one input, this would be another");
}

void hd_axes_parse(size_t sizes[HD_AXES], hd_parse *p, const char *key, int n_axes, size_t missing, size_t least) {
  hd_json member = hd_json_member(&p->json, key);
  size_t first = (size_t)(HD_AXES - n_axes);
  bool is_list = member.node && cJSON_IsArray(member.node);
  if (is_list && hd_json_count(&p->json, key) != (size_t)n_axes) {
    hd_json_refuse(&p->json, key, HD_BAD_FILE, "expected %d sizes, found %zu", n_axes, hd_json_count(&p->json, key));
    is_list = false;
  }
  for (size_t a = first; a < HD_AXES; a++) {
    hd_json item = is_list ? hd_json_item(&member, a - first) : member;
    sizes[a] = item.node && !cJSON_IsNull(item.node) ? size_of(item.node) : missing;
    if (!member.node && sizes[a] < least) hd_json_refuse_size(&p->json, (const char *const[]){key, NULL}, MOST);
    else if (sizes[a] == SIZE_MAX || sizes[a] < least)
      hd_json_refuse(&p->json, key, HD_BAD_FILE, "expected a size of %zu to %d", least, MOST);
  }
}

void hd_axes_write(cJSON *json, const char *key, const size_t sizes[HD_AXES], int n_axes) {
  if (n_axes == 1 || sizes[0] == sizes[LAST]) {
    cJSON_AddNumberToObject(json, key, (double)sizes[LAST]);
    return;
  }
  cJSON *list = cJSON_AddArrayToObject(json, key);
  for (size_t a = 0; a < HD_AXES; a++) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)sizes[a]));
}

size_t hd_axis_places(size_t in, size_t padding, size_t kernel, size_t stride, size_t dilation) {
  uint64_t span = (uint64_t)dilation * (kernel - 1) + 1, room = (uint64_t)in + padding;
  return room < span ? 0 : (size_t)((room - span) / stride) + 1;
}

bool hd_image_read(hd_image *image, const hd_shape *shape, int n_axes) {
  int spare = shape->n_dims - n_axes;
  if (spare != 1 && spare != 2) return false;
  *image = (hd_image){.batch = spare == 2 ? shape->dim[0] : 1, .channels = shape->dim[spare - 1], .size = {1, 1}};
  for (int a = 0; a < n_axes; a++) image->size[HD_AXES - n_axes + a] = shape->dim[spare + a];
  return true;
}

hd_shape hd_image_shape(const hd_shape *like, int n_axes, size_t channels, const size_t size[HD_AXES]) {
  hd_shape shape = *like;
  int spare = shape.n_dims - n_axes;
  shape.dtype = HD_F32;
  shape.dim[spare - 1] = channels;
  for (int a = 0; a < n_axes; a++) shape.dim[spare + a] = size[HD_AXES - n_axes + a];
  return shape;
}
