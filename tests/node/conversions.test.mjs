/**
 * What weights become on their way in: every dtype of SafeTensors, every dtype a weight may be turned into, and what the report says.
 *
 * Expected values are PyTorch's (fixtures/torch/safetensors), and those of the formulas in reference-llama.mjs, which quantised.test.mjs holds to
 * the published logits of stories260K's GGUF files.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertClose, assertSameBits, distance, readSafetensors, writeEncoded, writeSafetensors } from './golden.mjs';
import { entry, heddleError, needs, readJson, shared, testOnEveryModule } from './heddle.mjs';
import { lastLogits, noisy, quantiseWeights, roundedEitherWay } from './reference-llama.mjs';

const torch = (file) => shared(`fixtures/torch/safetensors/${file}`);
const torchThere = needs('fixtures/torch/safetensors');

/** One linear of that many inputs and outputs. */
const linear = (inputs, outputs) => ({ input_shape: [1, inputs], layers: [{ type: 'linear', name: 'l', in_features: inputs, out_features: outputs, bias: false }] });

/** A model with a weight of those bytes. */
const modelOf = (runtime, dtype, [rows, cols], bytes, options) =>
  runtime.loadModel(writeEncoded({ 'l.weight': { dtype, shape: [rows, cols], bytes } }), { config: linear(cols, rows), ...options });

/** Fails unless the numbers are the same bits, where any NaN is any other. */
function assertSameNumbers(got, want, what) {
  assert.equal(got.length, want.length, what);
  for (const [i, value] of want.entries()) assert.ok(Object.is(got[i], value), `${what}: value ${i}: expected ${value}, found ${got[i]}`);
}

// ---- Every code ----

/** A tensor of codes.safetensors: its bytes, and its values as float32. */
function codes(name) {
  const file = readFileSync(torch('codes.safetensors'));
  const header = Number(file.readBigUInt64LE(0));
  const tensors = JSON.parse(file.toString('utf8', 8, 8 + header));
  const bytesOf = (each) => Uint8Array.from(file.subarray(8 + header + tensors[each].data_offsets[0], 8 + header + tensors[each].data_offsets[1]));
  return { bytes: bytesOf(name), values: new Float32Array(bytesOf(`${name}.as_f32`).buffer) };
}

for (const [name, dtype] of [['f16', 'F16'], ['bf16', 'BF16'], ['f8_e4m3', 'F8_E4M3'], ['f8_e5m2', 'F8_E5M2']]) {
  const side = dtype.startsWith('F8') ? 16 : 256;
  testOnEveryModule(`F21 every code of ${dtype} becomes the float32 that PyTorch gives, kept or converted`, torchThere, async (runtime) => {
    const { bytes, values } = codes(name);
    for (const asked of ['f32', 'keep']) {
      const model = await modelOf(runtime, dtype, [side, side], bytes, { dtype: asked });
      assertSameNumbers(await model.readWeight('l.weight'), values, `${dtype} as ${asked}`);
      assert.deepEqual(model.report.lossy, []);
      await model.free();
    }
  });

  if (!dtype.startsWith('F8')) {
    testOnEveryModule(`F21 the float32 of every code of ${dtype} becomes that code again`, torchThere, async (runtime) => {
      const { values } = codes(name);
      const model = await modelOf(runtime, 'F32', [side, side], Buffer.from(values.buffer), { dtype: name });
      assert.equal(model.weights[0].dtype, dtype);
      assertSameNumbers(await model.readWeight('l.weight'), values, dtype);
      await model.free();
    });
  }
}

// ---- Every dtype ----

const dtypes = ['F64', 'F32', 'F16', 'BF16', 'F8_E4M3', 'F8_E5M2', 'F8_E4M3FNUZ', 'F8_E5M2FNUZ', 'F8_E8M0', 'F4', 'I64', 'I32', 'I16', 'I8', 'U64', 'U32', 'U16', 'U8', 'BOOL'];

/** As the JSON writes it: numbers, true and false, whole numbers beyond 2^53 as text, and "inf", "-inf", "nan". */
const numberOf = (value) => ({ inf: Infinity, '-inf': -Infinity, nan: NaN })[value] ?? Number(value);

