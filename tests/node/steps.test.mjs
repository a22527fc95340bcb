/** Step states: every layer's output after every step is Loom's (tests/golden/loom, kind step). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertSameBits, assertWithin } from './golden.mjs';
import { golden, heddle, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

for (const { name, files, model_id: id, tolerance } of readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'step')) {
  testOnEveryModule(`Loom's ${name}: every layer after every step`, (runtime) => {
    const { input, steps } = readJson(golden(`loom/${files[1]}`));
    const network = runtime.LoadNetworkFromString(readFileSync(golden(`loom/${files[0]}`), 'utf8'), id);
    const state = network.createStepState(input.length);
    state.setInput(input);
    for (const [k, layers] of steps.entries()) {
      assert.ok(state.stepForward() >= 0, 'milliseconds');
      for (const [i, want] of layers.entries()) assertWithin(state.getLayerOutput(i), want, tolerance, `step ${k + 1}, layer ${i}`);
      assertSameBits(state.getOutput(), state.getLayerOutput(layers.length - 1), 'the output');
    }
    state.free();
    network.free();
  });
}

const dense3 = () => readFileSync(golden('loom/x_step_dense3.bundle.json'), 'utf8');

testOnEveryModule('an input reaches a step state\'s output after as many steps as there are layers, and is then what a forward gives', (runtime) => {
  const network = runtime.LoadNetworkFromString(dense3(), 'x_step_dense3');
  const state = network.createStepState(4);
  assert.deepEqual(state.getOutput(), new Float32Array(2), 'zeros before the first step');
  for (const input of [[1, 2, 3, 4], [-1, 0.5, 2, 0]]) {
    state.setInput(input);
    for (let step = 0; step < 3; step++) state.stepForward();
    assertSameBits(state.getOutput(), network.ForwardCPU(input), `${input}`);
  }
  const other = network.createStepState(4);
  assert.deepEqual(other.getOutput(), new Float32Array(2), 'two states of a network are apart');
  network.free();
});

testOnEveryModule('a step state runs layers of other types, nested ones too, to what a forward gives', (runtime) => {
  for (const name of ['mix_conv2d_conv2d_dense', 'mix_rnn_lstm_dense', 'mix_parallel_dense_softmax', 'parallel_nested', 'kmeans_features']) {
    const { input } = readJson(golden(`loom/${name}.io.json`));
    const text = readFileSync(golden(`loom/${name}.bundle.json`), 'utf8');
    const network = runtime.LoadNetworkFromString(text, name);
    const state = network.createStepState(input.length);
    state.setInput(input);
    for (const _ of JSON.parse(text).models[0].cfg.layers) state.stepForward();
    assertSameBits(state.getOutput(), network.ForwardCPU(input), name);
    state.free();
    network.free();
  }
});

test('a step state in a shared instance gives its memory back, and ends with its network', async () => {
  const runtime = await heddle.init({ variant: 'simd128', threads: 1, shared: true });
  const network = runtime.LoadNetworkFromString(dense3(), 'x_step_dense3');
  const before = runtime.memory().live;
  const state = network.createStepState(4);
  state.stepForward();
  assert.ok(runtime.memory().live > before);
  state.free();
  assert.equal(runtime.memory().live, before);
  const orphan = network.createStepState(4);
  network.free();
  assert.throws(() => orphan.stepForward(), heddleError('bad_state', /was freed/));
  orphan.free();
  assert.ok(runtime.memory().live < before);
  await runtime.free();
});

testOnEveryModule('a step state refuses what does not fit, and use after free', (runtime) => {
  const network = runtime.LoadNetworkFromString(dense3(), 'x_step_dense3');
  assert.throws(() => network.createStepState(0), heddleError('bad_argument', /^inputSize: expected a whole number from 1/));
  const state = network.createStepState(4);
  assert.throws(() => state.setInput([1, 2, 3]), heddleError('bad_argument', /^input: expected 4 numbers, found 3/));
  assert.throws(() => state.setInput('1, 2, 3, 4'), heddleError('bad_argument', /^input: expected an array of numbers/));
  assert.throws(() => state.getLayerOutput(3), heddleError('bad_argument', /^index: no layer 3 among 3 layers/));
  const orphan = network.createStepState(4);
  state.free();
  state.free();
  assert.throws(() => state.stepForward(), heddleError('bad_state', /the step state was freed/));
  network.free();
  assert.throws(() => orphan.stepForward(), heddleError('bad_state', /was freed/));
  orphan.free();
  const standard = runtime.BuildNetworkFromJSON({ dialect: 'standard', layers: [{ type: 'dense', input_height: 2, output_height: 2 }] });
  assert.throws(() => standard.createStepState(2), heddleError('unsupported', /not in the loom dialect/));
  standard.free();
});
