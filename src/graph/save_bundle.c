/* save_bundle.c: a model as a one-model bundle, its weights in any of the three forms (format/bundle_weights.c). */
#include "base/base64.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "format/bundle.h"
#include "graph/graph.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* How the weights are to be kept. */
typedef struct hd_keeping {
  hd_bundle_form form;
  const hd_precision *precision;   /* form 2 */
  const hd_affine_dtype *affine;   /* form 3 */
  const hd_quantization *how;      /* form 3 */
} hd_keeping;

/* ---- One weight ---- */

static void write_numbers(hd_text *t, const float *values, size_t n) {
  hd_text_add(t, "[", 1);
  for (size_t i = 0; i < n; i++) {
    if (i) hd_text_add(t, ",", 1);
    hd_text_float(t, values[i]);
  }
  hd_text_add(t, "]", 1);
}

static void write_bytes(hd_text *t, const uint8_t *bytes, size_t n) {
  hd_text_add(t, "\"", 1);
  hd_text_base64(t, bytes, n);
  hd_text_add(t, "\"", 1);
}

static hd_status write_codes(hd_text *t, const hd_precision *precision, const float *values, size_t n, hd_error *err) {
  size_t n_bytes = hd_precision_bytes(precision, n);
  uint8_t *bytes = hd_alloc(n_bytes);
  if (!bytes) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory for %zu bytes of %s", n_bytes, precision->name);
  hd_precision_encode(precision, values, n, bytes);
  write_bytes(t, bytes, n_bytes);
  hd_free(bytes);
  return HD_OK;
}

/* Biases, norms and statistics are few and touchy: form 3 keeps vectors as they are. */
static bool is_vector(const hd_parameter *p) { return p->slot.n_dims < 2; }

/* A scale for each output channel, the slot's first dimension; in the file that is the last where it keeps [in][out]. */
static hd_channels channels_of(const hd_quantization *how, const hd_parameter *p, bool in_out) {
  bool whole = how->per_tensor || how->scale > 0;
  return (hd_channels){hd_parameter_count(p), whole ? 1 : p->slot.shape[0], !whole && in_out && p->slot.matrix};
}

static bool is_symmetric(const hd_keeping *k) { return k->affine->is_signed && !k->how->zero_point && k->how->given_zero_point == 0; }

static void write_scales(hd_text *t, const hd_keeping *k, const hd_channels *channels, const hd_affine *fitted) {
  hd_text_print(t, ",\"scale\":[");
  for (size_t c = 0; c < channels->n_channels; c++) {
    if (c) hd_text_add(t, ",", 1);
    hd_text_float(t, fitted[c].scale);
  }
  if (!is_symmetric(k)) hd_text_print(t, "],\"zero_point\":[");
  for (size_t c = 0; c < channels->n_channels && !is_symmetric(k); c++) hd_text_print(t, "%s%ld", c ? "," : "", (long)fitted[c].zero_point);
  hd_text_print(t, "],\"axis\":%d}", channels->interleaved ? -1 : 0);
}

/* {"codes": …, "scale": […], "zero_point": […], "axis": …} */
static hd_status write_affine(hd_text *t, const hd_keeping *k, const hd_parameter *p, bool in_out, const float *values, hd_error *err) {
  const hd_channels channels = channels_of(k->how, p, in_out);
  size_t n_bytes = channels.n * k->affine->width;
  hd_affine *fitted = hd_alloc(channels.n_channels * sizeof *fitted);
  uint8_t *codes = hd_alloc(n_bytes);
  hd_status status = fitted && codes ? HD_OK : hd_fail(err, HD_OUT_OF_MEMORY, "no memory to quantise weight %s", p->name);
  if (status == HD_OK) {
    if (k->how->scale > 0) fitted[0] = (hd_affine){k->how->scale, k->how->given_zero_point};
    else hd_affine_fit(k->affine, is_symmetric(k), values, &channels, fitted);
    hd_affine_encode(k->affine, is_symmetric(k), values, &channels, fitted, codes);
    hd_text_print(t, "{\"codes\":");
    write_bytes(t, codes, n_bytes);
    write_scales(t, k, &channels, fitted);
  }
  hd_free(codes);
  hd_free(fitted);
  return status;
}

