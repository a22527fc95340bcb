/**
 * Weight files of unknown make: the list and the layers are Loom's (tests/golden/loom, kind generic_detection), and chains of dense and norm
 * layers run.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

/** What the files of a case do not say. The Llama names lack a norm. */
const refusal = {
  generic_llama_names: heddleError('bad_file', /lack 1 of the model's 11 weights, first model\.layers\.0\.post_attention_layernorm\.weight/),
  generic_mixed_shapes: heddleError('unsupported', /give the model's config\.json/),
};

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
  } else {
    testOnEveryModule(`T1 ${entry.name}: what names and shapes do not put together is refused in words`, async (runtime) => {
      await assert.rejects(runtime.LoadGenericFromBytes(file, config), refusal[entry.name]);
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
