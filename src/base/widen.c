/* base/widen.c: a tensor's values for hosts: whatever dtype a file has them in, as float32. */
#include "base/dtype.h"
#include "base/status.h"

hd_status hd_widen(hd_dtype dtype, const void *bytes, size_t n_bytes, float *values, size_t n, hd_error *err) {
  if ((unsigned)dtype >= HD_DTYPE_COUNT) return hd_fail(err, HD_BAD_ARGUMENT, "there is no dtype %d", (int)dtype);
  const hd_dtype_info *info = hd_dtype_get(dtype);
  size_t expected;
  if (!info->to_f32) return hd_fail(err, HD_UNSUPPORTED, "%s has no float32 values", info->name);
  if (!hd_dtype_bytes(dtype, n, &expected))
    return hd_fail(err, HD_BAD_ARGUMENT, "%zu values are not whole blocks of %s, which have %zu", n, info->name, info->block_values);
  if (n_bytes != expected) return hd_fail(err, HD_BAD_ARGUMENT, "%zu values of %s take %zu bytes, found %zu", n, info->name, expected, n_bytes);
  if (n > 0) info->to_f32(bytes, values, n);
  return HD_OK;
}
