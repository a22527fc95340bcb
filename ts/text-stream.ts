/**
 * text-stream.ts: text as tokens arrive, in whole characters.
 *
 * A token may hold half a character: text that ends in U+FFFD is held back until it is whole. Only the tokens of the piece before are decoded
 * again, as context (some decoders strip a text's first space, or put one between words), so a long text stays linear.
 */

/** Ids to text, and what the text leaves out. */
export interface Decoding {
  decode(ids: readonly number[]): string;
  /** Whether this id has no text of its own. */
  skips(id: number): boolean;
}

/** How many ids of a prompt are looked at, and how far back a character in bytes may begin. */
const contextTokens = 6;
const longestContext = 64;

export class TextStream {
  readonly #decoding: Decoding;
  #ids: number[];
  /** Ids before this were given out: they are only context. */
  #context: number;

  constructor(decoding: Decoding, prompt: readonly number[]) {
    this.#decoding = decoding;
    this.#ids = lastPiece(decoding, prompt);
    this.#context = this.#ids.length;
  }

  /** The text that this token completes: '' when there is none yet. */
  push(id: number): string {
    if (this.#decoding.skips(id)) return '';
    this.#ids.push(id);
    return this.#take(false);
  }

  /** What was still held back. */
  end(): string {
    return this.#take(true);
  }

  #take(all: boolean): string {
    const before = this.#decoding.decode(this.#ids.slice(0, this.#context));
    const now = this.#decoding.decode(this.#ids);
    if (!all && now.endsWith('\uFFFD')) return '';
    // Bytes that are no character can spoil those before them, which were given out already: then the new ids speak for themselves.
    const piece = now.startsWith(before) ? now.slice(before.length) : this.#decoding.decode(this.#ids.slice(this.#context));
    if (piece === '' && !all) return '';
    this.#ids = this.#ids.slice(this.#context);
    this.#context = this.#ids.length;
    return piece;
  }
}

/** The last ids of a prompt, from where a character begins. */
function lastPiece(decoding: Decoding, prompt: readonly number[]): number[] {
  const shown = prompt.slice(-longestContext).filter((id) => !decoding.skips(id));
  for (let n = contextTokens; n < shown.length; n++) {
    const ids = shown.slice(-n);
    if (!decoding.decode(ids).startsWith('\uFFFD')) return ids;
  }
  return shown;
}
