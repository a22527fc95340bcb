/**
 * LispeTorch's text tools as ../shared/formats/lispetorch.md documents them: the simple tokenizer, padding, masks, the sinusoidal table, and all of
 * them before an embedding, attention and a norm, against the textbook's formulas in double precision.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { entry, heddle, heddleError, testOnEveryModule } from './heddle.mjs';

const { SimpleTokenizer, createAttentionMask, padSequence } = heddle;
const fox = 'The quick brown fox jumps over the lazy dog';
const foxIds = [2, 4, 5, 6, 7, 8, 9, 4, 10, 11, 3];

test('T18: a fresh simple tokenizer numbers words as it meets them', () => {
  const tokenizer = new SimpleTokenizer();
  assert.equal(tokenizer.vocabSize, 4);
  assert.deepEqual(tokenizer.encode(fox), foxIds);
  assert.equal(tokenizer.vocabSize, 12);
  assert.equal(tokenizer.decode(foxIds), 'the quick brown fox jumps over the lazy dog');
  assert.deepEqual(tokenizer.encode(fox), foxIds, 'and stays with it');
  assert.deepEqual(tokenizer.encode('The cat.'), [2, 4, 12, 13, 3]);
  assert.equal(tokenizer.vocabSize, 14);
});

test('T18: marks are words, white space only parts, letters beyond ASCII stay', () => {
  const tokenizer = new SimpleTokenizer();
  assert.deepEqual(tokenizer.encode("Don't\tstop!\n\v\f\rDON_T  Ärger—ÄRGER 你好"), [2, 4, 5, 6, 7, 8, 4, 9, 6, 10, 11, 3]);
  assert.equal(tokenizer.decode([4, 5, 6, 7, 8]), "don' t stop!");
  assert.equal(tokenizer.decode([10, 11]), 'Ärger—Ärger 你好');
  assert.deepEqual(tokenizer.encode(''), [2, 3]);
  assert.deepEqual(tokenizer.encode(' \n'), [2, 3]);
  assert.deepEqual(new SimpleTokenizer().encode('a\u00A0b'), [2, 4, 3], "C's isspace knows no space beyond ASCII");
  assert.deepEqual(new SimpleTokenizer().encode('constructor __proto__'), [2, 4, 5, 5, 6, 5, 5, 3]);
});

test('T18: decode leaves out padding, begin, end and ids that are no tokens; takes one id', () => {
  const tokenizer = new SimpleTokenizer();
  tokenizer.encode('hello, world');
  assert.equal(tokenizer.decode([2, 4, 5, 6, 3, 0, 0, 99, -1]), 'hello, world');
  assert.equal(tokenizer.decode(Int32Array.of(6)), 'world');
  assert.equal(tokenizer.decode(4), 'hello');
  assert.deepEqual(tokenizer.encode('hello moon', { grow: false }), [2, 4, 1, 3]);
  assert.equal(tokenizer.vocabSize, 7);
  assert.throws(() => tokenizer.encode(5), heddleError('bad_argument', /text: expected a string/));
  assert.throws(() => tokenizer.decode('hello'), heddleError('bad_argument', /ids: expected an array of numbers/));
});

test('T18: a vocabulary is saved and loaded, and goes on growing', () => {
  const tokenizer = new SimpleTokenizer();
  tokenizer.encode(`${fox} __proto__ 7`);
  const again = SimpleTokenizer.load(tokenizer.save());
  assert.equal(again.vocabSize, tokenizer.vocabSize);
  assert.deepEqual(again.encode(`${fox} __proto__ 7 new`), [...tokenizer.encode(`${fox} __proto__ 7`).slice(0, -1), tokenizer.vocabSize, 3]);
  const load = (vocabulary) => () => SimpleTokenizer.load(vocabulary);
  assert.throws(load('{'), heddleError('bad_file', /^vocabulary: /));
  assert.throws(load('[]'), heddleError('bad_file', /expected an object of words and ids/));
  assert.throws(load('{"<pad>":0}'), heddleError('bad_file', /expected at least 4 tokens, found 1/));
  assert.throws(load('{"<pad>":0,"<unk>":1,"<bos>":2,"<eos>":3,"a":5}'), heddleError('bad_file', /'a': expected an id of its own below 5, found 5/));
  assert.throws(load('{"<pad>":0,"<unk>":1,"<bos>":3,"<eos>":2}'), heddleError('bad_file', /id 2: expected <bos>, found '<eos>'/));
});

test('T19: sequences are padded behind with 0, and lose their end', () => {
  const { ids, shape } = padSequence([foxIds, [2, 3], []], 6);
  assert.deepEqual([...ids], [2, 4, 5, 6, 7, 8, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
  assert.deepEqual(shape, [3, 6]);
  assert.deepEqual([...padSequence([Int32Array.of(1)], 3, 9).ids], [1, 9, 9]);
  assert.throws(() => padSequence([[1.5]], 2), heddleError('bad_argument', /sequences\[0\]: expected whole numbers/));
  assert.throws(() => padSequence([7], 2), heddleError('bad_argument', /sequences\[0\]: expected an array of numbers/));
  assert.throws(() => padSequence('a', 2), heddleError('bad_argument', /sequences: expected an array/));
  assert.throws(() => padSequence([[1]], -1), heddleError('bad_argument', /length: expected a whole number/));
  assert.throws(() => padSequence([[1]], 2 ** 31), heddleError('bad_argument', /more than 2\^31/));
});

test('T20: the mask is 1 for tokens and 0 for padding', () => {
  const mask = createAttentionMask(padSequence([foxIds, [2, 3]], 6).ids);
  assert.ok(mask instanceof Float32Array);
  assert.deepEqual([...mask], [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0]);
  assert.deepEqual([...createAttentionMask([0, 9, 9], 9)], [1, 0, 0]);
  assert.throws(() => createAttentionMask('no'), heddleError('bad_argument', /ids: expected an array of numbers/));
});

test('the worker entry has the text tools too', async () => {
  const worker = await entry('./worker');
  assert.deepEqual(new worker.SimpleTokenizer().encode(fox), foxIds);
});

// ---- Positions ----

const sinusoid = (position, i, width) => (i % 2 ? Math.cos : Math.sin)(position * Math.exp((-2 * Math.floor(i / 2) * Math.log(10000)) / width));

async function positions(runtime, shape, more = {}) {
  return runtime.buildNetwork({ input_shape: shape, layers: [{ type: 'PositionalEncoding', d_model: shape.at(-1), ...more }] });
}

for (const [width, most] of [[512, 1024], [768, 2048]]) {
  testOnEveryModule(`L24: the sinusoidal table of ${most} positions of width ${width}`, async (runtime) => {
    const model = await positions(runtime, [1, most, width], { max_len: most });
    assert.deepEqual(model.weights, [], 'no trainable parameters');
    const table = await model.forward(new Float32Array(most * width), [1, most, width]);
    let worst = 0;
    for (let p = 0; p < most; p++) for (let i = 0; i < width; i++) worst = Math.max(worst, Math.abs(table[p * width + i] - sinusoid(p, i, width)));
    assert.ok(worst <= 1e-6, `${worst}`);
    const rows = new Set(Array.from({ length: most }, (_, p) => Buffer.from(table.buffer, table.byteOffset + p * width * 4, width * 4).toString('base64')));
    assert.equal(rows.size, most, 'each position has a row of its own');
    await model.free();
  });
}

testOnEveryModule('L25: positions are added along the sequence, alike in every row of a batch, for any length up to max_len', async (runtime) => {
  const [batch, most, width] = [3, 10, 5];
  const model = await positions(runtime, [batch, most, width], { max_len: most });
  for (const n of [1, 4, 10]) {
    const x = Float32Array.from({ length: batch * n * width }, (_, k) => Math.sin(k * 1.7));
    const y = await model.forward(x, [batch, n, width]);
    for (let k = 0; k < y.length; k++) assert.ok(Math.abs(y[k] - x[k] - sinusoid(Math.floor(k / width) % n, k % width, width)) <= 1e-6, `${n} ${k}`);
  }
  await model.free();
  await assert.rejects(positions(runtime, [1, 11, 4], { max_len: 10 }), heddleError('bad_argument', /layers\[0\].*expected at most 10 positions, found 11/));
  const tooLong = await positions(runtime, [1, 10, 4], { max_len: 10 });
  await assert.rejects(tooLong.forward(new Float32Array(44), [1, 11, 4]), heddleError('bad_argument', /expected at most 10 positions, found 11/));
  assert.match(await tooLong.saveToString('positions'), /"d_model": ?4,\s*"max_len": ?10/);
  await tooLong.free();
  const seqFirst = await positions(runtime, [4, 2, 3], { batch_first: false });
  const y = await seqFirst.forward(new Float32Array(24), [4, 2, 3]);
  for (let k = 0; k < 24; k++) assert.ok(Math.abs(y[k] - sinusoid(Math.floor(k / 6), k % 3, 3)) <= 1e-6);
  await seqFirst.free();
});

// ---- All of it ----

const [vocab, width, heads, length] = [10000, 512, 8, 128];
const pipeline = (causal) => ({
  input_shape: [2, length], input_dtype: 'I32',
  layers: [
    { type: 'embedding', name: 'words', vocab_size: vocab, embedding_dim: width },
    { type: 'PositionalEncoding', d_model: width },
    { type: 'MultiheadAttention', name: 'attn', embed_dim: width, num_heads: heads, batch_first: true, is_causal: causal },
    { type: 'LayerNorm', name: 'norm', normalized_shape: width },
  ],
});

/** y = x W^T + b for rows of x. */
function linear(x, n, weight, bias, out, at = 0) {
  const y = new Float64Array(n * out);
  for (let r = 0; r < n; r++) {
    for (let o = 0; o < out; o++) {
      let sum = bias[at + o];
      for (let i = 0; i < width; i++) sum += x[r * width + i] * weight[(at + o) * width + i];
      y[r * out + o] = sum;
    }
  }
  return y;
}

