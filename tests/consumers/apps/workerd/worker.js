import { HeddleError, init } from 'heddle/edge';
import module from 'heddle/wasm/heddle-simd128.wasm';
import bundle from 'models/dense_relu.bundle.json';
import config from 'models/config.json';
import tokenizer from 'models/tokenizer.json';
import tokenizerConfig from 'models/tokenizer_config.json';
import weights from 'models/model.safetensors';

const runtime = await init(module);

export default {
  async fetch(request) {
    const { pathname } = new URL(request.url);
    try {
      if (pathname === '/forward') {
        const network = await runtime.loadModel(bundle);
        const output = await network.forward(await request.json());
        await network.free();
        return Response.json([...output]);
      }
      if (pathname === '/story') {
        const model = await runtime.loadModel({ 'config.json': config, 'tokenizer.json': tokenizer, 'tokenizer_config.json': tokenizerConfig, 'model.safetensors': weights });
        const story = model.generate(await request.text(), { maxTokens: 24 });
        const text = await story.text();
        await model.free();
        return Response.json({ text, tokens: story.usage.tokens });
      }
      if (pathname === '/broken') await runtime.loadModel(await request.text());
      return new Response('not found', { status: 404 });
    } catch (error) {
      if (!(error instanceof HeddleError)) throw error;
      return Response.json({ code: error.code, message: error.message }, { status: 400 });
    }
  },
};
