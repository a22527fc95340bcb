/* What the containers, the softmax family and kmeans give, against numbers worked out by hand or from the definition; Loom's own numbers are in
 * tests/node/bundles.test.mjs. */
#include "networks.h"

#include <stdlib.h>

/* ---- Running a network from its JSON ---- */

#define MOST 64

typedef struct result {
  hd_status status;
  hd_error err;
  size_t n;
  float y[MOST];
} result;

/* Forward of `model`, which is freed, over an input of that shape. */
static result forward_of(hd_model *model, const float *x, size_t rows, size_t cols) {
  result r = {.err = {0}};
  hd_session *s = NULL;
  hd_tensor input = {.dtype = HD_F32, .n_dims = rows ? 2 : 1, .shape = {rows ? rows : cols, cols}, .data = (void *)(uintptr_t)x}, out;
  const hd_session_options options = {.mode = HD_INFER, .input = input};
  r.status = hd_session_new(&s, model, &options, &r.err);
  if (r.status == HD_OK) r.status = hd_forward(s, &input, &r.err);
  if (r.status == HD_OK) r.status = hd_session_output(s, &out, &r.err);
  r.n = 1;
  for (int d = 0; r.status == HD_OK && d < out.n_dims; d++) r.n *= out.shape[d];
  if (r.status == HD_OK && CHECK(r.n <= MOST)) memcpy(r.y, out.data, r.n * sizeof *r.y);
  hd_session_free(s);
  hd_model_free(model, NULL);
  return r;
}

/* One layer in a dialect with the seed 7, on x[rows, cols]; rows 0: one dimension. */
static result run(const char *dialect, const char *layer, const float *x, size_t rows, size_t cols) {
  char text[8192];
  hd_model *model = NULL;
  result r = {.err = {0}};
  int n = snprintf(text, sizeof text, "{\"dialect\":\"%s\",\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":1,\"layers\":[%s]}", dialect, layer);
  r.status = hd_model_build(&model, text, (size_t)n, 7, &r.err);
  return r.status == HD_OK ? forward_of(model, x, rows, cols) : r;
}

static void check_values(const result *r, const float *want, size_t n, double tolerance) {
  if (!CHECK_EQ(r->status, HD_OK)) printf("# %s\n", r->err.message);
  if (!CHECK_EQ(r->n, n)) printf("# found %zu values, expected %zu\n", r->n, n);
  for (size_t i = 0; i < n && i < r->n; i++)
    if (!CHECK_NEAR((double)r->y[i], (double)want[i], tolerance, 0)) printf("# value %zu: %g, expected %g\n", i, (double)r->y[i], (double)want[i]);
}

static void check_refused(const char *dialect, const char *layers, const char *says) {
  const float x[4] = {1, 2, 3, 4};
  const result r = run(dialect, layers, x, 2, 2);
  CHECK(r.status != HD_OK);
  if (!CHECK(strstr(r.err.message, says) != NULL)) printf("# found: %s\n", r.err.message);
}

#define LINEAR "{\"type\":\"activation\",\"activation\":\"linear\"}"
#define RELU "{\"type\":\"activation\",\"activation\":\"relu\"}"
#define PARALLEL(rest) "{\"type\":\"parallel\"," rest "}"

static const float two_rows[4] = {1, -2, -3, 4};

/* ---- Parallel in the standard dialect ---- */

TEST(L10_concat_joins_sample_by_sample) {
  const float want[8] = {1, -2, 1, 0, -3, 4, 0, 4};
  const result r = run("standard", PARALLEL("\"combine_mode\":\"concat\",\"branches\":[" LINEAR "," RELU "]"), two_rows, 2, 2);
  check_values(&r, want, 8, 0);
}

TEST(L11_L12_add_and_avg_join_element_by_element) {
  const float sum[4] = {2, -2, -3, 8}, mean[4] = {1, -1, -1.5f, 4};
  result r = run("standard", PARALLEL("\"combine_mode\":\"add\",\"branches\":[" LINEAR "," RELU "]"), two_rows, 2, 2);
  check_values(&r, sum, 4, 0);
  r = run("standard", PARALLEL("\"combine_mode\":\"average\",\"branches\":[" LINEAR "," RELU "]"), two_rows, 2, 2);
  check_values(&r, mean, 4, 0);
}

