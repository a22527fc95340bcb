/* graph/graph.h: what a model is inside: the declared layers (specs), the nodes they expand to, the values between nodes, and the
 * parameters. Made by the builder (graph.c) from specs, which come from a network's JSON (network_json.c) or from a family's
 * config.json (arch.h). After loading it is immutable. */
#ifndef HD_GRAPH_GRAPH_H
#define HD_GRAPH_GRAPH_H

#include "base/dtype.h"
#include "layers/layer.h"

/* A named weight. Two layers that name the same one share it (tied embeddings). */
typedef struct hd_parameter {
  const char *name;         /* "model.layers.0.self_attn.q_proj.weight" */
  const char *local;        /* its name below the declared layer: "q_proj.weight" */
  const hd_spec *owner;     /* the first declared layer that uses it */
  hd_slot slot;
  hd_matrix value;          /* data owned by the model; NULL until allocated. Vectors: rows.f32, one row */
  uint32_t n_sets;          /* how often values of it were set */
  const char *packing;      /* "affine, 4 bits, groups of 64": how it lay in several tensors; NULL: in one */
  const char *reason;       /* why it became another dtype than was asked for; NULL: it did not */
  hd_dtype file_dtype;      /* of the tensor it was loaded from; HD_DTYPE_COUNT: from none */
  bool filled;
  bool lossy;               /* that tensor's values were rounded on their way in */
} hd_parameter;

typedef struct hd_node {
  const hd_layer *layer;
  const char *name;
  const char *path;           /* of the declared layer's JSON; NULL: it has none */
  void *config;
  hd_value *in;               /* n_in of them, in the model's arena */
  hd_value out[HD_MAX_OUTPUTS];
  int weight[HD_MAX_WEIGHTS]; /* indices of parameters */
  uint32_t n_in;
  uint8_t n_out, n_weights;
} hd_node;

typedef struct hd_value_info {
  const char *name;
  int node;                 /* that computes it; −1: the graph's input */
  int output;               /* which of its outputs */
} hd_value_info;

enum { HD_MAX_WARNINGS = 8 };

/* A config.json of a line, or a megabyte of JSON, could ask for more than it should cost. The largest models that
 * are published have some thousands of each. */
enum { HD_MAX_SPECS = 16384, HD_MAX_NODES = 16384, HD_MAX_PARAMETERS = 16384 };

struct hd_model {
  hd_arena arena;           /* names, configs, specs, slots */
  const char *family;       /* "network", "llama" */
  hd_dialect dialect;
  size_t batch;
  cJSON *cfg;               /* what a bundle said besides layers; NULL for families */
  const char *stored_dtype; /* the encoding a bundle kept the weights in: "float32", "int8"; NULL: no bundle */
  double bundle_version;    /* 0: none */
  const char *bundle_extra, *bundle_model_extra; /* members nobody here knows, as hd_bundle has them; may be NULL */
  hd_shape input;           /* n_dims 0: up to the caller */
  size_t max_context;       /* positions; 0: no limit of its own */
  const char *warnings[HD_MAX_WARNINGS]; /* what was assumed to load it */
  size_t n_warnings;

  hd_spec **specs;          /* the chain of declared layers */
  size_t n_specs;
  hd_node *nodes;
  size_t n_nodes;
  hd_value_info *values;    /* value 0 is the input */
  size_t n_values;
  hd_value output;
  hd_parameter *parameters;
  size_t n_parameters;
  int *parameter_table;     /* by name: an index + 1 in its place, or 0; graph.c */
  size_t n_table;           /* a power of two, at least twice n_parameters */

  size_t n_sessions;        /* open now */
  bool exclusive;           /* one of them trains */
};

/* An empty model; NULL when out of memory. */
hd_model *hd_model_new(void);
/* Frees whatever is there, sessions or not. */
void hd_model_discard(hd_model *model);

/* A declared layer. The names are kept as given: they are in the model's arena, or constant. NULL when
 * out of memory, also where a name is NULL. */
hd_spec *hd_spec_new(hd_model *model, const hd_layer *layer, const char *name, const char *weights, const char *bundle, const void *config);
/* Appends it to the chain. */
hd_status hd_model_add_spec(hd_model *model, hd_spec *spec, hd_error *err);

