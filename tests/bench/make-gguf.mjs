/**
 * A GGUF file (version 3) with the weights of a Llama checkpoint, for peers that read nothing else.
 *
 *   node tests/bench/make-gguf.mjs [f16|bf16|q8_0] [--layers N]
 *
 * Layout (little endian): "GGUF", u32 3, u64 tensors, u64 pairs; the pairs (key, u32 type, value); for each tensor its name,
 * u32 dimensions, u64 sizes with the innermost first, u32 type, u64 offset; then, each at a multiple of 32, the tensors' data.
 * The rotation of this format pairs neighbouring rows, Hugging Face's the two halves of a head: rows of q and k change places.
 *
 * The vocabulary is made up: every token from 3 on is one character, so that any sequence of tokens can be written as text.
 */
import { closeSync, existsSync, openSync, readSync, renameSync, statSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { Stop, program, step, withLock } from '../../tools/step.mjs';
import { makeCheckpoint } from './make-checkpoint.mjs';

/** Raise it when the bytes change. */
const version = 2;

/** Numbers of the format. */
const types = { f32: 0, f16: 1, q8_0: 8, bf16: 30 };
const kinds = { u32: 4, i32: 5, f32: 6, bool: 7, text: 8, array: 9 };
const alignment = 32;

// ---- The made-up vocabulary ----

const firstCharacter = 3;

/** The character that is token `id`, from a plane of rare Chinese characters. */
export function tokenText(id) {
  return String.fromCodePoint(0x20000 + id);
}

/** The ids of text made of such characters. */
export function tokenIds(text) {
  return Array.from(text, (character) => character.codePointAt(0) - 0x20000);
}

/** Ids from which a prompt may be drawn. */
export function promptTokens(n) {
  return Array.from({ length: n }, (_, i) => firstCharacter + ((i * 7919) % 40000));
}

function vocabulary(size) {
  const special = ['<unk>', '<s>', '</s>'];
  const tokens = Array.from({ length: size }, (_, i) => special[i] ?? tokenText(i));
  // 1: normal, 2: unknown, 3: control.
  const kind = Array.from({ length: size }, (_, i) => (i === 0 ? 2 : i < firstCharacter ? 3 : 1));
  return { tokens, kind };
}

// ---- Writing ----

function u32(value) {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value) {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

function text(value) {
  const bytes = Buffer.from(value);
  return Buffer.concat([u64(bytes.length), bytes]);
}

const encoders = {
  u32,
  i32: u32,
  f32: (value) => Buffer.from(Float32Array.of(value).buffer),
  bool: (value) => Buffer.of(value ? 1 : 0),
  text,
};

function pair(key, kind, value) {
  if (!Array.isArray(value)) return Buffer.concat([text(key), u32(kinds[kind]), encoders[kind](value)]);
  return Buffer.concat([text(key), u32(kinds.array), u32(kinds[kind]), u64(value.length), ...value.map(encoders[kind])]);
}

function pairs(config) {
  const { tokens, kind } = vocabulary(config.vocab_size);
  return [
    pair('general.architecture', 'text', 'llama'),
    pair('general.name', 'text', 'random'),
    pair('llama.context_length', 'u32', config.max_position_embeddings),
    pair('llama.embedding_length', 'u32', config.hidden_size),
    pair('llama.block_count', 'u32', config.num_hidden_layers),
    pair('llama.feed_forward_length', 'u32', config.intermediate_size),
    pair('llama.attention.head_count', 'u32', config.num_attention_heads),
    pair('llama.attention.head_count_kv', 'u32', config.num_key_value_heads),
    pair('llama.attention.layer_norm_rms_epsilon', 'f32', config.rms_norm_eps),
    pair('llama.rope.dimension_count', 'u32', config.hidden_size / config.num_attention_heads),
    pair('llama.rope.freq_base', 'f32', config.rope_theta),
    pair('llama.vocab_size', 'u32', config.vocab_size),
    pair('tokenizer.ggml.model', 'text', 'llama'),
    pair('tokenizer.ggml.tokens', 'text', tokens),
    pair('tokenizer.ggml.scores', 'f32', tokens.map(() => 0)),
    pair('tokenizer.ggml.token_type', 'i32', kind),
    pair('tokenizer.ggml.unknown_token_id', 'u32', 0),
    pair('tokenizer.ggml.bos_token_id', 'u32', 1),
    pair('tokenizer.ggml.eos_token_id', 'u32', 2),
    pair('tokenizer.ggml.add_bos_token', 'bool', false),
    pair('tokenizer.ggml.add_space_prefix', 'bool', false),
  ];
}

function tensorName(name) {
  const outer = { 'model.embed_tokens.weight': 'token_embd.weight', 'model.norm.weight': 'output_norm.weight', 'lm_head.weight': 'output.weight' };
  const inner = {
    'input_layernorm': 'attn_norm', 'post_attention_layernorm': 'ffn_norm', 'self_attn.q_proj': 'attn_q', 'self_attn.k_proj': 'attn_k',
    'self_attn.v_proj': 'attn_v', 'self_attn.o_proj': 'attn_output', 'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down',
  };
  const match = /^model\.layers\.(\d+)\.(.*)\.weight$/.exec(name);
  return match ? `blk.${match[1]}.${inner[match[2]]}.weight` : outer[name];
}

// ---- Values ----

/** The nearest F16, ties to even. */
function toF16(value) {
  const bits = new Uint32Array(Float32Array.of(value).buffer)[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = Math.abs(value);
  if (!(magnitude < 65520)) return sign | (Number.isNaN(value) ? 0x7e00 : 0x7c00);
  // Below 2^-14 the step is 2^-24; above, 2^(exponent − 10). Adding half a step's worth of large power rounds to even.
  const exponent = Math.max(Math.floor(Math.log2(magnitude)), -14);
  const step = 2 ** (exponent - 10);
  const units = magnitude / step;
  const floor = Math.floor(units);
  const isUp = units - floor > 0.5 || (units - floor === 0.5 && floor % 2 === 1);
  return sign | (floor + (isUp ? 1 : 0) + (exponent + 14) * 1024);
}

function toF32(bf16) {
  const bits = new Uint32Array(bf16.length);
  for (let i = 0; i < bf16.length; i++) bits[i] = bf16[i] << 16;
  return new Float32Array(bits.buffer);
}

/** Each BF16 as F16. */
function f16Table() {
  return Uint16Array.from(toF32(Uint16Array.from({ length: 65536 }, (_, i) => i)), toF16);
}

/** Blocks of 32: an F16 scale d = max |x| / 127, then round(x / d), halves away from zero. */
export function toQ8(floats) {
  const bytes = new Uint8Array((floats.length / 32) * 34);
  const out = new DataView(bytes.buffer);
  for (let block = 0, at = 0; block < floats.length; block += 32, at += 34) {
    let largest = 0;
    for (let i = block; i < block + 32; i++) largest = Math.max(largest, Math.abs(floats[i]));
    const scale = Math.fround(largest / 127);
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale);
    out.setUint16(at, toF16(scale), true);
    for (let i = 0; i < 32; i++) {
      const ratio = Math.fround(floats[block + i] * inverse);
      out.setInt8(at + 2 + i, ratio < 0 ? -Math.floor(0.5 - ratio) : Math.floor(ratio + 0.5));
    }
  }
  return bytes;
}

/** Rows of q or k in the order of neighbouring pairs. */
function interleaveHalves(values, cols, heads) {
  const rows = values.length / cols;
  const half = rows / heads / 2;
  const out = new Uint16Array(values.length);
  for (let row = 0; row < rows; row++) {
    const [head, within] = [Math.floor(row / (2 * half)), row % (2 * half)];
    const from = head * 2 * half + (within % 2) * half + Math.floor(within / 2);
    out.set(values.subarray(from * cols, (from + 1) * cols), row * cols);
  }
  return out;
}

function readTensors(path) {
  const file = openSync(path, 'r');
  const length = Buffer.alloc(8);
  readSync(file, length, 0, 8, 0);
  const header = Buffer.alloc(Number(length.readBigUInt64LE()));
  readSync(file, header, 0, header.length, 8);
  const { __metadata__: _, ...entries } = JSON.parse(header.toString());
  const read = ({ data_offsets: [begin, end] }) => {
    const values = new Uint16Array((end - begin) / 2);
    readSync(file, values, 0, end - begin, 8 + header.length + begin);
    return values;
  };
  return { entries: Object.entries(entries), read, close: () => closeSync(file) };
}

function writeGguf(path, checkpoint, type) {
  const { config } = checkpoint;
  const { entries, read, close } = readTensors(checkpoint.weights);
  const bytesOf = { f32: (n) => 4 * n, f16: (n) => 2 * n, bf16: (n) => 2 * n, q8_0: (n) => (n / 32) * 34 };
  const f16 = f16Table();
  const encode = {
    f32: (values) => new Uint8Array(toF32(values).buffer),
    f16: (values) => new Uint8Array(values.map((bits) => f16[bits]).buffer),
    bf16: (values) => new Uint8Array(values.buffer),
    q8_0: (values) => toQ8(toF32(values)),
  };
  const typeOf = ({ shape }) => (shape.length === 1 ? 'f32' : type);
  let offset = 0;
  const infos = entries.map(([name, entry]) => {
    const kind = typeOf(entry);
    const info = Buffer.concat([text(tensorName(name)), u32(entry.shape.length), ...entry.shape.toReversed().map(u64), u32(types[kind]), u64(offset)]);
    const size = bytesOf[kind](entry.shape.reduce((a, b) => a * b));
    offset += Math.ceil(size / alignment) * alignment;
    return info;
  });
  const all = pairs(config);
  const head = Buffer.concat([Buffer.from('GGUF'), u32(3), u64(entries.length), u64(all.length), ...all, ...infos]);
  const file = openSync(path, 'w');
  const write = (bytes) => writeSync(file, Buffer.concat([bytes, Buffer.alloc((alignment - (bytes.length % alignment)) % alignment)]));
  write(head);
  for (const [name, entry] of entries) {
    let values = read(entry);
    const heads = /q_proj/.test(name) ? config.num_attention_heads : /k_proj/.test(name) ? config.num_key_value_heads : 0;
    if (heads) values = interleaveHalves(values, entry.shape[1], heads);
    write(encode[typeOf(entry)](values));
  }
  closeSync(file);
  close();
}

/** The file's name in the checkpoint's folder. */
export function ggufName(type) {
  return `${type}-v${version}.gguf`;
}

/** The checkpoint (see makeCheckpoint) as GGUF, beside it in the cache: { path, bytes }. */
export async function makeGguf(checkpoint, type) {
  if (!types[type] || type === 'f32') throw new Stop(`"${type}" is none of f16, bf16, q8_0`);
  const path = join(checkpoint.folder, ggufName(type));
  if (!existsSync(path)) {
    await withLock(`${path}.lock`, async () => {
      if (existsSync(path)) return;
      await step(`writing it as GGUF, ${type}`, async () => {
        writeGguf(`${path}.partial`, checkpoint, type);
        renameSync(`${path}.partial`, path);
      });
    });
  }
  return { path, bytes: statSync(path).size };
}

program(import.meta.url, async (args) => {
  const at = args.indexOf('--layers');
  const layers = at >= 0 ? Number(args.splice(at, 2)[1]) : undefined;
  console.log(await makeGguf(await makeCheckpoint('smollm2-135m', { layers }), args[0] ?? 'q8_0'));
});
