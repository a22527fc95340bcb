/**
 * pretrained.ts: a model's folder as MLX-Node's `loadPretrained` takes it: its order of files, its keys of config.json with their defaults, its messages.
 */
import { isPlainObject } from './arguments.js';
import { fromBytes, readText } from './bytes.js';
import { HeddleError, messageOf } from './errors.js';
import { isNode, nodeFiles } from './host.js';
import type { FileSet } from './source.js';
import type { FetchOptions, LoadOptions, SourceInput } from './types.js';

export interface PretrainedOptions extends FetchOptions, Pick<LoadOptions, 'dtype' | 'context' | 'progress'> {
  /** Takes MLX-Node's log lines: what is loaded, with how many tensors and parameters. Quiet without. */
  log?: (line: string) => void;
}

/** config.json as MLX-Node reads it. */
export interface Qwen3Config {
  vocabSize: number;
  hiddenSize: number;
  numLayers: number;
  numHeads: number;
  numKvHeads: number;
  intermediateSize: number;
  rmsNormEps: number;
  ropeTheta: number;
  maxPositionEmbeddings: number;
  headDim: number;
  useQkNorm: boolean;
  tieWordEmbeddings: boolean;
  bosTokenId: number;
  eosTokenId: number;
  padTokenId: number;
}

type Json = Readonly<Record<string, unknown>>;

function first<T>(config: Json, keys: readonly string[], is: (value: unknown) => value is T, missing: T): T {
  for (const key of keys) if (is(config[key])) return config[key];
  return missing;
}

const isNumber = (value: unknown): value is number => typeof value === 'number';
const isBoolean = (value: unknown): value is boolean => typeof value === 'boolean';

/** The keys of each field, the first present one wins; what is of another kind (an array of end tokens) counts as absent. */
export function readQwen3Config(config: Json): Qwen3Config {
  const number = (missing: number, ...keys: string[]): number => first(config, keys, isNumber, missing);
  const flag = (missing: boolean, ...keys: string[]): boolean => first(config, keys, isBoolean, missing);
  const rope = isPlainObject(config['rope_parameters']) ? config['rope_parameters'] : {}; // version 5 of transformers has it there
  const hiddenSize = number(0, 'hidden_size', 'hiddenSize');
  const numHeads = number(0, 'num_attention_heads', 'num_heads', 'numHeads');
  const bosTokenId = number(151643, 'bos_token_id', 'bosTokenId');
  return {
    vocabSize: number(0, 'vocab_size', 'vocabSize'),
    hiddenSize,
    numLayers: number(0, 'num_hidden_layers', 'num_layers', 'numLayers'),
    numHeads,
    numKvHeads: number(0, 'num_key_value_heads', 'num_kv_heads', 'numKvHeads'),
    intermediateSize: number(0, 'intermediate_size', 'intermediateSize'),
    rmsNormEps: number(1e-6, 'rms_norm_eps', 'rmsNormEps'),
    ropeTheta: number(first(rope, ['rope_theta'], isNumber, 1e6), 'rope_theta', 'ropeTheta'),
    maxPositionEmbeddings: number(2048, 'max_position_embeddings', 'maxPositionEmbeddings'),
    headDim: headDim(number(0, 'head_dim', 'headDim'), hiddenSize, numHeads),
    useQkNorm: flag(true, 'use_qk_norm', 'useQkNorm'),
    tieWordEmbeddings: flag(false, 'tie_word_embeddings', 'tieWordEmbeddings'),
    bosTokenId,
    eosTokenId: number(151645, 'eos_token_id', 'eosTokenId'),
    padTokenId: number(bosTokenId, 'pad_token_id', 'padTokenId'),
  };
}

function headDim(given: number, hidden: number, heads: number): number {
  if (given > 0) return given;
  if (heads === 0) throw new HeddleError('bad_file', 'num_attention_heads cannot be zero');
  if (hidden % heads !== 0) throw new HeddleError('bad_file', `hidden_size (${hidden}) must be divisible by num_attention_heads (${heads})`);
  return hidden / heads;
}

