/* base/widen.c: a tensor's values for hosts: whatever dtype a file has them in, as float32. */
#include "base/dtype.h"
#include "base/status.h"

/* Whether n values of the dtype are n_bytes. */
static hd_status check_bytes(const hd_dtype_info *info, hd_dtype dtype, size_t n, size_t n_bytes, hd_error *err) {
  size_t expected;
  if (!hd_dtype_bytes(dtype, n, &expected))
    return hd_fail(err, HD_BAD_ARGUMENT, "%zu values are not whole blocks of %s, which have %zu", n, info->name, info->block_values);
  if (n_bytes != expected)
    return hd_fail(err, HD_BAD_ARGUMENT, "%zu values of %s take %zu bytes, found %zu", n, info->name, expected, n_bytes);
  return HD_OK;
}

hd_status hd_widen(hd_dtype dtype, const void *bytes, size_t n_bytes, float *values, size_t n, hd_error *err) {
  if ((unsigned)dtype >= HD_DTYPE_COUNT) return hd_fail(err, HD_BAD_ARGUMENT, "there is no dtype %d", (int)dtype);
  const hd_dtype_info *info = hd_dtype_get(dtype);
  if (!info->to_f32) return hd_fail(err, HD_UNSUPPORTED, "%s has no float32 values", info->name);
  HD_TRY(check_bytes(info, dtype, n, n_bytes, err));
  if (n > 0) info->to_f32(bytes, values, n);
  return HD_OK;
}

hd_status hd_narrow(hd_dtype dtype, const float *values, size_t n, void *bytes, size_t n_bytes, hd_error *err) {
  if ((unsigned)dtype >= HD_DTYPE_COUNT) return hd_fail(err, HD_BAD_ARGUMENT, "there is no dtype %d", (int)dtype);
  const hd_dtype_info *info = hd_dtype_get(dtype);
  if (!info->from_f32) return hd_fail(err, HD_UNSUPPORTED, "float32 values cannot be written as %s", info->name);
  HD_TRY(check_bytes(info, dtype, n, n_bytes, err));
  if (n > 0) info->from_f32(values, bytes, n);
  return HD_OK;
}
