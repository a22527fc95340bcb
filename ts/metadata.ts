/**
 * metadata.ts: what a weight file says besides its tensors. SafeTensors has strings; a GGUF value is JSON text in the core and a value here.
 */
import type { Core } from './core.js';
import { HeddleError, messageOf } from './errors.js';
import type { MetadataValue } from './types.js';

/** Numbers of so many digits may not be whole in a double. */
const longNumber = /(?<![\d.])-?\d{16,}(?![\d.eE])/g;

/** Every whole number up to it is a double. */
const largestExact = 2n ** 53n;

/** One value's JSON. Whole numbers that no double holds become bigints; only lists of numbers and numbers have such. */
export function parseMetadata(json: string): MetadataValue {
  if (json.includes('"') || json.search(longNumber) < 0) return JSON.parse(json) as MetadataValue;
  return JSON.parse(json.replace(longNumber, '"$&"'), (_, value: MetadataValue) => {
    if (typeof value !== 'string') return value;
    const whole = BigInt(value);
    return whole >= -largestExact && whole <= largestExact ? Number(value) : whole;
  }) as MetadataValue;
}

/** All pairs of a core's directory, in the file's order. */
export function readMetadata(core: Core, directory: number): Map<string, MetadataValue> {
  const metadata = new Map<string, MetadataValue>();
  for (let i = 0; core.call((x) => x.w_directory_metadata(directory, i)) !== 0; i++) {
    const key = core.heap.text(core.heap.transfer(0));
    const value = core.heap.text(core.heap.transfer(1));
    metadata.set(key, core.heap.transfer(2) === 0 ? value : parsed(key, value));
  }
  return metadata;
}

function parsed(key: string, json: string): MetadataValue {
  try {
    return parseMetadata(json);
  } catch (error) {
    throw new HeddleError('unsupported', `metadata "${key}": ${messageOf(error)}`, { cause: error });
  }
}
