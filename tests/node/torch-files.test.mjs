/**
 * PyTorch's files through the package: trained networks loaded from them work as PyTorch computed (real/mnist-cnn, real/cifar-resnet), what we
 * write is read by Python's zipfile and pickletools, and by torch where there is one; state dicts, prefixes, strictness.
 * That every fixture reads as its mirror, value by value, is tests/native/test_torch.c's.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import { assertClose, readSafetensors, writeSafetensors } from './golden.mjs';
import { entry, heddle, heddleError, needs, readJson, shared, testOnEveryModule } from './heddle.mjs';

const { StateDict, loadStateDict, stateDict } = heddle;
const real = (path) => shared(`fixtures/real/${path}`);
const pt = (name) => shared(`fixtures/torch/pt/${name}`);

// ---- Trained networks ----

/** As real/mnist-cnn/README.md says; images are batches of [1, 28, 28]. */
function mnistNetwork(batch) {
  const conv = (name, from, to) => ({ type: 'conv2d', name, in_channels: from, out_channels: to, kernel_size: 3, activation: 'relu' });
  const layers = [
    ...[conv('conv1', 1, 8), conv('conv2', 8, 16), conv('conv3', 16, 24)],
    { type: 'batch_norm', name: 'norm1', num_features: 24 },
    { type: 'flatten' },
    { type: 'dense', name: 'fc1', in_features: 11616, out_features: 32, activation: 'relu' },
    { type: 'linear', name: 'fc2', in_features: 32, out_features: 10 },
    { type: 'batch_norm', name: 'norm2', num_features: 10 },
    { type: 'log_softmax' },
  ];
  return { input_shape: [batch, 1, 28, 28], layers };
}

/** MNIST's test images as the network takes them. */
function mnistImages(n) {
  const pixels = gunzipSync(readFileSync(real('mnist-data/t10k-images-idx3-ubyte.gz'))).subarray(16, 16 + n * 784);
  return Float32Array.from(pixels, (x) => (x / 255 - 0.1307) / 0.3081);
}

const mnistLabels = (n) => gunzipSync(readFileSync(real('mnist-data/t10k-labels-idx1-ubyte.gz'))).subarray(8, 8 + n);
const largestAt = (values) => values.indexOf(Math.max(...values));

/** Log-probabilities of n images, and the class of each. */
async function classify(model, n, batch) {
  const images = mnistImages(n);
  const rows = [];
  for (let at = 0; at < n; at += batch) {
    const output = await model.forward(images.subarray(at * 784, (at + batch) * 784));
    for (let i = 0; i < batch; i++) rows.push(output.slice(i * 10, i * 10 + 10));
  }
  return { rows, predicted: rows.map((row) => largestAt(Array.from(row))) };
}

const accuracy = (predicted) => mnistLabels(predicted.length).reduce((sum, label, i) => sum + Number(predicted[i] === label), 0) / predicted.length;

testOnEveryModule("F54 mnist.safetensors: the trained network knows 98.9 % of MNIST's first 2000 test images, each as PyTorch does", needs('fixtures/real/mnist-cnn'), async (runtime) => {
  const expected = readJson(real('mnist-cnn/expected-outputs.json'));
  const model = await runtime.loadModel(real('mnist-cnn/mnist.safetensors'), { config: mnistNetwork(100) });
  const { rows, predicted } = await classify(model, 2000, 100);
  for (const [i, row] of expected.log_probs_first_16.entries()) assertClose(rows[i], row, 1e-4, `image ${i}`);
  assert.deepEqual(predicted, expected.predicted_first_2000);
  assert.equal(accuracy(predicted), expected.accuracy_first_2000);
  await model.free();
});

