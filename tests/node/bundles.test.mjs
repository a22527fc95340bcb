/**
 * Loom's bundles through LoadNetworkFromString and ForwardCPU give what Loom itself gave (tests/golden/loom), and broken ones give an
 * error that names what, where, expected and found (tests/golden/broken-bundles).
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin } from './golden.mjs';
import { golden, heddle, heddleError, readJson, runtimeWith, testOnEveryModule } from './heddle.mjs';

/** The checklist's numbers that a layer and what is in it stand for. */
const idsOfType = {
  dense: ['L2', 'L3'], conv1d: [], conv2d: [], multi_head_attention: ['L5'], rnn: [], lstm: [], softmax: ['L4'], layer_norm: ['L17'], rms_norm: ['L17'],
  swiglu: ['L18'], parallel: ['L9'], sequential: ['L9'], kmeans: ['L6', 'L7', 'L8'],
};
const idsOfMode = { concat: ['L10'], '': ['L10'], add: ['L11'], avg: ['L12'], filter: ['L13'], grid_scatter: ['L14'] };

function idsOf(layer) {
  const own = layer.type === 'parallel' ? idsOfMode[layer.combine_mode ?? ''] ?? [] : [];
  return [...idsOfType[layer.type], ...own, ...(layer.branches ?? []).flatMap(idsOf)];
}

function titleOf(cfg) {
  const ids = new Set([...(cfg.layers.length > 1 ? ['L1'] : []), ...cfg.layers.flatMap(idsOf)]);
  const inOrder = [...ids].sort((one, other) => Number(one.slice(1)) - Number(other.slice(1)));
  return inOrder.length ? ` [${inOrder.join(' ')}]` : '';
}

for (const entry of readJson(golden('loom/cases.json')).filter(({ kind }) => kind.startsWith('bundle'))) {
  const text = readFileSync(golden(`loom/${entry.files[0]}`), 'utf8');
  const io = readJson(golden(`loom/${entry.files[1]}`));
  for (const model of io.models ?? [io]) {
    const name = io.models ? `${entry.name}, model ${model.model_id}` : entry.name;
    const pairs = [model, ...(model.more ?? [])];
    const { cfg } = JSON.parse(text).models.find(({ id }) => id === model.model_id);

    testOnEveryModule(`Loom's ${name} gives Loom's output${titleOf(cfg)}`, (runtime) => {
      const network = runtime.LoadNetworkFromString(text, model.model_id);
      for (const [i, { input, output }] of pairs.entries()) {
        assertWithin(network.ForwardCPU(input), output, entry.tolerance, `pair ${i}`);
        assertWithin(network.ForwardCPU(Float32Array.from(input)), output, entry.tolerance, `pair ${i} as a Float32Array`);
      }
      network.free();
    });

    testOnEveryModule(`F2: Loom's ${name}, saved and loaded again, gives the same bits`, async (runtime) => {
      const network = runtime.LoadNetworkFromString(text, model.model_id);
      const saved = network.SaveModelToString('again');
      const again = runtime.LoadNetworkFromString(saved, 'again');
      assert.deepEqual(again.ForwardCPU(model.input), network.ForwardCPU(model.input));
      assert.equal(again.SaveModelToString('again'), saved, 'the second save is the first, letter for letter');
      const loaded = await runtime.loadModel(saved);
      assert.deepEqual(await loaded.forward(model.input), network.ForwardCPU(model.input), 'through loadModel, without an id');
      for (const thing of [network, again, loaded]) thing.free();
    });

    if (!model.layer_outputs) continue;
    testOnEveryModule(`Loom's ${name}, traced, gives every layer's output as Loom computed it`, async (runtime) => {
      const loaded = await runtime.loadModel(text, { id: model.model_id });
      const session = await loaded.createSession({ mode: 'trace', input: { shape: [model.input.length] } });
      await session.forward(model.input);
      for (const [i, want] of model.layer_outputs.entries()) {
        assertWithin((await session.value(`layers.${i}`)).data, want, entry.tolerance, `layer ${i}`);
      }
      await loaded.free();
    });
  }
}

testOnEveryModule('a bundle of several models wants to know which', async (runtime) => {
  const bytes = readFileSync(golden('loom/bundle_three_models.bundle.json'));
  await assert.rejects(runtime.loadModel(bytes), heddleError('bad_argument', /holds 3 models \(.*\): say which as options\.id/));
});

testOnEveryModule('ForwardCPU plans anew when the length changes', (runtime) => {
  const text = readFileSync(golden('loom/softmax_standard.bundle.json'), 'utf8');
  const network = runtime.LoadNetworkFromString(text, 'softmax_standard');
  for (const n of [1, 6, 3, 6, 40]) assertWithin(network.ForwardCPU(new Array(n).fill(0.5)), new Array(n).fill(1 / n), { abs: 1e-6, rel: 0 }, `${n} values`);
  const dense = runtime.LoadNetworkFromString(readFileSync(golden('loom/dense_relu.bundle.json'), 'utf8'), 'dense_relu');
  assert.throws(() => dense.ForwardCPU([]), heddleError('bad_argument', /0 numbers/));
  network.free();
  dense.free();
});

