/**
 * classify.ts: labels of texts, of pairs of texts (rerankers) and of tokens, by the head a model was saved with. docs/embeddings.md.
 */
import { checkOptions, classifyOptions, expected } from './arguments.js';
import { configOf, encodeInputs, hasHead, runTexts } from './encode.js';
import type { EncoderConfig, EncoderModel } from './encode.js';
import { HeddleError } from './errors.js';
import type { EncodedInput } from './text-input.js';
import { textPlaces } from './text-places.js';
import type { Classification, ClassifyOptions, PairInput, ScoreFunction, TextInput, TokenClassification } from './types.js';

const ofTexts = 'ForSequenceClassification';
const ofTokens = 'ForTokenClassification';

export async function classifyTexts(
  model: EncoderModel, texts: string | readonly (TextInput | PairInput)[], options: ClassifyOptions,
): Promise<Classification | Classification[]> {
  const { config, inputs } = await prepare(model, texts, options, ofTexts);
  const activation = options.activation ?? activationOf(config);
  // A decoder has a row of scores for each position; the last is the text's.
  const found = await runTexts(model, inputs, { outputRows: 1, signal: options.signal }, ({ data, width }) => scored(config, data.slice(data.length - width), activation));
  return typeof texts === 'string' ? (found[0] as Classification) : found;
}

export async function classifyTokens(
  model: EncoderModel, texts: string | readonly (TextInput | PairInput)[], options: ClassifyOptions,
): Promise<TokenClassification[] | TokenClassification[][]> {
  const { config, inputs } = await prepare(model, texts, options, ofTokens);
  const activation = options.activation ?? 'softmax';
  const found = await runTexts(model, inputs, { signal: options.signal }, ({ data, width }, input) => {
    const places = placesOf(model, input, config);
    return input.ids.map((id, i) => ({ token: '', ...places[i], id: plainId(id, config), ...scored(config, data.slice(i * width, (i + 1) * width), activation) }));
  });
  return typeof texts === 'string' ? (found[0] as TokenClassification[]) : found;
}

async function prepare(model: EncoderModel, texts: unknown, options: ClassifyOptions, head: string): Promise<{ config: EncoderConfig; inputs: EncodedInput[] }> {
  checkOptions(options, classifyOptions);
  options.signal?.throwIfAborted();
  if (typeof texts !== 'string' && !Array.isArray(texts)) throw expected('texts', 'a text, or an array of texts, of pairs of texts or of token ids', texts);
  const config = configOf(model);
  if (!hasHead(config, head)) {
    const found = config.architectures?.join(', ') ?? 'none';
    throw new HeddleError('bad_state', `the model has no labels of ${head === ofTexts ? 'texts' : 'tokens'}: expected an architecture …${head} in its config.json, found ${found}`);
  }
  return { config, inputs: encodeInputs(model, typeof texts === 'string' ? [texts] : (texts as readonly TextInput[]), options, await model.sentence()) };
}

// ---- Scores ----

/** What the model was trained with: a sigmoid for labels that do not exclude each other, and for a single one. */
function activationOf(config: EncoderConfig): ScoreFunction {
  const named = config.sentence_transformers?.activation_fn ?? config.sbert_ce_default_activation_function;
  if (named?.endsWith('Identity') || config.problem_type === 'regression') return 'none';
  if (named?.endsWith('Sigmoid') || config.problem_type === 'multi_label_classification') return 'sigmoid';
  return labelCount(config) === 1 ? 'sigmoid' : 'softmax';
}

function labelCount({ id2label, num_labels: n = 2 }: EncoderConfig): number {
  const named = Object.keys(id2label ?? {}).length;
  return named > 0 ? named : n;
}

const scoreFunctions: Record<ScoreFunction, (logits: Float32Array) => Float32Array> = {
  none: (logits) => logits.slice(),
  sigmoid: (logits) => logits.map((x) => 1 / (1 + Math.exp(-x))),
  softmax: (logits) => {
    const most = logits.reduce((a, b) => Math.max(a, b), -Infinity);
    const powers = Float64Array.from(logits, (x) => Math.exp(x - most));
    const sum = powers.reduce((a, b) => a + b, 0);
    return Float32Array.from(powers, (x) => x / sum);
  },
};

function scored(config: EncoderConfig, logits: Float32Array, activation: ScoreFunction): Classification {
  const scores = scoreFunctions[activation](logits);
  const labels = Array.from(logits, (_, i) => config.id2label?.[i] ?? `LABEL_${i}`);
  const best = logits.reduce((at, x, i) => (x > (logits[at] ?? 0) ? i : at), 0);
  return { label: labels[best] ?? '', score: scores[best] ?? 0, labels, scores, logits };
}

// ---- Tokens ----

/** A token's id without its type. */
function plainId(id: number, { model_type: family, vocab_size: vocabulary = 30522 }: EncoderConfig): number {
  return family === 'bert' ? id % vocabulary : id;
}

/** Where tokens stand in their text, as far as that can be found out; without a tokenizer nothing can. */
function placesOf({ tokenizer }: EncoderModel, { ids, text }: EncodedInput, config: EncoderConfig): { token: string; start?: number; end?: number }[] {
  if (!tokenizer) return ids.map(() => ({ token: '' }));
  const plain = ids.map((id) => plainId(id, config));
  const tokens = plain.map((id) => tokenizer.idToToken(id) ?? '');
  const places = text === undefined ? [] : textPlaces(text, plain.map((id) => tokenizer.decode([id])));
  return tokens.map((token, i) => ({ token, ...places[i] }));
}
