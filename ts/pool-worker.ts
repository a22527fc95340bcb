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
    if (exports.__stack_pointer) exports.__stack_pointer.value = start.stackTop;
    if (start.tls !== 0) exports.__wasm_init_tls?.(start.tls);
    answer({});
    exports.w_pool_enter(start.thread);
  } catch (error) {
    answer({ problem: error instanceof Error ? error.message : String(error) });
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
