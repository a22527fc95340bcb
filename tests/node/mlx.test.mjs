/**
 * MLX-Node's files: packed weights against their formulas (tests/golden/quant), weights.mlx both ways, `loadPretrained` with its order and its messages,
 * and the SafeTensors reader under its names with its errors (shared/formats/mlx-node.md).
 */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assertClose, assertSameBits, readSafetensors, writeEncoded, writeSafetensors } from './golden.mjs';
import { golden, heddle, heddleError, needs, readJson, shared, testOnEveryModule } from './heddle.mjs';

const encode = (text) => new TextEncoder().encode(text);
const decode = (bytes) => new TextDecoder().decode(bytes);
const exactly = (text) => new RegExp(`^${text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')}$`);
const linear = (inputs, outputs, more = {}) => ({ ...more, input_shape: [1, inputs], layers: [{ type: 'linear', name: 'l', in_features: inputs, out_features: outputs, bias: false }] });

// ---- Packed weights ----

const packedFiles = [
  ...[['2', 64, 'f32'], ['3', 64, 'f32'], ['4', 128, 'f16'], ['4', 32, 'f16'], ['4', 64, 'bf16'], ['4', 64, 'f32'], ['5', 32, 'f16'], ['6', 64, 'bf16'], ['8', 32, 'f32'], ['8', 64, 'bf16']]
    .map(([bits, group, dtype]) => ({ file: `mlx_affine_${bits}bit_g${group}_${dtype}`, quantization: { group_size: group, bits: Number(bits) }, packing: `affine, ${bits} bits, groups of ${group}` })),
  { file: 'mxfp4_mlx', quantization: { group_size: 32, bits: 4, mode: 'mxfp4' }, packing: 'mxfp4, 4 bits, groups of 32' },
  { file: 'mxfp8_ocp', quantization: { group_size: 32, bits: 8, mode: 'mxfp8' }, packing: 'mxfp8, 8 bits, groups of 32' },
  { file: 'nvfp4_mlx', quantization: { group_size: 16, bits: 4, mode: 'nvfp4' }, packing: 'nvfp4, 4 bits, groups of 16' },
  { file: 'nvfp4_global', quantization: { group_size: 16, bits: 4, mode: 'nvfp4' }, packing: 'nvfp4, 4 bits, groups of 16' },
];

/** Its 'values', and the bytes of the file. */
function packedFile(file) {
  const bytes = new Uint8Array(readFileSync(golden(`quant/${file}.safetensors`)));
  const length = Number(Buffer.from(bytes.buffer).readBigUInt64LE(0));
  const { dtype, shape, data_offsets: [begin, end] } = JSON.parse(decode(bytes.subarray(8, 8 + length))).values;
  assert.equal(dtype, 'F32');
  return { bytes, shape, values: new Float32Array(bytes.slice(8 + length + begin, 8 + length + end).buffer) };
}

const streamOf = (bytes) => ({ stream: new ReadableStream({ start(c) { for (let i = 0; i < bytes.length; i += 97) c.enqueue(bytes.slice(i, i + 97)); c.close(); } }), size: bytes.length });

for (const { file, quantization, packing } of packedFiles) {
  testOnEveryModule(`F34: ${file} becomes the values of its formula, from bytes, a Blob and a stream that has codes before scales`, async (runtime) => {
    const { bytes, shape: [rows, cols], values } = packedFile(file);
    const config = linear(cols, rows, { quantization });
    for (const source of [bytes, new Blob([bytes]), streamOf(bytes)]) {
      const model = await runtime.loadModel(source, { config, dtype: 'f32' });
      assertSameBits(await model.readWeight('l.weight'), values, file);
      assert.equal(model.report.weights[0].packing, packing);
      assert.deepEqual(model.report.lossy, []);
      await model.free();
    }
  });
}

testOnEveryModule('F34: kept, packed weights become what multiplies, and the report says so', async (runtime) => {
  const { bytes, shape: [rows, cols] } = packedFile('mlx_affine_4bit_g64_bf16');
  const model = await runtime.loadModel(bytes, { config: linear(cols, rows, { quantization_config: { group_size: 64, bits: 4 } }) });
  const [weight] = model.report.weights;
  assert.deepEqual([weight.fileDtype, weight.packing, weight.dtype, weight.lossy], ['U32', 'affine, 4 bits, groups of 64', 'Q8_0', true]);
  assert.deepEqual(model.report.fallbacks, ['l.weight: no kernel multiplies affine, 4 bits, groups of 64: became Q8_0']);
  await model.free();
});

