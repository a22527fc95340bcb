/**
 * LoRA adapters: attached, detached, merged and taken away again, against PEFT (tests/golden/transformers/lora) and against the rows of
 * shared/fixtures/real/stories260k, which were computed independently in float64.
 *
 * Tolerances: PEFT's logits 5e-5 · max(1, max |logit|) and without an adapter 1e-5 · max(1, …), the fixtures' own; stories260k's logits 1e-4,
 * its greedy ids in full: their smallest margin, 1.4e-3, is clear of twice that.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertClose, assertSameBits, distance, largest, readSafetensors, writeSafetensors } from './golden.mjs';
import { golden, heddleError, needs, readJson, shared, testOnEveryModule } from './heddle.mjs';
import { quantiseWeights, roundedEitherWay } from './reference-llama.mjs';

const scaled = (relative, want) => relative * Math.max(1, largest(want));

// ---- PEFT ----

for (const name of ['llama-qv-r4', 'llama-all-r8']) {
  const at = (file) => golden(`transformers/lora/${name}/${file}`);
  const expected = readSafetensors(at('expected.safetensors'));
  const ids = expected.get('input_ids').data;
  const want = (key) => expected.get(key).data;

  const base = (file) => golden(`transformers/llama-gqa-tied/${file}`);

  const open = async (runtime) => {
    const model = await runtime.loadModel({ 'config.json': base('config.json'), 'model.safetensors': base('model.safetensors') });
    return { model, adapter: await model.loadAdapter(at('adapter_config.json'), at('adapter_model.safetensors')) };
  };

  testOnEveryModule(`the adapter ${name} gives the logits of PEFT while attached and the base's before and after`, async (runtime) => {
    const { model, adapter } = await open(runtime);
    const session = await model.createSession();
    const before = await session.forward(ids);
    assertClose(before, want('logits_base'), scaled(1e-5, want('logits_base')), 'logits_base');
    await session.reset();
    await session.useAdapter(adapter);
    assertClose(await session.forward(ids), want('logits_adapter'), scaled(5e-5, want('logits_adapter')), 'logits_adapter');
    await session.reset();
    await session.useAdapter(null);
    const after = await session.forward(ids);
    assertClose(after, want('logits_disabled'), scaled(1e-5, want('logits_disabled')), 'logits_disabled');
    assertSameBits(after, before, 'logits after detaching');
    await model.free();
  });

  testOnEveryModule(`the adapter ${name} merged gives the merged weights and logits of PEFT`, async (runtime) => {
    const { model, adapter } = await open(runtime);
    await model.mergeAdapter(adapter);
    for (const [key, { data }] of expected) {
      if (!key.startsWith('merged.')) continue;
      assertClose(await model.readWeight(key.slice('merged.'.length)), data, scaled(1e-6, data), key);
    }
    const session = await model.createSession();
    assertClose(await session.forward(ids), want('logits_merged'), scaled(5e-5, want('logits_merged')), 'logits_merged');
    await model.free();
  });
}

// ---- stories260k ----

const folder = 'fixtures/real/stories260k';
const skipped = needs(folder);
const at = (file) => shared(`${folder}/${file}`);
const rows = skipped.skip ? {} : readJson(at('expected-variants.json'));
const row = rows['hf/model.safetensors + lora/'];
const base = rows['stories260K-f32.gguf'];
const promptIds = [1, 403, 407, 261, 378]; // "Once upon a time"
const tolerance = 1e-4;

const open = async (runtime, dtype = 'keep') => {
  const model = await runtime.loadModel(at('hf'), { dtype });
  return { model, adapter: await model.loadAdapter(at('lora/adapter_config.json'), at('lora/adapter_model.safetensors')) };
};
const last = async (session, ids = promptIds) => {
  await session.reset();
  await session.decode(ids);
  return session.logits();
};
const greedy = async (session, n) => {
  await last(session);
  const ids = [...promptIds];
  while (ids.length < n) {
    ids.push(await session.argmax());
    await session.decode(ids.slice(-1));
  }
  return ids;
};

testOnEveryModule('the adapter of stories260k gives the published logits and greedy ids, and takes nothing with it when detached', skipped, async (runtime) => {
  const { model, adapter } = await open(runtime);
  const session = await model.createSession();
  const before = await last(session);
  assertClose(before, base.last_prompt_position_logits, tolerance, 'base logits');
  await session.useAdapter(adapter);
  assertClose(await last(session), row.last_prompt_position_logits, tolerance, 'adapter logits');
  assert.ok(row.smallest_greedy_margin > 2 * tolerance);
  assert.deepEqual(await greedy(session, row.ids.length), row.ids);
  await session.useAdapter(null);
  assertSameBits(await last(session), before, 'logits after detaching');
  assert.deepEqual(await greedy(session, base.ids.length), base.ids);
  await model.free();
});

testOnEveryModule('merging gives the adapter\'s logits and unmerging the base\'s weights', skipped, async (runtime) => {
  const { model, adapter } = await open(runtime);
  const session = await model.createSession();
  await session.useAdapter(adapter);
  const attached = await last(session);
  await session.free();
  const original = new Map();
  for (const { name } of model.weights) original.set(name, await model.readWeight(name));

  await model.mergeAdapter(adapter);
  const merged = await model.createSession();
  assertClose(await last(merged), attached, scaled(5e-5, attached), 'merged logits');
  assertClose(await last(merged), row.last_prompt_position_logits, tolerance, 'merged logits against the row');
  await merged.free();

  // Four additions (the rank) there and four back round values of about the merged weight's size: 8 · 2^-24 is below 1e-6.
  const largestMerged = new Map();
  for (const { name } of model.weights) largestMerged.set(name, largest(await model.readWeight(name)));
  await model.unmergeAdapter(adapter);
  for (const [name, values] of original) {
    const again = await model.readWeight(name);
    if (/[qv]_proj/.test(name)) assertClose(again, values, 1e-6 * Math.max(largest(values), largestMerged.get(name)), name);
    else assertSameBits(again, values, name);
  }
  const unmerged = await model.createSession();
  assertClose(await last(unmerged), base.last_prompt_position_logits, tolerance, 'unmerged logits');
  await model.free();
});

testOnEveryModule('A5: merging twice is merging once; a merged adapter is not attached, and one that is not merged is not taken away', skipped, async (runtime) => {
  const { model, adapter } = await open(runtime);
  const names = model.weights.map(({ name }) => name);
  const read = async () => new Map(await Promise.all(names.map(async (name) => [name, await model.readWeight(name)])));
  const target = names.find((name) => /q_proj/.test(name));
  const base = await model.readWeight(target);
  await assert.rejects(model.unmergeAdapter(adapter), heddleError('bad_state', /not merged/));
  await model.mergeAdapter(adapter);
  const once = await read();
  assert.notDeepEqual(once.get(target), base);
  await model.mergeAdapter(adapter);
  for (const [name, values] of await read()) assertSameBits(values, once.get(name), name);
  const text = await model.generate(promptIds, { maxTokens: row.ids.length }).text();
  assert.notEqual(text, '');
  await assert.rejects(model.generate(promptIds, { adapter }).text(), heddleError('bad_state', /merged into the weights already/));
  const session = await model.createSession();
  await assert.rejects(session.useAdapter(adapter), heddleError('bad_state', /merged into the weights already/));
  assertClose(await last(session), row.last_prompt_position_logits, tolerance, 'the merged model against the row, once');
  await session.free();
  await model.writeWeight(target, base);
  await model.mergeAdapter(adapter);
  for (const [name, values] of await read()) assertSameBits(values, once.get(name), `${name}: what was set since gets it again`);
  await model.loadWeights(readFileSync(at('hf/model.safetensors')));
  assertSameBits(await model.readWeight(target), base, 'loading puts the base back');
  await model.mergeAdapter(adapter);
  for (const [name, values] of await read()) assertSameBits(values, once.get(name), `${name}: loaded and merged again`);
  await model.unmergeAdapter(adapter);
  await assert.rejects(model.unmergeAdapter(adapter), heddleError('bad_state', /not merged/));
  const attached = await model.createSession();
  await attached.useAdapter(adapter);
  await model.free();
});

testOnEveryModule('a model is not merged into while a session is open', skipped, async (runtime) => {
  const { model, adapter } = await open(runtime);
  const session = await model.createSession();
  await assert.rejects(model.mergeAdapter(adapter), heddleError('bad_state', /sessions are open/));
  await session.useAdapter(adapter);
  await assert.rejects(adapter.free(), heddleError('bad_state', /active on 1 session/));
  await model.free();
});

testOnEveryModule('merging into Q8_0 weights is refused without dequantize, changes nothing then, and works with it', skipped, async (runtime) => {
  const { model, adapter } = await open(runtime, 'q8_0');
  const name = 'model.layers.0.self_attn.q_proj.weight';
  const before = await model.readWeight(name);
  await assert.rejects(model.mergeAdapter(adapter), heddleError('unsupported', /model\.layers\.\d\.self_attn\.[qv]_proj\.weight is Q8_0: merging into it needs dequantize/));
  assertSameBits(await model.readWeight(name), before, 'weight after the refusal');

  await model.mergeAdapter(adapter, { dequantize: true });
  const { weights } = await model.describe();
  for (const weight of weights) {
    const want = /[qv]_proj/.test(weight.name) ? 'F32' : /down_proj/.test(weight.name) ? 'F16' : weight.shape.length === 2 ? 'Q8_0' : 'F32';
    assert.equal(weight.dtype, want, weight.name);
  }
  const merged = withAdapter(quantiseWeights(readSafetensors(at('hf/model.safetensors'))));
  for (const { name } of weights.filter(({ dtype }) => dtype === 'F32')) {
    const { data } = merged.get(name);
    assertClose(await model.readWeight(name), data, scaled(1e-6, data), name);
  }
  // The merged weights meet activations as they are, the others rounded ones: see quantised.test.mjs for the ties.
  const session = await model.createSession();
  const logits = await last(session);
  const ways = roundedEitherWay(readJson(at('hf/config.json')), merged, promptIds, 2e-4);
  const error = Math.min(...ways.map((way) => distance(logits, way)));
  assert.ok(error <= 2e-5, `logits off by ${error} from the nearest of ${ways.length} ways`);
  await model.free();
});

/** W + 2 · B · A (alpha 8, rank 4) in place of the adapter's targets, which are no longer quantised then. */
function withAdapter(weights) {
  const halves = readSafetensors(at('lora/adapter_model.safetensors'));
  const out = new Map(weights);
  for (const [name, { shape: [rank, cols], data: a }] of halves) {
    if (!name.includes('lora_A')) continue;
    const target = name.replace('base_model.model.', '').replace('.lora_A', '');
    const b = halves.get(name.replace('lora_A', 'lora_B')).data;
    const data = Float64Array.from(weights.get(target).data);
    for (let i = 0; i < data.length; i++) for (let r = 0; r < rank; r++) data[i] += 2 * b[Math.floor(i / cols) * rank + r] * a[r * cols + (i % cols)];
    out.set(target, { shape: weights.get(target).shape, data });
  }
  return out;
}