static hd_status write_exact(hd_text *t, const float *values, size_t n, hd_error *err) {
  hd_text_print(t, "{\"values\":");
  HD_TRY(write_codes(t, hd_precision_find("float32"), values, n, err));
  hd_text_add(t, "}", 1);
  return HD_OK;
}

static hd_status check_finite(const hd_parameter *p, const float *values, size_t n, hd_error *err) {
  char room[HD_NAME_ROOM];
  for (size_t i = 0; i < n; i++)
    if (!isfinite(values[i]))
      return hd_fail(err, HD_UNSUPPORTED, "weight %s: value %zu is not finite, JSON cannot hold it", hd_short_name(room, p->name), i);
  return HD_OK;
}

static hd_status write_values(hd_text *t, const hd_keeping *k, const hd_parameter *p, bool in_out, const float *values, hd_error *err) {
  size_t n = hd_parameter_count(p);
  if (k->form == HD_FORM_CODED) return write_codes(t, k->precision, values, n, err);
  if (k->form == HD_FORM_AFFINE && is_vector(p)) return write_exact(t, values, n, err);
  HD_TRY(check_finite(p, values, n, err));
  if (k->form == HD_FORM_AFFINE) return write_affine(t, k, p, in_out, values, err);
  write_numbers(t, values, n);
  return HD_OK;
}

static hd_status write_tensor(hd_text *t, const hd_keeping *k, const hd_parameter *p, bool in_out, hd_error *err) {
  float *values = hd_alloc(hd_parameter_count(p) * sizeof *values);
  if (!values) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save weight %s", p->name);
  hd_status status = hd_parameter_get(p, values, in_out, err);
  if (status == HD_OK) status = write_values(t, k, p, in_out, values, err);
  hd_free(values);
  return status;
}

/* ---- Layers ---- */

/* Fields in alphabetical order, as Loom's JSON writer leaves them: NULL when there is none after `previous`. */
static const hd_parameter *next_field(const hd_model *m, const hd_spec *spec, const char *previous) {
  const hd_parameter *best = NULL;
  const char *best_field = NULL;
  for (size_t i = 0; i < m->n_parameters; i++) {
    const hd_parameter *p = &m->parameters[i];
    bool in_out;
    if (p->owner != spec || !p->value.data) continue;
    const char *field = hd_parameter_field(p, m->dialect, &in_out);
    if (previous && strcmp(field, previous) <= 0) continue;
    if (!best || strcmp(field, best_field) < 0) {
      best = p;
      best_field = field;
    }
  }
  return best;
}

/* The field's name in this form. Loom's forms lack some; the standard dialect keeps everything in both. */
static hd_status field_to_write(const char **out, bool *in_out, const hd_model *m, const hd_parameter *p,
                                const hd_keeping *k, hd_error *err) {
  const char *field = hd_parameter_field(p, m->dialect, in_out);
  *out = m->dialect == HD_LOOM ? hd_bundle_field(field, k->form) : field;
  char room[HD_NAME_ROOM];
  if (*out) return HD_OK;
  return hd_fail(err, HD_UNSUPPORTED, "layer %s: the loom dialect's weight form %d cannot hold %s", hd_short_name(room, p->owner->name),
                 (int)k->form, field);
}