testOnEveryModule('F34 F36: one packed matrix can be had alone, as values', async (runtime) => {
  for (const { file, quantization } of packedFiles) {
    const { bytes, shape, values } = packedFile(file);
    const weights = await runtime.openWeights(new Blob([bytes]));
    const got = await weights.tensor('l.weight', { as: 'f32', quantization });
    assert.deepEqual(got.shape, shape);
    assertSameBits(got.data, values, file);
    assert.equal((await weights.tensor('l.weight')).dtype, 'U32', 'as stored, the codes');
    if (file.startsWith('mlx')) await assert.rejects(weights.tensor('l.weight', { as: 'f32' }), heddleError('bad_argument', /tensor l\.weight is packed: give config\.json's "quantization"/));
    else assertSameBits((await weights.tensor('l.weight', { as: 'f32' })).data, values, `${file} by its shapes`);
    await weights.close();
  }
});

/** MLX's rule for affine groups, from shared/formats/mlx-node.md, section f. */
function affine(values, cols, size, bits) {
  const f = Math.fround;
  const most = 2 ** bits - 1;
  const [codes, scales, biases] = [[], [], []];
  for (let at = 0; at < values.length; at += size) {
    const group = values.subarray(at, at + size);
    const [low, high] = [Math.min(...group), Math.max(...group)];
    let scale = Math.max(f(f(high - low) / most), f(1e-7));
    const negative = Math.abs(low) > Math.abs(high);
    const edge = negative ? low : high;
    if (!negative) scale = -scale;
    const zero = Math.round(f(edge / scale));
    if (zero !== 0) scale = f(edge / zero);
    const bias = zero !== 0 ? edge : 0;
    scales.push(scale);
    biases.push(bias);
    for (const value of group) codes.push(Math.min(most, Math.max(0, Math.round(f(f(value - bias) / scale)))));
  }
  const words = new Uint32Array((values.length * bits) / 32);
  codes.forEach((code, i) => {
    for (let b = 0; b < bits; b++) if ((code >> b) & 1) words[(i * bits + b) >> 5] |= 1 << ((i * bits + b) & 31);
  });
  return { words, scales: Float32Array.from(scales), biases: Float32Array.from(biases), values: Float32Array.from(codes, (code, i) => f(f(code * scales[Math.floor(i / size)]) + biases[Math.floor(i / size)])) };
}

const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);
const story = 'models/story';

/** The story model's tensors as float32, by name. */
async function storyTensors(runtime) {
  const weights = await runtime.openWeights(shared(`${story}/model.safetensors`));
  const found = new Map();
  for await (const { name, shape, data } of weights.all({ as: 'f32' })) found.set(name, { shape, data });
  await weights.close();
  return found;
}

testOnEveryModule('F34: a whole language model packed in 4 bits, with 8 for single weights, in two files, has the logits of its unpacked values', needs(story), async (runtime) => {
  const tensors = await storyTensors(runtime);
  const config = readJson(shared(`${story}/config.json`));
  const quantization = { group_size: 64, bits: 4 };
  const [packed, plain] = [[], {}];
  for (const [name, { shape, data }] of tensors) {
    const dtype = 'F32';
    const base = name.replace(/\.weight$/, '');
    const bits = /down_proj|embed_tokens/.test(name) ? 8 : 4;
    const size = shape[1] % 64 === 0 ? 64 : 32;
    plain[name] = { shape, data };
    if (shape.length < 2 || shape[1] % 32 !== 0) {
      packed.push([name, { dtype, shape, bytes: bytesOf(data) }]);
      continue;
    }
    const made = affine(data, shape[1], size, bits);
    if (bits !== 4 || size !== 64) quantization[base] = { group_size: size, bits };
    plain[name] = { shape, data: made.values };
    packed.push([name, { dtype: 'U32', shape: [shape[0], (shape[1] * bits) / 32], bytes: bytesOf(made.words) }]);
    packed.push([`${base}.scales`, { dtype: 'F32', shape: [shape[0], shape[1] / size], bytes: bytesOf(made.scales) }]);
    packed.push([`${base}.biases`, { dtype: 'F32', shape: [shape[0], shape[1] / size], bytes: bytesOf(made.biases) }]);
  }
  assert.ok(packed.some(([, { dtype }]) => dtype === 'U32'));
  // Scales in the other file than their codes, behind it.
  const shards = [packed.filter(([name]) => !name.endsWith('.scales')), packed.filter(([name]) => name.endsWith('.scales'))];
  const files = { 'config.json': new Blob([JSON.stringify({ ...config, quantization })]) };
  const map = {};
  shards.forEach((shard, i) => {
    files[`model-0000${i + 1}-of-00002.safetensors`] = writeEncoded(Object.fromEntries(shard));
    for (const [name] of shard) map[name] = `model-0000${i + 1}-of-00002.safetensors`;
  });
  files['model.safetensors.index.json'] = new Blob([JSON.stringify({ metadata: {}, weight_map: map })]);
  const ids = readJson(shared(`${story}/expected.json`)).prompt_ids ?? [1, 2, 3, 4];
  const logits = async (source, options) => {
    const model = await runtime.loadModel(source, options);
    const session = await model.createSession();
    await session.decode(ids);
    const found = await session.logits();
    await session.free();
    await model.free();
    return found;
  };
  const want = await logits(writeSafetensors(plain), { config, dtype: 'f32' });
  assertSameBits(await logits(files, { dtype: 'f32' }), want, 'logits');
});

/** A small mixture's tensors under transformers' names, of seeded values. */
function mixtureTensors({ model_type, hidden_size: d, moe_intermediate_size, intermediate_size, num_local_experts: experts, vocab_size }) {
  const hidden = model_type === 'mixtral' ? intermediate_size : moe_intermediate_size;
  let state = 7;
  const draw = () => ((state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 30 - 1) / 4;
  const tensors = new Map();
  const add = (name, ...shape) => tensors.set(name, { shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b) }, () => draw() + (shape.length === 1 ? 1 : 0)) });
  const [block, attention] = ['model.layers.0.', 'model.layers.0.self_attn.'];
  add('model.embed_tokens.weight', vocab_size, d);
  add('lm_head.weight', vocab_size, d);
  for (const norm of ['model.norm', `${block}input_layernorm`, `${block}post_attention_layernorm`]) add(`${norm}.weight`, d);
  for (const proj of ['q_proj', 'k_proj', 'v_proj', 'o_proj']) add(`${attention}${proj}.weight`, d, d);
  if (model_type === 'qwen3_moe') for (const norm of ['q_norm', 'k_norm']) add(`${attention}${norm}.weight`, 32);
  const [mixture, roles] = model_type === 'mixtral' ? ['block_sparse_moe', ['w1', 'w3', 'w2']] : ['mlp', ['gate_proj', 'up_proj', 'down_proj']];
  add(`${block}${mixture}.gate.weight`, experts, d);
  for (let e = 0; e < experts; e++) roles.forEach((role, i) => add(`${block}${mixture}.experts.${e}.${role}.weight`, ...(i === 2 ? [d, hidden] : [hidden, d])));
  return tensors;
}

