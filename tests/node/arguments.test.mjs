/** Wrong arguments: each is refused by name, with what was expected and what was found, in the same words in this thread and in a worker. */
import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { entry, golden, heddle, heddleError, modules, needs, optionsFor, packageFolder, projectFolder, readJson, runtimeWith, shared } from './heddle.mjs';

const storyFolder = join(projectFolder, 'demo/models/story');
const file = (name) => join(storyFolder, name);
const bundle = readFileSync(golden('loom/dense_relu.bundle.json'), 'utf8');
const spec = { layers: [{ type: 'dense', name: 'fc', in_features: 3, out_features: 2 }] };

const here = await runtimeWith(modules[0]);
const worker = await entry('./worker');
const there = await worker.init(optionsFor(modules[0]));
const empty = mkdtempSync(join(tmpdir(), 'heddle-empty-'));
after(async () => {
  await there.free();
  rmSync(empty, { recursive: true });
});

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');

for (const [where, runtime] of [['in this thread', here], ['in a worker', there]]) {
  /** A bad_argument with that text and nothing else. */
  const refused = (promise, text, code = 'bad_argument') => assert.rejects(promise, heddleError(code, text instanceof RegExp ? text : new RegExp(`^${escaped(text)}$`)), String(text));

  test(`a weight type is checked, for bundles too, whose weights stay F32 (${where})`, async () => {
    for (const source of [storyFolder, bundle]) {
      await refused(runtime.loadModel(source, { dtype: 'int7' }), "dtype 'int7' is not known; known: keep, f32, f16, bf16, q4_0, q8_0, int8");
      await refused(runtime.loadModel(source, { dtype: 'i32' }), "dtype 'i32' is not known; known: keep, f32, f16, bf16, q4_0, q8_0, int8");
      await refused(runtime.loadModel(source, { dtype: 8 }), 'dtype: expected a string, found 8');
    }
    await refused(runtime.loadModel(bundle, { dtype: 'q8_0' }), "dtype 'q8_0': a bundle's weights are kept as F32", 'unsupported');
    for (const dtype of ['keep', 'f32', 'F32', undefined]) await (await runtime.loadModel(bundle, { dtype })).free();
  });

  test(`an option nobody knows is refused with those there are (${where})`, async () => {
    await refused(runtime.loadModel(storyFolder, { dytpe: 'f16' }), 'dytpe: no such option; known: dtype, id, config, tokenizer, context, progress, headers, fetch, revision, cache, signal');
    await refused(runtime.buildNetwork(spec, { sead: 1 }), 'sead: no such option; known: seed');
    const model = await runtime.buildNetwork(spec);
    await refused(model.createSession({ shape: [1, 3] }), 'shape: no such option; known: mode, input, context, outputRows');
    await refused(model.createSession({ input: { rows: 1 } }), 'rows: no such option; known: dtype, shape');
    await refused(model.generate([1], { max_tokens: 3 }).text(), /^max_tokens: no such option; known: temperature, topK, .*maxTokens, .*context, adapter$/);
    const session = await model.createSession({ mode: 'train', input: { shape: [1, 3] } });
    await refused(session.trainStep([1, 2, 3], [1, 2], { learningRate: 1 }), 'learningRate: no such option; known: loss, lr');
    await refused(session.backward([1, 2, 3], [1, 2], { lr: 1 }), 'lr: no such option; known: loss');
    await model.free();
  });

  test(`a model given as nothing, an empty string or anything else that is no file is refused (${where})`, async () => {
    const what = 'expected a URL, text, bytes, a Blob, a Response or a stream, found';
    for (const [source, found] of [[undefined, 'undefined'], [null, 'null'], ['', "''"], [17, '17'], [() => 1, 'a function'], [Promise.resolve(), 'Promise']]) {
      await refused(runtime.loadModel(source), `source: ${what} ${found}`);
      await refused(runtime.inspect(source), `source: ${what} ${found}`);
    }
    await refused(runtime.loadModel([null]), 'source[0]: expected a File, found null');
    await refused(runtime.loadModel(new Set([5])), 'source[0]: expected a File, found 5');
    await refused(runtime.loadModel(new Map([[5, '{}']])), "source: expected files' names as keys of the Map, found 5");
    await refused(runtime.loadModel(new Map([['config.json', 5]])), `config.json: ${what} 5`);
    await refused(runtime.loadModel(['config.json']), "source[0]: expected a File, found 'config.json'");
    await refused(runtime.loadModel({ 'config.json': 5 }), `config.json: ${what} 5`);
    await refused(runtime.loadModel(file('model.safetensors'), { config: null }), `config: ${what} null`);
    await refused(runtime.loadModel(storyFolder, null), 'options: expected an object, found null');
  });

  test(`options of a load are of their kind (${where})`, async () => {
    const cases = [
      [{ id: 3 }, 'id: expected a string, found 3'],
      [{ context: 0 }, 'context: expected a whole number from 1 to 2^32 − 1, found 0'],
      [{ context: NaN }, 'context: expected a whole number from 1 to 2^32 − 1, found NaN'],
      [{ context: 513 }, "context: 513 positions are more than the model's 512"],
      [{ progress: true }, 'progress: expected a function, found true'],
      [{ signal: {} }, 'signal: expected an AbortSignal, found an object'],
      [{ tokenizer: 'no file of its own' }, "tokenizer: expected an object with 'tokenizer.json', found 'no file of its own'"],
      [{ tokenizer: 'tokenizer.json' }, "tokenizer: expected an object with the files' contents, { 'tokenizer.json': text }, found 'tokenizer.json', which looks like where it lies: read it and give what is in it"],
    ];
    for (const [options, text] of cases) await refused(runtime.loadModel(storyFolder, options), text);
  });

  test(`a network's spec is text or an object, its seed a whole number (${where})`, async () => {
    await refused(runtime.buildNetwork(), 'spec: expected JSON text or an object, found undefined');
    await refused(runtime.buildNetwork([spec]), 'spec: expected JSON text or an object, found an array');
    await refused(runtime.buildNetwork(new Uint8Array(3)), 'spec: expected JSON text or an object, found Uint8Array');
    const round = {};
    round.round = round;
    await refused(runtime.buildNetwork(round), /^spec: .*circular/);
    for (const seed of [-1, 1.5, '7', NaN]) await refused(runtime.buildNetwork(spec, { seed }), /^seed: expected a whole number from 0 to 2\^53 − 1, found /);
  });

  test(`what a model is asked for is checked (${where})`, async () => {
    const model = await runtime.buildNetwork(spec);
    await refused(model.forward(), 'input: expected an array of numbers, found undefined');
    await refused(model.forward('1,2,3'), "input: expected an array of numbers, found '1,2,3'");
    await refused(model.forward([1, '2', 3]), "input[1]: expected a number, found '2'");
    await refused(model.forward([1, , 3]), 'input[1]: expected a number, found undefined');
    await refused(model.forward(new BigInt64Array(3)), 'input: expected an array of numbers, found BigInt64Array');
    await refused(model.forward([1, 2, 3], 3), 'shape: expected an array of sizes, found 3');
    await refused(model.forward([1, 2, 3], [1, NaN]), 'shape[1]: expected a whole number from 0 to 2^32 − 1, found NaN');
    assert.equal((await model.forward([1, NaN, Infinity])).length, 2, 'numbers need not be finite');
    assert.equal((await model.forward(new Float64Array(3))).length, 2);
    await refused(model.readWeight(), 'name: expected a string, found undefined');
    await refused(model.writeWeight('fc.bias'), 'values: expected an array of numbers, found undefined');
    await refused(model.writeWeight('fc.bias', ['a', 'b']), "values[0]: expected a number, found 'a'");
    await refused(model.saveToString(), 'id: expected a string, found undefined');
    await refused(model.createSession(null), 'options: expected an object, found null');
    await refused(model.createSession({ mode: 3 }), 'mode 3 is not known; known: infer, trace, train');
    await refused(model.createSession({ input: [1, 3] }), 'input: expected an object with a shape, found an array');
    await refused(model.createSession({ input: {} }), 'input.shape: expected an array of sizes, found undefined');
    await refused(model.createSession({ input: { shape: [1, '3'] } }), "input.shape[1]: expected a whole number from 0 to 2^32 − 1, found '3'");
    await refused(model.createSession({ input: { shape: [1, 3], dtype: 'q8_0' } }), "dtype 'q8_0' is not known; known: f32, i32");
    await refused(model.createSession({ outputRows: -1 }), /^outputRows: .*found -1$/);
    await model.free();
  });

  test(`what a session is asked for is checked, and a step wants its rate (${where})`, async () => {
    const model = await runtime.buildNetwork(spec);
    const session = await model.createSession({ mode: 'train', input: { shape: [1, 3] } });
    await refused(session.forward(null), 'input: expected an array of numbers, found null');
    await refused(session.value(), 'name: expected a string, found undefined');
    await refused(session.gradient(7), 'weight: expected a string, found 7');
    await refused(session.rewind(), 'position: expected a whole number from 0 to 2^32 − 1, found undefined');
    await refused(session.backward([1, 2, 3]), 'targets: expected an array of numbers, found undefined');
    await refused(session.backward([1, 2, 3], [0.5], { loss: 'cross_entropy' }), 'targets: expected whole numbers of 32 bits, found 0.5');
    await refused(session.trainStep([1, 2, 3], [1, 2], { loss: 'hinge' }), "loss 'hinge' is not known; known: mse, cross_entropy");
    await refused(session.trainStep([1, 2, 3], [1, 2], { lr: NaN }), 'lr: expected a finite number, found NaN');
    await refused(session.trainStep([1, 2, 3], [1, 2], 0.1), 'options: expected an object, found 0.1');
    for (const lr of [undefined, NaN, Infinity, '0.1']) await refused(session.step(lr), /^lr: expected a finite number, found (undefined|NaN|Infinity|'0\.1')$/);
    await refused(session.useAdapter(), 'adapter: expected an adapter, found undefined');
    await refused(session.useAdapter('lora'), "adapter: expected an adapter, found 'lora'");
    await refused(model.mergeAdapter({}), 'adapter: expected an adapter, found an object');
    await session.trainStep([1, 2, 3], [1, 2]);
    await model.free();
  });

  test(`a generation's prompt and options are checked (${where})`, async () => {
    const model = await runtime.loadModel(storyFolder);
    const cases = [
      [undefined, {}, 'prompt: expected a text or token ids, found undefined'],
      [[1, '2'], {}, "prompt[1]: expected a number, found '2'"],
      [[1.5], {}, 'prompt: expected whole numbers of 32 bits, found 1.5'],
      ['x', null, 'options: expected an object, found null'],
      ['x', { maxTokens: -1 }, 'maxTokens: expected a whole number from 0 to 2^32 − 1, found -1'],
      ['x', { maxTokens: NaN }, 'maxTokens: expected a whole number from 0 to 2^32 − 1, found NaN'],
      ['x', { topK: 2.5 }, 'topK: expected a whole number from 1 to 2^32 − 1, found 2.5'],
      ['x', { seed: '7' }, "seed: expected a whole number from 0 to 2^53 − 1, found '7'"],
      ['x', { temperature: NaN }, 'temperature: expected a finite number from 0, found NaN'],
      ['x', { stopTokens: 3 }, 'stopTokens: expected an array of numbers, found 3'],
      ['x', { onToken: 3 }, 'onToken: expected a function, found 3'],
      ['x', { adapter: 3 }, 'adapter: expected an adapter, found 3'],
    ];
    for (const [prompt, options, text] of cases) await refused(model.generate(prompt, options).text(), text);
    await refused(model.tokenize(), 'text: expected a string, found undefined');
    await refused(model.detokenize(['a']), "tokens[0]: expected a number, found 'a'");
    assert.equal((await model.generate('x', { maxTokens: 2, topK: Infinity }).text()).length > 0, true);
    await model.free();
  });

  test(`a context is no smaller than the prompt and no larger than the model's (${where})`, async () => {
    const model = await runtime.loadModel(storyFolder, { dtype: 'f32' });
    await refused(model.generate(new Array(10).fill(5), { context: 4 }).text(), 'the prompt is 10 tokens, the context 4');
    await refused(model.generate(new Array(600).fill(5)).text(), 'the prompt is 600 tokens, the context 512');
    await refused(model.generate([5], { context: 1000 }).text(), "context: 1000 positions are more than the model's 512");
    await refused(model.createSession({ context: 1000 }), "context: 1000 positions are more than the model's 512");
    for (const mode of ['infer', 'trace', 'train']) {
      const session = await model.createSession({ context: 8, mode });
      await session.decode(new Array(8).fill(5));
      assert.deepEqual(session.outputShape, [8, 512]);
      if (mode === 'infer') await assert.rejects(session.decode([5]), heddleError('bad_state', /context of 8/));
      await session.free();
    }
    await model.free();
    const short = await runtime.loadModel(storyFolder, { context: 8 });
    await (await short.createSession()).decode(new Array(8).fill(5));
    await short.free();
  });

  test(`what is no bundle is said to be what it looks like, and what to do (${where})`, async () => {
    await refused(runtime.loadModel(file('config.json')), /config\.json: this looks like a model's config\.json, not a bundle: load the folder/);
    await refused(runtime.loadModel(readFileSync(file('config.json'))), /^the bytes given: this looks like a model's config\.json/);
    await refused(runtime.loadModel(file('tokenizer.json')), /this looks like a tokenizer\.json, not a bundle/);
    await refused(runtime.loadModel(file('tokenizer_config.json')), /this looks like a tokenizer_config\.json, not a bundle/);
    await refused(runtime.loadModel(JSON.stringify(spec)), /^the text given: this looks like a network's spec, not a bundle: buildNetwork makes/);
    await refused(runtime.loadModel('{"peft_type": "LORA"}'), /an adapter's config, not a bundle: model\.loadAdapter/);
  });

  test(`an empty folder, a folder in a file's place and a set without a description are named (${where})`, async () => {
    await refused(runtime.loadModel(empty), `no config.json in ${empty}: there are no files`, 'bad_file');
    await refused(runtime.inspect(empty), `no model.safetensors in ${empty}: there are no files`, 'bad_file');
    await refused(runtime.loadModel({}), 'no config.json among the files given: there are no files', 'bad_file');
    await refused(runtime.loadModel({ 'model.safetensors': new Uint8Array(8) }), 'no config.json among the files given (model.safetensors)', 'bad_file');
    await refused(runtime.loadModel({ 'config.json': empty }), `config.json: ${empty} is a folder, expected a file`, 'bad_file');
  });

  test(`loadAdapter says which of its files is wrong (${where})`, async () => {
    const model = await runtime.loadModel(storyFolder);
    const config = { peft_type: 'LORA', r: 1, lora_alpha: 1, target_modules: ['q_proj'] };
    const what = 'expected a URL, text, bytes, a Blob, a Response or a stream, found';
    await refused(model.loadAdapter(), `the adapter's config: ${what} undefined`);
    await refused(model.loadAdapter(config), `the adapter's weights: ${what} undefined`);
    await refused(model.loadAdapter(config, 5), `the adapter's weights: ${what} 5`);
    await refused(model.loadAdapter(config, new Uint8Array(30)), /^the adapter's weights: /, 'bad_file');
    await refused(model.loadAdapter(config, file('config.json')), /config\.json: expected a weight file/, 'bad_file');
    await model.free();
  });

  test(`what was freed, or went with its model, says so (${where})`, async () => {
    const model = await runtime.buildNetwork(spec);
    const session = await model.createSession({ input: { shape: [1, 3] } });
    await model.free();
    await refused(session.forward([1, 2, 3]), 'the session was freed', 'bad_state');
    await refused(session.useAdapter(null), 'the session was freed', 'bad_state');
    await refused(model.createSession({ input: 5 }), 'the model was freed', 'bad_state');
    await refused(model.tokenize('x'), 'the model was freed', 'bad_state');
    await session.free();
  });
}

test('an adapter that went with its model, or belongs to another runtime, says so', needs('fixtures/real/stories260k'), async () => {
  const folder = (name) => shared(`fixtures/real/stories260k/${name}`);
  const open = async (runtime) => {
    const model = await runtime.loadModel(folder('hf'));
    return { model, adapter: await model.loadAdapter(readJson(folder('lora/adapter_config.json')), folder('lora/adapter_model.safetensors')) };
  };
  const second = await worker.init(optionsFor(modules[0]));
  for (const [runtime, other] of [[here, there], [there, here], [there, second]]) {
    const [first, foreign] = [await open(runtime), await open(other)];
    const session = await first.model.createSession();
    await assert.rejects(session.useAdapter(foreign.adapter), heddleError('bad_argument', /^the adapter belongs to another runtime$/));
    await foreign.model.free();
    const again = await open(runtime);
    await again.model.free();
    await assert.rejects(session.useAdapter(again.adapter), heddleError('bad_state', /^the adapter was freed$/));
    await first.model.free();
  }
  await second.free();
});

test('the synchronous calls check theirs', async () => {
  const bad = (text) => heddleError('bad_argument', new RegExp(`^${escaped(text)}$`));
  assert.throws(() => here.LoadNetworkFromString(bundle), bad('id: expected a string, found undefined'));
  assert.throws(() => here.LoadNetworkFromString(undefined, 'x'), bad('text: expected a string or a Uint8Array, found undefined'));
  assert.throws(() => here.LoadNetworkFromString({}, 'x'), bad('text: expected a string or a Uint8Array, found an object'));
  assert.throws(() => here.BuildNetworkFromJSON(), bad('json: expected JSON text or an object, found undefined'));
  assert.throws(() => here.BuildNetworkFromJSON(spec, { seed: 0.5 }), bad('seed: expected a whole number from 0 to 2^53 − 1, found 0.5'));
  const network = here.BuildNetworkFromJSON({ grid_rows: 1, grid_cols: 1, layers_per_cell: 1, ...spec });
  assert.throws(() => network.ForwardCPU(), bad('input: expected an array of numbers, found undefined'));
  assert.throws(() => network.ForwardCPU(['1', 2, 3]), bad("input[0]: expected a number, found '1'"));
  assert.throws(() => network.SaveModelToString(), bad('id: expected a string, found undefined'));
  network.free();
  const tokenizer = new heddle.Tokenizer({ 'tokenizer.json': readFileSync(file('tokenizer.json'), 'utf8') });
  assert.throws(() => tokenizer.encode(3), bad('text: expected a string, found 3'));
  assert.throws(() => new heddle.Tokenizer(), bad("files: expected an object with 'tokenizer.json', found undefined"));
});

test('every entry checks how it is started', async () => {
  const { init: inline } = await entry('./inline');
  const { init: edge } = await entry('./edge');
  const wasm = await WebAssembly.compile(readFileSync(join(packageFolder, 'dist/wasm/heddle-simd128.wasm')));
  const bad = (text) => heddleError('bad_argument', new RegExp(`^${escaped(text)}$`));
  for (const init of [heddle.init, worker.init]) {
    await assert.rejects(init({ variant: 'avx' }), bad("variant 'avx' is not known; known: auto, simd128, relaxed"));
    await assert.rejects(init({ threads: '2' }), bad("threads: expected 'auto' or a whole number from 1, found '2'"));
    await assert.rejects(init({ shared: 1 }), bad('shared: expected true or false, found 1'));
    await assert.rejects(init({ log: 'no' }), bad("log: expected a function, found 'no'"));
    await assert.rejects(init(null), bad('options: expected an object, found null'));
  }
  const known = 'variant, threads, wasm, poolWorker, shared, log';
  await assert.rejects(heddle.init({ thread: 1 }), bad(`thread: no such option; known: ${known}`));
  await assert.rejects(worker.init({ thread: 1 }), bad(`thread: no such option; known: ${known}, worker`));
  await assert.rejects(inline({ threads: 2 }), bad('threads: no such option; known: shared, log'));
  await assert.rejects(edge(wasm, { threads: 2 }), bad('threads: no such option; known: variant, shared, log'));
});