/** The network in float64 and plain loops, on one image. `weight(name)` gives the values. */
function plainMnist(weight, image) {
  const relu = (values) => values.map((x) => Math.max(x, 0));
  const conv = (x, from, size, name) => {
    const [w, bias, out] = [weight(`${name}.weight`), weight(`${name}.bias`), size - 2];
    return Float64Array.from({ length: bias.length * out * out }, (_, at) => {
      const [c, row, column] = [Math.floor(at / (out * out)), Math.floor(at / out) % out, at % out];
      let sum = bias[c];
      for (let i = 0; i < from; i++) for (let k = 0; k < 9; k++) sum += w[(c * from + i) * 9 + k] * x[(i * size + row + Math.floor(k / 3)) * size + column + (k % 3)];
      return sum;
    });
  };
  const norm = (x, name, per) => {
    const [w, bias, mean, variance] = ['weight', 'bias', 'running_mean', 'running_var'].map((part) => weight(`${name}.${part}`));
    return x.map((v, at) => ((v - mean[Math.floor(at / per)]) / Math.sqrt(variance[Math.floor(at / per)] + 1e-5)) * w[Math.floor(at / per)] + bias[Math.floor(at / per)]);
  };
  const linear = (x, name) => Float64Array.from(weight(`${name}.bias`), (bias, o) => x.reduce((sum, v, i) => sum + v * weight(`${name}.weight`)[o * x.length + i], bias));
  const seen = relu(conv(relu(conv(relu(conv(image, 1, 28, 'conv1')), 8, 26, 'conv2')), 16, 24, 'conv3'));
  const y = norm(linear(relu(linear(norm(seen, 'norm1', 484), 'fc1')), 'fc2'), 'norm2', 1);
  const total = Math.log(y.reduce((sum, v) => sum + Math.exp(v), 0));
  return y.map((v) => v - total);
}

/* The README calls the two files the same network; they are two trainings of it. expected-outputs.json is the other's, so here plain loops are the oracle. */
testOnEveryModule("F54 mnist.pt: the trained network computes what plain loops do, and knows 98.8 % of MNIST's first 2000 test images", needs('fixtures/real/mnist-cnn'), async (runtime) => {
  const model = await runtime.loadModel(real('mnist-cnn/mnist.pt'), { config: mnistNetwork(100) });
  const { rows, predicted } = await classify(model, 2000, 100);
  const weights = new Map(await Promise.all(model.weights.map(async ({ name }) => [name, await model.readWeight(name)])));
  for (let i = 0; i < 4; i++) {
    const want = plainMnist((name) => weights.get(name), Float64Array.from(mnistImages(4).subarray(i * 784, i * 784 + 784)));
    assertClose(rows[i], Array.from(want), 1e-4, `image ${i}`);
  }
  assert.equal(accuracy(predicted), 0.988);
  await model.free();
});

/** ResNet-20 for CIFAR-10: three stages of three blocks; a block that halves the image has a shortcut without weights. */
function cifarNetwork() {
  const root = 'state_dict.module.';
  const convBn = (path, i, from, to, stride) => [
    { type: 'conv2d', weights: `${root}${path}conv${i}.`, in_channels: from, out_channels: to, kernel_size: 3, padding: 1, stride, bias: false },
    { type: 'batch_norm', weights: `${root}${path}bn${i}.`, num_features: to },
  ];
  const relu = { type: 'relu' };
  const shortcut = (from, to) => [
    { type: 'slice', dim: 2, step: 2 },
    { type: 'slice', dim: 3, step: 2 },
    { type: 'pad', dim: 1, before: (to - from) / 2, after: (to - from) / 2 },
  ];
  const block = (path, from, to) => {
    const main = [...convBn(path, 1, from, to, to / from), relu, ...convBn(path, 2, to, to, 1)];
    if (from === to) return [{ type: 'residual', branches: main }, relu];
    return [{ type: 'parallel', combine_mode: 'add', branches: [main, shortcut(from, to)].map((branches) => ({ type: 'sequential', branches })) }, relu];
  };
  const stage = (i, from, to) => [0, 1, 2].flatMap((k) => block(`layer${i}.${k}.`, k === 0 ? from : to, to));
  const layers = [...convBn('', 1, 3, 16, 1), relu, ...stage(1, 16, 16), ...stage(2, 16, 32), ...stage(3, 32, 64)];
  const head = [{ type: 'adaptive_avg_pool2d', output_size: 1 }, { type: 'flatten' }, { type: 'linear', weights: `${root}linear.`, in_features: 64, out_features: 10 }];
  return { input_shape: [1, 3, 32, 32], layers: [...layers, ...head] };
}

/** The rule of expected-outputs.json. */
function cifarInput(seed) {
  const all = new Float64Array(3072);
  let state = seed;
  for (let i = 0; i < all.length; i++) {
    state = Number((1664525n * BigInt(state) + 1013904223n) % 4294967296n);
    all[i] = state / 4294967296;
  }
  return Float32Array.from(all, (_, i) => {
    const [x, y, channel] = [i % 32, Math.floor(i / 32) % 32, Math.floor(i / 1024)];
    return Math.fround(all[channel * 1024 + (y - (y % 4)) * 32 + x - (x % 4)] * 4 - 2);
  });
}

