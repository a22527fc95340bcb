/** text.mjs: how things are said: sizes, tables, JSON. */

const units = ['B', 'KB', 'MB', 'GB', 'TB'];

/** "28 GB": at most three digits; a KB is 1000 bytes. */
export function sizeText(bytes) {
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(bytes, 1)) / 3)));
  return `${Number((bytes / 1000 ** step).toPrecision(3))} ${units[step]}`;
}

/** So many of something: "1 file", "2 files". */
export const counted = (n, what) => `${n} ${what}${n === 1 ? '' : 's'}`;

/** Rows of texts as lines with columns; numbers stand at the right. */
export function table(head, rows) {
  const all = [head, ...rows].map((row) => row.map(String));
  const widths = head.map((_, column) => Math.max(...all.map((row) => row[column].length)));
  const isNumber = head.map((_, column) => rows.length > 0 && rows.every((row) => typeof row[column] === 'number'));
  return all.map((row) => row.map((cell, column) => (isNumber[column] ? cell.padStart(widths[column]) : cell.padEnd(widths[column]))).join('  ').trimEnd()).join('\n');
}

/** A row of comma-separated values, quoted where RFC 4180 wants that. */
export function csvRow(cells) {
  return cells.map((cell) => (/[",\r\n]/.test(String(cell)) ? `"${String(cell).replaceAll('"', '""')}"` : String(cell))).join(',');
}

export const shapeText = (shape) => `[${shape.join(', ')}]`;

/** JSON for scripts: bigints as numbers where they are exact, else as texts; infinity as a text. */
export function printJson(value) {
  const plain = (_, each) => {
    if (typeof each === 'bigint') return Number.isSafeInteger(Number(each)) ? Number(each) : String(each);
    return each === Infinity || each === -Infinity ? String(each) : each;
  };
  process.stdout.write(`${JSON.stringify(value, plain, 2)}\n`);
}

export const say = (text) => void process.stdout.write(`${text}\n`);
export const warn = (text) => void process.stderr.write(`warning: ${text}\n`);
