/* base/base64.h: RFC 4648 Base64 with padding, the standard alphabet. */
#ifndef HD_BASE_BASE64_H
#define HD_BASE_BASE64_H

#include "heddle.h"

/* Bytes that n characters decode to at most, and characters that n bytes encode to (without a final NUL). */
size_t hd_base64_decoded_max(size_t n);
size_t hd_base64_encoded_size(size_t n);
/* Decodes n characters. Fails on a character outside the alphabet (its position is in the message), on a wrong length or
 * padding, and on non-zero bits after the last byte. */
hd_status hd_base64_decode(const char *text, size_t n, uint8_t *bytes, size_t *n_bytes, hd_error *err);
void hd_base64_encode(const uint8_t *bytes, size_t n, char *text);

#endif
