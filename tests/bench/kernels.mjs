/**
 * One matrix at a time, in Chromium on one thread: a product with one row (decode) and with 128 (prefill), for each way weights are
 * kept, on both modules. Shapes are SmolLM2-135M's; its head is too large for the caches and shows what memory gives.
 *
 *   node tests/bench/kernels.mjs [--only TEXT]
 *
 * Prints the median time, billions of operations (two a weight and row) and, for one row, of weight bytes read a second.
 */
import { join } from 'node:path';
import { build } from '../../tools/build.mjs';
import { setup } from '../../tools/setup.mjs';
import { Stop, program, projectDir } from '../../tools/step.mjs';
import { openSite } from './site.mjs';

const shapes = [[576, 576], [1536, 576], [576, 1536], [49152, 576]];
const dtypes = ['f32', 'bf16', 'f16', 'q8_0', 'int8', 'q4_0'];
const rowCounts = [1, 128];

/** Runs in the page: { ms, bytes } of each row count. */
async function measure({ variant, dtype, shape: [outputs, inputs], rowCounts: counts }) {
  const { init } = await import('/heddle/index.js');
  const runtime = await init({ variant, threads: 1, log: () => undefined });
  // The last matrix of a graph keeps 8 bits: one row of ours is that.
  const end = 4 * outputs * inputs;
  const header = JSON.stringify({
    'l.weight': { dtype: 'F32', shape: [outputs, inputs], data_offsets: [0, end] }, 'last.weight': { dtype: 'F32', shape: [1, outputs], data_offsets: [end, end + 4 * outputs] },
  });
  const padded = new TextEncoder().encode(header.padEnd(Math.ceil(header.length / 8) * 8));
  const values = Float32Array.from({ length: 65536 }, (_, i) => Math.sin(i * i) / 24);
  const weights = new Float32Array(outputs * inputs);
  for (let at = 0; at < weights.length; at += values.length) weights.set(values.subarray(0, Math.min(values.length, weights.length - at)), at);
  const file = new Blob([BigUint64Array.of(BigInt(padded.length)), padded, weights, weights.subarray(0, outputs)]);
  const found = [];
  for (const rows of counts) {
    const layers = [
      { type: 'linear', name: 'l', in_features: inputs, out_features: outputs, bias: false }, { type: 'linear', name: 'last', in_features: outputs, out_features: 1, bias: false },
    ];
    const model = await runtime.loadModel(file, { dtype, config: { input_shape: [rows, inputs], layers } });
    const session = await model.createSession();
    const input = Float32Array.from({ length: rows * inputs }, (_, i) => Math.sin(i));
    const once = () => {
      const start = performance.now();
      session.forwardSync(input);
      return performance.now() - start;
    };
    // The engine compiles a hot function anew while it runs: first calls are not counted, and clocks tick coarsely.
    for (const start = performance.now(); performance.now() - start < 300; ) once();
    const times = [];
    for (const start = performance.now(); performance.now() - start < 300 || times.length < 5; ) {
      let sum = 0;
      let n = 0;
      while (sum < 5) {
        sum += once();
        n++;
      }
      times.push(sum / n);
    }
    times.sort((a, b) => a - b);
    found.push({ ms: times[times.length >> 1], bytes: model.weights[0].bytes });
    await model.free();
  }
  await runtime.free();
  return found;
}

program(import.meta.url, async (args) => {
  const only = args[0] === '--only' ? args[1] : '';
  await build({ wasm: true, ts: true });
  const { chromium } = await setup({ need: ['chromium'] });
  if (!chromium) throw new Stop('the bench needs Chromium (set CHROMIUM to its program)');
  const site = await openSite({ program: chromium, dist: join(projectDir, 'dist') });
  try {
    console.log('module   dtype  out x in     | 1 row: ms   Gop/s   GB/s | 128 rows: ms   Gop/s');
    for (const variant of ['relaxed', 'simd128']) {
      for (const dtype of dtypes) {
        for (const shape of shapes) {
          const name = `${variant.padEnd(8)} ${dtype.padEnd(6)} ${shape.join('x').padEnd(12)}`;
          if (!name.includes(only)) continue;
          const page = await site.newPage();
          const [one, many] = await page.evaluate(measure, { variant, dtype, shape, rowCounts });
          await page.context().close();
          const speed = (ms, rows) => (2 * rows * shape[0] * shape[1]) / ms / 1e6;
          console.log(`${name} | ${one.ms.toFixed(3).padStart(9)} ${speed(one.ms, 1).toFixed(1).padStart(7)} ${(one.bytes / one.ms / 1e6).toFixed(1).padStart(6)} `
            + `| ${many.ms.toFixed(2).padStart(12)} ${speed(many.ms, 128).toFixed(1).padStart(7)}`);
        }
      }
    }
  } finally {
    await site.close();
  }
});
