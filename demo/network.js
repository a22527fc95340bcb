/** network.js: a network that takes numbers and gives numbers: its steps, an input, and its output as numbers and bars. */
import { byId, count, counted, dismissErrors, element, milliseconds, showError } from './page.js';

/** More rows than anybody reads. */
const mostRows = 512;

const input = byId('input');

let model;
let inputSize;

/** Shows the network. `ids` are the models of its bundle, `choose` takes another of them. */
export async function showNetwork(loaded, { name, ids, id, choose }) {
  model = loaded;
  const description = await model.describe();
  const { layers = [], dialect } = description;
  byId('network-title').textContent = name;
  byId('network-choice').hidden = ids.length < 2;
  byId('network-id').replaceChildren(...ids.map((other) => new Option(other, other, false, other === id)));
  byId('network-id').onchange = (event) => choose(event.target.value);
  byId('layers').replaceChildren(...layers.map((layer, i) => element('tr', {}, element('td', { text: String(i + 1) }), element('td', { text: layer.name }), element('td', { text: layer.type }))));
  byId('layers-caption').textContent = `${counted(layers.length, 'step')}${dialect === 'loom' ? ', in Loom’s arithmetic' : ''}`;
  const shape = shapeOfInput(description);
  inputSize = shape?.reduce((product, n) => product * n, 1);
  byId('input-size').textContent = shape ? `: ${counted(inputSize, 'number')}${shape.length > 1 ? ` (${shape.join(' × ')})` : ''}` : '';
  byId('output-box').hidden = true;
  setRunStatus('');
  fillRandom();
}

/** What the network takes at once; undefined where only its author knows. */
function shapeOfInput({ inputShape = [], batchSize = 1, layers = [], weights }) {
  if (inputShape.length > 0) return inputShape;
  const width = layers[0]?.type === 'linear' ? weights[0]?.shape.at(-1) : undefined;
  return width === undefined ? undefined : batchSize > 1 ? [batchSize, width] : [width];
}

function fillRandom() {
  input.value = Array.from({ length: inputSize ?? 8 }, () => (2 * Math.random() - 1).toFixed(4)).join(', ');
  input.removeAttribute('aria-invalid');
}

function setRunStatus(text, isBad = false) {
  byId('run-status').textContent = text;
  if (isBad) input.setAttribute('aria-invalid', 'true');
  else input.removeAttribute('aria-invalid');
}

/** The numbers in the field; a string that says what is wrong otherwise. */
function readNumbers() {
  const words = input.value.replace(/[[\]]/g, ' ').split(/[\s,;]+/).filter((word) => word !== '');
  const wrong = words.find((word) => Number.isNaN(Number(word)));
  if (wrong !== undefined) return `“${wrong.slice(0, 30)}” is no number.`;
  return words.length === 0 ? 'There are no numbers yet.' : words.map(Number);
}

/** Loom takes inputs of any length: what it does with one that does not fit. */
function differs(given) {
  if (inputSize === undefined || given === inputSize) return '';
  return given < inputSize ? `${count(given)} of ${counted(inputSize, 'number')} given: the others count as 0.` : `${counted(given, 'number')} given: only the first ${inputSize === 1 ? '' : `${count(inputSize)} `}${inputSize === 1 ? 'counts' : 'count'}.`;
}

async function run() {
  dismissErrors();
  const numbers = readNumbers();
  if (typeof numbers === 'string') {
    setRunStatus(numbers, true);
    input.focus();
    return;
  }
  byId('output-box').setAttribute('aria-busy', 'true');
  try {
    const start = performance.now();
    const output = await model.forward(numbers);
    showOutput(output, performance.now() - start);
    setRunStatus(differs(numbers.length));
  } catch (error) {
    setRunStatus('', true);
    showError(error);
  } finally {
    byId('output-box').setAttribute('aria-busy', 'false');
  }
}

function showOutput(output, ms) {
  const largest = output.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  const hasNegative = output.some((value) => value < 0);
  const shown = output.subarray(0, mostRows);
  byId('output').replaceChildren(...Array.from(shown, (value, i) => outputRow(i, value, largest, hasNegative)));
  const numbers = counted(output.length, 'number');
  byId('output-caption').textContent = `Output: ${numbers}${output.length > mostRows ? `, the first ${mostRows} shown` : ''}, after ${milliseconds(ms)}`;
  byId('output-box').hidden = false;
}

function outputRow(index, value, largest, hasNegative) {
  return element('tr', {},
    element('th', { text: String(index), attributes: { scope: 'row' } }),
    element('td', { text: shortest(value), className: 'number' }),
    element('td', { className: 'bar-cell', attributes: { 'aria-hidden': 'true' } }, bar(value / largest, hasNegative)));
}

/** The fewest digits that name this float32 and no other. */
function shortest(value) {
  for (let digits = 1; digits < 9; digits++) {
    const text = value.toPrecision(digits);
    if (Math.fround(Number(text)) === value) return String(Number(text));
  }
  return String(value);
}

const svg = 'http://www.w3.org/2000/svg';

/** A bar from the zero line; `share` is −1 to 1. */
function bar(share, hasNegative) {
  const zero = hasNegative ? 50 : 0;
  const width = Number.isFinite(share) ? Math.abs(share) * (100 - zero) : 0;
  const drawn = document.createElementNS(svg, 'svg');
  drawn.setAttribute('class', 'bar');
  drawn.setAttribute('viewBox', '0 0 100 10');
  drawn.setAttribute('preserveAspectRatio', 'none');
  const rect = document.createElementNS(svg, 'rect');
  for (const [key, number] of Object.entries({ x: share < 0 ? zero - width : zero, y: 0, width, height: 10 })) rect.setAttribute(key, String(number));
  if (share < 0) rect.setAttribute('class', 'negative');
  const line = document.createElementNS(svg, 'line');
  for (const [key, number] of Object.entries({ x1: zero, x2: zero, y1: 0, y2: 10 })) line.setAttribute(key, String(number));
  line.setAttribute('vector-effect', 'non-scaling-stroke');
  drawn.append(rect, line);
  return drawn;
}

export function wireNetwork() {
  byId('run-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void run();
  });
  input.addEventListener('keydown', (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      void run();
    }
  });
  byId('random').addEventListener('click', fillRandom);
}
