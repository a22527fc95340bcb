/**
 * Tokenizers as transformers reads them: ids, texts, pairs and streams of every case in tests/golden/transformers/tokenizers, which
 * tokenizers 0.23.3 computed, and the text of e2e-llama-text. What other files say of a tokenizer is tokenizer-formats.test.mjs.
 */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { golden, heddle, heddleError, readJson } from './heddle.mjs';

const { Tokenizer } = heddle;
const folder = golden('transformers/tokenizers');
const filesOf = (path) => ({ 'tokenizer.json': readJson(join(path, 'tokenizer.json')), 'tokenizer_config.json': readJson(join(path, 'tokenizer_config.json')) });
const plain = { addSpecialTokens: false };
const kept = { skipSpecialTokens: false };

const names = readdirSync(folder).sort();
assert.equal(names.length, 8);

for (const name of names) {
  const { cases, multi_token_characters: characters, broken_sequences: broken, pair, vocab_size: size, special_tokens: specials } = readJson(join(folder, name, 'cases.json'));
  const tokenizer = new Tokenizer(filesOf(join(folder, name)));
  assert.ok(cases.length >= 56, `${name} has its cases`);

  for (const [i, { text, ids, ids_no_special: bare, tokens, decoded, decoded_skip_special: shown, stream }] of cases.entries()) {
    test(`T21: ${name}, case ${i}: ${JSON.stringify(text.slice(0, 40))}`, () => {
      assert.deepEqual(tokenizer.encode(text), ids, 'ids');
      assert.deepEqual(tokenizer.encode(text, plain), bare, 'ids without special tokens');
      // A unigram model tells what was unknown by its text, which no id has.
      const unknown = specials['<unk>'];
      assert.deepEqual(bare.map((id) => tokenizer.idToToken(id)), tokens.map((token, n) => (bare[n] === unknown ? '<unk>' : token)), 'tokens');
      assert.equal(tokenizer.decode(bare, kept), decoded, 'decoded');
      assert.equal(tokenizer.decode(bare), shown, 'decoded without special tokens');
      if (!stream) return;
      const decoder = tokenizer.stream([], kept);
      assert.deepEqual(bare.map((id) => decoder.push(id)), stream, 'streamed');
      assert.equal(stream.join('') + decoder.end(), decoded, 'all of the stream');
    });
  }

  test(`T21: ${name}: characters of several tokens, piece by piece`, () => {
    for (const { text, ids, prefix_decoded: prefixes, single_decoded: singles } of characters) {
      assert.deepEqual(tokenizer.encode(text, plain), ids, text);
      assert.deepEqual(ids.map((_, n) => tokenizer.decode(ids.slice(0, n + 1), kept)), prefixes, text);
      assert.deepEqual(ids.map((id) => tokenizer.decode([id], kept)), singles, text);
    }
    for (const { ids, decoded } of broken) assert.equal(tokenizer.decode(ids, kept), decoded, JSON.stringify(ids));
  });

  test(`T21: ${name}: a pair, the vocabulary's size, its special tokens`, () => {
    assert.deepEqual(tokenizer.encodePair(pair.a, pair.b), { ids: pair.ids, typeIds: pair.type_ids });
    assert.equal(tokenizer.vocabSize, size);
    for (const [token, id] of Object.entries(specials)) assert.equal(tokenizer.tokenToId(token), id, token);
  });
}

// ---- The same vocabularies said in other files ----

const tokensOf = ({ model, added_tokens: added }) => {
  const tokens = [];
  for (const [token, id] of Array.isArray(model.vocab) ? model.vocab.map(([token], id) => [token, id]) : Object.entries(model.vocab)) tokens[id] = token;
  for (const { id, content } of added) tokens[id] = content;
  return tokens;
};

/** GGUF metadata of a tokenizer.json, as llama.cpp's converter would write it. */
function ggufOf(json, kind, more) {
  const tokens = tokensOf(json);
  const special = new Set(json.added_tokens.map(({ id }) => id));
  const merges = json.model.merges?.map((merge) => (Array.isArray(merge) ? merge.join(' ') : merge));
  const scores = Array.isArray(json.model.vocab) ? Float32Array.from(json.model.vocab, ([, score]) => score) : undefined;
  return new Map(
    Object.entries({
      'tokenizer.ggml.model': kind,
      'tokenizer.ggml.tokens': kind === 'bert' ? tokens.map((token, id) => (special.has(id) ? token : token.startsWith('##') ? token.slice(2) : `▁${token}`)) : tokens,
      'tokenizer.ggml.token_type': Int32Array.from(tokens, (token, id) => (token === '<unk>' ? 2 : special.has(id) ? 3 : 1)),
      ...(merges && { 'tokenizer.ggml.merges': merges }),
      ...(scores && { 'tokenizer.ggml.scores': scores }),
      ...more,
    }),
  );
}

