/* arch.c: the table of model families, by config.json's model_type. */
#include "graph/arch.h"

#include "base/status.h"

#include <stdio.h>
#include <string.h>

static const hd_arch *const families[] = {
  &hd_arch_llama, &hd_arch_gemma, &hd_arch_gpt2, &hd_arch_bert,
};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

/* Which of the family's types it is; past the last: none. */
static size_t type_of(const hd_arch *arch, const char *model_type) {
  size_t i = 0;
  while (arch->model_type(i) && strcmp(arch->model_type(i), model_type) != 0) i++;
  return i;
}

const hd_arch *hd_arch_find(const char *model_type) {
  for (size_t f = 0; f < N_FAMILIES; f++)
    if (families[f]->model_type(type_of(families[f], model_type))) return families[f];
  return NULL;
}

hd_status hd_arch_build(const hd_arch *arch, hd_model *model, const hd_json *config, hd_error *err) {
  const char *model_type = hd_json_get_text(config, "model_type", "");
  const size_t type = type_of(arch, model_type);
  char room[HD_NAME_ROOM];
  if (!arch->model_type(type))
    return hd_fail(err, HD_UNSUPPORTED, "config.json: model_type '%s' is no kind of %s", hd_short_name(room, model_type), arch->name);
  return arch->build(model, type, config, err);
}

const char *hd_arch_list(char *room, size_t n) {
  size_t at = 0;
  room[0] = 0;
  for (size_t f = 0; f < N_FAMILIES; f++)
    for (size_t i = 0; families[f]->model_type(i) && at < n; i++)
      at += (size_t)snprintf(room + at, n - at, "%s%s", at ? ", " : "", families[f]->model_type(i));
  return room;
}

/* ---- Names ---- */

/* A name without what says only where in a larger model, or under which class, it was saved. */
const char *hd_arch_bare_name(const char *name) {
  static const char *const before[] = {"base_model.", "language_model.", "model.", "transformer.", "bert.", "roberta."};
  for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
    size_t n = strlen(before[i]);
    if (strncmp(name, before[i], n) != 0) continue;
    name += n;
    i = (size_t)-1; /* from the first again: language_model.model. */
  }
  return name;
}

const char *hd_arch_newer_name(char *room, size_t n, const char *name) {
  static const char *const older[][2] = {{"gamma", "weight"}, {"beta", "bias"}};
  const char *dot = strrchr(name, '.'), *last = dot ? dot + 1 : name;
  for (int i = 0; i < 2; i++) {
    if (strcmp(last, older[i][0]) != 0) continue;
    snprintf(room, n, "%.*s%s", (int)(last - name), name, older[i][1]);
    return room;
  }
  return NULL;
}

/* ---- What is not built ---- */

/* Parts of a model_type, and what a model that has one is. The first that matches is said. */
static const struct {
  const char *part, *what;
} others[] = {
  {"encoder-decoder", "an encoder-decoder"}, {"t5", "an encoder-decoder"}, {"bart", "an encoder-decoder"}, {"marian", "an encoder-decoder"},
  {"bert", "an encoder that differs from BERT"}, {"detr", "a vision model"}, {"yolo", "a vision model"}, {"vit", "a vision model"},
  {"deit", "a vision model"}, {"swin", "a vision model"}, {"beit", "a vision model"},
};

static void lower_case(char *room, size_t n, const char *text) {
  size_t i = 0;
  for (; text[i] && i + 1 < n; i++) room[i] = text[i] >= 'A' && text[i] <= 'Z' ? (char)(text[i] - 'A' + 'a') : text[i];
  room[i] = 0;
}

/* Refuses a type that is known to be something else. */
static hd_status check_unknown(const char *type, hd_error *err) {
  char lower[HD_NAME_ROOM], room[HD_NAME_ROOM], list[256];
  lower_case(lower, sizeof lower, type);
  hd_short_name(room, type);
  hd_arch_list(list, sizeof list);
  for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
    if (strstr(lower, others[i].part))
      return hd_fail(err, HD_UNSUPPORTED, "config.json: model_type '%s' is %s, which is not built; known: %s", room, others[i].what, list);
  return HD_OK;
}

/* A text model inside something larger: its weights have other names and other parts. */
static hd_status check_architectures(const hd_json *config, hd_error *err) {
  const cJSON *each, *list = cJSON_GetObjectItem(config->node, "architectures");
  char lower[HD_NAME_ROOM], room[HD_NAME_ROOM];
  cJSON_ArrayForEach(each, list) {
    if (!cJSON_IsString(each)) continue;
    lower_case(lower, sizeof lower, each->valuestring);
    if (strstr(lower, "conditionalgeneration") || strstr(lower, "encoderdecoder"))
      return hd_fail(err, HD_UNSUPPORTED, "config.json: architectures: '%s' has parts beside its text model, which are not built",
                     hd_short_name(room, each->valuestring));
  }
  return HD_OK;
}

hd_status hd_arch_choose(const hd_arch **out, const hd_json *config, hd_error *err) {
  const char *type = hd_json_get_text(config, "model_type", "");
  if (*config->status != HD_OK) return *config->status;
  *out = hd_arch_find(type);
  if (!*out) HD_TRY(check_unknown(type, err));
  return check_architectures(config, err);
}
