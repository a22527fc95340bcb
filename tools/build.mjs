/**
 * Builds the project: the native library with its tests, the WebAssembly modules, the TypeScript package. The demo is served as it lies.
 *
 *   node tools/build.mjs [native|wasm|ts]...        (default: wasm ts)
 *
 * Results: build/native, build/wasm and dist/ (the package). What is up to date is not built again.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { availableParallelism } from 'node:os';
import { bundle, bundled } from './bundle.mjs';
import { setup } from './setup.mjs';
import { Stop, program, projectDir, run, step } from './step.mjs';

export const distDir = join(projectDir, 'dist');
export const wasmDir = join(projectDir, 'build/wasm');

/**
 * Builds the parts asked for; resolves to what setup() found. `werror`: warnings in our C are errors; undefined keeps what
 * the build folder was configured with, so that `npm start` after `npm test` does not compile everything again.
 */
export async function build({ native = false, wasm = false, wasmTests = false, ts = false, werror } = {}) {
  const withC = native || wasm || wasmTests;
  const found = await setup({
    need: [
      ...(withC ? ['cmake', 'cjson'] : []), ...(native ? ['cc'] : []), ...(wasm || wasmTests ? ['emcc'] : []), ...(ts ? ['modules'] : []),
    ],
  });
  if (native) await buildNative(found, { werror });
  if (wasm || wasmTests) await buildWasm(found, { werror, tests: wasmTests });
  if (ts) await buildTypeScript();
  return found;
}

// ---------------------------------------------------------------------------------------------------------------------
// C

/** The native library and tests with a sanitizer ("address", "thread"); `targets` builds only those. */
export async function buildNative(found, { werror, sanitize = 'address', folder = 'build/native', targets = [] } = {}) {
  await cmakeBuild(found, {
    folder: join(projectDir, folder), targets, name: `native code (${sanitize} sanitizer)`,
    options: { CMAKE_BUILD_TYPE: 'Debug', HEDDLE_SANITIZE: sanitize, HEDDLE_CJSON: found.cjsonDir, ...werrorOption(werror) },
  });
}

async function buildWasm(found, { werror, tests }) {
  const { root, env } = found.emscripten;
  await cmakeBuild(found, {
    folder: wasmDir, env, targets: tests ? ['modules', 'all'] : ['modules'],
    name: tests ? 'WebAssembly modules and unit tests' : 'WebAssembly modules',
    options: {
      CMAKE_BUILD_TYPE: 'Release', CMAKE_TOOLCHAIN_FILE: join(root, 'cmake/Modules/Platform/Emscripten.cmake'),
      HEDDLE_CJSON: found.cjsonDir, ...werrorOption(werror),
    },
  });
  copyModules();
}

function werrorOption(werror) {
  return werror === undefined ? {} : { HEDDLE_WERROR: werror ? 'ON' : 'OFF' };
}

/** Configures `folder` when its options changed, and builds it. CMake itself notices changed and new files. */
async function cmakeBuild(found, { folder, name, options, targets = [], env = {} }) {
  const generator = found.ninja ? 'Ninja' : 'Unix Makefiles';
  const defines = Object.entries(options).map(([key, value]) => `-D${key}=${value}`);
  const stamp = join(folder, 'heddle-options.txt');
  const wanted = [found.cmake, generator, ...defines].join('\n');
  const current = existsSync(stamp) ? readFileSync(stamp, 'utf8') : '';
  await step(`building ${name}`, async () => {
    if (!isSubset(wanted, current)) {
      // A folder of another generator or toolchain cannot be configured anew in place.
      if (withoutWerror(current) !== withoutWerror(wanted)) rmSync(folder, { recursive: true, force: true });
      mkdirSync(folder, { recursive: true });
      await run(found.cmake, ['-S', projectDir, '-B', folder, '-G', generator, ...defines], { env });
      writeFileSync(stamp, wanted);
    }
    await run(found.cmake, ['--build', folder, '-j', String(availableParallelism()), ...targets.flatMap((target) => ['--target', target])], { env });
  });
}

/** Whether every line of `wanted` is among those of `current`. */
function isSubset(wanted, current) {
  const lines = new Set(current.split('\n'));
  return wanted.split('\n').every((line) => lines.has(line));
}

function withoutWerror(options) {
  return options.split('\n').filter((line) => !line.startsWith('-DHEDDLE_WERROR')).join('\n');
}

/** Copies the built modules to dist/wasm, those that differ. */
function copyModules() {
  const target = join(distDir, 'wasm');
  mkdirSync(target, { recursive: true });
  for (const name of readdirSync(wasmDir).filter((file) => /^heddle-.*\.wasm$/.test(file))) copyChanged(join(wasmDir, name), join(target, name));
}

function copyChanged(from, to) {
  const isSame = existsSync(to) && statSync(to).size === statSync(from).size && readFileSync(to).equals(readFileSync(from));
  if (!isSame) copyFileSync(from, to);
}

// ---------------------------------------------------------------------------------------------------------------------
// TypeScript

/** What the compiler writes; dist/ is put together from it, so that a bundled file never stands in for a compiled one. */
const compiledDir = join(projectDir, 'build/ts');

async function buildTypeScript() {
  await step('building the TypeScript package', async () => {
    await run(process.execPath, [join(projectDir, 'node_modules/typescript/bin/tsc'), '-p', projectDir]);
    mkdirSync(distDir, { recursive: true });
    const compiled = readdirSync(compiledDir).filter((name) => isOfSource(name));
    for (const name of compiled) if (!bundled.includes(name)) copyChanged(join(compiledDir, name), join(distDir, name));
    for (const name of readdirSync(distDir)) if (/\.(js|d\.ts)$/.test(name) && !compiled.includes(name)) rmSync(join(distDir, name));
    copyCommands();
    await bundle({ compiledDir, distDir, wasmDir });
  });
}

/** The command line programs, which import the package by its name. */
function copyCommands() {
  const [from, to] = [join(projectDir, 'js/cli'), join(distDir, 'cli')];
  mkdirSync(to, { recursive: true });
  const names = readdirSync(from);
  for (const name of names) copyChanged(join(from, name), join(to, name));
  for (const name of readdirSync(to)) if (!names.includes(name)) rmSync(join(to, name));
}

/** The compiler never deletes what it wrote for sources that are gone, and the package would ship it. */
function isOfSource(name) {
  const stem = /^(.*?)(\.d\.ts|\.js)$/.exec(name)?.[1];
  return stem !== undefined && existsSync(join(projectDir, 'ts', `${stem}.ts`));
}

const parts = ['native', 'wasm', 'ts'];

program(import.meta.url, async (args) => {
  const unknown = args.find((name) => !parts.includes(name));
  if (unknown) throw new Stop(`"${unknown}" is none of ${parts.join(', ')}`);
  const wanted = args.length ? args : ['wasm', 'ts'];
  await build(Object.fromEntries(wanted.map((name) => [name, true])));
});
