/** The bytes of the plain simd128 module: tools/build.mjs puts them into dist/inline.js in the place of this import. */
declare module 'heddle-simd128.wasm' {
  const moduleBytes: Uint8Array;
  export default moduleBytes;
}
