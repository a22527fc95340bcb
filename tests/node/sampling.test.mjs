/** Choosing the next token, against transformers' logits processors: the tokens they keep and their probabilities. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { golden, heddle, heddleError, packageFolder, projectFolder, readJson, testOnEveryModule } from './heddle.mjs';

const { drawFrom, filterLogits, logProbabilities, processLogits } = await import(pathToFileURL(join(packageFolder, 'dist/sampling.js')).href);

const data = readJson(golden('transformers/sampling/sampling.json'));
const cdf = readJson(golden('transformers/sampling/inverse_cdf.json'));

/** transformers' parameters under our names. */
const names = {
  temperature: 'temperature', top_k: 'topK', top_p: 'topP', min_p: 'minP', typical_p: 'typicalP', epsilon_cutoff: 'epsilonCutoff',
  repetition_penalty: 'repetitionPenalty', no_repeat_ngram_size: 'noRepeatNgram', bad_words_ids: 'badWords', suppress_tokens: 'suppressTokens',
  min_new_tokens: 'minTokens',
};

function kept({ eos_token_id: end, ...params }) {
  const options = Object.fromEntries(Object.entries(params).map(([key, value]) => [names[key], value]));
  assert.ok(!('undefined' in options), `a parameter of ${JSON.stringify(params)} has no name here`);
  const logits = Float32Array.from(data.logits);
  processLogits(logits, options, { ids: data.history_ids, promptLength: data.history_ids.length, ends: new Set(end === undefined ? [] : [end]) });
  return filterLogits(logits, options);
}

for (const { params, kept: count, probs } of data.cases) {
  test(`sampling ${JSON.stringify(params)} keeps transformers' tokens and probabilities`, () => {
    const { ids, weights } = kept(params);
    const sum = weights.reduce((a, b) => a + b, 0);
    const found = new Map(Array.from(ids, (id, i) => [id, weights[i] / sum]));
    // At temperature 0.05 the count is of what float32 did not round to 0: see the fixtures' README.
    if (params.temperature !== 0.05) assert.deepEqual([...ids].sort((a, b) => a - b), Object.keys(probs).map(Number).sort((a, b) => a - b), 'the ids kept');
    if (params.temperature !== 0.05) assert.equal(ids.length, count);
    for (const [id, want] of Object.entries(probs)) {
      const got = found.get(Number(id)) ?? 0;
      assert.ok(Math.abs(got - want) <= 1e-6, `id ${id}: expected ${want}, found ${got}`);
    }
  });
}

test('an inverse-CDF draw in id order gives the ids of its golden', () => {
  const set = kept(cdf.params);
  assert.deepEqual(cdf.u.map((u) => drawFrom(set, u)), cdf.ids);
});

test('presence and frequency penalties count the text, not the prompt', () => {
  const logits = Float32Array.from([1, 2, 3, 4]);
  processLogits(logits, { presencePenalty: 0.5, frequencyPenalty: 0.25 }, { ids: [0, 1, 2, 2, 3], promptLength: 2, ends: new Set() });
  assert.deepEqual([...logits], [1, 2, 3 - 0.5 - 2 * 0.25, 4 - 0.5 - 0.25]);
});

test('a vocabulary of 150,000 gives the same as sorting it', () => {
  const logits = Float32Array.from({ length: 150_000 }, (_, i) => 12 * Math.sin(i * 12.9898) * Math.cos(i * 4.1414));
  const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a]);
  const weight = (i) => Math.exp((logits[i] - logits[order[0]]) / 0.9);
  const fifth = logits[order[49]];
  assert.deepEqual([...filterLogits(logits, { temperature: 0.9, topK: 50 }).ids], order.filter((i) => logits[i] >= fifth).sort((a, b) => a - b));
  const whole = order.reduce((sum, i) => sum + weight(i), 0);
  let sum = 0;
  const nucleus = order.slice(0, 1 + order.findIndex((i) => (sum += weight(i)) >= 0.9 * whole)).sort((a, b) => a - b);
  assert.deepEqual([...filterLogits(logits, { temperature: 0.9, topP: 0.9 }).ids], nucleus);
  const { logprob, top } = logProbabilities(logits, 7, 3);
  const norm = Math.log(order.reduce((all, i) => all + Math.exp(logits[i]), 0));
  assert.ok(Math.abs(logprob - (logits[7] - norm)) < 1e-9);
  assert.deepEqual(top.map(({ token }) => token), order.slice(0, 3));
});

