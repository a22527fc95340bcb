/* base/base64.c: RFC 4648, section 4. Four characters hold three bytes; '=' fills the last four up. */
#include "base/base64.h"

#include "base/status.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/* A character's six bits, or -1. */
static int sextet(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* The first n must be in the alphabet; `position` of the first of them is for the message. Returns their bits, first highest. */
static hd_status read_group(const char *text, size_t n, size_t position, uint32_t *bits, hd_error *err) {
  *bits = 0;
  for (size_t i = 0; i < n; i++) {
    int six = sextet(text[i]);
    unsigned char c = (unsigned char)text[i];
    if (six < 0 && c == '=')
      return hd_fail(err, HD_BAD_FILE, "Base64: character %zu: expected padding only at the end, found '='", position + i);
    if (six < 0 && c > 0x20 && c < 0x7F)
      return hd_fail(err, HD_BAD_FILE, "Base64: character %zu: expected A-Z, a-z, 0-9, + or /, found '%c'", position + i, c);
    if (six < 0)
      return hd_fail(err, HD_BAD_FILE, "Base64: character %zu: expected A-Z, a-z, 0-9, + or /, found byte 0x%02X", position + i, c);
    *bits = *bits << 6 | (uint32_t)six;
  }
  return HD_OK;
}

size_t hd_base64_decoded_max(size_t n) { return n / 4 * 3 + n % 4; }
/* A text that large could not be held: SIZE_MAX, which no allocator gives. */
size_t hd_base64_encoded_size(size_t n) { return n / 3 >= SIZE_MAX / 4 - 1 ? SIZE_MAX : (n + 2) / 3 * 4; }

/* The last four characters when they are padded: one or two bytes. */
static hd_status decode_padded(const char *text, size_t position, size_t n_chars, uint8_t *bytes, hd_error *err) {
  uint32_t bits;
  HD_TRY(read_group(text, n_chars, position, &bits, err));
  unsigned spare = n_chars == 2 ? 4 : 2;
  if (bits & ((1u << spare) - 1))
    return hd_fail(err, HD_BAD_FILE, "Base64: character %zu: expected zero bits after the last byte, found '%c'",
                   position + n_chars - 1, text[n_chars - 1]);
  bits >>= spare;
  if (n_chars == 3) *bytes++ = (uint8_t)(bits >> 8);
  *bytes = (uint8_t)bits;
  return HD_OK;
}

hd_status hd_base64_decode(const char *text, size_t n, uint8_t *bytes, size_t *n_bytes, hd_error *err) {
  *n_bytes = 0;
  size_t padding = n >= 2 && text[n - 1] == '=' ? (text[n - 2] == '=' ? 2 : 1) : 0;
  size_t whole = padding ? (n - 1) / 4 * 4 : n / 4 * 4, out = 0;
  for (size_t at = 0; at < whole; at += 4) {
    uint32_t bits;
    HD_TRY(read_group(text + at, 4, at, &bits, err));
    bytes[out++] = (uint8_t)(bits >> 16);
    bytes[out++] = (uint8_t)(bits >> 8);
    bytes[out++] = (uint8_t)bits;
  }
  if (n % 4 != 0)
    return hd_fail(err, HD_BAD_FILE, "Base64: expected a multiple of 4 characters, found %zu", n);
  if (padding) {
    HD_TRY(decode_padded(text + whole, whole, 4 - padding, bytes + out, err));
    out += 3 - padding;
  }
  *n_bytes = out;
  return HD_OK;
}

void hd_base64_encode(const uint8_t *bytes, size_t n, char *text) {
  size_t at = 0;
  for (; n - at >= 3; at += 3) {
    uint32_t bits = (uint32_t)bytes[at] << 16 | (uint32_t)bytes[at + 1] << 8 | bytes[at + 2];
    for (unsigned shift = 24; shift > 0; shift -= 6) *text++ = alphabet[bits >> (shift - 6) & 63];
  }
  if (at == n) return;
  bool two = n - at == 2;
  uint32_t bits = (uint32_t)bytes[at] << 16 | (two ? (uint32_t)bytes[at + 1] << 8 : 0);
  *text++ = alphabet[bits >> 18];
  *text++ = alphabet[bits >> 12 & 63];
  *text++ = two ? alphabet[bits >> 6 & 63] : '=';
  *text = '=';
}
