/**
 * tokenizer-sentencepiece.ts: a SentencePiece model (tokenizer.model, spiece.model) and llama2.c's tokenizer.bin as a tokenizer.json.
 *
 * A SentencePiece model is a protobuf message. Of its fields Heddle reads
 *   1 pieces: 1 text, 2 score (float), 3 type         2 training: 3 kind (1 unigram, 2 BPE), 24 ▁ behind words, 45–48 texts of the unknown, begin,
 *   3 normalizer: 2 character map, 3 ▁ put first,       end and padding tokens
 *     4 spaces collapsed, 5 spaces as ▁
 *
 * tokenizer.bin: int32 longest token's bytes, then for each token float32 score, int32 bytes and the UTF-8 text, spaces as spaces. Ids 0, 1, 2
 * are unknown, begin, end; 3 to 258 the bytes. Little endian.
 */
import { HeddleError } from './errors.js';
import { addedPieces, between, pieceModel, pieceType, spaceMarks, spaceMarksBack } from './tokenizer-json.js';
import type { Piece, TokenizerConfig, TokenizerDescription } from './tokenizer-json.js';

/** A field of a message: a number (varint or float) or bytes. */
interface Field {
  number: number;
  value: number;
  bytes: Uint8Array;
}

const none = new Uint8Array(0);

class Message {
  #at = 0;
  readonly #view: DataView;

  constructor(readonly bytes: Uint8Array, readonly name: string) {
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  #need(count: number): number {
    const at = this.#at;
    if (count > this.bytes.byteLength - at) throw new HeddleError('bad_file', `${this.name}: ends within a field at byte ${at} of ${this.bytes.byteLength}: not a SentencePiece model`);
    this.#at += count;
    return at;
  }

