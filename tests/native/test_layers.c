/* Walks the layer table. A new row is tested by being there: its example is built, run, differentiated, saved and loaded. */
#include "networks.h"

#include "layers/rows.h"

/* The example's "input_shape" value as text. */
static const char *example_shape(const hd_layer *layer, char room[64]) {
  const char *at = strstr(layer->example, "\"input_shape\":[") + strlen("\"input_shape\":");
  size_t n = strcspn(at, "]") + 1;
  memcpy(room, at, n);
  room[n] = 0;
  return room;
}

static hd_model *example_network(const hd_layer *layer) {
  char shape[64];
  return test_network(layer->example, example_shape(layer, shape));
}

static bool takes_ids(const hd_layer *layer) { return layer == &hd_layer_embedding || layer == &hd_layer_embedding_bag || layer == &hd_layer_text_embeddings; }

/* Small numbers that differ from seed to seed; whole ones for layers that take ids. */
static void fill_input_from(hd_session *s, const hd_layer *layer, uint64_t seed) {
  hd_tensor input;
  hd_session_input(s, &input, NULL);
  float *x = input.data;
  size_t n = hd_shape_size(&s->steps.planned_input);
  test_fill(x, n, seed);
  for (size_t i = 0; takes_ids(layer) && i < n; i++) x[i] = (float)((i + seed - 11) * 5 % 9);
}

static void fill_input(hd_session *s, const hd_layer *layer) { fill_input_from(s, layer, 11); }

static float loss_of(hd_session *s, const float *targets, size_t n) {
  const hd_tensor t = {.dtype = HD_F32, .n_dims = 1, .shape = {n}, .data = (void *)(uintptr_t)targets};
  float loss = NAN;
  hd_error err;
  if (!test_forward(s) || hd_loss(s, HD_MSE, &t, &loss, &err) != HD_OK) printf("# %s\n", err.message);
  return loss;
}

static size_t output_size(hd_session *s) {
  test_forward(s);
  return hd_shape_size(&s->steps.plan.shapes[s->model->output]);
}

/* Central differences over every element of `values` against `gradient`. Float32 losses near 1 leave about 1e-3 of noise. */
static void check_gradient(hd_session *s, float *values, const float *gradient, size_t n, const float *targets, size_t n_targets, const char *name) {
  double most = 0;
  for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)gradient[i]));
  for (size_t i = 0; i < n; i++) {
    const float step = 2e-2f, kept = values[i];
    values[i] = kept + step;
    double above = (double)loss_of(s, targets, n_targets);
    values[i] = kept - step;
    double below = (double)loss_of(s, targets, n_targets);
    values[i] = kept;
    double numeric = (above - below) / (2 * (double)step);
    if (!CHECK_NEAR((double)gradient[i], numeric, 2e-3 + 2e-2 * most, 0)) printf("# gradient of %s[%zu]\n", name, i);
  }
}

/* All gradients of `model`, which is freed; `layer` says what its input is. */
static void check_model(hd_model *model, const hd_layer *layer) {
  hd_session *s = model ? test_session(model, HD_TRAIN) : NULL;
  CHECK(s != NULL);
  if (!s) return;
  fill_input(s, layer);
  size_t n = output_size(s);
  float *targets = malloc(n * sizeof *targets);
  test_fill(targets, n, 23);
  loss_of(s, targets, n);
  CHECK_EQ(hd_backward(s, NULL), HD_OK);
  size_t n_input = hd_shape_size(&s->steps.planned_input);
  float *d_input = malloc(n_input * sizeof *d_input);
  memcpy(d_input, hd_session_grad(s, 0), n_input * sizeof *d_input);
  if (!takes_ids(layer)) check_gradient(s, hd_steps_data(&s->steps, 0), d_input, n_input, targets, n, "input");
  for (size_t i = 0; i < model->n_parameters; i++)
    check_gradient(s, model->parameters[i].value.data, s->d_weights[i], hd_parameter_count(&model->parameters[i]), targets, n,
                   model->parameters[i].name);
  free(d_input);
  free(targets);
  hd_session_free(s);
  CHECK_EQ(hd_model_free(model, NULL), HD_OK);
}

static void check_gradients(const hd_layer *layer) { check_model(example_network(layer), layer); }

