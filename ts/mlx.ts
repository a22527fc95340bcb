/**
 * mlx.ts: MLX-Node's weights.mlx, a JSON text (src/format/mlx_json.c says what is in it), made into SafeTensors and back. Whatever reads weight files gets
 * such a text as the SafeTensors it stands for.
 */
import { fromBytes, readAll } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { Core } from './core.js';
import { HeddleError } from './errors.js';
import type { WeightFiles } from './shards.js';

/** How a weights.mlx is written. */
export interface MlxOptions {
  /** For people: a line for each row. */
  pretty?: boolean;
  /** The model's config.json, to be kept in it; by default the one that the SafeTensors file's metadata keep of an earlier weights.mlx. */
  config?: object | string;
}

/** What a weights.mlx lists. */
export interface MlxListing {
  /** Whether it only describes the weights.safetensors beside it. */
  metadataOnly: boolean;
  weights: { name: string; dtype: string; shape: number[] }[];
  note?: string;
}

/** In an instance of its own, so that the text's memory goes with it. */
function withInstance<T>(core: Core, use: (core: Core) => T): T {
  const own = new Core(core.module);
  try {
    return use(own);
  } finally {
    own.free();
  }
}

/** A SafeTensors file of a weights.mlx that has its data; each weight in the dtype its label says. */
export function mlxToSafetensors(core: Core, text: Uint8Array): Uint8Array<ArrayBuffer> {
  return withInstance(core, (own) => own.heap.with(text, (p, n) => own.bytes((x) => x.w_mlx_to_safetensors(p, n))));
}

/** A weights.mlx (UTF-8) of a SafeTensors file of F32, F16 and BF16. */
export function safetensorsToMlx(core: Core, file: Uint8Array, { pretty = false, config }: MlxOptions): Uint8Array<ArrayBuffer> {
  const json = config === undefined || typeof config === 'string' ? config : JSON.stringify(config, undefined, pretty ? 2 : undefined);
  const write = (own: Core, p: number, n: number) => (c: number, nConfig: number) => own.bytes((x) => x.w_mlx_from_safetensors(p, n, c, nConfig, pretty ? 1 : 0));
  return withInstance(core, (own) => own.heap.with(file, (p, n) => (json === undefined ? write(own, p, n)(0, 0) : own.heap.withText(json, write(own, p, n)))));
}

/** What either variant of a weights.mlx lists. */
export function mlxListing(core: Core, text: Uint8Array): MlxListing {
  return withInstance(core, (own) => own.heap.with(text, (p, n) => JSON.parse(own.text((x) => x.w_mlx_list(p, n))) as MlxListing));
}

/** Whether a file that begins so may be a weights.mlx: no other weight file is text. */
export function beginsAsMlx(first: Uint8Array): boolean {
  const text = new TextDecoder('latin1').decode(first);
  return /^\s*\{/.test(text) && !text.includes('\0');
}

/** The same weight files with every weights.mlx among them as SafeTensors. */
export async function withoutMlx(core: Core, weights: WeightFiles): Promise<WeightFiles> {
  const files = await Promise.all(weights.files.map((file) => asWeights(core, file)));
  const expected = new Map([...weights.expected].map(([file, names]) => [files[weights.files.indexOf(file)] ?? file, names]));
  return { files, expected };
}

async function asWeights(core: Core, file: ByteSource): Promise<ByteSource> {
  if (!beginsAsMlx(await file.peek(512))) return file;
  const text = await readAll(file);
  try {
    return fromBytes(mlxToSafetensors(core, text), file.name);
  } catch (error) {
    throw error instanceof HeddleError ? new HeddleError(error.code, `${file.name}: ${error.message}`, { cause: error }) : error;
  }
}
