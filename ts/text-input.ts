/**
 * text-input.ts: texts, pairs of texts and ids as the rows a model takes: special tokens around them, cut to what it takes, and BERT's token types
 * in the ids (id + vocab_size · type: src/layers/text.c).
 */
import { checkText, checkWholeNumbers, expected } from './arguments.js';
import { HeddleError, counted } from './errors.js';
import type { Tokenizer } from './tokenizer.js';
import type { NumbersInput, PairInput, TextInput } from './types.js';

/** What texts become ids with. */
export interface InputRules {
  /** Throws where the model has none. */
  tokenizer(): Tokenizer;
  /** Most ids of an input. */
  most: number;
  /** False: a longer input is refused instead of cut. */
  cut: boolean;
  lowerCase: boolean;
  /** Ids of a token of the second type begin here; 0: the model has no types. */
  vocabulary: number;
  /** Told of an input that was cut. */
  onCut(name: string, length: number): void;
}

/** An input as ids, and its text where it came as one. */
export interface EncodedInput {
  ids: number[];
  text?: string;
}

export function encodeInput(input: TextInput | PairInput, name: string, rules: InputRules): EncodedInput {
  if (typeof input === 'string') return encodeText(input, name, rules);
  if (isPair(input)) return { ids: encodePair(input, name, rules) };
  if (!Array.isArray(input) && !ArrayBuffer.isView(input)) throw expected(name, 'a text, two texts or token ids', input);
  checkWholeNumbers(input, name);
  const ids = Array.from(input as NumbersInput);
  if (ids.length === 0) throw new HeddleError('bad_argument', `${name}: expected at least one token`);
  return { ids: kept(ids, [ids], name, rules) };
}

function isPair(input: unknown): input is PairInput {
  return Array.isArray(input) && typeof input[0] === 'string';
}

function encodeText(text: string, name: string, rules: InputRules): EncodedInput {
  const tokenizer = rules.tokenizer();
  const given = rules.lowerCase ? text.toLowerCase() : text;
  const ids = tokenizer.encode(given);
  if (ids.length === 0) throw new HeddleError('bad_argument', `${name}: the text has no tokens`);
  const bare = ids.length > rules.most ? tokenizer.encode(given, { addSpecialTokens: false }) : [];
  return { ids: kept(ids, [bare], name, rules), text };
}

function checkPair(pair: PairInput, name: string): asserts pair is readonly [string, string] {
  if (pair.length !== 2) throw expected(name, 'two texts', pair);
  pair.forEach((text, i) => checkText(text, `${name}[${i}]`));
}

function encodePair(pair: PairInput, name: string, rules: InputRules): number[] {
  checkPair(pair, name);
  const tokenizer = rules.tokenizer();
  const [text, other] = rules.lowerCase ? [pair[0].toLowerCase(), pair[1].toLowerCase()] : pair;
  const { ids, typeIds } = tokenizer.encodePair(text, other);
  const typed = ids.map((id, i) => id + rules.vocabulary * (typeIds[i] ?? 0));
  if (typed.length <= rules.most) return typed;
  const first = tokenizer.encode(text, { addSpecialTokens: false });
  const second = tokenizer.encode(other, { addSpecialTokens: false });
  return kept(typed, [first, second], name, rules);
}

// ---- Cutting ----

/** The ids without the ends of its parts, which lie in it one after another; what lies around them (special tokens) stays. */
function kept(ids: number[], parts: readonly (readonly number[])[], name: string, { most, cut, vocabulary, onCut }: InputRules): number[] {
  if (ids.length <= most) return ids;
  const around = ids.length - parts.reduce((sum, part) => sum + part.length, 0);
  if (!cut || most < around + parts.length) throw new HeddleError('bad_argument', `${name}: ${counted(ids.length, 'token')}, and the model takes ${most}`);
  onCut(name, ids.length);
  const [first = 0, second] = lengthsFor(most - around, parts.map((part) => part.length));
  const out: number[] = [];
  let at = 0;
  parts.forEach((part, i) => {
    const begin = find(ids, part, at, vocabulary);
    if (begin < 0) throw new HeddleError('unsupported', `${name}: ${ids.length} tokens, and the model takes ${most}; this tokenizer's texts cannot be cut`);
    out.push(...ids.slice(at, begin + (i === 0 ? first : (second ?? 0))));
    at = begin + part.length;
  });
  return [...out, ...ids.slice(at)];
}

/** The longer of two texts loses its end first, as in Hugging Face's tokenizers ("longest first"). */
function lengthsFor(room: number, [a = 0, b]: readonly number[]): number[] {
  if (b === undefined) return [Math.min(a, room)];
  const short = Math.min(a, b);
  if (2 * short <= room) return a <= b ? [a, room - a] : [room - b, b];
  const half = Math.floor(room / 2);
  return a <= b ? [half, room - half] : [room - half, half];
}

/** Where the part begins among the ids, whatever its token type. */
function find(ids: readonly number[], part: readonly number[], from: number, vocabulary: number): number {
  const same = (id: number | undefined, want: number): boolean => id === want || (vocabulary > 0 && id === want + vocabulary);
  for (let begin = from; begin + part.length <= ids.length; begin++) if (part.every((want, i) => same(ids[begin + i], want))) return begin;
  return -1;
}
