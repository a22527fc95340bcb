/** tokenizer.mjs: a tokenizer's files for a command: a model's own, or those of --tokenizer and --template. */
import { readFile, stat } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { HeddleError, openFolder } from 'heddle';

const texts = ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'chat_template.jinja', 'chat_template.json', 'vocab.json', 'encoder.json', 'merges.txt', 'vocab.bpe', 'vocab.txt'];
const bytes = ['tokenizer.model', 'spiece.model'];

/** llama2.c's own calls a vocabulary of 512 tok512.bin. */
export const isLlama2cTokenizer = (name) => /^tok(enizer|\d+)\.bin$/.test(name);

/** What makes the tokenizer; the others say more of it. */
const isVocabulary = (name) => /^(tokenizer\.(json|model|bin)|spiece\.model|vocab\.(json|txt)|encoder\.json)$/.test(name);

/** The files of a folder's tokenizer, as the package takes them; none where it has no tokenizer. */
export async function tokenizerFilesOf(folder) {
  const listed = await folder.list();
  const isThere = (name) => !listed || listed.includes(name);
  const files = {};
  const take = async (name, place, read) => {
    const found = isThere(place) ? await read(place) : undefined;
    if (found !== undefined) files[name] = found;
  };
  for (const name of texts) await take(name, name, folder.text);
  for (const name of bytes) await take(name, name, folder.bytes);
  const own = (listed ?? []).filter(isLlama2cTokenizer);
  await take('tokenizer.bin', own.length === 1 ? own[0] : 'tokenizer.bin', folder.bytes);
  return Object.keys(files).some(isVocabulary) ? files : {};
}

/** --tokenizer's: of a folder, or one file with what lies beside it and says more. */
export async function readTokenizer(path) {
  const { isFile } = await stat(path).then((found) => ({ isFile: !found.isDirectory() }));
  const files = await tokenizerFilesOf(await openFolder(isFile ? dirname(path) : path));
  if (!isFile && Object.keys(files).length > 0) return files;
  const name = isLlama2cTokenizer(basename(path)) ? 'tokenizer.bin' : basename(path);
  if (!isFile || !isVocabulary(name)) throw new HeddleError('bad_file', `${path}: expected a tokenizer's folder or file: tokenizer.json, tokenizer.model, spiece.model, vocab.json, vocab.txt, tokenizer.bin or tok512.bin`);
  const others = Object.fromEntries(Object.entries(files).filter(([other]) => !isVocabulary(other)));
  return { ...others, [name]: await readFile(path, texts.includes(name) ? 'utf8' : undefined) };
}

/** --template's: a file where there is one of that name, else what the package takes: a name, or the template itself. */
export async function templateOf(template) {
  if (template === undefined) return undefined;
  return readFile(template, 'utf8').catch((error) => {
    if (['ENOENT', 'ENAMETOOLONG'].includes(error.code) && !/[\\/.]/.test(template.split(/[{\n]/)[0])) return template;
    throw error;
  });
}
