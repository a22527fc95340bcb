/**
 * Chat templates against what Jinja2 makes of them (../shared/fixtures/real/chat-templates*, 43 templates of published models, six conversations
 * each), and how a model's template is found and chosen.
 */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { entry, golden, heddle, heddleError, needs, projectFolder, readJson, shared, testOnEveryModule } from './heddle.mjs';

const { Tokenizer } = heddle;
const files = { 'tokenizer.json': readJson(golden('transformers/e2e-llama-text/tokenizer.json')) };
const withConfig = (config, more = {}) => new Tokenizer({ ...files, 'tokenizer_config.json': { bos_token: '<s>', eos_token: '</s>', ...config }, ...more });
const messages = [{ role: 'user', content: 'Hi' }];

/** The goldens' clock gives this date whatever the format; the templates here that ask format it so, but for SmolLM3's, which gives `fmt`. */
const now = new Date(2024, 6, 26, 12);

for (const [folder, least] of [['fixtures/real/chat-templates', 32], ['fixtures/real/chat-templates-mistral', 11]]) {
  if (!existsSync(shared(folder))) {
    test(`chat templates of ${folder}`, needs(folder), () => undefined);
    continue;
  }
  const { contexts, results } = readJson(join(shared(folder), 'expected.json'));
  assert.ok(Object.keys(results).length >= least, `${folder}: ${Object.keys(results).length} templates`);
  for (const [name, rendered] of Object.entries(results)) {
    const template = readFileSync(join(shared(folder), name), 'utf8');
    for (const [i, { output }] of rendered.entries()) {
      const { messages: turns, add_generation_prompt: addGenerationPrompt, tools, ...variables } = contexts[i];
      test(`chat template ${name}, conversation ${i}`, async () => {
        const result = withConfig({ chat_template: template }).applyChatTemplate(turns, { addGenerationPrompt, variables, now, ...(tools && { tools }) });
        if (output === undefined) await assert.rejects(result, heddleError('bad_argument', /^the chat template (refuses|cannot render) the conversation: ./));
        else assert.equal(await result, output);
      });
    }
  }
}

test('where the template stands: tokenizer_config.json, a list by name, chat_template.jinja, chat_template.json', async () => {
  const source = '{{ bos_token }}{% for m in messages %}{{ m.role }}:{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}>{% endif %}';
  assert.equal(await withConfig({ chat_template: source }).applyChatTemplate(messages), '<s>user:Hi</s>>');
  assert.equal(await withConfig({ chat_template: source }).applyChatTemplate(messages, { addGenerationPrompt: false }), '<s>user:Hi</s>');
  assert.equal(await withConfig({ chat_template: 'no' }, { 'chat_template.jinja': source }).applyChatTemplate(messages), '<s>user:Hi</s>>');
  assert.equal(await withConfig({}, { 'chat_template.json': { chat_template: source } }).applyChatTemplate(messages), '<s>user:Hi</s>>');
  assert.equal(await withConfig({ eos_token: { content: '<|end|>' }, chat_template: source }).applyChatTemplate(messages), '<s>user:Hi<|end|>>');
  assert.equal(await new Tokenizer(files).applyChatTemplate(messages, { template: source }), 'user:Hi>', 'special tokens that are not there are nothing');
  const several = withConfig({ chat_template: [{ name: 'default', template: 'plain' }, { name: 'tool_use', template: '{{ tools[0].name }}' }, { name: 'rag', template: '{{ documents[0].title }}' }] });
  assert.deepEqual(several.chatTemplates, ['default', 'tool_use', 'rag']);
  assert.equal(several.chatTemplate, 'plain');
  assert.equal(await several.applyChatTemplate(messages), 'plain');
  assert.equal(await several.applyChatTemplate(messages, { tools: [{ name: 'clock' }] }), 'clock');
  assert.equal(await several.applyChatTemplate(messages, { template: 'rag', documents: [{ title: 'Looms' }] }), 'Looms');
  assert.equal(await several.applyChatTemplate(messages, { template: '{{ x }}', variables: { x: 7 } }), '7');
});

