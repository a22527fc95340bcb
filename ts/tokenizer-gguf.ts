/**
 * tokenizer-gguf.ts: the tokenizer a GGUF file's metadata describes (keys tokenizer.ggml.*), as a tokenizer.json.
 *
 *   model   llama: SentencePiece's BPE, scores say what merges first;  gpt2: byte-level BPE with merges, `pre` names how text is cut;
 *           bert: WordPiece, ▁ before words instead of ## within;      t5: SentencePiece's unigram
 *   tokens, scores, token_type (as SentencePiece has them), merges, …_token_id, add_bos_token, add_eos_token, add_space_prefix
 *   tokenizer.chat_template, tokenizer.chat_template.<name>
 */
import { HeddleError, counted } from './errors.js';
import { addedPieces, addedToken, between, betweenClsAndSep, isUncased, pieceModel, pieceType, spaceMarks, spaceMarksBack, vocabulary, wordPiece } from './tokenizer-json.js';
import type { AddedToken, Piece, TokenizerConfig, TokenizerDescription, TokenizerJson } from './tokenizer-json.js';
import { byteLevelBpe, ruleBegins } from './tokenizer-split.js';

/** Metadata by key: numbers (or bigints), booleans, strings, arrays and typed arrays of them. */
export type GgufMetadata = ReadonlyMap<string, unknown>;

const from = 'GGUF metadata';

function refuse(key: string, expected: string, found: unknown): HeddleError {
  const what = found === undefined ? 'none' : Array.isArray(found) || ArrayBuffer.isView(found) ? 'an array' : typeof found === 'string' ? `'${found.slice(0, 40)}'` : String(found);
  return new HeddleError('bad_file', `${from}: ${key}: expected ${expected}, found ${what}`);
}

/** The metadata with its types checked; `undefined` where a key is not there. */
class Reader {
  constructor(readonly metadata: GgufMetadata) {}

  text(key: string): string | undefined {
    const value = this.metadata.get(key);
    if (value !== undefined && typeof value !== 'string') throw refuse(key, 'a string', value);
    return value;
  }

  flag(key: string): boolean | undefined {
    const value = this.metadata.get(key);
    if (value !== undefined && typeof value !== 'boolean') throw refuse(key, 'true or false', value);
    return value;
  }

  texts(key: string): readonly string[] | undefined {
    const value = this.metadata.get(key);
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || !value.every((each) => typeof each === 'string')) throw refuse(key, 'an array of strings', value);
    return value;
  }

  /** One number for each of `count` tokens. */
  numbers(key: string, count: number): ArrayLike<number> | undefined {
    const value = this.metadata.get(key);
    if (value === undefined) return undefined;
    if (!(Array.isArray(value) || (ArrayBuffer.isView(value) && !(value instanceof DataView)))) throw refuse(key, 'an array of numbers', value);
    const list = value as ArrayLike<unknown>;
    if (list.length !== count) throw refuse(key, `${counted(count, 'number')}, one for each token`, list.length);
    return Array.from(list, Number);
  }

  /** The token a key like bos_token_id names. */
  token(key: string, tokens: readonly string[], fallback?: number): string | undefined {
    const value = this.metadata.get(key) ?? fallback;
    if (value === undefined) return undefined;
    const token = typeof value === 'number' || typeof value === 'bigint' ? tokens[Number(value)] : undefined;
    // llama.cpp writes −1 (4294967295) where a model has no such token.
    if (token === undefined && (Number(value) === -1 || Number(value) === 0xffffffff)) return undefined;
    if (token === undefined) throw refuse(key, `an id below ${tokens.length}`, value);
    return token;
  }
}

const key = (name: string): string => `tokenizer.ggml.${name}`;

interface Vocabulary {
  read: Reader;
  pieces: Piece[];
  texts: readonly string[];
  config: TokenizerConfig;
}

/** The tokenizer of GGUF metadata. Throws `bad_file` for what breaks the format, `unsupported` for kinds Heddle does not know. */
export function ggufTokenizer(metadata: GgufMetadata): TokenizerDescription {
  const read = new Reader(metadata);
  const kind = read.text(key('model'));
  if (kind === undefined) throw refuse(key('model'), `one of ${Object.keys(kinds).join(', ')}`, undefined);
  const make = Object.hasOwn(kinds, kind) ? kinds[kind] : undefined;
  if (!make) throw new HeddleError('unsupported', `${from}: ${key('model')} '${kind}' is not known; known: ${Object.keys(kinds).join(', ')}`);
  const texts = read.texts(key('tokens'));
  if (!texts || texts.length === 0) throw refuse(key('tokens'), 'an array of strings, at least one', texts);
  const scores = read.numbers(key('scores'), texts.length);
  const types = read.numbers(key('token_type'), texts.length);
  const pieces = texts.map((text, id) => ({ text, score: scores?.[id] ?? 0, type: types?.[id] ?? pieceType.normal }));
  const ids = kind === 'llama' ? { bos: 1, eos: 2, unk: 0 } : { bos: undefined, eos: undefined, unk: undefined };
  const config: TokenizerConfig = {
    bos_token: read.token(key('bos_token_id'), texts, ids.bos) ?? null,
    eos_token: read.token(key('eos_token_id'), texts, ids.eos) ?? null,
    unk_token: read.token(key('unknown_token_id'), texts, ids.unk) ?? null,
    pad_token: read.token(key('padding_token_id'), texts) ?? null,
    add_bos_token: false, // the post-processor puts it there
    ...chatTemplates(metadata),
  };
  return { from, tokenizer: make({ read, pieces, texts, config }), config };
}

