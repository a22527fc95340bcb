/**
 * assets.ts: where the package's own modules lie. Each is one literal `new URL(…, import.meta.url)`, which bundlers recognise and
 * copy; entries for hosts without such URLs do not import this file.
 */
import type { ModuleName } from './types.js';

export function moduleUrl(name: ModuleName): URL {
  switch (name) {
    case 'simd128':
      return new URL('./wasm/heddle-simd128.wasm', import.meta.url);
    case 'simd128-threads':
      return new URL('./wasm/heddle-simd128-threads.wasm', import.meta.url);
    case 'relaxed':
      return new URL('./wasm/heddle-relaxed.wasm', import.meta.url);
    case 'relaxed-threads':
      return new URL('./wasm/heddle-relaxed-threads.wasm', import.meta.url);
  }
}
