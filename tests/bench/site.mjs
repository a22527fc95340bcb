/**
 * A headless Chromium and a site for it: blank.html, the package's files as they are, and whatever folders are named.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { serve } from '../../tools/serve.mjs';

const flags = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run'];

/**
 * Opens it all: { browser, address, version, newPage(), processes(), close() }. `folders` as in serve(); the files of `dist` lie at
 * /heddle/. Pages are isolated, so that they may have threads.
 */
export async function openSite({ program, dist, folders = {} }) {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-site-'));
  writeFileSync(join(folder, 'blank.html'), '<!doctype html><meta charset="utf-8"><title>blank</title>');
  writeFileSync(join(folder, 'bare.html'), `<!doctype html><meta charset="utf-8"><title>bare</title>
<script>const line = document.createElement('script'); line.type = 'module'; line.crossOrigin = ''; line.src = 'http://localhost:' + location.search.slice(1) + '/script'; document.head.append(line);</script>`);
  const site = await serve({ folders: { '/heddle/': [dist], '/': [folder], ...folders }, port: 0 });
  const browser = await chromium.launch({ executablePath: program, headless: true, args: flags });
  const system = await browser.newBrowserCDPSession();
  return {
    browser,
    address: site.address,
    version: browser.version(),
    /** A blank page in a context, and so in a process, of its own; closed with its context. */
    async newPage() {
      const context = await browser.newContext();
      const page = await context.newPage();
      await page.goto(`${site.address}blank.html`);
      return page;
    },
    /** The ids of the browser's processes of one type ("renderer", "browser", "utility"; all without). */
    async processes(type) {
      const { processInfo } = await system.send('SystemInfo.getProcessInfo');
      return processInfo.filter((entry) => !type || entry.type === type).map((entry) => entry.id);
    },
    async close() {
      await browser.close();
      await site.close();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}

/**
 * Runs functions one after the other in a page that no developer tools look at: those keep up to 200 MB of the answers that a page gets, in
 * the very process whose memory is to be measured. `steps` are [function, argument] for the page at `address` (a blank one of openSite's);
 * `after(i, renderers)` is told the browser's renderer processes when step i is done. Resolves to what the functions gave.
 */
export async function runBare({ program, address, steps, after }) {
  const profile = mkdtempSync(join(tmpdir(), 'heddle-profile-'));
  const results = [];
  let finish;
  const finished = new Promise((done, fail) => (finish = { done, fail }));
  const line = createServer(async (request, response) => {
    response.setHeader('access-control-allow-origin', '*');
    const chunks = await request.toArray();
    if (request.url === '/script') return response.writeHead(200, { 'content-type': 'text/javascript' }).end(script(steps, line.address().port));
    const { error, value } = JSON.parse(Buffer.concat(chunks).toString());
    if (error) return finish.fail(new Error(error));
    results.push(value);
    await after?.(results.length - 1, renderersOf(profile));
    response.end();
    if (results.length === steps.length) finish.done(results);
  });
  await new Promise((done) => line.listen(0, 'localhost', done));
  const page = `${address}bare.html?${line.address().port}`;
  const browser = spawn(program, ['--headless', `--user-data-dir=${profile}`, '--no-first-run', ...flags, page], { stdio: 'ignore', detached: true });
  browser.once('error', (error) => finish.fail(error));
  browser.once('exit', (code) => finish.fail(new Error(`the browser ended with ${code}`)));
  try {
    return await finished;
  } finally {
    browser.removeAllListeners('exit');
    const gone = new Promise((done) => browser.once('exit', done));
    browser.kill();
    await gone;
    endGroup(browser.pid);
    line.closeAllConnections();
    line.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 30, retryDelay: 200 });
  }
}

/** Ends what a browser left behind: its processes write into its folder for as long as they live. */
function endGroup(pid) {
  try {
    process.kill(-pid, 'SIGKILL');
  } catch {
    // none is left
  }
}

/** The page's program: each step's value is told before the next begins. */
function script(steps, port) {
  const tell = (message) => `await fetch('http://localhost:${port}/step', { method: 'POST', body: JSON.stringify(${message}) });`;
  const each = steps.map(([work, argument]) => `{ const value = (await (${work})(${JSON.stringify(argument ?? null)})) ?? null; ${tell('{ value }')} }`);
  return `try { ${each.join('\n')} } catch (error) { ${tell('{ error: String(error.stack ?? error) }')} }`;
}

/** Renderer processes of the browser with that profile; none outside Linux. */
function renderersOf(profile) {
  const ids = existsSync('/proc/self/cmdline') ? readdirSync('/proc').filter((name) => /^\d+$/.test(name)) : [];
  return ids.map(Number).filter((pid) => {
    try {
      const line = readFileSync(`/proc/${pid}/cmdline`, 'utf8');
      return line.includes('--type=renderer') && line.includes(profile);
    } catch {
      return false; // it has just ended
    }
  });
}

/** Resident bytes of a process: now, and the most since `forgetPeak`. Linux only. */
export function residentBytes(pid) {
  const status = readFileSync(`/proc/${pid}/status`, 'utf8');
  const field = (name) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1] ?? 0);
  return { now: field('VmRSS'), peak: field('VmHWM'), anonymous: field('RssAnon'), shared: field('RssShmem'), file: field('RssFile') };
}

/** Makes the kernel's peak start anew from now. */
export function forgetPeak(pid) {
  writeFileSync(`/proc/${pid}/clear_refs`, '5');
}
