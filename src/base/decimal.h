/* base/decimal.h: floating-point numbers to and from decimals: the shortest that reads back, and
 * the number nearest to one of any length. */
#ifndef HD_BASE_DECIMAL_H
#define HD_BASE_DECIMAL_H

#include "heddle.h"

/* A binary floating-point format: which numbers lie beside each other. */
typedef struct hd_binary {
  int bits;     /* of a normal number, the leading one included */
  int smallest; /* 2^smallest is its smallest subnormal number */
} hd_binary;

extern const hd_binary hd_binary_f64, hd_binary_f32, hd_binary_f16, hd_binary_bf16;

enum { HD_DECIMAL_ROOM = 32 };

/* Writes a finite number of the format, NUL-terminated, and gives the text's length. As Go and JavaScript write numbers: the fewest digits
 * that read back, the nearest of those; an exponent below 1e-6 and from 1e21 on. */
size_t hd_decimal(char room[HD_DECIMAL_ROOM], double value, hd_binary format);

/* The number of the format that is nearest to a decimal, halves to even; ±infinity where that is too large for a double. A text of
 * n characters begins with it: digits, which may have a sign, a point among them and an exponent behind them. *n_read (unless
 * NULL): its characters; 0: there is no decimal. */
double hd_decimal_read(const char *text, size_t n, size_t *n_read, hd_binary format);

#endif
