/**
 * packed.ts: the values of one matrix, or of several below each other, that lies in several tensors (src/format/packed.h): the core's loader puts it together,
 * as the only weight of a model.
 */
import { isPlainObject } from './arguments.js';
import type { ByteSource } from './bytes.js';
import { elements } from './core.js';
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import { loadFiles } from './load.js';
import type { TensorInfo, WeightTensor } from './types.js';

type Find = (name: string) => TensorInfo | undefined;

const scalesOf = ({ name }: TensorInfo): string => name.replace(/\.weight$/, '.scales');

/** Whether a tensor is the codes of one. */
export function isPacked(tensor: TensorInfo, find: Find): boolean {
  return tensor.name.endsWith('.weight') && ['U32', 'U8', 'I8'].includes(tensor.dtype) && [2, 3].includes(tensor.shape.length) && find(scalesOf(tensor)) !== undefined;
}

/** Bits of a code, where the tensors do not say it, from config.json: a weight's own entry goes before the rule for all. */
function bitsOf(tensor: TensorInfo, scales: TensorInfo | undefined, quantization: object | undefined): number {
  if (tensor.dtype !== 'U32') return 8;
  const wordsPerScale = (tensor.shape.at(-1) ?? 0) / (scales?.shape.at(-1) ?? 1);
  if (scales?.dtype === 'U8') return wordsPerScale === 8 ? 8 : 4;
  const rules = { ...quantization } as Record<string, unknown>;
  const own = rules[tensor.name.replace(/\.weight$/, '')];
  const bits = isPlainObject(own) ? own['bits'] : rules['bits'];
  if (typeof bits === 'number' && bits > 0) return bits;
  throw new HeddleError('bad_argument', `tensor ${tensor.name} is packed: give config.json's "quantization" as options.quantization`);
}

/** The matrix as float32. */
export async function packedValues(core: Core, files: readonly ByteSource[], tensor: TensorInfo, find: Find, quantization: object | undefined): Promise<WeightTensor> {
  const bits = bitsOf(tensor, find(scalesOf(tensor)), quantization);
  const words = tensor.shape.at(-1) ?? 0;
  const cols = tensor.dtype === 'U32' ? Math.floor((words * 32) / bits) : words;
  const shape = [...tensor.shape.slice(0, -1), cols];
  const layer = { type: 'linear', name: 'packed', weights: tensor.name.replace(/weight$/, ''), in_features: cols, out_features: elements(shape.slice(0, -1)), bias: false };
  const config = JSON.stringify({ dialect: 'standard', input_shape: [1, cols], layers: [layer], ...(quantization && { quantization }) });
  const model = await loadFiles(core, { config, weights: { files: [...files], expected: new Map() } }, { dtype: 'f32' });
  const n = elements(shape);
  const room = core.heap.alloc(n * 4);
  try {
    core.heap.withText(tensor.name, (name) => core.check((x) => x.w_model_read_weight(model, name, room, n)));
    return { name: tensor.name, dtype: 'F32', shape, data: core.heap.floats(room, n) };
  } finally {
    if (core.alive) core.heap.free(room);
    if (core.alive) core.check((x) => x.w_model_free(model));
  }
}
