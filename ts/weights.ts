/**
 * weights.ts: weight files opened to be looked into: their directory at once, any tensor when it is asked for, all of them as they come.
 */
import { checkOptions, checkText, tensorOptions, tensorsOptions } from './arguments.js';
import { arrivals, Progress } from './arrival.js';
import { readRange } from './bytes.js';
import type { ByteSource } from './bytes.js';
import type { Core } from './core.js';
import { inspectFiles } from './directory.js';
import { HeddleError } from './errors.js';
import { Breather } from './host.js';
import { isPacked, packedValues } from './packed.js';
import { closeAll } from './shards.js';
import type { WeightFiles } from './shards.js';
import { elementBytes, gathered } from './strides.js';
import type { FileInfo, MetadataValue, StoredValues, TensorInfo, TensorOptions, TensorsOptions, Weights, WeightTensor } from './types.js';

type ArrayKind = new (buffer: ArrayBufferLike, byteOffset: number, length: number) => StoredValues;

/** The arrays that hold a dtype's values as they are. Halves are their bits; what is not here is bytes. */
const arrayKinds: Readonly<Record<string, ArrayKind & { BYTES_PER_ELEMENT: number }>> = {
  F32: Float32Array, F64: Float64Array, F16: Uint16Array, BF16: Uint16Array,
  I8: Int8Array, I16: Int16Array, I32: Int32Array, I64: BigInt64Array, U8: Uint8Array, U16: Uint16Array, U32: Uint32Array, U64: BigUint64Array,
  BOOL: Uint8Array,
};

/** Values that become float32 at once: whole blocks of every dtype, and no more bytes than the core is given at once. */
const widenValues = 1 << 16;

export class LocalWeights implements Weights {
  readonly tensors: readonly TensorInfo[];
  readonly format: string;
  readonly metadata: Readonly<Record<string, MetadataValue>>;
  readonly bytes: number;
  readonly #core: Core;
  readonly #files: readonly ByteSource[];
  /** Each file's tensors. */
  readonly #places: readonly (readonly TensorInfo[])[];
  readonly #byName = new Map<string, { tensor: TensorInfo; file: ByteSource }>();
  readonly #end: () => Promise<void>;
  #closed = false;
  /** Set once a stream's tensors go by: those that went are gone. */
  #streamed = false;
  #spooling: Promise<void> | undefined;

  /** Use `openWeights`. */
  constructor(core: Core, weights: WeightFiles, found: { info: FileInfo; tensors: TensorInfo[][] }, release: () => void) {
    this.#core = core;
    this.#files = weights.files;
    this.#places = found.tensors;
    this.tensors = found.info.tensors;
    this.format = found.info.format;
    this.metadata = found.info.metadata;
    this.bytes = found.info.bytes;
    weights.files.forEach((file, i) => found.tensors[i]?.forEach((tensor) => this.#byName.set(tensor.name, { tensor, file })));
    this.#end = async () => {
      release();
      await closeAll(weights.files);
    };
  }

  get tensorNames(): readonly string[] {
    return this.tensors.map(({ name }) => name);
  }

  get numParameters(): number {
    return this.tensors.reduce((sum, { numel }) => sum + numel, 0);
  }

  info(name: string): TensorInfo {
    return this.#find(name).tensor;
  }

  #find(name: string): { tensor: TensorInfo; file: ByteSource } {
    checkText(name, 'name');
    const found = this.#byName.get(name);
    if (!found) throw new HeddleError('bad_argument', `no tensor '${name}'; there are ${this.tensors.length}, first ${this.tensors[0]?.name ?? 'none'}`);
    return found;
  }

