/** The arrows of docs/architecture.md: who may include or import whom, read from the lines themselves. */
import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { basename, dirname, extname, join, normalize, relative } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** What the files of a folder of src/ may include besides their own folder's. heddle.h is for everyone and includes nothing of ours. */
const mayInclude = {
  base: [],
  format: ['base'],
  kernels: ['base'],
  layers: ['kernels', 'base'],
  graph: ['layers', 'kernels', 'format', 'base'],
  run: ['graph', 'layers', 'kernels', 'base'],
  'wasm.c': ['base'],
  'loom.c': ['base', 'loom.h'],
};

/** What the files of a folder may import, besides files of their own folder. */
const mayImport = {
  // The build puts the module's bytes into heddle/inline under that name.
  ts: (to, from) => (from === 'ts/tokenizer-library.ts' && to === '@huggingface/tokenizers') || (from === 'ts/jinja.ts' && to === '@huggingface/jinja') || (from === 'ts/inline.ts' && to === 'heddle-simd128.wasm'),
  // The page is served as it lies: no bundler, so it names the package's entries by their addresses.
  demo: (to) => /^\.\.\/dist\/(index|worker)\.js$/.test(to),
  js: (to) => /^(heddle(\/|$)|node:)/.test(to),
  tools: (to) => /^node:/.test(to) || to === 'esbuild',
};

/** The folders whose scripts a browser loads. */
const inBrowsers = ['ts', 'demo'];

/** Files of the project below a folder, as paths from its root. */
function files(folder, extensions) {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && extensions.includes(extname(entry.name)))
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)).replaceAll('\\', '/'))
    .sort();
}

const scripts = ['.ts', '.mts', '.js', '.mjs'];
const sources = [
  ...files('src', ['.c', '.h', '.txt']),
  ...['ts', 'js', 'demo', 'tools'].flatMap((folder) => files(folder, [...scripts, '.html', '.css'])),
  ...files('tests', ['.c', '.h', '.py', '.html', ...scripts]),
];

const text = (file) => readFileSync(join(root, file), 'utf8');

/** The script without comments, so that an example in one is no import. */
const code = (file) => text(file).replace(/\/\*[\s\S]*?\*\//g, '').replace(/(^|\s)\/\/.*$/gm, '$1');

/** What the script imports, statically and dynamically. */
function imports(file) {
  const patterns = [/^\s*(?:import|export)\s[^;'"]*?from\s*['"]([^'"]+)['"]/gm, /^\s*import\s*['"]([^'"]+)['"]/gm, /\bimport\(\s*['"]([^'"]+)['"]/g];
  return patterns.flatMap((pattern) => [...code(file).matchAll(pattern)].map((match) => match[1]));
}

/** Lines "file:number: line" of the files that match; the message of what they break. */
function linesThat(list, pattern) {
  return list.flatMap((file) => text(file).split('\n').flatMap((line, i) => (pattern.test(line) ? [`${file}:${i + 1}: ${line.trim()}`] : [])));
}

const none = (found, what) => assert.deepEqual(found, [], what);