testOnEveryModule('two sessions, one with the adapter and one without, do not disturb each other', skipped, async (runtime) => {
  const { model, adapter } = await open(runtime);
  const [plain, adapted] = [await model.createSession(), await model.createSession()];
  await adapted.useAdapter(adapter);
  const alone = { plain: await last(plain), adapted: await last(adapted) };
  assert.ok(distance(alone.plain, alone.adapted) > 1, 'the adapter changes the logits');
  // Token by token, in turns, then each on its own again.
  for (const session of [plain, adapted]) await session.reset();
  for (const id of promptIds) for (const session of [plain, adapted]) await session.decode([id]);
  const turns = { plain: await plain.logits(), adapted: await adapted.logits() };
  for (const session of [plain, adapted]) await session.reset();
  for (const id of promptIds) await plain.decode([id]);
  for (const id of promptIds) await adapted.decode([id]);
  assertSameBits(turns.plain, await plain.logits(), 'the plain session');
  assertSameBits(turns.adapted, await adapted.logits(), 'the adapted session');
  assertClose(turns.plain, base.last_prompt_position_logits, tolerance, 'the plain session against its row');
  assertClose(turns.adapted, row.last_prompt_position_logits, tolerance, 'the adapted session against its row');
  await model.free();
});

// ---- Adapters that do not fit ----

