/**
 * Networks' weights as SafeTensors: Loom's own files give Loom's outputs, what we write from given values is what Loom wrote, and a network
 * survives every dtype (tests/golden/loom, kinds safetensors_weights and encode).
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assertWithin } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** The header of a SafeTensors file and where its data begin. */
function headerOf(file) {
  const n = Number(Buffer.from(file.buffer, file.byteOffset).readBigUInt64LE(0));
  return { header: JSON.parse(Buffer.from(file.subarray(8, 8 + n)).toString('utf8')), data: file.subarray(8 + n) };
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

testOnEveryModule('F15 P7 int8 takes a quarter of float32, F4 an eighth, scales included, for wide rows', async (runtime) => {
  const model = await runtime.buildNetwork({ layers: [{ type: 'linear', in_features: 1000, out_features: 200, bias: false }] });
  const [full, int8, f4] = await Promise.all(['F32', 'I8', 'F4'].map((dtype) => model.saveWeights({ dtype })));
  assert.ok(int8.length / full.length <= 0.26, `${int8.length / full.length}`);
  assert.ok(f4.length / full.length <= 0.13, `${f4.length / full.length}`);
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