/** The tensors as mlx-lm saves them: experts stacked under switch_mlp; a matrix packed in groups of 32 where `pack` gives its bits (0: as it is). And the values they stand for. */
function asMlx(tensors, pack) {
  const [files, values, quantization] = [{}, new Map(), { group_size: 32, bits: 4 }];
  const stacks = new Map();
  const theirs = { w1: 'gate_proj', w3: 'up_proj', w2: 'down_proj' };
  for (const [name, { shape, data }] of tensors) {
    const stack = name.replace(/experts\.\d+\.(\w+)\.weight$/, (_, role) => `switch_mlp.${theirs[role] ?? role}.weight`);
    const bits = shape.length === 2 ? pack(name) : 0;
    const made = bits ? affine(data, shape[1], 32, bits) : undefined;
    values.set(name, made?.values ?? data);
    if (bits && bits !== 4) quantization[stack.replace(/\.weight$/, '')] = { group_size: 32, bits };
    const parts = bits
      ? { weight: ['U32', [shape[0], (shape[1] * bits) / 32], made.words], scales: ['F32', [shape[0], shape[1] / 32], made.scales], biases: ['F32', [shape[0], shape[1] / 32], made.biases] }
      : { weight: ['F32', shape, data] };
    for (const [part, [dtype, size, array]] of Object.entries(parts)) {
      const full = stack.replace(/weight$/, part);
      const before = stacks.get(full) ?? { dtype, count: 0, one: size, bytes: [] };
      stacks.set(full, { ...before, count: before.count + 1, isStack: stack !== name, bytes: [...before.bytes, bytesOf(array)] });
    }
  }
  for (const [name, { dtype, count, one, isStack, bytes }] of stacks) files[name] = { dtype, shape: isStack ? [count, ...one] : one, bytes: Buffer.concat(bytes) };
  return { files, values, quantization };
}

const mixtureConfig = (type) => ({
  model_type: type, hidden_size: 64, intermediate_size: 32, moe_intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2, head_dim: 32, vocab_size: 40,
  max_position_embeddings: 64, num_local_experts: 4, num_experts_per_tok: 2, norm_topk_prob: true, sliding_window: null, tie_word_embeddings: false,
});

for (const type of ['qwen3_moe', 'mixtral']) {
  for (const [what, pack] of [['packed in 4 bits, its router in 8', (name) => (/\.gate\.weight$/.test(name) ? 8 : 4)], ['not packed', () => 0]]) {
    testOnEveryModule(`F34: a ${type} as mlx-lm saves it, experts stacked under switch_mlp and ${what}, has the values and logits of its experts one by one`, async (runtime) => {
      const config = mixtureConfig(type);
      const tensors = mixtureTensors(config);
      const { files, values, quantization } = asMlx(tensors, pack);
      const [mlxFile, plainFile] = [writeEncoded(files), writeSafetensors(Object.fromEntries([...tensors].map(([name, { shape }]) => [name, { shape, data: values.get(name) }])))];
      const model = await runtime.loadModel(mlxFile, { config: { ...config, quantization }, dtype: 'f32' });
      const plain = await runtime.loadModel(plainFile, { config, dtype: 'f32' });
      assert.deepEqual(model.weights.map(({ name }) => name).sort(), [...tensors.keys()].sort());
      for (const [name, want] of values) assertSameBits(await model.readWeight(name), want, name);
      const ids = [3, 17, 29, 1, 0, 38];
      assertSameBits(await model.forward(ids), await plain.forward(ids), 'logits');
      const kept = await runtime.loadModel(streamOf(mlxFile), { config: { ...config, quantization } });
      const expert = kept.report.weights.find(({ name }) => /experts\.3\.(down_proj|w2)\.weight$/.test(name));
      assert.deepEqual([expert.dtype, expert.packing], pack('') ? ['Q8_0', 'affine, 4 bits, groups of 32'] : ['F32', undefined]);
      const name = Object.keys(files).find((each) => /switch_mlp\.down_proj\.weight$/.test(each));
      const weights = await runtime.openWeights(mlxFile);
      const { data, shape } = await weights.tensor(name, { as: 'f32', quantization });
      assert.deepEqual(shape, [4, 64, 32]);
      assertSameBits(data, Float32Array.from([...values].filter(([each]) => /experts\.\d+\.(down_proj|w2)\.weight$/.test(each)).flatMap(([, each]) => [...each])), name);
      await Promise.all([weights.close(), model.free(), plain.free(), kept.free()]);
    });
  }
}

