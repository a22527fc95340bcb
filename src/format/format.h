/* format/format.h: what the readers share. A reader turns a file's first bytes into a directory; format.c tells by content which reader
 * it is, through one table row per format. heddle.h has the public part (hd_directory_*). */
#ifndef HD_FORMAT_FORMAT_H
#define HD_FORMAT_FORMAT_H

#include "heddle.h"

typedef struct hd_format {
  const char *name;
  /* Whether a file with these first bytes is of this format, or means to be. */
  bool (*detect)(const uint8_t *first, size_t n);
  hd_status (*header_bytes)(uint64_t *out, const uint8_t *first, size_t n, uint64_t file_bytes, hd_error *err);
  hd_status (*read)(hd_directory *directory, const uint8_t *head, size_t n, uint64_t file_bytes, hd_error *err);
} hd_format;

extern const hd_format hd_format_safetensors;

/* ---- Writing SafeTensors ---- */

/* A tensor to be written. `begin` counts from the start of the file and is set by hd_safetensors_start. */
typedef struct hd_stored {
  const char *name;
  hd_dtype dtype;
  int n_dims;
  size_t shape[HD_MAX_DIMS];
  size_t begin;
  const void *from; /* the caller's own */
} hd_stored;

/* Sorts the tensors by name, gives them their places one after the other, and makes a file with its header written and its data zero, for the
 * caller to fill. `metadata` is JSON text ("{…}") for __metadata__, or NULL. The caller frees *file with hd_free. */
hd_status hd_safetensors_start(uint8_t **file, size_t *n_file, hd_stored *tensors, size_t n, const char *metadata, hd_error *err);

/* n values to and from a dtype as Loom's tensor files have them: integers truncated toward zero, halves truncated as in precision.h, and
 * an F4 of Loom's own, whose codes mean 0, 0.75, 1, 1.5, 2, 3, infinity, NaN. */
void hd_loom_encode(hd_dtype dtype, const float *values, void *to, size_t n);
void hd_loom_decode(hd_dtype dtype, const void *from, float *values, size_t n);

/* For readers: appends to a directory. Strings are copied. */
hd_status hd_directory_append(hd_directory *directory, const hd_entry *entry, hd_error *err);
hd_status hd_directory_append_metadata(hd_directory *directory, const char *key, const char *value, hd_error *err);
/* Ends the appending: refuses a second tensor of one name, sorts by begin (then end, then name), makes lookup fast. */
hd_status hd_directory_seal(hd_directory *directory, hd_error *err);
hd_directory *hd_directory_copy(const hd_directory *directory); /* NULL when out of memory */

#endif