testOnEveryModule('F54 resnet20-12fca82f.th: the trained network of a legacy file gives the logits PyTorch computed', needs('fixtures/real/cifar-resnet'), async (runtime) => {
  const { cases, tolerance_abs: tolerance } = readJson(real('cifar-resnet/expected-outputs.json'));
  const model = await runtime.loadModel(real('cifar-resnet/resnet20-12fca82f.th'), { config: cifarNetwork() });
  for (const { seed, logits, class: best, input_sum: sum } of cases) {
    const input = cifarInput(seed);
    assert.ok(Math.abs(input.reduce((total, x) => total + x, 0) - sum) < 1e-3, 'the input is the rule\'s');
    const output = await model.forward(input);
    assertClose(output, logits, tolerance, `seed ${seed}`);
    assert.equal(largestAt(Array.from(output)), best);
  }
  await model.free();
});

testOnEveryModule('F54 silero-vad: its 15 tensors have the shapes of its convolutions and its LSTM cell', needs('fixtures/real/silero-vad'), async (runtime) => {
  const { tensors } = await runtime.inspect(real('silero-vad/silero_vad_16k.safetensors'));
  assert.equal(tensors.length, 15);
  const shapes = Object.fromEntries(tensors.map(({ name, dtype, shape }) => [name, `${dtype} ${shape.join('x')}`]));
  assert.equal(Object.values(shapes).filter((shape) => shape === 'F32 512x128').length, 2, 'the gates from input and from hidden state');
  assert.equal(Object.values(shapes).filter((shape) => shape === 'F32 512').length, 2, 'and their biases');
  assert.equal(tensors.filter(({ shape }) => shape.length === 3).length, 6, 'the STFT, four convolutions, and the last');
});

testOnEveryModule('F54 a transposed view becomes the weights it shows, loaded or set', needs('fixtures/torch/pt/noncontiguous_legacy.pt'), async (runtime) => {
  const { data } = readSafetensors(pt('noncontiguous_legacy.safetensors')).get('t');
  const old = Buffer.from('X\x01\0\0\0tq', 'latin1');
  const file = readFileSync(pt('noncontiguous_legacy.pt'));
  const at = file.indexOf(old);
  const renamed = Buffer.concat([file.subarray(0, at), Buffer.from('X\x08\0\0\0x.weightq', 'latin1'), file.subarray(at + old.length)]); // a stream: nothing counts its bytes
  const config = { input_shape: [1, 4], layers: [{ type: 'linear', name: 'x', in_features: 4, out_features: 6, bias: false }] };
  const loaded = await runtime.loadModel(new Blob([renamed]), { config });
  assert.deepEqual(await loaded.readWeight('x.weight'), Float32Array.from(data));
  const set = await runtime.buildNetwork(config);
  assert.equal(await set.loadWeights(new Blob([renamed])), 1);
  assert.deepEqual(await set.readWeight('x.weight'), Float32Array.from(data));
  const short = await runtime.loadModel(new Blob([renamed]), { config, dtype: 'f16' });
  for (const [i, value] of (await short.readWeight('x.weight')).entries()) assert.ok(Math.abs(value - data[i]) <= 2 ** -11 * Math.abs(data[i]), `F16: value ${i}`);
  await Promise.all([loaded.free(), set.free(), short.free()]);
});

testOnEveryModule("F54 a checkpoint's model is loaded from the zip and from the legacy stream", needs('fixtures/torch/pt/checkpoint.pt'), async (runtime) => {
  const config = { input_shape: [2, 4], layers: [
    { type: 'linear', weights: 'model.fc1.', in_features: 4, out_features: 5 },
    { type: 'batch_norm', weights: 'model.bn.', num_features: 5 },
    { type: 'linear', weights: 'model.fc2.', in_features: 5, out_features: 2 },
  ] };
  for (const file of ['checkpoint', 'checkpoint_legacy']) {
    const mirror = readSafetensors(pt(`${file}.safetensors`));
    const model = await runtime.loadModel(pt(`${file}.pt`), { config });
    for (const { name } of model.weights) assert.deepEqual(await model.readWeight(name), Float32Array.from(mirror.get(name).data), `${file}: ${name}`);
    await model.free();
  }
});

