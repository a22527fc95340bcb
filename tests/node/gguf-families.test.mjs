/**
 * GGUF files of transformers' small checkpoints as llama.cpp's converter writes them (llamacpp.mjs): each is the model that transformers ran, by its logits,
 * hidden states and greedy tokens; and what saveGguf makes of the model is that file's tensors again, byte for byte.
 */
import assert from 'node:assert/strict';
import { assertClose, assertGreedy, largest, readSafetensors } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';
import { asLlamaCpp, q8Blocks, writeGguf } from './llamacpp.mjs';

const part = (name, file) => golden(`transformers/${name}/${file}`);
const expectedOf = (name) => readSafetensors(part(name, 'expected.safetensors'));
const budget = (want) => 1e-5 * Math.max(1, largest(want));

const decoders = { mixtral: 'Mixtral, as llama with experts', 'qwen3-moe': 'Qwen3-MoE', phi3: 'Phi-3', 'phi3-longrope': 'Phi-3 with two lists of rotary factors', gpt2: 'GPT-2' };
const encoders = ['bert', 'minilm-like'];

async function assertRuns(model, name) {
  const expected = expectedOf(name);
  const ids = expected.get('input_ids').data;
  const session = await model.createSession({ mode: 'trace', input: { shape: [ids.length] } });
  const output = await session.forward(ids);
  const states = [...expected.keys()].filter((key) => key.startsWith('hidden_states.'));
  for (const i of states.keys()) {
    const ours = i === 0 ? 'embedding' : i === states.length - 1 ? 'final_norm' : `layers.${i - 1}.output`;
    const want = expected.get(`hidden_states.${i}`).data;
    assertClose((await session.value(ours)).data, want, budget(want), `hidden_states.${i}`);
  }
  const want = expected.get('logits').data;
  assertClose(output, want, budget(want), 'logits');
  await session.free();
}

async function tensorsOf(runtime, file) {
  const weights = await runtime.openWeights(file);
  const found = {};
  for await (const { name, dtype, shape, data } of weights.all()) found[name] = { type: dtype, shape, bytes: data };
  await weights.close();
  return found;
}

/** What we write is what the converter writes. */
async function assertWritten(runtime, model, name) {
  const { metadata, tensors } = asLlamaCpp(name);
  const file = await model.saveGguf();
  const got = await tensorsOf(runtime, file);
  assert.deepEqual(Object.keys(got).sort(), Object.keys(tensors).sort());
  for (const [tensor, { type, shape, bytes }] of Object.entries(tensors)) {
    assert.deepEqual([got[tensor].type, got[tensor].shape], [type, shape], tensor);
    assert.deepEqual(Buffer.from(got[tensor].bytes.buffer, got[tensor].bytes.byteOffset, got[tensor].bytes.byteLength), Buffer.from(bytes.buffer), tensor);
  }
  const { metadata: written } = await runtime.inspect(file);
  for (const [key, [kind, value]] of Object.entries(metadata)) {
    if (/pooling_type/.test(key)) continue; // the caller's to say
    assert.equal(written[key], kind === 'f32' ? Math.fround(value) : value, key);
  }
}

for (const [name, what] of Object.entries(decoders)) {
  testOnEveryModule(`GGUF ${what}: logits, hidden states and greedy tokens are transformers'`, async (runtime) => {
    const { metadata, tensors } = asLlamaCpp(name);
    const model = await runtime.loadModel(writeGguf(metadata, tensors));
    await assertRuns(model, name);
    await assertGreedy(model, readJson(part(name, 'expected.json')));
    const own = readSafetensors(part(name, 'model.safetensors'));
    assert.deepEqual(model.weights.map((weight) => weight.name).sort(), [...own.keys()].sort());
    await model.free();
  });

  testOnEveryModule(`GGUF ${what} is written as llama.cpp's converter writes it, and read back`, async (runtime) => {
    const model = await runtime.loadModel({ 'config.json': part(name, 'config.json'), 'model.safetensors': part(name, 'model.safetensors') });
    await assertWritten(runtime, model, name);
    const again = await runtime.loadModel(await model.saveGguf());
    await assertRuns(again, name);
    await Promise.all([model.free(), again.free()]);
  });
}

for (const name of ['mixtral', 'qwen3-moe']) {
  testOnEveryModule(`GGUF ${name} with its experts one by one, as old files have them, is the same model`, async (runtime) => {
    const { metadata, tensors } = asLlamaCpp(name, { oneByOne: true });
    const model = await runtime.loadModel(writeGguf(metadata, tensors));
    await assertRuns(model, name);
    await model.free();
    const { 'blk.1.ffn_up.2.weight': _, ...lacking } = tensors;
    await assert.rejects(runtime.loadModel(writeGguf(metadata, lacking)), heddleError('bad_file', /lack 1 of .*layers\.1\..*experts\.\*\./));
    await assert.rejects(runtime.loadModel(writeGguf(metadata, { ...tensors, 'blk.1.ffn_up.99.weight': tensors['blk.1.ffn_up.2.weight'] })), heddleError('bad_file', /blk\.1\.ffn_up\.99\.weight: the model has \d of them/));
    await assert.rejects(runtime.loadModel(writeGguf(metadata, { ...tensors, 'blk.1.ffn_up_exps.weight': asLlamaCpp(name).tensors['blk.1.ffn_up_exps.weight'] })), heddleError('bad_file', /is in two of the files/));
  });
}