TEST(L14_grid_scatter_puts_the_branch_that_a_position_names_in_its_cell) {
  const float want[8] = {1, 0, 1, -2, 0, 4, -3, 4};
  const result r = run("standard", PARALLEL("\"combine_mode\":\"grid_scatter\",\"grid_output_rows\":1,\"grid_output_cols\":3,"
    "\"grid_positions\":[{\"branch_index\":1,\"target_col\":0},{\"branch_index\":0,\"target_col\":2}],\"branches\":[" LINEAR "," RELU "]"), two_rows, 2, 2);
  check_values(&r, want, 8, 0);
}

TEST(L13_filter_without_a_gate_weighs_all_branches_alike) {
  const float want[4] = {1, -1, -1.5f, 4};
  const result r = run("standard", PARALLEL("\"combine_mode\":\"filter\",\"branches\":[" LINEAR "," RELU "]"), two_rows, 2, 2);
  check_values(&r, want, 4, 1e-6);
}

/* The gate is the input itself, so that the two logits of a row are its two numbers. */
#define GATED(settings) PARALLEL("\"combine_mode\":\"filter\"," settings "\"filter_gate\":" LINEAR ",\"branches\":[" LINEAR "," RELU "]")

TEST(L13_L16_a_gate_weighs_each_sample_by_the_softmax_of_its_logits_over_the_temperature) {
  result r = run("standard", GATED(""), two_rows, 2, 2);
  const float w0 = 1 / (1 + expf(-3)), w1 = 1 / (1 + expf(7));
  const float want[4] = {1, -2 * w0, -3 * w1, 4};
  check_values(&r, want, 4, 1e-5);
  r = run("standard", GATED("\"filter_temperature\":0.01,"), two_rows, 2, 2);
  const float largest[4] = {1, -2, 0, 4};
  check_values(&r, largest, 4, 1e-5);
}

TEST(L15_a_gate_with_sparsemax_leaves_branches_out) {
  const result r = run("standard", GATED("\"filter_softmax\":\"sparsemax\","), two_rows, 2, 2);
  const float want[4] = {1, -2, 0, 4};
  check_values(&r, want, 4, 1e-6);
}

TEST(parallel_layers_that_cannot_be_joined_are_refused_in_words) {
  check_refused("standard", PARALLEL("\"combine_mode\":\"add\",\"branches\":[" LINEAR ",{\"type\":\"linear\",\"in_features\":2,\"out_features\":3}]"),
                "layers.0: add needs branches of one size, found 2 and, from branch 1, 3");
  check_refused("standard", PARALLEL("\"combine_mode\":\"mean\",\"branches\":[" LINEAR "]"), "layers[0].combine_mode: unknown mode 'mean'");
  check_refused("standard", PARALLEL("\"combine_mode\":\"add\""), "layers[0].branches: expected at least one layer");
  check_refused("standard", PARALLEL("\"combine_mode\":\"grid_scatter\",\"grid_positions\":[{\"target_row\":1}],\"branches\":[" LINEAR "]"),
                "layers[0].grid_positions: a position lies outside the grid");
  check_refused("standard", PARALLEL("\"combine_mode\":\"grid_scatter\",\"grid_output_cols\":2,\"grid_positions\":[{},{}],\"branches\":[" LINEAR "," LINEAR "]"),
                "layers[0].grid_positions: two branches have one cell");
  check_refused("standard", PARALLEL("\"combine_mode\":\"filter\",\"filter_softmax\":\"grid\",\"branches\":[" LINEAR "]"), "layers[0].filter_softmax");
  check_refused("standard", PARALLEL("\"combine_mode\":\"filter\",\"filter_gate\":{\"type\":\"linear\",\"in_features\":2,\"out_features\":3},\"branches\":[" LINEAR "," LINEAR "]"),
                "expected 2 rows of 2 weights from the gate, found 2 rows of 3");
  check_refused("loom", PARALLEL("\"branches\":[{\"type\":\"residual\"}]"), "layers[0].branches: branch 0: Loom has no 'residual' in a branch");
}

TEST(sequential_runs_any_layer_and_residual_adds_its_input) {
  const float want[4] = {2, -2, -3, 8};
  const result r = run("standard", "{\"type\":\"residual\",\"branches\":[{\"type\":\"sequential\",\"branches\":[" RELU "," LINEAR "]}]}", two_rows, 2, 2);
  check_values(&r, want, 4, 0);
}