/** The pipeline's last row of `ids` (the tokens alone, so nothing needs a mask) in double precision, attention to all of them. */
async function expectedLastRow(model, ids) {
  const [table, inWeight, inBias, outWeight, outBias] = await Promise.all(['words.weight', 'attn.in_proj_weight', 'attn.in_proj_bias', 'attn.out_proj.weight', 'attn.out_proj.bias'].map((name) => model.readWeight(name)));
  const n = ids.length;
  const x = Float64Array.from({ length: n * width }, (_, k) => table[ids[Math.floor(k / width)] * width + (k % width)] + sinusoid(Math.floor(k / width), k % width, width));
  const q = linear(x.subarray((n - 1) * width), 1, inWeight, inBias, width);
  const k = linear(x, n, inWeight, inBias, width, width);
  const v = linear(x, n, inWeight, inBias, width, 2 * width);
  const size = width / heads;
  const context = new Float64Array(width);
  for (let h = 0; h < heads; h++) {
    const scores = Array.from({ length: n }, (_, t) => {
      let sum = 0;
      for (let i = 0; i < size; i++) sum += q[h * size + i] * k[t * width + h * size + i];
      return Math.exp(sum / Math.sqrt(size));
    });
    const total = scores.reduce((a, b) => a + b);
    for (let i = 0; i < size; i++) context[h * size + i] = scores.reduce((sum, s, t) => sum + (s / total) * v[t * width + h * size + i], 0);
  }
  const y = linear(context, 1, outWeight, outBias, width);
  const mean = y.reduce((a, b) => a + b) / width;
  const variance = y.reduce((a, b) => a + (b - mean) ** 2, 0) / width;
  return y.map((each) => (each - mean) / Math.sqrt(variance + 1e-5));
}

