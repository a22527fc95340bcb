/**
 * report.ts: what loading made of a file's weights.
 */
import type { LoadReport, WeightInfo } from './types.js';

/** From the weights as they are right after loading; those no file had are left out. */
export function reportOf(weights: readonly WeightInfo[]): LoadReport {
  const loaded = weights.filter((weight) => weight.fileDtype !== undefined);
  return {
    weights: loaded,
    bytes: loaded.reduce((sum, weight) => sum + weight.bytes, 0),
    lossy: loaded.filter((weight) => weight.lossy).map((weight) => weight.name),
    fallbacks: loaded.flatMap(({ name, reason }) => (reason === undefined ? [] : [`${name}: ${reason}`])),
  };
}
