/* replay_main.c: a plain main for the fuzz targets, so that every known input runs with every compiler.
 *
 *   fuzz_gguf tests/fuzz/seeds/gguf tests/fuzz/crashes/gguf
 *
 * `--mutations=20` first: each file also 20 times with a few bytes changed, taken out or doubled, the same ones every time: a small search
 * where there is no libFuzzer. Runs the target once on each file of the folders (and folders within), and on each file named. A folder that does not
 * exist has no inputs. Prints TAP with one test, which passes when every input was taken without a crash: a crash ends the
 * program with the input's name as the last line. Each input gets a block of exactly its size, so that the address
 * sanitizer sees a read of one byte past it. */
#define _DEFAULT_SOURCE
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned n_replayed, n_mutations;

static void stop(const char *path, const char *what) {
  printf("Bail out! %s: %s\n", path, what);
  exit(1);
}

/* The same numbers every time. */
static size_t random_below(size_t n) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return n ? (size_t)((uint64_t)state * n >> 32) : 0;
}

/* Changes a byte, takes a span out or doubles it; `data` has room for the span. The new size. */
static size_t mutate(uint8_t *data, size_t size) {
  size_t at = random_below(size), n = 1 + random_below(size - at < 16 ? size - at : 16);
  switch (random_below(4)) {
    case 0: data[at] = (uint8_t)random_below(256); return size;
    case 1: data[at] = (uint8_t)(data[at] ^ 1u << random_below(8)); return size;
    case 2: memmove(data + at, data + at + n, size - at - n); return size - n;
    default: memmove(data + at + n, data + at, size - at); return size + n;
  }
}

/* In a block of exactly its size. */
static void run_mutated(const char *path, const uint8_t *original, size_t size) {
  uint8_t *room = malloc(size + 3 * 16);
  if (!room) stop(path, "out of memory");
  memcpy(room, original, size);
  for (size_t more = 1 + random_below(3); more > 0 && size > 0; more--) size = mutate(room, size);
  uint8_t *data = malloc(size ? size : 1);
  if (!data) stop(path, "out of memory");
  memcpy(data, room, size);
  free(room);
  LLVMFuzzerTestOneInput(data, size);
  free(data);
}

static void replay_file(const char *path, size_t size) {
  FILE *file = fopen(path, "rb");
  if (!file) stop(path, strerror(errno));
  uint8_t *data = malloc(size ? size : 1);
  if (!data) stop(path, "out of memory");
  if (fread(data, 1, size, file) != size) stop(path, "could not be read whole");
  fclose(file);
  printf("# %s\n", path);
  fflush(stdout);
  LLVMFuzzerTestOneInput(data, size);
  for (unsigned i = 0; i < n_mutations; i++) run_mutated(path, data, size);
  free(data);
  n_replayed++;
}

static void replay(const char *path);

/* In the order of names, so that two runs are alike. */
static void replay_folder(const char *path) {
  struct dirent **entries;
  int n = scandir(path, &entries, NULL, alphasort);
  if (n < 0) stop(path, strerror(errno));
  for (int i = 0; i < n; i++) {
    if (entries[i]->d_name[0] != '.') {
      size_t length = strlen(path) + strlen(entries[i]->d_name) + 2;
      char *inner = malloc(length);
      if (!inner) stop(path, "out of memory");
      snprintf(inner, length, "%s/%s", path, entries[i]->d_name);
      replay(inner);
      free(inner);
    }
    free(entries[i]);
  }
  free(entries);
}

static void replay(const char *path) {
  struct stat info;
  if (stat(path, &info) != 0) {
    if (errno == ENOENT) return;
    stop(path, strerror(errno));
  }
  if (S_ISDIR(info.st_mode)) {
    replay_folder(path);
  } else {
    replay_file(path, (size_t)info.st_size);
  }
}

int main(int argc, char **argv) {
  static const char option[] = "--mutations=";
  for (int i = 1; i < argc; i++) {
    if (strncmp(argv[i], option, sizeof option - 1) == 0) n_mutations = (unsigned)atoi(argv[i] + sizeof option - 1);
    else replay(argv[i]);
  }
  printf("ok 1 - %u inputs replayed, each with %u mutations%s\n1..1\n", n_replayed, n_mutations, n_replayed ? "" : " # SKIP no inputs found");
  return 0;
}
