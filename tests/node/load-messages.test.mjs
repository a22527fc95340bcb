/** What a load says of files that are not quite what they should be: notices where it goes on, errors that name the file where it does not. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { golden, heddle, heddleError, modules, optionsFor, readJson, runtimeWith } from './heddle.mjs';
import { serverFor } from './range-server.mjs';

const tale = (name) => golden(`transformers/e2e-llama-text/${name}`);
const names = ['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json'];
const files = Object.fromEntries(names.map((name) => [name, readFileSync(tale(name))]));
const { prompt, text } = readJson(tale('expected.json'));
const runtime = await runtimeWith(modules[0]);
const bytes = (content) => new TextEncoder().encode(content);

/** What loading them says, and the model's text. */
async function said(changed, options) {
  const notices = [];
  const own = await heddle.init({ ...optionsFor(modules[0]), log: () => undefined });
  const model = await own.loadModel({ ...files, ...changed }, options);
  const made = await model.generate(prompt, { maxTokens: 40 }).text();
  notices.push(...own.notices);
  await model.free();
  await own.free();
  return { notices, made };
}

test('a file with more layers than config.json describes: how many are left unused, and which', async () => {
  const config = readJson(tale('config.json'));
  assert.equal(config.num_hidden_layers, 3);
  assert.deepEqual((await said({})).notices, []);
  const { notices, made } = await said({ 'config.json': JSON.stringify({ ...config, num_hidden_layers: 1 }) });
  assert.deepEqual(notices, ['the weights have 3 layers (model.layers), the description 1: 2 are left unused (1, 2)']);
  assert.notEqual(made, text);
});

test('a generation_config.json that is no JSON is left out, which is said', async () => {
  const { notices, made } = await said({ 'generation_config.json': bytes('{"eos_token_id": 304,}') });
  assert.equal(notices.length, 1);
  assert.match(notices[0], /^generation_config\.json: .*; it is left out$/);
  assert.equal(made, text, "the end token is config.json's");
});

test('JSON that is broken is refused by its file', async () => {
  const broken = bytes('{"a": 1,}');
  await assert.rejects(runtime.loadModel({ ...files, 'config.json': broken }), heddleError('bad_file', /^config\.json: byte 8: expected a key in quotes, found '\}'$/));
  const index = 'model.safetensors.index.json';
  const { 'model.safetensors': weights, ...rest } = files;
  await assert.rejects(runtime.loadModel({ ...rest, [index]: broken, 'model-00001-of-00002.safetensors': weights }), heddleError('bad_file', /^model\.safetensors\.index\.json: /));
  await assert.rejects(runtime.loadModel({ ...files, 'modules.json': broken }), heddleError('bad_file', /^modules\.json: /));
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.json']) {
    const model = await runtime.loadModel({ ...files, [name]: broken });
    await assert.rejects(model.tokenize('x'), heddleError('bad_file', new RegExp(`^${name.replace('.', '\\.')}: `)));
    await model.free();
  }
  const model = await runtime.loadModel(golden('transformers/llama-gqa-tied'));
  const adapter = readFileSync(golden('transformers/lora/llama-qv-r4/adapter_model.safetensors'));
  await assert.rejects(model.loadAdapter('{"r": 4,}', adapter), heddleError('bad_file', /^adapter_config\.json: byte 8: /));
  await model.free();
  await assert.rejects(runtime.loadModel({ ...files, 'config.json': 'config.json' }), heddleError('bad_file', /config\.json/));
  await assert.rejects(runtime.loadModel({ ...files, 'generation_config.json': './elsewhere' }), heddleError('bad_file', /^generation_config\.json: cannot open \.\/elsewhere/));
});

test("a tokenizer's place where its contents are wanted: what is wanted is said", async () => {
  for (const [tokenizer, pattern] of [
    ['models/x/tokenizer.json', /^tokenizer: expected an object with the files' contents, .* found 'models\/x\/tokenizer\.json', which looks like where it lies: read it/],
    [new URL('https://example.org/tokenizer.json'), /^tokenizer: .*which looks like where it lies/],
    [{ 'tokenizer.json': './tokenizer.json' }, /^tokenizer\.json: expected the file's JSON, as text or an object, found '\.\/tokenizer\.json', which looks/],
    [{ 'tokenizer.json': 'https://example.org/x' }, /^tokenizer\.json: .*which looks like where it lies/],
    [{ 'tokenizer.model': '/models/tokenizer.model' }, /^tokenizer\.model: expected the file's bytes as a Uint8Array, found '\/models/],
    [{ 'vocab.json': {}, 'merges.txt': 'models/merges.txt' }, /^merges\.txt: expected the file's text, found/],
  ]) {
    await assert.rejects(runtime.loadModel(files, { tokenizer }), heddleError('bad_argument', pattern));
    if (typeof tokenizer === 'object' && !(tokenizer instanceof URL)) assert.throws(() => new heddle.Tokenizer(tokenizer), heddleError('bad_argument', pattern));
  }
  const contents = Object.fromEntries(['tokenizer.json', 'tokenizer_config.json'].map((name) => [name, readFileSync(tale(name), 'utf8')]));
  const { 'tokenizer.json': _, ...others } = files;
  const model = await runtime.loadModel(others, { tokenizer: { ...contents, 'chat_template.jinja': 'Say:\n/{{ messages[0].content }}/' } });
  assert.equal(await model.applyChatTemplate([{ role: 'user', content: 'hi' }]), 'Say:\n/hi/');
  assert.equal(await model.generate(prompt).text(), text);
  await model.free();
});

test("a folder's address without its slash: the error says how it ends", async () => {
  const server = await serverFor(Object.fromEntries(names.map((name) => [`m/${name}`, { bytes: files[name] }])));
  const hint = (path) => new RegExp(`404 Not Found \\(if this is a folder, its address ends in a slash: ${server.address}${path}/\\)$`);
  await assert.rejects(runtime.loadModel(`${server.address}/m`), heddleError('bad_file', hint('/m')));
  await assert.rejects(runtime.openWeights(new URL(`${server.address}/m?x=1`)), heddleError('bad_file', hint('/m')));
  await assert.rejects(runtime.loadModel(`${server.address}/absent.gguf`), heddleError('bad_file', /404 Not Found$/));
  const model = await runtime.loadModel(`${server.address}/m/`);
  assert.equal(await model.generate(prompt).text(), text);
  await model.free();
});
