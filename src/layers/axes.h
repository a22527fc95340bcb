/* layers/axes.h: sizes along the one or two axes that convolutions and pools slide over. One axis is the second of two whose first is 1. */
#ifndef HD_LAYERS_AXES_H
#define HD_LAYERS_AXES_H

#include "layers/layer.h"

#define HD_AXES 2

/* Refuses the arguments of PyTorch's calls that would be further inputs: a graph has one. `names` ends with NULL. */
void hd_refuse_inputs(hd_parse *p, const char *const *names);

/* Reads "key": n, or [n] or [n, m] as there are axes. Not even `least`: an error. */
void hd_axes_parse(size_t sizes[HD_AXES], hd_parse *p, const char *key, int n_axes, size_t missing, size_t least);
void hd_axes_write(cJSON *json, const char *key, const size_t sizes[HD_AXES], int n_axes);

/* (in + padding − (dilation · (kernel − 1) + 1)) / stride + 1; 0 where the kernel does not fit. */
size_t hd_axis_places(size_t in, size_t padding, size_t kernel, size_t stride, size_t dilation);

/* [channels, axes…] or [batch, channels, axes…]. */
typedef struct hd_image {
  size_t batch, channels, size[HD_AXES];
} hd_image;

/* False when the shape has another number of dimensions. */
bool hd_image_read(hd_image *image, const hd_shape *shape, int n_axes);
/* The same kind of shape with other channels and sizes. */
hd_shape hd_image_shape(const hd_shape *like, int n_axes, size_t channels, const size_t size[HD_AXES]);

#endif