/* The same bits come out of both models, for three inputs. */
static void check_same_outputs(hd_model *model, hd_model *again, const hd_layer *layer) {
  hd_session *a = test_session(model, HD_INFER), *b = again ? test_session(again, HD_INFER) : NULL;
  CHECK(a && b);
  for (uint64_t seed = 11; a && b && seed < 14; seed++) {
    fill_input_from(a, layer, seed);
    fill_input_from(b, layer, seed);
    hd_session_rewind(a, 0, NULL);
    hd_session_rewind(b, 0, NULL);
    size_t n_out = output_size(a);
    CHECK_EQ(output_size(b), n_out);
    CHECK_EQ_BITS(hd_steps_data(&a->steps, model->output), hd_steps_data(&b->steps, again->output), n_out * sizeof(float));
  }
  hd_session_free(a);
  hd_session_free(b);
}

/* Saved in one form (dtype NULL: decimals), loaded and saved again. */
static void check_saving_as(hd_model *model, const hd_layer *layer, const char *dtype) {
  hd_error err = {0};
  hd_model *again = NULL;
  char *text = NULL, *text_again = NULL;
  size_t n = 0, n_again = 0;
  CHECK_EQ(hd_model_save_bundle(&text, &n, model, "one", dtype, &err), HD_OK);
  CHECK_EQ(hd_model_load_bundle(&again, text, n, "one", &err), HD_OK);
  CHECK_EQ(hd_model_save_bundle(&text_again, &n_again, again, "one", dtype, &err), HD_OK);
  if (err.code) printf("# %s\n", err.message);
  CHECK(n == n_again && text && text_again && memcmp(text, text_again, n) == 0);
  check_same_outputs(model, again, layer);
  hd_text_free(text);
  hd_text_free(text_again);
  hd_model_free(again, NULL);
}

static void check_saving(const hd_layer *layer) {
  hd_model *model = example_network(layer);
  CHECK(model != NULL);
  if (!model) return;
  check_saving_as(model, layer, NULL);
  check_saving_as(model, layer, "float32");
  hd_model_free(model, NULL);
}

/* All weights as SafeTensors, into a network that was drawn otherwise. */
static void check_weights(const hd_layer *layer) {
  hd_model *model = example_network(layer), *other = example_network(layer);
  CHECK(model && other);
  for (size_t i = 0; model && other && i < other->n_parameters; i++) {
    size_t n = hd_parameter_count(&other->parameters[i]);
    float *values = calloc(n + 1, sizeof *values);
    CHECK_EQ(hd_model_write_weight(other, other->parameters[i].name, values, n, NULL), HD_OK);
    free(values);
  }
  uint8_t *file = NULL;
  size_t n, n_set = 0;
  hd_error err = {0};
  if (model && other && model->n_parameters) {
    CHECK_EQ(hd_model_save_weights(&file, &n, model, HD_F32, &err), HD_OK);
    CHECK_EQ(hd_model_load_weights(other, file, n, &n_set, &err), HD_OK);
    size_t n_pieces = 0;
    for (size_t i = 0; i < model->n_parameters; i++) n_pieces += hd_piece_number(&model->parameters[i]);
    CHECK_EQ(n_set, n_pieces);
    check_same_outputs(model, other, layer);
  }
  if (err.code) printf("# %s\n", err.message);
  hd_bytes_free(file);
  hd_model_free(model, NULL);
  hd_model_free(other, NULL);
}

/* Every intermediate value is the same whether memory is shared or not: the planner never lets a live value be written over. */
static void check_plan(const hd_layer *layer) {
  hd_model *model = example_network(layer);
  if (!model) return;
  hd_session *shared = test_session(model, HD_INFER), *apart = test_session(model, HD_TRACE);
  CHECK(shared && apart);
  if (shared && apart) {
    fill_input(shared, layer);
    fill_input(apart, layer);
    size_t n = output_size(shared);
    CHECK_EQ(output_size(apart), n);
    CHECK_EQ_BITS(hd_steps_data(&shared->steps, model->output), hd_steps_data(&apart->steps, model->output), n * sizeof(float));
    CHECK(shared->steps.plan.arena_bytes <= apart->steps.plan.arena_bytes);
  }
  hd_session_free(shared);
  hd_session_free(apart);
  hd_model_free(model, NULL);
}

static void for_each_example(void (*check)(const hd_layer *)) {
  const hd_layer *layer;
  for (size_t i = 0; (layer = hd_layer_at(i)) != NULL; i++) {
    if (!layer->example) continue;
    printf("# %s\n", layer->name);
    check(layer);
  }
}

