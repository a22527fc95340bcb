/**
 * memory.ts: the only file that touches an instance's heap.
 *
 * A view of the heap lives for one statement: memory that grows detaches every older view, and any call into the core may
 * grow it. Pointers leave the core as signed numbers above 2 GB and pass through `>>> 0`. Shared memory (modules with
 * threads) is refused by TextDecoder and Blob, and by TextEncoder.encodeInto: everything is copied out, or in, first. So
 * everything that leaves this file is a copy, and nothing here is kept.
 */
import { HeddleError, counted } from './errors.js';
import type { WasmMemory } from './globals.js';

/** Where the core lies about nothing: the three exports that the heap itself needs. */
export interface HeapExports {
  w_alloc(bytes: number): number;
  w_free(pointer: number): void;
  w_transfer(): number;
}

/** A tensor in the heap, as the core describes it in the transfer area. */
export interface HeapTensor {
  pointer: number;
  /** An index into the core's table of dtypes. */
  dtype: number;
  shape: number[];
}

/** Values of a tensor outside the heap. */
export type Values = Float32Array | Int32Array;

/** Bytes that move at once from a file into the core. */
export const stagingBytes = 1 << 20;

const decoder = new TextDecoder('utf-8', { ignoreBOM: true });
const encoder = new TextEncoder();

/** Text is encoded in pieces of so many UTF-16 units, so that a large bundle never exists twice in JavaScript. */
const textPiece = 1 << 16;

export class Heap {
  readonly #memory: WasmMemory;
  readonly #exports: HeapExports;
  readonly #transfer: number;
  #staging = 0;

  constructor(memory: WasmMemory, exports: HeapExports) {
    this.#memory = memory;
    this.#exports = exports;
    this.#transfer = exports.w_transfer() >>> 0;
  }

  /** Bytes the instance holds, used or not. */
  get byteLength(): number {
    return this.#memory.buffer.byteLength;
  }

  // ---- Allocation ----

  /** At least one byte; throws `out_of_memory`. */
  alloc(bytes: number): number {
    const pointer = bytes <= 0xffffffff ? this.#exports.w_alloc(bytes) >>> 0 : 0;
    if (pointer === 0) throw new HeddleError('out_of_memory', `no memory for ${counted(bytes, 'byte')} (the instance holds ${this.byteLength})`);
    return pointer;
  }

  free(pointer: number): void {
    this.#exports.w_free(pointer);
  }

  /** Gives `use` the bytes in the heap and takes them back afterwards. */
  with<T>(bytes: Uint8Array, use: (pointer: number, n: number) => T): T {
    const pointer = this.alloc(bytes.byteLength);
    try {
      this.write(pointer, bytes);
      return use(pointer, bytes.byteLength);
    } finally {
      this.free(pointer);
    }
  }