/* Adds to the model's warnings; those past the last place are left out. */
hd_status hd_model_warn(hd_model *model, hd_error *err, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Expands every spec into nodes, values and parameters. A network that declares its input is
 * refused where its layers do not fit together. */
hd_status hd_graph_expand(hd_model *model, hd_error *err);

/* infer.c: the shapes of the node's outputs into i->out, from the shapes of all values before it. `inputs` is room for n_in pointers. The
 * error says where the layer's JSON is, where it has one. */
hd_status hd_node_infer(hd_infer *i, const hd_model *model, const hd_node *node, const hd_shape *shapes, const hd_shape **inputs,
                        const hd_run *run, hd_error *err);
/* Refuses values that no machine we run on could hold, before sizes are multiplied any further. */
hd_status hd_shape_check(const char *name, const hd_shape *shape, hd_error *err);
/* The most inputs that a node has; at least 1. */
size_t hd_graph_most_inputs(const hd_model *model);
/* Runs the declared input's shape, if there is one, through all nodes. */
hd_status hd_graph_check_shapes(const hd_model *model, hd_error *err);

int hd_parameter_find(const hd_model *model, const char *name); /* −1: none */
/* A value by its name in traces; bad_argument: there is none. */
hd_status hd_value_find(hd_value *out, const hd_model *model, const char *name, hd_error *err);
size_t hd_parameter_count(const hd_parameter *p);               /* elements */
/* The shape that a weight file has it in. */
void hd_parameter_file_shape(const hd_parameter *p, size_t shape[HD_MAX_DIMS]);
/* Its layout in a dtype (NULL: nothing multiplies it) and its size, without memory. */
hd_matrix hd_parameter_matrix(const hd_parameter *p, hd_dtype dtype);
/* Gives the parameter memory in a dtype (F32 for vectors). */
hd_status hd_parameter_allocate(hd_parameter *p, hd_dtype dtype, hd_error *err);
/* From and to float32 in the slot's shape; in_out: a matrix comes as [in][out]. */
hd_status hd_parameter_set(hd_parameter *p, const float *values, bool in_out, hd_error *err);
hd_status hd_parameter_get(const hd_parameter *p, float *values, bool in_out, hd_error *err);

/* ---- pieces.c ---- */

/* What a weight file has of a parameter: all of it, or one of its parts ("…experts.3.w1.weight" of "…experts.*.w1.weight"). */
typedef struct hd_piece {
  const hd_parameter *parameter;
  int part;                 /* −1: all of it */
  size_t first, rows;       /* rows of the parameter's matrix; a vector is one */
} hd_piece;

hd_piece hd_piece_whole(const hd_parameter *p);
/* The pieces that we write a parameter in: its parts, or itself. */
size_t hd_piece_number(const hd_parameter *p);
hd_piece hd_piece_at(const hd_parameter *p, size_t index);
/* By its name in files, or the parameter's own; false: none. */
bool hd_piece_find(hd_piece *out, const hd_model *model, const char *name);
/* The number that stands in a tensor's name for the '*' in a parameter's, with `plain` the name that has the star again; −1: none does. */
int hd_piece_part(char *plain, size_t room, const char *tensor);
char *hd_piece_name(hd_arena *arena, const hd_piece *piece); /* NULL when out of memory */
size_t hd_piece_count(const hd_piece *piece);                /* elements */
void hd_piece_shape(const hd_piece *piece, size_t shape[HD_MAX_DIMS]);      /* as the slot has it */
void hd_piece_file_shape(const hd_piece *piece, size_t shape[HD_MAX_DIMS]); /* as weight files have it */
/* All parts of a parameter in one tensor: [parts, rows, columns]. */
bool hd_entry_is_stacked(const hd_parameter *p, const hd_entry *e);
/* From and to float32, as hd_parameter_set and _get. Once all are set, hd_matrix_settle finds the parameter's layout. */
hd_status hd_piece_set(const hd_piece *piece, const float *values, bool in_out, hd_error *err);
hd_status hd_piece_get(const hd_piece *piece, float *values, bool in_out, hd_error *err);
/* Setting without memory of its own: `turned` is room for a row block, hd_piece_block floats, of values that lie [in][out]; NULL: they
 * lie in rows. */
void hd_piece_fill(const hd_piece *piece, const float *values, float *turned);
size_t hd_piece_block(const hd_piece *piece);

/* How a bundle names the parameter: the row's field, or its own local name. */
const char *hd_parameter_field(const hd_parameter *p, hd_dialect dialect, bool *in_out);

/* builder_json.c: brings a description in the spelling of Loom's BuildNetworkFromJSON to that of its bundles, in place. Others are left as
 * they are. `path` begins error messages. */
hd_status hd_builder_translate(cJSON *network, const char *path, hd_error *err);

/* network_json.c: the "layers" of a network spec or a bundle's cfg → specs. `path` begins error messages ("cfg"). Takes cfg. */
hd_status hd_network_parse(hd_model *model, cJSON *cfg, const char *path, hd_error *err);
/* The same back: cfg with "layers", for saving. cJSON_Delete frees it. */
hd_status hd_network_write(cJSON **cfg, const hd_model *model, const char *id, hd_error *err);

#endif
