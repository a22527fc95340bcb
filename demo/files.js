/**
 * files.js: what somebody dropped or chose: files, or a folder. Files of one model may come one after the other: those that make no model yet are
 * kept until the rest is there.
 */
import { filesOf, folderOf } from './folder.js';
import { byId } from './page.js';

/** A file of each kind makes a tokenizer; vocab.json needs its merges, which are passed along. */
const tokenizers = ['tokenizer.json', 'tokenizer.model', 'spiece.model', 'vocab.json', 'encoder.json', 'vocab.txt'];

/** What may lie beside a model's weights: Heddle takes of it what it knows. */
const companions = [
  ...tokenizers, 'config.json', 'merges.txt', 'vocab.bpe', 'added_tokens.json', 'tokenizer_config.json', 'generation_config.json', 'special_tokens_map.json',
  'chat_template.jinja', 'chat_template.json', 'model.safetensors.index.json', 'pytorch_model.bin.index.json', 'modules.json', 'sentence_bert_config.json',
  'config_sentence_transformers.json', 'preprocessor_config.json', 'params.json',
];

const isLlama2cTokenizer = (name) => /^tok(enizer|\d+)\.bin$/.test(name);
const isWeights = (name) => /\.(safetensors|gguf|pt|pth|bin)$/.test(name) && !name.includes('/') && !isNoModel(name) && !isLlama2cTokenizer(name);

/** Weights in other programs' formats, and what a training leaves. */
const isNoModel = (name) => /^(training_args\.bin|optimizer\.(pt|bin)|scheduler\.pt|scaler\.pt|rng_state.*\.pth)$/.test(name);

/** Of a folder's folders only descriptions count (1_Pooling/config.json); and what Hugging Face's cache says of its snapshots. */
const isPart = (name) => isWeights(name) || isLlama2cTokenizer(name) || companions.includes(name) || /^\w+\/config\.json$/.test(name) || /^refs\/\w+$/.test(name);

/** What lies beside models and is none. */
const isBeside = (name) => isNoModel(name) || /(^|\/)(readme|licen[cs]e|notice|use_policy|changelog|\.[^/]*)[^/]*$/i.test(name) || /\.(md|txt|py|ipynb|png|jpe?g|gif|svg|webp|pdf|ya?ml|h5|msgpack|ot|onnx|csv|log)$/i.test(name);

/** The files of a model that is not complete, by path. */
const kept = new Map();

/**
 * Says what the files, a Map by path, are, with those kept from before; `folder` is the name of the folder they all lie in:
 *   { kind: 'bundle', file, ids }     JSON that holds one or several networks
 *   { kind: 'model', files, name }    a whole model: a GGUF file, or description and weights
 *   { kind: 'weights', file, needs }  weights alone; `needs` are the names of the files that would make a model of them
 *   { kind: 'parts', names, needs }   parts of a model without weights
 *   { kind: 'other', file }           anything else
 */
export async function recognise(files, folder) {
  if (files.size === 1) {
    const [[path, file]] = files;
    const alone = !isPart(plainName(path)) || path.endsWith('.json') || path.endsWith('.gguf') ? await recogniseOne(file) : undefined;
    // A bundle may be called config.json, and any other part of a model is kept.
    if (alone && (!isPart(plainName(path)) || alone.kind === 'model' || alone.ids?.length > 0)) return alone;
  }
  const parts = [...files].filter(([path]) => isPart(plainName(path)));
  if (parts.length === 0) return recogniseOthers([...files].filter(([path]) => !isBeside(path)), [...files.keys()]);
  const weights = parts.map(([path]) => path).filter((path) => isWeights(plainName(path)));
  // Several in one format are one model's, but for GGUF's: the same one in several types, as they lie on Hugging Face.
  if (weights.length > 1 && weights.every((path) => path.endsWith('.gguf'))) throw severalModels(weights);
  // New weights are a new model, unless they complete the parts that are there; a folder is all there is.
  if (folder !== undefined) kept.clear();
  else if (weights.length > 0) for (const path of kept.keys()) if (isWeights(path)) kept.delete(path);
  for (const [path, file] of parts) kept.set(path, file);
  return recogniseKept(folder);
}

export function forgetKept() {
  kept.clear();
}