/** The tensor `t` of dtype_*.json: bytes and the float32 nearest to its values. */
function stored(dtype) {
  const { t } = readJson(torch(`dtype_${dtype}.json`)).tensors;
  const values = (t.values ?? t.values_low_nibble_first).flat(Infinity);
  return { bytes: Buffer.from(t.bytes_hex, 'hex'), values: Float32Array.from(values, numberOf) };
}

for (const dtype of dtypes) {
  testOnEveryModule(`F13 F32 F33: weights of ${dtype} are read as PyTorch's values`, torchThere, async (runtime) => {
    const { bytes, values } = stored(dtype);
    const model = await modelOf(runtime, dtype, [1, values.length], bytes, { dtype: 'f32' });
    assertSameNumbers(await model.readWeight('l.weight'), values, dtype);
    assert.deepEqual([model.report.weights[0].fileDtype, model.report.weights[0].dtype], [dtype, 'F32']);
    assert.equal(model.report.weights[0].lossy, ['F64', 'I64', 'I32', 'U64', 'U32'].includes(dtype));
    await model.free();
  });
}

testOnEveryModule('F13 F6 of both kinds is read, four values to three bytes, and refused where it ends inside a byte', async (runtime) => {
  const read = { F6_E2M3: [0.125, 4.5, 0.125, 0.375], F6_E3M2: [0.0625, 16, 0.0625, 0.1875] };
  for (const [dtype, values] of Object.entries(read)) {
    const bits = (first, second, third, fourth) => first | (second << 6) | (third << 12) | (fourth << 18);
    const codes = bits(1, dtype === 'F6_E2M3' ? 0b011001 : 0b011100, 1, 3);
    const bytes = Buffer.from([codes & 255, (codes >> 8) & 255, codes >> 16]);
    const model = await modelOf(runtime, dtype, [1, 4], bytes, {});
    assertSameNumbers(await model.readWeight('l.weight'), values, dtype);
    await model.free();
    await assert.rejects(modelOf(runtime, dtype, [1, 3], bytes, {}), heddleError('bad_file', /shape \[1, 3\] of F6_\w+ does not end where a byte does/));
  }
});

testOnEveryModule('F13 C64 is listed by inspect and refused, by name, as a weight', torchThere, async (runtime) => {
  const { tensors } = await runtime.inspect(torch('dtype_C64.safetensors'));
  assert.deepEqual(tensors.map(({ name, dtype, shape }) => [name, dtype, shape]), [['t', 'C64', [3]]]);
  await assert.rejects(modelOf(runtime, 'C64', [1, 3], Buffer.alloc(24), {}), heddleError('unsupported', /tensor l\.weight: values of C64 cannot become float32/));
});

// ---- The report ----

const table = { F32: 'f32', F16: 'f16', BF16: 'bf16', Q8_0: 'q8_0', Q4_0: 'q4_0', INT8: 'int8' };

testOnEveryModule('F21 the report says what every weight was, what it became, and why', async (runtime) => {
  const layers = [
    { type: 'embedding', name: 'e', vocab_size: 8, embedding_dim: 64 },
    { type: 'linear', name: 'a', in_features: 64, out_features: 100 },
    { type: 'linear', name: 'b', in_features: 100, out_features: 64, bias: false },
    { type: 'linear', name: 'head', in_features: 64, out_features: 8, bias: false },
  ];
  const tensor = (dtype, ...shape) => ({ dtype, shape, bytes: Buffer.alloc(shape.reduce((a, b) => a * b, 1) * (dtype === 'F32' ? 4 : 2)) });
  const file = writeEncoded({
    'e.weight': tensor('BF16', 8, 64), 'a.weight': tensor('F32', 100, 64), 'a.bias': tensor('F16', 100), 'b.weight': tensor('F16', 64, 100), 'head.weight': tensor('F32', 8, 64),
  });
  const model = await runtime.loadModel(file, { config: { input_shape: [3], input_dtype: 'I32', layers }, dtype: 'q4_0' });
  const { report } = model;
  assert.deepEqual(report.weights.map(({ name, fileDtype, dtype, lossy }) => [name, fileDtype, dtype, lossy]), [
    ['e.weight', 'BF16', 'Q8_0', true], ['a.weight', 'F32', 'Q4_0', true], ['a.bias', 'F16', 'F32', false], ['b.weight', 'F16', 'F16', false], ['head.weight', 'F32', 'Q8_0', true],
  ]);
  assert.deepEqual(report.lossy, ['e.weight', 'a.weight', 'head.weight']);
  assert.deepEqual(report.fallbacks, [
    'e.weight: an embedding: 8 bits at least, became Q8_0',
    'b.weight: row of 100 is no multiple of 32: kept F16',
    'head.weight: the head: 8 bits at least, became Q8_0',
  ]);
  assert.equal(report.bytes, report.weights.reduce((sum, { bytes }) => sum + bytes, 0));
  assert.equal(report.weights[1].bytes, 100 * 64 * 0.625);
  await model.free();
});

