/**
 * GGUF files we write, read back by the small reader below, which shares nothing with the package: types, values, and a model's names, metadata
 * and order of rows as the files made elsewhere have them.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertClose, assertSameBits, readSafetensors } from './golden.mjs';
import { golden, heddleError, needs, readJson, shared, testOnEveryModule } from './heddle.mjs';

// ---- A reader of its own ----

const scalars = {
  0: (v, at) => [v.getUint8(at), 1, 'u8'], 1: (v, at) => [v.getInt8(at), 1, 'i8'], 2: (v, at) => [v.getUint16(at, true), 2, 'u16'],
  3: (v, at) => [v.getInt16(at, true), 2, 'i16'], 4: (v, at) => [v.getUint32(at, true), 4, 'u32'], 5: (v, at) => [v.getInt32(at, true), 4, 'i32'],
  6: (v, at) => [v.getFloat32(at, true), 4, 'f32'], 7: (v, at) => [v.getUint8(at) === 1, 1, 'bool'], 10: (v, at) => [v.getBigUint64(at, true), 8, 'u64'],
  11: (v, at) => [v.getBigInt64(at, true), 8, 'i64'], 12: (v, at) => [v.getFloat64(at, true), 8, 'f64'],
};
const ggml = { 0: ['F32', 1, 4], 1: ['F16', 1, 2], 2: ['Q4_0', 32, 18], 8: ['Q8_0', 32, 34], 24: ['I8', 1, 1], 30: ['BF16', 1, 2] };

/** { metadata: key → [type, value], tensors: name → { dtype, shape, bytes } }. */
function readGguf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 24;
  const u32 = () => view.getUint32((at += 4) - 4, true);
  const u64 = () => Number(view.getBigUint64((at += 8) - 8, true));
  const text = () => {
    const n = u64();
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(at, (at += n)));
  };
  const value = (type) => {
    if (type === 8) return ['string', text()];
    if (type === 9) {
      const element = u32();
      const all = Array.from({ length: u64() }, () => value(element));
      return [`array ${all[0]?.[0] ?? element}`, all.map(([, each]) => each)];
    }
    const [found, n, name] = scalars[type](view, at);
    at += n;
    return [name, found];
  };
  assert.equal(new TextDecoder().decode(bytes.subarray(0, 4)), 'GGUF');
  assert.equal(view.getUint32(4, true), 3);
  const [nTensors, nPairs] = [Number(view.getBigUint64(8, true)), Number(view.getBigUint64(16, true))];
  const metadata = new Map();
  for (let i = 0; i < nPairs; i++) metadata.set(text(), value(u32()));
  const infos = Array.from({ length: nTensors }, () => {
    const name = text();
    const sizes = Array.from({ length: u32() }, u64);
    return { name, shape: sizes.reverse(), type: u32(), offset: u64() };
  });
  const start = Math.ceil(at / 32) * 32;
  const tensors = new Map();
  for (const { name, shape, type, offset } of infos) {
    const [dtype, block, blockBytes] = ggml[type];
    const n = (shape.reduce((a, b) => a * b, 1) / block) * blockBytes;
    assert.equal(offset % 32, 0, name);
    assert.ok(start + offset + n <= bytes.length, name);
    tensors.set(name, { dtype, shape, bytes: bytes.slice(start + offset, start + offset + n) });
  }
  return { metadata, tensors };
}

// ---- Tensors and metadata ----

