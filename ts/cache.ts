/**
 * cache.ts: what servers gave, kept for the next time: whole files, each with a record of its address, size, time, ETag and checksum. A
 * file is kept while it is read and counts once its record is written; a load that ends early leaves nothing.
 */
import { Crc32 } from './checksum.js';
import { readJson } from './bytes.js';
import type { ByteSource } from './bytes.js';
import { HeddleError, counted, messageOf } from './errors.js';
import { openUrl, isAbsent } from './http.js';
import type { Absence, HttpOptions } from './http.js';
import { openShelf } from './shelf.js';
import type { Shelf, Sink } from './shelf.js';
import type { CacheEntry, CacheOptions } from './types.js';

/** Files that are being kept in this thread, by shelf and address: who reads one of them meanwhile does not keep it a second time. */
const underway = new Set<string>();

/** Loads that were told why a file is not kept, by where they are told (each has its own): of the next ones it is mostly the same. */
const told = new WeakSet<(text: string) => void>();

/** What a load says of the cache. */
export type CacheChoice = boolean | CacheOptions;

/** What a record file holds. `data`: the file with the bytes; without it the server had no such file, and said so in these words. */
interface KeptRecord extends CacheEntry {
  data?: string;
  absent?: string;
}

const recordEnd = '.json';
/** Bytes that no record names belong to a load under way, or to one that died: those older than that, in milliseconds, are swept out. */
const strayAge = 24 * 3600 * 1000;

type Found = (ByteSource & { etag?: string | undefined }) | Absence;

export interface CachedOptions extends HttpOptions {
  cache?: CacheChoice | undefined;
  /** False: takes what is kept and keeps nothing, for those who read files in part. */
  keep?: boolean | undefined;
  /** Takes what the caller should know: that there is no room in the cache, for one. */
  say?: ((text: string) => void) | undefined;
}

/** Opens a file at a URL, from the cache where that is wanted. */
export async function fromCacheOrUrl(url: URL, options: CachedOptions, whole = false): Promise<ByteSource | Absence> {
  const { cache } = options;
  const fetchIt = (): Promise<Found> => openUrl(url, options, whole);
  if (!cache || !/^https?:$/.test(url.protocol)) return fetchIt();
  const choice = cache === true ? {} : cache;
  return (await openCache(choice)).open(url.href, fetchIt, choice, options);
}

/** The cache that loads with these options use. `folder` is for Node; a browser has one cache an origin. */
export async function openCache(options: { folder?: string } = {}): Promise<ModelCache> {
  return new ModelCache(await openShelf(options.folder));
}

/** Files that loads with the `cache` option have kept. */
export class ModelCache {
  readonly #shelf: Shelf;

  /** Use `openCache`. */
  constructor(shelf: Shelf) {
    this.#shelf = shelf;
  }

  /** Where it keeps them, for messages: a folder's path in Node. */
  get where(): string {
    return this.#shelf.where;
  }