test('every include in src/ follows an arrow of docs/architecture.md', () => {
  const bad = [];
  let n = 0;
  for (const file of files('src', ['.c', '.h'])) {
    const own = file.split('/')[1];
    for (const [, to] of text(file).matchAll(/^\s*#\s*include\s+"([^"]+)"/gm)) {
      n++;
      const allowed = file !== 'src/heddle.h' && (to === 'heddle.h' || to.startsWith(`${own}/`) || mayInclude[own]?.includes(to.split('/')[0]));
      if (!allowed) bad.push(`${file} includes ${to}`);
    }
  }
  none(bad, 'arrows that are not in the table');
  assert.ok(n > 100, `read only ${n} includes`);
});

test('the table of allowed includes is the one docs/architecture.md prints', () => {
  const printed = [...text('docs/architecture.md').matchAll(/^\| `src\/(\w+)\/` \|.*\| ([^|]+) \|$/gm)];
  assert.equal(printed.length, 6);
  for (const [, folder, list] of printed) {
    const names = list.trim() === '`heddle.h`' ? [] : list.split(',').map((name) => name.trim());
    assert.deepEqual(names.sort(), [...mayInclude[folder]].sort(), `src/${folder}`);
  }
});

test('system headers that know files, threads or the browser are included where the table says what the folder does', () => {
  const pure = ['format', 'kernels', 'layers', 'graph', 'run'].flatMap((folder) => files(`src/${folder}`, ['.c', '.h']));
  none(linesThat(pure, /#\s*include\s*<(pthread|stdatomic|emscripten|unistd|fcntl|sys\/)/), 'only src/base/ and src/wasm.c know the host');
});

test('ts/, js/, demo/ and tools/ import only their own files and what their row allows', () => {
  const bad = [];
  let n = 0;
  for (const [folder, allows] of Object.entries(mayImport)) {
    for (const file of files(folder, scripts)) {
      for (const to of imports(file)) {
        n++;
        const own = to.startsWith('.') && normalize(join(dirname(file), to)).replaceAll('\\', '/').startsWith(`${folder}/`);
        if (!own && !allows(to, file)) bad.push(`${file} imports ${to}`);
      }
    }
  }
  none(bad, 'imports that are not in the table');
  assert.ok(n > 60, `read only ${n} imports`);
});

/** The one file that is loaded when it is first used. */
const late = "import('./jinja.js')";

test('what browsers load has no node: import and no dynamic import but that of the template engine', () => {
  const bad = [];
  for (const file of inBrowsers.flatMap((folder) => files(folder, scripts))) {
    if (imports(file).some((to) => to.startsWith('node:'))) bad.push(`${file}: a node: import`);
    const script = file === 'ts/chat-template.ts' ? code(file).replace(late, '') : code(file);
    if (/\bimport\s*\(|\brequire\s*\(/.test(script)) bad.push(`${file}: a dynamic import`);
  }
  none(bad, 'bundlers and edge hosts would trip over it');
});

test('only ts/memory.ts touches an instance\'s heap', () => {
  const bad = [];
  for (const file of files('ts', scripts).filter((file) => file !== 'ts/memory.ts')) {
    // host.ts asks a memory of its own, which no instance has, whether it can be shared.
    const script = code(file).replace(/const memory = new WebAssembly\.Memory\(\{ initial: 1, maximum: 1[^}]*\}\);[\s\S]*?\n  \}/, '');
    if (/memory(\(\))?\??\.buffer|\bHEAP(U?\d+|F\d+)\b/i.test(script)) bad.push(file);
  }
  none(bad, 'files that make views of the heap');
});

test('no source line names a machine path', () => {
  const machine = new RegExp(['/home/', '/Users/', '/work/', '/root/', '/mnt/', '[A-Z]:\\\\\\\\?Users'].map((path) => `(?<![\\w.*-])${path}`).join('|'));
  none(linesThat(sources.filter((file) => file !== 'tests/node/layering.test.mjs'), machine), 'lines that hold on one machine only');
});

test('no source file is longer than 1,000 lines', () => {
  none(sources.filter((file) => text(file).split('\n').length > 1001), 'files with two subjects');
});

test('no line of src/ is wider than 140 characters', () => {
  none(linesThat(files('src', ['.c', '.h']), /^.{141}/u), 'lines to be broken by sense');
});

test('the table of layer types names the file that each row is in', () => {
  const table = text('src/layers/layer.c');
  const rows = [...table.matchAll(/^ {2}&hd_layer_(\w+),\s*\/\* (\S+\.c)\b/gm)].map(([, row, file]) => ({ row, file: `src/layers/${file}` }));
  assert.equal(rows.length, table.match(/^ {2}&hd_layer_/gm).length, 'rows that name a file');
  const there = files('src/layers', ['.c']);
  // A row is written out, or by a macro whose first argument is the type.
  const isIn = ({ row, file }) => there.includes(file) && new RegExp(`^(const hd_layer hd_layer_|[A-Z]+\\()${row}\\b`, 'm').test(text(file));
  none(rows.filter((each) => !isIn(each)).map(({ row, file }) => `${row} is not in ${file}`), 'rows of other files');
});

test('no source file is called utils, helpers, common or misc', () => {
  none(sources.filter((file) => /^(utils?|helpers?|common|misc)$/i.test(basename(file).replace(/\..*$/, ''))), 'names that say nothing');
});

test('every file of tests that run on every module is in one suite of the relaxed modules', () => {
  const folder = join(root, 'tests/node');
  const names = readdirSync(folder).filter((name) => name.endsWith('.test.mjs'));
  const text = (name) => readFileSync(join(folder, name), 'utf8');
  const suites = names.filter((name) => name.endsWith('.relaxed.test.mjs'));
  const imported = suites.flatMap((name) => [...text(name).matchAll(/^import '\.\/(.*)';$/gm)].map(([, file]) => file));
  const wanted = names.filter((name) => !suites.includes(name) && /^import \{[^}]*\btestOnEveryModule\b[^}]*\} from '\.\/heddle\.mjs';$/m.test(text(name)));
  assert.ok(wanted.length > 30);
  assert.deepEqual(wanted.filter((name) => !imported.includes(name)), [], 'in none');
  assert.deepEqual(imported.filter((name, i) => imported.indexOf(name) !== i), [], 'in two');
});
