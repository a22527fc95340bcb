/**
 * sendable.ts: a model's files on their way into a worker. Buffers and streams are moved; Blobs and addresses are copied, which
 * costs nothing; what cannot cross becomes something that can.
 */
import { isPlainObject, jsonText, notAFile } from './arguments.js';
import { HeddleError } from './errors.js';
import { isNode } from './host.js';
import { filesByName, isSharedBuffer } from './source.js';
import type { FileInput, SourceInput } from './types.js';

/** `transfer` collects what has to be named to postMessage; `name` is the argument's, for messages. */
export async function sendableFile(input: FileInput, transfer: Transferable[], name = 'source'): Promise<unknown> {
  if (input === '') throw notAFile(input, name);
  if (typeof input === 'string') return absolute(input);
  if (input instanceof URL) return input.href;
  if (input instanceof ArrayBuffer) return moved(input, transfer);
  if (isSharedBuffer(input)) return input;
  if (ArrayBuffer.isView(input)) {
    if (!(input.buffer instanceof ArrayBuffer)) return input;
    const isWhole = input.byteOffset === 0 && input.byteLength === input.buffer.byteLength;
    return moved(isWhole ? input.buffer : input.buffer.slice(input.byteOffset, input.byteOffset + input.byteLength), transfer);
  }
  if (input instanceof Blob) return isClonable(input) ? input : { stream: await movedStream(input.stream(), transfer), size: input.size };
  if (input instanceof ReadableStream) return movedStream(input, transfer);
  if (input instanceof Response) return sendableResponse(input, transfer);
  if (isPlainObject(input) && input.stream instanceof ReadableStream && typeof input.size === 'number') return { stream: await movedStream(input.stream, transfer), size: input.size };
  throw notAFile(input, name);
}

export async function sendableSource(input: SourceInput, transfer: Transferable[]): Promise<unknown> {
  const named = filesByName(input);
  if (!named) return sendableFile(input as FileInput, transfer);
  const files: [name: string, file: unknown][] = []; // by name: Node's clones of Files have none
  for (const [name, file] of named) files.push([name, await sendableFile(file, transfer, name)]);
  return Object.fromEntries(files);
}

/** A description: parsed JSON goes as text. */
export async function sendableJson(input: FileInput | object, transfer: Transferable[], name: string): Promise<unknown> {
  const isPlain = isPlainObject(input) && !('stream' in input);
  return isPlain ? jsonText(input, name) : sendableFile(input as FileInput, transfer, name);
}

/** The worker's own address is another: a page's relative addresses are made absolute. Text and Node's paths stay. */
function absolute(text: string): string {
  if (isNode() || /^\uFEFF?\s*\{/.test(text)) return text;
  return new URL(text, (globalThis as { document?: { baseURI?: string } }).document?.baseURI ?? globalThis.location?.href).href;
}

function moved(buffer: ArrayBuffer, transfer: Transferable[]): ArrayBuffer {
  if (!transfer.includes(buffer)) transfer.push(buffer);
  return buffer;
}

async function sendableResponse(response: Response, transfer: Transferable[]): Promise<unknown> {
  if (!response.ok) throw new HeddleError('bad_file', `${response.url}: the server answered ${response.status} ${response.statusText}`.trim());
  if (!response.body) return new ArrayBuffer(0);
  const length = response.headers.get('content-length');
  // A Content-Length beside a Content-Encoding counts the compressed bytes.
  if (length === null || response.headers.get('content-encoding') !== null) return response.blob();
  const stream = await movedStream(response.body, transfer);
  return stream instanceof ReadableStream ? { stream, size: Number(length) } : stream;
}

/** The stream itself where streams can be moved (not in every Safari), else its bytes as a Blob. */
async function movedStream(stream: ReadableStream<Uint8Array>, transfer: Transferable[]): Promise<unknown> {
  if (!canMoveStreams()) return new Response(stream).blob();
  transfer.push(stream as unknown as Transferable);
  return stream;
}

/** Node's Blobs of a file on disk cannot be cloned; all others can. */
function isClonable(blob: Blob): boolean {
  try {
    structuredClone(blob);
    return true;
  } catch {
    return false;
  }
}

let movesStreams: boolean | undefined;

function canMoveStreams(): boolean {
  if (movesStreams === undefined) {
    try {
      const stream = new ReadableStream();
      structuredClone(stream, { transfer: [stream as unknown as Transferable] });
      movesStreams = true;
    } catch {
      movesStreams = false;
    }
  }
  return movesStreams;
}
