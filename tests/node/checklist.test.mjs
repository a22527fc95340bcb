/** docs/checklist.md: every row of the checklist that is said to be tested has its id in the title of a test in the file the row names. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { projectFolder } from './heddle.mjs';

const rows = readFileSync(join(projectFolder, 'docs/checklist.md'), 'utf8').split('\n').map((line) => line.match(/^\| ([A-Z]+\d+) \| (.+) \| `(.+)` \|$/)).filter(Boolean);

/** The titles in a file of tests: the first text of a call to a function that makes one, and the ids that a loop gives its titles. */
function titlesIn(file) {
  const text = readFileSync(join(projectFolder, file), 'utf8');
  const titles = [...text.matchAll(/\b(?:test|testOnEveryModule|TEST|REAL_TEST)\((['"`]?)((?:\\.|(?!\1[,)]).)*)/g)].map((found) => found[2]);
  const looped = titles.some((title) => title.includes('${id}')) ? [...text.matchAll(/\['([A-Z]+\d+(?: [A-Z]+\d+)*)',/g)].map((found) => found[1]) : [];
  return [...titles, ...looped];
}

test('docs/checklist.md names each id once', () => {
  assert.ok(rows.length >= 40, `${rows.length} rows`);
  assert.equal(new Set(rows.map(([, id]) => id)).size, rows.length);
});

for (const [, id, , file] of rows) {
  test(`checklist: ${id} is in a title of ${file}`, () => {
    assert.ok(existsSync(join(projectFolder, file)), file);
    assert.ok(titlesIn(file).some((title) => new RegExp(`\\b${id}\\b`).test(title.replaceAll('_', ' '))), `no test of ${file} is called ${id}`);
  });
}
