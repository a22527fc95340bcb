/** figures.js: the live numbers beside the stage. */
import { byId, bytes, count, milliseconds } from './page.js';

const set = (name, text) => {
  byId(`figure-${name}`).textContent = text;
};

/** What stays the same while a model is loaded, and its memory, which does not. */
export async function showModel(runtime, model, name) {
  set('model', name);
  set('parameters', count(model.weights.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0)));
  set('module', runtime.threads > 1 && runtime.variant !== 'given' ? `${runtime.variant}-threads` : runtime.variant);
  set('threads', runtime.threads > model.threads ? `${model.threads} of ${runtime.threads}` : String(model.threads));
  await showMemory(model);
}

/** A file that is only looked into. */
export function showFile(name, tensors) {
  set('model', name);
  set('parameters', count(tensors.reduce((sum, { numel }) => sum + numel, 0)));
  set('memory', '–');
  set('threads', '–');
  showSpeed({});
}

export async function showMemory(model) {
  set('memory', bytes((await model.memory()).heap));
}

/** How a text goes; what is not known yet is undefined. `prompt` says how many tokens of the prompt were computed, and how many were kept from before. */
export function showSpeed({ tokens, tokensPerSecond, firstToken, prompt }) {
  set('tokens', tokens === undefined ? '–' : count(tokens));
  set('speed', tokensPerSecond === undefined ? '–' : tokensPerSecond < 10 ? tokensPerSecond.toFixed(1) : count(tokensPerSecond));
  set('first', firstToken === undefined ? '–' : milliseconds(firstToken));
  set('prompt', prompt === undefined ? '–' : `${count(prompt.prefillTokens)} read${prompt.reusedTokens > 0 ? `, ${count(prompt.reusedTokens)} kept` : ''}`);
}
