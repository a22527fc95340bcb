/** The cache in Node: a second load asks the server for nothing; what is broken, changed, cut off or aborted is never used. */
import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, beforeEach, test } from 'node:test';
import { crc32 as zlibCrc32, gzipSync } from 'node:zlib';
import { entry, golden, heddle, heddleError, modules, optionsFor, projectFolder, readJson } from './heddle.mjs';
import { serverFor } from './range-server.mjs';

const notices = [];
const runtime = await heddle.init({ ...optionsFor(modules[0]), log: (text) => notices.push(text) });
after(() => runtime.free());
const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[1];
const present = ['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'];
const files = {};
const server = await serverFor(files);
const address = `${server.address}/story/`;
const temporary = mkdtempSync(join(tmpdir(), 'heddle-cache-'));
after(() => rmSync(temporary, { recursive: true, force: true }));
let folder;
let nth = 0;

beforeEach(() => {
  folder = join(temporary, `cache-${nth++}`);
  for (const name of present) files[`story/${name}`] = { bytes: readFileSync(join(storyFolder, name)), etag: `"${name}"` };
  server.reset();
  notices.length = 0;
});

const weightBytes = () => files['story/model.safetensors'].bytes;

async function tells(options = {}, source = address) {
  const model = await runtime.loadModel(source, { cache: { folder, ...options } });
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await model.free();
}

test('a second load asks the server for nothing, not even for what was not there', async () => {
  await tells();
  assert.ok(server.requests.length > present.length);
  server.reset();
  await tells();
  assert.deepEqual(server.requests, []);
  const { init } = await entry('./worker');
  const remote = await init(optionsFor(modules[0]));
  const model = await remote.loadModel(address, { cache: { folder } });
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await remote.free();
  assert.deepEqual(server.requests, [], 'in a worker neither');
});

test('entries carry size, time, ETag and checksum; they are listed, evicted one by one or by folder, and cleared', async () => {
  const before = Date.now();
  await tells();
  const cache = await heddle.openCache({ folder });
  assert.equal(cache.where, folder);
  const list = await cache.list();
  assert.deepEqual(new Set(list.map(({ url }) => url)), new Set(present.map((name) => address + name)));
  for (const { url, bytes, time, etag, crc32 } of list) {
    const name = url.slice(address.length);
    const content = files[`story/${name}`].bytes;
    assert.deepEqual({ bytes, etag }, { bytes: content.length, etag: `"${name}"` });
    assert.ok(time >= before && time <= Date.now());
    if (zlibCrc32) assert.equal(crc32, zlibCrc32(content).toString(16).padStart(8, '0'));
  }
  assert.equal(await cache.evict(`${address}model.safetensors`), 1);
  assert.equal(await cache.evict(`${address}model.safetensors`), 0);
  server.reset();
  await tells();
  assert.deepEqual(new Set(server.requests.map(({ path }) => path)), new Set(['story/model.safetensors']));
  assert.equal(await cache.evict(address), present.length);
  assert.deepEqual(await cache.list(), []);
  assert.deepEqual(readdirSync(folder), [], 'absences of the folder go as well');
  await tells();
  await cache.clear();
  assert.deepEqual(readdirSync(folder), []);
});

test('without the option nothing is kept', async () => {
  const model = await runtime.loadModel(address);
  await model.free();
  assert.ok(!existsSync(folder));
});

test('a file that was cut, or whose record is broken, is fetched again', async () => {
  await tells();
  const data = () => readdirSync(folder).map((name) => join(folder, name)).filter((name) => !name.endsWith('.json'))
    .find((name) => statSync(name).size > 100_000 && Math.abs(statSync(name).size - weightBytes().length) < 2000);
  truncateSync(data(), weightBytes().length - 1000);
  server.reset();
  await tells();
  assert.deepEqual(new Set(server.requests.map(({ path }) => path)), new Set(['story/model.safetensors']));
  rmSync(data());
  server.reset();
  await tells();
  assert.deepEqual(new Set(server.requests.map(({ path }) => path)), new Set(['story/model.safetensors']));
  for (const text of ['', '{', '[]', '{"url":7}', JSON.stringify({ url: address, bytes: 1, time: 1, crc32: 'x', data: '../../etc/passwd' })]) {
    for (const name of readdirSync(folder)) if (name.endsWith('.json')) writeFileSync(join(folder, name), text);
    server.reset();
    await tells();
    assert.ok(server.requests.length > present.length, text);
  }
});

