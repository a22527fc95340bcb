/** The package's entries and what a host gets: variants, fallbacks, compiled modules, the module inside the code. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, golden, heddle, heddleError, modules, nodeHasRelaxed, packageFolder, readJson } from './heddle.mjs';

const text = readFileSync(golden('loom/dense_sigmoid.bundle.json'), 'utf8');
const { input, output } = readJson(golden('loom/dense_sigmoid.io.json'));

/** A runtime that computes what Loom computed. */
function check(runtime) {
  const network = runtime.LoadNetworkFromString(text, 'dense_sigmoid');
  network.ForwardCPU(input).forEach((value, i) => assert.ok(Math.abs(value - output[i]) <= 1e-5));
  network.free();
}

const wasm = (name) => join(packageFolder, `dist/wasm/heddle-${name}.wasm`);

test('the best variant this Node compiles is taken by default', async () => {
  const runtime = await heddle.init({ threads: 1 });
  assert.equal(runtime.variant, nodeHasRelaxed ? 'relaxed' : 'simd128');
  check(runtime);
});

test('relaxed SIMD is refused in words where the host lacks it', { skip: nodeHasRelaxed && 'this Node has it' }, async () => {
  assert.equal(WebAssembly.validate(readFileSync(wasm('relaxed'))), false, 'this Node really does not compile it');
  await assert.rejects(heddle.init({ variant: 'relaxed' }), heddleError('unsupported', /does not compile relaxed SIMD.*falls back to simd128/));
  await assert.rejects(heddle.init({ wasm: wasm('relaxed') }), heddleError('unsupported', /does not compile .*heddle-relaxed\.wasm/));
});

test('every module in modules really compiles here, and the probe says so', async () => {
  for (const name of modules) {
    assert.equal(WebAssembly.validate(readFileSync(wasm(name))), true, name);
    const [variant, threaded] = name.split('-');
    const runtime = await heddle.init({ variant, threads: threaded ? 2 : 1 });
    assert.equal(runtime.variant, variant);
    assert.equal(runtime.threads, threaded ? 2 : 1);
    assert.deepEqual(runtime.notices, []);
    check(runtime);
  }
});

test('a module may be given as a path, a URL, bytes, a Response, compiled, or by a function', async () => {
  const bytes = readFileSync(wasm('simd128'));
  const asked = [];
  for (const given of [
    wasm('simd128'),
    new URL(`file://${wasm('simd128')}`),
    bytes,
    new Uint8Array(bytes).buffer,
    new Response(bytes, { headers: { 'content-type': 'application/wasm' } }),
    await WebAssembly.compile(bytes),
    Promise.resolve(bytes),
    (name) => (asked.push(name), wasm(name)),
  ]) {
    check(await heddle.init({ wasm: given, threads: 1, variant: 'auto' }));
  }
  assert.deepEqual(asked, [nodeHasRelaxed ? 'relaxed' : 'simd128']);
});

test('a host that does not compile what its probe promised gets the next variant', { skip: !nodeHasRelaxed && 'this Node has only one variant' }, async () => {
  const asked = [];
  const runtime = await heddle.init({
    threads: 1,
    wasm: (name) => {
      asked.push(name);
      return name === 'relaxed' ? new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, 0xff]) : wasm(name);
    },
  });
  assert.deepEqual(asked, ['relaxed', 'simd128']);
  assert.equal(runtime.variant, 'simd128');
});

test('heddle/edge runs from a compiled module', async () => {
  const { init, HeddleError } = await entry('./edge');
  assert.equal(HeddleError, heddle.HeddleError);
  const runtime = await init(await WebAssembly.compile(readFileSync(wasm('simd128'))));
  assert.deepEqual([runtime.variant, runtime.threads, runtime.notices], ['given', 1, []]);
  check(runtime);
});

test('heddle/bundle is the whole of heddle in one file', async () => {
  const bundle = await entry('./bundle');
  assert.deepEqual(Object.keys(bundle).sort(), Object.keys(heddle).sort());
  const runtime = await bundle.init({ threads: 2 });
  assert.equal(runtime.threads, 2);
  check(runtime);
  assert.throws(() => runtime.LoadNetworkFromString('{', 'x'), (error) => error instanceof bundle.HeddleError && error.name === 'HeddleError');
  await runtime.free();
});

test('heddle/inline has its module inside', async () => {
  const { init, HeddleError } = await entry('./inline');
  assert.equal(HeddleError, heddle.HeddleError);
  const runtime = await init();
  assert.deepEqual([runtime.variant, runtime.threads, runtime.notices], ['simd128', 1, []]);
  check(runtime);
});

test('the calls without a runtime want `init` first', async () => {
  const { execFileSync } = await import('node:child_process');
  const { entryUrl } = await import('./heddle.mjs');
  const program = `import { LoadNetworkFromString } from ${JSON.stringify(entryUrl('.'))}; try { LoadNetworkFromString('', ''); } catch (e) { console.log(e.code, e.message); }`;
  assert.match(execFileSync(process.execPath, ['--input-type=module', '--eval', program], { encoding: 'utf8' }), /^bad_state no runtime yet: `await init\(\)` first/);
});
