/** What a model's weights will take is known from headers, to the byte; what cannot fit is refused before any memory is taken, with what would. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, golden, heddleError, modules, needs, optionsFor, projectFolder, runtimeWith, shared } from './heddle.mjs';
import { checkpointOf, published, tensorsOf } from './published-shapes.mjs';
import { madeCheckpoint, serverFor } from './range-server.mjs';

const runtime = await runtimeWith(modules[0]);
const types = ['keep', 'f32', 'f16', 'q8_0', 'int8', 'q4_0'];
const server = await serverFor({});

async function agrees(source, options = {}) {
  const { byDtype } = await runtime.estimate(source, options);
  for (const dtype of types) {
    const { weights, fits, limit } = await runtime.estimate(source, { ...options, dtype });
    const model = await runtime.loadModel(source, { ...options, dtype });
    assert.equal(weights, model.weights.reduce((sum, { bytes }) => sum + bytes, 0), dtype);
    assert.equal(byDtype[dtype], weights);
    assert.deepEqual({ fits, limit }, { fits: true, limit: 2 ** 32 });
    await model.free();
  }
}

test('a memory estimate is what loading takes, to the byte, for every dtype, from one file and from shards', async () => {
  await agrees(golden('transformers/llama-gqa-tied'));
  await agrees(golden('transformers/llama-gqa-tied-sharded'));
  await agrees(join(projectFolder, 'demo/models/story'));
});

test('the same for a GGUF file', needs('fixtures/real/stories260k'), () => agrees(shared('fixtures/real/stories260k/stories260K-q8_0.gguf')));

test('T17 a model that cannot fit 4 GB is refused by its header alone, with the dtypes that would fit', async () => {
  /** So many matrices of 0.8 GB in BF16. */
  const large = (n) => {
    const layers = Array.from({ length: n }, () => ({ type: 'linear', in_features: 20000, out_features: 20000, bias: false }));
    return { config: { layers }, file: madeCheckpoint(layers.map((_, i) => `layers.${i}.weight`), 20000, 20000) };
  };
  const { config, file } = large(8);
  server.files['big.safetensors'] = file;
  const url = `${server.address}/big.safetensors`;
  server.reset();
  const estimate = await runtime.estimate(url, { config });
  assert.equal(estimate.weights, 8 * 20000 * 20000 * 2);
  assert.equal(estimate.fits, false);
  assert.ok(estimate.byDtype.q4_0 < estimate.byDtype.q8_0 && estimate.byDtype.q8_0 < 2 ** 32);
  const refusal = heddleError('out_of_memory', /^the model's weights take 6\.4 GB, and WebAssembly's memory ends at 4\.29 GB: as 'q8_0' [\d.]+ GB, 'int8' [\d.]+ GB, 'q4_0' [\d.]+ GB they would fit \(options\.dtype\)$/);
  await assert.rejects(runtime.loadModel(url, { config }), refusal);
  await assert.rejects(runtime.loadModel(url, { config, dtype: 'f32' }), heddleError('out_of_memory', /WebAssembly's memory ends at/));
  const { init } = await entry('./worker');
  const remote = await init(optionsFor(modules[0]));
  assert.deepEqual(await remote.estimate(url, { config }), estimate);
  await assert.rejects(remote.loadModel(url, { config }), refusal);
  await remote.free();
  assert.ok(server.sent < 100_000, `${server.sent} bytes sent`);

  const huge = large(30);
  server.files['huge.safetensors'] = huge.file;
  await assert.rejects(runtime.loadModel(`${server.address}/huge.safetensors`, { config: huge.config }), heddleError('out_of_memory', /no dtype makes them fit/));
});

// ---- Sessions ----

