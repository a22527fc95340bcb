/** inspect.mjs: what a file, a folder or an address holds; no weights are read. */
import { init } from 'heddle';
import { jsonOption, sourceOptions } from './arguments.mjs';
import { openOperand } from './sources.mjs';
import { counted, printJson, say, shapeText, sizeText, table } from './text.mjs';

export const about = 'formats, tensors, dtypes, sizes, metadata, config and warnings of a model; no weights are read';
export const operands = [{ name: 'MODEL' }];
export const options = { ...jsonOption, tensors: { kind: 'flag', about: 'list the tensors even where there are more than 40' }, ...sourceOptions };

const mostTensors = 40;
const longestText = 100;

export async function run({ MODEL, json, tensors: all, ...how }) {
  const runtime = await init({ threads: 1 });
  const operand = await openOperand(runtime, MODEL, how);
  const found = operand.kind === 'bundle' ? inspectBundle(operand) : await inspectWeights(operand);
  if (json) printJson(found);
  else report(found, all);
  await runtime.free();
}

function inspectBundle({ source, bundle, text }) {
  const models = bundle.models.map(({ id, cfg }) => ({ id, layers: cfg?.layers?.length ?? 0, types: (cfg?.layers ?? []).map((layer) => layer?.type) }));
  return { source, format: 'Loom bundle', bytes: Buffer.byteLength(text), version: bundle.version, models, warnings: models.length === 0 ? ['the bundle holds no model'] : [] };
}

async function inspectWeights({ kind, source, weights, config, generationConfig, tokenizer }) {
  const opened = await weights();
  try {
    const { format, tensors, metadata = {}, bytes } = opened;
    const described = config === undefined ? undefined : readConfig(config);
    const parameters = tensors.reduce((sum, { numel }) => sum + numel, 0);
    return {
      source,
      format: kind === 'mlx-json' ? 'MLX JSON' : format,
      ...(bytes !== undefined && { bytes }),
      count: tensors.length,
      parameters,
      dtypes: dtypesOf(tensors),
      ...(kind === 'folder' && { files: [...new Set(tensors.map(({ file }) => file).filter(Boolean))] }),
      ...(described !== undefined && { config: described }),
      ...(generationConfig !== undefined && { generationConfig: readConfig(generationConfig) }),
      tokenizer: Object.keys(tokenizer),
      metadata,
      tensors: tensors.map(({ numel: _, ...tensor }) => tensor),
      warnings: warningsOf(tensors, described),
    };
  } finally {
    await opened.close();
  }
}

/** A config is shown even where it is broken; loading says what is wrong with it. */
function readConfig(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    return { unreadable: error.message };
  }
}

function dtypesOf(tensors) {
  const dtypes = {};
  for (const { dtype, numel, byteSize } of tensors) {
    const row = (dtypes[dtype] ??= { tensors: 0, values: 0, bytes: 0 });
    row.tensors++;
    row.values += numel;
    row.bytes += byteSize;
  }
  return dtypes;
}

/** What does not fit together, as far as names and shapes show. */
function warningsOf(tensors, config) {
  const warnings = [];
  if (tensors.length === 0) warnings.push('there are no tensors');
  const empty = tensors.filter(({ numel }) => numel === 0);
  if (empty.length > 0) warnings.push(`tensors without values: ${empty.map(({ name }) => name).join(', ')}`);
  if (config?.unreadable !== undefined) warnings.push(`config.json is no JSON: ${config.unreadable}`);
  const layers = new Set(tensors.map(({ name }) => /(?:^|\.)(?:layers|h|blk)\.(\d+)\./.exec(name)?.[1]).filter((number) => number !== undefined));
  const declared = config?.num_hidden_layers ?? config?.n_layer;
  if (declared !== undefined && layers.size > 0 && layers.size !== declared) warnings.push(`config.json says ${counted(declared, 'layer')}, the tensors have ${layers.size}`);
  const embedding = tensors.find(({ name }) => /(embed_tokens|wte|word_embeddings)\.weight$/.test(name));
  if (config?.vocab_size !== undefined && embedding && embedding.shape[0] !== config.vocab_size) warnings.push(`config.json says ${config.vocab_size} tokens, ${embedding.name} has ${embedding.shape[0]}`);
  return warnings;
}

// ---- For people ----

function report(found, all) {
  const { source, format, bytes, warnings } = found;
  say(`${source}: ${format}${bytes === undefined ? '' : `, ${sizeText(bytes)}`}`);
  if (found.models) for (const { id, layers, types } of found.models) say(`  model ${id}: ${counted(layers, 'layer')} (${types.join(', ')})`);
  else reportWeights(found, all);
  for (const warning of warnings) say(`warning: ${warning}`);
}

function reportWeights({ count, parameters, dtypes, files, config, tokenizer, metadata, tensors }, all) {
  say(`${counted(count, 'tensor')} (${counted(parameters, 'parameter')})`);
  for (const [dtype, row] of Object.entries(dtypes)) say(`  ${dtype}: ${counted(row.tensors, 'tensor')}, ${sizeText(row.bytes)}`);
  if (files?.length > 1) say(`files: ${files.join(', ')}`);
  if (tokenizer.length > 0) say(`tokenizer: ${tokenizer.join(', ')}`);
  reportPairs('config', config ?? {});
  reportPairs('metadata', metadata);
  const shown = all || tensors.length <= mostTensors ? tensors : tensors.slice(0, mostTensors);
  say('');
  say(table(['tensor', 'dtype', 'shape', 'bytes'], shown.map(({ name, dtype, shape, byteSize }) => [name, dtype, shapeText(shape), byteSize])));
  if (shown.length < tensors.length) say(`… and ${tensors.length - shown.length} more (--tensors lists all)`);
}

function reportPairs(title, pairs) {
  const entries = Object.entries(pairs);
  if (entries.length === 0) return;
  say(`${title}:`);
  for (const [key, value] of entries) say(`  ${key}: ${valueText(value)}`);
}

function valueText(value) {
  if (Array.isArray(value) && value.length > 8) return `${value.length} values`;
  const text = typeof value === 'string' ? value : JSON.stringify(value, (_, each) => (typeof each === 'bigint' ? String(each) : each));
  const line = text.replaceAll('\n', '\\n');
  return line.length > longestText ? `${line.slice(0, longestText)}… (${text.length} characters)` : line;
}