const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[0];

async function tokensOf(generation) {
  const tokens = [];
  for await (const token of generation) tokens.push(token);
  return tokens;
}
const idsOf = async (generation) => (await tokensOf(generation)).map(({ token }) => token);

testOnEveryModule('options reach the draw: bans, bias, hook, penalties, log probabilities', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const [first, second] = story.greedy_ids;
  const begin = async (options) => (await idsOf(model.generate(story.prompt, { maxTokens: 2, ...options })));
  assert.deepEqual(await begin({}), [first, second]);
  assert.notEqual((await begin({ suppressTokens: [first] }))[0], first);
  assert.notEqual((await begin({ logitBias: { [first]: -Infinity } }))[0], first);
  assert.equal((await begin({ logitBias: { 7: 1000 } }))[0], 7);
  const lengths = [];
  assert.deepEqual(await begin({ onLogits: (logits, history) => { lengths.push(history.length); logits.fill(0); logits[9] = 1; } }), [9, 9]);
  assert.deepEqual(lengths, [story.prompt_ids.length, story.prompt_ids.length + 1]);
  const [token] = await tokensOf(model.generate(story.prompt, { maxTokens: 1, logprobs: 4 }));
  assert.equal(token.top.length, 4);
  assert.deepEqual({ token: token.top[0].token, logprob: token.top[0].logprob }, { token: first, logprob: token.logprob });
  assert.ok(token.logprob < 0 && token.top.every(({ logprob }, i) => i === 0 || logprob <= token.top[i - 1].logprob));
  const all = Array.from({ length: 512 }, (_, i) => i);
  await assert.rejects(model.generate(story.prompt, { suppressTokens: all.concat(Array.from({ length: 20000 }, (_, i) => i)) }).text(), heddleError('bad_argument', /every token is banned/));
  await model.free();
});

testOnEveryModule('options that make no sense are refused by name', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const bad = [
    [{ temperature: -1 }, /temperature: expected a finite number from 0/], [{ topP: 0 }, /topP: expected a finite number above 0 to 1/], [{ topP: 1.5 }, /topP/],
    [{ minP: 2 }, /minP/], [{ repetitionPenalty: 0 }, /repetitionPenalty/], [{ noRepeatNgram: 1.5 }, /noRepeatNgram/], [{ badWords: [[]] }, /badWords\[0\]/],
    [{ logitBias: { a: 1 } }, /logitBias: expected token ids/], [{ stop: 3 }, /stop: expected a string/], [{ logprobs: -1 }, /logprobs/], [{ whenFull: 'no' }, /whenFull/],
    [{ logitBias: { 999999: 1 } }, /logitBias: expected token ids below/],
  ];
  for (const [options, pattern] of bad) await assert.rejects(model.generate(story.prompt, options).text(), heddleError('bad_argument', pattern), JSON.stringify(options));
  await model.free();
});

testOnEveryModule('stop strings end a text where they begin, wherever tokens cut them', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const text = await model.generate(story.prompt, { maxTokens: 40 }).text();
  for (const stop of [text.slice(20, 31), text.slice(3, 4), [text.slice(50, 60), text.slice(25, 34)]]) {
    const at = Math.min(...[stop].flat().map((each) => text.indexOf(each)));
    const generation = model.generate(story.prompt, { maxTokens: 40, stop });
    const pieces = (await tokensOf(generation)).map((token) => token.text);
    assert.equal(pieces.join(''), text.slice(0, at));
    assert.equal(generation.usage.stop, 'stop_string');
    assert.ok([stop].flat().includes(generation.usage.stoppedBy));
  }
  const never = model.generate(story.prompt, { maxTokens: 40, stop: 'no such words' });
  assert.equal(await never.text(), text);
  assert.equal(never.usage.stop, 'max_tokens');
  await model.free();
});

