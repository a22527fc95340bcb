/* format/affine.h: integers with a scale and a zero point fitted to what they stand for: w = scale · (code − zero point). One row each. */
#ifndef HD_FORMAT_AFFINE_H
#define HD_FORMAT_AFFINE_H

#include "heddle.h"

typedef struct hd_affine_dtype {
  const char *name;  /* "int8" */
  size_t width;      /* bytes of a code, little-endian */
  bool is_signed;
  int32_t low, high; /* symmetric codes do not use `low` but −high */
} hd_affine_dtype;

/* NULL when there is none of that name; NULL past the last. */
const hd_affine_dtype *hd_affine_find(const char *name);
const hd_affine_dtype *hd_affine_at(size_t index);

typedef struct hd_affine {
  float scale;
  int32_t zero_point;
} hd_affine;

/* n values in n_channels equal parts that have an hd_affine each: one after the other, or interleaved
 * (value i is of channel i mod n_channels). */
typedef struct hd_channels {
  size_t n, n_channels;
  bool interleaved;
} hd_channels;

/* Fits each channel. Symmetric: scale = max|w| / high, zero point 0. Else scale = (max − min) / (high − low) with 0 among the values, and
 * zero point = low − min / scale, rounded: 0 is a code in both. A channel of zeros has the scale 1. Values are finite. All in float32. */
void hd_affine_fit(const hd_affine_dtype *dtype, bool symmetric, const float *values, const hd_channels *channels, hd_affine *fitted);

/* code = w / scale + zero point, rounded to nearest even, clamped (to ±high when symmetric). */
void hd_affine_encode(const hd_affine_dtype *dtype, bool symmetric, const float *values, const hd_channels *channels,
                      const hd_affine *fitted, uint8_t *codes);
void hd_affine_decode(const hd_affine_dtype *dtype, const uint8_t *codes, const hd_channels *channels,
                      const hd_affine *fitted, float *values);

#endif
