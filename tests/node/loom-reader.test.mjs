/**
 * Bundles in somebody else's eyes: tests/golden/loom_reader.py, which shares nothing with Heddle, gives Loom's outputs on the bundles that Loom
 * wrote; then it gives the same on what Heddle writes of them, in both forms.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertWithin } from './golden.mjs';
import { golden, heddle, readJson, testOnEveryModule } from './heddle.mjs';

const python = spawnSync('python3', ['--version']).status === 0 ? {} : { skip: 'there is no python3 on this machine' };

/** What the reader makes of [{bundle, id, inputs}, …], all in one process. */
function read(cases) {
  const { status, stdout, stderr } = spawnSync('python3', [golden('loom_reader.py')], { input: JSON.stringify(cases), encoding: 'utf8', maxBuffer: 1 << 28 });
  assert.equal(status, 0, stderr);
  return JSON.parse(stdout);
}

const holdsBundle = ['bundle', 'bundle_multi', 'multi_precision', 'build_from_json'];

/** Every bundle of Loom's with outputs: { name, bundle, id, inputs, outputs, tolerance, types }. */
const goldens = readJson(golden('loom/cases.json')).filter(({ kind }) => holdsBundle.includes(kind)).flatMap(({ name, files, tolerance }) => {
  const bundle = readFileSync(golden(`loom/${files.find((file) => file.endsWith('.bundle.json'))}`), 'utf8');
  const io = readJson(golden(`loom/${files.at(-1)}`));
  return (io.models ?? [io]).map((model) => {
    const pairs = [model, ...(model.more ?? [])];
    const { cfg } = JSON.parse(bundle).models.find(({ id }) => id === model.model_id);
    return { name: `${name} (${model.model_id})`, bundle, id: model.model_id, inputs: pairs.map(({ input }) => input), outputs: pairs.map(({ output }) => output), tolerance, cfg };
  });
});

/** Every layer of a configuration, with those inside. */
const layersOf = ({ layers }) => layers.flatMap(function all(layer) {
  return [layer, ...(layer.branches ?? []).flatMap(all)];
});

function assertRead({ error, outputs }, entry, what) {
  assert.equal(error, undefined, what);
  for (const [i, want] of entry.outputs.entries()) assertWithin(Float32Array.from(outputs[i]), want, entry.tolerance, `${what}, input ${i}`);
}

test(`F43: the independent reader gives Loom's outputs on all of Loom's bundles`, python, () => {
  assert.ok(goldens.length >= 144, `${goldens.length} bundles`);
  for (const [i, result] of read(goldens).entries()) {
    assertRead(result, goldens[i], goldens[i].name);
    assert.deepEqual(result.lost, [], `${goldens[i].name}: Loom wrote nothing that Loom loses`);
  }
});

test('F43: the independent reader refuses what Loom refuses', python, () => {
  const [{ bundle, id, inputs, cfg }] = goldens;
  const [model] = JSON.parse(bundle).models;
  const wrap = (changes) => ({ bundle: JSON.stringify({ type: 'modelhost/bundle', models: [{ ...model, ...changes }] }), id, inputs });
  const base64 = (value) => Buffer.from(JSON.stringify(value)).toString('base64');
  const cases = [
    { bundle: bundle.replace('modelhost', 'model'), id, inputs },
    { bundle, id: 'another', inputs },
    wrap({ cfg: { ...cfg, layers: [{ ...cfg.layers[0], type: 'linear' }] } }),
    wrap({ weights: { fmt: 'jsonModelB64', data: base64({ layers: [] }) } }),
    wrap({ weights: { fmt: 'jsonModelB64', data: base64({ layers: [{ kernel: 'AAAA' }] }) } }),
  ];
  for (const [i, result] of read(cases).entries()) assert.match(result.error ?? '', /^BadBundle: /, `case ${i}`);
});

/** What form 2 cannot hold, by the type of a layer: our writer refuses it by name. */
const notInForm2 = (layer) => layer.type === 'kmeans' || layer.combine_mode === 'grid_scatter';
/** What Loom v0.0.8 itself loses of its own form 2 (loom.md, section j, 3 and 4), although the text has it. */
const lostInForm2 = (layer) => layer.type === 'multi_head_attention' || layer.type === 'conv1d';

for (const form of [1, 2]) {
  testOnEveryModule(`F43 F4 F1 F2: what we write in form ${form}, the independent reader reads to Loom's outputs`, python, (runtime) => {
    const cases = [];
    let nRefused = 0;
    for (const entry of goldens) {
      const network = runtime.LoadNetworkFromString(entry.bundle, entry.id);
      try {
        cases.push({ ...entry, bundle: form === 1 ? network.SaveModelToString(entry.id) : network.SaveModelWithDType(entry.id, 'float32') });
      } catch (error) {
        const isRefused = form === 1 ? ['embedding', 'residual'] : [];
        const cannot = layersOf(entry.cfg).some((layer) => (form === 1 ? isRefused.includes(layer.type) : notInForm2(layer)));
        assert.ok(cannot && error instanceof heddle.HeddleError && error.code === 'unsupported' && /^layer layers\.\d/.test(error.message), `${entry.name}: ${error.message}`);
        nRefused++;
      } finally {
        network.free();
      }
    }
    const results = read(cases.map(({ bundle, id, inputs }) => ({ bundle, id, inputs })));
    for (const [i, result] of results.entries()) {
      assertRead(result, cases[i], cases[i].name);
      const mayLose = form === 2 && layersOf(cases[i].cfg).some(lostInForm2);
      assert.equal(result.lost.length > 0, mayLose, `${cases[i].name}: Loom would lose ${result.lost}`);
    }
    assert.ok(cases.length >= 120 && nRefused <= 24, `${cases.length} written, ${nRefused} refused`);
  });
}
