/**
 * Every model family against transformers (tests/golden/transformers): the logits and hidden states of all positions from both spellings of its
 * config.json, greedy tokens over the key/value cache, and PyTorch's traces value by value. The fixtures' README gives the budgets: 1e-5 times
 * the larger of 1 and the reference's largest value, and plain 1e-5 on the two `mild` traces.
 */
import assert from 'node:assert/strict';
import { assertClose, assertGreedy, largest, readSafetensors, writeSafetensors } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** The checklist's ids, and what each case is for. */
const decoders = {
  'llama-mha': ['T7', 'Llama with a head of its own'],
  'llama-gqa-tied': ['T10', 'Llama with grouped heads and tied embeddings, as SmolLM2'],
  'llama-bias': ['T7', 'Llama with biases everywhere'],
  'llama-gqa-tied-bf16': ['T7', 'Llama from BF16'],
  'llama-gqa-tied-f16': ['T7', 'Llama from F16'],
  'llama-rope-linear': ['T7', 'Llama with linear rope scaling'],
  'llama-rope-dynamic': ['T7', 'Llama with dynamic NTK scaling'],
  'llama-rope-yarn': ['T7', 'Llama with YaRN'],
  'llama3-rope': ['T7 T17', 'Llama 3.1'],
  'llama-mild': ['T7', 'Llama with small weights'],
  'mistral-swa': ['T8', 'Mistral with a sliding window'],
  qwen2: ['T9', 'Qwen2'],
  'qwen2-mild': ['T9', 'Qwen2 with small weights'],
  'qwen2-swa': ['T9', 'Qwen2 with a window on its upper layers'],
  smollm3: ['T10', 'SmolLM3'],
  phi3: ['family', 'Phi-3'],
  'phi3-longrope': ['family', 'Phi-3 with LongRoPE'],
  gemma: ['family', 'Gemma'],
  gemma2: ['family', 'Gemma 2'],
  gemma3: ['family', 'Gemma 3'],
  gpt2: ['family', 'GPT-2'],
  mixtral: ['family', 'Mixtral'],
  'qwen3-moe': ['T12', 'Qwen3-MoE'],
  qwen3: ['T12', 'Qwen3'],
};

const part = (name, file) => golden(`transformers/${name}/${file}`);
const expectedOf = (name) => readSafetensors(part(name, 'expected.safetensors'));
const load = (runtime, name, config = 'config.json') => runtime.loadModel({ 'config.json': part(name, config), 'model.safetensors': part(name, 'model.safetensors') });

/** The budget of a tensor that is as large as `want`. */
const budget = (want) => 1e-5 * Math.max(1, largest(want));

/** A traced forward of the whole prompt. */
async function traced(model, ids) {
  const session = await model.createSession({ mode: 'trace', input: { shape: [ids.length] } });
  const output = await session.forward(ids);
  return { session, output };
}

for (const [name, [id, what]] of Object.entries(decoders)) {
  for (const config of ['config.json', 'config.v4.json']) {
    testOnEveryModule(`${id} ${what}: logits and hidden states of every position are transformers', from ${config}`, async (runtime) => {
      const expected = expectedOf(name);
      const model = await load(runtime, name, config);
      const { session, output } = await traced(model, expected.get('input_ids').data);
      const states = [...expected.keys()].filter((key) => key.startsWith('hidden_states.'));
      assert.equal(states.length, readJson(part(name, 'config.json'))[name === 'gpt2' ? 'n_layer' : 'num_hidden_layers'] + 1);
      for (const i of states.keys()) {
        // The last is taken after the final norm.
        const ours = i === 0 ? 'embedding' : i === states.length - 1 ? 'final_norm' : `layers.${i - 1}.output`;
        const want = expected.get(`hidden_states.${i}`).data;
        assertClose((await session.value(ours)).data, want, budget(want), `hidden_states.${i}`);
      }
      const want = expected.get('logits').data;
      assertClose(output, want, budget(want), 'logits');
      await session.free();
      await model.free();
    });
  }

  testOnEveryModule(`${id} ${what}: 24 greedy tokens are transformers' over the key/value cache`, async (runtime) => {
    const expected = readJson(part(name, 'expected.json'));
    assert.equal(expected.greedy_ids_ignore_eos.length, 24);
    const model = await load(runtime, name);
    await assertGreedy(model, expected);
    await model.free();
  });
}

// ---- Traces ----

/** A layer's input is the value before it. */
function ourName(name) {
  const layer = /^layers\.(\d+)\.input$/.exec(name)?.[1];
  if (layer === undefined) return name;
  return layer === '0' ? 'embedding' : `layers.${layer - 1}.output`;
}

