/**
 * stops.ts: text that ends where one of the caller's stop strings begins, though tokens cut strings anywhere.
 */

/** Passes text through and holds back what may be the beginning of a stop string. */
export class StopStrings {
  readonly #stops: readonly string[];
  #held = '';
  #found: string | undefined;

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '');
  }

  /** The stop string that was met. */
  get found(): string | undefined {
    return this.#found;
  }

  /** The text that is certainly before any stop string. */
  push(text: string): string {
    if (this.#found !== undefined || this.#stops.length === 0) return this.#found === undefined ? text : '';
    const all = this.#held + text;
    const first = this.#firstIn(all);
    if (first) {
      this.#found = first.stop;
      this.#held = '';
      return all.slice(0, first.at);
    }
    const kept = this.#startAtEnd(all);
    this.#held = all.slice(all.length - kept);
    return all.slice(0, all.length - kept);
  }

  /** What was held back and became no stop string. */
  end(): string {
    const held = this.#held;
    this.#held = '';
    return held;
  }

  #firstIn(text: string): { at: number; stop: string } | undefined {
    let best: { at: number; stop: string } | undefined;
    for (const stop of this.#stops) {
      const at = text.indexOf(stop);
      if (at >= 0 && (!best || at < best.at)) best = { at, stop };
    }
    return best;
  }

  /** How many characters at the text's end begin a stop string. */
  #startAtEnd(text: string): number {
    let most = 0;
    for (const stop of this.#stops) {
      for (let n = Math.min(stop.length - 1, text.length); n > most; n--) if (stop.startsWith(text.slice(text.length - n))) most = n;
    }
    return most;
  }
}
