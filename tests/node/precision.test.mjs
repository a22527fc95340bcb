/**
 * The second form of Loom's bundles: what we write from given weights is what Loom wrote, code for code, and what Loom wrote is read as Loom
 * reads it (tests/golden/loom, kinds encode and multi_precision).
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** The one model of a bundle, its weights' JSON parsed. */
function modelOf(text) {
  const [model] = JSON.parse(text).models;
  return { ...model, inner: JSON.parse(Buffer.from(model.weights.data, 'base64').toString('utf8')) };
}

/** A bundle's text around a cfg and the weights' JSON text. */
function bundleOf(cfg, fmt, inner) {
  return JSON.stringify({ type: 'modelhost/bundle', version: 1, models: [{ id: 'm', cfg, weights: { fmt, data: Buffer.from(inner).toString('base64') } }] });
}

const isConv = (layer) => layer.type.startsWith('conv');
const isDenseOrConv = (layer) => layer.type === 'dense' || isConv(layer);

/** A golden's weights of a layer under the names of the form: the goldens say `bias` and `branches`. */
function fieldsOf(weights, layer, form, convert) {
  const fields = {};
  for (const [key, value] of Object.entries(weights)) {
    if (key === 'branches') fields.branch_weights = value.map((branch, i) => fieldsOf(branch, layer.branches[i], form, convert));
    else if (key === 'bias' && isDenseOrConv(layer)) fields[form === 1 && isConv(layer) ? 'conv_bias' : 'biases'] = convert(value);
    else fields[key] = convert(value);
  }
  return fields;
}

/** JSON text of plain values, with −0 as it is. */
function jsonText(value) {
  if (Array.isArray(value)) return `[${value.map(jsonText).join(',')}]`;
  if (typeof value === 'object') return `{${Object.entries(value).map(([key, each]) => `${JSON.stringify(key)}:${jsonText(each)}`).join(',')}}`;
  return Object.is(value, -0) ? '-0' : JSON.stringify(value);
}

/**
 * The goldens of every layer type are not networks to run, and two layers cannot even be declared: a conv1d of form 2, which says nothing of its
 * sizes (it gets those of its form-1 twin), and attention whose heads have 3 numbers, too odd for rotary positions.
 */
const conv1d = { type: 'conv1d', activation: 'tanh', input_channels: 3, filters: 2, kernel_size: 3, stride: 1, padding: 1, input_length: 6 };
const declared = (layer) => (layer.type === 'conv1d' && !layer.kernel_size ? conv1d : layer.d_model / layer.num_heads === 3 ? { ...layer, num_heads: 1 } : layer);

const floatsOf = (bits) => new Float32Array(Uint8Array.from(Buffer.from(bits, 'base64')).buffer);

/** A network of the case's layers with the case's original weights, exactly. */
function networkWith(runtime, io, cfg, form) {
  const convert = form === 1 ? (bits) => Array.from(floatsOf(bits)) : (bits) => bits;
  const layers = io.original_bits.map((weights, i) => fieldsOf(weights ?? {}, cfg.layers[i], form, convert));
  const text = form === 1 ? bundleOf(cfg, 'jsonModelB64', jsonText({ layers })) : bundleOf(cfg, 'multiPrecisionB64', JSON.stringify({ dtype: 'float32', scale: 1, layers }));
  return runtime.LoadNetworkFromString(text, 'm');
}

/** Every float32 a network holds, layer by layer in the shape of the goldens' `decoded_weights`. */
function weightsOf(network, layers) {
  const { inner } = modelOf(network.SaveModelWithDType('m', 'float32'));
  const read = (fields, layer) => {
    const weights = {};
    for (const [key, value] of Object.entries(fields)) {
      if (key === 'branch_weights') weights.branches = value.map((branch, i) => read(branch, layer.branches[i]));
      else if (key !== 'dtype') weights[key === 'biases' ? 'bias' : key] = floatsOf(value);
    }
    return weights;
  };
  return inner.layers.map((fields, i) => read(fields, layers[i]));
}

/** Fails unless the weights are the golden's bits; a 4-bit tensor of odd length has one element more there. */
function assertWeights(got, want, what) {
  for (const [key, value] of Object.entries(want ?? {})) {
    if (key === 'branches') value.forEach((branch, i) => assertWeights(got.branches[i], branch, `${what}.branches[${i}]`));
    else {
      const floats = typeof value === 'string' ? floatsOf(value) : Float32Array.from(value);
      assert.ok(floats.length - got[key].length === 0 || floats.length - got[key].length === 1, `${what}.${key}: ${got[key].length} values, Loom has ${floats.length}`);
      assert.deepEqual(got[key], floats.subarray(0, got[key].length), `${what}.${key}`);
    }
  }
}

function assertLayers(got, want, what) {
  assert.equal(got.length, want.length);
  want.forEach((weights, i) => assertWeights(got[i], weights, `${what}: layer ${i}`));
}

const cases = readJson(golden('loom/cases.json'));

