/** What is freed, when, and what happens after: use after free, freeing twice, aborts, traps, garbage. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { golden, heddle, heddleError, modules, optionsFor, packageFolder, projectFolder, testOnEveryModule } from './heddle.mjs';

const storyFolder = join(projectFolder, 'demo/models/story');
const freed = (what) => heddleError('bad_state', new RegExp(`the ${what} was freed`));
const spec = { layers: [{ type: 'dense', name: 'fc', in_features: 3, out_features: 2 }] };

testOnEveryModule('a freed model refuses every call, and its session with it', async (runtime) => {
  const model = await runtime.buildNetwork(spec);
  const session = await model.createSession({ input: { shape: [1, 3] } });
  await session.forward([1, 2, 3]);
  await model.free();
  await model.free();
  await session.free();
  for (const call of [
    () => model.describe(),
    () => model.readWeight('fc.weight'),
    () => model.writeWeight('fc.weight', [0]),
    () => model.createSession(),
    () => model.forward([1, 2, 3]),
    () => model.saveToString('m'),
    () => model.memory(),
    () => model.threadWork(),
    () => model.generate([1]).text(),
  ]) {
    await assert.rejects(call(), freed('model'), String(call));
  }
  for (const call of [
    () => session.forward([1, 2, 3]),
    () => session.decode([1]),
    () => session.logits(),
    () => session.argmax(),
    () => session.value('fc'),
    () => session.valueNames(),
    () => session.reset(),
    () => session.rewind(0),
    () => session.memory(),
    () => session.trainStep([1, 2, 3], [1, 2]),
    () => session.gradient('fc.weight'),
    () => session.useAdapter(null),
    () => session.generate([1]).next(),
  ]) {
    await assert.rejects(call(), freed('session'), String(call));
  }
  assert.throws(() => session.position, freed('session'));
});

testOnEveryModule('a freed network refuses ForwardCPU and SaveModelToString', (runtime) => {
  const network = runtime.LoadNetworkFromString(readFileSync(golden('loom/dense_relu.bundle.json'), 'utf8'), 'dense_relu');
  network.free();
  network.free();
  assert.throws(() => network.ForwardCPU([1]), freed('model'));
  assert.throws(() => network.SaveModelToString('x'), freed('model'));
});

testOnEveryModule('`using` frees at the end of its block', async (runtime) => {
  const model = await runtime.buildNetwork(spec);
  model[Symbol.dispose]();
  await assert.rejects(model.describe(), freed('model'));
});

testOnEveryModule('a session of a model in training, and training a model in use, are refused', async (runtime) => {
  const model = await runtime.buildNetwork(spec);
  const input = { shape: [1, 3] };
  const session = await model.createSession({ input });
  await assert.rejects(model.createSession({ input, mode: 'train' }), heddleError('bad_state'));
  await assert.rejects(model.writeWeight('fc.weight', new Float32Array(6)), heddleError('bad_state'));
  await session.free();
  await model.forward([1, 2, 3]); // the model's own session stands in nobody's way
  const training = await model.createSession({ input, mode: 'train' });
  await assert.rejects(model.createSession({ input }), heddleError('bad_state'));
  await training.free();
  await model.forward([1, 2, 3]);
  await model.writeWeight('fc.weight', new Float32Array(6));
  await model.free();
});

testOnEveryModule('wrong arguments say what was expected', async (runtime) => {
  const model = await runtime.buildNetwork(spec);
  const session = await model.createSession({ input: { shape: [2, 3] } });
  const bad = (pattern) => heddleError('bad_argument', pattern);
  await assert.rejects(session.forward([1, 2]), bad(/input of 2 numbers: the session takes 1 to 2 rows of 3/));
  await assert.rejects(session.forward(new Float32Array(9)), bad(/9 numbers/));
  await assert.rejects(session.forward([1, 2, 3], [3, 1]), bad(/\[3, 1\]/));
  await assert.rejects(session.decode([1]), bad(/token ids/));
  await assert.rejects(model.createSession({ mode: 'dream' }), bad(/mode 'dream' is not known; known: infer, trace, train/));
  await assert.rejects(model.createSession({ input: { shape: [-1, 3] } }), bad(/-1/));
  await assert.rejects(model.createSession(), bad(/shape has to be given/));
  await assert.rejects(model.readWeight('nothing'), bad(/no weight is called 'nothing'.*'fc\.weight'/));
  await assert.rejects(model.writeWeight('fc.weight', [1]), heddleError('bad_state'));
  await session.free();
  await assert.rejects(model.writeWeight('fc.weight', [1]), bad(/6 values/));
  await assert.rejects(runtime.loadModel(storyFolder, { dtype: 'int7' }), bad(/dtype 'int7' is not known; known: .*q8_0/));
  await assert.rejects(runtime.buildNetwork(spec, { seed: -1 }), bad(/seed/));
  await assert.rejects(runtime.buildNetwork('{"layers": [}'), heddleError('bad_file', /byte 12/));
  assert.deepEqual([...(await model.forward([1, 2, 3]))].length, 2);
  assert.equal((await (await model.createSession({ input: { shape: [2, 3] } })).forward([1, 2, 3])).length, 2);
  await model.free();
});

test('options that make no sense are refused at the start', async () => {
  await assert.rejects(heddle.init({ threads: 0 }), heddleError('bad_argument', /threads/));
  await assert.rejects(heddle.init({ threads: 1.5 }), heddleError('bad_argument', /threads/));
  await assert.rejects(heddle.init({ wasm: '/no/such.wasm' }), heddleError('bad_file', /cannot read .*such\.wasm/));
  await assert.rejects(heddle.init({ wasm: new TextEncoder().encode('<!doctype html>') }), heddleError('bad_file', /is no WebAssembly module.*<!doctype/));
  await assert.rejects(heddle.init({ wasm: new Response('nothing', { status: 404 }) }), heddleError('bad_file', /404/));
  await assert.rejects(heddle.init({ wasm: 5 }), heddleError('bad_argument', /wasm/));
});

// ---- Aborts ----

testOnEveryModule('an abort during a load throws its reason and leaves nothing behind', async (_, module) => {
  const runtime = await heddle.init({ ...optionsFor(module), shared: true });
  await (await runtime.loadModel(storyFolder)).free(); // the staging buffer stays
  const before = runtime.memory();
  for (const at of [0, 1, 5, 20]) {
    const controller = new AbortController();
    const reason = new Error('enough');
    let calls = 0;
    if (at === 0) controller.abort(reason);
    const load = runtime.loadModel(storyFolder, { signal: controller.signal, progress: () => ++calls === at && controller.abort(reason) });
    await assert.rejects(load, (error) => error === reason);
    assert.equal(calls, at, 'no piece is written after an abort');
    assert.deepEqual(runtime.memory().live, before.live);
  }
  await runtime.free();
});

testOnEveryModule('a load counts its bytes and tensors', async (runtime) => {
  const seen = [];
  const model = await runtime.loadModel(storyFolder, { progress: (progress) => seen.push(progress) });
  const last = seen.at(-1);
  assert.equal(last.bytes, last.totalBytes);
  assert.equal(last.tensors, last.totalTensors);
  assert.equal(last.totalTensors, (await runtime.inspect(storyFolder)).tensors.length);
  for (let i = 1; i < seen.length; i++) assert.ok(seen[i].bytes >= seen[i - 1].bytes && seen[i].tensors >= seen[i - 1].tensors);
  await model.free();
});

// ---- Failures below ----

testOnEveryModule('a failed load leaves nothing behind', async (_, module) => {
  const runtime = await heddle.init({ ...optionsFor(module), shared: true });
  const config = JSON.parse(readFileSync(join(storyFolder, 'config.json'), 'utf8'));
  const weights = readFileSync(join(storyFolder, 'model.safetensors'));
  await (await runtime.loadModel(storyFolder)).free();
  const before = runtime.memory().live;
  const cases = [
    [{ ...config, model_type: 'vit' }, weights, heddleError('unsupported', /vit.*known: .*llama/)],
    [{ ...config, hidden_size: 95 }, weights, heddleError('bad_file')],
    [{ ...config, num_hidden_layers: 6 }, weights, heddleError('bad_file', /layers\.5\./)],
    [config, weights.subarray(0, weights.length - 100), heddleError('bad_file')],
    [config, { stream: new Blob([weights.subarray(0, 500_000)]).stream(), size: weights.length }, heddleError('bad_file', /ends at byte 500000/)],
  ];
  for (const [description, file, expected] of cases) {
    await assert.rejects(runtime.loadModel({ 'config.json': JSON.stringify(description), 'model.safetensors': file }), expected);
    assert.equal(runtime.memory().live, before);
  }
  await runtime.free();
});

const core = () => import(pathToFileURL(join(packageFolder, 'dist/core.js')));

for (const module of modules) {
  test(`a trap is the end of its instance, and says so (${module})`, async () => {
    const { Core } = await core();
    const compiled = await WebAssembly.compile(readFileSync(join(packageFolder, `dist/wasm/heddle-${module}.wasm`)));
    const instance = new Core(compiled);
    const spec = '{"dialect":"standard","layers":[{"type":"dense","in_features":1,"out_features":1}]}';
    const handle = instance.heap.withText(spec, (p, n) => instance.made((x) => x.w_model_build(p, n, 0)));
    let released = 0;
    const model = new heddle.LocalModel(instance, handle, {}, () => released++);
    const session = await model.createSession({ input: { shape: [1] } });
    const died = heddleError('bad_state', /^instance died: /);
    assert.throws(() => instance.call((x) => x.w_loader_count(0xfffffff0)), died, 'a handle that is none');
    await assert.rejects(session.forward([1]), died);
    await assert.rejects(model.describe(), died);
    await model.free();
    assert.equal(released, 1, 'freeing is still harmless');
    await assert.rejects(model.describe(), freed('model'));
  });
}

// ---- Garbage ----

setFlagsFromString('--expose_gc');
const collect = runInNewContext('gc');

/** Collects garbage until `done` or for two seconds. */
async function collected(done) {
  for (let i = 0; i < 200; i++) {
    await new Promise((next) => setTimeout(next, 10)); // what `done` looked at is held until the turn ends
    collect();
    if (done()) return true;
  }
  return false;
}

