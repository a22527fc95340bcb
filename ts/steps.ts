/**
 * steps.ts: Loom's step state, a network as a pipeline: one step advances every layer once, from what the layer before it gave in the step before.
 *
 * A forward's graph cannot run so: Loom's hidden residual, which a forward carries from layer to layer, is each layer's own here. So the network is cut
 * into networks of one layer, in the same instance, with copies of the weights as they are when the state is made; what goes from one to the next is
 * kept here.
 */
import { checkCount, checkNumbers, checkPositive } from './arguments.js';
import { HeddleError, counted } from './errors.js';
import { seconds } from './host.js';
import type { LocalModel } from './model.js';
import type { NumbersInput } from './types.js';

interface Bundle {
  models: [{ cfg: { batch_size?: number; layers: LayerConfig[] }; weights: { fmt: string; data: string } }];
}

/** What is in a bundle's `weights.data`. */
interface InnerWeights {
  layers: unknown[];
}

interface LayerConfig {
  type: string;
  [key: string]: unknown;
}

/** One layer of the pipeline. */
interface Stage {
  type: string;
  network: LocalModel;
  /** What it gave in the last step. */
  output: Float32Array;
}

const id = 'layer';

/** A one-model bundle of layer `index` alone. A softmax takes the whole vector at once, whatever the batch. */
function layerAlone(bundle: Bundle, inner: InnerWeights, index: number): string {
  const [{ cfg, weights }] = bundle.models;
  const layer = cfg.layers[index] as LayerConfig;
  const alone = { ...cfg, id, grid_rows: 1, grid_cols: 1, layers_per_cell: 1, layers: [layer], ...(layer.type === 'softmax' && { batch_size: 1 }) };
  const data = btoa(JSON.stringify({ ...inner, layers: [inner.layers[index]] }));
  return JSON.stringify({ ...bundle, models: [{ ...bundle.models[0], id, cfg: alone, weights: { ...weights, data } }] });
}

/** How many zeros Loom has in a layer's place before the first step; undefined where its format's description does not say. */
function zerosOf(layer: LayerConfig, batch: number, before: number): number | undefined {
  const size = (...keys: string[]): number => keys.reduce((product, key) => product * Number(layer[key] ?? 0), 1);
  switch (layer.type) {
    case 'dense':
    case 'swiglu':
      return size('output_height');
    case 'multi_head_attention':
      return batch * size('seq_length', 'd_model');
    case 'rnn':
    case 'lstm':
      return batch * size('seq_length', 'hidden_size');
    case 'conv2d':
      return batch * size('filters', 'output_height', 'output_width');
    case 'rms_norm':
    case 'layer_norm':
      return size('norm_size');
    case 'softmax':
      return before;
    default:
      return undefined;
  }
}

/** a + b where they are of one length, else a. */
function plusSameLength(a: Float32Array, b: Float32Array): Float32Array {
  return a.length === b.length ? a.map((value, i) => value + (b[i] as number)) : a;
}

/** What a stage gives for an input. Its own last output is its hidden residual. */
function advance({ type, network, output }: Stage, input: Float32Array): Float32Array {
  if (type === 'layer_norm') return network.forwardSync(plusSameLength(input, output));
  const fresh = network.forwardSync(input);
  return type === 'multi_head_attention' || type === 'swiglu' ? plusSameLength(fresh, output) : fresh;
}

/** A network that is run step by step. `Network.createStepState` makes it. */
export class StepState {
  /** The network's: a state in use keeps it from being collected. */
  readonly model: LocalModel;
  readonly #stages: Stage[] = [];
  #input: Float32Array;
  #freed = false;

  constructor(model: LocalModel, inputSize: number) {
    checkPositive(inputSize, 'inputSize');
    if (model.describeSync().dialect !== 'loom') throw new HeddleError('unsupported', "step states are Loom's: this network is not in the loom dialect");
    this.model = model;
    this.#input = new Float32Array(inputSize);
    const bundle = JSON.parse(model.saveToStringSync(id)) as Bundle;
    const [{ cfg, weights }] = bundle.models;
    const inner = JSON.parse(atob(weights.data)) as InnerWeights;
    try {
      for (const [index, layer] of cfg.layers.entries()) {
        const network = model.besideSync(layerAlone(bundle, inner, index), id);
        const stage = { type: layer.type, network, output: new Float32Array() };
        this.#stages.push(stage);
        const before = this.#before(index);
        stage.output = new Float32Array(zerosOf(layer, cfg.batch_size ?? 1, before.length) ?? network.forwardSync(before).length);
      }
    } catch (error) {
      this.free();
      throw error;
    }
  }

  /** What a layer reads in the next step. */
  #before(index: number): Float32Array {
    return this.#stages[index - 1]?.output ?? this.#input;
  }

  #check(): void {
    if (this.#freed) throw new HeddleError('bad_state', 'the step state was freed');
  }

  /** What the first layer reads from the next step on. */
  setInput(input: NumbersInput): void {
    this.#check();
    checkNumbers(input, 'input');
    if (input.length !== this.#input.length) throw new HeddleError('bad_argument', `input: expected ${counted(this.#input.length, 'number')}, found ${input.length}`);
    this.#input = Float32Array.from(input);
  }

  /** Advances every layer once. The milliseconds it took. */
  stepForward(): number {
    this.#check();
    const start = seconds();
    const outputs = this.#stages.map((stage, index) => advance(stage, this.#before(index)));
    for (const [index, stage] of this.#stages.entries()) stage.output = outputs[index] as Float32Array;
    return 1000 * (seconds() - start);
  }

  /** What the last layer gave in the last step: zeros before the first. */
  getOutput(): Float32Array {
    return this.getLayerOutput(Math.max(0, this.#stages.length - 1));
  }

  /** The same of any layer, counted from 0. */
  getLayerOutput(index: number): Float32Array {
    this.#check();
    checkCount(index, 'index');
    const stage = this.#stages[index];
    if (!stage) throw new HeddleError('bad_argument', `index: no layer ${index} among ${counted(this.#stages.length, 'layer')}`);
    return stage.output.slice();
  }

  free(): void {
    this.#freed = true;
    for (const { network } of this.#stages) network.freeSync();
  }

  [Symbol.dispose](): void {
    this.free();
  }
}