testOnEveryModule('GGUF tensors of every type are written as the reference quantisers do, and read back', async (runtime) => {
  const inputs = {};
  const want = {};
  for (const kind of ['Q8_0', 'Q4_0']) {
    const file = readSafetensors(golden(`quant/quant_${kind}.safetensors`));
    const { data, shape } = file.get('source');
    inputs[kind] = { values: data, shape, dtype: kind };
    want[kind] = { shape, bytes: Uint8Array.from(file.get('blocks').data) };
  }
  inputs.vector = { values: [1, -2.5, 3e10], shape: [3] };
  inputs.half = { values: [1, -2.5, 65504, 2 ** -24], shape: [2, 2], dtype: 'F16' };
  inputs.whole = { values: [1, -128], shape: [1, 2], dtype: 'I8' };
  inputs.scalar = { values: [7], shape: [] };
  const bytes = runtime.serializeGguf(inputs, { 'general.architecture': 'test' });
  const { tensors, metadata } = readGguf(bytes);
  assert.deepEqual([...tensors.keys()], Object.keys(inputs));
  assert.deepEqual(metadata.get('general.architecture'), ['string', 'test']);
  for (const [kind, { shape, bytes: blocks }] of Object.entries(want)) {
    assert.deepEqual(tensors.get(kind).shape, shape);
    assert.deepEqual(tensors.get(kind).bytes, blocks, kind);
  }
  assertSameBits(new Float32Array(tensors.get('vector').bytes.buffer), Float32Array.of(1, -2.5, 3e10), 'vector');
  assert.deepEqual([...new Uint16Array(tensors.get('half').bytes.buffer)], [0x3c00, 0xc100, 0x7bff, 1]);
  assert.deepEqual([...new Int8Array(tensors.get('whole').bytes.buffer)], [1, -128]);
  assert.deepEqual(tensors.get('scalar').shape, []);
  const { tensors: listed } = await runtime.inspect(bytes);
  assert.deepEqual(listed.map(({ name, dtype, shape }) => ({ name, dtype, shape })), [...tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape })));
});

testOnEveryModule('GGUF metadata get types by their values, by their keys, or as they are told', async (runtime) => {
  const metadata = new Map(Object.entries({
    small: 7, negative: -7, large: 2 ** 40, minus: -(2 ** 40), exact: 2n ** 64n - 1n, least: -(2n ** 63n), third: 0.5, tenth: 0.1, far: 1e300, yes: true, name: 'é"\\\n',
    ids: [0, 1, 2], mixed: [-1, 2 ** 31], reals: [0, 0.5], words: ['a', ''], nested: [[1], [2, 3]], none: [], infinite: Infinity, nans: [NaN, 1.5],
    'x.rope.freq_base': 10000, 'tokenizer.ggml.scores': [0, -1], typed: { type: 'u8', value: [1, 255] }, single: { type: 'f64', value: 1 }, bytes: Int8Array.of(-1, 1), wide: BigInt64Array.of(-5n),
  }));
  const { metadata: found } = readGguf(runtime.serializeGguf({}, metadata));
  assert.deepEqual(Object.fromEntries(found), {
    small: ['u32', 7], negative: ['i32', -7], large: ['u64', 2n ** 40n], minus: ['i64', -(2n ** 40n)], exact: ['u64', 2n ** 64n - 1n], least: ['i64', -(2n ** 63n)],
    third: ['f32', 0.5], tenth: ['f32', Math.fround(0.1)], far: ['f64', 1e300], yes: ['bool', true], name: ['string', 'é"\\\n'],
    ids: ['array i32', [0, 1, 2]], mixed: ['array i64', [-1n, 2n ** 31n]], reals: ['array f32', [0, 0.5]], words: ['array string', ['a', '']],
    nested: ['array array i32', [[1], [2, 3]]], none: ['array 5', []], infinite: ['f32', Infinity], nans: ['array f32', [NaN, 1.5]],
    'x.rope.freq_base': ['f32', 10000], 'tokenizer.ggml.scores': ['array f32', [0, -1]], typed: ['array u8', [1, 255]], single: ['f64', 1], bytes: ['array i8', [-1, 1]], wide: ['array i64', [-5n]],
  });
});

testOnEveryModule('GGUF metadata of every value type survive reading and writing', async (runtime) => {
  const path = golden('quant/gguf_metadata_only.gguf');
  const { metadata } = await runtime.inspect(path);
  assert.deepEqual((await runtime.inspect(runtime.serializeGguf({}, metadata))).metadata, metadata);
});

