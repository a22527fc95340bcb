/* kmeans.c: soft assignment to cluster centres. f = the attached network's features of x; the layer gives the probabilities
 * p = softmax(logits of f's distances to the K centres), or the mixture of centres Σ p_k · c_k ("features").
 *
 *   euclidean    logit_k = −‖f − c_k‖² / (2·t²), a mixture of Gaussians
 *   manhattan    −‖f − c_k‖₁ / t
 *   cosine       −(1 − cos(f, c_k)) / t
 *
 * In the loom dialect the whole vector is one sample, and every distance is euclidean, as in Loom's forward. */
#include "base/status.h"
#include "layers/rows.h"

#include <math.h>
#include <string.h>

typedef struct metric {
  const char *name;
  double (*logit)(const float *f, const float *c, size_t n, double t);
  /* d_f, d_c += d · the derivatives; either may be NULL. */
  void (*grad)(float *d_f, float *d_c, double d, const float *f, const float *c, size_t n, double t);
} metric;

typedef struct kmeans_config {
  size_t n_clusters, dim;
  const metric *metric;
  const char *metric_name, *mode; /* as declared; NULL: not said */
  double temperature, learning_rate;
  bool features, loom;
} kmeans_config;

/* ---- Distances ---- */

static double euclidean_logit(const float *f, const float *c, size_t n, double t) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += ((double)f[i] - (double)c[i]) * ((double)f[i] - (double)c[i]);
  return -sum / (2 * t * t);
}

static void euclidean_grad(float *d_f, float *d_c, double d, const float *f, const float *c, size_t n, double t) {
  for (size_t i = 0; i < n; i++) {
    float along = (float)(d * ((double)f[i] - (double)c[i]) / (t * t));
    if (d_f) d_f[i] -= along;
    if (d_c) d_c[i] += along;
  }
}

static double manhattan_logit(const float *f, const float *c, size_t n, double t) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += fabs((double)f[i] - (double)c[i]);
  return -sum / t;
}

static void manhattan_grad(float *d_f, float *d_c, double d, const float *f, const float *c, size_t n, double t) {
  for (size_t i = 0; i < n; i++) {
    float along = (float)((f[i] > c[i] ? d : f[i] < c[i] ? -d : 0) / t);
    if (d_f) d_f[i] -= along;
    if (d_c) d_c[i] += along;
  }
}

typedef struct angle {
  double cosine, f_norm, c_norm;
} angle;

static angle angle_between(const float *f, const float *c, size_t n) {
  double along = 0, ff = 0, cc = 0;
  for (size_t i = 0; i < n; i++) {
    along += (double)f[i] * (double)c[i];
    ff += (double)f[i] * (double)f[i];
    cc += (double)c[i] * (double)c[i];
  }
  angle a = {.f_norm = fmax(sqrt(ff), 1e-12), .c_norm = fmax(sqrt(cc), 1e-12)};
  a.cosine = along / (a.f_norm * a.c_norm);
  return a;
}

static double cosine_logit(const float *f, const float *c, size_t n, double t) { return (angle_between(f, c, n).cosine - 1) / t; }

static void cosine_grad(float *d_f, float *d_c, double d, const float *f, const float *c, size_t n, double t) {
  const angle a = angle_between(f, c, n);
  for (size_t i = 0; i < n; i++) {
    double f_unit = (double)f[i] / a.f_norm, c_unit = (double)c[i] / a.c_norm;
    if (d_f) d_f[i] += (float)(d / t * (c_unit - a.cosine * f_unit) / a.f_norm);
    if (d_c) d_c[i] += (float)(d / t * (f_unit - a.cosine * c_unit) / a.c_norm);
  }
}

static const metric metrics[] = {
  {"euclidean", euclidean_logit, euclidean_grad},
  {"manhattan", manhattan_logit, manhattan_grad},
  {"cosine", cosine_logit, cosine_grad},
};

static const metric *find_metric(const char *name, bool loom) {
  for (size_t i = 0; i < sizeof metrics / sizeof metrics[0]; i++)
    if (!loom && strcmp(metrics[i].name, name) == 0) return &metrics[i];
  return loom || !*name ? &metrics[0] : NULL;
}

