/* Any bytes as JSON: the pull reader and the tree must agree, give a message with each refusal, and leak nothing. */
#include "base/json.h"
#include "base/memory.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
  if (!holds) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *text = (const char *)data;
  size_t before = hd_memory_live();
  hd_error err = {0}, tree_err = {0};
  hd_json_reader r = hd_json_open(text, size, "text", &err);
  hd_json_skip(&r, NULL, NULL);
  hd_json_finish(&r);
  require(r.status == HD_OK ? r.depth == 0 : err.message[0] != '\0');

  cJSON *tree;
  hd_status status = hd_json_parse(&tree, text, size, &tree_err);
  require((tree != NULL) == (status == HD_OK));
  require(status == HD_OK || tree_err.message[0] != '\0');
  /* The tree may refuse more (duplicates, nodes, overflow), never less. */
  require(status != HD_OK || r.status == HD_OK);
  cJSON_Delete(tree);

  char *string;
  size_t n;
  float number;
  uint64_t whole;
  r = hd_json_open(text, size, "text", NULL);
  if (hd_json_string(&r, &string, &n)) require(n <= size && string[n] == '\0');
  hd_free(string);
  r = hd_json_open(text, size, "text", NULL);
  hd_json_float(&r, &number);
  r = hd_json_open(text, size, "text", NULL);
  hd_json_u64(&r, &whole);
  require(hd_memory_live() == before);
  return 0;
}
