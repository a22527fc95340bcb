/* SafeTensors headers: what is read, every refusal with its message, and the shared malformed files by their names. */
#define _DEFAULT_SOURCE
#include "base/memory.h"
#include "format/format.h"
#include "hostile.h"

#include <dirent.h>

/* A file of this header and n bytes of zeros as data, in a block of exactly its size. */
static uint8_t *make_file(const char *header, size_t n_data, size_t *n) {
  size_t length = strlen(header);
  *n = 8 + length + n_data;
  uint8_t *file = calloc(1, *n);
  for (size_t i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)length >> (8 * i));
  memcpy(file + 8, header, length);
  return file;
}

/* Reads the directory as a host does: what the reader wants and not a byte more, in chunks of 7. */
static hd_status read_file(hd_directory **out, const uint8_t *file, size_t n, hd_error *err) {
  hd_reader *reader;
  uint64_t begin, end;
  *out = NULL;
  hd_status status = hd_reader_new(&reader, n, err);
  while (status == HD_OK && hd_reader_wants(reader, &begin, &end)) {
    CHECK(begin <= end && end <= n);
    size_t bytes = end - begin < 7 ? (size_t)(end - begin) : 7;
    uint8_t *chunk = malloc(bytes ? bytes : 1);
    memcpy(chunk, file + begin, bytes);
    status = hd_reader_give(reader, chunk, bytes, err);
    free(chunk);
  }
  if (status == HD_OK) status = hd_reader_finish(out, reader, err);
  CHECK((*out != NULL) == (status == HD_OK));
  hd_reader_free(reader);
  return status;
}

static hd_directory *read_header(const char *header, size_t n_data) {
  hd_error err = {0};
  hd_directory *directory;
  size_t n;
  uint8_t *file = make_file(header, n_data, &n);
  if (!CHECK(read_file(&directory, file, n, &err) == HD_OK)) printf("# %s\n", err.message);
  free(file);
  return directory;
}

static void check_refused(const char *header, size_t n_data, hd_status code, const char *message) {
  hd_error err = {0};
  hd_directory *directory;
  size_t n, before = hd_memory_live();
  uint8_t *file = make_file(header, n_data, &n);
  CHECK(read_file(&directory, file, n, &err) == code);
  CHECK(err.code == code);
  CHECK_EQ_TEXT(err.message, message);
  CHECK(read_file(&directory, file, n, NULL) == code);
  CHECK(hd_memory_live() == before);
  free(file);
}

TEST(safetensors_reads_names_dtypes_shapes_and_places) {
  static const char header[] =
      "{\"__metadata__\":{\"format\":\"pt\",\"who\":\"h\\u00e9\"},"
      "\"b\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[4,28]},"
      "\"a\":{\"data_offsets\":[0,4],\"shape\":[2],\"dtype\":\"BF16\",\"note\":{\"more\":[1]}}}   \n";
  hd_directory *d = read_header(header, 28);
  if (!d) return;
  uint64_t start = 8 + strlen(header);
  const hd_entry *first = hd_directory_entry(d, 0), *b = hd_directory_find(d, "b");
  CHECK(hd_directory_count(d) == 2 && hd_directory_entry(d, 2) == NULL);
  CHECK_EQ_TEXT(first->name, "a"); /* in the order of their places */
  CHECK(first->dtype == HD_BF16 && first->n_dims == 1 && first->shape[0] == 2 && first->begin == start && first->end == start + 4);
  CHECK(b && b->dtype == HD_F32 && b->n_dims == 2 && b->shape[0] == 2 && b->shape[1] == 3 && b->end == start + 28);
  CHECK(hd_directory_find(d, "c") == NULL && hd_directory_find(d, "__metadata__") == NULL);
  const char *key, *value;
  CHECK(hd_directory_metadata(d, 0, &key, &value));
  CHECK_EQ_TEXT(key, "format");
  CHECK_EQ_TEXT(value, "pt");
  CHECK(hd_directory_metadata(d, 1, &key, &value));
  CHECK_EQ_TEXT(value, "hé");
  CHECK(!hd_directory_metadata(d, 2, &key, &value));
  hd_directory_free(d);
}

