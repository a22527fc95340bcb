/** What Loom makes of convolutions and norms whose weights a bundle lacks, as a whole or in part (shared/formats/loom.md, section a). */
import assert from 'node:assert/strict';
import { testOnEveryModule } from './heddle.mjs';

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
