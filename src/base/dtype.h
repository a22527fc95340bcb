/* base/dtype.h: what is known of each dtype, one row each. A new dtype is one enum value and one row in dtype.c. */
#ifndef HD_BASE_DTYPE_H
#define HD_BASE_DTYPE_H

#include "heddle.h"

#include <string.h>

typedef struct hd_dtype_info {
  const char *name;        /* as files write it: "F32", "Q8_0" */
  size_t block_values;     /* values that are stored together: 1, or 32 for Q8_0 */
  size_t block_bytes;
  bool ragged;             /* the last block may be short: it is as long as the others */
  bool ggml;               /* one of GGML's blocks: in GGUF files */
  bool safetensors;        /* SafeTensors has it */
  /* n values, a multiple of block_values unless ragged. F32 values round to nearest even on the way down; integers saturate. NULL where
   * there is no such way: C64 has no values that a float is, K-quants and IQ are only read, INT8 needs to know
   * where rows end (kernels/matrix.h). */
  void (*to_f32)(const void *from, float *to, size_t n);
  void (*from_f32)(const float *from, void *to, size_t n);
} hd_dtype_info;

const hd_dtype_info *hd_dtype_get(hd_dtype dtype);
/* HD_DTYPE_COUNT when the name is unknown. Names are case-sensitive, as in SafeTensors. */
hd_dtype hd_dtype_find(const char *name, size_t n);
/* Bytes of n values; false on overflow or when n is no multiple of the block (and the dtype not ragged). */
bool hd_dtype_bytes(hd_dtype dtype, size_t n, size_t *bytes);

/* Fails when the tensor's values cannot become float32. */
hd_status hd_dtype_decodes(hd_dtype dtype, const char *tensor, hd_error *err);

static inline uint32_t hd_bits_of_f32(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float hd_f32_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* The top bits of `magnitude` after a shift of 1 … 31 to the right, rounded to nearest even. */
static inline uint32_t hd_shift_right_even(uint32_t magnitude, unsigned shift) {
  uint32_t kept = magnitude >> shift, dropped = magnitude & ((1u << shift) - 1u), half = 1u << (shift - 1);
  return kept + (dropped > half || (dropped == half && (kept & 1u)));
}

float hd_f16_to_f32(uint16_t bits);
uint16_t hd_f32_to_f16(float value); /* nearest even; overflow to infinity; NaN stays NaN */
float hd_bf16_to_f32(uint16_t bits);
uint16_t hd_f32_to_bf16(float value);

/* Elements of a shape; false on overflow. */
bool hd_shape_count(int n_dims, const size_t *shape, size_t *count);

#endif
