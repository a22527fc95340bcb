/**
 * simple-text.ts: LispeTorch's simple text tools: a tokenizer of words that learns its vocabulary from what it encodes, padding and masks.
 *
 * Ids 0 to 3 are <pad>, <unk>, <bos>, <eos>; words get the next ids in the order in which they are met. A text is cut as C's isspace and ispunct
 * cut its bytes: at white space, and each mark of ASCII's is a word of its own; letters of ASCII's become small, all else stays.
 */
import { checkBoolean, checkCount, checkOptions, checkText, checkWholeNumbers, expected, isPlainObject } from './arguments.js';
import { HeddleError, messageOf } from './errors.js';
import type { NumbersInput } from './types.js';

const specials: readonly string[] = ['<pad>', '<unk>', '<bos>', '<eos>'];
const [pad, unknown, begin, end] = [0, 1, 2, 3];

/** A mark, or a run of what is neither a mark nor white space. */
const words = /[!-/:-@[-`{-~]|[^\t-\r !-/:-@[-`{-~]+/g;
const isMark = (token: string): boolean => /^[!-/:-@[-`{-~]/.test(token);

export class SimpleTokenizer {
  readonly #tokens: string[] = [...specials];
  readonly #ids = new Map<string, number>(specials.map((token, id) => [token, id]));

  /** The number of tokens, the four special ones included. */
  get vocabSize(): number {
    return this.#tokens.length;
  }

  /** Ids of the text between <bos> and <eos>. Words not met before join the vocabulary; with `grow` false they are <unk>. */
  encode(text: string, options: { grow?: boolean } = {}): number[] {
    checkText(text, 'text');
    checkOptions(options, { grow: checkBoolean });
    const ids = cut(text).map((word) => this.#ids.get(word) ?? (options.grow === false ? unknown : this.#add(word)));
    return [begin, ...ids, end];
  }

  #add(word: string): number {
    const id = this.#tokens.push(word) - 1;
    this.#ids.set(word, id);
    return id;
  }

  /** Words with a space between, none before a mark; <pad>, <bos>, <eos> and ids that are no tokens are left out. */
  decode(ids: NumbersInput | number): string {
    const list = typeof ids === 'number' ? [ids] : ids;
    checkWholeNumbers(list, 'ids');
    let text = '';
    for (const id of Array.from(list)) {
      const token = this.#tokens[id];
      if (token === undefined || id === pad || id === begin || id === end) continue;
      text += text === '' || isMark(token) ? token : ` ${token}`;
    }
    return text;
  }

  /** The vocabulary as JSON: { "<pad>": 0, …, "the": 4 }. */
  save(): string {
    return JSON.stringify(Object.fromEntries(this.#ids));
  }

  /** A tokenizer with a saved vocabulary; it goes on learning. */
  static load(vocabulary: string): SimpleTokenizer {
    checkText(vocabulary, 'vocabulary');
    const tokenizer = new SimpleTokenizer();
    for (const [id, token] of listed(vocabulary).entries()) {
      if (id < specials.length ? token !== specials[id] : tokenizer.#ids.has(token)) throw new HeddleError('bad_file', `vocabulary: id ${id}: expected ${specials[id] ?? 'a new word'}, found '${token}'`);
      if (id >= specials.length) tokenizer.#add(token);
    }
    return tokenizer;
  }
}

function cut(text: string): string[] {
  const found = text.match(words) ?? [];
  return found.map((word) => word.replace(/[A-Z]+/g, (letters) => letters.toLowerCase()));
}

/** The tokens of a saved vocabulary in the order of their ids, which must be 0, 1, 2, … */
function listed(vocabulary: string): string[] {
  let ids: unknown;
  try {
    ids = JSON.parse(vocabulary);
  } catch (error) {
    throw new HeddleError('bad_file', `vocabulary: ${messageOf(error)}`, { cause: error });
  }
  if (!isPlainObject(ids)) throw new HeddleError('bad_file', 'vocabulary: expected an object of words and ids');
  const entries = Object.entries(ids);
  const tokens = new Array<string | undefined>(entries.length).fill(undefined);
  for (const [token, id] of entries) {
    const isFree = Number.isInteger(id) && Number(id) >= 0 && Number(id) < tokens.length && tokens[Number(id)] === undefined;
    if (!isFree) throw new HeddleError('bad_file', `vocabulary: '${token}': expected an id of its own below ${tokens.length}, found ${String(id)}`);
    tokens[Number(id)] = token;
  }
  if (tokens.length < specials.length) throw new HeddleError('bad_file', `vocabulary: expected at least ${specials.length} tokens, found ${tokens.length}`);
  return tokens as string[];
}

/** Sequences of one length, row after row: `ids` [sequences, length], ready for `forward(ids, shape)`. */
export interface PaddedSequences {
  ids: Int32Array;
  shape: [sequences: number, length: number];
}

/** Brings sequences of ids to one length: longer ones lose their end, shorter ones get `padToken` (0) behind. */
export function padSequence(sequences: readonly NumbersInput[], length: number, padToken = 0): PaddedSequences {
  if (!Array.isArray(sequences)) throw expected('sequences', 'an array of arrays of ids', sequences);
  checkCount(length, 'length');
  checkWholeNumbers([padToken], 'padToken');
  if (sequences.length * length > 0x7fffffff) throw new HeddleError('bad_argument', `length: ${sequences.length} sequences of ${length} ids are more than 2^31 − 1`);
  for (const [i, sequence] of sequences.entries()) checkWholeNumbers(sequence, `sequences[${i}]`);
  const ids = new Int32Array(sequences.length * length).fill(padToken);
  for (const [i, sequence] of sequences.entries()) ids.set(Array.from(sequence as ArrayLike<number>).slice(0, length), i * length);
  return { ids, shape: [sequences.length, length] };
}

/** 1 where there is a token, 0 where there is padding; of the shape of the ids. */
export function createAttentionMask(ids: NumbersInput, padToken = 0): Float32Array {
  checkWholeNumbers(ids, 'ids');
  checkWholeNumbers([padToken], 'padToken');
  return Float32Array.from(ids as ArrayLike<number>, (id) => (id === padToken ? 0 : 1));
}
