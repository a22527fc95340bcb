/**
 * source.ts: where bytes come from. Whatever a caller gives, a file becomes a ByteSource (bytes.ts, http.ts) and a model becomes a FileSet
 * (files by name). gzip is taken off on the way.
 */
import { checkFiles, checkOptions, expected, fetchOptions, isPlainObject, notAFile } from './arguments.js';
import { StreamSource, fromBlob, fromBytes, fromPath, inflated, readAll, readText } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { fromCacheOrUrl } from './cache.js';
import type { CachedOptions } from './cache.js';
import { HeddleError } from './errors.js';
import { isNode, nodeFiles } from './host.js';
import { fromResponse, isAbsent } from './http.js';
import type { Absence } from './http.js';
import { cachedModel, hubAddress, snapshotFolder, snapshotPrefix } from './hub.js';
import type { FetchOptions, FileInput, SizedStream, SourceInput } from './types.js';

/** How files are opened. */
export interface OpenOptions extends CachedOptions {
  /** Which branch, tag or commit of a Hugging Face model. */
  revision?: string | undefined;
  /** The file is small and will be read from begin to end. */
  whole?: boolean;
}

/** Files by name; undefined when there is none of that name. */
export interface FileSet {
  /** For messages: "in FOLDER", "among the files given". */
  readonly where: string;
  open(name: string, whole?: boolean): Promise<ByteSource | undefined>;
  /** Names of all files, where that can be known. */
  list(): Promise<readonly string[] | undefined>;
  /** Why a file that was opened is not there, where more is known. */
  why?(name: string): string | undefined;
}

/** The error for a file a model cannot do without. */
export async function missingFile(set: FileSet, name: string, hint = ''): Promise<HeddleError> {
  const why = set.why?.(name);
  const names = await set.list();
  const detail = why !== undefined ? `: ${why}` : names === undefined ? '' : names.length === 0 ? ': there are no files' : ` (${names.join(', ')})`;
  return new HeddleError('bad_file', `no ${name} ${set.where}${detail}${hint}`);
}

/** Whether it is several files. */
export function isFileSet(opened: FileSet | ByteSource): opened is FileSet {
  return 'open' in opened;
}

// ---- One file ----

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

export function isSharedBuffer(input: unknown): input is SharedArrayBuffer {
  return typeof SharedArrayBuffer !== 'undefined' && input instanceof SharedArrayBuffer;
}

async function fromUrl(address: URL, options: OpenOptions): Promise<ByteSource> {
  if (isFileUrl(address)) return fromPath(address);
  const found = await fromCacheOrUrl(address, options, options.whole);
  if (isAbsent(found)) throw new HeddleError('bad_file', found.absent);
  return found;
}

/** Opens one file; `name` is for messages where it has none of its own. */
export async function openFile(input: FileInput, options: OpenOptions = {}, name?: string): Promise<ByteSource> {
  return inflated(await openStored(input, options, name), options.signal);
}

/** The same, gzip or not as it lies. */
async function openStored(input: FileInput, options: OpenOptions, name: string | undefined): Promise<ByteSource> {
  const { signal } = options;
  if (typeof input === 'string') {
    if (input === '') throw notAFile(input, name ?? 'source');
    if (isText(input)) return fromBytes(new TextEncoder().encode(input), name ?? 'the text given');
    return isNode() && !isUrl(input) ? fromPath(input) : fromUrl(hubAddress(baseUrl(input), options.revision), options);
  }
  if (input instanceof URL) return fromUrl(hubAddress(input, options.revision), options);
  if (input instanceof ArrayBuffer || isSharedBuffer(input)) return fromBytes(new Uint8Array(input), name ?? 'the bytes given');
  if (ArrayBuffer.isView(input)) return fromBytes(new Uint8Array(input.buffer, input.byteOffset, input.byteLength), name ?? 'the bytes given');
  if (input instanceof Blob) return fromBlob(input, name ?? 'the blob given');
  if (input instanceof Response) return fromResponse(input, input.url || (name ?? 'the response given'), signal);
  if (input instanceof ReadableStream) return new StreamSource(input, name ?? 'the stream given', { signal });
  if (typeof input === 'object' && input !== null && isSizedStream(input)) return new StreamSource(input.stream, name ?? 'the stream given', { size: input.size, signal });
  throw notAFile(input, name ?? 'source');
}

