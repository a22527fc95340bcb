/**
 * core.ts: one running instance of the C core: its exports (src/wasm.c), its heap, and whether it still lives.
 *
 * Every call goes through `call` or `check`. A trap may leave anything half done, so it is the end of the instance: from then on
 * every call throws `bad_state` and says why.
 */
import { HeddleError, errorFromStatus, messageOf } from './errors.js';
import type { WasmGlobal, WasmMemory, WasmModule } from './globals.js';
import { Heap } from './memory.js';
import type { HeapExports, Values } from './memory.js';
import { start } from './loader.js';

type Pointer = number;
type Status = number;

/** The exports of src/exports.txt, one by one. A test compares the three lists. */
export interface CoreExports extends HeapExports {
  w_error(): Pointer;
  w_dtype_name(dtype: number): Pointer;
  w_status_name(status: number): Pointer;
  w_widen(dtype: number, bytes: Pointer, nBytes: number, values: Pointer, n: number): Status;
  w_narrow(dtype: number, values: Pointer, n: number, bytes: Pointer, nBytes: number): Status;
  w_dtype_holds(to: number, from: number): number;

  w_reader_new(fileBytes: number): Status;
  w_reader_wants(reader: Pointer): number;
  w_reader_give(reader: Pointer, bytes: Pointer, n: number): Status;
  w_reader_finish(reader: Pointer): Status;
  w_reader_free(reader: Pointer): void;
  w_directory_detect(directory: Pointer, config: Pointer, nConfig: number): Status;
  w_directory_free(directory: Pointer): void;
  w_directory_count(directory: Pointer): number;
  w_directory_entry(directory: Pointer, index: number): void;
  w_directory_metadata(directory: Pointer, index: number): number;
  w_directory_format(directory: Pointer): Pointer;
  w_directory_config_tensor(directory: Pointer, index: number): number;
  w_directory_config(directory: Pointer, tensor: Pointer, n: number): Status;

  w_loader_new(dtype: number): Status;
  w_loader_free(loader: Pointer): void;
  w_loader_describe(loader: Pointer, json: Pointer, n: number): Status;
  w_loader_estimate(loader: Pointer, directory: Pointer): Status;
  w_loader_session(loader: Pointer, rows: number, context: number): Status;
  w_loader_add(loader: Pointer, directory: Pointer): Status;
  w_loader_count(loader: Pointer): number;
  w_loader_settle(loader: Pointer): Status;
  w_loader_before(loader: Pointer, index: number): number;
  w_loader_tensor(loader: Pointer, index: number): void;
  w_tensor_begin(loader: Pointer, index: number): Status;
  w_tensor_write(loader: Pointer, bytes: Pointer, n: number): Status;
  w_tensor_end(loader: Pointer): Status;
  w_loader_finish(loader: Pointer): Status;

  w_mlx_to_safetensors(text: Pointer, nText: number): Status;
  w_mlx_from_safetensors(file: Pointer, nFile: number, config: Pointer, nConfig: number, pretty: number): Status;
  w_mlx_list(text: Pointer, nText: number): Status;
  w_model_load_bundle(text: Pointer, n: number, id: Pointer): Status;
  w_model_build(json: Pointer, n: number, seed: number): Status;
  w_model_save_bundle(model: Pointer, id: Pointer, dtype: Pointer): Status;
  w_model_save_quantized(model: Pointer, id: Pointer, dtype: Pointer, zeroPoint: number, perTensor: number, scale: number, givenZeroPoint: number): Status;
  w_model_save_weights(model: Pointer, dtype: number): Status;
  w_model_save_torch(model: Pointer, dtype: number, checkpoint: Pointer, nCheckpoint: number): Status;
  w_model_load_state(model: Pointer, file: Pointer, n: number, prefix: Pointer, strict: number): Status;
  w_gguf_serialize(json: Pointer, nJson: number, values: Pointer, nValues: number, metadata: Pointer, nMetadata: number): Status;
  w_model_save_gguf(model: Pointer, dtype: number, config: Pointer, nConfig: number, metadata: Pointer, nMetadata: number): Status;
  w_outline_new(format: Pointer, json: Pointer, nJson: number, metadata: Pointer, nMetadata: number): Status;
  w_outline_free(outline: Pointer): void;
  w_outline_tensor(outline: Pointer, index: number): number;
  w_outline_piece(outline: Pointer, index: number, checksum: number): Status;
  w_safetensors_serialize(json: Pointer, nJson: number, values: Pointer, nValues: number): Status;
  w_model_free(model: Pointer): Status;
  w_model_describe(model: Pointer): Status;
  w_model_read_weight(model: Pointer, name: Pointer, values: Pointer, n: number): Status;
  w_model_write_weight(model: Pointer, name: Pointer, values: Pointer, n: number): Status;
  w_text_free(text: Pointer): void;

