/* A weight file of any format into a small model. Byte 0 chooses the model, byte 1 what weights become, byte 2 the size of the chunks that the tensors
 * come in; the rest is the file. A file that begins with '{' gets the length before it that SafeTensors has, and zeros behind it: a fuzzer would hardly get
 * both right. */
#include "loading.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NETWORK(input, layers) "{\"dialect\":\"standard\",\"input_shape\":" input ",\"layers\":[" layers "]}"

static const char *const models[] = {
  NETWORK("[1,2]", "{\"type\":\"dense\",\"name\":\"a\",\"in_features\":2,\"out_features\":3},{\"type\":\"linear\",\"name\":\"b\",\"in_features\":3,\"out_features\":1}"),
  NETWORK("[1,32]", "{\"type\":\"linear\",\"name\":\"a\",\"in_features\":32,\"out_features\":5,\"bias\":false},{\"type\":\"layer_norm\",\"name\":\"n\",\"norm_size\":5}"),
  NETWORK("[1,2,5,5]", "{\"type\":\"conv2d\",\"name\":\"c\",\"in_channels\":2,\"out_channels\":3,\"kernel_size\":3}"),
  NETWORK("[4,3]", "{\"type\":\"lstm\",\"name\":\"r\",\"input_size\":3,\"hidden_size\":2}"),
  "{\"model_type\":\"llama\",\"vocab_size\":5,\"hidden_size\":8,\"intermediate_size\":6,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
  "\"max_position_embeddings\":8}",
  "{\"model_type\":\"mixtral\",\"vocab_size\":5,\"hidden_size\":8,\"intermediate_size\":6,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
  "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"max_position_embeddings\":8}",
  "{\"model_type\":\"gpt2\",\"vocab_size\":5,\"n_embd\":8,\"n_head\":2,\"n_layer\":1,\"n_positions\":8}",
  /* Of a GGUF of Llama's: with the order of rows that those have. */
  "{\"model_type\":\"llama\",\"vocab_size\":5,\"hidden_size\":32,\"intermediate_size\":32,\"num_hidden_layers\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
  "\"max_position_embeddings\":8,\"tie_word_embeddings\":true}",
  "{\"hidden_size\":8,\"num_attention_heads\":2}",
};
enum { N_MODELS = sizeof models / sizeof models[0], ZEROS = 2048 };

static const hd_dtype become[] = {HD_DTYPE_COUNT, HD_F32, HD_F16, HD_BF16, HD_Q8_0, HD_Q4_0, HD_INT8};
enum { N_BECOME = sizeof become / sizeof become[0] };

/* Where the last tensor ends, by the header: the largest number before a ']'. */
static size_t most_offset(const uint8_t *json, size_t n) {
  size_t most = 0, number = 0;
  for (size_t i = 0; i < n; i++) {
    if (json[i] == ']' && number > most && number <= ZEROS) most = number;
    number = json[i] >= '0' && json[i] <= '9' && number <= ZEROS ? 10 * number + json[i] - '0' : 0;
  }
  return most;
}

static hd_directory *read_file(uint8_t *room, const uint8_t *data, size_t size, size_t *n_file) {
  hd_directory *directory;
  bool json = size && *data == '{';
  memset(room, 0, size + 8 + ZEROS);
  if (json) room[0] = (uint8_t)size, room[1] = (uint8_t)(size >> 8), room[2] = (uint8_t)(size >> 16);
  memcpy(room + (json ? 8 : 0), data, size);
  *n_file = json ? 8 + size + most_offset(data, size) : size;
  return hd_directory_read(&directory, room, *n_file, *n_file, NULL) == HD_OK ? directory : NULL;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 3) return 0;
  size_t before = hd_memory_live(), n_file;
  uint8_t *room = malloc(size + 8 + ZEROS);
  hd_directory *directory = read_file(room, data + 3, size - 3, &n_file);
  if (directory) {
    uint8_t *exact = malloc(n_file ? n_file : 1);
    memcpy(exact, room, n_file);
    const char *model = models[data[0] % N_MODELS];
    fuzz_load(model, strlen(model), become[data[1] % N_BECOME], &(fuzz_file){.bytes = exact, .n_bytes = n_file, .chunk = 1u + data[2], .directory = directory});
    free(exact);
  }
  hd_directory_free(directory);
  free(room);
  require(hd_memory_live() == before);
  return 0;
}
