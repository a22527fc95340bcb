/**
 * reference-llama.mjs: a Llama in double precision, written from the published formulas (Touvron et al., 2023; RoPE: Su et al., 2021;
 * grouped heads: Ainslie et al., 2023) and sharing nothing with the package. Its weights may be quantised to GGML's Q8_0 and Q4_0, to symmetric
 * int8 by row, or rounded to F16, its activations treated in three ways before they meet a quantised weight: exactly as they are, rounded to 8 bits per 32, or with
 * random noise of the rounding's size.
 */

const block = 32;

// ---- Quantisation ----

/** The nearest IEEE half, ties to even, of a float32. */
export function toF16(value) {
  const size = Math.abs(value);
  const step = 2 ** (Math.max(Math.floor(Math.log2(size)), -14) - 10);
  return Math.sign(value) * roundEven(size / step) * step; // sign(−0) is −0
}

function roundEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  return rest > 0.5 || (rest === 0.5 && below % 2 !== 0) ? below + 1 : below;
}

/** Q8_0 as ggml's quantize_row_q8_0_ref does it, dequantised: per 32 values d = max|x| / 127 as F16, q = round(x · (1/d)), q · d. */
export function throughQ8(values) {
  const out = new Float64Array(values.length);
  for (let at = 0; at < values.length; at += block) {
    let most = 0;
    for (let i = at; i < at + block; i++) most = Math.max(most, Math.abs(values[i]));
    const d = Math.fround(most / 127);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    for (let i = at; i < at + block; i++) {
      const scaled = Math.fround(values[i] * inverse);
      const code = Math.sign(scaled) * Math.floor(Math.abs(scaled) + 0.5) + 0; // an integer has no −0
      out[i] = code * toF16(d);
    }
  }
  return out;
}

/** Q4_0 as the gguf package does it, dequantised: d = (first value of largest size) / −8, q = min(15, trunc(x · (1/d) + 8.5)), (q − 8) · F16(d). */
export function throughQ4(values) {
  const out = new Float64Array(values.length);
  for (let at = 0; at < values.length; at += block) {
    let far = 0;
    for (let i = at; i < at + block; i++) if (Math.abs(values[i]) > Math.abs(far)) far = values[i];
    const d = Math.fround(far / -8);
    const inverse = d === 0 ? 0 : Math.fround(1 / d);
    for (let i = at; i < at + block; i++) out[i] = (Math.min(15, Math.trunc(values[i] * inverse + 8.5)) - 8) * toF16(d);
  }
  return out;
}

/** Symmetric int8 of each row of `cols`, dequantised: d = max|x| / 127, rint(x / d) · d, in float32. */
export function throughInt8(values, cols) {
  const out = new Float64Array(values.length);
  for (let at = 0; at < values.length; at += cols) {
    const d = Math.fround(values.slice(at, at + cols).reduce((a, b) => Math.max(a, Math.abs(b)), 0) / 127);
    for (let i = at; i < at + cols; i++) out[i] = d === 0 ? 0 : Math.fround((roundEven(Math.fround(values[i] / d)) + 0) * d); // an integer has no −0
  }
  return out;
}

// ---- What happens to activations before a quantised weight ----

export const exact = (x) => x;

function perBlock(x, change) {
  const out = new Float64Array(x.length);
  for (let at = 0; at < x.length; at += block) {
    const most = x.slice(at, at + block).reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    const d = Math.fround(Math.fround(most) / 127);
    for (let i = at; i < at + block; i++) out[i] = d === 0 ? 0 : change(x[i], d);
  }
  return out;
}

/** round(x / d) · d with d = max|x| / 127: src/kernels/matrix.h, k_reference_matmul_q8_0. */
export const rounded = (x) => perBlock(x, (value, d) => roundEven(Math.fround(Math.fround(value) / d)) * d);

/** x + d · u, u uniform in −½ … ½: the rounding's error as a random variable. Seeded (mulberry32). */
export function noisy(seed) {
  const uniform = () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let z = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
    return ((z ^ (z >>> 14)) >>> 0) / 2 ** 32;
  };
  return (x) => perBlock(x, (value, d) => value + d * (uniform() - 0.5));
}

// ---- The model ----

/** What a matrix becomes where 'q8_0', 'q4_0', 'int8' or 'f16' is asked for: rows that are no multiple of 32 stay F16, the embedding 8 bits at least. */
function kindOf(name, cols, asked) {
  if (asked === 'int8' || cols % block === 0) return asked === 'q4_0' && /embed|head/.test(name) ? 'q8_0' : asked;
  return 'f16';
}

const through = { q8_0: throughQ8, q4_0: throughQ4, int8: throughInt8, f16: (values) => Float64Array.from(values, toF16) };

/** The weights as what is asked for, dequantised, with `kind`, and `quantised` where activations are; vectors stay. */
export function quantiseWeights(tensors, asked = 'q8_0') {
  const out = new Map();
  for (const [name, { shape, data }] of tensors) {
    const kind = shape.length === 2 ? kindOf(name, shape[1], asked) : 'f32';
    out.set(name, { shape, kind, quantised: kind !== 'f16' && kind !== 'f32', data: kind === 'f32' ? data : through[kind](data, shape[1]) });
  }
  return out;
}

