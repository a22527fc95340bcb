/** tokenize.mjs: a text as a model's tokens. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { HeddleError, init, openFolder, ggufTokenizer, Tokenizer } from 'heddle';
import { jsonOption, opening, sourceOptions, UsageError } from './arguments.mjs';
import { readInput } from './input.mjs';
import { printJson, say } from './text.mjs';
import { readTokenizer, tokenizerFilesOf } from './tokenizer.mjs';

export const about = "a text's token ids, or ids' text";
export const operands = [{ name: 'MODEL' }, { name: 'TEXT', optional: true, many: true }];
export const options = {
  decode: { kind: 'flag', about: 'TEXT is ids, as 1,2,3 or 1 2 3; their text comes out' },
  bare: { kind: 'flag', about: 'without the special tokens that the files put around a text' },
  tokenizer: { kind: 'text', takes: 'FILE', about: "a tokenizer's file or folder, instead of the model's own" },
  special: { kind: 'flag', about: 'with --decode: special tokens as they are written' },
  ...jsonOption,
  ...sourceOptions,
};
export const notes = 'Without TEXT, or as -, it is read from stdin.';

/** The tokenizer alone; the weights are not read. */
async function openTokenizer(source, how) {
  const fetching = opening(source, how);
  const folder = await openFolder(source, fetching);
  if (folder) return new Tokenizer(await tokenizerFilesOf(folder));
  const runtime = await init({ threads: 1 });
  const { metadata, format } = await runtime.inspect(source, fetching);
  await runtime.free();
  if (format !== 'GGUF' && existsSync(source)) return new Tokenizer(await tokenizerFilesOf(await openFolder(dirname(source))));
  const { tokenizer, config } = ggufTokenizer(new Map(Object.entries(metadata)));
  return new Tokenizer({ 'tokenizer.json': tokenizer, 'tokenizer_config.json': config });
}

export async function run({ MODEL, TEXT, decode, bare = false, special = false, tokenizer: file, json, ...how }) {
  if (!decode && TEXT.length > 1) throw new UsageError(`'${TEXT[1]}' is one too many: a text of several words goes between quotes`);
  const tokenizer = file === undefined ? await openTokenizer(MODEL, how) : new Tokenizer(await readTokenizer(file));
  const text = await readInput(TEXT.length === 0 ? undefined : TEXT.join(' '));
  if (!decode) {
    const ids = tokenizer.encode(text, { addSpecialTokens: !bare });
    return json ? printJson({ ids, tokens: ids.map((id) => tokenizer.idToToken(id)) }) : say(ids.join(' '));
  }
  const decoded = tokenizer.decode(idsOf(text, tokenizer), { skipSpecialTokens: !special });
  return json ? printJson({ text: decoded }) : say(decoded);
}

function idsOf(text, tokenizer) {
  return text.split(/[\s,]+/).filter(Boolean).map((each) => {
    if (!/^\d+$/.test(each)) throw new UsageError(`expected ids, found '${each}'`);
    const id = Number(each);
    if (!Number.isSafeInteger(id) || tokenizer.idToToken(id) === undefined) throw new HeddleError('bad_argument', `there is no token ${each}: the vocabulary has the ids below ${tokenizer.vocabSize}`);
    return id;
  });
}
