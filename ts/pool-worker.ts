/**
 * pool-worker.ts: the program of one thread of a pool. It waits for one message, joins the instance it names and stays in the core
 * until the pool stops.
 */
import { nodeThreads } from './host.js';
import { startThread } from './loader.js';
import type { CoreExports, ThreadExports } from './core.js';

export interface ThreadStart {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  /** From 1; 0 is the caller. */
  thread: number;
  /** Stacks grow downwards. */
  stackTop: number;
  /** The thread-local block, or 0. */
  tls: number;
}

function run(start: ThreadStart, answer: (message: { problem?: string }) => void): void {
  try {
    const exports = startThread(start.module, start.memory).exports as unknown as CoreExports & ThreadExports;
    if (start.tls !== 0) exports.__wasm_init_tls?.(start.tls);
    takeStack(exports, start);
    answer({});
    enter(exports, start);
  } catch (error) {
    answer({ problem: error instanceof Error ? error.message : String(error) });
  }
}

function takeStack(exports: ThreadExports, start: ThreadStart): void {
  if (exports.__stack_pointer) exports.__stack_pointer.value = start.stackTop;
}

/** Stays until the pool stops. A trap is told to the caller, who would wait for this thread's part for ever: then it traps, too. */
function enter(exports: CoreExports & ThreadExports, start: ThreadStart): void {
  try {
    exports.w_pool_enter(start.thread);
  } catch (error) {
    takeStack(exports, start); // a trap leaves it where it was
    exports.w_pool_abandon();
    throw error;
  }
}

const port = nodeThreads()?.parentPort;
if (port) {
  port.on('message', (message) => {
    run(message as ThreadStart, (answer) => port.postMessage(answer));
    port.close();
  });
} else {
  const scope = globalThis as unknown as { onmessage: ((event: MessageEvent<ThreadStart>) => void) | null; postMessage(message: unknown): void };
  scope.onmessage = (event) => run(event.data, (answer) => scope.postMessage(answer));
}
