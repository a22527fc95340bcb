/**
 * convert.ts: weight files from one format to another, tensor by tensor: a tensor is read, turned and written before the next is asked for, so
 * that neither file is ever whole in memory. What a format cannot hold becomes the nearest dtype that holds it exactly; where none does the result says
 * which tensors were rounded, or the conversion is refused by the tensor's name.
 */
import { Progress } from './arrival.js';
import { Crc32 } from './checksum.js';
import { elements } from './core.js';
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import { metadataJson } from './gguf.js';
import { Breather } from './host.js';
import { safetensorsToMlx } from './mlx.js';
import type { FetchOptions, GgufMetadataInput, LoadProgress, Model, StoredValues, TensorOptions, WeightTensor } from './types.js';

/** What weight files are written as. 'mlx-json' is MLX-Node's weights.mlx with its numbers (docs/mlx.md). */
export type WeightFormat = 'safetensors' | 'gguf' | 'pytorch' | 'mlx-json';

/** Tensors to be converted: what `openWeights` opens has these members, and `modelTensors` gives them. */
export interface TensorSource {
  readonly format: string;
  readonly tensors: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly number[]; readonly byteSize?: number }[];
  tensor(name: string, options?: TensorOptions): Promise<WeightTensor>;
}

export function isTensorSource(source: unknown): source is TensorSource {
  return typeof source === 'object' && source !== null && 'tensors' in source && 'tensor' in source && typeof source.tensor === 'function';
}

export interface ConvertOptions extends FetchOptions {
  to: WeightFormat;
  /**
   * What floats become, in either case: 'keep' (the default), a float dtype, or for GGUF a block dtype ('q8_0', 'q4_0', …). Block dtypes are for matrices whose rows are whole
   * blocks; embeddings and the head have 8 bits at least; other matrices become F16. Integers stay.
   */
  dtype?: string;
  /** The file's own: texts for SafeTensors, values of any kind for GGUF, for 'mlx-json' the config. PyTorch has none. */
  metadata?: GgufMetadataInput;
  /** Only these tensors, by name: a shard. */
  names?: readonly string[];
  /** What a tensor is called in the file; by default as in the source. */
  rename?: (name: string) => string;
  progress?: (progress: LoadProgress) => void;
}

export interface ConvertedTensor {
  /** In the file written. */
  name: string;
  shape: readonly number[];
  from: string;
  to: string;
  /** Values were rounded: `to` does not hold every value of `from`. */
  lossy: boolean;
  /** Why it is not the dtype asked for. */
  reason?: string;
}

export interface Conversion {
  format: WeightFormat;
  bytes: number;
  tensors: ConvertedTensor[];
  /** In words: which precision was lost, what did not become what was asked for. */
  warnings: string[];
}

// ---- What a tensor becomes ----

interface FormatRow {
  /** As messages and the core call it. */
  name: string;
  has(dtype: string): boolean;
  /** Whether the file has a CRC-32 before each tensor. */
  checksums?: boolean;
}

const plainFloats = ['F64', 'F32', 'F16', 'BF16'];
const integers = ['I64', 'I32', 'I16', 'I8', 'U64', 'U32', 'U16', 'U8', 'BOOL'];
const isBlock = (dtype: string): boolean => /^(I?Q\d|IQ|MXFP4|NVFP4|INT8)/.test(dtype);
const isInteger = (dtype: string): boolean => integers.includes(dtype);

const formats: Readonly<Record<WeightFormat, FormatRow>> = {
  safetensors: { name: 'SafeTensors', has: (dtype) => !isBlock(dtype) },
  gguf: { name: 'GGUF', has: (dtype) => [...plainFloats, 'I8', 'I16', 'I32', 'I64'].includes(dtype) || (isBlock(dtype) && dtype !== 'INT8') },
  pytorch: { name: 'PyTorch', has: (dtype) => [...plainFloats, 'I64', 'I32', 'I16', 'I8', 'U8', 'BOOL'].includes(dtype), checksums: true },
  'mlx-json': { name: 'MLX JSON', has: (dtype) => ['F32', 'F16', 'BF16'].includes(dtype) },
};

