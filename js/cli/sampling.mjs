/** sampling.mjs: how the next token is chosen and where a text ends: the options of every command that makes text. */

export const samplingOptions = {
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
};

/** Their names in the package's options. */
const names = {
  'max-tokens': 'maxTokens', temperature: 'temperature', 'top-k': 'topK', 'top-p': 'topP', 'min-p': 'minP', 'typical-p': 'typicalP', seed: 'seed',
  'repetition-penalty': 'repetitionPenalty', 'presence-penalty': 'presencePenalty', 'frequency-penalty': 'frequencyPenalty', stop: 'stop', 'ignore-end': 'ignoreEnd',
  context: 'context',
};

/** What `generate` and `createChat` take, of what the command line says. */
export function samplingOf(given) {
  return Object.fromEntries(Object.entries(names).filter(([flag]) => given[flag] !== undefined).map(([flag, name]) => [name, given[flag]]));
}
