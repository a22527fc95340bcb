/**
 * Files by ranges: what goes over the wire is counted, connections break and are taken up again, files change, servers redirect and refuse; and
 * what a redirect is not told.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, heddleError, modules, optionsFor, projectFolder, readJson, runtimeWith } from './heddle.mjs';
import { writeSafetensors } from './golden.mjs';
import { madeCheckpoint, serverFor } from './range-server.mjs';

const runtime = await runtimeWith(modules[0]);
const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[1];
const names = Array.from({ length: 40 }, (_, i) => `layers.${i}.weight`);
const big = { ...madeCheckpoint(names, 512, 512), etag: '"one"' };
const folder = Object.fromEntries(['config.json', 'generation_config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']
  .map((name) => [`story/${name}`, { bytes: readFileSync(join(storyFolder, name)), etag: `"${name}"` }]));
const files = { 'big.safetensors': big, ...folder, 'empty.safetensors': { bytes: Buffer.alloc(0) } };
const server = await serverFor(files);
const other = await serverFor(files);
const address = `${server.address}/big.safetensors`;
const asStored = (i) => new Uint16Array(big.part(big.begin(i), big.begin(i) + big.each).buffer);

/** How far the budget of F39 goes: the header, what was wanted and 5 % of it; and a small file's head is fetched in one piece of 8 KiB. */
const budget = (wanted) => Math.max(big.header.length, 8192) + wanted * 1.05;

test('F39 F36 one tensor of a file of 21 MB takes the header and its bytes over the wire', async () => {
  server.reset();
  const weights = await runtime.openWeights(address);
  assert.ok(server.sent <= budget(0), `opening took ${server.sent} bytes of ${big.size}`);
  assert.deepEqual(weights.tensorNames, names);
  assert.equal(weights.numParameters, 40 * 512 * 512);
  const { data, dtype, shape } = await weights.tensor(names[17]);
  assert.deepEqual({ dtype, shape }, { dtype: 'BF16', shape: [512, 512] });
  assert.deepEqual(data, asStored(17));
  assert.ok(server.sent <= budget(big.each), `${server.sent} bytes sent for ${big.each}`);
  await weights.close();
});

test('F39 every third tensor takes no more than the header, those tensors and 5 %, in one request each; neighbours come in one', async () => {
  const wanted = names.filter((_, i) => i % 3 === 0);
  server.reset();
  const weights = await runtime.openWeights(address);
  let n = 0;
  for await (const { name, data } of weights.all({ names: wanted })) {
    assert.equal(name, wanted[n]);
    assert.deepEqual(data, asStored(3 * n++));
  }
  assert.equal(n, wanted.length);
  assert.ok(server.sent <= budget(wanted.length * big.each), `${server.sent} bytes sent for ${wanted.length * big.each}`);
  assert.equal(server.requests.length, 1 + wanted.length);

  server.reset();
  const again = await runtime.openWeights(address);
  for await (const { name, data } of again.all()) assert.deepEqual(data, asStored(names.indexOf(name)));
  assert.ok(server.sent <= big.size + 8192, `${server.sent} bytes sent of ${big.size}`);
  assert.equal(server.requests.length, 1 + Math.ceil((big.size - 8192) / (2 << 20)), 'pieces of 2 MiB');
  await weights.close();
  await again.close();
});

test('F37 F39 a model from a folder whose server has ranges is itself, and costs its files\' bytes', async () => {
  server.reset();
  const model = await runtime.loadModel(`${server.address}/story/`);
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await model.free();
  const all = Object.values(folder).reduce((sum, { bytes }) => sum + bytes.length, 0);
  assert.ok(server.sent <= all * 1.05, `${server.sent} bytes sent of ${all}`);
});

