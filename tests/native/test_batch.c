/* Several sequences in one call: each is what transformers computed for it alone, whoever its neighbours are. */
#include "families.h"

/* ---- What a call is made of ---- */

enum { MOST_ROWS = 3 * MOST_IDS };

typedef struct call {
  int32_t ids[MOST_ROWS];
  hd_batch_part parts[3];
  size_t n_rows, n_parts;
} call;

static void add_part(call *c, hd_session *session, const int32_t *ids, size_t n) {
  memcpy(c->ids + c->n_rows, ids, n * sizeof *ids);
  c->n_rows += n;
  c->parts[c->n_parts++] = (hd_batch_part){session, n};
}

static bool run(hd_batch *b, const call *c, hd_error *err) {
  const hd_tensor input = {.dtype = HD_I32, .n_dims = 1, .shape = {c->n_rows}, .data = (void *)(uintptr_t)c->ids};
  bool ok = CHECK_EQ(hd_batch_forward(b, &input, c->parts, c->n_parts, err), HD_OK);
  if (!ok) printf("# %s\n", err->message);
  return ok;
}

static hd_batch *new_batch(hd_model *model, size_t rows, size_t output_rows, size_t context, const char *output) {
  const hd_batch_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {rows}}, .sequences = 3, .context = context,
                                    .output_rows = output_rows, .output = output};
  hd_batch *b = NULL;
  hd_error err = {0};
  if (!CHECK_EQ(hd_batch_new(&b, model, &options, &err), HD_OK)) printf("# %s\n", err.message);
  return b;
}

static hd_session *new_session(hd_model *model, size_t context) {
  const hd_session_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {1}}, .context = context, .output_rows = 1};
  hd_session *s = NULL;
  hd_error err = {0};
  CHECK_EQ(hd_session_new(&s, model, &options, &err), HD_OK);
  if (s) CHECK_EQ(hd_session_reserve(s, context, &err), HD_OK);
  return s;
}

/* Rows of a batch's output against rows of a golden, within its budget. */
static void check_rows(const hd_batch *b, size_t first, size_t n_rows, const golden *g, const char *theirs, size_t their_first) {
  hd_tensor out = {0};
  hd_error err = {0};
  const hd_entry *e = hd_directory_find(g->directory, theirs);
  if (!CHECK(e != NULL) || !CHECK_EQ(hd_batch_output(b, &out, &err), HD_OK)) return;
  const size_t width = out.shape[out.n_dims - 1];
  double most = 1, off = 0;
  CHECK(out.shape[0] >= first + n_rows && (their_first + n_rows) * width * sizeof(float) <= e->end - e->begin);
  for (size_t i = 0; i < n_rows * width; i++) {
    float want;
    memcpy(&want, g->expected + e->begin + (their_first * width + i) * sizeof want, sizeof want);
    double error = fabs((double)((const float *)out.data)[first * width + i] - (double)want);
    most = fmax(most, fabs((double)want));
    off = error > off || isnan(error) ? error : off;
  }
  if (!CHECK(off <= 1e-5 * most)) printf("# %s: off by %g, allowed %g\n", theirs, off, 1e-5 * most);
}

/* ---- Decoders ---- */

/* The golden's text between two others, all forgotten afterwards. */
static void check_forgotten(hd_model *model, const golden *g, const int32_t *ids, size_t n) {
  hd_batch *b = new_batch(model, n + 8, 0, 0, NULL);
  hd_error err = {0};
  call c = {0};
  add_part(&c, NULL, ids + 2, 3);
  add_part(&c, NULL, ids, n);
  add_part(&c, NULL, ids + n - 5, 5);
  if (b && run(b, &c, &err)) check_rows(b, 3, n, g, "logits", 0);
  hd_batch_free(b);
}

