/**
 * load.ts: from bytes to a model inside an instance, by the core's three steps: the headers give directories, the directories and a
 * description give a graph, and the wanted tensors stream into it in file order, in pieces of at most 1 MB.
 *
 * Progress is counted here and an abort is this file not making the next call: the core knows of neither.
 */
import { checkName, isPlainObject, jsonText } from './arguments.js';
import { Progress, arrivals } from './arrival.js';
import { withoutMlx } from './mlx.js';
import { inOrder } from './order.js';
import type { Part, Wanted } from './order.js';
import { readAll, readRange, readText, sized } from './bytes.js';
import type { ByteSource } from './bytes.js';
import type { Core } from './core.js';
import { describingFormats, entry, formatOf, withDirectories } from './directory.js';
import { HeddleError, messageOf } from './errors.js';
import { checkFits, estimateMemory } from './estimate.js';
import { Breather } from './host.js';
import { stagingBytes } from './memory.js';
import { readMetadata } from './metadata.js';
import { findSentence, sentenceOfGguf } from './sentence.js';
import type { FoundSentence } from './sentence.js';
import { checkShard, closeAll, openWeightFiles } from './shards.js';
import type { WeightFiles } from './shards.js';
import { filesBeside, isFileSet, missingFile, openFile, openSource } from './source.js';
import type { FileSet, OpenOptions } from './source.js';
import { findTokenizerFiles, isLlama2cTokenizer } from './tokenizer-files.js';
import type { FileReader, FoundTokenizer } from './tokenizer-files.js';
import type { FileInput, LoadOptions, MemoryEstimate, MetadataValue, SourceInput } from './types.js';

/** A model's files, opened: either a bundle, or a description and weights. */
export interface ModelFiles {
  bundle?: { bytes: Uint8Array; id: string };
  config?: string;
  generationConfig?: string;
  weights?: WeightFiles;
  tokenizer?: FoundTokenizer | undefined;
  /** Looks for the tokenizer of a single file beside it, once its format is known. */
  findTokenizer?: (format: string) => Promise<FoundTokenizer | undefined>;
  sentence?: FoundSentence;
  /** What a GGUF file says of itself; there once its directory is read. */
  metadata?: ReadonlyMap<string, MetadataValue>;
}

/** What a description says about a text's end, its begin and its length. */
export interface TextSettings {
  endTokens: number[];
  beginToken: number | undefined;
}

// ---- Finding the files ----

/** How a load opens its files. */
export interface Opening extends LoadOptions {
  /** Takes what the caller should know. */
  say?: (text: string) => void;
  /** False: a cache is read, and nothing is put into it. */
  keep?: boolean;
}

function openOptions({ signal, fetch, headers, revision, cache, say, keep }: Opening): OpenOptions {
  return { signal, fetch, headers, revision, cache, say, keep };
}

/** Opens what a model consists of. The weights stay open: close them when done. */
export async function openModel(input: SourceInput, options: Opening): Promise<ModelFiles> {
  const opened = await openSource(input, openOptions(options));
  if (isFileSet(opened)) return openSet(opened, options);
  return { ...(await openSingle(opened, options)), findTokenizer: (format) => tokenizerBeside(input, format, options) };
}

/**
 * The tokenizer beside a single file. In a folder on the disk it is looked for as in a model's folder; of a server only where the file is llama2.c's, which
 * has no other place for it. It only adds: where it cannot be had that is said, and the model goes without.
 */
async function tokenizerBeside(input: SourceInput, format: string, options: Opening): Promise<FoundTokenizer | undefined> {
  const beside = filesBeside(input, openOptions(options));
  if (!beside || (beside.isAddress && format !== 'llama2.c')) return undefined;
  try {
    return await findTokenizerFiles(readerOf(beside.set), beside.isAddress ? ['tokenizer.json', 'tokenizer.bin'] : await beside.set.list().catch(() => []));
  } catch (error) {
    if (!(error instanceof HeddleError)) throw error;
    options.say?.(`the tokenizer beside the model: ${error.message}; it is left out`);
    return undefined;
  }
}

function readerOf(set: FileSet): FileReader {
  return {
    async text(name) {
      const file = await set.open(name, true);
      return file && readText(file);
    },
    async bytes(name) {
      const file = await set.open(name, true);
      return file && readAll(file);
    },
  };
}

