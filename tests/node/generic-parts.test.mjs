/**
 * Weight files that hold parts of networks: attention, feed-forward, linear layers, norms, alone and one after another. What LoadGenericFromBytes
 * puts together gives PyTorch's output (tests/golden/torch/layers) or that of the textbook's formulas in double precision.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin, readSafetensors, withPrefix, writeSafetensors } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';
import { add, attend, layerNorm, linear, relu, rmsNorm, silu } from './reference-parts.mjs';

// ---- Layers from a file's tensors ----

function attention(x, tensors, stem, heads, kvHeads, options) {
  const at = (name) => linear(x, tensors[`${stem}${name}.weight`], tensors[`${stem}${name}.bias`]);
  return linear(attend(at('q_proj'), at('k_proj'), at('v_proj'), heads, kvHeads, options), tensors[`${stem}o_proj.weight`], tensors[`${stem}o_proj.bias`]);
}

function swiglu(x, tensors, stem) {
  const at = (rows, name) => linear(rows, tensors[`${stem}${name}.weight`], tensors[`${stem}${name}.bias`]);
  const up = at(x, 'up_proj');
  return at(at(x, 'gate_proj').map((row, t) => row.map((v, i) => silu(v) * up[t][i])), 'down_proj');
}

// ---- Files ----

/** Tensors of these shapes, none of their numbers round. */
function filled(shapes) {
  return Object.fromEntries(Object.entries(shapes).map(([name, shape], salt) => {
    const norm = shape.length === 1 && !name.endsWith('bias');
    const data = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => (norm ? 1 : 0) + Math.sin(1 + i * 1.7 + salt * 2.3) / 2);
    return [name, { shape, data }];
  }));
}

const attentionShapes = (stem, width, q, kv, biases = []) => ({
  [`${stem}q_proj.weight`]: [q, width], [`${stem}k_proj.weight`]: [kv, width], [`${stem}v_proj.weight`]: [kv, width], [`${stem}o_proj.weight`]: [width, q],
  ...Object.fromEntries(biases.map((name) => [`${stem}${name}.bias`, [name === 'o_proj' ? width : name === 'q_proj' ? q : kv]])),
});
const swigluShapes = (stem, width, hidden, bias = false) => ({
  [`${stem}gate_proj.weight`]: [hidden, width], [`${stem}up_proj.weight`]: [hidden, width], [`${stem}down_proj.weight`]: [width, hidden],
  ...(bias && { [`${stem}gate_proj.bias`]: [hidden], [`${stem}up_proj.bias`]: [hidden], [`${stem}down_proj.bias`]: [width] }),
});

const inputRows = (n, width) => Array.from({ length: n }, (_, t) => Array.from({ length: width }, (_, i) => Math.fround(Math.cos(0.9 * (t * width + i)))));

async function check(runtime, tensors, config, x, want, warnings) {
  const loaded = await runtime.LoadGenericFromBytes(writeSafetensors(tensors), config);
  assertWithin(loaded.network.ForwardCPU(x.flat()), want.flat(), { abs: 2e-5, rel: 2e-5 }, 'output');
  assert.deepEqual(loaded.warnings, warnings);
  assert.equal(loaded.network.GetTotalParameters(), Object.values(tensors).reduce((sum, { data }) => sum + data.length, 0), 'every tensor is used');
  loaded.network.free();
}

const causal = 'assumed: causal attention';
const unturned = 'assumed: no rotary positions (rope_theta)';

// ---- Attention ----

testOnEveryModule('T1 T2 T6 attention alone: plain, grouped, with biases, turned, under any prefix', async (runtime) => {
  const x = inputRows(5, 8);
  const cases = [
    [{ stem: '', q: 8, kv: 8, heads: 2, kvHeads: 2 }, { num_attention_heads: 2 }],
    [{ stem: 'self_attn.', q: 8, kv: 4, heads: 4, kvHeads: 2 }, { num_attention_heads: 4 }],
    [{ stem: 'model.layers.3.self_attn.', q: 12, kv: 4, heads: 3, kvHeads: 1, biases: ['q_proj', 'k_proj', 'v_proj'] }, { num_attention_heads: 3, rope_theta: 500 }],
    [{ stem: 'a.', q: 8, kv: 2, heads: 4, kvHeads: 1, biases: ['q_proj', 'k_proj', 'v_proj', 'o_proj'] }, { head_dim: 2, rope_parameters: { rope_type: 'default', rope_theta: 90 } }],
  ];
  for (const [{ stem, q, kv, heads, kvHeads, biases }, config] of cases) {
    const tensors = filled(attentionShapes(stem, 8, q, kv, biases));
    const theta = config.rope_theta ?? config.rope_parameters?.rope_theta;
    await check(runtime, tensors, config, x, attention(x, tensors, stem, heads, kvHeads, { causal: true, theta }), theta ? [causal] : [causal, unturned]);
  }
});

