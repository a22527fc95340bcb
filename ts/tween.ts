/**
 * tween.ts: Loom's tween state, its training without an optimizer: one step moves every dense layer a little towards a target class
 * (shared/formats/loom.md, section i). Here for networks of dense layers in the loom dialect.
 */
import { checkCount, checkFinite, checkNumbers, checkPositive } from './arguments.js';
import { HeddleError, counted } from './errors.js';
import type { LocalModel } from './model.js';
import type { NumbersInput } from './types.js';

type Activation = 'relu' | 'sigmoid' | 'tanh' | 'softplus' | 'leaky_relu';

/** Loom's activations, their slopes as a tween takes them (from the output y), and what a target before such a layer is held to. */
const activations: Readonly<Record<Activation, { value: (x: number) => number; slope: (y: number) => number; range: readonly [number, number] }>> = {
  relu: { value: (x) => Math.max(0, 1.1 * x), slope: (y) => (y > 0 ? 1.1 : 0), range: [0, 10] },
  sigmoid: { value: (x) => 1 / (1 + Math.exp(-x)), slope: (y) => y * (1 - y) + 0.01, range: [0.05, 0.95] },
  tanh: { value: Math.tanh, slope: (y) => 1 - y * y + 0.01, range: [-0.95, 0.95] },
  softplus: { value: (x) => Math.log(1 + Math.exp(x)), slope: (y) => 1 / (1 + Math.exp(-y)) + 0.01, range: [-Infinity, Infinity] },
  leaky_relu: { value: (x) => (x >= 0 ? x : 0.1 * x), slope: (y) => (y >= 0 ? 1 : 0.1), range: [0, 10] },
};

/** One dense layer: weight [out, in] and bias as the network has them, and the velocity of the weight. */
interface DenseLayer {
  weightName: string;
  biasName: string;
  inputs: number;
  outputs: number;
  activation: Activation;
  velocity: Float32Array;
}

/** The same with the weights of the moment. */
interface Read extends DenseLayer {
  weight: Float32Array;
  bias: Float32Array;
}

const clip = (x: number, most: number): number => Math.max(-most, Math.min(most, x));
const sum = (n: number, of: (index: number) => number): number => Array.from({ length: n }, (_, i) => of(i)).reduce((a, b) => a + b, 0);
const at = (values: ArrayLike<number>, index: number): number => values[index] ?? 0;

function denseLayers(model: LocalModel): DenseLayer[] {
  const { models } = JSON.parse(model.saveToStringSync('tween')) as { models: [{ cfg: { dialect?: string; batch_size?: number; layers: Record<string, unknown>[] } }] };
  const { dialect, batch_size: batch, layers } = models[0].cfg;
  if (dialect !== undefined || (batch ?? 1) !== 1) throw new HeddleError('unsupported', 'tween states are for networks in the loom dialect with a batch of 1');
  return layers.map((layer, i) => {
    if (layer.type !== 'dense') throw new HeddleError('unsupported', `layer ${i} is ${String(layer.type)}: only dense layers are tweened`);
    const [inputs, outputs] = [Number(layer.input_height), Number(layer.output_height)];
    return { weightName: `layers.${i}.weight`, biasName: `layers.${i}.bias`, inputs, outputs, activation: layer.activation as Activation, velocity: new Float32Array(inputs * outputs) };
  });
}

function forward({ weight, bias, inputs, outputs, activation }: Read, x: ArrayLike<number>): number[] {
  return Array.from({ length: outputs }, (_, o) => activations[activation].value(at(bias, o) + sum(inputs, (i) => at(x, i) * at(weight, o * inputs + i))));
}

/** A layer's share of the rate grows towards the input: 1.2 a layer, more slowly past ten of them, 100 at most. */
function depthScale(layersAfter: number): number {
  return Math.min(100, 1.2 ** (layersAfter > 10 ? 10 + Math.log(layersAfter - 9) : layersAfter));
}

/** Moves a layer: the bias at once, each weight through its velocity. */
function move(layer: Read, weightChange: (o: number, i: number) => number, biasChange: (o: number) => number): void {
  for (let o = 0; o < layer.outputs; o++) {
    layer.bias[o] = at(layer.bias, o) + biasChange(o);
    for (let i = 0; i < layer.inputs; i++) {
      const k = o * layer.inputs + i;
      layer.velocity[k] = 0.9 * at(layer.velocity, k) + 0.1 * weightChange(o, i);
      layer.weight[k] = at(layer.weight, k) + at(layer.velocity, k);
    }
  }
}

