/** folder.js: folders that were dropped or chosen, as files by their paths below them. */

/** More than any model's folder has; a home directory has more. */
const mostFiles = 2000;

/** Files of a chooser, `{ files, folder }`: a Map by path; `folder` is the name of the one that was chosen. */
export function filesOf(list) {
  const [first] = list;
  const folder = first?.webkitRelativePath.split('/')[0] || undefined;
  return { files: new Map([...list].map((file) => [folder === undefined ? file.name : file.webkitRelativePath.slice(folder.length + 1), file])), folder };
}

/** Resolves to the same of a drop. What lies in hidden folders (.git) is left out. */
export async function folderOf(transfer) {
  const given = [...transfer.files]; // both are gone after the event
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter((entry) => entry);
  const folders = entries.filter((entry) => entry.isDirectory);
  if (folders.length === 0) return { files: new Map(given.map((file) => [file.name, file])) };
  if (folders.length > 1) throw new Error(`These are ${folders.length} folders (${folders.map(({ name }) => name).join(', ')}): one at a time, please.`);
  const files = new Map();
  await addBelow(folders[0], '', files);
  for (const entry of entries) if (entry.isFile) files.set(entry.name, await fileOf(entry));
  return { files, folder: folders[0].name };
}

async function addBelow(folder, path, files) {
  const reader = folder.createReader();
  for (let entries = await next(reader); entries.length > 0; entries = await next(reader)) {
    for (const entry of entries) {
      if (entry.isFile) files.set(path + entry.name, await fileOf(entry));
      else if (!entry.name.startsWith('.')) await addBelow(entry, `${path}${entry.name}/`, files);
      if (files.size > mostFiles) throw new Error(`There are more than ${mostFiles} files in this folder: drop the model's own, please.`);
    }
  }
}

/** Some of a folder's entries at a time, until there are none left. */
const next = (reader) => new Promise((done, fail) => reader.readEntries(done, fail));

const fileOf = (entry) => new Promise((done, fail) => entry.file(done, fail));