/* ---- Declared form ---- */

/* Loom asks for "features" letter by letter and takes every other name for probabilities. */
static void read_mode(kmeans_config *c, hd_parse *p) {
  char room[HD_NAME_ROOM];
  const char *mode = c->mode ? c->mode : "";
  c->features = strcmp(mode, "features") == 0 || (!c->loom && strcmp(mode, "reconstruction") == 0);
  if (!c->loom && !c->features && *mode && strcmp(mode, "probabilities") != 0)
    hd_json_refuse(&p->json, "kmeans_output_mode", HD_UNSUPPORTED, "expected 'probabilities', 'features' or 'reconstruction', found '%s'",
                   hd_short_name(room, mode));
}

static size_t attached_features(const hd_spec *spec) {
  const hd_spec *last = spec->n_children ? spec->children[spec->n_children - 1] : NULL;
  return last && last->layer->out_features ? last->layer->out_features(last->config) : 0;
}

static void parse(void *config, hd_parse *p) {
  kmeans_config *c = config;
  const hd_json *j = &p->json;
  char room[HD_NAME_ROOM];
  c->loom = p->dialect == HD_LOOM;
  c->n_clusters = hd_json_need_size(j, "num_clusters", SIZE_MAX);
  c->dim = hd_json_get_size(j, "cluster_dim", 0);
  if (c->dim == 0) c->dim = attached_features(p->spec);
  c->temperature = hd_json_get_number(j, "kmeans_temperature", 0);
  c->learning_rate = hd_json_get_number(j, "kmeans_learning_rate", 0);
  c->metric_name = hd_arena_text(p->arena, hd_json_get_text(j, "distance_metric", ""));
  c->mode = hd_arena_text(p->arena, hd_json_get_text(j, "kmeans_output_mode", ""));
  read_mode(c, p);
  c->metric = c->metric_name ? find_metric(c->metric_name, c->loom) : NULL;
  if (!c->metric)
    hd_json_refuse(j, "distance_metric", HD_UNSUPPORTED, "unknown distance '%s'",
                   hd_short_name(room, c->metric_name ? c->metric_name : ""));
  if (p->spec->n_children == 0 && c->loom) return;
  if (p->spec->n_children == 0) hd_json_refuse(j, "branches", HD_BAD_FILE, "expected at least one layer");
  else if (c->dim == 0) hd_json_refuse(j, "cluster_dim", HD_BAD_FILE, "expected the number of features of the attached layer");
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  (void)err;
  const kmeans_config *c = config;
  if (dialect == HD_LOOM) cJSON_AddStringToObject(json, "activation", "relu"); /* Loom writes one for every layer and ignores it here */
  cJSON_AddNumberToObject(json, "num_clusters", (double)c->n_clusters);
  if (*c->metric_name) cJSON_AddStringToObject(json, "distance_metric", c->metric_name);
  if (c->temperature != 0) cJSON_AddNumberToObject(json, "kmeans_temperature", c->temperature);
  if (*c->mode) cJSON_AddStringToObject(json, "kmeans_output_mode", c->mode);
  if (c->learning_rate != 0) cJSON_AddNumberToObject(json, "kmeans_learning_rate", c->learning_rate);
  if (c->dim) cJSON_AddNumberToObject(json, "cluster_dim", (double)c->dim);
  return HD_OK;
}

static size_t out_features(const void *config) {
  const kmeans_config *c = config;
  return c->features ? c->dim : c->n_clusters;
}

static hd_value expand(hd_builder *b, const hd_spec *spec, hd_value x) {
  if (spec->n_children == 0) return hd_build_failure(b, x); /* Loom's dialect only */
  hd_value features = hd_build_chain(b, spec->children, spec->n_children, x);
  return hd_build(b, &hd_layer_kmeans, "", "", spec->config, &features, 1);
}

/* ---- Running ---- */

