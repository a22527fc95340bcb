/**
 * generate.ts: the loop that makes text: prefill the prompt, choose a token, decode it, again. The loop is JavaScript's, each call
 * into the core is short, and the event loop gets a turn every few milliseconds, so that a page can paint and abort.
 */
import { checkOptions, checkWholeNumbers, expected, generateOptions, sessionGenerateOptions } from './arguments.js';
import { configOf, hasHead } from './encode.js';
import { JsonConstraint, TokenTree } from './constraint.js';
import { HeddleError } from './errors.js';
import { Breather, seconds } from './host.js';
import { seeded } from './random.js';
import { changesLogits, drawFrom, filterLogits, largestId, logProbabilities, processLogits } from './sampling.js';
import type { History } from './sampling.js';
import type { LocalSession } from './session.js';
import { StopStrings } from './stops.js';
import type { TextStream } from './text-stream.js';
import type { Together } from './together.js';
import type { Tokenizer } from './tokenizer.js';
import type { GeneratedToken, GenerateOptions, GenerateUsage, NumbersInput, SessionGenerateOptions, SessionOptions } from './types.js';

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
  /** The config.json it was loaded with. */
  readonly config: string | undefined;
  /** Where generations that run at the same time share calls. */
  readonly together: Together;
}

type Tokens = AsyncGenerator<GeneratedToken, GenerateUsage, void>;

/** A text in a session of its own. */
export async function* generateTokens(model: TextModel, prompt: string | NumbersInput, options: GenerateOptions): Tokens {
  checkOptions(options, generateOptions);
  options.signal?.throwIfAborted();
  const ids = promptIds(model, prompt, true);
  const context = options.context ?? model.context;
  const positions = Math.min(context || Infinity, model.maxContext || Infinity);
  if (ids.length > positions) throw new HeddleError('bad_argument', `the prompt is ${ids.length} tokens, the context ${positions}`);
  const input = { dtype: 'i32', shape: [Math.min(prefillTokens, ids.length)] } as const;
  const session = model.createSessionSync({ input, outputRows: 1, ...(context > 0 && { context }) });
  try {
    if (options.adapter) session.useAdapterSync(options.adapter);
    return yield* new Writing(model, session, ids, 0, options).run(false);
  } finally {
    session.freeSync();
  }
}

/** A text that goes on in a session. */
export async function* generateInSession(model: TextModel, session: LocalSession, prompt: string | NumbersInput, options: SessionGenerateOptions): Tokens {
  checkOptions(options, sessionGenerateOptions);
  options.signal?.throwIfAborted();
  session.beginWriting();
  try {
    return yield* goOn(model, session, prompt, options);
  } finally {
    session.endWriting();
  }
}

async function* goOn(model: TextModel, session: LocalSession, prompt: string | NumbersInput, options: SessionGenerateOptions): Tokens {
  const held = session.tokens;
  const given = promptIds(model, prompt, options.reuse === true || held.length === 0);
  const all = options.reuse === true ? given : [...held, ...given];
  // The logits of the last token choose the next: without them it is computed again.
  let same = Math.min(commonLength(held, all), all.length - (session.hasOutput && held.length === all.length ? 0 : 1));
  if (same < held.length) same = goBack(session, same);
  return yield* new Writing(model, session, all, same, options).run(true);
}

/** Rewinds the session so far back; where its layers no longer hold what that takes, all the way. Returns where it is then. */
function goBack(session: LocalSession, position: number): number {
  try {
    session.rewindSync(position);
    return position;
  } catch (error) {
    if (!(error instanceof HeddleError && error.code === 'unsupported')) throw error;
    session.rewindSync(0);
    return 0;
  }
}

function commonLength(a: readonly number[], b: readonly number[]): number {
  let n = 0;
  while (n < a.length && n < b.length && a[n] === b[n]) n++;
  return n;
}

// ---- The loop ----

/** One text being written into a session that holds the first `held` of its ids. */
class Writing {
  readonly #together: Together;
  readonly #session: LocalSession;
  readonly #options: SessionGenerateOptions;
  readonly #text: TextStream | undefined;
  readonly #stops: StopStrings;
  readonly #constraint: JsonConstraint | undefined;
  readonly #choose: Chooser;
  readonly #breather = new Breather();
  readonly #started = seconds();
  /** Prompt and text. */
  readonly #ids: number[];
  readonly #promptLength: number;
  readonly #ends: ReadonlySet<number>;
  #held: number;
  readonly #usage: GenerateUsage;