const q0 = 'base_model.model.model.layers.0.self_attn.q_proj';
const zeros = (...shape) => ({ shape, data: new Float32Array(shape.reduce((a, b) => a * b)) });
/** What is changed of config and tensors (undefined: left out), the error's code, and what its message says. */
const misfits = {
  'of another rank than its config says': [{ r: 8 }, {}, 'bad_file', /layers\.0\.self_attn\.[qv]_proj\.lora_[AB]\.weight: rank 8 on this weight wants \[.*\], found \[.*\]/],
  'for another input width': [{}, { [`${q0}.lora_A.weight`]: zeros(4, 32) }, 'bad_file', /layers\.0\.self_attn\.q_proj\.lora_A\.weight: rank 4 on this weight wants \[4, 64\], found \[4, 32\]/],
  'for another output width': [{}, { [`${q0}.lora_B.weight`]: zeros(32, 4) }, 'bad_file', /layers\.0\.self_attn\.q_proj\.lora_B\.weight: rank 4 on this weight wants \[64, 4\], found \[32, 4\]/],
  'for a layer the model has not': [{}, { [`${q0.replace('layers.0', 'layers.9')}.lora_A.weight`]: zeros(4, 64) }, 'bad_file', /layers\.9\.self_attn\.q_proj\.lora_A\.weight fits no linear of the model/],
  'with one half only': [{}, { [`${q0}.lora_B.weight`]: undefined }, 'bad_file', /model\.layers\.0\.self_attn\.q_proj\.weight has only lora_A/],
  'of DoRA': [{ use_dora: true }, {}, 'unsupported', /adapter_config\.json\.use_dora/],
  'with a rank_pattern': [{ rank_pattern: { q_proj: 2 } }, {}, 'unsupported', /adapter_config\.json\.rank_pattern/],
};

for (const [what, [configChanges, tensorChanges, code, message]] of Object.entries(misfits)) {
  testOnEveryModule(`an adapter ${what} is refused by name and leaves nothing behind`, skipped, async (runtime) => {
    const config = { ...readJson(at('lora/adapter_config.json')), ...configChanges };
    const tensors = { ...Object.fromEntries(readSafetensors(at('lora/adapter_model.safetensors'))), ...tensorChanges };
    const file = writeSafetensors(Object.fromEntries(Object.entries(tensors).filter(([, tensor]) => tensor)));
    const model = await runtime.loadModel(at('hf'));
    await assert.rejects(model.loadAdapter(config, file), heddleError(code, message));
    const { live } = await model.memory();
    await assert.rejects(model.loadAdapter(config, file), heddleError(code));
    assert.equal((await model.memory()).live, live);
    await model.free();
  });
}

testOnEveryModule('an adapter of one model is refused by the session of another', skipped, async (runtime) => {
  const [first, second] = [await open(runtime), await open(runtime)];
  const session = await second.model.createSession();
  await assert.rejects(session.useAdapter(first.adapter), heddleError('bad_argument', /another model/));
  await first.model.free();
  await second.model.free();
});
