/* format/packed.c: matrices in several tensors: see packed.h. */
#include "format/packed.h"

#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- The modes ---- */

struct hd_packed_mode {
  const char *name;
  hd_dtype weight;     /* of the tensor that has the codes */
  hd_dtype code;       /* what a code is; HD_DTYPE_COUNT: a whole number without sign */
  hd_dtype scale;      /* what a scale's byte is; HD_DTYPE_COUNT: scales are floats by themselves */
  size_t bits;         /* 0: config.json or the shapes say */
  size_t group_size;   /* 0: likewise */
  bool whole_rows;     /* a scale for each row */
  bool biases, global; /* parts it may have */
  hd_dtype kept;
};

static const hd_packed_mode modes[] = {
  {.name = "affine", .weight = HD_U32, .code = HD_DTYPE_COUNT, .scale = HD_DTYPE_COUNT, .biases = true, .kept = HD_Q8_0},
  {.name = "mxfp4", .weight = HD_U32, .code = HD_F4, .scale = HD_F8_E8M0, .bits = 4, .group_size = 32, .kept = HD_Q8_0},
  {.name = "mxfp8", .weight = HD_U32, .code = HD_F8_E4M3, .scale = HD_F8_E8M0, .bits = 8, .group_size = 32, .kept = HD_F16},
  {.name = "nvfp4", .weight = HD_U32, .code = HD_F4, .scale = HD_F8_E4M3, .bits = 4, .group_size = 16, .global = true, .kept = HD_Q8_0},
  {.name = "fp8_e4m3", .weight = HD_U8, .code = HD_F8_E4M3, .scale = HD_DTYPE_COUNT, .bits = 8, .whole_rows = true, .kept = HD_F16},
  {.name = "sym8", .weight = HD_I8, .code = HD_I8, .scale = HD_DTYPE_COUNT, .bits = 8, .whole_rows = true, .kept = HD_INT8},
  {.name = "sym8_groups", .weight = HD_I8, .code = HD_I8, .scale = HD_DTYPE_COUNT, .bits = 8, .kept = HD_Q8_0},
};
enum { N_MODES = sizeof modes / sizeof modes[0], WORD_BITS = 32, MOST_GROUP = 1024 };

static const hd_packed_mode *find_mode(const char *name) {
  for (size_t i = 0; i < N_MODES; i++)
    if (strcmp(modes[i].name, name) == 0) return &modes[i];
  return NULL;
}

bool hd_packed_dtype(hd_dtype dtype) { return dtype == HD_U32 || dtype == HD_U8 || dtype == HD_I8; }

static bool is_float(hd_dtype dtype) { return dtype == HD_F32 || dtype == HD_F16 || dtype == HD_BF16; }

/* ---- Names ---- */

static const char *const suffixes[HD_N_PARTS] = {".weight", ".scales", ".biases", ".global_scale"};

const char *hd_part_suffix(hd_part part) { return suffixes[part]; }

hd_part hd_part_of(const char *name, size_t *base_bytes) {
  size_t n = strlen(name);
  for (int part = 0; part < HD_N_PARTS; part++) {
    size_t n_suffix = strlen(suffixes[part]);
    if (n <= n_suffix || strcmp(name + n - n_suffix, suffixes[part]) != 0) continue;
    *base_bytes = n - n_suffix;
    return (hd_part)part;
  }
  *base_bytes = n;
  return HD_N_PARTS;
}

/* ---- What config.json says ---- */

/* "group_size" is null where a row is a group. */
static void read_packing(hd_packing *said, const hd_json *j) {
  said->bits = hd_json_get_size(j, "bits", said->bits);
  said->group_size = hd_json_get_size(j, "group_size", said->group_size);
  said->zero_point = (float)hd_json_get_number(j, "symmetric_zero_point", (double)said->zero_point);
  const char *mode = hd_json_get_text(j, "mode", NULL);
  char room[HD_NAME_ROOM];
  if (!mode) return;
  said->mode = find_mode(mode);
  if (said->mode) return;
  hd_json_refuse(j, "mode", HD_UNSUPPORTED, "'%s' is not built; known: affine, mxfp4, mxfp8, nvfp4, fp8_e4m3, sym8, sym8_groups",
                 hd_short_name(room, mode));
}

