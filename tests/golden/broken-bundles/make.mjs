// Writes the broken bundles beside this file, and cases.json: for each its file, the model id to ask for, the error code, and a
// text that the error's message must contain. Run again after a change:  node tests/golden/broken-bundles/make.mjs
import { writeFileSync, readdirSync, rmSync } from 'node:fs';

const folder = new URL('.', import.meta.url);
const base64 = (text) => Buffer.from(text).toString('base64');

const cfg = {
  id: 'm', batch_size: 1, grid_rows: 1, grid_cols: 1, layers_per_cell: 1,
  layers: [{ type: 'dense', activation: 'tanh', input_height: 2, output_height: 1 }],
};
const layer = { biases: [0.5], kernel: [0.25, -1.5] };
const inner = (layers = [layer]) => JSON.stringify({ type: 'float32', dtype: '', layers });

/** A right bundle, with what the case breaks put in its place. */
function bundle({ type = 'modelhost/bundle', id = 'm', weights = inner(), data = base64(weights), fmt = 'jsonModelB64', ...model } = {}) {
  return { type, version: 1, models: [{ id, cfg, weights: { fmt, data }, ...model }] };
}
const text = (parts) => JSON.stringify(bundle(parts), null, 2);
const whole = text();
const data = base64(inner());
const nested = (depth) => (depth ? { branch_weights: [nested(depth - 1)] } : layer);

const cases = [];
/** One broken file. `content` is text or bytes. */
function broken(name, content, code, message, id = 'm') {
  const file = `${name}.bundle.json`;
  writeFileSync(new URL(file, folder), content);
  cases.push({ name, file, id, code, message });
}

for (const file of readdirSync(folder)) if (file.endsWith('.bundle.json')) rmSync(new URL(file, folder));

// Not a bundle
broken('empty-text', '', 'bad_file', 'byte 0: expected a Loom bundle (a JSON object, \'{\'), found the end of the text');
broken('only-white-space', ' \n\t ', 'bad_file', 'byte 4: expected a Loom bundle');
broken('not-json', 'PK\u0003\u0004 not a bundle', 'bad_file', "byte 0: expected a Loom bundle (a JSON object, '{'), found 'PK'");
broken('raw-floats', Buffer.from(new Float32Array([1, -2, 3.5]).buffer), 'bad_file', 'expected a Loom bundle (a JSON object, \'{\'), found byte 0x00');
broken('an-array', '[1, 2]', 'bad_file', "expected a Loom bundle (a JSON object, '{'), found '['");
broken('wrong-type', text({ type: 'modelhost/bundel' }), 'bad_file', 'expected "type": "modelhost/bundle", found "modelhost/bundel"');
broken('no-type', JSON.stringify({ models: [] }), 'bad_file', 'expected "type": "modelhost/bundle", found no type');

// Broken JSON around the models
broken('cut-in-a-key', whole.slice(0, 5), 'bad_file', "byte 5: expected the string's closing '\"', found the end of the text");
broken('cut-in-cfg', whole.slice(0, whole.indexOf('"layers"')), 'bad_file', 'found the end of the text');
broken('cut-in-data', whole.slice(0, whole.indexOf(data) + 20), 'bad_file', "expected the string's closing '\"', found the end of the text");
broken('cut-before-the-end', whole.slice(0, -1), 'bad_file', "expected a comma or '}', found the end of the text");
broken('text-after-the-end', whole + ' x', 'bad_file', "expected the end of the text, found 'x'");
broken('trailing-comma', whole.replace('"version": 1,', '"version": 1, ,'), 'bad_file', "expected a key in quotes, found ','");
broken('invalid-utf8', Buffer.from(whole.replace('tanh', 'tan\xff'), 'latin1'), 'bad_file', 'expected UTF-8, found byte 0xFF');
broken('lone-surrogate', whole.replace('tanh', 'tan\\ud800'), 'bad_file', 'expected the second half of a surrogate pair');
broken('nan-token', whole.replace('"version": 1', '"version": NaN'), 'bad_file', "expected a value, found 'NaN'");
broken('nested-too-deep', whole.replace('"version": 1', `"version": ${'['.repeat(200)}${']'.repeat(200)}`), 'bad_file', 'expected at most 128 levels of nesting');
broken('models-not-an-array', JSON.stringify({ type: 'modelhost/bundle', models: {} }), 'bad_file', "expected an array ('['), found '{'");

