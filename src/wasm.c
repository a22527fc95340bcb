/* wasm.c: what a WebAssembly module exports: adaptors of one to ten lines over heddle.h, and nothing below it.
 *
 * The boundary's rules:
 *   - Arguments are 32-bit numbers (pointers, counts, handles) and doubles for what may pass 4 GB.
 *   - A call that can fail returns its hd_status; the message is at w_error().
 *   - Results other than that lie in the transfer area, an array of doubles at w_transfer(): handles, pointers, sizes. Each
 *     adaptor says what it leaves there. JavaScript reads them at once; the next call overwrites them.
 *   - Strings come in as pointer and length (from w_alloc'd memory) and go out as pointers to NUL-terminated UTF-8.
 *   - C calls nothing in JavaScript. exports.txt lists every name here; a test compares them. */
#include "heddle.h"

#include "base/memory.h"
#include "base/pool.h"

#include <string.h>

enum { TRANSFER_SIZE = 24 };
static double transfer[TRANSFER_SIZE];
static hd_error error;

double *w_transfer(void) { return transfer; }
const char *w_error(void) { return error.message; }

void *w_alloc(size_t bytes) { return hd_alloc(bytes); }
void w_free(void *pointer) { hd_free(pointer); }

static void put(int index, const void *pointer) { transfer[index] = (double)(uintptr_t)pointer; }

/* [data, dtype, n_dims, shape…] */
static void put_tensor(const hd_tensor *t) {
  put(0, t->data);
  transfer[1] = t->dtype;
  transfer[2] = t->n_dims;
  for (int i = 0; i < t->n_dims; i++) transfer[3 + i] = (double)t->shape[i];
}

/* [name, dtype, n_dims, begin, end, wanted, shape (8), whether strided, strides (8)] */
static void put_entry(const hd_entry *e, bool wanted) {
  put(0, e->name);
  transfer[1] = e->dtype;
  transfer[2] = e->n_dims;
  transfer[3] = (double)e->begin;
  transfer[4] = (double)e->end;
  transfer[5] = wanted;
  for (int i = 0; i < e->n_dims; i++) transfer[6 + i] = (double)e->shape[i];
  transfer[6 + HD_MAX_DIMS] = e->strided;
  for (int i = 0; i < e->n_dims && e->strided; i++) transfer[7 + HD_MAX_DIMS + i] = (double)e->strides[i];
}

/* ---- Names: C owns the tables, JavaScript asks for them at start ---- */

const char *w_dtype_name(int dtype) { return dtype >= 0 && dtype < HD_DTYPE_COUNT ? hd_dtype_name((hd_dtype)dtype) : NULL; }
const char *w_status_name(int status) { return status >= 0 && status <= HD_BAD_STATE ? hd_status_name((hd_status)status) : NULL; }

/* ---- Values ---- */

int w_widen(int dtype, const void *bytes, size_t n_bytes, float *values, size_t n) {
  return (int)hd_widen((hd_dtype)dtype, bytes, n_bytes, values, n, &error);
}

int w_narrow(int dtype, const float *values, size_t n, void *bytes, size_t n_bytes) {
  return (int)hd_narrow((hd_dtype)dtype, values, n, bytes, n_bytes, &error);
}

int w_dtype_holds(int to, int from) {
  bool known = to >= 0 && to < HD_DTYPE_COUNT && from >= 0 && from < HD_DTYPE_COUNT;
  return known && hd_dtype_holds((hd_dtype)to, (hd_dtype)from);
}

/* ---- Directories ---- */

/* transfer: [reader] */
int w_reader_new(double file_bytes) {
  hd_reader *reader = NULL;
  hd_status status = hd_reader_new(&reader, (uint64_t)file_bytes, &error);
  put(0, reader);
  return (int)status;
}

/* transfer: [begin, end]; 0 when the directory is complete */
int w_reader_wants(const hd_reader *reader) {
  uint64_t begin, end;
  bool wants = hd_reader_wants(reader, &begin, &end);
  transfer[0] = (double)begin;
  transfer[1] = (double)end;
  return wants;
}

int w_reader_give(hd_reader *reader, const void *bytes, size_t n) { return (int)hd_reader_give(reader, bytes, n, &error); }

/* transfer: [directory] */
int w_reader_finish(hd_reader *reader) {
  hd_directory *directory = NULL;
  hd_status status = hd_reader_finish(&directory, reader, &error);
  put(0, directory);
  return (int)status;
}

void w_reader_free(hd_reader *reader) { hd_reader_free(reader); }

