/* hostile.h: what hostile input may cost: less than a second, and less than 16 times its size in memory (of less than a megabyte: as much as one);
 * whatever becomes of it, nothing stays behind. HD_COSTS in the environment: each cost is printed. */
#ifndef HD_TEST_HOSTILE_H
#define HD_TEST_HOSTILE_H

#include "base/memory.h"
#include "test.h"

#include <time.h>

enum { MEGABYTE = 1 << 20 };

typedef struct cost {
  clock_t start;
  size_t live;
} cost;

static inline cost begin_cost(void) {
  hd_memory_forget_peak();
  return (cost){clock(), hd_memory_live()};
}

/* `n`: bytes of the input. */
static inline void end_cost(cost c, const char *what, size_t n, hd_status status, const hd_error *err) {
  const double seconds = (double)(clock() - c.start) / CLOCKS_PER_SEC;
  const size_t peak = hd_memory_peak() - c.live, least = n < MEGABYTE ? MEGABYTE : n;
  const char *message = status == HD_OK ? "read" : err->message;
  if (!CHECK(seconds < 1)) printf("# %.80s: %.2f s for %zu bytes: %.200s\n", what, seconds, n, message);
  if (!CHECK(peak < 16 * least)) printf("# %.80s: %zu bytes for %zu: %.200s\n", what, peak, n, message);
  CHECK(hd_memory_live() == c.live);
  if (getenv("HD_COSTS")) printf("# %-60.60s %.2f s, %5.1f times, %.60s\n", what, seconds, (double)peak / (double)least, message);
}

/* `piece` up to so many times, and no more than a megabyte holds, with its number in it, between a begin and an end. A comma before the end is
 * left out. */
static inline char *repeat_times(unsigned most, const char *first, const char *piece, const char *last, size_t *n) {
  size_t n_piece = strlen(piece), n_last = strlen(last), at = strlen(first);
  char *text = malloc(MEGABYTE + at + n_last + 1);
  memcpy(text, first, at);
  for (unsigned i = 0; i < most && at + 3 * n_piece / 2 + 32 < MEGABYTE; i++) at += (size_t)sprintf(text + at, piece, i, i, i, i);
  if (text[at - 1] == ',') at--;
  memcpy(text + at, last, n_last + 1);
  *n = at + n_last;
  return text;
}

static inline char *repeat_to_a_megabyte(const char *first, const char *piece, const char *last, size_t *n) {
  return repeat_times(UINT32_MAX, first, piece, last, n);
}

#endif