for (const entry of cases.filter(({ kind, files }) => kind === 'encode' && files[0].endsWith('.bundle.json'))) {
  const text = readFileSync(golden(`loom/${entry.files[0]}`), 'utf8');
  const io = readJson(golden(`loom/${entry.files[1]}`));
  const { cfg: given, weights, inner } = modelOf(text);
  const cfg = { ...given, layers: given.layers.map(declared) };
  const isDeclared = cfg.layers.every((layer, i) => layer === given.layers[i]);
  const form = weights.fmt === 'multiPrecisionB64' ? 2 : 1;

  if (!entry.name.endsWith('_over')) {
    testOnEveryModule(`F12 F13 ${entry.name}: Loom's weights are written as Loom wrote them`, (runtime) => {
      const network = networkWith(runtime, io, cfg, form);
      const saved = modelOf(form === 1 ? network.SaveModelToString('m') : network.SaveModelWithDType('m', inner.dtype));
      assert.equal(saved.weights.fmt, weights.fmt);
      assert.deepEqual(saved.inner, inner);
      network.free();
    });
  }

  testOnEveryModule(`F12 F13 ${entry.name}: what Loom wrote is read as Loom reads it`, (runtime) => {
    const loaded = runtime.LoadModelWithDType(isDeclared ? text : bundleOf(cfg, weights.fmt, JSON.stringify(inner)), isDeclared ? io.model_id : 'm', 'float32');
    const { network, storedDtype } = loaded;
    assert.equal(storedDtype, form === 2 ? inner.dtype : 'float32');
    if (form === 2) assertLayers(weightsOf(network, cfg.layers), io.decoded_bits, entry.name);
    if (io.output) assertWithin(network.ForwardCPU(io.input), io.output, entry.tolerance, 'output');
    network.free();
  });
}

for (const entry of cases.filter(({ kind }) => kind === 'multi_precision')) {
  const text = readFileSync(golden(`loom/${entry.files[0]}`), 'utf8');
  const io = readJson(golden(`loom/${entry.files[1]}`));
  const { cfg, inner } = modelOf(text);

  testOnEveryModule(`F12 F13 ${entry.name} gives Loom's output`, (runtime) => {
    const loaded = runtime.LoadModelWithDType(text, io.model_id);
    const { network, storedDtype } = loaded;
    assert.equal(storedDtype, io.dtype ?? inner.dtype);
    for (const { input, output } of [io, ...(io.more ?? [])]) assertWithin(network.ForwardCPU(input), output, entry.tolerance, 'output');
    if (io.decoded_weights) assertLayers(weightsOf(network, cfg.layers), io.decoded_weights, entry.name);
    network.free();
  });
}

const mlp = JSON.stringify({ layers: [{ type: 'dense', in_features: 5, out_features: 7, activation: 'tanh' }, { type: 'dense', in_features: 7, out_features: 3 }], dialect: 'standard' });

testOnEveryModule('F15 P7 an encoding of b bits takes b/32 of float32, and saving again changes nothing', async (runtime) => {
  const model = await runtime.buildNetwork(mlp, { seed: 3 });
  const bytes = { float64: 8, float32: 4, int32: 4, uint64: 8, float16: 2, bfloat16: 2, int16: 2, uint16: 2, int8: 1, uint8: 1, float8: 1, float4: 0.5, int4: 0.5 };
  for (const [dtype, each] of Object.entries(bytes)) {
    const saved = await model.saveToString('m', { dtype });
    const { inner } = modelOf(saved);
    assert.equal(Buffer.from(inner.layers[0].weight, 'base64').length, Math.ceil(35 * each), dtype);
    const again = await runtime.loadModel(saved);
    const third = await runtime.loadModel(await again.saveToString('m', { dtype: 'float32' }));
    assert.equal((await again.describe()).storedDtype, dtype);
    assert.deepEqual(await third.forward([1, 2, 3, 4, 5]), await again.forward([1, 2, 3, 4, 5]), `${dtype}: the same bits through float32`);
    for (const each of [again, third]) await each.free();
  }
  const exact = await runtime.loadModel(await model.saveToString('m', { dtype: 'float64' }));
  assert.deepEqual(await exact.forward([1, 2, 3, 4, 5]), await model.forward([1, 2, 3, 4, 5]));
  await exact.free();
  await model.free();
});

testOnEveryModule('F12 a dtype Loom has none of is refused with those it has', (runtime) => {
  const network = runtime.BuildNetworkFromJSON(mlp);
  assert.throws(() => network.SaveModelWithDType('m', 'int7'), heddleError('bad_argument', /'int7'.*float32, float64.*uint64/));
  network.free();
});

testOnEveryModule('F3 a bundle\'s version, creation time and other members stay where they were', (runtime) => {
  const text = readFileSync(golden('loom/dense_relu.bundle.json'), 'utf8').trimEnd();
  const marked = text.replace('"version": 1,', '"version": 9,\n  "created_at": "2026-11-24T12:00:00Z",\n  "tags": ["a", {"b": null}],').replace('"id": "dense_relu",', '"id": "dense_relu",\n      "author": "me",');
  const network = runtime.LoadModelFromString(marked, 'dense_relu');
  assert.equal(network.SaveModelToString('dense_relu'), marked);
  const again = runtime.LoadModelFromString(network.SaveModelWithDType('dense_relu', 'float16'), 'dense_relu');
  const saved = JSON.parse(again.SaveModelToString('dense_relu'));
  assert.deepEqual([saved.version, saved.created_at, saved.tags, saved.models[0].author], [9, '2026-11-24T12:00:00Z', ['a', { b: null }], 'me']);
  network.free();
  again.free();
});
