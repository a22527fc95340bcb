/* Affine codes: fits at their limits, channels one after the other and interleaved, and a quantised bundle without memory. Values against NumPy's:
 * tests/node/quantised-bundles.test.mjs. */
#include "format/affine.h"
#include "networks.h"

TEST(affine_rows_are_found_by_name) {
  CHECK(hd_affine_find("int8") == hd_affine_at(0) && hd_affine_find("uint16") && !hd_affine_find("int4") && !hd_affine_find("") && !hd_affine_at(4));
}

TEST(affine_symmetric_codes_are_even_around_zero_and_ties_go_to_even) {
  const float values[] = {-2, 2, 0, 0.5f / 127, 1.0f / 127, -1e-9f};
  const hd_channels all = {6, 1, false};
  uint8_t codes[6];
  float back[6];
  hd_affine fitted;
  hd_affine_fit(hd_affine_find("int8"), true, values, &all, &fitted);
  CHECK(fitted.scale == 2.0f / 127 && fitted.zero_point == 0);
  fitted.scale = 1.0f / 127; /* given: 2 is out of its reach */
  hd_affine_encode(hd_affine_find("int8"), true, values, &all, &fitted, codes);
  const int8_t want[] = {-127, 127, 0, 0, 1, 0};
  CHECK(memcmp(codes, want, 6) == 0);
  hd_affine_decode(hd_affine_find("int8"), codes, &all, &fitted, back);
  CHECK(back[0] == -1.0f && back[1] == 1.0f && back[4] == 1.0f / 127);
}

TEST(affine_zero_is_a_code_whatever_the_values) {
  static const float cases[][2] = {{3, 5}, {-5, -3}, {0, 0}, {-1e38f, 3e38f}, {-3.4e38f, 3.4e38f}, {1e-45f, 0}, {-0.0f, 0}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
    for (size_t d = 0; hd_affine_at(d); d++) {
      const hd_affine_dtype *dtype = hd_affine_at(d);
      const hd_channels all = {2, 1, false};
      hd_affine fitted;
      uint8_t codes[8];
      float zeros[2] = {0, 0}, back[2];
      hd_affine_fit(dtype, false, cases[i], &all, &fitted);
      CHECK(isfinite(fitted.scale) && fitted.scale > 0 && fitted.zero_point >= dtype->low && fitted.zero_point <= dtype->high);
      hd_affine_encode(dtype, false, zeros, &all, &fitted, codes);
      hd_affine_decode(dtype, codes, &all, &fitted, back);
      if (!CHECK(back[0] == 0 && back[1] == 0)) printf("# case %zu, %s: %g\n", i, dtype->name, (double)back[0]);
      hd_affine_encode(dtype, false, cases[i], &all, &fitted, codes);
      hd_affine_decode(dtype, codes, &all, &fitted, back);
      for (int k = 0; k < 2; k++)
        if (!CHECK(fabs((double)back[k] - (double)cases[i][k]) <= (double)fitted.scale * 1.01)) printf("# case %zu, %s: %g\n", i, dtype->name, (double)back[k]);
    }
}

TEST(affine_channels_lie_together_or_interleaved) {
  const float rows[] = {1, 2, 4, 10, 20, 40}, columns[] = {1, 10, 2, 20, 4, 40};
  const hd_channels together = {6, 2, false}, interleaved = {6, 2, true};
  hd_affine a[2], b[2];
  uint8_t x[12], y[12];
  const hd_affine_dtype *int16 = hd_affine_find("int16");
  hd_affine_fit(int16, true, rows, &together, a);
  hd_affine_fit(int16, true, columns, &interleaved, b);
  CHECK(memcmp(a, b, sizeof a) == 0 && a[0].scale == 4.0f / 32767 && a[1].scale == 40.0f / 32767);
  hd_affine_encode(int16, true, rows, &together, a, x);
  hd_affine_encode(int16, true, columns, &interleaved, b, y);
  for (size_t i = 0; i < 3; i++) CHECK(memcmp(x + 2 * i, y + 4 * i, 2) == 0 && memcmp(x + 6 + 2 * i, y + 2 + 4 * i, 2) == 0);
}

TEST(quantised_bundle_without_memory_leaks_nothing) {
  hd_model *model = test_network("{\"type\":\"conv1d\",\"in_channels\":2,\"out_channels\":3,\"kernel_size\":2},{\"type\":\"linear\",\"in_features\":3,\"out_features\":2}", "[1,2,4]"), *back = NULL;
  const hd_quantization how = {.zero_point = true};
  char *text = NULL;
  size_t n, before = hd_memory_live(), k = 0;
  hd_error err;
  hd_status status = HD_OUT_OF_MEMORY;
  for (; status != HD_OK && k < 2000; k++) {
    hd_memory_fail_after(k);
    status = hd_model_save_quantized(&text, &n, model, "m", &how, &err);
    hd_memory_fail_after(SIZE_MAX);
    if (status != HD_OK) CHECK(!text && n == 0 && hd_memory_live() == before);
  }
  CHECK(status == HD_OK && k > 10);
  size_t with_text = hd_memory_live();
  status = HD_OUT_OF_MEMORY;
  for (k = 0; status != HD_OK && k < 2000; k++) {
    hd_memory_fail_after(k);
    status = hd_model_load_bundle(&back, text, n, "m", &err);
    hd_memory_fail_after(SIZE_MAX);
    if (status != HD_OK) CHECK(!back && hd_memory_live() == with_text);
  }
  CHECK(status == HD_OK && k > 10);
  hd_model_free(back, NULL);
  hd_text_free(text);
  hd_model_free(model, NULL);
}
