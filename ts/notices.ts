/**
 * notices.ts: what the user should know and is no error, said once a process.
 */
const said = new Set<string>();

/** Gives a notice to `log`, or to `console.info`, unless it was given before. */
export function sayOnce(text: string, log: ((notice: string) => void) | undefined): void {
  if (said.has(text)) return;
  said.add(text);
  if (log) log(text);
  else console.info(`heddle: ${text}`);
}
