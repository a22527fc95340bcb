/** Converting while streaming: memory is the converted model and what is on its way (tests/bench/stream-load.mjs has the large one). */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { entryUrl, modules, runtimeWith } from './heddle.mjs';
import { madeCheckpoint, serverFor } from './range-server.mjs';
import { measure } from '../bench/stream-load.mjs';

/** What a process may take besides the converted model: pieces on their way and the garbage of Node's fetch, which is the same for any file: half of this one. */
const besides = 128 << 20;
const inWasm = 4 << 20;

for (const ranges of [true, false]) {
  test(`F36 F38 P4 a BF16 checkpoint of 256 MB becomes 8 bits while it comes ${ranges ? 'by ranges' : 'as one stream'}, and is never held whole`, async (t) => {
    const { fileBytes, modelBytes, heapBytes, grownBytes, sentBytes } = await measure({ mb: 256, dtype: 'q8_0', ranges, heddle: entryUrl('.') });
    t.diagnostic(`file ${fileBytes}, model ${modelBytes}, WebAssembly ${heapBytes}, process +${grownBytes}`);
    assert.ok(modelBytes / fileBytes < 0.6, 'the model is that of 8 bits');
    assert.ok(heapBytes - modelBytes < inWasm, `${heapBytes - modelBytes} bytes of WebAssembly memory besides the model`);
    if (grownBytes !== undefined) assert.ok(grownBytes - modelBytes < besides, `${grownBytes - modelBytes} bytes besides the model`);
    assert.ok(sentBytes <= fileBytes * 1.05);
  });
}

test('F38 what was converted on its way is what is converted from memory', async () => {
  const made = madeCheckpoint(['layers.0.weight', 'layers.1.weight'], 96, 64);
  const spec = { layers: [{ type: 'linear', in_features: 64, out_features: 96, bias: false }, { type: 'linear', in_features: 64, out_features: 96, bias: false }] };
  const server = await serverFor({ 'model.safetensors': made });
  const runtime = await runtimeWith(modules[0]);
  const load = (source) => runtime.loadModel(source, { config: { layers: [spec.layers[0]] }, dtype: 'q8_0' });
  const [streamed, whole] = await Promise.all([load(`${server.address}/model.safetensors`), load(made.part(0, made.size))]);
  const [a, b] = await Promise.all([streamed, whole].map((model) => model.readWeight('layers.0.weight')));
  assert.deepEqual(a, b);
  assert.ok(a.some((value) => value !== 0));
});
