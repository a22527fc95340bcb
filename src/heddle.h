/* heddle.h: the whole public interface of the Heddle core, a neural-network runtime for WebAssembly hosts.
 *
 * The way data flows:  bytes → directory of named tensors → model (graph + weights) → session (one timeline) → outputs.
 *
 *   hd_directory  what a weight file declares: names, dtypes, shapes, byte ranges. No weights.
 *   hd_loader     joins a description (config.json, or a network spec) with directories, takes the tensors' bytes as they
 *                 stream in, and turns them into what the kernels want. Ends as a model, or as an error; never as half a model.
 *   hd_model      graph and weights. Immutable while sessions use it; shared by any number of them.
 *   hd_session    one timeline over a model: activations, layer state (a KV cache), the active adapter.
 *   hd_adapter    LoRA pairs for a model's linears; belongs to the caller, is made active on sessions.
 *
 * Rules that hold everywhere
 *   - A call that can fail returns hd_status and takes `hd_error *err` last (may be NULL). Out-handles come first and are
 *     NULL after a failure. Nothing here prints, exits, asserts on input, or keeps a global error.
 *   - Where nothing is changed by a call that fails, the call's comment says so. After any other failure the handle is whole and
 *     can be freed, with a part of the work done in it: readers and loaders that failed are good for nothing else.
 *   - Every handle has one `_free`, which takes NULL. Views (hd_tensor, strings) die with the handle they came from.
 *   - Nothing allocates in hd_forward, hd_decode and hd_backward: a session's memory is planned when it is made, and grows where
 *     positions are reserved.
 *   - Shapes are outermost dimension first; data is row-major; counts are `n_*`, byte counts `*_bytes`.
 *   - One thread calls in. Kernels may split their outputs over the pool (hd_pool_*); results do not depend on its size. */
#ifndef HEDDLE_H
#define HEDDLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- Errors ------------------------------------------------------------------------------------------------- */

typedef enum hd_status {
  HD_OK = 0,        /* all outputs are valid */
  HD_BAD_FILE,      /* bytes that break their format's rules */
  HD_BAD_ARGUMENT,  /* a wrong shape, id, name or option from the caller */
  HD_UNSUPPORTED,   /* legal, but nothing we can do */
  HD_OUT_OF_MEMORY, /* the allocator refused */
  HD_BAD_STATE      /* right call, wrong moment: training a model in use, decoding past the context */
} hd_status;

/* What went wrong: which tensor or JSON path, the byte offset, what was expected and what was found. Very long names are
 * shortened in the middle, never inside a character. */
typedef struct hd_error {
  hd_status code;
  char message[1024];
} hd_error;

/* "bad_file", "bad_argument", …: the code's name, for hosts that want strings. */
const char *hd_status_name(hd_status status);

/* ---- Tensors ------------------------------------------------------------------------------------------------ */

typedef enum hd_dtype {
  HD_F32, HD_F64, HD_F16, HD_BF16,
  HD_I64, HD_I32, HD_I16, HD_I8,
  HD_U64, HD_U32, HD_U16, HD_U8,
  HD_BOOL,
  HD_C64,         /* two F32: kept in files, no weight of ours */
  HD_F8_E4M3, HD_F8_E5M2, HD_F8_E4M3FNUZ, HD_F8_E5M2FNUZ,
  HD_F8_E8M0,     /* powers of two: scales */
  HD_F6_E2M3, HD_F6_E3M2, /* four to three bytes */
  HD_F4,          /* E2M1, two to a byte, the first in the low half; an odd count ends in half a byte */
  /* GGML's blocks (base/dtype_ggml.c says how they lie) of 32 values, and below, of 256. */
  HD_Q4_0, HD_Q4_1, HD_Q5_0, HD_Q5_1, HD_Q8_0, HD_MXFP4, HD_IQ4_NL,
  HD_Q2_K, HD_Q3_K, HD_Q4_K, HD_Q5_K, HD_Q6_K, HD_IQ4_XS,
  HD_INT8,        /* a row of int8 with one F32 scale, value = code · scale: what weights may become, not what a file holds */
  HD_DTYPE_COUNT  /* also "no dtype" */
} hd_dtype;

