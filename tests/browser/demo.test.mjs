/** The demo, driven as a user drives it. */
import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { projectDir } from '../../tools/step.mjs';
import { errors, figure, findFaults, overflow, settle, tell, untilTokens } from './demo-page.mjs';
import { dropFiles, dropFolder, launch, screenshot, skip, startServer, withPage } from './browser.mjs';

const golden = (name) => readFileSync(join(projectDir, 'tests/golden', name));
const storyFile = (name) => ({ name, content: readFileSync(join(projectDir, 'demo/models/story', name)) });
const storyCases = JSON.parse(storyFile('expected.json').content).cases;
const modelFiles = ['model.safetensors', 'config.json', 'tokenizer.json', 'tokenizer_config.json', 'generation_config.json'];

let browser;
let server;

/** The demo's page once the story teller is on stage. */
function onDemo(options, work) {
  return withPage(browser, options.address ?? server.address, options, async (page) => {
    await page.locator('#story').waitFor();
    await work(page);
  });
}

/** Runs the network on stage; resolves to the numbers shown. */
async function runNetwork(page) {
  await page.locator('#run-form button[type=submit]').click();
  await page.locator('#output-box[aria-busy="false"]').waitFor();
  return (await page.locator('#output td.number').allTextContents()).map(Number);
}

