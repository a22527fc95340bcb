/* GGUF headers: what is read, every refusal with its message, the shared malformed files by their names, and the values of every tensor type. */
#define _DEFAULT_SOURCE
#include "base/dtype.h"
#include "base/memory.h"
#include "format/format.h"
#include "golden.h"
#include "hostile.h"

#include <dirent.h>

/* ---- Files made here ---- */

typedef struct maker {
  uint8_t *bytes;
  size_t n, room;
} maker;

static void put(maker *m, const void *bytes, size_t n) {
  while (m->n + n > m->room) m->bytes = realloc(m->bytes, m->room = m->room * 2 + n + 64);
  memcpy(m->bytes + m->n, bytes, n);
  m->n += n;
}
static void put_u32(maker *m, uint32_t value) { put(m, &value, sizeof value); } /* the hosts of these tests are little-endian */
static void put_u64(maker *m, uint64_t value) { put(m, &value, sizeof value); }
static void put_text(maker *m, const char *text) {
  put_u64(m, strlen(text));
  put(m, text, strlen(text));
}

static maker start(uint32_t version, uint64_t n_tensors, uint64_t n_pairs) {
  maker m = {0};
  put(&m, "GGUF", 4);
  put_u32(&m, version);
  put_u64(&m, n_tensors);
  put_u64(&m, n_pairs);
  return m;
}

/* A tensor of two sizes, innermost first as files have them. */
static void put_tensor(maker *m, const char *name, uint64_t inner, uint64_t outer, uint32_t type, uint64_t offset) {
  put_text(m, name);
  put_u32(m, 2);
  put_u64(m, inner);
  put_u64(m, outer);
  put_u32(m, type);
  put_u64(m, offset);
}

static void put_data(maker *m, size_t alignment, size_t n) {
  while (m->n % alignment) put(m, "", 1);
  for (size_t i = 0; i < n; i++) put(m, "", 1);
}

/* Reads the directory as a host does: what the reader wants and not a byte more, in chunks of 997. `n_read`: bytes it took. */
static hd_status read_file(hd_directory **out, const uint8_t *file, size_t n, size_t *n_read, hd_error *err) {
  hd_reader *reader;
  uint64_t begin, end;
  *out = NULL;
  hd_status status = hd_reader_new(&reader, n, err);
  while (status == HD_OK && hd_reader_wants(reader, &begin, &end)) {
    CHECK(begin <= end && end <= n);
    size_t bytes = end - begin < 997 ? (size_t)(end - begin) : 997;
    uint8_t *chunk = malloc(bytes ? bytes : 1);
    memcpy(chunk, file + begin, bytes);
    if (n_read) *n_read += bytes;
    status = hd_reader_give(reader, chunk, bytes, err);
    free(chunk);
  }
  if (status == HD_OK) status = hd_reader_finish(out, reader, err);
  CHECK((*out != NULL) == (status == HD_OK));
  hd_reader_free(reader);
  return status;
}

static hd_directory *read_made(maker *m) {
  hd_error err = {0};
  hd_directory *directory;
  if (!CHECK(read_file(&directory, m->bytes, m->n, NULL, &err) == HD_OK)) printf("# %s\n", err.message);
  free(m->bytes);
  return directory;
}

static void check_refused(maker m, hd_status code, const char *message) {
  hd_error err = {0};
  hd_directory *directory;
  size_t before = hd_memory_live();
  CHECK(read_file(&directory, m.bytes, m.n, NULL, &err) == code);
  CHECK_EQ_TEXT(err.message, message);
  CHECK(hd_directory_read(&directory, m.bytes, m.n, m.n, NULL) == code);
  CHECK(hd_memory_live() == before);
  free(m.bytes);
}

/* ---- A hostile megabyte ---- */

static void check_hostile(maker m, const char *what) {
  hd_directory *directory;
  hd_error err = {0};
  cost c = begin_cost();
  hd_status status = read_file(&directory, m.bytes, m.n, NULL, &err);
  CHECK(status == HD_OK);
  hd_directory_free(directory);
  end_cost(c, what, m.n, status, &err);
  free(m.bytes);
}

