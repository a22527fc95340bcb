/**
 * What the bench runs in a page, one engine each: loads the weights from memory, warms up, and generates once. Functions that are sent
 * to the page as text: they see nothing but their argument.
 *
 * Both take { file, threads, prompt, warmUp, nTokens, … } and give { loadMs, prefillMs, decodeMs, tokens, wallMs }: prefillMs for the
 * whole prompt, decodeMs for the nTokens − 1 forwards after it, as the engine counts them; wallMs is the page's clock over both.
 */

/** Heddle: `variant`, and `dtype` for what weights become while they stream in. */
export async function runHeddle({ file, config, variant, dtype, threads, prompt, warmUp, nTokens }) {
  const { init } = await import('/heddle/worker.js');
  const blob = new Blob([await (await fetch(file)).arrayBuffer()]);
  const start = performance.now();
  const runtime = await init({ variant, threads, log: () => undefined });
  const model = await runtime.loadModel({ 'config.json': config, 'model.safetensors': blob }, { dtype, context: 256 });
  const loadMs = performance.now() - start;
  const generate = async (tokens, maxTokens) => {
    const generation = model.generate(tokens, { maxTokens });
    const made = [];
    for await (const { token } of generation) made.push(token);
    return { made, usage: generation.usage };
  };
  await generate(prompt.slice(0, warmUp.prefill), warmUp.decode);
  const from = performance.now();
  const { made, usage } = await generate(prompt, nTokens);
  const wallMs = performance.now() - from;
  const { heap } = await model.memory();
  const result = {
    loadMs, wallMs, tokens: made, prefillMs: usage.prefillSeconds * 1000, decodeMs: (usage.tokens / usage.tokensPerSecond) * 1000,
    threads: model.threads, variant: runtime.variant, heap,
  };
  await runtime.free();
  return result;
}

/** wllama 3: its processors only, no warming up of its own while it loads, one sequence. `prompt` is text here. */
export async function runWllama({ file, threads, prompt, promptTokens, warmUp, nTokens }) {
  const { Wllama } = await import('/wllama/index.js');
  const blob = new Blob([await (await fetch(file)).arrayBuffer()]);
  const start = performance.now();
  const engine = new Wllama({ default: '/wllama/wasm/wllama.wasm' }, { suppressNativeLog: true });
  await engine.loadModel([blob], { n_ctx: 256, n_threads: threads, n_gpu_layers: 0, n_parallel: 1, warmup: false });
  const loadMs = performance.now() - start;
  const generate = (text, maxTokens) => engine.createCompletion({
    prompt: text, max_tokens: maxTokens, temperature: 0, top_k: 1, ignore_eos: true, cache_prompt: false,
  });
  await generate(Array.from(prompt).slice(0, warmUp.prefill).join(''), warmUp.decode);
  const from = performance.now();
  const { choices, timings, usage } = await generate(prompt, nTokens);
  const wallMs = performance.now() - from;
  if (timings.prompt_n !== promptTokens || timings.predicted_n !== nTokens) throw new Error(`wllama counted ${JSON.stringify({ timings, usage })}`);
  const result = { loadMs, wallMs, text: choices[0].text, prefillMs: timings.prompt_ms, decodeMs: timings.predicted_ms, threads: engine.getNumThreads() };
  await engine.exit();
  return result;
}