/** Integers that hold every value of another. */
const wider: Readonly<Record<string, readonly string[]>> = {
  BOOL: ['U8', 'I8', 'I16', 'I32', 'I64'], U8: ['I16', 'I32', 'I64'], I8: ['I16', 'I32', 'I64'], U16: ['I32', 'I64'], I16: ['I32', 'I64'], U32: ['I64'], I32: ['I64'],
};

/** Whether a matrix is looked up or gives the scores, by the names files call it. */
const isEmbeddingOrHead = (name: string): boolean =>
  /(^|\.)(embed_tokens|wte|wpe|lm_head|token_embd|output|tok_embeddings|word_embeddings|position_embeddings|embedding)\.weight$/.test(name);

/** The dtype a float tensor should have, whatever the format. */
function wanted(dtype: string, from: string, shape: readonly number[], name: string): { dtype: string; reason?: string } {
  if (dtype === 'keep' || isInteger(from) || from === 'C64') return { dtype: from };
  if (!isBlock(dtype)) return { dtype };
  if (shape.length !== 2) return { dtype: from === 'F16' ? 'F16' : 'F32' };
  const row = shape[1] ?? 0;
  const block = /_K|^IQ4_XS/.test(dtype) ? 256 : 32;
  if (row % block !== 0) return { dtype: 'F16', reason: `row of ${row} is no multiple of ${block}` };
  if (isEmbeddingOrHead(name) && !/^Q8/.test(dtype)) return { dtype: 'Q8_0', reason: 'embeddings and the head have 8 bits at least' };
  return { dtype };
}

interface Planned extends ConvertedTensor {
  /** What the source calls it, and its bytes there. */
  source: string;
  bytes: number;
}

function plan(core: Core, source: TensorSource, { to, dtype = 'keep', names, rename = (name) => name }: ConvertOptions): Planned[] {
  const only = names && new Set(names);
  const known = dtype === 'keep' || core.dtypes.includes(dtype);
  if (!known || !(dtype === 'keep' || formats[to].has(dtype)) || isInteger(dtype)) {
    const all = core.dtypes.filter((each) => formats[to].has(each) && !isInteger(each) && each !== 'C64');
    throw new HeddleError(known ? 'unsupported' : 'bad_argument', `dtype: ${formats[to].name} files have keep, ${all.join(', ')}; found '${dtype}'`);
  }
  return source.tensors.filter(({ name }) => !only || only.has(name)).map((tensor) => planOne(core, tensor, to, dtype, rename));
}

function planOne(core: Core, { name, dtype: from, shape, byteSize = elements(shape) * 4 }: TensorSource['tensors'][number], to: WeightFormat, asked: string, rename: (name: string) => string): Planned {
  const want = wanted(asked, from, shape, name);
  const format = formats[to];
  const fits = format.has(want.dtype) ? want.dtype : isInteger(from) ? (wider[from] ?? []).find((each) => format.has(each)) : from === 'C64' ? undefined : 'F32';
  if (fits === undefined) throw new HeddleError('unsupported', `tensor ${name}: ${format.name} files have no dtype that holds ${from}`);
  const reason = want.reason ?? (fits === want.dtype ? undefined : `${format.name} files have no ${want.dtype}`);
  const lossy = !holds(core, fits, from);
  return { source: name, bytes: byteSize, name: rename(name), shape: [...shape], from, to: fits, lossy, ...(reason !== undefined && { reason }) };
}

function holds(core: Core, to: string, from: string): boolean {
  if (to === from || isInteger(from)) return true;
  if (to === 'F64') return true;
  return core.call((x) => x.w_dtype_holds(core.dtypes.indexOf(to), core.dtypes.indexOf(from))) !== 0;
}

// ---- Values ----

type IntegerArray = { new (n: number): StoredValues };
const integerArrays: Readonly<Record<string, IntegerArray>> = { U8: Uint8Array, I8: Int8Array, I16: Int16Array, I32: Int32Array, I64: BigInt64Array };

/** Values that become another dtype at once: whole blocks of every dtype. */
const narrowValues = 1 << 16;

/** A tensor's bytes as the file to be written has them. A source may give what it keeps as F16 or in blocks as the float32 it means. */
async function bytesOf(core: Core, source: TensorSource, { source: name, from, to }: Planned, nBytes: number): Promise<Uint8Array> {
  const { data, dtype } = await source.tensor(name, from === to || isInteger(from) ? {} : { as: 'f32' });
  if (dtype === to) return bytesIn(data);
  if (isInteger(from)) return bytesIn(widened(data, to));
  return narrowed(core, data as Float32Array, core.dtypes.indexOf(to), nBytes);
}

