/* graph/gguf.h: how a GGUF file names and lays out what a model's family calls otherwise: gguf.c has the tables,
 * names and rows, gguf_config.c the metadata. */
#ifndef HD_GRAPH_GGUF_H
#define HD_GRAPH_GGUF_H

#include "base/text.h"
#include "graph/graph.h"

/* A tensor's name in GGUF and in Hugging Face, without what they end in (".weight"). Inside a block a '*' at the end of `gguf` is an
 * expert's number; "" has no tensor. `exact`: llama.cpp wants it as F32. */
typedef struct hd_gguf_part {
  const char *gguf, *hugging_face;
  bool exact;
} hd_gguf_part;

/* A key of the metadata, after "<architecture>.", and of config.json. */
typedef struct hd_gguf_member {
  const char *gguf, *config;
  bool needed, real;
} hd_gguf_member;

/* What models of one kind call their parts; the lists end with a row of NULL. */
typedef struct hd_gguf_words {
  const char *blocks;            /* what stands before a block's number in Hugging Face: "model.layers." */
  const hd_gguf_part *outside, *inside;
  const hd_gguf_member *members;
  bool rotary;                   /* a decoder with rotary positions */
  bool out_in;                   /* matrices that Hugging Face has as [in, out] are [out, in] here */
} hd_gguf_words;

typedef struct hd_gguf_architecture {
  const char *name;              /* general.architecture */
  const char *model_type;        /* config.json's */
  const hd_gguf_words *words;
  bool interleaved, plus_one, experts;
  const char *members;           /* more of config.json, which no metadata say */
} hd_gguf_architecture;

/* What architectures with experts have besides. */
extern const hd_gguf_member hd_gguf_expert_members[];

/* Whether a directory has GGUF's names and metadata: a GGUF's, and a llama2.c checkpoint's. */
bool hd_gguf_is_spoken(const hd_directory *directory);
/* Of such a directory; NULL: none that is known. */
const hd_gguf_architecture *hd_gguf_architecture_of(const hd_directory *directory);
const hd_gguf_architecture *hd_gguf_architecture_for(const char *model_type); /* NULL: GGUF has none */
bool hd_gguf_says_experts(const hd_directory *directory, const char *architecture);
const char *hd_gguf_list(char *room, size_t n); /* "llama, qwen2, …": for messages */

/* What a GGUF file's metadata say about its tensors; architecture NULL: nothing, they are taken as they are. */
typedef struct hd_gguf_names {
  const hd_gguf_architecture *architecture;
  size_t heads, kv_heads;
} hd_gguf_names;

/* How a tensor's values differ from what Hugging Face's files have of the parameter. */
typedef struct hd_gguf_order {
  size_t heads;  /* the two halves of each head's rows lie interleaved; 0: they do not */
  bool plus_one; /* a norm's weights have 1 added */
  bool out_in;   /* a matrix lies [out, in] whatever the parameter's files have */
  bool exact;    /* to be written as F32 */
  int part;      /* of a parameter in parts; −1: all of it */
} hd_gguf_order;

/* Fails where the head counts are not numbers. */
hd_status hd_gguf_recognise(hd_gguf_names *names, const hd_directory *directory, hd_error *err);
/* The parameter that a file's tensor is, and how it lies there; −1: none. */
int hd_gguf_find(hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, const char *tensor);

/* The same back: the name in `room`, "" for what GGUF leaves out; false where it has none for the parameter. */
#define HD_GGUF_NAME_ROOM 128
bool hd_gguf_name(char room[HD_GGUF_NAME_ROOM], hd_gguf_order *order, const hd_gguf_names *names, const hd_model *model, size_t parameter);
/* What a config.json says, as names has it from metadata; unsupported where GGUF has no architecture for its model_type. */
hd_status hd_gguf_names_of_config(hd_gguf_names *names, const hd_json *config, hd_error *err);
/* A tensor of rotary factors: rope_freqs.weight, or a longrope's two. */
typedef struct hd_gguf_factors {
  const char *tensor;
  float *values;
  size_t n;
} hd_gguf_factors;
enum { HD_GGUF_MOST_FACTORS = 2 };
/* Those that a config.json stands for; how many in *n. */
hd_status hd_gguf_rope_factors(hd_gguf_factors out[HD_GGUF_MOST_FACTORS], size_t *n, hd_arena *arena, const hd_gguf_names *names,
                               const hd_json *config, hd_error *err);
/* The metadata of a config.json, as members of a JSON object: ,"llama.block_count":5 …; those whose keys are in `given` are left out. */
hd_status hd_gguf_write_config(hd_text *t, const hd_gguf_names *names, const hd_json *config, const hd_directory *given, hd_error *err);

/* Rows of interleaved heads in the order of the halves: file rows of `row_bytes` each, a whole
 * number of heads of head_dim rows. to ≠ from. */
void hd_gguf_part_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes);
/* The same back. */
void hd_gguf_interleave_halves(uint8_t *to, const uint8_t *from, size_t n_rows, size_t head_dim, size_t row_bytes);

#endif