/** Gradients go back through the layers, clipped at each. */
function moveByChainRule(layers: readonly Read[], values: readonly ArrayLike<number>[], target: readonly number[], rate: number): void {
  let gap = target.map((t, o) => t - at(values[layers.length] ?? [], o));
  const steps = layers.map(() => [] as number[]);
  for (let n = layers.length - 1; n >= 0; n--) {
    const layer = layers[n] as Read;
    const scale = depthScale(layers.length - 1 - n);
    const d = gap.map((g, o) => g * activations[layer.activation].slope(at(values[n + 1] ?? [], o)));
    steps[n] = d.map((value) => rate * scale * value);
    gap = Array.from({ length: layer.inputs }, (_, i) =>
      clip(sum(layer.outputs, (o) => at(layer.weight, o * layer.inputs + i) * clip(at(d, o) * scale, 10)) / Math.sqrt(layer.outputs), 10));
  }
  for (const [n, layer] of layers.entries()) {
    const [x, step] = [values[n] ?? [], steps[n] ?? []];
    move(layer, (o, i) => clip(at(step, o) * at(x, i), 1), (o) => clip(at(step, o), 1));
  }
}

/** Targets go back through the layers; each is moved towards its own by how far it agrees with it. */
function moveByTargets(layers: readonly Read[], values: readonly ArrayLike<number>[], target: readonly number[], rate: number): void {
  const targets: (readonly number[])[] = layers.map(() => []);
  let wanted = target;
  for (let n = layers.length - 1; n >= 0; n--) {
    const layer = layers[n] as Read;
    targets[n] = wanted;
    const [low, high] = activations[layer.activation].range;
    const next = wanted;
    wanted = Array.from({ length: layer.inputs }, (_, i) => {
      const size = sum(layer.outputs, (o) => Math.abs(at(layer.weight, o * layer.inputs + i)));
      const value = size <= 0.01 ? 0 : sum(layer.outputs, (o) => at(layer.weight, o * layer.inputs + i) * at(next, o)) / size;
      return Math.max(low, Math.min(high, value));
    });
  }
  for (const [n, layer] of layers.entries()) {
    const [x, y, t] = [values[n] ?? [], values[n + 1] ?? [], targets[n] ?? []];
    const budget = agreement(y, t, layer.outputs);
    if (budget < 0.2) continue;
    const r = rate * (0.5 + 0.5 * budget);
    move(layer, (o, i) => 0.01 * r * (at(t, o) - at(y, o)) * at(x, i), (o) => 0.1 * r * (at(t, o) - at(y, o)));
  }
}

/** (cosine + 1) / 2; a half where either is near zero. */
function agreement(a: ArrayLike<number>, b: ArrayLike<number>, n: number): number {
  const [aa, bb, ab] = [sum(n, (i) => at(a, i) ** 2), sum(n, (i) => at(b, i) ** 2), sum(n, (i) => at(a, i) * at(b, i))];
  return aa <= 0.001 || bb <= 0.001 ? 0.5 : (ab / Math.sqrt(aa * bb) + 1) / 2;
}

/** A network being tweened. `Network.createTweenState` makes it. */
export class TweenState {
  readonly #model: LocalModel;
  readonly #layers: readonly DenseLayer[];
  #chainRule: boolean;
  #steps = 0;

  constructor(model: LocalModel, chainRule: boolean) {
    this.#model = model;
    this.#layers = denseLayers(model);
    this.#chainRule = chainRule;
  }

  /**
   * One step towards `targetClass` of `outputSize`. The loss before it: the sum of squared differences to the one-hot target. The network's weights are
   * changed, so no session may be open on it; throws `bad_state` then.
   */
  TweenStep(input: NumbersInput, targetClass: number, outputSize: number, rate: number): number {
    checkNumbers(input, 'input');
    checkCount(targetClass, 'targetClass');
    checkPositive(outputSize, 'outputSize');
    checkFinite(rate, 'rate');
    const layers = this.#layers.map((layer) => ({ ...layer, weight: this.#model.readWeightSync(layer.weightName), bias: this.#model.readWeightSync(layer.biasName) }));
    const outputs = layers.at(-1)?.outputs ?? 0;
    if (input.length !== layers[0]?.inputs) throw new HeddleError('bad_argument', `input: expected ${counted(layers[0]?.inputs ?? 0, 'number')}, found ${input.length}`);
    if (outputSize !== outputs || targetClass >= outputs) throw new HeddleError('bad_argument', `class ${targetClass} of ${outputSize}: the network has ${outputs} outputs`);
    const values: ArrayLike<number>[] = [input];
    for (const [n, layer] of layers.entries()) values.push(forward(layer, values[n] ?? []));
    const target = Array.from({ length: outputs }, (_, o) => (o === targetClass ? 1 : 0));
    const loss = sum(outputs, (o) => (at(target, o) - at(values[layers.length] ?? [], o)) ** 2);
    (this.#chainRule ? moveByChainRule : moveByTargets)(layers, values, target, rate);
    for (const layer of layers) {
      this.#model.writeWeightSync(layer.weightName, layer.weight);
      this.#model.writeWeightSync(layer.biasName, layer.bias);
    }
    this.#steps++;
    return loss;
  }

  setChainRule(chainRule: boolean): void {
    this.#chainRule = chainRule;
  }

  getChainRule(): boolean {
    return this.#chainRule;
  }

  /** Steps so far. */
  getTweenSteps(): number {
    return this.#steps;
  }
}