test('F37 several pieces are on their way at once', async () => {
  server.reset({ pause: 1 });
  let most = 0;
  let open = 0;
  const counting = async (url, request) => {
    const response = await fetch(url, request);
    most = Math.max(most, ++open);
    const through = response.body.pipeThrough(new TransformStream({ flush: () => void open--, cancel: () => void open-- }));
    return new Response(through, { status: response.status, headers: response.headers });
  };
  const weights = await runtime.openWeights(address, { fetch: counting });
  for await (const { name, data } of weights.all()) assert.deepEqual(data, asStored(names.indexOf(name)));
  assert.ok(most >= 3 && most <= 4, `${most} at once`);
  await weights.close();
});

test('F37 a range that breaks goes on where it stopped', async () => {
  server.reset({ cut: (number) => (number % 2 === 1 ? 300_000 : Infinity) });
  const weights = await runtime.openWeights(address);
  for await (const { name, data } of weights.all()) assert.deepEqual(data, asStored(names.indexOf(name)));
  const begins = server.requests.map(({ range }) => Number(/=(\d+)/.exec(range)[1]));
  assert.ok(begins.some((begin) => (begin - 8192) % (2 << 20) === 300_000), `it goes on within a piece: ${begins}`);
  assert.ok(server.requests.slice(1).every(({ headers }) => headers['if-range'] === '"one"'), 'the server is told which file is meant');
  assert.ok(server.sent <= big.size * 1.05, `${server.sent} bytes sent of ${big.size}`);
  await weights.close();
});

test('F37 a download without ranges that breaks is asked for again, and the bytes that are there are skipped', async () => {
  server.reset({ noRanges: true, cut: (number) => (number === 0 ? 9_000_000 : Infinity) });
  const weights = await runtime.openWeights(address);
  let n = 0;
  for await (const { name, data } of weights.all()) assert.deepEqual(data, asStored(names.indexOf(name)), String(n++));
  assert.equal(n, names.length);
  assert.equal(server.requests.length, 2);
  await weights.close();
});

test('F37 what breaks each time is given up after five tries, and says where', async () => {
  server.reset({ cut: (number) => (number > 0 ? 0 : Infinity) });
  const weights = await runtime.openWeights(address);
  await assert.rejects(weights.tensor(names[5]), heddleError('bad_file', /big\.safetensors broke off at byte \d+, 5 times: /));
  assert.equal(server.requests.length, 1 + 5);
  await weights.close();
});

test('F37 a server that is busy is asked again after the time it says', async () => {
  server.reset({ refuse: (number) => (number < 2 ? 503 : number === 3 ? 429 : undefined), retryAfter: 0 });
  const weights = await runtime.openWeights(address);
  assert.deepEqual((await weights.tensor(names[1])).data, asStored(1));
  assert.deepEqual(server.requests.map(({ path }) => path), Array(5).fill('big.safetensors'));
  await weights.close();
  server.reset({ refuse: () => 503, retryAfter: 0 });
  await assert.rejects(runtime.inspect(address), heddleError('bad_file', /answered 503/));
  assert.equal(server.requests.length, 5);
});

test('F37 a file that changes while it is read is noticed', async () => {
  server.reset();
  const weights = await runtime.openWeights(address);
  files['big.safetensors'] = { ...big, etag: '"two"' };
  await assert.rejects(weights.tensor(names[2]), heddleError('bad_file', /changed on the server while it was read \("one", now "two"\)/));
  assert.equal(server.requests.length, 2, 'it is not asked for again and again');
  files['big.safetensors'] = big;
  await weights.close();
});

