/**
 * BuildNetworkFromJSON against Loom's own (tests/golden/loom, kind build_from_json): what is built has the cfg and the weights' sizes that
 * Loom saved, and Loom's bundle of it gives Loom's output; then defaults, first weights and refusals.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

const modelOf = (text) => {
  const [model] = JSON.parse(text).models;
  return { ...model, inner: JSON.parse(Buffer.from(model.weights.data, 'base64').toString('utf8')) };
};

/** The lengths of all lists of numbers in a layer's weights, by name. */
function sizesOf(fields) {
  const sizes = {};
  for (const [key, value] of Object.entries(fields)) sizes[key] = key === 'branch_weights' ? value.map(sizesOf) : value.flat().length;
  return sizes;
}

/** What a kmeans has only after a first forward in Loom. */
const withoutCenters = ({ cluster_dim: _, ...layer }) => layer;
const onlyBuilt = ({ cluster_centers: _, ...fields }) => fields;
/** Filler that only some of Loom's writers leave. */
const withoutFiller = (value) => {
  if (Array.isArray(value)) return value.map(withoutFiller);
  if (typeof value !== 'object' || value === null) return value;
  const { width: _, height: __, ...rest } = value;
  return Object.fromEntries(Object.entries(rest).map(([key, each]) => [key, withoutFiller(each)]));
};

for (const entry of readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'build_from_json')) {
  const [config, bundle, io] = entry.files.map((name) => readFileSync(golden(`loom/${name}`), 'utf8'));
  const { id, cfg, inner } = modelOf(bundle);

  testOnEveryModule(`F44 ${entry.name}: what is built is what Loom saved`, (runtime) => {
    const network = runtime.BuildNetworkFromJSON(config, { seed: 3 });
    const ours = modelOf(network.SaveModelToString(id));
    const strip = (c) => withoutFiller({ ...c, layers: c.layers.map(withoutCenters) });
    assert.deepEqual(strip(ours.cfg), strip(cfg));
    assert.deepEqual(ours.inner.layers.map(onlyBuilt).map(sizesOf), inner.layers.map(onlyBuilt).map(sizesOf));
    network.free();
  });

  testOnEveryModule(`F44 ${entry.name}: Loom's bundle of it gives Loom's output`, (runtime) => {
    const network = runtime.LoadNetworkFromString(bundle, id);
    const wanted = JSON.parse(io);
    for (const { input, output } of [wanted, ...(wanted.more ?? [])]) assertWithin(network.ForwardCPU(input), output, entry.tolerance, 'output');
    network.free();
  });
}

const build = (runtime, layers, grid = [1, 1, layers.length]) =>
  runtime.BuildNetworkFromJSON(JSON.stringify({ grid_rows: grid[0], grid_cols: grid[1], layers_per_cell: grid[2], layers }), { seed: 11 });

testOnEveryModule('F44 defaults are Loom\'s', (runtime) => {
  const network = build(runtime, [
    { type: 'layernorm', norm_size: 8 },
    { type: 'rmsnorm', norm_size: 8, epsilon: 0 },
    { type: 'conv1d', input_height: 8, filters: 1, kernel_size: 1 },
    { type: 'mha', d_model: 16 },
    { type: 'kmeans', num_clusters: 2 },
  ]);
  const { cfg } = modelOf(network.SaveModelToString('m'));
  assert.equal(cfg.batch_size, 1);
  assert.deepEqual([cfg.layers[0].epsilon, cfg.layers[1].epsilon].map(Math.fround), [1e-5, 1e-5].map(Math.fround));
  assert.deepEqual([cfg.layers[2].input_length, cfg.layers[2].input_channels, cfg.layers[2].stride], [8, 1, 1]);
  assert.deepEqual([cfg.layers[3].num_heads, cfg.layers[3].seq_length], [8, 1]);
  assert.deepEqual([cfg.layers[4].kmeans_output_mode, cfg.layers[4].branches.length, cfg.layers[4].branches[0].input_height], ['probabilities', 1, 1]);
  network.free();
});

