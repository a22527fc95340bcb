/**
 * tokenizer-files.ts: which of a model's files describe its tokenizer, in which order they are tried, and where its chat template stands.
 */
import { HeddleError } from './errors.js';
import { ggufTokenizer } from './tokenizer-gguf.js';
import type { GgufMetadata } from './tokenizer-gguf.js';
import { parsedObject } from './tokenizer-json.js';
import type { TokenizerConfig, TokenizerDescription, TokenizerJson } from './tokenizer-json.js';
import { llama2cTokenizer, sentencePieceTokenizer } from './tokenizer-sentencepiece.js';
import { mergesTokenizer, wordsTokenizer } from './tokenizer-vocabulary.js';

/**
 * A tokenizer's files by name; JSON as text or parsed. The first of these that is there is the tokenizer: tokenizer.json; a GGUF file's metadata;
 * tokenizer.model or spiece.model (SentencePiece); vocab.json or encoder.json with merges.txt or vocab.bpe; vocab.txt (WordPiece); tokenizer.bin
 * (llama2.c; in a folder also tok512.bin and the like).
 */
export interface TokenizerFiles {
  'tokenizer.json'?: object | string;
  /** Metadata of a GGUF file, by key. */
  gguf?: GgufMetadata;
  'tokenizer.model'?: Uint8Array;
  'spiece.model'?: Uint8Array;
  'vocab.json'?: object | string;
  'encoder.json'?: object | string;
  'merges.txt'?: string;
  'vocab.bpe'?: string;
  'vocab.txt'?: string;
  'tokenizer.bin'?: Uint8Array;
  /** Special tokens, what goes around a text, the chat template. */
  'tokenizer_config.json'?: object | string;
  'special_tokens_map.json'?: object | string;
  /** The chat template alone; goes before the one in tokenizer_config.json. */
  'chat_template.jinja'?: string;
  'chat_template.json'?: object | string;
  /** How a vocabulary with merges cuts a text, by GGUF's names: 'gpt-2' (the default), 'llama-bpe', 'qwen2', … */
  split?: string;
}

type Reader = (files: TokenizerFiles, config: TokenizerConfig) => TokenizerDescription;

const tokenizerJson: Reader = (files, config) => {
  const tokenizer = parsedObject(files['tokenizer.json'] ?? {}, 'tokenizer.json') as TokenizerJson;
  return { from: 'tokenizer.json', tokenizer, config };
};

const sentencePiece = (name: 'tokenizer.model' | 'spiece.model'): Reader => (files, config) => sentencePieceTokenizer(files[name] ?? new Uint8Array(), config, name);

const merges = (name: 'vocab.json' | 'encoder.json'): Reader => (files, config) => {
  const list = files['merges.txt'] ?? files['vocab.bpe'];
  if (list === undefined) throw new HeddleError('bad_file', `${name}: a vocabulary needs its merges: merges.txt or vocab.bpe`);
  return mergesTokenizer(parsedObject(files[name] ?? {}, name), list, config, files.split, name);
};

/** Kinds of tokenizers in the order they are tried, by the file that makes one. */
const readers: readonly (readonly [name: keyof TokenizerFiles, read: Reader])[] = [
  ['tokenizer.json', tokenizerJson],
  ['gguf', (files, config) => withConfig(ggufTokenizer(files.gguf ?? new Map()), config)],
  ['tokenizer.model', sentencePiece('tokenizer.model')],
  ['spiece.model', sentencePiece('spiece.model')],
  ['vocab.json', merges('vocab.json')],
  ['encoder.json', merges('encoder.json')],
  ['vocab.txt', (files, config) => wordsTokenizer(files['vocab.txt'] ?? '', config, 'vocab.txt')],
  ['tokenizer.bin', (files, config) => llama2cTokenizer(files['tokenizer.bin'] ?? new Uint8Array(), config, 'tokenizer.bin')],
];

/** What the caller gives beside GGUF metadata goes before what the metadata says. */
function withConfig(found: TokenizerDescription, config: TokenizerConfig): TokenizerDescription {
  return { ...found, config: { ...found.config, ...config } };
}

