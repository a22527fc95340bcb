/**
 * source.ts: where bytes come from. Whatever a caller gives, a file becomes a ByteSource (a size and ranges of it as chunks) and a
 * model becomes a FileSet (files by name). No weight file is ever held whole.
 *
 * This is the seam for what comes later: HTTP ranges, shards and caches are other ByteSources, and nothing else changes.
 */
import { checkFiles, isPlainObject, notAFile } from './arguments.js';
import { HeddleError, messageOf } from './errors.js';
import { isNode, nodeFiles } from './host.js';
import type { NodeFileHandle } from './host.js';
import type { FileInput, SizedStream, SourceInput } from './types.js';

/** One file. Ranges must be asked for in ascending order: a stream cannot go back. */
export interface ByteSource {
  /** For messages. */
  readonly name: string;
  /** In bytes; undefined when a server does not say. Weight files need it: see `sized`. */
  readonly size: number | undefined;
  /** The same file with its size found out. Call it before the next read; the old source is used up. */
  withSize?(): Promise<ByteSource>;
  read(begin: number, end: number): AsyncIterable<Uint8Array>;
  close(): Promise<void>;
}

/** Files by name; undefined when there is none of that name. */
export interface FileSet {
  /** For messages: "in FOLDER", "among the files given". */
  readonly where: string;
  open(name: string): Promise<ByteSource | undefined>;
  /** Names of all files, where that can be known. */
  list(): Promise<readonly string[] | undefined>;
  /** Why a file that was opened is not there, where more is known. */
  why?(name: string): string | undefined;
}

/** The error for a file a model cannot do without. */
export async function missingFile(set: FileSet, name: string): Promise<HeddleError> {
  const why = set.why?.(name);
  const names = await set.list();
  const detail = why !== undefined ? `: ${why}` : names === undefined ? '' : names.length === 0 ? ': there are no files' : ` (${names.join(', ')})`;
  return new HeddleError('bad_file', `no ${name} ${set.where}${detail}`);
}

/** Bytes read at once from a disk or a Blob. */
const readBytes = 1 << 20;

// ---- Kinds of ByteSource ----

function fromBytes(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    async *read(begin, end) {
      yield bytes.subarray(begin, end);
    },
    close: async () => undefined,
  };
}

function fromBlob(blob: Blob, name: string): ByteSource {
  return {
    name: blob instanceof File ? blob.name : name,
    size: blob.size,
    // Not blob.stream(): Chromium 156 lets such streams stall for ever, now and then. Nor are the pieces given back by transfer(0): the engine
    // keeps their memory all the same, and no longer counts it.
    async *read(begin, end) {
      for (let at = begin; at < end; at += readBytes) yield new Uint8Array(await blob.slice(at, Math.min(at + readBytes, end)).arrayBuffer());
    },
    close: async () => undefined,
  };
}

async function fromPath(path: string | URL): Promise<ByteSource> {
  const name = String(path);
  let file: NodeFileHandle;
  try {
    file = await nodeFiles().open(path, 'r');
  } catch (error) {
    throw new HeddleError('bad_file', `cannot open ${name}: ${messageOf(error)}`, { cause: error });
  }
  const stat = await file.stat();
  if (stat.isDirectory()) {
    await file.close();
    throw new HeddleError('bad_file', `${name} is a folder, expected a file`);
  }
  const { size } = stat;
  return {
    name,
    size,
    async *read(begin, end) {
      const buffer = new Uint8Array(Math.min(readBytes, end - begin));
      for (let at = begin; at < end; ) {
        const { bytesRead } = await file.read(buffer, 0, Math.min(buffer.byteLength, end - at), at);
        if (bytesRead === 0) throw new HeddleError('bad_file', `${name} ends at byte ${at}, expected ${end}`);
        yield buffer.subarray(0, bytesRead);
        at += bytesRead;
      }
    },
    close: () => file.close(),
  };
}

interface StreamOptions {
  size?: number | undefined;
  /** What ends the stream from outside: its reason is thrown as it is. */
  signal?: AbortSignal | undefined;
  /** Asks elsewhere for a size that is not known. */
  measure?: () => Promise<number | undefined>;
}

