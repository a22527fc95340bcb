/** main.js: the page's life: start Heddle, load the story teller, and let the user put another model in its place. */
import { startEngine } from './engine.js';
import { showModel, showSpeed } from './figures.js';
import { forgetKept, recognise, wireFiles } from './files.js';
import { showNetwork, wireNetwork } from './network.js';
import { announce, byId, bytes, count, dismissErrors, element, showError, showNotice, weave } from './page.js';
import { stopTelling, useModel, wireStory } from './story.js';

const stages = ['loading', 'story', 'network', 'tensors'];

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

// ---- Loading ----

/**
 * Loads a model while the loading card is shown, then frees the one before and lets `present` show the new one. When it fails or is
 * cancelled, what was on stage comes back. A load that begins ends one that runs.
 */
async function load(title, source, options, present) {
  loading?.abort.abort();
  await loading?.done;
  await stopTelling();
  const abort = new AbortController();
  const done = loadAndPresent(title, source, { ...options, signal: abort.signal }, present).catch((error) => {
    if (error.name !== 'AbortError') showError(error);
    if (stage) showStage(stage);
    else showLoading('Nothing is loaded', false);
  });
  loading = { abort, done };
  await done;
  if (loading.done === done) loading = undefined;
}

async function loadAndPresent(title, source, options, present) {
  dismissErrors();
  showLoading(title, true);
  const progress = (state) => {
    weave(byId('loading-bar'), state.totalBytes > 0 ? state.bytes / state.totalBytes : 0);
    byId('loading-detail').textContent = `${bytes(state.bytes)} of ${bytes(state.totalBytes)}`;
  };
  const loaded = await runtime.loadModel(source, { ...options, progress });
  const before = model;
  model = loaded;
  const { name, stage: next } = await present(loaded);
  await before?.free();
  await showModel(runtime, loaded, name);
  stage = next;
  showStage(stage);
  byId('builtin').hidden = reload === loadBuiltIn;
  announce(`Loaded ${name}`);
}

function showLoading(title, isRunning) {
  byId('loading-title').textContent = title;
  byId('loading-detail').textContent = '';
  byId('loading-bar').hidden = !isRunning;
  byId('cancel').hidden = !isRunning;
  weave(byId('loading-bar'), isRunning ? 0 : undefined);
  showStage('loading');
}

// ---- What can be loaded ----

function loadBuiltIn() {
  forgetKept();
  const present = (loaded) => {
    reload = loadBuiltIn;
    useModel(loaded);
    return { name: 'Little stories', stage: 'story' };
  };
  return load('Loading the story teller', 'models/story/', { dtype: chosenType() }, present);
}

function loadFiles({ files, tells, name }) {
  const again = () => loadFiles({ files, tells, name });
  const present = async (loaded) => {
    forgetKept();
    reload = again;
    if (tells) useModel(loaded);
    else await presentNetwork(loaded, { name, ids: [] });
    return { name, stage: tells ? 'story' : 'network' };
  };
  return load(`Loading ${name}`, files, { dtype: chosenType() }, present);
}

function loadBundle({ file, ids }, id = ids[0]) {
  const present = async (loaded) => {
    forgetKept();
    reload = undefined; // a bundle's weights stay as they are
    const name = id ?? file.name;
    await presentNetwork(loaded, { name, ids, id, choose: (other) => loadBundle({ file, ids }, other) });
    return { name, stage: 'network' };
  };
  return load(`Loading ${file.name}`, file, id === undefined ? {} : { id }, present);
}

async function presentNetwork(loaded, options) {
  showSpeed({});
  await showNetwork(loaded, options);
}

/** Shows what is in a weight file, and what would make a model of it. */
async function showTensors({ file, needs }) {
  const { tensors, bytes: total } = await runtime.inspect(file);
  await stopTelling();
  byId('tensors-title').textContent = file.name;
  byId('tensors-needs').textContent = `These are weights alone. To run them, drop ${needs.join(' and ')} as well: the files that lie beside them on Hugging Face.`;
  byId('tensors-caption').textContent = `${count(tensors.length)} tensors, ${bytes(total)}`;
  byId('tensor-rows').replaceChildren(...tensors.map((tensor) =>
    element('tr', {},
      element('td', { text: tensor.name }),
      element('td', { text: tensor.dtype }),
      element('td', { text: tensor.shape.join(' × ') }),
      element('td', { text: count(tensor.end - tensor.begin), className: 'number' }))));
  stage = 'tensors';
  showStage(stage);
  byId('builtin').hidden = false;
  announce(`${file.name}: ${count(tensors.length)} tensors`);
}

async function take(files) {
  dismissErrors();
  try {
    const found = await recognise(files);
    if (found.kind === 'bundle') await loadBundle(found);
    else if (found.kind === 'model') await loadFiles(found);
    else if (found.kind === 'weights') await showTensors(found);
    else if (found.kind === 'parts') showNotice(`${found.names.join(' and ')} is kept; still needed: ${found.needs.join(' and ')}`);
    else await showTensors({ file: found.file, needs: ['config.json', 'tokenizer.json'] });
  } catch (error) {
    showError(error);
  }
}

// ---- The page ----

/** Escape undoes the latest thing: a story, a load, a message. */
async function escape() {
  if (await stopTelling()) return;
  if (loading) loading.abort.abort();
  else dismissErrors();
}

wireStory();
wireNetwork();
wireFiles((files) => void take(files));
byId('cancel').addEventListener('click', () => loading?.abort.abort());
byId('builtin').addEventListener('click', () => void loadBuiltIn());
for (const choice of document.querySelectorAll('input[name="dtype"]')) choice.addEventListener('change', () => void reload?.());
addEventListener('keydown', (event) => {
  if (event.key === 'Escape') void escape();
});

try {
  runtime = await startEngine(showNotice);
  await loadBuiltIn();
} catch (error) {
  showLoading('Heddle did not start', false);
  showError(error);
}