test('F37 redirects are followed, kept in mind, and told nothing of the caller\'s headers at another origin', async () => {
  const headers = { authorization: 'Bearer secret', 'x-api-key': 'secret' };
  server.reset({ redirect: (path) => (path.startsWith('story/') ? `${other.address}/${path}` : undefined) });
  other.reset();
  const model = await runtime.loadModel(`${server.address}/story/`, { headers });
  assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
  await model.free();
  assert.ok(server.requests.length > 0 && server.requests.every(({ headers: got }) => got.authorization === headers.authorization && got['x-api-key'] === 'secret'));
  assert.ok(other.requests.length > 0 && other.requests.every(({ headers: got }) => got.authorization === undefined && got['x-api-key'] === undefined));
  assert.equal(server.requests.filter(({ path }) => path.endsWith('model.safetensors')).length, 1, 'the place it led to is asked at once');

  server.reset({ redirect: (path) => (path.startsWith('moved/') ? `/${path.slice(6)}` : undefined) });
  await runtime.inspect(`${server.address}/moved/big.safetensors`, { headers });
  assert.ok(server.requests.every(({ headers: got }) => got.authorization === headers.authorization), 'within the origin they go on');
  server.reset({ redirect: (path) => `/${path}` });
  await assert.rejects(runtime.inspect(address), heddleError('bad_file', /more than 10 redirects/));
});

test('F37 a signed address that has run out is asked for anew', async () => {
  let valid = true;
  server.reset({ redirect: (path) => `${other.address}/${path}` });
  other.reset({ refuse: () => (valid ? undefined : 403) });
  const weights = await runtime.openWeights(address);
  valid = false;
  setTimeout(() => (valid = true), 0);
  const before = server.requests.length;
  other.rules.refuse = (() => { let n = 0; return () => (n++ === 0 ? 403 : undefined); })();
  assert.deepEqual((await weights.tensor(names[3])).data, asStored(3));
  assert.equal(server.requests.length, before + 1);
  await weights.close();
});