/** Forwards only: bytes between ranges are dropped as they come. */
function fromStream(stream: ReadableStream<Uint8Array>, name: string, { size, signal, measure }: StreamOptions = {}): ByteSource {
  const reader = openReader(stream);
  let position = 0; // of the first byte in `rest`, or of the next that comes
  let rest: Uint8Array = new Uint8Array(0);
  const source: ByteSource = {
    name,
    size,
    async *read(begin, end) {
      if (begin < position) throw new HeddleError('unsupported', `${name} is a stream: it cannot go back from byte ${position} to ${begin}`);
      while (position < end) {
        if (rest.byteLength === 0) {
          const value = await reader.read().catch((error: unknown) => {
            signal?.throwIfAborted();
            throw new HeddleError('bad_file', `${name} broke off after ${position} bytes: ${messageOf(error)}`, { cause: error });
          });
          if (!value && end === Number.POSITIVE_INFINITY) return;
          if (!value) throw new HeddleError('bad_file', `${name} ends at byte ${position}, expected ${end}`);
          rest = value;
        }
        const skipped = Math.min(Math.max(begin - position, 0), rest.byteLength);
        const wanted = Math.min(rest.byteLength, end - position);
        const piece = rest.subarray(skipped, wanted);
        rest = rest.subarray(wanted);
        position += wanted;
        if (piece.byteLength > 0) yield piece;
      }
    },
    close: () => reader.cancel().catch(() => undefined), // a stream that failed refuses even that
  };
  if (measure && size === undefined) {
    source.withSize = async () => {
      const found = await measure();
      return found === undefined ? drained(position, await blobOf(source.read(position, Number.POSITIVE_INFINITY)), name) : { ...source, size: found };
    };
  }
  return source;
}

interface ChunkReader {
  /** The next bytes, to be used before the next call; undefined at the end. */
  read(): Promise<Uint8Array | undefined>;
  cancel(): Promise<void>;
}

/**
 * Reads a stream into one buffer again and again, where it is one of bytes, as a response's is: chunks in new memory each would be
 * garbage that an engine lets grow to 64 MB and more before it collects.
 */
function openReader(stream: ReadableStream<Uint8Array>): ChunkReader {
  let reader: ReadableStreamBYOBReader;
  try {
    reader = stream.getReader({ mode: 'byob' });
  } catch {
    const chunks = stream.getReader();
    return { read: async () => (await chunks.read()).value, cancel: () => chunks.cancel() };
  }
  let buffer = new ArrayBuffer(readBytes);
  return {
    async read() {
      const { value } = await reader.read(new Uint8Array(buffer));
      if (!value) return undefined;
      buffer = value.buffer;
      return value.byteLength > 0 ? value : undefined;
    },
    cancel: () => reader.cancel(),
  };
}

/** What is left of a stream: a browser keeps a Blob outside the page's heap, a large one on disk. */
async function blobOf(chunks: AsyncIterable<Uint8Array>): Promise<Blob> {
  const parts: BlobPart[] = [];
  for await (const chunk of chunks) parts.push(new Blob([chunk as Uint8Array<ArrayBuffer>]));
  return new Blob(parts);
}

/** A file whose first `begin` bytes are gone. */
function drained(begin: number, blob: Blob, name: string): ByteSource {
  const { read, close } = fromBlob(blob, name);
  return { name, size: begin + blob.size, read: (from, to) => read(from - begin, to - begin), close };
}

/** The file with its size known; throws `bad_argument` when nothing tells it. */
export async function sized(source: ByteSource): Promise<ByteSource> {
  if (source.size !== undefined) return source;
  if (source.withSize) return source.withSize();
  throw new HeddleError('bad_argument', `${source.name}: the size is not known; give { stream, size }`);
}

