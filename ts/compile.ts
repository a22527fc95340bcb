/**
 * compile.ts: a module in any form it may come in → compiled. What went wrong is said with the address and what was there instead:
 * a wrong path usually answers with a web page.
 */
import { HeddleError, counted, messageOf } from './errors.js';
import { isNode, nodeFiles } from './host.js';
import type { WasmInput } from './types.js';

/** Throws `bad_file` when there is no module, `unsupported` when the host cannot compile it. */
export async function compileModule(input: WasmInput): Promise<WebAssembly.Module> {
  if (input instanceof WebAssembly.Module) return input;
  if (input instanceof ArrayBuffer) return compileBytes(new Uint8Array(input), 'the module given');
  if (ArrayBuffer.isView(input)) return compileBytes(new Uint8Array(input.buffer, input.byteOffset, input.byteLength), 'the module given');
  if (typeof input === 'string' || input instanceof URL) return compileAt(input);
  if (typeof Response !== 'undefined' && input instanceof Response) return compileResponse(input, input.url || 'the response given');
  // A Module of another realm (a test runner's, an iframe's) is no instance of ours.
  if (Object.prototype.toString.call(input) === '[object WebAssembly.Module]') return input as WebAssembly.Module;
  throw new HeddleError('bad_argument', 'wasm: expected a URL, bytes, a Response or a WebAssembly.Module');
}

async function compileAt(place: string | URL): Promise<WebAssembly.Module> {
  const name = String(place);
  const onDisk = isNode() && !/^(https?|data|blob):/i.test(name);
  if (onDisk) {
    let bytes: Uint8Array;
    try {
      bytes = await nodeFiles().readFile(name.startsWith('file:') ? new URL(name) : name);
    } catch (error) {
      throw new HeddleError('bad_file', `cannot read ${name}: ${messageOf(error)}`, { cause: error });
    }
    return compileBytes(bytes, name);
  }
  let response: Response;
  try {
    response = await fetch(place);
  } catch (error) {
    throw new HeddleError('bad_file', `cannot fetch ${name}: ${messageOf(error)}`, { cause: error });
  }
  return compileResponse(response, name);
}

async function compileResponse(response: Response, name: string): Promise<WebAssembly.Module> {
  if (!response.ok) throw new HeddleError('bad_file', `${name}: the server answered ${response.status} ${response.statusText}`.trim());
  return compileBytes(new Uint8Array(await response.arrayBuffer()), name, response.headers.get('content-type') ?? undefined);
}

async function compileBytes(bytes: Uint8Array, name: string, contentType?: string): Promise<WebAssembly.Module> {
  const isModule = bytes[0] === 0 && bytes[1] === 0x61 && bytes[2] === 0x73 && bytes[3] === 0x6d;
  if (!isModule) {
    const start = JSON.stringify(new TextDecoder().decode(bytes.slice(0, 20)));
    const type = contentType === undefined ? '' : `, sent as ${contentType}`;
    throw new HeddleError('bad_file', `${name} is no WebAssembly module: it has ${counted(bytes.byteLength, 'byte')} and starts with ${start}${type}`);
  }
  try {
    return await WebAssembly.compile(bytes as Uint8Array<ArrayBuffer>);
  } catch (error) {
    throw new HeddleError('unsupported', `this host does not compile ${name}: ${messageOf(error)}`, { cause: error });
  }
}