test('F37 options: headers, fetch and revision reach every request', async () => {
  server.reset();
  const seen = [];
  const options = { headers: { 'x-token': 'abc' }, fetch: (url, request) => (seen.push(String(url)), fetch(url, request)) };
  files['org/name/resolve/v2/big.safetensors'] = big;
  await runtime.inspect(`${server.address}/org/name/resolve/main/big.safetensors`, { ...options, revision: 'v2' });
  assert.deepEqual(seen, [`${server.address}/org/name/resolve/v2/big.safetensors`]);
  assert.equal(server.requests[0].headers['x-token'], 'abc');
  await assert.rejects(runtime.inspect(address, { revision: 'v2' }), heddleError('bad_argument', /has no \/resolve\/<revision>\//));
  await assert.rejects(runtime.inspect(address, { revision: '../x' }), heddleError('bad_argument', /revision '\.\.\/x'/));
  await assert.rejects(runtime.inspect(address, { headers: { a: 1 } }), heddleError('bad_argument', /headers\['a'\]: expected a string/));
  server.reset({ refuse: () => 401 });
  await assert.rejects(runtime.inspect(address), heddleError('bad_file', /answered 401 Unauthorized \(options\.headers/));
});

test('a page of Hugging Face becomes the folder of its files', async () => {
  const asked = [];
  const options = { fetch: async (url) => (asked.push(String(url)), new Response('', { status: 404 })) };
  await assert.rejects(runtime.loadModel('https://huggingface.co/org/name', options), heddleError('bad_file', /no config\.json/));
  await assert.rejects(runtime.loadModel('https://huggingface.co/org/name/tree/dev', options), heddleError('bad_file', /no config\.json/));
  await assert.rejects(runtime.loadModel('https://huggingface.co/org/name/', { ...options, revision: 'refs/pr/1' }), heddleError('bad_file', /no config\.json/));
  await assert.rejects(runtime.inspect('https://huggingface.co/org/name/blob/main/x.safetensors', options), heddleError('bad_file', /404/));
  assert.deepEqual(asked, ['main', 'dev', 'refs%2Fpr%2F1'].map((rev) => `https://huggingface.co/org/name/resolve/${rev}/config.json`)
    .concat('https://huggingface.co/org/name/resolve/main/x.safetensors'));
});

test('an answer with other bytes than those asked for, or of no stated size, is not believed', async () => {
  const bytes = writeSafetensors({ a: { shape: [3], data: [1, 2, 3] } });
  const wrongPlace = async () => new Response(bytes.subarray(4), { status: 206, headers: { 'content-range': `bytes 4-${bytes.length - 1}/${bytes.length}` } });
  await assert.rejects(runtime.inspect('http://x.test/a.safetensors', { fetch: wrongPlace }), heddleError('bad_file', /./));
  // A page may not be let to see Content-Range: then the file comes whole.
  const hidden = async (_, { headers }) => (headers.get('range') ? new Response(bytes, { status: 206 }) : new Response(bytes, { headers: { 'content-length': String(bytes.length) } }));
  assert.equal((await runtime.inspect('http://x.test/a.safetensors', { fetch: hidden })).bytes, bytes.length);
  server.reset();
  await assert.rejects(runtime.inspect(`${server.address}/empty.safetensors`), heddleError('bad_file', /0 bytes/));
});

test('F38 progress only grows, up to the total, and names tensors as they come; an abort leaves nothing', async () => {
  server.reset();
  const told = [];
  const model = await runtime.loadModel(`${server.address}/story/`, { progress: (each) => told.push(each) });
  const last = told.at(-1);
  assert.equal(last.bytes, last.totalBytes);
  assert.equal(last.tensors, last.totalTensors);
  assert.equal(last.secondsLeft, 0);
  for (let i = 1; i < told.length; i++) assert.ok(told[i].bytes >= told[i - 1].bytes && told[i].tensors >= told[i - 1].tensors && told[i].seconds >= told[i - 1].seconds);
  assert.deepEqual(new Set(told.map(({ tensor }) => tensor).filter(Boolean)), new Set(model.weights.map(({ name }) => name)));
  await model.free();

  server.reset({ pause: 5 });
  const controller = new AbortController();
  const reason = new Error('enough');
  const weights = await runtime.openWeights(address, { signal: controller.signal });
  const come = [];
  await assert.rejects(async () => {
    for await (const { name } of weights.all()) {
      come.push(name);
      if (come.length === 3) controller.abort(reason);
    }
  }, (error) => error === reason);
  assert.ok(come.length >= 3 && come.length < names.length);
  await weights.close();
  const sent = server.sent;
  await new Promise((done) => setTimeout(done, 200));
  assert.ok(server.sent - sent < 1 << 20, 'the server is no longer read');
});

test('F38 leaving the loop over tensors stops the reading', async () => {
  server.reset({ pause: 2 });
  const weights = await runtime.openWeights(address);
  for await (const { name } of weights.all()) {
    assert.equal(name, names[0]);
    break;
  }
  const sent = server.sent;
  await new Promise((done) => setTimeout(done, 150));
  assert.ok(server.sent - sent < 1 << 20, `${server.sent - sent} bytes more`);
  assert.deepEqual((await weights.tensor(names[9])).data, asStored(9), 'and others can still be had');
  await weights.close();
});

test('in a worker: ranges, headers and tensors as in this thread; a function is refused in words', async () => {
  server.reset();
  const { init } = await entry('./worker');
  const remote = await init(optionsFor(modules[0]));
  const weights = await remote.openWeights(address, { headers: { 'x-token': 'abc' } });
  assert.deepEqual(weights.tensorNames, names);
  assert.deepEqual((await weights.tensor(names[7])).data, asStored(7));
  assert.deepEqual(weights.info(names[7]).shape, [512, 512]);
  const come = [];
  for await (const { name, data } of weights.all({ names: [names[8], names[2]], as: 'f32' })) come.push([name, data.constructor.name, data.length]);
  assert.deepEqual(come, [[names[2], 'Float32Array', 512 * 512], [names[8], 'Float32Array', 512 * 512]]);
  assert.ok(server.requests.every(({ headers }) => headers['x-token'] === 'abc'));
  await assert.rejects(weights.tensor('nothing'), heddleError('bad_argument', /no tensor 'nothing'/));
  await weights.close();
  await assert.rejects(weights.tensor(names[7]), heddleError('bad_state', /freed/));
  await assert.rejects(remote.loadModel(`${server.address}/story/`, { fetch }), heddleError('unsupported', /^fetch: a function cannot go to the worker/));
  await remote.free();
});

