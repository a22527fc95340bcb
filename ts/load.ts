/**
 * load.ts: from bytes to a model inside an instance, by the core's three steps: the header gives a directory, the directory and a
 * description give a graph, and the wanted tensors stream into it in file order, in pieces of at most 1 MB.
 *
 * Progress is counted here and an abort is this file not making the next call: the core knows of neither.
 */
import { checkName, isPlainObject, jsonText } from './arguments.js';
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import type { ErrorCode } from './errors.js';
import { Breather } from './host.js';
import { stagingBytes } from './memory.js';
import { readMetadata } from './metadata.js';
import { isByteSource, missingFile, openFile, openSource, readAll, readRange, readText, sized } from './source.js';
import type { ByteSource, FileSet } from './source.js';
import { findTokenizerFiles } from './tokenizer-files.js';
import type { FoundTokenizer } from './tokenizer-files.js';
import type { DetectedModel, FileInfo, FileInput, LoadOptions, MetadataValue, SourceInput, TensorInfo } from './types.js';

/** A model's files, opened: either a bundle, or a description and weights. */
export interface ModelFiles {
  bundle?: { bytes: Uint8Array; id: string };
  config?: string;
  generationConfig?: string;
  weights?: ByteSource;
  tokenizer?: FoundTokenizer;
  /** What a GGUF file says of itself; there once its directory is read. */
  metadata?: ReadonlyMap<string, MetadataValue>;
}

/** What a description says about a text's end, its begin and its length. */
export interface TextSettings {
  endTokens: number[];
  beginToken: number | undefined;
}

// ---- Finding the files ----

/** Opens what a model consists of. The weights stay open: close them when done. */
export async function openModel(input: SourceInput, options: LoadOptions): Promise<ModelFiles> {
  const opened = await openSource(input, options.signal);
  if (!isByteSource(opened)) return openSet(opened, options);
  const files: ModelFiles = {};
  if (options.tokenizer) files.tokenizer = { files: options.tokenizer };
  const first = new Uint8Array(await firstBytes(opened));
  if (looksLikeText(first)) {
    const bytes = await readOn(opened, first);
    return { ...files, bundle: { bytes, id: options.id ?? soleModel(bytes, opened.name) } };
  }
  if (options.config === undefined && isGguf(first)) return { ...files, weights: await sized(startingWith(opened, first)) };
  if (options.config === undefined) {
    await opened.close();
    if (!mayBeWeights(first, opened.size)) throw new HeddleError('bad_file', `${opened.name}: expected a bundle's JSON or SafeTensors, found neither`);
    throw new HeddleError('bad_argument', `${opened.name}: weights alone are no model; give their description as options.config`);
  }
  return { ...files, config: await describe(options.config, options.signal), weights: await sized(startingWith(opened, first)) };
}

/** The only GGUF file of a set without a config.json: it is the model. */
async function soleGguf(set: FileSet): Promise<ByteSource | undefined> {
  const names = await set.list();
  const [name, ...others] = names?.filter((each) => each.endsWith('.gguf')) ?? [];
  return name !== undefined && others.length === 0 && !names?.includes('config.json') ? set.open(name) : undefined;
}

async function openSet(set: FileSet, options: LoadOptions): Promise<ModelFiles> {
  const files: ModelFiles = {};
  const gguf = options.config === undefined ? await soleGguf(set) : undefined;
  if (gguf) return { ...(options.tokenizer && { tokenizer: { files: options.tokenizer } }), weights: await sized(gguf) };
  const text = async (name: string): Promise<string | undefined> => {
    const file = await set.open(name);
    return file && readText(file);
  };
  const config = options.config === undefined ? await text('config.json') : await describe(options.config, options.signal);
  if (config === undefined) throw await missingFile(set, 'config.json');
  files.config = config;
  const generationConfig = await text('generation_config.json');
  if (generationConfig !== undefined) files.generationConfig = generationConfig;
  const bytes = async (name: string): Promise<Uint8Array | undefined> => {
    const file = await set.open(name);
    return file && readAll(file);
  };
  const tokenizer = options.tokenizer ? { files: options.tokenizer } : await findTokenizerFiles({ text, bytes }, await set.list());
  if (tokenizer) files.tokenizer = tokenizer;
  files.weights = await sized(await openWeights(set));
  return files;
}

