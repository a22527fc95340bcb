/* format/bundle.h: Loom's JSON bundles (shared/formats/loom.md, section a), with both forms of weights, and a third of our own.
 *
 *   {"type":"modelhost/bundle","version":1,"models":[{"id","cfg","weights":{"fmt":"jsonModelB64","data":<Base64 of JSON>}}]}
 *
 * A bundle becomes what every format becomes: a configuration and a directory of named tensors. Names are the JSON paths
 * inside the weights: "layers.0.kernel", "layers.2.branch_weights.1.biases", "layers.3.cluster_centers". */
#ifndef HD_FORMAT_BUNDLE_H
#define HD_FORMAT_BUNDLE_H

#include "base/json.h"
#include "base/memory.h"
#include "format/affine.h"
#include "format/precision.h"
#include "heddle.h"

typedef struct hd_bundle_tensor {
  char *name;
  float *values;
  size_t n;
} hd_bundle_tensor;

/* How a model's weights are kept; bundle.c has the forms. */
typedef enum hd_bundle_form {
  HD_FORM_DECIMAL = 1, /* Loom's first: numbers as text */
  HD_FORM_CODED,       /* Loom's second: one of its encodings (precision.h) */
  HD_FORM_AFFINE,      /* ours: integers with fitted scales (affine.h) */
} hd_bundle_form;

typedef struct hd_bundle {
  cJSON *cfg;
  size_t n_layers;           /* entries of the weights' "layers" */
  hd_bundle_tensor *tensors; /* sorted by name */
  size_t n_tensors;
  hd_bundle_form form;
  const hd_precision *precision; /* of form 2; NULL in others */
  const hd_affine_dtype *affine; /* of form 3; NULL in others */
  double version;            /* 0: none */
  char *extra, *model_extra; /* members of the bundle and of the model that we do not know: "\n  \"key\": value," each */
  hd_arena arena;            /* owns all but cfg and tensors */
} hd_bundle;

/* Reads the model called `id` (the first, when several have it). Errors: not a bundle, no such id (the ids present are
 * named), broken Base64 or JSON, a field that is not a list of numbers (form 2: a text), fewer or more layers than cfg.layers (form 1).
 * Loom's keys match whatever their case. Every other list of numbers (text) in a layer is a tensor, too, other unknown members are
 * skipped. An empty list is as good as none: no tensor. A tensor of 4-bit codes has an even count, one more than was written maybe. */
hd_status hd_bundle_read(hd_bundle **out, const char *text, size_t n, const char *id, hd_error *err);
void hd_bundle_free(hd_bundle *bundle);
const hd_bundle_tensor *hd_bundle_find(const hd_bundle *bundle, const char *name);

/* What a field of form 1 is called in the form; NULL where Loom has no place for it there. */
const char *hd_bundle_field(const char *field, hd_bundle_form form);

/* What of a declared layer Loom's reader of the form would lose, its type or a key; NULL: nothing. */
const char *hd_bundle_lost(const cJSON *layer, hd_bundle_form form);

/* A one-model bundle's parts, as in hd_bundle. `extra` and `model_extra` may be NULL. */
typedef struct hd_bundle_parts {
  const char *id;
  const cJSON *cfg;
  const char *weights; /* the inner JSON text */
  size_t n_weights;
  hd_bundle_form form; /* 0 is form 1, too */
  double version;
  const char *extra, *model_extra;
} hd_bundle_parts;

/* The bundle as Loom writes it: indented by two spaces. The caller frees *text with hd_free. */
hd_status hd_bundle_write(char **text, size_t *n, const hd_bundle_parts *parts, hd_error *err);

#endif
