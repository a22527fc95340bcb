/* A layer type from outside: everything a new layer needs stands in this one file. Nothing in src/ knows it; it is registered, built from
 * JSON between two of ours, run, trained, saved and loaded. (A layer of ours would differ in one line: its place in layer.c's table.) */
#include "networks.h"

#include "base/status.h"

/* y = sin(x · frequency) per feature: a periodic activation with a learned frequency. */
typedef struct sine_config {
  size_t size;
} sine_config;

static void parse(void *config, hd_parse *p) {
  sine_config *c = config;
  c->size = hd_json_need_size(&p->json, "size", SIZE_MAX);
}

static hd_status write(const void *config, cJSON *json, hd_dialect dialect, hd_error *err) {
  const sine_config *c = config;
  if (dialect == HD_LOOM) return hd_fail(err, HD_UNSUPPORTED, "Loom has no sine layer");
  cJSON_AddNumberToObject(json, "size", (double)c->size);
  return HD_OK;
}

static hd_status infer(hd_infer *i, hd_error *err) {
  const sine_config *c = i->config;
  if (hd_shape_last(i->in[0]) != c->size) return hd_infer_fail(i, err, "expected rows of %zu", c->size);
  i->out[0] = *i->in[0];
  return HD_OK;
}

static size_t slots(const void *config, hd_slot slot[HD_MAX_WEIGHTS]) {
  const sine_config *c = config;
  slot[0] = (hd_slot){.role = "frequency", .n_dims = 1, .shape = {c->size}, .init = HD_INIT_ONE};
  return 1;
}

static hd_status forward(const hd_call *call, hd_error *err) {
  (void)err;
  const sine_config *c = call->config;
  const float *frequency = call->weight[0]->data;
  for (size_t i = 0; i < hd_shape_size(call->out[0].shape); i++) call->out[0].data[i] = sinf(call->in[0].data[i] * frequency[i % c->size]);
  return HD_OK;
}

static hd_status backward(const hd_call *call, hd_error *err) {
  (void)err;
  const sine_config *c = call->config;
  const float *frequency = call->weight[0]->data, *x = call->in[0].data;
  for (size_t i = 0; i < hd_shape_size(call->out[0].shape); i++) {
    float slope = cosf(x[i] * frequency[i % c->size]) * call->d_out[0][i];
    call->d_in[0][i] += slope * frequency[i % c->size];
    call->d_weight[0][i % c->size] += slope * x[i];
  }
  return HD_OK;
}

static const hd_layer sine = {
  .name = "sine",
  .config_bytes = sizeof(sine_config),
  .example = "{\"type\":\"sine\",\"size\":4,\"input_shape\":[2,4]}",
  .parse = parse,
  .write = write,
  .infer = infer,
  .slots = slots,
  .forward = forward,
  .backward = backward,
};

static const char layers[] = "{\"type\":\"dense\",\"in_features\":3,\"out_features\":4,\"activation\":\"tanh\"},{\"type\":\"sine\",\"size\":4},"
                             "{\"type\":\"linear\",\"in_features\":4,\"out_features\":2}";

TEST(a_foreign_layer_is_refused_before_and_found_after_it_is_registered) {
  CHECK(test_network(layers, "[6,3]") == NULL);
  CHECK_EQ(hd_layer_register(&sine, NULL), HD_OK);
  CHECK_EQ(hd_layer_register(&sine, NULL), HD_BAD_ARGUMENT);
  CHECK(hd_layer_find("sine") == &sine);
}

static float step(hd_session *s, const float *targets) {
  const hd_tensor t = {.dtype = HD_F32, .n_dims = 2, .shape = {6, 2}, .data = (void *)(uintptr_t)targets};
  float loss = NAN;
  CHECK(test_forward(s));
  CHECK_EQ(hd_loss(s, HD_MSE, &t, &loss, NULL), HD_OK);
  CHECK_EQ(hd_backward(s, NULL), HD_OK);
  CHECK_EQ(hd_step_sgd(s, 0.2f, NULL), HD_OK);
  return loss;
}

TEST(a_foreign_layer_trains_with_the_rest_and_is_saved) {
  hd_model *model = test_network(layers, "[6,3]");
  hd_session *s = model ? test_session(model, HD_TRAIN) : NULL;
  CHECK(s != NULL);
  if (!s) return;
  float targets[12], frequency[4];
  test_fill(hd_steps_data(&s->steps, 0), 18, 5);
  test_fill(targets, 12, 6);
  float first = step(s, targets), last = first;
  for (int i = 0; i < 300; i++) last = step(s, targets);
  CHECK(last < 0.2f * first);
  hd_session_free(s);
  CHECK_EQ(hd_model_read_weight(model, "layers.1.frequency", frequency, 4, NULL), HD_OK);
  CHECK(frequency[0] != 1.0f || frequency[1] != 1.0f);

  char *text = NULL;
  size_t n = 0;
  hd_model *again = NULL;
  CHECK_EQ(hd_model_save_bundle(&text, &n, model, "with-sine", NULL, NULL), HD_OK);
  CHECK(text && strstr(text, "\"sine\"") != NULL);
  CHECK_EQ(hd_model_load_bundle(&again, text, n, "with-sine", NULL), HD_OK);
  float loaded[4] = {0};
  if (again) CHECK_EQ(hd_model_read_weight(again, "layers.1.frequency", loaded, 4, NULL), HD_OK);
  CHECK_EQ_BITS(loaded, frequency, sizeof frequency);
  hd_text_free(text);
  hd_model_free(model, NULL);
  hd_model_free(again, NULL);
}
