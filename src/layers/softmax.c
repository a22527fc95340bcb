/* softmax.c: the softmax family. y = softmax(x / temperature) and its variants, each over the last dimension (standard) or over each of
 * `parts` equal parts of the whole value, as Loom cuts it; what the division leaves over stays 0 there.
 *
 *   standard, temperature    softmax(x/t)
 *   grid                     rows × cols, each row alone
 *   hierarchical             the same with the last of the levels as cols
 *   masked                   where the mask is false the probability is 0
 *   gumbel                   softmax((x + g)/t), g = −ln(−ln u), u drawn from `seed`: the same at each call
 *   sparse, sparsemax        the nearest point of the simplex ("From Softmax to Sparsemax", Martins and Astudillo, 2016)
 *   entmax                   between the two by entmax_alpha ("Sparse Sequence-to-Sequence Models", Peters et al., 2019)
 *   adaptive, mixture        names of Loom's, without a meaning of their own there: plain softmax at t = 1
 *
 * The loom dialect computes what Loom does, mistakes included (loom.md, sections c and j, 18): its sparse takes the support's sum twice,
 * its entmax blends softmax with that; a variant without its settings is plain softmax at t = 1, an unknown name is standard. */
#include "base/status.h"
#include "base/text.h"
#include "layers/rows.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One part in place: y[n] holds x. `first`: its index in the whole value. scratch: 2·n floats. */
typedef void apply_part(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch);

/* ---- Softmax over everything, or over groups ---- */

static void plain(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  (void)first;
  (void)scratch;
  k_softmax_f32(y, y, n, 1.0f / c->applied);
}

static void grid(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  for (size_t r = 0; r < c->rows; r++) plain(c, y + r * c->cols, c->cols, first, scratch);
  size_t done = c->rows * c->cols;
  if (done < n) memset(y + done, 0, (n - done) * sizeof *y);
}

static bool levels_fit(const hd_softmax_config *c, size_t n) {
  size_t product = 1;
  for (size_t i = 0; i < c->n_levels; i++)
    if (!hd_mul_size(product, c->levels[i], &product)) return false;
  return product == n;
}

/* Levels whose product is not n are no levels. */
static size_t group_size(const hd_softmax_config *c, size_t n) { return c->n_levels && levels_fit(c, n) ? c->levels[c->n_levels - 1] : n; }

static void hierarchical(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  size_t size = group_size(c, n);
  for (size_t i = 0; i < n; i += size) plain(c, y + i, size, first, scratch);
}

/* ---- Masked, gumbel ---- */

static void masked(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  size_t n_kept = 0;
  for (size_t i = 0; i < n; i++)
    if (c->mask[i]) scratch[n_kept++] = y[i];
  plain(c, scratch, n_kept, first, NULL);
  for (size_t i = n; i-- > 0;) y[i] = c->mask[i] ? scratch[--n_kept] : 0.0f;
}

static void loom_masked(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  for (size_t i = 0; i < n && n == c->n_mask; i++)
    if (!c->mask[i]) y[i] = -1e9f;
  plain(c, y, n, first, scratch);
}

/* SplitMix64 of a seed and an index, as a number between 0 and 1. */
static double uniform_at(uint64_t seed, uint64_t index) {
  uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return (double)((z ^ (z >> 31)) >> 11) * 0x1p-53;
}

static void gumbel(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  for (size_t i = 0; i < n; i++) y[i] += (float)-log(-log(fmax(uniform_at(c->seed, first + i), 1e-10)));
  plain(c, y, n, first, scratch);
}

/* ---- Sparsemax and entmax ---- */

static int larger_first(const void *a, const void *b) {
  const float *x = a, *y = b;
  return (*x < *y) - (*x > *y);
}

/* The support: the k largest whose k-th still lies above (sum − 1)/k. */
static size_t support(const float *x, size_t n, double *sum, float *sorted) {
  memcpy(sorted, x, n * sizeof *x);
  qsort(sorted, n, sizeof *sorted, larger_first);
  *sum = 0;
  size_t k = 0;
  for (; k < n && (double)sorted[k] > (*sum + (double)sorted[k] - 1) / (double)(k + 1); k++) *sum += (double)sorted[k];
  return k;
}