testOnEveryModule('F55, F46 the weights of TorchScript and C++ archives compute what PyTorch did with them', needs('fixtures/torch/pt/torchscript_mlp.pt'), async (runtime) => {
  const mlp = (input, hidden, output) => ({ input_shape: [2, input], layers: [
    { type: 'dense', name: 'fc1', in_features: input, out_features: hidden, activation: 'relu' },
    { type: 'dense', name: 'fc2', in_features: hidden, out_features: hidden, activation: 'relu' },
    { type: 'linear', name: 'fc3', in_features: hidden, out_features: output },
  ] });
  for (const file of ['torchscript_mlp', 'torchscript_trace']) {
    const mirror = readSafetensors(pt(`${file}.safetensors`));
    const model = await runtime.loadModel(pt(`${file}.pt`), { config: mlp(5, 7, 3) });
    const scale = mirror.get('scale').data[0]; // the buffer its forward multiplies by
    const output = (await model.forward(mirror.get('$in.x').data)).map((y) => y * scale);
    assertClose(output, mirror.get('$out.y').data, 1e-6, file);
    await model.free();
  }
  const mirror = readSafetensors(pt('torchscript_libtorch_like.safetensors'));
  const model = await runtime.buildNetwork(mlp(4, 5, 2));
  assert.equal(await model.loadWeights(pt('torchscript_libtorch_like.pt'), { strict: true }), 6);
  for (const { name } of model.weights) assert.deepEqual(await model.readWeight(name), Float32Array.from(mirror.get(name).data), name);
  await model.free();
});

// ---- Refusals ----

testOnEveryModule('F54 a PyTorch file without a description is weights alone, and said to be', needs('fixtures/torch/pt/checkpoint.pt'), async (runtime) => {
  for (const file of ['checkpoint.pt', 'checkpoint_legacy.pt']) await assert.rejects(runtime.loadModel(pt(file)), heddleError('bad_argument', /weights alone are no model/));
});

testOnEveryModule('F54 E9 hostile files are refused with the reason and leave the runtime working', needs('fixtures/real/pickle-hostile'), async (runtime) => {
  const hostile = [['data__malicious2_v4.pkl', /posix\.system/], ['data__malicious1_v0.pkl', /__builtin__\.eval/], ['data2__dns_exfiltration.npy', /Python objects/],
    ['data__malicious1_central_directory.zip', /its own header has another name/], ['data__malicious6.pkl', /end with the file/]];
  for (const [name, reason] of hostile) await assert.rejects(runtime.inspect(real(`pickle-hostile/${name}`)), (error) => reason.test(error.message));
  assert.equal((await runtime.inspect(real('pickle-hostile/data2__int_array.npy'))).tensors[0].dtype, 'I32');
  assert.deepEqual((await runtime.inspect(real('pickle-hostile/data__benign0_v0.pkl'))).metadata, { value: ['a', 'b', 'c'] });
});

// ---- Writing ----

const network = { input_shape: [3, 6], layers: [
  { type: 'dense', name: 'fc1', in_features: 6, out_features: 10, activation: 'tanh' },
  { type: 'layer_norm', name: 'norm', normalized_shape: 10 },
  { type: 'linear', name: 'fc2', in_features: 10, out_features: 4 },
] };

const checkpoint = {
  epoch: 3, loss: 0.25, history: [0.5, 0.25], name: 'net', best: null,
  optimizer_state_dict: {
    state: { 0: { step: new Float32Array([7]), exp_avg: { values: new Float32Array(60).fill(0.5), shape: [10, 6] } } },
    param_groups: [{ lr: 0.001, betas: [0.9, 0.999], amsgrad: false, params: [0, 1, 2] }],
  },
};

const hasPython = spawnSync('python3', ['--version']).status === 0;
const python = (...args) => spawnSync('python3', args, { encoding: 'utf8' });
const ifPython = hasPython ? {} : { skip: 'python3 is not on this machine' };
const hasTorch = hasPython && python('-c', 'import torch, safetensors').status === 0;

