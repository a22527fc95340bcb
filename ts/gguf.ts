/**
 * gguf.ts: GGUF files to write: metadata from values to the JSON the core reads, which says what no value of JavaScript does, how wide a number is.
 */
import { checkNumbers, checkShape, expected, isPlainObject } from './arguments.js';
import { elements } from './core.js';
import type { Core } from './core.js';
import { HeddleError, counted } from './errors.js';
import type { GgufMetadataInput, GgufTensorInput, NumbersInput, TensorInput, WeightTensor } from './types.js';

/** Types of elements, by the arrays that have them. */
const elementTypes: readonly (readonly [array: new (n: number) => ArrayLike<number | bigint>, type: string])[] = [
  [Float32Array, 'f32'], [Float64Array, 'f64'], [Int8Array, 'i8'], [Uint8Array, 'u8'], [Int16Array, 'i16'], [Uint16Array, 'u16'],
  [Int32Array, 'i32'], [Uint32Array, 'u32'], [BigInt64Array, 'i64'], [BigUint64Array, 'u64'],
];

/** Stands for a number JSON.stringify cannot write, in a string nobody else has. */
const mark = '\uFFFFnumber:';

function writable(_: string, value: unknown): unknown {
  if (typeof value === 'bigint') return `${mark}${value}`;
  if (value === Infinity || value === -Infinity) return `${mark}${value > 0 ? '' : '-'}1e999`;
  if (!ArrayBuffer.isView(value)) return value;
  const type = elementTypes.find(([array]) => value instanceof array)?.[1];
  if (type === undefined) throw new HeddleError('bad_argument', 'metadata: expected numbers, strings, booleans or arrays of them, found a DataView');
  return { type, value: Array.from(value as unknown as ArrayLike<number | bigint>) };
}

/** Metadata by key, of a plain object or a Map. */
export function entriesOf(metadata: GgufMetadataInput): [key: string, value: unknown][] {
  return metadata instanceof Map ? [...(metadata as ReadonlyMap<string, unknown>)] : Object.entries(metadata);
}

/** Metadata as the core's JSON. A plain object's or a Map's own order is kept. */
export function metadataJson(metadata: GgufMetadataInput): string {
  const entries = metadata instanceof Map ? Object.fromEntries(metadata as ReadonlyMap<string, unknown>) : metadata;
  if (!isPlainObject(entries)) throw new HeddleError('bad_argument', 'metadata: expected a plain object or a Map');
  return JSON.stringify(entries, writable).replace(new RegExp(`"${mark}(-?[0-9e]+)"`, 'g'), '$1');
}

/** The core's model as a GGUF file. */
export function writeModel(core: Core, model: number, dtype: string, config: string, metadata: GgufMetadataInput): Uint8Array<ArrayBuffer> {
  const number = core.dtypeNumber(dtype);
  return core.heap.withText(config, (c, nConfig) =>
    core.heap.withText(metadataJson(metadata), (m, nMetadata) => core.bytes((x) => x.w_model_save_gguf(model, number, c, nConfig, m, nMetadata))),
  );
}

/** Tensors to write: what the core is told of them, and the values of all, one after the other. */
export function joined(tensors: Readonly<Record<string, TensorInput | GgufTensorInput | WeightTensor>>): { json: string; values: Float32Array<ArrayBuffer> } {
  const all = Object.entries(tensors).map(([name, tensor]) => ({ given: numbersOf(name, tensor), name, shape: tensor.shape, dtype: tensor.dtype ?? 'F32' }));
  const values = new Float32Array(all.reduce((sum, { given }) => sum + given.length, 0));
  let at = 0;
  for (const { given } of all) {
    values.set(given, at);
    at += given.length;
  }
  return { json: JSON.stringify(all.map(({ given: _, ...told }) => told)), values };
}

/** A tensor's numbers: `values`, or the `data` of one that was read, which may be bits (`as: 'stored'`) and is then refused. */
function numbersOf(name: string, tensor: TensorInput | GgufTensorInput | WeightTensor): NumbersInput {
  if (typeof tensor !== 'object' || tensor === null) throw expected(name, 'a tensor, { values, shape }', tensor);
  const isRead = 'data' in tensor;
  const numbers: unknown = isRead ? tensor.data : tensor.values;
  checkNumbers(numbers, `${name}.${isRead ? 'data' : 'values'}`);
  checkShape(tensor.shape, `${name}.shape`);
  if (numbers.length !== elements(tensor.shape)) {
    throw new HeddleError('bad_argument', `${name}: shape [${tensor.shape.join(', ')}] wants ${counted(elements(tensor.shape), 'value')}, found ${numbers.length}`);
  }
  const hasBits = isRead && !(numbers instanceof Float32Array) && /^(B?F\d|I?Q\d|MXFP)/.test(tensor.dtype) && tensor.dtype !== 'F64';
  if (hasBits) throw new HeddleError('bad_argument', `${name}.data: expected numbers, found the bits of ${tensor.dtype}: read it with { as: 'f32' }`);
  return numbers;
}

/** A GGUF file of these tensors, in an instance that is lent for it. */
export function serializeGguf(lend: () => { core: Core; release: () => void }, tensors: Readonly<Record<string, GgufTensorInput | WeightTensor>>, metadata: GgufMetadataInput): Uint8Array<ArrayBuffer> {
  const { core, release } = lend();
  try {
    const { json, values } = joined(tensors);
    return core.heap.withText(json, (p, n) =>
      core.heap.with(new Uint8Array(values.buffer), (v) =>
        core.heap.withText(metadataJson(metadata), (m, nMetadata) => core.bytes((x) => x.w_gguf_serialize(p, n, v, values.length, m, nMetadata))),
      ),
    );
  } finally {
    release();
  }
}
