/* weights.c: a network's weights as a SafeTensors file, and back into the network.
 *
 * The standard dialect's tensors are called as the parameters are and hold what their shapes say. Loom's are called after its own fields,
 * and declare an [out, in] over values that lie [in][out] (shared/formats/loom.md, section e). Integers, F4 and F6 need scales, which lie
 * beside the codes as "<name>.scale" and "<name>.offset"; Loom's own files have none, and an F4 without a scale is Loom's F4. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "format/format.h"
#include "graph/graph.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- Names ---- */

/* Loom's tensor names where they are not its bundles' fields. Its swiglu declares one dimension. */
static const struct { const char *field, *tensor; bool flat; } loom_names[] = {
    {"kernel", "weight", false},          {"biases", "bias", false},           {"conv_bias", "bias", false},
    {"embedding_weights", "weight", false},
    {"q_weights", "q_weight", false},     {"k_weights", "k_weight", false},    {"v_weights", "v_weight", false},
    {"output_weight", "o_weight", false}, {"output_bias", "o_bias", false},
    {"weight_ii", "weight_ih_i", false},  {"weight_if", "weight_ih_f", false},
    {"weight_ig", "weight_ih_g", false},  {"weight_io", "weight_ih_o", false},
    {"weight_hi", "weight_hh_i", false},  {"weight_hf", "weight_hh_f", false},
    {"weight_hg", "weight_hh_g", false},  {"weight_ho", "weight_hh_o", false},
    {"gate_weights", "gate_weight", true}, {"up_weights", "up_weight", true},  {"down_weights", "down_weight", true},
};
enum { N_LOOM_NAMES = sizeof loom_names / sizeof *loom_names };

/* What a parameter, or a part of one, is in a file. */
typedef struct hd_placed {
  hd_piece piece;
  char *name;
  bool in_out, flat;
} hd_placed;

/* Loom reads a gate's kernel [out][in], unlike all its other dense layers'. */
static bool is_gate(const char *name) {
  static const char gate[] = ".filter_gate";
  size_t n = strlen(name);
  return n >= sizeof gate - 1 && strcmp(name + n - (sizeof gate - 1), gate) == 0;
}

static hd_status no_names(hd_error *err) { return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the names of weights"); }

static hd_status place(hd_placed *out, hd_arena *names, const hd_model *model, const hd_piece *piece, hd_error *err) {
  const hd_parameter *p = piece->parameter;
  const char *field = hd_parameter_field(p, model->dialect, &out->in_out);
  out->piece = *piece;
  out->flat = false;
  if (model->dialect == HD_LOOM) {
    for (size_t i = 0; i < N_LOOM_NAMES; i++) {
      if (strcmp(loom_names[i].field, field) != 0) continue;
      out->flat = loom_names[i].flat;
      field = loom_names[i].tensor;
      break;
    }
    if (is_gate(p->owner->name)) out->in_out = false;
    out->name = hd_arena_format(names, "%s.%s", p->owner->name, field);
  } else {
    out->in_out = p->slot.in_out;
    out->name = hd_piece_name(names, piece);
  }
  return out->name ? HD_OK : no_names(err);
}

/* ---- Scales ---- */

typedef struct hd_code_range {
  hd_dtype dtype;
  float most; /* the largest code used */
  bool from_zero;
} hd_code_range;

static const hd_code_range ranges[] = {
    {HD_I8, 127, false},          {HD_I16, 32767, false},     {HD_I32, 2147483520, false}, {HD_I64, 0x1.fffffep62f, false},
    {HD_U8, 255, true},           {HD_U16, 65535, true},      {HD_U32, 4294967040, true},  {HD_U64, 0x1.fffffep63f, true},
    {HD_F4, 6, false},            {HD_F6_E2M3, 7.5f, false},  {HD_F6_E3M2, 28, false},
};

/* NULL: the dtype holds values as they are. */
static const hd_code_range *range_of(hd_dtype dtype) {
  for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++)
    if (ranges[i].dtype == dtype) return &ranges[i];
  return NULL;
}

/* Rows that have a scale each. */
static size_t scale_rows(const hd_piece *piece) {
  size_t shape[HD_MAX_DIMS];
  hd_piece_shape(piece, shape);
  return piece->parameter->slot.n_dims > 1 ? shape[0] : 1;
}

