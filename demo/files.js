/**
 * files.js: what somebody dropped or chose. Files of one Hugging Face model may come one after the other: those that make no
 * model yet are kept until the rest is there.
 */
import { byId } from './page.js';

const companions = [
  'config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json', 'special_tokens_map.json', 'chat_template.jinja', 'chat_template.json',
  'model.safetensors.index.json',
];

/** The files of a model that is not complete, by name. */
const kept = new Map();

/**
 * Says what the files are, with those kept from before:
 *   { kind: 'bundle', file, ids }     JSON that holds one or several networks
 *   { kind: 'model', files, name }    a whole model: a GGUF file, or description and weights
 *   { kind: 'weights', file, needs }  weights alone; `needs` are the names of the files that would make a model of them
 *   { kind: 'parts', names, needs }   parts of a model without weights
 *   { kind: 'other', file }           anything else
 */
export async function recognise(files) {
  const dropped = [...files];
  const others = dropped.filter((file) => !isPart(file));
  if (others.length > 1) throw new Error(`These are ${others.length} models (${others.map((file) => file.name).join(', ')}): one at a time, please.`);
  if (others.length === 1) return recogniseOne(others[0]);
  const bundle = dropped.length === 1 && dropped[0].name.endsWith('.json') ? await recogniseOne(dropped[0]) : undefined;
  if (bundle?.ids?.length) return bundle; // a bundle that is called config.json
  // New weights are a new model, unless they complete the parts that are there.
  const weights = dropped.filter(isWeights);
  if (weights.length > 0) for (const name of kept.keys()) if (name.endsWith('.safetensors')) kept.delete(name);
  for (const file of dropped) kept.set(file.name, file);
  return recogniseKept();
}

export function forgetKept() {
  kept.clear();
}

const isWeights = (file) => file.name.endsWith('.safetensors');
const isPart = (file) => isWeights(file) || companions.includes(file.name);

async function recogniseKept() {
  const weights = [...kept.values()].filter(isWeights);
  const config = kept.get('config.json');
  const needs = ['config.json', 'tokenizer.json'].filter((name) => !kept.has(name));
  if (weights.length === 0) return { kind: 'parts', names: [...kept.keys()], needs: ['model.safetensors', ...needs] };
  const isNetwork = config !== undefined && Array.isArray((await readJson(config))?.layers);
  if (isNetwork || needs.length === 0) return { kind: 'model', files: Object.fromEntries(kept), name: weights[0].name };
  return { kind: 'weights', file: weights[0], needs };
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

export function wireFiles(take) {
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
    if (event.dataTransfer.files.length > 0) take(event.dataTransfer.files);
  });
  const chooser = byId('files');
  byId('choose').addEventListener('click', () => chooser.click());
  chooser.addEventListener('change', () => {
    if (chooser.files.length > 0) take([...chooser.files]);
    chooser.value = '';
  });
}
