/**
 * published-shapes.mjs: the shapes of models that no fixture holds, as their config.json and the names of their tensors on Hugging Face give them. Weights are
 * made as they are read (range-server.mjs).
 */
import { madeFile } from './range-server.mjs';

const qwen = { vocab_size: 151936, hidden_act: 'silu', rms_norm_eps: 1e-6, rope_theta: 1000000, tie_word_embeddings: true, torch_dtype: 'bfloat16', use_sliding_window: false };

export const published = {
  'Qwen2.5-0.5B': {
    parameters: 494_032_768,
    config: {
      ...qwen, architectures: ['Qwen2ForCausalLM'], model_type: 'qwen2', hidden_size: 896, intermediate_size: 4864, num_hidden_layers: 24, num_attention_heads: 14,
      num_key_value_heads: 2, max_position_embeddings: 32768, sliding_window: 32768, max_window_layers: 24, eos_token_id: 151643, bos_token_id: 151643,
    },
  },
  'Qwen3-0.6B': {
    parameters: 596_049_920,
    config: {
      ...qwen, architectures: ['Qwen3ForCausalLM'], model_type: 'qwen3', hidden_size: 1024, intermediate_size: 3072, num_hidden_layers: 28, num_attention_heads: 16,
      num_key_value_heads: 8, head_dim: 128, max_position_embeddings: 40960, max_window_layers: 28, sliding_window: null, eos_token_id: 151645, bos_token_id: 151643,
    },
  },
  'Llama-3.1-8B': {
    parameters: 8_030_261_248,
    config: {
      architectures: ['LlamaForCausalLM'], model_type: 'llama', vocab_size: 128256, hidden_size: 4096, intermediate_size: 14336, num_hidden_layers: 32, num_attention_heads: 32,
      num_key_value_heads: 8, max_position_embeddings: 131072, hidden_act: 'silu', rms_norm_eps: 1e-5, rope_theta: 500000, tie_word_embeddings: false, torch_dtype: 'bfloat16',
      rope_scaling: { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 8192, rope_type: 'llama3' }, eos_token_id: 128001, bos_token_id: 128000,
    },
  },
};

/** [name, shape] of every tensor of a file of that config. */
export function tensorsOf(config) {
  const { model_type: family, vocab_size: vocabulary, hidden_size: width, intermediate_size: hidden, num_attention_heads: heads, num_key_value_heads: kvHeads } = config;
  const headDim = config.head_dim ?? width / heads;
  const [q, kv] = [heads * headDim, kvHeads * headDim];
  const bias = family === 'qwen2' ? [['self_attn.q_proj.bias', [q]], ['self_attn.k_proj.bias', [kv]], ['self_attn.v_proj.bias', [kv]]] : [];
  const norms = family === 'qwen3' ? [['self_attn.q_norm.weight', [headDim]], ['self_attn.k_norm.weight', [headDim]]] : [];
  const layer = [
    ['input_layernorm.weight', [width]], ['mlp.down_proj.weight', [width, hidden]], ['mlp.gate_proj.weight', [hidden, width]], ['mlp.up_proj.weight', [hidden, width]],
    ['post_attention_layernorm.weight', [width]], ['self_attn.q_proj.weight', [q, width]], ['self_attn.k_proj.weight', [kv, width]], ['self_attn.v_proj.weight', [kv, width]],
    ['self_attn.o_proj.weight', [width, q]], ...bias, ...norms,
  ];
  const layers = Array.from({ length: config.num_hidden_layers }, (_, i) => layer.map(([name, shape]) => [`model.layers.${i}.${name}`, shape]));
  const head = config.tie_word_embeddings ? [] : [['lm_head.weight', [vocabulary, width]]];
  return [['model.embed_tokens.weight', [vocabulary, width]], ...layers.flat(), ['model.norm.weight', [width]], ...head];
}

/** The file, made as it is read. */
export const checkpointOf = (config) => madeFile(tensorsOf(config));

/** A made file as a stream, for one load. */
export function streamed({ size, part }) {
  let at = 0;
  const pull = (controller) => {
    if (at >= size) return controller.close();
    const end = Math.min(size, at + (1 << 20));
    controller.enqueue(new Uint8Array(part(at, end)));
    at = end;
  };
  return { stream: new ReadableStream({ pull }, { highWaterMark: 1 }), size };
}
