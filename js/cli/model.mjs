/** model.mjs: a model for a command that runs it. */
import { init } from 'heddle';
import { opening, sourceOptions } from './arguments.mjs';
import { progressBar } from './progress.mjs';
import { warn } from './text.mjs';

export const loadingOptions = {
  dtype: { kind: 'text', takes: 'DTYPE', about: "what matrices become while they are read: 'keep' (the default), 'f32', 'f16', 'q8_0', 'q4_0', 'int8', …" },
  threads: { kind: 'whole', takes: 'N', about: 'by default what the machine has' },
  ...sourceOptions,
};

/** { runtime, model }: loaded, with a progress bar meanwhile. */
export async function openModel(source, { dtype, threads, cache, revision, token }, signal) {
  const runtime = await init({ log: warn, ...(threads !== undefined && { threads }) });
  const bar = progressBar('loading');
  const model = await runtime.loadModel(source, { ...opening(source, { cache, revision, token }), signal, ...(dtype && { dtype }), ...(bar.tell && { progress: bar.tell }) });
  bar.done();
  return { runtime, model };
}
