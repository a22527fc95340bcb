/* base/pool.c: ranges cover everything once, whatever the threads do. Run under the thread sanitizer too. */
#define _DEFAULT_SOURCE /* usleep */
#include "test.h"

#include "base/pool.h"

typedef struct covering {
  unsigned char *hits; /* of each output */
  size_t n, grain;
  bool wrong_thread, wrong_grain;
} covering;

static void cover(void *context, size_t begin, size_t end, size_t thread) {
  covering *c = context;
  if (thread >= hd_pool_threads()) c->wrong_thread = true;
  if (begin % c->grain != 0 || (end != c->n && end % c->grain != 0) || begin >= end) c->wrong_grain = true;
  for (size_t i = begin; i < end; i++) c->hits[i]++;
}

static void check_covering(size_t n, size_t grain) {
  covering c = {calloc(n + 1, 1), n, grain, false, false};
  hd_pool_run(cover, &c, n, grain);
  size_t once = 0;
  for (size_t i = 0; i < n; i++) once += c.hits[i] == 1;
  CHECK(once == n && c.hits[n] == 0);
  CHECK(!c.wrong_thread && !c.wrong_grain);
  free(c.hits);
}

static void check_many(void) {
  for (size_t n = 0; n < 200; n += 1 + n / 7)
    for (size_t grain = 1; grain < 20; grain += 3) check_covering(n, grain);
  check_covering(100003, 4);
  check_covering(8, 1000000);
}

TEST(without_a_pool_the_caller_does_it_all) {
  CHECK(hd_pool_threads() == 1);
  uint64_t before = hd_pool_work(0);
  check_many();
  CHECK(hd_pool_work(0) > before && hd_pool_work(1) == 0 && hd_pool_work(1000) == 0);
}

#ifdef __wasm__

TEST(threads_cover_everything_once) { SKIP("WebAssembly's workers are made by JavaScript: tests/node has that test"); }

#else

#include <pthread.h>
#include <unistd.h>

TEST(threads_cover_everything_once) {
  for (size_t threads = 2; threads <= 5; threads++) {
    if (!CHECK(hd_pool_start(threads, NULL) == HD_OK)) return;
    CHECK(hd_pool_threads() == threads);
    check_many();
    hd_pool_stop();
    CHECK(hd_pool_threads() == 1);
    check_covering(1000, 4);
  }
}

TEST(sleeping_threads_wake_for_the_next_job) {
  CHECK(hd_pool_start(3, NULL) == HD_OK);
  for (int i = 0; i < 20; i++) {
    usleep(2000);
    check_covering(5000, 4);
  }
  hd_pool_stop();
}

static void slow(void *context, size_t begin, size_t end, size_t thread) {
  (void)begin;
  (void)end;
  (void)thread;
  usleep(*(useconds_t *)context);
}

TEST(several_threads_get_work) {
  CHECK(hd_pool_start(3, NULL) == HD_OK);
  uint64_t before[3];
  for (size_t i = 0; i < 3; i++) before[i] = hd_pool_work(i);
  useconds_t pause = 500;
  for (int i = 0; i < 10; i++) hd_pool_run(slow, &pause, 24, 1);
  uint64_t sum = 0;
  for (size_t i = 0; i < 3; i++) sum += hd_pool_work(i) - before[i];
  CHECK(sum >= 10 * 3 && sum <= 10 * 24); /* at most one piece an output */
  CHECK(hd_pool_work(1) > before[1] && hd_pool_work(2) > before[2]);
  hd_pool_stop();
}

static void two_short_jobs(size_t *total) {
  for (int i = 0; i < 2000; i++) {
    covering c = {(unsigned char[9]){0}, 8, 1, false, false};
    hd_pool_run(cover, &c, 8, 1);
    for (size_t k = 0; k < 8; k++) *total += c.hits[k];
  }
}

TEST(short_jobs_follow_each_other_at_once) {
  size_t total = 0;
  CHECK(hd_pool_start(4, NULL) == HD_OK);
  two_short_jobs(&total);
  hd_pool_stop();
  CHECK(total == 2000 * 8);
}

static void *enter_late(void *unused) {
  (void)unused;
  hd_pool_enter(2);
  return NULL;
}

/* As in WebAssembly: work goes on with those who are there, and a thread that comes later joins in. */
TEST(threads_may_enter_while_work_goes_on) {
  pthread_t late;
  CHECK(hd_pool_start(2, NULL) == HD_OK);
  check_covering(1000, 1);
  CHECK(pthread_create(&late, NULL, enter_late, NULL) == 0);
  size_t total = 0;
  while (hd_pool_threads() < 3) two_short_jobs(&total);
  check_many();
  hd_pool_stop();
  pthread_join(late, NULL);
}

#endif

TEST(pool_refuses_too_many_threads_and_a_second_start) {
  hd_error err;
  CHECK(hd_pool_start(0, &err) != HD_OK || hd_pool_threads() == 1);
  CHECK(hd_pool_start(HD_POOL_MAX + 1, &err) != HD_OK && strstr(err.message, "threads"));
  CHECK(hd_pool_start(1, &err) == HD_OK);
#ifndef __wasm__
  CHECK(hd_pool_start(2, &err) == HD_OK);
  CHECK(hd_pool_start(2, &err) == HD_BAD_STATE);
#endif
  hd_pool_stop();
  hd_pool_stop();
}
