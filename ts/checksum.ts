/**
 * checksum.ts: CRC-32 (that of zip and gzip) of bytes as they come. It finds what a disk or a torn write did to a file; it is no
 * defence against somebody who means to deceive.
 */

/** Eight tables: the k-th one is for a byte with k zero bytes behind it, so that eight bytes are taken at a time. */
const tables = makeTables();

function makeTables(): readonly Uint32Array[] {
  const first = Uint32Array.from({ length: 256 }, (_, byte) => {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
    return crc;
  });
  const all = [first];
  for (let k = 1; k < 8; k++) all.push(all[k - 1]!.map((crc) => (crc >>> 8) ^ first[crc & 0xff]!));
  return all;
}

export class Crc32 {
  #crc = ~0;

  add(bytes: Uint8Array): void {
    const [t0, t1, t2, t3, t4, t5, t6, t7] = tables as [Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array, Uint32Array];
    let crc = this.#crc;
    let i = 0;
    for (const end = bytes.length - 7; i < end; i += 8) {
      const word = crc ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24));
      crc = t7[word & 0xff]! ^ t6[(word >>> 8) & 0xff]! ^ t5[(word >>> 16) & 0xff]! ^ t4[word >>> 24]!
        ^ t3[bytes[i + 4]!]! ^ t2[bytes[i + 5]!]! ^ t1[bytes[i + 6]!]! ^ t0[bytes[i + 7]!]!;
    }
    for (; i < bytes.length; i++) crc = (crc >>> 8) ^ t0[(crc ^ bytes[i]!) & 0xff]!;
    this.#crc = crc;
  }

  /** Eight hexadecimal digits. */
  get text(): string {
    return (~this.#crc >>> 0).toString(16).padStart(8, '0');
  }
}
