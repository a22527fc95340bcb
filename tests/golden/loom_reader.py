"""A second reader of Loom's bundles, with nothing of Heddle in it.

Written from shared/formats/loom.md (sections a, b, c and j) alone, in Python's standard library alone, so that what Heddle writes can be read by
somebody else's eyes: tests/node/loom-reader.test.mjs first proves this reader on the bundles that Loom itself wrote, then gives it bundles that
Heddle wrote. It knows none of Heddle's own keys: what only they say is lost here, as it would be in Loom.

    python3 loom_reader.py < cases.json > results.json

cases.json    [{"bundle": text, "id": text, "inputs": [[number, …], …]}, …]
results.json  [{"outputs": [[number, …], …], "lost": [text, …]} or {"error": text}, …]

`lost` names what Loom v0.0.8 would drop while it loads the bundle although the text has it (section j, 3 and 4): this reader does not.

Sums run in float64 and are rounded to float32 at the end of every layer; Loom rounds some of them after each addition. Attention has its output
projection. Whatever is random in Loom (gumbel, centres of its own) is an error here.
"""
import base64
import json
import math
import struct
import sys
from array import array


class BadBundle(Exception):
    """Loom's loader fails, or its forward crashes or is random."""


class Unjoinable(Exception):
    """An error inside a parallel, sequential or kmeans layer: the outermost passes its input through."""


def floats(values):
    """float32, each rounded once."""
    return list(array("f", values))


# ---- JSON with Go's eyes: keys match whatever their case, kinds must be right, what is missing is zero ----


def lowered(value):
    if isinstance(value, dict):
        return {key.lower(): lowered(each) for key, each in value.items()}
    return [lowered(each) for each in value] if isinstance(value, list) else value


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def whole(of, key):
    value = of.get(key) or 0
    if not is_number(value) or value != int(value):
        raise BadBundle(f"{key}: expected a whole number, found {value!r}")
    return int(value)


def number(of, key):
    value = of.get(key) or 0
    if not is_number(value):
        raise BadBundle(f"{key}: expected a number, found {value!r}")
    return float(value)


def text(of, key):
    value = of.get(key) or ""
    if not isinstance(value, str):
        raise BadBundle(f"{key}: expected a text, found {value!r}")
    return value


def items(of, key):
    value = of.get(key) or []
    if not isinstance(value, list):
        raise BadBundle(f"{key}: expected a list, found {value!r}")
    return value


# ---- Form 2: codes to float32 ----


def half(code):
    return struct.unpack("<e", struct.pack("<H", code))[0]


def e4m3(code):
    if code & 0x7F == 0:
        return 0.0
    value = 2.0 ** ((code >> 3 & 15) - 7) * (1 + (code & 7) / 8)
    return -value if code & 0x80 else value


def bits_to_float(code):
    return struct.unpack("<f", struct.pack("<I", code))[0]


def single(value):
    return floats([value])[0]


# dtype: (bytes, signed, (code, scale) -> value)
ENCODINGS = {
    "float32": (4, False, lambda q, s: bits_to_float(q)),
    "float64": (8, False, lambda q, s: struct.unpack("<d", struct.pack("<Q", q))[0]),
    "float16": (2, False, lambda q, s: half(q)),
    "bfloat16": (2, False, lambda q, s: bits_to_float(q << 16)),
    "float8": (1, False, lambda q, s: e4m3(q)),
    "float4": (0.5, False, lambda q, s: single(single(single(q / 7.5) - 1) * s)),
    "int4": (0.5, False, lambda q, s: (q - 8) * 8 / s),
    "int8": (1, True, lambda q, s: q / s),
    "int16": (2, True, lambda q, s: q / s),
    "int32": (4, True, lambda q, s: q / s),
    "int64": (8, True, lambda q, s: q / s),
    "uint8": (1, False, lambda q, s: q / 127.5 - 1),
    "uint16": (2, False, lambda q, s: q / 32767.5 - 1),
    "uint32": (4, False, lambda q, s: q / 2147483647.5 - 1),
    "uint64": (8, False, lambda q, s: q / 9.223372e18 - 1),
}


