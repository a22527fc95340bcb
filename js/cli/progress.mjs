/**
 * progress.mjs: one line on stderr that says how far a long work is. Nothing where stderr is no terminal, nor for work that is over in a moment.
 */
import { sizeText } from './text.mjs';

const width = 24;
const everyMs = 100;

/** Takes what `loadModel` and `convertWeights` tell; `done` wipes the line away. */
export function progressBar(what) {
  const { stderr } = process;
  const start = Date.now();
  let shownAt = 0;
  const tell = ({ bytes, totalBytes, secondsLeft }) => {
    const now = Date.now();
    if (now - start < 2 * everyMs || now - shownAt < everyMs) return;
    shownAt = now;
    const share = totalBytes > 0 ? bytes / totalBytes : 1;
    const full = Math.round(share * width);
    const left = secondsLeft === undefined ? '' : `, ${secondsLeft < 1 ? '<1' : Math.round(secondsLeft)} s left`;
    stderr.write(`\r\x1b[K${what} [${'█'.repeat(full)}${'░'.repeat(width - full)}] ${Math.floor(share * 100)} % of ${sizeText(totalBytes)}${left}`);
  };
  const done = () => {
    if (shownAt > 0) stderr.write('\r\x1b[K');
  };
  return stderr.isTTY ? { tell, done } : { tell: undefined, done: () => undefined };
}

/** An AbortSignal that Ctrl-C gives; a second one ends the program at once. */
export function interruption() {
  const controller = new AbortController();
  process.once('SIGINT', () => controller.abort(Object.assign(new Error('interrupted'), { name: 'AbortError' })));
  return controller.signal;
}