// The wrong model
broken('wrong-id', text(), 'bad_argument', 'expected a model "other", found 1 models: "m"', 'other');
broken('no-models', JSON.stringify({ type: 'modelhost/bundle', version: 1, models: [] }), 'bad_argument', 'the list is empty');
broken('no-cfg', text({ cfg: undefined }), 'bad_file', 'model "m": expected a cfg, found none');
broken('cfg-not-an-object', text({ cfg: 'dense' }), 'bad_file', 'expected cfg to be an object (\'{\'), found \'"\'');
broken('cfg-with-duplicate-keys', whole.replace('"batch_size": 1', '"id": "n"'), 'bad_file', 'expected every key once in an object, found "id" again');
broken('cfg-layers-not-an-array', text({ cfg: { ...cfg, layers: 3 } }), 'bad_file', 'cfg.layers: expected an array, found 3');
broken('no-weights', text({ weights: undefined }).replace(/"weights"/, '"wights"'), 'bad_file', 'expected weights.data, found none');
broken('multi-precision', text({ fmt: 'multiPrecisionB64' }), 'bad_file', "layers.0.biases: weights: byte 49: expected a string of Base64, found '['");

// Base64
broken('data-empty', text({ data: '' }), 'bad_file', 'weights.data: expected Base64 of JSON, found an empty text');
broken('data-not-a-string', text({ data: [1] }), 'bad_file', "expected a string of Base64, found '['");
broken('base64-bad-character', text({ data: data.slice(0, 8) + '*' + data.slice(9) }), 'bad_file', "weights.data: Base64: character 8: expected A-Z, a-z, 0-9, + or /, found '*'");
broken('base64-bad-length', text({ data: data.replace(/=+$/, '').slice(0, 21) }), 'bad_file', 'Base64: expected a multiple of 4 characters, found 21');
broken('base64-padding-inside', text({ data: data.slice(0, 4) + 'e30=' + data.slice(4) }), 'bad_file', "Base64: character 7: expected padding only at the end, found '='");
broken('base64-stray-bits', text({ data: 'e31=' }), 'bad_file', 'Base64: character 2: expected zero bits after the last byte');

// What is in the Base64
broken('weights-not-json', text({ weights: 'hello' }), 'bad_file', "model \"m\": weights: byte 0: expected an object ('{'), found 'hello'");
broken('weights-cut', text({ weights: inner().slice(0, 50) }), 'bad_file', 'weights: byte 50:');
broken('too-few-layers', text({ weights: inner([]) }), 'bad_file', 'expected weights for the 1 layers of cfg, found 0 layers');
broken('too-many-layers', text({ weights: inner([layer, layer]) }), 'bad_file', 'expected weights for the 1 layers of cfg, found 2 layers');
broken('weights-are-words', text({ weights: inner([{ kernel: ['a', 'b'] }]) }), 'bad_file', 'layers.0.kernel: weights: byte 50: expected a number, found \'"\'');
broken('kernel-is-a-string', text({ weights: inner([{ kernel: 'AAAA' }]) }), 'bad_file', "layers.0.kernel: weights: byte 49: expected a list of numbers ('['), found '\"'");
broken('kernel-has-null', text({ weights: inner([{ kernel: [1, null] }]) }), 'bad_file', "expected a number, found 'null'");
broken('kernel-has-nan', text({ weights: '{"layers":[{"kernel":[1,NaN]}]}' }), 'bad_file', "expected a number, found 'NaN'");
broken('kernel-overflows', text({ weights: '{"layers":[{"kernel":[1e39]}]}' }), 'bad_file', 'expected a number that fits a float32, found 1e39');
broken('kernel-twice', text({ weights: '{"layers":[{"kernel":[1],"Kernel":[2]}]}' }), 'bad_file', 'layers.0.kernel: weights: byte 34: expected every field once, found it twice');
broken('field-twice', text({ weights: '{"layers":[{"own":[1],"own":[2]}]}' }), 'bad_file', 'layers.0.own: expected every field once, found it twice');
broken('list-of-lists', text({ weights: '{"layers":[{"own":[[1]]}]}' }), 'bad_file', "layers.0.own: weights: byte 19: expected a number, found '['");
broken('centers-ragged', text({ weights: '{"layers":[{"cluster_centers":[[1,2],[3]]}]}' }), 'bad_file', 'layers.0.cluster_centers: weights: byte 40: expected rows of 2 numbers, found 1 in row 1');
broken('branches-too-deep', text({ weights: inner([nested(70)]) }), 'bad_file', 'expected at most 128 levels of nesting, found one more');

writeFileSync(new URL('cases.json', folder), JSON.stringify(cases, null, 1) + '\n');
console.log(`${cases.length} broken bundles`);
