/**
 * sampling.ts: from a model's logits to the next token. Penalties and bans change logits; filters then keep the likeliest part; one draw
 * picks from what is kept. The order and the arithmetic are those of Hugging Face transformers' `generate`; presence and frequency
 * penalties, which it lacks, are OpenAI's.
 *
 *   onLogits → logitBias → repetitionPenalty → presencePenalty, frequencyPenalty → noRepeatNgram → badWords → minTokens → suppressTokens
 *   → jsonSchema (generate.ts bans what the schema forbids) → temperature → topK → topP → minP → typicalP → epsilonCutoff → softmax → draw
 *
 * Vocabularies are large (150,000 and more) and this runs once a token: no step sorts more than it has to.
 */
import { HeddleError } from './errors.js';

/** How the next token is chosen; what is missing does nothing. */
export interface SamplingOptions {
  /** 0 (the default): always the likeliest token, after penalties and bans. */
  temperature?: number;
  /** Only the k likeliest are drawn from (more, where the k-th has equals). */
  topK?: number;
  /** Only the smallest set of likeliest tokens whose probabilities reach this, 0 < p ≤ 1. */
  topP?: number;
  /** Only tokens at least this fraction as likely as the likeliest, 0 ≤ p ≤ 1. */
  minP?: number;
  /** Only the most typical tokens (Meister et al., 2023) whose probabilities reach this, 0 < p ≤ 1. */
  typicalP?: number;
  /** Only tokens at least this likely, 0 ≤ p < 1. */
  epsilonCutoff?: number;
  /** Above 1 makes tokens of prompt and text less likely, once each: positive logits are divided by it, negative multiplied. */
  repetitionPenalty?: number;
  /** Subtracted from the logit of each token the text (not the prompt) has. */
  presencePenalty?: number;
  /** Subtracted as many times as the text has the token. */
  frequencyPenalty?: number;
  /** No sequence of so many tokens comes twice. */
  noRepeatNgram?: number;
  /** Sequences of ids that never become complete. */
  badWords?: readonly (readonly number[])[];
  /** Tokens the text has at least: before that, what ends it is not chosen. */
  minTokens?: number;
  /** Ids that are never chosen. */
  suppressTokens?: readonly number[];
  /** Added to the logits of these ids; −Infinity bans one. */
  logitBias?: { readonly [token: number]: number };
  /** Sees the logits (and may change them in place) before anything else does: once a token, synchronously. */
  onLogits?: (logits: Float32Array, history: readonly number[]) => void;
  /** Makes the draw repeatable. */
  seed?: number;
}

/** What came before the token that is being chosen. */
export interface History {
  /** Prompt and text. */
  ids: readonly number[];
  /** How many of them are the prompt. */
  promptLength: number;
  /** Ids that end the text. */
  ends: ReadonlySet<number>;
}

// ---- Logits ----

/** Changes logits in place by everything that comes before temperature. */
export function processLogits(logits: Float32Array, options: SamplingOptions, history: History): void {
  const { ids, promptLength, ends } = history;
  options.onLogits?.(logits, ids);
  for (const [id, bias] of Object.entries(options.logitBias ?? {})) add(logits, Number(id), bias);
  penaliseRepetition(logits, options.repetitionPenalty ?? 1, ids);
  penaliseCounts(logits, options, ids, promptLength);
  banNgrams(logits, options.noRepeatNgram ?? 0, ids);
  for (const words of options.badWords ?? []) banLast(logits, words, ids);
  if (ids.length - promptLength < (options.minTokens ?? 0)) for (const id of ends) ban(logits, id);
  for (const id of options.suppressTokens ?? []) ban(logits, id);
}

function ban(logits: Float32Array, id: number): void {
  if (id >= 0 && id < logits.length) logits[id] = -Infinity;
}

function add(logits: Float32Array, id: number, amount: number): void {
  if (!(Number.isInteger(id) && id >= 0 && id < logits.length)) throw new HeddleError('bad_argument', `logitBias: expected token ids below ${logits.length}, found ${id}`);
  logits[id] = (logits[id] ?? 0) + amount;
}

function penaliseRepetition(logits: Float32Array, penalty: number, ids: readonly number[]): void {
  if (penalty === 1) return;
  for (const id of new Set(ids)) {
    const logit = logits[id];
    if (logit !== undefined) logits[id] = logit < 0 ? logit * penalty : logit / penalty;
  }
}