static float f4_error(const float *first, size_t step, size_t n, float scale) {
  const hd_dtype_info *f4 = hd_dtype_get(HD_F4);
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    float value = first[i * step] / scale, back;
    uint8_t code;
    f4->from_f32(&value, &code, 1);
    f4->to_f32(&code, &back, 1);
    sum += (double)(value - back) * (double)(value - back);
  }
  return (float)(sum * (double)scale * (double)scale);
}

/* F4 has few codes, and wide steps at its end: to clamp the largest values may lose less in all.
 * The best of eight scales by squared error. */
static float best_f4_scale(const float *first, size_t step, size_t n, float widest) {
  float best = widest, least = f4_error(first, step, n, widest);
  for (int k = 1; k < 8; k++) {
    float scale = widest * (1 - 0.05f * (float)k), error = f4_error(first, step, n, scale);
    if (!(error < least)) continue;
    least = error;
    best = scale;
  }
  return best;
}

/* Scale and offset of n values at `first`, `step` apart. */
static void fit(const hd_code_range *range, const float *first, size_t step, size_t n, float *scale, float *offset) {
  float low = n ? first[0] : 0, high = low;
  for (size_t i = 1; i < n; i++) {
    float v = first[i * step];
    low = v < low ? v : low;
    high = v > high ? v : high;
  }
  float span = range->from_zero ? high - low : fmaxf(fabsf(low), fabsf(high));
  *scale = span > 0 && isfinite(span / range->most) ? span / range->most : 1;
  if (*scale == 0) *scale = 1;
  *offset = range->from_zero ? low : 0;
  if (range->dtype == HD_F4) *scale = best_f4_scale(first, step, n, *scale);
}

/* Row r of a tensor's values: n of them, `step` apart. */
typedef struct hd_rows {
  size_t n_rows, n, row_step, step;
} hd_rows;

static hd_rows rows_of(const hd_placed *at) {
  size_t n_rows = scale_rows(&at->piece), n = hd_piece_count(&at->piece) / (n_rows ? n_rows : 1);
  return at->in_out && at->piece.parameter->slot.matrix ? (hd_rows){n_rows, n, 1, n_rows} : (hd_rows){n_rows, n, n, 1};
}

/* Values become codes in place; the scales and offsets get one number a row. */
static void scale_down(const hd_code_range *range, const hd_rows *rows, float *values, float *scales, float *offsets) {
  for (size_t r = 0; r < rows->n_rows; r++) {
    float *row = values + r * rows->row_step;
    fit(range, row, rows->step, rows->n, &scales[r], &offsets[r]);
    for (size_t i = 0; i < rows->n; i++) row[i * rows->step] = (row[i * rows->step] - offsets[r]) / scales[r];
  }
}

static void scale_up(const hd_rows *rows, float *values, const float *scales, const float *offsets) {
  for (size_t r = 0; r < rows->n_rows; r++) {
    float *row = values + r * rows->row_step;
    for (size_t i = 0; i < rows->n; i++) row[i * rows->step] = row[i * rows->step] * scales[r] + (offsets ? offsets[r] : 0);
  }
}

/* ---- Saving ---- */

/* A weight's tensor, and the names of those beside it; NULL: there is none. */
typedef struct hd_coded {
  hd_placed at;
  const char *scale, *offset;
} hd_coded;

typedef struct hd_saving {
  const hd_model *model;
  hd_dtype dtype;
  const hd_code_range *range;
  hd_arena arena;
  hd_stored *tensors; /* `from`: an hd_coded; NULL for scales and offsets. Sorted by name once the file is begun */
  size_t n;
} hd_saving;

enum { MOST_PER_WEIGHT = 3 }; /* codes, scale, offset */

static hd_status add_side(const char **name, hd_saving *s, const hd_placed *at, const char *what, hd_error *err) {
  const char *full = *name = hd_arena_format(&s->arena, "%s.%s", at->name, what);
  if (!full) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the scales of %s", at->name);
  s->tensors[s->n++] = (hd_stored){.name = full, .dtype = HD_F32, .n_dims = 1, .shape = {scale_rows(&at->piece)}};
  return HD_OK;
}

/* Readers open no F4 or F6 that ends inside a byte: such a tensor stays F32. */
static hd_dtype stored_as(const hd_saving *s, const hd_piece *piece) {
  return hd_piece_count(piece) % hd_dtype_get(s->dtype)->block_values ? HD_F32 : s->dtype;
}

static bool is_coded(const hd_saving *s, const hd_piece *piece) { return s->range && stored_as(s, piece) == s->dtype; }

