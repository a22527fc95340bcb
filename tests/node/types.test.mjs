/** The package's types compile in an application that has nothing but the language's and the browser's own, and checks its libraries too. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageFolder, projectFolder } from './heddle.mjs';

const program = `
import { init, HeddleError, type ErrorCode, type Model, type Session } from 'heddle';
import { init as initInWorker } from 'heddle/worker';
import { init as initInline } from 'heddle/inline';
import { init as initOnEdge } from 'heddle/edge';

export async function told(source: string): Promise<string> {
  const runtime = await init({ threads: 1 });
  const model: Model = await runtime.loadModel(source, { dtype: 'q8_0' });
  let text = '';
  for await (const made of model.generate('Once', { maxTokens: 3 })) text += made.text;
  const session: Session = await model.createSession({ mode: 'infer' });
  session[Symbol.dispose]();
  await model.forward(new Float64Array(new SharedArrayBuffer(8)));
  await model.loadWeights(new SharedArrayBuffer(8));
  // @ts-expect-error: numbers, not bigints
  await model.forward(new BigInt64Array(1));
  runtime.BuildNetworkFromJSON({ layers: [] }).free();
  return text;
}

export const starts = [initInWorker, initInline, initOnEdge];
export const codeOf = (error: unknown): ErrorCode | undefined => (error instanceof HeddleError ? error.code : undefined);
// @ts-expect-error: no such option
void init({ thread: 1 });
`;

for (const [module, moduleResolution] of [['nodenext', 'nodenext'], ['esnext', 'bundler']]) {
  test(`the types compile with the libraries es2022 and dom alone, checked themselves (moduleResolution ${moduleResolution})`, () => {
    const folder = mkdtempSync(join(tmpdir(), 'heddle-types-'));
    try {
      mkdirSync(join(folder, 'node_modules'));
      symlinkSync(packageFolder, join(folder, 'node_modules/heddle'), 'junction');
      writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
      writeFileSync(join(folder, 'app.ts'), program);
      const compilerOptions = { target: 'es2022', lib: ['es2022', 'dom'], types: [], module, moduleResolution, strict: true, skipLibCheck: false, noEmit: true };
      writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['app.ts'] }));
      const { status, stdout } = spawnSync(process.execPath, [join(projectFolder, 'node_modules/typescript/bin/tsc'), '-p', folder], { encoding: 'utf8' });
      assert.equal(stdout, '');
      assert.equal(status, 0);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
}
