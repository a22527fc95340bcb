/**
 * globals.ts: types of what hosts have as globals, under names of our own. A program that is compiled without TypeScript's library "dom" (Node's own
 * types know neither WebAssembly nor Worker) can check the package's types all the same; any other sees the types it has.
 */
type Host = typeof globalThis;

export type WasmModule = Host extends { WebAssembly: { Module: { prototype: infer Known } } } ? Known : object;
export type WasmMemory = Host extends { WebAssembly: { Memory: { prototype: infer Known } } } ? Known : { readonly buffer: ArrayBuffer };
export type WasmGlobal = Host extends { WebAssembly: { Global: { prototype: infer Known } } } ? Known : object;

/** A worker as a page has it. */
export type PageWorker = Host extends { Worker: { prototype: infer Known } } ? Known : never;
