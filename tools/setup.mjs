/**
 * Makes sure that what a build or a test needs is there: npm modules, Emscripten, cJSON's source, a newer Node, Chromium.
 *
 *   node tools/setup.mjs [modules|cmake|cc|emcc|cjson|node22|chromium]...
 *
 * What is not the project's own lies in a cache folder that all clones share: $HEDDLE_CACHE, else $XDG_CACHE_HOME/heddle,
 * else ~/.cache/heddle. It may be deleted at any time. Everything can be interrupted and run again; a second run has
 * nothing to do.
 */
import { createHash } from 'node:crypto';
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join } from 'node:path';
import { PrivateSuite, aptInstall, candidateVersion, isRoot, newerSuites } from './debian.mjs';
import { findEmscripten } from './emscripten.mjs';
import { Stop, ask, atLeast, makeFolder, onPath, program, projectDir, run, step, withLock } from './step.mjs';

const needs = ['modules', 'cmake', 'cc', 'emcc', 'cjson', 'node22', 'chromium'];

/** The Node whose WebAssembly has relaxed SIMD, for machines whose own is older. */
const newerNode = '24.21.0';

/** The versions of cJSON that are known good, the preferred one first, with the SHA-256 of the two files used. */
const cjsonVersions = {
  '1.7.19': {
    'cJSON.c': '298581a04a36c0165da4b0aade235c23088cb2faa58651d720ea2f3706ed0b0d',
    'cJSON.h': '25b0145150d500498e4d209cec69c18c42cf818bffcc54690be3b895a2a16dee',
  },
  '1.7.18': {
    'cJSON.c': '75c51de8fa40ac9d7a99319c6330719bd692eb81c0a869265f3d4c682533f9b9',
    'cJSON.h': '0578cc29132912edbc88f83207a8fc76e5db3db0605497e909a9384ef3cc474b',
  },
};

/**
 * Provides what `need` lists and resolves to where it is: { cacheDir, emcc, emscripten: { emcc, root, version, env },
 * cjsonDir, cmake, ctest, ninja, node22, chromium }. `ninja` is '' where make has to do, `chromium` is '' where there is none; everything else throws when it cannot be had.
 */
export async function setup({ need = needs } = {}) {
  const cacheDir = cacheFolder();
  mkdirSync(cacheDir, { recursive: true });
  const found = { cacheDir };
  if (need.includes('modules')) await ensureModules();
  if (need.includes('cmake')) Object.assign(found, await findCmake(cacheDir));
  if (need.includes('cc')) await ensureCompiler();
  if (need.includes('emcc')) {
    found.emscripten = await findEmscripten(cacheDir);
    found.emcc = found.emscripten.emcc;
  }
  if (need.includes('cjson')) found.cjsonDir = await findCjson(cacheDir);
  if (need.includes('node22')) found.node22 = await findNewerNode(cacheDir);
  if (need.includes('chromium')) found.chromium = await findChromium(cacheDir);
  return found;
}

function cacheFolder() {
  if (process.env.HEDDLE_CACHE) return process.env.HEDDLE_CACHE;
  return join(process.env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'heddle');
}

