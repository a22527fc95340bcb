/* detect.c: what a weight file's tensors seem to be, from their names and shapes alone: Loom's list, rule by rule (shared/formats/loom.md,
 * section f), the layers Loom makes of it, and a network spec of those that can run.
 *
 *   {"detected": [TENSOR, …], "layers": [LAYER, …], "input_size": n, "parameters": n, "network": SPEC | null,
 *    "warnings": [what the network assumes, lacks or leaves out, …], "refusal": {"code": .., "message": why there is no network} | null}
 *
 * TENSOR and LAYER have Loom's own fields. Tensors are sorted by name. SPEC is for hd_loader_describe: Llama's names make a
 * config.json of it, PyTorch's names of a recurrent layer that layer (assemble.c), everything else a chain of the parts there are
 * (blocks.c). It names the file's own tensors. */
#include "base/dtype.h"
#include "base/memory.h"
#include "base/status.h"
#include "base/text.h"
#include "graph/assemble.h"
#include "graph/graph.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* By Loom's numbers. */
static const char *const type_names[] = {"Dense", "Conv2D", "MultiHeadAttention", "RNN", "LSTM", "Softmax", "LayerNorm", "Residual",
                                         "RMSNorm", "SwiGLU", "Parallel", "Embedding", "Conv1D", "Sequential", "KMeans"};
typedef enum loom_type {
  DENSE = 0, CONV_2D = 1, ATTENTION = 2, RNN = 3, LSTM = 4, LAYER_NORM = 6, RMS_NORM = 8, SWIGLU = 9, EMBEDDING = 11, CONV_1D = 12
} loom_type;

/* What the rules use of a config.json; 0: not known. */
typedef struct facts {
  double hidden, intermediate, heads, kv_heads, rms_norm_eps, layer_norm_eps;
} facts;

typedef struct found {
  const hd_entry *entry;
  char *lower; /* the name in lower case */
  loom_type type;
  const char *special; /* "bias", "unknown": not loadable; "" */
} found;

typedef struct detection {
  const hd_directory *directory;
  cJSON *config; /* NULL: none, or broken */
  facts facts;
  found *items;
  size_t n;
  hd_arena arena;
} detection;

/* ---- The rules ---- */

static bool has_any(const char *name, const char *const *parts) {
  for (; *parts; parts++)
    if (strstr(name, *parts)) return true;
  return false;
}

static void classify_vector(found *f) {
  static const char *const rms[] = {"rms", NULL}, *const norm[] = {"layernorm", "layer_norm", "ln", NULL}, *const bias[] = {"bias", NULL};
  f->type = RMS_NORM;
  if (has_any(f->lower, rms)) return;
  if (has_any(f->lower, norm)) {
    f->type = LAYER_NORM;
  } else if (has_any(f->lower, bias)) {
    f->type = DENSE;
    f->special = "bias";
  }
}

/* By shape, where a config says what its sizes mean. */
static bool classify_by_config(found *f, const facts *c, double rows, double cols) {
  static const char *const attention[] = {"q_proj", "k_proj", "v_proj", "o_proj", "query", "key", "value", "attn", NULL};
  bool feed_forward = (rows == c->intermediate && cols == c->hidden) || (rows == c->hidden && cols == c->intermediate);
  if (c->hidden > 0 && c->intermediate > 0 && feed_forward) {
    f->type = SWIGLU;
    return true;
  }
  if (!(c->heads > 0 && c->hidden > 0) || cols != c->hidden) return false;
  bool square = rows == c->hidden && has_any(f->lower, attention);
  bool grouped = c->kv_heads > 0 && rows == c->kv_heads * (double)((size_t)c->hidden / (size_t)c->heads);
  if (square || grouped) f->type = ATTENTION;
  return square || grouped;
}

static void classify_matrix(found *f, const facts *c) {
  static const char *const attention[] = {"q_proj", "k_proj", "v_proj", "o_proj", "attention", NULL},
                    *const swiglu[] = {"gate", "up_proj", "down_proj", "mlp", NULL},
                    *const recurrent[] = {"_ih", "_hh", NULL};
  size_t rows = f->entry->shape[0], cols = f->entry->shape[1];
  f->type = DENSE;
  if (rows / 4 > cols || (rows / 4 == cols && rows % 4 > 0)) f->type = EMBEDDING;
  else if (classify_by_config(f, c, (double)rows, (double)cols)) return;
  else if (has_any(f->lower, attention)) f->type = ATTENTION;
  else if (has_any(f->lower, swiglu)) f->type = SWIGLU;
  else if (has_any(f->lower, recurrent)) f->type = strstr(f->lower, "lstm") ? LSTM : RNN;
}

static void classify(found *f, const facts *c) {
  f->special = "";
  f->type = DENSE;
  switch (f->entry->n_dims) {
    case 1: classify_vector(f); break;
    case 2: classify_matrix(f, c); break;
    case 3: f->type = CONV_1D; break;
    case 4: f->type = CONV_2D; break;
    default: f->special = "unknown";
  }
}

