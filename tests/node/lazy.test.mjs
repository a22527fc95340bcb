/**
 * Weight files opened without being read: from every kind of source, one tensor alone, all as they come, as stored and as float32; and folders:
 * shards, Hugging Face's cache, the order in which weights are looked for.
 */
import assert from 'node:assert/strict';
import { closeSync, copyFileSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { gzipSync } from 'node:zlib';
import { readSafetensors, writeSafetensors } from './golden.mjs';
import { golden, heddleError, modules, needs, projectFolder, readJson, runtimeWith, shared, testOnEveryModule } from './heddle.mjs';

const runtime = await runtimeWith(modules[0]);
const single = golden('transformers/llama-gqa-tied');
const sharded = golden('transformers/llama-gqa-tied-sharded');
const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[1];
const temporary = mkdtempSync(join(tmpdir(), 'heddle-lazy-'));
after(() => rmSync(temporary, { recursive: true, force: true }));
process.env.TMPDIR = temporary; // other tests run at the same time

const path = join(single, 'model.safetensors');
const bytes = readFileSync(path);
const wanted = readSafetensors(path);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
const stream = () => new Blob([bytes]).stream();

/** A file in pieces that end anywhere. */
const trickle = () => new ReadableStream({
  start(controller) {
    for (let at = 0; at < bytes.length; at += 1001) controller.enqueue(new Uint8Array(bytes.subarray(at, at + 1001)));
    controller.close();
  },
});

const sources = {
  ArrayBuffer: () => buffer,
  'typed array': () => new Uint8Array(buffer),
  'a view that is not aligned': () => new Uint8Array([0, ...bytes]).subarray(1),
  Blob: () => new Blob([bytes]),
  File: () => new File([bytes], 'model.safetensors'),
  Response: () => new Response(bytes),
  stream,
  'stream in odd pieces': trickle,
  'stream of known size': () => ({ stream: stream(), size: bytes.length }),
  path: () => path,
  'file: URL': () => pathToFileURL(path),
  'data: URL': () => `data:application/octet-stream;base64,${bytes.toString('base64')}`,
  'blob: URL': () => URL.createObjectURL(new Blob([bytes])),
  folder: () => single,
  'folder: URL': () => pathToFileURL(`${single}/`),
  'files by name': () => ({ 'model.safetensors': bytes }),
  'a list of Files': () => [new File([bytes], 'model.safetensors'), new File(['{}'], 'config.json')],
  'Files that are no array': () => new Set([new File([bytes], 'model.safetensors'), new File(['{}'], 'config.json')]),
  'a Map of files': () => new Map([['model.safetensors', new Uint8Array(bytes)], ['config.json', '{}']]),
  'gzip in memory': () => gzipSync(bytes),
  'gzip as a stream': () => new Blob([gzipSync(bytes)]).stream(),
};

for (const [name, source] of Object.entries(sources)) {
  test(`F20 F31 F36 F57 F58 weights from ${name}: the same tensors`, async () => {
    const weights = await runtime.openWeights(source());
    assert.deepEqual(new Set(weights.tensorNames), new Set(wanted.keys()));
    assert.equal(weights.numParameters, [...wanted.values()].reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0));
    assert.equal(weights.bytes, bytes.length);
    for await (const { name: tensor, shape, dtype, data } of weights.all()) {
      assert.deepEqual({ shape, dtype }, { shape: wanted.get(tensor).shape, dtype: 'F32' });
      assert.deepEqual(data, Float32Array.from(wanted.get(tensor).data), tensor);
    }
    await weights.close();
    await assert.rejects(async () => { for await (const _ of weights.all()); }, heddleError('bad_state', /closed/));
    await weights.close();
  });
}

test('F36 tensors of a stream can be had in any order; once they have gone by, the error says so', async () => {
  for (const make of [stream, trickle, () => new Blob([gzipSync(bytes)]).stream()]) {
    const weights = await runtime.openWeights(make());
    const names = [...weights.tensorNames].reverse();
    for (const name of names) assert.deepEqual((await weights.tensor(name)).data, Float32Array.from(wanted.get(name).data));
    await weights.close();
  }
  const weights = await runtime.openWeights({ stream: stream(), size: bytes.length });
  for await (const _ of weights.all());
  await assert.rejects(weights.tensor(weights.tensorNames[0]), heddleError('bad_state', /is a stream and has gone by/));
  await weights.close();
});

