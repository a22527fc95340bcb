/** Models from servers of every kind: plain, compressing, without lengths, without the optional files, failing, and aborted. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gzipSync } from 'node:zlib';
import { entry, heddleError, modules, optionsFor, projectFolder, readJson, runtimeWith } from './heddle.mjs';

const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[1];
const runtime = await runtimeWith(modules[0]);

/** Requests seen, as "name" or "name range". */
let seen = [];

/** Ways to answer with a file's bytes, by the first part of the path. */
const ways = {
  plain: (request, response, bytes) => response.writeHead(200, { 'content-length': bytes.length }).end(bytes),
  chunked: (request, response, bytes) => {
    for (let i = 0; i < bytes.length; i += 100_003) response.write(bytes.subarray(i, i + 100_003));
    response.end();
  },
  /** Compresses, and knows ranges: of one byte, as a size is asked for. */
  gzip: (request, response, bytes) => {
    if (request.headers.range === 'bytes=0-0') response.writeHead(206, { 'content-range': `bytes 0-0/${bytes.length}` }).end(bytes.subarray(0, 1));
    else response.writeHead(200, { 'content-encoding': 'gzip', 'content-length': gzipSync(bytes).length }).end(gzipSync(bytes));
  },
  slow: (request, response, bytes) => {
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, 200_000)); // and no more
  },
  cut: (request, response, bytes) => {
    response.writeHead(200, { 'content-length': bytes.length });
    response.write(bytes.subarray(0, 200_000), () => setTimeout(() => response.destroy(), 50));
  },
};

const server = createServer((request, response) => {
  const [way, name] = request.url.slice(1).split('/');
  seen.push(request.headers.range ? `${name} ${request.headers.range}` : name);
  const path = join(storyFolder, name);
  const isWeights = name.endsWith('.safetensors');
  if (way === 'page' && name === 'generation_config.json') response.writeHead(200, { 'content-type': 'text/html' }).end('<!doctype html>');
  else if (way === 'broken') response.writeHead(500).end('no');
  else if (way === 'bare' && !['config.json', 'model.safetensors'].includes(name)) response.writeHead(404).end();
  else if (!existsSync(path)) response.writeHead(404).end();
  else (isWeights || way === 'gzip' ? ways[way] ?? ways.plain : ways.plain)(request, response, readFileSync(path));
});
await new Promise((done) => server.listen(0, 'localhost', done));
const base = `http://localhost:${server.address().port}`;
after(() => {
  server.closeAllConnections();
  server.close();
});

for (const way of ['plain', 'chunked', 'gzip', 'page']) {
  test(`a model loads from a folder's URL (${way})`, async () => {
    seen = [];
    const model = await runtime.loadModel(`${base}/${way}/`);
    assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
    await model.free();
    assert.deepEqual(seen.filter((name) => /^model\.safetensors(?! bytes=0-0)/.test(name)), ['model.safetensors bytes=0-8191'], 'a server without ranges gives the weights once');
    if (way !== 'plain' && way !== 'page') assert.ok(seen.includes('model.safetensors bytes=0-0'), 'the size is asked for');
  });
}

test('a model loads from files\' own URLs, in a worker too', async () => {
  const url = (name) => new URL(`${base}/plain/${name}`);
  const files = Object.fromEntries(['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors'].map((name) => [name, url(name)]));
  const { init } = await entry('./worker');
  const remote = await init(optionsFor(modules[0]));
  for (const each of [runtime, remote]) {
    const model = await each.loadModel(files);
    assert.equal(await model.generate(story.prompt).text(), story.greedy_text);
    await model.free();
    const fromResponse = await each.loadModel(await fetch(`${base}/gzip/model.safetensors`), { config: url('config.json') });
    assert.equal(fromResponse.weights.length, model.weights.length || fromResponse.weights.length);
    await fromResponse.free();
  }
  await remote.free();
});

test('optional files may be missing, the others are named', async () => {
  const model = await runtime.loadModel(`${base}/bare/`);
  await assert.rejects(model.tokenize('x'), heddleError('bad_state', /tokenizer/));
  await model.free();
  await assert.rejects(runtime.loadModel(`${base}/plain/nothing/`), heddleError('bad_file', /^no config\.json in the folder: http.*\/plain\/nothing\/config\.json: the server answered 404 Not Found$/));
  await assert.rejects(runtime.inspect(`${base}/plain/nothing/`), heddleError('bad_file', /^no model\.safetensors in the folder: .*\/nothing\/model\.safetensors: the server answered 404/));
  await assert.rejects(runtime.loadModel(`${base}/broken/`), heddleError('bad_file', /broken\/config\.json: the server answered 500/));
  await assert.rejects(runtime.inspect('http://localhost:1/model.safetensors'), heddleError('bad_file', /cannot fetch http:\/\/localhost:1/));
});

test('only the header of a file is waited for by inspect', async () => {
  const { tensors } = await runtime.inspect(`${base}/slow/model.safetensors`);
  assert.ok(tensors.length > 40);
});

test('an abort while the bytes come throws its reason', async () => {
  const controller = new AbortController();
  const reason = new Error('changed my mind');
  const load = runtime.loadModel(`${base}/slow/`, { signal: controller.signal, progress: ({ bytes }) => bytes > 100_000 && setTimeout(() => controller.abort(reason), 20) });
  await assert.rejects(load, (error) => error === reason);
});

test('a connection that breaks is an error, not half a model', async () => {
  await assert.rejects(runtime.loadModel(`${base}/cut/`), heddleError('bad_file', /model\.safetensors/));
});
