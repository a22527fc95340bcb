/* format/affine.c: affine integer codes, fitted. */
#include "format/affine.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const hd_affine_dtype dtypes[] = {
    {"int8", 1, true, INT8_MIN, INT8_MAX},
    {"int16", 2, true, INT16_MIN, INT16_MAX},
    {"uint8", 1, false, 0, UINT8_MAX},
    {"uint16", 2, false, 0, UINT16_MAX},
};
enum { N_DTYPES = sizeof dtypes / sizeof *dtypes };

const hd_affine_dtype *hd_affine_at(size_t index) { return index < N_DTYPES ? &dtypes[index] : NULL; }

const hd_affine_dtype *hd_affine_find(const char *name) {
  for (size_t i = 0; i < N_DTYPES; i++)
    if (strcmp(dtypes[i].name, name) == 0) return &dtypes[i];
  return NULL;
}

/* ---- Channels ---- */

static size_t per_channel(const hd_channels *c) { return c->n_channels ? c->n / c->n_channels : 0; }

/* Where value i of a channel lies. */
static size_t place_of(const hd_channels *c, size_t channel, size_t i) {
  return c->interleaved ? i * c->n_channels + channel : channel * per_channel(c) + i;
}

static size_t channel_of(const hd_channels *c, size_t place) { return c->interleaved ? place % c->n_channels : place / per_channel(c); }

/* ---- Fitting ---- */

/* The code of w: halves go to the even one. */
static int32_t code_of(float w, const hd_affine *a, int32_t low, int32_t high) {
  float code = rintf(w / a->scale) + (float)a->zero_point;
  return code <= (float)low ? low : code >= (float)high ? high : (int32_t)code;
}

/* Steps of the codes that span the values; 1 where they are all 0, or too small for a step. A span past the
 * largest float32 is cut into steps first. */
static float step_of(float low, float high, float n_steps) {
  float span = high - low, step = isfinite(span) ? span / n_steps : high / n_steps - low / n_steps;
  return step > 0 ? step : 1;
}

static hd_affine fit(const hd_affine_dtype *dtype, bool symmetric, float low, float high) {
  if (symmetric) return (hd_affine){step_of(0, fmaxf(-low, high), (float)dtype->high), 0};
  hd_affine a = {.scale = step_of(low, high, (float)dtype->high - (float)dtype->low)};
  a.zero_point = (int32_t)fminf(fmaxf(rintf((float)dtype->low - low / a.scale), (float)dtype->low), (float)dtype->high);
  return a;
}

void hd_affine_fit(const hd_affine_dtype *dtype, bool symmetric, const float *values, const hd_channels *channels, hd_affine *fitted) {
  for (size_t c = 0; c < channels->n_channels; c++) {
    float low = 0, high = 0;
    for (size_t i = 0; i < per_channel(channels); i++) {
      float w = values[place_of(channels, c, i)];
      low = fminf(low, w);
      high = fmaxf(high, w);
    }
    fitted[c] = fit(dtype, symmetric, low, high);
  }
}

/* ---- Codes ---- */

void hd_affine_encode(const hd_affine_dtype *dtype, bool symmetric, const float *values, const hd_channels *channels,
                      const hd_affine *fitted, uint8_t *codes) {
  int32_t low = symmetric ? -dtype->high : dtype->low;
  for (size_t i = 0; i < channels->n; i++) {
    uint32_t code = (uint32_t)code_of(values[i], &fitted[channel_of(channels, i)], low, dtype->high);
    for (size_t b = 0; b < dtype->width; b++) codes[i * dtype->width + b] = (uint8_t)(code >> 8 * b);
  }
}

static int32_t read_code(const hd_affine_dtype *dtype, const uint8_t *bytes) {
  int32_t code = 0;
  for (size_t b = 0; b < dtype->width; b++) code |= (int32_t)bytes[b] << 8 * b;
  return dtype->is_signed && code > dtype->high ? code - (dtype->high - dtype->low + 1) : code;
}

void hd_affine_decode(const hd_affine_dtype *dtype, const uint8_t *codes, const hd_channels *channels,
                      const hd_affine *fitted, float *values) {
  for (size_t i = 0; i < channels->n; i++) {
    const hd_affine *a = &fitted[channel_of(channels, i)];
    float w = (float)(read_code(dtype, codes + i * dtype->width) - a->zero_point) * a->scale;
    values[i] = fminf(fmaxf(w, -FLT_MAX), FLT_MAX); /* the last step of the largest weights may lie past float32's end */
  }
}