/* An exception says all of its own mode: what it leaves out is not the others'. */
hd_status hd_packing_find(hd_packing *said, const hd_json *quantization, const char *base, hd_error *err) {
  *said = (hd_packing){0};
  if (!cJSON_IsObject(quantization->node)) return HD_OK;
  hd_status status = HD_OK;
  hd_json j = hd_json_root(quantization->node, quantization->path, &status, err);
  const cJSON *own = cJSON_GetObjectItemCaseSensitive(j.node, base);
  if (cJSON_IsObject(own)) j = hd_json_member(&j, base);
  if (own == NULL || cJSON_IsObject(own)) read_packing(said, &j);
  return status;
}

/* ---- Shapes against each other ---- */

static hd_status fail_part(const hd_entry *e, const char *problem, hd_error *err) {
  char room[HD_NAME_ROOM], shape[HD_SHAPE_ROOM];
  return hd_fail(err, HD_BAD_FILE, "tensor %s: %s, found %s of %s", hd_short_name(room, e->name), problem, hd_dtype_name(e->dtype),
                 hd_shape_text(shape, e->n_dims, e->shape));
}

/* A matrix, or several below each other ([experts, rows, columns]), as rows of one; false: neither, or more than there can be. */
static bool as_rows(const hd_entry *e, size_t *rows, size_t *cols) {
  *rows = e->n_dims > 0 ? e->shape[0] : 0;
  *cols = e->n_dims > 1 ? e->shape[e->n_dims - 1] : 0;
  return e->n_dims == 2 || (e->n_dims == 3 && hd_mul_size(e->shape[0], e->shape[1], rows));
}

/* By the dtypes, and of 4 and 8 bits by the words that a scale has. */
static const hd_packed_mode *mode_of(const hd_entry *weight, const hd_entry *scales) {
  if (weight->dtype == HD_I8)
    return find_mode(scales->n_dims == weight->n_dims && scales->shape[scales->n_dims - 1] > 1 ? "sym8_groups" : "sym8");
  if (weight->dtype == HD_U8) return find_mode("fp8_e4m3");
  if (is_float(scales->dtype)) return find_mode("affine");
  size_t rows, words, groups;
  bool fits = as_rows(weight, &rows, &words) && as_rows(scales, &rows, &groups);
  for (size_t i = 0; i < N_MODES && fits && groups; i++)
    if (modes[i].scale != HD_DTYPE_COUNT && words == groups * modes[i].group_size * modes[i].bits / WORD_BITS) return &modes[i];
  return NULL;
}

static hd_status find_modes(hd_packed *p, const hd_packing *said, hd_error *err) {
  const hd_entry *weight = p->entry[HD_PART_WEIGHT], *scales = p->entry[HD_PART_SCALES];
  size_t words;
  if (!as_rows(weight, &p->rows, &words) || !hd_packed_dtype(weight->dtype))
    return fail_part(weight, "expected a matrix of codes (U32, U8 or I8)", err);
  if (!scales) return fail_part(weight, "expected .scales beside it", err);
  p->mode = said->mode ? said->mode : mode_of(weight, scales);
  if (!p->mode) return fail_part(scales, "expected scales that fit the weight by mxfp4, mxfp8 or nvfp4", err);
  char problem[96];
  snprintf(problem, sizeof problem, "expected %s for the codes of %s", hd_dtype_name(p->mode->weight), p->mode->name);
  if (weight->dtype != p->mode->weight) return fail_part(weight, problem, err);
  snprintf(problem, sizeof problem, "expected %s for the scales of %s",
           p->mode->scale == HD_DTYPE_COUNT ? "F32, F16 or BF16" : "U8", p->mode->name);
  bool fits = p->mode->scale == HD_DTYPE_COUNT ? is_float(scales->dtype) : scales->dtype == HD_U8;
  return fits ? HD_OK : fail_part(scales, problem, err);
}

static bool known_bits(size_t bits) { return bits >= 2 && bits <= 8 && bits != 7; }

/* Columns by what is known of them, from the bits that a row has. Fails where config.json has to say more. */
static hd_status find_cols(hd_packed *p, const hd_packing *said, size_t cols, size_t row_bits, size_t groups, hd_error *err) {
  const hd_entry *weight = p->entry[HD_PART_WEIGHT];
  p->bits = p->mode->bits ? p->mode->bits : said->bits;
  p->group_size = p->mode->group_size ? p->mode->group_size : said->group_size;
  if (cols == 0 && p->mode->whole_rows) cols = weight->shape[weight->n_dims - 1];
  if (cols == 0 && p->group_size <= MOST_GROUP) cols = p->group_size * groups;
  if (cols == 0 && p->bits) cols = row_bits / p->bits;
  p->cols = cols;
  if (p->cols == 0) return fail_part(weight, "config.json has to say its group_size or its bits (\"quantization\")", err);
  if (p->mode->whole_rows) p->group_size = p->cols;
  if (p->bits == 0) p->bits = row_bits / p->cols;
  if (p->group_size == 0) p->group_size = groups ? p->cols / groups : 0;
  return HD_OK;
}

