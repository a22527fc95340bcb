/**
 * probe.ts: what this host's WebAssembly really compiles, found by validating tiny modules that use it. A module with one
 * instruction the host does not know does not compile at all, so the question has to be asked before one is fetched.
 */

/** `\0asm` and version 1. */
const head = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];

/** () → v128: i32.const 0, i8x16.splat */
const simd128 = [...head, 1, 5, 1, 0x60, 0, 1, 0x7b, 3, 2, 1, 0, 10, 8, 1, 6, 0, 0x41, 0, 0xfd, 0x0f, 0x0b];

/** (v128 a, b, c) → v128: f32x4.relaxed_madd(i32x4.relaxed_dot_i8x16_i7x16_add_s(a, b, c), b, c); the two instructions Heddle uses. */
const relaxed = [
  ...head,
  ...[1, 8, 1, 0x60, 3, 0x7b, 0x7b, 0x7b, 1, 0x7b, 3, 2, 1, 0, 10, 20, 1, 18, 0],
  ...[0x20, 0, 0x20, 1, 0x20, 2, 0xfd, 0x93, 0x02, 0x20, 1, 0x20, 2, 0xfd, 0x85, 0x02, 0x0b],
];

/** A shared memory and memory.atomic.notify on it. */
const atomics = [
  ...head,
  ...[1, 4, 1, 0x60, 0, 0, 3, 2, 1, 0, 5, 4, 1, 3, 1, 1, 10, 13, 1, 11, 0],
  ...[0x41, 0, 0x41, 0, 0xfe, 0x00, 0x02, 0x00, 0x1a, 0x0b],
];

export interface HostFeatures {
  simd128: boolean;
  relaxed: boolean;
  atomics: boolean;
}

let found: HostFeatures | undefined;

/** What the host compiles; asked once. */
export function hostFeatures(): HostFeatures {
  const compiles = (bytes: number[]): boolean => WebAssembly.validate(new Uint8Array(bytes));
  found ??= { simd128: compiles(simd128), relaxed: compiles(relaxed), atomics: compiles(atomics) };
  return found;
}
