/**
 * From an address to a conversation in one call: e2e-llama-text (transformers' ids, text and pieces of a stream) served whole, to those who may have it; where the
 * end of a text is named; and the same model from its parts.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { entry, golden, heddle, heddleError, modules, optionsFor, readJson, runtimeWith, testOnEveryModule } from './heddle.mjs';
import { test } from 'node:test';
import { serverFor } from './range-server.mjs';

const at = (file) => readFileSync(golden(`transformers/e2e-llama-text/${file}`));
const expected = readJson(golden('transformers/e2e-llama-text/expected.json'));
const { eos_token_id: end, greedy_ids: ids, greedy_ids_ignore_eos: goesOn } = expected;
const template = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
const tokenizerConfig = JSON.stringify({ ...JSON.parse(at('tokenizer_config.json')), chat_template: template });

/** The model's files; `changes` are objects that take the place of keys in a JSON file, null leaves the file out. */
function files(changes = {}) {
  const all = Object.fromEntries(['config.json', 'generation_config.json', 'tokenizer.json', 'model.safetensors'].map((file) => [file, at(file)]));
  all['tokenizer_config.json'] = Buffer.from(tokenizerConfig);
  for (const [file, change] of Object.entries(changes)) {
    if (change === null) delete all[file];
    else all[file] = Buffer.from(JSON.stringify({ ...JSON.parse(all[file]), ...change }));
  }
  return all;
}

async function collect(generation) {
  const [tokens, pieces] = [[], []];
  for await (const { token, text } of generation) {
    tokens.push(token);
    pieces.push(text);
  }
  return { tokens, pieces, usage: generation.usage };
}

testOnEveryModule('G2 G3 greedy ids, text and the pieces of the stream are transformers\', to the end token; the iterator gives them as they come', async (runtime) => {
  const model = await runtime.loadModel(files());
  const heard = [];
  const { tokens, pieces, usage } = await collect(model.generate(expected.prompt, { onToken: ({ token }) => heard.push(token) }));
  assert.deepEqual(tokens, ids.slice(0, -1));
  assert.deepEqual(heard, tokens);
  assert.deepEqual(pieces, expected.stream);
  assert.equal(pieces.join(''), expected.text);
  assert.deepEqual([usage.stop, usage.stoppedBy, usage.prefillTokens], ['end', end, expected.prompt_ids.length]);
  assert.deepEqual((await collect(model.generate(expected.prompt_ids, { ignoreEnd: true, maxTokens: goesOn.length }))).tokens.filter((token) => token >= 0), goesOn);
  const stopped = new AbortController();
  let seen = 0;
  await assert.rejects(async () => {
    for await (const _ of model.generate(expected.prompt, { signal: stopped.signal })) if (++seen === 3) stopped.abort(new Error('enough'));
  }, /enough/);
  assert.equal(seen, 3);
  await model.free();
});

testOnEveryModule('G4 the end of a text is named in generation_config.json, config.json or the tokenizer, as a number or a list', async (runtime) => {
  const none = { eos_token_id: undefined };
  const other = ids[4];
  const token = new heddle.Tokenizer({ 'tokenizer.json': at('tokenizer.json').toString() }).idToToken(other);
  const cases = [
    ['generation_config.json, before config.json', { 'config.json': { eos_token_id: other } }, end],
    ['a list there', { 'generation_config.json': { eos_token_id: [5, other] } }, other],
    ['config.json, where the other says none', { 'generation_config.json': none, 'config.json': { eos_token_id: other } }, other],
    ['a list in config.json', { 'generation_config.json': null, 'config.json': { eos_token_id: [other, end] } }, other],
    ["the tokenizer's eos_token", { 'generation_config.json': null, 'config.json': none, 'tokenizer_config.json': { eos_token: token } }, other],
    ['the same beside null, as an object', { 'generation_config.json': { eos_token_id: null }, 'config.json': { eos_token_id: null }, 'tokenizer_config.json': { eos_token: { content: token } } }, other],
    ['not where a config names one', { 'tokenizer_config.json': { eos_token: token } }, end],
  ];
  for (const [what, changes, want] of cases) {
    const model = await runtime.loadModel(files(changes));
    const { tokens, usage } = await collect(model.generate(expected.prompt));
    assert.deepEqual([tokens, usage.stop, usage.stoppedBy], [ids.slice(0, ids.indexOf(want)), 'end', want], what);
    await model.free();
  }
  const endless = await runtime.loadModel(files({ 'generation_config.json': null, 'config.json': none, 'tokenizer_config.json': { eos_token: null } }));
  assert.deepEqual((await collect(endless.generate(expected.prompt, { maxTokens: 40 }))).tokens.filter((token) => token >= 0), goesOn.slice(0, 40), 'nobody names one');
  await endless.free();
});

