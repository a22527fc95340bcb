/**
 * Hostile files through the compiled modules: mutated headers by the thousand, and every file of the shared collections by its name. What a
 * megabyte may cost is tests/native/test_hostile.c's; the fuzz targets are in tests/fuzz.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { heddle, modules, needs, optionsFor, shared, testOnEveryModule } from './heddle.mjs';

/** As many mutated headers on all modules together; HEDDLE_MUTATIONS=100000 is the checklist's own number, for each. */
const mutations = Number(process.env.HEDDLE_MUTATIONS ?? 20_000 / modules.length);

/** The same numbers from 0 to n − 1 every time. */
function numbers(seed) {
  let state = seed;
  return (n) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * n);
  };
}

function safetensors(header, dataBytes) {
  const text = new TextEncoder().encode(header);
  const file = new Uint8Array(8 + text.length + dataBytes);
  new DataView(file.buffer).setBigUint64(0, BigInt(text.length), true);
  file.set(text, 8);
  return file;
}

const originals = [
  safetensors('{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]}}', 32),
  safetensors('{"w":{"dtype":"F4","shape":[2,2],"data_offsets":[0,2]},"é":{"dtype":"BOOL","shape":[],"data_offsets":[2,3]},"z":{"dtype":"I64","shape":[0],"data_offsets":[3,3]}}', 3),
];
/** What a header is made of, for mutations that stay near one. */
const pieces = ['"', '{', '}', '[', ']', ',', ':', '0', '-1', '1e9', '18446744073709551616', '9007199254740993', '\\u0000', '\\ud800', '"dtype"', '"shape"', '"F8_E4M3"', '"__metadata__"',
  '"data_offsets":[0,0]', '\xff', 'null', ' '].map((piece) => Uint8Array.from(piece, (c) => c.charCodeAt(0)));

/** One of five: a byte changed, a bit flipped, a span taken out, a span doubled, a piece put in. The header's length is kept right half of the time. */
function mutate(file, random) {
  const at = random(file.length);
  const end = Math.min(file.length, at + 1 + random(12));
  const span = file.subarray(at, end);
  const kinds = [
    () => [file.subarray(0, at), Uint8Array.of(random(256)), file.subarray(at + 1)],
    () => [file.subarray(0, at), Uint8Array.of(file[at] ^ (1 << random(8))), file.subarray(at + 1)],
    () => [file.subarray(0, at), file.subarray(end)],
    () => [file.subarray(0, end), span, file.subarray(end)],
    () => [file.subarray(0, at), pieces[random(pieces.length)], file.subarray(at)],
  ];
  const mutated = Buffer.concat(kinds[random(kinds.length)]());
  const grown = mutated.length - file.length;
  if (mutated.length >= 8 && at >= 8 && random(2) === 0) {
    mutated.writeUInt32LE((mutated.readUInt32LE(0) + grown) >>> 0, 0);
  }
  return mutated;
}

/** One instance for all files, so that what one of them left behind would show; its staging buffer is there already. */
async function countedRuntime(module) {
  const runtime = await heddle.init({ ...optionsFor(module), shared: true });
  await runtime.inspect(originals[0]);
  return runtime;
}

testOnEveryModule(`E8: ${mutations} mutated headers neither trap nor hang, and leave no memory behind`, async (_, module) => {
  const runtime = await countedRuntime(module);
  const random = numbers(8);
  const { live } = runtime.memory();
  let nRead = 0;
  let slowest = 0;
  for (let i = 0; i < mutations; i++) {
    let file = originals[random(originals.length)];
    for (let more = 1 + random(3); more > 0 && file.length > 0; more--) file = mutate(file, random);
    const start = performance.now();
    try {
      const { tensors, bytes } = await runtime.inspect(new Uint8Array(file));
      for (const { begin, end } of tensors) assert.ok(begin <= end && end <= bytes);
      nRead++;
    } catch (error) {
      assert.ok(error instanceof heddle.HeddleError, `${Buffer.from(file).toString('hex')}: ${error.stack}`);
      assert.match(error.code, /^(bad_file|unsupported)$/, error.message);
    }
    slowest = Math.max(slowest, performance.now() - start);
  }
  assert.equal(runtime.memory().live, live);
  assert.ok(nRead > mutations / 50 && nRead < mutations / 2, `${nRead} of ${mutations} were read`);
  assert.ok(slowest < 1000, `the slowest took ${slowest} ms`);
  await runtime.free();
});

// ---- The shared collections, file by file ----

const filesOf = (folder, ending) => (existsSync(shared(folder)) ? readdirSync(shared(folder)).filter((name) => name.endsWith(ending)) : []);

/** One module is enough: the native tests and the modules run the same lines. */
let counted;
const testOnce = (name, run) => test(name, async () => run(await (counted ??= countedRuntime(modules[0]))));
after(async () => (await counted)?.free());

const pickles = 'fixtures/real/pickle-hostile';
if (!existsSync(shared(pickles))) test(`the files of ../shared/${pickles}`, needs(pickles), () => undefined);
else {
  const rows = [...readFileSync(shared(`${pickles}/README.md`), 'utf8').matchAll(/^\| `([^`]+)` \|.*$/gm)];
  test('E9: the README of the hostile pickles names every file there', () => {
    assert.deepEqual(rows.map(([, name]) => name).sort(), filesOf(pickles, '').filter((name) => !/^(README|LICENSE)/.test(name)).sort());
  });
  for (const [row, name] of rows) {
    const harmless = row.includes('harmless content');
    testOnce(`E9: ${name} is ${harmless ? 'read: it is harmless' : 'refused, and nothing of it runs'}`, async (runtime) => {
      const { live } = runtime.memory();
      if (harmless) await runtime.inspect(shared(`${pickles}/${name}`));
      else await assert.rejects(runtime.inspect(shared(`${pickles}/${name}`)), (error) => error instanceof heddle.HeddleError && error.message.length > name.length + 10);
      assert.equal(runtime.memory().live, live);
    });
  }
}

const suite = 'fixtures/real/json-test-suite';
const verdicts = { y: 'is read', n: 'is refused', i: 'is read or refused' };
const texts = filesOf(suite, '.json').filter((name) => verdicts[name[0]]);
if (texts.length === 0) test(`the files of ../shared/${suite}`, needs(suite), () => undefined);
for (const name of texts) {
  testOnce(`E5: ${name} ${verdicts[name[0]]}`, (runtime) => {
    const { live } = runtime.memory();
    // In the place of a value: any text that is no JSON breaks the whole.
    const text = Buffer.concat([Buffer.from('{"version":"1.0","weights":{},"config":{"x":'), readFileSync(join(shared(suite), name)), Buffer.from('}}')]);
    let refusal;
    try {
      runtime.mlxToSafetensors(text);
    } catch (error) {
      refusal = error;
    }
    if (refusal) assert.ok(refusal instanceof heddle.HeddleError && refusal.code === 'bad_file', refusal.stack);
    if (name[0] !== 'i') assert.equal(refusal === undefined, name[0] === 'y', refusal?.message);
    assert.equal(runtime.memory().live, live);
  });
}
