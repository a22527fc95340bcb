/** Tween states: loss and weights after every step are Loom's (tests/golden/loom, kind tween). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** Loom keeps a kernel as [in][out], the network as [out, in]. */
const kernelOf = (weight, inputs, outputs) => Float32Array.from({ length: weight.length }, (_, k) => weight[(k % outputs) * inputs + Math.floor(k / outputs)]);

for (const { name, files, model_id: id, tolerance } of readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'tween')) {
  testOnEveryModule(`Loom's ${name}: loss and every weight after every step`, (runtime) => {
    const { chain_rule: chainRule, steps } = readJson(golden(`loom/${files[1]}`));
    const text = readFileSync(golden(`loom/${files[0]}`), 'utf8');
    const sizes = JSON.parse(text).models[0].cfg.layers.map((layer) => [layer.input_height, layer.output_height]);
    const network = runtime.LoadNetworkFromString(text, id);
    const state = network.createTweenState(chainRule);
    for (const [k, { input, target_class: target, output_size: size, rate, loss, weights_after: after }] of steps.entries()) {
      assertWithin(Float32Array.of(state.TweenStep(input, target, size, rate)), loss, tolerance, `step ${k + 1}, loss`);
      for (const [i, { kernel, bias }] of after.entries()) {
        assertWithin(kernelOf(network.model.readWeightSync(`layers.${i}.weight`), ...sizes[i]), kernel, tolerance, `step ${k + 1}, layer ${i}, kernel`);
        assertWithin(network.model.readWeightSync(`layers.${i}.bias`), bias, tolerance, `step ${k + 1}, layer ${i}, bias`);
      }
    }
    assert.equal(state.getTweenSteps(), steps.length);
    assert.equal(state.getChainRule(), chainRule);
    network.free();
  });
}

testOnEveryModule('a tween state refuses what it cannot move, and says why', (runtime) => {
  const load = (name) => runtime.LoadNetworkFromString(readFileSync(golden(`loom/${name}.bundle.json`), 'utf8'), name);
  assert.throws(() => load('mix_lstm_dense').createTweenState(), heddleError('unsupported', /layer 0 is lstm: only dense layers are tweened/));
  assert.throws(() => load('mlp_batch4').createTweenState(), heddleError('unsupported', /a batch of 1/));
  const state = load('x_tween_dense_chain').createTweenState(true);
  assert.throws(() => state.TweenStep([1, 2], 0, 3, 0.1), heddleError('bad_argument', /expected 5 numbers, found 2/));
  assert.throws(() => state.TweenStep([1, 2, 3, 4, 5], 3, 3, 0.1), heddleError('bad_argument', /class 3 of 3: the network has 3 outputs/));
  assert.throws(() => state.TweenStep([1, 2, 3, 4, 5], 0, 3, NaN), heddleError('bad_argument', /rate/));
});
