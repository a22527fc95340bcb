/** page.js: what every part of the page uses: elements by id, rows of a table, messages that can be dismissed, the cloth. */

export const byId = (id) => document.getElementById(id);

/** An element with text, a class and children. */
export function element(name, { text, className, attributes = {} } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** Gives a text node its new text. One that only became longer is only added to: what somebody has selected stays selected. */
export function grow(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

/** Writes a temperature's value beside its slider. */
export function wireTemperature(id) {
  const slider = byId(id);
  const show = () => {
    byId(`${id}-value`).textContent = slider.valueAsNumber.toFixed(2).replace(/0$/, '');
  };
  slider.addEventListener('input', show);
  show();
}

// ---- Messages ----

function show(message, role) {
  const box = element('div', { className: `message message-${role === 'alert' ? 'error' : 'note'}`, attributes: { role } }, message);
  const dismiss = element('button', { text: 'Dismiss', attributes: { type: 'button' } });
  dismiss.addEventListener('click', () => {
    box.remove();
    byId('choose').focus({ preventScroll: true });
  });
  box.append(dismiss);
  byId('messages').append(box);
  box.scrollIntoView({ block: 'nearest' });
}

/** How an error begins for who does not know Heddle's codes. */
const openings = {
  bad_file: 'This file cannot be used',
  bad_argument: 'That does not fit',
  unsupported: 'Heddle cannot do this',
  out_of_memory: 'There is not enough memory',
  bad_state: 'That is not possible now',
};

/** An error in words, its code behind them where it has one. Only the latest stays: it is about the last thing the user did. */
export function showError(error) {
  dismissErrors();
  const words = error.message || String(error);
  const opening = openings[error.code];
  const text = element('p', {}, opening ? `${opening}: ${words}` : words, ...(error.code ? [' ', element('code', { text: error.code })] : []));
  show(text, 'alert');
}

/** True when there was one. */
export function dismissErrors() {
  const errors = document.querySelectorAll('.message-error');
  for (const error of errors) error.remove();
  return errors.length > 0;
}

export function showNotice(text) {
  show(element('p', { text: `${text[0].toUpperCase()}${text.slice(1)}.` }), 'status');
}

/** For those who cannot see that something new is there. */
export function announce(text) {
  byId('announcement').textContent = text;
}

// ---- The cloth ----

/** How much of a progress bar is woven, from 0 to 1; undefined: nobody knows. */
export function weave(bar, share) {
  const percent = share === undefined ? 0 : Math.round(100 * Math.min(1, share));
  if (share === undefined) bar.removeAttribute('aria-valuenow');
  else bar.setAttribute('aria-valuenow', String(percent));
  bar.firstElementChild.style.width = `${percent}%`;
}

// ---- Numbers ----

const plain = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });

export const count = (n) => plain.format(n);

/** So many of something: "1 tensor", "2 tensors". */
export const counted = (n, what) => `${count(n)} ${what}${n === 1 ? '' : 's'}`;

export function bytes(n) {
  if (n < 1024) return `${n} B`;
  const [size, unit] = n < 2 ** 20 ? [n / 1024, 'KB'] : n < 2 ** 30 ? [n / 2 ** 20, 'MB'] : [n / 2 ** 30, 'GB'];
  return `${size < 100 ? size.toFixed(1) : plain.format(size)} ${unit}`;
}

export function milliseconds(ms) {
  return ms < 10 ? `${ms.toFixed(1)} ms` : ms < 10000 ? `${plain.format(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}
