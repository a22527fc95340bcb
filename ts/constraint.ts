/**
 * constraint.ts: a grammar over tokens. A token is allowed when all of its characters are; one that ends the text, when the text may end.
 *
 * The tokens allowed in a state are found by walking the vocabulary as a tree of characters, once a state: a text is in few states again
 * and again (within a string, say), and greedy choices mostly need no more than the one token that was chosen.
 */
import { HeddleError } from './errors.js';
import { Grammar } from './grammar.js';
import type { State } from './grammar.js';
import { schemaRule } from './json-schema.js';
import type { JsonSchema } from './json-schema.js';

/** A vocabulary's texts as a tree: equal beginnings are walked once. Tokens without text (special ones) are not in it. */
export class TokenTree {
  readonly texts: readonly string[];
  /** Node by node: its tokens, and its children by character. */
  readonly #tokens: number[][] = [[]];
  readonly #children: Map<number, number>[] = [new Map()];

  constructor(texts: readonly string[]) {
    this.texts = texts;
    for (let id = 0; id < texts.length; id++) this.#add(texts[id] ?? '', id);
  }

  #add(characters: string, id: number): void {
    if (characters === '') return;
    let node = 0;
    for (let i = 0; i < characters.length; i++) {
      const unit = characters.charCodeAt(i);
      let child = this.#children[node]?.get(unit);
      if (child === undefined) {
        child = this.#children.length;
        this.#children.push(new Map());
        this.#tokens.push([]);
        this.#children[node]?.set(unit, child);
      }
      node = child;
    }
    this.#tokens[node]?.push(id);
  }

  /** Marks the tokens that may follow. */
  mark(state: State, allowed: Uint8Array): void {
    const nodes: number[] = [0];
    const states: State[] = [state];
    for (let node = nodes.pop(), at = states.pop(); node !== undefined && at; node = nodes.pop(), at = states.pop()) {
      for (const [unit, child] of this.#children[node] ?? []) {
        const after = at.after(unit);
        if (!after) continue;
        for (const id of this.#tokens[child] ?? []) allowed[id] = 1;
        nodes.push(child);
        states.push(after);
      }
    }
  }
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
    let any = false;
    for (let id = 0; id < logits.length; id++) {
      if (this.#ends.has(id) ? this.#state.ends : allowed[id] === 1) any = true;
      else logits[id] = -Infinity;
    }
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
