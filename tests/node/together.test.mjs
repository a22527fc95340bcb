/** Sessions that share calls: generations that run at the same time, and decodeTogether. What each makes is what transformers made alone. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertClose, largest, readSafetensors } from './golden.mjs';
import { entry, golden, heddleError, modules, optionsFor, projectFolder, readJson, testOnEveryModule } from './heddle.mjs';

const storyFolder = join(projectFolder, 'demo/models/story');
const stories = readJson(join(storyFolder, 'expected.json')).cases;

const part = (name, file) => golden(`transformers/${name}/${file}`);
const load = (runtime, name) => runtime.loadModel({ 'config.json': part(name, 'config.json'), 'model.safetensors': part(name, 'model.safetensors') });

async function idsOf(generation) {
  const ids = [];
  for await (const { token } of generation) ids.push(token);
  return ids;
}

for (const name of ['llama-gqa-tied', 'llama-rope-dynamic', 'mistral-swa', 'qwen3', 'gemma3', 'gpt2', 'phi3-longrope', 'qwen3-moe']) {
  testOnEveryModule(`G2 batched decode: sessions of ${name} in one call each write transformers' tokens`, async (runtime) => {
    const { prompt_ids: prompt, greedy_ids_ignore_eos: want } = readJson(part(name, 'expected.json'));
    const model = await load(runtime, name);
    const sessions = await Promise.all([0, 1, 2, 3, 4].map(() => model.createSession({ outputRows: 1 })));
    const others = sessions.slice(1, 4);
    // Prompts of different lengths in one call; the first and the last are the golden's.
    await model.decodeTogether(sessions, [prompt, prompt.slice(3), prompt.slice(0, 2), [...prompt].reverse(), prompt]);
    for (const id of want) {
      assert.deepEqual([await sessions[0].argmax(), await sessions[4].argmax()], [id, id]);
      await model.decodeTogether([sessions[4], ...others, sessions[0]], [[id], [1], [id, 2], [id], [id]]);
    }
    assert.deepEqual(sessions.map(({ position }) => position), [24, 24, 48, 24, 24].map((n, i) => n + [prompt.length, prompt.length - 3, 2, prompt.length, prompt.length][i]));
    await model.free();
  });
}

testOnEveryModule('G2 batched decode: generations that run at the same time share calls and write what they write alone', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const generations = stories.map(({ prompt }, i) => model.generate(prompt, { maxTokens: 40 + 10 * i }));
  const texts = await Promise.all(generations.map(idsOf));
  texts.forEach((ids, i) => assert.deepEqual(ids, stories[i].greedy_ids.slice(0, 40 + 10 * i)));
  for (const { usage } of generations) assert.ok(usage.sharedTokens >= 39, `${usage.sharedTokens} shared of ${usage.tokens}`);
  const alone = model.generate(stories[0].prompt, { maxTokens: 5 });
  await alone.text();
  assert.equal(alone.usage.sharedTokens, 0);
  await model.free();
});

testOnEveryModule('G2 batched decode: more generations than a call takes, of different lengths, with draws', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const options = (i) => ({ maxTokens: 3 + i, temperature: 0.8, topK: 20, seed: i });
  const together = await Promise.all(Array.from({ length: 21 }, (_, i) => idsOf(model.generate(stories[i % stories.length].prompt, options(i)))));
  for (const i of [0, 7, 20]) assert.deepEqual(together[i], await idsOf(model.generate(stories[i % stories.length].prompt, options(i))));
  assert.deepEqual(together.map((ids) => ids.length), Array.from({ length: 21 }, (_, i) => 3 + i));
  await model.free();
});

testOnEveryModule('G2 batched decode: one that is aborted, broken off, full or slow does not hold up the others', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const { prompt, prompt_ids: promptIds, greedy_ids: want } = stories[0];
  const abort = new AbortController();
  const aborted = model.generate(prompt, { signal: abort.signal, onToken: () => abort.signal.aborted || abort.abort(new Error('enough')) });
  const brokenOff = async () => {
    const ids = [];
    for await (const { token } of model.generate(prompt)) if (ids.push(token) === 4) break;
    return ids;
  };
  const slow = async () => {
    const ids = [];
    for await (const { token } of model.generate(prompt, { maxTokens: 4 })) {
      ids.push(token);
      await new Promise((done) => setTimeout(done, 20));
    }
    return ids;
  };
  const full = model.generate(prompt, { context: promptIds.length + 6, whenFull: 'error' });
  const never = model.generate(prompt);
  await never.next(); // and no more: it holds its place, and nobody waits for it
  const [a, b, c, d, e] = await Promise.allSettled([idsOf(aborted), brokenOff(), slow(), idsOf(full), idsOf(model.generate(prompt, { maxTokens: 60 }))]);
  assert.equal(a.reason?.message, 'enough');
  assert.deepEqual(b.value, want.slice(0, 4));
  assert.deepEqual(c.value, want.slice(0, 4));
  assert.ok(heddleError('bad_state', /^the context of \d+ tokens is full$/)(d.reason));
  assert.deepEqual(e.value, want.slice(0, 60));
  await never.return();
  await model.free();
});

testOnEveryModule('G2 batched decode: a session freed or a model freed in between ends that generation alone', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const { prompt, greedy_ids: want } = stories[0];
  const doomed = await model.createSession({ outputRows: 1 });
  const freeing = idsOf(doomed.generate(prompt, { onToken: () => void doomed.free() }));
  const [a, b] = await Promise.allSettled([freeing, idsOf(model.generate(prompt, { maxTokens: 30 }))]);
  assert.ok(heddleError('bad_state', /^the session was freed$/)(a.reason));
  assert.deepEqual(b.value, want.slice(0, 30));
  const orphans = [0, 1].map(() => idsOf(model.generate(prompt)));
  await new Promise((done) => setTimeout(done, 5));
  await model.free();
  for (const { reason } of await Promise.allSettled(orphans)) assert.ok(heddleError('bad_state', /was freed$/)(reason));
});

testOnEveryModule('G2 batched decode: sessions with an adapter and without have PEFT\'s logits and the base\'s, side by side', async (runtime) => {
  const expected = readSafetensors(part('lora/llama-all-r8', 'expected.safetensors'));
  const ids = expected.get('input_ids').data;
  const model = await load(runtime, 'llama-gqa-tied');
  const adapter = await model.loadAdapter(part('lora/llama-all-r8', 'adapter_config.json'), part('lora/llama-all-r8', 'adapter_model.safetensors'));
  const sessions = await Promise.all([0, 1, 2, 3].map(() => model.createSession({ outputRows: 1 })));
  await sessions[1].useAdapter(adapter);
  await sessions[2].useAdapter(adapter);
  const check = async (session, key, tolerance) => {
    const want = expected.get(key).data;
    const logits = await session.logits();
    assertClose(logits, want.slice(want.length - logits.length), tolerance * Math.max(1, largest(want)), key);
  };
  for (const pieces of [[ids.slice(0, 3), ids.slice(3)], [ids]]) {
    for (const session of sessions) await session.reset();
    for (const piece of pieces) await model.decodeTogether(sessions, [piece, piece, piece, piece]);
    for (const [i, session] of sessions.entries()) await check(session, i % 3 === 0 ? 'logits_base' : 'logits_adapter', i % 3 === 0 ? 1e-5 : 5e-5);
  }
  await model.free();
});

testOnEveryModule('a session that a generation writes into is left alone by everybody else, and nobody else pays for who tries', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const { prompt, greedy_ids: want } = stories[0];
  const session = await model.createSession({ outputRows: 1 });
  const others = [0, 1, 2].map(() => idsOf(model.generate(prompt, { maxTokens: 30 })));
  const first = session.generate(prompt, { maxTokens: 30 });
  const made = [(await first.next()).value.token];
  const busy = heddleError('bad_state', /^a generation writes into this session: let it run to its end, or end it with return\(\)$/);
  await assert.rejects(session.generate('again').text(), busy);
  const state = await session.saveState();
  for (const use of [() => session.decode([1]), () => session.forward([1]), () => session.rewind(0), () => session.reset(), () => session.loadState(state), () => session.useAdapter(null), () => model.decodeTogether([session], [[1]])]) {
    await assert.rejects(use(), busy);
  }
  for await (const { token } of first) made.push(token);
  assert.deepEqual(made, want.slice(0, 30));
  for (const ids of await Promise.all(others)) assert.deepEqual(ids, want.slice(0, 30));
  await session.reset();
  const broken = session.generate(prompt);
  await broken.next();
  await broken.return();
  await session.reset();
  assert.deepEqual(await idsOf(session.generate(prompt, { maxTokens: 9 })), want.slice(0, 9));
  await model.free();
});

testOnEveryModule('decodeTogether says what does not fit, and changes nothing then', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const other = await runtime.loadModel(storyFolder);
  const [a, b] = [await model.createSession({ context: 8, input: { shape: [4] } }), await model.createSession()];
  const cases = [
    [[], [], /^sessions: expected at least one$/],
    [[a, b], [[1]], /^tokens: 1 list for 2 sessions$/],
    [[a, b], [[1], []], /^tokens\[1\]: expected at least one token$/],
    [[a, a], [[1], [2]], /^sessions: expected each of them once$/],
    [[a, 5], [[1], [2]], /^sessions\[1\]: expected a session, found 5$/],
    [[a, await other.createSession()], [[1], [2]], /^sessions\[1\]: the session belongs to another model$/],
    [[a, b], [[1], [1.5]], /^tokens\[1\]/],
    [[a, b], [[1], [99999]], /99999/],
  ];
  for (const [sessions, tokens, message] of cases) await assert.rejects(model.decodeTogether(sessions, tokens), heddleError('bad_argument', message));
  await assert.rejects(model.decodeTogether([b, a], [[1], [1, 2, 3, 4, 5, 6, 7, 8, 9]]), heddleError('bad_state', /9 positions are more than the session's context of 8/));
  assert.deepEqual([a.position, b.position], [0, 0]);
  await model.decodeTogether([b, a], [[1], [1, 2, 3, 4, 5, 6, 7, 8]]);
  assert.deepEqual([a.position, b.position], [8, 1]);
  await model.free();
  await other.free();
});

test('G2 batched decode: in a worker', async () => {
  const worker = await entry('./worker');
  const runtime = await worker.init(optionsFor(modules[0]));
  const model = await runtime.loadModel(storyFolder);
  const { prompt, prompt_ids: ids, greedy_ids: want } = stories[0];
  // Long enough that none is done before the others have begun.
  const generations = [0, 1, 2].map(() => model.generate(prompt, { maxTokens: 150 }));
  for (const made of await Promise.all(generations.map(idsOf))) assert.deepEqual(made, want.slice(0, 150));
  assert.ok(generations.some(({ usage }) => usage.sharedTokens > 0));
  const sessions = [await model.createSession({ outputRows: 1 }), await model.createSession({ outputRows: 1 })];
  await model.decodeTogether(sessions, [ids, ids.slice(0, 2)]);
  assert.deepEqual(sessions.map(({ position }) => position), [ids.length, 2]);
  assert.equal(await sessions[0].argmax(), want[0]);
  await assert.rejects(model.decodeTogether([sessions[0], {}], [[1], [2]]), (error) => error instanceof worker.HeddleError && /^sessions\[1\]: expected a session/.test(error.message));
  await runtime.free();
});
