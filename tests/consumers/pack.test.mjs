/** `npm pack` and `npm publish` build first: what cannot be built is not packed. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { projectFolder } from '../node/heddle.mjs';

test('npm pack of a clone that was not built, and cannot be, writes no archive and says why', () => {
  const { scripts } = JSON.parse(readFileSync(join(projectFolder, 'package.json'), 'utf8'));
  assert.equal(scripts.prepack, scripts.build);
  const folder = mkdtempSync(join(tmpdir(), 'heddle-pack-'));
  try {
    // The stamp says that npm's modules are there: nothing is fetched for this test.
    for (const name of ['package.json', 'package-lock.json', '.npmrc', 'node_modules/.heddle-lock', 'tools']) cpSync(join(projectFolder, name), join(folder, name), { recursive: true });
    const { status, stderr, stdout } = spawnSync('npm', ['pack'], { cwd: folder, encoding: 'utf8', shell: process.platform === 'win32' });
    assert.notEqual(status, 0);
    assert.match(stdout + stderr, /CMakeLists\.txt/);
    assert.deepEqual(readdirSync(folder).filter((name) => name.endsWith('.tgz')), []);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
