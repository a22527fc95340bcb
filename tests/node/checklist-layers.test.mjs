/**
 * The checklist's layers and loaders as its rows say them, one test a row (docs/checklist.md), against the textbook's formulas in double precision
 * or what PyTorch and Loom computed. The suites beside this one go further into each.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin, readSafetensors, writeSafetensors } from './golden.mjs';
import { golden, heddle, heddleError, readJson, testOnEveryModule } from './heddle.mjs';
import { attend, entmax15, layerNorm, linear, relu, rmsNorm, silu, softmax, sparsemax } from './reference-parts.mjs';

const wave = (n, salt = 0) => Float32Array.from({ length: n }, (_, i) => Math.sin(1 + i * 1.7 + salt * 2.3));
const rowsOf = (values, width) => Array.from({ length: values.length / width }, (_, t) => Array.from(values.slice(t * width, (t + 1) * width)));
const near = { abs: 1e-5, rel: 1e-5 };
const dense = (from, to, activation = 'linear') => ({ type: 'dense', in_features: from, out_features: to, activation });
const build = (runtime, input_shape, layers, more = {}) => runtime.BuildNetworkFromJSON({ dialect: 'standard', input_shape, layers, ...more }, { seed: 5 });

/** The network's weights by name, in the form the formulas take. */
async function weightsOf({ model }) {
  const weights = {};
  for (const { name, shape } of model.weights) weights[name] = { shape, data: await model.readWeight(name) };
  return weights;
}

/** The network's output for x against what `want` makes of rows and weights; then again after a save and a load, bit for bit. */
async function assertRuns(runtime, network, x, want, tolerance = near) {
  const got = network.ForwardCPU(x);
  assertWithin(got, want.flat(), tolerance, 'output');
  const again = runtime.LoadNetworkFromString(network.SaveModelToString('m'), 'm');
  assert.deepEqual(again.ForwardCPU(x), got, 'saved and loaded');
  again.free();
  network.free();
}

const affine = (rows, w, name) => linear(rows, w[`${name}.weight`], w[`${name}.bias`]);

// ---- Layers ----

testOnEveryModule('L1 a grid of rows × cols × layersPerCell is visited row by row, each layer under its number', async (runtime) => {
  const layers = Array.from({ length: 12 }, () => dense(1, 1));
  const network = build(runtime, [1, 1], layers, { grid_rows: 2, grid_cols: 3, layers_per_cell: 2 });
  let want = 0.7;
  for (let row = 0; row < 2; row++) {
    for (let col = 0; col < 3; col++) {
      for (let layer = 0; layer < 2; layer++) {
        const at = (row * 3 + col) * 2 + layer;
        await network.model.writeWeight(`layers.${at}.weight`, [1 + at / 8]);
        await network.model.writeWeight(`layers.${at}.bias`, [1 - at / 4]); // affine maps do not commute
        want = want * (1 + at / 8) + 1 - at / 4;
      }
    }
  }
  const { cfg } = JSON.parse(network.SaveModelToString('m')).models[0];
  assert.deepEqual([cfg.grid_rows, cfg.grid_cols, cfg.layers_per_cell, cfg.layers.length], [2, 3, 2, 12]);
  await assertRuns(runtime, network, [0.7], [[want]]);
});

testOnEveryModule('L2 dense layers with relu, 1024 to 512 to 256, within 1e-5 of double precision', async (runtime) => {
  const network = build(runtime, [2, 1024], [dense(1024, 512, 'relu'), dense(512, 256, 'relu')]);
  const w = await weightsOf(network);
  const x = wave(2048);
  const hidden = affine(rowsOf(x, 1024), w, 'layers.0').map((row) => row.map(relu));
  await assertRuns(runtime, network, x, affine(hidden, w, 'layers.1').map((row) => row.map(relu)));
});

