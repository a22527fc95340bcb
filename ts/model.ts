/**
 * model.ts: graph and weights in this thread's instance. types.ts says what each call means.
 */
import { checkNumbers, checkOptions, checkShape, checkText, checkTogether, checkWholeNumbers, isPlainObject, jsonText, loadWeightsOptions, mergeOptions, saveGgufOptions, saveOptions, saveTorchOptions, sessionOptions, validateOptions } from './arguments.js';
import { LocalBatch } from './batch.js';
import type { BatchOptions } from './batch.js';
import type { ChatMessage, ChatTemplateOptions } from './chat-template.js';
import { checkpointText } from './checkpoint.js';
import { elements } from './core.js';
import type { Core, CoreExports } from './core.js';
import { Chat } from './chat.js';
import type { ChatOptions } from './chat.js';
import { HeddleError, counted } from './errors.js';
import { classifyTexts, classifyTokens } from './classify.js';
import { embedTexts } from './embed.js';
import { generateTokens } from './generate.js';
import { TokenGeneration } from './generation.js';
import { entriesOf, writeModel } from './gguf.js';
import { Lease, endWithOwner } from './lifetime.js';
import { loadBundle } from './load.js';
import type { TextSettings } from './load.js';
import { reportOf } from './report.js';
import { poolingMetadata } from './sentence.js';
import type { FoundSentence, SentenceSettings } from './sentence.js';
import { LocalAdapter, LocalSession, localHandle, localSession } from './session.js';
import { readAll, readText } from './bytes.js';
import { openFile } from './source.js';
import { Together } from './together.js';
import { Tokenizer } from './tokenizer.js';
import type { FoundTokenizer } from './tokenizer-files.js';
import { textMetadata } from './tokenizer-gguf-write.js';
import type {
  Adapter,
  Classification,
  ClassifyOptions,
  EmbedOptions,
  FileInput,
  GenerateOptions,
  Generation,
  GgufMetadataInput,
  LoadReport,
  LoadWeightsOptions,
  MemoryReport,
  Model,
  ModelDescription,
  NumbersInput,
  PairInput,
  QuantizeOptions,
  SaveOptions,
  SaveGgufOptions,
  SaveTorchOptions,
  SaveWeightsOptions,
  Session,
  SessionOptions,
  TextInput,
  TokenClassification,
  ValidateOptions,
  ValidationProblem,
  WeightInfo,
} from './types.js';
import { validateModel } from './validate.js';

/** What comes with a model besides its graph and weights. */
export interface ModelExtras extends Partial<TextSettings> {
  tokenizer?: FoundTokenizer | undefined;
  context?: number | undefined;
  /** The config.json it was loaded with. */
  config?: string | undefined;
  sentence?: FoundSentence | undefined;
  /** Takes what the user should know. */
  say?: ((text: string) => void) | undefined;
}

export class LocalModel implements Model {
  readonly #core: Core;
  readonly #handle: number;
  readonly #lease: Lease;
  readonly #adapters: Lease;
  readonly #sessions: Lease;
  readonly #extras: ModelExtras;
  #description: ModelDescription;
  readonly report: LoadReport;
  #tokenizer: Tokenizer | undefined;
  /** The search for its chat template. */
  #template: Promise<void> | undefined;
  /** What was said already. */
  readonly #said = new Set<string>();
  #sentence: Promise<SentenceSettings> | undefined;
  #foundSentence: SentenceSettings | undefined;
  /** The session `forward` keeps. */
  #kept: LocalSession | undefined;
  readonly together: Together;