static hd_status add_weight(hd_saving *s, const hd_piece *piece, hd_error *err) {
  hd_coded *coded = hd_arena_alloc(&s->arena, sizeof *coded);
  if (!coded) return no_names(err);
  hd_placed *at = &coded->at;
  HD_TRY(place(at, &s->arena, s->model, piece, err));
  hd_stored t = {.name = at->name, .dtype = stored_as(s, piece), .n_dims = at->flat ? 1 : piece->parameter->slot.n_dims, .from = coded};
  hd_piece_file_shape(piece, t.shape);
  if (at->flat) t.shape[0] = hd_piece_count(piece);
  s->tensors[s->n++] = t;
  if (!is_coded(s, piece)) return HD_OK;
  HD_TRY(add_side(&coded->scale, s, at, "scale", err));
  return s->range->from_zero ? add_side(&coded->offset, s, at, "offset", err) : HD_OK;
}

static int compare_name(const void *name, const void *tensor) { return strcmp(name, ((const hd_stored *)tensor)->name); }

static uint8_t *side_bytes(const hd_saving *s, const char *name, uint8_t *file) {
  const hd_stored *found = bsearch(name, s->tensors, s->n, sizeof *s->tensors, compare_name);
  return file + found->begin;
}

/* Values become codes; their scales and offsets go to where the file has them, which is aligned for nothing. */
static hd_status write_scales(hd_saving *s, const hd_coded *coded, float *values, uint8_t *file, hd_error *err) {
  hd_rows rows = rows_of(&coded->at);
  size_t bytes = rows.n_rows * sizeof(float);
  float *room = hd_alloc(2 * bytes);
  if (!room) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the scales of %s", coded->at.name);
  scale_down(s->range, &rows, values, room, room + rows.n_rows);
  memcpy(side_bytes(s, coded->scale, file), room, bytes);
  if (coded->offset) memcpy(side_bytes(s, coded->offset, file), room + rows.n_rows, bytes);
  hd_free(room);
  return HD_OK;
}

static hd_status write_weight(hd_saving *s, const hd_stored *t, uint8_t *file, hd_error *err) {
  const hd_coded *coded = t->from;
  const hd_placed *at = &coded->at;
  size_t n = hd_piece_count(&at->piece);
  float *values = hd_alloc(hd_times(n, sizeof *values));
  if (!values) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save weight %s", at->name);
  hd_status status = hd_piece_get(&at->piece, values, at->in_out, err);
  if (status == HD_OK && is_coded(s, &at->piece)) status = write_scales(s, coded, values, file, err);
  if (status == HD_OK) hd_dtype_get(t->dtype)->from_f32(values, file + t->begin, n);
  hd_free(values);
  return status;
}

static hd_status add_weights(hd_saving *s, hd_error *err) {
  for (size_t i = 0; i < s->model->n_parameters; i++) {
    const hd_parameter *p = &s->model->parameters[i];
    for (size_t k = 0; k < hd_piece_number(p) && p->value.data && hd_parameter_count(p); k++) {
      const hd_piece piece = hd_piece_at(p, k);
      HD_TRY(add_weight(s, &piece, err));
    }
  }
  return HD_OK;
}

static hd_status save(uint8_t **bytes, size_t *n, hd_saving *s, hd_error *err) {
  HD_TRY(add_weights(s, err));
  HD_TRY(hd_safetensors_start(bytes, n, s->tensors, s->n, s->range ? "{\"heddle\":\"scaled\"}" : NULL, err));
  hd_status status = HD_OK;
  for (size_t i = 0; i < s->n && status == HD_OK; i++)
    if (s->tensors[i].from) status = write_weight(s, &s->tensors[i], *bytes, err);
  if (status == HD_OK) return HD_OK;
  hd_free(*bytes);
  *bytes = NULL;
  *n = 0;
  return status;
}

/* Pieces of all parameters. */
static size_t count_pieces(const hd_model *model) {
  size_t n = 0;
  for (size_t i = 0; i < model->n_parameters; i++) n += hd_piece_number(&model->parameters[i]);
  return n;
}

hd_status hd_model_save_weights(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype, hd_error *err) {
  *bytes = NULL;
  *n = 0;
  if (!hd_dtype_get(dtype) || !hd_dtype_get(dtype)->safetensors || !hd_dtype_get(dtype)->from_f32 || dtype == HD_BOOL
      || dtype == HD_F8_E8M0)
    return hd_fail(err, HD_BAD_ARGUMENT, "SafeTensors cannot hold weights as %s", hd_dtype_name(dtype));
  hd_saving s = {.model = model, .dtype = dtype, .range = range_of(dtype)};
  s.tensors = hd_alloc(count_pieces(model) * MOST_PER_WEIGHT * sizeof *s.tensors);
  hd_status status =
      s.tensors ? save(bytes, n, &s, err) : hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save %zu weights", model->n_parameters);
  hd_free(s.tensors);
  hd_arena_free(&s.arena);
  return status;
}

