/**
 * sources.mjs: what an operand names: a folder with a model, a weight file, a Loom bundle, MLX-Node's weights.mlx. Nothing but headers and small files is
 * read to tell.
 */
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { HeddleError, openFolder } from 'heddle';
import { opening } from './arguments.mjs';

const tokenizerNames = [
  'tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja', 'chat_template.json', 'tokenizer.model', 'spiece.model',
  'vocab.json', 'merges.txt', 'vocab.txt', 'added_tokens.json',
];

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

/** A folder's small files: what describes the model, and its tokenizer's. */
async function describeFolder(folder) {
  const read = async (name) => folder.text(name);
  const [config, generationConfig] = [await read('config.json'), await read('generation_config.json')];
  const listed = await folder.list();
  const names = tokenizerNames.filter((name) => !listed || listed.includes(name));
  const tokenizer = {};
  for (const name of names) {
    const bytes = await folder.bytes(name);
    if (bytes) tokenizer[name] = bytes;
  }
  return { config, generationConfig, tokenizer, listed };
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
  if (!isLocal || !(await firstText(source))) return { kind: 'file', source, fetching, weights, tokenizer: {} };
  const text = await readFile(source, 'utf8');
  const json = parsed(text, source);
  if (Array.isArray(json.models)) return { kind: 'bundle', source, fetching, bundle: json, text, tokenizer: {} };
  if (json.weights !== undefined) return { kind: 'mlx-json', source, fetching, weights, tokenizer: {}, config: json.config && JSON.stringify(json.config) };
  throw new HeddleError('bad_file', `${source}: expected weights, a bundle ("models") or MLX weights ("weights"), found JSON with ${Object.keys(json).slice(0, 4).join(', ') || 'nothing'}`);
}
