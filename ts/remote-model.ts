/**
 * remote-model.ts: models, sessions and adapters that live in a worker, under the same names and types as in this thread.
 */
import { checkOptions, checkTogether, generateOptions, lossOptions, mergeOptions, sessionGenerateOptions, sessionOptions, shown, trainOptions, validateOptions } from './arguments.js';
import type { Checks } from './arguments.js';
import type { ChatMessage, ChatTemplateOptions } from './chat-template.js';
import { Chat } from './chat.js';
import type { ChatOptions } from './chat.js';
import { HeddleError } from './errors.js';
import { TokenGeneration } from './generation.js';
import { isMade } from './protocol.js';
import type { ObjectState, Reference, TokenBatch } from './protocol.js';
import type { Answer, Connection } from './remote.js';
import { reportOf } from './report.js';
import { sendableFile, sendableJson } from './sendable.js';
import type {
  Adapter,
  Classification,
  ClassifyOptions,
  EmbedOptions,
  FileInput,
  GeneratedToken,
  GenerateOptions,
  GenerateUsage,
  Generation,
  LoadWeightsOptions,
  LoadReport,
  MemoryReport,
  Model,
  ModelDescription,
  NumbersInput,
  PairInput,
  Session,
  SessionGenerateOptions,
  SessionMemory,
  SaveOptions,
  SaveTorchOptions,
  SaveGgufOptions,
  SaveWeightsOptions,
  SessionOptions,
  TensorValue,
  TextBatchOptions,
  TextInput,
  TokenClassification,
  TrainOptions,
  ValidateOptions,
  ValidationProblem,
  WeightInfo,
} from './types.js';

/** An object of the worker: its number, its last known state, and whether it was freed. */
export class Remote {
  readonly connection: Connection;
  readonly handle: number;
  readonly #what: string;
  /** What it goes with. */
  readonly #owner: Remote | undefined;
  state: ObjectState;
  #freed = false;

  constructor(what: string, connection: Connection, made: Answer, owner?: Remote) {
    if (!isMade(made.value)) throw new HeddleError('bad_state', `the worker made no ${what}: its program is of another version`);
    this.#what = what;
    this.#owner = owner;
    this.connection = connection;
    this.handle = made.value.handle;
    this.state = made.state ?? {};
  }