static maker one_array(uint32_t kind, size_t bytes, uint8_t fill) {
  maker m = start(3, 0, 1);
  size_t n = ((size_t)1 << 20) / bytes;
  put_text(&m, "k"), put_u32(&m, 9), put_u32(&m, kind), put_u64(&m, n);
  for (size_t i = 0; i < n * bytes; i++) put(&m, &fill, 1);
  return m;
}

TEST(gguf_takes_a_hostile_megabyte_quickly_and_in_little_memory) {
  check_hostile(one_array(7, 1, 0), "bools");
  check_hostile(one_array(1, 1, 0x80), "i8");
  check_hostile(one_array(6, 4, 0x80), "f32");
  check_hostile(one_array(12, 8, 0x80), "f64");
  check_hostile(one_array(8, 8, 0), "empty strings");
  check_hostile(one_array(9, 12, 0), "empty arrays");
  maker m = start(3, 0, 1);
  put_text(&m, "k"), put_u32(&m, 8), put_u64(&m, MEGABYTE);
  for (int i = 0; i < MEGABYTE; i++) put(&m, "\1", 1);
  check_hostile(m, "a string of control characters");
  enum { N_PAIRS = 66000, N_TENSORS = 39000 };
  m = start(3, 0, N_PAIRS);
  for (uint32_t i = 0; i < N_PAIRS; i++) put_u64(&m, 3), put(&m, (char[3]){(char)(1 + i % 100), (char)(1 + i / 100 % 100), (char)(1 + i / 10000)}, 3), put_u32(&m, 7), put(&m, "", 1);
  check_hostile(m, "pairs");
  m = start(3, N_TENSORS, 0);
  for (uint32_t i = 0; i < N_TENSORS; i++)
    put_u64(&m, 3), put(&m, (char[3]){(char)(1 + i % 100), (char)(1 + i / 100 % 100), (char)(1 + i / 10000)}, 3), put_u32(&m, 1), put_u64(&m, 0), put_u32(&m, 0), put_u64(&m, 0);
  check_hostile(m, "tensors");
}

static const char *value_of(const hd_directory *d, const char *key) {
  const char *value = hd_directory_value(d, key);
  return value ? value : "(none)";
}

/* ---- What is read ---- */

TEST(gguf_reads_names_types_shapes_and_places) {
  maker m = start(3, 2, 2);
  put_text(&m, "general.architecture"), put_u32(&m, 8), put_text(&m, "llama");
  put_text(&m, "general.alignment"), put_u32(&m, 4), put_u32(&m, 64);
  put_tensor(&m, "b", 64, 3, 8, 64); /* 3 rows of 64 values, Q8_0 */
  put_tensor(&m, "a", 2, 5, 1, 0);
  put_data(&m, 64, 64 + 204);
  uint64_t data = m.n - 64 - 204;
  hd_directory *d = read_made(&m);
  if (!d) return;
  const hd_entry *a = hd_directory_entry(d, 0), *b = hd_directory_find(d, "b");
  CHECK_EQ_TEXT(hd_directory_format(d), "GGUF");
  CHECK_EQ_TEXT(a->name, "a"); /* in the order of their places */
  CHECK(a->dtype == HD_F16 && a->n_dims == 2 && a->shape[0] == 5 && a->shape[1] == 2 && a->begin == data && a->end == data + 20);
  CHECK(b && b->dtype == HD_Q8_0 && b->shape[0] == 3 && b->shape[1] == 64 && b->begin == data + 64 && b->end == data + 64 + 204);
  CHECK_EQ_TEXT(value_of(d, "general.architecture"), "\"llama\"");
  CHECK(hd_directory_metadata_is_json(d, 0) && !hd_directory_metadata_is_json(d, 2));
  hd_directory_free(d);
}

