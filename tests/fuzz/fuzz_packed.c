/* Matrices in several tensors, from directories made by hand. Bytes 0 and 1: mode and numbers of "quantization", 2: what weights become, 3: a pattern that
 * all data are of. Then 5 bytes a tensor: which weight and part, dtype, dimensions, and two sizes. */
#include "base/dtype.h"
#include "loading.h"

#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const modes[] = {"", "affine", "mxfp4", "mxfp8", "nvfp4", "fp8_e4m3", "sym8", "fp4"};
static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 20, 24, 32, 64, 128, 1024};
static const hd_dtype become[] = {HD_DTYPE_COUNT, HD_F32, HD_F16, HD_BF16, HD_Q8_0, HD_Q4_0, HD_INT8};

/* {"quantization": {…}} of three linear layers, 64 → 8, 128 → 64 and 96 → 3; each alone, so that no other is missing. */
static int describe(char *room, size_t n_room, const uint8_t *data) {
  static const size_t shapes[][2] = {{64, 8}, {128, 64}, {96, 3}, {16, 2}};
  char mode[32] = "";
  const char *name = modes[data[0] & 7];
  const size_t *shape = shapes[data[1] >> 6];
  if (*name) snprintf(mode, sizeof mode, ",\"mode\":\"%s\"", name);
  return snprintf(room, n_room,
                  "{\"dialect\":\"standard\",\"input_shape\":[1,%zu],\"quantization\":{\"bits\":%d,\"group_size\":%zu%s%s},\"layers\":[{\"type\":\"linear\",\"name\":\"a\","
                  "\"in_features\":%zu,\"out_features\":%zu,\"bias\":false}]}",
                  shape[0], data[0] >> 4, sizes[data[1] & 15], mode, data[1] & 16 ? ",\"symmetric_zero_point\":8" : "", shape[0], shape[1]);
}

/* False: the directory takes no such tensor. */
static bool add_tensor(hd_directory *directory, const uint8_t *at, uint64_t *end) {
  char name[32];
  size_t n, bytes;
  static const char *const parts[] = {"weight", "scales", "biases", "global_scale"};
  snprintf(name, sizeof name, "%s%s", at[0] & 8 ? "b." : "a.", parts[at[0] & 3]);
  hd_entry e = {.name = name, .dtype = (hd_dtype)(at[1] % HD_DTYPE_COUNT), .n_dims = at[2] % 4, .shape = {at[3], at[4], 1}, .begin = *end};
  if (!hd_shape_count(e.n_dims, e.shape, &n) || !hd_dtype_bytes(e.dtype, n, &bytes)) return false;
  *end = e.end = e.begin + bytes;
  return hd_directory_append(directory, &e, NULL) == HD_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 4) return 0;
  size_t before = hd_memory_live();
  char description[512];
  uint64_t end = 0;
  hd_directory *directory = hd_directory_new("SafeTensors", UINT64_C(1) << 40);
  fuzz_file file = {.directory = directory};
  memset(file.pattern, data[3], sizeof file.pattern);
  bool ok = directory != NULL;
  for (size_t at = 4; at + 5 <= size && ok; at += 5) ok = add_tensor(directory, data + at, &end);
  int n = describe(description, sizeof description, data);
  if (ok && hd_directory_seal(directory, NULL) == HD_OK)
    fuzz_load(description, (size_t)n, become[data[2] % (sizeof become / sizeof become[0])], &file);
  hd_directory_free(directory);
  require(hd_memory_live() == before);
  return 0;
}
