import { HeddleError, init as initHere } from 'heddle';
import { init as initInWorker } from 'heddle/worker';

const where = new URLSearchParams(location.search).get('where');

try {
  const runtime = where === 'worker' ? await initInWorker({ threads: 2 }) : await initHere();
  const model = await runtime.loadModel('/models/story/');
  const story = model.generate('Once upon a time', { maxTokens: 24 });
  const text = await story.text();
  const network = await runtime.loadModel('/models/dense_relu.bundle.json');
  const output = await network.forward([-1.3482, 1.0796, 0.3358, 1.8424, 0.4032, 1.5665, 0.1431]);
  report({ text, tokens: story.usage.tokens, output: [...output], threads: model.threads });
} catch (error) {
  report({ error: `${error instanceof HeddleError ? error.code : error.name}: ${error.message}` });
}

function report(value) {
  document.querySelector('#report').textContent = JSON.stringify(value);
}
