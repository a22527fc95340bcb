/**
 * tokenizer.ts: text ↔ token ids, and conversations → text, with a model's own tokenizer and chat template. tokenizer-files.ts says what they
 * are read from.
 */
import { checkOptions, checkText, checkTokenizerFiles, checkWholeNumbers, decodeOptions, encodeOptions } from './arguments.js';
import { renderChat, templatesOf } from './chat-template.js';
import type { ChatMessage, ChatTemplateOptions, ChatTemplates } from './chat-template.js';
import { TextStream } from './text-stream.js';
import { chatTemplateFile, describeTokenizer } from './tokenizer-files.js';
import type { TokenizerFiles } from './tokenizer-files.js';
import { tokenText } from './tokenizer-json.js';
import type { TokenizerConfig, TokenizerDescription } from './tokenizer-json.js';
import { LibraryTokenizer } from './tokenizer-library.js';
import type { Encoded } from './tokenizer-library.js';

export interface EncodeOptions {
  /** Whether to add the special tokens the files put around a text; true by default. */
  addSpecialTokens?: boolean;
}

export interface DecodeOptions {
  /** Whether to leave special tokens out of the text; true by default. */
  skipSpecialTokens?: boolean;
}

/** The id of the begin token where a prompt needs it and the library does not put it there; else undefined. */
function missingBegin(library: LibraryTokenizer, { tokenizer, config }: TokenizerDescription): number | undefined {
  const token = tokenText(config.bos_token);
  const id = token === undefined ? undefined : library.idOf(token);
  // Files that have a begin token and say nothing about when (no post-processor, no flag) mean: before a text.
  const wanted = config.add_bos_token ?? tokenizer.post_processor == null;
  return wanted ? id : undefined;
}

export class Tokenizer {
  readonly #library: LibraryTokenizer;
  readonly #begin: number | undefined;
  readonly #config: TokenizerConfig;
  #templates: ChatTemplates;

  /** Throws `bad_file` when the files do not describe a tokenizer, `unsupported` for a kind that Heddle does not know. */
  constructor(files: TokenizerFiles) {
    checkTokenizerFiles(files, 'files');
    const description = describeTokenizer(files);
    this.#library = new LibraryTokenizer(description);
    this.#config = description.config;
    this.#templates = templatesOf(description.config);
    this.#begin = missingBegin(this.#library, description);
  }

  // ---- Tokens ----

  /** One more than the largest id. */
  get vocabSize(): number {
    return this.#library.size;
  }

  /** The id of a token as the vocabulary writes it ("▁the", "Ġthe", "</s>"); undefined where there is none. */
  tokenToId(token: string): number | undefined {
    checkText(token, 'token');
    return this.#library.idOf(token);
  }

  /** A token as the vocabulary writes it. */
  idToToken(id: number): string | undefined {
    checkWholeNumbers([id], 'id');
    return this.#library.tokenOf(id);
  }

  get beginToken(): number | undefined {
    return this.#named(this.#config.bos_token);
  }

  get endToken(): number | undefined {
    return this.#named(this.#config.eos_token);
  }

  get padToken(): number | undefined {
    return this.#named(this.#config.pad_token);
  }

  #named(token: TokenizerConfig['bos_token']): number | undefined {
    const text = tokenText(token);
    return text === undefined ? undefined : this.#library.idOf(text);
  }

  // ---- Text ----

  /** Ids of a prompt: the text's, and the special tokens the files put around one. Special tokens within the text are recognised. */
  encode(text: string, options: EncodeOptions = {}): number[] {
    checkText(text, 'text');
    checkOptions(options, encodeOptions);
    const withSpecial = options.addSpecialTokens ?? true;
    const { ids } = this.#library.encode(text, undefined, withSpecial);
    return withSpecial && this.#begin !== undefined && ids[0] !== this.#begin ? [this.#begin, ...ids] : ids;
  }

  /** Ids of two texts as the files join them (BERT: [CLS] first [SEP] second [SEP]), and which of the two each belongs to. */
  encodePair(text: string, pair: string, options: EncodeOptions = {}): Encoded {
    checkText(text, 'text');
    checkText(pair, 'pair');
    checkOptions(options, encodeOptions);
    return this.#library.encode(text, pair, options.addSpecialTokens ?? true);
  }

  /** Text of the ids, special tokens left out. Ids that are no tokens have no text. */
  decode(ids: readonly number[], options: DecodeOptions = {}): string {
    checkWholeNumbers(ids, 'ids');
    checkOptions(options, decodeOptions);
    return this.#library.decode(ids, options.skipSpecialTokens ?? true);
  }

  /** What each of the first n ids adds to a text: '' for special tokens and unknown ids, U+FFFD where it is part of a character. */
  tokenTexts(n: number): string[] {
    const anchor = this.encode('a', { addSpecialTokens: false }).at(-1) ?? 0; // some decoders strip a text's first space
    const before = this.decode([anchor]);
    return Array.from({ length: n }, (_, id) => {
      const all = this.decode([anchor, id]);
      return all.startsWith(before) ? all.slice(before.length) : '';
    });
  }

  /** Decodes token by token, in whole characters. `prompt` are the ids that came before: some decoders strip a text's first space. */
  stream(prompt: readonly number[] = [], options: DecodeOptions = {}): TextStream {
    checkWholeNumbers(prompt, 'prompt');
    checkOptions(options, decodeOptions);
    const skip = options.skipSpecialTokens ?? true;
    const library = this.#library;
    return new TextStream({ decode: (ids) => library.decode(ids, skip), skips: (id) => library.tokenOf(id) === undefined || (skip && library.isSpecial(id)) }, prompt);
  }

  // ---- Conversations ----

  /** The chat template's text: the one called 'default', or the only one; undefined where the model has none. */
  get chatTemplate(): string | undefined {
    return this.#templates.get('default') ?? (this.#templates.size === 1 ? [...this.#templates.values()][0] : undefined);
  }

  /** Takes the chat template of a chat_template.jinja or chat_template.json that was found later. */
  useTemplate(files: TokenizerFiles): void {
    checkTokenizerFiles(files, 'files');
    const template = chatTemplateFile(files);
    if (template.chat_template !== undefined) this.#templates = templatesOf(template);
  }

  /** Names of its chat templates; most models have one, called 'default'. */
  get chatTemplates(): string[] {
    return [...this.#templates.keys()];
  }

  /**
   * A conversation as the text the model was trained on, by its chat template, or with `tokenize` as ids. Throws `bad_state` where the model has no
   * template, `bad_argument` where the template refuses the conversation, `bad_file` where the template is broken.
   */
  applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize: true }): Promise<number[]>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: false }): Promise<string>;
  applyChatTemplate(messages: readonly ChatMessage[], options?: ChatTemplateOptions & { tokenize?: boolean }): Promise<string | number[]>;
  async applyChatTemplate(messages: readonly ChatMessage[], options: ChatTemplateOptions & { tokenize?: boolean } = {}): Promise<string | number[]> {
    const text = await renderChat(this.#templates, this.#config, messages, options);
    return options.tokenize ? this.encode(text, { addSpecialTokens: false }) : text;
  }
}
