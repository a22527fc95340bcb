/* conv.c: convolutions over one and two axes and their transposes, as PyTorch's Conv1d, Conv2d, ConvTranspose1d and ConvTranspose2d, and
 * Loom's conv1d and conv2d with an activation behind. x: [batch, in, axes…] or [in, axes…]; weight: [out, in / groups, kernel…]; of a
 * transpose [in, out / groups, kernel…]. Weights are float32: a kernel is small beside what it slides over. */
#include "base/status.h"
#include "kernels/conv.h"
#include "layers/axes.h"
#include "layers/rows.h"

#include <math.h>
#include <string.h>

typedef struct conv_config {
  int n_axes;
  size_t in_channels, out_channels, groups;
  size_t kernel[HD_AXES], stride[HD_AXES], padding[HD_AXES], dilation[HD_AXES];
  size_t output_padding[HD_AXES]; /* transposed */
  bool same;                      /* padding is what keeps the size; what is odd of it comes behind */
  bool bias;
  k_padding mode;
  const hd_activation *activation; /* NULL: none */
  /* Loom: the input is one flat list of `batch` samples of these sizes, and the output has the sizes that are stored. */
  size_t batch, in[HD_AXES], out[HD_AXES];
} conv_config;

/* ---- JSON ---- */

static const char *const padding_modes[] = {"zeros", "reflect", "replicate", "circular"}; /* by k_padding */

static void parse_padding_mode(conv_config *c, hd_parse *p) {
  const char *name = hd_json_get_text(&p->json, "padding_mode", "zeros");
  char room[HD_NAME_ROOM];
  for (size_t m = 0; m < sizeof padding_modes / sizeof *padding_modes; m++) {
    c->mode = (k_padding)m;
    if (strcmp(padding_modes[m], name) == 0) return;
  }
  hd_json_refuse(&p->json, "padding_mode", HD_UNSUPPORTED, "expected zeros, reflect, replicate or circular, found '%s'",
                 hd_short_name(room, name));
}

static void parse_padding(conv_config *c, hd_parse *p) {
  hd_json padding = hd_json_member(&p->json, "padding");
  if (!padding.node || !cJSON_IsString(padding.node)) {
    hd_axes_parse(c->padding, p, "padding", c->n_axes, 0, 0);
    return;
  }
  c->same = strcmp(padding.node->valuestring, "same") == 0;
  if (!c->same && strcmp(padding.node->valuestring, "valid") != 0)
    hd_json_refuse(&p->json, "padding", HD_BAD_FILE, "expected sizes, 'same' or 'valid'");
  for (int a = 0; c->same && a < HD_AXES; a++)
    if (c->stride[a] != 1) hd_json_refuse(&p->json, "padding", HD_BAD_FILE, "'same' needs a stride of 1");
}

/* Rows of the weight, and columns behind each. */
static bool weight_fits(const conv_config *c, size_t from, size_t to) {
  size_t n;
  return hd_mul_size(from, to / c->groups, &n) && hd_mul_size(n, c->kernel[0], &n) && hd_mul_size(n, c->kernel[1], &n)
         && n <= SIZE_MAX / 16;
}

static void check_channels(const conv_config *c, hd_parse *p) {
  if (c->groups == 0 || c->in_channels % c->groups || c->out_channels % c->groups)
    hd_json_refuse(&p->json, "groups", HD_BAD_FILE, "expected a divisor of %zu and %zu channels, found %zu",
                   c->in_channels, c->out_channels, c->groups);
  else if (!weight_fits(c, c->in_channels, c->out_channels))
    hd_json_refuse(&p->json, "kernel_size", HD_BAD_FILE, "a kernel of %zu × %zu channels is too large", c->in_channels, c->out_channels);
}

