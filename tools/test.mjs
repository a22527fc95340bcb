/**
 * `npm test`: sets up, builds, and runs every test; ends with one line `N passed, N failed, N skipped`.
 *
 *   node tools/test.mjs [--only native|node|browser|consumers] [filter]
 *
 * `--only native` runs the C tests (natively and as wasm32) and the fuzz replays; a filter picks test programs or files by a
 * part of their name, or, when no file matches, tests by theirs.
 *
 * The tests in JavaScript run on the package as a user has it, packed and installed. What they are told, by environment:
 *   HEDDLE_PACKAGE   the installed package's folder
 *   HEDDLE_NODE22    a Node of version 22 or newer, for relaxed SIMD; files named *.relaxed.test.mjs are run by it
 *   HEDDLE_CACHE_DIR the cache folder, for what a test keeps between runs
 *   CHROMIUM         the browser's program; absent when there is none
 */
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, join, relative } from 'node:path';
import { build, buildNative, wasmDir } from './build.mjs';
import { setup } from './setup.mjs';
import { Stop, onPath, program, projectDir, run } from './step.mjs';

const kinds = ['native', 'node', 'browser', 'consumers'];
const nativeDir = join(projectDir, 'build/native');
const consumerDir = join(projectDir, 'build/consumer');
const packageDir = join(consumerDir, 'node_modules/heddle');

/** The sum of what the stages counted, and what was left out, for the end. */
const total = { passed: 0, failed: 0, skipped: 0 };
const leftOut = [];
const failures = [];

program(import.meta.url, async (args) => {
  const { only, filter } = readArguments(args);
  const wants = (kind) => !only || only === kind;
  const found = {};
  if (wants('native')) await nativeStages(filter);
  if (wants('node') || wants('browser') || wants('consumers')) {
    const isReady = await stage('the package, packed and installed', async () => {
      Object.assign(found, await build({ wasm: true, ts: true, werror: true }), await setup({ need: ['node22', 'chromium'] }));
      await installPackage();
      return {};
    });
    if (isReady && wants('node')) await stage('package tests in Node', () => nodeTests('tests/node', found, filter, takesConcurrency() ? availableParallelism() : undefined));
    if (isReady && wants('browser')) await browserStage(found, filter);
    if (isReady && wants('consumers')) await stage('applications that use the package', () => nodeTests('tests/consumers', found, filter));
  }
  report();
});

function readArguments(args) {
  const at = args.indexOf('--only');
  const only = at >= 0 ? args.splice(at, 2)[1] : undefined;
  if (at >= 0 && !kinds.includes(only)) throw new Stop(`--only wants one of ${kinds.join(', ')}`);
  if (args.length > 1) throw new Stop(`one filter at most, not ${args.join(' ')}`);
  return { only, filter: args[0] };
}

/**
 * One section of the output. `work` resolves to { passed, failed, skipped } as far as it counts; an exception is one failure.
 * Resolves to whether nothing failed.
 */