/** PyTorch keeps rotated queries and keys as [1, heads, T, dim]; ours lie as [T, heads, dim]. */
function inOurOrder(name, { shape: [, heads, n, dim], data }) {
  if (!/\.[qk]_rope$/.test(name)) return data;
  return data.map((_, i) => {
    const [t, h, d] = [Math.floor(i / (heads * dim)), Math.floor(i / dim) % heads, i % dim];
    return data[(h * n + t) * dim + d];
  });
}

for (const [base, id, plain] of [['llama-gqa-tied', 'T7', false], ['llama-mild', 'T7', true], ['qwen2', 'T9', false], ['qwen2-mild', 'T9', true], ['qwen3', 'T12', false]]) {
  testOnEveryModule(`${id} every value of trace-${base} is PyTorch's${plain ? ' within plain 1e-5' : ''}`, async (runtime) => {
    const trace = readSafetensors(golden(`transformers/trace-${base}/trace.safetensors`));
    const model = await load(runtime, base);
    const { session } = await traced(model, trace.get('input_ids').data);
    const names = [...trace.keys()].filter((name) => name !== 'input_ids');
    assert.ok(names.length >= 59, `${names.length} values`);
    for (const name of names) {
      const want = inOurOrder(name, trace.get(name));
      assertClose((await session.value(ourName(name))).data, want, plain ? 1e-5 : budget(want), name);
    }
    await session.free();
    await model.free();
  });
}

// ---- Names ----

/** The case's files with another config and other names of its tensors. */
function renamed(name, config, rename) {
  const tensors = Object.fromEntries([...readSafetensors(part(name, 'model.safetensors'))].map(([key, tensor]) => [rename(key), tensor]));
  return { 'config.json': JSON.stringify({ ...readJson(part(name, 'config.json')), ...config }), 'model.safetensors': writeSafetensors(tensors) };
}

/** Fails unless such a file gives the case's logits; gives the model's warnings. */
async function assertRuns(runtime, name, files) {
  const expected = expectedOf(name);
  const model = await runtime.loadModel(files);
  const want = expected.get('logits').data;
  const session = await model.createSession({ input: { shape: [expected.get('input_ids').data.length] } });
  assertClose(await session.forward(expected.get('input_ids').data), want, budget(want), `${name}: logits`);
  const { warnings } = await model.describe();
  await session.free();
  await model.free();
  return warnings;
}

testOnEveryModule('T11 names with and without what is written before them, and a tied head that the file has all the same', async (runtime) => {
  const cases = [
    ['llama-mha', (key) => key.replace(/^model\./, '')],
    ['llama-mha', (key) => `language_model.${key}`],
    ['gpt2', (key) => key.replace(/^transformer\./, '')],
    ['mixtral', (key) => key.replace(/^model\./, '')],
  ];
  for (const [name, rename] of cases) assert.deepEqual(await assertRuns(runtime, name, renamed(name, {}, rename)), [], name);
  const tied = readSafetensors(part('qwen2', 'model.safetensors'));
  const head = { ...Object.fromEntries(tied), 'lm_head.weight': tied.get('model.embed_tokens.weight') };
  await assertRuns(runtime, 'qwen2', { 'config.json': part('qwen2', 'config.json'), 'model.safetensors': writeSafetensors(head) });
});

