/** Thinking and tool calls in an assistant's text, as mlx-node documents them. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { heddle } from './heddle.mjs';

const { createToolDefinition, formatToolResponse, parseAssistant } = heddle;

test('a call in JSON and one in tags are parsed; text and thinking are what is left', () => {
  const raw = '<think>\nfirst\n</think>Let me look.\n<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call><think>then</think> Done.';
  const { text, thinking, toolCalls, rawText } = parseAssistant(raw);
  assert.equal(text, 'Let me look.\n Done.');
  assert.equal(thinking, 'first\n\nthen');
  assert.equal(rawText, raw);
  assert.equal(toolCalls.length, 1);
  assert.match(toolCalls[0].id, /^call_[0-9a-f]{32}$/);
  assert.deepEqual({ ...toolCalls[0], id: '' }, {
    id: '', name: 'weather', arguments: { city: 'Oslo' }, status: 'ok', rawContent: '\n{"name": "weather", "arguments": {"city": "Oslo"}}\n',
  });
  const [tagged] = parseAssistant('<tool_call><name>add</name><arguments>{"a": 1, "b": 2}</arguments></tool_call>').toolCalls;
  assert.deepEqual([tagged.name, tagged.arguments, tagged.status], ['add', { a: 1, b: 2 }, 'ok']);
});

test('arguments in a string are parsed again; what is broken says how', () => {
  const call = (content) => parseAssistant(`<tool_call>${content}</tool_call>`).toolCalls[0];
  assert.deepEqual(call('{"name": "f", "arguments": "{\\"x\\": [1]}"}').arguments, { x: [1] });
  assert.equal(call('{"name": "f", "arguments": {').status, 'invalid_json');
  assert.equal(call('{"name": "f", "arguments": "{"}').status, 'invalid_json');
  assert.ok(call('{"name": "f", "arguments": "{"}').error.length > 0);
  assert.equal(call('{"arguments": {}}').status, 'missing_name');
  assert.deepEqual(call('{"name": "f"}').arguments, {});
  assert.equal(call('[1]').status, 'invalid_json');
});

test('thinking begun in the prompt or cut off is thinking; without any it is null', () => {
  assert.deepEqual((({ text, thinking }) => ({ text, thinking }))(parseAssistant('so it is 4</think>\n\n4')), { text: '4', thinking: 'so it is 4' });
  assert.deepEqual((({ text, thinking }) => ({ text, thinking }))(parseAssistant('<think>and then')), { text: '', thinking: 'and then' });
  assert.deepEqual((({ text, thinking }) => ({ text, thinking }))(parseAssistant('plain')), { text: 'plain', thinking: null });
  assert.equal(parseAssistant('<think>\n\n</think>\n\nhello').thinking, null);
});

test('tools and their answers have the shapes templates take', () => {
  assert.deepEqual(createToolDefinition('f', 'does', { x: { type: 'number' } }, ['x']), {
    type: 'function', function: { name: 'f', description: 'does', parameters: { type: 'object', properties: { x: { type: 'number' } }, required: ['x'] } },
  });
  assert.equal(formatToolResponse({ ok: true }), '<tool_response>\n{"ok":true}\n</tool_response>');
});
