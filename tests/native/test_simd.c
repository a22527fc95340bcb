/* kernels/simd.h: the words of this build's header against plain C, lane by lane. Whole kernels are compared
 * with their scalar twins in the tests of the kernels. */
#include "test.h"

#include "base/dtype.h"
#include "kernels/vmath.h"

static const float odd_values[] = {0.0f, -0.0f, 1.0f, -1.5f, 2.5f, -3.5f, 1e-40f, -1e-45f, 3e38f, -3e38f, INFINITY, -INFINITY, NAN, 0.1f, 4194303.5f, 7.0f};
enum { N_ODD = sizeof odd_values / sizeof *odd_values };

typedef struct lanes {
  float at[4];
} lanes;

static lanes lanes_of(v_f32 v) {
  lanes l;
  v_store(l.at, v);
  return l;
}

static lanes mask_lanes(v_i32 v) { return lanes_of(v_as_f32(v)); }

/* Bits equal, or both NaN. */
static bool same(float a, float b) { return (isnan(a) && isnan(b)) || memcmp(&a, &b, sizeof a) == 0; }

TEST(arithmetic_is_ieee_lane_by_lane) {
  for (size_t i = 0; i < N_ODD; i++)
    for (size_t j = 0; j < N_ODD; j++) {
      float a = odd_values[i], b = odd_values[j];
      v_f32 va = v_load((float[]){1, a, 2, a}), vb = v_load((float[]){3, b, b, 4});
      CHECK(same(lanes_of(v_add(va, vb)).at[1], a + b));
      CHECK(same(lanes_of(v_sub(va, vb)).at[1], a - b));
      CHECK(same(lanes_of(v_mul(va, vb)).at[1], a * b));
      CHECK(same(lanes_of(v_div(va, vb)).at[1], a / b));
      CHECK(same(lanes_of(v_min(va, vb)).at[1], b < a ? b : a));
      CHECK(same(lanes_of(v_max(va, vb)).at[1], a < b ? b : a));
      CHECK(isnan(mask_lanes(v_lt(va, vb)).at[1]) == (a < b));
      CHECK(isnan(mask_lanes(v_eq(va, vb)).at[1]) == (a == b));
      CHECK(same(lanes_of(v_select(v_lt(va, vb), va, vb)).at[1], a < b ? a : b));
    }
  for (size_t i = 0; i < N_ODD; i++) {
    CHECK(same(lanes_of(v_sqrt(v_splat(odd_values[i]))).at[3], sqrtf(odd_values[i])));
    CHECK(same(lanes_of(v_abs(v_splat(odd_values[i]))).at[0], fabsf(odd_values[i])));
  }
}

TEST(madd_is_two_roundings_unless_relaxed) {
  float a = 1.0f + 0x1p-12f, b = a, c = -1.0f;
  float sum = lanes_of(v_madd(v_splat(a), v_splat(b), v_splat(c))).at[2];
#ifdef HD_RELAXED
  CHECK(sum == a * b + c || sum == fmaf(a, b, c));
#else
  CHECK(sum == a * b + c && sum != fmaf(a, b, c));
#endif
}

TEST(rounding_is_to_nearest_even) {
  const float from[] = {0.5f, 1.5f, -0.5f, -2.5f, 126.49999f, -127.5f, 4194304.0f, -0.4f};
  for (size_t i = 0; i < 8; i++) {
    CHECK(lanes_of(v_round(v_splat(from[i]))).at[1] == rintf(from[i]));
    int32_t whole[4];
    vi_store(whole, v_round_i32(v_splat(from[i])));
    CHECK(whole[3] == (int32_t)rintf(from[i]));
    CHECK(lanes_of(v_from_i32(v_round_i32(v_splat(from[i])))).at[2] == rintf(from[i]));
  }
}

