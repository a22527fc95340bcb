/* kernels/conv.h: cross-correlation over two axes; one axis is two with a first of size 1. Products go through panels.c, which reads the
 * patches of the input as they lie: no matrix of patches is made.
 *
 *   y[b, f, oy, ox] = Σ_{c, ky, kx} w[f, c, ky, kx] · x[b, c, oy·stride − padding + ky·dilation, …]
 *
 * over the in_channels / groups channels of f's group. A place outside the input is zero, or what `mode` takes from inside. */
#ifndef HD_KERNELS_CONV_H
#define HD_KERNELS_CONV_H

#include "heddle.h"

/* PyTorch's padding_mode. */
typedef enum k_padding { K_PAD_ZEROS, K_PAD_REFLECT, K_PAD_REPLICATE, K_PAD_CIRCULAR } k_padding;

typedef struct k_conv {
  size_t batch, in_channels, out_channels, groups;
  size_t in[2], out[2], kernel[2], stride[2], padding[2], dilation[2]; /* padding: before the first place */
  k_padding mode;
} k_conv;

/* y[batch, out_channels, out] += …; w: [out_channels, in_channels / groups, kernel]. */
void k_conv_f32(float *y, const float *x, const float *w, const k_conv *c);

/* d_x += the gradient through x. It is the transposed convolution. scratch: k_conv_scratch_bytes. */
void k_conv_input_grad_f32(float *d_x, const float *d_y, const float *w, const k_conv *c, void *scratch);
bool k_conv_scratch_bytes(const k_conv *c, size_t *bytes); /* false on overflow */

/* d_w += the gradient through w. */
void k_conv_weight_grad_f32(float *d_w, const float *d_y, const float *x, const k_conv *c);

#endif
