/**
 * sizes.ts: how much room weights take, before there are any: numbers of a dtype, without what a file puts around them. Plain functions; they need
 * no runtime.
 */
import { checkLargeCount } from './arguments.js';
import type { WeightDtype } from './types.js';

/** Bytes of one weight. Q8_0 and Q4_0 are GGML's: 34 and 18 bytes for 32 weights. */
const bytesPerWeight = {
  F64: 8, F32: 4, F16: 2, BF16: 2, Q8_0: 34 / 32, Q4_0: 18 / 32,
  F8_E4M3: 1, F8_E5M2: 1, F8_E4M3FNUZ: 1, F8_E5M2FNUZ: 1, F6_E2M3: 0.75, F6_E3M2: 0.75, F4: 0.5,
  I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1,
} as const satisfies Record<WeightDtype | 'Q8_0' | 'Q4_0', number>;

export interface WeightSize {
  bytes: number;
  /** "28 GB": at most three digits; MB is 10^6 bytes, GB is 10^9. */
  text: string;
}

export type WeightSizes = Record<WeightDtype | 'Q8_0' | 'Q4_0', WeightSize>;

const units = ['B', 'KB', 'MB', 'GB', 'TB', 'PB'];

export function sizeText(bytes: number): string {
  const step = Math.min(units.length - 1, Math.max(0, Math.floor(Math.log10(Math.max(bytes, 1)) / 3)));
  return `${Number((bytes / 1000 ** step).toPrecision(3))} ${units[step] as string}`;
}

/** What that many weights take in every dtype; 7e9 of them are 28 GB of F32 and 7 GB of I8. Scales that integers may need come on top. */
export function weightSizes(weights: number): WeightSizes {
  checkLargeCount(weights, 'weights');
  const sizes = Object.entries(bytesPerWeight).map(([dtype, each]) => {
    const bytes = Math.ceil(weights * each);
    return [dtype, { bytes, text: sizeText(bytes) }];
  });
  return Object.fromEntries(sizes) as WeightSizes;
}