def decoded(field, dtype, scale):
    if not isinstance(field, str):
        raise BadBundle(f"expected Base64, found {field!r}")
    try:
        packed = base64.b64decode(field, validate=True)
    except ValueError:
        return []
    size, signed, value_of = ENCODINGS.get(dtype, ENCODINGS["float32"])
    if size == 0.5:
        codes = [half_byte for byte in packed for half_byte in (byte >> 4, byte & 15)]
    else:
        codes = [int.from_bytes(packed[i : i + size], "little", signed=signed) for i in range(0, len(packed) - size + 1, size)]
    return floats(value_of(code, scale) for code in codes)


def rows_or_flat(values):
    return [each for row in values for each in row] if values and isinstance(values[0], list) else values


class Weights:
    """A layer's weights by the field names of form 1."""

    # What form 2 calls otherwise.
    FORM_2 = {"conv_bias": "biases"}

    def __init__(self, layer, coding):
        self.layer = layer if isinstance(layer, dict) else {}
        self.coding = coding  # (dtype, scale); None in form 1

    def get(self, field):
        if self.coding:
            value = self.layer.get(self.FORM_2.get(field, field))
            return decoded(value, *self.coding) if value else []
        values = rows_or_flat(items(self.layer, field))
        if not all(map(is_number, values)):
            raise BadBundle(f"{field}: expected numbers")
        return floats(values)

    def branch(self, i):
        branches = items(self.layer, "branch_weights")
        return Weights(branches[i] if i < len(branches) else None, self.coding)


# ---- The bundle ----

IN_BOTH_FORMS = {
    "dense", "conv2d", "conv1d", "multi_head_attention", "rnn", "lstm", "softmax", "layer_norm", "rms_norm", "swiglu", "parallel", "sequential",
}
ONLY_FORM_2 = {"embedding", "residual"}
KNOWN = {1: IN_BOTH_FORMS | {"kmeans"}, 2: IN_BOTH_FORMS | ONLY_FORM_2}
ALIASES = {"mha": "multi_head_attention", "layernorm": "layer_norm", "rmsnorm": "rms_norm"}


class Layer:
    def __init__(self, cfg, weights, form, in_chain, lost):
        given = text(cfg, "type")
        self.kind = ALIASES.get(given, given)
        self.cfg, self.form, self.in_chain = cfg, form, in_chain
        if self.kind not in KNOWN[form]:
            if form == 1 and in_chain:
                raise BadBundle(f"unknown layer type {given!r}")
            self.kind, self.cfg = "dense", cfg if form == 2 else {}
        self.weights = weights
        if self.kind == "multi_head_attention" and (form == 2 or not in_chain):
            lost.append("attention's head size")
        if self.kind == "conv1d" and (form == 2 or not in_chain):
            lost.append("conv1d's sizes" if form == 2 else "conv1d's kernel")
        inner = self.kind == "kmeans"
        self.branches = [Layer(each, weights.branch(i), form, inner, lost) for i, each in enumerate(items(self.cfg, "branches"))]

    def activation(self):
        return ACTIVATIONS.get(text(self.cfg, "activation"), ACTIVATIONS["relu"])


class Network:
    def __init__(self, bundle, model_id):
        self.lost = []
        outer = lowered(json.loads(bundle))
        if text(outer, "type") != "modelhost/bundle":
            raise BadBundle(f"type: expected 'modelhost/bundle', found {outer.get('type')!r}")
        model = next((each for each in items(outer, "models") if text(each, "id") == model_id), None)
        if model is None:
            raise BadBundle(f"no model {model_id!r}")
        cfg, kept = model.get("cfg") or {}, model.get("weights") or {}
        inner = lowered(json.loads(base64.b64decode(text(kept, "data"), validate=True)))
        form = 2 if text(kept, "fmt") == "multiPrecisionB64" else 1
        coding = (text(inner, "dtype"), number(inner, "scale") or 1.0) if form == 2 else None
        listed, weights = items(cfg, "layers"), items(inner, "layers")
        if form == 1 and len(listed) != len(weights):
            raise BadBundle(f"{len(listed)} layers of cfg, {len(weights)} of weights")
        self.batch = whole(cfg, "batch_size")
        places = whole(cfg, "grid_rows") * whole(cfg, "grid_cols") * whole(cfg, "layers_per_cell")
        self.layers = []
        for i in range(places):
            declared = listed[i] if i < len(listed) else {"type": "dense"}
            self.layers.append(Layer(declared, Weights(weights[i] if i < len(weights) else None, coding), form, True, self.lost))

    def forward(self, x):
        return run_chain(self.layers, floats(x), self.batch)


