/** model.validate() tells of what no working model has, by name. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { entry, golden, heddleError, runtimeWith, testOnEveryModule } from './heddle.mjs';

const spec = { layers: [{ type: 'linear', in_features: 3, out_features: 4 }, { type: 'tanh' }, { type: 'linear', in_features: 4, out_features: 2 }] };
const shape = [1, 3];

/** A network without a flaw. */
async function network(runtime) {
  const model = await runtime.buildNetwork(spec, { seed: 1 });
  for (const { name, shape: [n] } of model.weights.filter((weight) => weight.shape.length === 1)) await model.writeWeight(name, new Array(n).fill(0.5));
  return model;
}

testOnEveryModule('validate finds nothing in a network that works [E12 E13]', async (runtime) => {
  const model = await network(runtime);
  assert.deepEqual(await model.validate({ shape }), []);
  await model.writeWeight('layers.0.bias', [1, 1, 1, 1]); // its session is closed again
  await model.free();
});

testOnEveryModule('validate flags a NaN weight, and every output it spoils, by name [E12]', async (runtime) => {
  const model = await network(runtime);
  await model.writeWeight('layers.2.bias', [1, NaN]);
  assert.deepEqual(await model.validate({ shape }), [
    { name: 'layers.2.bias', kind: 'weight', problem: 'nan' },
    { name: 'layers.2', kind: 'output', problem: 'nan' },
  ]);
  await model.writeWeight('layers.2.bias', [1, 1]);
  await model.writeWeight('layers.0.bias', [0, NaN, Infinity, 0]);
  assert.deepEqual(await model.validate({ shape }), [
    { name: 'layers.0.bias', kind: 'weight', problem: 'nan' },
    ...['layers.0', 'layers.1', 'layers.2'].map((name) => ({ name, kind: 'output', problem: 'nan' })),
  ]);
  await model.free();
});

testOnEveryModule('validate flags an infinite weight and the layers it reaches [E12]', async (runtime) => {
  const model = await network(runtime);
  await model.writeWeight('layers.0.bias', [0, 0, -Infinity, 0]); // tanh makes −1 of it
  assert.deepEqual(await model.validate({ shape }), [
    { name: 'layers.0.bias', kind: 'weight', problem: 'infinite' },
    { name: 'layers.0', kind: 'output', problem: 'infinite' },
  ]);
  await model.free();
});

testOnEveryModule('validate flags weights and a last output of nothing but zeros [E13]', async (runtime) => {
  const model = await network(runtime);
  await model.writeWeight('layers.2.weight', new Array(8).fill(0));
  assert.deepEqual(await model.validate({ shape }), [{ name: 'layers.2.weight', kind: 'weight', problem: 'zero' }]);
  await model.writeWeight('layers.2.bias', [0, -0]);
  assert.deepEqual(await model.validate({ shape }), [
    { name: 'layers.2.weight', kind: 'weight', problem: 'zero' },
    { name: 'layers.2.bias', kind: 'weight', problem: 'zero' },
    { name: 'layers.2', kind: 'output', problem: 'zero' },
  ]);
  await model.free();
});

testOnEveryModule('validate on a bundle from Loom, and on a language model, which states its input [E12 E13]', async (runtime) => {
  const loaded = runtime.LoadNetworkFromString(readFileSync(golden('loom/dense_relu.bundle.json'), 'utf8'), 'dense_relu').model;
  assert.deepEqual(await loaded.validate({ shape: [7] }), []);
  await loaded.free();
  const file = (name) => golden(`transformers/llama-mild/${name}`);
  const model = await runtime.loadModel({ 'config.json': file('config.json'), 'model.safetensors': file('model.safetensors') });
  assert.deepEqual(await model.validate(), []);
  const norm = model.weights.find(({ name }) => name === 'model.norm.weight');
  await model.writeWeight(norm.name, new Array(norm.shape[0]).fill(0));
  const found = await model.validate();
  assert.deepEqual(found.map(({ kind, problem }) => `${kind} ${problem}`), ['weight zero', 'output zero']);
  assert.equal(found[0].name, 'model.norm.weight');
  assert.ok((await (await model.createSession({ mode: 'trace' })).valueNames()).includes(found[1].name), found[1].name);
  await model.free();
});

test('validate says when it has to know the shape, and what it does not take', async () => {
  const runtime = await runtimeWith('simd128');
  const model = await network(runtime);
  await assert.rejects(model.validate(), heddleError('bad_argument', /shape has to be given/));
  await assert.rejects(model.validate({ shape: 3 }), heddleError('bad_argument', /^shape: expected an array of sizes, found 3/));
  await assert.rejects(model.validate({ input: [0] }), heddleError('bad_argument', /^input: no such option; known: shape/));
  await model.free();
  await assert.rejects(model.validate({ shape }), heddleError('bad_state', /freed/));
});

test('validate in a worker finds the same', async () => {
  const runtime = await (await entry('./worker')).init({ threads: 1 });
  const model = await network(runtime);
  await model.writeWeight('layers.2.bias', [1, NaN]);
  const here = await network(await runtimeWith('simd128'));
  await here.writeWeight('layers.2.bias', [1, NaN]);
  assert.deepEqual(await model.validate({ shape }), await here.validate({ shape }));
  await here.free();
  await runtime.free();
});
