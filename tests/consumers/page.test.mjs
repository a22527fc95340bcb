/** The packed package in a plain page: files as npm left them, no bundler and no import map. */
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

  for (const entry of ['index', 'inline', 'worker']) {
    test(`heddle/${entry} runs without a bundler`, () =>
      withPage(browser, `${server.address}?entry=${entry}`, {}, async (page) => {
        await page.waitForFunction(() => document.querySelector('#report').textContent !== '');
        assertReport(JSON.parse(await page.locator('#report').textContent()));
      }));
  }
});
