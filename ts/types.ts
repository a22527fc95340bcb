/// <reference lib="esnext.disposable" preserve="true" />
/**
 * types.ts: the package's surface. A runtime in this thread (`heddle`) and one in a worker (`heddle/worker`) both have it.
 *
 * Everything is asynchronous, so that a program does not change when its runtime moves into a worker. What is synchronous as
 * well, because a small forward costs microseconds, exists only on a runtime in this thread: see names.ts and the `…Sync` methods.
 */
import type { ChatMessage, ChatTemplateOptions } from './chat-template.js';
import type { Chat, ChatOptions } from './chat.js';
import type { WasmModule } from './globals.js';
import type { JsonSchema } from './json-schema.js';
import type { SamplingOptions } from './sampling.js';
import type { TokenizerFiles } from './tokenizer-files.js';

// ---- Where bytes come from ----

/** One file. A string is a URL, in Node also a path, or the text itself when it begins with `{`. */
export type FileInput = string | URL | ArrayBuffer | SharedArrayBuffer | ArrayBufferView | Blob | Response | ReadableStream<Uint8Array> | SizedStream;

/** A stream of a known length: the header of a weight file is checked against the file's size before anything is loaded. */
export interface SizedStream {
  stream: ReadableStream<Uint8Array>;
  size: number;
}

/**
 * Several files by name: `{ 'config.json': …, 'model.safetensors': … }`, a Map of them, or what a file picker or a drop gives: a FileList, Files in an
 * array or in anything else that can be gone through.
 */
export type FilesInput = ArrayLike<File> | Iterable<File> | ReadonlyMap<string, FileInput> | { readonly [name: string]: FileInput };

/**
 * A model: one file, several, a folder (a path in Node, a URL that ends in `/`, a model's page on huggingface.co). A folder of Hugging Face's cache
 * stands for its snapshot; in Node so does a model's id (`org/name`) that no path is called. docs/loading.md has all of it.
 */
export type SourceInput = FileInput | FilesInput;

// ---- Starting ----

/** The modules Heddle is shipped as. */
export type ModuleName = 'simd128' | 'simd128-threads' | 'relaxed' | 'relaxed-threads';

/** A module in any form it may come in. A compiled `WebAssembly.Module` is the only one some edge hosts allow. */
export type WasmInput = string | URL | ArrayBuffer | ArrayBufferView | Response | WasmModule;

export interface InitOptions {
  /** Which instructions: 'auto' takes the best the host compiles. */
  variant?: 'auto' | 'simd128' | 'relaxed';
  /** How many threads a model gets: 'auto' is one a processor, at most 8, and one for small models. */
  threads?: 'auto' | number;
  /** The module, or a function that gives it by name; by default the package's own, next to its code. */
  wasm?: WasmInput | Promise<WasmInput> | ((name: ModuleName) => WasmInput | Promise<WasmInput>);
  /** Where the pool's worker program lies, when a bundler has moved it. */
  poolWorker?: string | URL;
  /** Puts all models into one instance: less overhead for many small nets; memory is given back to the instance, not to the system. */
  shared?: boolean;
  /** Takes notices; by default they go to `console.info`, each once a process. */
  log?: (notice: string) => void;
}

// ---- Loading ----

/**
 * What the matrices that are multiplied with become while they stream in, row block by row block. All else is float32.
 *
 * - 'keep': as the file has them: F32, F16, BF16, Q8_0 and Q4_0 stay; GGML's other blocks (K-quants, IQ4, Q4_1, Q5, MXFP4) become Q8_0; F8, F6, F4
 *   and 8-bit integers become F16, which holds them exactly; anything else F32.
 * - 'q8_0', 'q4_0': GGML's blocks of 32 values, 8.5 and 4.5 bits each in files. Rows that are no multiple of 32 become F16; with 'q4_0' embeddings and
 *   the head (the last matrix) become Q8_0.
 * - 'int8': symmetric, one scale a row: value = code · max|row| / 127.
 * - 'f32', 'f16', 'bf16': rounded to nearest even.
 *
 * `model.report` says what became of each weight.
 */
export type WeightType = 'keep' | 'f32' | 'f16' | 'bf16' | 'q8_0' | 'q4_0' | 'int8';

/** What has come of the tensors that are wanted. Bytes and tensors only grow. */
export interface LoadProgress {
  bytes: number;
  totalBytes: number;
  tensors: number;
  totalTensors: number;
  /** Since the first tensor was asked for. */
  seconds: number;
  /** What is left at the pace so far; missing before the first bytes. */
  secondsLeft?: number;
  /** The tensor that has just been completed, by name: it is in the model. */
  tensor?: string;
}

