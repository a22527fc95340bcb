/**
 * Builds the project: the native library with its tests, the WebAssembly modules, the TypeScript package, the demo.
 *
 *   node tools/build.mjs [native|wasm|ts|demo]...        (default: wasm ts demo)
 *
 * Results: build/native, build/wasm, dist/ (the package) and build/demo. What is up to date is not built again.
 */
import { copyFileSync, existsSync, mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { availableParallelism } from 'node:os';
import { bundle } from './bundle.mjs';
import { setup } from './setup.mjs';
import { Stop, program, projectDir, run, step } from './step.mjs';

export const distDir = join(projectDir, 'dist');
export const wasmDir = join(projectDir, 'build/wasm');

/**
 * Builds the parts asked for; resolves to what setup() found. `werror`: warnings in our C are errors; undefined keeps what
 * the build folder was configured with, so that `npm start` after `npm test` does not compile everything again.
 */
export async function build({ native = false, wasm = false, wasmTests = false, ts = false, demo = false, werror } = {}) {
  const withC = native || wasm || wasmTests;
  const found = await setup({
    need: [
      ...(withC ? ['cmake', 'cjson'] : []), ...(native ? ['cc'] : []), ...(wasm || wasmTests ? ['emcc'] : []), ...(ts || demo ? ['modules'] : []),
    ],
  });
  if (native) await buildNative(found, { werror });
  if (wasm || wasmTests) await buildWasm(found, { werror, tests: wasmTests });
  if (ts) await buildTypeScript();
  if (demo) await buildDemo();
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

async function buildTypeScript() {
  if (!existsSync(join(projectDir, 'ts'))) return;
  await step('building the TypeScript package', async () => {
    // The compiler's memory of what it wrote is worth nothing when its output is gone.
    if (!existsSync(join(distDir, 'index.js'))) rmSync(join(projectDir, 'build/ts.tsbuildinfo'), { force: true });
    await run(process.execPath, [join(projectDir, 'node_modules/typescript/bin/tsc'), '-p', projectDir]);
    removeOrphans();
    await bundleInline();
    await bundle();
  });
}

/** Removes what the compiler wrote for sources that are gone: it never does, and the package would ship it. */
function removeOrphans() {
  for (const name of readdirSync(distDir)) {
    const stem = /^(.*?)(\.d\.ts|\.js)$/.exec(name)?.[1];
    if (stem && !existsSync(join(projectDir, 'ts', `${stem}.ts`))) rmSync(join(distDir, name));
  }
}

/**
 * dist/inline.js, the entry `heddle/inline`: ts/inline.ts with the plain simd128 module inside.
 *
 * That source imports the module's bytes as `import wasm from 'heddle-simd128.wasm'` (a Uint8Array). Its relative imports stay imports,
 * so that `heddle` and `heddle/inline` share their classes.
 */
async function bundleInline() {
  const entry = join(projectDir, 'ts/inline.ts');
  if (!existsSync(entry)) return;
  const esbuild = await import('esbuild');
  await esbuild.build({
    entryPoints: [entry], outfile: join(distDir, 'inline.js'), bundle: true, format: 'esm', platform: 'neutral', target: 'es2022',
    external: ['./*', '@huggingface/*'],
    plugins: [embedModule(join(wasmDir, 'heddle-simd128.wasm'))],
    logLevel: 'silent',
  });
}

/** An esbuild plugin: an import of 'heddle-….wasm' becomes the bytes of `file`, as base64 in the bundle. */
function embedModule(file) {
  return {
    name: 'embed-module',
    setup(bundler) {
      bundler.onResolve({ filter: /^heddle-.*\.wasm$/ }, () => ({ path: file, namespace: 'embedded' }));
      bundler.onLoad({ filter: /.*/, namespace: 'embedded' }, () => {
        if (!existsSync(file)) throw new Stop('heddle/inline embeds build/wasm/heddle-simd128.wasm: build wasm before ts');
        return { contents: readFileSync(file), loader: 'binary' };
      });
    },
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// The demo

/** The package's files that run as workers; they are named by URL, which esbuild does not follow. */
const workerFiles = ['worker-host.js', 'pool-worker.js'];

/**
 * build/demo: the demo's script and the package's workers, each bundled into one file, since a page cannot resolve the names of
 * packages. The rest of demo/ is served as it lies (tools/serve.mjs), and the modules from dist/wasm.
 */
async function buildDemo() {
  const script = join(projectDir, 'demo/main.js');
  if (!existsSync(script)) return;
  await step('bundling the demo', async () => {
    const esbuild = await import('esbuild');
    await esbuild.build({
      entryPoints: [script, ...workerFiles.map((name) => join(distDir, name))], entryNames: '[name]', outdir: join(projectDir, 'build/demo'), bundle: true, format: 'esm', target: 'es2022',
      sourcemap: true, absWorkingDir: projectDir, alias: { heddle: join(distDir, 'index.js') }, logLevel: 'silent',
    });
  });
}

const parts = ['native', 'wasm', 'ts', 'demo'];

program(import.meta.url, async (args) => {
  const unknown = args.find((name) => !parts.includes(name));
  if (unknown) throw new Stop(`"${unknown}" is none of ${parts.join(', ')}`);
  const wanted = args.length ? args : ['wasm', 'ts', 'demo'];
  await build(Object.fromEntries(wanted.map((name) => [name, true])));
});