testOnEveryModule('a freed instance gives its memory back though its model is still held', async (_, module) => {
  const { Core } = await core();
  const instance = new Core(await WebAssembly.compile(readFileSync(join(packageFolder, `dist/wasm/heddle-${module}.wasm`))));
  const memory = new WeakRef(instance.memory);
  instance.free();
  assert.ok(await collected(() => memory.deref() === undefined));
  assert.equal(instance.alive, false);
});

testOnEveryModule('models nobody holds are freed by the collector', async (_, module) => {
  const runtime = await heddle.init({ ...optionsFor(module), shared: true });
  const use = async () => {
    const model = await runtime.buildNetwork(spec);
    const session = await model.createSession({ input: { shape: [1, 3] } });
    await session.forward([1, 2, 3]);
  };
  await (await runtime.buildNetwork(spec)).free();
  const before = runtime.memory().live;
  for (let i = 0; i < 5; i++) await use();
  assert.ok(runtime.memory().live > before);
  assert.ok(await collected(() => runtime.memory().live === before), `live ${runtime.memory().live}, before ${before}`);
  await runtime.free();
});

// ---- Leaks ----

testOnEveryModule('after 20 and after 200 cycles of load, run, free an instance holds the same', async (_, module) => {
  const runtime = await heddle.init({ ...optionsFor(module), shared: true });
  const text = readFileSync(golden('loom/mlp_batch4.bundle.json'), 'utf8');
  const { input } = JSON.parse(readFileSync(golden('loom/mlp_batch4.io.json'), 'utf8'));
  const files = Object.fromEntries(['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((name) => [name, readFileSync(join(storyFolder, name))]));
  const cycle = async (i) => {
    const network = runtime.LoadNetworkFromString(text, 'mlp_batch4');
    network.ForwardCPU(input);
    network.SaveModelToString('x');
    network.free();
    const built = await runtime.buildNetwork(spec, { seed: i });
    const training = await built.createSession({ input: { shape: [1, 3] }, mode: 'train' });
    await training.trainStep([1, 2, 3], [1, 2]);
    await built.free();
    const model = await runtime.loadModel(files, i % 2 ? { dtype: 'q8_0' } : {});
    await model.generate('Ruby', { maxTokens: 2 }).text();
    await model.free();
    await runtime.inspect(files['model.safetensors']);
    assert.throws(() => runtime.LoadNetworkFromString('{}', 'x'));
  };
  const measure = async (cycles) => {
    for (let i = 0; i < cycles; i++) await cycle(i);
    const { live, heap } = runtime.memory();
    return { live, heap };
  };
  const after20 = await measure(20);
  assert.deepEqual(await measure(180), after20);
  await runtime.free();
});
