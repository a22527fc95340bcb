/**
 * reference-parts.mjs: layers in double precision, written from the textbook's formulas and sharing nothing with the package. A sequence is an array
 * of rows, a row an array of numbers; weights are { shape, data } as a file has them.
 */

export const silu = (v) => v / (1 + Math.exp(-v));
export const relu = (v) => Math.max(0, v);
export const add = (a, b) => a.map((row, t) => row.map((v, i) => v + b[t][i]));

/** y = W·x + b, W [out, in]. */
export const linear = (rows, w, bias) => {
  const [out, wide] = w.shape;
  return rows.map((x) => Array.from({ length: out }, (_, o) => x.reduce((sum, v, i) => sum + v * w.data[o * wide + i], bias?.data[o] ?? 0)));
};

export const rmsNorm = (rows, { data }, eps) =>
  rows.map((x) => {
    const scale = 1 / Math.sqrt(x.reduce((sum, v) => sum + v * v, 0) / x.length + eps);
    return x.map((v, i) => v * scale * data[i]);
  });

export const layerNorm = (rows, weight, bias, eps) =>
  rows.map((x) => {
    const mean = x.reduce((a, b) => a + b, 0) / x.length;
    const variance = x.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.length;
    return x.map((v, i) => ((v - mean) / Math.sqrt(variance + eps)) * weight.data[i] + bias.data[i]);
  });

/** The halves of a head turned by its position (Su et al., 2021). */
const rotate = (head, position, theta) => {
  const half = head.length / 2;
  return head.map((v, i) => {
    const angle = position / theta ** ((i % half) / half);
    return i < half ? v * Math.cos(angle) - head[i + half] * Math.sin(angle) : v * Math.cos(angle) + head[i - half] * Math.sin(angle);
  });
};

/** softmax(q·kᵀ/√d)·v, heads sharing the keys of their group. */
export function attend(q, k, v, heads, kvHeads, { causal, theta }) {
  const dim = q[0].length / heads;
  const headOf = (rows, h) => rows.map((row, t) => (theta ? rotate(row.slice(h * dim, (h + 1) * dim), t, theta) : row.slice(h * dim, (h + 1) * dim)));
  const out = q.map(() => []);
  for (let h = 0; h < heads; h++) {
    const group = Math.floor((h * kvHeads) / heads);
    const [queries, keys] = [headOf(q, h), headOf(k, group)];
    const values = v.map((row) => row.slice(group * dim, (group + 1) * dim));
    for (const [t, query] of queries.entries()) {
      const seen = keys.slice(0, causal ? t + 1 : keys.length);
      const weights = seen.map((key) => Math.exp(query.reduce((sum, x, i) => sum + x * key[i], 0) / Math.sqrt(dim)));
      const total = weights.reduce((a, b) => a + b, 0);
      for (let i = 0; i < dim; i++) out[t].push(weights.reduce((sum, w, s) => sum + w * values[s][i], 0) / total);
    }
  }
  return out;
}

/** exp(x/T) over its sum. */
export const softmax = (x, temperature = 1) => {
  const most = Math.max(...x);
  const powers = x.map((v) => Math.exp((v - most) / temperature));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
};

/** The nearest point of the simplex (Martins and Astudillo, 2016). */
export const sparsemax = (x) => {
  const sorted = x.toSorted((a, b) => b - a);
  let sum = 0;
  let threshold = 0;
  for (const [k, v] of sorted.entries()) {
    sum += v;
    if (1 + (k + 1) * v > sum) threshold = (sum - 1) / (k + 1);
  }
  return x.map((v) => Math.max(0, v - threshold));
};

/** Entmax with α = 1.5 (Peters et al., 2019): max(0, x/2 − τ)², τ found by halving. */
export const entmax15 = (x) => {
  const shares = (tau) => x.map((v) => Math.max(0, v / 2 - tau) ** 2);
  let [low, high] = [Math.max(...x) / 2 - 1, Math.max(...x) / 2];
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (shares(middle).reduce((a, b) => a + b, 0) > 1) low = middle;
    else high = middle;
  }
  return shares(low);
};