TEST(every_declarable_layer_has_an_example) {
  const hd_layer *layer;
  for (size_t i = 0; (layer = hd_layer_at(i)) != NULL; i++) {
    CHECK(!layer->parse == !layer->example);
    CHECK(!layer->parse == !layer->write);
    CHECK(layer->expand || (layer->infer && layer->forward));
    CHECK(!layer->infer == !layer->forward);
    CHECK(!layer->infer || layer->backward);
  }
}

/* The example with the key at `at` (its first letter) misspelt: a letter twice. Either the key may be missing, or the error says what was meant. */
static void check_slip(const hd_layer *layer, const char *at, size_t n) {
  char text[512], wanted[128], shape[64];
  hd_error err = {0};
  hd_model *model = NULL;
  snprintf(text, sizeof text, "{\"dialect\":\"standard\",\"input_shape\":%s,\"layers\":[%.*s%c%s]}", example_shape(layer, shape), (int)(at + 1 - layer->example),
           layer->example, *at, at + 1);
  snprintf(wanted, sizeof wanted, "found '%c%.*s'; did you mean '%.*s'?", *at, (int)n, at, (int)n, at);
  if (hd_model_build(&model, text, strlen(text), 7, &err) != HD_OK && !CHECK(strstr(err.message, wanted) && strstr(err.message, "network.layers[0]")))
    printf("# %s: %s\n", wanted, err.message);
  hd_model_free(model, NULL);
}

/* The layer's own keys that hold a number: those of children lie behind the first '[' or '{' and name other layers. */
static void check_slips(const hd_layer *layer) {
  for (const char *at = layer->example + 1; (at = strchr(at, '"')) != NULL;) {
    size_t n = strcspn(++at, "\"");
    bool has_other_default = strncmp(at, "head_dim", n) == 0; /* what d_model leaves each head may be a size that is refused */
    bool number = !has_other_default && at[n + 1] == ':' && at[n + 2] >= '0' && at[n + 2] <= '9';
    if (number) check_slip(layer, at, n);
    if (at[n + 1] == ':' && (at[n + 2] == '[' || at[n + 2] == '{')) return;
    at += n + 1;
  }
}

TEST(a_misspelt_size_is_named_with_what_was_meant) { for_each_example(check_slips); }

