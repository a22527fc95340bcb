/**
 * chat.mjs: a conversation with a language model. What is said goes to stdout, everything else to stderr; what a line that begins with `/` does is a row of
 * `commands`.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { HeddleError, parseAssistant } from 'heddle';
import { UsageError, jsonOption } from './arguments.mjs';
import { readMessages } from './chat-input.mjs';
import { loadingOptions, openModel } from './model.mjs';
import { samplingOf, samplingOptions } from './sampling.mjs';
import { counted, say } from './text.mjs';
import { templateOf } from './tokenizer.mjs';

export const about = 'a conversation with a language model';
export const operands = [{ name: 'MODEL' }];
export const options = {
  system: { kind: 'text', takes: 'TEXT', about: 'what the model is told before the conversation' },
  template: { kind: 'text', takes: 'FILE', about: "a chat template (Jinja) instead of the model's, or the name of one of the model's" },
  set: { kind: 'text', takes: 'NAME=VALUE', many: true, about: 'a variable of the template, VALUE as JSON or a text: enable_thinking=false' },
  ...samplingOptions,
  ...loadingOptions,
  quiet: { kind: 'flag', about: 'no line of numbers after each answer' },
  json: { ...jsonOption.json, about: 'each answer as a line of JSON on stdout' },
};

const commands = {
  help: { about: 'these lines', run: () => note(commandHelp()) },
  reset: { about: 'forgets what was said, but for the system message', run: reset },
  undo: { about: 'takes back the last message and its answer', run: undo },
  regenerate: { about: 'answers the last message again', run: regenerate },
  system: { takes: 'TEXT', about: 'another system message, from here on; without TEXT none', run: setSystem },
  save: { takes: 'FILE', about: 'keeps the conversation', run: save },
  load: { takes: 'FILE', about: 'goes on with one that was kept', run: load },
  stats: { about: 'how long the conversation is', run: ({ stats }) => note(stats()) },
  exit: { about: 'leaves, as Ctrl-D does', run: () => 'leave' },
};

export const notes = `A line is a message, one that ends in \\ goes on in the next. Ctrl-C stops an answer, a second one leaves. In the conversation:\n\n${commandHelp()}\n\nA message that begins with / is written with two.`;

function commandHelp() {
  const rows = Object.entries(commands).map(([name, { takes, about: does }]) => [`/${name}${takes ? ` ${takes}` : ''}`, does]);
  return rows.map(([left, does]) => `  ${left.padEnd(14)}  ${does}`).join('\n');
}

const note = (text) => void process.stderr.write(`${text}\n`);

export async function run({ MODEL, system, template, set = [], quiet, json, ...rest }) {
  const interrupts = watchInterrupts();
  const { runtime, model } = await openModel(MODEL, rest, interrupts.begin());
  interrupts.end();
  const given = await templateOf(template);
  if (given === undefined && (await model.chatTemplate()) === undefined) throw new HeddleError('unsupported', `${MODEL} has no chat template: give one with --template FILE, or let a text go on: heddle generate ${MODEL} --prompt TEXT`);
  const sampling = samplingOf(rest);
  const chat = await model.createChat({ whenFull: 'slide', ...(system !== undefined && { system }), ...(given !== undefined && { template: given }), ...(set.length > 0 && { variables: variablesOf(set) }), ...sampling });
  const talk = { chat, system, sampling, interrupts, json, quiet, answers: 0, tokens: 0 };
  talk.stats = () => `${counted(chat.messages.length, 'message')}, ${counted(chat.position, 'token')} held${sampling.context === undefined ? '' : ` of ${sampling.context}`}; ${counted(talk.answers, 'answer')} of ${counted(talk.tokens, 'token')}; ${runtime.variant}, ${counted(model.threads, 'thread')}`;
  await converse(talk);
  await model.free();
  await runtime.free();
}

function variablesOf(pairs) {
  return Object.fromEntries(pairs.map((pair) => {
    const at = pair.indexOf('=');
    if (at < 1) throw new UsageError(`--set: expected NAME=VALUE, found '${pair}'`);
    return [pair.slice(0, at), jsonOr(pair.slice(at + 1))];
  }));
}

function jsonOr(text) {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

// ---- Messages and commands ----

/** Until the input ends. Whoever types sees what went wrong and goes on; a script ends with it. */
async function converse(talk) {
  const isTyped = process.stdin.isTTY;
  if (isTyped) note('/help lists what else there is. Ctrl-C stops an answer, Ctrl-D leaves.');
  for await (const line of readMessages(process.stdin, process.stderr, talk.interrupts.press)) {
    talk.interrupts.calm();
    try {
      if ((await heed(talk, line)) === 'leave') return;
    } catch (error) {
      if (!isTyped) throw error;
      note(`heddle: ${error.message}`);
    }
  }
}