/** What goes around a text: the file's flags, else what its kind of model does. */
function frame({ read, config }: Vocabulary, begins: boolean, ends: boolean): object | null {
  const begin = read.flag(key('add_bos_token')) ?? begins;
  const end = read.flag(key('add_eos_token')) ?? ends;
  return between(begin ? ((config.bos_token as string | null) ?? undefined) : undefined, end ? ((config.eos_token as string | null) ?? undefined) : undefined);
}

/** Tokens found in the text first: those the file marks, and those it names for a purpose. */
function added({ pieces, config }: Vocabulary): AddedToken[] {
  const found = addedPieces(pieces);
  const known = new Set(found.map(({ content }) => content));
  for (const token of [config.bos_token, config.eos_token, config.pad_token] as (string | null)[]) {
    if (token === null || known.has(token)) continue;
    known.add(token);
    found.push(addedToken(pieces.findIndex(({ text }) => text === token), token, true));
  }
  return found;
}

const kinds: { readonly [name: string]: (vocabulary: Vocabulary) => TokenizerJson } = {
  llama: (v) => {
    const prefix = v.read.flag(key('add_space_prefix')) ?? true;
    return {
      added_tokens: added(v),
      normalizer: spaceMarks(prefix),
      pre_tokenizer: null,
      post_processor: frame(v, true, false),
      decoder: spaceMarksBack(prefix),
      model: pieceModel(v.pieces, v.config.unk_token as string | undefined),
    };
  },

  gpt2: (v) => {
    const merges = v.read.texts(key('merges'));
    if (!merges) throw refuse(key('merges'), 'an array of strings', undefined);
    const rule = v.read.text(key('pre')) ?? 'default';
    const where = `${from}: ${key('pre')}`;
    return { added_tokens: added(v), post_processor: frame(v, ruleBegins(rule, where), false), ...byteLevelBpe(v.texts.map((text, id) => [text, id] as const), merges, rule, where) };
  },

  bert: (v) => {
    const { read, texts, pieces } = v;
    const cls = read.token(key('cls_token_id'), texts) ?? read.token(key('bos_token_id'), texts, 101);
    const sep = read.token(key('seperator_token_id'), texts) ?? read.token(key('separator_token_id'), texts) ?? read.token(key('eos_token_id'), texts, 102);
    const unknown = read.token(key('unknown_token_id'), texts, 100);
    const mask = read.token(key('mask_token_id'), texts);
    if (cls === undefined || sep === undefined || unknown === undefined) throw refuse(key('cls_token_id'), 'ids of the [CLS], [SEP] and [UNK] tokens', undefined);
    Object.assign(v.config, { unk_token: unknown, cls_token: cls, sep_token: sep, ...(mask !== undefined && { mask_token: mask }) });
    const named = new Set([cls, sep, unknown, mask, v.config.pad_token]);
    const isSpecial = ({ text, type }: Piece): boolean => type === pieceType.control || type === pieceType.unknown || named.has(text);
    const word = (piece: Piece): string => (isSpecial(piece) ? piece.text : piece.text.startsWith('▁') ? piece.text.slice(1) : `##${piece.text}`);
    const uncased = isUncased(pieces.filter((piece) => !isSpecial(piece) && piece.text.startsWith('▁')).map((piece) => piece.text.slice(1)));
    return {
      added_tokens: pieces.flatMap((piece, id) => (isSpecial(piece) ? [addedToken(id, piece.text, true)] : [])),
      post_processor: betweenClsAndSep(cls, sep),
      ...wordPiece(vocabulary(pieces.map((piece, id) => [word(piece), id] as const)), unknown, uncased),
    };
  },

  t5: (v) => {
    const prefix = v.read.flag(key('add_space_prefix')) ?? true;
    const unknown = v.pieces.findIndex(({ type }) => type === pieceType.unknown);
    if (unknown < 0) throw refuse(key('token_type'), 'an unknown token', undefined);
    return {
      added_tokens: added(v),
      normalizer: spaceMarks(prefix, v.read.flag(key('remove_extra_whitespaces')) ?? true, v.read.metadata.has(key('precompiled_charsmap')) ? '' : undefined),
      pre_tokenizer: null,
      post_processor: frame(v, false, true),
      decoder: spaceMarksBack(prefix),
      model: { type: 'Unigram', unk_id: unknown, vocab: v.pieces.map(({ text, score }) => [text, score]) },
    };
  },
};

/** The file's chat templates: one, or several by name. */
function chatTemplates(metadata: GgufMetadata): Pick<TokenizerConfig, 'chat_template'> {
  const found: { name: string; template: string }[] = [];
  for (const [name, template] of metadata) {
    const match = /^tokenizer\.chat_template(?:\.(.+))?$/.exec(name);
    if (match && typeof template === 'string') found.push({ name: match[1] ?? 'default', template });
  }
  return found.length === 0 ? {} : { chat_template: found };
}
