/**
 * bytes.ts: one file as a ByteSource: its name, its size, and any range of it as chunks. Bytes in memory, Blobs, files on disk and
 * streams are here; http.ts has what lies on a server, cache.ts what was kept of it. No weight file is ever held whole.
 */
import { HeddleError, counted, messageOf } from './errors.js';
import { isNode, nodeFiles, temporaryFile } from './host.js';
import type { NodeFileHandle } from './host.js';

export interface ByteSource {
  /** For messages. */
  readonly name: string;
  /** In bytes; undefined when nobody has said: see `sized`. */
  readonly size: number | undefined;
  /** False for a stream: its ranges must be asked for in ascending order, until it is spooled. */
  readonly seekable: boolean;
  /** All of it, where it lies in memory: a view of it costs nothing. */
  readonly bytes?: Uint8Array;
  /** The first n bytes (all, of a shorter file), before anything is read; reading begins at byte 0 all the same. A copy. */
  peek(n: number): Promise<Uint8Array>;
  /** Bytes [begin, end) as chunks, each to be used before the next is asked for. `end` may be Infinity where the size is not known. */
  read(begin: number, end: number): AsyncIterable<Uint8Array>;
  /** Gives back the bytes read last, which began at `begin`: a stream has them once more. The file's directory may lie in front of wanted bytes. */
  unread?(begin: number, bytes: Uint8Array): void;
  /** Asks elsewhere for a size that is not known; it may stay unknown. */
  measure?(): Promise<void>;
  /** Keeps what is still to come where it can be read in any order: makes a stream seekable and of known size. */
  spool?(): Promise<void>;
  /** Says that the file was used and found good: what a cache has not seen of it is fetched, and it is kept. */
  finish?(): Promise<void>;
  close(): Promise<void>;
}

/** Bytes read at once from a disk, a Blob or a stream. */
export const readBytes = 1 << 20;

// ---- In memory ----

export function fromBytes(bytes: Uint8Array, name: string): ByteSource {
  if (!(bytes.buffer instanceof ArrayBuffer)) return fromShared(bytes, name);
  return {
    name,
    size: bytes.byteLength,
    seekable: true,
    bytes,
    peek: async (n) => bytes.slice(0, n),
    async *read(begin, end) {
      yield bytes.subarray(begin, end);
    },
    close: async () => undefined,
  };
}

/** Shared memory is copied a piece at a time: browsers' TextDecoder, Blob and streams refuse views of it. */
function fromShared(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    seekable: true,
    peek: async (n) => bytes.slice(0, n),
    async *read(begin, end) {
      const last = Math.min(end, bytes.byteLength);
      for (let at = begin; at < last; at += readBytes) yield bytes.slice(at, Math.min(at + readBytes, last));
    },
    close: async () => undefined,
  };
}

export function fromBlob(blob: Blob, name: string): ByteSource {
  const part = async (begin: number, end: number): Promise<Uint8Array> => new Uint8Array(await blob.slice(begin, end).arrayBuffer());
  return {
    name: blob instanceof File ? blob.name : name,
    size: blob.size,
    seekable: true,
    peek: (n) => part(0, n),
    // Not blob.stream(): Chromium 156 lets such streams stall for ever, now and then. Nor are the pieces given back by transfer(0): the engine
    // keeps their memory all the same, and no longer counts it.
    async *read(begin, end) {
      for (let at = begin; at < Math.min(end, blob.size); at += readBytes) yield await part(at, Math.min(at + readBytes, end));
    },
    close: async () => undefined,
  };
}

// ---- On disk ----

export async function fromPath(path: string | URL): Promise<ByteSource> {
  const name = String(path);
  let file: NodeFileHandle;
  try {
    file = await nodeFiles().open(path, 'r');
  } catch (error) {
    throw new HeddleError('bad_file', `cannot open ${name}: ${messageOf(error)}`, { cause: error });
  }
  const stat = await file.stat();
  if (!stat.isDirectory()) return fromHandle(file, name, stat.size);
  await file.close();
  throw new HeddleError('bad_file', `${name} is a folder, expected a file`);
}

/** A file that is open. Byte 0 of the source lies at `origin`. */
export function fromHandle(file: NodeFileHandle, name: string, size: number, origin = 0): ByteSource {
  const source: ByteSource = {
    name,
    size,
    seekable: true,
    peek: (n) => readRange(source, 0, Math.min(n, size)),
    async *read(begin, end) {
      const last = Math.min(end, size);
      const buffer = new Uint8Array(Math.max(0, Math.min(readBytes, last - begin)));
      for (let at = begin; at < last; ) {
        const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.byteLength, last - at), at - origin);
        if (bytesRead === 0) throw new HeddleError('bad_file', `${name} ends at byte ${at}, expected ${last}`);
        yield buffer.subarray(0, bytesRead);
        at += bytesRead;
      }
    },
    close: () => file.close(),
  };
  return source;
}

