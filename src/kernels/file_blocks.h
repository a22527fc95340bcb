/* kernels/file_blocks.h: layouts of quads.h whose rows are blocks of a file, kept bit for bit. To pack, to unpack, to round and to look
 * up is one text over what moves one block. */
#ifndef HD_KERNELS_FILE_BLOCKS_H
#define HD_KERNELS_FILE_BLOCKS_H

#include "kernels/quads.h"

enum { MOST_FILE_BYTES = 34 };

typedef struct file_blocks {
  const quad_form *form;
  hd_dtype dtype;
  size_t bytes; /* of one in the file */
  void (*put)(void *quad_block, size_t r, const unsigned char *from);
  void (*get)(const void *quad_block, size_t r, unsigned char *to);
} file_blocks;

static inline void *file_block_at(const file_blocks *f, const hd_matrix *w, size_t row, size_t block) {
  return quad_at(w, f->form, row) + block * f->form->block_bytes;
}

/* Rows of padding behind the last are zeros. */
static void pack_file_blocks(const file_blocks *f, const hd_matrix *w, size_t first, size_t n, const void *from) {
  static const unsigned char zero[MOST_FILE_BYTES];
  const unsigned char *block = from;
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++)
    for (size_t b = 0; b < w->cols / BLOCK; b++, block += row < first + n ? f->bytes : 0)
      f->put(file_block_at(f, w, row, b), row % ROWS, row < first + n ? block : zero);
}

static void round_file_blocks(const file_blocks *f, const hd_matrix *w, size_t first, size_t n, const float *from) {
  for (size_t row = first; row < first + quads_of(n) * ROWS; row++)
    for (size_t b = 0; b < w->cols / BLOCK; b++, from += row < first + n ? BLOCK : 0) {
      unsigned char block[MOST_FILE_BYTES] = {0};
      if (row < first + n) hd_dtype_get(f->dtype)->from_f32(from, block, BLOCK);
      f->put(file_block_at(f, w, row, b), row % ROWS, block);
    }
}

static void unpack_file_blocks(const file_blocks *f, const hd_matrix *w, size_t first, size_t n, void *to) {
  unsigned char *out = to;
  for (size_t row = first; row < first + n; row++)
    for (size_t b = 0; b < w->cols / BLOCK; b++, out += f->bytes) f->get(file_block_at(f, w, row, b), row % ROWS, out);
}

static void row_of_file_blocks(const file_blocks *f, const hd_matrix *w, size_t index, float *to) {
  unsigned char block[MOST_FILE_BYTES];
  for (size_t b = 0; b < w->cols / BLOCK; b++) {
    f->get(file_block_at(f, w, index, b), index % ROWS, block);
    hd_dtype_get(f->dtype)->to_f32(block, to + b * BLOCK, BLOCK);
  }
}

/* The scale, a file's F16 at a block's begin, from and to float32. */
static inline float scale_of_file(const unsigned char *block) { return hd_f16_to_f32((uint16_t)(block[0] | block[1] << 8)); }

static inline void scale_to_file(unsigned char *block, float scale) {
  const uint16_t bits = hd_f32_to_f16(scale);
  block[0] = (unsigned char)(bits & 0xffu);
  block[1] = (unsigned char)(bits >> 8);
}

#endif