// ---- Several files ----

function folderUrl(base: URL, options: OpenOptions): FileSet {
  const reasons = new Map<string, string>();
  const open = async (name: string, whole = false): Promise<ByteSource | undefined> => {
    const found: ByteSource | Absence = await fromCacheOrUrl(new URL(name, base), options, whole);
    if (!isAbsent(found)) return inflated(found, options.signal);
    reasons.set(name, found.absent);
    return undefined;
  };
  return { where: 'in the folder', open, list: async () => undefined, why: (name) => reasons.get(name) };
}

function folderPath(path: string, options: OpenOptions): FileSet {
  const list = (): Promise<string[]> => nodeFiles().readdir(path);
  const open = async (name: string): Promise<ByteSource | undefined> => {
    const full = `${path.replace(/[/\\]+$/, '')}/${name}`;
    const isThere = name.includes('/') ? await isFile(full) : (await list()).includes(name);
    return isThere ? inflated(await fromPath(full), options.signal) : undefined;
  };
  return { where: `in ${path}`, open, list };
}

async function fileMap(files: Map<string, FileInput>, options: OpenOptions): Promise<FileSet> {
  const text = async (path: string): Promise<string> => readText(await openFile(files.get(path) ?? '', options, path));
  const prefix = await snapshotPrefix([...files.keys()], options.revision, text);
  const { revision: _, ...each } = options; // it is the folder's, not that of every address
  const own = (isThere: boolean): string[] => [...files].filter(([name, file]) => name.startsWith(prefix) && (file !== undefined) === isThere).map(([name]) => name.slice(prefix.length));
  return {
    where: 'among the files given',
    open: async (name, whole = false) => {
      const input = files.get(prefix + name);
      return input === undefined ? undefined : openFile(input, { ...each, whole }, name).catch((error: unknown) => {
        throw error instanceof HeddleError && !error.message.includes(name) ? new HeddleError(error.code, `${name}: ${error.message}`) : error;
      });
    },
    list: async () => own(true),
    why: () => (own(false).length === 0 ? undefined : [...own(true), ...own(false).map((name) => `${name} is undefined`)].join(', ')),
  };
}

/** A file's path below the folder that was picked, which is the first of it; without a picker its name. */
function pathOf(file: File): string {
  const path = (file as { webkitRelativePath?: string }).webkitRelativePath ?? '';
  return path === '' ? file.name : path.slice(path.indexOf('/') + 1);
}

/** Whether it gives things one after the other, and is not the bytes or the text of one file. */
function isSequence(input: SourceInput): input is Iterable<File> {
  return typeof input === 'object' && input !== null && Symbol.iterator in input && !ArrayBuffer.isView(input);
}

/** The files of a source that is several; undefined where it is a single one. */
export function filesByName(input: SourceInput): Map<string, FileInput> | undefined {
  if (input instanceof Map) {
    for (const name of input.keys()) if (typeof name !== 'string') throw expected('source', "files' names as keys of the Map", name);
    return new Map(input as ReadonlyMap<string, FileInput>);
  }
  if (isRecord(input)) return new Map(Object.entries(input));
  if (!isSequence(input)) return undefined;
  const files: readonly unknown[] = [...input];
  checkFiles(files, 'source');
  return new Map(files.map((file) => [pathOf(file), file]));
}

async function isFile(path: string): Promise<boolean> {
  return nodeFiles().stat(path).then((found) => !found.isDirectory(), () => false);
}