testOnEveryModule('F34: stacked experts that are too few, or whose scales are another shape, are refused by name', async (runtime) => {
  const config = mixtureConfig('qwen3_moe');
  const { files, quantization } = asMlx(mixtureTensors(config), () => 4);
  const load = (changed) => runtime.loadModel(writeEncoded({ ...files, ...changed }), { config: { ...config, quantization } });
  const [up, scales] = ['weight', 'scales'].map((part) => `model.layers.0.mlp.switch_mlp.up_proj.${part}`);
  await assert.rejects(load({ [up]: { ...files[up], shape: [2, 64, 8] } }), heddleError('bad_file', /switch_mlp\.up_proj\.scales: expected a scale for each group of each row, found F32 of \[4, 32, 2\]/));
  const wider = (part) => ({ [`model.layers.0.mlp.switch_mlp.up_proj.${part}`]: { ...files[`model.layers.0.mlp.switch_mlp.up_proj.${part}`], shape: [2, 64, part === 'weight' ? 8 : 2] } });
  await assert.rejects(load({ ...wider('weight'), ...wider('scales'), ...wider('biases') }), heddleError('bad_file', /switch_mlp\.up_proj\.weight: the model wants shape \[128, 64\], the file has 128 packed rows/));
  await assert.rejects(load({ [scales]: { ...files[scales], shape: [128, 2] } }), heddleError('bad_file', /switch_mlp\.up_proj\.scales: expected a scale for each group/));
  const { [scales]: _, ...lacking } = files;
  await assert.rejects(runtime.loadModel(writeEncoded(lacking), { config: { ...config, quantization } }), heddleError('bad_file', /switch_mlp\.up_proj\.weight: the model wants shape \[128, 64\], the file has \[4, 32, 8\]/));
});

testOnEveryModule('F34: what does not fit its config is refused by name', async (runtime) => {
  const { bytes, shape: [rows, cols] } = packedFile('mlx_affine_4bit_g64_f32');
  await assert.rejects(runtime.loadModel(bytes, { config: linear(cols, rows, { quantization: { group_size: 64, bits: 8 } }) }),
    heddleError('bad_file', /tensor l\.weight: rows of 128 values in 8 bits and groups of 64 \(affine\) do not fit codes of \[3, 16\] and scales of \[3, 2\]/));
});

// ---- weights.mlx ----

const mlx = (weights, more = {}) => JSON.stringify({ version: '1.0', config: { hidden_size: 2 }, weights, ...more });
const small = {
  'b.half': { shape: [3], dtype: 'float16', data: [0.1, -65504, 6e-8] },
  'a.brain': { shape: [2, 1], dtype: 'bfloat16', data: [3.14159, -1e-40] },
  'c.full': { shape: [2, 2], dtype: 'float32', data: [0.1, 1e-45, -1e-60, 16777217] }, // JSON.stringify has no -0
};

testOnEveryModule('F25: a weights.mlx with data is read: labels, values rounded once, the metadata', async (runtime) => {
  const weights = await runtime.openWeights(runtime.mlxToSafetensors(mlx(small)));
  assert.deepEqual(weights.tensors.map(({ name, dtype, shape }) => [name, dtype, shape]), [['a.brain', 'BF16', [2, 1]], ['b.half', 'F16', [3]], ['c.full', 'F32', [2, 2]]]);
  assert.deepEqual([...(await weights.tensor('b.half')).data], [0x2e66, 0xfbff, 0x0001]);
  assert.deepEqual([...(await weights.tensor('a.brain')).data], [0x4049, 0x8001]);
  assertSameBits((await weights.tensor('c.full')).data, Float32Array.of(0.1, 1e-45, -0, 16777217), 'c.full');
  assert.deepEqual({ ...weights.metadata }, { format: 'mlx', version: '1.0', config: '{"hidden_size":2}' });
  await weights.close();
});

testOnEveryModule('F25: a weights.mlx that only describes weights.safetensors is recognised and listed', async (runtime) => {
  const note = 'Full weights are in weights.safetensors';
  const text = mlx({ 'x.weight': { shape: [2, 3], dtype: 0 }, 'y.weight': { shape: [4], dtype: 3 } }, { note });
  assert.deepEqual(runtime.listMlx(text), { metadataOnly: true, weights: [{ name: 'x.weight', dtype: 'float32', shape: [2, 3] }, { name: 'y.weight', dtype: 'bfloat16', shape: [4] }], note });
  assert.equal(runtime.listMlx(mlx(small)).metadataOnly, false);
  assert.throws(() => runtime.mlxToSafetensors(text), heddleError('unsupported', exactly(`MLX JSON: it only describes 2 weights, first x.weight: "${note}"`)));
});

