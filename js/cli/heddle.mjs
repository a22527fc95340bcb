#!/usr/bin/env node
/**
 * heddle: the command line. Each command is a file beside this one; what they say to people goes to stderr, what they were asked for to stdout.
 */
import { readFileSync } from 'node:fs';
import { HeddleError } from 'heddle';
import { UsageError, helpOf, readArguments } from './arguments.mjs';
import * as cache from './cache.mjs';
import * as chat from './chat.mjs';
import * as convert from './convert.mjs';
import * as embed from './embed.mjs';
import * as generate from './generate.mjs';
import * as inspect from './inspect.mjs';
import * as tokenize from './tokenize.mjs';
import * as trace from './trace.mjs';

const commands = { inspect, convert, trace, generate, chat, embed, tokenize, cache };

/** What a script can tell apart. docs/cli.md says the same. */
const exitCodes = { ok: 0, check: 1, usage: 2, input: 3, failure: 4, interrupted: 130 };

const overview = `heddle: neural networks in WebAssembly

usage: heddle COMMAND …

${Object.entries(commands).map(([name, { about }]) => `  ${name.padEnd(10)} ${about}`).join('\n')}

  heddle COMMAND --help   what a command takes
  heddle --version

Models are files, folders, addresses (https://…), or ids (org/name) that lie in Hugging Face's cache.
Exit codes: 0 done, 1 a check failed, 2 wrong usage, 3 an input that cannot be read or used, 4 anything else, 130 interrupted.
`;

function version() {
  return JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')).version;
}

async function run([name, ...rest]) {
  if (name === '--version' || name === '-v') return print(`${version()}\n`);
  if (name === undefined || name === '--help' || name === '-h' || name === 'help') {
    print(overview);
    return name === undefined ? exitCodes.usage : exitCodes.ok;
  }
  const command = Object.hasOwn(commands, name) ? commands[name] : undefined;
  if (!command) throw new UsageError(`there is no command '${name}'; there are ${Object.keys(commands).join(', ')}`);
  if (rest.includes('--help') || rest.includes('-h')) return print(helpOf(name, command));
  return command.run(readArguments(name, command, rest));
}

function print(text) {
  process.stdout.write(text);
  return exitCodes.ok;
}

const flagOf = (option) => `--${option.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** An error of the package in the command line's words: options are flags there, and a dtype that does not exist is wrong usage. */
function worded(error, { options = {} } = {}) {
  if (!(error instanceof HeddleError)) return error;
  const has = (flag) => Object.hasOwn(options, flag.slice(2));
  const message = error.message.replace(/\boptions\.(\w+)/g, (whole, option) => (has(flagOf(option)) ? flagOf(option) : whole));
  const isDtype = error.code === 'bad_argument' && has('--dtype') && /^dtype\b/.test(message);
  return isDtype ? new UsageError(`--${message}`) : new HeddleError(error.code, message, { cause: error });
}

/** The code of an error; the message has been put into words already where it is one of ours. */
function codeOf(error) {
  if (error instanceof UsageError) return exitCodes.usage;
  if (error?.name === 'AbortError') return exitCodes.interrupted;
  if (error instanceof HeddleError && ['bad_file', 'unsupported', 'bad_argument', 'bad_state'].includes(error.code)) return exitCodes.input;
  return ['ENOENT', 'ENOTDIR', 'EISDIR', 'EACCES'].includes(error?.code) ? exitCodes.input : exitCodes.failure;
}

// A reader that has seen enough (`heddle inspect … | head`) is no error.
process.stdout.on('error', (error) => {
  if (error.code === 'EPIPE') process.exit(exitCodes.ok);
  throw error;
});

const args = process.argv.slice(2);
try {
  process.exitCode = (await run(args)) ?? exitCodes.ok;
} catch (thrown) {
  const error = worded(thrown, Object.hasOwn(commands, args[0]) ? commands[args[0]] : {});
  const isOurs = error instanceof UsageError || error instanceof HeddleError || error?.name === 'AbortError' || error?.code !== undefined;
  process.stderr.write(`heddle: ${isOurs ? error.message : (error?.stack ?? error)}\n`);
  if (error instanceof UsageError) process.stderr.write(`try: heddle ${Object.hasOwn(commands, args[0]) ? `${args[0]} ` : ''}--help\n`);
  process.exitCode = codeOf(error);
}
