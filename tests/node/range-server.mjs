/**
 * range-server.mjs: a file server on localhost for tests, which counts what it sends and misbehaves as it is told.
 *
 * Files are { bytes } or { size, part(begin, end) } for those that are made as they are sent; `etag` and `type` are headers.
 */
import { createServer } from 'node:http';
import { after } from 'node:test';

/** Opens one that closes after the file's tests: { address, requests, sent, reset(), files, rules }. */
export async function openServer(files) {
  const state = {
    files,
    /** Changed by tests: noRanges, cut (bytes of an answer after which it breaks; a function of the request's number), refuse (status by number), redirect, etc. */
    rules: {},
    /** { path, range, headers } in order. */
    requests: [],
    /** Bytes of bodies handed to the network. */
    sent: 0,
    reset(rules = {}) {
      state.rules = rules;
      state.requests = [];
      state.sent = 0;
    },
  };
  const server = createServer((request, response) => void answer(state, request, response));
  await new Promise((done) => server.listen(0, 'localhost', done));
  state.address = `http://localhost:${server.address().port}`;
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  state.close = close;
  return state;
}

/** The same, closed when the test file is done. */
export async function serverFor(files) {
  const server = await openServer(files);
  after(server.close);
  return server;
}

async function answer(state, request, response) {
  const path = decodeURIComponent(request.url.slice(1));
  const { rules } = state;
  const number = state.requests.push({ path, range: request.headers.range, headers: request.headers }) - 1;
  for (const [name, value] of Object.entries(rules.headers ?? {})) response.setHeader(name, value);
  const status = rules.refuse?.(number, path);
  if (status) return response.writeHead(status, rules.retryAfter === undefined ? {} : { 'retry-after': rules.retryAfter }).end('refused');
  const target = rules.redirect?.(path);
  if (target) return response.writeHead(302, { location: target }).end();
  const file = state.files[path];
  if (!file) return response.writeHead(404).end('nothing');
  const size = file.size ?? file.bytes.length;
  if (file.etag) response.setHeader('etag', file.etag);
  const range = rules.noRanges ? null : /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
  const same = request.headers['if-range'] === undefined || request.headers['if-range'] === file.etag;
  const ranged = range && same;
  const begin = ranged ? Number(range[1]) : 0;
  const end = ranged && range[2] !== '' ? Math.min(size, Number(range[2]) + 1) : size;
  if (ranged && begin >= size) return response.writeHead(416, { 'content-range': `bytes */${size}` }).end();
  if (ranged) response.setHeader('content-range', `bytes ${begin}-${end - 1}/${size}`);
  response.writeHead(ranged ? 206 : 200, { 'content-length': end - begin, 'content-type': file.type ?? 'application/octet-stream' });
  const stop = Math.min(end, begin + (rules.cut?.(number, path) ?? Infinity));
  for (let at = begin; at < stop && !response.destroyed; at += 1 << 16) {
    const chunk = file.bytes ? file.bytes.subarray(at, Math.min(at + (1 << 16), stop)) : file.part(at, Math.min(at + (1 << 16), stop));
    state.sent += chunk.length;
    if (!response.write(chunk)) await ready(response);
    if (rules.pause) await new Promise((done) => setTimeout(done, rules.pause));
  }
  if (stop < end) setTimeout(() => response.destroy(), 20);
  else response.end();
}

/** Resolves when it takes more, or nothing any more. */
function ready(response) {
  return new Promise((done) => {
    const go = () => {
      response.off('drain', go);
      response.off('close', go);
      done();
    };
    response.on('drain', go);
    response.on('close', go);
    if (response.destroyed) go();
  });
}

/**
 * A SafeTensors file of any size that is made as it is read: BF16 matrices [rows, cols] by name, values like small weights, the same on every machine.
 * { size, header, part, tensors }.
 */
export function madeCheckpoint(names, rows, cols) {
  const each = rows * cols * 2;
  const made = madeFile(names.map((name) => [name, [rows, cols]]));
  return { ...made, begin: (i) => made.header.length + i * each, each };
}

/** The same for tensors of any shapes: [name, shape]. */
export function madeFile(tensors) {
  let bytes = 0;
  const entries = tensors.map(([name, shape]) => {
    const begin = bytes;
    bytes += 2 * shape.reduce((n, size) => n * size, 1);
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, bytes] }];
  });
  let json = JSON.stringify(Object.fromEntries(entries));
  json += ' '.repeat((8 - (json.length % 8)) % 8);
  const header = Buffer.alloc(8 + json.length);
  header.writeBigUInt64LE(BigInt(json.length));
  header.write(json, 8);
  const size = header.length + bytes;
  // A stretch of values whose length is no power of two, so that neighbouring rows differ.
  const stretch = new Uint16Array(65537);
  for (let i = 0, state = 1; i < stretch.length; i++) {
    state = (state * 48271) % 2147483647;
    stretch[i] = ((state & 1) << 15) | 0x3c00 | (state % 0x180); // ±0.008 to ±0.03
  }
  const pattern = Buffer.from(stretch.buffer);
  /** Bytes [begin, end) of the file. */
  const part = (begin, end) => {
    const made = Buffer.alloc(end - begin);
    for (let at = begin; at < end; ) {
      const inHeader = at < header.length;
      const from = inHeader ? header : pattern;
      const place = inHeader ? at : (at - header.length) % pattern.length;
      const n = Math.min(end - at, from.length - place);
      from.copy(made, at - begin, place, place + n);
      at += n;
    }
    return made;
  };
  return { size, header, part };
}