/* Settings that make another layer of a type, each checked like the type's own example. */
#define TWO_BRANCHES "\"branches\":[{\"type\":\"linear\",\"in_features\":4,\"out_features\":3},{\"type\":\"dense\",\"in_features\":4,\"out_features\":3,\"activation\":\"tanh\"}]}"
#define KMEANS_REST "\"input_shape\":[2,4],\"branches\":[{\"type\":\"linear\",\"in_features\":4,\"out_features\":3}]}"
static const struct { const hd_layer *layer; const char *example; } settings[] = {
  {&hd_layer_softmax, "{\"type\":\"softmax\",\"softmax_variant\":\"grid\",\"softmax_rows\":2,\"softmax_cols\":3,\"temperature\":0.7,\"input_shape\":[2,6]}"},
  {&hd_layer_softmax, "{\"type\":\"softmax\",\"softmax_variant\":\"hierarchical\",\"hierarchy_levels\":[3,2],\"input_shape\":[2,6]}"},
  {&hd_layer_softmax, "{\"type\":\"softmax\",\"softmax_variant\":\"masked\",\"mask\":[true,false,true,true],\"input_shape\":[2,4]}"},
  {&hd_layer_softmax, "{\"type\":\"softmax\",\"softmax_variant\":\"gumbel\",\"seed\":3,\"temperature\":2,\"input_shape\":[2,4]}"},
  {&hd_layer_softmax, "{\"type\":\"softmax\",\"softmax_variant\":\"sparsemax\",\"temperature\":3,\"input_shape\":[1,4]}"},
  {&hd_layer_softmax, "{\"type\":\"softmax\",\"softmax_variant\":\"entmax\",\"entmax_alpha\":1.3,\"temperature\":2,\"input_shape\":[2,4]}"},
  {&hd_layer_conv2d, "{\"type\":\"conv2d\",\"in_channels\":2,\"out_channels\":2,\"kernel_size\":3,\"padding\":\"same\",\"padding_mode\":\"circular\",\"bias\":false,\"input_shape\":[2,4,4]}"},
  {&hd_layer_conv2d, "{\"type\":\"conv2d\",\"in_channels\":1,\"out_channels\":2,\"kernel_size\":2,\"padding\":1,\"padding_mode\":\"replicate\",\"activation\":\"gelu\",\"input_shape\":[2,1,3,3]}"},
  {&hd_layer_conv1d, "{\"type\":\"conv1d\",\"in_channels\":4,\"out_channels\":4,\"kernel_size\":2,\"dilation\":2,\"groups\":4,\"input_shape\":[4,6]}"},
  {&hd_layer_rnn, "{\"type\":\"rnn\",\"input_size\":3,\"hidden_size\":2,\"bias\":false,\"batch_first\":true,\"input_shape\":[2,4,3]}"},
  {&hd_layer_lstm, "{\"type\":\"lstm\",\"input_size\":3,\"hidden_size\":2,\"bidirectional\":true,\"input_shape\":[4,3]}"},
  {&hd_layer_gru, "{\"type\":\"gru\",\"input_size\":2,\"hidden_size\":3,\"num_layers\":2,\"bias\":false,\"batch_first\":true,\"input_shape\":[2,4,2]}"},
  {&hd_layer_layer_norm, "{\"type\":\"layer_norm\",\"normalized_shape\":6,\"bias\":false,\"input_shape\":[3,6]}"},
  {&hd_layer_layer_norm, "{\"type\":\"layer_norm\",\"normalized_shape\":6,\"elementwise_affine\":false,\"input_shape\":[6]}"},
  {&hd_layer_batch_norm, "{\"type\":\"batch_norm\",\"num_features\":3,\"affine\":false,\"track_running_stats\":false,\"input_shape\":[5,3]}"},
  {&hd_layer_rms_norm, "{\"type\":\"RMSNorm\",\"normalized_shape\":[6],\"elementwise_affine\":false,\"input_shape\":[3,6]}"},
  {&hd_layer_avg_pool2d, "{\"type\":\"avg_pool2d\",\"kernel_size\":3,\"stride\":2,\"padding\":1,\"ceil_mode\":true,\"input_shape\":[2,6,5]}"},
  {&hd_layer_activation, "{\"type\":\"softplus\",\"beta\":3,\"threshold\":9,\"input_shape\":[7]}"},
  {&hd_layer_log_softmax, "{\"type\":\"log_softmax\",\"dim\":0,\"input_shape\":[3,4]}"},
  {&hd_layer_torch_attention, "{\"type\":\"torch_attention\",\"embed_dim\":4,\"num_heads\":2,\"bias\":false,\"batch_first\":true,\"input_shape\":[2,3,4]}"},
  {&hd_layer_transformer_encoder_layer, "{\"type\":\"transformer_encoder_layer\",\"d_model\":8,\"nhead\":2,\"dim_feedforward\":5,\"activation\":\"silu\",\"norm_first\":true,\"input_shape\":[3,2,8]}"},
  {&hd_layer_mixture_of_experts, "{\"type\":\"mixture_of_experts\",\"d_model\":4,\"hidden_size\":3,\"num_experts\":4,\"num_experts_per_tok\":2,\"norm_topk_prob\":false,\"mixtral_names\":true,\"input_shape\":[3,4]}"},
  {&hd_layer_rms_norm, "{\"type\":\"rms_norm\",\"norm_size\":6,\"plus_one\":true,\"input_shape\":[3,6]}"},
  {&hd_layer_linear, "{\"type\":\"linear\",\"in_features\":5,\"out_features\":3,\"in_out\":true,\"input_shape\":[4,5]}"},
  {&hd_layer_embedding, "{\"type\":\"embedding\",\"vocab_size\":9,\"embedding_dim\":4,\"scale\":1.5,\"input_shape\":[6]}"},
  {&hd_layer_activation, "{\"type\":\"soft_cap\",\"cap\":0.7,\"input_shape\":[7]}"},
  {&hd_layer_swiglu, "{\"type\":\"swiglu\",\"input_height\":6,\"output_height\":5,\"fused\":true,\"input_shape\":[4,6]}"},
  {&hd_layer_multi_head_attention, "{\"type\":\"multi_head_attention\",\"d_model\":8,\"num_heads\":2,\"num_kv_heads\":1,\"head_dim\":6,\"rope_freq_base\":100,\"rotary_dim\":4,"
    "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":16},\"sliding_window\":3,\"score_cap\":2,\"scale\":0.7,"
    "\"head_norm_epsilon\":1e-5,\"head_norm_plus_one\":true,\"projections\":[\"c_attn\",\"c_proj\"],\"in_out\":true,\"input_shape\":[2,5,8]}"},
  {&hd_layer_parallel, "{\"type\":\"parallel\",\"combine_mode\":\"add\",\"input_shape\":[2,4]," TWO_BRANCHES},
  {&hd_layer_parallel, "{\"type\":\"parallel\",\"combine_mode\":\"avg\",\"input_shape\":[2,4]," TWO_BRANCHES},
  {&hd_layer_parallel, "{\"type\":\"parallel\",\"combine_mode\":\"filter\",\"input_shape\":[2,4]," TWO_BRANCHES},
  {&hd_layer_parallel, "{\"type\":\"parallel\",\"combine_mode\":\"grid_scatter\",\"grid_output_cols\":2,\"grid_positions\":[{\"target_col\":1},{\"branch_index\":1}],\"input_shape\":[2,4]," TWO_BRANCHES},
  {&hd_layer_kmeans, "{\"type\":\"kmeans\",\"num_clusters\":3,\"kmeans_temperature\":0.8," KMEANS_REST},
  {&hd_layer_kmeans, "{\"type\":\"kmeans\",\"num_clusters\":3,\"distance_metric\":\"manhattan\",\"kmeans_temperature\":2," KMEANS_REST},
  {&hd_layer_kmeans, "{\"type\":\"kmeans\",\"num_clusters\":3,\"distance_metric\":\"cosine\",\"kmeans_output_mode\":\"features\"," KMEANS_REST},
};

