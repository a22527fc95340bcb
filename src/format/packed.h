/* format/packed.h: matrices that lie in several tensors, as MLX and MLX-Node write them: `X.weight` has codes, `X.scales` a scale for each
 * group of them in a row, `X.biases` what is added, `X.global_scale` a factor for all.
 *
 *   mode       X.weight                    X.scales              X.biases     value                    groups of
 *   affine     U32, 2 3 4 5 6 8 bits       F32 F16 BF16          as scales    scale · code + bias      32, 64, 128
 *   mxfp4      U32, F4                     U8, an F8_E8M0        none         scale · code             32
 *   mxfp8      U32, F8_E4M3                U8, an F8_E8M0        none         scale · code             32
 *   nvfp4      U32, F4                     U8, an F8_E4M3        none         (scale · global) · code  16
 *   fp8_e4m3   U8, F8_E4M3                 F32 F16 BF16 [N, 1]   none         scale · code             a row
 *   sym8       I8                          F32 F16 BF16 [N]      none         scale · code             a row
 *   sym8_groups I8                         F32 F16 BF16          none         scale · code             any (llama2.c's version 2)
 *
 * Several matrices of one shape may lie in one of each, as experts do: [experts, N, …], which are the rows of one matrix here.
 *
 * A row of codes is one stream of bits, the lowest of each byte first: code i of b bits has the bits [i·b, i·b + b), and U32 words are its
 * little-endian bytes. Every product and every sum is one float32 rounding.
 *
 * Which mode it is, config.json says ("quantization", with exceptions under the names of single weights); what it leaves out, dtypes and
 * shapes say. Affine weights may leave out their biases where it gives a "symmetric_zero_point" z: bias = −z · scale. */
#ifndef HD_FORMAT_PACKED_H
#define HD_FORMAT_PACKED_H

#include "base/json.h"
#include "heddle.h"

typedef enum hd_part { HD_PART_WEIGHT, HD_PART_SCALES, HD_PART_BIASES, HD_PART_GLOBAL, HD_N_PARTS } hd_part;

/* The suffix of a part's name: ".weight", ".scales", … */
const char *hd_part_suffix(hd_part part);
/* Which part a tensor of this name would be, with the length of what stands before the suffix; HD_N_PARTS: none. */
hd_part hd_part_of(const char *name, size_t *base_bytes);
/* Whether codes may lie in that dtype. */
bool hd_packed_dtype(hd_dtype dtype);

typedef struct hd_packed_mode hd_packed_mode;

/* What config.json says of one weight; 0 and NULL where it says nothing. */
typedef struct hd_packing {
  const hd_packed_mode *mode;
  size_t bits, group_size;
  float zero_point;
} hd_packing;

/* `quantization` is config.json's member of that name (node NULL: it has none), `base` the weight's name without ".weight". */
hd_status hd_packing_find(hd_packing *said, const hd_json *quantization, const char *base, hd_error *err);

/* One matrix of rows × cols values. */
typedef struct hd_packed {
  const hd_packed_mode *mode;
  size_t rows, cols;
  size_t bits, group_size;             /* values of a group lie side by side in a row */
  size_t row_bytes;                    /* of codes */
  const hd_entry *entry[HD_N_PARTS];   /* the caller's; biases and global may be NULL */
  float zero_point;
  float *scales, *biases;              /* [rows, cols / group_size]; NULL until they have come; no biases: NULL */
  float global;
  bool has[HD_N_PARTS];                /* the parts that have come */
} hd_packed;

/* Checks the parts' dtypes and shapes against each other, what is said, and cols (0: follows from what is said). Nothing is allocated. */
hd_status hd_packed_open(hd_packed *packed, const hd_entry *const parts[HD_N_PARTS], const hd_packing *said, size_t cols, hd_error *err);
/* All bytes of a part that is not the weight. */
hd_status hd_packed_take(hd_packed *packed, hd_part part, const void *bytes, hd_error *err);
/* The part that is still missing before rows can be decoded; HD_N_PARTS: none. */
hd_part hd_packed_lacks(const hd_packed *packed);
/* Rows [first, first + n) from their codes. */
void hd_packed_rows(const hd_packed *packed, size_t first, size_t n, const uint8_t *codes, float *values);
void hd_packed_close(hd_packed *packed);

/* The same of sym8: each row its F32 scale and its codes, as rows of INT8 are. */
void hd_packed_int8_rows(const hd_packed *packed, size_t first, size_t n, const uint8_t *codes, uint8_t *rows);

/* "affine, 4 bits, groups of 64" */
#define HD_PACKED_ROOM 64
const char *hd_packed_text(char room[HD_PACKED_ROOM], const hd_packed *packed);
/* What such weights are kept as where nobody asks: INT8 holds sym8 as it is, F16 the floats of 8 bits, Q8_0 the rest. */
hd_dtype hd_packed_kept(const hd_packed *packed);
/* Whether they become that dtype without rounding: F32 is what they are defined in. */
bool hd_packed_fits(const hd_packed *packed, hd_dtype dtype);

#endif
