/* base/pool.h: threads that share a kernel's outputs. No reduction ever crosses threads, so results are the same bits for
 * any number of them. Without threads (plain WebAssembly modules) everything runs in the caller. */
#ifndef HD_BASE_POOL_H
#define HD_BASE_POOL_H

#include "heddle.h"

/* Most threads a pool can have, the caller included: what kernels size per-thread scratch for. */
#define HD_POOL_MAX 16

/* Work on the outputs [begin, end). `thread` is the worker's number, 0 for the caller. */
typedef void (*hd_work)(void *context, size_t begin, size_t end, size_t thread);

/* Calls work on disjoint ranges that cover [0, n), each a multiple of `grain` long (the last may be shorter), and returns
 * when all are done. Small n runs in the caller alone. Not reentrant. */
void hd_pool_run(hd_work work, void *context, size_t n, size_t grain);

/* Native: starts n − 1 threads. WebAssembly: JavaScript starts the workers, each of which calls hd_pool_enter. */
hd_status hd_pool_start(size_t n_threads, hd_error *err);
void hd_pool_stop(void);
void hd_pool_enter(size_t thread); /* a worker's life: waits for work until hd_pool_stop */
/* WebAssembly, on a thread whose hd_pool_enter trapped, which only its work can do: counts it out, so that the caller does not
 * wait for it for ever but traps in its turn. */
void hd_pool_abandon(void);

#endif