/* ---- Finding ---- */

static int compare_names(const void *a, const void *b) { return strcmp(((const found *)a)->entry->name, ((const found *)b)->entry->name); }

static char *lower_case(hd_arena *arena, const char *name) {
  char *lower = hd_arena_text(arena, name);
  for (char *c = lower; c && *c; c++)
    if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
  return lower;
}

/* A config that is no JSON, or says something strange, says nothing. */
static facts read_facts(const cJSON *json) {
  facts c = {0};
  hd_status status = HD_OK;
  if (!json) return c;
  hd_json j = hd_json_root(json, "config", &status, NULL);
  if (cJSON_IsObject(json))
    c = (facts){hd_json_get_number(&j, "hidden_size", 0), hd_json_get_number(&j, "intermediate_size", 0),
                hd_json_get_number(&j, "num_attention_heads", 0), hd_json_get_number(&j, "num_key_value_heads", 0),
                hd_json_get_number(&j, "rms_norm_eps", 0), hd_json_get_number(&j, "layer_norm_eps", 0)};
  const double *values = &c.hidden;
  bool sane = status == HD_OK;
  for (int i = 0; i < 4; i++) sane = sane && values[i] >= 0 && values[i] < 0x1p31 && (values[i] == 0 || values[i] >= 1);
  return sane ? c : (facts){0};
}

static hd_status find_all(detection *d, hd_error *err) {
  d->n = hd_directory_count(d->directory);
  d->items = hd_arena_alloc(&d->arena, d->n * sizeof *d->items + 1);
  for (size_t i = 0; d->items && i < d->n; i++) {
    d->items[i].entry = hd_directory_entry(d->directory, i);
    d->items[i].lower = lower_case(&d->arena, d->items[i].entry->name);
    if (!d->items[i].lower) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to look at %zu tensors", d->n);
    classify(&d->items[i], &d->facts);
  }
  if (!d->items) return hd_fail(err, HD_OUT_OF_MEMORY, "no memory to look at %zu tensors", d->n);
  if (d->n) qsort(d->items, d->n, sizeof *d->items, compare_names);
  return HD_OK;
}

/* ---- Loom's lists ---- */

static void write_tensor(hd_text *t, const found *f) {
  const hd_entry *e = f->entry;
  size_t in = 0, out = 0, kernel[2] = {0, 0};
  if (e->n_dims == 1) in = out = e->shape[0];
  if (e->n_dims == 2 || e->n_dims == 4) out = e->shape[0], in = e->shape[1];
  if (e->n_dims == 4) kernel[0] = e->shape[2], kernel[1] = e->shape[3];
  hd_text_print(t, "{\"Name\":");
  hd_text_quoted(t, e->name);
  hd_text_print(t, ",\"Shape\":[");
  for (int i = 0; i < e->n_dims; i++) hd_text_print(t, "%s%zu", i ? "," : "", e->shape[i]);
  hd_text_print(t, "],\"ShapeType\":\"%dd\",\"LoomType\":%d,\"LoomTypeName\":\"%s\",\"SpecialType\":\"%s\"", e->n_dims, (int)f->type,
                *f->special ? f->special : type_names[f->type], f->special);
  hd_text_print(t, ",\"InSize\":%zu,\"OutSize\":%zu,\"KernelH\":%zu,\"KernelW\":%zu,\"CanLoad\":%s}", in, out, kernel[0], kernel[1],
                *f->special ? "false" : "true");
}

/* Whether Loom makes a layer of it. */
static bool is_layer(const found *f) {
  return !*f->special && f->type != ATTENTION && f->type != SWIGLU && f->type != RNN && f->type != LSTM;
}

static double epsilon_of(const detection *d, const found *f) {
  if (f->type == RMS_NORM) return d->facts.rms_norm_eps;
  if (f->type != LAYER_NORM) return 0;
  return d->facts.layer_norm_eps > 0 ? d->facts.layer_norm_eps : 1e-5;
}

static void write_layer(hd_text *t, const detection *d, const found *f) {
  const size_t *s = f->entry->shape;
  bool dense = f->type == DENSE, conv = f->type == CONV_2D, norm = f->type == LAYER_NORM || f->type == RMS_NORM,
       embedding = f->type == EMBEDDING;
  /* Zeros where the file has none. */
  hd_text_print(t, "{\"type\":\"%s\",\"input_height\":%zu,\"output_height\":%zu,\"has_bias\":%s",
                type_names[f->type], dense ? s[1] : 0, dense ? s[0] : 0, dense || conv ? "true" : "false");
  hd_text_print(t, ",\"filters\":%zu,\"input_channels\":%zu,\"kernel_size\":%zu,\"padding\":%zu,\"stride\":%d",
                conv ? s[0] : 0, conv ? s[1] : 0, conv ? s[2] : 0, conv ? s[2] / 2 : 0, conv || f->type == CONV_1D);
  hd_text_print(t, ",\"norm_size\":%zu,\"vocab_size\":%zu,\"embedding_dim\":%zu,\"epsilon\":",
                norm ? s[0] : 0, embedding ? s[0] : 0, embedding ? s[1] : 0);
  hd_text_double(t, epsilon_of(d, f));
  hd_text_add(t, "}", 1);
}

