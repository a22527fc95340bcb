/* rope_scaling.c: the frequencies of rotary positions: theta^(−2d / head_dim) for the pair d, and what models change in them to go beyond
 * the positions of their training. All are computed in float32 where transformers does, so that far positions agree with it.
 *
 *   linear    all slower by the factor: "Extending Context Window of Large Language Models via
 *             Positional Interpolation" (Chen et al., 2023)
 *   dynamic   theta grows with the length of the call (NTK-aware scaling)
 *   yarn      slow pairs as linear, fast ones as they were, a ramp between: "YaRN" (Peng et al., 2023)
 *   llama3    the same by wavelength (Llama 3.1)
 *   longrope  a factor for each pair, others beyond the training's length: "LongRoPE" (Ding et al., 2024) */
#include "base/status.h"
#include "layers/rows.h"

#include <math.h>
#include <string.h>

#define TWO_PI 6.283185307179586

static const struct {
  const char *name;
  hd_rope_kind kind;
} kinds[] = {
  {"default", HD_ROPE_PLAIN}, {"none", HD_ROPE_PLAIN}, {"linear", HD_ROPE_LINEAR}, {"dynamic", HD_ROPE_DYNAMIC}, {"yarn", HD_ROPE_YARN},
  {"llama3", HD_ROPE_LLAMA3}, {"longrope", HD_ROPE_LONG}, {"su", HD_ROPE_LONG},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

/* ---- JSON ---- */

static hd_rope_kind read_kind(const hd_json *rope) {
  const char *name = hd_json_get_text(rope, "rope_type", hd_json_get_text(rope, "type", "default"));
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < N_KINDS; i++)
    if (strcmp(kinds[i].name, name) == 0) return kinds[i].kind;
  hd_json_refuse(rope, "rope_type", HD_UNSUPPORTED, "rope type '%s' is not known; known: default, linear, dynamic, yarn, llama3, longrope",
                 hd_short_name(room, name));
  return HD_ROPE_PLAIN;
}

static double positive(const hd_json *rope, const char *key, double missing) {
  double value = hd_json_get_number(rope, key, missing);
  if (!(value > 0)) hd_json_refuse(rope, key, HD_BAD_FILE, "expected a number above 0");
  return value;
}

static const float *read_factors(const hd_json *rope, const char *key, size_t n, hd_arena *arena) {
  hd_json list = hd_json_member(rope, key);
  if (hd_json_count(rope, key) != n) {
    hd_json_refuse(rope, key, HD_BAD_FILE, "expected %zu numbers, found %zu", n, hd_json_count(rope, key));
    return NULL;
  }
  float *factors = hd_arena_alloc(arena, n * sizeof *factors);
  if (!factors) {
    hd_json_refuse(rope, key, HD_OUT_OF_MEMORY, "no memory for %zu numbers", n);
    return NULL;
  }
  const cJSON *item;
  size_t i = 0;
  cJSON_ArrayForEach(item, list.node) {
    factors[i] = cJSON_IsNumber(item) ? (float)item->valuedouble : 0;
    if (!(factors[i++] > 0)) hd_json_refuse(rope, key, HD_BAD_FILE, "expected numbers above 0");
  }
  return factors;
}

/* "YaRN", section 3.4: scores sharpen a little with the factor. */
static double yarn_magnitude(double factor, double by) { return factor > 1 ? 0.1 * by * log(factor) + 1 : 1; }

static void parse_yarn(hd_rope_table_config *c, const hd_json *rope) {
  double all = hd_json_get_number(rope, "mscale_all_dim", 0), some = hd_json_get_number(rope, "mscale", 0);
  double usual = all > 0 && some > 0 ? yarn_magnitude(c->factor, some) / yarn_magnitude(c->factor, all) : yarn_magnitude(c->factor, 1);
  c->low = positive(rope, "beta_slow", 1);
  c->high = positive(rope, "beta_fast", 32);
  c->magnitude = positive(rope, "attention_factor", usual);
  if (!hd_json_get_bool(rope, "truncate", true))
    hd_json_refuse(rope, "truncate", HD_UNSUPPORTED, "bounds that are not rounded are not built");
}

static void parse_long(hd_rope_table_config *c, const hd_json *rope, hd_arena *arena) {
  double usual = c->factor > 1 ? sqrt(1 + log(c->factor) / log(c->original)) : 1;
  c->magnitude = positive(rope, "attention_factor", usual);
  c->short_factors = read_factors(rope, "short_factor", c->head_dim / 2, arena);
  c->long_factors = read_factors(rope, "long_factor", c->head_dim / 2, arena);
}

