/** generate.mjs: text from a language model, as it is made. */
import { UsageError, jsonOption } from './arguments.mjs';
import { readInput } from './input.mjs';
import { loadingOptions, openModel } from './model.mjs';
import { interruption } from './progress.mjs';
import { samplingOf, samplingOptions } from './sampling.mjs';
import { counted, printJson, say } from './text.mjs';
import { templateOf } from './tokenizer.mjs';

export const about = 'text from a language model, as it is made';
export const operands = [{ name: 'MODEL' }];

export const options = {
  prompt: { kind: 'text', short: 'p', takes: 'TEXT', about: 'how it begins; - or none reads stdin' },
  chat: { kind: 'flag', about: "the prompt is a user's message, put into the model's chat template" },
  system: { kind: 'text', takes: 'TEXT', about: 'a system message before it, with --chat' },
  template: { kind: 'text', takes: 'FILE', about: "with --chat: a chat template (Jinja) instead of the model's, or the name of one of the model's" },
  ...samplingOptions,
  ...loadingOptions,
  stats: { kind: 'flag', about: 'tokens a second and the like on stderr' },
  ...jsonOption,
};

export async function run({ MODEL, prompt, chat, system, template, stats, json, ...rest }) {
  for (const [flag, value] of Object.entries({ system, template })) if (value !== undefined && !chat) throw new UsageError(`--${flag} is for --chat`);
  const given = await templateOf(template);
  const text = await readInput(prompt);
  const signal = interruption();
  const { runtime, model } = await openModel(MODEL, rest, signal);
  const start = chat ? await templated(model, text, system, given) : text;
  const generation = model.generate(start, { ...samplingOf(rest), signal });
  let made = '';
  for await (const token of generation) {
    made += token.text;
    if (!json) process.stdout.write(token.text);
  }
  const { usage } = generation;
  if (json) printJson({ text: made, usage });
  else say('');
  if (stats) process.stderr.write(`${counted(usage.tokens, 'token')}, ${usage.tokensPerSecond.toFixed(1)} a second; ${usage.prefillTokens} of the prompt in ${usage.prefillSeconds.toFixed(2)} s; ended by ${usage.stop}; ${runtime.variant}, ${counted(model.threads, 'thread')}\n`);
  await model.free();
  await runtime.free();
}

function templated(model, text, system, template) {
  const messages = [...(system === undefined ? [] : [{ role: 'system', content: system }]), { role: 'user', content: text }];
  return model.applyChatTemplate(messages, { tokenize: true, ...(template !== undefined && { template }) });
}