/* "F32", "BF16", "Q8_0": the name files use. */
const char *hd_dtype_name(hd_dtype dtype);

/* n values as files keep them (n_bytes of them; whole blocks where the dtype has blocks) as float32, exactly where that can be. */
hd_status hd_widen(hd_dtype dtype, const void *bytes, size_t n_bytes, float *values, size_t n, hd_error *err);

/* The other way, rounded as the dtype rounds. n is whole blocks, n_bytes what they take. Unsupported where the dtype has no such way. */
hd_status hd_narrow(hd_dtype dtype, const float *values, size_t n, void *bytes, size_t n_bytes, hd_error *err);
/* Whether every value of `from` is one of `to`: else going there rounds. */
bool hd_dtype_holds(hd_dtype to, hd_dtype from);

#define HD_MAX_DIMS 8

/* A borrowed view. `shape` holds n_dims sizes, outermost first; a scalar has n_dims 0. */
typedef struct hd_tensor {
  hd_dtype dtype;
  int n_dims;
  size_t shape[HD_MAX_DIMS];
  void *data;
} hd_tensor;

/* ---- Directories -------------------------------------------------------------------------------------------- */

typedef struct hd_directory hd_directory;

/* One tensor as a file declares it. Byte range [begin, end) counts from the start of the file. A strided tensor is a view of that range:
 * element (i, j, …) lies at i · strides[0] + j · strides[1] + … elements from begin. */
typedef struct hd_entry {
  const char *name;
  hd_dtype dtype;
  int n_dims;
  size_t shape[HD_MAX_DIMS];
  uint64_t begin, end;
  bool strided;
  size_t strides[HD_MAX_DIMS];
} hd_entry;

/* Reads a weight file's directory (SafeTensors, GGUF, PyTorch's .pt, NumPy's .npy, llama2.c's .bin), with full validation: nothing is
 * believed before it is checked against file_bytes. Formats keep it in different places, so the reader says which bytes it wants next.
 * Bytes it has been given are not asked for again where the directory is at the file's begin. Fails when the first bytes start no known
 * weight file, and when a directory is larger than its format allows (100 MB) or than the file. */
typedef struct hd_reader hd_reader;

hd_status hd_reader_new(hd_reader **out, uint64_t file_bytes, hd_error *err);
void hd_reader_free(hd_reader *reader);
/* The bytes wanted next, [begin, end) of the file; false when the directory is complete, and once the file was refused. */
bool hd_reader_wants(const hd_reader *reader, uint64_t *begin, uint64_t *end);
/* The wanted bytes, in order, in chunks of any size; an empty file's are given as none. Not kept. After a failure of its own
 * (not bad_argument: bytes that were not asked for) the reader is only good for being freed: bad_state. */
hd_status hd_reader_give(hd_reader *reader, const void *bytes, size_t n, hd_error *err);
/* The directory, once nothing is wanted. The reader still has to be freed. */
hd_status hd_reader_finish(hd_directory **out, hd_reader *reader, hd_error *err);

/* The same from a file's first n bytes: all of it, or as much as its directory takes. Bad_argument when that is more. */
hd_status hd_directory_read(hd_directory **out, const void *head, size_t n, uint64_t file_bytes, hd_error *err);
void hd_directory_free(hd_directory *directory);

size_t hd_directory_count(const hd_directory *directory);
/* Entries are in file order (ascending begin). */
const hd_entry *hd_directory_entry(const hd_directory *directory, size_t index);
/* NULL when there is none of that name. */
const hd_entry *hd_directory_find(const hd_directory *directory, const char *name);
/* The file's own metadata, pair by pair in file order; false past the last. SafeTensors has strings (`__metadata__`). A
 * GGUF value is JSON text: numbers (64-bit integers exact, floats with a point or an exponent, infinity as 1e999, NaN
 * as null), strings, true and false, arrays. */
