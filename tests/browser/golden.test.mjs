/**
 * Numbers in a real browser: on all four modules, in the page itself and in `heddle/worker`, against what others computed.
 *
 * A page's main thread may not have threads; the modules with threads run there all the same, alone.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { projectDir } from '../../tools/step.mjs';
import { openSite, packageDir, program, sharedDir, skip, withPage } from './browser.mjs';

const modules = ['simd128', 'simd128-threads', 'relaxed', 'relaxed-threads'];
const places = ['page', 'worker'];

/** The caller and two workers. */
const threads = 3;

const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));
const goldenDir = join(projectDir, 'tests/golden');
const stories260kDir = join(sharedDir, 'fixtures/real/stories260k');
const needsShared = existsSync(stories260kDir) ? {} : { skip: '../shared/fixtures/real/stories260k is not on this machine' };

/** The layer types and modes in a network's cfg. */
const kindsIn = (cfg) => [...JSON.stringify(cfg).matchAll(/"(?:type|combine_mode)":"(\w+)"/g)].map(([, kind]) => kind).join(' ');

/**
 * Loom's golden bundles, one of each combination of layer types and modes (Node tests all of them): { what, bundle, id, tolerance, pairs }.
 */
function loomCases() {
  const seen = new Set();
  return readJson(join(goldenDir, 'loom/cases.json')).filter(({ kind }) => kind.startsWith('bundle')).flatMap(({ name, files, tolerance }) => {
    const bundle = readFileSync(join(goldenDir, 'loom', files[0]), 'utf8');
    const io = readJson(join(goldenDir, 'loom', files[1]));
    const isNew = ({ model_id: id }) => {
      const kinds = kindsIn(JSON.parse(bundle).models.find((model) => model.id === id).cfg);
      return !seen.has(kinds) && seen.add(kinds);
    };
    return (io.models ?? [io]).filter(isNew).map((model) => ({
      what: `${name} ${model.model_id}`, bundle, id: model.model_id, tolerance,
      pairs: [model, ...(model.more ?? [])].map(({ input, output }) => ({ input, output })),
    }));
  });
}

function assertWithin(got, want, { abs, rel = 0 }, what) {
  assert.equal(got.length, want.length, `${what}: number of values`);
  want.forEach((value, i) => assert.ok(Math.abs(got[i] - value) <= abs + rel * Math.abs(value), `${what}: value ${i}: expected ${value}, found ${got[i]}`));
}