function bytesIn(data: StoredValues): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function widened(data: StoredValues, to: string): StoredValues {
  const Kind = integerArrays[to];
  if (!Kind) throw new HeddleError('unsupported', `integers do not become ${to}`);
  const out = new Kind(data.length);
  const isBig = out instanceof BigInt64Array;
  for (let i = 0; i < data.length; i++) out[i] = (isBig ? BigInt(data[i] ?? 0) : data[i]) as never;
  return out;
}

/** float32 as another dtype, which the core rounds to. */
function narrowed(core: Core, values: Float32Array, dtype: number, nBytes: number): Uint8Array {
  const bytes = new Uint8Array(nBytes);
  const step = Math.floor((Math.min(values.length, narrowValues) * nBytes) / Math.max(values.length, 1));
  const room = core.heap.alloc(step + 8);
  const floats = core.heap.alloc(Math.min(values.length, narrowValues) * 4 + 4);
  try {
    for (let i = 0, at = 0; i < values.length; i += narrowValues, at += step) {
      const part = values.subarray(i, i + narrowValues);
      const n = i + narrowValues >= values.length ? nBytes - at : step;
      core.heap.writeFloats(floats, part);
      core.check((x) => x.w_narrow(dtype, floats, part.length, room, n));
      bytes.set(core.heap.bytes(room, n), at);
    }
    return bytes;
  } finally {
    if (core.alive) [room, floats].forEach((pointer) => core.heap.free(pointer));
  }
}

// ---- Files ----

export type WriteChunk = (bytes: Uint8Array) => void | Promise<void>;

/** What the core makes of metadata: texts only, for SafeTensors. */
function metadataText(to: WeightFormat, metadata: GgufMetadataInput | undefined): string {
  if (metadata === undefined || to === 'pytorch') return '';
  if (to === 'gguf') return metadataJson(metadata);
  const pairs = metadata instanceof Map ? [...(metadata as ReadonlyMap<string, unknown>)] : Object.entries(metadata);
  return JSON.stringify(Object.fromEntries(pairs.map(([key, value]) => [key, typeof value === 'string' ? value : metadataJson({ value }).slice('{"value":'.length, -1)])));
}

/** Writes the tensors as a file, chunk by chunk in order; what became of them. */
export async function convertTensors(core: Core, source: TensorSource, write: WriteChunk, options: ConvertOptions): Promise<Conversion> {
  const { dtype = 'keep' } = options;
  const tensors = plan(core, source, { ...options, dtype: dtype === 'keep' ? dtype : dtype.toUpperCase() });
  const sizes = tensors.map((tensor) => ({ begin: 0, end: tensor.bytes }));
  const progress = new Progress(sizes, options.progress);
  const breather = new Breather();
  let bytes = 0;
  const put: WriteChunk = async (chunk) => {
    options.signal?.throwIfAborted();
    bytes += chunk.byteLength;
    if (chunk.byteLength > 0) await write(chunk);
    await breather.breathe();
  };
  const done = (tensor: Planned): void => {
    progress.add(tensor.bytes);
    progress.done(tensor.name);
  };
  if (options.to === 'mlx-json') await put(await mlxText(core, source, tensors, done, options.metadata));
  else await writeOutlined(core, source, tensors, put, done, options);
  const made = tensors.map(({ source: _, bytes: __, ...tensor }) => tensor);
  return { format: options.to, bytes, tensors: made, warnings: warningsOf(made) };
}

/** A weights.mlx is made of a whole SafeTensors file, and is several times as long. */
async function mlxText(core: Core, source: TensorSource, tensors: readonly Planned[], done: (tensor: Planned) => void, config: GgufMetadataInput | undefined): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  const keep: WriteChunk = (chunk) => void chunks.push(chunk.slice());
  await writeOutlined(core, source, tensors, keep, done, { to: 'safetensors' });
  const file = new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer());
  return safetensorsToMlx(core, file, { config: (config instanceof Map ? Object.fromEntries(config as ReadonlyMap<string, unknown>) : config) ?? {} });
}

