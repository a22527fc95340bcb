/**
 * The command line's inspect, convert, trace, generate, tokenize and cache; cli-texts.test.mjs has chat and embed. Converted values are compared with the
 * fixtures' bytes, read here without the package where the format is simple (SafeTensors, MLX JSON; PyTorch's by Python), and by it where its readers have
 * tests of their own (GGUF).
 */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { closeSync, ftruncateSync, mkdirSync, openSync, readFileSync, readdirSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { folder, heddle, json, ok, out, version } from './command-line.mjs';
import { assertClose, writeEncoded } from './golden.mjs';
import { golden, needs, readJson, runtimeWith, shared } from './heddle.mjs';
import { serverFor } from './range-server.mjs';

/** A SafeTensors file's tensors by name: { dtype, shape, bytes }. */
function tensorsOf(path) {
  const file = readFileSync(path);
  const start = 8 + Number(file.readBigUInt64LE(0));
  const { __metadata__: _, ...header } = JSON.parse(file.toString('utf8', 8, start));
  return Object.fromEntries(Object.entries(header).map(([name, { dtype, shape, data_offsets: [begin, end] }]) => [name, { dtype, shape, bytes: file.subarray(start + begin, start + end) }]));
}

function assertSame(got, want, rename = (name) => name) {
  assert.deepEqual(Object.keys(got).sort(), Object.keys(want).map(rename).sort());
  for (const [name, { dtype, shape, bytes }] of Object.entries(want)) {
    const found = got[rename(name)];
    assert.deepEqual([found.dtype, found.shape], [dtype, shape], name);
    assert.ok(Buffer.compare(found.bytes, bytes) === 0, `${name}: other bytes`);
  }
}

const floats = (bytes) => new Float32Array(Uint8Array.from(bytes).buffer);
const mild = golden('transformers/llama-mild');
const weights = join(mild, 'model.safetensors');

// ---- The program ----

test('C1: help, version and usage: exit codes 0 and 2, and what was wrong on stderr', async () => {
  assert.equal((await ok(['--version'])).stdout.trim(), version);
  const overview = (await ok(['--help'])).stdout;
  for (const command of ['inspect', 'convert', 'trace', 'generate', 'chat', 'embed', 'tokenize', 'cache']) {
    assert.match(overview, new RegExp(`^  ${command} `, 'm'));
    assert.match((await ok([command, '--help'])).stdout, new RegExp(`usage: heddle ${command} `));
  }
  for (const [args, said] of [
    [['rise'], /no command 'rise'; there are inspect, convert/],
    [['convert', 'a.safetensors'], /OUT is missing/],
    [['convert', weights, out('x.what')], /not clear from its name/],
    [['trace', mild], /--against FILE is missing/],
    [['inspect', weights, '--frob'], /--frob/],
    [['generate', mild, '-n', 'many'], /--max-tokens: expected a whole number, found 'many'/],
    [['generate', mild, '-p', 'x', '--dtype', 'q9'], /--dtype 'q9' is not known; known: keep, /],
    [['convert', weights, out('bad.gguf'), '--dtype', 'q9_9'], /--dtype: GGUF files have keep, .*found 'Q9_9'/],
    [['generate', mild, '-p', 'x', '--template', 't.jinja'], /--template is for --chat/],
    [['tokenize', mild, 'two', 'words'], /'words' is one too many/],
  ]) {
    const { code, stderr, stdout } = await heddle(args);
    assert.equal(code, 2, stderr);
    assert.match(stderr, said);
    assert.equal(stdout, '');
  }
});

test('C1: a file that is none, or broken: exit code 3, which file and why', async () => {
  writeFileSync(out('broken.safetensors'), 'no header here, and nothing else');
  for (const [args, said] of [
    [['inspect', out('absent.safetensors')], /cannot open .*absent\.safetensors/],
    [['inspect', out('broken.safetensors')], /broken\.safetensors/],
    [['convert', out('broken.safetensors'), out('broken.pt')], /broken\.safetensors/],
    [['convert', weights, out('bad.gguf'), '--dtype', 'f8_e5m2'], /dtype: GGUF files have keep, .*found 'F8_E5M2'/],
    [['convert', weights, out('nowhere/x.pt')], /cannot write .*nowhere\/x\.pt: there is no folder .*nowhere$/m],
  ]) {
    const { code, stderr } = await heddle(args);
    assert.equal(code, 3, stderr);
    assert.match(stderr, said);
    assert.ok(!stderr.includes('    at '), 'no stack');
  }
  assert.deepEqual(readdirSync(folder).filter((name) => /\.part$|broken\.pt/.test(name)), [], 'nothing half written');
});

test('C1: OUT that is there is kept, unless --force says otherwise', async () => {
  writeFileSync(out('kept.pt'), 'mine');
  const { code, stderr } = await heddle(['convert', weights, out('kept.pt')]);
  assert.equal(code, 2);
  assert.match(stderr, /kept\.pt is there already: --force/);
  assert.equal(readFileSync(out('kept.pt'), 'utf8'), 'mine');
  await ok(['convert', weights, out('kept.pt'), '--force']);
  assert.ok(readFileSync(out('kept.pt')).length > 3e5);
});

// ---- inspect ----

test('P5: inspect counts tensors and parameters of a folder, as text and as JSON', async () => {
  const want = tensorsOf(weights);
  const parameters = Object.values(want).reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0);
  const { stdout, stderr } = await ok(['inspect', mild]);
  assert.ok(stdout.includes(`${Object.keys(want).length} tensors (${parameters} parameters)`), stdout);
  assert.match(stdout, /model_type: llama/);
  assert.equal(stderr, '', 'no progress bar where stderr is no terminal');
  const found = await json(['inspect', mild]);
  assert.deepEqual([found.format, found.count, found.parameters, found.warnings], ['SafeTensors', 29, parameters, []]);
  assert.deepEqual(Object.fromEntries(found.tensors.map(({ name, dtype, shape, byteSize }) => [name, [dtype, shape, byteSize]])), Object.fromEntries(Object.entries(want).map(([name, { dtype, shape, bytes }]) => [name, [dtype, shape, bytes.length]])));
});