TEST(a_bundle_of_the_loom_dialect_does_not_hold_a_gate) {
  static const char text[] = "{\"dialect\":\"loom\",\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":1,\"layers\":[" PARALLEL("\"combine_mode\":\"filter\","
    "\"filter_gate\":{\"type\":\"dense\",\"input_height\":2,\"output_height\":1},\"branches\":[{\"type\":\"softmax\"}]") "]}";
  hd_model *model = NULL;
  hd_error err = {0};
  char *saved = NULL;
  size_t n = 0;
  CHECK_EQ(hd_model_build(&model, text, sizeof text - 1, 1, &err), HD_OK);
  CHECK_EQ(hd_model_save_bundle(&saved, &n, model, "m", NULL, &err), HD_UNSUPPORTED);
  if (!CHECK(strstr(err.message, "layers.0: the loom dialect's bundles do not hold the gate") != NULL)) printf("# found: %s\n", err.message);
  hd_model_free(model, NULL);
}

/* ---- Loom's hidden residual ---- */

#define NORM "{\"type\":\"rms_norm\",\"norm_size\":4}"
#define GLU "{\"type\":\"swiglu\",\"input_height\":4,\"output_height\":3}"

/* The number of nodes of a type in a network of these layers. */
static size_t count_nodes(const char *dialect, size_t n_layers, const char *layers, const char *type) {
  char text[2048];
  hd_model *model = NULL;
  hd_error err = {0};
  int n = snprintf(text, sizeof text, "{\"dialect\":\"%s\",\"grid_rows\":1,\"grid_cols\":1,\"layers_per_cell\":%zu,\"layers\":[%s]}", dialect, n_layers, layers);
  if (!CHECK_EQ(hd_model_build(&model, text, (size_t)n, 1, &err), HD_OK)) printf("# %s\n", err.message);
  size_t count = 0;
  for (size_t i = 0; model && i < model->n_nodes; i++) count += strcmp(model->nodes[i].layer->name, type) == 0;
  hd_model_free(model, NULL);
  return count;
}

TEST(the_hidden_residual_is_carried_along_a_loom_chain_and_nowhere_else) {
  CHECK_EQ(count_nodes("loom", 1, GLU, "add_carried"), 0);
  CHECK_EQ(count_nodes("loom", 2, NORM "," GLU, "add_carried"), 1);
  CHECK_EQ(count_nodes("loom", 3, GLU "," GLU "," GLU, "add_carried"), 2);
  CHECK_EQ(count_nodes("standard", 2, NORM "," GLU, "add_carried"), 0);
  CHECK_EQ(count_nodes("loom", 2, NORM "," PARALLEL("\"branches\":[" NORM "," GLU "]"), "add_carried"), 0);
  /* a kmeans sub-network has a chain, and a residual, of its own */
  CHECK_EQ(count_nodes("loom", 1, "{\"type\":\"kmeans\",\"num_clusters\":2,\"cluster_dim\":4,\"branches\":[" NORM "," GLU "]}", "add_carried"), 1);
}

/* ---- Softmax ---- */

#define SOFTMAX(variant) "{\"type\":\"softmax\",\"softmax_variant\":\"" variant "\"}"

TEST(L4_softmax_adds_up_to_one_and_is_stable_for_large_logits) {
  const float x[3] = {1e4f, -1e4f, 1e4f}, want[3] = {0.5f, 0, 0.5f};
  for (int loom = 0; loom < 2; loom++) {
    const result r = run(loom ? "loom" : "standard", SOFTMAX("standard"), x, 0, 3);
    check_values(&r, want, 3, 1e-6);
  }
}

TEST(L15_sparsemax_is_the_nearest_point_of_the_simplex) {
  const float x[4] = {0.5f, 0.2f, -1, 0.4f};
  const float want[4] = {0.5f - 0.1f / 3, 0.2f - 0.1f / 3, 0, 0.4f - 0.1f / 3}; /* support of three, threshold (1.1 − 1)/3 */
  const result r = run("standard", SOFTMAX("sparse"), x, 0, 4);
  check_values(&r, want, 4, 1e-6);
}

