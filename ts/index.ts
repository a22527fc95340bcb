/**
 * heddle: neural networks in WebAssembly, in this thread.
 *
 *     const runtime = await init();
 *     const model = await runtime.loadModel('models/story/');
 *     for await (const { text } of model.generate('Once upon a time')) write(text);
 *     await model.free();
 *
 * `heddle/worker` has the same surface with everything in a worker, `heddle/edge` is for hosts that only take compiled modules,
 * `heddle/inline` has its module inside.
 */
import { moduleUrl } from './assets.js';
import { HeddleError } from './errors.js';
import type { LoadedWithDType, Network } from './names.js';
import { startPool } from './pool.js';
import { startRuntime } from './runtime.js';
import type { LocalModel } from './model.js';
import type { LocalRuntime } from './runtime.js';
import type { TokenizerFiles } from './tokenizer-files.js';
import type { FileInput, InitOptions, SourceInput, StoredDtype } from './types.js';

let defaultRuntime: LocalRuntime | undefined;

/** Starts a runtime. The first one is also the one LoadNetworkFromString and BuildNetworkFromJSON use. */
export async function init(options: InitOptions = {}): Promise<LocalRuntime> {
  const runtime = await startRuntime(options, { asset: moduleUrl, startPool });
  defaultRuntime ??= runtime;
  return runtime;
}

function started(): LocalRuntime {
  if (!defaultRuntime) throw new HeddleError('bad_state', 'no runtime yet: `await init()` first');
  return defaultRuntime;
}

/** The model called `id` from a bundle's text, on the first runtime. Synchronous, after `await init()`. */
export function LoadNetworkFromString(text: string | Uint8Array, id: string): Network {
  return started().LoadNetworkFromString(text, id);
}

/** LoadNetworkFromString under its other name. */
export function LoadModelFromString(text: string | Uint8Array, id: string): Network {
  return started().LoadModelFromString(text, id);
}

/** The same, with the encoding the bundle kept its weights in. */
export function LoadModelWithDType(text: string | Uint8Array, id: string, target?: StoredDtype): LoadedWithDType {
  return started().LoadModelWithDType(text, id, target);
}

/** A network from its JSON, as text or parsed, on the first runtime. Synchronous, after `await init()`. */
export function BuildNetworkFromJSON(json: string | object, options?: { seed?: number }): Network {
  return started().BuildNetworkFromJSON(json, options);
}

/** A Llama-style model from its folder, on the first runtime, after `await init()`. */
export async function LoadTransformerFromSafetensors(folder: SourceInput): Promise<Network> {
  return started().LoadTransformerFromSafetensors(folder);
}

/** The same from config.json and the weight file. */
export async function LoadTransformerFromBytes(config: FileInput | object, weights: FileInput, tokenizer?: FileInput | TokenizerFiles): Promise<Network> {
  return started().LoadTransformerFromBytes(config, weights, tokenizer);
}

/** The same as a model. */
export async function loadTransformerFromBytes(config: FileInput | object, weights: FileInput, tokenizer?: FileInput | TokenizerFiles): Promise<LocalModel> {
  return started().loadTransformerFromBytes(config, weights, tokenizer);
}

export * from './surface.js';