async function stage(name, work) {
  console.log(`\n== ${name}`);
  const start = performance.now();
  const counts = { passed: 0, failed: 0, skipped: 0 };
  try {
    Object.assign(counts, await work());
  } catch (error) {
    counts.failed++;
    console.log(error instanceof Stop ? error.message : error.stack);
  }
  for (const key of Object.keys(total)) total[key] += counts[key];
  if (counts.failed) failures.push(name);
  console.log(`== ${name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  return counts.failed === 0;
}

/** Notes a test or stage that did not run. */
function leaveOut(what, reason) {
  leftOut.push(`${what}: ${reason || 'no reason given'}`);
}

function report() {
  // A C test skips natively and as wasm32 alike: said once.
  if (leftOut.length) console.log(`\nSKIPPED:\n${[...new Set(leftOut)].map((line) => `  ${line}`).join('\n')}`);
  if (failures.length) console.log(`\nFAILED: ${failures.join('; ')}`);
  console.log(`\n${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  if (total.failed) process.exitCode = 1;
}

// ---------------------------------------------------------------------------------------------------------------------
// C tests

async function nativeStages(filter) {
  const all = cTests();
  const isBuilt = await stage('native build', async () => {
    await build({ native: true, werror: true });
    return {};
  });
  if (isBuilt) {
    await stage('native units, with sanitizers', () => ctest(nativeDir, 'unit', filter));
    await stage('fuzz targets, known inputs', () => ctest(nativeDir, 'fuzz', filter));
  }
  const threaded = all.filter((name) => /pool|thread/.test(name) && name.includes(filter ?? ''));
  if (threaded.length) await stage('threads, with the thread sanitizer', () => threadTests(threaded));
  const isBuilt32 = await stage('WebAssembly build', async () => {
    await build({ wasm: true, wasmTests: true, werror: true });
    return {};
  });
  if (isBuilt32) await stage('units as wasm32 in Node', () => ctest(wasmDir, 'unit', filter));
}

function cTests() {
  const folder = join(projectDir, 'tests/native');
  if (!existsSync(folder)) return [];
  return readdirSync(folder).filter((name) => /^test_.*\.c$/.test(name)).map((name) => basename(name, '.c'));
}

async function threadTests(names) {
  const folder = 'build/thread';
  await buildNative(await setup({ need: ['cmake', 'cc', 'cjson'] }), { sanitize: 'thread', folder, targets: names, werror: true });
  const counts = { passed: 0, failed: 0, skipped: 0 };
  for (const name of names) {
    // The sanitizer's memory map fails on kernels that place programs too freely; setarch switches that off for one program.
    const command = [...(onPath('setarch') ? ['setarch', '-R'] : []), join(projectDir, folder, name)];
    const { status, output } = await run(command[0], command.slice(1), { allowFailure: true });
    addCounts(counts, readTap(name, output, status === 0));
  }
  return counts;
}

/** Runs the programs of one label and counts the tests inside them, which print TAP. */
async function ctest(folder, label, filter) {
  const args = ['--test-dir', folder, '-L', label, '-j', String(availableParallelism()), '--verbose', '--no-tests=ignore', ...(filter ? ['-R', filter] : [])];
  const { ctest: command } = await setup({ need: ['cmake'] });
  const { status, output } = await run(command, args, { allowFailure: true });
  const counts = { passed: 0, failed: 0, skipped: 0 };
  let nPrograms = 0;
  for (const { name, hasPassed, text } of readCtest(output)) {
    addCounts(counts, readTap(name, text, hasPassed));
    nPrograms++;
  }
  if (status !== 0 && counts.failed === 0) {
    counts.failed++;
    console.log(output.split('\n').slice(-30).join('\n'));
  }
  console.log(`${nPrograms} programs`);
  return counts;
}

/** The programs of a verbose ctest run: "3: a line of its output", and in the end "1/9 Test #3: test_json ... Passed". */
function readCtest(output) {
  const lines = new Map();
  const programs = [];
  for (const line of output.split('\n')) {
    const own = /^(\d+): (.*)$/.exec(line);
    if (own) lines.set(own[1], [...(lines.get(own[1]) ?? []), own[2]]);
    const result = /^ *\d+\/\d+ Test +#(\d+): (\S+) \.+ *(.*)$/.exec(line);
    if (result) programs.push({ name: result[2], hasPassed: result[3].startsWith('Passed'), number: result[1] });
  }
  return programs.map((entry) => ({ ...entry, text: (lines.get(entry.number) ?? []).join('\n') }));
}

/** Counts a C program's TAP lines, printing what failed; a program that ended badly without saying which test is one failure more. */
function readTap(name, text, hasPassed) {
  const counts = { passed: 0, failed: 0, skipped: 0 };
  let notes = [];
  for (const line of text.split('\n')) {
    const test = /^(not )?ok \d+ - (.*?)(?: # SKIP ?(.*))?$/.exec(line);
    if (!test) {
      notes.push(line);
      continue;
    }
    const [, isBad, title, reason] = test;
    if (reason !== undefined) {
      counts.skipped++;
      leaveOut(`${name}: ${title}`, reason);
    } else if (isBad) {
      counts.failed++;
      console.log(`${name}: ${title}\n${notes.map((note) => `    ${note}`).join('\n')}`);
    } else {
      counts.passed++;
    }
    notes = [];
  }
  if (!hasPassed && counts.failed === 0) {
    counts.failed++;
    console.log(`${name} ended badly\n${notes.slice(-60).map((note) => `    ${note}`).join('\n')}`);
  }
  return counts;
}

function addCounts(counts, more) {
  for (const key of Object.keys(counts)) counts[key] += more[key];
}

// ---------------------------------------------------------------------------------------------------------------------
// The package and its tests

/**
 * Packs the package and installs it into build/consumer, with its dependencies, as a user's npm would. The tests' own tools
 * (playwright-core, vite …) are found in the project's node_modules above it.
 */
async function installPackage() {
  const packDir = join(projectDir, 'build/package');
  rmSync(packDir, { recursive: true, force: true });
  mkdirSync(packDir, { recursive: true });
  await run('npm', ['pack', '--ignore-scripts', '--loglevel=error', '--pack-destination', packDir]);
  const archive = join(packDir, readdirSync(packDir)[0]);
  const stamp = join(consumerDir, 'installed-from.txt');
  const hash = packedFilesHash();
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === hash) return;
  rmSync(consumerDir, { recursive: true, force: true });
  mkdirSync(consumerDir, { recursive: true });
  writeFileSync(join(consumerDir, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
  await run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error', '--prefer-offline', archive], { cwd: consumerDir });
  writeFileSync(stamp, hash);
}

/** What the package is made of. The archive itself carries times, so its own hash changes without reason. */
function packedFilesHash() {
  const hash = createHash('sha256').update(readFileSync(join(projectDir, 'package.json')));
  for (const file of listFiles(join(projectDir, 'dist'))) hash.update(file).update(readFileSync(file));
  return hash.digest('hex');
}

function listFiles(folder) {
  if (!existsSync(folder)) return [];
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name))
    .sort();
}

async function browserStage(found, filter) {
  const files = testFiles('tests/browser');
  if (found.chromium || !files.length) {
    await stage('browser tests', async () => {
      await build({ wasm: true, ts: true });
      return nodeTests('tests/browser', found, filter);
    });
    return;
  }
  await stage('browser tests', async () => {
    for (const file of files) leaveOut(relative(projectDir, file), 'no Chromium on this machine (set CHROMIUM to its program)');
    return { skipped: files.length };
  });
}

function testFiles(folder) {
  return listFiles(join(projectDir, folder)).filter((file) => file.endsWith('.test.mjs'));
}

/**
 * Runs the test files of `folder` with Node's runner: by this Node, those named *.relaxed.test.mjs by the newer one. `concurrency` files at a time; Node's own
 * choice, one less than there are processors, leaves one of two idle.
 */
async function nodeTests(folder, found, filter, concurrency) {
  const all = testFiles(folder);
  const named = all.filter((file) => relative(projectDir, file).includes(filter ?? ''));
  const files = named.length ? named : all;
  const pattern = named.length ? [] : ['--test-name-pattern', filter];
  const isRelaxed = (file) => file.endsWith('.relaxed.test.mjs');
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const groups = [[process.execPath, files.filter((file) => !isRelaxed(file))], [found.node22, files.filter(isRelaxed)]];
  for (const [node, group] of groups) {
    if (group.length) addCounts(counts, await runNodeTests(node, [...pattern, ...(concurrency ? [`--test-concurrency=${concurrency}`] : [])], group, found));
  }
  return counts;
}

/** Node 20 has the option from 20.10 on. */
function takesConcurrency() {
  const [major, minor] = process.versions.node.split('.').map(Number);
  return major > 20 || minor >= 10;
}

async function runNodeTests(node, options, files, found) {
  const tap = join(projectDir, 'build/node-tests.tap');
  const reporters = ['--test-reporter=spec', '--test-reporter-destination=stdout', '--test-reporter=tap', `--test-reporter-destination=${tap}`];
  const env = {
    HEDDLE_PACKAGE: packageDir, HEDDLE_NODE22: found.node22, HEDDLE_CACHE_DIR: found.cacheDir,
    ...(found.chromium ? { CHROMIUM: found.chromium } : {}),
  };
  rmSync(tap, { force: true });
  const { status } = await run(node, ['--test', ...reporters, ...options, ...files], { env, show: true, allowFailure: true });
  const text = existsSync(tap) ? readFileSync(tap, 'utf8') : '';
  const count = (word) => Number(new RegExp(`^# ${word} (\\d+)$`, 'm').exec(text)?.[1] ?? 0);
  const counts = { passed: count('pass'), failed: count('fail') + count('cancelled'), skipped: count('skipped') + count('todo') };
  for (const [, title, reason] of text.matchAll(/^\s*ok \d+ - (.*?) # (?:SKIP|TODO) ?(.*)$/gm)) {
    // What the filter passed over was not asked for.
    if (reason === 'test name does not match pattern') counts.skipped--;
    else leaveOut(title, reason);
  }
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}
