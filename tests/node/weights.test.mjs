/**
 * Networks' weights as SafeTensors: Loom's own files give Loom's outputs, what we write from given values is what Loom wrote, and a network
 * survives every dtype (tests/golden/loom, kinds safetensors_weights and encode).
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assertWithin, writeSafetensors } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** The header of a SafeTensors file and where its data begin. */
function headerOf(file) {
  const n = Number(Buffer.from(file.buffer, file.byteOffset).readBigUInt64LE(0));
  return { header: JSON.parse(Buffer.from(file.subarray(8, 8 + n)).toString('utf8')), data: file.subarray(8 + n) };
}

/** "F8_E4M3" has 8. */
const bitsOf = (dtype) => (dtype === 'BOOL' ? 8 : Number(/\d+/.exec(dtype)[0]));

/** Fails unless the file keeps the rules that the safetensors library checks when it opens one: every byte is one tensor's, and shapes say how many. */
function assertOpens(file) {
  const { header: { __metadata__: metadata = {}, ...tensors }, data } = headerOf(file);
  for (const value of Object.values(metadata)) assert.equal(typeof value, 'string');
  let end = 0;
  for (const [name, { dtype, shape, data_offsets: [from, to] }] of Object.entries(tensors).sort(([, a], [, b]) => a.data_offsets[0] - b.data_offsets[0])) {
    assert.equal(from, end, `${name}: no gap and no overlap`);
    assert.equal((to - from) * 8, shape.reduce((n, size) => n * size, 1) * bitsOf(dtype), `${name}: as many bytes as its shape says`);
    end = to;
  }
  assert.equal(end, data.length, 'nothing behind the last tensor');
}

const floatsOf = (bits) => new Float32Array(Uint8Array.from(Buffer.from(bits, 'base64')).buffer);
const cases = readJson(golden('loom/cases.json'));
const dtypes = ['F64', 'F32', 'F16', 'BF16', 'F4', 'I64', 'I32', 'I16', 'I8', 'U64', 'U32', 'U16', 'U8'];

/** Loom's UnscaleWeights: w · (1/scale), then −1 where the codes were unsigned. */
async function unscale(model, { weight_scale: scale, weight_unsigned: unsigned }) {
  if (scale === undefined) return;
  const inverse = Math.fround(1 / scale);
  for (const { name } of model.weights) {
    const values = await model.readWeight(name);
    await model.writeWeight(name, values.map((v) => Math.fround(v * inverse) - (unsigned ? 1 : 0)));
  }
}

for (const entry of cases.filter(({ kind }) => kind === 'safetensors_weights')) {
  const [config, file, io] = entry.files.map((name) => golden(`loom/${name}`));
  const wanted = readJson(io);

  testOnEveryModule(`F23 ${entry.name}: Loom's file gives Loom's output`, async (runtime) => {
    const network = runtime.BuildNetworkFromJSON(readFileSync(config, 'utf8'));
    const bytes = readFileSync(file);
    const { header } = headerOf(bytes);
    assert.equal(await network.LoadWeightsFromSafetensors(bytes), Object.keys(header).length, 'every tensor of the file is a weight of the network');
    await unscale(network.model, wanted);
    for (const { input, output } of [wanted, ...(wanted.more ?? [])]) assertWithin(network.ForwardCPU(input), output, entry.tolerance, 'output');
    network.free();
  });
}

for (const entry of cases.filter(({ kind, files }) => kind === 'encode' && files[0].endsWith('.safetensors'))) {
  const [file, io] = entry.files.map((name) => golden(`loom/${name}`));
  const { original_bits: original, tensors } = readJson(io);
  const loom = readFileSync(file);

  testOnEveryModule(`F13 F16 ${entry.name}: tensors are written as Loom wrote them`, (runtime) => {
    const input = Object.fromEntries(Object.entries(original).map(([name, bits]) => [name, { values: floatsOf(bits), ...tensors[name] }]));
    const ours = headerOf(runtime.SerializeSafetensors(input));
    const theirs = headerOf(loom);
    assert.deepEqual(ours.header, theirs.header);
    for (const [name, { data_offsets: [begin, end] }] of Object.entries(theirs.header)) {
      assert.equal(Buffer.from(ours.data.subarray(begin, end)).toString('hex'), Buffer.from(theirs.data.subarray(begin, end)).toString('hex'), name);
    }
  });
}

{
  const entry = cases.find(({ name }) => name === 'x_enc_st_network');
  const [config, file] = entry.files.map((name) => golden(`loom/${name}`));
  testOnEveryModule('F22 x_enc_st_network: a network saves Loom\'s names, declared shapes and data', async (runtime) => {
    const network = runtime.BuildNetworkFromJSON(readFileSync(config, 'utf8'));
    const theirs = headerOf(readFileSync(file));
    await network.LoadWeightsFromSafetensors(readFileSync(file));
    const ours = headerOf(network.SerializeWeights());
    assert.deepEqual(ours.header, theirs.header);
    assert.deepEqual(Buffer.from(ours.data), Buffer.from(theirs.data));
    const io = readJson(golden(`loom/${entry.files[2]}`));
    assertWithin(network.ForwardCPU(io.input), io.output, entry.tolerance, 'output');
    network.free();
  });
}