  /** Up to 64 bits; what Heddle reads fits a double. */
  #varint(): number {
    for (let value = 0, scale = 1, n = 0; n < 10; n++, scale *= 128) {
      const byte = this.bytes[this.#need(1)] ?? 0;
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
    throw new HeddleError('bad_file', `${this.name}: a number of more than 10 bytes at byte ${this.#at}: not a SentencePiece model`);
  }

  *fields(): Generator<Field> {
    while (this.#at < this.bytes.byteLength) {
      const tag = this.#varint();
      const number = Math.floor(tag / 8);
      const kind = tag % 8;
      if (kind === 0) yield { number, value: this.#varint(), bytes: none };
      else if (kind === 5) yield { number, value: this.#view.getFloat32(this.#need(4), true), bytes: none };
      else if (kind === 1) yield { number, value: this.#view.getFloat64(this.#need(8), true), bytes: none };
      else if (kind === 2) {
        const length = this.#varint();
        const at = this.#need(length);
        yield { number, value: 0, bytes: this.bytes.subarray(at, at + length) };
      } else throw new HeddleError('bad_file', `${this.name}: a field of unknown kind ${kind} before byte ${this.#at}: not a SentencePiece model`);
    }
  }
}

const text = (bytes: Uint8Array): string => new TextDecoder('utf-8', { ignoreBOM: true }).decode(bytes);

function readPiece(bytes: Uint8Array, name: string): Piece {
  const piece: Piece = { text: '', score: 0, type: pieceType.normal };
  for (const field of new Message(bytes, name).fields()) {
    if (field.number === 1) piece.text = text(field.bytes);
    if (field.number === 2) piece.score = field.value;
    if (field.number === 3) piece.type = field.value;
  }
  return piece;
}

interface SentencePieceModel {
  pieces: Piece[];
  /** 1 unigram, 2 BPE, 3 words, 4 characters. */
  kind: number;
  prefix: boolean;
  collapse: boolean;
  characterMap: boolean;
  names: Pick<TokenizerConfig, 'unk_token' | 'bos_token' | 'eos_token' | 'pad_token'>;
}

function readModel(bytes: Uint8Array, name: string): SentencePieceModel {
  const model: SentencePieceModel = { pieces: [], kind: 1, prefix: true, collapse: true, characterMap: false, names: { unk_token: '<unk>', bos_token: '<s>', eos_token: '</s>', pad_token: '<pad>' } };
  const refuse = (what: string): HeddleError => new HeddleError('unsupported', `${name}: ${what}`);
  const training = ({ number, value, bytes: found }: Field): void => {
    if (number === 3) model.kind = value;
    if (number === 24 && value !== 0) throw refuse('spaces marked behind words (treat_whitespace_as_suffix) are not built');
    if (number === 45) model.names.unk_token = text(found);
    if (number === 46) model.names.bos_token = text(found);
    if (number === 47) model.names.eos_token = text(found);
    if (number === 48) model.names.pad_token = text(found);
  };
  const normalizer = ({ number, value, bytes: found }: Field): void => {
    if (number === 2) model.characterMap = found.byteLength > 0;
    if (number === 3) model.prefix = value !== 0;
    if (number === 4) model.collapse = value !== 0;
    if (number === 5 && value === 0) throw refuse('spaces kept as they are (escape_whitespaces off) are not built');
  };
  for (const field of new Message(bytes, name).fields()) {
    if (field.number === 1) model.pieces.push(readPiece(field.bytes, name));
    if (field.number === 2) for (const inner of new Message(field.bytes, name).fields()) training(inner);
    if (field.number === 3) for (const inner of new Message(field.bytes, name).fields()) normalizer(inner);
  }
  if (model.pieces.length === 0) throw new HeddleError('bad_file', `${name}: no pieces: not a SentencePiece model`);
  if (model.kind !== 1 && model.kind !== 2) throw refuse(`models of ${model.kind === 3 ? 'words' : model.kind === 4 ? 'characters' : `kind ${model.kind}`} are not built; unigram and BPE are`);
  return model;
}

/**
 * A SentencePiece model. The file does not say what goes around a text: `config` may (add_bos_token, add_eos_token); else BPE vocabularies
 * (Llama, Mistral, Gemma) begin with the begin token, unigram ones (T5) end with the end token.
 */
export function sentencePieceTokenizer(bytes: Uint8Array, config: TokenizerConfig, name: string): TokenizerDescription {
  const { pieces, kind, prefix, collapse, characterMap, names } = readModel(bytes, name);
  const isBpe = kind === 2;
  const has = (token: string): boolean => pieces.some((piece) => piece.text === token && piece.type !== pieceType.normal);
  const named = Object.fromEntries(Object.entries(names).filter(([, token]) => has(token as string)));
  const unknown = pieces.findIndex(({ type }) => type === pieceType.unknown);
  if (!isBpe && unknown < 0) throw new HeddleError('bad_file', `${name}: a unigram model without an unknown piece`);
  if (!isBpe && pieces.some(({ type }) => type === pieceType.byte)) throw new HeddleError('unsupported', `${name}: a unigram model that falls back to bytes is not built`);
  const all: TokenizerConfig = { ...named, ...config, add_bos_token: false };
  const begin = (config.add_bos_token ?? isBpe) ? (named['bos_token'] as string | undefined) : undefined;
  const end = (config.add_eos_token ?? !isBpe) ? (named['eos_token'] as string | undefined) : undefined;
  return {
    from: name,
    config: all,
    tokenizer: {
      added_tokens: addedPieces(pieces),
      normalizer: spaceMarks(prefix, collapse, characterMap ? '' : undefined),
      pre_tokenizer: null,
      post_processor: between(begin, end),
      decoder: spaceMarksBack(prefix),
      model: isBpe ? pieceModel(pieces, pieces[unknown]?.text) : { type: 'Unigram', unk_id: unknown, vocab: pieces.map((piece) => [piece.text, piece.score]) },
    },
  };
}

/** llama2.c's tokenizer.bin: the same vocabulary and scores without names and types, which are always the same. */
export function llama2cTokenizer(bytes: Uint8Array, config: TokenizerConfig, name: string): TokenizerDescription {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const refuse = (what: string): HeddleError => new HeddleError('bad_file', `${name}: ${what}: not llama2.c's tokenizer`);
  if (bytes.byteLength < 4) throw refuse(`expected at least 4 bytes, found ${bytes.byteLength}`);
  const longest = view.getUint32(0, true);
  const pieces: Piece[] = [];
  for (let at = 4; at < bytes.byteLength; ) {
    const length = at + 8 <= bytes.byteLength ? view.getUint32(at + 4, true) : Infinity;
    if (length > longest || length > bytes.byteLength - at - 8) throw refuse(`token ${pieces.length} runs past ${length > longest ? `the longest, ${longest} bytes,` : 'the end'} at byte ${at}`);
    pieces.push({ text: text(bytes.subarray(at + 8, at + 8 + length)).replaceAll(' ', '▁'), score: view.getFloat32(at, true), type: pieceType.normal });
    at += 8 + length;
  }
  if (pieces.length < 259) throw refuse(`expected at least 259 tokens, found ${pieces.length}`);
  const { unknown, control, byte } = pieceType;
  for (const [id, [token, type]] of ([['<unk>', unknown], ['<s>', control], ['</s>', control]] as const).entries()) pieces[id] = { text: token, score: 0, type };
  for (let b = 0; b < 256; b++) pieces[3 + b] = { text: `<0x${b.toString(16).toUpperCase().padStart(2, '0')}>`, score: 0, type: byte };
  return {
    from: name,
    config: { unk_token: '<unk>', bos_token: '<s>', eos_token: '</s>', ...config, add_bos_token: false },
    tokenizer: {
      added_tokens: addedPieces(pieces),
      normalizer: spaceMarks(true),
      pre_tokenizer: null,
      post_processor: between((config.add_bos_token ?? true) ? '<s>' : undefined, config.add_eos_token ? '</s>' : undefined),
      decoder: spaceMarksBack(true),
      model: pieceModel(pieces, '<unk>'),
    },
  };
}
