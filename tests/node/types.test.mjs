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

/** What a page has at hand is taken as it is, and what it gets is what a page can use. */
export async function inAPage(input: HTMLInputElement, dropped: Iterable<File>, passages: string[], worker: Worker): Promise<Blob[]> {
  const runtime = await init({ wasm: new WebAssembly.Module(new Uint8Array(8)) });
  void initInWorker({ worker });
  if (input.files) await runtime.loadModel(input.files);
  await runtime.loadModel(dropped);
  const model = await runtime.loadModel(new Map([['config.json', '{}']]));
  // @ts-expect-error: names of files are text
  await runtime.loadModel(new Map([[1, '{}']]));
  await model.classify(passages.map((p) => ['question', p]));
  const weights = await runtime.openWeights('model.safetensors');
  for await (const { data } of weights.all({ as: 'f32' })) new Float32Array(1).set(data);
  const { data }: { data: Float32Array } = await weights.tensor('w', { as: 'f32' });
  // @ts-expect-error: as the file has it
  const stored: Float32Array = (await weights.tensor('w')).data;
  const session = await model.createSession();
  runtime.SerializeSafetensors(await runtime.LoadSafeTensors('model.safetensors'));
  const network = runtime.BuildNetworkFromJSON({ layers: [] });
  const files = [await session.saveState(), await model.saveWeights(), await model.saveGguf(), await model.saveTorch(), network.SerializeWeights(), runtime.serializeGguf({ w: { values: data, shape: [1] } })];
  return [...files.map((bytes) => new Blob([bytes])), new Blob([String(stored)])];
}
`;

const nodeProgram = `
import { readFile } from 'node:fs/promises';
import { init, type Model } from 'heddle';
import { init as initInWorker } from 'heddle/worker';
import { init as initInline } from 'heddle/inline';
import { init as initOnEdge } from 'heddle/edge';

export async function told(path: string): Promise<string> {
  const runtime = await init({ wasm: await readFile(path) });
  const model: Model = await runtime.loadModel(await readFile(path));
  return model.generate('Once').text();
}

export const starts = [initInWorker, initInline, initOnEdge];
`;

/** Compiles a program that uses the package in a folder of its own, its libraries too. */
function check(text, options) {
  const folder = mkdtempSync(join(tmpdir(), 'heddle-types-'));
  try {
    mkdirSync(join(folder, 'node_modules/@types'), { recursive: true });
    const links = { heddle: packageFolder, '@types/node': join(projectFolder, 'node_modules/@types/node'), 'undici-types': join(projectFolder, 'node_modules/undici-types') };
    for (const [name, target] of Object.entries(links)) symlinkSync(target, join(folder, 'node_modules', name), 'junction');
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
    writeFileSync(join(folder, 'app.ts'), text);
    const compilerOptions = { strict: true, skipLibCheck: false, noEmit: true, ...options };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['app.ts'] }));
    const { status, stdout } = spawnSync(process.execPath, [join(projectFolder, 'node_modules/typescript/bin/tsc'), '-p', folder], { encoding: 'utf8' });
    assert.equal(stdout, '');
    assert.equal(status, 0);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

for (const [module, moduleResolution] of [['nodenext', 'nodenext'], ['esnext', 'bundler']]) {
  test(`the types compile with the libraries es2022 and dom alone, checked themselves (moduleResolution ${moduleResolution})`, () =>
    check(program, { target: 'es2022', lib: ['es2022', 'dom'], types: [], module, moduleResolution }));
}

test('the types compile in a program for Node, without the library dom', () => check(nodeProgram, { target: 'es2022', lib: ['es2023'], types: ['node'], module: 'nodenext' }));

