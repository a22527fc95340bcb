/**
 * heddle/worker: the same runtime, in a worker of its own. A page's thread stays free, and threads are allowed there.
 *
 * Every name and type is that of `heddle`; only the synchronous calls (`LoadNetworkFromString`, `ForwardCPU`, `…Sync`) need a
 * runtime in this thread. ArrayBuffers given to `loadModel` and `loadAdapter` are moved to the worker, not copied: they are empty
 * afterwards.
 */
import { checkOptions, fetchOptions, initOptions, jsonText, loadOptions, seedOptions } from './arguments.js';
import { compileModule } from './compile.js';
import { HeddleError } from './errors.js';
import type { PageWorker } from './globals.js';
import { connect } from './remote.js';
import type { Answer, Connection } from './remote.js';
import { RemoteModel } from './remote-model.js';
import { RemoteWeights } from './remote-weights.js';
import { sayOnce } from './notices.js';
import { sendableFile, sendableJson, sendableSource } from './sendable.js';
import type { FetchOptions, FileInfo, InitOptions, LoadOptions, MemoryEstimate, Model, ModuleName, Runtime, SourceInput, WasmInput, Weights } from './types.js';

export interface WorkerOptions extends InitOptions {
  /** Where the worker's program lies, when a bundler has moved it, or a worker already made from it (browsers). */
  worker?: string | URL | PageWorker;
}

class RemoteRuntime implements Runtime {
  readonly variant: Runtime['variant'];
  readonly threads: number;
  readonly notices: readonly string[];
  readonly #connection: Connection;

  constructor(connection: Connection, started: { variant: Runtime['variant']; threads: number }, notices: string[]) {
    this.#connection = connection;
    this.variant = started.variant;
    this.threads = started.threads;
    this.notices = notices;
  }

  async loadModel(source: SourceInput, options: LoadOptions = {}): Promise<Model> {
    return new RemoteModel(this.#connection, await this.#load('loadModel', source, options));
  }

  async estimate(source: SourceInput, options: LoadOptions = {}): Promise<MemoryEstimate> {
    return (await this.#load('estimate', source, options)).value as MemoryEstimate;
  }

  async #load(method: string, source: SourceInput, options: LoadOptions): Promise<Answer> {
    checkOptions(options, loadOptions);
    const { progress, signal, config, ...rest } = withoutFetch(options);
    signal?.throwIfAborted();
    const transfer: Transferable[] = [];
    const sent = await sendableSource(source, transfer);
    const description = config === undefined ? {} : { config: await sendableJson(config, transfer, 'config') };
    return this.#connection.call(0, method, [sent, { ...rest, ...description }], { transfer, signal, progress: progress as ((value: unknown) => void) | undefined });
  }

  async buildNetwork(spec: object | string, options: { seed?: number } = {}): Promise<Model> {
    checkOptions(options, seedOptions);
    return new RemoteModel(this.#connection, await this.#connection.call(0, 'buildNetwork', [jsonText(spec, 'spec'), options]));
  }

  async inspect(source: SourceInput, options: FetchOptions = {}): Promise<FileInfo> {
    return (await this.#open('inspect', source, options)).value as FileInfo;
  }

  async openWeights(source: SourceInput, options: FetchOptions = {}): Promise<Weights> {
    return new RemoteWeights(this.#connection, await this.#open('openWeights', source, options));
  }

  async #open(method: string, source: SourceInput, options: FetchOptions): Promise<Answer> {
    checkOptions(options, fetchOptions);
    const { signal, ...rest } = withoutFetch(options);
    signal?.throwIfAborted();
    const transfer: Transferable[] = [];
    return this.#connection.call(0, method, [await sendableSource(source, transfer), rest], { transfer, signal });
  }

  /** Ends the worker, and every model in it. */
  async free(): Promise<void> {
    this.#connection.end('the runtime was freed');
  }

  [Symbol.dispose](): void {
    this.#connection.end('the runtime was freed');
  }
}

/** A function stays in its thread. */
function withoutFetch<T extends FetchOptions>(options: T): T {
  if (options.fetch !== undefined) throw new HeddleError('unsupported', 'fetch: a function cannot go to the worker; give headers, or the Response (or stream) that it made, or use a runtime in this thread');
  return options;
}

/** Starts a runtime in a worker. */
export async function init(options: WorkerOptions = {}): Promise<Runtime> {
  checkOptions(options, { ...initOptions, worker: () => undefined });
  const { worker, log, wasm, poolWorker, ...rest } = options;
  const notices: string[] = [];
  const connection = connect(worker, {
    notice(text) {
      notices.push(text);
      sayOnce(text, log);
    },
    async module(name) {
      if (typeof wasm !== 'function') throw new HeddleError('bad_state', 'no function gives modules');
      return sendableModule(await wasm(name as ModuleName));
    },
  });
  try {
    const given = typeof wasm === 'function' ? { askForModule: true } : wasm === undefined ? {} : { wasm: await sendableModule(await wasm) };
    const pool = poolWorker === undefined ? {} : { poolWorker: await sendableFile(poolWorker, []) };
    const { value } = await connection.call(0, 'init', [{ ...rest, ...given, ...pool }]);
    return new RemoteRuntime(connection, value as { variant: Runtime['variant']; threads: number }, notices);
  } catch (error) {
    connection.end('the runtime did not start');
    throw error;
  }
}

/** A module as it may be posted: an address as it is, anything else compiled. */
async function sendableModule(wasm: WasmInput): Promise<unknown> {
  return typeof wasm === 'string' || wasm instanceof URL ? sendableFile(wasm, []) : compileModule(wasm);
}

export { computeCorrelation, computeSilhouetteScore, kmeansCluster } from './analysis.js';
export type { Clustering, RowsInput } from './analysis.js';
export { createToolDefinition, formatToolResponse, parseAssistant } from './assistant.js';
export type { AssistantText, ToolCall, ToolDefinition } from './assistant.js';
export { openCache } from './cache.js';
export type { ModelCache } from './cache.js';
export { Chat, ChatTurn } from './chat.js';
export type { ChatOptions, ChatReply } from './chat.js';
export { HeddleError } from './errors.js';
export { SimpleTokenizer, createAttentionMask, padSequence } from './simple-text.js';
export type { PaddedSequences } from './simple-text.js';
export type { ErrorCode } from './errors.js';
export type { ChatMessage, ChatTemplateOptions } from './chat-template.js';
export type { TokenizerFiles } from './tokenizer-files.js';
export type { GgufMetadata } from './tokenizer-gguf.js';
export * from './schedulers.js';
export { weightSizes } from './sizes.js';
export type { WeightSize, WeightSizes } from './sizes.js';
export type * from './types.js';
