/**
 * analysis.ts: clusters, correlations and how good a clustering is, under Loom's names. Plain functions over rows of numbers, in float64; they need
 * no runtime.
 */
import { checkCount, checkFinite, checkNumbers, checkOptions, checkPositive, checkWholeNumbers, seedOptions, shown } from './arguments.js';
import { HeddleError, counted } from './errors.js';
import { seeded } from './random.js';
import type { NumbersInput } from './types.js';

/** Samples, one a row, all of one length. */
export type RowsInput = readonly NumbersInput[];

export interface Clustering {
  /** The centre of each cluster. */
  centroids: number[][];
  /** The cluster of each row. */
  assignment: number[];
}

/** How many columns the rows have; refuses what is no table of finite numbers. */
function checkRows(data: RowsInput, name: string): number {
  if (!Array.isArray(data)) throw new HeddleError('bad_argument', `${name}: expected an array of rows, found ${shown(data)}`);
  const [first] = data as RowsInput;
  if (first === undefined) throw new HeddleError('bad_argument', `${name}: expected at least one row`);
  for (const [i, row] of (data as RowsInput).entries()) {
    checkNumbers(row, `${name}[${i}]`);
    if (row.length !== first.length) throw new HeddleError('bad_argument', `${name}[${i}]: expected ${counted(first.length, 'number')} as in the first row, found ${row.length}`);
    for (let c = 0; c < row.length; c++) checkFinite(row[c], `${name}[${i}][${c}]`);
  }
  if (first.length === 0) throw new HeddleError('bad_argument', `${name}: expected rows of at least one number`);
  return first.length;
}

function squaredDistance(a: NumbersInput, b: NumbersInput): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += ((a[i] as number) - (b[i] as number)) ** 2;
  return sum;
}

// ---- k-means ----

/** An index drawn in proportion to its weight; any index where all weights are 0. */
function drawIndex(weights: readonly number[], random: () => number): number {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  if (total === 0) return Math.floor(random() * weights.length);
  let left = random() * total;
  let last = 0;
  for (const [i, weight] of weights.entries()) {
    if (weight === 0) continue;
    last = i;
    if ((left -= weight) < 0) break;
  }
  return last;
}

/** First centres that lie far apart: each is a row, drawn in proportion to its squared distance from those before it (k-means++). */
function firstCentroids(data: RowsInput, k: number, random: () => number): number[][] {
  const centroids: number[][] = [];
  const nearest = data.map(() => Infinity);
  let weights = data.map(() => 1);
  while (centroids.length < k) {
    const centre = Array.from(data[drawIndex(weights, random)] as NumbersInput);
    centroids.push(centre);
    data.forEach((row, i) => (nearest[i] = Math.min(nearest[i] as number, squaredDistance(row, centre))));
    weights = nearest;
  }
  return centroids;
}

/** The nearest centre, the first of equals. */
function nearestTo(row: NumbersInput, centroids: readonly number[][]): number {
  let best = 0;
  let least = Infinity;
  for (const [c, centre] of centroids.entries()) {
    const distance = squaredDistance(row, centre);
    if (distance < least) [best, least] = [c, distance];
  }
  return best;
}

/** Each centre becomes the mean of its rows; one without rows stays where it is. */
function moveCentroids(data: RowsInput, assignment: readonly number[], centroids: number[][]): void {
  const columns = (data[0] as NumbersInput).length;
  const sums = centroids.map(() => new Array<number>(columns).fill(0));
  const counts = centroids.map(() => 0);
  data.forEach((row, i) => {
    const c = assignment[i] as number;
    const sum = sums[c] as number[];
    counts[c] = (counts[c] as number) + 1;
    for (let j = 0; j < columns; j++) sum[j] = (sum[j] as number) + (row[j] as number);
  });
  sums.forEach((sum, c) => {
    const n = counts[c] as number;
    if (n > 0) centroids[c] = sum.map((value) => value / n);
  });
}

/**
 * Lloyd's k-means from k-means++ centres: at most `iterations` rounds, fewer where nothing moves any more. The seed makes it repeatable; 0 by default.
 */
