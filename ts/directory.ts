/**
 * directory.ts: what weight files declare: the core's reader asks for parts of a file until it has its directory, and here they are brought.
 */
import { joined, sized } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { elements } from './core.js';
import { elementBytes } from './strides.js';
import type { Core } from './core.js';
import { HeddleError } from './errors.js';
import type { ErrorCode } from './errors.js';
import { stagingBytes } from './memory.js';
import { readMetadata } from './metadata.js';
import { checkShard } from './shards.js';
import type { WeightFiles } from './shards.js';
import type { DetectedModel, FileInfo, TensorInfo } from './types.js';

/** Lets `use` have a file's directory (the core's), which takes no more of the file than that. Errors name the file. */
export async function withDirectory<T>(core: Core, source: ByteSource, use: (directory: number) => T | Promise<T>): Promise<T> {
  return withDirectories(core, [source], ([directory = 0]) => use(directory));
}

/** The same for several files, all at once. */
export async function withDirectories<T>(core: Core, sources: readonly ByteSource[], use: (directories: readonly number[]) => T | Promise<T>): Promise<T> {
  const directories: number[] = [];
  try {
    for (const source of sources) directories.push(await readDirectory(core, source));
    return await use(directories);
  } finally {
    if (core.alive) for (const directory of directories) core.call((x) => x.w_directory_free(directory));
  }
}

async function readDirectory(core: Core, source: ByteSource): Promise<number> {
  try {
    await sized(source);
    return await readParts(core, source);
  } catch (error) {
    const aboutFile = error instanceof HeddleError && (error.code === 'bad_file' || error.code === 'unsupported') && !error.message.includes(source.name);
    throw aboutFile ? new HeddleError(error.code, `${source.name}: ${error.message}`) : error;
  }
}

/** Gives the core the parts of the file it wants, until it has a directory. A stream that must be read out of order is kept first. */
async function readParts(core: Core, source: ByteSource): Promise<number> {
  const reader = core.made((x) => x.w_reader_new(source.size ?? 0));
  let position = 0;
  let last: { begin: number; chunks: Uint8Array[] } = { begin: 0, chunks: [] };
  try {
    while (core.call((x) => x.w_reader_wants(reader)) !== 0) {
      const begin = core.heap.transfer(0);
      const end = core.heap.transfer(1);
      if (begin === end) core.check((x) => x.w_reader_give(reader, 0, 0));
      if (begin !== position && !source.seekable) await source.spool?.();
      last = { begin, chunks: [] };
      for await (const chunk of source.read(begin, end)) {
        if (!source.seekable) last.chunks.push(chunk.slice());
        give(core, reader, chunk);
      }
      position = end;
    }
    if (!source.seekable) source.unread?.(last.begin, joined(last.chunks)); // tensors may begin in there
    return core.made((x) => x.w_reader_finish(reader));
  } finally {
    if (core.alive) core.call((x) => x.w_reader_free(reader));
  }
}

function give(core: Core, reader: number, chunk: Uint8Array): void {
  for (let at = 0; at < chunk.byteLength; at += stagingBytes) {
    const piece = chunk.subarray(at, at + stagingBytes);
    const staged = core.heap.stage(piece);
    core.check((x) => x.w_reader_give(reader, staged, piece.byteLength));
  }
}

/** The entry in the transfer area: [name, dtype, n_dims, begin, end, wanted, shape (8), whether strided, strides (8)]. */
export function entry(core: Core): TensorInfo & { wanted: boolean } {
  const { heap } = core;
  const shape = heap.transferShape(2, 6);
  const [begin, end, numel] = [heap.transfer(3), heap.transfer(4), elements(shape)];
  const dtype = core.dtypes[heap.transfer(1)] ?? '?';
  const strides = heap.transfer(14) === 0 ? undefined : heap.transferShape(2, 15);
  const byteSize = strides ? numel * elementBytes(dtype) : end - begin;
  const wanted = heap.transfer(5) !== 0;
  return { name: heap.text(heap.transfer(0)), dtype, shape, numel, begin, end, byteSize, ...(strides && { strides }), wanted };
}

/** "SafeTensors", "GGUF". */
/** Formats whose files say of what model they are, in GGUF's words: with one, weights are a model. */
export const describingFormats: readonly string[] = ['GGUF', 'llama2.c'];

export function formatOf(core: Core, directory: number): string {
  return core.heap.text(core.call((x) => x.w_directory_format(directory)) >>> 0);
}

/** What the directory says: every tensor, in the order of the file, and the file's own metadata. */
function listed(core: Core, directory: number): Pick<FileInfo, 'format' | 'tensors' | 'metadata'> {
  const tensors: TensorInfo[] = [];
  const count = core.call((x) => x.w_directory_count(directory));
  for (let i = 0; i < count; i++) {
    core.call((x) => x.w_directory_entry(directory, i));
    const { wanted: _, ...info } = entry(core);
    tensors.push(info);
  }
  return { format: formatOf(core, directory), tensors, metadata: Object.fromEntries(readMetadata(core, directory)) };
}

/** The tensors of each weight file, and the files' metadata: nothing but headers is read. */
export async function inspectFiles(core: Core, { files, expected }: WeightFiles): Promise<{ info: FileInfo; tensors: TensorInfo[][] }> {
  const info: FileInfo = { format: '', tensors: [], metadata: {}, bytes: 0 };
  const tensors: TensorInfo[][] = [];
  for (const file of files) {
    const found = await withDirectory(core, file, (directory) => listed(core, directory));
    const names = new Set(found.tensors.map(({ name }) => name));
    checkShard(file, expected.get(file), (name) => names.has(name));
    info.format = found.format;
    Object.assign(info.metadata, found.metadata);
    tensors.push(files.length === 1 ? found.tensors : found.tensors.map((tensor) => ({ ...tensor, file: file.name })));
    info.bytes += file.size ?? 0;
  }
  return { info: { ...info, tensors: tensors.flat() }, tensors };
}

/** What a weight file's tensors seem to be, and the network they make or why they make none: see src/graph/detect.c. */
export interface Detection extends DetectedModel {
  network: object | null;
  refusal: { code: ErrorCode; message: string } | null;
}

export async function detectFile(core: Core, source: ByteSource, config: string | undefined): Promise<Detection> {
  return withDirectory(core, source, (directory) => {
    const detect = (p: number, n: number): string => core.text((x) => x.w_directory_detect(directory, p, n));
    return JSON.parse(config === undefined ? detect(0, 0) : core.heap.withText(config, detect)) as Detection;
  });
}