async function openWeights(set: FileSet): Promise<ByteSource> {
  const names = await set.list();
  const candidates = names?.filter((name) => name.endsWith('.safetensors')) ?? ['model.safetensors'];
  const name = candidates.includes('model.safetensors') ? 'model.safetensors' : candidates.length === 1 ? candidates[0] : undefined;
  const file = name === undefined ? undefined : await set.open(name);
  if (file) return file;
  const index = names ? names.includes('model.safetensors.index.json') : (await set.open('model.safetensors.index.json')) !== undefined;
  if (index) throw new HeddleError('unsupported', 'the weights are split into several files, which is not built yet');
  throw await missingFile(set, 'model.safetensors');
}

/** A description as JSON text. A network's spec without a dialect means the textbook's arithmetic: see `standardDialect`. */
export async function describe(config: FileInput | object, signal: AbortSignal | undefined): Promise<string> {
  const plain = isPlainObject(config) && !('stream' in config);
  return standardDialect(plain ? jsonText(config, 'config') : await readText(await openFile(config as FileInput, signal, 'config')));
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

/** Of the formats only GGUF describes its model: a file of it is a whole one. */
function isGguf(first: Uint8Array): boolean {
  return new TextDecoder('latin1').decode(first.subarray(0, 4)) === 'GGUF';
}

/** SafeTensors begins with its header's length, 8 bytes, which is no more than the file holds; PyTorch's files are zips, or pickles of protocol 2 and up. */
function mayBeWeights(first: Uint8Array, fileBytes: number | undefined): boolean {
  if (first.byteLength < 8) return false;
  if ((first[0] === 0x50 && first[1] === 0x4b) || (first[0] === 0x80 && (first[1] ?? 0) <= 5)) return true;
  const length = new DataView(first.buffer, first.byteOffset).getBigUint64(0, true);
  return length <= BigInt(Math.max((fileBytes ?? Number.MAX_SAFE_INTEGER) - 8, 0));
}

/** JSON that is given in a bundle's place: a key it has, what that makes it, and what to do. */
const lookAlikes: readonly (readonly [key: string, what: string, advice: string])[] = [
  ['layers', "a network's spec", 'buildNetwork makes a network of it; with weights it is their options.config'],
  ['peft_type', "an adapter's config", "model.loadAdapter takes it, beside the adapter's weights"],
  ['weight_map', 'the index of weights in several files', 'several files are not built yet'],
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

async function firstBytes(source: ByteSource): Promise<Uint8Array> {
  return readRange(source, 0, Math.min(512, source.size ?? 512));
}

/** The whole of a file whose first bytes were read. Closes it. */
async function readOn(source: ByteSource, first: Uint8Array): Promise<Uint8Array> {
  const end = source.size ?? Number.POSITIVE_INFINITY;
  const rest = end > first.byteLength ? await readRange(source, first.byteLength, end) : new Uint8Array(0);
  await source.close();
  const all = new Uint8Array(first.byteLength + rest.byteLength);
  all.set(first);
  all.set(rest, first.byteLength);
  return all;
}

/** The file again from its start: its first bytes were read off a stream that cannot go back. */
function startingWith(source: ByteSource, first: Uint8Array): ByteSource {
  return {
    name: source.name,
    size: source.size,
    async *read(begin, end) {
      if (begin < first.byteLength) yield first.subarray(begin, Math.min(end, first.byteLength));
      if (end > first.byteLength) yield* source.read(Math.max(begin, first.byteLength), end);
    },
    close: () => source.close(),
    ...(source.withSize && { withSize: async () => startingWith(await sized(source), first) }),
  };
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
      // The core reads config.json strictly and has refused it by now; generation_config.json only advises.
    }
  }
  return found;
}

// ---- Directories ----

