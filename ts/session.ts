/**
 * session.ts: one timeline over a model, in this thread. types.ts says what each call means.
 *
 * The asynchronous calls are the synchronous ones, so that the same program runs on a worker's runtime; `forwardSync` and
 * its like are for where a promise would cost more than the network.
 */
import { checkCount, checkFinite, checkNumbers, checkOptions, checkShape, checkText, checkWholeNumbers, lossOptions, shown, trainOptions } from './arguments.js';
import { elements } from './core.js';
import type { Core, CoreExports } from './core.js';
import { HeddleError } from './errors.js';
import { generateInSession } from './generate.js';
import type { TextModel } from './generate.js';
import { TokenGeneration } from './generation.js';
import { Lease, endWithOwner } from './lifetime.js';
import type { Adapter, Generation, Loss, Mode, NumbersInput, Session, SessionGenerateOptions, SessionMemory, SessionOptions, TensorValue, TrainOptions } from './types.js';

/** In the order of hd_mode and hd_loss_kind (src/heddle.h): the core has no table of these to ask for. */
const modes: readonly Mode[] = ['infer', 'trace', 'train'];
const losses: readonly Loss[] = ['mse', 'cross_entropy'];

/** LoRA pairs in this thread's instance. */
export class LocalAdapter implements Adapter {
  /** The core's handle; throws once freed. */
  readonly #core: Core;
  readonly #handle: number;
  readonly #lease: Lease;

  constructor(core: Core, handle: number, parent: Lease) {
    this.#core = core;
    this.#handle = handle;
    this.#lease = new Lease('adapter', () => {
      if (core.alive) core.check((x) => x.w_adapter_free(handle));
    }, parent);
    endWithOwner(this, this.#lease);
  }

  /** The handle in `core`; throws when it was freed or belongs to another instance. */
  handleIn(core: Core): number {
    this.#lease.check();
    if (core !== this.#core) throw new HeddleError('bad_argument', 'the adapter belongs to another model');
    return this.#handle;
  }

  async free(): Promise<void> {
    this.#lease.end();
  }

  [Symbol.dispose](): void {
    this.#lease.end();
  }
}

/** The handle of an adapter that must be one of this thread's. */
export function localHandle(adapter: Adapter, core: Core): number {
  if (adapter instanceof LocalAdapter) return adapter.handleIn(core);
  if (typeof (adapter as Adapter | null | undefined)?.free !== 'function') throw new HeddleError('bad_argument', `adapter: expected an adapter, found ${shown(adapter)}`);
  throw new HeddleError('bad_argument', 'the adapter belongs to another runtime');
}

/** The session, which must be one of this model's in this thread. */
export function localSession(session: Session, model: TextModel, name: string): LocalSession {
  if (!(session instanceof LocalSession) && typeof (session as Session | null | undefined)?.decode !== 'function') throw new HeddleError('bad_argument', `${name}: expected a session, found ${shown(session)}`);
  if (!(session instanceof LocalSession) || session.model !== model) throw new HeddleError('bad_argument', `${name}: the session belongs to another model`);
  return session;
}

// ---- Saved states: the number of tokens, the tokens, and the core's bytes. Little-endian. ----

function withTokens(tokens: readonly number[], bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const all = new Uint8Array(4 * (tokens.length + 1) + bytes.byteLength);
  const view = new DataView(all.buffer);
  [tokens.length, ...tokens].forEach((token, i) => view.setInt32(4 * i, token, true));
  all.set(bytes, 4 * (tokens.length + 1));
  return all;
}

function splitTokens(state: unknown): { tokens: number[]; bytes: Uint8Array } {
  if (!(state instanceof Uint8Array)) throw new HeddleError('bad_argument', `state: expected a Uint8Array, found ${shown(state)}`);
  const view = new DataView(state.buffer, state.byteOffset, state.byteLength);
  const n = state.byteLength >= 4 ? view.getUint32(0, true) : Infinity;
  if (4 * (n + 1) > state.byteLength) throw new HeddleError('bad_file', `these ${state.byteLength} bytes are no session's state`);
  return { tokens: Array.from({ length: n }, (_, i) => view.getInt32(4 * (i + 1), true)), bytes: state.subarray(4 * (n + 1)) };
}

