/**
 * Weight files of unknown make: the list and the layers are Loom's (tests/golden/loom, kind generic_detection), and chains of dense and norm
 * layers run.
 */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { assertWithin } from './golden.mjs';
import { golden, heddleError, readJson, testOnEveryModule } from './heddle.mjs';

for (const entry of readJson(golden('loom/cases.json')).filter(({ kind }) => kind === 'generic_detection')) {
  const path = (ending) => entry.files.filter((name) => name.endsWith(ending)).map((name) => golden(`loom/${name}`))[0];
  const io = readJson(path('.io.json'));
  const file = readFileSync(path('.safetensors'));
  const config = path('.config.json') && readJson(path('.config.json'));

  testOnEveryModule(`T2 T3 ${entry.name}: the detected list and the layers are Loom's`, async (runtime) => {
    const found = await runtime.InspectModel(file, config);
    assert.deepEqual(found.detected, io.detected);
    assert.deepEqual(found.layers, io.layers);
    assert.equal(found.input_size, io.input_size);
    assert.equal(found.parameters, io.detected.reduce((sum, { Shape }) => sum + Shape.reduce((a, b) => a * b, 1), 0));
  });

  if (io.output) {
    testOnEveryModule(`T1 ${entry.name}: what is put together gives Loom's output`, async (runtime) => {
      const { network, detected } = await runtime.LoadGenericFromBytes(file, config);
      assert.deepEqual(detected, io.detected);
      assertWithin(network.ForwardCPU(io.input), io.output, entry.tolerance, 'output');
      network.free();
    });
  } else {
    testOnEveryModule(`T1 ${entry.name}: what names and shapes do not put together is refused in words`, async (runtime) => {
      await assert.rejects(runtime.LoadGenericFromBytes(file, config), heddleError('unsupported', config ? /model_type/ : /give the model's config\.json/));
    });
  }
}

testOnEveryModule('T1 bytes that are no weight file are refused', async (runtime) => {
  await assert.rejects(runtime.LoadGenericFromBytes(new Uint8Array(4)), heddleError('bad_file'));
  await assert.rejects(runtime.InspectModel(new TextEncoder().encode('PK\u0003\u0004 not a weight file')), heddleError('bad_file'));
});
