/**
 * tokenizer-vocabulary.ts: byte-level BPE from a vocabulary and its merges (vocab.json or encoder.json, merges.txt or vocab.bpe), and BERT's
 * WordPiece from vocab.txt, as a tokenizer.json. Special tokens are those tokenizer_config.json names, and entries of the form <|…|>.
 */
import { HeddleError } from './errors.js';
import { addedToken, between, betweenClsAndSep, isUncased, tokenText, vocabulary, wordPiece } from './tokenizer-json.js';
import type { AddedToken, TokenizerConfig, TokenizerDescription } from './tokenizer-json.js';
import { byteLevelBpe, ruleBegins } from './tokenizer-split.js';

/** Which rule a class of transformers' cuts by; GPT-2's where nothing says otherwise. */
const ruleOfClass: { readonly [name: string]: string } = { Qwen2Tokenizer: 'qwen2', Qwen2TokenizerFast: 'qwen2' };

/** Tokens that tokenizer_config.json lists with their ids. */
function listed(config: TokenizerConfig, name: string): AddedToken[] {
  return Object.entries(config.added_tokens_decoder ?? {}).map(([id, { content, special }]) => {
    if (!/^\d+$/.test(id) || typeof content !== 'string') throw new HeddleError('bad_file', `${name}: added_tokens_decoder: expected tokens by id, found '${id}'`);
    return addedToken(Number(id), content, special ?? false);
  });
}

function named(config: TokenizerConfig): string[] {
  const tokens = [config.bos_token, config.eos_token, config.unk_token, config.pad_token, config.sep_token, config.cls_token, config.mask_token];
  return tokens.map(tokenText).filter((token) => token !== undefined);
}

/** Byte-level BPE. `rule`: how text is cut, by GGUF's names (tokenizer-split.ts); by default what the config's class says, else GPT-2's. */
export function mergesTokenizer(vocab: object, merges: string, config: TokenizerConfig, rule: string | undefined, name: string): TokenizerDescription {
  const entries = Object.entries(vocab as Record<string, unknown>).map(([token, id]): [string, number] => {
    if (!Number.isInteger(id) || Number(id) < 0) throw new HeddleError('bad_file', `${name}: '${token}': expected an id, found ${String(id)}`);
    return [token, Number(id)];
  });
  if (entries.length === 0) throw new HeddleError('bad_file', `${name}: an empty vocabulary`);
  const ids = new Map(entries);
  const added = listed(config, 'tokenizer_config.json');
  const known = new Set(added.map(({ content }) => content));
  const specials = new Set([...named(config), ...entries.map(([token]) => token).filter((token) => /^<\|.+\|>$/.test(token))]);
  for (const token of specials) {
    const id = ids.get(token);
    if (id !== undefined && !known.has(token)) added.push(addedToken(id, token, true));
  }
  const lines = merges.split(/\r?\n/).filter((line, i) => line !== '' && !(i === 0 && line.startsWith('#version')));
  const chosen = rule ?? ruleOfClass[config.tokenizer_class ?? ''] ?? 'gpt-2';
  const begin = (config.add_bos_token ?? ruleBegins(chosen, 'split')) ? tokenText(config.bos_token) : undefined;
  return {
    from: name,
    config: { ...config, add_bos_token: false },
    tokenizer: { added_tokens: added, post_processor: between(begin, config.add_eos_token ? tokenText(config.eos_token) : undefined), ...byteLevelBpe(entries, lines, chosen, 'split') },
  };
}

/** WordPiece: a token a line, its number the id. */
export function wordsTokenizer(file: string, config: TokenizerConfig, name: string): TokenizerDescription {
  const lines = file.replace(/\r?\n$/, '').split(/\r?\n/);
  const all: TokenizerConfig = { unk_token: '[UNK]', cls_token: '[CLS]', sep_token: '[SEP]', pad_token: '[PAD]', mask_token: '[MASK]', ...config, add_bos_token: false };
  const ids = vocabulary(lines.map((line, id) => [line, id] as const));
  const token = (which: 'unk_token' | 'cls_token' | 'sep_token'): string => {
    const found = tokenText(all[which]);
    if (found === undefined || !Object.hasOwn(ids, found)) throw new HeddleError('bad_file', `${name}: no ${found ?? which} among its ${lines.length} lines: not a WordPiece vocabulary`);
    return found;
  };
  const uncased = config.do_lower_case ?? isUncased(lines.filter((line) => !line.startsWith('[')));
  const specials = [...new Set(named(all))].filter((each) => Object.hasOwn(ids, each));
  return {
    from: name,
    config: all,
    tokenizer: {
      added_tokens: [...listed(config, 'tokenizer_config.json').filter(({ content }) => !specials.includes(content)), ...specials.map((each) => addedToken(ids[each] ?? 0, each, true))],
      post_processor: betweenClsAndSep(token('cls_token'), token('sep_token')),
      ...wordPiece(ids, token('unk_token'), uncased),
    },
  };
}
