/** generate.mjs: text from a language model, as it is made. */
import { init } from 'heddle';
import { UsageError, jsonOption, opening, sourceOptions } from './arguments.mjs';
import { readInput } from './input.mjs';
import { interruption, progressBar } from './progress.mjs';
import { printJson, say, warn } from './text.mjs';

export const about = 'text from a language model, as it is made';
export const operands = [{ name: 'MODEL' }];

/** Options that go to `generate` as they are, by the names there. */
const passed = {
  'max-tokens': 'maxTokens', temperature: 'temperature', 'top-k': 'topK', 'top-p': 'topP', 'min-p': 'minP', 'typical-p': 'typicalP', seed: 'seed',
  'repetition-penalty': 'repetitionPenalty', 'presence-penalty': 'presencePenalty', 'frequency-penalty': 'frequencyPenalty', stop: 'stop', 'ignore-end': 'ignoreEnd',
  context: 'context',
};

export const options = {
  prompt: { kind: 'text', short: 'p', takes: 'TEXT', about: 'how it begins; - or none reads stdin' },
  chat: { kind: 'flag', about: "the prompt is a user's message, put into the model's chat template" },
  system: { kind: 'text', takes: 'TEXT', about: 'a system message before it, with --chat' },
  'max-tokens': { kind: 'whole', short: 'n', takes: 'N', about: 'most tokens to make; by default up to the context' },
  temperature: { kind: 'number', short: 't', takes: 'T', about: '0 (the default): always the likeliest token' },
  'top-k': { kind: 'whole', takes: 'K', about: 'only the K likeliest tokens' },
  'top-p': { kind: 'number', takes: 'P', about: 'only the likeliest tokens whose probabilities reach P' },
  'min-p': { kind: 'number', takes: 'P', about: 'only tokens at least P times as likely as the likeliest' },
  'typical-p': { kind: 'number', takes: 'P', about: 'only the most typical tokens whose probabilities reach P' },
  'repetition-penalty': { kind: 'number', takes: 'R', about: 'above 1: tokens that came already are less likely' },
  'presence-penalty': { kind: 'number', takes: 'R', about: 'subtracted from the logits of tokens the text has' },
  'frequency-penalty': { kind: 'number', takes: 'R', about: 'the same, as often as the text has them' },
  seed: { kind: 'whole', takes: 'N', about: 'makes the draw repeatable' },
  stop: { kind: 'text', takes: 'TEXT', many: true, about: 'ends the text; may be given several times' },
  'ignore-end': { kind: 'flag', about: "goes on past the model's own end" },
  context: { kind: 'whole', takes: 'N', about: 'positions for prompt and text' },
  dtype: { kind: 'text', takes: 'DTYPE', about: "what matrices become while they are read: 'keep' (the default), 'f32', 'f16', 'q8_0', 'q4_0', 'int8', …" },
  threads: { kind: 'whole', takes: 'N', about: 'by default what the machine has' },
  stats: { kind: 'flag', about: 'tokens a second and the like on stderr' },
  ...jsonOption,
  ...sourceOptions,
};

export async function run({ MODEL, prompt, chat, system, dtype, threads, stats, json, cache, revision, token, ...rest }) {
  if (system !== undefined && !chat) throw new UsageError('--system is for --chat');
  const text = await readInput(prompt);
  const signal = interruption();
  const runtime = await init({ log: warn, ...(threads !== undefined && { threads }) });
  const bar = progressBar('loading');
  const model = await runtime.loadModel(MODEL, { ...opening(MODEL, { cache, revision, token }), signal, ...(dtype && { dtype }), ...(bar.tell && { progress: bar.tell }) });
  bar.done();
  const sampling = Object.fromEntries(Object.entries(passed).filter(([flag]) => rest[flag] !== undefined).map(([flag, name]) => [name, rest[flag]]));
  const start = chat ? await templated(model, text, system) : text;
  const generation = model.generate(start, { ...sampling, signal });
  let made = '';
  for await (const token of generation) {
    made += token.text;
    if (!json) process.stdout.write(token.text);
  }
  const { usage } = generation;
  if (json) printJson({ text: made, usage });
  else say('');
  if (stats) process.stderr.write(`${usage.tokens} tokens, ${usage.tokensPerSecond.toFixed(1)} a second; ${usage.prefillTokens} of the prompt in ${usage.prefillSeconds.toFixed(2)} s; ended by ${usage.stop}; ${runtime.variant}, ${model.threads} threads\n`);
  await model.free();
  await runtime.free();
}

function templated(model, text, system) {
  const messages = [...(system === undefined ? [] : [{ role: 'system', content: system }]), { role: 'user', content: text }];
  return model.applyChatTemplate(messages, { tokenize: true });
}