/** Runs with the files in a folder of their own. */
async function withFolder(run) {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-torch-'));
  try {
    return await run(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** What Python's own zipfile and pickletools say of a file: every checksum, every member's alignment and way of storing, the pickle's opcodes. */
const examine = `
import io, json, pickletools, struct, sys, zipfile
raw = open(sys.argv[1], 'rb').read()
z = zipfile.ZipFile(sys.argv[1])
members = []
for i in z.infolist():
    n, x = struct.unpack('<HH', raw[i.header_offset + 26:i.header_offset + 30])
    members.append([i.filename, i.file_size, i.compress_type, (i.header_offset + 30 + n + x) % 64])
pickletools.dis(z.read('archive/data.pkl'), out=io.StringIO())
ops = list(pickletools.genops(z.read('archive/data.pkl')))
print(json.dumps({'bad': z.testzip(), 'members': members, 'opcodes': sorted({o.name for o, a, p in ops}), 'globals': sorted({a for o, a, p in ops if o.name == 'GLOBAL'}),
  'protocol': max(o.proto for o, a, p in ops), 'version': z.read('archive/version').decode(), 'byteorder': z.read('archive/byteorder').decode()}))
`;

testOnEveryModule("F45 what saveTorch writes is a zip and a pickle as torch.save's, by Python's own zipfile and pickletools", ifPython, async (runtime) => {
  const model = await runtime.buildNetwork(network);
  for (const options of [{}, { dtype: 'BF16' }, { checkpoint }]) {
    const bytes = await model.saveTorch(options);
    assert.deepEqual(bytes, await model.saveTorch(options), 'the same model gives the same bytes');
    const { status, stdout, stderr } = await withFolder((folder) => {
      writeFileSync(join(folder, 'model.pt'), bytes);
      return python('-c', examine, join(folder, 'model.pt'));
    });
    assert.equal(status, 0, stderr);
    const found = JSON.parse(stdout);
    assert.equal(found.bad, null);
    for (const [name, , method, offset] of found.members) assert.deepEqual([name, method, offset], [name, 0, 0]);
    assert.deepEqual(found.members.map(([name]) => name).filter((name) => !name.startsWith('archive/data/')),
      ['data.pkl', '.format_version', '.storage_alignment', 'byteorder', 'version', '.data/serialization_id'].map((name) => `archive/${name}`));
    assert.equal(found.members.filter(([name]) => name.startsWith('archive/data/')).length, options.checkpoint ? 8 : 6);
    assert.deepEqual([found.version, found.byteorder, found.protocol], ['3\n', 'little', 2]);
    const storages = options.dtype === 'BF16' ? ['torch BFloat16Storage'] : ['torch FloatStorage'];
    assert.deepEqual(found.globals, ['collections OrderedDict', ...storages, 'torch._utils _rebuild_tensor_v2'].sort());
  }
  await model.free();
});

testOnEveryModule('F45 torch.load(weights_only=True) reads what saveTorch writes', hasTorch ? needs('fixtures/torch/pt/verify_pt.py') : { skip: 'python3 with torch and safetensors is not on this machine' }, async (runtime) => {
  const model = await runtime.buildNetwork(network);
  await withFolder(async (folder) => {
    writeFileSync(join(folder, 'model.pt'), await model.saveTorch());
    writeFileSync(join(folder, 'model.safetensors'), await model.saveWeights());
    const { status, stdout, stderr } = python(pt('verify_pt.py'), join(folder, 'model.pt'), join(folder, 'model.safetensors'));
    assert.equal(status, 0, stdout + stderr);
  });
  await model.free();
});

/* The modules that LispeTorch saves, and the keys and shapes of their state dicts in PyTorch. */
const modulesByKeys = [
  [{ type: 'linear', in_features: 3, out_features: 2 }, [1, 3], { weight: [2, 3], bias: [2] }],
  [{ type: 'embedding', vocab_size: 7, embedding_dim: 4 }, [3], { weight: [7, 4] }],
  [{ type: 'torch_attention', embed_dim: 4, num_heads: 2 }, [3, 4], { in_proj_weight: [12, 4], in_proj_bias: [12], 'out_proj.weight': [4, 4], 'out_proj.bias': [4] }],
  [{ type: 'layer_norm', normalized_shape: 5 }, [1, 5], { weight: [5], bias: [5] }],
];

testOnEveryModule('F45, F51 each kind of module is saved under the keys PyTorch loads it by, and comes back into a fresh one', async (runtime) => {
  for (const [layer, inputShape, keys] of modulesByKeys) {
    const config = { input_shape: inputShape, input_dtype: layer.type === 'embedding' ? 'I32' : 'F32', layers: [{ ...layer, weights: '' }] };
    const [model, fresh] = [await runtime.buildNetwork(config, { seed: 1 }), await runtime.buildNetwork(config, { seed: 2 })];
    const bytes = await model.saveTorch();
    const { tensors, format } = await runtime.inspect(new Blob([bytes]));
    assert.equal(format, 'PyTorch');
    assert.deepEqual(Object.fromEntries(tensors.map(({ name, shape }) => [name, [...shape]])), keys, layer.type);
    assert.equal(await fresh.loadWeights(bytes, { strict: true }), Object.keys(keys).length);
    for (const name of Object.keys(keys)) assert.deepEqual(await fresh.readWeight(name), await model.readWeight(name), `${layer.type}: ${name}`);
    await Promise.all([model.free(), fresh.free()]);
  }
});

testOnEveryModule('F45, F46 a model comes back from its PyTorch file bit by bit, and rounded once in the shorter dtypes', async (runtime) => {
  const model = await runtime.buildNetwork(network, { seed: 1 });
  const other = await runtime.buildNetwork(network, { seed: 2 });
  for (const [dtype, relative] of [['F32', 0], ['F64', 0], ['F16', 2 ** -11], ['BF16', 2 ** -8]]) {
    assert.equal(await other.loadWeights(await model.saveTorch({ dtype }), { strict: true }), 6);
    for (const { name } of model.weights) {
      const [want, got] = [await model.readWeight(name), await other.readWeight(name)];
      for (const [i, value] of want.entries()) assert.ok(Math.abs(got[i] - value) <= relative * Math.abs(value) + (relative && 2 ** -25), `${dtype} ${name}[${i}]`);
    }
  }
  await Promise.all([model.free(), other.free()]);
});

testOnEveryModule('F49, F53 a checkpoint holds the weights under model_state_dict, and the rest as it was given', async (runtime) => {
  const model = await runtime.buildNetwork(network, { seed: 1 });
  const bytes = await model.saveTorch({ checkpoint });
  const { tensors, metadata } = await runtime.inspect(new Blob([bytes]));
  const shapes = Object.fromEntries(tensors.map(({ name, shape }) => [name, shape]));
  assert.deepEqual(shapes['model_state_dict.fc1.weight'], [10, 6]);
  assert.deepEqual(shapes['optimizer_state_dict.state.0.exp_avg'], [10, 6]);
  assert.deepEqual(metadata, {
    epoch: 3, loss: 0.25, history: [0.5, 0.25], name: 'net', best: null,
    'optimizer_state_dict.param_groups': [{ lr: 0.001, betas: [0.9, 0.999], amsgrad: false, params: [0, 1, 2] }],
  });
  const other = await runtime.buildNetwork(network, { seed: 2 });
  assert.equal(await other.loadWeights(bytes, { prefix: 'model_state_dict.', strict: true }), 6);
  assert.deepEqual(await other.readWeight('fc1.weight'), await model.readWeight('fc1.weight'));
  await assert.rejects(model.saveTorch({ checkpoint: { model_state_dict: {} } }), heddleError('bad_argument', /model_state_dict/));
  await assert.rejects(model.saveTorch({ dtype: 'I8' }), heddleError('bad_argument', /dtype/));
  await assert.rejects(model.saveTorch({ checkpoint: { x: { values: new Float32Array(3), shape: [2] } } }), heddleError('bad_argument', /checkpoint\.x\.values/));
  await Promise.all([model.free(), other.free()]);
});

testOnEveryModule('F46 a file of another architecture is refused naming the key and both shapes, and changes nothing', async (runtime) => {
  const model = await runtime.buildNetwork(network, { seed: 1 });
  const wider = await runtime.buildNetwork({ ...network, layers: [{ ...network.layers[0], out_features: 12 }, { type: 'layer_norm', name: 'norm', normalized_shape: 12 }] });
  const before = await model.readWeight('fc1.weight');
  await assert.rejects(model.loadWeights(await wider.saveTorch()), heddleError('bad_file', /fc1\.weight: the network wants shape \[10, 6\], the file has \[12, 6\]/));
  const part = await runtime.buildNetwork({ input_shape: [3, 6], layers: [network.layers[0]] });
  assert.equal(await model.loadWeights(await part.saveTorch()), 2, 'not strict: what there is');
  await model.loadWeights(await model.saveTorch());
  await assert.rejects(model.loadWeights(await part.saveTorch(), { strict: true }), heddleError('bad_file', /strict: the file lacks norm\.weight, of shape \[10\]/));
  await assert.rejects(part.loadWeights(await model.saveTorch(), { strict: true }), heddleError('bad_file', /strict: the file has .*, of shape .*, which the model does not/));
  await assert.rejects(model.loadWeights(await model.saveTorch(), { strict: 1 }), heddleError('bad_argument', /strict/));
  assert.notDeepEqual(before, await model.readWeight('fc1.weight'), 'the part was loaded');
  await Promise.all([model.free(), wider.free(), part.free()]);
});

// ---- State dicts ----

testOnEveryModule('F47 a linear layer has a state dict of two parameters', async (runtime) => {
  const model = await runtime.buildNetwork({ input_shape: [1, 3], layers: [{ type: 'linear', name: 'fc', in_features: 3, out_features: 2 }] });
  const dict = await stateDict(model);
  assert.equal(String(dict), 'PyTorch State Dict (2 parameters)');
  assert.deepEqual([...dict].map(([name, { shape }]) => [name, [...shape]]), [['fc.weight', [2, 3]], ['fc.bias', [2]]]);
  await model.free();
});

testOnEveryModule('F48 a state dict copies one model into another, strictly or not', async (runtime) => {
  const [model, other] = [await runtime.buildNetwork(network, { seed: 1 }), await runtime.buildNetwork(network, { seed: 2 })];
  const input = Float32Array.from({ length: 18 }, (_, i) => Math.sin(i));
  assert.equal(await loadStateDict(other, await stateDict(model)), 6);
  assert.deepEqual(await other.forward(input), await model.forward(input));
  await Promise.all([model.free(), other.free()]);
  const third = await runtime.buildNetwork(network, { seed: 3 });
  const dict = await stateDict(third);
  const less = new Map([...dict].slice(1));
  await assert.rejects(loadStateDict(third, less), heddleError('bad_argument', /lacks fc1\.weight, of shape \[10, 6\]/));
  assert.equal(await loadStateDict(third, less, { strict: false }), 5);
  const other6 = new Map(dict).set('fc1.weight', { values: new Float32Array(60), shape: [6, 10] });
  await assert.rejects(loadStateDict(third, other6), heddleError('bad_argument', /fc1\.weight: the model wants shape \[10, 6\], the state dict has \[6, 10\]/));
  await third.free();
});

testOnEveryModule('F51, F52 the modules of a pipeline are saved together and loaded one by one, each with its own tensors only', async (runtime) => {
  const parts = { encoder: network.layers[0], norm: network.layers[1], head: network.layers[2] };
  const names = { encoder: 'fc1', norm: 'norm', head: 'fc2' };
  const whole = await runtime.buildNetwork(network, { seed: 5 });
  const all = await stateDict(whole);
  const together = StateDict.of(Object.fromEntries(Object.entries(names).map(([part, name]) => [part, all.part(`${name}.`)])));
  assert.equal(together.size, 6);
  const file = writeSafetensors(Object.fromEntries([...together].map(([name, { values, shape }]) => [name, { shape, data: values }])));
  const input = Float32Array.from({ length: 18 }, (_, i) => Math.cos(i));
  let value = input;
  for (const [part, layer] of Object.entries(parts)) {
    const width = layer.in_features ?? layer.normalized_shape;
    let taken;
    const config = { input_shape: [3, width], layers: [{ ...layer, weights: `${part}.` }] };
    const model = await runtime.loadModel(new Blob([file]), { config, progress: ({ totalBytes }) => (taken = totalBytes) });
    assert.equal(taken, [...together].filter(([name]) => name.startsWith(`${part}.`)).reduce((sum, [, { values }]) => sum + values.byteLength, 0), 'F53: only its bytes');
    value = await model.forward(value);
    await model.free();
  }
  assert.deepEqual(value, await whole.forward(input));
  await whole.free();
});

test('F46 a worker loads and saves PyTorch files too', async () => {
  const worker = await (await entry('./worker')).init({ variant: 'simd128', threads: 1 });
  const model = await worker.buildNetwork(network);
  const bytes = await model.saveTorch({ checkpoint: { epoch: 1 } });
  assert.equal(await model.loadWeights(bytes.slice(), { prefix: 'model_state_dict.', strict: true }), 6);
  await assert.rejects(model.loadWeights(bytes, { strict: true }), /none of the file's/);
  await worker.free();
});
