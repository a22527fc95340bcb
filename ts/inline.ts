/**
 * heddle/inline: the plain simd128 module inside the code, for hosts and bundlers that can fetch or copy nothing. One thread.
 */
import moduleBytes from 'heddle-simd128.wasm';
import { checkOptions, initOptions } from './arguments.js';
import { startRuntime } from './runtime.js';
import type { LocalRuntime } from './runtime.js';
import type { InitOptions } from './types.js';

const { shared, log } = initOptions;

/** Starts a runtime with the module that is in this file. */
export async function init(options: Omit<InitOptions, 'wasm' | 'threads' | 'poolWorker' | 'variant'> = {}): Promise<LocalRuntime> {
  checkOptions(options, { shared, log });
  return startRuntime({ ...options, wasm: moduleBytes, variant: 'simd128', threads: 1 }, {});
}

export * from './surface.js';
