/**
 * loader.ts: starts a bare module: a compiled `.wasm` becomes an instance, without any generated JavaScript.
 *
 * All modules import their memory: those with threads a shared one, so that every thread gets the same.
 */
import { HeddleError, messageOf } from './errors.js';
import { systemCalls } from './memory.js';

const pageBytes = 65536;

/** Most pages, asked for in turn: some phones refuse to reserve 4 GB of shared memory. */
const maximumPages = [65536, 32768, 16384, 8192];

/** First pages, tried in turn: the module knows how many it needs, and engines do not tell. */
const initialPages = [32, 64, 128, 256, 512, 1024, 2048];

export interface Started {
  instance: WebAssembly.Instance;
  memory: WebAssembly.Memory;
}

/** Whether the module was built with threads: only those let a thread set its own stack. */
export function hasThreads(module: WebAssembly.Module): boolean {
  return WebAssembly.Module.exports(module).some((entry) => entry.name === '__stack_pointer');
}

/** Starts the module with memory of its own. */
export function start(module: WebAssembly.Module): Started {
  let refusal: unknown;
  for (const initial of initialPages) {
    const memory = newMemory(initial, hasThreads(module));
    try {
      const instance = new WebAssembly.Instance(module, importsFor(module, memory));
      (instance.exports as { _initialize?: () => void })._initialize?.();
      return { instance, memory };
    } catch (error) {
      if (!(error instanceof WebAssembly.LinkError)) throw error;
      refusal = error;
    }
  }
  throw new HeddleError('unsupported', `the module cannot be started: ${messageOf(refusal)}`, { cause: refusal });
}

/** Another thread's instance over the same memory. `_initialize` is not called: the first thread did that for all. */
export function startThread(module: WebAssembly.Module, memory: WebAssembly.Memory): WebAssembly.Instance {
  return new WebAssembly.Instance(module, importsFor(module, memory));
}

function newMemory(initial: number, shared: boolean): WebAssembly.Memory {
  let refusal: unknown;
  for (const maximum of maximumPages) {
    try {
      return new WebAssembly.Memory({ initial, maximum, shared });
    } catch (error) {
      refusal = error;
    }
  }
  const bytes = (maximumPages.at(-1) ?? 0) * pageBytes;
  throw new HeddleError('out_of_memory', `the host refused to reserve even ${bytes} bytes: ${messageOf(refusal)}`, { cause: refusal });
}

/** Just what the module asks for, nothing else; a module that asks for something unknown is not one of Heddle's. */
function importsFor(module: WebAssembly.Module, memory: WebAssembly.Memory): WebAssembly.Imports {
  const known: Record<string, (...args: (number | bigint)[]) => unknown> = {
    ...systemCalls(memory),
    emscripten_notify_memory_growth: () => undefined,
    __do_set_thread_state: () => undefined,
  };
  const imports: Record<string, Record<string, WebAssembly.ImportValue>> = {};
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module)) {
    const value = kind === 'memory' ? memory : kind === 'function' ? known[name] : undefined;
    if (value === undefined) throw new HeddleError('unsupported', `the module wants ${kind} ${from}.${name}, which Heddle does not know`);
    (imports[from] ??= {})[name] = value;
  }
  return imports;
}