  tensor(name: string, options: TensorOptions & { as: 'f32' }): Promise<WeightTensor<Float32Array>>;
  tensor(name: string, options?: TensorOptions): Promise<WeightTensor>;
  async tensor(name: string, options: TensorOptions = {}): Promise<WeightTensor> {
    checkOptions(options, tensorOptions);
    const { tensor, file } = this.#find(name);
    this.#check();
    if (!file.seekable && this.#streamed) throw new HeddleError('bad_state', `${file.name} is a stream and has gone by: name its tensors in all(), or give a file, a Blob or a URL`);
    if (!file.seekable) await (this.#spooling ??= file.spool?.());
    const has = (each: string): TensorInfo | undefined => this.#byName.get(each)?.tensor;
    if (options.as === 'f32' && isPacked(tensor, has)) return packedValues(this.#core, this.#files, tensor, has, options.quantization);
    return this.#made(tensor, file, await readRange(file, tensor.begin, tensor.end), options);
  }

  all(options: TensorsOptions & { as: 'f32' }): AsyncGenerator<WeightTensor<Float32Array>>;
  all(options?: TensorsOptions): AsyncGenerator<WeightTensor>;
  async *all(options: TensorsOptions = {}): AsyncGenerator<WeightTensor> {
    checkOptions(options, tensorsOptions);
    const { names, progress: tell, signal, ...as } = options;
    const wanted = names && new Set(names);
    wanted?.forEach((name) => this.#find(name));
    const places = this.#places.map((tensors) => tensors.filter(({ name }) => !wanted || wanted.has(name)));
    const progress = new Progress(places.flat(), tell);
    const breather = new Breather();
    this.#check();
    for (const [i, file] of this.#files.entries()) {
      this.#streamed ||= !file.seekable;
      let bytes = new Uint8Array(0);
      let at = 0;
      for await (const { tensor, chunk, isFirst, isLast } of arrivals(file, places[i] ?? [])) {
        signal?.throwIfAborted();
        this.#check();
        if (isFirst && !file.bytes) [bytes, at] = [new Uint8Array(tensor.end - tensor.begin), 0];
        if (chunk && !file.bytes) bytes.set(chunk, at);
        at += chunk?.byteLength ?? 0;
        if (chunk) progress.add(chunk.byteLength);
        await breather.breathe();
        if (!isLast) continue;
        progress.done(tensor.name);
        yield this.#made(tensor, file, file.bytes ? file.bytes.subarray(tensor.begin, tensor.end) : bytes, as);
      }
    }
  }

  #check(): void {
    if (this.#closed) throw new HeddleError('bad_state', 'the weights were closed');
  }

  /** A tensor from its bytes: a view of them where that can be. */
  #made({ name, dtype, shape, numel, strides }: TensorInfo, file: ByteSource, range: Uint8Array, { as = 'stored' }: TensorOptions): WeightTensor {
    const bytes = strides ? gathered(range, elementBytes(dtype), shape, strides) : range;
    if (as === 'f32' && dtype !== 'F32') return { name, dtype: 'F32', shape: [...shape], data: this.#widened(name, file, dtype, bytes, numel) };
    const Kind = arrayKinds[dtype] ?? Uint8Array;
    const aligned = bytes.byteOffset % Kind.BYTES_PER_ELEMENT === 0 ? bytes : bytes.slice();
    return { name, dtype, shape: [...shape], data: new Kind(aligned.buffer, aligned.byteOffset, aligned.byteLength / Kind.BYTES_PER_ELEMENT) };
  }

  #widened(name: string, file: ByteSource, dtype: string, bytes: Uint8Array, numel: number): Float32Array {
    const core = this.#core;
    const number = core.dtypes.indexOf(dtype);
    const values = new Float32Array(numel);
    const room = core.heap.alloc(Math.min(numel, widenValues) * 4);
    try {
      const step = Math.floor((widenValues * bytes.byteLength) / numel);
      for (let i = 0, at = 0; i < numel; i += widenValues, at += step) {
        const n = Math.min(widenValues, numel - i);
        const part = bytes.subarray(at, i + n === numel ? bytes.byteLength : at + step);
        const staged = core.heap.stage(part);
        core.check((x) => x.w_widen(number, staged, part.byteLength, room, n));
        values.set(core.heap.floats(room, n), i);
      }
      return values;
    } catch (error) {
      throw error instanceof HeddleError ? new HeddleError(error.code, `${file.name}: tensor ${name}: ${error.message}`) : error;
    } finally {
      if (core.alive) core.heap.free(room);
    }
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    await this.#end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** Opens them; what was opened is closed again when one is broken. */
export async function openWeights(core: Core, weights: WeightFiles, release: () => void): Promise<LocalWeights> {
  try {
    return new LocalWeights(core, weights, await inspectFiles(core, weights), release);
  } catch (error) {
    await closeAll(weights.files);
    throw error;
  }
}