TEST(integer_words_wrap_and_keep_signs) {
  int32_t r[4];
  vi_store(r, vi_add(vi_splat(INT32_MAX), vi_splat(1)));
  CHECK(r[0] == INT32_MIN);
  vi_store(r, vi_sub(vi_splat(INT32_MIN), vi_splat(1)));
  CHECK(r[1] == INT32_MAX);
  vi_store(r, vi_shift_right(vi_splat(-5), 1));
  CHECK(r[2] == -3);
  vi_store(r, vi_shift_left(vi_splat(-5), 30));
  CHECK(r[3] == INT32_MIN + (1 << 30));
  vi_store(r, vi_max(vi_splat(-5), vi_splat(3)));
  CHECK(r[0] == 3);
  vi_store(r, vi_gt(vi_splat(4), vi_splat(3)));
  CHECK(r[1] == -1);
  vi_store(r, vi_load_i16((int16_t[]){-1, 2, -32768, 32767}));
  CHECK_EQ_BITS(r, ((int32_t[]){-1, 2, -32768, 32767}), sizeof r);
  vi_store(r, vi_load_i8((int8_t[]){-1, 2, -128, 127}));
  CHECK_EQ_BITS(r, ((int32_t[]){-1, 2, -128, 127}), sizeof r);
}

TEST(f16_and_bf16_loads_are_exact_for_all_codes) {
  for (uint32_t code = 0; code < 65536; code += 4) {
    uint16_t *four = malloc(4 * sizeof *four); /* exactly four: nothing behind them is read */
    for (uint32_t i = 0; i < 4; i++) four[i] = (uint16_t)(code + i);
    lanes f16 = lanes_of(v_load_f16(four)), bf16 = lanes_of(v_load_bf16(four));
    for (uint32_t i = 0; i < 4; i++) {
      float should = hd_f16_to_f32(four[i]), should_bf = hd_bf16_to_f32(four[i]);
      CHECK_EQ_BITS(&f16.at[i], &should, sizeof should);
      CHECK_EQ_BITS(&bf16.at[i], &should_bf, sizeof should_bf);
    }
    free(four);
  }
}

TEST(finite_f16_loads_are_exact_for_all_finite_codes) {
  for (uint32_t code = 0; code < 65536; code += 4) {
    const uint16_t four[4] = {(uint16_t)code, (uint16_t)(code + 1), (uint16_t)(code + 2), (uint16_t)(code + 3)};
    lanes is = lanes_of(v_load_f16_finite(four));
    for (size_t i = 0; i < 4; i++) {
      float should = hd_f16_to_f32(four[i]);
      if (isfinite(should)) CHECK_EQ_BITS(&is.at[i], &should, sizeof should);
    }
  }
}

TEST(nibbles_are_the_halves_of_bytes) {
  int8_t bytes[16], low[16], high[16];
  for (int i = 0; i < 16; i++) bytes[i] = (int8_t)(uint8_t)(17 * i + 5 * (i % 3));
  v_f32 as_low, as_high;
  v_i8 low_half = v8_low_nibbles(v8_load(bytes)), high_half = v8_high_nibbles(v8_load(bytes));
  memcpy(&as_low, &low_half, sizeof as_low);
  memcpy(&as_high, &high_half, sizeof as_high);
  memcpy(low, lanes_of(as_low).at, sizeof low);
  memcpy(high, lanes_of(as_high).at, sizeof high);
  for (int i = 0; i < 16; i++) CHECK(low[i] == ((uint8_t)bytes[i] & 15) && high[i] == (uint8_t)bytes[i] >> 4);
}

