/**
 * Bundles with fitted scales and zero points: the codes, scales and zero points are the goldens' (tests/golden/quant/int8_affine, made with NumPy),
 * they come back as float32, take a quarter of the room, and no reader that does not know the form takes them for something else.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertClose, readSafetensors } from './golden.mjs';
import { golden, heddle, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** A bundle's one model, and the JSON inside its weights. */
function open(bundle) {
  const [model] = JSON.parse(bundle).models;
  return { ...model, inner: JSON.parse(Buffer.from(model.weights.data, 'base64').toString('utf8')) };
}

/** The bundle with the JSON inside its weights changed. */
function withInner(bundle, change) {
  const outer = JSON.parse(bundle);
  const { inner } = open(bundle);
  outer.models[0].weights.data = Buffer.from(JSON.stringify(change(inner))).toString('base64');
  return JSON.stringify(outer);
}

const views = { int8: Int8Array, int16: Int16Array, uint8: Uint8Array, uint16: Uint16Array };

function codesOf({ dtype }, tensor) {
  return Array.from(new views[dtype](Uint8Array.from(Buffer.from(tensor.codes, 'base64')).buffer));
}

const cases = readJson(golden('quant/int8_affine.json'));
const tensors = readSafetensors(golden('quant/int8_affine.safetensors'));
const { shape: [rows, columns], data: x } = tensors.get('x');

/** The golden's x [rows, columns] as a weight whose output channels are its rows, or (Loom's [in][out]) its columns. */
function networkOf(runtime, axis) {
  const loom = { type: 'dense', input_height: rows, output_height: columns, activation: 'tanh' };
  const standard = { type: 'linear', in_features: columns, out_features: rows };
  const network = runtime.BuildNetworkFromJSON(axis === 1 ? { grid_rows: 1, grid_cols: 1, layers_per_cell: 1, layers: [loom] } : { dialect: 'standard', layers: [standard] });
  // A weight is written [out, in] whatever its file's order.
  const values = axis === 1 ? Float32Array.from({ length: x.length }, (_, i) => x[(i % rows) * columns + Math.floor(i / rows)]) : x;
  network.model.writeWeightSync('layers.0.weight', values);
  return network;
}

for (const [name, { axis, range }] of Object.entries(cases).filter(([, { range }]) => range)) {
  testOnEveryModule(`F14 F12: ${name} has the golden's codes, scales and zero points`, async (runtime) => {
    const network = networkOf(runtime, axis);
    const dtype = name.endsWith('u8') ? 'uint8' : 'int8';
    const saved = network.SaveModelWithDType('m', dtype, { per: axis === null ? 'tensor' : 'channel', zeroPoint: name.startsWith('asym') });
    const { inner, weights } = open(saved);
    const kept = inner.affine_layers[0][axis === 1 ? 'kernel' : 'weight'];
    const golden = (part) => Array.from(tensors.get(`${name}.${part}`).data);
    assert.equal(weights.fmt, 'affineB64');
    assert.equal(inner.dtype, dtype);
    assert.deepEqual(codesOf(inner, kept), golden('q'));
    assert.deepEqual(kept.scale.map(Math.fround), golden('scale'));
    assert.deepEqual(kept.zero_point ?? golden('zero_point').map(() => 0), golden('zero_point'));
    assert.equal(kept.axis, axis === 1 ? -1 : 0);
    assert.ok(range[0] <= Math.min(...golden('q')) && Math.max(...golden('q')) <= range[1]);
    const again = runtime.LoadModelFromString(saved, 'm');
    const back = await again.model.readWeight('layers.0.weight');
    const ours = axis === 1 ? Float32Array.from({ length: x.length }, (_, i) => back[(i % columns) * rows + Math.floor(i / columns)]) : back;
    assertClose(ours, tensors.get(`${name}.dequantised`).data, 1e-7, 'dequantised');
    assert.equal((await again.model.describe()).storedDtype, dtype);
    for (const each of [network, again]) each.free();
  });
}

const sample = cases.seed_sample;

function vectorNetwork(runtime) {
  const network = runtime.BuildNetworkFromJSON({ dialect: 'standard', layers: [{ type: 'linear', in_features: 3, out_features: 1, bias: false }] });
  network.model.writeWeightSync('layers.0.weight', sample.x);
  return network;
}

const threeDigits = (values) => Array.from(values, (v) => Number(v.toFixed(3)));