# ---- Activations ----


def softplus(x):
    return math.log(1 + math.exp(x)) if x < 700 else math.inf


def sigmoid(x):
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


ACTIVATIONS = {
    "relu": lambda x: max(0.0, 1.1 * x),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "softplus": softplus,
    "leaky_relu": lambda x: x if x >= 0 else 0.1 * x,
}

# ---- Layers: (layer, x, batch) -> y ----


def at(values, i):
    return values[i] if i < len(values) else 0.0


def affine(x, n_rows, kernel, bias, n_in, n_out):
    """y[r][o] = Σ x[r][i] · kernel[i][o] + bias[o]; what is not there counts as 0."""
    x, kernel = x[: n_rows * n_in], kernel + [0.0] * (n_in * n_out - len(kernel))
    x = x + [0.0] * (n_rows * n_in - len(x))
    columns = [kernel[o : n_in * n_out : n_out] for o in range(n_out)]
    rows = (x[r * n_in : (r + 1) * n_in] for r in range(n_rows))
    return [sum(map(float.__mul__, row, column)) + at(bias, o) for row in rows for o, column in enumerate(columns)]


def dense(layer, x, batch):
    y = affine(x, batch, layer.weights.get("kernel"), layer.weights.get("biases"), whole(layer.cfg, "input_height"), whole(layer.cfg, "output_height"))
    return map(layer.activation(), y)


def conv(layer, x, batch, height, width, out_height, out_width, kernel_height):
    """Cross-correlation over [batch][channels][height][width]; one dimension is a height of 1 without padding."""
    cfg, kernel, bias = layer.cfg, layer.weights.get("kernel"), layer.weights.get("conv_bias")
    channels, filters, size = whole(cfg, "input_channels"), whole(cfg, "filters"), whole(cfg, "kernel_size")
    stride, pad = whole(cfg, "stride"), whole(cfg, "padding")
    pad_y, act = (pad if kernel_height > 1 or height > 1 else 0), layer.activation()
    y = []
    for b in range(batch):
        for f in range(filters):
            for i in range(out_height):
                for j in range(out_width):
                    total = at(bias, f)
                    for c in range(channels):
                        for p in range(kernel_height):
                            row = i * stride + p - pad_y
                            if not 0 <= row < height:
                                continue
                            for q in range(size):
                                column = j * stride + q - pad
                                if 0 <= column < width:
                                    total += at(x, ((b * channels + c) * height + row) * width + column) * at(kernel, ((f * channels + c) * kernel_height + p) * size + q)
                    y.append(act(total) if kernel else 0.0)
    return y


def conv2d(layer, x, batch):
    cfg = layer.cfg
    return conv(layer, x, batch, whole(cfg, "input_height"), whole(cfg, "input_width"), whole(cfg, "output_height"), whole(cfg, "output_width"), whole(cfg, "kernel_size"))


def conv1d(layer, x, batch):
    cfg = layer.cfg
    length = whole(cfg, "input_length") or len(x) // (whole(cfg, "input_channels") * batch)
    places = (length + 2 * whole(cfg, "padding") - whole(cfg, "kernel_size")) // whole(cfg, "stride") + 1
    return conv(layer, x, batch, 1, length, 1, places, 1)


def rotated(values, n_rows, heads, size, base):
    """Half-split rotary positions on [rows][heads][size]."""
    half_size, out = size // 2, list(values)
    for r in range(n_rows):
        for d in range(half_size):
            angle = r / base ** (2 * d / size)
            cos, sin = floats([math.cos(angle), math.sin(angle)])
            for h in range(heads):
                low = (r * heads + h) * size + d
                high = low + half_size
                out[low] = values[low] * cos - values[high] * sin
                out[high] = values[high] * cos + values[low] * sin
    return out


