/**
 * llamacpp.mjs: checkpoints of transformers as GGUF files, written as llama.cpp's converter writes them and independently of the package: its names, its
 * orders of rows, its metadata (convert_hf_to_gguf.py and gguf-py of ggml-org/llama.cpp say them).
 */
import { readSafetensors } from './golden.mjs';
import { golden, readJson } from './heddle.mjs';

// ---- The file ----

const types = { F32: 0, F16: 1, Q8_0: 8 };
const kinds = { u32: 4, f32: 6, bool: 7, string: 8 };

class Bytes {
  #parts = [];
  length = 0;
  add(bytes) {
    this.#parts.push(Buffer.from(bytes.buffer ?? bytes, bytes.byteOffset, bytes.byteLength));
    this.length += bytes.byteLength;
  }
  u32(value) { this.add(Uint32Array.of(value)); }
  u64(value) { this.add(BigUint64Array.of(BigInt(value))); }
  text(value) {
    const bytes = Buffer.from(value);
    this.u64(bytes.length);
    this.add(bytes);
  }
  align() { this.add(new Uint8Array((32 - (this.length % 32)) % 32)); }
  all() { return new Uint8Array(Buffer.concat(this.#parts)); }
}

/** A file of version 3. Metadata: key → [type, value]; tensors: name → { type, shape (outermost first), bytes }. */
export function writeGguf(metadata, tensors) {
  const [file, data] = [new Bytes(), new Bytes()];
  file.add(Buffer.from('GGUF'));
  file.u32(3);
  file.u64(Object.keys(tensors).length);
  file.u64(Object.keys(metadata).length);
  for (const [key, [kind, value]] of Object.entries(metadata)) {
    file.text(key);
    file.u32(kinds[kind]);
    if (kind === 'string') file.text(value);
    else file.add(kind === 'bool' ? Uint8Array.of(Number(value)) : kind === 'f32' ? Float32Array.of(value) : Uint32Array.of(value));
  }
  for (const [name, { type, shape, bytes }] of Object.entries(tensors)) {
    file.text(name);
    file.u32(shape.length);
    for (const size of shape.toReversed()) file.u64(size);
    file.u32(types[type]);
    data.align();
    file.u64(data.length);
    data.add(bytes);
  }
  file.align();
  file.add(data.all());
  return file.all();
}

// ---- Tensors ----

const f32 = ({ shape, data }) => ({ type: 'F32', shape, bytes: Float32Array.from(data) });

/** The halves of each head's rows interleaved: LlamaModel.permute. */
function permuted({ shape: [rows, cols], data }, heads) {
  const half = rows / heads / 2;
  const out = new Float32Array(data.length);
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < half; i++)
      for (let p = 0; p < 2; p++) {
        const from = (h * 2 * half + p * half + i) * cols;
        out.set(data.subarray(from, from + cols), (h * 2 * half + 2 * i + p) * cols);
      }
  return { shape: [rows, cols], data: out };
}

function transposed({ shape: [rows, cols], data }) {
  return { shape: [cols, rows], data: Float32Array.from(data, (_, i) => data[(i % rows) * cols + Math.floor(i / rows)]) };
}

function stacked(parts) {
  return { shape: [parts.length, ...parts[0].shape], data: Float32Array.from(parts.flatMap(({ data }) => [...data])) };
}

/** Blocks of 32 values with scales that are powers of two, so that halves hold them. */
export function q8Blocks(values) {
  const bytes = new Uint8Array((values.length / 32) * 34);
  const view = new DataView(bytes.buffer);
  for (let b = 0; b < values.length / 32; b++) {
    const block = values.subarray(32 * b, 32 * b + 32);
    const exponent = Math.ceil(Math.log2(Math.max(...block.map(Math.abs), 1e-6) / 127));
    view.setUint16(34 * b, (exponent + 15) << 10, true);
    block.forEach((value, i) => view.setInt8(34 * b + 2 + i, Math.round(value / 2 ** exponent)));
  }
  return bytes;
}

// ---- Names ----

const decoderNames = {
  'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', lm_head: 'output', input_layernorm: 'attn_norm', post_attention_layernorm: 'ffn_norm',
  'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output', 'self_attn.qkv_proj': 'attn_qkv',
  'self_attn.q_norm': 'attn_q_norm', 'self_attn.k_norm': 'attn_k_norm', 'mlp.gate_up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
  'mlp.gate': 'ffn_gate_inp', 'block_sparse_moe.gate': 'ffn_gate_inp',
};
const gpt2Names = {
  'transformer.wte': 'token_embd', 'transformer.wpe': 'position_embd', 'transformer.ln_f': 'output_norm', ln_1: 'attn_norm', 'attn.c_attn': 'attn_qkv', 'attn.c_proj': 'attn_output',
  ln_2: 'ffn_norm', 'mlp.c_fc': 'ffn_up', 'mlp.c_proj': 'ffn_down',
};
const bertNames = {
  'embeddings.word_embeddings': 'token_embd', 'embeddings.token_type_embeddings': 'token_types', 'embeddings.position_embeddings': 'position_embd', 'embeddings.LayerNorm': 'token_embd_norm',
  'attention.self.query': 'attn_q', 'attention.self.key': 'attn_k', 'attention.self.value': 'attn_v', 'attention.output.dense': 'attn_output', 'attention.output.LayerNorm': 'attn_output_norm',
  'intermediate.dense': 'ffn_up', 'output.dense': 'ffn_down', 'output.LayerNorm': 'layer_output_norm',
};
const roles = { gate_proj: 'gate', w1: 'gate', up_proj: 'up', w3: 'up', down_proj: 'down', w2: 'down' };

/** "model.layers.0.mlp.down_proj.weight" as "blk.0.ffn_down.weight"; undefined: the converter leaves it out. */
function nameOf(name, names) {
  const [, block, part, ending] = /^(?:model\.layers\.|transformer\.h\.|encoder\.layer\.)(\d+)\.(.*)\.(weight|bias)$/.exec(name) ?? [undefined, undefined, ...name.split(/\.(?=[^.]*$)/)];
  if (part === 'pooler.dense') return undefined;
  if (!names[part]) throw new Error(`no name for ${name}`);
  return `${block === undefined ? '' : `blk.${block}.`}${names[part]}.${ending}`;
}

// ---- Metadata ----

const common = (name, config) => ({
  'general.architecture': ['string', name], [`${name}.block_count`]: ['u32', config.num_hidden_layers], [`${name}.context_length`]: ['u32', config.max_position_embeddings],
  [`${name}.embedding_length`]: ['u32', config.hidden_size], [`${name}.feed_forward_length`]: ['u32', config.intermediate_size], [`${name}.attention.head_count`]: ['u32', config.num_attention_heads],
});

const decoderMetadata = (name, config) => ({
  ...common(name, config),
  [`${name}.attention.head_count_kv`]: ['u32', config.num_key_value_heads], [`${name}.rope.freq_base`]: ['f32', config.rope_parameters.rope_theta],
  [`${name}.attention.layer_norm_rms_epsilon`]: ['f32', config.rms_norm_eps], [`${name}.rope.dimension_count`]: ['u32', config.head_dim ?? config.hidden_size / config.num_attention_heads],
  ...(config.head_dim && { [`${name}.attention.key_length`]: ['u32', config.head_dim], [`${name}.attention.value_length`]: ['u32', config.head_dim] }),
  ...(config.num_local_experts && { [`${name}.expert_count`]: ['u32', config.num_local_experts], [`${name}.expert_used_count`]: ['u32', config.num_experts_per_tok] }),
  ...(config.moe_intermediate_size && { [`${name}.expert_feed_forward_length`]: ['u32', config.moe_intermediate_size] }),
});

function longropeMetadata(name, config) {
  const { original_max_position_embeddings: original } = config;
  const scale = config.max_position_embeddings / original;
  return { [`${name}.rope.scaling.original_context_length`]: ['u32', original], [`${name}.rope.scaling.attn_factor`]: ['f32', Math.sqrt(1 + Math.log(scale) / Math.log(original))] };
}

const families = {
  mixtral: { name: 'llama', names: decoderNames, metadata: decoderMetadata, permuted: true },
  qwen3_moe: { name: 'qwen3moe', names: decoderNames, metadata: decoderMetadata },
  phi3: { name: 'phi3', names: decoderNames, metadata: decoderMetadata },
  gpt2: {
    name: 'gpt2', names: gpt2Names, transposed: /\.(c_attn|c_proj|c_fc)\.weight$/,
    metadata: (name, { n_layer, n_positions, n_embd, n_head, layer_norm_epsilon }) => ({
      ...common(name, { num_hidden_layers: n_layer, max_position_embeddings: n_positions, hidden_size: n_embd, intermediate_size: 4 * n_embd, num_attention_heads: n_head }),
      [`${name}.attention.layer_norm_epsilon`]: ['f32', layer_norm_epsilon],
    }),
  },
  bert: {
    name: 'bert', names: bertNames,
    metadata: (name, config) => ({
      ...common(name, config), [`${name}.attention.layer_norm_epsilon`]: ['f32', config.layer_norm_eps], [`${name}.attention.causal`]: ['bool', false], [`${name}.pooling_type`]: ['u32', 1],
      'tokenizer.ggml.token_type_count': ['u32', config.type_vocab_size],
    }),
  },
};

/** The tensors of a golden checkpoint, as { name: { type, shape, bytes } }, and its metadata. `oneByOne`: experts as old files have them. */
export function asLlamaCpp(checkpoint, { oneByOne = false } = {}) {
  const config = readJson(golden(`transformers/${checkpoint}/config.json`));
  const family = families[config.model_type];
  const experts = {};
  const tensors = {};
  for (const [name, tensor] of readSafetensors(golden(`transformers/${checkpoint}/model.safetensors`))) {
    const [, block, number, role] = /^model\.layers\.(\d+)\..*experts\.(\d+)\.(\w+)\.weight$/.exec(name) ?? [];
    if (role) {
      (experts[`blk.${block}.ffn_${roles[role]}`] ??= [])[number] = tensor;
      continue;
    }
    const theirs = nameOf(name, family.names);
    const heads = family.permuted && (/q_proj/.test(name) ? config.num_attention_heads : /k_proj/.test(name) ? config.num_key_value_heads : 0);
    if (theirs) tensors[theirs] = f32(heads ? permuted(tensor, heads) : family.transposed?.test(name) ? transposed(tensor) : tensor);
  }
  for (const [name, parts] of Object.entries(experts)) {
    if (oneByOne) parts.forEach((part, i) => (tensors[`${name}.${i}.weight`] = f32(part)));
    else tensors[`${name}_exps.weight`] = f32(stacked(parts));
  }
  const metadata = family.metadata(family.name, config);
  const rope = config.rope_parameters;
  if (rope?.long_factor) {
    Object.assign(metadata, longropeMetadata(family.name, config));
    tensors['rope_factors_long.weight'] = f32({ shape: [rope.long_factor.length], data: rope.long_factor });
    tensors['rope_factors_short.weight'] = f32({ shape: [rope.short_factor.length], data: rope.short_factor });
  }
  return { metadata, tensors };
}
