/* The allocator, checked sizes and the arena. */
#include "base/memory.h"
#include "test.h"

TEST(blocks_are_aligned_and_counted) {
  size_t before = hd_memory_live();
  void *blocks[100];
  for (size_t i = 0; i < 100; i++) {
    blocks[i] = hd_alloc(i);
    CHECK((uintptr_t)blocks[i] % 64 == 0 && blocks[i]);
    memset(blocks[i], 0xAA, i);
  }
  CHECK(hd_memory_live() == before + 99 * 100 / 2);
  CHECK(hd_memory_peak() >= hd_memory_live());
  for (size_t i = 0; i < 100; i++) hd_free(blocks[i]);
  CHECK(hd_memory_live() == before);
  hd_free(NULL);
}

TEST(zeroed_blocks_are_zero) {
  unsigned char *block = hd_alloc_zero(1000), sum = 0;
  for (size_t i = 0; i < 1000; i++) sum |= block[i];
  CHECK(sum == 0);
  hd_free(block);
}

TEST(the_peak_stays_when_memory_is_given_back) {
  void *block = hd_alloc(1 << 20);
  size_t peak = hd_memory_peak();
  hd_free(block);
  CHECK(hd_memory_peak() == peak && peak >= 1 << 20);
}

TEST(realloc_keeps_the_contents_and_fails_without_harm) {
  size_t before = hd_memory_live();
  char *text = hd_realloc(NULL, 6);
  memcpy(text, "hello", 6);
  text = hd_realloc(text, 10000);
  CHECK_EQ_TEXT(text, "hello");
  CHECK((uintptr_t)text % 64 == 0 && hd_memory_live() == before + 10000);
  hd_memory_fail_after(0);
  CHECK(hd_realloc(text, 20000) == NULL);
  hd_memory_fail_after(SIZE_MAX);
  CHECK_EQ_TEXT(text, "hello");
  text = hd_realloc(text, 3);
  CHECK(memcmp(text, "hel", 3) == 0 && hd_memory_live() == before + 3);
  hd_free(text);
  CHECK(hd_memory_live() == before);
}

TEST(the_hook_fails_the_nth_allocation_and_all_after_it) {
  hd_memory_fail_after(2);
  void *first = hd_alloc(1), *second = hd_alloc_zero(1);
  CHECK(first && second);
  CHECK(!hd_alloc(1) && !hd_alloc_zero(1) && !hd_realloc(NULL, 1));
  hd_memory_fail_after(SIZE_MAX);
  hd_free(first);
  hd_free(second);
  void *third = hd_alloc(1);
  CHECK(third != NULL);
  hd_free(third);
}

TEST(sizes_that_no_memory_has_are_refused) {
  size_t before = hd_memory_live();
  CHECK(!hd_alloc(SIZE_MAX) && !hd_alloc(SIZE_MAX - 70) && !hd_alloc(SIZE_MAX / 2) && !hd_alloc_zero(SIZE_MAX - 1));
  CHECK(hd_memory_live() == before);
}

TEST(size_arithmetic_says_when_it_overflows) {
  size_t out;
  CHECK(hd_mul_size(3, 5, &out) && out == 15);
  CHECK(hd_mul_size(0, SIZE_MAX, &out) && out == 0);
  CHECK(hd_mul_size(SIZE_MAX, 1, &out) && out == SIZE_MAX);
  CHECK(!hd_mul_size(SIZE_MAX / 2 + 1, 2, &out));
  CHECK(!hd_mul_size(SIZE_MAX, SIZE_MAX, &out));
  CHECK(hd_add_size(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
  CHECK(!hd_add_size(SIZE_MAX, 1, &out));
  CHECK(hd_times(3, 5) == 15 && hd_times(SIZE_MAX, 1) == SIZE_MAX && hd_times(SIZE_MAX / 2 + 1, 2) == SIZE_MAX && hd_times(0, SIZE_MAX) == 0);
  CHECK(hd_plus(3, 5) == 8 && hd_plus(SIZE_MAX - 1, 1) == SIZE_MAX && hd_plus(SIZE_MAX, 1) == SIZE_MAX && hd_plus(2, SIZE_MAX - 1) == SIZE_MAX);
  CHECK(hd_align(0, 16) == 0 && hd_align(1, 16) == 16 && hd_align(16, 16) == 16 && hd_align(17, 64) == 64);
}

TEST(bytes_of_files_say_when_their_product_overflows) {
  uint64_t out;
  CHECK(hd_mul_u64(UINT32_MAX, UINT32_MAX, &out) && out == UINT64_C(0xFFFFFFFE00000001));
  CHECK(hd_mul_u64(0, UINT64_MAX, &out) && out == 0 && hd_mul_u64(UINT64_MAX, 0, &out) && out == 0);
  CHECK(hd_mul_u64(UINT64_MAX, 1, &out) && out == UINT64_MAX);
  CHECK(!hd_mul_u64(UINT64_C(1) << 32, UINT64_C(1) << 32, &out) && !hd_mul_u64(UINT64_MAX, 2, &out));
}

TEST(arrays_grow_at_powers_of_two_and_keep_what_they_have) {
  uint32_t *array = NULL;
  size_t before = hd_memory_live(), n = 0;
  for (; n < 100; n++) {
    if (!CHECK(hd_grow((void **)&array, n, sizeof *array))) break;
    array[n] = (uint32_t)n; /* behind its end the address sanitizer looks */
  }
  for (size_t i = 0; i < n; i++) CHECK(array[i] == i);
  hd_memory_fail_after(0);
  CHECK(hd_grow((void **)&array, 100, sizeof *array)); /* of 128 */
  CHECK(!hd_grow((void **)&array, 128, sizeof *array) && array[99] == 99);
  hd_memory_fail_after(SIZE_MAX);
  CHECK(!hd_grow((void **)&array, SIZE_MAX / 2 + 1, sizeof *array) && array[99] == 99);
  hd_free(array);
  CHECK(hd_memory_live() == before);
}

TEST(arena_gives_aligned_zeroed_pieces_and_frees_them_at_once) {
  size_t before = hd_memory_live();
  hd_arena arena = {0};
  for (size_t i = 0; i < 500; i++) {
    unsigned char *piece = hd_arena_alloc(&arena, i), sum = 0;
    CHECK((uintptr_t)piece % 16 == 0);
    for (size_t k = 0; k < i; k++) sum |= piece[k];
    CHECK(sum == 0);
    memset(piece, 0xFF, i);
  }
  CHECK(hd_arena_alloc(&arena, 1 << 20) != NULL);
  CHECK_EQ_TEXT(hd_arena_text(&arena, "layers"), "layers");
  CHECK_EQ_TEXT(hd_arena_format(&arena, "%s.%d", "layers", 12), "layers.12");
  CHECK(hd_arena_alloc(&arena, SIZE_MAX) == NULL && hd_arena_alloc(&arena, SIZE_MAX - 20) == NULL);
  hd_arena_free(&arena);
  CHECK(hd_memory_live() == before);
  hd_arena_free(&arena);
}

TEST(arena_without_memory_gives_null) {
  hd_arena arena = {0};
  hd_memory_fail_after(0);
  CHECK(!hd_arena_alloc(&arena, 1) && !hd_arena_text(&arena, "a") && !hd_arena_format(&arena, "b"));
  hd_memory_fail_after(SIZE_MAX);
  hd_arena_free(&arena);
}
