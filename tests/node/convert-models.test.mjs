/** Loaded models as files: whatever their weights are kept as, the file has the values the model has. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertSameBits, readSafetensors } from './golden.mjs';
import { golden, heddle, heddleError, needs, readJson, shared, testOnEveryModule } from './heddle.mjs';
import { asLlamaCpp, writeGguf } from './llamacpp.mjs';

const folder = golden('transformers/llama-mild');

async function converted(runtime, source, options) {
  const chunks = [];
  const made = await runtime.convertWeights(source, (chunk) => void chunks.push(Buffer.from(chunk)), options);
  return { ...made, file: Buffer.concat(chunks) };
}

testOnEveryModule('a model kept as f16, bf16, q8_0 or int8 becomes files of its own values', async (runtime) => {
  for (const dtype of ['keep', 'f16', 'bf16', 'q8_0', 'int8']) {
    const model = await runtime.loadModel(folder, { dtype });
    for (const to of ['safetensors', 'pytorch', 'gguf']) {
      const { file, tensors } = await converted(runtime, heddle.modelTensors(model), { to });
      const weights = await runtime.openWeights(file);
      assert.deepEqual([...weights.tensorNames].sort(), model.weights.map(({ name }) => name).sort(), `${dtype} as ${to}`);
      for (const { name } of model.weights) {
        const { data } = await weights.tensor(name, { as: 'f32' });
        const want = await model.readWeight(name);
        const same = data.every((value, i) => value === want[i]);
        const { lossy } = tensors.find((each) => each.name === name);
        assert.ok(same || lossy, `${dtype} as ${to}: ${name}`);
      }
      await weights.close();
    }
    await model.free();
  }
});

testOnEveryModule('a conversion takes dtypes in either case, and says which options it needs and knows', async (runtime) => {
  const model = await runtime.loadModel(folder);
  const [lower, upper] = [await converted(runtime, heddle.modelTensors(model), { to: 'safetensors', dtype: 'bf16' }), await converted(runtime, heddle.modelTensors(model), { to: 'safetensors', dtype: 'BF16' })];
  assert.deepEqual(lower.file, upper.file);
  await assert.rejects(converted(runtime, heddle.modelTensors(model), {}), heddleError('bad_argument', /^to undefined is not known; known: safetensors/));
  await assert.rejects(converted(runtime, heddle.modelTensors(model), { too: 'gguf' }), heddleError('bad_argument', /^too: no such option; known: to, dtype, /));
  await model.free();
});

testOnEveryModule('an encoder is told that it makes no text', async (runtime) => {
  const model = await runtime.loadModel({ 'config.json': golden('transformers/minilm-like/config.json'), 'model.safetensors': golden('transformers/minilm-like/model.safetensors') });
  await assert.rejects(model.generate([1, 2], { maxTokens: 3 }).text(), heddleError('bad_state', /keeps nothing from token to token.*embed/));
  await model.free();
});

// ---- The checkpoint's own order ----

testOnEveryModule("GPT-2's matrices of a GGUF file are [in, out] again in SafeTensors and PyTorch files, converted or saved", async (runtime) => {
  const own = readSafetensors(golden('transformers/gpt2/model.safetensors'));
  const { metadata, tensors } = asLlamaCpp('gpt2');
  const model = await runtime.loadModel(writeGguf(metadata, tensors));
  const files = {
    'saveTorch()': await model.saveTorch(),
    'saveWeights()': await model.saveWeights(),
    safetensors: (await converted(runtime, heddle.modelTensors(model), { to: 'safetensors' })).file,
    pytorch: (await converted(runtime, heddle.modelTensors(model), { to: 'pytorch' })).file,
  };
  for (const [what, file] of Object.entries(files)) {
    const weights = await runtime.openWeights(file);
    assert.deepEqual([...weights.tensorNames].sort(), [...own.keys()].sort(), what);
    for (const [name, { shape, data }] of own) {
      const found = await weights.tensor(name, { as: 'f32' });
      assert.deepEqual(found.shape, shape, `${what}: ${name}`);
      assertSameBits(found.data, data, `${what}: ${name}`);
    }
    await weights.close();
    const again = await runtime.loadModel({ 'config.json': golden('transformers/gpt2/config.json'), [what === 'pytorch' || what === 'saveTorch()' ? 'pytorch_model.bin' : 'model.safetensors']: file });
    await again.free();
  }
  assert.deepEqual(model.weights.filter(({ inOut }) => inOut).map(({ name }) => name.replace(/\d+/, 'i')).filter((name, i, all) => all.indexOf(name) === i), [
    'transformer.h.i.attn.c_attn.weight', 'transformer.h.i.attn.c_proj.weight', 'transformer.h.i.mlp.c_fc.weight', 'transformer.h.i.mlp.c_proj.weight',
  ]);
  await model.free();
});

// ---- A model's tokenizer in its GGUF file ----

const tokenizers = golden('transformers/tokenizers');
const tokenizerText = (name, file) => readFileSync(join(tokenizers, name, file), 'utf8');

/** Mistral's puts no space before a text that has one or begins with a special token; GGUF can say only whether one is put there. */
const isUnsaid = (name, text) => name === 'mistral-metaspace' && /^ |<\/?(s|unk)>/.test(text);
/** The config.json without ids of tokens, which are none of these vocabularies'. */
const unnamed = () => JSON.stringify(Object.fromEntries(Object.entries(readJson(join(folder, 'config.json'))).filter(([key]) => !key.endsWith('token_id'))));

