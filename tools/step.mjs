/**
 * The few things every tool here does: run a program, say what is going on, and keep two processes from doing the same
 * work twice.
 */
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync, linkSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

/** The project's folder, whatever the current directory is. */
export const projectDir = resolve(dirname(fileURLToPath(import.meta.url)), '..');

/** An error that the user can act on: printed as its message alone, without a stack. */
export class Stop extends Error {}

/**
 * Runs a program and resolves when it ended well.
 *
 * `show` lets its output through as it comes; otherwise the output is kept and becomes part of the error, so that a
 * quiet step is still loud when it fails. Resolves to { status, output }; `allowFailure` resolves for any status.
 */
export function run(command, args, { cwd = projectDir, env = {}, show = false, allowFailure = false, input } = {}) {
  return new Promise((done, fail) => {
    const stdin = input === undefined ? 'ignore' : 'pipe';
    const child = spawn(command, args, {
      cwd,
      env: { ...process.env, ...env },
      stdio: show ? [stdin, 'inherit', 'inherit'] : [stdin, 'pipe', 'pipe'],
    });
    const chunks = [];
    child.stdout?.on('data', (bytes) => chunks.push(bytes));
    child.stderr?.on('data', (bytes) => chunks.push(bytes));
    child.on('error', (error) => fail(new Stop(`cannot run ${command}: ${error.message}`)));
    child.on('close', (status, signal) => {
      const output = Buffer.concat(chunks).toString();
      if (status === 0 || allowFailure) return done({ status: status ?? 1, output });
      const ending = signal ? `was ended by ${signal}` : `ended with status ${status}`;
      fail(new Stop(`${[command, ...args].join(' ')}\n${output}${ending} (in ${cwd})`));
    });
    if (input !== undefined) child.stdin.end(input);
  });
}

/** What a program prints, without the last line end; '' when it cannot be run or fails. */
export async function ask(command, args, options = {}) {
  try {
    return (await run(command, args, options)).output.trim();
  } catch {
    return '';
  }
}

/** The full path of the first of `names` found on PATH, or ''. */
export function onPath(...names) {
  for (const name of names) {
    for (const folder of (process.env.PATH ?? '').split(delimiter)) {
      const file = join(folder, name);
      try {
        accessSync(file, constants.X_OK);
        return file;
      } catch {
        // Not in this folder.
      }
    }
  }
  return '';
}

/** Does `work`, then prints one line: what it was and the seconds it took. The name is printed first where it may take long. */
export async function step(name, work) {
  const start = performance.now();
  console.log(`heddle: ${name} ...`);
  const result = await work();
  console.log(`heddle: ${name}: ${((performance.now() - start) / 1000).toFixed(1)} s`);
  return result;
}

/** Whether version `a` ("6.0.5", "3.1.6~dfsg") is `b` or newer, by its numbers. */
export function atLeast(a, b) {
  const numbers = (version) => version.split(/[^\d.]/)[0].split('.').map(Number);
  const [left, right] = [numbers(a), numbers(b)];
  for (let i = 0; i < right.length; i++) {
    if ((left[i] ?? 0) !== right[i]) return (left[i] ?? 0) > right[i];
  }
  return a !== '';
}

/**
 * Makes `folder` by `fill(partial)`: the work happens in `folder.partial`, which becomes `folder` in one rename, so an
 * interrupted run leaves nothing that looks finished.
 */
export async function makeFolder(folder, fill) {
  const partial = `${folder}.partial`;
  rmSync(partial, { recursive: true, force: true });
  mkdirSync(partial, { recursive: true });
  await fill(partial);
  rmSync(folder, { recursive: true, force: true });
  renameSync(partial, folder);
}

/**
 * Holds the lock file `path` during `work`, waiting while another living process holds it.
 *
 * The file names its owner by process id and that process's start time, since ids are used again. A lock whose owner is
 * gone is taken over.
 */
export async function withLock(path, work) {
  mkdirSync(dirname(path), { recursive: true });
  let told = false;
  while (!tryLock(path)) {
    if (!told) console.log(`heddle: waiting for another set-up to finish (${path})`);
    told = true;
    await new Promise((wake) => setTimeout(wake, 300));
  }
  // An interrupted process leaves its lock behind; the next one sees that its owner is gone.
  try {
    return await work();
  } finally {
    rmSync(path, { force: true });
  }
}

/** When a process was started, in the kernel's ticks; '' where that cannot be told (then its id alone has to do). */
function startTime(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return '';
  }
}

function isAlive(owner) {
  const [pid, started] = owner.split(' ');
  try {
    process.kill(Number(pid), 0);
  } catch (error) {
    if (error.code === 'ESRCH') return false;
  }
  return startTime(pid) === (started ?? '');
}

function tryLock(path) {
  // Written aside and linked into place: nobody ever reads a lock file that has no owner in it yet.
  const mine = `${path}.${process.pid}`;
  writeFileSync(mine, `${process.pid} ${startTime(process.pid)}`);
  try {
    linkSync(mine, path);
    return true;
  } catch (error) {
    if (error.code !== 'EEXIST') throw error;
  } finally {
    rmSync(mine, { force: true });
  }
  removeIfStale(path);
  return false;
}

function removeIfStale(path) {
  let owner;
  try {
    owner = readFileSync(path, 'utf8');
  } catch {
    return; // Released just now.
  }
  if (isAlive(owner)) return;
  const aside = `${path}.stale.${process.pid}`;
  try {
    renameSync(path, aside);
    // Another waiter may have replaced the stale lock by its own between our look and the rename: then give it back.
    if (readFileSync(aside, 'utf8') !== owner && !existsSync(path)) linkSync(aside, path);
  } catch {
    // The other waiter was first; the next round sees its lock.
  }
  rmSync(aside, { force: true });
}

/** Runs a tool's main function when its file is the program; errors meant for the user are printed without a stack. */
export function program(moduleUrl, main) {
  if (!process.argv[1] || resolve(process.argv[1]) !== fileURLToPath(moduleUrl)) return;
  main(process.argv.slice(2)).catch((error) => {
    console.error(error instanceof Stop ? `heddle: ${error.message}` : error);
    process.exitCode = 1;
  });
}
