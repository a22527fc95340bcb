/**
 * A static server for the demo and the browser tests, for this machine only.
 *
 *   node tools/serve.mjs [--no-isolation] [--port N]
 *
 * The two isolation headers, on by default, are what lets a page share memory between threads. Nothing is cached, so a
 * reload always shows what was built last.
 */
import { createReadStream, existsSync, statSync } from 'node:fs';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { Stop, program, projectDir } from './step.mjs';

const mimeTypes = {
  '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.mjs': 'text/javascript; charset=utf-8',
  '.css': 'text/css; charset=utf-8', '.json': 'application/json', '.map': 'application/json', '.wasm': 'application/wasm',
  '.txt': 'text/plain; charset=utf-8', '.md': 'text/plain; charset=utf-8', '.svg': 'image/svg+xml', '.png': 'image/png',
  '.ico': 'image/x-icon', '.webmanifest': 'application/manifest+json',
};

/** The demo's files and the package's, both as they lie. */
export const demoFolders = {
  '/dist/': [join(projectDir, 'dist')],
  '/': [join(projectDir, 'demo')],
};

/**
 * Serves `folders` ({ URL prefix ending in '/': [folder, …] }; the longest prefix counts, the first folder that has the file
 * gives it) on localhost. `port` 0 takes any free one; another is tried upwards until one is free. Resolves to
 * { address, server, close() }.
 */
export async function serve({ folders = demoFolders, port = 8000, isolation = true } = {}) {
  const server = createServer((request, response) => answer(request, response, folders, isolation));
  const taken = await listen(server, port);
  return {
    server,
    address: `http://localhost:${taken}/`,
    close: () => new Promise((done) => {
      server.closeAllConnections();
      server.close(done);
    }),
  };
}

async function listen(server, port) {
  for (let candidate = port; ; candidate++) {
    const error = await new Promise((done) => {
      server.once('error', done);
      server.listen(candidate, 'localhost', () => {
        server.off('error', done);
        done(null);
      });
    });
    if (!error) return server.address().port;
    if (error.code !== 'EADDRINUSE' || candidate >= port + 100) throw error;
  }
}

function answer(request, response, folders, isolation) {
  response.setHeader('Cache-Control', 'no-store');
  response.setHeader('Accept-Ranges', 'bytes');
  if (isolation) {
    response.setHeader('Cross-Origin-Opener-Policy', 'same-origin');
    response.setHeader('Cross-Origin-Embedder-Policy', 'require-corp');
  }
  if (request.method !== 'GET' && request.method !== 'HEAD') return end(response, 405, 'only GET and HEAD');
  const path = requestPath(request.url);
  const file = path && findFile(path, folders);
  if (!file) return end(response, 404, 'not found');

  const size = statSync(file).size;
  response.setHeader('Content-Type', mimeTypes[extname(file)] ?? 'application/octet-stream');
  const range = readRange(request.headers.range, size);
  if (range === 'bad') {
    response.setHeader('Content-Range', `bytes */${size}`);
    return end(response, 416, 'range not satisfiable');
  }
  const { first, last } = range ?? { first: 0, last: size - 1 };
  if (range) response.setHeader('Content-Range', `bytes ${first}-${last}/${size}`);
  response.writeHead(range ? 206 : 200, { 'Content-Length': last - first + 1 });
  if (request.method === 'HEAD' || size === 0) return response.end();
  createReadStream(file, { start: first, end: last }).on('error', () => response.destroy()).pipe(response);
}

function end(response, status, text) {
  response.writeHead(status, { 'Content-Type': 'text/plain; charset=utf-8' });
  response.end(`${text}\n`);
}

/** The path of a request, decoded; null when it is malformed or tries to leave the folder. */
function requestPath(url) {
  try {
    const path = normalize(decodeURIComponent(url.split(/[?#]/)[0]));
    return path.startsWith('/') && !path.includes('\0') ? path : null;
  } catch {
    return null;
  }
}

function findFile(path, folders) {
  const prefix = Object.keys(folders).filter((candidate) => path.startsWith(candidate)).sort((a, b) => b.length - a.length)[0];
  if (prefix === undefined) return null;
  for (const folder of folders[prefix]) {
    const file = join(folder, path.slice(prefix.length));
    const candidates = path.endsWith('/') ? [join(file, 'index.html')] : [file];
    const found = candidates.find((candidate) => existsSync(candidate) && statSync(candidate).isFile());
    if (found) return found;
  }
  return null;
}

/** { first, last } of a "bytes=a-b", "bytes=a-" or "bytes=-n"; undefined without one (several ranges count as none); 'bad' past the end. */
function readRange(header, size) {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (!match || (match[1] === '' && match[2] === '')) return undefined;
  const first = match[1] === '' ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const last = match[1] === '' || match[2] === '' ? size - 1 : Math.min(Number(match[2]), size - 1);
  return first > last ? 'bad' : { first, last };
}

/** The options of the command line, the same for start, dev and serve. */
export function serveOptions(args) {
  const options = { isolation: true, port: 8000 };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--no-isolation') options.isolation = false;
    else if (args[i] === '--port' && /^\d+$/.test(args[i + 1] ?? '')) options.port = Number(args[++i]);
    else throw new Stop(`unknown option ${args[i]}; there are --no-isolation and --port N`);
  }
  return options;
}

program(import.meta.url, async (args) => {
  console.log(`heddle: serving ${(await serve(serveOptions(args))).address}`);
});
