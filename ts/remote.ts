/**
 * remote.ts: the page's end of the line to its worker: calls with replies, progress and aborts. It keeps a Node process alive while
 * a reply is due, and not longer.
 */
import { HeddleError, errorFromPlain, errorToPlain, messageOf } from './errors.js';
import { isNode, nodeThreads } from './host.js';
import { isMade } from './protocol.js';
import type { FromWorker, ObjectState, ToWorker } from './protocol.js';

export interface Answer {
  value: unknown;
  state: ObjectState | undefined;
}

export interface CallOptions {
  transfer?: Transferable[];
  signal?: AbortSignal | undefined;
  progress?: ((value: unknown) => void) | undefined;
}

export interface Connection {
  /** Resolves to what the method gave; rejects with its error, or at once with the signal's reason. */
  call(target: number, method: string, args: unknown[], options?: CallOptions): Promise<Answer>;
  /** Aborts the generation of that number. */
  abort(target: number): void;
  /** Ends the worker; what still waits, and what comes, gets `bad_state` and the reason. */
  end(reason: string): void;
}

/** What the worker may ask or tell. */
export interface Listener {
  notice(text: string): void;
  module(name: string): Promise<unknown>;
}

interface Line {
  post(message: ToWorker, transfer: Transferable[]): void;
  keepAlive(on: boolean): void;
  end(): void;
}

function openLine(program: string | URL | Worker | undefined, receive: (message: FromWorker) => void, broken: (why: string) => void): Line {
  const threads = isNode() ? nodeThreads() : undefined;
  if (threads) {
    const own = './worker-host.js'; // no literal: bundlers should leave it alone
    const worker = new threads.Worker(new URL(typeof program === 'string' || program instanceof URL ? program : own, import.meta.url), { name: 'heddle', execArgv: [] });
    worker.on('message', (message) => receive(message as FromWorker));
    worker.on('error', (error) => broken(error.message));
    worker.on('exit', (status) => broken(`it ended with status ${status}`));
    return {
      post: (message, transfer) => worker.postMessage(message, transfer),
      keepAlive: (on) => (on ? worker.ref() : worker.unref()),
      end: () => void worker.terminate(),
    };
  }
  const worker =
    program === undefined
      ? new Worker(new URL('./worker-host.js', import.meta.url), { type: 'module' })
      : program instanceof Worker
        ? program
        : new Worker(program, { type: 'module' });
  worker.onmessage = (event: MessageEvent<FromWorker>) => receive(event.data);
  worker.onerror = (event) => broken(event.message || 'its program could not be loaded');
  return { post: (message, transfer) => worker.postMessage(message, transfer), keepAlive: () => undefined, end: () => worker.terminate() };
}

interface Waiting {
  done(answer: Answer): void;
  fail(error: unknown): void;
  progress: ((value: unknown) => void) | undefined;
}

/** Starts a worker and the line to it. */
export function connect(program: string | URL | Worker | undefined, listener: Listener): Connection {
  const waiting = new Map<number, Waiting>();
  let nextCall = 1;
  let ended: string | undefined;

  const finish = (call: number): Waiting | undefined => {
    const found = waiting.get(call);
    waiting.delete(call);
    if (waiting.size === 0) line.keepAlive(false);
    return found;
  };
  const breakOff = (reason: string): void => {
    if (ended !== undefined) return;
    ended = reason;
    for (const call of [...waiting.keys()]) finish(call)?.fail(new HeddleError('bad_state', reason));
  };
  const giveModule = async (request: number, name: string): Promise<void> => {
    try {
      line.post({ kind: 'module', request, wasm: await listener.module(name) }, []);
    } catch (error) {
      line.post({ kind: 'module', request, error: errorToPlain(error) }, []);
    }
  };
  const receive = (message: FromWorker): void => {
    switch (message.kind) {
      case 'reply':
        finish(message.call)?.done({ value: message.value, state: message.state });
        break;
      case 'failure':
        finish(message.call)?.fail(errorFromPlain(message.error));
        break;
      case 'progress':
        waiting.get(message.call)?.progress?.(message.value);
        break;
      case 'notice':
        listener.notice(message.text);
        break;
      case 'want module':
        void giveModule(message.request, message.name);
        break;
    }
  };
  const line = openLine(program, receive, (why) => breakOff(`the worker died: ${why}`));

  const call = (target: number, method: string, args: unknown[], options: CallOptions = {}): Promise<Answer> =>
    new Promise((done, fail) => {
      const { signal, progress, transfer = [] } = options;
      if (ended !== undefined) throw new HeddleError('bad_state', ended);
      const number = nextCall++;
      const abort = (): void => {
        line.post({ kind: 'abort', call: number }, []);
        // What was made before the abort came through is nobody's.
        const discard = ({ value }: Answer): void => void (isMade(value) && call(value.handle, 'free', []).catch(() => undefined));
        waiting.set(number, { progress: undefined, done: discard, fail: () => undefined });
        unlisten();
        fail(signal?.reason);
      };
      const unlisten = (): void => signal?.removeEventListener('abort', abort);
      waiting.set(number, {
        progress,
        done: (answer) => {
          unlisten();
          done(answer);
        },
        fail: (error) => {
          unlisten();
          fail(error);
        },
      });
      signal?.addEventListener('abort', abort);
      line.keepAlive(true);
      try {
        line.post({ kind: 'call', call: number, target, method, args, progress: progress !== undefined }, transfer);
      } catch (error) {
        finish(number)?.fail(new HeddleError('bad_argument', `${method}: an argument cannot be sent to the worker: ${messageOf(error)}`, { cause: error }));
      }
    });

  return {
    call,
    abort: (target) => ended === undefined && line.post({ kind: 'abort', target }, []),
    end(reason) {
      if (ended === undefined) line.end();
      breakOff(reason);
    },
  };
}
