/** main.js: the page's life: start Heddle, load the story teller or what a link names, and let the user put another model in its place. */
import { addressOf, agreeOn, inWords, linkedModel, nameOf, setLink, wireAddress } from './address.js';
import { stopTalking, useChatModel, wireChat } from './chat.js';
import { startEngine } from './engine.js';
import { showFile, showModel, showSpeed } from './figures.js';
import { forgetKept, recognise, wireFiles } from './files.js';
import { showNetwork, wireNetwork } from './network.js';
import { announce, byId, bytes, count, counted, dismissErrors, element, showError, showNotice, weave } from './page.js';
import { stopTelling, useModel, wireStory } from './story.js';

const stages = ['loading', 'story', 'conversation', 'network', 'tensors'];

let runtime;
let model;
/** How to load what is on stage again, with other options; undefined where that makes no difference. */
let reload;
/** What is on stage when nothing is loading. */
let stage;
/** The load on its way. */
let loading;

function showStage(name) {
  for (const other of stages) byId(other).hidden = other !== name;
}

function chosenType() {
  return document.querySelector('input[name="dtype"]:checked').value;
}

function chooseType(dtype) {
  document.querySelector(`input[name="dtype"][value="${dtype}"]`).checked = true;
}

// ---- Loading ----

/**
 * Opens a model (`open` gets a signal and `progress`) while the loading card is shown, lets `present` show it, then frees the one before. When it fails or
 * is cancelled, what was on stage comes back. A load that begins ends one that runs.
 */
async function load(title, open, present) {
  loading?.abort.abort();
  await loading?.done;
  await stopText();
  const abort = new AbortController();
  const done = loadAndPresent(title, open, abort.signal, present).catch((error) => {
    if (error.name !== 'AbortError') showError(error);
    if (stage) showStage(stage);
    else showLoading('Nothing is loaded', false);
    byId('builtin').hidden = stage !== undefined && reload === loadBuiltIn;
  });
  loading = { abort, done };
  await done;
  if (loading.done === done) loading = undefined;
}

async function loadAndPresent(title, open, signal, present) {
  dismissErrors();
  showLoading(title, true);
  const loaded = await open({ signal, progress: showProgress });
  const { name, stage: next, link } = await presentOrFree(loaded, present);
  const before = model;
  model = loaded;
  await before?.free();
  await showModel(runtime, loaded, name);
  stage = next;
  showStage(stage);
  setLink(link);
  byId('builtin').hidden = reload === loadBuiltIn;
  announce(`Loaded ${name}`);
}

async function presentOrFree(loaded, present) {
  try {
    return await present(loaded);
  } catch (error) {
    await loaded.free();
    throw error;
  }
}

function showProgress(state) {
  weave(byId('loading-bar'), state.totalBytes > 0 ? state.bytes / state.totalBytes : 0);
  byId('loading-detail').textContent = `${bytes(state.bytes)} of ${bytes(state.totalBytes)}`;
}

function showLoading(title, isRunning) {
  byId('loading-title').textContent = title;
  byId('loading-detail').textContent = '';
  byId('loading-bar').hidden = !isRunning;
  byId('estimate').hidden = true;
  byId('cancel').hidden = !isRunning;
  weave(byId('loading-bar'), isRunning ? 0 : undefined);
  showStage('loading');
  if (isRunning) byId('loading').scrollIntoView({ block: 'nearest' }); // on a phone it is far above what was pressed
}

/** The card asks how to load, and waits. */
function showQuestion(title) {
  showLoading(title, true);
  byId('loading-bar').hidden = true;
  byId('estimate').hidden = false;
  announce(`${title} ${byId('estimate-download').textContent}`);
}

/** Ends the text on its way, a story's or an answer's. True when there was one. */
async function stopText() {
  return (await stopTelling()) || (await stopTalking());
}

// ---- What can be loaded ----

function loadBuiltIn() {
  forgetKept();
  const present = (loaded) => {
    reload = loadBuiltIn;
    useModel(loaded, 'Tell a story');
    return { name: 'Little stories', stage: 'story' };
  };
  return load('Loading the story teller', (options) => runtime.loadModel('models/story/', { ...options, dtype: chosenType() }), present);
}

function loadFiles({ files, name }) {
  const present = async (loaded) => {
    const shown = await presentModel(loaded, name);
    forgetKept();
    reload = () => loadFiles({ files, name });
    return { name, stage: shown };
  };
  return load(`Loading ${name}`, (options) => runtime.loadModel(files, { ...options, dtype: chosenType() }), present);
}

function loadAddress(address) {
  const name = nameOf(address);
  const open = async (options) => {
    const dtype = await agreeOn(runtime, address, chosenType(), options.signal, () => showQuestion(`Load ${name}?`));
    chooseType(dtype);
    showLoading(`Loading ${name}`, true);
    return runtime.loadModel(address, { ...options, dtype });
  };
  const openOrSay = (options) => open(options).catch((error) => {
    throw inWords(error);
  });
  const present = async (loaded) => {
    const shown = await presentModel(loaded, name);
    forgetKept();
    reload = () => loadAddress(address);
    return { name, stage: shown, link: address };
  };
  return load(`Looking at ${name}`, openOrSay, present);
}

