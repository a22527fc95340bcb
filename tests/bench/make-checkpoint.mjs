/**
 * A checkpoint in the exact shape of a real model, with random weights: for tests and benches of size and speed, which care for
 * shapes and not for meaning. BF16, SafeTensors, Hugging Face's names; the same bytes on every machine.
 *
 *   node tests/bench/make-checkpoint.mjs [smollm2-135m] [--layers N]
 *
 * It lies in the cache folder, is made once and is never committed.
 */
import { closeSync, existsSync, openSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setup } from '../../tools/setup.mjs';
import { Stop, makeFolder, program, step, withLock } from '../../tools/step.mjs';

/** Raise it when the bytes change, so that old caches are not used. */
const version = 1;

/** Hugging Face's config.json of the models whose shape is wanted. */
const configs = {
  'smollm2-135m': {
    architectures: ['LlamaForCausalLM'], model_type: 'llama', torch_dtype: 'bfloat16',
    hidden_size: 576, num_hidden_layers: 30, num_attention_heads: 9, num_key_value_heads: 3, intermediate_size: 1536,
    vocab_size: 49152, tie_word_embeddings: true, rope_theta: 100000, rms_norm_eps: 1e-5, max_position_embeddings: 8192,
    hidden_act: 'silu', attention_bias: false, mlp_bias: false, initializer_range: 1 / 24,
  },
};

/** { name: [rows, cols] or [size] } in the order of the file. */
export function llamaTensors(config) {
  const { hidden_size: hidden, intermediate_size: inner, vocab_size: vocabulary } = config;
  const width = hidden / config.num_attention_heads;
  const [q, kv] = [config.num_attention_heads * width, config.num_key_value_heads * width];
  const shapes = { 'model.embed_tokens.weight': [vocabulary, hidden] };
  for (let i = 0; i < config.num_hidden_layers; i++) {
    const layer = {
      'input_layernorm': [hidden], 'self_attn.q_proj': [q, hidden], 'self_attn.k_proj': [kv, hidden], 'self_attn.v_proj': [kv, hidden],
      'self_attn.o_proj': [hidden, q], 'post_attention_layernorm': [hidden],
      'mlp.gate_proj': [inner, hidden], 'mlp.up_proj': [inner, hidden], 'mlp.down_proj': [hidden, inner],
    };
    for (const [name, shape] of Object.entries(layer)) shapes[`model.layers.${i}.${name}.weight`] = shape;
  }
  shapes['model.norm.weight'] = [hidden];
  if (!config.tie_word_embeddings) shapes['lm_head.weight'] = [vocabulary, hidden];
  return shapes;
}

/** The nearest BF16, ties to even. */
function toBf16(value) {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0];
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

/** The sum of four random bytes: bell-shaped, and exact on every machine. */
const sums = 4 * 255 + 1;
const deviation = Math.sqrt((4 * (256 * 256 - 1)) / 12);

/** The BF16 value of each sum, for values around `mean` that deviate by `spread`. */
function bell(mean, spread) {
  return Uint16Array.from({ length: sums }, (_, sum) => toBf16(mean + ((sum - (sums - 1) / 2) / deviation) * spread));
}

/** xorshift32, seeded by the tensor's name: a tensor has the same values however many layers there are. */
class Random {
  constructor(name) {
    this.state = 2166136261;
    for (const unit of Buffer.from(name)) this.state = Math.imul(this.state ^ unit, 16777619);
    this.state ||= 1;
  }

  fill(values, table) {
    let x = this.state;
    for (let i = 0; i < values.length; i++) {
      x ^= x << 13;
      x ^= x >>> 17;
      x ^= x << 5;
      values[i] = table[(x & 255) + ((x >>> 8) & 255) + ((x >>> 16) & 255) + (x >>> 24)];
    }
    this.state = x;
  }
}

function writeWeights(path, config) {
  const shapes = llamaTensors(config);
  const header = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const begin = end;
    end += 2 * shape.reduce((a, b) => a * b);
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] };
  }
  const text = JSON.stringify(header);
  const padded = Buffer.from(text.padEnd(Math.ceil(text.length / 8) * 8));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(padded.length));

  const [weights, norms] = [bell(0, config.initializer_range), bell(1, 0.05)];
  const file = openSync(path, 'w');
  writeSync(file, length);
  writeSync(file, padded);
  for (const [name, shape] of Object.entries(shapes)) {
    const random = new Random(name);
    let left = shape.reduce((a, b) => a * b);
    while (left > 0) {
      const values = new Uint16Array(Math.min(left, 1 << 20));
      random.fill(values, shape.length === 1 ? norms : weights);
      writeSync(file, new Uint8Array(values.buffer));
      left -= values.length;
    }
  }
  closeSync(file);
}

/**
 * The checkpoint `name`, made first where the cache has none: { folder, config, weights, bytes }, with the paths of its folder and
 * its weights, its config.json as an object and the weight file's size. `layers`: fewer than the model has.
 */
export async function makeCheckpoint(name = 'smollm2-135m', { layers } = {}) {
  if (!configs[name]) throw new Stop(`"${name}" is none of ${Object.keys(configs).join(', ')}`);
  const config = { ...configs[name], ...(layers && { num_hidden_layers: layers }) };
  const { cacheDir } = await setup({ need: [] });
  const folder = join(cacheDir, `${name}${layers ? `-${layers}-layers` : ''}-v${version}`);
  const isThere = () => existsSync(join(folder, 'model.safetensors'));
  if (!isThere()) {
    await withLock(`${folder}.lock`, async () => {
      if (isThere()) return;
      await step(`making a random checkpoint in the shape of ${name}`, () => makeFolder(folder, async (partial) => {
        writeFileSync(join(partial, 'config.json'), JSON.stringify(config, null, 2));
        writeWeights(join(partial, 'model.safetensors'), config);
      }));
    });
  }
  const weights = join(folder, 'model.safetensors');
  return { folder, config, weights, bytes: statSync(weights).size };
}

program(import.meta.url, async (args) => {
  const at = args.indexOf('--layers');
  const layers = at >= 0 ? Number(args.splice(at, 2)[1]) : undefined;
  if (layers !== undefined && !(layers >= 1)) throw new Stop('--layers wants a number from 1');
  console.log(await makeCheckpoint(args[0], { layers }));
});