  w_session_new(model: Pointer, mode: number, dtype: number, nDims: number, dims: Pointer, context: number, outputRows: number): Status;
  w_session_free(session: Pointer): void;
  w_session_input(session: Pointer): Status;
  w_forward(session: Pointer, rows: number): Status;
  w_session_reserve(session: Pointer, positions: number): Status;
  w_session_position(session: Pointer): number;
  w_session_rewind(session: Pointer, position: number): Status;
  w_session_state_bytes(session: Pointer): number;
  w_session_save_state(session: Pointer, to: Pointer, n: number): Status;
  w_session_load_state(session: Pointer, from: Pointer, n: number): Status;
  w_session_output(session: Pointer): Status;
  w_session_value(session: Pointer, name: Pointer): Status;
  w_session_value_name(session: Pointer, index: number): Pointer;
  w_session_memory(session: Pointer): void;

  w_batch_new(model: Pointer, dtype: number, nDims: number, dims: Pointer, sequences: number, context: number, outputRows: number, output: Pointer): Status;
  w_batch_free(batch: Pointer): void;
  w_batch_input(batch: Pointer): Status;
  w_batch_forward(batch: Pointer, rows: number, parts: Pointer, nParts: number): Status;
  w_batch_output(batch: Pointer): Status;

  w_loss(session: Pointer, kind: number, targets: Pointer, n: number): Status;
  w_backward(session: Pointer): Status;
  w_step_sgd(session: Pointer, lr: number): Status;
  w_session_gradient(session: Pointer, weight: Pointer): Status;

  w_adapter_load(model: Pointer, config: Pointer, nConfig: number, weights: Pointer, nWeights: number): Status;
  w_adapter_free(adapter: Pointer): Status;
  w_session_use(session: Pointer, adapter: Pointer): Status;
  w_adapter_merge(model: Pointer, adapter: Pointer, sign: number, dequantize: number): Status;

  w_memory_live(): number;
  w_memory_peak(): number;
  w_pool_start(threads: number): Status;
  w_pool_enter(thread: number): void;
  w_pool_abandon(): void;
  w_pool_stop(): void;
  w_pool_threads(): number;
  w_pool_work(thread: number): number;
}

/** What a pool thread needs besides: see pool-worker.ts. */
export interface ThreadExports {
  __stack_pointer?: WasmGlobal;
  __tls_size?: WasmGlobal;
  __wasm_init_tls?(block: Pointer): void;
}

/** A tensor's values outside the heap. */
export interface Tensor {
  shape: number[];
  data: Values;
}

interface Running {
  exports: CoreExports & ThreadExports;
  heap: Heap;
  memory: WasmMemory;
}

export class Core {
  readonly module: WasmModule;
  /** The core's dtype names by number, as files write them: "F32", "BF16", "Q8_0". */
  readonly dtypes: readonly string[];
  /** Ends what runs beside the instance (its threads). */
  onFree: (() => void) | undefined;
  #running: Running | undefined;
  #death: string | undefined;

  constructor(module: WasmModule) {
    const { instance, memory } = start(module);
    const exports = instance.exports as unknown as CoreExports & ThreadExports;
    const heap = new Heap(memory, {
      w_alloc: (bytes) => this.call((x) => x.w_alloc(bytes)),
      w_free: (pointer) => {
        if (this.alive) this.call((x) => x.w_free(pointer));
      },
      w_transfer: () => exports.w_transfer(),
    });
    this.module = module;
    this.#running = { exports, heap, memory };
    this.dtypes = this.#names((x, i) => x.w_dtype_name(i));
  }

