/**
 * arguments.mjs: what a command takes, as a table: `operands` by name (the last may be `many`), `options` by name with their kind, the name of what they take and what they do.
 * The same table reads the command line and prints its help.
 */
import { parseArgs } from 'node:util';

/** A command line that means nothing: exit code 2. */
export class UsageError extends Error {}

/** Options of every command that opens a model by an address. */
export const sourceOptions = {
  cache: { kind: 'flag', about: 'keep what servers give and read from there the next time' },
  revision: { kind: 'text', takes: 'NAME', about: "a branch, tag or commit of a Hugging Face model; 'main' by default" },
  token: { kind: 'text', takes: 'TOKEN', about: 'sent to the server of the address; by default what HF_TOKEN says, to huggingface.co only' },
};

export const jsonOption = { json: { kind: 'flag', about: 'the result as JSON on stdout' } };

const help = { help: { kind: 'flag', about: 'this text' } };

function usageOf(name, { operands }) {
  const shown = operands.map(({ name: operand, optional, many }) => (optional ? `[${operand}${many ? ' …' : ''}]` : operand));
  return `heddle ${name} ${shown.join(' ')} [options]`;
}

export function helpOf(name, command) {
  const lines = Object.entries({ ...command.options, ...help }).map(([option, { takes, about, short }]) => [`${short ? `-${short}, ` : ''}--${option}${takes ? ` ${takes}` : ''}`, about]);
  const width = Math.max(...lines.map(([left]) => left.length));
  return `heddle ${name}: ${command.about}\n\nusage: ${usageOf(name, command)}\n\n${lines.map(([left, about]) => `  ${left.padEnd(width)}  ${about}`).join('\n')}\n${command.notes ? `\n${command.notes}\n` : ''}`;
}

const readers = {
  flag: () => true,
  text: (value) => value,
  number: (value, option) => {
    const number = Number(value);
    if (value.trim() === '' || !Number.isFinite(number)) throw new UsageError(`--${option}: expected a number, found '${value}'`);
    return number;
  },
  whole: (value, option) => {
    if (!/^\d+$/.test(value) || !Number.isSafeInteger(Number(value))) throw new UsageError(`--${option}: expected a whole number, found '${value}'`);
    return Number(value);
  },
  /** "500MB", "2GB", or bytes. */
  bytes: (value, option) => {
    const [, number, unit = ''] = /^(\d+(?:\.\d+)?)\s*([KMG]?B?)$/i.exec(value) ?? [];
    if (number === undefined) throw new UsageError(`--${option}: expected a size as 500MB or 2GB, found '${value}'`);
    return Math.floor(Number(number) * 1000 ** ' KMG'.indexOf(unit.toUpperCase()[0] === 'B' || unit === '' ? ' ' : unit.toUpperCase()[0]));
  },
};

/** Operands by name and options as values, of a command line. */
export function readArguments(name, command, args) {
  const table = { ...command.options, ...help };
  let parsed;
  try {
    parsed = parseArgs({
      args,
      allowPositionals: true,
      options: Object.fromEntries(Object.entries(table).map(([option, { kind, short, many }]) => [option, { type: kind === 'flag' ? 'boolean' : 'string', ...(short && { short }), ...(many && { multiple: true }) }])),
    });
  } catch (error) {
    throw new UsageError(error.message.split('. ')[0]);
  }
  const { operands } = command;
  const needed = operands.filter(({ optional }) => !optional);
  if (parsed.positionals.length < needed.length) throw new UsageError(`${needed[parsed.positionals.length].name} is missing: ${usageOf(name, command)}`);
  if (parsed.positionals.length > operands.length && !operands.at(-1)?.many) throw new UsageError(`'${parsed.positionals[operands.length]}' is one too many: ${usageOf(name, command)}`);
  const found = Object.fromEntries(operands.map(({ name: operand, many }, i) => [operand, many ? parsed.positionals.slice(i) : parsed.positionals[i]]));
  for (const [option, value] of Object.entries(parsed.values)) {
    const read = readers[table[option].kind];
    found[option] = Array.isArray(value) ? value.map((each) => read(each, option)) : read(value, option);
    if (table[option].among && !table[option].among.includes(found[option])) throw new UsageError(`--${option}: expected ${table[option].among.join(', ')}, found '${value}'`);
  }
  return found;
}

/** How a source is opened, from the options. A token goes to the origin that was named and no other. */
export function opening(source, { cache, revision, token }) {
  const isHub = /^https:\/\/huggingface\.co\//.test(source);
  const sent = token ?? (isHub ? process.env.HF_TOKEN : undefined);
  return { ...(cache && { cache: true }), ...(revision !== undefined && { revision }), ...(sent && { headers: { authorization: `Bearer ${sent}` } }) };
}