describe('numbers in the browser', { skip }, () => {
  let site;

  before(async () => {
    site = await openSite({ program, dist: join(packageDir, 'dist'), folders: { '/stories260k/': [join(stories260kDir, 'hf')], '/story/': [join(projectDir, 'demo/models/story')] } });
  });
  after(() => site?.close());

  /** Runs `work` in a blank page with `{ runtime, given }`, the runtime in that place with that module. */
  function inBrowser(place, module, given, work) {
    const [variant] = module.split('-');
    const isThreaded = module.endsWith('-threads');
    const wasm = `/heddle/wasm/heddle-${module}.wasm`;
    const options = place === 'worker' ? { variant, threads: isThreaded ? threads : 1 } : isThreaded ? { wasm, variant, threads: 1 } : { variant, threads: 1 };
    // A folder's optional files are asked for, and a page without an icon asks for one: the browser writes both down.
    const expected = [/404.*\/(generation_config\.json|favicon\.ico)/];
    return withPage(site.browser, `${site.address}blank.html`, { expected }, (page) =>
      page.evaluate(
        async ({ entry, options: chosen, given: data, source }) => {
          const { init, ...names } = await import(entry);
          const runtime = await init(chosen);
          const result = await new Function(`return (${source})`)()({ runtime, given: data, names });
          await runtime.free();
          return result;
        },
        { entry: `/heddle/${place === 'worker' ? 'worker' : 'index'}.js`, options, given, source: work.toString() },
      ),
    );
  }

  for (const place of places) {
    for (const module of modules) {
      const where = `${module}, in ${place === 'page' ? 'the page' : 'a worker'}`;

      test(`stories260K tells its published story and has its logits (${where})`, needsShared, async () => {
        const { cases } = readJson(join(stories260kDir, 'expected.json'));
        const given = cases.map(({ prompt, prompt_ids: ids, ids: all }) => ({ prompt, ids, maxTokens: all.length - ids.length }));
        const found = await inBrowser(place, module, given, async ({ runtime, given: prompts }) => {
          const model = await runtime.loadModel('/stories260k/');
          const results = [];
          for (const { prompt, ids, maxTokens } of prompts) {
            const made = [];
            let text = prompt;
            for await (const { token, text: piece } of model.generate(prompt, { maxTokens, stopTokens: [1] })) {
              made.push(token);
              text += piece;
            }
            const session = await model.createSession({ outputRows: 1 });
            await session.decode(ids);
            results.push({ promptIds: await model.tokenize(prompt), made, text, logits: [...(await session.logits())] });
            await session.free();
          }
          const used = model.threads;
          await model.free();
          return { results, used };
        });
        assert.equal(found.used, place === 'worker' && module.endsWith('-threads') ? threads : 1);
        for (const [i, { prompt_ids: promptIds, ids, text, last_prompt_position_logits: logits }] of cases.entries()) {
          const got = found.results[i];
          assert.deepEqual(got.promptIds, promptIds);
          assert.deepEqual([...promptIds, ...got.made], ids);
          assert.equal(got.text, text);
          assertWithin(got.logits, logits, { abs: 1e-4 }, `logits after case ${i}`);
        }
      });

      test(`Loom's bundles give Loom's output (${where})`, async () => {
        const cases = loomCases();
        assert.ok(cases.length >= 30, `${cases.length} cases`);
        const found = await inBrowser(place, module, cases, async ({ runtime, given: bundles }) => {
          const outputs = [];
          for (const { bundle, id, pairs } of bundles) {
            const model = await runtime.loadModel(bundle, { id });
            const network = runtime.LoadNetworkFromString?.(bundle, id);
            for (const { input } of pairs) outputs.push({ forward: [...(await model.forward(input))], cpu: network ? [...network.ForwardCPU(input)] : undefined });
            network?.free();
            await model.free();
          }
          return outputs;
        });
        const wanted = cases.flatMap(({ what, tolerance, pairs }) => pairs.map(({ output }, i) => ({ what: `${what}, pair ${i}`, tolerance, output })));
        assert.equal(found.length, wanted.length);
        for (const [i, { what, tolerance, output }] of wanted.entries()) {
          assertWithin(found[i].forward, output, tolerance, what);
          if (place === 'page') assert.deepEqual(found[i].cpu, found[i].forward, `${what}: ForwardCPU`);
          else assert.equal(found[i].cpu, undefined, 'what is synchronous exists in the page only');
        }
      });
    }
  }

  for (const variant of ['simd128', 'relaxed']) {
    test(`two workers execute rows, and the bits are one thread's (${variant}-threads)`, async () => {
      const compute = async ({ runtime, given: rows }) => {
        const spec = { layers: [{ type: 'dense', in_features: 256, out_features: 1024, activation: 'tanh' }, { type: 'dense', in_features: 1024, out_features: 300 }] };
        const input = Float32Array.from({ length: rows * 256 }, (_, i) => Math.sin(i));
        const model = await runtime.buildNetwork(spec, { seed: 3 });
        const session = await model.createSession({ input: { shape: [rows, 256] } });
        const output = await session.forward(input);
        // A loaded machine may not wake a thread in time for one forward; it does for some of hundreds.
        let work = await model.threadWork();
        for (let i = 0; i < 500 && work.some((n) => n === 0); i++) {
          const again = await session.forward(input);
          if (again.some((value, at) => !Object.is(value, output[at]))) throw new Error('the bits changed');
          work = await model.threadWork();
        }
        const story = await runtime.loadModel('/story/');
        return { output: [...output], work, threads: model.threads, story: await story.generate('Once upon a time').text() };
      };
      const many = await inBrowser('worker', `${variant}-threads`, 8, compute);
      const one = await inBrowser('worker', variant, 8, compute);
      assert.equal(many.threads, threads);
      assert.equal(many.work.length, threads);
      assert.ok(many.work.every((n) => n > 0), `pieces of work by thread: ${many.work.join(', ')}`);
      assert.equal(one.threads, 1);
      assert.equal(many.output.length, 8 * 300);
      many.output.forEach((value, i) => assert.ok(Object.is(value, one.output[i]), `value ${i}: ${value} and ${one.output[i]}`));
      assert.equal(many.story, one.story);
      assert.equal(many.story, readJson(join(projectDir, 'demo/models/story/expected.json')).cases[0].greedy_text);
    });
  }
});