/* What is said, or follows, against the shapes that are there. A group begins at a byte. */
static hd_status check_cols(const hd_packed *p, size_t row_bits, size_t groups, hd_error *err) {
  char room[HD_NAME_ROOM], codes[HD_SHAPE_ROOM], scales[HD_SHAPE_ROOM];
  const hd_entry *w = p->entry[HD_PART_WEIGHT], *s = p->entry[HD_PART_SCALES];
  bool grouped = groups > 0 && p->cols % groups == 0 && p->group_size == p->cols / groups;
  bool begins = p->mode->whole_rows || p->group_size * p->bits % 8 == 0;
  if (grouped && begins && known_bits(p->bits) && row_bits / p->bits == p->cols && row_bits % p->bits == 0) return HD_OK;
  return hd_fail(err, HD_BAD_FILE,
                 "tensor %s: rows of %zu values in %zu bits and groups of %zu (%s) do not fit codes of %s and scales of %s",
                 hd_short_name(room, w->name), p->cols, p->bits, p->group_size, p->mode->name, hd_shape_text(codes, w->n_dims, w->shape),
                 hd_shape_text(scales, s->n_dims, s->shape));
}

/* [N, groups], and [N] too where that is all; of several matrices [experts, N, groups] and [experts, N]. */
static bool is_per_group(const hd_packed *p, const hd_entry *e, size_t groups) {
  const hd_entry *weight = p->entry[HD_PART_WEIGHT];
  for (int d = 0; d < weight->n_dims - 1; d++)
    if (d >= e->n_dims || e->shape[d] != weight->shape[d]) return false;
  if (e->n_dims == weight->n_dims - 1) return p->mode->whole_rows;
  return e->n_dims == weight->n_dims && e->shape[e->n_dims - 1] == groups;
}

static hd_status check_sides(const hd_packed *p, const hd_packing *said, size_t groups, hd_error *err) {
  const hd_entry *weight = p->entry[HD_PART_WEIGHT], *scales = p->entry[HD_PART_SCALES],
                 *biases = p->entry[HD_PART_BIASES], *global = p->entry[HD_PART_GLOBAL];
  if (!is_per_group(p, scales, groups)) return fail_part(scales, "expected a scale for each group of each row", err);
  if (biases && !p->mode->biases) return fail_part(biases, "this mode has no biases", err);
  if (!biases && p->mode->biases && said->zero_point == 0) return fail_part(weight, "expected .biases beside it", err);
  if (biases && (!is_float(biases->dtype) || !is_per_group(p, biases, groups)))
    return fail_part(biases, "expected a float for each group of each row", err);
  if (global && !p->mode->global) return fail_part(global, "this mode has no global scale", err);
  bool one = global && (global->n_dims == 0 || (global->n_dims == 1 && global->shape[0] == 1));
  return global && (!one || !is_float(global->dtype)) ? fail_part(global, "expected one float", err) : HD_OK;
}

hd_status hd_packed_open(hd_packed *packed, const hd_entry *const parts[HD_N_PARTS], const hd_packing *said, size_t cols, hd_error *err) {
  *packed = (hd_packed){.zero_point = said->zero_point, .global = 1};
  memcpy(packed->entry, parts, sizeof packed->entry);
  HD_TRY(find_modes(packed, said, err));
  const hd_entry *weight = parts[HD_PART_WEIGHT], *scales = parts[HD_PART_SCALES];
  size_t groups = 1, rows, row_bits, count;
  if (!packed->mode->whole_rows && !as_rows(scales, &rows, &groups)) groups = 0;
  bool fits = hd_dtype_bytes(weight->dtype, weight->shape[weight->n_dims - 1], &packed->row_bytes)
              && hd_mul_size(packed->row_bytes, 8, &row_bits);
  if (!fits) return fail_part(weight, "rows too long", err);
  HD_TRY(find_cols(packed, said, cols, row_bits, groups, err));
  HD_TRY(check_cols(packed, row_bits, groups, err));
  if (!hd_mul_size(packed->rows, packed->cols, &count) || !hd_mul_size(count, sizeof(float), &count))
    return fail_part(weight, "too many values", err);
  return check_sides(packed, said, groups, err);
}

