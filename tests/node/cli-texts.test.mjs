/**
 * The command line's `embed` and `chat`. Vectors are transformers' for the minilm-like fixture, whose ids are words here, and sentence-transformers' for
 * all-MiniLM-L6-v2; answers are the text that transformers makes of the e2e fixture, and in later turns what the whole conversation gives from nothing.
 */
import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { before, test } from 'node:test';
import { heddle, json, ok, out, program } from './command-line.mjs';
import { distance, largest, readSafetensors } from './golden.mjs';
import { golden, readJson, runtimeWith, shared } from './heddle.mjs';
import { minilm } from './minilm.mjs';

const close = (got, want, what, budget = 1e-5) => assert.ok(distance(got, want) <= budget * Math.max(1, largest(want)), `${what}: off by ${distance(got, want)}`);

// ---- embed ----

const encoder = out('encoder');
const part = (file) => golden(`transformers/minilm-like/${file}`);
const expected = readSafetensors(part('expected.safetensors'));
const { cosine: cosines } = readJson(part('expected.json'));

/** The fixture's rows without padding, as texts: w7 is the word with the id 7. */
const texts = (() => {
  const [rows, n] = expected.get('input_ids').shape;
  const [ids, mask] = ['input_ids', 'attention_mask'].map((key) => expected.get(key).data);
  return Array.from({ length: rows }, (_, row) => Array.from({ length: n }, (_, i) => row * n + i).filter((i) => mask[i] === 1).map((i) => `w${ids[i]}`).join(' '));
})();
const rowOf = (key, i) => {
  const { shape: [, width], data } = expected.get(key);
  return data.slice(i * width, (i + 1) * width);
};

before(() => {
  cpSync(golden('transformers/minilm-like'), encoder, { recursive: true });
  const vocab = Object.fromEntries(Array.from({ length: 512 }, (_, id) => [`w${id}`, id]));
  Object.assign(vocab, { '"w66",': 66 });
  writeFileSync(join(encoder, 'tokenizer.json'), JSON.stringify({
    version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: { type: 'WhitespaceSplit' }, post_processor: null, decoder: null,
    model: { type: 'WordLevel', vocab, unk_token: 'w0' },
  }));
});

