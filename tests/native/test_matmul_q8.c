/* kernels/matmul_q8.c: see quads.h. */
#include "test.h"

/* The scalar twin, and the same text with the split dot that relaxed modules use. */
#define HD_SIMD_SCALAR
#define hd_layout_q8_0_x4 twin_split
#include "kernels/simd.h"
#undef V_DOT_I8_IS_FAST
#define V_DOT_I8_IS_FAST 1
#include "kernels/matmul_q8.c"
#undef hd_layout_q8_0_x4
extern const hd_layout hd_layout_q8_0_x4;

#define LAYOUT hd_layout_q8_0_x4
#define TWIN twin_split
#define DEFINITION k_reference_matmul_q8_0
#define DTYPE HD_Q8_0

static size_t row_bytes_of(size_t cols) { return cols / BLOCK * FILE_BLOCK_BYTES; }

static void values_of(float *values, const unsigned char *file, size_t rows, size_t cols) { hd_dtype_get(DTYPE)->to_f32(file, values, rows * cols); }

/* Random codes (−128 among them) and scales of every kind: the file may hold any bytes. */
static void fill_rows(unsigned char *blocks, size_t rows, size_t cols) {
  for (size_t b = 0; b < rows * (cols / BLOCK); b++, blocks += FILE_BLOCK_BYTES) {
    uint16_t scale = hd_f32_to_f16(test_random_float() * (b % 7 == 0 ? 1e-6f : 0.02f));
    blocks[0] = (unsigned char)(scale & 0xff);
    blocks[1] = (unsigned char)(scale >> 8);
    for (size_t i = 2; i < FILE_BLOCK_BYTES; i++) blocks[i] = (unsigned char)(b % 5 == 0 ? 0x80 : test_random() & 0xff);
  }
}

#define SIZES
#include "quads.h"

TEST(packed_bytes_are_small_and_checked) {
  size_t bytes;
  CHECK(hd_layout_q8_0_x4.bytes(4, 32, &bytes) && bytes <= 4 * 32 * 5 / 4);
  CHECK(hd_layout_q8_0_x4.bytes(5, 32, &bytes) && bytes <= 8 * 32 * 5 / 4);
  CHECK(!hd_layout_q8_0_x4.bytes(4, 31, &bytes));
  const hd_matrix one_column = {&hd_layout_q8_0_x4, 4, 1, NULL};
  CHECK(hd_layout_q8_0_x4.scratch_bytes(&one_column, SIZE_MAX / 16) == SIZE_MAX); /* a block of 32 for each row of one */
  CHECK(!hd_layout_q8_0_x4.bytes(SIZE_MAX, 32, &bytes) && !hd_layout_q8_0_x4.bytes(SIZE_MAX / 64, 1024, &bytes));
}