TEST(gguf_metadata_are_json) {
  maker m = start(2, 0, 8);
  float floats[5] = {0.1f, -0.0f, INFINITY, NAN, 1e10f};
  put_text(&m, "f"), put_u32(&m, 9), put_u32(&m, 6), put_u64(&m, 5), put(&m, floats, sizeof floats);
  put_text(&m, "s"), put_u32(&m, 8), put_u64(&m, 13), put(&m, "a\"\\\n\t\0\x7f\xc3\xa9\xff\xe2\x82z", 13);
  put_text(&m, "u"), put_u32(&m, 10), put_u64(&m, UINT64_MAX);
  put_text(&m, "i"), put_u32(&m, 11), put_u64(&m, UINT64_C(1) << 63);
  put_text(&m, "e"), put_u32(&m, 9), put_u32(&m, 8), put_u64(&m, 0);
  double large = 1e300;
  put_text(&m, "d"), put_u32(&m, 12), put(&m, &large, 8);
  put_text(&m, "t"), put_u32(&m, 7), put(&m, "\1", 1);
  put_text(&m, "n"), put_u32(&m, 9), put_u32(&m, 9), put_u64(&m, 2), put_u32(&m, 7), put_u64(&m, 1), put(&m, "", 1), put_u32(&m, 1), put_u64(&m, 1), put(&m, "\x80", 1);
  hd_directory *d = read_made(&m);
  if (!d) return;
  CHECK_EQ_TEXT(value_of(d, "f"), "[0.10000000149011612,-0.0,1e999,null,10000000000.0]");
  CHECK_EQ_TEXT(value_of(d, "s"), "\"a\\\"\\\\\\n\\u0009\\u0000\x7f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\"");
  CHECK_EQ_TEXT(value_of(d, "u"), "18446744073709551615");
  CHECK_EQ_TEXT(value_of(d, "i"), "-9223372036854775808");
  CHECK_EQ_TEXT(value_of(d, "e"), "[]");
  CHECK_EQ_TEXT(value_of(d, "d"), "1.0000000000000001e+300");
  CHECK_EQ_TEXT(value_of(d, "t"), "true");
  CHECK_EQ_TEXT(value_of(d, "n"), "[[false],[-128]]");
  hd_directory_free(d);
}

TEST(gguf_reads_a_scalar_an_empty_tensor_and_holes) {
  maker m = start(3, 3, 0);
  put_text(&m, "s"), put_u32(&m, 0), put_u32(&m, 28), put_u64(&m, 64);
  put_tensor(&m, "e", 0, 3, 0, 0);
  put_tensor(&m, "t", 2, 2, 24, 0);
  put_data(&m, 32, 64 + 8);
  hd_directory *d = read_made(&m);
  if (!d) return;
  CHECK(hd_directory_find(d, "s")->n_dims == 0 && hd_directory_find(d, "s")->dtype == HD_F64);
  CHECK(hd_directory_find(d, "e")->begin == hd_directory_find(d, "e")->end);
  CHECK(hd_directory_find(d, "t")->end - hd_directory_find(d, "t")->begin == 4);
  hd_directory_free(d);
}

/* 150 000 tokens: the window grows some ten times, and no more than twice the header is read. */
TEST(gguf_reads_a_large_vocabulary_with_little_more_than_its_header) {
  maker m = start(3, 1, 2);
  enum { N = 150000 };
  put_text(&m, "tokenizer.ggml.tokens"), put_u32(&m, 9), put_u32(&m, 8), put_u64(&m, N);
  for (int i = 0; i < N; i++) {
    char token[16];
    snprintf(token, sizeof token, "t%d", i);
    put_text(&m, token);
  }
  put_text(&m, "tokenizer.ggml.scores"), put_u32(&m, 9), put_u32(&m, 6), put_u64(&m, N);
  for (int i = 0; i < N; i++) {
    float score = (float)-i / 3;
    put(&m, &score, 4);
  }
  put_tensor(&m, "a", 4, 2000000, 0, 0);
  size_t header = m.n, n_read = 0;
  put_data(&m, 32, 0);
  m.bytes = realloc(m.bytes, m.n + 32000000);
  memset(m.bytes + m.n, 0, 32000000);
  m.n += 32000000;
  hd_directory *d;
  clock_t begin = clock();
  CHECK(read_file(&d, m.bytes, m.n, &n_read, NULL) == HD_OK);
  double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
  if (!CHECK(seconds < 2)) printf("# %.2f s\n", seconds); /* with sanitizers */
  CHECK(n_read < 2 * header);
  if (d) {
    const char *tokens = value_of(d, "tokenizer.ggml.tokens");
    CHECK(strncmp(tokens, "[\"t0\",\"t1\",", 11) == 0 && strcmp(tokens + strlen(tokens) - 11, ",\"t149999\"]") == 0);
  }
  hd_directory_free(d);
  free(m.bytes);
}

