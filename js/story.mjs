/**
 * Tells one story in the terminal, with the model that comes with Heddle.
 *
 *   node js/story.mjs [how it begins]
 */
import { fileURLToPath } from 'node:url';
import { init } from 'heddle';

const beginning = process.argv.slice(2).join(' ') || 'Once upon a time';

const runtime = await init();
const model = await runtime.loadModel(fileURLToPath(new URL('../demo/models/story', import.meta.url)));

const story = model.generate(beginning);
process.stdout.write(`\n${beginning}`);
for await (const { text } of story) process.stdout.write(text);

const { tokens, tokensPerSecond } = story.usage;
const { heap } = await model.memory();
console.log(`\n\n${tokens} tokens, ${Math.round(tokensPerSecond)} a second (${runtime.variant}, ${model.threads} thread${model.threads === 1 ? '' : 's'}, ${(heap / 2 ** 20).toFixed(1)} MB)`);
await model.free();
