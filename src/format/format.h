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

/* For readers: appends to a directory. Strings are copied. */
hd_status hd_directory_append(hd_directory *directory, const hd_entry *entry, hd_error *err);
hd_status hd_directory_append_metadata(hd_directory *directory, const char *key, const char *value, hd_error *err);
/* Ends the appending: refuses a second tensor of one name, sorts by begin (then end, then name), makes lookup fast. */
hd_status hd_directory_seal(hd_directory *directory, hd_error *err);
hd_directory *hd_directory_copy(const hd_directory *directory); /* NULL when out of memory */

#endif
