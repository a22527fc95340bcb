/**
 * chat-input.mjs: messages from a terminal or a pipe. In a terminal Enter sends, what is pasted is one message however many lines it has, and the arrow keys
 * bring back what was said; in a pipe a line is a message. In both a line that ends in `\` goes on in the next.
 */
import { createInterface } from 'node:readline';

/** Joins lines into a message; undefined while it goes on. */
function joiner() {
  let begun = '';
  return (line) => {
    if (line.endsWith('\\')) {
      begun += `${line.slice(0, -1)}\n`;
      return undefined;
    }
    const message = begun + line;
    begun = '';
    return message;
  };
}

/** Messages as they come. `interrupted` is called for a Ctrl-C at the terminal's prompt. */
export function readMessages(stdin, prompts, interrupted) {
  return stdin.isTTY ? fromTerminal(stdin, prompts, interrupted) : fromPipe(stdin);
}

async function* fromPipe(input) {
  const join = joiner();
  for await (const line of createInterface({ input, crlfDelay: Infinity })) {
    const message = join(line);
    if (message !== undefined && message.trim() !== '') yield message;
  }
}

async function* fromTerminal(input, output, interrupted) {
  const history = [];
  for (;;) {
    const message = await typed(input, output, history, interrupted);
    if (message === undefined) return;
    if (message.trim() !== '') yield message;
  }
}

/**
 * One message; undefined at the input's end (Ctrl-D). The reader is made anew for each, so that in between the terminal is as other programs have it and
 * Ctrl-C reaches the process.
 */
function typed(input, output, history, interrupted) {
  const reader = createInterface({ input, output, terminal: true, history, prompt: '> ' });
  let join = joiner();
  const lines = [];
  return new Promise((resolve) => {
    let message;
    reader.on('line', (line) => {
      const whole = join(line);
      if (whole === undefined) return output.write('… ');
      lines.push(whole);
      // The lines of what was pasted come at once; its last waits in the reader for Enter.
      setImmediate(() => {
        if (reader.line !== '' || message !== undefined) return;
        message = lines.join('\n');
        reader.close();
      });
    });
    reader.on('SIGINT', () => {
      if (reader.line === '' && lines.length === 0) interrupted();
      lines.length = 0;
      join = joiner();
      output.write('\n');
      reader.write(null, { ctrl: true, name: 'u' });
      reader.prompt();
    });
    reader.on('history', (kept) => history.splice(0, history.length, ...kept));
    reader.on('close', () => resolve(message));
    reader.prompt();
  });
}