static size_t input_size(const detection *d) {
  if (d->facts.hidden > 0) return (size_t)d->facts.hidden;
  for (size_t i = 0; i < d->n; i++) {
    const hd_entry *e = d->items[i].entry;
    if (e->n_dims == 1 && e->shape[0] > 64) return e->shape[0];
    if (e->n_dims == 2 && e->shape[0] == e->shape[1]) return e->shape[0];
  }
  return 768;
}

/* ---- The network ---- */

/* A config.json for the family the tensors belong to. A config that is broken is left for the loader to refuse. */
static bool write_family(hd_text *t, detection *d) {
  bool ok = true;
  if (!d->config) d->config = cJSON_CreateObject();
  if (!d->config) t->failed = true;
  if (!d->config || !hd_assemble_llama(d->config, d->directory, &ok)) return false;
  if (!ok) t->failed = true;
  hd_text_json(t, d->config, 0);
  return true;
}

/* A family that is whole, or a recurrent layer, or what parts there are; a family that lacks more than
 * norms is left for its own loader to refuse. */
static void write_network(hd_text *t, detection *d, bool broken) {
  hd_assembly parts = {0};
  const bool usable = !broken && (!d->config || cJSON_IsObject(d->config)), lacks = hd_assemble_lacks_norm(d->directory);
  bool done = (usable && !lacks && write_family(t, d)) || hd_assemble_recurrent(t, d->directory);
  const bool made = !done && hd_assemble_blocks(&parts, d->directory, usable ? d->config : NULL);
  if (made) hd_text_add(t, parts.network.data, parts.network.n);
  else done = done || (usable && lacks && write_family(t, d));
  if (!made && !done) hd_text_print(t, "null");
  hd_text_print(t, ",\"warnings\":[");
  if (made && parts.warnings.n) hd_text_add(t, parts.warnings.data, parts.warnings.n);
  hd_text_print(t, "],\"refusal\":");
  if (made || done) hd_text_print(t, "null");
  else {
    hd_text_print(t, "{\"code\":\"%s\",\"message\":", hd_status_name(parts.code));
    hd_text_quoted(t, parts.refusal);
    hd_text_add(t, "}", 1);
  }
  if (parts.network.failed || parts.warnings.failed) t->failed = true;
  hd_free(parts.network.data);
  hd_free(parts.warnings.data);
}

static void write_lists(hd_text *t, const detection *d) {
  double parameters = 0;
  const char *comma = "";
  hd_text_print(t, "{\"detected\":[");
  for (size_t i = 0; i < d->n; i++) {
    size_t count = 0;
    if (i) hd_text_add(t, ",", 1);
    write_tensor(t, &d->items[i]);
    hd_shape_count(d->items[i].entry->n_dims, d->items[i].entry->shape, &count);
    parameters += (double)count;
  }
  hd_text_print(t, "],\"layers\":[");
  for (size_t i = 0; i < d->n; i++) {
    if (!is_layer(&d->items[i])) continue;
    hd_text_print(t, "%s", comma);
    write_layer(t, d, &d->items[i]);
    comma = ",";
  }
  hd_text_print(t, "],\"input_size\":%zu,\"parameters\":", input_size(d));
  hd_text_double(t, parameters);
}

/* The lists are many times what a directory takes: they are counted first, and then written where they stay. */
static void write_all(hd_text *t, detection *d, bool broken) {
  static const char before[] = ",\"network\":";
  hd_text network = {0}, lists = {.counting = true};
  write_network(&network, d, broken);
  write_lists(&lists, d);
  hd_text_reserve(t, lists.n + sizeof before + network.n);
  write_lists(t, d);
  hd_text_add(t, before, sizeof before - 1);
  if (network.data) hd_text_add(t, network.data, network.n);
  hd_text_add(t, "}", 1);
  t->failed = t->failed || network.failed;
  hd_free(network.data);
}

hd_status hd_directory_detect(char **json, const hd_directory *directory, const char *config, size_t n_config, hd_error *err) {
  detection d = {.directory = directory};
  hd_text t = {0};
  *json = NULL;
  hd_status parsed = config ? hd_json_parse(&d.config, config, n_config, NULL) : HD_OK;
  d.facts = read_facts(d.config);
  hd_status status = parsed == HD_OUT_OF_MEMORY ? hd_fail(err, parsed, "no memory for a config") : find_all(&d, err);
  if (status == HD_OK) write_all(&t, &d, parsed != HD_OK);
  hd_arena_free(&d.arena);
  cJSON_Delete(d.config);
  if (status == HD_OK && t.failed) status = hd_fail(err, HD_OUT_OF_MEMORY, "no memory to describe %zu tensors", d.n);
  if (status == HD_OK) *json = t.data;
  else hd_free(t.data);
  return status;
}