/** Memory that a model and a session that makes text with it take, in bytes, known before weights are read. */
export interface MemoryEstimate {
  dtype: WeightType;
  /** The weights as `dtype`. */
  weights: number;
  /** Positions of the session: `options.context`, else as many as the model is made for; 0: it has none, and nothing is said of sessions. */
  context: number;
  /** What the session takes whatever it holds: values of a call of 64 tokens, room for products and attention over `context` positions. */
  arena: number;
  /** What each position adds: keys and values of all layers. They are taken as they are needed, 256 positions at a time. */
  statePerPosition: number;
  /** All of it, with `context` positions held. */
  total: number;
  /** The most positions, up to `context`, that fit beside the weights, a growing state being copied: for a moment there are two. */
  longest: number;
  /**
   * Whether it can be loaded: the weights, the arena and `options.context` positions (without it 256, or as many as the model has) are less than `limit`.
   * A host may give less than that.
   */
  fits: boolean;
  /** Where it would fit: other dtypes, with the positions that fit beside them. */
  suggestions: readonly { dtype: WeightType; weights: number; longest: number }[];
  /** Where WebAssembly's memory ends: 2^32. */
  limit: number;
  /** Bytes of the weights as the other dtypes. */
  byDtype: Partial<Record<WeightType, number>>;
}

/** Where a load keeps what it fetches. */
export interface CacheOptions {
  /** Node: the folder; by default `heddle/models` in XDG_CACHE_HOME or `~/.cache`. Browsers keep files with the page's origin. */
  folder?: string;
  /** Asks the server whether the file is still the same (its ETag). Without an answer the kept one is taken. */
  revalidate?: boolean;
  /** Reads a kept file's checksum before it is used. */
  verify?: boolean;
}

/** A file in the cache. */
export interface CacheEntry {
  url: string;
  bytes: number;
  /** When it was written, in milliseconds since 1970. */
  time: number;
  /** The server's ETag (or Last-Modified), where it sent one. */
  etag?: string;
  /** CRC-32 of what was written, eight hexadecimal digits. */
  crc32: string;
}

/** How files at URLs are fetched. */
export interface FetchOptions {
  /** Request headers for the origins that were named: `{ authorization: 'Bearer …' }`. Redirects to another origin do not get them; docs/loading.md. */
  headers?: Readonly<Record<string, string>>;
  /** Instead of the host's fetch. Not for `heddle/worker`: functions do not cross. */
  fetch?: typeof fetch;
  /** A branch, a tag or a commit of a Hugging Face model, in place of the one in its address; `main` by default. */
  revision?: string;
  /** Keeps what servers give, in whole files, and reads from there the next time; off by default. */
  cache?: boolean | CacheOptions;
  signal?: AbortSignal;
}

export interface LoadOptions extends FetchOptions {
  /** What matrices become while they stream in; 'keep' by default. */
  dtype?: WeightType;
  /** Which model of a bundle; needed when it holds several. */
  id?: string;
  /** The description of bare weights: config.json, or a network's spec. */
  config?: FileInput | object;
  /** The tokenizer's files (docs/tokenizers.md), when they do not lie beside the model. */
  tokenizer?: TokenizerFiles;
  /** Most positions a session may reach; by default what the model says. */
  context?: number;
  progress?: (progress: LoadProgress) => void;
  /** Stops the load between two pieces and frees everything; the load then throws the signal's reason. */
  signal?: AbortSignal;
}

export interface TensorInfo {
  name: string;
  /** As the file writes it: "F32", "BF16". */
  dtype: string;
  shape: number[];
  /** How many values. */
  numel: number;
  /** Byte range from the start of the file. */
  begin: number;
  end: number;
  /** Of its values; of a strided tensor not those between them. */
  byteSize: number;
  /** In elements, where the values do not lie one after the other: a view in a PyTorch file. */
  strides?: number[];
  /** The file it is in, where there are several. */
  file?: string;
}

/** A GGUF or PyTorch value: whole numbers past 2^53 are bigints in lists of numbers, GGUF's NaN is null. Dictionaries are PyTorch's only. */
export type MetadataValue = string | number | bigint | boolean | null | MetadataValue[] | { [key: string]: MetadataValue };

export interface FileInfo {
  /** "SafeTensors", "GGUF", "PyTorch", "NumPy", "llama2.c". */
  format: string;
  tensors: TensorInfo[];
  /** The file's own, in its order: strings in SafeTensors, values of any kind in GGUF (a llama2.c checkpoint has those of a GGUF); in PyTorch's files what is no tensor. */
  metadata: Record<string, MetadataValue>;
  bytes: number;
}

