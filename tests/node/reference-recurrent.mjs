/**
 * reference-recurrent.mjs: RNN, LSTM and GRU as PyTorch's documentation writes them, in double and without a thought of speed, from any
 * first state. Proven on PyTorch's own outputs first, it then says what they are from a state of zero.
 */
const sigmoid = (x) => 1 / (1 + Math.exp(-x));

/** What each cell makes of gates from the input (a) and from the state (u): the new [h, c]. */
const cells = {
  RNN: (a, u, h, c, { nonlinearity = 'tanh' }) => [h.map((_, k) => (nonlinearity === 'relu' ? Math.max(0, a[k] + u[k]) : Math.tanh(a[k] + u[k])))],
  LSTM: (a, u, h, c) => {
    const n = c.length;
    const gate = (g, k) => a[g * n + k] + u[g * n + k];
    const next = c.map((value, k) => sigmoid(gate(1, k)) * value + sigmoid(gate(0, k)) * Math.tanh(gate(2, k)));
    return [next.map((value, k) => sigmoid(gate(3, k)) * Math.tanh(value)), next];
  },
  GRU: (a, u, h) => {
    const n = h.length;
    return [h.map((value, k) => {
      const r = sigmoid(a[k] + u[k]);
      const z = sigmoid(a[n + k] + u[n + k]);
      return (1 - z) * Math.tanh(a[2 * n + k] + r * u[2 * n + k]) + z * value;
    })];
  },
};

/** W·x + b, W flat in rows of x's length. */
const affine = (w, b, x) => Array.from({ length: w.length / x.length }, (_, r) => x.reduce((sum, value, k) => sum + w[r * x.length + k] * value, b?.[r] ?? 0));

/** One direction of one layer over a list of vectors. `weight` gives a parameter's numbers by its name before `_l0`. */
function direction(config, weight, inputs, reverse, h, c) {
  const outputs = [];
  for (let s = 0; s < inputs.length; s++) {
    const t = reverse ? inputs.length - 1 - s : s;
    const a = affine(weight('weight_ih'), weight('bias_ih'), inputs[t]);
    const u = affine(weight('weight_hh'), weight('bias_hh'), h);
    [h, c] = cells[config.type](a, u, h, c, config);
    if (config.proj_size) h = affine(weight('weight_hr'), undefined, h);
    outputs[t] = h;
  }
  return outputs;
}

/**
 * The output y as one flat list. `tensors` holds param.*, and in.h0 and in.c0 [layers · directions, batch, width] unless `fromZero`; x has
 * PyTorch's shape.
 */
export function recurrent(config, tensors, { fromZero }) {
  const { shape, data } = tensors.get('in.x');
  const width = shape.at(-1);
  const [batch, steps] = shape.length === 2 ? [1, shape[0]] : config.batch_first ? shape : [shape[1], shape[0]];
  const rowOf = (b, t) => (config.batch_first ? b * steps + t : t * batch + b);
  const ways = config.bidirectional ? ['', '_reverse'] : [''];
  const y = [];
  for (let b = 0; b < batch; b++) {
    let sequence = Array.from({ length: steps }, (_, t) => Array.from(data.subarray(rowOf(b, t) * width, (rowOf(b, t) + 1) * width)));
    for (let layer = 0; layer < (config.num_layers ?? 1); layer++) {
      const state = (name, way, size) => {
        const given = fromZero ? undefined : tensors.get(name)?.data;
        const at = ((layer * ways.length + way) * batch + b) * size;
        return given ? Array.from(given.subarray(at, at + size)) : new Array(size).fill(0);
      };
      const both = ways.map((suffix, way) => {
        const weight = (name) => tensors.get(`param.${name}_l${layer}${suffix}`)?.data;
        const h = state('in.h0', way, config.proj_size || config.hidden_size);
        return direction(config, weight, sequence, way === 1, h, state('in.c0', way, config.hidden_size));
      });
      sequence = sequence.map((_, t) => both.flatMap((outputs) => outputs[t]));
    }
    sequence.forEach((row, t) => { y[rowOf(b, t)] = row; });
  }
  return y.flat();
}