test('verify finds bytes that are no longer what was written', async () => {
  await tells();
  const cache = await heddle.openCache({ folder });
  assert.deepEqual(await cache.verify(), []);
  const damage = () => {
    for (const name of readdirSync(folder)) {
      const path = join(folder, name);
      if (statSync(path).size !== weightBytes().length) continue;
      const bytes = readFileSync(path);
      bytes[bytes.length - 5] ^= 1;
      writeFileSync(path, bytes);
    }
  };
  damage();
  server.reset();
  await tells({ verify: true });
  assert.deepEqual(new Set(server.requests.map(({ path }) => path)), new Set(['story/model.safetensors']), 'the option fetches it again');
  damage();
  assert.deepEqual(await cache.verify(), [`${address}model.safetensors`]);
  assert.equal((await cache.list()).length, present.length - 1);
});

test('revalidate asks for ETags only, takes the new file when it is one, and the kept one without a network', async () => {
  await tells();
  server.reset();
  await tells({ revalidate: true });
  assert.ok(server.requests.length >= present.length);
  assert.ok(server.sent < weightBytes().length / 2 + 200_000, `${server.sent} bytes`);
  files['story/model.safetensors'].etag = '"new"';
  await tells({ revalidate: true });
  const cache = await heddle.openCache({ folder });
  assert.equal((await cache.list()).find(({ url }) => url.endsWith('.safetensors')).etag, '"new"');
  assert.equal(readdirSync(folder).filter((name) => !name.endsWith('.json')).length, present.length, 'the old bytes are gone');
  const offline = { fetch: async () => { throw new TypeError('no network'); } };
  const model = await runtime.loadModel(address, { cache: { folder, revalidate: true }, ...offline });
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await model.free();
  await assert.rejects(runtime.loadModel(`${address}elsewhere/`, { cache: { folder }, ...offline }), heddleError('bad_file', /cannot fetch/));
});

test('an abort or a connection that breaks leaves nothing of its file', async () => {
  const controller = new AbortController();
  const reason = new Error('enough');
  const load = runtime.loadModel(address, { cache: { folder }, signal: controller.signal, progress: ({ tensors }) => tensors === 5 && controller.abort(reason) });
  await assert.rejects(load, (error) => error === reason);
  const cache = await heddle.openCache({ folder });
  assert.ok((await cache.list()).every(({ url }) => !url.endsWith('.safetensors')));
  assert.ok(readdirSync(folder).every((name) => !name.endsWith('.part')), readdirSync(folder).join(' '));
  server.reset({ refuse: (number, path) => (path.endsWith('.safetensors') && number > 0 ? 404 : undefined) });
  await assert.rejects(runtime.loadModel(address, { cache: { folder } }), heddleError('bad_file'));
  assert.ok((await cache.list()).every(({ url }) => !url.endsWith('.safetensors')));
  assert.ok(readdirSync(folder).every((name) => !name.endsWith('.part')));
  server.reset();
  await tells();
});

test('what a process that died left is swept out a day later, and is never taken for a file', async () => {
  await tells();
  const key = readdirSync(folder)[0].slice(0, 32);
  const stray = (time) => `${key}.${time.toString(36)}.11111111-2222-3333-4444-555555555555-aaaa.part`;
  const [old, fresh] = [stray(Date.now() - 25 * 3600e3), stray(Date.now())];
  for (const name of [old, fresh]) writeFileSync(join(folder, name), 'torn');
  utimesSync(join(folder, old), 0, 0);
  const cache = await heddle.openCache({ folder });
  await cache.evict(`${address}config.json`);
  await tells();
  assert.ok(!existsSync(join(folder, old)));
  assert.ok(existsSync(join(folder, fresh)));
  assert.equal((await cache.list()).length, present.length);
});