  /** The same for text: UTF-8, and a NUL behind it that `n` does not count. */
  withText<T>(text: string, use: (pointer: number, n: number) => T): T {
    const n = utf8Length(text);
    const pointer = this.alloc(n + 1);
    try {
      let at = pointer;
      for (let i = 0; i < text.length; ) {
        let end = Math.min(i + textPiece, text.length);
        if (end < text.length && isHighSurrogate(text.charCodeAt(end - 1))) end++;
        const piece = encoder.encode(text.slice(i, end));
        this.write(at, piece);
        at += piece.byteLength;
        i = end;
      }
      new Uint8Array(this.#memory.buffer)[at] = 0;
      return use(pointer, n);
    } finally {
      this.free(pointer);
    }
  }

  /** The same for 32-bit sizes, as shapes are. */
  withSizes<T>(sizes: readonly number[], use: (pointer: number) => T): T {
    const copy = Uint32Array.from(sizes);
    return this.with(new Uint8Array(copy.buffer), use);
  }

  // ---- Writing ----

  write(pointer: number, bytes: Uint8Array): void {
    new Uint8Array(this.#memory.buffer).set(bytes, pointer);
  }

  /** Puts at most `stagingBytes` where the core can read them, until the next call. */
  stage(bytes: Uint8Array): number {
    if (bytes.byteLength > stagingBytes) throw new HeddleError('bad_argument', `${bytes.byteLength} bytes at once; at most ${stagingBytes}`);
    this.#staging ||= this.alloc(stagingBytes);
    this.write(this.#staging, bytes);
    return this.#staging;
  }

  writeFloats(pointer: number, values: ArrayLike<number>): void {
    new Float32Array(this.#memory.buffer, pointer, values.length).set(values);
  }

  writeInts(pointer: number, values: ArrayLike<number>): void {
    new Int32Array(this.#memory.buffer, pointer, values.length).set(values);
  }

  // ---- Reading ----

  /** One number of the transfer area: what the last call left there. */
  transfer(index: number): number {
    return new Float64Array(this.#memory.buffer, this.#transfer, index + 1)[index] ?? 0;
  }

  /** The tensor the last call left in the transfer area. */
  transferTensor(): HeapTensor {
    return { pointer: this.transfer(0), dtype: this.transfer(1), shape: this.transferShape(2, 3) };
  }

  /** The shape in the transfer area: its number of dimensions at `count`, its sizes from `first` on. */
  transferShape(count: number, first: number): number[] {
    const n = this.transfer(count);
    return Array.from(new Float64Array(this.#memory.buffer, this.#transfer, first + n).subarray(first));
  }

  bytes(pointer: number, n: number): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.#memory.buffer).slice(pointer, pointer + n);
  }

  floats(pointer: number, n: number): Float32Array {
    return new Float32Array(this.#memory.buffer, pointer, n).slice();
  }

  ints(pointer: number, n: number): Int32Array {
    return new Int32Array(this.#memory.buffer, pointer, n).slice();
  }

  /** Index of the largest of n float32 values; the first of equals, and never a NaN unless all are. */
  argmax(pointer: number, n: number): number {
    const values = new Float32Array(this.#memory.buffer, pointer, n);
    let best = 0;
    let bestValue = -Infinity;
    for (let i = 0; i < n; i++) {
      const value = values[i] ?? 0;
      if (value > bestValue) {
        bestValue = value;
        best = i;
      }
    }
    return best;
  }

  /** UTF-8 up to the NUL, or `n` bytes of it. */
  text(pointer: number, n?: number): string {
    const all = new Uint8Array(this.#memory.buffer);
    const end = n === undefined ? all.indexOf(0, pointer) : pointer + n;
    return decoder.decode(all.slice(pointer, end));
  }
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit < 0xdc00;
}

/** Bytes that TextEncoder makes of the text; a lone surrogate becomes U+FFFD, three bytes. */
function utf8Length(text: string): number {
  let n = text.length;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    if (unit < 0x80) continue;
    n += unit < 0x800 ? 1 : 2;
    if (!isHighSurrogate(unit)) continue;
    const next = text.charCodeAt(i + 1);
    if (next >= 0xdc00 && next < 0xe000) i++; // a pair is four bytes: 2 + 2
  }
  return n;
}

/**
 * The system calls a standalone module may ask for. The core itself calls none; the C library's abort and stdio do. A clock
 * is given; files are not there; exit is a trap.
 */
export function systemCalls(memory: WasmMemory): Record<string, (...args: (number | bigint)[]) => number> {
  const badDescriptor = 8;
  return {
    proc_exit(status) {
      throw new WebAssembly.RuntimeError(`exit(${String(status)})`);
    },
    clock_time_get(_clock, _precision, out) {
      const nanoseconds = BigInt(Math.round(performance.now() * 1e6));
      new DataView(memory.buffer).setBigUint64(Number(out) >>> 0, nanoseconds, true);
      return 0;
    },
    fd_write: () => badDescriptor,
    fd_read: () => badDescriptor,
    fd_seek: () => badDescriptor,
    fd_close: () => badDescriptor,
    fd_fdstat_get: () => badDescriptor,
  };
}
