/* layers/layer.h: what a layer type is. Each type is one row (struct hd_layer) in the file that implements it, and one line in the table of
 * layer.c. Graph, plan, session and loader never ask what type a layer is. Three places do, for rules of Loom's that name types: merge.c
 * (what a sequential runs), parallel.c (what a branch or a gate may be), and ts/steps.ts (what its step state starts as).
 *
 * There are two kinds of row:
 *   primitive   has `infer` and `forward`: becomes one node of the graph;
 *   composite   has `expand`: is written down as other layers (dense = linear + activation; residual = its children + add).
 * A primitive with an `expand` is expanded where somebody declares it, and is the node where hd_build asks for it: a norm that has to
 * tell Loom's hidden residual about itself.
 *
 * A layer that somebody declares, in JSON or in an arch_*.c file, is an hd_spec: a type, a config, children. The spec tree is what
 * gets saved; the nodes it expands to are what runs. */
#ifndef HD_LAYERS_LAYER_H
#define HD_LAYERS_LAYER_H

#include "base/json.h"
#include "base/memory.h"
#include "heddle.h"
#include "kernels/matrix.h"

typedef struct hd_layer hd_layer;

#define HD_MAX_OUTPUTS 3
#define HD_MAX_WEIGHTS 4

/* Whose arithmetic a network means. Bundles without a `dialect` key are Loom's. */
typedef enum hd_dialect { HD_STANDARD, HD_LOOM } hd_dialect;

/* A declared layer. Lives in its graph's arena. */
typedef struct hd_spec {
  const hd_layer *layer;
  const char *name;       /* path of its values: "layers.0", or the declared name */
  const char *weights;    /* what its weights' names begin with: "layers.0.", "model.layers.0.self_attn." */
  const char *bundle;     /* where a bundle keeps them: "layers.0.", "layers.0.branch_weights.1." */
  const char *path;       /* where its JSON is, for messages: "network.layers[3].branches[0]"; NULL: a family's, or inside another */
  void *config;           /* layer->config_bytes, zeroed, filled by parse */
  const struct hd_spec *maker; /* of a composite inside another: the declared one; NULL: it is declared itself */
  struct hd_spec **children;
  size_t n_children;
  bool has_gate;          /* the last child is a parallel's "filter_gate", not one of its branches */
} hd_spec;

/* Where a layer is declared. Loom's layers differ by it (shared/formats/loom.md, section c); the textbook's do not. */
typedef enum hd_place {
  HD_IN_CHAIN,    /* a network's own chain, or that of a network inside it (kmeans) */
  HD_IN_PARALLEL, /* a branch */
  HD_IN_SEQUENTIAL,
} hd_place;

/* ---- From JSON and back ---- */

typedef struct hd_parse {
  hd_json json;           /* the layer's object; its getters record errors with the path */
  hd_dialect dialect;
  size_t batch;           /* the batch_size of the network it belongs to (HD_LOOM); a network inside another has 1 */
  hd_place place;
  hd_arena *arena;        /* for strings and arrays the config points to */
  hd_spec *spec;          /* being made; children are already there */
} hd_parse;

/* ---- Expanding ---- */

/* A value of the graph: an index into its table. */
typedef int hd_value;
#define HD_NO_VALUE (-1)

/* Makes nodes. Errors stick: after one, every call returns HD_NO_VALUE and does nothing, so that expand needs no checks. */
typedef struct hd_builder hd_builder;

/* One node of a primitive type (or the nodes of a composite one). The value is called "<spec name>.<name>", or as the spec itself when
 * name is ""; weights are called "<spec weights><weights><role>". config is copied. For several outputs see hd_build_output. */
hd_value hd_build(hd_builder *b, const hd_layer *layer, const char *name, const char *weights, const void *config,
                  const hd_value *inputs, size_t n_inputs);
/* Output `index` of the node whose first output is v. */
hd_value hd_build_output(hd_builder *b, hd_value v, size_t index);
/* A declared child, with its own names. */
hd_value hd_build_spec(hd_builder *b, const hd_spec *spec, hd_value input);
/* A node that layers share (rotary tables): made once per graph for each type and config, under a name of the graph's own. */
hd_value hd_build_shared(hd_builder *b, const hd_layer *layer, const char *name, const void *config, hd_value input);
/* A network inside another (of n declared layers): a chain of its own, with a hidden residual of its own. */
hd_value hd_build_chain(hd_builder *b, hd_spec *const *specs, size_t n, hd_value input);
/* A declared child's weights without its nodes: for layers that are kept and saved but never run (Loom's sequential skips most types). */
void hd_build_weights(hd_builder *b, const hd_spec *spec, hd_value input);
/* Whether the spec being expanded stands in a chain itself, not in a branch. */
bool hd_build_in_chain(const hd_builder *b);
hd_dialect hd_build_dialect(const hd_builder *b);