testOnEveryModule('F44 first weights follow Loom\'s rules and the seed', async (runtime) => {
  const layers = [{ type: 'dense', input_size: 50, output_size: 40 }, { type: 'conv1d', input_length: 40, filters: 64, kernel_size: 8 }, { type: 'mha', d_model: 16, num_heads: 2 }];
  const network = build(runtime, layers);
  const { inner: { layers: [dense, conv, mha] } } = modelOf(network.SaveModelToString('m'));
  const largest = (values) => values.reduce((most, v) => Math.max(most, Math.abs(v)), 0);
  assert.ok(largest(dense.kernel) <= 1 / 50 && largest(dense.kernel) > 0.9 / 50);
  assert.ok(dense.biases.every((v) => v >= 0 && v <= 0.01) && largest(dense.biases) > 0.008);
  const deviation = Math.sqrt(conv.kernel.reduce((sum, v) => sum + v * v, 0) / conv.kernel.length);
  assert.ok(Math.abs(deviation - Math.sqrt(2 / 8)) < 0.05, `${deviation}`);
  assert.ok((conv.conv_bias ?? []).every((v) => v === 0));
  assert.ok(largest(mha.q_weights) <= 0.1 && largest(mha.output_weight) > 0.09 && mha.q_bias.every((v) => v === 0));
  const same = build(runtime, layers);
  assert.equal(same.SaveModelToString('m'), network.SaveModelToString('m'));
  network.free();
  same.free();
});

testOnEveryModule('F44 what cannot be built is refused with its JSON path', (runtime) => {
  const refuses = (layers, grid, pattern, code = 'bad_file') => assert.throws(() => build(runtime, layers, grid), heddleError(code, pattern));
  const dense = { type: 'dense', input_size: 2, output_size: 2 };
  refuses([dense, { type: 'dens' }], undefined, /network\.layers\[1\]\.type: unknown layer type 'dens'/, 'unsupported');
  refuses([dense, { type: 'parallel', branches: [dense, { type: 'nothing' }] }], undefined, /network\.layers\[1\]\.branches\[1\]\.type: unknown layer type 'nothing'/, 'unsupported');
  refuses([{ type: 'parallel', combine_mode: 'filter', branches: [dense], filter_gate: { type: 'x' } }], undefined, /layers\[0\]\.filter_gate\.type/, 'unsupported');
  refuses([dense], [1, 1, 2], /network\.layers: the grid has 2 places, found 1 layers/);
  refuses([dense, dense], [1, 1, 1], /network\.layers: the grid has 1 places, found 2 layers/);
  refuses([{ type: 'dense', input_size: 2 }], undefined, /network\.layers\[0\]\.output_height/);
  refuses([{ type: 'dense', input_size: 2.5, output_size: 2 }], undefined, /network\.layers\[0\]/);
  refuses([{ type: 'conv2d', input_channels: 1, filters: 1, kernel_size: 9, input_height: 4, input_width: 4 }], undefined, /layers\[0\]\.kernel_size: expected at most the padded input of 4 × 4, found 9/);
});

testOnEveryModule('F44 a size that is missing is named, and the key that was meant to be it', (runtime) => {
  const refuses = (layer, message, dialect = 'loom') =>
    assert.throws(() => runtime.BuildNetworkFromJSON({ dialect, layers: [{ type: 'softmax' }, layer] }), (e) => e.message === message || assert.fail(e.message));
  const at = 'network.layers[1]';
  refuses({ type: 'dense', input_sise: 2, output_size: 2 }, `${at}.input_height: expected a size of at least 1, found 'input_sise'; did you mean 'input_size'?`);
  refuses({ type: 'dense', input_size: 2, ouptut_height: 2 }, `${at}.output_height: expected a size of at least 1, found 'ouptut_height'; did you mean 'output_height'?`);
  refuses({ type: 'dense', input_size: 2 }, `${at}.output_height: expected a size of at least 1, found none`);
  refuses({ type: 'swiglu', input_size: 2, output_sizes: 4 }, `${at}.output_height: expected a size of at least 1, found 'output_sizes'; did you mean 'output_size'?`);
  refuses({ type: 'dense', in_feature: 2, out_features: 2 }, `${at}.in_features: expected a size of at least 1, found 'in_feature'; did you mean 'in_features'?`, 'standard');
  refuses({ type: 'layer_norm', normalised_shape: 2 }, `${at}.norm_size: expected a size of at least 1, found 'normalised_shape'; did you mean 'normalized_shape'?`, 'standard');
  refuses({ type: 'conv2d', in_channels: 2, out_channels: 0, kernel_size: 3 }, `${at}.out_channels: expected a size of at least 1, found 0`, 'standard');
  refuses({ type: 'Conv2d', in_channels: 2, out_channels: 2, kernelsize: 3 }, `${at}.kernel_size: expected a size from 1 to 16777216, found 'kernelsize'; did you mean 'kernel_size'?`, 'standard');
});

