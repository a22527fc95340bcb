/**
 * tokenizer-json.ts: the form every tokenizer takes here, that of tokenizer.json and tokenizer_config.json, and the parts that the readers of
 * other files (GGUF metadata, SentencePiece, vocabularies) put together to say the same.
 */
import { HeddleError } from './errors.js';

/** A token that is looked for in the text before anything else. Those that are `special` are left out of decoded text. */
export interface AddedToken {
  id: number;
  content: string;
  special: boolean;
  normalized: boolean;
}

/** Of tokenizer.json what Heddle reads or writes; the steps are the library's. */
export interface TokenizerJson {
  added_tokens: AddedToken[];
  normalizer: object | null;
  pre_tokenizer: object | null;
  post_processor: object | null;
  decoder: object | null;
  model: object;
}

/** A special token, as tokenizer_config.json and special_tokens_map.json write it. */
export type NamedToken = string | { content?: string } | null;

/** Of tokenizer_config.json what Heddle reads. */
export interface TokenizerConfig {
  add_bos_token?: boolean;
  add_eos_token?: boolean;
  bos_token?: NamedToken;
  eos_token?: NamedToken;
  unk_token?: NamedToken;
  pad_token?: NamedToken;
  sep_token?: NamedToken;
  cls_token?: NamedToken;
  mask_token?: NamedToken;
  tokenizer_class?: string;
  do_lower_case?: boolean;
  clean_up_tokenization_spaces?: boolean;
  added_tokens_decoder?: { readonly [id: string]: { content?: string; special?: boolean } };
  chat_template?: string | readonly { name?: string; template?: string }[];
}

/** A tokenizer, wherever it was read from. */
export interface TokenizerDescription {
  /** For messages: the file it came from. */
  from: string;
  tokenizer: TokenizerJson;
  config: TokenizerConfig;
}

/** A special token's text; undefined where there is none. */
export function tokenText(token: NamedToken | undefined): string | undefined {
  return typeof token === 'string' ? token : (token?.content ?? undefined);
}

export function addedToken(id: number, content: string, special: boolean): AddedToken {
  return { id, content, special, normalized: false };
}

/** Token text to id. The first of two tokens of one text keeps it. */
export function vocabulary(tokens: Iterable<readonly [text: string, id: number]>): Record<string, number> {
  const ids = new Map<string, number>();
  for (const [text, id] of tokens) if (!ids.has(text)) ids.set(text, id);
  return Object.fromEntries(ids);
}

const specialToken = (id: string, type_id: number): object => ({ SpecialToken: { id, type_id } });
const sequence = (id: 'A' | 'B', type_id: number): object => ({ Sequence: { id, type_id } });

/** Puts a begin token before a text and an end token behind it, and both around each of a pair; null where there is neither. */
export function between(begin: string | undefined, end: string | undefined): object | null {
  if (begin === undefined && end === undefined) return null;
  const around = (id: 'A' | 'B', type: number): object[] => [
    ...(begin === undefined ? [] : [specialToken(begin, type)]),
    sequence(id, type),
    ...(end === undefined ? [] : [specialToken(end, type)]),
  ];
  return { type: 'TemplateProcessing', single: around('A', 0), pair: [...around('A', 0), ...around('B', 1)] };
}

/** BERT's frame: [CLS] A [SEP], or [CLS] A [SEP] B [SEP]. */
export function betweenClsAndSep(cls: string, sep: string): object {
  const single = [specialToken(cls, 0), sequence('A', 0), specialToken(sep, 0)];
  return { type: 'TemplateProcessing', single, pair: [...single, sequence('B', 1), specialToken(sep, 1)] };
}

/** BERT's WordPiece: words, and pieces within words that begin with ##. */
export function wordPiece(vocab: Record<string, number>, unknown: string, lowercase: boolean): Pick<TokenizerJson, 'normalizer' | 'pre_tokenizer' | 'decoder' | 'model'> {
  return {
    normalizer: { type: 'BertNormalizer', clean_text: true, handle_chinese_chars: true, strip_accents: null, lowercase },
    pre_tokenizer: { type: 'BertPreTokenizer' },
    decoder: { type: 'WordPiece', prefix: '##', cleanup: true },
    model: { type: 'WordPiece', vocab, unk_token: unknown, continuing_subword_prefix: '##', max_input_chars_per_word: 100 },
  };
}