void hd_bytes_free(void *bytes) { hd_free(bytes); }

/* ---- Loading ---- */

/* A tensor beside another, one number a row; NULL: there is none. */
typedef struct hd_side {
  const hd_entry *entry;
  const float *values;
} hd_side;

/* What the model wants of a file: a piece of its parameters. */
typedef struct hd_found {
  hd_placed at;
  const hd_entry *entry; /* the tensor it is; NULL: none */
  hd_side scales, offsets;
} hd_found;

typedef struct hd_filling {
  hd_model *model;
  const hd_directory *directory;
  const uint8_t *file;
  const char *prefix; /* of the file's names */
  hd_arena arena;
  hd_found *found;
  size_t n;
  /* Rooms for one tensor, as large as the largest needs. */
  float *values;
  uint8_t *straight; /* a view's bytes in order */
  float *turned;     /* a row block of what lies [in][out] */
} hd_filling;

/* The slot's own shape, or one that folds it or is folded by it (a convolution's [out, in, k, k] is [out, in·k·k] too; all parts of a
 * weight are [parts, rows, columns]); in the loom dialect also turned around, or flat. */
static bool shape_fits(const hd_filling *f, const hd_piece *piece, const hd_entry *e) {
  const hd_slot *slot = &piece->parameter->slot;
  size_t want[HD_MAX_DIMS];
  hd_piece_file_shape(piece, want);
  bool same = slot->n_dims == e->n_dims, turned = slot->n_dims == 2 && e->n_dims == 2;
  for (int d = 0; d < e->n_dims; d++) {
    same = same && want[d] == e->shape[d];
    turned = turned && want[d] == e->shape[1 - d];
  }
  size_t count;
  bool whole = hd_shape_count(e->n_dims, e->shape, &count) && count == hd_piece_count(piece);
  bool flat = whole && e->n_dims == 1;
  bool folded = whole && e->n_dims > 1 && slot->n_dims > 1 && e->n_dims != slot->n_dims && !slot->in_out && e->shape[0] == want[0];
  bool stacked = piece->part < 0 && hd_entry_is_stacked(piece->parameter, e);
  return same || folded || stacked || (f->model->dialect == HD_LOOM && (turned || flat));
}

/* They must be F32, one for each row. */
static hd_status find_side(hd_side *out, hd_filling *f, const hd_placed *at, const char *what, hd_error *err) {
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  char *full = hd_arena_format(&f->arena, "%s.%s", at->name, what);
  size_t n = scale_rows(&at->piece);
  if (!full) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the names of scales");
  const hd_entry *e = hd_directory_find(f->directory, full);
  if (!e) return HD_OK;
  if (e->dtype != HD_F32 || e->n_dims != 1 || e->shape[0] != n)
    return hd_fail(err, HD_BAD_FILE, "tensor %s: expected F32 of shape [%zu], found %s of %s", hd_short_name(room, full), n,
                   hd_dtype_name(e->dtype), hd_shape_text(shape, e->n_dims, e->shape));
  float *copy = hd_arena_alloc(&f->arena, n * sizeof *copy); /* the file may lie anywhere, the floats may not */
  if (!copy) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for scales");
  if (e->strided) hd_entry_gather(e, f->file + e->begin, (uint8_t *)copy);
  else memcpy(copy, f->file + e->begin, n * sizeof *copy);
  *out = (hd_side){e, copy};
  return HD_OK;
}

/* The file's tensor for the piece, if it has one, checked so far that setting the piece cannot fail. */
static hd_status find_tensor(hd_found *t, hd_filling *f, hd_error *err) {
  char room[HD_NAME_ROOM], want[HD_SHAPE_ROOM], has[HD_SHAPE_ROOM];
  const hd_piece *piece = &t->at.piece;
  const hd_entry *e = t->entry = piece->parameter->value.data ? hd_directory_find(f->directory, t->at.name) : NULL;
  size_t shape[HD_MAX_DIMS];
  if (!e) return HD_OK;
  hd_piece_shape(piece, shape);
  if (!shape_fits(f, piece, e))
    return hd_fail(err, HD_BAD_FILE, "tensor %s: the network wants shape %s, the file has %s", hd_short_name(room, t->at.name),
                   hd_shape_text(want, piece->parameter->slot.n_dims, shape), hd_shape_text(has, e->n_dims, e->shape));
  HD_TRY(hd_dtype_decodes(e->dtype, e->name, err));
  HD_TRY(find_side(&t->scales, f, &t->at, "scale", err));
  return find_side(&t->offsets, f, &t->at, "offset", err);
}