TEST(every_setting_of_a_layer_is_right_like_its_example) {
  for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
    hd_layer layer = *settings[i].layer;
    layer.example = settings[i].example;
    printf("# %s\n", layer.example);
    check_gradients(&layer);
    check_saving(&layer);
    check_plan(&layer);
  }
}

/* Networks of the loom dialect over one flat vector: the hidden residual, rows cut from it, joins of whole batches. */
static const struct { const char *input_shape; size_t n_layers, batch; const char *layers; } loom_networks[] = {
  {"[12]", 4, 1, "{\"type\":\"rms_norm\",\"norm_size\":4},{\"type\":\"mha\",\"d_model\":4,\"num_heads\":2},{\"type\":\"rms_norm\",\"norm_size\":4},"
              "{\"type\":\"swiglu\",\"input_height\":4,\"output_height\":6}"},
  {"[8]", 3, 2, "{\"type\":\"rms_norm\",\"norm_size\":4},{\"type\":\"dense\",\"activation\":\"tanh\",\"input_height\":4,\"output_height\":5},{\"type\":\"swiglu\",\"input_height\":5,\"output_height\":3}"},
  {"[7]", 1, 1, "{\"type\":\"rms_norm\",\"norm_size\":3}"},
  {"[8]", 2, 2, "{\"type\":\"parallel\",\"branches\":[{\"type\":\"dense\",\"activation\":\"tanh\",\"input_height\":4,\"output_height\":2},{\"type\":\"softmax\"},"
             "{\"type\":\"kmeans\",\"num_clusters\":2,\"branches\":[{\"type\":\"dense\",\"activation\":\"tanh\",\"input_height\":8,\"output_height\":2}]}]},"
             "{\"type\":\"dense\",\"activation\":\"tanh\",\"input_height\":7,\"output_height\":2}"},
  {"[4]", 1, 1, "{\"type\":\"parallel\",\"combine_mode\":\"filter\",\"filter_gate\":{\"type\":\"dense\",\"input_height\":4,\"output_height\":2},\"branches\":["
             "{\"type\":\"dense\",\"activation\":\"tanh\",\"input_height\":4,\"output_height\":2},{\"type\":\"dense\",\"activation\":\"tanh\",\"input_height\":4,\"output_height\":3}]}"},
  {"[3]", 1, 1, "{\"type\":\"parallel\",\"combine_mode\":\"nonsense\",\"branches\":[{\"type\":\"softmax\"}]}"},
};

TEST(networks_of_the_loom_dialect_have_the_gradient_that_finite_differences_give) {
  for (size_t i = 0; i < sizeof loom_networks / sizeof loom_networks[0]; i++) {
    char text[4096];
    hd_error err;
    hd_model *model = NULL;
    int n = snprintf(text, sizeof text, "{\"dialect\":\"loom\",\"batch_size\":%zu,\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":%zu,\"input_shape\":%s,\"layers\":[%s]}",
                     loom_networks[i].batch, loom_networks[i].n_layers, loom_networks[i].input_shape, loom_networks[i].layers);
    if (hd_model_build(&model, text, (size_t)n, 7, &err) != HD_OK) printf("# %s\n", err.message);
    printf("# network %zu\n", i);
    check_model(model, &hd_layer_linear);
  }
}

TEST(every_layer_has_the_gradient_that_finite_differences_give) { for_each_example(check_gradients); }