testOnEveryModule('GGUF cannot be written of what it does not hold', async (runtime) => {
  const write = (tensors, metadata) => () => runtime.serializeGguf(tensors, metadata);
  const one = (dtype, shape, n) => ({ w: { dtype, shape, values: new Float32Array(n) } });
  assert.throws(write(one('Q8_0', [2, 48], 96)), heddleError('bad_argument', /tensor w: expected rows of a multiple of 32 values for Q8_0, found 48/));
  assert.throws(write(one('U8', [2], 2)), heddleError('bad_argument', /GGUF has no dtype 'U8'/));
  assert.throws(write(one('Q4_K', [256], 256)), heddleError('unsupported', /cannot be written as 'Q4_K'/));
  assert.throws(write(one('F32', [3], 2)), heddleError('bad_argument', /^w: shape \[3\] wants 3 values, found 2$/));
  assert.throws(write({}, { a: [1, 'b'] }), heddleError('bad_file', /values of one type in the array/));
  assert.throws(write({}, { a: null }), heddleError('bad_file', /expected a number, a text/));
  assert.throws(write({}, { a: { type: 'u8', value: 256 } }), heddleError('bad_file', /a whole number that its type holds/));
  assert.throws(write({}, { a: { kind: 'u8' } }), heddleError('bad_file', /"type".*"value"/));
});

// ---- Models ----

const folder = 'fixtures/real/stories260k';
const skipped = needs(folder);
const at = (file) => shared(`${folder}/${file}`);
const kinds = ['f32', 'q8_0', 'q4_0'];
if (skipped.skip) test('GGUF stories260K is written', skipped, () => undefined);

/** The last kind of `kinds` was made from the one before it, not from the original. */
const sources = { f32: 'hf', q8_0: 'hf', q4_0: 'stories260K-q8_0.gguf' };

for (const kind of kinds) {
  testOnEveryModule(`GGUF stories260K written as ${kind} has the tensors of the file made elsewhere, byte for byte`, skipped, async (runtime) => {
    const want = readGguf(new Uint8Array(readFileSync(at(`stories260K-${kind}.gguf`))));
    const model = await runtime.loadModel(at(sources[kind]), { dtype: 'f32' });
    const { tensors, metadata } = readGguf(await model.saveGguf({ dtype: kind.toUpperCase() }));
    assert.deepEqual([...tensors.keys()].sort(), [...want.tensors.keys()].sort());
    for (const [name, { dtype, shape, bytes }] of want.tensors) assert.deepEqual(tensors.get(name), { dtype, shape, bytes }, name);
    for (const [key, value] of metadata) if (key.startsWith('llama.')) assert.deepEqual(value, want.metadata.get(key), key);
    for (const key of ['llama.block_count', 'llama.attention.head_count_kv', 'llama.rope.freq_base', 'llama.attention.layer_norm_rms_epsilon', 'general.architecture', 'general.file_type']) {
      assert.deepEqual(metadata.get(key), want.metadata.get(key), key);
    }
    await model.free();
  });
}

testOnEveryModule('GGUF stories260K goes from SafeTensors to GGUF and back into a model that says the same', skipped, async (runtime) => {
  const { metadata } = await runtime.inspect(at('stories260K-f32.gguf'));
  const tokenizer = Object.fromEntries(Object.entries(metadata).filter(([key]) => key.startsWith('tokenizer.')));
  const model = await runtime.loadModel(at('hf'));
  const again = await runtime.loadModel(await model.saveGguf({ metadata: { 'general.name': 'again', ...tokenizer } }));
  const row = readJson(at('expected-variants.json'))['stories260K-f32.gguf'];
  assert.equal(row.prompt + (await again.generate(row.prompt, { maxTokens: row.ids.length - 5, stopTokens: [1] }).text()), row.text);
  for (const { name } of model.weights) assertSameBits(await again.readWeight(name), await model.readWeight(name), name);
  await Promise.all([model.free(), again.free()]);
});