/* On the support (α−1)·x − y^(α−1) is one number, elsewhere (α−1)·x is below it; and Σ y = 1. */
static void check_entmax(const char *layer, double alpha) {
  const float x[5] = {0.3f, -0.2f, 0.9f, -2, 0.75f};
  const result r = run("standard", layer, x, 0, 5);
  double sum = 0, tau = (alpha - 1) * (double)x[2] - pow((double)r.y[2], alpha - 1);
  for (size_t i = 0; i < 5; i++) {
    sum += (double)r.y[i];
    double here = (alpha - 1) * (double)x[i] - pow((double)r.y[i], alpha - 1);
    CHECK(r.y[i] > 0 ? fabs(here - tau) < 1e-5 : (alpha - 1) * (double)x[i] <= tau + 1e-6);
  }
  CHECK_NEAR(sum, 1, 1e-6, 0);
}

TEST(entmax_meets_the_conditions_that_define_it) {
  check_entmax(SOFTMAX("entmax"), 1.5);
  check_entmax("{\"type\":\"softmax\",\"softmax_variant\":\"entmax\",\"entmax_alpha\":1.2}", 1.2);
  check_entmax("{\"type\":\"softmax\",\"softmax_variant\":\"entmax\",\"entmax_alpha\":2}", 2);
}

TEST(masked_softmax_gives_nothing_where_the_mask_is_false) {
  const float x[4] = {1, 50, 1, 1}, want[4] = {0.5f, 0, 0, 0.5f};
  const result r = run("standard", "{\"type\":\"softmax\",\"softmax_variant\":\"masked\",\"mask\":[true,false,false,true]}", x, 0, 4);
  check_values(&r, want, 4, 0);
}

TEST(gumbel_noise_depends_on_the_seed_alone) {
  const float x[4] = {1, 2, 3, 4};
  const result a = run("standard", "{\"type\":\"softmax\",\"softmax_variant\":\"gumbel\",\"seed\":5}", x, 0, 4);
  const result b = run("standard", "{\"type\":\"softmax\",\"softmax_variant\":\"gumbel\",\"seed\":5}", x, 0, 4);
  const result c = run("standard", "{\"type\":\"softmax\",\"softmax_variant\":\"gumbel\",\"seed\":6}", x, 0, 4);
  CHECK_EQ(a.n, 4);
  CHECK_EQ_BITS(a.y, b.y, sizeof x);
  CHECK(memcmp(a.y, c.y, sizeof x) != 0);
  CHECK_NEAR((double)(a.y[0] + a.y[1] + a.y[2] + a.y[3]), 1, 1e-6, 0);
}

TEST(softmax_variants_without_a_meaning_are_refused_in_the_standard_dialect) {
  check_refused("standard", SOFTMAX("nonsense"), "layers[0].softmax_variant: unknown softmax variant 'nonsense'");
  check_refused("standard", SOFTMAX("adaptive"), "layers[0].softmax_variant: unknown softmax variant 'adaptive'");
  check_refused("standard", SOFTMAX("grid"), "layers[0].softmax_rows: softmax variant 'grid' needs it");
  check_refused("standard", "{\"type\":\"softmax\",\"softmax_variant\":\"masked\",\"mask\":[true]}", "the mask is for 1 values, found 2");
  check_refused("standard", "{\"type\":\"softmax\",\"softmax_variant\":\"hierarchical\",\"hierarchy_levels\":[2,2]}", "product of the levels is not 2");
  check_refused("loom", "{\"type\":\"softmax\",\"softmax_variant\":\"masked\",\"mask\":[1]}", "layers[0].mask: expected true or false at place 0");
}

/* ---- Dense, embedding ---- */

/* A bundle of the loom dialect around one layer's cfg and weights (Base64 of their JSON); batch_size 1. */
static result run_bundle(const char *layer, const char *base64, const float *x, size_t n) {
  char text[4096];
  hd_model *model = NULL;
  result r = {.err = {0}};
  int size = snprintf(text, sizeof text, "{\"type\":\"modelhost/bundle\",\"models\":[{\"id\":\"m\",\"cfg\":{\"batch_size\":1,\"grid_rows\":1,\"grid_cols\":1,"
    "\"layers_per_cell\":1,\"layers\":[%s]},\"weights\":{\"data\":\"%s\"}}]}", layer, base64);
  r.status = hd_model_load_bundle(&model, text, (size_t)size, "m", &r.err);
  return r.status == HD_OK ? forward_of(model, x, 0, n) : r;
}

