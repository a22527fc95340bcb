/* format/torch_write.h: writes files that torch.load(weights_only=True) reads: a stored zip, storages at multiples of 64, the
 * object as a pickle of protocol 2. The pickle is put together first; then the file is laid out, the caller fills in the
 * tensors, and sealing adds the checksums. */
#ifndef HD_FORMAT_TORCH_WRITE_H
#define HD_FORMAT_TORCH_WRITE_H

#include "format/format.h"

typedef struct hd_torch_member {
  char name[48];
  size_t header, begin, bytes;
  uint32_t crc;
} hd_torch_member;

/* After the first failure every put does nothing; hd_torch_start reports it. */
typedef struct hd_torch_writer {
  uint8_t *pickle;
  size_t n_pickle, pickle_room;
  hd_stored *tensors; /* in the order they were put; `from` is the caller's, `begin` counts from the file's start */
  size_t n_tensors, tensors_room;
  hd_torch_member *members;
  size_t n_members, list_begin, n_file;
  bool no_memory;
} hd_torch_writer;

void hd_torch_writer_start(hd_torch_writer *w);
void hd_torch_writer_free(hd_torch_writer *w);

void hd_torch_write_none(hd_torch_writer *w);
void hd_torch_write_bool(hd_torch_writer *w, bool value);
void hd_torch_write_int(hd_torch_writer *w, int64_t value);
void hd_torch_write_real(hd_torch_writer *w, double value);
void hd_torch_write_text(hd_torch_writer *w, const char *text);
/* What is put between begin and end are items; of a dictionary, a key and a value each time. */
void hd_torch_begin_list(hd_torch_writer *w);
void hd_torch_end_list(hd_torch_writer *w);
void hd_torch_begin_dict(hd_torch_writer *w);
void hd_torch_end_dict(hd_torch_writer *w);

/* False when PyTorch has no storage type of this dtype. */
bool hd_torch_can_write(hd_dtype dtype);
/* A contiguous tensor with a storage of its own. `tensor` has dtype, shape and `from`. */
void hd_torch_write_tensor(hd_torch_writer *w, const hd_stored *tensor);

/* Ends the pickle, gives every member its place, and says how long the file is. */
hd_status hd_torch_lay_out(hd_torch_writer *w, size_t *n_file, hd_error *err);
/* What goes before tensor i, whose bytes' CRC-32 is `crc`; or, where i is their number, after the
 * last: to be put in that order, at its place. */
size_t hd_torch_piece_bytes(const hd_torch_writer *w, size_t i);
void hd_torch_put_piece(hd_torch_writer *w, size_t i, uint32_t crc, uint8_t *to);

/* All of the file at once: hd_torch_lay_out and room for it, zero. The caller fills in the tensors and frees *file with hd_free. */
hd_status hd_torch_start(uint8_t **file, size_t *n_file, hd_torch_writer *w, hd_error *err);
/* The rest, once the tensors' bytes are there. */
void hd_torch_seal(hd_torch_writer *w, uint8_t *file);

#endif
