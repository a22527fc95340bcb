/**
 * Vectors and labels of texts: what transformers computes for padded batches (tests/golden/transformers), the layout of sentence-transformers,
 * texts that are too long, pairs, and all-MiniLM-L6-v2 with the sentences of ../shared/fixtures/real/minilm.
 */
import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { distance, largest, readSafetensors, writeSafetensors } from './golden.mjs';
import { entry, golden, heddle, heddleError, modules, optionsFor, readJson, runtimeWith, shared, testOnEveryModule } from './heddle.mjs';
import { minilm } from './minilm.mjs';
import { serverFor } from './range-server.mjs';

const server = await serverFor({});
const part = (name, file) => golden(`transformers/${name}/${file}`);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const close = (got, want, what, budget = 1e-5) => assert.ok(distance(got, want) <= budget * Math.max(1, largest(want)), `${what}: off by ${distance(got, want)}`);

/** The rows of a padded batch without their padding, token types above the vocabulary. */
function unpadded(expected, vocabulary) {
  const [ids, mask, types] = ['input_ids', 'attention_mask', 'token_type_ids'].map((key) => expected.get(key).data);
  const [rows, n] = expected.get('input_ids').shape;
  return Array.from({ length: rows }, (_, row) => Array.from({ length: n }, (_, i) => row * n + i).filter((i) => mask[i] === 1).map((i) => ids[i] + vocabulary * types[i]));
}

const rowsOf = ({ shape: [rows], data }) => Array.from({ length: rows }, (_, i) => data.slice((i * data.length) / rows, ((i + 1) * data.length) / rows));

for (const name of ['bert', 'minilm-like']) {
  testOnEveryModule(`${name}: pooled vectors of a batch are transformers', and to the bit those of each row alone`, async (runtime) => {
    const expected = readSafetensors(part(name, 'expected.safetensors'));
    const { cosine } = readJson(part(name, 'expected.json'));
    const texts = unpadded(expected, readJson(part(name, 'config.json')).vocab_size);
    const model = await runtime.loadModel(golden(`transformers/${name}`));
    const cases = [
      [{ pooling: 'mean', normalize: false }, 'mean_pooled'],
      [{ pooling: 'mean', normalize: true }, 'mean_pooled_normalized'],
      [{ pooling: 'cls', normalize: true }, 'cls_pooled_normalized'],
      [{ pooling: 'pooler', normalize: false }, 'pooler_output'],
      // The folder of minilm-like says mean and normalised; that of bert nothing, which is the mean.
      [{}, name === 'bert' ? 'mean_pooled' : 'mean_pooled_normalized'],
    ];
    for (const [options, key] of cases) {
      const vectors = await model.embed(texts, options);
      for (const [i, want] of rowsOf(expected.get(key)).entries()) {
        close(vectors[i], want, `${key} of row ${i}`);
        assert.deepEqual((await model.embed([texts[i]], options))[0], vectors[i]);
      }
      if (key === 'mean_pooled_normalized') cosine.forEach((row, a) => row.forEach((want, b) => assert.ok(Math.abs(dot(vectors[a], vectors[b]) - want) < 1e-5)));
    }
    const all = rowsOf(expected.get('last_hidden_state'));
    const width = vectorsWidth(expected);
    for (const [i, vector] of (await model.embed(texts, { pooling: 'last', normalize: false })).entries()) close(vector, all[i].slice((texts[i].length - 1) * width, texts[i].length * width), 'last row');
    for (const [i, vector] of (await model.embed(texts, { pooling: 'max', normalize: false })).entries()) {
      const rows = all[i].slice(0, texts[i].length * width);
      close(vector, Array.from({ length: width }, (_, d) => Math.max(...rows.filter((_, at) => at % width === d))), 'largest');
    }
    await model.free();
  });
}

const vectorsWidth = (expected) => expected.get('mean_pooled').shape[1];

