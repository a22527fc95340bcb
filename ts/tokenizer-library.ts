/**
 * tokenizer-library.ts: @huggingface/tokenizers as Heddle uses it: the one place that imports it, bundled with it by tools/bundle.mjs. What
 * the library does otherwise than transformers is set right here:
 *
 *   bytes      A run of <0x..> tokens that is no UTF-8 is one U+FFFD for each byte; the library decodes what it can, and drops byte order marks.
 *   ideographs BERT puts spaces around those beyond U+FFFF too; the library does so only below.
 *   decoding   Ids that are no tokens are left out (vocabularies of models are padded); the library fails or prints "undefined".
 *   digits     are numbers of any script to transformers; the library cuts at ASCII's only.
 *   pairs      The second text is lost where nothing, or only byte levels, goes around texts.
 *   speed      A SentencePiece text is one word to it. Where no piece goes past a word's end, words are cut first: the same ids, ten times as fast.
 *   clean-up   Spaces before marks stay unless tokenizer_config.json asks otherwise or it is BERT; the library's default takes them away.
 */
import * as huggingFace from '@huggingface/tokenizers';
import { HeddleError, messageOf } from './errors.js';
import type { TokenizerDescription, TokenizerJson } from './tokenizer-json.js';

type Class = new (...args: unknown[]) => object;

/** The library's classes; the package's own types name only some of them under NodeNext. */
const { ByteFallbackDecoder, SequenceDecoder, Tokenizer: Library } = huggingFace as unknown as { [name in 'ByteFallbackDecoder' | 'SequenceDecoder' | 'Tokenizer']: Class };

/** What Heddle uses of the library. */
interface Methods {
  encode(text: string, options?: { text_pair?: string; add_special_tokens?: boolean; return_token_type_ids?: boolean }): { ids: (number | undefined)[]; token_type_ids?: number[] };
  decode(ids: number[], options?: { skip_special_tokens?: boolean; clean_up_tokenization_spaces?: boolean }): string;
  token_to_id(token: string): number | undefined;
  id_to_token(id: number): string | undefined;
  decoder: object | null;
  all_special_ids: number[];
  model: { vocab: (string | undefined)[] };
}

export interface Encoded {
  ids: number[];
  /** 0 for what belongs to the first text, 1 for the second. */
  typeIds: number[];
}

export class LibraryTokenizer {
  readonly #library: Methods;
  readonly #specials: ReadonlySet<number>;
  readonly #cleanUp: boolean;
  readonly #from: string;

