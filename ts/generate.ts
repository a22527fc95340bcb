/**
 * generate.ts: the loop that makes text: prefill the prompt, choose a token, decode it, again. The loop is JavaScript's, each call
 * into the core is short, and the event loop gets a turn every few milliseconds, so that a page can paint and abort.
 */
import { checkOptions, checkWholeNumbers, generateOptions } from './arguments.js';
import { HeddleError } from './errors.js';
import { Breather, seconds } from './host.js';
import { seeded } from './random.js';
import type { LocalSession } from './session.js';
import type { TextStream } from './text-stream.js';
import type { Tokenizer } from './tokenizer.js';
import type { GeneratedToken, GenerateOptions, GenerateUsage, NumbersInput, SessionOptions } from './types.js';

/** Tokens a prefill computes at once: a good batch for the kernels, a short call for the page. */
export const prefillTokens = 64;

/** What the loop needs of a model. */
export interface TextModel {
  createSessionSync(options: SessionOptions): LocalSession;
  readonly tokenizer: Tokenizer | undefined;
  readonly endTokens: readonly number[];
  readonly beginToken: number | undefined;
  /** Positions asked for when it was loaded, and those it is made for; 0: neither says. */
  readonly context: number;
  readonly maxContext: number;
}

export async function* generateTokens(model: TextModel, prompt: string | NumbersInput, options: GenerateOptions): AsyncGenerator<GeneratedToken, GenerateUsage, void> {
  checkOptions(options, generateOptions);
  const { maxTokens = Infinity, signal } = options;
  signal?.throwIfAborted();
  const ids = promptIds(model, prompt);
  const ends = new Set([...model.endTokens, ...(options.stopTokens ?? [])]);
  const choose = chooser(options);
  const text = model.tokenizer?.stream(ids);
  const context = options.context ?? model.context;
  const positions = Math.min(context || Infinity, model.maxContext || Infinity);
  if (ids.length > positions) throw new HeddleError('bad_argument', `the prompt is ${ids.length} tokens, the context ${positions}`);
  const input = { dtype: 'i32', shape: [Math.min(prefillTokens, ids.length)] } as const;
  const session = model.createSessionSync({ input, outputRows: 1, ...(context > 0 && { context }) });
  try {
    if (options.adapter) session.useAdapterSync(options.adapter);
    const breather = new Breather();
    const pause = async (): Promise<void> => {
      await breather.breathe();
      signal?.throwIfAborted();
    };
    const prefillStart = seconds();
    for (let i = 0; i < ids.length; i += prefillTokens) {
      session.decodeSync(ids.slice(i, i + prefillTokens));
      await pause();
    }
    const start = seconds();
    const usage: GenerateUsage = { tokens: 0, tokensPerSecond: 0, prefillTokens: ids.length, prefillSeconds: start - prefillStart, stop: 'max_tokens' };
    let waited = 0; // seconds the reader of this generator took
    while (usage.tokens < maxTokens) {
      const token = choose(session);
      if (ends.has(token)) {
        usage.stop = 'end';
        break;
      }
      usage.tokens++;
      const made = { token, text: text?.push(token) ?? '' };
      options.onToken?.(made);
      const given = seconds();
      yield made;
      waited += seconds() - given;
      if (usage.tokens < maxTokens && !decodeOne(session, token)) {
        usage.stop = 'context';
        break;
      }
      await pause();
    }
    usage.tokensPerSecond = usage.tokens / Math.max(seconds() - start - waited, 1e-9);
    yield* heldBack(text, options);
    return usage;
  } finally {
    session.freeSync();
  }
}

/** Text that never became whole is given out at the end, with the last token's place: −1 is no token. */
function* heldBack(text: TextStream | undefined, options: GenerateOptions): Generator<GeneratedToken, void, void> {
  const rest = text?.end() ?? '';
  if (rest === '') return;
  const made = { token: -1, text: rest };
  options.onToken?.(made);
  yield made;
}

/** False when the context is full. */
function decodeOne(session: LocalSession, token: number): boolean {
  try {
    session.decodeSync([token]);
    return true;
  } catch (error) {
    if (error instanceof HeddleError && error.code === 'bad_state' && session.alive) return false;
    throw error;
  }
}

function promptIds(model: TextModel, prompt: string | NumbersInput): readonly number[] {
  if (typeof prompt !== 'string') {
    checkWholeNumbers(prompt, 'prompt');
    return checked(Array.from(prompt));
  }
  if (!model.tokenizer) throw new HeddleError('bad_state', 'the model has no tokenizer: give token ids, or load it with tokenizer.json');
  const ids = model.tokenizer.encode(prompt);
  return checked(ids.length === 0 && model.beginToken !== undefined ? [model.beginToken] : ids);
}

function checked(ids: readonly number[]): readonly number[] {
  if (ids.length === 0) throw new HeddleError('bad_argument', 'the prompt is empty and the model has no begin token');
  return ids;
}

// ---- Choosing ----

/** How the next token is chosen from a session's last logits. */
function chooser(options: GenerateOptions): (session: LocalSession) => number {
  const { temperature = 0, topK = Infinity, seed } = options;
  if (temperature === 0 || topK === 1) return (session) => session.argmaxSync();
  const random = seed === undefined ? Math.random : seeded(seed);
  return (session) => draw(session.logitsSync(), temperature, topK, random());
}

/** Draws from softmax(logits / temperature) over the k largest; `at` in [0, 1) picks. */
function draw(logits: Float32Array, temperature: number, topK: number, at: number): number {
  const order = Array.from(logits.keys());
  if (topK < logits.length) {
    order.sort((a, b) => (logits[b] ?? 0) - (logits[a] ?? 0));
    order.length = topK;
  }
  const top = order.reduce((most, i) => Math.max(most, logits[i] ?? 0), -Infinity);
  const weights = order.map((i) => Math.exp(((logits[i] ?? 0) - top) / temperature));
  let left = at * weights.reduce((sum, w) => sum + w, 0);
  for (let i = 0; i < order.length; i++) {
    left -= weights[i] ?? 0;
    if (left < 0) return order[i] ?? 0;
  }
  return order.at(-1) ?? 0;
}