const broken = [
  ['[]', 'Invalid MLX weight file format'],
  ['{"version": 1, "weights": {}}', 'Invalid MLX weight file format'],
  ['{"version": "1.0", "weights": []}', 'Invalid MLX weight file format'],
  [mlx({ k: { dtype: 'float32', data: [] } }), 'Missing shape for k'],
  [mlx({ k: { shape: 2, dtype: 'float32', data: [] } }), 'Missing shape for k'],
  [mlx({ k: { shape: [1], data: [1] } }), 'Missing dtype for k'],
  [mlx({ j: { shape: [1], dtype: 'float32', data: [1] }, k: { shape: [1], dtype: 0 } }), 'Missing dtype for k'],
  [mlx({ k: { shape: [1], dtype: 'float32' } }), 'Missing data for k'],
  [mlx({ k: { shape: [2, 3], dtype: 'float32', data: [1, 2, 3, 4, 5] } }), 'Data size mismatch for k: expected 6, got 5'],
  [mlx({ k: { shape: [1], dtype: 'int8', data: [1] } }), 'Unsupported dtype for k: int8. Supported: float32, float16, bfloat16'],
];

testOnEveryModule("E5: a broken weights.mlx is refused in MLX-Node's words, and what is no JSON in ours", async (runtime) => {
  for (const [text, message] of broken) assert.throws(() => runtime.mlxToSafetensors(text), heddleError(message.startsWith('Unsupported') ? 'unsupported' : 'bad_file', exactly(message)), text);
  const notJson = '{"version": "1.0", "weights": {"k": {"shape": [1], "dtype": "float32", "data": [NaN]}}}';
  assert.throws(() => runtime.mlxToSafetensors(notJson), heddleError('bad_file', new RegExp(`byte ${notJson.indexOf('NaN')}: expected a value, found 'NaN'`)));
  assert.throws(() => runtime.mlxToSafetensors(mlx({ k: { shape: [1], dtype: 'float32', data: [1e39] } })), heddleError('bad_file', /^k: .*expected a number that fits a float32/));
});

testOnEveryModule('F26 F27: weights.mlx to SafeTensors and back is the same, both ways, bit for bit', async (runtime) => {
  const file = runtime.mlxToSafetensors(mlx(small));
  const text = runtime.safetensorsToMlx(file);
  const { config, version } = JSON.parse(decode(text));
  assert.deepEqual([config, version], [{ hidden_size: 2 }, '1.0']);
  assert.deepEqual(runtime.mlxToSafetensors(text), file);
  assert.deepEqual(runtime.safetensorsToMlx(runtime.mlxToSafetensors(text)), text);
});

testOnEveryModule('F26 F27: a checkpoint survives weights.mlx bit for bit', needs(story), async (runtime) => {
  const tensors = await storyTensors(runtime);
  const text = runtime.safetensorsToMlx(new Uint8Array(readFileSync(shared(`${story}/model.safetensors`))), { config: { model_type: 'llama' } });
  const weights = await runtime.openWeights(runtime.mlxToSafetensors(text));
  assert.equal(weights.tensors.length, tensors.size);
  for await (const { name, shape, data } of weights.all({ as: 'f32' })) {
    assert.deepEqual(shape, tensors.get(name).shape);
    assertSameBits(data, tensors.get(name).data, name);
  }
  await weights.close();
});

testOnEveryModule('F27: other dtypes and values that JSON has no number for are refused', async (runtime) => {
  const file = (dtype, array) => writeEncoded({ w: { dtype, shape: [array.length], bytes: bytesOf(array) } });
  assert.throws(() => runtime.safetensorsToMlx(file('I32', Int32Array.of(1))), heddleError('unsupported', exactly('Unsupported dtype for w: I32. Supported: float32, float16, bfloat16')));
  assert.throws(() => runtime.safetensorsToMlx(file('F32', Float32Array.of(NaN, 1, Infinity))), heddleError('bad_argument',
    exactly("Cannot save model: parameter 'w' contains 2 NaN/Inf values. Model weights are corrupted, likely due to training instability. Consider reducing learning rate or using an earlier checkpoint.")));
});

testOnEveryModule('F42: a weights.mlx for people has a line for each row, and decimals as short as tell values apart', async (runtime) => {
  const file = runtime.mlxToSafetensors(mlx({ w: { shape: [2, 2], dtype: 'float32', data: [0.1, 2, 3.5, -1e-10] }, h: { shape: [2], dtype: 'float16', data: [0.1, 1] } }));
  const text = decode(runtime.safetensorsToMlx(file, { pretty: true, config: { a: 1 } }));
  assert.equal(text, `{
  "version": "1.0",
  "config": {
  "a": 1
},
  "weights": {
    "h": {
      "shape": [2],
      "dtype": "float16",
      "data": [
        0.1, 1
      ]
    },
    "w": {
      "shape": [2, 2],
      "dtype": "float32",
      "data": [
        0.1, 2,
        3.5, -1e-10
      ]
    }
  }
}
`);
  const values = (each) => each.subarray(8 + Number(Buffer.from(each.buffer).readBigUInt64LE(0)));
  assert.deepEqual(values(runtime.mlxToSafetensors(text)), values(file));
});

