/** What a conversion by the command line keeps besides the weights: tokenizers, chat templates, pooling; and in which words it and generate refuse. */
import assert from 'node:assert/strict';
import { copyFileSync, cpSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { heddle, json, ok, out } from './command-line.mjs';
import { assertSameBits, readSafetensors } from './golden.mjs';
import { golden, needs, readJson, runtimeWith, shared } from './heddle.mjs';
import { writeGguf } from './llamacpp.mjs';
import { serverFor } from './range-server.mjs';

const tale = golden('transformers/e2e-llama-text');
const template = '{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}';

/** The tale's model with a chat template in a file of its own. */
function taleWith(name, file, content) {
  const place = out(name);
  cpSync(tale, place, { recursive: true });
  writeFileSync(join(place, file), content);
  return place;
}

test('C1: convert GPT-2 → GGUF → folder, SafeTensors and PyTorch: matrices lie as in the checkpoint', async () => {
  const source = golden('transformers/gpt2');
  const own = readSafetensors(join(source, 'model.safetensors'));
  await ok(['convert', source, out('gpt2.gguf')]);
  await ok(['convert', out('gpt2.gguf'), out('gpt2-hf'), '--to', 'hf']);
  await ok(['convert', out('gpt2.gguf'), out('gpt2.pt')]);
  await ok(['convert', out('gpt2.pt'), out('gpt2.safetensors')]);
  for (const file of [join(out('gpt2-hf'), 'model.safetensors'), out('gpt2.safetensors')]) {
    const found = readSafetensors(file);
    assert.deepEqual([...found.keys()].sort(), [...own.keys()].sort());
    for (const [name, { shape, data }] of own) {
      assert.deepEqual(found.get(name).shape, shape, name);
      assertSameBits(found.get(name).data, data, name);
    }
  }
  const ids = readJson(join(source, 'expected.json')).prompt_ids;
  const runtime = await runtimeWith('simd128');
  const [a, b] = [await runtime.loadModel(source), await runtime.loadModel(out('gpt2-hf'))];
  assertSameBits(await b.forward(ids), await a.forward(ids), 'logits');
  await Promise.all([a.free(), b.free()]);
});

test('C1: convert keeps chat_template.jinja and chat_template.json, in a GGUF file and in a folder', async () => {
  for (const [file, content] of [['chat_template.jinja', template], ['chat_template.json', JSON.stringify({ chat_template: template })]]) {
    const place = taleWith(`with-${file}`, file, content);
    await ok(['convert', place, out(`${file}.gguf`)]);
    const { metadata } = await json(['inspect', out(`${file}.gguf`)]);
    assert.equal(metadata['tokenizer.chat_template'], template, file);
    await ok(['convert', place, out(`${file}-hf`), '--to', 'hf']);
    assert.equal(readFileSync(join(out(`${file}-hf`), file), 'utf8'), content);
    await ok(['convert', out(`${file}.gguf`), out(`${file}-back`), '--to', 'hf']);
    const { stdout } = await ok(['generate', out(`${file}-back`), '--chat', '-p', 'once', '-n', '2', '--json']);
    assert.equal(JSON.parse(stdout).usage.tokens, 2);
  }
});

test('C1: convert of a sentence encoder keeps the files that say how texts become vectors; others are named', async () => {
  const place = out('encoder');
  cpSync(golden('transformers/minilm-like'), place, { recursive: true });
  writeFileSync(join(place, 'special_tokens_map.json'), '{}');
  writeFileSync(join(place, 'handler.py'), '');
  for (const to of ['hf', 'mlx']) {
    const { stderr } = await ok(['convert', place, out(`encoder-${to}`), '--to', to]);
    for (const file of ['modules.json', '1_Pooling/config.json', 'sentence_bert_config.json', 'special_tokens_map.json']) {
      assert.deepEqual(readFileSync(join(out(`encoder-${to}`), file)), readFileSync(join(place, file)), file);
    }
    assert.match(stderr, /^warning: left where they are: .*handler\.py/m);
  }
  const { stderr } = await ok(['convert', place, out('encoder.gguf')]);
  assert.match(stderr, /GGUF has no place for how texts become vectors here: normalize true/);
  assert.equal((await json(['inspect', out('encoder.gguf')])).metadata['bert.pooling_type'], 1);
});

const stories = (name) => shared(`fixtures/real/stories260k/${name}`);
const storiesThere = needs('fixtures/real/stories260k/stories260K.bin');

test('C1: a llama2.c checkpoint by its path or address has the tokenizer beside it, and keeps it when it is converted', storiesThere, async () => {
  const said = ['-p', 'Once upon a time', '-n', '20'];
  const { stdout: want } = await ok(['generate', stories('stories260K-f32.gguf'), ...said]);
  assert.match(want, /there was a little girl named Lily/);
  assert.equal((await ok(['generate', stories('stories260K.bin'), ...said])).stdout, want);
  const ids = (await ok(['tokenize', stories('stories260K-f32.gguf'), 'Once upon a time'])).stdout;
  assert.equal((await ok(['tokenize', stories('stories260K.bin'), 'Once upon a time'])).stdout, ids);

  const place = out('llama2c');
  mkdirSync(place);
  for (const name of ['stories260K.bin', 'tok512.bin']) copyFileSync(stories(name), join(place, name));
  for (const [i, source] of [place, join(place, 'stories260K.bin')].entries()) {
    await ok(['convert', source, out(`llama2c-${i}.gguf`)]);
    await ok(['convert', source, out(`llama2c-${i}`), '--to', 'hf']);
    for (const made of [out(`llama2c-${i}.gguf`), out(`llama2c-${i}`)]) {
      assert.equal((await ok(['generate', made, ...said])).stdout, want, made);
      assert.equal((await ok(['tokenize', made, 'Once upon a time'])).stdout, ids, made);
    }
    assert.ok(readdirSync(out(`llama2c-${i}`)).includes('tokenizer.json'));
  }

  const file = (name) => ({ bytes: readFileSync(stories(name)), etag: '"1"' });
  const server = await serverFor({ 'm/stories260K.bin': file('stories260K.bin'), 'm/tokenizer.bin': file('tok512.bin') });
  assert.equal((await ok(['generate', `${server.address}/m/stories260K.bin`, ...said])).stdout, want);
});

test('C1: weights alone run with --config and --tokenizer; --template and a missing one are said by their flags', storiesThere, async () => {
  const said = ['-p', 'Once upon a time', '-n', '20'];
  const { stdout: want } = await ok(['generate', stories('hf'), ...said]);
  const bare = out('bare.pt');
  await ok(['convert', join(stories('hf'), 'model.safetensors'), bare]);
  const { code, stderr } = await heddle(['generate', bare, ...said]);
  assert.equal(code, 3);
  assert.match(stderr, /give their description as --config/);
  assert.ok(!stderr.includes('options.'), stderr);
  const config = ['--config', join(stories('hf'), 'config.json')];
  for (const tokenizer of [stories('hf'), join(stories('hf'), 'tokenizer.json'), stories('tok512.bin')]) {
    assert.equal((await ok(['generate', bare, ...config, '--tokenizer', tokenizer, ...said])).stdout, want, tokenizer);
  }
  const none = await heddle(['generate', stories('hf'), '--chat', ...said]);
  assert.equal(none.code, 3);
  assert.match(none.stderr, /--template/);
  assert.ok(!none.stderr.includes('options.'), none.stderr);
  writeFileSync(out('t.jinja'), '{{ messages[0].content }}');
  assert.match((await ok(['generate', stories('hf'), '--chat', '--template', out('t.jinja'), ...said])).stdout, /\w/);
  const wrong = await heddle(['generate', bare, ...config, '--tokenizer', join(stories('hf'), 'config.json'), ...said]);
  assert.equal(wrong.code, 3);
  assert.match(wrong.stderr, /config\.json: expected a tokenizer's folder or file/);
});

test('C1: a GGUF file whose metadata describe no model is named, and --plain takes its tensors', async () => {
  const values = Float32Array.from({ length: 64 }, (_, i) => i / 7);
  writeFileSync(out('bare.gguf'), writeGguf({ 'general.architecture': ['string', 'llama'] }, { 'blk.0.attn_q.weight': { type: 'F32', shape: [8, 8], bytes: values } }));
  const { code, stderr } = await heddle(['convert', out('bare.gguf'), out('bare-model.pt')]);
  assert.equal(code, 3, stderr);
  assert.match(stderr, /bare\.gguf: GGUF: llama\.embedding_length: expected one number, found none; .*--plain/);
  await ok(['convert', out('bare.gguf'), out('bare.safetensors'), '--plain']);
  assertSameBits(readSafetensors(out('bare.safetensors')).get('blk.0.attn_q.weight').data, values, 'blk.0.attn_q.weight');
});

test('C1: tokenize --decode takes ids between spaces or commas, as one argument or several; an id outside the vocabulary is an error', async () => {
  const { prompt, prompt_ids: ids } = readJson(join(tale, 'expected.json'));
  for (const given of [[ids.join(',')], [ids.join(' ')], [`${ids.join(', ')},`], ids.map(String)]) {
    assert.equal((await ok(['tokenize', tale, '--decode', ...given])).stdout, `${prompt}\n`);
  }
  const { code, stderr } = await heddle(['tokenize', tale, '--decode', '1 99999999']);
  assert.equal(code, 3);
  assert.match(stderr, /there is no token 99999999: the vocabulary has the ids below \d+/);
});