function heed(talk, line) {
  const [, name, text] = /^\/(\w+)(?:\s+(.*?))?\s*$/s.exec(line) ?? [];
  if (name === undefined) return answer(talk, [{ role: 'user', content: line.replace(/^\/\//, '/') }]);
  if (!Object.hasOwn(commands, name)) throw new UsageError(`there is no /${name}; there are ${Object.keys(commands).map((each) => `/${each}`).join(', ')} (and // for a message that begins with /)`);
  if (commands[name].takes === 'FILE' && text === undefined) throw new UsageError(`/${name} FILE: which file?`);
  return commands[name].run(talk, text);
}

function reset({ chat, system }) {
  chat.setMessages(system === undefined ? [] : [{ role: 'system', content: system }]);
  note('nothing was said');
}

/** Takes the last message back with what came after it, and gives it; undefined where there is none. */
function takeBackTurn(chat) {
  const at = chat.messages.findLastIndex(({ role }) => role === 'user');
  if (at < 0) return undefined;
  const said = chat.messages[at];
  chat.takeBack(chat.messages.length - at);
  return said;
}

function undo({ chat }) {
  const said = takeBackTurn(chat);
  note(said ? `taken back: ${said.content}` : 'there is nothing to take back');
}

/** A seed is for one draw: answers that are made again get the next ones. */
async function regenerate(talk) {
  const { chat, sampling } = talk;
  const before = chat.messages;
  const said = takeBackTurn(chat);
  if (!said) return note('there is nothing to answer');
  if (!sampling.temperature) note('at temperature 0 it is the same answer');
  talk.again = (talk.again ?? 0) + 1;
  const isAnswered = await answer(talk, [said], sampling.seed === undefined ? {} : { seed: sampling.seed + talk.again }).catch((error) => {
    chat.setMessages(before);
    throw error;
  });
  if (!isAnswered) chat.setMessages(before);
}

function setSystem(talk, text) {
  talk.system = text;
  const rest = talk.chat.messages.filter(({ role }) => role !== 'system');
  talk.chat.setMessages([...(text === undefined ? [] : [{ role: 'system', content: text }]), ...rest]);
}

// ---- Files ----

async function readConversation(file) {
  try {
    const found = JSON.parse(await readFile(file, 'utf8'));
    return Array.isArray(found) ? found : found.messages;
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new HeddleError('bad_file', `${file}: ${error.message}`);
  }
}

/** Another conversation's file is written over, any other is not. */
async function save({ chat }, file) {
  const there = await readConversation(file).catch((error) => (error.code === 'ENOENT' ? [] : undefined));
  if (!Array.isArray(there)) throw new HeddleError('bad_argument', `${file} is there already, and is no conversation`);
  await writeFile(file, `${JSON.stringify(chat.messages, null, 2)}\n`);
  note(`${counted(chat.messages.length, 'message')} ${chat.messages.length === 1 ? 'is' : 'are'} in ${file}`);
}

async function load(talk, file) {
  const messages = await readConversation(file);
  try {
    talk.chat.setMessages(messages);
  } catch (error) {
    throw new HeddleError('bad_file', `${file}: ${error.message}`, { cause: error });
  }
  const [first] = messages;
  talk.system = first?.role === 'system' ? first.content : undefined;
  note(`${counted(messages.length, 'message')} of ${file}`);
}

// ---- Answers ----

/** Gives the model its turn and prints it as it is made; whether anything was said (an answer may be stopped before). */
async function answer(talk, said, more = {}) {
  const { chat, interrupts, json } = talk;
  if (Object.keys(more).length === 0) talk.again = 0;
  const signal = interrupts.begin();
  const turn = chat.send(said, { ...more, signal });
  let text = '';
  let count = 0;
  const start = performance.now();
  try {
    for await (const token of turn) {
      text += token.text;
      count += token.token < 0 ? 0 : 1; // -1: text that was held back
      if (!json) process.stdout.write(token.text);
      if (interrupts.isPressed) break;
      interrupts.begun();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    interrupts.end();
  }
  talk.answers++;
  talk.tokens += count;
  await report(talk, turn, { text, count, seconds: (performance.now() - start) / 1000 });
  return count > 0;
}

async function report({ json, quiet }, turn, { text, count, seconds }) {
  if (!json) say('');
  if (turn.usage === undefined) {
    if (json) say(JSON.stringify({ ...parseAssistant(text), finishReason: 'interrupted' }));
    if (!quiet) note(`[stopped after ${counted(count, 'token')}, ${seconds.toFixed(2)} s]`);
    return;
  }
  if (json) say(JSON.stringify(await turn.reply()));
  else if (!quiet) note(usageText(turn.usage));
}

function usageText({ tokens, tokensPerSecond, prefillTokens, reusedTokens, firstTokenSeconds, stop }) {
  const ended = stop === 'max_tokens' || stop === 'context' ? `; cut short: ${stop === 'context' ? 'the context is full (/undo, /reset or a larger --context)' : 'as many as --max-tokens allows'}` : '';
  return `[${counted(tokens, 'token')}, ${tokensPerSecond.toFixed(1)} a second; the first after ${firstTokenSeconds.toFixed(2)} s; of the prompt ${counted(reusedTokens, 'token')} reused, ${prefillTokens} computed${ended}]`;
}

// ---- Ctrl-C ----

/**
 * The first Ctrl-C stops what is going on, the next one leaves. An answer that has begun is left at its next token and stays; before that (`begin` … `begun`)
 * its work is aborted.
 */
function watchInterrupts() {
  const watch = { isPressed: false, abort: undefined };
  let isRunning = false;
  watch.press = () => {
    if (watch.isPressed) process.exit(130);
    watch.isPressed = true;
    if (!isRunning) return note('\n(Ctrl-C again leaves)');
    watch.abort?.abort(Object.assign(new Error('interrupted'), { name: 'AbortError' }));
  };
  watch.begin = () => {
    isRunning = true;
    watch.abort = new AbortController();
    return watch.abort.signal;
  };
  watch.begun = () => {
    watch.abort = undefined;
  };
  watch.end = () => {
    isRunning = false;
    watch.abort = undefined;
  };
  watch.calm = () => {
    watch.isPressed = false;
  };
  process.on('SIGINT', watch.press);
  return watch;
}
