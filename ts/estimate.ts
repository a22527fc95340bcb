/**
 * estimate.ts: how much memory a model and a session over it will take, from headers and the description, before any is taken; and the refusal of
 * what cannot fit.
 */
import type { Core } from './core.js';
import { HeddleError, counted } from './errors.js';
import { prefillTokens } from './generate.js';
import { sizeText } from './sizes.js';
import type { MemoryEstimate, WeightType } from './types.js';

/** Where WebAssembly's memory ends. A host may give less. */
export const mostMemory = 2 ** 32;

/** What an instance has besides: its stack, the piece that moves from a file, what descriptions and plans take. */
const instanceBytes = 8 << 20;

/** Positions that a session takes memory for at first. */
const firstPositions = 256;

/** Those an estimate tells of, from the largest. */
const types: readonly WeightType[] = ['f32', 'f16', 'q8_0', 'int8', 'q4_0'];

/** A model's sizes as one dtype. */
interface Sizes {
  weights: number;
  context: number;
  arena: number;
  /** Of no position: that of recurrent layers. */
  state: number;
  statePerPosition: number;
}

/** What a loader says that knows its description, and has no files yet. */
function sizesOf(core: Core, loader: number, directories: readonly number[], context: number): Sizes {
  const weights = directories.reduce((sum, directory) => sum + core.made((x) => x.w_loader_estimate(loader, directory)), 0);
  const session = (positions: number): number[] => {
    core.check((x) => x.w_loader_session(loader, Math.min(prefillTokens, positions), positions));
    return [0, 1, 2, 3, 4].map((i) => core.heap.transfer(i));
  };
  const most = session(1)[4] ?? 0;
  const positions = Math.min(context || most, most);
  const [arena = 0, other = 0, state = 0, statePerPosition = 0] = session(positions);
  return { weights, context: positions, arena: arena + other, state, statePerPosition };
}

/** The same for a dtype (−1: the file's). */
function sizesAs(core: Core, dtype: number, config: string, directories: readonly number[], context: number): Sizes {
  const loader = core.made((x) => x.w_loader_new(dtype));
  try {
    core.heap.withText(config, (p, n) => core.check((x) => x.w_loader_describe(loader, p, n)));
    return sizesOf(core, loader, directories, context);
  } finally {
    if (core.alive) core.call((x) => x.w_loader_free(loader));
  }
}

const totalOf = ({ weights, arena, state, statePerPosition }: Sizes, positions: number): number => weights + arena + state + statePerPosition * positions;

/** The most there is at any moment: a state that grows is copied, and the page before the last is there still. */
const peakOf = (sizes: Sizes, positions: number): number => totalOf(sizes, positions) + sizes.statePerPosition * Math.max(0, positions - firstPositions);

/** Positions that have to fit for a model to be of use. */
const neededOf = ({ context }: Sizes, asked: number): number => Math.min(context, asked || firstPositions);

const fitsIn = (sizes: Sizes, asked: number): boolean => peakOf(sizes, neededOf(sizes, asked)) + instanceBytes < mostMemory;

/** The most positions beside the weights. */
function longestOf(sizes: Sizes): number {
  const left = mostMemory - instanceBytes - totalOf(sizes, 0);
  if (left < 0) return 0;
  const positions = left / sizes.statePerPosition;
  return Math.min(sizes.context, Math.floor(positions > firstPositions ? (positions + firstPositions) / 2 : positions));
}

/** For the model of that description in files with those directories; `context` 0: none was asked for. */
export function estimateMemory(core: Core, dtype: WeightType, config: string, directories: readonly number[], context: number): MemoryEstimate {
  const sizes = (type: WeightType): Sizes => sizesAs(core, type === 'keep' ? -1 : core.dtypeNumber(type), config, directories, context);
  const own = sizes(dtype);
  const others = ['keep' as const, ...types].map((type) => [type, sizes(type)] as const);
  const fitting = others.filter(([type, each]) => type !== dtype && fitsIn(each, context));
  return {
    dtype,
    weights: own.weights,
    context: own.context,
    arena: own.arena + own.state,
    statePerPosition: own.statePerPosition,
    total: totalOf(own, own.context),
    longest: longestOf(own),
    fits: fitsIn(own, context),
    suggestions: fitting.map(([type, each]) => ({ dtype: type, weights: each.weights, longest: longestOf(each) })),
    limit: mostMemory,
    byDtype: Object.fromEntries(others.map(([type, { weights }]) => [type, weights])),
  };
}

/** Throws when there cannot be so much memory, with what would fit. The loader has its description, and no files. */
export function checkFits(core: Core, loader: number, dtype: WeightType, config: string, directories: readonly number[], context: number): void {
  const sizes = sizesOf(core, loader, directories, context);
  if (fitsIn(sizes, context)) return;
  const { suggestions, longest } = estimateMemory(core, dtype, config, directories, context);
  const fitting = suggestions.filter((each) => each.dtype !== 'keep').map((each) => `'${each.dtype}' ${sizeText(each.weights)}`);
  const advice = [
    ...(longest >= firstPositions ? [`with a context of ${counted(longest, 'position')} it would fit (options.context)`] : []),
    fitting.length > 0 ? `as ${fitting.join(', ')} they would fit (options.dtype)` : 'no dtype makes them fit',
  ].join('; ');
  const positions = neededOf(sizes, context);
  const besides = sizes.weights < mostMemory ? `, and a session of ${counted(positions, 'position')} ${sizeText(totalOf(sizes, positions) - sizes.weights)}` : '';
  throw new HeddleError('out_of_memory', `the model's weights take ${sizeText(sizes.weights)}${besides}, and WebAssembly's memory ends at ${sizeText(mostMemory)}: ${advice}`);
}