function penaliseCounts(logits: Float32Array, options: SamplingOptions, ids: readonly number[], promptLength: number): void {
  const { presencePenalty = 0, frequencyPenalty = 0 } = options;
  if (presencePenalty === 0 && frequencyPenalty === 0) return;
  const counts = new Map<number, number>();
  for (let i = promptLength; i < ids.length; i++) counts.set(ids[i] ?? 0, (counts.get(ids[i] ?? 0) ?? 0) + 1);
  for (const [id, count] of counts) logits[id] = (logits[id] ?? 0) - presencePenalty - frequencyPenalty * count;
}

/** Bans what would repeat one of the n-grams so far. */
function banNgrams(logits: Float32Array, n: number, ids: readonly number[]): void {
  if (n < 1) return;
  const start = ids.length - (n - 1);
  for (let at = 0; at + n <= ids.length; at++) {
    let same = true;
    for (let i = 0; i < n - 1 && same; i++) same = ids[at + i] === ids[start + i];
    if (same) ban(logits, ids[at + n - 1] ?? -1);
  }
}

/** Bans a sequence's last id when the history ends in the ids before it. */
function banLast(logits: Float32Array, words: readonly number[], ids: readonly number[]): void {
  const before = words.length - 1;
  if (before < 0 || before > ids.length) return;
  for (let i = 0; i < before; i++) if (words[i] !== ids[ids.length - before + i]) return;
  ban(logits, words[before] ?? -1);
}

// ---- Filters ----

/** Tokens that may be drawn, ids ascending, and their weights, which need not add up to 1. */
export interface Kept {
  ids: Int32Array;
  weights: Float64Array;
}

/** What is left of softmax(logits / temperature) after the filters. */
export function filterLogits(logits: Float32Array, options: SamplingOptions): Kept {
  const { temperature = 1, topK = Infinity, topP = 1, minP = 0, typicalP = 1, epsilonCutoff = 0 } = options;
  let kept = weigh(logits, temperature, topK < logits.length ? kthLargest(logits, topK) : -Infinity);
  if (topP < 1) kept = keep(kept, likeliest(kept, topP));
  if (minP > 0) kept = atLeast(kept, minP * largest(kept.weights));
  if (typicalP < 1) kept = keep(kept, mostTypical(kept, typicalP));
  if (epsilonCutoff > 0) kept = atLeast(kept, Math.min(epsilonCutoff * total(kept.weights), largest(kept.weights)));
  return kept;
}

/** exp((logit − largest) / temperature) of the logits from `least` on. Refuses logits that are no numbers: a broken model should not babble. */
function weigh(logits: Float32Array, temperature: number, least: number): Kept {
  let top = -Infinity;
  let n = 0;
  for (const logit of logits) {
    if (logit > top) top = logit;
    if (logit >= least && logit > -Infinity) n++;
    else if (Number.isNaN(logit)) throw new HeddleError('bad_state', 'the logits are not numbers (NaN)');
  }
  if (n === 0) throw new HeddleError('bad_argument', 'every token is banned: there is none to choose');
  if (top === Infinity) throw new HeddleError('bad_state', 'the logits are not finite');
  const kept: Kept = { ids: new Int32Array(n), weights: new Float64Array(n) };
  for (let id = 0, i = 0; id < logits.length; id++) {
    const logit = logits[id] ?? -Infinity;
    if (!(logit >= least && logit > -Infinity)) continue;
    kept.ids[i] = id;
    kept.weights[i++] = Math.exp((logit - top) / temperature);
  }
  return kept;
}

/** The k-th largest value, by a heap of the k largest so far, its smallest on top. */
function kthLargest(values: Float32Array, k: number): number {
  if (k > 1024) return Float32Array.from(values).sort()[values.length - k] ?? -Infinity;
  const heap = new Float32Array(k).fill(-Infinity);
  for (const value of values) {
    if (!(value > (heap[0] ?? 0))) continue;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= k) break;
      if (child + 1 < k && (heap[child + 1] ?? 0) < (heap[child] ?? 0)) child++;
      if ((heap[child] ?? 0) >= value) break;
      heap[at] = heap[child] ?? 0;
      at = child;
    }
    heap[at] = value;
  }
  return heap[0] ?? -Infinity;
}

function total(weights: Float64Array): number {
  return weights.reduce((sum, w) => sum + w, 0);
}

function largest(weights: Float64Array): number {
  return weights.reduce((most, w) => Math.max(most, w), 0);
}

function atLeast(kept: Kept, least: number): Kept {
  const places: number[] = [];
  for (let i = 0; i < kept.ids.length; i++) if ((kept.weights[i] ?? 0) >= least) places.push(i);
  return keep(kept, places);
}