testOnEveryModule('GGUF experts in blocks keep their blocks, stacked and one by one, and are written with them', async (runtime) => {
  for (const oneByOne of [false, true]) {
    const { metadata, tensors } = asLlamaCpp('qwen3-moe', { oneByOne });
    const blocks = {};
    for (const [name, { shape, bytes }] of Object.entries(tensors)) if (/ffn_down/.test(name)) blocks[name] = tensors[name] = { type: 'Q8_0', shape, bytes: q8Blocks(bytes) };
    const model = await runtime.loadModel(writeGguf(metadata, tensors));
    const found = model.report.weights.filter(({ name }) => /down_proj/.test(name));
    assert.equal(found.length, 16);
    for (const { dtype, lossy } of found) assert.deepEqual([dtype, lossy], ['Q8_0', false]);
    const file = await model.saveGguf({ dtype: 'Q8_0' });
    const weights = await runtime.inspect(file);
    const whole = Buffer.from(file);
    for (let block = 0; block < 2; block++) {
      const { begin, end, dtype } = weights.tensors.find(({ name }) => name === `blk.${block}.ffn_down_exps.weight`);
      const want = Object.entries(blocks).filter(([name]) => name.startsWith(`blk.${block}.`)).map(([, { bytes }]) => bytes);
      assert.equal(dtype, 'Q8_0');
      assert.deepEqual(whole.subarray(begin, end), Buffer.concat(want));
    }
    await model.free();
  }
});

testOnEveryModule('GGUF GPT-2 with a head of its own, as older files have it, is the same model; its blocks are kept, [out, in] as they lie', async (runtime) => {
  const { metadata, tensors } = asLlamaCpp('gpt2');
  const own = await runtime.loadModel(writeGguf(metadata, { ...tensors, 'output.weight': tensors['token_embd.weight'] }));
  assert.ok(own.weights.some(({ name }) => name === 'lm_head.weight'));
  await assertRuns(own, 'gpt2');
  const down = tensors['blk.1.ffn_down.weight'];
  const blocks = q8Blocks(down.bytes);
  const model = await runtime.loadModel(writeGguf(metadata, { ...tensors, 'blk.1.ffn_down.weight': { ...down, type: 'Q8_0', bytes: blocks } }));
  const { dtype, shape, lossy } = model.report.weights.find(({ name }) => name === 'transformer.h.1.mlp.c_proj.weight');
  assert.deepEqual([dtype, shape, lossy], ['Q8_0', [48, 192], false]);
  const file = await model.saveGguf({ dtype: 'Q8_0' });
  const { begin, end } = (await runtime.inspect(file)).tensors.find(({ name }) => name === 'blk.1.ffn_down.weight');
  assert.deepEqual(Buffer.from(file.subarray(begin, end)), Buffer.from(blocks));
  await Promise.all([own.free(), model.free()]);
});

for (const name of encoders) {
  testOnEveryModule(`GGUF ${name}: each row alone is the padded batch's, and it is written as it was`, async (runtime) => {
    const expected = expectedOf(name);
    const { lengths } = readJson(part(name, 'expected.json'));
    const { vocab_size: vocabulary } = readJson(part(name, 'config.json'));
    const { metadata, tensors } = asLlamaCpp(name);
    const model = await runtime.loadModel(writeGguf(metadata, tensors));
    const [ids, types] = ['input_ids', 'token_type_ids'].map((key) => expected.get(key));
    for (const [row, length] of lengths.entries()) {
      const at = row * ids.shape[1];
      const text = Array.from({ length }, (_, i) => ids.data[at + i] + vocabulary * types.data[at + i]);
      const want = expected.get(`row${row}.last_hidden_state_unpadded`).data;
      assertClose(await model.forward(text), want, budget(want), `row ${row}`);
    }
    await assertWritten(runtime, model, name);
    const whole = await runtime.loadModel({ 'config.json': part(name, 'config.json'), 'model.safetensors': part(name, 'model.safetensors') });
    await assertWritten(runtime, whole, name); // its pooler left out, as llama.cpp does
    await Promise.all([model.free(), whole.free()]);
  });
}

testOnEveryModule('GGUF a model is not written as something else than it is: experts, activations, classifiers', async (runtime) => {
  const files = (name, config) => ({ 'config.json': JSON.stringify({ ...readJson(part(name, 'config.json')), ...config }), 'model.safetensors': part(name, 'model.safetensors') });
  for (const [name, config, reason] of [
    ['qwen3-moe', { norm_topk_prob: false }, /norm_topk_prob: GGUF cannot say it; expected true, found false/],
    ['gpt2', { activation_function: 'relu' }, /activation_function: GGUF cannot say it; expected gelu_new, found 'relu'/],
    ['gpt2', { scale_attn_by_inverse_layer_idx: true }, /scale_attn_weights: GGUF cannot say how scores are scaled/],
    ['bert', { hidden_act: 'relu' }, /hidden_act: GGUF cannot say it; expected gelu, found 'relu'/],
  ]) {
    const model = await runtime.loadModel(files(name, config));
    await assert.rejects(model.saveGguf(), heddleError('unsupported', reason));
    await model.free();
  }
});
