/** Generation beyond the greedy path: limits, draws, aborts, whole characters, adapters' and tokenizers' edges. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { golden, heddle, heddleError, projectFolder, readJson, testOnEveryModule } from './heddle.mjs';

const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[0];

const idsOf = async (generation) => {
  const ids = [];
  for await (const { token } of generation) ids.push(token);
  return ids;
};

testOnEveryModule('maxTokens, stop tokens and the context each end a text', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const few = model.generate(story.prompt, { maxTokens: 7 });
  assert.deepEqual(await idsOf(few), story.greedy_ids.slice(0, 7));
  assert.equal(few.usage.stop, 'max_tokens');
  assert.equal(few.usage.tokens, 7);

  const stop = story.greedy_ids[10];
  const stopped = model.generate(story.prompt, { stopTokens: [stop] });
  assert.deepEqual(await idsOf(stopped), story.greedy_ids.slice(0, story.greedy_ids.indexOf(stop)));
  assert.equal(stopped.usage.stop, 'end');

  const short = model.generate(story.prompt, { context: 20 });
  const ids = await idsOf(short);
  assert.deepEqual(ids, story.greedy_ids.slice(0, 20 - story.prompt_ids.length + 1));
  assert.equal(short.usage.stop, 'context');

  assert.deepEqual(await idsOf(model.generate(story.prompt_ids, { maxTokens: 7 })), story.greedy_ids.slice(0, 7), 'a prompt of ids');
  const none = model.generate(story.prompt, { maxTokens: 0 });
  assert.equal(await none.text(), '');
  assert.equal(none.usage.tokens, 0);
  await model.free();
});

testOnEveryModule('a context given at load is the sessions\' context', async (runtime) => {
  const model = await runtime.loadModel(storyFolder, { context: 16 });
  const generation = model.generate(story.prompt);
  await generation.text();
  assert.equal(generation.usage.stop, 'context');
  await assert.rejects(model.generate(new Array(17).fill(5)).text(), heddleError('bad_argument', /^the prompt is 17 tokens, the context 16$/));
  await model.free();
});

testOnEveryModule('long prompts are prefilled in pieces', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const prompt = [...story.prompt_ids, ...story.greedy_ids.slice(0, 150)];
  const generation = model.generate(prompt, { maxTokens: 20 });
  assert.deepEqual(await idsOf(generation), story.greedy_ids.slice(150, 170));
  assert.equal(generation.usage.prefillTokens, prompt.length);
  assert.ok(generation.usage.prefillSeconds > 0);
  await model.free();
});

testOnEveryModule('draws repeat with a seed, and stay among the k likeliest', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const drawn = (options) => idsOf(model.generate('Once', { maxTokens: 30, temperature: 1.5, ...options }));
  assert.deepEqual(await drawn({ seed: 1 }), await drawn({ seed: 1 }));
  assert.notDeepEqual(await drawn({ seed: 1 }), await drawn({ seed: 2 }));
  assert.deepEqual(await drawn({ seed: 3, topK: 1 }), await drawn({ temperature: 0 }));

  const session = await model.createSession({ outputRows: 1 });
  await session.decode(await model.tokenize('Once'));
  const logits = await session.logits();
  const likeliest = [...logits.keys()].sort((a, b) => logits[b] - logits[a]).slice(0, 3);
  const first = new Set();
  for (let seed = 0; seed < 60; seed++) first.add((await drawn({ seed, topK: 3, temperature: 100, maxTokens: 1 }))[0]);
  assert.deepEqual([...first].sort(), likeliest.sort());

  await assert.rejects(drawn({ temperature: -1 }), heddleError('bad_argument', /temperature/));
  await assert.rejects(drawn({ topK: 0 }), heddleError('bad_argument', /topK/));
  await model.free();
});

testOnEveryModule('an abort ends a generation with its reason, breaking off just ends it', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const reason = new Error('stop it');
  const controller = new AbortController();
  const seen = [];
  const generation = model.generate(story.prompt, { signal: controller.signal, onToken: ({ token }) => seen.push(token) });
  await assert.rejects(async () => {
    for await (const _ of generation) if (seen.length === 4) controller.abort(reason);
  }, (error) => error === reason);
  assert.equal(seen.length, 4);
  assert.equal(generation.usage, undefined);
  assert.throws(() => AbortSignal.abort(reason).throwIfAborted(), (error) => error === reason);
  await assert.rejects(model.generate('x', { signal: AbortSignal.abort(reason) }).text(), (error) => error === reason);

  for await (const _ of model.generate(story.prompt)) break;
  // Sessions of both are freed: the model can be trained, written, and freed.
  await model.writeWeight('model.norm.weight', await model.readWeight('model.norm.weight'));
  await model.free();
});

testOnEveryModule('a page can abort: timers run while a text is made', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const controller = new AbortController();
  setTimeout(() => controller.abort(new Error('timer')), 30);
  const endless = async () => {
    for (;;) await model.generate(story.prompt, { signal: controller.signal }).text();
  };
  await assert.rejects(endless(), /timer/);
  await model.free();
});

testOnEveryModule('G2 a sliding window holds no more than it looks at; a text that goes back further is computed anew', async (runtime) => {
  const part = (file) => golden(`transformers/mistral-swa/${file}`);
  const config = JSON.stringify({ ...readJson(part('config.json')), max_position_embeddings: 4000 });
  const model = await runtime.loadModel({ 'config.json': config, 'model.safetensors': part('model.safetensors') });
  const { prompt_ids: prompt, greedy_ids_ignore_eos: want } = readJson(part('expected.json'));
  const options = { maxTokens: 24, ignoreEnd: true, reuse: true };
  const session = await model.createSession({ context: 2000, outputRows: 1, input: { shape: [64] } });
  const long = Array.from({ length: 1500 }, (_, i) => (7 * i + 3) % 250);
  await session.decode([...prompt, ...long]);
  const { state } = await session.memory();
  await session.decode(long.slice(0, 400));
  assert.equal((await session.memory()).state, state, 'the state of a longer text');
  await assert.rejects(session.rewind(prompt.length), heddleError('unsupported', /^cannot rewind to \d+: layers with a window hold/));
  const again = session.generate(prompt, options);
  assert.deepEqual(await idsOf(again), want);
  assert.equal(again.usage.reusedTokens, 0);
  const near = session.generate(prompt, options);
  assert.deepEqual(await idsOf(near), want);
  assert.equal(near.usage.reusedTokens, prompt.length - 1);
  await model.free();
});

testOnEveryModule('text needs a tokenizer, ids do not', async (runtime) => {
  const model = await runtime.loadModel({ 'config.json': join(storyFolder, 'config.json'), 'model.safetensors': join(storyFolder, 'model.safetensors') });
  await assert.rejects(model.generate('x').text(), heddleError('bad_state', /no tokenizer/));
  await assert.rejects(model.tokenize('x'), heddleError('bad_state', /no tokenizer/));
  assert.deepEqual(await idsOf(model.generate(story.prompt_ids, { maxTokens: 3 })), story.greedy_ids.slice(0, 3));
  await assert.rejects(model.generate([]).text(), heddleError('bad_argument', /prompt is empty/));
  await model.free();
});

test('streamed text never cuts a character and adds up to the whole', () => {
  const tokenizer = new heddle.Tokenizer({
    'tokenizer.json': readJson(join(storyFolder, 'tokenizer.json')),
    'tokenizer_config.json': readJson(join(storyFolder, 'tokenizer_config.json')),
  });
  const texts = ['plain', 'naïve café', '日本語のテキスト', '👩‍👩‍👧‍👦 family', 'mixed 🎉 and é', ' leading space', 'e\u0301 combining', 'x'.repeat(300)];
  for (const text of texts) {
    const ids = tokenizer.encode(text).slice(1);
    const stream = tokenizer.stream();
    const pieces = ids.map((id) => stream.push(id));
    assert.equal(pieces.join('') + stream.end(), text);
    for (const piece of pieces) assert.ok(!piece.includes('\uFFFD'), JSON.stringify(pieces));
    assert.equal(tokenizer.decode(ids), text);
  }
  const stream = tokenizer.stream();
  const [first] = tokenizer.encode('日').slice(1);
  assert.equal(stream.push(first), '', 'a part of a character waits');
  assert.equal(stream.end(), '\uFFFD', 'and is shown at the end');
});

test('a tokenizer adds the begin token where its files say so', () => {
  const file = readJson(join(storyFolder, 'tokenizer.json'));
  const ids = (config, more = {}) => new heddle.Tokenizer({ 'tokenizer.json': { ...file, ...more }, 'tokenizer_config.json': config }).encode('a');
  const plain = ids({});
  assert.deepEqual(ids({ bos_token: '<s>' }), [0, ...plain], 'nothing says when: before a text');
  assert.deepEqual(ids({ bos_token: '<s>', add_bos_token: true }), [0, ...plain]);
  assert.deepEqual(ids({ bos_token: { content: '<s>' }, add_bos_token: true }), [0, ...plain]);
  assert.deepEqual(ids({ bos_token: '<s>', add_bos_token: false }), plain);
  const byteLevel = { post_processor: { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true } };
  assert.deepEqual(ids({ bos_token: '<s>' }, byteLevel), plain, 'a post-processor that adds none means none');
  assert.throws(() => new heddle.Tokenizer({ 'tokenizer.json': '{' }), heddleError('bad_file', /tokenizer\.json/));
  assert.throws(() => new heddle.Tokenizer({ 'tokenizer.json': '{"model": {"type": "Nonsense"}}' }), heddleError('bad_file', /tokenizer\.json/));
});
