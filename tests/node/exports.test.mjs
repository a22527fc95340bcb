/** What modules export, what src/exports.txt lists and what ts/ calls is the same. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { packageFolder, projectFolder } from './heddle.mjs';

const listed = readFileSync(join(projectFolder, 'src/exports.txt'), 'utf8').split('\n').filter((line) => /^\w/.test(line)).map((line) => line.trim());

const names = ['simd128', 'simd128-threads', 'relaxed', 'relaxed-threads'];

/** The names a module exports, read from its export section: this Node may not compile it. */
function exportsOf(bytes) {
  let at = 8;
  const number = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const section = bytes[at++];
    const end = number() + at;
    if (section === 7) {
      return Array.from({ length: number() }, () => {
        const length = number();
        const name = bytes.toString('utf8', at, at + length);
        at += length + 1;
        number();
        return name;
      });
    }
    at = end;
  }
  return [];
}

for (const name of names) {
  test(`heddle-${name}.wasm exports what src/exports.txt lists, and what a start needs`, () => {
    const exported = exportsOf(readFileSync(join(packageFolder, `dist/wasm/heddle-${name}.wasm`)));
    assert.deepEqual(exported.filter((entry) => entry.startsWith('w_')).sort(), [...listed].sort());
    const rest = exported.filter((entry) => !entry.startsWith('w_') && entry !== '__indirect_function_table');
    const threaded = ['__stack_pointer', '__wasm_init_tls', '__tls_size', '__set_thread_state'];
    assert.ok(rest.includes('_initialize'));
    assert.equal(rest.includes('__stack_pointer'), name.endsWith('-threads'), 'this is how the loader knows threads');
    // Emscripten adds what it likes about its stack.
    assert.deepEqual(rest.filter((entry) => entry !== '_initialize' && !/^_?emscripten_stack_/.test(entry) && !threaded.includes(entry)), []);
  });
}

test('ts/ calls every export of src/exports.txt and no other', () => {
  const folder = join(projectFolder, 'ts');
  const called = new Set();
  for (const file of readdirSync(folder).filter((entry) => entry.endsWith('.ts'))) {
    for (const [, name] of readFileSync(join(folder, file), 'utf8').matchAll(/\b(?:x|exports)\.(w_\w+)/g)) called.add(name);
  }
  assert.deepEqual([...called].sort(), [...listed].sort());
});

test('src/wasm.c defines every export of src/exports.txt', () => {
  const defined = [...readFileSync(join(projectFolder, 'src/wasm.c'), 'utf8').matchAll(/^[a-z][\w *]*?[ *](w_\w+)\(/gm)].map(([, name]) => name);
  assert.deepEqual(defined.sort(), [...listed].sort());
});