TEST(a_gguf_header_by_itself_is_listed_and_not_read) {
  maker m = start(3, 1, 0);
  put_tensor(&m, "test.weight", 64, 128, 0, 0);
  hd_directory *d;
  hd_error err = {0};
  CHECK(read_file(&d, m.bytes, m.n, NULL, &err) == HD_OK);
  CHECK(hd_directory_count(d) == 1);
  CHECK(hd_directory_check_data(d, &err) == HD_BAD_FILE);
  CHECK_EQ_TEXT(err.message, "tensor \"test.weight\": its data would end at byte 32864, the file ends at 75");
  hd_directory_free(d);
  CHECK(hd_directory_read(&d, m.bytes, m.n, m.n, &err) == HD_BAD_FILE && !d);
  free(m.bytes);
}

/* ---- What is refused ---- */

static maker with_pair(const char *key, uint32_t kind, const void *value, size_t n) {
  maker m = start(3, 0, 1);
  put_text(&m, key), put_u32(&m, kind), put(&m, value, n);
  return m;
}

static maker with_tensor(uint64_t inner, uint64_t outer, uint32_t type, uint64_t offset, size_t n_data) {
  maker m = start(3, 1, 0);
  put_tensor(&m, "w", inner, outer, type, offset);
  put_data(&m, 32, n_data);
  return m;
}

TEST(gguf_refuses_what_it_cannot_be) {
  check_refused(start(1, 0, 0), HD_UNSUPPORTED, "GGUF: byte 4: expected version 2 or 3, found 1");
  check_refused(start(0x03000000, 0, 0), HD_UNSUPPORTED,
                "GGUF: byte 4: version 3 the other way around: the file is big-endian, expected a little-endian one");
  check_refused(start(3, 1, 0), HD_BAD_FILE, "GGUF: 1 tensors do not fit the file's 24 bytes");
  check_refused(start(3, 0, UINT64_MAX), HD_BAD_FILE, "GGUF: 18446744073709551615 metadata pairs do not fit the file's 24 bytes");
}

TEST(gguf_refuses_metadata_that_break_the_format) {
  check_refused(with_pair("k", 13, "....", 4), HD_BAD_FILE, "GGUF: byte 37: metadata pair 0: expected a value type from 0 to 12, found 13");
  check_refused(with_pair("k", 7, "\2", 1), HD_BAD_FILE, "GGUF: byte 38: metadata pair \"k\": expected a bool of 0 or 1, found 2");
  check_refused(with_pair("k", 10, "\2", 1), HD_BAD_FILE, "GGUF: byte 37: metadata pair 0: expected 8 bytes more, found 1 to the file's end");
  check_refused(with_pair("k", 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8), HD_BAD_FILE,
                "GGUF: byte 45: metadata pair 0: expected 18446744073709551615 bytes more, found 0 to the file's end");
  check_refused(with_pair("k", 9, "\4\0\0\0\0\0\0\0\0\0\0\x40", 12), HD_BAD_FILE,
                "GGUF: byte 49: metadata pair 0: an array of 4611686018427387904 u32 does not fit the file's other 0 bytes");
  check_refused(with_pair("\xff", 0, "\1", 1), HD_BAD_FILE, "GGUF: byte 33: metadata pair 0: expected a key in UTF-8, found byte 0xFF");
  check_refused(with_pair("general.alignment", 4, "\3\0\0\0", 4), HD_BAD_FILE,
                "GGUF: byte 53: metadata pair \"general.alignment\": expected a power of two as u32, found u32 3");
  check_refused(with_pair("general.alignment", 10, "\x20\0\0\0\0\0\0\0", 8), HD_BAD_FILE,
                "GGUF: byte 53: metadata pair \"general.alignment\": expected a power of two as u32, found u64 0");
  maker m = start(3, 0, 2);
  for (int i = 0; i < 2; i++) put_text(&m, "a.b"), put_u32(&m, 0), put(&m, "", 1);
  check_refused(m, HD_BAD_FILE, "metadata \"a.b\": expected every key once, found it twice");
}

