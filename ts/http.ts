/**
 * http.ts: files on a server. Where it has ranges, a file is read by them: the head when it is opened, then what is asked for, in pieces
 * of which several are on their way at once. Where it has not, the file comes as one stream. A connection that breaks is taken up again
 * where it stopped, some times, as long as the server has the same file.
 *
 * docs/loading.md says what this asks of a server (CORS above all) and where the caller's headers go.
 */
import { Scratch, StreamSource, fromBytes, openReader, readRange } from './bytes.js';
import type { ByteSource, ChunkReader } from './bytes.js';
import { HeddleError, counted, messageOf } from './errors.js';
import { isNode } from './host.js';

export interface HttpOptions {
  signal?: AbortSignal | undefined;
  /** Instead of the host's own. */
  fetch?: typeof fetch | undefined;
  /** Sent with every request to the origin that was named, and to no other. */
  headers?: Readonly<Record<string, string>> | undefined;
}

/** The first bytes of a file that is read by ranges: they say what it is, and hold a small model's whole header. */
const headBytes = 8 << 10;
/** One request's share of a large range, and how many are on their way at once: the memory that loading takes besides the model. */
const pieceBytes = 2 << 20;
const piecesAtOnce = 4;
/** Requests for the same bytes before it is given up, and the first wait between them, in milliseconds; each is twice the one before. */
const mostTries = 5;
const firstWait = 200;
const longestWait = 30_000;
const mostRedirects = 10;

/** Answers that another try may change: too many requests, a gateway's troubles. */
const passing = [408, 425, 429, 502, 503, 504];
const redirects = [301, 302, 303, 307, 308];

// ---- One request ----

/** A file's address, and what is known of the file by now. */
class Site {
  readonly url: string;
  readonly options: HttpOptions;
  /** Where the last redirect led: later requests go there at once, until it refuses. */
  #direct: string;
  /** What its answers are read into. */
  readonly scratch = new Scratch();
  /** What tells this file from a later one at the same address. */
  etag: string | undefined;
  size: number | undefined;

  constructor(url: string | URL, options: HttpOptions) {
    this.url = String(url);
    this.#direct = this.url;
    this.options = options;
  }

  get name(): string {
    return this.url;
  }

  /** The answer to a request for bytes from `begin` up to `end`; for the file, without them. */
  async ask(begin?: number, end?: number, signal = this.options.signal, cache?: RequestCache): Promise<Response> {
    const range = begin === undefined ? undefined : `bytes=${begin}-${end === undefined ? '' : end - 1}`;
    const response = await this.#follow(this.#direct, range, signal, cache);
    if (this.#direct === this.url || ![401, 403, 404, 410].includes(response.status)) return response;
    await response.body?.cancel(); // a signed address has run out
    this.#direct = this.url;
    return this.#follow(this.url, range, signal, cache);
  }

  /**
   * A page's fetch follows redirects by itself; it drops Authorization where they lead to another origin, but no other header. Node's is
   * made to tell, so that none of the caller's headers goes on.
   */
  async #follow(url: string, range: string | undefined, signal: AbortSignal | undefined, cache: RequestCache | undefined): Promise<Response> {
    const byHand = isNode();
    const { origin } = new URL(this.url);
    let own = new URL(url).origin === origin;
    for (let hops = 0; hops <= mostRedirects; hops++) {
      const headers = new Headers(own ? this.options.headers : {});
      if (range !== undefined) headers.set('range', range);
      if (range !== undefined && this.etag !== undefined && mayAskIfRange(url, this.etag)) headers.set('if-range', this.etag);
      const response = await this.#fetch(url, { headers, ...(signal && { signal }), ...(cache && { cache }), ...(byHand && { redirect: 'manual' }) });
      const location = redirects.includes(response.status) ? response.headers.get('location') : null;
      if (location === null) {
        this.#direct = (byHand ? url : response.url) || url;
        return response;
      }
      await response.body?.cancel();
      url = new URL(location, url).href;
      own &&= new URL(url).origin === origin;
    }
    throw new HeddleError('bad_file', `${this.url}: more than ${mostRedirects} redirects`);
  }

