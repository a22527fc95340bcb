/**
 * lifetime.ts: when something in an instance is given back.
 *
 * A `Lease` is the part of a model, session or adapter that has to be released. It knows what depends on it, releases that
 * first, and releases once. It never refers to the object the caller holds, so the garbage collector is the net below
 * `free()`: an object nobody holds any more has its lease ended.
 */
import { HeddleError } from './errors.js';

export class Lease {
  readonly #what: string;
  readonly #parent: Lease | undefined;
  readonly #dependants = new Set<Lease>();
  #release: (() => void) | undefined;

  /** `what` names it in errors; `release` may throw, and then nothing is ended. */
  constructor(what: string, release: () => void, parent?: Lease) {
    this.#what = what;
    this.#release = release;
    this.#parent = parent;
    if (parent) parent.#dependants.add(this);
  }

  get ended(): boolean {
    return this.#release === undefined;
  }

  /** Throws `bad_state` once the lease has ended. */
  check(): void {
    if (this.ended) throw new HeddleError('bad_state', `the ${this.#what} was freed`);
  }

  /** Ends what depends on it, latest first, then itself. Ending twice is harmless. */
  end(): void {
    const release = this.#release;
    if (!release) return;
    for (const dependant of [...this.#dependants].reverse()) dependant.end();
    release();
    this.#release = undefined;
    if (this.#parent) this.#parent.#dependants.delete(this);
  }
}

const net = new FinalizationRegistry<Lease>((lease) => {
  try {
    lease.end();
  } catch {
    // An adapter that a session still uses: the model takes it along when it goes.
  }
});

/** Ends the lease when `owner` is garbage, unless it was ended before. */
export function endWithOwner(owner: object, lease: Lease): void {
  net.register(owner, lease);
}