  constructor(model: TextModel, session: LocalSession, ids: readonly number[], held: number, options: SessionGenerateOptions) {
    const stops = typeof options.stop === 'string' ? [options.stop] : (options.stop ?? []);
    if (stops.length > 0 && !model.tokenizer) throw new HeddleError('bad_state', 'stop: the model has no tokenizer, so there is no text to find strings in');
    this.#together = model.together;
    this.#session = session;
    this.#options = options;
    this.#ids = [...ids];
    this.#held = held;
    this.#promptLength = ids.length;
    this.#text = model.tokenizer?.stream(ids);
    this.#stops = new StopStrings(stops);
    this.#ends = new Set([...(options.ignoreEnd ? [] : model.endTokens), ...(options.stopTokens ?? [])]);
    if (options.jsonSchema !== undefined) this.#constraint = new JsonConstraint(options.jsonSchema, treeFinder(model, session), this.#ends);
    this.#choose = chooser(options, this.#constraint);
    this.#usage = {
      tokens: 0, sharedTokens: 0, tokensPerSecond: 0, prefillTokens: ids.length - held, reusedTokens: held, prefillSeconds: 0, firstTokenSeconds: 0,
      stop: 'max_tokens',
    };
  }

  /** `goesOn`: the session is wanted afterwards, so it gets the last token too, which nothing here needs. */
  async *run(goesOn: boolean): Tokens {
    this.#together.enter();
    try {
      return yield* this.#write(goesOn);
    } finally {
      this.#together.leave();
    }
  }

  async *#write(goesOn: boolean): Tokens {
    const { maxTokens = Infinity, onToken } = this.#options;
    const usage = this.#usage;
    await this.#prefill();
    const start = seconds();
    usage.prefillSeconds = start - this.#started;
    let waited = 0; // seconds the reader of this generator took
    while (usage.tokens < maxTokens) {
      const made = this.#next();
      if (!made) break;
      if (usage.tokens === 1) usage.firstTokenSeconds = seconds() - this.#started;
      onToken?.(made);
      const given = seconds();
      yield made;
      waited += seconds() - given;
      const ended = usage.stop !== 'max_tokens' || usage.tokens >= maxTokens;
      if (ended && goesOn) await this.#append(made.token);
      if (ended || !(await this.#decode(made.token))) break;
      await this.#pause();
    }
    usage.tokensPerSecond = usage.tokens / Math.max(seconds() - start - waited, 1e-9);
    yield* this.#heldBack();
    return usage;
  }

  async #pause(): Promise<void> {
    await this.#breather.breathe();
    this.#options.signal?.throwIfAborted();
  }

  /** Computes what the session does not hold yet. */
  async #prefill(): Promise<void> {
    while (this.#held < this.#ids.length) {
      const piece = this.#ids.slice(this.#held, this.#held + prefillTokens);
      this.#session.decodeSync(piece);
      this.#held += piece.length;
      if (this.#session.position === 0) throw new HeddleError('bad_state', 'the model keeps nothing from token to token, as encoders do: it makes no text; see embed and classify');
      await this.#pause();
    }
  }

  /** The next token, undefined when it ends the text. */
  #next(): GeneratedToken | undefined {
    const history: History = { ids: this.#ids, promptLength: this.#promptLength, ends: this.#ends };
    const { token, ...logprobs } = this.#choose(this.#session, history);
    const usage = this.#usage;
    if (this.#ends.has(token)) {
      usage.stop = 'end';
      usage.stoppedBy = token;
      return undefined;
    }
    usage.tokens++;
    this.#ids.push(token);
    const text = this.#stops.push(this.#text?.push(token) ?? '');
    if (this.#stops.found !== undefined) {
      usage.stop = 'stop_string';
      usage.stoppedBy = this.#stops.found;
    }
    this.#constraint?.accept(token);
    if (this.#constraint?.complete) usage.stop = 'complete';
    return { token, text, ...logprobs };
  }

  /** Adds the last token to the session; false when there is no position left for it. */
  async #append(token: number): Promise<boolean> {
    try {
      if (await this.#together.append(this.#session, token)) this.#usage.sharedTokens++;
      this.#held++;
      return true;
    } catch (error) {
      if (error instanceof HeddleError && error.code === 'bad_state' && this.#session.alive) return false;
      throw error;
    }
  }

  /** The same, and what is to be done when there is none; false when the text ends there. */
  async #decode(token: number): Promise<boolean> {
    if (await this.#append(token)) return true;
    const { whenFull = 'stop' } = this.#options;
    if (whenFull === 'error') throw new HeddleError('bad_state', `the context of ${this.#session.position} tokens is full`);
    if (whenFull === 'slide') return this.#slide();
    this.#usage.stop = 'context';
    return false;
  }

  /** Forgets the older half of what may be forgotten, and computes the rest at its new positions. */
  async #slide(): Promise<boolean> {
    const { keep = 0 } = this.#options;
    const full = this.#session.position;
    const drop = Math.ceil((full - keep) / 2);
    if (drop < 1) throw new HeddleError('bad_argument', `keep: ${keep} of the context's ${full} tokens leave no room for text`);
    const left = [...this.#ids.slice(0, keep), ...this.#ids.slice(keep + drop)];
    this.#ids.splice(keep, drop);
    this.#session.rewindSync(0);
    for (let i = 0; i < left.length; i += prefillTokens) {
      this.#session.decodeSync(left.slice(i, i + prefillTokens));
      await this.#pause();
    }
    this.#held = left.length;
    return true;
  }

  /** Text that never became whole, or no stop string, is given out at the end. */
  *#heldBack(): Generator<GeneratedToken, void, void> {
    if (this.#stops.found !== undefined) return;
    const rest = this.#stops.push(this.#text?.end() ?? '') + this.#stops.end();
    if (rest === '') return;
    const made = { token: -1, text: rest };
    this.#options.onToken?.(made);
    yield made;
  }
}

// ---- Prompts ----

/** The prompt's ids. `whole`: nothing comes before it, so it is a text of its own and may not be empty. */
function promptIds(model: TextModel, prompt: string | NumbersInput, whole: boolean): readonly number[] {
  checkWrites(model);
  if (typeof prompt !== 'string') {
    if (!Array.isArray(prompt) && !ArrayBuffer.isView(prompt)) throw expected('prompt', 'a text or token ids', prompt);
    checkWholeNumbers(prompt, 'prompt');
    return checked(Array.from(prompt), whole);
  }
  if (!model.tokenizer) throw new HeddleError('bad_state', 'the model has no tokenizer: give token ids, or load it with tokenizer.json');
  if (!whole) return model.tokenizer.encode(prompt, { addSpecialTokens: false });
  const ids = model.tokenizer.encode(prompt);
  return checked(ids.length === 0 && model.beginToken !== undefined ? [model.beginToken] : ids, true);
}

/** A head of labels makes no tokens, though its numbers could be taken for some. */
function checkWrites(model: TextModel): void {
  const config = configOf(model);
  for (const head of ['ForSequenceClassification', 'ForTokenClassification']) {
    if (hasHead(config, head)) throw new HeddleError('bad_state', `the model was saved with a head of labels (…${head}): it makes no text; see classify`);
  }
}

function checked(ids: readonly number[], whole: boolean): readonly number[] {
  if (whole && ids.length === 0) throw new HeddleError('bad_argument', 'the prompt is empty and the model has no begin token');
  return ids;
}

// ---- Choosing ----

type Choice = Pick<GeneratedToken, 'token' | 'logprob' | 'top'>;
type Chooser = (session: LocalSession, history: History) => Choice;

/** How the next token is chosen from a session's last logits. */
function chooser(options: SessionGenerateOptions, constraint: JsonConstraint | undefined): Chooser {
  const { temperature = 0, topK = Infinity, seed, logprobs = false } = options;
  const greedy = temperature === 0 || topK === 1;
  if (greedy && logprobs === false && !constraint && !changesLogits(options)) return (session) => ({ token: session.argmaxSync() });
  const random = seed === undefined ? Math.random : seeded(seed);
  return (session, history) => {
    const logits = session.logitsSync();
    processLogits(logits, options, history);
    let token = greedy ? largestId(logits) : -1;
    // The likeliest token mostly fits: the others need not be looked at.
    if (constraint && !(greedy && constraint.allows(token))) {
      constraint.mask(logits);
      token = largestId(logits);
    }
    if (!greedy) token = drawFrom(filterLogits(logits, options), random());
    if (logprobs === false) return { token };
    const { logprob, top } = logProbabilities(logits, token, Number(logprobs === true ? 0 : logprobs));
    return { token, logprob, ...(top.length > 0 && { top }) };
  };
}

// ---- Vocabularies as trees, one a tokenizer ----

const trees = new WeakMap<Tokenizer, TokenTree>();

function treeFinder({ tokenizer }: TextModel, session: LocalSession): () => TokenTree {
  if (!tokenizer) throw new HeddleError('bad_state', 'jsonSchema: the model has no tokenizer, so its tokens are no text');
  return () => {
    let tree = trees.get(tokenizer);
    if (!tree) trees.set(tokenizer, (tree = new TokenTree(tokenizer.tokenTexts(session.outputShape.at(-1) ?? 0))));
    return tree;
  };
}
