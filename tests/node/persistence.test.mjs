/**
 * What a saved network promises (the checklist's F1 to F11): everything of the architecture, every bit of the weights, several models, plain text, and no
 * half of a model.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { golden, heddle, heddleError, optionsFor, readJson, testOnEveryModule } from './heddle.mjs';

const modelOf = (text) => {
  const [model] = JSON.parse(text).models;
  return { ...model, inner: JSON.parse(Buffer.from(model.weights.data, 'base64').toString('utf8')) };
};

/** A bundle of form 2 around one cfg and its layers' weights. */
function coded(cfg, layers) {
  const data = Buffer.from(JSON.stringify({ dtype: 'float32', scale: 1, layers })).toString('base64');
  return JSON.stringify({ type: 'modelhost/bundle', version: 2, models: [{ id: 'm', cfg, weights: { fmt: 'multiPrecisionB64', data } }] });
}

/** 2 × 3 cells of two layers each, of eleven types, all of them over 4 numbers. */
const mixed = {
  id: 'mixed', batch_size: 1, grid_rows: 2, grid_cols: 3, layers_per_cell: 2,
  layers: [
    { type: 'dense', input_height: 4, output_height: 8, activation: 'relu' },
    { type: 'rms_norm', norm_size: 4, epsilon: 0.00001 },
    { type: 'multi_head_attention', d_model: 4, num_heads: 2, seq_length: 2 },
    { type: 'layer_norm', norm_size: 8, epsilon: 0.001 },
    { type: 'swiglu', input_height: 4, output_height: 6 },
    { type: 'rnn', input_size: 4, hidden_size: 3, seq_length: 2 },
    { type: 'lstm', input_size: 3, hidden_size: 4, seq_length: 2 },
    { type: 'conv1d', input_channels: 2, filters: 2, kernel_size: 3, stride: 1, padding: 1, input_length: 4, activation: 'tanh' },
    { type: 'conv2d', input_channels: 2, filters: 1, kernel_size: 3, stride: 1, padding: 1, input_height: 2, input_width: 2, output_height: 2, output_width: 2, activation: 'softplus' },
    { type: 'parallel', combine_mode: 'concat', branches: [{ type: 'dense', input_height: 4, output_height: 3, activation: 'sigmoid' }, { type: 'softmax', softmax_variant: 'standard', temperature: 0.5 }] },
    { type: 'sequential', branches: [{ type: 'dense', input_height: 7, output_height: 4, activation: 'leaky_relu' }] },
    { type: 'softmax', softmax_variant: 'grid', softmax_rows: 2, softmax_cols: 2, temperature: 2 },
  ],
};

/** Whether all of `part` is in `whole`: what was declared, whatever was filled in besides. */
function assertHolds(whole, part, path) {
  if (typeof part !== 'object') return assert.equal(whole, part, path);
  for (const [key, value] of Object.entries(part)) assertHolds(whole?.[key], value, `${path}.${key}`);
  if (Array.isArray(part)) assert.equal(whole.length, part.length, `${path}: entries`);
}

const random = (seed, n) => {
  let state = seed;
  return Float32Array.from({ length: n }, () => ((state = (state * 48271) % 2147483647) / 2147483647) * 2 - 1);
};

testOnEveryModule('F1 F2 F3: a mixed 2 × 3 grid comes back in a fresh instance with every field and every bit', async (runtime, module) => {
  const network = runtime.BuildNetworkFromJSON(mixed, { seed: 5 });
  const text = network.SaveModelToString('mixed');
  const { id, cfg } = modelOf(text);
  assert.equal(id, 'mixed');
  assertHolds(cfg, mixed, 'cfg');
  const fresh = await heddle.init(optionsFor(module));
  const again = fresh.LoadNetworkFromString(text, 'mixed');
  assert.deepEqual(modelOf(again.SaveModelToString('mixed')), modelOf(text));
  for (const seed of [1, 2, 3]) assert.deepEqual(again.ForwardCPU(random(seed, 4)), network.ForwardCPU(random(seed, 4)), `input ${seed}`);
  network.free();
  await fresh.free();
});

testOnEveryModule('F4 F8: a bundle has Loom\'s keys and no others, and one model in a list', (runtime) => {
  const network = runtime.BuildNetworkFromJSON(mixed, { seed: 5 });
  for (const [text, version, fmt] of [[network.SaveModelToString('m'), 1, 'jsonModelB64'], [network.SaveModelWithDType('m', 'float16'), 2, 'multiPrecisionB64']]) {
    const bundle = JSON.parse(text);
    assert.deepEqual(Object.keys(bundle), ['type', 'version', 'models']);
    assert.deepEqual([bundle.type, bundle.version, bundle.models.length], ['modelhost/bundle', version, 1]);
    const [model] = bundle.models;
    assert.deepEqual(Object.keys(model), ['id', 'cfg', 'weights']);
    assert.deepEqual(Object.keys(model.cfg), ['id', 'batch_size', 'grid_rows', 'grid_cols', 'layers_per_cell', 'layers']);
    assert.deepEqual([Object.keys(model.weights), model.weights.fmt], [['fmt', 'data'], fmt]);
    assert.match(model.weights.data, /^[A-Za-z0-9+/]+={0,2}$/);
  }
  network.free();
});

const oneWeight = { dialect: 'standard', layers: [{ type: 'linear', in_features: 1, out_features: 8, bias: false }] };

