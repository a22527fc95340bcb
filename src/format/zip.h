/* format/zip.h: a zip's list of members, read through a reader's windows. Members are stored (not
 * compressed): their bytes are the file's. */
#ifndef HD_FORMAT_ZIP_H
#define HD_FORMAT_ZIP_H

#include "base/memory.h"
#include "format/format.h"

typedef struct hd_zip_member {
  const char *name;
  uint64_t header;    /* where its local header begins */
  uint64_t begin;     /* where its bytes begin; 0 until located */
  uint64_t bytes, stored_bytes;
  uint64_t limit;     /* where the next member's header, or the list, begins */
  uint32_t crc;       /* of its bytes; 0 also where the writer left it out */
  uint16_t flags, method;
} hd_zip_member;

/* Zero-initialise to start. */
typedef struct hd_zip {
  bool listed;
  bool tail_seen;     /* the file's last bytes, which say where the list is */
  bool is_64;
  uint64_t end_64;    /* where zip64's end record is, when there is one */
  uint64_t list_begin, list_end, n_declared;
  hd_zip_member *members; /* sorted by name */
  size_t n_members;
  hd_arena strings;
} hd_zip;

/* Goes on until members are listed; without `listed` afterwards it has asked the reader for another window. */
hd_status hd_zip_list(hd_zip *zip, hd_reader *reader, hd_error *err);
void hd_zip_free(hd_zip *zip);

/* NULL when there is none. */
hd_zip_member *hd_zip_find(const hd_zip *zip, const char *name);

/* Where the member's bytes are: *located, or else it has asked for its local header, which alone says so. Refuses what is compressed or
 * encrypted, and a local header that contradicts the list. `predict` allows to do without it where torch's rule (bytes begin at the next
 * multiple of 64) and the next member's place agree on the only possible one: a checkpoint with 300 tensors needs no 300 reads then. */
hd_status hd_zip_locate(const hd_zip *zip, hd_zip_member *member, hd_reader *reader, bool predict, bool *located, hd_error *err);

/* CRC-32 as zips have it, of bytes that follow those `crc` is of (0 to start). */
uint32_t hd_crc32(uint32_t crc, const void *bytes, size_t n);

#endif
