/** The packed package in a plain page: files as npm left them, no bundler and no import map. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { launch, skip, startServer, withPage } from '../browser/browser.mjs';
import { addModels, assertReport, makeApp, needsPackage } from './app.mjs';

describe('in a plain page', skip ? { skip } : needsPackage, () => {
  let browser;
  let server;
  before(async () => {
    const app = makeApp('page');
    addModels(join(app, 'models'));
    browser = await launch();
    server = await startServer({ folders: { '/': [app] } });
  });
  after(async () => {
    await browser?.close();
    await server?.close();
  });

  /** Runs the application with that file of the package; resolves to the package's files that were asked for. */
  async function run(entry) {
    const asked = [];
    const prepare = (page) => page.on('request', (request) => asked.push(/\/heddle\/dist\/(.*)$/.exec(request.url())?.[1]));
    await withPage(browser, `${server.address}?entry=${entry}`, { prepare }, async (page) => {
      await page.waitForFunction(() => document.querySelector('#report').textContent !== '');
      assertReport(JSON.parse(await page.locator('#report').textContent()));
    });
    return asked.filter((name) => name !== undefined);
  }

  for (const entry of ['index', 'inline', 'worker']) test(`heddle/${entry} runs without a bundler`, () => run(entry));

  test('heddle/bundle runs without a bundler, and is one file beside the module', async () => {
    const asked = await run('heddle.min');
    assert.equal(asked.length, 2, asked.join());
    assert.equal(asked[0], 'heddle.min.js');
    assert.match(asked[1], /^wasm\/heddle-(simd128|relaxed)\.wasm$/);
  });
});
