/**
 * arguments.ts: what callers may give, checked where they give it, in this thread and in a worker's page alike. A wrong argument is a
 * `bad_argument` that names it and says what was expected and what was found; nothing further down has to doubt.
 *
 * Each set of options has a table with a check for every option of its type: the compiler knows when one is missing.
 */
import { HeddleError, counted } from './errors.js';
import type { ChatMessage, ChatTemplateOptions } from './chat-template.js';
import type { ConvertOptions } from './convert.js';
import type { TraceOptions } from './trace.js';
import type { DecodeOptions, EncodeOptions } from './tokenizer.js';
import type { TokenizerFiles } from './tokenizer-files.js';
import type { ChatOptions } from './chat.js';
import type { MlxOptions } from './mlx.js';
import type { PretrainedOptions } from './pretrained.js';
import type { SafetensorsOptions } from './safetensors-file.js';
import type { SamplingOptions } from './sampling.js';
import type {
  CacheOptions, ClassifyOptions, EmbedOptions, FetchOptions, GenerateOptions, InitOptions, LoadOptions, LoadWeightsOptions, NumbersInput, QuantizeOptions,
  SaveGgufOptions, SaveOptions, SaveTorchOptions, SessionGenerateOptions, SessionOptions, TensorOptions, TensorsOptions, TextBatchOptions, TrainOptions,
  ValidateOptions,
} from './types.js';

type Check = (value: unknown, name: string) => void;
export type Checks<T> = { readonly [K in keyof Required<T>]: Check };

// ---- Saying what was found ----

/** A value as messages show it. */
export function shown(value: unknown): string {
  if (typeof value === 'string') return `'${value.length > 40 ? `${value.slice(0, 40)}…` : value}'`;
  if (Array.isArray(value)) return 'an array';
  if (typeof value === 'function' || typeof value === 'symbol') return `a ${typeof value}`;
  if (typeof value !== 'object' || value === null) return String(value);
  const name: unknown = (value as { constructor?: { name?: unknown } }).constructor?.name;
  return typeof name === 'string' && name !== '' && name !== 'Object' ? name : 'an object';
}

export function expected(name: string, what: string, found: unknown): HeddleError {
  return new HeddleError('bad_argument', `${name}: expected ${what}, found ${shown(found)}`);
}

// ---- Single values ----

export function checkText(value: unknown, name: string): asserts value is string {
  if (typeof value !== 'string') throw expected(name, 'a string', value);
}

export function checkFinite(value: unknown, name: string): asserts value is number {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw expected(name, 'a finite number', value);
}

/** A whole number from `least`, as large as the core counts. */
function whole(least: number, most = 0xffffffff, mostName = '2^32 − 1'): Check {
  return (value, name) => {
    if (!Number.isInteger(value) || Number(value) < least || Number(value) > most) throw expected(name, `a whole number from ${least} to ${mostName}`, value);
  };
}

/** The same where Infinity means: no limit. */
const limit = (least: number): Check => (value, name) => {
  if (value !== Infinity) whole(least)(value, name);
};

export const checkCount = whole(0);
export const checkPositive = whole(1);
export const checkLargeCount = whole(0, Number.MAX_SAFE_INTEGER, '2^53 − 1');
export const checkSeed = checkLargeCount;

/** One of a list of names. */
export function checkName<T extends string>(value: unknown, name: string, known: readonly T[]): asserts value is T {
  if (!known.includes(value as T)) throw new HeddleError('bad_argument', `${name} ${shown(value)} is not known; known: ${known.join(', ')}`);
}

const named = (...known: string[]): Check => (value, name) => checkName(value, name, known);

export const checkBoolean: Check = (value, name) => {
  if (typeof value !== 'boolean') throw expected(name, 'true or false', value);
};

const checkFunction: Check = (value, name) => {
  if (typeof value !== 'function') throw expected(name, 'a function', value);
};

const checkSignal: Check = (value, name) => {
  if (typeof (value as AbortSignal | null)?.throwIfAborted !== 'function') throw expected(name, 'an AbortSignal', value);
};

const anything: Check = () => undefined; // checked where it is used

// ---- Numbers ----

