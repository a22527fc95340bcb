/**
 * errors.ts: the one kind of error Heddle throws, and the one place that makes it from a status of the core.
 *
 * An abort is no HeddleError: it throws the signal's own reason, as `fetch` does.
 */

/** What kind of failure it was; the message says which tensor, path, offset, what was expected and what was found. */
export type ErrorCode =
  /** Bytes that break their format's rules, and files that are missing or unreachable. */
  | 'bad_file'
  /** A wrong shape, id, name or option from the caller. */
  | 'bad_argument'
  /** Legal, but nothing Heddle can do. */
  | 'unsupported'
  /** The allocator or the host refused; nothing was changed. */
  | 'out_of_memory'
  /** The right call at the wrong moment: use after free, training a model in use, an instance that died. */
  | 'bad_state';

export class HeddleError extends Error {
  readonly code: ErrorCode;

  constructor(code: ErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'HeddleError';
    this.code = code;
  }
}

const codes: readonly string[] = ['bad_file', 'bad_argument', 'unsupported', 'out_of_memory', 'bad_state'] satisfies ErrorCode[];

function isCode(name: string): name is ErrorCode {
  return codes.includes(name);
}

/**
 * A status of the core as an error. `name` is the core's own name for it, so that no numbers are written down twice;
 * a name this file does not know means that the core and the package are of different versions.
 */
export function errorFromStatus(name: string, message: string): HeddleError {
  return isCode(name) ? new HeddleError(name, message) : new HeddleError('bad_state', `${message} (unknown status '${name}')`);
}

/** An error as it crosses between a page and its worker. */
export interface PlainError {
  name: string;
  message: string;
  code?: string;
}

export function errorToPlain(error: unknown): PlainError {
  if (error instanceof HeddleError) return { name: error.name, message: error.message, code: error.code };
  if (error instanceof Error) return { name: error.name, message: error.message };
  return { name: 'Error', message: String(error) };
}

export function errorFromPlain(plain: PlainError): Error {
  if (plain.name === 'HeddleError' && plain.code !== undefined && isCode(plain.code)) return new HeddleError(plain.code, plain.message);
  const error = new Error(plain.message);
  error.name = plain.name;
  return error;
}

/** What anything thrown says, for use inside another message. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** So many of something, in words: "1 value", "2 values". */
export function counted(n: number, what: string): string {
  return `${n} ${what}${n === 1 ? '' : 's'}`;
}
