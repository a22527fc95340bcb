/** Threads: they do work, change no bit, keep no process alive, and are done without where they cannot be. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { promisify } from 'node:util';
import { entryUrl, heddle, modules, packageFolder, projectFolder, threads } from './heddle.mjs';

const run = promisify(execFile);
const threaded = modules.filter((name) => name.endsWith('-threads'));
const storyFolder = join(projectFolder, 'demo/models/story');
const wide = { layers: [{ type: 'dense', in_features: 256, out_features: 1024, activation: 'tanh' }, { type: 'dense', in_features: 1024, out_features: 300 }] };
const input = Float32Array.from({ length: 8 * 256 }, (_, i) => Math.sin(i));

/** The network's output for eight rows, and the model, which the caller frees. */
async function wideOutput(runtime) {
  const model = await runtime.buildNetwork(wide, { seed: 3 });
  const session = await model.createSession({ input: { shape: [8, 256] } });
  return { model, session, output: await session.forward(input) };
}

for (const name of threaded) {
  const [variant] = name.split('-');

  test(`two workers execute rows, and the output is one thread's bit for bit (${name})`, async () => {
    const runtime = await heddle.init({ variant, threads });
    assert.equal(runtime.threads, threads);
    const { model, session, output } = await wideOutput(runtime);
    assert.equal(model.threads, threads);
    // A loaded machine may not wake a thread in time for one forward; it does for some of hundreds.
    let work = await model.threadWork();
    for (let i = 0; i < 500 && work.some((n) => n === 0); i++) {
      assert.deepEqual(await session.forward(input), output, 'the same bits each time');
      work = await model.threadWork();
    }
    assert.equal(work.length, threads);
    assert.ok(work.every((n) => n > 0), `pieces of work by thread: ${work.join(', ')}`);

    const file = readFileSync(join(packageFolder, `dist/wasm/heddle-${name}.wasm`));
    const alone = await heddle.init({ wasm: file, threads: 1 });
    assert.equal(alone.variant, 'given');
    const sameModule = await wideOutput(alone);
    assert.equal(sameModule.model.threads, 1);
    assert.deepEqual(output, sameModule.output, 'one thread of the same module');
    const plain = await wideOutput(await heddle.init({ variant, threads: 1 }));
    assert.deepEqual(output, plain.output, 'the module without threads');
    for (const each of [model, sameModule.model, plain.model]) await each.free();
  });

  test(`a story is the same with any number of threads (${name})`, async () => {
    const stories = [];
    for (const n of [1, 2, 5]) {
      const runtime = await heddle.init({ variant, threads: n });
      const model = await runtime.loadModel(storyFolder);
      assert.equal(model.threads, n);
      const session = await model.createSession({ outputRows: 1 });
      await session.decode(await model.tokenize('Once upon a time'));
      stories.push([await session.logits(), await model.generate('Once upon a time').text()]);
      await model.free();
    }
    assert.deepEqual(stories[1], stories[0]);
    assert.deepEqual(stories[2], stories[0]);
  });

  test(`a process with a threaded runtime ends by itself (${name})`, async () => {
    const program = `
      import { init } from ${JSON.stringify(entryUrl('.'))};
      const runtime = await init({ variant: ${JSON.stringify(variant)}, threads: ${threads} });
      const model = await runtime.loadModel(${JSON.stringify(storyFolder)});
      console.log(model.threads, await model.generate('Ruby', { maxTokens: 5 }).text());
    `;
    const start = performance.now();
    const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', program], { timeout: 20_000 });
    assert.match(stdout, new RegExp(`^${threads} +\\S`));
    assert.ok(performance.now() - start < 10_000);
  });

  test(`a process with a runtime in a worker ends by itself (${name})`, async () => {
    const program = `
      import { init } from ${JSON.stringify(entryUrl('./worker'))};
      const runtime = await init({ variant: ${JSON.stringify(variant)}, threads: ${threads} });
      const model = await runtime.loadModel(${JSON.stringify(storyFolder)});
      console.log(model.threads, await model.generate('Ruby', { maxTokens: 5 }).text());
    `;
    const { stdout } = await run(process.execPath, ['--input-type=module', '--eval', program], { timeout: 20_000 });
    assert.match(stdout, new RegExp(`^${threads} +\\S`));
  });

  test(`threads that do not come are done without, and it is said (${name})`, async () => {
    const said = [];
    const runtime = await heddle.init({ variant, threads, poolWorker: new URL('no-such-program.js', import.meta.url), log: (text) => said.push(text) });
    const { model, output } = await wideOutput(runtime);
    assert.equal(model.threads, 1);
    assert.match(runtime.notices.at(-1), /^1 of 3 threads: .*no-such-program/);
    assert.ok(said.length <= 1, 'once a process');
    assert.deepEqual(output, (await wideOutput(await heddle.init({ variant, threads: 1 }))).output);
    await model.free();
  });

  // The program of heddle's own threads, in an instance whose stack is too small for a kernel: its first write below 0 traps.
  test(`a thread that traps is an error for the caller, who does not wait for it (${name})`, { timeout: 60_000 }, async () => {
    const runtime = await heddle.init({ variant, threads, poolWorker: new URL('trapping-thread.mjs', import.meta.url), log: () => undefined });
    const model = await runtime.buildNetwork({ layers: [{ type: 'multi_head_attention', d_model: 256, num_heads: 8 }] }, { seed: 3 });
    assert.equal(model.threads, threads);
    const session = await model.createSession({ input: { shape: [64, 256] } });
    const some = new Float32Array(64 * 256).fill(0.5);
    await assert.rejects(async () => {
      for (let i = 0; i < 2000; i++) await session.forward(some); // a thread may sleep through some
    }, { code: 'bad_state', message: /instance died/ });
    await assert.rejects(session.forward(some), { code: 'bad_state' });
    await runtime.free();
  });

  test(`a shared instance has one pool for all models (${name})`, async () => {
    const runtime = await heddle.init({ variant, threads, shared: true });
    const first = await wideOutput(runtime);
    const second = await wideOutput(runtime);
    assert.equal(runtime.threadWork().length, threads);
    assert.deepEqual(await second.model.threadWork(), runtime.threadWork());
    await first.model.free();
    assert.deepEqual(await second.session.forward(input), second.output, 'freeing one leaves the others');
    await runtime.free();
    await assert.rejects(runtime.buildNetwork(wide), { code: 'bad_state' });
  });
}

test('small models get no threads unless a number is asked for', async () => {
  const runtime = await heddle.init({ threads: 'auto' });
  const model = await runtime.loadModel(storyFolder);
  assert.equal(model.threads, 1);
  await model.free();
});