static hd_status write_layer_weights(hd_text *t, const hd_model *m, const hd_spec *spec, const hd_keeping *k, hd_error *err) {
  const char *comma = "", *previous = NULL;
  hd_text_add(t, "{", 1);
  if (k->form == HD_FORM_CODED) {
    hd_text_print(t, "\"dtype\":\"%s\"", k->precision->name);
    comma = ",";
  }
  if (spec->n_children) {
    hd_text_print(t, "%s\"branch_weights\":[", comma);
    for (size_t i = 0; i < spec->n_children; i++) {
      if (i) hd_text_add(t, ",", 1);
      HD_TRY(write_layer_weights(t, m, spec->children[i], k, err));
    }
    hd_text_add(t, "]", 1);
    comma = ",";
  }
  for (const hd_parameter *p; (p = next_field(m, spec, previous)) != NULL;) {
    bool in_out;
    const char *field;
    HD_TRY(field_to_write(&field, &in_out, m, p, k, err));
    hd_text_print(t, "%s\"%s\":", comma, field);
    HD_TRY(write_tensor(t, k, p, in_out, err));
    previous = hd_parameter_field(p, m->dialect, &in_out);
    comma = ",";
  }
  hd_text_add(t, "}", 1);
  return HD_OK;
}

/* What stands before the layers. */
static void begin_weights(hd_text *t, const hd_keeping *k) {
  if (k->form == HD_FORM_DECIMAL) {
    hd_text_print(t, "{\"type\":\"float32\",\"dtype\":\"\",\"layers\":[");
  } else if (k->form == HD_FORM_CODED) {
    hd_text_print(t, "{\"dtype\":\"%s\",\"scale\":", k->precision->name);
    hd_text_double(t, k->precision->scale);
    hd_text_print(t, ",\"layers\":[");
  } else {
    hd_text_print(t, "{\"dtype\":\"%s\",\"affine_layers\":[", k->affine->name);
  }
}

/* What a weight's text takes, or somewhat less: decimals are not written twice to be counted. */
static size_t text_bytes(const hd_parameter *p, const hd_keeping *k) {
  const size_t n = hd_parameter_count(p);
  if (k->form == HD_FORM_DECIMAL) return hd_times(n, HD_TEXT_FLOAT_BYTES);
  if (k->form == HD_FORM_CODED) return hd_base64_encoded_size(hd_precision_bytes(k->precision, n));
  if (is_vector(p)) return hd_base64_encoded_size(hd_times(n, sizeof(float)));
  const size_t scales = channels_of(k->how, p, false).n_channels;
  return hd_plus(hd_base64_encoded_size(hd_times(n, k->affine->width)), hd_times(2 * scales, HD_TEXT_FLOAT_BYTES));
}

/* Room for all of them, so that the text is not copied while it grows. */
static void reserve(hd_text *t, const hd_model *m, const hd_keeping *k) {
  enum { AROUND = 64 }; /* a field's name, brackets */
  size_t n = AROUND * (m->n_specs + 1);
  for (size_t i = 0; i < m->n_parameters; i++)
    if (m->parameters[i].value.data) n = hd_plus(n, hd_plus(text_bytes(&m->parameters[i], k), AROUND));
  hd_text_reserve(t, n);
}

static hd_status write_weights(hd_text *t, const hd_model *m, const hd_keeping *k, hd_error *err) {
  reserve(t, m, k);
  begin_weights(t, k);
  for (size_t i = 0; i < m->n_specs; i++) {
    if (i) hd_text_add(t, ",", 1);
    HD_TRY(write_layer_weights(t, m, m->specs[i], k, err));
  }
  hd_text_print(t, "]}");
  return t->failed ? hd_fail(err, HD_OUT_OF_MEMORY, "no memory to save the weights") : HD_OK;
}

/* ---- The whole ---- */

/* Refuses a declared layer of which Loom's reader of the form would lose something; `path` is the layers' own. */
static hd_status check_layers(const cJSON *layers, const char *path, hd_bundle_form form, hd_error *err) {
  size_t i = 0;
  const cJSON *layer;
  char room[HD_NAME_ROOM], own[512];
  cJSON_ArrayForEach(layer, layers) {
    const char *lost = hd_bundle_lost(layer, form);
    snprintf(own, sizeof own, "%s.%zu", path, i++);
    if (lost)
      return hd_fail(err, HD_UNSUPPORTED, "layer %s: the loom dialect's weight form %d cannot hold %s",
                     hd_short_name(room, own), (int)form, lost);
    snprintf(own + strlen(own), sizeof own - strlen(own), ".branches");
    HD_TRY(check_layers(cJSON_GetObjectItemCaseSensitive(layer, "branches"), own, form, err));
  }
  return HD_OK;
}