// ---- Streams ----

/** Where a stream's bytes come from, whatever it is. */
export interface ChunkReader {
  /** The next bytes, to be used before the next call; undefined at the end. */
  read(): Promise<Uint8Array | undefined>;
  cancel(): Promise<void>;
}

export interface StreamOptions {
  size?: number | undefined;
  /** What ends the stream from outside: its reason is thrown as it is. */
  signal?: AbortSignal | undefined;
  /** Asks elsewhere for a size that is not known. */
  measure?: () => Promise<number | undefined>;
}

/** Forwards only, until it is spooled: bytes between ranges are dropped as they come. */
export class StreamSource implements ByteSource {
  readonly name: string;
  readonly #reader: ChunkReader;
  readonly #options: StreamOptions;
  #size: number | undefined;
  #position = 0; // of the first byte in `rest`, or of the next that comes
  #rest: Uint8Array = new Uint8Array(0);
  #spooled: ByteSource | undefined;
  #again: { begin: number; end: number; bytes: Uint8Array } | undefined; // given back

  constructor(stream: ReadableStream<Uint8Array> | ChunkReader, name: string, options: StreamOptions = {}) {
    this.name = name;
    this.#reader = stream instanceof ReadableStream ? openReader(stream) : stream;
    this.#options = options;
    this.#size = options.size;
  }

  get size(): number | undefined {
    return this.#size;
  }

  get seekable(): boolean {
    return this.#spooled !== undefined;
  }