async function openSingle(file: ByteSource, options: Opening): Promise<ModelFiles> {
  try {
    const files: ModelFiles = options.tokenizer ? { tokenizer: { files: options.tokenizer } } : {};
    const first = await file.peek(512);
    if (looksLikeText(first) && options.config === undefined) {
      const bytes = await readAll(file);
      return { ...files, bundle: { bytes, id: options.id ?? soleModel(bytes, file.name) } };
    }
    const weights: WeightFiles = { files: [file], expected: new Map() };
    // A GGUF describes itself. Of others the core says, once it has read their directory, what they are or that they lack a description.
    if (options.config === undefined) return { ...files, weights: await whole(weights) };
    return { ...files, config: await describe(options.config, openOptions(options)), weights: await whole(weights) };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** With the sizes of all files known. */
async function whole(weights: WeightFiles): Promise<WeightFiles> {
  for (const file of weights.files) await sized(file);
  return weights;
}

/** A GGUF file among them is a model by itself, and so may be a .bin: llama2.c's, beside its tokenizer's. */
async function mayDescribeItself(set: FileSet): Promise<boolean> {
  const names = (await set.list()) ?? [];
  return names.some((name) => name.endsWith('.gguf')) || (names.some(isLlama2cTokenizer) && names.some((name) => name.endsWith('.bin') && !isLlama2cTokenizer(name)));
}

/** The same of a folder that is open. */
export async function openSet(set: FileSet, options: Opening): Promise<ModelFiles> {
  const files: ModelFiles = {};
  const read = readerOf(set);
  const { text } = read;
  const config = options.config === undefined ? await text('config.json') : await describe(options.config, openOptions(options));
  if (config === undefined && !(await mayDescribeItself(set))) throw await missingFile(set, 'config.json');
  if (config !== undefined) files.config = config;
  const generationConfig = await text('generation_config.json');
  if (generationConfig !== undefined && isReadable(generationConfig, 'generation_config.json', options)) files.generationConfig = generationConfig;
  const tokenizer = options.tokenizer ? { files: options.tokenizer } : await findTokenizerFiles(read, await set.list());
  if (tokenizer) files.tokenizer = tokenizer;
  files.sentence = await findSentence(text, await set.list());
  files.weights = await openWeightFiles(set);
  return files;
}

/** Whether it is JSON. It only advises: where it is none that is said, and the model goes without. */
function isReadable(text: string, name: string, { say }: Opening): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch (error) {
    say?.(`${name}: ${messageOf(error)}; it is left out`);
    return false;
  }
}

/** The weight files of a source that need not be a whole model. */
export async function openWeightsOf(input: SourceInput, options: OpenOptions): Promise<WeightFiles> {
  const opened = await openSource(input, options);
  return isFileSet(opened) ? openWeightFiles(opened) : { files: [opened], expected: new Map() };
}

/** A description as JSON text. A network's spec without a dialect means the textbook's arithmetic: see `standardDialect`. */
export async function describe(config: FileInput | object, options: OpenOptions = {}): Promise<string> {
  const plain = isPlainObject(config) && !('stream' in config);
  return standardDialect(plain ? jsonText(config, 'config') : await readText(await openFile(config as FileInput, { ...options, whole: true }, 'config')));
}

/** Builders in camelCase default to the textbook; a bundle, and the core, to Loom. Text that is no JSON is left for the core to refuse. */
export function standardDialect(json: string): string {
  return withDialect(json, 'standard');
}

export function withDialect(json: string, dialect: 'standard' | 'loom'): string {
  try {
    const spec: unknown = JSON.parse(json);
    if (typeof spec !== 'object' || spec === null || !('layers' in spec) || 'dialect' in spec) return json;
    return JSON.stringify({ dialect, ...spec });
  } catch {
    return json;
  }
}

/** Text begins with a brace; so may a SafeTensors file of 123 header bytes, but then NULs follow. */
function looksLikeText(first: Uint8Array): boolean {
  const text = new TextDecoder('latin1').decode(first);
  return /^(\u00ef\u00bb\u00bf)?\s*[{[]/.test(text) && !text.includes('\0');
}

/** JSON that is given in a bundle's place: a key it has, what that makes it, and what to do. */
const lookAlikes: readonly (readonly [key: string, what: string, advice: string])[] = [
  ['layers', "a network's spec", 'buildNetwork makes a network of it; with weights it is their options.config'],
  ['peft_type', "an adapter's config", "model.loadAdapter takes it, beside the adapter's weights"],
  ['weights', "MLX-Node's weights.mlx", 'runtime.loadPretrained takes the folder it lies in; or give its config.json as options.config'],
  ['weight_map', 'the index of weights in several files', 'load the folder it lies in'],
  ['model_type', "a model's config.json", 'load the folder it lies in, or the weights with it as options.config'],
  ['architectures', "a model's config.json", 'load the folder it lies in, or the weights with it as options.config'],
  ['added_tokens', 'a tokenizer.json', "load the folder it lies in, or the model's files by name"],
  ['tokenizer_class', 'a tokenizer_config.json', "load the folder it lies in, or the model's files by name"],
];

/** The id of a bundle's only model. What is no bundle, and nothing else we know, is left for the core, which says where it breaks. */
function soleModel(bytes: Uint8Array, name: string): string {
  let ids: string[];
  let lookAlike: (typeof lookAlikes)[number] | undefined;
  try {
    const bundle = JSON.parse(new TextDecoder().decode(bytes)) as { models?: { id?: unknown }[] };
    if (isPlainObject(bundle) && !('models' in bundle)) lookAlike = lookAlikes.find(([key]) => key in bundle);
    ids = (bundle.models ?? []).map((model) => String(model.id));
  } catch {
    return '';
  }
  if (lookAlike) throw new HeddleError('bad_argument', `${name}: this looks like ${lookAlike[1]}, not a bundle: ${lookAlike[2]}`);
  if (ids.length > 1) throw new HeddleError('bad_argument', `the bundle holds ${ids.length} models (${ids.join(', ')}): say which as options.id`);
  return ids[0] ?? '';
}

/** Begin and end tokens: generation_config.json goes before config.json. */
export function textSettings(files: ModelFiles): TextSettings {
  const found: TextSettings = { endTokens: [], beginToken: undefined };
  for (const text of [files.config, files.generationConfig]) {
    if (text === undefined) continue;
    try {
      const { eos_token_id: end, bos_token_id: begin } = JSON.parse(text) as { eos_token_id?: unknown; bos_token_id?: unknown };
      const ids = (Array.isArray(end) ? end : [end]).filter((id): id is number => typeof id === 'number');
      if (ids.length > 0) found.endTokens = ids;
      if (typeof begin === 'number') found.beginToken = begin;
    } catch {
      // The core reads config.json strictly and has refused it by now.
    }
  }
  return found;
}

// ---- Loading ----

/** config.json with what Llama-named tensors say besides; undefined where they are not, or the config is broken. */
function completed(core: Core, directory: number, config: string): string | undefined {
  const { network } = core.heap.withText(config, (p, n) => JSON.parse(core.text((x) => x.w_directory_detect(directory, p, n))) as { network: object | null });
  return network && 'model_type' in network ? JSON.stringify(network) : undefined;
}

/** Whether a config.json is one whose own loader says better than detection what is wrong: it names a family, or is no JSON. */
export function namesFamily(config: string): boolean {
  try {
    const json: unknown = JSON.parse(config);
    return typeof json !== 'object' || json === null || 'model_type' in json;
  } catch {
    return true;
  }
}

/** The core's model from a bundle's text. Synchronous: LoadNetworkFromString is this. */
export function loadBundle(core: Core, text: string | Uint8Array, id: string): number {
  const load = (p: number, n: number): number => core.heap.withText(id, (name) => core.made((x) => x.w_model_load_bundle(p, n, name)));
  return typeof text === 'string' ? core.heap.withText(text, load) : core.heap.with(text, load);
}

/** What matrices become, as the core wants it: −1 keeps them. Throws `bad_argument` with the names there are. */
function weightType(core: Core, name: string): number {
  if (name === 'keep') return -1;
  const number = core.dtypeNumber(name);
  if (number < 0 || !becomesWeights(core, number)) {
    const known = core.dtypes.filter((_, i) => becomesWeights(core, i));
    checkName(name, 'dtype', ['keep', ...known.map((each) => each.toLowerCase())]);
  }
  return number;
}

/** Whether the core makes a loader for it. */
function becomesWeights(core: Core, dtype: number): boolean {
  if (core.call((x) => x.w_loader_new(dtype)) !== 0) return false;
  const loader = core.heap.transfer(0);
  core.call((x) => x.w_loader_free(loader));
  return true;
}

/** The core's model from opened files; nothing is left behind when it fails or is aborted. `complete`: what config.json leaves out is read off the tensors. */
export async function loadFiles(core: Core, files: ModelFiles, options: Opening, complete = false, found?: (counts: Counts) => void): Promise<number> {
  const dtype = weightType(core, options.dtype ?? 'keep');
  if (files.bundle) {
    if (dtype >= 0 && core.dtypes[dtype] !== 'F32') throw new HeddleError('unsupported', `dtype '${options.dtype ?? ''}': a bundle's weights are kept as F32`);
    return loadBundle(core, files.bundle.bytes, files.bundle.id);
  }
  if (!files.weights) throw new HeddleError('bad_argument', 'a model needs a description and weights');
  const weights = await withoutMlx(core, files.weights);
  const loader = core.made((x) => x.w_loader_new(dtype));
  try {
    const parts = await withDirectories(core, weights.files, async (directories) => {
      const config = await descriptionOf(core, files, weights, directories, complete);
      if (!files.tokenizer && files.findTokenizer) files.tokenizer = await files.findTokenizer(formatOf(core, directories[0] ?? 0));
      core.heap.withText(config, (p, n) => core.check((x) => x.w_loader_describe(loader, p, n)));
      checkFits(core, loader, options.dtype ?? 'keep', config, directories, options.context ?? 0);
      const begins = weights.files.map((file, i) => addFile(core, loader, file, directories[i] ?? 0, weights.expected.get(file)));
      core.check((x) => x.w_loader_settle(loader));
      for (const text of unusedLayers(core, loader)) options.say?.(text);
      return weights.files.map((file, i) => ({ file, wanted: wantedBetween(core, loader, begins[i] ?? 0, begins[i + 1]) }));
    });
    found?.(countsOf(core, loader));
    await streamTensors(core, loader, parts, options);
    for (const { file } of parts) await file.finish?.();
    return core.made((x) => x.w_loader_finish(loader));
  } finally {
    if (core.alive) core.call((x) => x.w_loader_free(loader));
  }
}

/** The description the core is given: the caller's or the file's own, with what tensors say besides where that is wanted. */
async function descriptionOf(core: Core, files: ModelFiles, weights: WeightFiles, [first = 0]: readonly number[], complete: boolean): Promise<string> {
  const [file] = weights.files;
  if (file) await describeItself(core, files, first, file);
  if (files.config === undefined) throw new HeddleError('bad_argument', `${file?.name ?? 'no file'}: weights alone are no model; give their description as options.config, or load the folder that has it`);
  return (complete && weights.files.length === 1 && completed(core, first, files.config)) || files.config;
}

/** What the model will take of memory; nothing of the weights is read. */
export async function estimateFiles(core: Core, files: ModelFiles, options: LoadOptions): Promise<MemoryEstimate> {
  weightType(core, options.dtype ?? 'keep');
  if (!files.weights) throw new HeddleError('unsupported', "a bundle's weights are in its text: it takes no more than four bytes a weight");
  const weights = await withoutMlx(core, files.weights);
  return withDirectories(core, weights.files, async (directories) =>
    estimateMemory(core, options.dtype ?? 'keep', await descriptionOf(core, files, weights, directories, false), directories, options.context ?? 0),
  );
}

/** Takes what a file says of itself: its metadata, and its description unless there is another. */
async function describeItself(core: Core, files: ModelFiles, directory: number, file: ByteSource): Promise<void> {
  if (!describingFormats.includes(formatOf(core, directory))) return;
  files.metadata = readMetadata(core, directory);
  if (files.metadata.has('tokenizer.ggml.model')) files.tokenizer ??= { files: { gguf: files.metadata } };
  if (!files.sentence?.settings) files.sentence = { settings: sentenceOfGguf(files.metadata), ...files.sentence };
  if (files.config !== undefined) return;
  const tensors = await configTensors(core, directory, file);
  files.config = core.heap.with(tensors, (p, n) => core.text((x) => x.w_directory_config(directory, p, n)));
}

/** The bytes of the tensors that are part of a file's description, one behind the other. */
async function configTensors(core: Core, directory: number, file: ByteSource): Promise<Uint8Array> {
  const ranges: { begin: number; end: number }[] = [];
  while (core.call((x) => x.w_directory_config_tensor(directory, ranges.length)) !== 0) ranges.push(entry(core));
  if (ranges.length > 0 && !file.seekable) await file.spool?.(); // others before them are read later
  const bytes = new Uint8Array(ranges.reduce((sum, { begin, end }) => sum + end - begin, 0));
  let at = 0;
  for (const { begin, end } of ranges) {
    bytes.set(await readRange(file, begin, end), at);
    at += end - begin;
  }
  return bytes;
}

/** Tensors of all files, and the values in them. */
export interface Counts {
  tensors: number;
  parameters: number;
}

function countsOf(core: Core, loader: number): Counts {
  const tensors = core.call((x) => x.w_loader_count(loader));
  let parameters = 0;
  for (let index = 0; index < tensors; index++) {
    core.call((x) => x.w_loader_tensor(loader, index));
    parameters += entry(core).numel;
  }
  return { tensors, parameters };
}

/** Tells the loader of a file. The number of its first tensor there. */
function addFile(core: Core, loader: number, file: ByteSource, directory: number, expected: readonly string[] | undefined): number {
  const begin = core.call((x) => x.w_loader_count(loader));
  core.check((x) => x.w_loader_add(loader, directory));
  checkShard(file, expected, namesFrom(core, loader, begin));
  return begin;
}

/** Whether a tensor is among those from number `begin` on. */
function namesFrom(core: Core, loader: number, begin: number): (name: string) => boolean {
  const names = new Set<string>();
  const count = core.call((x) => x.w_loader_count(loader));
  for (let index = begin; index < count; index++) {
    core.call((x) => x.w_loader_tensor(loader, index));
    names.add(entry(core).name);
  }
  return (name) => names.has(name);
}

function wantedBetween(core: Core, loader: number, begin: number, end = core.call((x) => x.w_loader_count(loader))): Wanted[] {
  const found: Wanted[] = [];
  for (let index = begin; index < end; index++) {
    core.call((x) => x.w_loader_tensor(loader, index));
    const { name, begin: from, end: to, wanted } = entry(core);
    if (!wanted) continue;
    const count = core.call((x) => x.w_loader_before(loader, index));
    found.push({ index, name, begin: from, end: to, before: Array.from({ length: count }, (_, i) => core.heap.transfer(i)) });
  }
  return found;
}

/** What the files have of layers that the description does not: a list of layers ("model.layers") that is longer than the model's. */
function unusedLayers(core: Core, loader: number): string[] {
  const lists = new Map<string, { all: Set<number>; used: Set<number> }>();
  const count = core.call((x) => x.w_loader_count(loader));
  for (let index = 0; index < count; index++) {
    core.call((x) => x.w_loader_tensor(loader, index));
    const { name, wanted } = entry(core);
    const [, list, number] = /^(.*?\b(?:layers?|h|blk|blocks?))\.(\d+)\./.exec(name) ?? [];
    if (list === undefined) continue;
    const found = lists.get(list) ?? { all: new Set(), used: new Set() };
    lists.set(list, found);
    found.all.add(Number(number));
    if (wanted) found.used.add(Number(number));
  }
  return [...lists].flatMap(([list, { all, used }]) => {
    const left = [...all].filter((number) => !used.has(number)).sort((a, b) => a - b);
    if (used.size === 0 || left.length === 0) return [];
    const numbers = left.length > 4 ? `${left.slice(0, 3).join(', ')}, …, ${left.at(-1)}` : left.join(', ');
    return [`the weights have ${all.size} layers (${list}), the description ${used.size}: ${left.length} are left unused (${numbers})`];
  });
}

async function streamTensors(core: Core, loader: number, parts: readonly Part[], options: LoadOptions): Promise<void> {
  const progress = new Progress(parts.flatMap(({ wanted }) => wanted), options.progress);
  const breather = new Breather();
  const pause = async (): Promise<void> => {
    options.signal?.throwIfAborted();
    await breather.breathe();
    options.signal?.throwIfAborted();
  };
  for await (const { file, wanted } of inOrder(parts)) {
    for await (const { tensor, chunk, isFirst, isLast } of arrivals(file, wanted)) {
      if (isFirst) core.check((x) => x.w_tensor_begin(loader, tensor.index));
      for (let at = 0; chunk && at < chunk.byteLength; at += stagingBytes) {
        const piece = chunk.subarray(at, at + stagingBytes);
        const staged = core.heap.stage(piece);
        core.check((x) => x.w_tensor_write(loader, staged, piece.byteLength));
        progress.add(piece.byteLength);
        await pause();
      }
      if (!isLast) continue;
      core.check((x) => x.w_tensor_end(loader));
      progress.done(tensor.name);
      await pause();
    }
  }
}

/** Closes what a load opened. */
export async function closeModel(files: ModelFiles): Promise<void> {
  await closeAll(files.weights?.files ?? []);
}