static void cut_below(float *y, size_t n, double threshold) {
  for (size_t i = 0; i < n; i++) y[i] = (float)fmax(0, (double)y[i] - threshold);
}

static void sparsemax(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  (void)first;
  double sum;
  for (size_t i = 0; i < n; i++) y[i] /= c->applied;
  size_t k = support(y, n, &sum, scratch);
  cut_below(y, n, k ? (sum - 1) / (double)k : 0);
}

static void loom_sparse(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  (void)c;
  (void)first;
  double sum;
  size_t k = support(y, n, &sum, scratch);
  cut_below(y, n, k ? (2 * sum - 1) / (double)k : 0);
}

/* Σ of ((α−1)·x/t − τ)₊^(1/(α−1)), written to y when it is given. */
static double entmax_sum(const hd_softmax_config *c, const float *x, size_t n, double tau, float *y) {
  double scale = (c->alpha - 1) / (double)c->applied, power = 1 / (c->alpha - 1), sum = 0;
  for (size_t i = 0; i < n; i++) {
    double p = pow(fmax(0, scale * (double)x[i] - tau), power);
    sum += p;
    if (y) y[i] = (float)p;
  }
  return sum;
}

/* τ by bisection: the sum falls as τ grows, from at least 1 at (largest − 1) to at most 1 at the largest. */
static void entmax(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  if (c->alpha == 1) plain(c, y, n, first, scratch);
  if (c->alpha == 2) sparsemax(c, y, n, first, scratch);
  if (c->alpha == 1 || c->alpha == 2) return;
  memcpy(scratch, y, n * sizeof *y);
  double largest = -DBL_MAX;
  for (size_t i = 0; i < n; i++) largest = fmax(largest, (c->alpha - 1) / (double)c->applied * (double)y[i]);
  double low = largest - 1, high = largest;
  for (int i = 0; i < 60; i++) {
    double middle = (low + high) / 2;
    if (entmax_sum(c, scratch, n, middle, NULL) >= 1) low = middle;
    else high = middle;
  }
  double sum = entmax_sum(c, scratch, n, low, y);
  for (size_t i = 0; i < n; i++) y[i] = (float)((double)y[i] / sum);
}

static void loom_entmax(const hd_softmax_config *c, float *y, size_t n, size_t first, float *scratch) {
  if (c->alpha >= 2) {
    loom_sparse(c, y, n, first, scratch);
    return;
  }
  float *soft = scratch + n;
  k_softmax_f32(soft, y, n, 1);
  if (c->alpha <= 1) {
    memcpy(y, soft, n * sizeof *y);
    return;
  }
  loom_sparse(c, y, n, first, scratch);
  double share = c->alpha - 1, sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)(y[i] = (float)((1 - share) * (double)soft[i] + share * (double)y[i]));
  for (size_t i = 0; i < n && sum > 0; i++) y[i] = (float)((double)y[i] / sum);
}

/* ---- The variants ---- */

typedef struct hd_softmax_variant {
  const char *name;
  apply_part *standard, *loom; /* NULL: the name means nothing there */
  bool unscaled;               /* Loom's has no temperature */
} variant;

static const variant variants[] = {
  {"standard", plain, plain, false},
  {"temperature", plain, plain, false},
  {"grid", grid, grid, false},
  {"hierarchical", hierarchical, hierarchical, false},
  {"masked", masked, loom_masked, false},
  {"gumbel", gumbel, gumbel, false},
  {"sparse", sparsemax, loom_sparse, true},
  {"sparsemax", sparsemax, NULL, false},
  {"entmax", entmax, loom_entmax, true},
  {"adaptive", NULL, plain, true},
  {"mixture", NULL, plain, true},
};
enum { N_VARIANTS = sizeof variants / sizeof variants[0] };

