/**
 * golden.mjs: reads and writes SafeTensors for the tests, independently of the package: 8 bytes of header length, a JSON header,
 * the data (https://huggingface.co/docs/safetensors). And the comparison that names the worst element.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';

const views = { F32: Float32Array, F64: Float64Array, I64: BigInt64Array, I32: Int32Array, I8: Int8Array, U8: Uint8Array, BOOL: Uint8Array, F16: Uint16Array, BF16: Uint16Array };

/** The file's tensors by name: { dtype, shape, data }; integers of 64 bits come as plain numbers, halves as their bits. */
export function readSafetensors(path) {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: range }] of Object.entries(JSON.parse(file.toString('utf8', 8, 8 + headerBytes)))) {
    if (name === '__metadata__') continue;
    const bytes = Uint8Array.from(file.subarray(8 + headerBytes + range[0], 8 + headerBytes + range[1]));
    const view = new views[dtype](bytes.buffer);
    tensors.set(name, { dtype, shape, data: dtype === 'I64' ? Array.from(view, Number) : view });
  }
  return tensors;
}

/** A file of float32 tensors from { name: { shape, data } }. */
export function writeSafetensors(tensors) {
  const encoded = Object.entries(tensors).map(([name, { shape, data }]) => [name, { dtype: 'F32', shape, bytes: Buffer.from(Float32Array.from(data).buffer) }]);
  return writeEncoded(Object.fromEntries(encoded));
}

/** A file of tensors of any dtype from { name: { dtype, shape, bytes } }. */
export function writeEncoded(tensors) {
  const header = {};
  let end = 0;
  for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) header[name] = { dtype, shape, data_offsets: [end, (end += bytes.length)] };
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return new Uint8Array(Buffer.concat([length, text, ...Object.values(tensors).map(({ bytes }) => bytes)]));
}

/** The tensors whose names begin with `prefix`, without it. */
export function withPrefix(tensors, prefix) {
  return new Map([...tensors].filter(([name]) => name.startsWith(prefix)).map(([name, tensor]) => [name.slice(prefix.length), tensor]));
}

export function largest(values) {
  return values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
}

/** The largest |got − want|; NaN and differing lengths count as infinite. */
export function distance(got, want) {
  if (got.length !== want.length) return Infinity;
  let most = 0;
  for (let i = 0; i < want.length; i++) {
    const error = Math.abs(got[i] - want[i]);
    if (!(error <= most)) most = Number.isNaN(error) ? Infinity : error;
  }
  return most;
}

/** Fails unless every element is within `tolerance`, naming `what` and how far the worst is off. Returns the distance. */
export function assertClose(got, want, tolerance, what) {
  assert.equal(got.length, want.length, `${what}: number of values`);
  const error = distance(got, want);
  assert.ok(error <= tolerance, `${what}: off by ${error.toExponential(2)}, allowed ${tolerance.toExponential(2)}`);
  return error;
}

/** Fails unless |got − want| ≤ abs + rel · |want| everywhere. */
export function assertWithin(got, want, { abs, rel }, what) {
  assert.ok(got instanceof Float32Array, `${what}: a Float32Array`);
  assert.equal(got.length, want.length, `${what}: number of values`);
  for (const [i, value] of want.entries()) {
    if (!(Math.abs(got[i] - value) <= abs + rel * Math.abs(value))) assert.fail(`${what}: value ${i}: expected ${value}, found ${got[i]}`);
  }
}

/** Fails unless all bits are the same (so 0 is not −0). */
export function assertSameBits(got, want, what) {
  const isSame = Buffer.from(got.buffer, got.byteOffset, got.byteLength).equals(Buffer.from(want.buffer, want.byteOffset, want.byteLength));
  if (!isSame) assert.fail(`${what}: off by ${distance(got, want)}`);
}

/** Greedy tokens over the key/value cache, each decoded by itself, are those of an expected.json. */
export async function assertGreedy(model, { prompt_ids: prompt, greedy_ids_ignore_eos: want }) {
  const session = await model.createSession({ context: prompt.length + want.length, input: { shape: [prompt.length] }, outputRows: 1 });
  await session.decode(prompt);
  const got = [];
  for (let i = 0; i < want.length; i++) {
    got.push(await session.argmax());
    await session.decode([got.at(-1)]);
  }
  assert.deepEqual(got, want);
  await session.free();
}