/** A weight file with its directory read. */
interface OpenedFile {
  /** The core's; the caller frees it. */
  directory: number;
  /** The file, from its first byte again. */
  source: ByteSource;
  bytes: number;
}

/** Reads a weight file's directory, and no more of the file than that takes. Errors name the file. */
async function readDirectory(core: Core, source: ByteSource): Promise<OpenedFile> {
  try {
    const bytes = source.size ?? 0; // `sized` went before
    const again = startingWith(source, await firstBytes(source));
    return { directory: await readParts(core, again, bytes), source: again, bytes };
  } catch (error) {
    const aboutFile = error instanceof HeddleError && (error.code === 'bad_file' || error.code === 'unsupported') && !error.message.includes(source.name);
    throw aboutFile ? new HeddleError(error.code, `${source.name}: ${error.message}`) : error;
  }
}

/** Gives the core the parts of the file it wants, until it has a directory. */
async function readParts(core: Core, source: ByteSource, bytes: number): Promise<number> {
  const reader = core.made((x) => x.w_reader_new(bytes));
  try {
    while (core.call((x) => x.w_reader_wants(reader)) !== 0) {
      const begin = core.heap.transfer(0);
      const end = core.heap.transfer(1);
      if (begin === end) core.check((x) => x.w_reader_give(reader, 0, 0));
      for await (const chunk of source.read(begin, end)) give(core, reader, chunk);
    }
    return core.made((x) => x.w_reader_finish(reader));
  } finally {
    if (core.alive) core.call((x) => x.w_reader_free(reader));
  }
}

function give(core: Core, reader: number, chunk: Uint8Array): void {
  for (let at = 0; at < chunk.byteLength; at += stagingBytes) {
    const piece = chunk.subarray(at, at + stagingBytes);
    const staged = core.heap.stage(piece);
    core.check((x) => x.w_reader_give(reader, staged, piece.byteLength));
  }
}

/** The entry in the transfer area: [name, dtype, n_dims, begin, end, wanted, shape…]. */
function entry(core: Core): TensorInfo & { wanted: boolean } {
  const { heap } = core;
  return {
    name: heap.text(heap.transfer(0)),
    dtype: core.dtypes[heap.transfer(1)] ?? '?',
    shape: heap.transferShape(2, 6),
    begin: heap.transfer(3),
    end: heap.transfer(4),
    wanted: heap.transfer(5) !== 0,
  };
}

function formatOf(core: Core, directory: number): string {
  return core.heap.text(core.call((x) => x.w_directory_format(directory)) >>> 0);
}

/** A weight file's tensors and metadata. Nothing but its header is read. */
export async function inspectFile(core: Core, source: ByteSource): Promise<FileInfo> {
  const { directory, bytes } = await readDirectory(core, source);
  try {
    const tensors: TensorInfo[] = [];
    const count = core.call((x) => x.w_directory_count(directory));
    for (let i = 0; i < count; i++) {
      core.call((x) => x.w_directory_entry(directory, i));
      const { wanted: _, ...info } = entry(core);
      tensors.push(info);
    }
    return { format: formatOf(core, directory), tensors, metadata: Object.fromEntries(readMetadata(core, directory)), bytes };
  } finally {
    if (core.alive) core.call((x) => x.w_directory_free(directory));
  }
}

/** config.json with what Llama-named tensors say besides; undefined where they are not, or the config is broken. */
function completed(core: Core, directory: number, config: string): string | undefined {
  const { network } = core.heap.withText(config, (p, n) => JSON.parse(core.text((x) => x.w_directory_detect(directory, p, n))) as { network: object | null });
  return network && 'model_type' in network ? JSON.stringify(network) : undefined;
}