function loadBundle({ file, ids }, id = ids[0]) {
  const present = async (loaded) => {
    forgetKept();
    reload = undefined; // a bundle's weights stay as they are
    const name = id ?? file.name;
    await presentNetwork(loaded, { name, ids, id, choose: (other) => loadBundle({ file, ids }, other) });
    return { name, stage: 'network' };
  };
  return load(`Loading ${file.name}`, (options) => runtime.loadModel(file, { ...options, ...(id !== undefined && { id }) }), present);
}

/** Shows a model as what it is: a network of numbers, a partner in conversation, one that continues a text, or none of these. Resolves to its stage. */
async function presentModel(loaded, name) {
  const { family } = await loaded.describe();
  if (family === 'network') {
    await presentNetwork(loaded, { name, ids: [] });
    return 'network';
  }
  const reason = await whyNoText(loaded);
  if (reason !== undefined) {
    showSpeed({});
    showTable(name, `This is a model of the family ${family}, and this page has nothing to do with it but its weights: ${reason}.`, loaded.weights);
    return 'tensors';
  }
  if ((await loaded.chatTemplate()) !== undefined) {
    await useChatModel(loaded);
    return 'conversation';
  }
  useModel(loaded, 'Continue a text');
  return 'story';
}

/** Why a model makes no text, in Heddle's words; undefined when it does: a token of one was made. */
async function whyNoText(loaded) {
  try {
    await loaded.generate('a', { maxTokens: 1, temperature: 0 }).text();
    return undefined;
  } catch (error) {
    return error.code === 'bad_state' ? error.message : undefined; // anything else is said where a text is wanted
  }
}

async function presentNetwork(loaded, options) {
  showSpeed({});
  await showNetwork(loaded, options);
}

/** Shows what is in a weight file, and what would make a model of it. */
async function showTensors({ file, needs }) {
  const { tensors } = await runtime.inspect(file);
  loading?.abort.abort();
  await loading?.done;
  await stopText();
  showTable(file.name, `These are weights alone. To run them, drop ${needs.join(' and ')} as well: the files that lie beside them on Hugging Face.`,
    tensors.map((tensor) => ({ ...tensor, bytes: tensor.end - tensor.begin })));
  showFile(file.name, tensors);
  reload = undefined;
  await model?.free(); // nothing of it is on stage any more
  model = undefined;
  setLink(undefined);
  stage = 'tensors';
  showStage(stage);
  byId('builtin').hidden = false;
  announce(`${file.name}: ${counted(tensors.length, 'tensor')}`);
}

/** Fills the card of weights; `note` says why there is nothing else. */
function showTable(name, note, tensors) {
  byId('tensors-title').textContent = name;
  byId('tensors-needs').textContent = note;
  byId('tensors-caption').textContent = `${counted(tensors.length, 'tensor')}, ${bytes(tensors.reduce((sum, tensor) => sum + tensor.bytes, 0))}`;
  byId('tensor-rows').replaceChildren(...tensors.map((tensor) =>
    element('tr', {},
      element('td', { text: tensor.name }),
      element('td', { text: tensor.dtype }),
      element('td', { text: tensor.shape.join(' × ') }),
      element('td', { text: count(tensor.bytes), className: 'number' }))));
}

async function take(files, folder) {
  dismissErrors();
  try {
    const found = await recognise(files, folder);
    if (found.kind === 'bundle') await loadBundle(found);
    else if (found.kind === 'model') await loadFiles(found);
    else if (found.kind === 'weights') await showTensors(found);
    else if (found.kind === 'parts') showNotice(`${found.names.join(' and ')} is kept; still needed: ${found.needs.join(' and ')}`);
    else await showTensors({ file: found.file, needs: ['config.json', 'tokenizer.json'] });
  } catch (error) {
    showError(error);
  }
}

async function takeAddress(text) {
  try {
    await loadAddress(addressOf(text));
  } catch (error) {
    showError(error);
  }
}

// ---- The page ----

/** What is on stage first: the model that a link names, else the story teller. */
async function begin() {
  const linked = linkedModel();
  if (linked === undefined) return loadBuiltIn();
  byId('address').value = linked;
  showLoading('Nothing is loaded', false);
  byId('builtin').hidden = false;
  return takeAddress(linked);
}

/** Escape undoes the latest thing: a text, a load, a message. */
async function escape() {
  if (await stopText()) return;
  if (loading) loading.abort.abort();
  else dismissErrors();
}

wireStory();
wireChat();
wireAddress((text) => void takeAddress(text));
wireNetwork();
wireFiles((files, folder) => void take(files, folder), showError);
byId('cancel').addEventListener('click', () => loading?.abort.abort());
byId('builtin').addEventListener('click', () => void loadBuiltIn());
for (const choice of document.querySelectorAll('input[name="dtype"]')) choice.addEventListener('change', () => void reload?.());
addEventListener('keydown', (event) => {
  if (event.key === 'Escape') void escape();
});

try {
  runtime = await startEngine(showNotice);
  await begin();
} catch (error) {
  showLoading('Heddle did not start', false);
  showError(error);
}