testOnEveryModule('F44 E15 layers that do not fit each other are refused when the network is made, with the JSON path', async (runtime) => {
  const dense = (from, to) => ({ type: 'linear', in_features: from, out_features: to });
  const refuses = (layers, pattern, input_shape = [2, 4]) =>
    assert.throws(() => runtime.BuildNetworkFromJSON({ dialect: 'standard', input_shape, layers }), heddleError('bad_argument', pattern));
  refuses([dense(4, 3), dense(5, 2)], /^network\.layers\[1\]: layer layers\.1: expected 5 input features, found shape \[2, 3\]$/);
  refuses([dense(5, 3)], /^network\.layers\[0\]: layer layers\.0: expected 5 input features, found shape \[2, 4\]$/);
  refuses([{ type: 'residual', branches: [{ type: 'rms_norm', norm_size: 4 }, dense(3, 4)] }],
    /^network\.layers\[0\]\.branches\[1\]: layer .*: expected 3 input features, found shape \[2, 4\]$/);
  refuses([{ type: 'rms_norm', norm_size: 6 }], /^network\.layers\[0\]: .*expected rows of 6, found shape \[2, 4\]$/);
  refuses([dense(4, 6), { type: 'multi_head_attention', name: 'attn', d_model: 4, num_heads: 2 }], /^network\.layers\[1\]: layer attn\.q: expected 4 input features, found shape \[2, 6\]$/);
  await assert.rejects(runtime.buildNetwork({ input_shape: [4], layers: [dense(3, 3)] }), heddleError('bad_argument', /^network\.layers\[0\]/));
  // A bundle of it is no better.
  const bundle = runtime.BuildNetworkFromJSON({ dialect: 'standard', input_shape: [2, 4], layers: [dense(4, 3)] });
  const text = JSON.parse(bundle.SaveModelToString('m'));
  text.models[0].cfg.input_shape = [2, 5];
  assert.throws(() => runtime.LoadNetworkFromString(JSON.stringify(text), 'm'), heddleError('bad_argument', /cfg\.layers\[0\]: .*expected 4 input features, found shape \[2, 5\]/));
  bundle.free();
  // Without an input of its own a network is refused by the first session, as precisely.
  const open = runtime.BuildNetworkFromJSON({ dialect: 'standard', layers: [dense(4, 3), dense(5, 2)] });
  assert.throws(() => open.ForwardCPU([1, 2, 3, 4]), heddleError('bad_argument', /^network\.layers\[1\]: /));
  open.free();
});

testOnEveryModule('F18 GetTotalParameters and GetMemoryUsage count all weights, nested ones too', (runtime) => {
  const dense = { type: 'dense', input_size: 3, output_size: 2 };
  const network = build(runtime, [dense, { type: 'parallel', branches: [{ ...dense, input_size: 2 }, { type: 'dense', input_size: 2, output_size: 1 }] }]);
  const parameters = 3 * 2 + 2 + (2 * 2 + 2) + (2 + 1);
  assert.equal(network.GetTotalParameters(), parameters);
  assert.equal(network.GetMemoryUsage(), 4 * parameters);
  network.free();
});