void w_directory_free(hd_directory *directory) { hd_directory_free(directory); }
size_t w_directory_count(const hd_directory *directory) { return hd_directory_count(directory); }
void w_directory_entry(const hd_directory *directory, size_t index) { put_entry(hd_directory_entry(directory, index), true); }

/* transfer: [key, value, whether it is JSON]; 0 past the last */
int w_directory_metadata(const hd_directory *directory, size_t index) {
  const char *key = NULL, *value = NULL;
  bool there = hd_directory_metadata(directory, index, &key, &value);
  put(0, key);
  put(1, value);
  transfer[2] = hd_directory_metadata_is_json(directory, index);
  return there;
}

const char *w_directory_format(const hd_directory *directory) { return hd_directory_format(directory); }

/* transfer: as put_entry; 0: there is none of that number */
int w_directory_config_tensor(const hd_directory *directory, size_t index) {
  const hd_entry *entry = hd_directory_config_tensor(directory, index);
  if (entry) put_entry(entry, true);
  return entry != NULL;
}

/* transfer: [text], NULL where the file says nothing; give the text back with w_text_free */
int w_directory_config(const hd_directory *directory, const void *tensor, size_t n) {
  char *json = NULL;
  hd_status status = hd_directory_config(&json, directory, tensor, n, &error);
  put(0, json);
  return (int)status;
}

/* config NULL: none. transfer: [text]; give the text back with w_text_free */
int w_directory_detect(const hd_directory *directory, const char *config, size_t n_config) {
  char *json = NULL;
  hd_status status = hd_directory_detect(&json, directory, config, n_config, &error);
  put(0, json);
  return (int)status;
}

/* ---- Loading ---- */

/* dtype −1: keep the file's. transfer: [loader] */
int w_loader_new(int dtype) {
  hd_loader *loader = NULL;
  hd_status status = hd_loader_new(&loader, dtype < 0 ? HD_DTYPE_COUNT : (hd_dtype)dtype, &error);
  put(0, loader);
  return (int)status;
}

void w_loader_free(hd_loader *loader) { hd_loader_free(loader); }
int w_loader_describe(hd_loader *loader, const char *json, size_t n) { return (int)hd_loader_describe(loader, json, n, &error); }
/* transfer: [bytes] */
int w_loader_estimate(hd_loader *loader, const hd_directory *directory) {
  uint64_t bytes = 0;
  hd_status status = hd_loader_estimate(&bytes, loader, directory, &error);
  transfer[0] = (double)bytes;
  return (int)status;
}

/* What generating text takes: so many rows at once, one row of output. transfer: [arena, other, state, per position, most
 * positions]; all 0 where the model has no positions */
int w_loader_session(const hd_loader *loader, size_t rows, size_t context) {
  const hd_model *model = hd_loader_model(loader);
  const size_t most = model ? hd_model_max_context(model) : 0;
  hd_session_options options = {.mode = HD_INFER, .context = context, .output_rows = 1,
                                .input = {.dtype = HD_I32, .n_dims = 1, .shape = {rows}}};
  hd_session_size size = {0};
  hd_status status = most ? hd_session_estimate(&size, model, &options, &error) : HD_OK;
  transfer[0] = (double)size.arena;
  transfer[1] = (double)size.other;
  transfer[2] = (double)size.state;
  transfer[3] = (double)size.per_position;
  transfer[4] = (double)most;
  return (int)status;
}

int w_loader_add(hd_loader *loader, const hd_directory *directory) { return (int)hd_loader_add(loader, directory, &error); }
size_t w_loader_count(const hd_loader *loader) { return hd_loader_count(loader); }

void w_loader_tensor(const hd_loader *loader, size_t index) {
  bool wanted = false;
  const hd_entry *entry = hd_loader_tensor(loader, index, &wanted);
  if (entry) put_entry(entry, wanted); /* JavaScript asks within w_loader_count */
}

int w_loader_settle(hd_loader *loader) { return (int)hd_loader_settle(loader, &error); }

/* transfer: the tensors before it; their number */
int w_loader_before(const hd_loader *loader, size_t index) {
  size_t before[HD_MAX_BEFORE], n = hd_loader_before(loader, index, before);
  for (size_t i = 0; i < n; i++) transfer[i] = (double)before[i];
  return (int)n;
}

int w_tensor_begin(hd_loader *loader, size_t index) { return (int)hd_tensor_begin(loader, index, &error); }
int w_tensor_write(hd_loader *loader, const void *bytes, size_t n) { return (int)hd_tensor_write(loader, bytes, n, &error); }
int w_tensor_end(hd_loader *loader) { return (int)hd_tensor_end(loader, &error); }