testOnEveryModule('F25: 24 MB of weights.mlx take less than four times that', async (runtime) => {
  const thousand = Array.from({ length: 1000 }, (_, i) => (Math.sin(i) / 7).toFixed(12));
  const text = encode(mlx({ w: { shape: [2_000_000], dtype: 'float32', data: [] } }).replace('[]', `[${Array(2000).fill(thousand.join()).join()}]`));
  const before = process.memoryUsage();
  const file = runtime.mlxToSafetensors(text);
  const after = process.memoryUsage();
  const grown = after.external + after.arrayBuffers - before.external - before.arrayBuffers;
  assert.ok(text.length > 24e6 && grown < 4 * text.length, `${text.length} bytes of text, ${grown} more held`);
  assert.ok(file.length > 8e6);
});

// ---- loadPretrained ----

const llama = (name) => new Uint8Array(readFileSync(golden(`transformers/llama-mild/${name}`)));
const tokenizer = () => new Uint8Array(readFileSync(golden('transformers/e2e-llama-text/tokenizer.json')));
const folder = (files) => ({ 'config.json': llama('config.json'), 'tokenizer.json': tokenizer(), ...files });

/** The logits of the last position of that case's prompt. */
async function checkLogits(model, name, path = golden) {
  const expected = readSafetensors(path(`${name}/expected.safetensors`));
  const ids = Array.from(expected.get('input_ids').data);
  const [, , vocabulary] = expected.get('logits').shape;
  const session = await model.createSession();
  await session.decode(ids);
  const want = expected.get('logits').data.subarray(-vocabulary);
  assertClose(await session.logits(), want, 1e-4, `${name}: logits`);
  await session.free();
}

/** The same weights with another value in the first, so that it shows which file was read. */
function marked(runtime, mark) {
  const tensors = Object.fromEntries(readSafetensors(golden('transformers/llama-mild/model.safetensors')));
  const name = 'model.norm.weight';
  tensors[name] = { ...tensors[name], data: Float32Array.from(tensors[name].data, () => mark) };
  return writeSafetensors(tensors);
}

testOnEveryModule('F24: weights.safetensors goes before model.safetensors and that before weights.mlx', async (runtime) => {
  const all = { 'weights.safetensors': marked(runtime, 1), 'model.safetensors': marked(runtime, 2), 'weights.mlx': runtime.safetensorsToMlx(marked(runtime, 3)) };
  for (const [i, names] of [Object.keys(all), ['model.safetensors', 'weights.mlx'], ['weights.mlx']].entries()) {
    const model = await runtime.loadPretrained(folder(Object.fromEntries(names.map((name) => [name, all[name]]))));
    assert.equal((await model.readWeight('model.norm.weight'))[0], i + 1, names.join());
    await model.free();
  }
});

testOnEveryModule('E10: what a folder lacks is said as MLX-Node says it, in its order', async (runtime) => {
  const dir = mkdtempSync(join(tmpdir(), 'heddle-mlx-'));
  try {
    const refused = (message) => assert.rejects(runtime.loadPretrained(dir), heddleError('bad_file', exactly(message)));
    await assert.rejects(runtime.loadPretrained(`${dir}-none`), heddleError('bad_file', exactly(`Model path does not exist: ${dir}-none`)));
    await refused(`Config file not found: ${dir}/config.json`);
    writeFileSync(join(dir, 'config.json'), llama('config.json'));
    await refused(`No supported weight file found in ${dir}. Expected weights.safetensors or weights.mlx`);
    writeFileSync(join(dir, 'model.safetensors'), llama('model.safetensors'));
    await refused(`Tokenizer file not found: ${dir}/tokenizer.json`);
    writeFileSync(join(dir, 'tokenizer.json'), tokenizer());
    const lines = [];
    const model = await runtime.loadPretrained(`${dir}/`, { log: (line) => lines.push(line) });
    await checkLogits(model, 'transformers/llama-mild');
    const tensors = readSafetensors(golden('transformers/llama-mild/model.safetensors'));
    const parameters = [...tensors.values()].reduce((sum, { data }) => sum + data.length, 0);
    assert.deepEqual(lines, [`Loading model from SafeTensors format: ${dir}/model.safetensors`, `  Found ${tensors.size} tensors (${parameters} parameters)`, `Loaded ${parameters} parameters from SafeTensors`], 'E17');
    await model.free();
  } finally {
    rmSync(dir, { recursive: true });
  }
});

