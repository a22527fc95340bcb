/* base/pool.c: the threads, and how work reaches them.
 *
 * A job is open while the gate's OPEN bit is set. Threads join it by counting themselves in at the gate, take chunks off an
 * atomic counter until none is left, and count themselves out. The caller works too; then it closes the gate and waits
 * only for those inside. A thread that slept through a job, or has not entered the pool yet, is never waited for.
 *
 * Sleeping and waking is all that differs: a mutex and a condition natively, wait and notify in WebAssembly, whose threads
 * JavaScript makes. Both sides spin for a moment first: a decode makes hundreds of short jobs a token. */
#include "base/pool.h"

#include "base/status.h"

static void run_alone(hd_work work, void *context, size_t n);

#if defined(__wasm__) && !defined(HD_THREADS)

static uint64_t work_done;

static void run_alone(hd_work work, void *context, size_t n) {
  if (n == 0) return;
  work_done++;
  work(context, 0, n, 0);
}

void hd_pool_run(hd_work work, void *context, size_t n, size_t grain) {
  (void)grain;
  run_alone(work, context, n);
}

hd_status hd_pool_start(size_t n_threads, hd_error *err) {
  if (n_threads > 1) return hd_fail(err, HD_UNSUPPORTED, "threads: this module was built without them");
  return HD_OK;
}

void hd_pool_stop(void) {}
void hd_pool_enter(size_t thread) { (void)thread; }
void hd_pool_abandon(void) {}
size_t hd_pool_threads(void) { return 1; }
uint64_t hd_pool_work(size_t index) { return index == 0 ? work_done : 0; }

#else

#include <stdatomic.h>
#ifndef __wasm__
#include <pthread.h>
#endif

enum { SPINS = 4000 };                /* looks at a word before sleeping on it: some microseconds */
enum { CHUNKS_PER_THREAD = 4 };       /* so that a thread that starts late costs little */
#define GATE_OPEN 0x10000u            /* below it: the number of threads inside besides the caller */

/* Apart, so that counting does not move cache lines between threads. */
typedef struct counter {
  _Alignas(64) _Atomic uint64_t done;
} counter;

static struct {
  /* The job: written by the caller while nobody is inside. */
  hd_work work;
  void *context;
  size_t n, chunk;

  _Alignas(64) atomic_size_t next;    /* first output nobody has taken */
  _Alignas(64) atomic_uint gate;
  _Alignas(64) atomic_uint generation; /* goes up when a job opens or the pool stops; workers sleep on it */
  atomic_uint sleepers;               /* workers that sleep, or are about to */
  atomic_uint caller_sleeps;
  atomic_uint entered;                /* workers in the pool */
  atomic_bool stopping;
  atomic_bool broken;                 /* a worker never came back from its work */
  counter counters[HD_POOL_MAX];
} pool;

/* ---- Sleeping ---- */

#ifdef __wasm__

/* V8 11 (Node 20) forgets every local variable over a wait in code it has not optimised: they read as 0 afterwards. So the wait stands in a
 * function that reads none after it, and is called through a pointer that no optimiser sees through. */
static void wait_once(int *word, int value) { __builtin_wasm_memory_atomic_wait32(word, value, -1); }
static void (*volatile wait_alone)(int *, int) = wait_once;

static void sleep_while(atomic_uint *word, unsigned value) {
  while (atomic_load(word) == value) wait_alone((int *)word, (int)value);
}

static void wake(atomic_uint *word) { __builtin_wasm_memory_atomic_notify((int *)word, UINT32_MAX); }

#else

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void sleep_while(atomic_uint *word, unsigned value) {
  pthread_mutex_lock(&mutex);
  while (atomic_load(word) == value) pthread_cond_wait(&changed, &mutex);
  pthread_mutex_unlock(&mutex);
}

static void wake(atomic_uint *word) {
  (void)word;
  pthread_mutex_lock(&mutex);
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&mutex);
}

#endif

/* True as soon as *word is no longer `value`; false when it still is after a while. */
static bool spin_while(atomic_uint *word, unsigned value) {
  for (int i = 0; i < SPINS; i++)
    if (atomic_load_explicit(word, memory_order_acquire) != value) return true;
  return false;
}

/* ---- Working ---- */

static void count_work(size_t thread) { atomic_fetch_add_explicit(&pool.counters[thread].done, 1, memory_order_relaxed); }

static void run_alone(hd_work work, void *context, size_t n) {
  if (n == 0) return;
  count_work(0);
  work(context, 0, n, 0);
}

static void take_chunks(size_t thread) {
  size_t n = pool.n, chunk = pool.chunk;
  for (;;) {
    size_t begin = atomic_fetch_add_explicit(&pool.next, chunk, memory_order_relaxed);
    if (begin >= n) return;
    count_work(thread);
    pool.work(pool.context, begin, n - begin < chunk ? n : begin + chunk, thread);
  }
}

/* Counts this thread in if a job is open. */
static bool join_job(void) {
  unsigned gate = atomic_load(&pool.gate);
  while (gate & GATE_OPEN)
    if (atomic_compare_exchange_weak(&pool.gate, &gate, gate + 1)) return true;
  return false;
}

