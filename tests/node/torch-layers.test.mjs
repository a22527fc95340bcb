/**
 * PyTorch's layers against what PyTorch computed (tests/golden/torch/layers): outputs, and gradients of parameters and of the
 * input. A loss of mean squares with targets y − ½·n·up has the gradient `up`, so that any upstream gradient can be given; an embedding whose
 * table is the input, asked for every row, has the input's gradient as its weight's.
 *
 * Our recurrent layers begin with a state of zero, most of PyTorch's cases with a given one. For those reference-recurrent.mjs has to give
 * PyTorch's output from PyTorch's state, and then says what it is from zero.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readSafetensors, withPrefix, writeSafetensors } from './golden.mjs';
import { recurrent } from './reference-recurrent.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

const { cases } = readJson(golden('torch/layers/cases.json'));

/** Fails unless |got − want| ≤ abs + rel · |want| everywhere, or both are NaN. */
function assertWithin(got, want, { abs, rel }, what) {
  assert.equal(got.length, want.length, `${what}: number of values`);
  for (const [i, value] of want.entries()) {
    const fits = Number.isNaN(value) ? Number.isNaN(got[i]) : got[i] === value || Math.abs(got[i] - value) <= abs + rel * Math.abs(value);
    assert.ok(fits, `${what}: value ${i}: expected ${value}, found ${got[i]}`);
  }
}

const oneInput = 'a graph has one input';

/**
 * Cases that are refused, with the reason. `config` is what a user would write, where it is not the case's own; the error names the type
 * or the key that `names` gives.
 */
const notYet = {
  linear_empty_batch: { reason: 'a network takes at least one row', shape: [0, 6], code: 'bad_file', names: 'network.input_shape' },
  bilinear: { reason: oneInput },
  mha_key_padding: { reason: oneInput, config: { key_padding_mask: true }, names: 'key_padding_mask' },
  mha_causal_and_padding: { reason: oneInput, config: { key_padding_mask: true }, names: 'key_padding_mask' },
  mha_float_mask: { reason: oneInput, config: { attn_mask: true }, names: 'attn_mask' },
  mha_mask_per_head: { reason: oneInput, config: { attn_mask: true }, names: 'attn_mask' },
  mha_cross: { reason: oneInput, config: { key: true, value: true }, names: 'key' },
  mha_cross_kdim_vdim: { reason: oneInput, names: 'kdim' },
  mha_bias_kv_zero_attn: { reason: 'keys beyond those of the input', config: { add_bias_kv: true, add_zero_attn: true }, names: 'add_bias_kv' },
  lstm_cell: { reason: oneInput },
  gru_cell: { reason: oneInput },
  encoderlayer_causal_padding: { reason: oneInput, config: { src_key_padding_mask: true }, names: 'src_key_padding_mask' },
  decoderlayer: { reason: oneInput },
  rope_interleaved: { reason: 'only halves are rotated', config: { type: 'rotary_positions' }, names: 'interleaved' },
  moe_top2_renorm: { reason: 'mixtures of experts are not built' },
  moe_top1: { reason: 'mixtures of experts are not built' },
  dropout_given_mask: { reason: oneInput, config: { mask: true }, names: 'mask' },
};
for (const { name, config } of cases) {
  if (config.type === 'scaled_dot_product_attention') notYet[name] = { reason: oneInput };
  if (config.type.endsWith('Loss') || config.type === 'CosineSimilarity') notYet[name] = { reason: 'losses are no layers' };
}

