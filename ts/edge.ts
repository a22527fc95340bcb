/**
 * heddle/edge: for hosts that run only modules compiled beforehand (workerd and its like): no assets are fetched, no workers made.
 *
 *     import module from 'heddle/wasm/heddle-simd128.wasm';
 *     const runtime = await init(module);
 */
import { checkOptions, initOptions } from './arguments.js';
import { startRuntime } from './runtime.js';
import type { LocalRuntime } from './runtime.js';
import type { InitOptions, WasmInput } from './types.js';

const { variant, shared, log } = initOptions;

/** Starts a runtime from a compiled module (or anything else `options.wasm` takes). */
export async function init(module: WasmInput, options: Omit<InitOptions, 'wasm' | 'threads' | 'poolWorker'> = {}): Promise<LocalRuntime> {
  checkOptions(options, { variant, shared, log });
  return startRuntime({ ...options, wasm: module, threads: 1 }, {});
}

export * from './surface.js';
