/**
 * runtime.ts: picks a module the host can run, compiles it once and starts an instance of it for each model, so that freeing a model
 * gives its memory back and a trap ends one model only.
 */
import { checkOptions, checkText, checkTextOrBytes, convertOptions, fetchOptions, initOptions, isPlainObject, jsonText, loadOptions, mlxOptions, pretrainedOptions, safetensorsOptions, seedOptions } from './arguments.js';
import { compileModule } from './compile.js';
import { Core, elements } from './core.js';
import { convertTensors, isTensorSource } from './convert.js';
import type { Conversion, ConvertOptions, TensorSource, WriteChunk } from './convert.js';
import { HeddleError } from './errors.js';
import type { WasmModule } from './globals.js';
import { processors, whyNoThreads } from './host.js';
import { fromBytes, readAll, readText } from './bytes.js';
import { detectFile, inspectFiles } from './directory.js';
import type { Detection } from './directory.js';
import { serializeGguf } from './gguf.js';
import { closeModel, describe, estimateFiles, loadFiles, namesFamily, openModel, openSet, openWeightsOf, standardDialect, textSettings } from './load.js';
import type { ModelFiles } from './load.js';
import { hasThreads } from './loader.js';
import { mlxListing, mlxToSafetensors, safetensorsToMlx, withoutMlx } from './mlx.js';
import type { MlxListing, MlxOptions } from './mlx.js';
import { LocalModel } from './model.js';
import { buildNetworkFromJSON, loadModelWithDType, loadNetworkFromString, serializeSafetensors } from './names.js';
import { Network } from './names.js';
import type { LoadedGeneric, LoadedWithDType } from './names.js';
import type { startPool } from './pool.js';
import { checkPath, findPretrained } from './pretrained.js';
import type { PretrainedOptions } from './pretrained.js';
import { sayOnce } from './notices.js';
import { hostFeatures } from './probe.js';
import { closeAll } from './shards.js';
import { checkAsMlxNode, countsLine, failedToOpen, SafeTensorsFile } from './safetensors-file.js';
import type { SafetensorsOptions } from './safetensors-file.js';
import { isFileSet, openFile, openSource } from './source.js';
import type { TokenizerFiles } from './tokenizer-files.js';
import { openWeights } from './weights.js';
import type { LocalWeights } from './weights.js';
import type {
  DetectedModel, FetchOptions, FileInfo, FileInput, GgufMetadataInput, GgufTensorInput, InitOptions, LoadOptions, MemoryEstimate, ModuleName, Runtime, SourceInput, StoredDtype,
  TensorInput, TensorOptions, WasmInput, WeightTensor,
} from './types.js';

/** What an entry of the package brings to its runtimes. */
export interface Platform {
  /** Where the package's own modules are; without it the caller has to give one. */
  asset?: (name: ModuleName) => WasmInput;
  startPool?: typeof startPool;
}

type ModuleGetter = (name: ModuleName) => WasmInput | Promise<WasmInput>;
type Variant = 'simd128' | 'relaxed';

interface Lent {
  core: Core;
  release: () => void;
}

/** More threads than that have little to share in the models of today. */
const mostAutoThreads = 8;

/** Models with fewer bytes of weights are done before a second thread has woken; 'auto' starts none for them. */
const autoThreadsFromBytes = 4 << 20;

export class LocalRuntime implements Runtime {
  readonly variant: Variant | 'given';
  readonly threads: number;
  readonly notices: readonly string[];
  readonly #module: WasmModule;
  readonly #options: InitOptions;
  readonly #platform: Platform;
  readonly #notices: string[];
  #shared: Core | undefined;
  #freed = false;

  /** Use `init`. */
  constructor(module: WasmModule, variant: Variant | 'given', threads: number, options: InitOptions, platform: Platform, notices: string[]) {
    this.#module = module;
    this.variant = variant;
    this.threads = threads;
    this.#options = options;
    this.#platform = platform;
    this.#notices = notices;
    this.notices = notices;
  }

  /** Makes the shared instance, where that was asked for. */
  async start(): Promise<this> {
    if (this.#options.shared) {
      this.#shared = new Core(this.#module);
      await this.#startPool(this.#shared, Infinity);
    }
    return this;
  }

  // ---- Instances ----