  /** The files that are there, the oldest first. */
  async list(): Promise<CacheEntry[]> {
    const records = (await this.#records()).filter(({ data }) => data !== undefined);
    return records.map(({ data: _, absent: __, ...entry }) => entry).sort((a, b) => a.time - b.time);
  }

  /** Removes a file; of an address that ends in `/`, all files below it. How many there were. */
  async evict(url: string | URL): Promise<number> {
    const address = String(url);
    const gone = (await this.#records()).filter((record) => record.url === address || (address.endsWith('/') && record.url.startsWith(address)));
    for (const record of gone) await this.#remove(record);
    return gone.filter(({ data }) => data !== undefined).length;
  }

  /** Removes everything, what broken loads left included. */
  async clear(): Promise<void> {
    for (const name of await this.#shelf.names()) await this.#shelf.remove(name);
  }

  /** Reads every file (or one) again and removes those that are not what was written. Their addresses. */
  async verify(url?: string | URL): Promise<string[]> {
    const bad: string[] = [];
    for (const record of await this.#records()) {
      if (record.data === undefined || (url !== undefined && record.url !== String(url)) || (await this.#isGood(record))) continue;
      bad.push(record.url);
      await this.#remove(record);
    }
    return bad;
  }

  // ---- Records ----

  async #records(): Promise<KeptRecord[]> {
    const names = (await this.#shelf.names()).filter((name) => name.endsWith(recordEnd));
    const records = await Promise.all(names.map((name) => this.#record(name)));
    return records.filter((record) => record !== undefined);
  }

  async #record(name: string): Promise<KeptRecord | undefined> {
    const file = await this.#shelf.open(name);
    if (!file) return undefined;
    const record: unknown = await readJson(file).catch(() => undefined); // one that is being written
    return isRecord(record) ? record : undefined;
  }

  async #remove(record: KeptRecord): Promise<void> {
    await this.#shelf.remove((await keyOf(record.url)) + recordEnd);
    if (record.data !== undefined) await this.#shelf.remove(record.data);
  }

  async #isGood(record: KeptRecord): Promise<boolean> {
    const file = record.data === undefined ? undefined : await this.#shelf.open(record.data);
    if (!file) return false;
    try {
      if (file.size !== record.bytes) return false;
      const crc = new Crc32();
      for await (const chunk of file.read(0, record.bytes)) crc.add(chunk);
      return crc.text === record.crc32;
    } finally {
      await file.close();
    }
  }

  /** For loads: the kept file, or the fetched one, which is kept while it is read. */
  async open(url: string, fetchIt: () => Promise<Found>, choice: CacheOptions, options: CachedOptions): Promise<ByteSource | Absence> {
    const record = await this.#record((await keyOf(url)) + recordEnd);
    if (record && !choice.revalidate) return (await this.#kept(record, choice)) ?? this.#keep(url, await fetchIt(), options);
    let found: Found;
    try {
      found = await fetchIt();
    } catch (error) {
      const offline = record && error instanceof HeddleError && error.message.startsWith('cannot fetch');
      const kept = offline ? await this.#kept(record, choice) : undefined;
      if (kept) return kept;
      throw error;
    }
    const same = record?.etag !== undefined && !isAbsent(found) && found.etag === record.etag;
    const kept = same ? await this.#kept(record, choice) : undefined;
    if (!kept) return this.#keep(url, found, options);
    if (!isAbsent(found)) await found.close();
    return kept;
  }

  /** A record's file, if it is whole. */
  async #kept(record: KeptRecord, choice: CacheOptions): Promise<ByteSource | Absence | undefined> {
    if (record.absent !== undefined) return { absent: record.absent };
    const file = record.data === undefined ? undefined : await this.#shelf.open(record.data);
    if (file && file.size === record.bytes && (!choice.verify || (await this.#isGood(record)))) return { ...file, name: record.url };
    await file?.close();
    await this.#remove(record);
    return undefined;
  }

  async #keep(url: string, found: Found, { keep = true, say }: CachedOptions): Promise<ByteSource | Absence> {
    if (!keep) return found;
    if (isAbsent(found)) {
      await this.#write({ url, bytes: 0, time: Date.now(), absent: found.absent, crc32: '00000000' }).catch(() => undefined);
      return found;
    }
    const claim = `${this.where}\n${url}`;
    let isMine = false;
    return new KeptWhileRead(found, (text) => sayOnceALoad(`cache: ${text}; ${url} is loaded all the same`, say), {
      begin: async () => {
        if (underway.has(claim)) return undefined;
        underway.add(claim);
        isMine = true;
        return this.#begin(url, found.size);
      },
      commit: (data, bytes, crc32) => this.#write({ url, bytes, time: Date.now(), ...(found.etag !== undefined && { etag: found.etag }), crc32, data }),
      end: () => {
        if (isMine) underway.delete(claim);
        isMine = false;
      },
    });
  }

  async #begin(url: string, bytes: number | undefined): Promise<{ data: string; sink: Sink }> {
    const room = await this.#shelf.room();
    if (room !== undefined && bytes !== undefined && bytes > room) {
      throw new HeddleError('out_of_memory', `${this.where} has room for ${counted(room, 'byte')}, the file has ${bytes} (evict or clear make room)`);
    }
    await this.#sweep();
    const data = `${await keyOf(url)}.${Date.now().toString(36)}.${crypto.randomUUID()}`;
    return { data, sink: await this.#shelf.create(data) };
  }

  /** Makes a file count, in place of what was there for its address. */
  async #write(record: KeptRecord): Promise<void> {
    const name = (await keyOf(record.url)) + recordEnd;
    const before = await this.#record(name);
    const sink = await this.#shelf.create(name);
    try {
      await sink.write(new TextEncoder().encode(JSON.stringify(record)));
      await sink.commit();
    } catch (error) {
      await sink.abandon();
      throw error;
    }
    if (before?.data !== undefined && before.data !== record.data) await this.#shelf.remove(before.data);
  }

  async #sweep(): Promise<void> {
    const named = new Set((await this.#records()).map(({ data }) => data));
    for (const name of await this.#shelf.names()) {
      const time = dataName.exec(name)?.[1];
      if (time !== undefined && !named.has(name) && Date.now() - Number.parseInt(time, 36) > strayAge) await this.#shelf.remove(name);
    }
  }
}

function sayOnceALoad(text: string, say: ((text: string) => void) | undefined): void {
  if (!say || told.has(say)) return;
  told.add(say);
  say(text);
}

/** The key of an address, the time, and what makes it the only one; in Node perhaps an ending of its own while it is written. */
const dataName = /^[0-9a-f]{32}\.([0-9a-z]+)\.[0-9a-z.-]+$/;

function isRecord(value: unknown): value is KeptRecord {
  if (typeof value !== 'object' || value === null) return false;
  const { url, bytes, time, crc32, data, absent } = value as Record<string, unknown>;
  const isWhole = typeof url === 'string' && typeof bytes === 'number' && typeof time === 'number' && typeof crc32 === 'string';
  return isWhole && (typeof data === 'string' ? dataName.test(data) : typeof absent === 'string');
}

/** A file name for an address: 128 bits of its SHA-256. */
async function keyOf(url: string): Promise<string> {
  const hash = new Uint8Array(await crypto.subtle.digest('SHA-256', new TextEncoder().encode(url)));
  return Array.from(hash.subarray(0, 16), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

interface Keeper {
  /** undefined: it is being kept already. */
  begin(): Promise<{ data: string; sink: Sink } | undefined>;
  commit(data: string, bytes: number, crc32: string): Promise<void>;
  /** However it ended; may be called several times. */
  end(): void;
}

/** A file that is kept as it is read, in order and without holes: what lies between the ranges asked for is read too. */
class KeptWhileRead implements ByteSource {
  readonly #inner: ByteSource;
  readonly #say: (text: string) => void;
  readonly #keeper: Keeper;
  readonly #crc = new Crc32();
  #begun: { data: string; sink: Sink } | undefined;
  #position = 0; // bytes that are kept
  #reading = false;
  #state: 'keeping' | 'whole' | 'committed' | 'given up' = 'keeping';

  constructor(inner: ByteSource, say: (text: string) => void, keeper: Keeper) {
    this.#inner = inner;
    this.#say = say;
    this.#keeper = keeper;
  }

  get name(): string {
    return this.#inner.name;
  }

  get size(): number | undefined {
    return this.#inner.size;
  }

  get seekable(): boolean {
    return this.#inner.seekable;
  }

  peek(n: number): Promise<Uint8Array> {
    return this.#inner.peek(n);
  }

  unread(begin: number, bytes: Uint8Array): void {
    this.#inner.unread?.(begin, bytes);
  }

  async measure(): Promise<void> {
    await this.#inner.measure?.();
  }

  async spool(): Promise<void> {
    await this.#inner.spool?.();
  }

  async *read(begin: number, end: number): AsyncGenerator<Uint8Array> {
    if (this.#state !== 'keeping' || this.#reading) return yield* this.#inner.read(begin, end);
    if (begin < this.#position) yield* this.#inner.read(begin, Math.min(end, this.#position));
    if (end <= this.#position && begin < this.#position) return;
    let at = this.#position;
    this.#reading = true;
    try {
      for await (const chunk of this.#inner.read(at, end)) {
        await this.#keep(chunk);
        const fresh = chunk.subarray(Math.max(0, Math.min(begin - at, chunk.byteLength)));
        at += chunk.byteLength;
        if (fresh.byteLength > 0) yield fresh;
      }
    } finally {
      this.#reading = false;
    }
    if (end === Number.POSITIVE_INFINITY || at === this.size) this.#ended();
  }

  #ended(): void {
    if (this.#state === 'keeping') this.#state = 'whole';
  }

  async #keep(chunk: Uint8Array): Promise<void> {
    this.#position += chunk.byteLength;
    if (this.#state !== 'keeping') return;
    try {
      const begun = await this.#begin();
      await begun?.sink.write(chunk);
      this.#crc.add(chunk);
    } catch (error) {
      await this.#giveUp(error);
    }
  }

  async #begin(): Promise<{ data: string; sink: Sink } | undefined> {
    this.#begun ??= await this.#keeper.begin();
    if (!this.#begun) this.#state = 'given up';
    return this.#begun;
  }

  async #giveUp(error: unknown): Promise<void> {
    this.#state = 'given up';
    await this.#begun?.sink.abandon();
    this.#keeper.end();
    const full = (error as { name?: unknown } | null)?.name === 'QuotaExceededError';
    this.#say(full ? `the browser's quota is used up (${messageOf(error)})` : messageOf(error));
  }

  async finish(): Promise<void> {
    if (this.#state === 'keeping') for await (const _ of this.read(this.size ?? Number.POSITIVE_INFINITY, this.size ?? Number.POSITIVE_INFINITY));
    if (this.#state !== 'whole') return;
    try {
      const begun = await this.#begin(); // an empty file has not begun yet
      if (!begun) return;
      await begun.sink.commit();
      await this.#keeper.commit(begun.data, this.#position, this.#crc.text);
      this.#state = 'committed';
      this.#keeper.end();
    } catch (error) {
      await this.#giveUp(error);
    }
  }

  async close(): Promise<void> {
    if (this.#state !== 'committed' && this.#state !== 'given up') await this.#begun?.sink.abandon();
    this.#state = 'given up';
    this.#keeper.end();
    await this.#inner.close();
  }
}
