import { readFileSync } from 'node:fs';
import { HeddleError, LoadNetworkFromString, init } from 'heddle';
import * as edge from 'heddle/edge';
import * as inline from 'heddle/inline';
import * as worker from 'heddle/worker';

const [, , entry, models] = process.argv;
const wasm = new URL(import.meta.resolve('heddle/wasm/heddle-simd128.wasm'));
const start = {
  heddle: () => init(),
  'heddle/worker': () => worker.init({ threads: 2 }),
  'heddle/inline': () => inline.init(),
  'heddle/edge': async () => edge.init(await WebAssembly.compile(readFileSync(wasm))),
};

const runtime = await start[entry]();
const model = await runtime.loadModel(`${models}/story`);
const story = model.generate('Once upon a time', { maxTokens: 24 });
const text = await story.text();
const bundle = readFileSync(`${models}/dense_relu.bundle.json`, 'utf8');
const input = [-1.3482, 1.0796, 0.3358, 1.8424, 0.4032, 1.5665, 0.1431];
const output = entry === 'heddle' ? LoadNetworkFromString(bundle, 'dense_relu').ForwardCPU(input) : await (await runtime.loadModel(bundle)).forward(input);
const refused = await runtime.loadModel('{"models": 3}').catch((error) => error);
console.log(JSON.stringify({ text, tokens: story.usage.tokens, output: [...output], threads: model.threads, from: import.meta.resolve('heddle'), isOurs: refused instanceof HeddleError && refused.code }));
// Nothing is freed: Node has to end by itself all the same.
