/**
 * strides.ts: tensors that are views of a range of their file, as PyTorch's files may have them: elements are picked by strides.
 */

const bytesPerElement: Readonly<Record<string, number>> = { C64: 8, F64: 8, I64: 8, U64: 8, F32: 4, I32: 4, U32: 4, F16: 2, BF16: 2, I16: 2, U16: 2 };

/** Bytes of one element of a dtype that has no blocks. */
export function elementBytes(dtype: string): number {
  return bytesPerElement[dtype] ?? 1;
}

/** The elements of a view, in order, as bytes: element (i, j, …) lies at i · strides[0] + j · strides[1] + … elements of `bytes`. */
export function gathered(bytes: Uint8Array, size: number, shape: readonly number[], strides: readonly number[]): Uint8Array {
  const numel = shape.reduce((product, n) => product * n, 1);
  const all = new Uint8Array(numel * size);
  const index = shape.map(() => 0);
  let from = 0; // in elements
  for (let to = 0; to < all.byteLength; to += size) {
    for (let b = 0; b < size; b++) all[to + b] = bytes[from * size + b] ?? 0;
    for (let d = shape.length - 1; d >= 0; d--) {
      from += strides[d] ?? 0;
      index[d] = (index[d] ?? 0) + 1;
      if ((index[d] ?? 0) < (shape[d] ?? 0)) break;
      from -= (strides[d] ?? 0) * (shape[d] ?? 0);
      index[d] = 0;
    }
  }
  return all;
}
