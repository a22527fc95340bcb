/** The packed package under Vite, as it comes: the development server, and a build that is previewed. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { launch, skip, withPage } from '../browser/browser.mjs';
import { addModels, assertReport, makeApp, needsPackage } from './app.mjs';

/** What threads need of any server. */
const headers = { 'Cross-Origin-Opener-Policy': 'same-origin', 'Cross-Origin-Embedder-Policy': 'require-corp' };

describe('under Vite', skip ? { skip } : needsPackage, () => {
  let browser;
  before(async () => {
    browser = await launch();
  });
  after(() => browser?.close());

  for (const how of ['dev', 'build']) {
    describe(how, () => {
      let server;
      before(async () => {
        const { build, createServer, preview } = await import('vite');
        const root = makeApp('vite', { as: `vite-${how}` });
        addModels(join(root, 'public/models'));
        const options = { root, configFile: false, logLevel: 'error', server: { port: 0, headers }, preview: { port: 0, headers } };
        if (how === 'build') {
          await build(options);
          server = await preview(options);
        } else {
          server = await (await createServer(options)).listen();
        }
      });
      after(() => server?.close());

      for (const where of ['page', 'worker']) {
        test(`in ${where === 'page' ? 'the page' : 'a worker, with threads'}`, () =>
          withPage(browser, `${server.resolvedUrls.local[0]}?where=${where}`, {}, async (page) => {
            await page.waitForFunction(() => document.querySelector('#report').textContent !== '');
            const report = JSON.parse(await page.locator('#report').textContent());
            assertReport(report);
            assert.equal(report.threads, where === 'worker' ? 2 : 1);
          }));
      }
    });
  }
});
