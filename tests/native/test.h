/* tests/native/test.h: the whole test framework of the native tests. Include it once per program; it brings main.
 *
 *   #include "test.h"
 *   TEST(softmax_of_equal_values_is_uniform) {
 *     CHECK_NEAR(y[0], 0.25, 0, 1e-7);
 *   }
 *
 * Tests run in the order of the file and print TAP: `ok 1 - name`, `not ok 2 - name`, `ok 3 - name # SKIP reason`. A failed
 * check says where and what, and lets the test go on (a few times: a loop does not print thousands of lines). The program
 * returns 1 when any test failed. Arguments name the tests to run; none: all. */
#ifndef HD_TEST_H
#define HD_TEST_H

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef HEDDLE_SOURCE_DIR
#define HEDDLE_SOURCE_DIR "."
#endif

#define TEST_MAX_PRINTED 10

typedef struct test_case {
  const char *name;
  void (*run)(void);
  struct test_case *next;
} test_case;

static test_case *test_first, **test_last = &test_first;
static unsigned test_failures;   /* of the test that runs */
static const char *test_skipped; /* its reason, when it skipped itself */

#define TEST(title)                                                        \
  static void test_run_##title(void);                                      \
  __attribute__((constructor)) static void test_add_##title(void) {        \
    static test_case entry = {#title, test_run_##title, NULL};             \
    *test_last = &entry;                                                   \
    test_last = &entry.next;                                               \
  }                                                                        \
  static void test_run_##title(void)

/* Ends the test as skipped. */
#define SKIP(reason)         \
  do {                       \
    test_skipped = (reason); \
    return;                  \
  } while (0)

/* Counts a failure; true when it should still be printed. */
static inline bool test_fail(void) {
  test_failures++;
  if (test_failures == TEST_MAX_PRINTED + 1) printf("# … more failures of this test are not printed\n");
  return test_failures <= TEST_MAX_PRINTED;
}

static inline bool test_check(bool holds, const char *text, const char *file, int line) {
  if (!holds && test_fail()) printf("# %s:%d: %s\n", file, line, text);
  return holds;
}

static inline bool test_check_bits(const void *a, const void *b, size_t n, const char *text, const char *file, int line) {
  const unsigned char *x = a, *y = b;
  for (size_t i = 0; i < n; i++) {
    if (x[i] == y[i]) continue;
    if (test_fail()) printf("# %s:%d: %s: byte %zu of %zu is %02x, not %02x\n", file, line, text, i, n, x[i], y[i]);
    return false;
  }
  return true;
}

/* Equal infinities and two NaN are near. */
static inline bool test_check_near(double is, double should, double abs_tol, double rel_tol, const char *text, const char *file,
                                   int line) {
  bool near;
  if (isnan(should)) near = isnan(is) != 0;
  else if (isinf(should) || isinf(is)) near = is == should;
  else near = fabs(is - should) <= abs_tol + rel_tol * fabs(should);
  if (!near && test_fail())
    printf("# %s:%d: %s is %.9g, not %.9g (off by %.3g)\n", file, line, text, is, should, is - should);
  return near;
}

static inline bool test_check_text(const char *is, const char *should, const char *text, const char *file, int line) {
  bool same = is && should ? strcmp(is, should) == 0 : is == should;
  if (!same && test_fail())
    printf("# %s:%d: %s is \"%s\", not \"%s\"\n", file, line, text, is ? is : "(null)", should ? should : "(null)");
  return same;
}

/* Every check has the value of its condition, so `if (!CHECK(p)) return;` works. */
#define CHECK(condition) test_check((condition), #condition, __FILE__, __LINE__)
/* n bytes at a are n bytes at b. */
#define CHECK_EQ_BITS(a, b, n) test_check_bits((a), (b), (n), #a, __FILE__, __LINE__)
/* |is − should| ≤ abs + rel · |should|. */
#define CHECK_NEAR(is, should, abs_tol, rel_tol) \
  test_check_near((double)(is), (double)(should), (abs_tol), (rel_tol), #is, __FILE__, __LINE__)
#define CHECK_EQ_TEXT(is, should) test_check_text((is), (should), #is, __FILE__, __LINE__)

/* ---- Helpers ---- */

/* A file below the source tree, as exactly n bytes; NULL when it cannot be read. The caller frees it. */
static inline void *test_read_file(const char *path, size_t *n) {
  char full[1024];
  snprintf(full, sizeof full, "%s/%s", HEDDLE_SOURCE_DIR, path);
  FILE *file = fopen(full, "rb");
  if (!file) return NULL;
  void *bytes = NULL;
  if (fseek(file, 0, SEEK_END) == 0) {
    long size = ftell(file);
    rewind(file);
    bytes = size >= 0 ? malloc((size_t)size + (size == 0)) : NULL;
    *n = (size_t)size;
    if (bytes && fread(bytes, 1, *n, file) != *n) {
      free(bytes);
      bytes = NULL;
    }
  }
  fclose(file);
  return bytes;
}

/* A fixed random sequence (splitmix64), the same on every machine. */
static uint64_t test_random_state = 1;
static inline uint64_t test_random(void) {
  uint64_t z = test_random_state += 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}
/* Uniform in [−1, 1). */
static inline float test_random_float(void) { return (float)((double)(test_random() >> 40) / 8388608.0 - 1.0); }
/* n such floats in a block of exactly n, so that AddressSanitizer sees a step too far. The caller frees it. */
static inline float *test_random_floats(size_t n) {
  float *values = malloc(n * sizeof *values);
  for (size_t i = 0; i < n; i++) values[i] = test_random_float();
  return values;
}

static inline bool test_is_asked_for(const char *name, int argc, char **argv) {
  if (argc < 2) return true;
  for (int i = 1; i < argc; i++)
    if (strcmp(argv[i], name) == 0) return true;
  return false;
}

int main(int argc, char **argv) {
  unsigned n = 0, n_failed = 0;
  for (const test_case *t = test_first; t; t = t->next) {
    if (!test_is_asked_for(t->name, argc, argv)) continue;
    test_failures = 0;
    test_skipped = NULL;
    test_random_state = 1;
    t->run();
    n++;
    n_failed += test_failures > 0;
    if (test_failures) printf("not ok %u - %s\n", n, t->name);
    else if (test_skipped) printf("ok %u - %s # SKIP %s\n", n, t->name, test_skipped);
    else printf("ok %u - %s\n", n, t->name);
    fflush(stdout);
  }
  printf("1..%u\n", n);
  return n_failed > 0;
}

#endif
