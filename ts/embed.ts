/**
 * embed.ts: a vector for each text: the last layer's rows, pooled. docs/embeddings.md.
 */
import { checkOptions, embedOptions, expected } from './arguments.js';
import { configOf, encodeInputs, hasHead, runTexts } from './encode.js';
import type { EncoderModel } from './encode.js';
import { HeddleError } from './errors.js';
import type { SentenceSettings } from './sentence.js';
import type { EmbedOptions, Pooling, TextInput } from './types.js';

export async function embedTexts(model: EncoderModel, texts: string | readonly TextInput[], options: EmbedOptions): Promise<Float32Array | Float32Array[]> {
  checkOptions(options, embedOptions);
  options.signal?.throwIfAborted();
  if (typeof texts !== 'string' && !Array.isArray(texts)) throw expected('texts', 'a text, or an array of texts or of token ids', texts);
  const settings = await model.sentence();
  const pooling = poolingFor(options, settings);
  const normalize = options.normalize ?? settings.normalize ?? false;
  const inputs = encodeInputs(model, typeof texts === 'string' ? [texts] : texts, options, settings);
  const output = pooling === 'pooler' ? poolerOf(model) : hiddenOf(model);
  const vectors = await runTexts(model, inputs, { signal: options.signal, output }, ({ data, width }) => {
    const vector = pool(data, width, pooling);
    return Float32Array.from(normalize ? normalized(vector) : vector);
  });
  return typeof texts === 'string' ? (vectors[0] as Float32Array) : vectors;
}

function poolingFor(options: EmbedOptions, settings: SentenceSettings): Pooling {
  if (options.pooling !== undefined) return options.pooling;
  if (settings.unknown !== undefined) throw new HeddleError('unsupported', `${settings.unknown}, which Heddle does not know; options.pooling and options.normalize say what to do instead`);
  return settings.pooling ?? 'mean';
}

// ---- Rows ----

/** The value that has a row for each token after the last layer; undefined: it is the output. */
function hiddenOf(model: EncoderModel): string | undefined {
  const { family, inputDtype, layers } = model.describeSync();
  if (inputDtype !== 'I32') throw new HeddleError('bad_state', 'embed is for models that read token ids; this one reads numbers');
  if (layers.some(({ name }) => name === 'final_norm')) return 'final_norm';
  const config = configOf(model);
  const isHeaded = hasHead(config, 'ForSequenceClassification') || hasHead(config, 'ForTokenClassification');
  return family === 'bert' && isHeaded ? `layers.${(config.num_hidden_layers ?? 1) - 1}.output` : undefined;
}

function poolerOf(model: EncoderModel): string {
  const { layers } = model.describeSync();
  if (!layers.some(({ name }) => name === 'pooler_output')) throw new HeddleError('bad_state', "pooling 'pooler': the model has no pooler");
  return 'pooler_output';
}

// ---- Pooling ----

function pool(rows: Float32Array, width: number, pooling: Pooling): Float64Array {
  switch (pooling) {
    case 'mean':
      return columns(rows, width, 0, (sum, x) => sum + x).map((sum) => sum / (rows.length / width));
    case 'max':
      return columns(rows, width, -Infinity, Math.max);
    case 'last':
      return Float64Array.from(rows.subarray(rows.length - width));
    case 'cls':
    case 'pooler':
      return Float64Array.from(rows.subarray(0, width));
  }
}

function columns(rows: Float32Array, width: number, start: number, join: (sofar: number, x: number) => number): Float64Array {
  const out = new Float64Array(width).fill(start);
  rows.forEach((x, i) => (out[i % width] = join(out[i % width] ?? start, x)));
  return out;
}

/** Over its 2-norm, at least 1e-12 as in PyTorch. */
function normalized(vector: Float64Array): Float64Array {
  const norm = Math.sqrt(vector.reduce((sum, x) => sum + x * x, 0));
  return vector.map((x) => x / Math.max(norm, 1e-12));
}
