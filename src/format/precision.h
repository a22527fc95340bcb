/* format/precision.h: the encodings of Loom's second weight form (shared/formats/loom.md, section a, form 2): one row each. */
#ifndef HD_FORMAT_PRECISION_H
#define HD_FORMAT_PRECISION_H

#include "heddle.h"

/* An element is a code of `bits` bits. Codes of 8 bits and more lie in little-endian order; of two 4-bit codes in a byte the first has the
 * high half, and an odd count ends with `filler`, which reads back as one element more. */
typedef struct hd_precision {
  const char *name;                            /* "float32", "uint8" */
  unsigned bits;                               /* 4, 8, 16, 32 or 64 */
  uint64_t filler;
  double scale;                                /* what Loom writes beside such weights, whatever they are */
  uint64_t (*encode)(float value, double scale);
  float (*decode)(uint64_t code, double scale);
} hd_precision;

/* By name; NULL when Loom has none of it. */
const hd_precision *hd_precision_find(const char *name);
const hd_precision *hd_precision_at(size_t index); /* NULL past the last */

/* Bytes that n values take; values that n bytes hold, whole ones only. */
size_t hd_precision_bytes(const hd_precision *p, size_t n);
size_t hd_precision_count(const hd_precision *p, size_t n_bytes);

void hd_precision_encode(const hd_precision *p, const float *values, size_t n, uint8_t *bytes);
/* n as hd_precision_count gave it. A scale of 0 counts as 1. */
void hd_precision_decode(const hd_precision *p, const uint8_t *bytes, size_t n, double scale, float *values);

#endif
