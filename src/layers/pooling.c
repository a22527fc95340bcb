/* pooling.c: max_pool, avg_pool and adaptive_avg_pool over one and two axes, as PyTorch's modules.
 * x: [batch, channels, axes…] or [channels, axes…]. */
#include "kernels/pooling.h"

#include "base/status.h"
#include "layers/axes.h"
#include "layers/rows.h"

typedef struct pool_config {
  int n_axes;
  size_t kernel[HD_AXES], stride[HD_AXES], padding[HD_AXES], dilation[HD_AXES];
  bool ceil_mode, count_include_pad;
  bool adaptive;
  size_t out[HD_AXES]; /* adaptive */
} pool_config;

static void refuse_loom(hd_parse *p) {
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse(pool_config *c, hd_parse *p, int n_axes) {
  c->n_axes = n_axes;
  for (int a = 0; a < HD_AXES; a++) c->kernel[a] = c->stride[a] = c->dilation[a] = 1;
  hd_axes_parse(c->kernel, p, "kernel_size", n_axes, 0, 1);
  size_t missing = SIZE_MAX;
  bool has_stride = hd_json_has(&p->json, "stride") && !cJSON_IsNull(hd_json_member(&p->json, "stride").node);
  if (has_stride) hd_axes_parse(c->stride, p, "stride", n_axes, missing, 1);
  for (int a = 0; !has_stride && a < HD_AXES; a++) c->stride[a] = c->kernel[a];
  hd_axes_parse(c->padding, p, "padding", n_axes, 0, 0);
  c->ceil_mode = hd_json_get_bool(&p->json, "ceil_mode", false);
  for (int a = 0; a < HD_AXES; a++)
    if (c->padding[a] > c->kernel[a] / 2) hd_json_refuse(&p->json, "padding", HD_BAD_FILE, "expected at most half of the kernel");
  refuse_loom(p);
}

static void parse_max(pool_config *c, hd_parse *p, int n_axes) {
  parse(c, p, n_axes);
  hd_axes_parse(c->dilation, p, "dilation", n_axes, 1, 1);
  if (hd_json_get_bool(&p->json, "return_indices", false))
    hd_json_refuse(&p->json, "return_indices", HD_UNSUPPORTED, "a layer has one output, the indices have no place");
}

static void parse_avg(pool_config *c, hd_parse *p, int n_axes) {
  parse(c, p, n_axes);
  c->count_include_pad = hd_json_get_bool(&p->json, "count_include_pad", true);
  if (hd_json_get_number(&p->json, "divisor_override", 0) != 0)
    hd_json_refuse(&p->json, "divisor_override", HD_UNSUPPORTED, "a divisor of one's own is not built");
}

static void parse_adaptive(pool_config *c, hd_parse *p, int n_axes) {
  c->n_axes = n_axes;
  c->adaptive = true;
  c->out[0] = 1;
  hd_axes_parse(c->out, p, "output_size", n_axes, 0, 1);
  refuse_loom(p);
}

static void parse_max_1(void *config, hd_parse *p) { parse_max(config, p, 1); }
static void parse_max_2(void *config, hd_parse *p) { parse_max(config, p, 2); }
static void parse_avg_1(void *config, hd_parse *p) { parse_avg(config, p, 1); }
static void parse_avg_2(void *config, hd_parse *p) { parse_avg(config, p, 2); }
static void parse_adaptive_1(void *config, hd_parse *p) { parse_adaptive(config, p, 1); }
static void parse_adaptive_2(void *config, hd_parse *p) { parse_adaptive(config, p, 2); }

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const pool_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no pooling layer");
  if (c->adaptive) {
    hd_axes_write(json, "output_size", c->out, c->n_axes);
    return HD_OK;
  }
  hd_axes_write(json, "kernel_size", c->kernel, c->n_axes);
  hd_axes_write(json, "stride", c->stride, c->n_axes);
  hd_axes_write(json, "padding", c->padding, c->n_axes);
  cJSON_AddBoolToObject(json, "ceil_mode", c->ceil_mode);
  return HD_OK;
}

static hd_status write_max(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const pool_config *c = config;
  HD_TRY(write(config, json, dialect, err));
  hd_axes_write(json, "dilation", c->dilation, c->n_axes);
  return HD_OK;
}

static hd_status write_avg(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  HD_TRY(write(config, json, dialect, err));
  cJSON_AddBoolToObject(json, "count_include_pad", ((const pool_config *)config)->count_include_pad);
  return HD_OK;
}