/* Counts it out; the last one out of a closed gate wakes the caller, should that sleep. */
static void leave_job(void) {
  unsigned gate = atomic_fetch_sub(&pool.gate, 1) - 1;
  if (gate == 0 && atomic_load(&pool.caller_sleeps)) wake(&pool.gate);
}

static void close_job(void) {
  unsigned gate = atomic_fetch_and(&pool.gate, ~GATE_OPEN) & ~GATE_OPEN;
  while (gate != 0) {
    if (!spin_while(&pool.gate, gate)) {
      atomic_store(&pool.caller_sleeps, 1);
      sleep_while(&pool.gate, gate);
      atomic_store(&pool.caller_sleeps, 0);
    }
    gate = atomic_load(&pool.gate);
  }
}

void hd_pool_run(hd_work work, void *context, size_t n, size_t grain) {
  size_t threads = hd_pool_threads();
  if (grain == 0) grain = 1;
  if (threads == 1 || n <= grain) {
    run_alone(work, context, n);
    return;
  }
  size_t wanted = n / (threads * CHUNKS_PER_THREAD);
  pool.work = work;
  pool.context = context;
  pool.n = n;
  pool.chunk = wanted <= grain ? grain : wanted / grain * grain;
  atomic_store_explicit(&pool.next, 0, memory_order_relaxed);
  atomic_store(&pool.gate, GATE_OPEN);
  atomic_fetch_add(&pool.generation, 1);
  if (atomic_load(&pool.sleepers)) wake(&pool.generation);
  take_chunks(0);
  close_job();
  if (atomic_load(&pool.broken)) __builtin_trap(); /* what that worker should have computed is not there */
}

/* ---- A worker's life ---- */

void hd_pool_enter(size_t thread) {
  if (thread == 0 || thread >= HD_POOL_MAX) return;
  unsigned seen = atomic_load(&pool.generation);
  atomic_fetch_add(&pool.entered, 1);
  while (!atomic_load(&pool.stopping)) {
    if (join_job()) {
      take_chunks(thread);
      leave_job();
    }
    if (!spin_while(&pool.generation, seen)) {
      atomic_fetch_add(&pool.sleepers, 1);
      sleep_while(&pool.generation, seen);
      atomic_fetch_sub(&pool.sleepers, 1);
    }
    seen = atomic_load(&pool.generation);
  }
  atomic_fetch_sub(&pool.entered, 1);
}

void hd_pool_abandon(void) {
  atomic_store(&pool.broken, true);
  atomic_fetch_sub(&pool.entered, 1);
  leave_job();
}

size_t hd_pool_threads(void) {
  return 1 + (size_t)atomic_load_explicit(&pool.entered, memory_order_relaxed);
}

uint64_t hd_pool_work(size_t index) {
  return index < HD_POOL_MAX ? atomic_load_explicit(&pool.counters[index].done, memory_order_relaxed) : 0;
}

static void ask_workers_to_leave(void) {
  atomic_store(&pool.stopping, true);
  atomic_fetch_add(&pool.generation, 1);
  wake(&pool.generation);
}

static hd_status check_threads(size_t n_threads, hd_error *err) {
  if (n_threads == 0 || n_threads > HD_POOL_MAX)
    return hd_fail(err, HD_BAD_ARGUMENT, "threads: expected 1 to %d, found %zu", HD_POOL_MAX, n_threads);
  if (hd_pool_threads() > 1) return hd_fail(err, HD_BAD_STATE, "threads: the pool has %zu already", hd_pool_threads());
  return HD_OK;
}

#ifdef __wasm__

/* JavaScript makes the workers; each counts once it has entered, so the number expected is not even kept. */
hd_status hd_pool_start(size_t n_threads, hd_error *err) {
  HD_TRY(check_threads(n_threads, err));
  atomic_store(&pool.stopping, false);
  return HD_OK;
}

void hd_pool_stop(void) { ask_workers_to_leave(); }

#else

static pthread_t threads_started[HD_POOL_MAX];
static size_t n_started; /* without the caller */

static void *enter_native(void *thread) {
  hd_pool_enter((size_t)(uintptr_t)thread);
  return NULL;
}

hd_status hd_pool_start(size_t n_threads, hd_error *err) {
  HD_TRY(check_threads(n_threads, err));
  atomic_store(&pool.stopping, false);
  for (size_t i = 1; i < n_threads; i++) {
    if (pthread_create(&threads_started[i], NULL, enter_native, (void *)(uintptr_t)i) != 0) {
      hd_pool_stop();
      return hd_fail(err, HD_OUT_OF_MEMORY, "threads: the system refused thread %zu of %zu", i + 1, n_threads);
    }
    n_started = i;
  }
  while (hd_pool_threads() < n_threads) sched_yield(); /* so that hd_pool_threads tells the truth from here on */
  return HD_OK;
}

void hd_pool_stop(void) {
  ask_workers_to_leave();
  for (size_t i = 1; i <= n_started; i++) pthread_join(threads_started[i], NULL);
  n_started = 0;
}

#endif
#endif
