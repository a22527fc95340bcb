/**
 * arrival.ts: tensors as they come from their files: in the order they lie there, neighbours in one reading, so that a disk or a server
 * is asked seldom and a stream never has to go back.
 */
import type { ByteSource } from './bytes.js';
import { seconds } from './host.js';
import type { LoadProgress } from './types.js';

/** A tensor's place in its file. */
export interface Place {
  begin: number;
  end: number;
}

/** Some of a tensor's bytes, to be used before the next is asked for; its last, or its none, say so. */
export interface Arrival<T extends Place> {
  tensor: T;
  chunk: Uint8Array | undefined;
  isFirst: boolean;
  isLast: boolean;
}

/** Bytes between two tensors that are read and dropped rather than asked for anew, while all of them stay below that share of the wanted. */
const mostGap = 64 << 10;
const mostGapShare = 0.02;

interface Span extends Place {
  tensors: Place[];
}

/** Neighbours joined. Tensors that share bytes are in spans of their own: each is given all of its bytes at once. */
function spansOf<T extends Place>(tensors: readonly T[]): (Span & { tensors: T[] })[] {
  const spans: (Span & { tensors: T[] })[] = [];
  let spare = mostGapShare * tensors.reduce((sum, { begin, end }) => sum + end - begin, 0);
  for (const tensor of [...tensors].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    const span = spans.at(-1);
    const gap = span ? tensor.begin - span.end : 0;
    if (span && gap >= 0 && gap <= Math.min(mostGap, spare)) {
      spare -= gap;
      span.end = tensor.end;
      span.tensors.push(tensor);
    } else {
      spans.push({ begin: tensor.begin, end: tensor.end, tensors: [tensor] });
    }
  }
  return spans;
}

/** The bytes of all the tensors, one tensor after the other. */
export async function* arrivals<T extends Place>(source: ByteSource, tensors: readonly T[]): AsyncGenerator<Arrival<T>> {
  const spans = spansOf(tensors);
  const goesBack = spans.some((span, i) => i > 0 && span.begin < (spans[i - 1]?.end ?? 0));
  if (goesBack && !source.seekable) await source.spool?.();
  for (const span of spans) yield* arrivalsOf(source, span);
}

async function* arrivalsOf<T extends Place>(source: ByteSource, span: Span & { tensors: T[] }): AsyncGenerator<Arrival<T>> {
  let i = 0;
  const empty = function* (): Generator<Arrival<T>> {
    for (let tensor = span.tensors[i]; tensor && tensor.begin === tensor.end; tensor = span.tensors[++i]) yield { tensor, chunk: undefined, isFirst: true, isLast: true };
  };
  yield* empty();
  if (span.begin === span.end) return;
  let at = span.begin;
  for await (const chunk of source.read(span.begin, span.end)) {
    const end = at + chunk.byteLength;
    for (let tensor = span.tensors[i]; tensor && tensor.begin < end; tensor = span.tensors[i]) {
      const from = Math.max(tensor.begin, at);
      const to = Math.min(tensor.end, end);
      const isLast = to === tensor.end;
      yield { tensor, chunk: chunk.subarray(from - at, to - at), isFirst: from === tensor.begin, isLast };
      if (!isLast) break;
      i++;
      yield* empty();
    }
    at = end;
  }
}

/** Counts what has come. */
export class Progress {
  readonly #tell: ((progress: LoadProgress) => void) | undefined;
  readonly #state: LoadProgress;
  readonly #start = seconds();

  constructor(tensors: readonly Place[], tell: ((progress: LoadProgress) => void) | undefined) {
    this.#tell = tell;
    const totalBytes = tensors.reduce((sum, { begin, end }) => sum + end - begin, 0);
    this.#state = { bytes: 0, totalBytes, tensors: 0, totalTensors: tensors.length, seconds: 0 };
  }

  /** More bytes. */
  add(bytes: number): void {
    this.#state.bytes += bytes;
    this.#say({});
  }

  /** A tensor has all of its bytes. */
  done(tensor: string): void {
    this.#state.tensors++;
    this.#say({ tensor });
  }

  #say(what: { tensor?: string }): void {
    if (!this.#tell) return;
    const elapsed = seconds() - this.#start;
    const { bytes, totalBytes } = this.#state;
    const left = bytes > 0 ? { secondsLeft: (elapsed / bytes) * (totalBytes - bytes) } : {};
    this.#tell({ ...this.#state, seconds: elapsed, ...left, ...what });
  }
}