testOnEveryModule('BuildNetworkFromJSON is Loom\'s arithmetic and buildNetwork the textbook\'s', async (runtime) => {
  const spec = { layers: [{ type: 'dense', in_features: 1, out_features: 1, activation: 'relu' }] };
  const network = runtime.BuildNetworkFromJSON(JSON.stringify({ grid_rows: 1, grid_cols: 1, layers_per_cell: 1, ...spec }));
  const model = await runtime.buildNetwork(spec);
  for (const each of [network.model, model]) {
    for (const { name, shape } of each.weights) await each.writeWeight(name, [shape.length === 2 ? 2 : 0]);
  }
  assert.deepEqual(Array.from(network.ForwardCPU([5])), [11], 'relu is max(0, 1.1·x)');
  assert.deepEqual(Array.from(await model.forward([5])), [10]);
  network.free();
  await model.free();
});

/** Layers with every kind of float32 in their settings, and which it is. */
const withFloats = [
  [{ type: 'layer_norm', normalized_shape: 4 }, 'eps', 1e-5],
  [{ type: 'layer_norm', normalized_shape: 4, eps: 1e-12 }, 'eps', 1e-12],
  [{ type: 'rms_norm', norm_size: 4, epsilon: 1e-6 }, 'epsilon', 1e-6],
  [{ type: 'group_norm', num_groups: 2, num_channels: 4, eps: 0.001 }, 'eps', 0.001],
  [{ type: 'batch_norm', num_features: 4, eps: 3.3e-5 }, 'eps', 3.3e-5],
  [{ type: 'LeakyReLU', negative_slope: 0.2 }, 'negative_slope', 0.2],
  [{ type: 'ELU', alpha: 0.7 }, 'alpha', 0.7],
  [{ type: 'softmax', temperature: 0.1 }, 'temperature', 0.1],
  [{ type: 'transformer_encoder_layer', d_model: 4, nhead: 2, dim_feedforward: 4, layer_norm_eps: 1e-7 }, 'layer_norm_eps', 1e-7],
  [{ type: 'dropout', p: 0.1 }, 'p', 0.1],
];

testOnEveryModule('F1: the floats of a saved configuration are the decimals they were given as', async (runtime) => {
  for (const [layer, key, value] of withFloats) {
    const model = await runtime.buildNetwork({ input_shape: [1, 4], layers: [layer] });
    assert.equal(JSON.parse(await model.saveToString('m')).models[0].cfg.layers[0][key], value, `${layer.type}.${key}`);
    await model.free();
  }
  const loom = runtime.BuildNetworkFromJSON({ grid_rows: 1, grid_cols: 1, layers_per_cell: 2, layers: [{ type: 'layer_norm', norm_size: 4 }, { type: 'rms_norm', norm_size: 4, epsilon: 0.003 }] });
  assert.match(loom.SaveModelToString('m'), /"epsilon": 0\.00001\b[^]*"epsilon": 0\.003\b/);
  loom.free();
});

testOnEveryModule('the same seed makes the same network, another seed another', async (runtime) => {
  const spec = { layers: [{ type: 'dense', in_features: 3, out_features: 4 }] };
  const made = async (seed) => {
    const model = await runtime.buildNetwork(spec, { seed });
    const output = await model.forward([1, 2, 3]);
    await model.free();
    return output;
  };
  assert.deepEqual(await made(7), await made(7));
  assert.notDeepEqual(await made(7), await made(8));
});

for (const { name, file, id, code, message } of readJson(golden('broken-bundles/cases.json'))) {
  const bytes = readFileSync(golden(`broken-bundles/${file}`));
  const says = (error) => heddleError(code)(error) && (assert.ok(error.message.includes(message), `expected "…${message}…", found "${error.message}"`), true);
  testOnEveryModule(`a broken bundle is refused in words: ${name}`, async (runtime) => {
    assert.throws(() => runtime.LoadNetworkFromString(bytes, id), says);
    const text = bytes.toString('utf8');
    if (Buffer.from(text).equals(bytes)) assert.throws(() => runtime.LoadNetworkFromString(text, id), says, 'as a string');
    if (/^\s*\{/.test(text)) await assert.rejects(runtime.loadModel(bytes, { id }), says, 'through loadModel');
  });
}

testOnEveryModule('C4: the exported LoadNetworkFromString uses the first runtime', async (runtime, module) => {
  await runtimeWith(module);
  const text = readFileSync(golden('loom/dense_tanh.bundle.json'), 'utf8');
  const network = heddle.LoadNetworkFromString(text, 'dense_tanh');
  assert.deepEqual(network.ForwardCPU(readJson(golden('loom/dense_tanh.io.json')).input).length, readJson(golden('loom/dense_tanh.io.json')).output.length);
  network.free();
});