TEST(F2_every_layer_is_saved_and_loaded_to_the_same_bytes_and_outputs) { for_each_example(check_saving); }

TEST(F22_F23_every_layer_has_its_weights_back_from_safetensors) { for_each_example(check_weights); }

TEST(every_layer_computes_the_same_in_shared_memory_and_apart) { for_each_example(check_plan); }

TEST(names_and_aliases_are_found_and_unknown_ones_are_not) {
  CHECK(hd_layer_find("dense") == &hd_layer_dense);
  CHECK(hd_layer_find("mha") == &hd_layer_multi_head_attention);
  CHECK(hd_layer_find("Linear") == &hd_layer_linear);
  CHECK(hd_layer_find("no such layer") == NULL);
}

TEST(every_activation_is_a_layer_type_by_our_name_and_by_pytorchs) {
  const hd_activation *f;
  for (size_t i = 0; (f = hd_activation_at(i)) != NULL; i++) {
    if (strncmp(f->name, "loom_", 5) == 0) continue;
    const hd_layer *named = strcmp(f->name, "linear") == 0 ? &hd_layer_linear : &hd_layer_activation;
    CHECK(hd_layer_find(f->name) == named);
    CHECK(!f->torch || hd_layer_find(f->torch) == &hd_layer_activation);
  }
}

static void check_refused(const char *layers, const char *says) {
  char text[4096];
  hd_error err = {0};
  hd_model *model = NULL;
  int n = snprintf(text, sizeof text, "{\"dialect\":\"standard\",\"layers\":%s}", layers);
  CHECK(hd_model_build(&model, text, (size_t)n, 1, &err) != HD_OK);
  CHECK(model == NULL);
  if (!CHECK(strstr(err.message, says) != NULL)) printf("# found: %s\n", err.message);
}

TEST(bad_networks_are_refused_with_the_json_path) {
  check_refused("[]", "network.layers: expected at least one layer, found none");
  check_refused("[{\"type\":\"dense\",\"in_features\":3,\"out_features\":2},{\"type\":\"nonsense\"}]", "layers[1].type: unknown layer type 'nonsense'; known: dense, linear, ");
  check_refused("[{\"type\":\"dense\",\"in_features\":3}]", "layers[0].out_features");
  check_refused("[{\"type\":\"dense\",\"in_features\":3.5,\"out_features\":2}]", "layers[0].in_features");
  check_refused("[{\"type\":\"layer_norm\",\"normalized_shape\":[2,2.5]}]", "layers[0].normalized_shape: expected at most 8 whole sizes");
  check_refused("[{\"type\":\"RMSNorm\",\"normalized_shape\":[2.5]}]", "layers[0].normalized_shape: expected one whole size of at least 1");
  check_refused("[{\"type\":\"softmax\",\"softmax_variant\":\"hierarchical\",\"hierarchy_levels\":[2.5]}]",
                "layers[0].hierarchy_levels: expected a whole size of at least 1 at place 0");
  check_refused("[{\"type\":\"linear\",\"in_features\":2,\"out_features\":2}],\"input_shape\":[1,2.9]",
                "network.input_shape: expected whole sizes of at least 1");
  check_refused("[{\"type\":\"residual\",\"branches\":[{\"type\":\"linear\",\"in_features\":3}]}]", "layers[0].branches[0].out_features");
  check_refused("[{\"type\":\"multi_head_attention\",\"d_model\":12,\"num_heads\":5,\"num_kv_heads\":2}]", "layers[0].num_heads");
}

TEST(messages_and_warnings_of_layers_are_cut_between_characters) {
  hd_model *model = test_network("{\"type\":\"softmax\"}", "[1,2]");
  for (int lead = 0; lead < 4; lead++) {
    char text[2000];
    hd_error err;
    const hd_infer i = {.name = "layers.0"};
    memset(text, 'x', 4);
    for (size_t at = (size_t)lead; at + 5 < sizeof text; at += 4) memcpy(text + at, "\xF0\x9F\x98\x80\0", 5);
    hd_infer_fail(&i, &err, "%s", text);
    CHECK(memcmp(err.message + strlen(err.message) - 4, "\xF0\x9F\x98\x80", 4) == 0);
    CHECK_EQ(hd_model_warn(model, &err, "%s", text), HD_OK);
    const char *warning = model->warnings[model->n_warnings - 1];
    CHECK(strlen(warning) > 500 && memcmp(warning + strlen(warning) - 4, "\xF0\x9F\x98\x80", 4) == 0);
  }
  hd_model_free(model, NULL);
}