  /** `release` takes the instance back: it is called once, when the model is freed or collected. It is freed with its `owner`. */
  constructor(core: Core, handle: number, extras: ModelExtras, release: () => void, owner?: Lease) {
    this.#core = core;
    this.#handle = handle;
    this.#extras = extras;
    this.#lease = new Lease('model', () => {
      if (core.alive) core.check((x) => x.w_model_free(handle));
      release();
    }, owner);
    // Sessions end before adapters, whichever was made first: an adapter in use cannot be freed.
    const nothing = (): void => undefined;
    this.#adapters = new Lease('model', nothing, this.#lease);
    const sessions = new Lease('model', nothing, this.#lease);
    this.#sessions = sessions;
    this.together = new Together((options) => new LocalBatch(core, handle, sessions, options));
    endWithOwner(this, this.#lease);
    try {
      this.#description = this.#describe();
      this.report = reportOf(this.#description.weights);
      this.#checkContext(extras.context);
    } catch (error) {
      this.#lease.end();
      throw error;
    }
  }

  #call<T>(use: (exports: CoreExports, model: number) => T): T {
    this.#lease.check();
    return this.#core.call((x) => use(x, this.#handle));
  }

  #check(use: (exports: CoreExports, model: number) => number): void {
    this.#lease.check();
    this.#core.check((x) => use(x, this.#handle));
  }

  // ---- What it is ----

  #describe(): ModelDescription {
    return JSON.parse(this.#core.text((x) => x.w_model_describe(this.#handle))) as ModelDescription;
  }

  get weights(): readonly WeightInfo[] {
    return this.#description.weights;
  }

  /** `describe`, at once. */
  describeSync(): ModelDescription {
    this.#lease.check();
    return this.#describe();
  }

  async describe(): Promise<ModelDescription> {
    return this.describeSync();
  }

  /** Threads that share its work now; 0 once freed. */
  get threads(): number {
    return this.#lease.ended || !this.#core.alive ? 0 : this.#call((x) => x.w_pool_threads());
  }

  async threadWork(): Promise<number[]> {
    this.#lease.check();
    return this.#core.threadWork();
  }

  async memory(): Promise<MemoryReport> {
    this.#lease.check();
    return this.#core.report();
  }

  /** Positions the model is made for; 0: no limit of its own. */
  get maxContext(): number {
    return this.#description.maxContext;
  }

  #checkContext(context = 0): void {
    if (this.maxContext > 0 && context > this.maxContext) throw new HeddleError('bad_argument', `context: ${context} positions are more than the model's ${this.maxContext}`);
  }

  get context(): number {
    return this.#extras.context ?? 0;
  }

  /** Asked for once; a failure is not kept. */
  async sentence(): Promise<SentenceSettings> {
    const { settings, find } = this.#extras.sentence ?? {};
    if (settings || !find) return settings ?? {};
    this.#sentence ??= find();
    try {
      return await this.#sentence;
    } catch (error) {
      this.#sentence = undefined; // the next call asks again
      throw error;
    }
  }

  /** What is said once a model, whatever the numbers in it. */
  say(kind: string, text: string): void {
    if (!this.#said.has(kind)) this.#extras.say?.(text);
    this.#said.add(kind);
  }

  /** Of generation_config.json or config.json; where neither names one, the tokenizer's. */
  get endTokens(): readonly number[] {
    const { endTokens: named = [] } = this.#extras;
    const end = named.length > 0 ? undefined : this.tokenizer?.endToken;
    return end === undefined ? named : [end];
  }

  get beginToken(): number | undefined {
    return this.#extras.beginToken;
  }

  /** Made at first use: a large vocabulary takes a moment. */
  get tokenizer(): Tokenizer | undefined {
    if (this.#extras.tokenizer) this.#tokenizer ??= new Tokenizer(this.#extras.tokenizer.files);
    return this.#tokenizer;
  }

  #needTokenizer(): Tokenizer {
    const tokenizer = this.tokenizer;
    if (!tokenizer) throw new HeddleError('bad_state', 'the model has no tokenizer: load it with its tokenizer.json');
    return tokenizer;
  }

  async tokenize(text: string): Promise<number[]> {
    this.#lease.check();
    return this.#needTokenizer().encode(text);
  }

  async detokenize(tokens: NumbersInput): Promise<string> {
    this.#lease.check();
    checkWholeNumbers(tokens, 'tokens');
    return this.#needTokenizer().decode(Array.from(tokens));
  }

  async chatTemplate(): Promise<string | undefined> {
    this.#lease.check();
    await this.#findTemplate();
    return this.tokenizer?.chatTemplate;
  }

  /** Gives the tokenizer the chat template that lies beside it, where that was not looked for yet. */
  async #findTemplate(): Promise<void> {
    const { findTemplate } = this.#extras.tokenizer ?? {};
    if (!findTemplate) return;
    this.#template ??= findTemplate().then((files) => this.#needTokenizer().useTemplate(files));
    try {
      await this.#template;
    } catch (error) {
      this.#template = undefined; // the next call asks again
      throw error;
    }
  }

  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize: true }): Promise<number[]>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: false }): Promise<string>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: boolean }): Promise<string | number[]>;
  async applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: boolean }): Promise<string | number[]> {
    this.#lease.check();
    if (options?.template === undefined) await this.#findTemplate();
    return this.#needTokenizer().applyChatTemplate(messages, options);
  }

  // ---- Weights ----

  #weight(name: string): WeightInfo {
    this.#lease.check();
    checkText(name, 'name');
    const found = this.weights.find((weight) => weight.name === name);
    if (!found) throw new HeddleError('bad_argument', `no weight is called '${name}'; there are ${this.weights.length}, the first '${this.weights[0]?.name ?? ''}'`);
    return found;
  }

  /** `readWeight`, at once. */
  readWeightSync(name: string): Float32Array {
    const n = elements(this.#weight(name).shape);
    const { heap } = this.#core;
    const values = heap.alloc(4 * n);
    try {
      heap.withText(name, (p) => this.#check((x, model) => x.w_model_read_weight(model, p, values, n)));
      return heap.floats(values, n);
    } finally {
      if (this.#core.alive) heap.free(values);
    }
  }

  async readWeight(name: string): Promise<Float32Array> {
    return this.readWeightSync(name);
  }

  /** `writeWeight`, at once. */
  writeWeightSync(name: string, values: NumbersInput): void {
    this.#weight(name);
    checkNumbers(values, 'values');
    this.#dropKept();
    const copy = Float32Array.from(values);
    this.#core.heap.with(new Uint8Array(copy.buffer), (data) =>
      this.#core.heap.withText(name, (p) => this.#check((x, model) => x.w_model_write_weight(model, p, data, copy.length))),
    );
  }

  async writeWeight(name: string, values: NumbersInput): Promise<void> {
    this.writeWeightSync(name, values);
  }

  /** `saveToString`, at once. */
  saveToStringSync(id: string, options: SaveOptions = {}): string {
    this.#lease.check();
    checkText(id, 'id');
    checkOptions(options, saveOptions);
    const { dtype, quantize } = options;
    const { heap } = this.#core;
    const save = (name: number): string =>
      heap.withText(id, (p) => this.#core.text((x) => (quantize ? saveQuantized(x, this.#handle, p, name, quantize) : x.w_model_save_bundle(this.#handle, p, name)), true));
    return dtype === undefined ? save(0) : heap.withText(dtype, save);
  }

  async saveToString(id: string, options?: SaveOptions): Promise<string> {
    return this.saveToStringSync(id, options);
  }

  /** `saveWeights`, at once. */
  saveWeightsSync(options: SaveWeightsOptions = {}): Uint8Array<ArrayBuffer> {
    this.#lease.check();
    const dtype = this.#core.dtypeNumber(options.dtype ?? 'F32');
    return this.#core.bytes((x) => x.w_model_save_weights(this.#handle, dtype));
  }

  async saveWeights(options?: SaveWeightsOptions): Promise<Uint8Array<ArrayBuffer>> {
    return this.saveWeightsSync(options);
  }

  /** The config.json it was loaded with, a GGUF file's in its place; undefined for bundles and built networks. */
  get config(): string | undefined {
    return this.#extras.config;
  }

  /** `saveGguf`, at once: with what is known of the texts by now. */
  saveGgufSync(options: SaveGgufOptions = {}): Uint8Array<ArrayBuffer> {
    this.#lease.check();
    checkOptions(options, saveGgufOptions);
    const config = options.config === undefined ? this.#extras.config : jsonText(options.config, 'config');
    if (config === undefined) throw new HeddleError('bad_argument', 'saveGguf: the model was loaded without a config.json: give it as options.config');
    const given = entriesOf(options.metadata ?? {});
    const own = options.tokenizer === false ? [] : Object.entries(this.#textMetadata(config, given.some(([key]) => key === 'tokenizer.ggml.model')));
    return writeModel(this.#core, this.#handle, options.dtype ?? 'F32', config, new Map([...own, ...given]) as GgufMetadataInput);
  }

  /** What a GGUF file says of a model's texts, besides its weights. */
  #textMetadata(config: string, hasTokenizer: boolean): Record<string, unknown> {
    const say = (text: string): void => this.say(text, text);
    const { tokenizer, beginToken, endTokens = [] } = this.#extras;
    const template = tokenizer?.findTemplate ? this.tokenizer?.chatTemplate : undefined;
    const text = hasTokenizer ? {} : textMetadata({ files: tokenizer?.files, template, beginToken, endTokens }, say);
    return { ...text, ...poolingMetadata(config, this.#foundSentence ?? this.#extras.sentence?.settings ?? {}, say) };
  }

  async saveGguf(options?: SaveGgufOptions): Promise<Uint8Array<ArrayBuffer>> {
    this.#lease.check();
    if (options?.tokenizer !== false) await this.#findTemplate();
    if (options?.tokenizer !== false && this.#extras.config?.includes('"bert"')) this.#foundSentence = await this.sentence();
    return this.saveGgufSync(options);
  }

  /** `saveTorch`, at once. */
  saveTorchSync(options: SaveTorchOptions = {}): Uint8Array<ArrayBuffer> {
    this.#lease.check();
    checkOptions(options, saveTorchOptions);
    const dtype = this.#core.dtypeNumber(options.dtype ?? 'F32');
    const save = (text: number, n: number): Uint8Array<ArrayBuffer> => this.#core.bytes((x) => x.w_model_save_torch(this.#handle, dtype, text, n));
    return options.checkpoint === undefined ? save(0, 0) : this.#core.heap.withText(checkpointText(options.checkpoint), save);
  }

  async saveTorch(options?: SaveTorchOptions): Promise<Uint8Array<ArrayBuffer>> {
    return this.saveTorchSync(options);
  }

  /** `loadWeights`, at once. */
  loadWeightsSync(file: Uint8Array, options: LoadWeightsOptions = {}): number {
    this.#lease.check();
    checkOptions(options, loadWeightsOptions);
    this.#dropKept();
    const { prefix = '', strict = false } = options;
    return this.#core.heap.with(file, (p, n) =>
      this.#core.heap.withText(prefix, (text) => this.#core.made((x) => x.w_model_load_state(this.#handle, p, n, text, Number(strict)))),
    );
  }

  async loadWeights(file: FileInput, options?: LoadWeightsOptions): Promise<number> {
    return this.loadWeightsSync(await readAll(await openFile(file)), options);
  }

  /** A bundle's model in this model's instance. It is freed with this one, if not before. */
  besideSync(text: string, id: string): LocalModel {
    this.#lease.check();
    return new LocalModel(this.#core, loadBundle(this.#core, text, id), {}, () => undefined, this.#lease);
  }

  // ---- Running ----

  /** `createSession`, at once. */
  createSessionSync(options: SessionOptions = {}): LocalSession {
    this.#lease.check();
    checkOptions(options, sessionOptions);
    this.#checkContext(options.context);
    if (options.mode === 'train') this.#dropKept();
    const dtype: 'i32' | 'f32' = this.#description.inputDtype === 'I32' ? 'i32' : 'f32';
    const context = options.context ?? this.context;
    const [ownRows = 0] = this.#description.inputShape;
    // No call takes more rows than the session has positions.
    const given = options.input ?? (this.maxContext > 0 && context > 0 && context < ownRows ? { shape: [context, ...this.#description.inputShape.slice(1)] } : undefined);
    const input = given && { dtype, ...given };
    return new LocalSession(this.#core, this.#handle, this, this.#sessions, { ...options, context, ...(input && { input }) });
  }

  async createSession(options?: SessionOptions): Promise<LocalSession> {
    return this.createSessionSync(options);
  }

  /** A batch of token ids, for a call or a few. */
  createBatchSync(options: BatchOptions): LocalBatch {
    this.#lease.check();
    return new LocalBatch(this.#core, this.#handle, this.#sessions, options);
  }

  /** `decodeTogether`, at once. */
  decodeTogetherSync(sessions: readonly Session[], tokens: readonly NumbersInput[]): void {
    this.#lease.check();
    checkTogether(sessions, tokens);
    if (this.#description.inputDtype !== 'I32') throw new HeddleError('bad_argument', 'decodeTogether is for models that read token ids; this one reads numbers');
    const own = sessions.map((session, i) => localSession(session, this, `sessions[${i}]`));
    for (const session of own) session.checkIdle();
    this.together.decodeSync(own, tokens.map((ids) => Array.from(ids)));
  }

  async decodeTogether(sessions: readonly Session[], tokens: readonly NumbersInput[]): Promise<void> {
    this.decodeTogetherSync(sessions, tokens);
  }

  /** `forward`, at once. State does not carry over: each call begins anew. */
  forwardSync(input: NumbersInput, shape?: readonly number[]): Float32Array {
    this.#lease.check();
    checkNumbers(input, 'input');
    if (shape !== undefined) checkShape(shape);
    const session = this.#sessionFor(input.length, shape);
    if (session.position > 0) session.resetSync();
    return session.forwardSync(input, shape);
  }

  async forward(input: NumbersInput, shape?: readonly number[]): Promise<Float32Array> {
    return this.forwardSync(input, shape);
  }

  /** The kept session when it can take an input of that size, else one planned for it. */
  #sessionFor(length: number, shape: readonly number[] | undefined): LocalSession {
    this.#lease.check();
    const kept = this.#kept;
    const wanted = shape ?? kept?.inputShape;
    if (kept?.alive && wanted && elements(wanted) === length && sameShape(wanted, kept.inputShape)) return kept;
    this.#dropKept();
    if (shape) return (this.#kept = this.createSessionSync({ input: { shape } }));
    const own = this.#ownInput();
    if (own && elements(own) === length) return (this.#kept = this.createSessionSync());
    const rowSize = own ? elements(own.slice(1)) : 1;
    const rows = length / rowSize;
    if (!Number.isInteger(rows) || rows < 1) throw new HeddleError('bad_argument', `input of ${counted(length, 'number')}: the model takes rows of ${rowSize}`);
    return (this.#kept = this.createSessionSync({ input: { shape: own ? [rows, ...own.slice(1)] : [length] } }));
  }

  /** The input shape the description states; undefined when it is up to the caller. */
  #ownInput(): number[] | undefined {
    const { inputShape } = this.#description;
    return inputShape.length > 0 ? inputShape : undefined;
  }

  /** What the model keeps for itself must not stand in the way of who takes it for himself. */
  #dropKept(): void {
    this.#kept?.freeSync();
    this.#kept = undefined;
    this.together.drop();
  }

  embed(text: string, options?: EmbedOptions): Promise<Float32Array>;
  embed(texts: readonly TextInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  async embed(texts: string | readonly TextInput[], options: EmbedOptions = {}): Promise<Float32Array | Float32Array[]> {
    this.#lease.check();
    return embedTexts(this, texts, options);
  }

  classify(text: string, options?: ClassifyOptions): Promise<Classification>;
  classify(texts: readonly (TextInput | PairInput)[], options?: ClassifyOptions): Promise<Classification[]>;
  async classify(texts: string | readonly (TextInput | PairInput)[], options: ClassifyOptions = {}): Promise<Classification | Classification[]> {
    this.#lease.check();
    return classifyTexts(this, texts, options);
  }

  classifyTokens(text: string, options?: ClassifyOptions): Promise<TokenClassification[]>;
  classifyTokens(texts: readonly (TextInput | PairInput)[], options?: ClassifyOptions): Promise<TokenClassification[][]>;
  async classifyTokens(
    texts: string | readonly (TextInput | PairInput)[], options: ClassifyOptions = {},
  ): Promise<TokenClassification[] | TokenClassification[][]> {
    this.#lease.check();
    return classifyTokens(this, texts, options);
  }

  createChat(options: ChatOptions = {}): Promise<Chat> {
    return Chat.start(this, options);
  }

  generate(prompt: string | NumbersInput, options: GenerateOptions = {}): Generation {
    return new TokenGeneration(this.#generated(prompt, options));
  }

  /** What is wrong is told where the tokens are awaited, as by every other call. */
  async *#generated(prompt: string | NumbersInput, options: GenerateOptions): ReturnType<typeof generateTokens> {
    this.#lease.check();
    return yield* generateTokens(this, prompt, options);
  }

  async validate(options: ValidateOptions = {}): Promise<ValidationProblem[]> {
    this.#lease.check();
    checkOptions(options, validateOptions);
    return validateModel(this, options);
  }

  // ---- Adapters ----

  async loadAdapter(config: FileInput | object, weights: FileInput): Promise<LocalAdapter> {
    this.#lease.check();
    const plain = isPlainObject(config) && !('stream' in config);
    const text = plain ? jsonText(config, 'config') : await readText(await openFile(config as FileInput, undefined, "the adapter's config"));
    const file = await openFile(weights, undefined, "the adapter's weights");
    const bytes = await readAll(file);
    this.#lease.check();
    const { heap } = this.#core;
    const load = (): number =>
      heap.withText(text, (c, nConfig) =>
        heap.with(bytes, (w, nWeights) => this.#core.made((x) => x.w_adapter_load(this.#handle, c, nConfig, w, nWeights))),
      );
    return new LocalAdapter(this.#core, aboutWeights(file.name, load), this.#adapters);
  }

  #merge(adapter: Adapter, sign: 1 | -1, options: { dequantize?: boolean }): void {
    this.#lease.check();
    checkOptions(options, mergeOptions);
    const handle = localHandle(adapter, this.#core);
    this.#dropKept();
    this.#check((x, model) => x.w_adapter_merge(model, handle, sign, options.dequantize ? 1 : 0));
    this.#description = this.#describe(); // dtypes may have changed
  }

  async mergeAdapter(adapter: Adapter, options: { dequantize?: boolean } = {}): Promise<void> {
    this.#merge(adapter, 1, options);
  }

  async unmergeAdapter(adapter: Adapter, options: { dequantize?: boolean } = {}): Promise<void> {
    this.#merge(adapter, -1, options);
  }

  // ---- End ----

  /** `free`, at once. */
  freeSync(): void {
    this.#lease.end();
    this.#kept = undefined;
  }

  async free(): Promise<void> {
    this.freeSync();
  }

  [Symbol.dispose](): void {
    this.freeSync();
  }
}

function saveQuantized(x: CoreExports, model: number, id: number, dtype: number, { per, zeroPoint = false, scale = 0 }: QuantizeOptions): number {
  return x.w_model_save_quantized(model, id, dtype, Number(zeroPoint !== false), Number(per === 'tensor'), scale, Number(zeroPoint === true ? 0 : zeroPoint));
}

/** Errors about an adapter name its weights' file, where they are not about its description. */
function aboutWeights(name: string, load: () => number): number {
  try {
    return load();
  } catch (error) {
    const isOurs = error instanceof HeddleError && error.code === 'bad_file' && !error.message.startsWith('adapter_config.json');
    throw isOurs ? new HeddleError(error.code, `${name}: ${error.message}`) : error;
  }
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i]);
}
