/* pieces.c: parameters as weight files have them. Most are one tensor; a mixture's experts lie below each other in one parameter, and are a
 * tensor each in files, under names that have a number where the parameter's has a '*'. */
#include "base/memory.h"
#include "base/status.h"
#include "graph/graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Which there are ---- */

static size_t rows_of(const hd_parameter *p) { return p->slot.matrix ? p->slot.shape[0] : 1; }

hd_piece hd_piece_whole(const hd_parameter *p) { return (hd_piece){.parameter = p, .part = -1, .rows = rows_of(p)}; }

size_t hd_piece_number(const hd_parameter *p) { return p->slot.n_parts ? p->slot.n_parts : 1; }

hd_piece hd_piece_at(const hd_parameter *p, size_t index) {
  if (p->slot.n_parts == 0) return hd_piece_whole(p);
  size_t rows = rows_of(p) / p->slot.n_parts;
  return (hd_piece){.parameter = p, .part = (int)index, .first = index * rows, .rows = rows};
}

/* ---- Names ---- */

int hd_piece_part(char *plain, size_t room, const char *tensor) {
  static const char before[] = "experts.";
  const char *at = NULL;
  char *end;
  for (const char *next = strstr(tensor, before); next; next = strstr(next + 1, before)) at = next;
  if (!at) return -1;
  at += sizeof before - 1;
  if (*at < '0' || *at > '9' || (*at == '0' && at[1] != '.')) return -1;
  unsigned long number = strtoul(at, &end, 10);
  if (*end != '.' || number > 65535) return -1;
  snprintf(plain, room, "%.*s*%s", (int)(at - tensor), tensor, end);
  return (int)number;
}

static bool find_whole(hd_piece *out, const hd_model *model, const char *name) {
  int index = hd_parameter_find(model, name);
  if (index >= 0) *out = hd_piece_whole(&model->parameters[index]);
  return index >= 0;
}

bool hd_piece_find(hd_piece *out, const hd_model *model, const char *name) {
  if (find_whole(out, model, name)) return true;
  size_t room = strlen(name) + 2;
  char *plain = hd_alloc(room);
  int part = plain ? hd_piece_part(plain, room, name) : -1;
  bool found = part >= 0 && find_whole(out, model, plain) && (size_t)part < out->parameter->slot.n_parts;
  hd_free(plain);
  if (found) *out = hd_piece_at(out->parameter, (size_t)part);
  return found;
}

char *hd_piece_name(hd_arena *arena, const hd_piece *piece) {
  const char *name = piece->parameter->name, *star = piece->part < 0 ? NULL : strrchr(name, '*');
  if (!star) return hd_arena_text(arena, name);
  return hd_arena_format(arena, "%.*s%d%s", (int)(star - name), name, piece->part, star + 1);
}

/* ---- Sizes ---- */

size_t hd_piece_count(const hd_piece *piece) {
  size_t n = hd_parameter_count(piece->parameter);
  return piece->part < 0 ? n : n / piece->parameter->slot.n_parts;
}

void hd_piece_shape(const hd_piece *piece, size_t shape[HD_MAX_DIMS]) {
  const hd_slot *slot = &piece->parameter->slot;
  for (int d = 0; d < slot->n_dims; d++) shape[d] = slot->shape[d];
  if (piece->part >= 0) shape[0] = piece->rows;
}

void hd_piece_file_shape(const hd_piece *piece, size_t shape[HD_MAX_DIMS]) {
  hd_parameter_file_shape(piece->parameter, shape);
  if (piece->part >= 0) shape[0] = piece->rows;
}

bool hd_entry_is_stacked(const hd_parameter *p, const hd_entry *e) {
  return p->slot.n_parts && e->n_dims == 3 && e->shape[0] == p->slot.n_parts && e->shape[1] == p->slot.shape[0] / p->slot.n_parts
         && e->shape[2] == p->slot.shape[1];
}

/* ---- Values ---- */

static hd_status no_memory(const hd_piece *piece, hd_error *err) {
  return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the values of weight %s", piece->parameter->name);
}

/* Rows first … first + n of what comes as [in][out]. */
static void turn(float *wide, const float *values, const hd_piece *piece, size_t first, size_t n) {
  const size_t cols = piece->parameter->value.cols;
  for (size_t r = 0; r < n; r++)
    for (size_t c = 0; c < cols; c++) wide[r * cols + c] = values[c * piece->rows + first + r];
}

size_t hd_piece_block(const hd_piece *piece) { return hd_times(piece->parameter->value.layout->row_block, piece->parameter->value.cols); }

void hd_piece_fill(const hd_piece *piece, const float *values, float *turned) {
  const hd_matrix *m = &piece->parameter->value;
  const size_t block = m->layout->row_block;
  for (size_t first = 0; first < piece->rows; first += block) {
    const size_t n = piece->rows - first < block ? piece->rows - first : block;
    if (turned) turn(turned, values, piece, first, n);
    m->layout->from_f32(m, piece->first + first, n, turned ? turned : values + first * m->cols);
  }
}

hd_status hd_piece_set(const hd_piece *piece, const float *values, bool in_out, hd_error *err) {
  float *turned = in_out ? hd_alloc(hd_times(hd_piece_block(piece), sizeof *turned)) : NULL;
  if (in_out && !turned) return no_memory(piece, err);
  hd_piece_fill(piece, values, turned);
  hd_free(turned);
  return HD_OK;
}

hd_status hd_piece_get(const hd_piece *piece, float *values, bool in_out, hd_error *err) {
  const hd_matrix *m = &piece->parameter->value;
  float *row = in_out ? hd_alloc(m->cols * sizeof *row) : NULL;
  if (in_out && !row) return no_memory(piece, err);
  for (size_t r = 0; r < piece->rows; r++) {
    m->layout->row(m, piece->first + r, in_out ? row : values + r * m->cols);
    for (size_t c = 0; in_out && c < m->cols; c++) values[c * piece->rows + r] = row[c];
  }
  hd_free(row);
  return HD_OK;
}

hd_status hd_parameter_set(hd_parameter *p, const float *values, bool in_out, hd_error *err) {
  const hd_piece whole = hd_piece_whole(p);
  HD_TRY(hd_piece_set(&whole, values, in_out, err));
  hd_matrix_settle(&p->value);
  p->filled = true;
  p->n_sets++;
  return HD_OK;
}

hd_status hd_parameter_get(const hd_parameter *p, float *values, bool in_out, hd_error *err) {
  const hd_piece whole = hd_piece_whole(p);
  return hd_piece_get(&whole, values, in_out, err);
}
