/**
 * sentence.ts: how a model makes one vector of a text, where its folder says so: the layout of sentence-transformers (modules.json, the pooling's
 * config.json, sentence_bert_config.json), or a GGUF file's pooling_type.
 */
import { isPlainObject } from './arguments.js';
import { HeddleError } from './errors.js';
import type { MetadataValue, Pooling } from './types.js';

export interface SentenceSettings {
  pooling?: Pooling;
  normalize?: boolean;
  /** Tokens that a text is cut to. */
  maxTokens?: number;
  lowerCase?: boolean;
  /** What the folder asks for that Heddle does not do; `embed` refuses unless it is told otherwise. */
  unknown?: string;
}

/** Where the settings are, or how they are found out once they are wanted: of a server's folder each file costs a request. */
export interface FoundSentence {
  settings?: SentenceSettings;
  find?: () => Promise<SentenceSettings>;
}

type ReadText = (name: string) => Promise<string | undefined>;

/** `names`: all files there are, where that is known. */
export async function findSentence(text: ReadText, names: readonly string[] | undefined): Promise<FoundSentence> {
  if (names === undefined) return { find: () => readSentence(text) };
  return names.includes('modules.json') ? { settings: await readSentence(text) } : {};
}

async function readSentence(text: ReadText): Promise<SentenceSettings> {
  const modules = parsed(await text('modules.json'), 'modules.json');
  if (modules === undefined) return {};
  if (!Array.isArray(modules)) throw new HeddleError('bad_file', 'modules.json: expected an array of modules');
  const limits = record(parsed(await text('sentence_bert_config.json'), 'sentence_bert_config.json'), 'sentence_bert_config.json');
  const settings: SentenceSettings = {
    normalize: false,
    ...(isCount(limits['max_seq_length']) && { maxTokens: limits['max_seq_length'] }),
    ...(limits['do_lower_case'] === true && { lowerCase: true }),
  };
  for (const [i, module] of modules.entries()) Object.assign(settings, await readModule(record(module, `modules.json[${i}]`), text));
  return settings;
}

/** One step of the way from text to vector: the transformer, the pooling, the normalisation, or something else. */
async function readModule({ type, path }: Record<string, unknown>, text: ReadText): Promise<SentenceSettings> {
  const kind = String(type).split('.').at(-1);
  if (kind === 'Transformer') return {};
  if (kind === 'Normalize') return { normalize: true };
  if (kind !== 'Pooling') return { unknown: `modules.json has a module ${String(type)}` };
  if (typeof path !== 'string' || !/^[\w-][\w.-]*$/.test(path)) throw new HeddleError('bad_file', `modules.json: expected the name of a folder as the pooling's path, found ${JSON.stringify(path)}`);
  const file = `${path}/config.json`;
  const config = parsed(await text(file), file);
  if (config === undefined) throw new HeddleError('bad_file', `modules.json names ${file}, which is not there`);
  return poolingOf(record(config, file), file);
}

/** The pooling's names, as a flag of its own and as `pooling_mode`. */
const poolings: readonly (readonly [flag: string, name: string, pooling: Pooling])[] = [
  ['pooling_mode_cls_token', 'cls', 'cls'],
  ['pooling_mode_mean_tokens', 'mean', 'mean'],
  ['pooling_mode_max_tokens', 'max', 'max'],
  ['pooling_mode_lasttoken', 'lasttoken', 'last'],
];

function poolingOf(config: Record<string, unknown>, file: string): SentenceSettings {
  const asked = Object.entries(config).flatMap(([key, value]) => (key === 'pooling_mode' ? [String(value)] : key.startsWith('pooling_mode_') && value === true ? [key] : []));
  const found = poolings.find(([flag, name]) => asked[0] === flag || asked[0] === name);
  if (asked.length === 1 && found) return { pooling: found[2] };
  return { unknown: `${file} asks for ${asked.length === 0 ? 'no pooling' : asked.join(' and ')}` };
}

/** By llama.cpp's numbers: 0 is none. */
const ggufPoolings: readonly (Pooling | undefined)[] = [undefined, 'mean', 'cls', 'last'];

export function sentenceOfGguf(metadata: ReadonlyMap<string, MetadataValue>): SentenceSettings {
  const key = `${String(metadata.get('general.architecture'))}.pooling_type`;
  const number = Number(metadata.get(key) ?? 0);
  const pooling = ggufPoolings[number];
  if (pooling) return { pooling };
  return number === 0 ? {} : { unknown: `${key} is ${number}` };
}

/** What GGUF calls families whose `model_type` it does not share. */
const architectures: Readonly<Record<string, string>> = { mistral: 'llama', mixtral: 'llama', qwen3_moe: 'qwen3moe', gemma3_text: 'gemma3' };

/** The settings as GGUF's metadata; `say` takes what GGUF has no place for. */
export function poolingMetadata(config: string, { pooling, normalize, maxTokens, lowerCase, unknown }: SentenceSettings, say: (text: string) => void): Record<string, number> {
  const number = ggufPoolings.indexOf(pooling);
  const lost = Object.entries({ pooling: number < 0 && pooling, normalize, maxTokens, lowerCase, modules: unknown }).filter(([, value]) => value !== undefined && value !== false);
  if (lost.length > 0) say(`GGUF has no place for how texts become vectors here: ${lost.map(([key, value]) => `${key} ${String(value)}`).join(', ')} left out`);
  const type = record(parsed(config, 'config.json'), 'config.json')['model_type'];
  return number > 0 && typeof type === 'string' ? { [`${architectures[type] ?? type}.pooling_type`]: number } : {};
}

// ---- JSON ----

function parsed(text: string | undefined, file: string): unknown {
  if (text === undefined) return undefined;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HeddleError('bad_file', `${file}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

function record(value: unknown, where: string): Record<string, unknown> {
  if (value === undefined) return {};
  if (!isPlainObject(value)) throw new HeddleError('bad_file', `${where}: expected an object`);
  return value;
}

function isCount(value: unknown): value is number {
  return Number.isInteger(value) && Number(value) > 0;
}
