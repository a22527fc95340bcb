/**
 * tokenizer-split.ts: how byte-level BPE vocabularies cut a text before they merge. tokenizer.json says it; GGUF metadata (tokenizer.ggml.pre)
 * and files of vocabulary and merges only name the rule, and this is the table of the names.
 */
import { HeddleError } from './errors.js';
import type { TokenizerJson } from './tokenizer-json.js';
import { vocabulary } from './tokenizer-json.js';

interface SplitRule {
  /** Expressions, each cutting what the one before left whole. */
  cuts: readonly string[];
  /** Every digit is a token of its own. */
  digits?: boolean;
  /** A word that is in the vocabulary is taken whole, whatever the merges say. */
  wholeWords?: boolean;
  /** A prompt begins with the begin token unless the file says otherwise. */
  begins?: boolean;
  normalizer?: 'NFC';
}

const gpt2 = String.raw`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`;
const contractions = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";

/** GPT-4's way, with at most so many digits together. */
const cl100k = (digits: string): string =>
  String.raw`${contractions}|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}${digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;

const gpt2Rule: SplitRule = { cuts: [gpt2] };
const llama3Rule: SplitRule = { cuts: [cl100k('{1,3}')], wholeWords: true, begins: true };
const qwen2Rule: SplitRule = { cuts: [cl100k('')], normalizer: 'NFC' };

/** Names as GGUF has them. */
const rules: { readonly [name: string]: SplitRule } = {
  'gpt-2': gpt2Rule,
  default: gpt2Rule,
  'phi-2': gpt2Rule,
  mpt: gpt2Rule,
  olmo: gpt2Rule,
  jais: gpt2Rule,
  'llama-bpe': llama3Rule,
  llama3: llama3Rule,
  'llama-v3': llama3Rule,
  qwen2: qwen2Rule,
  'deepseek-r1-qwen': { cuts: [cl100k('')] },
  stablelm2: { cuts: [cl100k('')] },
  dbrx: { cuts: [cl100k('{1,3}')] },
  smaug: { cuts: [cl100k('{1,3}')] },
  smollm: { cuts: [gpt2], digits: true },
  starcoder: { cuts: [gpt2], digits: true },
  refact: { cuts: [gpt2], digits: true },
  'command-r': { cuts: [gpt2], digits: true },
  // Line ends, words of letters that have case, marks (ASCII's, full-width ones, general punctuation), trailing space, CJK runs, digits.
  'deepseek-llm': {
    cuts: [
      String.raw`[\r\n]`,
      String.raw`\s?[\p{Lu}\p{Ll}\p{Lt}]+`,
      String.raw`\s?[!-/:-~！-／：-～‘-‟　-。]+`,
      String.raw`\s+$`,
      String.raw`[一-龥ࠀ-一가-퟿]+`,
    ],
    digits: true,
  },
};

function ruleNamed(name: string, where: string): SplitRule {
  const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
  if (!rule) throw new HeddleError('unsupported', `${where}: how '${name}' cuts a text is not known; known: ${Object.keys(rules).join(', ')}`);
  return rule;
}

/** Whether prompts begin with the begin token where the files do not say. */
export function ruleBegins(name: string, where: string): boolean {
  return ruleNamed(name, where).begins ?? false;
}

/** Byte-level BPE of that rule: tokens in GPT-2's alphabet of bytes, merges as "left right" or pairs. */
export function byteLevelBpe(
  tokens: Iterable<readonly [string, number]>,
  merges: readonly (string | readonly [string, string])[],
  rule: string,
  where: string,
): Pick<TokenizerJson, 'normalizer' | 'pre_tokenizer' | 'decoder' | 'model'> {
  const { cuts, digits, wholeWords, normalizer } = ruleNamed(rule, where);
  const split = cuts.map((Regex) => ({ type: 'Split', pattern: { Regex }, behavior: 'Isolated', invert: false }));
  const eachDigit = { type: 'Digits', individual_digits: true };
  const bytes = { type: 'ByteLevel', add_prefix_space: false, use_regex: false };
  // GPT-2's expression joins digits, so they are cut before it; the others' cuts come first.
  const steps = cuts[0] === gpt2 ? [...(digits ? [eachDigit] : []), ...split, bytes] : [...split, ...(digits ? [eachDigit] : []), bytes];
  return {
    normalizer: normalizer ? { type: normalizer } : null,
    pre_tokenizer: { type: 'Sequence', pretokenizers: steps },
    decoder: { type: 'ByteLevel' },
    model: { type: 'BPE', vocab: vocabulary(tokens), merges: merges.map((merge) => (typeof merge === 'string' ? splitMerge(merge, where) : merge)), ignore_merges: wholeWords ?? false },
  };
}

function splitMerge(merge: string, where: string): [string, string] {
  const space = merge.indexOf(' ', 1);
  if (space < 1 || space === merge.length - 1) throw new HeddleError('bad_file', `${where}: expected merges of two tokens with a space between, found '${merge}'`);
  return [merge.slice(0, space), merge.slice(space + 1)];
}
