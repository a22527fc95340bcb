/**
 * Every value of a small Llama's forward against PyTorch's trace (tests/golden/transformers/trace-llama-mild), and its logits and hidden
 * states from both spellings of its config. The tolerance for llama-mild is 1e-5 absolute: PyTorch itself is 1.5e-6 from exact
 * arithmetic there.
 */
import assert from 'node:assert/strict';
import { assertClose, readSafetensors } from './golden.mjs';
import { golden, heddle, testOnEveryModule } from './heddle.mjs';

const tolerance = 1e-5;
const trace = readSafetensors(golden('transformers/trace-llama-mild/trace.safetensors'));
const expected = readSafetensors(golden('transformers/llama-mild/expected.safetensors'));

const load = (runtime, config) =>
  runtime.loadModel({ 'config.json': golden(`transformers/llama-mild/${config}`), 'model.safetensors': golden('transformers/llama-mild/model.safetensors') });

/** A layer's input is the value before it. */
function ourName(traced) {
  const layer = /^layers\.(\d+)\.input$/.exec(traced)?.[1];
  if (layer === undefined) return traced;
  return layer === '0' ? 'embedding' : `layers.${layer - 1}.output`;
}

/** PyTorch keeps rotated queries and keys as [1, heads, T, dim]; ours lie as [T, heads, dim]. */
function inOurOrder(traced, { shape: [, heads, n, dim], data }) {
  if (!/\.[qk]_rope$/.test(traced)) return data;
  return data.map((_, i) => {
    const [t, h, d] = [Math.floor(i / (heads * dim)), Math.floor(i / dim) % heads, i % dim];
    return data[(h * n + t) * dim + d];
  });
}

for (const [name, tensor] of trace) {
  if (tensor.dtype !== 'F32') continue;
  testOnEveryModule(`the value ${name} is the one of PyTorch's trace`, async (runtime) => {
    const { session } = await traced(runtime);
    const { data } = await session.value(ourName(name));
    assertClose(data, inOurOrder(name, tensor), tolerance, name);
  });
}

/** One forward a runtime serves all names. */
const sessions = new Map();
function traced(runtime) {
  if (!sessions.has(runtime)) {
    sessions.set(runtime, (async () => {
      const model = await load(runtime, 'config.json');
      const session = await model.createSession({ mode: 'trace' });
      await session.forward(trace.get('input_ids').data);
      return { model, session };
    })());
  }
  return sessions.get(runtime);
}

testOnEveryModule('every value of the graph can be read by its name after a forward', async (runtime) => {
  const { session } = await traced(runtime);
  const names = await session.valueNames();
  assert.equal(new Set(names).size, names.length, 'names are unique');
  for (const name of names) {
    const { shape, data } = await session.value(name);
    assert.equal(shape.reduce((a, b) => a * b, 1), data.length, name);
  }
  for (const name of trace.keys()) if (name !== 'input_ids') assert.ok(names.includes(ourName(name)), name);
});

for (const config of ['config.json', 'config.v4.json']) {
  testOnEveryModule(`the logits and hidden states of every position are those of transformers, with ${config}`, async (runtime) => {
    const model = await load(runtime, config);
    const session = await model.createSession({ mode: 'trace' });
    const logits = await session.forward(expected.get('input_ids').data);
    assertClose(logits, expected.get('logits').data, tolerance, 'logits');
    const states = [...expected.keys()].filter((name) => name.startsWith('hidden_states.'));
    assert.equal(states.length, 4);
    for (const [i] of states.entries()) {
      // The last is taken after the final norm.
      const name = i === 0 ? 'embedding' : i === states.length - 1 ? 'final_norm' : `layers.${i - 1}.output`;
      assertClose((await session.value(name)).data, expected.get(`hidden_states.${i}`).data, tolerance, `hidden_states.${i}`);
    }
    await model.free();
  });
}

testOnEveryModule('C2 E16 P10: traceModel compares every value, in the order of the graph, and names the first that is out', async (runtime) => {
  const model = await load(runtime, 'config.json');
  const opened = await runtime.openWeights(golden('transformers/trace-llama-mild/trace.safetensors'));
  const report = await heddle.traceModel(model, opened, undefined, { absolute: true });
  assert.deepEqual([report.ok, report.first, report.values.length], [true, undefined, trace.size - 1]);
  assert.equal(report.values.at(-1).name, 'logits');
  const other = await heddle.traceModel(model, opened, [1, 2, 3]);
  assert.deepEqual([other.ok, other.first.name], [false, other.values[0].name]);
  assert.match(other.first.problem, /the model's has \d+ values, the golden file's \d+/);
  await opened.close();
  await model.free();
});