/** Takes what a GGUF file says of itself: its metadata, and its description unless there is another. */
async function describeItself(core: Core, files: ModelFiles, { directory, source }: OpenedFile): Promise<void> {
  if (formatOf(core, directory) !== 'GGUF') return;
  files.metadata = readMetadata(core, directory);
  if (files.metadata.has('tokenizer.ggml.model')) files.tokenizer ??= { files: { gguf: files.metadata } };
  if (files.config !== undefined) return;
  let tensor = new Uint8Array(0);
  if (core.call((x) => x.w_directory_config_tensor(directory)) !== 0) {
    const { begin, end } = entry(core);
    tensor = new Uint8Array(await readRange(source, begin, end));
  }
  files.config = core.heap.with(tensor, (p, n) => core.text((x) => x.w_directory_config(directory, p, n)));
}

/** What a weight file's tensors seem to be, and the network they make or why they make none: see src/graph/detect.c. */
export interface Detection extends DetectedModel {
  network: object | null;
  refusal: { code: ErrorCode; message: string } | null;
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

export async function detectFile(core: Core, source: ByteSource, config: string | undefined): Promise<Detection> {
  const { directory } = await readDirectory(core, source);
  try {
    const detect = (p: number, n: number): string => core.text((x) => x.w_directory_detect(directory, p, n));
    return JSON.parse(config === undefined ? detect(0, 0) : core.heap.withText(config, detect)) as Detection;
  } finally {
    if (core.alive) core.call((x) => x.w_directory_free(directory));
  }
}

// ---- Loading ----

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
export async function loadFiles(core: Core, files: ModelFiles, options: LoadOptions, complete = false): Promise<number> {
  const dtype = weightType(core, options.dtype ?? 'keep');
  if (files.bundle) {
    if (dtype >= 0 && core.dtypes[dtype] !== 'F32') throw new HeddleError('unsupported', `dtype '${options.dtype ?? ''}': a bundle's weights are kept as F32`);
    return loadBundle(core, files.bundle.bytes, files.bundle.id);
  }
  if (!files.weights) throw new HeddleError('bad_argument', 'a model needs a description and weights');
  const loader = core.made((x) => x.w_loader_new(dtype));
  try {
    const opened = await readDirectory(core, files.weights);
    const { directory, source } = opened;
    try {
      await describeItself(core, files, opened);
      const config = (complete && completed(core, directory, files.config ?? '')) || (files.config ?? '');
      core.heap.withText(config, (p, n) => core.check((x) => x.w_loader_describe(loader, p, n)));
      core.check((x) => x.w_loader_add(loader, directory));
    } finally {
      if (core.alive) core.call((x) => x.w_directory_free(directory));
    }
    await streamTensors(core, loader, source, options);
    return core.made((x) => x.w_loader_finish(loader));
  } finally {
    if (core.alive) core.call((x) => x.w_loader_free(loader));
  }
}

async function streamTensors(core: Core, loader: number, source: ByteSource, options: LoadOptions): Promise<void> {
  const count = core.call((x) => x.w_loader_count(loader));
  const wanted: { index: number; begin: number; end: number }[] = [];
  for (let index = 0; index < count; index++) {
    core.call((x) => x.w_loader_tensor(loader, index));
    const info = entry(core);
    if (info.wanted) wanted.push({ index, begin: info.begin, end: info.end });
  }
  const progress = { bytes: 0, totalBytes: wanted.reduce((sum, t) => sum + t.end - t.begin, 0), tensors: 0, totalTensors: wanted.length };
  const breather = new Breather();
  const pause = async (): Promise<void> => {
    options.signal?.throwIfAborted();
    await breather.breathe();
    options.signal?.throwIfAborted();
  };
  for (const { index, begin, end } of wanted) {
    core.check((x) => x.w_tensor_begin(loader, index));
    if (end > begin) {
      for await (const chunk of source.read(begin, end)) {
        for (let at = 0; at < chunk.byteLength; at += stagingBytes) {
          const piece = chunk.subarray(at, at + stagingBytes);
          const staged = core.heap.stage(piece);
          core.check((x) => x.w_tensor_write(loader, staged, piece.byteLength));
          progress.bytes += piece.byteLength;
          options.progress?.({ ...progress });
          await pause();
        }
      }
    }
    core.check((x) => x.w_tensor_end(loader));
    progress.tensors++;
    options.progress?.({ ...progress });
    await pause();
  }
}