bool hd_directory_metadata(const hd_directory *directory, size_t index, const char **key, const char **value);
bool hd_directory_metadata_is_json(const hd_directory *directory, size_t index);
/* "SafeTensors", "GGUF", "PyTorch", "NumPy", "llama2.c". */
const char *hd_directory_format(const hd_directory *directory);

/* A config.json of what the file itself says of its model, for hd_loader_describe: a GGUF's metadata in the words of the family. NULL (and
 * HD_OK) where files of that format say nothing (SafeTensors); unsupported where the architecture is none of ours. `tensors`: the n bytes
 * of all that hd_directory_config_tensor gives, one behind the other. The caller frees *json with hd_text_free. */
hd_status hd_directory_config(char **json, const hd_directory *directory, const void *tensors, size_t n, hd_error *err);
/* The tensors that are part of the description: rotary factors in GGUF (Llama 3.1's, or a longrope's two lists). NULL past the last. */
const hd_entry *hd_directory_config_tensor(const hd_directory *directory, size_t index);

/* What Loom's generic loader takes the tensors for, as JSON: "detected", its list; "layers", what it would build; "input_size";
 * "parameters"; and "network", a spec for hd_loader_describe, with "warnings", texts of what it assumes, lacks or leaves out; or null where
 * names and shapes do not say how to run them, with "refusal", a "code" and a "message" of why. `config` (a config.json) may be NULL and is
 * ignored when it is broken. The caller frees *json with hd_text_free. */
hd_status hd_directory_detect(char **json, const hd_directory *directory, const char *config, size_t n_config, hd_error *err);

/* ---- MLX-Node's weights.mlx (format/mlx_json.c says what it is) --------------------------------------------------- */

/* A SafeTensors file of a weights.mlx with data. The metadata keep its version and config. Unsupported where it only describes the weights.
 * The caller frees *file with hd_bytes_free. */
hd_status hd_mlx_to_safetensors(uint8_t **file, size_t *n_file, const char *text, size_t n_text, hd_error *err);
/* A weights.mlx of a SafeTensors file of F32, F16 and BF16 (else unsupported), finite values only. `config`, JSON text, may be NULL: then
 * it is what the metadata keep. `pretty`: a line for each row. The caller frees *text with hd_text_free. */
hd_status hd_mlx_from_safetensors(char **text, size_t *n, const void *file, size_t n_file, const char *config, size_t n_config,
                                  bool pretty, hd_error *err);
/* What either variant lists, as JSON: "metadataOnly", "weights" (name, dtype, shape), its "note".
 * The caller frees *json with hd_text_free. */
hd_status hd_mlx_list(char **json, const char *text, size_t n_text, hd_error *err);

/* ---- Loading a model ---------------------------------------------------------------------------------------- */

typedef struct hd_model hd_model;
typedef struct hd_loader hd_loader;

/* A loader for one model. `weight_dtype` is what 2-D matmul weights become while they stream in.
 *   HD_DTYPE_COUNT       keeps the file's F32, F16, BF16, Q8_0 and Q4_0; GGML's other blocks become Q8_0; what F16 holds exactly (F8, F6,
 *                        F4, 8-bit integers) becomes F16; anything else F32
 *   HD_Q8_0, HD_Q4_0     quantises those whose rows are a multiple of 32, the rest becomes F16. Embeddings and the head (the graph's last
 *                        matrix) keep 8 bits at least: Q4_0 makes them Q8_0
 *   HD_INT8              symmetric, a scale a row, of any width
 *   HD_F32, HD_F16, HD_BF16
 * Vectors, and whatever else no matmul multiplies, are F32 always. hd_model_describe says for every weight
 * what it was and why it became what it is. */
hd_status hd_loader_new(hd_loader **out, hd_dtype weight_dtype, hd_error *err);
void hd_loader_free(hd_loader *loader);