test('the estimate has what a session takes, to the byte', async () => {
  for (const name of ['llama-gqa-tied', 'qwen3', 'mixtral', 'gpt2', 'gemma3']) {
    for (const dtype of ['keep', 'q8_0']) {
      const source = golden(`transformers/${name}`);
      const context = 50;
      const estimate = await runtime.estimate(source, { dtype, context });
      const model = await runtime.loadModel(source, { dtype, context });
      const session = await model.createSession({ input: { dtype: 'i32', shape: [Math.min(64, context)] }, outputRows: 1, context });
      const { weights, arena, state, other } = await session.memory();
      assert.deepEqual(
        { weights: estimate.weights, arena: estimate.arena, state: estimate.statePerPosition * context, total: estimate.total, context: estimate.context, longest: estimate.longest },
        { weights, arena: arena + other, state, total: weights + arena + other + state, context, longest: context },
        `${name} as ${dtype}`,
      );
      await session.free();
      await model.free();
    }
  }
  const network = { layers: [{ type: 'linear', in_features: 4, out_features: 2, bias: false }] };
  const { context, arena, total, longest } = await runtime.estimate(madeCheckpoint(['layers.0.weight'], 2, 4).part(0, madeCheckpoint(['layers.0.weight'], 2, 4).size), { config: network });
  assert.deepEqual([context, arena, total, longest], [0, 0, 16, 0]);
});

// ---- Models no fixture holds: seeded weights in the exact published shape stand in ----

/** Serves the file, made as it is read, under the model's name. */
function served(name) {
  const { config } = published[name];
  server.files[`${name}/config.json`] = { bytes: Buffer.from(JSON.stringify(config)) };
  server.files[`${name}/model.safetensors`] = checkpointOf(config);
  server.reset();
  return `${server.address}/${name}/`;
}

const matrices = (config, bytes) => tensorsOf(config).reduce((sum, [, shape]) => sum + shape.reduce((n, size) => n * size, shape.length === 2 ? bytes : 4), 0);

for (const [name, { parameters, config }] of Object.entries(published)) {
  test(`T17 ${name}: the estimate reads the header alone (seeded weights in the exact published shape stand in)`, async () => {
    assert.equal(tensorsOf(config).reduce((sum, [, shape]) => sum + shape.reduce((n, size) => n * size, 1), 0), parameters);
    const source = served(name);
    const estimate = await runtime.estimate(source);
    assert.ok(server.sent < 200_000, `${server.sent} bytes sent`);
    assert.equal(estimate.weights, matrices(config, 2));
    assert.equal(estimate.byDtype.f32, 4 * parameters);
    assert.equal(estimate.context, config.max_position_embeddings);
    const headDim = config.head_dim ?? config.hidden_size / config.num_attention_heads;
    assert.equal(estimate.statePerPosition, config.num_hidden_layers * 2 * config.num_key_value_heads * headDim * 4);
    assert.ok(estimate.arena > 64 * config.hidden_size * 4 && estimate.arena < 2 ** 30, `${estimate.arena}`);
    assert.equal(estimate.fits, name !== 'Llama-3.1-8B');
    if (!estimate.fits) return;
    for (const { dtype, weights, longest } of estimate.suggestions) {
      assert.equal(weights, estimate.byDtype[dtype]);
      const room = 2 ** 32 - weights - estimate.arena;
      assert.ok(longest === estimate.context || Math.abs((2 * longest - 256) * estimate.statePerPosition - room) < 2 ** 25, `${longest} positions as ${dtype}`);
    }
  });
}

test('T17 Llama-3.1-8B is refused by its header, and so is a context that does not fit, with the one that does (seeded weights stand in)', async () => {
  const llama = served('Llama-3.1-8B');
  await assert.rejects(runtime.loadModel(llama), heddleError('out_of_memory', /^the model's weights take 16\.1 GB, and WebAssembly's memory ends at 4\.29 GB: /));
  await assert.rejects(runtime.loadModel(llama, { dtype: 'q4_0' }), heddleError('out_of_memory', /weights take [45]\.\d+ GB.*no dtype makes them fit/));
  assert.ok(server.sent < 400_000, `${server.sent} bytes sent`);
  const qwen = served('Qwen3-0.6B');
  const { longest, fits } = await runtime.estimate(qwen, { dtype: 'q8_0', context: 40960 });
  assert.equal(fits, false);
  assert.ok(longest > 7_000 && longest < 8_500, `${longest}`);
  const refusal = new RegExp(`weights take \\d+ MB, and a session of 40960 positions 9\\.\\d+ GB, and .*: with a context of ${longest} positions it would fit \\(options\\.context\\)`);
  await assert.rejects(runtime.loadModel(qwen, { dtype: 'q8_0', context: 40960 }), heddleError('out_of_memory', refusal));
  assert.equal((await runtime.estimate(qwen, { dtype: 'q8_0', context: longest })).fits, true);
});
