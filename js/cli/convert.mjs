/**
 * convert.mjs: a model or its weights in another format. Weights go over tensor by tensor; a GGUF model is made of, and into, a loaded one, since heads'
 * rows lie in another order there. A file is written beside its place and moved there when it is whole.
 */
import { mkdir, open, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { basename, dirname, extname, join } from 'node:path';
import { HeddleError, ggufTokenizer, ggufTokenizerMetadata, init, modelTensors, shardsOf } from 'heddle';
import { UsageError, jsonOption, sourceOptions } from './arguments.mjs';
import { interruption, progressBar } from './progress.mjs';
import { openOperand, parsed } from './sources.mjs';
import { printJson, say, sizeText, warn } from './text.mjs';
import { isLlama2cTokenizer } from './tokenizer.mjs';

const targets = ['safetensors', 'gguf', 'pt', 'mlx-json', 'bundle', 'hf', 'mlx'];

export const about = 'a model or its weights in another format or dtype';
export const operands = [{ name: 'IN' }, { name: 'OUT' }];
export const options = {
  to: { kind: 'text', takes: 'FORMAT', among: targets, about: `${targets.join(', ')}; by default what OUT's name says` },
  dtype: { kind: 'text', takes: 'DTYPE', about: "what floats become: 'keep' (the default), 'f32', 'f16', 'bf16', …; for gguf also 'q8_0', 'q4_0', …; a bundle has float32, float16, int8, …" },
  config: { kind: 'text', takes: 'FILE', about: "the description of bare weights: config.json, or a network's JSON (for a bundle)" },
  id: { kind: 'text', takes: 'ID', about: 'which model of a bundle, or what the new one is called' },
  plain: { kind: 'flag', about: "tensors as they are called and lie in the file: no model is made of a GGUF file's, or into one's" },
  'shard-size': { kind: 'bytes', takes: 'SIZE', about: 'folders: the weights are split where a file would pass it; 2GB by default' },
  force: { kind: 'flag', short: 'f', about: 'write over what is there' },
  ...jsonOption,
  ...sourceOptions,
};
export const notes = `FORMAT     OUT
  safetensors  a .safetensors file
  gguf         a .gguf file: of a folder (or of weights with --config) a model for llama.cpp, else single tensors
  pt           a .pt, .pth or .bin file: a state dict for torch.load(weights_only=True)
  mlx-json     a .mlx file: MLX-Node's weights.mlx with its numbers
  bundle       a .json file: a Loom bundle, of a bundle or of weights with --config
  hf           a folder as Hugging Face has them: config.json, model.safetensors (or shards and their index), the tokenizer's files
  mlx          a folder as MLX-Node has them: config.json, weights.safetensors, weights.mlx, the tokenizer's files`;

const byExtension = { '.safetensors': 'safetensors', '.gguf': 'gguf', '.pt': 'pt', '.pth': 'pt', '.bin': 'pt', '.mlx': 'mlx-json', '.json': 'bundle', '': 'hf' };
const libraryNames = { safetensors: 'safetensors', gguf: 'gguf', pt: 'pytorch', 'mlx-json': 'mlx-json' };
/** One file of wasm32's: what its offsets reach is below 4 GB. */
const defaultShard = 2e9;

export async function run({ IN, OUT, to = targetOf(OUT), force = false, json, ...how }) {
  await checkPlace(IN, OUT, to, force);
  await checkFolder(OUT, to);
  const notices = [];
  const runtime = await init({ threads: 1, log: (text) => void notices.push(text) });
  const bar = progressBar(`writing ${basename(OUT)}`);
  const work = { runtime, out: OUT, to, how, bar, signal: interruption(), force };
  const operand = await openOperand(runtime, IN, how);
  const made = await convert(operand, work);
  const result = { ...made, warnings: [...notices, ...made.warnings] };
  bar.done();
  await runtime.free();
  if (json) printJson({ in: IN, out: OUT, to, ...result });
  else report(OUT, result);
}

function report(out, { bytes, tensors, warnings }) {
  for (const warning of warnings) warn(warning);
  say(`${out}: ${sizeText(bytes)}${tensors ? `, ${tensors.length} tensors` : ''}`);
}

function targetOf(out) {
  const to = byExtension[/[/\\]$/.test(out) ? '' : extname(out).toLowerCase()];
  if (!to) throw new UsageError(`what '${out}' should be is not clear from its name: say it with --to (${targets.join(', ')})`);
  return to;
}

async function checkPlace(source, out, to, force) {
  const [there, from] = await Promise.all([out, source].map((path) => stat(path).catch(() => undefined)));
  if (there && from && there.dev === from.dev && there.ino === from.ino) throw new UsageError(`IN and OUT are the same: ${out}`);
  const isFolder = to === 'hf' || to === 'mlx';
  if (there && there.isDirectory() !== isFolder) throw new UsageError(`${out} is ${isFolder ? 'a file' : 'a folder'}, --to ${to} writes ${isFolder ? 'a folder' : 'a file'}`);
  if (there && !isFolder && !force) throw new UsageError(`${out} is there already: --force writes over it`);
}

/** A folder is made where one is written; a file needs the one it is put into. */
async function checkFolder(out, to) {
  const folder = dirname(out);
  const isThere = to === 'hf' || to === 'mlx' || (await stat(folder).then((found) => found.isDirectory(), () => false));
  if (!isThere) throw new HeddleError('bad_file', `cannot write ${out}: there is no folder ${folder}`);
}

function convert(operand, work) {
  if (work.to === 'bundle') return toBundle(operand, work);
  if (work.to === 'hf' || work.to === 'mlx') return toFolder(operand, work);
  return toFile(operand, work);
}

// ---- What is converted ----

const dtypeName = (dtype) => (dtype === undefined || dtype === 'keep' ? 'keep' : dtype.toUpperCase());

/**
 * The tensors as they should be written, and what describes them: { tensors, config, metadata, tokenizer, warnings, close }. A bundle's are its network's; a GGUF
 * model's are the loaded model's, under Hugging Face's names.
 */
async function openTensors(operand, { runtime, how, signal }) {
  const { kind, source, fetching, generationConfig, companions = {}, others = [] } = operand;
  if (kind === 'bundle') {
    const model = await runtime.loadModel(source, { ...(how.id && { id: how.id }) });
    const weights = await runtime.openWeights(await model.saveWeights());
    await model.free();
    return { tensors: weights, metadata: weights.metadata, tokenizer: {}, warnings: [], close: () => weights.close() };
  }
  const config = how.config === undefined ? operand.config : await readFile(how.config, 'utf8');
  const weights = await operand.weights({ signal });
  const tokenizer = weights.format === 'llama2.c' ? llama2cTokenizer(operand.beside ? await operand.beside() : operand.tokenizer) : { metadata: {}, files: operand.tokenizer };
  const about = { companions, others, generationConfig };
  const isModel = ['GGUF', 'llama2.c'].includes(weights.format) && !how.plain && weights.metadata['general.architecture'] !== undefined;
  if (!isModel) return { ...about, tensors: weights, config, metadata: { ...weights.metadata, ...tokenizer.metadata }, tokenizer: tokenizer.files, warnings: [], close: () => weights.close() };
  const metadata = { ...weights.metadata, ...tokenizer.metadata };
  await weights.close();
  const model = await loaded(runtime, source, { ...fetching, signal, ...(config !== undefined && { config: parsedConfig(config, how) }) });
  return { ...about, tensors: modelTensors(model), config: model.config, metadata: {}, tokenizer: { ...ggufTokenizerFiles(metadata), ...tokenizer.files }, warnings: keptAs(model), close: () => model.free() };
}

/** A GGUF's model. What its metadata lack is no reason not to have its tensors. */
async function loaded(runtime, source, options) {
  return runtime.loadModel(source, options).catch((error) => {
    if (!(error instanceof HeddleError) || !/^GGUF: /.test(error.message)) throw error;
    throw new HeddleError(error.code, `${source}: ${error.message}; no model can be made of it: --plain takes its tensors as they are called and lie`, { cause: error });
  });
}

/** { metadata, files }: llama2.c's tokenizer as GGUF's metadata, which become a tokenizer.json where a folder is written: its own file only llama2.c and Heddle read. */
function llama2cTokenizer(files) {
  const own = Object.keys(files).filter(isLlama2cTokenizer);
  const name = own.length === 1 ? own[0] : 'tokenizer.bin';
  if (files['tokenizer.json'] !== undefined || files[name] === undefined) return { metadata: {}, files };
  return { metadata: ggufTokenizerMetadata({ 'tokenizer.bin': files[name] }), files: Object.fromEntries(Object.entries(files).filter(([each]) => !own.includes(each))) };
}

/** A GGUF file's tokenizer as Hugging Face's files. */
function ggufTokenizerFiles(metadata) {
  if (metadata['tokenizer.ggml.model'] === undefined) return {};
  const { tokenizer, config } = ggufTokenizer(new Map(Object.entries(metadata)));
  return { 'tokenizer.json': JSON.stringify(tokenizer), 'tokenizer_config.json': JSON.stringify(config) };
}

/** What loading a model has rounded already. */
function keptAs(model) {
  const rounded = model.report.weights.filter(({ lossy }) => lossy);
  return rounded.length === 0 ? [] : [`${rounded[0].fileDtype} → ${rounded[0].dtype} while it was loaded, rounded: ${rounded[0].name}${rounded.length > 1 ? ` and ${rounded.length - 1} more` : ''}`];
}

// ---- Files ----

/** Writes OUT by `fill`, which takes where chunks go; what was begun and not ended is taken away. */
async function writeFileBy(path, fill) {
  const part = `${path}.${process.pid}.part`;
  const file = await open(part, 'w');
  try {
    const result = await fill(async (chunk) => {
      for (let at = 0; at < chunk.byteLength; ) at += (await file.write(chunk, at, chunk.byteLength - at)).bytesWritten;
    });
    await file.close();
    await rename(part, path);
    return result;
  } catch (error) {
    await file.close().catch(() => undefined);
    await rm(part, { force: true });
    throw error;
  }
}

const convertOptionsOf = ({ to, how, bar, signal }, more) => ({ to: libraryNames[to] ?? 'safetensors', dtype: dtypeName(how.dtype), signal, ...(bar.tell && { progress: bar.tell }), ...more });

async function toFile(operand, work) {
  const { runtime, out, to, how } = work;
  const config = how.config === undefined ? operand.config : await readFile(how.config, 'utf8');
  if (to === 'gguf' && !how.plain && isFamily(config, how)) return modelToGguf(operand, config, work);
  const opened = await openTensors(how.plain || to !== 'gguf' ? operand : { ...operand }, to === 'gguf' ? { ...work, how: { ...how, plain: true } } : work);
  try {
    const { metadata, warnings } = metadataFor(to, opened, how);
    const result = await writeFileBy(out, (write) => runtime.convertWeights(opened.tensors, write, convertOptionsOf(work, { ...(Object.keys(metadata).length > 0 && { metadata }), ...(to === 'mlx-json' && { rename: internalName }) })));
    return { ...result, warnings: [...opened.warnings, ...warnings, ...trainingWarnings(opened), ...result.warnings] };
  } finally {
    await opened.close();
  }
}

/** MLX-Node's names have no `model.` before them. */
const internalName = (name) => name.replace(/^model\./, '');

const parsedConfig = (text, how = {}) => parsed(text, how.config ?? 'config.json');

const isFamily = (config, how) => config !== undefined && typeof parsedConfig(config, how)?.model_type === 'string';

/** What is said beside the tensors: a weights.mlx has its model's config, others their file's metadata. What GGUF has no type for becomes JSON's text. */
function metadataFor(to, { config, metadata }, how) {
  if (to === 'mlx-json') return { metadata: config === undefined ? {} : parsedConfig(config, how), warnings: [] };
  if (to !== 'gguf') return { metadata, warnings: [] };
  const isPlain = (value) => value !== null && (typeof value !== 'object' || ArrayBuffer.isView(value) || (Array.isArray(value) && value.every((each) => typeof each === typeof value[0] && typeof each !== 'object')));
  const others = Object.keys(metadata).filter((key) => !isPlain(metadata[key]));
  const texts = Object.fromEntries(others.map((key) => [key, JSON.stringify(metadata[key], (_, value) => (typeof value === 'bigint' ? String(value) : value))]));
  return { metadata: { ...metadata, ...texts }, warnings: others.length > 0 ? [`metadata that GGUF has no type for, kept as JSON's text: ${others.join(', ')}`] : [] };
}

/** A checkpoint of a training has more than a model: its optimizer's moments go over as any tensors do. */
function trainingWarnings({ tensors: { tensors } }) {
  const moments = tensors.filter(({ name }) => /(^|\.)optimizer[^.]*\.(state\.)?\d+\./.test(name));
  return moments.length === 0 ? [] : [`this is a checkpoint of a training: ${moments.length} of its ${tensors.length} tensors are an optimizer's state (${moments[0].name} first), and no model's weights`];
}

/** A model for llama.cpp, tokenizer included: loaded, and written by the core under GGUF's names. */
async function modelToGguf(operand, config, { runtime, out, how, bar, signal }) {
  const model = await runtime.loadModel(operand.source, { ...operand.fetching, signal, config: parsedConfig(config, how), ...(bar.tell && { progress: bar.tell }) });
  try {
    const stored = new Set(model.weights.map(({ fileDtype, dtype }) => fileDtype ?? dtype));
    const dtype = how.dtype === undefined || how.dtype === 'keep' ? likeMost(stored) : dtypeName(how.dtype);
    const bytes = await model.saveGguf({ dtype });
    await writeFileBy(out, (write) => write(bytes));
    const written = await runtime.inspect(bytes);
    const lossy = [...stored].filter((from) => from !== dtype && !['F32', 'F64'].includes(dtype));
    return {
      format: 'gguf', bytes: bytes.byteLength, tensors: written.tensors.map(({ name, dtype: to, shape }) => ({ name, shape, to })),
      warnings: [...keptAs(model), ...(lossy.length > 0 ? [`${lossy.join(', ')} → ${dtype}, rounded: matrices`] : []), ...unsaid(written.metadata, operand)],
    };
  } finally {
    await model.free();
  }
}

/** Without --dtype a GGUF model's matrices stay what they are, where GGUF's writer has that. */
function likeMost(stored) {
  return ['BF16', 'F16', 'Q8_0', 'Q4_0'].find((dtype) => stored.has(dtype) && ![...stored].some((other) => other === 'F32' && dtype !== 'F32' && stored.size === 1)) ?? 'F32';
}

function unsaid(metadata, { others = [] }) {
  const hasTokenizer = metadata['tokenizer.ggml.model'] !== undefined;
  return [...(hasTokenizer ? [] : ['the GGUF file has no tokenizer']), ...leftOut(others)];
}

const leftOut = (others) => (others.length === 0 ? [] : [`left where they are: ${others.join(', ')}`]);

// ---- Folders ----

async function toFolder(operand, work) {
  const { runtime, out, to, how, force } = work;
  const opened = await openTensors(operand, work);
  try {
    if (opened.config === undefined) throw new UsageError(`--to ${to}: ${operand.source} has no config.json: give it with --config`);
    parsedConfig(opened.config, how);
    const rounds = to === 'mlx' ? [opened.tensors.tensors.map(({ name }) => name)] : shardsOf(opened.tensors.tensors.map(sized), how['shard-size'] ?? defaultShard);
    const files = rounds.map((_, i) => (to === 'mlx' ? 'weights.safetensors' : rounds.length === 1 ? 'model.safetensors' : `model-${numbered(i + 1)}-of-${numbered(rounds.length)}.safetensors`));
    for (const name of files) await checkPlace(operand.source, join(out, name), 'safetensors', force);
    return await inFolder(out, () => writeFolder(opened, rounds, files, work));
  } finally {
    await opened.close();
  }
}

/** With the folder there; one that was made for it is gone again where the work fails. */
async function inFolder(out, work) {
  const made = await mkdir(out, { recursive: true });
  try {
    return await work();
  } catch (error) {
    if (made !== undefined) await rm(made, { recursive: true, force: true });
    throw error;
  }
}

async function writeFolder(opened, rounds, files, work) {
  const { runtime, out, to } = work;
  const metadata = to === 'mlx' ? { format: 'mlx-node', version: '1.0' } : { format: 'pt' };
  const parts = [];
  for (const [i, names] of rounds.entries()) {
    const options = convertOptionsOf(work, { to: 'safetensors', metadata, names, ...(to === 'mlx' && { rename: internalName }) });
    parts.push(await writeFileBy(join(out, files[i]), (write) => runtime.convertWeights(opened.tensors, write, options)));
  }
  const tensors = parts.flatMap((part) => part.tensors);
  const warnings = [...opened.warnings, ...parts.flatMap((part) => part.warnings)];
  const bytes = parts.reduce((sum, part) => sum + part.bytes, 0);
  if (files.length > 1) await writeJson(join(out, 'model.safetensors.index.json'), indexOf(parts, files));
  if (to === 'mlx') await writeJson(join(out, 'weights.mlx'), mlxDirectory(tensors, parsedConfig(opened.config)));
  await writeFile(join(out, 'config.json'), opened.config);
  if (opened.generationConfig !== undefined) await writeFile(join(out, 'generation_config.json'), opened.generationConfig);
  for (const [name, content] of Object.entries({ ...opened.tokenizer, ...opened.companions })) await writeInto(join(out, name), content);
  return { format: to, bytes, files, tensors, warnings: [...warnings, ...leftOut(opened.others ?? [])] };
}

async function writeInto(path, content) {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
}

const numbered = (i) => String(i).padStart(5, '0');
const sized = ({ name, shape, byteSize }) => ({ name, byteSize: byteSize ?? shape.reduce((a, b) => a * b, 1) * 4 });
const writeJson = (path, value) => writeFile(path, `${JSON.stringify(value, null, 2)}\n`);

function indexOf(parts, files) {
  const map = parts.flatMap(({ tensors }, i) => tensors.map(({ name }) => [name, files[i]]));
  return { metadata: { total_size: parts.reduce((sum, { bytes }) => sum + bytes, 0) }, weight_map: Object.fromEntries(map) };
}

/** What MLX-Node's saveModel leaves beside weights.safetensors: names, shapes and its numbers for dtypes. */
function mlxDirectory(tensors, config) {
  const numbers = { F32: 0, I32: 1, F16: 2, BF16: 3, U32: 4 };
  const weights = Object.fromEntries(tensors.map(({ name, shape, to }) => [name, { shape, dtype: numbers[to] ?? to }]));
  return { version: '1.0', config, weights, note: 'Full weights are in weights.safetensors' };
}

// ---- Bundles ----

async function toBundle(operand, { runtime, out, how, signal }) {
  const network = operand.kind === 'bundle' ? await runtime.LoadModel(operand.source, how.id ?? operand.bundle.models[0]?.id ?? '') : await networkOf(operand, runtime, how, signal);
  try {
    const id = how.id ?? (operand.kind === 'bundle' ? String(operand.bundle.models[0]?.id) : basename(out, extname(out)));
    const text = how.dtype === undefined || how.dtype === 'keep' ? network.SaveModelToString(id) : network.SaveModelWithDType(id, how.dtype.toLowerCase());
    const bytes = new TextEncoder().encode(text);
    await writeFileBy(out, (write) => write(bytes));
    const isExact = how.dtype === undefined || /^(keep|float32|float64)$/i.test(how.dtype);
    return { format: 'bundle', bytes: bytes.byteLength, warnings: isExact ? [] : [`float32 → ${how.dtype}, rounded: all weights`] };
  } finally {
    network.free();
  }
}

/** Weights with a network's JSON, as Loom's users keep them: the network is built, and every weight of it must be in the file. */
async function networkOf(operand, runtime, how, signal) {
  if (how.config === undefined) throw new UsageError(`--to bundle: weights alone are no network: give its JSON with --config`);
  const network = runtime.BuildNetworkFromJSON(await readFile(how.config, 'utf8'));
  signal.throwIfAborted();
  const set = await network.LoadWeightsFromSafetensors(operand.source);
  const wanted = network.model.weights.length;
  if (set === wanted) return network;
  network.free();
  throw new HeddleError('bad_file', `${operand.source} has ${set} of the ${wanted} weights that ${how.config} describes`);
}