void hd_rope_parse(hd_rope_table_config *c, const hd_json *rope, size_t positions, hd_arena *arena) {
  c->theta = positive(rope, "rope_theta", c->theta);
  c->kind = read_kind(rope);
  if (c->kind == HD_ROPE_PLAIN || *rope->status != HD_OK) return;
  c->original = positive(rope, "original_max_position_embeddings", c->original > 0 ? c->original : (double)positions);
  bool from_lengths = c->kind == HD_ROPE_LONG || c->kind == HD_ROPE_YARN;
  c->factor = positive(rope, "factor", from_lengths ? (double)positions / c->original : 0);
  if (c->kind == HD_ROPE_YARN) parse_yarn(c, rope);
  if (c->kind == HD_ROPE_LONG) parse_long(c, rope, arena);
  if (c->kind != HD_ROPE_LLAMA3) return;
  c->low = positive(rope, "low_freq_factor", 1);
  c->high = positive(rope, "high_freq_factor", 4);
  if (!(c->high > c->low)) hd_json_refuse(rope, "high_freq_factor", HD_BAD_FILE, "expected more than low_freq_factor, %g", c->low);
}

static void write_factors(cJSON *scaling, const char *key, const float *factors, size_t n) {
  cJSON *list = cJSON_AddArrayToObject(scaling, key);
  for (size_t i = 0; i < n; i++) cJSON_AddItemToArray(list, cJSON_CreateNumber((double)factors[i]));
}

void hd_rope_write(const hd_rope_table_config *c, cJSON *json) {
  if (c->kind == HD_ROPE_PLAIN) return;
  cJSON *scaling = cJSON_AddObjectToObject(json, "rope_scaling");
  for (size_t i = N_KINDS; i-- > 0;)
    if (kinds[i].kind == c->kind && strcmp(kinds[i].name, "su") != 0) cJSON_AddStringToObject(scaling, "rope_type", kinds[i].name);
  cJSON_AddNumberToObject(scaling, "factor", c->factor);
  cJSON_AddNumberToObject(scaling, "original_max_position_embeddings", c->original);
  if (c->magnitude > 0) cJSON_AddNumberToObject(scaling, "attention_factor", c->magnitude);
  if (c->kind == HD_ROPE_YARN || c->kind == HD_ROPE_LLAMA3) {
    cJSON_AddNumberToObject(scaling, c->kind == HD_ROPE_YARN ? "beta_slow" : "low_freq_factor", c->low);
    cJSON_AddNumberToObject(scaling, c->kind == HD_ROPE_YARN ? "beta_fast" : "high_freq_factor", c->high);
  }
  if (c->kind != HD_ROPE_LONG) return;
  write_factors(scaling, "short_factor", c->short_factors, c->head_dim / 2);
  write_factors(scaling, "long_factor", c->long_factors, c->head_dim / 2);
}

/* ---- Frequencies ---- */

/* theta^(2d / head_dim): the positions of a pair's one radian. */
static float period(const hd_rope_table_config *c, double theta, size_t d) {
  return (float)pow(theta, (double)((float)(2 * d) / (float)c->head_dim));
}

static double dynamic_theta(const hd_rope_table_config *c, size_t length) {
  if (!((double)length > c->original)) return c->theta;
  double grown = c->factor * (double)length / c->original - (c->factor - 1), dim = (double)c->head_dim;
  return c->theta * pow(grown, dim / (dim - 2));
}

/* The pair that turns so many times in the training's length. */
static double yarn_bound(const hd_rope_table_config *c, double turns) {
  return (double)c->head_dim * log(c->original / (turns * TWO_PI)) / (2 * log(c->theta));
}

static float yarn(const hd_rope_table_config *c, size_t d) {
  double low = fmax(floor(yarn_bound(c, c->high)), 0), high = fmin(ceil(yarn_bound(c, c->low)), (double)c->head_dim - 1);
  if (low == high) high += 0.001;
  float ramp = ((float)d - (float)low) / (float)(high - low), as_was = 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
  float at = period(c, c->theta, d), slower = 1.0f / ((float)c->factor * at), same = 1.0f / at;
  return slower * (1 - as_was) + same * as_was;
}

static float llama3(const hd_rope_table_config *c, size_t d) {
  float same = 1.0f / period(c, c->theta, d), slower = same / (float)c->factor, wavelength = (float)TWO_PI / same;
  if (wavelength > (float)(c->original / c->low)) return slower;
  if (wavelength < (float)(c->original / c->high)) return same;
  float smooth = ((float)c->original / wavelength - (float)c->low) / (float)(c->high - c->low);
  return (1 - smooth) * slower + smooth * same;
}

double hd_rope_frequency(const hd_rope_table_config *c, size_t d, size_t length) {
  if (c->exact) return 1 / pow(c->theta, (double)(2 * d) / (double)c->head_dim);
  const float *factors = (double)length > c->original ? c->long_factors : c->short_factors;
  switch (c->kind) {
    case HD_ROPE_LINEAR: return (double)(1.0f / period(c, c->theta, d) / (float)c->factor);
    case HD_ROPE_DYNAMIC: return (double)(1.0f / period(c, dynamic_theta(c, length), d));
    case HD_ROPE_YARN: return (double)yarn(c, d);
    case HD_ROPE_LLAMA3: return (double)llama3(c, d);
    case HD_ROPE_LONG: return (double)(1.0f / (factors[d] * period(c, c->theta, d)));
    case HD_ROPE_PLAIN: break;
  }
  return (double)(1.0f / period(c, c->theta, d));
}