/** A tensor's values as a file has them: F16 and BF16 as their bits, packed and eight-bit floats and GGML's blocks as bytes. */
export type StoredValues =
  | Float32Array | Float64Array | Int8Array | Int16Array | Int32Array | BigInt64Array
  | Uint8Array | Uint16Array | Uint32Array | BigUint64Array;

/** A tensor read from a weight file. */
export interface WeightTensor<Values extends StoredValues = StoredValues> {
  name: string;
  /** What `data` holds: the file's dtype, or "F32" after conversion. */
  dtype: string;
  shape: number[];
  /** A view of the caller's own buffer where the file came as one and the tensor lies aligned in it; else a copy. */
  data: Values;
}

export interface TensorOptions {
  /** 'stored' (the default): as the file has it. 'f32': converted, exactly where float32 can be exact. */
  as?: 'stored' | 'f32';
  /** What config.json says of packed weights ("quantization"): with as 'f32' the codes of an `X.weight` with `X.scales` become values. */
  quantization?: object;
}

export interface TensorsOptions extends TensorOptions {
  /** Only these. */
  names?: readonly string[];
  progress?: (progress: LoadProgress) => void;
  signal?: AbortSignal;
}

/** Weight files of which only the headers were read: `runtime.openWeights`. Close it. */
export interface Weights {
  /** In the order of the file. */
  readonly tensors: readonly TensorInfo[];
  readonly tensorNames: readonly string[];
  /** Values in all tensors together; a packed one counts as many as its shape says. */
  readonly numParameters: number;
  /** "SafeTensors", "GGUF". */
  readonly format: string;
  readonly metadata: Readonly<Record<string, MetadataValue>>;
  /** Of all files together. */
  readonly bytes: number;
  /** Where a tensor lies; throws `bad_argument` when there is none of that name. */
  info(name: string): TensorInfo;
  /** One tensor, of whose file nothing else is read. */
  tensor(name: string, options: TensorOptions & { as: 'f32' }): Promise<WeightTensor<Float32Array>>;
  tensor(name: string, options?: TensorOptions): Promise<WeightTensor>;
  /** All of them, or those named, as they arrive: in the order of the file. Leaving the loop stops the reading. */
  all(options: TensorsOptions & { as: 'f32' }): AsyncIterable<WeightTensor<Float32Array>>;
  all(options?: TensorsOptions): AsyncIterable<WeightTensor>;
  close(): Promise<void>;
}

// ---- Running ----

export type Mode =
  /** Values share memory as soon as they may. */
  | 'infer'
  /** Every value keeps its place and can be read by name. */
  | 'trace'
  /** As 'trace', with gradients; takes the model exclusively. */
  | 'train';

export interface SessionOptions {
  mode?: Mode;
  /** The largest input, outermost dimension first; by default the model's own. Calls may have fewer rows. */
  input?: { dtype?: 'f32' | 'i32'; shape: readonly number[] };
  /** Most positions a language model's session may reach. */
  context?: number;
  /** Rows of output to compute, counted from the last; by default all. A generation needs one. */
  outputRows?: number;
}

/** Numbers in an array of any kind but BigInt's; a view of shared memory is read as any other. What the model computes with is float32 or int32: others are rounded. */
export type NumbersInput = readonly number[] | Float32Array | Float64Array | Int32Array | Uint32Array | Int16Array | Uint16Array | Int8Array | Uint8Array | Uint8ClampedArray;

export type Loss = 'mse' | 'cross_entropy';

export interface TrainOptions {
  /** 'mse' by default: targets as the output; 'cross_entropy': one class id a row. */
  loss?: Loss;
  /** The step of plain gradient descent; 0.01 by default. */
  lr?: number;
}

export interface TensorValue {
  shape: number[];
  data: Float32Array | Int32Array;
}

/** Bytes of a session: weights it shares, its arena, its state (KV cache), the rest. */
export interface SessionMemory {
  weights: number;
  arena: number;
  state: number;
  other: number;
}

/** Bytes of an instance: given out and not got back, the most so far, and what the instance holds of the system. */
export interface MemoryReport {
  live: number;
  peak: number;
  heap: number;
}

