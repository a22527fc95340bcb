/** command-line.mjs: the command line as a user has it: the packed package's bin, run as a program. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after } from 'node:test';
import { packageFolder, readJson } from './heddle.mjs';

export const { bin, version } = readJson(join(packageFolder, 'package.json'));
export const program = join(packageFolder, bin.heddle);

/** What the commands write, gone when the file's tests are over. */
export const folder = mkdtempSync(join(tmpdir(), 'heddle-cli-'));
after(() => rmSync(folder, { recursive: true, force: true }));
export const out = (name) => join(folder, name);

/** Runs it: { code, stdout, stderr }. */
export function heddle(args, { env = {}, input } = {}) {
  return new Promise((done) => {
    const child = execFile(process.execPath, [program, ...args], { env: { ...process.env, ...env }, maxBuffer: 1 << 26 }, (error, stdout, stderr) => done({ code: error ? error.code : 0, stdout, stderr }));
    child.stdin.on('error', () => undefined); // it may have ended before it read anything
    child.stdin.end(input ?? '');
  });
}

export async function ok(args, options) {
  const result = await heddle(args, options);
  assert.equal(result.code, 0, result.stderr);
  return result;
}

export const json = async (args, options) => JSON.parse((await ok([...args, '--json'], options)).stdout);