/** y = x · wᵀ. Activations of one vector are treated once, however many weights they meet. */
function linear(x, w, treat, treated) {
  if (w.quantised && !treated.has(x)) treated.set(x, treat(x));
  const input = w.quantised ? treated.get(x) : x;
  const [rows, cols] = w.shape;
  const y = new Float64Array(rows);
  for (let r = 0; r < rows; r++) for (let c = 0, at = r * cols; c < cols; c++) y[r] += input[c] * w.data[at + c];
  return y;
}

function rmsNorm(x, weight, epsilon) {
  const inverse = 1 / Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length + epsilon);
  return x.map((value, i) => value * inverse * weight.data[i]);
}

/** Half-split rotation of every head: pairs (i, i + dim/2) by position · theta^(−2i/dim). */
function rotate(x, position, dim, theta) {
  const out = new Float64Array(x.length);
  for (let head = 0; head < x.length; head += dim) {
    for (let i = 0; i < dim / 2; i++) {
      const angle = position * theta ** ((-2 * i) / dim);
      const [low, high] = [x[head + i], x[head + i + dim / 2]];
      out[head + i] = low * Math.cos(angle) - high * Math.sin(angle);
      out[head + i + dim / 2] = high * Math.cos(angle) + low * Math.sin(angle);
    }
  }
  return out;
}

/** The newest query's heads over all keys so far. */
function attend(q, keys, values, heads, kvHeads, dim) {
  const out = new Float64Array(heads * dim);
  for (let h = 0; h < heads; h++) {
    const from = Math.floor(h / (heads / kvHeads)) * dim;
    const scores = keys.map((key) => {
      let sum = 0;
      for (let i = 0; i < dim; i++) sum += q[h * dim + i] * key[from + i];
      return sum / Math.sqrt(dim);
    });
    const most = Math.max(...scores);
    const powers = scores.map((score) => Math.exp(score - most));
    const total = powers.reduce((a, b) => a + b, 0);
    for (let j = 0; j < keys.length; j++) for (let i = 0; i < dim; i++) out[h * dim + i] += (powers[j] / total) * values[j][from + i];
  }
  return out;
}

const plus = (a, b) => a.map((value, i) => value + b[i]);

/** The logits at the last of the positions. `config`: Hugging Face's config.json; `weights`: its names → { shape, data, quantised? }. */
export function lastLogits(config, weights, ids, treat = exact) {
  const { num_attention_heads: heads, num_key_value_heads: kvHeads, hidden_size: hidden, rms_norm_eps: epsilon, rope_theta: theta } = config;
  const dim = config.head_dim ?? hidden / heads;
  const cache = Array.from({ length: config.num_hidden_layers }, () => ({ keys: [], values: [] }));
  const treated = new Map();
  const embedding = weights.get('model.embed_tokens.weight');
  let x;
  ids.forEach((id, position) => {
    x = Float64Array.from(embedding.data.subarray(id * hidden, (id + 1) * hidden));
    cache.forEach(({ keys, values }, layer) => {
      const weight = (name) => weights.get(`model.layers.${layer}.${name}.weight`);
      const project = (input, name) => linear(input, weight(name), treat, treated);
      const normed = rmsNorm(x, weight('input_layernorm'), epsilon);
      keys.push(rotate(project(normed, 'self_attn.k_proj'), position, dim, theta));
      values.push(project(normed, 'self_attn.v_proj'));
      const q = rotate(project(normed, 'self_attn.q_proj'), position, dim, theta);
      x = plus(x, project(attend(q, keys, values, heads, kvHeads, dim), 'self_attn.o_proj'));
      const inner = rmsNorm(x, weight('post_attention_layernorm'), epsilon);
      const up = project(inner, 'mlp.up_proj');
      const gated = project(inner, 'mlp.gate_proj').map((value, i) => (value / (1 + Math.exp(-value))) * up[i]);
      x = plus(x, project(gated, 'mlp.down_proj'));
    });
  });
  return linear(rmsNorm(x, weights.get('model.norm.weight'), epsilon), weights.get('lm_head.weight') ?? embedding, treat, treated);
}

/**
 * The logits with rounded activations, once for every way the roundings closer than `margin` (in steps) to a tie can go: float32 may take either
 * side there, and one step of one activation is far more than float32 noise.
 */
export function roundedEitherWay(config, weights, ids, margin, choices = []) {
  let n = 0;
  const treat = (x) => perBlock(x, (value, d) => {
    const ratio = Math.fround(Math.fround(value) / d);
    const below = Math.floor(ratio);
    const isOpen = Math.abs(ratio - below - 0.5) < margin;
    const choice = isOpen ? choices[n++] : undefined;
    return (choice === undefined ? roundEven(ratio) : below + choice) * d;
  });
  const logits = lastLogits(config, weights, ids, treat);
  if (n <= choices.length) return [logits];
  if (n > 8) throw new Error(`${n} roundings lie within ${margin} of a tie: the margin is too wide`);
  return [0, 1].flatMap((choice) => roundedEitherWay(config, weights, ids, margin, [...choices, choice]));
}