/* The description: a Hugging Face config.json, or a network spec (an object with "layers"). Builds the graph without weights. Call once,
 * first; after a failure the loader is as new. A config.json of an unknown model_type is settled by the first directory that is added:
 * where its tensors have Llama's names the model is run as that, and hd_model_describe has a warning; anything else is refused there. */
hd_status hd_loader_describe(hd_loader *loader, const char *json, size_t n, hd_error *err);

/* Bytes the weights will take that this file has for the model, in the loader's dtype: to be asked
 * before hd_loader_add, which takes the memory. */
hd_status hd_loader_estimate(uint64_t *bytes, hd_loader *loader, const hd_directory *directory, hd_error *err);

/* The graph that was described, as far as it is known: for hd_session_estimate, once hd_loader_estimate has seen all files. It
 * is the loader's; NULL before there is one. */
const hd_model *hd_loader_model(const hd_loader *loader);

/* Adds a weight file's directory (a copy is taken) and matches its tensors to the graph. Once per file or shard. */
hd_status hd_loader_add(hd_loader *loader, const hd_directory *directory, hd_error *err);

/* Once all directories are added: says of matrices in several tensors (MLX's: format/packed.h, by the description's "quantization") whether
 * they fit. The first hd_tensor_begin does it otherwise. What is wanted is certain afterwards, and no directory may be added. */
hd_status hd_loader_settle(hd_loader *loader, hd_error *err);

/* The tensors of all added directories, in the order they were added; `wanted` is false for those no node uses. NULL past the last. */
size_t hd_loader_count(const hd_loader *loader);
const hd_entry *hd_loader_tensor(const hd_loader *loader, size_t index, bool *wanted);

/* The tensors that have to come before this one: the scales of packed codes. Their number, at most
 * HD_MAX_BEFORE. They are held until it has gone by. */
#define HD_MAX_BEFORE 3
size_t hd_loader_before(const hd_loader *loader, size_t index, size_t before[HD_MAX_BEFORE]);

/* One tensor's bytes, in order, in chunks of any size. End fails when their number is not the directory's. */
hd_status hd_tensor_begin(hd_loader *loader, size_t index, hd_error *err);
hd_status hd_tensor_write(hd_loader *loader, const void *bytes, size_t n, hd_error *err);
hd_status hd_tensor_end(hd_loader *loader, hd_error *err);

/* The model, once every weight has its bytes; names the first that has not. The loader is empty afterwards and takes nothing
 * more (bad_state), but still has to be freed. */
hd_status hd_loader_finish(hd_model **out, hd_loader *loader, hd_error *err);

/* ---- Models ------------------------------------------------------------------------------------------------- */

/* Loads the model called `id` from a Loom bundle (JSON text, either form of weights). `text` is not kept. What the bundle says
 * besides, its version and members nobody here knows, is kept for hd_model_save_bundle. */
hd_status hd_model_load_bundle(hd_model **out, const char *text, size_t n, const char *id, hd_error *err);

/* Builds a network from its spec (see docs/networks.md); weights are initialised from `seed`. */
hd_status hd_model_build(hd_model **out, const char *json, size_t n, uint64_t seed, hd_error *err);

/* Writes a one-model Loom bundle: weights as decimals (form 1) when dtype is NULL, else as one of Loom's encodings (form 2): "float32",
 * "float64", "float16", "bfloat16", "float8", "float4", "int4" … "int64", "uint8" … "uint64". The integers clip outside −1 … 1, int4
 * keeps only what is 8 and more. Form 1 refuses what is not finite. The caller frees *text with hd_text_free. */
hd_status hd_model_save_bundle(char **text, size_t *n, const hd_model *model, const char *id, const char *dtype, hd_error *err);

/* How hd_model_save_quantized turns weights into integers: w = scale · (code − zero point), with scales fitted to the weights. */
typedef struct hd_quantization {
  const char *dtype;        /* "int8" (also NULL), "int16", "uint8", "uint16" */
  bool zero_point;          /* false: symmetric, ±127 of int8 for ±max|w|; true, and always for unsigned ones: the codes span min … max */
  bool per_tensor;          /* one scale for a whole tensor; false: one for each of its output channels */
  float scale;              /* above 0: this one for all weights instead of fitted ones, with the zero point below; what it does not
                             * reach is clamped */
  int32_t given_zero_point;
} hd_quantization;

