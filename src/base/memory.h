/* base/memory.h: the one allocator, checked size arithmetic, and a bump arena for things that die together. */
#ifndef HD_BASE_MEMORY_H
#define HD_BASE_MEMORY_H

#include "heddle.h"

/* 64-byte aligned, uninitialised; NULL when memory is out or the test hook says so. hd_alloc(0) gives a freeable pointer. */
void *hd_alloc(size_t bytes);
void *hd_alloc_zero(size_t bytes);
void hd_free(void *pointer); /* takes NULL */
/* A larger (or smaller) block with the old contents; NULL leaves the old block as it is. */
void *hd_realloc(void *pointer, size_t bytes);

/* Room for one more item at *array's end, n, of an array that grows by this alone: it has room for the next power of two, so only the count
 * is kept. NULL and 0 to start. False when out of memory; *array is as it was then. */
bool hd_grow(void **array, size_t n, size_t item_bytes);

/* Test hook: the allocation after `n` more fails, and all after it; SIZE_MAX: never. */
void hd_memory_fail_after(size_t n);
/* Test hook: hd_memory_peak is of what comes from here on. */
void hd_memory_forget_peak(void);

/* false on overflow; *out is then unspecified. */
bool hd_mul_size(size_t a, size_t b, size_t *out);
bool hd_add_size(size_t a, size_t b, size_t *out);
bool hd_mul_u64(uint64_t a, uint64_t b, uint64_t *out); /* of a file's bytes, which may be more than memory's */
/* SIZE_MAX where the true value does not fit, and from there on: a sum of products is then looked at once, at its end. */
size_t hd_times(size_t a, size_t b);
size_t hd_plus(size_t a, size_t b);

/* Rounds up to a multiple of `alignment` (a power of two). The caller knows that it fits. */
static inline size_t hd_align(size_t n, size_t alignment) { return (n + alignment - 1) & ~(alignment - 1); }

/* Blocks that grow as needed and are freed at once. Zero-initialise to start. */
typedef struct hd_arena {
  struct hd_arena_block *blocks;
} hd_arena;

void *hd_arena_alloc(hd_arena *arena, size_t bytes); /* 16-byte aligned, zeroed; NULL when out of memory */
char *hd_arena_text(hd_arena *arena, const char *text); /* texts lie close together */
char *hd_arena_format(hd_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));
void hd_arena_free(hd_arena *arena);

#endif