/* Loom's hidden residual R: a value that travels beside the chain (loom.md, section c). rms_norm sets it; attention and swiglu
 * add it to what they give and set it; layer_norm adds it to what it takes and, where there is one, sets it. In branches and in
 * the standard dialect there is no R: carried is HD_NO_VALUE, add gives v back and carry does nothing, so that expand calls
 * them without asking. layer_norm's expand:
 *   x = hd_build_add_carried(b, "carried", x);
 *   y = hd_build(b, &hd_layer_layer_norm, "", "", spec->config, &x, 1);
 *   if (hd_build_carried(b) != HD_NO_VALUE) hd_build_carry(b, y); */
hd_value hd_build_carried(const hd_builder *b);
/* v + R where there is an R of the same length when the plan is made; else v. The node is called as in hd_build. */
hd_value hd_build_add_carried(hd_builder *b, const char *name, hd_value v);
void hd_build_carry(hd_builder *b, hd_value v);

void hd_build_fail(hd_builder *b, hd_status code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- Shapes ---- */

typedef struct hd_shape {
  hd_dtype dtype;
  int n_dims;
  size_t dim[HD_MAX_DIMS];
} hd_shape;

size_t hd_shape_size(const hd_shape *shape);     /* elements */
size_t hd_shape_last(const hd_shape *shape);     /* innermost dimension; 1 for a scalar */
size_t hd_shape_rows(const hd_shape *shape);     /* elements / innermost */

/* A sequence that a call adds rows to. */
typedef struct hd_sequence {
  size_t rows;         /* of the call's input */
  size_t past;         /* positions already computed */
  size_t begin;        /* the first of them that the states of layers with a window still hold */
  size_t context;      /* positions its state has room for; 0: it has no state, and nothing of it is remembered */
  size_t window;       /* positions that the states of layers with a window have room for; 0: as the others */
  void **state;        /* per node of the graph: state_bytes of it; NULL while a plan is made */
} hd_sequence;

/* Facts that differ from call to call. */
typedef struct hd_run {
  const hd_sequence *sequences; /* n_sequences of them. Of several, a call's input is their rows one after the other, in two
                                 * dimensions at most */
  size_t n_sequences;
  size_t output_rows;  /* rows of the last value wanted of each sequence, from its end; 0: all */
  bool keep;           /* every value keeps its place: also compute optional outputs (attention's probabilities) */
} hd_run;

typedef struct hd_infer {
  const void *config;
  const char *name;                     /* the node's, for messages */
  const hd_shape *const *in;            /* n_in of them */
  size_t n_in;
  const hd_run *run;
  hd_shape out[HD_MAX_OUTPUTS];         /* to fill; out[0].dtype is F32 already */
  size_t scratch_bytes;                 /* to fill: the most that forward and backward need at these shapes, by hd_times and hd_plus:
                                         * what no memory could hold is refused by whoever asked */
  const hd_matrix *weight[HD_MAX_WEIGHTS]; /* layouts and sizes for scratch; NULL where absent */
} hd_infer;

/* `infer` of layers whose output has their input's shape. */
hd_status hd_infer_same(hd_infer *i, hd_error *err);
/* "<node>: <message>", bad_argument. */
hd_status hd_infer_fail(const hd_infer *i, hd_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- Weights ---- */

typedef enum hd_init { HD_INIT_ZERO, HD_INIT_ONE, HD_INIT_UNIFORM_FAN_IN, HD_INIT_NORMAL } hd_init;

typedef enum hd_lack {
  HD_LACK_REFUSED,
  HD_LACK_PADDED,         /* zeros take the place of what is not there */
  HD_LACK_INIT,           /* missing as a whole: as `init` says; a part is refused */
} hd_lack;

typedef struct hd_slot {
  const char *role;       /* "weight", "bias" */
  size_t shape[HD_MAX_DIMS]; /* a matrix is [out_features, in_features] whatever a file's order */
  int n_dims;
  hd_lack lack;           /* what Loom makes of a bundle that has none, or not all of it */
  size_t n_parts;         /* a matrix that weight files have in so many, one below the other; in their names a number stands for the
                           * role's '*' */
  hd_init init;           /* at build from a spec without weights */
  float init_scale;       /* HD_INIT_UNIFORM_FAN_IN: ±init_scale/√fan_in; HD_INIT_NORMAL: σ */
  bool in_out;            /* a matrix that weight files have as [in_features, out_features] */
  bool matrix;            /* goes through the layouts of kernels/matrix.h (n_dims 2); else plain F32 */
  bool lookup;            /* a matrix whose rows are looked up: conversions leave it 8 bits at least */
  bool optional;          /* may be missing from a file: stays NULL */
} hd_slot;

/* How a bundle names a weight, by its name below the declared layer. */
typedef struct hd_bundle_name {
  const char *weight;     /* "weight", "q_proj.weight" */
  const char *field;      /* "kernel", "q_weights" */
  bool in_out;            /* the bundle keeps the matrix as [in][out] */
} hd_bundle_name;

/* ---- Running ---- */

/* LoRA pairs on a weight: y += scale · (x · aᵀ) · bᵀ. */
typedef struct hd_lora {
  const float *a;         /* [rank, in_features] */
  const float *b;         /* [out_features, rank] */
  size_t rank;
  float scale;
} hd_lora;

/* A value at run time. */
typedef struct hd_view {
  const hd_shape *shape;
  float *data;            /* or int32_t *, by shape->dtype */
} hd_view;

typedef struct hd_call {
  const void *config;
  const char *name;
  size_t node;                              /* its index in the graph: hd_call_state finds its state by it */
  const hd_run *run;
  size_t n_in;
  const hd_view *in;                        /* n_in of them */
  hd_view out[HD_MAX_OUTPUTS];              /* data NULL: an optional output nobody wants */
  const hd_matrix *weight[HD_MAX_WEIGHTS];  /* vectors too: layout rows.f32, one row; NULL where absent */
  const hd_lora *lora[HD_MAX_WEIGHTS];      /* NULL: none active */
  float *lora_scratch;                      /* rows × rank */
  void *scratch;                            /* scratch_bytes, 64-aligned, shared by all nodes */
  /* backward: gradients to add to; NULL where nobody wants them */
  float *const *d_in;
  const float *d_out[HD_MAX_OUTPUTS];
  float *d_weight[HD_MAX_WEIGHTS];
} hd_call;

/* Of a value's rows, those that belong to a sequence. */
static inline size_t hd_rows_of(const hd_run *run, size_t sequence, size_t rows) {
  return run->n_sequences > 1 ? run->sequences[sequence].rows : rows;
}

/* The node's own state_bytes of a sequence; NULL: the sequence has no state. */
static inline void *hd_call_state(const hd_call *call, size_t sequence) {
  const hd_sequence *s = &call->run->sequences[sequence];
  return s->context ? s->state[call->node] : NULL;
}

/* y[rows, out] = x[rows, in] · weight[slot]ᵀ, plus the active adapter's pairs. scratch: the call's. */
void hd_linear(const hd_call *call, int slot, const float *x, size_t n_rows, float *y);

/* ---- The row ---- */

struct hd_layer {
  const char *name;
  const char *const *aliases; /* NULL-terminated, or NULL */
  size_t config_bytes;

  /* A small layer of this type as a network declares it, with the "input_shape" it takes: says by example what the JSON looks like, and is
   * what the tests that walk the table build, run, differentiate, save and load. NULL for types only composites make. */
  const char *example;

  /* declared form: JSON ↔ config. Both may be NULL for primitives that are only made by expand. */
  void (*parse)(void *config, hd_parse *p);
  hd_status (*write)(const void *config, cJSON *json, hd_dialect dialect, hd_error *err); /* fails for what the dialect cannot hold */
  const hd_bundle_name *bundle_names; /* ends with a NULL weight; NULL: the weight's own names */
  bool has_children;                  /* JSON "branches" become children */
  bool has_gate;                      /* and JSON "filter_gate" the last of them */
  hd_place child_place;               /* HD_IN_CHAIN: a network inside; one layer may be written as "attached_layer" */
  size_t (*out_features)(const void *config); /* the width of its output where the config alone says it; NULL, 0: unknown */

  /* composite */
  hd_value (*expand)(hd_builder *b, const hd_spec *spec, hd_value input);

  /* primitive */
  hd_status (*infer)(hd_infer *i, hd_error *err);
  size_t (*slots)(const void *config, hd_slot slots[HD_MAX_WEIGHTS]);
  size_t n_outputs;       /* 0 means 1 */
  const char *const *output_names; /* of several outputs: "<node>.<output name>"; "" is the node's own */
  bool extra_outputs_optional;     /* outputs after the first are only computed where every value is kept */
  bool many_sequences;    /* it may be given several at once, and such as have no state: it computes every row alone, or asks
                           * run->sequences */
  bool in_place;          /* the output may lie where the first input lay (elementwise) */
  size_t (*state_bytes)(const void *config, size_t positions); /* 0: none; by hd_times: SIZE_MAX is more than there can be */
  /* How many positions, the newest included, a row looks at: older ones may be taken from its state. NULL, 0: all of them. */
  size_t (*window)(const void *config);
  /* Moves n positions, from the `first` on, of a block for from_positions to the beginning of one for to_positions; it may be the same
   * block. States can be cut at any position. */
  void (*move_state)(const void *config, void *to, size_t to_positions, const void *from, size_t from_positions, size_t first, size_t n);
  hd_status (*forward)(const hd_call *call, hd_error *err);
  hd_status (*backward)(const hd_call *call, hd_error *err); /* NULL: training through it is refused */
};

/* The table. */
const hd_layer *hd_layer_find(const char *name);
const hd_layer *hd_layer_at(size_t index); /* NULL past the last */
/* "dense, linear, …": the types a network may declare, for messages. */
const char *hd_layer_list(char *room, size_t n);
/* Adds a row of the caller's own at the end of the table (at most 16), before any model is built with it. */
hd_status hd_layer_register(const hd_layer *layer, hd_error *err);

#endif
