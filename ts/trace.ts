/**
 * trace.ts: every value of a forward beside a golden file's: the outputs of every layer as PyTorch traced them, and where ours leave the budget first.
 */
import { checkNumbers, checkOptions, traceOptions } from './arguments.js';
import { HeddleError, counted } from './errors.js';
import type { Model, NumbersInput, TensorOptions, WeightTensor } from './types.js';

/** A golden file, opened with `openWeights`: tensors called as the graph's values, `input_ids`, and for `layers.i.input` what enters layer i. */
export interface GoldenTrace {
  readonly tensors: readonly { readonly name: string; readonly dtype: string; readonly shape: readonly number[] }[];
  tensor(name: string, options?: TensorOptions): Promise<WeightTensor>;
}

export interface TraceOptions {
  /** What a value may differ by, times its golden tensor's largest magnitude where that is above 1. 1e-5 by default. */
  tolerance?: number;
  /** The tolerance as it is, whatever the magnitudes. */
  absolute?: boolean;
}

/** One of the golden file's tensors and the model's value of that name. */
export interface TracedValue {
  /** As the golden file calls it. */
  name: string;
  shape: readonly number[];
  /** The largest difference; Infinity where one of the two is NaN and the other not. */
  maxAbs: number;
  /** That, over the golden tensor's largest magnitude. */
  maxRel: number;
  /** What maxAbs may be. */
  budget: number;
  ok: boolean;
  /** Why there is no comparison: the model has no such value, or one of another size. */
  problem?: string;
}

export interface TraceReport {
  /** In the order the model computes them. */
  values: TracedValue[];
  /** The first that is out of budget or cannot be compared. */
  first: TracedValue | undefined;
  ok: boolean;
}

/** What the graph calls it: a layer's input is the value before it. */
function ownName(name: string): string {
  const layer = /^layers\.(\d+)\.input$/.exec(name)?.[1];
  if (layer === undefined) return name;
  return layer === '0' ? 'embedding' : `layers.${Number(layer) - 1}.output`;
}

/** PyTorch has rotated queries and keys as [1, heads, T, dim]; here they lie as [T, heads, dim]. */
function inOurOrder(name: string, { shape, data }: WeightTensor): Float32Array {
  const values = data as Float32Array;
  if (!/\.[qk]_rope$/.test(name) || shape.length !== 4) return values;
  const [, heads = 0, n = 0, dim = 0] = shape;
  return values.map((_, i) => {
    const [t, h, d] = [Math.floor(i / (heads * dim)), Math.floor(i / dim) % heads, i % dim];
    return values[(h * n + t) * dim + d] ?? Number.NaN;
  });
}

function compared(name: string, shape: readonly number[], ours: ArrayLike<number>, golden: Float32Array, tolerance: number, absolute: boolean): TracedValue {
  let [maxAbs, largest] = [0, 0];
  for (let i = 0; i < golden.length; i++) {
    const [a, b] = [ours[i] ?? Number.NaN, golden[i] ?? Number.NaN];
    const difference = Object.is(a, b) || a === b ? 0 : Math.abs(a - b);
    maxAbs = Math.max(maxAbs, Number.isNaN(difference) ? Infinity : difference);
    if (Number.isFinite(b)) largest = Math.max(largest, Math.abs(b));
  }
  const budget = absolute ? tolerance : tolerance * Math.max(1, largest);
  return { name, shape, maxAbs, maxRel: largest > 0 ? maxAbs / largest : maxAbs, budget, ok: maxAbs <= budget };
}

/**
 * Runs the model on the ids (by default the golden file's `input_ids`) and compares every tensor of the golden file with the value of its name. Tensors
 * of integers are left alone. Throws `bad_argument` where there are no ids or nothing to compare.
 */
export async function traceModel(model: Model, golden: GoldenTrace, ids?: NumbersInput, options: TraceOptions = {}): Promise<TraceReport> {
  checkOptions(options, traceOptions);
  const { tolerance = 1e-5, absolute = false } = options;
  const traced = golden.tensors.filter(({ dtype, name }) => /^B?F\d/.test(dtype) && name !== 'input_ids');
  if (traced.length === 0) throw new HeddleError('bad_argument', 'the golden file has no tensor of floats to compare with');
  const input = ids ?? (await goldenIds(golden));
  checkNumbers(input, 'ids');
  const session = await model.createSession({ mode: 'trace' });
  try {
    await session.forward(input);
    const order = new Map((await session.valueNames()).map((name, i) => [name, i]));
    const values: { at: number; value: TracedValue }[] = [];
    for (const { name, shape } of traced) {
      const at = order.get(ownName(name));
      if (at === undefined) values.push({ at: Infinity, value: incomparable(name, shape, 'the model has no value of that name') });
      else values.push({ at, value: await one(name, await golden.tensor(name, { as: 'f32' }), (await session.value(ownName(name))).data, tolerance, absolute) });
    }
    const sorted = values.sort((a, b) => (a.at === b.at ? 0 : a.at - b.at)).map(({ value }) => value);
    const first = sorted.find(({ ok }) => !ok);
    return { values: sorted, first, ok: first === undefined };
  } finally {
    await session.free();
  }
}

async function one(name: string, tensor: WeightTensor, ours: ArrayLike<number>, tolerance: number, absolute: boolean): Promise<TracedValue> {
  const golden = inOurOrder(name, tensor);
  if (ours.length === golden.length) return compared(name, tensor.shape, ours, golden, tolerance, absolute);
  return incomparable(name, tensor.shape, `the model's has ${counted(ours.length, 'value')}, the golden file's ${golden.length}`);
}

function incomparable(name: string, shape: readonly number[], problem: string): TracedValue {
  return { name, shape, maxAbs: Infinity, maxRel: Infinity, budget: 0, ok: false, problem };
}

async function goldenIds(golden: GoldenTrace): Promise<number[]> {
  if (!golden.tensors.some(({ name }) => name === 'input_ids')) throw new HeddleError('bad_argument', 'the golden file has no input_ids: give the ids');
  return Array.from((await golden.tensor('input_ids')).data as ArrayLike<number | bigint>, Number);
}