static hd_status find_piece(hd_filling *f, const hd_piece *piece, hd_error *err) {
  hd_found *t = &f->found[f->n++];
  *t = (hd_found){0};
  HD_TRY(place(&t->at, &f->arena, f->model, piece, err));
  t->at.name = hd_arena_format(&f->arena, "%s%s", f->prefix, t->at.name);
  return t->at.name ? find_tensor(t, f, err) : no_names(err);
}

/* The parameter as the file has it: whole, or else in its parts. */
static hd_status find_parameter(hd_filling *f, const hd_parameter *p, hd_error *err) {
  const hd_piece whole = hd_piece_whole(p);
  HD_TRY(find_piece(f, &whole, err));
  if (!p->slot.n_parts || f->found[f->n - 1].entry) return HD_OK;
  f->n--;
  for (size_t k = 0; k < p->slot.n_parts; k++) {
    const hd_piece piece = hd_piece_at(p, k);
    HD_TRY(find_piece(f, &piece, err));
  }
  return HD_OK;
}

static hd_status find_all(hd_filling *f, size_t *n_found, hd_error *err) {
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < f->model->n_parameters; i++) HD_TRY(find_parameter(f, &f->model->parameters[i], err));
  for (size_t i = 0; i < f->n; i++) *n_found += f->found[i].entry != NULL;
  if (*n_found) return HD_OK;
  return hd_fail(err, HD_BAD_FILE, "none of the file's %zu tensors is one of the network's %zu weights, the first of which is %s",
                 hd_directory_count(f->directory), f->n, f->n ? hd_short_name(room, f->found[0].at.name) : "not there");
}

static int compare_entries(const void *a, const void *b) {
  uintptr_t x = (uintptr_t)*(const hd_entry *const *)a, y = (uintptr_t)*(const hd_entry *const *)b;
  return x < y ? -1 : x > y;
}

/* A batch_norm's num_batches_tracked, which PyTorch counts and nothing computes with. */
static bool is_counter(const char *name) {
  static const char counter[] = "num_batches_tracked";
  size_t n = strlen(name);
  return n >= sizeof counter - 1 && strcmp(name + n - (sizeof counter - 1), counter) == 0;
}

/* A tensor under the prefix that is no weight; NULL: none. `used` is sorted. */
static const hd_entry *find_unused(const hd_filling *f, const hd_entry **used, size_t n_used) {
  for (size_t i = 0; i < hd_directory_count(f->directory); i++) {
    const hd_entry *e = hd_directory_entry(f->directory, i);
    if (strncmp(e->name, f->prefix, strlen(f->prefix)) != 0 || is_counter(e->name)) continue;
    if (!bsearch(&e, used, n_used, sizeof *used, compare_entries)) return e;
  }
  return NULL;
}

/* Strict: the file's names under the prefix are the model's. */
static hd_status check_names(const hd_filling *f, hd_error *err) {
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  const hd_entry **used = hd_alloc(hd_times(f->n + 1, MOST_PER_WEIGHT * sizeof *used));
  size_t n = 0, lacking = SIZE_MAX, want[HD_MAX_DIMS];
  if (!used) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to load weights");
  for (size_t i = 0; i < f->n; i++) {
    const hd_found *t = &f->found[i];
    const hd_entry *its[MOST_PER_WEIGHT] = {t->entry, t->scales.entry, t->offsets.entry};
    for (int k = 0; k < MOST_PER_WEIGHT; k++)
      if (its[k]) used[n++] = its[k];
    if (!t->entry && t->at.piece.parameter->value.data && lacking == SIZE_MAX) lacking = i;
  }
  if (n > 0) qsort(used, n, sizeof *used, compare_entries);
  const hd_entry *unused = find_unused(f, used, n);
  hd_free(used);
  if (lacking != SIZE_MAX) {
    const hd_piece *piece = &f->found[lacking].at.piece;
    hd_piece_shape(piece, want);
    return hd_fail(err, HD_BAD_FILE, "strict: the file lacks %s, of shape %s", hd_short_name(room, f->found[lacking].at.name),
                   hd_shape_text(shape, piece->parameter->slot.n_dims, want));
  }
  if (!unused) return HD_OK;
  return hd_fail(err, HD_BAD_FILE, "strict: the file has %s, of shape %s, which the model does not", hd_short_name(room, unused->name),
                 hd_shape_text(shape, unused->n_dims, unused->shape));
}