test('tokenize gives the ids of the text, special tokens recognised and none added', async () => {
  const tokenizer = new Tokenizer({ ...files, 'tokenizer_config.json': readJson(golden('transformers/e2e-llama-text/tokenizer_config.json')) });
  const options = { template: '{{ bos_token }}{{ messages[0].content }}{{ eos_token }}' };
  const ids = await tokenizer.applyChatTemplate([{ role: 'user', content: 'The weaver' }], { ...options, tokenize: true });
  assert.deepEqual(ids, [tokenizer.beginToken, ...tokenizer.encode('The weaver', { addSpecialTokens: false }), tokenizer.endToken]);
});

test('dates are English wherever the host is, in the directives Python has', async () => {
  const template = "{{ strftime_now('%d %b %Y|%B %A %a %e|%H:%M:%S %I %p|%y %m %j %-d %%|%F %T|%Q') }}";
  assert.equal(
    await withConfig({}).applyChatTemplate(messages, { template, now: new Date(2025, 2, 5, 15, 4, 9) }),
    '05 Mar 2025|March Wednesday Wed  5|15:04:09 03 PM|25 03 064 5 %|2025-03-05 15:04:09|%Q',
  );
});

test('what Jinja2 does and templates rely on', async () => {
  const render = (template, variables = {}) => withConfig({}).applyChatTemplate(messages, { template, variables });
  assert.equal(await render('{% for x in nothing %}{{ x }}{% else %}none{% endfor %}'), 'none');
  assert.equal(await render("{% for a, b in [('x', 1), ('y', 2)] %}{{ a }}{{ b }}{% endfor %}"), 'x1y2');
  assert.equal(await render('{% for a, b in pairs.items() if b > 1 %}{{ a }}{% endfor %}', { pairs: { x: 1, y: 2 } }), 'y');
  assert.equal(await render('{% for i in range(3) %}{{ i }}{% endfor %}{% for i in range(6, 0, -2) %}{{ i }}{% endfor %}'), '012642');
  assert.equal(await render('{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}'), '6');
  assert.equal(await render('{{ x | tojson }}', { x: { b: 'é', a: [1, null, true] } }), '{"b": "é", "a": [1, null, true]}');
  assert.equal(await render("{{ ' a '.strip() + 'b'.upper() ~ 1 }}{%- if 'a' in 'abc' %}!{% endif %}"), 'aB1!');
});

