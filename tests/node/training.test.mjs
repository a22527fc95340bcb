/**
 * An MLP trained by backward and plain SGD against PyTorch's run of the same (tests/golden/torch/training/mlp_sgd): fc1, tanh, fc2,
 * relu, fc3, cross entropy, 20 steps over three batches.
 */
import assert from 'node:assert/strict';
import { assertClose, readSafetensors, withPrefix } from './golden.mjs';
import { golden, readJson, testOnEveryModule } from './heddle.mjs';

const run = readJson(golden('torch/training/mlp_sgd.json'));
const { tolerance } = readJson(golden('torch/training/cases.json')).cases.find(({ name }) => name === 'mlp_sgd');
const tensors = readSafetensors(golden('torch/training/mlp_sgd.safetensors'));
const initial = withPrefix(tensors, 'init.');
const afterOne = withPrefix(tensors, 'after1.');

const [nIn, nFirst, nSecond, nOut] = run.sizes.layers;
const spec = {
  input_shape: [run.batch_size, nIn],
  layers: [
    { type: 'dense', name: 'fc1', in_features: nIn, out_features: nFirst, activation: 'tanh' },
    { type: 'dense', name: 'fc2', in_features: nFirst, out_features: nSecond, activation: 'relu' },
    { type: 'dense', name: 'fc3', in_features: nSecond, out_features: nOut },
  ],
};

/** "step i uses rows [(i mod 3)*8, +8)" */
function batch(step) {
  const rows = run.batch_size;
  const first = (step % 3) * rows;
  return [tensors.get('data.x').data.slice(first * nIn, (first + rows) * nIn), tensors.get('data.y').data.slice(first, first + rows)];
}

/** Gives `use` the network with PyTorch's first weights, in a session for training. */
async function trained(runtime, use) {
  const model = await runtime.buildNetwork(spec, { seed: 1 });
  for (const [name, { data }] of initial) await model.writeWeight(name, data);
  await use(await model.createSession({ mode: 'train' }), model);
  await model.free();
}

async function assertWeights(model, want) {
  assert.equal(want.size, model.weights.length);
  for (const [name, { shape, data }] of want) {
    assert.deepEqual(model.weights.find((weight) => weight.name === name)?.shape, shape, name);
    assertClose(await model.readWeight(name), data, tolerance.weight_abs, name);
  }
}

testOnEveryModule('twenty steps of SGD give the losses of PyTorch', (runtime) =>
  trained(runtime, async (session) => {
    const losses = [];
    for (let step = 0; step < run.steps; step++) losses.push(await session.trainStep(...batch(step), { loss: 'cross_entropy', lr: run.lr[step] }));
    assertClose(losses, run.loss, tolerance.loss_abs, 'losses');
  }),
);

testOnEveryModule('the weights after one step are those of PyTorch', (runtime) =>
  trained(runtime, async (session, model) => {
    await session.trainStep(...batch(0), { loss: 'cross_entropy', lr: run.lr[0] });
    await assertWeights(model, afterOne);
  }),
);

testOnEveryModule('the weights after twenty steps are those of PyTorch', (runtime) =>
  trained(runtime, async (session, model) => {
    for (let step = 0; step < run.steps; step++) await session.trainStep(...batch(step), { loss: 'cross_entropy', lr: run.lr[step] });
    await assertWeights(model, withPrefix(tensors, 'final.'));
  }),
);

// after1 = init − lr · gradient in float32: the difference is known to one rounding of a weight below 1, 2^-24, on either side.
testOnEveryModule('the gradients of the first step are what moved the weights of PyTorch', (runtime) =>
  trained(runtime, async (session) => {
    const loss = await session.backward(...batch(0), { loss: 'cross_entropy' });
    assertClose([loss], run.loss.slice(0, 1), tolerance.loss_abs, 'loss');
    for (const [name, { shape, data }] of initial) {
      const gradient = await session.gradient(name);
      assert.deepEqual(gradient.shape, shape, name);
      assertClose(gradient.data.map((g) => g * run.lr[0]), data.map((w, i) => w - afterOne.get(name).data[i]), 2 ** -22, `lr · gradient of ${name}`);
    }
  }),
);

testOnEveryModule('the norm of all gradients is that of PyTorch at every step', (runtime) =>
  trained(runtime, async (session) => {
    for (let step = 0; step < run.steps; step++) {
      await session.backward(...batch(step), { loss: 'cross_entropy' });
      let squares = 0;
      for (const name of initial.keys()) for (const g of (await session.gradient(name)).data) squares += g * g;
      assertClose([Math.sqrt(squares)], [run.grad_norm_before_clip[step]], 1e-6, `gradient norm of step ${step + 1}`);
      await session.step(run.lr[step]);
    }
  }),
);

testOnEveryModule('gradients of two backward passes add up until the step', (runtime) =>
  trained(runtime, async (session, model) => {
    const [x, y] = batch(0);
    await session.backward(x, y, { loss: 'cross_entropy' });
    await session.backward(x, y, { loss: 'cross_entropy' });
    await session.step(run.lr[0] / 2);
    await assertWeights(model, afterOne);
  }),
);
