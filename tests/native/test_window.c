/* Layers with a sliding window keep of the past what a row may still look at, and nothing changes: what a session computes that gave up old
 * positions again and again is what a trace computes of the whole text at once, where everything is kept. */
#include "families.h"

enum { LENGTH = 1000, CONTEXT = 1200, MOST_CALL = 64 };

typedef struct text {
  golden g;
  hd_model *model;
  int32_t ids[LENGTH];
  float *logits; /* [LENGTH, vocabulary], of the whole at once */
  size_t vocabulary;
} text;

static bool read_text(text *t, const char *name) {
  hd_error err = {0};
  hd_session *whole = NULL;
  hd_tensor out = {0};
  *t = (text){0};
  printf("# %s\n", name);
  t->model = read_golden(&t->g, name, "config.json") ? load(&t->g) : NULL;
  if (!t->model) return false;
  test_random_state = 11;
  for (size_t i = 0; i < LENGTH; i++) t->ids[i] = (int32_t)(test_random() % 250);
  const hd_session_options options = {.mode = HD_TRACE, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {LENGTH}}};
  bool ok = CHECK_EQ(hd_session_new(&whole, t->model, &options, &err), HD_OK) && CHECK_EQ(hd_session_reserve(whole, LENGTH, &err), HD_OK) &&
            CHECK_EQ(hd_decode(whole, t->ids, LENGTH, &err), HD_OK) &&
            CHECK_EQ(hd_session_output(whole, &out, &err), HD_OK);
  t->vocabulary = ok ? out.shape[1] : 0;
  t->logits = malloc(LENGTH * t->vocabulary * sizeof(float) + 1);
  if (ok) memcpy(t->logits, out.data, LENGTH * t->vocabulary * sizeof(float));
  hd_session_free(whole);
  return ok;
}

static void free_text(text *t) {
  free(t->logits);
  CHECK_EQ(hd_model_free(t->model, NULL), HD_OK);
  free_golden(&t->g);
}

static hd_session *open_session(const text *t, size_t context) {
  const hd_session_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {MOST_CALL}}, .context = context};
  hd_session *s = NULL;
  hd_error err = {0};
  CHECK_EQ(hd_session_new(&s, t->model, &options, &err), HD_OK);
  return s;
}

/* Decodes from where the session is to `end`, in calls of any sizes, and compares every row. */
static bool go_on(const text *t, hd_session *s, size_t end) {
  static const size_t sizes[] = {MOST_CALL, 1, 1, 37, 1, 2, 64, 5};
  hd_error err = {0};
  CHECK_EQ(hd_session_reserve(s, end, &err), HD_OK);
  for (size_t call = 0; hd_session_position(s) < end; call++) {
    size_t at = hd_session_position(s), n = sizes[call % 8] < end - at ? sizes[call % 8] : end - at;
    hd_tensor out = {0};
    if (!CHECK_EQ(hd_decode(s, t->ids + at, n, &err), HD_OK) || !CHECK_EQ(hd_session_output(s, &out, &err), HD_OK)) return false;
    double most = 1, off = 0;
    for (size_t i = 0; i < n * t->vocabulary; i++) {
      double want = (double)t->logits[at * t->vocabulary + i], error = fabs((double)((const float *)out.data)[i] - want);
      most = fmax(most, fabs(want));
      off = error > off || isnan(error) ? error : off;
    }
    if (CHECK(off <= 1e-5 * most)) continue;
    printf("# at %zu: off by %g, allowed %g\n", at, off, 1e-5 * most);
    return false;
  }
  return true;
}

static const char *const names[] = {"mistral-swa", "qwen2-swa", "gemma2", "gemma3"};
enum { N_NAMES = sizeof names / sizeof *names };

TEST(a_text_many_windows_long_has_the_logits_of_the_whole_read_at_once) {
  for (int i = 0; i < N_NAMES; i++) {
    text t;
    if (read_text(&t, names[i])) {
      hd_session *s = open_session(&t, CONTEXT);
      go_on(&t, s, LENGTH);
      CHECK(s->sequence.begin > LENGTH / 2); /* it did give something up */
      hd_session_free(s);
    }
    free_text(&t);
  }
}