static hd_status save(char **text, size_t *n, const hd_model *m, const char *id, const hd_keeping *k, hd_error *err) {
  cJSON *cfg = NULL;
  hd_text weights = {0};
  hd_status status = hd_network_write(&cfg, m, id, err);
  if (status == HD_OK && m->dialect == HD_LOOM)
    status = check_layers(cJSON_GetObjectItemCaseSensitive(cfg, "layers"), "layers", k->form, err);
  if (status == HD_OK) status = write_weights(&weights, m, k, err);
  const hd_bundle_parts parts = {.id = id, .cfg = cfg, .weights = weights.data, .n_weights = weights.n, .form = k->form,
                                 .version = m->bundle_version, .extra = m->bundle_extra, .model_extra = m->bundle_model_extra};
  if (status == HD_OK) status = hd_bundle_write(text, n, &parts, err);
  hd_free(weights.data);
  cJSON_Delete(cfg);
  return status;
}

static hd_status find_precision(const hd_precision **out, const char *dtype, hd_error *err) {
  char room[HD_NAME_ROOM], known[256];
  size_t n = 0;
  *out = dtype ? hd_precision_find(dtype) : NULL;
  if (!dtype || *out) return HD_OK;
  for (size_t i = 0; hd_precision_at(i); i++)
    n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", hd_precision_at(i)->name);
  return hd_fail(err, HD_BAD_ARGUMENT, "a bundle cannot hold weights as '%s'; it can as %s", hd_short_name(room, dtype), known);
}

hd_status hd_model_save_bundle(char **text, size_t *n, const hd_model *model, const char *id, const char *dtype, hd_error *err) {
  *text = NULL;
  *n = 0;
  hd_keeping k = {.form = dtype ? HD_FORM_CODED : HD_FORM_DECIMAL};
  HD_TRY(find_precision(&k.precision, dtype, err));
  return save(text, n, model, id, &k, err);
}

static hd_status check_quantization(const hd_keeping *k, hd_error *err) {
  const hd_quantization *how = k->how;
  const hd_affine_dtype *dtype = k->affine;
  const long zero_point = (long)how->given_zero_point;
  char room[HD_NAME_ROOM];
  if (!dtype)
    return hd_fail(err, HD_BAD_ARGUMENT, "weights cannot be quantised to '%s'; they can to int8, int16, uint8, uint16",
                   hd_short_name(room, how->dtype));
  if (!(how->scale >= 0) || !isfinite(how->scale))
    return hd_fail(err, HD_BAD_ARGUMENT, "scale: expected a finite number above 0, or 0 for fitted ones, found %g", (double)how->scale);
  if (how->scale == 0 && zero_point != 0) return hd_fail(err, HD_BAD_ARGUMENT, "a zero point is given only together with a scale");
  if (zero_point < dtype->low || zero_point > dtype->high)
    return hd_fail(err, HD_BAD_ARGUMENT, "zero point: expected %s's %ld … %ld, found %ld",
                   dtype->name, (long)dtype->low, (long)dtype->high, zero_point);
  return HD_OK;
}

hd_status hd_model_save_quantized(char **text, size_t *n, const hd_model *model, const char *id,
                                  const hd_quantization *how, hd_error *err) {
  *text = NULL;
  *n = 0;
  const hd_keeping k = {.form = HD_FORM_AFFINE, .affine = hd_affine_find(how->dtype ? how->dtype : "int8"), .how = how};
  HD_TRY(check_quantization(&k, err));
  return save(text, n, model, id, &k, err);
}

void hd_text_free(char *text) { hd_free(text); }