const idOf = (json, token) => tokensOf(json).indexOf(token);
const vocabularyOf = (json) => JSON.stringify(Object.fromEntries(tokensOf(json).map((token, id) => [token, id])));
const mergesOf = (json) => `#version: 0.2\n${json.model.merges.map((merge) => (Array.isArray(merge) ? merge.join(' ') : merge)).join('\n')}\n`;
const bert = (json) => ({ 'tokenizer.ggml.cls_token_id': 2, 'tokenizer.ggml.seperator_token_id': 3, 'tokenizer.ggml.unknown_token_id': 1, 'tokenizer.ggml.padding_token_id': 0, 'tokenizer.ggml.mask_token_id': idOf(json, '[MASK]') });

/** Each: the goldens' name, the form, and the files that say it. */
const otherForms = [
  ['qwen2-bytelevel', 'GGUF metadata', (json) => ({ gguf: ggufOf(json, 'gpt2', { 'tokenizer.ggml.pre': 'qwen2' }) })],
  ['qwen2-bytelevel', 'vocab.json and merges.txt', (json) => ({ 'vocab.json': vocabularyOf(json), 'merges.txt': mergesOf(json), 'tokenizer_config.json': { tokenizer_class: 'Qwen2Tokenizer' } })],
  ['llama3-bytelevel', 'GGUF metadata', (json) => ({ gguf: ggufOf(json, 'gpt2', { 'tokenizer.ggml.pre': 'llama-bpe', 'tokenizer.ggml.bos_token_id': idOf(json, '<|begin_of_text|>') }) })],
  ['gpt2-bytelevel', 'GGUF metadata', (json) => ({ gguf: ggufOf(json, 'gpt2', { 'tokenizer.ggml.pre': 'gpt-2' }) })],
  ['gpt2-bytelevel', 'vocab.json and merges.txt', (json) => ({ 'vocab.json': vocabularyOf(json), 'merges.txt': mergesOf(json) })],
  ['bert-wordpiece-cased', 'GGUF metadata', (json) => ({ gguf: ggufOf(json, 'bert', bert(json)) })],
  ['bert-wordpiece-cased', 'vocab.txt', (json) => ({ 'vocab.txt': `${tokensOf(json).join('\n')}\n` })],
  ['bert-wordpiece-uncased', 'GGUF metadata', (json) => ({ gguf: ggufOf(json, 'bert', bert(json)) })],
  ['bert-wordpiece-uncased', 'vocab.txt', (json) => ({ 'vocab.txt': `${tokensOf(json).join('\n')}\n` })],
];

for (const [name, form, filesFor] of otherForms) {
  const tokenizer = new Tokenizer(filesFor(readJson(join(folder, name, 'tokenizer.json'))));
  test(`T21: ${name} from ${form}: ids and texts of every case`, () => {
    const { cases, pair } = readJson(join(folder, name, 'cases.json'));
    for (const { text, ids, ids_no_special: bare, decoded_skip_special: shown } of cases) {
      assert.deepEqual(tokenizer.encode(text), ids, text);
      assert.deepEqual(tokenizer.encode(text, plain), bare, text);
      if (!name.startsWith('bert')) assert.equal(tokenizer.decode(bare), shown);
    }
    assert.deepEqual(tokenizer.encodePair(pair.a, pair.b).ids, pair.ids);
  });
}

test('T21: t5-unigram from GGUF metadata: ids of every case without marks that normalisation alters', () => {
  const json = readJson(join(folder, 't5-unigram/tokenizer.json'));
  const tokenizer = new Tokenizer({ gguf: ggufOf(json, 't5', { 'tokenizer.ggml.eos_token_id': 1, 'tokenizer.ggml.remove_extra_whitespaces': false }) });
  const { cases } = readJson(join(folder, 't5-unigram/cases.json'));
  // This vocabulary was made with NFKC and one space for several; the metadata's rules are the plain ones.
  const same = cases.filter(({ text }) => text.normalize('NFKC') === text && !/ {2}|^ |▁/.test(text) && text !== '' && !/<|>/.test(text));
  assert.ok(same.length >= 25, `${same.length}`);
  for (const { text, ids } of same) assert.deepEqual(tokenizer.encode(text), ids, JSON.stringify(text));
});

test('T21: a thousand lines with emoji and CJK come back as they were', () => {
  const { cases } = readJson(join(folder, 'qwen2-bytelevel/cases.json'));
  const tokenizer = new Tokenizer(filesOf(join(folder, 'qwen2-bytelevel')));
  const texts = cases.map(({ text }) => text.normalize('NFC')).filter((text) => text !== '');
  for (let i = 0; i < 1000; i++) {
    const line = `${i} ${texts[i % texts.length]} ${texts[(i * 7 + 3) % texts.length]} 😀 你好 🧵`;
    assert.equal(tokenizer.decode(tokenizer.encode(line, plain), kept), line);
  }
});

