/**
 * worker-host.ts: the program of the worker behind `heddle/worker`: a runtime of its own, and a table of the objects the page knows by
 * number.
 */
import { moduleUrl } from './assets.js';
import { HeddleError, errorFromPlain, errorToPlain } from './errors.js';
import { nodeThreads, seconds } from './host.js';
import { LocalModel } from './model.js';
import { startPool } from './pool.js';
import { buffersOf, isReference } from './protocol.js';
import type { FromWorker, Made, ObjectState, ToWorker, TokenBatch } from './protocol.js';
import { startRuntime } from './runtime.js';
import { LocalAdapter, LocalSession } from './session.js';
import type { GeneratedToken, Generation, InitOptions, ModuleName, WasmInput, WeightTensor } from './types.js';
import { LocalWeights } from './weights.js';

/** A batch of tokens is what was made in so many seconds: fewer messages than tokens, more often than a page paints. */
const batchSeconds = 0.012;

const objects = new Map<number, object>();
const parents = new Map<number, number>();
const aborts = new Map<number, AbortController>();
const wanted = new Map<number, { done: (wasm: WasmInput) => void; fail: (error: Error) => void }>();
let nextHandle = 1;
let nextRequest = 1;

/** A generation the page pulls from. */
class Pull {
  constructor(
    readonly generation: Generation,
    readonly abort: AbortController,
    /** The session it is written into, where that is the page's. */
    readonly session?: LocalSession,
  ) {}

  /** Some tokens, at least one unless it has ended. */
  async pull(): Promise<TokenBatch> {
    const start = seconds();
    const tokens: GeneratedToken[] = [];
    do {
      const { done, value } = await this.generation.next();
      if (done) return { tokens, usage: this.generation.usage, position: this.session?.position };
      tokens.push(value);
    } while (seconds() - start < batchSeconds);
    return { tokens, position: this.session?.position };
  }

  async free(): Promise<void> {
    await this.generation.return?.();
  }
}

// ---- Messages ----

const port = nodeThreads()?.parentPort;
const scope = globalThis as unknown as {
  onmessage: ((event: MessageEvent<ToWorker>) => void) | null;
  postMessage(message: FromWorker, transfer?: Transferable[]): void;
};

function post(message: FromWorker, transfer: Transferable[] = []): void {
  if (port) port.postMessage(message, transfer);
  else scope.postMessage(message, transfer);
}

if (port) port.on('message', (message) => receive(message as ToWorker));
else scope.onmessage = (event) => receive(event.data);

function receive(message: ToWorker): void {
  switch (message.kind) {
    case 'call':
      void answer(message);
      break;
    case 'abort': {
      const pull = message.target === undefined ? undefined : objects.get(message.target);
      if (pull instanceof Pull) pull.abort.abort();
      if (message.call !== undefined) aborts.get(message.call)?.abort();
      break;
    }
    case 'module': {
      const waiting = wanted.get(message.request);
      wanted.delete(message.request);
      if (message.error) waiting?.fail(errorFromPlain(message.error));
      else waiting?.done(message.wasm as WasmInput);
      break;
    }
  }
}

async function answer({ call, target, method, args, progress }: ToWorker & { kind: 'call' }): Promise<void> {
  const abort = new AbortController();
  aborts.set(call, abort);
  try {
    const extras = { signal: abort.signal, ...(progress && { progress: (value: unknown) => post({ kind: 'progress', call, value }) }) };
    const result = await perform(target, method, args.map(resolved), extras);
    const value = keep(result, method === 'fork' ? (parents.get(target) ?? 0) : target);
    const state = stateOf(isObject(result) ? result : objects.get(target), method);
    if (method === 'free') forget(target);
    post({ kind: 'reply', call, value, ...(state && { state }) }, buffersOf(value));
  } catch (error) {
    const state = stateOf(objects.get(target), method);
    post({ kind: 'failure', call, error: errorToPlain(error), ...(state && { state }) });
  } finally {
    aborts.delete(call);
  }
}

// ---- Objects ----

function isObject(value: unknown): value is LocalModel | LocalSession | LocalAdapter | LocalWeights | Pull {
  return value instanceof LocalModel || value instanceof LocalWeights || value instanceof LocalSession || value instanceof LocalAdapter || value instanceof Pull;
}

