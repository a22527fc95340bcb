/* kernels/matmul_int8.c: see quads.h; rows of any width, and codes against the reference of symmetric int8. */
#include "golden.h"

/* The scalar twin, and the same text with the split dot that relaxed modules use. */
#define HD_SIMD_SCALAR
#define hd_layout_int8_x4 twin_split
#include "kernels/simd.h"
#undef V_DOT_I8_IS_FAST
#define V_DOT_I8_IS_FAST 1
#include "kernels/matmul_int8.c"
#undef hd_layout_int8_x4
extern const hd_layout hd_layout_int8_x4;

#define LAYOUT hd_layout_int8_x4
#define TWIN twin_split
#define DEFINITION k_reference_matmul_int8

static size_t row_bytes_of(size_t cols) { return sizeof(float) + cols; }

/* Random codes (−128 among them) and scales of every kind. */
static void fill_rows(unsigned char *file, size_t rows, size_t cols) {
  for (size_t r = 0; r < rows; r++, file += row_bytes_of(cols)) {
    float scale = test_random_float() * (r % 7 == 6 ? 1e-30f : 0.02f);
    memcpy(file, &scale, sizeof scale);
    for (size_t i = 0; i < cols; i++) file[sizeof scale + i] = (unsigned char)(r % 5 == 4 ? 0x80 : test_random() & 0xff);
  }
}

static void values_of(float *values, const unsigned char *file, size_t rows, size_t cols) {
  for (size_t r = 0; r < rows; r++) {
    const unsigned char *row = file + r * row_bytes_of(cols);
    float scale;
    memcpy(&scale, row, sizeof scale);
    for (size_t c = 0; c < cols; c++) values[r * cols + c] = (float)(int8_t)row[sizeof scale + c] * scale;
  }
}

#define SIZES {1, 1}, {5, 33}, {4, 172}, {9, 31},
#include "quads.h"

/* shared/fixtures/quant/int8_affine: q = clamp(rint(x / scale)), scale = max|x| / 127 of each row. */
TEST(rows_from_float32_are_symmetric_int8_as_the_reference_makes_it) {
  golden_file file;
  if (golden_open(&file, "tests/golden/quant/int8_affine.safetensors")) {
    size_t n_x, n_q, n_scales;
    float *x = golden_tensor(&file, "x", &n_x), *scales = golden_tensor(&file, "sym_per_channel0_i8.scale", &n_scales);
    int8_t *q = golden_tensor(&file, "sym_per_channel0_i8.q", &n_q);
    example e = example_of(4, 6, 0);
    unsigned char back[4 * (sizeof(float) + 6)];
    e.w.layout->from_f32(&e.w, 0, 4, x);
    e.w.layout->unpack(&e.w, 0, 4, back);
    for (size_t r = 0; r < 4; r++) {
      CHECK_EQ_BITS(back + r * 10, scales + r, sizeof *scales);
      CHECK_EQ_BITS(back + r * 10 + 4, q + r * 6, 6);
    }
    free(x);
    free(q);
    free(scales);
    free_example(&e);
  }
  golden_close(&file);
}

TEST(odd_rows_become_codes) {
  const float rows[5][3] = {{0, -0.0f, 0}, {1e-45f, 0, -1e-45f}, {NAN, 1, -127}, {INFINITY, 1, 2}, {3e38f, -3e38f, 1}};
  example e = example_of(5, 3, 0);
  unsigned char back[5][7];
  for (size_t first = 0; first < 5; first += 4) e.w.layout->from_f32(&e.w, first, first ? 1 : 4, rows[first]);
  e.w.layout->unpack(&e.w, 0, 5, back);
  CHECK_EQ_BITS(back[0], ((const unsigned char[7]){0}), 7);
  CHECK_EQ_BITS(back[1] + 4, ((const int8_t[3]){0, 0, 0}), 3); /* the scale rounds to 0 */
  CHECK_EQ_BITS(back[2] + 4, ((const int8_t[3]){0, 1, -127}), 3);
  CHECK_EQ_BITS(back[3] + 4, ((const int8_t[3]){0, 0, 0}), 3);
  CHECK_EQ_BITS(back[4] + 4, ((const int8_t[3]){127, -127, 0}), 3);
  free_example(&e);
}

TEST(packed_bytes_are_small_and_checked) {
  size_t bytes;
  CHECK(hd_layout_int8_x4.bytes(4, 1024, &bytes) && bytes == 4 * 1024 * 17 / 16 + 16);
  CHECK(hd_layout_int8_x4.bytes(5, 33, &bytes) && bytes == 2 * (2 * 136 + 16));
  CHECK(!hd_layout_int8_x4.bytes(SIZE_MAX, 32, &bytes) && !hd_layout_int8_x4.bytes(SIZE_MAX / 64, 4096, &bytes));
  CHECK(!hd_layout_int8_x4.bytes(4, SIZE_MAX, &bytes));
}