/** The layer that PyTorch's arguments mean: they are our keys, but for what the generator of the cases says in words of its own. */
const ours = {
  gelu_exact: ({ approximate }) => ({ type: 'GELU', approximate }),
  leaky_relu_02: (config) => ({ ...config, type: 'LeakyReLU' }),
  softplus_beta2: (config) => ({ ...config, type: 'Softplus' }),
  PReLU: ({ type, num }) => ({ type, num_parameters: num }),
  softmax: ({ dim = -1, temperature }) => (dim === -1 ? { type: 'softmax', temperature } : { type: 'softmax_over', dim }),
  sparsemax: () => ({ type: 'softmax', softmax_variant: 'sparsemax' }),
  entmax15: () => ({ type: 'softmax', softmax_variant: 'entmax', entmax_alpha: 1.5 }),
  // One output: the indices have no place.
  MaxPool2d: ({ return_indices: _, ...config }) => config,
  // In training PyTorch normalises with the batch's own statistics, as we do without running ones.
  BatchNorm1d: (config, { train_mode: trains }) => (trains ? { ...config, track_running_stats: false } : config),
  BatchNorm2d: (config, { train_mode: trains }) => (trains ? { ...config, track_running_stats: false } : config),
  Embedding: ({ num, dim, ...config }) => ({ ...config, num_embeddings: num, embedding_dim: dim }),
  EmbeddingBag: (config) => ({ ...config, num_embeddings: 7, embedding_dim: 4 }),
  SinusoidalPositionalEncoding: ({ d_model }) => ({ type: 'PositionalEncoding', d_model }),
  PositionalEncoding: ({ layout, ...config }) => ({ ...config, batch_first: layout === 'batch_first' }),
  LearnedPositional: ({ dim, max_len }) => ({ type: 'learned_positions', dim, max_len }),
  RoPE: ({ dim, base }) => ({ type: 'rotary_positions', dim, base }),
  SwiGLU: ({ dim, hidden, bias }) => ({ type: 'swiglu', input_height: dim, output_height: hidden, bias }),
  MultiheadAttention: (config, { name }) => ({ ...config, is_causal: name.startsWith('mha_causal_') }),
  TransformerEncoder: (config) => ({ ...config, norm: true, batch_first: true }),
  Parallel: ({ combine, branches }) => ({
    type: 'parallel',
    combine_mode: combine === 'gate' ? 'filter' : combine,
    branches: Array.from({ length: branches }, (_, i) => ({ type: 'dense', weights: `branches.${i}.`, in_features: 5, out_features: 3, activation: 'tanh' })),
    ...(combine === 'gate' && { filter_gate: { type: 'dense', weights: 'gate.', in_features: 5, out_features: branches } }),
  }),
  LlamaBlock: ({ dim, heads, kv_heads, hidden }) => ({
    type: 'sequential',
    branches: [
      { type: 'residual', branches: [
        { type: 'rms_norm', weights: 'input_layernorm.', norm_size: dim },
        { type: 'multi_head_attention', weights: '', d_model: dim, num_heads: heads, num_kv_heads: kv_heads, qkv_bias: false, out_bias: false, rope_freq_base: 10000 },
      ] },
      { type: 'residual', branches: [
        { type: 'rms_norm', weights: 'post_attention_layernorm.', norm_size: dim },
        { type: 'swiglu', weights: 'mlp.', input_height: dim, output_height: hidden, bias: false },
      ] },
    ],
  }),
};
const layerOf = (entry) => ({ weights: '', ...(ours[entry.config.type]?.(entry.config, entry) ?? entry.config) });

/** The case's one input: shape and numbers. A positional table is what is added to zeros. */
function inputOf(entry, tensors) {
  const positions = tensors.get('in.positions');
  if (!positions) return tensors.get('in.x') ?? tensors.get('in.query') ?? tensors.get('in.ids');
  const { shape } = tensors.get('out.y');
  return { shape, data: new Float32Array(shape[0] * shape[1]) };
}

/** Gives `use` the layer with PyTorch's parameters, in a session of that mode. */
async function withLayer(runtime, entry, tensors, mode, use) {
  const input = inputOf(entry, tensors);
  const model = await runtime.buildNetwork({ input_shape: input.shape.map((n) => Math.max(n, 1)), layers: [layerOf(entry)] }, { seed: 1 });
  for (const { name } of model.weights) {
    const values = tensors.get(`param.${name}`) ?? tensors.get(`buffer.${name}`);
    assert.ok(values, `${name} is one of PyTorch's parameters`);
    await model.writeWeight(name, values.data);
  }
  await use(await model.createSession({ mode }), input, model);
  await model.free();
}