const server = await serverFor({});
const secret = { authorization: 'Bearer heddle-test' };

/** The model below /org/name/resolve/REVISION/, refused without the header. */
function serve(revision, changes) {
  for (const [name, bytes] of Object.entries(files(changes))) server.files[`org/name/resolve/${revision}/${name}`] = { bytes, etag: `"${revision}-${name}"` };
  const seen = [];
  server.reset({ refuse: (number) => {
    const { headers } = server.requests[number];
    seen.push(headers.authorization);
    return headers.authorization === secret.authorization ? 0 : 401;
  } });
  return seen;
}

async function talks(model) {
  const chat = await model.createChat({ maxTokens: 12 });
  const { text } = await chat.send(expected.prompt).reply();
  await chat.free();
  return text;
}

for (const where of ['this thread', 'a worker']) {
  test(`one call makes a private model on a server ready to chat, in ${where}`, async () => {
    const seen = serve('main', {});
    const runtime = where === 'a worker' ? await (await entry('./worker')).init(optionsFor(modules[0])) : await runtimeWith(modules[0]);
    const address = `${server.address}/org/name/resolve/main/`;
    const steps = [];
    const model = await runtime.loadModel(address, { headers: secret, progress: (step) => steps.push(step) });
    assert.deepEqual((await collect(model.generate(expected.prompt))).tokens, ids.slice(0, -1));
    assert.equal(await talks(model), await (await runtimeWith(modules[0])).loadModel(files()).then((same) => talks(same)));
    assert.equal(await model.chatTemplate(), template);
    assert.equal(steps.at(-1).bytes, steps.at(-1).totalBytes);
    assert.ok(seen.length >= 5 && seen.every((header) => header === secret.authorization));
    await model.free();

    await assert.rejects(runtime.loadModel(address), heddleError('bad_file', /401.*headers/s));
    await assert.rejects(runtime.loadModel(address, { headers: secret, signal: AbortSignal.abort(new Error('never mind')) }), /never mind/);
    serve('v2', { 'generation_config.json': { eos_token_id: ids[4] } });
    const pinned = await runtime.loadModel(address, { headers: secret, revision: 'v2', dtype: 'f16' });
    assert.ok(server.requests.every(({ path }) => path.startsWith('org/name/resolve/v2/')));
    assert.equal((await collect(pinned.generate(expected.prompt))).usage.stoppedBy, ids[4]);
    assert.ok(pinned.weights.some(({ dtype }) => dtype === 'F16'));
    await pinned.free();
    if (where === 'a worker') return runtime.free();
    const asked = [];
    const own = (url, options) => {
      asked.push(String(url));
      return fetch(url, { ...options, headers: { ...options?.headers, ...secret } });
    };
    const fetched = await runtime.loadModel(address, { fetch: own });
    assert.ok(asked.length >= 5);
    await fetched.free();
  });
}

testOnEveryModule('G2 G7 loadTransformerFromBytes makes text with a tokenizer, in any form it comes', async (runtime) => {
  const [config, weights, tokenizer] = [at('config.json'), at('model.safetensors'), at('tokenizer.json')];
  const forms = [tokenizer, JSON.parse(tokenizer), { 'tokenizer.json': tokenizer.toString(), 'tokenizer_config.json': tokenizerConfig }, new Blob([tokenizer])];
  for (const form of forms) {
    const model = await runtime.loadTransformerFromBytes(config, weights, form);
    assert.equal(await model.generate(expected.prompt).text(), expected.text);
    await model.free();
  }
  const { model } = await runtime.LoadTransformerFromBytes(config, weights, tokenizer);
  assert.equal(await model.generate(expected.prompt).text(), expected.text);
  await model.free();
  const bare = await heddle.init(optionsFor(modules[0])).then(() => heddle.loadTransformerFromBytes(JSON.parse(config), weights));
  assert.deepEqual((await collect(bare.generate(expected.prompt_ids))).tokens, ids.slice(0, -1));
  await assert.rejects(bare.generate(expected.prompt).text(), heddleError('bad_state', /tokenizer/));
  await bare.free();
  await assert.rejects(runtime.loadTransformerFromBytes(config, weights, { 'tokenizer.txt': '' }), heddleError('bad_argument', /tokenizer\.txt: no such option/));
  await assert.rejects(runtime.loadTransformerFromBytes(config, weights, 5), heddleError('bad_argument', /the tokenizer: expected/));
});
