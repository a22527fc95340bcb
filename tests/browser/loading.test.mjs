/**
 * Loading in a page: by ranges, and from the cache: OPFS and the Cache API, in the page and in a worker; nothing comes from the network the second
 * time, and a full disk is said and survived.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { projectDir } from '../../tools/step.mjs';
import { launch, packageDir, skip, startServer, withPage } from './browser.mjs';

describe('loading in a page', { skip }, () => {
  let browser;
  let site;
  let folder;
  /** Requests for the model's files, as "name range". */
  let asked = [];

  before(async () => {
    folder = mkdtempSync(join(tmpdir(), 'heddle-page-'));
    writeFileSync(join(folder, 'blank.html'), '<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>blank</title>');
    site = await startServer({ folders: { '/heddle/': [join(packageDir, 'dist')], '/model/': [join(projectDir, 'demo/models/story')], '/': [folder] } });
    site.server.on('request', ({ url, headers }) => url.startsWith('/model/') && asked.push(`${url.slice(7)} ${headers.range ?? ''}`.trim()));
    browser = await launch();
  });

  after(async () => {
    await browser?.close();
    await site?.close();
    if (folder) rmSync(folder, { recursive: true, force: true });
  });

  const missing = [/404/];
  const inPage = (work, options = {}) => withPage(browser, `${site.address}blank.html`, { expected: missing, ...options }, work);

  /** In the page: what the model says, loaded with these options, and what the runtime had to say. */
  const tell = async ({ entry, options }) => {
    const { init } = await import(entry);
    const runtime = await init({ log: () => undefined });
    const model = await runtime.loadModel('/model/', options);
    const text = await model.generate('Once upon a time', { maxTokens: 8 }).text();
    const notices = [...runtime.notices];
    await model.free();
    await runtime.free();
    return { text, notices };
  };
  const list = async () => {
    const { openCache } = await import('/heddle/index.js');
    const cache = await openCache();
    return { where: cache.where, entries: await cache.list(), damaged: await cache.verify() };
  };

  test('F37 F39 a page reads a weight file by ranges', async () => {
    asked = [];
    await inPage(async (page) => {
      const { text } = await page.evaluate(tell, { entry: '/heddle/index.js', options: {} });
      assert.ok(text.length > 0);
      const names = await page.evaluate(async () => {
        const { init } = await import('/heddle/index.js');
        const runtime = await init();
        const weights = await runtime.openWeights('/model/model.safetensors');
        const { data } = await weights.tensor('model.norm.weight');
        return { n: weights.tensorNames.length, kind: data.constructor.name };
      });
      assert.equal(names.kind, 'Uint16Array');
    });
    const weights = asked.filter((each) => each.startsWith('model.safetensors'));
    assert.ok(weights.length >= 4 && weights.every((each) => /bytes=/.test(each)), weights.join(', '));
  });

  for (const [kind, hide] of [['private files', undefined], ['Cache API', () => delete FileSystemFileHandle.prototype.createWritable]]) {
    test(`a page keeps a model with its origin (${kind}) and asks for nothing the second time, in a worker neither`, async () => {
      await inPage(async (page) => {
        const first = await page.evaluate(tell, { entry: '/heddle/index.js', options: { cache: true } });
        assert.deepEqual(first.notices.filter((text) => text.startsWith('cache')), []);
        const { where, entries, damaged } = await page.evaluate(list);
        assert.match(where, new RegExp(kind));
        assert.ok(entries.some(({ url, bytes, crc32 }) => url.endsWith('/model/model.safetensors') && bytes > 100_000 && /^[0-9a-f]{8}$/.test(crc32)), JSON.stringify(entries));
        assert.deepEqual(damaged, []);
        asked = [];
        assert.equal((await page.evaluate(tell, { entry: '/heddle/index.js', options: { cache: true } })).text, first.text);
        if (kind === 'private files') assert.equal((await page.evaluate(tell, { entry: '/heddle/worker.js', options: { cache: { verify: true } } })).text, first.text);
        assert.deepEqual(asked, []);
        const left = await page.evaluate(async () => {
          const { openCache } = await import('/heddle/index.js');
          const cache = await openCache();
          const evicted = await cache.evict(`${location.origin}/model/`);
          await cache.clear();
          return { evicted, entries: await cache.list() };
        });
        assert.equal(left.evicted, entries.length);
        assert.deepEqual(left.entries, []);
      }, hide ? { prepare: (page) => page.addInitScript(hide) } : {});
    });
  }

  test('a used-up quota is said, and the model works all the same', async () => {
    await inPage(async (page) => {
      const devtools = await page.context().newCDPSession(page);
      await devtools.send('Storage.overrideQuotaForOrigin', { origin: new URL(site.address).origin, quotaSize: 50_000 });
      const { text, notices } = await page.evaluate(tell, { entry: '/heddle/index.js', options: { cache: true } });
      assert.ok(text.length > 0);
      const said = notices.filter((notice) => notice.startsWith('cache: '));
      assert.equal(said.length, 1, said.join('\n'));
      assert.match(said[0], /(room for|quota is used up).*\/model\/[\w.]+ is loaded all the same$/);
      const { entries } = await page.evaluate(list);
      assert.ok(entries.every(({ url }) => !url.endsWith('model.safetensors')));
    });
  });

  test('a cache\'s folder is refused in words', async () => {
    await inPage(async (page) => {
      const message = await page.evaluate(async () => {
        const { init } = await import('/heddle/index.js');
        return (await init()).loadModel('/model/', { cache: { folder: 'x' } }).catch((error) => `${error.code}: ${error.message}`);
      });
      assert.match(message, /^unsupported: cache\.folder 'x': only Node has folders/);
    });
  });
});
