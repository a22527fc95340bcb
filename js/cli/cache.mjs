/** cache.mjs: what loads with --cache have kept. */
import { openCache } from 'heddle';
import { UsageError, jsonOption } from './arguments.mjs';
import { counted, printJson, say, sizeText, table } from './text.mjs';

export const about = 'what loads with --cache have kept: list, verify, or clear it';
export const operands = [{ name: 'ACTION' }, { name: 'URL', optional: true }];
export const options = { folder: { kind: 'text', takes: 'PATH', about: "the cache's folder, where it is not the usual one" }, ...jsonOption };
export const notes = `ACTION
  list            the files, the oldest first
  verify [URL]    reads them again and removes what is damaged; exit code 1 when something was
  clear [URL]     removes all, or one address (of one that ends in /, all below it)`;

const actions = {
  async list(cache, _, json) {
    const entries = await cache.list();
    if (json) return printJson({ folder: cache.where, entries });
    say(`${cache.where}: ${counted(entries.length, 'file')}, ${sizeText(entries.reduce((sum, { bytes }) => sum + bytes, 0))}`);
    if (entries.length > 0) say(table(['kept', 'bytes', 'address'], entries.map(({ time, bytes, url }) => [new Date(time).toISOString(), bytes, url])));
    return 0;
  },
  async verify(cache, url, json) {
    const damaged = await cache.verify(url);
    if (json) printJson({ damaged });
    else say(damaged.length === 0 ? 'all is as it was written' : `removed ${damaged.join(', ')}`);
    return damaged.length === 0 ? 0 : 1;
  },
  async clear(cache, url, json) {
    const removed = url === undefined ? (await cache.list()).length : await cache.evict(url);
    if (url === undefined) await cache.clear();
    if (json) printJson({ removed });
    else say(`${counted(removed, 'file')} removed`);
    return 0;
  },
};

export async function run({ ACTION, URL: url, folder, json }) {
  const action = Object.hasOwn(actions, ACTION) ? actions[ACTION] : undefined;
  if (!action) throw new UsageError(`cache has ${Object.keys(actions).join(', ')}; found '${ACTION}'`);
  return action(await openCache(folder === undefined ? {} : { folder }), url, json);
}