async function isFolder(path: string): Promise<boolean> {
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

/** A path in Node, of a file or a folder; or a model's id, which lies in Hugging Face's cache. */
async function openPath(path: string, options: OpenOptions): Promise<FileSet | ByteSource> {
  if (await isFolder(path)) return folderPath(await snapshotFolder(path, options.revision), options);
  const cached = cachedModel(path);
  const isThere = cached === undefined || (await nodeFiles().stat(path).then(() => true, () => false));
  if (isThere) return openFile(path, options);
  if (await isFolder(cached)) return folderPath(await snapshotFolder(cached, options.revision), options);
  throw new HeddleError('bad_file', `cannot open ${path}: there is no such file or folder, nor ${cached} (fetch https://huggingface.co/${path} by its address)`);
}

/** One file at an address. A last name without an ending is a folder's more often than not, and folders end in a slash. */
async function openFileOrSay(address: URL, options: OpenOptions): Promise<ByteSource> {
  const isFolderLike = /^https?:$/.test(address.protocol) && !/\.[^/]*$/.test(address.pathname);
  return openFile(address, options).catch((error: unknown) => {
    if (!isFolderLike || !(error instanceof HeddleError) || error.code !== 'bad_file') throw error;
    throw new HeddleError('bad_file', `${error.message} (if this is a folder, its address ends in a slash: ${address.origin}${address.pathname}/)`, { cause: error });
  });
}

/** Opens what the caller gave as a model: several files, or a single one. */
export async function openSource(input: SourceInput, options: OpenOptions = {}): Promise<FileSet | ByteSource> {
  if (typeof input === 'string' || input instanceof URL) {
    const text = String(input);
    if (isFileUrl(input)) return openPath(filePath(new URL(text)), options);
    if (typeof input === 'string' && (isText(input) || input === '')) return openFile(input, options);
    if (isNode() && !isUrl(text)) return openPath(text, options);
    const address = hubAddress(baseUrl(text), options.revision);
    const { revision: _, ...rest } = options;
    return address.pathname.endsWith('/') ? folderUrl(address, rest) : openFileOrSay(address, rest);
  }
  const files = filesByName(input);
  return files ? fileMap(files, options) : openFile(input as FileInput, options);
}

/** The files beside a single one that lies at a path or an address; undefined where it lies nowhere. */
export function filesBeside(input: SourceInput, options: OpenOptions): { set: FileSet; isAddress: boolean } | undefined {
  if (!(input instanceof URL) && (typeof input !== 'string' || isText(input))) return undefined;
  const text = String(input);
  const path = isFileUrl(input) ? filePath(new URL(text)) : isNode() && !isUrl(text) ? text : undefined;
  if (path !== undefined) return { set: folderPath(/^(.*)[/\\]/.exec(path)?.[1] || (/^[/\\]/.test(path) ? '/' : '.'), options), isAddress: false };
  const { revision, ...rest } = options;
  const address = hubAddress(baseUrl(text), revision);
  return /^https?:$/.test(address.protocol) ? { set: folderUrl(new URL('.', address), rest), isAddress: true } : undefined;
}

/** A model's small files, beside its weights. */
export interface Folder {
  /** For messages: "in FOLDER", "among the files given". */
  readonly where: string;
  /** A file's text, or its bytes; undefined where there is none of that name. */
  text(name: string): Promise<string | undefined>;
  bytes(name: string): Promise<Uint8Array | undefined>;
  /** Names of all files, where that can be known: not of an address. */
  list(): Promise<readonly string[] | undefined>;
}

/** The files of a model that is several; undefined where the source is a single file. What `loadModel` takes as a folder is one. */
export async function openFolder(source: SourceInput, options: FetchOptions = {}): Promise<Folder | undefined> {
  checkOptions(options, fetchOptions);
  const opened = await openSource(source, options);
  if (!isFileSet(opened)) {
    await opened.close();
    return undefined;
  }
  const bytes = async (name: string): Promise<Uint8Array | undefined> => {
    const file = await opened.open(name, true);
    return file && readAll(file);
  };
  const text = async (name: string): Promise<string | undefined> => {
    const found = await bytes(name);
    return found && new TextDecoder().decode(found);
  };
  return { where: opened.where, text, bytes, list: () => opened.list() };
}

/** The path of a `file:` URL. */
function filePath(url: URL): string {
  const path = decodeURIComponent(url.pathname);
  return /^\/[A-Za-z]:/.test(path) ? path.slice(1) : path;
}

/** A plain object of files: nothing that is a file itself. */
function isRecord(input: unknown): input is { readonly [name: string]: FileInput } {
  return isPlainObject(input) && !isSizedStream(input);
}
