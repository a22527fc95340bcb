/**
 * tokenizer-gguf-write.ts: a tokenizer as a GGUF file's metadata: the other way of tokenizer-gguf.ts. Byte-level BPE becomes `gpt2` with its merges;
 * SentencePiece's BPE becomes `llama`, whose scores say what merges first; WordPiece becomes `bert`, with ▁ before words instead of ## within.
 */
import { HeddleError } from './errors.js';
import { chatTemplateFile, describeTokenizer } from './tokenizer-files.js';
import type { TokenizerFiles } from './tokenizer-files.js';
import type { GgufMetadata } from './tokenizer-gguf.js';
import { tokenText } from './tokenizer-json.js';
import type { TokenizerConfig } from './tokenizer-json.js';

/** GGUF's kinds of tokens. */
const kinds = { normal: 1, unknown: 2, control: 3, userDefined: 4, byte: 6 } as const;

interface Added {
  id: number;
  content: string;
  special?: boolean;
}

/** What is read of a tokenizer.json. */
interface Described {
  normalizer?: unknown;
  post_processor?: unknown;
  model?: { type?: string; vocab?: Record<string, number>; merges?: (string | [string, string])[]; byte_fallback?: boolean; unk_token?: string | null };
  added_tokens?: Added[];
  pre_tokenizer?: unknown;
  decoder?: unknown;
}

/** Metadata by key; those of a GGUF file stay as they are. Throws `unsupported` for tokenizers that are neither BPE nor WordPiece. */
export function ggufTokenizerMetadata(files: TokenizerFiles): Record<string, unknown> {
  if (files.gguf && files['tokenizer.json'] === undefined) return { ...ownKeys(files.gguf), ...templates(chatTemplateFile(files)) };
  const { tokenizer, config } = describeTokenizer(files);
  const { model = {}, added_tokens: added = [], normalizer, pre_tokenizer: cut, post_processor: frame, decoder } = tokenizer as Described;
  if (model.type === 'WordPiece' && model.vocab) return wordMetadata(model.vocab, model.unk_token, added, config);
  if (model.type !== 'BPE' || !model.vocab) throw new HeddleError('unsupported', `tokenizer.json: a ${String(model.type)} tokenizer is not written as GGUF's`);
  const byteLevel = JSON.stringify([cut, decoder]).includes('"ByteLevel"');
  if (!byteLevel && !model.byte_fallback) throw new HeddleError('unsupported', 'tokenizer.json: BPE of neither bytes nor SentencePiece is not written as GGUF');
  const tokens = tokensOf(model.vocab, added);
  const merges = (model.merges ?? []).map((merge) => (typeof merge === 'string' ? merge : merge.join(' ')));
  return {
    'tokenizer.ggml.model': byteLevel ? 'gpt2' : 'llama',
    ...(byteLevel && { 'tokenizer.ggml.pre': preName(cut) }),
    'tokenizer.ggml.tokens': tokens,
    'tokenizer.ggml.token_type': Int32Array.from(tokens, (token, id) => kindOf(token, id, added, model)),
    ...(byteLevel ? { 'tokenizer.ggml.merges': merges } : { 'tokenizer.ggml.scores': scoresOf(tokens, merges) }),
    ...(!byteLevel && !prefixes(normalizer, cut) && { 'tokenizer.ggml.add_space_prefix': false }),
    ...namedTokens(config, new Map(tokens.map((token, id) => [token, id])), model.unk_token),
    ...ends(config, frame),
    ...templates(config),
  };
}

function wordMetadata(vocab: Readonly<Record<string, number>>, unknown: string | null | undefined, added: readonly Added[], config: TokenizerConfig): Record<string, unknown> {
  const words = tokensOf(vocab, added);
  const types = words.map((word, id) => kindOf(word, id, added, { ...(unknown != null && { unk_token: unknown }) }));
  const special = (id: number): boolean => types[id] === kinds.control || types[id] === kinds.unknown;
  return {
    'tokenizer.ggml.model': 'bert',
    'tokenizer.ggml.tokens': words.map((word, id) => (special(id) ? word : word.startsWith('##') ? word.slice(2) : `▁${word}`)),
    'tokenizer.ggml.token_type': Int32Array.from(types),
    ...namedTokens(config, new Map(words.map((word, id) => [word, id])), unknown),
    ...ends(config, undefined),
    ...templates(config),
  };
}

function tokensOf(vocab: Readonly<Record<string, number>>, added: readonly Added[]): string[] {
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(vocab)) tokens[id] = token;
  for (const { id, content } of added) tokens[id] = content;
  return Array.from(tokens, (token, id) => token ?? `[PAD${id}]`);
}

function kindOf(token: string, id: number, added: readonly Added[], { unk_token: unknown, byte_fallback: fallback }: NonNullable<Described['model']>): number {
  const extra = added.find((each) => each.id === id);
  if (token === unknown) return kinds.unknown;
  if (extra) return extra.special ? kinds.control : kinds.userDefined;
  return fallback && /^<0x[0-9A-F]{2}>$/.test(token) ? kinds.byte : kinds.normal;
}

/** A piece that merges earlier has a better score; what no merge makes has the worst. */
function scoresOf(tokens: readonly string[], merges: readonly string[]): Float32Array {
  const ranks = new Map<string, number>();
  for (const [rank, merge] of merges.entries()) {
    const piece = merge.replace(' ', '');
    if (!ranks.has(piece)) ranks.set(piece, rank);
  }
  return Float32Array.from(tokens, (token) => -(ranks.get(token) ?? merges.length));
}