const close = (got, want, what) => {
  const largest = want.reduce((most, each) => Math.max(most, Math.abs(each)), 1);
  want.forEach((each, i) => assert.ok(Math.abs(got[i] - each) <= 1e-5 * largest, `${what} [${i}]: ${got[i]}, expected ${each}`));
};

testOnEveryModule('T16: tokenizer, padding, embedding 10000 × 512, positions, attention of 8 heads, norm: of 128 tokens', async (runtime) => {
  const tokenizer = new SimpleTokenizer();
  const texts = [tokenizer.encode(fox), tokenizer.encode(Array.from({ length: 200 }, (_, i) => `word${i}`).join(' '))];
  const { ids, shape } = padSequence(texts, length);
  const model = await runtime.buildNetwork(pipeline(false), { seed: 5 });
  // A graph has one input, so no mask goes with the ids: a text is given alone, as long as its mask has ones. That is what a mask is for.
  for (const [row, text] of texts.entries()) {
    const mask = createAttentionMask(ids.subarray(row * length, (row + 1) * length));
    const n = mask.reduce((a, b) => a + b);
    assert.equal(n, Math.min(text.length, length));
    const tokens = ids.slice(row * length, row * length + n);
    const y = await model.forward(tokens, [1, n]);
    close(y.subarray((n - 1) * width), await expectedLastRow(model, tokens), `text ${row}`);
  }
  await model.free();

  // Looking back only, a token never sees the padding behind it: a padded batch gives what the texts alone give.
  const causal = await runtime.buildNetwork(pipeline(true), { seed: 5 });
  const padded = await causal.forward(ids, shape);
  assert.equal(padded.length, 2 * length * width);
  const last = foxIds.length - 1;
  close(padded.subarray(last * width, (last + 1) * width), await expectedLastRow(causal, foxIds), 'padded text');
  await causal.free();
});
