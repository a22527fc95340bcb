/* kernels/panels.h: the one matrix product with many rows on both sides that prefill, input gradients and weight gradients are.
 *
 *   out[i, c] += Σ_k a(i, k) · b(k, c)
 *
 * a is float32, contiguous along i or along k. b is brought by `pack`, in panels of eight columns that stay in the first-level cache
 * while all rows i pass over them: whatever b's dtype and layout, it is converted once a panel. */
#ifndef HD_KERNELS_PANELS_H
#define HD_KERNELS_PANELS_H

#include "heddle.h"

#define K_PANEL_COLUMNS 8
#define K_PANEL_DEPTH 256 /* of k at a time; the panel lies on the stack */

typedef struct k_panels {
  float *out;           /* [n_i, out_stride] */
  size_t out_stride, n_i, n_c, n_k;
  const float *a;       /* a(i, k) is a[i · a_i + k · a_k] */
  size_t a_i, a_k;      /* one of them is 1 */
  /* panel[k − first_k][c − first_c] = b(k, c), for n_k ≤ K_PANEL_DEPTH and n_c ≤ K_PANEL_COLUMNS; the columns from n_c on are set
   * to anything finite. first_c is a multiple of K_PANEL_COLUMNS, first_k of K_PANEL_DEPTH. */
  void (*pack)(float *panel, const void *b, size_t first_k, size_t n_k, size_t first_c, size_t n_c);
  const void *b;
} k_panels;

/* Splits the columns over the pool. Each output is one chain of sums in the order of k. */
void k_panels_add(const k_panels *p);

#endif