  get #isFreed(): boolean {
    return this.#freed || (this.#owner !== undefined && this.#owner.#isFreed);
  }

  check(): void {
    if (this.#isFreed) throw new HeddleError('bad_state', `the ${this.#what} was freed`);
  }

  async make(method: string, args: unknown[], transfer: Transferable[] = [], signal?: AbortSignal): Promise<Answer> {
    this.check();
    return this.connection.call(this.handle, method, args, { transfer, signal });
  }

  async call<T>(method: string, args: unknown[] = [], transfer?: Transferable[], signal?: AbortSignal): Promise<T> {
    const { value, state } = await this.make(method, args, transfer, signal);
    if (state) this.state = state;
    return value as T;
  }

  /** Twice is harmless, and so is freeing what went with its worker. What cannot be freed yet stays. */
  async free(): Promise<void> {
    if (this.#isFreed) return;
    this.#freed = true;
    try {
      await this.connection.call(this.handle, 'free', []);
    } catch (error) {
      if (!(error instanceof HeddleError && error.code === 'bad_state' && this.#what === 'adapter')) return;
      this.#freed = false;
      throw error;
    }
  }
}

export class RemoteAdapter implements Adapter {
  readonly #remote: Remote;

  constructor(owner: Remote, made: Answer) {
    this.#remote = new Remote('adapter', owner.connection, made, owner);
  }

  /** How it goes to the worker of `connection` as an argument. */
  referenceIn(connection: Connection): Reference {
    this.#remote.check();
    if (connection !== this.#remote.connection) throw new HeddleError('bad_argument', 'the adapter belongs to another runtime');
    return { heddle: this.#remote.handle };
  }

  free(): Promise<void> {
    return this.#remote.free();
  }

  [Symbol.dispose](): void {
    void this.#remote.free();
  }
}

function referenceOf(adapter: Adapter, connection: Connection): Reference {
  if (adapter instanceof RemoteAdapter) return adapter.referenceIn(connection);
  if (typeof (adapter as Adapter | null | undefined)?.free !== 'function') throw new HeddleError('bad_argument', `adapter: expected an adapter, found ${shown(adapter)}`);
  throw new HeddleError('bad_argument', 'the adapter belongs to another runtime');
}

/** Pulls what the worker's model or session makes in batches, and gives it out token by token. */
async function* remoteTokens<T extends GenerateOptions>(
  owner: Remote, prompt: string | NumbersInput, options: T, checks: Checks<T>,
): AsyncGenerator<GeneratedToken, GenerateUsage, void> {
  owner.check();
  checkOptions(options, checks);
  const { signal, onToken, adapter, onLogits, ...rest } = options;
  if (onLogits) throw new HeddleError('unsupported', 'onLogits: a function cannot go to a worker; use a runtime in the same thread');
  signal?.throwIfAborted();
  const sent = { ...rest, ...(adapter && { adapter: referenceOf(adapter, owner.connection) }) };
  const generation = new Remote('generation', owner.connection, await owner.make('generate', [prompt, sent]), owner);
  const abort = (): void => generation.connection.abort(generation.handle);
  signal?.addEventListener('abort', abort);
  try {
    for (;;) {
      signal?.throwIfAborted();
      const { tokens, usage, position } = await generation.call<TokenBatch>('pull').catch((error: unknown) => {
        throw signal?.aborted ? signal.reason : error;
      });
      if (position !== undefined) owner.state = { ...owner.state, position };
      for (const token of tokens) {
        signal?.throwIfAborted();
        onToken?.(token);
        yield token;
      }
      if (usage) return usage;
    }
  } finally {
    signal?.removeEventListener('abort', abort);
    await generation.free();
  }
}

export class RemoteSession implements Session {
  readonly #remote: Remote;
  readonly #owner: Remote;

  constructor(owner: Remote, made: Answer) {
    this.#owner = owner;
    this.#remote = new Remote('session', owner.connection, made, owner);
  }

  /** How it goes to the worker of `connection` as an argument. */
  referenceIn(connection: Connection, name: string): Reference {
    this.#remote.check();
    if (connection !== this.#remote.connection) throw new HeddleError('bad_argument', `${name}: the session belongs to another model`);
    return { heddle: this.#remote.handle };
  }

  /** What a call of the model's has made of it. */
  became(state: ObjectState): void {
    this.#remote.state = state;
  }

  saveState(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#remote.call('saveState');
  }

  loadState(state: Uint8Array): Promise<void> {
    return this.#remote.call('loadState', [state]);
  }

  async fork(): Promise<Session> {
    return new RemoteSession(this.#owner, await this.#remote.make('fork', []));
  }

  get position(): number {
    return this.#remote.state.position ?? 0;
  }

  get context(): number {
    return this.#remote.state.context ?? 0;
  }

  get outputShape(): readonly number[] {
    return this.#remote.state.outputShape ?? [];
  }

  forward(input: NumbersInput, shape?: readonly number[]): Promise<Float32Array> {
    return this.#remote.call('forward', [input, shape]);
  }

  decode(tokens: NumbersInput): Promise<void> {
    return this.#remote.call('decode', [tokens]);
  }

  logits(): Promise<Float32Array> {
    return this.#remote.call('logits');
  }

  argmax(): Promise<number> {
    return this.#remote.call('argmax');
  }

  value(name: string): Promise<TensorValue> {
    return this.#remote.call('value', [name]);
  }

  valueNames(): Promise<string[]> {
    return this.#remote.call('valueNames');
  }

  async useAdapter(adapter: Adapter | null): Promise<void> {
    this.#remote.check();
    await this.#remote.call('useAdapter', [adapter === null ? null : referenceOf(adapter, this.#remote.connection)]);
  }

  async trainStep(input: NumbersInput, targets: NumbersInput, options: TrainOptions = {}): Promise<number> {
    this.#remote.check();
    checkOptions(options, trainOptions);
    return this.#remote.call('trainStep', [input, targets, options]);
  }

  async backward(input: NumbersInput, targets: NumbersInput, options: Pick<TrainOptions, 'loss'> = {}): Promise<number> {
    this.#remote.check();
    checkOptions(options, lossOptions);
    return this.#remote.call('backward', [input, targets, options]);
  }

  step(lr: number): Promise<void> {
    return this.#remote.call('step', [lr]);
  }

  gradient(weight: string): Promise<TensorValue> {
    return this.#remote.call('gradient', [weight]);
  }

  reset(): Promise<void> {
    return this.#remote.call('reset');
  }

  rewind(position: number): Promise<void> {
    return this.#remote.call('rewind', [position]);
  }

  generate(prompt: string | NumbersInput, options: SessionGenerateOptions = {}): Generation {
    return new TokenGeneration(remoteTokens(this.#remote, prompt, options, sessionGenerateOptions));
  }

  memory(): Promise<SessionMemory> {
    return this.#remote.call('memory');
  }

  free(): Promise<void> {
    return this.#remote.free();
  }

  [Symbol.dispose](): void {
    void this.#remote.free();
  }
}

function sessionReference(session: Session, connection: Connection, name: string): Reference {
  if (session instanceof RemoteSession) return session.referenceIn(connection, name);
  if (typeof (session as Session | null | undefined)?.decode !== 'function') throw new HeddleError('bad_argument', `${name}: expected a session, found ${shown(session)}`);
  throw new HeddleError('bad_argument', `${name}: the session belongs to another model`);
}

export class RemoteModel implements Model {
  readonly #remote: Remote;
  readonly report: LoadReport;

  constructor(connection: Connection, made: Answer) {
    this.#remote = new Remote('model', connection, made);
    this.report = reportOf(this.weights);
  }

  get weights(): readonly WeightInfo[] {
    return this.#remote.state.weights ?? [];
  }

  get threads(): number {
    return this.#remote.state.threads ?? 1;
  }

  describe(): Promise<ModelDescription> {
    return this.#remote.call('describe');
  }

  readWeight(name: string): Promise<Float32Array> {
    return this.#remote.call('readWeight', [name]);
  }

  writeWeight(name: string, values: NumbersInput): Promise<void> {
    return this.#remote.call('writeWeight', [name, values]);
  }

  async createSession(options: SessionOptions = {}): Promise<Session> {
    this.#remote.check();
    checkOptions(options, sessionOptions);
    return new RemoteSession(this.#remote, await this.#remote.make('createSession', [options]));
  }

  async decodeTogether(sessions: readonly Session[], tokens: readonly NumbersInput[]): Promise<void> {
    this.#remote.check();
    checkTogether(sessions, tokens);
    const references = sessions.map((session, i) => sessionReference(session, this.#remote.connection, `sessions[${i}]`));
    const states = await this.#remote.call<ObjectState[]>('decodeTogether', [references, tokens]);
    sessions.forEach((session, i) => (session as RemoteSession).became(states[i] ?? {}));
  }

  forward(input: NumbersInput, shape?: readonly number[]): Promise<Float32Array> {
    return this.#remote.call('forward', [input, shape]);
  }

  embed(text: string, options?: EmbedOptions): Promise<Float32Array>;
  embed(texts: readonly TextInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  embed(texts: string | readonly TextInput[], options: EmbedOptions = {}): Promise<Float32Array | Float32Array[]> {
    return this.#texts('embed', texts, options);
  }

  classify(text: string, options?: ClassifyOptions): Promise<Classification>;
  classify(texts: readonly (TextInput | PairInput)[], options?: ClassifyOptions): Promise<Classification[]>;
  classify(texts: string | readonly (TextInput | PairInput)[], options: ClassifyOptions = {}): Promise<Classification | Classification[]> {
    return this.#texts('classify', texts, options);
  }

  classifyTokens(text: string, options?: ClassifyOptions): Promise<TokenClassification[]>;
  classifyTokens(texts: readonly (TextInput | PairInput)[], options?: ClassifyOptions): Promise<TokenClassification[][]>;
  classifyTokens(
    texts: string | readonly (TextInput | PairInput)[], options: ClassifyOptions = {},
  ): Promise<TokenClassification[] | TokenClassification[][]> {
    return this.#texts('classifyTokens', texts, options);
  }

  async #texts<T>(method: string, texts: unknown, { signal, ...options }: TextBatchOptions): Promise<T> {
    this.#remote.check();
    signal?.throwIfAborted();
    return this.#remote.call(method, [texts, options], undefined, signal);
  }

  createChat(options: ChatOptions = {}): Promise<Chat> {
    return Chat.start(this, options);
  }

  generate(prompt: string | NumbersInput, options: GenerateOptions = {}): Generation {
    return new TokenGeneration(remoteTokens(this.#remote, prompt, options, generateOptions));
  }

  tokenize(text: string): Promise<number[]> {
    return this.#remote.call('tokenize', [text]);
  }

  detokenize(tokens: NumbersInput): Promise<string> {
    return this.#remote.call('detokenize', [tokens]);
  }

  chatTemplate(): Promise<string | undefined> {
    return this.#remote.call('chatTemplate');
  }

  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize: true }): Promise<number[]>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: false }): Promise<string>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: boolean }): Promise<string | number[]>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: boolean }): Promise<string | number[]> {
    return this.#remote.call('applyChatTemplate', [messages, options]);
  }

  saveToString(id: string, options?: SaveOptions): Promise<string> {
    return this.#remote.call('saveToString', [id, options]);
  }

  saveWeights(options?: SaveWeightsOptions): Promise<Uint8Array<ArrayBuffer>> {
    return this.#remote.call('saveWeights', [options]);
  }

  saveGguf(options?: SaveGgufOptions): Promise<Uint8Array<ArrayBuffer>> {
    return this.#remote.call('saveGguf', [options]);
  }

  saveTorch(options?: SaveTorchOptions): Promise<Uint8Array<ArrayBuffer>> {
    return this.#remote.call('saveTorch', [options]);
  }

  async loadWeights(file: FileInput, options?: LoadWeightsOptions): Promise<number> {
    this.#remote.check();
    const transfer: Transferable[] = [];
    const sendable = await sendableFile(file, transfer);
    return this.#remote.call('loadWeights', [sendable, options], transfer);
  }

  async loadAdapter(config: FileInput | object, weights: FileInput): Promise<Adapter> {
    this.#remote.check();
    const transfer: Transferable[] = [];
    const args = [await sendableJson(config, transfer, "the adapter's config"), await sendableFile(weights, transfer, "the adapter's weights")];
    return new RemoteAdapter(this.#remote, await this.#remote.make('loadAdapter', args, transfer));
  }

  mergeAdapter(adapter: Adapter, options?: { dequantize?: boolean }): Promise<void> {
    return this.#merge('mergeAdapter', adapter, options);
  }

  unmergeAdapter(adapter: Adapter, options?: { dequantize?: boolean }): Promise<void> {
    return this.#merge('unmergeAdapter', adapter, options);
  }

  async #merge(method: string, adapter: Adapter, options: { dequantize?: boolean } = {}): Promise<void> {
    this.#remote.check();
    checkOptions(options, mergeOptions);
    await this.#remote.call(method, [referenceOf(adapter, this.#remote.connection), options]);
  }

  async validate(options: ValidateOptions = {}): Promise<ValidationProblem[]> {
    this.#remote.check();
    checkOptions(options, validateOptions);
    return this.#remote.call('validate', [options]);
  }

  memory(): Promise<MemoryReport> {
    return this.#remote.call('memory');
  }

  threadWork(): Promise<number[]> {
    return this.#remote.call('threadWork');
  }

  free(): Promise<void> {
    return this.#remote.free();
  }

  [Symbol.dispose](): void {
    void this.#remote.free();
  }
}