TEST(safetensors_reads_scalars_and_empty_tensors) {
  hd_directory *d = read_header("{\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
                                "\"e\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[8,8]},"
                                "\"e0\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},"
                                "\"t\":{\"dtype\":\"BOOL\",\"shape\":[1,1,1,1,1,1,1,1],\"data_offsets\":[8,9]}}", 9);
  if (!d) return;
  CHECK(hd_directory_find(d, "s")->n_dims == 0);
  CHECK(hd_directory_find(d, "e")->begin == hd_directory_find(d, "e")->end);
  CHECK(hd_directory_find(d, "t")->n_dims == 8);
  CHECK_EQ_TEXT(hd_directory_entry(d, 0)->name, "e0");
  hd_directory_free(d);
  d = read_header("{}", 0);
  CHECK(d && hd_directory_count(d) == 0 && hd_directory_find(d, "x") == NULL);
  hd_directory_free(d);
}

TEST(safetensors_reads_all_dtypes_of_the_format) {
  static const struct { const char *name; size_t bits; } dtypes[] = {
      {"F64", 64}, {"F32", 32}, {"F16", 16}, {"BF16", 16}, {"I64", 64}, {"I32", 32}, {"I16", 16}, {"I8", 8}, {"U64", 64}, {"U32", 32}, {"U16", 16},
      {"U8", 8}, {"BOOL", 8}, {"C64", 64}, {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"F8_E8M0", 8},
      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};
  for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
    char header[200];
    size_t bytes = 12 * dtypes[i].bits / 8;
    snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[3,4],\"data_offsets\":[0,%zu]}}", dtypes[i].name, bytes);
    hd_directory *d = read_header(header, bytes);
    if (d) CHECK_EQ_TEXT(hd_dtype_name(hd_directory_entry(d, 0)->dtype), dtypes[i].name);
    hd_directory_free(d);
  }
}

#define TENSOR(name, dtype, shape, offsets) "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

TEST(safetensors_refuses_a_size_that_is_not_the_shapes) {
  check_refused("{" TENSOR("model.layers.0.mlp.up_proj.weight", "BF16", "[2816,1024]", "[0,5767160]") "}", 0, HD_BAD_FILE,
                "tensor \"model.layers.0.mlp.up_proj.weight\": shape [2816, 1024] of BF16 needs 5767168 bytes, data_offsets span 5767160");
}

TEST(safetensors_refuses_codes_that_end_inside_a_byte) {
  check_refused("{" TENSOR("a", "F6_E2M3", "[3]", "[0,3]") "}", 3, HD_BAD_FILE, "tensor \"a\": shape [3] of F6_E2M3 does not end where a byte does");
  check_refused("{" TENSOR("a", "F6_E3M2", "[3,3,2]", "[0,14]") "}", 14, HD_BAD_FILE,
                "tensor \"a\": shape [3, 3, 2] of F6_E3M2 does not end where a byte does");
  check_refused("{" TENSOR("a", "F6_E3M2", "[2,6]", "[0,8]") "}", 8, HD_BAD_FILE,
                "tensor \"a\": shape [2, 6] of F6_E3M2 needs 9 bytes, data_offsets span 8");
}

TEST(safetensors_refuses_overlapping_offsets) {
  check_refused("{" TENSOR("a", "U8", "[4]", "[0,4]") "," TENSOR("b", "U8", "[4]", "[2,6]") "}", 6, HD_BAD_FILE,
                "tensor \"b\": begins at 2 of the data, inside \"a\", which ends at 4");
  check_refused("{" TENSOR("a", "U8", "[4]", "[0,4]") "," TENSOR("b", "U8", "[4]", "[0,4]") "}", 4, HD_BAD_FILE,
                "tensor \"b\": begins at 0 of the data, inside \"a\", which ends at 4");
  check_refused("{" TENSOR("a", "U8", "[4]", "[0,4]") "," TENSOR("z", "U8", "[0]", "[2,2]") "}", 4, HD_BAD_FILE,
                "tensor \"z\": begins at 2 of the data, inside \"a\", which ends at 4");
}