TEST(a_short_dense_kernel_ends_in_zeros_in_the_loom_dialect) {
  /* {"layers":[{"kernel":[1,2,3],"biases":[]}]} */
  const float x[2] = {10, 100}, want[2] = {341, 22};
  const result r = run_bundle("{\"type\":\"dense\",\"activation\":\"relu\",\"input_height\":2,\"output_height\":2}",
                              "eyJsYXllcnMiOlt7Imtlcm5lbCI6WzEsMiwzXSwiYmlhc2VzIjpbXX1dfQ==", x, 2);
  check_values(&r, want, 2, 1e-4);
}

TEST(L6_centres_that_a_loom_bundle_lacks_are_drawn_the_same_each_time) {
  /* {"layers":[{}]} */
  static const char layer[] = "{\"type\":\"kmeans\",\"num_clusters\":3,\"cluster_dim\":2,\"branches\":[{\"type\":\"softmax\"}]}";
  const float x[2] = {0.5f, 2};
  const result a = run_bundle(layer, "eyJsYXllcnMiOlt7fV19", x, 2), b = run_bundle(layer, "eyJsYXllcnMiOlt7fV19", x, 2);
  if (!CHECK_EQ(a.status, HD_OK)) printf("# %s\n", a.err.message);
  CHECK_EQ_BITS(a.y, b.y, 3 * sizeof *a.y);
  CHECK_NEAR((double)(a.y[0] + a.y[1] + a.y[2]), 1, 1e-6, 0);
  CHECK(a.y[0] != a.y[1]);
}

TEST(L17_an_id_outside_the_vocabulary_is_zeros_in_the_loom_dialect_and_refused_in_the_standard_one) {
  static const char layer[] = "{\"type\":\"embedding\",\"vocab_size\":3,\"embedding_dim\":2}";
  const float ids[4] = {1.9f, 3, -1, NAN};
  const result loom = run("loom", layer, ids, 0, 4), standard = run("standard", layer, ids, 0, 4);
  const float zeros[6] = {0};
  CHECK_EQ(loom.n, 8);
  CHECK(loom.y[0] != 0);
  CHECK_EQ_BITS(loom.y + 2, zeros, sizeof zeros);
  CHECK_EQ(standard.status, HD_BAD_ARGUMENT);
  CHECK(strstr(standard.err.message, "id 3 at position 1 is outside the vocabulary of 3") != NULL);
}

/* ---- kmeans ---- */

#define KMEANS(rest) "{\"type\":\"kmeans\",\"num_clusters\":3,\"cluster_dim\":2," rest "\"branches\":[" LINEAR "]}"

TEST(L7_the_modes_of_kmeans_give_probabilities_or_features) {
  result r = run("standard", KMEANS(""), two_rows, 2, 2);
  CHECK_EQ(r.n, 6);
  for (int row = 0; row < 2; row++) CHECK_NEAR((double)(r.y[3 * row] + r.y[3 * row + 1] + r.y[3 * row + 2]), 1, 1e-6, 0);
  const result features = run("standard", KMEANS("\"kmeans_output_mode\":\"features\","), two_rows, 2, 2);
  const result again = run("standard", KMEANS("\"kmeans_output_mode\":\"reconstruction\","), two_rows, 2, 2);
  CHECK_EQ(features.n, 4);
  CHECK_EQ_BITS(features.y, again.y, 4 * sizeof *again.y);
  check_refused("standard", KMEANS("\"kmeans_output_mode\":\"nonsense\","), "layers[0].kmeans_output_mode: expected 'probabilities', 'features' or 'reconstruction', found 'nonsense'");
  check_refused("standard", KMEANS("\"distance_metric\":\"nonsense\","), "layers[0].distance_metric: unknown distance 'nonsense'");
}

TEST(L8_kmeans_layers_nest_three_deep_under_either_key) {
  static const char layer[] = "{\"type\":\"kmeans\",\"num_clusters\":2,\"attached_layer\":{\"type\":\"kmeans\",\"num_clusters\":3,\"kmeans_output_mode\":\"features\","
    "\"attached_layer\":{\"type\":\"kmeans\",\"num_clusters\":4,\"branches\":[{\"type\":\"linear\",\"in_features\":2,\"out_features\":5}]}}}";
  const result r = run("standard", layer, two_rows, 2, 2);
  if (!CHECK_EQ(r.status, HD_OK)) printf("# %s\n", r.err.message);
  CHECK_EQ(r.n, 4);
  CHECK_NEAR((double)(r.y[2] + r.y[3]), 1, 1e-6, 0);
}