static void parse_sizes(conv_config *c, hd_parse *p) {
  hd_json *j = &p->json;
  for (int a = 0; a < HD_AXES; a++) c->kernel[a] = c->stride[a] = c->dilation[a] = 1;
  c->in_channels = hd_json_need_size(j, "in_channels", SIZE_MAX);
  c->out_channels = hd_json_need_size(j, "out_channels", SIZE_MAX);
  c->groups = hd_json_get_size(j, "groups", 1);
  c->bias = hd_json_get_bool(j, "bias", true);
  hd_axes_parse(c->kernel, p, "kernel_size", c->n_axes, 0, 1);
  hd_axes_parse(c->stride, p, "stride", c->n_axes, 1, 1);
  hd_axes_parse(c->dilation, p, "dilation", c->n_axes, 1, 1);
}

static void parse_standard(conv_config *c, hd_parse *p) {
  parse_sizes(c, p);
  parse_padding(c, p);
  parse_padding_mode(c, p);
  c->activation = hd_parse_activation(p);
  check_channels(c, p);
}

static void parse_loom(conv_config *c, hd_parse *p) {
  hd_json *j = &p->json;
  c->in_channels = hd_json_need_size(j, "input_channels", SIZE_MAX);
  c->out_channels = hd_json_need_size(j, "filters", SIZE_MAX);
  c->groups = 1;
  c->bias = true;
  c->batch = p->batch;
  c->activation = hd_parse_activation(p);
  for (int a = HD_AXES - c->n_axes; a < HD_AXES; a++) {
    c->kernel[a] = hd_json_need_size(j, "kernel_size", SIZE_MAX);
    c->stride[a] = hd_json_need_size(j, "stride", SIZE_MAX);
    c->padding[a] = hd_json_get_size(j, "padding", 0);
  }
  if (c->n_axes == 1) {
    c->in[1] = hd_json_get_size(j, "input_length", 0);
  } else {
    c->in[0] = hd_json_get_size(j, "input_height", 0);
    c->in[1] = hd_json_get_size(j, "input_width", 0);
    c->out[0] = hd_json_get_size(j, "output_height", 0);
    c->out[1] = hd_json_get_size(j, "output_width", 0);
  }
  check_channels(c, p);
}

static void parse(conv_config *c, hd_parse *p, int n_axes) {
  c->n_axes = n_axes;
  c->kernel[0] = c->stride[0] = c->dilation[0] = c->in[0] = c->out[0] = 1;
  c->dilation[1] = 1;
  if (p->dialect == HD_LOOM) parse_loom(c, p);
  else parse_standard(c, p);
}

static void parse_1(void *config, hd_parse *p) { parse(config, p, 1); }
static void parse_2(void *config, hd_parse *p) { parse(config, p, 2); }

static void write_standard(const conv_config *c, cJSON *json) {
  cJSON_AddNumberToObject(json, "in_channels", (double)c->in_channels);
  cJSON_AddNumberToObject(json, "out_channels", (double)c->out_channels);
  hd_axes_write(json, "kernel_size", c->kernel, c->n_axes);
  hd_axes_write(json, "stride", c->stride, c->n_axes);
  if (c->same) cJSON_AddStringToObject(json, "padding", "same");
  else hd_axes_write(json, "padding", c->padding, c->n_axes);
  hd_axes_write(json, "dilation", c->dilation, c->n_axes);
  cJSON_AddNumberToObject(json, "groups", (double)c->groups);
  cJSON_AddBoolToObject(json, "bias", c->bias);
}

static void write_loom(const conv_config *c, cJSON *json) {
  cJSON_AddNumberToObject(json, "input_channels", (double)c->in_channels);
  cJSON_AddNumberToObject(json, "filters", (double)c->out_channels);
  cJSON_AddNumberToObject(json, "kernel_size", (double)c->kernel[1]);
  cJSON_AddNumberToObject(json, "stride", (double)c->stride[1]);
  cJSON_AddNumberToObject(json, "padding", (double)c->padding[1]);
  if (c->n_axes == 1) {
    cJSON_AddNumberToObject(json, "input_length", (double)c->in[1]);
    return;
  }
  cJSON_AddNumberToObject(json, "input_height", (double)c->in[0]);
  cJSON_AddNumberToObject(json, "input_width", (double)c->in[1]);
  cJSON_AddNumberToObject(json, "output_height", (double)c->out[0]);
  cJSON_AddNumberToObject(json, "output_width", (double)c->out[1]);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const conv_config *c = config;
  HD_TRY(hd_write_activation(c->activation, json, dialect, err));
  if (dialect == HD_LOOM) {
    write_loom(c, json);
    return HD_OK;
  }
  write_standard(c, json);
  cJSON_AddStringToObject(json, "padding_mode", padding_modes[c->mode]);
  return HD_OK;
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value input) {
  const conv_config *c = spec->config;
  if (!c->activation) return hd_build(b, &hd_layer_convolution, "", "", c, &input, 1);
  hd_value x = hd_build(b, &hd_layer_convolution, "conv", "", c, &input, 1);
  return hd_build(b, &hd_layer_activation, "", "", &(hd_activation_config){.activation = c->activation}, &x, 1);
}