TEST(gguf_refuses_tensors_that_break_the_format) {
  check_refused(with_tensor(48, 2, 8, 0, 512), HD_BAD_FILE, "GGUF: byte 65: tensor \"w\": expected rows of a multiple of 32 values for Q8_0, found 48");
  check_refused(with_tensor(64, 2, 17, 0, 512), HD_UNSUPPORTED, "GGUF: byte 57: tensor \"w\": its type is IQ2_XS, which is not read");
  check_refused(with_tensor(64, 2, 99, 0, 512), HD_UNSUPPORTED, "GGUF: byte 57: tensor \"w\": expected a GGML type that we know, found 99");
  check_refused(with_tensor(64, 2, 0, 8, 1024), HD_BAD_FILE, "GGUF: byte 65: tensor \"w\": expected an offset that is a multiple of 32, found 8");
  check_refused(with_tensor(64, 2, 0, 32, 512), HD_BAD_FILE, "GGUF: byte 65: tensor \"w\": its 512 bytes at 32 of the data do not lie within the 512 there are");
  check_refused(with_tensor(64, 2, 0, UINT64_MAX - 31, 512), HD_BAD_FILE,
                "GGUF: byte 65: tensor \"w\": its 512 bytes at 18446744073709551584 of the data do not lie within the 512 there are");
  check_refused(with_tensor(UINT64_C(1) << 33, UINT64_C(1) << 33, 0, 0, 512), HD_BAD_FILE, "GGUF: byte 65: tensor \"w\": its sizes' product passes 64 bits");
  check_refused(with_tensor(UINT64_C(1) << 31, UINT64_C(1) << 31, 28, 0, 512), HD_BAD_FILE, "GGUF: byte 65: tensor \"w\": its bytes pass 64 bits");
  maker m = start(3, 1, 0);
  put_text(&m, "w"), put_u32(&m, 9);
  for (int i = 0; i < 20; i++) put_u64(&m, 1);
  check_refused(m, HD_UNSUPPORTED, "GGUF: byte 37: tensor 0: expected at most 8 dimensions, found 9");
}

TEST(gguf_refuses_tensors_that_share_bytes_or_a_name) {
  maker m = start(3, 2, 0);
  put_tensor(&m, "a", 32, 1, 0, 0), put_tensor(&m, "b", 32, 1, 0, 96);
  put_data(&m, 32, 224);
  check_refused(m, HD_BAD_FILE, "GGUF: tensor \"b\" begins at byte 224, inside \"a\", which ends at 256");
  m = start(3, 2, 0);
  put_tensor(&m, "a", 32, 1, 0, 0), put_tensor(&m, "a", 32, 1, 0, 128);
  put_data(&m, 32, 256);
  check_refused(m, HD_BAD_FILE, "tensor \"a\": expected every name once, found it twice");
}