testOnEveryModule('F14: a given scale of 2/255 and zero point 0: the guide\'s numbers', async (runtime) => {
  const network = vectorNetwork(runtime);
  const saved = network.SaveModelWithDType('m', 'int8', { scale: sample.scale, zeroPoint: sample.zero_point });
  const { inner } = open(saved);
  assert.deepEqual(codesOf(inner, inner.affine_layers[0].weight), [67, -16, 114]);
  assert.deepEqual(inner.affine_layers[0].weight.zero_point, [0]);
  const again = runtime.LoadModelFromString(saved, 'm');
  assert.deepEqual(threeDigits(await again.model.readWeight('layers.0.weight')), [0.526, -0.126, 0.895]);
  for (const each of [network, again]) each.free();
});

testOnEveryModule('F14: a fitted scale takes all of the codes: the largest weight is 127', async (runtime) => {
  const network = vectorNetwork(runtime);
  const saved = await network.model.saveToString('m', { quantize: {} });
  const { inner } = open(saved);
  const { scale: [scale], ...kept } = inner.affine_layers[0].weight;
  assert.equal(Math.fround(scale), Math.fround(Math.fround(0.891) / 127));
  assert.deepEqual(codesOf(inner, kept), sample.x.map((v) => Math.round(v / scale)));
  assert.equal(codesOf(inner, kept)[2], 127);
  assert.equal(kept.zero_point, undefined);
  network.free();
});

const uniform = (seed) => {
  let state = seed;
  return () => ((state = (state * 48271) % 2147483647) / 2147483647);
};

function normals(n, seed) {
  const random = uniform(seed);
  return Float32Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(random())) * Math.cos(2 * Math.PI * random()));
}

