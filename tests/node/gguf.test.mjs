/**
 * GGUF: what a file declares, every malformed file refused in words; and stories260K's three files, which are models by themselves, against the
 * ids and logits computed for them elsewhere (expected-variants.json).
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { test } from 'node:test';
import { assertClose, assertSameBits, distance, readSafetensors } from './golden.mjs';
import { entry, golden, heddleError, modules, needs, optionsFor, readJson, shared, testOnEveryModule } from './heddle.mjs';
import { lastLogits, noisy, quantiseWeights, roundedEitherWay } from './reference-llama.mjs';

// ---- Malformed files ----

const malformed = 'fixtures/real/gguf-malformed';
const files = existsSync(shared(malformed)) ? readdirSync(shared(malformed)).filter((name) => name.endsWith('.gguf')) : [];
if (files.length === 0) test(`the files of ../shared/${malformed}`, needs(malformed), () => undefined);

/** The code, and what the message has to name, by file. */
const reasons = {
  'refuse-alignment-3': ['bad_file', /general\.alignment.*power of two.*found u32 3/],
  'refuse-alignment-zero': ['bad_file', /general\.alignment.*power of two.*found u32 0/],
  'refuse-array-nesting-deep': ['unsupported', /metadata pair 0.*arrays at most 8 deep/],
  'refuse-array-of-unknown-type': ['bad_file', /metadata pair 0.*array of a value type from 0 to 12, found 99/],
  'refuse-bad-magic': ['bad_file', /expected a weight file \(.*GGUF.*\), found 32 bytes that start with/],
  'refuse-big-endian-version': ['unsupported', /byte 4.*big-endian, expected a little-endian one/],
  'refuse-data-truncated': ['bad_file', /tensor "a": its 256 bytes at 0 .* within the 32 there are/],
  'refuse-dim-product-overflow': ['bad_file', /tensor "a": its sizes' product passes 64 bits/],
  'refuse-duplicate-key': ['bad_file', /expected every key once, found it twice/],
  'refuse-huge-kv-count': ['bad_file', /metadata pairs do not fit the file's 32 bytes/],
  'refuse-invalid-utf8-key': ['bad_file', /metadata pair 0: expected a key in UTF-8, found byte 0xFF/],
  'refuse-magic-only': ['bad_file', /at least 24 bytes, found 4/],
  'refuse-offset-past-end': ['bad_file', /tensor "a".*do not lie within/],
  'refuse-row-not-block-multiple': ['bad_file', /tensor "a": expected rows of a multiple of 32 values/],
  'refuse-unknown-ggml-type': ['unsupported', /tensor "a": expected a GGML type that we know, found/],
  'refuse-unknown-kv-type': ['bad_file', /metadata pair 0: expected a value type from 0 to 12, found/],
  'refuse-version-4': ['unsupported', /byte 4: expected version 2 or 3, found 4/],
};

/** What the files that are only unusual hold. */
const accepted = {
  'accept-all-scalar-types': { u8: 255, i8: -1, u16: 65535, i16: -1, u32: 4294967295, i32: -1, f32: 1.5, bool: true, str: 'é', u64: 18446744073709551615n, i64: -1, f64: 1.5 },
  'accept-nested-array': { x: [[1, 2]] },
  'accept-no-final-padding': { 'general.architecture': 'llama' },
  'accept-v2': { 'general.architecture': 'llama' },
};

for (const file of files) {
  const name = file.replace('.gguf', '');
  const path = shared(`${malformed}/${file}`);
  if (name.startsWith('accept-')) {
    testOnEveryModule(`GGUF inspect accepts ${name}`, async (runtime) => {
      assert.ok(accepted[name], `nothing is written down for ${name}`);
      const { format, metadata, tensors, bytes } = await runtime.inspect(path);
      assert.deepEqual({ format, metadata, bytes }, { format: 'GGUF', metadata: accepted[name], bytes: readFileSync(path).length });
      for (const { begin, end } of tensors) assert.ok(begin < end && end <= bytes);
    });
  } else {
    testOnEveryModule(`GGUF inspect refuses ${name} and says why`, async (runtime) => {
      assert.ok(reasons[name], `no reason is written down for ${name}`);
      for (const source of [path, readFileSync(path)]) await assert.rejects(runtime.inspect(source), heddleError(...reasons[name]));
      await assert.rejects(runtime.inspect(path), heddleError(reasons[name][0], new RegExp(file)), 'the message names the file');
    });
  }
}

// ---- Headers ----

/** Metadata as expected-headers.json has them: an array by its length and ends. */
const summary = (value) => (Array.isArray(value) && value.length > 8 ? { array_length: value.length, first: value.slice(0, 4), last: value.slice(-2) } : value);

for (const folder of ['fixtures/real/gguf-small', 'fixtures/real/llamacpp-vocab']) {
  const headers = existsSync(shared(folder)) ? readJson(shared(`${folder}/expected-headers.json`)) : {};
  if (!existsSync(shared(folder))) test(`the files of ../shared/${folder}`, needs(folder), () => undefined);
  for (const [file, want] of Object.entries(headers)) {
    testOnEveryModule(`T4 GGUF inspect lists ${file} as it is`, async (runtime) => {
      const { format, metadata, tensors, bytes } = await runtime.inspect(shared(`${folder}/${file}`));
      assert.equal(format, 'GGUF');
      assert.equal(bytes, want.file_bytes);
      assert.deepEqual(Object.keys(metadata), Object.keys(want.metadata));
      for (const [key, value] of Object.entries(want.metadata)) {
        const isSummary = typeof value === 'object' && 'array_length' in value;
        assert.deepEqual(isSummary ? { ...summary(metadata[key]) } : metadata[key], value, key);
      }
      const sizes = want.tensors.map(({ name, dims }) => ({ name, shape: dims.toReversed() }));
      assert.deepEqual(tensors.map(({ name, shape }) => ({ name, shape })), sizes);
    });
  }
}

testOnEveryModule('GGUF a tensor whose data lie past the end of the file is listed and not loaded', needs('fixtures/real/gguf-small'), async (runtime) => {
  const config = { input_shape: [1, 64], layers: [{ type: 'linear', weights: 'test.', in_features: 64, out_features: 128, bias: false }] };
  await assert.rejects(runtime.loadModel(shared('fixtures/real/gguf-small/tiny.gguf'), { config }), heddleError('bad_file', /"test\.weight\.0": its data would end at byte \d+, the file ends at 122/));
});

/** What the reference reader gave, as JavaScript has it. */
const asValue = ([kind, value]) => (typeof value === 'string' && /64$/.test(kind) ? BigInt(value) : value);

for (const name of ['gguf_common_types', 'gguf_alignment', 'gguf_metadata_only', 'gguf_nested_array']) {
  testOnEveryModule(`GGUF ${name}: metadata of every value type and all shapes are those of the reference reader`, async (runtime) => {
    const { $tensors: shapes = {}, ...want } = readJson(golden(`quant/${name}.json`));
    const { metadata, tensors } = await runtime.inspect(golden(`quant/${name}.gguf`));
    for (const [key, value] of Object.entries(want)) assert.deepEqual(metadata[key], asValue(value), key);
    assert.deepEqual(Object.fromEntries(tensors.map((each) => [each.name, each.shape])), shapes);
  });
}

testOnEveryModule('GGUF types that are not read are refused by name, big-endian files in words', async (runtime) => {
  await assert.rejects(runtime.inspect(golden('quant/gguf_all_types.gguf')), heddleError('unsupported', /tensor "q\.iq2_xxs": its type is IQ2_XXS, which is not read/));
  await assert.rejects(runtime.inspect(golden('quant/gguf_big_endian.gguf')), heddleError('unsupported', /big-endian/));
});

// ---- stories260K ----

const folder = 'fixtures/real/stories260k';
const skipped = needs(folder);
const ifThere = (read) => (skipped.skip ? undefined : read());
const at = (file) => shared(`${folder}/${file}`);
const config = ifThere(() => readJson(at('hf/config.json')));
const original = ifThere(() => readSafetensors(at('hf/model.safetensors')));
const rows = ifThere(() => readJson(at('expected-variants.json'))) ?? {};
const promptIds = [1, 403, 407, 261, 378]; // "Once upon a time"

/** The Q4_0 file was made from the Q8_0 one: see conversions.test.mjs. */
const values = (weights) => new Map([...weights].map(([name, { shape, data }]) => [name, { shape, data: Float32Array.from(data) }]));
const expectedWeights = {
  f32: () => new Map([...original].map(([name, { shape, data }]) => [name, { shape, data, kind: 'f32', quantised: false }])),
  q8_0: () => quantiseWeights(original, 'q8_0'),
  q4_0: () => quantiseWeights(values(quantiseWeights(original, 'q8_0')), 'q4_0'),
};

async function logitsOf(model) {
  const session = await model.createSession({ outputRows: 1 });
  await session.decode(promptIds);
  return session.logits();
}

async function greedyIds(model, count) {
  const session = await model.createSession({ outputRows: 1 });
  const ids = [...promptIds];
  await session.decode(ids);
  while (ids.length < count) {
    ids.push(await session.argmax());
    await session.decode(ids.slice(-1));
  }
  return ids;
}

if (skipped.skip) test('GGUF stories260K', skipped, () => undefined);

for (const kind of ['f32', 'q8_0', 'q4_0']) {
  const file = at(`stories260K-${kind}.gguf`);
  const row = rows[`stories260K-${kind}.gguf`];

  // The published logits are those of the dequantised weights with exact activations: as f32 that is what we compute.
  testOnEveryModule(`GGUF stories260K-${kind} by itself gives the logits and ids of expected-variants.json`, skipped, async (runtime) => {
    const model = await runtime.loadModel(file, { dtype: 'f32' });
    assertClose(await logitsOf(model), row.last_prompt_position_logits, 1e-4, 'logits');
    assert.deepEqual(await greedyIds(model, row.ids.length), row.ids);
    assert.equal((await model.describe()).family, 'llama');
    assert.deepEqual(await model.tokenize(row.prompt), promptIds, 'the tokenizer comes from the metadata');
    assert.equal(row.prompt + (await model.generate(row.prompt, { maxTokens: row.ids.length - promptIds.length, stopTokens: [1] }).text()), row.text);
    await model.free();
  });

  testOnEveryModule(`GGUF stories260K-${kind} has the weights of the Hugging Face files, bit for bit, heads' rows put back`, skipped, async (runtime) => {
    const want = expectedWeights[kind]();
    const model = await runtime.loadModel(file);
    assert.equal(model.weights.length, want.size);
    for (const { name, dtype } of model.weights) {
      const { data, kind: kept } = want.get(name);
      assert.equal(dtype, kept.toUpperCase(), name);
      assertSameBits(await model.readWeight(name), Float32Array.from(data), name);
    }
    await model.free();
  });

  if (kind === 'f32') continue;
  // Kept as they are, activations are rounded to 8 bits per 32: what quantised.test.mjs derives for that.
  testOnEveryModule(`GGUF stories260K-${kind} kept as it is gives the logits of its definition, within 6 sigma of the published ones`, skipped, async (runtime) => {
    const weights = expectedWeights[kind]();
    const model = await runtime.loadModel(file);
    const logits = await logitsOf(model);
    const ways = roundedEitherWay(config, weights, promptIds, 2e-4);
    const error = Math.min(...ways.map((way) => distance(logits, way)));
    assert.ok(error <= 2e-5, `off by ${error} from the nearest of ${ways.length} ways`);
    for (const [i, sigma] of deviations(kind, weights).entries()) {
      const off = Math.abs(logits[i] - row.last_prompt_position_logits[i]);
      assert.ok(off <= 6 * sigma, `logit ${i}: off by ${off}, sigma ${sigma}`);
    }
    if (kind === 'q8_0') assert.deepEqual(await greedyIds(model, row.ids.length), row.ids);
    await model.free();
  });
}

const found = {};

/** The deviation of each logit that uniform noise of the activations' rounding gives the reference. */
function deviations(kind, weights, runs = 100) {
  if (found[kind]) return found[kind];
  const exact = lastLogits(config, weights, promptIds);
  const squares = new Float64Array(exact.length);
  for (let run = 1; run <= runs; run++) lastLogits(config, weights, promptIds, noisy(run)).forEach((logit, i) => (squares[i] += (logit - exact[i]) ** 2));
  return (found[kind] = squares.map((sum) => Math.sqrt(sum / runs)));
}

const file = () => at('stories260K-q8_0.gguf');
const ways = {
  'bytes': () => readFileSync(file()),
  'a Blob': () => new Blob([readFileSync(file())]),
  'a stream of odd pieces': () => new Response(readFileSync(file())),
  'the only GGUF file among files by name': () => ({ 'stories.gguf': readFileSync(file()), 'README.md': 'a story' }),
};
const story = () => rows['stories260K-q8_0.gguf'].text.slice(0, 60);

for (const [what, source] of Object.entries(ways)) {
  testOnEveryModule(`GGUF a model comes from ${what}`, skipped, async (runtime) => {
    const model = await runtime.loadModel(source());
    const text = await model.generate('Once upon a time', { maxTokens: 40 }).text();
    assert.equal(`Once upon a time${text}`.slice(0, 60), story());
    await model.free();
  });
}

test('GGUF a model lives in a worker, and is written there', skipped, async () => {
  const { init } = await entry('./worker');
  const runtime = await init(optionsFor(modules[0]));
  const model = await runtime.loadModel(file());
  assert.equal(`Once upon a time${await model.generate('Once upon a time', { maxTokens: 40 }).text()}`.slice(0, 60), story());
  const written = await model.saveGguf({ dtype: 'Q8_0' });
  const again = await runtime.loadModel(written, { dtype: 'f32' });
  assert.deepEqual(await again.readWeight('model.norm.weight'), await model.readWeight('model.norm.weight'));
  await runtime.free();
});

testOnEveryModule('GGUF weights with a config.json of the caller are loaded by it', skipped, async (runtime) => {
  const model = await runtime.loadModel(at('stories260K-f32.gguf'), { config });
  assertClose(await logitsOf(model), rows['stories260K-f32.gguf'].last_prompt_position_logits, 1e-4, 'logits');
  await model.free();
});

testOnEveryModule('GGUF rows of q and k are put back whatever they become', skipped, async (runtime) => {
  for (const dtype of ['q8_0', 'int8', 'f16']) {
    const want = await runtime.loadModel(at('hf'), { dtype });
    const model = await runtime.loadModel(at('stories260K-f32.gguf'), { dtype });
    for (const { name } of want.weights) assertSameBits(await model.readWeight(name), await want.readWeight(name), `${name} as ${dtype}`);
    await Promise.all([model.free(), want.free()]);
  }
});