/* The same with matrices and kernels quantised; vectors (biases, norms) stay float32. Loom cannot read it, and refuses it (form 3 of
 * format/bundle.c); hd_model_load_bundle reads it to float32. Refuses matrices with values that are not finite. */
hd_status hd_model_save_quantized(char **text, size_t *n, const hd_model *model, const char *id, const hd_quantization *how, hd_error *err);
void hd_text_free(char *text);

/* All weights as a SafeTensors file. In the loom dialect names, declared shapes and the order of values are Loom's ("layers.0.weight",
 * [out, in] over values that lie [in][out]); in the standard one they are what they say. Floats are rounded to nearest; F8 has no scales:
 * E4M3 ends at 448, and below 2^-6 it gets coarse. Integers, F4 and F6 have scales fitted to each row of a matrix (to the whole of a
 * vector), kept beside the codes: w = code · "<name>.scale" + "<name>.offset", the offset for unsigned dtypes only; F4 and F6 leave a
 * tensor that would end inside a byte F32. The caller frees *bytes with hd_bytes_free. */
hd_status hd_model_save_weights(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype, hd_error *err);
/* Sets the weights that the file has, by name and shape, and leaves the rest; reads what hd_model_save_weights writes and, in the loom
 * dialect, Loom's own files. Nothing is changed when it fails: on a shape that does not fit, on a file without any weight of the model,
 * while sessions are open (bad_state), and out of memory. `n_set`, how many tensors were set (each expert's are its own), may be NULL. */
hd_status hd_model_load_weights(hd_model *model, const void *file, size_t n, size_t *n_set, hd_error *err);
/* The same into what PyTorch calls load_state_dict: the file's names less `prefix` ("model_state_dict."; NULL: none), of which only those
 * with it count; `strict`: names that only the file or only the model has are an error, which lists the first of them. */
hd_status hd_model_load_state(hd_model *model, const void *file, size_t n, const char *prefix, bool strict, size_t *n_set, hd_error *err);
/* All weights as a file for torch.load(weights_only=True), in F32, F64, F16 or BF16: the state dict, or with `checkpoint` (JSON, may be
 * NULL) what that says: {"$weights": true} becomes the state dict, {"$tensor": "F32", "shape": […], "values": "<Base64>"} a tensor, a key
 * of digits a number. The same model gives the same bytes. Not in the loom dialect. The caller frees *bytes with hd_bytes_free. */
hd_status hd_model_save_torch(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype,
                              const char *checkpoint, size_t n_checkpoint, hd_error *err);
void hd_bytes_free(void *bytes);

/* A weight file to be written tensor by tensor: everything in it but the tensors' values. `format` is "SafeTensors", "GGUF" or
 * "PyTorch" (a state dict); `json` is an array of {"name", "dtype", "shape"}; `metadata` is a JSON object or NULL: of texts for
 * SafeTensors, as hd_gguf_serialize has it for GGUF, left alone for PyTorch. Refuses a dtype the format has not, a name that comes
 * twice, a file of 4 GB or more where size_t has 32 bits. */
typedef struct hd_outline hd_outline;

hd_status hd_outline_new(hd_outline **out, const char *format, const char *json, size_t n_json,
                         const char *metadata, size_t n_metadata, hd_error *err);
void hd_outline_free(hd_outline *outline);
size_t hd_outline_count(const hd_outline *outline);
/* Which of the JSON's tensors is the file's i-th, and how many bytes its values take. */
size_t hd_outline_tensor(const hd_outline *outline, size_t i, size_t *n_bytes);
/* The bytes between the values of tensors i - 1 and i: the file's begin where i is 0, its end where i is their number.
 * Asked for in that order. `checksum` is the CRC-32 of tensor i's bytes, which PyTorch's files have before them. *bytes
 * stay the outline's until its next piece. */
