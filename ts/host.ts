/**
 * host.ts: what kind of host this is and the few things that differ between hosts.
 *
 * Node's own modules are reached through `process.getBuiltinModule` (Node 20.16 and later), so that nothing a browser, a
 * bundler or an edge host loads has a `node:` import in it. The types below are the slice of Node that Heddle uses.
 */
import { HeddleError } from './errors.js';

export interface NodeFileHandle {
  stat(): Promise<{ isDirectory(): boolean; size: number }>;
  read(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ bytesRead: number }>;
  write(buffer: Uint8Array, offset: number, length: number, position: number): Promise<unknown>;
  sync(): Promise<void>;
  close(): Promise<void>;
}

export interface NodeFileSystem {
  open(path: string | URL, flags: string): Promise<NodeFileHandle>;
  readFile(path: string | URL): Promise<Uint8Array>;
  stat(path: string | URL): Promise<{ isDirectory(): boolean; size: number }>;
  writeFile(path: string | URL, data: Uint8Array | string): Promise<void>;
  readdir(path: string | URL): Promise<string[]>;
  mkdir(path: string, options: { recursive: true }): Promise<unknown>;
  rename(from: string, to: string): Promise<void>;
  rm(path: string, options: { force: true }): Promise<void>;
}

export interface NodeWorker {
  on(event: 'message', listener: (message: unknown) => void): void;
  on(event: 'error', listener: (error: Error) => void): void;
  on(event: 'exit', listener: (status: number) => void): void;
  postMessage(message: unknown, transfer?: readonly object[]): void;
  ref(): void;
  unref(): void;
  terminate(): Promise<number>;
}

export interface NodePort {
  on(event: 'message', listener: (message: unknown) => void): void;
  postMessage(message: unknown, transfer?: readonly object[]): void;
  close(): void;
}

export interface NodeThreads {
  Worker: new (program: string | URL, options?: { name?: string; execArgv?: string[] }) => NodeWorker;
  parentPort: NodePort | null;
  isMainThread: boolean;
}

interface NodeProcess {
  getBuiltinModule?(name: string): unknown;
  versions?: { node?: string };
  env?: Record<string, string | undefined>;
}

interface NodeSystem {
  availableParallelism?(): number;
  homedir(): string;
  tmpdir(): string;
}

function nodeProcess(): NodeProcess | undefined {
  const found = (globalThis as { process?: NodeProcess }).process;
  return found?.versions?.node !== undefined && typeof found.getBuiltinModule === 'function' ? found : undefined;
}

/** True in Node, and in hosts that look the same from here (Deno and Bun with their Node layers). */
export function isNode(): boolean {
  return nodeProcess() !== undefined;
}

/** Node's `fs.promises`; throws where there is none. */
export function nodeFiles(): NodeFileSystem {
  const module = nodeProcess()?.getBuiltinModule?.('node:fs/promises');
  if (!module) throw new HeddleError('unsupported', 'this host has no file system: give a URL, a Blob or bytes');
  return module as NodeFileSystem;
}

/** Node's `worker_threads`, or undefined outside Node. */
export function nodeThreads(): NodeThreads | undefined {
  return nodeProcess()?.getBuiltinModule?.('node:worker_threads') as NodeThreads | undefined;
}

/** Where a page's main thread must not be blocked: a threaded runtime may not live here. */
export function isPage(): boolean {
  return typeof document !== 'undefined' && typeof window !== 'undefined' && !isNode();
}

/** Processors the host admits to. */
export function processors(): number {
  const found = (globalThis as { navigator?: { hardwareConcurrency?: number } }).navigator?.hardwareConcurrency;
  if (typeof found === 'number' && found > 0) return found;
  return nodeSystem()?.availableParallelism?.() ?? 1;
}

function nodeSystem(): NodeSystem | undefined {
  return nodeProcess()?.getBuiltinModule?.('node:os') as NodeSystem | undefined;
}

/** A variable of Node's environment; undefined where it is not set or empty. */
export function environment(name: string): string | undefined {
  return nodeProcess()?.env?.[name] || undefined;
}

/** Where programs keep what they can fetch again: XDG_CACHE_HOME, or `.cache` in the user's folder. Node only. */
export function cacheFolder(): string {
  return environment('XDG_CACHE_HOME') ?? `${nodeSystem()?.homedir() ?? '.'}/.cache`;
}

/** A new empty file that no folder lists: it goes when it is closed, and with its process. Node only. */
export async function temporaryFile(): Promise<NodeFileHandle> {
  const path = `${nodeSystem()?.tmpdir() ?? '.'}/heddle-${crypto.randomUUID()}`;
  const file = await nodeFiles().open(path, 'wx+');
  await nodeFiles().rm(path, { force: true });
  return file;
}

/**
 * Whether threads are possible here; otherwise why not, in words for the user.
 *
 * Three things are needed: memory that can be shared, leave to post it to a worker (a page has that only when it is
 * cross-origin isolated), and workers. A page's main thread may not wait, so threads live in `heddle/worker` there.
 */
export function whyNoThreads(): string | undefined {
  const isolated = (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated;
  if (isolated === false) return 'the page is not cross-origin isolated (COOP/COEP headers)';
  if (!canShareMemory()) return 'this host does not share memory between threads';
  if (isPage()) return "a page's main thread must not wait; heddle/worker gives threads";
  if (!nodeThreads() && typeof Worker === 'undefined') return 'no worker can be made here';
  return undefined;
}

function canShareMemory(): boolean {
  if (typeof SharedArrayBuffer === 'undefined' || typeof MessageChannel === 'undefined') return false;
  const channel = new MessageChannel();
  try {
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    channel.port1.postMessage(memory.buffer);
    return memory.buffer instanceof SharedArrayBuffer;
  } catch {
    return false;
  } finally {
    channel.port1.close();
    channel.port2.close();
  }
}

/** A turn of the event loop: timers, painting and abort events happen while this is awaited. */
export function macrotask(): Promise<void> {
  const immediate = (globalThis as { setImmediate?: (run: () => void) => void }).setImmediate;
  if (immediate) return new Promise((done) => immediate(done));
  if (typeof MessageChannel === 'undefined') return new Promise((done) => setTimeout(done, 0));
  // Not setTimeout: browsers hold nested timers back by 4 ms, which would halve the speed of a small model.
  return new Promise((done) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = () => {
      channel.port1.close();
      done();
    };
    channel.port2.postMessage(null);
  });
}

/** Seconds, from any start. */
export function seconds(): number {
  return performance.now() / 1000;
}

/**
 * Gives the event loop a turn when the last one is long enough ago. Await it between pieces of work: it costs next to
 * nothing in between, and nothing keeps a page from painting or an abort from arriving for longer than `every`.
 */
export class Breather {
  #last = seconds();

  constructor(readonly every = 0.012) {}

  async breathe(): Promise<void> {
    if (seconds() - this.#last < this.every) return;
    await macrotask();
    this.#last = seconds();
  }
}
