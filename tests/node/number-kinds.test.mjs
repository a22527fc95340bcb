/** Numbers and files in arrays of every kind, views of shared memory among them: what plain arrays give, here and in a worker. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, golden, heddle, heddleError, modules, optionsFor, readJson } from './heddle.mjs';

const tale = golden('transformers/e2e-llama-text');
const { prompt_ids: ids, prompt, text } = readJson(join(tale, 'expected.json'));
const kinds = [Float32Array, Float64Array, Int32Array, Uint32Array, Int16Array, Uint16Array];
const shared = (Kind, values) => {
  const view = new Kind(new SharedArrayBuffer(Kind.BYTES_PER_ELEMENT * values.length));
  view.set(values);
  return view;
};
const sharedFile = (path) => shared(Uint8Array, readFileSync(path));
const spec = { layers: [{ type: 'dense', in_features: 3, out_features: 2 }] };

for (const where of ['.', './worker']) {
  test(`numbers of every kind are taken as plain arrays are, in shared memory too (heddle${where.slice(1)})`, async () => {
    const runtime = await (await entry(where)).init(optionsFor(modules[1]));
    const network = await runtime.buildNetwork(spec, { seed: 4 });
    const other = await runtime.buildNetwork(spec);
    const { name } = other.weights[0];
    const want = await network.forward([1, 2, 3]);
    const model = await runtime.loadModel(tale);
    const vector = (await model.embed([ids]))[0];
    for (const Kind of kinds) {
      for (const make of [(values) => Kind.from(values), (values) => shared(Kind, values)]) {
        assert.deepEqual(await network.forward(make([1, 2, 3])), want, Kind.name);
        await other.writeWeight(name, make([1, 2, 3, 4, 5, 6]));
        assert.deepEqual(Array.from(await other.readWeight(name)), [1, 2, 3, 4, 5, 6], Kind.name);
        await other.writeWeight(name, [0, 0, 0, 0, 0, 0]);
        assert.equal(await model.detokenize(make(ids)), prompt, Kind.name);
        assert.equal(await model.generate(make(ids)).text(), text, Kind.name);
        assert.deepEqual((await model.embed([make(ids)]))[0], vector, Kind.name);
      }
    }
    const session = await network.createSession({ mode: 'train', input: { shape: [1, 3] } });
    const loss = await session.trainStep(shared(Float64Array, [1, 2, 3]), Float64Array.of(5, 8), { lr: 0 });
    assert.equal(loss, await session.trainStep([1, 2, 3], [5, 8], { lr: 0 }));
    await session.free();
    await assert.rejects(network.forward(BigInt64Array.of(1n, 2n, 3n)), heddleError('bad_argument', /an array of numbers/));
    await runtime.free();
  });

  test(`files in shared memory, as buffers and as views (heddle${where.slice(1)})`, async () => {
    const runtime = await (await entry(where)).init(optionsFor(modules[1]));
    const names = ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'];
    for (const view of [(bytes) => bytes, (bytes) => bytes.buffer]) {
      const model = await runtime.loadModel(Object.fromEntries(names.map((name) => [name, view(sharedFile(join(tale, name)))])));
      assert.equal(await model.generate(prompt).text(), text);
      assert.equal(await model.loadWeights(view(sharedFile(join(tale, 'model.safetensors')))), model.weights.length);
      await model.free();
    }
    const bundle = await runtime.loadModel(sharedFile(golden('loom/dense_relu.bundle.json')));
    assert.equal(bundle.weights.length, 2);
    await runtime.free();
  });
}

test('ForwardCPU and LoadNetworkFromString take them too', async () => {
  const runtime = await heddle.init(optionsFor(modules[1]));
  const { input } = readJson(golden('loom/dense_relu.io.json'));
  const network = runtime.LoadNetworkFromString(sharedFile(golden('loom/dense_relu.bundle.json')), 'dense_relu');
  const want = network.ForwardCPU(input);
  for (const Kind of [Float32Array, Float64Array]) assert.deepEqual(network.ForwardCPU(shared(Kind, input)), want);
  await runtime.free();
});