/* transfer: [model] */
int w_loader_finish(hd_loader *loader) {
  hd_model *model = NULL;
  hd_status status = hd_loader_finish(&model, loader, &error);
  put(0, model);
  return (int)status;
}

/* ---- Models ---- */

/* transfer: [model] */
int w_model_load_bundle(const char *text, size_t n, const char *id) {
  hd_model *model = NULL;
  hd_status status = hd_model_load_bundle(&model, text, n, id, &error);
  put(0, model);
  return (int)status;
}

/* transfer: [model] */
int w_model_build(const char *json, size_t n, double seed) {
  hd_model *model = NULL;
  hd_status status = hd_model_build(&model, json, n, (uint64_t)seed, &error);
  put(0, model);
  return (int)status;
}

int w_model_free(hd_model *model) { return (int)hd_model_free(model, &error); }

/* dtype NULL: form 1. transfer: [text, bytes]; give the text back with w_text_free */
int w_model_save_bundle(const hd_model *model, const char *id, const char *dtype) {
  char *text = NULL;
  size_t n = 0;
  hd_status status = hd_model_save_bundle(&text, &n, model, id, dtype, &error);
  put(0, text);
  transfer[1] = (double)n;
  return (int)status;
}

/* likewise; scale 0: fitted */
int w_model_save_quantized(const hd_model *model, const char *id, const char *dtype, int zero_point, int per_tensor,
                           double scale, int given_zero_point) {
  const hd_quantization how = {dtype, zero_point != 0, per_tensor != 0, (float)scale, given_zero_point};
  char *text = NULL;
  size_t n = 0;
  hd_status status = hd_model_save_quantized(&text, &n, model, id, &how, &error);
  put(0, text);
  transfer[1] = (double)n;
  return (int)status;
}

/* transfer: [bytes, n]; give the bytes back with w_free */
static int put_bytes(hd_status status, uint8_t *bytes, size_t n) {
  put(0, bytes);
  transfer[1] = (double)n;
  return (int)status;
}

int w_model_save_weights(const hd_model *model, int dtype) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_model_save_weights(&bytes, &n, model, (hd_dtype)dtype, &error);
  return put_bytes(status, bytes, n);
}

/* `checkpoint` may be NULL. */
int w_model_save_torch(const hd_model *model, int dtype, const char *checkpoint, size_t n_checkpoint) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_model_save_torch(&bytes, &n, model, (hd_dtype)dtype, checkpoint, n_checkpoint, &error);
  return put_bytes(status, bytes, n);
}

/* transfer: [weights set] */
int w_model_load_state(hd_model *model, const void *file, size_t n, const char *prefix, int strict) {
  size_t n_set = 0;
  hd_status status = hd_model_load_state(model, file, n, prefix, strict != 0, &n_set, &error);
  transfer[0] = (double)n_set;
  return (int)status;
}

int w_gguf_serialize(const char *json, size_t n_json, const float *values, size_t n_values, const char *metadata, size_t n_metadata) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_gguf_serialize(&bytes, &n, json, n_json, values, n_values, metadata, n_metadata, &error);
  return put_bytes(status, bytes, n);
}

/* transfer: as w_model_save_weights */
int w_model_save_gguf(const hd_model *model, int dtype, const char *config, size_t n_config, const char *metadata, size_t n_metadata) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_model_save_gguf(&bytes, &n, model, (hd_dtype)dtype, config, n_config, metadata, n_metadata, &error);
  return put_bytes(status, bytes, n);
}

/* transfer: [outline]. `metadata` ends with a NUL. */
int w_outline_new(const char *format, const char *json, size_t n_json, const char *metadata, size_t n_metadata) {
  hd_outline *outline = NULL;
  hd_status status = hd_outline_new(&outline, format, json, n_json, metadata, n_metadata, &error);
  put(0, outline);
  return (int)status;
}

void w_outline_free(hd_outline *outline) { hd_outline_free(outline); }

/* The number of the file's i-th tensor; transfer: [bytes] */
int w_outline_tensor(const hd_outline *outline, size_t i) {
  size_t n_bytes = 0, number = hd_outline_tensor(outline, i, &n_bytes);
  transfer[0] = (double)n_bytes;
  return (int)number;
}

/* transfer: [bytes, their number]; the outline's until its next piece */
int w_outline_piece(hd_outline *outline, size_t i, unsigned checksum) {
  const void *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_outline_piece(outline, i, checksum, &bytes, &n, &error);
  put(0, bytes);
  transfer[1] = (double)n;
  return (int)status;
}