TEST(states_take_what_was_estimated_and_windows_no_more_than_they_need) {
  for (int i = 0; i < N_NAMES; i++) {
    text t;
    hd_error err = {0};
    if (read_text(&t, names[i])) {
      const hd_session_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {MOST_CALL}}, .context = CONTEXT};
      hd_session_size size;
      hd_session *s = open_session(&t, CONTEXT);
      CHECK_EQ(hd_session_estimate(&size, t.model, &options, &err), HD_OK);
      CHECK_EQ(hd_session_reserve(s, CONTEXT, &err), HD_OK);
      CHECK_EQ(hd_session_memory(s).state, size.state + CONTEXT * size.per_position);
      if (strcmp(names[i], "mistral-swa") == 0) CHECK_EQ(size.per_position, 0); /* every layer has the window */
      else CHECK(size.per_position > 0);
      hd_session_free(s);
    }
    free_text(&t);
  }
}

TEST(a_session_goes_back_as_far_as_its_windows_hold_or_to_the_beginning) {
  text t;
  hd_error err = {0};
  if (!read_text(&t, "gemma3")) return;
  hd_session *s = open_session(&t, CONTEXT);
  go_on(&t, s, LENGTH);
  const size_t least = s->sequence.begin + s->kept;
  CHECK(least > 0 && least < LENGTH);
  CHECK_EQ(hd_session_rewind(s, least - 1, &err), HD_UNSUPPORTED);
  if (!CHECK(strstr(err.message, "layers with a window hold"))) printf("# %s\n", err.message);
  CHECK_EQ(hd_session_position(s), LENGTH);
  CHECK_EQ(hd_session_rewind(s, least, &err), HD_OK);
  go_on(&t, s, LENGTH);
  CHECK_EQ(hd_session_rewind(s, 0, &err), HD_OK);
  go_on(&t, s, 300);
  CHECK_EQ(hd_session_rewind(s, 1, &err), HD_UNSUPPORTED);
  hd_session_free(s);
  free_text(&t);
}

/* The state of `s` in a session of its own, which goes on from there. */
static void check_copy(const text *t, const void *state, size_t n, size_t context) {
  hd_error err = {0};
  hd_session *copy = open_session(t, context);
  if (!CHECK_EQ(hd_session_load_state(copy, state, n, &err), HD_OK)) printf("# %s\n", err.message);
  go_on(t, copy, LENGTH);
  hd_session_free(copy);
}

TEST(a_saved_state_begins_where_its_windows_do_and_goes_on_in_any_room) {
  for (int i = 0; i < N_NAMES; i++) {
    text t;
    hd_error err = {0};
    if (read_text(&t, names[i])) {
      hd_session *s = open_session(&t, CONTEXT);
      go_on(&t, s, LENGTH - 90);
      size_t n = hd_session_state_bytes(s);
      uint8_t *state = malloc(n);
      CHECK_EQ(hd_session_save_state(s, state, n, &err), HD_OK);
      check_copy(&t, state, n, CONTEXT);
      check_copy(&t, state, n, LENGTH);
      check_copy(&t, state, n, 40 * CONTEXT);
      uint64_t begin;
      memcpy(&begin, state + 16, sizeof begin);
      CHECK_EQ(begin, s->sequence.begin);
      for (uint64_t bad = begin - 1; bad; bad = bad == begin - 1 ? LENGTH - 90 : bad == LENGTH - 90 ? UINT64_MAX : 0) {
        memcpy(state + 16, &bad, sizeof bad);
        CHECK_EQ(hd_session_load_state(s, state, n, &err), HD_BAD_FILE);
      }
      CHECK_EQ(hd_session_position(s), LENGTH - 90);
      free(state);
      hd_session_free(s);
    }
    free_text(&t);
  }
}

