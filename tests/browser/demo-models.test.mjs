/**
 * The demo with models that people bring: GGUF files, addresses, links, and conversations. What a model says is known from elsewhere: the story teller's
 * greedy texts (demo/models/story/expected.json), transformers' (e2e-llama-text), llama2.c's (stories260K).
 */
import assert from 'node:assert/strict';
import { closeSync, existsSync, ftruncateSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { demoFolders } from '../../tools/serve.mjs';
import { projectDir } from '../../tools/step.mjs';
import { dropFiles, dropFolder, launch, packageDir, screenshot, sharedDir, skip, startServer, withPage } from './browser.mjs';
import { errors, figure, findFaults, overflow, settle, tell, untilTokens } from './demo-page.mjs';

const storyDir = join(projectDir, 'demo/models/story');
const storyCases = JSON.parse(readFileSync(join(storyDir, 'expected.json'))).cases;
const weaverDir = join(projectDir, 'tests/golden/transformers/e2e-llama-text');
const weaver = JSON.parse(readFileSync(join(weaverDir, 'expected.json')));
const stories260k = join(sharedDir, 'fixtures/real/stories260k');
const missing = [/404/]; // an address has no list of files: they are asked for by name

/** The whole conversation, and nothing between: so a first message is a prompt, whose text is known. */
const template = '{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}';

const file = (folder, name) => ({ name, content: readFileSync(join(folder, name)) });

/** A model's files, with a chat template; `changes` are members of its tokenizer.json's place. */
function chatFiles(folder, tokenizer = readFileSync(join(folder, 'tokenizer.json')), chatTemplate = template) {
  return [
    ...['model.safetensors', 'config.json', 'generation_config.json', 'tokenizer_config.json'].map((name) => file(folder, name)),
    { name: 'tokenizer.json', content: tokenizer },
    { name: 'chat_template.jinja', content: chatTemplate },
  ];
}

/** The model of e2e-llama-text with a tokenizer in which the tokens it makes first ("ward") and fifth ("an") begin and end thinking. */
function thinkingTokenizer() {
  const tokenizer = JSON.parse(readFileSync(join(weaverDir, 'tokenizer.json')));
  for (const [i, content] of [[0, '<think>'], [4, '</think>']]) {
    tokenizer.added_tokens.push({ id: weaver.greedy_ids[i], content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: false });
  }
  return JSON.stringify(tokenizer);
}

/** A Llama of one layer and some 230 MB in BF16, all zeros; the disk keeps next to nothing of it. Its size in bytes. */
function writeLargeModel(folder) {
  const [width, inner, vocabulary] = [1024, 4096, 98304];
  const shapes = {
    'model.embed_tokens.weight': [vocabulary, width], 'model.norm.weight': [width],
    ...Object.fromEntries([['input_layernorm', [width]], ['post_attention_layernorm', [width]], ['self_attn.q_proj', [width, width]], ['self_attn.k_proj', [width, width]],
      ['self_attn.v_proj', [width, width]], ['self_attn.o_proj', [width, width]], ['mlp.gate_proj', [inner, width]], ['mlp.up_proj', [inner, width]],
      ['mlp.down_proj', [width, inner]]].map(([name, shape]) => [`model.layers.0.${name}.weight`, shape])),
  };
  let end = 0;
  const header = Object.fromEntries(Object.entries(shapes).map(([name, shape]) => [name, { dtype: 'BF16', shape, data_offsets: [end, (end += 2 * shape.reduce((a, b) => a * b, 1))] }]));
  const text = JSON.stringify(header);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  const out = openSync(join(folder, 'model.safetensors'), 'w');
  writeSync(out, Buffer.concat([length, Buffer.from(text)]));
  ftruncateSync(out, 8 + text.length + end);
  closeSync(out);
  writeFileSync(join(folder, 'config.json'), JSON.stringify({
    model_type: 'llama', hidden_size: width, intermediate_size: inner, num_hidden_layers: 1, num_attention_heads: 16, num_key_value_heads: 16,
    vocab_size: vocabulary, max_position_embeddings: 2048, rms_norm_eps: 1e-5, tie_word_embeddings: true,
  }));
  writeFileSync(join(folder, 'tokenizer.json'), readFileSync(join(storyDir, 'tokenizer.json')));
  return 8 + text.length + end;
}

let browser;
let server;
let folder;
let largeBytes;
/** Requests for models, as "name range". */
let asked = [];

/** The demo's page; `at` is what stands behind its address. */
function onPage({ at = '', expected = missing, ...options }, work) {
  return withPage(browser, server.address + at, { expected, ...options }, work);
}

function onDemo(options, work) {
  return onPage(options, async (page) => {
    await page.locator('#story').waitFor();
    await work(page);
  });
}

async function loadFrom(page, address) {
  await page.locator('#address').fill(address);
  await page.locator('#fetch').click();
}

/** Starts a conversation's turn. */
async function say(page, words, { temperature = 0 } = {}) {
  await page.locator('#talk-temperature').fill(String(temperature));
  await page.locator('#say').fill(words);
  await page.locator('#send').click();
}

const answered = (page) => page.locator('#talk[aria-busy="false"]').waitFor();
const answers = (page) => page.locator('.turn-model .words').allTextContents();

/** Says something and waits; resolves to the answer. */
async function converse(page, words, options) {
  await say(page, words, options);
  await answered(page);
  return (await answers(page)).at(-1);
}

/** The package in Node, for what the page has to agree with. */
async function inNode(work) {
  const heddle = await import(pathToFileURL(join(packageDir, 'dist/index.js')));
  const runtime = await heddle.init({ threads: 1 });
  const model = await runtime.loadModel(storyDir);
  try {
    return await work(model, heddle);
  } finally {
    await model.free();
    await runtime.free();
  }
}

/** The story teller as one GGUF file, with a chat template. */
function storyGguf() {
  return inNode((model, { ggufTokenizerMetadata }) => {
    const texts = Object.fromEntries(['tokenizer.json', 'tokenizer_config.json'].map((name) => [name, readFileSync(join(storyDir, name), 'utf8')]));
    texts['tokenizer_config.json'] = JSON.stringify({ ...JSON.parse(texts['tokenizer_config.json']), chat_template: template });
    return model.saveGguf({ metadata: ggufTokenizerMetadata(texts) });
  });
}

describe('the demo with models of one\'s own', { skip }, () => {
  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'heddle-demo-'));
    mkdirSync(join(folder, 'large'));
    largeBytes = writeLargeModel(join(folder, 'large'));
    writeFileSync(join(folder, 'talk.gguf'), await storyGguf());
    browser = await launch();
    server = await startServer({ folders: { ...demoFolders, '/brought/': [folder], '/weaver/': [weaverDir] } });
    server.server.on('request', ({ url, headers }) => url.startsWith('/brought/') && asked.push(`${url.slice(9)} ${headers.range ?? ''}`.trim()));
  });
  after(async () => {
    await browser?.close();
    await server?.close();
    if (folder) rmSync(folder, { recursive: true, force: true });
  });

  // ---- GGUF ----

  test('a GGUF file that is dropped is a whole model: its text is llama2.c\'s', { skip: existsSync(stories260k) ? false : `no ${stories260k}` }, () =>
    onDemo({ expected: [] }, async (page) => {
      const { prompt, text, ids } = JSON.parse(readFileSync(join(stories260k, 'expected-variants.json')))['stories260K-q8_0.gguf'];
      await dropFiles(page, [file(stories260k, 'stories260K-q8_0.gguf')]);
      await page.locator('#story-title').filter({ hasText: 'Continue a text' }).waitFor();
      assert.equal(await figure(page, 'model'), 'stories260K-q8_0.gguf');
      await settle(page, { length: ids.length - 5 });
      assert.equal(await tell(page, prompt), text);
      assert.equal(await figure(page, 'prompt'), '5 read');
      await page.locator('#builtin').click();
      await page.locator('#story-title').filter({ hasText: 'Tell a story' }).waitFor();
    }));

  test('a GGUF file with a chat template that is chosen converses', () =>
    onDemo({ expected: [] }, async (page) => {
      await page.locator('#files').setInputFiles(join(folder, 'talk.gguf'));
      await page.locator('#conversation').waitFor();
      assert.equal(await converse(page, storyCases[1].prompt), storyCases[1].greedy_text.trim());
    }));

  test('a GGUF file that is cut short is refused by name, and the story teller stays', () =>
    onDemo({ expected: [] }, async (page) => {
      await dropFiles(page, [{ name: 'cut.gguf', content: readFileSync(join(folder, 'talk.gguf')).subarray(0, 5000) }]);
      await errors(page).filter({ hasText: /^This file cannot be used: .*cut\.gguf.* bad_file/ }).waitFor();
      await page.locator('#story').waitFor();
    }));

  // ---- Addresses ----

  test('a folder\'s address loads its model, and the page\'s own address becomes a link to it', () =>
    onDemo({}, async (page) => {
      const address = `${server.address}weaver/`;
      await loadFrom(page, address);
      await page.locator('#story-title').filter({ hasText: 'Continue a text' }).waitFor();
      assert.equal(await figure(page, 'model'), 'weaver');
      await settle(page);
      assert.equal(await tell(page, weaver.prompt), weaver.prompt + weaver.text);
      assert.equal(new URL(page.url()).searchParams.get('model'), address);
      await page.reload();
      await page.locator('#story-title').filter({ hasText: 'Continue a text' }).waitFor();
      await page.locator('#builtin').click();
      await page.locator('#story-title').filter({ hasText: 'Tell a story' }).waitFor();
      assert.equal(new URL(page.url()).search, '');
    }));

  test('a link opens a GGUF file, by an address below the page\'s', () =>
    onPage({ at: '?model=brought/talk.gguf', expected: [] }, async (page) => {
      await page.locator('#conversation').waitFor();
      assert.equal(await figure(page, 'model'), 'talk.gguf');
      assert.equal(await page.locator('#address').inputValue(), 'brought/talk.gguf');
      assert.equal(await converse(page, storyCases[0].prompt), storyCases[0].greedy_text.trim());
    }));

  test('a name on Hugging Face is the model\'s page there', () => {
    const prepare = (page) => page.route('https://huggingface.co/**', (route) => {
      const name = /^\/loom\/weaver\/resolve\/main\/([\w.]+)$/.exec(new URL(route.request().url()).pathname)?.[1];
      const headers = { 'access-control-allow-origin': '*' };
      return name && existsSync(join(weaverDir, name)) ? route.fulfill({ headers, body: readFileSync(join(weaverDir, name)) }) : route.fulfill({ headers, status: 404 });
    });
    return onDemo({ prepare, expected: [...missing, /another place: https:\/\/huggingface\.co\/loom\/weaver\/resolve\/main\//] }, async (page) => {
      await loadFrom(page, 'loom/weaver');
      await page.locator('#story-title').filter({ hasText: 'Continue a text' }).waitFor();
      assert.equal(await figure(page, 'model'), 'loom/weaver');
      await settle(page, { length: 12 });
      assert.ok((weaver.prompt + weaver.text).startsWith((await tell(page, weaver.prompt)).replace(/�+$/, '')));
      assert.equal(new URL(page.url()).searchParams.get('model'), 'https://huggingface.co/loom/weaver');
    });
  });

  for (const [typed, message] of [
    ['', /^There is no address yet/], ['ftp://host/model.gguf', /^“ftp:\/\/host\/model\.gguf” is no address/], ['http://', /is no address/],
    ['nowhere/at/all/', /^This file cannot be used: .*nowhere\/at\/all\/config\.json: the server answered 404.*bad_file$/],
    ['brought/nothing.gguf', /^This file cannot be used: .*brought\/nothing\.gguf: the server answered 404.*bad_file$/],
  ]) {
    test(`an address that is none is said (${JSON.stringify(typed)})`, () =>
      onDemo({}, async (page) => {
        await loadFrom(page, typed);
        await errors(page).waitFor();
        assert.match(await errors(page).locator('p').textContent(), message);
        await page.locator('#story').waitFor();
        assert.equal(new URL(page.url()).search, '');
      }));
  }

  for (const [typed, scheme] of [['127.0.0.1:8123/x.gguf', 'http'], ['localhost:8123/', 'http'], ['host.example/model', 'https'], ['host.example:8080/a/b.gguf', 'https']]) {
    test(`an address without its scheme is no path and no name (${typed})`, () =>
      onDemo({ expected: [] }, async (page) => {
        await loadFrom(page, typed);
        await errors(page).waitFor();
        assert.match(await errors(page).locator('p').textContent(), new RegExp(`^“${typed}” lacks its scheme: write ${scheme}://${typed}, or ./`));
      }));
  }

  test('a server that does not answer is said in words', () => {
    const prepare = (page) => page.route('https://host.example/**', (route) => route.abort());
    return onDemo({ prepare, expected: [/host\.example/] }, async (page) => {
      await loadFrom(page, 'https://host.example/model.gguf');
      await errors(page).waitFor();
      assert.equal(await errors(page).locator('p').textContent(), 'https://host.example/model.gguf could not be fetched: the server does not answer, or does not allow this page to read it (CORS).');
    });
  });

  // ---- What makes no text ----

  for (const [name, words] of [['bert', /^This is a model of the family bert, .*no tokenizer/], ['llama-mild', /^This is a model of the family llama, .*no tokenizer/]]) {
    test(`a model that makes no text is said to be one, with its weights (${name})`, () =>
      onDemo({}, async (page) => {
        await dropFolder(page, join(projectDir, 'tests/golden/transformers', name));
        await page.locator('#tensors').waitFor();
        assert.match(await page.locator('#tensors-needs').textContent(), words);
        assert.equal(await page.locator('#tensors-title').textContent(), name);
        assert.equal(await figure(page, 'model'), name);
        assert.ok((await page.locator('#tensor-rows tr').count()) > 10);
        assert.deepEqual(await page.evaluate(findFaults), []);
      }));
  }

  test('a checkpoint of llama2.c and its vocabulary are a model', { skip: existsSync(stories260k) ? false : `no ${stories260k}` }, () =>
    onDemo({ expected: [] }, async (page) => {
      await dropFiles(page, [file(stories260k, 'stories260K.bin')]);
      await page.locator('#tensors-needs').filter({ hasText: 'drop tokenizer.bin as well' }).waitFor();
      await dropFiles(page, [file(stories260k, 'tok512.bin')]);
      await page.locator('#story-title').filter({ hasText: 'Continue a text' }).waitFor();
      assert.equal(await figure(page, 'model'), 'stories260K.bin');
    }));

  test('a link to nothing is said, and leads to the story teller', () =>
    onPage({ at: '?model=brought/nothing.gguf' }, async (page) => {
      await errors(page).filter({ hasText: '404' }).waitFor();
      await page.locator('#loading-title').filter({ hasText: 'Nothing is loaded' }).waitFor();
      await page.locator('#builtin').click();
      await page.locator('#story').waitFor();
      assert.equal(new URL(page.url()).search, '');
    }));

  test('who would download much is asked first, and nothing but headers has come until then', () =>
    onDemo({ viewport: { width: 1280, height: 900 } }, async (page) => {
      asked = [];
      await loadFrom(page, 'brought/large/');
      await page.locator('#estimate').waitFor();
      assert.equal(await page.locator('#loading-title').textContent(), 'Load large?');
      assert.equal(await page.locator('#estimate-download').textContent(), `${(largeBytes / 2 ** 20).toFixed(0)} MB would come from ${new URL(server.address).host}.`);
      // Memory is the weights': BF16 as they are, or 9.5 bits a value (docs/weights.md); norms are float32. Room is what the model is made for.
      const [matrices, norms] = [98304 * 1024 + 4 * 1024 ** 2 + 3 * 4096 * 1024, 3 * 1024];
      const megabytes = (perValue) => ((matrices * perValue + norms * 4) / 2 ** 20).toFixed(0);
      assert.deepEqual((await page.locator('#estimate-ways li span').allTextContents()), [
        `As in the file: ${megabytes(2)} MB of memory, and room for 2,048 tokens of text`, `In 8 bits: ${megabytes(9.5 / 8)} MB of memory, and room for 2,048 tokens of text`]);
      assert.ok(asked.every((each) => !each.startsWith('large/model.safetensors') || each.endsWith('bytes=0-8191')), asked.join('\n'));
      assert.deepEqual(await page.evaluate(findFaults), []);
      assert.equal(await page.getByLabel('in 8 bits', { exact: true }).isEnabled(), false);
      await screenshot(page, 'desktop-estimate');
      await page.locator('#cancel').click();
      await page.locator('#story').waitFor();
      assert.equal(await errors(page).count(), 0);

      await loadFrom(page, 'brought/large/');
      await page.getByRole('button', { name: 'Load: in 8 bits' }).click();
      await page.locator('#story-title').filter({ hasText: 'Continue a text' }).waitFor();
      assert.equal(await page.getByLabel('in 8 bits', { exact: true }).isChecked(), true);
      assert.equal(await page.getByLabel('in 8 bits', { exact: true }).isEnabled(), true);
      assert.equal(await figure(page, 'parameters'), (matrices + norms).toLocaleString('en'));
    }));

  test('on a phone the question comes into view, and the keyboard goes to its answer and back', () =>
    onDemo({ viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 }, async (page) => {
      await page.locator('#address').fill('brought/large/');
      await page.keyboard.press('Enter');
      await page.locator('#estimate').waitFor();
      const focused = page.locator('*:focus');
      assert.equal(await focused.getAttribute('aria-label'), 'Load: as in the file');
      const { y } = await focused.boundingBox();
      assert.ok(y > 0 && y < 800, `it is at ${y}`);
      assert.equal(await overflow(page), 0);
      await screenshot(page, 'phone-estimate');
      await page.keyboard.press('Escape');
      await page.locator('#story').waitFor();
      assert.equal(await focused.getAttribute('id'), 'address');
    }));

  test('a download is cancelled in its midst, and what was there comes back', () => {
    // The server's answers past the header wait until the test has cancelled.
    const prepare = (page) => page.route('**/brought/large/model.safetensors', (route) => (/bytes=0-8191|^$/.test(route.request().headers().range ?? '') ? route.continue() : undefined));
    return onDemo({ prepare }, async (page) => {
      await loadFrom(page, 'brought/large/');
      await page.getByRole('button', { name: 'Load: as in the file' }).click();
      await page.locator('#loading-bar').waitFor();
      await page.keyboard.press('Escape');
      await page.locator('#story').waitFor();
      assert.equal(await errors(page).count(), 0);
      await settle(page, { length: 3 });
      await tell(page, 'Once');
      assert.equal(await figure(page, 'tokens'), '3');
    });
  });

  // ---- Conversations ----

  const talking = (work, options = {}) =>
    onPage({ at: '?model=brought/talk.gguf', expected: [], ...options }, async (page) => {
      await page.locator('#conversation').waitFor();
      await work(page);
    });

  /** With the model of e2e-llama-text, whose answers do not end: the token that ends its texts is one it does not make, its context is long. */
  const endless = (work) =>
    onDemo({ expected: [] }, async (page) => {
      const changes = { 'config.json': { eos_token_id: 767, max_position_embeddings: 100000 }, 'generation_config.json': { eos_token_id: 767 } };
      const files = chatFiles(weaverDir).map(({ name, content }) => ({ name, content: changes[name] ? JSON.stringify({ ...JSON.parse(content), ...changes[name] }) : content }));
      await dropFiles(page, files);
      await page.locator('#conversation').waitFor();
      await work(page);
    });

  test('an answer is the text that is known, and the next one computes only what is new', () =>
    talking(async (page) => {
      const [first] = storyCases;
      assert.equal(await converse(page, first.prompt), first.greedy_text.trim());
      assert.equal((await page.locator('#talk-live p').allTextContents()).join(' '), first.greedy_text.trim());
      assert.equal(Number(await figure(page, 'tokens')), first.greedy_ids.length - 1);
      assert.ok(Number((await figure(page, 'speed')).replaceAll(',', '')) > 20);
      assert.match(await figure(page, 'prompt'), /^\d+ read$/);

      const whole = await inNode((model) => model.generate(`${first.prompt}${first.greedy_text}Then one day`, { maxTokens: 400 }).text());
      assert.equal(await converse(page, 'Then one day'), whole.trim());
      const [read, kept] = (await figure(page, 'prompt')).match(/\d+/g).map(Number);
      assert.ok(read < 10 && kept > first.greedy_ids.length, `${read} read, ${kept} kept`);
      assert.deepEqual(await page.locator('.turn-user .words').allTextContents(), [first.prompt, 'Then one day']);

      await page.locator('#clear').click();
      assert.equal(await page.locator('.turn').count(), 0);
      assert.equal(await figure(page, 'prompt'), '–');
      assert.equal(await page.evaluate(() => document.activeElement.id), 'say');
      assert.equal(await converse(page, storyCases[2].prompt), storyCases[2].greedy_text.trim());
    }));

  test('the system prompt comes first, and what was said stays when it changes', () =>
    talking(async (page) => {
      await page.locator('#system').fill('Once upon ');
      assert.ok(storyCases[0].prompt.startsWith('Once upon '));
      await page.locator('#system').fill('Once');
      assert.equal(await converse(page, 'upon a time'), await inNode((model) => model.generate('Onceupon a time', { maxTokens: 400 }).text()).then((text) => text.trim()));
      const [said] = await answers(page);
      await page.locator('#system').fill('');
      assert.equal(await converse(page, 'And'), await inNode((model) => model.generate(`upon a time${said}And`, { maxTokens: 400 }).text()).then((text) => text.trim()));
      assert.equal(await page.locator('.turn').count(), 4);
    }));

  for (const how of ['the button', 'Escape']) {
    test(`an answer that is stopped by ${how} stays as far as it came, and the conversation goes on`, () =>
      endless(async (page) => {
        await say(page, weaver.prompt);
        await untilTokens(page, 60);
        if (how === 'Escape') await page.keyboard.press('Escape');
        else await page.locator('#hush').click();
        await answered(page);
        assert.equal(await page.locator('#talk-status').textContent(), 'Stopped.');
        const [[answer], tokens] = [await answers(page), Number((await figure(page, 'tokens')).replaceAll(',', ''))];
        assert.ok(answer.startsWith(weaver.text) && tokens < 50000, `${tokens} tokens: ${answer.slice(0, 100)}`);
        await page.waitForTimeout(500);
        assert.deepEqual(await answers(page), [answer]);
        await say(page, 'More');
        await untilTokens(page, 2);
        await page.keyboard.press('Escape');
        await answered(page);
        assert.equal(await page.locator('.turn').count(), 4);
      }));
  }

  test('a full memory is said, with the button that clears it, however it became full', () =>
    onDemo({ expected: [] }, async (page) => {
      const changes = { 'config.json': { eos_token_id: 767, max_position_embeddings: 40 }, 'generation_config.json': { eos_token_id: 767 } };
      await dropFiles(page, chatFiles(weaverDir).map(({ name, content }) => ({ name, content: changes[name] ? JSON.stringify({ ...JSON.parse(content), ...changes[name] }) : content })));
      await page.locator('#conversation').waitFor();
      const full = page.locator('#talk-status').filter({ hasText: 'The model’s memory is full: clear it, or send something shorter.' });
      await converse(page, weaver.prompt); // the answer fills it
      await full.waitFor();
      assert.ok(await page.locator('#talk-full').isVisible());
      await say(page, 'And then?'); // there is no room for a message
      await full.waitFor();
      assert.equal(await errors(page).count(), 0);
      assert.equal(await page.locator('#say').inputValue(), 'And then?');
      await page.locator('#talk-full').click();
      assert.equal(await page.locator('.turn').count(), 0);
      assert.equal(await page.locator('#talk-full').isVisible(), false);
      await say(page, 'thread '.repeat(100).trim()); // nor for one alone
      await page.locator('#talk-status').filter({ hasText: 'longer than the model’s memory' }).waitFor();
      assert.equal(await page.locator('#talk-full').isVisible(), false);
      await converse(page, weaver.prompt);
      assert.equal(await page.locator('.turn').count(), 2);
    }));

  test('a message that is stopped before its answer begins is as if it had not been sent', () =>
    endless(async (page) => {
      const long = 'thread '.repeat(20000).trim();
      await page.locator('#say').fill(long);
      await page.locator('#send').click();
      await page.locator('.turn-user').waitFor();
      await page.keyboard.press('Escape');
      await page.locator('#talk-status').filter({ hasText: 'Stopped before the answer began.' }).waitFor();
      assert.equal(await page.locator('.turn').count(), 0);
      assert.equal(await page.locator('#say').inputValue(), long);
      assert.equal(await errors(page).count(), 0);
      await say(page, weaver.prompt);
      await untilTokens(page, 60);
      await page.keyboard.press('Escape');
      await answered(page);
      assert.ok((await answers(page))[0].startsWith(weaver.text));
    }));

  test('thinking is folded away, and is not read out', () =>
    onPage({ expected: [] }, async (page) => {
      await page.locator('#story').waitFor();
      await dropFiles(page, chatFiles(weaverDir, thinkingTokenizer()));
      await page.locator('#conversation').waitFor();
      const [thinking, text] = [weaver.stream.slice(1, 4).join(''), weaver.stream.slice(5).join('').trim()];
      assert.equal(await converse(page, weaver.prompt), text);
      const folded = page.locator('.turn-model .thinking');
      assert.equal(await folded.locator('div').textContent(), thinking);
      assert.equal(await folded.locator('div').isVisible(), false);
      assert.equal((await page.locator('#talk-live p').allTextContents()).join(' '), text);
      await folded.locator('summary').focus();
      await page.keyboard.press('Enter');
      assert.equal(await folded.locator('div').isVisible(), true);
      assert.deepEqual(await page.evaluate(findFaults), []);
    }));

  test('where the template begins the thinking, words without a tag are thoughts', () =>
    onPage({ expected: [] }, async (page) => {
      await page.locator('#story').waitFor();
      await dropFiles(page, chatFiles(storyDir, undefined, `${template}{% if add_generation_prompt and messages|length > 1 %}<think>\n{% endif %}`));
      await page.locator('#conversation').waitFor();
      assert.equal(await converse(page, storyCases[0].prompt), storyCases[0].greedy_text.trim());
      assert.equal(await converse(page, 'Then'), '');
      assert.ok((await page.locator('.turn-model .thinking div').last().textContent()).length > 10);
    }));

  test('a template that refuses is heard, and the words come back', () =>
    onPage({ expected: [] }, async (page) => {
      await page.locator('#story').waitFor();
      await dropFiles(page, chatFiles(storyDir, undefined, "{% if messages[0].role == 'system' %}{{ raise_exception('only users speak') }}{% endif %}" + template));
      await page.locator('#conversation').waitFor();
      await page.locator('#system').fill('Be brief.');
      await say(page, storyCases[0].prompt);
      await errors(page).filter({ hasText: 'only users speak' }).waitFor();
      assert.equal(await page.locator('#say').inputValue(), storyCases[0].prompt);
      assert.equal(await page.locator('.turn').count(), 0);
      await page.locator('#system').fill('');
      await page.locator('#send').click();
      await page.locator('.turn').first().waitFor();
      await answered(page);
      assert.deepEqual(await answers(page), [storyCases[0].greedy_text.trim()]);
    }));

  test('a conversation by keyboard alone', () =>
    talking(async (page) => {
      await page.locator('#say').focus();
      await page.keyboard.press('Enter'); // nothing to send
      assert.equal(await page.locator('.turn').count(), 0);
      await page.keyboard.type('One rainy');
      await page.keyboard.press('Shift+Enter');
      assert.equal(await page.locator('#say').inputValue(), 'One rainy\n');
      await page.keyboard.press('Backspace');
      await page.keyboard.type(' day,');
      await page.keyboard.press('Enter');
      await page.locator('.turn').first().waitFor();
      await answered(page);
      assert.equal(await page.evaluate(() => document.activeElement.id), 'say');
      const order = [];
      for (let i = 0; i < 4; i++) {
        await page.keyboard.press('Tab');
        order.push(await page.evaluate(() => document.activeElement.id));
      }
      assert.deepEqual(order, ['send', 'clear', 'system', 'talk-temperature']);
      await page.locator('#clear').focus();
      await page.keyboard.press('Enter');
      assert.equal(await page.locator('.turn').count(), 0);
    }));

  test('another model takes a conversation\'s place while it answers', () =>
    talking(async (page) => {
      await say(page, storyCases[0].prompt);
      await page.locator('#builtin').click();
      await page.locator('#story').waitFor();
      await settle(page);
      assert.equal(await tell(page, storyCases[1].prompt), storyCases[1].prompt + storyCases[1].greedy_text);
      assert.equal(await errors(page).count(), 0);
    }));

  // ---- For everybody ----

  for (const colorScheme of ['light', 'dark']) {
    test(`a conversation's names, roles and contrast are in order, and it fits a phone (${colorScheme})`, async () => {
      const look = async (page, name) => {
        await converse(page, storyCases[0].prompt);
        await converse(page, storyCases[1].prompt);
        assert.deepEqual(await page.evaluate(findFaults), []);
        assert.equal(await overflow(page), 0);
        await screenshot(page, `${name}-conversation-${colorScheme}`);
      };
      await talking((page) => look(page, 'desktop'), { colorScheme, viewport: { width: 1280, height: 900 } });
      await talking((page) => look(page, 'phone'), { colorScheme, viewport: { width: 390, height: 844 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
    });
  }
});