const mlp = { layers: [{ type: 'dense', in_features: 64, out_features: 48, activation: 'tanh' }, { type: 'dense', in_features: 48, out_features: 32 }] };
const input = Float32Array.from({ length: 64 }, (_, i) => Math.sin(i));

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, v, i) => sum + v * y[i], 0);
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b));
}

testOnEveryModule('F13 F16 F22 a network saved in any dtype comes back near what it was', async (runtime) => {
  const model = await runtime.buildNetwork(mlp, { seed: 5 });
  const other = await runtime.buildNetwork(mlp, { seed: 6 });
  const want = await model.forward(input);
  const least = { F64: 1, F32: 1, I64: 1, I32: 1, U64: 1, U32: 1, F16: 0.99999, I16: 0.99999, U16: 0.99999, BF16: 0.9999, I8: 0.999, U8: 0.999, F4: 0.96 };
  const small = { F8_E4M3: 0.998, F8_E5M2: 0.99, F8_E4M3FNUZ: 0.998, F8_E5M2FNUZ: 0.99, F6_E2M3: 0.995, F6_E3M2: 0.99 };
  Object.assign(least, small);
  for (const dtype of [...dtypes, ...Object.keys(small)]) {
    const file = await model.saveWeights({ dtype });
    assertOpens(file);
    assert.equal(headerOf(file).header['layers.0.weight'].dtype, dtype);
    assert.equal(await other.loadWeights(file), 4);
    const got = await other.forward(input);
    assert.ok(cosine(got, want) >= least[dtype] - 1e-6, `${dtype}: cosine ${cosine(got, want)}`);
    if (dtype.startsWith('F') && Number(dtype.slice(1)) >= 32) assert.deepEqual(got, want, dtype);
  }
  await model.free();
  await other.free();
});