/** One timeline over a model: activations, state, active adapter. One call at a time. */
export interface Session {
  /** Rows × features in, the graph's output out (a copy). Without `shape` the rows follow from the length. */
  forward(input: NumbersInput, shape?: readonly number[]): Promise<Float32Array>;
  /** Appends tokens; the logits of the last are then at `logits`. */
  decode(tokens: NumbersInput): Promise<void>;
  /** The last row of the output: a language model's logits for the next token. */
  logits(): Promise<Float32Array>;
  /** The index of the largest of them. */
  argmax(): Promise<number>;
  /** Any value of the graph by name ('trace' and 'train'). */
  value(name: string): Promise<TensorValue>;
  /** The values' names in the order they are computed. */
  valueNames(): Promise<string[]>;
  /** Makes an adapter the session's only one; null takes it off. Reset state that was computed with another. */
  useAdapter(adapter: Adapter | null): Promise<void>;
  /** Forward, loss, backward and one step. Returns the loss before the step. */
  trainStep(input: NumbersInput, targets: NumbersInput, options?: TrainOptions): Promise<number>;
  /** The same without the step: gradients add up until `step`. */
  backward(input: NumbersInput, targets: NumbersInput, options?: Pick<TrainOptions, 'loss'>): Promise<number>;
  /** w −= lr · gradient, and gradients become zero. */
  step(lr: number): Promise<void>;
  /** A weight's gradient, in the weight's shape. */
  gradient(weight: string): Promise<TensorValue>;
  /** Forgets all state. */
  reset(): Promise<void>;
  /**
   * Forgets everything from `position` on. Layers with a sliding window hold a window and a few hundred positions of a long
   * text: further back is `unsupported`, but for 0.
   */
  rewind(position: number): Promise<void>;
  memory(): Promise<SessionMemory>;
  /** Positions decoded so far. */
  readonly position: number;
  /** Most positions it may reach. */
  readonly context: number;
  /** Everything it remembers (the KV cache, the tokens it was given) as bytes, for `loadState` of a session over the same weights. */
  saveState(): Promise<Uint8Array<ArrayBuffer>>;
  /** Goes on from a saved state; there are no logits until the next token. Throws `bad_file` for another model's, and changes nothing then. */
  loadState(state: Uint8Array): Promise<void>;
  /** A session of its own that goes on from the same state, with the same adapter. */
  fork(): Promise<Session>;
  /** Makes text from here on, in this session: its state afterwards is that of prompt and text. One generation at a time. */
  generate(prompt: string | NumbersInput, options?: SessionGenerateOptions): Generation;
  /** The shape of the last forward's output. */
  readonly outputShape: readonly number[];
  free(): Promise<void>;
  [Symbol.dispose](): void;
}

/** LoRA pairs for a model's linears. */
export interface Adapter {
  /** Throws `bad_state` while a session uses it. */
  free(): Promise<void>;
  [Symbol.dispose](): void;
}

/** How a text is made; how its tokens are chosen is SamplingOptions. */
export interface GenerateOptions extends SamplingOptions {
  /** Most tokens to make; by default up to the context. */
  maxTokens?: number;
  /** Token ids that end the text, besides the model's own; they are not given out. */
  stopTokens?: readonly number[];
  /** Strings that end the text; neither they nor what follows is given out. */
  stop?: string | readonly string[];
  /**
   * The text is JSON that fits this schema, and ends when it is complete; true: any JSON. See json-schema.ts for the keywords that are read; others are
   * refused by name.
   */
  jsonSchema?: JsonSchema;
  /** Goes on past the model's own end tokens. */
  ignoreEnd?: boolean;
  /** Gives each token's log probability, and those of so many likeliest ones; true: of none. Taken after penalties and bans, before temperature and filters. */
  logprobs?: boolean | number;
  /** Positions for prompt and text; by default what the model was loaded with. */
  context?: number;
  /**
   * What to do when they are used up. 'stop' (the default) ends the text; 'error' throws `bad_state`; 'slide' forgets the older half of what comes after
   * the first `keep` tokens and computes the rest anew.
   */
  whenFull?: 'stop' | 'error' | 'slide';
  /** Tokens that 'slide' never forgets; 0 by default. */
  keep?: number;
  adapter?: Adapter;
  onToken?: (token: GeneratedToken) => void;
  signal?: AbortSignal;
}

/** A generation that goes on from what a session holds. */
export interface SessionGenerateOptions extends Omit<GenerateOptions, 'context' | 'adapter'> {
  /** The prompt is the whole text: what the session holds of it is kept, what it holds besides is forgotten. Otherwise the prompt follows what it holds. */
  reuse?: boolean;
}

export interface TokenLogprob {
  token: number;
  logprob: number;
}

export interface GeneratedToken {
  /** −1: no token, only text that was held back until the end. */
  token: number;
  /** Text that is now certain: '' while a character still lacks bytes, or while it may be the beginning of a stop string. */
  text: string;
  /** Its log probability; there with `logprobs`. */
  logprob?: number;
  /** Those of the likeliest tokens, likeliest first; there when `logprobs` is a number from 1. */
  top?: readonly TokenLogprob[];
}