testOnEveryModule('L3 every activation by its name in a dense layer is PyTorch\'s function', (runtime) => {
  const named = readJson(golden('torch/layers/cases.json')).cases.filter(({ name }) => name.startsWith('act_'));
  const special = { act_gelu_exact: 'gelu', act_gelu_tanh: 'gelu_tanh', act_leaky_relu_02: null, act_softplus_beta2: null }; // null: with arguments, as a layer only
  let seen = 0;
  for (const { name, tolerance } of named) {
    const activation = name in special ? special[name] : name.slice('act_'.length);
    if (activation === null) continue;
    const tensors = readSafetensors(golden(`torch/layers/${name}.safetensors`));
    const [x, y] = [tensors.get('in.x').data, tensors.get('out.y').data];
    const network = build(runtime, [x.length, 1], [{ ...dense(1, 1, activation), bias: false }]);
    network.model.writeWeight(network.model.weights[0].name, [1]);
    assertWithin(network.ForwardCPU(x), y, tolerance, activation);
    network.free();
    seen++;
  }
  assert.ok(seen >= 15, `${seen} activations`);
});

testOnEveryModule('L4 softmax sums to 1 and stands logits of 10,000', (runtime) => {
  const network = build(runtime, [1, 4], [{ type: 'softmax' }]);
  for (const x of [[1, 2, 3, 4], [1e4, 1e4 - 1, -1e4, 0], [-1e4, -1e4, -1e4, -1e4], wave(4)]) {
    const got = network.ForwardCPU(x);
    assertWithin(got, softmax(Array.from(x)), { abs: 1e-6, rel: 1e-5 }, `softmax of ${x}`);
    assert.ok(Math.abs(got.reduce((a, b) => a + b, 0) - 1) < 1e-6);
  }
  network.free();
});

testOnEveryModule('L5 attention of 8 heads over 256 is the formula; PyTorch\'s own numbers are in torch-layers', async (runtime) => {
  const network = build(runtime, [6, 256], [{ type: 'MultiheadAttention', embed_dim: 256, num_heads: 8 }]);
  for (const [i, { name, shape }] of network.model.weights.entries()) await network.model.writeWeight(name, wave(shape.reduce((a, b) => a * b, 1), i).map((v) => v / 12));
  const w = await weightsOf(network);
  const x = wave(6 * 256);
  const qkv = linear(rowsOf(x, 256), w['layers.0.in_proj_weight'], w['layers.0.in_proj_bias']);
  const [q, k, v] = [0, 1, 2].map((part) => qkv.map((row) => row.slice(256 * part, 256 * (part + 1))));
  await assertRuns(runtime, network, x, affine(attend(q, k, v, 8, 8, {}), w, 'layers.0.out_proj'));
});

/** softmax(−‖f − c‖² / 2): Loom's (shared/formats/loom.md), at its temperature of 1. */
const probabilities = (features, centres) => features.map((row) => softmax(centres.map((c) => -row.reduce((sum, v, i) => sum + (v - c[i]) ** 2, 0) / 2)));

testOnEveryModule('L6 L7 kmeans from JSON: probabilities over K, features and reconstruction, an unknown mode refused; centres saved and loaded', async (runtime) => {
  const layer = (mode) => ({ type: 'kmeans', num_clusters: 3, kmeans_output_mode: mode, attached_layer: dense(4, 5, 'tanh') });
  for (const mode of ['probabilities', 'features', 'reconstruction']) {
    const network = build(runtime, [2, 4], [layer(mode)]);
    const w = await weightsOf(network);
    const x = wave(8);
    const names = Object.keys(w);
    const features = affine(rowsOf(x, 4), w, names.find((n) => n.endsWith('.0.weight') || n.endsWith('branches.0.weight')).replace(/\.weight$/, '')).map((row) => row.map(Math.tanh));
    const centres = rowsOf(w[names.find((n) => n.endsWith('cluster_centers'))].data, 5);
    const p = probabilities(features, centres);
    for (const row of p) assert.ok(Math.abs(row.reduce((a, b) => a + b, 0) - 1) < 1e-9);
    const mixture = p.map((row) => centres[0].map((_, i) => row.reduce((sum, weight, c) => sum + weight * centres[c][i], 0)));
    await assertRuns(runtime, network, x, mode === 'probabilities' ? p : mixture);
  }
  assert.throws(() => build(runtime, [2, 4], [layer('centroids')]), heddleError('unsupported', /network\.layers\[0\]\.kmeans_output_mode: expected .*found 'centroids'/));
});