/* With ceil_mode a last window may lie over the end, unless it begins in the padding behind. */
static size_t n_places(const pool_config *c, int a, size_t in) {
  size_t span_end = 2 * c->padding[a] + (c->ceil_mode ? c->stride[a] - 1 : 0);
  size_t n = in + 2 * c->padding[a] < c->dilation[a] * (uint64_t)(c->kernel[a] - 1) + 1 ? 0
             : hd_axis_places(in, span_end, c->kernel[a], c->stride[a], c->dilation[a]);
  return c->ceil_mode && n && (uint64_t)(n - 1) * c->stride[a] >= (uint64_t)in + c->padding[a] ? n - 1 : n;
}

static k_pool kernel_of(const pool_config *c, const hd_image *in) {
  k_pool k = {.planes = in->batch * in->channels, .adaptive = c->adaptive, .count_include_pad = c->count_include_pad};
  for (int a = 0; a < HD_AXES; a++) {
    k.in[a] = in->size[a];
    k.kernel[a] = c->kernel[a];
    k.stride[a] = c->stride[a];
    k.padding[a] = c->padding[a];
    k.dilation[a] = c->dilation[a];
    k.out[a] = c->adaptive ? c->out[a] : n_places(c, a, in->size[a]);
  }
  return k;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const pool_config *c = i->config;
  hd_image in;
  char room[HD_SHAPE_ROOM];
  bool fits = hd_image_read(&in, i->in[0], c->n_axes) && in.size[0] && in.size[1];
  k_pool k = fits ? kernel_of(c, &in) : (k_pool){0};
  if (!k.out[0] || !k.out[1])
    return hd_infer_fail(i, err, "expected channels of %d dimensions that the window fits, found shape %s", c->n_axes,
                         hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  i->out[0] = hd_image_shape(i->in[0], c->n_axes, in.channels, k.out);
  return HD_OK;
}

static k_pool kernel_at(const hd_call *call) {
  const pool_config *c = call->config;
  hd_image in;
  hd_image_read(&in, call->in[0].shape, c->n_axes);
  return kernel_of(c, &in);
}

static hd_status forward_max(const hd_call *call, hd_error *err) {
  (void)err;
  const k_pool k = kernel_at(call);
  k_max_pool_f32(call->out[0].data, call->in[0].data, &k);
  return HD_OK;
}

static hd_status backward_max(const hd_call *call, hd_error *err) {
  (void)err;
  const k_pool k = kernel_at(call);
  if (call->d_in[0]) k_max_pool_grad_f32(call->d_in[0], call->d_out[0], call->in[0].data, &k);
  return HD_OK;
}

static hd_status forward_avg(const hd_call *call, hd_error *err) {
  (void)err;
  const k_pool k = kernel_at(call);
  k_avg_pool_f32(call->out[0].data, call->in[0].data, &k);
  return HD_OK;
}

static hd_status backward_avg(const hd_call *call, hd_error *err) {
  (void)err;
  const k_pool k = kernel_at(call);
  if (call->d_in[0]) k_avg_pool_grad_f32(call->d_in[0], call->d_out[0], &k);
  return HD_OK;
}

static const char *const max_1[] = {"MaxPool1d", NULL}, *const max_2[] = {"MaxPool2d", NULL}, *const avg_1[] = {"AvgPool1d", NULL},
  *const avg_2[] = {"AvgPool2d", NULL}, *const adaptive_1[] = {"AdaptiveAvgPool1d", NULL},
  *const adaptive_2[] = {"AdaptiveAvgPool2d", NULL};

#define POOL(type, text, torch, reader, writer, kind)                                                          \
  const hd_layer hd_layer_##type = {                                                                           \
    .name = #type, .example = "{\"type\":\"" #type "\"," text "}", .aliases = torch, .config_bytes = sizeof(pool_config), \
    .parse = reader, .write = writer, .infer = infer, .forward = forward_##kind, .backward = backward_##kind,  \
  }

POOL(max_pool1d, "\"kernel_size\":3,\"stride\":2,\"padding\":1,\"input_shape\":[2,3,8]", max_1, parse_max_1, write_max, max);
POOL(max_pool2d, "\"kernel_size\":[2,3],\"ceil_mode\":true,\"dilation\":[2,1],\"input_shape\":[2,5,7]", max_2, parse_max_2, write_max, max);
POOL(avg_pool1d, "\"kernel_size\":3,\"stride\":2,\"padding\":1,\"input_shape\":[2,3,8]", avg_1, parse_avg_1, write_avg, avg);
POOL(avg_pool2d, "\"kernel_size\":2,\"padding\":1,\"count_include_pad\":false,\"input_shape\":[1,2,5,4]",
     avg_2, parse_avg_2, write_avg, avg);
POOL(adaptive_avg_pool1d, "\"output_size\":3,\"input_shape\":[2,3,8]", adaptive_1, parse_adaptive_1, write, avg);
POOL(adaptive_avg_pool2d, "\"output_size\":[3,2],\"input_shape\":[1,2,7,5]", adaptive_2, parse_adaptive_2, write, avg);
