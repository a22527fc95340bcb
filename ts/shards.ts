/**
 * shards.ts: which of a folder's files are the weights: one file, or several that an index or their numbers join.
 */
import { isPlainObject } from './arguments.js';
import { readJson } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { HeddleError, counted } from './errors.js';
import { missingFile } from './source.js';
import type { FileSet } from './source.js';

/** A model's weight files, opened. */
export interface WeightFiles {
  files: ByteSource[];
  /** What each file should hold, by the index; empty for a single file. */
  expected: ReadonlyMap<ByteSource, readonly string[]>;
}

/** A way to find the weights: a file of one name, an index, the only file of a kind, or numbered files without their index. */
type Choice = { file: string } | { index: string } | { only: RegExp } | { numbered: RegExp };

/** The first that is there is taken. docs/loading.md prints the order. */
const choices: readonly Choice[] = [
  { file: 'model.safetensors' },
  { index: 'model.safetensors.index.json' },
  { numbered: /^(.*)-(\d{5})-of-(\d{5})\.safetensors$/ },
  { only: /\.safetensors$/ },
  { only: /\.gguf$/ },
  { file: 'pytorch_model.bin' },
  { index: 'pytorch_model.bin.index.json' },
  { only: /^(?!tok(enizer|\d+)\.bin$).*\.(pt|pth|bin)$/ },
];

export async function openWeightFiles(set: FileSet): Promise<WeightFiles> {
  const names = await set.list();
  for (const choice of choices) {
    const found = await take(set, names, choice);
    if (found) return found;
  }
  throw severalOf(set, names) ?? (await missingFile(set, 'model.safetensors'));
}

/** The error for files of a kind of which there should be one. */
function severalOf(set: FileSet, names: readonly string[] | undefined): HeddleError | undefined {
  for (const choice of choices) {
    const found = 'only' in choice ? (names?.filter((name) => choice.only.test(name)) ?? []) : [];
    if (found.length > 1) return new HeddleError('bad_file', `several ${/\.\w+$/.exec(found[0] ?? '')?.[0] ?? ''} files ${set.where}: name one of ${found.join(', ')}`);
  }
  return undefined;
}

async function take(set: FileSet, names: readonly string[] | undefined, choice: Choice): Promise<WeightFiles | undefined> {
  if ('index' in choice) return openIndex(set, names, choice.index);
  if ('numbered' in choice) return openNumbered(set, names, choice.numbered);
  const name = 'file' in choice ? choice.file : onlyOne(names, choice.only);
  if (name === undefined || (names && !names.includes(name))) return undefined;
  const file = await set.open(name);
  return file && { files: [file], expected: new Map() };
}

function onlyOne(names: readonly string[] | undefined, kind: RegExp): string | undefined {
  const found = names?.filter((name) => kind.test(name)) ?? [];
  return found.length === 1 ? found[0] : undefined;
}

// ---- Several files ----

/** The names of the tensors in each file, in the order of the index. Only names: an index may not lead out of its folder. */
export function readIndex(index: unknown, name: string): Map<string, string[]> {
  const map = isPlainObject(index) ? index.weight_map : undefined;
  if (!isPlainObject(map)) throw new HeddleError('bad_file', `${name}: expected an object "weight_map"`);
  const files = new Map<string, string[]>();
  for (const [tensor, file] of Object.entries(map)) {
    if (typeof file !== 'string' || !/^[^/\\:\0]+$/.test(file) || file === '..') {
      throw new HeddleError('bad_file', `${name}: weight_map["${tensor}"]: expected a file's name, found ${JSON.stringify(file)}`);
    }
    const tensors = files.get(file);
    if (tensors) tensors.push(tensor);
    else files.set(file, [tensor]);
  }
  if (files.size === 0) throw new HeddleError('bad_file', `${name}: its weight_map names no file`);
  return files;
}

async function openIndex(set: FileSet, names: readonly string[] | undefined, name: string): Promise<WeightFiles | undefined> {
  if (names && !names.includes(name)) return undefined;
  const file = await set.open(name, true);
  if (!file) return undefined;
  const wanted = [...readIndex(await readJson(file), name)];
  return openAll(set, wanted.map(([shard, tensors]) => ({ shard, tensors, why: `: ${name} says it holds ${counted(tensors.length, 'tensor')}, ${tensors[0] ?? ''} first` })));
}

/** Files "model-00001-of-00003.safetensors" and so on, where nothing says which tensor is where. */
async function openNumbered(set: FileSet, names: readonly string[] | undefined, pattern: RegExp): Promise<WeightFiles | undefined> {
  const parts = names?.map((name) => pattern.exec(name)).filter((found) => found !== null) ?? [];
  const [first] = parts;
  if (!first || parts.some((part) => part[1] !== first[1] || part[3] !== first[3])) return undefined;
  const total = Number(first[3]);
  const wanted = Array.from({ length: total }, (_, i) => first[0].replace(/-\d{5}-of-/, `-${String(i + 1).padStart(5, '0')}-of-`));
  return openAll(set, wanted.map((shard) => ({ shard, tensors: [], why: `: its name says it is one of ${total}` })));
}

async function openAll(set: FileSet, wanted: readonly { shard: string; tensors: readonly string[]; why: string }[]): Promise<WeightFiles> {
  const files: ByteSource[] = [];
  const expected = new Map<ByteSource, readonly string[]>();
  try {
    for (const { shard, tensors, why } of wanted) {
      const file = await set.open(shard);
      if (!file) throw await missingFile(set, shard, why);
      files.push(file);
      expected.set(file, tensors);
    }
    return { files, expected };
  } catch (error) {
    await closeAll(files);
    throw error;
  }
}

export async function closeAll(files: readonly ByteSource[]): Promise<void> {
  for (const file of files) await file.close();
}

/** Throws when a file lacks a tensor that its index puts there. */
export function checkShard(file: ByteSource, expected: readonly string[] | undefined, has: (tensor: string) => boolean): void {
  const lacking = expected?.find((tensor) => !has(tensor));
  if (lacking !== undefined) throw new HeddleError('bad_file', `${file.name} has no tensor ${lacking}, which the index says is there`);
}