/* ---- The primitive ---- */

static k_conv kernel_of(const conv_config *c, const hd_image *in) {
  k_conv k = {.batch = in->batch, .in_channels = c->in_channels, .out_channels = c->out_channels, .groups = c->groups, .mode = c->mode};
  for (int a = 0; a < HD_AXES; a++) {
    size_t span = c->dilation[a] * (c->kernel[a] - 1);
    k.in[a] = in->size[a];
    k.kernel[a] = c->kernel[a];
    k.stride[a] = c->stride[a];
    k.dilation[a] = c->dilation[a];
    k.padding[a] = c->same ? span / 2 : c->padding[a];
    k.out[a] = hd_axis_places(in->size[a], c->same ? span : 2 * c->padding[a], c->kernel[a], c->stride[a], c->dilation[a]);
  }
  return k;
}

/* Loom's sizes: a length of 0 is what the input has for it; conv2d's output sizes are taken as stored. */
static k_conv loom_kernel(const conv_config *c, size_t n_input) {
  hd_image in = {c->batch, c->in_channels, {c->in[0], c->in[1]}};
  if (c->n_axes == 1 && in.size[1] == 0) in.size[1] = n_input / (c->in_channels * c->batch);
  k_conv k = kernel_of(c, &in);
  for (int a = 0; c->n_axes == 2 && a < HD_AXES; a++) k.out[a] = c->out[a];
  return k;
}

static hd_shape loom_shape(const conv_config *c, const k_conv *k) {
  if (c->n_axes == 1) return (hd_shape){HD_F32, 3, {k->batch, k->out_channels, k->out[1]}};
  return (hd_shape){HD_F32, 4, {k->batch, k->out_channels, k->out[0], k->out[1]}};
}

static hd_status infer_loom(hd_infer *i, k_conv *k, hd_error *err) {
  const conv_config *c = i->config;
  size_t have = hd_shape_size(i->in[0]), want;
  *k = loom_kernel(c, have);
  bool fits = hd_mul_size(k->batch * c->in_channels, k->in[0], &want) && hd_mul_size(want, k->in[1], &want);
  if (!fits || have < want)
    return hd_infer_fail(i, err, "expected %zu × %zu × %zu × %zu values, found %zu", k->batch, c->in_channels, k->in[0], k->in[1], have);
  i->out[0] = loom_shape(c, k);
  return HD_OK;
}

