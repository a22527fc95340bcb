/**
 * checkpoint.ts: what a PyTorch checkpoint has besides the model's weights, as the JSON the core takes, and state dicts as JavaScript has them.
 */
import { checkNumbers, checkShape, isPlainObject, shown } from './arguments.js';
import { elements } from './core.js';
import { HeddleError, counted } from './errors.js';
import type { Model, NumbersInput } from './types.js';

// ---- Checkpoints ----

/** PyTorch's element types by the array that holds them. */
const tensorTypes: readonly (readonly [abstract: new (...args: never[]) => ArrayBufferView, dtype: string])[] = [
  [Float32Array, 'F32'],
  [Float64Array, 'F64'],
  [Int32Array, 'I32'],
  [Int16Array, 'I16'],
  [Int8Array, 'I8'],
  [Uint8Array, 'U8'],
  [BigInt64Array, 'I64'],
];

function base64(values: ArrayBufferView): string {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  const step = 0x6000; // fits any engine's limit of arguments, and is a multiple of 3
  let text = '';
  for (let at = 0; at < bytes.byteLength; at += step) text += btoa(String.fromCharCode(...bytes.subarray(at, at + step)));
  return text;
}

function tensor(values: ArrayBufferView, shape: readonly number[] | undefined, path: string): object {
  const dtype = tensorTypes.find(([type]) => values instanceof type)?.[1];
  if (dtype === undefined) throw new HeddleError('bad_argument', `${path}: expected an array of a type PyTorch has, found ${shown(values)}`);
  return { $tensor: dtype, shape: shape ?? [(values as Float32Array).length], values: base64(values) };
}

/** A member's JSON: numeric arrays become tensors. */
function member(value: unknown, path: string): unknown {
  if (ArrayBuffer.isView(value)) return tensor(value, undefined, path);
  if (Array.isArray(value)) return value.map((item, i) => member(item, `${path}[${i}]`));
  if (!isPlainObject(value)) return value;
  if (ArrayBuffer.isView(value.values) && Array.isArray(value.shape)) {
    checkShape(value.shape, `${path}.shape`);
    return tensor(value.values, value.shape as number[], path);
  }
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, member(item, `${path}.${key}`)]));
}

/** The core's JSON of a checkpoint: the members, and the state dict as `model_state_dict`, first. */
export function checkpointText(checkpoint: Record<string, unknown>): string {
  if ('model_state_dict' in checkpoint) throw new HeddleError('bad_argument', 'checkpoint.model_state_dict: the model puts its weights there itself');
  return JSON.stringify({ model_state_dict: { $weights: true }, ...(member(checkpoint, 'checkpoint') as object) });
}

// ---- State dicts ----

/** A weight's values and shape. */
export interface StateTensor {
  values: Float32Array;
  shape: readonly number[];
}

/** A model's weights by name, in the model's order. Its text is PyTorch's: "PyTorch State Dict (2 parameters)". */
export class StateDict extends Map<string, StateTensor> {
  override toString(): string {
    return `PyTorch State Dict (${this.size} parameters)`;
  }

  /** The tensors whose names begin with `prefix`, under the rest of their names: one module of several. */
  part(prefix: string): StateDict {
    return new StateDict([...this].filter(([name]) => name.startsWith(prefix)).map(([name, value]) => [name.slice(prefix.length), value]));
  }

  /** The state dicts of several modules as one: `{ encoder, decoder }` gives names that begin with "encoder." and "decoder.". */
  static of(modules: Readonly<Record<string, StateDict>>): StateDict {
    const all = new StateDict();
    for (const [module, dict] of Object.entries(modules)) for (const [name, value] of dict) all.set(`${module}.${name}`, value);
    return all;
  }
}

/** A copy of all weights as float32. `String(dict)` says how many there are. */
export async function stateDict(model: Model): Promise<StateDict> {
  const dict = new StateDict();
  for (const { name, shape } of model.weights) dict.set(name, { values: await model.readWeight(name), shape });
  return dict;
}

/**
 * Sets a model's weights from a state dict; how many it set. `strict` (true by default, as PyTorch's): the names must be the model's. Throws
 * `bad_argument` naming the key and both shapes, before anything is changed; `bad_state` while sessions are open.
 */
export async function loadStateDict(
  model: Model,
  dict: ReadonlyMap<string, { values: NumbersInput; shape: readonly number[] }>,
  options: { strict?: boolean } = {},
): Promise<number> {
  const own = new Map(model.weights.map((weight) => [weight.name, weight.shape]));
  if (options.strict ?? true) checkKeys(own, dict);
  const set = [...dict].filter(([name]) => own.has(name));
  for (const [name, value] of set) checkTensor(name, value, own.get(name) ?? []);
  for (const [name, { values }] of set) await model.writeWeight(name, values);
  return set.length;
}

function checkKeys(own: ReadonlyMap<string, readonly number[]>, dict: ReadonlyMap<string, { shape: readonly number[] }>): void {
  for (const [name, shape] of own) {
    if (!dict.has(name)) throw new HeddleError('bad_argument', `strict: the state dict lacks ${name}, of shape [${shape.join(', ')}]`);
  }
  for (const [name, { shape }] of dict) {
    if (!own.has(name)) throw new HeddleError('bad_argument', `strict: the state dict has ${name}, of shape [${shape.join(', ')}], which the model does not`);
  }
}

function checkTensor(name: string, { values, shape }: { values: NumbersInput; shape: readonly number[] }, want: readonly number[]): void {
  checkNumbers(values, name);
  checkShape(shape, `${name}.shape`);
  const same = want.length === shape.length && want.every((size, d) => size === shape[d]);
  if (!same) throw new HeddleError('bad_argument', `${name}: the model wants shape [${want.join(', ')}], the state dict has [${shape.join(', ')}]`);
  if (values.length !== elements(shape)) throw new HeddleError('bad_argument', `${name}: shape [${shape.join(', ')}] wants ${counted(elements(shape), 'value')}, found ${values.length}`);
}