testOnEveryModule("F28: config.json in each of MLX-Node's spellings, with its defaults", () => {
  const read = heddle.readQwen3Config;
  const defaults = { rmsNormEps: 1e-6, ropeTheta: 1e6, maxPositionEmbeddings: 2048, useQkNorm: true, tieWordEmbeddings: false, bosTokenId: 151643, eosTokenId: 151645, padTokenId: 151643 };
  const sizes = { vocabSize: 9, hiddenSize: 8, numLayers: 7, numHeads: 4, numKvHeads: 2, intermediateSize: 6, headDim: 2 };
  for (const config of [
    { vocab_size: 9, hidden_size: 8, num_hidden_layers: 7, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 6 },
    { vocab_size: 9, hidden_size: 8, num_layers: 7, num_heads: 4, num_kv_heads: 2, intermediate_size: 6 },
    { vocabSize: 9, hiddenSize: 8, numLayers: 7, numHeads: 4, numKvHeads: 2, intermediateSize: 6 },
    { vocab_size: 9, vocabSize: 1, hidden_size: 8, num_hidden_layers: 7, num_layers: 1, num_heads: 4, numKvHeads: 2, intermediate_size: 6, eos_token_id: [1, 2] },
  ]) assert.deepEqual(read(config), { ...sizes, ...defaults });
  assert.deepEqual(read({ hidden_size: 8, num_heads: 1, head_dim: 4, bos_token_id: 5, eosTokenId: 6, rope_parameters: { rope_theta: 7 }, use_qk_norm: false }),
    { ...defaults, vocabSize: 0, hiddenSize: 8, numLayers: 0, numHeads: 1, numKvHeads: 0, intermediateSize: 0, headDim: 4, bosTokenId: 5, eosTokenId: 6, padTokenId: 5, ropeTheta: 7, useQkNorm: false });
  assert.throws(() => read({ hidden_size: 8 }), heddleError('bad_file', exactly('num_attention_heads cannot be zero')));
  assert.throws(() => read({ hidden_size: 8, num_heads: 3 }), heddleError('bad_file', exactly('hidden_size (8) must be divisible by num_attention_heads (3)')));
});

/** MLX-Node's internal names. */
const internal = (name) => name.replace(/^model\./, '').replace(/^embed_tokens\./, 'embedding.').replace(/^norm\.weight$/, 'final_norm.weight');
const qwen3 = 'fixtures/transformers/qwen3';

testOnEveryModule('F28 L27: a Qwen3 folder loads, in both namings and all three files, with the logits of transformers', needs(qwen3), async (runtime) => {
  const tensors = Object.fromEntries(readSafetensors(shared(`${qwen3}/model.safetensors`)));
  const named = writeSafetensors(Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [internal(name), tensor])));
  const config = readJson(shared(`${qwen3}/config.v4.json`));
  const theirs = { ...config, model_type: undefined, num_hidden_layers: undefined, num_attention_heads: undefined, numLayers: config.num_hidden_layers, num_heads: config.num_attention_heads };
  const parameters = Object.values(tensors).reduce((sum, { data }) => sum + data.length, 0);
  for (const files of [
    { 'config.json': readFileSync(shared(`${qwen3}/config.json`)), 'model.safetensors': readFileSync(shared(`${qwen3}/model.safetensors`)) },
    { 'config.json': new Blob([JSON.stringify(config)]), 'weights.safetensors': named },
    { 'config.json': new Blob([JSON.stringify(theirs)]), 'weights.mlx': runtime.safetensorsToMlx(named) },
  ]) {
    const model = await runtime.loadPretrained({ 'tokenizer.json': tokenizer(), ...files });
    assert.equal(model.weights.reduce((sum, { shape }) => sum + shape.reduce((n, size) => n * size, 1), 0), parameters);
    await checkLogits(model, qwen3, shared);
    await model.free();
  }
});

// ---- SafeTensors as MLX-Node reads it ----

/** A file with that header (text or bytes) and so many bytes of data; `length` is what it says of the header. */
function withHeader(header, data = 0, length = undefined) {
  const bytes = typeof header === 'string' ? encode(header) : header;
  const file = new Uint8Array(8 + bytes.length + data);
  new DataView(file.buffer).setBigUint64(0, BigInt(length ?? bytes.length), true);
  file.set(bytes, 8);
  return file;
}

const tensor = (dtype, shape, begin, end) => ({ dtype, shape, data_offsets: [begin, end] });
const theirErrors = [
  ['E1', withHeader('{}', 0, 200_000_000), 'Invalid header length: 200000000 bytes (too large)'],
  ['E1', withHeader('{}', 0, 2n ** 64n - 1n), 'Invalid header length: 18446744073709551615 bytes (too large)'],
  ['E1', withHeader('{}', 0, 100_000_000), 'Failed to read header: failed to fill whole buffer'],
  ['E1', new Uint8Array(7), 'Failed to read header length: failed to fill whole buffer'],
  ['E2', withHeader(Uint8Array.of(0x7b, 0x22, 0xff, 0x22, 0x7d)), 'Invalid UTF-8 in header: invalid utf-8 sequence of 1 bytes from index 2'],
  ['E3', withHeader(JSON.stringify({ w: tensor('F32', [1024, 768], 0, 3145720) }), 3145720), 'Tensor size mismatch: expected 3145728 bytes, got 3145720'],
  ['E4', withHeader(JSON.stringify({ w: tensor('F32', [-1], 0, 4) }), 4), 'Failed to parse tensor info for w: invalid value: [-1], expected a sequence of whole numbers'],
  ['E4', withHeader(JSON.stringify({ w: tensor('F32', [1.5], 0, 4) }), 4), 'Failed to parse tensor info for w: invalid value: [1.5], expected a sequence of whole numbers'],
  ['E5', withHeader(''), 'Failed to parse header JSON: EOF while parsing a value at line 1 column 0'],
  ['E5', withHeader('[]'), 'Header must be a JSON object'],
  ['E5', withHeader(JSON.stringify({ w: { shape: [1], data_offsets: [0, 4] } }), 4), 'Failed to parse tensor info for w: missing field `dtype`'],
  ['E5', withHeader(JSON.stringify({ w: { dtype: 'F32', data_offsets: [0, 4] } }), 4), 'Failed to parse tensor info for w: missing field `shape`'],
  ['E5', withHeader(JSON.stringify({ w: { dtype: 'F32', shape: [1] } }), 4), 'Failed to parse tensor info for w: missing field `data_offsets`'],
  ['E5', withHeader(JSON.stringify({ z: { dtype: 'X' }, a: {} }), 4), 'Failed to parse tensor info for a: missing field `dtype`'],
  ['E6', withHeader(JSON.stringify({ w: tensor('F4', [2], 0, 1) }), 1),
    'Failed to parse tensor info for w: unknown variant `F4`, expected one of `F32`, `F16`, `BF16`, `I32`, `I64`, `U8`, `I8`, `F64`, `BOOL`, `U32`, `F8_E4M3`'],
];