testOnEveryModule('a language model embeds by its last hidden states, which are transformers\'', async (runtime) => {
  for (const name of ['llama-mha', 'gpt2', 'qwen3', 'gemma2']) {
    const expected = readSafetensors(part(name, 'expected.safetensors'));
    const { num_hidden_layers: layers } = readJson(part(name, 'config.json'));
    const { shape, data } = expected.get(`hidden_states.${layers ?? readJson(part(name, 'config.json')).n_layer}`);
    const ids = Array.from(expected.get('input_ids').data);
    const width = shape.at(-1);
    const model = await runtime.loadModel(golden(`transformers/${name}`));
    const [last, again] = await model.embed([ids, ids], { pooling: 'last' });
    close(last, data.slice(-width), name);
    assert.deepEqual(again, last, `${name}: the second text begins anew`);
    const [mean] = await model.embed([ids]);
    close(mean, Array.from({ length: width }, (_, d) => data.reduce((sum, x, i) => (i % width === d ? sum + x : sum), 0) / ids.length), name);
    await model.free();
  }
});

testOnEveryModule('a GGUF file\'s pooling_type is the pooling', async (runtime) => {
  const source = await runtime.loadModel(golden('transformers/llama-mha'));
  const expected = readSafetensors(part('llama-mha', 'expected.safetensors'));
  const { shape, data } = expected.get('hidden_states.3');
  const width = shape.at(-1);
  const ids = [Array.from(expected.get('input_ids').data)];
  const wants = [[2, data.slice(0, width)], [3, data.slice(-width)]];
  for (const [type, want] of wants) {
    const model = await runtime.loadModel(await source.saveGguf({ metadata: { 'llama.pooling_type': type } }));
    close((await model.embed(ids))[0], want, `pooling_type ${type}`);
    await model.free();
  }
  const ranks = await runtime.loadModel(await source.saveGguf({ metadata: { 'llama.pooling_type': 4 } }));
  await assert.rejects(ranks.embed(ids), heddleError('unsupported', /^llama\.pooling_type is 4, which Heddle does not know/));
  close((await ranks.embed(ids, { pooling: 'last' }))[0], wants[1][1], 'said by the caller');
  await ranks.free();
  await source.free();
});

// ---- Texts: a small BERT over the vocabulary of a tokenizer fixture ----

const tokenizerOf = 'bert-wordpiece-uncased';
const tokenizerFiles = Object.fromEntries(['tokenizer.json', 'tokenizer_config.json'].map((file) => [file, readFileSync(golden(`transformers/tokenizers/${tokenizerOf}/${file}`), 'utf8')]));
const { cases: tokenized, pair, vocab_size: vocabulary } = readJson(golden(`transformers/tokenizers/${tokenizerOf}/cases.json`));
const bertConfig = readJson(part('bert', 'config.json'));

/** The bert fixture with words for that vocabulary, and a head of some labels. */
function bertFiles({ architecture = 'BertModel', labels = 0, config = {}, extra = {} } = {}) {
  const tensors = Object.fromEntries(readSafetensors(part('bert', 'model.safetensors')));
  const named = Object.fromEntries(Object.entries(tensors).map(([key, tensor]) => [`bert.${key}`, tensor]));
  named['bert.embeddings.word_embeddings.weight'] = { shape: [vocabulary, 48], data: Float32Array.from({ length: vocabulary * 48 }, (_, i) => Math.sin(i * i)) };
  if (labels > 0) {
    named['classifier.weight'] = { shape: [labels, 48], data: Float32Array.from({ length: labels * 48 }, (_, i) => Math.sin(i)) };
    named['classifier.bias'] = { shape: [labels], data: Float32Array.from({ length: labels }, (_, i) => i / 8) };
  }
  return {
    'config.json': JSON.stringify({ ...bertConfig, architectures: [architecture], vocab_size: vocabulary, ...(labels > 0 && { num_labels: labels }), ...config }),
    'model.safetensors': writeSafetensors(named),
    ...tokenizerFiles,
    ...extra,
  };
}

const layout = (modules, pooling, limits) => ({
  'modules.json': Buffer.from(JSON.stringify(modules.map((type, idx) => ({ idx, name: String(idx), path: type === 'Transformer' ? '' : `${idx}_${type}`, type: `sentence_transformers.models.${type}` })))),
  '1_Pooling/config.json': JSON.stringify(pooling),
  ...(limits && { 'sentence_bert_config.json': JSON.stringify(limits) }),
});
const sentenceModules = ['Transformer', 'Pooling', 'Normalize'];

