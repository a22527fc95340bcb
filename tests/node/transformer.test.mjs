/**
 * Llama-style models under their Loom names: every value Loom's loader gives (tests/golden/loom, kind transformer), and what the goldens'
 * maker computed after it: final norm, logits, the token. What is refused is refused by name.
 */
import assert from 'node:assert/strict';
import { mkdtempSync, copyFileSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertWithin } from './golden.mjs';
import { golden, heddle, heddleError, readJson, runtimeWith, modules, testOnEveryModule } from './heddle.mjs';

/** Loom's four network layers of a block, under our values' names: attention and SwiGLU have their residual added. */
const blockValues = ['input_norm', 'residual_attn', 'post_norm', 'output'];

/** One traced forward a runtime and case serves all its values. */
const sessions = new Map();
async function traced(runtime, module, name) {
  const key = `${module} ${name}`;
  if (!sessions.has(key)) sessions.set(key, trace(runtime, name));
  return sessions.get(key);
}

const config = (name) => readJson(golden(`loom/${name}.config.json`));
const weights = (name) => readFileSync(golden(`loom/${name}.safetensors`));

async function trace(runtime, name) {
  const { model } = await runtime.LoadTransformerFromBytes(config(name), weights(name));
  const session = await model.createSession({ mode: 'trace' });
  await session.forward(readJson(golden(`loom/${name}.io.json`)).input_ids);
  return { model, session };
}