test('where nothing can be written the model loads all the same, and it is said once a load', async () => {
  const file = join(temporary, 'not-a-folder');
  writeFileSync(file, 'x');
  const model = await runtime.loadModel(address, { cache: { folder: join(file, 'below') } });
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await model.free();
  assert.equal(notices.length, 1, notices.join('\n'));
  assert.match(notices[0], /^cache: .*(ENOTDIR|EEXIST).*\/story\/[\w.]+ is loaded all the same$/);
});

test('two loads of one file at once both work and leave one entry', async () => {
  await Promise.all([tells(), tells()]);
  const cache = await heddle.openCache({ folder });
  assert.equal((await cache.list()).length, present.length);
  const data = readdirSync(folder).filter((name) => !name.endsWith('.json'));
  assert.equal(data.length, present.length, `each file is there once: ${data.join(' ')}`);
  server.reset();
  await tells();
  assert.deepEqual(server.requests, []);
  assert.deepEqual(await cache.verify(), []);
});

test('a load that ends early lets the one beside it keep nothing, and the next one everything', async () => {
  const controller = new AbortController();
  const early = runtime.loadModel(address, { cache: { folder }, signal: controller.signal, progress: ({ tensors }) => tensors === 5 && controller.abort(new Error('enough')) });
  await Promise.all([assert.rejects(early, /enough/), tells()]);
  await tells();
  server.reset();
  await tells();
  assert.deepEqual(server.requests, []);
  assert.ok(readdirSync(folder).every((name) => !name.endsWith('.part')));
});

test('F57 compressed files are kept as they came, servers without ranges and shards included', async () => {
  for (const name of present) files[`story/${name}`] = { bytes: gzipSync(readFileSync(join(storyFolder, name))) };
  await tells();
  server.reset();
  await tells();
  assert.deepEqual(server.requests, []);
  const cache = await heddle.openCache({ folder });
  assert.equal((await cache.list()).find(({ url }) => url.endsWith('.safetensors')).bytes, weightBytes().length);
  await cache.clear();

  for (const name of present) files[`story/${name}`] = { bytes: readFileSync(join(storyFolder, name)) };
  server.reset({ noRanges: true });
  await tells();
  server.reset();
  await tells();
  assert.deepEqual(server.requests, []);

  const sharded = golden('transformers/llama-gqa-tied-sharded');
  for (const name of readdirSync(sharded)) files[`shards/${name}`] = { bytes: readFileSync(join(sharded, name)) };
  for (let i = 0; i < 2; i++) {
    const model = await runtime.loadModel(`${server.address}/shards/`, { cache: { folder } });
    await model.free();
    if (i === 0) server.reset();
  }
  assert.deepEqual(server.requests, []);
});

test('openWeights and inspect read what is kept and keep nothing', async () => {
  const weights = await runtime.openWeights(`${address}model.safetensors`, { cache: { folder } });
  await weights.tensor(weights.tensorNames[3]);
  await weights.close();
  const cache = await heddle.openCache({ folder });
  assert.deepEqual(await cache.list(), []);
  await tells();
  server.reset();
  assert.ok((await runtime.inspect(address, { cache: { folder } })).tensors.length > 40);
  assert.deepEqual(server.requests, []);
});

test('cache options are checked', async () => {
  await assert.rejects(runtime.loadModel(address, { cache: 'here' }), heddleError('bad_argument', /cache: expected true, false or an object, found 'here'/));
  await assert.rejects(runtime.loadModel(address, { cache: { dir: 'x' } }), heddleError('bad_argument', /dir: no such option; known: folder, revalidate, verify/));
});

