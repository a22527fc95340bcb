/**
 * pool.ts: the threads of one instance. Each is a worker that gets the compiled module and the memory, enters the core and waits for
 * work there until the pool stops (src/base/pool.c). A thread that does not come is done without.
 */
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import { isNode, nodeThreads } from './host.js';
import type { ThreadStart } from './pool-worker.js';

/** How long all threads together may take to come. */
const startSeconds = 10;

const stackBytes = 256 << 10;

/** A worker of either kind. */
interface PoolWorker {
  post(message: ThreadStart): void;
  /** Calls back once: undefined when the thread is about to enter, else what went wrong. */
  onAnswer(answer: (problem: string | undefined) => void): void;
  /** From now on the worker does not keep the process alive. */
  detach(): void;
  end(): void;
}

function browserWorker(program: string | URL | undefined): PoolWorker {
  // The literal form is what bundlers recognise.
  const worker = program === undefined ? new Worker(new URL('./pool-worker.js', import.meta.url), { type: 'module' }) : new Worker(program, { type: 'module' });
  return {
    post: (message) => worker.postMessage(message),
    onAnswer: (answer) => {
      worker.onmessage = (event: MessageEvent<unknown>) => answer(problemIn(event.data));
      worker.onerror = (event) => answer(event.message || 'the worker program could not be loaded');
    },
    detach: () => undefined,
    end: () => worker.terminate(),
  };
}

function nodeWorker(program: string | URL | undefined): PoolWorker {
  const threads = nodeThreads();
  if (!threads) throw new HeddleError('unsupported', 'this host has no worker_threads');
  const own = './pool-worker.js'; // no literal: bundlers should leave it alone
  const worker = new threads.Worker(new URL(program ?? own, import.meta.url), { name: 'heddle pool', execArgv: [] });
  return {
    post: (message) => worker.postMessage(message),
    onAnswer: (answer) => {
      worker.on('message', (message) => answer(problemIn(message)));
      worker.on('error', (error) => answer(error.message));
      worker.on('exit', (status) => answer(`the worker ended with status ${status}`));
    },
    detach: () => worker.unref(),
    end: () => void worker.terminate(),
  };
}

function problemIn(message: unknown): string | undefined {
  return typeof message === 'object' && message !== null && 'problem' in message ? String(message.problem) : undefined;
}

/**
 * Gives the instance `threads` − 1 threads besides the caller's and waits until they have entered. Those that have not after ten
 * seconds, or failed, are left out: `notice` says so. The threads end when the instance is freed.
 */
export async function startPool(core: Core, threads: number, program: string | URL | undefined, notice: (text: string) => void): Promise<void> {
  const workers: PoolWorker[] = [];
  core.onFree = () => {
    if (core.alive) core.call((x) => x.w_pool_stop());
    for (const worker of workers) worker.end();
  };
  core.check((x) => x.w_pool_start(threads));
  const problems: string[] = [];
  const comings: Promise<void>[] = [];
  for (let thread = 1; thread < threads; thread++) {
    try {
      const worker = isNode() ? nodeWorker(program) : browserWorker(program);
      workers.push(worker);
      comings.push(enter(core, worker, thread).catch((error: Error) => void problems.push(error.message)));
    } catch (error) {
      problems.push(error instanceof Error ? error.message : String(error));
    }
  }
  await within(startSeconds, Promise.all(comings));
  // A thread answers just before it enters; the entering itself takes no time worth naming.
  const expected = threads - problems.length;
  for (let i = 0; i < 200 && core.alive && core.call((x) => x.w_pool_threads()) < expected; i++) await pause(1);
  for (const worker of workers) worker.detach();
  const found = core.call((x) => x.w_pool_threads());
  if (found < threads) notice(`${found} of ${threads} threads: ${problems[0] ?? `the others did not start in ${startSeconds} s`}`);
}

function enter(core: Core, worker: PoolWorker, thread: number): Promise<void> {
  return new Promise((done, fail) => {
    worker.onAnswer((problem) => (problem === undefined ? done() : fail(new Error(problem))));
    // Never given back one by one: they die with the instance, and with them the threads that run on them.
    const stack = core.heap.alloc(stackBytes);
    const tls = core.tlsBytes === 0 ? 0 : core.heap.alloc(core.tlsBytes);
    worker.post({ module: core.module, memory: core.memory, thread, stackTop: stack + stackBytes, tls });
  });
}

/** Waits for it, but not longer than that. */
function within(seconds: number, coming: Promise<unknown>): Promise<void> {
  return new Promise((done) => {
    const timer = setTimeout(done, seconds * 1000);
    void coming.finally(() => {
      clearTimeout(timer);
      done();
    });
  });
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((done) => setTimeout(done, milliseconds));
}