/* The same in two calls of sessions: the second goes on from the first. */
static void check_continued(hd_model *model, const golden *g, const int32_t *ids, size_t n) {
  hd_session *s[2] = {new_session(model, n), new_session(model, n)};
  hd_batch *b = new_batch(model, n + 8, 0, n, NULL);
  hd_error err = {0};
  call first = {0}, second = {0};
  add_part(&first, s[0], ids, n - 7);
  add_part(&first, s[1], ids + 4, 4);
  add_part(&second, NULL, ids + 1, 2);
  add_part(&second, s[1], ids, 3);
  add_part(&second, s[0], ids + n - 7, 7);
  if (b && run(b, &first, &err) && run(b, &second, &err)) {
    check_rows(b, 5, 7, g, "logits", n - 7);
    CHECK_EQ(hd_session_position(s[0]), n);
    CHECK_EQ(hd_session_position(s[1]), 7);
  }
  hd_batch_free(b);
  hd_session_free(s[0]);
  hd_session_free(s[1]);
}

static int32_t next_of(hd_session *s) {
  hd_tensor out = {0};
  hd_error err = {0};
  if (!CHECK_EQ(hd_session_output(s, &out, &err), HD_OK) || !CHECK_EQ(out.shape[0], 1)) return -1;
  return argmax(&out);
}

/* One token each: the first session decides, the others are given the same to different pasts. Every fourth goes without the batch. */
static bool decode_together(hd_batch *b, hd_session *s[3], int32_t id, size_t step) {
  hd_error err = {0};
  call c = {0};
  for (size_t k = 0; k < 3; k++) {
    if (step % 4 == 3) CHECK_EQ(hd_decode(s[k], &id, 1, &err), HD_OK);
    else add_part(&c, s[k], &id, 1);
  }
  return c.n_parts == 0 || run(b, &c, &err);
}

static void check_greedy_together(hd_model *model, const golden *g, const int32_t *ids, size_t n) {
  cJSON *json = cJSON_ParseWithLength(g->expected_json, g->n_expected_json);
  const cJSON *want = cJSON_GetObjectItem(json, "greedy_ids_ignore_eos"), *each;
  hd_session *s[3] = {new_session(model, n + 24), new_session(model, n + 24), new_session(model, n + 30)};
  hd_batch *b = new_batch(model, 2 * n + 6, 1, n + 30, NULL);
  hd_error err = {0};
  call c = {0};
  size_t step = 0;
  add_part(&c, s[0], ids, n);
  add_part(&c, s[1], ids + 1, 6);
  add_part(&c, s[2], ids, n);
  CHECK_EQ(cJSON_GetArraySize(want), 24);
  if (b && run(b, &c, &err)) cJSON_ArrayForEach(each, want) {
    int32_t id = next_of(s[0]);
    if (!CHECK_EQ(id, (int32_t)each->valuedouble) || !CHECK_EQ(next_of(s[2]), id) || !decode_together(b, s, id, step++)) break;
  }
  hd_batch_free(b);
  for (size_t k = 0; k < 3; k++) hd_session_free(s[k]);
  cJSON_Delete(json);
}

static void check_case(const char *name) {
  golden g;
  int32_t ids[MOST_IDS];
  printf("# %s\n", name);
  hd_model *model = read_golden(&g, name, "config.json") ? load(&g) : NULL;
  if (model) {
    size_t n = read_ids(&g, ids);
    check_forgotten(model, &g, ids, n);
    if (strcmp(name, "llama-rope-dynamic") != 0) check_continued(model, &g, ids, n); /* its angles depend on how long the text is at each call */
    check_greedy_together(model, &g, ids, n);
  }
  CHECK_EQ(hd_model_free(model, NULL), HD_OK);
  free_golden(&g);
}

TEST(every_decoder_computes_several_sequences_in_one_call_as_each_alone) {
  for (size_t i = 0; i < N_CASES; i++) check_case(test_cases[i]);
}

/* ---- Encoders ---- */

