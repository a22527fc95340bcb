/**
 * encode.ts: texts through a model that reads them whole: what embeddings (embed.ts) and classifiers (classify.ts) share. Each text is a call of its
 * own in one session, without padding, so a row of a batch is to the bit what it is alone.
 */
import { HeddleError } from './errors.js';
import { Breather } from './host.js';
import type { SentenceSettings } from './sentence.js';
import type { LocalSession } from './session.js';
import { encodeInput } from './text-input.js';
import type { EncodedInput } from './text-input.js';
import type { Tokenizer } from './tokenizer.js';
import type { ModelDescription, PairInput, SessionOptions, TextBatchOptions, TextInput } from './types.js';

/** What these tasks need of a model. */
export interface EncoderModel {
  createSessionSync(options: SessionOptions): LocalSession;
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

export function configOf(model: EncoderModel): EncoderConfig {
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

/** Runs the inputs one after another; `read` takes what it needs of the session after each. */
export async function runEach<T>(
  model: EncoderModel,
  inputs: readonly EncodedInput[],
  { signal, ...options }: Pick<SessionOptions, 'mode' | 'outputRows'> & { signal?: AbortSignal | undefined },
  read: (session: LocalSession, output: Float32Array, input: EncodedInput) => T | Promise<T>,
): Promise<T[]> {
  const results: T[] = [];
  const longest = inputs.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  if (longest === 0) return results;
  const session = model.createSessionSync({ ...options, context: longest, input: { dtype: 'i32', shape: [longest] } });
  const breather = new Breather();
  try {
    for (const input of inputs) {
      await breather.breathe();
      signal?.throwIfAborted();
      if (session.position > 0) session.resetSync();
      results.push(await read(session, session.forwardSync(input.ids), input));
    }
    return results;
  } finally {
    session.freeSync();
  }
}