test('F40 tensors of a buffer are views of it where they are aligned, and copies where they are not', async () => {
  const weights = await runtime.openWeights(buffer);
  for (const { name, begin } of weights.tensors) {
    const { data } = await weights.tensor(name, { as: 'f32' });
    assert.equal(data.buffer, buffer, name);
    assert.equal(data.byteOffset, begin);
  }
  for await (const { data } of weights.all()) assert.equal(data.buffer, buffer);
  const odd = new Uint8Array([0, ...bytes]);
  const shifted = await runtime.openWeights(odd.subarray(1));
  for (const name of shifted.tensorNames) {
    const { data } = await shifted.tensor(name);
    assert.notEqual(data.buffer, odd.buffer);
    assert.deepEqual(data, Float32Array.from(wanted.get(name).data));
  }
  const fromBlob = await runtime.openWeights(new Blob([bytes]));
  assert.notEqual((await fromBlob.tensor(fromBlob.tensorNames[0])).data.buffer, buffer);
});

test('F36 opening a file of 2 GB and a tensor at its end reads only their bytes', async () => {
  const file = join(temporary, 'large.safetensors');
  const size = 2 ** 31;
  const tail = 4096;
  let json = JSON.stringify({
    large: { dtype: 'F16', shape: [size / 2 - tail / 2], data_offsets: [0, size - tail] },
    tail: { dtype: 'F32', shape: [tail / 4], data_offsets: [size - tail, size] },
  });
  json += ' '.repeat((8 - (json.length % 8)) % 8);
  const head = Buffer.alloc(8 + json.length);
  head.writeBigUInt64LE(BigInt(json.length));
  head.write(json, 8);
  const values = Float32Array.from({ length: tail / 4 }, (_, i) => i / 3);
  const handle = openSync(file, 'w'); // sparse: what lies between takes no room
  writeSync(handle, head, 0, head.length, 0);
  writeSync(handle, Buffer.from(values.buffer), 0, tail, head.length + size - tail);
  closeSync(handle);

  // What a Blob is asked for is counted exactly; a path is measured by memory.
  let read = 0;
  const blob = await (await import('node:fs')).openAsBlob(file);
  const { slice } = Blob.prototype;
  Blob.prototype.slice = function (begin, end) {
    read += end - begin;
    return slice.call(this, begin, end);
  };
  try {
    const weights = await runtime.openWeights(blob);
    assert.equal(weights.bytes, head.length + size);
    assert.equal(weights.info('large').numel, size / 2 - tail / 2);
    assert.ok(read < 8192, `${read} bytes read for a header of ${head.length}`);
    assert.deepEqual((await weights.tensor('tail')).data, values);
    assert.ok(read < 8192 + tail, `${read} bytes read`);
  } finally {
    Blob.prototype.slice = slice;
  }
  const before = process.memoryUsage().rss;
  const weights = await runtime.openWeights(file);
  assert.deepEqual((await weights.tensor('tail')).data, values);
  assert.ok(process.memoryUsage().rss - before < 64 << 20);
  await weights.close();
});

// ---- As float32 ----

/** A SafeTensors file of one tensor with these bytes. */
function oneTensor(dtype, shape, data, name = 't') {
  let json = `{"${name}":${JSON.stringify({ dtype, shape, data_offsets: [0, data.byteLength] })}}`;
  json += ' '.repeat((8 - (json.length % 8)) % 8);
  const file = new Uint8Array(8 + json.length + data.byteLength);
  new DataView(file.buffer).setBigUint64(0, BigInt(json.length), true);
  file.set(new TextEncoder().encode(json), 8);
  file.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), 8 + json.length);
  return file;
}

/** IEEE half by its definition. */
function half(code) {
  const [sign, exponent, mantissa] = [code >> 15 ? -1 : 1, (code >> 10) & 31, code & 1023];
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + mantissa / 1024) : 2 ** -14 * (mantissa / 1024));
}

const codes = Uint16Array.from({ length: 65536 }, (_, i) => i);
const asBits = (values) => new Uint32Array(values.buffer, values.byteOffset, values.length);