/* `depth` residuals around one linear. */
static char *nested(size_t depth) {
  static const char open[] = "{\"type\":\"residual\",\"branches\":[", inner[] = "{\"type\":\"linear\",\"in_features\":2,\"out_features\":2}";
  char *text = malloc(depth * (sizeof open + 2) + sizeof inner);
  char *at = text;
  for (size_t i = 0; i < depth; i++) at += sprintf(at, "%s", open);
  at += sprintf(at, "%s", inner);
  for (size_t i = 0; i < depth; i++) at += sprintf(at, "]}");
  return text;
}

/* ---- Sizes no memory has: a layer's buffers for a call are refused before anybody asks for them, and never come out small ---- */

static void check_scratch_refused(hd_model *model, const char *layer, size_t dim0, size_t dim1, size_t dim2) {
  const hd_shape in = {HD_F32, 3, {dim0, dim1, dim2}}, *inputs[8];
  const hd_sequence sequence = {.rows = dim0, .context = dim0};
  const hd_run run = {.sequences = &sequence, .n_sequences = 1};
  hd_shape shapes[64];
  hd_error err;
  hd_infer i;
  for (size_t v = 0; v < 64; v++) shapes[v] = in;
  CHECK(model && model->n_values <= 64);
  size_t n = 0;
  while (n < model->n_nodes && strcmp(model->nodes[n].layer->name, layer) != 0) n++;
  CHECK(n < model->n_nodes && model->nodes[n].n_in <= 8);
  CHECK(hd_node_infer(&i, model, &model->nodes[n], shapes, inputs, &run, &err) == HD_BAD_ARGUMENT);
  CHECK(strstr(err.message, "too large"));
}

/* h, c and part [batch, 1], a and u [batch, 4]: 44 bytes a sample. */
TEST(buffers_of_a_recurrent_layer_that_no_memory_holds_are_refused) {
  hd_model *model = test_network("{\"type\":\"lstm\",\"input_size\":1,\"hidden_size\":1}", "[1,1,1]");
  hd_error err;
  check_scratch_refused(model, "recurrent", 1, SIZE_MAX / 44 + 1000, 4);
  check_scratch_refused(model, "recurrent", 1, SIZE_MAX - 3, 4);
  CHECK(hd_model_free(model, &err) == HD_OK);
}

/* A block of 4 rows of scores for each of 16 threads: 256 bytes a position. */
TEST(positions_whose_scores_no_memory_holds_are_refused_when_they_are_reserved) {
  hd_model *model = test_network("{\"type\":\"multi_head_attention\",\"d_model\":2,\"num_heads\":1,\"cache\":true}", "[1,2]");
  const hd_session_options options = {.context = SIZE_MAX / 256 + 2};
  hd_session *s = NULL;
  hd_error err;
  CHECK(model && hd_session_new(&s, model, &options, &err) == HD_OK);
  CHECK(s && hd_session_reserve(s, options.context, &err) == HD_BAD_ARGUMENT && strstr(err.message, "too large"));
  CHECK(s && hd_session_reserve(s, 300, &err) == HD_OK);
  hd_session_free(s);
  check_scratch_refused(model, "attention", 1, SIZE_MAX / 256 + 2, 2);
  CHECK(hd_model_free(model, &err) == HD_OK);
}

TEST(rows_of_experts_that_no_memory_holds_are_refused) {
  hd_model *model = test_network("{\"type\":\"mixture_of_experts\",\"d_model\":2,\"hidden_size\":3,\"num_experts\":2,\"num_experts_per_tok\":1}", "[1,2]");
  hd_error err;
  check_scratch_refused(model, "experts", 1, SIZE_MAX / 44, 2);
  CHECK(hd_model_free(model, &err) == HD_OK);
}

#if SIZE_MAX == UINT32_MAX
/* 44 bytes · 100,000,000 are 105 MB more than 32 bits say. */
TEST(a_loom_batch_whose_buffers_wrap_in_32_bits_is_refused) {
  const char text[] = "{\"dialect\":\"loom\",\"batch_size\":100000000,\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":1,\"input_shape\":[1],\"layers\":["
                      "{\"type\":\"lstm\",\"input_size\":1,\"hidden_size\":1,\"seq_length\":1}]}";
  hd_model *model = NULL;
  hd_error err;
  CHECK(hd_model_build(&model, text, sizeof text - 1, 7, &err) == HD_BAD_ARGUMENT && !model);
  CHECK(strstr(err.message, "too large"));
  CHECK(strncmp(err.message, "network.layers[0]", 17) == 0);
}
#endif