testOnEveryModule('L8 an attached layer may be any layer, three deep: K = 8 over 16 → 16 tanh builds, runs, saves and loads', async (runtime) => {
  const inner = { type: 'kmeans', num_clusters: 8, attached_layer: dense(16, 16, 'tanh') };
  const middle = { type: 'kmeans', num_clusters: 4, attached_layer: inner };
  const network = build(runtime, [2, 16], [{ type: 'kmeans', num_clusters: 2, attached_layer: middle }]);
  const w = await weightsOf(network);
  const x = wave(32);
  const name = Object.keys(w).find((n) => n.endsWith('weight')).replace(/\.weight$/, '');
  let want = affine(rowsOf(x, 16), w, name).map((row) => row.map(Math.tanh));
  for (const width of [16, 8, 4]) {
    const centres = Object.entries(w).find(([n, { shape }]) => n.endsWith('cluster_centers') && shape[1] === width)[1];
    want = probabilities(want, rowsOf(centres.data, width));
  }
  await assertRuns(runtime, network, x, want);
});

const branchNames = (w) => [...new Set(Object.keys(w).filter((n) => n.includes('branches.')).map((n) => n.replace(/\.(weight|bias)$/, '')))];

testOnEveryModule('L9 branches of a parallel may be any layer, kmeans and parallel among them', async (runtime) => {
  const network = build(runtime, [1, 4], [{
    type: 'parallel',
    branches: [dense(4, 2, 'tanh'), { type: 'kmeans', num_clusters: 3, attached_layer: dense(4, 4) }, { type: 'parallel', combine_mode: 'add', branches: [dense(4, 2), dense(4, 2)] }],
  }]);
  const w = await weightsOf(network);
  const x = wave(4);
  const at = (path) => affine([Array.from(x)], w, `layers.0.branches.${path}`)[0];
  const centres = rowsOf(Object.entries(w).find(([n]) => n.endsWith('cluster_centers'))[1].data, 4);
  const sum = at('2.branches.0').map((v, i) => v + at('2.branches.1')[i]);
  await assertRuns(runtime, network, x, [[...at('0').map(Math.tanh), ...probabilities([at('1.branches.0')], centres)[0], ...sum]]);
});

for (const [id, mode, join] of [
  ['L10', 'concat', (outs) => outs.flat()],
  ['L11', 'add', (outs) => outs[0].map((_, i) => outs.reduce((sum, o) => sum + o[i], 0))],
  ['L12', 'avg', (outs) => outs[0].map((_, i) => outs.reduce((sum, o) => sum + o[i], 0) / outs.length)],
]) {
  testOnEveryModule(`${id} combine_mode ${mode} joins the branches row by row`, async (runtime) => {
    const widths = mode === 'concat' ? [2, 3, 1] : [3, 3, 3];
    const layer = { type: 'parallel', combine_mode: mode, branches: widths.map((to) => dense(4, to, 'tanh')) };
    const network = build(runtime, [2, 4], [layer]);
    const w = await weightsOf(network);
    const x = wave(8);
    const outs = branchNames(w).map((name) => affine(rowsOf(x, 4), w, name).map((row) => row.map(Math.tanh)));
    await assertRuns(runtime, network, x, rowsOf(x, 4).map((_, t) => join(outs.map((o) => o[t]))));
    if (mode === 'concat') return;
    const uneven = () => build(runtime, [2, 4], [{ ...layer, branches: [dense(4, 3), dense(4, 2)] }]);
    assert.throws(uneven, heddleError('bad_argument', /network\.layers\[0\]/));
  });
}

/** g: the weight of each branch; short branches end in zeros. */
const gated = (outs, g) => Array.from({ length: Math.max(...outs.map((o) => o.length)) }, (_, i) => outs.reduce((sum, o, b) => sum + g[b] * (o[i] ?? 0), 0));