testOnEveryModule('F5: float32 bytes are little-endian in Base64, and NaN, −0, subnormals and infinities come back', async (runtime) => {
  const network = runtime.BuildNetworkFromJSON(oneWeight);
  const values = Float32Array.of(Math.PI, NaN, -0, 1e-45, -1e-40, Infinity, -Infinity, 3.4028234663852886e38);
  await network.model.writeWeight('layers.0.weight', values);
  const text = network.SaveModelWithDType('m', 'float32');
  const { weight } = modelOf(text).inner.layers[0];
  assert.equal(Buffer.from(weight, 'base64').subarray(0, 4).toString('base64'), '2w9JQA==', 'pi');
  assert.equal(weight.length, 4 * Math.ceil((8 * 4) / 3), 'four characters for three bytes, padded');
  const again = runtime.LoadModelFromString(text, 'm');
  const back = await again.model.readWeight('layers.0.weight');
  assert.deepEqual(back.map((v, i) => Number(Object.is(v, values[i]))), new Float32Array(8).fill(1), `${back}`);
  assert.throws(() => network.SaveModelToString('m'), heddleError('unsupported', /weight layers\.0\.weight: value 1 is not finite/));
  for (const each of [network, again]) each.free();
});

testOnEveryModule('F6: every byte from 00 to FF survives, in Base64 that JSON leaves alone', (runtime) => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i)).toString('base64');
  const cfg = { dialect: 'standard', layers: [{ type: 'linear', in_features: 8, out_features: 8, bias: false }] };
  const network = runtime.LoadModelFromString(coded(cfg, [{ weight: bytes }]), 'm');
  const text = JSON.stringify(JSON.parse(network.SaveModelWithDType('m', 'float32')));
  assert.equal(modelOf(text).inner.layers[0].weight, bytes);
  assert.match(bytes, /^[A-Za-z0-9+/]+=*$/);
  const broken = (from, to) => text.replace(/("data":")([^"]*)/, (_, key, data) => key + data.replace(from, to));
  assert.throws(() => runtime.LoadModelFromString(broken(/^./, '*'), 'm'), heddleError('bad_file', /weights\.data: Base64: character 0: expected A-Z, a-z, 0-9, \+ or \/, found '\*'/));
  assert.throws(() => runtime.LoadModelFromString(broken(/.$/, ''), 'm'), heddleError('bad_file', /weights\.data: Base64: expected a multiple of 4 characters/));
  network.free();
});

testOnEveryModule('F7: several models in one bundle, each by its id; the first of two with one id counts; an unknown id names those there', (runtime) => {
  const text = readFileSync(golden('loom/bundle_three_models.bundle.json'), 'utf8');
  const { models } = readJson(golden('loom/bundle_three_models.io.json'));
  assert.equal(models.length, 3);
  for (const { model_id: id, input, output } of models) {
    const network = runtime.LoadModelFromString(text, id);
    const got = network.ForwardCPU(input);
    assert.ok(output.every((want, i) => Math.abs(got[i] - want) <= 1e-5 + 1e-5 * Math.abs(want)), id);
    network.free();
  }
  const ids = models.map(({ model_id: id }) => id);
  assert.throws(() => runtime.LoadModelFromString(text, 'nobody'), heddleError('bad_argument', new RegExp(`expected a model "nobody", found 3 models: ${ids.map((id) => `"${id}"`).join(', ')}`)));
  const twice = JSON.parse(text);
  twice.models[1].id = ids[0];
  const [first] = models;
  const network = runtime.LoadModelFromString(JSON.stringify(twice), ids[0]);
  assert.equal(network.ForwardCPU(first.input).length, first.output.length);
  assert.deepEqual(modelOf(network.SaveModelToString('m')).inner, modelOf(text).inner);
  network.free();
});

testOnEveryModule('F11: weights that do not fit their configuration are refused by the layer, and leave nothing behind', async (_, module) => {
  const runtime = await heddle.init({ ...optionsFor(module), shared: true });
  const keeper = await runtime.buildNetwork({ layers: [{ type: 'tanh' }] });
  const { live: before } = await keeper.memory();
  const linear = { dialect: 'standard', layers: [{ type: 'tanh' }, { type: 'linear', in_features: 2, out_features: 2 }] };
  const four = Buffer.alloc(16).toString('base64');
  const two = Buffer.alloc(8).toString('base64');
  const load = (cfg, layers) => runtime.LoadModelFromString(coded(cfg, layers), 'm');
  load(linear, [{}, { weight: four, bias: two }]).free();
  assert.throws(() => load(linear, [{}, { weight: two, bias: two }]), heddleError('bad_file', /weights\.layers\.1\.weight: expected 4 numbers for shape \[2, 2\], found 2/));
  assert.throws(() => load(linear, [{}, { weight: four, bias: four }]), heddleError('bad_file', /weights\.layers\.1\.bias: expected 2 numbers for shape \[2\], found 4/));
  assert.throws(() => load(linear, [{}]), heddleError('bad_file', /weights\.layers\.1\.(weight|bias): expected \d numbers .*, found 0/));
  const rnn = { batch_size: 1, layers: [{ type: 'rnn', input_size: 2, hidden_size: 2, seq_length: 1 }] };
  assert.throws(() => load(rnn, [{ weight_ih: four, weight_hh: two, bias_h: two }]), heddleError('bad_file', /weights\.layers\.0\.weight_hh: expected 4 numbers/));
  assert.throws(() => load({ ...linear, layers: [{ type: 'linear', in_features: 2 }] }, [{}]), heddleError('bad_file', /cfg\.layers\[0\]\.out_features/));
  assert.equal((await keeper.memory()).live, before, 'bytes live');
  await runtime.free();
});