async function writeOutlined(core: Core, source: TensorSource, tensors: readonly Planned[], put: WriteChunk, done: (tensor: Planned) => void, { to, metadata }: ConvertOptions): Promise<void> {
  const { name: format, checksums } = formats[to];
  const json = JSON.stringify(tensors.map(({ name, to: dtype, shape }) => ({ name, dtype, shape })));
  const about = metadataText(to, metadata);
  const outline = core.heap.withText(format, (f) =>
    core.heap.withText(json, (p, n) => core.heap.withText(about, (m, nAbout) => core.made((x) => x.w_outline_new(f, p, n, about === '' ? 0 : m, nAbout)))),
  );
  const piece = (i: number, checksum: number): Uint8Array => {
    core.check((x) => x.w_outline_piece(outline, i, checksum));
    return core.heap.bytes(core.heap.transfer(0), core.heap.transfer(1));
  };
  try {
    for (let i = 0; i < tensors.length; i++) {
      const tensor = tensors[core.call((x) => x.w_outline_tensor(outline, i))];
      const nBytes = core.heap.transfer(0);
      if (!tensor) break;
      const bytes = await bytesOf(core, source, tensor, nBytes);
      if (bytes.byteLength !== nBytes) throw new HeddleError('bad_file', `tensor ${tensor.name}: expected ${nBytes} bytes of ${tensor.to}, found ${bytes.byteLength}`);
      await put(piece(i, checksums ? crc32(bytes) : 0));
      await put(bytes);
      done(tensor);
    }
    await put(piece(tensors.length, 0));
  } finally {
    if (core.alive) core.call((x) => x.w_outline_free(outline));
  }
}

function crc32(bytes: Uint8Array): number {
  const crc = new Crc32();
  crc.add(bytes);
  return Number.parseInt(crc.text, 16);
}

/** Tensors that fared alike in one line. */
function warningsOf(tensors: readonly ConvertedTensor[]): string[] {
  const groups = new Map<string, string[]>();
  for (const { name, from, to, lossy, reason } of tensors) {
    if (!lossy && reason === undefined) continue;
    const what = `${from} → ${to}${lossy ? ', rounded' : ''}${reason === undefined ? '' : ` (${reason})`}`;
    const names = groups.get(what);
    if (names) names.push(name);
    else groups.set(what, [name]);
  }
  return [...groups].map(([what, [first, ...more]]) => `${what}: ${first}${more.length > 0 ? ` and ${more.length} more` : ''}`);
}

/**
 * A loaded model's weights under their Hugging Face names, in the order and shape that checkpoints have them, one at a time: what a GGUF file or a bundle
 * becomes other files by.
 */
export function modelTensors(model: Model): TensorSource {
  const weights = new Map(model.weights.map((weight) => [weight.name, weight]));
  return {
    format: 'model',
    tensors: model.weights.map(({ name, shape, inOut, fileDtype, dtype, lossy }) => ({ name, shape: inOut ? [...shape].reverse() : shape, dtype: lossy || fileDtype === undefined ? dtype : fileDtype })),
    async tensor(name) {
      const weight = weights.get(name);
      if (!weight) throw new HeddleError('bad_argument', `the model has no weight '${name}'`);
      const data = await model.readWeight(name);
      if (!weight.inOut) return { name, dtype: 'F32', shape: weight.shape, data };
      return { name, dtype: 'F32', shape: [...weight.shape].reverse(), data: transposed(data, weight.shape) };
    },
  };
}

/** A matrix of that shape, row by row, as its columns. */
function transposed(data: Float32Array, [rows = 0, columns = 0]: readonly number[]): Float32Array {
  const out = new Float32Array(data.length);
  for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) out[c * rows + r] = data[r * columns + c] ?? 0;
  return out;
}

// ---- Shards ----

/** Names of tensors file by file, in the order of the source: a file is closed before it would pass `limit` bytes (of the dtypes the source has). */
export function shardsOf(tensors: readonly { name: string; byteSize: number }[], limit: number): string[][] {
  const shards: string[][] = [[]];
  let bytes = 0;
  for (const { name, byteSize } of tensors) {
    if (bytes > 0 && bytes + byteSize > limit) {
      shards.push([]);
      bytes = 0;
    }
    shards.at(-1)?.push(name);
    bytes += byteSize;
  }
  return shards;
}
