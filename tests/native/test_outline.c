/* Files written tensor by tensor: the bytes of the whole file's writer, and files that must not be begun. */
#include "base/dtype.h"
#include "base/memory.h"
#include "format/format.h"
#include "format/torch_write.h"
#include "format/zip.h"
#include "networks.h"

static const char two[] = "[{\"name\":\"w\",\"dtype\":\"F32\",\"shape\":[2,3]},{\"name\":\"b\",\"dtype\":\"F32\",\"shape\":[3]}]";
static const float values[9] = {1, 2, 3, 4, 5, 6, -1, -2, -3};

/* The file in pieces; *n its length. NULL when a piece fails; the caller frees it. */
static uint8_t *write_in_pieces(const char *format, const char *metadata, size_t *n) {
  hd_outline *o;
  hd_error err;
  uint8_t *file = malloc(4096);
  *n = 0;
  if (!CHECK_EQ(hd_outline_new(&o, format, two, sizeof two - 1, metadata, metadata ? strlen(metadata) : 0, &err), HD_OK)) printf("# %s\n", err.message);
  CHECK_EQ(hd_outline_count(o), 2);
  for (size_t i = 0; i <= 2; i++) {
    size_t n_bytes = 0, n_piece, number = i < 2 ? hd_outline_tensor(o, i, &n_bytes) : 0;
    const void *piece, *tensor = values + (number ? 6 : 0);
    CHECK_EQ(hd_outline_piece(o, i, hd_crc32(0, tensor, n_bytes), &piece, &n_piece, NULL), HD_OK);
    memcpy(file + *n, piece, n_piece);
    memcpy(file + *n + n_piece, tensor, n_bytes);
    *n += n_piece + n_bytes;
  }
  hd_outline_free(o);
  return file;
}

TEST(a_safetensors_file_in_pieces_is_the_one_that_is_written_whole) {
  size_t n, n_want;
  uint8_t *want, *file = write_in_pieces("SafeTensors", NULL, &n);
  CHECK_EQ(hd_safetensors_serialize(&want, &n_want, two, sizeof two - 1, values, 9, NULL), HD_OK);
  if (CHECK_EQ(n, n_want)) CHECK_EQ_BITS(file, want, n);
  hd_bytes_free(want);
  free(file);
}

TEST(a_gguf_file_in_pieces_is_the_one_that_is_written_whole) {
  static const char metadata[] = "{\"general.name\":\"two\",\"n\":7}";
  size_t n, n_want;
  uint8_t *want, *file = write_in_pieces("GGUF", metadata, &n);
  CHECK_EQ(hd_gguf_serialize(&want, &n_want, two, sizeof two - 1, values, 9, metadata, sizeof metadata - 1, NULL), HD_OK);
  if (CHECK_EQ(n, n_want)) CHECK_EQ_BITS(file, want, n);
  hd_bytes_free(want);
  free(file);
}

TEST(a_pytorch_file_in_pieces_is_the_one_that_is_written_whole) {
  size_t n, n_want;
  uint8_t *want, *file = write_in_pieces("PyTorch", NULL, &n);
  hd_torch_writer w;
  hd_torch_writer_start(&w);
  hd_torch_begin_dict(&w);
  hd_torch_write_text(&w, "w");
  hd_torch_write_tensor(&w, &(hd_stored){.dtype = HD_F32, .n_dims = 2, .shape = {2, 3}});
  hd_torch_write_text(&w, "b");
  hd_torch_write_tensor(&w, &(hd_stored){.dtype = HD_F32, .n_dims = 1, .shape = {3}});
  hd_torch_end_dict(&w);
  CHECK_EQ(hd_torch_start(&want, &n_want, &w, NULL), HD_OK);
  memcpy(want + w.tensors[0].begin, values, 24);
  memcpy(want + w.tensors[1].begin, values + 6, 12);
  hd_torch_seal(&w, want);
  if (CHECK_EQ(n, n_want)) CHECK_EQ_BITS(file, want, n);
  hd_torch_writer_free(&w);
  hd_free(want);
  free(file);
}

TEST(a_file_that_cannot_be_is_refused_by_what_is_wrong_with_it) {
  static const struct { const char *format, *json, *message; hd_status status; } cases[] = {
      {"ONNX", "[]", "files of 'ONNX' are not written", HD_UNSUPPORTED},
      {"PyTorch", "[{\"name\":\"a\",\"dtype\":\"Q8_0\",\"shape\":[32]}]", "tensors[0].dtype: PyTorch has no dtype 'Q8_0'", HD_BAD_ARGUMENT},
      {"GGUF", "[{\"name\":\"a\",\"dtype\":\"Q8_0\",\"shape\":[2,16]}]", "tensor a: expected rows of a multiple of 32 values for Q8_0, found 16", HD_BAD_ARGUMENT},
      {"SafeTensors", "{}", "tensors: expected an array of {name, dtype, shape}", HD_BAD_ARGUMENT}};
  size_t before = hd_memory_live();
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_outline *o;
    hd_error err;
    CHECK_EQ(hd_outline_new(&o, cases[i].format, cases[i].json, strlen(cases[i].json), NULL, 0, &err), cases[i].status);
    CHECK_EQ_TEXT(err.message, cases[i].message);
    CHECK(!o);
  }
  static const char *const formats[] = {"SafeTensors", "GGUF", "PyTorch"};
  static const char twice[] = "[{\"name\":\"a\",\"shape\":[1]},{\"name\":\"b\",\"shape\":[1]},{\"name\":\"a\",\"shape\":[1]}]";
  for (size_t i = 0; i < 3; i++) {
    hd_outline *o;
    CHECK_EQ(hd_outline_new(&o, formats[i], twice, sizeof twice - 1, NULL, 0, NULL), HD_BAD_ARGUMENT);
  }
  CHECK_EQ(hd_memory_live(), before);
}

TEST(outlines_without_memory_leak_nothing) {
  static const char *const formats[] = {"SafeTensors", "GGUF", "PyTorch"};
  for (size_t f = 0; f < 3; f++) {
    size_t before = hd_memory_live();
    hd_status status = HD_OUT_OF_MEMORY;
    for (size_t k = 0; status != HD_OK && k < 1000; k++) {
      hd_outline *o;
      hd_memory_fail_after(k);
      status = hd_outline_new(&o, formats[f], two, sizeof two - 1, NULL, 0, NULL);
      hd_memory_fail_after(SIZE_MAX);
      hd_outline_free(o);
      if (!CHECK_EQ(hd_memory_live(), before)) break;
    }
    CHECK_EQ(status, HD_OK);
  }
}

TEST(narrowing_rounds_as_the_dtype_does_and_counts_its_bytes) {
  uint16_t halves[2];
  hd_error err;
  CHECK_EQ(hd_narrow(HD_F16, (const float[]){1, 65520}, 2, halves, sizeof halves, NULL), HD_OK);
  CHECK_EQ(halves[0], 0x3c00);
  CHECK_EQ(halves[1], 0x7c00);
  CHECK_EQ(hd_narrow(HD_F16, (const float[]){1}, 1, halves, 3, &err), HD_BAD_ARGUMENT);
  CHECK_EQ_TEXT(err.message, "1 values of F16 take 2 bytes, found 3");
  CHECK_EQ(hd_narrow(HD_Q4_K, values, 1, halves, 2, &err), HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "float32 values cannot be written as Q4_K");
}