/** A file's name in its model's folder: in Hugging Face's cache that is a snapshot. */
const plainName = (path) => path.replace(/^snapshots\/[^/]+\//, '');

function severalModels(names) {
  return new Error(`These are ${names.length} models (${names.join(', ')}): one at a time, please.`);
}

/** Files of which none is part of a model. */
async function recogniseOthers(others, all) {
  if (others.length > 1) throw severalModels(others.map(([path]) => path));
  if (others.length === 1) return recogniseOne(others[0][1]);
  throw new Error(`None of these files is a model’s: ${all.slice(0, 5).join(', ')}${all.length > 5 ? ', …' : ''}.`);
}

async function recogniseKept(folder) {
  const names = new Map([...kept].map(([path, file]) => [plainName(path), file]));
  const weights = [...names.keys()].filter(isWeights);
  const [first] = weights;
  const config = await readJson(names.get('config.json'));
  const needs = await needsOf(names, first);
  if (first === undefined) return { kind: 'parts', names: [...names.keys()], needs: ['model.safetensors', ...needs] };
  const isWhole = needs.length === 0 || Array.isArray(config?.layers) || (folder !== undefined && names.has('config.json'));
  if (isWhole) return { kind: 'model', files: new Map(kept), name: folder ?? nameIn(config) ?? first };
  return { kind: 'weights', file: names.get(first), needs };
}

/** What is lacking beside the weights: a GGUF file brings everything, a checkpoint of llama2.c its description. */
async function needsOf(names, weights) {
  if (weights?.endsWith('.gguf')) return [];
  const has = (of) => [...names.keys()].some(of);
  if (weights !== undefined && !names.has('config.json') && (await isLlama2c(weights, names.get(weights)))) return has(isLlama2cTokenizer) ? [] : ['tokenizer.bin'];
  return [...(names.has('config.json') ? [] : ['config.json']), ...(has((name) => tokenizers.includes(name) || isLlama2cTokenizer(name)) ? [] : ['tokenizer.json'])];
}

/** PyTorch's .bin is a zip or a pickle. */
async function isLlama2c(name, file) {
  if (!name.endsWith('.bin')) return false;
  const [first, second] = new Uint8Array(await file.slice(0, 2).arrayBuffer());
  return !(first === 0x50 && second === 0x4b) && first !== 0x80;
}

/** What a config.json calls its model: where it was saved, else its family. */
function nameIn(config) {
  const saved = typeof config?._name_or_path === 'string' ? config._name_or_path.replace(/[/\\]+$/, '') : '';
  const name = /^[\w.-]+\/[\w.-]+$/.test(saved) ? saved : saved.split(/[/\\]/).at(-1);
  return name || (typeof config?.model_type === 'string' && config.model_type) || undefined;
}

async function recogniseOne(file) {
  const start = await file.slice(0, 64).text();
  if (start.startsWith('GGUF')) return { kind: 'model', files: file, name: file.name };
  if (!/^\uFEFF?\s*[{[]/.test(start)) return { kind: 'other', file };
  const models = (await readJson(file))?.models;
  return { kind: 'bundle', file, ids: Array.isArray(models) ? models.map((model) => String(model?.id)) : [] };
}

/** What the file holds, or undefined: Heddle itself says best what is wrong with it. */
async function readJson(file) {
  try {
    return JSON.parse(await file.text());
  } catch {
    return undefined;
  }
}

// ---- Drop and choose ----

/** `take(files, folder)` gets files by path below the folder, if it was one; `refuse(error)` what cannot be read. */
export function wireFiles(take, refuse) {
  const hint = byId('dropping');
  const hasFiles = (event) => event.dataTransfer?.types.includes('Files');
  let depth = 0; // dragenter and dragleave come for every element on the way
  addEventListener('dragenter', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth++;
    hint.hidden = false;
  });
  addEventListener('dragleave', (event) => {
    if (hasFiles(event)) hint.hidden = --depth > 0 ? false : true;
  });
  addEventListener('dragover', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = 'copy';
  });
  addEventListener('drop', (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    hint.hidden = true;
    folderOf(event.dataTransfer).then(({ files, folder }) => files.size > 0 && take(files, folder)).catch(refuse);
  });
  for (const [button, input] of [['choose', 'files'], ['choose-folder', 'folder']]) {
    const chooser = byId(input);
    byId(button).addEventListener('click', () => chooser.click());
    chooser.addEventListener('change', () => {
      const { files, folder } = filesOf(chooser.files);
      chooser.value = '';
      if (files.size > 0) take(files, folder);
    });
  }
}
