/**
 * shelf.ts: where a cache keeps its files: flat names with bytes behind them. A file is there when it was written to its end, or not at
 * all. Node has a folder; a browser its origin's private file system, and the Cache API where that cannot be written to.
 */
import { fromBlob, fromPath } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { HeddleError } from './errors.js';
import { cacheFolder, isNode, nodeFiles } from './host.js';

/** A file being written. */
export interface Sink {
  write(chunk: Uint8Array): Promise<void>;
  /** From now on it is there. */
  commit(): Promise<void>;
  /** Leaves nothing of it. */
  abandon(): Promise<void>;
}

export interface Shelf {
  /** For messages. */
  readonly where: string;
  names(): Promise<string[]>;
  open(name: string): Promise<ByteSource | undefined>;
  create(name: string): Promise<Sink>;
  remove(name: string): Promise<void>;
  /** Bytes that may still be written; undefined where nobody says. */
  room(): Promise<number | undefined>;
}

/** How the name of a file ends that is being written. */
const unfinished = '.part';

// ---- Node: a folder ----

function folderShelf(folder: string): Shelf {
  const path = (name: string): string => `${folder}/${name}`;
  return {
    where: folder,
    names: () => nodeFiles().readdir(folder).catch(() => []),
    open: (name) => fromPath(path(name)).catch(() => undefined),
    async create(name) {
      await nodeFiles().mkdir(folder, { recursive: true });
      const part = path(`${name}-${crypto.randomUUID()}${unfinished}`);
      const file = await nodeFiles().open(part, 'wx');
      let at = 0;
      return {
        async write(chunk) {
          await file.write(chunk, 0, chunk.byteLength, at);
          at += chunk.byteLength;
        },
        async commit() {
          await file.sync();
          await file.close();
          await nodeFiles().rename(part, path(name));
        },
        async abandon() {
          await file.close().catch(() => undefined);
          await nodeFiles().rm(part, { force: true });
        },
      };
    },
    remove: (name) => nodeFiles().rm(path(name), { force: true }),
    room: async () => undefined,
  };
}

// ---- Browsers: the origin's private file system ----

type Folder = FileSystemDirectoryHandle & { keys(): AsyncIterable<string> };

async function room(): Promise<number | undefined> {
  const { quota, usage } = (await navigator.storage?.estimate?.().catch(() => undefined)) ?? {};
  return quota === undefined || usage === undefined ? undefined : quota - usage;
}

/** Writing goes to a copy that takes the file's place when it is closed: a browser makes that one step. */
async function privateShelf(name: string): Promise<Shelf> {
  const root = await navigator.storage.getDirectory();
  const folder = (await root.getDirectoryHandle(name, { create: true })) as Folder;
  return {
    where: `this origin's private files (${name})`,
    async names() {
      const names: string[] = [];
      for await (const each of folder.keys()) names.push(each);
      return names;
    },
    async open(file) {
      const handle = await folder.getFileHandle(file).catch(() => undefined);
      return handle && fromBlob(await handle.getFile(), file);
    },
    async create(file) {
      const handle = await folder.getFileHandle(file, { create: true });
      const stream = await handle.createWritable();
      return {
        write: (chunk) => stream.write(chunk as Uint8Array<ArrayBuffer>),
        commit: () => stream.close(),
        async abandon() {
          await stream.abort().catch(() => undefined);
          await folder.removeEntry(file).catch(() => undefined);
        },
      };
    },
    remove: (file) => folder.removeEntry(file).catch(() => undefined),
    room,
  };
}

/** Some browsers have the file system but let only a synchronous handle write. */
function hasPrivateFiles(): boolean {
  return typeof navigator !== 'undefined' && typeof navigator.storage?.getDirectory === 'function'
    && typeof FileSystemFileHandle !== 'undefined' && typeof FileSystemFileHandle.prototype.createWritable === 'function';
}

// ---- Browsers: the Cache API ----

/** `put` takes the body as it is written, and keeps it once it has ended. */
async function responseShelf(name: string): Promise<Shelf> {
  const cache = await caches.open(name);
  const key = (file: string): string => `${location.origin}/.${name}/${file}`;
  return {
    where: `the Cache API (${name})`,
    names: async () => (await cache.keys()).map(({ url }) => url.slice(url.lastIndexOf('/') + 1)),
    async open(file) {
      const found = await cache.match(key(file));
      return found && fromBlob(await found.blob(), file);
    },
    async create(file) {
      const { readable, writable } = new TransformStream<Uint8Array, Uint8Array<ArrayBuffer>>();
      const writer = writable.getWriter();
      const put = cache.put(key(file), new Response(readable));
      put.catch((error: unknown) => writer.abort(error).catch(() => undefined));
      return {
        write: (chunk) => writer.write(chunk.slice()),
        async commit() {
          await writer.close();
          await put;
        },
        async abandon() {
          await writer.abort().catch(() => undefined);
          await put.catch(() => undefined);
          await cache.delete(key(file));
        },
      };
    },
    remove: async (file) => void (await cache.delete(key(file))),
    room,
  };
}

// ---- Choosing ----

/** Where browsers keep models: the name of a private folder, or of a cache. */
const browserName = 'heddle-models';

/** `folder`: Node's; by default `heddle/models` in the user's cache folder. */
export async function openShelf(folder: string | undefined): Promise<Shelf> {
  if (isNode()) return folderShelf((folder ?? `${cacheFolder()}/heddle/models`).replace(/[/\\]+$/, ''));
  if (folder !== undefined) throw new HeddleError('unsupported', `cache.folder '${folder}': only Node has folders; a browser keeps models with its page's origin`);
  if (hasPrivateFiles()) {
    const shelf = await privateShelf(browserName).catch(() => undefined); // private windows refuse it
    if (shelf) return shelf;
  }
  if (typeof caches !== 'undefined') return responseShelf(browserName);
  throw new HeddleError('unsupported', 'this host has nothing to keep a cache in: neither private files nor the Cache API (a page needs HTTPS for them)');
}