export interface GenerateUsage {
  /** Tokens made; a token that ended the text is not among them. */
  tokens: number;
  /** Those of them that were computed in one call with tokens of other generations. */
  sharedTokens: number;
  tokensPerSecond: number;
  /** Tokens of the prompt that were computed, and those that the session held already. */
  prefillTokens: number;
  reusedTokens: number;
  prefillSeconds: number;
  /** From the start to the first token. */
  firstTokenSeconds: number;
  /** Why it ended: an end or stop token, a stop string, JSON that is complete, as many tokens as were asked for, no more positions. */
  stop: 'end' | 'stop_string' | 'complete' | 'max_tokens' | 'context';
  /** The token or string that ended it. */
  stoppedBy?: number | string;
}

/** Tokens as they are made, and how it went. Whatever is wrong, a wrong option or a freed model, rejects where they are awaited. */
export interface Generation extends AsyncIterableIterator<GeneratedToken> {
  /** There once the generation has ended. */
  readonly usage: GenerateUsage | undefined;
  /** Runs to the end (or on to it) and resolves to the text of what was still to come. */
  text(): Promise<string>;
}

// ---- Texts as vectors and labels ----

/** A text, or its token ids with the special tokens around them; BERT's second token type is id + vocab_size. */
export type TextInput = string | NumbersInput;

/** Two texts that a model looks at together, `[question, passage]`; one or three are refused (`bad_argument`). */
export type PairInput = readonly string[];

export interface TextBatchOptions {
  /** Tokens that longer texts are cut to; by default sentence_bert_config.json's max_seq_length, at most what the model is made for. */
  maxTokens?: number;
  /** False refuses longer texts (`bad_argument`) instead of cutting them; that they were cut is a notice, once a model. */
  truncate?: boolean;
  /** Looked at between two texts. */
  signal?: AbortSignal;
}

/** Which rows of the last layer make a text's vector: their mean, the first, the last, the largest of each column; or the model's own pooler (BERT). */
export type Pooling = 'mean' | 'cls' | 'last' | 'max' | 'pooler';

export interface EmbedOptions extends TextBatchOptions {
  /** By default what the model's folder says (modules.json, or GGUF's pooling_type), else 'mean'. */
  pooling?: Pooling;
  /** Whether vectors get the length 1; by default what modules.json says, else false. */
  normalize?: boolean;
}

/** How scores come from logits: 'none' leaves them. */
export type ScoreFunction = 'softmax' | 'sigmoid' | 'none';

export interface ClassifyOptions extends TextBatchOptions {
  /** By default what config.json says; else 'softmax', and 'sigmoid' for a single label (rerankers). Tokens: 'softmax'. */
  activation?: ScoreFunction;
}

export interface Classification {
  /** The label of the largest logit: of config.json's id2label, else LABEL_0 and so on. */
  label: string;
  /** Its score. */
  score: number;
  labels: readonly string[];
  /** In the order of `labels`. */
  scores: Float32Array;
  logits: Float32Array;
}

/** A token's labels. */
export interface TokenClassification extends Classification {
  id: number;
  /** As the vocabulary writes it; '' without a tokenizer. */
  token: string;
  /** Where it stands in the text, `text.slice(start, end)`; missing for special tokens, pairs, and where it cannot be told. */
  start?: number;
  end?: number;
}

export interface WeightInfo {
  /** As weight files have it: of a mixture each expert's matrices are weights of their own. */
  name: string;
  shape: number[];
  /** Weight files have this matrix the other way around than `shape`, [in, out] (GPT-2's Conv1D); missing where they do not. */
  inOut?: true;
  /** What it is kept as: "F32", "Q8_0", "INT8". */
  dtype: string;
  /** The order its kernel reads it in. */
  layout: string;
  /** In memory. */
  bytes: number;
  /** What the file it was loaded from had: "BF16", "Q4_K". Missing when no weight file had it. */
  fileDtype?: string;
  /** Whether values were rounded on their way in: `dtype` does not hold every value of `fileDtype`. */
  lossy?: boolean;
  /** Why it is not the dtype that was asked for: "row of 172 is no multiple of 32: became F16". Missing where it is, or where no matrix product needs it. */
  reason?: string;
}