hd_status hd_outline_piece(hd_outline *outline, size_t i, uint32_t checksum, const void **bytes, size_t *n, hd_error *err);

/* A SafeTensors file from plain values, encoded as Loom's tensor-level writer does: integers are truncated, not scaled. `json` is an array
 * of {"name", "dtype", "shape"}; `values` are theirs, one after the other. */
hd_status hd_safetensors_serialize(uint8_t **bytes, size_t *n, const char *json, size_t n_json, const float *values, size_t n_values,
                                   hd_error *err);

/* A GGUF file (version 3) from plain values: `json` and `values` as above; dtypes are those of GGUF that values can be turned into (F32,
 * F16, BF16, Q8_0, Q4_0, …). `metadata` is a JSON object, or NULL: a whole number becomes the first of u32, i32, u64, i64 that holds it (in
 * arrays i32 comes first), a number with a point or an exponent f32, or f64 where that loses digits; {"type": "f64", "value": 1} says the
 * type, of the elements where the value is an array. The caller frees *bytes with hd_bytes_free. */
hd_status hd_gguf_serialize(uint8_t **bytes, size_t *n, const char *json, size_t n_json, const float *values, size_t n_values,
                            const char *metadata, size_t n_metadata, hd_error *err);

/* A Llama-style model as a GGUF file: names, metadata and the order of heads' rows as llama.cpp has them. Matrices become `dtype` (F32,
 * F16, BF16, Q8_0, Q4_0) where their rows are whole blocks, else F16; the embedding and the head have 8 bits at least; vectors are F32.
 * Weights that are of that dtype already keep their bits. `config` is the model's config.json; `metadata` (may be NULL) is more of the
 * file's, for example the tokenizer's, and goes before what the config says. The caller frees *bytes with hd_bytes_free. */
hd_status hd_model_save_gguf(uint8_t **bytes, size_t *n, const hd_model *model, hd_dtype dtype, const char *config, size_t n_config,
                             const char *metadata, size_t n_metadata, hd_error *err);

/* Fails with bad_state while sessions are open, and frees nothing then. */
hd_status hd_model_free(hd_model *model, hd_error *err);

/* A JSON description: family, dialect, inputs, layers, and every weight's name, shape, dtype, layout and bytes, and whether weight files
 * have it as [in, out], its shape the other way around ("inOut"); of loaded ones, the file's dtype ("fileDtype"; of several tensors in one
 * "packing"), whether values were rounded on the way in ("lossy"), and why it is not the dtype that was asked for ("reason"). The caller
 * frees *json with hd_text_free. */
hd_status hd_model_describe(char **json, const hd_model *model, hd_error *err);

/* Copies a weight's values out as float32, in the shape the description gives. `n` is the room at `values`. */
hd_status hd_model_read_weight(const hd_model *model, const char *name, float *values, size_t n, hd_error *err);
/* Sets a weight from float32 values. bad_state while sessions are open. */
hd_status hd_model_write_weight(hd_model *model, const char *name, const float *values, size_t n, hd_error *err);

/* ---- Sessions ----------------------------------------------------------------------------------------------- */

typedef struct hd_session hd_session;

typedef enum hd_mode {
  HD_INFER, /* values share memory as soon as they may */
  HD_TRACE, /* every value keeps its place and can be read by name after a forward */
  HD_TRAIN  /* as HD_TRACE, with gradients; takes the model exclusively */
} hd_mode;

typedef struct hd_session_options {
  hd_mode mode;
  hd_tensor input;     /* dtype and the largest shape of the input (data is not read); n_dims 0: the model's own input.
                          The outermost dimension may be smaller in a call. */
  size_t context;      /* most positions a decode may reach; 0: what the model says, where it does and the mode is HD_INFER; else the
                          input's rows */
  size_t output_rows;  /* rows of logits to compute, counted from the last; 0: all */
} hd_session_options;