  async #fetch(url: string, request: RequestInit): Promise<Response> {
    try {
      return await (this.options.fetch ?? fetch)(url, request);
    } catch (error) {
      if (request.signal?.aborted) throw request.signal.reason;
      const cause = error instanceof Error && error.cause !== undefined ? ` (${messageOf(error.cause)})` : '';
      throw new HeddleError('bad_file', `cannot fetch ${this.url}: ${messageOf(error)}${cause}`, { cause: error });
    }
  }

  /** Notes what an answer says of the file; throws when it is another file than before. */
  note(response: Response): void {
    const etag = response.headers.get('etag') ?? response.headers.get('last-modified') ?? undefined;
    const range = contentRange(response);
    if (this.etag !== undefined && etag !== undefined && etag !== this.etag) throw this.#changed(this.etag, etag);
    if (this.size !== undefined && range?.total !== undefined && range.total !== this.size) throw this.#changed(counted(this.size, 'byte'), counted(range.total, 'byte'));
    this.etag ??= etag;
    this.size ??= range?.total;
  }

  #changed(before: string, now: string): HeddleError {
    return new HeddleError('bad_file', `${this.url} changed on the server while it was read (${before}, now ${now}): load it again`);
  }
}

/** If-Range is free where no other origin has to be asked for leave; a weak ETag may not be used in it. */
function mayAskIfRange(url: string, etag: string): boolean {
  if (etag.startsWith('W/')) return false;
  return isNode() || new URL(url).origin === (globalThis as { location?: { origin?: string } }).location?.origin;
}

interface ContentRange {
  begin: number;
  end: number;
  total: number | undefined;
}

function contentRange(response: Response): ContentRange | undefined {
  const found = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(response.headers.get('content-range') ?? '');
  return found ? { begin: Number(found[1]), end: Number(found[2]) + 1, total: found[3] === '*' ? undefined : Number(found[3]) } : undefined;
}

function refusal(name: string, response: Response): HeddleError {
  const advice = response.status === 401 ? ' (options.headers can bring an Authorization)' : '';
  return new HeddleError('bad_file', `${name}: the server answered ${response.status} ${response.statusText}`.trim() + advice);
}

/** Waits before the next try: as long as the server asks for, else longer each time. */
async function pause(tries: number, response: Response | undefined, signal: AbortSignal | undefined): Promise<void> {
  const asked = Number(response?.headers.get('retry-after') ?? Number.NaN) * 1000;
  const wait = Math.min(asked >= 0 ? asked : firstWait * 2 ** tries, longestWait);
  signal?.throwIfAborted();
  await new Promise<void>((done, fail) => {
    const abort = (): void => {
      clearTimeout(timer);
      fail(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      done();
    }, wait);
    signal?.addEventListener('abort', abort, { once: true });
  });
}

/** The first answer, asked for again when only for the moment it is none. */
async function firstAnswer(site: Site, begin?: number, end?: number): Promise<Response> {
  for (let tries = 0; ; tries++) {
    const response = await site.ask(begin, end);
    if (!passing.includes(response.status) || tries + 1 >= mostTries) return response;
    await response.body?.cancel();
    await pause(tries, response, site.options.signal);
  }
}

// ---- Bytes in order ----

/** Bytes from `begin` to `end` (to the file's end, where it is undefined), whatever breaks in between. */
class Download implements ChunkReader {
  readonly #site: Site;
  readonly #end: number | undefined;
  readonly #signal: AbortSignal | undefined;
  #at: number;
  #open: ChunkReader | undefined;
  #skip = 0; // bytes of an answer from the file's start that are there already
  #tries = 0;
  #mayResume = true;
  #endsInTime = false;

  constructor(site: Site, begin: number, end: number | undefined, signal: AbortSignal | undefined, opened?: Response) {
    this.#site = site;
    this.#at = begin;
    this.#end = end;
    this.#signal = signal;
    if (!opened?.body) return;
    this.#open = openReader(opened.body, site.scratch);
    this.#endsInTime = lengthOf(opened) === (end ?? Number.NaN) - begin;
    this.#mayResume = opened.headers.get('content-encoding') === null; // places in what is decoded cannot be asked for
  }

