/* format/gguf.h: what GGUF's reader (gguf.c, gguf_value.c) and writer (gguf_write.c) share. */
#ifndef HD_FORMAT_GGUF_H
#define HD_FORMAT_GGUF_H

#include "base/text.h"
#include "format/format.h"

typedef enum hd_gguf_kind {
  HD_GGUF_U8, HD_GGUF_I8, HD_GGUF_U16, HD_GGUF_I16, HD_GGUF_U32, HD_GGUF_I32, HD_GGUF_F32, HD_GGUF_BOOL, HD_GGUF_STRING, HD_GGUF_ARRAY,
  HD_GGUF_U64, HD_GGUF_I64, HD_GGUF_F64, HD_GGUF_N_KINDS
} hd_gguf_kind;

/* "u8", "string"; "type 13" is for the caller to write. */
const char *hd_gguf_type_name(uint32_t kind);
size_t hd_gguf_value_bytes(uint32_t kind); /* 0: strings and arrays, whose values say how long they are */

static inline uint32_t hd_u32_at(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}
static inline uint64_t hd_u64_at(const uint8_t *p) { return hd_u32_at(p) | (uint64_t)hd_u32_at(p + 4) << 32; }

/* A place in the window, from which everything is read. A call that returns false has either failed (status) or come to the window's end
 * within the file (needed: the first byte's index behind what it wants). */
typedef struct hd_gguf_cursor {
  const uint8_t *bytes; /* the file's, from its first */
  uint64_t at, held, file_bytes, needed;
  const char *item, *name; /* for messages: "tensor" number `index`, or its name once that is read */
  uint64_t index;
  hd_status status;
  hd_error *err;
} hd_gguf_cursor;

hd_gguf_cursor hd_gguf_open(const hd_reader *reader, uint64_t at, hd_error *err);
void hd_gguf_item(hd_gguf_cursor *c, const char *item, uint64_t index);
/* "GGUF: byte 17: tensor 3: …"; returns false. */
bool hd_gguf_fail(hd_gguf_cursor *c, hd_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

bool hd_gguf_pass(hd_gguf_cursor *c, uint64_t n);
bool hd_gguf_u32(hd_gguf_cursor *c, uint32_t *value);
bool hd_gguf_u64(hd_gguf_cursor *c, uint64_t *value);
bool hd_gguf_string(hd_gguf_cursor *c, const char **bytes, uint64_t *n);

/* Steps over a value, checking types and lengths. */
bool hd_gguf_pass_value(hd_gguf_cursor *c, uint32_t kind, int depth);
/* The value that was stepped over before, as JSON in *text (emptied first): see hd_directory_metadata in heddle.h. */
bool hd_gguf_write_value(hd_text *text, hd_gguf_cursor *c, uint32_t kind);

/* GGML's number for a dtype; false when GGUF has none. */
bool hd_gguf_type(hd_dtype dtype, uint32_t *number);

#endif
