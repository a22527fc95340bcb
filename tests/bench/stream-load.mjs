/**
 * How much memory a load takes that converts while it streams: a checkpoint of so many MB, made by a server on localhost as it is sent (no
 * file of it exists), is loaded in a process of its own.
 *
 *   node tests/bench/stream-load.mjs [--mb 1024] [--dtype q8_0] [--no-ranges] [--json]
 *
 * Peaks are the kernel's high-water mark of that process (VmHWM) above what it had before the load, and the size of WebAssembly's memory, which
 * never shrinks.
 */
import { fork } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { madeCheckpoint, openServer } from '../node/range-server.mjs';

const self = fileURLToPath(import.meta.url);
const width = 2048; // a matrix of 8 MB in BF16

/** A chain of linears whose weights have that many MB as BF16. */
export function chain(mb) {
  const n = Math.max(1, Math.round((mb * 2 ** 20) / (width * width * 2)));
  const layers = Array.from({ length: n }, () => ({ type: 'linear', in_features: width, out_features: width, bias: false }));
  return { spec: { layers }, checkpoint: madeCheckpoint(layers.map((_, i) => `layers.${i}.weight`), width, width) };
}

/** Loads it in another process; { fileBytes, modelBytes, heapBytes, grownBytes, seconds, sentBytes }. `grownBytes` is undefined outside Linux. */
export async function measure({ mb, dtype, ranges = true, heddle }) {
  const { spec, checkpoint } = chain(mb);
  const server = await openServer({ 'model.safetensors': checkpoint });
  server.rules = { noRanges: !ranges };
  try {
    const child = fork(self, ['--child', heddle], { stdio: ['ignore', 'inherit', 'inherit', 'ipc'] });
    const result = new Promise((done, fail) => {
      child.once('message', (message) => (message.error ? fail(new Error(message.error)) : done(message)));
      child.once('exit', (code) => fail(new Error(`the loading process ended with ${code}`)));
    });
    child.send({ url: `${server.address}/model.safetensors`, spec, dtype });
    return { fileBytes: checkpoint.size, ...(await result), sentBytes: server.sent };
  } finally {
    server.close();
  }
}

/** Bytes of this process: now and at most. */
function resident() {
  const status = readFileSync('/proc/self/status', 'utf8');
  const field = (name) => 1024 * Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(status)?.[1]);
  return { now: field('VmRSS'), peak: field('VmHWM') };
}

async function child(address) {
  const { init } = await import(address);
  const runtime = await init({ threads: 1 });
  process.once('message', async ({ url, spec, dtype }) => {
    try {
      // A small network and a header first: code and connections are no part of the figure.
      await (await runtime.buildNetwork({ layers: [{ type: 'linear', in_features: 8, out_features: 8 }] })).free();
      await runtime.inspect(url);
      const before = process.platform === 'linux' ? resident().now : undefined;
      const start = performance.now();
      const model = await runtime.loadModel(url, { config: spec, dtype });
      const seconds = (performance.now() - start) / 1000;
      const grownBytes = before === undefined ? undefined : resident().peak - before;
      const modelBytes = model.weights.reduce((sum, { bytes }) => sum + bytes, 0);
      const { heap } = await model.memory();
      process.send({ modelBytes, heapBytes: heap, grownBytes, seconds });
    } catch (error) {
      process.send({ error: error.stack });
    }
    process.disconnect();
  });
}

if (process.argv[2] === '--child') await child(process.argv[3]);
else if (process.argv[1] === self) {
  const option = (name, other) => (process.argv.includes(name) ? process.argv[process.argv.indexOf(name) + 1] : other);
  const found = await measure({
    mb: Number(option('--mb', 1024)), dtype: option('--dtype', 'q8_0'), ranges: !process.argv.includes('--no-ranges'),
    heddle: new URL('../../dist/index.js', import.meta.url).href,
  });
  const mb = (bytes) => `${(bytes / 2 ** 20).toFixed(1)} MB`;
  if (process.argv.includes('--json')) console.log(JSON.stringify(found));
  else {
    console.log(`file ${mb(found.fileBytes)}, sent ${mb(found.sentBytes)}, in ${found.seconds.toFixed(1)} s`);
    console.log(`model ${mb(found.modelBytes)}; WebAssembly memory ${mb(found.heapBytes)} (+${mb(found.heapBytes - found.modelBytes)}); process +${mb(found.grownBytes)} (+${mb(found.grownBytes - found.modelBytes)})`);
  }
}
