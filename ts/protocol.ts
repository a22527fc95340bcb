/**
 * protocol.ts: what a page and its worker say to each other. One call is one request and one reply; objects that live in the worker
 * cross as numbers.
 */
import type { PlainError } from './errors.js';
import type { FileInfo, GeneratedToken, GenerateUsage, WeightInfo } from './types.js';

/** An object of the worker, as an argument. */
export interface Reference {
  heddle: number;
}

export type ToWorker =
  /** Calls a method of an object; 0 is the runtime, whose `init` comes first. `progress`: wants to hear of it. */
  | { kind: 'call'; call: number; target: number; method: string; args: unknown[]; progress: boolean }
  /** Aborts that call, or the generation of that number. */
  | { kind: 'abort'; call?: number; target?: number }
  /** The module the worker asked for. */
  | { kind: 'module'; request: number; wasm?: unknown; error?: PlainError };

export type FromWorker =
  | { kind: 'reply'; call: number; value: unknown; state?: ObjectState }
  | { kind: 'failure'; call: number; error: PlainError; state?: ObjectState }
  | { kind: 'progress'; call: number; value: unknown }
  | { kind: 'notice'; text: string }
  | { kind: 'want module'; request: number; name: string };

/** What an object's properties are after a call: they can be read without asking. */
export interface ObjectState {
  position?: number;
  context?: number;
  outputShape?: readonly number[];
  threads?: number;
  weights?: readonly WeightInfo[];
  /** What opened weight files declare. */
  file?: FileInfo;
}

/** A new object of the worker, as a reply. */
export interface Made {
  made: 'model' | 'session' | 'adapter' | 'generation' | 'weights';
  handle: number;
}

/** Tokens made since the last question, and how it went once it has ended. */
export interface TokenBatch {
  tokens: GeneratedToken[];
  usage?: GenerateUsage | undefined;
  /** Where a session that is written into is now. */
  position?: number | undefined;
}

export function isMade(value: unknown): value is Made {
  return typeof value === 'object' && value !== null && 'made' in value && 'handle' in value;
}

export function isReference(value: unknown): value is Reference {
  return typeof value === 'object' && value !== null && 'heddle' in value && typeof value.heddle === 'number';
}

/** Buffers in a value that its sender has no more use for. */
export function buffersOf(value: unknown): ArrayBuffer[] {
  if (ArrayBuffer.isView(value)) return value.buffer instanceof ArrayBuffer ? [value.buffer] : [];
  if (typeof value === 'object' && value !== null && 'data' in value) return buffersOf(value.data);
  return [];
}