/* Plans and allocates everything a forward needs. The model must outlive the session. */
hd_status hd_session_new(hd_session **out, hd_model *model, const hd_session_options *options, hd_error *err);
void hd_session_free(hd_session *session);

/* Where the next input may be written: the planned shape, with room for it. hd_forward reads from there without a copy when its
 * tensor's data points there. */
hd_status hd_session_input(const hd_session *session, hd_tensor *out, hd_error *err);

/* Runs the graph on one input. The shape may differ from the planned one in its outermost dimension, downwards.
 * State (a KV cache) continues from the previous call; hd_session_rewind goes back. Recurrent layers begin at zero in each call. */
hd_status hd_forward(hd_session *session, const hd_tensor *input, hd_error *err);

/* hd_forward on token ids for a language model. */
hd_status hd_decode(hd_session *session, const int32_t *tokens, size_t n, hd_error *err);

/* Makes room in the state for `positions` in all (pages of 256, up to the context). hd_decode past it is bad_state. */
hd_status hd_session_reserve(hd_session *session, size_t positions, hd_error *err);
size_t hd_session_position(const hd_session *session);
/* Forgets everything from `position` on. Layers with a sliding window hold a window
 * and a few hundred positions of a long text, and what they no longer hold cannot be gone back to (unsupported, with
 * the first position that can), but for 0. */
hd_status hd_session_rewind(hd_session *session, size_t position, hd_error *err);
/* The state as bytes, for another session over the same model, here or elsewhere. `n` is
 * hd_session_state_bytes. Machine order: little-endian. */
size_t hd_session_state_bytes(const hd_session *session);
hd_status hd_session_save_state(const hd_session *session, void *to, size_t n, hd_error *err);
/* Makes a saved state the session's; there is no output until the next forward. Nothing is changed when it fails: bad_file when the bytes
 * are no state or another model's, bad_state when the context is too small. */
hd_status hd_session_load_state(hd_session *session, const void *from, size_t n, hd_error *err);

/* The graph's output of the last forward. */
hd_status hd_session_output(const hd_session *session, hd_tensor *out, hd_error *err);
/* Any node's value by name (HD_TRACE and HD_TRAIN). */
hd_status hd_session_value(const hd_session *session, const char *name, hd_tensor *out, hd_error *err);
/* Names of all values in the order they are computed; NULL past the last. */
const char *hd_session_value_name(const hd_session *session, size_t index);

/* ---- Batches ------------------------------------------------------------------------------------------------ */

/* Several sequences of one model in one call: their rows lie one after the other, so that every weight is read once for all of them. A
 * batch has the memory of its calls and no timeline: the sequences are sessions', or begin and end with the call. For networks of the
 * standard dialect that read rows one after the other (token ids above all). Of more than one sequence, a layer that would mix them is
 * refused when the batch is made (unsupported). */
typedef struct hd_batch hd_batch;

typedef struct hd_batch_options {
  hd_tensor input;     /* as in hd_session_options: the largest input, the rows of all sequences together */
  size_t sequences;    /* most sequences of a call, at least 1 */
  size_t context;      /* most positions one of them may reach; 0: what the model says, or the input's rows */
  size_t output_rows;  /* rows of logits to compute for each sequence, counted from its last; 0: all */
  const char *output;  /* the value to compute, by its name in traces, and what it needs; NULL: the model's output */
} hd_batch_options;

/* A sequence's rows in a call. */
typedef struct hd_batch_part {
  hd_session *session; /* whose state they continue, made for inference over the same model; NULL: they begin a sequence that is
                        * forgotten */
  size_t rows;
} hd_batch_part;

/* Plans and allocates. The model must outlive the batch. */
hd_status hd_batch_new(hd_batch **out, hd_model *model, const hd_batch_options *options, hd_error *err);
void hd_batch_free(hd_batch *batch);
/* Where the next input may be written, as hd_session_input. */
hd_status hd_batch_input(const hd_batch *batch, hd_tensor *out, hd_error *err);
/* One call: the input is the parts' rows, in order. Sessions go on as after hd_decode: their positions advance, and where the batch
 * computes the model's output its last row of each becomes that session's output. They need room reserved (hd_session_reserve), and one
 * adapter for all. The first call after a session's room grew may allocate: scratch grows with it. Nothing has advanced when it fails. */
