/* kernels/matmul_q4.c: see quads.h. */
#include "test.h"

/* The scalar twin, and the same text with the split dot that relaxed modules use. */
#define HD_SIMD_SCALAR
#define hd_layout_q4_0_x4 twin_split
#include "kernels/simd.h"
#undef V_DOT_I8_IS_FAST
#define V_DOT_I8_IS_FAST 1
#include "kernels/matmul_q4.c"
#undef hd_layout_q4_0_x4
extern const hd_layout hd_layout_q4_0_x4;

#define LAYOUT hd_layout_q4_0_x4
#define TWIN twin_split
#define DEFINITION k_reference_matmul_q4_0
#define DTYPE HD_Q4_0

static size_t row_bytes_of(size_t cols) { return cols / BLOCK * FILE_BLOCK_BYTES; }

static void values_of(float *values, const unsigned char *file, size_t rows, size_t cols) { hd_dtype_get(DTYPE)->to_f32(file, values, rows * cols); }

/* Random codes (whole blocks of −8 among them) and scales of every kind: the file may hold any bytes. */
static void fill_rows(unsigned char *blocks, size_t rows, size_t cols) {
  for (size_t b = 0; b < rows * (cols / BLOCK); b++, blocks += FILE_BLOCK_BYTES) {
    uint16_t scale = hd_f32_to_f16(test_random_float() * (b % 7 == 0 ? 1e-6f : 0.3f));
    blocks[0] = (unsigned char)(scale & 0xff);
    blocks[1] = (unsigned char)(scale >> 8);
    for (size_t i = 2; i < FILE_BLOCK_BYTES; i++) blocks[i] = (unsigned char)(b % 5 == 0 ? 0 : test_random() & 0xff);
  }
}

#define SIZES
#include "quads.h"

TEST(rows_from_float32_are_ggmls_blocks) {
  float *values = test_random_floats(7 * 64);
  unsigned char blocks[7 * 2 * FILE_BLOCK_BYTES], back[sizeof blocks];
  hd_dtype_get(HD_Q4_0)->from_f32(values, blocks, 7 * 64);
  example e = example_of(7, 64, 0);
  for (size_t first = 0; first < 7; first += 4) e.w.layout->from_f32(&e.w, first, 7 - first < 4 ? 7 - first : 4, values + first * 64);
  e.w.layout->unpack(&e.w, 0, 7, back);
  CHECK_EQ_BITS(back, blocks, sizeof blocks);
  free(values);
  free_example(&e);
}

TEST(packed_bytes_are_small_and_checked) {
  size_t bytes;
  CHECK(hd_layout_q4_0_x4.bytes(4, 32, &bytes) && bytes == 4 * 32 * 5 / 8);
  CHECK(hd_layout_q4_0_x4.bytes(5, 64, &bytes) && bytes == 8 * 64 * 5 / 8);
  CHECK(!hd_layout_q4_0_x4.bytes(4, 31, &bytes));
  CHECK(!hd_layout_q4_0_x4.bytes(SIZE_MAX, 32, &bytes) && !hd_layout_q4_0_x4.bytes(SIZE_MAX / 64, 4096, &bytes));
}