for (const entry of cases) {
  const { name, config, tolerance } = entry;
  const refused = notYet[name];
  if (refused) {
    testOnEveryModule(`PyTorch's ${name} is refused: ${refused.reason}`, async (runtime) => {
      const layer = { ...config, ...refused.config };
      const network = { input_shape: refused.shape ?? [1, 1], layers: [layer] };
      await assert.rejects(runtime.buildNetwork(network), heddleError(refused.code ?? 'unsupported', new RegExp(refused.names ?? config.type)));
    });
    continue;
  }

  const tensors = readSafetensors(golden(`torch/layers/${entry.files[0]}`));
  const hasState = tensors.has('in.h0');
  if (hasState) test(`the reference gives PyTorch's ${name}`, () => assertWithin(recurrent(config, tensors, { fromZero: false }), tensors.get('out.y').data, tolerance, 'y'));

  testOnEveryModule(`PyTorch's ${name} gives ${hasState ? "the reference's output from a state of zero" : "PyTorch's output"}`, (runtime) =>
    withLayer(runtime, entry, tensors, 'infer', async (session, { shape, data }) => {
      const want = hasState ? recurrent(config, tensors, { fromZero: true }) : tensors.get('out.y').data;
      assertWithin(await session.forward(data, shape), want, tolerance, 'y');
    }),
  );

  // PyTorch's gradients of recurrent layers are those through the last states as well, which are no outputs here.
  if (tensors.has('up.h_n') || !tensors.get('up.y')?.data.length) continue;
  testOnEveryModule(`PyTorch's ${name} has PyTorch's gradients`, (runtime) => assertGradients(runtime, entry, tensors));
}

/** The names and shapes a SafeTensors file declares, sorted. */
function shapesIn(file) {
  const { __metadata__: _, ...header } = JSON.parse(Buffer.from(file.subarray(8, 8 + Number(Buffer.from(file).readBigUInt64LE(0)))).toString('utf8'));
  return Object.entries(header).map(([name, { shape }]) => [name, shape]).sort();
}

testOnEveryModule("F22 F23: weights are saved under PyTorch's names in PyTorch's shapes, and PyTorch's are loaded (convolutions: [out, in / groups, kernel…])", async (runtime) => {
  let nKernels = 0;
  for (const entry of cases.filter(({ name }) => !notYet[name])) {
    const tensors = readSafetensors(golden(`torch/layers/${entry.files[0]}`));
    await withLayer(runtime, entry, tensors, 'infer', async (session, { shape, data }, model) => {
      if (model.weights.length === 0) return;
      const theirs = model.weights.map(({ name }) => [name, tensors.get(`param.${name}`) ?? tensors.get(`buffer.${name}`)]).sort();
      const want = await session.forward(data, shape);
      const file = await model.saveWeights();
      assert.deepEqual(shapesIn(file), theirs.map(([name, tensor]) => [name, tensor.shape]), entry.name);
      nKernels += theirs.filter(([, tensor]) => tensor.shape.length > 2).length;
      const other = await runtime.buildNetwork({ input_shape: shape.map((n) => Math.max(n, 1)), layers: [layerOf(entry)] }, { seed: 2 });
      for (const each of [file, writeSafetensors(Object.fromEntries(theirs))]) {
        assert.equal(await other.loadWeights(each), theirs.length, entry.name);
        assert.deepEqual(await other.forward(data, shape), want, entry.name);
      }
      await other.free();
    });
  }
  assert.ok(nKernels >= 8, `${nKernels} kernels of convolutions`);
});

/** The rounding of the targets comes on top of the case's own. */
const gradientTolerance = { abs: 1e-4, rel: 1e-3 };

async function assertGradients(runtime, entry, tensors) {
  const { shape, data } = inputOf(entry, tensors);
  const takesIds = tensors.has('in.ids');
  const [rows, width] = [data.length / shape.at(-1), shape.at(-1)];
  const table = { type: 'embedding', weights: 'input.', num_embeddings: rows, embedding_dim: width };
  const layers = takesIds ? [layerOf(entry)] : [table, layerOf(entry)];
  const model = await runtime.buildNetwork({ input_shape: takesIds ? shape : shape.length > 1 ? shape.slice(0, -1) : [1], layers }, { seed: 1 });
  for (const { name } of model.weights) await model.writeWeight(name, name === 'input.weight' ? data : (tensors.get(`param.${name}`) ?? tensors.get(`buffer.${name}`)).data);
  const session = await model.createSession({ mode: 'train' });
  const input = takesIds ? data : Float32Array.from({ length: rows }, (_, i) => i);
  const up = tensors.get('up.y').data;
  const y = await session.forward(input);
  await session.backward(input, y.map((value, i) => value - (up.length / 2) * up[i]), { loss: 'mse' });
  for (const [weight, want] of withPrefix(tensors, 'grad.param.')) assertWithin((await session.gradient(weight)).data, want.data, gradientTolerance, `gradient of ${weight}`);
  const wanted = tensors.get('grad.in.x') ?? tensors.get('grad.in.query');
  if (wanted) assertWithin((await session.gradient('input.weight')).data, wanted.data, gradientTolerance, 'gradient of the input');
  await model.free();
}
