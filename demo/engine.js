/** engine.js: starts Heddle: in a worker, so that the page never waits, or in the page where no worker can be made. */
import { init as initHere } from '../dist/index.js';
import { init as initInWorker } from '../dist/worker.js';

/** A runtime; `notice` hears, once each, what the user should know about it. */
export async function startEngine(notice) {
  let refusal = 'this browser has none';
  if (typeof Worker !== 'undefined') {
    try {
      return await initInWorker({ log: notice });
    } catch (error) {
      refusal = error.message;
    }
  }
  const runtime = await initHere({ log: notice, threads: 1 });
  notice(`no worker (${refusal}): the page itself computes and may stutter`);
  return runtime;
}