testOnEveryModule('a session goes on where it is, and keeps what a new prompt shares', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const session = await model.createSession({ outputRows: 1 });
  const ids = [...story.prompt_ids];
  const first = await idsOf(session.generate(ids, { maxTokens: 5 }));
  assert.deepEqual(first, story.greedy_ids.slice(0, 5));
  assert.equal(session.position, ids.length + 5, 'the last token is in the session too');
  assert.deepEqual(await idsOf(session.generate([], { maxTokens: 5 })), story.greedy_ids.slice(5, 10), 'goes on');
  const again = session.generate([...ids, ...story.greedy_ids.slice(0, 7)], { maxTokens: 5, reuse: true });
  assert.deepEqual(await idsOf(again), story.greedy_ids.slice(7, 12));
  assert.deepEqual([again.usage.reusedTokens, again.usage.prefillTokens], [ids.length + 6, 1], 'only what is new is computed');
  const other = session.generate(ids.slice(0, -1), { maxTokens: 3, reuse: true });
  await other.text();
  assert.equal(other.usage.reusedTokens, ids.length - 2);
  await session.free();
  await model.free();
});

testOnEveryModule('a state saved, loaded or forked goes on as the session would', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const session = await model.createSession({ outputRows: 1 });
  await session.generate(story.prompt_ids, { maxTokens: 300, ignoreEnd: true }).text(); // past the first page of state
  const state = await session.saveState();
  const ahead = (await idsOf(session.generate([], { maxTokens: 8, ignoreEnd: true })));
  await session.loadState(state);
  assert.equal(session.position, story.prompt_ids.length + 300);
  assert.deepEqual(await idsOf(session.generate([], { maxTokens: 8, ignoreEnd: true })), ahead);
  const other = await model.createSession({ outputRows: 1, context: 320 });
  await other.loadState(state);
  const fork = await other.fork();
  assert.deepEqual(await idsOf(other.generate([], { maxTokens: 8, ignoreEnd: true })), ahead);
  await other.free();
  assert.deepEqual(await idsOf(fork.generate([], { maxTokens: 8, ignoreEnd: true })), ahead, 'a fork has a state of its own');
  const small = await model.createSession({ outputRows: 1, context: 32 });
  await small.decode([1, 2]);
  await assert.rejects(small.loadState(state), heddleError('bad_state', /context of 32/));
  assert.equal(small.position, 2, 'nothing changed');
  for (const broken of [state.slice(0, 3), state.slice(0, -1), new Uint8Array(5000)]) await assert.rejects(fork.loadState(broken), heddleError('bad_file', /state/));
  await model.free();
});

testOnEveryModule('a full context stops, throws or slides', async (runtime) => {
  const model = await runtime.loadModel(storyFolder, { context: 32 });
  await assert.rejects(model.generate(story.prompt, { whenFull: 'error' }).text(), heddleError('bad_state', /^the context of 32 tokens is full$/));
  const slid = model.generate(story.prompt, { whenFull: 'slide', keep: 1, maxTokens: 100, ignoreEnd: true });
  const ids = await idsOf(slid);
  assert.equal(slid.usage.stop, 'max_tokens');
  assert.equal(ids.filter((id) => id >= 0).length, 100);
  // The text up to the first slide is as without; after it, it is what the kept tokens alone lead to.
  const room = 32 - story.prompt_ids.length;
  assert.deepEqual(ids.slice(0, room + 1), story.greedy_ids.slice(0, room + 1));
  const all = [...story.prompt_ids, ...ids];
  const kept = [all[0], ...all.slice(1 + 16, 33)];
  const fresh = await idsOf(model.generate(kept, { maxTokens: 4, ignoreEnd: true }));
  assert.deepEqual(ids.slice(room + 1, room + 5), fresh);
  await model.free();
});

test('in a worker: sessions generate, functions are refused', async () => {
  const { init } = await import(pathToFileURL(join(packageFolder, 'dist/worker.js')).href);
  const runtime = await init({ threads: 1 });
  const model = await runtime.loadModel(storyFolder);
  const session = await model.createSession({ outputRows: 1 });
  assert.deepEqual(await idsOf(session.generate(story.prompt_ids, { maxTokens: 5 })), story.greedy_ids.slice(0, 5));
  assert.equal(session.position, story.prompt_ids.length + 5);
  const fork = await session.fork();
  assert.deepEqual(await idsOf(session.generate([], { maxTokens: 5 })), story.greedy_ids.slice(5, 10));
  await session.free();
  assert.deepEqual(await idsOf(fork.generate([], { maxTokens: 5 })), story.greedy_ids.slice(5, 10));
  await assert.rejects(model.generate(story.prompt, { onLogits: () => undefined }).text(), heddleError('unsupported', /onLogits: a function cannot go to a worker/));
  await runtime.free();
});
