/**
 * hub.ts: how Hugging Face lays out models: addresses on its hub with a revision in them, and the cache folder of its Python library
 * (`models--org--name/{refs,snapshots,blobs}`), from a disk or as a list of dropped files.
 */
import { HeddleError } from './errors.js';
import { cacheFolder, environment, isNode, nodeFiles } from './host.js';

/** `main` unless the caller says another: a branch, a tag, a commit. */
const defaultRevision = 'main';

function checkRevision(revision: string): void {
  if (!/^[\w.-]+(\/[\w.-]+)*$/.test(revision) || revision.split('/').includes('..')) throw new HeddleError('bad_argument', `revision '${revision}': expected a branch, a tag or a commit`);
}

// ---- Addresses ----

/**
 * The address to fetch from: a model's page becomes the folder of its files, and `revision` takes the place of the one in the address.
 * Other addresses stay as they are; a revision for them is refused.
 */
export function hubAddress(url: URL, revision: string | undefined): URL {
  if (revision !== undefined) checkRevision(revision);
  const page = /^(\/[\w.-]+\/[\w.-]+)(?:\/tree\/([^/]+))?\/?$/.exec(url.pathname);
  if (url.hostname === 'huggingface.co' && page) return new URL(`${page[1]}/resolve/${encodeURIComponent(revision ?? page[2] ?? defaultRevision)}/`, url);
  const file = /^(.*\/)(?:resolve|blob)\/([^/]+)\/(.*)$/.exec(url.pathname);
  const onHub = url.hostname === 'huggingface.co' && file;
  if (revision === undefined && !onHub) return url;
  if (!file) throw new HeddleError('bad_argument', `revision '${revision ?? ''}': ${url.href} has no /resolve/<revision>/ in it`);
  const moved = new URL(url);
  moved.pathname = `${file[1]}resolve/${encodeURIComponent(revision ?? decodeURIComponent(file[2] ?? defaultRevision))}/${file[3]}`;
  return moved;
}

// ---- The cache's folders ----

/** Names in a folder; undefined where there is no such folder. */
async function names(folder: string): Promise<string[] | undefined> {
  return nodeFiles().readdir(folder).catch(() => undefined);
}

/** Which of a model's snapshots: the one the revision is or points to, else the only one. */
function chosen(folder: string, snapshots: readonly string[], revision: string | undefined, pointsTo: string | undefined): string {
  if (revision !== undefined && snapshots.includes(revision)) return revision;
  if (pointsTo !== undefined && snapshots.includes(pointsTo)) return pointsTo;
  if (revision === undefined && pointsTo === undefined && snapshots.length === 1 && snapshots[0] !== undefined) return snapshots[0];
  const target = pointsTo === undefined ? '' : ` (it points to ${pointsTo})`;
  throw new HeddleError('bad_file', `${folder}: no snapshot of revision '${revision ?? defaultRevision}'${target}; there are ${snapshots.join(', ') || 'none'}`);
}

/** A folder of the library's cache becomes the folder of its snapshot; any other stays. */
export async function snapshotFolder(folder: string, revision: string | undefined): Promise<string> {
  const base = folder.replace(/[/\\]+$/, '');
  const snapshots = (await names(base))?.includes('snapshots') ? await names(`${base}/snapshots`) : undefined;
  if (!snapshots) {
    if (revision !== undefined && !/[/\\]snapshots[/\\]/.test(base)) throw new HeddleError('bad_argument', `revision '${revision}': ${folder} has no snapshots folder`);
    return folder;
  }
  if (revision !== undefined) checkRevision(revision);
  const ref = await nodeFiles().readFile(`${base}/refs/${revision ?? defaultRevision}`).catch(() => undefined);
  return `${base}/snapshots/${chosen(folder, snapshots, revision, ref && new TextDecoder().decode(ref).trim())}`;
}

/** Where the Python library keeps what it has fetched. */
function hubCache(): string {
  const home = environment('HF_HOME');
  return environment('HF_HUB_CACHE') ?? (home === undefined ? `${cacheFolder()}/huggingface/hub` : `${home}/hub`);
}

/** The cache folder of a model's id (`org/name`), whether or not it is there; undefined for what is no id. */
export function cachedModel(id: string): string | undefined {
  return isNode() && /^[\w.-]+\/[\w.-]+$/.test(id) && !id.startsWith('.') ? `${hubCache()}/models--${id.replace('/', '--')}` : undefined;
}

/**
 * The same among files by their paths, as a folder picker gives them: the folder whose files are the model, `''` or one with a slash at its
 * end. `read` gives a file's text.
 */
export async function snapshotPrefix(paths: readonly string[], revision: string | undefined, read: (path: string) => Promise<string>): Promise<string> {
  const parts = paths.map((path) => /^(.*?)snapshots\/([^/]+)\/[^/]+$/.exec(path)).filter((found) => found !== null);
  const base = parts[0]?.[1];
  if (base === undefined || paths.includes('config.json')) return '';
  const snapshots = [...new Set(parts.map(([, , snapshot]) => snapshot ?? ''))];
  const ref = `${base}refs/${revision ?? defaultRevision}`;
  const pointsTo = paths.includes(ref) ? (await read(ref)).trim() : undefined;
  return `${base}snapshots/${chosen('the files given', snapshots, revision, pointsTo)}/`;
}
