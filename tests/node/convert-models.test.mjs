/** Loaded models as files: whatever their weights are kept as, the file has the values the model has. */
import assert from 'node:assert/strict';
import { golden, heddle, heddleError, testOnEveryModule } from './heddle.mjs';

const folder = golden('transformers/llama-mild');

async function converted(runtime, source, options) {
  const chunks = [];
  const made = await runtime.convertWeights(source, (chunk) => void chunks.push(Buffer.from(chunk)), options);
  return { ...made, file: Buffer.concat(chunks) };
}

testOnEveryModule('a model kept as f16, bf16, q8_0 or int8 becomes files of its own values', async (runtime) => {
  for (const dtype of ['keep', 'f16', 'bf16', 'q8_0', 'int8']) {
    const model = await runtime.loadModel(folder, { dtype });
    for (const to of ['safetensors', 'pytorch', 'gguf']) {
      const { file, tensors } = await converted(runtime, heddle.modelTensors(model), { to });
      const weights = await runtime.openWeights(file);
      assert.deepEqual([...weights.tensorNames].sort(), model.weights.map(({ name }) => name).sort(), `${dtype} as ${to}`);
      for (const { name } of model.weights) {
        const { data } = await weights.tensor(name, { as: 'f32' });
        const want = await model.readWeight(name);
        const same = data.every((value, i) => value === want[i]);
        const { lossy } = tensors.find((each) => each.name === name);
        assert.ok(same || lossy, `${dtype} as ${to}: ${name}`);
      }
      await weights.close();
    }
    await model.free();
  }
});

testOnEveryModule('a conversion takes dtypes in either case, and says which options it needs and knows', async (runtime) => {
  const model = await runtime.loadModel(folder);
  const [lower, upper] = [await converted(runtime, heddle.modelTensors(model), { to: 'safetensors', dtype: 'bf16' }), await converted(runtime, heddle.modelTensors(model), { to: 'safetensors', dtype: 'BF16' })];
  assert.deepEqual(lower.file, upper.file);
  await assert.rejects(converted(runtime, heddle.modelTensors(model), {}), heddleError('bad_argument', /^to undefined is not known; known: safetensors/));
  await assert.rejects(converted(runtime, heddle.modelTensors(model), { too: 'gguf' }), heddleError('bad_argument', /^too: no such option; known: to, dtype, /));
  await model.free();
});

testOnEveryModule('an encoder is told that it makes no text', async (runtime) => {
  const model = await runtime.loadModel({ 'config.json': golden('transformers/minilm-like/config.json'), 'model.safetensors': golden('transformers/minilm-like/model.safetensors') });
  await assert.rejects(model.generate([1, 2], { maxTokens: 3 }).text(), heddleError('bad_state', /keeps nothing from token to token.*embed/));
  await model.free();
});
