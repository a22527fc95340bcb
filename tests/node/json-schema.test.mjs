/** Text held to a JSON Schema: what the grammar lets through and what it stops, and what a model then writes. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { heddleError, needs, packageFolder, projectFolder, readJson, shared, testOnEveryModule } from './heddle.mjs';

const dist = (name) => import(pathToFileURL(join(packageFolder, `dist/${name}.js`)).href);
const { Grammar } = await dist('grammar');
const { schemaRule } = await dist('json-schema');
const { JsonConstraint, TokenTree } = await dist('constraint');

const fits = (schema, text) => new Grammar(schemaRule(schema)).start.afterText(text)?.ends ?? false;

/** A schema, texts that fit it, and texts that do not. */
const cases = [
  [true, ['1', '-0.5e+10', '"a\\n\\u00e9 ü 🎉"', '[]', '[1, [2, "x"], {}]', '{"a": null, "b": {"c": [true]}}', '{\n  "a": 1,\n  "b": 2\n}'],
    ['', '01', '1.', '"a', '[1,]', '{a: 1}', '{"a": 1,}', 'nul', "'a'", '[1] ', '"\n"', '"\\x"']],
  [{ type: 'object', properties: { name: { type: 'string' }, age: { type: 'integer' } }, required: ['name', 'age'] },
    ['{"name": "Ann", "age": 3}', '{"name":"","age":-12}'], ['{"name": "Ann"}', '{"age": 3, "name": "Ann"}', '{"name": "Ann", "age": 3.5}', '{"name": "Ann", "age": 3, "x": 1}', '{}']],
  [{ properties: { a: { const: 1 }, b: { enum: ['x', null, [1]] } }, type: 'object' }, ['{}', '{"a": 1}', '{"b": "x"}', '{"a": 1, "b": null}', '{"b": [1]}'], ['{"a": 2}', '{"b": "y"}', '{, "b": "x"}', '{"b": "x", "a": 1}']],
  [{ type: 'object', properties: { a: { type: 'null' } }, required: ['a'], additionalProperties: { type: 'boolean' } }, ['{"a": null}', '{"a": null, "z": true, "y": false}'], ['{"z": true}', '{"a": null, "z": 1}']],
  [{ type: 'object', additionalProperties: { type: 'number' } }, ['{}', '{"x": 1, "y": 2.5}'], ['{"x": "1"}']],
  [{ type: 'array', items: { type: 'integer' }, minItems: 2, maxItems: 3 }, ['[1, 2]', '[1,2,3]'], ['[]', '[1]', '[1,2,3,4]', '["1", 2]']],
  [{ type: 'array', items: { type: 'integer' }, maxItems: 0 }, ['[]', '[ ]'], ['[1]']],
  [{ type: 'array', prefixItems: [{ type: 'string' }, { type: 'number' }] }, ['["a", 1]'], ['["a"]', '[1, "a"]', '["a", 1, 2]']],
  [{ type: 'string', minLength: 2, maxLength: 3 }, ['"ab"', '"a\\n"', '"🎉é\\u0041"'], ['"a"', '"abcd"', '2']],
  [{ type: ['string', 'null'] }, ['"x"', 'null'], ['1']],
  [{ anyOf: [{ type: 'integer' }, { type: 'array', items: { type: 'boolean' } }] }, ['7', '[true]'], ['"7"', '[7]']],
  [{ $ref: '#/$defs/tree', $defs: { tree: { type: 'object', properties: { value: { type: 'integer' }, children: { type: 'array', items: { $ref: '#/$defs/tree' } } }, required: ['value'] } } },
    ['{"value": 1}', '{"value": 1, "children": [{"value": 2, "children": []}, {"value": 3}]}'], ['{"children": []}', '{"value": 1, "children": [2]}']],
];

for (const [schema, good, bad] of cases) {
  test(`JSON Schema ${JSON.stringify(schema).slice(0, 90)}`, () => {
    for (const text of good) {
      assert.ok(fits(schema, text), `${text} fits`);
      JSON.parse(text);
    }
    for (const text of bad) assert.ok(!fits(schema, text), `${text} does not fit`);
  });
}

