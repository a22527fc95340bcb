/**
 * sources.mjs: what an operand names: a folder with a model, a weight file, a Loom bundle, MLX-Node's weights.mlx. Nothing but headers and small files is
 * read to tell.
 */
import { open, readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { HeddleError, openFolder } from 'heddle';
import { opening } from './arguments.mjs';
import { isLlama2cTokenizer } from './tokenizer.mjs';

const tokenizerNames = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja', 'chat_template.json', 'tokenizer.model', 'spiece.model',
  'vocab.json', 'encoder.json', 'merges.txt', 'vocab.bpe', 'vocab.txt', 'added_tokens.json',
];
/** What else a model's folder says beside its weights: how texts become vectors, how inputs are made. */
const companionNames = ['sentence_bert_config.json', 'config_sentence_transformers.json', 'preprocessor_config.json', 'processor_config.json'];
/** What a folder has that is its weights, or says how they lie: a conversion writes its own. */
const isOfWeights = (name) => /\.(safetensors|gguf|bin|pt|pth|mlx|index\.json)$/.test(name) || ['config.json', 'generation_config.json'].includes(name);

/** Whether the file's begin is text, as JSON's is. */
async function firstText(path) {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(512), 0, 512, 0);
    const text = buffer.subarray(0, bytesRead).toString('latin1');
    return /^(\u00ef\u00bb\u00bf)?\s*\{/.test(text) && !text.includes('\0');
  } finally {
    await file.close();
  }
}

/** A file's JSON; the error names the file. */
export function parsed(text, name) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new HeddleError('bad_file', `${name}: ${error.message}`);
  }
}

/** A folder's small files: what describes the model, its tokenizer's, and what else belongs to it; `others`: the rest, as far as that can be known. */
async function describeFolder(folder) {
  const read = async (name) => folder.text(name);
  const [config, generationConfig] = [await read('config.json'), await read('generation_config.json')];
  const listed = await folder.list();
  const tokenizer = await filesOf(folder, [...tokenizerNames, ...(listed ?? []).filter(isLlama2cTokenizer)], listed);
  const companions = { ...(await filesOf(folder, companionNames, listed)), ...(await sentenceFiles(folder, listed)) };
  const taken = new Set([...Object.keys(tokenizer), ...Object.keys(companions).map((name) => name.split('/')[0])]);
  const others = (listed ?? []).filter((name) => !taken.has(name) && !isOfWeights(name) && !/^(\.|readme|licen[cs]e|notice)/i.test(name));
  return { config, generationConfig, tokenizer, companions, others, listed };
}

async function filesOf(folder, names, listed) {
  const found = {};
  for (const name of names.filter((each) => !listed || listed.includes(each))) {
    const bytes = await folder.bytes(name);
    if (bytes) found[name] = bytes;
  }
  return found;
}

/** The modules of a sentence encoder, each with a config.json in a folder of its own. */
async function sentenceFiles(folder, listed) {
  const modules = listed && !listed.includes('modules.json') ? undefined : await folder.bytes('modules.json');
  if (!modules) return {};
  const paths = [parsed(new TextDecoder().decode(modules), 'modules.json')].flat().map((module) => module?.path).filter((path) => typeof path === 'string' && /^[\w-][\w.-]*$/.test(path));
  return { 'modules.json': modules, ...(await filesOf(folder, paths.map((path) => `${path}/config.json`))) };
}

/** The tokenizer's files beside a llama2.c checkpoint: any other file alone has none, or has it in itself. */
async function besideFile(source, fetching) {
  const folder = await openFolder(dirname(source), fetching);
  const listed = folder && (await folder.list());
  return folder && /\.bin$/.test(source) ? filesOf(folder, [...tokenizerNames, ...listed.filter(isLlama2cTokenizer)].filter((name) => name !== basename(source)), listed) : {};
}

/**
 * What the operand is: { kind: 'folder' | 'file' | 'bundle' | 'mlx-json', … }. A folder brings its small files; a bundle and an MLX JSON are read, since
 * they are JSON. `weights()` opens the tensors; the caller closes what it gives.
 */
export async function openOperand(runtime, source, options) {
  const fetching = opening(source, options);
  const weights = (more) => runtime.openWeights(source, { ...fetching, ...more });
  const folder = await openFolder(source, fetching);
  if (folder) {
    const small = await describeFolder(folder);
    const isJsonOnly = small.listed?.includes('weights.mlx') && !small.listed.some((name) => /\.(safetensors|gguf|bin|pt|pth)$/.test(name));
    if (!isJsonOnly) return { kind: 'folder', source, fetching, weights, ...small };
    return { kind: 'mlx-json', source, fetching, ...small, weights: (more) => runtime.openWeights(join(source, 'weights.mlx'), { ...fetching, ...more }) };
  }
  const isLocal = !/^[a-z][a-z0-9+.-]+:/i.test(source);
  if (!isLocal || !(await firstText(source))) return { kind: 'file', source, fetching, weights, tokenizer: {}, ...(isLocal && { beside: () => besideFile(source, fetching) }) };
  const text = await readFile(source, 'utf8');
  const json = parsed(text, source);
  if (Array.isArray(json.models)) return { kind: 'bundle', source, fetching, bundle: json, text, tokenizer: {} };
  if (json.weights !== undefined) return { kind: 'mlx-json', source, fetching, weights, tokenizer: {}, config: json.config && JSON.stringify(json.config) };
  throw new HeddleError('bad_file', `${source}: expected weights, a bundle ("models") or MLX weights ("weights"), found JSON with ${Object.keys(json).slice(0, 4).join(', ') || 'nothing'}`);
}