/* ---- Values ---- */

static size_t n_scales(const hd_packed *p) { return p->rows * (p->cols / p->group_size); }

static hd_dtype stored_scale(const hd_packed *p, const hd_entry *e) { return p->mode->scale == HD_DTYPE_COUNT ? e->dtype : p->mode->scale; }

static hd_status take_floats(float **to, hd_dtype dtype, const void *bytes, size_t n, hd_error *err) {
  if (!*to) *to = hd_alloc(n * sizeof **to);
  if (!*to) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for the scales of a packed weight");
  hd_dtype_get(dtype)->to_f32(bytes, *to, n);
  return HD_OK;
}

hd_status hd_packed_take(hd_packed *p, hd_part part, const void *bytes, hd_error *err) {
  const hd_entry *e = p->entry[part];
  if (part == HD_PART_GLOBAL) hd_dtype_get(e->dtype)->to_f32(bytes, &p->global, 1);
  if (part == HD_PART_SCALES) HD_TRY(take_floats(&p->scales, stored_scale(p, e), bytes, n_scales(p), err));
  if (part == HD_PART_BIASES) HD_TRY(take_floats(&p->biases, e->dtype, bytes, n_scales(p), err));
  p->has[part] = true;
  return HD_OK;
}

hd_part hd_packed_lacks(const hd_packed *p) {
  for (int part = HD_PART_SCALES; part < HD_N_PARTS; part++)
    if (p->entry[part] && !p->has[part]) return (hd_part)part;
  return HD_N_PARTS;
}

/* n codes of `bits`, from a byte's begin on, as whole numbers. */
static void read_codes(const uint8_t *bytes, size_t n, size_t bits, float *to) {
  uint32_t held = 0, mask = (1u << bits) - 1;
  size_t n_held = 0;
  for (size_t i = 0; i < n; i++) {
    if (n_held < bits) {
      held |= (uint32_t)*bytes++ << n_held;
      n_held += 8;
    }
    to[i] = (float)(held & mask);
    held >>= bits;
    n_held -= bits;
  }
}

/* One group of one row. */
static void decode_group(const hd_packed *p, size_t group, const uint8_t *codes, float *to) {
  size_t n = p->group_size;
  float scale = p->scales[group] * p->global;
  if (p->mode->code == HD_DTYPE_COUNT) read_codes(codes, n, p->bits, to);
  else hd_dtype_get(p->mode->code)->to_f32(codes, to, n);
  for (size_t i = 0; i < n; i++) to[i] *= scale;
  float bias = p->biases ? p->biases[group] : -p->zero_point * scale;
  for (size_t i = 0; i < n && p->mode->biases; i++) to[i] += bias;
}

void hd_packed_rows(const hd_packed *p, size_t first, size_t n, const uint8_t *codes, float *values) {
  size_t groups = p->cols / p->group_size, group_bytes = p->group_size * p->bits / 8;
  for (size_t r = 0; r < n; r++)
    for (size_t g = 0; g < groups; g++)
      decode_group(p, (first + r) * groups + g, codes + r * p->row_bytes + g * group_bytes, values + r * p->cols + g * p->group_size);
}

void hd_packed_int8_rows(const hd_packed *p, size_t first, size_t n, const uint8_t *codes, uint8_t *rows) {
  for (size_t r = 0; r < n; r++, rows += sizeof(float) + p->cols) {
    memcpy(rows, &p->scales[first + r], sizeof(float));
    memcpy(rows + sizeof(float), codes + r * p->cols, p->cols);
  }
}

void hd_packed_close(hd_packed *p) {
  hd_free(p->scales);
  hd_free(p->biases);
  p->scales = p->biases = NULL;
  memset(p->has, 0, sizeof p->has);
  p->global = 1;
}

/* ---- For reports ---- */

const char *hd_packed_text(char room[HD_PACKED_ROOM], const hd_packed *p) {
  if (p->mode->whole_rows) snprintf(room, HD_PACKED_ROOM, "%s, a scale for each row", p->mode->name);
  else snprintf(room, HD_PACKED_ROOM, "%s, %zu bits, groups of %zu", p->mode->name, p->bits, p->group_size);
  return room;
}

hd_dtype hd_packed_kept(const hd_packed *p) { return p->mode->kept; }

bool hd_packed_fits(const hd_packed *p, hd_dtype dtype) {
  return dtype == HD_F32 || (dtype == HD_INT8 && p->mode->code == HD_I8 && p->mode->whole_rows);
}