int w_safetensors_serialize(const char *json, size_t n_json, const float *values, size_t n_values) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_safetensors_serialize(&bytes, &n, json, n_json, values, n_values, &error);
  return put_bytes(status, bytes, n);
}

/* transfer: [bytes, n] */
int w_mlx_to_safetensors(const char *text, size_t n_text) {
  uint8_t *bytes = NULL;
  size_t n = 0;
  hd_status status = hd_mlx_to_safetensors(&bytes, &n, text, n_text, &error);
  return put_bytes(status, bytes, n);
}

/* config NULL: none of its own. transfer: [text, n]; give it back with w_free */
int w_mlx_from_safetensors(const void *file, size_t n_file, const char *config, size_t n_config, int pretty) {
  char *text = NULL;
  size_t n = 0;
  hd_status status = hd_mlx_from_safetensors(&text, &n, file, n_file, config, n_config, pretty != 0, &error);
  return put_bytes(status, (uint8_t *)text, n);
}

/* transfer: [text]; give the text back with w_text_free */
int w_mlx_list(const char *text, size_t n_text) {
  char *json = NULL;
  hd_status status = hd_mlx_list(&json, text, n_text, &error);
  put(0, json);
  return (int)status;
}

/* transfer: [text]; give the text back with w_text_free */
int w_model_describe(const hd_model *model) {
  char *json = NULL;
  hd_status status = hd_model_describe(&json, model, &error);
  put(0, json);
  return (int)status;
}

void w_text_free(char *text) { hd_text_free(text); }

int w_model_read_weight(const hd_model *model, const char *name, float *values, size_t n) {
  return (int)hd_model_read_weight(model, name, values, n, &error);
}

int w_model_write_weight(hd_model *model, const char *name, const float *values, size_t n) {
  return (int)hd_model_write_weight(model, name, values, n, &error);
}

/* ---- Sessions ---- */

static hd_tensor wanted_input(int dtype, int n_dims, const uint32_t *dims) {
  hd_tensor t = {.dtype = (hd_dtype)dtype, .n_dims = n_dims > HD_MAX_DIMS ? HD_MAX_DIMS : n_dims};
  for (int i = 0; i < t.n_dims; i++) t.shape[i] = dims[i];
  return t;
}

/* n_dims 0: the model's own input. transfer: [session] */
int w_session_new(hd_model *model, int mode, int dtype, int n_dims, const uint32_t *dims, size_t context, size_t output_rows) {
  hd_session_options options = {.mode = (hd_mode)mode, .input = wanted_input(dtype, n_dims, dims),
                                .context = context, .output_rows = output_rows};
  hd_session *session = NULL;
  hd_status status = hd_session_new(&session, model, &options, &error);
  put(0, session);
  return (int)status;
}

void w_session_free(hd_session *session) { hd_session_free(session); }

/* transfer: tensor */
int w_session_input(const hd_session *session) {
  hd_tensor t = {0};
  hd_status status = hd_session_input(session, &t, &error);
  put_tensor(&t);
  return (int)status;
}

/* The input lies in the session's input buffer, `rows` of its outermost dimension. */
int w_forward(hd_session *session, size_t rows) {
  hd_tensor t = {0};
  hd_status status = hd_session_input(session, &t, &error);
  if (status != HD_OK) return (int)status;
  if (t.n_dims > 0) t.shape[0] = rows;
  return (int)hd_forward(session, &t, &error);
}

int w_session_reserve(hd_session *session, size_t positions) { return (int)hd_session_reserve(session, positions, &error); }
size_t w_session_position(const hd_session *session) { return hd_session_position(session); }
int w_session_rewind(hd_session *session, size_t position) { return (int)hd_session_rewind(session, position, &error); }
size_t w_session_state_bytes(const hd_session *session) { return hd_session_state_bytes(session); }
int w_session_save_state(const hd_session *session, void *to, size_t n) { return (int)hd_session_save_state(session, to, n, &error); }
int w_session_load_state(hd_session *session, const void *from, size_t n) { return (int)hd_session_load_state(session, from, n, &error); }

/* transfer: tensor */
int w_session_output(const hd_session *session) {
  hd_tensor t = {0};
  hd_status status = hd_session_output(session, &t, &error);
  put_tensor(&t);
  return (int)status;
}

/* transfer: tensor */
int w_session_value(const hd_session *session, const char *name) {
  hd_tensor t = {0};
  hd_status status = hd_session_value(session, name, &t, &error);
  put_tensor(&t);
  return (int)status;
}