TEST(safetensors_refuses_holes_and_uncovered_data) {
  check_refused("{" TENSOR("a", "U8", "[2]", "[0,2]") "," TENSOR("b", "U8", "[2]", "[3,5]") "}", 5, HD_BAD_FILE,
                "tensor \"b\": expected to begin at 2 of the data, found 3 (a hole)");
  check_refused("{" TENSOR("a", "U8", "[2]", "[1,3]") "}", 3, HD_BAD_FILE,
                "tensor \"a\": expected to begin at 0 of the data, found 1 (a hole)");
  check_refused("{" TENSOR("a", "U8", "[2]", "[0,2]") "}", 3, HD_BAD_FILE,
                "SafeTensors: expected a file of 63 bytes, found 64: no tensor has the rest");
  check_refused("{" TENSOR("a", "U8", "[2]", "[0,2]") "}", 1, HD_BAD_FILE,
                "tensor \"a\": data_offsets end at 2, the file has 1 bytes of data");
}

TEST(safetensors_refuses_numbers_that_overflow) {
  check_refused("{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, HD_BAD_FILE,
                "tensor \"a\": shape [4294967296, 4294967296] of F32 needs more bytes than 64 bits can count");
  check_refused("{" TENSOR("a", "F32", "[4611686018427387904]", "[0,0]") "}", 0, HD_BAD_FILE,
                "tensor \"a\": shape [4611686018427387904] of F32 needs more bytes than 64 bits can count");
  check_refused("{" TENSOR("a", "F32", "[18446744073709551616]", "[0,0]") "}", 0, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 37: expected a number that fits a 64-bit whole number, found 18446744073709551616");
  check_refused("{" TENSOR("a", "U8", "[18446744073709551615]", "[1,0]") "}", 0, HD_BAD_FILE,
                "tensor \"a\": expected data_offsets in order, found [1, 0]");
  check_refused("{" TENSOR("a", "U8", "[18446744073709551615]", "[0,18446744073709551615]") "}", 9, HD_BAD_FILE,
                "tensor \"a\": data_offsets end at 18446744073709551615, the file has 9 bytes of data");
}

TEST(safetensors_refuses_numbers_that_are_not_whole) {
  check_refused("{" TENSOR("a", "U8", "[-1]", "[0,0]") "}", 0, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 36: expected a whole number, found '-'");
  check_refused("{" TENSOR("a", "U8", "[1.0]", "[0,1]") "}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 36: expected a whole number, found '1'");
  check_refused("{" TENSOR("a", "U8", "[\"1\"]", "[0,1]") "}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 36: expected a whole number, found '\"'");
}

TEST(safetensors_refuses_incomplete_and_strange_records) {
  check_refused("{\"a\":{\"shape\":[],\"data_offsets\":[0,1]}}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 46: expected dtype in the record, found none");
  check_refused("{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 48: expected shape in the record, found none");
  check_refused("{\"a\":{\"dtype\":\"U8\",\"shape\":[]}}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 38: expected data_offsets in the record, found none");
  check_refused("{\"a\":{\"dtype\":\"U8\",\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[0,1]}}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 35: expected dtype once, found it twice");
  check_refused("{" TENSOR("a", "U8", "[]", "[0]") "}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 56: expected two data_offsets, found less");
  check_refused("{" TENSOR("a", "U8", "[]", "[0,1,2]") "}", 1, HD_BAD_FILE,
                "tensor \"a\": SafeTensors header: byte 58: expected two data_offsets, found a third");
  check_refused("{\"a\":7}", 0, HD_BAD_FILE, "tensor \"a\": SafeTensors header: byte 13: expected an object ('{'), found '7'");
  check_refused("{" TENSOR("a", "U8", "[1,1,1,1,1,1,1,1,1]", "[0,1]") "}", 1, HD_UNSUPPORTED,
                "tensor \"a\": SafeTensors header: byte 52: expected a shape of at most 8 dimensions, found more");
}

TEST(safetensors_refuses_dtypes_it_does_not_know_by_name) {
  static const char *const names[] = {"F6", "F8", "f32", "Q8_0", "Q4_K", "", "F32 "};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char header[200], message[300];
    snprintf(header, sizeof header, "{\"t\":{\"dtype\":\"%s\",\"shape\":[],\"data_offsets\":[0,1]}}", names[i]);
    snprintf(message, sizeof message, "tensor \"t\": SafeTensors header: byte %zu: expected a dtype that we read, found \"%s\"",
             24 + strlen(names[i]), names[i]);
    check_refused(header, 1, HD_UNSUPPORTED, message);
  }
}

TEST(safetensors_refuses_a_name_that_comes_twice) {
  check_refused("{" TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("a", "U8", "[1]", "[1,2]") "}", 2, HD_BAD_FILE,
                "tensor \"a\": expected every name once, found it twice");
  check_refused("{" TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("\\u0061", "U8", "[1]", "[1,2]") "}", 2, HD_BAD_FILE,
                "tensor \"a\": expected every name once, found it twice");
  check_refused("{" TENSOR("a\\u0000b", "U8", "[1]", "[0,1]") "}", 1, HD_BAD_FILE,
                "SafeTensors header: byte 20: expected a name without NUL characters, found one");
}

TEST(safetensors_refuses_metadata_that_is_not_strings) {
  check_refused("{\"__metadata__\":{\"a\":1}}", 0, HD_BAD_FILE,
                "__metadata__: SafeTensors header: byte 29: expected a string, found '1'");
  check_refused("{\"__metadata__\":[]}", 0, HD_BAD_FILE,
                "__metadata__: SafeTensors header: byte 24: expected an object ('{'), found '['");
  check_refused("{\"__metadata__\":{},\"__metadata__\":{}}", 0, HD_BAD_FILE,
                "SafeTensors header: byte 42: expected __metadata__ once, found it twice");
}

TEST(safetensors_refuses_metadata_keys_that_come_twice) {
  check_refused("{\"__metadata__\":{\"b\":\"1\",\"a\":\"2\",\"b\":\"1\"}}", 0, HD_BAD_FILE, "metadata \"b\": expected every key once, found it twice");
}

TEST(safetensors_refuses_headers_that_are_not_json_objects) {
  check_refused("", 0, HD_BAD_FILE, "SafeTensors header: byte 8: expected an object ('{'), found the end of the text");
  check_refused("[]", 0, HD_BAD_FILE, "SafeTensors header: byte 8: expected an object ('{'), found '['");
  check_refused("{} x", 0, HD_BAD_FILE, "SafeTensors header: byte 11: expected the end of the text, found 'x'");
  check_refused("{\"a\xff\":1}", 0, HD_BAD_FILE, "SafeTensors header: byte 11: expected UTF-8, found byte 0xFF");
}

TEST(safetensors_names_in_messages_are_shortened) {
  char header[4096], long_name[3001];
  hd_error err;
  hd_directory *directory;
  size_t n;
  memset(long_name, 'n', 3000);
  long_name[3000] = '\0';
  snprintf(header, sizeof header, "{\"%s.weight\":{\"dtype\":\"U8\",\"shape\":[5],\"data_offsets\":[0,4]}}", long_name);
  uint8_t *file = make_file(header, 4, &n);
  CHECK(read_file(&directory, file, n, &err) == HD_BAD_FILE);
  CHECK(strlen(err.message) < 300 && strstr(err.message, "…") && strstr(err.message, ".weight\": shape [5] of U8 needs 5 bytes"));
  free(file);
}

TEST(directory_says_what_a_file_is_not) {
  static const struct {
    const char *bytes;
    size_t n;
    uint64_t file_bytes;
    hd_status code;
    const char *message;
  } cases[] = {
      {"", 0, 0, HD_BAD_FILE, "expected a weight file (GGUF, PyTorch, NumPy, llama2.c, SafeTensors), found 0 bytes that start with nothing"},
      {"abc", 3, 3, HD_BAD_FILE, "expected a weight file (GGUF, PyTorch, NumPy, llama2.c, SafeTensors), found 3 bytes that start with 61 62 63"},
      {"\x89PNG\r\n\x1a\n....", 12, 900, HD_BAD_FILE, "expected a weight file (GGUF, PyTorch, NumPy, llama2.c, SafeTensors), found 900 bytes that start with 89 50 4e 47 0d 0a 1a 0a"},
      {"abc", 3, 30, HD_BAD_FILE, "expected a weight file (GGUF, PyTorch, NumPy, llama2.c, SafeTensors), found 30 bytes that start with 61 62 63"},
      {"\x02\0\0\0\0\0\0\0{}", 10, 9, HD_BAD_ARGUMENT, "expected at most the file's 9 bytes, found 10"},
      {"\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, 10, HD_BAD_FILE,
       "SafeTensors: byte 0: expected a header of at most 100000000 bytes, found a length of 18446744073709551615"},
      {"\x01\xe1\xf5\x05\0\0\0\0{}", 10, 200000000, HD_BAD_FILE,
       "SafeTensors: byte 0: expected a header of at most 100000000 bytes, found a length of 100000001"},
      {"\x03\0\0\0\0\0\0\0{}", 10, 10, HD_BAD_FILE, "SafeTensors: byte 0: expected a header within the file's 10 bytes, found a length of 3"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    hd_error err = {0};
    hd_directory *directory;
    CHECK(hd_directory_read(&directory, cases[i].bytes, cases[i].n, cases[i].file_bytes, &err) == cases[i].code);
    CHECK_EQ_TEXT(err.message, cases[i].message);
    CHECK(directory == NULL);
  }
}

/* Bytes [*begin, *end) are wanted of a file that starts with 512 zero bytes but for a SafeTensors header's length. */
static hd_status first_want(hd_reader *reader, uint32_t length, uint64_t *begin, uint64_t *end, hd_error *err) {
  uint8_t first[512] = {0};
  memcpy(first, &length, sizeof length);
  CHECK(hd_reader_wants(reader, begin, end) && *begin == 0 && *end == sizeof first);
  hd_status status = hd_reader_give(reader, first, sizeof first, err);
  if (status == HD_OK) CHECK(hd_reader_wants(reader, begin, end));
  return status;
}

TEST(a_reader_goes_on_from_the_bytes_it_has) {
  hd_reader *reader;
  uint64_t begin, end;
  hd_error err;
  hd_directory *directory;
  CHECK(hd_reader_new(&reader, UINT64_C(5000000000), &err) == HD_OK);
  CHECK(first_want(reader, 1000000, &begin, &end, &err) == HD_OK);
  CHECK(begin == 512 && end == 1000008);
  CHECK(hd_reader_give(reader, &begin, 0, &err) == HD_OK);
  CHECK(hd_reader_finish(&directory, reader, &err) == HD_BAD_STATE);
  CHECK(directory == NULL);
  hd_reader_free(reader);
}

TEST(bytes_nobody_asked_for_are_refused) {
  hd_reader *reader;
  hd_error err;
  CHECK(hd_reader_new(&reader, 4, &err) == HD_OK);
  CHECK(hd_reader_give(reader, "12345", 5, &err) == HD_BAD_ARGUMENT);
  CHECK_EQ_TEXT(err.message, "5 bytes of the file that were not asked for");
  hd_reader_free(reader);
  hd_directory *directory;
  CHECK(hd_directory_read(&directory, "\x20\0\0\0\0\0\0\0{}", 10, 100, &err) == HD_BAD_ARGUMENT);
  CHECK_EQ_TEXT(err.message, "SafeTensors: expected the file up to byte 40, found its first 10");
}

TEST(directory_offsets_go_past_four_gigabytes) {
  static const char header[] = "{" TENSOR("a", "U8", "[3000000000]", "[0,3000000000]") "," TENSOR("b", "U8", "[2]", "[3000000000,3000000002]")
                               "," TENSOR("c", "U8", "[3000000000]", "[3000000002,6000000002]") "}";
  size_t n;
  hd_directory *directory;
  uint8_t *file = make_file(header, 0, &n);
  CHECK(hd_directory_read(&directory, file, n, n + UINT64_C(6000000002), NULL) == HD_OK);
  if (directory) CHECK(hd_directory_find(directory, "c")->end == n + UINT64_C(6000000002));
  hd_directory_free(directory);
  free(file);
}

TEST(a_tensor_larger_than_memory_can_address_is_unsupported) {
  if (SIZE_MAX > UINT32_MAX) SKIP("size_t has 64 bits");
  static const char header[] = "{" TENSOR("a", "U8", "[5000000000]", "[0,5000000000]") "}";
  size_t n;
  hd_directory *directory;
  hd_error err;
  uint8_t *file = make_file(header, 0, &n);
  CHECK(hd_directory_read(&directory, file, n, n + UINT64_C(5000000000), &err) == HD_UNSUPPORTED);
  CHECK_EQ_TEXT(err.message, "tensor \"a\": shape [5000000000] of U8 is more than this memory can address");
  free(file);
}

TEST(directory_finds_every_one_of_many_names_and_copies_them_without_metadata) {
  enum { N = 3000 };
  char *header = malloc(N * 80 + 10);
  size_t at = (size_t)sprintf(header, "{\"__metadata__\":{\"k\":\"v\"}");
  for (int i = 0; i < N; i++) /* last name first in the data */
    at += (size_t)sprintf(header + at, ",\"t%d\":{\"dtype\":\"U8\",\"shape\":[2],\"data_offsets\":[%d,%d]}", i, (N - 1 - i) * 2, (N - i) * 2);
  strcpy(header + at, "}");
  hd_directory *d = read_header(header, N * 2), *copy = d ? hd_directory_copy(d) : NULL;
  free(header);
  hd_directory_free(d);
  if (!CHECK(copy != NULL)) return;
  for (int i = 0; i < N; i++) {
    char name[16];
    snprintf(name, sizeof name, "t%d", i);
    const hd_entry *entry = hd_directory_find(copy, name);
    CHECK(entry && entry == hd_directory_entry(copy, (size_t)(N - 1 - i)));
  }
  const char *key, *value;
  CHECK(!hd_directory_metadata(copy, 0, &key, &value)); /* a GGUF's can be megabytes */
  hd_directory_free(copy);
}

TEST(safetensors_without_memory_leaks_nothing) {
  static const char header[] = "{\"__metadata__\":{\"k\":\"v\"}," TENSOR("a", "U8", "[1]", "[0,1]") "," TENSOR("b", "U8", "[1]", "[1,2]") "}";
  size_t n_file, n = 0, before = hd_memory_live();
  uint8_t *file = make_file(header, 2, &n_file);
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 100; n++) {
    hd_directory *directory, *copy = NULL;
    hd_error err = {0};
    hd_memory_fail_after(n);
    status = hd_directory_read(&directory, file, n_file, n_file, &err);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(status == HD_OK || (status == HD_OUT_OF_MEMORY && *err.message));
    for (size_t k = 0; status == HD_OK && !copy && k < 100; k++) {
      hd_memory_fail_after(k);
      copy = hd_directory_copy(directory);
      hd_memory_fail_after(SIZE_MAX);
    }
    CHECK((copy != NULL) == (status == HD_OK));
    hd_directory_free(copy);
    hd_directory_free(directory);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 5);
  free(file);
}

static void check_hostile(const char *piece, const char *first, const char *last) {
  size_t n, n_file;
  char *header = repeat_to_a_megabyte(first, piece, last, &n);
  uint8_t *file = make_file(header, 0, &n_file);
  hd_directory *directory;
  hd_error err = {0};
  cost c = begin_cost();
  hd_status status = hd_directory_read(&directory, file, n_file, n_file, &err);
  hd_directory_free(directory);
  end_cost(c, piece, n_file, status, &err);
  free(file);
  free(header);
}

TEST(safetensors_takes_a_hostile_megabyte_quickly_and_in_little_memory) {
  check_hostile("\"%x\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", "{", "}");
  check_hostile("\"\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", "{", "}");
  check_hostile("\"\":\"\",", "{\"__metadata__\":{", "}}");
  check_hostile("\"%x\":\"%x\",", "{\"__metadata__\":{", "}}");
  check_hostile("1,", "{\"a\":{\"shape\":[", "]}}");
  check_hostile("[", "{\"a\":{\"other\":", "}}");
}

TEST(safetensors_malformed_files_are_judged_as_their_names_say) {
  static const char folder[] = HEDDLE_SHARED_DIR "/fixtures/real/safetensors-malformed";
  DIR *directory = opendir(folder);
  if (!directory) SKIP("shared/fixtures/real/safetensors-malformed is not here");
  unsigned n_files = 0;
  for (struct dirent *item; (item = readdir(directory));) {
    const char *name = item->d_name;
    if (!strstr(name, ".safetensors")) continue;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "rb");
    uint8_t *whole = malloc(100000);
    size_t n = fread(whole, 1, 100000, stream);
    fclose(stream);
    hd_error err = {0};
    hd_directory *read;
    /* "either-header-starts-with-space": we read it, as the reference does. "gap-or-trailing" is a refusal, says its README. */
    bool accept = strncmp(name, "accept-", 7) == 0 || strncmp(name, "either-", 7) == 0;
    bool is_read = read_file(&read, whole, n, &err) == HD_OK;
    if (!CHECK(is_read == accept)) printf("# %s: %s\n", name, err.message);
    hd_directory_free(read);
    free(whole);
    n_files++;
  }
  closedir(directory);
  printf("# safetensors-malformed: %u files\n", n_files);
  CHECK(n_files >= 22);
}