/** config.json for the core: another family's as it is; Qwen3's, in whatever spelling, in Hugging Face's, with MLX-Node's defaults. */
export function familyConfig(text: string): string {
  const json: unknown = JSON.parse(text);
  if (!isPlainObject(json) || (json['model_type'] !== undefined && json['model_type'] !== 'qwen3')) return text;
  const c = readQwen3Config(json);
  return JSON.stringify({
    ...json,
    // Without norms of heads it is Llama's arithmetic.
    model_type: c.useQkNorm ? 'qwen3' : 'llama',
    vocab_size: c.vocabSize,
    hidden_size: c.hiddenSize,
    num_hidden_layers: c.numLayers,
    num_attention_heads: c.numHeads,
    num_key_value_heads: c.numKvHeads,
    intermediate_size: c.intermediateSize,
    rms_norm_eps: c.rmsNormEps,
    rope_theta: c.ropeTheta,
    max_position_embeddings: c.maxPositionEmbeddings,
    head_dim: c.headDim,
    tie_word_embeddings: c.tieWordEmbeddings,
  });
}

// ---- Files ----

/** MLX-Node's order, and what each is called in its log. */
const weightFiles = [['weights.safetensors', 'SafeTensors'], ['model.safetensors', 'SafeTensors'], ['weights.mlx', 'MLX']] as const;

/** What `loadPretrained` found, as files that a load opens. */
export interface Pretrained {
  files: FileSet;
  /** The weight file and its path. */
  weights: string;
  path: string;
  format: string;
}

/** Refuses a folder that is not there. Only of a path it can be known before its files are asked for. */
export async function checkPath(source: SourceInput): Promise<void> {
  const isFile = source instanceof URL ? source.protocol === 'file:' : typeof source === 'string' && !/^([a-z][a-z0-9+.-]+:|\s*\{)/i.test(source);
  if (!isNode() || !isFile) return;
  const path = source instanceof URL ? decodeURIComponent(source.pathname) : source;
  const there = await nodeFiles().stat(path as string).then(() => true, () => false);
  if (!there) throw new HeddleError('bad_file', `Model path does not exist: ${String(source)}`);
}

/** The folder's files under the names a load looks for, in MLX-Node's order of steps. `where` is the folder's name for messages. */
export async function findPretrained(set: FileSet, where: string): Promise<Pretrained> {
  const config = await set.open('config.json', true);
  if (!config) throw new HeddleError('bad_file', `Config file not found: ${where}/config.json`);
  const json = await readText(config).then(familyConfig).catch((error: unknown) => {
    throw error instanceof HeddleError ? error : new HeddleError('bad_file', `Failed to load model: ${messageOf(error)}`, { cause: error });
  });
  const [name, format, weights] = await firstThere(set, where);
  await weights.close();
  const tokenizer = await set.open('tokenizer.json', true);
  if (!tokenizer) throw new HeddleError('bad_file', `Tokenizer file not found: ${where}/tokenizer.json`);
  await tokenizer.close();
  const own = new Set<string>(weightFiles.map(([each]) => each));
  const files: FileSet = {
    where: set.where,
    open: async (each, whole) => {
      if (each === 'config.json') return fromBytes(new TextEncoder().encode(json), each);
      if (each === 'model.safetensors') return set.open(name);
      return own.has(each) ? undefined : set.open(each, whole);
    },
    list: async () => {
      const names = await set.list();
      return names && ['model.safetensors', ...names.filter((each) => !own.has(each))];
    },
  };
  return { files, weights: name, path: `${where}/${name}`, format };
}

async function firstThere(set: FileSet, where: string) {
  for (const [name, format] of weightFiles) {
    const file = await set.open(name);
    if (file) return [name, format, file] as const;
  }
  throw new HeddleError('bad_file', `No supported weight file found in ${where}. Expected weights.safetensors or weights.mlx`);
}