/** What loading made of a file's weights. Later changes (a merged adapter) are in `weights` and `describe`, not here. */
export interface LoadReport {
  /** Every weight that a file had. */
  weights: readonly WeightInfo[];
  /** In memory, all of them. */
  bytes: number;
  /** Names of those whose values were rounded. */
  lossy: readonly string[];
  /** "NAME: REASON" of those that are not the dtype that was asked for. */
  fallbacks: readonly string[];
}

/** Loom's names of the encodings a bundle keeps weights in. */
export type StoredDtype =
  | 'float32' | 'float64' | 'float16' | 'bfloat16' | 'float8' | 'float4'
  | 'int4' | 'int8' | 'int16' | 'int32' | 'int64'
  | 'uint8' | 'uint16' | 'uint32' | 'uint64';

/**
 * How weights become integers: w = scale · (code − zero point). Matrices and kernels do; vectors (biases, norms) stay float32. Heddle's own form of
 * bundle, which Loom refuses.
 */
export interface QuantizeOptions {
  /** What has a scale of its own: each output channel of a weight (the default), or a whole weight. */
  per?: 'channel' | 'tensor';
  /**
   * Fits a zero point, too, so that the codes span the smallest to the largest weight; by default only unsigned dtypes do, and the others are
   * symmetric (±127 of int8 for ±max|w|). A number is a given zero point, with a given scale.
   */
  zeroPoint?: boolean | number;
  /** One scale for all weights instead of fitted ones: 2/255 spreads int8 over −1 … 1. What lies further out is clamped. */
  scale?: number;
}

export interface SaveOptions {
  /**
   * How the weights are kept; missing: as decimals, exactly. Loom's scales are constants: the integers clip outside −1 … 1 and int4 keeps
   * only what is 8 and more. With `quantize`: int8 (the default), int16, uint8 or uint16.
   */
  dtype?: StoredDtype;
  /** Fits scales to the weights; `{}` takes the defaults. Missing: Loom's own encodings. */
  quantize?: QuantizeOptions;
}

/** A tensor as Loom's generic loader sees it, in Loom's own words. */
export interface DetectedTensor {
  Name: string;
  Shape: number[];
  /** "1d", "2d", … */
  ShapeType: string;
  /** Loom's number of the layer type. */
  LoomType: number;
  LoomTypeName: string;
  /** "bias", "unknown" or "". */
  SpecialType: string;
  InSize: number;
  OutSize: number;
  KernelH: number;
  KernelW: number;
  CanLoad: boolean;
}

/** What Loom makes of a file of tensors. */
export interface DetectedModel {
  detected: DetectedTensor[];
  /** The layers Loom would build, with Loom's names for their sizes. */
  layers: Record<string, unknown>[];
  input_size: number;
  parameters: number;
  /** What the network that LoadGenericFromBytes makes assumes, lacks or leaves out. */
  warnings: string[];
}

/** SafeTensors' dtypes for weights. */
export type WeightDtype =
  | 'F64' | 'F32' | 'F16' | 'BF16'
  | 'F8_E4M3' | 'F8_E5M2' | 'F8_E4M3FNUZ' | 'F8_E5M2FNUZ' | 'F6_E2M3' | 'F6_E3M2' | 'F4'
  | 'I64' | 'I32' | 'I16' | 'I8' | 'U64' | 'U32' | 'U16' | 'U8';

export interface SaveWeightsOptions {
  /** 'F32' by default. */
  dtype?: WeightDtype;
}

/** How `saveTorch` writes. */
export interface SaveTorchOptions {
  /** 'F32' by default. */
  dtype?: 'F32' | 'F64' | 'F16' | 'BF16';
  /**
   * Makes the file a checkpoint: a dictionary of these members and `model_state_dict`. Members are plain data; numeric arrays are tensors, of
   * one dimension or of the shape that `{ values, shape }` says; keys of digits are numbers, as PyTorch's optimizers have them.
   */
  checkpoint?: Record<string, unknown>;
}

export interface LoadWeightsOptions {
  /** What the file's names begin with, e.g. `'model_state_dict.'`; the rest of the file is left alone. '' by default. */
  prefix?: string;
  /** Weights that only the file or only the model has are an error that names one. `num_batches_tracked` does not count. false by default. */
  strict?: boolean;
}

/** What a GGUF file's matrices can be written as. */
export type GgufDtype = 'F32' | 'F16' | 'BF16' | 'Q8_0' | 'Q4_0';

/**
 * Metadata of a GGUF file by key. A whole number is written as the first of u32, i32, u64, i64 that holds it (in arrays i32 comes first), another number
 * as f32, or f64 where that loses digits; typed arrays and `{ type, value }` say the type, of the elements where the value is an array.
 */
export type GgufMetadataInput = Readonly<Record<string, unknown>> | ReadonlyMap<string, unknown>;

