/** story.js: the story teller: prompt and settings in, a story that streams out, until it ends or is stopped. */
import { showMemory, showSpeed } from './figures.js';
import { byId, count, dismissErrors, showError, weave } from './page.js';

/** At reading pace a token is shown this long after the one before, at the earliest. */
const paceMs = 32;

const tell = byId('tell');
const stop = byId('stop');
const shuttle = byId('shuttle');
const status = byId('tale-status');
const text = byId('tale-text');
const live = byId('tale-live');

let model;
/** Ends the story being told; undefined between stories. */
let running;

export function useModel(loaded) {
  model = loaded;
  clear('');
  status.textContent = '';
  showSpeed({});
}

/** Resolves when nothing is being told any more. True when something was. */
export async function stopTelling() {
  if (!running) return false;
  running.abort.abort();
  await running.done;
  return true;
}

function clear(prompt) {
  byId('tale-prompt').textContent = prompt;
  text.textContent = '';
  live.textContent = '';
  weave(byId('story-bar'), 0);
}

/** The settings as `generate` wants them; undefined (and the browser says why) when a field is wrong. */
function settings() {
  if (!byId('tell-form').reportValidity()) return undefined;
  const seed = byId('seed').value;
  return {
    maxTokens: byId('length').valueAsNumber,
    temperature: byId('temperature').valueAsNumber,
    seed: seed === '' ? crypto.getRandomValues(new Uint32Array(1))[0] : Number(seed),
  };
}

/** Tell and Stop take each other's place; whoever had the keyboard keeps it. */
function setTelling(on) {
  const hadFocus = [tell, stop].includes(document.activeElement);
  tell.hidden = on;
  stop.hidden = !on;
  shuttle.hidden = !on;
  if (hadFocus) (on ? stop : tell).focus();
  byId('tale').setAttribute('aria-busy', String(on));
  document.body.classList.toggle('weaving', on);
}

function startTelling() {
  const options = settings();
  if (!options || !model || running) return;
  dismissErrors();
  const abort = new AbortController();
  const done = tellStory(byId('prompt').value, { ...options, signal: abort.signal }).finally(() => {
    running = undefined;
    setTelling(false);
  });
  running = { abort, done };
}

async function tellStory(prompt, options) {
  clear(prompt);
  setTelling(true);
  status.textContent = '';
  const told = new Telling(options.maxTokens);
  const generation = model.generate(prompt, options);
  try {
    for (;;) {
      const { done, value } = await told.wait(generation.next());
      if (done) break;
      told.add(value);
      if (byId('pace').checked) await pause(told.nextAt - performance.now(), options.signal);
    }
    told.end(generation.usage, options);
  } catch (error) {
    if (error.name !== 'AbortError') showError(error);
    told.end(undefined, options);
  }
  await showMemory(model).catch(() => undefined); // freed meanwhile
}

/** One story on its way: what is shown, what is read out, and the figures. */
class Telling {
  tokens = 0;
  nextAt = 0;
  #start = performance.now();
  #waited = 0; // milliseconds the model took, without those the pace did
  #firstToken;
  #maxTokens;
  #unread = '';
  #frame = 0;
  #pending = '';

  constructor(maxTokens) {
    this.#maxTokens = maxTokens;
  }

  async wait(next) {
    const from = performance.now();
    const result = await next;
    // The first token comes after the prompt is read: that is its own figure.
    if (this.#firstToken === undefined) this.#firstToken = performance.now() - this.#start;
    else this.#waited += performance.now() - from;
    return result;
  }

  add({ token, text: piece }) {
    if (token >= 0) this.tokens++;
    this.nextAt = Math.max(this.nextAt, performance.now() - paceMs) + paceMs;
    this.#pending += piece;
    this.#unread += piece;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  /** Once a frame, however many tokens came. Screen readers get whole sentences. */
  #show() {
    this.#frame = 0;
    text.append(this.#pending);
    this.#pending = '';
    weave(byId('story-bar'), this.tokens / this.#maxTokens);
    showSpeed({ tokens: this.tokens, firstToken: this.#firstToken, tokensPerSecond: this.tokens > 1 && this.#waited > 5 ? (1000 * this.tokens) / this.#waited : undefined });
    const sentence = /^[^]*[.!?]["”’)]?\s/.exec(this.#unread)?.[0];
    if (sentence) this.#read(sentence);
  }

  #read(sentence) {
    this.#unread = this.#unread.slice(sentence.length);
    const line = document.createElement('p');
    line.textContent = sentence.trim();
    live.append(line);
  }

  /** `usage` is undefined for a story that was cut short. */
  end(usage, { seed, temperature }) {
    cancelAnimationFrame(this.#frame);
    this.#show();
    if (this.#unread.trim()) this.#read(this.#unread);
    text.normalize();
    const tokensPerSecond = usage?.tokensPerSecond ?? (this.#waited > 5 ? (1000 * this.tokens) / this.#waited : undefined);
    showSpeed({ tokens: this.tokens, firstToken: this.#firstToken, tokensPerSecond });
    if (usage?.stop === 'end') weave(byId('story-bar'), 1);
    const why = { end: 'The end', max_tokens: `Cut at ${count(this.tokens)} tokens`, context: 'The model’s memory is full' }[usage?.stop] ?? 'Stopped';
    status.textContent = temperature > 0 ? `${why}. Seed ${seed} tells it again.` : `${why}.`;
  }
}

/** Waits, but not longer than until the signal. */
function pause(ms, signal) {
  if (ms <= 0) return undefined;
  return new Promise((done) => {
    const timer = setTimeout(done, ms);
    signal.addEventListener('abort', () => {
      clearTimeout(timer);
      done();
    }, { once: true });
  });
}

// ---- Controls ----

export function wireStory() {
  byId('tell-form').addEventListener('submit', (event) => {
    event.preventDefault();
    startTelling();
  });
  stop.addEventListener('click', () => void stopTelling());
  byId('story').addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      startTelling();
    }
  });
  const temperature = byId('temperature');
  const showTemperature = () => {
    byId('temperature-value').textContent = temperature.valueAsNumber.toFixed(2).replace(/0$/, '');
  };
  temperature.addEventListener('input', showTemperature);
  showTemperature();
  if (/Mac|iPhone|iPad/.test(navigator.platform)) byId('tell-key').textContent = '⌘';
  if (matchMedia('(prefers-reduced-motion: reduce)').matches) byId('pace').checked = false;
}