async function assertFilter(runtime, more, weigh) {
  const branches = [dense(4, 8, 'tanh'), { type: 'kmeans', num_clusters: 4, attached_layer: dense(4, 4) }];
  const network = build(runtime, [2, 4], [{ type: 'parallel', combine_mode: 'filter', filter_gate: dense(4, 2), branches, ...more }]);
  const w = await weightsOf(network);
  const x = wave(8);
  const rows = rowsOf(x, 4);
  const gates = affine(rows, w, Object.keys(w).find((n) => n.endsWith('filter_gate.weight')).replace(/\.weight$/, ''));
  const first = affine(rows, w, 'layers.0.branches.0').map((row) => row.map(Math.tanh));
  const centres = rowsOf(Object.entries(w).find(([n]) => n.endsWith('cluster_centers'))[1].data, 4);
  const second = probabilities(affine(rows, w, 'layers.0.branches.1.branches.0'), centres);
  await assertRuns(runtime, network, x, rows.map((_, t) => gated([first[t], second[t]], weigh(gates[t]))));
}

testOnEveryModule('L13 combine_mode filter weighs unequal branches, dense of 8 and kmeans of 4, by the softmax of the gate', (runtime) => assertFilter(runtime, {}, (g) => softmax(g)));

testOnEveryModule('L14 grid_scatter puts every branch at its cell', async (runtime) => {
  const places = [[1, 1], [0, 1], [1, 0], [0, 0]];
  const network = build(runtime, [1, 4], [{
    type: 'parallel', combine_mode: 'grid_scatter', grid_output_rows: 2, grid_output_cols: 2,
    grid_positions: places.map(([target_row, target_col], branch_index) => ({ branch_index, target_row, target_col })),
    branches: [dense(4, 3), dense(4, 3), dense(4, 3), dense(4, 3)],
  }]);
  const w = await weightsOf(network);
  const x = wave(4);
  const cells = [];
  for (const [b, [row, col]] of places.entries()) cells[row * 2 + col] = affine([Array.from(x)], w, `layers.0.branches.${b}`)[0];
  await assertRuns(runtime, network, x, [cells.flat()]);
});

testOnEveryModule('L15 filter_softmax standard, sparsemax, entmax and temperature weigh as named; others are refused', async (runtime) => {
  await assertFilter(runtime, { filter_softmax: 'standard' }, (g) => softmax(g));
  await assertFilter(runtime, { filter_softmax: 'sparsemax' }, sparsemax);
  await assertFilter(runtime, { filter_softmax: 'entmax' }, entmax15);
  await assertFilter(runtime, { filter_softmax: 'temperature', filter_temperature: 2 }, (g) => softmax(g, 2));
  await assert.rejects(assertFilter(runtime, { filter_softmax: 'hardmax' }, softmax), heddleError('unsupported', /network\.layers\[0\]\.filter_softmax/));
});

testOnEveryModule('L16 filter_temperature is 1 where it is absent, and near 0 the largest gate takes all', async (runtime) => {
  await assertFilter(runtime, { filter_temperature: 1 }, (g) => softmax(g));
  await assertFilter(runtime, {}, (g) => softmax(g, 1));
  await assertFilter(runtime, { filter_temperature: 0.25 }, (g) => softmax(g, 0.25));
  await assertFilter(runtime, { filter_temperature: 1e-6 }, (g) => g.map((v) => (v === Math.max(...g) ? 1 : 0)));
});

testOnEveryModule('L17 embedding, RMS norm and output projection', async (runtime) => {
  const network = build(runtime, [3], [
    { type: 'embedding', vocab_size: 7, embedding_dim: 4 }, { type: 'rms_norm', norm_size: 4, epsilon: 1e-5 }, { type: 'linear', in_features: 4, out_features: 7, bias: false },
  ], { input_dtype: 'I32' });
  await network.model.writeWeight('layers.1.weight', [1, 0.5, 2, -1]);
  const w = await weightsOf(network);
  const table = rowsOf(w['layers.0.weight'].data, 4);
  const rows = rmsNorm([6, 0, 3].map((id) => table[id]), w['layers.1.weight'], 1e-5);
  await assertRuns(runtime, network, [6, 0, 3], linear(rows, w['layers.2.weight']));
});

