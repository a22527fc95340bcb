/**
 * Tokenizers from every other file there is of them, against what their own programs gave: GGUF metadata (llama.cpp's ids), SentencePiece
 * (Mistral's, transformers'), llama2.c's tokenizer.bin, vocabularies with merges, WordPiece. The files are ../shared/fixtures/real.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { heddle, heddleError, needs, readJson, shared } from './heddle.mjs';

const { Tokenizer } = heddle;
const real = (path) => shared(`fixtures/real/${path}`);
const realNeeds = (path) => needs(`fixtures/real/${path}`);
const bytes = (path) => new Uint8Array(readFileSync(real(path)));
const text = (path) => readFileSync(real(path), 'utf8');
const plain = { addSpecialTokens: false };

const once = (make) => {
  let made;
  return () => (made ??= make());
};

// ---- GGUF ----

/** Key-value pairs of a GGUF file (version 3), enough of a reader for files that are known to be right. */
function ggufMetadata(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  let at = 8;
  const take = (n) => (at += n) - n;
  const u64 = () => Number(view.getBigUint64(take(8), true));
  const string = () => {
    const n = u64();
    const begin = take(n);
    return new TextDecoder('utf-8', { ignoreBOM: true }).decode(file.subarray(begin, begin + n));
  };
  const readers = [
    () => view.getUint8(take(1)), () => view.getInt8(take(1)), () => view.getUint16(take(2), true), () => view.getInt16(take(2), true),
    () => view.getUint32(take(4), true), () => view.getInt32(take(4), true), () => view.getFloat32(take(4), true), () => view.getUint8(take(1)) !== 0,
    string, () => { const read = readers[view.getUint32(take(4), true)]; const n = u64(); return Array.from({ length: n }, read); },
    () => view.getBigUint64(take(8), true), () => view.getBigInt64(take(8), true), () => view.getFloat64(take(8), true),
  ];
  u64(); // tensors
  return new Map(Array.from({ length: u64() }, () => [string(), readers[view.getUint32(take(4), true)]()]));
}

const gguf = (name) => once(() => ggufMetadata(bytes(`llamacpp-vocab/ggml-vocab-${name}.gguf`)));
const merges = (folder, more = {}) => ({ 'encoder.json': text(`${folder}/encoder.json`), 'vocab.bpe': text(`${folder}/vocab.bpe`), ...more });

/** llama.cpp's cases, for its own files and for the same vocabularies in other forms. */
const llamaCpp = [
  ['llama-spm', 'GGUF metadata', 'llamacpp-vocab/ggml-vocab-llama-spm.gguf', () => ({ gguf: gguf('llama-spm')() })],
  ['llama-spm', 'tokenizer.model', 'llama2-spm/tokenizer.model', () => ({ 'tokenizer.model': bytes('llama2-spm/tokenizer.model') })],
  ['llama-spm', 'tokenizer.bin', 'llama2-spm/tokenizer.bin', () => ({ 'tokenizer.bin': bytes('llama2-spm/tokenizer.bin') })],
  ['gpt-2', 'GGUF metadata', 'llamacpp-vocab/ggml-vocab-gpt-2.gguf', () => ({ gguf: gguf('gpt-2')() })],
  ['gpt-2', 'encoder.json and vocab.bpe', 'gpt2-bpe/encoder.json', () => merges('gpt2-bpe')],
  ['bert-bge', 'GGUF metadata', 'llamacpp-vocab/ggml-vocab-bert-bge.gguf', () => ({ gguf: gguf('bert-bge')() })],
  ['bert-bge', 'vocab.txt', 'hf-tokenizer-cases/bert-vocab.txt', () => ({ 'vocab.txt': text('hf-tokenizer-cases/bert-vocab.txt') })],
  ['deepseek-llm', 'GGUF metadata', 'llamacpp-vocab/ggml-vocab-deepseek-llm.gguf', () => ({ gguf: gguf('deepseek-llm')() })],
  ['llama-bpe', 'encoder.json and vocab.bpe', 'llama3-bpe/encoder.json', () => merges('llama3-bpe', { split: 'llama-bpe' })],
];