/** A response's body. Its Content-Length counts the compressed bytes when there is a Content-Encoding, and is then no size. */
function fromResponse(response: Response, name: string, signal?: AbortSignal): ByteSource {
  if (!response.ok) throw new HeddleError('bad_file', `${name}: the server answered ${response.status} ${response.statusText}`.trim());
  if (!response.body) return fromBytes(new Uint8Array(0), name);
  const length = response.headers.get('content-length');
  const size = length !== null && response.headers.get('content-encoding') === null ? Number(length) : undefined;
  return fromStream(response.body, name, { size, signal, measure: () => sizeByRange(response.url, signal) });
}

/**
 * A file's size from a request for its first byte: a server that compresses on the way says no other. Past the browser's cache, which may hold the
 * compressed bytes by now and answer with their number.
 */
async function sizeByRange(url: string, signal: AbortSignal | undefined): Promise<number | undefined> {
  if (!/^https?:/.test(url)) return undefined;
  const response = await fetch(url, { headers: { range: 'bytes=0-0' }, cache: 'no-store', ...(signal && { signal }) }).catch(() => undefined);
  await response?.body?.cancel();
  const whole = response?.status === 206 && response.headers.get('content-encoding') === null;
  const total = whole ? /\/(\d+)$/.exec(response.headers.get('content-range') ?? '') : null;
  return total ? Number(total[1]) : undefined;
}

async function fetched(url: string | URL, signal: AbortSignal | undefined): Promise<Response> {
  try {
    return await fetch(url, signal ? { signal } : {});
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    const cause = error instanceof Error && error.cause !== undefined ? ` (${messageOf(error.cause)})` : '';
    throw new HeddleError('bad_file', `cannot fetch ${String(url)}: ${messageOf(error)}${cause}`, { cause: error });
  }
}

async function fromUrl(url: string | URL, signal: AbortSignal | undefined): Promise<ByteSource> {
  if (isFileUrl(url)) return fromPath(new URL(url));
  return fromResponse(await fetched(url, signal), String(url), signal);
}

function isFileUrl(url: string | URL): boolean {
  return String(url).startsWith('file:') && isNode();
}

/** `https://…`, `blob:…`, `data:…`; a drive letter is no scheme. */
function isUrl(text: string): boolean {
  return /^[a-z][a-z0-9+.-]+:/i.test(text);
}