testOnEveryModule('T1 several attention layers run in the order of their numbers, 10 after 9', async (runtime) => {
  const shapes = {};
  for (let layer = 0; layer < 11; layer++) Object.assign(shapes, attentionShapes(`layers.${layer}.self_attn.`, 4, 4, 4));
  const tensors = filled(shapes);
  let want = inputRows(3, 4);
  for (let layer = 0; layer < 11; layer++) want = attention(want, tensors, `layers.${layer}.self_attn.`, 2, 2, { causal: true });
  await check(runtime, tensors, { num_attention_heads: 2 }, inputRows(3, 4), want, [causal, unturned]);
});

testOnEveryModule('T1 a norm before attention: x is added', async (runtime) => {
  const tensors = filled({ 'blk.0.ln_1.weight': [8], ...attentionShapes('blk.0.attn.', 8, 8, 4) });
  const x = inputRows(4, 8);
  const want = add(x, attention(rmsNorm(x, tensors['blk.0.ln_1.weight'], 1e-3), tensors, 'blk.0.attn.', 4, 2, { causal: true, theta: 100 }));
  await check(runtime, tensors, { num_attention_heads: 4, rms_norm_eps: 1e-3, rope_theta: 100 }, x, want, [causal]);
});

/** The samples of a batch, and PyTorch's outputs for them. */
function samplesOf(name) {
  const tensors = readSafetensors(golden(`torch/layers/${name}.safetensors`));
  const x = tensors.get('in.x') ?? tensors.get('in.query');
  const y = tensors.get('out.y') ?? tensors.get('out.attn');
  const size = x.shape.length === 3 ? x.shape[1] * x.shape[2] : x.data.length;
  const out = y.data.length / (x.data.length / size);
  const samples = Array.from({ length: x.data.length / size }, (_, b) => [x.data.slice(b * size, (b + 1) * size), y.data.slice(b * out, (b + 1) * out)]);
  return { file: writeSafetensors(Object.fromEntries(withPrefix(tensors, 'param.'))), samples };
}

const torchCases = [
  ['mha_self', { num_attention_heads: 2 }, ['assumed: attention to all positions, not only those before']],
  ['mha_nobias', { num_heads: 2 }, ['assumed: attention to all positions, not only those before']],
  ['encoderlayer_post_relu', { nhead: 2 }, ['assumed: relu in the encoder\'s layers (activation)', 'assumed: norms behind the encoder\'s residuals, as PyTorch\'s default is (norm_first)']],
  ['encoderlayer_pre_gelu', { nhead: 2, activation: 'gelu', norm_first: true }, []],
  ['linear', { hidden_act: 'relu' }, []],
  ['linear_nobias', { hidden_act: 'relu' }, []],
  ['linear_3d', { hidden_act: 'relu' }, []],
  ['swiglu', {}, []],
  ['swiglu_bias', {}, []],
  ['llama_block', { num_attention_heads: 4, rope_theta: 10000, rms_norm_eps: 1e-6 }, [causal]],
];
for (const [name, config, warnings] of torchCases) {
  testOnEveryModule(`T1 L21 the tensors of PyTorch's ${name} become the layer that gives PyTorch's output`, async (runtime) => {
    const { file, samples } = samplesOf(name);
    const loaded = await runtime.LoadGenericFromBytes(file, config);
    for (const [x, y] of samples) assertWithin(loaded.network.ForwardCPU(x), y, readJson(golden('torch/layers/cases.json')).cases.find((c) => c.name === name).tolerance, name);
    assert.deepEqual(loaded.warnings, warnings);
    loaded.network.free();
  });
}

// ---- Feed-forward and linear layers ----

testOnEveryModule('T1 T2 L18 SwiGLU alone and several, with biases; a feed-forward layer without a gate', async (runtime) => {
  const x = inputRows(3, 6);
  const one = filled(swigluShapes('mlp.', 6, 10));
  await check(runtime, one, undefined, x, swiglu(x, one, 'mlp.'), []);
  const two = filled({ ...swigluShapes('layers.10.mlp.', 6, 7, true), ...swigluShapes('layers.9.mlp.', 6, 10) });
  await check(runtime, two, {}, x, swiglu(swiglu(x, two, 'layers.9.mlp.'), two, 'layers.10.mlp.'), []);
  const open = filled({ 'up_proj.weight': [9, 6], 'up_proj.bias': [9], 'down_proj.weight': [4, 9] });
  const want = linear(linear(x, open['up_proj.weight'], open['up_proj.bias']).map((row) => row.map(relu)), open['down_proj.weight']);
  await check(runtime, open, { hidden_act: 'relu' }, x, want, []);
});