for (const [name, form, file, files] of llamaCpp) {
  const tokenizer = once(() => new Tokenizer(files()));
  const cases = existsSync(real(file)) ? 47 : 1;
  const inputs = once(() => text(`llamacpp-vocab/ggml-vocab-${name}.gguf.inp`).split('\n__ggml_vocab_test__\n'));
  const outputs = once(() => text(`llamacpp-vocab/ggml-vocab-${name}.gguf.out`).split('\n').map((line) => line.trim().split(/ +/).filter(Boolean).map(Number)));
  for (let i = 0; i < cases; i++) {
    test(`T21: ${name} from ${form}, llama.cpp's case ${i}`, realNeeds(file), () => {
      assert.equal(inputs().length, 47);
      assert.equal(outputs().length, 47);
      assert.deepEqual(tokenizer().encode(inputs()[i], plain), outputs()[i], JSON.stringify(inputs()[i]));
    });
  }
}

for (const [name, token, form, files, file] of [
  ['llama-spm', 1, 'GGUF metadata', () => ({ gguf: gguf('llama-spm')() }), 'llamacpp-vocab/ggml-vocab-llama-spm.gguf'],
  ['deepseek-llm', 100000, 'GGUF metadata', () => ({ gguf: gguf('deepseek-llm')() }), 'llamacpp-vocab/ggml-vocab-deepseek-llm.gguf'],
  ['llama-spm', 1, 'tokenizer.model', () => ({ 'tokenizer.model': bytes('llama2-spm/tokenizer.model') }), 'llama2-spm/tokenizer.model'],
  ['gpt-2', undefined, 'GGUF metadata', () => ({ gguf: gguf('gpt-2')() }), 'llamacpp-vocab/ggml-vocab-gpt-2.gguf'],
]) {
  test(`T21: ${name} from ${form}: what goes before a prompt, and back to text`, realNeeds(file), () => {
    const tokenizer = new Tokenizer(files());
    const line = 'Hello, y\'all! How are you 😁 ? 我想在apple工作1314151天～';
    const ids = tokenizer.encode(line);
    assert.equal(ids[0] === token, token !== undefined);
    assert.equal(tokenizer.decode(ids), line);
    const stream = tokenizer.stream();
    assert.equal(ids.map((id) => stream.push(id)).join('') + stream.end(), line);
    assert.equal(tokenizer.beginToken, token ?? 50256);
  });
}

test('T21: a WordPiece vocabulary is written as the GGUF metadata it was read from, and from vocab.txt as llama.cpp has it', realNeeds('llamacpp-vocab/ggml-vocab-bert-bge.gguf'), () => {
  const want = gguf('bert-bge')();
  const { tokenizer, config } = heddle.ggufTokenizer(want);
  for (const files of [{ 'tokenizer.json': tokenizer, 'tokenizer_config.json': config }, { 'vocab.txt': text('hf-tokenizer-cases/bert-vocab.txt') }]) {
    const made = heddle.ggufTokenizerMetadata(files);
    assert.equal(made['tokenizer.ggml.model'], 'bert');
    // The converter of today has ▁ before an [unusedN], the one that made this file had none.
    const tokens = (list) => list.map((token) => token.replace(/^▁(?=\[unused\d+\]$)/, ''));
    assert.deepEqual(tokens(made['tokenizer.ggml.tokens']), tokens(want.get('tokenizer.ggml.tokens')));
    for (const key of ['cls', 'seperator', 'unknown', 'padding', 'mask']) if (want.has(`tokenizer.ggml.${key}_token_id`)) assert.equal(made[`tokenizer.ggml.${key}_token_id`], want.get(`tokenizer.ggml.${key}_token_id`), key);
    const again = new Tokenizer({ gguf: new Map(Object.entries(made)) });
    const inputs = text('llamacpp-vocab/ggml-vocab-bert-bge.gguf.inp').split('\n__ggml_vocab_test__\n');
    const outputs = text('llamacpp-vocab/ggml-vocab-bert-bge.gguf.out').split('\n').map((line) => line.trim().split(/ +/).filter(Boolean).map(Number));
    inputs.forEach((input, i) => assert.deepEqual(again.encode(input, plain), outputs[i], JSON.stringify(input)));
  }
});

test('T21: flags of GGUF metadata change what goes around a text, and its templates are found', realNeeds('llamacpp-vocab/ggml-vocab-llama-spm.gguf'), () => {
  const metadata = gguf('llama-spm')();
  const ids = (more) => new Tokenizer({ gguf: new Map([...metadata, ...Object.entries(more)]) }).encode('Hello');
  assert.deepEqual(ids({}), [1, 15043]);
  assert.deepEqual(ids({ 'tokenizer.ggml.add_bos_token': false, 'tokenizer.ggml.add_eos_token': true }), [15043, 2]);
  assert.deepEqual(ids({ 'tokenizer.ggml.add_bos_token': false, 'tokenizer.ggml.add_space_prefix': false }), [10994]);
  const typed = new Map([...metadata, ['tokenizer.ggml.scores', Float32Array.from(metadata.get('tokenizer.ggml.scores'))], ['tokenizer.ggml.token_type', Int32Array.from(metadata.get('tokenizer.ggml.token_type'))], ['tokenizer.ggml.bos_token_id', 1n]]);
  assert.deepEqual(new Tokenizer({ gguf: typed }).encode('Hello'), [1, 15043]);
  const templates = new Tokenizer({ gguf: new Map([...metadata, ['tokenizer.chat_template', 'A{{ bos_token }}'], ['tokenizer.chat_template.tool_use', 'B']]) });
  assert.deepEqual(templates.chatTemplates, ['default', 'tool_use']);
  assert.equal(templates.chatTemplate, 'A{{ bos_token }}');
});

