/**
 * safetensors-file.ts: a SafeTensors file with the names that MLX-Node's loader has, and on request with its checks and its messages, in its order. What
 * it does not check is refused by ours afterwards all the same: overlaps, holes, offsets that run backwards, a file that is too short.
 */
import type { ByteSource } from './bytes.js';
import { elements } from './core.js';
import { HeddleError, messageOf } from './errors.js';
import type { FetchOptions, TensorInfo, TensorOptions, Weights, WeightTensor } from './types.js';

export interface SafetensorsOptions extends FetchOptions {
  /** Whose messages: ours by default, which name tensor, place, expected and found. */
  errors?: 'heddle' | 'mlx-node';
  /** Takes MLX-Node's log lines: how many tensors and parameters were found. */
  log?: (line: string) => void;
}

/** The dtypes that MLX-Node's header may name, with their bytes. */
const headerDtypes: Readonly<Record<string, number>> = { F32: 4, F16: 2, BF16: 2, I32: 4, I64: 8, U8: 1, I8: 1, F64: 8, BOOL: 1, U32: 4, F8_E4M3: 1 };

/** Those of them that it loads. */
const loadable: readonly string[] = ['F32', 'F16', 'BF16', 'I8', 'I32', 'U8', 'U32', 'F8_E4M3'];

const maxHeaderBytes = 100_000_000;

/** The system's own text as MLX-Node's runtime has it. */
const systemErrors: Readonly<Record<string, string>> = { ENOENT: 'No such file or directory (os error 2)', EACCES: 'Permission denied (os error 13)', EISDIR: 'Is a directory (os error 21)' };

export function failedToOpen(error: unknown): HeddleError {
  const cause: unknown = error instanceof Error && error.cause !== undefined ? error.cause : error;
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : '';
  return new HeddleError('bad_file', `Failed to open file: ${systemErrors[code] ?? messageOf(cause)}`, { cause: error });
}

function refuse(message: string, cause?: unknown): never {
  throw new HeddleError('bad_file', message, { cause });
}

/** Bytes [begin, end), fewer where the file ends before. */
async function bytesOf(file: ByteSource, begin: number, end: number): Promise<Uint8Array> {
  const last = Math.min(end, file.size ?? end);
  const all = new Uint8Array(Math.max(0, last - begin));
  let at = 0;
  if (last > begin) {
    for await (const chunk of file.read(begin, last)) {
      all.set(chunk.subarray(0, all.byteLength - at), at);
      at += chunk.byteLength;
    }
  }
  return all.subarray(0, Math.min(at, all.byteLength));
}

/** MLX-Node's checks of a header. Nothing is asked for, or allocated, before its length is checked. */
export async function checkAsMlxNode(file: ByteSource): Promise<void> {
  const short = 'failed to fill whole buffer';
  const first = await file.peek(8);
  if (first.byteLength < 8) refuse(`Failed to read header length: ${short}`);
  const length = new DataView(first.buffer, first.byteOffset).getBigUint64(0, true);
  if (length > BigInt(maxHeaderBytes)) refuse(`Invalid header length: ${length} bytes (too large)`);
  const header = await (file.seekable ? bytesOf(file, 8, 8 + Number(length)) : file.peek(8 + Number(length)).then((bytes) => bytes.subarray(8)));
  if (header.byteLength < Number(length)) refuse(`Failed to read header: ${short}`);
  const json = parsed(decoded(header));
  if (typeof json !== 'object' || json === null || Array.isArray(json)) refuse('Header must be a JSON object');
  for (const [name, record] of Object.entries(json).sort(([a], [b]) => byBytes(a, b))) if (name !== '__metadata__') checkRecord(name, record);
}

function decoded(header: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(header);
  } catch (error) {
    return refuse(`Invalid UTF-8 in header: ${invalidUtf8(header)}`, error);
  }
}

/** Where UTF-8 breaks off, as Rust says it. */
function invalidUtf8(bytes: Uint8Array): string {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
  let [good, bad] = [0, bytes.byteLength];
  while (bad - good > 1) {
    const middle = (good + bad) >> 1;
    try {
      decoder.decode(bytes.subarray(0, middle), { stream: true });
      good = middle;
    } catch {
      bad = middle;
    }
    try {
      decoder.decode(); // forgets what it holds
    } catch {
      // the cut was inside a character
    }
  }
  return `invalid utf-8 sequence of 1 bytes from index ${good}`;
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    return refuse(`Failed to parse header JSON: ${text.trim() === '' ? 'EOF while parsing a value at line 1 column 0' : messageOf(error)}`, error);
  }
}