def attention(layer, x, batch):
    width, heads = whole(layer.cfg, "d_model"), whole(layer.cfg, "num_heads")
    n, size = len(x) // width, width // heads
    base = (0 if layer.in_chain else number(layer.cfg, "rope_freq_base")) or 10000.0
    get = layer.weights.get
    q, k, v = (affine(x, n, get(f"{part}_weights"), get(f"{part}_bias"), width, width) for part in "qkv")
    q, k = (rotated(each, n, heads, size, base) for each in (q, k))
    joined = [0.0] * (n * width)
    for h in range(heads):
        for i in range(n):
            begin = i * width + h * size
            scores = [sum(q[begin + d] * k[j * width + h * size + d] for d in range(size)) / math.sqrt(size) for j in range(i + 1)]
            for j, p in enumerate(softmax(scores, 1.0)):
                for d in range(size):
                    joined[begin + d] += p * v[j * width + h * size + d]
    return affine(joined, n, get("output_weight"), get("output_bias"), width, width)


def matrix_times(matrix, x, n_out):
    n_in = len(x)
    return [sum(matrix[o * n_in + i] * x[i] for i in range(n_in)) for o in range(n_out)]


def rnn(layer, x, batch):
    n_in, hidden, steps = (whole(layer.cfg, key) for key in ("input_size", "hidden_size", "seq_length"))
    weight_ih, weight_hh, bias = (layer.weights.get(field) for field in ("weight_ih", "weight_hh", "bias_h"))
    y = []
    for b in range(batch):
        h = [0.0] * hidden
        for t in range(steps):
            begin = (b * steps + t) * n_in
            own, past = matrix_times(weight_ih, x[begin : begin + n_in], hidden), matrix_times(weight_hh, h, hidden)
            h = floats(math.tanh(sum(each)) for each in zip(own, past, bias))
            y += h
    return y


def lstm(layer, x, batch):
    n_in, hidden, steps = (whole(layer.cfg, key) for key in ("input_size", "hidden_size", "seq_length"))
    gates = {g: [layer.weights.get(f"{part}{g}") for part in ("weight_i", "weight_h", "bias_")] for g in "ifgo"}
    y = []
    for b in range(batch):
        h, c = [0.0] * hidden, [0.0] * hidden
        for t in range(steps):
            begin = (b * steps + t) * n_in
            now = x[begin : begin + n_in]
            z = {g: list(map(sum, zip(matrix_times(w, now, hidden), matrix_times(u, h, hidden), bias))) for g, (w, u, bias) in gates.items()}
            c = [sigmoid(z["f"][k]) * c[k] + sigmoid(z["i"][k]) * math.tanh(z["g"][k]) for k in range(hidden)]
            h = floats(sigmoid(z["o"][k]) * math.tanh(c[k]) for k in range(hidden))
            c = floats(c)
            y += h
    return y


def swiglu(layer, x, batch):
    width, inner = whole(layer.cfg, "input_height"), whole(layer.cfg, "output_height")
    n, get = len(x) // width, layer.weights.get
    gate = affine(x, n, get("gate_weights"), get("gate_bias"), width, inner)
    up = affine(x, n, get("up_weights"), get("up_bias"), width, inner)
    return affine([g * sigmoid(g) * u for g, u in zip(gate, up)], n, get("down_weights"), get("down_bias"), inner, width)


def rms_norm(layer, x, batch):
    size, gamma = whole(layer.cfg, "norm_size"), layer.weights.get("gamma")
    epsilon, y = number(layer.cfg, "epsilon") or 1e-6, [0.0] * len(x)
    for begin in range(0, len(x) - size + 1, size):
        row = x[begin : begin + size]
        root = math.sqrt(sum(each * each for each in row) / size + epsilon)
        for i, each in enumerate(row):
            y[begin + i] = each / root * (gamma[i] if gamma else 1.0)
    return y


def layer_norm(layer, x, batch):
    size, gamma, beta = whole(layer.cfg, "norm_size"), layer.weights.get("gamma"), layer.weights.get("beta")
    epsilon, y = number(layer.cfg, "epsilon") or 1e-5, [0.0] * len(x)
    for begin in range(0, min(batch * size, len(x) - size + 1), size):
        row = x[begin : begin + size]
        mean = sum(row) / size
        root = math.sqrt(sum((each - mean) ** 2 for each in row) / size + epsilon)
        for i, each in enumerate(row):
            y[begin + i] = (each - mean) / root * (gamma[i] if gamma else 1.0) + (beta[i] if beta else 0.0)
    return y