static void check_encoder(const char *name, size_t vocab_size, const char *theirs, const char *output, bool one_row) {
  golden g;
  hd_error err = {0};
  printf("# %s %s\n", name, theirs);
  hd_model *model = read_golden(&g, name, "config.json") ? load(&g) : NULL;
  hd_batch *b = model ? new_batch(model, MOST_ROWS, 0, MOST_IDS, output) : NULL;
  call c = {0};
  size_t length = 0;
  for (size_t row = 0; b && row < 3; row++) {
    int32_t ids[MOST_IDS];
    add_part(&c, NULL, ids, encoder_ids(&g, row, vocab_size, ids));
  }
  if (b && run(b, &c, &err)) {
    length = hd_directory_find(g.directory, "input_ids")->shape[1];
    for (size_t row = 0, first = 0; row < 3; first += c.parts[row++].rows)
      check_rows(b, one_row ? row : first, one_row ? 1 : c.parts[row].rows, &g, theirs, one_row ? row : row * length);
  }
  hd_batch_free(b);
  CHECK_EQ(hd_model_free(model, NULL), HD_OK);
  free_golden(&g);
}

TEST(encoders_give_every_text_of_a_batch_the_rows_of_transformers_padded_one) {
  check_encoder("bert", 300, "last_hidden_state", NULL, false);
  check_encoder("bert", 300, "hidden_states.2", "layers.1.output", false);
  check_encoder("bert", 300, "pooler_output", "pooler_output", true);
  check_encoder("minilm-like", 512, "last_hidden_state", NULL, false);
}

/* ---- What is computed is what was asked for ---- */

TEST(a_batch_computes_a_value_by_name) {
  golden g;
  hd_error err = {0};
  hd_model *model = read_golden(&g, "qwen3", "config.json") ? load(&g) : NULL;
  int32_t ids[MOST_IDS];
  size_t n = model ? read_ids(&g, ids) : 0;
  hd_batch *b = model ? new_batch(model, n, 0, 0, "final_norm") : NULL;
  call c = {0};
  char last[64];
  size_t n_states = 0;
  do snprintf(last, sizeof last, "hidden_states.%zu", ++n_states);
  while (model && hd_directory_find(g.directory, last));
  snprintf(last, sizeof last, "hidden_states.%zu", n_states - 1); /* transformers' last one is normed */
  add_part(&c, NULL, ids, n);
  if (b && run(b, &c, &err)) check_rows(b, 0, n, &g, last, 0);
  hd_batch_free(b);
  hd_model_free(model, NULL);
  free_golden(&g);
}

/* ---- Refusals: nothing has advanced ---- */

static void check_refused(hd_batch *b, const call *c, hd_status status, const char *says) {
  const hd_tensor input = {.dtype = HD_I32, .n_dims = 1, .shape = {c->n_rows}, .data = (void *)(uintptr_t)c->ids};
  hd_error err = {0};
  CHECK_EQ(hd_batch_forward(b, &input, c->parts, c->n_parts, &err), status);
  if (!CHECK(strstr(err.message, says))) printf("# %s\n", err.message);
}

