/**
 * constraint.ts: a grammar over tokens. A token is allowed when all of its characters are; one that ends the text, when the text may end.
 *
 * The tokens allowed in a state are found by walking the vocabulary as a tree of characters, once a state: a text is in few states again
 * and again (within a string, say), and greedy choices mostly need no more than the one token that was chosen.
 */
import { HeddleError } from './errors.js';
import { Grammar } from './grammar.js';
import type { State } from './grammar.js';
import { plain, schemaRule } from './json-schema.js';
import type { JsonSchema } from './json-schema.js';

/** Plain characters of a token that are counted. */
const mostPlain = 128;
const notPlain = 0xffff;

/**
 * A vocabulary's texts as a tree: equal beginnings are walked once. Its nodes lie in the order of the texts, each before what begins with it, so that a walk is one
 * pass that jumps over what does not fit. Tokens without text (special ones) are not in it.
 */
export class TokenTree {
  readonly texts: readonly string[];
  /** Node by node: its last character, how many characters it has, the node behind all that begin with it. */
  readonly #unit: Uint16Array;
  readonly #length: Uint16Array;
  readonly #end: Int32Array;
  /** Node by node: the most characters from it on, itself included, where all of them are plain; else `notPlain`. */
  readonly #plainDepth: Uint16Array;
  /** The tokens in the order of their texts; those whose text ends at node n are from #first[n] to #first[n + 1]. */
  readonly #tokens: Int32Array;
  readonly #first: Int32Array;

  constructor(texts: readonly string[]) {
    this.texts = texts;
    const order = [...texts.keys()].filter((id) => texts[id] !== '').sort((a, b) => compare(texts[a] ?? '', texts[b] ?? ''));
    const most = order.reduce((sum, id) => sum + (texts[id] ?? '').length, 0);
    const [unit, length, end, first] = [new Uint16Array(most), new Uint16Array(most), new Int32Array(most), new Int32Array(most + 1)];
    const open: number[] = []; // the nodes of the last text, from its first character on
    let n = 0;
    let before = '';
    order.forEach((id, i) => {
      const characters = texts[id] ?? '';
      const same = commonLength(before, characters);
      for (const node of open.splice(same)) end[node] = n;
      for (let at = same; at < characters.length; at++) {
        open.push(n);
        unit[n] = characters.charCodeAt(at);
        length[n] = at + 1;
        first[n++] = i;
      }
      before = characters;
    });
    for (const node of open) end[node] = n;
    first[n] = order.length;
    this.#unit = unit.slice(0, n);
    this.#length = length.slice(0, n);
    this.#end = end.slice(0, n);
    this.#first = first.slice(0, n + 1);
    this.#tokens = Int32Array.from(order);
    this.#plainDepth = new Uint16Array(n);
    for (let node = n - 1; node >= 0; node--) this.#plainDepth[node] = this.#depthFrom(node);
  }

  /** Of a node whose children's are known. */
  #depthFrom(node: number): number {
    if (!plain.fits(this.#unit[node] ?? 0)) return notPlain;
    let most = 0;
    for (let child = node + 1, end = this.#end[node] ?? 0; child < end; child = this.#end[child] ?? end) most = Math.max(most, this.#plainDepth[child] ?? 0);
    return Math.min(most + 1, notPlain);
  }

  /** Marks the tokens that may follow. */
  mark(start: State, allowed: Uint8Array): void {
    const states = [start]; // after so many characters
    const reaches = [start.reach(plain, mostPlain)];
    for (let node = 0; node < this.#unit.length; ) {
      const at = (this.#length[node] ?? 1) - 1;
      const end = this.#end[node] ?? node + 1;
      if ((this.#plainDepth[node] ?? notPlain) <= (reaches[at] ?? 0)) {
        this.#allow(node, end, allowed); // whatever begins with it
        node = end;
        continue;
      }
      const after = states[at]?.after(this.#unit[node] ?? 0);
      if (after) {
        states[at + 1] = after;
        reaches[at + 1] = after === states[at] ? (reaches[at] ?? 0) : after.reach(plain, mostPlain);
        this.#allow(node, node + 1, allowed);
      }
      node = after ? node + 1 : end;
    }
  }

  /** Marks the tokens of the nodes from one to before another. */
  #allow(from: number, to: number, allowed: Uint8Array): void {
    const end = this.#first[to] ?? 0;
    for (let i = this.#first[from] ?? 0; i < end; i++) allowed[this.#tokens[i] ?? 0] = 1;
  }
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function commonLength(a: string, b: string): number {
  let n = 0;
  while (n < a.length && n < b.length && a.charCodeAt(n) === b.charCodeAt(n)) n++;
  return n;
}

/** Masks that are kept: a byte a token each. */
const keptMasks = 64;

/** A text that is being written and must fit a JSON Schema. */
export class JsonConstraint {
  readonly #findTree: () => TokenTree;
  readonly #ends: ReadonlySet<number>;
  readonly #masks = new Map<State, Uint8Array>();
  #state: State;

  /** `tree` is asked for when the first token is chosen. */
  constructor(schema: JsonSchema, tree: () => TokenTree, ends: ReadonlySet<number>) {
    this.#findTree = tree;
    this.#ends = ends;
    this.#state = new Grammar(schemaRule(schema)).start;
  }

  get #tree(): TokenTree {
    return this.#findTree();
  }

  /** Whether the text is complete and nothing can follow. */
  get complete(): boolean {
    return this.#state.ends && !this.#state.goesOn;
  }

  allows(token: number): boolean {
    if (this.#ends.has(token)) return this.#state.ends;
    const characters = this.#tree.texts[token] ?? '';
    return characters !== '' && this.#state.afterText(characters) !== null;
  }

  /** Bans every token that does not fit. */
  mask(logits: Float32Array): void {
    const allowed = this.#allowed();
    const ends = [...this.#ends].filter((id) => id < logits.length).map((id) => [id, this.#state.ends ? (logits[id] ?? 0) : -Infinity] as const);
    let any = ends.length > 0 && this.#state.ends;
    for (let id = 0; id < logits.length; id++) {
      if (allowed[id] === 1) any = true;
      else logits[id] = -Infinity;
    }
    for (const [id, logit] of ends) logits[id] = logit;
    if (!any) throw new HeddleError('unsupported', 'no token of the vocabulary can continue the JSON the schema asks for');
  }

  /** The token that was chosen. */
  accept(token: number): void {
    const after = this.#state.afterText(this.#tree.texts[token] ?? '');
    if (!after) throw new HeddleError('bad_state', `token ${token} does not fit the schema`);
    this.#state = after;
  }

  #allowed(): Uint8Array {
    let mask = this.#masks.get(this.#state);
    if (mask) return mask;
    mask = new Uint8Array(this.#tree.texts.length);
    this.#tree.mark(this.#state, mask);
    if (this.#masks.size >= keptMasks) this.#masks.delete(this.#masks.keys().next().value as State);
    this.#masks.set(this.#state, mask);
    return mask;
  }
}
