/**
 * assistant.ts: what an assistant's text says besides its words: its thinking, and the tools it calls, in the notation of Qwen and Hermes
 * models, which most chat models of today were trained on.
 *
 *   <think>…</think>                                            thinking
 *   <tool_call>{"name": …, "arguments": {…}}</tool_call>         a call
 *   <tool_call><name>…</name><arguments>{…}</arguments></tool_call>   the same where no call of the first form is there
 */

/** A call of a tool as the text has it; `status` says whether it can be carried out. */
export interface ToolCall {
  /** `call_` and 32 hexadecimal digits. */
  id: string;
  name: string;
  /** Parsed; the raw text where it is no JSON. */
  arguments: unknown;
  status: 'ok' | 'invalid_json' | 'missing_name';
  /** What is wrong with it. */
  error?: string;
  /** What stood between the tags. */
  rawContent: string;
}

export interface AssistantText {
  /** Without thinking and calls. */
  text: string;
  /** The thinking blocks, an empty line between two; null: there was none. */
  thinking: string | null;
  toolCalls: ToolCall[];
  rawText: string;
}

/** A tool as chat templates take it. */
export interface ToolDefinition {
  type: 'function';
  function: { name: string; description?: string; parameters?: { type: 'object'; properties: object; required?: readonly string[] } };
}

/** `properties` is a JSON Schema's. */
export function createToolDefinition(name: string, description?: string, properties?: object, required?: readonly string[]): ToolDefinition {
  const parameters = properties && { type: 'object' as const, properties, ...(required && { required }) };
  return { type: 'function', function: { name, ...(description !== undefined && { description }), ...(parameters && { parameters }) } };
}

/** A tool's answer as those models expect to read it. */
export function formatToolResponse(response: unknown): string {
  const text = typeof response === 'string' ? response : JSON.stringify(response);
  return `<tool_response>\n${text}\n</tool_response>`;
}

/** Takes an assistant's text apart. A thinking block that was begun before the text (`</think>` without its tag) or cut off (no end) counts too. */
export function parseAssistant(rawText: string): AssistantText {
  const { rest, blocks } = splitThinking(rawText);
  const toolCalls: ToolCall[] = [];
  const text = rest.replace(/<tool_call>([\s\S]*?)(?:<\/tool_call>|$)/g, (_, content: string) => {
    toolCalls.push(parseCall(content));
    return '';
  });
  return { text: text.trim(), thinking: blocks.length > 0 ? blocks.join('\n\n') : null, toolCalls, rawText };
}

function splitThinking(text: string): { rest: string; blocks: string[] } {
  const blocks: string[] = [];
  const keep = (block: string): string => {
    if (block.trim() !== '') blocks.push(block.trim());
    return '';
  };
  const opened = text.indexOf('<think>');
  const closed = text.indexOf('</think>');
  let rest = text;
  if (closed >= 0 && (opened < 0 || closed < opened)) {
    keep(text.slice(0, closed));
    rest = text.slice(closed + '</think>'.length);
  }
  return { rest: rest.replace(/<think>([\s\S]*?)(?:<\/think>|$)/g, (_, block: string) => keep(block)), blocks };
}

function parseCall(rawContent: string): ToolCall {
  const id = `call_${Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('')}`;
  const content = rawContent.trim();
  const call = content.startsWith('<') ? parseTags(content) : parseJson(content);
  const { name = '', arguments: given = {}, error } = call;
  if (error !== undefined) return { id, name, arguments: given, status: 'invalid_json', error, rawContent };
  if (name === '') return { id, name, arguments: given, status: 'missing_name', error: 'the call names no tool', rawContent };
  return { id, name, arguments: given, status: 'ok', rawContent };
}

interface ParsedCall {
  name?: string;
  arguments?: unknown;
  error?: string;
}

function parseJson(content: string): ParsedCall {
  const { value, error } = json(content);
  if (error !== undefined) return { arguments: content, error };
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { arguments: value, error: 'expected an object with name and arguments' };
  const { name, arguments: given } = value as { name?: unknown; arguments?: unknown };
  return { ...(typeof name === 'string' && { name }), ...argumentsOf(given) };
}

function parseTags(content: string): ParsedCall {
  const name = /<name>([\s\S]*?)<\/name>/.exec(content)?.[1]?.trim();
  const given = /<arguments>([\s\S]*?)<\/arguments>/.exec(content)?.[1]?.trim();
  return { ...(name !== undefined && { name }), ...argumentsOf(given) };
}

/** Arguments given as a string are JSON once more. */
function argumentsOf(given: unknown): Pick<ParsedCall, 'arguments' | 'error'> {
  if (given === undefined || given === null) return {};
  if (typeof given !== 'string') return { arguments: given };
  const { value, error } = json(given);
  return error === undefined ? { arguments: value } : { arguments: given, error };
}

function json(text: string): { value?: unknown; error?: string } {
  try {
    return { value: JSON.parse(text) };
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
}
