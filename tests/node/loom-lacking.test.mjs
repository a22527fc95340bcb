/** What Loom makes of convolutions and norms whose weights a bundle lacks, as a whole or in part (shared/formats/loom.md, section a). */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** A bundle of one layer; `weights` are the fields it has. */
function bundle(layer, weights) {
  const cfg = { batch_size: 1, grid_rows: 1, grid_cols: 1, layers_per_cell: 1, layers: [layer] };
  const data = Buffer.from(JSON.stringify({ type: 'float32', layers: [weights] })).toString('base64');
  return JSON.stringify({ type: 'modelhost/bundle', version: 1, models: [{ id: 'one', cfg, weights: { fmt: 'jsonModelB64', data } }] });
}

const conv = (activation) => ({ type: 'conv1d', activation, input_channels: 1, filters: 2, kernel_size: 2, stride: 1, padding: 0, input_length: 3 });
const norm = { type: 'layer_norm', norm_size: 2, epsilon: 0 };

const cases = [
  ...['relu', 'sigmoid', 'tanh', 'softplus', 'leaky_relu'].map((name) => (
    { what: `no kernel: zeros behind ${name}`, layer: conv(name), weights: { conv_bias: [1, 2] }, input: [1, 2, 3], output: [0, 0, 0, 0] })),
  { what: 'no bias: zeros', layer: conv('leaky_relu'), weights: { kernel: [1, 1, 0, 1] }, input: [1, 2, 3], output: [3, 5, 2, 3] },
  { what: 'a short bias: zeros for the filters at the end', layer: conv('leaky_relu'), weights: { kernel: [1, 1, 0, 1], conv_bias: [10] }, input: [1, 2, 3], output: [13, 15, 2, 3] },
  { what: 'a short kernel: what is there', layer: conv('leaky_relu'), weights: { kernel: [1, 1, 2], conv_bias: [0, 1] }, input: [1, 2, 3], output: [3, 5, 3, 5] },
  { what: 'a norm without gamma and beta', layer: norm, weights: {}, input: [3, 5], output: [-1, 1] },
  { what: 'a norm without gamma', layer: norm, weights: { beta: [1, 2] }, input: [3, 5], output: [0, 3] },
];

for (const { what, layer, weights, input, output } of cases) {
  testOnEveryModule(`a Loom bundle's ${layer.type} with ${what}, also when it is saved and loaded again`, (runtime) => {
    const network = runtime.LoadNetworkFromString(bundle(layer, weights), 'one');
    const again = runtime.LoadNetworkFromString(network.SaveModelToString('one'), 'one');
    for (const each of [network, again]) {
      for (const [i, value] of each.ForwardCPU(input).entries()) assert.ok(Math.abs(value - output[i]) <= 1e-5, `value ${i}: expected ${output[i]}, found ${value}`);
      each.free();
    }
  });
}

testOnEveryModule("G1: in Loom's dialect a short input is filled up with zeros and a long one's end is not read; the textbook's refuses both", (runtime) => {
  for (const name of ['dense_relu', 'rnn', 'lstm']) {
    const { input } = readJson(golden(`loom/${name}.io.json`));
    const bundle = readFileSync(golden(`loom/${name}.bundle.json`), 'utf8');
    const network = runtime.LoadNetworkFromString(bundle, JSON.parse(bundle).models[0].id);
    const want = network.ForwardCPU([...input.slice(0, -2), 0, 0]);
    assert.notDeepEqual(network.ForwardCPU(input), want);
    assert.deepEqual(network.ForwardCPU(input.slice(0, -2)), want, `${name}, short`);
    assert.deepEqual(network.ForwardCPU([...input, 7, 8]), network.ForwardCPU(input), `${name}, long`);
    network.free();
  }
  const textbook = runtime.BuildNetworkFromJSON({ dialect: 'standard', layers: [{ type: 'dense', in_features: 3, out_features: 2 }] });
  for (const length of [2, 4]) assert.throws(() => textbook.ForwardCPU(new Float32Array(length)), heddleError('bad_argument', /expected 3 input features/));
  textbook.free();
});
