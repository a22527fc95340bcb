/**
 * browser.mjs: a real Chromium for the tests. Every page that a test opens must end without an error of the page, an error in the
 * console (a refused script or style among them) or a request to another place than this machine's server.
 */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { serve } from '../../tools/serve.mjs';
import { projectDir } from '../../tools/step.mjs';

export { openSite } from '../bench/site.mjs';

/** The browser's program; undefined where there is none. */
export const program = process.env.CHROMIUM || ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((path) => existsSync(path));

/** Why browser tests are skipped; false where there is a browser. */
export const skip = program ? false : 'no Chromium on this machine (set CHROMIUM to its program)';

/** The package as the tests have it: packed and installed (tools/test.mjs), else as it was built. */
export const packageDir = process.env.HEDDLE_PACKAGE || projectDir;

/** Files that are not the project's; a stranger's clone lacks them. */
export const sharedDir = join(projectDir, '../shared');

/** Starts the browser with a fresh profile. Close it, or Node does not end. */
export function launch() {
  return chromium.launch({
    executablePath: program,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'],
  });
}

/** A server on a free port; see tools/serve.mjs. */
export function startServer(options = {}) {
  return serve({ ...options, port: 0 });
}

/**
 * Opens `address` in a context of its own, does `work(page)` and checks that nothing went wrong beside it. `options` are those of
 * a context; `prepare(page)` runs before anything is loaded; `expected` are console errors that belong to the test.
 */
export async function withPage(browser, address, { prepare, expected = [], ...options }, work) {
  const context = await browser.newContext(options);
  const problems = [];
  const note = (text) => {
    if (!expected.some((pattern) => pattern.test(text))) problems.push(text);
  };
  try {
    const page = await context.newPage();
    page.setDefaultTimeout(20_000);
    page.on('pageerror', (error) => note(`page error: ${error.stack ?? error}`));
    page.on('console', (message) => message.type() === 'error' && note(`console: ${message.text()} (${message.location().url})`));
    page.on('crash', () => note('the page crashed'));
    page.on('request', (request) => {
      const url = request.url();
      if (new URL(url).origin !== new URL(address).origin && !/^(blob|data):/.test(url)) note(`a request to another place: ${url}`);
    });
    await prepare?.(page);
    await page.goto(address);
    let failure;
    const result = await work(page).catch((error) => {
      failure = error;
    });
    if (failure) throw problems.length > 0 ? new Error(`${failure.message}\nin the page: ${problems.join('\n')}`, { cause: failure }) : failure;
    assert.deepEqual(problems, [], 'what went wrong in the page');
    return result;
  } finally {
    await context.close();
  }
}

/** Keeps what the page looks like in build/screenshots/. */
export async function screenshot(page, name) {
  const folder = join(projectDir, 'build/screenshots');
  mkdirSync(folder, { recursive: true });
  await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true });
}

/** Drops files on the page, as from a file manager: `files` are { name, content: Buffer | string }. */
export async function dropFiles(page, files) {
  const plain = files.map(({ name, content }) => ({ name, base64: Buffer.from(content).toString('base64') }));
  await page.evaluate((given) => {
    const transfer = new DataTransfer();
    for (const { name, base64 } of given) transfer.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
    for (const type of ['dragenter', 'dragover', 'drop']) {
      document.querySelector('main').dispatchEvent(new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer }));
    }
  }, plain);
}

/** Drops a folder of this machine on the page, as a file manager does. */
export async function dropFolder(page, folder) {
  const client = await page.context().newCDPSession(page);
  const data = { items: [], files: [folder], dragOperationsMask: 1 };
  for (const type of ['dragEnter', 'dragOver', 'drop']) await client.send('Input.dispatchDragEvent', { type, x: 200, y: 200, data });
  await client.detach();
}