export function kmeansCluster(data: RowsInput, k: number, iterations: number, options: { seed?: number } = {}): Clustering {
  checkRows(data, 'data');
  checkPositive(k, 'k');
  checkCount(iterations, 'iterations');
  checkOptions(options, seedOptions);
  if (k > data.length) throw new HeddleError('bad_argument', `k: ${counted(k, 'cluster')} of ${counted(data.length, 'row')}`);
  const centroids = firstCentroids(data, k, seeded(options.seed ?? 0));
  const assign = (): number[] => data.map((row) => nearestTo(row, centroids));
  let assignment = assign();
  for (let round = 0; round < iterations; round++) {
    moveCentroids(data, assignment, centroids);
    const next = assign();
    const isDone = next.every((c, i) => c === assignment[i]);
    assignment = next;
    if (isDone) break;
  }
  return { centroids, assignment };
}

// ---- Correlation ----

/** A column less its mean, of length 1; undefined where it is constant. */
function unitColumn(data: RowsInput, column: number): number[] | undefined {
  const values = data.map((row) => row[column] as number);
  if (values.every((value) => value === values[0])) return undefined;
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const centred = values.map((value) => value - mean);
  const length = Math.sqrt(centred.reduce((sum, value) => sum + value * value, 0));
  return centred.map((value) => value / length);
}

function correlationOf(x: readonly number[] | undefined, y: readonly number[] | undefined): number {
  if (!x || !y) return NaN;
  if (x === y) return 1;
  const sum = x.reduce((total, value, i) => total + value * (y[i] as number), 0);
  return Math.max(-1, Math.min(1, sum));
}

/**
 * Pearson's correlation of every column of `a` with every column of `b` (with those of `a` itself, without `b`): rows are samples, and both have the
 * same number of them. NaN where a column is constant, as NumPy has it.
 */
export function computeCorrelation(a: RowsInput, b: RowsInput = a): number[][] {
  const columnsA = checkRows(a, 'a');
  const columnsB = checkRows(b, 'b');
  if (a.length !== b.length) throw new HeddleError('bad_argument', `b: expected ${counted(a.length, 'row')} as a has, found ${b.length}`);
  const unitColumns = (data: RowsInput, n: number): (number[] | undefined)[] => Array.from({ length: n }, (_, column) => unitColumn(data, column));
  const ofA = unitColumns(a, columnsA);
  const ofB = b === a ? ofA : unitColumns(b, columnsB);
  return ofA.map((x) => ofB.map((y) => correlationOf(x, y)));
}

// ---- Silhouette ----

/** The row's mean distance to the rows of each cluster, itself left out. */
function meanDistances(data: RowsInput, labels: readonly number[], counts: ReadonlyMap<number, number>, row: number): Map<number, number> {
  const sums = new Map<number, number>();
  data.forEach((other, i) => {
    const label = labels[i] as number;
    sums.set(label, (sums.get(label) ?? 0) + Math.sqrt(squaredDistance(data[row] as NumbersInput, other)));
  });
  for (const [label, sum] of sums) sums.set(label, sum / Math.max(1, (counts.get(label) as number) - (label === labels[row] ? 1 : 0)));
  return sums;
}

/**
 * How well rows lie in their clusters, from −1 to 1: the mean of (b − a) / max(a, b), a the mean distance to the row's own cluster and b that to the
 * nearest other. A row alone in its cluster counts as 0. There have to be two clusters at least.
 */
export function computeSilhouetteScore(data: RowsInput, assignment: NumbersInput): number {
  checkRows(data, 'data');
  checkWholeNumbers(assignment, 'assignment');
  if (assignment.length !== data.length) throw new HeddleError('bad_argument', `assignment: expected one number for each of ${counted(data.length, 'row')}, found ${assignment.length}`);
  const labels = Array.from(assignment);
  const counts = new Map<number, number>();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  if (counts.size < 2) throw new HeddleError('bad_argument', 'assignment: a silhouette takes two clusters at least, found one');
  const scores = labels.map((label, row) => {
    if (counts.get(label) === 1) return 0;
    const distances = meanDistances(data, labels, counts, row);
    const own = distances.get(label) as number;
    distances.delete(label);
    const other = Math.min(...distances.values());
    return own === other ? 0 : (other - own) / Math.max(own, other);
  });
  return scores.reduce((sum, score) => sum + score, 0) / scores.length;
}
