/** input.mjs: a text from the command line or from stdin. */
import { UsageError } from './arguments.mjs';

/** The text itself; all of stdin where it is `-`, or is not given and stdin is no terminal. */
export async function readInput(text) {
  if (text !== undefined && text !== '-') return text;
  if (text === undefined && process.stdin.isTTY) throw new UsageError('there is no text: give one, or - and stdin');
  const chunks = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  return Buffer.concat(chunks).toString('utf8');
}