/** How text is cut before merging, by the names GGUF has for the patterns; see tokenizer-split.ts. */
function preName(cut: unknown): string {
  const text = JSON.stringify(cut ?? {});
  if (text.includes('\\\\p{N}{1,3}')) return 'llama-bpe';
  return text.includes('\\\\p{N}') && text.includes('(?i:') ? 'qwen2' : 'gpt-2';
}

/** By GGUF's keys, one of which is misspelt for ever. */
function namedKeys(config: TokenizerConfig, unknown: string | null | undefined): (readonly [key: string, token: TokenizerConfig['bos_token']])[] {
  return [
    ['bos', config.bos_token], ['eos', config.eos_token], ['padding', config.pad_token], ['unknown', unknown ?? undefined],
    ['cls', config.cls_token], ['seperator', config.sep_token], ['mask', config.mask_token],
  ];
}

function namedTokens(config: TokenizerConfig, ids: ReadonlyMap<string, number>, unknown: string | null | undefined): Record<string, unknown> {
  const named: Record<string, unknown> = {};
  for (const [key, token] of namedKeys(config, unknown)) {
    const id = ids.get(tokenText(token) ?? '');
    if (id !== undefined) named[`tokenizer.ggml.${key}_token_id`] = id;
  }
  return named;
}

/** Whether the begin and the end token go around a text: a frame that puts them there goes before the flags, which then say false. */
function ends(config: TokenizerConfig, frame: unknown): Record<string, unknown> {
  const { begins, closes } = tokensAround(frame);
  const [begin, end] = [begins || config.add_bos_token, closes || config.add_eos_token];
  return {
    ...(typeof begin === 'boolean' && { 'tokenizer.ggml.add_bos_token': begin }),
    ...(typeof end === 'boolean' && { 'tokenizer.ggml.add_eos_token': end }),
  };
}

/** Of a TemplateProcessing, alone or in a sequence: whether a special token stands before a text, and behind it. */
function tokensAround(frame: unknown): { begins: boolean; closes: boolean } {
  const { processors, single = [] } = (frame ?? {}) as { processors?: unknown[]; single?: unknown[] };
  if (Array.isArray(processors)) return processors.map(tokensAround).find(({ begins, closes }) => begins || closes) ?? { begins: false, closes: false };
  const isToken = (part: unknown): boolean => typeof part === 'object' && part !== null && 'SpecialToken' in part;
  return { begins: isToken(single[0]), closes: isToken(single.at(-1)) };
}

/** Whether a text gets a space before it, which GGUF's readers take for granted of SentencePiece. */
function prefixes(normalizer: unknown, cut: unknown): boolean {
  return JSON.stringify([normalizer, cut]).includes('"Prepend"') || /"prepend_scheme":"(first|always)"|"add_prefix_space":true/.test(JSON.stringify(cut ?? null));
}

/** One template, or several by name, of which the one called default has no name. */
function templates({ chat_template: found }: Pick<TokenizerConfig, 'chat_template'>): Record<string, unknown> {
  const all = typeof found === 'string' ? [{ name: 'default', template: found }] : (found ?? []);
  const pairs = all.flatMap(({ name = 'default', template }) => (template === undefined ? [] : [[name, template] as const]));
  const others = pairs.map(([name]) => name).filter((name) => name !== 'default');
  return {
    ...Object.fromEntries(pairs.map(([name, template]) => [`tokenizer.chat_template${name === 'default' ? '' : `.${name}`}`, template])),
    ...(others.length > 0 && { 'tokenizer.chat_templates': others }),
  };
}

/** What a file says of its tokenizer. */
function ownKeys(metadata: GgufMetadata): Record<string, unknown> {
  return Object.fromEntries([...metadata].filter(([key]) => key.startsWith('tokenizer.')));
}

/** What comes with a model besides its weights. */
export interface TextParts {
  files?: TokenizerFiles | undefined;
  /** A chat template that was found beside them. */
  template?: string | undefined;
  beginToken?: number | undefined;
  endTokens?: readonly number[];
}

/**
 * The metadata of a model's tokenizer, chat template, begin and ends. What ends the model's text need not be the tokenizer's own end; GGUF has two places for
 * it. `say` takes what GGUF cannot say.
 */
export function textMetadata({ files, template, beginToken, endTokens = [] }: TextParts, say: (text: string) => void): Record<string, unknown> {
  const [end, turn, ...more] = endTokens;
  if (more.length > 0) say(`GGUF has room for two end tokens: ${more.join(', ')} left out`);
  const tokenizer = files ? saidOr(files, say) : {};
  const named = Object.entries({ bos: beginToken, eos: end, eot: turn }).filter(([, id]) => id !== undefined);
  const has = tokenizer['tokenizer.chat_template'] !== undefined || template === undefined;
  return { ...tokenizer, ...(!has && { 'tokenizer.chat_template': template }), ...Object.fromEntries(named.map(([name, id]) => [`tokenizer.ggml.${name}_token_id`, id])) };
}

function saidOr(files: TokenizerFiles, say: (text: string) => void): Record<string, unknown> {
  try {
    return ggufTokenizerMetadata(files);
  } catch (error) {
    if (!(error instanceof HeddleError)) throw error;
    say(`the GGUF file has no tokenizer: ${error.message}`);
    return {};
  }
}
