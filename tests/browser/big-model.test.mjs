/**
 * A checkpoint of 270 MB in a page: how much memory it takes to load it, as it is and converted on the way in, and that it decodes.
 *
 * Two figures, both against the weight file's size. WebAssembly's memory never shrinks, so its size in the end is its peak. The
 * renderer process holds that memory and whatever streaming adds, so its peak (the kernel's high-water mark, started anew just
 * before the load, above what was resident then) is the honest one: a chunk of a fetch that is read into new memory each time is
 * garbage that the engine lets grow to about 64 MB before it collects, and a file held twice would be 2 × and more.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setup } from '../../tools/setup.mjs';
import { projectDir } from '../../tools/step.mjs';
import { makeCheckpoint } from '../bench/make-checkpoint.mjs';
import { forgetPeak, openSite, residentBytes, runBare } from '../bench/site.mjs';

const program = process.env.CHROMIUM ?? (await setup({ need: ['chromium'] })).chromium;
const packageDir = process.env.HEDDLE_PACKAGE ?? projectDir;
const canMeasureProcesses = existsSync('/proc/self/clear_refs');

const nTokens = 16;
/** Peaks as shares of the file. What Q8_0 keeps is 0.6 of what BF16 is; the rest is a session, the engine's code, one piece of the file. */
const cases = [
  { name: 'as the file has it', dtype: 'keep', most: 1.3 },
  { name: 'converted to 8 bits on the way in', dtype: 'q8_0', most: 0.8 },
];

describe('a checkpoint in the shape of SmolLM2-135M', { skip: program ? false : 'no Chromium on this machine (set CHROMIUM to its program)' }, () => {
  let checkpoint;
  let site;

  before(async () => {
    checkpoint = await makeCheckpoint('smollm2-135m');
    site = await openSite({ program, dist: join(packageDir, 'dist'), folders: { '/model/': [checkpoint.folder] } });
  });

  after(() => site?.close());

  test('has the same bytes on every machine', async () => {
    const hash = createHash('sha256');
    for await (const chunk of createReadStream(checkpoint.weights, { highWaterMark: 1 << 20 })) hash.update(chunk);
    assert.equal(hash.digest('hex'), '05cbd77ba01a69487263ccb9d7511e9cd5ca87fedb023b8cbe918059da477436');
  });

  for (const { name, dtype, most } of cases) {
    test(`${name}: loads within ${most} × the file and decodes`, async (context) => {
      let baseline = new Map();
      let grown = 0;
      const [, found] = await runBare({
        program,
        address: site.address,
        steps: [[startRuntime], [loadAndDecode, { dtype, nTokens }]],
        after(step, renderers) {
          if (!canMeasureProcesses) return;
          if (step === 0) {
            baseline = new Map(renderers.map((pid) => [pid, residentBytes(pid).now]));
            renderers.forEach(forgetPeak);
          } else {
            grown = Math.max(0, ...[...baseline].map(([pid, before]) => residentBytes(pid).peak - before)); // the page's is the one that grew
          }
        },
      });
      const { heap, tokens, allFinite, seconds, decodeSeconds } = found;

      const share = (bytes) => bytes / checkpoint.bytes;
      context.diagnostic(`${dtype}: WebAssembly ${share(heap).toFixed(3)} × the file, process ${canMeasureProcesses ? share(grown).toFixed(3) : '?'} ×, `
        + `loaded in ${seconds.toFixed(1)} s, ${(nTokens / decodeSeconds).toFixed(1)} tok/s`);
      assert.equal(tokens.length, nTokens);
      assert.ok(allFinite, 'all logits are finite');
      assert.ok(new Set(tokens).size > nTokens / 2, `random weights do not repeat themselves: ${tokens}`);
      assert.ok(share(heap) <= most, `WebAssembly memory is ${share(heap)} × the file`);
      if (canMeasureProcesses) {
        assert.ok(grown >= heap * 0.9, 'the process that grew is the page\'s');
        assert.ok(share(grown) <= most, `the renderer process grew by ${share(grown)} × the file; ${share(grown - heap)} × beyond WebAssembly's memory`);
      }
    });
  }
});

/** Starts Heddle in the page, so that its code and its worker count to the baseline. */
async function startRuntime() {
  const { init } = await import(`${location.origin}/heddle/worker.js`);
  globalThis.runtime = await init();
}

/** Runs in the page. */
async function loadAndDecode({ dtype, nTokens: n }) {
  const start = performance.now();
  const model = await globalThis.runtime.loadModel('/model/', { dtype });
  const loaded = performance.now();
  const session = await model.createSession({ input: { dtype: 'i32', shape: [8] }, context: 64, outputRows: 1 });
  await session.decode([1, 300, 5000, 77]);
  const tokens = [];
  let allFinite = true;
  const decodeStart = performance.now();
  for (let i = 0; i < n; i++) {
    const logits = await session.logits();
    allFinite &&= logits.length === 49152 && logits.every(Number.isFinite);
    const token = await session.argmax();
    tokens.push(token);
    await session.decode([token]);
  }
  const { heap } = await model.memory();
  const end = performance.now();
  return { heap, tokens, allFinite, seconds: (loaded - start) / 1000, decodeSeconds: (end - decodeStart) / 1000 };
}