testOnEveryModule('L18 SwiGLU: Loom\'s [input][intermediate] in a bundle and Hugging Face\'s [out][in] in SafeTensors are the same non-square layer', async (runtime) => {
  const [d, h] = [3, 5];
  const shapes = { gate_proj: [h, d], up_proj: [h, d], down_proj: [d, h] };
  const tensors = Object.fromEntries(Object.entries(shapes).map(([name, shape], i) => [`mlp.${name}.weight`, { shape, data: wave(d * h, i) }]));
  const { network } = await runtime.LoadGenericFromBytes(writeSafetensors(tensors));
  const x = wave(2 * d);
  const at = (rows, name) => linear(rows, tensors[`mlp.${name}.weight`]);
  const rows = rowsOf(x, d);
  const up = at(rows, 'up_proj');
  const want = at(at(rows, 'gate_proj').map((row, t) => row.map((v, i) => silu(v) * up[t][i])), 'down_proj');
  assertWithin(network.ForwardCPU(x), want.flat(), near, 'Hugging Face');
  network.free();
  const turned = (name) => Array.from({ length: d * h }, (_, i) => { // element (row i, column j) of [in][out]
    const [out, wide] = shapes[name];
    return tensors[`mlp.${name}.weight`].data[(i % out) * wide + Math.floor(i / out)];
  });
  const zeros = (n) => new Array(n).fill(0);
  const inner = { layers: [{ gate_weights: turned('gate_proj'), up_weights: turned('up_proj'), down_weights: turned('down_proj'), gate_bias: zeros(h), up_bias: zeros(h), down_bias: zeros(d) }] };
  const loom = readJson(golden('loom/swiglu.bundle.json'));
  const [model] = loom.models;
  model.cfg.batch_size = 2;
  Object.assign(model.cfg.layers[0], { input_height: d, output_height: h });
  const kept = JSON.parse(Buffer.from(model.weights.data, 'base64').toString('utf8'));
  model.weights.data = Buffer.from(JSON.stringify({ ...kept, layers: [{ ...kept.layers[0], ...inner.layers[0] }] })).toString('base64');
  const bundle = runtime.LoadNetworkFromString(JSON.stringify(loom), model.id);
  assertWithin(bundle.ForwardCPU(x), want.flat(), near, 'Loom');
  bundle.free();
});

testOnEveryModule('L19 PyTorch\'s Linear: bias, and first weights within 1/√in', async (runtime) => {
  const network = build(runtime, [2, 16], [{ type: 'Linear', in_features: 16, out_features: 300 }]);
  const w = await weightsOf(network);
  const most = w['layers.0.weight'].data.reduce((a, v) => Math.max(a, Math.abs(v)), 0);
  assert.ok(most <= 0.25 && most > 0.24, `${most}`);
  const x = wave(32);
  await network.model.writeWeight('layers.0.bias', wave(300, 1));
  await assertRuns(runtime, network, x, linear(rowsOf(x, 16), w['layers.0.weight'], { data: wave(300, 1) }));
});

testOnEveryModule('L20 PyTorch\'s Embedding of 50,000 × 768: rows by their ids, ids out of range refused', async (runtime) => {
  const network = build(runtime, [4], [{ type: 'Embedding', num_embeddings: 50000, embedding_dim: 768 }], { input_dtype: 'I32' });
  const [{ name }] = network.model.weights;
  const table = await network.model.readWeight(name);
  assert.deepEqual(network.ForwardCPU([49999, 0, 7, 7]), Float32Array.from([49999, 0, 7, 7].flatMap((id) => Array.from(table.slice(id * 768, (id + 1) * 768)))));
  for (const id of [50000, -1, 2147483647]) assert.throws(() => network.ForwardCPU([0, id, 1, 2]), heddleError('bad_argument', new RegExp(`${id}`)));
  network.free();
});

