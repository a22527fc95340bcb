/** input.mjs: texts from the command line, a file or stdin. */
import { readFile } from 'node:fs/promises';
import { UsageError } from './arguments.mjs';

/** The text itself; all of stdin where it is `-`, or is not given and stdin is no terminal. */
export async function readInput(text) {
  if (text !== undefined && text !== '-') return text;
  if (text === undefined && process.stdin.isTTY) throw new UsageError('there is no text: give one, or - and stdin');
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}

/** Texts that were given, or else a file's lines (`-`, or no file: stdin's); the last line's end begins no text of its own. */
export async function readTexts(given, file) {
  if (given.length > 0 && file !== undefined) throw new UsageError('texts are given, and a --file of texts: one or the other');
  if (given.length > 0) return given;
  const text = file === undefined || file === '-' ? await readInput(file) : await readFile(file, 'utf8');
  const lines = text.split(/\r?\n/);
  return lines.at(-1) === '' ? lines.slice(0, -1) : lines;
}
