/** The packed package in workerd: `heddle/edge`, a module compiled beforehand, files that are part of the worker. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import * as esbuild from 'esbuild';
import { addModels, assertReport, loomDir, makeApp, needsPackage } from './app.mjs';

/** workerd's program, or why there is none. */
async function findWorkerd() {
  try {
    return { program: (await import('workerd')).default.default };
  } catch (error) {
    return { reason: `no workerd on this machine: ${error.message}` };
  }
}

const { program, reason } = await findWorkerd();

/** Starts workerd on a free port; resolves to { address, process }. */
function serve(folder) {
  return new Promise((done, fail) => {
    // It writes on descriptor 3 which port it took.
    const child = spawn(program, ['serve', 'config.capnp', '--control-fd=3'], { cwd: folder, stdio: ['ignore', 'ignore', 'pipe', 'pipe'] });
    let errors = '';
    child.stderr.on('data', (bytes) => (errors += bytes));
    child.on('error', fail);
    child.on('exit', (status) => fail(new Error(`workerd ended with status ${status}\n${errors}`)));
    child.stdio[3].on('data', (bytes) => {
      for (const line of String(bytes).trim().split('\n')) {
        const { event, port } = JSON.parse(line);
        if (event === 'listen') done({ address: `http://127.0.0.1:${port}/`, process: child });
      }
    });
  });
}

describe('in workerd', program ? needsPackage : { skip: reason }, () => {
  let running;
  before(async () => {
    const app = makeApp('workerd');
    addModels(join(app, 'models'));
    // As wrangler does it: the program becomes one file, wasm and data stay modules of their own.
    await esbuild.build({
      entryPoints: [join(app, 'worker.js')], outfile: join(app, 'bundled.js'), bundle: true, format: 'esm', target: 'es2022', absWorkingDir: app,
      external: ['*.wasm', 'models/*'], conditions: ['workerd'], logLevel: 'silent',
    });
    running = await serve(app);
  });
  after(() => {
    running?.process.removeAllListeners('exit');
    running?.process.kill();
  });

  const ask = (path, body) => fetch(`${running.address}${path}`, { method: 'POST', body });

  test('a request gets a network\'s output and a story', async () => {
    const { input } = JSON.parse(readFileSync(join(loomDir, 'dense_relu.io.json'), 'utf8'));
    for (let i = 0; i < 3; i++) {
      const output = await (await ask('forward', JSON.stringify(input))).json();
      const story = await (await ask('story', 'Once upon a time')).json();
      assertReport({ ...story, output });
    }
  });

  test('what is broken gets an error, and the worker lives on', async () => {
    const response = await ask('broken', '{"models": [{"id": "m"}]}');
    assert.equal(response.status, 400);
    assert.equal((await response.json()).code, 'bad_file');
    assert.equal((await ask('story', 'Once')).status, 200);
  });
});