function byBytes(a: string, b: string): number {
  const [x, y] = [[...a], [...b]];
  const i = x.findIndex((character, at) => character !== y[at]);
  return i < 0 ? x.length - y.length : (x[i]?.codePointAt(0) ?? 0) - (y[i]?.codePointAt(0) ?? -1);
}

const isSize = (value: unknown): value is number => Number.isInteger(value) && (value as number) >= 0;

function checkRecord(name: string, record: unknown): void {
  const wrong = (text: string): never => refuse(`Failed to parse tensor info for ${name}: ${text}`);
  if (typeof record !== 'object' || record === null) return wrong(`invalid type: ${record === null ? 'null' : typeof record}, expected struct TensorInfo`);
  const { dtype, shape, data_offsets: offsets } = record as Record<string, unknown>;
  for (const [field, value] of Object.entries({ dtype, shape, data_offsets: offsets })) if (value === undefined) wrong(`missing field \`${field}\``);
  const bytes = typeof dtype === 'string' ? headerDtypes[dtype] : wrong(`invalid type: ${JSON.stringify(dtype)}, expected a dtype's name`);
  if (bytes === undefined) return wrong(`unknown variant \`${String(dtype)}\`, expected one of ${Object.keys(headerDtypes).map((each) => `\`${each}\``).join(', ')}`);
  if (!Array.isArray(shape) || !shape.every(isSize)) return wrong(`invalid value: ${JSON.stringify(shape)}, expected a sequence of whole numbers`);
  if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isSize)) return wrong(`invalid value: ${JSON.stringify(offsets)}, expected two whole numbers`);
  const [expected, found] = [elements(shape) * bytes, (offsets[1] ?? 0) - (offsets[0] ?? 0)];
  if (expected !== found) refuse(`Tensor size mismatch: expected ${expected} bytes, got ${found}`);
}

/** A SafeTensors file whose header was read. Close it. */
export class SafeTensorsFile {
  readonly metadata: Weights['metadata'];
  readonly #weights: Weights;
  readonly #asMlxNode: boolean;

  /** Use `runtime.openSafetensors`. */
  constructor(weights: Weights, asMlxNode: boolean) {
    this.#weights = weights;
    this.#asMlxNode = asMlxNode;
    this.metadata = weights.metadata;
  }

  tensorNames(): string[] {
    return [...this.#weights.tensorNames];
  }

  get tensors(): readonly TensorInfo[] {
    return this.#weights.tensors;
  }

  /** Values of one tensor. */
  numel(name: string): number {
    return this.#weights.info(name).numel;
  }

  /** Bytes of one tensor in the file. */
  byteSize(name: string): number {
    return this.#weights.info(name).byteSize;
  }

  /** Values of all tensors; a packed word counts as one. */
  numParameters(): number {
    return this.#weights.numParameters;
  }

  /** One tensor; nothing else is read. */
  async getTensor(name: string, options: TensorOptions = {}): Promise<WeightTensor> {
    const { dtype } = this.#weights.info(name);
    if (this.#asMlxNode && !loadable.includes(dtype)) {
      throw new HeddleError('unsupported', `Unsupported dtype for tensor ${name}: ${dtype}. Supported: ${loadable.join(', ')}`);
    }
    return this.#weights.tensor(name, options);
  }

  /** All of them by name. */
  async loadTensors(options: TensorOptions = {}): Promise<Record<string, WeightTensor>> {
    const found: Record<string, WeightTensor> = {};
    for (const name of this.tensorNames().sort()) found[name] = await this.getTensor(name, options);
    return found;
  }

  async close(): Promise<void> {
    await this.#weights.close();
  }
}

/** MLX-Node's lines about a file: the counts. */
export function countsLine({ tensors, parameters }: { tensors: number; parameters: number }): string {
  return `  Found ${tensors} tensors (${parameters} parameters)`;
}

