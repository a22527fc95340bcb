/* What a megabyte of hostile input may cost the readers of weights.mlx and zip archives, detection, and whoever builds networks. The readers of
 * JSON, SafeTensors, GGUF and pickles have theirs beside their other tests. */
#include "hostile.h"

#include "base/base64.h"
#include "format/bundle.h"
#include "format/format.h"

/* ---- weights.mlx ---- */

static void check_mlx(const char *first, const char *piece, const char *last) {
  size_t n, n_file;
  char *text = repeat_to_a_megabyte(first, piece, last, &n), *list;
  uint8_t *file;
  hd_error err = {0};
  cost c = begin_cost();
  hd_status status = hd_mlx_list(&list, text, n, &err);
  hd_text_free(list);
  end_cost(c, piece, n, status, &err);
  c = begin_cost();
  status = hd_mlx_to_safetensors(&file, &n_file, text, n, &err);
  hd_bytes_free(file);
  end_cost(c, piece, n, status, &err);
  free(text);
}

TEST(a_hostile_megabyte_of_weights_mlx_costs_less_than_a_second_and_16_times_its_size) {
  check_mlx("{\"version\":\"1\",\"weights\":{\"a\":{\"shape\":[1],\"dtype\":\"float32\",\"data\":[", "0,", "]}}}");
  check_mlx("{\"version\":\"1\",\"weights\":{\"a\":{\"shape\":[1],\"dtype\":\"float32\",\"data\":[", "[],", "]}}}");
  check_mlx("{\"version\":\"1\",\"weights\":{\"a\":{\"shape\":[", "1,", "]}}}");
  check_mlx("{\"version\":\"1\",\"weights\":{\"a\":{", "\"dtype\":\"%x\",", ",\"shape\":[]}}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"%x\":{\"shape\":[0],\"dtype\":\"float32\",\"data\":[]},", "}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"%x\":{\"shape\":[],\"dtype\":0},", "}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"\":{\"shape\":[0],\"data\":[]},", "}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"%x\":{\"shape\":[]},", "}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"%x\":{},", "}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"%x\":0,", "}}");
  check_mlx("{\"version\":\"1\",\"weights\":{", "\"\":0,", "}}");
  check_mlx("{\"version\":\"1\",", "\"%x\":0,", "}");
  check_mlx("{\"version\":\"1\",", "\"weights\":{},", "}");
  check_mlx("{\"version\":\"1\",\"weights\":{},\"config\":{", "\"\":0,", "}}");
}

/* ---- Zip archives ---- */

static void put(uint8_t *at, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++) at[i] = (uint8_t)(value >> 8 * i);
}

/* A zip file being made: local headers, then the list, then the end. */
typedef struct zip_file {
  uint8_t *bytes, *list;
  size_t n, n_list, n_members;
} zip_file;

/* A local header and its record; `n` bytes of data. */
static void add_member(zip_file *z, const char *name, const void *data, size_t n) {
  size_t n_name = strlen(name);
  uint8_t *local = z->bytes + z->n, *record = z->list + z->n_list;
  memset(local, 0, 30);
  memset(record, 0, 46);
  put(local, 0x04034b50, 4);
  put(local + 26, n_name, 2);
  memcpy(local + 30, name, n_name);
  memcpy(local + 30 + n_name, data, n);
  put(record, 0x02014b50, 4);
  put(record + 20, n, 4);
  put(record + 24, n, 4);
  put(record + 28, n_name, 2);
  put(record + 42, z->n, 4);
  memcpy(record + 46, name, n_name);
  z->n += 30 + n_name + n;
  z->n_list += 46 + n_name;
  z->n_members++;
}

static void end_zip(zip_file *z) {
  uint8_t *end = z->bytes + z->n + z->n_list;
  memcpy(z->bytes + z->n, z->list, z->n_list);
  memset(end, 0, 22);
  put(end, 0x06054b50, 4);
  put(end + 8, z->n_members, 2);
  put(end + 10, z->n_members, 2);
  put(end + 12, z->n_list, 4);
  put(end + 16, z->n, 4);
  z->n += z->n_list + 22;
}

static void check_torch(const char *what, const uint8_t *bytes, size_t n) {
  hd_directory *directory;
  hd_error err = {0};
  cost c = begin_cost();
  hd_status status = hd_directory_read(&directory, bytes, n, n, &err);
  hd_directory_free(directory);
  end_cost(c, what, n, status, &err);
}

static zip_file new_zip(void) { return (zip_file){.bytes = malloc(2 * MEGABYTE), .list = malloc(2 * MEGABYTE)}; }

static void free_zip(zip_file *z) {
  free(z->bytes);
  free(z->list);
}