function sha256(file) {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

// ---------------------------------------------------------------------------------------------------------------------
// node_modules

/** `npm ci`, unless node_modules was made from this very package-lock.json. */
async function ensureModules() {
  const lockfile = join(projectDir, 'package-lock.json');
  const stamp = join(projectDir, 'node_modules/.heddle-lock');
  const isFresh = () => existsSync(stamp) && readFileSync(stamp, 'utf8') === sha256(lockfile);
  if (isFresh()) return;
  await withLock(join(projectDir, 'build/modules.lock'), async () => {
    if (isFresh()) return;
    // Nothing we depend on needs its install script: the programs come as packages of their own.
    await step('installing npm modules', () => run('npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', '--prefer-offline']));
    writeFileSync(stamp, sha256(lockfile));
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// CMake and the machine's own C compiler

const oldestCmake = '3.20';

/** { cmake, ctest, ninja }: from PATH, the distribution, or PyPI's package in the cache. */
async function findCmake(cacheDir) {
  const isGood = async (cmake) => atLeast(/version (\S+)/.exec(await ask(cmake, ['--version']))?.[1] ?? '', oldestCmake);
  const describe = (cmake) => ({ cmake, ctest: join(dirname(cmake), 'ctest'), ninja: onPath('ninja') });
  if (onPath('cmake') && (await isGood(onPath('cmake')))) return describe(onPath('cmake'));
  if (isRoot && atLeast(await candidateVersion('cmake'), oldestCmake)) {
    await step('installing cmake from the distribution', () => aptInstall('cmake', 'ninja-build', 'make'));
    return describe(onPath('cmake'));
  }
  const folder = join(cacheDir, 'cmake');
  const cmake = join(folder, 'cmake/data/bin/cmake');
  await withLock(join(cacheDir, 'cmake.lock'), async () => {
    if (existsSync(cmake)) return;
    await step('fetching cmake', () => makeFolder(folder, (partial) =>
      run('python3', ['-m', 'pip', 'install', '-q', '--no-input', '--target', partial, 'cmake']))).catch(() => {
      throw new Stop(`CMake ${oldestCmake} or newer is needed, and neither the distribution nor PyPI gave one: install it so that it is on PATH`);
    });
  });
  return describe(cmake);
}

/** The native tests are compiled by the machine's own compiler. */
async function ensureCompiler() {
  if (onPath('cc', 'gcc', 'clang')) return;
  if (!isRoot || !(await candidateVersion('gcc'))) throw new Stop('a C compiler is needed for the native tests: install gcc or clang');
  await step('installing gcc from the distribution', () => aptInstall('gcc', 'libc6-dev', 'make'));
}

// ---------------------------------------------------------------------------------------------------------------------
// cJSON

/** The folder with a verified cJSON.c and cJSON.h: $HEDDLE_CJSON, or from the cache, where it is put first when absent. */
async function findCjson(cacheDir) {
  const own = process.env.HEDDLE_CJSON;
  if (own) {
    if (!Object.keys(cjsonVersions).some((version) => isCjson(own, version))) {
      throw new Stop(`HEDDLE_CJSON=${own} does not hold cJSON.c and cJSON.h of cJSON ${Object.keys(cjsonVersions).join(' or ')}, unchanged`);
    }
    return own;
  }
  return cachedCjson(cacheDir) ?? withLock(join(cacheDir, 'cjson.lock'), async () => cachedCjson(cacheDir) ?? fetchCjson(cacheDir));
}

function cachedCjson(cacheDir) {
  const version = Object.keys(cjsonVersions).find((candidate) => isCjson(join(cacheDir, `cjson-${candidate}`), candidate));
  return version && join(cacheDir, `cjson-${version}`);
}

function isCjson(folder, version) {
  return Object.entries(cjsonVersions[version]).every(([name, hash]) => existsSync(join(folder, name)) && sha256(join(folder, name)) === hash);
}

async function fetchCjson(cacheDir) {
  for (const version of Object.keys(cjsonVersions)) {
    const fetched = await step(`fetching cJSON ${version}`, async () =>
      (await cjsonFromDistribution(version, cacheDir)) || (await cjsonFromRepository(version, cacheDir)));
    if (fetched) return join(cacheDir, `cjson-${version}`);
  }
  throw new Stop(`cJSON's source (${Object.keys(cjsonVersions).join(' or ')}) could not be fetched: neither as the source package "cjson" of a `
    + 'Debian or Ubuntu release, nor as a tagged release of its repository. Download one of those releases by hand and set HEDDLE_CJSON '
    + 'to the folder that has its cJSON.c and cJSON.h.');
}

/** Keeps the two files of `source` when they are the ones we know. */
async function keepCjson(source, version, cacheDir) {
  if (!isCjson(source, version)) throw new Stop(`the files fetched as cJSON ${version} are not those of that release`);
  await makeFolder(join(cacheDir, `cjson-${version}`), (partial) => {
    for (const name of [...Object.keys(cjsonVersions[version]), 'LICENSE']) copyFileSync(join(source, name), join(partial, name));
  });
}

/** From the distribution's source package, in whichever suite has this version. False when none has. */
async function cjsonFromDistribution(version, cacheDir) {
  for (const name of newerSuites()) {
    const suite = new PrivateSuite(name, join(cacheDir, 'apt-cjson'));
    try {
      await suite.open();
      if ((await suite.sourceVersion('cjson')) !== version) continue;
      const unpacked = join(suite.folder, 'unpacked');
      mkdirSync(unpacked);
      await run('tar', ['-xf', await suite.source('cjson'), '-C', unpacked, '--strip-components=1']);
      await keepCjson(unpacked, version, cacheDir);
      return true;
    } catch (error) {
      console.log(`heddle: cJSON from ${name}: ${error.message.trim().split('\n').pop()}`);
    } finally {
      suite.close();
    }
  }
  return false;
}

/** From the tag of its public repository, where git and the network allow. */
async function cjsonFromRepository(version, cacheDir) {
  const clone = join(cacheDir, 'cjson-clone');
  rmSync(clone, { recursive: true, force: true });
  try {
    await run('git', ['clone', '-q', '--depth', '1', '--branch', `v${version}`, 'https://github.com/DaveGamble/cJSON', clone], {
      env: { GIT_TERMINAL_PROMPT: '0' },
    });
    await keepCjson(clone, version, cacheDir);
    return true;
  } catch {
    return false;
  } finally {
    rmSync(clone, { recursive: true, force: true });
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Node with relaxed SIMD

/** A Node of version 22 or newer: the one that runs this, or a pinned one that npm brings as a plain package. */
async function findNewerNode(cacheDir) {
  if (atLeast(process.versions.node, '22')) return process.execPath;
  const folder = join(cacheDir, `node-${newerNode}`);
  const name = `node-${process.platform}-${process.arch}`;
  const node = join(folder, 'node_modules', name, 'bin/node');
  if (existsSync(node)) return node;
  await withLock(`${folder}.lock`, async () => {
    if (existsSync(node)) return;
    await step(`fetching Node ${newerNode}, for relaxed SIMD`, () => makeFolder(folder, (partial) =>
      run('npm', ['install', '--prefix', partial, '--no-save', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', `${name}@${newerNode}`], { cwd: partial })));
  });
  return node;
}

// ---------------------------------------------------------------------------------------------------------------------
// Chromium

const chromiumNames = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];

/** A Chromium for the browser tests, or ''. */
async function findChromium(cacheDir) {
  if (process.env.CHROMIUM) {
    if (!existsSync(process.env.CHROMIUM)) throw new Stop(`CHROMIUM=${process.env.CHROMIUM} does not exist`);
    return process.env.CHROMIUM;
  }
  if (onPath(...chromiumNames)) return onPath(...chromiumNames);
  if (!isRoot || !(await candidateVersion('chromium'))) {
    console.log('heddle: no Chromium found ($CHROMIUM, PATH); tests in a browser will be skipped');
    return '';
  }
  await withLock(join(cacheDir, 'chromium.lock'), async () => {
    if (!onPath(...chromiumNames)) await step('installing chromium from the distribution', () => aptInstall('chromium'));
  });
  return onPath(...chromiumNames);
}

program(import.meta.url, async (args) => {
  const unknown = args.find((name) => !needs.includes(name));
  if (unknown) throw new Stop(`"${unknown}" is none of ${needs.join(', ')}`);
  console.log(await setup(args.length ? { need: args } : {}));
});