const e2e = golden('transformers/e2e-llama-text');

test('e2e-llama-text: prompt, text and the pieces of a stream', () => {
  const { prompt, prompt_ids: promptIds, greedy_ids: ids, eos_token_id: end, text, stream } = readJson(join(e2e, 'expected.json'));
  const tokenizer = new Tokenizer(filesOf(e2e));
  assert.deepEqual(tokenizer.encode(prompt), promptIds);
  const answer = ids.filter((id) => id !== end);
  assert.equal(tokenizer.decode(answer), text);
  const decoder = tokenizer.stream();
  assert.deepEqual(answer.map((id) => decoder.push(id)), stream);
  assert.equal(decoder.end(), '');
});

test('a stream never gives half a character, wherever the prompt was cut', () => {
  for (const name of names) {
    const tokenizer = new Tokenizer(filesOf(join(folder, name)));
    const ids = tokenizer.encode('a 👩‍👩‍👧 日本語 🧵🧵🧵🧵 é naïve 😀😀😀 end', plain);
    const whole = tokenizer.decode(ids, kept);
    for (let cut = 0; cut < ids.length; cut++) {
      const before = tokenizer.decode(ids.slice(0, cut), kept);
      if (before.endsWith('\uFFFD')) continue;
      const stream = tokenizer.stream(ids.slice(0, cut), kept);
      const pieces = [...ids.slice(cut).map((id) => stream.push(id)), stream.end()];
      assert.equal(before + pieces.join(''), whole, `${name} cut at ${cut}`);
      assert.ok(!pieces.some((piece) => piece.includes('\uFFFD')), `${name} cut at ${cut}: ${JSON.stringify(pieces)}`);
    }
  }
});

test('what was held back comes at the end, and bytes that are no character do not swallow what follows', () => {
  const tokenizer = new Tokenizer(filesOf(join(folder, 'llama2-bytefallback')));
  const { broken_sequences: [{ ids: [f0, ...rest] }] } = readJson(join(folder, 'llama2-bytefallback/cases.json'));
  const stream = tokenizer.stream();
  const x = tokenizer.tokenToId('x');
  assert.deepEqual([f0, ...rest, f0, x].map((id) => stream.push(id)), ['', '', '', '😀', '', '\uFFFDx']);
  assert.equal(stream.push(f0), '');
  assert.equal(stream.end(), '\uFFFD');
});

test('ids that are no tokens have no text, and special tokens are left out of streams', () => {
  const tokenizer = new Tokenizer(filesOf(join(folder, 'llama3-bytelevel')));
  const ids = tokenizer.encode('two words', plain);
  const eot = tokenizer.tokenToId('<|eot_id|>');
  assert.equal(tokenizer.decode([9999, ...ids, 123456, eot]), 'two words');
  const stream = tokenizer.stream();
  assert.equal([9999, eot, ...ids, eot].map((id) => stream.push(id)).join(''), 'two words');
  assert.equal(tokenizer.decode([]), '');
  assert.equal(tokenizer.decode([eot], kept), '<|eot_id|>');
  assert.equal(tokenizer.beginToken, tokenizer.tokenToId('<|begin_of_text|>'));
  assert.equal(tokenizer.endToken, tokenizer.tokenToId('<|end_of_text|>'));
  assert.equal(tokenizer.padToken, undefined);
});

test('what a tokenizer is not given right, it refuses by name', () => {
  assert.throws(() => new Tokenizer({}), heddleError('bad_file', /no tokenizer among the files; expected one of tokenizer\.json, gguf, tokenizer\.model/));
  assert.throws(() => new Tokenizer({ 'tokenizer.jsn': '{}' }), heddleError('bad_argument', /tokenizer\.jsn: no such option; known: tokenizer\.json/));
  assert.throws(() => new Tokenizer({ 'tokenizer.model': 'text' }), heddleError('bad_argument', /tokenizer\.model: expected a Uint8Array/));
  assert.throws(() => new Tokenizer({ 'tokenizer.json': '[]' }), heddleError('bad_file', /tokenizer\.json: expected an object/));
  assert.throws(() => new Tokenizer({ 'tokenizer.json': { model: { type: 'Rwkv' } } }), heddleError('bad_file', /tokenizer\.json: Unknown TokenizerModel type: Rwkv/));
  const tokenizer = new Tokenizer(filesOf(e2e));
  assert.throws(() => tokenizer.encode('x', { special: true }), heddleError('bad_argument', /special: no such option; known: addSpecialTokens/));
  assert.throws(() => tokenizer.decode([1.5]), heddleError('bad_argument', /whole numbers/));
  assert.throws(() => tokenizer.tokenToId(3), heddleError('bad_argument', /token: expected a string/));
});
