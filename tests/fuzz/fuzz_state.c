/* Any bytes as a session's saved state. What is taken is used: the session goes on from there. Byte 0 chooses the model and where the session was. */
#include "base/dtype.h"
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* One whose states keep all, and one whose states keep a window of a long text. */
#define DECODER(family, positions) \
  "{\"model_type\":\"" family "\",\"vocab_size\":5,\"hidden_size\":4,\"intermediate_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":2," \
  "\"max_position_embeddings\":" positions ",\"sliding_window\":2,\"tie_word_embeddings\":true}"

static const char llama[] = DECODER("llama", "6"), mistral[] = DECODER("mistral", "600");

/* All of them zero. */
static const struct {
  const char *name;
  size_t rows, cols; /* cols 0: a vector */
} tensors[] = {
  {"model.embed_tokens.weight", 5, 4}, {"model.norm.weight", 4, 0},
#define BLOCK "model.layers.0."
  {BLOCK "input_layernorm.weight", 4, 0}, {BLOCK "post_attention_layernorm.weight", 4, 0},
  {BLOCK "self_attn.q_proj.weight", 4, 4}, {BLOCK "self_attn.k_proj.weight", 4, 4}, {BLOCK "self_attn.v_proj.weight", 4, 4},
  {BLOCK "self_attn.o_proj.weight", 4, 4}, {BLOCK "mlp.gate_proj.weight", 4, 4}, {BLOCK "mlp.up_proj.weight", 4, 4}, {BLOCK "mlp.down_proj.weight", 4, 4},
};
enum { N_TENSORS = sizeof tensors / sizeof tensors[0] };

static hd_model *make_decoder(const char *config) {
  hd_directory *directory = hd_directory_new("SafeTensors", UINT64_C(1) << 20);
  fuzz_file file = {.directory = directory};
  hd_loader *loader;
  hd_model *model;
  uint64_t end = 0;
  for (size_t i = 0; i < N_TENSORS; i++) {
    size_t rows = tensors[i].rows, cols = tensors[i].cols, bytes = rows * (cols ? cols : 1) * sizeof(float);
    hd_entry e = {.name = tensors[i].name, .dtype = HD_F32, .n_dims = cols ? 2 : 1, .shape = {rows, cols}, .begin = end, .end = end + bytes};
    require(hd_directory_append(directory, &e, NULL) == HD_OK);
    end = e.end;
  }
  require(hd_directory_seal(directory, NULL) == HD_OK);
  require(hd_loader_new(&loader, HD_DTYPE_COUNT, NULL) == HD_OK);
  require(hd_loader_describe(loader, config, strlen(config), NULL) == HD_OK);
  require(hd_loader_add(loader, directory, NULL) == HD_OK);
  require(fuzz_send_all(loader, &file, NULL) == HD_OK);
  require(hd_loader_finish(&model, loader, NULL) == HD_OK);
  hd_loader_free(loader);
  hd_directory_free(directory);
  return model;
}

/* Without state: its sessions' are empty. */
static hd_model *make_dense(void) {
  static const char json[] =
    "{\"dialect\":\"standard\",\"input_dtype\":\"I32\",\"input_shape\":[2],\"layers\":[{\"type\":\"embedding\",\"vocab_size\":5,\"embedding_dim\":4}]}";
  hd_model *model;
  require(hd_model_build(&model, json, sizeof json - 1, 1, NULL) == HD_OK);
  return model;
}

/* What is saved again is what was loaded, or its last part where a window has no room for all of it. */
static void check_saved(const hd_session *session, const uint8_t *data, size_t size) {
  uint8_t *again = malloc(size);
  size_t n = hd_session_state_bytes(session);
  require(n <= size);
  require(hd_session_save_state(session, again, n, NULL) == HD_OK);
  require(n < size || memcmp(again, data, size) == 0);
  free(again);
}

static void load(hd_session *session, const uint8_t *data, size_t size) {
  static const int32_t tokens[] = {1, 4};
  hd_error err = {0};
  size_t position = hd_session_position(session);
  uint8_t *exact = malloc(size ? size : 1);
  memcpy(exact, data, size);
  hd_status status = hd_session_load_state(session, exact, size, &err);
  require(status == HD_OK || (err.message[0] != '\0' && hd_session_position(session) == position));
  if (status == HD_OK) check_saved(session, exact, size);
  free(exact);
  for (int i = 0; i < 4; i++) (void)hd_decode(session, tokens, 2, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size == 0) return 0;
  size_t before = hd_memory_live();
  const int32_t first[] = {3, 2};
  hd_session *session;
  hd_model *model = data[0] & 1 ? make_dense() : make_decoder(data[0] & 8 ? mistral : llama);
  const hd_session_options options = {.mode = HD_INFER, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {2}}};
  require(hd_session_new(&session, model, &options, NULL) == HD_OK);
  if (data[0] & 2) require(hd_decode(session, first, 1 + (data[0] >> 2 & 1), NULL) == HD_OK);
  load(session, data + 1, size - 1);
  hd_session_free(session);
  require(hd_model_free(model, NULL) == HD_OK);
  require(hd_memory_live() == before);
  return 0;
}