testOnEveryModule('F21 all codes of F16 and BF16 become the float32 they are, and stay 16 bits when asked to', async (runtime) => {
  const want = { F16: Float32Array.from(codes, half), BF16: new Float32Array(Uint32Array.from(codes, (code) => code << 16).buffer) };
  for (const [dtype, values] of Object.entries(want)) {
    const file = oneTensor(dtype, [256, 256], codes);
    const { t } = await runtime.LoadSafeTensors(file);
    assert.deepEqual(t.shape, [256, 256]);
    const [got, expected] = [asBits(t.data), asBits(values)];
    for (let i = 0; i < 65536; i++) if (!Number.isNaN(values[i])) assert.equal(got[i], expected[i], `${dtype} ${i.toString(16)}`);
    else assert.ok(Number.isNaN(t.data[i]), `${dtype} ${i.toString(16)}`);
    const kept = await runtime.LoadSafeTensors(file, { as: 'stored' });
    assert.deepEqual(kept.t.data, codes);
    assert.equal(kept.t.dtype, dtype);
  }
});

testOnEveryModule('F20 F33 every plain dtype is read as it is and as float32, across the pieces it is converted in', async (runtime) => {
  const n = 200_003;
  const kinds = {
    F64: Float64Array, I64: BigInt64Array, I32: Int32Array, I16: Int16Array, I8: Int8Array, U64: BigUint64Array, U32: Uint32Array, U16: Uint16Array, U8: Uint8Array,
  };
  for (const [dtype, Kind] of Object.entries(kinds)) {
    const big = Kind === BigInt64Array || Kind === BigUint64Array;
    const values = Kind.from({ length: n }, (_, i) => (big ? BigInt(i * 7) : i * 7));
    const weights = await runtime.openWeights(oneTensor(dtype, [n], values));
    assert.deepEqual((await weights.tensor('t')).data, values, dtype);
    assert.deepEqual((await weights.tensor('t', { as: 'f32' })).data, Float32Array.from(values, Number), dtype);
    await weights.close();
  }
  const file = oneTensor('F32', [0, 3], new Float32Array(0));
  assert.deepEqual((await runtime.LoadSafeTensors(file)).t, { name: 't', dtype: 'F32', shape: [0, 3], data: new Float32Array(0) });
});

testOnEveryModule('F20 LoadSafeTensors gives tensors by name, whatever the name', async (runtime) => {
  const tensors = await runtime.LoadSafeTensors(path);
  assert.deepEqual(tensors['model.embed_tokens.weight'].shape, wanted.get('model.embed_tokens.weight').shape);
  assert.equal(Object.keys(tensors).length, wanted.size);
  const file = oneTensor('F32', [1], Float32Array.of(7), '__proto__');
  assert.deepEqual((await runtime.LoadSafeTensors(file)).__proto__.data, Float32Array.of(7));
});

testOnEveryModule('F20 what LoadSafeTensors gave is written as it was', async (runtime) => {
  const tensors = await runtime.LoadSafeTensors(path);
  const written = await runtime.LoadSafeTensors(runtime.SerializeSafetensors(tensors));
  assert.deepEqual(Object.keys(written).sort(), Object.keys(tensors).sort());
  for (const name of Object.keys(tensors)) assert.deepEqual(written[name], tensors[name]);
  const gguf = runtime.serializeGguf({ w: tensors['model.norm.weight'] });
  assert.deepEqual((await runtime.LoadSafeTensors(gguf)).w.data, tensors['model.norm.weight'].data);
});

testOnEveryModule('F20 what cannot be written as a tensor is refused by name', async (runtime) => {
  const half = await runtime.LoadSafeTensors(oneTensor('F16', [2], Uint16Array.of(0x3c00, 0x4000), 'w'), { as: 'stored' });
  for (const [tensor, message] of [
    [half.w, /^w\.data: expected numbers, found the bits of F16: read it with \{ as: 'f32' \}$/],
    [{ shape: [2] }, /^w\.values: expected an array of numbers, found undefined$/],
    [{ values: [1, 2] }, /^w\.shape: expected an array of sizes, found undefined$/],
    [{ values: [1, 2], shape: [1] }, /^w: shape \[1\] wants 1 value, found 2$/],
    [null, /^w: expected a tensor, \{ values, shape \}, found null$/],
  ]) {
    assert.throws(() => runtime.SerializeSafetensors({ w: tensor }), heddleError('bad_argument', message));
    assert.throws(() => runtime.serializeGguf({ w: tensor }), heddleError('bad_argument', message));
  }
});

