/* layer.c: the table of layer types, kept by hand because it is the index readers want. A new type is one new file and one line here. */
#include "layers/layer.h"

#include "base/status.h"
#include "kernels/elementwise.h"
#include "layers/rows.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const hd_layer *const table[] = {
  /* declared in networks */
  &hd_layer_dense,                /* dense.c       y = activation(W·x + b) */
  &hd_layer_linear,               /* linear.c      y = W·x + b */
  &hd_layer_activation,           /* activation.c  relu, silu, tanh, …, element by element */
  &hd_layer_softmax,              /* softmax.c */
  &hd_layer_embedding,            /* embedding.c   ids → rows of a table */
  &hd_layer_rms_norm,             /* norm.c */
  &hd_layer_multi_head_attention, /* attention.c   projections, rotary positions, attention */
  &hd_layer_mixture_of_experts,   /* experts.c     a router, and feed-forwards it chooses from */
  &hd_layer_swiglu,               /* glu.c         down(silu(gate) · up) */
  &hd_layer_sequential,           /* merge.c       children in a chain */
  &hd_layer_residual,             /* merge.c       x + children(x) */
  &hd_layer_parallel,             /* parallel.c    children beside each other, joined */
  &hd_layer_kmeans,               /* kmeans.c      children, then soft assignment to centres */
  &hd_layer_last_rows,            /* select.c      the rows whose logits are wanted */
  &hd_layer_softmax_over,         /* softmax_over.c any dimension */
  &hd_layer_log_softmax,          /* softmax_over.c */
  &hd_layer_prelu,                /* activation.c */
  &hd_layer_max_pool1d,           /* pooling.c */
  &hd_layer_max_pool2d,           /* pooling.c */
  &hd_layer_avg_pool1d,           /* pooling.c */
  &hd_layer_avg_pool2d,           /* pooling.c */
  &hd_layer_adaptive_avg_pool1d,  /* pooling.c */
  &hd_layer_adaptive_avg_pool2d,  /* pooling.c */
  &hd_layer_flatten,              /* shape.c */
  &hd_layer_slice,                /* slice.c */
  &hd_layer_pad,                  /* slice.c */
  &hd_layer_dropout,              /* shape.c       as in eval: nothing */
  &hd_layer_glu,                  /* shape.c       a · σ(b) */
  &hd_layer_embedding_bag,        /* embedding.c   mean or sum of rows of a table */
  &hd_layer_sinusoidal_positions, /* positions.c   x + sines and cosines */
  &hd_layer_learned_positions,    /* positions.c   x + rows of a weight */
  &hd_layer_rotary_positions,     /* positions.c   x turned by its positions */
  &hd_layer_text_embeddings,      /* text_embeddings.c tokens, their types and positions, summed */
  &hd_layer_pooler,               /* text_embeddings.c tanh(W·x + b) of the first row */
  &hd_layer_torch_attention,      /* encoder.c     PyTorch's MultiheadAttention of x to itself */
  &hd_layer_transformer_encoder_layer, /* encoder.c */
  &hd_layer_transformer_encoder,  /* encoder.c */
  &hd_layer_conv1d,               /* conv.c */
  &hd_layer_conv2d,               /* conv.c */
  &hd_layer_conv_transpose1d,     /* conv.c */
  &hd_layer_conv_transpose2d,     /* conv.c */
  &hd_layer_rnn,                  /* recurrent.c */
  &hd_layer_lstm,                 /* recurrent.c */
  &hd_layer_gru,                  /* recurrent.c */
  &hd_layer_layer_norm,           /* moments.c     rows */
  &hd_layer_group_norm,           /* moments.c     groups of channels */
  &hd_layer_instance_norm,        /* moments.c     channels of a sample */
  &hd_layer_batch_norm,           /* moments.c     channels of the batch, or running statistics */
  /* only made by composite layers */
  &hd_layer_convolution,          /* conv.c */
  &hd_layer_recurrent,            /* recurrent.c   one layer in one direction */
  &hd_layer_join,                 /* columns.c     values beside each other */
  &hd_layer_token_types,          /* text_embeddings.c x + rows of a weight */
  &hd_layer_first_row,            /* text_embeddings.c */
  &hd_layer_sum_rows,             /* embedding.c */
  &hd_layer_swap,                 /* encoder.c     the first two of three dimensions */
  &hd_layer_columns,              /* columns.c     some of a value's columns */
  &hd_layer_add,                  /* merge.c */
  &hd_layer_add_carried,          /* merge.c       Loom's hidden residual */
  &hd_layer_as_rows,              /* select.c      any shape as rows of one width */
  &hd_layer_output,               /* merge.c       a container's last value under the container's name */
  &hd_layer_loom_gate,            /* parallel.c    the gate of Loom's filter */
  &hd_layer_multiply,             /* merge.c */
  &hd_layer_rope_table,           /* position.c    cos and sin of the call's positions */
  &hd_layer_rope,                 /* position.c    rotates queries and keys */
  &hd_layer_experts,              /* experts.c     those that were chosen, summed by their shares */
  &hd_layer_attention,            /* attention.c   softmax(q·kᵀ)·v over the key/value cache */
};

