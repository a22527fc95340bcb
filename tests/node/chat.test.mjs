/** Conversations: the template makes the text, the session keeps what it has, and the answer is a message. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, heddle, heddleError, projectFolder, testOnEveryModule } from './heddle.mjs';

const storyFolder = join(projectFolder, 'demo/models/story');
/** The story model knows no roles: its words are enough to see what is kept and what is computed. */
const template = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

async function collect(turn) {
  let text = '';
  for await (const token of turn) text += token.text;
  return text;
}

/** The same conversation computed from nothing: one prompt of the whole text. */
async function fromNothing(model, messages, options) {
  const prompt = await model.applyChatTemplate(messages, { template, tokenize: true });
  return model.generate(prompt, options).text();
}

testOnEveryModule('a conversation answers as its whole text would, and computes only what is new', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const options = { maxTokens: 12, ignoreEnd: true };
  const chat = await model.createChat({ system: 'Tell stories.', template, ...options });
  const first = chat.send('Once upon a time');
  const text = await collect(first);
  const said = [{ role: 'system', content: 'Tell stories.' }, { role: 'user', content: 'Once upon a time' }];
  assert.equal(text, await fromNothing(model, said, options));
  assert.equal(first.usage.reusedTokens, 0);
  assert.deepEqual(chat.messages, [...said, { role: 'assistant', content: text }]);

  const second = chat.send('And then?');
  const { text: answer, usage, finishReason, thinking, toolCalls } = await second.reply();
  assert.equal(answer, (await fromNothing(model, [...chat.messages.slice(0, -1)], options)).trim());
  assert.ok(usage.reusedTokens > first.usage.prefillTokens, `${usage.reusedTokens} of ${usage.reusedTokens + usage.prefillTokens} tokens were kept`);
  assert.deepEqual([finishReason, thinking, toolCalls], ['length', null, []]);
  assert.equal(chat.messages.length, 5);

  chat.takeBack(2);
  const other = chat.send('Who was it?', { maxTokens: 3 });
  assert.equal(await collect(other), await fromNothing(model, chat.messages.slice(0, -1), { ...options, maxTokens: 3 }));
  assert.ok(other.usage.reusedTokens > 0);
  const kept = chat.messages;
  chat.setMessages(said.slice(0, 2));
  chat.setMessages(kept.slice(0, 3));
  assert.deepEqual(chat.messages, [...said, { role: 'assistant', content: text }]);
  const again = chat.send('And then?', { maxTokens: 3 });
  await again.next();
  assert.throws(() => chat.setMessages([]), heddleError('bad_state', /has not ended/));
  await again.return();
  assert.ok((await chat.send('More', { maxTokens: 2 }).reply()).usage.reusedTokens > first.usage.prefillTokens, 'what both have in common is kept');
  assert.throws(() => chat.setMessages([{ content: 'x' }]), heddleError('bad_argument', /^messages\[0\]\.role/));
  await chat.reset();
  assert.deepEqual(chat.messages, said.slice(0, 1));
  assert.equal(chat.position, 0);
  await chat.free();
  await model.free();
});

testOnEveryModule('a turn that is left keeps what was said; one that fails or is aborted is as if it had not been', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const chat = await model.createChat({ template, ignoreEnd: true, maxTokens: 30 });
  let heard = '';
  for await (const { text } of chat.send('Hello')) {
    heard += text;
    if (heard.length > 8) break;
  }
  assert.deepEqual(chat.messages, [{ role: 'user', content: 'Hello' }, { role: 'assistant', content: heard }]);
  const abort = new AbortController();
  await assert.rejects(async () => {
    for await (const token of chat.send('More', { signal: abort.signal })) if (token) abort.abort(new Error('enough'));
  }, /enough/);
  assert.equal(chat.messages.length, 2);
  await assert.rejects(chat.send('x', { topP: 7 }).reply(), heddleError('bad_argument', /topP/));
  assert.equal(chat.messages.length, 2);
  const pending = chat.send('one');
  await pending.next();
  await assert.rejects(chat.send('two').reply(), heddleError('bad_state', /has not ended/));
  await pending.return();
  assert.throws(() => chat.takeBack(9), heddleError('bad_argument', /4 messages/));
  assert.throws(() => chat.send({ content: 'no role' }), heddleError('bad_argument', /role/));
  await model.free();
});