test('F36 what is no tensor and no option is refused', async () => {
  const weights = await runtime.openWeights(path);
  await assert.rejects(weights.tensor('nothing'), heddleError('bad_argument', /no tensor 'nothing'; there are \d+, first /));
  await assert.rejects(async () => { for await (const _ of weights.all({ names: ['nothing'] })); }, heddleError('bad_argument', /no tensor 'nothing'/));
  await assert.rejects(weights.tensor(weights.tensorNames[0], { as: 'f16' }), heddleError('bad_argument', /as 'f16' is not known; known: stored, f32/));
  await assert.rejects(runtime.openWeights(path, { dtype: 'f32' }), heddleError('bad_argument', /dtype: no such option/));
  await weights.close();
});

// ---- Shards ----

const logits = async (model, ids) => {
  const session = await model.createSession();
  const out = await session.forward(Int32Array.from(ids));
  await session.free();
  return out;
};
const ids = [1, 5, 9, 2, 7];

testOnEveryModule('F35 a model in three shards is the model in one file, bit for bit', async (runtime) => {
  const one = await runtime.loadModel(single);
  const three = await runtime.loadModel(sharded);
  assert.deepEqual(await logits(three, ids), await logits(one, ids));
  await one.free();
  await three.free();
  const weights = await runtime.openWeights(sharded);
  const seen = new Map();
  for await (const { name, data } of weights.all()) seen.set(name, data);
  assert.deepEqual(new Set(seen.keys()), new Set(wanted.keys()));
  for (const [name, { data }] of wanted) assert.deepEqual(seen.get(name), Float32Array.from(data), name);
  const files = new Set((await runtime.inspect(sharded)).tensors.map(({ file }) => file.replace(/.*[/\\]/, '')));
  assert.deepEqual([...files].sort(), [1, 2, 3].map((i) => `model-0000${i}-of-00003.safetensors`));
  await weights.close();
});

/** The sharded model's files by name, without those of `less`. */
function shardFiles(less = []) {
  return Object.fromEntries(readdirSync(sharded).filter((name) => !less.includes(name)).map((name) => [name, readFileSync(join(sharded, name))]));
}

test('F35 a missing shard is named, with what it should hold', async () => {
  const name = 'model-00002-of-00003.safetensors';
  await assert.rejects(runtime.loadModel(shardFiles([name])), heddleError('bad_file', /^no model-00002-of-00003\.safetensors among the files given .*index\.json says it holds \d+ tensors, model\.\S+ first$/));
  const withoutIndex = shardFiles(['model.safetensors.index.json']);
  const model = await runtime.loadModel(withoutIndex);
  const one = await runtime.loadModel(single);
  assert.deepEqual(await logits(model, ids), await logits(one, ids), 'numbered files need no index');
  await model.free();
  await one.free();
  delete withoutIndex[name];
  await assert.rejects(runtime.loadModel(withoutIndex), heddleError('bad_file', /no model-00002-of-00003\.safetensors .*its name says it is one of 3/));
});

