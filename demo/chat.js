/** chat.js: a conversation with a model that has a chat template: what was said, the answer as it comes, its thinking folded away. */
import { parseAssistant } from '../dist/index.js';
import { showMemory, showSpeed } from './figures.js';
import { byId, dismissErrors, element, grow, showError, wireTemperature } from './page.js';
import { Stream } from './stream.js';

const say = byId('say');
const send = byId('send');
const hush = byId('hush');
const status = byId('talk-status');
const talk = byId('talk');
const turns = byId('turns');

let model;
/** The template's text begins the model's thinking itself (DeepSeek's does): the answer's first words are thoughts. */
let mayOpenThinking;
/** The conversation, from its first message on, and the system prompt it has. */
let chat;
let system;
/** Ends the answer on its way; undefined between answers. */
let running;

export async function useChatModel(loaded) {
  mayOpenThinking = (await loaded.chatTemplate()).includes('<think>');
  model = loaded;
  chat = undefined; // it went with its model
  showNothingSaid();
  showSpeed({});
}

function showNothingSaid() {
  turns.replaceChildren();
  byId('talk-live').replaceChildren();
  byId('talk-empty').hidden = false;
  byId('clear').disabled = true;
  sayNothing();
}

function sayNothing() {
  status.textContent = '';
  byId('talk-full').hidden = true;
}

/** Resolves when no answer is on its way any more. True when one was. */
export async function stopTalking() {
  if (!running) return false;
  running.stop();
  await running.done;
  return true;
}

/** Forgets what was said. */
async function clear() {
  await stopTalking();
  const before = chat;
  chat = undefined;
  dismissErrors();
  showNothingSaid();
  showSpeed({});
  say.focus();
  await before?.free();
}

// ---- What was said ----

/** Adds a turn; `show({ text, thinking })` says what stands in it. */
function addTurn(who, className) {
  const words = new Text();
  const thoughts = new Text();
  const folded = element('details', { className: 'thinking' }, element('summary', { text: 'Thinking' }), element('div', {}, thoughts));
  folded.hidden = true;
  const item = element('li', { className: `turn ${className}` }, element('span', { text: who, className: 'who' }), folded, element('div', { className: 'words' }, words));
  byId('talk-empty').hidden = true;
  turns.append(item);
  return {
    show: ({ text, thinking }) => {
      const isAtEnd = talk.scrollTop + talk.clientHeight >= talk.scrollHeight - 40;
      folded.hidden = thinking === null;
      grow(thoughts, thinking ?? '');
      grow(words, text);
      if (isAtEnd) talk.scrollTop = talk.scrollHeight;
    },
    remove: () => item.remove(),
  };
}

const tags = ['<think>', '</think>', '<tool_call>'];

/** Without the beginning of a tag that is not complete yet. */
function withoutHalfTag(text) {
  const at = text.lastIndexOf('<');
  return at >= 0 && tags.some((tag) => tag.startsWith(text.slice(at))) ? text.slice(0, at) : text;
}

/** What the answer says, what it thinks; calls of tools, of which this page has none, are shown as they are. */
function partsOf(raw) {
  const { text, thinking, toolCalls } = parseAssistant(raw);
  return { text: [text, ...toolCalls.map(({ rawContent }) => rawContent.trim())].join('\n').trim(), thinking };
}

// ---- Turns ----

/** The conversation, with the system prompt that stands in its field: what was said stays when that changes. */
async function currentChat() {
  const wanted = byId('system').value.trim();
  if (chat && system === wanted) return chat;
  const before = chat;
  const messages = before?.messages.filter(({ role }) => role !== 'system') ?? [];
  chat = await model.createChat({ messages, ...(wanted && { system: wanted }) });
  system = wanted;
  await before?.free();
  return chat;
}

/** Whether the text that the model continues ends within its thinking. */
async function opensThinking(messages) {
  return mayOpenThinking && /<think>\s*$/.test(await model.applyChatTemplate(messages, { addGenerationPrompt: true }));
}

