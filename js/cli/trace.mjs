/** trace.mjs: every layer's output beside a golden file's, as PyTorch traced them. */
import { init, traceModel } from 'heddle';
import { UsageError, jsonOption, opening, sourceOptions } from './arguments.mjs';
import { interruption, progressBar } from './progress.mjs';
import { counted, printJson, say, shapeText, table } from './text.mjs';

export const about = "compare every layer's output with a golden file";
export const operands = [{ name: 'MODEL' }];
export const options = {
  against: { kind: 'text', takes: 'FILE', about: 'the golden tensors, called as the values are (layers.0.q, …, logits), with input_ids' },
  input: { kind: 'text', takes: 'IDS', about: "token ids, as 1,2,3; by default the golden file's input_ids" },
  tolerance: { kind: 'number', takes: 'T', about: "what a value may differ by, times its tensor's largest magnitude where that is above 1; 1e-5 by default" },
  absolute: { kind: 'flag', about: 'the tolerance as it is, whatever the magnitudes' },
  dtype: { kind: 'text', takes: 'DTYPE', about: "what matrices become: 'keep' (the default), 'f32', 'q8_0', …" },
  config: { kind: 'text', takes: 'FILE', about: 'the description of bare weights' },
  ...jsonOption,
  ...sourceOptions,
};
export const notes = 'Exit code 1 when a value is out of its budget, or the model has no value of a golden name.';

export async function run({ MODEL, against, input, tolerance, absolute, dtype, config, json, ...how }) {
  if (against === undefined) throw new UsageError('--against FILE is missing');
  const ids = input?.split(',').map((text) => {
    if (!/^\s*\d+\s*$/.test(text)) throw new UsageError(`--input: expected token ids as 1,2,3, found '${text}'`);
    return Number(text);
  });
  const runtime = await init();
  const bar = progressBar('loading');
  const model = await runtime.loadModel(MODEL, { ...opening(MODEL, how), signal: interruption(), ...(dtype && { dtype }), ...(config && { config }), ...(bar.tell && { progress: bar.tell }) });
  bar.done();
  const golden = await runtime.openWeights(against);
  const report = await traceModel(model, golden, ids, { ...(tolerance !== undefined && { tolerance }), ...(absolute && { absolute }) });
  if (json) printJson({ ok: report.ok, first: report.first?.name ?? null, values: report.values });
  else print(report);
  await golden.close();
  await model.free();
  await runtime.free();
  return report.ok ? 0 : 1;
}

const short = (number) => (number === Infinity ? '∞' : number.toExponential(2));

function print({ values, first, ok }) {
  say(table(['value', 'shape', 'max abs', 'max rel', 'budget', ''], values.map((value) => [
    value.name, shapeText(value.shape), short(value.maxAbs), short(value.maxRel), short(value.budget), value.problem ?? (value.ok ? 'ok' : 'OUT'),
  ])));
  const out = values.filter((value) => !value.ok).length;
  say(ok ? `${values.length} values, all within their budgets` : `${out} of ${counted(values.length, 'value')} out of budget, ${first.name} first`);
}