  /** Throws `bad_file` when the library knows no such tokenizer. */
  constructor({ tokenizer, config, from }: TokenizerDescription) {
    this.#from = from;
    try {
      this.#library = new Library(amended(tokenizer), config) as unknown as Methods;
    } catch (error) {
      throw new HeddleError('bad_file', `${from}: ${messageOf(error)}`, { cause: error });
    }
    setDecoderRight(this.#library.decoder);
    this.#specials = new Set(this.#library.all_special_ids);
    this.#cleanUp = config.clean_up_tokenization_spaces ?? isWordPiece(tokenizer);
  }

  /** Ids past the last token; what models pad their vocabularies to lies beyond. */
  get size(): number {
    return this.#library.model.vocab.length;
  }

  isSpecial(id: number): boolean {
    return this.#specials.has(id);
  }

  idOf(token: string): number | undefined {
    return this.#library.token_to_id(token);
  }

  tokenOf(id: number): string | undefined {
    return this.#library.id_to_token(id);
  }

  encode(text: string, pair: string | undefined, addSpecial: boolean): Encoded {
    const { ids, token_type_ids: types } = this.#library.encode(text, { add_special_tokens: addSpecial, return_token_type_ids: true, ...(pair !== undefined && { text_pair: pair }) });
    if (ids.includes(undefined)) throw new HeddleError('bad_file', `${this.#from}: the vocabulary has no token for a part of the text, and no unknown token`);
    return { ids: ids as number[], typeIds: types ?? ids.map(() => 0) };
  }

  decode(ids: readonly number[], skipSpecial: boolean): string {
    const known = ids.filter((id) => this.tokenOf(id) !== undefined && !(skipSpecial && this.#specials.has(id)));
    return known.length === 0 ? '' : this.#library.decode(known, { skip_special_tokens: false, clean_up_tokenization_spaces: this.#cleanUp });
  }
}

function isWordPiece({ model }: TokenizerJson): boolean {
  return (model as { type?: string } | undefined)?.type === 'WordPiece';
}

/** What puts a pair together where the file has nothing to put around texts. */
function joins(step: object | null): object {
  if (step !== null && (step as { type?: string }).type !== 'ByteLevel') return step;
  const first = { Sequence: { id: 'A', type_id: 0 } };
  return { type: 'TemplateProcessing', single: [first], pair: [first, { Sequence: { id: 'B', type_id: 1 } }] };
}

/** A cut at digits said in a way the library follows. */
function cuts(step: object | null): object | null {
  const { type, pretokenizers, individual_digits: each } = (step ?? {}) as { type?: string; pretokenizers?: object[]; individual_digits?: boolean };
  if (type === 'Digits') return { type: 'Split', pattern: { Regex: each ? '\\p{N}' : '\\p{N}+' }, behavior: 'Isolated', invert: false };
  return Array.isArray(pretokenizers) ? { ...step, pretokenizers: pretokenizers.map(cuts) } : step;
}

/** Cuts before ▁ where no piece goes on from a word to a ▁: no merge can cross there. */
function words({ model }: TokenizerJson): object | null {
  const { type, vocab, byte_fallback: bytes } = (model ?? {}) as { type?: string; vocab?: object; byte_fallback?: boolean };
  if (type !== 'BPE' || !bytes || Object.keys(vocab ?? {}).some((piece) => /[^▁]▁/.test(piece))) return null;
  return { type: 'Split', pattern: { Regex: '▁+[^▁]*|[^▁]+' }, behavior: 'Isolated', invert: false };
}

/** The file with every step it leaves out, and BERT's rule for ideographs beyond U+FFFF said in a way the library follows. */
function amended(tokenizer: TokenizerJson): object {
  const { normalizer = null, pre_tokenizer = null, post_processor = null, decoder = null, added_tokens = [] } = tokenizer as Partial<TokenizerJson>;
  const { type, handle_chinese_chars: spaced } = (normalizer ?? {}) as { type?: string; handle_chinese_chars?: boolean };
  const isBert = type === 'BertNormalizer' && spaced !== false;
  return {
    ...tokenizer, added_tokens, pre_tokenizer: cuts(pre_tokenizer) ?? words(tokenizer), post_processor: joins(post_processor), decoder,
    normalizer: isBert ? { type: 'Sequence', normalizers: [{ type: 'Replace', pattern: { Regex: farIdeographs }, content: ' $& ' }, normalizer] } : normalizer,
  };
}

/** The blocks of CJK ideographs that BERT lists, beyond U+FFFF. */
const farIdeographs = '[\\u{20000}-\\u{2A6DF}\\u{2A700}-\\u{2B73F}\\u{2B740}-\\u{2B81F}\\u{2B820}-\\u{2CEAF}\\u{2F800}-\\u{2FA1F}]';

/** Gives the library's decoder, or the one among its steps that knows bytes, our reading of them. */
function setDecoderRight(decoder: unknown): void {
  if (decoder instanceof ByteFallbackDecoder) (decoder as { decode_chain: (tokens: string[]) => string[] }).decode_chain = decodeBytes;
  if (decoder instanceof SequenceDecoder) for (const step of (decoder as unknown as { decoders: unknown[] }).decoders) setDecoderRight(step);
}

const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

function decodeBytes(tokens: string[]): string[] {
  const out: string[] = [];
  let run: number[] = [];
  const endRun = (): void => {
    if (run.length === 0) return;
    try {
      out.push(utf8.decode(Uint8Array.from(run)));
    } catch {
      out.push('\uFFFD'.repeat(run.length));
    }
    run = [];
  };
  for (const token of tokens) {
    const byte = /^<0x([0-9A-Fa-f]{2})>$/.exec(token)?.[1];
    if (byte !== undefined) run.push(parseInt(byte, 16));
    else {
      endRun();
      out.push(token);
    }
  }
  endRun();
  return out;
}