static const variant *find_variant(const char *name, bool loom) {
  for (size_t i = 0; i < N_VARIANTS; i++)
    if (strcmp(variants[i].name, name) == 0 && (loom ? variants[i].loom : variants[i].standard)) return &variants[i];
  return loom ? &variants[0] : NULL;
}

static apply_part *function_of(const hd_softmax_config *c) { return c->loom ? c->variant->loom : c->variant->standard; }

/* Variants that want settings and have none. */
static const char *missing_setting(const hd_softmax_config *c, hd_place place) {
  apply_part *f = function_of(c);
  if (f == grid && c->rows == 0) return "softmax_rows";
  if (f == grid && c->cols == 0) return "softmax_cols";
  if (f == hierarchical && c->n_levels == 0) return "hierarchy_levels";
  /* At the top of a bundle Loom reads a missing mask as an empty one, which fits no vector and is ignored. */
  if (f == masked && c->n_mask == 0) return "mask";
  if (f == loom_masked && c->n_mask == 0 && place != HD_IN_CHAIN) return "mask";
  return NULL;
}

bool hd_softmax_set_variant(hd_softmax_config *c, const char *name, double temperature) {
  c->name = name;
  c->temperature = temperature;
  c->variant = find_variant(name, c->loom);
  c->applied = temperature == 0 || (c->loom && c->variant->unscaled) ? 1.0f : (float)temperature;
  return c->variant != NULL;
}

bool hd_softmax_can_run(const hd_softmax_config *c, hd_place place) { return missing_setting(c, place) == NULL; }

/* ---- Declared form ---- */

static void read_mask(hd_softmax_config *c, hd_parse *p) {
  c->n_mask = hd_json_count(&p->json, "mask");
  bool *mask = c->n_mask ? hd_arena_alloc(p->arena, c->n_mask * sizeof *mask) : NULL;
  hd_json list = hd_json_member(&p->json, "mask");
  size_t n_kept = 0;
  for (size_t i = 0; mask && i < c->n_mask; i++) {
    const cJSON *item = hd_json_item(&list, i).node;
    if (!cJSON_IsBool(item)) hd_json_refuse(&p->json, "mask", HD_BAD_FILE, "expected true or false at place %zu", i);
    mask[i] = cJSON_IsTrue(item);
    n_kept += mask[i];
  }
  if (mask && n_kept == 0 && !c->loom) hd_json_refuse(&p->json, "mask", HD_BAD_FILE, "expected at least one true");
  c->mask = mask;
  if (!mask) c->n_mask = 0;
}

static void read_levels(hd_softmax_config *c, hd_parse *p) {
  c->n_levels = hd_json_count(&p->json, "hierarchy_levels");
  size_t *levels = c->n_levels ? hd_arena_alloc(p->arena, c->n_levels * sizeof *levels) : NULL;
  hd_json list = hd_json_member(&p->json, "hierarchy_levels");
  for (size_t i = 0; levels && i < c->n_levels; i++) {
    const cJSON *item = hd_json_item(&list, i).node;
    levels[i] = 1;
    if (!hd_json_is_size(item, 1, UINT32_MAX, &levels[i]))
      hd_json_refuse(&p->json, "hierarchy_levels", HD_BAD_FILE, "expected a whole size of at least 1 at place %zu", i);
  }
  c->levels = levels;
  if (!levels) c->n_levels = 0;
}

/* Loom keeps these and never uses them; so do we. */
static const char *const unused_keys[HD_SOFTMAX_UNUSED] = {"gumbel_noise", "adaptive_clusters", "mixture_weights"};

static void keep_unused(hd_softmax_config *c, hd_parse *p) {
  for (size_t i = 0; i < HD_SOFTMAX_UNUSED; i++) {
    hd_json member = hd_json_member(&p->json, unused_keys[i]);
    hd_text text = {0};
    if (!member.node) continue;
    hd_text_json(&text, member.node, HD_TEXT_ONE_LINE);
    if (!text.failed) c->unused[i] = hd_arena_text(p->arena, text.data);
    hd_free(text.data);
  }
}