for (const name of ['llama2-bytefallback', 'mistral-metaspace', 'llama3-bytelevel', 'qwen2-bytelevel', 'gpt2-bytelevel']) {
  testOnEveryModule(`saveGguf writes the model's own ${name} tokenizer and chat template: the ids are transformers'`, async (runtime) => {
    const template = '{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}';
    const model = await runtime.loadModel({
      'config.json': unnamed(), 'model.safetensors': join(folder, 'model.safetensors'), 'chat_template.jinja': template,
      'tokenizer.json': tokenizerText(name, 'tokenizer.json'), 'tokenizer_config.json': tokenizerText(name, 'tokenizer_config.json'),
    });
    const again = await runtime.loadModel(await model.saveGguf());
    for (const { text, ids } of readJson(join(tokenizers, name, 'cases.json')).cases.filter(({ text: each }) => !isUnsaid(name, each))) assert.deepEqual(await again.tokenize(text), ids, JSON.stringify(text));
    assert.equal(await again.chatTemplate(), template);
    const twice = await runtime.loadModel(await again.saveGguf({ dtype: 'F16' }));
    assert.deepEqual([await twice.tokenize('Hello world'), await twice.chatTemplate()], [await again.tokenize('Hello world'), template]);
    const without = await runtime.inspect(await model.saveGguf({ tokenizer: false }));
    assert.deepEqual(Object.keys(without.metadata).filter((key) => key.startsWith('tokenizer.')), []);
    await Promise.all([model.free(), again.free(), twice.free()]);
  });
}

test('saveGguf: metadata of the caller go before the model\'s own, a tokenizer of theirs is the whole one, and what GGUF cannot say is a notice', async () => {
  const notices = [];
  const own = await heddle.init({ log: (text) => void notices.push(text) });
  const files = (name) => ({
    'config.json': join(folder, 'config.json'), 'model.safetensors': join(folder, 'model.safetensors'),
    'tokenizer.json': tokenizerText(name, 'tokenizer.json'), 'tokenizer_config.json': tokenizerText(name, 'tokenizer_config.json'),
  });
  const model = await own.loadModel(files('llama3-bytelevel'));
  const metadataOf = async (options) => (await own.inspect(await model.saveGguf(options))).metadata;
  assert.equal((await metadataOf({ metadata: { 'tokenizer.ggml.pre': 'mine' } }))['tokenizer.ggml.pre'], 'mine');
  const theirs = await metadataOf({ metadata: new Map([['tokenizer.ggml.model', 'gpt2'], ['tokenizer.ggml.tokens', ['a']]]) });
  assert.deepEqual(Object.keys(theirs).filter((key) => key.startsWith('tokenizer.')), ['tokenizer.ggml.model', 'tokenizer.ggml.tokens']);
  await model.free();
  const unigram = await own.loadModel(files('t5-unigram'));
  notices.length = 0;
  const { metadata } = await own.inspect(await unigram.saveGguf());
  assert.equal(metadata['tokenizer.ggml.model'], undefined);
  assert.deepEqual(notices, ['the GGUF file has no tokenizer: tokenizer.json: a Unigram tokenizer is not written as GGUF\'s']);
  await unigram.free();
  await own.free();
});

test('saveGguf of a sentence encoder keeps its pooling, and says what GGUF has no place for', needs('fixtures/transformers/minilm-like'), async () => {
  const notices = [];
  const own = await heddle.init({ log: (text) => void notices.push(text) });
  const model = await own.loadModel(golden('transformers/minilm-like'));
  notices.length = 0;
  const file = await model.saveGguf();
  assert.equal((await own.inspect(file)).metadata['bert.pooling_type'], 1);
  assert.match(notices.join('\n'), /GGUF has no place for how texts become vectors here: normalize true, maxTokens \d+/);
  await model.free();
  await own.free();
});

// ---- Files that are not there, or too many ----

testOnEveryModule('a file given as undefined is said to be, and several .gguf files of a folder are not one', needs('fixtures/real/stories260k/stories260K-f32.gguf'), async (runtime) => {
  const config = join(folder, 'config.json');
  await assert.rejects(runtime.loadModel({ 'config.json': config, 'model.safetensors': undefined }), heddleError('bad_file', /^no model\.safetensors among the files given: config\.json, model\.safetensors is undefined$/));
  const quants = Object.fromEntries(['f32', 'q4_0', 'q8_0'].map((kind) => [`stories260K-${kind}.gguf`, shared(`fixtures/real/stories260k/stories260K-${kind}.gguf`)]));
  await assert.rejects(runtime.loadModel(quants), heddleError('bad_file', /^several \.gguf files among the files given: name one of stories260K-f32\.gguf, stories260K-q4_0\.gguf, stories260K-q8_0\.gguf$/));
});
