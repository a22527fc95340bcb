/* base/decimal.h: a floating-point number as the shortest decimal that reads back as the same number. */
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

/* Writes a finite number of the format, NUL-terminated, and gives the text's length. As Go and JavaScript write numbers: the fewest digits that read
 * back, the nearest of those; an exponent below 1e-6 and from 1e21 on. */
size_t hd_decimal(char room[HD_DECIMAL_ROOM], double value, hd_binary format);

#endif