/** Send and Stop take each other's place; whoever had the keyboard keeps it. */
function setTalking(on) {
  const hadFocus = [send, hush].includes(document.activeElement);
  send.hidden = on;
  hush.hidden = !on;
  if (hadFocus) (on ? hush : send).focus();
  talk.setAttribute('aria-busy', String(on));
  document.body.classList.toggle('weaving', on);
}

function startTalking() {
  const said = say.value.trim();
  if (!model || running || !byId('talk-form').reportValidity() || said === '') return;
  dismissErrors();
  const abort = new AbortController();
  const turn = { isStopped: false, hasWords: false, signal: abort.signal };
  // An answer that has begun is kept as far as it came; before, there is nothing to keep.
  const stop = () => {
    turn.isStopped = true;
    if (!turn.hasWords) abort.abort();
  };
  const done = takeTurn(said, turn).finally(() => {
    running = undefined;
    setTalking(false);
  });
  running = { stop, done };
}

/** Shows a message and its answer; both go, and the words come back to their field, when there is none. */
async function takeTurn(said, turn) {
  setTalking(true);
  showSpeed({});
  sayNothing();
  say.value = '';
  byId('talk-live').replaceChildren();
  const [question, answer] = [addTurn('You', 'turn-user'), addTurn('Model', 'turn-model')];
  question.show({ text: said, thinking: null });
  talk.scrollTop = talk.scrollHeight;
  try {
    const usage = await hear(said, turn, answer);
    if (!usage) status.textContent = 'Stopped.';
    else if (usage.stop === 'context') sayFull(true);
  } catch (error) {
    question.remove();
    answer.remove();
    say.value ||= said;
    if (error.name === 'AbortError') status.textContent = 'Stopped before the answer began.';
    else if (isFull(error)) sayFull(turns.childElementCount > 0);
    else showError(error);
  }
  byId('talk-empty').hidden = turns.childElementCount > 0;
  byId('clear').disabled = turns.childElementCount === 0;
  await showMemory(model).catch(() => undefined); // freed meanwhile
}

/** The answer, shown as it comes, to its end or until it is stopped. Resolves to how it went; undefined for one that was stopped. */
async function hear(said, turn, answer) {
  const temperature = byId('talk-temperature').valueAsNumber;
  const seed = crypto.getRandomValues(new Uint32Array(1))[0];
  const { messages } = await currentChat();
  const begin = (await opensThinking([...messages, { role: 'user', content: said }])) ? '<think>' : '';
  const generation = chat.send(said, { temperature, seed, signal: turn.signal });
  const stream = new Stream(byId('talk-live'), (all, _, isWhole) => {
    const parts = partsOf(begin + (isWhole ? all : withoutHalfTag(all)));
    answer.show(parts);
    return parts.text;
  });
  try {
    for (;;) {
      const { done, value } = await stream.wait(generation.next());
      if (done) break;
      stream.add(value);
      turn.hasWords = true;
      if (turn.isStopped) await generation.return();
    }
  } finally {
    stream.end(generation.usage);
  }
  return generation.usage;
}

/** Whether there was no room: for the conversation in its session, or for the session in the host's memory. */
function isFull(error) {
  return error.code === 'out_of_memory' || (error.code === 'bad_state' && /^the conversation is \d+ tokens/.test(error.message));
}

/** `canClear`: there is more than the message that did not fit. */
function sayFull(canClear) {
  status.textContent = canClear ? 'The model’s memory is full: clear it, or send something shorter.' : 'This is longer than the model’s memory: send something shorter.';
  byId('talk-full').hidden = !canClear;
}

// ---- Controls ----

export function wireChat() {
  byId('talk-form').addEventListener('submit', (event) => {
    event.preventDefault();
    startTalking();
  });
  say.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    startTalking();
  });
  hush.addEventListener('click', () => void stopTalking());
  for (const id of ['clear', 'talk-full']) byId(id).addEventListener('click', () => void clear());
  wireTemperature('talk-temperature');
}
