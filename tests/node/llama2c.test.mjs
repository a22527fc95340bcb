/**
 * llama2.c's checkpoints: the published stories260K.bin (version 0), the same weights as version 1 (checkpoint_v1.bin), and as version 2, written here as
 * export.py does: each by itself is the model of the Hugging Face files, and tells the published story.
 */
import assert from 'node:assert/strict';
import { copyFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { execFileSync } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertClose, assertSameBits, readSafetensors } from './golden.mjs';
import { heddleError, needs, packageFolder, readJson, shared, testOnEveryModule } from './heddle.mjs';

const folder = 'fixtures/real/stories260k';
const skipped = needs(folder);
const at = (file) => shared(`${folder}/${file}`);
const bytesOf = (file) => new Uint8Array(readFileSync(at(file)));
const cases = skipped.skip ? [] : readJson(at('expected.json')).cases;
const originals = () => readSafetensors(at('hf/model.safetensors'));
const tokenizer = () => ({ 'tokenizer.bin': bytesOf('tok512.bin') });

if (skipped.skip) test('llama2.c checkpoints tell the published story', skipped, () => undefined);

async function assertStories(model) {
  for (const { prompt, prompt_ids: promptIds, ids, text, last_prompt_position_logits: want } of cases) {
    assert.deepEqual(await model.tokenize(prompt), promptIds);
    const made = [];
    let story = '';
    for await (const { token, text: piece } of model.generate(prompt, { maxTokens: ids.length - promptIds.length })) {
      made.push(token);
      story += piece;
    }
    assert.deepEqual([...promptIds, ...made], ids, prompt);
    assert.equal(prompt + story, text);
    const session = await model.createSession({ outputRows: 1 });
    await session.decode(promptIds);
    assertClose(await session.logits(), want, 1e-4, `"${prompt}"`);
    await session.free();
  }
}

for (const file of ['stories260K.bin', 'checkpoint_v1.bin']) {
  testOnEveryModule(`llama2.c ${file} by itself is the model: its weights, heads' rows put back, the published ids, texts and logits`, skipped, async (runtime) => {
    const model = await runtime.loadModel(bytesOf(file), { tokenizer: tokenizer() });
    const want = originals();
    assert.deepEqual(model.weights.map(({ name }) => name).sort(), [...want.keys()].sort());
    for (const [name, { data }] of want) assertSameBits(await model.readWeight(name), data, name);
    await assertStories(model);
    await model.free();
  });

  testOnEveryModule(`llama2.c ${file} is listed under GGUF's names, comes as a Blob, a stream and a path, and is kept as any other`, skipped, async (runtime) => {
    const { format, tensors, metadata, bytes } = await runtime.inspect(at(file));
    assert.deepEqual([format, tensors.length, bytes], ['llama2.c', 47, bytesOf(file).length]);
    assert.deepEqual(tensors.find(({ name }) => name === 'blk.4.ffn_down.weight').shape, [64, 172]);
    assert.deepEqual([metadata['general.architecture'], metadata['llama.block_count'], metadata['llama.attention.head_count_kv']], ['llama', 5, 4]);
    const same = await runtime.loadModel(at('hf'), { dtype: 'q8_0' });
    for (const source of [at(file), new Blob([bytesOf(file)]), new Response(bytesOf(file))]) {
      const model = await runtime.loadModel(source, { dtype: 'q8_0' });
      for (const { name } of same.weights) assertSameBits(await model.readWeight(name), await same.readWeight(name), name);
      await model.free();
    }
    await same.free();
  });
}

