/**
 * tokenizer.ts: text ↔ token ids, from a model's tokenizer.json and tokenizer_config.json, by @huggingface/tokenizers.
 */
import { Tokenizer as Library } from '@huggingface/tokenizers';
import { checkText, checkTokenizerFiles, checkWholeNumbers } from './arguments.js';
import { HeddleError, messageOf } from './errors.js';

/** The two files, parsed or as text. */
export interface TokenizerFiles {
  'tokenizer.json': object | string;
  'tokenizer_config.json'?: object | string;
}

/** What Heddle uses of the library. */
interface LibraryTokenizer {
  encode(text: string, options?: { add_special_tokens?: boolean }): { ids: number[] };
  decode(ids: number[], options?: { skip_special_tokens?: boolean }): string;
  token_to_id(token: string): number | undefined;
}

interface TokenizerConfig {
  add_bos_token?: boolean;
  bos_token?: string | { content?: string } | null;
}

function parsed(file: object | string | undefined, name: string): object {
  if (typeof file !== 'string') return file ?? {};
  try {
    const value: unknown = JSON.parse(file);
    if (typeof value === 'object' && value !== null) return value;
  } catch (error) {
    throw new HeddleError('bad_file', `${name}: ${messageOf(error)}`, { cause: error });
  }
  throw new HeddleError('bad_file', `${name}: expected an object`);
}

/** The id of the begin token where a prompt needs it and the library does not put it there; else undefined. */
function missingBegin(library: LibraryTokenizer, tokenizer: { post_processor?: unknown }, config: TokenizerConfig): number | undefined {
  const token = typeof config.bos_token === 'string' ? config.bos_token : config.bos_token?.content;
  const id = token === undefined ? undefined : library.token_to_id(token);
  // Files that have a begin token and say nothing about when (no post-processor, no flag) mean: before a text.
  const wanted = config.add_bos_token ?? tokenizer.post_processor == null;
  return wanted ? id : undefined;
}

export class Tokenizer {
  readonly #library: LibraryTokenizer;
  readonly #begin: number | undefined;

  /** Throws `bad_file` when the files do not describe a tokenizer the library knows. */
  constructor(files: TokenizerFiles) {
    checkTokenizerFiles(files, 'files');
    const tokenizer = parsed(files['tokenizer.json'], 'tokenizer.json');
    const config: TokenizerConfig = parsed(files['tokenizer_config.json'], 'tokenizer_config.json');
    try {
      this.#library = new Library(tokenizer, config) as LibraryTokenizer;
    } catch (error) {
      throw new HeddleError('bad_file', `tokenizer.json: ${messageOf(error)}`, { cause: error });
    }
    this.#begin = missingBegin(this.#library, tokenizer, config);
  }

  /** Ids of a prompt: the text's, and the special tokens the files put around one. */
  encode(text: string): number[] {
    checkText(text, 'text');
    const ids = this.#library.encode(text).ids;
    return this.#begin !== undefined && ids[0] !== this.#begin ? [this.#begin, ...ids] : ids;
  }

  /** Ids of text that follows other text: without the special tokens around one. */
  encodeOn(text: string): number[] {
    checkText(text, 'text');
    return this.#library.encode(text, { add_special_tokens: false }).ids;
  }

  /** Text of the ids, special tokens left out. */
  decode(ids: readonly number[]): string {
    checkWholeNumbers(ids, 'ids');
    return ids.length === 0 ? '' : this.#library.decode([...ids], { skip_special_tokens: true });
  }

  /** What each of the first n ids adds to a text: '' for special tokens and unknown ids, U+FFFD where it is part of a character. */
  tokenTexts(n: number): string[] {
    const anchor = this.encodeOn('a').at(-1) ?? 0; // some decoders strip a text's first space
    const before = this.decode([anchor]);
    return Array.from({ length: n }, (_, id) => {
      const all = this.decode([anchor, id]);
      return all.startsWith(before) ? all.slice(before.length) : '';
    });
  }

  /** Decodes token by token, in whole characters. `prompt` are the ids that came before: some decoders strip a text's first space. */
  stream(prompt: readonly number[] = []): TextStream {
    return new TextStream(this, prompt);
  }
}

/**
 * Text as tokens arrive. A token may hold half a character: text that ends in U+FFFD is held back until it is whole. Only the
 * tokens since the last break are decoded again each time, with a few before them as context, so a long text stays linear.
 */
export class TextStream {
  readonly #tokenizer: Tokenizer;
  #ids: number[];
  /** Ids before this were given out: they are only context. */
  #context: number;

  constructor(tokenizer: Tokenizer, prompt: readonly number[]) {
    this.#tokenizer = tokenizer;
    this.#ids = [...prompt.slice(-contextTokens)];
    this.#context = this.#ids.length;
  }

  /** The text that this token completes: '' when there is none yet. */
  push(id: number): string {
    this.#ids.push(id);
    return this.#take(false);
  }

  /** What was still held back. */
  end(): string {
    return this.#take(true);
  }

  #take(all: boolean): string {
    const before = this.#tokenizer.decode(this.#ids.slice(0, this.#context));
    const now = this.#tokenizer.decode(this.#ids);
    if (!all && now.endsWith('\uFFFD')) return '';
    this.#ids = this.#ids.slice(-contextTokens);
    this.#context = this.#ids.length;
    return now.slice(before.length);
  }
}

const contextTokens = 6;