test('bad GGUF metadata is refused by the key', () => {
  const good = { 'tokenizer.ggml.model': 'llama', 'tokenizer.ggml.tokens': ['<unk>', '<s>', '</s>', 'a'] };
  const make = (more) => () => new Tokenizer({ gguf: new Map(Object.entries({ ...good, ...more })) });
  assert.throws(make({ 'tokenizer.ggml.model': 'rwkv' }), heddleError('unsupported', /tokenizer\.ggml\.model 'rwkv' is not known; known: llama, gpt2, bert, t5/));
  assert.throws(make({ 'tokenizer.ggml.model': undefined }), heddleError('bad_file', /tokenizer\.ggml\.model: expected one of llama, gpt2, bert, t5, found none/));
  assert.throws(make({ 'tokenizer.ggml.tokens': [1, 2] }), heddleError('bad_file', /tokenizer\.ggml\.tokens: expected an array of strings, found an array/));
  assert.throws(make({ 'tokenizer.ggml.tokens': [] }), heddleError('bad_file', /tokenizer\.ggml\.tokens: expected an array of strings, at least one, found an array/));
  assert.throws(make({ 'tokenizer.ggml.scores': [1] }), heddleError('bad_file', /tokenizer\.ggml\.scores: expected 4 numbers, one for each token, found 1/));
  assert.throws(make({ 'tokenizer.ggml.bos_token_id': 7 }), heddleError('bad_file', /tokenizer\.ggml\.bos_token_id: expected an id below 4, found 7/));
  assert.throws(make({ 'tokenizer.ggml.add_bos_token': 'yes' }), heddleError('bad_file', /add_bos_token: expected true or false, found 'yes'/));
  assert.throws(make({ 'tokenizer.ggml.model': 'gpt2' }), heddleError('bad_file', /tokenizer\.ggml\.merges: expected an array of strings, found none/));
  assert.throws(make({ 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.merges': ['ab'] }), heddleError('bad_file', /expected merges of two tokens with a space between, found 'ab'/));
  assert.throws(make({ 'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.merges': [], 'tokenizer.ggml.pre': 'smurf' }), heddleError('unsupported', /tokenizer\.ggml\.pre: how 'smurf' cuts a text is not known; known: gpt-2/));
});

test('T21: stories260K: tok512.bin and the GGUF say what its tokenizer.json says', realNeeds('stories260k/tok512.bin'), () => {
  const files = { 'tokenizer.json': text('stories260k/hf/tokenizer.json'), 'tokenizer_config.json': text('stories260k/hf/tokenizer_config.json') };
  const [json, bin, gguf] = [files, { 'tokenizer.bin': bytes('stories260k/tok512.bin') }, { gguf: ggufMetadata(bytes('stories260k/stories260K-f32.gguf')) }].map((each) => new Tokenizer(each));
  const story = readJson(real('stories260k/expected.json'));
  assert.equal(bin.vocabSize, 512);
  for (const line of ['Once upon a time, there was a little girl named Lily.', 'Tim said, "No!"\n\n  He\tran 3 miles.', '你好 🧵', JSON.stringify(story).slice(0, 2000)]) {
    const ids = json.encode(line);
    assert.deepEqual(bin.encode(line), ids, line);
    assert.deepEqual(gguf.encode(line), ids, line);
    for (const each of [json, bin, gguf]) assert.equal(each.decode(ids), line);
  }
});

// ---- SentencePiece ----

test("T21: mistral-spm: the tokens of Mistral's own conversation", realNeeds('mistral-spm/tokenizer.model.v1'), () => {
  const tokenizer = new Tokenizer({ 'tokenizer.model': bytes('mistral-spm/tokenizer.model.v1') });
  const { tokens } = readJson(real('mistral-spm/no_tools__tokens_v1.json'));
  // The stored text is pieces with ▁; each turn was encoded alone, so a space goes before each.
  const rendered = text('mistral-spm/no_tools__text_v1.txt').replace(/(<s>|<\/s>)▁/g, '$1').replaceAll('▁', ' ');
  assert.deepEqual(tokenizer.encode(rendered, plain), tokens);
  assert.equal(tokenizer.vocabSize, 32000);
});

test('T21: a SentencePiece model says unigram, and is read so', () => {
  const { cases } = { cases: [['abab', [4, 4]], ['aab', [3, 4]], ['zab', [0, 4]]] };
  const tokenizer = new Tokenizer({ 'spiece.model': sentencePiece([['<unk>', 0, 2], ['</s>', 0, 3], ['▁', -5, 1], ['a', -2, 1], ['ab', -2.5, 1], ['b', -3, 1]], { kind: 1, prefix: 0 }) });
  for (const [word, ids] of cases) assert.deepEqual(tokenizer.encode(word), [...ids, 1], word);
});

const varint = (n) => (n < 128 ? [n] : [(n & 127) | 128, ...varint(n >> 7)]);
const field = (number, content) => [...varint(number * 8 + 2), ...varint(content.length), ...content];
const float = (x) => [...new Uint8Array(Float32Array.of(x).buffer)];

/** A SentencePiece model of those pieces. */
function sentencePiece(pieces, { kind, prefix = 1, suffix = 0 }) {
  const all = pieces.map(([piece, score, type]) => field(1, [...field(1, [...Buffer.from(piece)]), 2 * 8 + 5, ...float(score), 3 * 8, type]));
  return Uint8Array.from([...all.flat(), ...field(2, [3 * 8, kind, ...varint(24 * 8), suffix]), ...field(3, [3 * 8, prefix, 4 * 8, 0])]);
}

test('a bad SentencePiece model is refused, not read past its end', () => {
  const good = sentencePiece([['<unk>', 0, 2], ['a', -1, 1]], { kind: 2 });
  assert.deepEqual(new Tokenizer({ 'tokenizer.model': good }).encode('a', plain), [0, 1]);
  for (let n = 1; n < good.length; n++) {
    try {
      new Tokenizer({ 'tokenizer.model': good.slice(0, n) });
    } catch (error) {
      assert.ok(heddleError('bad_file', /^tokenizer\.model: /)(error) || heddleError('unsupported')(error));
    }
  }
  const make = (model) => () => new Tokenizer({ 'tokenizer.model': model });
  assert.throws(make(new Uint8Array(0)), heddleError('bad_file', /no pieces: not a SentencePiece model/));
  assert.throws(make(Uint8Array.of(0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f)), heddleError('bad_file', /ends within a field at byte 6 of 6/));
  assert.throws(make(new Uint8Array(20).fill(0xff)), heddleError('bad_file', /a number of more than 10 bytes/));
  assert.throws(make(sentencePiece([['a', 0, 1]], { kind: 4 })), heddleError('unsupported', /models of characters are not built; unigram and BPE are/));
  assert.throws(make(sentencePiece([['a', 0, 1]], { kind: 2, suffix: 1 })), heddleError('unsupported', /treat_whitespace_as_suffix/));
  assert.throws(make(sentencePiece([['a', 0, 1]], { kind: 1 })), heddleError('bad_file', /a unigram model without an unknown piece/));
});

test('a bad tokenizer.bin is refused', () => {
  const make = (file) => () => new Tokenizer({ 'tokenizer.bin': Uint8Array.from(file) });
  assert.throws(make([1]), heddleError('bad_file', /expected at least 4 bytes, found 1/));
  assert.throws(make([4, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 65]), heddleError('bad_file', /token 0 runs past the longest, 4 bytes,/));
  assert.throws(make([9, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 65]), heddleError('bad_file', /token 0 runs past the end at byte 4/));
  assert.throws(make([4, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 65]), heddleError('bad_file', /expected at least 259 tokens, found 1/));
});

// ---- transformers' own cases ----

/** A long French text with its ids: decoding gives it back, lower case from BERT. */
for (const [name, file, path, files] of [
  ['llama 2', 'llama2-spm/tokenizer.model', 'hf-tokenizer-cases/llama_encoded.json', () => ({ 'tokenizer.model': bytes('llama2-spm/tokenizer.model') })],
  ['llama 3.2', 'llama3-bpe/encoder.json', 'llama3-bpe/llama_3.2_encoded.json', () => merges('llama3-bpe', { split: 'llama-bpe', 'tokenizer_config.json': { bos_token: '<|begin_of_text|>', added_tokens_decoder: { 128000: { content: '<|begin_of_text|>', special: true } } } })],
  ['gpt-2', 'gpt2-bpe/encoder.json', 'gpt2-bpe/gpt2_encoded_tokens.json', () => merges('gpt2-bpe')],
  ['bert uncased', 'hf-tokenizer-cases/bert-vocab.txt', 'hf-tokenizer-cases/bert_uncased_encoded.json', () => ({ 'vocab.txt': text('hf-tokenizer-cases/bert-vocab.txt') })],
]) {
  test(`T21: ${name}: a long French text, its tokens, its ids, and back`, realNeeds(file), () => {
    const { text: long, token_ids: ids, bpe_tokens: tokens, decoded_text: decoded } = readJson(real(path));
    const tokenizer = new Tokenizer(files());
    assert.deepEqual(tokenizer.encode(long), ids);
    const bare = tokenizer.encode(long, plain);
    assert.deepEqual(bare.map((id) => tokenizer.idToToken(id)), tokens);
    assert.equal(tokenizer.decode(ids, { skipSpecialTokens: false }), decoded);
  });
}

test('T21: BERT: ten thousand questions', realNeeds('hf-tokenizer-cases/tokenized_questions.json'), () => {
  const tokenizer = new Tokenizer({ 'vocab.txt': text('hf-tokenizer-cases/bert-vocab.txt') });
  const questions = readJson(real('hf-tokenizer-cases/basic_tokenized_questions.json'));
  const expected = readJson(real('hf-tokenizer-cases/tokenized_questions.json'));
  assert.equal(questions.length, 10570);
  const wrong = questions.flatMap((words, i) => {
    const ids = tokenizer.encode(words.join(' '), plain);
    return ids.length === expected[i].length && ids.every((id, n) => id === expected[i][n]) ? [] : [i];
  });
  assert.deepEqual(wrong, []);
});

/** Models of tokenizer_tests.json whose vocabulary is here; the other vocabularies are not. */
for (const [name, file, files] of [
  ['bert-base-uncased', 'hf-tokenizer-cases/bert-vocab.txt', () => ({ 'vocab.txt': text('hf-tokenizer-cases/bert-vocab.txt') })],
  ['google-bert/bert-base-uncased', 'hf-tokenizer-cases/bert-vocab.txt', () => ({ 'vocab.txt': text('hf-tokenizer-cases/bert-vocab.txt') })],
  // transformers 4, which computed these, cleaned up where a config did not say.
  ['distilgpt2', 'gpt2-bpe/encoder.json', () => merges('gpt2-bpe', { 'tokenizer_config.json': { clean_up_tokenization_spaces: true } })],
  ['coreml-projects/Llama-2-7b-chat-coreml', 'llama2-spm/tokenizer.model', () => ({ 'tokenizer.model': bytes('llama2-spm/tokenizer.model') })],
  ['pcuenq/Llama-3.2-1B-Instruct-tokenizer', 'llama3-bpe/encoder.json', () => merges('llama3-bpe', { split: 'llama-bpe', 'tokenizer_config.json': { bos_token: '<|begin_of_text|>', clean_up_tokenization_spaces: true, added_tokens_decoder: { 128000: { content: '<|begin_of_text|>', special: true } } } })],
]) {
  const tokenizer = once(() => new Tokenizer(files()));
  const cases = once(() => readJson(real('hf-tokenizer-cases/tokenizer_tests.json'))[name]);
  for (let i = 0; i < (existsSync(real(file)) ? 18 : 1); i++) {
    test(`T21: ${name}: transformers' case ${i}`, realNeeds(file), () => {
      const { input, encoded, decoded_with_special: withSpecial, decoded_without_special: without } = cases()[i];
      assert.deepEqual(tokenizer().encode(input), encoded.input_ids, input);
      assert.equal(tokenizer().decode(encoded.input_ids, { skipSpecialTokens: false }), withSpecial);
      assert.equal(tokenizer().decode(encoded.input_ids), without);
    });
  }
}

for (const [path, line, ids] of [
  ['hf-tokenizer-cases/tokenizer.json', 'offline path', [4, 5]],
]) {
  test(`T21: ${path}`, realNeeds(path), () => {
    const config = path.replace('tokenizer.json', 'tokenizer_config.json');
    const tokenizer = new Tokenizer({ 'tokenizer.json': text(path), 'tokenizer_config.json': text(config) });
    assert.equal(tokenizer.vocabSize, 7);
    assert.equal(tokenizer.tokenToId('offline'), ids[0]);
    assert.equal(tokenizer.decode(ids), line);
  });
}