testOnEveryModule('BERT saved below a class of its own, and with the older names of layer norms', async (runtime) => {
  const expected = expectedOf('bert');
  const want = expected.get('row0.last_hidden_state_unpadded').data;
  for (const rename of [(key) => `bert.${key}`, (key) => key.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta')]) {
    const model = await runtime.loadModel(renamed('bert', {}, rename));
    assertClose(await model.forward(rowIds(expected, 0, 300)), want, budget(want), 'last_hidden_state');
    await model.free();
  }
});

testOnEveryModule('T11 an unknown model_type whose tensors have Llama\'s names is run as that, with a warning', async (runtime) => {
  for (const [name, as] of [['llama-gqa-tied', 'llama'], ['llama-bias', 'llama'], ['qwen2', 'qwen2'], ['qwen3', 'qwen3'], ['mistral-swa', 'llama']]) {
    const warnings = await assertRuns(runtime, name, renamed(name, { model_type: 'nobody_knows' }, (key) => key));
    assert.deepEqual(warnings, [`model_type 'nobody_knows' is not known; its tensors have Llama's names, so it is run as ${as}`]);
  }
});

testOnEveryModule('T11 an unknown model_type with other tensors is refused by what was found', async (runtime) => {
  const refusal = (pattern) => heddleError('unsupported', pattern);
  await assert.rejects(runtime.loadModel(renamed('gpt2', { model_type: 'nobody_knows' }, (key) => key)), refusal(/model_type 'nobody_knows' is not known; known: llama, .*bert.*not called as Llama's are either: transformer\.h\.0/));
  await assert.rejects(runtime.loadModel(renamed('gemma3', { model_type: 'nobody_knows' }, (key) => key)), refusal(/tensor model\.layers\.0\.post_feedforward_layernorm\.weight: its model_type is not known, and as Llama it has no place for this/));
});

testOnEveryModule('T11 an expert too many, an expert that is missing and a matrix of another shape are refused by name', async (runtime) => {
  const files = (config, rename) => renamed('mixtral', config, rename);
  const same = (key) => key;
  await assert.rejects(runtime.loadModel(files({ num_local_experts: 3 }, same)), heddleError('bad_file', /block_sparse_moe\.experts\.3\..*the model has 3 of them|block_sparse_moe\.gate\.weight: the model wants shape \[3, 48\]/));
  await assert.rejects(runtime.loadModel(files({}, (key) => key.replace('layers.1.block_sparse_moe.experts.2.w3', 'layers.1.block_sparse_moe.experts.2.w9'))), heddleError('bad_file', /lack 1 of .*layers\.1\.block_sparse_moe\.experts\.\*\.w3\.weight/));
  await assert.rejects(runtime.loadModel(files({ intermediate_size: 32 }, same)), heddleError('bad_file', /experts\.0\.w1\.weight: the model wants shape \[32, 48\], the file has \[48, 48\]/));
});

// ---- Classifiers and adapters ----

const labels = 5;

/** A decoder's head cut down to some labels is a classifier whose scores are those logits. */
testOnEveryModule('LlamaForSequenceClassification has a row of scores for each position', async (runtime) => {
  const expected = expectedOf('llama-mha');
  const tensors = readSafetensors(part('llama-mha', 'model.safetensors'));
  const head = tensors.get('lm_head.weight');
  tensors.delete('lm_head.weight');
  tensors.set('score.weight', { shape: [labels, head.shape[1]], data: head.data.slice(0, labels * head.shape[1]) });
  const config = { ...readJson(part('llama-mha', 'config.json')), architectures: ['LlamaForSequenceClassification'], id2label: Object.fromEntries(Array.from({ length: labels }, (_, i) => [i, `LABEL_${i}`])) };
  const model = await runtime.loadModel({ 'config.json': JSON.stringify(config), 'model.safetensors': writeSafetensors(Object.fromEntries(tensors)) });
  const want = expected.get('logits').data.filter((_, i) => i % 384 < labels);
  assertClose(await model.forward(expected.get('input_ids').data), want, budget(want), 'scores');
  await model.free();
});

testOnEveryModule('BERT classifies texts behind its pooler, and tokens one by one', async (runtime) => {
  const expected = expectedOf('bert');
  const tensors = Object.fromEntries([...readSafetensors(part('bert', 'model.safetensors'))].map(([name, tensor]) => [`bert.${name}`, tensor]));
  const weight = Float32Array.from({ length: labels * 48 }, (_, i) => Math.sin(i));
  const bias = Float32Array.from({ length: labels }, (_, i) => i / 8);
  const score = (x) => Array.from(bias, (b, l) => x.reduce((sum, value, i) => sum + value * weight[l * 48 + i], b));
  const file = writeSafetensors({ ...tensors, 'classifier.weight': { shape: [labels, 48], data: weight }, 'classifier.bias': { shape: [labels], data: bias } });
  const load = (architecture) => runtime.loadModel({ 'config.json': JSON.stringify({ ...readJson(part('bert', 'config.json')), architectures: [architecture], num_labels: labels }), 'model.safetensors': file });
  const ids = rowIds(expected, 0, 300);
  const ofText = await load('BertForSequenceClassification');
  const pooled = score(Array.from(expected.get('pooler_output').data.slice(0, 48)));
  assertClose(await ofText.forward(ids), pooled, budget(pooled), 'labels of the text');
  await ofText.free();
  const ofTokens = await load('BertForTokenClassification');
  const rows = expected.get('row0.last_hidden_state_unpadded').data;
  const each = ids.flatMap((_, t) => score(Array.from(rows.slice(t * 48, (t + 1) * 48))));
  assertClose(await ofTokens.forward(ids), each, budget(each), 'labels of the tokens');
  await ofTokens.free();
});

testOnEveryModule('a LoRA adapter of GPT-2, whose matrices are stored [in][out], is on, off and merged as in PEFT', async (runtime) => {
  const at = (file) => golden(`transformers/lora/gpt2-c_attn-r4/${file}`);
  const expected = readSafetensors(at('expected.safetensors'));
  const ids = expected.get('input_ids').data;
  const model = await load(runtime, 'gpt2');
  const adapter = await model.loadAdapter(at('adapter_config.json'), at('adapter_model.safetensors'));
  const session = await model.createSession({ input: { shape: [ids.length] } });
  const check = (got, key) => assertClose(got, expected.get(key).data, 5 * budget(expected.get(key).data), key);
  await session.useAdapter(adapter);
  check(await session.forward(ids), 'logits_adapter');
  await session.free();
  await model.mergeAdapter(adapter);
  check(await model.forward(ids), 'logits_merged');
  await model.free();
});

testOnEveryModule('weights that were saved are the file again: GPT-2 has its matrices [in][out]', async (runtime) => {
  const model = await load(runtime, 'gpt2');
  const file = await model.saveWeights();
  await model.free();
  assert.deepEqual(await assertRuns(runtime, 'gpt2', { 'config.json': part('gpt2', 'config.json'), 'model.safetensors': file }), []);
  const experts = await load(runtime, 'qwen3-moe');
  const stacked = await experts.saveWeights();
  await experts.free();
  assert.deepEqual(await assertRuns(runtime, 'qwen3-moe', { 'config.json': part('qwen3-moe', 'config.json'), 'model.safetensors': stacked }), []);
});

// ---- Encoders ----

/** A row of a padded batch, without its padding: its ids, with the token types above the vocabulary. */
function rowIds(expected, row, vocabulary) {
  const [n, ids, mask, types] = [expected.get('input_ids').shape[1], ...['input_ids', 'attention_mask', 'token_type_ids'].map((name) => expected.get(name).data)];
  return Array.from({ length: n }, (_, i) => row * n + i)
    .filter((i) => mask[i] === 1)
    .map((i) => ids[i] + vocabulary * types[i]);
}

const mean = (rows, width) => Float32Array.from({ length: width }, (_, d) => rows.reduce((sum, x, i) => (i % width === d ? sum + x : sum), 0) / (rows.length / width));

function normalised(x) {
  const norm = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0));
  return x.map((value) => value / norm);
}

for (const [name, what] of [['bert', 'BERT'], ['minilm-like', 'an encoder like MiniLM']]) {
  for (const config of ['config.json', 'config.v4.json']) {
    testOnEveryModule(`encoder ${what}: each row alone is the padded batch's, its pooled and mean-pooled vectors transformers', from ${config}`, async (runtime) => {
      const expected = expectedOf(name);
      const { cosine, lengths } = readJson(part(name, 'expected.json'));
      const { vocab_size: vocabulary, hidden_size: width, num_hidden_layers: layers } = readJson(part(name, config));
      const model = await load(runtime, name, config);
      const sentences = [];
      const member = (key, row, n) => {
        const { shape, data } = expected.get(key);
        return data.slice((row * data.length) / shape[0], (row * data.length) / shape[0] + n);
      };
      for (const [row, length] of lengths.entries()) {
        const ids = rowIds(expected, row, vocabulary);
        assert.equal(ids.length, length);
        const { session, output } = await traced(model, ids);
        for (let i = 0; i <= layers; i++) {
          const want = member(`hidden_states.${i}`, row, length * width);
          assertClose((await session.value(i === 0 ? 'embedding' : `layers.${i - 1}.output`)).data, want, budget(want), `hidden_states.${i} of row ${row}`);
        }
        const alone = expected.get(`row${row}.last_hidden_state_unpadded`).data;
        assertClose(output, alone, budget(alone), `last_hidden_state of row ${row}`);
        assertClose((await session.value('pooler_output')).data, member('pooler_output', row, width), 1e-5, `pooler_output of row ${row}`);
        sentences.push(normalised(mean(output, width)));
        assertClose(sentences.at(-1), member('mean_pooled_normalized', row, width), 1e-5, `sentence ${row}`);
        assertClose(normalised(output.slice(0, width)), member('cls_pooled_normalized', row, width), 1e-5, `first token of row ${row}`);
        await session.free();
        // Outside a trace, where values share memory, the same.
        assertClose(await model.forward(ids), alone, budget(alone), `forward of row ${row}`);
      }
      for (const [a, x] of sentences.entries()) for (const [b, y] of sentences.entries()) assert.ok(Math.abs(x.reduce((sum, value, i) => sum + value * y[i], 0) - cosine[a][b]) < 1e-5);
      await model.free();
    });
  }
}