testOnEveryModule('L21 PyTorch\'s MultiheadAttention, batch first and positions first; heads that do not divide are refused', async (runtime) => {
  for (const name of ['mha_self', 'mha_seqfirst', 'mha_nobias']) {
    const { config, tolerance } = readJson(golden('torch/layers/cases.json')).cases.find((c) => c.name === name);
    const tensors = readSafetensors(golden(`torch/layers/${name}.safetensors`));
    const x = tensors.get('in.x') ?? tensors.get('in.query');
    const network = build(runtime, x.shape, [{ ...config, kdim: undefined, vdim: undefined, weights: '' }]);
    for (const { name: weight } of network.model.weights) await network.model.writeWeight(weight, tensors.get(`param.${weight}`).data);
    assertWithin(network.ForwardCPU(x.data), (tensors.get('out.y') ?? tensors.get('out.attn')).data, tolerance, name);
    network.free();
  }
  assert.throws(() => build(runtime, [2, 8], [{ type: 'MultiheadAttention', embed_dim: 8, num_heads: 3 }]), heddleError('bad_file', /network\.layers\[0\]\.num_heads: expected a divisor of 8, found 3/));
});

testOnEveryModule('L22 with the causal mask positions behind have weight 0: changing them changes nothing before', async (runtime) => {
  const network = build(runtime, [5, 8], [{ type: 'MultiheadAttention', name: 'attn', embed_dim: 8, num_heads: 2, is_causal: true }]);
  const session = await network.model.createSession({ mode: 'trace' });
  const x = wave(40);
  const first = Float32Array.from(await session.forward(x));
  const { data, shape } = await session.value('attn.attention.attn_probs');
  assert.deepEqual(shape, [1, 2, 5, 5]);
  for (const [i, p] of data.entries()) {
    if (i % 5 > Math.floor(i / 5) % 5) assert.equal(p, 0, `probability ${i}`);
  }
  const other = await session.forward(x.map((v, i) => (i >= 24 ? v + 1 : v)));
  assert.deepEqual(other.slice(0, 24), first.slice(0, 24));
  assert.notDeepEqual(other.slice(24), first.slice(24));
  await session.free();
  network.free();
});

testOnEveryModule('L23 PyTorch\'s LayerNorm takes a size or a list, epsilon 1e-5', async (runtime) => {
  const x = wave(12);
  for (const [normalized_shape, width] of [[6, 6], [[6], 6], [[2, 6], 12]]) {
    const network = build(runtime, [1, 2, 6], [{ type: 'LayerNorm', normalized_shape }]);
    await network.model.writeWeight('layers.0.weight', wave(width, 2));
    await network.model.writeWeight('layers.0.bias', wave(width, 3));
    await assertRuns(runtime, network, x, layerNorm(rowsOf(x, width), { data: wave(width, 2) }, { data: wave(width, 3) }, 1e-5));
  }
});

testOnEveryModule('L26 L27 a whole model of linear layers and activations, and its number of parameters', async (runtime) => {
  const network = build(runtime, [3, 10], [dense(10, 20, 'relu'), { type: 'LayerNorm', normalized_shape: 20 }, dense(20, 20, 'tanh'), dense(20, 4), { type: 'softmax' }]);
  const w = await weightsOf(network);
  const x = wave(30);
  const first = layerNorm(affine(rowsOf(x, 10), w, 'layers.0').map((row) => row.map(relu)), w['layers.1.weight'], w['layers.1.bias'], 1e-5);
  const second = affine(first, w, 'layers.2').map((row) => row.map(Math.tanh));
  assert.equal(network.GetTotalParameters(), 10 * 20 + 20 + 20 + 20 + 20 * 20 + 20 + 20 * 4 + 4);
  await assertRuns(runtime, network, x, affine(second, w, 'layers.3').map((row) => softmax(row)));
});

// ---- Loaders ----

const tiny = 'tf_llama_tiny';
const tinyConfig = { ...readJson(golden(`loom/${tiny}.config.json`)) };
const tinyFile = readFileSync(golden(`loom/${tiny}.safetensors`));
const tinyIo = readJson(golden(`loom/${tiny}.io.json`));

