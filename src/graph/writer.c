/* writer.c: a tensor's bytes as they come, in pieces of any size. They gather to whole row blocks, get the order and the dtype of the
 * layout their kernel reads, and lie in the parameter: no tensor is ever held whole, views and ragged rows apart. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/loader.h"

#include <string.h>

static hd_status no_memory(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the loader"); }

void hd_writer_free(hd_writer *w) {
  hd_free(w->buffer);
  hd_free(w->span);
  hd_free(w->turned);
  hd_free(w->wide);
  *w = (hd_writer){0};
}
enum { VECTOR_UNIT = 4096 }; /* values of a vector that are converted at a time */

/* How the tensor's bytes get into its parameter: decided once, from what the file has and what the parameter is to become. */
static hd_way way_of(const hd_writer *w) {
  const hd_layout *layout = w->parameter->value.layout;
  const bool same = layout->dtype == w->entry->dtype, matrix = w->parameter->slot.matrix;
  if (w->packed && w->wanted->role != HD_PART_WEIGHT) return HD_WAY_SCALES;
  if (w->packed) return layout->dtype == HD_INT8 && hd_packed_fits(w->packed, HD_INT8) ? HD_WAY_CODES_KEPT : HD_WAY_CODES;
  if (w->in_out) return HD_WAY_WHOLE;
  if (same && layout->plain && !w->order.heads && !w->order.plus_one) return HD_WAY_COPY;
  if (same && matrix) return HD_WAY_PACK;
  return matrix ? HD_WAY_ROWS : HD_WAY_VALUES;
}

/* Interleaved heads come one or more at a time, in whole row blocks (4 at most). */
static size_t unit_rows(const hd_writer *w) {
  const hd_matrix *m = &w->parameter->value;
  size_t head_dim = w->order.heads ? m->rows / w->order.heads : 1, n = head_dim;
  while (n % m->layout->row_block) n += head_dim;
  return n;
}

/* Rows that end inside a block of the file's dtype share it with the next, and a matrix that lies [in][out]
 * has no rows: such a tensor is taken whole. */
static size_t unit_values(const hd_writer *w) {
  const hd_matrix *m = &w->parameter->value;
  size_t n = w->parameter->slot.matrix ? unit_rows(w) * m->cols : w->order.heads ? w->all : VECTOR_UNIT;
  return n > w->all || n % hd_dtype_get(w->entry->dtype)->block_values || w->in_out ? w->all : n;
}

/* A part of a pack: scales are taken whole, codes by rows. */
static hd_status prepare_part(hd_writer *w, hd_error *err) {
  const hd_packed *packed = w->packed;
  size_t rows = unit_rows(w) < packed->rows ? unit_rows(w) : packed->rows, wide;
  bool codes = w->way != HD_WAY_SCALES;
  w->unit_values = rows * packed->cols;
  w->unit = codes ? rows * packed->row_bytes : (size_t)(w->entry->end - w->entry->begin);
  if (!hd_mul_size(rows, packed->cols + 1, &wide) || !hd_mul_size(wide, sizeof(float), &wide)) return no_memory(err);
  w->buffer = hd_alloc(w->unit);
  if (codes) w->wide = hd_alloc(wide); /* values, or an INT8 row's scale and codes */
  if (codes && w->order.heads && !(w->turned = hd_alloc(wide))) return no_memory(err);
  return w->buffer && (w->wide || !codes) ? HD_OK : no_memory(err);
}

static hd_status prepare(hd_writer *w, hd_error *err) {
  if (w->packed) return prepare_part(w, err);
  if (w->way == HD_WAY_COPY) return HD_OK;
  char room[HD_NAME_ROOM];
  w->unit_values = unit_values(w);
  if (!hd_dtype_bytes(w->entry->dtype, w->unit_values, &w->unit))
    return hd_fail(err, HD_BAD_FILE, "tensor %s: %zu values are no whole blocks of %s",
                   hd_short_name(room, w->entry->name), w->unit_values, hd_dtype_name(w->entry->dtype));
  w->buffer = hd_alloc(w->unit);
  if (w->order.heads && !(w->turned = hd_alloc(w->unit))) return no_memory(err);
  if (w->way != HD_WAY_PACK) w->wide = hd_alloc(w->unit_values * sizeof(float));
  return w->buffer && (w->wide || w->way == HD_WAY_PACK) ? HD_OK : no_memory(err);
}

static hd_status begin_view(hd_writer *w, hd_error *err) {
  size_t count, bytes;
  if (!w->entry->strided) return HD_OK;
  if (!hd_shape_count(w->entry->n_dims, w->entry->shape, &count) || !hd_dtype_bytes(w->entry->dtype, count, &bytes)
      || w->entry->end - w->entry->begin > SIZE_MAX)
    return no_memory(err);
  w->view = w->entry;
  w->straight = *w->view;
  w->straight.strided = false;
  w->straight.end = w->straight.begin + bytes;
  w->entry = &w->straight;
  w->span = hd_alloc((size_t)(w->view->end - w->view->begin));
  return w->span ? HD_OK : no_memory(err);
}

