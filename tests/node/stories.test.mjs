/**
 * Two real language models, from their Hugging Face files to text, against computations made elsewhere: stories260K (trained by its
 * publisher; ../shared) and the built-in story model (expected.json by transformers).
 */
import assert from 'node:assert/strict';
import { createReadStream, existsSync, openAsBlob, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { assertClose, distance } from './golden.mjs';
import { entry, modules, needs, optionsFor, projectFolder, readJson, shared, testOnEveryModule } from './heddle.mjs';

const stories260k = 'fixtures/real/stories260k';
const hf = shared(`${stories260k}/hf`);
const hasShared = needs(stories260k);
const expected = hasShared.skip ? { cases: [] } : readJson(shared(`${stories260k}/expected.json`));
const variants = hasShared.skip ? {} : readJson(shared(`${stories260k}/expected-variants.json`));

/** The greedy continuation, all ids after the prompt's. The publisher's loop ends at the begin token, 1. */
async function continuation(model, prompt, maxTokens, options = {}) {
  const ids = [];
  let text = '';
  const generation = model.generate(prompt, { maxTokens, stopTokens: [1], ...options });
  for await (const made of generation) {
    ids.push(made.token);
    text += made.text;
  }
  return { ids, text, usage: generation.usage };
}

async function checkStories260k(model) {
  for (const { prompt, prompt_ids: promptIds, ids, text } of expected.cases) {
    assert.deepEqual(await model.tokenize(prompt), promptIds);
    const made = await continuation(model, prompt, ids.length - promptIds.length);
    assert.deepEqual([...promptIds, ...made.ids], ids);
    assert.equal(prompt + made.text, text);
    assert.equal(made.usage.tokens, made.ids.length);
    assert.equal(made.usage.prefillTokens, promptIds.length);
    assert.ok(made.usage.tokensPerSecond > 0 && Number.isFinite(made.usage.tokensPerSecond));
  }
}

/** The logits after the prompt, in a session of their own. */
async function lastLogits(model, ids, adapter) {
  const session = await model.createSession({ outputRows: 1 });
  if (adapter) await session.useAdapter(adapter);
  await session.decode(ids);
  const logits = await session.logits();
  await session.free();
  return logits;
}

if (hasShared.skip) test('stories260K tells its published story', hasShared, () => undefined);

testOnEveryModule('stories260K tells its published story, token for token', hasShared, async (runtime) => {
  const model = await runtime.loadModel(hf);
  await checkStories260k(model);
  await model.free();
});

testOnEveryModule('stories260K has its published logits after the prompt', hasShared, async (runtime) => {
  const model = await runtime.loadModel(hf);
  for (const { prompt, prompt_ids: ids, last_prompt_position_logits: want, first_position_logits: first } of expected.cases) {
    assertClose(await lastLogits(model, ids), want, 1e-4, `"${prompt}"`);
    assertClose(await lastLogits(model, ids.slice(0, 1)), first, 1e-4, 'the first position');
    // One by one is the same as all at once.
    const session = await model.createSession({ input: { shape: [1] } });
    for (const id of ids) await session.decode([id]);
    assert.equal(session.position, ids.length);
    assertClose(await session.logits(), want, 1e-4, `"${prompt}", token by token`);
    await session.free();
  }
  await model.free();
});

testOnEveryModule('stories260K in BF16 keeps to its own expected text', hasShared, async (runtime) => {
  const model = await runtime.loadModel({
    'config.json': join(hf, 'config.json'),
    'tokenizer.json': join(hf, 'tokenizer.json'),
    'tokenizer_config.json': join(hf, 'tokenizer_config.json'),
    'model-bf16.safetensors': join(hf, 'model-bf16.safetensors'),
  });
  const want = variants['hf/model-bf16.safetensors'];
  const ids = await model.tokenize(want.prompt);
  assertClose(await lastLogits(model, ids), want.last_prompt_position_logits, 1e-4, 'logits');
  assert.deepEqual([...ids, ...(await continuation(model, want.prompt, want.ids.length - ids.length)).ids], want.ids);
  await model.free();
});

testOnEveryModule('the LoRA adapter attaches, runs, detaches and merges', hasShared, async (runtime) => {
  const model = await runtime.loadModel(hf);
  const want = variants['hf/model.safetensors + lora/'];
  const ids = await model.tokenize(want.prompt);
  const plain = await lastLogits(model, ids);
  const lora = (name) => shared(`${stories260k}/lora/${name}`);
  const adapter = await model.loadAdapter(lora('adapter_config.json'), lora('adapter_model.safetensors'));

  assertClose(await lastLogits(model, ids, adapter), want.last_prompt_position_logits, 1e-4, 'attached');
  assert.ok(distance(plain, want.last_prompt_position_logits) > 0.1, 'the adapter changes something');
  const made = await continuation(model, want.prompt, want.ids.length - ids.length, { adapter });
  assert.deepEqual([...ids, ...made.ids], want.ids);

  const session = await model.createSession({ outputRows: 1 });
  await session.useAdapter(adapter);
  await assert.rejects(adapter.free(), { code: 'bad_state' });
  await session.decode(ids);
  await session.useAdapter(null);
  await session.reset();
  await session.decode(ids);
  assert.deepEqual(await session.logits(), plain, 'detached, the bits are the old ones');
  await assert.rejects(model.mergeAdapter(adapter), { code: 'bad_state' });
  await session.free();

  await model.mergeAdapter(adapter);
  assertClose(await lastLogits(model, ids), want.last_prompt_position_logits, 1e-4, 'merged');
  await model.unmergeAdapter(adapter);
  assertClose(await lastLogits(model, ids), plain, 1e-4, 'taken away again');
  await adapter.free();
  await model.free();
});

testOnEveryModule('a session can be rewound and decoded again', hasShared, async (runtime) => {
  const model = await runtime.loadModel(hf);
  const { prompt_ids: ids } = expected.cases[3];
  const session = await model.createSession();
  await session.decode(ids);
  const first = await session.logits();
  assert.equal(await session.argmax(), first.indexOf(Math.max(...first)));
  await session.rewind(4);
  assert.equal(session.position, 4);
  await session.decode(ids.slice(4));
  assertClose(await session.logits(), first, 1e-5, 'the same logits');
  await assert.rejects(session.rewind(1000), { code: 'bad_argument' });
  await model.free();
});

// ---- The built-in model ----

const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json'));

async function checkStory(model) {
  for (const { prompt, prompt_ids: promptIds, greedy_ids: ids, greedy_text: text, ends_with_eos: ends } of story.cases) {
    assert.deepEqual(await model.tokenize(prompt), promptIds);
    const made = await continuation(model, prompt, ids.length, { stopTokens: [] });
    assert.deepEqual(ends ? [...made.ids, 1] : made.ids, ids);
    assert.equal(made.text, text);
    assert.equal(made.usage.stop, ends ? 'end' : 'max_tokens');
  }
}

testOnEveryModule('the built-in model tells the stories transformers gave', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  await checkStory(model);
  for (const { prompt, prompt_ids: ids, first_step_logits: want } of story.cases) {
    assertClose(await lastLogits(model, ids), want, 1e-4, `"${prompt}"`);
  }
  await model.free();
});

