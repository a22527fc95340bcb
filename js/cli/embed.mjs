/** embed.mjs: texts as vectors, or texts in the order of how near they are to a query. */
import { UsageError, jsonOption } from './arguments.mjs';
import { readTexts } from './input.mjs';
import { loadingOptions, openModel } from './model.mjs';
import { interruption } from './progress.mjs';
import { csvRow, printJson, say, table } from './text.mjs';

export const about = 'texts as vectors, or ranked by their likeness to a query';
export const operands = [{ name: 'MODEL' }, { name: 'TEXT', optional: true, many: true }];
export const options = {
  file: { kind: 'text', short: 'f', takes: 'FILE', about: 'a text a line; - or none, and no TEXT, reads stdin' },
  query: { kind: 'text', short: 'q', takes: 'TEXT', about: 'ranks the texts by the cosine of their angle to this one' },
  top: { kind: 'whole', takes: 'N', about: 'with --query: how many of them; 10 by default' },
  pooling: { kind: 'text', takes: 'HOW', among: ['mean', 'cls', 'last', 'max', 'pooler'], about: "mean, cls, last, max or pooler; by default what the model's folder says, else mean" },
  normalize: { kind: 'flag', about: "vectors of length 1; by default what the model's folder says" },
  'no-normalize': { kind: 'flag', about: 'vectors as long as they come' },
  prefix: { kind: 'text', takes: 'TEXT', about: "put before each text, where the model wants that: 'passage: '" },
  'query-prefix': { kind: 'text', takes: 'TEXT', about: "put before the query: 'query: '" },
  'max-tokens': { kind: 'whole', short: 'n', takes: 'N', about: 'longer texts are cut to so many; by default what the model takes' },
  'no-truncate': { kind: 'flag', about: 'longer texts are an error' },
  ...loadingOptions,
  csv: { kind: 'flag', about: 'rows for a spreadsheet: the text and its numbers, or score, line and text' },
  ...jsonOption,
};
export const notes = 'A vector is a line of numbers. With --query a line is score, number of the text (from 1) and text, the nearest first.';

/** Texts that are embedded before any of them is printed. */
const piece = 256;

export async function run({ MODEL, TEXT, file, query, top, csv, json, prefix = '', 'query-prefix': queryPrefix = '', ...rest }) {
  checkTogether(rest, { query, top, csv, json, queryPrefix });
  const texts = await readTexts(TEXT, file);
  const signal = interruption();
  const { runtime, model } = await openModel(MODEL, rest, signal);
  const how = { ...howOf(rest), signal };
  const vectors = (some, before) => model.embed(some.map((text) => before + text), how);
  const format = json ? 'json' : csv ? 'csv' : 'text';
  if (query === undefined) await printVectors(writers[format], texts, (some) => vectors(some, prefix));
  else printRanking[format](query, await ranked(await vectors([query], queryPrefix), texts, (some) => vectors(some, prefix)).then((all) => all.slice(0, top ?? 10)));
  await model.free();
  await runtime.free();
}

function checkTogether({ normalize, 'no-normalize': long }, { query, top, csv, json, queryPrefix }) {
  if (csv && json) throw new UsageError('--csv and --json: one or the other');
  if (normalize && long) throw new UsageError('--normalize and --no-normalize: one or the other');
  if (query === undefined && top !== undefined) throw new UsageError('--top is for --query');
  if (query === undefined && queryPrefix !== '') throw new UsageError('--query-prefix is for --query');
}

function howOf({ pooling, normalize, 'no-normalize': long, 'max-tokens': maxTokens, 'no-truncate': whole }) {
  return {
    ...(pooling !== undefined && { pooling }),
    ...((normalize || long) && { normalize: normalize === true }),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(whole && { truncate: false }),
  };
}

/** A piece of the texts at a time, with their vectors. */
async function* embedded(texts, embed) {
  for (let start = 0; start < texts.length; start += piece) {
    const some = texts.slice(start, start + piece);
    for (const [i, vector] of (await embed(some)).entries()) yield { number: start + i + 1, text: some[i], vector };
  }
}

/** All texts, the nearest first; of two that are equally near the first. */
async function ranked([query], texts, embed) {
  const found = [];
  for await (const { number, text, vector } of embedded(texts, embed)) found.push({ number, text, score: cosine(query, vector) });
  return found.sort((a, b) => b.score - a.score || a.number - b.number);
}

function cosine(a, b) {
  const dot = (x, y) => x.reduce((sum, value, i) => sum + value * y[i], 0);
  return dot(a, b) / Math.max(Math.sqrt(dot(a, a) * dot(b, b)), 1e-12);
}

/** Float32 values as the shortest texts of nine digits that say them to the bit. */
const numbersOf = (vector) => Array.from(vector, (x) => Number(x.toPrecision(9)));

// ---- Vectors ----

const writers = {
  text: { begin: () => undefined, row: ({ vector }) => say(numbersOf(vector).join(' ')), end: () => undefined },
  csv: {
    begin: (width) => say(csvRow(['text', ...Array.from({ length: width }, (_, i) => i)])),
    row: ({ text, vector }) => say(csvRow([text, ...numbersOf(vector)])),
    end: () => undefined,
  },
  json: {
    begin: (width) => process.stdout.write(`{ "width": ${width}, "vectors": [`),
    row: ({ number, text, vector }) => process.stdout.write(`${number > 1 ? ',' : ''}\n  ${JSON.stringify({ text, vector: numbersOf(vector) })}`),
    end: () => say('\n] }'),
  },
};

async function printVectors({ begin, row, end }, texts, embed) {
  let isFirst = true;
  for await (const each of embedded(texts, embed)) {
    if (isFirst) begin(each.vector.length);
    isFirst = false;
    row(each);
  }
  if (isFirst) begin(0);
  end();
}

// ---- Rankings ----

const printRanking = {
  text: (_, found) => say(table(['score', 'line', 'text'], found.map(({ score, number, text }) => [score.toFixed(4), number, text]))),
  csv: (_, found) => [['score', 'line', 'text'], ...found.map(({ score, number, text }) => [score, number, text])].forEach((row) => say(csvRow(row))),
  json: (query, found) => printJson({ query, results: found.map(({ number, score, text }) => ({ line: number, score, text })) }),
};