/** Numbers, be they NaN. Typed arrays hold nothing else; a plain array is looked through. */
export function checkNumbers(values: unknown, name: string): asserts values is NumbersInput {
  if (Array.isArray(values)) {
    for (let i = 0; i < values.length; i++) if (typeof values[i] !== 'number') throw expected(`${name}[${i}]`, 'a number', values[i]);
    return;
  }
  if (!ArrayBuffer.isView(values) || values instanceof DataView || values instanceof BigInt64Array || values instanceof BigUint64Array) throw expected(name, 'an array of numbers', values);
}

/** Numbers that are whole, as ids are. */
export function checkWholeNumbers(values: unknown, name: string): asserts values is NumbersInput {
  checkNumbers(values, name);
  if (values instanceof Int32Array) return;
  for (const value of values) if (value !== (value | 0)) throw expected(name, 'whole numbers of 32 bits', value);
}

/** Sessions, and as many lists of token ids, none of them empty. */
export function checkTogether(sessions: unknown, tokens: unknown): void {
  if (!Array.isArray(sessions)) throw expected('sessions', 'an array of sessions', sessions);
  if (sessions.length === 0) throw new HeddleError('bad_argument', 'sessions: expected at least one');
  if (!Array.isArray(tokens)) throw expected('tokens', 'an array of token ids for each session', tokens);
  if (tokens.length !== sessions.length) throw new HeddleError('bad_argument', `tokens: ${counted(tokens.length, 'list')} for ${counted(sessions.length, 'session')}`);
  for (const [i, ids] of (tokens as unknown[]).entries()) {
    checkWholeNumbers(ids, `tokens[${i}]`);
    if (ids.length === 0) throw new HeddleError('bad_argument', `tokens[${i}]: expected at least one token`);
  }
}

export function checkShape(shape: unknown, name = 'shape'): void {
  if (!Array.isArray(shape)) throw expected(name, 'an array of sizes', shape);
  if (shape.length > 8) throw new HeddleError('bad_argument', `${name}: ${counted(shape.length, 'dimension')}; at most 8`);
  for (let i = 0; i < shape.length; i++) checkCount(shape[i], `${name}[${i}]`);
}

// ---- Text, objects, files ----