testOnEveryModule('a conversation that no longer fits is refused with what helps, or forgets its oldest turns', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const options = { template, ignoreEnd: true, maxTokens: 20, context: 128, system: 'Be kind.' };
  const chat = await model.createChat(options);
  const told = async () => { for (let i = 0; i < 20; i++) await chat.send(`Tell me of the number ${i}, please.`).reply(); };
  await assert.rejects(told(), heddleError('bad_state', /^the conversation is \d+ tokens, and its session has 128 positions: takeBack, setMessages or reset make it shorter, whenFull: 'slide' forgets/));
  chat.takeBack(chat.messages.length - 1);
  await chat.send('Hello').reply();

  const long = await model.createChat({ ...options, whenFull: 'slide' });
  for (let i = 0; i < 20; i++) await long.send(`Tell me of the number ${i}, please.`).reply();
  assert.deepEqual(long.messages[0], { role: 'system', content: 'Be kind.' });
  assert.ok(long.messages.length < 12 && long.messages.length % 2 === 1, `${long.messages.length} messages`);
  assert.equal(long.messages.at(-2).content, 'Tell me of the number 19, please.');
  const { usage } = await long.send('And?').reply();
  assert.equal(usage.tokens, 20);
  await assert.rejects(long.send('very '.repeat(300)).reply(), heddleError('bad_state', /the last message alone is too long/));
  assert.equal(long.messages.at(-2).content, 'And?');
  await model.free();
});

testOnEveryModule('tool calls in an answer are parsed and go back as such', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const ids = await model.tokenize('I look. <tool_call>{"name": "weather", "arguments": {"city": "Oslo"}}</tool_call>');
  let said = 0;
  const chat = await model.createChat({
    template: "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls %} calls {{ c.function.name }} with {{ c.function.arguments | tojson }}{% endfor %}\n{% endfor %}",
    // Puts the words into the model's mouth.
    onLogits: (logits) => { logits.fill(-100); logits[ids[said++] ?? 0] = 1; },
    maxTokens: ids.length,
  });
  const { text, finishReason, toolCalls: [call] } = await chat.send('What is the weather?').reply();
  assert.deepEqual([text.trim(), finishReason, call.name, call.arguments, call.status], ['I look.', 'tool_calls', 'weather', { city: 'Oslo' }, 'ok']);
  assert.deepEqual(chat.messages[1].tool_calls, [{ id: call.id, type: 'function', function: { name: 'weather', arguments: { city: 'Oslo' } } }]);
  assert.match(await model.applyChatTemplate(chat.messages, { template: "{{ messages[1].content }}|{{ messages[1].tool_calls[0].function.arguments | tojson }}" }), /^\s*I look\.\|\{"city": "Oslo"\}$/);
  said = 0;
  await chat.send({ role: 'tool', content: heddle.formatToolResponse({ degrees: 4 }) }).reply();
  assert.deepEqual(chat.messages.map(({ role }) => role), ['user', 'assistant', 'tool', 'assistant']);
  await model.free();
});

test('a model without a template is told so', async () => {
  const runtime = await (await entry('.')).init({ threads: 1 });
  const model = await runtime.loadModel(storyFolder);
  await assert.rejects(model.createChat(), heddleError('bad_state', /no chat template/));
  await assert.rejects(model.createChat({ reuse: true }), heddleError('bad_argument', /reuse: no such option/));
  await model.free();
});

test('a conversation in a worker is the same', async () => {
  const { init } = await entry('./worker');
  const runtime = await init({ threads: 1 });
  const model = await runtime.loadModel(storyFolder);
  const chat = await model.createChat({ template, maxTokens: 6, ignoreEnd: true });
  const text = await collect(chat.send('Once upon a time'));
  assert.equal(text, await fromNothing(model, [{ role: 'user', content: 'Once upon a time' }], { maxTokens: 6, ignoreEnd: true }));
  const second = chat.send('Go on');
  await second.reply();
  assert.ok(second.usage.reusedTokens > 10);
  await runtime.free();
});
