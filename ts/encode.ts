/**
 * encode.ts: texts through a model that reads them whole: what embeddings (embed.ts) and classifiers (classify.ts) share. Texts go into one call as
 * they are, one after the other and without padding (batch.ts): what a text comes to does not depend on its neighbours, to within rounding.
 */
import type { BatchOptions, LocalBatch, PartRows } from './batch.js';
import { HeddleError } from './errors.js';
import { Breather } from './host.js';
import type { SentenceSettings } from './sentence.js';
import { encodeInput } from './text-input.js';
import type { EncodedInput } from './text-input.js';
import type { Tokenizer } from './tokenizer.js';
import type { ModelDescription, PairInput, TextBatchOptions, TextInput } from './types.js';

/** What these tasks need of a model. */
export interface EncoderModel {
  createBatchSync(options: BatchOptions): LocalBatch;
  describeSync(): ModelDescription;
  readonly tokenizer: Tokenizer | undefined;
  readonly maxContext: number;
  readonly context: number;
  /** The config.json it was loaded with. */
  readonly config: string | undefined;
  /** How its folder says that sentences become vectors. */
  sentence(): Promise<SentenceSettings>;
  /** Tells the user; of each kind once a model. */
  say(kind: string, text: string): void;
}

/** What config.json says that concerns texts. */
export interface EncoderConfig {
  model_type?: string;
  architectures?: string[];
  vocab_size?: number;
  num_hidden_layers?: number;
  num_labels?: number;
  id2label?: Record<string, string>;
  problem_type?: string | null;
  sentence_transformers?: { activation_fn?: string };
  sbert_ce_default_activation_function?: string;
}

export function configOf(model: { readonly config: string | undefined }): EncoderConfig {
  return model.config === undefined ? {} : (JSON.parse(model.config) as EncoderConfig);
}

/** Whether the model was saved with a head of that kind ("ForSequenceClassification"). */
export function hasHead(config: EncoderConfig, kind: string): boolean {
  return config.architectures?.some((name) => name.endsWith(kind)) ?? false;
}

/** The inputs as ids, each named in errors as the caller wrote it. */
export function encodeInputs(model: EncoderModel, inputs: readonly (TextInput | PairInput)[], options: TextBatchOptions, settings: SentenceSettings): EncodedInput[] {
  const { model_type: family, vocab_size: vocabulary } = configOf(model);
  const limit = Math.min(model.context || Infinity, model.maxContext || Infinity);
  if ((options.maxTokens ?? 0) > limit) throw new HeddleError('bad_argument', `maxTokens: ${options.maxTokens ?? 0} are more than the model's ${limit}`);
  const rules = {
    tokenizer: () => needTokenizer(model),
    most: options.maxTokens ?? Math.min(settings.maxTokens ?? Infinity, limit),
    cut: options.truncate ?? true,
    lowerCase: settings.lowerCase ?? false,
    vocabulary: family === 'bert' ? (vocabulary ?? 30522) : 0,
    onCut: (name: string, length: number) => model.say('cut', `${name} has ${length} tokens: texts are cut to the ${rules.most} that the model takes (truncate: false refuses them)`),
  };
  return inputs.map((input, i) => encodeInput(input, `texts[${i}]`, rules));
}

function needTokenizer({ tokenizer }: EncoderModel): Tokenizer {
  if (!tokenizer) throw new HeddleError('bad_state', 'the model has no tokenizer: load it with its tokenizer.json, or give token ids');
  return tokenizer;
}

// ---- Running ----

/** A call's most rows where no text is longer, and most texts: enough for the kernels, and short, so that a page can abort. */
const callRows = 128;
const callTexts = 32;

/** Runs the inputs, as many in a call as fit; `read` makes a result of what each came to: rows of the output, or of the value of that name. */
export async function runTexts<T>(
  model: EncoderModel,
  inputs: readonly EncodedInput[],
  { signal, outputRows, output }: { signal: AbortSignal | undefined; outputRows?: number; output?: string | undefined },
  read: (rows: PartRows, input: EncodedInput) => T,
): Promise<T[]> {
  const results: T[] = [];
  const longest = inputs.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  if (longest === 0) return results;
  const calls = callsOf(inputs, longest);
  const batch = batchFor(model, { rows: most(calls.map(rowsOf)), sequences: most(calls.map((call) => call.length)), context: longest, outputRows: outputRows ?? 0, output });
  const breather = new Breather();
  try {
    for (const call of batch.options.sequences === 1 ? inputs.map((input) => [input]) : calls) {
      await breather.breathe();
      signal?.throwIfAborted();
      const parts = call.map(({ ids }) => ({ session: 0, ids }));
      batch.forwardSync(parts);
      batch.rowsSync(parts).forEach((rows, i) => results.push(read(rows, call[i] as EncodedInput)));
    }
    return results;
  } finally {
    batch.freeSync();
  }
}

/** Layers that take one text at a time get one at a time. */
function batchFor(model: EncoderModel, options: BatchOptions): LocalBatch {
  try {
    return model.createBatchSync(options);
  } catch (error) {
    const isOneByOne = error instanceof HeddleError && error.code === 'unsupported' && options.sequences > 1;
    if (!isOneByOne) throw error;
    return model.createBatchSync({ ...options, sequences: 1, rows: options.context ?? options.rows });
  }
}

/** The inputs in order, cut where the next would not fit. */
function callsOf(inputs: readonly EncodedInput[], longest: number): EncodedInput[][] {
  const calls: EncodedInput[][] = [];
  let rows = 0;
  for (const input of inputs) {
    const last = calls.at(-1);
    const fits = last && last.length < callTexts && rows + input.ids.length <= Math.max(callRows, longest);
    rows = input.ids.length + (fits ? rows : 0);
    if (fits) last.push(input);
    else calls.push([input]);
  }
  return calls;
}

function rowsOf(call: readonly EncodedInput[]): number {
  return call.reduce((sum, { ids }) => sum + ids.length, 0);
}

function most(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => Math.max(a, b), 0);
}
