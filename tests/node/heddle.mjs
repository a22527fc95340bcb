/**
 * heddle.mjs: what the tests share: the package as a user imports it, the modules this Node can run, and where data lies.
 *
 * The package is the one HEDDLE_PACKAGE names (packed and installed, see tools/test.mjs), else the project's own through its name. Files
 * called *.relaxed.test.mjs are run by a newer Node and test the relaxed modules only; everything else tests what this Node has.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const projectFolder = fileURLToPath(new URL('../..', import.meta.url));
export const packageFolder = process.env.HEDDLE_PACKAGE || projectFolder;

/** The address of one of the package's entries: '.', './worker', './edge', './inline'. */
export function entryUrl(name) {
  const { exports } = JSON.parse(readFileSync(join(packageFolder, 'package.json'), 'utf8'));
  return pathToFileURL(join(packageFolder, exports[name].default)).href;
}

/** One of the package's entries, imported. */
export const entry = (name) => import(process.env.HEDDLE_PACKAGE ? entryUrl(name) : `heddle${name.slice(1)}`);

export const heddle = await entry('.');

/** Every test fails, instead of testing less, when a newer Node is said not to have relaxed SIMD. */
export const nodeHasRelaxed = Number(process.versions.node.split('.')[0]) >= 22;

/** Threads of a pool that several tests share: two workers and the caller. */
export const threads = 3;

/** Threads of a pool that one model has: a worker and the caller. Starting a worker takes Node longer than most tests take, and there are thousands of models. */
const ownThreads = 2;

const onlyRelaxed = process.argv[1]?.endsWith('.relaxed.test.mjs') ?? false;

/** The modules to test here, by name. */
export const modules = [
  ...(onlyRelaxed ? [] : ['simd128', 'simd128-threads']),
  ...(nodeHasRelaxed ? ['relaxed', 'relaxed-threads'] : []),
];

/** The options that start a runtime with that module. */
export function optionsFor(module) {
  const [variant, withThreads] = module.split('-');
  return { variant, threads: withThreads ? ownThreads : 1 };
}

/**
 * The same for what most tests run on. With relaxed-threads all models are in one instance with one pool, so that every test has been run in a shared instance
 * too; with simd128-threads each model has its own.
 */
const commonOptionsFor = (module) => ({ ...optionsFor(module), ...(module === 'relaxed-threads' && { shared: true, threads }) });

const runtimes = new Map();

/** A runtime with that module, the same for all tests of a process. */
export function runtimeWith(module) {
  if (!runtimes.has(module)) runtimes.set(module, heddle.init(commonOptionsFor(module)));
  return runtimes.get(module);
}

/** A test for each module; `run` takes the runtime, the module's name and Node's test. `options` are Node's, for example `skip`. */
export function testOnEveryModule(name, ...rest) {
  const run = rest.pop();
  const [options = {}] = rest;
  for (const module of modules) test(`${name} (${module})`, options, async (t) => run(await runtimeWith(module), module, t));
}

after(async () => {
  for (const runtime of runtimes.values()) await (await runtime).free();
});

/** A file of the tests' golden data. */
export const golden = (path) => join(projectFolder, 'tests/golden', path);

const sharedFolder = join(projectFolder, '../shared');

/** A file or folder of ../shared, which a stranger's clone does not have: tests that need it take `needs(path)` as options. */
export const shared = (path) => join(sharedFolder, path);

/** Options that skip a test, saying why, where ../shared lacks the path. */
export const needs = (path) => (existsSync(shared(path)) ? {} : { skip: `../shared/${path} is not on this machine` });

export const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'));

/** What `assert.throws` and `assert.rejects` take: a HeddleError of that code whose message matches. */
export function heddleError(code, pattern = /./) {
  return (error) => {
    const isOurs = error instanceof heddle.HeddleError && error.code === code && pattern.test(error.message);
    if (!isOurs) throw new Error(`expected a HeddleError ${code} that matches ${pattern}, got ${error?.name} ${error?.code}: ${error?.message}`, { cause: error });
    return true;
  };
}
