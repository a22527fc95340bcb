/**
 * remote-weights.ts: weight files opened in a worker: their directory is here, tensors come when they are asked for.
 */
import { checkOptions, checkText, tensorOptions, tensorsOptions } from './arguments.js';
import { Progress } from './arrival.js';
import { HeddleError } from './errors.js';
import type { Answer, Connection } from './remote.js';
import { Remote } from './remote-model.js';
import type { MetadataValue, TensorInfo, TensorOptions, TensorsOptions, Weights, WeightTensor } from './types.js';

export class RemoteWeights implements Weights {
  readonly tensors: readonly TensorInfo[];
  readonly format: string;
  readonly metadata: Readonly<Record<string, MetadataValue>>;
  readonly bytes: number;
  readonly #remote: Remote;

  constructor(connection: Connection, made: Answer) {
    this.#remote = new Remote('weights', connection, made);
    const { format, tensors, metadata, bytes } = made.state?.file ?? { format: '', tensors: [], metadata: {}, bytes: 0 };
    this.format = format;
    this.tensors = tensors;
    this.metadata = metadata;
    this.bytes = bytes;
  }

  get tensorNames(): readonly string[] {
    return this.tensors.map(({ name }) => name);
  }

  get numParameters(): number {
    return this.tensors.reduce((sum, { numel }) => sum + numel, 0);
  }

  info(name: string): TensorInfo {
    checkText(name, 'name');
    const found = this.tensors.find((tensor) => tensor.name === name);
    if (!found) throw new HeddleError('bad_argument', `no tensor '${name}'; there are ${this.tensors.length}, first ${this.tensors[0]?.name ?? 'none'}`);
    return found;
  }

  tensor(name: string, options: TensorOptions & { as: 'f32' }): Promise<WeightTensor<Float32Array>>;
  tensor(name: string, options?: TensorOptions): Promise<WeightTensor>;
  async tensor(name: string, options: TensorOptions = {}): Promise<WeightTensor> {
    checkOptions(options, tensorOptions);
    return this.#remote.call<WeightTensor>('tensor', [name, options]);
  }

  all(options: TensorsOptions & { as: 'f32' }): AsyncGenerator<WeightTensor<Float32Array>>;
  all(options?: TensorsOptions): AsyncGenerator<WeightTensor>;
  async *all(options: TensorsOptions = {}): AsyncGenerator<WeightTensor> {
    checkOptions(options, tensorsOptions);
    const { names, progress: tell, signal, ...as } = options;
    const wanted = names && new Set(names.map((name) => this.info(name).name));
    const tensors = this.tensors.filter(({ name }) => !wanted || wanted.has(name));
    const progress = new Progress(tensors, tell);
    for (const { name, byteSize } of tensors) {
      signal?.throwIfAborted();
      const tensor = await this.tensor(name, as);
      progress.add(byteSize);
      progress.done(name);
      yield tensor;
    }
  }

  close(): Promise<void> {
    return this.#remote.free();
  }
}