/** Whether the string is the file itself rather than where it lies. */
function isText(text: string): boolean {
  return /^\uFEFF?\s*\{/.test(text);
}

function isSizedStream(input: object): input is SizedStream {
  return 'stream' in input && input.stream instanceof ReadableStream && 'size' in input && typeof input.size === 'number';
}

/** Opens one file; `name` is for messages where it has none of its own. */
export async function openFile(input: FileInput, signal?: AbortSignal, name?: string): Promise<ByteSource> {
  if (typeof input === 'string') {
    if (input === '') throw notAFile(input, name ?? 'source');
    if (isText(input)) return fromBytes(new TextEncoder().encode(input), name ?? 'the text given');
    return isNode() && !isUrl(input) ? fromPath(input) : fromUrl(input, signal);
  }
  if (input instanceof URL) return fromUrl(input, signal);
  if (input instanceof ArrayBuffer || isSharedBuffer(input)) return fromBytes(new Uint8Array(input), name ?? 'the bytes given');
  if (ArrayBuffer.isView(input)) return fromBytes(new Uint8Array(input.buffer, input.byteOffset, input.byteLength), name ?? 'the bytes given');
  if (input instanceof Blob) return fromBlob(input, name ?? 'the blob given');
  if (input instanceof Response) return fromResponse(input, input.url || (name ?? 'the response given'), signal);
  if (input instanceof ReadableStream) return fromStream(input, name ?? 'the stream given', { signal });
  if (typeof input === 'object' && input !== null && isSizedStream(input)) return fromStream(input.stream, name ?? 'the stream given', { size: input.size, signal });
  throw notAFile(input, name ?? 'source');
}

function isSharedBuffer(input: unknown): input is SharedArrayBuffer {
  return typeof SharedArrayBuffer !== 'undefined' && input instanceof SharedArrayBuffer;
}

// ---- Kinds of FileSet ----

/** Files that may be missing: a server's 404, or its page for everything that is not there, count as missing. */
function folderUrl(base: URL, signal: AbortSignal | undefined): FileSet {
  const reasons = new Map<string, string>();
  const open = async (name: string): Promise<ByteSource | undefined> => {
    const url = new URL(name, base);
    const response = await fetched(url, signal);
    const isPage = response.headers.get('content-type')?.startsWith('text/html') ?? false;
    if (!isPage && response.status !== 404 && response.status !== 403) return fromResponse(response, url.href, signal);
    reasons.set(name, `${url.href}: the server answered ${response.status} ${response.statusText}`.trim() + (response.ok ? ' with a page of HTML' : ''));
    await response.body?.cancel();
    return undefined;
  };
  return { where: 'in the folder', open, list: async () => undefined, why: (name) => reasons.get(name) };
}

function folderPath(path: string | URL): FileSet {
  const list = (): Promise<string[]> => nodeFiles().readdir(path);
  const open = async (name: string): Promise<ByteSource | undefined> => {
    if (!(await list()).includes(name)) return undefined;
    return fromPath(path instanceof URL ? new URL(encodeURIComponent(name), path) : `${path.replace(/[/\\]+$/, '')}/${name}`);
  };
  return { where: `in ${String(path)}`, open, list };
}

function fileMap(files: Map<string, FileInput>, signal: AbortSignal | undefined): FileSet {
  return {
    where: 'among the files given',
    open: async (name) => {
      const input = files.get(name);
      return input === undefined ? undefined : openFile(input, signal, name);
    },
    list: async () => [...files.keys()],
  };
}

async function isFolder(path: string | URL): Promise<boolean> {
  try {
    return (await nodeFiles().stat(path)).isDirectory();
  } catch {
    return false; // opening it says what is wrong
  }
}

function baseUrl(text: string): URL {
  const page = (globalThis as { document?: { baseURI?: string } }).document?.baseURI ?? (globalThis as { location?: { href?: string } }).location?.href;
  return new URL(text, page);
}

/** Opens what the caller gave as a model: several files, or a single one. */
export async function openSource(input: SourceInput, signal?: AbortSignal): Promise<FileSet | ByteSource> {
  if (typeof input === 'string' || input instanceof URL) {
    const text = String(input);
    const onDisk = isNode() && (isFileUrl(input) || (typeof input === 'string' && !isUrl(input) && !isText(input)));
    if (onDisk) {
      const place = isFileUrl(input) ? new URL(text.endsWith('/') ? text : `${text}/`) : text;
      return (await isFolder(place)) ? folderPath(place) : openFile(input, signal);
    }
    return text.endsWith('/') && !isText(text) ? folderUrl(baseUrl(text), signal) : openFile(input, signal);
  }
  if (Array.isArray(input)) {
    checkFiles(input, 'source');
    return fileMap(new Map(input.map((file) => [file.name, file])), signal);
  }
  if (isRecord(input)) return fileMap(new Map(Object.entries(input)), signal);
  return openFile(input as FileInput, signal);
}

/** A plain object of files: nothing that is a file itself. */
function isRecord(input: unknown): input is { readonly [name: string]: FileInput } {
  return isPlainObject(input) && !isSizedStream(input);
}

// ---- Reading whole small files ----

/** All bytes of a file that is small by nature: a description, a tokenizer, an adapter. Closes it. */
export async function readAll(source: ByteSource): Promise<Uint8Array> {
  try {
    return await readRange(source, 0, source.size ?? Number.POSITIVE_INFINITY);
  } finally {
    await source.close();
  }
}

/** Bytes [begin, end) of it in one piece. */
export async function readRange(source: ByteSource, begin: number, end: number): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let n = 0;
  for await (const chunk of source.read(begin, end)) {
    chunks.push(chunk.slice());
    n += chunk.byteLength;
  }
  if (chunks.length === 1 && chunks[0]) return chunks[0];
  const all = new Uint8Array(n);
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

export function isByteSource(opened: FileSet | ByteSource): opened is ByteSource {
  return 'read' in opened;
}
