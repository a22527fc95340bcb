/** A thread of the pool for threads.test.mjs: the package's own program, with a stack so small that the first kernel which needs one traps. */
const { Instance } = WebAssembly;

WebAssembly.Instance = function TrappingInstance(module, imports) {
  const { exports } = new Instance(module, imports);
  const enter = (thread) => {
    exports.__stack_pointer.value = 64;
    exports.w_pool_enter(thread);
  };
  return { exports: { ...exports, w_pool_enter: enter } };
};

const packageFolder = process.env.HEDDLE_PACKAGE ?? new URL('../..', import.meta.url).pathname;
await import(new URL('dist/pool-worker.js', `file://${packageFolder}/`).href);