test('what cannot be rendered is refused by what is wrong', async () => {
  const tokenizer = withConfig({ chat_template: "{{ raise_exception('only users speak') }}" });
  await assert.rejects(tokenizer.applyChatTemplate(messages), heddleError('bad_argument', /refuses the conversation: only users speak/));
  await assert.rejects(withConfig({}).applyChatTemplate(messages), heddleError('bad_state', /the model has no chat template: give one as options\.template, or load it with its tokenizer_config\.json/));
  await assert.rejects(tokenizer.applyChatTemplate(messages, { template: '{% for %}' }), heddleError('bad_file', /^the chat template: /));
  await assert.rejects(tokenizer.applyChatTemplate(messages, { template: 'tool_use' }), heddleError('bad_argument', /nor one of the model's templates \(default\): 'tool_use'/));
  await assert.rejects(tokenizer.applyChatTemplate(messages, { template: '{{ range(9999999) }}' }), heddleError('bad_argument', /9999999 numbers are more than 1000000/));
  await assert.rejects(tokenizer.applyChatTemplate('Hi'), heddleError('bad_argument', /messages: expected an array, found 'Hi'/));
  await assert.rejects(tokenizer.applyChatTemplate([{ content: 'Hi' }]), heddleError('bad_argument', /messages\[0\]\.role: expected a string, found undefined/));
  await assert.rejects(tokenizer.applyChatTemplate(messages, { tools: {} }), heddleError('bad_argument', /tools: expected an array/));
  await assert.rejects(tokenizer.applyChatTemplate(messages, { add_generation_prompt: true }), heddleError('bad_argument', /add_generation_prompt: no such option; known: addGenerationPrompt/));
  await assert.rejects(tokenizer.applyChatTemplate(messages, { now: 'today' }), heddleError('bad_argument', /now: expected a Date/));
  const several = withConfig({ chat_template: [{ name: 'a', template: '1' }, { name: 'b', template: '2' }] });
  await assert.rejects(several.applyChatTemplate(messages), heddleError('bad_argument', /several chat templates \(a, b\) and none called 'default'/));
  assert.equal(several.chatTemplate, undefined);
  assert.throws(() => withConfig({ chat_template: [{ name: 'a' }] }), heddleError('bad_file', /chat_template\[0\]: expected a name and a template/));
});

const story = join(projectFolder, 'demo/models/story');
const storyTokenizer = { 'tokenizer.json': readFileSync(join(story, 'tokenizer.json'), 'utf8'), 'chat_template.jinja': '{% for m in messages %}{{ m.content }} {% endfor %}' };
const turns = [{ role: 'user', content: 'Once upon' }, { role: 'assistant', content: 'a time' }];

async function speaks(runtime) {
  const model = await runtime.loadModel(story, { tokenizer: storyTokenizer });
  assert.equal(await model.chatTemplate(), storyTokenizer['chat_template.jinja']);
  assert.equal(await model.applyChatTemplate(turns), 'Once upon a time ');
  const ids = await model.applyChatTemplate(turns, { tokenize: true });
  assert.equal(await model.detokenize(ids), 'Once upon a time ');
  await assert.rejects(model.applyChatTemplate(turns, { template: 'none' }), (error) => error.name === 'HeddleError' && error.code === 'bad_argument');
  await model.free();
  const without = await runtime.loadModel(story);
  assert.equal(await without.chatTemplate(), undefined);
  await assert.rejects(without.applyChatTemplate(turns), (error) => error.code === 'bad_state' && /no chat template/.test(error.message));
  await without.free();
}

testOnEveryModule("a model's own chat template", speaks);

test('a chat template of a model in a worker', async () => {
  const { init } = await entry('./worker');
  const runtime = await init({ threads: 1 });
  await speaks(runtime);
  await runtime.free();
});

test('a folder with a chat_template.jinja, and one with a SentencePiece model, bring them along', needs('fixtures/real/llama2-spm/tokenizer.model'), async () => {
  const runtime = await heddle.init({ threads: 1 });
  const file = (name) => readFileSync(join(story, name));
  const base = { 'config.json': file('config.json'), 'model.safetensors': file('model.safetensors') };
  const asJson = await runtime.loadModel({ ...base, 'tokenizer.json': file('tokenizer.json'), 'tokenizer_config.json': file('tokenizer_config.json'), 'chat_template.jinja': new TextEncoder().encode('T') });
  assert.equal(await asJson.chatTemplate(), 'T');
  const asPieces = await runtime.loadModel({ ...base, 'tokenizer.model': readFileSync(shared('fixtures/real/llama2-spm/tokenizer.model')), 'tokenizer_config.json': new TextEncoder().encode('{"chat_template":"P"}') });
  assert.deepEqual(await asPieces.tokenize('Hello'), [1, 15043]);
  assert.equal(await asPieces.chatTemplate(), 'P');
  const asMerges = await runtime.loadModel({ ...base, 'vocab.json': readFileSync(shared('fixtures/real/gpt2-bpe/encoder.json')), 'merges.txt': readFileSync(shared('fixtures/real/gpt2-bpe/vocab.bpe')) });
  assert.deepEqual(await asMerges.tokenize('hello world'), [31373, 995]);
  await runtime.free();
});

test('a chat template on a server is fetched with the first conversation, once', async () => {
  const seen = [];
  const served = new Set(['config.json', 'tokenizer.json', 'tokenizer_config.json', 'model.safetensors']);
  const server = createServer((request, response) => {
    const name = request.url.slice(1);
    seen.push(name);
    if (served.has(name)) response.end(readFileSync(join(story, name)));
    else if (name === 'chat_template.jinja') response.end('{{ messages[0].content }}{{ eos_token }}');
    else response.writeHead(404).end();
  });
  await new Promise((done) => server.listen(0, done));
  const runtime = await heddle.init({ threads: 1 });
  try {
    const model = await runtime.loadModel(`http://localhost:${server.address().port}/`);
    assert.ok(!seen.some((name) => name.startsWith('chat_template')), `${seen}`);
    assert.equal(await model.applyChatTemplate(turns), 'Once upon</s>');
    assert.equal(await model.chatTemplate(), '{{ messages[0].content }}{{ eos_token }}');
    assert.deepEqual(seen.filter((name) => name.startsWith('chat_template')), ['chat_template.jinja']);
    await model.free();
  } finally {
    await runtime.free();
    server.closeAllConnections();
    server.close();
  }
});
