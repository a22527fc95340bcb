/* loom.c: Loom's C functions (loom.h) over heddle.h. The only file with a network of its own: that is Loom's interface. */
#include "loom.h"

#include "base/memory.h"
#include "heddle.h"

#include <cJSON.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* The process's network, and a session planned for inputs of n_planned numbers. */
static struct {
  hd_model *model;
  hd_session *session;
  size_t n_planned;
} network;

/* ---- Texts ---- */

static char *text_of(cJSON *json) {
  char *text = cJSON_PrintUnformatted(json);
  cJSON_Delete(json);
  return text;
}

static char *error_text(const char *message) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddStringToObject(json, "error", message);
  return text_of(json);
}

static char *success_text(const char *key, const char *value) {
  cJSON *json = cJSON_CreateObject();
  cJSON_AddTrueToObject(json, "success");
  if (key) cJSON_AddStringToObject(json, key, value);
  return text_of(json);
}

static char *copy_of(const char *text) {
  size_t n = strlen(text) + 1;
  char *copy = hd_alloc(n);
  if (copy) memcpy(copy, text, n);
  return copy;
}

void FreeLoomString(char *text) { hd_text_free(text); }

/* ---- The network ---- */

static void drop_session(void) {
  hd_session_free(network.session);
  network.session = NULL;
  network.n_planned = 0;
}

void FreeLoomNetwork(void) {
  drop_session();
  hd_model_free(network.model, NULL);
  network.model = NULL;
}

static void put_network(hd_model *model) {
  FreeLoomNetwork();
  network.model = model;
}

char *CreateLoomNetwork(const char *json) {
  enum { SEED = 1 };
  hd_model *model;
  hd_error err;
  if (!json) return error_text("expected a network's JSON, found NULL");
  if (hd_model_build(&model, json, strlen(json), SEED, &err) != HD_OK) return error_text(err.message);
  put_network(model);
  cJSON *done = cJSON_CreateObject();
  cJSON_AddStringToObject(done, "status", "success");
  cJSON_AddStringToObject(done, "message", "network created");
  return text_of(done);
}

/* NULL, or the error's text. */
static char *load(const char *json, const char *id) {
  hd_model *model;
  hd_error err;
  if (!json || !id) return error_text("expected a bundle's text and a model's id, found NULL");
  if (hd_model_load_bundle(&model, json, strlen(json), id, &err) != HD_OK) return error_text(err.message);
  put_network(model);
  return NULL;
}

char *LoomLoadModel(const char *json, const char *id) {
  char *error = load(json, id);
  return error ? error : success_text(NULL, NULL);
}

char *LoomLoadModelWithDType(const char *json, const char *id, const char *dtype) {
  (void)dtype;
  char *error = load(json, id), *description;
  hd_error err;
  if (error) return error;
  if (hd_model_describe(&description, network.model, &err) != HD_OK) return error_text(err.message);
  cJSON *facts = cJSON_Parse(description);
  const char *stored = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(facts, "storedDtype"));
  char *done = success_text("stored_dtype", stored ? stored : "float32");
  cJSON_Delete(facts);
  hd_text_free(description);
  return done;
}

static const char no_network[] = "there is no network: CreateLoomNetwork or LoomLoadModel first";

static char *saved(const char *id, const char *dtype) {
  char *text;
  size_t n;
  hd_error err;
  if (!network.model) return error_text(no_network);
  if (!id) return error_text("expected a model's id, found NULL");
  return hd_model_save_bundle(&text, &n, network.model, id, dtype, &err) == HD_OK ? text : error_text(err.message);
}

char *LoomSaveModel(const char *id) { return saved(id, NULL); }
char *LoomSaveModelWithDType(const char *id, const char *dtype) { return saved(id, dtype); }

char *LoomGetNetworkInfo(void) {
  char *text;
  hd_error err;
  if (!network.model) return error_text(no_network);
  return hd_model_describe(&text, network.model, &err) == HD_OK ? text : error_text(err.message);
}

/* ---- Forward ---- */

static size_t elements_of(const hd_tensor *t) {
  size_t n = 1;
  for (int d = 0; d < t->n_dims; d++) n *= t->shape[d];
  return n;
}

/* The input that n numbers are: as many rows of the model's own input as they fill, or one flat list. */
static hd_tensor input_of(size_t n) {
  hd_tensor input = {0};
  hd_session *own;
  const hd_session_options options = {.mode = HD_INFER};
  if (hd_session_new(&own, network.model, &options, NULL) == HD_OK) hd_session_input(own, &input, NULL);
  hd_session_free(own);
  const size_t row = input.n_dims && input.shape[0] ? elements_of(&input) / input.shape[0] : 0;
  if (!row || n % row) return (hd_tensor){.dtype = HD_F32, .n_dims = 1, .shape = {n}};
  input.shape[0] = n / row;
  return input;
}

