/* format/format.h: what the readers share. A reader turns parts of a file into a directory; reader.c tells by content which format it is,
 * through one table row per format. heddle.h has the public part (hd_reader_*, hd_directory_*). */
#ifndef HD_FORMAT_FORMAT_H
#define HD_FORMAT_FORMAT_H

#include "base/json.h"
#include "heddle.h"

typedef struct hd_format hd_format;

/* A weight file being read. It sees one window of the file, which begins as the first bytes of it; each step of the format either asks for
 * another window or completes the directory. Heads (SafeTensors, GGUF) are windows that grow from 0; a zip's end is one of its own. */
struct hd_reader {
  const hd_format *format; /* NULL until the first bytes are there */
  uint64_t file_bytes;
  uint64_t begin, end;     /* the window, complete when a step runs */
  const uint8_t *window;
  size_t held;             /* bytes of it that have come */
  uint8_t *gathered;       /* where they come to; NULL when the file is in memory */
  const uint8_t *memory;   /* its first n_memory bytes: windows point into them */
  size_t n_memory;
  hd_directory *directory;
  void *state;             /* the format's own, from step to step */
  bool done, failed;       /* nothing is wanted any more */
};

struct hd_format {
  const char *name;
  /* Whether a file with these first bytes (HD_FIRST_BYTES of them, or the whole file) is of this format, or means to be. */
  bool (*detect)(const uint8_t *first, size_t n, uint64_t file_bytes);
  /* Looks at the window: calls hd_reader_want, or fills reader->directory, seals it and sets reader->done. */
  hd_status (*step)(hd_reader *reader, hd_error *err);
  void (*free_state)(void *state); /* NULL: it has none */
};

enum { HD_FIRST_BYTES = 512 };
/* No directory needs more at once; checked before anything is allocated. */
#define HD_MAX_WINDOW UINT64_C(110000000)

extern const hd_format hd_format_safetensors, hd_format_gguf, hd_format_torch, hd_format_numpy, hd_format_llama2c;

/* For steps: the next window is [begin, end) of the file. Bytes that are there already are kept when it begins where the old one did. */
hd_status hd_reader_want(hd_reader *reader, uint64_t begin, uint64_t end, hd_error *err);
/* Bytes [begin, end) of the file where the window has them, or NULL. */
const uint8_t *hd_reader_bytes(const hd_reader *reader, uint64_t begin, uint64_t end);

/* An empty directory of a file; NULL when out of memory. `format` is a row's name. */
hd_directory *hd_directory_new(const char *format, uint64_t file_bytes);

/* ---- Writing files ---- */

struct hd_text; /* text.h's */

/* A tensor to be written. `begin` counts from the start of the file and is set by hd_safetensors_start or hd_gguf_start. */
typedef struct hd_stored {
  const char *name;
  hd_dtype dtype;
  int n_dims;
  size_t shape[HD_MAX_DIMS];
  size_t begin;
  const void *from; /* the caller's own */
} hd_stored;

hd_status hd_stored_too_large(hd_error *err, const hd_stored *t);

/* Tensors from a JSON array of {"name", "dtype", "shape"}; `from` points to each one's own of the values. */
typedef struct hd_stored_list {
  hd_stored *tensors;
  size_t n;
  cJSON *json; /* the names are in there */
} hd_stored_list;

typedef bool hd_has_dtype(hd_dtype dtype); /* whether a format has it */
hd_status hd_stored_read(hd_stored_list *out, const char *json, size_t n_json, const float *values, size_t n_values, const char *format,
                         hd_has_dtype *has, hd_error *err);
/* The same of tensors whose values come later, as they will be in the file; `from` is NULL. */
hd_status hd_stored_declare(hd_stored_list *out, const char *json, size_t n_json, const char *format, hd_has_dtype *has, hd_error *err);
void hd_stored_free(hd_stored_list *list);
/* Bad_argument where a name comes twice. `names` is a new directory, which may have metadata already. */
hd_status hd_stored_refuse_twice(hd_directory *names, const hd_stored *tensors, size_t n, hd_error *err);

/* What each format's file begins with, up to the first tensor's values. Sets every tensor's `begin` and the file's size; sorts SafeTensors'
 * by name. The caller frees header->data, whatever comes back. */
hd_status hd_safetensors_header(struct hd_text *header, size_t *n_file, hd_stored *tensors, size_t n, const char *metadata, hd_error *err);
hd_status hd_gguf_header(struct hd_text *header, size_t *n_file, hd_stored *tensors, size_t n,
                         const char *metadata, size_t n_metadata, hd_error *err);
bool hd_gguf_can_write(hd_dtype dtype);
/* A file of n_file bytes that begins with the header, which is freed; the rest is zero. Passes on a status that is none. */
hd_status hd_stored_open(uint8_t **file, size_t *n_file, struct hd_text *header, hd_status status, hd_error *err);

/* Sorts the tensors by name, gives them their places one after the other, and makes a file with its header written and its data zero, for
 * the caller to fill. `metadata` is JSON text ("{…}") for __metadata__, or NULL. The caller frees *file with hd_free. */
hd_status hd_safetensors_start(uint8_t **file, size_t *n_file, hd_stored *tensors, size_t n, const char *metadata, hd_error *err);

/* The same for GGUF, version 3, in the order given. `metadata` is a JSON object (heddle.h,
 * hd_gguf_serialize, says what becomes of its values). */
hd_status hd_gguf_start(uint8_t **file, size_t *n_file, hd_stored *tensors, size_t n,
                        const char *metadata, size_t n_metadata, hd_error *err);

/* n values to and from a dtype as Loom's tensor files have them: integers truncated toward zero, halves truncated as in precision.h, and
 * an F4 of Loom's own, whose codes mean 0, 0.75, 1, 1.5, 2, 3, infinity, NaN. */
void hd_loom_encode(hd_dtype dtype, const float *values, void *to, size_t n);
void hd_loom_decode(hd_dtype dtype, const void *from, float *values, size_t n);

/* A strided tensor's values, one after the other in row-major order, from the bytes [begin, end) of its file. */
void hd_entry_gather(const hd_entry *entry, const uint8_t *from, uint8_t *to);

/* For readers: appends to a directory. Strings are copied. */
hd_status hd_directory_append(hd_directory *directory, const hd_entry *entry, hd_error *err);
hd_status hd_directory_append_metadata(hd_directory *directory, const char *key, const char *value, hd_error *err);
/* The same for a value that is JSON text. */
hd_status hd_directory_append_json(hd_directory *directory, const char *key, const char *json, hd_error *err);
/* Exactly the room that so many items need, for readers that know before they append the first. */
hd_status hd_directory_reserve(hd_directory *directory, size_t n_entries, size_t n_pairs, hd_error *err);
/* Ends the appending: refuses a second tensor of one name and a second metadata key, sorts by begin
 * (then end, then name), makes lookup fast. */
hd_status hd_directory_seal(hd_directory *directory, hd_error *err);
/* The value of a key; NULL when there is none. */
const char *hd_directory_value(const hd_directory *directory, const char *key);
/* Fails where a tensor's data are not in the file: a GGUF header by itself can be listed, not read. */
hd_status hd_directory_check_data(const hd_directory *directory, hd_error *err);
/* Its tensors, without the metadata; NULL when out of memory. */
hd_directory *hd_directory_copy(const hd_directory *directory);

#endif
