/**
 * gguf.ts: GGUF files to write: metadata from values to the JSON the core reads, which says what no value of JavaScript does, how wide a number is.
 */
import { isPlainObject } from './arguments.js';
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import type { GgufMetadataInput, GgufTensorInput, NumbersInput } from './types.js';

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
export function writeModel(core: Core, model: number, dtype: string, config: string, metadata: GgufMetadataInput): Uint8Array {
  const number = core.dtypeNumber(dtype);
  return core.heap.withText(config, (c, nConfig) =>
    core.heap.withText(metadataJson(metadata), (m, nMetadata) => core.bytes((x) => x.w_model_save_gguf(model, number, c, nConfig, m, nMetadata))),
  );
}

/** Values of all tensors, one after the other. */
export function joined(tensors: readonly { values: NumbersInput }[]): Float32Array<ArrayBuffer> {
  const values = new Float32Array(tensors.reduce((sum, t) => sum + t.values.length, 0));
  let at = 0;
  for (const t of tensors) {
    values.set(t.values, at);
    at += t.values.length;
  }
  return values;
}

/** A GGUF file of these tensors, in an instance that is lent for it. */
export function serializeGguf(lend: () => { core: Core; release: () => void }, tensors: Readonly<Record<string, GgufTensorInput>>, metadata: GgufMetadataInput): Uint8Array {
  const { core, release } = lend();
  try {
    const entries = Object.entries(tensors);
    const json = JSON.stringify(entries.map(([name, { shape, dtype }]) => ({ name, shape, dtype: dtype ?? 'F32' })));
    const values = joined(entries.map(([, tensor]) => tensor));
    return core.heap.withText(json, (p, n) =>
      core.heap.with(new Uint8Array(values.buffer), (v) =>
        core.heap.withText(metadataJson(metadata), (m, nMetadata) => core.bytes((x) => x.w_gguf_serialize(p, n, v, values.length, m, nMetadata))),
      ),
    );
  } finally {
    release();
  }
}
