/**
 * grammar.ts: which texts a grammar allows, character by character. A grammar is a tree of rules that may refer to themselves; a state is
 * the set of ways the text so far can go on, each a stack of what is still to come. States are made once and remember where each character
 * leads, so that walking a whole vocabulary through one is table lookups.
 */

/** One character of a text (a UTF-16 unit) that fits, any number of times in a row between bounds, or a composition of rules. */
export type Rule =
  | { kind: 'text'; text: string }
  | { kind: 'character'; name: string; fits: (unit: number) => boolean }
  | { kind: 'sequence'; parts: readonly Rule[] }
  | { kind: 'choice'; rules: readonly Rule[] }
  | { kind: 'repeat'; rule: Rule; min: number; max: number }
  /** Made when it is first needed: rules may contain themselves. */
  | { kind: 'later'; make: () => Rule };

export const text = (characters: string): Rule => ({ kind: 'text', text: characters });
export const sequence = (...parts: Rule[]): Rule => ({ kind: 'sequence', parts });
export const choice = (...rules: Rule[]): Rule => ({ kind: 'choice', rules });
export const repeat = (rule: Rule, min: number, max = Infinity): Rule => ({ kind: 'repeat', rule, min, max });
export const optional = (rule: Rule): Rule => repeat(rule, 0, 1);
export const character = (name: string, fits: (unit: number) => boolean): Rule & { kind: 'character' } => ({ kind: 'character', name, fits });

export function later(make: () => Rule): Rule {
  let made: Rule | undefined;
  return { kind: 'later', make: () => (made ??= make()) };
}

/** What is still to come: a rule, how much of it is done (characters of a text, rounds of a repeat), and what follows. */
interface Rest {
  rule: Rule;
  done: number;
  next: Rest | null;
  /** The same for equal stacks. */
  id: number;
}

/** Where a text can be. */
export class State {
  readonly #grammar: Grammar;
  readonly #rests: readonly Rest[];
  /** By character: where it leads; what is not there was not asked yet. */
  readonly #next = new Map<number, State | null>();
  /** By which of the rests it fits: characters are many, those that differ here few. */
  readonly #byFit = new Map<string, State>();
  /** Whether the text may end here. */
  readonly ends: boolean;
  /** Whether it may go on. */
  readonly goesOn: boolean;

  constructor(grammar: Grammar, rests: readonly (Rest | null)[]) {
    this.#grammar = grammar;
    this.#rests = rests.filter((rest) => rest !== null);
    this.ends = this.#rests.length < rests.length;
    this.goesOn = this.#rests.length > 0;
  }

  /** The state after one more character; null when the grammar does not allow it. */
  after(unit: number): State | null {
    let state = this.#next.get(unit);
    if (state === undefined) {
      state = this.#step(unit);
      this.#next.set(unit, state);
    }
    return state;
  }

  /** How many characters of a rule fit in a row, whichever of them they are; counted up to `most`. */
  reach(rule: Rule, most: number): number {
    let n = 0;
    for (let state: State | undefined = this; n < most && state; n++) {
      const rest: Rest | undefined = state.#rests.find((each) => each.rule === rule);
      if (!rest) break;
      state = state.#behind([rest]);
    }
    return n;
  }

  #step(unit: number): State | null {
    const fitting = this.#rests.filter(({ rule, done }) => (rule.kind === 'text' ? rule.text.charCodeAt(done) === unit : rule.kind === 'character' && rule.fits(unit)));
    return fitting.length > 0 ? this.#behind(fitting) : null;
  }

  #behind(fitting: readonly Rest[]): State {
    const key = fitting.map(({ id }) => id).join(' ');
    let state = this.#byFit.get(key);
    if (!state) this.#byFit.set(key, (state = this.#grammar.behind(fitting)));
    return state;
  }

  /** The state after more text. */
  afterText(characters: string): State | null {
    let state: State | null = this;
    for (let i = 0; i < characters.length && state; i++) state = state.after(characters.charCodeAt(i));
    return state;
  }
}

export class Grammar {
  readonly start: State;
  readonly #ruleIds = new Map<Rule, number>();
  readonly #rests = new Map<string, Rest>();
  readonly #states = new Map<string, State>();

  constructor(root: Rule) {
    this.start = this.#stateOf([this.#rest(root, 0, null)]);
  }

  /** The state once the character on top of each is there. */
  behind(rests: readonly Rest[]): State {
    return this.#stateOf(rests.map(({ rule, done, next }) => (rule.kind === 'text' && done + 1 < rule.text.length ? this.#rest(rule, done + 1, next) : next)));
  }

  /** Equal stacks are one object. */
  #rest(rule: Rule, done: number, next: Rest | null): Rest {
    let id = this.#ruleIds.get(rule);
    if (id === undefined) this.#ruleIds.set(rule, (id = this.#ruleIds.size));
    const key = `${id},${done},${next ? next.id : -1}`;
    let rest = this.#rests.get(key);
    if (!rest) this.#rests.set(key, (rest = { rule, done, next, id: this.#rests.size }));
    return rest;
  }

  /** The state of these stacks, opened until a character is on top of each. */
  #stateOf(rests: readonly (Rest | null)[]): State {
    const opened = new Set<Rest | null>();
    const seen = new Set<Rest>();
    for (const rest of rests) this.#open(rest, opened, seen);
    const list = [...opened];
    const key = list.map((rest) => (rest ? rest.id : -1)).sort((a, b) => a - b).join(' ');
    let state = this.#states.get(key);
    if (!state) this.#states.set(key, (state = new State(this, list)));
    return state;
  }

  #open(rest: Rest | null, opened: Set<Rest | null>, seen: Set<Rest>): void {
    if (!rest || rest.rule.kind === 'character' || (rest.rule.kind === 'text' && rest.rule.text !== '')) {
      opened.add(rest);
      return;
    }
    if (seen.has(rest)) return; // a rule that comes back to itself without a character
    seen.add(rest);
    const { rule, done, next } = rest;
    const open = (one: Rest | null): void => this.#open(one, opened, seen);
    switch (rule.kind) {
      case 'text':
        open(next);
        break;
      case 'later':
        open(this.#rest(rule.make(), 0, next));
        break;
      case 'choice':
        for (const each of rule.rules) open(this.#rest(each, 0, next));
        break;
      case 'sequence': {
        const part = rule.parts[done];
        if (part) open(this.#rest(part, 0, done + 1 < rule.parts.length ? this.#rest(rule, done + 1, next) : next));
        else open(next);
        break;
      }
      case 'repeat':
        // Rounds beyond what the bounds tell apart are one round.
        if (done >= rule.min) open(next);
        if (done < rule.max) open(this.#rest(rule.rule, 0, this.#rest(rule, rule.max === Infinity ? Math.min(done + 1, rule.min) : done + 1, next)));
        break;
    }
  }
}