/* What the writer is to do with a pack's part; the scales of one go when its codes have gone by. */
static hd_status begin_part(hd_writer *w, hd_pack *pack, hd_error *err) {
  char room[HD_NAME_ROOM], other[HD_NAME_ROOM];
  w->packed = &pack->packed;
  hd_part lacks = w->wanted->role == HD_PART_WEIGHT ? hd_packed_lacks(w->packed) : HD_N_PARTS;
  if (lacks == HD_N_PARTS) return HD_OK;
  return hd_fail(err, HD_BAD_STATE, "tensor %s: %s has to come before it",
                 hd_short_name(room, w->entry->name), hd_short_name(other, pack->entry[lacks]->name));
}

hd_status hd_tensor_begin(hd_loader *loader, size_t index, hd_error *err) {
  HD_TRY(hd_loader_settle(loader, err));
  if (index >= loader->n_tensors || loader->tensors[index].parameter < 0)
    return hd_fail(err, HD_BAD_ARGUMENT, "tensor %zu of %zu is not wanted", index, loader->n_tensors);
  hd_writer_free(&loader->writer); /* a tensor that was not ended stays unfilled */
  loader->writing = false;
  hd_writer *w = &loader->writer;
  hd_wanted *wanted = &loader->tensors[index];
  w->wanted = wanted;
  w->entry = wanted->entry;
  w->order = wanted->order;
  w->parameter = &loader->model->parameters[wanted->parameter];
  w->in_out = w->parameter->slot.in_out && !wanted->order.out_in;
  if (wanted->role != HD_N_PARTS) HD_TRY(begin_part(w, &loader->packs.items[wanted->pack], err));
  w->parameter->filled = wanted->filled = false;
  size_t rows = w->parameter->value.rows / (wanted->part >= 0 ? w->parameter->slot.n_parts : 1);
  w->all = rows * w->parameter->value.cols;
  w->first_row = wanted->part >= 0 ? (size_t)wanted->part * rows : 0;
  HD_TRY(begin_view(w, err));
  w->way = way_of(w);
  HD_TRY(prepare(w, err));
  loader->writing = true;
  return HD_OK;
}

/* n values in the buffer change their rows' order; a vector's values are rows of one. */
static void part_halves(hd_writer *w, size_t n) {
  size_t n_rows = w->entry->shape[0], all = w->parameter->value.rows * w->parameter->value.cols, cols = all / n_rows,
         row_bytes = w->unit / (w->unit_values / cols);
  hd_gguf_part_halves(w->turned, w->buffer, n / cols, n_rows / w->order.heads, row_bytes);
  uint8_t *turned = w->turned;
  w->turned = w->buffer;
  w->buffer = turned;
}

/* The rows in `wide`, of row_bytes each, in the parameter's order. */
static const void *turned_rows(const hd_writer *w, size_t rows, size_t row_bytes) {
  if (!w->turned) return w->wide;
  hd_gguf_part_halves(w->turned, (const uint8_t *)w->wide, rows, w->parameter->value.rows / w->order.heads, row_bytes);
  return w->turned;
}

/* The layout's rows, from n values of codes as they are, each behind its row's scale; or from what they stand for. */
static void flush_codes(hd_writer *w, size_t n) {
  const hd_matrix *m = &w->parameter->value;
  size_t first = w->done / m->cols, rows = n / m->cols;
  if (w->way == HD_WAY_CODES_KEPT) {
    hd_packed_int8_rows(w->packed, first, rows, w->buffer, (uint8_t *)w->wide);
    m->layout->pack(m, first, rows, turned_rows(w, rows, sizeof(float) + m->cols));
  } else {
    hd_packed_rows(w->packed, first, rows, w->buffer, w->wide);
    m->layout->from_f32(m, first, rows, turned_rows(w, rows, m->cols * sizeof(float)));
  }
}

/* n values in `wide`, from those that the buffer holds. */
static void decode(hd_writer *w, size_t n) {
  hd_dtype_get(w->entry->dtype)->to_f32(w->buffer, w->wide, n);
  for (size_t i = 0; w->order.plus_one && i < n; i++) w->wide[i] -= 1;
}

/* What the buffer holds becomes values of the parameter. */
static hd_status flush(hd_writer *w, hd_error *err) {
  const hd_matrix *m = &w->parameter->value;
  size_t n = w->unit_values, row = w->first_row + w->done / m->cols;
  if (w->done + n > w->all) n = w->all - w->done;
  w->held = 0;
  if (w->order.heads && !w->packed) part_halves(w, n);
  if (!w->packed && w->way != HD_WAY_PACK) decode(w, n);
  switch (w->way) {
    case HD_WAY_CODES:
    case HD_WAY_CODES_KEPT: flush_codes(w, n); break;
    case HD_WAY_PACK: m->layout->pack(m, row, n / m->cols, w->buffer); break;
    case HD_WAY_ROWS: m->layout->from_f32(m, row, n / m->cols, w->wide); break;
    case HD_WAY_VALUES: memcpy((float *)m->data + w->done, w->wide, n * sizeof(float)); break;
    case HD_WAY_WHOLE: HD_TRY(hd_parameter_set(w->parameter, w->wide, true, err)); break;
    case HD_WAY_COPY:
    case HD_WAY_SCALES: break; /* write_bytes and hd_tensor_end take them */
  }
  w->done += n;
  return HD_OK;
}