testOnEveryModule('T1 L26 a stack of linear layers: config.json\'s activation between them, or Loom\'s behind all', async (runtime) => {
  const tensors = filled({ '0.weight': [20, 4], '0.bias': [20], '2.weight': [6, 20], '10.weight': [3, 6], '10.bias': [3] });
  const x = inputRows(2, 4);
  const through = (act, last) => {
    const first = linear(x, tensors['0.weight'], tensors['0.bias']).map((row) => row.map(act));
    const second = linear(first, tensors['2.weight']).map((row) => row.map(act));
    return linear(second, tensors['10.weight'], tensors['10.bias']).map((row) => row.map(last));
  };
  await check(runtime, tensors, { hidden_act: 'tanh' }, x, through(Math.tanh, (v) => v), []);
  const loom = (v) => Math.max(0, 1.1 * v);
  await check(runtime, tensors, undefined, x, through(loom, loom), ["assumed: Loom's relu behind every linear layer (hidden_act in config.json is put between them)"]);
});

testOnEveryModule('T1 linear layers with norms between: those with a bias are layer norms', async (runtime) => {
  const tensors = filled({ 'net.0.weight': [6, 4], 'net.0.bias': [6], 'net.1.weight': [6], 'net.1.bias': [6], 'net.2.weight': [3, 6] });
  const x = inputRows(2, 4);
  const first = linear(x, tensors['net.0.weight'], tensors['net.0.bias']).map((row) => row.map(silu));
  const want = linear(layerNorm(first, tensors['net.1.weight'], tensors['net.1.bias'], 1e-5), tensors['net.2.weight']);
  await check(runtime, tensors, { hidden_act: 'silu' }, x, want, ['assumed: layer norms with an epsilon of 1e-5 (layer_norm_eps)']);
});

// ---- Blocks ----

const blockShapes = (stem, width, hidden) => ({
  [`${stem}input_layernorm.weight`]: [width], ...attentionShapes(`${stem}self_attn.`, width, width, width / 2),
  [`${stem}post_attention_layernorm.weight`]: [width], ...swigluShapes(`${stem}mlp.`, width, hidden),
});

function block(x, tensors, stem, eps, theta) {
  const mid = add(x, attention(rmsNorm(x, tensors[`${stem}input_layernorm.weight`], eps), tensors, `${stem}self_attn.`, 4, 2, { causal: true, theta }));
  const norm = tensors[`${stem}post_attention_layernorm.weight`];
  return add(mid, swiglu(norm ? rmsNorm(mid, norm, eps) : mid, tensors, `${stem}mlp.`));
}

testOnEveryModule('T1 T6 blocks without embedding and head: norm, attention, added; norm, SwiGLU, added; a final norm', async (runtime) => {
  const tensors = filled({ ...blockShapes('model.layers.1.', 8, 12), 'model.norm.weight': [8], ...blockShapes('model.layers.0.', 8, 10) });
  const x = inputRows(4, 8);
  const blocks = block(block(x, tensors, 'model.layers.0.', 1e-5, 77), tensors, 'model.layers.1.', 1e-5, 77);
  await check(runtime, tensors, { num_attention_heads: 4, rms_norm_eps: 1e-5, rope_theta: 77 }, x, rmsNorm(blocks, tensors['model.norm.weight'], 1e-5), [causal]);
  const bare = Object.fromEntries(Object.entries(tensors).filter(([name]) => name.startsWith('model.layers.0.')));
  await check(runtime, bare, { num_attention_heads: 4 }, x, block(x, bare, 'model.layers.0.', 1e-6),
    ['assumed: RMS norms with an epsilon of 1e-6 (rms_norm_eps)', causal, unturned]);
});