const char *w_session_value_name(const hd_session *session, size_t index) { return hd_session_value_name(session, index); }

/* transfer: [weights, arena, state, other] bytes */
void w_session_memory(const hd_session *session) {
  hd_memory_report report = hd_session_memory(session);
  transfer[0] = (double)report.weights;
  transfer[1] = (double)report.arena;
  transfer[2] = (double)report.state;
  transfer[3] = (double)report.other;
}

/* ---- Batches ---- */

/* n_dims 0: the model's own input; output may be NULL. transfer: [batch] */
int w_batch_new(hd_model *model, int dtype, int n_dims, const uint32_t *dims, size_t sequences, size_t context,
                size_t output_rows, const char *output) {
  hd_batch_options options = {.input = wanted_input(dtype, n_dims, dims), .sequences = sequences, .context = context,
                              .output_rows = output_rows, .output = output};
  hd_batch *batch = NULL;
  hd_status status = hd_batch_new(&batch, model, &options, &error);
  put(0, batch);
  return (int)status;
}

void w_batch_free(hd_batch *batch) { hd_batch_free(batch); }

/* transfer: tensor */
int w_batch_input(const hd_batch *batch) {
  hd_tensor t = {0};
  hd_status status = hd_batch_input(batch, &t, &error);
  put_tensor(&t);
  return (int)status;
}

/* The input lies in the batch's input buffer, `rows` of its outermost dimension. parts: session (or 0) and
 * rows of each, one after the other. */
int w_batch_forward(hd_batch *batch, size_t rows, const hd_batch_part *parts, size_t n_parts) {
  hd_tensor t = {0};
  hd_status status = hd_batch_input(batch, &t, &error);
  if (status != HD_OK) return (int)status;
  if (t.n_dims > 0) t.shape[0] = rows;
  return (int)hd_batch_forward(batch, &t, parts, n_parts, &error);
}

/* transfer: tensor */
int w_batch_output(const hd_batch *batch) {
  hd_tensor t = {0};
  hd_status status = hd_batch_output(batch, &t, &error);
  put_tensor(&t);
  return (int)status;
}

/* ---- Training ---- */

/* targets: float32 values as the output's shape (kind 0, mse) or int32 ids, one a row (kind 1, cross entropy). transfer: [loss] */
int w_loss(hd_session *session, int kind, void *targets, size_t n) {
  hd_tensor t = {.dtype = kind == HD_CROSS_ENTROPY ? HD_I32 : HD_F32, .n_dims = 1, .shape = {n}, .data = targets};
  float loss = 0;
  hd_status status = hd_loss(session, (hd_loss_kind)kind, &t, &loss, &error);
  transfer[0] = loss;
  return (int)status;
}

int w_backward(hd_session *session) { return (int)hd_backward(session, &error); }
int w_step_sgd(hd_session *session, double lr) { return (int)hd_step_sgd(session, (float)lr, &error); }

/* transfer: tensor */
int w_session_gradient(const hd_session *session, const char *weight) {
  hd_tensor t = {0};
  hd_status status = hd_session_gradient(session, weight, &t, &error);
  put_tensor(&t);
  return (int)status;
}

/* ---- Adapters ---- */

/* transfer: [adapter] */
int w_adapter_load(hd_model *model, const char *config, size_t n_config, const void *weights, size_t n_weights) {
  hd_adapter *adapter = NULL;
  hd_status status = hd_adapter_load(&adapter, model, config, n_config, weights, n_weights, &error);
  put(0, adapter);
  return (int)status;
}

int w_adapter_free(hd_adapter *adapter) { return (int)hd_adapter_free(adapter, &error); }
int w_session_use(hd_session *session, hd_adapter *adapter) { return (int)hd_session_use(session, adapter, &error); }

int w_adapter_merge(hd_model *model, hd_adapter *adapter, int sign, int dequantize) {
  return (int)hd_adapter_merge(model, adapter, sign, dequantize != 0, &error);
}

/* ---- Memory and threads ---- */

double w_memory_live(void) { return (double)hd_memory_live(); }
double w_memory_peak(void) { return (double)hd_memory_peak(); }

int w_pool_start(size_t n_threads) { return (int)hd_pool_start(n_threads, &error); }
void w_pool_enter(size_t thread) { hd_pool_enter(thread); }
void w_pool_abandon(void) { hd_pool_abandon(); }
void w_pool_stop(void) { hd_pool_stop(); }
size_t w_pool_threads(void) { return hd_pool_threads(); }
double w_pool_work(size_t thread) { return (double)hd_pool_work(thread); }