test('the built-in model in a worker tells the same stories', async () => {
  const { init } = await entry('./worker');
  for (const module of modules) {
    const runtime = await init(optionsFor(module));
    const model = await runtime.loadModel(storyFolder);
    await checkStory(model);
    assert.equal(model.threads, optionsFor(module).threads);
    await model.free();
    await runtime.free();
  }
});

test('stories260K in a worker tells its published story', hasShared, async () => {
  const { init } = await entry('./worker');
  const runtime = await init({ ...optionsFor(modules.at(-1)) });
  const model = await runtime.loadModel(hf);
  await checkStories260k(model);
  for (const { prompt_ids: ids, last_prompt_position_logits: want } of expected.cases) assertClose(await lastLogits(model, ids), want, 1e-4, 'logits');
  await runtime.free();
});

// ---- However the bytes come ----

const file = (name) => join(storyFolder, name);
const weights = file('model.safetensors');
const small = () => Object.fromEntries(['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json'].map((name) => [name, readFileSync(file(name))]));
const webStream = () => Readable.toWeb(createReadStream(weights, { highWaterMark: 10_007 }));

const files = () => ['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((name) => new File([readFileSync(file(name))], name));

const sources = {
  'a folder as a file: URL': () => pathToFileURL(`${storyFolder}/`),
  'a folder as a file: URL without its slash': () => pathToFileURL(storyFolder),
  'bytes by name': () => ({ ...small(), 'model.safetensors': readFileSync(weights) }),
  'an ArrayBuffer': () => ({ ...small(), 'model.safetensors': new Uint8Array(readFileSync(weights)).buffer }),
  'a Blob': async () => ({ ...small(), 'model.safetensors': await openAsBlob(weights) }),
  'a stream of odd pieces, with its size': () => ({ ...small(), 'model.safetensors': { stream: webStream(), size: statSync(weights).size } }),
  'a Response': () => ({ ...small(), 'model.safetensors': new Response(webStream(), { headers: { 'content-length': String(statSync(weights).size) } }) }),
  'a list of Files': () => files(),
  'Files that are no array': () => new Set(files()),
  'a Map of files': () => new Map([...Object.entries(small()), ['model.safetensors', readFileSync(weights)]]),
};

for (const [what, source] of Object.entries(sources)) {
  testOnEveryModule(`the model loads from ${what}`, async (runtime) => {
    const model = await runtime.loadModel(await source());
    assert.equal(await model.generate('Ruby was a shy fox.').text(), story.cases[1].greedy_text);
    await model.free();
  });
}

test('a worker takes all the same sources', async () => {
  const { init } = await entry('./worker');
  const runtime = await init(optionsFor(modules[0]));
  for (const [what, source] of Object.entries(sources)) {
    const model = await runtime.loadModel(await source());
    assert.equal(await model.generate('Ruby was a shy fox.').text(), story.cases[1].greedy_text, what);
    await model.free();
  }
  await runtime.free();
});

testOnEveryModule('bare weights load with a description beside them', async (runtime) => {
  const tokenizer = { 'tokenizer.json': readJson(file('tokenizer.json')), 'tokenizer_config.json': readJson(file('tokenizer_config.json')) };
  for (const config of [file('config.json'), readFileSync(file('config.json'), 'utf8'), readJson(file('config.json'))]) {
    const model = await runtime.loadModel(weights, { config, tokenizer });
    assert.equal(await model.generate('Ruby was a shy fox.').text(), story.cases[1].greedy_text);
    await model.free();
  }
  await assert.rejects(runtime.loadModel(new TextEncoder().encode('no model at all')), { code: 'bad_file', message: /expected a weight file \(GGUF, .*SafeTensors\), found 15 bytes that start with 6e 6f 20/ });
  await assert.rejects(runtime.loadModel(weights), { code: 'bad_argument', message: /weights alone are no model; give their description as options\.config/ });
});

test('the story model is the one of ../shared/models/story', needs('models/story'), () => {
  for (const name of ['config.json', 'model.safetensors', 'tokenizer.json', 'expected.json']) {
    assert.ok(readFileSync(file(name)).equals(readFileSync(shared(`models/story/${name}`))), name);
  }
  assert.ok(existsSync(file('make.py')));
});

