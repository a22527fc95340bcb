/* base/dtype_families.h: the conversions that dtype.c's table takes from its two neighbours. A dtype's pair is hd_<name>_to_f32 and
 * hd_<name>_from_f32. */
#ifndef HD_BASE_DTYPE_FAMILIES_H
#define HD_BASE_DTYPE_FAMILIES_H

#include "heddle.h"

#define HD_DECODES(name) void hd_##name##_to_f32(const void *from, float *to, size_t n);
#define HD_CONVERTS(name) HD_DECODES(name) void hd_##name##_from_f32(const float *from, void *to, size_t n);

/* dtype_small.c */
HD_CONVERTS(f8_e4m3)
HD_CONVERTS(f8_e5m2)
HD_CONVERTS(f8_e4m3fnuz)
HD_CONVERTS(f8_e5m2fnuz)
HD_CONVERTS(f8_e8m0)
HD_CONVERTS(f6_e2m3)
HD_CONVERTS(f6_e3m2)
HD_CONVERTS(f4)

/* dtype_ggml.c */
HD_CONVERTS(q4_0)
HD_CONVERTS(q4_1)
HD_CONVERTS(q5_0)
HD_CONVERTS(q5_1)
HD_CONVERTS(q8_0)
HD_CONVERTS(mxfp4)
HD_DECODES(q2_k)
HD_DECODES(q3_k)
HD_DECODES(q4_k)
HD_DECODES(q5_k)
HD_DECODES(q6_k)
HD_DECODES(iq4_nl)
HD_DECODES(iq4_xs)

#endif
