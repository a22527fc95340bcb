/**
 * Mixtures of experts in files: saved one by one under transformers' names, bytes for bytes the fixtures' own; loaded one by one or stacked; as GGUF under
 * llama.cpp's names; as MLX packs them. What they compute is in families.test.mjs.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { assertClose, assertSameBits, largest, readSafetensors, writeSafetensors } from './golden.mjs';
import { golden, heddle, heddleError, modules, packageFolder, readJson, runtimeWith, testOnEveryModule } from './heddle.mjs';
import { asLlamaCpp, writeGguf } from './llamacpp.mjs';

const mixtures = ['mixtral', 'qwen3-moe'];
const part = (name, file) => golden(`transformers/${name}/${file}`);
const own = (name) => readSafetensors(part(name, 'model.safetensors'));
const load = (runtime, name, options) => runtime.loadModel({ 'config.json': part(name, 'config.json'), 'model.safetensors': part(name, 'model.safetensors') }, options);

/** The file's tensors, by the package's reader. */
async function tensorsOf(runtime, file) {
  const weights = await runtime.openWeights(file);
  const found = new Map();
  for await (const { name, dtype, shape, data } of weights.all()) found.set(name, { dtype, shape, data });
  await weights.close();
  return found;
}

function assertTensors(got, want, what) {
  assert.deepEqual([...got.keys()].sort(), [...want.keys()].sort(), what);
  for (const [name, { dtype, shape, data }] of want) {
    assert.deepEqual([got.get(name).dtype, got.get(name).shape], [dtype, shape], name);
    assertSameBits(got.get(name).data, data, `${what}: ${name}`);
  }
}

/** Fails unless the model gives the case's logits. */
async function assertLogits(model, name, tolerance = 1e-5) {
  const expected = readSafetensors(part(name, 'expected.safetensors'));
  const [ids, want] = [expected.get('input_ids').data, expected.get('logits').data];
  const session = await model.createSession({ input: { shape: [ids.length] } });
  assertClose(await session.forward(ids), want, tolerance * Math.max(1, largest(want)), `${name}: logits`);
  await session.free();
}

// ---- SafeTensors and PyTorch ----

for (const name of mixtures) {
  testOnEveryModule(`F22 T12 the experts of ${name} are saved one by one: names, shapes and bytes of transformers' own file`, async (runtime) => {
    const model = await load(runtime, name);
    const want = own(name);
    assertTensors(await tensorsOf(runtime, await model.saveWeights()), want, 'SafeTensors');
    assertTensors(await tensorsOf(runtime, await model.saveTorch()), want, 'PyTorch');
    const chunks = [];
    await runtime.convertWeights(heddle.modelTensors(model), (chunk) => void chunks.push(Buffer.from(chunk)), { to: 'safetensors' });
    assertTensors(await tensorsOf(runtime, Buffer.concat(chunks)), want, 'converted');
    assert.deepEqual(model.weights.map(({ name: weight }) => weight).sort(), [...want.keys()].sort());
    assert.deepEqual(model.report.weights.map(({ name: weight, shape }) => [weight, shape]).sort(), [...want].map(([weight, { shape }]) => [weight, shape]).sort());
    await model.free();
  });

  testOnEveryModule(`F48 T12 the experts of ${name} go from one model to another: as a file and as a state dict, strictly, one alone too`, async (runtime) => {
    const model = await load(runtime, name);
    const file = await model.saveWeights();
    const dict = await heddle.stateDict(model);
    const [expert] = [...own(name).keys()].filter((weight) => /experts\.1\./.test(weight));
    for (const restore of [() => model.loadWeights(file, { strict: true }), () => heddle.loadStateDict(model, dict), () => heddle.loadStateDict(model, new Map([[expert, dict.get(expert)]]), { strict: false })]) {
      await model.writeWeight(expert, new Float32Array(dict.get(expert).values.length));
      await restore();
      assertSameBits(await model.readWeight(expert), own(name).get(expert).data, expert);
    }
    await assertLogits(model, name);
    await model.free();
  });

  testOnEveryModule(`T12 ${name} is loaded with its experts stacked, as rows of one matrix or [experts, rows, columns]`, async (runtime) => {
    for (const deep of [false, true]) {
      const stacked = {};
      for (const [weight, { shape, data }] of own(name)) {
        const plain = weight.replace(/experts\.\d+\./, 'experts.*.');
        const before = stacked[plain];
        if (plain === weight) stacked[plain] = { shape, data };
        else stacked[plain] = { one: shape, count: (before?.count ?? 0) + 1, data: [...(before?.data ?? []), ...data] };
      }
      for (const tensor of Object.values(stacked)) if (tensor.one) tensor.shape = deep ? [tensor.count, ...tensor.one] : [tensor.count * tensor.one[0], tensor.one[1]];
      const model = await runtime.loadModel({ 'config.json': part(name, 'config.json'), 'model.safetensors': writeSafetensors(stacked) });
      assertTensors(await tensorsOf(runtime, await model.saveWeights()), own(name), 'saved again');
      await assertLogits(model, name);
      await model.free();
    }
  });
}

testOnEveryModule('an expert that is not there is named, and its values are counted', async (runtime) => {
  const model = await load(runtime, 'mixtral');
  await assert.rejects(model.readWeight('model.layers.0.block_sparse_moe.experts.4.w1.weight'), heddleError('bad_argument', /no weight is called 'model\.layers\.0\.block_sparse_moe\.experts\.4\.w1\.weight'/));
  await assert.rejects(model.writeWeight('model.layers.0.block_sparse_moe.experts.3.w1.weight', [1]), heddleError('bad_argument', /experts\.3\.w1\.weight: expected 2304 values, found 1/));
  await model.free();
});

// ---- The command line ----

test('C1 T12 a mixture is converted between GGUF, a folder and PyTorch with its experts one by one, by the command line', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-experts-'));
  const program = join(packageFolder, readJson(join(packageFolder, 'package.json')).bin.heddle);
  const run = (...args) => execFileSync(process.execPath, [program, ...args], { encoding: 'utf8' });
  const runtime = await runtimeWith(modules[0]);
  try {
    for (const name of mixtures) {
      const at = (file) => join(folder, `${name}${file}`);
      const { metadata, tensors } = asLlamaCpp(name);
      writeFileSync(at('.gguf'), writeGguf(metadata, tensors));
      run('convert', at('.gguf'), at(''), '--to', 'hf');
      assertTensors(await tensorsOf(runtime, at('/model.safetensors')), own(name), 'a folder');
      run('convert', at(''), at('.pt'));
      assertTensors(await tensorsOf(runtime, at('.pt')), own(name), 'PyTorch');
      run('convert', at(''), at('-again.gguf'));
      const again = await runtime.loadModel(at('-again.gguf'));
      await assertLogits(again, name);
      await again.free();
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