hd_status hd_batch_forward(hd_batch *batch, const hd_tensor *input, const hd_batch_part *parts, size_t n_parts, hd_error *err);
/* The value of all parts, one after the other. How many rows a part has of it depends on the layers: as many as it had in the
 * input, the last output_rows of them, or one. */
hd_status hd_batch_output(const hd_batch *batch, hd_tensor *out, hd_error *err);

/* ---- Training (HD_TRAIN) ------------------------------------------------------------------------------------ */

typedef enum hd_loss_kind {
  HD_MSE,           /* mean over all elements of (o − t)²; targets as the output, F32 */
  HD_CROSS_ENTROPY  /* mean over rows of −ln softmax(o)[t]; targets are I32 class ids, one a row */
} hd_loss_kind;

/* The loss of the last forward's output, and the gradient of it as the start of hd_backward. */
hd_status hd_loss(hd_session *session, hd_loss_kind kind, const hd_tensor *targets, float *loss, hd_error *err);
/* Gradients of every trained weight, added to what is there. */
hd_status hd_backward(hd_session *session, hd_error *err);
/* w −= lr · gradient for every trained weight; gradients become zero. */
hd_status hd_step_sgd(hd_session *session, float lr, hd_error *err);
/* A weight's gradient as a view. */
hd_status hd_session_gradient(const hd_session *session, const char *weight, hd_tensor *out, hd_error *err);

/* ---- Adapters ----------------------------------------------------------------------------------------------- */

typedef struct hd_adapter hd_adapter;

/* Reads a PEFT LoRA adapter: adapter_config.json and the bytes of adapter_model.safetensors (copied). Every pair must
 * fit a linear of the model; embeddings and experts are unsupported. */
hd_status hd_adapter_load(hd_adapter **out, hd_model *model, const char *config, size_t n_config, const void *weights,
                          size_t n_weights, hd_error *err);
/* bad_state while a session uses it. */
hd_status hd_adapter_free(hd_adapter *adapter, hd_error *err);
/* Makes the adapter the session's only one; NULL takes it off. State computed with another adapter should be reset.
 * bad_state when it is merged: its weights have it already. */
hd_status hd_session_use(hd_session *session, hd_adapter *adapter, hd_error *err);
/* W += scale · B · A for good; a weight that has it already is left as it is. Negative `sign`: takes it away again, bad_state
 * where no weight has it. bad_state while sessions are open. Weights that are not F32 are refused unless `dequantize`, which
 * makes them F32: all of them first, so that out of memory some may be F32 already, and no value is changed. */
hd_status hd_adapter_merge(hd_model *model, hd_adapter *adapter, int sign, bool dequantize, hd_error *err);

/* ---- Memory and threads ------------------------------------------------------------------------------------- */

/* Bytes the allocator has given out and not got back, and their maximum so far. */
size_t hd_memory_live(void);
size_t hd_memory_peak(void);
typedef struct hd_memory_report {
  size_t weights, arena, state, other;
} hd_memory_report;
hd_memory_report hd_session_memory(const hd_session *session);

/* What hd_session_new would take, in bytes: the arena, and scratch and steps; the state of no position (of layers whose sliding
 * window the context fills, all of it), and what each position adds to it. The model need not have its weights. */
typedef struct hd_session_size {
  uint64_t arena, other, state, per_position;
} hd_session_size;
hd_status hd_session_estimate(hd_session_size *out, const hd_model *model, const hd_session_options *options, hd_error *err);
/* Most positions of the model; 0: no limit of its own. */
size_t hd_model_max_context(const hd_model *model);

/* Threads that share kernels' rows, the caller included; 1 without a pool. */
size_t hd_pool_threads(void);
/* How many pieces of work thread `index` (0: the caller) has done. */
uint64_t hd_pool_work(size_t index);

#endif