export interface SaveGgufOptions {
  /**
   * What matrices become, 'F32' by default. Rows that are no multiple of 32 become F16 instead of Q8_0 and Q4_0; the embedding and the head have 8 bits
   * at least. Vectors are F32. Matrices that are of this type already keep their bits.
   */
  dtype?: GgufDtype;
  /** config.json of the model, where it was not loaded with one. */
  config?: object | string;
  /** More metadata; it goes before what the config and the model's tokenizer say. With a `tokenizer.ggml.model` it is the whole tokenizer. */
  metadata?: GgufMetadataInput;
  /** Whether the model's own tokenizer, chat template, ends and pooling are written; true by default. What GGUF cannot say of them is a notice. */
  tokenizer?: boolean;
}

/** A tensor to write. */
export interface TensorInput {
  values: NumbersInput;
  shape: readonly number[];
  dtype?: WeightDtype;
}

/** A tensor to write as GGUF: F32 unless `dtype` is another of GGUF's that values can be turned into ("F16", "Q4_0", "I8"). */
export interface GgufTensorInput {
  values: NumbersInput;
  shape: readonly number[];
  dtype?: string;
}

/** What `describe` says. */
export interface ModelDescription {
  /** "network", "llama". */
  family: string;
  /** What a bundle kept the weights as; missing for other models. */
  storedDtype?: StoredDtype;
  dialect: string;
  batchSize: number;
  /** Most positions; 0: no limit of its own. */
  maxContext: number;
  inputDtype: string;
  /** The largest input, outermost dimension first; empty: up to the session. */
  inputShape: number[];
  /** What was assumed to load it: a model_type nobody knows whose tensors have Llama's names. Mostly empty. */
  warnings: string[];
  layers: { name: string; type: string }[];
  weights: WeightInfo[];
  [key: string]: unknown;
}

export interface ValidateOptions {
  /** The shape of the zeros that are tried; needed where the model does not state its input's. */
  shape?: readonly number[];
}

/** A weight, or what a layer gives for an input of zeros, that no working model has. */
export interface ValidationProblem {
  /** The weight's name, or the value's (that of its layer). */
  name: string;
  kind: 'weight' | 'output';
  /** 'nan' and 'infinite': at least one such number; 'zero': no other. Of outputs only the model's last is told of as 'zero'. */
  problem: 'nan' | 'infinite' | 'zero';
}

