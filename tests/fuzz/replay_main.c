/* replay_main.c: a plain main for the fuzz targets, so that every known input runs with every compiler.
 *
 *   fuzz_gguf tests/fuzz/seeds/gguf tests/fuzz/crashes/gguf
 *
 * Runs the target once on each file of the folders (and folders within), and on each file named. A folder that does not
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

static unsigned n_replayed;

static void stop(const char *path, const char *what) {
  printf("Bail out! %s: %s\n", path, what);
  exit(1);
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
  for (int i = 1; i < argc; i++) replay(argv[i]);
  printf("ok 1 - %u inputs replayed%s\n1..1\n", n_replayed, n_replayed ? "" : " # SKIP no inputs found");
  return 0;
}