function cosine(a, b) {
  const dot = (p, q) => p.reduce((sum, v, i) => sum + v * q[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

testOnEveryModule('F15 P7: 1M weights take at most 0.26 of float32 as int8, and are float32 again when loaded', async (runtime) => {
  const model = await runtime.buildNetwork({ layers: [{ type: 'linear', in_features: 1000, out_features: 1000 }] }, { seed: 1 });
  const full = await model.saveToString('m', { dtype: 'float32' });
  for (const quantize of [{}, { per: 'tensor' }, { zeroPoint: true }]) {
    const saved = await model.saveToString('m', { dtype: 'int8', quantize });
    assert.ok(saved.length / full.length <= 0.26, `${JSON.stringify(quantize)}: ${saved.length / full.length}`);
    const again = await runtime.loadModel(saved);
    assert.equal(again.weights[0].dtype, 'F32');
    const [before, after] = [await model.readWeight('layers.0.weight'), await again.readWeight('layers.0.weight')];
    const most = before.reduce((sum, v) => Math.max(sum, Math.abs(v)), 0);
    assertClose(after, before, (most / 127 / 2) * 1.01, 'half a step');
    assert.deepEqual(await again.readWeight('layers.0.bias'), await model.readWeight('layers.0.bias'), 'vectors are kept as they are');
    await again.free();
  }
  await model.free();
});

/** The metric for lossy weights: the cosine of each layer's weights, and of its outputs, to the exact ones; errors of layers in a chain add up, so n of them keep 0.99^n. */
testOnEveryModule('F17 F16 P8: each layer of normally distributed weights keeps a cosine of 0.99 and more in int8 and F4, weights and outputs', async (runtime) => {
  const spec = { layers: [{ type: 'linear', in_features: 64, out_features: 64 }, { type: 'tanh' }, { type: 'linear', in_features: 64, out_features: 64 }] };
  const model = await runtime.buildNetwork(spec);
  const matrices = model.weights.filter(({ shape }) => shape.length === 2).map(({ name }) => name);
  for (const [i, name] of matrices.entries()) await model.writeWeight(name, normals(4096, 7 + i).map((v) => v / 8));
  const int8 = await runtime.loadModel(await model.saveToString('m', { quantize: { zeroPoint: true } }));
  const f4 = await runtime.buildNetwork(spec);
  await f4.loadWeights(await model.saveWeights({ dtype: 'F4' }));
  const inputs = normals(16 * 64, 99);
  const layer = await runtime.buildNetwork({ layers: spec.layers.slice(0, 1) });
  const outputOf = async (weights) => {
    await layer.writeWeight('layers.0.weight', weights);
    return layer.forward(inputs, [16, 64]);
  };
  for (const [what, other, least] of [['int8', int8, 0.9999], ['F4', f4, 0.99]]) {
    for (const name of matrices) {
      const [exact, lossy] = [await model.readWeight(name), await other.readWeight(name)];
      assert.ok(cosine(lossy, exact) >= least, `${what} ${name}: ${cosine(lossy, exact)}`);
      const similarity = cosine(await outputOf(lossy), await outputOf(exact));
      assert.ok(similarity >= least, `${what} ${name}, outputs: ${similarity}`);
    }
    const similarity = cosine(await other.forward(inputs, [16, 64]), await model.forward(inputs, [16, 64]));
    assert.ok(similarity >= least ** 2, `${what} outputs of both: ${similarity}`);
    await other.free();
  }
  for (const each of [layer, model]) await each.free();
});

testOnEveryModule('F12: every quantised dtype keeps every Loom layer within half a step, nested ones too', async (runtime) => {
  for (const name of ['parallel_nested', 'kmeans_features', 'mix_lstm_dense', 'mha_4heads', 'mp_mixed_embedding_float16', 'mix_conv2d_dense_softmax', 'parallel_grid_scatter']) {
    const network = runtime.LoadNetworkFromString(readFileSync(golden(`loom/${name}.bundle.json`), 'utf8'), name);
    for (const [dtype, nSteps] of [['int8', 254], ['uint8', 255], ['int16', 65534], ['uint16', 65535]]) {
      const again = runtime.LoadModelFromString(network.SaveModelWithDType('m', dtype, {}), 'm');
      for (const { name: weight, shape } of network.model.weights) {
        const [before, after] = [await network.model.readWeight(weight), await again.model.readWeight(weight)];
        const [low, high] = [Math.min(0, ...before), Math.max(0, ...before)];
        const span = dtype.startsWith('u') ? high - low : 2 * Math.max(-low, high);
        assertClose(after, before, shape.length > 1 ? (span / nSteps) * 0.51 + 1e-7 : 0, `${name} ${dtype} ${weight}`);
      }
      assert.equal(again.ForwardCPU(readJson(golden(`loom/${name}.io.json`)).input).every(Number.isFinite), true);
      again.free();
    }
    network.free();
  }
});

testOnEveryModule('F15: saving what was loaded again gives the same codes, and a second load the same bits', async (runtime) => {
  const network = runtime.LoadNetworkFromString(readFileSync(golden('loom/mlp_batch4.bundle.json'), 'utf8'), 'mlp_batch4');
  const { input } = readJson(golden('loom/mlp_batch4.io.json'));
  const first = runtime.LoadModelFromString(network.SaveModelWithDType('m', 'int8', {}), 'm');
  const second = runtime.LoadModelFromString(first.SaveModelWithDType('m', 'int8', {}), 'm');
  const exact = runtime.LoadModelFromString(first.SaveModelToString('m'), 'm');
  assert.deepEqual(exact.ForwardCPU(input), first.ForwardCPU(input));
  assertClose(second.ForwardCPU(input), first.ForwardCPU(input), 1e-6, 'quantised twice');
  const codes = (from) => open(from.SaveModelWithDType('m', 'int8', {})).inner.affine_layers.map(({ kernel }) => kernel.codes);
  assert.deepEqual(codes(first), codes(network));
  for (const each of [network, first, second, exact]) each.free();
});

testOnEveryModule('F14: a reader of forms 1 and 2 refuses the form instead of misreading it', (runtime) => {
  const network = networkOf(runtime, 1);
  const saved = network.SaveModelWithDType('m', 'int8', {});
  network.free();
  // What such a reader sees: a fmt it does not know is form 1, and form 1 wants as many "layers" as cfg has.
  const asForm1 = saved.replace('affineB64', 'jsonModelB64');
  assert.throws(() => runtime.LoadModelFromString(asForm1, 'm'), heddleError('bad_file', /weights for the 1 layers of cfg, found 0 layers/));
});

test('F14 F43: the independent reader of Loom\'s bundles refuses the form', spawnSync('python3', ['--version']).status === 0 ? {} : { skip: 'there is no python3 on this machine' }, async () => {
  const runtime = await heddle.init({ threads: 1, variant: 'simd128' });
  const network = networkOf(runtime, 1);
  const input = JSON.stringify([{ bundle: network.SaveModelWithDType('m', 'int8', {}), id: 'm', inputs: [[1, 2, 3, 4]] }]);
  const { stdout } = spawnSync('python3', [golden('loom_reader.py')], { input, encoding: 'utf8' });
  assert.match(JSON.parse(stdout)[0].error, /1 layers of cfg, 0 of weights/);
  await runtime.free();
});

testOnEveryModule('F14: wrong options and broken texts are refused by what is wrong', async (runtime) => {
  const network = networkOf(runtime, 0);
  const save = (dtype, quantize) => network.SaveModelWithDType('m', dtype, quantize);
  assert.throws(() => save('float16', {}), heddleError('bad_argument', /'float16'.*int8, int16, uint8, uint16/));
  assert.throws(() => save('int8', { per: 'row' }), heddleError('bad_argument', /per 'row' is not known; known: channel, tensor/));
  assert.throws(() => save('int8', { scale: 0 }), heddleError('bad_argument', /scale: expected a finite number above 0/));
  assert.throws(() => save('int8', { zeroPoint: 3 }), heddleError('bad_argument', /only together with a scale/));
  assert.throws(() => save('int8', { zeroPoint: 300, scale: 1 }), heddleError('bad_argument', /zero point: expected int8's -128 … 127, found 300/));
  assert.throws(() => save('int8', { zeropoint: 3 }), heddleError('bad_argument', /zeropoint: no such option/));
  await network.model.writeWeight('layers.0.weight', x.map((v, i) => (i === 5 ? NaN : v)));
  assert.throws(() => save('int8', {}), heddleError('unsupported', /weight layers\.0\.weight: value 5 is not finite/));
  await network.model.writeWeight('layers.0.weight', x);
  const saved = save('int8', { zeroPoint: true });
  network.free();
  const broken = [
    [({ dtype: _, ...rest }) => rest, /expected a dtype and affine_layers/],
    [(inner) => ({ ...inner, dtype: 'int7' }), /expected int8, int16, uint8 or uint16 codes, found 'int7'/],
    [(inner) => ({ ...inner, affine_layers: [] }), /weights for the 1 layers of cfg, found 0 layers/],
    ...[
      [{ scale: [1, 2, 3, 4, 5] }, /expected int8 codes of as many channels as scales, found 24 bytes, 5 scales, 4 zero points/],
      [{ scale: [] }, /found 24 bytes, 0 scales/],
      [{ scale: [1, 1, 0, 1] }, /expected scales above 0 and zero points that are codes/],
      [{ zero_point: [1, 2, 3, 400] }, /expected scales above 0 and zero points that are codes/],
      [{ zero_point: [1] }, /4 scales, 1 zero points/],
      [{ axis: 1 }, /expected an axis of 0 or -1/],
      [{ codes: 'AA!A' }, /layers\.0\.weight: Base64: character 2/],
      [{ codes: 'AAAA', scale: [1], zero_point: [0] }, /weights\.layers\.0\.weight: expected 24 numbers for shape \[4, 6\], found 3/],
      [{ values: 'AAAA' }, /expected codes and their scale, or values of 4 bytes each/],
    ].map(([change, message]) => [(inner) => ({ ...inner, affine_layers: [{ ...inner.affine_layers[0], weight: { ...inner.affine_layers[0].weight, ...change } }] }), message]),
  ];
  for (const [change, message] of broken) assert.throws(() => runtime.LoadModelFromString(withInner(saved, change), 'm'), (error) => {
    assert.equal(error.code === 'bad_file' || error.code === 'unsupported', true, error.message);
    assert.match(error.message, message);
    return true;
  });
});

test('F18 F12: the size report: 1M weights are 8, 4, 2 and 1 MB, 7B are 28 GB of F32 and 7 GB of int8', () => {
  const million = heddle.weightSizes(1e6);
  assert.deepEqual(['F64', 'F32', 'F16', 'I32', 'I16', 'I8', 'F4'].map((dtype) => million[dtype].text), ['8 MB', '4 MB', '2 MB', '4 MB', '2 MB', '1 MB', '500 KB']);
  const large = heddle.weightSizes(7e9);
  assert.deepEqual([large.F32, large.I8], [{ bytes: 28e9, text: '28 GB' }, { bytes: 7e9, text: '7 GB' }]);
  assert.deepEqual(heddle.weightSizes(3).F4, { bytes: 2, text: '2 B' });
  assert.throws(() => heddle.weightSizes(1.5), heddleError('bad_argument', /weights: expected a whole number/));
});