static hd_status infer(hd_infer *i, hd_error *err) {
  const kmeans_config *c = i->config;
  const size_t found = c->loom ? hd_shape_size(i->in[0]) : hd_shape_last(i->in[0]);
  if (found != c->dim) return hd_infer_fail(i, err, "its centres have %zu features, the attached layer gives %zu", c->dim, found);
  i->out[0] = *i->in[0];
  if (c->loom || i->out[0].n_dims == 0) i->out[0].n_dims = 1;
  i->out[0].dtype = HD_F32;
  i->out[0].dim[i->out[0].n_dims - 1] = out_features(c);
  i->scratch_bytes = hd_times(c->n_clusters, 2 * sizeof(float));
  return HD_OK;
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const kmeans_config *c = config;
  slot[0] = (hd_slot){.role = "cluster_centers", .n_dims = 2, .shape = {c->n_clusters, c->dim}, .lack = HD_LACK_INIT,
                      .init = HD_INIT_NORMAL, .init_scale = 1};
  return 1;
}

static double temperature_of(const kmeans_config *c) { return c->temperature == 0 ? 1 : c->temperature; }

/* p[n_clusters] of one row of features. */
static void assign(const kmeans_config *c, float *p, const float *f, const float *centres) {
  for (size_t k = 0; k < c->n_clusters; k++) p[k] = (float)c->metric->logit(f, centres + k * c->dim, c->dim, temperature_of(c));
  k_softmax_f32(p, p, c->n_clusters, 1);
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const kmeans_config *c = call->config;
  const float *f = call->in[0].data, *centres = call->weight[0]->data;
  float *y = call->out[0].data, *p = call->scratch;
  for (size_t n = hd_shape_size(call->in[0].shape) / c->dim; n-- > 0; f += c->dim, y += out_features(c)) {
    assign(c, p, f, centres);
    if (c->features) memset(y, 0, c->dim * sizeof *y);
    else memcpy(y, p, c->n_clusters * sizeof *y);
    for (size_t k = 0; c->features && k < c->n_clusters; k++) k_axpy_f32(y, p[k], centres + k * c->dim, c->dim);
  }
  return HD_OK;
}

/* d[k]: the gradient of cluster k's probability. In features mode the centres get their direct share. */
static void probability_grad(const kmeans_config *c, float *d, float *d_centres, const float *d_y, const float *p, const float *centres) {
  for (size_t k = 0; k < c->n_clusters; k++) {
    double sum = 0;
    for (size_t i = 0; c->features && i < c->dim; i++) sum += (double)d_y[i] * (double)centres[k * c->dim + i];
    d[k] = c->features ? (float)sum : d_y[k];
    if (c->features && d_centres) k_axpy_f32(d_centres + k * c->dim, p[k], d_y, c->dim);
  }
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const kmeans_config *c = call->config;
  const float *f = call->in[0].data, *centres = call->weight[0]->data, *d_y = call->d_out[0];
  float *p = call->scratch, *d = p + c->n_clusters, *d_centres = call->d_weight[0], *d_f = call->d_in[0];
  for (size_t n = hd_shape_size(call->in[0].shape) / c->dim; n-- > 0; f += c->dim, d_y += out_features(c)) {
    assign(c, p, f, centres);
    probability_grad(c, d, d_centres, d_y, p, centres);
    double mean = 0;
    for (size_t k = 0; k < c->n_clusters; k++) mean += (double)p[k] * (double)d[k];
    for (size_t k = 0; k < c->n_clusters; k++)
      c->metric->grad(d_f, d_centres ? d_centres + k * c->dim : NULL, (double)p[k] * ((double)d[k] - mean), f, centres + k * c->dim, c->dim,
                      temperature_of(c));
    if (d_f) d_f += c->dim;
  }
  return HD_OK;
}

const hd_layer hd_layer_kmeans = {
  .name = "kmeans",
  .example = "{\"type\":\"kmeans\",\"num_clusters\":3,\"kmeans_output_mode\":\"features\",\"input_shape\":[2,4],"
             "\"attached_layer\":{\"type\":\"dense\",\"in_features\":4,\"out_features\":5,\"activation\":\"tanh\"}}",
  .config_bytes = sizeof(kmeans_config),
  .parse = parse,
  .write = write,
  .has_children = true,
  .child_place = HD_IN_CHAIN,
  .out_features = out_features,
  .expand = expand,
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};