testOnEveryModule('T4 what a file is is told from its bytes', async (runtime) => {
  assert.ok((await runtime.inspect(tinyFile)).tensors.length > 10, 'SafeTensors');
  const bundle = readFileSync(golden('loom/dense_relu.bundle.json'), 'utf8');
  const model = await runtime.loadModel(bundle);
  assert.equal((await model.describe()).storedDtype, 'float32');
  await model.free();
  await assert.rejects(runtime.inspect(new TextEncoder().encode('neither of them, but long enough to be looked at')), heddleError('bad_file'));
});

testOnEveryModule('T14 weights are found with and without model., and behind transformer.', async (runtime) => {
  const tensors = Object.fromEntries(readSafetensors(golden(`loom/${tiny}.safetensors`)));
  const variants = {
    'as they are': (name) => name,
    'without model.': (name) => name.replace(/^model\./, ''),
    'behind transformer.': (name) => `transformer.${name.replace(/^model\./, '')}`,
    'behind transformer.model.': (name) => `transformer.${name}`,
    'model. before the head, too': (name) => (name.startsWith('model.') ? name : `model.${name}`),
  };
  for (const [what, rename] of Object.entries(variants)) {
    const file = writeSafetensors(Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [rename(name), tensor])));
    const network = await runtime.LoadTransformerFromBytes({ tie_word_embeddings: !('lm_head.weight' in tensors), ...tinyConfig }, file);
    assertWithin(network.ForwardCPU(tinyIo.input_ids).slice(-tinyIo.logits_last.length), tinyIo.logits_last, { abs: 1e-5, rel: 1e-5 }, what);
    network.free();
  }
  const twice = writeSafetensors({ ...tensors, 'norm.weight': tensors['model.norm.weight'] });
  await assert.rejects(runtime.LoadTransformerFromBytes({ tie_word_embeddings: true, ...tinyConfig }, twice), heddleError('bad_file', /norm\.weight/));
});

testOnEveryModule('T15 the same network, layer by layer in the public JSON, has the family loader\'s logits', async (runtime) => {
  const loaded = await runtime.LoadTransformerFromBytes(tinyConfig, tinyFile);
  const want = loaded.ForwardCPU(tinyIo.input_ids);
  const c = { rms_norm_eps: 1e-6, rope_theta: 10000, ...tinyConfig };
  const tensors = readSafetensors(golden(`loom/${tiny}.safetensors`));
  const has = (name) => tensors.has(name);
  const [vocab, width] = tensors.get('model.embed_tokens.weight').shape;
  const norm = (weights) => ({ type: 'rms_norm', weights, norm_size: width, epsilon: c.rms_norm_eps });
  const layers = [{ type: 'embedding', weights: 'model.embed_tokens.', vocab_size: vocab, embedding_dim: width }];
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const at = `model.layers.${i}.`;
    const [heads, head_dim] = [c.num_attention_heads, tensors.get(`${at}self_attn.q_proj.weight`).shape[0] / c.num_attention_heads];
    layers.push({ type: 'residual', branches: [norm(`${at}input_layernorm.`), {
      type: 'multi_head_attention', weights: `${at}self_attn.`, d_model: width, num_heads: heads, head_dim, rope_freq_base: c.rope_theta,
      num_kv_heads: tensors.get(`${at}self_attn.k_proj.weight`).shape[0] / head_dim,
      qkv_bias: has(`${at}self_attn.q_proj.bias`), out_bias: has(`${at}self_attn.o_proj.bias`),
    }] });
    layers.push({ type: 'residual', branches: [norm(`${at}post_attention_layernorm.`), {
      type: 'swiglu', weights: `${at}mlp.`, input_height: width, output_height: tensors.get(`${at}mlp.up_proj.weight`).shape[0], bias: false,
    }] });
  }
  layers.push(norm('model.norm.'), { type: 'linear', weights: has('lm_head.weight') ? 'lm_head.' : 'model.embed_tokens.', in_features: width, out_features: vocab, bias: false });
  const byHand = await runtime.loadModel(tinyFile, { config: { input_dtype: 'I32', input_shape: [8], layers } });
  assert.deepEqual(await byHand.forward(tinyIo.input_ids), want);
  await byHand.free();
  loaded.free();
});