/** The files' tokenizer. Throws `bad_file` when they hold none, or break their format. */
export function describeTokenizer(files: TokenizerFiles): TokenizerDescription {
  const config: TokenizerConfig = {
    ...parsedObject(files['special_tokens_map.json'] ?? {}, 'special_tokens_map.json'),
    ...parsedObject(files['tokenizer_config.json'] ?? {}, 'tokenizer_config.json'),
    ...chatTemplateFile(files),
  };
  const found = readers.find(([name]) => files[name] !== undefined);
  if (!found) throw new HeddleError('bad_file', `no tokenizer among the files; expected one of ${readers.map(([name]) => name).join(', ')}`);
  return found[1](files, config);
}

/** The template of a file that holds nothing else. */
export function chatTemplateFile(files: TokenizerFiles): Pick<TokenizerConfig, 'chat_template'> {
  if (files['chat_template.jinja'] !== undefined) return { chat_template: files['chat_template.jinja'] };
  if (files['chat_template.json'] === undefined) return {};
  const { chat_template: template } = parsedObject(files['chat_template.json'], 'chat_template.json') as TokenizerConfig;
  if (template === undefined) throw new HeddleError('bad_file', "chat_template.json: expected a key 'chat_template'");
  return { chat_template: template };
}

// ---- Finding them beside a model ----

/** llama2.c's own calls a vocabulary of 512 tok512.bin. */
export const isLlama2cTokenizer = (name: string): boolean => /^tok(enizer|\d+)\.bin$/.test(name);

/** Reads a file of a model's set; undefined where there is none. */
export interface FileReader {
  text(name: string): Promise<string | undefined>;
  bytes(name: string): Promise<Uint8Array | undefined>;
}

/** Names asked for one by one where a set cannot be listed (a server's folder): each that is not there costs a request. */
const likely: readonly string[] = ['tokenizer.json', 'tokenizer.model'];

/** A tokenizer's files beside a model. */
export interface FoundTokenizer {
  files: TokenizerFiles;
  /** Looks for a chat template once one is wanted, where asking costs requests and the files so far have none. */
  findTemplate?: () => Promise<TokenizerFiles>;
}

/** The tokenizer's files of a model; undefined where it has none. `names`: all there are, where that is known. */
export async function findTokenizerFiles(read: FileReader, names: readonly string[] | undefined): Promise<FoundTokenizer | undefined> {
  const files: Record<string, object | string> = {};
  const llama2c = names?.filter(isLlama2cTokenizer) ?? [];
  const isThere = (name: string): boolean => (names ?? likely).includes(name) || (name === 'tokenizer.bin' && llama2c.length === 1);
  const take = async (name: string): Promise<boolean> => {
    const place = name === 'tokenizer.bin' && llama2c.length === 1 ? (llama2c[0] ?? name) : name;
    const file = /\.(model|bin)$/.test(name) ? await read.bytes(place) : await read.text(name);
    if (file !== undefined) files[name] = file;
    return file !== undefined;
  };
  for (const [name] of readers) {
    if (!isThere(name) || !(await take(name))) continue;
    if (name === 'vocab.json' || name === 'encoder.json') for (const list of ['merges.txt', 'vocab.bpe']) if (isThere(list) && (await take(list))) break;
    if (!names || names.includes('tokenizer_config.json')) await take('tokenizer_config.json');
    if (names?.includes('special_tokens_map.json')) await take('special_tokens_map.json');
    for (const template of templateFiles) if (names?.includes(template)) await take(template);
    const has = names !== undefined || String(files['tokenizer_config.json'] ?? '').includes('"chat_template"');
    return { files, ...(!has && { findTemplate: () => templateAlone(read) }) };
  }
  return undefined;
}

const templateFiles = ['chat_template.jinja', 'chat_template.json'] as const;

async function templateAlone(read: FileReader): Promise<TokenizerFiles> {
  for (const name of templateFiles) {
    const found = await read.text(name);
    if (found !== undefined) return { [name]: found };
  }
  return {};
}
