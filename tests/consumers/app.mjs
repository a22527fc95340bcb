/**
 * app.mjs: small applications that use the package as a stranger would. Each lies in apps/ and is put into build/consumers/ with a
 * node_modules of its own: the packed package and what npm installed with it (tools/test.mjs).
 */
import assert from 'node:assert/strict';
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { projectDir } from '../../tools/step.mjs';

const packageDir = process.env.HEDDLE_PACKAGE || join(projectDir, 'build/consumer/node_modules/heddle');

/** Options of a test that needs the packed package. */
export const needsPackage = existsSync(packageDir) ? {} : { skip: `${packageDir} is not there: tools/test.mjs packs and installs it` };

export const storyDir = join(projectDir, 'demo/models/story');
const story = JSON.parse(readFileSync(join(storyDir, 'expected.json'), 'utf8')).cases[0];

export const loomDir = join(projectDir, 'tests/golden/loom');
const loom = JSON.parse(readFileSync(join(loomDir, 'dense_relu.io.json'), 'utf8'));

/** Makes the application `name` anew; resolves to its folder. `as`: under another name, since tests of several files run at once. */
export function makeApp(name, { as = name } = {}) {
  const folder = join(projectDir, 'build/consumers', as);
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  cpSync(join(projectDir, 'tests/consumers/apps', name), folder, { recursive: true });
  // A package of its own: otherwise it would be part of the project, where the name `heddle` means the project itself.
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: `consumer-${as}`, private: true, type: 'module' }));
  cpSync(dirname(packageDir), join(folder, 'node_modules'), { recursive: true });
  return folder;
}

/** Puts the story model and a bundle of Loom's into the folder, for the application to fetch. */
export function addModels(folder) {
  mkdirSync(folder, { recursive: true });
  cpSync(storyDir, join(folder, 'story'), { recursive: true });
  cpSync(join(loomDir, 'dense_relu.bundle.json'), join(folder, 'dense_relu.bundle.json'));
}

/** What every application reports: { text, tokens, output, input… } is what the model's makers say. */
export function assertReport({ text, tokens, output, error }) {
  assert.equal(error, undefined);
  assert.equal(tokens, 24);
  assert.ok(text.length > 40 && story.greedy_text.startsWith(text), text);
  assert.equal(output.length, loom.output.length);
  loom.output.forEach((value, i) => assert.ok(Math.abs(output[i] - value) <= 1e-5 + 1e-5 * Math.abs(value), `output ${i}: expected ${value}, found ${output[i]}`));
}