describe('the demo', { skip }, () => {
  before(async () => {
    browser = await launch();
    server = await startServer();
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  // ---- Stories ----

  test('tells the built-in stories greedily, word for word', () =>
    onDemo({}, async (page) => {
      await settle(page);
      for (const { prompt, greedy_text: text, greedy_ids: ids } of storyCases) {
        assert.equal(await tell(page, prompt), prompt + text);
        assert.equal(Number(await figure(page, 'tokens')), ids.length - (ids.at(-1) === 1 ? 1 : 0));
        assert.match(await page.locator('#tale-status').textContent(), /^The end\.$/);
        // What is read out is the same story, in whole sentences.
        assert.equal((await page.locator('#tale-live p').allTextContents()).join(' '), text.trim());
      }
    }));

  test('shows speed, module, threads, memory and the model', () =>
    onDemo({}, async (page) => {
      await settle(page);
      await tell(page, 'Once upon a time');
      assert.ok(Number((await figure(page, 'speed')).replaceAll(',', '')) > 20);
      assert.match(await figure(page, 'first'), /^[\d.,]+ (ms|s)$/);
      assert.match(await figure(page, 'module'), /^(simd128|relaxed)(-threads)?$/);
      assert.match(await figure(page, 'threads'), /^\d+( of \d+)?$/);
      assert.match(await figure(page, 'memory'), /^[\d.]+ MB$/);
      assert.equal(await figure(page, 'parameters'), '557,088');
    }));

  test('the same seed tells the same story, another seed another', () =>
    onDemo({}, async (page) => {
      const told = [];
      for (const seed of [1, 1, 2]) {
        await settle(page, { temperature: 1, seed });
        told.push(await tell(page, 'Once upon a time'));
        assert.match(await page.locator('#tale-status').textContent(), new RegExp(`Seed ${seed} tells it again`));
      }
      assert.equal(told[0], told[1]);
      assert.notEqual(told[0], told[2]);
    }));

  test('stops at the length asked for, and says so', () =>
    onDemo({}, async (page) => {
      await settle(page, { length: 12 });
      await tell(page, 'Once upon a time');
      assert.equal(await figure(page, 'tokens'), '12');
      assert.equal(await page.locator('#tale-status').textContent(), 'Cut at 12 tokens.');
    }));

  test('refuses a length that is none', () =>
    onDemo({}, async (page) => {
      await page.locator('#length').fill('0');
      await page.locator('#tell').click();
      assert.equal(await page.evaluate(() => document.activeElement.id), 'length');
      assert.ok(await page.locator('#tell').isVisible());
    }));

  for (const how of ['the button', 'Escape']) {
    test(`a story that is stopped by ${how} really stops, and another can be told`, () =>
      onDemo({}, async (page) => {
        await settle(page, { pace: true });
        await page.locator('#tell').click();
        await untilTokens(page, 5);
        if (how === 'Escape') await page.keyboard.press('Escape');
        else await page.locator('#stop').click();
        await page.locator('#tell').waitFor();
        const [text, tokens] = [await page.locator('#tale').textContent(), Number(await figure(page, 'tokens'))];
        assert.ok(tokens >= 5 && tokens < 150, `${tokens} tokens`);
        assert.equal(await page.locator('#tale-status').textContent(), 'Stopped.');
        await page.waitForTimeout(500);
        assert.equal(await page.locator('#tale').textContent(), text);
        assert.equal(Number(await figure(page, 'tokens')), tokens);
        await settle(page);
        assert.equal(await tell(page, storyCases[1].prompt), storyCases[1].prompt + storyCases[1].greedy_text);
      }));
  }

  test('a story that is stopped before its first word is not said to be told again', () =>
    onDemo({}, async (page) => {
      await settle(page, { temperature: 1 });
      await page.evaluate(() => {
        document.querySelector('#tell').click();
        document.querySelector('#stop').click();
      });
      await page.locator('#tale-status').filter({ hasText: 'Stopped before the text began.' }).waitFor();
      assert.equal(await page.locator('#tale-text').textContent(), '');
    }));

  // ---- Files ----

  test('a Loom bundle that is dropped runs and gives Loom\'s numbers', () =>
    onDemo({}, async (page) => {
      await dropFiles(page, [{ name: 'dense_relu.bundle.json', content: golden('loom/dense_relu.bundle.json') }]);
      await page.locator('#network').waitFor();
      assert.equal(await page.locator('#network-title').textContent(), 'dense_relu');
      assert.match(await page.locator('#input-size').textContent(), /7 numbers/);
      assert.ok(await page.locator('#layers tr').count() > 0);
      const { input, output, more } = JSON.parse(golden('loom/dense_relu.io.json'));
      for (const pair of [{ input, output }, ...more]) {
        await page.locator('#input').fill(JSON.stringify(pair.input));
        const got = await runNetwork(page);
        assert.equal(got.length, pair.output.length);
        got.forEach((value, i) => assert.ok(Math.abs(value - pair.output[i]) <= 1e-5 + 1e-5 * Math.abs(pair.output[i]), `output ${i}: ${value}, Loom has ${pair.output[i]}`));
      }
      await page.locator('#random').click();
      assert.equal((await page.locator('#input').inputValue()).split(',').length, 7);
      await page.locator('#input').fill('1, 2, three');
      await page.locator('#run-form button[type=submit]').click();
      assert.match(await page.locator('#run-status').textContent(), /“three” is no number/);
      assert.equal(await page.locator('#input').getAttribute('aria-invalid'), 'true');
      await page.locator('#input').fill('1 2 3'); // Loom fills up what is missing
      await page.locator('#run-form button[type=submit]').click();
      await page.locator('#run-status').filter({ hasText: '3 of 7 numbers given' }).waitFor();
      await page.locator('#builtin').click();
      await page.locator('#story').waitFor();
    }));

  test('of a bundle with several models one can be chosen', () =>
    onDemo({}, async (page) => {
      await dropFiles(page, [{ name: 'three.json', content: golden('loom/bundle_three_models.bundle.json') }]);
      await page.locator('#network-id').waitFor();
      assert.deepEqual(await page.locator('#network-id option').allTextContents(), ['encoder', 'decoder', 'vision']);
      await page.locator('#network-id').selectOption('decoder');
      await page.waitForFunction(() => document.querySelector('#network-title').textContent === 'decoder');
      const { input, output } = JSON.parse(golden('loom/bundle_three_models.io.json')).models[1];
      await page.locator('#input').fill(input.join(' '));
      const got = await runNetwork(page);
      assert.equal(got.length, output.length);
      got.forEach((value, i) => assert.ok(Math.abs(value - output[i]) <= 1e-5 + 1e-5 * Math.abs(output[i])));
    }));

  test('a broken bundle gives its message and code, and the story teller stays', () =>
    onDemo({}, async (page) => {
      for (const name of ['cut-in-data', 'too-few-layers', 'no-models']) {
        const { code, message } = JSON.parse(golden('broken-bundles/cases.json')).find((entry) => entry.name === name);
        await dropFiles(page, [{ name: `${name}.json`, content: golden(`broken-bundles/${name}.bundle.json`) }]);
        await errors(page).filter({ hasText: message }).waitFor();
        assert.equal(await errors(page).count(), 1);
        assert.equal(await errors(page).locator('code').textContent(), code);
        assert.equal(await errors(page).getAttribute('role'), 'alert');
        await page.locator('#story').waitFor();
      }
      await errors(page).getByRole('button').click();
      assert.equal(await errors(page).count(), 0);
      await settle(page, { length: 3 });
      await tell(page, 'Once');
      assert.equal(await figure(page, 'tokens'), '3');
    }));

  test('an error begins with words, and goes when something new begins', () =>
    onDemo({}, async (page) => {
      const broken = { name: 'broken.json', content: golden('broken-bundles/too-few-layers.bundle.json') };
      await dropFiles(page, [broken]);
      await errors(page).waitFor();
      assert.match(await errors(page).locator('p').textContent(), /^This file cannot be used: .* bad_file$/);
      await settle(page, { length: 3 });
      await tell(page, 'Once');
      assert.equal(await errors(page).count(), 0, 'a story');
      await dropFiles(page, [{ name: 'dense_relu.bundle.json', content: golden('loom/dense_relu.bundle.json') }]);
      await page.locator('#network').waitFor();
      await dropFiles(page, [broken]);
      await errors(page).waitFor();
      await page.locator('#network').waitFor();
      await page.locator('#run-form button[type=submit]').click();
      await page.locator('#output-box').waitFor();
      assert.equal(await errors(page).count(), 0, 'a run');
    }));

  test('a file that is nothing of the kind is refused with its error', () =>
    onDemo({}, async (page) => {
      await dropFiles(page, [{ name: 'photo.png', content: Buffer.from('\x89PNG\r\n\x1a\n this is no weight file', 'latin1') }]);
      await errors(page).waitFor();
      assert.equal(await errors(page).locator('code').textContent(), 'bad_file');
      await page.keyboard.press('Escape');
      assert.equal(await errors(page).count(), 0);
    }));

  for (const dtype of ['keep', 'q8_0']) {
    test(`a Hugging Face model's files, dropped together, become the story teller (${dtype})`, () =>
      onDemo({}, async (page) => {
        if (dtype === 'q8_0') {
          await page.getByLabel('in 8 bits').check();
          await page.locator('#story').waitFor();
        }
        await dropFiles(page, modelFiles.map(storyFile));
        await page.waitForFunction(() => document.querySelector('#figure-model').textContent === 'llama');
        await page.locator('#story').waitFor();
        assert.equal(await figure(page, 'parameters'), '557,088');
        await settle(page);
        const { prompt, greedy_text: text } = storyCases[0];
        const told = await tell(page, prompt);
        if (dtype === 'keep') assert.equal(told, prompt + text);
        else assert.ok(told.startsWith(`${prompt} there was a`), told); // 8 bits may leave the greedy path later on
        assert.ok(await page.locator('#builtin').isVisible());
      }));
  }

  test('what lies beside a model on Hugging Face is passed over, and what may be its is not', () =>
    onDemo({}, async (page) => {
      const beside = ['README.md', '.gitattributes', 'LICENSE', 'modeling.py', 'picture.png', 'training_args.bin'].map((name) => ({ name, content: 'nothing of the kind' }));
      const spare = ['merges.txt', 'vocab.json', 'added_tokens.json'].map((name) => ({ name, content: '{}' }));
      await dropFiles(page, beside);
      await errors(page).filter({ hasText: 'None of these files is a model’s: README.md, .gitattributes, LICENSE, modeling.py, picture.png, …' }).waitFor();
      await dropFiles(page, [...beside, ...spare, ...modelFiles.map(storyFile)]);
      await page.waitForFunction(() => document.querySelector('#figure-model').textContent === 'llama');
      await page.locator('#story').waitFor();
      await settle(page);
      assert.equal(await tell(page, storyCases[1].prompt), storyCases[1].prompt + storyCases[1].greedy_text);
    }));

  for (const how of ['dropped', 'chosen']) {
    test(`a folder that is ${how} is the model in it, by its name`, () =>
      onDemo({}, async (page) => {
        const folder = join(mkdtempSync(join(tmpdir(), 'heddle-folder-')), 'my-teller');
        mkdirSync(join(folder, '.git'), { recursive: true });
        mkdirSync(join(folder, '1_Pooling'));
        for (const name of modelFiles) writeFileSync(join(folder, name), storyFile(name).content);
        for (const name of ['README.md', '.gitattributes', '.git/pack.safetensors', '1_Pooling/config.json', '1_Pooling/model.safetensors']) writeFileSync(join(folder, name), 'nothing of the kind');
        try {
          if (how === 'dropped') await dropFolder(page, folder);
          else await page.locator('#folder').setInputFiles(folder);
          await page.waitForFunction(() => document.querySelector('#figure-model').textContent === 'my-teller');
          await page.locator('#story').waitFor();
          await settle(page);
          assert.equal(await tell(page, storyCases[1].prompt), storyCases[1].prompt + storyCases[1].greedy_text);
        } finally {
          rmSync(join(folder, '..'), { recursive: true });
        }
      }));
  }

  test('weights alone show what is in them, and become a model when the rest follows', () =>
    onDemo({}, async (page) => {
      await dropFiles(page, [storyFile('model.safetensors')]);
      await page.locator('#tensors').waitFor();
      assert.match(await page.locator('#tensors-needs').textContent(), /config\.json and tokenizer\.json/);
      const names = await page.locator('#tensor-rows td:first-child').allTextContents();
      assert.ok(names.includes('model.embed_tokens.weight') && names.length > 40, names.join());
      assert.deepEqual(await Promise.all(['model', 'parameters', 'memory', 'threads'].map((name) => figure(page, name))), ['model.safetensors', '557,088', '–', '–']);
      await dropFiles(page, [storyFile('config.json')]);
      await page.locator('#tensors-needs').filter({ hasText: 'drop tokenizer.json as well' }).waitFor();
      await page.locator('#files').setInputFiles(['tokenizer.json', 'tokenizer_config.json'].map((name) => join(projectDir, 'demo/models/story', name)));
      await page.locator('#story').waitFor();
      await settle(page);
      assert.equal(await tell(page, storyCases[2].prompt), storyCases[2].prompt + storyCases[2].greedy_text);
    }));

  test('choosing 8 bits loads the story teller anew, smaller', () =>
    onDemo({}, async (page) => {
      await page.getByLabel('in 8 bits').check();
      await page.locator('#loading').waitFor({ state: 'hidden' });
      await page.locator('#story').waitFor();
      await settle(page, { length: 20 });
      assert.match(await tell(page, 'Once upon a time'), /^Once upon a time there was a/);
      assert.equal(await figure(page, 'tokens'), '20');
    }));

  test('a load that is cancelled leaves the page usable', () =>
    withPage(browser, server.address, { prepare: (page) => page.route('**/model.safetensors', () => undefined) }, async (page) => {
      await page.locator('#cancel').click();
      await page.locator('#loading-title').filter({ hasText: 'Nothing is loaded' }).waitFor();
      await dropFiles(page, [{ name: 'dense_tanh.bundle.json', content: golden('loom/dense_tanh.bundle.json') }]);
      await page.locator('#network').waitFor();
    }));

  test('a story model that is missing is said, not swallowed', () =>
    withPage(browser, server.address, { prepare: (page) => page.route('**/config.json', (route) => route.fulfill({ status: 404 })), expected: [/404/] }, async (page) => {
      await errors(page).filter({ hasText: /^This file cannot be used: .*config\.json: the server answered 404.* bad_file/ }).waitFor();
    }));

  // ---- Hosts ----

  test('without isolation there is one thread, and that is said once', async () => {
    const plain = await startServer({ isolation: false });
    try {
      await onDemo({ address: plain.address }, async (page) => {
        const notices = page.locator('.message-note');
        assert.equal(await notices.count(), 1);
        assert.match(await notices.textContent(), /One thread: .*cross-origin isolated/);
        assert.equal(await figure(page, 'threads'), '1');
        assert.match(await figure(page, 'module'), /^(simd128|relaxed)$/);
        await settle(page);
        assert.equal(await tell(page, storyCases[0].prompt), storyCases[0].prompt + storyCases[0].greedy_text);
        await dropFiles(page, [{ name: 'b.json', content: golden('loom/dense_relu.bundle.json') }]);
        await page.locator('#network').waitFor();
        await page.locator('#builtin').click();
        await page.locator('#story').waitFor();
        assert.equal(await notices.count(), 1);
      });
    } finally {
      await plain.close();
    }
  });

  test('where no worker can be made the page itself tells the story', () =>
    onDemo({ prepare: (page) => page.addInitScript(() => { globalThis.Worker = class { constructor() { throw new Error('not here'); } }; }) }, async (page) => {
      assert.equal(await page.locator('.message-note').filter({ hasText: 'not here' }).count(), 1);
      await settle(page);
      assert.equal(await tell(page, storyCases[0].prompt), storyCases[0].prompt + storyCases[0].greedy_text);
    }));

  // ---- For everybody ----

  test('everything can be done by keyboard alone', () =>
    onDemo({}, async (page) => {
      const focused = () => page.evaluate(() => document.activeElement.id || document.activeElement.name || document.activeElement.textContent.trim());
      for (const expected of ['prompt', 'temperature', 'length', 'seed', 'tell', 'pace', 'tale', 'dtype', 'choose', 'choose-folder', 'address', 'fetch']) {
        await page.keyboard.press('Tab');
        assert.equal(await focused(), expected);
        assert.notEqual(await page.evaluate(() => getComputedStyle(document.activeElement).outlineStyle), 'none', `${expected} shows that it has the focus`);
      }
      await page.locator('#prompt').focus();
      await page.keyboard.press('ControlOrMeta+A');
      await page.keyboard.type('One rainy day,');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Home'); // temperature 0
      await page.locator('#prompt').focus();
      await page.keyboard.press('Control+Enter');
      await untilTokens(page, 5);
      await page.keyboard.press('Escape');
      await page.locator('#tell').waitFor();
      assert.equal(await focused(), 'prompt');
      // Tell by its button: the focus goes to Stop and comes back.
      await page.locator('#tell').focus();
      await page.keyboard.press('Enter');
      await untilTokens(page, 3);
      assert.equal(await focused(), 'stop');
      await page.keyboard.press('Enter');
      await page.locator('#tell').waitFor();
      assert.equal(await focused(), 'tell');
      await page.keyboard.press('Tab');
      await page.keyboard.press('Space'); // no pacing
      await page.locator('#tell').focus();
      await page.keyboard.press('Enter');
      await page.locator('#tale-status').filter({ hasText: 'The end' }).waitFor();
      assert.equal(await page.locator('#tale').textContent(), storyCases[2].prompt + storyCases[2].greedy_text);
      // The file button opens the browser's own dialogue.
      const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.locator('#choose').focus().then(() => page.keyboard.press('Enter'))]);
      await chooser.setFiles(join(projectDir, 'tests/golden/loom/dense_relu.bundle.json'));
      await page.locator('#network').waitFor();
      await page.locator('#input').focus();
      await page.keyboard.press('Control+Enter');
      await page.locator('#output-box').waitFor();
      assert.equal(await page.locator('#output tr').count(), 5);
    }));

  test('fits a phone of 360 pixels, whatever is on stage', () =>
    onDemo({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 }, async (page) => {
      assert.equal(await overflow(page), 0, 'story');
      await settle(page);
      await tell(page, 'Once upon a time');
      assert.equal(await overflow(page), 0, 'story told');
      await screenshot(page, 'phone-story');
      await dropFiles(page, [{ name: `${'a-long-name-'.repeat(10)}.json`, content: golden('broken-bundles/too-few-layers.bundle.json') }]);
      await errors(page).waitFor();
      assert.equal(await overflow(page), 0, 'message');
      await dropFiles(page, [storyFile('model.safetensors')]);
      await page.locator('#tensors').waitFor();
      assert.equal(await overflow(page), 0, 'tensors');
      await screenshot(page, 'phone-tensors');
      await dropFiles(page, [{ name: 'mlp_batch4.bundle.json', content: golden('loom/mlp_batch4.bundle.json') }]);
      await page.locator('#network').waitFor();
      await page.locator('#run-form button[type=submit]').click();
      await page.locator('#output-box').waitFor();
      assert.equal(await overflow(page), 0, 'network');
      await screenshot(page, 'phone-network');
    }));

  test('who asks for less motion gets none', () =>
    onDemo({ reducedMotion: 'reduce' }, async (page) => {
      assert.equal(await page.locator('#pace').isChecked(), false);
      await page.locator('#pace').check();
      await page.locator('#tell').click();
      await untilTokens(page, 2);
      const moving = await page.evaluate(() => document.getAnimations().length);
      assert.equal(moving, 0);
      await page.keyboard.press('Escape');
    }));

  for (const colorScheme of ['light', 'dark']) {
    test(`names, roles, headings and contrast are in order (${colorScheme})`, () =>
      onDemo({ colorScheme, viewport: { width: 1280, height: 900 } }, async (page) => {
        await settle(page, { pace: true });
        await page.locator('#tell').click();
        await untilTokens(page, 60);
        await screenshot(page, `desktop-telling-${colorScheme}`);
        await page.locator('#stop').click();
        assert.deepEqual(await page.evaluate(findFaults), [], 'story');
        await settle(page);
        await tell(page, 'Once upon a time');
        await screenshot(page, `desktop-story-${colorScheme}`);
        await dropFiles(page, [storyFile('model.safetensors')]);
        await page.locator('#tensors').waitFor();
        assert.deepEqual(await page.evaluate(findFaults), [], 'tensors');
        await screenshot(page, `desktop-tensors-${colorScheme}`);
        await dropFiles(page, [{ name: 'three.json', content: golden('loom/bundle_three_models.bundle.json') }]);
        await page.locator('#network').waitFor();
        await page.locator('#input').fill(JSON.parse(golden('loom/bundle_three_models.io.json')).models[0].input.join(', '));
        await page.locator('#run-form button[type=submit]').click();
        await page.locator('#output-box').waitFor();
        await dropFiles(page, [{ name: 'broken.json', content: golden('broken-bundles/too-few-layers.bundle.json') }]);
        await errors(page).waitFor();
        await page.locator('#network').waitFor();
        assert.deepEqual(await page.evaluate(findFaults), [], 'network and message');
        await screenshot(page, `desktop-network-${colorScheme}`);
      }));
  }

  test('asks the browser for WebAssembly, models from servers with HTTPS, and nothing else', () =>
    onDemo({}, async (page) => {
      const policy = await page.locator('meta[http-equiv="Content-Security-Policy"]').getAttribute('content');
      assert.match(policy, /script-src 'self' 'wasm-unsafe-eval';/);
      assert.match(policy, /connect-src 'self' https:;/);
      assert.doesNotMatch(policy.replace("connect-src 'self' https:;", ''), /unsafe-inline|'unsafe-eval'|\*|https?:/);
      assert.equal(await page.locator('script:not([src]), [style], style').evaluateAll((all) => all.filter((one) => !one.closest('.cloth')).length), 0);
    }));
});