TEST(parts_that_do_not_fit_are_refused_and_nothing_has_advanced) {
  golden g;
  hd_error err = {0};
  const int32_t ids[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  hd_model *model = read_golden(&g, "llama-mild", "config.json") ? load(&g) : NULL;
  if (!CHECK(model != NULL)) return;
  hd_session *s = new_session(model, 6), *far = new_session(model, 40);
  hd_batch *b = new_batch(model, 8, 1, 6, NULL);
  call c = {0};
  check_refused(b, &c, HD_BAD_ARGUMENT, "");
  add_part(&c, s, ids, 2);
  add_part(&c, s, ids, 2);
  check_refused(b, &c, HD_BAD_ARGUMENT, "part 1: its session is part 0's already");
  c = (call){0};
  add_part(&c, s, ids, 7);
  check_refused(b, &c, HD_BAD_STATE, "do not fit the context of 6");
  c = (call){0};
  add_part(&c, far, ids, 1);
  check_refused(b, &c, HD_BAD_STATE, "the batch was made for 6");
  c = (call){0};
  add_part(&c, s, ids, 2);
  c.parts[0].rows = 1;
  check_refused(b, &c, HD_BAD_ARGUMENT, "the parts have 1 rows, the input 2");
  c = (call){0};
  add_part(&c, NULL, ids, 4);
  add_part(&c, NULL, ids, 5);
  check_refused(b, &c, HD_BAD_ARGUMENT, "planned for inputs");
  CHECK_EQ(hd_session_position(s), 0);
  CHECK_EQ(hd_model_free(model, &err), HD_BAD_STATE);
  hd_session_free(far);
  hd_session_free(s);
  hd_batch_free(b);
  hd_batch_options too_many = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {2}}, .sequences = 3};
  CHECK_EQ(hd_batch_new(&b, model, &too_many, &err), HD_BAD_ARGUMENT);
  too_many = (hd_batch_options){.input = {.dtype = HD_I32, .n_dims = 1, .shape = {20}}, .sequences = 2, .context = 8};
  CHECK_EQ(hd_batch_new(&b, model, &too_many, &err), HD_BAD_ARGUMENT);
  too_many = (hd_batch_options){.input = {.dtype = HD_I32, .n_dims = 1, .shape = {2}}, .sequences = 2, .output = "nowhere"};
  CHECK_EQ(hd_batch_new(&b, model, &too_many, &err), HD_BAD_ARGUMENT);
  CHECK(b == NULL && strstr(err.message, "no value nowhere"));
  CHECK_EQ(hd_model_free(model, &err), HD_OK);
  free_golden(&g);
}

/* ---- Layers that know nothing of sequences ---- */

TEST(a_layer_that_would_mix_sequences_is_refused_by_name) {
  hd_error err = {0};
  hd_model *model = test_network("{\"type\":\"linear\",\"in_features\":3,\"out_features\":4},{\"type\":\"lstm\",\"input_size\":4,\"hidden_size\":2}", "[6,3]");
  hd_batch *b = NULL;
  const hd_batch_options options = {.sequences = 2};
  if (model) CHECK_EQ(hd_batch_new(&b, model, &options, &err), HD_UNSUPPORTED);
  if (!CHECK(strstr(err.message, "type 'recurrent' takes one sequence at a time"))) printf("# %s\n", err.message);
  const hd_batch_options alone = {.sequences = 1};
  if (model) CHECK_EQ(hd_batch_new(&b, model, &alone, &err), HD_OK);
  hd_batch_free(b);
  hd_model_free(model, NULL);
}

TEST(a_batch_of_one_may_change_the_number_of_rows) {
  hd_error err = {0};
  hd_model *model = test_network("{\"type\":\"linear\",\"in_features\":3,\"out_features\":2},{\"type\":\"slice\",\"dim\":0,\"end\":2}", "[6,3]");
  hd_session *alone = model ? test_session(model, HD_INFER) : NULL, *s = model ? test_session(model, HD_INFER) : NULL;
  hd_batch *b = NULL;
  hd_tensor input = {0}, out = {0}, want = {0};
  const hd_batch_options options = {.sequences = 1};
  if (!CHECK(alone && s) || !CHECK_EQ(hd_batch_new(&b, model, &options, &err), HD_OK)) return;
  hd_session_input(alone, &input, &err);
  test_fill(input.data, 18, 3);
  const hd_batch_part part = {s, 6};
  CHECK_EQ(hd_forward(alone, &input, &err), HD_OK);
  CHECK_EQ(hd_batch_forward(b, &input, &part, 1, &err), HD_OK);
  CHECK(hd_session_output(alone, &want, &err) == HD_OK && want.shape[0] == 2);
  CHECK(hd_batch_output(b, &out, &err) == HD_OK && out.shape[0] == 2);
  CHECK_EQ_BITS(out.data, want.data, 4 * sizeof(float));
  CHECK(hd_session_output(s, &out, &err) == HD_OK && out.shape[0] == 1);
  CHECK_EQ_BITS(out.data, (const float *)want.data + 2, 2 * sizeof(float));
  hd_batch_free(b);
  hd_session_free(alone);
  hd_session_free(s);
  hd_model_free(model, NULL);
}
