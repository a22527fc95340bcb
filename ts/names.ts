/**
 * names.ts: the calls under the names their users know: LoadNetworkFromString, ForwardCPU and their family. They are
 * synchronous, exist on a runtime in this thread, and do exactly what the calls they are made of do.
 */
import { elements } from './core.js';
import type { Core } from './core.js';
import { joined } from './gguf.js';
import { nodeFiles } from './host.js';
import { loadBundle, withDialect } from './load.js';
import { LocalModel } from './model.js';
import { StepState } from './steps.js';
import { TweenState } from './tween.js';
import type { DetectedTensor, FileInput, NumbersInput, QuantizeOptions, SaveWeightsOptions, StoredDtype, TensorInput, WeightTensor } from './types.js';

/** A network under its Loom names. `model` is the same network under Heddle's. */
export class Network {
  constructor(readonly model: LocalModel) {}

  /**
   * The network's output; the plan is made anew when the input's length changes. In Loom's dialect the first layer takes a length that is not its own as
   * Loom does: of dense and recurrent layers zeros stand for what is missing, and what is too much is not read (docs/loom-names.md). Else `bad_argument`.
   */
  ForwardCPU(input: NumbersInput): Float32Array {
    return this.model.forwardSync(input);
  }

  /** The network as a one-model bundle, weights as decimals. */
  SaveModelToString(id: string): string {
    return this.model.saveToStringSync(id);
  }

  /** The network as a one-model bundle, weights in one of Loom's encodings; or, beyond Loom, as integers with scales fitted to them. */
  SaveModelWithDType(id: string, dtype: StoredDtype, quantize?: QuantizeOptions): string {
    return this.model.saveToStringSync(id, { dtype, ...(quantize && { quantize }) });
  }

  /** Writes the bundle SaveModelToString gives to a file: a path, in Node. In a page: `new Blob([network.SaveModelToString(id)])`. */
  async SaveModel(path: string | URL, id: string): Promise<void> {
    await nodeFiles().writeFile(path, this.SaveModelToString(id));
  }

  /** Writes all weights to a SafeTensors file: a path, in Node. In a page: `new Blob([network.SerializeWeights()])`. */
  async SaveWeightsToSafetensors(path: string | URL, options?: SaveWeightsOptions): Promise<void> {
    await nodeFiles().writeFile(path, this.SerializeWeights(options));
  }

  /** The bytes SaveWeightsToSafetensors writes. */
  SerializeWeights(options?: SaveWeightsOptions): Uint8Array<ArrayBuffer> {
    return this.model.saveWeightsSync(options);
  }

  /** Sets the weights the file has, by name and shape; Loom's own files, too. How many it had. */
  async LoadWeightsFromSafetensors(file: FileInput): Promise<number> {
    return this.model.loadWeights(file);
  }

  /** Numbers in all weights, those of branches and sub-networks included (Loom's count misses some). */
  GetTotalParameters(): number {
    return this.model.weights.reduce((sum, { shape }) => sum + elements(shape), 0);
  }

  /** Bytes of all weights as they are kept. */
  GetMemoryUsage(): number {
    return this.model.weights.reduce((sum, { bytes }) => sum + bytes, 0);
  }

  /**
   * The network as a pipeline: a step advances every layer once, from the step before. With the weights it has now; those of layers that a bundle's
   * first form cannot hold (SaveModelToString says which) are refused.
   */
  createStepState(inputSize: number): StepState {
    return new StepState(this.model, inputSize);
  }

  /** The network to be moved towards target classes step by step; without the chain rule, as in Loom, unless asked for. */
  createTweenState(chainRule = false): TweenState {
    return new TweenState(this.model, chainRule);
  }

  free(): void {
    this.model.freeSync();
  }

  [Symbol.dispose](): void {
    this.model.freeSync();
  }
}

/** A SafeTensors file of these tensors, given or read, as Loom's tensor writer encodes them: integers are truncated and not scaled. */
export function serializeSafetensors(lend: InstanceLender, tensors: Readonly<Record<string, TensorInput | WeightTensor>>): Uint8Array<ArrayBuffer> {
  const { core, release } = lend();
  try {
    const { json, values } = joined(tensors);
    return core.heap.withText(json, (p, n) =>
      core.heap.with(new Uint8Array(values.buffer), (v) => core.bytes((x) => x.w_safetensors_serialize(p, n, v, values.length))),
    );
  } finally {
    release();
  }
}

/** A network and what its bundle kept the weights as. */
export interface LoadedWithDType {
  network: Network;
  storedDtype: StoredDtype;
}

/** A network put together from a file's tensors, and what each of them was taken for. */
export interface LoadedGeneric {
  network: Network;
  detected: DetectedTensor[];
  /** What was assumed, what a block lacks, which tensors were left out. */
  warnings: string[];
}

/** Lends an instance for one model; `release` takes it back. */
export interface InstanceLender {
  (): { core: Core; release: () => void };
}

/** The model called `id` from a bundle's text. */
export function loadNetworkFromString(lend: InstanceLender, text: string | Uint8Array, id: string): Network {
  return madeIn(lend, (core) => loadBundle(core, text, id));
}

/** The same, with what the bundle kept its weights as. They become float32, whatever `target` says: so it is in Loom. */
export function loadModelWithDType(lend: InstanceLender, text: string | Uint8Array, id: string, _target?: StoredDtype): LoadedWithDType {
  const network = loadNetworkFromString(lend, text, id);
  return { network, storedDtype: network.model.describeSync().storedDtype ?? 'float32' };
}

/** A network from its JSON, weights drawn from `seed`; Loom's arithmetic unless it says otherwise. */
export function buildNetworkFromJSON(lend: InstanceLender, json: string, seed: number): Network {
  return madeIn(lend, (core) => core.heap.withText(withDialect(json, 'loom'), (p, n) => core.made((x) => x.w_model_build(p, n, seed))));
}

function madeIn(lend: InstanceLender, make: (core: Core) => number): Network {
  const { core, release } = lend();
  try {
    return new Network(new LocalModel(core, make(core), {}, release));
  } catch (error) {
    release();
    throw error;
  }
}
