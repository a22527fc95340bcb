/** What a model's weights will take is known from headers, to the byte; what cannot fit is refused before any memory is taken, with what would. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, golden, heddleError, modules, needs, optionsFor, projectFolder, runtimeWith, shared } from './heddle.mjs';
import { madeCheckpoint, serverFor } from './range-server.mjs';

const runtime = await runtimeWith(modules[0]);
const types = ['keep', 'f32', 'f16', 'q8_0', 'int8', 'q4_0'];
const server = await serverFor({});

async function agrees(source, options = {}) {
  const { byDtype } = await runtime.estimate(source, options);
  for (const dtype of types) {
    const { weights, fits, limit } = await runtime.estimate(source, { ...options, dtype });
    const model = await runtime.loadModel(source, { ...options, dtype });
    assert.equal(weights, model.weights.reduce((sum, { bytes }) => sum + bytes, 0), dtype);
    assert.equal(byDtype[dtype], weights);
    assert.deepEqual({ fits, limit }, { fits: true, limit: 2 ** 32 });
    await model.free();
  }
}

test('a memory estimate is what loading takes, to the byte, for every dtype, from one file and from shards', async () => {
  await agrees(golden('transformers/llama-gqa-tied'));
  await agrees(golden('transformers/llama-gqa-tied-sharded'));
  await agrees(join(projectFolder, 'demo/models/story'));
});

test('the same for a GGUF file', needs('fixtures/real/stories260k'), () => agrees(shared('fixtures/real/stories260k/stories260K-q8_0.gguf')));

test('T17 a model that cannot fit 4 GB is refused by its header alone, with the dtypes that would fit', async () => {
  /** So many matrices of 0.8 GB in BF16. */
  const large = (n) => {
    const layers = Array.from({ length: n }, () => ({ type: 'linear', in_features: 20000, out_features: 20000, bias: false }));
    return { config: { layers }, file: madeCheckpoint(layers.map((_, i) => `layers.${i}.weight`), 20000, 20000) };
  };
  const { config, file } = large(8);
  server.files['big.safetensors'] = file;
  const url = `${server.address}/big.safetensors`;
  server.reset();
  const estimate = await runtime.estimate(url, { config });
  assert.equal(estimate.weights, 8 * 20000 * 20000 * 2);
  assert.equal(estimate.fits, false);
  assert.ok(estimate.byDtype.q4_0 < estimate.byDtype.q8_0 && estimate.byDtype.q8_0 < 2 ** 32);
  const refusal = heddleError('out_of_memory', /^the model's weights take 6\.4 GB, and WebAssembly's memory ends at 4\.29 GB: as 'q8_0' [\d.]+ GB, 'int8' [\d.]+ GB, 'q4_0' [\d.]+ GB they would fit \(options\.dtype\)$/);
  await assert.rejects(runtime.loadModel(url, { config }), refusal);
  await assert.rejects(runtime.loadModel(url, { config, dtype: 'f32' }), heddleError('out_of_memory', /WebAssembly's memory ends at/));
  const { init } = await entry('./worker');
  const remote = await init(optionsFor(modules[0]));
  assert.deepEqual(await remote.estimate(url, { config }), estimate);
  await assert.rejects(remote.loadModel(url, { config }), refusal);
  await remote.free();
  assert.ok(server.sent < 100_000, `${server.sent} bytes sent`);

  const huge = large(30);
  server.files['huge.safetensors'] = huge.file;
  await assert.rejects(runtime.loadModel(`${server.address}/huge.safetensors`, { config: huge.config }), heddleError('out_of_memory', /no dtype makes them fit/));
});