def embedding(layer, x, batch):
    rows, width = whole(layer.cfg, "vocab_size"), whole(layer.cfg, "embedding_dim")
    table = layer.weights.get("embedding_weights")
    y = []
    for each in map(int, x):
        y += table[each * width : (each + 1) * width] if 0 <= each < rows else [0.0] * width
    return y


def residual(layer, x, batch):
    return map(layer.activation(), x)


# ---- Softmax ----


def softmax(x, t):
    most = max(x, default=0.0)
    powers = [math.exp((each - most) / t) for each in x]
    total = sum(powers)
    return [each / total for each in powers]


def sparse(x):
    """Loom's, with its factor 2."""
    total = count = prefix = 0
    for k, each in enumerate(sorted(x, reverse=True), 1):
        total += each
        if not each > (total - 1) / k:
            break
        count, prefix = k, total
    threshold = (2 * prefix - 1) / count
    return [max(0.0, each - threshold) for each in x]


def entmax(x, alpha):
    if alpha <= 1:
        return softmax(x, 1.0)
    if alpha >= 2:
        return sparse(x)
    mixed = [(2 - alpha) * a + (alpha - 1) * b for a, b in zip(softmax(x, 1.0), sparse(x))]
    total = sum(mixed)
    return [each / total for each in mixed] if total > 0 else mixed


def by_rows(x, rows, columns, t):
    y = [0.0] * len(x)
    for r in range(rows):
        y[r * columns : (r + 1) * columns] = softmax(x[r * columns : (r + 1) * columns], t)
    return y


def softmax_variant(layer, x):
    cfg = layer.cfg
    variant, t = text(cfg, "softmax_variant"), number(cfg, "temperature") or 1.0
    if variant == "grid":
        if not whole(cfg, "softmax_rows") or not whole(cfg, "softmax_cols"):
            raise Unjoinable("a grid without sizes")
        return by_rows(x, whole(cfg, "softmax_rows"), whole(cfg, "softmax_cols"), t)
    if variant == "hierarchical":
        levels = items(cfg, "hierarchy_levels")
        if not levels:
            raise Unjoinable("a hierarchy without levels")
        return by_rows(x, math.prod(levels[:-1]), levels[-1], t) if math.prod(levels) == len(x) else softmax(x, t)
    if variant == "masked":
        mask = items(cfg, "mask")
        if not mask and not layer.in_chain:
            raise Unjoinable("a mask is missing")
        return softmax([each if keep else -1e9 for each, keep in zip(x, mask)] if len(mask) == len(x) else x, t)
    if variant == "gumbel":
        raise BadBundle("gumbel is random")
    if variant == "sparse":
        return sparse(x)
    if variant == "entmax":
        return entmax(x, number(cfg, "entmax_alpha"))
    return softmax(x, 1.0 if variant in ("adaptive", "mixture") else t)


def softmax_layer(layer, x, batch):
    """Each sample's part alone in a chain; the whole vector in a branch."""
    parts = batch if layer.in_chain else 1
    size, y = len(x) // parts, [0.0] * len(x)
    for begin in range(0, size * parts, size or 1):
        part = x[begin : begin + size]
        try:
            y[begin : begin + size] = softmax_variant(layer, part)
        except Unjoinable:
            y[begin : begin + size] = softmax(part, 1.0)
    return y


# ---- Layers of layers ----


def parallel(layer, x, batch):
    outputs = []
    for branch in layer.branches:
        if branch.kind in ONLY_FORM_2:
            raise Unjoinable(f"a branch of type {branch.kind}")
        outputs.append(floats(LAYERS[branch.kind](branch, x, batch)))
    mode = text(layer.cfg, "combine_mode")
    if not outputs or mode not in JOINS:
        raise Unjoinable(f"{len(outputs)} branches joined by {mode!r}")
    return JOINS[mode](layer, outputs, batch)


def concat(layer, outputs, batch):
    return [each for output in outputs for each in output]


def added(outputs):
    if len({len(output) for output in outputs}) > 1:
        raise Unjoinable("branches of unequal sizes")
    return [sum(each) for each in zip(*outputs)]


def add(layer, outputs, batch):
    return added(outputs)