for (const [id, file, message] of theirErrors) {
  testOnEveryModule(`${id}: "${message.slice(0, 60)}" as MLX-Node says it; ours by default`, async (runtime) => {
    await assert.rejects(runtime.openSafetensors(file, { errors: 'mlx-node' }), heddleError('bad_file', exactly(message)));
    if (id === 'E6') return; // F4 is no error of ours
    await assert.rejects(runtime.openSafetensors(file), (error) => heddleError(error.code)(error) && error.message !== message);
  });
}

testOnEveryModule('E4 E8: shapes that overflow, offsets that run backwards, overlap or leave the file are refused in both modes', async (runtime) => {
  const files = [
    withHeader(JSON.stringify({ w: tensor('F32', [2 ** 40, 2 ** 40], 0, 4) }), 4),
    withHeader(JSON.stringify({ w: tensor('F32', [1], 4, 0) }), 4),
    withHeader(JSON.stringify({ a: tensor('F32', [1], 0, 4), b: tensor('F32', [1], 2, 6) }), 6),
    withHeader(JSON.stringify({ w: tensor('F32', [4], 0, 16) }), 4),
  ];
  for (const file of files) for (const errors of ['heddle', 'mlx-node']) await assert.rejects(runtime.openSafetensors(file, { errors }), heddleError('bad_file'));
});

testOnEveryModule('E6: a dtype that MLX-Node does not load is refused in its words, and read by us', async (runtime) => {
  const file = withHeader(JSON.stringify({ 'embedding.weight': tensor('F64', [1], 0, 8) }), 8);
  const theirs = await runtime.openSafetensors(file, { errors: 'mlx-node' });
  await assert.rejects(theirs.getTensor('embedding.weight'), heddleError('unsupported', exactly('Unsupported dtype for tensor embedding.weight: F64. Supported: F32, F16, BF16, I8, I32, U8, U32, F8_E4M3')));
  await theirs.close();
  const ours = await runtime.openSafetensors(file);
  assert.deepEqual([...(await ours.getTensor('embedding.weight')).data], [0]);
  await ours.close();
});

testOnEveryModule('E7: a missing file is said as MLX-Node says it, and by name in ours', async (runtime) => {
  await assert.rejects(runtime.openSafetensors('/no/such/file.safetensors', { errors: 'mlx-node' }), heddleError('bad_file', exactly('Failed to open file: No such file or directory (os error 2)')));
  await assert.rejects(runtime.openSafetensors('/no/such/file.safetensors'), heddleError('bad_file', /file\.safetensors/));
});

testOnEveryModule('F29 F30 F31 E17 L27: names, sizes, counts and metadata under MLX-Node names, data in any order', async (runtime) => {
  const header = { __metadata__: { format: 'pt', model_type: 'x' }, b: tensor('F16', [2, 3], 4, 16), a: tensor('I32', [], 0, 4) };
  const lines = [];
  const file = await runtime.loadSafetensors(withHeader(JSON.stringify(header), 16), { errors: 'mlx-node', log: (line) => lines.push(line) });
  assert.deepEqual(file.tensorNames().sort(), ['a', 'b']);
  assert.deepEqual([file.numel('b'), file.byteSize('b'), file.numel('a'), file.numParameters()], [6, 12, 1, 7]);
  assert.deepEqual({ ...file.metadata }, { format: 'pt', model_type: 'x' });
  assert.deepEqual(Object.keys(await file.loadTensors()), ['a', 'b']);
  assert.deepEqual(lines, ['  Found 2 tensors (7 parameters)']);
  await file.close();
});

testOnEveryModule('T4: a weights.mlx is known by its content, whatever its name', async (runtime) => {
  const text = runtime.safetensorsToMlx(llama('model.safetensors'));
  const model = await runtime.loadModel(text, { config: llama('config.json') });
  await checkLogits(model, 'transformers/llama-mild');
  await model.free();
  const weights = await runtime.openWeights({ 'model.safetensors': text });
  assert.equal(weights.tensors.length, readSafetensors(golden('transformers/llama-mild/model.safetensors')).size);
  await weights.close();
  await assert.rejects(runtime.loadModel(text), heddleError('bad_argument', /this looks like MLX-Node's weights\.mlx/));
});