  /** An instance for one model, without threads of its own. */
  #lend(): Lent {
    if (this.#freed) throw new HeddleError('bad_state', 'the runtime was freed');
    if (this.#shared) return { core: this.#shared, release: () => undefined };
    const core = new Core(this.#module);
    return { core, release: () => core.free() };
  }

  /** The same with the threads that so many bytes of weights are worth. */
  async #lendFor(weightBytes: number): Promise<Lent> {
    const lent = this.#lend();
    if (lent.core !== this.#shared) await this.#startPool(lent.core, weightBytes);
    return lent;
  }

  async #startPool(core: Core, weightBytes: number): Promise<void> {
    const wanted = (this.#options.threads ?? 'auto') !== 'auto' || weightBytes >= autoThreadsFromBytes;
    if (this.threads > 1 && wanted) await this.#platform.startPool?.(core, this.threads, this.#options.poolWorker, (text) => this.#notice(text));
  }

  #notice(text: string): void {
    notice(text, this.#notices, this.#options);
  }

  // ---- Models ----

  async loadModel(source: SourceInput, options: LoadOptions = {}): Promise<LocalModel> {
    checkOptions(options, loadOptions);
    return this.#load(source, options, false);
  }

  /** `complete`: what config.json leaves out is read off the tensors. */
  async #load(source: SourceInput, options: LoadOptions, complete: boolean): Promise<LocalModel> {
    options.signal?.throwIfAborted();
    return this.#loadOpened(await openModel(source, { ...options, say: (text) => this.#notice(text) }), options, complete);
  }

  /** `log` gets MLX-Node's line with the counts of the weight files. */
  async #loadOpened(files: ModelFiles, options: LoadOptions, complete: boolean, log?: (line: string) => void): Promise<LocalModel> {
    try {
      const bytes = files.weights?.files.reduce((sum, { size = 0 }) => sum + size, 0) ?? files.bundle?.bytes.byteLength;
      const lent = await this.#lendFor(bytes ?? 0);
      return await made(lent, async (core) => {
        options.signal?.throwIfAborted();
        const handle = await loadFiles(core, files, { ...options, say: (text) => this.#notice(text) }, complete, log && ((found) => log(countsLine(found))));
        return new LocalModel(core, handle, { ...textSettings(files), tokenizer: files.tokenizer, context: options.context, config: files.config, sentence: files.sentence, say: (text) => this.#notice(text) }, lent.release);
      });
    } finally {
      await closeModel(files);
    }
  }

  async buildNetwork(spec: object | string, options: { seed?: number } = {}): Promise<LocalModel> {
    checkOptions(options, seedOptions);
    const json = standardDialect(jsonText(spec, 'spec'));
    const lent = await this.#lendFor(0);
    return made(lent, async (core) => {
      const handle = core.heap.withText(json, (p, n) => core.made((x) => x.w_model_build(p, n, options.seed ?? 0)));
      return new LocalModel(core, handle, {}, lent.release);
    });
  }

  async inspect(source: SourceInput, options: FetchOptions = {}): Promise<FileInfo> {
    checkOptions(options, fetchOptions);
    const weights = await openWeightsOf(source, { ...options, keep: false });
    const { core, release } = this.#lend();
    try {
      return (await inspectFiles(core, await withoutMlx(core, weights))).info;
    } finally {
      release();
      await closeAll(weights.files);
    }
  }

  async estimate(source: SourceInput, options: LoadOptions = {}): Promise<MemoryEstimate> {
    checkOptions(options, loadOptions);
    const files = await openModel(source, { ...options, keep: false });
    const { core, release } = this.#lend();
    try {
      return await estimateFiles(core, files, options);
    } finally {
      release();
      await closeModel(files);
    }
  }

  async openWeights(source: SourceInput, options: FetchOptions = {}): Promise<LocalWeights> {
    checkOptions(options, fetchOptions);
    const weights = await openWeightsOf(source, { ...options, keep: false });
    return made(this.#lend(), async (core, release) => openWeights(core, await withoutMlx(core, weights), release));
  }

  // ---- MLX-Node's files and names: docs/mlx.md ----

  /**
   * A model's folder as MLX-Node takes it: weights.safetensors, model.safetensors or weights.mlx, config.json in its spellings, and a tokenizer.json.
   * Its messages for what is not there. `log` gets its lines with the counts of tensors and parameters.
   */
  async loadPretrained(source: SourceInput, options: PretrainedOptions = {}): Promise<LocalModel> {
    checkOptions(options, pretrainedOptions);
    const { log, ...rest } = options;
    await checkPath(source);
    const opened = await openSource(source, rest);
    const where = isFileSet(opened) ? (typeof source === 'string' || source instanceof URL ? String(source).replace(/[/\\]+$/, '') : 'the files given') : opened.name;
    if (!isFileSet(opened)) throw new HeddleError('bad_argument', `${where}: expected a folder, found a file`);
    const found = await findPretrained(opened, where);
    const files = await openSet(found.files, { ...rest, say: (text) => this.#notice(text) });
    log?.(`Loading model from ${found.format} format: ${found.path}`);
    const model = await this.#loadOpened(files, rest, false, log);
    log?.(`Loaded ${model.weights.reduce((sum, { shape }) => sum + elements(shape), 0)} parameters from ${found.format}`);
    return model;
  }

  /** A SafeTensors file under MLX-Node's names, and with `errors: 'mlx-node'` its messages. */
  async openSafetensors(source: FileInput, options: SafetensorsOptions = {}): Promise<SafeTensorsFile> {
    checkOptions(options, safetensorsOptions);
    const { errors = 'heddle', log, ...rest } = options;
    const asMlxNode = errors === 'mlx-node';
    const file = await openFile(source, rest).catch((error: unknown) => {
      throw asMlxNode ? failedToOpen(error) : error;
    });
    return made(this.#lend(), async (core, release) => {
      if (asMlxNode) await checkAsMlxNode(file);
      const weights = await openWeights(core, await withoutMlx(core, { files: [file], expected: new Map() }), release);
      log?.(countsLine({ tensors: weights.tensors.length, parameters: weights.numParameters }));
      return new SafeTensorsFile(weights, asMlxNode);
    });
  }

  /** Its first name: openSafetensors. */
  async loadSafetensors(source: FileInput, options: SafetensorsOptions = {}): Promise<SafeTensorsFile> {
    return this.openSafetensors(source, options);
  }

  /** A SafeTensors file of a weights.mlx. Each weight gets the dtype its label says; version and config go into the metadata. Synchronous. */
  mlxToSafetensors(text: Uint8Array | string): Uint8Array<ArrayBuffer> {
    checkTextOrBytes(text, 'text');
    return this.#borrow((core) => mlxToSafetensors(core, typeof text === 'string' ? new TextEncoder().encode(text) : text));
  }

  /** A weights.mlx (UTF-8) of a SafeTensors file of F32, F16 and BF16 with finite values. Synchronous. */
  safetensorsToMlx(file: Uint8Array, options: MlxOptions = {}): Uint8Array<ArrayBuffer> {
    checkOptions(options, mlxOptions);
    return this.#borrow((core) => safetensorsToMlx(core, file, options));
  }

  /** What a weights.mlx lists, also one that only describes the weights.safetensors beside it. Synchronous. */
  listMlx(text: Uint8Array | string): MlxListing {
    checkTextOrBytes(text, 'text');
    return this.#borrow((core) => mlxListing(core, typeof text === 'string' ? new TextEncoder().encode(text) : text));
  }

  #borrow<T>(use: (core: Core) => T): T {
    const { core, release } = this.#lend();
    try {
      return use(core);
    } finally {
      release();
    }
  }

  /**
   * A weight file in another format: its bytes go to `write` in order, a tensor at a time, so that neither file is ever whole in memory. The source may be
   * anything `openWeights` takes, MLX-Node's weights.mlx, or tensors (`modelTensors`); one that was open stays so. Throws `unsupported` where a
   * tensor's dtype has no place in the format.
   */
  async convertWeights(source: SourceInput | TensorSource, write: WriteChunk, options: ConvertOptions): Promise<Conversion> {
    checkOptions(options, convertOptions);
    convertOptions.to(options.to, 'to'); // it is needed
    const { to: _, dtype: __, metadata: ___, names: ____, rename: _____, progress: ______, ...fetching } = options;
    const opened = isTensorSource(source) ? undefined : await this.openWeights(source, fetching);
    const { core, release } = this.#lend();
    try {
      return await convertTensors(core, opened ?? (source as TensorSource), write, options);
    } finally {
      release();
      await opened?.close();
    }
  }

  // ---- Their Loom names: see names.ts ----

  /** The model called `id` from a bundle's text (or its bytes). Synchronous. */
  LoadNetworkFromString(text: string | Uint8Array, id: string): Network {
    checkTextOrBytes(text, 'text');
    checkText(id, 'id');
    return loadNetworkFromString(() => this.#lend(), text, id);
  }

  /** LoadNetworkFromString under its other name. Synchronous. */
  LoadModelFromString(text: string | Uint8Array, id: string): Network {
    return this.LoadNetworkFromString(text, id);
  }

  /** The same, with the encoding the bundle kept its weights in. `target` is Loom's and changes nothing there either. Synchronous. */
  LoadModelWithDType(text: string | Uint8Array, id: string, target?: StoredDtype): LoadedWithDType {
    return loadModelWithDType(() => this.#lend(), text, id, target);
  }

  /** The model called `id` from a bundle's file: a path in Node, a URL, a Blob or File. */
  async LoadModel(file: FileInput, id: string): Promise<Network> {
    return this.LoadNetworkFromString(await readAll(await openFile(file)), id);
  }

  /** What a weight file's tensors seem to be, from names and shapes; nothing is built. `config` is its config.json, where it has one. */
  async InspectModel(file: FileInput, config?: FileInput | object): Promise<DetectedModel> {
    const text = config === undefined ? undefined : await describe(config);
    const { network: _, refusal: __, ...found } = await this.#detect(await readAll(await openFile(file)), text);
    return found;
  }

  /**
   * A network from a weight file alone, or with its config.json: the known family or the Llama its tensors' names make, a recurrent layer, or the attention,
   * feed-forward, linear and norm layers there are, one after another. `warnings` says what was assumed, is missing or was left out (docs/generic.md). Refused
   * where names and shapes do not say how the tensors belong together.
   */
  async LoadGenericFromBytes(file: FileInput, config?: FileInput | object): Promise<LoadedGeneric> {
    const bytes = await readAll(await openFile(file));
    const text = config === undefined ? undefined : await describe(config);
    const { network: spec, detected, warnings, refusal } = await this.#detect(bytes, text);
    if (refusal && (text === undefined || !namesFamily(text))) throw new HeddleError(refusal.code, refusal.message);
    return { network: new Network(await this.loadModel(bytes, { config: spec ?? new TextEncoder().encode(text) })), detected, warnings };
  }

  /**
   * A Llama-style model from a folder with config.json and model.safetensors: embedding, blocks, final norm and head; ForwardCPU takes token ids and
   * gives the logits of every position. Where config.json has no tie_word_embeddings, a file without lm_head.weight has the embedding for its head.
   */
  async LoadTransformerFromSafetensors(folder: SourceInput): Promise<Network> {
    return new Network(await this.#load(folder, {}, true));
  }

  /** The same from config.json and the weight file; with a tokenizer (its tokenizer.json, or its files) the model under it makes text. */
  async LoadTransformerFromBytes(config: FileInput | object, weights: FileInput, tokenizer?: FileInput | TokenizerFiles): Promise<Network> {
    return new Network(await this.loadTransformerFromBytes(config, weights, tokenizer));
  }

  /** The same as a model. */
  async loadTransformerFromBytes(config: FileInput | object, weights: FileInput, tokenizer?: FileInput | TokenizerFiles): Promise<LocalModel> {
    const files = tokenizer === undefined ? {} : { tokenizer: await tokenizerFiles(tokenizer) };
    checkOptions<LoadOptions>(files, loadOptions);
    return this.#load(await readAll(await openFile(weights)), { config, ...files }, true);
  }

  /** A weight file's tensors by name, as float32 (or as the file has them); `file` may also be a folder of several. */
  async LoadSafeTensors(file: SourceInput, options: TensorOptions = {}): Promise<Record<string, WeightTensor>> {
    const weights = await this.openWeights(file);
    try {
      const tensors = Object.create(null) as Record<string, WeightTensor>; // a tensor may be called __proto__
      for await (const tensor of weights.all({ as: 'f32', ...options })) tensors[tensor.name] = tensor;
      return tensors;
    } finally {
      await weights.close();
    }
  }

  async #detect(bytes: Uint8Array, text: string | undefined): Promise<Detection> {
    const { core, release } = this.#lend();
    try {
      return await detectFile(core, fromBytes(bytes, 'the bytes given'), text);
    } finally {
      release();
    }
  }

  /** A SafeTensors file of single tensors, or of those LoadSafeTensors gave, encoded as Loom's writer does. Synchronous. */
  SerializeSafetensors(tensors: Readonly<Record<string, TensorInput | WeightTensor>>): Uint8Array<ArrayBuffer> {
    return serializeSafetensors(() => this.#lend(), tensors);
  }

  /** A GGUF file (version 3) of single tensors; block types round as GGML's reference quantisers do. Synchronous. */
  serializeGguf(tensors: Readonly<Record<string, GgufTensorInput | WeightTensor>>, metadata: GgufMetadataInput = {}): Uint8Array<ArrayBuffer> {
    return serializeGguf(() => this.#lend(), tensors, metadata);
  }

  /** A network from its JSON, as text or parsed, in Loom's arithmetic unless it says otherwise. Synchronous. */
  BuildNetworkFromJSON(json: string | object, options: { seed?: number } = {}): Network {
    checkOptions(options, seedOptions);
    return buildNetworkFromJSON(() => this.#lend(), jsonText(json, 'json'), options.seed ?? 0);
  }

  // ---- The shared instance ----

  /** Bytes of the shared instance; undefined where each model has its own. */
  memory(): { live: number; peak: number; heap: number } | undefined {
    return this.#shared?.report();
  }

  /** Pieces of work each of the shared instance's threads has done; undefined where each model has its own. */
  threadWork(): number[] | undefined {
    return this.#shared?.threadWork();
  }

  async free(): Promise<void> {
    this[Symbol.dispose]();
  }

  [Symbol.dispose](): void {
    this.#freed = true;
    this.#shared?.free();
  }
}

/** Files by their names as they are, or the one file as tokenizer.json. A parsed tokenizer.json is told by its `model`. */
async function tokenizerFiles(tokenizer: FileInput | TokenizerFiles): Promise<TokenizerFiles> {
  if (!isPlainObject(tokenizer) || 'stream' in tokenizer) return { 'tokenizer.json': await readText(await openFile(tokenizer as FileInput, { whole: true }, 'the tokenizer')) };
  return 'model' in tokenizer ? { 'tokenizer.json': tokenizer } : (tokenizer as TokenizerFiles);
}

/** Takes the instance back unless the making succeeds. */
async function made<T>(lent: Lent, make: (core: Core, release: () => void) => Promise<T>): Promise<T> {
  try {
    return await make(lent.core, lent.release);
  } catch (error) {
    lent.release();
    throw error;
  }
}

/** Keeps a notice with the runtime and says it. */
function notice(text: string, kept: string[], options: InitOptions): void {
  kept.push(text);
  sayOnce(text, options.log);
}

// ---- Choosing ----

/** Starts a runtime with what the host can do. */
export async function startRuntime(options: InitOptions, platform: Platform): Promise<LocalRuntime> {
  checkOptions(options, initOptions);
  const features = hostFeatures();
  if (!features.simd128) throw new HeddleError('unsupported', "this host's WebAssembly has no SIMD; Chrome 91, Firefox 89, Safari 16.4 and Node 20 have");
  if (options.variant === 'relaxed' && !features.relaxed) {
    throw new HeddleError('unsupported', "this host does not compile relaxed SIMD; variant 'auto' falls back to simd128");
  }
  const notices: string[] = [];
  const threads = threadsFor(options, platform, features.atomics, (text) => notice(text, notices, options));
  const { wasm } = options;
  if (wasm !== undefined && typeof wasm !== 'function') {
    const module = await compileModule(await wasm);
    const variant = options.variant === undefined || options.variant === 'auto' ? 'given' : options.variant;
    return new LocalRuntime(module, variant, hasThreads(module) ? threads : 1, options, platform, notices).start();
  }
  const get = (wasm as ModuleGetter | undefined) ?? platform.asset;
  if (!get) throw new HeddleError('bad_argument', 'this entry brings no module: give it one, compiled, as options.wasm');
  const best: Variant = options.variant === 'simd128' || !features.relaxed ? 'simd128' : 'relaxed';
  const { module, variant } = await compileBest(best, options.variant ?? 'auto', threads > 1, get);
  return new LocalRuntime(module, variant, threads, options, platform, notices).start();
}

/** The best variant; one step down when the host does not compile it after all. */
async function compileBest(
  best: Variant,
  asked: 'auto' | Variant,
  threads: boolean,
  get: ModuleGetter,
): Promise<{ module: WasmModule; variant: Variant }> {
  const name = (variant: Variant): ModuleName => (threads ? `${variant}-threads` : variant);
  try {
    return { module: await compileModule(await get(name(best))), variant: best };
  } catch (error) {
    const refused = error instanceof HeddleError && error.code === 'unsupported';
    if (!refused || best === 'simd128' || asked === 'relaxed') throw error;
    return { module: await compileModule(await get(name('simd128'))), variant: 'simd128' };
  }
}

/** How many threads a model may get. Fewer than asked for is no error, but is said. */
function threadsFor(options: InitOptions, platform: Platform, atomics: boolean, say: (text: string) => void): number {
  const asked = options.threads ?? 'auto';
  if (asked === 1) return 1;
  if (!platform.startPool) {
    if (asked !== 'auto') say('one thread: this entry of the package has no threads');
    return 1;
  }
  const wanted = asked === 'auto' ? Math.min(processors(), mostAutoThreads) : asked;
  if (wanted === 1) return 1;
  const why = atomics ? whyNoThreads() : "this host's WebAssembly has no threads";
  if (why === undefined) return Math.min(wanted, mostThreads);
  say(`one thread: ${why}`);
  return 1;
}

/** The core's own limit (HD_POOL_MAX). */
const mostThreads = 16;