/* Every file cut anywhere is refused, but where only padding is lost; nothing is read past its end. */
TEST(gguf_cut_anywhere_is_refused) {
  maker m = start(3, 1, 2);
  put_text(&m, "k"), put_u32(&m, 9), put_u32(&m, 8), put_u64(&m, 2), put_text(&m, "one"), put_text(&m, "two");
  put_text(&m, "l"), put_u32(&m, 5), put_u32(&m, 7);
  put_tensor(&m, "w", 4, 2, 0, 0);
  size_t header = m.n;
  put_data(&m, 32, 32);
  for (size_t n = 0; n <= m.n; n++) {
    uint8_t *cut = malloc(n ? n : 1);
    memcpy(cut, m.bytes, n);
    hd_directory *d;
    hd_error err = {0};
    hd_status status = read_file(&d, cut, n, NULL, &err);
    bool only_header = n >= header && n <= m.n - 32;
    if (!CHECK((status == HD_OK) == (only_header || n == m.n))) printf("# %zu of %zu bytes: %s\n", n, m.n, err.message);
    hd_directory_free(d);
    free(cut);
  }
  free(m.bytes);
}

/* Here the step fails that has made the directory's room already: taken again it would make it again. */
TEST(a_reader_that_refused_a_file_wants_nothing_and_takes_nothing) {
  maker m = start(3, 2, 0);
  put_tensor(&m, "a", 1, 1, 0, 0);
  put_tensor(&m, "a", 1, 1, 0, 32);
  put_data(&m, 32, 64);
  const size_t before = hd_memory_live();
  hd_reader *reader;
  hd_directory *directory;
  uint64_t begin = 0, end = 0;
  hd_error err;
  CHECK(hd_reader_new(&reader, m.n, &err) == HD_OK && hd_reader_wants(reader, &begin, &end));
  CHECK(hd_reader_give(reader, m.bytes, (size_t)(end - begin), &err) == HD_BAD_FILE);
  CHECK(!hd_reader_wants(reader, &begin, &end));
  CHECK(hd_reader_give(reader, NULL, 0, &err) == HD_BAD_STATE);
  CHECK_EQ_TEXT(err.message, "the reader has refused the file already");
  CHECK(hd_reader_finish(&directory, reader, &err) == HD_BAD_STATE && directory == NULL);
  hd_reader_free(reader);
  CHECK(hd_memory_live() == before);
  free(m.bytes);
}

TEST(gguf_without_memory_leaks_nothing) {
  maker m = start(3, 2, 2);
  put_text(&m, "k"), put_u32(&m, 8), put_text(&m, "value");
  put_text(&m, "l"), put_u32(&m, 9), put_u32(&m, 0), put_u64(&m, 3), put(&m, "abc", 3);
  put_tensor(&m, "a", 4, 2, 0, 0), put_tensor(&m, "b", 4, 2, 0, 32);
  put_data(&m, 32, 64);
  size_t n = 0, before = hd_memory_live();
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && n < 100; n++) {
    hd_directory *directory;
    hd_error err = {0};
    hd_memory_fail_after(n);
    status = read_file(&directory, m.bytes, m.n, NULL, &err);
    hd_memory_fail_after(SIZE_MAX);
    CHECK(status == HD_OK || (status == HD_OUT_OF_MEMORY && *err.message));
    hd_directory_free(directory);
    CHECK(hd_memory_live() == before);
  }
  CHECK(status == HD_OK && n > 8);
  free(m.bytes);
}

/* ---- Shared files ---- */

TEST(gguf_malformed_files_are_judged_as_their_names_say) {
  static const char folder[] = HEDDLE_SHARED_DIR "/fixtures/real/gguf-malformed";
  DIR *directory = opendir(folder);
  if (!directory) SKIP("shared/fixtures/real/gguf-malformed is not here");
  unsigned n_files = 0;
  for (struct dirent *item; (item = readdir(directory));) {
    const char *name = item->d_name;
    if (!strstr(name, ".gguf")) continue;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *stream = fopen(path, "rb");
    uint8_t *whole = malloc(300000);
    size_t n = fread(whole, 1, 300000, stream);
    fclose(stream);
    hd_error err = {0};
    hd_directory *read;
    hd_status status = read_file(&read, whole, n, NULL, &err);
    if (!CHECK((status == HD_OK) == (strncmp(name, "accept", 6) == 0))) printf("# %s: %s\n", name, err.message);
    hd_directory_free(read);
    free(whole);
    n_files++;
  }
  closedir(directory);
  CHECK(n_files == 21);
}