TEST(int16_of_nibbles_are_bits_of_each_16_and_their_dot_is_exact) {
  int8_t bytes[16];
  const int16_t two[2] = {-127, 1001};
  for (int i = 0; i < 16; i++) bytes[i] = (int8_t)(uint8_t)(29 * i + 7);
  v_i8 x = v8_load(bytes);
  const v_i16 nibbles[4] = {v16_nibbles(x, 0), v16_nibbles(x, 1), v16_nibbles(x, 2), v16_nibbles(x, 3)};
  for (int n = 0; n < 4; n++) {
    int32_t is[4];
    vi_store(is, v_dot_i16(vi_splat(-5), nibbles[n], v16_splat2(two)));
    for (int lane = 0; lane < 4; lane++) {
      int first = (uint8_t)bytes[4 * lane + n / 2] >> n % 2 * 4 & 15, second = (uint8_t)bytes[4 * lane + 2 + n / 2] >> n % 2 * 4 & 15;
      CHECK(is[lane] == -5 + first * -127 + second * 1001);
    }
  }
}

TEST(horizontal_sums_have_one_order) {
  float a[4] = {1e8f, 1.0f, -1e8f, 3.0f}, b[4] = {0.1f, 0.2f, 0.3f, 0.4f}, c[4] = {1, 2, 3, 4}, d[4] = {-1, 1e-3f, 7, 1e5f};
  lanes four = lanes_of(v_sum4(v_load(a), v_load(b), v_load(c), v_load(d)));
  const float *rows[4] = {a, b, c, d};
  for (size_t i = 0; i < 4; i++) {
    float should = (rows[i][0] + rows[i][1]) + (rows[i][2] + rows[i][3]);
    CHECK(four.at[i] == should && v_sum(v_load(rows[i])) == should);
  }
  CHECK(v_max_lane(v_load(a)) == 1e8f && v_max_lane(v_load(c)) == 4);
}

TEST(parts_touch_only_their_values) {
  for (size_t n = 1; n < 4; n++) {
    float *from = test_random_floats(n), *to = malloc(n * sizeof *to);
    lanes l = lanes_of(v_load_part(from, n));
    for (size_t i = 0; i < 4; i++) CHECK(l.at[i] == (i < n ? from[i] : 0));
    v_store_part(to, v_load_part(from, n), n);
    CHECK_EQ_BITS(to, from, n * sizeof *to);
    free(from);
    free(to);
  }
}

static int32_t product_sum(const int8_t *a, const int16_t *b, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

TEST(integer_dots_are_exact) {
  for (int round = 0; round < 200; round++) {
    int8_t a[16], b[16];
    int16_t wide[16], four[4];
    for (size_t i = 0; i < 16; i++) {
      a[i] = (int8_t)(round == 0 ? -128 : (int)(test_random() & 255) - 128);
      b[i] = (int8_t)(round == 0 ? 127 : (int)(test_random() & 127));
      wide[i] = b[i];
    }
    for (size_t i = 0; i < 4; i++) four[i] = (int16_t)(round == 0 ? -127 : (int)(test_random() % 255) - 127);
    int32_t r[4], low[4], high[4], pairs[4];
    vi_store(r, v_dot_i8(vi_splat(7), v8_load(a), v8_load(b)));
    vi_store(low, v_dot_i16_low(vi_splat(-3), v8_load(a), v16_splat4(four)));
    vi_store(high, v_dot_i16_high(vi_splat(-3), v8_load(a), v16_splat4(four)));
    vi_store(pairs, vi_add_pairs(v_dot_i16_low(vi_splat(0), v8_load(a), v16_splat4(four)), v_dot_i16_high(vi_splat(0), v8_load(a), v16_splat4(four))));
    for (size_t i = 0; i < 4; i++) {
      CHECK(r[i] == 7 + product_sum(a + 4 * i, wide + 4 * i, 4));
      CHECK(low[i] == -3 + product_sum(a + 2 * i, four + 2 * (i % 2), 2));
      CHECK(high[i] == -3 + product_sum(a + 8 + 2 * i, four + 2 * (i % 2), 2));
      CHECK(pairs[i] == product_sum(a + 4 * i, four, 4));
    }
    int8_t splat[16];
    v_i8 repeated = v8_splat4(a + 3);
    memcpy(splat, &repeated, sizeof splat);
    for (size_t i = 0; i < 16; i++) CHECK(splat[i] == a[3 + i % 4]);
  }
}
