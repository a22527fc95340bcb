/**
 * batch.ts: several sequences of one model in one call of the core (hd_batch, src/heddle.h). Internal: sessions share calls through together.ts, texts
 * that are read whole through encode.ts.
 */
import { elements } from './core.js';
import type { Core } from './core.js';
import { Lease, endWithOwner } from './lifetime.js';

export interface BatchOptions {
  /** Most rows of a call, of all its sequences together, and most sequences. */
  rows: number;
  sequences: number;
  /** Most positions of a sequence; 0: the model's. */
  context?: number;
  /** Rows of output for each sequence, from its last; 0: all. */
  outputRows?: number;
  /** The value to compute; the model's output by default. */
  output?: string | undefined;
}

/** A sequence's rows: `session` is the core's handle, 0 for a sequence that is forgotten after the call. */
export interface BatchPart {
  session: number;
  ids: readonly number[];
}

/** What a part came to: rows × width values. */
export interface PartRows {
  data: Float32Array;
  width: number;
}

export class LocalBatch {
  readonly #core: Core;
  readonly #handle: number;
  readonly #lease: Lease;
  readonly options: Readonly<BatchOptions>;

  constructor(core: Core, modelHandle: number, parent: Lease, options: BatchOptions) {
    const { rows, sequences, context = 0, outputRows = 0, output } = options;
    const dtype = core.dtypeNumber('i32');
    const make = (name: number): number =>
      core.heap.withSizes([rows], (dims) => core.made((x) => x.w_batch_new(modelHandle, dtype, 1, dims, sequences, context, outputRows, name)));
    const handle = output === undefined ? make(0) : core.heap.withText(output, make);
    this.#core = core;
    this.#handle = handle;
    this.options = options;
    this.#lease = new Lease('batch', () => {
      if (core.alive) core.call((x) => x.w_batch_free(handle));
    }, parent);
    endWithOwner(this, this.#lease);
  }

  get alive(): boolean {
    return !this.#lease.ended && this.#core.alive;
  }

  /** One call. The parts fit the rows and sequences it was made for. */
  forwardSync(parts: readonly BatchPart[]): void {
    this.#lease.check();
    const ids = parts.flatMap((part) => part.ids);
    const { heap } = this.#core;
    this.#core.check((x) => x.w_batch_input(this.#handle));
    heap.writeInts(heap.transferTensor().pointer, ids);
    const pairs = parts.flatMap(({ session, ids: own }) => [session, own.length]);
    heap.withSizes(pairs, (p) => this.#core.check((x) => x.w_batch_forward(this.#handle, ids.length, p, parts.length)));
  }

  /** What the last call computed, part by part: a row for each of its rows, the last `outputRows` of them, or one. */
  rowsSync(parts: readonly BatchPart[]): PartRows[] {
    this.#lease.check();
    this.#core.check((x) => x.w_batch_output(this.#handle));
    const { pointer, shape } = this.#core.heap.transferTensor();
    const width = shape.at(-1) ?? 1;
    const all = elements(shape) / width;
    const { outputRows = 0 } = this.options;
    let at = pointer;
    return parts.map(({ ids }) => {
      const isOne = parts.length === 1 || all === parts.length;
      const rows = isOne ? all / parts.length : Math.min(outputRows || Infinity, ids.length);
      const data = this.#core.heap.floats(at, rows * width);
      at += 4 * data.length;
      return { data, width };
    });
  }

  freeSync(): void {
    this.#lease.end();
  }
}
