/** Clusters, correlations and silhouettes against scikit-learn 1.x and NumPy (the numbers here are theirs), and by hand. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertClose } from './golden.mjs';
import { entry, heddle, heddleError } from './heddle.mjs';

const { computeCorrelation, computeSilhouetteScore, kmeansCluster } = heddle;

const rows = [[1, 2], [1.5, 1.8], [5, 8], [8, 8], [1, 0.6], [9, 11], [3, 7.5]];

/** The sum of squared distances to the centres, which k-means makes small. */
function inertia(data, { centroids, assignment }) {
  return data.reduce((sum, row, i) => sum + row.reduce((part, value, c) => part + (value - centroids[assignment[i]][c]) ** 2, 0), 0);
}

test('kmeansCluster finds the clusters scikit-learn finds, whatever the seed', () => {
  for (const seed of [0, 1, 2, 3, 12345]) {
    const found = kmeansCluster(rows, 2, 100, { seed });
    assert.ok(Math.abs(inertia(rows, found) - 31.750833333333333) < 1e-12, `seed ${seed}: inertia ${inertia(rows, found)}`);
    const [left, right] = [found.assignment[0], found.assignment[2]];
    assert.deepEqual(found.assignment, [left, left, right, right, left, right, right]);
    assertClose(found.centroids[left], [7 / 6, 4.4 / 3], 1e-12, 'the left centre');
    assertClose(found.centroids[right], [6.25, 8.625], 1e-12, 'the right centre');
  }
  const best = Math.min(...Array.from({ length: 20 }, (_, seed) => inertia(rows, kmeansCluster(rows, 3, 100, { seed }))));
  assert.ok(Math.abs(best - 8.438333333333334) < 1e-12, `three clusters: inertia ${best}`);
});

test('kmeansCluster is repeatable by its seed, takes typed rows, and leaves its input alone', () => {
  const typed = rows.map((row) => Float32Array.from(row));
  const before = structuredClone(typed);
  assert.deepEqual(kmeansCluster(typed, 3, 10, { seed: 7 }), kmeansCluster(typed, 3, 10, { seed: 7 }));
  assert.deepEqual(kmeansCluster(rows, 3, 10), kmeansCluster(rows, 3, 10, { seed: 0 }));
  assert.deepEqual(typed, before);
});

test('kmeansCluster at its ends: one cluster, a cluster a row, equal rows, no iterations', () => {
  const one = kmeansCluster(rows, 1, 5);
  assertClose(one.centroids[0], [28.5 / 7, 38.9 / 7], 1e-12, 'the mean');
  const each = kmeansCluster(rows, rows.length, 5);
  assert.equal(new Set(each.assignment).size, rows.length);
  assert.equal(inertia(rows, each), 0);
  assert.deepEqual(kmeansCluster([[1], [1], [1]], 2, 5), { centroids: [[1], [1]], assignment: [0, 0, 0] });
  const drawn = kmeansCluster(rows, 2, 0);
  for (const centre of drawn.centroids) assert.ok(rows.some((row) => row.every((value, i) => value === centre[i])), 'a first centre is a row');
});

test('computeCorrelation gives NumPy\'s coefficients, of one table and between two', () => {
  const a = [[1, 2, -1], [2, 1, 0.5], [4, 3, 2], [7, 8, -3.5]];
  const b = [[0.5, 3], [1, 1], [-2, 0], [4, -6]];
  const own = [[1, 0.9320070332440739, -0.5103545438827408], [0.9320070332440739, 1, -0.7542980294561158], [-0.5103545438827408, -0.7542980294561159, 1]];
  const between = [[0.5244785302431131, -0.9759000729485331], [0.6857961710287204, -0.941182105009053], [-0.9380476289401078, 0.642228862990377]];
  computeCorrelation(a).forEach((row, i) => assertClose(row, own[i], 1e-14, `row ${i}`));
  computeCorrelation(a, b).forEach((row, i) => assertClose(row, between[i], 1e-14, `row ${i} with b`));
  for (const row of computeCorrelation([[1, 2], [2, 4], [3, 6]])) assertClose(row, [1, 1], 1e-15, 'columns in proportion');
  assertClose(computeCorrelation([[1], [2], [3]], [[3], [2], [1]])[0], [-1], 1e-15, 'by hand');
});

