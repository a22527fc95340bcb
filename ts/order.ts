/**
 * order.ts: in which order a model's tensors are sent: as they lie in their files, but what a packed matrix needs before its codes (its scales) before
 * them, even where that lies behind them or in another file. The core holds scales until their codes have gone by, so they come a few at a time.
 */
import type { ByteSource } from './bytes.js';

/** A tensor that the model wants, by its number in the loader. */
export interface Wanted {
  index: number;
  name: string;
  begin: number;
  end: number;
  /** The tensors that have to come before it, by number. */
  before: readonly number[];
}

/** A weight file and what is wanted of it. */
export interface Part {
  file: ByteSource;
  wanted: Wanted[];
}

/** Bytes of scales that are held at once, or those of one matrix where that is more. */
const mostBefore = 8 << 20;

/** The same tensors in parts to be sent one after the other, each in the order of its file. */
export async function* inOrder(parts: readonly Part[]): AsyncGenerator<Part> {
  const needed = new Set(parts.flatMap(({ wanted }) => wanted.flatMap(({ before }) => before)));
  const streams = parts.filter(({ file }) => !file.seekable);
  if (needed.size === 0 || (streams.length > 0 && isOrdered(parts))) {
    yield* parts;
    return;
  }
  for (const { file } of streams) await file.spool?.();
  for (const part of parts) yield* batches(parts, part, needed);
}

/** Whether everything lies behind what it needs. */
function isOrdered(parts: readonly Part[]): boolean {
  const gone = new Set<number>();
  for (const { wanted } of parts) {
    for (const tensor of [...wanted].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
      if (tensor.before.some((index) => !gone.has(index))) return false;
      gone.add(tensor.index);
    }
  }
  return true;
}

/** One file's tensors but for what others need, each batch behind what it needs from all files. */
function* batches(parts: readonly Part[], { file, wanted }: Part, needed: ReadonlySet<number>): Generator<Part> {
  const bytes = new Map(parts.flatMap((part) => part.wanted.map(({ index, begin, end }) => [index, end - begin] as const)));
  let batch: Wanted[] = [];
  let held = 0;
  for (const tensor of [...wanted].sort((a, b) => a.begin - b.begin)) {
    if (needed.has(tensor.index)) continue;
    const more = tensor.before.reduce((sum, index) => sum + (bytes.get(index) ?? 0), 0);
    if (held > 0 && held + more > mostBefore) {
      yield* behind(parts, { file, wanted: batch });
      [batch, held] = [[], 0];
    }
    batch.push(tensor);
    held += more;
  }
  yield* behind(parts, { file, wanted: batch });
}

function* behind(parts: readonly Part[], batch: Part): Generator<Part> {
  const first = new Set(batch.wanted.flatMap(({ before }) => before));
  for (const { file, wanted } of parts) {
    const those = wanted.filter(({ index }) => first.has(index));
    if (those.length > 0) yield { file, wanted: those };
  }
  if (batch.wanted.length > 0) yield batch;
}