TEST(layers_nest_deeply_and_too_deep_is_refused) {
  char *deep = nested(30), *too_deep = nested(70), *list = malloc(strlen(too_deep) + 3);
  hd_model *model = NULL;
  hd_error err = {0};
  char *text = malloc(strlen(deep) + 100), *saved = NULL;
  size_t n = (size_t)sprintf(text, "{\"dialect\":\"standard\",\"input_shape\":[1,2],\"layers\":[%s]}", deep), n_saved = 0;
  if (!CHECK_EQ(hd_model_build(&model, text, n, 1, &err), HD_OK)) printf("# %s\n", err.message);
  if (model) CHECK_EQ(hd_model_save_bundle(&saved, &n_saved, model, "deep", NULL, &err), HD_OK);
  hd_model_free(model, NULL);
  if (!CHECK_EQ(hd_model_load_bundle(&model, saved, n_saved, "deep", &err), HD_OK)) printf("# %s\n", err.message);
  sprintf(list, "[%s]", too_deep);
  check_refused(list, "levels of nesting");
  hd_text_free(saved);
  hd_model_free(model, NULL);
  free(deep);
  free(too_deep);
  free(list);
  free(text);
}

static size_t layers_of(const char *head) {
  char text[512];
  hd_error err = {0};
  hd_model *model = NULL;
  int n = snprintf(text, sizeof text, "{%s\"layers\":[{\"type\":\"softmax\"},{\"type\":\"softmax\"},{\"type\":\"softmax\"}]}", head);
  if (hd_model_build(&model, text, (size_t)n, 1, &err) != HD_OK) return 0;
  size_t n_layers = model->n_specs;
  hd_model_free(model, NULL);
  return n_layers;
}

TEST(a_grid_numbers_layers_where_it_is_given_and_all_count_where_it_is_not) {
  CHECK_EQ(layers_of(""), 3u);
  CHECK_EQ(layers_of("\"dialect\":\"standard\","), 3u);
  CHECK_EQ(layers_of("\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":2,"), 0u); /* only a bundle may list more than the grid holds */
  CHECK_EQ(layers_of("\"layers_per_cell\":3,"), 3u);
  CHECK_EQ(layers_of("\"grid_rows\":2,\"grid_cols\":2,"), 0u);
  CHECK_EQ(layers_of("\"grid_rows\":0,"), 0u);
}

/* The weights' text and the bundle around its Base64, of which nothing is copied while it grows. */
TEST(a_bundle_is_saved_in_little_more_than_its_texts) {
  hd_model *model = test_network("{\"type\":\"linear\",\"in_features\":256,\"out_features\":256},{\"type\":\"linear\",\"in_features\":256,\"out_features\":256}", "[1,256]");
  static const char *const forms[] = {NULL, "float32", "int16"};
  for (size_t i = 0; i < 4; i++) {
    char *text = NULL;
    size_t n = 0;
    hd_error err;
    const hd_quantization how = {.dtype = "int16"};
    const size_t before = hd_memory_live();
    hd_memory_forget_peak();
    hd_status status = i < 3 ? hd_model_save_bundle(&text, &n, model, "m", forms[i], &err) : hd_model_save_quantized(&text, &n, model, "m", &how, &err);
    const size_t held = hd_memory_live() - before, peak = hd_memory_peak() - before;
    CHECK_EQ(status, HD_OK);
    if (!CHECK(held == n + 1 && peak < 2 * n + n / 8)) printf("# form %zu: %zu bytes, held %zu, peak %zu\n", i, n, held, peak);
    hd_text_free(text);
  }
  hd_model_free(model, NULL);
}

/* Half a model that learns would be worse than an error. */
TEST(a_model_with_weights_that_cannot_be_trained_is_refused) {
  hd_model *model = test_network("{\"type\":\"linear\",\"name\":\"fc\",\"in_features\":32,\"out_features\":2}", "[1,32]");
  hd_error err = {0};
  hd_session *s = NULL;
  const hd_session_options options = {.mode = HD_TRAIN};
  CHECK_EQ(hd_parameter_allocate(&model->parameters[0], HD_BF16, NULL), HD_OK);
  CHECK_EQ(hd_session_new(&s, model, &options, &err), HD_UNSUPPORTED);
  CHECK(s == NULL && strstr(err.message, "fc.weight is BF16: only F32 weights are trained") != NULL);
  hd_model_free(model, NULL);
}
