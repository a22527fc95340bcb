/* graph/loader.h: the loader's inside, for loader.c (descriptions and directories), names.c (which weight a tensor fills), target.c (what
 * each weight becomes) and writer.c (its bytes as they come). heddle.h has the public part. */
#ifndef HD_GRAPH_LOADER_H
#define HD_GRAPH_LOADER_H

#include "graph/arch.h"
#include "graph/gguf.h"
#include "graph/packs.h"

/* A directory's tensor and the parameter it fills (−1: none). */
typedef struct hd_wanted {
  const hd_entry *entry;
  int parameter;
  hd_gguf_order order;
  int part;              /* of a parameter that files have in parts; −1: all of it */
  bool filled;
  hd_part role;          /* in a pack; HD_N_PARTS: it is in none */
  size_t pack;
  size_t earlier;        /* the one before it that fills the same parameter, its index + 1; 0: none */
} hd_wanted;

/* How a tensor's bytes get into its parameter. */
typedef enum hd_way {
  HD_WAY_COPY,       /* as they are, where they belong */
  HD_WAY_PACK,       /* rows of the file's dtype, which the layout packs */
  HD_WAY_ROWS,       /* rows, decoded, which the layout rounds */
  HD_WAY_VALUES,     /* a vector's values, decoded */
  HD_WAY_WHOLE,      /* a matrix that lies [in][out], decoded and turned */
  HD_WAY_CODES,      /* a pack's codes: rows of what they stand for */
  HD_WAY_CODES_KEPT, /* the same, kept as the layout's own, INT8 */
  HD_WAY_SCALES      /* a pack's other parts: held until its codes come */
} hd_way;

/* The tensor being written. `buffer` gathers `unit` file bytes; each full one becomes rows (matrices) or values (vectors): decoded to
 * float32, then rounded to what the layout holds. */
typedef struct hd_writer {
  hd_parameter *parameter;
  const hd_entry *entry;
  hd_wanted *wanted;
  hd_packed *packed;     /* that it belongs to; NULL: to none */
  hd_gguf_order order;
  hd_way way;
  bool in_out;           /* a matrix that lies [in][out], and has no rows then */
  uint8_t *buffer;       /* unit bytes of the file */
  uint8_t *turned;       /* where they get the parameter's order; NULL when they have it */
  float *wide;           /* the same as float32; NULL when the layout takes the file's bytes */
  size_t unit, held;     /* bytes */
  size_t unit_values;
  size_t all, first_row; /* values of the tensor; where it begins in the parameter */
  uint64_t seen;         /* bytes written so far */
  /* A strided tensor comes whole, and then goes the others' way as `straight`, in row-major order. */
  const hd_entry *view;  /* NULL for others */
  hd_entry straight;
  uint8_t *span;         /* the view's bytes of the file */
  size_t span_held;
  size_t done;           /* values finished */
} hd_writer;

/* A parameter by its name without what is written before it (hd_arch_bare_name). */
typedef struct hd_known_name {
  const char *bare;
  int parameter;
} hd_known_name;

#define HD_NAME_ROOMS 3

struct hd_loader {
  hd_dtype weight_dtype;
  hd_model *model;
  cJSON *unknown;        /* a config.json of no known type, which the first directory's names have to explain */
  bool is_guess;         /* they did */
  const hd_arch *arch;   /* of a config.json; NULL: a network's spec */
  int head;              /* the parameter of the graph's last matrix; −1: none */
  hd_known_name *known;  /* the model's parameters, sorted */
  char *made[HD_NAME_ROOMS]; /* rooms for names that are made of a tensor's */
  size_t name_room;      /* bytes of each: enough for the longest there is */
  hd_gguf_names names;
  hd_directory **directories;
  size_t n_directories;
  hd_wanted *tensors;
  size_t n_tensors;
  size_t *latest;        /* for each parameter the last tensor that fills it, its index + 1; 0: none */
  hd_packs packs;
  bool settled;          /* no directory may come any more */
  bool finished;         /* it is empty, and stays so */
  hd_writer writer;
  bool writing;
};
/* A dtype, and why it is not the one before it; `reason` is empty where nothing gave way. */
typedef struct hd_choice {
  hd_dtype dtype;
  char reason[160];
} hd_choice;

/* What a parameter becomes whose tensor has the dtype `file`, or is packed (NULL: it is not). */
hd_choice hd_loader_target(const hd_loader *loader, const hd_parameter *p, hd_dtype file, const hd_packed *packed);

/* Once, when the model is there. */
hd_status hd_names_sort(hd_loader *loader, const hd_model *model, hd_error *err);
/* Before the names of a directory are looked at. */
hd_status hd_names_make_room(hd_loader *loader, const hd_directory *directory, hd_error *err);
void hd_names_free(hd_loader *loader);
/* The tensor with the parameter it fills by itself. */
hd_wanted hd_names_wanted(const hd_loader *loader, const hd_entry *entry);
/* The tensor with the matrix that it may be a part of, in a pack; −1: of none. */
hd_wanted hd_names_packed(const hd_loader *loader, const hd_entry *entry);

void hd_writer_free(hd_writer *w);

#endif