TEST(a_session_that_keeps_everything_goes_on_from_a_state_that_did_not) {
  text t;
  hd_error err = {0};
  if (!read_text(&t, "gemma3")) return;
  hd_session *s = open_session(&t, CONTEXT), *whole = NULL;
  go_on(&t, s, LENGTH - 90);
  size_t n = hd_session_state_bytes(s), begin = s->sequence.begin;
  uint8_t *state = malloc(n);
  CHECK_EQ(hd_session_save_state(s, state, n, &err), HD_OK);
  const hd_session_options options = {.mode = HD_TRACE, .input = {.dtype = HD_I32, .n_dims = 1, .shape = {MOST_CALL}}, .context = CONTEXT};
  CHECK_EQ(hd_session_new(&whole, t.model, &options, &err), HD_OK);
  CHECK_EQ(hd_session_load_state(whole, state, n, &err), HD_OK);
  CHECK_EQ(hd_session_rewind(whole, begin - 1, &err), HD_UNSUPPORTED);
  CHECK_EQ(hd_session_rewind(whole, begin + 1, &err), HD_UNSUPPORTED);
  go_on(&t, whole, LENGTH);
  hd_session_free(whole);
  hd_session_free(s);
  const hd_session_options training = {.mode = HD_TRAIN, .input = options.input, .context = CONTEXT};
  CHECK_EQ(hd_session_new(&s, t.model, &training, &err), HD_OK);
  CHECK_EQ(hd_session_load_state(s, state, n, &err), HD_BAD_STATE);
  free(state);
  hd_session_free(s);
  free_text(&t);
}

TEST(a_context_of_millions_costs_what_is_used_of_it) {
  text t;
  if (!read_text(&t, "qwen2-swa")) return;
  hd_session *s = open_session(&t, 1 << 24);
  hd_memory_report before = hd_session_memory(s);
  CHECK(before.other + before.arena + before.state < 2 << 20);
  go_on(&t, s, LENGTH);
  CHECK(hd_session_memory(s).other < before.other + (2 << 20));
  hd_session_free(s);
  free_text(&t);
}

TEST(a_short_text_that_kept_everything_goes_on_where_windows_are_cut) {
  text t;
  hd_error err = {0};
  if (!read_text(&t, "mistral-swa")) return;
  hd_session *s = open_session(&t, 200); /* less than a window and its slack: nothing is given up */
  go_on(&t, s, 200);
  CHECK_EQ(s->sequence.begin, 0);
  size_t n = hd_session_state_bytes(s);
  uint8_t *state = malloc(n);
  CHECK_EQ(hd_session_save_state(s, state, n, &err), HD_OK);
  check_copy(&t, state, n, CONTEXT);
  free(state);
  hd_session_free(s);
  free_text(&t);
}

TEST(sessions_in_a_batch_give_up_their_own_past) {
  text t;
  hd_error err = {0};
  if (!read_text(&t, "gemma3")) return;
  hd_session *s[2] = {open_session(&t, CONTEXT), open_session(&t, CONTEXT)};
  const hd_batch_options options = {.input = {.dtype = HD_I32, .n_dims = 1, .shape = {2}}, .sequences = 2, .context = CONTEXT};
  hd_batch *b = NULL;
  CHECK_EQ(hd_batch_new(&b, t.model, &options, &err), HD_OK);
  go_on(&t, s[0], 500);
  for (size_t i = 0; i < 500; i++) {
    const int32_t ids[] = {t.ids[i], t.ids[500 + i]};
    const hd_tensor input = {.dtype = HD_I32, .n_dims = 1, .shape = {2}, .data = (void *)(uintptr_t)ids};
    const hd_batch_part parts[] = {{s[1], 1}, {s[0], 1}};
    for (int k = 0; k < 2; k++) CHECK_EQ(hd_session_reserve(s[k], hd_session_position(s[k]) + 1, &err), HD_OK);
    if (!CHECK_EQ(hd_batch_forward(b, &input, parts, 2, &err), HD_OK)) break;
  }
  hd_tensor out = {0};
  CHECK_EQ(hd_session_output(s[0], &out, &err), HD_OK);
  double off = 0;
  for (size_t i = 0; i < t.vocabulary; i++) off = fmax(off, fabs((double)((const float *)out.data)[i] - (double)t.logits[(LENGTH - 1) * t.vocabulary + i]));
  CHECK(off < 1e-4 && s[0]->sequence.begin > 500);
  hd_batch_free(b);
  go_on(&t, s[1], LENGTH);
  hd_session_free(s[0]);
  hd_session_free(s[1]);
  free_text(&t);
}