// ---- Running, refusing, measuring ----

testOnEveryModule('G1 ForwardCPU takes numbers and gives a Float32Array of its own; forward the same, asynchronously', async (runtime) => {
  const network = build(runtime, [2, 3], [dense(3, 2, 'tanh')]);
  const w = await weightsOf(network);
  const x = wave(6);
  const got = network.ForwardCPU(x);
  assertWithin(got, affine(rowsOf(x, 3), w, 'layers.0').flat().map(Math.tanh), near, 'output');
  assert.deepEqual(network.ForwardCPU(Array.from(x)), got);
  assert.deepEqual(network.ForwardCPU(Float64Array.from(x)), got);
  assert.deepEqual(await network.model.forward(x), got);
  const kept = Float32Array.from(got);
  network.ForwardCPU(new Float32Array(6));
  assert.deepEqual(got, kept, 'the next call leaves an output alone');
  network.free();
});

testOnEveryModule('E11 every way to load rejects what is broken with an error, and the runtime goes on', async (runtime) => {
  const junk = new TextEncoder().encode('{"models":[{"id":');
  for (const load of [
    () => runtime.LoadNetworkFromString('{', 'x'), () => runtime.LoadModelFromString('[]', 'x'), () => runtime.LoadModelWithDType('', 'x'),
    () => runtime.BuildNetworkFromJSON('{"layers":[{}]}'),
  ]) assert.throws(load, (error) => error instanceof heddle.HeddleError && error.code === 'bad_file');
  for (const load of [
    () => runtime.LoadModel(new Blob([junk]), 'x'), () => runtime.LoadGenericFromBytes(junk), () => runtime.LoadTransformerFromBytes({}, junk),
    () => runtime.loadModel(tinyFile.subarray(0, 99), { config: tinyConfig }), () => runtime.loadModel(tinyFile.subarray(0, -8), { config: tinyConfig }), () => runtime.inspect(junk),
  ]) await assert.rejects(load, (error) => error instanceof heddle.HeddleError && ['bad_file', 'bad_argument', 'unsupported'].includes(error.code));
  const network = build(runtime, [1, 2], [dense(2, 1)]);
  assert.equal(network.ForwardCPU([1, 2]).length, 1);
  network.free();
});

testOnEveryModule('E14 a version in the id stays: classifier_v2.1.0', (runtime) => {
  const network = build(runtime, [1, 2], [dense(2, 1)]);
  const text = network.SaveModelToString('classifier_v2.1.0');
  assert.equal(JSON.parse(text).models[0].id, 'classifier_v2.1.0');
  runtime.LoadNetworkFromString(text, 'classifier_v2.1.0').free();
  assert.throws(() => runtime.LoadNetworkFromString(text, 'classifier_v2.0.0'), heddleError('bad_argument', /classifier_v2\.(1|0)\.0/));
  network.free();
});

testOnEveryModule('E15 weights of another architecture are refused by the layer and both shapes', async (runtime) => {
  const model = await runtime.buildNetwork({ layers: [dense(6, 4), dense(4, 2)] });
  const other = await runtime.buildNetwork({ layers: [dense(6, 4), dense(4, 3)] });
  await assert.rejects(model.loadWeights(await other.saveWeights()), heddleError('bad_file', /layers\.1\.weight: the network wants shape \[2, 4\], the file has \[3, 4\]/));
  await model.free();
  await other.free();
});

testOnEveryModule('P6 Base64 is 4/3 of what it holds', (runtime) => {
  const network = build(runtime, [1, 100], [dense(100, 100)]);
  for (const text of [network.SaveModelToString('m'), network.SaveModelWithDType('m', 'int8')]) {
    const { data } = JSON.parse(text).models[0].weights;
    const ratio = data.length / Buffer.from(data, 'base64').length;
    assert.ok(Math.abs(ratio - 4 / 3) < 0.01, `${ratio}`);
  }
  network.free();
});
