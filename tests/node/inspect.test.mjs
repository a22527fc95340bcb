/** inspect: what a weight file declares, and every malformed file refused in words before anything is believed. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { golden, heddleError, needs, projectFolder, shared, testOnEveryModule } from './heddle.mjs';
import { readSafetensors, writeSafetensors } from './golden.mjs';

const malformed = 'fixtures/real/safetensors-malformed';
const small = 'fixtures/real/safetensors-small';
const filesOf = (folder) => (existsSync(shared(folder)) ? readdirSync(shared(folder)).filter((name) => name.endsWith('.safetensors')) : []);

for (const folder of [malformed, small]) if (filesOf(folder).length === 0) test(`the files of ../shared/${folder}`, needs(folder), () => undefined);

/** What the message has to name, by file. */
const reasons = {
  'refuse-empty-file': /0 bytes/,
  'refuse-first-offset-not-zero': /"a".*begin at 0.*found 4/,
  'refuse-header-is-array': /byte 8.*object.*found '\['/,
  'refuse-header-length-2pow63': /./,
  'refuse-header-length-all-ones': /found a length of 18446744073709551615/,
  'refuse-header-longer-than-file': /62 bytes.*4096/,
  'refuse-invalid-utf8': /byte 10.*UTF-8.*0xFF/i,
  'refuse-lower-case-dtype': /"a".*dtype.*"f32"/,
  'refuse-metadata-not-strings': /__metadata__.*string/,
  'refuse-negative-dimension': /"a".*whole number.*'-'/,
  'refuse-reversed-offsets': /"a".*\[4, 0\]/,
  'refuse-shape-product-overflow-64bit': /"a".*\[4294967296, 4294967296\]/,
  'refuse-shape-times-size-overflow': /"a".*\[2305843009213693952, 1\]/,
  'refuse-size-mismatch': /"a".*12 bytes.*8/,
  'refuse-three-offsets': /"a".*two.*third/,
  'refuse-trailing-data': /70 bytes.*74/,
  'refuse-unknown-dtype': /"a".*dtype.*"Q7"/,
  'gap-or-trailing': /32851.*32856/,
};

for (const file of filesOf(malformed)) {
  const name = file.replace('.safetensors', '');
  const path = shared(`${malformed}/${file}`);
  if (name.startsWith('accept-')) {
    testOnEveryModule(`inspect accepts ${name}`, async (runtime) => {
      const { tensors, bytes } = await runtime.inspect(path);
      assert.equal(bytes, readFileSync(path).length);
      for (const { name: tensor, dtype, shape, begin, end } of tensors) {
        const want = readSafetensors(path).get(tensor);
        assert.deepEqual({ dtype, shape, bytes: end - begin }, { dtype: want.dtype, shape: want.shape, bytes: want.data.length * 4 });
      }
      assert.equal(tensors.length, readSafetensors(path).size);
    });
  } else if (name.startsWith('either-')) {
    // The written rules and the reference reader differ; we read it.
    testOnEveryModule(`inspect reads ${name} as the reference reader does`, async (runtime) => assert.deepEqual((await runtime.inspect(path)).tensors, []));
  } else {
    testOnEveryModule(`inspect refuses ${name} and says why`, async (runtime) => {
      assert.ok(reasons[name], `no reason is written down for ${name}`);
      const code = /dtype/.test(name) ? 'unsupported' : 'bad_file';
      for (const source of [path, readFileSync(path)]) await assert.rejects(runtime.inspect(source), heddleError(code, reasons[name]));
      await assert.rejects(runtime.inspect(path), heddleError(code, new RegExp(file)), 'the message names the file');
    });
  }
}

for (const file of filesOf(small)) {
  testOnEveryModule(`F31 inspect lists ${file} as it is`, async (runtime) => {
    const bytes = readFileSync(shared(`${small}/${file}`));
    const { __metadata__: metadata = {}, ...tensors } = JSON.parse(bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE(0))));
    const start = 8 + Number(bytes.readBigUInt64LE(0));
    const info = await runtime.inspect(shared(`${small}/${file}`));
    const want = Object.entries(tensors).map(([name, { dtype, shape, data_offsets: [begin, end] }]) => ({
      name, dtype, shape, numel: shape.reduce((a, b) => a * b, 1), begin: start + begin, end: start + end, byteSize: end - begin,
    }));
    assert.deepEqual(info, { format: 'SafeTensors', tensors: want.sort((a, b) => a.begin - b.begin), metadata, bytes: bytes.length });
  });
}

testOnEveryModule('inspect reads the built-in model without its weights', async (runtime) => {
  const path = join(projectFolder, 'demo/models/story/model.safetensors');
  const { tensors, metadata } = await runtime.inspect(path);
  assert.deepEqual(metadata, { format: 'pt' });
  assert.deepEqual(tensors.find(({ name }) => name === 'model.embed_tokens.weight')?.shape, [512, 96]);
  assert.ok(tensors.every(({ dtype }) => dtype === 'BF16'));
  const viaFolder = await runtime.inspect(join(projectFolder, 'demo/models/story'));
  assert.deepEqual(viaFolder.tensors, tensors);
});

testOnEveryModule('a stream without a size is counted', async (runtime) => {
  const file = writeSafetensors({ a: { shape: [1], data: [1] } });
  assert.equal((await runtime.inspect(new Blob([file]).stream())).bytes, file.length);
  await assert.rejects(runtime.inspect(new Blob([file.subarray(0, file.length - 1)]).stream()), heddleError('bad_file', /the stream given/));
});

testOnEveryModule('what is no file is refused with what was expected', async (runtime) => {
  await assert.rejects(runtime.inspect(golden('no/such/file')), heddleError('bad_file', /cannot open .*no.such.file/));
  await assert.rejects(runtime.inspect(17), heddleError('bad_argument', /expected a URL, text, bytes.*found 17/));
  await assert.rejects(runtime.inspect(null), heddleError('bad_argument', /found null/));
  await assert.rejects(runtime.loadModel({}), heddleError('bad_file', /no config\.json/));
});