/* As many members as a megabyte holds, all of them at the file's first header: only the list is long. */
static void check_list(const char *name) {
  zip_file z = new_zip();
  char room[64];
  add_member(&z, "a/data.pkl", ".", 1);
  for (unsigned i = 0; z.n_list + 200 < MEGABYTE && z.n_members < 65535; i++) {
    size_t n = z.n;
    snprintf(room, sizeof room, name, i);
    z.n = 0;
    add_member(&z, room, "", 0);
    z.n = n;
  }
  end_zip(&z);
  check_torch(name, z.bytes, z.n);
  free_zip(&z);
}

TEST(a_hostile_megabyte_of_zip_costs_less_than_a_second_and_16_times_its_size) {
  check_list("%x");
  check_list("");
  check_list("a/data/%u");
  check_list("a/%032x/data.pkl");
  /* End records only: each of them claims the rest for its comment, but for one byte. */
  uint8_t *bytes = calloc(1, MEGABYTE);
  memcpy(bytes, "PK\3\4", 4);
  for (size_t at = 4; at + 22 <= MEGABYTE; at += 4) put(bytes + at, 0x06054b50, 4);
  check_torch("end records", bytes, MEGABYTE);
  free(bytes);
}

/* Tensors over tensors, each with a storage of its own, which is a member of its own. */
TEST(a_hostile_megabyte_of_storages_costs_less_than_a_second_and_16_times_its_size) {
  zip_file z = new_zip();
  char name[32], *pickle = malloc(MEGABYTE);
  size_t n = 0;
  enum { N_STORAGES = 4000 };
  static const char tail[] = "K\0K\1\x85K\1\x85\x89" "ccollections\nOrderedDict\n)RtR";
  n += (size_t)sprintf(pickle, "%s", "\x80\x02}(");
  for (unsigned i = 0; i < N_STORAGES; i++) {
    n += (size_t)sprintf(pickle + n, "U\x04%04xctorch._utils\n_rebuild_tensor_v2\n((U\x07storagectorch\nFloatStorage\nU\x04%04uU\x03" "cpuK\x01tQ", i, i);
    memcpy(pickle + n, tail, sizeof tail - 1);
    n += sizeof tail - 1;
  }
  memcpy(pickle + n, "u.", 2);
  add_member(&z, "a/data.pkl", pickle, n + 2);
  for (unsigned i = 0; i < N_STORAGES; i++) {
    snprintf(name, sizeof name, "a/data/%04u", i);
    add_member(&z, name, "\0\0\0\0", 4);
  }
  end_zip(&z);
  hd_directory *directory;
  hd_error err = {0};
  CHECK(hd_directory_read(&directory, z.bytes, z.n, z.n, &err) == HD_OK);
  if (!CHECK(directory && hd_directory_count(directory) == N_STORAGES)) printf("# %s\n", err.message);
  hd_directory_free(directory);
  check_torch("storages", z.bytes, z.n);
  free(pickle);
  free_zip(&z);
}

/* ---- Many tensors, many layers ---- */

/* A directory of so many F32 tensors as a header of a megabyte has room for. */
static hd_directory *directory_of(const char *piece, size_t *n_header) {
  static const char begin[] = "{\"__metadata__\":{}";
  size_t n;
  char *header = repeat_to_a_megabyte(begin, piece, "}", &n);
  uint8_t *file = malloc(n + 8);
  hd_directory *directory;
  hd_error err = {0};
  put(file, n, 8);
  memcpy(file + 8, header, n);
  if (!CHECK(hd_directory_read(&directory, file, n + 8, n + 8, &err) == HD_OK)) printf("# %s\n", err.message);
  free(file);
  free(header);
  *n_header = n;
  return directory;
}

#define EMPTY(shape) ":{\"dtype\":\"F32\",\"shape\":" shape ",\"data_offsets\":[0,0]}"

static void check_detect(const char *piece) {
  size_t n;
  char *json;
  hd_error err = {0};
  cost c = begin_cost();
  hd_directory *directory = directory_of(piece, &n);
  hd_status status = hd_directory_detect(&json, directory, NULL, 0, &err);
  if (json && getenv("HD_COSTS")) printf("# %.300s\n", strstr(json, "\"refusal\""));
  hd_text_free(json);
  hd_directory_free(directory);
  end_cost(c, piece, n, status, &err);
}