static hd_status infer_standard(hd_infer *i, k_conv *k, hd_error *err) {
  const conv_config *c = i->config;
  hd_image in;
  char room[HD_SHAPE_ROOM];
  if (!hd_image_read(&in, i->in[0], c->n_axes) || in.channels != c->in_channels)
    return hd_infer_fail(i, err, "expected %zu channels of %d dimensions, found shape %s",
                         c->in_channels, c->n_axes, hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  *k = kernel_of(c, &in);
  for (int a = 0; a < HD_AXES; a++) {
    size_t most = c->mode == K_PAD_REFLECT ? k->in[a] : k->in[a] + 1;
    bool pads_too_far = c->mode != K_PAD_ZEROS && c->mode != K_PAD_REPLICATE && k->dilation[a] * (k->kernel[a] - 1) + 1 > 1
                        && k->padding[a] >= most;
    if (k->out[a] == 0 || pads_too_far || k->in[a] == 0)
      return hd_infer_fail(i, err, "the kernel or its padding does not fit shape %s", hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  }
  i->out[0] = hd_image_shape(i->in[0], c->n_axes, c->out_channels, k->out);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const conv_config *c = i->config;
  k_conv k;
  HD_TRY(c->batch ? infer_loom(i, &k, err) : infer_standard(i, &k, err));
  size_t bytes;
  if (!k_conv_scratch_bytes(&k, &bytes)) return hd_infer_fail(i, err, "the patches of the input are too many");
  i->scratch_bytes = i->run->keep ? bytes : 0;
  return HD_OK;
}

/* Loom's kernel may lack its end, which counts as zeros, or be missing: then the output is zero. So may the bias, which then is. */
static hd_lack lack_of(const conv_config *c) { return c->batch ? HD_LACK_PADDED : HD_LACK_REFUSED; }

/* [rows, columns / groups, kernel…] */
static void weight_slot(hd_slot *slot, const conv_config *c, size_t rows, size_t columns) {
  *slot = (hd_slot){.role = "weight", .n_dims = 2, .shape = {rows, columns / c->groups}, .lack = lack_of(c), .init = HD_INIT_UNIFORM_FAN_IN,
                    .optional = c->batch > 0};
  size_t n_kernel = c->kernel[0] * c->kernel[1];
  for (int a = HD_AXES - c->n_axes; a < HD_AXES; a++) slot->shape[slot->n_dims++] = c->kernel[a];
  /* The initialiser's fan-in is the last dimension: the rest of it comes into the scale. */
  slot->init_scale = sqrtf((float)c->kernel[1] / ((float)slot->shape[1] * (float)n_kernel));
}

static size_t add_bias_slot(hd_slot slot[HD_MAX_WEIGHTS], const conv_config *c) {
  if (!c->bias) return 1;
  slot[1] = (hd_slot){.role = "bias", .n_dims = 1, .shape = {c->out_channels}, .lack = lack_of(c), .init = HD_INIT_ZERO};
  return 2;
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const conv_config *c = config;
  weight_slot(&slot[0], c, c->out_channels, c->in_channels);
  return add_bias_slot(slot, c);
}

/* Every channel of y begins as its bias. */
static void begin_with_bias(float *y, const hd_matrix *bias, size_t batch, size_t channels, size_t n) {
  for (size_t i = 0; i < batch * channels; i++)
    for (size_t j = 0; j < n; j++) y[i * n + j] = bias ? ((const float *)bias->data)[i % channels] : 0.0f;
}

/* bias += Σ over samples and places of each channel. */
static void bias_grad(float *d_bias, const float *d_y, size_t batch, size_t channels, size_t n) {
  for (size_t i = 0; d_bias && i < batch * channels; i++) {
    double sum = 0;
    for (size_t j = 0; j < n; j++) sum += (double)d_y[i * n + j];
    d_bias[i % channels] += (float)sum;
  }
}

static k_conv kernel_at(const hd_call *call) {
  const conv_config *c = call->config;
  if (c->batch) return loom_kernel(c, hd_shape_size(call->in[0].shape));
  hd_image in;
  hd_image_read(&in, call->in[0].shape, c->n_axes);
  return kernel_of(c, &in);
}

/* Loom's output without a kernel is zero behind the activation: −∞ is where sigmoid and softplus are 0. */
static void fill_without_kernel(const conv_config *c, float *y, size_t n) {
  float at_zero = 0;
  if (c->activation) c->activation->forward(&at_zero, &(float){0}, 1);
  for (size_t i = 0; i < n; i++) y[i] = at_zero == 0 ? 0.0f : -INFINITY;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const conv_config *c = call->config;
  const k_conv k = kernel_at(call);
  float *y = call->out[0].data;
  if (!call->weight[0]) {
    fill_without_kernel(c, y, hd_shape_size(call->out[0].shape));
    return HD_OK;
  }
  begin_with_bias(y, call->weight[1], k.batch, c->out_channels, k.out[0] * k.out[1]);
  k_conv_f32(y, call->in[0].data, call->weight[0]->data, &k);
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  const conv_config *c = call->config;
  const k_conv k = kernel_at(call);
  if (!call->weight[0]) return hd_fail(err, HD_UNSUPPORTED, "layer %s: a convolution without kernel cannot be trained", call->name);
  if (call->d_in[0]) k_conv_input_grad_f32(call->d_in[0], call->d_out[0], call->weight[0]->data, &k, call->scratch);
  if (call->d_weight[0]) k_conv_weight_grad_f32(call->d_weight[0], call->d_out[0], call->in[0].data, &k);
  if (call->weight[1]) bias_grad(call->d_weight[1], call->d_out[0], k.batch, c->out_channels, k.out[0] * k.out[1]);
  return HD_OK;
}

/* ---- Transposed: the gradient of the convolution that goes from its output to its input ---- */

static void parse_transposed(conv_config *c, hd_parse *p, int n_axes) {
  c->n_axes = n_axes;
  parse_sizes(c, p);
  hd_axes_parse(c->padding, p, "padding", n_axes, 0, 0);
  hd_axes_parse(c->output_padding, p, "output_padding", n_axes, 0, 0);
  check_channels(c, p);
  for (int a = 0; a < HD_AXES; a++)
    if (c->output_padding[a] && c->output_padding[a] >= c->stride[a] && c->output_padding[a] >= c->dilation[a])
      hd_json_refuse(&p->json, "output_padding", HD_BAD_FILE, "expected less than the stride or the dilation");
  if (p->dialect == HD_LOOM) hd_json_refuse(&p->json, "type", HD_UNSUPPORTED, "the loom dialect has no '%s'", p->spec->layer->name);
}

static void parse_transposed_1(void *config, hd_parse *p) { parse_transposed(config, p, 1); }
static void parse_transposed_2(void *config, hd_parse *p) { parse_transposed(config, p, 2); }

static hd_status write_transposed(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const conv_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "the loom dialect has no transposed convolution");
  write_standard(c, json);
  hd_axes_write(json, "output_padding", c->output_padding, c->n_axes);
  return HD_OK;
}

/* The convolution from this layer's output to its input. False: no output is left. */
static bool turned_kernel(k_conv *k, const conv_config *c, const hd_image *in) {
  *k = (k_conv){.batch = in->batch, .in_channels = c->out_channels, .out_channels = c->in_channels, .groups = c->groups};
  for (int a = 0; a < HD_AXES; a++) {
    uint64_t size = (uint64_t)(in->size[a] - 1) * c->stride[a] + (uint64_t)c->dilation[a] * (c->kernel[a] - 1) + c->output_padding[a] + 1;
    if (in->size[a] == 0 || size <= 2 * (uint64_t)c->padding[a] || size > SIZE_MAX / 4) return false;
    k->in[a] = (size_t)size - 2 * c->padding[a];
    k->out[a] = in->size[a];
    k->kernel[a] = c->kernel[a];
    k->stride[a] = c->stride[a];
    k->padding[a] = c->padding[a];
    k->dilation[a] = c->dilation[a];
  }
  return true;
}

static hd_status infer_transposed(hd_infer *i, hd_error *err) {
  const conv_config *c = i->config;
  hd_image in;
  k_conv k;
  char room[HD_SHAPE_ROOM];
  if (!hd_image_read(&in, i->in[0], c->n_axes) || in.channels != c->in_channels || !turned_kernel(&k, c, &in)
      || !k_conv_scratch_bytes(&k, &i->scratch_bytes))
    return hd_infer_fail(i, err, "expected %zu channels of %d dimensions that the kernel fits, found shape %s",
                         c->in_channels, c->n_axes, hd_shape_text(room, i->in[0]->n_dims, i->in[0]->dim));
  i->out[0] = hd_image_shape(i->in[0], c->n_axes, c->out_channels, k.in);
  return HD_OK;
}

static size_t slots_transposed(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const conv_config *c = config;
  weight_slot(&slot[0], c, c->in_channels, c->out_channels);
  return add_bias_slot(slot, c);
}

static k_conv turned_kernel_at(const hd_call *call) {
  const conv_config *c = call->config;
  hd_image in;
  k_conv k;
  hd_image_read(&in, call->in[0].shape, c->n_axes);
  turned_kernel(&k, c, &in);
  return k;
}

static hd_status forward_transposed(const hd_call *call, hd_error *err) {
  (void)err;
  const conv_config *c = call->config;
  const k_conv k = turned_kernel_at(call);
  begin_with_bias(call->out[0].data, call->weight[1], k.batch, c->out_channels, k.in[0] * k.in[1]);
  k_conv_input_grad_f32(call->out[0].data, call->in[0].data, call->weight[0]->data, &k, call->scratch);
  return HD_OK;
}

static hd_status backward_transposed(const hd_call *call, hd_error *err) {
  (void)err;
  const conv_config *c = call->config;
  const k_conv k = turned_kernel_at(call);
  if (call->d_in[0]) k_conv_f32(call->d_in[0], call->d_out[0], call->weight[0]->data, &k);
  if (call->d_weight[0]) k_conv_weight_grad_f32(call->d_weight[0], call->in[0].data, call->d_out[0], &k);
  if (call->weight[1]) bias_grad(call->d_weight[1], call->d_out[0], k.batch, c->out_channels, k.in[0] * k.in[1]);
  return HD_OK;
}

/* ---- Rows ---- */

static const hd_bundle_name bundle_names[] = {{"weight", "kernel", false}, {"bias", "conv_bias", false}, {NULL, NULL, false}};
static const char *const aliases_1[] = {"Conv1d", NULL}, *const aliases_2[] = {"Conv2d", NULL};
static const char *const aliases_transposed_1[] = {"ConvTranspose1d", NULL}, *const aliases_transposed_2[] = {"ConvTranspose2d", NULL};

const hd_layer hd_layer_convolution = {
  .name = "convolution",
  .config_bytes = sizeof(conv_config),
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};

const hd_layer hd_layer_conv1d = {
  .name = "conv1d",
  .example = "{\"type\":\"conv1d\",\"in_channels\":2,\"out_channels\":4,\"kernel_size\":3,\"stride\":2,\"padding\":1,"
             "\"groups\":2,\"activation\":\"tanh\",\"input_shape\":[2,2,9]}",
  .aliases = aliases_1,
  .config_bytes = sizeof(conv_config),
  .parse = parse_1,
  .write = write,
  .bundle_names = bundle_names,
  .expand = expand,
};

const hd_layer hd_layer_conv2d = {
  .name = "conv2d",
  .example = "{\"type\":\"conv2d\",\"in_channels\":2,\"out_channels\":3,\"kernel_size\":[3,2],\"padding\":1,"
             "\"padding_mode\":\"reflect\",\"dilation\":[1,2],\"input_shape\":[1,2,5,4]}",
  .aliases = aliases_2,
  .config_bytes = sizeof(conv_config),
  .parse = parse_2,
  .write = write,
  .bundle_names = bundle_names,
  .expand = expand,
};

const hd_layer hd_layer_conv_transpose1d = {
  .name = "conv_transpose1d",
  .example = "{\"type\":\"conv_transpose1d\",\"in_channels\":4,\"out_channels\":2,\"kernel_size\":3,\"stride\":2,"
             "\"groups\":2,\"input_shape\":[2,4,4]}",
  .aliases = aliases_transposed_1,
  .config_bytes = sizeof(conv_config),
  .parse = parse_transposed_1,
  .write = write_transposed,
  .infer = infer_transposed,
  .slots = slots_transposed,
  .forward = forward_transposed,
  .backward = backward_transposed,
};

const hd_layer hd_layer_conv_transpose2d = {
  .name = "conv_transpose2d",
  .example = "{\"type\":\"conv_transpose2d\",\"in_channels\":2,\"out_channels\":3,\"kernel_size\":[2,3],"
             "\"stride\":[1,2],\"padding\":1,\"output_padding\":[0,1],\"input_shape\":[1,2,3,3]}",
  .aliases = aliases_transposed_2,
  .config_bytes = sizeof(conv_config),
  .parse = parse_transposed_2,
  .write = write_transposed,
  .infer = infer_transposed,
  .slots = slots_transposed,
  .forward = forward_transposed,
  .backward = backward_transposed,
};
