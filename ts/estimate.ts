/**
 * estimate.ts: how much memory a model's weights will take, from headers and the description, before any is taken; and the refusal of what
 * cannot fit.
 */
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import { sizeText } from './sizes.js';
import type { MemoryEstimate, WeightType } from './types.js';

/** Where WebAssembly's memory ends. A host may give less. */
export const mostMemory = 2 ** 32;

/** Those an estimate tells of, from the largest. */
const types: readonly WeightType[] = ['f32', 'f16', 'q8_0', 'int8', 'q4_0'];

/** What a loader for that dtype (−1: the file's) says the weights will take. */
function weightsAs(core: Core, dtype: number, config: string, directories: readonly number[]): number {
  const loader = core.made((x) => x.w_loader_new(dtype));
  try {
    core.heap.withText(config, (p, n) => core.check((x) => x.w_loader_describe(loader, p, n)));
    return directories.reduce((sum, directory) => sum + core.made((x) => x.w_loader_estimate(loader, directory)), 0);
  } finally {
    if (core.alive) core.call((x) => x.w_loader_free(loader));
  }
}

/** For the model of that description in files with those directories. */
export function estimateWeights(core: Core, dtype: WeightType, config: string, directories: readonly number[]): MemoryEstimate {
  const number = (type: WeightType): number => (type === 'keep' ? -1 : core.dtypeNumber(type));
  const weights = weightsAs(core, number(dtype), config, directories);
  const others = ['keep' as const, ...types].map((type) => [type, weightsAs(core, number(type), config, directories)] as const);
  return { dtype, weights, fits: weights < mostMemory, limit: mostMemory, byDtype: Object.fromEntries(others) };
}

/** Throws when the weights alone are more than there can be, with what would fit. */
export function checkFits(core: Core, loader: number, dtype: WeightType, config: string, directories: readonly number[]): void {
  const weights = directories.reduce((sum, directory) => sum + core.made((x) => x.w_loader_estimate(loader, directory)), 0);
  if (weights < mostMemory) return;
  const { byDtype } = estimateWeights(core, dtype, config, directories);
  const fitting = types.filter((type) => (byDtype[type] ?? mostMemory) < mostMemory).map((type) => `'${type}' ${sizeText(byDtype[type] ?? 0)}`);
  const advice = fitting.length > 0 ? `as ${fitting.join(', ')} they would fit (options.dtype)` : 'no dtype makes them fit';
  throw new HeddleError('out_of_memory', `the model's weights take ${sizeText(weights)}, and WebAssembly's memory ends at ${sizeText(mostMemory)}: ${advice}`);
}