export class LocalSession implements Session {
  readonly #core: Core;
  readonly #handle: number;
  readonly #lease: Lease;
  /** The model: a session in use keeps it from being collected. */
  readonly model: TextModel;
  readonly #input: { shape: readonly number[]; ints: boolean };
  #outputShape: readonly number[] = [];
  /** The ids its state is of. */
  #tokens: number[] = [];
  #adapter: Adapter | null = null;
  /** A generation is being written into it. */
  #isWritten = false;
  /** What it was made with, for a fork. In a field, not in a closure: those of a constructor share what they hold, and the lease's must not hold the session. */
  readonly #made: { modelHandle: number; parent: Lease; options: SessionOptions };

  constructor(core: Core, modelHandle: number, model: TextModel, parent: Lease, options: SessionOptions) {
    const { mode = 'infer', input, context = 0, outputRows = 0 } = options;
    const shape = input?.shape ?? [];
    const dtype = core.dtypeNumber(input?.dtype ?? 'f32');
    const modeNumber = modes.indexOf(mode);
    const handle = core.heap.withSizes(shape, (dims) =>
      core.made((x) => x.w_session_new(modelHandle, modeNumber, dtype, shape.length, dims, context, outputRows)),
    );
    this.#core = core;
    this.#handle = handle;
    this.#made = { modelHandle, parent, options };
    this.model = model;
    this.#lease = new Lease('session', () => {
      if (core.alive) core.call((x) => x.w_session_free(handle));
    }, parent);
    endWithOwner(this, this.#lease);
    core.check((x) => x.w_session_input(handle));
    const planned = core.heap.transferTensor();
    this.#input = { shape: planned.shape, ints: core.dtypes[planned.dtype] === 'I32' };
  }

  /** The largest input the session was planned for. */
  get inputShape(): readonly number[] {
    return this.#input.shape;
  }

  /** Rows the session takes at once. */
  get inputRows(): number {
    return this.#input.shape[0] ?? 1;
  }

  get outputShape(): readonly number[] {
    return this.#outputShape;
  }

  get position(): number {
    return this.#call((x, session) => x.w_session_position(session)) >>> 0;
  }

  /** The ids it was given since it was new or reset, as far as it was not rewound. */
  get tokens(): readonly number[] {
    return this.#tokens;
  }

  /** Whether it can still be called: neither freed nor in an instance that died. */
  get alive(): boolean {
    return !this.#lease.ended && this.#core.alive;
  }

  #call<T>(use: (exports: CoreExports, session: number) => T): T {
    this.#lease.check();
    return this.#core.call((x) => use(x, this.#handle));
  }

  #check(use: (exports: CoreExports, session: number) => number): void {
    this.#lease.check();
    this.#core.check((x) => use(x, this.#handle));
  }

  /** The core's handle; throws once freed. */
  get handle(): number {
    this.#lease.check();
    return this.#handle;
  }

  get adapter(): Adapter | null {
    return this.#adapter;
  }

  /** Most positions it may reach. */
  get context(): number {
    return this.#made.options.context || this.model.maxContext || this.inputRows;
  }

  /** A generation begins to write into it: until `endWriting` nobody else may. Throws `bad_state` when another does. */
  beginWriting(): void {
    this.checkIdle();
    this.#isWritten = true;
  }

  endWriting(): void {
    this.#isWritten = false;
  }

  /** Throws `bad_state` while a generation writes into it: who changed it in between would spoil the text. */
  checkIdle(): void {
    this.#lease.check();
    if (this.#isWritten) throw new HeddleError('bad_state', 'a generation writes into this session: let it run to its end, or end it with return()');
  }

  // ---- Forward ----

  /** Puts rows where the session reads them and runs the graph. */
  #run(input: NumbersInput, shape: readonly number[] | undefined): void {
    this.#lease.check();
    checkNumbers(input, 'input');
    if (shape !== undefined) checkShape(shape);
    const rows = this.#rowsOf(input, shape);
    const { heap } = this.#core;
    this.#check((x, session) => x.w_session_input(session));
    const { pointer } = heap.transferTensor();
    if (this.#input.ints) heap.writeInts(pointer, input);
    else heap.writeFloats(pointer, input);
    this.#check((x, session) => x.w_forward(session, rows));
    if (this.#input.ints) for (const token of input) this.#tokens.push(token);
  }

  /** How many rows of the planned input these are; throws `bad_argument` when they do not fit it. */
  #rowsOf(input: NumbersInput, shape: readonly number[] | undefined): number {
    const planned = this.#input.shape;
    if (shape && (shape.length !== planned.length || shape.some((n, i) => i > 0 && n !== planned[i]) || elements(shape) !== input.length)) {
      throw new HeddleError('bad_argument', `input of ${input.length} numbers as [${shape.join(', ')}]: the session takes [≤ ${planned.join(', ')}]`);
    }
    const rowSize = elements(planned.slice(1));
    const rows = input.length / rowSize;
    if (!Number.isInteger(rows) || rows < 1 || rows > this.inputRows) {
      throw new HeddleError('bad_argument', `input of ${input.length} numbers: the session takes 1 to ${this.inputRows} rows of ${rowSize}`);
    }
    if (this.#input.ints) checkWholeNumbers(input, 'input');
    return rows;
  }

  /** `forward`, at once. */
  forwardSync(input: NumbersInput, shape?: readonly number[]): Float32Array {
    this.#run(input, shape);
    const output = this.#core.tensor((x) => x.w_session_output(this.#handle));
    this.#outputShape = output.shape;
    return output.data instanceof Float32Array ? output.data : Float32Array.from(output.data);
  }

  async forward(input: NumbersInput, shape?: readonly number[]): Promise<Float32Array> {
    this.checkIdle();
    return this.forwardSync(input, shape);
  }

  /** `decode`, at once. A prompt longer than the planned rows goes in several calls. */
  decodeSync(tokens: NumbersInput): void {
    this.#lease.check();
    if (!this.#input.ints) throw new HeddleError('bad_argument', 'decode is for models that read token ids; this one reads numbers');
    checkWholeNumbers(tokens, 'tokens');
    if (tokens.length === 0) throw new HeddleError('bad_argument', 'decode: expected at least one token');
    this.reserveSync(this.position + tokens.length);
    for (let i = 0; i < tokens.length; i += this.inputRows) this.#run(tokens.slice(i, i + this.inputRows), undefined);
    this.#outputShape = this.#outputTensor().shape;
  }

  async decode(tokens: NumbersInput): Promise<void> {
    this.checkIdle();
    this.decodeSync(tokens);
  }

  /** Makes room for so many positions in all; throws `bad_state` when they are more than its context. */
  reserveSync(positions: number): void {
    this.#check((x, session) => x.w_session_reserve(session, positions));
  }

  /** Notes tokens that a batch has computed in it. */
  tookSync(tokens: readonly number[]): void {
    for (const token of tokens) this.#tokens.push(token);
    this.#outputShape = this.#outputTensor().shape;
  }

  #outputTensor(): { pointer: number; shape: number[] } {
    this.#check((x, session) => x.w_session_output(session));
    return this.#core.heap.transferTensor();
  }

  /** Where the last row of the output lies. */
  #lastRow(): { pointer: number; n: number } {
    const { pointer, shape } = this.#outputTensor();
    const n = shape.at(-1) ?? 1;
    return { pointer: pointer + 4 * (elements(shape) - n), n };
  }

  /** `logits`, at once. */
  logitsSync(): Float32Array {
    const { pointer, n } = this.#lastRow();
    return this.#core.heap.floats(pointer, n);
  }

  async logits(): Promise<Float32Array> {
    return this.logitsSync();
  }

  /** `argmax`, at once. */
  argmaxSync(): number {
    const { pointer, n } = this.#lastRow();
    return this.#core.heap.argmax(pointer, n);
  }

  async argmax(): Promise<number> {
    return this.argmaxSync();
  }

  // ---- Looking inside ----

  async value(name: string): Promise<TensorValue> {
    this.#lease.check();
    checkText(name, 'name');
    return this.#core.heap.withText(name, (p) => this.#core.tensor((x) => x.w_session_value(this.#handle, p)));
  }

  async valueNames(): Promise<string[]> {
    const names: string[] = [];
    for (let p; (p = this.#call((x, session) => x.w_session_value_name(session, names.length)) >>> 0) !== 0; ) names.push(this.#core.heap.text(p));
    return names;
  }

  async memory(): Promise<SessionMemory> {
    this.#call((x, session) => x.w_session_memory(session));
    const { heap } = this.#core;
    return { weights: heap.transfer(0), arena: heap.transfer(1), state: heap.transfer(2), other: heap.transfer(3) };
  }

  // ---- State and adapters ----

  async useAdapter(adapter: Adapter | null): Promise<void> {
    this.checkIdle();
    this.useAdapterSync(adapter);
  }

  /** `useAdapter`, at once. */
  useAdapterSync(adapter: Adapter | null): void {
    this.#lease.check();
    const handle = adapter === null ? 0 : localHandle(adapter, this.#core);
    this.#check((x, session) => x.w_session_use(session, handle));
    this.#adapter = adapter;
  }

  /** `reset`, at once. */
  resetSync(): void {
    this.rewindSync(0);
  }

  async reset(): Promise<void> {
    this.checkIdle();
    this.resetSync();
  }

  /** `rewind`, at once. */
  rewindSync(position: number): void {
    this.#lease.check();
    checkCount(position, 'position');
    this.#check((x, session) => x.w_session_rewind(session, position));
    this.#tokens.length = Math.min(this.#tokens.length, position);
    this.#outputShape = [];
  }

  async rewind(position: number): Promise<void> {
    this.checkIdle();
    this.rewindSync(position);
  }

  /** Whether the state's last logits are there: not after a rewind or a load. */
  get hasOutput(): boolean {
    return this.#outputShape.length > 0;
  }

  /** `saveState`, at once. */
  saveStateSync(): Uint8Array<ArrayBuffer> {
    const n = this.#call((x, session) => x.w_session_state_bytes(session)) >>> 0;
    const { heap } = this.#core;
    const pointer = heap.alloc(n);
    try {
      this.#check((x, session) => x.w_session_save_state(session, pointer, n));
      return withTokens(this.#tokens, heap.bytes(pointer, n));
    } finally {
      heap.free(pointer);
    }
  }

  async saveState(): Promise<Uint8Array<ArrayBuffer>> {
    return this.saveStateSync();
  }

  /** `loadState`, at once. */
  loadStateSync(state: Uint8Array): void {
    this.#lease.check();
    const { tokens, bytes } = splitTokens(state);
    this.#core.heap.with(bytes, (p, n) => this.#check((x, session) => x.w_session_load_state(session, p, n)));
    this.#tokens = tokens;
    this.#outputShape = [];
  }

  async loadState(state: Uint8Array): Promise<void> {
    this.checkIdle();
    this.loadStateSync(state);
  }

  async fork(): Promise<LocalSession> {
    this.#lease.check();
    const { modelHandle, parent, options } = this.#made;
    const copy = new LocalSession(this.#core, modelHandle, this.model, parent, options);
    try {
      if (this.#adapter) copy.useAdapterSync(this.#adapter);
      copy.loadStateSync(this.saveStateSync());
      return copy;
    } catch (error) {
      copy.freeSync();
      throw error;
    }
  }

  generate(prompt: string | NumbersInput, options: SessionGenerateOptions = {}): Generation {
    return new TokenGeneration(this.#generated(prompt, options));
  }

  async *#generated(prompt: string | NumbersInput, options: SessionGenerateOptions): ReturnType<typeof generateInSession> {
    this.#lease.check();
    if (!this.#input.ints) throw new HeddleError('bad_argument', 'generate is for models that read token ids; this one reads numbers');
    return yield* generateInSession(this.model, this, prompt, options);
  }

  // ---- Training ----

  async backward(input: NumbersInput, targets: NumbersInput, options: Pick<TrainOptions, 'loss'> = {}): Promise<number> {
    this.#lease.check();
    checkOptions(options, lossOptions);
    const kind = losses.indexOf(options.loss ?? 'mse');
    const ids = options.loss === 'cross_entropy';
    if (ids) checkWholeNumbers(targets, 'targets');
    else checkNumbers(targets, 'targets');
    this.#run(input, undefined);
    const copy = ids ? Int32Array.from(targets) : Float32Array.from(targets);
    const loss = this.#core.heap.with(new Uint8Array(copy.buffer), (p) => this.#core.made((x) => x.w_loss(this.#handle, kind, p, copy.length)));
    this.#check((x, session) => x.w_backward(session));
    return loss;
  }

  async step(lr: number): Promise<void> {
    this.#lease.check();
    checkFinite(lr, 'lr');
    this.#check((x, session) => x.w_step_sgd(session, lr));
  }

  async trainStep(input: NumbersInput, targets: NumbersInput, options: TrainOptions = {}): Promise<number> {
    this.#lease.check();
    checkOptions(options, trainOptions);
    const { loss: kind, lr = 0.01 } = options;
    const loss = await this.backward(input, targets, kind && { loss: kind });
    await this.step(lr);
    return loss;
  }

  async gradient(weight: string): Promise<TensorValue> {
    this.#lease.check();
    checkText(weight, 'weight');
    return this.#core.heap.withText(weight, (p) => this.#core.tensor((x) => x.w_session_gradient(this.#handle, p)));
  }

  // ---- End ----

  /** `free`, at once. */
  freeSync(): void {
    this.#lease.end();
  }

  async free(): Promise<void> {
    this.#lease.end();
  }

  [Symbol.dispose](): void {
    this.#lease.end();
  }
}