static hd_status plan(size_t n, hd_error *err) {
  if (network.session && network.n_planned == n) return hd_session_rewind(network.session, 0, err);
  drop_session();
  const hd_session_options options = {.mode = HD_INFER, .input = input_of(n)};
  hd_status status = hd_session_new(&network.session, network.model, &options, err);
  if (status == HD_OK) network.n_planned = n;
  return status;
}

static hd_status forward(const float *values, size_t n, hd_tensor *output, hd_error *err) {
  hd_tensor input;
  hd_status status = plan(n, err);
  if (status == HD_OK) status = hd_session_input(network.session, &input, err);
  if (status != HD_OK) return status;
  for (size_t i = 0; i < n; i++) {
    if (input.dtype == HD_I32) ((int32_t *)input.data)[i] = (int32_t)values[i];
    else ((float *)input.data)[i] = values[i];
  }
  status = hd_forward(network.session, &input, err);
  return status == HD_OK ? hd_session_output(network.session, output, err) : status;
}

/* [0.5,-1e-07,…]: nine digits give a float32 back. */
static char *array_text(const float *values, size_t n) {
  enum { MOST = 18 }; /* "-1.23456789e-38", and a comma */
  char *text = n < SIZE_MAX / MOST - 1 ? hd_alloc(n * MOST + 3) : NULL, *end = text;
  if (!text) return error_text("no memory for the output's text");
  *end++ = '[';
  for (size_t i = 0; i < n; i++) {
    if (!isfinite(values[i])) {
      hd_free(text);
      return error_text("the output is not finite, JSON cannot hold it");
    }
    end += snprintf(end, MOST, "%s%.9g", i ? "," : "", (double)values[i]);
  }
  memcpy(end, "]", 2);
  return text;
}

char *LoomForward(const float *input, int n) {
  hd_tensor output;
  hd_error err;
  if (!network.model) return error_text(no_network);
  if (!input || n <= 0) return error_text("expected at least one number as input");
  if (forward(input, (size_t)n, &output, &err) != HD_OK) return error_text(err.message);
  return array_text(output.data, elements_of(&output));
}

/* ---- Learning rates ---- */

static double constant(double start, double end, double share) { return (void)end, (void)share, start; }
static double linear(double start, double end, double share) { return start + (end - start) * share; }
static double cosine(double start, double end, double share) { return end + (start - end) * (1 + cos(3.141592653589793 * share)) / 2; }

typedef struct scheduler {
  const char *name;
  double (*lr)(double start, double end, double share);
  double start, end;
  int steps;
} scheduler;

/* A handle is a slot's number and one. */
enum { MAX_SCHEDULERS = 256 };
static scheduler *schedulers[MAX_SCHEDULERS];

static scheduler **slot_of(long long handle) { return handle > 0 && handle <= MAX_SCHEDULERS ? &schedulers[handle - 1] : NULL; }

/* 0 when there is no room for another. */
static long long add_scheduler(scheduler made) {
  for (int i = 0; i < MAX_SCHEDULERS; i++) {
    if (schedulers[i]) continue;
    if ((schedulers[i] = hd_alloc(sizeof made)) == NULL) return 0;
    *schedulers[i] = made;
    return i + 1;
  }
  return 0;
}

long long LoomCreateConstantScheduler(float lr) { return add_scheduler((scheduler){"Constant", constant, (double)lr, (double)lr, 0}); }

long long LoomCreateLinearDecayScheduler(float start, float end, int steps) {
  return add_scheduler((scheduler){"LinearDecay", linear, (double)start, (double)end, steps});
}

long long LoomCreateCosineScheduler(float start, float min, int steps) {
  return add_scheduler((scheduler){"CosineAnnealing", cosine, (double)start, (double)min, steps});
}

float LoomSchedulerGetLR(long long handle, int step) {
  scheduler *const *slot = slot_of(handle);
  if (!slot || !*slot) return 0;
  const scheduler *s = *slot;
  return (float)(step >= s->steps ? s->end : s->lr(s->start, s->end, (double)step / s->steps));
}

char *LoomSchedulerName(long long handle) {
  scheduler *const *slot = slot_of(handle);
  return slot && *slot ? copy_of((*slot)->name) : NULL;
}

void LoomFreeScheduler(long long handle) {
  scheduler **slot = slot_of(handle);
  if (!slot) return;
  hd_free(*slot);
  *slot = NULL;
}
