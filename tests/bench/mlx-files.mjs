/**
 * P1 to P4: one checkpoint of seeded noise as SafeTensors (F32, F16, BF16) and as weights.mlx: sizes, seconds and memory to read all of its values, and the
 * ratios that MLX-Node's description claims (3 to 5 times faster than JSON; half the space).
 *
 *   node tests/bench/mlx-files.mjs [megabytes of F32, 100]
 */
import { init } from 'heddle';

const megabytes = Number(process.argv[2] ?? 100);
const rows = Math.max(1, Math.round((megabytes * 1e6) / 4 / 16 / 1024));
let state = 1;
const noise = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 33 - 0.25;

/** A SafeTensors file of 16 matrices of F32. */
function checkpoint() {
  const header = {};
  const bytes = rows * 1024 * 4;
  for (let i = 0; i < 16; i++) header[`layers.${i}.weight`] = { dtype: 'F32', shape: [rows, 1024], data_offsets: [i * bytes, (i + 1) * bytes] };
  const text = new TextEncoder().encode(JSON.stringify(header).padEnd(Math.ceil(JSON.stringify(header).length / 8) * 8));
  const file = new Uint8Array(8 + text.length + 16 * bytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  new Float32Array(file.buffer, 8 + text.length).forEach((_, i, values) => (values[i] = noise()));
  return file;
}

const runtime = await init({ threads: 1 });

async function read(file) {
  const start = performance.now();
  const weights = await runtime.openWeights(new Blob([file])); // values of bytes in memory would be views of them
  let values = 0;
  for await (const { data } of weights.all({ as: 'f32' })) values += data.length;
  await weights.close();
  return { seconds: (performance.now() - start) / 1000, values };
}

const f32 = checkpoint();
const json = runtime.safetensorsToMlx(f32);
const halves = {};
for (const label of ['float16', 'bfloat16']) {
  const relabelled = Buffer.from(json).toString('latin1').replaceAll('"float32"', `"${label}"`);
  halves[label] = runtime.mlxToSafetensors(Buffer.from(relabelled, 'latin1'));
}
const results = {};
for (const [name, file] of [['SafeTensors F32', f32], ['SafeTensors F16', halves.float16], ['SafeTensors BF16', halves.bfloat16], ['weights.mlx F32', json]]) {
  await read(file);
  const { seconds } = await read(file);
  results[name] = { megabytes: Number((file.length / 1e6).toFixed(1)), seconds: Number(seconds.toFixed(3)), bytesOfF32: Number((file.length / f32.length).toFixed(3)) };
}
console.table(results);
console.log(`P3: SafeTensors is ${(results['weights.mlx F32'].seconds / results['SafeTensors F32'].seconds).toFixed(1)} times as fast as weights.mlx`);
console.log(`P4: F16 takes ${(halves.float16.length / f32.length).toFixed(3)}, BF16 ${(halves.bfloat16.length / f32.length).toFixed(3)} of F32's bytes`);
