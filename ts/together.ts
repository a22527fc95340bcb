/**
 * together.ts: sessions that share calls. Computing a token reads every weight of a model; tokens of several sessions in one call read them once. A
 * session's state and logits afterwards are what they would be alone, to within rounding (a kernel for more rows may add in another order).
 *
 * `decodeSync` is such a call (Model.decodeTogether). Generations that run at the same time on one model meet here by themselves: each waits with
 * its next token until all are there that are not held up by their readers.
 */
import { LocalBatch } from './batch.js';
import type { BatchOptions } from './batch.js';
import { HeddleError } from './errors.js';
import { macrotask } from './host.js';
import type { LocalSession } from './session.js';
import type { Adapter } from './types.js';

/** A call's most rows, as in a prefill, and most sequences: more would cost logits without reading fewer weights a token. */
const mostRows = 64;
const mostSequences = 16;

/** Tokens to append to a session. */
interface Part {
  session: LocalSession;
  ids: readonly number[];
}

interface Waiting {
  session: LocalSession;
  token: number;
  done: (shared: boolean) => void;
  fail: (error: unknown) => void;
}

export class Together {
  readonly #makeBatch: (options: BatchOptions) => LocalBatch;
  #batch: LocalBatch | undefined;
  /** Generations that run now. */
  #writers = 0;
  #waiting: Waiting[] = [];
  /** How many calls the waiting have had. */
  #round = 0;
  /** The model has layers that take one sequence at a time. */
  #isAlone = false;

  constructor(makeBatch: (options: BatchOptions) => LocalBatch) {
    this.#makeBatch = makeBatch;
  }

  // ---- One call ----

  /** Appends tokens[i] to sessions[i]. Throws before anything is computed when one of them has no room. */
  decodeSync(sessions: readonly LocalSession[], tokens: readonly (readonly number[])[]): void {
    if (new Set(sessions).size < sessions.length) throw new HeddleError('bad_argument', 'sessions: expected each of them once');
    sessions.forEach((session, i) => session.reserveSync(session.position + (tokens[i]?.length ?? 0)));
    for (const alike of byAdapter(sessions.map((session, i) => ({ session, ids: tokens[i] ?? [] })))) this.#decodeAlike(alike);
  }

  /** Of sessions with one adapter: calls of as many rows as fit, until all is computed. */
  #decodeAlike(parts: readonly Part[]): void {
    for (let left = parts; left.length > 0; ) {
      const batch = this.#batchFor(left);
      const call = left.slice(0, batch.options.sequences).map(takeRows(batch.options.rows - Math.min(left.length, batch.options.sequences)));
      batch.forwardSync(call.map(({ session, ids }) => ({ session: session.handle, ids })));
      for (const { session, ids } of call) session.tookSync(ids);
      left = left.map(({ session, ids }, i) => ({ session, ids: ids.slice(call[i]?.ids.length ?? 0) })).filter(({ ids }) => ids.length > 0);
    }
  }

  /** The batch at hand when it will do, else a larger one. */
  #batchFor(parts: readonly Part[]): LocalBatch {
    const had = this.#batch?.alive ? this.#batch : undefined;
    const sessions = parts.slice(0, mostSequences).map(({ session }) => session);
    const rows = parts.reduce((sum, { ids }) => sum + ids.length, 0);
    const sequences = powerAbove(sessions.length);
    const wanted = {
      sequences: Math.max(had?.options.sequences ?? 0, sequences),
      rows: Math.max(had?.options.rows ?? 0, Math.min(powerAbove(rows), mostRows), sequences),
      context: sessions.reduce((most, { context }) => Math.max(most, context), had?.options.context ?? 0),
      outputRows: 1,
    };
    if (had && had.options.sequences >= wanted.sequences && had.options.rows >= wanted.rows && (had.options.context ?? 0) >= wanted.context) return had;
    this.drop();
    return (this.#batch = this.#makeBatch(wanted));
  }

  /** Gives its memory back; the next call takes it anew. */
  drop(): void {
    this.#batch?.freeSync();
    this.#batch = undefined;
  }

  // ---- Generations ----

  /** A generation begins; `leave` when it has ended, however. */
  enter(): void {
    this.#writers++;
  }

  leave(): void {
    this.#writers--;
    if (this.#writers === 0) this.drop();
    else if (this.#waiting.length === this.#writers) this.#flush();
  }

  /** Appends a token to a session, in one call with others where there are any; resolves to whether there were. Rejects with `bad_state` when there is no room. */
  async append(session: LocalSession, token: number): Promise<boolean> {
    if (this.#writers < 2 || this.#isAlone) {
      session.decodeSync([token]);
      return false;
    }
    session.reserveSync(session.position + 1);
    return new Promise((done, fail) => {
      this.#waiting.push({ session, token, done, fail });
      if (this.#waiting.length === this.#writers) this.#flush();
      else if (this.#waiting.length === 1) void this.#flushSoon(this.#round);
    });
  }

  /** Who has not come after a turn of the event loop waits for its reader, or reads its prompt: the others go on. */
  async #flushSoon(round: number): Promise<void> {
    await macrotask();
    if (round === this.#round) this.#flush();
  }

  #flush(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#round++;
    const alive = waiting.filter(({ session }) => session.alive);
    for (const { session, fail } of waiting) if (!session.alive) fail(new HeddleError('bad_state', 'the session was freed'));
    for (const alike of byAdapter(alive)) this.#computeAlike(alike);
  }

  #computeAlike(waiting: readonly Waiting[]): void {
    try {
      const isShared = this.#compute(waiting);
      for (const { done } of waiting) done(isShared);
    } catch (error) {
      for (const { fail } of waiting) fail(error);
    }
  }

  #compute(waiting: readonly Waiting[]): boolean {
    const parts = waiting.map(({ session, token }) => ({ session, ids: [token] }));
    if (parts.length > 1 && !this.#isAlone && this.#canBatch(parts)) {
      this.#decodeAlike(parts);
      return true;
    }
    for (const { session, token } of waiting) session.decodeSync([token]);
    return false;
  }

  /** Whether there is a batch for them: not for every model, nor without memory for it. */
  #canBatch(parts: readonly Part[]): boolean {
    try {
      this.#batchFor(parts);
      return true;
    } catch (error) {
      if (!(error instanceof HeddleError) || !['unsupported', 'out_of_memory'].includes(error.code)) throw error;
      this.#isAlone = true;
      return false;
    }
  }
}

/** A call is of sessions with one adapter. */
function byAdapter<T extends { session: LocalSession }>(all: readonly T[]): T[][] {
  const adapters = new Set<Adapter | null>(all.map(({ session }) => session.adapter));
  return [...adapters].map((adapter) => all.filter(({ session }) => session.adapter === adapter));
}

/** Gives each part one row, and of the spare ones as many as it has ids for, first come first served. */
function takeRows(spare: number): (part: Part) => Part {
  return ({ session, ids }) => {
    const own = ids.slice(0, 1 + spare);
    spare -= own.length - 1;
    return { session, ids: own };
  };
}

function powerAbove(n: number): number {
  return 2 ** Math.ceil(Math.log2(Math.max(n, 1)));
}