/** An object as `{…}` makes it: options, parsed JSON, files by name. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false;
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}

/** Any object but an array. */
function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** JSON as text, given as text or parsed. */
export function jsonText(value: unknown, name: string): string {
  if (typeof value === 'string') return value;
  if (!isRecord(value) || ArrayBuffer.isView(value)) throw expected(name, 'JSON text or an object', value);
  try {
    return JSON.stringify(value);
  } catch (error) {
    throw new HeddleError('bad_argument', `${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

export function checkTextOrBytes(value: unknown, name: string): asserts value is string | Uint8Array {
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) throw expected(name, 'a string or a Uint8Array', value);
}

/** What to throw for what is no file. */
export function notAFile(value: unknown, name: string): HeddleError {
  return expected(name, 'a URL, text, bytes, a Blob, a Response or a stream', value);
}

/** What a file picker or a drop gives. */
export function checkFiles(files: readonly unknown[], name: string): asserts files is readonly File[] {
  for (const [i, file] of files.entries()) if (!(file instanceof Blob) || typeof (file as File).name !== 'string') throw expected(`${name}[${i}]`, 'a File', file);
}

/** Files of a tokenizer and their kinds; what is in them is looked at where they are read. */
const tokenizerFiles: Checks<TokenizerFiles> = {
  'tokenizer.json': checkJsonFile,
  gguf: (value, name) => {
    if (!(value instanceof Map)) throw expected(name, 'a Map of metadata', value);
  },
  'tokenizer.model': checkBytes,
  'spiece.model': checkBytes,
  'vocab.json': checkJsonFile,
  'encoder.json': checkJsonFile,
  'merges.txt': checkTextFile,
  'vocab.bpe': checkTextFile,
  'vocab.txt': checkTextFile,
  'tokenizer.bin': checkBytes,
  'tokenizer_config.json': checkJsonFile,
  'special_tokens_map.json': checkJsonFile,
  'chat_template.jinja': checkTextFile,
  'chat_template.json': checkJsonFile,
  split: checkText,
};

/** The files themselves are wanted, not where they lie: nothing is opened here. */
function checkNoPath(value: unknown, name: string, what: string): void {
  const isPath = value instanceof URL || (typeof value === 'string' && value.length < 1024 && /^[^{[\n]*(\.(json|model|bin|txt|bpe|jinja)|[/\\])$|^(https?|file):|^\.{0,2}[/\\][^{\n]+$/.test(value.trim()));
  if (isPath) throw new HeddleError('bad_argument', `${name}: expected ${what}, found '${String(value)}', which looks like where it lies: read it and give what is in it`);
}

function checkTextFile(value: unknown, name: string): void {
  checkNoPath(value, name, "the file's text");
  checkText(value, name);
}

function checkJsonFile(value: unknown, name: string): void {
  checkNoPath(value, name, "the file's JSON, as text or an object");
  if (typeof value !== 'string' && !isRecord(value)) throw expected(name, 'JSON text or an object', value);
}

function checkBytes(value: unknown, name: string): void {
  checkNoPath(value, name, "the file's bytes as a Uint8Array");
  if (!(value instanceof Uint8Array)) throw expected(name, 'a Uint8Array', value);
}

export function checkTokenizerFiles(value: unknown, name: string): void {
  checkNoPath(value, name, "an object with the files' contents, { 'tokenizer.json': text }");
  if (!isRecord(value)) throw expected(name, "an object with 'tokenizer.json'", value);
  checkOptions<unknown>(value, tokenizerFiles);
}

// ---- Conversations ----

export function checkMessages(value: unknown, name: string): asserts value is readonly ChatMessage[] {
  checkObjects(value, name);
  for (const [i, message] of (value as Record<string, unknown>[]).entries()) checkText(message['role'], `${name}[${i}].role`);
}

function checkObjects(value: unknown, name: string): void {
  if (!Array.isArray(value)) throw expected(name, 'an array', value);
  for (const [i, each] of value.entries()) if (!isRecord(each)) throw expected(`${name}[${i}]`, 'an object', each);
}

// ---- Options ----

/** Options of a call: an object with options of the table and no others. */
export function checkOptions<T>(options: T, checks: Checks<T>): asserts options is T & object {
  if (!isRecord(options)) throw expected('options', 'an object', options);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(checks, name)) throw new HeddleError('bad_argument', `${name}: no such option; known: ${Object.keys(checks).join(', ')}`);
    if (value !== undefined) checks[name as keyof T](value, name);
  }
}

export const initOptions: Checks<InitOptions> = {
  variant: named('auto', 'simd128', 'relaxed'),
  threads: (value, name) => {
    if (value !== 'auto' && !(Number.isInteger(value) && Number(value) >= 1)) throw expected(name, "'auto' or a whole number from 1", value);
  },
  wasm: anything,
  poolWorker: (value, name) => {
    if (typeof value !== 'string' && !(value instanceof URL)) throw expected(name, 'a URL', value);
  },
  shared: checkBoolean,
  log: checkFunction,
};

export const cacheOptions: Checks<CacheOptions> = { folder: checkText, revalidate: checkBoolean, verify: checkBoolean };

export const fetchOptions: Checks<FetchOptions> = {
  headers: (value, name) => {
    if (!isRecord(value) || value instanceof Headers) throw expected(name, 'an object of header names and values', value);
    for (const [header, text] of Object.entries(value)) checkText(text, `${name}['${header}']`);
  },
  fetch: checkFunction,
  revision: checkText,
  cache: (value, name) => {
    if (typeof value === 'boolean') return;
    if (!isRecord(value)) throw expected(name, 'true, false or an object', value);
    checkOptions<CacheOptions>(value, cacheOptions);
  },
  signal: checkSignal,
};

export const tensorOptions: Checks<TensorOptions> = { as: named('stored', 'f32'), quantization: anything };

export const tensorsOptions: Checks<TensorsOptions> = {
  ...tensorOptions,
  names: (value, name) => {
    if (!Array.isArray(value)) throw expected(name, 'an array of names', value);
    value.forEach((each, i) => checkText(each, `${name}[${i}]`));
  },
  progress: checkFunction,
  signal: checkSignal,
};

export const convertOptions: Checks<ConvertOptions> = {
  to: named('safetensors', 'gguf', 'pytorch', 'mlx-json'),
  dtype: checkText,
  metadata: (value, name) => {
    if (!isRecord(value)) throw expected(name, 'an object or a Map', value);
  },
  names: tensorsOptions.names,
  rename: checkFunction,
  progress: checkFunction,
  ...fetchOptions,
};

export const traceOptions: Checks<TraceOptions> = {
  tolerance: (value, name) => {
    if (!(typeof value === 'number' && value >= 0)) throw expected(name, 'a number from 0', value);
  },
  absolute: checkBoolean,
};

export const loadOptions: Checks<LoadOptions> = {
  dtype: checkText,
  id: checkText,
  config: anything,
  tokenizer: checkTokenizerFiles,
  context: checkPositive,
  progress: checkFunction,
  ...fetchOptions,
};

export const pretrainedOptions: Checks<PretrainedOptions> = {
  dtype: checkText,
  context: checkPositive,
  progress: checkFunction,
  log: checkFunction,
  ...fetchOptions,
};

export const safetensorsOptions: Checks<SafetensorsOptions> = { errors: named('heddle', 'mlx-node'), log: checkFunction, ...fetchOptions };

export const mlxOptions: Checks<MlxOptions> = { pretty: checkBoolean, config: anything };

export const seedOptions: Checks<{ seed?: number }> = { seed: checkSeed };

export const sessionOptions: Checks<SessionOptions> = {
  mode: named('infer', 'trace', 'train'),
  input: (value, name) => {
    if (!isRecord(value)) throw expected(name, 'an object with a shape', value);
    checkOptions<unknown>(value, { dtype: named('f32', 'i32'), shape: anything });
    checkShape(value['shape'], `${name}.shape`);
  },
  context: checkPositive,
  outputRows: checkCount,
};

export const quantizeOptions: Checks<QuantizeOptions> = {
  per: named('channel', 'tensor'),
  zeroPoint: (value, name) => {
    if (typeof value !== 'boolean' && !Number.isInteger(value)) throw expected(name, 'true, false or a whole number', value);
  },
  scale: (value, name) => {
    if (!(typeof value === 'number' && value > 0 && value < Infinity)) throw expected(name, 'a finite number above 0', value);
  },
};

export const saveOptions: Checks<SaveOptions> = {
  dtype: checkText,
  quantize: (value, name) => {
    if (!isRecord(value)) throw expected(name, 'an object', value);
    checkOptions<QuantizeOptions>(value, quantizeOptions);
  },
};

export const saveTorchOptions: Checks<SaveTorchOptions> = {
  dtype: named('F32', 'F64', 'F16', 'BF16'),
  checkpoint: (value, name) => {
    if (!isPlainObject(value)) throw expected(name, 'an object', value);
  },
};

export const loadWeightsOptions: Checks<LoadWeightsOptions> = { prefix: checkText, strict: checkBoolean };

export const saveGgufOptions: Checks<SaveGgufOptions> = {
  dtype: named('F32', 'F16', 'BF16', 'Q8_0', 'Q4_0'),
  config: (value, name) => void jsonText(value, name),
  metadata: (value, name) => {
    if (!isRecord(value)) throw expected(name, 'an object or a Map', value);
  },
  tokenizer: checkBoolean,
};

export const trainOptions: Checks<TrainOptions> = { loss: named('mse', 'cross_entropy'), lr: checkFinite };
export const lossOptions: Checks<Pick<TrainOptions, 'loss'>> = { loss: trainOptions.loss };

export const validateOptions: Checks<ValidateOptions> = { shape: (value, name) => checkShape(value, name) };

export const mergeOptions: Checks<{ dequantize?: boolean }> = { dequantize: checkBoolean };

/** A number within bounds. */
function within(least: number, most: number, open: 'above least' | 'below most' | 'closed' = 'closed') {
  return (value: unknown, name: string): void => {
    const inside = typeof value === 'number' && value >= least && value <= most && !(open === 'above least' && value === least) && !(open === 'below most' && value === most);
    const bounds = `${open === 'above least' ? 'above' : 'from'} ${least}${most === Infinity ? '' : ` ${open === 'below most' ? 'below' : 'to'} ${most}`}`;
    if (!inside || value === Infinity) throw expected(name, `a finite number ${bounds}`, value);
  };
}

function checkBadWords(value: unknown, name: string): void {
  if (!Array.isArray(value)) throw expected(name, 'an array of arrays of token ids', value);
  for (const [i, words] of value.entries()) {
    if (!Array.isArray(words) || words.length === 0) throw expected(`${name}[${i}]`, 'an array of token ids', words);
    checkWholeNumbers(words, `${name}[${i}]`);
  }
}

function checkBias(value: unknown, name: string): void {
  if (!isRecord(value)) throw expected(name, 'an object of numbers by token id', value);
  for (const [id, bias] of Object.entries(value)) {
    if (!/^\d+$/.test(id)) throw expected(name, 'token ids as keys', id);
    if (typeof bias !== 'number' || Number.isNaN(bias) || bias === Infinity) throw expected(`${name}[${id}]`, 'a number', bias);
  }
}

function checkStop(value: unknown, name: string): void {
  for (const each of Array.isArray(value) ? (value as unknown[]) : [value]) if (typeof each !== 'string') throw expected(name, 'a string or an array of strings', each);
}

function checkLogprobs(value: unknown, name: string): void {
  if (typeof value !== 'boolean' && !(Number.isInteger(value) && Number(value) >= 0)) throw expected(name, 'true, false or a whole number from 0', value);
}

/** What a draw takes: see SamplingOptions. */
const samplingOptions: Checks<SamplingOptions> = {
  temperature: within(0, Infinity),
  topK: limit(1),
  topP: within(0, 1, 'above least'),
  minP: within(0, 1),
  typicalP: within(0, 1, 'above least'),
  epsilonCutoff: within(0, 1, 'below most'),
  repetitionPenalty: within(0, Infinity, 'above least'),
  presencePenalty: checkFinite,
  frequencyPenalty: checkFinite,
  noRepeatNgram: checkCount,
  badWords: checkBadWords,
  minTokens: checkCount,
  suppressTokens: checkWholeNumbers,
  logitBias: checkBias,
  onLogits: checkFunction,
  seed: checkSeed,
};

export const sessionGenerateOptions: Checks<SessionGenerateOptions> = {
  ...samplingOptions,
  maxTokens: limit(0),
  stopTokens: checkWholeNumbers,
  stop: checkStop,
  jsonSchema: anything, // json-schema.ts says what is wrong, and where
  ignoreEnd: checkBoolean,
  logprobs: checkLogprobs,
  whenFull: named('stop', 'error', 'slide'),
  keep: checkCount,
  reuse: checkBoolean,
  onToken: checkFunction,
  signal: checkSignal,
};

export const encodeOptions: Checks<EncodeOptions> = { addSpecialTokens: checkBoolean };
export const decodeOptions: Checks<DecodeOptions> = { skipSpecialTokens: checkBoolean };

export const chatTemplateOptions: Checks<ChatTemplateOptions & { tokenize?: boolean }> = {
  addGenerationPrompt: checkBoolean,
  tools: checkObjects,
  documents: checkObjects,
  template: checkText,
  variables: (value, name) => {
    if (!isRecord(value)) throw expected(name, 'an object', value);
  },
  now: (value, name) => {
    if (!(value instanceof Date) || Number.isNaN(value.getTime())) throw expected(name, 'a Date', value);
  },
  tokenize: checkBoolean,
};

const { reuse: _, ...ownSession } = sessionGenerateOptions;

export const generateOptions: Checks<GenerateOptions> = { ...ownSession, context: checkPositive, adapter: anything };

const textBatchOptions: Checks<TextBatchOptions> = { maxTokens: checkPositive, truncate: checkBoolean, signal: checkSignal };

export const embedOptions: Checks<EmbedOptions> = { ...textBatchOptions, pooling: named('mean', 'cls', 'last', 'max', 'pooler'), normalize: checkBoolean };

export const classifyOptions: Checks<ClassifyOptions> = { ...textBatchOptions, activation: named('softmax', 'sigmoid', 'none') };

/** A conversation's: what a turn's generation takes, and what its template takes. */
export const chatOptions: Checks<ChatOptions> = {
  ...ownSession,
  context: checkPositive,
  system: checkText,
  messages: checkMessages,
  tools: checkObjects,
  template: checkText,
  variables: chatTemplateOptions.variables,
};
