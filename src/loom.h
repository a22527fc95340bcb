/* loom.h: the C functions of Loom's library over heddle.h, for native programs that were written against them.
 *
 *     free_with(LoomLoadModel(bundle, "classifier"));     {"success":true}
 *     char *output = LoomForward(input, 784);             [0.1,0.7,…]
 *     FreeLoomString(output);
 *     FreeLoomNetwork();
 *
 * As there: one network a process, and not for several threads at once. Every char * given out is JSON text, to be given back with
 * FreeLoomString; a failure is {"error": "…"}, in heddle.h's words; NULL only when there is no memory even for that. A failed call leaves
 * the network as it was. Arithmetic is Loom's, with attention's output projection (docs/networks.md). A program that wants several
 * networks, or numbers without JSON, takes heddle.h.
 *
 * A program that uses cJSON itself shares ours, which is told before main to take its nodes from our allocator (base/json.c). cJSON_Delete
 * and cJSON_free are right for whatever cJSON made; free is not.
 *
 * Not here: what trains (LoomBackward, LoomTrain…, LoomApplyGradients…, tween), step states, k-means, correlation, grafts, trackers and
 * observers, the tensor registry (hd_directory_* of heddle.h), tokenizers and text, the GPU. */
#ifndef HEDDLE_LOOM_H
#define HEDDLE_LOOM_H

/* Builds a network from its JSON with drawn weights, the same at every call. {"status":"success","message":"network created"} */
char *CreateLoomNetwork(const char *json);
/* Takes the model called `id` from a bundle's text. {"success":true} */
char *LoomLoadModel(const char *json, const char *id);
/* The same: {"success":true,"stored_dtype":"int8"}. Weights become float32, whatever `dtype` says:
 * so it is in Loom. NULL is as good as any. */
char *LoomLoadModelWithDType(const char *json, const char *id, const char *dtype);
/* Forgets the network; harmless when there is none. */
void FreeLoomNetwork(void);

/* The network's output for n numbers, as an array. Planned anew when n changes; every call begins without state. An output that is not
 * finite is an error: JSON has no such numbers. */
char *LoomForward(const float *input, int n);

/* The bundle's text: weights as decimals, or in one of Loom's encodings ("float16", "int8", …). */
char *LoomSaveModel(const char *id);
char *LoomSaveModelWithDType(const char *id, const char *dtype);
/* hd_model_describe's JSON: dialect, layers, weights. */
char *LoomGetNetworkInfo(void);

void FreeLoomString(char *text);

/* ---- Learning rates: handles above 0, no network needed ---- */

long long LoomCreateConstantScheduler(float lr);
/* start + (end − start) · step / steps; end from there on. */
long long LoomCreateLinearDecayScheduler(float start, float end, int steps);
/* min + (start − min) · (1 + cos(π · step / steps)) / 2; min from there on. */
long long LoomCreateCosineScheduler(float start, float min, int steps);
/* 0 for a handle that is none. */
float LoomSchedulerGetLR(long long scheduler, int step);
/* "Constant", "LinearDecay", "CosineAnnealing", as plain text. NULL for a handle that is none. */
char *LoomSchedulerName(long long scheduler);
void LoomFreeScheduler(long long scheduler);

#endif
