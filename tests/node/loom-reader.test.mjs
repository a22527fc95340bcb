/**
 * Bundles in somebody else's eyes: tests/golden/loom_reader.py, which shares nothing with Heddle, gives Loom's outputs on the bundles that Loom
 * wrote; then it gives the same on what Heddle writes of them, in both forms.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { assertWithin } from './golden.mjs';
import { golden, heddle, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

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

/** What Loom's forms cannot hold: our writer refuses it by the layer's name. */
const notIn = {
  1: ({ type }) => type === 'embedding' || type === 'residual',
  2: ({ type, combine_mode: mode }) => type === 'kmeans' || mode === 'grid_scatter',
};
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
        assert.ok(layersOf(entry.cfg).some(notIn[form]) && error instanceof heddle.HeddleError && error.code === 'unsupported' && /^layer layers\.\d/.test(error.message), `${entry.name}: ${error.message}`);
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

/** Layers of the loom dialect that one form or both cannot hold. */
const dense = { type: 'dense', input_height: 4, output_height: 4, activation: 'tanh' };
const unholdable = [
  [{ type: 'multi_head_attention', d_model: 4, num_heads: 1, seq_length: 1, rope_freq_base: 500 }, [1, 2]],
  [{ type: 'residual' }, [1]],
  [{ type: 'embedding', vocab_size: 5, embedding_dim: 4 }, [1]],
  [{ type: 'kmeans', num_clusters: 2, cluster_dim: 4, attached_layer: dense }, [2]],
  [{ type: 'parallel', combine_mode: 'grid_scatter', grid_output_rows: 1, grid_output_cols: 1, branches: [dense], grid_positions: [{ branch_index: 0, target_row: 0, target_col: 0 }] }, [2]],
  [{ type: 'parallel', branches: [{ type: 'parallel', combine_mode: 'grid_scatter', grid_output_rows: 1, grid_output_cols: 1, branches: [dense], grid_positions: [{ branch_index: 0, target_row: 0, target_col: 0 }] }] }, [2]],
  [{ type: 'parallel', combine_mode: 'filter', branches: [dense, dense], filter_gate: { type: 'dense', input_height: 4, output_height: 2, activation: 'tanh' } }, [1, 2]],
];

testOnEveryModule('F43: what a form of Loom cannot hold is refused in the loom dialect by the layer, and kept in the standard one', (runtime) => {
  for (const [layer, forms] of unholdable) {
    const network = runtime.BuildNetworkFromJSON({ grid_rows: 1, grid_cols: 1, layers_per_cell: 1, layers: [layer] });
    const save = { 1: () => network.SaveModelToString('m'), 2: () => network.SaveModelWithDType('m', 'float32') };
    for (const form of [1, 2]) {
      if (forms.includes(form)) assert.throws(save[form], heddleError('unsupported', /layers\.0/), `${layer.type} in form ${form}`);
      else assert.equal(typeof save[form](), 'string');
    }
    network.free();
    const own = layer.type === 'residual' ? { ...layer, branches: [dense] } : layer;
    const ids = layer.type === 'embedding';
    const kept = runtime.BuildNetworkFromJSON({ dialect: 'standard', ...(ids ? { input_dtype: 'I32' } : { input_shape: [1, 4] }), layers: [own] });
    const input = ids ? [1, 2, 3] : [0.5, -1, 0.25, 2];
    for (const saved of [kept.SaveModelToString('m'), kept.SaveModelWithDType('m', 'float32')]) {
      const again = runtime.LoadModelFromString(saved, 'm');
      assert.deepEqual(again.ForwardCPU(input), kept.ForwardCPU(input), layer.type);
      again.free();
    }
    kept.free();
  }
});