/* The types we do not read become I8 rows of the same bytes, so that the rest of a file that has them can be looked at. */
static void hide_types(uint8_t *file, size_t n) {
  static const struct { const char *name; uint8_t type; size_t values, bytes; } hidden[] = {
      {"q.iq2_xxs", 16, 256, 66}, {"q.iq2_xs", 17, 256, 74}, {"q.iq3_xxs", 18, 256, 98}, {"q.iq1_s", 19, 256, 50}, {"q.iq3_s", 21, 256, 110},
      {"q.iq2_s", 22, 256, 82},   {"q.iq1_m", 29, 256, 56},  {"q.tq1_0", 34, 256, 54},   {"q.tq2_0", 35, 256, 66}, {"q.nvfp4", 40, 64, 36}};
  for (size_t k = 0; k < sizeof hidden / sizeof *hidden; k++)
    for (size_t i = 8; i + 60 < n; i++) {
      size_t length = strlen(hidden[k].name);
      uint8_t *info = file + i + length; /* u32 n_dims, u64 inner, u64 outer, u32 type */
      if (file[i - 8] != length || memcmp(file + i, hidden[k].name, length) != 0) continue;
      uint64_t inner;
      memcpy(&inner, info + 4, 8);
      if (!CHECK(info[20] == hidden[k].type && inner % hidden[k].values == 0)) return;
      inner = inner / hidden[k].values * hidden[k].bytes;
      memcpy(info + 4, &inner, 8);
      info[20] = 24;
    }
}

/* Every tensor of the SafeTensors file, value for value; returns how many there are that the GGUF file has as something else than I8. */
static unsigned check_values(const char *name) {
  char path[256];
  golden_file want;
  size_t n = 0;
  hd_error err = {0};
  hd_directory *d = NULL;
  unsigned n_compared = 0;
  snprintf(path, sizeof path, "tests/golden/quant/%s.gguf", name);
  uint8_t *file = test_read_file(path, &n);
  snprintf(path, sizeof path, "tests/golden/quant/%s.safetensors", name);
  if (!CHECK(file != NULL) || !golden_open(&want, path)) return 0;
  hide_types(file, n);
  if (!CHECK(hd_directory_read(&d, file, n, n, &err) == HD_OK)) printf("# %s\n", err.message);
  for (size_t i = 0; d && i < hd_directory_count(want.directory); i++) {
    const hd_entry *w = hd_directory_entry(want.directory, i), *e = hd_directory_find(d, w->name);
    if (!CHECK(e && e->n_dims == w->n_dims)) continue;
    if (e->dtype == HD_I8 && strncmp(w->name, "q.", 2) == 0) continue; /* hidden */
    size_t count, n_bytes;
    CHECK(memcmp(e->shape, w->shape, (size_t)e->n_dims * sizeof *e->shape) == 0 && hd_shape_count(e->n_dims, e->shape, &count));
    void *values = golden_tensor(&want, w->name, &n_bytes);
    if (e->dtype == w->dtype) {
      CHECK_EQ_BITS(file + e->begin, values, n_bytes);
    } else {
      float *read = malloc(count * sizeof *read);
      hd_dtype_get(e->dtype)->to_f32(file + e->begin, read, count);
      CHECK(w->dtype == HD_F32 && n_bytes == count * sizeof *read);
      if (!CHECK_EQ_BITS(read, values, n_bytes)) printf("# %s of %s\n", w->name, name);
      free(read);
    }
    free(values);
    n_compared++;
  }
  hd_directory_free(d);
  golden_close(&want);
  free(file);
  return n_compared;
}

TEST(gguf_tensors_of_every_type_have_the_values_of_the_reference) {
  CHECK(check_values("gguf_common_types") == 12);
  CHECK(check_values("gguf_alignment") == 12);
  CHECK(check_values("gguf_all_types") == 7 + 14);
}