/** The tokens at these places of `kept`. */
function keep(kept: Kept, places: readonly number[]): Kept {
  const sorted = Int32Array.from(places).sort();
  return { ids: Int32Array.from(sorted, (i) => kept.ids[i] ?? 0), weights: Float64Array.from(sorted, (i) => kept.weights[i] ?? 0) };
}

/** Places of the smallest set of likeliest tokens whose weights reach `p` of the whole. Only tokens likely enough to matter are sorted. */
function likeliest({ weights }: Kept, p: number): number[] {
  const wanted = p * total(weights);
  for (const least of [1e-3, 1e-6, 0]) {
    const places: number[] = [];
    let sum = 0;
    for (let i = 0; i < weights.length; i++) {
      if ((weights[i] ?? 0) < least) continue;
      places.push(i);
      sum += weights[i] ?? 0;
    }
    if (sum < wanted && least > 0) continue;
    places.sort((a, b) => (weights[b] ?? 0) - (weights[a] ?? 0));
    return places.slice(0, reaching(places, weights, wanted));
  }
  return [];
}

/** How many of the places it takes, from the first on, until their weights reach `wanted`. At least one. */
function reaching(places: readonly number[], weights: Float64Array, wanted: number): number {
  let sum = 0;
  for (let n = 0; n < places.length; n++) {
    sum += weights[places[n] ?? 0] ?? 0;
    if (sum >= wanted) return n + 1;
  }
  return places.length;
}

/** Places of the tokens whose surprise is nearest to the expected one, until their weights reach `p` of the whole. */
function mostTypical({ weights }: Kept, p: number): number[] {
  const all = total(weights);
  const surprise = Float64Array.from(weights, (w) => -Math.log(w / all));
  let entropy = 0;
  for (let i = 0; i < weights.length; i++) if ((weights[i] ?? 0) > 0) entropy += ((weights[i] ?? 0) / all) * (surprise[i] ?? 0);
  const distance = surprise.map((s) => Math.abs(s - entropy));
  const places = Array.from(weights.keys()).sort((a, b) => (distance[a] ?? 0) - (distance[b] ?? 0));
  return places.slice(0, reaching(places, weights, p * all));
}

// ---- Choosing ----

/** The first id, in their order, whose cumulative probability exceeds `at` in [0, 1). */
export function drawFrom(kept: Kept, at: number): number {
  let left = at * total(kept.weights);
  for (let i = 0; i < kept.ids.length; i++) {
    left -= kept.weights[i] ?? 0;
    if (left < 0) return kept.ids[i] ?? 0;
  }
  return kept.ids.at(-1) ?? 0;
}

export function largestId(logits: Float32Array): number {
  let best = -1;
  let top = -Infinity;
  for (let id = 0; id < logits.length; id++) {
    const logit = logits[id] ?? 0;
    if (Number.isNaN(logit)) throw new HeddleError('bad_state', 'the logits are not numbers (NaN)');
    if (logit > top) [best, top] = [id, logit];
  }
  if (best < 0) throw new HeddleError('bad_argument', 'every token is banned: there is none to choose');
  return best;
}

/** log softmax(logits) of the n likeliest, likeliest first, and of `id`. */
export function logProbabilities(logits: Float32Array, id: number, n: number): { logprob: number; top: { token: number; logprob: number }[] } {
  let most = -Infinity;
  for (const logit of logits) if (logit > most) most = logit;
  let sum = 0;
  for (const logit of logits) sum += Math.exp(logit - most);
  const norm = most + Math.log(sum);
  const least = n > 0 && n < logits.length ? kthLargest(logits, n) : Infinity;
  const top: { token: number; logprob: number }[] = [];
  if (n > 0) logits.forEach((logit, token) => (n >= logits.length || logit >= least) && top.push({ token, logprob: logit - norm }));
  top.sort((a, b) => b.logprob - a.logprob);
  return { logprob: (logits[id] ?? -Infinity) - norm, top: top.slice(0, n) };
}

/** Whether the options change logits before the likeliest is taken. */
export function changesLogits(options: SamplingOptions): boolean {
  const { repetitionPenalty = 1, presencePenalty = 0, frequencyPenalty = 0, noRepeatNgram = 0, minTokens = 0 } = options;
  const lists = [options.onLogits, options.logitBias, options.badWords, options.suppressTokens];
  return repetitionPenalty !== 1 || presencePenalty !== 0 || frequencyPenalty !== 0 || noRepeatNgram > 0 || minTokens > 0 || lists.some((each) => each !== undefined);
}
