/** The packed package in Node: every entry, from an application's own folder. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { before, describe, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import { addModels, assertReport, makeApp, needsPackage } from './app.mjs';

const run = promisify(execFile);

describe('in Node', needsPackage, () => {
  let app;
  before(() => {
    app = makeApp('node');
    addModels(join(app, 'models'));
  });

  for (const entry of ['heddle', 'heddle/worker', 'heddle/inline', 'heddle/edge']) {
    test(`${entry} loads, runs, and lets the process end`, async () => {
      // Killed after a minute: a process that is kept alive is a failure, not a wait.
      const { stdout } = await run(process.execPath, ['app.mjs', entry, join(app, 'models')], { cwd: app, timeout: 60_000 });
      const report = JSON.parse(stdout.trim().split('\n').at(-1));
      assertReport(report);
      assert.equal(report.from, pathToFileURL(join(app, 'node_modules/heddle/dist/index.js')).href, 'the packed package, not the project around it');
      assert.equal(report.isOurs, 'bad_file');
      if (entry === 'heddle/worker') assert.equal(report.threads, 2);
    });
  }
});