test("C1: embed prints transformers' vectors: of arguments, of a file's lines, of stdin; as numbers, CSV and JSON", async () => {
  writeFileSync(out('texts.txt'), `${texts.join('\r\n')}\r\n`);
  const lines = (stdout) => stdout.trimEnd().split('\n');
  const plain = lines((await ok(['embed', encoder, ...texts])).stdout).map((line) => line.split(' ').map(Number));
  assert.equal(plain.length, 3);
  for (const [i, vector] of plain.entries()) close(vector, rowOf('mean_pooled_normalized', i), `line ${i}`);

  const file = await json(['embed', encoder, '--file', out('texts.txt'), '--no-normalize']);
  assert.deepEqual([file.width, file.vectors.map(({ text }) => text)], [64, texts]);
  for (const [i, { vector }] of file.vectors.entries()) close(vector, rowOf('mean_pooled', i), `line ${i} of the file`);

  const [head, ...rows] = lines((await ok(['embed', encoder, '--csv', '--pooling', 'cls', '--normalize'], { input: `"w66", w7\n${texts[1]}` })).stdout);
  assert.equal(head, ['text', ...Array.from({ length: 64 }, (_, i) => i)].join(','));
  assert.match(rows[0], /^"""w66"", w7",-?\d/);
  close(rows[1].split(',').slice(1).map(Number), rowOf('cls_pooled_normalized', 1), 'the row of CSV');

  const pooler = await json(['embed', encoder, '--pooling', 'pooler', '--no-normalize', texts[2]]);
  close(pooler.vectors[0].vector, rowOf('pooler_output', 2), 'the pooler');
  assert.deepEqual(await json(['embed', encoder, '-f', '-'], { input: '' }), { width: 0, vectors: [] });
});

test("C1: embed --query ranks texts by transformers' cosines, prefixes put before them", async () => {
  const [query, ...others] = texts;
  const { results } = await json(['embed', encoder, '--query', query, ...others, query, '--no-normalize']);
  assert.deepEqual(results.map(({ line, text }) => [line, text]), [[3, query], [2, texts[2]], [1, texts[1]]], 'by the cosines of the fixture: 1, 0.921, 0.909');
  for (const [i, want] of [cosines[0][0], cosines[0][2], cosines[0][1]].entries()) assert.ok(Math.abs(results[i].score - want) < 1e-5, `${results[i].score}, expected ${want}`);
  const { stdout } = await ok(['embed', encoder, '-q', query, '--top', '1', ...others]);
  assert.match(stdout, /^score +line +text *\n0\.9206 +2 +w2 .*\n$/);
  const [first, ...rest] = query.split(' ');
  const prefixed = await json(['embed', encoder, '-q', rest.join(' '), '--query-prefix', `${first} `, '--prefix', `${first} `, rest.join(' '), texts[1]]);
  assert.ok(Math.abs(prefixed.results[0].score - 1) < 1e-6 && prefixed.results[0].line === 1);
  const csv = (await ok(['embed', encoder, '-q', query, '--csv', ...others])).stdout.split('\n');
  assert.deepEqual([csv[0], csv[1].split(',').slice(1)], ['score,line,text', ['2', texts[2]]]);
});

test('C1: embed refuses what it cannot do: exit codes 2 and 3, and what was wrong', async () => {
  for (const [args, code, said] of [
    [[encoder, 'w1', '--file', 'x'], 2, /one or the other/],
    [[encoder, 'w1', '--top', '3'], 2, /--top is for --query/],
    [[encoder, 'w1', '--csv', '--json'], 2, /--csv and --json/],
    [[encoder, 'w1', '--pooling', 'sum'], 2, /--pooling: expected mean, cls, last, max, pooler, found 'sum'/],
    [[encoder, '--file', out('absent.txt')], 3, /absent\.txt/],
    [[golden('transformers/bert'), 'w1'], 3, /no tokenizer/],
    [[encoder, texts[0], '-n', '9', '--no-truncate'], 3, /texts\[0\]: 31 tokens, and the model takes 9/],
  ]) {
    const result = await heddle(['embed', ...args]);
    assert.deepEqual([result.code, result.stdout], [code, ''], result.stderr);
    assert.match(result.stderr, said);
  }
  const cut = await ok(['embed', encoder, texts[0], '-n', '9']);
  assert.match(cut.stderr, /^warning: .*cut to the 9/);
});

const real = await minilm();
test('C1: embed of all-MiniLM-L6-v2 gives sentence-transformers\' vectors and order of neighbours', { skip: real.skip ?? false }, async () => {
  const { sentences, cosine } = readJson(shared('fixtures/real/minilm/expected.json'));
  const said = sentences.map(({ text }) => text);
  const { vectors } = await json(['embed', real.folder, ...said]);
  for (const [i, { embedding }] of sentences.entries()) close(vectors[i].vector, embedding, said[i], 2e-6);
  const { results } = await json(['embed', real.folder, '--query', said[0], ...said]);
  assert.deepEqual(results.map(({ line }) => line - 1), said.map((_, i) => i).sort((a, b) => cosine[0][b] - cosine[0][a]));
});

// ---- chat ----

const tale = golden('transformers/e2e-llama-text');
const { prompt, text: taleText } = readJson(join(tale, 'expected.json'));
/** Nothing but what was said, so that the first answer is the fixture's text. */
const bare = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}";
const roles = "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant{{ mark }}{% endif %}";
const lines = (stdout) => stdout.trimEnd().split('\n').map((line) => JSON.parse(line));
const chat = (messages, ...args) => ok(['chat', tale, ...args], { input: messages.map((line) => `${line}\n`).join('') });

/** What the whole conversation gives from nothing. */
async function fromNothing(messages, { template = roles, variables, ...options }) {
  const model = await (await runtimeWith('simd128')).loadModel(tale);
  const ids = await model.applyChatTemplate(messages, { template, tokenize: true, ...(variables && { variables }) });
  const text = await model.generate(ids, options).text();
  await model.free();
  return text;
}

test("C1: chat streams transformers' text to stdout, and tells on stderr how it went", async () => {
  const { stdout, stderr } = await chat([prompt], '--template', bare);
  assert.equal(stdout, `${taleText}\n`);
  assert.match(stderr, /^\[31 tokens, [\d.]+ a second; the first after [\d.]+ s; of the prompt 0 tokens reused, 11 computed\]\n$/);
  const quiet = await chat([prompt], '--template', bare, '--quiet', '-n', '3');
  assert.equal(quiet.stderr, '');
});

test('C1: chat over a pipe: turns are those of the whole conversation, what the session holds is not computed again', async () => {
  const options = ['--template', roles, '--system', 'Weave.', '--set', 'mark=">"', '--ignore-end', '-n', '6', '--json'];
  const given = { variables: { mark: '>' }, ignoreEnd: true, maxTokens: 6 };
  const answers = lines((await chat(['The threads', 'are\\', 'lifted'], ...options)).stdout);
  const messages = [{ role: 'system', content: 'Weave.' }];
  for (const [i, said] of ['The threads', 'are\nlifted'].entries()) {
    messages.push({ role: 'user', content: said });
    const want = await fromNothing(messages, given);
    assert.equal(answers[i].rawText, want);
    messages.push({ role: 'assistant', content: want });
  }
  assert.equal(answers.length, 2);
  assert.equal(answers[0].usage.reusedTokens, 0);
  assert.ok(answers[1].usage.reusedTokens > answers[0].usage.prefillTokens - 3, JSON.stringify(answers[1].usage));
  assert.deepEqual([answers[1].finishReason, answers[1].toolCalls], ['length', []]);
});

test('C1: chat: /undo, /reset, /system, /regenerate, /save and /load do what they say', async () => {
  const kept = out('kept.json');
  const options = ['--template', roles, '--ignore-end', '-n', '5', '--json'];
  const { stdout, stderr } = await chat(['one', '/undo', 'two', `/save ${kept}`, '/reset', '/system Be brief.', 'three', '/regenerate', `/load ${kept}`, 'four', '//five', `/save ${kept}`, '/stats', '/exit', 'never said'], ...options);
  const answers = lines(stdout).map(({ rawText }) => rawText);
  const given = { ignoreEnd: true, maxTokens: 5 };
  const user = (content) => ({ role: 'user', content });
  const assistant = (content) => ({ role: 'assistant', content });
  const brief = { role: 'system', content: 'Be brief.' };
  const first = [user('two'), assistant(answers[1])];
  const want = [[user('one')], [user('two')], [brief, user('three')], [brief, user('three')], [...first, user('four')], [...first, user('four'), assistant(answers[4]), user('/five')]];
  assert.equal(answers.length, want.length);
  for (const [i, messages] of want.entries()) assert.equal(answers[i], await fromNothing(messages, given), `answer ${i}`);
  assert.deepEqual(readJson(kept), [...want[5], assistant(answers[5])]);
  assert.match(stderr, /taken back: one\n/);
  assert.match(stderr, /at temperature 0 it is the same answer/);
  assert.match(stderr, /6 messages, \d+ tokens held; 6 answers of 30 tokens/);
});

test('C1: chat draws by its seed, and /regenerate with the next one', async () => {
  const drawn = async (seed, ...more) => lines((await chat(['The weaver', ...more], '--template', roles, '-n', '8', '--ignore-end', '-t', '1.5', '--seed', String(seed), '--json')).stdout).map(({ rawText }) => rawText);
  const [first, second] = await drawn(7, '/regenerate');
  assert.notEqual(first, second);
  assert.deepEqual([await drawn(7), await drawn(8)], [[first], [second]]);
});

test('C1: chat refuses what it cannot do, and a script ends with it', async () => {
  writeFileSync(out('mine.txt'), 'my notes');
  writeFileSync(out('wrong.json'), '[{"content":"no role"}]');
  writeFileSync(out('cut.json'), '[{"content"');
  for (const [args, input, code, said] of [
    [[tale], 'x', 3, /e2e-llama-text has no chat template: give one with --template FILE, or let a text go on: heddle generate /],
    [[tale, '--template', out('absent.jinja')], 'x', 3, /absent\.jinja/],
    [[tale, '--template', 'tool_use'], 'x', 3, /neither a template's text nor one of the model's templates/],
    [[tale, '--template', bare, '--set', 'x'], 'x', 2, /--set: expected NAME=VALUE, found 'x'/],
    [[tale, '--template', bare], '/rise', 2, /there is no \/rise; there are \/help, \/reset/],
    [[tale, '--template', bare], '/save', 2, /\/save FILE: which file\?/],
    [[tale, '--template', bare], `/save ${out('mine.txt')}`, 3, /mine\.txt is there already, and is no conversation/],
    [[tale, '--template', bare], `/load ${out('absent.json')}`, 3, /absent\.json/],
    [[tale, '--template', bare], `/load ${out('wrong.json')}`, 3, /wrong\.json: messages\[0\]\.role/],
    [[tale, '--template', bare], `/load ${out('cut.json')}`, 3, /cut\.json: /],
    [[encoder, '--template', bare], 'w1', 3, /makes no text; see embed and classify/],
  ]) {
    const result = await heddle(['chat', ...args], { input: `${input}\nnever said\n` });
    assert.equal(result.code, code, result.stderr);
    assert.match(result.stderr, said);
    assert.equal(result.stdout.trim(), '');
  }
  assert.equal(readFileSync(out('mine.txt'), 'utf8'), 'my notes');
});

/** Starts it with a pipe; `heard` tells what was printed so far. */
function start(args) {
  const child = spawn(process.execPath, [program, ...args]);
  let [stdout, stderr] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text) => (stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  const ended = new Promise((done) => child.on('exit', (code, signal) => done(code ?? signal)));
  const heard = async (is) => {
    for (const until = Date.now() + 20_000; !is({ stdout, stderr }); await new Promise((again) => setTimeout(again, 20))) assert.ok(Date.now() < until, `waited in vain: ${stdout.slice(-200)} ${stderr}`);
  };
  return { child, ended, heard, said: () => ({ stdout, stderr }) };
}

/** The same model with room for an answer that does not end by itself before anybody presses a key. */
const endless = out('endless');
before(() => {
  cpSync(tale, endless, { recursive: true });
  writeFileSync(join(endless, 'config.json'), JSON.stringify({ ...readJson(join(tale, 'config.json')), max_position_embeddings: 1 << 17 }));
});
const endlessly = ['chat', endless, '--template', roles, '--ignore-end'];

test('C1: chat: Ctrl-C stops an answer, which stays, and not the program; a second one leaves with 130', async () => {
  const { child, ended, heard, said } = start(endlessly);
  child.stdin.write('one\n');
  await heard(({ stdout }) => stdout.length > 40);
  child.kill('SIGINT');
  await heard(({ stderr }) => /\[stopped after \d+ tokens/.test(stderr));
  child.stdin.write(`/save ${out('stopped.json')}\n/stats\n`);
  await heard(({ stderr }) => /2 messages, \d+ tokens held/.test(stderr));
  const [, { content }] = readJson(out('stopped.json'));
  assert.equal(`${content}\n`, said().stdout, 'what was heard is what was said');
  child.kill('SIGINT');
  await heard(({ stderr }) => /Ctrl-C again leaves/.test(stderr));
  child.kill('SIGINT');
  assert.equal(await ended, 130, said().stderr);
});

/** Types into a terminal: waits for each pattern in turn, then sends the keys after it; prints what the terminal showed, then the exit code. */
const pythonTypist = `
import json, os, pty, re, select, sys, time
steps, command = json.loads(sys.argv[1]), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0: os.execvp(command[0], command)
shown, at = b'', 0
for pattern, keys in steps:
    until = time.time() + 30
    while not re.search(pattern.encode(), shown[at:]):
        if time.time() > until: os.kill(pid, 9); sys.exit('waited in vain for %s: %r' % (pattern, shown))
        if select.select([fd], [], [], 0.1)[0]:
            try: shown += os.read(fd, 65536)
            except OSError: sys.exit('ended before %s: %r' % (pattern, shown))
    at = len(shown)
    os.write(fd, keys.encode())
try:
    while True:
        piece = os.read(fd, 65536)
        if not piece: break
        shown += piece
except OSError: pass
status = os.waitpid(pid, 0)[1]
print(json.dumps({'shown': shown.decode('utf8', 'replace'), 'code': os.waitstatus_to_exitcode(status)}))`;

function typed(steps, args) {
  return new Promise((done) => execFile('python3', ['-c', pythonTypist, JSON.stringify(steps), process.execPath, program, ...args], { maxBuffer: 1 << 26 }, (error, stdout, stderr) => done({ error, stderr, ...(stdout && JSON.parse(stdout)) })));
}

test('C1: chat at a terminal: a prompt, pasted lines as one message, what went wrong is said and it goes on, Ctrl-C, Ctrl-D', { skip: process.platform === 'win32' && 'Windows has no pty' }, async (t) => {
  const conversation = out('typed.json');
  const at = String.raw`> \x1b\[3G$`; // the prompt, and the cursor behind it
  const { error, stderr, shown, code } = await typed([
    [at, 'one\r'],
    ['assistant|.{40}', '\u0003'], // stops the endless answer
    [String.raw`stopped after[\s\S]*${at}`, '/rise\r'],
    [String.raw`no /rise[\s\S]*${at}`, 'two\rlines\r'],
    ['.{40}', '\u0003'],
    [String.raw`stopped after[\s\S]*${at}`, `/save ${conversation}\r`],
    [String.raw`4 messages are in[\s\S]*${at}`, 'never sent\u0003'], // wipes the line
    [at, '\u0003'],
    [String.raw`Ctrl-C again leaves[\s\S]*${at}`, '/stats\r'], // a line in between: the next one is a first one again
    [String.raw`tokens held[\s\S]*${at}`, '\u0004'],
  ], endlessly);
  if (error?.code === 'ENOENT') return t.skip('there is no python3');
  assert.equal(error, null, stderr);
  assert.equal(code, 0, shown);
  assert.match(shown, /\/help lists what else there is/);
  assert.deepEqual(readJson(conversation).map(({ role, content }) => (role === 'user' ? content : role)), ['one', 'assistant', 'two\nlines', 'assistant']);
});