for (const [dtype, asked] of Object.entries(table)) {
  testOnEveryModule(`'${asked}' makes a matrix ${dtype}, whatever the file has`, async (runtime) => {
    for (const [file, width] of [['F64', 8], ['F32', 4], ['F16', 2], ['BF16', 2], ['F8_E4M3', 1], ['I16', 2]]) {
      const layers = [...linear(64, 32).layers, { type: 'linear', name: 'head', in_features: 32, out_features: 4, bias: false }];
      const tensors = { 'l.weight': { dtype: file, shape: [32, 64], bytes: Buffer.alloc(32 * 64 * width) }, 'head.weight': { dtype: file, shape: [4, 32], bytes: Buffer.alloc(4 * 32 * width) } };
      const model = await runtime.loadModel(writeEncoded(tensors), { config: { input_shape: [1, 64], layers }, dtype: asked });
      assert.deepEqual([model.weights[0].dtype, model.weights[0].fileDtype], [dtype, file]);
      await model.free();
    }
  });
}

/** BF16 numbers of a fixed sequence, in −½ … ½ or so. */
function someBf16(n, seed) {
  const bits = new Uint16Array(n);
  for (let i = 0, state = seed; i < n; i++) {
    state = Math.imul(state, 1664525) + 1013904223 | 0;
    bits[i] = ((state >>> 16) & 0x807f) | 0x3e80;
  }
  return Buffer.from(bits.buffer);
}

for (const asked of ['q4_0', 'q8_0', 'int8', 'f32']) {
  testOnEveryModule(`a load as ${asked} takes the converted model's memory and a piece, not the file's`, async (runtime) => {
    const side = 1024;
    const names = ['a', 'b', 'c', 'd'];
    const layers = names.map((name) => ({ type: 'linear', name, in_features: side, out_features: side, bias: false }));
    const file = writeEncoded(Object.fromEntries(names.map((name, i) => [`${name}.weight`, { dtype: 'BF16', shape: [side, side], bytes: someBf16(side * side, i + 1) }])));
    const model = await runtime.loadModel(new Blob([file]), { config: { input_shape: [1, side], layers }, dtype: asked });
    const { peak } = await model.memory();
    const tiny = await runtime.buildNetwork(linear(1, 1)); // what an instance takes by itself: its threads' stacks
    const { live } = await tiny.memory();
    const piece = 2 ** 20;
    assert.ok(peak - live <= model.report.bytes + 1.25 * piece, `peak ${peak - live}, model ${model.report.bytes}`);
    await model.free();
    await tiny.free();
  });
}

test('a model of a worker has the same report', needs('fixtures/real/stories260k'), async () => {
  const { init } = await entry('./worker');
  const [here, there] = [await (await entry('.')).init(), await init()];
  const [a, b] = [await here.loadModel(folder, { dtype: 'q4_0' }), await there.loadModel(folder, { dtype: 'q4_0' })];
  assert.deepEqual(b.report, a.report);
  assert.equal(b.report.fallbacks.length, 6);
  await Promise.all([a.free(), b.free()]);
  await Promise.all([here.free(), there.free()]);
});