static void parse(void *config, hd_parse *p) {
  hd_softmax_config *c = config;
  const hd_json *j = &p->json;
  char room[HD_NAME_ROOM];
  c->loom = p->dialect == HD_LOOM;
  c->parts = !c->loom ? 0 : p->place == HD_IN_CHAIN ? p->batch : 1;
  c->rows = hd_json_get_size(j, "softmax_rows", 0);
  c->cols = hd_json_get_size(j, "softmax_cols", 0);
  c->alpha = hd_json_get_number(j, "entmax_alpha", c->loom ? 0 : 1.5);
  c->seed = hd_json_get_size(j, "seed", 0);
  read_mask(c, p);
  read_levels(c, p);
  keep_unused(c, p);
  if (!c->loom && hd_json_get_number(j, "dim", -1) != -1)
    hd_json_refuse(j, "dim", HD_UNSUPPORTED, "softmax runs over the last dimension, softmax_over takes others");
  const char *name = hd_arena_text(p->arena, hd_json_get_text(j, "softmax_variant", "standard"));
  if (!name) return;
  if (!*name) name = "standard";
  if (!hd_softmax_set_variant(c, name, hd_json_get_number(j, "temperature", 0))) {
    hd_json_refuse(j, "softmax_variant", HD_UNSUPPORTED, "unknown softmax variant '%s'", hd_short_name(room, name));
    return;
  }
  if (!c->loom && c->alpha < 1) hd_json_refuse(j, "entmax_alpha", HD_BAD_FILE, "expected at least 1, found %g", c->alpha);
  size_t cells;
  if (!hd_mul_size(c->rows, c->cols, &cells)) hd_json_refuse(j, "softmax_rows", HD_BAD_FILE, "the grid is too large");
  const char *missing = missing_setting(c, p->place);
  if (!missing) return;
  if (!c->loom) hd_json_refuse(j, missing, HD_BAD_FILE, "softmax variant '%s' needs it", c->variant->name);
  c->cannot_run = true;
  c->variant = &variants[0];
  c->applied = 1;
}

static hd_status write_unused(const hd_softmax_config *c, cJSON *json, hd_error *err) {
  for (size_t i = 0; i < HD_SOFTMAX_UNUSED; i++) {
    cJSON *value = NULL;
    if (!c->unused[i]) continue;
    HD_TRY(hd_json_parse(&value, c->unused[i], strlen(c->unused[i]), err));
    cJSON_AddItemToObject(json, unused_keys[i], value);
  }
  return HD_OK;
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const hd_softmax_config *c = config;
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
  cJSON_AddStringToObject(json, "softmax_variant", c->name);
  if (c->rows) cJSON_AddNumberToObject(json, "softmax_rows", (double)c->rows);
  if (c->cols) cJSON_AddNumberToObject(json, "softmax_cols", (double)c->cols);
  if (c->temperature != 0 && c->temperature != 1) cJSON_AddNumberToObject(json, "temperature", c->temperature);
  if (c->alpha != (dialect == HD_LOOM ? 0 : 1.5)) cJSON_AddNumberToObject(json, "entmax_alpha", c->alpha);
  if (c->seed) cJSON_AddNumberToObject(json, "seed", (double)c->seed);
  cJSON *mask = c->n_mask ? cJSON_AddArrayToObject(json, "mask") : NULL;
  for (size_t i = 0; i < c->n_mask; i++) cJSON_AddItemToArray(mask, cJSON_CreateBool(c->mask[i]));
  cJSON *levels = c->n_levels ? cJSON_AddArrayToObject(json, "hierarchy_levels") : NULL;
  for (size_t i = 0; i < c->n_levels; i++) cJSON_AddItemToArray(levels, cJSON_CreateNumber((double)c->levels[i]));
  return write_unused(c, json, err);
}

/* ---- Running ---- */

typedef struct parts {
  size_t n_rows, n;
} parts;

