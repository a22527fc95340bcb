/**
 * Weight files of unknown make: the list and the layers are Loom's (tests/golden/loom, kind generic_detection), and chains of dense and norm
 * layers run. Of other parts: generic-parts.test.mjs.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin, writeSafetensors } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';
import { recurrent } from './reference-recurrent.mjs';

for (const entry of readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'generic_detection')) {
  const path = (ending) => entry.files.filter((name) => name.endsWith(ending)).map((name) => golden(`loom/${name}`))[0];
  const io = readJson(path('.io.json'));
  const file = readFileSync(path('.safetensors'));
  const config = path('.config.json') && readJson(path('.config.json'));

  testOnEveryModule(`T2 T3 ${entry.name}: the detected list and the layers are Loom's`, async (runtime) => {
    const found = await runtime.InspectModel(file, config);
    assert.deepEqual(found.detected, io.detected);
    assert.deepEqual(found.layers, io.layers);
    assert.equal(found.input_size, io.input_size);
    assert.equal(found.parameters, io.detected.reduce((sum, { Shape }) => sum + Shape.reduce((a, b) => a * b, 1), 0));
  });

  if (io.output) {
    testOnEveryModule(`T1 ${entry.name}: what is put together gives Loom's output`, async (runtime) => {
      const { network, detected } = await runtime.LoadGenericFromBytes(file, config);
      assert.deepEqual(detected, io.detected);
      assertWithin(network.ForwardCPU(io.input), io.output, entry.tolerance, 'output');
      network.free();
    });
  } else if (entry.name === 'generic_mixed_shapes') {
    testOnEveryModule(`T1 ${entry.name}: what names and shapes do not put together is refused in words`, async (runtime) => {
      await assert.rejects(runtime.LoadGenericFromBytes(file, config), heddleError('unsupported', /block\.attention\.proj: .*give the model's config\.json/));
    });
  }
}

testOnEveryModule('T1 bytes that are no weight file are refused', async (runtime) => {
  await assert.rejects(runtime.LoadGenericFromBytes(new Uint8Array(4)), heddleError('bad_file'));
  await assert.rejects(runtime.InspectModel(new TextEncoder().encode('PK\u0003\u0004 not a weight file')), heddleError('bad_file'));
});

testOnEveryModule('T1 T13 Llama-named tensors become the network that runs; only the number of heads is needed beside them', async (runtime) => {
  for (const name of ['tf_llama_tiny', 'tf_qwen_tiny', 'tf_llama_bf16']) {
    const { num_attention_heads, rms_norm_eps, rope_theta = 10000 } = readJson(golden(`loom/${name}.config.json`));
    const { input_ids: ids, logits_last: want } = readJson(golden(`loom/${name}.io.json`));
    const file = readFileSync(golden(`loom/${name}.safetensors`));
    const { network, detected } = await runtime.LoadGenericFromBytes(file, { num_attention_heads, rms_norm_eps, rope_theta });
    assert.ok(detected.some(({ LoomTypeName }) => LoomTypeName === 'MultiHeadAttention'));
    assertWithin(network.ForwardCPU(ids).slice(-want.length), want, { abs: 1e-5, rel: 1e-5 }, name);
    network.free();
    for (const config of [undefined, {}, { hidden_size: 16 }]) {
      await assert.rejects(runtime.LoadGenericFromBytes(file, config), heddleError('bad_file', /config\.json\.num_attention_heads: this key is needed/));
    }
  }
});

/** Weights under PyTorch's names, and x, none of them round. */
function recurrentWeights({ type, input_size: input, hidden_size: hidden, num_layers: layers = 1, bias = true, bidirectional, proj_size: projected }) {
  const gates = { RNN: 1, GRU: 3, LSTM: 4 }[type] * hidden;
  const state = projected || hidden;
  const tensors = {};
  const add = (name, ...shape) => {
    const salt = Object.keys(tensors).length;
    tensors[name] = { shape, data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(1 + i * 1.7 + salt * 2.3) / 2) };
  };
  for (let layer = 0; layer < layers; layer++) {
    for (const suffix of bidirectional ? [`_l${layer}`, `_l${layer}_reverse`] : [`_l${layer}`]) {
      add(`weight_ih${suffix}`, gates, layer === 0 ? input : state * (bidirectional ? 2 : 1));
      add(`weight_hh${suffix}`, gates, state);
      if (bias) for (const name of ['bias_ih', 'bias_hh']) add(`${name}${suffix}`, gates);
      if (projected) add(`weight_hr${suffix}`, projected, hidden);
    }
  }
  return tensors;
}

const prefixed = (tensors, prefix) => Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [prefix + name, tensor]));

const recurrentCases = [
  [{ type: 'RNN', input_size: 3, hidden_size: 4 }, ''],
  [{ type: 'GRU', input_size: 3, hidden_size: 4, bidirectional: true }, 'encoder.gru.'],
  [{ type: 'LSTM', input_size: 5, hidden_size: 3, num_layers: 2, bidirectional: true }, 'lstm.'],
  [{ type: 'LSTM', input_size: 3, hidden_size: 4, bias: false, proj_size: 2 }, ''],
];
for (const [config, prefix] of recurrentCases) {
  testOnEveryModule(`T1 T13 PyTorch's tensors become the layer they are: ${JSON.stringify(config)} under '${prefix}'`, async (runtime) => {
    const tensors = recurrentWeights(config);
    const steps = 6;
    const x = { shape: [steps, config.input_size], data: Float32Array.from({ length: steps * config.input_size }, (_, i) => Math.cos(i * 0.9)) };
    const want = recurrent(config, new Map([['in.x', x], ...Object.entries(prefixed(tensors, 'param.'))]), { fromZero: true });
    const { network } = await runtime.LoadGenericFromBytes(writeSafetensors(prefixed(tensors, prefix)));
    assertWithin(network.ForwardCPU(x.data), want, { abs: 1e-5, rel: 1e-5 }, 'output');
    network.free();
  });
}

testOnEveryModule('T1 a recurrent layer with something beside it is refused: nothing says in which order they run', async (runtime) => {
  const file = writeSafetensors({ ...recurrentWeights({ type: 'LSTM', input_size: 3, hidden_size: 4 }), 'fc.weight': { shape: [2, 4], data: new Float32Array(8) } });
  await assert.rejects(runtime.LoadGenericFromBytes(file), heddleError('unsupported', /give the model's config\.json/));
});