  async read(): Promise<Uint8Array | undefined> {
    while (this.#at !== this.#end) {
      try {
        this.#open ??= await this.#request();
        const value = await this.#open.read();
        if (!value && this.#end === undefined) return undefined;
        if (!value) throw new HeddleError('bad_file', `${this.#site.name} ended at byte ${this.#at}, expected ${this.#end ?? ''}`);
        const fresh = value.subarray(Math.min(this.#skip, value.byteLength));
        this.#skip -= value.byteLength - fresh.byteLength;
        if (fresh.byteLength === 0) continue;
        if (this.#end !== undefined && fresh.byteLength > this.#end - this.#at) throw new Final(`${this.#site.name}: more bytes than the ${this.#end} that the server spoke of`);
        this.#at += fresh.byteLength;
        return fresh;
      } catch (error) {
        await this.#again(error);
      }
    }
    // A connection whose answer was not read to its end is of no more use.
    if (this.#endsInTime) await this.#open?.read().catch(() => undefined);
    this.#endsInTime = false;
    return undefined;
  }

  /** Makes ready for another try, or throws what went wrong. */
  async #again(error: unknown): Promise<void> {
    await this.cancel();
    this.#signal?.throwIfAborted();
    if (error instanceof Final) throw new HeddleError('bad_file', error.message);
    this.#tries++;
    if (this.#mayResume && this.#tries < mostTries) return pause(this.#tries - 1, error instanceof Refused ? error.response : undefined, this.#signal);
    const why = error instanceof Refused ? `the server answered ${error.response.status}` : messageOf(error);
    throw new HeddleError('bad_file', `${this.#site.name} broke off at byte ${this.#at}${this.#tries > 1 ? `, ${this.#tries} times` : ''}: ${why}`, { cause: error });
  }

  async #request(): Promise<ChunkReader> {
    const response = await this.#site.ask(this.#at, this.#end, this.#signal);
    try {
      if (response.status !== 200 && response.status !== 206) {
        if (passing.includes(response.status) || response.status >= 500) throw new Refused(response);
        throw new Final(refusal(this.#site.name, response).message);
      }
      noteFinally(this.#site, response);
      const range = contentRange(response);
      if (response.status === 206 && range && range.begin !== this.#at) throw new Final(`${this.#site.name}: asked for bytes from ${this.#at}, the server gave those from ${range.begin}`);
      this.#skip = response.status === 200 ? this.#at : 0;
      this.#endsInTime = lengthOf(response) === (this.#end ?? Number.NaN) - this.#at + this.#skip;
      if (!response.body) throw new Refused(response);
      return openReader(response.body, this.#site.scratch);
    } catch (error) {
      await response.body?.cancel();
      throw error;
    }
  }

  async cancel(): Promise<void> {
    const open = this.#open;
    this.#open = undefined;
    await open?.cancel().catch(() => undefined);
  }
}

/** What no other try will change. */
class Final extends Error {}

/** An answer that another try may change. */
class Refused extends Error {
  constructor(readonly response: Response) {
    super(`the server answered ${response.status}`);
  }
}

function noteFinally(site: Site, response: Response): void {
  try {
    site.note(response);
  } catch (error) {
    throw new Final(messageOf(error));
  }
}

// ---- Files ----

/** A file whose server has ranges. */
class RangedSource implements ByteSource {
  readonly seekable = true;
  readonly #site: Site;
  readonly #head: Uint8Array;
  readonly #idle: ArrayBuffer[] = [];

  constructor(site: Site, head: Uint8Array) {
    this.#site = site;
    this.#head = head;
  }

  get name(): string {
    return this.#site.name;
  }

  get size(): number | undefined {
    return this.#site.size;
  }

  get etag(): string | undefined {
    return this.#site.etag;
  }

  async peek(n: number): Promise<Uint8Array> {
    return n <= this.#head.byteLength ? this.#head.slice(0, n) : readRange(this, 0, Math.min(n, this.size ?? 0));
  }

  async *read(begin: number, end: number): AsyncGenerator<Uint8Array> {
    const last = Math.min(end, this.size ?? 0);
    if (begin < this.#head.byteLength && begin < last) yield this.#head.subarray(begin, last);
    const abort = new AbortController();
    const { signal } = this.#site.options;
    const stop = (): void => abort.abort(signal?.reason);
    signal?.addEventListener('abort', stop);
    const coming: Promise<Uint8Array<ArrayBuffer>>[] = [];
    let next = Math.max(begin, this.#head.byteLength);
    const start = (): void => {
      if (next >= last) return;
      const piece = this.#piece(next, Math.min(next + pieceBytes, last), abort.signal);
      piece.catch(() => undefined); // it is awaited later, or not at all
      coming.push(piece);
      next += pieceBytes;
    };
    try {
      for (let i = 0; i < piecesAtOnce; i++) start();
      for (let piece = coming.shift(); piece; piece = coming.shift()) {
        const bytes = await piece;
        yield bytes;
        this.#idle.push(bytes.buffer);
        start();
      }
    } finally {
      signal?.removeEventListener('abort', stop);
      abort.abort();
    }
  }

  /** One piece, in memory that is used again and again. */
  async #piece(begin: number, end: number, signal: AbortSignal): Promise<Uint8Array<ArrayBuffer>> {
    const n = end - begin;
    const kept = this.#idle.pop();
    const bytes = new Uint8Array(kept && kept.byteLength >= n ? kept : new ArrayBuffer(n), 0, n);
    const download = new Download(this.#site, begin, end, signal);
    try {
      let at = 0;
      for (let chunk = await download.read(); chunk; chunk = await download.read()) {
        bytes.set(chunk, at);
        at += chunk.byteLength;
      }
      return bytes;
    } finally {
      await download.cancel();
    }
  }

  async close(): Promise<void> {
    this.#idle.length = 0;
  }
}

/** What a server says in place of a file that is not there. */
export interface Absence {
  absent: string;
}

export function isAbsent(found: ByteSource | Absence): found is Absence {
  return 'absent' in found;
}

/**
 * Opens a file at a URL. `whole`: it is small and read from begin to end, in one request. A server's 404 and 403, and its page for
 * everything that is not there, are an absence; other refusals throw.
 */
export async function openUrl(url: string | URL, options: HttpOptions, whole = false): Promise<(ByteSource & { etag?: string | undefined }) | Absence> {
  const site = new Site(url, options);
  const ranged = !whole && /^https?:/.test(site.url);
  const response = await firstAnswer(site, ...(ranged ? [0, headBytes] : []));
  const isPage = response.headers.get('content-type')?.startsWith('text/html') ?? false;
  if (isPage || response.status === 404 || response.status === 403) {
    await response.body?.cancel();
    return { absent: `${site.name}: the server answered ${response.status} ${response.statusText}`.trim() + (response.ok ? ' with a page of HTML' : '') };
  }
  if (response.status === 416) {
    await response.body?.cancel();
    return fromBytes(new Uint8Array(0), site.name); // no file but an empty one has no first byte
  }
  if (response.status === 206) return openRanged(site, response);
  if (!response.ok) {
    await response.body?.cancel();
    throw refusal(site.name, response);
  }
  site.note(response);
  return openStream(site, response);
}

/** By ranges, if the server says how long the file is; a page may not be let to see that. */
async function openRanged(site: Site, response: Response): Promise<ByteSource & { etag?: string | undefined }> {
  site.note(response);
  const range = contentRange(response);
  if (site.size === undefined || range?.begin !== 0 || response.headers.get('content-encoding') !== null) {
    await response.body?.cancel();
    const all = await firstAnswer(site);
    if (!all.ok) throw refusal(site.name, all);
    return openStream(site, all);
  }
  const download = new Download(site, 0, range.end, site.options.signal, response);
  const head = new Uint8Array(range.end);
  let at = 0;
  for (let chunk = await download.read(); chunk; chunk = await download.read()) {
    head.set(chunk, at);
    at += chunk.byteLength;
  }
  await download.cancel();
  return new RangedSource(site, head);
}

/** A response's length in bytes. Its Content-Length counts the compressed bytes when there is a Content-Encoding, and is then no size. */
function lengthOf(response: Response): number | undefined {
  const length = response.headers.get('content-length');
  return length !== null && response.headers.get('content-encoding') === null ? Number(length) : undefined;
}

function openStream(site: Site, response: Response): ByteSource & { etag?: string | undefined } {
  if (!response.body) return fromBytes(new Uint8Array(0), site.name);
  const { signal } = site.options;
  const size = lengthOf(response);
  site.size ??= size;
  const stream = new StreamSource(new Download(site, 0, size, signal, response), site.name, { size, signal, measure: () => sizeByRange(site) });
  return Object.assign(stream, { etag: site.etag });
}

/** A response that the caller fetched: its connection is not taken up again. */
export function fromResponse(response: Response, name: string, signal?: AbortSignal): ByteSource {
  if (!response.ok) throw refusal(name, response);
  if (!response.body) return fromBytes(new Uint8Array(0), name);
  return new StreamSource(response.body, name, { size: lengthOf(response), signal, measure: () => sizeByRange(new Site(response.url, { signal })) });
}

/**
 * A file's size from a request for its first byte: a server that compresses on the way says no other. Past the browser's cache, which may hold the
 * compressed bytes by now and answer with their number.
 */
async function sizeByRange(site: Site): Promise<number | undefined> {
  if (!/^https?:/.test(site.url)) return undefined;
  const other = new Site(site.url, site.options);
  const response = await other.ask(0, 1, site.options.signal, 'no-store').catch(() => undefined);
  await response?.body?.cancel();
  const whole = response?.status === 206 && response.headers.get('content-encoding') === null;
  return whole ? contentRange(response)?.total : undefined;
}