/** Graph and weights. Weights do not change while sessions use them. */
export interface Model {
  readonly weights: readonly WeightInfo[];
  /** What loading made of the file's weights: dtypes, what was rounded, what could not be as asked. Empty for bundles and built networks. */
  readonly report: LoadReport;
  /** Threads that share its work; 1 without a pool. */
  readonly threads: number;
  describe(): Promise<ModelDescription>;
  /** A copy as float32, in the shape `weights` gives. */
  readWeight(name: string): Promise<Float32Array>;
  /** Throws `bad_state` while sessions are open. */
  writeWeight(name: string, values: NumbersInput): Promise<void>;
  createSession(options?: SessionOptions): Promise<Session>;
  /**
   * Appends tokens[i] to sessions[i], all in one call: every weight is read once for all of them, which takes little longer than for one session. The
   * sessions are this model's, made for token ids; each has its logits afterwards. Throws `bad_state`, and changes nothing, when one has no room.
   * `generate` does this by itself for generations that run at the same time.
   */
  decodeTogether(sessions: readonly Session[], tokens: readonly NumbersInput[]): Promise<void>;
  /** One forward in a session that the model keeps; planned anew when the length changes. */
  forward(input: NumbersInput, shape?: readonly number[]): Promise<Float32Array>;
  generate(prompt: string | NumbersInput, options?: GenerateOptions): Generation;
  /** A conversation in the model's chat template, with a session of its own that computes only what each turn adds. */
  createChat(options?: ChatOptions): Promise<Chat>;
  /** A vector for each text: its tokens' rows of the last layer, pooled. Each is what it would be alone. docs/embeddings.md. */
  embed(text: string, options?: EmbedOptions): Promise<Float32Array>;
  embed(texts: readonly TextInput[], options?: EmbedOptions): Promise<Float32Array[]>;
  /** Labels of each text, or pair of texts. Throws `bad_state` where the model was not saved with a head for that. */
  classify(text: string, options?: ClassifyOptions): Promise<Classification>;
  classify(texts: readonly (TextInput | PairInput)[], options?: ClassifyOptions): Promise<Classification[]>;
  /** Labels of each token of each text, special tokens included. */
  classifyTokens(text: string, options?: ClassifyOptions): Promise<TokenClassification[]>;
  classifyTokens(texts: readonly (TextInput | PairInput)[], options?: ClassifyOptions): Promise<TokenClassification[][]>;
  /** Text to ids with the model's tokenizer, begin token included where the files say so. */
  tokenize(text: string): Promise<number[]>;
  /** Ids to text, special tokens left out. */
  detokenize(tokens: NumbersInput): Promise<string>;
  /** The text of the model's chat template; undefined where it has none. */
  chatTemplate(): Promise<string | undefined>;
  /**
   * A conversation as the text the model was trained on, by its chat template; ready for `generate` with `tokenize`, which gives ids. Throws `bad_state`
   * where the model has no template, `bad_argument` where the template refuses the conversation.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize: true }): Promise<number[]>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: false }): Promise<string>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: boolean }): Promise<string | number[]>;
  /** The model as a one-model Loom bundle. */
  saveToString(id: string, options?: SaveOptions): Promise<string>;
  /** All weights as a SafeTensors file; integers, F6 and F4 with scales beside them, F8 as the nearest values it has. */
  saveWeights(options?: SaveWeightsOptions): Promise<Uint8Array<ArrayBuffer>>;
  /** A Llama-style model as a GGUF file, by llama.cpp's names. Throws `unsupported` for other families. */
  saveGguf(options?: SaveGgufOptions): Promise<Uint8Array<ArrayBuffer>>;
  /** All weights as a file for PyTorch's `torch.load(weights_only=True)`: the state dict, or a checkpoint. Not in the loom dialect. */
  saveTorch(options?: SaveTorchOptions): Promise<Uint8Array<ArrayBuffer>>;
  /**
   * Sets the weights a SafeTensors or PyTorch file has, by name and shape; how many it had. Sessions must be closed. Nothing is changed when it fails:
   * a shape does not fit (`bad_file`, naming both), values of a dtype that cannot become float32, other names in a strict load, no memory.
   */
  loadWeights(file: FileInput, options?: LoadWeightsOptions): Promise<number>;
  /** A PEFT adapter: adapter_config.json and adapter_model.safetensors. On embeddings and experts it is `unsupported`. */
  loadAdapter(config: FileInput | object, weights: FileInput): Promise<Adapter>;
  /**
   * W += scale · B · A for good; a second call changes nothing. A merged adapter is not attached besides (`bad_state`). A weight that was written since is
   * without it until the next call. Weights that are not float32 need `dequantize`, which makes them so.
   */
  mergeAdapter(adapter: Adapter, options?: { dequantize?: boolean }): Promise<void>;
  /** Takes a merged adapter away again. Throws `bad_state` where it is not merged. */
  unmergeAdapter(adapter: Adapter, options?: { dequantize?: boolean }): Promise<void>;
  /**
   * Names weights that have NaN, infinite or only zero values (biases may rightly be zero), and values that an input of zeros makes so. Empty: nothing
   * found.
   */
  validate(options?: ValidateOptions): Promise<ValidationProblem[]>;
  memory(): Promise<MemoryReport>;
  /** Pieces of work each thread has done, the caller's first. */
  threadWork(): Promise<number[]>;
  /** Frees its sessions and adapters, then the model, and its instance with it. Twice is harmless. */
  free(): Promise<void>;
  [Symbol.dispose](): void;
}

export interface Runtime {
  /** Which module runs: 'given' when the caller brought it. */
  readonly variant: 'simd128' | 'relaxed' | 'given';
  /** Threads a model may get. */
  readonly threads: number;
  /** What the user should know about this runtime, once each. */
  readonly notices: readonly string[];
  loadModel(source: SourceInput, options?: LoadOptions): Promise<Model>;
  /** A network from its spec (docs/networks.md), weights drawn from `seed`. Textbook arithmetic unless it says `dialect: 'loom'`. */
  buildNetwork(spec: object | string, options?: { seed?: number }): Promise<Model>;
  /** A weight file's tensors and metadata; no weights are read. */
  inspect(source: SourceInput, options?: FetchOptions): Promise<FileInfo>;
  /** The memory a model's weights would take; only its description and its files' headers are read. */
  estimate(source: SourceInput, options?: LoadOptions): Promise<MemoryEstimate>;
  /** The same, kept open: any tensor can be had from it, alone or as it comes. */
  openWeights(source: SourceInput, options?: FetchOptions): Promise<Weights>;
  /** Ends what the runtime holds: the shared instance, the worker. Models of their own instance live on. */
  free(): Promise<void>;
  [Symbol.dispose](): void;
}
