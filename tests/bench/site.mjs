/**
 * A headless Chromium and a site for it: blank.html, the package's files as they are, and whatever folders are named.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
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
