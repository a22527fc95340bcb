/** story.js: the story teller, and any model that continues a text: prompt and settings in, a text that streams out until it ends or is stopped. */
import { showMemory, showSpeed } from './figures.js';
import { byId, counted, dismissErrors, grow, showError, weave, wireTemperature } from './page.js';
import { Stream } from './stream.js';

/** At reading pace a token is shown this long after the one before, at the earliest. */
const paceMs = 32;

const tell = byId('tell');
const stop = byId('stop');
const shuttle = byId('shuttle');
const status = byId('tale-status');
const text = byId('tale-text').appendChild(new Text());
const live = byId('tale-live');

let model;
/** Ends the story being told; undefined between stories. */
let running;

/** `title` says what the model does with a beginning. */
export function useModel(loaded, title) {
  model = loaded;
  byId('story-title').textContent = title;
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
  text.data = '';
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
  const told = new Stream(live, (all, tokens) => {
    grow(text, all);
    weave(byId('story-bar'), tokens / options.maxTokens);
    return all;
  });
  const generation = model.generate(prompt, options);
  let nextAt = 0; // when the next token may be shown
  try {
    for (;;) {
      const { done, value } = await told.wait(generation.next());
      if (done) break;
      told.add(value);
      nextAt = Math.max(nextAt, performance.now() - paceMs) + paceMs;
      if (byId('pace').checked) await pause(nextAt - performance.now(), options.signal);
    }
  } catch (error) {
    if (error.name !== 'AbortError') showError(error);
  }
  told.end(generation.usage);
  if (generation.usage || told.text !== '') showEnd(generation.usage?.stop, told.tokens, options);
  else if (options.signal.aborted) status.textContent = 'Stopped before the text began.';
  await showMemory(model).catch(() => undefined); // freed meanwhile
}

/** Why the text ended; `stop` is undefined for one that was cut short. */
function showEnd(stop, tokens, { seed, temperature }) {
  if (stop === 'end') weave(byId('story-bar'), 1);
  const why = { end: 'The end', max_tokens: `Cut at ${counted(tokens, 'token')}`, context: 'The model’s memory is full' }[stop] ?? 'Stopped';
  status.textContent = temperature > 0 ? `${why}. Seed ${seed} tells it again.` : `${why}.`;
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
  wireTemperature('temperature');
  if (/Mac|iPhone|iPad/.test(navigator.platform)) byId('tell-key').textContent = '⌘';
  if (matchMedia('(prefers-reduced-motion: reduce)').matches) byId('pace').checked = false;
}