/* ---- Setting them: nothing fails here any more ---- */

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static hd_status make_rooms(hd_filling *f, hd_error *err) {
  size_t values = 0, straight = 0, turned = 0; /* bytes */
  for (size_t i = 0; i < f->n; i++) {
    const hd_found *t = &f->found[i];
    const size_t n = t->entry ? hd_piece_count(&t->at.piece) : 0;
    values = larger(values, hd_times(n, sizeof(float)));
    if (t->entry && t->entry->strided) straight = larger(straight, hd_times(n, hd_dtype_get(t->entry->dtype)->block_bytes));
    if (t->entry && t->at.in_out) turned = larger(turned, hd_times(hd_piece_block(&t->at.piece), sizeof(float)));
  }
  f->values = hd_alloc(values);
  f->straight = hd_alloc(straight);
  f->turned = hd_alloc(turned);
  return f->values && f->straight && f->turned ? HD_OK : hd_fail(err, HD_OUT_OF_MEMORY, "no memory to load weights");
}

/* The tensor's n values as float32. A view is put in order first. */
static void read_values(const hd_filling *f, const hd_found *t, size_t n) {
  const hd_entry *e = t->entry;
  const uint8_t *from = f->file + e->begin;
  if (e->strided) {
    hd_entry_gather(e, from, f->straight);
    from = f->straight;
  }
  if (!t->scales.entry && f->model->dialect == HD_LOOM) hd_loom_decode(e->dtype, from, f->values, n);
  else hd_dtype_get(e->dtype)->to_f32(from, f->values, n);
}

static void fill(hd_filling *f, const hd_found *t) {
  const hd_rows rows = rows_of(&t->at);
  read_values(f, t, hd_piece_count(&t->at.piece));
  if (t->scales.entry) scale_up(&rows, f->values, t->scales.values, t->offsets.values);
  hd_piece_fill(&t->at.piece, f->values, t->at.in_out ? f->turned : NULL);
  f->model->parameters[t->at.piece.parameter - f->model->parameters].n_sets++;
}

static void fill_all(hd_filling *f) {
  for (size_t i = 0; i < f->n; i++)
    if (f->found[i].entry) fill(f, &f->found[i]);
  for (size_t i = 0; i < f->model->n_parameters; i++) {
    hd_parameter *p = &f->model->parameters[i];
    if (p->value.data) hd_matrix_settle(&p->value);
  }
}

static void free_filling(hd_filling *f) {
  hd_free(f->found);
  hd_free(f->values);
  hd_free(f->straight);
  hd_free(f->turned);
  hd_arena_free(&f->arena);
}

/* First everything is found and checked and has its room, then everything is set: what fails changes nothing. */
hd_status hd_model_load_state(hd_model *model, const void *file, size_t n, const char *prefix, bool strict, size_t *n_set, hd_error *err) {
  if (n_set) *n_set = 0;
  if (model->n_sessions) return hd_fail(err, HD_BAD_STATE, "weights are fixed while sessions are open");
  hd_directory *directory;
  HD_TRY(hd_directory_read(&directory, file, n, n, err));
  size_t n_found = 0;
  hd_filling f = {.model = model, .directory = directory, .file = file, .prefix = prefix ? prefix : ""};
  f.found = hd_alloc(hd_times(count_pieces(model), sizeof *f.found));
  hd_status status = f.found ? find_all(&f, &n_found, err) : hd_fail(err, HD_OUT_OF_MEMORY, "no memory to load weights");
  if (status == HD_OK && strict) status = check_names(&f, err);
  if (status == HD_OK) status = make_rooms(&f, err);
  if (status == HD_OK) fill_all(&f);
  if (status == HD_OK && n_set) *n_set = n_found;
  free_filling(&f);
  hd_directory_free(directory);
  return status;
}

hd_status hd_model_load_weights(hd_model *model, const void *file, size_t n, size_t *n_set, hd_error *err) {
  return hd_model_load_state(model, file, n, NULL, false, n_set, err);
}
