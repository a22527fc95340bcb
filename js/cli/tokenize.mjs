/** tokenize.mjs: a text as a model's tokens. */
import { init, openFolder, ggufTokenizer, Tokenizer } from 'heddle';
import { jsonOption, opening, sourceOptions, UsageError } from './arguments.mjs';
import { readInput } from './input.mjs';
import { printJson, say } from './text.mjs';

export const about = "a text's token ids, or ids' text";
export const operands = [{ name: 'MODEL' }, { name: 'TEXT', optional: true }];
export const options = {
  decode: { kind: 'flag', about: 'TEXT is ids, as 1,2,3 or 1 2 3; their text comes out' },
  bare: { kind: 'flag', about: 'without the special tokens that the files put around a text' },
  special: { kind: 'flag', about: 'with --decode: special tokens as they are written' },
  ...jsonOption,
  ...sourceOptions,
};
export const notes = 'Without TEXT, or as -, it is read from stdin.';

/** The tokenizer alone; the weights are not read. */
async function openTokenizer(source, how) {
  const fetching = opening(source, how);
  const folder = await openFolder(source, fetching);
  if (folder) return folderTokenizer(folder);
  const runtime = await init({ threads: 1 });
  const { metadata } = await runtime.inspect(source, fetching);
  await runtime.free();
  const { tokenizer, config } = ggufTokenizer(new Map(Object.entries(metadata)));
  return new Tokenizer({ 'tokenizer.json': tokenizer, 'tokenizer_config.json': config });
}

async function folderTokenizer(folder) {
  const files = {};
  for (const name of ['tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json', 'vocab.json', 'merges.txt', 'vocab.txt']) {
    const text = await folder.text(name);
    if (text !== undefined) files[name] = text;
  }
  for (const name of ['tokenizer.model', 'spiece.model']) {
    const bytes = await folder.bytes(name);
    if (bytes) files[name] = bytes;
  }
  return new Tokenizer(files);
}

export async function run({ MODEL, TEXT, decode, bare = false, special = false, json, ...how }) {
  const tokenizer = await openTokenizer(MODEL, how);
  const text = await readInput(TEXT);
  if (!decode) {
    const ids = tokenizer.encode(text, { addSpecialTokens: !bare });
    return json ? printJson({ ids, tokens: ids.map((id) => tokenizer.idToToken(id)) }) : say(ids.join(' '));
  }
  const ids = text.trim().split(/[\s,]+/).map((each) => {
    if (!/^\d+$/.test(each)) throw new UsageError(`expected ids, found '${each}'`);
    return Number(each);
  });
  const decoded = tokenizer.decode(ids, { skipSpecialTokens: !special });
  return json ? printJson({ text: decoded }) : say(decoded);
}