/** The published shape of Qwen3-0.6B: 28 layers of 11 tensors, embedding, norm; lm_head.weight stands in its file too, which makes 311. */
function qwen3Shapes() {
  const layer = {
    'input_layernorm.weight': [1024], 'post_attention_layernorm.weight': [1024], 'self_attn.q_norm.weight': [128], 'self_attn.k_norm.weight': [128],
    'self_attn.q_proj.weight': [2048, 1024], 'self_attn.k_proj.weight': [1024, 1024], 'self_attn.v_proj.weight': [1024, 1024], 'self_attn.o_proj.weight': [1024, 2048],
    'mlp.gate_proj.weight': [3072, 1024], 'mlp.up_proj.weight': [3072, 1024], 'mlp.down_proj.weight': [1024, 3072],
  };
  const layers = Array.from({ length: 28 }, (_, i) => Object.entries(layer).map(([name, shape]) => [`model.layers.${i}.${name}`, shape]));
  return [['lm_head.weight', [151936, 1024]], ['model.embed_tokens.weight', [151936, 1024]], ['model.norm.weight', [1024]], ...layers.flat()];
}

test('P5: a file of the shape of Qwen3-0.6B (1.5 GB, no weights in it) is inspected by its header: 311 tensors (751632384 parameters) in under 3 s', async () => {
  let end = 0;
  const header = Object.fromEntries(qwen3Shapes().map(([name, shape]) => [name, { dtype: 'BF16', shape, data_offsets: [end, (end += 2 * shape.reduce((a, b) => a * b, 1))] }]));
  const text = Buffer.from(JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const file = openSync(out('qwen3.safetensors'), 'w');
  writeSync(file, Buffer.concat([length, text]));
  ftruncateSync(file, 8 + text.length + end);
  closeSync(file);
  const start = performance.now();
  const { stdout } = await ok(['inspect', out('qwen3.safetensors')]);
  assert.ok(performance.now() - start < 3000, `${performance.now() - start} ms`);
  assert.ok(stdout.includes('311 tensors (751632384 parameters)'), stdout.slice(0, 300));
  rmSync(out('qwen3.safetensors'));
});

test('F58: inspect and convert take an address as they take a path', async () => {
  const server = await serverFor({ 'm/model.safetensors': { bytes: readFileSync(weights), etag: '"1"' } });
  const found = await json(['inspect', `${server.address}/m/model.safetensors`]);
  assert.equal(found.count, 29);
  assert.ok(server.sent < 20_000, `${server.sent} bytes for a header`);
  await ok(['convert', `${server.address}/m/model.safetensors`, out('fetched.safetensors')]);
  assertSame(tensorsOf(out('fetched.safetensors')), tensorsOf(weights));
});

test("C3: org/name is found in Hugging Face's cache; where it is not, the error names the folder it looked in", async () => {
  const hub = out('hub');
  const snapshot = join(hub, 'models--weavers--mild/snapshots/0123abcd');
  mkdirSync(snapshot, { recursive: true });
  mkdirSync(join(hub, 'models--weavers--mild/refs'), { recursive: true });
  writeFileSync(join(hub, 'models--weavers--mild/refs/main'), '0123abcd');
  for (const name of ['config.json', 'model.safetensors']) writeFileSync(join(snapshot, name), readFileSync(join(mild, name)));
  const found = await json(['inspect', 'weavers/mild'], { env: { HF_HUB_CACHE: hub } });
  assert.deepEqual([found.count, found.config.model_type], [29, 'llama']);
  const { code, stderr } = await heddle(['inspect', 'weavers/wild'], { env: { HF_HUB_CACHE: hub } });
  assert.equal(code, 3);
  assert.ok(stderr.includes(join(hub, 'models--weavers--wild')), stderr);
});

// ---- trace ----

const mildTrace = golden('transformers/trace-llama-mild/trace.safetensors');

for (const [name, budget] of [['llama-mild', '--absolute'], ['llama-gqa-tied'], ['qwen2-mild', '--absolute'], ['qwen2'], ['qwen3']]) {
  test(`C2 E16 P10: every node of trace-${name} is within 1e-5${budget ? '' : ' × max(1, largest magnitude)'} of PyTorch's`, needs(`fixtures/transformers/trace-${name}`), async (t) => {
    const base = shared(`fixtures/transformers/${name}`);
    const file = shared(`fixtures/transformers/trace-${name}/trace.safetensors`);
    const { code, stdout, stderr } = await heddle(['trace', base, '--against', file, '--json', ...(budget ? [budget] : [])]);
    if (code === 3 && /model_type '\w+' is not known/.test(stderr)) return t.skip(stderr.trim());
    assert.equal(code, 0, stderr + stdout.slice(0, 2000));
    const { ok: isOk, first, values } = JSON.parse(stdout);
    assert.deepEqual([isOk, first], [true, null]);
    const want = Object.entries(tensorsOf(file)).filter(([, { dtype }]) => dtype === 'F32').map(([tensor]) => tensor);
    assert.deepEqual(values.map((value) => value.name).sort(), want.sort());
    for (const { name: value, maxAbs } of values) assert.ok(budget ? maxAbs <= 1e-5 : maxAbs <= 1e-5 * Math.max(1, ...floats(tensorsOf(file)[value].bytes).map(Math.abs)), `${value}: ${maxAbs}`);
  });
}

test('C2: the first node out of budget is named, with exit code 1', async () => {
  const tensors = tensorsOf(mildTrace);
  for (const name of ['layers.1.q', 'logits']) {
    const changed = floats(tensors[name].bytes);
    changed[7] += 3e-4;
    tensors[name] = { ...tensors[name], bytes: Buffer.from(changed.buffer) };
  }
  writeFileSync(out('changed.safetensors'), writeEncoded(tensors));
  const { code, stdout } = await heddle(['trace', mild, '--against', out('changed.safetensors')]);
  assert.equal(code, 1);
  assert.match(stdout, /2 of 59 values out of budget, layers\.1\.q first/);
  assert.match(stdout, /layers\.1\.q  .*3\.0\de-4.* OUT/);
});

test('C2: a golden value that the model has not is no success', async () => {
  writeFileSync(out('other.safetensors'), writeEncoded({ ...tensorsOf(mildTrace), 'layers.9.q': { dtype: 'F32', shape: [1], bytes: Buffer.alloc(4) } }));
  const { code, stdout } = await heddle(['trace', mild, '--against', out('other.safetensors'), '--json']);
  assert.equal(code, 1);
  assert.equal(JSON.parse(stdout).first, 'layers.9.q');
});

// ---- convert ----

/** A state dict of a .pt file as Python has it, by its own zip and pickle modules: { name: [storage, shape, base64] }. */
const pythonReader = `
import base64, collections, json, pickle, sys, zipfile
z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None
class Reader(pickle.Unpickler):
    def find_class(self, module, name): return collections.OrderedDict if name == 'OrderedDict' else (lambda *a: [a[0], list(a[2])]) if name == '_rebuild_tensor_v2' else name
    def persistent_load(self, pid): return [pid[1], base64.b64encode(z.read('archive/data/' + pid[2])).decode()]
print(json.dumps({k: [v[0][0], v[1], v[0][1]] for k, v in Reader(z.open('archive/data.pkl')).load().items()}))`;

test('C1: convert SafeTensors → PyTorch: Python reads the same values, and every checksum is right', async (t) => {
  await ok(['convert', weights, out('state.pt')]);
  const { error, stdout, stderr } = await new Promise((done) => execFile('python3', ['-c', pythonReader, out('state.pt')], { maxBuffer: 1 << 26 }, (failed, o, e) => done({ error: failed, stdout: o, stderr: e })));
  if (error?.code === 'ENOENT') return t.skip('there is no python3');
  assert.equal(error, null, stderr);
  const found = Object.entries(JSON.parse(stdout)).map(([name, [storage, shape, bytes]]) => [name, { dtype: { FloatStorage: 'F32' }[storage], shape, bytes: Buffer.from(bytes, 'base64') }]);
  assertSame(Object.fromEntries(found), tensorsOf(weights));
});

for (const name of ['state_dict_all_dtypes', 'noncontiguous_legacy', 'tied_weights']) {
  test(`C1: convert PyTorch → SafeTensors: ${name}.pt gives its mirror's bytes`, needs(`fixtures/torch/pt/${name}.pt`), async () => {
    await ok(['convert', shared(`fixtures/torch/pt/${name}.pt`), out(`${name}.safetensors`)]);
    assertSame(tensorsOf(out(`${name}.safetensors`)), tensorsOf(shared(`fixtures/torch/pt/${name}.safetensors`)));
  });
}

test('C1: convert SafeTensors → GGUF → SafeTensors: single tensors keep names, shapes and bits', async () => {
  await ok(['convert', weights, out('plain.gguf')]);
  await ok(['convert', out('plain.gguf'), out('plain.safetensors')]);
  assertSame(tensorsOf(out('plain.safetensors')), tensorsOf(weights));
});

test('C1: convert GGUF → SafeTensors: block types are widened to the values of GGML', needs('fixtures/quant/gguf_common_types.gguf'), async () => {
  await ok(['convert', shared('fixtures/quant/gguf_common_types.gguf'), out('blocks.safetensors'), '--plain', '--dtype', 'f32']);
  const [got, want] = [tensorsOf(out('blocks.safetensors')), tensorsOf(shared('fixtures/quant/gguf_common_types.safetensors'))];
  const compared = Object.entries(want).filter(([, { dtype }]) => dtype === 'F32');
  assert.ok(compared.length > 5);
  for (const [name, { bytes }] of compared) assert.ok(Buffer.compare(got[name].bytes, bytes) === 0, name);
});

test('C1: convert SafeTensors → GGUF as q8_0: rows that are whole blocks, and what became of the others', async () => {
  const { tensors, warnings } = await json(['convert', weights, out('q8.gguf'), '--dtype', 'q8_0']);
  const by = Object.fromEntries(tensors.map(({ name, to }) => [name, to]));
  assert.deepEqual([by['model.norm.weight'], by['model.layers.0.self_attn.q_proj.weight']], ['F32', 'F16'], 'rows of 48 are no whole blocks');
  assert.ok(warnings.some((text) => /F32 → F16, rounded \(row of 48 is no multiple of 32\)/.test(text)), warnings.join('; '));
});

test('C1: convert Hugging Face folder → GGUF → Hugging Face folder: weights, config and heads come back', async () => {
  await ok(['convert', mild, out('model.gguf')]);
  await ok(['convert', out('model.gguf'), out('back')]);
  assertSame(tensorsOf(join(out('back'), 'model.safetensors')), tensorsOf(weights));
  const [got, want] = [readJson(join(out('back'), 'config.json')), readJson(join(mild, 'config.json'))];
  for (const key of ['model_type', 'hidden_size', 'num_attention_heads', 'num_key_value_heads', 'num_hidden_layers', 'vocab_size', 'tie_word_embeddings']) assert.equal(got[key], want[key], key);
  const { code } = await heddle(['trace', out('model.gguf'), '--against', mildTrace]);
  assert.equal(code, 0, 'the GGUF file runs as PyTorch does');
});

test("C1: convert GGUF → SafeTensors: stories260K's F32 GGUF gives the weights of its Hugging Face form", needs('fixtures/real/stories260k/hf/model.safetensors'), async () => {
  await ok(['convert', shared('fixtures/real/stories260k/stories260K-f32.gguf'), out('stories.safetensors')]);
  assertSame(tensorsOf(out('stories.safetensors')), tensorsOf(shared('fixtures/real/stories260k/hf/model.safetensors')));
});

test('C1: convert SafeTensors → MLX JSON → SafeTensors: the numbers say every bit', async () => {
  await ok(['convert', weights, out('weights.mlx')]);
  const { version: stated, weights: written } = readJson(out('weights.mlx'));
  assert.equal(stated, '1.0');
  const internal = (name) => name.replace(/^model\./, '');
  for (const [name, { shape, bytes }] of Object.entries(tensorsOf(weights))) {
    assert.deepEqual([written[internal(name)].dtype, written[internal(name)].shape], ['float32', shape]);
    assert.deepEqual(Float32Array.from(written[internal(name)].data), floats(bytes), name);
  }
  await ok(['convert', out('weights.mlx'), out('frommlx.safetensors')]);
  assertSame(tensorsOf(out('frommlx.safetensors')), tensorsOf(weights), internal);
});

test('C1: convert Hugging Face folder → MLX folder: weights.safetensors, weights.mlx beside it, config.json', async () => {
  await ok(['convert', mild, out('mlx'), '--to', 'mlx']);
  assertSame(tensorsOf(join(out('mlx'), 'weights.safetensors')), tensorsOf(weights), (name) => name.replace(/^model\./, ''));
  const { weights: records } = readJson(join(out('mlx'), 'weights.mlx'));
  assert.deepEqual(records['norm.weight'], { shape: [48], dtype: 0 });
  assert.deepEqual(readJson(join(out('mlx'), 'config.json')), readJson(join(mild, 'config.json')));
});

test('C1: convert sharded folder → one file → shards again', async () => {
  const whole = golden('transformers/llama-gqa-tied/model.safetensors');
  await ok(['convert', golden('transformers/llama-gqa-tied-sharded'), out('joined.safetensors')]);
  assertSame(tensorsOf(out('joined.safetensors')), tensorsOf(whole));
  const { files } = await json(['convert', golden('transformers/llama-gqa-tied-sharded'), out('split'), '--shard-size', '100KB']);
  assert.ok(files.length > 2, files.join());
  const { weight_map: map } = readJson(join(out('split'), 'model.safetensors.index.json'));
  const all = Object.assign({}, ...files.map((name) => tensorsOf(join(out('split'), name))));
  assertSame(all, tensorsOf(whole));
  for (const [name, file] of Object.entries(map)) assert.ok(name in tensorsOf(join(out('split'), file)), name);
});

test('C1: a convert to a folder that fails leaves no folder, and one that was there as it was', async () => {
  for (const [args, said] of [[['--dtype', 'q4_0'], /q4_0/i], [['--shard-size', '100KB', '--dtype', 'q8_0'], /q8_0/i]]) {
    const { code, stderr } = await heddle(['convert', mild, out('deep/er/model'), '--to', 'hf', ...args]);
    assert.equal(code, 3, stderr);
    assert.match(stderr, said);
    assert.ok(!readdirSync(folder).includes('deep'));
  }
  mkdirSync(out('mine'));
  writeFileSync(join(out('mine'), 'notes.txt'), 'mine');
  assert.equal((await heddle(['convert', mild, out('mine'), '--to', 'mlx', '--dtype', 'q8_0'])).code, 3);
  assert.deepEqual(readdirSync(out('mine')), ['notes.txt']);
});

test('C1: a config.json that is no JSON is refused by its name, whatever is converted', async () => {
  mkdirSync(out('broken'));
  writeFileSync(join(out('broken'), 'model.safetensors'), readFileSync(weights));
  writeFileSync(join(out('broken'), 'config.json'), '{"model_type": "llama",}');
  for (const to of ['x.gguf', 'x.mlx', 'x-folder']) {
    const { code, stderr } = await heddle(['convert', out('broken'), out(to)]);
    assert.equal(code, 3, stderr);
    assert.match(stderr, /^heddle: config\.json: /);
  }
  assert.ok(!readdirSync(folder).some((name) => name.startsWith('x')));
  assert.match((await heddle(['generate', out('broken'), '--prompt', 'x'])).stderr, /^heddle: config\.json: byte 23/);
});

test("C1: convert a training's checkpoint → GGUF: metadata that GGUF has no type for is kept as text, and the optimizer's state is named", needs('fixtures/torch/pt/checkpoint.pt'), async () => {
  const { tensors, warnings } = await json(['convert', shared('fixtures/torch/pt/checkpoint.pt'), out('checkpoint.gguf')]);
  assert.equal(tensors.length, 28);
  assert.ok(warnings.includes("metadata that GGUF has no type for, kept as JSON's text: optimizer.param_groups, scheduler, config"), warnings.join('; '));
  assert.ok(warnings.some((text) => /18 of its 28 tensors are an optimizer's state \(optimizer\.state\.0\.step first\)/.test(text)), warnings.join('; '));
  const { metadata } = await json(['inspect', out('checkpoint.gguf')]);
  assert.deepEqual([metadata.epoch, JSON.parse(metadata.config)], [3, { hidden: 5, name: 'net', lr: 0.01, flags: [true, null] }]);
  await ok(['convert', out('checkpoint.gguf'), out('checkpoint.safetensors')]);
  const want = tensorsOf(shared('fixtures/torch/pt/checkpoint.safetensors'));
  const got = tensorsOf(out('checkpoint.safetensors'));
  for (const [name, { dtype, bytes }] of Object.entries(want)) if (dtype === 'F32') assert.ok(Buffer.compare(got[name].bytes, bytes) === 0, name);
});

test('C1: convert SafeTensors → F16 and back says that precision was lost, once', async () => {
  const { stderr } = await ok(['convert', weights, out('half.safetensors'), '--dtype', 'f16']);
  assert.match(stderr, /warning: F32 → F16, rounded: .* and 28 more/);
  const widened = await ok(['convert', out('half.safetensors'), out('wide.safetensors'), '--dtype', 'f32']);
  assert.equal(widened.stderr, '');
  for (const [name, { bytes }] of Object.entries(tensorsOf(weights))) assertClose(floats(tensorsOf(out('wide.safetensors'))[name].bytes), floats(bytes), 1e-3, name);
});

test('C1: convert Loom bundle → SafeTensors → Loom bundle: the network gives the outputs Loom stored', async () => {
  const { input, output } = readJson(golden('loom/mlp_batch4.io.json'));
  const bundle = golden('loom/mlp_batch4.bundle.json');
  await ok(['convert', bundle, out('mlp.safetensors')]);
  const { id, cfg } = readJson(bundle).models[0];
  writeFileSync(out('mlp.config.json'), JSON.stringify(cfg));
  await ok(['convert', out('mlp.safetensors'), out('mlp.json'), '--config', out('mlp.config.json'), '--id', id]);
  const runtime = await runtimeWith('simd128');
  const network = runtime.LoadNetworkFromString(readFileSync(out('mlp.json'), 'utf8'), id);
  assertClose(network.ForwardCPU(Float32Array.from(input)), output, 1e-6, 'outputs');
  network.free();
});

// ---- generate, tokenize, cache ----

const tale = shared('fixtures/transformers/e2e-llama-text');
const taleNeeds = needs('fixtures/transformers/e2e-llama-text/model.safetensors');

test('F58: generate streams the text of the fixture; from the folder, and from the GGUF file made of it with its tokenizer', taleNeeds, async () => {
  const { prompt, prompt_ids: ids, text } = readJson(join(tale, 'expected.json'));
  assert.equal((await ok(['generate', tale, '--prompt', prompt, '-n', '40'])).stdout, `${text}\n`);
  await ok(['convert', tale, out('tale.gguf')]);
  assert.equal((await ok(['tokenize', out('tale.gguf'), prompt])).stdout.trim(), ids.join(' '));
  const made = await json(['generate', out('tale.gguf'), '-n', '40'], { input: prompt });
  assert.deepEqual([made.text, made.usage.stop], [text, 'end']);
});

test('C1: tokenize gives ids and takes them back', taleNeeds, async () => {
  const { prompt, prompt_ids: ids } = readJson(join(tale, 'expected.json'));
  assert.deepEqual((await json(['tokenize', tale, prompt])).ids, ids);
  assert.equal((await ok(['tokenize', tale, ids.join(','), '--decode'])).stdout, `${prompt}\n`);
});

test('C1: cache lists what a load with --cache kept, and clears it', taleNeeds, async () => {
  const names = ['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
  const server = await serverFor(Object.fromEntries(names.map((name) => [`m/${name}`, { bytes: readFileSync(join(tale, name)), etag: `"${name}"` }])));
  const env = { XDG_CACHE_HOME: out('caches') };
  await ok(['generate', `${server.address}/m/`, '--prompt', 'The', '-n', '1', '--cache'], { env });
  const kept = (await json(['cache', 'list'], { env })).entries.map(({ url }) => url);
  assert.ok(kept.includes(`${server.address}/m/model.safetensors`), kept.join());
  server.reset();
  await ok(['generate', `${server.address}/m/`, '--prompt', 'The', '-n', '1', '--cache'], { env });
  assert.equal(server.requests.length, 0, 'nothing from the network the second time');
  await ok(['cache', 'verify'], { env });
  assert.equal((await json(['cache', 'clear'], { env })).removed, kept.length);
  assert.deepEqual((await json(['cache', 'list'], { env })).entries, []);
});