static hd_status gather(hd_writer *w, const uint8_t *bytes, size_t n, hd_error *err) {
  uint64_t all = w->entry->end - w->entry->begin;
  while (n > 0) {
    size_t take = w->unit - w->held < n ? w->unit - w->held : n;
    memcpy(w->buffer + w->held, bytes, take);
    w->held += take;
    w->seen += take;
    bytes += take;
    n -= take;
    if (w->way != HD_WAY_SCALES && (w->held == w->unit || w->seen == all)) HD_TRY(flush(w, err));
  }
  return HD_OK;
}

/* Where a tensor that is copied as it is begins. */
static size_t copy_offset(const hd_writer *w) {
  size_t bytes = 0;
  /* Less than the parameter's, which was allocated. */
  if (!hd_dtype_bytes(w->entry->dtype, w->first_row * w->parameter->value.cols, &bytes)) bytes = 0;
  return bytes;
}

static hd_status refuse_more(const hd_writer *w, uint64_t all, hd_error *err) {
  char room[HD_NAME_ROOM];
  return hd_fail(err, HD_BAD_FILE, "tensor %s: more bytes than the %llu its directory declares",
                 hd_short_name(room, w->entry->name), (unsigned long long)all);
}

static hd_status write_bytes(hd_writer *w, const uint8_t *bytes, size_t n, hd_error *err) {
  if (w->way != HD_WAY_COPY) return gather(w, bytes, n, err);
  memcpy((uint8_t *)w->parameter->value.data + copy_offset(w) + w->seen, bytes, n);
  w->seen += n;
  return HD_OK;
}

/* Once the view's bytes are all there, its values are written. */
static hd_status write_view(hd_writer *w, const uint8_t *bytes, size_t n, hd_error *err) {
  size_t all = (size_t)(w->view->end - w->view->begin), straight_bytes = (size_t)(w->straight.end - w->straight.begin);
  if (n > all - w->span_held) return refuse_more(w, all, err);
  memcpy(w->span + w->span_held, bytes, n);
  w->span_held += n;
  if (w->span_held < all) return HD_OK;
  uint8_t *straight = hd_alloc(straight_bytes);
  if (!straight) return no_memory(err);
  hd_entry_gather(w->view, w->span, straight);
  hd_status status = write_bytes(w, straight, straight_bytes, err);
  hd_free(straight);
  return status;
}

hd_status hd_tensor_write(hd_loader *loader, const void *bytes, size_t n, hd_error *err) {
  hd_writer *w = &loader->writer;
  if (!loader->writing) return hd_fail(err, HD_BAD_STATE, "bytes without a tensor begun");
  if (n == 0) return HD_OK; /* from nowhere, maybe */
  if (w->view) return write_view(w, bytes, n, err);
  uint64_t all = w->entry->end - w->entry->begin;
  if (n > all - w->seen) return refuse_more(w, all, err);
  return write_bytes(w, bytes, n, err);
}

/* Whether all parts of the parameter are there. */
static bool is_complete(const hd_loader *loader, const hd_wanted *w) {
  if (w->part < 0) return w->filled;
  size_t n = 0;
  for (size_t i = loader->latest[w->parameter]; i > 0; i = loader->tensors[i - 1].earlier) n += loader->tensors[i - 1].filled;
  return n == loader->model->parameters[w->parameter].slot.n_parts;
}

/* All bytes of the tensor have come. */
static hd_status complete(hd_loader *loader, hd_writer *w, hd_error *err) {
  if (w->way == HD_WAY_SCALES) return hd_packed_take(w->packed, w->wanted->role, w->buffer, err);
  if (w->packed) hd_packed_close(w->packed);
  w->wanted->filled = true;
  w->parameter->filled = is_complete(loader, w->wanted);
  if (w->parameter->filled) hd_matrix_settle(&w->parameter->value);
  return HD_OK;
}

hd_status hd_tensor_end(hd_loader *loader, hd_error *err) {
  hd_writer *w = &loader->writer;
  if (!loader->writing) return hd_fail(err, HD_BAD_STATE, "no tensor was begun");
  uint64_t all = w->entry->end - w->entry->begin, seen = w->seen;
  const char *name = w->entry->name;
  hd_status status = seen == all ? complete(loader, w, err) : HD_OK;
  hd_writer_free(w);
  loader->writing = false;
  char room[HD_NAME_ROOM];
  if (seen == all) return status;
  return hd_fail(err, HD_BAD_FILE, "tensor %s: expected %llu bytes, the stream ended after %llu",
                 hd_short_name(room, name), (unsigned long long)all, (unsigned long long)seen);
}