enum { TABLE_SIZE = sizeof table / sizeof table[0], MAX_REGISTERED = 16 };

static const hd_layer *registered[MAX_REGISTERED];
static size_t n_registered;

const hd_layer *hd_layer_at(size_t index) {
  if (index < TABLE_SIZE) return table[index];
  return index - TABLE_SIZE < n_registered ? registered[index - TABLE_SIZE] : NULL;
}

static bool has_name(const hd_layer *layer, const char *name) {
  if (strcmp(layer->name, name) == 0) return true;
  for (const char *const *alias = layer->aliases; alias && *alias; alias++)
    if (strcmp(*alias, name) == 0) return true;
  return false;
}

const hd_layer *hd_layer_find(const char *name) {
  const hd_layer *layer;
  for (size_t i = 0; (layer = hd_layer_at(i)) != NULL; i++)
    if (has_name(layer, name)) return layer;
  return NULL;
}

const char *hd_layer_list(char *room, size_t n) {
  size_t at = 0;
  const hd_layer *layer;
  room[0] = 0;
  for (size_t i = 0; (layer = hd_layer_at(i)) != NULL && at < n; i++)
    if (layer->parse) at += (size_t)snprintf(room + at, n - at, "%s%s", at ? ", " : "", layer->name);
  return room;
}

hd_status hd_layer_register(const hd_layer *layer, hd_error *err) {
  if (hd_layer_find(layer->name)) return hd_fail(err, HD_BAD_ARGUMENT, "layer type '%s' is there already", layer->name);
  if (n_registered == MAX_REGISTERED)
    return hd_fail(err, HD_BAD_STATE, "layer type '%s': all %d places for foreign types are taken", layer->name, MAX_REGISTERED);
  registered[n_registered++] = layer;
  return HD_OK;
}

/* ---- What layers use ---- */

size_t hd_shape_size(const hd_shape *shape) {
  size_t n = 1;
  for (int i = 0; i < shape->n_dims; i++) n *= shape->dim[i];
  return n;
}

size_t hd_shape_last(const hd_shape *shape) { return shape->n_dims ? shape->dim[shape->n_dims - 1] : 1; }

size_t hd_shape_rows(const hd_shape *shape) {
  size_t n = 1;
  for (int i = 0; i + 1 < shape->n_dims; i++) n *= shape->dim[i];
  return n;
}

hd_status hd_infer_same(hd_infer *i, hd_error *err) {
  (void)err;
  i->out[0] = *i->in[0];
  return HD_OK;
}

hd_status hd_infer_fail(const hd_infer *i, hd_error *err, const char *format, ...) {
  char text[512];
  va_list arguments;
  va_start(arguments, format);
  hd_print_part(text, sizeof text, format, arguments);
  va_end(arguments);
  char room[HD_NAME_ROOM];
  return hd_fail(err, HD_BAD_ARGUMENT, "layer %s: %s", hd_short_name(room, i->name), text);
}