for (const { name, files, tolerance } of readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'transformer')) {
  assert.ok(files.includes(`${name}.safetensors`));
  const io = readJson(golden(`loom/${name}.io.json`));
  const blocks = config(name).num_hidden_layers;
  const values = [
    ['input', 'embedding', io.input],
    ...io.layer_outputs.map((want, i) => [`layer_outputs[${i}]`, `layers.${Math.floor(i / 4)}.${blockValues[i % 4]}`, want]),
    ['output', `layers.${blocks - 1}.output`, io.output],
    ['final_norm', 'final_norm', io.final_norm],
  ];
  assert.equal(io.layer_outputs.length, 4 * blocks);

  for (const [what, ours, want] of values) {
    testOnEveryModule(`T5 ${name}: ${what} is Loom's`, async (runtime, module) => {
      const { session } = await traced(runtime, module, name);
      assertWithin((await session.value(ours)).data, want, tolerance, ours);
    });
  }

  testOnEveryModule(`T5 ${name}: logits_last and argmax are the goldens'`, async (runtime, module) => {
    const { session } = await traced(runtime, module, name);
    assertWithin(await session.logits(), io.logits_last, tolerance, 'logits');
    assert.equal(await session.argmax(), io.argmax);
  });

  testOnEveryModule(`T6 T13 ${name}: ForwardCPU takes ids and gives every position's logits, from a folder as from bytes`, async (runtime) => {
    const folder = mkdtempSync(join(tmpdir(), 'heddle-transformer-'));
    try {
      copyFileSync(golden(`loom/${name}.config.json`), join(folder, 'config.json'));
      copyFileSync(golden(`loom/${name}.safetensors`), join(folder, 'model.safetensors'));
      const network = await runtime.LoadTransformerFromSafetensors(folder);
      const logits = network.ForwardCPU(io.input_ids);
      assert.equal(logits.length, io.input_ids.length * io.logits_last.length);
      assertWithin(logits.slice(-io.logits_last.length), io.logits_last, tolerance, 'the last row');
      // The next call begins anew.
      assert.deepEqual(network.ForwardCPU(io.input_ids), logits);
      network.free();
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}

test('T6 the package itself exports both calls, for the first runtime', async () => {
  await runtimeWith(modules[0]);
  const { input_ids: ids, logits_last: want } = readJson(golden('loom/tf_llama_tiny.io.json'));
  // As text in bytes, as a file would bring it.
  const network = await heddle.LoadTransformerFromBytes(readFileSync(golden('loom/tf_llama_tiny.config.json')), weights('tf_llama_tiny'));
  assertWithin(network.ForwardCPU(ids).slice(-want.length), want, { abs: 1e-5, rel: 1e-5 }, 'logits');
  network.free();
  await assert.rejects(heddle.LoadTransformerFromSafetensors(golden('transformers')), heddleError('bad_file', /no config\.json/));
});

testOnEveryModule('T5 without model_type, sizes or tie the tensors say them, and only the heads are needed', async (runtime) => {
  for (const name of ['tf_llama_tiny', 'tf_qwen_tiny']) {
    const { num_attention_heads: heads, rms_norm_eps, rope_theta } = config(name);
    const { input_ids: ids, logits_last: want } = readJson(golden(`loom/${name}.io.json`));
    const network = await runtime.LoadTransformerFromBytes({ num_attention_heads: heads, rms_norm_eps, ...(rope_theta && { rope_theta }) }, weights(name));
    assertWithin(network.ForwardCPU(ids).slice(-want.length), want, { abs: 1e-5, rel: 1e-5 }, name);
    network.free();
    await assert.rejects(runtime.LoadTransformerFromBytes({}, weights(name)), heddleError('bad_file', /config\.json\.num_attention_heads: this key is needed/));
  }
});

testOnEveryModule('T5 a Qwen2 whose sliding window is off ignores it', async (runtime) => {
  const { input_ids: ids, logits_last: want } = readJson(golden('loom/tf_qwen_tiny.io.json'));
  const off = { ...config('tf_qwen_tiny'), use_sliding_window: false, sliding_window: 2, max_window_layers: 1 };
  const network = await runtime.LoadTransformerFromBytes(off, weights('tf_qwen_tiny'));
  assertWithin(network.ForwardCPU(ids).slice(-want.length), want, { abs: 1e-5, rel: 1e-5 }, 'logits');
  network.free();
});

const refused = {
  'an encoder-decoder': ['t5', 'mt5', 'bart', 'mbart', 'encoder-decoder', 'marian', 'T5'],
  'an encoder that differs from BERT': ['roberta', 'distilbert'],
  'a vision model': ['detr', 'yolos', 'rt_detr', 'yolo', 'vit', 'deit', 'swin', 'beit'],
};
for (const [what, types] of Object.entries(refused)) {
  for (const type of types) {
    testOnEveryModule(`T6 model_type ${type} is refused as ${what}`, async (runtime) => {
      const given = { ...config('tf_llama_tiny'), model_type: type };
      await assert.rejects(runtime.LoadTransformerFromBytes(given, weights('tf_llama_tiny')), heddleError('unsupported', new RegExp(`model_type '${type}' is ${what}, .*known: llama, qwen2`)));
    });
  }
}

for (const architecture of ['LlamaForConditionalGeneration', 'EncoderDecoderModel']) {
  testOnEveryModule(`T6 the architecture ${architecture} is refused by name`, async (runtime) => {
    const given = { ...config('tf_llama_tiny'), architectures: [architecture] };
    await assert.rejects(runtime.LoadTransformerFromBytes(given, weights('tf_llama_tiny')), heddleError('unsupported', new RegExp(`'${architecture}' has parts beside its text model, which are not built`)));
  });
}

testOnEveryModule('T6 a broken config.json, a missing weight and bytes that are no weights are refused by what is wrong', async (runtime) => {
  const bytes = (text) => new TextEncoder().encode(text);
  await assert.rejects(runtime.LoadTransformerFromBytes(bytes('{"model_type":'), weights('tf_llama_tiny')), heddleError('bad_file', /byte/));
  await assert.rejects(runtime.LoadTransformerFromBytes({ ...config('tf_llama_tiny'), num_hidden_layers: 3 }, weights('tf_llama_tiny')), heddleError('bad_file', /model\.layers\.2\./));
  await assert.rejects(runtime.LoadTransformerFromBytes({ ...config('tf_llama_tiny'), tie_word_embeddings: false }, weights('tf_llama_tiny')), heddleError('bad_file', /lm_head\.weight/));
  await assert.rejects(runtime.LoadTransformerFromBytes(config('tf_llama_tiny'), bytes('PK\u0003\u0004 no weights')), heddleError('bad_file'));
});