testOnEveryModule('GGUF blocks that a model has keep their bits when it is written again', skipped, async (runtime) => {
  for (const kind of ['q8_0', 'q4_0']) {
    const want = readGguf(new Uint8Array(readFileSync(at(`stories260K-${kind}.gguf`))));
    const model = await runtime.loadModel(at(`stories260K-${kind}.gguf`));
    const { tensors } = readGguf(await model.saveGguf({ dtype: kind.toUpperCase() }));
    for (const [name, { bytes }] of want.tensors) assert.deepEqual(tensors.get(name).bytes, bytes, `${name} of ${kind}`);
    await model.free();
  }
});

/** Small checkpoints of transformers, with the logits it gives: written as GGUF and read back they are the same models. */
const checkpoints = [
  'llama-mild', 'llama-gqa-tied', 'llama-mha', 'llama-bias', 'llama-rope-linear', 'llama-rope-yarn', 'llama3-rope', 'qwen2', 'qwen2-mild', 'qwen3', 'gemma', 'gemma2', 'gemma3',
  'smollm3', 'phi3', 'mistral-swa',
];

/** Where a checkpoint is unlike all published ones, in what GGUF takes for granted: refused as it is, and what it has to be. */
const unlike = {
  gemma2: [/query_pre_attn_scalar: GGUF cannot say it; expected 16, found 24/, { query_pre_attn_scalar: 16 }],
  gemma3: [/layer_types: GGUF cannot say what layer 1 is/, { layer_types: ['sliding_attention', 'sliding_attention', 'sliding_attention'] }],
  smollm3: [/no_rope_layers: GGUF cannot say what layer 1 is/, { no_rope_layers: [1, 1, 1, 0] }],
};

for (const [name, [reason]] of Object.entries(unlike)) {
  testOnEveryModule(`GGUF the ${name} checkpoint is not written as something else than it is`, needs(`fixtures/transformers/${name}`), async (runtime) => {
    const model = await runtime.loadModel(shared(`fixtures/transformers/${name}`));
    await assert.rejects(model.saveGguf(), heddleError('unsupported', reason));
    await model.free();
  });
}

for (const name of checkpoints) {
  const source = `fixtures/transformers/${name}`;
  testOnEveryModule(`GGUF the ${name} checkpoint goes to GGUF and back`, needs(source), async (runtime) => {
    const config = { ...readJson(shared(`${source}/config.json`)), ...unlike[name]?.[1] };
    const model = await runtime.loadModel(shared(`${source}/model.safetensors`), { config });
    const again = await runtime.loadModel(await model.saveGguf());
    const logits = async (each) => {
      const session = await each.createSession({ outputRows: 1 });
      await session.decode([1, 5, 9, 2, 7, 3, 11, 4, 8, 6, 12, 10, 15, 14, 13, 16, 18, 17, 19, 20]);
      return session.logits();
    };
    assert.equal(again.weights.length, model.weights.length);
    // Gemma's norms have 1 added in the file, and lose what that rounds off.
    const slack = name.startsWith('gemma') ? 2 ** -24 : 0;
    for (const { name: weight } of model.weights) assertClose(await again.readWeight(weight), await model.readWeight(weight), slack, weight);
    assertClose(await logits(again), await logits(model), 1e-5, 'logits');
    await Promise.all([model.free(), again.free()]);
  });
}

testOnEveryModule('GGUF says what keeps a model from being written', async (runtime) => {
  const model = await runtime.buildNetwork({ input_shape: [1, 4], layers: [{ type: 'linear', in_features: 4, out_features: 4 }] });
  await assert.rejects(model.saveGguf(), heddleError('bad_argument', /loaded without a config\.json/));
  await assert.rejects(model.saveGguf({ config: { model_type: 't5' } }), heddleError('unsupported', /model_type 't5' is not written as GGUF/));
  await assert.rejects(model.saveGguf({ config: { model_type: 'llama', num_attention_heads: 1 } }), heddleError('unsupported', /weight .* has no name in GGUF/));
  await assert.rejects(model.saveGguf({ dtype: 'Q4_K', config: {} }), heddleError('bad_argument', /dtype/));
  await model.free();
});
