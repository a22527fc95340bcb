/**
 * Batched decode: tokens a second of n generations that run at the same time, over those of one. In Node, one thread, Qwen2.5-0.5B's shape with seeded weights.
 * The peer is ourselves with the same generations one after the other: no WebAssembly runtime of the peers decodes several sequences in a call.
 *
 *   node tests/bench/together.mjs [module] [dtype] [layers] [threads]     after `node tools/build.mjs`; a Node with relaxed SIMD for `relaxed`
 */
import { init } from '../../dist/index.js';
import { checkpointOf, published, streamed } from '../node/published-shapes.mjs';

const [variant = 'simd128', dtype = 'q8_0', layers = '6'] = process.argv.slice(2);
const config = { ...published['Qwen2.5-0.5B'].config, num_hidden_layers: Number(layers), max_window_layers: Number(layers) };
const runtime = await init({ variant, threads: Number(process.argv[5] ?? 1) });
const model = await runtime.loadModel({ 'config.json': JSON.stringify(config), 'model.safetensors': streamed(checkpointOf(config)) }, { dtype, context: 256 });
const nTokens = 24;

/** Tokens a second of all generations together. */
const speed = async (n) => {
  const start = performance.now();
  await Promise.all(Array.from({ length: n }, async (_, i) => { for await (const _token of model.generate([9707, 11, 1879, i], { maxTokens: nTokens, ignoreEnd: true })); }));
  return (1000 * n * nTokens) / (performance.now() - start);
};

const counts = [1, 2, 4, 8, 16];
const rows = new Map(counts.map((n) => [n, []]));
for (let repetition = 0; repetition < 3; repetition++) for (const n of counts) rows.get(n).push(await speed(n));
const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];
for (const n of counts) console.log(`${variant} ${dtype}: ${n} at the same time: ${median(rows.get(n)).toFixed(1)} tokens/s, ${(median(rows.get(n)) / median(rows.get(1))).toFixed(2)} of one`);
await model.free();
