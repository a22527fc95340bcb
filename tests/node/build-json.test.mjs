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

testOnEveryModule('F18 GetTotalParameters and GetMemoryUsage count all weights, nested ones too', (runtime) => {
  const dense = { type: 'dense', input_size: 3, output_size: 2 };
  const network = build(runtime, [dense, { type: 'parallel', branches: [{ ...dense, input_size: 2 }, { type: 'dense', input_size: 2, output_size: 1 }] }]);
  const parameters = 3 * 2 + 2 + (2 * 2 + 2) + (2 + 1);
  assert.equal(network.GetTotalParameters(), parameters);
  assert.equal(network.GetMemoryUsage(), 4 * parameters);
  network.free();
});