TEST(detecting_a_hostile_megabyte_of_tensors_costs_less_than_a_second_and_16_times_its_size) {
  check_detect(",\"%x\"" EMPTY("[0]"));
  check_detect(",\"%x.weight\"" EMPTY("[0,1]"));
  check_detect(",\"%x.weight\"" EMPTY("[0]"));
  check_detect(",\"a.%u.norm.weight\"" EMPTY("[0]"));
  check_detect(",\"a.%u.up_proj.weight\"" EMPTY("[1,0]") ",\"a.%u.down_proj.weight\"" EMPTY("[0,1]") ",\"a.%u.norm.weight\"" EMPTY("[0]"));
  check_detect(",\"a.0.%u.b.up_proj.weight\"" EMPTY("[1,0]") ",\"a.0.%u.b.down_proj.weight\"" EMPTY("[0,1]"));
  check_detect(",\"a.%u.q_proj.weight\"" EMPTY("[0,1]") ",\"a.%u.k_proj.weight\"" EMPTY("[0,1]") ",\"a.%u.v_proj.weight\"" EMPTY("[0,1]") ",\"a.%u.o_proj.weight\"" EMPTY("[1,0]"));
  check_detect(",\"weight_ih_l%u\"" EMPTY("[0,1]"));
  check_detect(",\"model.layers.%u.self_attn.q_proj.weight\"" EMPTY("[0,1]"));
}

/* A description, and a file of so many tensors. */
static void check_loader(const char *json, size_t n, const char *tensor) {
  size_t n_header = 0;
  hd_loader *loader;
  hd_error err = {0};
  uint64_t bytes;
  cost c = begin_cost();
  CHECK(hd_loader_new(&loader, HD_DTYPE_COUNT, NULL) == HD_OK);
  hd_directory *directory = tensor ? directory_of(tensor, &n_header) : NULL;
  hd_status status = hd_loader_describe(loader, json, n, &err);
  if (status == HD_OK && directory) status = hd_loader_estimate(&bytes, loader, directory, &err);
  if (status == HD_OK && directory) status = hd_loader_add(loader, directory, &err);
  if (status == HD_OK) status = hd_loader_settle(loader, &err);
  hd_directory_free(directory);
  hd_loader_free(loader);
  end_cost(c, tensor ? tensor : json, n + n_header, status, &err);
}

static void check_network(unsigned n_layers, const char *piece, const char *tensor) {
  size_t n;
  char *json = repeat_times(n_layers, "{\"dialect\":\"standard\",\"input_shape\":[1,1],\"layers\":[", piece, "]}", &n);
  check_loader(json, n, tensor);
  free(json);
}

#define LINEAR "{\"type\":\"linear\",\"in_features\":1,\"out_features\":1,\"bias\":false},"

/* As many as there may be of what each has most of, and more. */
TEST(a_hostile_megabyte_of_layers_costs_less_than_a_second_and_16_times_its_size) {
  static const char attention[] = "{\"type\":\"multi_head_attention\",\"d_model\":2,\"num_heads\":1,\"rope_freq_base\":%u},";
  static const char gru[] = "{\"type\":\"gru\",\"input_size\":1,\"hidden_size\":1},";
  check_network(8192, "{\"type\":\"dense\",\"in_features\":1,\"out_features\":1},", NULL);
  check_network(16000, "{\"type\":\"dense\",\"in_features\":1,\"out_features\":1},", NULL);
  check_network(16384, "{\"type\":\"softmax\"},", NULL);
  check_network(32000, "{\"type\":\"softmax\"},", NULL);
  check_network(3276, "{\"type\":\"residual\",\"branches\":[{\"type\":\"softmax\"},{\"type\":\"softmax\"},{\"type\":\"softmax\"}]},", NULL);
  check_network(4096, gru, NULL);
  check_network(16000, gru, NULL);
  check_network(2048, attention, NULL);
  check_network(10000, attention, NULL);
  check_network(13000, LINEAR, ",\"layers.%u.weight\"" EMPTY("[0,1]"));
  check_network(13000, LINEAR, ",\"layers.%u.scales\"" EMPTY("[0,1]"));
  check_network(13000, LINEAR, ",\"a.%u\"" EMPTY("[0,1]"));
}

TEST(a_hostile_config_costs_less_than_a_second_and_16_times_its_size_with_a_megabyte_of_tensors) {
  static const char config[] =
    "{\"model_type\":\"%s\",\"vocab_size\":1,\"hidden_size\":2,\"intermediate_size\":1,\"num_hidden_layers\":%d,\"n_layer\":%d,\"n_embd\":2,\"n_head\":1,\"num_key_value_heads\":1,"
    "\"num_attention_heads\":1}";
  static const char *const families[] = {"llama", "gpt2", "bert", "gemma2", "qwen3"};
  static const int n_layers[] = {800, 900, 1000, 1024, 4096}; /* up to the most, and some more */
  char json[512];
  for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
    for (size_t k = 0; k < sizeof n_layers / sizeof n_layers[0]; k++) {
      size_t n = (size_t)snprintf(json, sizeof json, config, families[i], n_layers[k], n_layers[k]);
      check_loader(json, n, ",\"%u.weight\"" EMPTY("[0,1]"));
    }
}