test('keywords that are not read are refused by name, with their place', () => {
  const bad = [
    [{ type: 'object', properties: { a: { type: 'string', pattern: '^x' } } }, 'unsupported', /schema #\/properties\/a: the keyword 'pattern' is not read/],
    [{ type: 'number', minimum: 3 }, 'unsupported', /'minimum'/], [{ allOf: [] }, 'unsupported', /'allOf'/], [{ type: 'text' }, 'bad_argument', /#\/type: expected .*found "text"/],
    [{ $ref: 'http://x' }, 'unsupported', /\$ref 'http:\/\/x'/], [{ $ref: '#/$defs/no' }, 'bad_argument', /nothing of that name/], [{ enum: [] }, 'bad_argument', /#\/enum/],
    [{ minItems: 3, maxItems: 2 }, 'bad_argument', /minItems 3 is more/], [3, 'bad_argument', /expected an object or true/], [{ type: 'object', required: ['a'] }, 'unsupported', /'a' is not among/],
  ];
  for (const [schema, code, pattern] of bad) assert.throws(() => schemaRule(schema), heddleError(code, pattern), JSON.stringify(schema));
});

const storyFolder = join(projectFolder, 'demo/models/story');
const story = readJson(join(storyFolder, 'expected.json')).cases[0];

testOnEveryModule('a model writes JSON of the schema, greedy and drawn, and stops when it is complete', async (runtime) => {
  const model = await runtime.loadModel(storyFolder);
  const schema = {
    type: 'object',
    properties: { name: { type: 'string', maxLength: 12 }, age: { type: 'integer' }, likes: { type: 'array', items: { enum: ['cats', 'dogs'] }, minItems: 1, maxItems: 3 } },
    required: ['name', 'age', 'likes'],
  };
  for (const options of [{}, { temperature: 1, seed: 1 }, { temperature: 1.5, topP: 0.9, seed: 2 }, { temperature: 0.7, topK: 5, seed: 3 }]) {
    const generation = model.generate(story.prompt, { jsonSchema: schema, maxTokens: 400, ...options });
    const text = await generation.text();
    assert.equal(generation.usage.stop, 'complete', text);
    const value = JSON.parse(text);
    assert.deepEqual(Object.keys(value), ['name', 'age', 'likes']);
    assert.ok(value.name.length <= 24 && Number.isInteger(value.age) && value.likes.every((each) => ['cats', 'dogs'].includes(each)), text);
  }
  const seen = new Set();
  for (let seed = 0; seed < 6; seed++) seen.add(await model.generate(story.prompt, { jsonSchema: { enum: ['yes', 'no'] }, temperature: 2, seed }).text());
  assert.deepEqual([...seen].every((text) => ['"yes"', '"no"'].includes(text)), true, [...seen].join());
  await assert.rejects(model.generate(story.prompt, { jsonSchema: { format: 'date' } }).text(), heddleError('unsupported', /'format'/));
  await assert.rejects(model.generate(story.prompt, { jsonSchema: { enum: ['yes'] }, suppressTokens: Array.from({ length: 5000 }, (_, i) => i) }).text(), heddleError('bad_argument', /banned/));
  await model.free();
});

/** GPT-2's tokens as text: its vocabulary writes bytes as letters ("Language Models are Unsupervised Multitask Learners", the published encoder.json). */
function gpt2Texts() {
  const printable = (byte) => (byte > 32 && byte < 127) || (byte > 160 && byte !== 173);
  const bytes = new Map();
  let next = 256;
  for (let byte = 0; byte < 256; byte++) bytes.set(String.fromCodePoint(printable(byte) ? byte : next++), byte);
  const decoder = new TextDecoder();
  const texts = [];
  for (const [token, id] of Object.entries(readJson(shared('fixtures/real/gpt2-bpe/encoder.json')))) {
    const text = token === '<|endoftext|>' ? '' : decoder.decode(Uint8Array.from(token, (letter) => bytes.get(letter)));
    texts[id] = text.includes('\ufffd') ? '' : text;
  }
  return texts;
}

test('the tokens a mask leaves of 50,257 are those whose every character fits, in every state of a text', needs('fixtures/real/gpt2-bpe'), () => {
  const texts = gpt2Texts();
  const tree = new TokenTree(texts);
  const end = 50256;
  const schema = {
    type: 'object', required: ['name', 'text', 'n'],
    properties: { name: { type: 'string', minLength: 3, maxLength: 9 }, text: { type: 'string' }, n: { type: 'number' }, list: { type: 'array', items: { enum: ['cat', 'dog', null] } }, any: true },
  };
  const written = '{"name": "Zoë \\u00e9", "text": "a\\n ü of 3", "n": -4.5e1, "list": ["cat", null], "any": {"x y": [true, "z"]}}';
  const constraint = new JsonConstraint(schema, () => tree, new Set([end]));
  const { start } = new Grammar(schemaRule(schema));
  const logits = new Float32Array(texts.length);
  for (let at = 0; at <= written.length; at++) {
    const here = start.afterText(written.slice(0, at));
    logits.fill(1);
    constraint.mask(logits);
    const wrong = texts.findIndex((text, id) => (logits[id] === 1) !== (id === end ? here.ends : text !== '' && here.afterText(text) !== null));
    assert.equal(wrong, -1, `'${texts[wrong]}' after ${written.slice(0, at)}`);
    if (at < written.length) constraint.accept(texts.indexOf(written[at]));
  }
  assert.ok(constraint.complete);
});
