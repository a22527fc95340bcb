/* target.c: what a weight becomes on its way in: see hd_loader_new in heddle.h for the rule. */
#include "base/dtype.h"
#include "base/status.h"
#include "graph/loader.h"

__attribute__((format(printf, 3, 4))) static void give_way(hd_choice *c, hd_dtype to, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(c->reason, sizeof c->reason, format, arguments);
  va_end(arguments);
  c->dtype = to;
}

/* The dtype asked for, or the file's own as far as something multiplies it. */
static void choose(hd_choice *c, hd_dtype asked, hd_dtype file) {
  const char *name = hd_dtype_name(file);
  c->dtype = asked == HD_DTYPE_COUNT ? file : asked;
  if (hd_layout_for(c->dtype)) return;
  if (hd_dtype_get(file)->ggml) give_way(c, HD_Q8_0, "no kernel multiplies %s: became Q8_0", name);
  else if (hd_dtype_holds(HD_F16, file)) give_way(c, HD_F16, "no kernel multiplies %s: became F16, which holds it exactly", name);
  else give_way(c, HD_F32, "no kernel multiplies %s: became F32", name);
}

/* The same for a matrix in several tensors. */
static void choose_packed(hd_choice *c, hd_dtype asked, const hd_packed *packed) {
  char room[HD_PACKED_ROOM];
  hd_dtype kept = hd_packed_kept(packed);
  c->dtype = asked == HD_DTYPE_COUNT ? kept : asked;
  if (asked == HD_DTYPE_COUNT && !hd_packed_fits(packed, kept))
    give_way(c, kept, "no kernel multiplies %s: became %s", hd_packed_text(room, packed), hd_dtype_name(kept));
}

hd_choice hd_loader_target(const hd_loader *loader, const hd_parameter *p, hd_dtype file, const hd_packed *packed) {
  hd_choice c = {.dtype = HD_F32};
  if (!p->slot.matrix) return c;
  if (packed) choose_packed(&c, loader->weight_dtype, packed);
  else choose(&c, loader->weight_dtype, file);
  bool head = loader->head >= 0 && p == &loader->model->parameters[loader->head];
  if (c.dtype == HD_Q4_0 && file != HD_Q4_0 && (head || p->slot.lookup))
    give_way(&c, HD_Q8_0, "%s: 8 bits at least, became Q8_0", p->slot.lookup ? "an embedding" : "the head");
  size_t cols = p->slot.shape[1], block = hd_dtype_get(c.dtype)->block_values;
  bool spans_parts = p->slot.n_parts && p->slot.shape[0] / p->slot.n_parts % hd_layout_for(c.dtype)->row_block != 0;
  if (spans_parts)
    give_way(&c, HD_F16, "blocks of %zu rows would span experts: %s F16",
             hd_layout_for(c.dtype)->row_block, file == HD_F16 ? "kept" : "became");
  else if (cols % block) give_way(&c, HD_F16, "row of %zu is no multiple of %zu: %s F16", cols, block, file == HD_F16 ? "kept" : "became");
  return c;
}