  #names(name: (x: CoreExports, index: number) => Pointer): string[] {
    const names: string[] = [];
    for (let pointer; (pointer = this.call((x) => name(x, names.length)) >>> 0) !== 0; ) names.push(this.heap.text(pointer));
    return names;
  }

  /** Why the instance can no longer be used; undefined while it can. */
  get death(): string | undefined {
    return this.#death;
  }

  /** Whether calls may still reach the core. */
  get alive(): boolean {
    return this.#running !== undefined && this.#death === undefined;
  }

  /** Bytes of thread-local memory a pool thread needs; 0 in a module without threads. */
  get tlsBytes(): number {
    return Number(this.#live().exports.__tls_size?.value ?? 0);
  }

  get heap(): Heap {
    return this.#live().heap;
  }

  get memory(): WasmMemory {
    return this.#live().memory;
  }

  /** Throws `bad_state` when the instance died or was freed. */
  #live(): Running {
    if (this.#running === undefined || this.#death !== undefined) throw new HeddleError('bad_state', this.#death ?? 'the instance was freed');
    return this.#running;
  }

  /** Calls the core. Throws `bad_state` when the instance died, earlier or in this call. */
  call<T>(use: (exports: CoreExports) => T): T {
    const { exports } = this.#live();
    try {
      return use(exports);
    } catch (error) {
      if (!isTrap(error)) throw error;
      this.#death = `instance died: ${messageOf(error)}`;
      throw new HeddleError('bad_state', this.#death, { cause: error });
    }
  }

  /** Calls a function that returns a status; throws what it says unless it is ok. */
  check(use: (exports: CoreExports) => Status): void {
    const status = this.call(use);
    if (status === 0) return;
    const name = this.call((x) => x.w_status_name(status)) >>> 0;
    throw errorFromStatus(name === 0 ? String(status) : this.heap.text(name), this.heap.text(this.call((x) => x.w_error()) >>> 0));
  }

  /** The handle or pointer a successful `check` left at the start of the transfer area. */
  made(use: (exports: CoreExports) => Status): Pointer {
    this.check(use);
    return this.heap.transfer(0);
  }

  /** The text a successful call left there, given back to the core. `sized`: its length lies behind it. */
  text(use: (exports: CoreExports) => Status, sized = false): string {
    const pointer = this.made(use);
    try {
      return this.heap.text(pointer, sized ? this.heap.transfer(1) : undefined);
    } finally {
      this.call((x) => x.w_text_free(pointer));
    }
  }

  /** The bytes a successful call left there, given back to the core. */
  bytes(use: (exports: CoreExports) => Status): Uint8Array<ArrayBuffer> {
    const pointer = this.made(use);
    try {
      return this.heap.bytes(pointer, this.heap.transfer(1));
    } finally {
      this.call((x) => x.w_free(pointer));
    }
  }

  /** A copy of the tensor a successful call left in the transfer area. */
  tensor(use: (exports: CoreExports) => Status): Tensor {
    this.check(use);
    const { pointer, dtype, shape } = this.heap.transferTensor();
    const n = elements(shape);
    const name = this.dtypes[dtype];
    if (name === 'F32') return { shape, data: this.heap.floats(pointer, n) };
    if (name === 'I32') return { shape, data: this.heap.ints(pointer, n) };
    throw new HeddleError('unsupported', `a value of type ${name ?? String(dtype)} cannot be read`);
  }

  /** The number of a dtype given by name in any case; −1 when there is none of that name. */
  dtypeNumber(name: string): number {
    return this.dtypes.indexOf(name.toUpperCase());
  }

  /** Memory in bytes: given out and not got back, the most so far, and what the instance holds. */
  report(): { live: number; peak: number; heap: number } {
    return { live: this.call((x) => x.w_memory_live()), peak: this.call((x) => x.w_memory_peak()), heap: this.heap.byteLength };
  }

  /** Pieces of work each thread has done, the caller's first. */
  threadWork(): number[] {
    const threads = this.call((x) => x.w_pool_threads());
    return Array.from({ length: threads }, (_, i) => this.call((x) => x.w_pool_work(i)));
  }

  /** Lets go of the instance for good; what still calls it gets `bad_state`. */
  free(): void {
    this.onFree?.();
    this.onFree = undefined;
    this.#running = undefined;
  }
}

export function elements(shape: readonly number[]): number {
  return shape.reduce((product, size) => product * size, 1);
}

/** A stack overflow in WebAssembly is a RangeError in some engines. */
function isTrap(error: unknown): boolean {
  return error instanceof WebAssembly.RuntimeError || (error instanceof RangeError && /call stack/i.test(error.message));
}