  async peek(n: number): Promise<Uint8Array> {
    if (this.#spooled) return this.#spooled.peek(n);
    while (this.#rest.byteLength < n) {
      const held = this.#rest.slice(); // the reader's buffer is its own again with the next read
      const more = await this.#next();
      if (!more) {
        this.#rest = held;
        break;
      }
      this.#rest = joined([held, more]);
    }
    return this.#rest.slice(0, n);
  }

  unread(begin: number, bytes: Uint8Array): void {
    this.#again = { begin, end: begin + bytes.byteLength, bytes };
  }

  async *read(begin: number, end: number): AsyncGenerator<Uint8Array> {
    const again = this.#again;
    if (again && begin >= again.begin && begin < again.end) {
      yield again.bytes.subarray(begin - again.begin, end - again.begin);
      begin = again.end;
    }
    if (begin >= end) return;
    if (this.#spooled) return yield* this.#spooled.read(begin, end);
    this.#again = undefined; // what lies before has gone by
    if (begin < this.#position) throw new HeddleError('unsupported', `${this.name} is a stream: it cannot go back from byte ${this.#position} to ${begin}`);
    while (this.#position < end) {
      if (this.#rest.byteLength === 0) {
        const value = await this.#next();
        if (!value && end === Number.POSITIVE_INFINITY) return;
        if (!value) throw new HeddleError('bad_file', `${this.name} ends at byte ${this.#position}, expected ${end}`);
        this.#rest = value;
      }
      const skipped = Math.min(Math.max(begin - this.#position, 0), this.#rest.byteLength);
      const wanted = Math.min(this.#rest.byteLength, end - this.#position);
      const piece = this.#rest.subarray(skipped, wanted);
      this.#rest = this.#rest.subarray(wanted);
      this.#position += wanted;
      if (piece.byteLength > 0) yield piece;
    }
  }

  async #next(): Promise<Uint8Array | undefined> {
    const { signal } = this.#options;
    try {
      return await this.#reader.read();
    } catch (error) {
      signal?.throwIfAborted();
      if (error instanceof HeddleError) throw error;
      throw new HeddleError('bad_file', `${this.name} broke off after ${counted(this.#position, 'byte')}: ${messageOf(error)}`, { cause: error });
    }
  }

  async measure(): Promise<void> {
    this.#size ??= await this.#options.measure?.();
  }

  async spool(): Promise<void> {
    if (this.#spooled) return;
    const again = this.#again;
    this.#spooled = await spool(this.read(this.#position, Number.POSITIVE_INFINITY), this.name, this.#position);
    this.#again = again; // it lies before what was kept
    this.#size = this.#spooled.size;
  }

  async close(): Promise<void> {
    await this.#spooled?.close();
    await this.#reader.cancel().catch(() => undefined); // a stream that failed refuses even that
  }
}

/** Memory that streams are read into, one after the other: new memory for each would be garbage that an engine lets grow. */
export class Scratch {
  readonly #idle: ArrayBuffer[] = [];

  take(): ArrayBuffer {
    return this.#idle.pop() ?? new ArrayBuffer(readBytes);
  }

  give(buffer: ArrayBuffer): void {
    this.#idle.push(buffer);
  }
}

/**
 * Reads a stream into one buffer again and again, where it is one of bytes, as a response's is: chunks in new memory each would be
 * garbage that an engine lets grow to 64 MB and more before it collects.
 */
export function openReader(stream: ReadableStream<Uint8Array>, scratch = new Scratch()): ChunkReader {
  let reader: ReadableStreamBYOBReader;
  try {
    reader = stream.getReader({ mode: 'byob' });
  } catch {
    const chunks = stream.getReader();
    return { read: async () => (await chunks.read()).value, cancel: () => chunks.cancel() };
  }
  let buffer: ArrayBuffer | undefined = scratch.take();
  return {
    async read() {
      const room = new Uint8Array(buffer ?? scratch.take());
      buffer = undefined; // it is the stream's until it gives it back; one that breaks keeps it
      const { value } = await reader.read(room);
      buffer = value?.buffer;
      return value && value.byteLength > 0 ? value : undefined;
    },
    cancel() {
      if (buffer) scratch.give(buffer);
      buffer = undefined;
      return reader.cancel();
    },
  };
}

/**
 * What is left of a stream, which began at byte `origin` of its file: in Node in a temporary file that no folder lists, elsewhere in a
 * Blob, which a browser keeps outside the page's heap, a large one on disk.
 */
async function spool(chunks: AsyncIterable<Uint8Array>, name: string, origin: number): Promise<ByteSource> {
  if (!isNode()) {
    const parts: Blob[] = [];
    for await (const chunk of chunks) parts.push(new Blob([chunk as Uint8Array<ArrayBuffer>]));
    return shifted(fromBlob(new Blob(parts), name), origin);
  }
  const file = await temporaryFile();
  try {
    let size = origin;
    for await (const chunk of chunks) {
      await file.write(chunk, 0, chunk.byteLength, size - origin);
      size += chunk.byteLength;
    }
    return fromHandle(file, name, size, origin);
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** The same bytes `origin` further on in their file. */
function shifted(source: ByteSource, origin: number): ByteSource {
  if (origin === 0) return source;
  return { ...source, size: (source.size ?? 0) + origin, read: (begin, end) => source.read(begin - origin, end - origin) };
}

/** A source whose size is known: as it was said, measured, or counted by spooling. */
export async function sized(source: ByteSource): Promise<ByteSource> {
  if (source.size === undefined) await source.measure?.();
  if (source.size === undefined) await source.spool?.();
  return source;
}

// ---- gzip ----

/** The file itself, or what is inside it when it begins as gzip does. */
export async function inflated(source: ByteSource, signal?: AbortSignal): Promise<ByteSource> {
  const [a, b, method] = await source.peek(3).catch(async (error: unknown) => {
    await source.close();
    throw error;
  });
  if (a !== 0x1f || b !== 0x8b || method !== 8) return source;
  const chunks = source.read(0, source.size ?? Number.POSITIVE_INFINITY)[Symbol.asyncIterator]();
  const compressed = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(value.slice());
    },
  });
  const inside = new StreamSource(compressed.pipeThrough(new DecompressionStream('gzip')), source.name, { signal });
  const close = inside.close.bind(inside);
  return Object.assign(inside, {
    finish: async () => source.finish?.(),
    close: async () => {
      await close();
      await source.close();
    },
  });
}

// ---- Reading whole small files ----

/** All bytes of a file that is small by nature: a description, a tokenizer, an adapter. Closes it. */
export async function readAll(source: ByteSource): Promise<Uint8Array> {
  try {
    const bytes = await readRange(source, 0, source.size ?? Number.POSITIVE_INFINITY);
    await source.finish?.();
    return bytes;
  } finally {
    await source.close();
  }
}

/** Bytes [begin, end) of it in one piece: a copy, unless they lie in memory. */
export async function readRange(source: ByteSource, begin: number, end: number): Promise<Uint8Array> {
  if (source.bytes) return source.bytes.subarray(begin, end);
  if (end - begin < Number.POSITIVE_INFINITY) return readInto(source, begin, new Uint8Array(end - begin));
  const chunks: Uint8Array[] = [];
  for await (const chunk of source.read(begin, end)) chunks.push(chunk.slice());
  return joined(chunks);
}

async function readInto(source: ByteSource, begin: number, all: Uint8Array): Promise<Uint8Array> {
  let at = 0;
  for await (const chunk of source.read(begin, begin + all.byteLength)) {
    all.set(chunk, at);
    at += chunk.byteLength;
  }
  if (at < all.byteLength) throw new HeddleError('bad_file', `${source.name} ends at byte ${begin + at}, expected ${begin + all.byteLength}`);
  return all;
}

export function joined(chunks: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(chunks.reduce((sum, chunk) => sum + chunk.byteLength, 0));
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.byteLength;
  }
  return all;
}

export async function readText(source: ByteSource): Promise<string> {
  return new TextDecoder('utf-8').decode(await readAll(source));
}

/** A file's JSON; `bad_file` with the file's name otherwise. */
export async function readJson(source: ByteSource): Promise<unknown> {
  const text = await readText(source);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HeddleError('bad_file', `${source.name}: ${messageOf(error)}`, { cause: error });
  }
}
