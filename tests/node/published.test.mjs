/**
 * Models no fixture holds, loaded and run: seeded weights in the exact published shape stand in, made as they stream into the model. There is nobody's logits to
 * compare with; what can be known is that memory is what the estimate says, and that a text read at once is the text read token by token.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { distance, largest } from './golden.mjs';
import { modules, runtimeWith } from './heddle.mjs';
import { checkpointOf, published, streamed } from './published-shapes.mjs';

for (const [id, name] of [['T9 P9 G5', 'Qwen2.5-0.5B'], ['T12 P1', 'Qwen3-0.6B']]) {
  test(`${id} ${name} as q8_0, streamed: it decodes, in the memory that was estimated (seeded weights in the exact published shape stand in)`, async () => {
    const runtime = await runtimeWith(modules[0]);
    const { config, parameters } = published[name];
    const made = checkpointOf(config);
    const options = { dtype: 'q8_0', context: 256 };
    const files = () => ({ 'config.json': JSON.stringify(config), 'model.safetensors': streamed(made) });
    const estimate = await runtime.estimate(files(), options);
    const start = performance.now();
    const model = await runtime.loadModel(files(), options);
    const loaded = (performance.now() - start) / 1000;
    assert.equal(model.weights.reduce((sum, { shape }) => sum + shape.reduce((n, size) => n * size, 1), 0), parameters);
    assert.equal(model.report.bytes, estimate.weights);
    assert.deepEqual(model.endTokens, [config.eos_token_id]);

    const prompt = [9707, 11, 1879, 0, 358, 1079, 264, 1614];
    const ids = [];
    const generation = model.generate(prompt, { maxTokens: 6, ignoreEnd: true });
    for await (const { token } of generation) ids.push(token);
    assert.equal(ids.length, 6);
    console.log(`${name}: loaded in ${loaded.toFixed(1)} s, ${generation.usage.tokensPerSecond.toFixed(1)} tokens/s, ${(estimate.total / 1e6).toFixed(0)} MB estimated, ${((await model.memory()).peak / 1e6).toFixed(0)} MB taken`);
    // Besides: descriptions, plans, one row block.
    assert.ok((await model.memory()).peak < estimate.total + 4e6, `${(await model.memory()).peak} of ${estimate.total}`);

    const session = (rows) => model.createSession({ input: { dtype: 'i32', shape: [rows] }, outputRows: 1, context: 256 });
    const [whole, step] = [await session(prompt.length + 5), await session(1)];
    await whole.decode([...prompt, ...ids.slice(0, 5)]);
    for (const id of [...prompt, ...ids.slice(0, 5)]) await step.decode([id]);
    const [want, got] = [await whole.logits(), await step.logits()];
    assert.ok(want.every(Number.isFinite));
    assert.ok(distance(got, want) <= 1e-4 * Math.max(1, largest(want)), `${distance(got, want)} of ${largest(want)}`);
    assert.equal(await whole.argmax(), ids[5]);
    await model.free();
  });
}