testOnEveryModule('texts become the ids that tokenizers gives; pairs get BERT\'s second token type', async (runtime) => {
  const model = await runtime.loadModel(bertFiles({ architecture: 'BertForSequenceClassification', labels: 3 }));
  const short = tokenized.filter(({ ids }) => ids.length <= bertConfig.max_position_embeddings).slice(0, 20);
  assert.deepEqual(await model.embed(short.map(({ text }) => text)), await model.embed(short.map(({ ids }) => ids)));
  assert.deepEqual(await model.embed(short[7].text), (await model.embed([short[7].ids]))[0], 'one text, one vector');
  const typed = pair.ids.map((id, i) => id + vocabulary * pair.type_ids[i]);
  const [got] = await model.classify([[pair.a, pair.b]]);
  assert.deepEqual(got, (await model.classify([typed]))[0]);
  assert.notDeepEqual(got.logits, (await model.classify([pair.ids]))[0].logits);
  await model.free();
});

testOnEveryModule('a text longer than the model takes is cut as sentence-transformers cuts it, which is said once, or refused', async (runtime, module) => {
  const notices = [];
  const own = await heddle.init({ ...optionsFor(module), log: (text) => notices.push(text) });
  const model = await own.loadModel(bertFiles({ extra: layout(sentenceModules, { pooling_mode_mean_tokens: true }, { max_seq_length: 9 }) }));
  const { text, ids } = tokenized.find((each) => each.ids.length > 12 && each.ids.length < 60);
  const cut = [...ids.slice(0, 8), ids.at(-1)];
  const before = own.notices.length;
  const [first, second] = await model.embed([text, text]);
  assert.deepEqual(first, (await model.embed([cut]))[0]);
  assert.deepEqual(second, first);
  assert.ok(Math.abs(Math.hypot(...first) - 1) < 1e-6);
  assert.deepEqual(own.notices.slice(before), [`texts[0] has ${ids.length} tokens: texts are cut to the 9 that the model takes (truncate: false refuses them)`]);
  await assert.rejects(model.embed(['', text], { truncate: false }), heddleError('bad_argument', new RegExp(`^texts\\[1\\]: ${ids.length} tokens, and the model takes 9$`)));
  assert.deepEqual(await model.embed(text, { maxTokens: 60 }), (await model.embed([ids], { maxTokens: 60 }))[0], 'maxTokens goes before the folder');
  await assert.rejects(model.embed([text], { maxTokens: 65 }), heddleError('bad_argument', /^maxTokens: 65 are more than the model's 64$/));
  await assert.rejects(model.embed([text], { maxTokens: 2 }), heddleError('bad_argument', /the model takes 2$/));
  await model.free();
  await own.free();
});

testOnEveryModule('of a pair that is too long the longer text loses its end first', async (runtime) => {
  const model = await runtime.loadModel(bertFiles({ architecture: 'BertForSequenceClassification', labels: 3 }));
  const around = pair.ids.indexOf(pair.ids.at(-1));
  const [first, second] = [pair.ids.slice(1, around), pair.ids.slice(around + 1, -1)];
  const joined = (a, b) => [pair.ids[0], ...a, pair.ids[around], ...b.map((id) => id + vocabulary), pair.ids.at(-1) + vocabulary];
  const [short, long] = [Math.min(first.length, second.length), Math.max(first.length, second.length)];
  for (const room of [2 * short, 2 * short + (long > short ? 1 : 0), 5, 4]) {
    const half = Math.floor(room / 2);
    const [fewer, more] = 2 * short <= room ? [short, room - short] : [half, room - half];
    const [a, b] = first.length <= second.length ? [fewer, more] : [more, fewer];
    const [got] = await model.classify([[pair.a, pair.b]], { maxTokens: room + 3 });
    assert.deepEqual(got, (await model.classify([joined(first.slice(0, a), second.slice(0, b))]))[0], `${room} tokens`);
  }
  await model.free();
});

testOnEveryModule('the layout of sentence-transformers, in a folder, as files and on a server, which is asked with the first embedding', async (runtime) => {
  const { text } = tokenized[20];
  const plain = await runtime.loadModel(bertFiles());
  const want = { mean: await plain.embed(text), cls: await plain.embed(text, { pooling: 'cls', normalize: true }), last: await plain.embed(text, { pooling: 'last' }) };
  await plain.free();
  const got = async (source) => {
    const model = await runtime.loadModel(source);
    const vector = await model.embed(text);
    await model.free();
    return vector;
  };
  const cls = bertFiles({ extra: layout(sentenceModules, { word_embedding_dimension: 48, pooling_mode_cls_token: true, pooling_mode_mean_tokens: false }) });
  assert.deepEqual(await got(cls), want.cls);
  assert.deepEqual(await got(bertFiles({ extra: layout(['Transformer', 'Pooling'], { pooling_mode: 'lasttoken' }) })), want.last);
  Object.assign(server.files, Object.fromEntries(Object.entries(cls).map(([name, bytes]) => [`m/${name}`, { bytes: Buffer.from(bytes) }])));
  server.reset();
  const model = await runtime.loadModel(`${server.address}/m/`);
  assert.ok(!server.requests.some(({ path }) => path === 'm/modules.json'));
  assert.deepEqual(await model.embed(text), want.cls);
  assert.ok(server.requests.some(({ path }) => path === 'm/1_Pooling/config.json'));
  await model.free();

  const refused = (extra) => runtime.loadModel(bertFiles({ extra })).then((each) => each.embed(text).finally(() => each.free()));
  await assert.rejects(refused(layout([...sentenceModules.slice(0, 2), 'Dense'], { pooling_mode_mean_tokens: true })), heddleError('unsupported', /^modules\.json has a module sentence_transformers\.models\.Dense, which Heddle does not know; options\.pooling/));
  await assert.rejects(refused(layout(sentenceModules, { pooling_mode_weightedmean_tokens: true })), heddleError('unsupported', /1_Pooling\/config\.json asks for pooling_mode_weightedmean_tokens/));
  await assert.rejects(refused({ 'modules.json': Buffer.from('[{"type":"x.Pooling","path":"../up"}]') }), heddleError('bad_file', /expected the name of a folder as the pooling's path, found "\.\.\/up"/));
  await assert.rejects(refused({ 'modules.json': Buffer.from('[{"type":"x.Pooling","path":"1_Pooling"}]') }), heddleError('bad_file', /modules\.json names 1_Pooling\/config\.json, which is not there/));
  await assert.rejects(refused({ 'modules.json': '{' }), heddleError('bad_file', /^modules\.json: /));
});

test('a folder on disk with the layout of sentence-transformers', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-sentence-'));
  after(() => rmSync(folder, { recursive: true }));
  cpSync(golden('transformers/minilm-like'), folder, { recursive: true });
  const model = await (await runtimeWith(modules[0])).loadModel(folder);
  const expected = readSafetensors(part('minilm-like', 'expected.safetensors'));
  const vectors = await model.embed(unpadded(expected, 512));
  rowsOf(expected.get('mean_pooled_normalized')).forEach((want, i) => close(vectors[i], want, `row ${i}`));
  await model.free();
});

test('in a worker: the same vectors and labels, the same errors, and an abort', async () => {
  const { init } = await entry('./worker');
  const files = () => bertFiles({ architecture: 'BertForSequenceClassification', labels: 3 });
  const [here, there] = [await runtimeWith(modules[0]), await init(optionsFor(modules[0]))];
  const models = [await here.loadModel(files()), await there.loadModel(files())];
  const texts = tokenized.slice(10, 20).map(({ text }) => text);
  const [a, b] = await Promise.all(models.map(async (model) => [await model.embed(texts), await model.embed(texts[0], { pooling: 'cls' }), await model.classify(texts), await model.classify([[texts[0], texts[1]]])]));
  assert.deepEqual(b, a);
  for (const model of models) {
    await assert.rejects(model.classifyTokens(texts), heddleError('bad_state', /no labels of tokens: expected an architecture …ForTokenClassification .* found BertForSequenceClassification/));
    await assert.rejects(model.embed(texts, { signal: AbortSignal.abort(new Error('enough')) }), /enough/);
    await model.free();
  }
  await there.free();
});

testOnEveryModule('what cannot be embedded is refused by name', async (runtime) => {
  const model = await runtime.loadModel(golden('transformers/bert'));
  const refusals = [
    [['text'], {}, 'bad_state', /no tokenizer/],
    [5, {}, 'bad_argument', /^texts: expected a text, or an array of texts or of token ids, found 5/],
    [[5], {}, 'bad_argument', /^texts\[0\]: expected a text, two texts or token ids, found 5/],
    [[[]], {}, 'bad_argument', /^texts\[0\]: expected at least one token/],
    [[[1.5]], {}, 'bad_argument', /^texts\[0\]: expected whole numbers/],
    [[[1, 600]], {}, 'bad_argument', /600/],
    [[[1]], { pooling: 'sum' }, 'bad_argument', /pooling 'sum' is not known; known: mean, cls, last, max, pooler/],
    [[[1]], { batchSize: 8 }, 'bad_argument', /batchSize: no such option/],
  ];
  for (const [texts, options, code, pattern] of refusals) await assert.rejects(model.embed(texts, options), heddleError(code, pattern));
  assert.deepEqual(await model.embed([]), []);
  assert.equal((await model.embed([[1, 2]])).length, 1, 'it goes on afterwards');
  await model.free();
  await assert.rejects(model.embed([[1]]), heddleError('bad_state', /the model was freed/));
  const numbers = await runtime.buildNetwork({ layers: [{ type: 'dense', in_features: 3, out_features: 2 }] });
  await assert.rejects(numbers.embed([[1, 2, 3]]), heddleError('bad_state', /models that read token ids/));
  await numbers.free();
  const llama = await runtime.loadModel(golden('transformers/llama-mha'));
  await assert.rejects(llama.embed([[1]], { pooling: 'pooler' }), heddleError('bad_state', /the model has no pooler/));
  await llama.free();
});

// ---- Labels ----

const softmax = (logits) => {
  const powers = logits.map((x) => Math.exp(x - Math.max(...logits)));
  return powers.map((x) => x / powers.reduce((a, b) => a + b, 0));
};
const sigmoid = (logits) => logits.map((x) => 1 / (1 + Math.exp(-x)));

testOnEveryModule('labels of texts: logits of the head behind transformers\' pooler, softmax or sigmoid, names of id2label', async (runtime) => {
  const expected = readSafetensors(part('bert', 'expected.safetensors'));
  const texts = unpadded(expected, 300);
  const tensors = Object.fromEntries([...readSafetensors(part('bert', 'model.safetensors'))].map(([key, tensor]) => [`bert.${key}`, tensor]));
  const load = (n, config) => runtime.loadModel({
    'config.json': JSON.stringify({ ...bertConfig, architectures: ['BertForSequenceClassification'], ...config }),
    'model.safetensors': writeSafetensors({ ...tensors, 'classifier.weight': { shape: [n, 48], data: Float32Array.from({ length: n * 48 }, (_, i) => Math.sin(i)) }, 'classifier.bias': { shape: [n], data: Float32Array.from({ length: n }, (_, i) => i / 8) } }),
  });
  const logitsOf = (x, n) => Array.from({ length: n }, (_, l) => l / 8 + x.reduce((sum, value, i) => sum + value * Math.fround(Math.sin(l * 48 + i)), 0));
  const names = ['bad', 'good', 'neither'];
  const pooled = rowsOf(expected.get('pooler_output'));
  for (const [n, config, activation] of [
    [3, { id2label: { 0: 'bad', 1: 'good', 2: 'neither' } }, softmax],
    [3, { id2label: { 0: 'bad', 1: 'good', 2: 'neither' }, problem_type: 'multi_label_classification' }, sigmoid],
    [1, { num_labels: 1 }, sigmoid],
    [1, { num_labels: 1, sentence_transformers: { activation_fn: 'torch.nn.modules.linear.Identity' } }, (x) => x],
    [1, { num_labels: 1, problem_type: 'regression' }, (x) => x],
  ]) {
    const model = await load(n, config);
    const found = await model.classify(texts);
    for (const [i, { label, score, labels, scores, logits }] of found.entries()) {
      const want = logitsOf(pooled[i], n);
      close(logits, want, 'logits');
      close(scores, activation(want), 'scores');
      assert.deepEqual(labels, n === 1 ? ['LABEL_0'] : names);
      const best = want.indexOf(Math.max(...want));
      assert.equal(label, labels[best]);
      assert.equal(score, scores[best]);
    }
    assert.deepEqual((await model.classify(texts, { activation: 'none' }))[0].scores, found[0].logits);
    await assert.rejects(model.classify(texts, { activation: 'relu' }), heddleError('bad_argument', /known: softmax, sigmoid, none/));
    // Its vectors are those of the encoder below the head.
    for (const [i, want] of rowsOf(expected.get('mean_pooled')).entries()) close((await model.embed([texts[i]]))[0], want, 'mean');
    await model.free();
  }
});

testOnEveryModule('labels of tokens, with the places in the text that tokenizers gives', async (runtime) => {
  const model = await runtime.loadModel(bertFiles({ architecture: 'BertForTokenClassification', labels: 4 }));
  const hidden = await runtime.loadModel(bertFiles());
  const short = tokenized.filter(({ ids }) => ids.length <= 60);
  let [placed, all] = [0, 0];
  for (const { text, ids, tokens, offsets } of short) {
    const found = await model.classifyTokens(text);
    assert.deepEqual(found.map(({ id }) => id), ids);
    assert.deepEqual(found.slice(1, -1).map(({ token }) => token), tokens);
    assert.equal(found[0].start, undefined, '[CLS] stands nowhere');
    const points = [0];
    for (const character of text) points.push(points.at(-1) + character.length);
    for (const [i, { start, end }] of found.slice(1, -1).entries()) {
      all++;
      if (start === undefined) continue;
      placed++;
      assert.deepEqual([start, end], offsets[i].map((point) => points[point]), `${tokens[i]} of '${text}'`);
    }
    const session = await hidden.createSession({ input: { shape: [ids.length] } });
    const rows = await session.forward(ids);
    await session.free();
    for (const [t, { logits, scores }] of found.entries()) {
      const row = rows.slice(t * 48, (t + 1) * 48);
      const want = Array.from({ length: 4 }, (_, l) => l / 8 + row.reduce((sum, x, i) => sum + x * Math.fround(Math.sin(l * 48 + i)), 0));
      close(logits, want, `logits of token ${t}`);
      close(scores, softmax(want), `scores of token ${t}`, 2e-5);
    }
  }
  assert.ok(placed > 0.9 * all, `${placed} of ${all} tokens have a place`);
  await model.free();
  await hidden.free();
});

testOnEveryModule('a decoder\'s scores are those of a text\'s last position', async (runtime) => {
  const expected = readSafetensors(part('llama-mha', 'expected.safetensors'));
  const tensors = readSafetensors(part('llama-mha', 'model.safetensors'));
  const head = tensors.get('lm_head.weight');
  tensors.delete('lm_head.weight');
  tensors.set('score.weight', { shape: [5, head.shape[1]], data: head.data.slice(0, 5 * head.shape[1]) });
  const config = { ...readJson(part('llama-mha', 'config.json')), architectures: ['LlamaForSequenceClassification'], num_labels: 5 };
  const model = await runtime.loadModel({ 'config.json': JSON.stringify(config), 'model.safetensors': writeSafetensors(Object.fromEntries(tensors)) });
  const ids = Array.from(expected.get('input_ids').data);
  const { shape, data } = expected.get('logits');
  for (const { logits } of await model.classify([ids, ids])) close(logits, data.slice((ids.length - 1) * shape.at(-1)).slice(0, 5), 'scores');
  await model.free();
});

// ---- The real one ----

const real = await minilm();
test('all-MiniLM-L6-v2: ids, embeddings within 1e-4 cosine distance, and the order of sentences', { skip: real.skip ?? false }, async () => {
  const { sentences, cosine } = readJson(shared('fixtures/real/minilm/expected.json'));
  const model = await (await runtimeWith(modules[0])).loadModel(real.folder);
  for (const { text, ids } of sentences) assert.deepEqual(await model.tokenize(text), ids);
  const vectors = await model.embed(sentences.map(({ text }) => text));
  for (const [i, { embedding }] of sentences.entries()) {
    const distanceOf = 1 - dot(vectors[i], embedding) / (Math.hypot(...vectors[i]) * Math.hypot(...embedding));
    assert.ok(distanceOf < 1e-4, `sentence ${i}: cosine distance ${distanceOf}`);
    close(vectors[i], embedding, `sentence ${i}`, 2e-6);
  }
  const order = (row) => row.map((_, i) => i).sort((a, b) => row[b] - row[a]);
  for (const [i, want] of cosine.entries()) assert.deepEqual(order(vectors.map((vector) => dot(vector, vectors[i]))), order(want), `neighbours of sentence ${i}`);
  await model.free();
});
