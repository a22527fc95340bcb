/** Files that the safetensors library and PyTorch wrote, byte for byte; headers made by hand, read or refused as the library does; and what we write, by its rules. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { heddleError, modules, needs, readJson, runtimeWith, shared, testOnEveryModule } from './heddle.mjs';

const folder = 'fixtures/torch/safetensors';
const there = needs(folder);
const file = (name) => shared(`${folder}/${name}`);
const cases = there.skip ? [] : readJson(file('cases.json')).cases;

if (there.skip) test('F19 F41 files of the safetensors library', there, () => undefined);

const bytesOf = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength);

for (const { name, meaning, files } of cases.filter(({ expect, files: [, json] }) => expect === undefined && json)) {
  testOnEveryModule(`F19 F41 ${name}: ${meaning.slice(0, 60)}`, async (runtime) => {
    const { tensors: wanted, metadata } = JSON.parse(readFileSync(file(files[1]), 'utf8'));
    for (const source of [file(files[0]), readFileSync(file(files[0]))]) {
      const weights = await runtime.openWeights(source);
      const names = Object.keys(wanted);
      assert.deepEqual([...weights.tensorNames].sort(), names.sort());
      assert.deepEqual({ ...weights.metadata }, metadata ?? {});
      for (const each of names) {
        const { dtype, shape, data } = await weights.tensor(each);
        const want = wanted[each];
        assert.deepEqual({ dtype, shape }, { dtype: want.dtype, shape: want.shape }, each);
        assert.equal(bytesOf(data).toString('hex'), want.bytes_hex, each);
      }
      await weights.close();
    }
  });
}

for (const { name, meaning, files: [path, json], expect } of cases.filter((each) => each.expect !== undefined)) {
  test(`F19 E3 ${name}: ${meaning}: ${expect}`, async () => {
    const runtime = await runtimeWith(modules[0]);
    const { values, library } = readJson(file(json));
    let weights;
    try {
      weights = await runtime.openWeights(file(path));
    } catch (error) {
      assert.ok(/refuse/.test(expect), `${error.message} (the library: ${library})`);
      assert.ok(heddleError(error.code, /SafeTensors|tensor|header/i)(error));
      return;
    }
    assert.ok(/tensors|warn|last/.test(expect), `it was read, expected ${expect} (the library: ${library})`);
    for (const [each, want] of Object.entries(values ?? {})) assert.deepEqual([...(await weights.tensor(each, { as: 'f32' })).data], want.flat(Infinity), each);
    await weights.close();
  });
}

testOnEveryModule('F59 what is written has one header, ascending places, no gap and no value as JSON', async (runtime) => {
  const model = await runtime.buildNetwork({ input_shape: [1, 7], layers: [{ type: 'dense', in_features: 7, out_features: 5 }, { type: 'layer_norm', norm_size: 5 }, { type: 'dense', in_features: 5, out_features: 3 }] }, { seed: 1 });
  for (const dtype of ['F32', 'F16', 'BF16', 'F64', 'I8', 'F4']) {
    const bytes = Buffer.from(await model.saveWeights({ dtype }));
    const length = Number(bytes.readBigUInt64LE(0));
    const { __metadata__: _, ...tensors } = JSON.parse(bytes.toString('utf8', 8, 8 + length));
    let end = 0;
    for (const [name, { data_offsets: [from, to], shape, dtype: kept }] of Object.entries(tensors).sort(([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0])) {
      assert.equal(from, end, `${name} begins where the one before ends`);
      const bits = { F64: 64, F32: 32, F16: 16, BF16: 16, I8: 8, F4: 4 }[kept];
      assert.equal(to - from, Math.ceil((shape.reduce((n, size) => n * size, 1) * bits) / 8), name);
      end = to;
    }
    assert.equal(8 + length + end, bytes.length, 'the file ends with its last tensor');
    assert.ok(length < 100 * Object.keys(tensors).length + 200, 'the header holds no values');
    assert.equal((await runtime.inspect(bytes)).tensors.length, Object.keys(tensors).length);
  }
  await model.free();
});

test('P2 P3 P4: SafeTensors and weights.mlx of one checkpoint are the same values; sizes are the claimed ones, times are printed', async () => {
  const runtime = await runtimeWith(modules[0]);
  const rows = 256;
  const values = Float32Array.from({ length: rows * 1024 }, (_, i) => Math.sin(i * 12.9898) * 0.1);
  const make = (dtype) => runtime.SerializeSafetensors({ 'layer.weight': { values, shape: [rows, 1024], dtype } });
  const [f32, f16, bf16] = [make('F32'), make('F16'), make('BF16')];
  const json = runtime.safetensorsToMlx(f32);
  const read = async (bytes) => {
    const start = performance.now();
    const weights = await runtime.openWeights(new Blob([bytes]));
    const { data } = await weights.tensor('layer.weight', { as: 'f32' });
    await weights.close();
    return { data, seconds: (performance.now() - start) / 1000 };
  };
  await read(f32);
  const [fast, slow] = [await read(f32), await read(json)];
  assert.deepEqual(fast.data, values);
  assert.deepEqual(slow.data, values);
  console.log(`P2 P3: 1 MB as SafeTensors ${fast.seconds.toFixed(4)} s, as weights.mlx ${slow.seconds.toFixed(4)} s, ${(slow.seconds / fast.seconds).toFixed(1)} times as long`);
  for (const half of [f16, bf16]) assert.ok(Math.abs(half.length / f32.length - 0.5) < 0.001, 'half the space');
});