testOnEveryModule('T1 T6 generic_llama_names: a Llama that lacks a norm runs, and says so', async (runtime) => {
  const tensors = Object.fromEntries(readSafetensors(golden('loom/generic_llama_names.safetensors')));
  const config = readJson(golden('loom/generic_llama_names.config.json'));
  const { network, warnings } = await runtime.LoadGenericFromBytes(readFileSync(golden('loom/generic_llama_names.safetensors')), config);
  const ids = [3, 99, 0, 41, 41];
  const table = tensors['model.embed_tokens.weight'];
  const x = ids.map((id) => Array.from(table.data.slice(id * 16, (id + 1) * 16)));
  const want = linear(rmsNorm(block(x, tensors, 'model.layers.0.', config.rms_norm_eps, 10000), tensors['model.norm.weight'], config.rms_norm_eps), table);
  assertWithin(network.ForwardCPU(ids), want.flat(), { abs: 2e-5, rel: 2e-5 }, 'logits');
  assert.deepEqual(warnings, [
    causal, 'assumed: rotary positions of base 10000 (rope_theta)', 'missing: a norm before model.layers.0.mlp.; none is applied',
    "assumed: the embedding's matrix for the head, which is missing (tie_word_embeddings)",
  ]);
  network.free();
  // As a transformer it is refused: there the family says what has to be there.
  await assert.rejects(runtime.LoadTransformerFromBytes({ ...config, model_type: 'llama', vocab_size: 100, num_hidden_layers: 1, tie_word_embeddings: true }, readFileSync(golden('loom/generic_llama_names.safetensors'))),
    heddleError('bad_file', /lack 1 of the model's 11 weights, first model\.layers\.0\.post_attention_layernorm\.weight/));
});

// ---- What cannot be placed ----

testOnEveryModule('T1 T6 E11 what names and shapes do not place is refused with the tensor, the key or the layer', async (runtime) => {
  const refuses = (shapes, config, code, pattern) => assert.rejects(runtime.LoadGenericFromBytes(writeSafetensors(filled(shapes)), config), heddleError(code, pattern));
  const attn = attentionShapes('attn.', 8, 8, 4);
  for (const config of [undefined, {}, { hidden_size: 8 }]) await refuses(attn, config, 'bad_file', /^config\.json\.num_attention_heads: this key is needed: how many heads attn\.q_proj\.weight has/);
  await refuses(attn, { num_attention_heads: 3 }, 'bad_file', /num_attention_heads: expected a divisor of the 8 rows of attn\.q_proj\.weight, found 3/);
  await refuses(attn, { num_attention_heads: 1 }, 'bad_file', /attn\.k_proj\.weight: expected whole heads of 8 rows, found 4/);
  await refuses(attn, { num_attention_heads: 2, rope_scaling: { rope_type: 'llama3' } }, 'unsupported', /rope_scaling: rope type 'llama3'/);
  const { 'attn.o_proj.weight': _, ...headless } = attn;
  await refuses(headless, { num_attention_heads: 2 }, 'unsupported', /its layer lacks others/);
  const heads = { num_attention_heads: 2 };
  await refuses({ ...attn, 'attn.q_norm.weight': [4] }, heads, 'unsupported', /attn\.q_norm\.weight: nothing says where it goes/);
  await refuses({ ...attn, 'fc.weight': [8, 8] }, heads, 'unsupported', /fc\.weight: nothing says where it goes/);
  await refuses({ ...attn, ...attentionShapes('cross.', 8, 8, 8), ...swigluShapes('mlp.', 8, 9) }, heads, 'unsupported', /nothing says where it goes/);
  await refuses({ ...attentionShapes('encoder.0.', 8, 8, 8), ...attentionShapes('decoder.0.', 8, 8, 8) }, heads, 'unsupported', /nothing says where it goes/);
  await refuses({ ...swigluShapes('layers.0.experts.0.', 8, 8), ...swigluShapes('layers.0.experts.1.', 8, 8) }, {}, 'unsupported', /experts\.0.*nothing says where it goes/);
  await refuses({ ...blockShapes('0.', 8, 9), '0.odd_norm.weight': [8] }, { num_attention_heads: 4 }, 'unsupported', /nothing says where it goes/);
  await refuses({ 'a.weight': [4, 3], 'b.weight': [4, 3] }, {}, 'bad_argument', /^network\.layers\[1\]: .*expected 3 input features, found shape \[1, 4\]/);
  await refuses({ 'conv.weight': [2, 2, 3] }, {}, 'unsupported', /conv\.weight: nothing says where it goes/);
});

testOnEveryModule('T1 T6 small tensors without a place are left out and named', async (runtime) => {
  const tensors = filled({ ...swigluShapes('mlp.', 4, 5), 'rotary_emb.inv_freq': [2], 'old.bias': [3] });
  const { network, warnings } = await runtime.LoadGenericFromBytes(writeSafetensors(tensors));
  assert.deepEqual(warnings, ['left out: rotary_emb.inv_freq', 'left out: old.bias']);
  const found = await runtime.InspectModel(writeSafetensors(tensors));
  assert.deepEqual(found.warnings, warnings);
  assert.equal(found.detected.length, 5);
  network.free();
});