/** References become objects, in arguments, in lists of them and one level into options. */
function resolved(argument: unknown): unknown {
  if (isReference(argument)) return objects.get(argument.heddle);
  if (Array.isArray(argument) && argument.some(isReference)) return argument.map(resolved);
  if (typeof argument !== 'object' || argument === null || Object.getPrototypeOf(argument) !== Object.prototype) return argument;
  return Object.fromEntries(Object.entries(argument).map(([key, value]) => [key, isReference(value) ? objects.get(value.heddle) : value]));
}

/** Calls whose options may have a signal. */
const takesSignal: ReadonlySet<string> = new Set(['inspect', 'openWeights', 'estimate', 'embed', 'classify', 'classifyTokens']);

async function perform(target: number, method: string, args: unknown[], extras: { signal: AbortSignal }): Promise<unknown> {
  if (target === 0 && method === 'init') return start((args[0] ?? {}) as InitOptions);
  const object = objects.get(target);
  if (!object) throw new HeddleError('bad_state', 'it was freed');
  if ((object instanceof LocalModel || object instanceof LocalSession) && method === 'generate') {
    const abort = new AbortController();
    const generation = object.generate(args[0] as string | number[], { ...(args[1] as object), signal: abort.signal });
    return new Pull(generation, abort, object instanceof LocalSession ? object : undefined);
  }
  if (object instanceof LocalModel && method === 'decodeTogether') {
    const sessions = args[0] as LocalSession[];
    await object.decodeTogether(sessions, args[1] as number[][]);
    return sessions.map((session) => stateOf(session, method));
  }
  if (object instanceof LocalWeights) return method === 'free' ? object.close() : ownTensor(await object.tensor(args[0] as string, args[1] as object));
  if (takesSignal.has(method)) args[1] = { ...(args[1] as object), signal: extras.signal };
  if (method === 'loadModel') args[1] = { ...(args[1] as object), ...extras };
  const found = (object as Record<string, ((...args: unknown[]) => unknown) | undefined>)[method];
  if (typeof found !== 'function') throw new HeddleError('bad_argument', `the worker has no ${method}: its program is of another version`);
  return found.apply(object, args);
}

/** A tensor that may be moved: one that is a view of its file's bytes is copied first. */
function ownTensor(tensor: WeightTensor): WeightTensor {
  return tensor.data.byteLength === tensor.data.buffer.byteLength ? tensor : { ...tensor, data: tensor.data.slice() };
}

/** An object stays here and is replied to as a number; anything else goes as it is. */
function keep(result: unknown, parent: number): unknown {
  if (!isObject(result)) return result;
  const handle = nextHandle++;
  objects.set(handle, result);
  parents.set(handle, parent);
  const made = result instanceof LocalModel ? 'model' : result instanceof LocalSession ? 'session' : result instanceof LocalAdapter ? 'adapter' : result instanceof LocalWeights ? 'weights' : 'generation';
  return { made, handle } satisfies Made;
}

function forget(handle: number): void {
  objects.delete(handle);
  parents.delete(handle);
  for (const [child, parent] of [...parents]) if (parent === handle && handle !== 0) forget(child);
}

function stateOf(object: object | undefined, method: string): ObjectState | undefined {
  if (object instanceof LocalWeights) return method === 'openWeights' ? { file: { format: object.format, tensors: [...object.tensors], metadata: { ...object.metadata }, bytes: object.bytes } } : undefined;
  if (object instanceof LocalSession) return object.alive ? { position: object.position, context: object.context, outputShape: object.outputShape } : undefined;
  const tells = !['forward', 'free'].includes(method);
  return object instanceof LocalModel && tells && object.threads > 0 ? { threads: object.threads, weights: object.weights } : undefined;
}

// ---- Starting ----

async function start({ askForModule, ...options }: InitOptions & { askForModule?: boolean }): Promise<unknown> {
  const ask = (name: ModuleName): Promise<WasmInput> =>
    new Promise((done, fail) => {
      const request = nextRequest++;
      wanted.set(request, { done, fail });
      post({ kind: 'want module', request, name });
    });
  const log = (text: string): void => post({ kind: 'notice', text });
  const runtime = await startRuntime({ ...options, log, ...(askForModule && { wasm: ask }) }, { asset: moduleUrl, startPool });
  objects.set(0, runtime);
  return { variant: runtime.variant, threads: runtime.threads };
}