testOnEveryModule('llama2.c a folder with a checkpoint and its tokenizer is a model, and files by name are', skipped, async (runtime) => {
  const own = mkdtempSync(join(tmpdir(), 'heddle-llama2c-'));
  try {
    for (const [checkpoint, vocabulary] of [['stories260K.bin', 'tok512.bin'], ['model.bin', 'tokenizer.bin']]) {
      const place = mkdtempSync(join(own, 'model-'));
      copyFileSync(at('stories260K.bin'), join(place, checkpoint));
      copyFileSync(at('tok512.bin'), join(place, vocabulary));
      for (const source of [place, { [checkpoint]: bytesOf('stories260K.bin'), [vocabulary]: bytesOf('tok512.bin') }]) {
        const model = await runtime.loadModel(source);
        const [, { prompt, text }] = cases;
        assert.equal((prompt + (await model.generate(prompt, { maxTokens: 60 }).text())).slice(0, 100), text.slice(0, 100));
        await model.free();
      }
    }
    await assert.rejects(runtime.loadModel({ 'a.bin': bytesOf('stories260K.bin') }), heddleError('bad_file', /config\.json/));
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
});

// ---- Version 2 ----

/** export.py's version2_export of a version 1 file: int8 codes by symmetric rounding, a scale for each group. And the values it stands for, by Hugging Face's names. */
function asVersion2(group) {
  const file = bytesOf('checkpoint_v1.bin');
  const [dim, hidden, layers, heads, kvHeads, vocabulary] = Array.from({ length: 6 }, (_, i) => new DataView(file.buffer).getInt32(8 + 4 * i, true));
  const kv = (dim / heads) * kvHeads;
  const header = file.slice(0, 256);
  header[4] = 2;
  new DataView(header.buffer).setInt32(37, group, true);
  const floats = new Float32Array(file.slice(256).buffer);
  const norms = (2 * layers + 1) * dim;
  const parts = [header, floats.slice(0, norms)];
  const values = new Map();
  let place = norms;
  const take = (name, rows, cols) => {
    const own = floats.subarray(place, (place += rows * cols));
    const [codes, scales, back] = [new Int8Array(own.length), new Float32Array(own.length / group), new Float32Array(own.length)];
    for (let g = 0; g < scales.length; g++) {
      const some = own.subarray(g * group, (g + 1) * group);
      scales[g] = Math.max(...some.map(Math.abs)) / 127;
      some.forEach((value, i) => {
        codes[g * group + i] = Math.round(value / scales[g]);
        back[g * group + i] = codes[g * group + i] * scales[g];
      });
    }
    parts.push(codes, scales);
    values.set(name, { rows, cols, back });
  };
  take('model.embed_tokens', vocabulary, dim);
  for (const [part, rows, cols] of [['self_attn.q_proj', dim, dim], ['self_attn.k_proj', kv, dim], ['self_attn.v_proj', kv, dim], ['self_attn.o_proj', dim, dim], ['mlp.gate_proj', hidden, dim], ['mlp.down_proj', dim, hidden], ['mlp.up_proj', hidden, dim]]) {
    for (let i = 0; i < layers; i++) take(`model.layers.${i}.${part}`, rows, cols);
  }
  assert.equal(place, floats.length);
  return { file: new Uint8Array(Buffer.concat(parts.map((part) => Buffer.from(part.buffer, part.byteOffset, part.byteLength)))), values, headDim: dim / heads };
}

/** Row 2i + p of a head is row p · half + i in Hugging Face. */
function halves(back, rows, cols, headDim) {
  const out = new Float32Array(back.length);
  for (let r = 0; r < rows; r++) {
    const [head, within] = [r - (r % headDim), r % headDim];
    out.set(back.subarray(r * cols, (r + 1) * cols), (head + (within % 2) * (headDim / 2) + (within >> 1)) * cols);
  }
  return out;
}

testOnEveryModule('llama2.c version 2: int8 codes and their scales become the values they stand for, whatever comes first', skipped, async (runtime) => {
  const { file, values, headDim } = asVersion2(4);
  for (const source of [file, new Response(file)]) {
    const model = await runtime.loadModel(source, { dtype: 'f32' });
    for (const [name, { rows, cols, back }] of values) {
      const want = /[qk]_proj/.test(name) ? halves(back, rows, cols, headDim) : back;
      assertSameBits(await model.readWeight(`${name}.weight`), want, name);
    }
    assertSameBits(await model.readWeight('model.norm.weight'), originals().get('model.norm.weight').data, 'norm');
    await model.free();
  }
  const kept = await runtime.loadModel(file, { tokenizer: tokenizer() });
  assert.deepEqual([kept.report.weights[0].fileDtype, kept.report.weights[0].packing, kept.report.weights[0].dtype], ['I8', 'sym8_groups, 8 bits, groups of 4', 'Q8_0']);
  const [, { prompt, text }] = cases;
  assert.equal((prompt + (await kept.generate(prompt, { maxTokens: 20 }).text())).slice(0, 40), text.slice(0, 40));
  await kept.free();
});

testOnEveryModule('llama2.c what is broken is refused with the reason', skipped, async (runtime) => {
  const file = bytesOf('checkpoint_v1.bin');
  const changed = (at, value) => {
    const copy = file.slice();
    new DataView(copy.buffer).setInt32(at, value, true);
    return copy;
  };
  for (const [source, code, reason] of [
    [file.subarray(0, file.length - 4), 'bad_file', /llama2\.c: expected 1040384 bytes by the sizes in its header, found 1040380/],
    [changed(4, 9), 'unsupported', /llama2\.c: byte 4: expected version 1 or 2, found 9/],
    [changed(16, -5), 'bad_file', /llama2\.c: byte 8: expected a Llama's sizes, found 64 wide, 172 hidden, -5 layers/],
    [bytesOf('stories260K.bin').subarray(4), 'bad_file', /expected a weight file \(.*llama2\.c/],
  ]) {
    await assert.rejects(runtime.loadModel(source), heddleError(code, reason));
    await assert.rejects(runtime.inspect(source), heddleError(code, reason));
  }
});

// ---- The command line ----

test('llama2.c a checkpoint is converted to SafeTensors and GGUF, and makes text, by the command line', skipped, async () => {
  const own = mkdtempSync(join(tmpdir(), 'heddle-llama2c-cli-'));
  const program = join(packageFolder, readJson(join(packageFolder, 'package.json')).bin.heddle);
  const run = (...args) => execFileSync(process.execPath, [program, ...args], { encoding: 'utf8' });
  try {
    run('convert', at('stories260K.bin'), join(own, 'model.safetensors'));
    const got = readSafetensors(join(own, 'model.safetensors'));
    for (const [name, { shape, data }] of originals()) {
      assert.deepEqual(got.get(name).shape, shape, name);
      assertSameBits(got.get(name).data, data, name);
    }
    run('convert', at('stories260K.bin'), join(own, 'model.gguf'));
    const listed = JSON.parse(run('inspect', join(own, 'model.gguf'), '--json'));
    assert.equal(listed.format, 'GGUF');
    const place = mkdtempSync(join(own, 'folder-'));
    copyFileSync(at('stories260K.bin'), join(place, 'stories260K.bin'));
    copyFileSync(at('tok512.bin'), join(place, 'tok512.bin'));
    const text = run('generate', place, '--prompt', cases[1].prompt, '--max-tokens', '20');
    assert.match(text, /there was a little girl named Lily/);
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
});
