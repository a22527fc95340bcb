/** model.mjs: a model for a command that runs it. */
import { init } from 'heddle';
import { opening, sourceOptions } from './arguments.mjs';
import { progressBar } from './progress.mjs';
import { warn } from './text.mjs';
import { readTokenizer } from './tokenizer.mjs';

export const loadingOptions = {
  dtype: { kind: 'text', takes: 'DTYPE', about: "what matrices become while they are read: 'keep' (the default), 'f32', 'f16', 'q8_0', 'q4_0', 'int8', …" },
  config: { kind: 'text', takes: 'FILE', about: "the description of bare weights: config.json, or a network's JSON" },
  tokenizer: { kind: 'text', takes: 'FILE', about: "a tokenizer's file or folder, instead of the model's own" },
  threads: { kind: 'whole', takes: 'N', about: 'by default what the machine has' },
  ...sourceOptions,
};

/** { runtime, model }: loaded, with a progress bar meanwhile. */
export async function openModel(source, { dtype, config, tokenizer, threads, cache, revision, token }, signal) {
  const files = tokenizer === undefined ? undefined : await readTokenizer(tokenizer);
  const runtime = await init({ log: warn, ...(threads !== undefined && { threads }) });
  const bar = progressBar('loading');
  const model = await runtime.loadModel(source, { ...opening(source, { cache, revision, token }), signal, ...(dtype && { dtype }), ...(config && { config }), ...(files && { tokenizer: files }), ...(bar.tell && { progress: bar.tell }) });
  bar.done();
  return { runtime, model };
}
