/** heddle/worker has the surface of heddle: same names, same errors, aborts and ends. What models compute there is in stories.test.mjs. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { entry, golden, heddle, heddleError, modules, needs, optionsFor, projectFolder, readJson, shared } from './heddle.mjs';

const worker = await entry('./worker');
const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[0];
const spec = { layers: [{ type: 'dense', name: 'fc', in_features: 3, out_features: 2 }] };
const freed = (what) => (error) => error instanceof worker.HeddleError && error.code === 'bad_state' && error.message === `the ${what} was freed`;

const runtime = await worker.init(optionsFor(modules[0]));
after(() => runtime.free());

test('the runtime says what it is', () => {
  assert.equal(runtime.variant, optionsFor(modules[0]).variant);
  assert.equal(runtime.threads, 1);
  assert.deepEqual(runtime.notices, []);
});

test('every asynchronous method of a model and a session is there', async () => {
  const here = await heddle.init({ threads: 1 });
  const models = [await here.buildNetwork(spec), await runtime.buildNetwork(spec)];
  const sessions = await Promise.all(models.map((model) => model.createSession({ input: { shape: [1, 3] } })));
  const own = ['constructor', 'context', 'maxContext', 'endTokens', 'beginToken', 'tokenizer', 'config', 'say', 'sentence', 'inputShape', 'inputRows', 'alive', 'tokens', 'hasOutput', 'handle', 'adapter', 'referenceIn', 'became', 'beginWriting', 'endWriting', 'checkIdle'];
  const names = (object) => Object.getOwnPropertyNames(Object.getPrototypeOf(object)).filter((name) => !own.includes(name) && !name.endsWith('Sync')).sort();
  assert.deepEqual(names(models[1]), names(models[0]));
  assert.deepEqual(names(sessions[1]), names(sessions[0]));
  for (const model of models) await model.free();
});

test('a network runs, is read, written, saved and trained as in this thread', async () => {
  const here = await (await heddle.init({ variant: runtime.variant, threads: 1 })).buildNetwork(spec, { seed: 9 });
  const there = await runtime.buildNetwork(spec, { seed: 9 });
  const steps = async (model) => {
    const results = [await model.describe(), await model.forward([1, 2, 3]), await model.readWeight('fc.weight'), await model.saveToString('m'), model.weights];
    results.push(await model.saveToString('m', { dtype: 'uint8', quantize: { per: 'tensor' } }), await model.saveWeights({ dtype: 'I8' }));
    await model.writeWeight('fc.bias', [0.5, -0.5]);
    const session = await model.createSession({ input: { shape: [2, 3] }, mode: 'train' });
    results.push(await session.forward([1, 2, 3, 4, 5, 6]), session.outputShape, await session.valueNames(), await session.value('fc'));
    results.push(await session.backward([1, 2, 3, 4, 5, 6], [1, 0, 1, 0]), await session.gradient('fc.weight'));
    await session.step(0.1);
    results.push(await session.trainStep([1, 2, 3, 4, 5, 6], [1, 0], { loss: 'cross_entropy', lr: 0.1 }), session.position, await session.memory());
    await session.free();
    results.push(await model.readWeight('fc.weight'));
    await model.free();
    return results;
  };
  assert.deepEqual(await steps(there), await steps(here));
});

test('errors come back as HeddleErrors with their code', async () => {
  await assert.rejects(runtime.loadModel('/no/such/model.safetensors'), heddleErrorOfWorker('bad_file', /cannot open/));
  await assert.rejects(runtime.buildNetwork({ layers: [{ type: 'magic' }] }), heddleErrorOfWorker('unsupported', /magic/));
  await assert.rejects(runtime.loadModel(readFileSync(golden('loom/dense_relu.bundle.json')), { id: 'other' }), heddleErrorOfWorker('bad_argument', /other/));
  const model = await runtime.buildNetwork(spec);
  await assert.rejects(model.forward([1]), heddleErrorOfWorker('bad_argument'));
  await model.free();
});

function heddleErrorOfWorker(code, pattern = /./) {
  return (error) => error instanceof worker.HeddleError && heddleError(code, pattern)(error);
}

test('use after free and freeing twice are as in this thread', async () => {
  const model = await runtime.buildNetwork(spec);
  const session = await model.createSession({ input: { shape: [1, 3] } });
  await session.free();
  await session.free();
  await assert.rejects(session.forward([1, 2, 3]), freed('session'));
  const second = await model.createSession({ input: { shape: [1, 3] } });
  await model.free();
  await model.free();
  await assert.rejects(model.forward([1, 2, 3]), freed('model'));
  await assert.rejects(second.forward([1, 2, 3]), heddleErrorOfWorker('bad_state'));
  await second.free();
});

test('progress arrives, and an abort stops a load with its reason', async () => {
  const seen = [];
  const model = await runtime.loadModel(storyFolder, { progress: (progress) => seen.push(progress) });
  assert.equal(seen.at(-1).bytes, seen.at(-1).totalBytes);
  await model.free();
  const controller = new AbortController();
  const reason = { any: 'reason' };
  const load = runtime.loadModel(storyFolder, { signal: controller.signal, progress: () => controller.abort(reason) });
  await assert.rejects(load, (error) => error === reason);
  await assert.rejects(runtime.loadModel(storyFolder, { signal: AbortSignal.abort(reason) }), (error) => error === reason);
});

test('a generation streams, counts, breaks off and aborts', async () => {
  const model = await runtime.loadModel(storyFolder);
  const told = [];
  const generation = model.generate(story.prompt, { onToken: ({ token }) => told.push(token) });
  assert.equal(await generation.text(), story.greedy_text);
  assert.deepEqual([...told, 1], story.greedy_ids);
  assert.equal(generation.usage.tokens, told.length);
  assert.equal(generation.usage.stop, 'end');

  for await (const _ of model.generate(story.prompt)) break;

  const controller = new AbortController();
  const reason = new Error('enough');
  await assert.rejects(async () => {
    for await (const _ of model.generate(story.prompt, { signal: controller.signal })) controller.abort(reason);
  }, (error) => error === reason);
  await assert.rejects(model.generate('x', { temperature: -1 }).text(), heddleErrorOfWorker('bad_argument', /temperature/));
  // All their sessions are gone.
  await model.writeWeight('model.norm.weight', await model.readWeight('model.norm.weight'));
  await model.free();
});

test('ArrayBuffers are moved, views of a part are copied', async () => {
  const files = { 'config.json': readFileSync(join(storyFolder, 'config.json'), 'utf8') };
  const whole = new Uint8Array(readFileSync(join(storyFolder, 'model.safetensors'))).buffer;
  const model = await runtime.loadModel({ ...files, 'model.safetensors': whole });
  assert.equal(whole.byteLength, 0);
  await model.free();
  const bytes = readFileSync(join(storyFolder, 'model.safetensors'));
  const roomy = new Uint8Array(bytes.length + 16);
  roomy.set(bytes, 16);
  const second = await runtime.loadModel({ ...files, 'model.safetensors': roomy.subarray(16) });
  assert.equal(roomy.byteLength, bytes.length + 16);
  await second.free();
});

test('adapters work in a worker', needs('fixtures/real/stories260k'), async () => {
  const folder = 'fixtures/real/stories260k';
  const model = await runtime.loadModel(shared(`${folder}/hf`));
  const adapter = await model.loadAdapter(readJson(shared(`${folder}/lora/adapter_config.json`)), readFileSync(shared(`${folder}/lora/adapter_model.safetensors`)));
  const want = readJson(shared(`${folder}/expected-variants.json`))['hf/model.safetensors + lora/'];
  const session = await model.createSession({ outputRows: 1 });
  await session.useAdapter(adapter);
  const prompt = await model.tokenize(want.prompt);
  await session.decode(prompt);
  assert.equal(session.position, prompt.length);
  const logits = await session.logits();
  want.last_prompt_position_logits.forEach((value, i) => assert.ok(Math.abs(logits[i] - value) <= 1e-4));
  assert.equal(await session.argmax(), logits.indexOf(Math.max(...logits)));
  await assert.rejects(adapter.free(), heddleErrorOfWorker('bad_state'));
  await session.free();
  const made = await model.generate(want.prompt, { adapter, maxTokens: 5 }).text();
  assert.ok((await model.detokenize(want.ids)).includes(made));
  await model.mergeAdapter(adapter);
  await model.unmergeAdapter(adapter);
  await adapter.free();
  await model.free();
});

test('modules may be given to a worker in any form', async () => {
  const { packageFolder } = await import('./heddle.mjs');
  const path = (name) => join(packageFolder, `dist/wasm/heddle-${name}.wasm`);
  const asked = [];
  for (const wasm of [
    path(modules[0]),
    readFileSync(path(modules[0])),
    await WebAssembly.compile(readFileSync(path(modules[0]))),
    (name) => (asked.push(name), readFileSync(path(name))),
  ]) {
    const own = await worker.init({ wasm, threads: 1 });
    const model = await own.buildNetwork(spec);
    assert.equal((await model.forward([1, 2, 3])).length, 2);
    await own.free();
    await assert.rejects(model.forward([1, 2, 3]), heddleErrorOfWorker('bad_state', /runtime was freed/));
  }
  assert.equal(asked.length, 1);
  await assert.rejects(worker.init({ wasm: '/no/such.wasm' }), heddleErrorOfWorker('bad_file', /such\.wasm/));
  await assert.rejects(worker.init({ wasm: () => Promise.reject(new Error('not today')) }), /not today/);
  await assert.rejects(worker.init({ worker: new URL('no-such-program.js', import.meta.url) }), heddleErrorOfWorker('bad_state', /the worker died: .*no-such-program/));
});