testOnEveryModule('F17 P8 F4 with fitted scales keeps 99 % of normally distributed weights', async (runtime) => {
  const model = await runtime.buildNetwork({ layers: [{ type: 'linear', in_features: 64, out_features: 64 }] });
  let state = 7;
  const uniform = () => ((state = (state * 48271) % 2147483647) / 2147483647);
  const normal = Float32Array.from({ length: 64 * 64 }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
  const [{ name }] = model.weights;
  await model.writeWeight(name, normal);
  await model.loadWeights(await model.saveWeights({ dtype: 'F4' }));
  const back = await model.readWeight(name);
  assert.ok(cosine(back, normal) >= 0.99, `cosine ${cosine(back, normal)}`);
  await model.free();
});

testOnEveryModule('F12: bytes a weight, and how far each precision may be off: floats by a part of the value, integers by half a step; what is too large is infinite or clipped', async (runtime) => {
  const spec = { layers: [{ type: 'linear', in_features: 500, out_features: 1, bias: false }] };
  const [model, other] = [await runtime.buildNetwork(spec), await runtime.buildNetwork(spec)];
  const values = Float32Array.from({ length: 500 }, (_, i) => Math.sin(i) * 10 ** (i % 7 - 4));
  const most = Math.max(...values.map(Math.abs));
  await model.writeWeight('layers.0.weight', values);
  const bounds = {
    F64: [8, () => 0],
    F32: [4, () => 0],
    F16: [2, (v) => Math.max(Math.abs(v) * 2 ** -11, 2 ** -25)], // below 2^-14 half a step of the subnormals
    BF16: [2, (v) => Math.abs(v) * 2 ** -8],
    I32: [4, (v) => Math.abs(v) * 2 ** -23 + most * 2 ** -30], // through float32
    I16: [2, () => most / 32767 / 1.99],
    I8: [1, () => most / 127 / 1.99],
  };
  for (const [dtype, [bytes, bound]] of Object.entries(bounds)) {
    const file = await model.saveWeights({ dtype });
    const [from, to] = headerOf(file).header['layers.0.weight'].data_offsets;
    assert.equal(to - from, 500 * bytes, dtype);
    await other.loadWeights(file);
    for (const [i, v] of (await other.readWeight('layers.0.weight')).entries()) assert.ok(Math.abs(v - values[i]) <= bound(values[i]), `${dtype}: ${values[i]} became ${v}`);
  }
  await model.writeWeight('layers.0.weight', values.map((v, i) => (i === 0 ? 65504 : i === 1 ? -65520 : v)));
  await other.loadWeights(await model.saveWeights({ dtype: 'F16' }));
  assert.deepEqual(Array.from((await other.readWeight('layers.0.weight')).subarray(0, 2)), [65504, -Infinity]);
  const bundled = async (dtype) => {
    const loaded = await runtime.loadModel(await model.saveToString('m', { dtype }));
    const back = await loaded.readWeight('layers.0.weight');
    await loaded.free();
    return back.subarray(0, 2);
  };
  assert.deepEqual(Array.from(await bundled('float16')), [65504, -65504], 'Loom truncates: up to 65536');
  assert.deepEqual(Array.from(await bundled('int8')), [1, -1], 'Loom\'s integers are clipped to −1 … 1');
  for (const each of [model, other]) await each.free();
});

testOnEveryModule('F15 P7 int8 takes a quarter of float32, F4 an eighth, scales included, for wide rows', async (runtime) => {
  const model = await runtime.buildNetwork({ layers: [{ type: 'linear', in_features: 1000, out_features: 200, bias: false }] });
  const [full, int8, f4] = await Promise.all(['F32', 'I8', 'F4'].map((dtype) => model.saveWeights({ dtype })));
  assert.ok(int8.length / full.length <= 0.26, `${int8.length / full.length}`);
  assert.ok(f4.length / full.length <= 0.13, `${f4.length / full.length}`);
  await model.free();
});

testOnEveryModule('F23: a kernel whose file folds it into [out, in · kernel] is read, too', async (runtime) => {
  const model = await runtime.buildNetwork({ layers: [{ type: 'conv2d', in_channels: 2, out_channels: 3, kernel_size: 2, bias: false }] });
  const data = Float32Array.from({ length: 24 }, (_, i) => i);
  assert.equal(await model.loadWeights(writeSafetensors({ 'layers.0.weight': { shape: [3, 8], data } })), 1);
  assert.deepEqual(await model.readWeight('layers.0.weight'), data);
  await assert.rejects(model.loadWeights(writeSafetensors({ 'layers.0.weight': { shape: [8, 3], data } })), heddleError('bad_file', /the network wants shape \[3, 2, 2, 2\], the file has \[8, 3\]/));
  await model.free();
});

testOnEveryModule('F23 weights of another shape are refused by name, and nothing changes', async (runtime) => {
  const model = await runtime.buildNetwork(mlp, { seed: 5 });
  const other = await runtime.buildNetwork({ layers: [{ type: 'dense', in_features: 64, out_features: 47 }] });
  const before = await model.forward(input);
  await assert.rejects(model.loadWeights(await other.saveWeights()), heddleError('bad_file', /layers\.0\.weight: the network wants shape \[48, 64\], the file has \[47, 64\]/));
  assert.deepEqual(await model.forward(input), before);
  await model.free();
  await other.free();
});

testOnEveryModule('F9 F10 SaveModel, LoadModel, SaveWeightsToSafetensors and LoadWeightsFromSafetensors take paths, and Blobs', async (runtime, module) => {
  const folder = mkdtempSync(join(tmpdir(), `heddle-${module}-`));
  try {
    const network = runtime.LoadNetworkFromString(readFileSync(golden('loom/dense_tanh.bundle.json'), 'utf8'), 'dense_tanh');
    const io = readJson(golden('loom/dense_tanh.io.json'));
    await network.SaveModel(join(folder, 'm.json'), 'm');
    assert.equal(readFileSync(join(folder, 'm.json'), 'utf8'), network.SaveModelToString('m'));
    const again = await runtime.LoadModel(join(folder, 'm.json'), 'm');
    assert.deepEqual(again.ForwardCPU(io.input), network.ForwardCPU(io.input));
    const fromBlob = await runtime.LoadModel(new Blob([network.SaveModelToString('m')]), 'm');
    assert.deepEqual(fromBlob.ForwardCPU(io.input), network.ForwardCPU(io.input));
    await network.SaveWeightsToSafetensors(join(folder, 'w.safetensors'), { dtype: 'F64' });
    for (const { name, shape } of again.model.weights) await again.model.writeWeight(name, new Array(shape.reduce((a, b) => a * b, 1)).fill(0));
    await again.LoadWeightsFromSafetensors(join(folder, 'w.safetensors'));
    assert.deepEqual(again.ForwardCPU(io.input), network.ForwardCPU(io.input));
    await again.LoadWeightsFromSafetensors(new Blob([network.SerializeWeights()]));
    await assert.rejects(runtime.LoadModel(join(folder, 'none.json'), 'm'), heddleError('bad_file', /none\.json/));
    writeFileSync(join(folder, 'empty'), '');
    await assert.rejects(again.LoadWeightsFromSafetensors(join(folder, 'empty')), heddleError('bad_file'));
    for (const each of [network, again, fromBlob]) each.free();
  } finally {
    rmSync(folder, { recursive: true });
  }
});