static parts cut(const hd_softmax_config *c, const hd_shape *shape) {
  if (c->parts) return (parts){c->parts, hd_shape_size(shape) / c->parts};
  return (parts){hd_shape_rows(shape), hd_shape_last(shape)};
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const hd_softmax_config *c = i->config;
  i->out[0] = *i->in[0];
  if (c->fit) i->out[0] = (hd_shape){.dtype = HD_F32, .n_dims = 1, .dim = {c->fit}};
  const size_t n = cut(c, &i->out[0]).n, cells = c->rows * c->cols;
  apply_part *f = function_of(c);
  if (f == grid && (c->loom ? cells > n : cells != n))
    return hd_infer_fail(i, err, "softmax over %zu rows of %zu, found %zu values", c->rows, c->cols, n);
  if (f == hierarchical && !c->loom && !levels_fit(c, n))
    return hd_infer_fail(i, err, "the product of the levels is not %zu, the number of values", n);
  if (f == masked && c->n_mask != n) return hd_infer_fail(i, err, "the mask is for %zu values, found %zu", c->n_mask, n);
  i->scratch_bytes = hd_times(n, 2 * sizeof(float));
  return HD_OK;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const hd_softmax_config *c = call->config;
  const parts p = cut(c, call->out[0].shape);
  size_t have = hd_shape_size(call->in[0].shape), all = hd_shape_size(call->out[0].shape), done = p.n_rows * p.n;
  float *y = call->out[0].data;
  memmove(y, call->in[0].data, (have < all ? have : all) * sizeof *y);
  if (have < all) memset(y + have, 0, (all - have) * sizeof *y);
  for (size_t r = 0; p.n && r < p.n_rows; r++) function_of(c)(c, y + r * p.n, p.n, r * p.n, call->scratch);
  memset(y + done, 0, (all - done) * sizeof *y);
  return HD_OK;
}

/* With s = y^(2−α) on the support: d_x += s · (d_y − Σ s·d_y / Σ s) / t. α = 1 is softmax's own gradient, 2 sparsemax's. */
static void entmax_grad(float *d_x, const float *d_y, const float *y, size_t n, double alpha, float t) {
  double sum = 0, along = 0;
  for (size_t i = 0; i < n; i++) {
    double s = y[i] > 0 ? pow((double)y[i], 2 - alpha) : 0;
    sum += s;
    along += s * (double)d_y[i];
  }
  for (size_t i = 0; i < n; i++)
    if (y[i] > 0) d_x[i] += (float)(pow((double)y[i], 2 - alpha) * ((double)d_y[i] - along / sum) / (double)t);
}

static hd_status backward(const hd_call *call, hd_error *err) {
  const hd_softmax_config *c = call->config;
  apply_part *f = function_of(c);
  if (f == loom_sparse || f == loom_entmax)
    return hd_fail(err, HD_UNSUPPORTED, "layer %s: Loom's '%s' is no projection and cannot be trained; the standard dialect's can",
                   call->name, c->name);
  if (c->fit && c->fit != hd_shape_size(call->in[0].shape))
    return hd_fail(err, HD_UNSUPPORTED, "layer %s: training needs a gate of exactly %zu outputs", call->name, c->fit);
  const parts p = cut(c, call->out[0].shape);
  if (!call->d_in[0] || p.n == 0) return HD_OK;
  size_t size = f == grid ? c->cols : f == hierarchical ? group_size(c, p.n) : p.n;
  double alpha = f == sparsemax ? 2 : f == entmax ? c->alpha : 1;
  for (size_t r = 0; r < p.n_rows; r++)
    for (size_t at = r * p.n, end = at + p.n / size * size; at < end; at += size)
      entmax_grad(call->d_in[0] + at, call->d_out[0] + at, call->out[0].data + at, size, alpha, c->applied);
  return HD_OK;
}

static const char *const aliases[] = {"Softmax", NULL};

const hd_layer hd_layer_softmax = {
  .name = "softmax",
  .example = "{\"type\":\"softmax\",\"temperature\":0.5,\"input_shape\":[3,6]}",
  .aliases = aliases,
  .config_bytes = sizeof(hd_softmax_config),
  .parse = parse,
  .write = write,
  .infer = infer,
  .in_place = true,
  .forward = forward,
  .backward = backward,
};