test('F35 an index that is broken, leads elsewhere or promises what is not there is refused', async () => {
  const files = shardFiles();
  const index = JSON.parse(files['model.safetensors.index.json']);
  const withMap = (weight_map) => ({ ...files, 'model.safetensors.index.json': Buffer.from(JSON.stringify({ weight_map })) });
  const first = Object.keys(index.weight_map)[0];
  for (const [map, pattern] of [
    [undefined, /expected an object "weight_map"/],
    [{}, /names no file/],
    [{ a: 7 }, /weight_map\["a"\]: expected a file's name, found 7/],
    [{ a: '../secret' }, /weight_map\["a"\]: expected a file's name, found "\.\.\/secret"/],
    [{ a: 'C:\\x' }, /expected a file's name/],
    [{ ...index.weight_map, 'not.there': index.weight_map[first] }, /has no tensor not\.there, which the index says is there/],
  ]) await assert.rejects(runtime.loadModel(withMap(map)), heddleError('bad_file', pattern));
  await assert.rejects(runtime.openWeights(withMap({ ...index.weight_map, 'not.there': index.weight_map[first] })), heddleError('bad_file', /has no tensor not\.there/));
  await assert.rejects(runtime.loadModel({ ...files, 'model.safetensors.index.json': Buffer.from('{') }), heddleError('bad_file', /index\.json: /));
  await assert.rejects(runtime.loadModel(files['model.safetensors.index.json']), heddleError('bad_argument', /looks like the index of weights in several files, not a bundle: load the folder/));
});

// ---- Folders ----

test('C3 a folder of Hugging Face\'s cache stands for its snapshot, links and refs included', async () => {
  const root = join(temporary, 'hub', 'models--org--story');
  const [old, now] = ['a'.repeat(40), 'b'.repeat(40)];
  for (const folder of ['blobs', 'refs', `snapshots/${old}`, `snapshots/${now}`]) mkdirSync(join(root, folder), { recursive: true });
  for (const name of ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']) {
    copyFileSync(join(storyFolder, name), join(root, 'blobs', `blob-${name}`));
    symlinkSync(`../../blobs/blob-${name}`, join(root, 'snapshots', now, name));
  }
  writeFileSync(join(root, 'snapshots', old, 'config.json'), '{}');
  writeFileSync(join(root, 'refs', 'main'), `${now}\n`);
  const check = async (source, options) => {
    const model = await runtime.loadModel(source, options);
    assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
    await model.free();
  };
  await check(root);
  await check(`${root}/`);
  await check(root, { revision: now });
  await check(pathToFileURL(root));
  await assert.rejects(runtime.loadModel(root, { revision: 'v3' }), heddleError('bad_file', /no snapshot of revision 'v3'; there are a+, b+/));
  await assert.rejects(runtime.loadModel(root, { revision: '../..' }), heddleError('bad_argument', /revision '\.\.\/\.\.'/));
  await assert.rejects(runtime.loadModel(root, { revision: old }), heddleError('bad_file', /no model\.safetensors in .*a{40}/));
  await assert.rejects(runtime.loadModel(storyFolder, { revision: 'main' }), heddleError('bad_argument', /has no snapshots folder/));

  process.env.HF_HUB_CACHE = join(temporary, 'hub');
  try {
    await check('org/story');
    await assert.rejects(runtime.loadModel('org/nothing'), heddleError('bad_file', /cannot open org\/nothing: there is no such file or folder, nor .*hub\/models--org--nothing/));
  } finally {
    delete process.env.HF_HUB_CACHE;
  }

  const dropped = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((name) => {
    const file = new File([readFileSync(join(storyFolder, name))], name);
    Object.defineProperty(file, 'webkitRelativePath', { value: `models--org--story/snapshots/${now}/${name}` });
    return file;
  });
  await check(dropped);
});

test('the weights of a folder are looked for in the order that docs/loading.md prints', async () => {
  const config = readFileSync(join(single, 'config.json'));
  const files = { 'config.json': config, ...shardFiles(), 'model.safetensors': bytes };
  const chosen = async (given) => (await runtime.inspect(given)).tensors.length;
  const few = writeSafetensors({ only: { shape: [1], data: [1] } });
  assert.equal(await chosen({ ...files, 'model.safetensors': few }), 1, 'model.safetensors goes before the index');
  assert.equal(await chosen({ ...shardFiles(), 'other.safetensors': few }), wanted.size, 'the index before another file');
  assert.equal(await chosen({ 'adapter.safetensors': few, 'pytorch_model.bin': Buffer.from('x') }), 1, 'SafeTensors before pickles');
  await assert.rejects(runtime.inspect({ 'a.safetensors': few, 'b.safetensors': few }), heddleError('bad_file', /^several \.safetensors files among the files given: name one of a\.safetensors, b\.safetensors$/));
});

// ---- gzip ----

test('F57 a model whose files are compressed is the model', async () => {
  const files = Object.fromEntries(['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((name) => [name, gzipSync(readFileSync(join(storyFolder, name)))]));
  const model = await runtime.loadModel(files);
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await model.free();
  const bundle = readFileSync(golden('loom/dense_relu.bundle.json'));
  const plain = await runtime.loadModel(bundle);
  const packed = await runtime.loadModel(gzipSync(bundle));
  assert.deepEqual(packed.weights, plain.weights);
  await assert.rejects(runtime.openWeights(gzipSync(bytes).subarray(0, 5000)), heddleError('bad_file', /the bytes given/));
  const broken = gzipSync(bytes);
  broken.fill(0xff, 1000, 1100);
  await assert.rejects(runtime.openWeights(broken), heddleError('bad_file', /the bytes given/));
  await plain.free();
  await packed.free();
});

test('nothing is left in the temporary folder', async () => {
  const weights = await runtime.openWeights(trickle());
  await weights.tensor(weights.tensorNames.at(-1));
  assert.deepEqual(readdirSync(tmpdir()).filter((name) => /^heddle-[0-9a-f]{8}-/.test(name)), [], 'not even while it is in use');
  await weights.close();
});


{
  const gguf = 'fixtures/real/stories260k/stories260K-f32.gguf';
  test('a folder with one GGUF file and no config.json is a model; so is the file as a stream', needs(gguf), async () => {
    const file = readFileSync(shared(gguf));
    const said = async (source) => {
      const model = await runtime.loadModel(source);
      const text = await model.generate('Once upon a time', { maxTokens: 16 }).text();
      await model.free();
      return text;
    };
    const want = await said(file);
    assert.ok(want.length > 20);
    for (const source of [{ 'stories.gguf': file }, new Blob([file]).stream(), gzipSync(file)]) assert.equal(await said(source), want);
    assert.equal((await runtime.inspect({ 'stories.gguf': file })).format, 'GGUF');
  });
}

{
  const folder = 'fixtures/torch/pt';
  /** What no weight file of ours may be: tests/node/torch-files.test.mjs has the reasons. */
  const refused = ['complex64', 'module_whole', 'quantized_qint8', 'sparse_coo'];
  const twins = existsSync(shared(folder)) ? readdirSync(shared(folder)).filter((name) => name.endsWith('.pt')).map((name) => name.slice(0, -3)).filter((name) => existsSync(shared(`${folder}/${name}.safetensors`)) && !refused.includes(name)) : [];
  test(`the files of ../shared/${folder}`, needs(folder), () => assert.ok(twins.length > 10));
  for (const name of twins) {
    test(`F36 tensors of ${name}.pt, views and all, are those that PyTorch wrote beside it, from a file and from a stream`, async () => {
      const want = await runtime.LoadSafeTensors(shared(`${folder}/${name}.safetensors`), { as: 'stored' });
      for (const each of Object.keys(want)) if (each.startsWith('$')) delete want[each]; // a traced module's example, no tensor of the file
      const file = readFileSync(shared(`${folder}/${name}.pt`));
      for (const source of [shared(`${folder}/${name}.pt`), file, new Blob([file]).stream()]) {
        const weights = await runtime.openWeights(source);
        assert.deepEqual([...weights.tensorNames].sort(), Object.keys(want).sort());
        for await (const { name: tensor, dtype, shape, data } of weights.all()) assert.deepEqual({ dtype, shape, data }, { dtype: want[tensor].dtype, shape: want[tensor].shape, data: want[tensor].data }, tensor);
        for (const { name: tensor, byteSize } of weights.tensors) assert.equal(byteSize, want[tensor].data.byteLength, tensor);
        await weights.close();
      }
    });
  }
}

test('F36 a small stream, whose first bytes hold header and tensors, has them all; read back to front as well', async () => {
  const file = writeSafetensors({ a: { shape: [3], data: [1, 2, 3] }, b: { shape: [200], data: Array.from({ length: 200 }, (_, i) => i) }, c: { shape: [2], data: [8, 9] } });
  const byteByByte = () => new ReadableStream({ start(controller) { for (const byte of file) controller.enqueue(Uint8Array.of(byte)); controller.close(); } });
  const made = [() => new Blob([file]).stream(), () => ({ stream: byteByByte(), size: file.length }), byteByByte, () => gzipSync(file)];
  for (const make of made) {
    const forwards = await runtime.openWeights(make());
    const seen = [];
    for await (const { name, data } of forwards.all()) seen.push([name, data.length, data.at(-1)]);
    assert.deepEqual(seen, [['a', 3, 3], ['b', 200, 199], ['c', 2, 9]]);
    await forwards.close();
    const backwards = await runtime.openWeights(make());
    for (const [name, want] of [['c', 9], ['b', 199], ['a', 3]]) assert.equal((await backwards.tensor(name)).data.at(-1), want);
    await backwards.close();
  }
});