test('computeCorrelation is NaN for a column that is constant', () => {
  const [[one, other], [another, constant]] = computeCorrelation([[1, 0.1], [2, 0.1], [5, 0.1]]);
  assert.equal(one, 1);
  for (const value of [other, another, constant]) assert.ok(Number.isNaN(value));
});

test('computeSilhouetteScore gives scikit-learn\'s scores, rows alone in a cluster among them', () => {
  const cases = [
    [[0, 0, 1, 1, 0, 1, 1], 0.6648462100066741], [[0, 0, 1, 2, 0, 2, 1], 0.6228386827519399],
    [[0, 1, 2, 2, 0, 2, 1], 0.20519342402498753], [[0, 0, 0, 3, 0, 7, 0], 0.1674426300350043],
  ];
  for (const [assignment, want] of cases) {
    assertClose([computeSilhouetteScore(rows, assignment)], [want], 1e-14, `labels ${assignment}`);
    assert.equal(computeSilhouetteScore(rows, Int32Array.from(assignment)), computeSilhouetteScore(rows, assignment));
  }
  assert.equal(computeSilhouetteScore([[0], [1]], [0, 1]), 0, 'all alone');
  assert.equal(computeSilhouetteScore([[2], [2], [2], [2]], [0, 0, 1, 1]), 0, 'all rows the same');
  // By hand: a = 1 and b = 9.5 for the rows 0 and 11, b = 9.5 − 1 for the inner ones.
  assertClose([computeSilhouetteScore([[0], [1], [9], [10]], [0, 0, 1, 1])], [(8.5 / 9.5 + 7.5 / 8.5) / 2], 1e-15, 'by hand');
});

test('the helpers refuse what is no table, and say where', () => {
  assert.throws(() => kmeansCluster('[[1]]', 1, 1), heddleError('bad_argument', /^data: expected an array of rows, found '\[\[1\]\]'/));
  assert.throws(() => kmeansCluster([], 1, 1), heddleError('bad_argument', /^data: expected at least one row/));
  assert.throws(() => kmeansCluster([[]], 1, 1), heddleError('bad_argument', /^data: expected rows of at least one number/));
  assert.throws(() => kmeansCluster([[1, 2], [3]], 1, 1), heddleError('bad_argument', /^data\[1\]: expected 2 numbers as in the first row, found 1/));
  assert.throws(() => kmeansCluster([[1], [NaN]], 1, 1), heddleError('bad_argument', /^data\[1\]\[0\]: expected a finite number, found NaN/));
  assert.throws(() => kmeansCluster([[1], ['2']], 1, 1), heddleError('bad_argument', /^data\[1\]\[0\]: expected a number, found '2'/));
  assert.throws(() => kmeansCluster(rows, 8, 1), heddleError('bad_argument', /^k: 8 clusters of 7 rows/));
  assert.throws(() => kmeansCluster(rows, 0, 1), heddleError('bad_argument', /^k: expected a whole number from 1/));
  assert.throws(() => kmeansCluster(rows, 2, 1, { sed: 1 }), heddleError('bad_argument', /^sed: no such option; known: seed/));
  assert.throws(() => computeCorrelation([[1], [2]], [[1]]), heddleError('bad_argument', /^b: expected 2 rows as a has, found 1/));
  assert.throws(() => computeSilhouetteScore(rows, [0, 1]), heddleError('bad_argument', /^assignment: expected one number for each of 7 rows, found 2/));
  assert.throws(() => computeSilhouetteScore(rows, rows.map(() => 4)), heddleError('bad_argument', /^assignment: a silhouette takes two clusters at least/));
});

test('heddle/worker has the helpers too', async () => {
  const worker = await entry('./worker');
  for (const name of ['kmeansCluster', 'computeCorrelation', 'computeSilhouetteScore']) assert.equal(typeof worker[name], 'function', name);
});