testOnEveryModule('networks that were built have an empty report', async (runtime) => {
  const model = await runtime.buildNetwork(linear(4, 4));
  assert.deepEqual(model.report, { weights: [], bytes: 0, lossy: [], fallbacks: [] });
  await model.free();
});

// ---- stories260K, converted ----

const folder = shared('fixtures/real/stories260k/hf');
const skipped = needs('fixtures/real/stories260k');
const ifThere = (read) => (skipped.skip ? undefined : read());
const config = ifThere(() => readJson(`${folder}/config.json`));
const original = ifThere(() => readSafetensors(`${folder}/model.safetensors`));
const published = ifThere(() => readJson(shared('fixtures/real/stories260k/expected-variants.json')));
const promptIds = [1, 403, 407, 261, 378]; // "Once upon a time"
const converted = (asked) => quantiseWeights(original, asked);

/** The published Q4_0 file was made from the Q8_0 one (measured: all of its blocks are the quantiser's of those values, a quarter are not of the original's). */
const q8Values = () => new Map([...converted('q8_0')].map(([name, { shape, data }]) => [name, { shape, data: Float32Array.from(data) }]));
const publishedQ4 = () => published['stories260K-q4_0.gguf'].last_prompt_position_logits;

const logitsOf = async (model) => {
  const session = await model.createSession({ outputRows: 1 });
  await session.decode(promptIds);
  return session.logits();
};

test('an independent Llama in double precision gives the published logits of Q4_0 weights', skipped, () => {
  assertClose(lastLogits(config, quantiseWeights(q8Values(), 'q4_0'), promptIds), publishedQ4(), 1e-4, 'logits');
});

for (const asked of ['q4_0', 'int8', 'q8_0', 'f16']) {
  testOnEveryModule(`stories260K as ${asked}: every weight has the formula's bits, and the logits are the definition's within float32 noise`, skipped, async (runtime) => {
    const weights = converted(asked);
    const model = await runtime.loadModel(folder, { dtype: asked });
    for (const { name, dtype } of model.weights) {
      const { data, kind } = weights.get(name);
      assert.equal(dtype, Object.entries(table).find(([, each]) => each === kind)[0], name);
      assertSameBits(await model.readWeight(name), Float32Array.from(data), name);
    }
    // What quantised.test.mjs says of Q8_0: roundings within 2e-4 steps of a tie may go either way, and ours is one of the ways.
    const ways = roundedEitherWay(config, weights, promptIds, asked === 'int8' ? 1e-4 : 2e-4);
    const logits = await logitsOf(model);
    const error = Math.min(...ways.map((way) => distance(logits, way)));
    assert.ok(error <= 2e-5, `off by ${error} from the nearest of ${ways.length} ways`);
    await model.free();
  });
}

/** The deviation of each logit that uniform noise of the activations' rounding gives the reference. */
function sigma(weights, runs = 100) {
  const exact = lastLogits(config, weights, promptIds);
  const squares = new Float64Array(exact.length);
  for (let run = 1; run <= runs; run++) lastLogits(config, weights, promptIds, noisy(run)).forEach((logit, i) => (squares[i] += (logit - exact[i]) ** 2));
  return squares.map((sum) => Math.sqrt(sum / runs));
}

let deviations;

testOnEveryModule('stories260K through Q8_0 to Q4_0 gives logits within 6 sigma of the published ones of its GGUF file', skipped, async (runtime) => {
  deviations ??= sigma(quantiseWeights(q8Values(), 'q4_0'));
  const weights = writeSafetensors(Object.fromEntries(q8Values()));
  const model = await runtime.loadModel({ 'config.json': JSON.stringify(config), 'model.safetensors': weights }, { dtype: 'q4_0' });
  for (const [i, logit] of (await logitsOf(model)).entries()) {
    const error = Math.abs(logit - publishedQ4()[i]);
    assert.ok(error <= 6 * deviations[i], `logit ${i}: off by ${error}, sigma ${deviations[i]}`);
  }
  await model.free();
});