/** A vocabulary without lower case only has words that went through BERT's lowercase. */
export function isUncased(words: Iterable<string>): boolean {
  for (const word of words) if (/^[A-Z]/.test(word)) return false;
  return true;
}

/** What a text becomes for SentencePiece: spaces as ▁, one put before the text where the model was trained so. */
export function spaceMarks(prefix: boolean, collapse = false, precompiled: string | undefined = undefined): object {
  const replace = (pattern: object, content: string): object => ({ type: 'Replace', pattern, content });
  return {
    type: 'Sequence',
    normalizers: [
      ...(precompiled === undefined ? [] : [{ type: 'Precompiled', precompiled_charsmap: precompiled }]),
      ...(collapse ? [replace({ Regex: '^ +| +$' }, ''), replace({ Regex: ' {2,}' }, ' ')] : []),
      ...(prefix ? [{ type: 'Prepend', prepend: '▁' }] : []),
      replace({ String: ' ' }, '▁'),
    ],
  };
}

/** The way back: ▁ as spaces, <0x..> as bytes, and the space that was put first taken off. */
export function spaceMarksBack(prefix: boolean): object {
  return {
    type: 'Sequence',
    decoders: [
      { type: 'Replace', pattern: { String: '▁' }, content: ' ' },
      { type: 'ByteFallback' },
      { type: 'Fuse' },
      ...(prefix ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []),
    ],
  };
}

/** A piece of a SentencePiece vocabulary. Types are those of its format, which GGUF and Heddle share. */
export interface Piece {
  text: string;
  score: number;
  type: number;
}

export const pieceType = { normal: 1, unknown: 2, control: 3, userDefined: 4, unused: 5, byte: 6 } as const;

/** Tokens that no merge makes: they are found in the text as they are, or never. */
export function addedPieces(pieces: readonly Piece[]): AddedToken[] {
  const { unknown, control, userDefined } = pieceType;
  return pieces.flatMap(({ text, type }, id) => (type === unknown || type === control || type === userDefined ? [addedToken(id, text, type !== userDefined)] : []));
}

/**
 * SentencePiece's BPE as byte-pair merges. It always joins the two neighbours whose joined piece has the best score; so every way to cut a
 * piece in two pieces is a merge, those of the best piece first. Of one piece's cuts the order is the library's own (by ids).
 */
export function pieceMerges(pieces: readonly Piece[]): [string, string][] {
  const ids = new Map<string, number>();
  for (const [id, { text, type }] of pieces.entries()) if (type === pieceType.normal || type === pieceType.userDefined) ids.set(text, id);
  const merges: { pair: [string, string]; score: number; left: number; right: number }[] = [];
  for (const [text, id] of ids) {
    for (let cut = 1; cut < text.length; cut++) {
      const pair: [string, string] = [text.slice(0, cut), text.slice(cut)];
      const left = ids.get(pair[0]);
      const right = ids.get(pair[1]);
      if (left !== undefined && right !== undefined) merges.push({ pair, score: pieces[id]?.score ?? 0, left, right });
    }
  }
  merges.sort((a, b) => b.score - a.score || a.left - b.left || a.right - b.right);
  return merges.map(({ pair }) => pair);
}

/** The model of a SentencePiece BPE vocabulary; bytes stand in for what it has no piece for. */
export function pieceModel(pieces: readonly Piece[], unknown: string | undefined): object {
  return {
    type: 'BPE',
    vocab: vocabulary(pieces.map(({ text }, id) => [text, id] as const)),
    merges: pieceMerges(pieces),
    unk_token: unknown ?? null,
    fuse_unk: true,
    byte_fallback: pieces.some(({ type }) => type === pieceType.byte),
  };
}

/** An object that a file holds as JSON, given as text or parsed. */
export function parsedObject(file: object | string, name: string): object {
  let value: unknown = file;
  if (typeof file === 'string') {
    try {
      value = JSON.parse(file);
    } catch (error) {
      throw new HeddleError('bad_file', `${name}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
    }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw new HeddleError('bad_file', `${name}: expected an object`);
  return value;
}
