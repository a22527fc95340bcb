/**
 * chat-template.ts: which of a model's chat templates a conversation goes through, and what the template is told. The engine (jinja.ts) is loaded
 * with the first conversation.
 */
import { chatTemplateOptions, checkMessages, checkOptions } from './arguments.js';
import { HeddleError } from './errors.js';
import { tokenText } from './tokenizer-json.js';
import type { TokenizerConfig } from './tokenizer-json.js';

/** One turn. Templates read `role` and `content`, and of the rest what they know: tool_calls, tool_call_id, name, reasoning_content. */
export interface ChatMessage {
  role: string;
  content?: string | readonly object[] | null;
  [key: string]: unknown;
}

export interface ChatTemplateOptions {
  /** Whether the text ends where the assistant's turn begins; true by default. */
  addGenerationPrompt?: boolean;
  /** Functions the model may call, as JSON Schema descriptions: { type: 'function', function: { name, description, parameters } }. */
  tools?: readonly object[];
  /** Documents to answer from, for templates that know them: { title, text }. */
  documents?: readonly object[];
  /** Which of the model's templates, by name, or another template's text. By default 'tool_use' with tools, where there is one, else 'default'. */
  template?: string;
  /** More variables of the template: { enable_thinking: false }. */
  variables?: Readonly<Record<string, unknown>>;
  /** The time that strftime_now tells; now by default. */
  now?: Date;
}

/** Templates by name. */
export type ChatTemplates = ReadonlyMap<string, string>;

/** What a config says, be it one template or a list of them by name. */
export function templatesOf({ chat_template: found }: TokenizerConfig): ChatTemplates {
  if (found === undefined || found === null) return new Map();
  if (typeof found === 'string') return new Map([['default', found]]);
  if (!Array.isArray(found)) throw new HeddleError('bad_file', 'chat_template: expected a template or a list of templates by name');
  return new Map(
    (found as readonly { name?: unknown; template?: unknown }[]).map((each, i): [string, string] => {
      if (typeof each?.name !== 'string' || typeof each.template !== 'string') throw new HeddleError('bad_file', `chat_template[${i}]: expected a name and a template`);
      return [each.name, each.template];
    }),
  );
}

function chosen(templates: ChatTemplates, { template, tools }: ChatTemplateOptions): string {
  const names = [...templates.keys()].join(', ');
  if (template !== undefined) {
    const named = templates.get(template);
    if (named !== undefined) return named;
    if (/[{][{%#]/.test(template)) return template;
    throw new HeddleError('bad_argument', `template: neither a template's text nor one of the model's templates (${names || 'it has none'}): '${template.slice(0, 40)}'`);
  }
  if (templates.size === 0) throw new HeddleError('bad_state', 'the model has no chat template: give one as options.template, or load it with its tokenizer_config.json or chat_template.jinja');
  const found = (tools && tools.length > 0 && templates.get('tool_use')) || templates.get('default') || (templates.size === 1 ? [...templates.values()][0] : undefined);
  if (found === undefined) throw new HeddleError('bad_argument', `the model has several chat templates (${names}) and none called 'default': say which as options.template`);
  return found;
}

/** The special tokens a template may write, by the names it knows them. */
function specialTokens(config: TokenizerConfig): Record<string, string> {
  const names = ['bos_token', 'eos_token', 'unk_token', 'pad_token', 'sep_token', 'cls_token', 'mask_token'] as const;
  return Object.fromEntries(names.flatMap((name) => (tokenText(config[name]) === undefined ? [] : [[name, tokenText(config[name]) ?? '']])));
}

/** The conversation as text. */
export async function renderChat(templates: ChatTemplates, config: TokenizerConfig, messages: readonly ChatMessage[], options: ChatTemplateOptions): Promise<string> {
  checkMessages(messages, 'messages');
  checkOptions(options as ChatTemplateOptions & { tokenize?: boolean }, chatTemplateOptions);
  const template = chosen(templates, options);
  const { tools, documents, variables, addGenerationPrompt = true, now = new Date() } = options;
  const { render } = await import('./jinja.js');
  return render(template, {
    ...specialTokens(config),
    messages,
    ...(tools && { tools }),
    ...(documents && { documents }),
    add_generation_prompt: addGenerationPrompt,
    ...variables,
  }, now);
}
