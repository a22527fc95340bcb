/* base/memory.c: the one allocator over malloc, and the arena over the allocator.
 *
 * A block is      malloc's pointer … padding … [header] | 64-byte aligned bytes the caller sees
 * The header keeps malloc's pointer and the size, so that live and peak can be counted. The counters are atomic: nothing
 * should allocate on a pool thread, but if something does, it must not break them. */
#include "base/memory.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 };

typedef struct block_header {
  void *start;
  size_t bytes;
} block_header;

static _Atomic size_t live_bytes, peak_bytes;
static _Atomic size_t allocations_left = SIZE_MAX; /* the test hook's count */

size_t hd_memory_live(void) { return atomic_load(&live_bytes); }
size_t hd_memory_peak(void) { return atomic_load(&peak_bytes); }
void hd_memory_forget_peak(void) { atomic_store(&peak_bytes, atomic_load(&live_bytes)); }
void hd_memory_fail_after(size_t n) { atomic_store(&allocations_left, n); }

static bool test_hook_refuses(void) {
  size_t left = atomic_load(&allocations_left);
  while (left != SIZE_MAX) {
    if (left == 0) return true;
    if (atomic_compare_exchange_weak(&allocations_left, &left, left - 1)) return false;
  }
  return false;
}

static void count_block(size_t bytes) {
  size_t live = atomic_fetch_add(&live_bytes, bytes) + bytes;
  size_t peak = atomic_load(&peak_bytes);
  while (live > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, live)) {
  }
}

static block_header *header_of(void *pointer) { return (block_header *)pointer - 1; }

static void *allocate(size_t bytes, bool zero) {
  size_t room;
  if (!hd_add_size(bytes, sizeof(block_header) + ALIGNMENT - 1, &room) || room > PTRDIFF_MAX) return NULL;
  if (test_hook_refuses()) return NULL;
  char *start = zero ? calloc(1, room) : malloc(room); /* calloc: large blocks come as zero pages and stay untouched */
  if (!start) return NULL;
  uintptr_t first = (uintptr_t)start + sizeof(block_header);
  char *pointer = start + sizeof(block_header) + ((ALIGNMENT - first % ALIGNMENT) % ALIGNMENT);
  *header_of(pointer) = (block_header){start, bytes};
  count_block(bytes);
  return pointer;
}

void *hd_alloc(size_t bytes) { return allocate(bytes, false); }
void *hd_alloc_zero(size_t bytes) { return allocate(bytes, true); }

void hd_free(void *pointer) {
  if (!pointer) return;
  block_header header = *header_of(pointer);
  atomic_fetch_sub(&live_bytes, header.bytes);
  free(header.start);
}

void *hd_realloc(void *pointer, size_t bytes) {
  void *larger = hd_alloc(bytes);
  if (!larger || !pointer) return larger;
  size_t old_bytes = header_of(pointer)->bytes;
  memcpy(larger, pointer, old_bytes < bytes ? old_bytes : bytes);
  hd_free(pointer);
  return larger;
}

bool hd_grow(void **array, size_t n, size_t item_bytes) {
  if (n & (n - 1)) return true;
  void *larger = hd_realloc(*array, hd_times(n ? hd_times(2, n) : 1, item_bytes));
  if (!larger) return false;
  *array = larger;
  return true;
}

bool hd_mul_u64(uint64_t a, uint64_t b, uint64_t *out) {
  *out = a * b;
  return a == 0 || *out / a == b;
}

bool hd_mul_size(size_t a, size_t b, size_t *out) {
  *out = a * b;
  return a == 0 || *out / a == b;
}

size_t hd_times(size_t a, size_t b) {
  size_t product;
  return hd_mul_size(a, b, &product) ? product : SIZE_MAX;
}

size_t hd_plus(size_t a, size_t b) { return a > SIZE_MAX - b ? SIZE_MAX : a + b; }

bool hd_add_size(size_t a, size_t b, size_t *out) {
  *out = a + b;
  return *out >= a;
}

/* ---- Arena ---- */

enum { ARENA_STEP = 16, ARENA_FIRST_BLOCK = 1024, ARENA_LARGEST_BLOCK = 64 * 1024 };

typedef struct hd_arena_block {
  struct hd_arena_block *next;
  size_t used, room; /* of the bytes that follow the (16-byte aligned) header */
} hd_arena_block;

static size_t arena_header_bytes(void) { return hd_align(sizeof(hd_arena_block), ARENA_STEP); }

/* A new first block with room for `bytes`; blocks double up to a limit, larger requests get a block of their own size. */
static hd_arena_block *arena_grow(hd_arena *arena, size_t bytes) {
  size_t room = arena->blocks ? arena->blocks->room * 2 : ARENA_FIRST_BLOCK;
  if (room > ARENA_LARGEST_BLOCK) room = ARENA_LARGEST_BLOCK;
  if (room < bytes) room = bytes;
  size_t total;
  if (!hd_add_size(room, arena_header_bytes(), &total)) return NULL;
  hd_arena_block *block = hd_alloc(total);
  if (!block) return NULL;
  *block = (hd_arena_block){arena->blocks, 0, room};
  arena->blocks = block;
  return block;
}

/* `bytes` at the next multiple of `alignment`, not zeroed. */
static char *arena_take(hd_arena *arena, size_t bytes, size_t alignment) {
  if (bytes > SIZE_MAX - ARENA_STEP) return NULL;
  hd_arena_block *block = arena->blocks;
  size_t at = block ? hd_align(block->used, alignment) : 0;
  if (!block || at > block->room || block->room - at < bytes) {
    block = arena_grow(arena, bytes);
    at = 0;
  }
  if (!block) return NULL;
  block->used = at + bytes;
  return (char *)block + arena_header_bytes() + at;
}

void *hd_arena_alloc(hd_arena *arena, size_t bytes) {
  char *pointer = arena_take(arena, bytes ? bytes : 1, ARENA_STEP);
  return pointer ? memset(pointer, 0, bytes) : NULL;
}

char *hd_arena_text(hd_arena *arena, const char *text) {
  size_t n = strlen(text) + 1;
  char *copy = arena_take(arena, n, 1);
  return copy ? memcpy(copy, text, n) : NULL;
}

char *hd_arena_format(hd_arena *arena, const char *format, ...) {
  va_list arguments, again;
  va_start(arguments, format);
  va_copy(again, arguments);
  int n = vsnprintf(NULL, 0, format, arguments);
  char *text = n < 0 ? NULL : arena_take(arena, (size_t)n + 1, 1);
  if (text) vsnprintf(text, (size_t)n + 1, format, again);
  va_end(again);
  va_end(arguments);
  return text;
}

void hd_arena_free(hd_arena *arena) {
  while (arena->blocks) {
    hd_arena_block *next = arena->blocks->next;
    hd_free(arena->blocks);
    arena->blocks = next;
  }
}
