/**
 * `npm run bench`: Heddle beside wllama (llama.cpp in WebAssembly) in Chromium, on the same weights: SmolLM2-135M's shape, random values.
 *
 *   node tests/bench/run.mjs [--repeat N] [--only TEXT] [--threads N] [--layers N] [--no-save]
 *
 * Each measurement has a fresh page (and process), loads from a Blob, warms up with a short generation, then prefills 128 tokens and
 * decodes 64. In each repetition every engine has its turn, in an order that is turned round the next time; the medians are compared.
 * `--only` takes measurements whose name holds the text. Whether both engines make the same tokens is said, since wrong can be fast.
 *
 * wllama is fetched into the cache folder, newest 3.x; it is no dependency of the project. A Heddle row of Q8_0 converts the BF16
 * file while loading, where wllama reads a file that is Q8_0 already.
 */
import { appendFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { cpus, loadavg } from 'node:os';
import { join } from 'node:path';
import { build } from '../../tools/build.mjs';
import { setup } from '../../tools/setup.mjs';
import { Stop, ask, makeFolder, program, projectDir, run, step, withLock } from '../../tools/step.mjs';
import { makeCheckpoint } from './make-checkpoint.mjs';
import { ggufName, makeGguf, promptTokens, tokenIds, tokenText } from './make-gguf.mjs';
import { runHeddle, runWllama } from './pages.mjs';
import { openSite } from './site.mjs';

const nPrompt = 128;
const nTokens = 64;
const warmUp = { prefill: 32, decode: 8 };
const threadCounts = [1, 2];

/** What is compared with what: for a peer's format, the ways Heddle keeps the same weights. */
const formats = [
  { peer: 'q8_0', heddle: 'q8_0' },
  { peer: 'f16', heddle: 'f16' },
  { peer: 'bf16', heddle: 'keep' },
];
const variants = ['relaxed', 'simd128'];

/** The folder of the newest wllama 3 and its version; without a network, of the newest in the cache. */
async function fetchWllama(cacheDir) {
  const name = '@wllama/wllama';
  const answer = await ask('npm', ['view', `${name}@3`, 'version', '--json']);
  const cached = readdirSync(cacheDir).filter((entry) => /^wllama-[\d.]+$/.test(entry)).map((entry) => entry.slice(7));
  const versions = answer ? [JSON.parse(answer)].flat() : cached;
  const version = versions.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).pop();
  if (!version) throw new Stop(`the bench needs ${name}, and npm gave none`);
  const folder = join(cacheDir, `wllama-${version}`);
  await withLock(`${folder}.lock`, async () => {
    if (existsSync(folder)) return;
    await step(`fetching wllama ${version}`, () => makeFolder(folder, (partial) =>
      run('npm', ['install', '--prefix', partial, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', `${name}@${version}`], { cwd: partial })));
  });
  return { version, folder: join(folder, 'node_modules', name, 'esm') };
}

/** One line of the table: who, with how many threads, and how it is run in a page. */
function measurements(checkpoint) {
  const prompt = promptTokens(nPrompt);
  const text = prompt.map(tokenText).join('');
  const config = JSON.stringify(checkpoint.config);
  const all = [];
  for (const { peer, heddle } of formats) {
    for (const threads of threadCounts) {
      const base = { threads, warmUp, nTokens };
      all.push({
        name: `wllama ${peer}`, format: peer, threads, run: runWllama,
        options: { ...base, file: `/model/${ggufName(peer)}`, prompt: text, promptTokens: nPrompt },
      });
      for (const variant of variants) {
        all.push({
          name: `heddle ${peer} ${variant}`, format: peer, threads, run: runHeddle,
          options: { ...base, file: '/model/model.safetensors', config, variant, dtype: heddle, prompt },
        });
      }
    }
  }
  return all;
}

async function measure(site, { run: runInPage, options, threads, name }) {
  const page = await site.newPage();
  page.on('pageerror', (error) => console.log(`${name}: ${error.message}`));
  try {
    const found = await page.evaluate(runInPage, options);
    if (found.threads !== threads) throw new Stop(`${name} ran with ${found.threads} threads, not ${threads}`);
    const tokens = found.tokens ?? tokenIds(found.text);
    return {
      load: found.loadMs, prefill: (1000 * nPrompt) / found.prefillMs, decode: (1000 * (nTokens - 1)) / found.decodeMs,
      // What the engine leaves out of its own figures, sampling and messages among it.
      beside: found.wallMs - found.prefillMs - found.decodeMs, tokens,
    };
  } finally {
    await page.context().close();
  }
}

function median(values) {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function sharedPrefix(a, b) {
  const at = a.findIndex((token, i) => token !== b[i]);
  return at < 0 ? a.length : at;
}

/** Medians of all samples, and against the peer of the same format and threads. */
function summarise(all, samples) {
  const figures = all.map((one) => {
    const own = samples.get(one);
    const of = (key) => median(own.map((sample) => sample[key]));
    return { ...one, load: of('load'), prefill: of('prefill'), decode: of('decode'), beside: of('beside'), tokens: own[0].tokens, n: own.length };
  });
  return figures.map((row) => {
    const peer = figures.find((other) => other.run === runWllama && other.format === row.format && other.threads === row.threads);
    if (!peer || peer.name === row.name) return row;
    return {
      ...row, loadRatio: peer.load / row.load, prefillRatio: row.prefill / peer.prefill, decodeRatio: row.decode / peer.decode,
      same: sharedPrefix(row.tokens, peer.tokens),
    };
  });
}

function print(rows) {
  const times = (ratio) => (ratio === undefined ? '' : `${ratio.toFixed(2)}x`);
  const table = [['', 'threads', 'load ms', '', 'prefill tok/s', '', 'decode tok/s', '', 'same tokens']];
  for (const row of rows) {
    table.push([
      row.name, String(row.threads), row.load.toFixed(0), times(row.loadRatio), row.prefill.toFixed(1), times(row.prefillRatio),
      row.decode.toFixed(1), times(row.decodeRatio), row.same === undefined ? '' : `${row.same}/${nTokens}`,
    ]);
  }
  const widths = table[0].map((_, column) => Math.max(...table.map((line) => line[column].length)));
  for (const line of table) console.log(line.map((cell, i) => (i ? cell.padStart(widths[i]) : cell.padEnd(widths[i]))).join('  '));
}

async function save(rows, machine) {
  const folder = join(projectDir, 'tests/bench/results');
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${machine.date.slice(0, 10)}.csv`);
  const columns = ['date', 'commit', 'cores', 'cpu', 'load_average', 'chromium', 'wllama', 'layers', 'name', 'threads', 'repetitions', 'load_ms',
    'prefill_tok_s', 'decode_tok_s', 'load_ratio', 'prefill_ratio', 'decode_ratio', 'same_tokens'];
  if (!existsSync(file)) appendFileSync(file, `${columns.join(',')}\n`);
  const round = (value) => (value === undefined ? '' : Number(value.toPrecision(4)));
  for (const row of rows) {
    const cells = [
      machine.date, machine.commit, machine.cores, machine.cpu, machine.load, machine.chromium, machine.wllama, machine.layers, row.name, row.threads, row.n,
      round(row.load), round(row.prefill), round(row.decode), round(row.loadRatio), round(row.prefillRatio), round(row.decodeRatio), row.same ?? '',
    ];
    appendFileSync(file, `${cells.join(',')}\n`);
  }
  console.log(`\nwritten to ${file}`);
}

function readArguments(args) {
  const options = { repeat: 3, only: '', threads: undefined, layers: undefined, save: true };
  for (let i = 0; i < args.length; i++) {
    if (args[i] === '--repeat') options.repeat = Number(args[++i]);
    else if (args[i] === '--only') options.only = args[++i];
    else if (args[i] === '--threads') options.threads = Number(args[++i]);
    else if (args[i] === '--layers') options.layers = Number(args[++i]);
    else if (args[i] === '--no-save') options.save = false;
    else throw new Stop(`unknown option ${args[i]}; there are --repeat N, --only TEXT, --threads N, --layers N and --no-save`);
  }
  return options;
}

program(import.meta.url, async (args) => {
  const options = readArguments(args);
  await build({ wasm: true, ts: true });
  const { cacheDir, chromium } = await setup({ need: ['chromium'] });
  if (!chromium) throw new Stop('the bench needs Chromium (set CHROMIUM to its program)');
  const peer = await fetchWllama(cacheDir);
  const checkpoint = await makeCheckpoint('smollm2-135m', { layers: options.layers });
  const all = measurements(checkpoint).filter(({ name, threads }) => name.includes(options.only) && threads === (options.threads ?? threads));
  for (const { format } of all) await makeGguf(checkpoint, format);

  const site = await openSite({ program: chromium, dist: join(projectDir, 'dist'), folders: { '/model/': [checkpoint.folder], '/wllama/': [peer.folder] } });
  const machine = {
    date: new Date().toISOString(), commit: await ask('git', ['rev-parse', '--short', 'HEAD']), cores: cpus().length, cpu: cpus()[0].model.replaceAll(',', ''),
    load: loadavg()[0].toFixed(1), chromium: site.version, wllama: peer.version, layers: checkpoint.config.num_hidden_layers,
  };
  console.log(`${machine.cores} cores of ${machine.cpu}, load average ${machine.load}, Chromium ${machine.chromium}, wllama ${machine.wllama}`);
  if (loadavg()[0] > 0.5) console.log('the machine is busy: two threads that wait for each other suffer most, so compare those in a quiet hour');
  const samples = new Map(all.map((one) => [one, []]));
  try {
    for (let turn = 0; turn < options.repeat; turn++) {
      for (const one of turn % 2 ? all.toReversed() : all) {
        const found = await measure(site, one);
        samples.get(one).push(found);
        console.log(`  ${turn + 1}/${options.repeat} ${one.name}, ${one.threads} threads: ${found.load.toFixed(0)} ms, ${found.prefill.toFixed(1)} and ${found.decode.toFixed(1)} tok/s`);
      }
    }
  } finally {
    await site.close();
  }
  const rows = summarise(all, samples);
  console.log('');
  print(rows);
  if (options.save) await save(rows, machine);
});