def average(layer, outputs, batch):
    share = single(1 / len(outputs))
    return [each * share for each in added(outputs)]


def filtered(layer, outputs, batch):
    """A bundle has no gate, so all branches weigh the same."""
    size = max(map(len, outputs))
    return [sum(at(output, i) for output in outputs) / len(outputs) for i in range(size)]


def grid_scatter(layer, outputs, batch):
    cfg = layer.cfg
    rows, columns, layers = (whole(cfg, f"grid_output_{key}") for key in ("rows", "cols", "layers"))
    positions = items(cfg, "grid_positions") if layer.form == 1 else []
    if not rows * columns * layers or len(positions) != len(outputs):
        raise Unjoinable(f"{len(positions)} positions for {len(outputs)} branches")
    cells, widths = [], [0] * (rows * columns * layers)
    for position, output in zip(positions, outputs):
        r, c, l = (whole(position, f"target_{key}") for key in ("row", "col", "layer"))
        if not (0 <= r < rows and 0 <= c < columns and 0 <= l < layers):
            raise Unjoinable("a position outside the grid")
        cells.append((r * columns + c) * layers + l)
        widths[cells[-1]] = len(output) // batch
    total, y = sum(widths), []
    for b in range(batch):
        sample = [0.0] * total
        for cell, output in zip(cells, outputs):
            begin, width = sum(widths[:cell]), len(output) // batch
            sample[begin : begin + width] = output[b * width : (b + 1) * width]
        y += sample
    return y


JOINS = {"concat": concat, "": concat, "add": add, "avg": average, "average": average, "filter": filtered, "grid_scatter": grid_scatter}


def sequential(layer, x, batch):
    for branch in layer.branches:
        if branch.kind == "dense":
            x = floats(dense(branch, x, batch))
        elif branch.kind == "softmax":
            x = floats(softmax_variant(branch, x))
    return x


def kmeans(layer, x, batch):
    if not layer.branches:
        raise Unjoinable("kmeans without a network")
    features = run_chain(layer.branches, x, 1)
    centers, width = layer.weights.get("cluster_centers"), len(features)
    if not centers or whole(layer.cfg, "cluster_dim") != width:
        raise BadBundle("centres of kmeans are random")
    t = number(layer.cfg, "kmeans_temperature") or 1.0
    rows = [centers[k * width : (k + 1) * width] for k in range(whole(layer.cfg, "num_clusters"))]
    logits = floats(-sum((f - c) ** 2 for f, c in zip(features, row)) / (2 * t * t) for row in rows)
    p = floats(softmax(logits, 1.0))
    if text(layer.cfg, "kmeans_output_mode") != "features":
        return p
    return [sum(share * row[d] for share, row in zip(p, rows)) for d in range(width)]


LAYERS = {
    "dense": dense, "conv2d": conv2d, "conv1d": conv1d, "multi_head_attention": attention, "rnn": rnn, "lstm": lstm, "softmax": softmax_layer,
    "layer_norm": layer_norm, "rms_norm": rms_norm, "swiglu": swiglu, "embedding": embedding, "residual": residual, "parallel": parallel,
    "sequential": sequential, "kmeans": kmeans,
}


def plus(x, carried):
    return floats(a + b for a, b in zip(x, carried)) if carried is not None and len(carried) == len(x) else x


def run_chain(layers, x, batch):
    """A network's own layers, with the hidden residual beside them."""
    carried = None
    for layer in layers:
        before = x = plus(x, carried) if layer.kind == "layer_norm" else x
        try:
            x = floats(LAYERS[layer.kind](layer, x, batch))
        except Unjoinable:
            x = before
        if layer.kind == "rms_norm":
            carried = before
        elif layer.kind in ("multi_head_attention", "swiglu"):
            carried = x = plus(x, carried)
        elif layer.kind == "layer_norm" and carried is not None:
            carried = x
    return x


def result(case):
    try:
        network = Network(case["bundle"], case["id"])
        return {"outputs": [network.forward(x) for x in case["inputs"]], "lost": network.lost}
    except (BadBundle, ValueError, ZeroDivisionError, IndexError, TypeError) as error:
        return {"error": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    json.dump([result(case) for case in json.load(sys.stdin)], sys.stdout)
